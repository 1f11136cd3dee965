# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several drivers of a host: one variant and one boot entry a kernel, tried, promoted and withdrawn together."""

import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import entry, variant
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.place import together
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import trials
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing
from ansible_collections.outoftree.kmod.plugins.module_utils.place.settings import Followed, Settings
from tests.unit.commands import test_default
from tests.unit.commands.follower import NEW, OLD
from tests.unit.commands.test_deploy import Machine, RunningMachine, wanted_driver

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
BOTH = "other,vendor"


class Pair(Machine):
    def both(self, **more):
        return self.wanted(**more), self.wanted("other", **more)

    def inside(self):
        """The drivers of each variant."""
        return sorted((each.wants.kernel, each.wants.drivers) for each in existing.found(self.host))

    def command(self, command, **options):
        plan, answer = command.run(self.host, command.Options(**options))
        plan.apply()
        return answer

    def args(self, kernel=NEW):
        return next(each.args for each in self.menu().entries if each.driver and each.kernel == kernel)


class RunningPair(Pair, RunningMachine):
    """One that can be started again; ``shows`` is what each driver's module is found as, if not as deployed."""

    def __init__(self, root, family, monkeypatch):
        super().__init__(root, family, monkeypatch)
        self.shows, self.asked = {}, "a device"
        monkeypatch.setattr(
            trials,
            "_loaded",
            lambda host, release, driver: {driver: self.shows.get(driver, "this")},
        )
        monkeypatch.setattr(trials, "_asking", lambda host, release, driver: self.asked)


@pytest.fixture
def machine(tmp_path):
    return Pair(tmp_path / "root")


@pytest.fixture(params=test_default.TRIERS)
def running(request, tmp_path, monkeypatch):
    return RunningPair(tmp_path / "root", request.param, monkeypatch)


def test_two_drivers_have_one_variant_and_one_entry_a_kernel_and_a_second_run_changes_nothing(machine):
    _writes, answer = machine.deploy_all(*machine.both())
    assert machine.inside() == [(OLD, ("other", "vendor")), (NEW, ("other", "vendor"))]
    assert machine.ours() == [(BOTH, OLD), (BOTH, NEW)]
    for row in answer.drivers:
        assert row.changed == ("link", "variant", "entry")
        assert [each["drivers"] for each in row.as_dict()["entry"]["kernels"]] == [["other", "vendor"]] * 2
    title = next(each.title for each in machine.menu().entries if each.driver)
    assert title.startswith("With drivers other, vendor: ")
    before = machine.snapshot()
    writes, _answer = machine.deploy_all(*reversed(machine.both()))
    assert writes == 0 and machine.snapshot() == before


@pytest.mark.parametrize("family", test_default.FAMILIES)
def test_every_boot_loader_takes_an_entry_of_several_drivers(tmp_path, family):
    machine = Pair(tmp_path / "root", family)
    machine.deploy_all(*machine.both())
    assert machine.ours() == [(BOTH, OLD), (BOTH, NEW)]
    assert machine.deploy_all(*machine.both())[0] == 0
    machine.deploy_all(*(each._replace(state="absent", path=()) for each in machine.both()))
    assert machine.ours() == [] and machine.inside() == []


def test_any_number_of_drivers_has_an_entry(tmp_path):
    machine = Pair(tmp_path / "root", "el9")
    wanted = [machine.wanted("driver_number_%d_with_a_long_name" % number) for number in range(12)]
    machine.deploy_all(*wanted)
    (one, two) = [each for each in machine.menu().entries if each.driver]
    assert one.driver == two.driver == ",".join(sorted(each.driver for each in wanted))
    assert len(one.id) < 150 and machine.deploy_all(*wanted)[0] == 0


def test_a_file_of_several_drivers_has_not_the_name_of_another_drivers(machine):
    alone = machine.wanted("other_vendor", initrd=False)
    machine.deploy_all(alone)
    for command in (variant, entry):
        machine.command(command, driver=("other_vendor",))
    machine.deploy_all(alone, *machine.both())
    assert {driver for driver, _kernel in machine.ours()} == {BOTH, "other_vendor"}


def test_a_kernel_that_takes_one_of_them_gets_that_one(machine):
    machine.deploy_all(machine.wanted(args="a.x=1"), machine.wanted("other", kernels=(OLD,), args="b.y=2"))
    assert machine.inside() == [(OLD, ("other", "vendor")), (NEW, ("vendor",))]
    assert machine.ours() == [(BOTH, OLD), ("vendor", NEW)]
    assert "b.y=2 a.x=1" in machine.args(OLD)
    assert "a.x=1" in machine.args(NEW) and "b.y=2" not in machine.args(NEW)


