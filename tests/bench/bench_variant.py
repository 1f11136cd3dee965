# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay beside its peers, in one run: a copy of the shipped image with fsync, and a rebuild by
mkinitramfs and by dracut.

bench_variant.py [SUITE]: on real images of a Debian suite, in a root of that suite. Times are the best of
several, wall clock and processor (a busy machine lengthens the first alone); memory is the peak of a process
of its own that plans and writes one variant.
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

from tests import CHECKOUT
from tests.boot.initrd import boots, images
from tests.lab import debian

ONE = """
import sys, json, time, os
import tests
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import variant
start, before = time.perf_counter(), sum(os.times()[:4])
plan, answer = variant.present(Host(sys.argv[1]), variant.Recipe(("edu",)))
result = answer.applied(plan.apply()).as_dict()
seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - before
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss counts the parent's too
print(json.dumps([seconds, cpu, peak, result["variants"][0]["status"]]))
"""
ROUNDS = 5


def overlay(root: str, base: Path, again: bool) -> Tuple[float, float, int]:
    """Seconds, seconds of processor and KiB of one run in a fresh process; ``again``: with the variant there
    already.
    """
    variant = base.with_name(base.name + ".1")
    if not again and variant.exists():
        variant.unlink()
    done = subprocess.run([sys.executable, "-c", ONE, root], cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    seconds, cpu, memory, status = json.loads(done.stdout.decode())
    assert status == ("current" if again else "created")
    return seconds, cpu, memory


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
    system = images.installed(suite, "dracut")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        rebuilt: Dict[str, Tuple[float, float]] = {}
        for tool in ("initramfs-tools", "dracut"):
            script = "; ".join(images.commands(images.Base(suite, tool), kernel.release))
            start, before = time.perf_counter(), sum(os.times()[2:4])
            images.run_in(system, Path(directory), script)
            rebuilt[tool] = time.perf_counter() - start, sum(os.times()[2:4]) - before
            print("%-44s %8.2f s, processor %.2f s" % (("rebuild by " + tool,) + rebuilt[tool]), flush=True)
        for base in (
            images.Base(suite, "initramfs-tools", "zstd"),
            images.Base(suite, "dracut", "gzip"),
            images.Base(suite, "dracut", "xz"),
        ):
            work = Path(directory) / base.name.replace(" ", "-")
            work.mkdir()
            host = boots.host_of(boots.Case(base), work)
            shipped = Path(host.real("/boot/initrd.img-" + kernel.release))
            runs = [overlay(host.root, shipped, False) for _round in range(ROUNDS)]
            again = min(overlay(host.root, shipped, True)[0] for _round in range(ROUNDS))
            seconds, cpu, memory = (
                min(run[0] for run in runs),
                min(run[1] for run in runs),
                max(run[2] for run in runs),
            )
            copied = min(copy(shipped) for _round in range(ROUNDS))
            slow, slow_cpu = rebuilt[base.tool]
            print(
                "%-44s %8.3f s, processor %.2f s, peak %.0f MiB; again %.3f s"
                % (
                    "overlay on %s, %.1f MB" % (base.name, shipped.stat().st_size / 1e6),
                    seconds,
                    cpu,
                    memory / 1024,
                    again,
                )
            )
            print(
                "%-44s %8.1f x cp+fsync (%.3f s), %.0f x faster than %s (processor: %.0f x)"
                % ("", seconds / copied, copied, slow / seconds, base.tool, slow_cpu / cpu),
                flush=True,
            )
            debian.run(["rm", "-rf", str(work)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
