# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A driver's builds in the store, weak links to them for the other kernels, overrides and depmod.

A link is relative, so that it leads to the same build in any clone of the tree, and by that and its target it is known as ours: what
packages make with weak-modules is absolute. The build for a kernel itself needs no link, it lies where that kernel looks.
"""
import posixpath
import re
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError, forgiving
from ..host import Host
from ..judge.selection import Build, Choice, Judge, select
from ..plan import Content, File, Link
from ..read import ko, names
from ..read.depmod import by_name, config
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, version_key
from . import depmod, store

Contents = Callable[[KernelModule], Optional[Content]]  # the bytes of a module that is not stored yet, None where they are not at hand

Healing = Callable[[store.ModuleTree, Set[str]], List[Dict[str, Any]]]  # heal.heal for some kernels: (tree, our links) -> rows


class Deployed(NamedTuple):
    """What there is of a driver on the host."""

    driver: str
    builds: Tuple[Build, ...]  # whole ones
    broken: Tuple[store.Stored, ...]  # ones that miss files
    links: Dict[str, Dict[str, str]]  # kernel release -> path -> target as written; those of removed kernels, too


class Target(NamedTuple):
    """What there shall be of it."""

    used: Dict[str, Optional[Build]]  # kernel release -> build, with the directory it has or gets
    new: Sequence[Build]  # those of them that are to be stored
    kept: Sequence[Build]  # those stored that stay
    links: Dict[str, Dict[str, str]]  # kernel release -> path -> target


class Outcome(NamedTuple):
    """The answer, and the build that each installed kernel uses before and after."""

    result: Dict[str, Any]
    before: Dict[str, Optional[Build]]
    after: Dict[str, Optional[Build]]


def deployed(host: Host, driver: str) -> Deployed:
    """Read what there is of ``driver`` in the store and in weak-updates."""
    whole, broken = [], []
    for stored in store.builds(host, driver):
        modules = _modules(host, stored)
        if modules:
            whole.append(Build(stored.release, tuple(sorted(modules, key=lambda module: module.name)), stored.directory))
        else:
            broken.append(stored)
    links = {release: our_links(host, release, driver) for release in store.releases(host)}
    return Deployed(driver, tuple(whole), tuple(broken), links)


def _modules(host: Host, stored: store.Stored) -> List[KernelModule]:
    """The modules of a build; none where one is missing, or is not what was put there."""
    found = []
    for path in stored.paths:
        if not host.is_file(path):
            return []
        with forgiving():
            found.append(ko.read(host, path))
    rows = set(stored.files)
    return found if all((posixpath.basename(module.path), module.sha256) in rows for module in found) and len(found) == len(stored.paths) else []


def our_links(host: Host, release: str, driver: str) -> Dict[str, str]:
    """Path and target of the driver's links in one kernel's tree, dangling ones too."""
    found = {}
    for directory in _link_directories(host, release, driver):
        for name in host.listdir(directory):
            path = "%s/%s" % (directory, name)
            if _is_ours(host, path, driver):
                found[path] = host.readlink(path)
    return found


def _link_directories(host: Host, release: str, driver: str) -> List[str]:
    """weak-updates/DRIVER, or beside it where someone else has a file of that name there."""
    top = "%s/%s/weak-updates" % (store.modules_root(host), release)
    return ["%s/%s" % (top, driver), "%s/outoftree.kmod/%s" % (top, driver)]


def _is_ours(host: Host, path: str, driver: str) -> bool:
    """A link as we make them, dangling or not; or any that leads to a build of ours, as weak-modules makes them for a kernel that arrives.

    Not what a run that was cut off has left under the name of a temporary file.
    """
    if not host.is_link(path) or posixpath.basename(path).startswith("."):
        return False
    text = host.readlink(path)
    if re.fullmatch(r"(\.\./){3,4}[^/]+/extra/%s/([0-9a-f]{12}/)?[^/]+\.ko" % re.escape(driver), text):
        return True
    directory, name = posixpath.split(text)
    return bool(re.search(r"^/.*/extra/%s(/[0-9a-f]{12})?$" % re.escape(driver), directory)) and name in dict(store.marked(host, directory))


def file_name(module: KernelModule) -> str:
    """What a module's file is called in the store: as it came, where kmod finds it under the module's name by that, else by its name."""
    if not names.is_module(module.name):
        raise KmodError(module.path, "is the module %s, a name that a kernel's tools do not take" % module.name[:80],
                        "Rebuild it under a plain name", "MODULE_NAME")
    stem = re.sub(r"\.ko(\.\w+)?$", "", posixpath.basename(module.path))
    return (stem if stem.replace("-", "_") == module.name else module.name) + ".ko"


def files_of(build: Build) -> List[str]:
    """The paths of a build's files in the store."""
    return ["%s/%s" % (build.directory, file_name(module)) for module in build.modules]


