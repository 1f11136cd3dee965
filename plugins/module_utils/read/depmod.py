# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which module file of each name a kernel loads: depmod's choice.

modprobe goes by ``modules.dep``, so that is the answer where depmod has run. A tree where it has not (a
package just unpacked) is searched as depmod would (``kmod: tools/depmod.c``).
"""

import os
import re
from typing import Dict, Iterable, Iterator, List, NamedTuple, Tuple

from ..errors import KmodError, from_oserror
from ..host import Host
from . import names

DIRECTORIES = (
    "/etc/depmod.d",
    "/run/depmod.d",
    "/usr/local/lib/depmod.d",
    "/usr/lib/depmod.d",
    "/lib/depmod.d",
)
BUILT_IN = "built-in"
INDEX_LIMIT = 64 << 20


class DepmodConfig(NamedTuple):
    """depmod.d for one kernel: directories in falling priority, overridden modules as DIRECTORY/NAME,
    directories that are skipped.
    """

    search: Tuple[str, ...]
    overrides: Tuple[str, ...]
    exclude: Tuple[str, ...]


def dependencies(text: str) -> Dict[str, List[str]]:
    """modules.dep: the path of each module, as it is written there, and the paths that it needs."""
    rows = (line.partition(":") for line in text.splitlines())
    return {path.strip(): needs.split() for path, colon, needs in rows if colon}


def files(text: str) -> List[str]:
    """modules.dep: the path of each module, as it is written there."""
    return [
        path.strip() for path, colon, _needs in (line.partition(":") for line in text.splitlines()) if colon
    ]


def _text(host: Host, modules_dir: str) -> str:
    """A kernel's modules.dep; nothing where depmod never ran."""
    path = modules_dir + "/modules.dep"
    return host.read_text(path, INDEX_LIMIT) if host.is_file(path) else ""


def needs(host: Host, modules_dir: str) -> Dict[str, List[str]]:
    """``dependencies`` of a kernel's tree; nothing where depmod never ran."""
    return dependencies(_text(host, modules_dir))


def by_module(found: Iterable[str], modules_dir: str) -> Dict[str, str]:
    """Module name to path, of paths as modules.dep has them: relative to the directory, or (old depmods)
    whole.
    """
    return {
        names.module_of(path): path if path.startswith("/") else "%s/%s" % (modules_dir, path)
        for path in found
    }


def listed(host: Host, modules_dir: str) -> Dict[str, str]:
    """The path of the one file of each module name that modules.dep lists, which modprobe goes by; nothing
    where depmod never ran.
    """
    return by_module(files(_text(host, modules_dir)), modules_dir)


def chosen(host: Host, modules_dir: str) -> Dict[str, str]:
    """The path of the one file of each module name that is loaded for the kernel whose modules lie in
    ``modules_dir`` (/lib/modules/REL).
    """
    return listed(host, modules_dir) or search(host, modules_dir)


def in_tree(modules: Dict[str, str], modules_dir: str) -> Dict[str, str]:
    """Those of the modules (by name) that came with the kernel."""
    own = (modules_dir + "/kernel/", "/usr" + modules_dir + "/kernel/")
    return {name: path for name, path in modules.items() if path.startswith(own)}


def search(host: Host, modules_dir: str) -> Dict[str, str]:
    """What depmod would choose now.

    Of two files of the same rank, where depmod takes the one that its file system names first, the first by
    name.
    """
    rules = config(host, os.path.basename(modules_dir))
    return {
        name: max(paths, key=lambda path: rank_of(path[len(modules_dir) + 1 :], rules))
        for name, paths in by_name(host, modules_dir, rules).items()
    }


def by_name(host: Host, modules_dir: str, rules: DepmodConfig) -> Dict[str, List[str]]:
    """All files of each module name that depmod would find, by path."""
    found: Dict[str, List[str]] = {}
    for path in _files(host, modules_dir, rules.exclude):
        found.setdefault(names.module_of(path), []).append(path)
    return found


def rank_of(path: str, rules: DepmodConfig) -> int:
    """The priority of a module file, given relative to /lib/modules/REL; higher wins
    (``depmod_module_is_higher_priority``).
    """
    directory, name = os.path.split(path)
    stem = os.path.join(directory, names.stem(name))
    if stem in rules.overrides:  # the last one read is asked first
        return len(rules.search) + len(rules.overrides) - rules.overrides[::-1].index(stem)
    falling = list(rules.search)
    place = next(
        (entry for entry in falling if entry != BUILT_IN and path.startswith(entry.rstrip("/") + "/")),
        BUILT_IN,
    )
    return len(falling) - falling.index(place) if place in falling else 0


def config(host: Host, release: str, without: str = "") -> DepmodConfig:
    """The depmod.d files of all directories in the order of their names, of two with the same name the first
    directory's; not ``without``.
    """
    files: Dict[str, str] = {}
    for directory in DIRECTORIES:
        for name in host.listdir(directory):
            if name.endswith(".conf") and not name.startswith("."):
                files.setdefault(name, directory + "/" + name)
    searched: List[str] = []
    overrides: List[str] = []
    excluded = ["build", "source"]
    for name in sorted(name for name in files if files[name] != without):
        for line in host.read_text(files[name]).replace("\\\n", " ").splitlines():
            words = line.split()
            if words[:1] == ["search"]:
                searched += words[1:]
            elif words[:1] == ["override"] and len(words) > 3 and _matches(words[2], release):
                overrides.append(words[3].strip("/") + "/" + words[1])
            elif words[:1] == ["exclude"]:
                excluded += words[1:]
    return DepmodConfig(tuple(searched or ["updates"]), tuple(overrides), tuple(excluded))


def _matches(pattern: str, release: str) -> bool:
    try:
        return pattern == "*" or re.search(pattern, release) is not None
    except re.error:
        return False


def _files(
    host: Host, directory: str, exclude: Tuple[str, ...], *, above: Tuple[str, ...] = ()
) -> Iterator[str]:
    """All module files below a directory, symlinks resolved inside the root; a symlink to a directory above
    ends there.
    """
    try:
        real, entries = host.scan(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_oserror(directory, error, "list the directory") from None
    except KmodError as error:
        if error.code == "PATH_LOOP":
            return
        raise
    if real in above:
        return
    for entry in entries:
        path = directory + "/" + entry.name
        if entry.name in exclude:
            continue
        if names.is_module_file(entry.name):
            if entry.is_file(follow_symlinks=False) or host.is_file(path):
                yield path
        elif entry.is_dir(follow_symlinks=False) or entry.is_symlink():
            yield from _files(host, path, exclude, above=above + (real,))
