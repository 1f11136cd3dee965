# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Structures as a kernel and a module were compiled with them, by their BTF (``Documentation/bpf/btf.rst``).

A module's BTF continues that of the kernel which it was built for: its type ids and names count on from
there. Since 6.11 a module may carry the part of that kernel's which it builds on (``.BTF.base``): names and
sizes without members.
"""

import functools
import re
import struct
from array import array
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from ..errors import KmodError
from ..host import Host

if TYPE_CHECKING:  # what unpacks images is imported when one is
    from .kernel_image import KernelImage

RUNNING = "/sys/kernel/btf/vmlinux"
_MAGIC = 0xEB9F
(
    INT,
    PTR,
    ARRAY,
    STRUCT,
    UNION,
    ENUM,
    FWD,
    TYPEDEF,
    VOLATILE,
    CONST,
    RESTRICT,
    FUNC,
    FUNC_PROTO,
    VAR,
    DATASEC,
    FLOAT,
    DECL_TAG,
    TYPE_TAG,
    ENUM64,
) = range(1, 20)
# What follows a type's 12 bytes: so much, and so much for each of its parts.
_MORE = {
    INT: (4, 0),
    ARRAY: (12, 0),
    STRUCT: (0, 12),
    UNION: (0, 12),
    ENUM: (0, 8),
    FUNC_PROTO: (0, 8),
    VAR: (4, 0),
    DATASEC: (0, 12),
    DECL_TAG: (4, 0),
    ENUM64: (0, 12),
}
_THROUGH = (PTR, TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
_NAMING = _THROUGH + (FUNC, VAR, DECL_TAG)  # those whose third word is a type

Bytes = Union[bytes, memoryview]
Layout = Tuple[int, Tuple[Tuple[str, int], ...]]  # size in bytes, and each member's name and offset in bits


class BtfError(ValueError):
    """Bytes that are no BTF."""


class Struct(NamedTuple):
    name: str
    size: int


def check_header(data: Bytes, order: str) -> Tuple[int, int, int, int]:
    """(start of the types, their size, start of the names, their size).

    Error: BtfError for one that the kernel refuses.
    """
    if len(data) < 24:
        raise BtfError("cut off")
    magic, version, flags, size, types_at, types, names_at, names = struct.unpack_from(
        order + "HBBIIIII", data
    )
    if (
        magic != _MAGIC
        or version != 1
        or flags
        or size + types_at + types > len(data)
        or size + names_at + names > len(data)
    ):
        raise BtfError("bad header")
    return size + types_at, types, size + names_at, names


class Btf:
    """The types of one section, in the order of their ids, which start with 1.

    Error: BtfError for what is damaged or of a newer kind.
    """

    def __init__(self, data: Bytes, order: str = "<") -> None:
        types_at, types, names_at, names = check_header(data, order)
        self.data = bytes(data[types_at : types_at + types])
        self.names = bytes(data[names_at : names_at + names])
        self.order = order
        self.heads = struct.Struct(order + "III")
        self.places = array("I")  # where each type is
        # and each structure or union of a name: several files may each have their own
        self.structs: Dict[str, List[int]] = {}
        at = 0
        while at < types:
            self.places.append(at)
            kind, parts, name, _unused = self.head(at) if at + 12 <= types else (0, 0, 0, 0)
            if not 0 < kind <= ENUM64:
                raise BtfError("no type")
            if kind in (STRUCT, UNION) and name:
                self.structs.setdefault(self.name(name), []).append(at)
            fixed, each = _MORE.get(kind, (0, 0))
            at += 12 + fixed + each * parts
        if at > types:
            raise BtfError("cut off")

    def head(self, place: int) -> Tuple[int, int, int, int]:
        """(kind, number of parts, offset of its name, size or type) of the type at a place."""
        name, info, value = self.heads.unpack_from(self.data, place)
        return info >> 24 & 0x1F, info & 0xFFFF, name, value

    def name(self, offset: int) -> str:
        return self.names[offset : offset + 512].partition(b"\0")[0].decode("ascii", "replace")

    def words(self, place: int, count: int) -> Tuple[int, ...]:
        """The numbers behind a type's 12 bytes."""
        return struct.unpack_from("%s%dI" % (self.order, count), self.data, place + 12)

    def referred(self) -> Set[int]:
        """The ids of the types that these refer to."""
        found: Set[int] = set()
        for place in self.places:
            kind, parts, _unused, value = self.head(place)
            if kind in _NAMING:
                found.add(value)
            elif kind == ARRAY:
                found.add(self.words(place, 1)[0])
            elif kind in (STRUCT, UNION):
                found.update(self.words(place, 3 * parts)[1::3])
            elif kind == FUNC_PROTO:
                found.add(value)
                found.update(self.words(place, 2 * parts)[1::2])
        return found

    def sized(self) -> Iterator[Struct]:
        """The named structures and unions."""
        for name, places in self.structs.items():
            for place in places:
                yield Struct(name, self.head(place)[3])

    def behind(self, ids: Iterable[int]) -> Set[str]:
        """The names of the structures that these types are, point to or are arrays of.

        Ids that are not of this section are left out.
        """
        found: Set[str] = set()
        for number in ids:
            for _unused in range(32):  # no chain of real types is that long
                place = self.place(number)
                if place is None:
                    break
                kind, _parts, name, value = self.head(place)
                if kind in (STRUCT, UNION) and name:
                    found.add(self.name(name))
                if kind not in _THROUGH and kind != ARRAY:
                    break
                number = self.words(place, 1)[0] if kind == ARRAY else value
        return found

    def place(self, number: int) -> Optional[int]:
        return self.places[number - 1] if 0 < number <= len(self.places) else None

    def layouts(self, names: Iterable[str]) -> Dict[str, List[Layout]]:
        """All structures and unions of these names."""
        return {
            name: [(self.head(place)[3], tuple(self._members(place, 0, 0))) for place in self.structs[name]]
            for name in names
            if name in self.structs
        }

    def _members(self, place: int, start: int, depth: int) -> Iterator[Tuple[str, int]]:
        kind, parts, _name, _size = self.head(place)
        bitfields = self.heads.unpack_from(self.data, place)[1] >> 31
        words = self.words(place, 3 * parts)
        for name, number, offset in zip(words[::3], words[1::3], words[2::3]):
            at = start + (offset & 0xFFFFFF if bitfields else offset)
            inner = self.place(number)
            if name:
                yield self.name(name), at
            if inner is not None and depth < 16:
                kind, _parts, has_name, _size = self.head(inner)
                if kind in (STRUCT, UNION) and not has_name:  # it is nowhere but here: its members are ours
                    yield from self._members(inner, at, depth + 1)


@functools.lru_cache(maxsize=8)  # each takes some 7 MB, and unpacking an image a second
def of_kernel(host: Host, image: Optional[str], running: bool) -> Optional[Btf]:
    """A kernel's own types; None where it has none or its image cannot be read."""
    from . import kernel_image

    try:
        if running and host.is_file(RUNNING):
            return Btf(host.read(RUNNING))
        return find(kernel_image.of(host, image)) if image else None
    except (KmodError, BtfError):
        return None


def find(image: "KernelImage") -> Optional[Btf]:
    """The one that an unpacked image has: wherever it lies, its header tells."""
    for match in re.finditer(re.escape(struct.pack(image.order + "HBBI", _MAGIC, 1, 0, 24)), image.data):
        try:
            return Btf(memoryview(image.data)[match.start() :], image.order)
        except BtfError:
            continue
    return None