def test_what_a_driver_adds_to_the_command_line_is_there_once(machine):
    machine.deploy_all(machine.wanted(args="quiet x=1"), machine.wanted("other", args="quiet y=1"))
    assert " quiet y=1 x=1 panic=10" in machine.args()


def test_one_driver_of_two_is_loaded_early(machine):
    machine.deploy_all(machine.wanted(early_load=True), machine.wanted("other"))
    data = (machine.root / machine.variants()[0]).read_bytes()
    name = data.index(b"etc/modules-load.d/kmod-other-vendor.conf")
    text = data[name : data.index(b"070701", name)]
    assert b"vendor\n" in text and b"other\n" not in text
    assert [each.wants.early_load for each in existing.found(machine.host)] == [("vendor",)] * 2
    assert machine.deploy_all(machine.wanted(early_load=True), machine.wanted("other"))[0] == 0


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ({"method": "segment"}, {"method": "overlay"}, "method 'overlay' and 'segment'"),
        ({"loader": "bls"}, {"loader": "grub2"}, "loader"),
        ({"copy_of": "a"}, {"copy_of": "b"}, "copy_of"),
        ({"fallback_args": "panic=1"}, {"fallback_args": ""}, "fallback_args"),
        ({"boot": "once"}, {"boot": "default"}, "boot"),
    ],
)
def test_what_one_entry_cannot_be_is_refused_with_both_drivers_named(machine, one, other, words):
    wanted = machine.wanted(**one), machine.wanted("other", **other)
    before = machine.snapshot()
    with pytest.raises(KmodError) as error:
        machine.deploy_all(*wanted)
    assert error.value.code == "BAD_OPTION" and words in str(error.value)
    assert "other and vendor" in str(error.value) and machine.snapshot() == before


def test_what_one_says_and_the_other_leaves_open_is_what_both_get(machine):
    machine.deploy_all(machine.wanted(method="segment"), machine.wanted("other", fallback_args="panic=7"))
    assert [each.method for each in existing.found(machine.host)] == ["segment", "segment"]
    assert machine.args().endswith("panic=7")


def test_drivers_without_an_entry_share_a_variant_of_their_own(machine):
    machine.deploy_all(machine.wanted(), *(machine.wanted(name, entry=False) for name in ("other", "third")))
    assert {drivers for _kernel, drivers in machine.inside()} == {("vendor",), ("other", "third")}
    assert {driver for driver, _kernel in machine.ours()} == {"vendor"}


def test_one_without_a_variant_stays_out(machine):
    machine.deploy_all(machine.wanted(), machine.wanted("other", initrd=False))
    assert machine.inside() == [(OLD, ("vendor",)), (NEW, ("vendor",))]
    assert machine.ours() == [("vendor", OLD), ("vendor", NEW)]


# Drivers come and go


def test_hosts_with_a_variant_and_an_entry_for_each_driver_come_to_shared_ones(machine):
    """As earlier versions have left them."""
    machine.deploy_all(*(each._replace(how=each.how._replace(initrd=False)) for each in machine.both()))
    for name in ("vendor", "other"):
        machine.command(variant, driver=(name,))
        machine.command(entry, driver=(name,))
    assert len(machine.variants()) == 4
    machine.deploy_all(*machine.both())
    assert machine.ours() == [(BOTH, OLD), (BOTH, NEW)] and len(machine.variants()) == 2
    assert machine.deploy_all(*machine.both())[0] == 0


@pytest.mark.parametrize("how", ["listed", "alone", "exclusive"])
def test_what_stays_of_two_has_what_it_would_have_alone(tmp_path, how):
    trees = []
    for both in (False, True):
        machine = Pair(tmp_path / str(both))
        wanted = machine.both()
        if both:
            machine.deploy_all(*wanted)
            gone = wanted_driver("other", state="absent")
            lists = {"listed": (wanted[0], gone), "alone": (gone,), "exclusive": (wanted[0],)}
            _writes, answer = machine.deploy_all(*lists[how], exclusive=how == "exclusive")
            row = next(row for row in answer.drivers if row.driver == "other")
            assert row.changed == ("link", "variant", "entry")
        else:
            machine.deploy_all(wanted[0])
        assert machine.ours() == [("vendor", OLD), ("vendor", NEW)]
        tree = machine.snapshot()
        trees.append({path.replace(".2", ".1") for path in tree if "vendor" in path or ".1" in path})
    assert trees[0] == trees[1]


def test_a_driver_that_is_not_listed_stays_in_what_it_shares(machine):
    machine.deploy_all(machine.wanted(args="a.x=1"), machine.wanted("other", args="b.y=2"))
    before = machine.snapshot()
    writes, answer = machine.deploy_all(machine.wanted(args="a.x=1"))
    assert writes == 0 and answer.unlisted == ("other",) and machine.snapshot() == before


