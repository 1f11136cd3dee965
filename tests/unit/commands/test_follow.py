# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is promised of a host that follows new kernels: by what is on disk, for every driver, and never an
unproven default.
"""

import fcntl
import json
import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli, lock
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import follow
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import (
    bulletin,
    hook_texts,
    hooks,
    settings,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import loaders
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import manifest
from tests.forge import families
from tests.forge.ko import Export, ko
from tests.forge.symvers import EXPORTS
from tests.unit.commands.follower import NEW, OLD, OTHER_ABI, Follower, machines

FAMILIES = sorted(machines.FAMILIES)


@pytest.fixture
def host(tmp_path):
    return Follower(tmp_path)


def refused(code, work, *arguments, **options):
    with pytest.raises(KmodError) as caught:
        work(*arguments, **options)
    assert caught.value.code == code
    return str(caught.value)


# A kernel arrives


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kernel_that_arrives_gets_links_variant_and_entry_and_the_default_stays(tmp_path, family):
    host = Follower(tmp_path, family)
    host.deploy()
    host.follow(vendor={})
    before = host.menu().default
    answer = host.run()
    assert not answer.failed and not answer.refused
    assert host.links() == ["vendor.ko"] and "weak-updates/vendor/vendor.ko" in host.listed()
    assert (host.variants(), host.ours()) == (
        [str(host.image_path(NEW, ".1").relative_to(tmp_path))],
        [("vendor", NEW)],
    )
    assert host.menu().default == before


def test_the_early_slot_links_and_does_nothing_else(host):
    host.deploy()
    host.follow(vendor={"boot": "default", "keep_default": True})
    answer = host.run(early=True)
    assert host.links() == ["vendor.ko"] and "vendor.ko" in host.listed()
    assert (host.variants(), host.ours(), answer.rows[0].variant) == ([], [], "")
    assert not (host.root / bulletin.FACT[1:]).exists()


def test_a_second_run_writes_nothing_and_takes_no_lock(host, monkeypatch):
    host.deploy()
    host.follow(vendor={})
    assert host.run().changed
    monkeypatch.setattr(lock, "held", None)
    for verb, kernel in (("add-kernel", NEW), ("refresh", NEW), ("add-kernel", NEW)):
        assert not host.run(verb, kernel).changed


def test_every_driver_is_served_whatever_becomes_of_another(host):
    for driver in ("one", "two", "three"):
        host.deploy(driver)
    host.follow(one={}, two={}, three={})
    (host.root / "lib/modules" / OLD / "extra/two/two.ko").write_bytes(b"damaged")
    answer = host.run()
    assert [bool(row.error) for row in answer.rows if row.driver == "two"] == [True] and answer.failed
    assert host.ours() == [("one,three", NEW)]
    assert host.links(driver="one") == ["one.ko"] and host.links(driver="two") == []


def test_all_is_done_under_one_lock(host, monkeypatch):
    held, taken = lock.held, []
    monkeypatch.setattr(lock, "held", lambda *arguments: taken.append(1) or held(*arguments))
    for driver in ("one", "two"):
        host.deploy(driver)
    host.follow(one={}, two={})
    assert host.run().changed and len(taken) == 1


def test_without_settings_what_is_stored_gets_links_alone(host):
    for driver in ("one", "two"):
        host.deploy(driver)
    assert not host.run().failed
    assert host.links(driver="one") and host.links(driver="two") and host.variants() == []


def test_a_driver_that_is_not_to_follow_does_not(host):
    for driver in ("one", "two"):
        host.deploy(driver)
    host.follow(one={})
    host.run()
    assert host.links(driver="one") and not host.links(driver="two")


def test_kernels_that_a_driver_is_not_meant_for_are_left_out(host):
    host.deploy()
    host.follow(vendor={"kernels": (OLD, "9.*")})
    answer = host.run()
    assert host.links() == [] and answer.rows == () and not answer.failed


@pytest.mark.parametrize(
    "wants, variants, entries",
    [
        ({"initrd": False}, 0, 0),
        ({"entry": False}, 1, 0),
        ({"method": "segment"}, 1, 1),
        ({"early_load": True}, 1, 1),
    ],
)
def test_the_settings_say_what_is_made(host, wants, variants, entries):
    host.deploy()
    host.follow(vendor=wants)
    assert not host.run().failed
    assert (len(host.variants()), len(host.ours())) == (variants, entries) and host.links()


def test_arguments_of_the_settings_are_those_of_the_entry(host):
    host.deploy()
    host.follow(vendor={"args": "vendor.debug=1", "fallback_args": "panic=42"})
    host.run()
    args = next(entry.args for entry in host.menu().entries if entry.driver)
    assert args.endswith("vendor.debug=1 panic=42")


def test_check_only_says_what_would_be_done(host):
    host.deploy()
    host.follow(vendor={})
    before = host.snapshot()
    answer = host.run(check=True)
    assert answer.changed and host.snapshot() == before


def test_what_came_later_is_judged_again(host):
    """modules-extra: a module that the driver needs came with another package than the kernel."""
    data = ko(
        "vendor",
        [("module_layout", 0x11), ("needed", 0x77)],
        release=OLD,
        modinfo={"depends": "giver", "name": "vendor"},
    )
    for release in (OLD,):
        families.kernel(
            host.root,
            release,
            family="el9",
            exports=[*EXPORTS, ("needed", 0x77, False, "", "drivers/giver")],
            in_tree={"drivers/giver.ko": ko("giver", release=release, exports=[Export("needed", 0x77)])},
        )
        os.system("depmod -b %s %s" % (host.root, release))
    (host.root / "vendor.ko").write_bytes(data)
    from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link

    link.run(host.host, link.Options("vendor", path=("/vendor.ko",), kernels=(OLD,)))[0].apply()
    host.follow(vendor={})
    assert host.run().refused and not host.links()
    (host.root / "lib/modules" / NEW / "kernel/drivers/giver.ko").write_bytes(
        ko("giver", release=NEW, exports=[Export("needed", 0x77)])
    )
    families.kernel(
        host.root,
        NEW,
        family="el9",
        exports=[*EXPORTS, ("needed", 0x77, False, "", "drivers/giver")],
        in_tree={"drivers/giver.ko": ko("giver", release=NEW, exports=[Export("needed", 0x77)])},
    )
    os.system("depmod -b %s %s" % (host.root, NEW))
    assert not host.run().refused and host.links() == ["vendor.ko"]


# A kernel leaves


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kernel_that_leaves_takes_what_it_had_along(tmp_path, family):
    host = Follower(tmp_path, family)
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    assert host.ours() == [("vendor", OLD), ("vendor", NEW)]
    host.leave()
    answer = host.run("remove-kernel")
    assert (
        not answer.failed
        and host.links() == []
        and host.ours() == [("vendor", OLD)]
        and len(host.variants()) == 1
    )
    assert not (tmp_path / "lib/modules" / NEW / "weak-updates").exists()
    assert not host.run("remove-kernel").changed


def test_a_kernel_that_is_only_said_to_leave_keeps_what_it_has(host):
    """Installed again, or a package of it alone that goes (a unified image): its files are all there."""
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    before = host.snapshot()
    assert not host.run("remove-kernel").failed
    assert host.snapshot() == before


def test_a_kernel_that_left_and_came_back_is_as_it_was(host):
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    before = host.snapshot()
    shipped = {
        path: (path.read_bytes(), path.stat().st_mode)
        for path in host.root.rglob("boot/**/*%s*" % NEW)
        if path.is_file()
    }
    host.leave()
    host.run("remove-kernel")
    assert host.links() == [] and host.ours() == [("vendor", OLD)]
    for path, (data, mode) in shipped.items():
        if "~" not in path.name and ".img." not in path.name:
            path.write_bytes(data)
            path.chmod(mode & 0o7777)
    host.run(early=True)
    host.run()
    assert host.snapshot() == before


def test_a_build_below_a_kernel_that_leaves_stays_for_those_that_use_it(host):
    host.deploy(kernels=(OLD, NEW))
    host.follow(vendor={})
    host.run("refresh", None)
    host.leave(OLD)
    assert not host.run("remove-kernel", OLD).failed
    shutil.rmtree(str(host.root / "lib/modules" / OLD / "kernel"))  # as its package does next
    assert (host.root / "lib/modules" / OLD / "extra/vendor/vendor.ko").exists()
    link = host.root / "lib/modules" / NEW / "weak-updates/vendor/vendor.ko"
    assert link.resolve() == (host.root / "lib/modules" / OLD / "extra/vendor/vendor.ko").resolve()
    assert not host.run("refresh", None).failed and host.ours() == [("vendor", NEW)]


def test_boots_start_nothing_of_a_kernel_that_left(host):
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    from ansible_collections.outoftree.kmod.plugins.module_utils.commands import entry

    entry.run(host.host, entry.Options(("vendor",), boot="default", kernels=(NEW,)))[0].apply()
    assert host.started() == (NEW, "vendor")
    host.leave()
    host.run("remove-kernel")
    assert host.started() == (OLD, None) and b"~vendor" not in (host.root / "boot/grub2/grubenv").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_our_entry_goes_before_what_it_starts_does_and_is_the_default_no_more(tmp_path, family):
    """A machine may go down between a kernel's removal and the hooks that come last."""
    host = Follower(tmp_path, family)
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    variants, links = host.variants(), host.links()
    from ansible_collections.outoftree.kmod.plugins.module_utils.commands import entry

    entry.run(host.host, entry.Options(("vendor",), boot="default", kernels=(NEW,)))[0].apply()
    assert host.started() == (NEW, "vendor")
    assert not host.run("remove-kernel", early=True).failed
    assert host.ours() == [("vendor", OLD)] and host.started()[1] is None
    assert (host.variants(), host.links()) == (variants, links), "the kernel can still be started"
    assert not host.run("remove-kernel", early=True).changed
    assert not host.run("remove-kernel").failed  # it stays all the same
    assert host.ours() == [("vendor", OLD), ("vendor", NEW)]


