# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of a system that an entry started: whether it came up, with what, and whether anything asked
for the driver.
"""

import types

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry, trials
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import Verified
from tests.forge import machines
from tests.forge.machines import DRIVER, NEW, OLD, write
from tests.unit.place.boot.test_entry import Running, apply, menu, present, refused, variants


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A running machine whose entry for NEW is on trial and was started; ``show`` sets what it shows and
    answers with what is told of it.
    """
    kernels = variants(machines.debian(tmp_path), OLD, NEW)
    running = Running(tmp_path, "debian", monkeypatch)
    monkeypatch.setattr(trials.depmod, "linked", lambda host, release, drivers: ("/lib/modules/vendor.ko",))
    aliases = ["pci:v00001234d000011E8sv*sd*bc*sc*i*", "usb:v12d[0-9]*-x"]
    monkeypatch.setattr(trials.ko, "read", lambda host, path: types.SimpleNamespace(aliases=aliases))

    def show(states, boot="none", marks=("", None), booted=True):
        verified = {release: Verified(tuple(paths), mark=marks[0]) for release, paths in kernels.items()}
        entry.present(Host(str(tmp_path)), entry.Request(DRIVER, boot="once"), verified)[0].apply()
        once, _default = running.next_boot()
        running.cmdline, running.states = (once.args if booted else "quiet"), states
        if marks[1] is not None:
            write(tmp_path, trials.MARK, marks[1] + "\n")
        plan, answer = entry.present(Host(str(tmp_path)), entry.Request(DRIVER, boot=boot), verified)
        plan.apply()
        return answer.as_dict()

    show.root, show.kernels, show.running = tmp_path, kernels, running
    return show


def test_came_up_well(started):
    result = started({"vendor": "this", "helper": "no"})
    assert (result["running"]["verdict"], result["trial"], result["reboot_needed"]) == (
        "well",
        "passed",
        False,
    )
    assert "vendor" in result["running"]["message"] and result["msg"] == result["running"]["message"]


def test_did_not_come_up(started):
    result = started({}, booted=False)
    assert (result["running"]["verdict"], result["trial"]) == ("none", "failed")
    assert "back on its default" in result["msg"] and NEW in result["msg"]


def test_came_up_with_another_module(started):
    result = started({"vendor": "other"})
    assert (result["running"]["verdict"], result["trial"]) == ("other", "failed")
    assert "another module" in result["msg"] and "vendor" in result["msg"]


def test_crashed_while_it_was_loaded(started):
    result = started({"vendor": "coming", "helper": "this"})
    assert (result["running"]["verdict"], result["trial"]) == ("stuck", "failed")


def test_came_up_and_no_device_asks_for_the_driver(started):
    """Neither a failure nor a proof: the host is well, and nothing in the logs would be wrong."""
    write(
        started.root,
        "/sys/devices/pci0000:00/0000:00:02.0/modalias",
        "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00\n",
    )
    result = started({"vendor": "no"})
    assert (result["running"]["verdict"], result["trial"]) == ("idle", "idle")
    assert "no device" in result["msg"] and "early_load" in result["msg"] and "load: true" in result["msg"]


@pytest.mark.parametrize("modalias", ["pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00", "usb:v12d7-x"])
def test_came_up_and_the_module_is_not_loaded_although_a_device_asks_for_it(started, modalias):
    write(started.root, "/sys/devices/pci0000:00/0000:00:04.0/modalias", modalias + "\n")
    result = started({"vendor": "no"})
    assert (result["running"]["verdict"], result["trial"]) == ("unloaded", "failed")
    assert "0000:00:04.0" in result["msg"]


def test_that_nothing_asked_is_remembered_after_the_next_boot_and_is_not_tried_again(started):
    started({"vendor": "no"})
    started.running.cmdline = "quiet"
    row = apply(*present(started.root, started.kernels, boot="once"))
    assert row["trial"] == "idle" and not row["next"]


def test_what_is_loaded_later_proves_it_all_the_same(started):
    started({"vendor": "no"})
    started.running.states = {"vendor": "this"}
    assert apply(*present(started.root, started.kernels))["trial"] == "passed"


def test_a_boot_without_the_variant_proves_nothing_although_the_module_is_loaded(started):
    """The loader may have started the kernel with another initramfs, or without one; the module came from the
    root's own disk then.
    """
    result = started({"vendor": "this"}, marks=("a" * 64, None))
    assert (result["running"]["verdict"], result["running"]["initramfs"], result["trial"]) == (
        "image",
        False,
        "failed",
    )
    assert "initramfs" in result["msg"]


def test_a_boot_with_another_variant_than_the_entrys_proves_nothing(started):
    assert started({"vendor": "this"}, marks=("a" * 64, "b" * 64))["trial"] == "failed"


def test_the_variant_that_was_unpacked_is_part_of_the_proof(started):
    result = started({"vendor": "this"}, marks=("a" * 64, "a" * 64))
    assert (result["running"]["initramfs"], result["trial"]) == (True, "passed")


def test_a_mark_that_is_no_file_blocks_nothing(started):
    import os

    os.makedirs(str(started.root / "run"))
    os.mkfifo(str(started.root / trials.MARK.lstrip("/")))
    assert started({"vendor": "this"}, marks=("a" * 64, None))["running"]["verdict"] == "image"


def test_a_reboot_is_due_as_long_as_a_trial_is_pending(trier):
    root, kernels, reboot = trier
    assert not present(root, kernels)[1]["reboot_needed"]
    plan, result = present(root, kernels, boot="once")
    assert (
        result["reboot_needed"]
        and result["pending"] == [NEW]
        and result["trial"] == "pending"
        and "reboot" in result["msg"]
    )
    plan.apply()
    assert present(root, kernels)[1]["pending"] == [NEW]
    reboot(works=True)
    result = present(root, kernels)[1]
    assert (result["reboot_needed"], result["pending"], result["trial"]) == (False, [], "passed")


def test_what_failed_its_trial_is_not_made_the_default(trier):
    root, kernels, reboot = trier
    present(root, kernels, boot="once")[0].apply()
    reboot(works=False)
    before = menu(root).default
    refused("TRIAL_FAILED", present, root, kernels, boot="default")
    assert menu(root).default == before


def test_an_answer_about_nothing_names_the_drivers_that_there_are(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    host = Host(str(tmp_path))
    assert "There is none of any driver" in entry.absent(host, "3w-9xx")[1].msg
    present(tmp_path, kernels)[0].apply()
    for answer in (
        entry.absent(host, "3w-9xx")[1],
        entry.present(host, entry.Request("3w-9xx", boot="shipped"), {})[1],
    ):
        assert "no boot entry of 3w-9xx" in answer.msg and DRIVER in answer.msg
