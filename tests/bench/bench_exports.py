# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it costs to know a kernel's exports without a symvers, beside unpacking the image and the modules that
export something, which has to be done for it, and beside one pass of depmod over the modules.

Run as root: the cache is root's.
"""

import os
import shutil
import subprocess
import sys
import tempfile

from tests.bench.report import Cost, Row, Section, cost, medians
from tests.lab import debian

KERNELS = ("bookworm/amd64/cloud-amd64", "bookworm/amd64/amd64")
RUNS = 3
READ = """
import sys, time
import tests
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
host = Host(sys.argv[1])
host.keeps_cache = True
kernel = kernels.kernel(host, sys.argv[2])
begun = time.process_time()
assert kernel.exports
open(sys.argv[3], "w").write(str(time.process_time() - begun))
"""
# The same files through the same decoders, and nothing done with what comes out.
UNPACK = """
import lzma, re, subprocess, sys, time
import tests
from pathlib import Path
from ansible_collections.outoftree.kmod.plugins.module_utils import compression
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_image
root, release, told = sys.argv[1:]
tree = Path(root, "usr/lib/modules", release)
tree = tree if tree.is_dir() else Path(root, "lib/modules", release)
naming = {line.split()[2] for line in (tree / "modules.symbols").read_text().splitlines() if line.startswith("alias")}
paths = [path for path in tree.rglob("*.ko*") if path.name.partition(".")[0].replace("-", "_") in naming]
image = next(Path(root, "boot").glob("vmlinuz-" + release))
begun = time.process_time()
kernel_image.unpack(image.read_bytes(), str(image))
for path in paths:
    compression.decompress(path.read_bytes(), str(path))
open(told, "w").write(str(time.process_time() - begun))
"""


def exports(which: str) -> Section:
    kernel = debian.kernels(*which.split("/"))[-1]
    with tempfile.TemporaryDirectory(prefix="bench-exports-") as root:
        subprocess.run(["cp", "-a", "--reflink=auto", str(debian.tree(kernel)) + "/.", root], check=True)
        os.makedirs(root + "/var/cache", exist_ok=True)

        def inside(script: str, cold: bool) -> Cost:
            """The seconds of the work itself, without the start of Python."""
            if cold:
                shutil.rmtree(root + "/var/cache/outoftree.kmod", ignore_errors=True)
            found = cost([sys.executable, "-c", script, root, kernel.release, root + "/told"])
            return Cost(float(open(root + "/told").read()), found.memory)

        took = medians(
            RUNS,
            depmod=lambda: cost(["depmod", "-n", "-b", root, kernel.release]),
            unpack=lambda: inside(UNPACK, False),
            cold=lambda: inside(READ, True),
            cached=lambda: inside(READ, False),
        )
    rows = [
        Row(
            "exports without symvers, cold",
            took["cold"].seconds,
            "s",
            "decompressor",
            took["unpack"].seconds,
            -1.5,
        ),
        Row(
            "exports without symvers, cold, beside depmod",
            took["cold"].seconds,
            "s",
            "one depmod -n",
            took["depmod"].seconds,
        ),
        Row("exports without symvers, cached", took["cached"].seconds * 1000, "ms", "goal", 30, -1),
        Row("memory of exports without symvers", took["cold"].memory, "MiB", "goal", 80, -1),
    ]
    return Section("Exports without symvers: " + kernel.release, "", rows)


def main() -> None:
    reason = debian.available()
    if reason or os.geteuid() != 0:
        raise SystemExit("skipped: " + (reason or "the cache is root's alone"))
    for name in sys.argv[1:] or KERNELS:
        print(exports(name).markdown())


if __name__ == "__main__":
    main()