@pytest.mark.parametrize("family", ["debian", "el9", "systemd-boot"])
@pytest.mark.parametrize("verb, kernel", [("add-kernel", NEW), ("remove-kernel", NEW), ("refresh", None)])
def test_a_kernel_that_is_installed_again_and_takes_the_driver_no_longer_is_as_it_came(
    tmp_path, family, verb, kernel
):
    """One release is rebuilt with another ABI: Debian upgrades kernels in place."""
    host = Follower(tmp_path, family)
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    from ansible_collections.outoftree.kmod.plugins.module_utils.commands import entry

    entry.run(host.host, entry.Options(("vendor",), boot="default", kernels=(NEW,)))[0].apply()
    assert host.started() == (NEW, "vendor")
    host.kernel(NEW, OTHER_ABI)
    answer = host.run(verb, kernel)
    assert answer.refused and not answer.failed
    assert host.links() == [] and host.ours() == [("vendor", OLD)] and host.started()[1] is None
    assert [NEW in path for path in host.variants()] == [False]
    assert not host.run(verb, kernel).changed


def test_of_two_drivers_the_one_that_still_fits_keeps_variant_and_entry(tmp_path):
    host = Follower(tmp_path)
    host.deploy(more=[("kfree", 0x33)])
    host.deploy("other")
    host.follow(vendor={}, other={})
    host.run("refresh", None)
    assert host.ours() == [("other,vendor", OLD), ("other,vendor", NEW)]
    host.kernel(NEW, [(name, crc + (name == "kfree"), *rest) for name, crc, *rest in EXPORTS])
    assert not host.run().failed
    assert host.ours() == [("other", NEW), ("other,vendor", OLD)] and len(host.variants()) == 2


