# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What becomes of a fleet with its next kernels, counted."""

import pytest

from ansible_collections.outoftree.kmod.plugins.plugin_utils import _fleet, _records
from tests.forge import records
from tests.forge.records import fits, kernel, record, refused, release, untold

OLD, MIDDLE, NEW = release(47), release(48), release(50)


def one(**given):
    return _records.validated(record(**given))


def groups(*made):
    return _fleet.groups(_records.merged(made))


@pytest.mark.parametrize(
    "now, then, expected",
    [
        (fits("vendor", OLD, OLD), fits("vendor", NEW, OLD), "well"),
        (refused("vendor", OLD), fits("vendor", NEW, OLD), "well"),
        (fits("vendor", OLD, OLD), refused("vendor", NEW), "loses"),
        (untold("vendor", OLD), refused("vendor", NEW), "loses"),
        (refused("vendor", OLD), refused("vendor", NEW), "lacks"),
        (fits("vendor", OLD, OLD), untold("vendor", NEW), "untold"),
        (fits("vendor", OLD, OLD), fits("vendor", MIDDLE, OLD), "untold"),  # nobody asked for the next one
    ],
)
def test_what_the_next_kernel_does_to_a_host(now, then, expected):
    assert _fleet.state(one(verdicts=[now, then])) == expected


def test_the_worst_driver_decides():
    drivers = [records.driver(name, [OLD]) for name in ("a", "b", "c")]
    verdicts = [fits("a", NEW, OLD), untold("b", NEW), refused("c", NEW)]
    assert _fleet.state(one(drivers=drivers, verdicts=verdicts)) == "loses"
    assert _fleet.state(one(drivers=drivers[:2], verdicts=verdicts)) == "untold"


def test_a_host_without_drivers_is_well_and_one_with_an_error_cannot_be_told():
    assert _fleet.state(one(drivers=[], verdicts=[])) == "well"
    assert _fleet.state(one(error="the repository does not answer")) == "untold"


@pytest.mark.parametrize(
    "kernels, expected",
    [
        ([kernel(OLD, "running"), kernel(release(9))], [OLD]),
        ([kernel(OLD, "running", True), kernel(NEW, "offered", True)], [NEW]),
        ([kernel(NEW, "running", True), kernel(OLD, "offered", True)], [NEW]),  # newer than what is on offer
        ([kernel(OLD, "running"), kernel(NEW, "offered"), kernel(MIDDLE, "offered")], [NEW]),
        (
            [
                kernel(OLD, "running", True),
                kernel(NEW, "offered", True),
                kernel(NEW + "-rt", "offered", True),
            ],
            [NEW, NEW + "-rt"],  # one a flavour
        ),
        ([], []),
    ],
)
def test_the_next_kernel_is_the_newest_on_offer_or_else_of_those_installed(kernels, expected):
    assert _fleet.next_kernels(one(kernels=kernels)) == expected
    assert kernels or _fleet.state(one(kernels=[], verdicts=[])) == "untold"


def test_of_a_kernel_that_is_offered_again_the_new_packages_count():
    made = one(
        running=NEW,
        kernels=[kernel(NEW, "running", True), kernel(NEW, "offered", True)],
        verdicts=[
            dict(fits("vendor", NEW, OLD), state="running"),
            dict(refused("vendor", NEW), state="offered"),
        ],
    )
    assert _fleet.state(made) == "loses"  # and does not lack it: what runs takes it
    (cell,) = _fleet.cells(_fleet.groups([made]))
    assert (cell["compatible"], cell["incompatible"]) == (0, 1)
    (row,) = _fleet.kernels(_fleet.groups([made]))
    assert (row["running"], row["offered"], row["next"]) == (1, 1, 1)


def test_a_hold_counts_when_it_is_for_each_driver_that_would_be_lost():
    hold = {"what": "kernel", "kernel": NEW, "driver": ["vendor"], "reason": "no build"}
    assert _fleet.is_held(one(held=[hold]))
    assert _fleet.is_held(one(held=[dict(hold, driver=[])]))
    assert not _fleet.is_held(one(held=[dict(hold, driver=["other"])]))
    assert not _fleet.is_held(one())
    assert not _fleet.is_held(one(held=[hold], error="the repository does not answer"))  # nobody knows
    assert not _fleet.is_held(one(held=[hold], verdicts=[fits("vendor", NEW, OLD)]))