def present(tree: store.ModuleTree, driver: str, given: Sequence[Build], installed: Sequence[Kernel], chosen: Sequence[Kernel], judge: Judge,
            contents: Contents, healing: Optional[Healing] = None) -> Outcome:
    """Give each of the ``chosen`` kernels the best build of those ``given`` and those stored; kernels not chosen keep what they have.

    Stored builds that no kernel uses stay for kernels to come, until one of a newer version, or for the same kernel, is used in their place.
    The result's ``need`` lists the paths of modules, as they were given, that are to be stored and whose contents are not at hand.
    """
    host = tree.host
    there = deployed(host, driver)
    known = {(build.release, build.digests) for build in there.builds}
    fresh = [build for build in given if (build.release, build.digests) not in known]
    if not given and not there.builds and not healing:
        lost = [path for stored in there.broken for path in stored.paths if not host.is_file(path)]
        raise KmodError(driver, "there is no %sbuild of this driver on the host%s and none is given"
                        % ("whole " if lost else "", " (%s is missing)" % lost[0] if lost else ""), "Give src or path", "NO_BUILD")
    _refuse_modules_of_others(host, driver, fresh)
    used = _serving_installed(host, there, installed)
    choices = select(chosen, fresh + list(there.builds), judge, _rate(used, given))
    used.update({choice.kernel: choice.build for choice in choices})
    kept = [build for build in there.builds if not _superseded(build, [build for build in used.values() if build])]
    used, new = _place(host, driver, used, {build.directory for build in kept})
    _let_own_serve(used, kept + new, [kernel for kernel in installed if kernel not in chosen and not there.links[kernel.release]], judge)
    outcome = _converge(tree, there, Target(used, new, kept, _all_links(host, driver, used)), installed, choices, contents, healing)
    need = sorted(module.path for build in new for module in build.modules if contents(module) is None)
    outcome.result.update(need=need, msg=_message(driver, outcome.result["kernels"]))
    return outcome


def absent(tree: store.ModuleTree, driver: str, version: Optional[str], release: Optional[str], installed: Sequence[Kernel], judge: Judge,
           healing: Optional[Healing] = None) -> Outcome:
    """Remove a driver, or its builds of a version or for a release; kernels that used those get the next best that is left."""
    host = tree.host
    there = deployed(host, driver)
    whole = version is None and release is None
    kept = [] if whole else [build for build in there.builds
                             if version not in (None, build.version) or release not in (None, build.release)]
    used = _serving_installed(host, there, installed)
    stay = {build.directory for build in kept}
    losing = [kernel for kernel in installed
              if (used[kernel.release] or there.links[kernel.release]) and _directory(used[kernel.release]) not in stay]
    choices = select(losing, kept, judge, _rate(used))
    used.update({choice.kernel: choice.build for choice in choices})
    outcome = _converge(tree, there, Target(used, [], kept, _all_links(host, driver, used)), installed, choices, lambda module: None, healing)
    others = "; there is " + ", ".join("%s for %s" % (build.version or "(no version)", build.release) for build in kept) if kept else ""
    outcome.result.update(need=[], msg="%s: %s" % (driver, "removed" if tree.plan else "nothing to remove" + others))
    return outcome