# An image is made again


def test_a_variant_is_made_again_of_the_image_that_is_there_now(host):
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    host.image(NEW, b"2")
    answer = host.run("refresh", None)
    assert [row.variant for row in answer.rows] == ["current", "replaced"]
    assert host.image_path(NEW, ".1").read_bytes().startswith(host.image_path(NEW).read_bytes())


def test_a_full_boot_leaves_the_links_and_the_shipped_image_and_is_told(host, monkeypatch):
    host.deploy()
    host.follow(vendor={})
    real = Host.room
    monkeypatch.setattr(
        Host,
        "room",
        lambda self, path: (real(self, path)[0], 1 << 16) if path.startswith("/boot") else real(self, path),
    )
    shipped = host.image_path(NEW).read_bytes()
    answer = host.run()
    assert answer.failed and "boot" in answer.rows[0].error and host.links() == ["vendor.ko"]
    assert host.image_path(NEW).read_bytes() == shipped and host.variants() == []
    assert any("MiB" in line or "KiB" in line for line in bulletin.read(host.host).problems)
    monkeypatch.undo()
    assert not host.run().failed and host.variants() and bulletin.read(host.host).problems == ()


# What nothing can be done about, and bad input


@pytest.mark.parametrize("release", ["6.1.0-99-none", "0.0", "9.9.9"])
def test_a_release_that_is_no_kernel(host, release):
    host.deploy()
    host.follow(vendor={})
    before = host.snapshot()
    refused("KERNEL_MISSING", host.run, kernel=release)
    assert host.snapshot() == before


