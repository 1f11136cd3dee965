# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is promised of a new entry, on every family's boot configuration."""

import os
import re
import stat
import types

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    entry,
    grubenv,
    loaders,
    storage,
    systemd_boot,
    trials,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import View
from tests.forge import machines
from tests.forge.machines import DRIVER, MACHINE, NEW, OLD, write


def snapshot(root):
    """Every path with its mode and contents."""
    found = {}
    for directory, names, files in os.walk(str(root)):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            else:
                content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
            found[os.path.relpath(path, str(root))] = (status.st_mode, content)
    return found


def variants(initrd, *releases, family=""):
    directory = machines.directory(family)
    return {
        release: ((directory % release if "%" in directory else directory) + initrd % release + ".1",)
        for release in releases
    }


def identity(args):
    """The argument that tells the images and arguments of an entry."""
    return re.search(r"outoftree\.kmod\.id=[0-9a-f]{12}\b", args).group()


def menu(root, kind="auto"):
    host = Host(str(root))
    return loaders.detect(host, kind).menu(View(host))


def present(root, kernels, **options):
    plan, answer = entry.present(
        Host(str(root)), entry.Request(DRIVER, **options), machines.verified(kernels)
    )
    return plan, answer.as_dict()


def absent(root):
    plan, answer = entry.absent(Host(str(root)), DRIVER)
    return plan, answer.as_dict()


@pytest.fixture(params=sorted(machines.FAMILIES))
def machine(request, tmp_path):
    initrd = machines.FAMILIES[request.param](tmp_path)
    return tmp_path, variants(initrd, OLD, NEW, family=request.param)


# What every loader's entries keep to


def test_an_entry_for_each_kernel_starts_that_kernel_with_the_variant(machine):
    root, kernels = machine
    plan, result = present(root, kernels)
    plan.apply()
    assert [row["kernel"] for row in result["kernels"]] == [OLD, NEW]
    for row in result["kernels"]:
        made = next(each for each in menu(root).entries if each.id == row["id"])
        shipped = next(
            each for each in menu(root).entries if each.driver is None and row["kernel"] in each.linux
        )
        assert made.linux == shipped.linux
        assert made.initrd[0] == shipped.initrd[0] + ".1" and made.initrd[1:] == shipped.initrd[1:]
        assert (
            made.args
            == shipped.args
            + " outoftree.kmod=3w-9xxx %s panic=10 oops=panic rd.shell=0 rd.emergency=reboot"
            % identity(made.args)
        )
        assert made.title.startswith("With driver 3w-9xxx: ") and row["kernel"] in made.title


def test_what_was_there_stays_and_the_default_too(machine):
    root, kernels = machine
    before, default = snapshot(root), menu(root).default
    present(root, kernels)[0].apply()
    after = snapshot(root)
    changed = {path for path in before if before[path] != after[path]}
    # these have one file for all entries
    assert changed <= {"boot/grub/grub.conf", "boot/extlinux/extlinux.conf"}
    for path in changed:
        assert after[path][1].startswith(before[path][1])
    assert (menu(root).default.title, menu(root).default.linux) == (default.title, default.linux)


def test_a_second_run_changes_nothing(machine):
    root, kernels = machine
    present(root, kernels)[0].apply()
    plan, result = present(root, kernels)
    assert not plan
    assert [row["changed"] for row in result["kernels"]] == [False, False]


def test_planning_writes_nothing(machine):
    root, kernels = machine
    before = snapshot(root)
    plan, _result = present(root, kernels, boot="none")
    assert plan and plan.diff() and snapshot(root) == before


def test_removal_brings_every_byte_back(machine):
    root, kernels = machine
    before = snapshot(root)
    present(root, kernels)[0].apply()
    plan, result = absent(root)
    plan.apply()
    assert snapshot(root) == before
    assert [row["state"] for row in result["kernels"]] == ["absent", "absent"]
    assert not absent(root)[0]


def test_a_default_that_was_asked_for_is_taken_back_with_the_entry(machine):
    root, kernels = machine
    before, default = snapshot(root), menu(root).default
    plan, result = present(root, kernels, boot="default")
    plan.apply()
    chosen = next(row for row in result["kernels"] if row["default"])
    assert chosen["kernel"] in default.linux  # the kernel stays the one that boots anyway
    assert menu(root).default.driver == DRIVER
    assert not present(root, kernels, boot="default")[0]
    assert not present(root, kernels)[0], "boot: none leaves the default as it is"
    absent(root)[0].apply()
    assert snapshot(root) == before