def test_a_driver_that_needs_no_variant_any_more_leaves_it(machine):
    machine.deploy_all(*machine.both())
    machine.deploy_all(machine.wanted(), machine.wanted("other", initrd=False))
    assert machine.inside() == [(OLD, ("vendor",)), (NEW, ("vendor",))]
    assert machine.ours() == [("vendor", OLD), ("vendor", NEW)]


def test_what_somebody_made_of_other_drivers_stays(machine):
    machine.deploy_all(machine.wanted(), machine.wanted("third", initrd=False))
    machine.command(variant, driver=("third",))
    machine.deploy_all(machine.wanted())
    assert {drivers for _kernel, drivers in machine.inside()} == {("vendor",), ("third",)}


# Trials


def test_they_are_tried_once_and_become_the_default_together(running):
    wanted = running.wanted(boot="default"), running.wanted("other")
    rows = running.deploy_all(*wanted)[1].drivers
    (kernel,) = rows[0].trial
    assert rows[1].trial == (kernel,) and running.started() == (kernel, None)
    assert running.tried() == (kernel, BOTH) and running.boot() == (kernel, BOTH)
    rows = running.deploy_all(*wanted)[1].drivers
    assert running.started() == (kernel, BOTH) and not any(row.reboot_needed for row in rows)
    assert running.deploy_all(*wanted)[0] == 0


@pytest.mark.parametrize("change", ["added", "updated", "removed"])
def test_a_set_that_was_not_tried_is_not_the_default(running, change):
    first = running.wanted(boot="default"), running.wanted("other")
    running.deploy_all(*(first[:1] if change == "added" else first))
    running.boot()
    running.deploy_all(*(first[:1] if change == "added" else first))
    kernel, driver = running.started()
    assert driver == ("vendor" if change == "added" else BOTH)
    then = first
    if change == "updated":
        running.module("other", version="2.0")
    if change == "removed":
        then = first[0], wanted_driver("other", state="absent")
    rows = running.deploy_all(*then)[1].drivers
    assert running.started() == (kernel, None)
    now = "vendor" if change == "removed" else BOTH
    assert running.tried() == (kernel, now) and [each for each in running.ours() if each[0] != now] == []
    assert next(row for row in rows if row.driver == "vendor").reboot_needed
    running.boot()
    running.deploy_all(*then)
    assert running.started() == (kernel, now) and running.deploy_all(*then)[0] == 0


def test_one_that_failed_keeps_both_from_being_the_default_and_is_named(running):
    wanted = running.wanted(boot="default"), running.wanted("other")
    running.deploy_all(*wanted)
    running.shows = {"other": "other"}
    running.boot()
    with pytest.raises(KmodError) as error:
        running.deploy_all(*wanted)
    assert error.value.code == "TRIAL_FAILED" and "another module than the deployed one: other" in str(
        error.value
    )
    assert running.started()[1] is None


def test_one_that_nothing_asked_for_proves_nothing_and_is_named(running):
    wanted = running.wanted(boot="default"), running.wanted("other")
    running.deploy_all(*wanted)
    running.shows, running.asked = {"other": "no"}, None
    running.boot()
    rows = running.deploy_all(*wanted)[1].drivers
    assert running.started()[1] is None
    assert "no device asks for the driver other" in rows[0].entry.menu.msg


def test_a_driver_that_the_kernel_of_the_next_boot_does_not_take_is_not_tried_in_silence(running):
    kernel = running.started()[0]
    beside = OLD if kernel == NEW else NEW
    wanted = running.wanted(), running.wanted("other", boot="default", kernels=(beside,))
    before = running.snapshot()
    with pytest.raises(KmodError) as error:
        running.deploy_all(*wanted)
    assert error.value.code == "VARIANT_MISSING" and "other" in str(error.value)
    assert running.snapshot() == before


# Hosts that follow new kernels


def follows(machine, **drivers):
    machine.deploy_all(*(machine.wanted(name, kernels=(OLD,)) for name in drivers))
    machine.follow(**drivers)


def test_a_kernel_that_arrives_gets_them_together(machine):
    follows(machine, vendor={"args": "a.x=1"}, other={})
    answer = machine.run()
    assert (
        not answer.failed
        and [(row.variant, row.entry) for row in answer.rows] == [("created", "present")] * 2
    )
    assert machine.ours() == [(BOTH, OLD), (BOTH, NEW)] and "a.x=1" in machine.args()
    machine.run("refresh", None)
    assert not machine.run("refresh", None).changed


def test_a_kernel_that_leaves_takes_what_they_share_along(machine):
    follows(machine, vendor={}, other={})
    machine.run()
    machine.leave()
    answer = machine.run("remove-kernel")
    assert not answer.failed and machine.ours() == [(BOTH, OLD)]
    assert machine.inside() == [(OLD, ("other", "vendor"))]