def _directory(build: Optional[Build]) -> str:
    return build.directory if build else ""


def serving(host: Host, there: Deployed) -> Dict[str, Optional[Build]]:
    """The build that each kernel uses now: the one that its links lead to, else its own, if modules.dep lists that."""
    by_directory = {build.directory: build for build in there.builds}
    found = {}
    for release, links in there.links.items():
        places = [posixpath.dirname(posixpath.normpath(posixpath.join(posixpath.dirname(path), target))) for path, target in links.items()]
        own = [build for build in there.builds if build.release == release] if not links else []
        listed = set(depmod.listed(host, "%s/%s" % (store.modules_root(host), release)).values()) if own else set()
        places += [build.directory for build in own if listed.issuperset(files_of(build))]
        found[release] = next((by_directory[place] for place in places if place in by_directory), None)
    return found


def _serving_installed(host: Host, there: Deployed, installed: Sequence[Kernel]) -> Dict[str, Optional[Build]]:
    """The same, but nothing for a kernel of which only a directory is left."""
    releases = {kernel.release for kernel in installed}
    return {release: build if release in releases else None for release, build in serving(host, there).items()}


def _rate(used: Dict[str, Optional[Build]], given: Sequence[Build] = ()) -> Callable[[str, Build], int]:
    """Of two builds of one version for one release, the one that is given comes first, then the one that the kernel uses already."""
    wanted = {(build.release, build.digests) for build in given}

    def rate(release: str, build: Build) -> int:
        return 2 * ((build.release, build.digests) in wanted) + (build.directory != "" and build.directory == _directory(used[release]))

    return rate


def _let_own_serve(used: Dict[str, Optional[Build]], stored: Sequence[Build], kernels: Sequence[Kernel], judge: Judge) -> None:
    """A build in the tree of the kernel that it was made for is seen there, chosen or not: so it is used, if that kernel takes it."""
    for kernel in kernels:
        own = [build for build in stored if build.release == kernel.release]
        if own and used[kernel.release] is None:
            used[kernel.release] = select([kernel], own, judge)[0].build


def _refuse_modules_of_others(host: Host, driver: str, fresh: Sequence[Build]) -> None:
    given = {module.name: module.path for build in fresh for module in build.modules}
    for stored in store.builds(host) if fresh else []:
        for name, _sha256 in stored.files:
            module = names.module_of(name)
            if stored.driver != driver and module in given:
                raise KmodError(given[module], "the driver %s has a module %s too (%s/%s)" % (stored.driver, module, stored.directory, name),
                                "Deploy both under one driver's name, or remove %s first" % stored.driver, "MODULE_OF_OTHER_DRIVER")


def _superseded(build: Build, used: Sequence[Build]) -> bool:
    if any(other.directory == build.directory for other in used):
        return False
    version = version_key(build.version)
    return any(version_key(other.version) > version or (other.release == build.release and version_key(other.version) == version) for other in used)


def _place(host: Host, driver: str, used: Dict[str, Optional[Build]], taken: Set[str]) -> Tuple[Dict[str, Optional[Build]], List[Build]]:
    """Give the used builds that are not stored yet a directory each."""
    placed: Dict[Any, Build] = {}
    answer = dict(used)
    for release, build in sorted(used.items()):
        if build and not build.directory:
            key = (build.release, build.digests)
            if key not in placed:
                extra = "%s/%s/extra" % (store.modules_root(host), build.release)
                if host.is_link(extra):
                    raise _shared(host, extra)
                placed[key] = build._replace(directory=store.place_for(host, driver, build.release, build.digests, taken))
                taken = taken | {placed[key].directory}
            answer[release] = placed[key]
    return answer, list(placed.values())


def _all_links(host: Host, driver: str, used: Dict[str, Optional[Build]]) -> Dict[str, Dict[str, str]]:
    return {release: _links(host, release, driver, build) for release, build in used.items()}


