# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making depmod list the right one of several files of one module, and running it on any root (kmod:
tools/depmod.c).
"""

import os
import posixpath
import re
import stat
import time
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError, forgiving, from_oserror
from ..host import Host
from ..lock import scratch
from ..plan import Change, Content, Derived, File, Plan, look, same
from ..read import index
from ..read.depmod import (
    DIRECTORIES,
    INDEX_LIMIT,
    DepmodConfig,
    by_module,
    chosen,
    config,
    files,
    listed,
    rank_of,
)
from ..read.kernels import modules_root, own_files
from ..read.names import is_module_file, module_of, stem
from . import stand_ins

DEPTH = 16  # of directories below extra/ and the like
# below which a driver has its directory of modules or of links
PLACES = ("extra", "weak-updates", "weak-updates/outoftree.kmod", "updates")


def winner(rules: DepmodConfig, modules_dir: str, paths: Sequence[str]) -> Optional[str]:
    """The path that depmod lists out of files of one module; None where two rank equal, since it then keeps
    the one that readdir gave first.
    """
    ranks = {path: rank_of(path[len(modules_dir) + 1 :], rules) for path in paths}
    best = [path for path in paths if ranks[path] == max(ranks.values())]
    return best[0] if len(best) == 1 else None


def override(path: str, modules_dir: str, everywhere: bool) -> str:
    """The depmod.d line by which this file wins.

    Its directory is compared exactly, its name as the file's name is written.
    """
    directory, name = posixpath.split(path[len(modules_dir) + 1 :])
    return "override %s %s %s\n" % (
        stem(name),
        "*" if everywhere else _pattern(posixpath.basename(modules_dir)),
        directory,
    )


def _pattern(release: str) -> str:
    """How a line names one kernel: kmod reads a regular expression (6.12.9+deb13 would not match itself),
    module-init-tools a plain release.
    """
    return re.sub(r"[^\w.-]", lambda special: "[%s]" % special.group(), release)


def linked(host: Host, release: str, drivers: Sequence[str]) -> Tuple[str, ...]:
    """The module files that depmod has chosen for a kernel out of the drivers' directories."""
    modules_dir = "%s/%s" % (modules_root(host), release)
    directories = tuple("%s/%s/%s/" % (modules_dir, place, driver) for place in PLACES for driver in drivers)
    return tuple(sorted(path for path in chosen(host, modules_dir).values() if path.startswith(directories)))


def driver_of(path: str, drivers: Sequence[str]) -> Optional[str]:
    """The one of the drivers in whose directory a module file lies; None for one that lies elsewhere."""
    below = path.partition("/modules/")[2].partition("/")[2]
    return next(
        (driver for driver in drivers if below.startswith(tuple("%s/%s/" % (at, driver) for at in PLACES))),
        None,
    )


# Running it

# what it reads besides the modules
ITS_INPUT = ("modules.order", "modules.builtin", "modules.builtin.modinfo")


def refresh(plan: Plan, modules_dir: str, wanted: Dict[str, str], *, without: Iterable[str]) -> None:
    """Plan that the indexes of one kernel list the modules as they are by then, but for the files
    ``without``, which go after that.

    ``wanted`` is what they are to say of our modules: name to path. They are made elsewhere, looked at, and
    put in their place one by one, modules.dep last. So whatever is cut off or full, modprobe finds what it
    found before, and an old modules.dep tells that it was cut off.
    """
    room = sum(
        status.st_size
        for status in (plan.host.lstat(path) for path in _present(plan.host, modules_dir))
        if status
    )
    gone = frozenset(without)
    shelves = [step.aside for step in plan.steps if isinstance(step, Derived) and step.tool == "depmod"]
    shelf = shelves[0] if shelves else stand_ins.Shelf()
    plan.derive(
        modules_dir + "/modules.dep",
        "depmod",
        lambda host: _made(host, modules_dir, wanted, without=gone, shelf=shelf),
        room=room * 5 // 4,
        aside=shelf,
    )


def _present(host: Host, modules_dir: str) -> List[str]:
    return [
        "%s/%s" % (modules_dir, name)
        for name in host.listdir(modules_dir)
        if name.startswith("modules.") and name not in ITS_INPUT
    ]


def _made(
    host: Host,
    modules_dir: str,
    wanted: Dict[str, str],
    *,
    without: FrozenSet[str],
    shelf: stand_ins.Shelf,
) -> List[Change]:
    # what goes may have stood in front of the kernel's own, or given them something
    own = stand_ins.known(host, modules_dir, shelf.own) if not without else None
    run = (own and _run_with(host, modules_dir, own, shelf)) or _run(host, modules_dir, without=without)
    _check(host, modules_dir, run.made, wanted=wanted, given=run.given, without=without, wrong=run.wrong)
    changes = []
    for name in sorted(run.made, key=lambda name: (name == "modules.dep", name != "modules.dep.bin", name)):
        path = "%s/%s" % (modules_dir, name)
        before = look(host, path)
        after = File(
            Content.of(run.made[name]),
            *((before.mode, before.owner) if isinstance(before, File) else (0o644, None)),
        )
        # its time says when all were made
        if name == "modules.dep" or not (isinstance(before, File) and same(before, after)):
            changes.append(Change(path, before, after))
    return changes


