# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is predicted of builds before they are made is the verdict on them afterwards, and the plan the
shortest by those verdicts.

Kernels are read by their headers alone, which is what the builds are made against.
"""

import contextlib
import functools
import itertools
import json
import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader, predict, rebuild_plan
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.selection import together
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import COMPATIBLE
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_package, ko
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_package import KernelSource
from tests.kernel.test_verdicts import releases
from tests.lab import debian, drivers

pytestmark = pytest.mark.skipif(debian.available() is not None, reason=str(debian.available()))
LARGE = (
    "apfs",
    "dahdi",
    "evdi",
    "lttng-modules",
)  # minutes for one kernel; all others are compiled in seconds
# how many kernels of each line; 99 for all that the mirror has
RELEASES = int(os.environ.get("OUTOFTREE_KMOD_RELEASES", "4"))


def buildable(line, count, flavour="amd64"):
    """The newest kernels of a line whose headers can be had, oldest first."""
    found = []
    for kernel in reversed(releases(line, flavour)):
        if len(found) < count:
            with contextlib.suppress(debian.LabError):  # an index may list what the mirror has dropped
                debian.headers(kernel)
                found.insert(0, kernel)
    return found


def built(name, kernels):
    """By release the modules of a driver, for the kernels that it compiles for."""
    found = {}
    for kernel in kernels:
        try:
            paths = drivers.edu(kernel) if name == "edu" else drivers.dkms(name, kernel)
        except debian.Missing:
            raise
        except debian.LabError as error:
            debian.say("%s for %s: %s" % (name, kernel.release, str(error)[-160:]))
            continue
        found[kernel.release] = [ko.parse(path.read_bytes(), str(path)) for path in paths]
    return found


def check(name, kernels, there):
    """(pairs that were predicted, those of them that are compatible, builds of the plan, kernels that it does not
    compile for) for a driver.
    """
    builds = built(name, kernels)
    if not builds:
        return 0, 0, 0, len(kernels)
    truth = {
        (here, target.release): together(loader.judge(target, modules))[0] == COMPATIBLE
        for here, modules in builds.items()
        for target in there
    }
    plans = []
    for modules in builds.values():  # whichever build the needs are taken from
        needs = predict.needs(modules)
        facts = {target.release: predict.facts(target, needs.symbols) for target in there}
        for here, target in truth:
            answer = predict.predicted(facts[here], facts[target], needs)
            assert answer is truth[here, target], (name, here, target)
        request = {
            "driver": name,
            "needs": needs.as_dict(),
            "kernels": [each.as_dict() for each in facts.values()],
            "buildable": list(builds),
        }
        plans.append(rebuild_plan.plan(json.loads(json.dumps(request))))
    assert all(plan == plans[0] for plan in plans)
    made = [build["release"] for build in plans[0]["builds"]]
    assert all(truth[build["release"], target] for build in plans[0]["builds"] for target in build["serves"])
    assert [
        target.release for target in there if not any(truth[here, target.release] for here in made)
    ] == plans[0]["impossible"]
    assert len(made) == shortest(builds, truth, [target.release for target in there])
    classes = {predict.fingerprint(facts[here], needs) for here in builds}
    # one build a class; fewer only where one does without a weak symbol that another one has
    assert len(made) <= len(classes) and (
        len(made) == len(classes) or any(each.weak for each in needs.modules)
    )
    return len(truth), sum(truth.values()), len(made), len(kernels) - len(builds)


def shortest(builds, truth, targets):
    every = {target for target in targets if any(truth[here, target] for here in builds)}
    for count in range(len(builds) + 1):
        for chosen in itertools.combinations(builds, count):
            if all(any(truth[here, target] for here in chosen) for target in every):
                return count
    raise AssertionError


@pytest.fixture(scope="module")
def opened():
    """opened(kernels): these as their headers show them, each read once for all drivers."""
    with contextlib.ExitStack() as stack:

        @functools.lru_cache(maxsize=None)
        def there(kernels):
            sources = [KernelSource(root=str(debian.headers(kernel))) for kernel in kernels]
            found = stack.enter_context(kernel_package.opened(Host("/"), sources))
            assert [each.release for each in found] == [kernel.release for kernel in kernels]
            return found

        yield there


@pytest.mark.parametrize(
    "name,count",
    [("edu", 3)]
    + [
        pytest.param(name, RELEASES, marks=pytest.mark.full)
        for name in sorted(drivers.NAMES, key=lambda name: (name in LARGE, name))
    ],
)
@pytest.mark.parametrize("line", ["6.1", pytest.param("6.12", marks=pytest.mark.full)])
def test_the_prediction_is_the_verdict_on_the_real_build(line, name, count, opened, capsys):
    # many drivers need what the kernels for clouds do without
    kernels = buildable(line, count, "cloud-amd64" if name == "edu" else "amd64")
    predicted, compatible, builds, failed = check(name, kernels, opened(tuple(kernels)))
    with capsys.disabled():
        print(
            "\n%s, %d kernels of %s: %d predicted, %d compatible, %d builds; compiles for %d"
            % (name, len(kernels), line, predicted, compatible, builds, len(kernels) - failed)
        )
    if not predicted:
        pytest.skip("%s does not compile for any of these kernels" % name)
