# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``kmodctl weak-modules`` costs, beside the script where OUTOFTREE_KMOD_WEAK_MODULES names a copy: user
and system seconds.

16 real drivers (a kernel's own, moved to extra/) and six kernels: copies of one, so that all take them.
Initramfs images are left out. Goal: 20 times as fast with --add-kernel, and with --add-modules on all six.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

from tests import CHECKOUT
from tests.bench.bench_exports import cost
from tests.lab import debian

SCRIPT = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES")
KERNELS, DRIVERS, RUNS = 6, 16, 3


def independent(top: Path) -> List[Path]:
    """Network drivers that need no other module and that none needs."""
    rows = [line.partition(":") for line in (top / "modules.dep").read_text().splitlines()]
    needed = {path for _path, _colon, needs in rows for path in needs.split()}
    found = [
        path
        for path, _colon, needs in rows
        if path.startswith("kernel/drivers/") and not needs.split() and path not in needed
    ]
    return [top / path for path in sorted(found)[:DRIVERS]]


def lay_out(root: Path, kernel: debian.Image) -> List[str]:
    """The kernels and drivers below ``root``; answers with the drivers' paths and leaves the releases in
    lib/modules.
    """
    tree = debian.tree(kernel)
    source = next(
        path
        for path in (tree / "usr/lib/modules" / kernel.release, tree / "lib/modules" / kernel.release)
        if path.is_dir()
    )
    (root / "etc/depmod.d").mkdir(parents=True)
    (root / "etc/depmod.d/dist.conf").write_text("search updates extra built-in weak-updates\n")
    (root / "boot").mkdir()
    table = gzip.compress(debian.symvers(kernel).read_bytes())
    paths: List[str] = []
    for number in range(1, KERNELS + 1):
        release = kernel.release.replace("-cloud", ".%d-cloud" % number)
        top = root / "lib/modules" / release
        shutil.copytree(str(source), str(top), symlinks=True)
        for name in ("build", "source"):
            if (top / name).is_symlink():
                (top / name).unlink()
        subprocess.run(["depmod", "-b", str(root), release], check=True)
        for path in independent(top):
            if number == KERNELS - 1:
                target = top / "extra" / path.name.partition(".")[0] / path.name
                target.parent.mkdir(parents=True)
                path.rename(target)
                paths.append(str(target))
            else:
                path.unlink()
        subprocess.run(["depmod", "-b", str(root), release], check=True)
        (root / "boot" / ("System.map-" + release)).write_text("")
        (root / "boot" / ("symvers-%s.gz" % release)).write_bytes(table)
    return paths


def cleared(root: Path) -> None:
    for path in root.glob("lib/modules/*/weak-updates"):
        shutil.rmtree(str(path))
    shutil.rmtree(str(root / "var/cache"), ignore_errors=True)
    (root / "var/cache").mkdir(parents=True)
    for path in (root / "lib/modules").iterdir():
        subprocess.run(["depmod", "-b", str(root), path.name], check=True)


def bench(kernel: debian.Image) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-weak-modules-") as directory:
        root = Path(directory, "root")
        lines = Path(directory, "lines")
        lines.write_text("".join(path + "\n" for path in lay_out(root, kernel)))
        kmodctl = directory + "/kmodctl"
        subprocess.run([sys.executable, str(CHECKOUT / "tools" / "build_kmodctl.py"), kmodctl], check=True)
        newest = max(path.name for path in (root / "lib/modules").iterdir())
        print("%s, %d kernels, %d drivers" % (kernel.release, KERNELS, DRIVERS))
        for call in (["--add-kernel", newest], ["--add-modules"]):
            words = [*call, "--no-initramfs", "--basedir", str(root)]
            ours = [
                "sh",
                "-c",
                'lines=$1; shift; exec "$@" < "$lines"',
                "sh",
                str(lines),
                sys.executable,
                kmodctl,
                "weak-modules",
                *words,
            ]
            first, again = [], []
            for _unused in range(RUNS):
                cleared(root)
                first.append(cost(ours)[0])
                again.append(cost(ours)[0])
            made = len([path for path in root.rglob("*.ko*") if "/weak-updates/" in str(path)])
            print(
                "  %-14s %2d links   here %7.2f s   again %5.2f s" % (call[0], made, min(first), min(again)),
                end="",
            )
            if SCRIPT:
                cleared(root)
                theirs = cost([*ours[:5], "bash", SCRIPT, *words, "--dracut", "/bin/true"])[0]
                linked = len([path for path in root.rglob("*.ko*") if "/weak-updates/" in str(path)])
                print(
                    "   script %7.2f s, %2d links: %.1f times as long"
                    % (theirs, linked, theirs / min(first)),
                    end="",
                )
            print()


def main() -> None:
    reason = debian.available()
    if reason:
        raise SystemExit("skipped: " + reason)
    bench(debian.kernels("bookworm", "amd64", "cloud-amd64")[-1])


if __name__ == "__main__":
    main()