def _links(host: Host, release: str, driver: str, build: Optional[Build]) -> Dict[str, str]:
    """The links that one kernel needs for a build: none for its own."""
    if build is None or build.release == release:
        return {}
    top = "%s/%s/weak-updates" % (store.modules_root(host), release)
    if host.is_link(top):
        raise _shared(host, top)
    for directory in _link_directories(host, release, driver):
        links = {"%s/%s" % (directory, posixpath.basename(path)): posixpath.relpath(path, directory) for path in files_of(build)}
        if all(host.lstat(path) is None or _is_ours(host, path, driver) for path in links):
            return links
    raise KmodError(directory, "is taken by files that are not ours", "Move them away", "FOREIGN_FILE")


def _shared(host: Host, directory: str) -> KmodError:
    return KmodError(directory, "is a symlink to %s, so that what is put there for one kernel may be another's" % host.readlink(directory),
                     "Make it a directory of its own, or leave that kernel out", "DIRECTORY_IS_LINK")


def _converge(tree: store.ModuleTree, there: Deployed, target: Target, installed: Sequence[Kernel], choices: Sequence[Choice], contents: Contents,
              healing: Optional[Healing]) -> Outcome:
    """Plan what turns ``there`` into ``target``.

    The order keeps each kernel on a build that it takes, wherever a run is cut off: what is new is stored and linked before
    anything is overwritten, links to what is overwritten are made only then, and what is no longer used goes when no index lists it.
    """
    host = tree.host
    fresh = {build.directory for build in target.new}
    overwritten = fresh & {build.directory for build in there.builds}
    for late in (False, True):
        for build in target.new:
            if (build.directory in overwritten) == late:
                store.put_build(tree, build.directory, {file_name(module): contents(module) or _described(module) for module in build.modules})
        for release in sorted(target.used):
            if (_directory(target.used[release]) in overwritten) == late:
                _relink(tree, there.links[release], target.links[release])
    listing = _listing(host, there, target)
    if listing.overrides:
        tree.put(_override_file(there.driver), File(Content.of(listing.overrides.encode("utf-8", "surrogateescape"))))
    else:
        tree.remove_first(_override_file(there.driver))
    for build in target.kept:
        store.keep_build(tree, build.directory, {posixpath.basename(module.path): module.sha256 for module in build.modules})
    staying = fresh | {build.directory for build in target.kept}
    for stored in store.builds(host, there.driver):
        if stored.directory not in staying:
            store.remove_build(tree, stored)
    ours = {path for links in (there.links, target.links) for each in links.values() for path in each}
    healed = healing(tree, ours) if healing else []
    tree.touched.update(store.directories(host, there.driver))  # also those that a run that was cut off left empty
    for release in _to_refresh(host, there.driver, target, listing, [kernel.release for kernel in installed], tree):
        depmod.refresh(tree.plan, "%s/%s" % (store.modules_root(host), release), listing.wanted.get(release, {}), tree.removed)
    tree.sweep()
    rows = [_row(choice, target, listing.overridden) for choice in choices]
    return Outcome({"driver": there.driver, "kernels": rows, "healed": healed, "left": sorted(tree.left)}, serving(host, there), target.used)


def _relink(tree: store.ModuleTree, before: Dict[str, str], after: Dict[str, str]) -> None:
    for path, target in sorted(after.items()):
        tree.put(path, Link(target))
    for path in sorted(before):
        if path not in after:
            tree.remove(path)


def _described(module: KernelModule) -> Content:
    """A module whose contents are not at hand: good for showing a plan, not for applying it."""

    def chunks() -> Iterable[bytes]:
        raise KmodError(module.path, "its contents were not sent", "Run the module through its action plugin", "NOT_SENT")

    return Content(module.size, module.sha256, chunks, binary=True)


def _override_file(driver: str) -> str:
    return "/etc/depmod.d/outoftree.kmod-%s.conf" % driver


class Listing(NamedTuple):
    """What depmod is to list, and what it takes: the override file's text, empty if none is needed, and the releases that need it."""

    wanted: Dict[str, Dict[str, str]]  # kernel release -> module name -> path
    overrides: str
    overridden: Set[str]


