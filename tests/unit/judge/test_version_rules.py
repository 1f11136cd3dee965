# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Versions are compared as each family's kernel does."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader, policy, version_rules
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE
from tests.forge import families
from tests.forge.ko import chained_table, ko

LAYOUT = ("module_layout", 0x11)


def test_versions_as_ubuntu_keeps_them(tmp_path):
    release = "6.8.0-31-generic"
    chained = [
        chained_table(needs) for needs in ((LAYOUT, ("printk", 0x22)), (LAYOUT, ("printk", 0x99)), (LAYOUT,))
    ]
    in_tree = {
        "a/first.ko": ko(
            "first",
            release=release,
            struct_size=1280,
            exit=1200,
            modinfo={"intree": "Y"},
            versions=chained[2],
        )
    }
    families.kernel(tmp_path, release, in_tree=in_tree, struct_size=1280, exit=1200)
    given = [
        ko(str(number), release=release, struct_size=1280, exit=1200, versions=table)
        for number, table in enumerate(chained[:2] + [None])
    ]
    (kernel,) = kernels.installed(Host(str(tmp_path)))
    good, bad, other = loader.judge(
        kernel, [modules.parse(data, "/opt/vendor.ko") for data in given], OFFLINE
    )
    assert (good.verdict, bad.verdict, bad.errno) == ("compatible", "incompatible", "EINVAL")
    assert (other.verdict, other.reason.code) == ("unknown", "MODVERSIONS_FORMAT")


@pytest.mark.parametrize(
    "release,family,takes",
    [
        ("3.10.0-1160.el7", "rhel", False),
        ("4.8.0", "", False),
        ("4.18.0-553.el8", "rhel", True),
        ("6.1.0-9-amd64", "debian", False),
        ("6.8.0-31-generic", "ubuntu", True),
        ("6.6.9-mine", "", None),
    ],
)
def test_who_takes_a_symbol_without_a_version(release, family, takes):
    it = policy.Loader(release, policy.version(release), family, {}, kernels.Traits(), {})
    assert version_rules.missing_version(it) == takes