class Run(NamedTuple):
    """What a run of depmod came to: the indexes by name, the paths that it was given beside the kernel's own,
    and what is wrong with it by its own words.
    """

    made: Dict[str, bytes]
    given: List[str]
    wrong: List[str]


def _run_with(host: Host, modules_dir: str, own: stand_ins.Own, shelf: stand_ins.Shelf) -> Optional[Run]:
    """A run with stand-ins; None where it has to read everything."""
    run = None
    with forgiving():
        run = _run(host, modules_dir, without=frozenset(), own=own, shelf=shelf)
    if (
        run is None
        or run.wrong
        or not all(host.is_file("%s/%s" % (modules_dir, name)) for name in run.made)
        or not stand_ins.agree(host, posixpath.basename(modules_dir), own, run.made)
    ):
        return None
    return run


def _run(
    host: Host,
    modules_dir: str,
    *,
    without: FrozenSet[str],
    own: Optional[stand_ins.Own] = None,
    shelf: Optional[stand_ins.Shelf] = None,
) -> Run:
    """With stand-ins for the kernel's own modules where ``own`` tells of them."""
    release = posixpath.basename(modules_dir)
    with scratch() as directory:
        try:
            base = lay_out(directory, release)
            given = _mirror(host, modules_dir, base, without=without, kernel=own is None)
            if own and shelf:
                shelf.lay_out(host, modules_dir, base, own)
            said = host.run(
                ["depmod", "-b", os.path.join(directory, "root"), *_configuration(host, directory), release]
            ).err
            wrong = [
                "it could not read %s" % name
                for name in ITS_INPUT
                if os.path.lexists(os.path.join(base, name)) and "could not open %s " % name in said
            ]
            wrong += [
                "it could not write: %s" % line
                for line in said.splitlines()
                if re.search(r"(openat|renameat)\(", line)
            ]
            if own and shelf:
                shelf.take_back(base)
            return Run(read_back(base), given, wrong)
        except OSError as error:
            raise from_oserror(
                str(error.filename or directory), error, "lay out the modules for depmod"
            ) from None


def lay_out(directory: str, release: str) -> str:
    """Make an empty module tree for depmod below ``directory``/root; answers with where its modules go."""
    root = os.path.join(directory, "root")
    base = os.path.join(root, "usr/lib/modules", release)
    os.makedirs(base)
    os.symlink("usr/lib", os.path.join(root, "lib"))  # depmod looks in lib or in usr/lib, as it was built
    return base


def read_back(base: str) -> Dict[str, bytes]:
    """The indexes that depmod has made, by name."""
    made = {}
    for name in sorted(os.listdir(base)):
        path = os.path.join(base, name)
        if name.startswith("modules.") and name not in ITS_INPUT and stat.S_ISREG(os.lstat(path).st_mode):
            with open(path, "rb") as handle:
                made[name] = handle.read()
    return made


def _mirror(host: Host, modules_dir: str, base: str, *, without: FrozenSet[str], kernel: bool) -> List[str]:
    """The kernel's tree as symlinks into it: its own modules (with ``kernel``) as a whole, the others file by
    file, since some are to be left out.

    depmod takes a list of the kernel's that it cannot read on for one that ends there: so it is given copies,
    read whole. Answers with the paths of those others, but for what depmod is told to skip.
    """
    given: List[str] = []
    for name in host.listdir(modules_dir):
        path = "%s/%s" % (modules_dir, name)
        if name in ITS_INPUT and host.is_file(path):
            with open(os.path.join(base, name), "wb") as copy:
                copy.write(host.read(path, INDEX_LIMIT))
        elif name == "kernel":
            if kernel:
                os.symlink(host.real(path), os.path.join(base, name))
        elif name not in ("build", "source") and (not name.startswith("modules.") or host.is_dir(path)):
            given += _mirror_files(host, path, os.path.join(base, name), without=without)
    skipped = set(config(host, posixpath.basename(modules_dir)).exclude)
    return [path for path in given if not skipped & set(path[len(modules_dir) :].split("/"))]


def _mirror_files(
    host: Host, path: str, target: str, *, without: FrozenSet[str], depth: int = 0
) -> List[str]:
    if host.is_dir(path) and depth < DEPTH:
        os.makedirs(target, exist_ok=True)
        found: List[str] = []
        for name in host.listdir(path):
            found += _mirror_files(
                host, "%s/%s" % (path, name), os.path.join(target, name), without=without, depth=depth + 1
            )
        return found
    if path in without or not is_module_file(path) or not host.is_file(path):
        return []
    host.lay(path, target)
    return [path]


def _configuration(host: Host, directory: str) -> List[str]:
    """A root elsewhere, or as it would be, has a depmod.d of its own, which -b does not reach."""
    if host.live and host.as_it_is:
        return []
    places = [
        host.laid_out(each, os.path.join(directory, "depmod.d.%d" % number))
        for number, each in enumerate(DIRECTORIES)
    ]
    return [word for place in places for word in ("-C", place)]


