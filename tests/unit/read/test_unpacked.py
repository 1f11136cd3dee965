# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A large image lies in a file, and comes out the same wherever it lies."""

import io
import mmap

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.read import unpacked
from ansible_collections.outoftree.kmod.plugins.module_utils.read.unpacked import Store, windows

PIECES = [bytes([number]) * (300 << 10) for number in range(12)]


def stored(pieces):
    store = Store()
    for piece in pieces:
        store.add(piece)
    assert store.size == sum(map(len, pieces))
    return store.whole()


def test_a_large_one_lies_in_a_file_and_a_small_one_in_memory():
    large, small = stored(PIECES), stored(PIECES[:2])
    assert isinstance(large, mmap.mmap) and isinstance(small, bytearray)
    assert (bytes(large[:]), bytes(small)) == (b"".join(PIECES), b"".join(PIECES[:2]))


class Full(io.BytesIO):
    """A file system with room for so many bytes."""

    def write(self, data):
        if self.tell() + len(data) > 3 << 20:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("file", [lambda: None, Full])
def test_where_there_is_no_room_for_a_file_it_stays_in_memory(monkeypatch, file):
    monkeypatch.setattr(unpacked, "unnamed_file", file)
    assert bytes(stored(PIECES)) == b"".join(PIECES)


@pytest.mark.parametrize("large", [False, True])
def test_windows_cover_all_and_what_lies_across_two_is_whole_in_one(large):
    size = unpacked.WINDOW * 3 + 7
    data = bytearray(size)
    mark = b"mark" * 1000
    for at in (0, unpacked.WINDOW - 5, 2 * unpacked.WINDOW, size - len(mark)):
        data[at : at + len(mark)] = mark
    given = stored([bytes(data)]) if large else data
    assert isinstance(given, mmap.mmap) is large
    assert sum(mark in piece for piece in windows(given)) >= 4
    assert len(b"".join(windows(given))) >= size