def test_the_shipped_default_comes_back_and_the_entries_stay(machine):
    root, kernels = machine
    present(root, kernels)[0].apply()
    before = snapshot(root)
    assert not present(root, kernels, boot="shipped")[0]
    present(root, kernels, boot="default")[0].apply()
    plan, result = present(root, kernels, boot="shipped")
    plan.apply()
    assert snapshot(root) == before
    assert not any(row["default"] or row["next"] for row in result["kernels"])


def test_entries_follow_a_changed_variant(machine):
    root, kernels = machine
    present(root, kernels)[0].apply()
    again = {release: (image[0][:-1] + "2",) for release, image in kernels.items()}
    for images in again.values():
        write(root, images[0], "another", 0o600)
    plan, result = present(root, again)
    plan.apply()
    assert [row["initrd"][0][-1] for row in result["kernels"]] == ["2", "2"]
    assert len([each for each in menu(root).entries if each.driver]) == 2


def test_two_drivers_have_their_own_entries(machine):
    root, kernels = machine
    before = snapshot(root)
    present(root, kernels)[0].apply()
    first = snapshot(root)
    entry.present(Host(str(root)), entry.Request("other"), machines.verified(kernels))[0].apply()
    assert len([each for each in menu(root).entries if each.driver]) == 4
    entry.absent(Host(str(root)), "other")[0].apply()
    assert snapshot(root) == first
    entry.present(Host(str(root)), entry.Request("other"), machines.verified(kernels))[0].apply()
    absent(root)[0].apply()
    entry.absent(Host(str(root)), "other")[0].apply()
    assert snapshot(root) == before


def test_an_entry_whose_kernel_is_gone_is_removed(machine):
    root, kernels = machine
    present(root, kernels)[0].apply()
    for path in [*root.glob("boot/vmlinuz-" + OLD), *root.glob("boot/efi/*/%s/linux" % OLD)]:
        path.unlink()
    present(root, {NEW: kernels[NEW]})[0].apply()
    assert [each.kernel for each in menu(root).entries if each.driver] == [NEW]


# A trial. Only these loaders start an entry once.


class Running:
    """A machine that runs: what its kernel shows, and what its loader starts next."""

    def __init__(self, root, family, monkeypatch):
        self.root = root
        self.firmware = root / systemd_boot.ONCE.path.lstrip("/")
        self.cmdline, self.states = "", {}
        write(root, systemd_boot.INFO.path, "\x07\0\0\0" + "\0".join("%s 252\0" % family))
        monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(release=NEW))
        monkeypatch.setattr(trials, "_cmdline", lambda host: self.cmdline)
        monkeypatch.setattr(trials, "_loaded", lambda host, release, driver: self.states)
        monkeypatch.setattr(Host, "live", property(lambda host: True))
        monkeypatch.setattr(Host, "run", lambda host, argv: self.bootctl(argv[2]))
        monkeypatch.setattr(storage, "unwritable", lambda host, path, entry: None)

    def bootctl(self, name):
        if name:
            write(self.root, systemd_boot.ONCE.path, "\x07\0\0\0" + "\0".join(name) + "\0")
        elif self.firmware.exists():
            self.firmware.unlink()

    def next_boot(self):
        """The entry to be started once, if there is one, and the default.

        The loader forgets the first before it starts it.
        """
        chosen = menu(self.root)
        self.bootctl("")
        for path in self.root.glob("boot/*/grubenv"):
            path.write_text(grubenv.set_(path.read_text(), "next_entry", None, path="grubenv"))
        return next((each for each in chosen.entries if each.id == chosen.once), None), chosen.default


@pytest.fixture(params=["debian", "el7", "el9", "systemd-boot"])
def trier(request, tmp_path, monkeypatch):
    """A running machine, and what starts it again: with the entry on trial or without, and whether the driver
    works.
    """
    initrd = machines.FAMILIES[request.param](tmp_path)
    running = Running(tmp_path, request.param, monkeypatch)

    def reboot(works):
        once, default = running.next_boot()
        started = once or default
        up = started.driver is not None and works
        running.cmdline = started.args if up else ""
        running.states = {"vendor": "this" if up else "no"}

    return tmp_path, variants(initrd, OLD, NEW, family=request.param), reboot


def test_a_trial_that_has_not_begun_can_be_given_up(trier):
    root, kernels, reboot = trier
    present(root, kernels)[0].apply()
    before = [each for each in snapshot(root).items() if "efivars" not in each[0]]
    present(root, kernels, boot="once")[0].apply()
    row = apply(*present(root, kernels, boot="shipped"))
    assert row["trial"] == "none" and not row["next"] and menu(root).once is None
    assert [each for each in snapshot(root).items() if "efivars" not in each[0]] == before
    assert apply(*present(root, kernels, boot="once"))["trial"] == "pending"


