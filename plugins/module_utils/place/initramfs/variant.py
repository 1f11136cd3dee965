# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""initramfs variants: a new file beside the shipped image, named as that with ``.`` and a number, with a driver in it.

The shipped image is never written. A variant is told by its manifest, kept while that says that it was made of the same things, and made
again, under its number, when the distribution has made its image anew or the driver has changed.
"""
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError, SystemFailed
from ...host import Host
from ...lock import scratch
from ...plan import Change, Command, Content, File, Plan
from ...read import ko, names
from ...read.kernel_module import KernelModule
from ...read.kernels import version_key
from .. import depmod
from ..boot import entry as boot_entry
from ..boot import shipped as shipped_entry
from ..boot.menu import Entry
from . import image, manifest, overlay, parts, rebuild, sealed, witness
from .manifest import NUMBERED, Variant

SLACK = 1 << 20  # left free on /boot


class Request(NamedTuple):
    """What a variant is to be: see the options of the module initrd_variant."""

    drivers: Tuple[str, ...]
    modules: Tuple[str, ...] = ()  # files on the host; none: those that the kernel has of the drivers
    method: str = "auto"
    early_load: bool = False
    ignore_tpm: bool = False


def requested(host: Host, params: Dict[str, Any]) -> Tuple[Plan, Dict[str, Any]]:
    """What the module initrd_variant does with its options."""
    if params["state"] == "absent":
        return absent(host, params["driver"], params["kernels"], params["entries"])
    request = Request(tuple(params["driver"]), tuple(params["modules"]), params["method"], params["early_load"], params["ignore_tpm"])
    return present(host, request, params["kernels"])


def present(host: Host, request: Request, kernels: Sequence[str] = ()) -> Tuple[Plan, Dict[str, Any]]:
    """A variant for each of the kernels, by default for all that have the drivers; those of kernels that are gone are removed.

    The result: ``{"variants": [row], "pruned": [path]}``; a row is that of ``plan``. Where a variant that boots start is replaced, the default
    that was before is back first, and ``given_back`` names the entries: ``{"path": variant, "entry": title}``. ``foreign`` are paths where a
    variant was and somebody else's file is now.
    """
    _check_drivers(request.drivers)
    made, rows = Plan(host), []
    for release in kernels or having(host, request.drivers):
        if not names.is_release(release):
            raise KmodError(release, "is not a release that a kernel can have", "Name kernels as uname -r does", "RELEASE_NAME")
        modules = request.modules or depmod.linked(host, release, request.drivers)
        if not modules:
            raise KmodError("/lib/modules/" + release, "has no module of %s" % " and ".join(request.drivers), "Link the driver into it (kmod_link)",
                            "DRIVER_MISSING")
        steps, row = plan(host, release, modules, request)
        made.extend(steps)
        rows.append(row)
    written = [row["path"] for row in rows if row["status"] != "current"]  # an entry may start what is not there, too
    chosen = [(path, entry) for path in written for entry in shipped_entry.starting(host, path) if entry.chosen]
    pruned = _prunable(host, request.drivers) if not kernels else []
    whole = _for_good(boot_entry.give_back(host, written)) if chosen else Plan(host)
    whole.extend(_removal(host, pruned))
    foreign = []
    for path, mark in _marks_alone(host):
        if path not in written and set(mark.wants["drivers"]) & set(request.drivers):
            whole.put(witness.path_of(path), None)  # left by a run that was cut off; or what lies there now is somebody else's
            foreign += [path] if host.lstat(path) is not None else []
    whole.extend(made)
    room(host, whole)
    result: Dict[str, Any] = {"variants": rows, "pruned": [variant.path for variant in pruned]}
    result.update({"given_back": [{"path": path, "entry": entry.title} for path, entry in chosen]} if chosen else {})
    result.update({"foreign": foreign} if foreign else {})
    return whole, result


def absent(host: Host, drivers: Sequence[str], kernels: Sequence[str] = (), entries: str = "refuse") -> Tuple[Plan, Dict[str, Any]]:
    """Remove the variants with any of the drivers, of the named kernels or of all. The result is that of ``present``.

    ``entries``: "remove" takes along the entries of ours that start them. Error: VARIANT_STARTED.
    """
    _check_drivers(drivers)
    gone = [variant for variant in _with(host, drivers) if not kernels or variant.wants["kernel"] in kernels]
    steps = _removal(host, gone, entries == "remove")
    rows = [{"kernel": variant.wants["kernel"], "path": variant.path, "status": "removed"} for variant in gone]
    for path, mark in _marks_alone(host):
        if set(drivers) & set(mark.wants["drivers"]) and (not kernels or mark.wants["kernel"] in kernels):
            steps.put(witness.path_of(path), None)
            if host.lstat(path) is not None:
                rows.append({"kernel": mark.wants["kernel"], "path": path, "status": "foreign"})
    return steps, {"variants": rows, "pruned": []}


def _check_drivers(drivers: Sequence[str]) -> None:
    for driver in drivers:
        names.check_driver(driver)


def _removal(host: Host, variants: Sequence[Variant], with_entries: bool = True) -> Plan:
    """Plan that these variants are gone, and no entry names them by then. Error: VARIANT_STARTED, naming the entries that are in the way."""
    started = [(variant, entry) for variant in variants for entry in shipped_entry.starting(host, variant.path)]
    in_the_way = [each for each in started if each[1].driver is None or not with_entries]
    if in_the_way:
        theirs = any(entry.driver is None for _variant, entry in in_the_way)
        raise KmodError(in_the_way[0][0].path, "is started by boot entries: %s" % "; ".join(_told(entry) for _variant, entry in in_the_way),
                        "Take those that are not of this collection out yourself" if theirs else
                        "Remove them first (grub_entry, state: absent), or along with it (entries: remove)", "VARIANT_STARTED")
    steps = _for_good(boot_entry.without(host, [variant.path for variant in variants])) if started else Plan(host)
    for variant in variants:
        steps.put(variant.path, None, keep=False)
        steps.put(witness.path_of(variant.path), None, keep=False)
    return steps


def _told(entry: Entry) -> str:
    how = " and ".join({"default": "the default", "once": "the next boot"}[each] for each in entry.chosen)
    return "%r in %s%s" % (entry.title, entry.path, ", which is %s" % how if how else "")


def _for_good(plan: Plan) -> Plan:
    """The plan with nothing of it to be taken back: an image that was removed or replaced must not be started again when a later step fails."""
    plan.steps = [step._replace(keep=False) if isinstance(step, Change) else step._replace(inverse=None) if isinstance(step, Command) else step
                  for step in plan.steps]
    return plan


def _prunable(host: Host, drivers: Sequence[str]) -> List[Variant]:
    """The variants whose kernel is gone; not those that somebody else's entry starts."""
    return [variant for variant in _with(host, drivers)
            if gone(host, variant) and all(entry.driver for entry in shipped_entry.starting(host, variant.path))]


