# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

import fnmatch
import random

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.read.aliases import Aliases, overlap

PCI = "pci:v0000%sd0000%ssv*sd*bc%ssc*i*"
USB = "usb:v%sp%sd*dc*dsc*dp*ic%sisc*ip*in*"


def rivals(mine, *theirs):
    aliases = Aliases((pattern, "m%d" % number) for number, pattern in enumerate(theirs))
    return list(aliases.rivals(mine, "own"))


@pytest.mark.parametrize(
    "one,other,same",
    [
        (PCI % ("8086", "100E", "*"), PCI % ("8086", "100E", "*"), True),
        (PCI % ("8086", "100E", "*"), PCI % ("8086", "100F", "*"), False),
        (PCI % ("8086", "100E", "*"), PCI % ("10EC", "100E", "*"), False),
        (PCI % ("8086", "100E", "*"), "pci:v00008086d*sv*sd*bc*sc*i*", True),
        (PCI % ("8086", "100E", "*"), "pci:v*d*sv*sd*bc02sc00i*", True),
        (PCI % ("8086", "100E", "02"), "pci:v*d*sv*sd*bc02sc00i00*", True),
        # a number is one field's: what stands for the vendor is no device, what stands for a device no class
        (PCI % ("8086", "100E", "*"), "pci:v*d00008139sv000013D1sd0000AB06bc*sc*i*", False),
        (PCI % ("8086", "100E", "02"), "pci:v*d*sv*sd*bc01sc06i01*", False),
        (PCI % ("10DE", "*", "03"), PCI % ("10DE", "0E0F", "04"), False),
        (USB % ("12D1", "*", "FF"), USB % ("*", "*", "08"), False),
        (USB % ("12D1", "1001", "FF"), USB % ("*", "*", "FF"), True),
        (
            "usb:v1234p5678d010[0-5]dc*dsc*dp*ic*isc*ip*in*",
            "usb:v1234p567[0-9]d0104dc*dsc*dp*ic*isc*ip*in*",
            True,
        ),
        (
            "usb:v1234p5678d010[0-5]dc*dsc*dp*ic*isc*ip*in*",
            "usb:v1234p567[0-9]d0106dc*dsc*dp*ic*isc*ip*in*",
            False,
        ),
        ("hid:b0003g*v0000046Dp0000C52B", "hid:b0003g0001v0000046Dp*", True),
        ("hid:b0003g*v0000046Dp0000C52B", "hid:b0005g*v0000046Dp0000C52B", False),
        ("sdio:c*v02D0d4324*", "sdio:c07v*d*", True),
        ("sdio:c*v02D0d4324*", "sdio:c*v02D0d4325*", False),
        # of a form that no kernel's build writes
        (PCI % ("8086", "100E", "*"), "pci:v00008086*", True),
        (PCI % ("8086", "100E", "*"), "pci:v0000*", True),
        (PCI % ("8086", "100E", "*"), "pci:v000010EC*", False),
        ("of:NuartT*Ca,b", "of:N*T*Ca,bC*", True),
        ("of:N*T*Ca,b", "of:N*T*Cc", False),
        ("acpi*:VEND0001:*", "acpi*:VEND0001:*", True),
        ("acpi*:VEND0001:*", "acpi*:VEND0002:*", False),
        ("mdio:????????000000000000000001??????", "mdio:11111111000000000000000001101010", True),
        ("mdio:????????000000000000000001??????", "mdio:11111111000000000000000000101010", False),
        ("dmi*:svn*One*:pn*Two*:", "dmi*:svnNumberOne*:pnTwo:", True),
        ("i2c:CHIP", "spi:CHIP", False),
        ("crypto-AES", "crypto-AES", False),  # which many may share
        ("hid:b*g*v*p*", "hid:b0003g*v0000046Dp0000C52B", False),  # and so what is for no device at all
    ],
)
def test_two_modules_want_a_device_if_its_name_fits_both(one, other, same):
    assert rivals([one], other) == rivals([other], one) == (["m0"] if same else [])


