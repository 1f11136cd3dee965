# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files out of .deb and .rpm packages, without the tools of either family and without installing anything."""

import io
import struct
import tarfile
from typing import Callable, Iterator, List, Tuple

from ..compression import decompress
from ..errors import KmodError
from ..host import Host
from . import names

_RPM_LEAD = b"\xed\xab\xee\xdb"
_RPM_HEADER = b"\x8e\xad\xe8\x01"
_AGAIN = "Copy the package again"


def modules(host: Host, path: str) -> List[Tuple[str, bytes]]:
    """(path in the package, bytes) of the kernel modules in it, as they are packed.

    Errors: those of ``files``; NO_MODULES.
    """
    found = list(files(host, path, names.is_readable_module))
    if not found:
        raise KmodError(
            path,
            "there is no .ko file in this package",
            "Give the package that has the modules",
            "NO_MODULES",
        )
    return found


def files(host: Host, path: str, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, bytes]]:
    """(path in the package, bytes) of the regular files whose path is ``wanted``.

    Errors: PACKAGE_DAMAGED, those of ``decompress``.
    """
    data = host.read(path)
    try:
        if data.startswith(b"!<arch>\n"):
            found = _deb(data, path, wanted)
        elif data.startswith(_RPM_LEAD):
            found = _cpio(decompress(_rpm_payload(data), path), wanted)
        else:
            raise ValueError("it is neither a .deb nor an .rpm")
        for name, content in found:
            yield "/".join(part for part in name.split("/") if part not in ("", ".", "..")), content
    except (ValueError, IndexError, struct.error, tarfile.TarError) as error:
        raise KmodError(path, "cannot be read as a package: %s" % error, _AGAIN, "PACKAGE_DAMAGED") from None


def _deb(data: bytes, path: str, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, bytes]]:
    """deb(5): an ar archive with, among others, data.tar in some compression."""
    at = 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode("latin-1").rstrip(" /"), int(data[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(
                fileobj=io.BytesIO(decompress(data[at + 60 : at + 60 + size], path)), mode="r:"
            ) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() and wanted(member.name) else None
                    if content is not None:
                        yield member.name, content.read()
            return
        at += 60 + size + size % 2
    raise ValueError("there is no data.tar in it")


def _rpm_payload(data: bytes) -> bytes:
    """Behind the lead of 96 bytes lie two headers, of which the first is padded to 8 (rpm:
    docs/manual/format_v4.md).
    """
    at = 96
    for padded in (True, False):
        magic, entries, size = struct.unpack_from(">4s4xII", data, at)
        if magic != _RPM_HEADER:
            raise ValueError("there is no header at byte %d" % at)
        at += 16 + 16 * entries + size
        if padded:
            at += -at % 8
    return data[at:]


def _cpio(data: bytes, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, bytes]]:
    """cpio(5), the "new ASCII" format: the sizes are padded to 4.

    Hard links carry their data with the last of them, modules have none.
    """
    at = 0
    while data[at : at + 6] in (b"070701", b"070702"):
        mode, size, name_size = (int(data[at + start : at + start + 8], 16) for start in (14, 54, 94))
        name = data[at + 110 : at + 110 + name_size - 1].decode("utf-8", "surrogateescape")
        start = at + 110 + name_size + -(110 + name_size) % 4
        if name == "TRAILER!!!":
            return
        if start + size > len(data):
            break
        if mode >> 12 == 8 and wanted(name):
            yield name, data[start : start + size]
        at = start + size + -size % 4
    raise ValueError("its archive ends too early")
