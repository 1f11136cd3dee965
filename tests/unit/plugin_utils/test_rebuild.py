# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Round after round, what a fleet lacks is built once for each class of kernels; what hosts have stays, and a
build that fails stops nothing else.

The fleet is made up: what each version of a driver needs, and which version of each symbol each kernel has. A
host says of builds what a loader would, by that.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _rebuild
from tests.forge.records import driver, facts, fits, kernel, needs, record, refused, release

SOURCES = {"vendor": {"source": "/src/vendor", "version": "1.0"}}


class World:
    """``kernels``: by number the versions of the symbols a, b, c. ``uses``: by version of the driver the symbols
    that it needs. ``hosts``: by name their kernels, and the version and kernel of the build that each has.
    """

    def __init__(self, kernels, hosts, uses=None, sources=None, **outcomes):
        self.kernels, self.hosts = kernels, hosts
        self.uses = uses or {"1.0": "ab"}
        self.sources = sources or SOURCES
        self.outcomes = outcomes.get("outcomes", {})
        self.store, self.made, self.rounds = set(), [], 0

    def fit(self, version, build, number):
        return all(self.kernels[build][name] == self.kernels[number][name] for name in self.uses[version])

    def record(self, name, version, builds, label):
        """What a host says of builds (numbers of kernels) of one version."""
        numbers = self.hosts[name][0]
        verdicts = []
        for number in numbers:
            takes = [build for build in builds if self.fit(version, build, number)]
            verdicts.append(
                fits("vendor", release(number), release(number if number in takes else takes[0]))
                if takes
                else refused("vendor", release(number))
            )
        symbols = self.uses[version]
        known = {
            release(number): facts(release(number), **{s: self.kernels[number][s] for s in symbols})
            for number in numbers
        }
        return record(
            name,
            drivers=[driver("vendor", [release(b) for b in builds], label)],
            kernels=[kernel(release(number)) for number in numbers],
            verdicts=verdicts,
            needs={"vendor": needs(*symbols)},
            facts={"vendor": known},
        )

    def records(self):
        for name, (numbers, version, build) in self.hosts.items():
            if version is None:
                rows = [kernel(release(number)) for number in numbers]
                yield record(name, drivers=[], kernels=rows, verdicts=[], needs={}, facts={})
            else:
                yield self.record(name, version, [build], version)

    def seen(self):
        version = self.sources["vendor"]["version"]
        if self.store:
            for name, (_numbers, had, _build) in self.hosts.items():
                if had is not None or self.install:
                    yield self.record(name, version, sorted(self.store), "0.0.1-modinfo")

    def build(self, todo, number, count):
        assert 1 <= number <= count
        built = next(n for n in self.kernels if release(n) == todo.release)
        self.made.append(built)
        row = dict({"result": "built", "seconds": 1}, **self.outcomes.get(built, {}))
        if row["result"] == "built":
            self.store.add(built)
        return row

    def run(self, install=False):
        """As the role does it; answers with the last round's outcome."""
        self.install = install
        versions, rows = _rebuild.versions(self.sources), []
        while True:
            self.rounds += 1
            assert self.rounds < 12
            asked = _rebuild.wanting(self.records(), self.seen(), versions, install=install)
            outcome = _rebuild.carry_out(asked, self.build, rows)
            rows = outcome.rows
            if not outcome.again:
                return outcome


def crcs(**classes):
    """By number of a kernel its symbols' versions: x47=1 gives a the version 1, and b and c one for all."""
    return {int(name[1:]): {"a": value, "b": 7, "c": 7} for name, value in classes.items()}


KERNELS = crcs(x47=1, x50=2, x53=2, x54=3)


def test_one_build_a_class_whatever_hosts_they_are_on():
    world = World(KERNELS, {"web1": ([47, 50], "1.0", 47), "web2": ([47, 53, 54], "1.0", 47)})
    outcome = world.run()
    assert world.made == [50, 54]
    assert [(row["serves"], row["certain"], row["hosts"]) for row in outcome.rows] == [
        ([release(50), release(53)], True, ["web1", "web2"]),
        ([release(54)], True, ["web2"]),
    ]


