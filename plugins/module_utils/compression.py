# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed streams, told by their magic and decoded piece by piece with a cap on what comes out.

gzip, bzip2, xz and lzma are Python's own; zstd is Python's from 3.14 on and before that, like lz4 and lzo,
the host's shared library: a host that boots from such files has it (kmod, systemd and lzop link to them).
"""

import bz2
import zlib
from typing import Any, Iterable, Iterator, Optional

from .errors import DamagedError, KmodError

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
    if kind == "zstd" and zstd is not None:
        return _Wrapped(zstd.ZstdDecompressor())
    if kind in ("zstd", "lz4", "lzo"):
        from . import decoders  # few hosts have files that need them

        found = decoders.decoder(kind)
        if found is not None:
            return found
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
