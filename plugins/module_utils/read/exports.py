# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel exports."""

from itertools import repeat
from typing import (
    AbstractSet,
    Any,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

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


class Exports(Mapping[str, Export]):
    """Exports by symbol, kept as columns: a kernel has ten thousand and more, of which a driver needs a hundred,
    and making an Export of each takes longer than reading them.
    """

    def __init__(self, symbols: Iterable[str], columns: Sequence[List[Any]]) -> None:
        self._columns = columns  # one a field of Export
        self._rows = dict(zip(symbols, range(len(columns[0]))))
        self._made: Dict[str, Export] = {}

    @classmethod
    def made(cls, exports: Mapping[str, Export]) -> "Exports":
        return cls(exports, list(map(list, zip(*exports.values()))) or [[], [], [], []])

    def __getitem__(self, symbol: str) -> Export:
        found = self._made.get(symbol)
        if found is None:
            row = self._rows[symbol]
            found = self._made[symbol] = Export(*[column[row] for column in self._columns])
        return found

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def owners(self) -> FrozenSet[str]:
        """Who exports any of them."""
        return frozenset(map(self._columns[-1].__getitem__, self._rows.values()))

    def of(self, owners: AbstractSet[str]) -> Dict[str, str]:
        """What these export: symbol to owner."""
        column = self._columns[-1]
        return (
            {symbol: column[row] for symbol, row in self._rows.items() if column[row] in owners}
            if owners
            else {}
        )

    def put(self, symbol: str, export: Export) -> None:
        self._made[symbol] = export
        self._rows[symbol] = len(self._columns[0])
        for column, value in zip(self._columns, export):
            column.append(value)

    def drop(self, owners: AbstractSet[str]) -> None:
        """Be without what these export."""
        for symbol in self.of(owners):
            del self._rows[symbol]
            self._made.pop(symbol, None)


def owners_of(exports: Mapping[str, Export]) -> FrozenSet[str]:
    if isinstance(exports, Exports):
        return exports.owners
    return frozenset(export.owner for export in exports.values())


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


def read_symvers(host: Host, path: str) -> Exports:
    return from_symvers(compression.decompress(host.read(path), path), path)


def named_in_symvers(host: Host, path: str, symbols: Iterable[str]) -> bool:
    """Whether it lists any of these, without all the rest being read."""
    data = compression.decompress(host.read(path), path)
    return any(b"\t" + symbol.encode("utf-8", "surrogateescape") + b"\t" in data for symbol in symbols)


def from_symvers(data: bytes, what: str = "Module.symvers") -> Exports:
    """A symvers file's exports by symbol name. Error: SYMVERS_BAD for a file that is none.

    The columns are crc, symbol, module, export kind and, since 5.4, a namespace, which stood third until 5.6
    (``scripts/mod/modpost.c: read_dump``). A file in which every CRC is 0 is of a kernel without
    CONFIG_MODVERSIONS.
    """
    text = data.decode("utf-8", "backslashreplace").rstrip("\n")
    width = text.partition("\n")[0].count("\t") + 1
    if width in (4, 5) and text.count("\t") == (width - 1) * (text.count("\n") + 1):
        fields = text.replace("\n", "\t").split("\t")
        columns = [fields[column::width] for column in range(width)]
    else:
        columns = list(
            map(
                list,
                zip(
                    *[
                        (line.split("\t") + [""])[:5]
                        for line in text.split("\n")
                        if 4 <= line.count("\t") + 1 <= 5
                    ]
                ),
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
    return found


def _exports(columns: List[List[str]]) -> Optional[Exports]:
    """Column by column, which takes a fraction of the time that line by line takes; None if these are no
    columns of a symvers.
    """
    if len(columns) == 5 and columns[4][0].startswith("EXPORT_"):
        columns = [columns[place] for place in (0, 1, 3, 4, 2)]
    if len(columns) < 4 or not all(kind.startswith("EXPORT_") for kind in set(columns[3])):
        return None
    owner = {module: _owner(module) for module in set(columns[2])}
    gpl = {kind: "_GPL" in kind and not kind.endswith("_FUTURE") for kind in set(columns[3])}
    try:
        crcs = list(map(int, columns[0], repeat(16)))
    except ValueError:
        return None
    return Exports(
        columns[1],
        (
            crcs if any(crcs) else [None] * len(crcs),
            list(map(gpl.__getitem__, columns[3])),
            columns[4] if len(columns) > 4 else [""] * len(crcs),
            list(map(owner.__getitem__, columns[2])),
        ),
    )


def _owner(module: str) -> str:
    return VMLINUX if module.startswith(VMLINUX) else names.module_of(module)
