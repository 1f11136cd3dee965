# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which build of a driver each kernel takes."""

from types import SimpleNamespace

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader, selection
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import (
    COMPATIBLE,
    DOUBT,
    INCOMPATIBLE,
    REFUSE,
    UNKNOWN,
    Finding,
    Verdict,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as ko_reader
from ansible_collections.outoftree.kmod.plugins.module_utils.read.elf import Fault
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_module import KernelModule
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import installed
from tests.forge import families
from tests.forge.ko import Export, ko
from tests.forge.symvers import EXPORTS

LAYOUT = ("module_layout", 0x11)
OLD, NEW = "6.1.0-9-amd64", "6.1.0-56-amd64"


def module(path, release="6.1.0-9", version="", name=None, faults=()):
    modinfo = [("vermagic", release + " SMP ")] if release else []
    return KernelModule(
        path,
        name or path.rsplit("/", 1)[-1].split(".")[0],
        path + release + version,
        1,
        "x86_64",
        tuple(modinfo + [("version", version)] * bool(version)),
        faults=tuple(faults),
    )


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
    made = selection.builds(
        [
            module("/d/b.ko"),
            module("/d/a.ko"),
            module("/d/x/a.ko", "6.1.0-56"),
            module("/d/x/b.ko", "6.1.0-56"),
        ]
    )
    assert [(build.release, [each.name for each in build.modules]) for build in made] == [
        ("6.1.0-56", ["a", "b"]),
        ("6.1.0-9", ["a", "b"]),
    ]


def test_one_build_may_lie_in_several_directories():
    made = selection.builds([module("/d/net/a.ko"), module("/d/scsi/b.ko")])
    assert [[each.name for each in build.modules] for build in made] == [["a", "b"]]


def test_two_versions_for_one_release_are_told_apart_by_their_directories():
    made = selection.builds([module("/v1/a.ko", version="1.0"), module("/v2/a.ko", version="2.0")])
    assert [build.version for build in made] == ["1.0", "2.0"]


@pytest.mark.parametrize(
    "paths,made",
    [
        (["v1/net/a", "v1/scsi/b", "v2/net/a", "v2/scsi/b"], ["v1: a b", "v2: a b"]),
        (["a", "b", "old/a", "old/b"], ["new: a b", "old: a b"]),  # one in the other's directory
        (["net/a", "scsi/b", "old/net/a", "old/scsi/b"], ["new: a b", "old: a b"]),
        (["new/a", "new/b", "old/deep/net/a", "old/deep/scsi/b", "old/compat/c"], ["new: a b", "old: a b c"]),
        (["v1/a", "v2/a", "v3/x/a"], ["v1: a", "v2: a", "v3: a"]),
    ],
)
def test_versions_in_nested_directories(paths, made):
    def version(path):
        return path.split("/")[0] if path[0] in "vo" else "new"

    found = selection.builds([module("/d/%s.ko" % path, version=version(path)) for path in paths])
    assert (
        sorted("%s: %s" % (build.version, " ".join(each.name for each in build.modules)) for build in found)
        == made
    )


@pytest.mark.parametrize(
    "modules,code",
    [
        ([module("/d/a.ko"), module("/d/a.ko.xz", name="a")], "TWO_MODULES"),
        ([module("/d/a.ko", release="")], "VERMAGIC_ABSENT"),
        ([module("/d/a.ko", release="../../etc/cron.d")], "RELEASE_NAME"),
        ([module("/d/a.ko", release="6.1.0-" + "9" * 60)], "RELEASE_NAME"),
        ([module("/d/a.ko", release="6.1.0\x1b[1m")], "RELEASE_NAME"),
        ([module("/d/a.ko", faults=[Fault("ELF_MAGIC", "not an ELF file")])], "ELF_MAGIC"),
    ],
)
def test_bad_input(modules, code):
    with pytest.raises(KmodError) as error:
        selection.builds(modules)
    assert error.value.code == code
    assert error.value.then
    assert error.value.what.startswith("/d")


def real_builds(tmp_path, *in_tree, **modules):
    """What each of two kernels gets of builds that are really judged: ``name_release`` -> arguments of ko."""
    host = Host(str(tmp_path))
    for release in (OLD, NEW):
        exports = EXPORTS + tuple(
            (symbol, crc, False, "", "drivers/compat")
            for symbol, crc in (("compat_init", 1),)
            if release in in_tree
        )
        own = (
            {"drivers/compat.ko": ko("compat", [LAYOUT], release=release, exports=[Export("compat_init", 1)])}
            if release in in_tree
            else {}
        )
        families.kernel(tmp_path, release, exports=exports, in_tree=own)
    given = []
    for key, arguments in modules.items():
        name, _unused, which = key.partition("_")
        release = {"old": OLD, "new": NEW}[which]
        given.append(ko_reader.parse(ko(name, release=release, **arguments), "/d/%s/%s.ko" % (which, name)))
    return {
        choice.kernel: choice
        for choice in selection.select(installed(host), selection.builds(given), loader.judge)
    }


NEEDS = {"needs": (LAYOUT, ("compat_init", 1)), "modinfo": {"depends": "compat"}}
GIVES = {"needs": [LAYOUT], "exports": [Export("compat_init", 1)]}


def test_a_module_that_newer_kernels_have_themselves_is_only_in_the_builds_for_older_ones(tmp_path):
    found = real_builds(tmp_path, NEW, drv_old=NEEDS, compat_old=GIVES, drv_new=NEEDS)
    assert {release: choice.build.release for release, choice in found.items()} == {OLD: OLD, NEW: NEW}


def test_a_module_that_builds_for_newer_kernels_do_not_need_any_more(tmp_path):
    found = real_builds(tmp_path, drv_old=NEEDS, compat_old=GIVES, drv_new={})
    assert found[NEW].build.release == NEW


def test_a_build_without_a_module_that_it_needs_is_incomplete_there_and_only_there(tmp_path):
    """A kernel for which there is nothing better is told what is missing; the complete build is used where it
    fits.
    """
    found = real_builds(tmp_path, drv_old=NEEDS, compat_old=dict(GIVES, unlisted=["old_only"]), drv_new=NEEDS)
    choice = found[NEW]
    assert choice.build is None
    assert (
        choice.reason
        == "the build for %s has no compat.ko, which gives it compat_init; the build for %s has one"
        % (NEW, OLD)
    )
    assert choice.verdicts[0].reason.code == "BUILD_INCOMPLETE"


def test_versions_may_differ_in_their_modules():
    assert (
        len(
            selection.builds(
                [
                    module("/1/a.ko", version="1"),
                    module("/2/a.ko", "6.1.0-56", "2"),
                    module("/2/b.ko", "6.1.0-56", "2"),
                ]
            )
        )
        == 2
    )


@pytest.mark.parametrize(
    "verdicts,chosen",
    [
        ({}, "6.1.0-9"),  # its own
        ({("6.1.0-9", "/own/a.ko"): INCOMPATIBLE}, "6.1.0-56"),  # else the newest, in the order of versions
        # unknown is not good enough
        ({("6.1.0-9", "/own/a.ko"): INCOMPATIBLE, ("6.1.0-9", "/new/a.ko"): UNKNOWN}, "6.1.0-8"),
    ],
)
def test_the_build_for_the_kernel_else_the_newest_compatible_one(verdicts, chosen):
    candidates = selection.builds(
        [module("/old/a.ko", "6.1.0-8"), module("/own/a.ko", "6.1.0-9"), module("/new/a.ko", "6.1.0-56")]
    )
    (choice,) = selection.select(kernels("6.1.0-9"), candidates, judge_by(verdicts))
    assert choice.build.release == chosen


def test_a_newer_version_comes_before_the_build_for_the_kernel():
    candidates = selection.builds(
        [module("/own/a.ko", "6.1.0-9", "1.9"), module("/new/a.ko", "6.1.0-8", "1.10")]
    )
    (choice,) = selection.select(kernels("6.1.0-9"), candidates, judge_by({}))
    assert choice.build.version == "1.10"


def test_one_refused_module_refuses_the_driver():
    candidates = selection.builds([module("/d/a.ko"), module("/d/b.ko")])
    (choice,) = selection.select(
        kernels("6.1.0-9"), candidates, judge_by({("6.1.0-9", "/d/b.ko"): INCOMPATIBLE})
    )
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


@pytest.mark.parametrize(
    "patterns,meant",
    [
        (["all"], ["6.1.0-9", "6.1.0-56", "6.12.1"]),
        (["newest"], ["6.12.1"]),
        (["running"], ["6.1.0-9"]),
        (["6.1.0-*"], ["6.1.0-9", "6.1.0-56"]),
        (["6.12.1", "running"], ["6.1.0-9", "6.12.1"]),
    ],
)
def test_kernels_are_named_by_pattern(patterns, meant):
    assert [
        kernel.release for kernel in selection.matching(kernels("6.1.0-9", "6.1.0-56", "6.12.1"), patterns)
    ] == meant


def test_no_pattern_at_all_is_an_error_and_not_well_done():
    with pytest.raises(KmodError, match="kernels: is empty"):
        selection.matching(kernels("6.1.0-9"), [])


def test_a_pattern_that_means_no_kernel_is_an_error_that_lists_them():
    with pytest.raises(KmodError) as error:
        selection.matching(kernels("6.1.0-9", "6.12.1"), ["5.*"])
    assert error.value.code == "NO_SUCH_KERNEL"
    assert "6.1.0-9, 6.12.1" in str(error.value)