def test_nothing_is_built_where_nothing_is_lacking():
    world = World(KERNELS, {"web1": ([50, 53], "1.0", 50)})
    assert (world.run().rows, world.rounds) == ([], 1)


def test_a_new_version_is_for_the_kernels_that_lack_a_build_and_the_others_keep_theirs():
    sources = {"vendor": {"source": "/src/vendor", "version": "2.0"}}
    uses = {"1.0": "ab", "2.0": "ac"}
    world = World(KERNELS, {"web1": ([47, 50, 53, 54], "1.0", 47)}, uses, sources)
    assert (world.run().rows[0]["certain"], world.made) == (False, [50, 54])
    # and what the new version alone needs counts
    kernels = {n: dict(KERNELS[n], c=n) for n in KERNELS}
    world = World(kernels, {"web1": ([47, 50, 53, 54], "1.0", 47)}, uses, sources)
    world.run()
    assert world.made == [50, 53, 54]


def test_hosts_without_the_driver_get_it_only_if_that_is_wanted():
    hosts = {"web1": ([47, 50], None, None), "web2": ([53, 54], None, None)}
    assert World(KERNELS, hosts).run().rows == []
    world = World(KERNELS, hosts)
    world.run(install=True)
    assert world.made == [47, 50, 54]  # the first to find out what it needs, then one for each class


def test_a_build_that_fails_stops_no_other_and_is_not_tried_twice():
    failure = {"result": "failed", "code": "BUILD_FAILED", "errors": ["vendor.c:1: error"], "log": "/log"}
    world = World(KERNELS, {"web1": ([47, 50, 53, 54], "1.0", 47)}, outcomes={50: failure})
    outcome = world.run()
    assert world.made == [50, 54] and world.store == {54}
    (failed,) = [row for row in outcome.rows if row["result"] == "failed"]
    assert failed["serves"] == [release(50), release(53)] and failed["hosts"] == ["web1"]


def test_where_one_kernel_of_a_class_has_no_headers_another_one_may():
    missing = {"result": "failed", "code": "HEADERS_MISSING"}
    world = World(KERNELS, {"web1": ([47, 50, 53], "1.0", 47)}, outcomes={50: missing})
    world.run()
    assert (world.made, world.store) == ([50, 53], {53})
    world = World(KERNELS, {"web1": ([47, 50, 53], "1.0", 47)}, outcomes={50: missing, 53: missing})
    outcome = world.run()
    assert world.made == [50, 53] and outcome.rest["vendor"]["impossible"] == [release(50), release(53)]


def test_one_that_its_source_excludes_is_no_failure():
    world = World(KERNELS, {"web1": ([47, 54], "1.0", 47)}, outcomes={54: {"result": "excluded"}})
    assert [row["result"] for row in world.run().rows] == ["excluded"]


def test_a_host_that_could_not_be_asked_changes_nothing_for_the_others():
    gone = record("web2", error="unreachable", drivers=[], kernels=[], verdicts=[])
    lists = record("web3", error="its lists cannot be read")  # what it has is known for all that
    asked = _rebuild.wanting([record("web1"), gone, lists], [], {"vendor": "1.0"}, install=True)
    assert [each["host"] for each in asked] == ["web1", "web3"]


@pytest.mark.parametrize(
    "codes,signs,count",
    [
        (["SIG_REQUIRED"], True, 1),
        (["SIG_REQUIRED"], False, 0),
        (["SIG_UNKNOWN_KEY"], True, 0),  # a matter of enrolling
        (["SYMBOL_CRC"], False, 1),
    ],
)
def test_an_unsigned_build_where_signatures_are_required_is_none_if_builds_get_signed(codes, signs, count):
    old = release(47)
    host = record(kernels=[kernel(old)], verdicts=[refused("vendor", old, codes)], facts={})
    host["facts"] = {"vendor": {old: facts(old, put_page=1)}}
    asked = _rebuild.wanting([host], [], {"vendor": "1.0"}, install=False, signs=signs)
    made = []
    _rebuild.carry_out(asked, lambda todo, *_: made.append(todo) or {"result": "kept"}, [])
    assert len(made) == count


