# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``kmodctl check`` costs beside one pass of depmod in the same run: 16 real out-of-tree modules against
real kernels with symvers.

Nothing of the command's own is kept between runs. Each figure is the best of several processes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, Tuple

from tests import CHECKOUT
from tests.bench.bench_exports import cost
from tests.lab import debian, drivers

RUNS = 5
MODULES = 16


def lay_out(root: str, kernels: List[debian.Image]) -> None:
    """The kernels below one root, with their symvers where Debian's headers have it."""
    for kernel in kernels:
        subprocess.run(["cp", "-a", "--reflink=auto", str(debian.tree(kernel)) + "/.", root], check=True)
        directory = "%s/usr/src/linux-headers-%s" % (root, kernel.release)
        os.makedirs(directory)
        shutil.copy(str(debian.symvers(kernel)), directory)


def best(argv: List[str]) -> Tuple[float, float]:
    accept = ["sh", "-c", '"$@"; test $? -le 1', "sh"]  # 1 is an answer, too: some are not compatible
    return min(cost(accept + argv) for _unused in range(RUNS))


def bench(suite: str, flavour: str) -> None:
    kernels = debian.kernels(suite, "amd64", flavour)
    series = ".".join(kernels[0].release.split(".")[:2]) + "."  # without backports
    kernels = [kernel for kernel in kernels if kernel.release.startswith(series)][-3:]
    modules = [str(path) for built in drivers.all_dkms(kernels[-1]).values() for path in built[:2]][:MODULES]
    with tempfile.TemporaryDirectory(prefix="bench-check-") as root:
        lay_out(root, kernels)
        kmodctl = root + "/kmodctl"
        subprocess.run([sys.executable, str(CHECKOUT / "tools" / "build_kmodctl.py"), kmodctl], check=True)
        check = [sys.executable, kmodctl, "check", "--root", root]
        depmod = best(["depmod", "-n", "-b", root, kernels[-1].release])
        one = ["--kernel", kernels[-1].release]
        rows = [
            ("one pass of depmod -n, one kernel", depmod),
            ("%d modules, %d kernels" % (len(modules), len(kernels)), best(check + modules)),
            ("%d modules, 1 kernel" % len(modules), best(check + one + modules)),
            ("1 module, %d kernels" % len(kernels), best(check + modules[:1])),
            ("1 module, 1 kernel", best(check + one + modules[:1])),
        ]
        there = len(list(Path(root, "usr").rglob("*.ko*"))) // len(kernels)
        print("%s, %d in-tree modules each" % (" ".join(kernel.release for kernel in kernels), there))
        for name, (seconds, memory) in rows:
            print("  %-34s %6.3f s  %4d MiB   %.2f of depmod" % (name, seconds, memory, seconds / depmod[0]))
        every, single, few = (rows[place][1][0] for place in (1, 2, 3))
        print("  %-34s %6.3f s" % ("each kernel more", (every - single) / (len(kernels) - 1)))
        print(
            "  %-34s %6.3f s"
            % ("each module more, %d kernels" % len(kernels), (every - few) / (len(modules) - 1))
        )


def main() -> None:
    reason = debian.available()
    if reason:
        raise SystemExit("skipped: " + reason)
    for name in sys.argv[1:] or ["bookworm/amd64", "trixie/amd64"]:
        bench(*name.split("/"))


if __name__ == "__main__":
    main()
