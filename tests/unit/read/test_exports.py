# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A symvers of any generation, in any place, says what the kernel exports."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import (
    Export,
    Exports,
    find_symvers,
    from_symvers,
    owners_of,
)


@pytest.mark.parametrize(
    "line,expected",
    [
        ("0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL", Export(0x12345678, False, "", "vmlinux")),
        ("0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL\t", Export(0x12345678, False, "", "vmlinux")),
        (
            "0x12345678\tkfree\tdrivers/usb/storage/usb-storage\tEXPORT_SYMBOL_GPL\tUSB_STORAGE",
            Export(0x12345678, True, "USB_STORAGE", "usb_storage"),
        ),
        (
            "0x12345678\tkfree\tUSB_STORAGE\tvmlinux\tEXPORT_SYMBOL_GPL",
            Export(0x12345678, True, "USB_STORAGE", "vmlinux"),
        ),
        ("0x12345678\tkfree\t\tvmlinux\tEXPORT_SYMBOL", Export(0x12345678, False, "", "vmlinux")),
        ("0x12345678\tkfree\tvmlinux\tEXPORT_SYMBOL_GPL_FUTURE", Export(0x12345678, False, "", "vmlinux")),
        ("0x12345678\tkfree\tvmlinux\tEXPORT_UNUSED_SYMBOL_GPL", Export(0x12345678, True, "", "vmlinux")),
        (
            "0x12345678\tkfree\tarch/x86/kvm/kvm\tEXPORT_SYMBOL_GPL\tmodule:kvm-amd,kvm-intel",
            Export(0x12345678, True, "module:kvm-amd,kvm-intel", "kvm"),
        ),
    ],
)
def test_columns_of_every_generation(line, expected):
    assert from_symvers((line + "\n").encode()) == {"kfree": expected}


def test_a_namespace_is_kept_beside_lines_without_the_column():
    found = from_symvers(
        b"0x00000001\ta\tvmlinux\tEXPORT_SYMBOL\n0x00000002\tb\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n"
    )
    assert found == {"a": Export(1, False, "", "vmlinux"), "b": Export(2, True, "NS", "vmlinux")}


def test_zeros_throughout_are_a_kernel_without_versions():
    data = b"0x00000000\ta\tvmlinux\tEXPORT_SYMBOL\t\n0x00000000\tb\tvmlinux\tEXPORT_SYMBOL\t\n"
    assert {export.crc for export in from_symvers(data).values()} == {None}
    assert from_symvers(data + b"0x00000001\tc\tvmlinux\tEXPORT_SYMBOL\t\n")["a"].crc == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF\0",
        b"a b c\n",
        b"0x1\tkfree\tvmlinux\n",
        b"zzz\tkfree\tvmlinux\tEXPORT_SYMBOL\n",
        b"0x1\ta\tb\tc\td\n",
        b"\xff\n",
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(KmodError) as error:
        from_symvers(data, "/boot/symvers-1")
    assert error.value.code == "SYMVERS_BAD" and "/boot/symvers-1" in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "/boot/symvers-1.0.gz",
        "/boot/symvers-1.0.xz",
        "/lib/modules/1.0/symvers.zst",
        "/usr/lib/modules/1.0/symvers.xz",
        "/usr/src/kernels/1.0/Module.symvers",
        "/usr/src/linux-headers-1.0/Module.symvers",
    ],
)
def test_found_in_every_place(tmp_path, path):
    host = Host(str(tmp_path))
    assert find_symvers(host, "1.0") is None
    (tmp_path / path[1:]).parent.mkdir(parents=True)
    (tmp_path / path[1:]).write_bytes(b"")
    assert find_symvers(host, "1.0") == path


def test_found_behind_the_build_link(tmp_path):
    (tmp_path / "usr/src/headers").mkdir(parents=True)
    (tmp_path / "usr/src/headers/Module.symvers").write_bytes(b"")
    (tmp_path / "lib/modules/1.0").mkdir(parents=True)
    (tmp_path / "lib/modules/1.0/build").symlink_to("/usr/src/headers")
    assert find_symvers(Host(str(tmp_path)), "1.0") == "/lib/modules/1.0/build/Module.symvers"


def test_exports_are_those_of_a_dict_whatever_was_put_and_dropped():
    rows = {
        "one": Export(1, True, "", "vmlinux"),
        "two": Export(2, False, "NS", "gone"),
        "three": Export(3, False, "", "net"),
        "four": Export(None, False, "", "gone"),
    }
    found = Exports.made(rows)
    assert found == rows and found.owners == {"vmlinux", "gone", "net"}
    assert found.of({"gone"}) == {"two": "gone", "four": "gone"} and found.of(set()) == {}
    found.put("three", Export(9, True, "", "vendor"))
    found.put("five", Export(5, True, "", "vendor"))
    found.drop({"gone", "net"})
    assert found == {
        "one": rows["one"],
        "three": Export(9, True, "", "vendor"),
        "five": Export(5, True, "", "vendor"),
    }
    assert found.get("two") is None and "four" not in found and len(found) == 3
    assert found.owners == owners_of(dict(found)) == {"vmlinux", "vendor"}
    assert Exports.made({}) == {} and Exports.made({}).owners == frozenset()
