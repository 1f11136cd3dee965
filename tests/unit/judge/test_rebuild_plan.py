# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of builds is the shortest that serves all kernels: against all subsets."""

import itertools
import json
import random

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict, rebuild_plan
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.predict import (
    KernelFacts,
    ModuleNeeds,
    Needs,
)

STRONG, WEAK = ("s0", "s1"), ("w0", "w1", "w2")
NEEDS = Needs("x86_64", (ModuleNeeds("vendor", STRONG, WEAK, False, ()),))


def release(number):
    return "6.1.0-%d-amd64" % number


def facts(number, needs=NEEDS, layout=1, **crcs):
    exports = {"module_layout": (layout, False, "")}
    exports.update({name: (crc, False, "") for name, crc in crcs.items() if crc is not None})
    return KernelFacts(
        release(number),
        needs.machine,
        release(number) + " SMP mod_unload modversions ",
        exports,
        unversioned=False,
    )


def drawn(seed):
    chance = random.Random(seed)
    kernels = [
        facts(
            number,
            layout=chance.choice([1, 1, 1, 1, 2]),
            **dict(
                {name: chance.choice([1, 1, 1, 1, 2, None] if seed % 2 else [1]) for name in STRONG},
                **{name: chance.choice([1, None]) for name in WEAK},
            ),
        )
        for number in range(chance.randint(1, 7))
    ]
    unversioned = chance.choice([False, False, True])
    kernels = [kernel._replace(unversioned=unversioned) for kernel in kernels]
    releases = [kernel.release for kernel in kernels]
    wanted = tuple(each for each in releases if chance.random() < 0.8)
    buildable = tuple(each for each in releases if chance.random() < 0.7)
    return rebuild_plan.PlanRequest("vendor", NEEDS, tuple(kernels), wanted, buildable)


def brute_force(request):
    """(the wanted kernels that can be served, the least number of builds for that)"""
    by_release = {kernel.release: kernel for kernel in request.kernels}
    serves = {
        here: {
            there for there in request.wanted if predict.predicted(by_release[here], by_release[there], NEEDS)
        }
        for here in request.buildable
        if predict.predicted(by_release[here], by_release[here], NEEDS)
    }
    every = set().union(*serves.values())
    for count in range(len(serves) + 1):
        for chosen in itertools.combinations(serves, count):
            if set().union(*(serves[each] for each in chosen)) >= every:
                return every, count
    raise AssertionError


@pytest.mark.parametrize("first", range(0, 3000, 100))
def test_no_shorter_list_serves_as_many(first):
    for seed in range(first, first + 100):
        request = drawn(seed)
        found = rebuild_plan.least(request)
        by_release = {kernel.release: kernel for kernel in request.kernels}
        certain = [build for build in found.builds if build.certain]
        served = [each for build in certain for each in build.serves]
        assert (set(served), len(certain)) == brute_force(request), seed
        assert all(
            predict.predicted(by_release[build.release], by_release[each], NEEDS)
            for build in certain
            for each in build.serves
        )
        every = (
            [each for build in found.builds for each in build.serves]
            + list(found.impossible)
            + list(found.kept)
        )
        assert sorted(every) == sorted(request.wanted), seed  # each of them once
        assert all(build.release in request.buildable for build in found.builds)
        tried = [build for build in found.builds if not build.certain]
        assert all(
            predict.predicted(by_release[each], by_release[each], NEEDS) is None
            for build in tried
            for each in (build.release, *build.serves)
        )
        assert len({predict.fingerprint(by_release[build.release], NEEDS) for build in tried}) == len(tried)


def test_a_cover_that_takes_some_thought():
    """Kernels without headers of their own, which several builds would serve: the obvious first choice is not
    among the best.
    """
    serves = {
        0: frozenset({1, 2, 3, 4}),
        1: frozenset({1, 2, 5}),
        2: frozenset({3, 4, 6}),
        3: frozenset({5}),
        4: frozenset({6}),
    }
    assert rebuild_plan._fewest(frozenset(range(1, 7)), serves) == [1, 2]


def plan(these, **request):
    data = {"driver": "vendor", "needs": NEEDS.as_dict()}
    data["kernels"] = [kernel.as_dict() for kernel in these]
    data.update(request)
    return rebuild_plan.plan(json.loads(json.dumps(data)))


ALL = dict.fromkeys(STRONG + WEAK, 1)


