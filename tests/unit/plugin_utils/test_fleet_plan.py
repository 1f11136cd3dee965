# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rebuild list of a fleet is the least one, and says what a build does not help."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _fleet_plan, _records
from tests.forge import records
from tests.forge.records import driver, facts, fits, needs, record, refused, release, untold

R = {number: release(number) for number in range(40, 60)}


def plan(*made, **given):
    return _fleet_plan.rebuild(_records.merged(made), **given)


def host(name, versions, build=47, lost=None, **given):
    """A host that has a build for one kernel. ``versions`` of put_page by kernel; ``lost``: the kernels that
    refuse it."""
    lost = [number for number in versions if number != build] if lost is None else lost
    return record(
        name,
        **dict(
            {
                "drivers": [driver("vendor", [R[build]])],
                "verdicts": [fits("vendor", R[build], R[build])]
                + [refused("vendor", R[each]) for each in lost],
                "facts": {
                    "vendor": {R[each]: facts(R[each], put_page=crc) for each, crc in versions.items()}
                },
            },
            **given,
        ),
    )


def builds(entry):
    return [(each["release"], each["serves"], each["certain"], each["hosts"]) for each in entry["builds"]]


def test_kernels_with_the_same_versions_take_one_build_for_the_oldest_whatever_host_they_are_on():
    (found,) = plan(host("a", {47: 1, 50: 2}), host("b", {47: 1, 53: 2}), host("c", {47: 1, 54: 3}))
    assert (found["driver"], found["version"], found["machine"], found["hosts"]) == (
        "vendor",
        "1.0",
        "x86_64",
        3,
    )
    assert builds(found) == [(R[50], [R[50], R[53]], True, 2), (R[54], [R[54]], True, 1)]


def test_nothing_is_listed_where_nothing_is_lacking():
    assert (
        plan(host("a", {47: 1, 50: 1}, lost=[]), record("b", error="not reached", drivers=[], verdicts=[]))
        == []
    )


def test_a_build_that_another_host_has_is_deployed_and_not_made_again():
    has = host("a", {47: 1, 50: 2}, build=50, lost=[47])
    (found,) = plan(has, host("b", {47: 1, 50: 2}), host("c", {47: 1, 51: 2}))
    assert found["builds"] == []
    assert found["deploy"] == [
        {"kernel": R[47], "build": R[47], "judged": True, "hosts": ["a"]},
        {"kernel": R[50], "build": R[50], "judged": True, "hosts": ["b"]},
        {"kernel": R[51], "build": R[50], "judged": False, "hosts": ["c"]},  # as predicted
    ]


def test_a_build_of_an_older_version_does_not_stand_for_the_newer_one():
    old = host("a", {47: 1, 50: 2}, build=50, lost=[])
    new = host("b", {47: 1, 50: 2}, drivers=[driver("vendor", [R[47]], version="2.0")])
    (found,) = plan(old, new)
    assert (found["version"], builds(found)) == ("2.0", [(R[50], [R[50]], True, 1)])


def test_each_machine_has_a_plan_of_its_own_for_one_release():
    arm = host(
        "arm",
        {},
        machine="aarch64",
        needs={"vendor": needs("put_page", machine="aarch64")},
        facts={"vendor": {R[50]: facts(R[50], "aarch64", put_page=9)}},
        verdicts=[refused("vendor", R[50])],
    )
    found = plan(arm, host("pc", {47: 1, 50: 2}))
    assert [(each["machine"], builds(each)) for each in found] == [
        ("aarch64", [(R[50], [R[50]], True, 1)]),
        ("x86_64", [(R[50], [R[50]], True, 1)]),
    ]


def test_hosts_that_say_different_needs_are_planned_for_apart_and_each_kernel_once():
    newer = host("c", {50: 2, 57: 4}, build=50, needs={"vendor": needs("put_page", "fortify_panic")})
    (found,) = plan(host("a", {47: 1, 53: 2}), host("b", {47: 1, 53: 2}), newer)
    assert [(each["release"], each["serves"]) for each in found["builds"]] == [
        (R[53], [R[53]]),
        (R[57], [R[57]]),
    ]
    # fortify_panic is in none of them: what the source needs there is found out by building it
    assert [each["certain"] for each in found["builds"]] == [True, False]


