# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What headers tell of their kernel. Real ones are in tests/kernel/test_packages.py."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import headers
from tests.forge.btf import btf, btf_int, btf_struct
from tests.forge.elf import Section, elf


def config(*names, **values):
    return dict(
        {"CONFIG_" + name: "y" for name in names},
        **{"CONFIG_" + name: value for name, value in values.items()},
    )


@pytest.mark.parametrize(
    "names,expected",
    [
        (
            ["X86_64", "SMP", "PREEMPT_BUILD", "MODULE_UNLOAD", "MODVERSIONS"],
            "SMP preempt mod_unload modversions ",
        ),
        (
            ["X86_64", "SMP", "MODULE_UNLOAD", "MODVERSIONS", "PREEMPT_DYNAMIC", "PREEMPT_VOLUNTARY"],
            "SMP mod_unload modversions ",
        ),
        (["X86_64", "SMP", "PREEMPT_RT", "MODULE_UNLOAD"], "SMP preempt_rt mod_unload "),
        (["X86_64", "PREEMPT"], "preempt "),  # before 5.17
        (["X86_64"], ""),
        (["ARM64", "SMP", "MODULE_UNLOAD", "MODVERSIONS"], "SMP mod_unload modversions aarch64"),
        (["S390", "64BIT", "SMP"], "SMP "),
        (["RISCV", "64BIT", "SMP"], "SMP riscv"),
        (["LOONGARCH", "64BIT", "SMP"], "SMP LOONGARCH 64BIT "),
        (
            ["PPC64", "CPU_LITTLE_ENDIAN", "SMP", "MPROFILE_KERNEL", "RELOCATABLE"],
            "SMP mprofile-kernel relocatable ",
        ),
        (["X86_32", "M686", "SMP"], "SMP 686 "),
    ],
)
def test_version_magic(names, expected):
    assert headers.vermagic("6.1.0-9", config(*names)) == "6.1.0-9 " + expected


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["X86_32", "MK8"],
        ["ARM"],
        ["SPARC64"],
        ["X86_64", "RANDSTRUCT"],
        ["X86_64", "GCC_PLUGIN_RANDSTRUCT"],
        ["X86_64", "PREEMPT_BUILD", "PREEMPT_RT"],
    ],
)
def test_a_version_magic_that_cannot_be_told_is_not_guessed(names):
    assert headers.vermagic("6.13.1", config(*names)) is None


@pytest.mark.parametrize(
    "release,flag",
    [("6.1.0-9-rt", "preempt "), ("6.12.118+deb13-rt-amd64", "preempt "), ("7.2.13", "preempt_rt ")],
)
def test_of_two_flags_for_preemption_one_is_written(release, flag):
    """As Debian's real-time kernels have it (tests/kernel/test_packages.py)."""
    assert headers.vermagic(release, config("X86_64", "PREEMPT_BUILD", "PREEMPT_RT")) == release + " " + flag


@pytest.mark.parametrize(
    "names,expected",
    [
        (["X86_64"], "x86_64"),
        (["ARM64"], "aarch64"),
        (["S390"], "s390x"),
        (["X86_32"], "i686"),
        (["ARM"], "armv7l"),
        (["RISCV", "64BIT"], "riscv64"),
        (["PPC64"], "ppc64"),
        (["PPC64", "CPU_LITTLE_ENDIAN"], "ppc64le"),
        ([], None),
    ],
)
def test_machine(names, expected):
    assert headers.machine(config(*names)) == expected


def placed(root, directory, release="6.1.0-9-amd64", text='#define UTS_RELEASE "%s"\n'):
    path = root / directory / headers.RELEASE_FILE
    path.parent.mkdir(parents=True)
    path.write_text(text % release if "%" in text else text)
    return path.parents[2]


@pytest.mark.parametrize(
    "place",
    [
        "usr/src/linux-headers-x",
        "usr/src/kernels/x",
        "usr/src/linux-6.4-obj/x86_64/default",
        "lib/modules/x/build",
        ".",
    ],
)
def test_wherever_a_family_puts_them(place, tmp_path):
    placed(tmp_path, place)
    assert ("6.1.0-9-amd64", "/" if place == "." else "/" + place) in headers.directories(Host(str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#define UTS_RELEASE\n",
        '#define UTS_RELEASE "../../etc"\n',
        '#define UTS_RELEASE "6.1.0 x"\n',
        "\xff\0",
    ],
)
def test_what_names_no_release_is_no_headers(text, tmp_path):
    placed(tmp_path, "usr/src/linux-headers-x", text=text)
    assert list(headers.directories(Host(str(tmp_path)))) == []


def vmlinux(*members, size=1280):
    types = [
        btf_int("int", 4),
        btf_struct("module", size, [(name, 1, 8 * offset) for name, offset in members]),
    ]
    return elf([Section(".BTF", btf(types), flags=0)])


@pytest.mark.parametrize(
    "data,expected",
    [
        (vmlinux(("state", 0), ("init", 312), ("exit", 1200)), (1280, 312, 1200)),
        (vmlinux(("state", 0), ("init", 312)), (1280, 312, None)),
        (vmlinux(("state", 0)), None),
        (elf([]), None),
        (b"", None),
        (b"text", None),
        (elf([Section(".BTF", b"\x9f\xeb\1\0damaged", flags=0)]), None),
        (vmlinux(("init", 312))[:120], None),
    ],
)
def test_struct_module(data, expected, tmp_path):
    (tmp_path / "vmlinux").write_bytes(data)
    assert headers.module_struct(Host(str(tmp_path)), "/") == expected
