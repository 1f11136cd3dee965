# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels are installed, in which order, and what they say of themselves."""

import random
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import installed, version_key
from tests.forge import families
from tests.forge.families import CONFIG
from tests.forge.ko import FLAGS, RELEASE, ko

# Oldest first, as rpm and dpkg order them.
ORDERED = [
    [
        "6.1.0-9-amd64",
        "6.1.0-54-amd64",
        "6.1.0-56-amd64",
        "6.12.111+deb12-amd64",
        "6.12.117+deb12-amd64",
        "7.2.13+deb14-amd64",
    ],
    [
        "3.10.0-1160.el7.x86_64",
        "4.18.0-553.el8.x86_64",
        "5.14.0-427.el9.x86_64",
        "5.14.0-427.13.1.el9_4.x86_64",
        "5.14.0-503.el9.x86_64",
    ],
    ["6.12~rc1-amd64", "6.12-amd64"],
    ["6.12.0-rc1", "6.12.0-rc10", "6.12.0"],
    ["5.14.21-150500.53-default", "5.14.21-150500.55.7-default", "6.4.0-150600.21-default"],
    ["6.8.0-9-generic", "6.8.0-31-generic", "6.11.0-8-generic"],
]


@pytest.mark.parametrize("ordered", ORDERED, ids=lambda ordered: ordered[0])
def test_order(ordered):
    mixed = list(ordered)
    random.Random(1).shuffle(mixed)
    assert sorted(mixed, key=version_key) == ordered


def test_oldest_first_and_each_once_behind_a_merged_usr(tmp_path):
    for release in ("6.1.0-10-amd64", "6.1.0-9-amd64"):
        families.kernel(tmp_path / "usr", release)
    (tmp_path / "lib").symlink_to("usr/lib")
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [
        "6.1.0-9-amd64",
        "6.1.0-10-amd64",
    ]


def test_both_directories_where_usr_is_not_merged(tmp_path):
    families.kernel(tmp_path, "6.1.0-9-amd64")
    families.kernel(tmp_path, "6.4.0-150600.21-default", family="tumbleweed")
    assert [kernel.modules_dir for kernel in installed(Host(str(tmp_path)))] == [
        "/lib/modules/6.1.0-9-amd64",
        "/usr/lib/modules/6.4.0-150600.21-default",
    ]


def test_a_store_of_modules_is_no_kernel(tmp_path):
    families.kernel(tmp_path)
    store = tmp_path / "lib/modules/6.1.0-1-amd64/extra"
    store.mkdir(parents=True)
    (store / "vendor.ko").write_bytes(ko())
    (store.parent / "modules.dep").write_text("extra/vendor.ko:\n")
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [RELEASE]


REMOVED = "6.1.0-1-amd64"


@pytest.mark.parametrize(
    "left",
    [
        [""],
        ["kernel/"],
        ["kernel/drivers/net/"],
        ["modules.dep", "modules.dep.bin", "modules.alias", "modules.symbols.bin", "modules.builtin.bin"],
        ["modules.order"],
        ["modules.order", "modules.builtin", "modules.builtin.modinfo", "modules.dep", "kernel/fs/"],
        ["weak-updates/vendor.ko"],
        ["build"],
        ["updates/dkms/a.ko", "modules.dep", "kernel/"],
        ["kernel/drivers/readme"],
    ],
)
def test_what_a_removed_kernel_leaves_is_no_kernel(left, tmp_path):
    families.kernel(tmp_path)
    for name in left:
        path = tmp_path / "lib/modules" / REMOVED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"") if name and not name.endswith("/") else path.mkdir(exist_ok=True)
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [RELEASE]


def test_an_empty_directory_is_no_kernel_even_where_an_image_was_left(tmp_path):
    families.kernel(tmp_path)
    (tmp_path / "lib/modules" / REMOVED).mkdir()
    (tmp_path / "boot" / ("vmlinuz-" + REMOVED)).write_bytes(b"")
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [RELEASE]


