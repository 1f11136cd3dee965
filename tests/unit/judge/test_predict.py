# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is predicted of builds that do not exist equals the verdict on such builds, once they are made."""

import json
import random

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.loader import judge
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import COMPATIBLE, INCOMPATIBLE
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as reader
from ansible_collections.outoftree.kmod.plugins.module_utils.read.export_sources import SourcedExports
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import VMLINUX, Export
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_package import UninstalledKernel
from tests.forge.ko import Export as Given
from tests.forge.ko import ko

SYMBOLS = ("alpha", "beta", "gamma")
RELEASES = (
    "6.1.0-%d-amd64",
    "5.14.0-%d.el9.x86_64",
    "6.6.%d",
)  # refuses a symbol without a version, takes it, may do either


def kernel(root, release, exports, *options):
    """A kernel that exports (CRC, GPL, namespace) by symbol."""
    found = UninstalledKernel(
        Host(str(root)),
        release,
        given=SourcedExports(
            {name: Export(crc, gpl, namespace, VMLINUX) for name, (crc, gpl, namespace) in exports.items()},
            "/symvers",
            (),
        ),
    )
    found.config = {"CONFIG_" + option: "y" for option in ("X86_64", "SMP", "MODULE_UNLOAD", *options)}
    return found


def drawn(chance, root, pattern):
    """Some kernels of one line, alike but for a few symbols."""
    layout, versions = chance.choice([1, 1, 1, 2]), chance.random() < 0.9
    found = []
    for number in range(4):
        exports = {
            "module_layout": (chance.choice([layout, layout, layout, 3]) if versions else None, False, "")
        }
        for name in SYMBOLS:
            if chance.random() < 0.85:
                exports[name] = (
                    chance.choice([1, 1, 1, 2]) if versions else None,
                    chance.random() < 0.2,
                    chance.choice(["", "", "", "SPACE"]),
                )
        options = (["MODVERSIONS"] if versions else []) + [
            name
            for name in ("PREEMPT_BUILD", "MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS")
            if chance.random() < 0.15
        ]
        found.append(kernel(root, pattern % (number + 10), exports, *options))
    return found


def driver(chance):
    """The modules of a source: (name, strong, weak, license, imported namespaces)."""
    found = []
    for name in ("one", "two")[: chance.choice([1, 1, 2])]:
        kinds = {symbol: chance.choice(["strong", "weak", ""]) for symbol in SYMBOLS}
        found.append(
            (
                name,
                [symbol for symbol in SYMBOLS if kinds[symbol] == "strong"],
                [symbol for symbol in SYMBOLS if kinds[symbol] == "weak"],
                chance.choice(["GPL", "GPL", "Proprietary"]),
                chance.choice([[], ["SPACE"]]),
            )
        )
    return found


def compiled(source, target):
    """What a compiler makes of it for a kernel: symbols that it does not export to the module have no
    version.
    """
    versions = " modversions" in target.vermagic
    for name, strong, weak, licence, imports in source:
        visible = [
            symbol
            for symbol in strong + weak
            if symbol in target.exports and not (target.exports[symbol].gpl and licence != "GPL")
        ]
        wanted = [("module_layout", target.exports["module_layout"].crc or 0)] + [
            (symbol, target.exports[symbol].crc or 0) for symbol in visible
        ]
        yield reader.parse(
            ko(
                name,
                wanted,
                release=target.release,
                flags=target.vermagic[len(target.release) :],
                versioned=versions,
                weak=weak,
                unlisted=[symbol for symbol in strong + weak if symbol not in visible],
                imports=imports,
                modinfo={"license": licence},
            ),
            "/%s.ko" % name,
        )


def loads(target, modules):
    verdicts = [found.verdict for found in judge(target, modules)]
    return False if INCOMPATIBLE in verdicts else True if set(verdicts) == {COMPATIBLE} else None


@pytest.mark.parametrize("pattern", RELEASES)
@pytest.mark.parametrize("seed", range(40))
def test_the_prediction_is_the_verdict(seed, pattern, tmp_path):
    chance = random.Random("%s %s" % (seed, pattern))
    kernels, source = drawn(chance, tmp_path, pattern), driver(chance)
    needs = predict.needs(list(compiled(source, kernels[0])))
    facts = [predict.facts(each, needs.symbols) for each in kernels]
    answers = []
    for here, built_for in zip(facts, kernels):
        build = list(compiled(source, built_for))
        for there, target in zip(facts, kernels):
            answer = predict.predicted(here, there, needs)
            answers.append(answer)
            if predict.predicted(here, here, needs):
                assert answer is loads(target, build), (here, there)
            else:
                assert answer is not True
            if predict.fingerprint(here, needs) == predict.fingerprint(there, needs):
                assert [predict.predicted(here, each, needs) for each in facts] == [
                    predict.predicted(there, each, needs) for each in facts
                ]
                assert [predict.predicted(each, here, needs) for each in facts] == [
                    predict.predicted(each, there, needs) for each in facts
                ]


