# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_deploy: a host's drivers brought to what is wanted, all looked at before anything is written."""

import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy
from ansible_collections.outoftree.kmod.plugins.module_utils.commands.deploy import Options, WantedDriver
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.place import settings
from ansible_collections.outoftree.kmod.plugins.module_utils.turns import Turns
from tests.forge.ko import ko
from tests.unit.commands import test_default
from tests.unit.commands.follower import NEW, OLD, Follower

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
NEEDS = (("module_layout", 0x11), ("printk", 0x22))


class Machine(Follower):
    def module(self, name, needs=NEEDS, exports=(), version="1.0"):
        """A build for OLD, in a directory of the host's."""
        path = self.root / "opt" / name / (name + ".ko")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            ko(name, needs, release=OLD, modinfo={"version": version, "name": name}, exports=list(exports))
        )
        return "/opt/" + name

    def wanted(self, name="vendor", **more):
        return WantedDriver(name, path=(self.module(name),) if not more.get("path") else (), **more)

    def deploy_all(self, *drivers, check=False, **more):
        with Turns(str(self.root), check) as turns:
            answer = deploy.run(turns, Options(drivers, **more))
        return turns.writes, answer


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "root")


def test_a_driver_is_linked_gets_variants_and_entries_in_one_go_and_a_second_run_changes_nothing(machine):
    writes, answer = machine.deploy_all(machine.wanted())
    (row,) = answer.drivers
    assert row.changed == ("link", "variant", "entry") and writes == 3
    assert machine.ours() == [("vendor", OLD), ("vendor", NEW)] and len(machine.variants()) == 2
    before = machine.snapshot()
    writes, answer = machine.deploy_all(machine.wanted())
    assert writes == 0 and answer.drivers[0].changed == () and machine.snapshot() == before
    assert set(answer.as_dict()["drivers"][0]) == set(row.as_dict())


def test_where_nothing_is_to_be_done_each_module_is_judged_once(machine, monkeypatch):
    machine.deploy_all(machine.wanted(), machine.wanted("other"))
    judged = []
    judge = loader.judge

    def counting(kernel, modules, *more, **options):
        judged.append((kernel.release, tuple(each.name for each in modules)))
        return judge(kernel, modules, *more, **options)

    monkeypatch.setattr(deploy.links, "judge", counting)
    writes, _answer = machine.deploy_all(machine.wanted(), machine.wanted("other"))
    assert writes == 0 and len(judged) == len(set(judged)) > 0


def test_absent_takes_everything_back(machine):
    before = machine.snapshot()
    machine.deploy_all(machine.wanted())
    _writes, answer = machine.deploy_all(WantedDriver("vendor", state="absent"))
    (row,) = answer.drivers
    assert set(row.changed) == {"link", "variant", "entry"} and row.msg == "vendor is removed"
    shutil.rmtree(str(machine.root / "opt"))
    after = machine.snapshot()
    assert {path for path in after if "modules." not in path} == {
        path for path in before if "modules." not in path
    }
    writes, answer = machine.deploy_all(WantedDriver("vendor", state="absent"))
    assert writes == 0 and answer.drivers[0].msg == "vendor is not there"


def test_a_driver_that_is_not_listed_is_told_and_removed_only_where_that_is_asked_for(machine):
    machine.deploy_all(machine.wanted(), machine.wanted("other"))
    writes, answer = machine.deploy_all(machine.wanted())
    assert answer.unlisted == ("other",) and writes == 0
    _writes, answer = machine.deploy_all(machine.wanted(), exclusive=True)
    assert [(row.driver, row.state) for row in answer.drivers] == [("other", "absent"), ("vendor", "present")]
    assert machine.ours() == [("vendor", OLD), ("vendor", NEW)] and answer.unlisted == ()


@pytest.mark.parametrize(
    ("require", "refused"), [("any", False), ("none", False), ("all", True), ("booting", True)]
)
def test_what_is_required_is_asked_before_anything_is_written(tmp_path, require, refused):
    machine = Machine(tmp_path / "root", refuses=True)
    wanted = machine.wanted(require=require)
    before = machine.snapshot()
    if not refused:
        assert machine.deploy_all(wanted)[1].drivers[0].changed
        return
    with pytest.raises(KmodError) as error:
        machine.deploy_all(wanted)
    assert error.value.code == "REQUIRE_UNMET" and "1 of 2 kernels takes it" in str(error.value)
    assert machine.snapshot() == before


