# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_deploy: a host's drivers brought to what is wanted, all looked at before anything is written."""

import re
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy, link
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


def wanted_driver(name, **params):
    return WantedDriver.from_params(dict(params, driver=name))


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
        return wanted_driver(name, path=[self.module(name)] if not more.get("path") else [], **more)

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
    assert re.match(r"Initramfs variants: \S+ \(current\), \S+ \(current\)\.$", answer.drivers[0].variant.msg)
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
    _writes, answer = machine.deploy_all(wanted_driver("vendor", state="absent"))
    (row,) = answer.drivers
    assert set(row.changed) == {"link", "variant", "entry"} and row.msg == "vendor is removed"
    shutil.rmtree(str(machine.root / "opt"))
    after = machine.snapshot()
    assert {path for path in after if "modules." not in path} == {
        path for path in before if "modules." not in path
    }
    writes, answer = machine.deploy_all(wanted_driver("vendor", state="absent"))
    assert writes == 0 and answer.drivers[0].msg == "vendor is not there"


def test_a_driver_that_is_not_listed_is_told_and_removed_only_where_that_is_asked_for(machine):
    machine.deploy_all(machine.wanted(), machine.wanted("other"))
    writes, answer = machine.deploy_all(machine.wanted())
    assert answer.unlisted == ("other",) and writes == 0
    _writes, answer = machine.deploy_all(machine.wanted(), exclusive=True)
    assert [(row.driver, row.state) for row in answer.drivers] == [("other", "absent"), ("vendor", "present")]
    assert machine.ours() == [("vendor", OLD), ("vendor", NEW)] and answer.unlisted == ()


def test_a_module_that_two_drivers_have_is_refused_before_anything_is_written(machine):
    for name, path in (("one", machine.module("vendor")), ("two", machine.module("vendor", version="2"))):
        shutil.copytree(str(machine.root) + path, str(machine.root / "opt" / name))
    before = machine.snapshot()
    with pytest.raises(KmodError, match="the driver one of the list has a module vendor too") as error:
        machine.deploy_all(
            wanted_driver("one", path=["/opt/one"]),
            machine.wanted("other"),
            wanted_driver("two", path=["/opt/two"]),
        )
    assert error.value.code == "MODULE_OF_OTHER_DRIVER"
    assert not machine.ours() and set(machine.snapshot()) - set(before) <= {"opt/other", "opt/other/other.ko"}


@pytest.mark.parametrize(
    "softdeps",
    [
        ({"vendor": {"pre": ["other"]}}, {"other": {"pre": ["vendor"]}}),
        ({"vendor": {"pre": ["other"], "post": ["other"]}}, {}),
        ({"vendor": {"pre": ["dum-my"]}}, {"other": {"pre": ["vendor"], "post": "dum_my"}}),
    ],
)
def test_orders_of_loading_that_contradict_each_other_are_refused(machine, softdeps):
    drivers = [
        machine.wanted(name, softdep=softdep)
        for name, softdep in zip(("vendor", "other", "dum_my"), (*softdeps, {}))
    ]
    with pytest.raises(KmodError, match="softdep: asks for .* after .* after") as error:
        machine.deploy_all(*drivers)
    assert error.value.code == "BAD_OPTION" and not machine.ours()
    agreeing = ({"vendor": {"pre": ["other"]}}, {"other": {"post": ["vendor"]}})
    machine.deploy_all(
        *(machine.wanted(name, softdep=each) for name, each in zip(("vendor", "other"), agreeing))
    )
    assert machine.ours()


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
        machine.deploy_all(wanted, wanted_driver("bad", path=("/opt/bad",)))
    assert machine.snapshot() == before


def test_no_boot_loader_is_told_before_anything_is_written_with_the_way_to_do_without(machine):
    shutil.rmtree(str(machine.root / "boot/loader"))
    shutil.rmtree(str(machine.root / "boot/grub2"))
    wanted = machine.wanted()
    before = machine.snapshot()
    with pytest.raises(KmodError, match="Nothing of it has been written. With entry: false"):
        machine.deploy_all(wanted)
    assert machine.snapshot() == before
    assert machine.deploy_all(wanted._replace(how=wanted.how._replace(entry=False)))[1].drivers[
        0
    ].changed == ("link", "variant")