def test_hosts_that_only_their_names_and_the_order_of_lists_tell_apart_are_one_group():
    first = record("a1")
    again = [dict(each, origin=["/elsewhere"]) for each in first["kernels"][::-1]]
    second = dict(first, host="a2", kernels=again, verdicts=first["verdicts"][::-1], at="x")
    third = record("b", verdicts=[fits("vendor", OLD, OLD), refused("vendor", NEW, symbols=["kfree"])])
    found = groups(third, second, first)
    assert [group.hosts for group in found] == [("a1", "a2"), ("b",)]


@pytest.mark.parametrize(
    "given",
    [
        {"machine": "aarch64"},
        {"running": NEW},
        {"default": NEW},
        {"drivers": [records.driver("vendor", [OLD], version="2.0")]},
        {"kernels": [kernel(NEW, "running")]},
        {"held": [{"what": "kernel", "kernel": None, "driver": [], "reason": ""}]},
        {"error": "not reached"},
    ],
)
def test_hosts_that_differ_are_not_one_group(given):
    assert len(groups(record("a"), record("b", **given))) == 2


def test_the_numbers_add_up_and_the_worst_comes_first():
    well = {"verdicts": [fits("vendor", OLD, OLD), fits("vendor", NEW, OLD)]}
    hold = {"what": "kernel", "kernel": NEW, "driver": ["vendor"], "reason": ""}
    found = groups(
        record("w1", **well),
        record("w2", **well),
        record("l"),
        record("h", held=[hold]),
        record("e", error="x"),
    )
    assert _fleet.counts(found) == {
        "hosts": 5, "loses": 2, "lacks": 0, "untold": 1, "well": 2, "held": 1, "groups": 4,
    }  # fmt: skip
    assert [group.state for group in found] == ["loses", "loses", "untold", "well"]


def test_cells_count_hosts_by_verdict_and_say_each_reason_once():
    other = record("c", verdicts=[fits("vendor", OLD, OLD), refused("vendor", NEW, ["SYMBOL_MISSING"])])
    found = groups(record("a"), record("b"), other)
    old, new = _fleet.cells(found)
    assert (old["kernel"], old["compatible"], old["incompatible"]) == (OLD, 3, 0)
    assert (new["kernel"], new["compatible"], new["incompatible"], new["unknown"]) == (NEW, 0, 3, 0)
    assert [(each["codes"], each["hosts"]) for each in new["reasons"]] == [
        (["SYMBOL_CRC"], 2),
        (["SYMBOL_MISSING"], 1),
    ]
    assert [found[at].hosts for each in new["reasons"] for at in each["groups"]] == [("a", "b"), ("c",)]


def test_one_release_on_two_machines_is_two_kernels():
    found = groups(record("a"), record("b", machine="aarch64"))
    assert len(_fleet.cells(found)) == 4
    kernels = _fleet.kernels(found)
    assert [(each["kernel"], each["machine"]) for each in kernels] == [
        (NEW, "x86_64"), (NEW, "aarch64"), (OLD, "x86_64"), (OLD, "aarch64"),
    ]  # fmt: skip
    assert [(each["running"], each["offered"], each["next"]) for each in kernels[:3:2]] == [
        (0, 1, 1),
        (1, 0, 0),
    ]


def test_what_is_so_today_is_said_once_with_its_hosts_and_old_lists_too():
    stale = records.today("stale_image", "made again", "vendor", OLD)
    old = {"manager": "apt", "age": 15 * 24 * 3600, "error": None}
    mute = {"manager": "apt", "age": None, "error": "does not answer"}
    made = _records.merged(
        [
            record("a", today=[stale, stale]),
            record("b", today=[stale]),
            record("c", lists=old),
            record("d", lists=mute),
        ]
    )
    found = {each["kind"]: each for each in _fleet.today(made)}
    assert found["stale_image"]["hosts"] == ["a", "b"]
    assert "2 weeks old" in found["lists_old"]["text"]
    assert (found["lists_unread"]["text"], found["lists_unread"]["hosts"]) == ("does not answer", ["d"])
    assert len(found) == 3


def test_what_is_held_is_said_with_its_reason_and_hosts():
    hold = {"what": "kernel", "kernel": NEW, "driver": ["vendor"], "reason": "no build"}
    made = _records.merged([record("a", held=[hold]), record("b", held=[hold]), record("c")])
    assert _fleet.held(made) == [dict(hold, hosts=["a", "b"])]
