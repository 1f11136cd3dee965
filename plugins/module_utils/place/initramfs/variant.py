# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""initramfs variants: a new file beside the shipped image, named as that with ``.`` and a number, with a
driver in it.

The shipped image is never written. A variant is told by its manifest, kept while that says that it was made
of the same things, and made again, under its number, when the distribution has made its image anew or the
driver has changed.
"""

import hashlib
from typing import Any, Container, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from ...errors import KmodError
from ...host import Host
from ...lock import scratch
from ...plan import Change, Command, Content, File, Plan
from ...read import ko, names
from ...read.kernel_module import KernelModule
from .. import depmod, loading
from ..boot import shipped as shipped_entry
from ..boot import withdraw
from ..boot.menu import Entry
from . import early, existing, image, manifest, needs, overlay, rebuild, room, tpm, witness
from .kept import Kept
from .manifest import Added, Base, EarlyLoad, Variant, Wants


class Recipe(NamedTuple):
    """What a variant is to be: see the options of the module initrd_variant.

    ``each``: a kernel that has modules of some of the drivers gets a variant with those.
    """

    drivers: Tuple[str, ...]
    modules: Tuple[str, ...] = ()  # files on the host; none: those that the kernel has of the drivers
    method: str = "auto"
    early_load: EarlyLoad = False
    ignore_tpm: bool = False
    each: bool = False

    def of(self, host: Host, release: str) -> "Recipe":
        """What it is for one kernel."""
        several = self.each and len(self.drivers) > 1
        its = existing.drivers_of(host, release, self.drivers) if several else ()
        return self._replace(drivers=its) if its else self


class Made(NamedTuple):
    """A variant of one kernel that is there, or is made.

    Of a rebuild the last four are known once it is applied.
    """

    path: str
    status: str  # current, created or replaced
    wants: Wants
    method: str
    size: int = 0
    sha256: str = ""
    added: Optional[Added] = None
    phases: Tuple[rebuild.Phase, ...] = ()

    @property
    def kernel(self) -> str:
        return self.wants.kernel

    @property
    def initrds(self) -> Tuple[str, ...]:
        """What a boot entry loads, in that order."""
        return existing.loaded(self.path, self.wants.base.path, self.method)

    def as_dict(self) -> Dict[str, Any]:
        wants, alone = self.wants, self.method == "segment"
        row = {
            "kernel": self.kernel,
            "drivers": list(wants.drivers),
            "base": wants.base.path,
            "early_load": bool(wants.early_load),
            "path": self.path,
            "status": self.status,
            "base_sha256": wants.base.sha256,
            "method": self.method,
            "initrds": list(self.initrds),
            "sha256": self.sha256,
            "size": self.size,
            "bytes_added": self.size if alone or not self.size else self.size - wants.base.size,
        }
        row.update({"phases": [dict(phase._asdict()) for phase in self.phases]} if self.phases else {})
        row.update(self.added.as_dict() if self.added else {})
        return row


class Touched(NamedTuple):
    """A variant that is removed, or possible; or the place of one that somebody else's file has by now
    (foreign).
    """

    kernel: str
    path: str
    status: str

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict())


class GivenBack(NamedTuple):
    """An entry that boots started until now, and that starts a variant which is replaced."""

    path: str  # of the variant
    entry: str  # its title


class Variants(NamedTuple):
    """What a plan does about variants, in rows; what was found out by applying it goes into ``applied``."""

    rows: Tuple[Union[Made, Touched], ...] = ()
    pruned: Tuple[str, ...] = ()
    given_back: Tuple[GivenBack, ...] = ()  # the default that was before is back first
    foreign: Tuple[str, ...] = ()  # paths where a variant was and somebody else's file is now

    def applied(self, found: Mapping[str, Any]) -> "Variants":
        """With what ``Plan.apply`` answered."""
        built = {path: fact for path, fact in found.items() if isinstance(fact, rebuild.Rebuilt)}
        return self._replace(
            rows=tuple(
                row._replace(**built[row.path]._asdict()) if row.path in built else row for row in self.rows
            )
        )

    def as_dict(self) -> Dict[str, Any]:
        answer: Dict[str, Any] = {
            "variants": [row.as_dict() for row in self.rows],
            "pruned": list(self.pruned),
        }
        answer.update(
            {"given_back": [dict(each._asdict()) for each in self.given_back]} if self.given_back else {}
        )
        answer.update({"foreign": list(self.foreign)} if self.foreign else {})
        return answer


def present(
    host: Host, recipe: Recipe, kernels: Sequence[str] = (), *, before: Optional[Plan] = None
) -> Tuple[Plan, Variants]:
    """A variant for each of the kernels, by default for all that have the drivers; those of kernels that are
    gone are removed, and with ``each`` those of kernels that have the drivers no longer.

    Where a variant that boots start is replaced, the default that was before is back first. Where variants of
    several recipes are planned in one go, ``before`` is what is planned of the others already: they do not
    get one name.
    """
    _check_drivers(recipe.drivers)
    made, rows = Plan(host), []
    there = existing.found(host)
    for release in kernels or existing.having(host, recipe.drivers, recipe.each):
        if not names.is_release(release):
            raise KmodError(
                release,
                "is not a release that a kernel can have",
                "Name kernels as uname -r does",
                "RELEASE_NAME",
            )
        steps, row = plan(
            host, release, recipe.of(host, release), taken=before.planned if before else (), there=there
        )
        made.extend(steps)
        rows.append(row)
    # an entry may start what is not there, too
    written = [row.path for row in rows if row.status != "current"]
    chosen: List[GivenBack] = []
    for path in written:
        chosen += [
            GivenBack(path, entry.title) for entry in shipped_entry.starting(host, path) if entry.chosen
        ]
    pruned = _prunable(host, recipe, there) if not kernels else []
    whole = _for_good(withdraw.give_back(host, written)) if chosen else Plan(host)
    whole.extend(_removal(host, pruned))
    foreign = []
    for path, mark in existing.marks_alone(host):
        if path not in written and set(mark.wants.drivers) & set(recipe.drivers):
            # left by a run that was cut off; or what lies there now is somebody else's
            whole.put(witness.path_of(path), None)
            foreign += [path] if host.lstat(path) is not None else []
    whole.extend(made)
    room.check(host, whole)
    return whole, Variants(
        tuple(rows), tuple(variant.path for variant in pruned), tuple(chosen), tuple(foreign)
    )


def absent(
    host: Host, drivers: Sequence[str], kernels: Sequence[str] = (), *, entries: str = "refuse"
) -> Tuple[Plan, Variants]:
    """Remove the variants with any of the drivers, of the named kernels or of all.

    ``entries``: "remove" takes along the entries of ours that start them. Error: VARIANT_STARTED.
    """
    _check_drivers(drivers)
    gone = [
        variant
        for variant in existing.holding(host, drivers)
        if not kernels or variant.wants.kernel in kernels
    ]
    steps = _removal(host, gone, entries == "remove")
    rows = [Touched(variant.wants.kernel, variant.path, status="removed") for variant in gone]
    for path, mark in existing.marks_alone(host):
        if set(drivers) & set(mark.wants.drivers) and (not kernels or mark.wants.kernel in kernels):
            steps.put(witness.path_of(path), None)
            if host.lstat(path) is not None:
                rows.append(Touched(mark.wants.kernel, path, status="foreign"))
    return steps, Variants(tuple(rows))


def superseded(host: Host, recipe: Recipe, known: Container[str]) -> Plan:
    """Plan that the variants go in whose place others of the recipe have come: of the same kernels, with other
    drivers, all of them ``known``. Those that a boot entry starts stay.
    """
    there = existing.holding(host, recipe.drivers)
    if len(there) == len({each.wants.kernel for each in there}):
        return Plan(host)
    wanted = {kernel: each.wants.drivers for kernel, each in existing.of_each(host, recipe.drivers).items()}
    return _removal(
        host,
        [
            each
            for each in there
            if each.wants.drivers != wanted[each.wants.kernel]
            and all(driver in known for driver in each.wants.drivers)
            and not shipped_entry.starting(host, each.path)
        ],
    )


def possible(host: Host, recipe: Recipe, kernels: Sequence[str]) -> Tuple[Plan, Variants]:
    """That each of the kernels has an image that a variant can be made of as it is asked for, with room for
    it, and would start with that.

    Images of which there is a variant with the drivers are not read again. The plan is empty. Errors: those
    of ``image.shipped``, ``image.read``, ``tpm.check``, ``way``, ``early.load`` and ``room.check``.
    """
    rows, whole = [], Plan(host)
    had = {each.base for each in existing.found(host) if set(recipe.drivers) <= set(each.wants.drivers)}
    if kernels and not recipe.ignore_tpm:
        tpm.check(host)
    for release in kernels:
        path = image.shipped(host, release)
        rows.append(Touched(release, path, status="possible"))
        if path not in had:
            shipped = image.read(host, path)
            method = way(shipped, release, recipe.method)
            if recipe.early_load:
                early.load(shipped, recipe.drivers, [])
            size = shipped.size if method != "segment" else 0
            whole.put(
                room.free_name(host, path),
                File(Content(size, "", tuple), shipped.mode, shipped.owner),
                keep=False,
            )
    room.check(host, whole)
    return Plan(host), Variants(tuple(rows))


def _check_drivers(drivers: Sequence[str]) -> None:
    for driver in drivers:
        names.check_driver(driver)


def _removal(host: Host, variants: Sequence[Variant], with_entries: bool = True) -> Plan:
    """Plan that these variants are gone, and no entry names them by then.

    Error: VARIANT_STARTED, naming the entries that are in the way.
    """
    started: List[Tuple[Variant, Entry]] = []
    for variant in variants:
        started += [(variant, entry) for entry in shipped_entry.starting(host, variant.path)]
    in_the_way = [each for each in started if each[1].driver is None or not with_entries]
    if in_the_way:
        theirs = any(entry.driver is None for _variant, entry in in_the_way)
        raise KmodError(
            in_the_way[0][0].path,
            "is started by boot entries: %s" % "; ".join(_told(entry) for _variant, entry in in_the_way),
            "Take those that are not of this collection out yourself"
            if theirs
            else "Remove them first (grub_entry, state: absent), or along with it (entries: remove)",
            "VARIANT_STARTED",
        )
    steps = (
        _for_good(withdraw.without(host, [variant.path for variant in variants])) if started else Plan(host)
    )
    for variant in variants:
        steps.put(variant.path, None, keep=False)
        steps.put(witness.path_of(variant.path), None, keep=False)
    return steps


def _told(entry: Entry) -> str:
    how = " and ".join({"default": "the default", "once": "the next boot"}[each] for each in entry.chosen)
    return "%r in %s%s" % (entry.title, entry.path, ", which is %s" % how if how else "")


def _for_good(plan: Plan) -> Plan:
    """The plan with nothing of it to be taken back: an image that was removed or replaced must not be started
    again when a later step fails.
    """
    plan.steps = [
        step._replace(keep=False)
        if isinstance(step, Change)
        else step._replace(inverse=None)
        if isinstance(step, Command)
        else step
        for step in plan.steps
    ]
    return plan


def _prunable(host: Host, recipe: Recipe, there: Sequence[Variant]) -> List[Variant]:
    """The variants whose kernel is gone, or (``each``) has none of their drivers any more; not those that
    somebody else's entry starts.
    """
    ours = [variant for variant in there if set(recipe.drivers) & set(variant.wants.drivers)]
    gone = [
        variant
        for variant in ours
        if existing.gone(host, variant)
        or (recipe.each and not existing.drivers_of(host, variant.wants.kernel, variant.wants.drivers))
    ]
    return [
        variant
        for variant in gone
        if all(entry.driver for entry in shipped_entry.starting(host, variant.path))
    ]


def plan(
    host: Host,
    release: str,
    recipe: Recipe,
    *,
    taken: Container[str] = (),
    there: Optional[Sequence[Variant]] = None,
) -> Tuple[Plan, Made]:
    """The variant of one kernel; ``taken`` are paths that another plan gives files to, ``there`` the variants that
    were found.
    """
    paths = recipe.modules or depmod.linked(host, release, recipe.drivers)
    if not paths:
        raise KmodError(
            "/lib/modules/" + release,
            "has no module of %s" % " and ".join(recipe.drivers),
            "Link the driver into it (kmod_link)",
            "DRIVER_MISSING",
        )
    base = image.shipped(host, release)
    modules = sorted((_read(host, path) for path in paths), key=lambda module: (module.name, module.path))
    wants = Wants(
        release,
        tuple(sorted(recipe.drivers)),
        _early(recipe),
        tuple((module.name, module.sha256) for module in modules),
        Base(base, 0, ""),
        needed=needs.replaceable(host, release, modules, loading.softdeps(host, recipe.drivers)),
        configured=tuple(
            (path, hashlib.sha256(data).hexdigest())
            for path, data in loading.configured(host, recipe.drivers).items()
        ),
    )
    old = next(
        (
            variant
            for variant in (existing.found(host) if there is None else there)
            if variant.base == base and variant.wants.drivers == wants.drivers
        ),
        None,
    )
    unchanged = _unchanged(host, old, wants, method=recipe.method) if old else None
    if unchanged:
        return unchanged
    if not recipe.ignore_tpm:
        tpm.check(host)
    path = old.path if old else room.free_name(host, base, taken)
    steps = Plan(host)
    with scratch() as directory:
        kept = Kept(directory, release)
        shipped = image.read(host, base, kept.wanted)
        wants = wants._replace(base=Base(base, shipped.size, shipped.sha256))
        if old and not old.tail:
            # by its mark alone it is ours, and that is about to be another one
            steps.put(old.path, None, keep=False)
        row = Made(
            path,
            status="replaced" if old else "created",
            wants=wants,
            method=way(shipped, release, recipe.method),
        )
        if row.method == "rebuild":
            content = rebuild.content(host, wants, modules, shipped=shipped)
            mark = witness.Mark(wants, row.method)
        else:
            made = overlay.build(host, wants, modules, image=shipped, kept=kept, method=row.method)
            chunks = made.chunks if row.method == "segment" else lambda: overlay.appended(host, base, made)
            row = row._replace(
                size=made.size + (shipped.size if row.method == "overlay" else 0),
                sha256=made.digest.hexdigest(),
                added=made.added,
            )
            content = Content(row.size, row.sha256, chunks, binary=True)
            mark = witness.of(wants, row.method, row.size, digest=made.digest)
        steps.put(witness.path_of(path), File(Content.of(mark.text), witness.MODE))
        steps.put(path, File(content, shipped.mode, shipped.owner), keep=old is None)
        if row.method == "rebuild":  # what bears witness to it can be said once it is there
            steps.put(
                witness.path_of(path),
                File(Content(0, "", lambda: (witness.written(host, path),), binary=True), witness.MODE),
            )
    return steps, row


def _early(recipe: Recipe) -> EarlyLoad:
    """Which drivers are loaded at once: True for all, False for none."""
    if isinstance(recipe.early_load, bool):
        return recipe.early_load
    early = tuple(sorted(set(recipe.early_load) & set(recipe.drivers)))
    return early if 0 < len(early) < len(set(recipe.drivers)) else bool(early)


def _unchanged(host: Host, old: Variant, wants: Wants, *, method: str) -> Optional[Tuple[Plan, Made]]:
    """The plan for a variant that is what is wanted: nothing, or a mark that it lacks.

    None where it has to be made again.
    """
    size, sha256 = image.checksum(host, wants.base.path)
    if old.wants != wants._replace(base=Base(wants.base.path, size, sha256)) or method not in (
        "auto",
        old.method,
    ):
        return None
    whole = manifest.checked(host, old)
    if not whole:
        return None
    steps = Plan(host)
    mark = witness.find(host, old.path)
    if mark is None or (mark.size, mark.sha256) != (old.size, whole):
        steps.put(witness.path_of(old.path), File(Content.of(witness.for_file(host, old).text), witness.MODE))
    return steps, Made(
        old.path,
        status="current",
        wants=old.wants,
        method=old.method,
        size=old.size,
        sha256=whole,
        added=old.added,
    )


def _read(host: Host, path: str) -> KernelModule:
    module = ko.read(host, path)
    if module.vermagic is None:
        why = module.faults[0].message if module.faults else "it has no vermagic"
        raise KmodError(path, "is not a kernel module: " + why, "Copy the file again", "MODULE_BAD")
    if not names.is_module(module.name):  # it becomes a word in scripts, and an argument of tools
        raise KmodError(
            path,
            "cannot be loaded as %r: that is not a module's name" % module.name[:80],
            "Build it with the kernel's build system",
            "MODULE_NAME",
        )
    return module


def way(shipped: image.Image, release: str, method: str) -> str:
    """The method by which a variant of an image is made where ``method`` is asked for.

    Errors: those of ``overlay.obstacle``.
    """
    against = overlay.obstacle(shipped, release)
    # a rebuild would be a squash again
    if against and (method not in ("auto", "rebuild") or against.code == "INITRD_SQUASH"):
        raise against
    return method if method != "auto" else "rebuild" if against else "overlay"