def test_what_somebody_made_the_default_by_hand_is_not_tried(tmp_path, monkeypatch):
    """A trial that failed would come back to it."""
    initrd = machines.el7(tmp_path)
    kernels = variants(initrd, NEW)
    present(tmp_path, kernels)[0].apply()
    path = tmp_path / "boot/grub2/grubenv"
    path.write_text(
        grubenv.set_(path.read_text(), "saved_entry", "outoftree-%s-%s" % (DRIVER, NEW), path="grubenv")
    )
    monkeypatch.setattr(Host, "live", property(lambda host: True))
    monkeypatch.setattr(storage, "unwritable", lambda host, path, entry: None)
    before = snapshot(tmp_path)
    for boot in ("once", "shipped"):
        refused("DEFAULT_KEPT", present, tmp_path, kernels, boot=boot)
    assert snapshot(tmp_path) == before


def apply(plan, result):
    plan.apply()
    return next(row for row in result["kernels"] if row["kernel"] == NEW)


def test_a_trial_that_failed_is_not_repeated_by_the_next_run(trier):
    root, kernels, reboot = trier
    row = apply(*present(root, kernels, boot="once"))
    assert row["trial"] == "pending" and row["next"] and not row["default"]
    assert not present(root, kernels, boot="once")[0]
    reboot(works=False)
    assert apply(*present(root, kernels))["trial"] == "failed"
    before = snapshot(root)
    error = refused("TRIAL_FAILED", present, root, kernels, boot="once")
    assert "remove the entry" in error.then and snapshot(root) == before


@pytest.mark.parametrize("power_fails", [False, True])
def test_a_run_that_is_cut_off_anywhere_is_not_taken_for_a_trial_that_failed(trier, power_fails):
    root, kernels, reboot = trier
    steps = len(present(root, kernels, boot="once")[0].steps)
    assert steps >= 3  # the entry, what the next boot starts, that it was tried
    for done in range(steps):
        plan = present(root, kernels, boot="once")[0]
        plan.steps = plan.steps[:done]
        plan.apply()
        if power_fails:
            reboot(works=False)
        row = apply(*present(root, kernels, boot="once"))
        assert row["trial"] == "pending" and row["next"]
        assert not present(root, kernels, boot="once")[0]
        reboot(works=False)
        assert apply(*present(root, kernels))["trial"] == "failed"
        absent(root)[0].apply()


@pytest.mark.parametrize("correct", ["image", "args", "entry"])
def test_after_a_correction_it_is_tried_again(trier, correct):
    root, kernels, reboot = trier
    present(root, kernels, boot="once")[0].apply()
    reboot(works=False)
    if correct == "image":
        write(root, kernels[NEW][0], "a corrected driver", 0o600)
    elif correct == "entry":
        absent(root)[0].apply()
    row = apply(*present(root, kernels, boot="once", args="ootedu.careful=1" if correct == "args" else ""))
    assert row["trial"] == "pending" and row["next"] and row["changed"]


def test_a_trial_that_went_well_is_remembered_and_not_repeated_either(trier):
    root, kernels, reboot = trier
    present(root, kernels, boot="once")[0].apply()
    reboot(works=True)
    assert apply(*present(root, kernels))["trial"] == "passed"
    assert not present(root, kernels, boot="once")[0]
    reboot(works=True)  # back on the default
    plan, result = present(root, kernels, boot="once")
    assert not plan and [row["trial"] for row in result["kernels"]] == ["none", "passed"]


def test_the_default_has_the_arguments_of_the_shipped_entry_and_one_on_trial_those_to_fall_back(trier):
    root, kernels, reboot = trier
    assert apply(*present(root, kernels, boot="once"))["args"].endswith(entry.FALLBACK_ARGS)
    reboot(works=True)
    row = apply(*present(root, kernels, boot="default"))
    assert row["default"] and row["args"] == "outoftree.kmod=%s %s" % (DRIVER, identity(row["args"]))
    for boot in ("none", "once", "default"):
        assert not present(root, kernels, boot=boot)[0]
    write(root, kernels[NEW][0], "another driver", 0o600)
    reboot(works=False)
    row = apply(*present(root, kernels, boot="once"))
    assert row["next"] and not row["default"] and row["args"].endswith(entry.FALLBACK_ARGS)


@pytest.mark.parametrize("other", ["image", "args"])
def test_what_runs_proves_nothing_of_other_images_or_arguments(trier, other):
    root, kernels, reboot = trier
    present(root, kernels, boot="once")[0].apply()
    reboot(works=True)
    assert apply(*present(root, kernels, boot="default"))["trial"] == "passed"
    if other == "image":
        write(root, kernels[NEW][0], "the shipped image was made anew", 0o600)
    row = apply(*present(root, kernels, boot="once", args="pci=off" if other == "args" else ""))
    assert row["trial"] == "pending" and row["next"] and not row["default"]


