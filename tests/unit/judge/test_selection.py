# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which build of a driver each kernel takes."""
from types import SimpleNamespace

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import selection
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import COMPATIBLE, DOUBT, INCOMPATIBLE, REFUSE, UNKNOWN, Finding, Verdict
from ansible_collections.outoftree.kmod.plugins.module_utils.read.elf import Fault
from ansible_collections.outoftree.kmod.plugins.module_utils.read.ko import KernelModule


def module(path, release="6.1.0-9", version="", name=None, faults=()):
    modinfo = [("vermagic", release + " SMP ")] if release else []
    return KernelModule(path, name or path.rsplit("/", 1)[-1].split(".")[0], path + release + version, 1, "x86_64",
                        tuple(modinfo + [("version", version)] * bool(version)), faults=tuple(faults))


def kernels(*releases):
    return [SimpleNamespace(release=release, running=release == releases[0]) for release in releases]


def judge_by(table, asked=None):
    """A judge that looks (kernel, path) up: compatible unless it says otherwise."""
    def judge(kernel, modules):
        verdicts = []
        for each in modules:
            if asked is not None:
                asked.append((kernel.release, each.path))
            verdict = table.get((kernel.release, each.path), COMPATIBLE)
            effect = {INCOMPATIBLE: REFUSE, UNKNOWN: DOUBT}.get(verdict)
            findings = (Finding("CODE", effect, "says no"),) if effect else ()
            verdicts.append(Verdict(each.path, each.name, kernel.release, verdict, None, findings))
        return verdicts
    return judge


def test_modules_are_grouped_by_the_release_they_were_built_for():
    made = selection.builds([module("/d/b.ko"), module("/d/a.ko"), module("/d/x/a.ko", "6.1.0-56"), module("/d/x/b.ko", "6.1.0-56")])
    assert [(build.release, [each.name for each in build.modules]) for build in made] == [("6.1.0-56", ["a", "b"]), ("6.1.0-9", ["a", "b"])]


def test_one_build_may_lie_in_several_directories():
    made = selection.builds([module("/d/net/a.ko"), module("/d/scsi/b.ko")])
    assert [[each.name for each in build.modules] for build in made] == [["a", "b"]]


def test_two_versions_for_one_release_are_told_apart_by_their_directories():
    made = selection.builds([module("/v1/a.ko", version="1.0"), module("/v2/a.ko", version="2.0")])
    assert [build.version for build in made] == ["1.0", "2.0"]


@pytest.mark.parametrize("modules,code", [
    ([module("/d/a.ko"), module("/d/a.ko.xz", name="a")], "TWO_MODULES"),
    ([module("/d/1/a.ko"), module("/d/1/b.ko"), module("/d/2/a.ko", "6.1.0-56")], "BUILD_INCOMPLETE"),
    ([module("/d/a.ko", release="")], "VERMAGIC_ABSENT"),
    ([module("/d/a.ko", faults=[Fault("ELF_MAGIC", "not an ELF file")])], "ELF_MAGIC"),
])
def test_bad_input(modules, code):
    with pytest.raises(KmodError) as error:
        selection.builds(modules)
    assert error.value.code == code
    assert error.value.then
    assert error.value.what.startswith("/d")


def test_versions_may_differ_in_their_modules():
    assert len(selection.builds([module("/1/a.ko", version="1"), module("/2/a.ko", "6.1.0-56", "2"), module("/2/b.ko", "6.1.0-56", "2")])) == 2


@pytest.mark.parametrize("verdicts,chosen", [
    ({}, "6.1.0-9"),  # its own
    ({("6.1.0-9", "/own/a.ko"): INCOMPATIBLE}, "6.1.0-56"),  # else the newest, in the order of versions
    ({("6.1.0-9", "/own/a.ko"): INCOMPATIBLE, ("6.1.0-9", "/new/a.ko"): UNKNOWN}, "6.1.0-8"),  # unknown is not good enough
])
def test_the_build_for_the_kernel_else_the_newest_compatible_one(verdicts, chosen):
    candidates = selection.builds([module("/old/a.ko", "6.1.0-8"), module("/own/a.ko", "6.1.0-9"), module("/new/a.ko", "6.1.0-56")])
    (choice,) = selection.select(kernels("6.1.0-9"), candidates, judge_by(verdicts))
    assert choice.build.release == chosen


def test_a_newer_version_comes_before_the_build_for_the_kernel():
    candidates = selection.builds([module("/own/a.ko", "6.1.0-9", "1.9"), module("/new/a.ko", "6.1.0-8", "1.10")])
    (choice,) = selection.select(kernels("6.1.0-9"), candidates, judge_by({}))
    assert choice.build.version == "1.10"


def test_one_refused_module_refuses_the_driver():
    candidates = selection.builds([module("/d/a.ko"), module("/d/b.ko")])
    (choice,) = selection.select(kernels("6.1.0-9"), candidates, judge_by({("6.1.0-9", "/d/b.ko"): INCOMPATIBLE}))
    assert (choice.build, choice.verdict, choice.reason) == (None, INCOMPATIBLE, "b: says no")


def test_without_a_build_the_reason_is_that_of_the_first_in_question():
    candidates = selection.builds([module("/own/a.ko", "6.1.0-9"), module("/new/a.ko", "6.1.0-56")])
    table = {("6.1.0-9", "/own/a.ko"): UNKNOWN, ("6.1.0-9", "/new/a.ko"): INCOMPATIBLE}
    (choice,) = selection.select(kernels("6.1.0-9"), candidates, judge_by(table))
    assert (choice.verdict, choice.reason) == (UNKNOWN, "says no")


def test_what_a_kernel_takes_ends_the_search_and_nothing_is_judged_twice():
    asked = []
    candidates = selection.builds([module("/%d/a.ko" % number, "6.1.0-%d" % number) for number in range(9)])
    selection.select(kernels("6.1.0-3", "6.1.0-99"), candidates, judge_by({}, asked))
    assert asked == [("6.1.0-3", "/3/a.ko"), ("6.1.0-99", "/8/a.ko")]


@pytest.mark.parametrize("patterns,meant", [
    (["all"], ["6.1.0-9", "6.1.0-56", "6.12.1"]),
    (["newest"], ["6.12.1"]),
    (["running"], ["6.1.0-9"]),
    (["6.1.0-*"], ["6.1.0-9", "6.1.0-56"]),
    (["6.12.1", "running"], ["6.1.0-9", "6.12.1"]),
])
def test_kernels_are_named_by_pattern(patterns, meant):
    assert [kernel.release for kernel in selection.matching(kernels("6.1.0-9", "6.1.0-56", "6.12.1"), patterns)] == meant


def test_a_pattern_that_means_no_kernel_is_an_error_that_lists_them():
    with pytest.raises(KmodError) as error:
        selection.matching(kernels("6.1.0-9", "6.12.1"), ["5.*"])
    assert error.value.code == "NO_SUCH_KERNEL"
    assert "6.1.0-9, 6.12.1" in str(error.value)