@pytest.mark.parametrize(
    "there",
    [
        ["kernel/a/b.ko.xz"],
        ["modules.order", "../../../boot/vmlinuz-" + REMOVED],
        ["modules.builtin", "vmlinuz"],
    ],
)
def test_a_module_of_its_own_or_an_image_makes_a_kernel(there, tmp_path):
    (tmp_path / "boot").mkdir()
    for name in there:
        path = tmp_path / "lib/modules" / REMOVED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [REMOVED]


@pytest.mark.parametrize(
    "name",
    [
        "test",
        "--help",
        "kabi-current",
        "6",
        "v6.1.0",
        "6.1.0 copy",
        "6.1.0;x",
        "6.1.0\n",
        "\u0666.1",
        "6.1." + "0" * 64,
        "6.1.0-9-amd64.bak\x1b[1m",
        ".6.1.0",
    ],
)
def test_a_directory_that_is_called_as_no_release_is_no_kernel(name, tmp_path):
    top = families.kernel(tmp_path)
    shutil.copytree(str(top), str(top.parent / name))
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [RELEASE]


@pytest.mark.parametrize(
    "target", ["gone", "6.1.0-1", "6.1.0-9-amd64", "../modules/6.1.0-9-amd64", "/dev/null"]
)
def test_neither_a_symlink_that_leads_nowhere_nor_another_name_of_a_kernel_is_one(target, tmp_path):
    top = families.kernel(tmp_path)
    (top.parent / "6.1.0-1").symlink_to(target)
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [RELEASE]


def test_a_kernel_may_lie_elsewhere(tmp_path):
    top = families.kernel(tmp_path)
    (tmp_path / "srv").mkdir()
    top.rename(tmp_path / "srv" / top.name)
    top.symlink_to("/srv/" + top.name)
    assert [kernel.release for kernel in installed(Host(str(tmp_path)))] == [RELEASE]


@pytest.mark.parametrize("release", ["6.1.0-1-amd64", "../../etc", ""])
def test_a_kernel_that_is_not_there_is_an_error_that_names_those_that_are(release, tmp_path):
    families.kernel(tmp_path)
    with pytest.raises(KmodError, match=RELEASE) as caught:
        kernels.kernel(Host(str(tmp_path)), release)
    assert caught.value.code == "KERNEL_MISSING"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "s390x", "ppc64le"])
def test_what_its_own_modules_tell(machine, tmp_path):
    families.kernel(tmp_path, machine=machine, builtin=["ext4", "snd-pcm"])
    kernel = installed(Host(str(tmp_path)))[0]
    assert (kernel.machine, kernel.vermagic) == (machine, RELEASE + FLAGS)
    assert (
        kernel.traits.struct_size,
        kernel.traits.init_offset,
        kernel.traits.exit_offset,
        kernel.traits.module_layout,
    ) == (896, 312, 848, 0x11)
    assert kernel.builtin == {"ext4", "snd_pcm"}


def test_a_module_that_a_vendor_wrote_over_the_kernels_own_tells_nothing(tmp_path):
    families.kernel(
        tmp_path,
        in_tree={"a/first.ko": ko("first", release="5.5.5", struct_size=64), "a/second.ko": b"damaged"},
    )
    assert installed(Host(str(tmp_path)))[0].traits.struct_size == 896


def test_config(tmp_path):
    families.kernel(tmp_path, config=CONFIG + '# CONFIG_OFF is not set\nCONFIG_NAME="a b"\n')
    config = installed(Host(str(tmp_path)))[0].config
    assert (config["CONFIG_NAME"], config["CONFIG_MODULES"], "CONFIG_OFF" in config) == ("a b", "y", False)


@pytest.mark.parametrize(
    "place",
    [
        "boot/vmlinuz-%s",
        "boot/vmlinux-%s",
        "boot/Image-%s",
        "usr/lib/modules/%s/vmlinuz",
        "boot/0123456789abcdef0123456789abcdef/%s/linux",
        "efi/0123456789abcdef0123456789abcdef/%s/linux",
    ],
)
def test_where_the_image_is(place, tmp_path):
    path = tmp_path / (place % "6.6.9")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert kernels.find_image(Host(str(tmp_path)), "6.6.9") == "/" + place % "6.6.9"