def test_two_kernels_by_one_name_are_not_planned_for_as_if_they_were_one():
    (found,) = plan(host("a", {47: 1, 50: 2}), host("b", {47: 1, 50: 3}), host("c", {47: 1, 50: 2}))
    assert found["ambiguous"] == [{"kernel": R[50], "hosts": [["a", "c"], ["b"]]}]
    assert found["builds"] == []


def test_a_build_that_one_of_two_kernels_of_one_name_takes_is_not_said_to_fit_the_other():
    (found,) = plan(
        host("a", {47: 1, 50: 1}, verdicts=[fits("vendor", R[50], R[47])]), host("b", {47: 1, 50: 3})
    )
    assert (found["deploy"], found["builds"]) == ([], [])
    assert found["ambiguous"] == [{"kernel": R[50], "hosts": [["a"], ["b"]]}]


def test_what_no_build_changes_is_not_in_the_list_of_builds():
    keys = [fits("vendor", R[47], R[47]), refused("vendor", R[50], ["SIG_REQUIRED"], [])]
    (found,) = plan(host("a", {47: 1, 50: 1}, verdicts=keys))
    assert found["builds"] == []
    assert found["elsewhere"] == [{"kernel": R[50], "hosts": ["a"]}]
    both = [fits("vendor", R[47], R[47]), refused("vendor", R[50], ["SIG_REQUIRED", "SYMBOL_CRC"])]
    assert builds(plan(host("a", {47: 1, 50: 2}, verdicts=both))[0]) == [(R[50], [R[50]], True, 1)]


def test_a_driver_without_any_build_is_built_once_to_see_what_it_needs():
    verdicts = [untold("vendor", R[47], ["NO_MODULES"]), untold("vendor", R[50], ["NO_MODULES"])]
    empty = {"drivers": [driver("vendor", [])], "verdicts": verdicts, "needs": {}, "facts": {}}
    (found,) = plan(record("a", **empty))
    assert builds(found) == [(R[47], [R[47], R[50]], False, 1)]
    (found,) = plan(record("a", **empty), buildable=[R[50]])
    assert [each["release"] for each in found["builds"]] == [R[50]]


def test_kernels_without_headers_are_served_by_another_build_or_impossible():
    made = host("a", {47: 1, 50: 2, 53: 2, 54: 3})
    (found,) = plan(made, buildable=[R[53]])
    assert builds(found) == [(R[53], [R[50], R[53]], True, 1)]
    assert found["impossible"] == [R[54]]


def test_a_kernel_of_which_nothing_is_known_is_said_and_not_guessed():
    (found,) = plan(host("a", {47: 1}, lost=[50]))
    assert (found["untold"], found["builds"], found["impossible"]) == ([R[50]], [], [])


def test_a_verdict_that_cannot_be_told_asks_for_no_build():
    assert (
        plan(host("a", {47: 1, 50: 2}, verdicts=[fits("vendor", R[47], R[47]), untold("vendor", R[50])]))
        == []
    )


def test_a_build_for_the_installed_kernel_does_not_stand_for_new_packages_of_its_name():
    both = [
        dict(fits("vendor", R[47], R[47]), state="running"),
        dict(refused("vendor", R[47]), state="offered"),
    ]
    (found,) = plan(host("a", {47: 2}, verdicts=both))
    assert builds(found) == [(R[47], [R[47]], True, 1)]


def test_facts_that_are_damaged_are_an_error_with_a_code():
    with pytest.raises(KmodError) as caught:
        plan(host("a", {47: 1}, lost=[50], facts={"vendor": {R[50]: {"release": 5}}}))
    assert caught.value.code == "PLAN_DATA"


def test_the_same_hosts_in_another_order_have_the_same_plan():
    made = records.fleet(hosts=60, shapes=30)
    assert plan(*made) == plan(*reversed(made))
    assert any(each["builds"] for each in plan(*made)) and any(each["deploy"] for each in plan(*made))
