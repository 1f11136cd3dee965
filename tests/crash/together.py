# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two or three runs at once on one root, in any order, some of them killed, with tools that go on when their
run is gone.
"""

import os
import pickle
import random
import re
import time
from typing import Any, Dict, List, NamedTuple, Tuple

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from tests.crash import judge, scenes, shim
from tests.crash.bench import Bench
from tests.crash.judge import Scene
from tests.crash.scenes import ENTRY, LINK, NEWER, NO_ENTRY, NO_VARIANT, REMOVAL, SAME_PATH, UNLINK, VARIANT
from tests.forge.machines import NEW

FAMILIES = ("debian", "el9", "systemd-boot", "el6", "extlinux")
COMMANDS = (
    LINK,
    NEWER,
    SAME_PATH,
    LINK + " --heal",
    UNLINK,
    VARIANT,
    VARIANT + " --early-load",
    NO_VARIANT,
    ENTRY,
    ENTRY + " --boot default",
    ENTRY + " --boot shipped",
    NO_ENTRY,
    "refresh",
    "add-kernel --early " + NEW,
)
WHOLE = (LINK, VARIANT, ENTRY + " --boot default")
PATIENCE = 3  # seconds that a run waits for another one here


class Contender(NamedTuple):
    command: str
    delay: float  # seconds, until it begins
    faults: Tuple[shim.Fault, ...]
    tool: str = ""  # what its tools do instead (see faketools.py)


def cases(count: int) -> List[Tuple[int, ...]]:
    return [(seed,) for seed in range(1, count + 1)]


_scenes: Dict[str, Scene] = {}


def scene(bench: Bench, family: str) -> Scene:
    """The states that may be: of each of the driver's builds deployed wholly."""
    if family not in _scenes:
        shipped = scenes.prepared(scenes.Operation("together:" + family, family, (), ""), bench.src)
        bench.put(shipped)
        menus = {"shipped": judge.boots(bench.root)}
        known = []
        for link in (LINK, SAME_PATH, NEWER):
            for variant in (VARIANT, VARIANT + " --early-load"):
                for command in (link, variant, WHOLE[2]):
                    bench.run(command)
                    known.append(bench.state())
        menus["whole"] = judge.boots(bench.root)
        operation = scenes.Operation("together:" + family, family, (), LINK)
        _scenes[family] = Scene(operation, shipped, shipped, shipped, shipped, 0, menus, tuple(known))
    return _scenes[family]


def attempt(bench: Bench, family: str, at: Tuple[int, ...]) -> List[str]:
    known = scene(bench, family)
    chance = random.Random("%s %d" % (family, at[0]))
    bench.put(known.shipped)
    for command in WHOLE[: chance.randrange(4)]:
        bench.run(command)
    contenders = [_contender(chance) for _number in range(chance.choice([2, 2, 3]))]
    told = " | ".join(each.command for each in contenders)
    wrong = []
    for contender, ended in zip(contenders, _together(bench, contenders)):
        lines = ended.err.splitlines()
        if ended.late:
            wrong.append("a run did not end")
        elif ended.status is None and not contender.faults:
            wrong.append("a run died of a signal")
        elif (
            ended.status not in (0, None)
            and (len(lines) != 1 or "Traceback" in ended.err)
            and not (ended.status == 1 and not lines)
        ):
            wrong.append(
                "%s: %d lines instead of one: %s" % (contender.command, len(lines), ended.err[-200:])
            )
        elif "another run is at work" in ended.err and not re.search(r"process \d+", ended.err):
            wrong.append("it does not say who holds the lock: %s" % ended.err.strip())
    state = bench.state()
    wrong += judge.judge(known, state, bench.root)
    wrong += _converges(bench, known)
    return ["%s (%s)" % (each, told) for each in wrong]


def _contender(chance: random.Random) -> Contender:
    faults = []
    if chance.random() < 0.5:
        what = chance.choice([shim.KILL_BEFORE, shim.KILL_RUN, shim.KILL_RUN])
        faults.append(shim.Fault(int(chance.choice([200, 2000]) * chance.random()) + 1, what))
    return Contender(
        chance.choice(COMMANDS), chance.random() * 0.15, tuple(faults), chance.choice(["", "slow"])
    )


def _together(bench: Bench, contenders: List[Contender]) -> List[shim.Ended]:
    """Each in a process that traces it."""
    pipes = []
    for contender in contenders:
        ours, theirs = os.pipe()
        if os.fork() == 0:
            try:
                time.sleep(contender.delay)
                ended = bench.run(
                    contender.command, contender.faults, _preparation(bench, contender), limit=30
                )
                os.write(theirs, pickle.dumps(ended))
            finally:
                os._exit(0)
        os.close(theirs)
        pipes.append(ours)
    found = []
    for pipe in pipes:
        with open(pipe, "rb") as answer:
            found.append(pickle.loads(answer.read()))
    for _each in pipes:
        os.wait()
    return found


def _preparation(bench: Bench, contender: Contender) -> Any:
    def prepare() -> None:
        lock.WAIT = PATIENCE
        if contender.tool:
            bench.with_tool(contender.tool, 0)()

    return prepare


def _converges(bench: Bench, known: Scene) -> List[str]:
    """What is deployed wholly after whatever was gives a machine that is right, that a second run finds so,
    and that goes back to what was.
    """
    wrong = []
    for command in WHOLE:
        ended = bench.run(command)
        if ended.status:
            return ["the rerun fails: %s: %s" % (command, ended.err.strip()[-300:])]
    state = bench.state()
    wrong += ["after reruns: " + each for each in judge.judge(known, state, bench.root)]
    for command in WHOLE:
        bench.run(command)
    if bench.state().nodes != state.nodes:
        wrong.append("a second rerun changes something")
    for command in REMOVAL:
        ended = bench.run(command)
        if ended.status:
            return wrong + ["removal fails: %s" % ended.err.strip()[-300:]]
    return wrong + bench.unlike("removal", known.shipped)


def held(bench: Bench) -> List[str]:
    """A run that waits for another one says in the end who that is, and since when."""
    known = scene(bench, "el9")
    bench.put(known.shipped)
    _holder, ended = _together(bench, [Contender(LINK, 0, (), "waits"), Contender(LINK, 1, ())])
    wrong = []
    if (
        ended.status != 2
        or len(ended.err.splitlines()) != 1
        or not re.search(r"process \d+ \(kmodctl link .*since", ended.err)
    ):
        wrong.append(
            "it does not say who holds the lock: status %s, %s"
            % (ended.status, ended.err.strip() or "no word")
        )
    return wrong + _converges(bench, known)
