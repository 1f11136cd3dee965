# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What packages of Enterprise Linux 7's kernels do on hosts that follow them with a driver.

There is one slot, after the initramfs was made, so the shipped image has no driver when the kernel is new; and
grubby, which gives all entries of grub.cfg one id.
"""

import re

import pytest

from tests.transactions import chroot, enterprise, rpms
from tests.transactions.enterprise import Enterprise
from tests.transactions.machine import DRIVER, changes

pytestmark = pytest.mark.full
SYSTEM = Enterprise(7, "bookworm")


@pytest.fixture(scope="module", params=[pytest.param(SYSTEM, id=str(SYSTEM))])
def system(request, memory):
    reason = enterprise.missing()
    if reason:
        pytest.skip(reason)
    return request.param


def names(*numbers):
    return " ".join(rpms.name("kernel", SYSTEM.kernels()[number]) for number in numbers)


def test_a_kernel_arrives_and_leaves(host, kernels):
    host.ok("dnf -y install " + names(1))
    host.served(kernels[1], shipped_has=False)
    assert host.default() == (kernels[1], None), "grubby has made it the default"
    ids = re.findall(r"menuentry_id_option '(.*?)'", (host.boot / "grub2/grub.cfg").read_text())
    assert len(ids) == 2 and len(set(ids)) == 1, "one id for all"
    host.settled()
    host.ok("dnf -y remove " + names(1))
    host.forgotten(kernels[1])
    assert host.loads(kernels[0]) and host.entry(kernels[0])
    assert host.default() == (kernels[0], None)
    host.settled()


def test_a_kernel_is_installed_again(host, kernels):
    """EL 7's rpm (4.11) runs no script of the package that is replaced by itself: addUpgradeErasures skips it."""
    files = "/%s/%s.x86_64.rpm" % (chroot.SHARED, names(0))
    host.ok("rpm -U --replacepkgs --nopreun --nopostun " + files)
    host.served(kernels[0])
    host.settled()


def test_two_kernels_at_once_of_which_one_refuses_the_driver(host, kernels):
    said = host.ok("dnf -y install " + names(1, 2))
    host.served(kernels[1], shipped_has=False)
    assert host.loads(kernels[2]) is None and host.entry(kernels[2]) is None
    assert host.variants(kernels[2]) == [] and host.shipped(kernels[2])
    assert "incompatible" in said, "whoever looks on is told"
    host.settled()


def test_the_oldest_kernel_goes_as_there_are_too_many(host, kernels):
    host.ok("sed -i s/installonly_limit=3/installonly_limit=2/ /etc/dnf/dnf.conf")
    host.ok("dnf -y install " + names(1))
    host.ok("dnf -y install " + names(2))
    host.served(kernels[1], shipped_has=False)
    assert host.entry(kernels[0]) is None and host.variants(kernels[0]) == []
    assert host.left_of(kernels[0]) == [], "of the first nothing is left but the build that the second uses"
    host.settled()


def test_the_default_stays_on_the_newest_kernel_that_takes_the_driver(host, kernels):
    host.follow(keep_default=True)
    host.ok("dnf -y install " + names(1))
    assert host.default() == (kernels[1], None)
    host.ok("dnf -y install " + names(2))
    assert host.default() == (kernels[1], None), "when the transaction is over: automatic reboots come next"
    host.settled()
    host.ok("dnf -y remove " + names(2))
    assert host.default() == (kernels[1], None)
    host.settled()


def test_an_entry_that_arrives_by_itself_is_tried_before_anything_is_said_of_the_default(host, kernels):
    host.follow(boot="once")
    host.ok("dnf -y install " + names(1))
    host.served(kernels[1], shipped_has=False)
    assert host.default() == (kernels[1], None), "nothing that has not proved itself"
    once = host.menu().once
    assert once and (once.release, once.driver) == (kernels[1], DRIVER)
    host.settled()


def test_following_ends_and_leaves_no_trace(bare, kernels):
    before = bare.files()
    bare.follow()
    bare.ok("dnf -y install " + names(1))
    bare.ok("dnf -y remove " + names(1))
    bare.follow_no_more()
    assert changes(before, bare.files()) == []
