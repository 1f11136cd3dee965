# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed streams, told by their magic and decoded piece by piece with a cap on what comes out.

gzip, bzip2, xz and lzma are Python's own; zstd is Python's from 3.14 on and before that, like lz4 and lzo,
the host's shared library: a host that boots from such files has it (kmod, systemd and lzop link to them).
"""

import bz2
import ctypes
import struct
import zlib
from typing import Any, Iterable, Iterator, Optional

from .errors import KmodError

try:
    import lzma
except ImportError:  # a Python built without liblzma
    lzma = None  # type: ignore[assignment]
try:
    from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
except ImportError:
    zstd = None

PIECE = 1 << 20
LIMIT = 512 << 20  # no module, symvers or kernel image is anywhere near

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),  # the legacy frame: the only one that kernels read
    (b"\x89LZO", "lzo"),
    (b"\x5d\x00\x00", "lzma"),
)


def detect(head: bytes) -> Optional[str]:
    """The name of the compression that starts with these bytes (6 are enough), None for anything else."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def decompress(data: bytes, what: str, limit: int = LIMIT) -> bytes:
    """The whole of a compressed file; data that is not compressed comes back as it is.

    Errors: those of ``stream``.
    """
    return data if detect(data) is None else b"".join(stream((data,), what, limit))


def stream(pieces: Iterable[bytes], what: str, limit: int = LIMIT) -> Iterator[bytes]:
    """What compressed data that comes in pieces unpacks to, in pieces; data that is not compressed as it
    comes.

    Several streams in a row are one file, as for gzip and xz themselves; NULs behind them are padding.
    Errors: COMP_CORRUPT, COMP_LIMIT, COMP_UNSUPPORTED, each naming ``what``.
    """
    source = iter(pieces)
    data = b""
    while len(data) < 6:
        piece = next(source, b"")
        if not piece:
            break
        data += piece
    kind = detect(data)
    if kind is None:
        yield data
        yield from source
        return
    total = 0
    while data:
        decoder = Decoder(kind, what)
        while data:
            for piece in decoder.feed(data):
                total += len(piece)
                if total > limit:
                    raise KmodError(
                        what,
                        "unpacks to more than %d bytes" % limit,
                        "It is damaged, or made to do harm",
                        "COMP_LIMIT",
                    )
                yield piece
            data = b"" if decoder.eof else next(source, b"")
        decoder.finish()
        data = _behind(decoder.unused, source)
        if data and detect(data) != kind:
            raise KmodError(
                what,
                "%d bytes that are not %s follow the compressed data" % (len(data), kind),
                "Copy the file again",
                "COMP_CORRUPT",
            )


def _behind(data: bytes, source: Iterator[bytes]) -> bytes:
    """What follows a stream, enough of it to tell what it is, without the NULs between."""
    data = data.lstrip(b"\0")
    while len(data) < 6:
        piece = next(source, b"")
        if not piece:
            break
        data = (data + piece).lstrip(b"\0")
    return data


class Decoder:
    """One compressed stream.

    ``feed`` gives pieces of at most PIECE bytes; once ``eof`` is set, ``unused`` is what followed the stream.
    """

    def __init__(self, kind: str, what: str) -> None:
        self.kind = kind
        self.what = what
        self.eof = False
        self.unused = b""
        self._engine = _engine(kind, what)

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.eof:
            self.unused += data
            return
        try:
            piece = self._engine.decompress(data, PIECE)
            while piece or not (self._engine.eof or self._engine.needs_input):
                yield piece
                if self._engine.eof:
                    break
                piece = self._engine.decompress(b"", PIECE)
        except _errors() as error:
            raise KmodError(
                self.what,
                "the %s data is damaged: %s" % (self.kind, error),
                "Copy the file again",
                "COMP_CORRUPT",
            ) from None
        if self._engine.eof:
            self.eof = True
            self.unused = self._engine.unused_data

    def finish(self) -> None:
        """No more input will come: an error unless the stream is complete."""
        if not self.eof and not self._engine.may_end:
            raise KmodError(
                self.what, "the %s data ends too early" % self.kind, "Copy the file again", "COMP_CORRUPT"
            )


class DamagedError(Exception):
    """What zstd and lz4 say of data that they cannot decode."""


def _errors() -> Any:
    known = [zlib.error, OSError, EOFError, ValueError, DamagedError]
    if lzma is not None:
        known.append(lzma.LZMAError)
    if zstd is not None:
        known.append(zstd.ZstdError)
    return tuple(known)


def _engine(kind: str, what: str) -> Any:
    if kind == "gzip":
        return _Gzip()
    if kind == "bzip2":
        return _Wrapped(bz2.BZ2Decompressor())
    if kind in ("xz", "lzma") and lzma is not None:
        form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
        return _Wrapped(lzma.LZMADecompressor(format=form, memlimit=192 << 20))
    if kind == "zstd":
        if zstd is not None:
            return _Wrapped(zstd.ZstdDecompressor())
        library = _library("libzstd.so.1", "libzstd.1.dylib")
        if library is not None:
            return _Zstd(library)
    if kind == "lz4":
        library = _library("liblz4.so.1", "liblz4.1.dylib")
        if library is not None:
            return _Lz4(library)
    if kind == "lzo":
        library = _library("liblzo2.so.2", "liblzo2.2.dylib")
        if library is not None:
            return _Lzo(library)
    need = {
        "zstd": "libzstd",
        "lz4": "liblz4",
        "lzo": "liblzo2",
        "xz": "a Python with lzma",
        "lzma": "a Python with lzma",
    }.get(kind)
    raise KmodError(
        what,
        "is %s-compressed, which cannot be read here" % kind,
        "Install %s" % need if need else "Recompress it",
        "COMP_UNSUPPORTED",
    )


def _library(*names: str) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


class _Wrapped:
    """bz2, lzma and zstd objects as they are, plus whether input may end here."""

    may_end = False

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def decompress(self, data: bytes, size: int) -> bytes:
        return b"" if self.engine.eof else self.engine.decompress(data, size)

    @property
    def eof(self) -> bool:
        return self.engine.eof

    @property
    def needs_input(self) -> bool:
        return self.engine.needs_input

    @property
    def unused_data(self) -> bytes:
        return self.engine.unused_data


class _Gzip:
    may_end = False

    def __init__(self) -> None:
        self.engine = zlib.decompressobj(31)
        self.full = False

    def decompress(self, data: bytes, size: int) -> bytes:
        piece = self.engine.decompress(self.engine.unconsumed_tail + data, size)
        self.full = len(piece) == size
        return piece

    @property
    def eof(self) -> bool:
        return self.engine.eof

    @property
    def needs_input(self) -> bool:
        return not self.full and not self.engine.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self.engine.unused_data


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