def both(*kernels):
    """A host with a driver that uses symbols of another one (giver), each with a build for the first kernel, by
    the versions that kernels have of what the one and the other need.
    """
    names = {number: (release(number), crcs) for number, *crcs in kernels}
    first = release(kernels[0][0])
    of_giver, of_user = needs("a", module="giver"), needs("b", module="auser")
    together = dict(of_user, modules=of_giver["modules"] + of_user["modules"])
    verdicts = [
        fits(driver, name, first) if name == first else refused(driver, name)
        for driver in ("auser", "giver")
        for name, _crcs in names.values()
    ]
    return record(
        "web1",
        drivers=[driver("auser", [first]), driver("giver", [first])],
        kernels=[kernel(name) for name, _crcs in names.values()],
        verdicts=verdicts,
        needs={"auser": together, "giver": of_giver},
        facts={
            "giver": {name: facts(name, a=crcs[0]) for name, crcs in names.values()},
            "auser": {name: facts(name, a=crcs[0], b=crcs[1]) for name, crcs in names.values()},
        },
    )


TIED = {
    "auser": {"source": "/src/auser", "version": "1.0", "depends": ["giver", "of-the-store"]},
    "giver": {"source": "/src/giver", "version": "1.0"},
}


@pytest.mark.parametrize(
    "kernels,made",
    [
        # one class for both: as many builds of the one as of the other
        (((47, 1, 1), (50, 2, 1), (53, 2, 1)), [("giver", 50), ("auser", 50)]),
        # a class of its own for what is used, and so for its user
        (((47, 1, 1), (50, 2, 1), (53, 3, 1)), [("giver", 50), ("giver", 53), ("auser", 50), ("auser", 53)]),
        # the user alone has two: it is built against the other's build for the same kernel
        (((47, 1, 1), (50, 2, 1), (53, 2, 2)), [("giver", 50), ("giver", 53), ("auser", 50), ("auser", 53)]),
        # the user alone lacks one
        (((47, 1, 1), (50, 1, 2)), [("giver", 50), ("auser", 50)]),
    ],
)
def test_drivers_that_use_each_other_are_planned_as_one_and_built_in_their_order(kernels, made):
    host = both(*kernels)
    if kernels[1][1] == 1:  # the build that is there serves it
        host["verdicts"] = [
            fits("giver", each["kernel"], release(47)) if each["driver"] == "giver" else each
            for each in host["verdicts"]
        ]
    asked = _rebuild.wanting([host], [], _rebuild.versions(TIED), install=False)
    todo = []
    outcome = _rebuild.carry_out(
        asked, lambda each, *_: todo.append(each) or {"result": "built"}, [], _rebuild.needed(TIED)
    )
    assert [(each.driver, each.release) for each in todo] == [
        (name, release(number)) for name, number in made
    ]
    assert all(each.certain for each in todo) and outcome.again


def test_a_host_gets_what_its_driver_has_come_to_need():
    host = both((47, 1, 1), (50, 2, 1))
    host["drivers"] = [host["drivers"][0]]
    host["verdicts"] = [each for each in host["verdicts"] if each["driver"] == "auser"]
    arguments = ([host], [], _rebuild.versions(TIED))
    for needed, drivers in ((_rebuild.needed(TIED), ["auser", "giver"]), ({}, ["auser"])):
        (asked,) = _rebuild.wanting(*arguments, install=False, needed=needed)
        assert [each["driver"] for each in asked["drivers"]] == drivers
    (asked,) = _rebuild.wanting(*arguments, install=False, needed=_rebuild.needed(TIED))
    # where the build that it has is good, the driver needs no other
    assert {each["kernel"] for each in asked["verdicts"] if each["driver"] == "giver"} == {release(50)}