def _check(
    host: Host,
    modules_dir: str,
    made: Dict[str, bytes],
    *,
    wanted: Dict[str, str],
    given: Sequence[str],
    without: FrozenSet[str],
    wrong: List[str],
) -> None:
    """depmod ends with 0 whatever it has written, and leaves out in silence what it could not look at.

    Nothing that was listed and is still there may be missing, nor a module that it was given beside the
    kernel's own; ours have to be found.

    Of a kernel that has no modules left (all is built in, or it was removed) modules.dep is empty, and the
    binary one is not.
    """
    lists = by_module(files(made.get("modules.dep", b"").decode("utf-8", "surrogateescape")), modules_dir)
    binary = index.entries(made.get("modules.dep.bin", b""))
    nothing = bool(made.get("modules.dep.bin")) and "modules.dep" in made and not binary
    wrong += [
        "it has not written %s" % name
        for name in ("modules.dep", "modules.dep.bin")
        if not made.get(name) and not nothing
    ]
    wrong += [
        "%s is empty" % name
        for name, data in sorted(made.items())
        if not data and _had(host, modules_dir, name)
    ]
    wrong += [
        "%s is damaged" % name
        for name, data in sorted(made.items())
        if name.endswith(".bin") and data and not index.whole(data)
    ]
    wrong += ["modules.dep.bin lacks %s" % name for name in sorted(set(lists) - set(binary))[:1]]
    wrong += ["%s is not listed" % path for name, path in sorted(wanted.items()) if lists.get(name) != path]
    wrong += ["%s is not listed" % path for path in given if module_of(path) not in lists][:1]
    # by then the kernel's own ones of these names are to be found
    lost = {module_of(path) for path in without} - set(lists)
    wrong += [
        "%s is not listed" % path
        for path in (own_files(host, modules_dir) if lost else ())
        if module_of(path) in lost
    ][:1]
    before = listed(host, modules_dir) or {
        name: name for name in map(module_of, own_files(host, modules_dir))
    }
    wrong += [
        "%s is no longer listed" % name
        for name, path in sorted(before.items())
        if name not in lists and path not in without and (path == name or host.is_file(path))
    ][:1]
    if wrong:
        release = posixpath.basename(modules_dir)
        raise KmodError(
            "depmod",
            "has not made the indexes of kernel %s as they should be: %s" % (release, "; ".join(wrong[:3])),
            "Look whether depmod works on this host, and whether there is room for it in /dev/shm and /var/tmp",
            "DEPMOD_FAILED",
        )


def _had(host: Host, modules_dir: str, name: str) -> bool:
    """Whether an index was not empty, and what it was made of is there."""
    status = host.stat("%s/%s" % (modules_dir, name))
    source = {
        "modules.builtin.bin": "modules.builtin",
        "modules.builtin.alias.bin": "modules.builtin.modinfo",
    }.get(name, "modules.dep")
    return (
        name != "modules.dep"
        and status is not None
        and status.st_size > 0
        and host.is_file("%s/%s" % (modules_dir, source))
    )


def stale(
    host: Host, modules_dir: str, wanted: Dict[str, str], places: Iterable[str], *, foreign: bool = False
) -> bool:
    """Whether the indexes do not say what they should: a run was cut off, or a file was replaced.

    ``wanted`` is what they are to say, name to path; in ``places``, directories below, lies nothing that they
    list and that is gone. Of ``foreign`` files, which packages bring, others of these names may be listed, and
    the times at which those were written say nothing of when they came.
    """
    lists = listed(host, modules_dir)
    below = tuple("%s/%s/" % (modules_dir, place) for place in places)
    if any(path.startswith(below) and not host.exists(path) for path in lists.values()):
        return True
    if foreign and not wanted:
        return False
    if any(name not in lists if foreign else lists.get(name) != path for name, path in wanted.items()):
        return True
    if damaged(host, modules_dir, wanted):
        return True
    index = host.lstat(modules_dir + "/modules.dep")
    found = [status_of(path) for path in wanted.values() for status_of in (host.lstat, host.stat)]
    times = [status.st_ctime if foreign else status.st_mtime for status in found if status]
    return index is not None and any(index.st_mtime < when <= time.time() for when in times)


def damaged(host: Host, modules_dir: str, wanted: Iterable[str] = ()) -> bool:
    """Whether the indexes are not what a whole run of depmod leaves: modprobe reads modules.dep.bin, which
    has to know what modules.dep lists.
    """
    plain, binary = modules_dir + "/modules.dep", modules_dir + "/modules.dep.bin"
    if not host.is_file(plain) or not host.is_file(binary):
        return True
    data = host.read(binary, INDEX_LIMIT)
    if not index.whole(data):
        return True
    lists = listed(host, modules_dir)
    if not lists:
        return next(own_files(host, modules_dir), None) is not None
    return any(
        (index.lookup(data, name) or ":").partition(":")[0] != lists[name][len(modules_dir) + 1 :]
        for name in wanted
        if name in lists
    )