def plan(host: Host, release: str, modules: Sequence[str], request: Request) -> Tuple[Plan, Dict[str, Any]]:
    """The variant of one kernel with the module files in it.

    The row: kernel, drivers, base, base_sha256, early_load, path, status (current, created or replaced), method, initrds (what a boot entry
    loads, in that order), sha256, size, bytes_added, and what was added: modules, dependencies, firmware, firmware_missing, mark. Of a rebuild
    digest, sizes, contents and ``phases`` are known once the plan is applied.
    """
    base = image.shipped(host, release)
    parsed = sorted((_read(host, path) for path in modules), key=lambda module: (module.name, module.path))
    wants: Dict[str, Any] = {"kernel": release, "drivers": sorted(request.drivers), "early_load": request.early_load,
                             "modules": [[module.name, module.sha256] for module in parsed]}
    row: Dict[str, Any] = {"kernel": release, "drivers": wants["drivers"], "base": base, "early_load": request.early_load}
    steps = Plan(host)
    old = next((variant for variant in found(host) if variant.base == base and variant.wants["drivers"] == wants["drivers"]), None)
    if old:
        size, sha256 = image.checksum(host, base)
        if old.wants == dict(wants, base={"path": base, "size": size, "sha256": sha256}) and request.method in ("auto", old.method):
            whole = manifest.checked(host, old)
            if whole:
                mark = witness.find(host, old.path)
                if mark is None or (mark.size, mark.sha256) != (old.size, whole):
                    steps.put(witness.path_of(old.path), File(Content.of(witness.for_file(host, old).text), witness.MODE))
                made = _made(old.wants, old.path, old.method, whole, old.size)
                return steps, dict(row, base_sha256=sha256, path=old.path, status="current", **made, **dict({"mark": ""}, **old.contents))
    if not request.ignore_tpm:
        sealed.check(host)
    row.update(path=old.path if old else free_name(host, base), status="replaced" if old else "created")
    with scratch() as directory:
        store = parts.Store(directory, release)
        shipped = image.read(host, base, store.wanted)
        wants["base"] = {"path": base, "size": shipped.size, "sha256": shipped.sha256}
        row["base_sha256"] = shipped.sha256
        if old and not old.tail:
            steps.put(old.path, None, keep=False)  # by its mark alone it is ours, and that is about to be another one
        for content, is_mark in _content(host, shipped, parsed, store, wants, request.method, row):
            if is_mark:
                steps.put(witness.path_of(row["path"]), File(content, witness.MODE))
            else:
                steps.put(row["path"], File(content, shipped.mode, shipped.owner), keep=old is None)
    return steps, row