def test_settings_that_do_not_agree_are_told_and_links_are_made_all_the_same(machine):
    follows(machine, vendor={"method": "segment"}, other={"method": "overlay"})
    answer = machine.run()
    assert answer.failed and any("other and vendor" in each for each in answer.errors)
    assert machine.links() and machine.links(driver="other")


def test_one_that_cannot_be_linked_keeps_the_other_from_nothing(machine):
    follows(machine, vendor={}, other={})
    store = machine.root / "lib/modules" / OLD / "extra/other"
    for path in store.rglob("*.ko"):
        path.write_bytes(b"damaged")
    answer = machine.run()
    assert ("vendor", NEW) in machine.ours() or (BOTH, NEW) in machine.ours()
    assert next(row for row in answer.rows if row.driver == "vendor").entry == "present"


def test_what_follows_is_in_what_is_deployed_later(machine):
    """Two plays, or a role that is called twice, with one driver each."""
    machine.deploy_all(machine.wanted())
    machine.follow(vendor={"args": "a.x=1"})
    machine.deploy_all(machine.wanted("other"))
    assert machine.ours() == [(BOTH, OLD), (BOTH, NEW)] and "a.x=1" in machine.args()


def test_both_become_the_default_by_themselves(running):
    for name in ("vendor", "other"):
        running.deploy(name)
    running.follow(vendor={"boot": "default"}, other={})
    running.only(OLD)
    running.run("refresh", OLD)
    assert running.tried() == (OLD, BOTH)
    running.boot()
    running.run("refresh", None)
    assert running.started() == (OLD, BOTH)
    running.arrive()
    running.run()
    assert running.tried() == (NEW, BOTH) and running.started() == (OLD, BOTH)
    running.shows = {"other": "other"}
    running.boot()
    answer = running.run("refresh", None)
    assert running.started() == (OLD, BOTH) and "other, vendor was tried on " + NEW in answer.notes[0]
    assert "another module than the deployed one: other" in answer.notes[0]


# The modules one by one


def test_an_entry_that_is_shared_is_what_either_name_means(machine):
    machine.deploy_all(*machine.both())
    before = machine.snapshot()
    answer = machine.command(entry, driver=("vendor",))
    assert [row.driver for row in answer.menu.rows] == [BOTH, BOTH] and machine.snapshot() == before
    machine.command(entry, driver=("other",), state="absent")
    assert machine.ours() == []


def test_an_entry_can_be_made_for_several(machine):
    machine.deploy_all(*(each._replace(how=each.how._replace(initrd=False)) for each in machine.both()))
    machine.command(variant, driver=("vendor", "other"))
    machine.command(entry, driver=("vendor", "other"))
    assert machine.ours() == [(BOTH, OLD), (BOTH, NEW)]


def test_an_entry_of_one_driver_with_a_variant_of_two_stays_what_it_is(machine):
    machine.deploy_all(*(each._replace(how=each.how._replace(initrd=False)) for each in machine.both()))
    machine.command(variant, driver=("vendor", "other"))
    machine.command(entry, driver=("vendor",))
    assert machine.ours() == [("vendor", OLD), ("vendor", NEW)]
    before = machine.snapshot()
    machine.command(entry, driver=("vendor",))
    assert machine.snapshot() == before


def test_what_is_asked_for_together_is_told_for_each_set():
    told = Settings({"a": Followed(args="x", early_load=True), "b": Followed(entry=False), "c": Followed()})
    first, second = together.shared(told.drivers, ["gone"])
    assert first.drivers == ("a", "c") and first.early_load == ("a",) and first.args_of == (("a", "x"),)
    assert second.drivers == ("b",) and not second.entry and "gone" in first.known


def test_a_driver_that_is_not_listed_and_is_not_there_keeps_nothing_from_being_tried(running):
    running.follow(gone={"boot": "default"})
    wanted = running.wanted(boot="default", args="x=1  y=2", fallback_args="panic=7")
    rows = running.deploy_all(wanted)[1].drivers
    assert rows[0].trial and running.ours()[0][0] == "vendor"
    running.boot()
    running.deploy_all(wanted)
    assert running.started()[1] == "vendor"


def test_what_is_said_of_two_is_the_same_where_one_is_not_listed(running):
    wanted = (
        running.wanted(args="x=1  y=2", boot="default", fallback_args="panic=7"),
        running.wanted("other", args="z"),
    )
    running.deploy_all(*wanted)
    running.boot()
    running.deploy_all(*wanted)
    assert running.started()[1] == BOTH
    assert running.deploy_all(wanted[0])[0] == 0
