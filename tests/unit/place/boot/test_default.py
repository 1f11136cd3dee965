# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What the next boot starts, and the default set to a shipped entry and back."""
import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import default
from tests.forge import machines
from tests.forge.machines import NEW, OLD
from tests.unit.place.boot.test_entry import apply, present, refused, snapshot, variants

FOLLOWING = ["el7", "el9", "sles", "el6", "systemd-boot", "extlinux"]


def shipped(host, release):
    return next(entry for entry in default.next_boot(host).menu.entries
                if entry.driver is None and release in entry.linux and "recovery" not in entry.id and "single" not in entry.args)


def saved(root, family):
    """A machine of the family, with a default that can be set."""
    return machines.debian(root, "${saved_entry}") if family == "debian" else machines.FAMILIES[family](root)


@pytest.mark.parametrize("family", ["debian", *FOLLOWING])
def test_the_default_moves_to_another_kernel_and_back(tmp_path, family):
    saved(tmp_path, family)
    host, untouched = Host(str(tmp_path)), snapshot(tmp_path)
    was = default.next_boot(host)
    other = OLD if was.release == NEW else NEW
    default.change(host, shipped(host, other)).apply()
    now = default.next_boot(host)
    assert (now.release, now.once) == (other, False)
    assert not default.change(host, now.entry), "a second run changes nothing"
    default.restore(host, now.entry).apply()
    assert default.next_boot(host).entry == was.entry and snapshot(tmp_path) == untouched


@pytest.mark.parametrize("chosen, other", [(NEW, OLD), (OLD, NEW)])
@pytest.mark.parametrize("family", ["debian", *FOLLOWING])
def test_what_somebody_chose_after_that_stays(tmp_path, family, chosen, other):
    saved(tmp_path, family)
    host = Host(str(tmp_path))
    default.change(host, shipped(host, chosen)).apply()
    assert not default.restore(host, shipped(host, other)) and default.next_boot(host).release == chosen


def test_a_default_that_is_fixed_is_not_claimed_to_move(tmp_path):
    machines.debian(tmp_path)
    host = Host(str(tmp_path))
    refused("DEFAULT_FIXED", default.change, host, shipped(host, OLD))


def test_the_next_boot_is_the_trial_where_one_waits(tmp_path):
    initrd = machines.debian(tmp_path)
    apply(*present(tmp_path, variants(initrd, OLD, NEW), boot="once"))
    told = default.next_boot(Host(str(tmp_path)))
    assert told.once and told.entry.driver and told.release == NEW and told.menu.default.driver is None
