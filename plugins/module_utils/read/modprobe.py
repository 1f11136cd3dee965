# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What modprobe makes of a module besides loading it: modprobe.d(5), and which modprobe there is."""

import fnmatch
import re
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from ..errors import forgiving
from ..host import Host
from .names import alias_of

DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)
_PROGRAMS = ("/usr/bin/kmod", "/bin/kmod", "/usr/sbin/kmod", "/sbin/kmod")


class ModprobeConfig(NamedTuple):
    """Each with the file that says so: ``blacklist`` by module, ``install`` as (pattern of names, command),
    ``options`` as (module, words).

    ``unsupported`` is the file in which SUSE's modprobe is told to load no module that is not supported.
    """

    blacklist: Dict[str, str] = {}
    install: Tuple[Tuple[str, str, str], ...] = ()
    options: Tuple[Tuple[str, Tuple[str, ...], str], ...] = ()
    unsupported: Optional[str] = None

    def command(self, name: str) -> Optional[Tuple[str, str]]:
        """(command, file) that is run instead of loading a module; of several the first (``kmod:
        libkmod-module.c``).
        """
        return next(
            (
                (command, path)
                for pattern, command, path in self.install
                if fnmatch.fnmatchcase(name, pattern)
            ),
            None,
        )


def config(host: Host) -> ModprobeConfig:
    """The files of all directories in the order of their names; of two with one name that of the first
    directory counts (``kmod: libkmod/libkmod-config.c``).
    """
    files: Dict[str, str] = {}
    for directory in DIRECTORIES:
        for name in host.listdir(directory):
            if (
                name.endswith(".conf")
                and not name.startswith(".")
                and not host.is_dir(directory + "/" + name)
            ):
                files.setdefault(name, directory + "/" + name)
    blacklist: Dict[str, str] = {}
    install, options = [], []
    unsupported: Optional[str] = None
    for _name, path in sorted(files.items()):
        for words in _lines(host, path):
            verb, rest = words[0], words[1:]
            if verb == "blacklist" and rest:
                blacklist.setdefault(alias_of(rest[0]), path)
            elif verb == "install" and len(rest) > 1:
                install.append((alias_of(rest[0]), " ".join(rest[1:]), path))
            elif verb == "options" and len(rest) > 1:
                options.append((alias_of(rest[0]), tuple(rest[1:]), path))
            elif verb == "allow_unsupported_modules" and rest:
                unsupported = path if rest[0] == "0" else None
    return ModprobeConfig(blacklist, tuple(install), tuple(options), unsupported)


def _lines(host: Host, path: str) -> Iterator[List[str]]:
    text = ""
    with forgiving():  # modprobe goes on without one that it cannot read
        text = host.read_text(path)
    for line in text.replace("\\\n", "").split("\n"):
        words = re.findall(r"[^\t ]+", line)  # nothing else parts words there: a CR is part of the name
        if words and not words[0].startswith("#"):
            yield words


def blacklisted_at_boot(command_line: str) -> FrozenSet[str]:
    """The modules of ``modprobe.blacklist=`` of a kernel's command line, which modprobe reads as if it were
    in a file.
    """
    found = re.findall(r"(?:^|\s)modprobe\.blacklist=(\S+)", command_line)
    return frozenset(alias_of(name) for name in ",".join(found).split(",") if name)


def version(host: Host) -> Optional[int]:
    """The version of the host's kmod, which stands in its program; None where there is none that says."""
    path = next((each for each in _PROGRAMS if host.is_file(each)), None)
    found = None
    with forgiving():
        found = re.search(rb"kmod version (\d+)", host.read(path, 16 << 20)) if path else None
    return int(found.group(1)) if found else None
