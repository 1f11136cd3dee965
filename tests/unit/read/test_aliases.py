# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from ansible_collections.outoftree.kmod.plugins.module_utils.read.aliases import Aliases

PATTERNS = [
    "pci:v0001d0001*",
    "pci:v0001*",
    "pci:*",
    "pci:v0002*",
    "usb:v0001*",
    "*",
    "of:N*T*Ca,bC*",
    "of:N*T*Cc",
]
ALIASES = Aliases((pattern, "m%d" % number) for number, pattern in enumerate(PATTERNS))


def near(pattern):
    return sorted(name for _number, _pattern, name in ALIASES.near(pattern))


def test_what_begins_alike_up_to_a_wildcard_is_near():
    assert near("pci:v0001d0001sv*") == ["m0", "m1", "m2", "m5"]
    assert near("pci:v0001d*") == ["m0", "m1", "m2", "m5"]
    assert near("pci:v0003*") == ["m2", "m5"] and near("pci:*") == ["m0", "m1", "m2", "m3", "m5"]
    assert near("[ab]") == ["m%d" % number for number in range(8)]


def test_of_a_device_tree_the_end_counts():
    assert "m6" in near("of:N*T*Ca,b") and "m7" not in near("of:N*T*Ca,b") and "m7" in near("of:NuartT*Cc")


def test_they_keep_their_places():
    assert ALIASES.near("usb:v0001*")[0] in [(4, "usb:v0001*", "m4"), (5, "*", "m5")]
