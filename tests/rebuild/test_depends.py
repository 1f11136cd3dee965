# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A driver that uses another one's symbols, by the role rebuild on directory hosts: both are planned as one, built
against each other's builds for the same kernels, and loaded together.
"""

import re
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader, predict
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko
from tests.kernel import verdicts
from tests.rebuild.test_rebuild import EDU, fleet, kernels, pytestmark  # noqa: F401


def split(directory):
    """The two modules of the teaching driver, each a driver of its own."""
    for name in ("ootedu", "ootedu_user"):
        (directory / name).mkdir()
        shutil.copy(str(EDU / (name + ".c")), str(directory / name))
        (directory / name / "Kbuild").write_text("obj-m := %s.o\n" % name)
    return {
        # their names are not in the order that they are built in
        "a-user": {"source": str(directory / "ootedu_user"), "version": "1.0", "depends": ["giver"]},
        "giver": {"source": str(directory / "ootedu"), "version": "1.0"},
    }


@pytest.mark.full
def test_drivers_that_use_each_other_are_planned_as_one_class(fleet):  # noqa: F811
    sources = split(fleet.directory)
    status, said = fleet.play(kmod_sources=sources)
    assert status == 0, said[-4000:]
    store = str(fleet.directory / "builds")
    made = {name: build_store.entries(store, name) for name in sources}
    releases = {name: [each.release for each in found] for name, found in made.items()}
    both = [ko.read(Host("/"), each[0].modules[0]) for each in made.values()]
    needs = predict.needs(both)
    classes = {}
    for kernel in fleet.kernels:
        facts = predict.facts(verdicts.core(kernel), needs.symbols)
        classes.setdefault(predict.fingerprint(facts, needs), []).append(kernel.release)
    assert releases == {name: [each[0] for each in classes.values()] for name in sources}
    assert len(classes) < len(fleet.kernels)
    told = re.findall(r"build \d of \d: (\S+) 1.0 for (\S+?)(?:,| TASK| build|:)", said)
    for release in releases["giver"]:
        assert told.index(("giver", release)) < told.index(("a-user", release)), told
    for user in made["a-user"]:
        giver = next(each for each in made["giver"] if each.release == user.release)
        assert user.about["needed"] == {"giver": giver.input}
        modules = [ko.read(Host("/"), each.modules[0]) for each in (user, giver)]
        kernel = next(each for each in fleet.kernels if each.release == user.release)
        assert all(each.verdict == "compatible" for each in loader.judge(verdicts.core(kernel), modules))
    for root in fleet.roots.values():
        for kernel in (root / "usr/lib/modules").iterdir():
            lines = (kernel / "modules.dep").read_text().splitlines()
            line = next(each for each in lines if "/ootedu_user.ko:" in each)
            assert "/ootedu.ko" in line.partition(":")[2]
    status, said = fleet.play(kmod_sources=sources)
    assert status == 0 and not re.search(r"changed=[1-9]", said), said[-3000:]
