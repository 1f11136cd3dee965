# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there shall be of a driver: builds in the store, weak links to them for the other kernels, overrides,
and indexes that list them.

A link is relative, so that it leads to the same build in any clone of the tree, and by that and its target it
is known as ours: what packages make with weak-modules is absolute. The build for a kernel itself needs no
link, it lies where that kernel looks.
"""

import posixpath
from typing import Any, Callable, Collection, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..judge.selection import Build, Choice, Judge, select
from ..plan import Content, File, Link
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, modules_root, version_key
from ..read.names import module_of
from . import depmod, overrides, store
from .driver import Deployed, Target, deployed, is_our_link, link_directories, serving, serving_installed
from .heal import Healed

# the bytes of a module that is not stored yet, None where they are not at hand
Contents = Callable[[KernelModule], Optional[Content]]
# heal.heal for some kernels: (tree, our links)
Healing = Callable[[store.ModuleTree, Set[str]], List[Healed]]


class Served(NamedTuple):
    """What one kernel gets: ``files`` are its links, or those of its own build; ``override`` tells whether
    depmod.d has to speak for them.
    """

    kernel: str
    verdict: str
    reason: str
    build: Optional[Build]
    files: Tuple[str, ...]
    linked: bool
    override: bool

    def as_dict(self) -> Dict[str, Any]:
        return {
            "kernel": self.kernel,
            "verdict": self.verdict,
            "reason": self.reason,
            "build": self.build.release if self.build else None,
            "version": self.build.version if self.build else None,
            "files": list(self.files),
            "linked": self.linked,
            "override": self.override,
        }


class Outcome(NamedTuple):
    """What comes of a plan, and the build that each installed kernel uses before and after.

    ``left``: what lies in the place of a file of ours and is not that, so that it stays. ``need``: the paths
    of modules, as they were given, that are to be stored and whose contents are not at hand.
    """

    driver: str
    kernels: Tuple[Served, ...]  # those that were chosen, or lose their build
    healed: Tuple[Healed, ...]
    left: Tuple[str, ...]
    before: Dict[str, Optional[Build]]
    after: Dict[str, Optional[Build]]
    need: Tuple[str, ...] = ()
    msg: str = ""
    ahead: Tuple[str, ...] = ()  # the kernels to come that a build is stored for now


def present(
    tree: store.ModuleTree,
    driver: str,
    given: Sequence[Build],
    *,
    installed: Sequence[Kernel],
    chosen: Sequence[Kernel],
    judge: Judge,
    contents: Contents,
    coming: Collection[str] = (),
    healing: Optional[Healing] = None,
    version: Optional[str] = None,
) -> Outcome:
    """Give each of the ``chosen`` kernels the best build of those ``given`` and those stored, of this
    ``version`` alone where one is named; kernels not chosen keep what they have. Builds made for kernels that
    are ``coming``, and not installed, are stored.

    Stored builds that no kernel uses stay for kernels to come, until one of a newer version, or for the same
    kernel, is used in their place; those of other versions than the one that is named go.
    """
    host = tree.host
    there = deployed(host, driver)
    known = {(build.release, build.digests) for build in there.builds}
    fresh = [build for build in given if (build.release, build.digests) not in known]
    if version is not None:
        _refuse_unknown_version(driver, version, [*given, *there.builds])
        fresh = [build for build in fresh if build.version == version]
    stored = [build for build in there.builds if version in (None, build.version)]
    if not given and not there.builds and not healing:
        lost = [path for path in _paths(there.broken) if not host.is_file(path)]
        raise KmodError(
            driver,
            "there is no %sbuild of this driver on the host%s and none is given"
            % ("whole " if lost else "", " (%s is missing)" % lost[0] if lost else ""),
            "Give its modules: src or path, or files and directories to kmodctl",
            "NO_BUILD",
        )
    _refuse_modules_of_others(host, driver, fresh)
    used = serving_installed(host, there, installed)
    choices = select(chosen, fresh + stored, judge, rate=_rate(used, given))
    used.update({choice.kernel: choice.build for choice in choices})
    ahead = _ahead(fresh, coming)
    used.update(ahead)
    serving = [build for build in used.values() if build]
    kept = [
        build
        for build in there.builds
        if any(other.directory == build.directory for other in serving)
        or (build in stored and not _superseded(build, serving))
    ]
    used, new = _place(host, driver, used, taken={build.directory for build in kept})
    used = {release: build for release, build in used.items() if release not in ahead}
    others = [kernel for kernel in installed if kernel not in chosen and not there.links[kernel.release]]
    _let_own_serve(used, kept + new, others, judge=judge)
    target = Target(used, new, kept, _all_links(host, driver, used))
    outcome = _converge(
        tree, there, target, installed=installed, choices=choices, contents=contents, healing=healing
    )
    need = sorted(module.path for module in _modules(new) if contents(module) is None)
    return outcome._replace(
        need=tuple(need), msg=_message(driver, outcome.kernels), ahead=tuple(sorted(ahead))
    )


def _ahead(fresh: Sequence[Build], coming: Collection[str]) -> Dict[str, Build]:
    """Of builds that are not stored yet, the newest for each kernel to come."""
    meant = [build for build in fresh if build.release in coming]
    return {build.release: build for build in sorted(meant, key=lambda build: version_key(build.version))}


def absent(
    tree: store.ModuleTree,
    driver: str,
    *,
    version: Optional[str],
    release: Optional[str],
    installed: Sequence[Kernel],
    judge: Judge,
    healing: Optional[Healing] = None,
) -> Outcome:
    """Remove a driver, or its builds of a version or for a release; kernels that used those get the next best
    that is left.
    """
    host = tree.host
    there = deployed(host, driver)
    whole = version is None and release is None
    kept = (
        []
        if whole
        else [
            build
            for build in there.builds
            if version not in (None, build.version) or release not in (None, build.release)
        ]
    )
    used = serving_installed(host, there, installed)
    stay = {build.directory for build in kept}
    losing = [
        kernel
        for kernel in installed
        if (used[kernel.release] or there.links[kernel.release])
        and _directory(used[kernel.release]) not in stay
    ]
    choices = select(losing, kept, judge, rate=_rate(used))
    used.update({choice.kernel: choice.build for choice in choices})
    target = Target(used, [], kept, _all_links(host, driver, used))
    outcome = _converge(
        tree,
        there,
        target,
        installed=installed,
        choices=choices,
        contents=lambda module: None,
        healing=healing,
    )
    others = (
        "; there is "
        + ", ".join("%s for %s" % (build.version or "(no version)", build.release) for build in kept)
        if kept
        else ""
    )
    return outcome._replace(msg="%s: %s" % (driver, "removed" if tree.plan else "nothing to remove" + others))


def _paths(stored: Iterable[store.Stored]) -> List[str]:
    return [path for each in stored for path in each.paths]


def _modules(builds: Iterable[Build]) -> List[KernelModule]:
    return [module for build in builds for module in build.modules]


def _directory(build: Optional[Build]) -> str:
    return build.directory if build else ""


def _rate(used: Dict[str, Optional[Build]], given: Sequence[Build] = ()) -> Callable[[str, Build], int]:
    """Of two builds of one version for one release, the one that is given comes first, then the one that the
    kernel uses already.
    """
    wanted = {(build.release, build.digests) for build in given}

    def rate(release: str, build: Build) -> int:
        return 2 * ((build.release, build.digests) in wanted) + (
            build.directory != "" and build.directory == _directory(used[release])
        )

    return rate


def _let_own_serve(
    used: Dict[str, Optional[Build]], stored: Sequence[Build], kernels: Sequence[Kernel], *, judge: Judge
) -> None:
    """A build in the tree of the kernel that it was made for is seen there, chosen or not: so it is used, if
    that kernel takes it.
    """
    for kernel in kernels:
        own = [build for build in stored if build.release == kernel.release]
        if own and used[kernel.release] is None:
            used[kernel.release] = select([kernel], own, judge)[0].build


def _refuse_modules_of_others(host: Host, driver: str, fresh: Sequence[Build]) -> None:
    given = {module.name: module.path for module in _modules(fresh)}
    for stored in store.builds(host) if fresh else []:
        for name, _sha256 in stored.files:
            module = module_of(name)
            if stored.driver != driver and module in given:
                raise KmodError(
                    given[module],
                    "the driver %s has a module %s too (%s/%s)"
                    % (stored.driver, module, stored.directory, name),
                    "Deploy both under one driver's name, or remove %s first" % stored.driver,
                    "MODULE_OF_OTHER_DRIVER",
                )


def _refuse_unknown_version(driver: str, version: str, builds: Sequence[Build]) -> None:
    there = sorted({build.version for build in builds}, key=version_key)
    if version not in there:
        raise KmodError(
            driver,
            "there is no build of version %s, neither given nor on the host; there is %s"
            % (version, ", ".join(each or "one without a version" for each in there) or "none at all"),
            "Give one by src or path, or name a version that there is (in quotes: YAML reads 1.10 as 1.1)",
            "NO_BUILD",
        )


def _superseded(build: Build, used: Sequence[Build]) -> bool:
    version = version_key(build.version)
    return any(
        version_key(other.version) > version
        or (other.release == build.release and version_key(other.version) == version)
        for other in used
    )


def _place(
    host: Host, driver: str, used: Dict[str, Optional[Build]], *, taken: Set[str]
) -> Tuple[Dict[str, Optional[Build]], List[Build]]:
    """Give the used builds that are not stored yet a directory each."""
    placed: Dict[Any, Build] = {}
    answer = dict(used)
    for release, build in sorted(used.items()):
        if build and not build.directory:
            key = (build.release, build.digests)
            if key not in placed:
                extra = "%s/%s/extra" % (modules_root(host), build.release)
                if host.is_link(extra):
                    raise _shared(host, extra)
                placed[key] = build._replace(directory=store.place_for(host, driver, build, taken=taken))
                taken = taken | {placed[key].directory}
            answer[release] = placed[key]
    return answer, list(placed.values())


def _all_links(host: Host, driver: str, used: Dict[str, Optional[Build]]) -> Dict[str, Dict[str, str]]:
    return {release: _links(host, release, driver, build=build) for release, build in used.items()}


def _links(host: Host, release: str, driver: str, *, build: Optional[Build]) -> Dict[str, str]:
    """The links that one kernel needs for a build: none for its own."""
    if build is None or build.release == release:
        return {}
    top = "%s/%s/weak-updates" % (modules_root(host), release)
    if host.is_link(top):
        raise _shared(host, top)
    for directory in link_directories(host, release, driver):
        links = {
            "%s/%s" % (directory, posixpath.basename(path)): posixpath.relpath(path, directory)
            for path in store.files_of(build)
        }
        if all(host.lstat(path) is None or is_our_link(host, path, driver) for path in links):
            return links
    raise KmodError(directory, "is taken by files that are not ours", "Move them away", "FOREIGN_FILE")


def _shared(host: Host, directory: str) -> KmodError:
    return KmodError(
        directory,
        "is a symlink to %s, so that what is put there for one kernel may be another's"
        % host.readlink(directory),
        "Make it a directory of its own, or leave that kernel out",
        "DIRECTORY_IS_LINK",
    )


def _converge(
    tree: store.ModuleTree,
    there: Deployed,
    target: Target,
    *,
    installed: Sequence[Kernel],
    choices: Sequence[Choice],
    contents: Contents,
    healing: Optional[Healing],
) -> Outcome:
    """Plan what turns ``there`` into ``target``.

    The order keeps each kernel on a build that it takes, wherever a run is cut off: what is new is stored and
    linked before anything is overwritten, links to what is overwritten are made only then, and what is no
    longer used goes when no index lists it.
    """
    host = tree.host
    fresh = {build.directory for build in target.new}
    overwritten = fresh & {build.directory for build in there.builds}
    for late in (False, True):
        for build in target.new:
            if (build.directory in overwritten) == late:
                store.put_build(
                    tree,
                    build.directory,
                    {
                        store.file_name(module): contents(module) or _described(module)
                        for module in build.modules
                    },
                )
        for release in sorted(target.used):
            if (_directory(target.used[release]) in overwritten) == late:
                _relink(tree, there.links[release], target.links[release])
    listing = overrides.listing(host, there, target)
    if listing.overrides:
        tree.put(
            overrides.file(there.driver),
            File(Content.of(listing.overrides.encode("utf-8", "surrogateescape"))),
        )
    else:
        tree.remove_first(overrides.file(there.driver))
    for build in target.kept:
        store.keep_build(
            tree,
            build.directory,
            {posixpath.basename(module.path): module.sha256 for module in build.modules},
        )
    staying = fresh | {build.directory for build in target.kept}
    for stored in store.builds(host, there.driver):
        if stored.directory not in staying:
            store.remove_build(tree, stored)
    ours: Set[str] = set().union(*there.links.values(), *target.links.values())
    healed = healing(tree, ours) if healing else []
    # also those that a run that was cut off left empty
    tree.touched.update(store.directories(host, there.driver))
    for release in overrides.to_refresh(tree, there.driver, target, listing=listing, installed=installed):
        depmod.refresh(
            tree.plan,
            "%s/%s" % (modules_root(host), release),
            listing.wanted.get(release, {}),
            without=tree.removed,
        )
    tree.sweep()
    rows = tuple(_served(choice, target, listing.overridden) for choice in choices)
    return Outcome(
        there.driver,
        rows,
        tuple(healed),
        tuple(sorted(tree.left)),
        before=serving(host, there),
        after=target.used,
    )


def _relink(tree: store.ModuleTree, before: Dict[str, str], after: Dict[str, str]) -> None:
    for path, target in sorted(after.items()):
        tree.put(path, Link(target))
    for path in sorted(before):
        if path not in after:
            tree.remove(path)


def _described(module: KernelModule) -> Content:
    """A module whose contents are not at hand: good for showing a plan, not for applying it."""

    def chunks() -> Iterable[bytes]:
        raise KmodError(
            module.path, "its contents were not sent", "Run the module through its action plugin", "NOT_SENT"
        )

    return Content(module.size, module.sha256, chunks, binary=True)


def _served(choice: Choice, target: Target, overridden: Set[str]) -> Served:
    build = target.used[choice.kernel]
    links = sorted(target.links[choice.kernel])
    files = links or (store.files_of(build) if build else [])
    return Served(
        choice.kernel,
        choice.verdict,
        choice.reason,
        build=build,
        files=tuple(files),
        linked=bool(links),
        override=choice.kernel in overridden,
    )


def _message(driver: str, rows: Sequence[Served]) -> str:
    served = sum(1 for row in rows if row.build)
    refused = next((row for row in rows if not row.build), None)
    why = " (%s: %s)" % (refused.kernel, refused.reason) if refused else ""
    return "%s: %d of %d kernels use it%s" % (driver, served, len(rows), why)
