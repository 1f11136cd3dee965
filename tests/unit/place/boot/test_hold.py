# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A default that is kept on an older kernel: on every family's boot configuration, and taken back to the
byte.
"""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    grub_cfg,
    grubenv,
    hold,
    loaders,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import release
from tests.forge import machines
from tests.forge.machines import DRIVER, NEW, OLD
from tests.unit.place.boot.test_entry import absent, menu, present, snapshot, variants


@pytest.fixture(params=sorted(machines.FAMILIES))
def machine(request, tmp_path):
    initrd = machines.FAMILIES[request.param](tmp_path)
    return tmp_path, variants(initrd, OLD, NEW, family=request.param)


def keep(root, kernel):
    plan, held = hold.hold(Host(str(root)), kernel)
    plan.apply()
    return held


def let_go(root):
    hold.release(Host(str(root))).apply()


def without_state(root):
    return {path: what for path, what in snapshot(root).items() if not path.startswith("var")}


def test_boots_start_the_kernel_that_is_kept_and_after_that_what_they_did_before(machine):
    root, _kernels = machine
    before, started = without_state(root), menu(root).default
    held = keep(root, OLD)
    now = menu(root).default
    assert (release(now), now.driver) == (OLD, None) and held.id in (now.id, now.title)
    assert hold.in_force(menu(root), hold.read(Host(str(root))))
    assert release(hold.wished(Host(str(root)))) == release(started)
    let_go(root)
    assert without_state(root) == before and menu(root).default == started


def test_keeping_it_again_changes_nothing(machine):
    root, _kernels = machine
    keep(root, OLD)
    plan, _held = hold.hold(Host(str(root)), OLD)
    assert not plan


def test_another_kernel_can_be_kept_instead(machine):
    root, _kernels = machine
    before = without_state(root)
    keep(root, OLD)
    keep(root, NEW)
    assert release(menu(root).default) == NEW
    let_go(root)
    assert without_state(root) == before


def test_entries_of_ours_come_and_go_beside_it(machine):
    root, kernels = machine
    keep(root, OLD)
    kept = without_state(root)
    present(root, kernels)[0].apply()
    assert release(menu(root).default) == OLD and menu(root).default.driver is None
    absent(root)[0].apply()
    assert without_state(root) == kept


def test_an_entry_of_ours_that_was_the_default_is_again_what_others_remember(machine):
    root, kernels = machine
    before = without_state(root)
    present(root, {NEW: kernels[NEW]}, boot="default")[0].apply()
    assert menu(root).default.driver == DRIVER
    keep(root, OLD)
    assert menu(root).default.driver is None and release(menu(root).default) == OLD
    let_go(root)
    absent(root)[0].apply()
    assert without_state(root) == before


def test_a_default_that_others_set_since_stays_theirs(tmp_path):
    machines.FAMILIES["el9"](tmp_path)
    keep(tmp_path, OLD)
    loader = loaders.detect(Host(str(tmp_path)))
    path = tmp_path / grub_cfg.environment(loader)[1:]
    newest = next(entry for entry in menu(tmp_path).entries if release(entry) == NEW)
    # as 20-grub does for a new kernel
    path.write_text(grubenv.set_(path.read_text(), "saved_entry", newest.id, path="grubenv"))
    assert not hold.in_force(menu(tmp_path), hold.read(Host(str(tmp_path))))
    assert hold.wished(Host(str(tmp_path))).id == newest.id
    let_go(tmp_path)
    assert menu(tmp_path).default.id == newest.id
