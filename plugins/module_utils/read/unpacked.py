# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bytes of a kernel as it is unpacked, 60 MB and more: in a file, so that no more of them is in memory than is
looked at.
"""

import mmap
from typing import BinaryIO, Iterator, Optional, Union

from ..lock import unnamed_file

Bytes = Union[bytes, bytearray, mmap.mmap]
IN_MEMORY = 2 << 20  # bytes of an image; a larger one lies in a file
WINDOW = 1 << 20
OVERLAP = 64 << 10  # more than any certificate has


class Store:
    """Takes an image as it is unpacked: in memory what is small, in a file what is not, of which but the pages
    that are looked at are in memory then.
    """

    def __init__(self) -> None:
        self.memory = bytearray()  # grows in place: half the memory of joined pieces
        self.file: Optional[BinaryIO] = None
        self.size = 0

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.file is None:
            self.memory += piece
            if len(self.memory) > IN_MEMORY:
                self.file = unnamed_file()
                piece, self.memory = bytes(self.memory), self.memory if self.file is None else bytearray()
        if self.file is not None:
            try:
                self.file.write(piece)
            except OSError:  # it is full
                self._back(self.file, piece)

    def _back(self, file: BinaryIO, piece: bytes) -> None:
        file.seek(0)
        self.memory = bytearray(file.read(self.size - len(piece))) + piece
        file.close()
        self.file = None

    def whole(self) -> Bytes:
        if self.file is None:
            return self.memory
        with self.file:
            self.file.flush()
            return mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)


def windows(data: Bytes) -> Iterator[bytes]:
    """Bytes from its beginning to its end, each piece with the end of the one before, and no more of it in
    memory than one.
    """
    for start in range(0, len(data), WINDOW):
        yield bytes(data[max(0, start - OVERLAP) : start + WINDOW])
        if hasattr(data, "madvise"):  # Python 3.8
            data.madvise(mmap.MADV_DONTNEED, start, min(WINDOW, len(data) - start))
