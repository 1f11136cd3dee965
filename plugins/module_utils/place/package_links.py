# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which modules of packages each kernel gets, and the links for that.

A kernel gets, of each module, the build that was named if it takes that, else the one for the newest release
that it takes; all modules of one directory below extra/ (a driver), or none of them.
"""

import posixpath
from typing import Callable, Dict, Iterable, List, NamedTuple, Sequence, Set, Tuple

from ..errors import KmodError, SystemFailed
from ..host import Host
from ..judge.loader import judge
from ..judge.verdict import INCOMPATIBLE, REFUSE, Verdict
from ..plan import Link, Plan
from ..read import ko, names
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, modules_root
from . import depmod, packaged
from .packaged import Source, WeakLink

PLACES = ("extra", "weak-updates")  # where packages' modules lie, and links to them


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


class Offer(NamedTuple):
    """What there is of packages' modules on a host, and which of them are looked at.

    ``wanted``: the names of the modules that are asked for; ``first``: the releases in whose trees those lie
    that come first; ``gone``: paths (see ``packaged.plain``) that are said to be gone.
    """

    host: Host
    every: Sequence[Source]
    modules: Dict[str, KernelModule]  # by path
    wanted: Set[str]
    first: Set[str]
    gone: Set[str]
    stored: Dict[str, Set[str]]  # release -> the modules that it has of stored drivers


def read(host: Host, sources: Iterable[Source]) -> Tuple[Dict[str, KernelModule], Dict[str, str]]:
    """The modules by path, and why the others are none that a kernel would load."""
    modules: Dict[str, KernelModule] = {}
    odd: Dict[str, str] = {}
    for path in (each.path for each in sources):
        try:
            module = ko.read(host, path)
        except SystemFailed:
            raise
        except KmodError as error:
            odd[path] = error.why
            continue
        if module.faults:
            odd[path] = "is not a module that a kernel would load: %s" % module.faults[0].message
        elif not module.built_for:
            odd[path] = "does not say which kernel it was built for (no vermagic)"
        else:
            modules[path] = module
    return modules, odd


def found(offer: Offer, kernel: Kernel) -> Found:
    """What one kernel gets."""
    host = offer.host
    there = packaged.links(host, kernel)
    dangling = {each for each in there if _dangles(offer, each)}
    scope = _scope(offer, kernel, dangling)
    concerned = [each for each in offer.every if each.name in scope]
    others = [each for each in concerned if each.tree != kernel.release]
    order = [[each._replace(unit=each.path) for each in concerned if each.tree == kernel.release]]
    order += packaged.rounds(each for each in others if each.tree in offer.first)
    order += packaged.rounds(each for each in others if each.tree not in offer.first)
    choice = _choose(offer, kernel, order, there=there, scope=scope)
    links, blocked = _made(host, kernel, choice.chosen)
    for each in there:  # one that leads there already stays as it is written
        if (
            each.path in links
            and packaged.plain(host, links[each.path]) == each.means
            and host.exists(each.path)
        ):
            links[each.path] = each.text
    known = {packaged.plain(host, each.path) for each in offer.every}
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
        fell_back=any(
            row.verdict.compatible and packaged.plain(host, row.source.path) in choice.unfit for row in rows
        ),
    )


def _dangles(offer: Offer, link: WeakLink) -> bool:
    """Whether a link leads nowhere: into a tree of modules, or to what is said to be gone.

    Elsewhere may be a disk that is not mounted.
    """
    return link.means in offer.gone or (
        not offer.host.exists(link.means) and link.means.startswith(modules_root(offer.host) + "/")
    )


def _scope(offer: Offer, kernel: Kernel, dangling: Set[WeakLink]) -> Set[str]:
    """The modules whose links are looked at: those that are asked for, those of links that lead nowhere, and
    what the kernel has lost of its own.
    """
    lost = [path for path in offer.gone if path.startswith(kernel.modules_dir + "/")]
    wanted = offer.wanted | {each.name for each in dangling} | set(map(names.module_of, lost))
    return packaged.concerned(offer.every, offer.modules, wanted) - offer.stored.get(kernel.release, set())


def _made(host: Host, kernel: Kernel, chosen: Dict[str, Source]) -> Tuple[Dict[str, str], List[str]]:
    """The links to what a kernel gets, and what is in the way of some."""
    top = "%s/%s/weak-updates" % (modules_root(host), kernel.release)
    links, blocked = {}, []
    for each in chosen.values():
        path = packaged.link_path(host, kernel.release, each)
        if each.tree != kernel.release:
            there = packaged.taken_by(host, path, top)
            if there:
                blocked.append(there)
            else:
                links[path] = each.written or each.path
    return links, blocked


def _choose(
    offer: Offer,
    kernel: Kernel,
    order: Sequence[Sequence[Source]],
    *,
    there: Sequence[WeakLink],
    scope: Set[str],
) -> Chosen:
    chosen: Dict[str, Source] = {}
    rows: List[KernelRow] = []
    unfit: Set[str] = set()
    beside = _beside(offer, kernel, there, scope=scope)

    def replaced(path: str) -> bool:
        return "/weak-updates/" in path and names.module_of(path) in scope

    for found in order:
        todo = [each for each in found if each.name not in chosen]
        judged: Dict[str, Verdict] = {}
        while todo:  # without a driver that is refused, others may lack what it gives
            given = [*chosen.values(), *todo]
            verdicts = judge(kernel, [offer.modules[each.path] for each in given] + beside, without=replaced)
            now = dict(zip([each.path for each in given], verdicts))
            judged.update((each.path, now[each.path]) for each in todo)
            refused = {each.unit for each in todo if not now[each.path].compatible}
            if not refused:
                chosen.update((each.name, each) for each in todo)
                break
            worst = {each.unit for each in todo if now[each.path].verdict == INCOMPATIBLE}
            unfit.update(packaged.plain(offer.host, each.path) for each in todo if each.unit in worst)
            todo = [each for each in todo if each.unit not in refused]
        rows += [
            KernelRow(each, offer.modules[each.path].built_for, judged[each.path], used=False)
            for each in found
            if each.path in judged
        ]
    return Chosen(chosen, tuple(rows), unfit)


def _beside(
    offer: Offer, kernel: Kernel, there: Sequence[WeakLink], *, scope: Set[str]
) -> List[KernelModule]:
    """Modules that are there for this kernel and that its modules.dep does not list yet."""
    linked = {link.means for link in there}
    found = [offer.modules[each.path] for each in offer.every if each.tree == kernel.release]
    found += [offer.modules[each.path] for each in offer.every if each.path in linked]
    return [module for module in found if module.name not in scope and module.name not in kernel.modules]


def planned(
    offer: Offer, kernels: Sequence[Kernel], own: Callable[[str], Sequence[str]]
) -> Tuple[Plan, Tuple[Found, ...], Tuple[str, ...]]:
    """Plan what these kernels get. Also what that is, and the releases whose links change.

    depmod runs for those, and where modules.dep does not know what lies there: the links, and files of the
    kernel's ``own`` tree (by release).
    """
    plan = Plan(offer.host)
    every = tuple(found(offer, kernel) for kernel in kernels)
    changed = []
    for each in every:
        put = [plan.put(path, Link(text)) for path, text in sorted(each.links.items())]
        if any(put) or each.gone:
            changed.append(each.kernel.release)
    for each in every:
        release = each.kernel.release
        wanted = {names.module_of(path): path for path in [*each.links, *own(release)]}
        if release in changed or depmod.stale(
            offer.host, each.kernel.modules_dir, wanted, PLACES, foreign=True
        ):
            depmod.refresh(plan, each.kernel.modules_dir, {}, without=[link.path for link in each.gone])
    for each in every:
        _sweep(plan, each)
    return plan, every, tuple(changed)


def without(host: Host, release: str) -> Tuple[Plan, Found]:
    """Plan that all links of a kernel to packages' modules go.

    depmod runs while it has indexes: what they list beyond would make dracut fail.
    """
    plan = Plan(host)
    kernel = Kernel(host, release, "%s/%s" % (modules_root(host), release))
    gone = tuple(packaged.links(host, kernel)) if names.is_release(release) else ()
    left = Found(kernel, {}, gone, names=set(), rows=(), fell_back=False, blocked=())
    if gone and host.is_file(kernel.modules_dir + "/modules.dep"):
        depmod.refresh(plan, kernel.modules_dir, {}, without=[each.path for each in gone])
    _sweep(plan, left)
    return plan, left


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