def test_of_each_module_the_first_pattern_that_says_so_and_never_the_own():
    pairs = [
        (PCI % ("1111", "*", "*"), "other"),
        (PCI % ("8086", "*", "01"), "other"),
        (PCI % ("*", "*", "*"), "own"),
        ("pci:v*d*sv*sd*bc01sc06i01*", "other"),
        (PCI % ("8086", "100E", "*"), "other"),
    ]
    mine = [PCI % ("8086", "100E", "*"), PCI % ("8086", "100F", "*"), PCI % ("8086", "1010", "02")]
    assert Aliases(pairs[:3]).rivals(mine, "own") == {"other": (False, 1, pairs[1][0])}
    assert Aliases(pairs).rivals(mine[2:], "own") == {}
    assert Aliases(pairs).rivals([mine[2], mine[0]], "own") == {"other": (False, 1, pairs[1][0])}


def test_what_names_a_device_and_what_names_a_class_may_be_of_one():
    """A pattern that names something of the device in common with the alias comes before those that do not."""
    ahci, own = "pci:v*d*sv*sd*bc01sc06i01*", PCI % ("8086", "100E", "*")
    pairs = [(ahci, "z"), (ahci, "b"), (PCI % ("8086", "*", "*"), "b"), (own, "y")]
    expected = {"b": (False, 2, pairs[2][0]), "y": (False, 3, own), "z": (True, 0, ahci)}
    assert Aliases(pairs).rivals([own], "own") == expected and list(Aliases(pairs).rivals([own], "own")) == [
        "b",
        "y",
        "z",
    ]
    assert Aliases(pairs).rivals([PCI % ("8086", "100E", "01")], "own")["z"] == (False, 0, ahci)
    # and from the side of a class
    theirs = Aliases(
        [
            (PCI % ("10EC", "8168", "*"), "r"),
            (PCI % ("10EC", "8169", "*"), "r"),
            (PCI % ("10EC", "8125", "02"), "r"),
        ]
    )
    assert theirs.rivals(["pci:v*d*sv*sd*bc02sc00i*"], "own") == {
        "r": (False, 2, PCI % ("10EC", "8125", "02"))
    }
    assert theirs.rivals([ahci], "own") == {"r": (True, 0, PCI % ("10EC", "8168", "*"))}


def test_each_alias_of_a_driver_counts_against_those_of_classes():
    """Of which two alike are looked at once."""
    classes = ["pci:v*d*sv*sd*bc0%dsc*i*" % number for number in range(4)]
    mine = [PCI % ("8086", "100%d" % number, "0%d" % (number // 2)) for number in range(6)]
    assert rivals(mine, *classes) == ["m0", "m1", "m2"]
    classes = ["pci:v*d*sv*sd*bc0%dsc00i00" % number for number in range(4)]
    assert rivals(["pci:v00008086*bc00sc00i00", "pci:v00008086*bc02sc00i00"], *classes) == ["m0", "m2"]


def test_names_of_devices_tell_what_the_patterns_say():
    """Against fnmatch, with names as the kernel makes them."""
    source = random.Random(7)

    def number(width):
        return source.choice(
            ["*", "*", "1" * width, "2" * width, "1" * (width - 1) + "[12]", "1" * (width - 1) + "*"]
        )

    def pattern():
        return "virtio:d%sv%s" % (number(8), number(8))

    names = [
        "virtio:d%sv%s" % (a, b)
        for a in ("11111111", "11111112", "22222222")
        for b in ("11111111", "11111112", "22222222")
    ]
    for _ in range(400):
        one, other = pattern(), pattern()
        both = any(fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(name, other) for name in names)
        if "d*v*" not in (one[7:], other[7:]):
            assert rivals([one], other) == (["m0"] if both else []), (one, other)


def test_patterns_overlap_where_a_name_matches_both():
    source = random.Random(4)
    names = ["".join(source.choice("ab") for _ in range(length)) for length in range(5) for _ in range(40)]
    for _ in range(400):
        one, other = (
            "".join(source.choice(["a", "b", "*", "?", "[ab]", "[a-b]"]) for _ in range(source.randrange(4)))
            for _ in range(2)
        )
        if any(fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(name, other) for name in names):
            assert overlap(one, other), (one, other)
    assert (
        not overlap("a*b", "a*c")
        and not overlap("a", "ab")
        and not overlap("[ab]x", "cx")
        and overlap("", "")
    )
