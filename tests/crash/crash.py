# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Has every operation meet every fault, and says what did not hold. See README.md."""

import argparse
import collections
import functools
import gc
import itertools
import multiprocessing
import os
import re
import sys
import time
import traceback
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from tests.crash import bench, disks, faults, scenes, together

# of one operation and one kind of fault, times the kind's share, and as many as the time allows
CASES = {"fast": 3, "full": 60}
MINUTES = {"fast": 2.5, "full": 27.0}
# these make their own roots; their "operations" are families and file systems
TOGETHER, HELD, DISK = "at-once", "lock-held", "disk-cut"


class Job(NamedTuple):
    operation: str
    kind: str
    cases: int
    at: Optional[Tuple[int, ...]] = None
    share: float = 1.0  # of the time, to that of others; 0: as long as it takes


class Result(NamedTuple):
    job: Job
    tried: int
    wrong: List[Tuple[str, str]]  # (where, what)
    skipped: str = ""


class Time:
    """What is left of it, and for how many shares."""

    def __init__(self, minutes: float, processes: int, jobs: List[Job]) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.processes = processes
        self.shares = multiprocessing.Value("d", sum(job.share for job in jobs))

    def allotted(self, job: Job) -> float:
        """Until when a job may go on."""
        with self.shares.get_lock():
            part = job.share / max(self.shares.value, job.share, 1e-9)
            self.shares.value -= job.share
        return (
            time.monotonic() + max(0.0, self.end - time.monotonic()) * self.processes * part
            if job.share
            else float("inf")
        )


_bench: Optional[bench.Bench] = None
_time: Optional[Time] = None


def begin(limit: Time) -> None:
    global _bench, _time
    bench.seclude()
    _bench, _time = bench.Bench(), limit
    gc.freeze()  # what each child would have to copy


def carry_out_all(jobs: List[Job]) -> List[Result]:
    return [carry_out(job) for job in jobs]


def carry_out(job: Job) -> Result:
    assert _bench and _time
    end = _time.allotted(job)
    tried = []
    try:
        if job.kind == DISK and disks.missing(job.operation):
            return Result(job, 0, [], disks.missing(job.operation) or "")
        for at, attempt in attempts(_bench, job):
            if not tried or time.monotonic() < end:
                tried.append((at, attempt()))
    except Exception:
        return Result(
            job,
            1,
            [("0", "the test itself: " + " / ".join(traceback.format_exc().strip().splitlines()[-3:]))],
        )
    return Result(job, len(tried), [(".".join(map(str, at)), each) for at, wrong in tried for each in wrong])


def attempts(mine: bench.Bench, job: Job) -> Iterator[Tuple[faults.At, Callable[[], List[str]]]]:
    """The cases of a job."""
    if job.kind == TOGETHER:
        for at in [job.at] if job.at else together.cases(job.cases):
            yield at, functools.partial(together.attempt, mine, job.operation, at)
    elif job.kind == HELD:
        yield (0,), functools.partial(together.held, mine)
    elif job.kind == DISK:
        for at in [job.at] if job.at else disks.cases(job.cases):
            yield at, functools.partial(disks.attempt, mine, job.operation, at)
    else:
        scene, kind = mine.scene(job.operation), faults.KINDS[job.kind]
        for at in [job.at] if job.at else list(faults.spread(kind.cases(mine, scene)))[: job.cases]:
            yield at, functools.partial(kind.attempt, mine, scene, at)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--fast", action="store_true", help="a few cases of each kind")
    arguments.add_argument(
        "--only",
        action="append",
        metavar="OPERATION",
        help="this operation (or all whose names begin so and go on with a colon)",
    )
    arguments.add_argument("--fault", action="append", metavar="KIND", help="this kind of fault")
    arguments.add_argument("--at", metavar="N[.M]", help="this one case")
    arguments.add_argument("--cases", type=int, metavar="N", help="so many cases of each operation and kind")
    arguments.add_argument("--minutes", type=float, metavar="N", help="how long it may take, about")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes")
    arguments.add_argument("--list", action="store_true", help="name the operations and the kinds")
    given = arguments.parse_args()
    if given.list:
        print("operations: %s\nfaults: %s" % (" ".join(scenes.by_name()), " ".join(faults.KINDS)))
        return 0
    reason = bench.missing()
    if reason:
        print("crash tests: skipped, %s" % reason)
        return 0
    began = time.monotonic()
    # whose trees are made once
    todo = [list(each) for _name, each in itertools.groupby(jobs(given), lambda job: job.operation)]
    limit = Time(
        given.minutes or MINUTES["fast" if given.fast else "full"],
        given.jobs,
        list(itertools.chain.from_iterable(todo)),
    )
    with multiprocessing.Pool(given.jobs, begin, (limit,)) as pool:
        results = []
        for result in itertools.chain.from_iterable(pool.imap_unordered(carry_out_all, todo)):
            results.append(result)
            for at, what in result.wrong[:3]:
                print("%s, %s at %s: %s" % (result.job.operation, result.job.kind, at, what), flush=True)
    return report(results, time.monotonic() - began)