def test_one_build_a_class_for_its_oldest_kernel():
    kernels = [
        facts(9, **ALL),
        facts(10, **ALL),
        facts(11, **dict(ALL, s0=2)),
        facts(12, **dict(ALL, s0=2)),
        facts(13, **dict(ALL, s0=3)),
    ]
    found = plan(kernels)
    assert [(build["release"], build["serves"], build["certain"]) for build in found["builds"]] == [
        (release(9), [release(9), release(10)], True),
        (release(11), [release(11), release(12)], True),
        (release(13), [release(13)], True),
    ]
    assert (found["kept"], found["impossible"]) == ({}, [])


def test_only_what_has_no_build_and_is_wanted_is_built():
    kernels = [facts(number, **dict(ALL, s0=crc)) for number, crc in ((9, 1), (10, 1), (11, 2), (12, 3))]
    found = plan(
        kernels, wanted=[release(9), release(10), release(11)], builds={release(9): [release(9), release(10)]}
    )
    assert found["kept"] == {release(9): release(9), release(10): release(9)}
    assert [build["release"] for build in found["builds"]] == [release(11)]


def test_a_kernel_keeps_its_own_build_and_else_has_the_newest():
    kernels = [facts(number, **ALL) for number in (8, 9, 10)]
    every = [kernel.release for kernel in kernels]
    assert plan(kernels, builds={release(10): every, release(9): every})["kept"] == {
        release(8): release(10),
        release(9): release(9),
        release(10): release(10),
    }


def test_headers_of_another_kernel_of_the_class_do():
    kernels = [facts(9, **ALL), facts(10, **ALL), facts(11, **dict(ALL, s0=2))]
    found = plan(kernels, wanted=[release(9), release(11)], buildable=[release(10)])
    assert [(build["release"], build["serves"]) for build in found["builds"]] == [(release(10), [release(9)])]
    assert found["impossible"] == [release(11)]


def test_what_is_not_known_before_it_is_built_is_tried_once_a_class():
    kernels = [
        facts(9, **ALL),
        facts(10, **dict(ALL, s0=None)),
        facts(11, **dict(ALL, s0=None)),
        facts(12, **dict(ALL, s1=None)),
    ]
    found = plan(kernels)
    assert [(build["release"], build["serves"], build["certain"]) for build in found["builds"]] == [
        (release(9), [release(9)], True),
        (release(10), [release(10), release(11)], False),
        (release(12), [release(12)], False),
    ]


def test_without_any_build_the_oldest_kernel_is_tried_first():
    kernels = [facts(10, **ALL), facts(9, **ALL)]
    assert plan(kernels, needs=None)["builds"] == [
        {"release": release(9), "serves": [release(9), release(10)], "certain": False}
    ]
    assert plan(kernels, needs=None, buildable=[release(10)])["builds"][0]["release"] == release(10)
    assert plan(kernels, needs=None, buildable=[])["impossible"] == [release(9), release(10)]


def test_a_kernel_that_takes_the_build_of_another_class_needs_none():
    """A weak symbol that it lacks: the build for the other kernel has it and does without.

    Not the other way round.
    """
    kernels = [facts(9, **dict(ALL, w0=None)), facts(10, **ALL)]
    assert [(build["release"], build["serves"]) for build in plan(kernels)["builds"]] == [
        (release(10), [release(9), release(10)])
    ]
    assert [
        (build["release"], build["serves"]) for build in plan(kernels, buildable=[release(9)])["builds"]
    ] == [(release(9), [release(9)])]


def test_forty_kernels_are_planned_at_once():
    chance = random.Random(3)
    kernels = [
        facts(number, **{name: chance.choice([1, 2, None]) for name in WEAK}, **dict.fromkeys(STRONG, 1))
        for number in range(40)
    ]
    assert sum(len(build["serves"]) for build in plan(kernels)["builds"]) == 40


@pytest.mark.parametrize(
    "change",
    [
        {"kernels": None},
        {"kernels": [{}]},
        {"needs": {"machine": "x"}},
        {"builds": [1]},
        {"wanted": 3},
        {"builds": {"x": 1}},
    ],
)
def test_what_is_no_request_is_an_error(change):
    with pytest.raises(KmodError) as caught:
        plan([facts(9, **ALL)], **change)
    assert caught.value.code == "PLAN_DATA"