def _listing(host: Host, there: Deployed, target: Target) -> Listing:
    """For each module of ours, in each tree that has it: the file that the kernel is to use, or else the one that would be listed without ours.

    A link lies only where it is what the kernel is to use, so its line may speak of all kernels, those to come too; other lines speak of one.
    """
    lines: Set[Tuple[bool, str]] = set()
    answer = Listing({}, "", set())
    stored = {path for build in store.builds(host, there.driver) for path in build.paths}
    for release, build in sorted(target.used.items()):
        top = "%s/%s" % (store.modules_root(host), release)
        used = set(target.links[release]) or set(files_of(build) if build else [])
        ours = {path for each in list(target.kept) + list(target.new) if each.release == release for path in files_of(each)} | used
        rules = config(host, release, _override_file(there.driver))
        found = by_name(host, top, rules) if ours else {}
        for name in sorted({names.module_of(path) for path in ours}):
            foreign = [path for path in found.get(name, []) if path not in stored and path not in there.links[release]]
            candidates = foreign + sorted(path for path in ours if names.module_of(path) == name)
            best = next((path for path in candidates if path in used), None) or depmod.winner(rules, top, foreign)
            if best:
                answer.wanted.setdefault(release, {})[name] = best
                if depmod.winner(rules, top, candidates) != best:
                    everywhere = best in target.links[release]
                    lines.add((everywhere, depmod.override(best, top, everywhere)))
                    answer.overridden.add(release)
    head = "# Made by outoftree.kmod: these files of %s win over others of the same name.\n" % there.driver
    return answer._replace(overrides=head + "".join(line for _everywhere, line in sorted(lines)) if lines else "")


def _to_refresh(host: Host, driver: str, target: Target, listing: Listing, installed: Sequence[str],
                tree: store.ModuleTree) -> List[str]:
    """The kernels for which depmod is to be run: a file of theirs changes, or modules.dep does not say of it what it should (a run was cut off)."""
    root = store.modules_root(host)
    touched = [path for path in tree.plan.paths() + tree.removed if path.startswith(root + "/") and names.may_be_module(path)]
    changed = {path[len(root) + 1:].split("/", 1)[0] for path in touched}
    fresh = {build.directory for build in target.new}
    return [release for release in installed if release in changed or _directory(target.used[release]) in fresh
            or _stale(host, "%s/%s" % (root, release), driver, listing.wanted.get(release, {}))]


def _stale(host: Host, directory: str, driver: str, wanted: Dict[str, str]) -> bool:
    listed = depmod.listed(host, directory)
    places = tuple("%s/%s/%s/" % (directory, place, driver) for place in ("extra", "weak-updates", "weak-updates/outoftree.kmod"))
    if any(listed.get(name) != path for name, path in wanted.items()):
        return True
    if any(path.startswith(places) and not host.exists(path) for path in listed.values()) or depmod.damaged(host, directory, wanted):
        return True
    index = host.lstat(directory + "/modules.dep")
    times = [status.st_mtime for path in wanted.values() for status in (host.lstat(path), host.stat(path)) if status]
    return index is not None and any(index.st_mtime < when <= time.time() for when in times)


def _row(choice: Choice, target: Target, overridden: Set[str]) -> Dict[str, Any]:
    """One kernel's row of the result."""
    build = target.used[choice.kernel]
    links = sorted(target.links[choice.kernel])
    return {"kernel": choice.kernel, "verdict": choice.verdict, "reason": choice.reason, "build": build.release if build else None,
            "version": build.version if build else None, "files": links or (files_of(build) if build else []),
            "linked": bool(links), "override": choice.kernel in overridden}


def _message(driver: str, rows: Sequence[Dict[str, Any]]) -> str:
    served = sum(1 for row in rows if row["build"])
    refused = next((row for row in rows if not row["build"]), None)
    return "%s: %d of %d kernels use it%s" % (driver, served, len(rows), " (%(kernel)s: %(reason)s)" % refused if refused else "")
