# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel exports."""

from itertools import repeat
from typing import Dict, Iterable, List, NamedTuple, Optional

from .. import compression
from ..errors import KmodError
from ..host import MODULES, Host
from . import names

VMLINUX = "vmlinux"


class Export(NamedTuple):
    """One exported symbol.

    ``crc`` is None where no versions are kept, ``namespace`` is "" for none, ``owner`` is vmlinux or a
    module's name.
    """

    crc: Optional[int]
    gpl: bool
    namespace: str
    owner: str


# Where distributions put a kernel's symvers; each may be compressed in any way, whatever its name says.
_PLACES = (
    "/boot/symvers-%s",  # EL, SUSE
    *(directory + "/%s/symvers" for directory in MODULES),  # EL 8 on, Fedora; SUSE
    "/usr/src/kernels/%s/Module.symvers",  # EL: kernel-devel
    *(directory + "/%s/build/Module.symvers" for directory in MODULES),  # Debian, Arch, SUSE: headers
    "/usr/src/linux-headers-%s/Module.symvers",  # Debian: headers without the kernel itself
)


def find_symvers(host: Host, release: str) -> Optional[str]:
    """The first place where the kernel's symvers lies; None where there is none."""
    places = (place % release + ending for place in _PLACES for ending in (".xz", ".gz", ".zst", ""))
    return next((path for path in places if host.is_file(path)), None)


def read_symvers(host: Host, path: str) -> Dict[str, Export]:
    return from_symvers(compression.decompress(host.read(path), path), path)


def named_in_symvers(host: Host, path: str, symbols: Iterable[str]) -> bool:
    """Whether it lists any of these, without all the rest being read."""
    data = compression.decompress(host.read(path), path)
    return any(b"\t" + symbol.encode("utf-8", "surrogateescape") + b"\t" in data for symbol in symbols)


def from_symvers(data: bytes, what: str = "Module.symvers") -> Dict[str, Export]:
    """A symvers file's exports by symbol name. Error: SYMVERS_BAD for a file that is none.

    The columns are crc, symbol, module, export kind and, since 5.4, a namespace, which stood third until 5.6
    (``scripts/mod/modpost.c: read_dump``). A file in which every CRC is 0 is of a kernel without
    CONFIG_MODVERSIONS.
    """
    text = data.decode("utf-8", "backslashreplace").rstrip("\n")
    lines = text.split("\n")
    width = lines[0].count("\t") + 1
    if width in (4, 5) and text.count("\t") == (width - 1) * len(lines):
        fields = text.replace("\n", "\t").split("\t")
        columns = [fields[column::width] for column in range(width)]
    else:
        columns = list(
            map(
                list,
                zip(*[(line.split("\t") + [""])[:5] for line in lines if 4 <= line.count("\t") + 1 <= 5]),
            )
        )
    found = _exports(columns)
    if not found:
        raise KmodError(
            what,
            "lists no exported symbol",
            "Install the kernel's symvers (its -devel or -headers package) again",
            "SYMVERS_BAD",
        )
    return (
        found
        if any(export.crc for export in found.values())
        else {symbol: export._replace(crc=None) for symbol, export in found.items()}
    )


def _exports(columns: List[List[str]]) -> Dict[str, Export]:
    """Column by column, which takes a quarter of the time that line by line takes; empty if these are no
    columns of a symvers.
    """
    if len(columns) == 5 and columns[4][0].startswith("EXPORT_"):
        columns = [columns[place] for place in (0, 1, 3, 4, 2)]
    if len(columns) < 4 or not all(kind.startswith("EXPORT_") for kind in set(columns[3])):
        return {}
    owners = {module: _owner(module) for module in set(columns[2])}
    gpl = {kind: "_GPL" in kind and not kind.endswith("_FUTURE") for kind in set(columns[3])}
    try:
        crcs = list(map(int, columns[0], repeat(16)))
    except ValueError:
        return {}
    rows = zip(
        crcs,
        map(gpl.__getitem__, columns[3]),
        columns[4] if len(columns) > 4 else repeat(""),
        map(owners.__getitem__, columns[2]),
    )
    return dict(zip(columns[1], map(tuple.__new__, repeat(Export), rows)))


def _owner(module: str) -> str:
    return VMLINUX if module.startswith(VMLINUX) else names.module_of(module)