def test_a_driver_may_need_symbols_of_one_before_it(machine):
    machine.module("library", exports=[("lib_call", 0x77)])
    machine.module("user", needs=[*NEEDS, ("lib_call", 0x77)])
    wanted = wanted_driver("library", path=("/opt/library",)), wanted_driver("user", path=("/opt/user",))
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
        ((wanted_driver("a"), wanted_driver("a")), "a: is in the list of drivers twice"),
        (
            (wanted_driver("a", boot="once"), wanted_driver("b", boot="default")),
            "a and b: share the initramfs variant and boot entry of each kernel, and are given boot 'once' and 'default'",
        ),
        ((wanted_driver("../a"),), "../a"),
    ],
)
def test_lists_that_make_no_sense_are_refused(machine, drivers, words):
    with pytest.raises(KmodError) as error:
        machine.deploy_all(*drivers)
    assert words in str(error.value)


def test_the_settings_that_new_kernels_follow_are_those_of_the_driver():
    wanted = wanted_driver(
        "vendor", kernels=("newest",), args="a=1", boot="once", keep_default=True, method="segment"
    )
    followed = wanted.how
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
    (row,) = machine.deploy_all(wanted_driver("vendor", path=("/opt/vendor",), boot="default"))[1].drivers
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


LATER = "5.14.0-999.el9.x86_64"  # a kernel that is not there yet


def test_a_build_for_a_kernel_to_come_is_stored_ahead_and_stays(machine):
    wanted = machine.wanted(ahead=(LATER,))
    data = ko("vendor", [("printk", 0x99)], release=LATER, modinfo={"version": "1.0", "name": "vendor"})
    (machine.root / "opt/vendor/later.ko").write_bytes(data)
    assert len(machine.deploy_all(machine.wanted())[1].drivers) == 1
    there = machine.root / ("lib/modules/%s/extra/vendor/vendor.ko" % LATER)
    assert not there.exists(), "a build for no kernel of the host's is not its business"
    writes, answer = machine.deploy_all(wanted)
    assert writes and answer.drivers[0].link.outcome.ahead == (LATER,) and there.read_bytes() == data
    assert machine.deploy_all(wanted)[0] == 0
    assert machine.deploy_all(wanted_driver("vendor"))[0] == 0 and there.exists()


# How it is loaded


def configured(machine, name="vendor"):
    path = machine.root / ("etc/modprobe.d/outoftree.kmod-%s.conf" % name)
    return path.read_text().splitlines()[1:] if path.exists() else None


PARAMETERS = {"parmtype": "debug:int"}


class Parametered(Machine):
    def module(self, name, needs=NEEDS, exports=(), version="1.0"):
        path = super().module(name, needs, exports, version)
        info = {"version": version, "name": name, **PARAMETERS}
        (self.root / path[1:] / (name + ".ko")).write_bytes(
            ko(name, needs, release=OLD, modinfo=info, exports=list(exports))
        )
        return path


@pytest.fixture
def parametered(tmp_path):
    return Parametered(tmp_path / "root")


LOADED = {
    "options": {"vendor": {"debug": 1}},
    "blacklist": ("dummy",),
    "softdep": {"vendor": {"pre": ["dummy"]}},
}


