# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it costs to know a kernel's exports, beside one pass of depmod over the same modules in the same run.

Run as root (the cache is root's): ``bench_exports.py [SUITE/ARCH/FLAVOUR]...``. Each figure is the best of
several processes of their own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from typing import List, Tuple

from tests.lab import debian

KERNELS = ["bookworm/amd64/cloud-amd64", "bookworm/amd64/amd64", "trixie/amd64/amd64"]
READ = """
import sys
import tests
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
host = Host(sys.argv[1])
host.keeps_cache = True
kernel = kernels.kernel(host, sys.argv[2])
print(len(kernel.exports), *kernel.export_notes)
"""
RUNS = 3


# The peak of a child counts what its parent had before exec, so a small process of its own starts and
# measures it.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(status != 0)
"""


def cost(argv: List[str]) -> Tuple[float, float]:
    """User and system seconds, and MiB of memory at the peak."""
    seconds, memory = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE] + argv, check=True, stdout=subprocess.PIPE
    ).stdout.split()
    return float(seconds), float(memory)


def best(argv: List[str], root: str, cold: bool) -> Tuple[float, float]:
    found = []
    for _unused in range(RUNS):
        if cold:
            shutil.rmtree(root + "/var/cache/outoftree.kmod", ignore_errors=True)
        found.append(cost(argv))
    return min(found)


def bench(kernel: debian.Image) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-exports-") as root:
        subprocess.run(["cp", "-a", "--reflink=auto", str(debian.tree(kernel)) + "/.", root], check=True)
        os.makedirs(root + "/var/cache", exist_ok=True)
        read = [sys.executable, "-c", READ, root, kernel.release]
        depmod = best(["depmod", "-n", "-b", root, kernel.release], root, False)
        rows = [
            ("one pass of depmod -n", depmod),
            ("no symvers, cold", best(read, root, True)),
            ("no symvers, cached", best(read, root, False)),
        ]
        symvers = "%s/boot/symvers-%s" % (root, kernel.release)
        shutil.copy(str(debian.symvers(kernel)), symvers)
        rows.append(("symvers, cross-checked", best(read, root, False)))
        print(kernel.release)
        for name, (seconds, memory) in rows:
            print("  %-24s %6.2f s  %4d MiB   %.2f of depmod" % (name, seconds, memory, seconds / depmod[0]))


def main() -> None:
    reason = debian.available()
    if reason or os.geteuid() != 0:
        raise SystemExit("skipped: " + (reason or "the cache is root's alone"))
    for name in sys.argv[1:] or KERNELS:
        bench(debian.kernels(*name.split("/"))[-1])


if __name__ == "__main__":
    main()
