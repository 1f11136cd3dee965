# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ``kmodctl weak-modules`` costs, beside the script where OUTOFTREE_KMOD_WEAK_MODULES names a copy, and
beside one pass of depmod over one of the kernels.

16 drivers (a kernel's own modules, moved to extra/), of one module each or half of them of two that need each
other, and six kernels that take them all. Both begin with the same tree and come to the same, which is looked
at after each run: the same links, and the same in modules.dep. They take turns. Counted are user and system
seconds with those of all children, and seconds on the clock. Initramfs images are left out.

Goal: 20 times as fast with --add-kernel, and with --add-modules on all six.
"""

import gzip
import lzma
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from tests import CHECKOUT
from tests.bench.bench_exports import cost
from tests.lab import debian

SCRIPT = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES")
KERNELS, DRIVERS, RUNS = 6, 16, 3
FLAVOURS = ("cloud-amd64",)


class Taken(NamedTuple):
    """Seconds of one run: of processors, and on the clock."""

    work: float
    clock: float


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
        self.modules = len(paths)

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

    def run(self, *argv: str) -> Taken:
        words = ["sh", "-c", 'list=$1; shift; exec "$@" < "$list"', "sh", str(self.list), *argv]
        begun = time.monotonic()
        work = cost(words)[0]
        return Taken(work, time.monotonic() - begun)

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


def bench(kernel: debian.Image, pairs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-weak-modules-") as directory:
        there = Bench(directory, kernel, pairs)
        last = there.releases[-1]
        alone = [there.run("depmod", "-n", "-b", str(there.root), last) for _unused in range(RUNS)]
        size = len(list((there.root / "lib/modules" / last / "kernel").rglob("*.ko*")))
        print(
            "%s: %d kernels with %d modules each; %d drivers, %d modules"
            % (kernel.release, KERNELS, size, DRIVERS, there.modules)
        )
        _row("one pass of depmod", alone)
        for call in (["--add-kernel", last], ["--add-modules"]):
            words = [*call, "--no-initramfs", "--basedir", str(there.root)]
            ours = [sys.executable, there.kmodctl, "weak-modules", *words]
            took: Dict[str, List[Taken]] = {}
            for _unused in range(RUNS):
                if SCRIPT:
                    there.clear()
                    took.setdefault("script", []).append(
                        there.run("bash", SCRIPT, *words, "--dracut", "/bin/true")
                    )
                    expected = there.outcome()
                there.clear()
                took.setdefault("here", []).append(there.run(*ours))
                found = there.outcome()
                if len([row for row in found if row[0] == "link"]) != there.modules * (
                    1 if call[0] == "--add-kernel" else KERNELS - 1
                ):
                    raise SystemExit("%s has not made all links" % call[0])
                if SCRIPT and found != expected:
                    raise SystemExit("they have not come to the same: %s" % (set(found) ^ set(expected)))
                took.setdefault("here, again", []).append(there.run(*ours))
            for who, runs in took.items():
                _row("%s, %s" % (call[0], who), runs)
            if SCRIPT:
                print(
                    "  %-28s %.1f times the work, %.1f times the time"
                    % (
                        "%s, script/here" % call[0],
                        statistics.median(each.work for each in took["script"])
                        / statistics.median(each.work for each in took["here"]),
                        statistics.median(each.clock for each in took["script"])
                        / statistics.median(each.clock for each in took["here"]),
                    )
                )


def _row(name: str, runs: List[Taken]) -> None:
    work, clock = [each.work for each in runs], [each.clock for each in runs]
    print(
        "  %-28s work %7.2f s (median %7.2f)   clock %7.2f s (median %7.2f)"
        % (name, min(work), statistics.median(work), min(clock), statistics.median(clock)),
        flush=True,
    )


def machine() -> str:
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)", text, re.MULTILINE)
    depmod = subprocess.run(["depmod", "-V"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return "%s, %d processors, load %.1f, Python %s, %s" % (
        model.group(1) if model else os.uname().machine,
        os.cpu_count() or 0,
        os.getloadavg()[0],
        sys.version.split()[0],
        depmod.splitlines()[0],
    )


def main() -> None:
    reason = debian.available()
    if reason:
        raise SystemExit("skipped: " + reason)
    print(machine())
    for flavour in sys.argv[1:] or FLAVOURS:
        kernel = debian.kernels("bookworm", "amd64", flavour)[-1]
        for pairs in (0, DRIVERS // 2):
            bench(kernel, pairs)


if __name__ == "__main__":
    main()
