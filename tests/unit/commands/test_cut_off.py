# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Killed here, what boots? A host that is at work on a kernel is cut off at one write after another, and run
again.
"""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import shipped
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing
from tests.unit.commands.follower import NEW, OLD, Follower

WRITES = ("replace", "symlink", "mkdir", "remove")


def cut_off(after, work):
    """Do something in a process that is gone at its write number ``after``; whether it got so far."""
    child = os.fork()
    if child == 0:
        left = [after]

        def wrapped(real):
            def write(self, *arguments, **options):
                if left[0] <= 0:
                    os._exit(9)
                left[0] -= 1
                return real(self, *arguments, **options)

            return write

        for name in WRITES:
            setattr(Host, name, wrapped(getattr(Host, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def boots_well(host, before):
    """What boots start is there and whole, and is a shipped entry or one that was started before."""
    menu = host.menu()
    for entry in menu.entries:
        if entry.driver:
            images = [shipped.locate(host.host, word) for word in entry.initrd if "$" not in word]
            assert all(images), entry.id
            existing.verified(host.host, entry.kernel, images)
    default = menu.default
    assert default.driver is None and shipped.locate(host.host, default.linux)
    assert [(entry.path, entry.text) for entry in menu.entries if entry.driver is None] == before


@pytest.mark.parametrize("family", ["debian", "el9"])
@pytest.mark.parametrize("refuses", [False, True])
def test_an_arrival_that_is_cut_off_boots_and_the_next_look_finishes_it(tmp_path, family, refuses):
    whole = Follower(tmp_path / "whole", family, refuses)
    whole.deploy()
    whole.follow(vendor={"keep_default": True})
    whole.run()
    wanted = whole.snapshot()
    after = 0
    while True:
        host = Follower(tmp_path / str(after), family, refuses)
        host.deploy()
        host.follow(vendor={"keep_default": True})
        shipped_entries = [(entry.path, entry.text) for entry in host.menu().entries if entry.driver is None]
        if not cut_off(after, host.run):
            break
        boots_well(host, shipped_entries)
        host.run()
        found = host.snapshot()
        differing = {path for path in {*found, *wanted} if found.get(path) != wanted.get(path)}
        # which say when they were packed
        assert {path for path in differing if "symvers" not in path} == set(), after
        after += 2
    assert after > 3


@pytest.mark.parametrize("family", ["debian", "el9"])
def test_a_removal_that_is_cut_off_boots_and_the_next_look_finishes_it(tmp_path, family):
    after = 0
    while True:
        host = Follower(tmp_path / str(after), family)
        host.deploy()
        host.follow(vendor={})
        host.run("refresh", None)
        host.leave()
        # with entries in files that may be ours, which has the highest name by then
        there = host.menu().default
        if not cut_off(after, lambda: host.run("remove-kernel")):  # noqa: B023
            break
        assert host.menu().default.driver is None or host.menu().default == there
        assert not host.run("remove-kernel").failed
        assert (
            host.menu().default.driver is None
            and host.links() == []
            and host.ours() == [("vendor", OLD)]
            and NEW not in "".join(host.variants())
        )
        after += 2
    assert after > 3
