# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose kernel it is, by its own marks."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import installed
from tests.forge import families
from tests.forge.ko import ko


@pytest.mark.parametrize(
    "release,family",
    [
        ("6.1.0-56-cloud-amd64", "debian"),
        ("6.12.117+deb13-arm64", "debian"),
        ("6.1.0-0.deb11.21-amd64", "debian"),
        ("5.14.0-427.el9.x86_64", "rhel"),
        ("6.11.4-301.fc41.x86_64", "fedora"),
        ("6.8.0-31-generic", "ubuntu"),
        ("6.8.0-1010-aws", "ubuntu"),
        ("6.4.0-150600.21-default", "suse"),
        ("6.6.9-arch1-1", "arch"),
        ("6.1.112-124.190.amzn2023.x86_64", "amazon"),
        ("6.6.9-mine", ""),
        ("6.6.9", ""),
    ],
)
def test_whose_kernel_it_is(release, family, tmp_path):
    families.kernel(tmp_path, release)
    assert installed(Host(str(tmp_path)))[0].family == family


def test_enterprise_linux_by_its_modules(tmp_path):
    families.kernel(
        tmp_path,
        "6.6.9-mine",
        in_tree={"a/first.ko": ko("first", modinfo={"intree": "Y", "rhelversion": "9.4"})},
    )
    assert installed(Host(str(tmp_path)))[0].family == "rhel"