def test_a_second_driver_that_cannot_be_had_keeps_the_first_from_being_begun(machine):
    machine.module("bad", needs=[("module_layout", 0x11), ("nobody_has_it", 0x1)])
    wanted = machine.wanted()
    before = machine.snapshot()
    with pytest.raises(KmodError, match="bad: 0 of 2 kernels"):
        machine.deploy_all(wanted, WantedDriver("bad", path=("/opt/bad",)))
    assert machine.snapshot() == before


def test_no_boot_loader_is_told_before_anything_is_written_with_the_way_to_do_without(machine):
    shutil.rmtree(str(machine.root / "boot/loader"))
    shutil.rmtree(str(machine.root / "boot/grub2"))
    wanted = machine.wanted()
    before = machine.snapshot()
    with pytest.raises(KmodError, match="Nothing of it has been written. With entry: false"):
        machine.deploy_all(wanted)
    assert machine.snapshot() == before
    assert machine.deploy_all(wanted._replace(entry=False))[1].drivers[0].changed == ("link", "variant")


def test_a_driver_may_need_symbols_of_one_before_it(machine):
    machine.module("library", exports=[("lib_call", 0x77)])
    machine.module("user", needs=[*NEEDS, ("lib_call", 0x77)])
    wanted = WantedDriver("library", path=("/opt/library",)), WantedDriver("user", path=("/opt/user",))
    _writes, answer = machine.deploy_all(*wanted)
    assert [row.changed for row in answer.drivers] == [("link", "variant", "entry")] * 2
    assert machine.deploy_all(*wanted)[0] == 0


def test_new_kernels_follow_and_do_not_any_more(machine):
    wanted = machine.wanted(follow=True)
    writes, answer = machine.deploy_all(wanted)
    assert answer.need_kmodctl and writes == 0 and answer.drivers == ()


@pytest.mark.parametrize(
    ("drivers", "words"),
    [
        ((WantedDriver("a"), WantedDriver("a")), "a: is in the list of drivers twice"),
        (
            (WantedDriver("a", boot="once"), WantedDriver("b", boot="default")),
            "a and b: share the initramfs variant and boot entry of each kernel, and are given boot 'once' and 'default'",
        ),
        ((WantedDriver("../a"),), "../a"),
    ],
)
def test_lists_that_make_no_sense_are_refused(machine, drivers, words):
    with pytest.raises(KmodError) as error:
        machine.deploy_all(*drivers)
    assert words in str(error.value)


def test_the_settings_that_new_kernels_follow_are_those_of_the_driver():
    wanted = WantedDriver(
        "vendor", kernels=("newest",), args="a=1", boot="once", keep_default=True, method="segment"
    )
    followed = wanted.followed()
    assert settings.Settings({"vendor": followed}).text.count("segment") == 1
    assert (followed.kernels, followed.args, followed.boot) == (("newest",), "a=1", "once")
    assert followed.fallback_args == "auto" and followed.keep_default


class RunningMachine(Machine, test_default.Machine):
    """One that can be started again."""


@pytest.fixture(params=test_default.TRIERS)
def running(request, tmp_path, monkeypatch):
    return RunningMachine(tmp_path / "root", request.param, monkeypatch)


def test_the_default_comes_after_a_trial_and_goes_back_while_another_version_has_not_been_tried(running):
    machine = running
    wanted = machine.wanted(boot="default")
    (row,) = machine.deploy_all(wanted)[1].drivers
    (kernel,) = row.trial
    assert row.reboot_needed and machine.started() == (kernel, None)
    assert "needs a reboot: the next boot alone tries the driver vendor on %s" % kernel in row.notes[0]
    assert machine.boot() == (kernel, "vendor")
    (row,) = machine.deploy_all(wanted)[1].drivers
    assert machine.started() == (kernel, "vendor") and row.trial == () and not row.reboot_needed
    writes, answer = machine.deploy_all(wanted)
    assert (writes, answer.drivers[0].notes) == (0, ())
    machine.module("vendor", version="2.0")
    (row,) = machine.deploy_all(WantedDriver("vendor", path=("/opt/vendor",), boot="default"))[1].drivers
    assert machine.started() == (kernel, None) and row.trial == (kernel,)