def test_how_a_driver_is_loaded_is_written_with_it_changed_and_taken_back(parametered):
    machine = parametered
    before = machine.snapshot()
    writes, answer = machine.deploy_all(machine.wanted(**LOADED))
    assert answer.drivers[0].changed == ("link", "loading", "variant", "entry") and writes == 4
    assert configured(machine) == ["options vendor debug=1", "blacklist dummy", "softdep vendor pre: dummy"]
    assert answer.as_dict()["drivers"][0]["loading"] == {
        "files": ["/etc/modprobe.d/outoftree.kmod-vendor.conf"]
    }
    there = machine.snapshot()
    assert machine.deploy_all(machine.wanted(**LOADED))[0] == 0 and machine.snapshot() == there
    assert machine.deploy_all(machine.wanted(), check=True)[0] >= 1 and machine.snapshot() == there
    assert (
        "loading" in machine.deploy_all(machine.wanted())[1].drivers[0].changed
        and configured(machine) is None
    )
    machine.deploy_all(machine.wanted(**LOADED))
    _writes, answer = machine.deploy_all(wanted_driver("vendor", state="absent"))
    assert "loading" in answer.drivers[0].changed
    shutil.rmtree(str(machine.root / "opt"))
    after = machine.snapshot()
    assert {path for path in after if "modules." not in path} == {
        path for path in before if "modules." not in path and not path.startswith("opt")
    }


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"options": {"vendor": {"no_such": 1}}}, "PARAMETER_UNKNOWN"),
        ({"options": {"vendor": {"debug": "high"}}}, "PARAMETER_VALUE"),
        ({"options": {"other": {"debug": 1}}}, "OPTION_MODULE"),
        ({"blacklist": ("vendor",)}, "BLACKLIST_OWN"),
        ({"softdep": {"vendor": {"pre": ["nowhere"]}}}, "SOFTDEP_MISSING"),
        ({"load_at_boot": True}, "AT_BOOT_UNREAD"),
    ],
)
def test_how_it_cannot_be_loaded_is_told_before_anything_is_written(parametered, given, code):
    wanted = parametered.wanted("vendor", **given)
    before = parametered.snapshot()
    with pytest.raises(KmodError) as error:
        parametered.deploy_all(parametered.wanted("first"), wanted)
    assert error.value.code == code
    shutil.rmtree(str(parametered.root / "opt/first"))
    assert parametered.snapshot() == before


def test_a_driver_may_soft_depend_on_one_that_is_deployed_with_it(parametered):
    first = parametered.wanted("vendor", softdep={"vendor": {"post": ["second"]}})
    _writes, answer = parametered.deploy_all(first, parametered.wanted("second"))
    assert configured(parametered) == ["softdep vendor post: second"] and answer.drivers[0].loading.files


def test_a_kernel_that_is_left_with_neither_driver_is_told_of(tmp_path):
    machine = Parametered(tmp_path / "root", refuses=True)
    _writes, answer = machine.deploy_all(machine.wanted(blacklist=("dummy", "typo")))
    (neither, typo) = answer.drivers[0].notes
    assert "has dummy, typo blacklisted on every kernel, and %s gets no driver vendor" % NEW in neither
    assert "no kernel here has a module of that name" in typo
    _writes, answer = machine.deploy_all(machine.wanted(blacklist=("dummy",)))
    assert len(answer.drivers[0].notes) == 1


def test_who_else_sets_a_parameter_is_told(parametered):
    other = parametered.root / "etc/modprobe.d/zz.conf"
    other.parent.mkdir(exist_ok=True)
    other.write_text("options vendor debug=0\noptions vendor other=1\n")
    wanted = parametered.wanted(**dict(LOADED, args="vendor.debug=7 quiet"))
    _writes, answer = parametered.deploy_all(wanted)
    file, args = answer.drivers[0].notes
    assert "vendor.debug=0 by /etc/modprobe.d/zz.conf, too, where it is to be 1" in file
    assert "vendor.debug=7 by args" in args


def test_nothing_of_how_it_is_loaded_outlives_its_links(parametered):
    parametered.deploy_all(parametered.wanted(entry=False, initrd=False, **LOADED))
    plan, _answer = link.run(parametered.host, link.Options("vendor", state="absent", build=OLD))
    assert not [path for path in plan.paths() if "modprobe.d" in path]
    plan, _answer = link.run(parametered.host, link.Options("vendor", state="absent"))
    assert plan.paths()[0] == "/etc/modprobe.d/outoftree.kmod-vendor.conf"
    plan.apply()
    assert configured(parametered) is None


