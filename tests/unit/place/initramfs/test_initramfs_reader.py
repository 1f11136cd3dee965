# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reader sees what the kernel sees: every image here goes through the reader and through the kernel's
state machine.
"""

import random
from typing import Dict, Optional, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import segments
from tests.forge.compressors import COMPRESSIONS
from tests.forge.cpio import DIRECTORY, FILE, LINK, cpio, member
from tests.unit.place.initramfs import kernel_simulator

END = member("TRAILER!!!", 0)
MICROCODE = {"kernel/x86/microcode/GenuineIntel.bin": b"microcode" * 100}
MAIN = {
    "init": b"#!/bin/sh\n",
    "usr/lib/modules/6.1/kernel/a.ko": bytes(range(256)) * 300,
    "lib": "usr/lib",
    "etc/hosts": b"",
}


def listing(image: bytes, piece: int = 4096) -> Dict[str, Tuple[int, bytes]]:
    """The reader's answer in the simulator's form."""
    tree = segments.Tree()
    data: Dict[segments.Node, bytes] = {}

    def wanted(_path: str, node: segments.Node) -> segments.Sink:
        data[node] = b""

        def sink(chunk: bytes) -> None:
            data[node] += chunk

        return sink

    segments.unpack(
        (image[at : at + piece] for at in range(0, len(image), piece)), "image", tree, wanted=wanted
    )
    return {
        path: (node.mode, node.target.encode() or data.get(node, b""))
        for path, node in tree.nodes.items()
        if path
    }


def agree(image: bytes, piece: int = 4096) -> Dict[str, Tuple[int, bytes]]:
    kernels, error = kernel_simulator.unpack(image)
    assert error is None
    ours = listing(image, piece)
    assert {path: (mode & 0o170000, data) for path, (mode, data) in ours.items()} == {
        path: (mode & 0o170000, data) for path, (mode, data) in kernels.items()
    }
    return ours


def refused(image: bytes) -> Tuple[str, Optional[str]]:
    """The reader's code and the kernel's error."""
    with pytest.raises(KmodError) as caught:
        listing(image)
    return caught.value.code, kernel_simulator.unpack(image)[1]


@pytest.mark.parametrize("kind", sorted(COMPRESSIONS))
def test_every_compression_with_microcode_in_front_and_a_raw_archive_behind(kind):
    base = cpio(MICROCODE)
    base += bytes(-len(base) % 512) + COMPRESSIONS[kind](cpio(MAIN))
    pad = 8 + -(len(base) + 8) % 512
    found = agree(base + bytes(pad) + cpio({"driver.ko": b"driver"}))
    assert found["driver.ko"][1] == b"driver"
    assert found["usr/lib/modules/6.1/kernel/a.ko"][1] == MAIN["usr/lib/modules/6.1/kernel/a.ko"]


@pytest.mark.parametrize("piece", [1, 3, 7, 110, 511, 1 << 20])
def test_pieces_of_any_size_give_the_same(piece):
    image = cpio(MAIN) + COMPRESSIONS["gzip"](cpio({"late": b"x" * 5000}))
    assert agree(image, piece) == agree(image)


def test_segments_are_told_with_their_place_and_kind():
    first = cpio(MICROCODE)
    second = COMPRESSIONS["xz"](cpio(MAIN))
    tree = segments.Tree()
    found = segments.unpack([first, bytes(512 - len(first) % 512), second], "image", tree)
    assert [(each.offset, each.size, each.kind, each.members) for each in found] == [
        (0, len(first), "cpio", 4),
        (len(first) + 512 - len(first) % 512, len(second), "xz", len(MAIN) + 6),
    ]
    assert found[1].unpacked == len(cpio(MAIN))


def test_later_files_win_and_keep_the_name():
    assert agree(cpio({"a": b"long first text"}) + cpio({"a": b"second"}))["a"] == (FILE, b"second")


def test_a_file_written_through_a_symlinked_directory_lands_behind_it():
    found = agree(cpio({"usr/lib": None, "lib": "usr/lib"}) + member("lib/new", FILE, b"x") + END)
    assert found["usr/lib/new"] == (FILE, b"x")


def test_a_directory_entry_over_a_symlink_destroys_it():
    """The trap that makes a machine unbootable: lib -> usr/lib becomes an empty directory."""
    found = agree(
        cpio({"usr/lib/systemd/systemd-udevd": b"udev", "lib": "usr/lib"}) + cpio({"lib/modules/x.ko": b"x"})
    )
    assert found["lib"][0] == DIRECTORY
    assert "usr/lib/modules/x.ko" not in found


def test_a_symlink_over_a_file_and_a_file_over_a_symlink():
    found = agree(cpio({"a": b"file", "b": "a"}) + cpio({"a": "elsewhere", "b": b"file"}))
    assert found["a"] == (LINK, b"elsewhere")
    assert found["b"] == (FILE, b"file")


def test_a_directory_that_is_not_empty_stays():
    found = agree(cpio({"d/x": b"1"}) + member("d", FILE, b"file") + member("d", LINK, b"t") + END)
    assert found["d"][0] == DIRECTORY


def test_an_empty_directory_makes_way():
    assert agree(cpio({"d": None}) + member("d", FILE, b"file") + END)["d"] == (FILE, b"file")


def test_a_file_without_its_directory_vanishes():
    assert "no/such" not in agree(member("no/such", FILE, b"x") + END)


def test_hard_links_share_what_the_last_one_brings():
    image = member("a", FILE, b"", inode=7, links=2) + member("b", FILE, b"shared", inode=7, links=2) + END
    assert agree(image)["a"][1] == agree(image)["b"][1] == b"shared"


def test_the_trailer_ends_the_hard_links():
    image = (
        member("a", FILE, b"one", inode=7, links=2) + END + member("b", FILE, b"two", inode=7, links=2) + END
    )
    assert agree(image)["a"][1] == b"one"


def test_leading_dots_and_slashes_do_not_matter():
    assert agree(member("./d", DIRECTORY) + member("/d/../d/./f", FILE, b"x") + END)["d/f"] == (FILE, b"x")


def test_an_archive_without_a_trailer_is_followed_by_the_next():
    assert set(agree(cpio({"a": b"1"}, trailer=False) + bytes(8) + cpio({"b": b"2"}))) >= {"a", "b"}


def test_symlink_loops_end():
    assert "x/f" not in agree(cpio({"x": "y", "y": "x"}) + member("x/f", FILE, b"1") + END)


@pytest.mark.parametrize("off", [1, 2, 3])
def test_a_segment_that_is_not_at_a_multiple_of_4_is_lost(off):
    base = COMPRESSIONS["gzip"](cpio(MAIN))
    base += bytes(-len(base) % 4)
    assert refused(base + bytes(4 + off) + cpio({"x": b"1"})) == (
        "INITRD_DAMAGED",
        "invalid magic at start of compressed archive",
    )


def test_two_nuls_behind_lz4_lose_what_follows():
    base = COMPRESSIONS["lz4"](cpio(MAIN))
    while len(base) % 4 != 2:
        base = COMPRESSIONS["lz4"](
            cpio(
                {
                    **MAIN,
                    "filler": random.Random(len(base)).getrandbits(80).to_bytes(10, "big") * (len(base) % 97),
                }
            )
        )
    image = base + bytes(2) + cpio({"x": b"1"})
    assert kernel_simulator.unpack(image)[1] == "Decoding failed"
    with pytest.raises(KmodError):
        listing(image)


def test_kernels_before_the_fix_of_2021_fail_at_any_padding_behind_lz4():
    image = COMPRESSIONS["lz4"](cpio(MAIN)) + bytes(512)
    assert kernel_simulator.unpack(image, lz4_pads=False)[1] == "Decoding failed"
    assert kernel_simulator.unpack(image, lz4_pads=True)[1] is None


@pytest.mark.parametrize("kind", sorted(COMPRESSIONS))
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_truncated_images_are_refused(kind, keep):
    image = COMPRESSIONS[kind](cpio({"a": random.Random(1).getrandbits(800000).to_bytes(100000, "big")}))
    with pytest.raises(KmodError) as caught:
        listing(image[: int(len(image) * keep)])
    assert caught.value.code in ("INITRD_DAMAGED", "COMP_CORRUPT")


def test_a_truncated_raw_archive_is_refused():
    with pytest.raises(KmodError) as caught:
        listing(cpio(MAIN)[:-1000])
    assert caught.value.code == "INITRD_DAMAGED"


@pytest.mark.parametrize(
    "image",
    [
        b"MZ garbage",
        b"0707 is no cpio" * 20,
        b"\x1f\x8bgarbage that is no gzip",
        b"\x28\xb5\x2f\xfdgarbage of zstd",
        b"070701" + b"Z" * 104 + b"name\0\0",
    ],
)
def test_garbage_is_refused(image):
    with pytest.raises(KmodError) as caught:
        listing(image)
    assert caught.value.code in ("INITRD_DAMAGED", "COMP_CORRUPT")


def test_a_bomb_is_stopped(monkeypatch):
    monkeypatch.setattr(segments, "UNPACKED_LIMIT", 1 << 20)
    with pytest.raises(KmodError) as caught:
        listing(COMPRESSIONS["gzip"](cpio({"zeros": bytes(2 << 20)})))
    assert caught.value.code == "INITRD_LIMIT"


def test_a_flood_of_members_is_stopped(monkeypatch):
    monkeypatch.setattr(segments, "MEMBER_LIMIT", 10)
    with pytest.raises(KmodError) as caught:
        listing(cpio({str(number): b"" for number in range(11)}))
    assert caught.value.code == "INITRD_LIMIT"


@pytest.mark.parametrize("seed", range(200))
def test_random_trees_agree(seed):
    """Any members in any order, over and under each other, in raw and compressed archives."""
    choose = random.Random(seed)
    names = ["a", "b", "a/b", "b/a", "a/b/c", "l", "l/x", "lib", "lib/x", "usr", "usr/lib", "usr/lib/x"]
    image = b""
    for _segment in range(choose.randint(1, 4)):
        body = b""
        for _member in range(choose.randint(0, 8)):
            kind = choose.choice([FILE, FILE, DIRECTORY, LINK])
            data = (
                b""
                if kind == DIRECTORY
                else choose.choice(names).encode()
                if kind == LINK
                else b"%d" % choose.randint(0, 10**9)
            )
            inode = choose.randint(1, 3)
            body += member(
                choose.choice(names),
                kind,
                data,
                inode=inode,
                links=choose.choice([1, 1, 2]) if kind == FILE else 1,
            )
        body += END
        packed = choose.choice(
            [lambda data: data, COMPRESSIONS["gzip"], COMPRESSIONS["xz"], COMPRESSIONS["bzip2"]]
        )(body)
        image += packed + bytes(4 * choose.randint(0, 5) + -(len(image) + len(packed)) % 4)
    agree(image)


@given(st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_damage_to_an_image_gives_anything_but_a_refusal(data):
    """Flipped bytes, cuts and joins: KmodError or a tree, no other exception, and the kernel's state machine
    agrees where there is a tree.
    """
    sound = cpio({"usr/lib": None, "lib": "usr/lib", "a": b"x" * 100, "lib/b": b"y"})
    image = bytearray(
        data.draw(
            st.sampled_from(
                [sound, COMPRESSIONS["gzip"](sound), sound + bytes(8) + COMPRESSIONS["gzip"](sound)]
            )
        )
    )
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(image) - 1), st.integers(0, 255)), max_size=4)
    ):
        image[place] = value
    damaged = bytes(
        image[: data.draw(st.integers(0, len(image)))] + image[data.draw(st.integers(0, len(image))) :]
    )
    tree = segments.Tree()
    try:
        segments.unpack([damaged], "image", tree)
    except KmodError:
        return
    files, error = kernel_simulator.unpack(damaged)
    assert error is None and set(files) == {path for path in tree.nodes if path}