def test_all_answers_are_met_with():
    """The draw above is no test if one of them never comes."""
    import tempfile

    met = set()
    with tempfile.TemporaryDirectory() as root:
        for pattern in RELEASES:
            for seed in range(40):
                chance = random.Random("%s %s" % (seed, pattern))
                kernels, source = drawn(chance, root, pattern), driver(chance)
                needs = predict.needs(list(compiled(source, kernels[0])))
                facts = [predict.facts(each, needs.symbols) for each in kernels]
                met.update(
                    (predict.predicted(here, here, needs), predict.predicted(here, there, needs))
                    for here in facts
                    for there in facts
                    if here != there
                )
    assert met >= {(True, True), (True, False), (True, None), (None, None), (None, False)}


def modules(*made):
    return [reader.parse(data, "/%d.ko" % number) for number, data in enumerate(made)]


def test_what_a_driver_gives_itself_it_does_not_need():
    found = predict.needs(
        modules(
            ko("two", [("module_layout", 1), ("shared", 2), ("beta", 3)], weak=["beta"]),
            ko("one", [("alpha", 1)], exports=[Given("shared", 2)]),
        )
    )
    assert [(each.name, each.strong, each.weak) for each in found.modules] == [
        ("one", ("alpha",), ()),
        ("two", (), ("beta",)),
    ]
    assert found.symbols == ["alpha", "beta", "module_layout"]


def test_the_dots_of_ppc64_are_not_part_of_a_name():
    (module,) = predict.needs(
        modules(ko("one", [(".alpha", 1)], machine="ppc64", unlisted=[".TOC."]))
    ).modules
    assert module.strong == ("alpha",)


def test_what_another_driver_gives_is_not_the_kernels(tmp_path):
    there = kernel(
        tmp_path, "6.1.0-9-amd64", {"alpha": (1, False, ""), "beta": (1, False, "")}, "MODVERSIONS"
    )
    there.given.exports["beta"] = there.given.exports["beta"]._replace(owner="other")
    there.added = {"other": "/lib/modules/6.1.0-9-amd64/extra/other.ko"}
    assert set(predict.facts(there, ["alpha", "beta"]).exports) == {"alpha"}


def test_what_is_not_known_of_a_kernel_is_not_predicted(tmp_path):
    needs = predict.needs(modules(ko("one", [("alpha", 1)])))
    known = predict.facts(
        kernel(
            tmp_path,
            "6.1.0-9-amd64",
            {"alpha": (1, False, ""), "module_layout": (1, False, "")},
            "MODVERSIONS",
        ),
        needs.symbols,
    )
    assert predict.predicted(known, known, needs) is True
    for unknown in known._replace(vermagic=None), known._replace(machine=None):
        assert [
            predict.predicted(known, unknown, needs),
            predict.predicted(unknown, known, needs),
            predict.predicted(unknown, unknown, needs),
        ] == [None] * 3
    assert predict.predicted(known, known._replace(machine="aarch64"), needs) is False


def test_facts_and_needs_survive_json(tmp_path):
    chance = random.Random(1)
    kernels, source = drawn(chance, tmp_path, RELEASES[0]), driver(chance)
    needs = predict.needs(list(compiled(source, kernels[0])))
    facts = predict.facts(kernels[0], needs.symbols)
    assert predict.Needs.from_dict(json.loads(json.dumps(needs.as_dict()))) == needs
    assert predict.KernelFacts.from_dict(json.loads(json.dumps(facts.as_dict()))) == facts


@pytest.mark.parametrize("made", [predict.Needs, predict.KernelFacts])
@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"machine": "x", "modules": [{}]},
        {"release": "x", "exports": {"a": 1}},
        {"exports": {}, "new": 1},
        {"release": "x", "exports": []},
    ],
)
def test_what_is_neither_is_an_error(made, data):
    with pytest.raises(KmodError) as caught:
        made.from_dict(data)
    assert caught.value.code == "PLAN_DATA"
