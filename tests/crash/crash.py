# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Has every operation meet every fault, and says what did not hold. See README.md."""
import argparse
import collections
import multiprocessing
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit/place/boot"), str(HERE.parent)]
import conftest  # noqa: E402,F401 - makes the collection importable

import bench  # noqa: E402
import faults  # noqa: E402
import scenes  # noqa: E402

CASES = {"fast": 3, "full": 40}  # of one operation and one kind of fault, times the kind's share


class Job(NamedTuple):
    operation: str
    kind: str
    cases: int
    at: Optional[Tuple[int, ...]] = None


class Result(NamedTuple):
    job: Job
    tried: int
    there_are: int
    wrong: List[Tuple[str, str]]  # (where, what)


_bench: Optional[bench.Bench] = None


def begin() -> None:
    global _bench
    bench.seclude()
    _bench = bench.Bench()


def carry_out(job: Job) -> Result:
    assert _bench
    kind = faults.KINDS[job.kind]
    try:
        scene = _bench.scene(job.operation)
        cases = [job.at] if job.at else kind.cases(_bench, scene)
        chosen = list(faults.spread(cases))[:job.cases]
        wrong = [(".".join(map(str, at)), each) for at in chosen for each in kind.attempt(_bench, scene, at)]
    except Exception:
        return Result(job, 0, 0, [("0", traceback.format_exc().strip().splitlines()[-1])])
    return Result(job, len(chosen), len(cases), wrong)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--fast", action="store_true", help="a few cases of each kind")
    arguments.add_argument("--only", action="append", metavar="OPERATION", help="this operation (or all whose names begin so and go on with a colon)")
    arguments.add_argument("--fault", action="append", metavar="KIND", help="this kind of fault")
    arguments.add_argument("--at", metavar="N[.M]", help="this one case")
    arguments.add_argument("--cases", type=int, metavar="N", help="so many cases of each operation and kind")
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
    todo = list(jobs(given))
    with multiprocessing.Pool(given.jobs, begin) as pool:
        results = []
        for result in pool.imap_unordered(carry_out, todo):
            results.append(result)
            for at, what in result.wrong[:3]:
                print("%s, %s at %s: %s" % (result.job.operation, result.job.kind, at, what), flush=True)
    return report(results, time.monotonic() - began)


def jobs(given: argparse.Namespace) -> List[Job]:
    cases = given.cases or CASES["fast" if given.fast else "full"]
    at = tuple(int(number) for number in given.at.split(".")) if given.at else None
    names = [name for name in scenes.by_name() if not given.only or name in given.only or name.split(":")[0] in given.only]
    kinds = [name for name in faults.KINDS if not given.fault or name in given.fault]
    return [Job(name, kind, max(1, int(cases * faults.KINDS[kind].share)), at) for name in names for kind in kinds]


def report(results: List[Result], seconds: float) -> int:
    """The table, what did not hold, and how each is repeated."""
    names = list(dict.fromkeys(result.job.operation for result in sorted(results, key=lambda each: list(scenes.by_name()).index(each.job.operation))))
    kinds = [kind for kind in faults.KINDS if any(result.job.kind == kind for result in results)]
    table = {(result.job.operation, result.job.kind): result for result in results}
    print("\nCases tried of each fault (rows) and of each operation (columns); !n: violations in n of them")
    for number, name in enumerate(names):
        print("  %2d %s" % (number + 1, name))
    print("%-20s" % "" + "".join("%7d" % (number + 1) for number in range(len(names))) + "    all")
    for kind in kinds:
        row = [table.get((name, kind)) for name in names]
        print("%-20s" % kind + "".join("%7s" % (cell(each) if each else "") for each in row) + "%7d" % sum(each.tried for each in row if each))
    found: Dict[str, List[str]] = collections.defaultdict(list)
    for result in results:
        for at, what in result.wrong:
            repeat = "tests/crash/run --only '%s' --fault %s --at %s" % (result.job.operation, result.job.kind, at)
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
    return re.sub(r"\d+", "N", " ".join(re.sub(r"([+~-]|)\S*/", r"\1", word) for word in what.split()[:6]))


def cell(result: Result) -> str:
    bad = len({at for at, _what in result.wrong})
    return "%d" % result.tried + ("!%d" % bad if bad else "")


if __name__ == "__main__":
    sys.exit(main())