def test_of_a_class_that_kernel_is_built_for_which_has_a_build_of_what_is_needed():
    """Else a host would have one of two builds of that, and the other one would be that which fits."""
    host = both((47, 1, 1), (50, 2, 1), (53, 2, 1))
    host["verdicts"] = [
        fits("giver", name, name if name == release(47) else release(53))
        if each["driver"] == "giver"
        else each
        for each in host["verdicts"]
        for name in [each["kernel"]]
    ]
    host["drivers"][1] = driver("giver", [release(47), release(53)])
    asked = _rebuild.wanting([host], [], _rebuild.versions(TIED), install=False)
    todo = []
    _rebuild.carry_out(
        asked, lambda each, *_: todo.append(each) or {"result": "kept"}, [], _rebuild.needed(TIED)
    )
    assert [(each.driver, each.release, each.serves) for each in todo] == [
        ("giver", release(53), (release(53),)),  # there already, and kept
        ("auser", release(53), (release(50), release(53))),
    ]


def test_sources_that_depend_on_each_other_in_a_circle_are_refused():
    with pytest.raises(KmodError) as caught:
        _rebuild.needed({"a": {"depends": ["b"]}, "b": {"depends": ["a"]}, "c": {}})
    assert caught.value.code == "BAD_OPTION" and "a, b" in str(caught.value)
    deep = {"a": {"depends": ["b"]}, "b": {"depends": ["c"]}, "c": {}}
    assert list(_rebuild.needed(deep).items()) == [("c", []), ("b", ["c"]), ("a", ["c", "b"])]


def test_drivers_without_a_source_are_named():
    assert _rebuild.without_source([record("web2"), record("web1")], {}) == {"vendor": ["web1", "web2"]}
    assert _rebuild.without_source([record("web1")], {"vendor": "1.0"}) == {}


@pytest.mark.parametrize(
    "source",
    [
        None,
        "/src",
        {},
        {"source": "/src"},
        {"version": "1"},
        {"source": "", "version": "1"},
        {"source": "/a", "src": "b", "version": "1"},
    ],
)
def test_a_source_says_where_it_is_and_which_version(source):
    with pytest.raises(KmodError) as caught:
        _rebuild.versions({"vendor": source})
    assert caught.value.code == "BAD_OPTION" and "vendor" in str(caught.value)


def test_hosts_get_ahead_what_serves_the_kernels_to_come_and_nothing_that_they_have():
    old, new, newer = map(release, (47, 50, 53))
    coming = [kernel(old), *(dict(kernel(each), state="offered") for each in (new, newer))]
    verdicts = [fits("vendor", old, old), refused("vendor", new), fits("vendor", newer, old)]
    host = record("web1", kernels=coming, verdicts=verdicts)
    told = [dict(fits("vendor", each, new), state="offered") for each in (new, newer)]
    seen = record("web1", kernels=coming, verdicts=[refused("vendor", old), *told])
    assert _rebuild.ahead([host], [seen, seen]) == {"web1": {"vendor": [new]}}
    bare = record("web1", kernels=coming, drivers=[], verdicts=[])
    assert _rebuild.ahead([bare], [seen]) == {"web1": {"vendor": [new]}}
    assert _rebuild.ahead([host], [host]) == {}


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)), min_size=2, max_size=6),
    st.sampled_from(["1.0", "2.0"]),
    st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_builds_are_as_many_as_there_are_classes_without_one(symbols, version, seed):
    numbers = list(range(40, 40 + len(symbols)))
    kernels = {n: dict(zip("abc", each)) for n, each in zip(numbers, symbols)}
    hosts = {}
    for place, name in enumerate(("web1", "web2", "web3")):
        own = [n for n in numbers if seed >> (place * 8 + n - 40) & 1] or numbers
        hosts[name] = (own, "1.0", own[seed % len(own)])
    sources = {"vendor": {"source": "/src/vendor", "version": version}}
    world = World(kernels, hosts, {"1.0": "ab", "2.0": "bc"}, sources)
    world.run()
    wanted = {
        tuple(kernels[n][s] for s in world.uses[version])
        for own, had, build in hosts.values()
        for n in own
        if not world.fit(had, build, n)
    }
    assert len(world.made) == len(wanted)
    assert {tuple(kernels[n][s] for s in world.uses[version]) for n in world.made} == wanted
