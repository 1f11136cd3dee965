# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which entries start an image, and how boots are kept from an image that is about to change."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    entry,
    grubenv,
    shipped,
    withdraw,
)
from tests.forge import machines
from tests.forge.machines import DRIVER, NEW, OLD, write
from tests.unit.place.boot.test_entry import menu, present, refused, snapshot, variants


def starting(root, path):
    return [(each.driver, each.kernel, each.chosen) for each in shipped.starting(Host(str(root)), path)]


def test_no_entry_starts_a_variant_before_ours_is_made(machine):
    root, kernels = machine
    assert starting(root, kernels[NEW][0]) == []


def test_ours_start_the_variant_each_its_own(machine):
    root, kernels = machine
    present(root, kernels)[0].apply()
    for release in (OLD, NEW):
        assert starting(root, kernels[release][0]) == [(DRIVER, release, ())]


def test_the_default_is_told(machine):
    root, kernels = machine
    present(root, kernels, boot="default")[0].apply()
    assert ("default",) in [
        chosen for release in kernels for _driver, _kernel, chosen in starting(root, kernels[release][0])
    ]


def test_an_image_that_is_gone_is_started_all_the_same(machine):
    root, kernels = machine
    present(root, kernels)[0].apply()
    (root / kernels[NEW][0].lstrip("/")).unlink()
    assert starting(root, kernels[NEW][0]) == [(DRIVER, NEW, ())]


def test_what_the_next_boot_alone_starts_is_told(trier):
    root, kernels, _reboot = trier
    present(root, kernels, boot="once")[0].apply()
    assert starting(root, kernels[NEW][0]) == [(DRIVER, NEW, ("once",))]


def test_an_entry_by_hand_counts_too_also_where_it_is_named_by_its_submenu(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    write(
        tmp_path,
        "/boot/grub/custom.cfg",
        "submenu mine --id m {\nmenuentry 'by hand' {\n linux /boot/vmlinuz-%s\n initrd ($root)%s\n}\n}\n"
        % (NEW, kernels[NEW][0]),
    )
    write(
        tmp_path,
        "/boot/grub/grubenv",
        grubenv.set_(machines.grubenv(), "next_entry", "m>by hand", path="grubenv"),
    )
    assert [(each.title, each.chosen) for each in shipped.starting(Host(str(tmp_path)), kernels[NEW][0])] == [
        ("by hand", ("once",))
    ]


def test_entries_of_a_second_loader_count_whichever_it_boots_with(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    machines.extlinux(tmp_path)
    entry.present(Host(str(tmp_path)), entry.Request(DRIVER, loader="extlinux"), machines.verified(kernels))[
        0
    ].apply()
    assert starting(tmp_path, kernels[NEW][0]) == [(DRIVER, NEW, ())]


def test_a_host_without_a_loader_starts_nothing(tmp_path):
    assert starting(tmp_path, "/boot/initrd.1") == []


def test_the_old_default_is_had_back_and_nothing_else_changes(machine):
    root, kernels = machine
    present(root, kernels, fallback_args="")[0].apply()
    before = snapshot(root)
    present(root, kernels, boot="default", fallback_args="")[0].apply()
    assert snapshot(root) != before
    withdraw.give_back(Host(str(root)), [path for paths in kernels.values() for path in paths]).apply()
    assert snapshot(root) == before
    assert not withdraw.give_back(Host(str(root)), [path for paths in kernels.values() for path in paths])


def test_other_images_than_those_that_change_stay_the_default(machine):
    root, kernels = machine
    present(root, kernels, boot="default")[0].apply()
    started = NEW if menu(root).default.kernel == NEW else OLD
    assert not withdraw.give_back(Host(str(root)), kernels[OLD if started == NEW else NEW])


def test_a_trial_that_has_not_begun_is_given_up_and_cut_off_anywhere_is_not_taken_for_one_that_failed(trier):
    root, kernels, _reboot = trier
    present(root, kernels, boot="once")[0].apply()
    steps = len(withdraw.give_back(Host(str(root)), kernels[NEW]).steps)
    for done in range(steps + 1):
        plan = withdraw.give_back(Host(str(root)), kernels[NEW])
        plan.steps = plan.steps[:done]
        plan.apply()
        assert present(root, kernels)[1]["kernels"][1]["trial"] in ("pending", "none")
        present(root, kernels, boot="once")[0].apply()
    withdraw.give_back(Host(str(root)), kernels[NEW]).apply()
    assert menu(root).once is None


def test_a_default_that_somebody_else_set_is_not_changed_and_said(tmp_path):
    kernels = variants(machines.el7(tmp_path), NEW)
    present(tmp_path, kernels)[0].apply()
    path = tmp_path / "boot/grub2/grubenv"
    path.write_text(
        grubenv.set_(path.read_text(), "saved_entry", "outoftree-%s-%s" % (DRIVER, NEW), path="grubenv")
    )
    before = snapshot(tmp_path)
    error = refused("DEFAULT_KEPT", withdraw.give_back, Host(str(tmp_path)), kernels[NEW])
    assert NEW in str(error) and snapshot(tmp_path) == before


@pytest.mark.parametrize("boot", ["shipped", "once"])
def test_a_run_that_gives_up_a_trial_and_is_cut_off_is_not_taken_for_one_that_failed(trier, boot):
    root, kernels, _reboot = trier
    present(root, kernels, boot="once")[0].apply()
    options = {"boot": boot, "args": "" if boot == "shipped" else "quiet"}
    for done in range(len(present(root, kernels, **options)[0].steps)):
        plan = present(root, kernels, **options)[0]
        plan.steps = plan.steps[:done]
        plan.apply()
        assert present(root, kernels)[1]["kernels"][1]["trial"] in ("pending", "none")
        present(root, kernels, boot="once")[0].apply()
