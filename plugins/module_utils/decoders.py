# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decoders of compressed streams by the host's shared libraries: zstd, lz4 and lzo, which no Python up to 3.13
has. Each has what Python's own decompressors have (``bz2.BZ2Decompressor``), and ``may_end``.
"""

import ctypes
import struct
from typing import Any

from .errors import DamagedError

PIECE = 1 << 20  # bytes that come out at a time


def decoder(kind: str) -> Any:
    """For one stream; None where the library is not there."""
    names, made = {
        "zstd": (("libzstd.so.1", "libzstd.1.dylib"), _Zstd),
        "lz4": (("liblz4.so.1", "liblz4.1.dylib"), _Lz4),
        "lzo": (("liblzo2.so.2", "liblzo2.2.dylib"), _Lzo),
    }[kind]
    library = _library(*names)
    return None if library is None else made(library)


def _library(*names: str) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer have the same shape."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t)]


class _Zstd:
    """libzstd's streaming decoder, one frame. Its default window limit (128 MiB) bounds the memory."""

    may_end = False

    def __init__(self, library: Any) -> None:
        self.library = library
        library.ZSTD_createDStream.restype = ctypes.c_void_p
        library.ZSTD_freeDStream.argtypes = [ctypes.c_void_p]
        library.ZSTD_decompressStream.argtypes = [
            ctypes.c_void_p,
            ctypes.POINTER(_Buffer),
            ctypes.POINTER(_Buffer),
        ]
        library.ZSTD_decompressStream.restype = ctypes.c_size_t
        library.ZSTD_isError.argtypes = [ctypes.c_size_t]
        library.ZSTD_getErrorName.argtypes = [ctypes.c_size_t]
        library.ZSTD_getErrorName.restype = ctypes.c_char_p
        self.stream = library.ZSTD_createDStream()
        self.output = ctypes.create_string_buffer(PIECE)
        self.pending = b""
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def __del__(self) -> None:
        self.library.ZSTD_freeDStream(self.stream)

    def decompress(self, data: bytes, size: int) -> bytes:
        if self.eof:
            return b""
        data = self.pending + data
        source = ctypes.c_char_p(data)
        given = _Buffer(ctypes.cast(source, ctypes.c_void_p), len(data), 0)
        taken = _Buffer(ctypes.cast(self.output, ctypes.c_void_p), PIECE, 0)
        answer = self.library.ZSTD_decompressStream(self.stream, ctypes.byref(taken), ctypes.byref(given))
        if self.library.ZSTD_isError(answer):
            raise DamagedError(self.library.ZSTD_getErrorName(answer).decode())
        self.pending = data[given.pos :]
        self.needs_input = not self.pending and taken.pos < PIECE
        if answer == 0:
            self.eof, self.unused_data, self.pending = True, self.pending, b""
        return ctypes.string_at(self.output, taken.pos)


class _Lz4:
    """The legacy frame: magic, then blocks of (u32 size, data), each of 8 MiB at most unpacked.

    It has no end mark: it ends with the input, at a size of 0 (padding) or where another stream starts
    (``lib/decompress_unlz4.c``).
    """

    BLOCK = 8 << 20

    def __init__(self, library: Any) -> None:
        self.library = library
        self.pending = bytearray()
        self.started = False
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self.output = ctypes.create_string_buffer(self.BLOCK)
        self.ready = (0, 0)  # from and to where in the output

    @property
    def may_end(self) -> bool:
        return self.started and len(self.pending) < 4 and not any(self.pending)

    def decompress(self, data: bytes, size: int) -> bytes:
        self.pending += data
        start, end = self.ready
        if start == end and not self.eof:
            start, end = 0, self._block()
        piece = ctypes.string_at(ctypes.addressof(self.output) + start, min(size, end - start))
        self.ready = (start + len(piece), end)
        self.needs_input = not piece and not self.eof
        return piece

    def _block(self) -> int:
        """Unpack the next block into the output, if it is there as a whole; how long it is there."""
        if not self.started:
            if len(self.pending) < 4:
                return 0
            self.started = True
            del self.pending[:4]
        if len(self.pending) < 4:
            return 0
        (length,) = struct.unpack_from("<I", self.pending)
        if length == 0 or self.pending[:4] == b"\x02\x21\x4c\x18":
            self.eof, self.unused_data = True, bytes(self.pending)
            del self.pending[:]
            return 0
        if length > self.BLOCK + (self.BLOCK >> 7):
            raise DamagedError("block of %d bytes" % length)
        if len(self.pending) < 4 + length:
            return 0
        count = self.library.LZ4_decompress_safe(
            bytes(self.pending[4 : 4 + length]), self.output, length, self.BLOCK
        )
        if count < 0:
            raise DamagedError("bad block")
        del self.pending[: 4 + length]
        return count  # type: ignore[no-any-return]


class _Lzo:
    """lzop's file format as kernels read it (``lib/decompress_unlzo.c``): a header, then blocks that end with
    a length of 0.
    """

    BLOCK = 256 << 10  # the kernel's own limit
    may_end = False

    def __init__(self, library: Any) -> None:
        self.library = library
        self.pending = b""
        self.started = False
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self.output = ctypes.create_string_buffer(self.BLOCK)

    def decompress(self, data: bytes, size: int) -> bytes:
        self.pending += data
        if not self.started:
            self.started = self._header()
        piece = self._block() if self.started and not self.eof else b""
        self.needs_input = not piece and not self.eof
        return piece

    def _header(self) -> bool:
        """Skip it: versions (3 of 2 bytes), method, level from 0.940 on, flags, filter, mode, times, the name
        and a checksum.
        """
        data = self.pending
        new = data[9:11] >= b"\x09\x40"
        flags_at = 17 if new else 16
        if len(data) < flags_at + 4:
            return False
        (flags,) = struct.unpack(">I", data[flags_at : flags_at + 4])
        name_at = flags_at + 4 + (4 if flags & 0x800 else 0) + (12 if new else 8)
        if len(data) <= name_at or len(data) < name_at + 1 + data[name_at] + 4:
            return False
        self.pending = data[name_at + 1 + data[name_at] + 4 :]
        return True

    def _block(self) -> bytes:
        if self.pending[:4] == b"\0\0\0\0":
            self.eof, self.unused_data, self.pending = True, self.pending[4:], b""
        if self.eof or len(self.pending) < 12:
            return b""
        # a checksum follows, which the kernel does not look at
        full, packed = struct.unpack(">II", self.pending[:8])
        if full > self.BLOCK or packed > full:
            raise DamagedError("block of %d bytes" % max(full, packed))
        if len(self.pending) < 12 + packed:
            return b""
        block, self.pending = self.pending[12 : 12 + packed], self.pending[12 + packed :]
        if packed == full:
            return block
        count = ctypes.c_size_t(full)
        if (
            self.library.lzo1x_decompress_safe(
                block, ctypes.c_size_t(packed), self.output, ctypes.byref(count), None
            )
            or count.value != full
        ):
            raise DamagedError("bad block")
        return ctypes.string_at(self.output, full)