@pytest.mark.parametrize("release", ["", "../../etc", "a b", "5.14\n", "-x", "5.14/../../x"])
def test_a_word_that_no_kernel_is_called(host, release):
    host.deploy()
    refused("RELEASE_NAME", host.run, kernel=release)
    refused("RELEASE_NAME", host.run, "remove-kernel", release)


@pytest.mark.parametrize("verb", ["add-kernel", "remove-kernel", "refresh"])
def test_an_empty_word_means_no_other_kernel(host, verb, capsys):
    """Not the running one, and not all: a hook may be called without the release."""
    host.deploy()
    host.follow(vendor={})
    before = host.snapshot()
    assert cli.main([verb, "", "--root", str(host.root)]) == 2
    assert "is not a release" in capsys.readouterr().err and host.snapshot() == before


def test_removal_of_a_kernel_that_was_never_there(host):
    host.deploy()
    host.follow(vendor={})
    assert not host.run("remove-kernel", "9.9.9-1").failed


def test_another_run_at_work(host):
    host.deploy()
    host.follow(vendor={})
    path = host.root / "lib/modules/.outoftree.kmod.lock"
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused("LOCKED", host.run, wait=0.2)
    assert host.links() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 1, "drivers": {"vendor": 3}, "made": [], "interpreter": ""}',
        '{"format": 1, "drivers": {"../x": {}}, "made": [], "interpreter": ""}',
        "\0" * 9,
        '{"format": 1, "drivers": {"vendor": {"boot": "always"}}, "made": [], "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": {"method": "magic"}}, "made": [], "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": {"loader": "lilo"}}, "made": [], "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": {"initrd": 1}}, "made": [], "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": []}, "made": [], "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": {}}, "made": {}, "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": {}}, "made": ["/var/../etc"], "interpreter": ""}',
        '{"format": 1, "drivers": {"vendor": {}}, "made": ["etc"], "interpreter": ""}',
        '{"format": "1", "drivers": {"vendor": {}}, "made": [], "interpreter": ""}',
        '{"format": true, "drivers": {"vendor": {}}, "made": [], "interpreter": ""}',
        '{"format": 1.5, "drivers": {"vendor": {}}, "made": [], "interpreter": ""}',
        "[" * 100000,
        "9" * 5000,
    ],
)
def test_settings_that_are_damaged_leave_links_to_be_made_and_are_told(host, text):
    host.deploy()
    host.follow(vendor={})
    (host.root / settings.PATH[1:]).write_text(text)
    answer = host.run()
    assert (
        answer.failed
        and settings.PATH in answer.errors[0]
        and host.links() == ["vendor.ko"]
        and host.variants() == []
    )
    assert "object has no" not in answer.errors[0] and "Error" not in answer.errors[0], "no words of Python"