def test_a_driver_that_no_kernel_takes_blacklists_nothing(parametered):
    parametered.module("vendor", needs=[("module_layout", 0x11), ("nobody_has_it", 0x1)])
    wanted = wanted_driver("vendor", path=("/opt/vendor",), require="none", **LOADED)
    _writes, answer = parametered.deploy_all(wanted)
    assert configured(parametered) is None and answer.drivers[0].loading.files == ()
    assert answer.drivers[0].notes[0] == (
        "uses vendor on no kernel, so that nothing of it is in modprobe.d or modules-load.d."
    )


def test_kernels_whose_boot_cannot_load_what_is_to_be_loaded_are_told(tmp_path):
    machine = Machine(tmp_path / "root", refuses=True)
    (machine.root / "etc/init.d").mkdir(parents=True)
    (machine.root / "etc/init.d/kmod").touch()
    _writes, answer = machine.deploy_all(machine.wanted(load_at_boot=True))
    told = "loads vendor at each boot, and %s gets no build of it: there systemd-modules-load.service fails at boot."
    assert told % NEW in answer.drivers[0].notes and len(answer.drivers[0].loading.files) == 1


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
        then = first, wanted_driver("other", state="absent")
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
    wanted = wanted_driver("library", path=("/opt/library",)), wanted_driver("user", path=("/opt/user",))
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


def test_check_mode_foresees_the_trial_and_that_its_entry_becomes_the_default(running):
    wanted = running.wanted(boot="default")
    said = running.deploy_all(wanted, check=True)[1]
    done = running.deploy_all(wanted)[1]
    assert said.drivers[0].trial and said.drivers[0].notes == done.drivers[0].notes
    assert foreseen(said) == foreseen(done)
    running.boot()
    said = running.deploy_all(wanted, check=True)[1]
    assert running.started()[1] is None
    done = running.deploy_all(wanted)[1]
    assert running.started()[1] == "vendor" and foreseen(said) == foreseen(done)
    running.module("vendor", version="2.0")
    said = running.deploy_all(wanted_driver("vendor", path=("/opt/vendor",), boot="default"), check=True)[1]
    done = running.deploy_all(wanted_driver("vendor", path=("/opt/vendor",), boot="default"))[1]
    assert said.drivers[0].trial and foreseen(said) == foreseen(done)


def test_check_mode_foretells_what_a_changed_parameter_brings(parametered):
    parametered.deploy_all(parametered.wanted(**LOADED))
    later = parametered.wanted(**dict(LOADED, options={"vendor": {"debug": 2}}))
    before = parametered.snapshot()
    foretold = parametered.deploy_all(later, check=True)[1].drivers[0].changed
    assert parametered.snapshot() == before and "variant" in foretold
    assert parametered.deploy_all(later)[1].drivers[0].changed == foretold


def test_check_mode_foresees_a_driver_in_the_place_of_the_kernels_own(tmp_path):
    """By an override in depmod.d, which is only planned, too."""
    machine = Machine(tmp_path / "root", "debian")
    wanted = machine.wanted("dummy")
    turns = []
    for check in (True, False):
        with Turns(str(machine.root), check) as each:
            turns.append((each, deploy.run(each, Options((wanted,)))))
    (said, foreseen_answer), (done, answer) = turns
    assert any("depmod.d" in step["after_header"] for step in done.diff), "it needs none"
    assert said.diff == done.diff and foreseen(foreseen_answer) == foreseen(answer)


def test_check_mode_of_links_alone_foresees_how_the_driver_is_loaded(parametered):
    wanted = parametered.wanted(initrd=False, **LOADED)
    diffs = []
    for check in (True, False):
        with Turns(str(parametered.root), check) as each:
            deploy.run(each, Options((wanted,)))
            diffs.append(each.diff)
    assert diffs[0] == diffs[1]