def _content(host: Host, shipped: image.Image, modules: Sequence[KernelModule], store: parts.Store, wants: Dict[str, Any], method: str,
             row: Dict[str, Any]) -> Iterator[Tuple[Content, bool]]:
    """What is written, in that order, and whether that is a mark: the variant by the method that was asked for, and what bears witness to it.

    ``auto`` rebuilds what no overlay can be put on.
    """
    method = way(shipped, wants["kernel"], method)
    if method == "rebuild":
        written: List[image.Digest] = []
        row.update(_made(wants, row["path"], method, "", 0), bytes_added=0)
        built = rebuild.content(host, shipped, modules, wants, row, written)
        yield Content.of(witness.Mark(wants, method).text), True
        yield built, False
        yield Content(0, "", lambda: (witness.of(wants, method, row["size"], written[0]).text,), binary=True), True
        return
    made = overlay.build(host, wants["kernel"], modules, shipped, store, wants, method)
    size = made.size + (shipped.size if method == "overlay" else 0)
    row.update(_made(wants, row["path"], method, made.digest.hexdigest(), size), **made.contents)
    yield Content.of(witness.of(wants, method, size, made.digest).text), True
    chunks = made.chunks if method == "segment" else lambda: overlay.appended(host, shipped.path, made)
    yield Content(size, made.digest.hexdigest(), chunks, binary=True), False


def _made(wants: Dict[str, Any], path: str, method: str, sha256: str, size: int) -> Dict[str, Any]:
    base = wants["base"]
    alone = method == "segment"
    return {"method": method, "initrds": [base["path"], path] if alone else [path], "sha256": sha256, "size": size,
            "bytes_added": size if alone else size - base["size"]}


def _read(host: Host, path: str) -> KernelModule:
    module = ko.read(host, path)
    if module.vermagic is None:
        why = module.faults[0].message if module.faults else "it has no vermagic"
        raise KmodError(path, "is not a kernel module: " + why, "Copy the file again", "MODULE_BAD")
    if not names.is_module(module.name):  # it becomes a word in scripts, and an argument of tools
        raise KmodError(path, "cannot be loaded as %r: that is not a module's name" % module.name[:80], "Build it with the kernel's build system",
                        "MODULE_NAME")
    return module


def way(shipped: image.Image, release: str, method: str) -> str:
    """The method by which a variant of an image is made where ``method`` is asked for. Errors: those of ``overlay.obstacle``."""
    against = overlay.obstacle(shipped, release)
    if against and (method not in ("auto", "rebuild") or against.code == "INITRD_SQUASH"):  # a rebuild would be a squash again
        raise against
    return method if method != "auto" else "rebuild" if against else "overlay"


def free_name(host: Host, base: str) -> str:
    """The smallest number at which nothing lies, nor in the place of the mark anything else than a mark."""
    if len(os.fsencode(os.path.basename(witness.path_of(base + ".100")))) > witness.NAME_MAX:
        raise KmodError(base, "has a name that is too long for another one to be made of it", "Give it a shorter name", "ENAMETOOLONG")
    number = 1
    while host.lstat("%s.%d" % (base, number)) is not None or _blocked(host, witness.path_of("%s.%d" % (base, number))):
        number += 1
    return "%s.%d" % (base, number)


def _blocked(host: Host, path: str) -> bool:
    return host.lstat(path) is not None and (host.is_link(path) or not host.is_file(path))


def room(host: Host, whole: Plan) -> None:
    """Refuse what does not fit, before anything is written: a full /boot is what kernel updates fail of. An old variant goes only after
    the new one is there."""
    needed: Dict[int, int] = {}
    for step in whole.steps:
        if isinstance(step, Change) and (isinstance(step.after, File) or isinstance(step.before, File) and step.after is None):
            directory = os.path.dirname(step.path)
            device = host.room(directory)[0]
            sizes = [node.content.size if isinstance(node, File) else 0 for node in (step.before, step.after)]
            needed[device] = needed.get(device, SLACK) + sizes[1]
            free = host.free(directory)
            if isinstance(step.after, File) and needed[device] > free:
                raise KmodError(step.path, "needs %d MiB, but %d MiB are free there" % (needed[device] + 0xfffff >> 20, free >> 20),
                                "Free space in %s, for instance of old kernels, or use method segment where the boot loader takes several images"
                                % directory, "BOOT_FULL")
            needed[device] -= sizes[0] if not step.keep else 0


# What is there

def found(host: Host) -> List[Variant]:
    """The variants of ours on the host, in the order of their paths; also what is left of one, if it bears a mark (see witness)."""
    variants = [_ours(host, path) for directory in image.directories(host) for path in _numbered(host, directory)]
    return [variant for variant in variants if variant]


