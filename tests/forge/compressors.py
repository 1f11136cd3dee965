# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What compresses kernels and initramfs images: libraries that every machine has, and the tools that
distributions call.
"""

import bz2
import ctypes
import gzip
import lzma
import shutil
import struct
import subprocess
from typing import Callable, Dict

Compressor = Callable[[bytes], bytes]


def zstd(data: bytes) -> bytes:
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    room = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    output = ctypes.create_string_buffer(room)
    size = library.ZSTD_compress(output, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), 3)
    return output.raw[:size]


def lz4(data: bytes) -> bytes:
    """The legacy frame that the kernel's own decompressor reads."""
    library = ctypes.CDLL("liblz4.so.1")
    framed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = data[start : start + (8 << 20)]
        output = ctypes.create_string_buffer(len(block) * 2 + 64)
        size = library.LZ4_compress_default(block, output, len(block), len(output))
        framed += struct.pack("<I", size) + output.raw[:size]
    return framed


def tool(*argv: str) -> Compressor:
    """A compressor of this machine; a test that needs one which is not there is skipped."""

    def compress(data: bytes) -> bytes:
        if shutil.which(argv[0]) is None:
            import pytest

            pytest.skip("no %s on this machine" % argv[0])
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout

    return compress


BY_LIBRARY: Dict[str, Compressor] = {
    "gzip": lambda data: gzip.compress(data, 6),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstd,
    "lz4": lz4,
}
COMPRESSIONS: Dict[str, Compressor] = {
    **BY_LIBRARY,
    "zstd": tool("zstd", "-qc"),
    "lz4": tool("lz4", "-lqc"),
    "lzo": tool("lzop", "-c"),
}
