# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make bench: every figure in one run, written to docs/benchmarks.md with its plot, and docs/scale.md, which is
computed from them.

``python -m tests.bench [SECTION]...`` measures some of them and prints them: check, in-tree, exports,
weak-modules, task, hosts.
"""

from __future__ import annotations

import os
import sys
from typing import Callable

from tests import CHECKOUT
from tests.bench import bench_check, bench_exports, bench_hosts, bench_weak_modules, scale
from tests.bench.report import Section, machine, page, plot
from tests.lab import debian

COMMAND = "make bench"
SECTIONS: dict[str, Callable[[], list[Section]]] = {
    "weak-modules": lambda: [
        bench_weak_modules.beside("cloud-amd64", 0, 3),
        bench_weak_modules.beside(
            "cloud-amd64", bench_weak_modules.DRIVERS // 2, 1, (bench_weak_modules.DRIVERS,)
        ),
        bench_weak_modules.beside("amd64", 0, 1, (bench_weak_modules.DRIVERS,)),
    ],
    "check": lambda: [bench_check.check()],
    "in-tree": lambda: [bench_check.in_tree()],
    "exports": lambda: [bench_exports.exports(name) for name in bench_exports.KERNELS],
    "task": lambda: [bench_hosts.task()],
}


def main() -> None:
    reason = debian.available()
    if reason or os.geteuid() != 0:
        raise SystemExit("skipped: " + (reason or "only root keeps what it found"))
    on = machine()
    some = [name for name in sys.argv[1:] if name in SECTIONS]
    found: list[Section] = []
    for name in some or SECTIONS:
        if not some or name in some:
            print(name, "...", flush=True)
            found += SECTIONS[name]()
    if sys.argv[1:] and "hosts" not in sys.argv:
        print("\n".join(section.markdown() for section in found))
        return
    print("hosts ...", flush=True)
    fleet, slopes = bench_hosts.hosts()
    found.append(fleet)
    if sys.argv[1:]:
        print("\n".join(section.markdown() for section in found))
        return
    docs = CHECKOUT / "docs"
    (docs / "benchmarks.md").write_text(page(found, on, "benchmarks.svg", COMMAND))
    (docs / "benchmarks.svg").write_text(plot(found))
    (docs / "scale.md").write_text(scale.page(slopes, found, on))
    rows = [row for section in found for row in section.rows if row.reached is not None]
    for row in rows:
        print(
            "%-12s %s"
            % ("reached" if (row.reached or 0) >= 1 else "NOT REACHED", " | ".join(row.cells()[:4]))
        )


if __name__ == "__main__":
    main()
