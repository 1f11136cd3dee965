# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a package manager is asked about kernels, and how it answers. Each family's manager is a file beside this one."""

import re
import time
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ... import tools
from ...errors import KmodError
from ...host import Host
from ..export_sources import SourcedExports
from ..exports import VMLINUX, Export
from ..kernels import version_key

NEWEST, ALL = "newest", "all"
QUERY, DOWNLOAD = 180, 1200  # seconds that a manager may take
SILENT = 30  # seconds that a repository may keep silent


class OfferedPackage(NamedTuple):
    """A package in the lists; ``version`` is all of it (with epoch and release), ``digest`` what the lists say
    of the file, where they do.
    """

    name: str
    version: str
    arch: str
    repository: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return "%s %s" % (self.name, self.version)


class OfferedKernel(NamedTuple):
    """A kernel in the lists. ``release`` is as they tell it; the kernel's own files may say otherwise.

    ``small`` are enough for what its loader goes by, ``whole`` is all of it. ``lists`` says how old the lists
    are.
    """

    release: str
    small: Tuple[OfferedPackage, ...]
    whole: Tuple[OfferedPackage, ...]
    newest: bool = False
    lists: str = ""

    def wanted(self, whole: bool) -> Tuple[OfferedPackage, ...]:
        return self.whole if whole or not self.small else self.small

    def as_dict(self) -> Dict[str, Any]:
        """Nothing but what JSON has."""
        packages = {
            name: [dict(each._asdict()) for each in getattr(self, name)] for name in ("small", "whole")
        }
        return dict(self._asdict(), **packages)

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "OfferedKernel":
        """The inverse of ``as_dict``. Errors: KeyError, TypeError for anything else."""
        packages = {name: packages_of(data[name]) for name in ("small", "whole")}
        return cls(**dict(data, **packages))

    def origin(self, whole: bool) -> Tuple[str, ...]:
        return tuple(map(str, self.wanted(whole))) + ((self.lists,) if self.lists else ())


def packages_of(rows: Iterable[Dict[str, str]]) -> Tuple[OfferedPackage, ...]:
    return tuple(OfferedPackage(**row) for row in rows)