def test_a_trial_that_failed_is_not_repeated(running):
    wanted = running.wanted(boot="default")
    running.deploy_all(wanted)
    assert running.boot(works=False)[1] is None
    with pytest.raises(KmodError) as error:
        running.deploy_all(wanted)
    assert error.value.code == "TRIAL_FAILED" and running.started()[1] is None


def test_once_leaves_the_default_and_needs_no_reboot_after_a_trial_that_went_well(running):
    wanted = running.wanted(boot="once")
    running.deploy_all(wanted)
    running.boot()
    running.deploy_all(wanted)  # which notes that it went well
    writes, answer = running.deploy_all(wanted)
    assert writes == 0 and not answer.as_dict()["reboot_needed"] and running.started()[1] is None


# Check mode


FORESEEN = ("variant", "entry")


def foreseen(answer):
    """What is said of variants and entries."""
    return [[row.as_dict()[name] for name in FORESEEN] for row in answer.drivers]


@pytest.mark.parametrize("family", ["debian", "el9", "systemd-boot"])
@pytest.mark.parametrize("method", ["overlay", "segment"])
def test_check_mode_on_a_fresh_host_says_what_a_real_run_then_does_to_the_digest(tmp_path, family, method):
    machine = Machine(tmp_path / "root", family)
    wanted = machine.wanted(method=method, args="x=1"), machine.wanted("other")
    before = machine.snapshot()
    with Turns(str(machine.root), check=True) as turns:
        said = deploy.run(turns, Options(wanted))
    assert machine.snapshot() == before and all(row.sha256 for row in said.drivers[0].variant.variants.rows)
    with Turns(str(machine.root)) as real:
        done = deploy.run(real, Options(wanted))
    assert foreseen(said) == foreseen(done) and turns.writes == real.writes
    assert [row.changed for row in said.drivers] == [row.changed for row in done.drivers]
    assert turns.diff == real.diff
    assert any("outoftree.kmod=other,vendor" in step["after"] for step in turns.diff)


@pytest.mark.parametrize("change", ["updated", "added", "removed"])
def test_check_mode_says_what_becomes_of_what_is_there(machine, change):
    first, second = machine.wanted(), machine.wanted("other")
    machine.deploy_all(*((first,) if change == "added" else (first, second)))
    then = (first, second)
    if change == "updated":
        machine.module("other", version="2.0")
    if change == "removed":
        then = first, WantedDriver("other", state="absent")
    before = machine.snapshot()
    with Turns(str(machine.root), check=True) as turns:
        said = deploy.run(turns, Options(then))
    assert machine.snapshot() == before
    with Turns(str(machine.root)) as real:
        done = deploy.run(real, Options(then))
    assert foreseen(said) == foreseen(done) and turns.diff == real.diff


def test_check_mode_foresees_a_driver_that_needs_symbols_of_one_before_it(machine):
    machine.module("library", exports=[("lib_call", 0x77)])
    machine.module("user", needs=[*NEEDS, ("lib_call", 0x77)])
    wanted = WantedDriver("library", path=("/opt/library",)), WantedDriver("user", path=("/opt/user",))
    said = machine.deploy_all(*wanted, check=True)[1]
    assert foreseen(said) == foreseen(machine.deploy_all(*wanted)[1])


def test_check_mode_says_that_nothing_is_known_of_what_a_tool_builds(machine):
    dracut = machine.root / "usr/bin/dracut"
    dracut.parent.mkdir(parents=True, exist_ok=True)
    dracut.write_text("#!/bin/sh\nexit 1\n")
    dracut.chmod(0o755)
    wanted = machine.wanted(method="rebuild")
    before = machine.snapshot()
    (row,) = machine.deploy_all(wanted, check=True)[1].drivers
    assert machine.snapshot() == before and row.entry is None
    assert "is not known in check mode" in row.notes[0] and NEW in row.notes[0] and OLD in row.notes[0]