def test_an_entry_that_somebody_chose_in_the_menu_has_passed(trier, monkeypatch):
    root, kernels, reboot = trier
    args = apply(*present(root, kernels))["args"]
    monkeypatch.setattr(trials, "_cmdline", lambda host: args)
    monkeypatch.setattr(trials, "_loaded", lambda host, release, driver: {"vendor": "this"})
    plan, result = present(root, kernels, boot="once")
    assert not plan and [row["trial"] for row in result["kernels"]] == ["none", "passed"]


def test_an_entry_that_kernel_install_gave_our_arguments_proves_nothing_and_ours_has_them_once(
    tmp_path, monkeypatch
):
    """Without /etc/kernel/cmdline it takes those of the running system, which an entry of ours for another
    kernel may have started.
    """
    initrd = machines.el9(tmp_path)
    present(tmp_path, variants(initrd, OLD))[0].apply()
    running = menu(tmp_path).entries[-1].args
    path = tmp_path / "boot/loader/entries" / ("%s-%s.conf" % (MACHINE, NEW))
    path.write_text(re.sub("^options .*", "options " + running, path.read_text(), flags=re.M))
    monkeypatch.setattr(Host, "live", property(lambda host: True))
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(release=NEW))
    monkeypatch.setattr(trials, "_cmdline", lambda host: running)
    monkeypatch.setattr(trials, "_loaded", lambda host, release, driver: {"vendor": "this"})
    for _time in range(2):
        plan, result = present(tmp_path, variants(initrd, NEW))
        plan.apply()
        assert (
            result["running"]["booted"] is None
            and result["running"]["verdict"] == "none"
            and result["kernels"][0]["trial"] == "none"
        )
    args = next(each.args for each in menu(tmp_path).entries if each.kernel == NEW)
    assert [word for word in args.split() if word.startswith("outoftree") or word.startswith("panic")] == [
        "outoftree.kmod=" + DRIVER,
        identity(args),
        "panic=10",
    ] and "crashkernel" in args


def test_a_trial_leaves_nothing_behind_when_its_entry_goes(trier):
    root, kernels, reboot = trier
    reboot(works=False)
    before = snapshot(root)
    present(root, kernels, boot="once")[0].apply()
    reboot(works=True)
    present(root, kernels, boot="default")[0].apply()
    absent(root)[0].apply()
    assert snapshot(root) == before


def test_arguments_to_fall_back_that_were_asked_for_stay(machine):
    root, kernels = machine
    for boot in ("none", "default"):
        plan, result = present(root, kernels, boot=boot, fallback_args="panic=60")
        plan.apply()
        for row in result["kernels"]:
            assert row["args"] == "outoftree.kmod=%s %s panic=60" % (DRIVER, identity(row["args"]))


# Bad input


def refused(code, function, *arguments, **options):
    with pytest.raises(KmodError) as caught:
        function(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.then
    return caught.value


def test_a_kernel_without_a_shipped_entry(machine):
    root, kernels = machine
    before = snapshot(root)
    assert "6.6.6" in refused("ENTRY_MISSING", present, root, {"6.6.6": kernels[NEW]}).why
    assert snapshot(root) == before


def test_a_missing_variant(machine):
    root, _kernels = machine
    refused("VARIANT_MISSING", present, root, {NEW: ("/boot/initrd.9",)})


def test_a_variant_where_the_loader_cannot_read_it(machine):
    root, _kernels = machine
    write(root, "/var/initrd.1")
    refused("INITRD_ELSEWHERE", present, root, {NEW: ("/var/initrd.1",)})


def test_arguments_that_loaders_would_take_apart(machine):
    root, kernels = machine
    for bad in ("a=$b", "a='b c'", 'a="b"', "a\nb", "a\\b", "{"):
        refused("ARGS_INVALID", present, root, kernels, args=bad)


def test_a_driver_name_that_could_break_a_configuration(machine):
    root, kernels = machine
    for bad in ("a b", "a'b", "../a", "", "-a", "a\n"):
        refused("DRIVER_NAME", entry.present, Host(str(root)), entry.Request(bad), machines.verified(kernels))


def test_a_host_without_a_boot_loader(tmp_path):
    refused("LOADER_MISSING", present, tmp_path, {})
    assert not absent(tmp_path)[0]


def test_bls_names_never_sort_first(tmp_path):
    initrd = machines.el9(tmp_path)  # nothing saved: the first entry is the default
    present(tmp_path, variants(initrd, OLD, NEW))[0].apply()
    shown = [each.id for each in menu(tmp_path).entries]
    base = MACHINE + "-"
    assert shown == [base + NEW, base + NEW + "~3w_9xxx", base + OLD, base + OLD + "~3w_9xxx"]
