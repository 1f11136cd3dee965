# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The faults: one line each.

A case of one is a number, or two of them with a dot between: the calls, or the tool's runs, that it happens
at.
"""

import errno
import re
import signal
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from tests.crash import faketools, power, shim
from tests.crash.bench import Bench
from tests.crash.judge import Scene
from tests.crash.shim import CHANGE, READ, START, Call
from tests.crash.tree import anonymous

At = Tuple[int, ...]


class Kind(NamedTuple):
    """A kind of fault: which cases it has, and what is wrong after one of them."""

    cases: Callable[[Bench, Scene], List[At]]
    attempt: Callable[[Bench, Scene, At], List[str]]
    share: float = 1.0  # of the number of cases that is asked for


def spread(cases: Sequence[At]) -> Iterator[At]:
    """All of them, in an order of which every beginning is spread evenly over the whole."""
    size = 1
    while size < len(cases):
        size *= 2
    for number in range(size):
        at = int(format(number, "b").zfill(max(1, size.bit_length() - 1))[::-1], 2)
        if at < len(cases):
            yield cases[at]


def _calls(kinds: int, tools_only: bool = False) -> Callable[[Bench, Scene], List[At]]:
    """Calls of the undisturbed run; of those that read the same, or write the like to scratch files, the
    first alone.
    """

    def cases(bench: Bench, scene: Scene) -> List[At]:
        found: Dict[Tuple[object, ...], Call] = {}
        for call in bench.calls[scene.operation.name]:
            # written a moment ago: in memory
            cached = call.tool and call.name == "read" and not call.path.startswith(bench.root)
            if call.kind & kinds and (call.tool or not tools_only) and not cached:
                inside = call.path.startswith(bench.root) and call.kind == CHANGE
                like = (
                    (call.number,)
                    if inside or call.kind == START
                    else (call.name, call.tool, re.sub(r"\d+", "0", anonymous(call.path)))
                )
                found.setdefault(like, call)
        return [(call.number,) for call in found.values()]

    return cases


def _shim(
    what: int, error: int = 0, killed: bool = False, lasting: bool = False, **options: int
) -> Callable[[Bench, Scene, At], List[str]]:
    def attempt(bench: Bench, scene: Scene, at: At) -> List[str]:
        return bench.attempt(scene, [shim.Fault(at[0], what, error)], killed, lasting, **options)

    return attempt


def _error(number: int, kinds: int = CHANGE | READ, share: float = 1.0) -> Kind:
    return Kind(_calls(kinds), _shim(shim.FAIL, number), share)


def _lasting(number: int) -> Kind:
    """A file system that is full, broken or read-only from some call on: nothing can be put back either."""
    return Kind(_calls(CHANGE), _shim(shim.FAIL_FROM, number, lasting=True))


def _second(bench: Bench, scene: Scene) -> List[At]:
    """A call that fails, and one of those by which what was done is taken back."""
    found: List[At] = []
    name = scene.operation.name
    changes = [
        call.number for call in bench.calls[name] if call.kind == CHANGE and call.path.startswith(bench.root)
    ]
    for first in list(spread([(number,) for number in changes]))[:12]:
        bench.put(scene.before)
        bench.run(scene.operation.command, [shim.Fault(first[0], shim.FAIL, errno.EIO)], log=bench.log)
        found += [
            first + (call.number,)
            for call in shim.read_log(bench.log)
            if call.kind == CHANGE and call.number > first[0]
        ]
    return found


def _twice(bench: Bench, scene: Scene, at: At) -> List[str]:
    return bench.attempt(scene, [shim.Fault(each, shim.FAIL, errno.EIO) for each in at], False, True)


def _killed_in_undo(bench: Bench, scene: Scene, at: At) -> List[str]:
    return bench.attempt(
        scene, [shim.Fault(at[0], shim.FAIL, errno.EIO), shim.Fault(at[1], shim.KILL_BEFORE)], True, True
    )


def _tool_runs(bench: Bench, scene: Scene) -> List[At]:
    runs = sum(
        1
        for call in bench.calls[scene.operation.name]
        if call.name == "execve" and call.path.endswith(faketools.WRAPPED)
    )
    return [(number,) for number in range(min(runs, 3) + 1)] if runs else []


def _tool(mode: str) -> Kind:
    def attempt(bench: Bench, scene: Scene, at: At) -> List[str]:
        return bench.attempt(scene, [], False, at[0] == 0, bench.with_tool(mode, at[0]), limit=120)

    return Kind(_tool_runs, attempt)


KINDS: Dict[str, Kind] = {
    "kill-before": Kind(_calls(CHANGE | START), _shim(shim.KILL_BEFORE, killed=True), 4),
    "kill-after": Kind(_calls(CHANGE), _shim(shim.KILL_AFTER, killed=True)),
    "kill-run": Kind(_calls(CHANGE | START, tools_only=True), _shim(shim.KILL_RUN, killed=True)),
    "interrupt": Kind(_calls(CHANGE | READ | START), _shim(shim.SIGNAL, signal.SIGINT)),
    "ENOSPC": _error(errno.ENOSPC, CHANGE, 2),
    "EIO": _error(errno.EIO, share=3),
    "EROFS": _error(errno.EROFS, CHANGE),
    "EACCES": _error(errno.EACCES),
    "EMFILE": _error(errno.EMFILE, CHANGE | READ | START),
    "ENOMEM": _error(errno.ENOMEM, START),
    "ENOSPC-lasting": _lasting(errno.ENOSPC),
    "EIO-lasting": _lasting(errno.EIO),
    "EROFS-lasting": _lasting(errno.EROFS),
    "EIO-twice": Kind(_second, _twice),
    "EIO-then-kill": Kind(_second, _killed_in_undo),
    "power-cut": Kind(power.cases, power.attempt, 4),
    # those are for runs at once
    **{"tool-" + mode: _tool(mode) for mode in faketools.MODES if mode not in ("slow", "waits")},
}
