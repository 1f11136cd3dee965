# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What compresses an initramfs: Python's own, and the tools of this machine."""
import bz2
import gzip
import lzma
import shutil
import subprocess
from typing import Callable, Dict


def tool(*argv: str) -> Callable[[bytes], bytes]:
    """A compressor of this machine; a test that needs one which is not there is skipped."""
    def compress(data: bytes) -> bytes:
        if shutil.which(argv[0]) is None:
            import pytest

            pytest.skip("no %s on this machine" % argv[0])
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout

    return compress


COMPRESSIONS: Dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": tool("zstd", "-qc"),
    "lz4": tool("lz4", "-lqc"),
    "lzo": tool("lzop", "-c"),
}
