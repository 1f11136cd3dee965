# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay beside its peers, in one run: a copy of the shipped image with fsync, and a rebuild by mkinitramfs and by dracut.

bench_variant.py [SUITE]: on real images of a Debian suite, in a root of that suite. Times are the best of several; memory is the peak of a
process of its own that plans and writes one variant.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "boot/initrd")]

import boots  # noqa: E402
import debian  # noqa: E402
import images  # noqa: E402

ONE = """
import sys, json, time
sys.path[:0] = json.loads(sys.argv[1])
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import variant
start = time.perf_counter()
plan, result = variant.present(Host(sys.argv[2]), variant.Request(("edu",)))
plan.apply()
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss counts the parent's too
print(json.dumps([seconds, peak, result["variants"][0]["status"]]))
"""
ROUNDS = 5


def overlay(root: str, base: Path, again: bool) -> Tuple[float, int]:
    """Seconds and KiB of one run in a fresh process; ``again``: with the variant there already."""
    variant = base.with_name(base.name + ".1")
    if not again and variant.exists():
        variant.unlink()
    done = subprocess.run([sys.executable, "-c", ONE, json.dumps(sys.path), root], stdout=subprocess.PIPE, check=True)
    seconds, memory, status = json.loads(done.stdout.decode())
    assert status == ("current" if again else "created")
    return seconds, memory


def copy(source: Path) -> float:
    start = time.perf_counter()
    target = source.with_name("copy")
    shutil.copyfile(str(source), str(target))
    with open(str(target), "rb") as handle:
        os.fsync(handle.fileno())
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def main() -> int:
    suite = sys.argv[1] if len(sys.argv) > 1 else "bookworm"
    reason = images.missing()
    if reason:
        print("skipped: " + reason)
        return 0
    kernel = images.kernel(suite)
    system = images.installed(suite)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        rebuilt: Dict[str, float] = {}
        for tool in ("initramfs-tools", "dracut"):
            script = "; ".join(images.commands(images.Base(suite, tool), kernel.release))
            start = time.perf_counter()
            images.run_in(system, Path(directory), script)
            rebuilt[tool] = time.perf_counter() - start
            print("%-44s %8.2f s" % ("rebuild by " + tool, rebuilt[tool]))
        for base in (images.Base(suite, "initramfs-tools", "zstd"), images.Base(suite, "dracut", "gzip"), images.Base(suite, "dracut", "xz")):
            work = Path(directory) / base.name.replace(" ", "-")
            work.mkdir()
            host = boots.host_of(boots.Case(base), work)
            shipped = Path(host.real("/boot/initrd.img-" + kernel.release))
            runs = [overlay(host.root, shipped, False) for _round in range(ROUNDS)]
            again = min(overlay(host.root, shipped, True)[0] for _round in range(ROUNDS))
            seconds, memory = min(runs)[0], max(peak for _seconds, peak in runs)
            copied = min(copy(shipped) for _round in range(ROUNDS))
            print("%-44s %8.3f s  %5.1f x cp+fsync (%.3f s), %4.0f x faster than %s, peak %.0f MiB; again: %.3f s" % (
                "overlay on %s, %.1f MB" % (base.name, shipped.stat().st_size / 1e6), seconds, seconds / copied, copied, rebuilt[base.tool] / seconds,
                base.tool, memory / 1024, again))
            debian.run(["rm", "-rf", str(work)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
