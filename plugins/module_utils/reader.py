# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An open regular file."""

import os
from typing import Iterator

from .errors import KmodError, from_oserror

READ_LIMIT = 512 << 20


class Reader:
    """An open regular file, read in pieces."""

    def __init__(self, path: str, handle: int, status: os.stat_result) -> None:
        self.path = path
        self.handle = handle
        self.size = status.st_size
        self.status = status

    def chunks(self, size: int = 1 << 18, limit: int = READ_LIMIT) -> Iterator[bytes]:
        """From where the file stands to its end; a file that grows past ``limit`` meanwhile is an error."""
        total = 0
        while True:
            try:
                chunk = os.read(self.handle, size)
            except OSError as error:
                raise from_oserror(self.path, error, "read the file") from None
            if not chunk:
                return
            total += len(chunk)
            if total > limit:
                raise KmodError(
                    self.path, "has more than the %d bytes that are read" % limit, code="FILE_TOO_LARGE"
                )
            yield chunk

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer at the end of the file."""
        try:
            return os.pread(self.handle, size, offset)
        except OSError as error:
            raise from_oserror(self.path, error, "read the file") from None