def jobs(given: argparse.Namespace) -> List[Job]:
    """Those of an operation together, the longest first.

    The fast part has each operation meet a third of the kinds, another third each time; of those of several
    steps, which take longer, a ninth.
    """
    cases = given.cases or CASES["fast" if given.fast else "full"]
    at = tuple(int(number) for number in given.at.split(".")) if given.at else None
    found = [
        Job(family, TOGETHER, given.cases or (3 if given.fast else 110), at, 0)
        for family in together.FAMILIES
    ] + [Job("el9", HELD, 1, at)]
    found += [
        Job(name, DISK, given.cases or (3 if given.fast else 36), at, 3 if given.fast else 30)
        for name in disks.KINDS
    ]
    for number, (name, operation) in enumerate(scenes.by_name().items()):
        every = 1 if not given.fast or given.fault else 9 if operation.follows else 3
        for kind in list(faults.KINDS)[number % every :: every]:
            share = faults.KINDS[kind].share
            found.append(Job(name, kind, max(1, int(cases * share)), at, share))
    return [
        job
        for job in found
        if (not given.fault or job.kind in given.fault)
        and (not given.only or job.operation in given.only or job.operation.split(":")[0] in given.only)
    ]


def report(results: List[Result], seconds: float) -> int:
    """The table, what did not hold, and how each is repeated."""
    order = list(scenes.by_name()) + list(together.FAMILIES) + list(disks.KINDS)
    names = sorted({result.job.operation for result in results}, key=order.index)
    kinds = sorted(
        {result.job.kind for result in results}, key=(list(faults.KINDS) + [TOGETHER, HELD, DISK]).index
    )
    table = {(result.job.operation, result.job.kind): result for result in results}
    print(
        "\nCases tried of each operation (rows) and each kind of fault (columns); 7!2: with violations in 2 of 7"
    )
    for number, kind in enumerate(kinds):
        print("  %2d %s" % (number + 1, kind))
    print("%-28s" % "" + "".join("%6d" % (number + 1) for number in range(len(kinds))) + "    all")
    for name in names:
        row = [table.get((name, kind)) for kind in kinds]
        print(
            "%-28s" % name
            + "".join("%6s" % (cell(each) if each else "") for each in row)
            + "%7d" % sum(each.tried for each in row if each)
        )
    for result in results:
        if result.skipped:
            print("%s, %s: skipped, %s" % (result.job.operation, result.job.kind, result.skipped))
    found: Dict[str, List[str]] = collections.defaultdict(list)
    for result in results:
        for at, what in result.wrong:
            repeat = "tests/crash/run --only '%s' --fault %s --at %s" % (
                result.job.operation,
                result.job.kind,
                at,
            )
            found[kind_of(what)].append("%s\n      %s" % (what, repeat))
    if found:
        print("\nWhat did not hold, the most frequent first:")
    for times in sorted(found.values(), key=len, reverse=True):
        print("%5d  %s" % (len(times), times[0]))
    tried = sum(result.tried for result in results)
    failed = sum(len({at for at, _what in result.wrong}) for result in results)
    print("\n%d operations, %d kinds of faults, %d cases, %d s" % (len(names), len(kinds), tried, seconds))
    print("%d passed, %d failed" % (max(0, tried - failed), failed))
    return 1 if failed else 0


def kind_of(what: str) -> str:
    """The same for two violations that differ by where they are alone."""
    return re.sub(r"\d+", "N", " ".join(re.sub(r"([+~-]|)\S*/", r"\1", word) for word in what.split()[:13]))


def cell(result: Result) -> str:
    if result.skipped:
        return "skip"
    bad = len({at for at, _what in result.wrong})
    return "%d" % result.tried + ("!%d" % bad if bad else "")


if __name__ == "__main__":
    sys.exit(main())