class Offers(NamedTuple):
    """What a host would get; no kernel: it has the newest of what it follows already.

    ``age`` is in seconds; ``missing`` are repositories of which no list was ever fetched.
    """

    manager: str
    age: Optional[int]
    kernels: Tuple[OfferedKernel, ...]  # oldest first
    missing: Tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """How old the lists are, in words."""
        if self.age is None:
            return "%s's lists, of unknown age" % self.manager
        days = self.age // 86400
        return "%s's lists, %s old" % (
            self.manager,
            "%d days" % days if days > 1 else "%d hours" % (self.age // 3600),
        )


class Asking(NamedTuple):
    """A host that is asked: the releases that it has, and a private directory on this machine."""

    host: Host
    scratch: str
    installed: Tuple[str, ...]
    machine: str


class PackageManager:
    """One family's. ``name`` is the tool; all methods read, and change nothing."""

    name = ""

    def offers(self, asking: Asking, which: str) -> Offers:
        """Errors: OFFERED_NO_LISTS, OFFERED_NONE, OFFERED_BROKEN, TOOL_MISSING."""
        raise NotImplementedError

    def fetch(self, asking: Asking, packages: Sequence[OfferedPackage], directory: str) -> None:
        """Have the manager download packages, and hold them against what its lists say.

        Errors: OFFERED_UNREACHABLE, OFFERED_DAMAGED, OFFERED_UNSIGNED.
        """
        raise NotImplementedError

    def versions(self, asking: Asking, kernel: OfferedKernel) -> Optional[SourcedExports]:
        """The CRCs of its symbols by the lists alone, where they have them."""
        return None


def ask(
    asking: Asking, argv: Sequence[str], *, directory: Optional[str] = None, limit: int = QUERY
) -> tools.Completed:
    """Run the manager. Error: OFFERED_BROKEN, where it takes too long."""
    try:
        return asking.host.run(argv, check=False, timeout=limit, directory=directory)
    except KmodError as error:
        if error.code != "TOOL_TIMEOUT":
            raise
        if limit == DOWNLOAD:
            raise unreachable(argv[0], error.why) from None
        raise broken(argv[0], error.why) from None


def said(done: tools.Completed) -> str:
    """What a tool said, without its remarks, in one line."""
    lines = [line.strip() for line in (done.err or done.out).splitlines() if line.strip()]
    grave = [line for line in lines if re.match(r"(E:|error|fatal|curl)", line, re.I)] or lines
    return "; ".join(grave)[-600:] or "exit status %d, and it said nothing" % done.status


def broken(name: str, why: str) -> KmodError:
    return KmodError(
        name,
        "cannot say which kernels there are: %s" % why,
        "Mend what it complains of, and run again",
        "OFFERED_BROKEN",
    )


def no_lists(name: str, why: str, then: str) -> KmodError:
    return KmodError(name, why, then, "OFFERED_NO_LISTS")


def none(name: str, why: str) -> KmodError:
    return KmodError(
        name,
        "knows of no kernel for this host: %s" % why,
        "See whether the repository that has the kernels is enabled",
        "OFFERED_NONE",
    )


def unreachable(name: str, why: str) -> KmodError:
    return KmodError(
        name,
        "could not fetch a kernel's packages: %s" % why,
        "See whether the host reaches the repository; if its lists are old, fetch them again",
        "OFFERED_UNREACHABLE",
    )


def damaged(name: str, why: str) -> KmodError:
    return KmodError(
        name,
        "refused a package that is not what its lists say: %s" % why,
        "Fetch the lists again, and see whether the mirror is whole",
        "OFFERED_DAMAGED",
    )


def unsigned(name: str, why: str) -> KmodError:
    return KmodError(
        name,
        "could not verify where a package comes from: %s" % why,
        "Have the repository's key trusted, or mark it as trusted",
        "OFFERED_UNSIGNED",
    )


def chosen(found: Iterable[OfferedKernel], which: str, installed: Iterable[str]) -> Tuple[OfferedKernel, ...]:
    """Of kernels of one kind (a flavour) the newest, or all that are newer than what is installed of it."""
    ordered = sorted(found, key=lambda kernel: version_key(kernel.release))
    newest = max(map(version_key, installed), default=None)
    fresh = [kernel for kernel in ordered if newest is None or version_key(kernel.release) > newest]
    last = fresh[-1:]
    return tuple(kernel._replace(newest=kernel in last) for kernel in (last if which == NEWEST else fresh))


def ordered(kernels: Iterable[OfferedKernel]) -> Tuple[OfferedKernel, ...]:
    by_release: Dict[str, OfferedKernel] = {}
    for kernel in kernels:
        by_release.setdefault(kernel.release, kernel)
    return tuple(sorted(by_release.values(), key=lambda kernel: version_key(kernel.release)))


def age(host: Host, paths: Iterable[str], *, oldest: bool = False) -> Optional[int]:
    """Seconds since the newest (or the oldest) of these was written; None where none is there."""
    found = [status.st_mtime for status in map(host.stat, paths) if status is not None]
    return max(0, int(time.time() - (min(found) if oldest else max(found)))) if found else None


def of_provides(text: str, origin: str) -> Optional[SourcedExports]:
    """The symbols of a kernel by what its package provides: ``kernel(SYM) = 0xCRC`` on Enterprise Linux,
    ``ksym(FLAVOUR:SYM) = CRC`` on SUSE. Who may use them is not told, so nothing is barred by it.
    """
    rows = re.findall(r"^\s*(?:kernel\(|ksym\([^:)\s]+:)([^)\s]+)\) = (?:0x)?([0-9a-fA-F]+)\s*$", text, re.M)
    exports = {symbol: Export(int(crc, 16), False, "", VMLINUX) for symbol, crc in rows}
    return SourcedExports(exports, origin, ()) if exports else None


def release_of(text: str) -> Optional[str]:
    """The release of a kernel by what its package provides."""
    found = re.search(r"^\s*kernel(?:-[\w.]+)*-uname-r(?:\((\S+)\)| = (\S+))\s*$", text, re.M)
    return (found.group(1) or found.group(2)) if found else None


def lines(text: str) -> List[List[str]]:
    """Rows of a query, in columns."""
    return [line.split("\t") for line in text.splitlines() if "\t" in line]