def _numbered(host: Host, directory: str) -> List[str]:
    return [path for path in (directory + "/" + name for name in host.listdir(directory) if NUMBERED.match(name))
            if host.is_file(path) and not host.is_link(path)]


def _ours(host: Host, path: str) -> Optional[Variant]:
    variant = manifest.find(host, path)
    mark = None if variant else witness.find(host, path)
    return witness.remains(host, path, mark) if mark else variant


def _marks_alone(host: Host) -> List[Tuple[str, witness.Mark]]:
    """The marks beside which no variant lies: none at all any more, or yet, or somebody else's file."""
    marks = [each for directory in image.directories(host) for each in witness.all_in(host, directory)]
    return [(path, mark) for path, mark in marks if host.is_link(path) or not host.is_file(path) or not _ours(host, path)]


def _with(host: Host, drivers: Sequence[str]) -> List[Variant]:
    """The variants that hold any of the drivers."""
    return [variant for variant in found(host) if set(drivers) & set(variant.wants["drivers"])]


def images(host: Host, driver: str, kernels: Sequence[str] = ()) -> Dict[str, Tuple[str, ...]]:
    """What a boot entry loads for each kernel that has a variant with the driver (or each of the named ones), oldest kernel first."""
    made: Dict[str, Tuple[str, ...]] = {}
    for each in sorted(_with(host, [driver]), key=lambda each: -len(each.wants["drivers"])):  # one with this driver alone comes last
        if not kernels or each.wants["kernel"] in kernels:
            made[each.wants["kernel"]] = (each.base, each.path) if each.method == "segment" else (each.path,)
    for release in kernels:
        if release not in made:
            raise KmodError(release, "has no initramfs variant with %s" % driver, "Make it first: outoftree.kmod.initrd_variant", "VARIANT_MISSING")
    return dict(sorted(made.items(), key=lambda item: version_key(item[0])))


def verified(host: Host, release: str, images: Sequence[str]) -> Tuple[str, ...]:
    """The sha256 of each image that is to be started for a kernel, all of which are whole just now: a variant by the digests in its manifest,
    any other image by unpacking it. Each file is read once. Error: VARIANT_DAMAGED."""
    return tuple(_verified(host, release, path) for path in images)


def _verified(host: Host, release: str, path: str) -> str:
    ours = _ours(host, path)
    why = "is not what was written: it was changed, or cut off"
    try:
        if ours is None:
            return image.read(host, path).sha256
        if ours.wants["kernel"] != release:
            why = "is a variant for %s, not for %s" % (ours.wants["kernel"], release)
        else:
            sha256 = manifest.checked(host, ours)
            if sha256:
                return sha256
    except SystemFailed:
        raise
    except KmodError as error:
        why = "is not a whole initramfs image: %s" % error.why
    raise KmodError(path, why, "Make it again (outoftree.kmod.initrd_variant); until then boot: shipped restores the old default", "VARIANT_DAMAGED")


def overview(host: Host) -> List[Dict[str, Any]]:
    """Each variant on the host, and its state: current, stale (the shipped image is another one by now), damaged, gone (the kernel is), or
    foreign: by the mark there was one, and it is somebody else's file that lies there now."""
    rows = []
    for each in found(host):
        if gone(host, each):
            state = "gone"
        elif not manifest.checked(host, each):
            state = "damaged"
        elif not host.is_file(each.base) or image.checksum(host, each.base)[1] != each.wants["base"]["sha256"]:
            state = "stale"
        else:
            state = "current"
        rows.append({"path": each.path, "kernel": each.wants["kernel"], "drivers": each.wants["drivers"], "method": each.method, "size": each.size,
                     "state": state})
    for path, mark in _marks_alone(host):
        status = host.lstat(path)
        if status is not None:
            rows.append({"path": path, "kernel": mark.wants["kernel"], "drivers": mark.wants["drivers"], "method": mark.method,
                         "size": status.st_size, "state": "foreign"})
    return sorted(rows, key=lambda row: str(row["path"]))


def gone(host: Host, variant: Variant) -> bool:
    """Whether the kernel of a variant is no longer installed."""
    return not host.exists(variant.base) and not _installed(host, variant.wants["kernel"])


def having(host: Host, drivers: Sequence[str]) -> List[str]:
    """The installed kernels that have modules of each of the drivers."""
    return [release for release in host.listdir("/lib/modules")
            if names.is_release(release) and _installed(host, release) and all(depmod.linked(host, release, [driver]) for driver in drivers)]


def _installed(host: Host, release: str) -> bool:
    """Not what a removed kernel leaves behind: extra/ and weak-updates/ with an index of them."""
    return host.exists("/boot/vmlinuz-" + release) or host.is_dir("/lib/modules/%s/kernel" % release)