@pytest.mark.parametrize("what", ["too large", "directory", "link to nothing"])
def test_what_stands_where_the_settings_were_is_told_too(host, what):
    host.deploy()
    host.follow(vendor={})
    path = host.root / settings.PATH[1:]
    path.unlink()
    if what == "directory":
        path.mkdir()
    elif what == "link to nothing":
        path.symlink_to("/nothing")
    else:
        path.write_text(" " * (settings.LIMIT + 1))
    answer = host.run()
    assert answer.failed and settings.PATH in answer.errors[0] and host.links() == ["vendor.ko"]


def test_what_the_settings_may_choose_is_what_can_be_chosen():
    assert settings.CHOICES["method"] == ("auto", *manifest.METHODS)
    assert settings.CHOICES["loader"] == (loaders.AUTO, *(each.name for each in loaders.LOADERS))


def test_settings_of_a_newer_version_are_not_guessed_at(host):
    host.deploy()
    host.follow(vendor={})
    path = host.root / settings.PATH[1:]
    path.write_text(json.dumps(dict(json.loads(path.read_text()), format=2)))
    assert "newer version" in refused("SETTINGS_NEWER", host.run)


def test_what_a_newer_version_adds_to_a_drivers_settings_is_left_out(host):
    host.deploy()
    host.follow(vendor={})
    path = host.root / settings.PATH[1:]
    told = json.loads(path.read_text())
    told["drivers"]["vendor"]["hold"] = "kernel"
    path.write_text(json.dumps(told))
    assert not host.run().failed and host.ours() == [("vendor", NEW)]


def test_a_host_in_image_mode_is_refused_with_the_next_step(host):
    (host.root / "run/ostree-booted").touch()
    assert "Containerfile" in refused("IMAGE_MODE", host.run)


def test_a_transactional_host_is_refused_with_the_next_step(host, monkeypatch):
    monkeypatch.setenv("TRANSACTIONAL_UPDATE", "true")
    assert "transactional-update run" in refused("TRANSACTIONAL", host.run)


def test_why_a_kernel_takes_nothing_is_told_whatever_was_looked_at(tmp_path):
    host = Follower(tmp_path, refuses=True)
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", OLD)
    told = bulletin.read(host.host)
    host.run("refresh", None)
    assert [each.kernel for each in told.lacking] == [NEW] and bulletin.read(host.host) == told


# Rounds


def in_rounds(monkeypatch, *, states=("same",), undecided=0, failed=False, check=False, **options):
    """How often a host is looked at whose files are in these states one after the other, and which goes on
    to be undecided so often.
    """
    seen, slept, looks = iter(states), [], []

    def run(turns, asked):
        looks.append(turns.check)
        errors = ("one",) if failed else ()
        return follow.Answer(
            asked.verb, False, (), bulletin.Bulletin(), errors, undecided=len(looks) <= undecided
        )

    monkeypatch.setattr(follow, "run", run)
    monkeypatch.setattr(follow.quiet, "wait", lambda host: slept.append("quiet"))
    monkeypatch.setattr(follow.quiet, "state", lambda host: next(seen, "same"))
    monkeypatch.setattr(follow.time, "sleep", slept.append)
    follow.in_rounds("/", check, follow.Options("refresh", **options))
    return len(looks), slept


def test_once_is_enough_where_nobody_asks_for_more(monkeypatch):
    assert in_rounds(monkeypatch) == (1, [])


def test_what_changes_while_it_is_looked_at_is_looked_at_again_once_all_is_quiet(monkeypatch):
    assert in_rounds(monkeypatch, states=("a", "b", "b", "c", "c", "c"), settle=True) == (3, ["quiet"] * 3)


@pytest.mark.parametrize("more", [{"failed": True}, {"check": True}])
def test_it_does_not_go_on_where_that_would_help_nobody(monkeypatch, more):
    assert in_rounds(monkeypatch, states=("a", "b", "c", "d"), settle=True, **more)[0] == 1


def test_after_a_boot_a_trial_is_given_time(monkeypatch):
    assert in_rounds(monkeypatch, undecided=2, boot=True) == (3, [follow.BOOT_STEP] * 2)
    assert in_rounds(monkeypatch, undecided=2) == (1, [])
    monkeypatch.setattr(follow, "BOOT_WAIT", 0)
    assert in_rounds(monkeypatch, undecided=2, boot=True)[0] == 1


