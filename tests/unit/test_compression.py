# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed files are told by their magic, read whole or not at all, and never beyond the cap."""

import bz2
import gzip
import lzma
import random
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import decoders
from ansible_collections.outoftree.kmod.plugins.module_utils.compression import Decoder, decompress, detect
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError

DATA = random.Random(1).getrandbits(8 * 300000).to_bytes(300000, "little") + b"a" * 3000000


def tool(*argv):
    def compress(data):
        if shutil.which(argv[0]) is None:
            pytest.skip("no %s on this machine" % argv[0])
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, check=True).stdout

    return compress


KINDS = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, preset=0),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0),
    "zstd": tool("zstd", "-1", "-q", "-c"),
    "lz4": tool("lz4", "-l", "-q", "-c"),
    "lzo": tool("lzop", "-1", "-c"),
}
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


@every_kind
def test_each_kind_comes_back_whole(kind):
    packed = KINDS[kind](DATA)
    assert detect(packed[:6]) == kind
    assert decompress(packed, "file") == DATA


def test_other_data_comes_back_as_it_is():
    assert decompress(b"\x7fELF...", "file") == b"\x7fELF..."
    assert decompress(b"", "file") == b""


@every_kind
@pytest.mark.parametrize("size", [7, 20, 1000, 200000])
def test_a_truncated_stream_is_an_error(kind, size):
    with pytest.raises(KmodError) as caught:
        decompress(KINDS[kind](DATA)[:size], "/lib/modules/x.ko")
    assert caught.value.code == "COMP_CORRUPT" and caught.value.what == "/lib/modules/x.ko"


@every_kind
def test_a_bomb_stops_at_the_cap(kind):
    with pytest.raises(KmodError) as caught:
        decompress(KINDS[kind](bytes(9 << 20)), "file", limit=1 << 20)
    assert caught.value.code == "COMP_LIMIT"


@every_kind
def test_damage_is_an_error_or_harmless_never_another_exception(kind):
    packed = bytearray(KINDS[kind](DATA))
    for position in random.Random(2).sample(range(6, len(packed)), 50):
        damaged = bytes(packed[:position]) + bytes([packed[position] ^ 0xFF]) + bytes(packed[position + 1 :])
        try:
            decompress(damaged, "file", limit=16 << 20)
        except KmodError as error:
            assert error.code in ("COMP_CORRUPT", "COMP_LIMIT")


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_streams_in_a_row_are_one_file_and_nuls_behind_are_padding(kind):
    packed = KINDS[kind](DATA)
    assert decompress(packed + packed + bytes(512), "file") == DATA + DATA


def test_anything_else_behind_a_stream_is_an_error():
    with pytest.raises(KmodError, match="5 bytes that are not gzip"):
        decompress(gzip.compress(b"x") + b"other", "file")


@every_kind
@pytest.mark.parametrize("step", [1000, 65536])
def test_a_decoder_takes_input_in_pieces_and_says_where_the_stream_ended(kind, step):
    packed = KINDS[kind](DATA) + bytes(8) + b"070701"
    decoder = Decoder(kind, "file")
    out = b"".join(
        piece for start in range(0, len(packed), step) for piece in decoder.feed(packed[start : start + step])
    )
    decoder.finish()
    assert out == DATA and decoder.eof and decoder.unused == bytes(8) + b"070701"


def test_a_decoder_gives_small_pieces():
    assert (
        max(len(piece) for piece in Decoder("gzip", "file").feed(gzip.compress(bytes(64 << 20)))) <= 1 << 20
    )


def test_what_cannot_be_read_here_says_what_to_install(monkeypatch):
    monkeypatch.setattr(decoders, "_library", lambda *names: None)
    with pytest.raises(KmodError) as caught:
        decompress(b"\x89LZO\x00\r\n\x1a\n", "initrd.img")
    assert caught.value.code == "COMP_UNSUPPORTED"
