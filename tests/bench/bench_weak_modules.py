# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``kmodctl weak-modules`` costs, beside the script where OUTOFTREE_KMOD_WEAK_MODULES names a copy, and
beside one pass of depmod over one of the kernels.

16 drivers (a kernel's own modules, moved to extra/), of one module each or half of them of two that need each
other, and six kernels that take them all. Both begin with the same tree and come to the same, which is looked
at after each run: the same links, and the same in modules.dep. They take turns. Initramfs images are left out.

Goal: 20 times as fast with --add-kernel, and with --add-modules on all six.
"""

import gzip
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from tests import CHECKOUT
from tests.bench.report import Cost, Row, Section, cost, machine, medians
from tests.lab import debian

SCRIPT = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES")
KERNELS, DRIVERS, RUNS = 6, 16, 3
FLAVOURS = ("cloud-amd64",)


class Bench:
    """Six kernels below one root, and the drivers in the tree of the last but one."""

    def __init__(self, directory: str, kernel: debian.Image, pairs: int) -> None:
        self.root = Path(directory, "root")
        self.saved = Path(directory, "saved")
        self.list = Path(directory, "list")
        self.kmodctl = directory + "/kmodctl"
        subprocess.run(
            [sys.executable, str(CHECKOUT / "tools" / "build_kmodctl.py"), self.kmodctl], check=True
        )
        self.releases = [_release(kernel.release, number) for number in range(1, KERNELS + 1)]
        self.lay_out(kernel, pairs)

    def lay_out(self, kernel: debian.Image, pairs: int) -> None:
        tree = debian.tree(kernel) / "usr/lib/modules" / kernel.release
        if not tree.is_dir():
            tree = debian.tree(kernel) / "lib/modules" / kernel.release
        rows = [line.split("\t") for line in debian.symvers(kernel).read_text().splitlines()]
        (self.root / "etc/depmod.d").mkdir(parents=True)
        (self.root / "etc/depmod.d/dist.conf").write_text("search updates extra built-in weak-updates\n")
        (self.root / "boot").mkdir()
        (self.root / "var/cache").mkdir(parents=True)
        drivers: Dict[str, List[str]] = {}
        paths: List[str] = []
        for release in self.releases:
            top = self.root / "lib/modules" / release
            shutil.copytree(str(tree), str(top), symlinks=True)
            for name in ("build", "source"):
                if (top / name).is_symlink():
                    (top / name).unlink()
            self.depmod(release)
            drivers = drivers or chosen(top, pairs)
            for driver, modules in drivers.items():
                for each in modules:
                    data = lzma.decompress((top / each).read_bytes())
                    (top / each).unlink()
                    if release == self.releases[-2]:
                        target = top / "extra" / driver / os.path.basename(each)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        was, now = kernel.release.encode() + b" ", release.encode() + b" "
                        assert b"vermagic=" + was in data
                        target.write_bytes(lzma.compress(data.replace(was, now), check=lzma.CHECK_CRC32))
                        paths.append(str(target))
            self.depmod(release)
            (self.root / "boot" / ("System.map-" + release)).write_text(
                "".join("ffffffff81000000 r __ksymtab_%s\n" % row[1] for row in rows if row[2] == "vmlinux")
            )
            # as if the drivers had never been the kernel's own
            moved = {each.partition(".")[0].replace("kernel/", "", 1) for each in sum(drivers.values(), [])}
            table = "".join("\t".join(row) + "\n" for row in rows if row[2] not in moved)
            (self.root / "boot" / ("symvers-%s.gz" % release)).write_bytes(gzip.compress(table.encode()))
            for path in top.glob("modules.*"):
                (self.saved / release).mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(path), str(self.saved / release))
        self.list.write_text("".join(path + "\n" for path in paths))
        self.drivers = DRIVERS
        self.size = len(list((self.root / "lib/modules" / self.releases[-1] / "kernel").rglob("*.ko*")))

    def depmod(self, release: str) -> None:
        subprocess.run(["depmod", "-b", str(self.root), release], check=True)

    def clear(self) -> None:
        """The tree as it was laid out, and nothing in our cache."""
        for release in self.releases:
            top = self.root / "lib/modules" / release
            shutil.rmtree(str(top / "weak-updates"), ignore_errors=True)
            for path in (self.saved / release).iterdir():
                shutil.copy2(str(path), str(top))
        self.forget()

    def forget(self) -> None:
        shutil.rmtree(str(self.root / "var/cache"))
        (self.root / "var/cache").mkdir()

    def choose(self, listed: List[str], drivers: int) -> None:
        """Have so many of the drivers there and no others."""
        self.drivers = drivers
        names = list(dict.fromkeys(os.path.basename(os.path.dirname(path)) for path in listed))[:drivers]
        chosen = [path for path in listed if os.path.basename(os.path.dirname(path)) in names]
        self.list.write_text("".join(path + "\n" for path in chosen))
        for path in map(Path, listed):
            away = self.saved / "drivers" / path.name
            away.parent.mkdir(exist_ok=True)
            if str(path) in chosen and away.exists():
                away.rename(path)
            elif str(path) not in chosen and path.exists():
                path.rename(away)
        self.depmod(self.releases[-2])
        for index in (self.root / "lib/modules" / self.releases[-2]).glob("modules.*"):
            shutil.copy2(str(index), str(self.saved / self.releases[-2]))

    def run(self, *argv: str) -> Cost:
        return cost(["sh", "-c", 'list=$1; shift; exec "$@" < "$list"', "sh", str(self.list), *argv])

    def outcome(self) -> List[Tuple[str, ...]]:
        """The links, and what modules.dep has of them and of what they need."""
        found: List[Tuple[str, ...]] = []
        for release in self.releases:
            top = self.root / "lib/modules" / release
            for path in sorted(top.glob("weak-updates/**/*.ko*")):
                means = os.readlink(str(path)).replace(str(self.root), "", 1)
                found.append(("link", release, str(path.relative_to(top)), means))
            for line in (top / "modules.dep").read_text().splitlines():
                path, _colon, needs = line.partition(":")
                if not path.startswith("kernel/"):
                    found.append(("listed", release, path, *sorted(needs.split())))
        return sorted(found)


def _release(release: str, number: int) -> str:
    """Another release of the same length, which fits into vermagic."""
    version = re.match(r"[\d.]+", release)
    assert version and version.group()[-1].isdigit()
    return release[: version.end() - 1] + str(number) + release[version.end() :]


def chosen(top: Path, pairs: int) -> Dict[str, List[str]]:
    """Drivers out of a kernel's own modules: such as need no other and that none needs, and ``pairs`` of two
    of which one needs the other alone.
    """
    rows = [line.partition(":") for line in (top / "modules.dep").read_text().splitlines()]
    needs = {path: needed.split() for path, _colon, needed in rows}
    users: Dict[str, List[str]] = {}
    for path, needed in needs.items():
        for each in needed:
            users.setdefault(each, []).append(path)
    twos = [
        [needed[0], path]
        for path, needed in sorted(needs.items())
        if len(needed) == 1 and not needs[needed[0]] and users[needed[0]] == [path] and path not in users
    ]
    ones = [
        [path]
        for path, needed in sorted(needs.items())
        if path.startswith("kernel/drivers/") and not needed and path not in users
    ]
    found = twos[:pairs] + ones[: DRIVERS - pairs]
    assert len(found) == DRIVERS
    return {os.path.basename(paths[-1]).partition(".")[0]: paths for paths in found}


def beside(flavour: str, pairs: int, runs: int, sizes: Sequence[int] = (1, DRIVERS)) -> Section:
    """Check (a dry run), link and add-kernel, with so many of the drivers; beside one depmod where there is no
    script.
    """
    kernel = debian.kernels("bookworm", "amd64", flavour)[-1]
    rows: List[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-weak-modules-") as directory:
        there = Bench(directory, kernel, pairs)
        last = there.releases[-1]
        size = len(list((there.root / "lib/modules" / last / "kernel").rglob("*.ko*")))
        listed = there.list.read_text().splitlines()
        depmod = medians(runs, depmod=lambda: there.run("depmod", "-n", "-b", str(there.root), last))[
            "depmod"
        ]
        for drivers in sizes:
            there.choose(listed, drivers)
            for name, call in (
                ("check", ["--add-modules", "--dry-run"]),
                ("link", ["--add-modules"]),
                ("add-kernel", ["--add-kernel", last]),
            ):
                rows.append(_row(there, name, call, runs, depmod))
    text = (
        "%d kernels with %d modules each (%s), %d drivers of which %d are of two modules; one depmod -n takes %.2f s."
        % (
            KERNELS,
            size,
            kernel.release,
            DRIVERS,
            pairs,
            depmod.seconds,
        )
    )
    return Section("Beside weak-modules: %d modules a kernel, %d pairs" % (size, pairs), text, rows)


def _row(there: Bench, name: str, call: List[str], runs: int, depmod: Cost) -> Row:
    words = [*call, "--no-initramfs", "--basedir", str(there.root)]
    found: Dict[str, List[Tuple[str, ...]]] = {}

    def way(who: str, *argv: str) -> Callable[[], Cost]:
        def run() -> Cost:
            there.clear()
            took = there.run(*argv)
            found[who] = there.outcome()
            return took

        return run

    ways = {"here": way("here", sys.executable, there.kmodctl, "weak-modules", *words)}
    if SCRIPT:
        ways["script"] = way("script", "bash", SCRIPT, *words, "--dracut", "/bin/true")
    took = medians(runs, **ways)
    if SCRIPT and found["here"] != found["script"]:
        raise SystemExit("they have not come to the same: %s" % (set(found["here"]) ^ set(found["script"])))
    what = "%s: %d drivers" % (name, there.drivers) if there.drivers > 1 else "%s: 1 driver" % name
    kernels = 1 if name == "add-kernel" else KERNELS
    what = "%s, %d kernel%s of %d" % (what, kernels, "s" * (kernels > 1), there.size)
    if SCRIPT:
        return Row(what, took["here"].seconds, "s", "weak-modules", took["script"].seconds, 20)
    return Row(what, took["here"].seconds, "s", "one depmod -n", depmod.seconds)


def main() -> None:
    reason = debian.available()
    if reason:
        raise SystemExit("skipped: " + reason)
    print(machine())
    for flavour in sys.argv[1:] or FLAVOURS:
        for pairs in (0, DRIVERS // 2):
            print(beside(flavour, pairs, RUNS).markdown())


if __name__ == "__main__":
    main()