# What was pending


def test_what_was_pending_for_a_kernel_is_settled_by_a_run_that_went_well(host):
    host.deploy()
    host.follow(vendor={})
    path = host.root / bulletin.PENDING[1:]
    path.write_text("add-kernel --early %s: it took longer\nadd-kernel 9.9: no Python\n" % NEW)
    host.run()
    assert path.read_text() == "add-kernel 9.9: no Python\n"
    host.run("refresh", None)
    assert not path.exists()


@pytest.mark.parametrize("verb, kernel", [("refresh", None), ("add-kernel", NEW)])
def test_what_a_hook_notes_while_a_run_is_at_work_stays_noted(host, monkeypatch, verb, kernel):
    """Of a kernel that has arrived since, and of one that is installed again."""
    host.deploy()
    host.follow(vendor={})
    path = host.root / bulletin.PENDING[1:]
    path.write_text("add-kernel %s: no Python\n" % NEW)
    mend = follow.leaks.mend
    later = "add-kernel --early 9.9: the rest\nadd-kernel %s: no Python\n" % NEW

    def meanwhile(host):
        path.open("a").write(later)
        return mend(host)

    monkeypatch.setattr(follow.leaks, "mend", meanwhile)
    host.run(verb, kernel)
    assert path.read_text() == later


def test_more_notes_than_can_be_read_keep_nothing_from_being_done(host):
    host.deploy()
    host.follow(vendor={})
    path = host.root / bulletin.PENDING[1:]
    path.write_text("refresh --settle: no Python\n" * (bulletin.LIMIT // 20))
    assert not host.run().failed and host.ours() == [("vendor", NEW)] and path.exists()
    assert not host.run("refresh", None).failed and not path.exists()


@pytest.mark.parametrize("text", ["[" * 100000, "{}", '{"drivers": [], "kept": 1, "problems": 0}', "\0"])
def test_a_record_that_is_damaged_is_written_anew(host, text):
    host.deploy()
    host.follow(vendor={})
    (host.root / bulletin.FACT[1:]).write_text(text)
    assert not host.run().failed
    told = json.loads((host.root / bulletin.FACT[1:]).read_text())
    assert told == {"drivers": {}, "kept": None, "problems": []}


@pytest.mark.parametrize("over, forgotten", [(True, [hook_texts.FORGET]), (False, [])])
def test_systemd_forgets_that_the_check_unit_failed_once_that_is_over(tmp_path, monkeypatch, over, forgotten):
    """It was started at boot, and would not be again until the next one."""
    host, ran, run = Follower(tmp_path, refuses=True), [], Host.run
    monkeypatch.setattr(hooks, "running_systemd", lambda host: True)
    monkeypatch.setattr(
        Host,
        "run",
        lambda host, argv, *more, **options: (
            ran.append(argv) if argv[0] == "systemctl" else run(host, argv, *more, **options)
        ),
    )
    host.deploy()
    host.follow(vendor={})
    assert host.run("refresh", None).lacking and not ran
    if over:
        host.deploy(exports=OTHER_ABI, kernels=("all",))
    host.run("refresh", None)
    host.run("refresh", None)
    assert ran == forgotten


# weak-modules


def test_where_its_package_has_put_the_script_over_ours_it_is_diverted_again(host):
    host.deploy()
    host.follow(vendor={})
    path = host.root / settings.PATH[1:]
    told = dict(json.loads(path.read_text()), interpreter="/usr/bin/python3")
    path.write_text(json.dumps(told))
    script = host.root / "usr/sbin/weak-modules"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("the script\n")
    (host.root / "usr/sbin/weak-modules.distrib").write_text("the script of before\n")
    host.run()
    assert script.read_text() == "the script\n", "nobody asked for it"
    path.write_text(json.dumps(dict(told, diverted=True)))
    host.run()
    assert "kmodctl" in script.read_text()
    assert (host.root / "usr/sbin/weak-modules.distrib").read_text() == "the script\n"
