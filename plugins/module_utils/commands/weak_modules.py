# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What weak-modules does: modules that packages bring are linked into the weak-updates of the kernels that
take them.

Whatever is asked, what comes of it is told by what lies on disk: a kernel gets, of each module, the build
that was named if it takes that, else the one for the newest release that it takes; all modules of one
directory below extra/ (a driver), or none of them.
"""

import posixpath
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from ..errors import KmodError, SystemFailed, forgiving
from ..host import Host
from ..judge.loader import judge
from ..judge.verdict import INCOMPATIBLE, REFUSE, Verdict
from ..place import depmod, packaged, store
from ..place.initramfs import existing, image, variant
from ..place.packaged import Source, WeakLink
from ..plan import Link, Plan
from ..read import depmod as listing
from ..read import ko, names
from ..read.exports import find_symvers
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, modules_root

VERBS = ("add-modules", "remove-modules", "add-kernel", "remove-kernel")


class Options(NamedTuple):
    verb: str
    listed: Tuple[str, ...] = ()  # absolute paths inside the root, of the first two
    kernel: str = ""  # of the last two


class KernelRow(NamedTuple):
    """A module that was judged for a kernel. ``used``: it is linked there, by now or before."""

    source: Source
    built_for: str
    verdict: Verdict
    used: bool

    @property
    def symbols(self) -> List[str]:
        """The symbols that refuse it; none where it is refused for anything else."""
        found = [finding for finding in self.verdict.findings if finding.effect == REFUSE]
        return (
            [finding.symbol for finding in found if finding.symbol]
            if all(finding.symbol for finding in found)
            else []
        )

    def as_text(self) -> str:
        """The lines that callers look for in what weak-modules prints (Oracle's ACFS decides by them)."""
        text = "Module %s from kernel %s is %scompatible with kernel %s" % (
            posixpath.basename(self.source.path),
            self.built_for,
            "" if self.verdict.compatible else "not ",
            self.verdict.kernel,
        )
        if self.verdict.compatible:
            return text
        return text + (
            " in symbols: " + "".join(" " + symbol for symbol in self.symbols)
            if self.symbols
            else ": %s" % self.verdict.short
        )


class Chosen(NamedTuple):
    """By module name what a kernel gets; what was judged for that; the paths in drivers that it refuses."""

    chosen: Dict[str, Source]
    rows: Tuple[KernelRow, ...]
    unfit: Set[str]


class Found(NamedTuple):
    """What there is for one kernel: ``links`` are all that it shall have, path to what they say; ``gone``
    those that go.
    """

    kernel: Kernel
    links: Dict[str, str]
    gone: Tuple[WeakLink, ...]
    names: Set[str]  # of modules that it has of packages by then
    rows: Tuple[KernelRow, ...]
    fell_back: bool
    blocked: Tuple[str, ...]


class Answer(NamedTuple):
    """``changed``: kernels whose modules change, oldest first; ``concerned``: those and all that have a
    module that was named.
    """

    kernels: Tuple[Found, ...]
    changed: Tuple[str, ...]
    concerned: Tuple[str, ...]
    warnings: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        return {"changed_kernels": list(self.changed)}


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Plan it. Errors: NO_SUCH_KERNEL, of add-kernel; those of reading and judging."""
    if options.verb == "remove-kernel":
        return _remove_kernel(host, options.kernel)
    return _Work(host, options).done()


def refresh(host: Host, kernels: Sequence[str]) -> Tuple[Plan, variant.Variants]:
    """Make the variants of these kernels again of which something has changed.

    Errors: those of ``variant.present``.
    """
    plan = Plan(host)
    rows: List[Union[variant.Made, variant.Touched]] = []
    for each in existing.found(host):
        if each.wants.kernel in kernels and not existing.gone(host, each):
            recipe = variant.Recipe(
                each.wants.drivers, method=each.method, early_load=each.wants.early_load, ignore_tpm=True
            )
            steps, made = variant.present(host, recipe, [each.wants.kernel], before=plan)
            plan.extend(steps)
            rows += made.rows
    return plan, variant.Variants(tuple(rows))


def shipped(host: Host, kernels: Sequence[str]) -> List[str]:
    """The images of these kernels that are the distribution's."""
    found = []
    for release in kernels:
        with forgiving():
            found.append(image.shipped(host, release))
    return found


class _Work:
    """One request: what was read for it."""

    def __init__(self, host: Host, options: Options) -> None:
        self.host = host
        self.options = options
        self.warnings: List[str] = []
        self.modules: Dict[str, KernelModule] = {}
        self.listed = [packaged.source(path) for path in options.listed]
        self.there = [each for each in self.listed if host.is_file(each.path)]
        self.installed = store.installed(host)
        self.stored = packaged.stored_names(host)
        self.every: List[Source] = []

    def done(self) -> Tuple[Plan, Answer]:
        kernels = self.installed if self.options.verb != "add-kernel" else [self._arrived()]
        self.there = named = self._named()
        lies = {self._plain(each) for each in named}
        every = named + [each for each in packaged.sources(self.host) if each.path not in lies]
        self.every = packaged.joined(self._readable(every, lies), self.modules)
        trees = {each.tree for each in self.every if self._plain(each) in lies}
        found = [self._for(kernel, trees) for kernel in kernels]
        plan = Plan(self.host)
        changed = [each.kernel.release for each in found if self._links(plan, each)]
        for each in found:
            self._depmod(plan, each, changed)
        for each in found:
            _sweep(plan, each)
        mine = {each.name for each in named}
        having = (
            {each.kernel.release for each in found if mine & each.names}
            | {each.tree for each in self.listed}
            | set(changed)
        )
        concerned = tuple(kernel.release for kernel in self.installed if kernel.release in having)
        self.warnings += [
            "%s is in the way, so that no link is made there" % path
            for each in found
            for path in each.blocked
        ]
        return plan, Answer(tuple(found), tuple(changed), concerned, tuple(self.warnings))

    def _plain(self, each: Source) -> str:
        return packaged.plain(self.host, each.path)

    def _arrived(self) -> Kernel:
        for kernel in self.installed:
            if kernel.release == self.options.kernel:
                if find_symvers(self.host, kernel.release) is None:
                    self.warnings.append(
                        "kernel %s has no symvers: what it exports is read from its image" % kernel.release
                    )
                return kernel
        raise KmodError(
            self.options.kernel,
            "no such kernel is installed",
            "Installed: %s" % (", ".join(kernel.release for kernel in self.installed) or "none"),
            "NO_SUCH_KERNEL",
        )

    def _named(self) -> List[Source]:
        if self.options.verb != "add-modules":
            return []
        self.warnings += ["%s does not exist" % each.path for each in self.listed if each not in self.there]
        odd = [
            each
            for each in self.there
            if not packaged.can_be_listed(each) or not names.is_module_file(each.path)
        ]
        self.warnings += ["%s is not called as depmod can list it" % each.path for each in odd]
        ours = [
            each
            for each in self.there
            if posixpath.basename(each.path) in dict(store.marked(self.host, posixpath.dirname(each.path)))
        ]
        self.warnings += ["%s is left to outoftree.kmod, which has put it there" % each.path for each in ours]
        return [each for each in self.there if each not in odd and each not in ours]

    def _readable(self, found: Sequence[Source], named: Set[str]) -> List[Source]:
        """Those that are modules; of the others those are told of that are asked for."""
        good = []
        for each in found:
            why = self._read(each.path)
            if why is None:
                good.append(each)
            elif self.options.verb == "add-kernel" or self._plain(each) in named:
                self.warnings.append("%s: %s" % (each.path, why))
        return good

    def _read(self, path: str) -> Optional[str]:
        """Why a file is not one that a kernel would load; None where it is."""
        try:
            module = self.modules[path] = ko.read(self.host, path)
        except SystemFailed:
            raise
        except KmodError as error:
            return error.why
        if module.faults:
            return "is not a module that a kernel would load: %s" % module.faults[0].message
        return None if module.built_for else "does not say which kernel it was built for (no vermagic)"

    def _for(self, kernel: Kernel, trees: Set[str]) -> Found:
        """``trees``: those of the modules that were named, which come first."""
        host = self.host
        there = packaged.links(host, kernel)
        dangling = {each for each in there if self._dangles(each)}
        scope = self._scope(kernel, dangling)
        concerned = [each for each in self.every if each.name in scope]
        others = [each for each in concerned if each.tree != kernel.release]
        order = [[each._replace(unit=each.path) for each in concerned if each.tree == kernel.release]]
        order += packaged.rounds(each for each in others if each.tree in trees)
        order += packaged.rounds(each for each in others if each.tree not in trees)
        choice = self._choose(kernel, order, there=there, scope=scope)
        links, blocked = self._made(kernel, choice.chosen)
        for each in there:  # one that leads there already stays as it is written
            if (
                each.path in links
                and packaged.plain(host, links[each.path]) == each.means
                and host.exists(each.path)
            ):
                links[each.path] = each.text
        known = set(map(self._plain, self.every))
        gone = [
            each
            for each in there
            if each.path not in links
            and (
                each in dangling
                or (
                    each.name in scope
                    and each.means in known
                    and (each.name in choice.chosen or each.means in choice.unfit)
                )
            )
        ]
        rows = tuple(
            row._replace(used=row.source in choice.chosen.values())
            for row in choice.rows
            if row.source.tree != kernel.release
        )
        return Found(
            kernel,
            links,
            tuple(gone),
            names=set(choice.chosen),
            rows=rows,
            blocked=tuple(blocked),
            fell_back=any(row.verdict.compatible and self._plain(row.source) in choice.unfit for row in rows),
        )

    def _scope(self, kernel: Kernel, dangling: Set[WeakLink]) -> Set[str]:
        """The modules whose links are looked at.

        Where some are removed, only what leads nowhere by now: rpm calls with what it has replaced.
        """
        wanted = {each.name for each in dangling}
        if self.options.verb == "add-kernel":
            wanted |= {each.name for each in self.every}
        elif self.options.verb == "add-modules":
            wanted |= {each.name for each in self.there}
        return packaged.concerned(self.every, self.modules, wanted) - self.stored.get(kernel.release, set())

    def _made(self, kernel: Kernel, chosen: Dict[str, Source]) -> Tuple[Dict[str, str], List[str]]:
        """The links to what a kernel gets, and what is in the way of some."""
        top = "%s/%s/weak-updates" % (modules_root(self.host), kernel.release)
        links, blocked = {}, []
        for each in chosen.values():
            path = packaged.link_path(self.host, kernel.release, each)
            if each.tree != kernel.release:
                there = top if self.host.is_link(top) else packaged.taken_by(self.host, path, top)
                if there:
                    blocked.append(there)
                else:
                    links[path] = each.path
        return links, blocked

    def _dangles(self, link: WeakLink) -> bool:
        """Whether a link leads nowhere: into a tree of modules, or to what was named as gone.

        Elsewhere may be a disk that is not mounted.
        """
        if self.host.exists(link.means):
            return False
        gone = self.options.verb == "remove-modules" and link.means in map(self._plain, self.listed)
        return link.means.startswith(modules_root(self.host) + "/") or gone

    def _choose(
        self, kernel: Kernel, order: Sequence[Sequence[Source]], *, there: Sequence[WeakLink], scope: Set[str]
    ) -> "Chosen":
        chosen: Dict[str, Source] = {}
        rows: List[KernelRow] = []
        unfit: Set[str] = set()
        beside = self._beside(kernel, there, scope)

        def replaced(path: str) -> bool:
            return "/weak-updates/" in path and names.module_of(path) in scope

        for found in order:
            todo = [each for each in found if each.name not in chosen]
            judged: Dict[str, Verdict] = {}
            while todo:  # without a driver that is refused, others may lack what it gives
                given = [*chosen.values(), *todo]
                verdicts = judge(
                    kernel, [self.modules[each.path] for each in given] + beside, without=replaced
                )
                now = dict(zip([each.path for each in given], verdicts))
                judged.update((each.path, now[each.path]) for each in todo)
                refused = {each.unit for each in todo if not now[each.path].compatible}
                if not refused:
                    chosen.update((each.name, each) for each in todo)
                    break
                worst = {each.unit for each in todo if now[each.path].verdict == INCOMPATIBLE}
                unfit.update(self._plain(each) for each in todo if each.unit in worst)
                todo = [each for each in todo if each.unit not in refused]
            rows += [
                KernelRow(each, self.modules[each.path].built_for, judged[each.path], used=False)
                for each in found
                if each.path in judged
            ]
        return Chosen(chosen, tuple(rows), unfit)

    def _beside(self, kernel: Kernel, there: Sequence[WeakLink], scope: Set[str]) -> List[KernelModule]:
        """Modules that are there for this kernel and that its modules.dep does not list yet."""
        found = [self.modules[each.path] for each in self.every if each.tree == kernel.release]
        found += [
            self.modules[each.path] for each in self.every if each.path in {link.means for link in there}
        ]
        return [module for module in found if module.name not in scope and module.name not in kernel.modules]

    def _links(self, plan: Plan, found: Found) -> bool:
        """Whether this kernel's links change."""
        put = [plan.put(path, Link(text)) for path, text in sorted(found.links.items())]
        return any(put) or bool(found.gone)

    def _depmod(self, plan: Plan, found: Found, changed: Sequence[str]) -> None:
        directory = "%s/%s" % (modules_root(self.host), found.kernel.release)
        if found.kernel.release in changed or self._stale(directory, found):
            depmod.refresh(plan, directory, {}, without=[each.path for each in found.gone])

    def _stale(self, directory: str, found: Found) -> bool:
        """Whether modules.dep does not know what lies there: a run was cut off, or a module was replaced in
        its place.
        """
        host = self.host
        lists = listing.listed(host, directory)
        places = tuple("%s/%s/" % (directory, place) for place in ("extra", "weak-updates"))
        if any(path.startswith(places) and not host.exists(path) for path in lists.values()):
            return True
        files = list(found.links) + [each.path for each in self.there if each.tree == found.kernel.release]
        index = host.lstat(directory + "/modules.dep")
        if not files or index is None:
            return bool(files)
        times = [status.st_ctime for status in map(host.stat, files) if status]
        return (
            any(names.module_of(path) not in lists for path in files)
            or any(index.st_mtime < when for when in times)
            or depmod.damaged(host, directory)
        )


def _sweep(plan: Plan, found: Found) -> None:
    """Remove what goes, and the directories below weak-updates that it leaves empty."""
    host = plan.host
    gone = {each.path for each in found.gone}
    for path in sorted(gone):
        plan.put(path, None)
    todo = {posixpath.dirname(path) for path in gone}
    while todo:
        directory = max(todo, key=len)
        todo.remove(directory)
        left = {"%s/%s" % (directory, name) for name in host.listdir(directory)} - gone
        if (
            posixpath.basename(directory) == "weak-updates"
            or left
            or any(path.startswith(directory + "/") for path in found.links)
        ):
            continue
        plan.put(directory, None)
        gone.add(directory)
        todo.add(posixpath.dirname(directory))


def _remove_kernel(host: Host, release: str) -> Tuple[Plan, Answer]:
    """All links to packages' modules go; depmod runs while the kernel has indexes: what they list beyond
    would make dracut fail.
    """
    plan = Plan(host)
    kernel = Kernel(host, release, "%s/%s" % (modules_root(host), release))
    gone = tuple(packaged.links(host, kernel)) if names.is_release(release) else ()
    found = Found(kernel, {}, gone, names=set(), rows=(), fell_back=False, blocked=())
    if gone and host.is_file(kernel.modules_dir + "/modules.dep"):
        depmod.refresh(plan, kernel.modules_dir, {}, without=[each.path for each in gone])
    _sweep(plan, found)
    changed = (release,) if gone else ()
    return plan, Answer((found,), changed, changed, ())
