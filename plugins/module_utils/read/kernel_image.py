# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exported symbols of a kernel, read out of its boot image.

Two steps: ``unpack`` takes off what the boot loader or the image's own decompressor takes off, ``exports``
finds the symbol tables in what is left. An ELF image (x86, ppc64le) names the tables' sections. A raw one
(arm64, riscv64, loongarch64, s390x) does not: there a symbol name that every kernel exports leads to the
entry that points to it, the entry to its table, and the sizes of all tables must add up.
"""

import re
import struct
from itertools import chain, islice
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from .. import compression
from ..errors import KmodError
from ..host import Host
from .exports import Export
from .unpacked import WINDOW, Bytes, Store

# the largest seen has 63 MiB; more than this, with a decoder's window, would be too much for a small host
LIMIT = 160 << 20
_NEXT = "Install the kernel's symvers (its -devel or -headers package)"
_FEW = 16  # false traces to follow before giving up; real images have at most four
LAYERS = 3  # Image.gz inside of an EFI zboot image, and one to spare

Entry = Tuple[int, int]  # where among the strings a symbol's name and namespace start; -1 for no namespace


class KernelImage(NamedTuple):
    """A kernel as it is linked: ``kind`` for people, the bytes, byte order (of struct), and the link address
    of the first byte.

    ``base`` is None for an ELF file, whose sections have addresses of their own.
    """

    kind: str
    data: Bytes
    order: str
    base: Optional[int]


def exports(image: KernelImage, what: str) -> Dict[str, Export]:
    """Everything that this kernel itself exports, by symbol name.

    Errors: KERNEL_IMAGE_NO_EXPORTS, naming ``what``.
    """
    try:
        found = _from_sections(image) if image.base is None else _from_scan(image)
    except (struct.error, ValueError, LookupError, OverflowError):
        # tables that lead out of the file or do not match
        found = {}
    if not found:
        raise KmodError(
            what,
            "no table of exported symbols was found in this kernel image (%s)" % image.kind,
            _NEXT,
            "KERNEL_IMAGE_NO_EXPORTS",
        )
    return found


def vermagic(image: KernelImage) -> Optional[str]:
    """The kernel's own vermagic, which stands in it as a string of its own (``kernel/module/main.c:
    vermagic``).
    """
    banner = re.search(rb"Linux version ([!-~]{1,64}) ", image.data)
    if banner is None:
        return None
    found = re.search(re.escape(banner.group(1)) + rb" [ -\x27*-~]{1,160}(?=\0)", image.data)
    return found.group().decode("ascii") if found else None


# Unpacking


def of(host: Host, path: str) -> KernelImage:
    """The kernel inside of a host's boot image; the last one is kept, since its exports, certificates and
    types are asked for one after another. Errors: those of ``unpack``.
    """
    status = host.stat(path)
    key = (host.root, path, status and (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns))
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = unpack(host.read(path), path)
    return _LAST[key]


_LAST: Dict[Any, KernelImage] = {}


def unpack(data: Bytes, what: str) -> KernelImage:
    """The kernel inside of a boot image, or of a vmlinux.

    Errors: KERNEL_IMAGE_UNKNOWN, COMP_UNSUPPORTED, COMP_CORRUPT, COMP_LIMIT, each naming ``what``.
    """
    kinds: List[str] = []
    for _unused in range(LAYERS):
        compressed = compression.detect(bytes(data[:8]))
        if data[:4] == b"\x7fELF":
            return KernelImage(" ".join(kinds + ["vmlinux"]), data, ">" if data[5:6] == b"\2" else "<", None)
        if data[0x202:0x206] == b"HdrS":
            kind, data = "bzImage", _bzimage(data, what)
        elif data[:2] == b"MZ" and data[4:8] == b"zimg":
            kind, data = "zboot", _zboot(data, what)
        elif data[0x38:0x3C] == b"ARM\x64":
            # Documentation/arch/arm64/booting.rst; its entries are relative to themselves
            return KernelImage(" ".join(kinds + ["arm64 Image"]), data, "<", 0)
        elif data[0x38:0x3C] == b"RSC\x05":
            # Documentation/arch/riscv/boot-image-header.rst; linked at KERNEL_LINK_ADDR
            return KernelImage(" ".join(kinds + ["riscv Image"]), data, "<", 0xFFFFFFFF80000000)
        elif data[:2] == b"MZ" and data[0x38:0x3C] == b"\xcd\x23\x82\x81":
            # arch/loongarch/kernel/head.S: the load offset is at 24
            return KernelImage(
                " ".join(kinds + ["loongarch Image"]),
                data,
                "<",
                0x9000000000000000 + struct.unpack_from("<Q", data, 24)[0],
            )
        elif data[0x10008:0x1000E] == b"S390EP":
            # arch/s390/boot/head.S; linked at TEXT_OFFSET (arch/s390/kernel/vmlinux.lds.S)
            compressed, data = _s390(data, what)
            return KernelImage("s390 " + compressed, data, ">", 0x100000)
        elif compressed:
            kind, data = compressed, _inflate(data, what)
        else:
            break
        kinds.append(kind)
    raise KmodError(what, "is not a kernel image of a known kind", _NEXT, "KERNEL_IMAGE_UNKNOWN")


def _bzimage(data: Bytes, what: str) -> Bytes:
    """x86: the payload lies ``payload_offset`` behind the setup sectors (``Documentation/arch/x86/boot.rst``,
    protocol 2.08).
    """
    head = bytes(data[:0x250]).ljust(0x250, b"\0")
    version, (offset, length) = (
        struct.unpack_from("<H", head, 0x206)[0],
        struct.unpack_from("<II", head, 0x248),
    )
    if version < 0x208 or not length:
        raise KmodError(
            what,
            "is a bzImage that does not say where its payload is (boot protocol %#x)" % version,
            _NEXT,
            "KERNEL_IMAGE_UNKNOWN",
        )
    start = ((head[0x1F1] or 4) + 1) * 512 + offset
    return _inflate(memoryview(data)[start : start + length], what, tail=4)


def _zboot(data: Bytes, what: str) -> Bytes:
    """EFI zboot: offset and size of the payload at 8 and 12
    (``drivers/firmware/efi/libstub/zboot-header.S``).
    """
    start, length = struct.unpack("<II", bytes(data[8:16]).ljust(8, b"\0"))
    return _inflate(memoryview(data)[start : start + length], what)


def _s390(data: Bytes, what: str) -> Tuple[str, Bytes]:
    """s390x: the payload lies somewhere behind the decompressor, and the kernel build puts its unpacked size
    (u32) behind it.
    """
    problem = KmodError(
        what, "no compressed kernel was found in this s390x image", _NEXT, "KERNEL_IMAGE_UNKNOWN"
    )
    for match in islice(re.finditer(rb"\x1f\x8b\x08|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|BZh9", data), _FEW):
        kind = compression.detect(match.group() + b"...") or ""
        try:
            decoder = compression.Decoder(kind, what)
            unpacked = _drain(decoder, data[match.start() :], what)
        except KmodError as error:
            if error.code == "COMP_LIMIT":
                raise
            if error.code == "COMP_UNSUPPORTED":
                problem = error
            continue  # bytes of the decompressor's code that only look like a magic
        if decoder.eof and (kind == "gzip" or decoder.unused[:4] == struct.pack("<I", len(unpacked))):
            return kind, unpacked
    raise problem


def _inflate(data: Union[Bytes, memoryview], what: str, tail: int = 0) -> Bytes:
    """One compressed stream; what follows it is ignored.

    ``tail``: bytes of unpacked size behind an lz4 stream, which has no end of its own.
    """
    kind = compression.detect(bytes(data[:8]))
    if kind is None:
        return bytes(data)
    if kind == "lz4" and tail:
        data = data[:-tail]
    decoder = compression.Decoder(kind, what)
    unpacked = _drain(decoder, data, what)
    decoder.finish()
    return unpacked


def _drain(decoder: compression.Decoder, data: Union[Bytes, memoryview], what: str) -> Bytes:
    """Errors: COMP_LIMIT, those of the decoder."""
    store = Store()
    with memoryview(data) as view:
        for at in range(0, len(view), WINDOW):
            for piece in decoder.feed(bytes(view[at : at + WINDOW])):
                store.add(piece)
                if store.size > LIMIT:
                    raise KmodError(
                        what,
                        "unpacks to more than %d bytes" % LIMIT,
                        "It is damaged, or made to do harm",
                        "COMP_LIMIT",
                    )
            if decoder.eof and len(decoder.unused) >= 4:  # all that is asked of what follows
                break
    return store.whole()


# Tables

TABLE_LIMIT = 4 << 20  # ten times what the largest kernels have

# The tables of an ELF image and whether only GPL modules see them (include/asm-generic/vmlinux.lds.h). The
# last three went with 5.12;
# the loader only warned of a proprietary user of a "future" one.
_TABLES = (("", False), ("_gpl", True), ("_unused", False), ("_unused_gpl", True), ("_gpl_future", False))


class _Section(NamedTuple):
    address: int
    offset: int
    size: int


class _Shape(NamedTuple):
    """One ``struct kernel_symbol`` (``include/linux/export-internal.h``): value, name and perhaps namespace,
    each an address or (with HAVE_ARCH_PREL32_RELOCATIONS) the distance from the field to what it points to.
    """

    word: str
    width: int
    fields: int
    relative: bool

    @property
    def size(self) -> int:
        return self.width * self.fields


_SHAPES = (
    _Shape("i", 4, 3, True),  # 5.4 on
    _Shape("i", 4, 2, True),  # 4.19 on, and EL8
    _Shape("Q", 8, 3, False),
    _Shape("Q", 8, 2, False),  # EL7
)
_NOWHERE = _Section(0, 0, 0)


def _from_sections(image: KernelImage) -> Dict[str, Export]:
    """An ELF image: each table is a section."""
    sections = _sections(image)
    strings = sections.get("__ksymtab_strings", _NOWHERE)
    flags = sections.get("__kflagstab")
    found: Dict[str, Export] = {}
    for suffix, gpl in _TABLES:
        table = sections.get("__ksymtab" + suffix, _NOWHERE)
        if not 0 < table.size <= TABLE_LIMIT:
            continue
        entries = _whole(image, table, strings)
        if not entries:
            return {}
        count = len(entries)
        versions = sections.get("__kcrctab" + suffix, _NOWHERE)
        crcs = _crcs(image, versions.offset, versions.size, count=count)
        gpls = _flags(image, flags.offset, flags.size) if flags else [gpl] * count
        found.update(_exports(image, strings, entries, crcs=crcs, gpls=gpls))
    return found


def _sections(image: KernelImage) -> Dict[str, _Section]:
    """The section headers of an ELF file, by name."""
    wide = image.data[4:5] == b"\2"
    (table,) = struct.unpack_from(image.order + ("Q" if wide else "I"), image.data, 40 if wide else 32)
    size, count, names = struct.unpack_from(image.order + "HHH", image.data, 58 if wide else 46)
    form = image.order + ("I12xQQQ" if wide else "I8xIII")
    headers = [struct.unpack_from(form, image.data, table + size * index) for index in range(count)]
    return {_text(image.data, headers[names][2] + header[0]): _Section(*header[1:]) for header in headers}


# Names that every modular kernel exports: where to start in an image that has no sections.
_ANCHORS = (b"module_layout\0", b"kfree\0", b"vfree\0")
_WINDOW = 1 << 20  # the tables of 30000 symbols, and on the other side their strings
_RUN = re.compile(rb"[\0 -~]*")


def _from_scan(image: KernelImage) -> Dict[str, Export]:
    """A raw image: the tables lie one behind the other (``vmlinux.lds.h: RO_DATA``): __ksymtab,
    __ksymtab_gpl, __kcrctab, __kcrctab_gpl and __ksymtab_strings; in 7.x __ksymtab, __kcrctab, __kflagstab
    and __ksymtab_strings.

    Each is sorted by name, so the second one starts where the order breaks; and the bytes between the last
    entry and the first string, shared by the number of symbols, tell which of the others are there. What does
    not add up is not believed.
    """
    for strings, entries, end in islice(_runs(image), _FEW):
        count = len(entries)
        first = strings.offset + min(pointer for pointer in chain(*entries) if pointer >= 0)
        each, rest = divmod(first - end, count)
        width, flagged = each & ~1, each & 1
        if rest or width not in (0, 4, 8):
            continue
        names = [_text(image.data, strings.offset + name) for name, _unused in entries]
        breaks = [index for index in range(1, count) if names[index] < names[index - 1]]
        if len(breaks) == 1 - flagged:
            gpls = (
                _flags(image, end + width * count, count)
                if flagged
                else [index >= breaks[0] for index in range(count)]
            )
            return _exports(
                image, strings, entries, crcs=_crcs(image, end, width * count, count=count), gpls=gpls
            )
    return {}


def _runs(image: KernelImage) -> Iterator[Tuple[_Section, List[Entry], int]]:
    """Runs of entries that point into a run of text: the text, the entries, and where they end."""
    for anchor in _ANCHORS:
        # a name may be the tail of a longer one: no NUL before it
        for match in islice(re.finditer(anchor, image.data), _FEW):
            strings = _text_around(image, match.start())
            for shape in _SHAPES:
                for slot in islice(_slots(image, shape, match.start(), end=strings.offset), _FEW):
                    entries, end = _grow(image, shape, slot, strings=strings, limit=match.start())
                    if len(entries) >= _FEW:
                        yield strings, entries, end


def _text_around(image: KernelImage, at: int) -> _Section:
    """The run of printable text and NULs that holds ``at``; it may start a few bytes early, where other data
    happens to look like text.
    """
    before = _RUN.match(image.data[max(0, at - _WINDOW) : at][::-1])
    behind = _RUN.match(image.data, at, at + _WINDOW)
    start = at - (before.end() if before else 0)
    return _Section((image.base or 0) + start, start, (behind.end() if behind else at) - start)


def _slots(image: KernelImage, shape: _Shape, target: int, *, end: int) -> Iterator[int]:
    """Offsets before ``end`` of fields that point to ``target``."""
    start = max(0, end - _WINDOW) & -8
    if shape.relative:
        words = struct.unpack_from("%s%di" % (image.order, (end - start) // 4), image.data, start)
        for index, word in enumerate(words):
            if word == target - start - 4 * index:
                yield start + 4 * index
        return
    address = struct.pack(image.order + "Q", (image.base or 0) + target)
    found = image.data.find(address, start, end)
    while found >= 0:
        yield found
        found = image.data.find(address, found + 1, end)


def _grow(
    image: KernelImage, shape: _Shape, slot: int, *, strings: _Section, limit: int
) -> Tuple[List[Entry], int]:
    """The longest run of entries around the one whose name field is at ``slot``, and where it ends."""
    first = slot - shape.width
    most = min(first, _WINDOW) // shape.size, min(limit - first, _WINDOW) // shape.size
    reach = _FEW
    while True:
        above, below = (min(reach, each) for each in most)
        start = first - above * shape.size
        entries = _entries(
            image,
            _Section((image.base or 0) + start, start, (above + below) * shape.size),
            strings,
            shape=shape,
        )
        low = high = above
        while low > 0 and entries[low - 1]:
            low -= 1
        while high < len(entries) and entries[high]:
            high += 1
        if (low or above == most[0]) and (high < len(entries) or below == most[1]):
            return [entry for entry in entries[low:high] if entry], start + high * shape.size
        reach *= 8


# Entries


def _whole(image: KernelImage, table: _Section, strings: _Section) -> List[Entry]:
    """All entries of a table, by the one shape with which each of them points to the strings; none if there
    is no such shape.
    """
    for shape in _SHAPES:
        if table.size % shape.size == 0:
            entries = _entries(image, table, strings, shape=shape)
            if all(entries):
                return [entry for entry in entries if entry]
    return []


def _entries(
    image: KernelImage, table: _Section, strings: _Section, *, shape: _Shape
) -> List[Optional[Entry]]:
    """The entries of a table; None for what is no entry of this shape, as its name or namespace is not among
    the strings.
    """
    inside = range(strings.size)
    names = _pointers(image, table, strings, shape=shape, field=1)
    namespaces = (
        _pointers(image, table, strings, shape=shape, field=2) if shape.fields == 3 else [-1] * len(names)
    )
    return [
        (name, namespace) if name in inside and (namespace in inside or namespace == -1) else None
        for name, namespace in zip(names, namespaces)
    ]


def _pointers(
    image: KernelImage, table: _Section, strings: _Section, *, shape: _Shape, field: int
) -> List[int]:
    """Where one field of each entry points, as an offset into the strings; -1 for no pointer (the namespace
    of most symbols until 5.9).
    """
    words = struct.unpack_from(
        "%s%d%s" % (image.order, table.size // shape.width, shape.word), image.data, table.offset
    )[field :: shape.fields]
    if not shape.relative:
        return [word - strings.address if word else -1 for word in words]
    first = table.address + field * shape.width - strings.address
    return [
        word + place if word else -1
        for word, place in zip(words, range(first, first + table.size, shape.size))
    ]


def _crcs(image: KernelImage, offset: int, size: int, *, count: int) -> Sequence[Optional[int]]:
    """A __kcrctab: u32 from 4.10 on, before that an unsigned long; none without CONFIG_MODVERSIONS.

    MODULE_REL_CRCS (ppc64 before 5.19) keeps distances here: they come out as wrong CRCs, which the check
    against in-tree modules finds.
    """
    if not size:
        return [None] * count
    word = {4 * count: "I", 8 * count: "Q"}[size]
    return struct.unpack_from("%s%d%s" % (image.order, count, word), image.data, offset)


def _flags(image: KernelImage, offset: int, size: int) -> List[bool]:
    """A __kflagstab: one byte a symbol, of which bit 0 is GPL-only (``include/linux/module_symbol.h``)."""
    return [bool(flag & 1) for flag in image.data[offset : offset + size]]


def _exports(
    image: KernelImage,
    strings: _Section,
    entries: List[Entry],
    *,
    crcs: Sequence[Optional[int]],
    gpls: List[bool],
) -> Dict[str, Export]:
    if not len(entries) == len(crcs) == len(gpls):
        raise ValueError("tables of unequal length")
    namespaces = {
        start: _text(image.data, strings.offset + start)
        for start in {entry[1] for entry in entries}
        if start >= 0
    }
    return {
        _text(image.data, strings.offset + name): Export(crc, gpl, namespaces.get(namespace, ""), "vmlinux")
        for (name, namespace), crc, gpl in zip(entries, crcs, gpls)
    }


def _text(data: Bytes, start: int) -> str:
    end = data.find(b"\0", start, start + 512)
    if end < 0:
        raise ValueError("no end")
    return data[start:end].decode("ascii")
