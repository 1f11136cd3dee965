# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``kmodctl check`` costs beside one pass of depmod in the same run, 16 modules, as vendors ship them, against
real kernels with symvers; what memory it takes with and without symvers, of signed and unsigned modules; and
what it costs to judge all modules of a kernel beside reading and unpacking them.

Nothing of the command's own is kept between runs: it has no /var/cache to keep it in, but where that is said.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

from ansible_collections.outoftree.kmod.plugins.module_utils import compression
from ansible_collections.outoftree.kmod.plugins.module_utils.read import signature
from tests import CHECKOUT
from tests.bench.report import Row, Section, cost, medians
from tests.lab import debian

RUNS = 3
MODULES = 16
MEMORY = 80  # MiB
UNPACK = """
import lzma, sys
for path in sys.stdin.read().split():
    data = open(path, "rb").read()
    lzma.decompress(data) if path.endswith(".xz") else data
"""


def lay_out(root: str, kernels: List[debian.Image], symvers: bool = True) -> None:
    """The kernels below one root, with their symvers where Debian's headers have it."""
    for kernel in kernels:
        subprocess.run(["cp", "-a", "--reflink=auto", str(debian.tree(kernel)) + "/.", root], check=True)
        if symvers:
            directory = "%s/usr/src/linux-headers-%s" % (root, kernel.release)
            os.makedirs(directory)
            shutil.copy(str(debian.symvers(kernel)), directory)


def three(suite: str, flavour: str) -> List[debian.Image]:
    """The newest kernels of a suite's own series, without backports of another."""
    found = debian.kernels(suite, "amd64", flavour)
    series = ".".join(found[0].release.split(".")[:2]) + "."
    return [kernel for kernel in found if kernel.release.startswith(series)][-3:]


def taken(root: str, release: str) -> List[str]:
    """Copies of a kernel's own modules from all over it, without their signatures, as vendors ship theirs."""
    files = sorted(Path(root).rglob("%s/kernel/drivers/**/*.ko*" % release))
    found = []
    for path in files[:: len(files) // MODULES][:MODULES]:
        body, _signature = signature.split(compression.decompress(path.read_bytes(), str(path)))
        copy = Path(root, "srv", path.name.partition(".")[0] + ".ko")
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(body)
        found.append(str(copy))
    return found


def kmodctl(directory: str) -> List[str]:
    path = directory + "/kmodctl"
    if not os.path.exists(path):
        subprocess.run([sys.executable, str(CHECKOUT / "tools" / "build_kmodctl.py"), path], check=True)
    return [sys.executable, path]


def check(suite: str = "bookworm", flavour: str = "amd64") -> Section:
    kernels = three(suite, flavour)
    with tempfile.TemporaryDirectory(prefix="bench-check-") as root:
        lay_out(root, kernels)
        modules = taken(root, kernels[-1].release)
        command = [*kmodctl(root), "check", "--root", root]
        one = ["--kernel", kernels[-1].release]
        there = len(list(Path(root, "usr").rglob("*.ko*"))) // len(kernels)
        took = medians(
            RUNS,
            depmod=lambda: cost(["depmod", "-n", "-b", root, kernels[-1].release]),
            all=lambda: cost(command + modules, 1),
            single=lambda: cost(command + one + modules, 1),
            few=lambda: cost(command + modules[:1], 1),
            least=lambda: cost(command + one + modules[:1], 1),
        )
        signed = str(next(Path(root).rglob("kernel/net/**/*.ko*")))
        memory = [("symvers, 16 modules", took["single"].memory)]
        memory.append(("symvers, a signed module", cost(command + one + [signed], 1).memory))
    with tempfile.TemporaryDirectory(prefix="bench-check-") as root:
        lay_out(root, kernels[-1:], symvers=False)
        modules = taken(root, kernels[-1].release)
        command = [*kmodctl(root), "check", "--root", root]
        memory.append(("no symvers, 16 modules", cost(command + modules, 1).memory))
        signed = str(next(Path(root).rglob("kernel/net/**/*.ko*")))
        memory.append(("no symvers, a signed module", cost(command + [signed], 1).memory))
    text = "%s modules, taken out of a kernel, and %d kernels (%s) with %d in-tree modules each." % (
        len(modules),
        len(kernels),
        kernels[-1].release,
        there,
    )
    names = {
        "all": "check: %d modules, %d kernels" % (len(modules), len(kernels)),
        "single": "check: %d modules, 1 kernel" % len(modules),
        "few": "check: 1 module, %d kernels" % len(kernels),
        "least": "check: 1 module, 1 kernel",
    }
    rows = [
        Row(title, took[name].seconds, "s", "one depmod -n", took["depmod"].seconds)
        for name, title in names.items()
    ]
    rows += [Row("memory of check: " + what, found, "MiB", "goal", MEMORY, -1) for what, found in memory]
    return Section("Check, and its memory", text, rows)


def in_tree() -> Section:
    """All modules of the newest kernel with packed modules, judged for three kernels."""
    kernels = three("trixie", "amd64")
    if len(kernels) < 3:
        kernels = [
            each for each in debian.kernels("bookworm", "amd64", "amd64") if each.release.startswith("6.12.")
        ][-3:]
    with tempfile.TemporaryDirectory(prefix="bench-in-tree-") as root:
        lay_out(root, kernels)
        files = sorted(str(path) for path in Path(root).rglob("%s/kernel/**/*.ko*" % kernels[-1].release))
        listed = Path(root, "list")
        listed.write_text("\n".join(files))
        command = [*kmodctl(root), "check", "--each", "--json", "--root", root]
        script = 'exec "$@" < %s' % listed
        took = medians(
            1,
            judge=lambda: cost(
                ["sh", "-c", 'xargs "$@" < %s' % listed, "sh", "-n", "100000", "-s", "2000000", *command], 123
            ),
            unpack=lambda: cost(["sh", "-c", script, "sh", sys.executable, "-c", UNPACK]),
        )
    text = (
        "%d modules of %s as they are packed (xz), judged one by one for %d kernels; beside it a process that reads and unpacks them. What "
        "judging adds: each module's signature is verified (here by a P-384 key: half as long as unpacking it), its ELF "
        "tables and relocations are read and its digests made (nearly as long), and for each kernel its symbols and "
        "its aliases are held against the kernel's (a quarter to a third as long)."
        % (
            len(files),
            kernels[-1].release,
            len(kernels),
        )
    )
    row = Row(
        "in-tree judging: %d modules, %d kernels" % (len(files), len(kernels)),
        took["judge"].seconds,
        "s",
        "reading and unpacking",
        took["unpack"].seconds,
        -2,
    )
    return Section("In-tree judging", text, [row])


def main() -> None:
    reason = debian.available()
    if reason:
        raise SystemExit("skipped: " + reason)
    for section in (check(), in_tree()):
        print(section.markdown())


if __name__ == "__main__":
    main()
