#!/usr/bin/env python3
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Damaged inputs, many of them: each is answered or refused with a KmodError, within 2 s of processor time
and 256 MiB.

``fuzz.py [COUNT]`` spreads COUNT inputs over the targets and the processors; ``fuzz.py --replay TARGET
NUMBER`` repeats one that failed. Input NUMBER of a target is the same in every run.
"""

import argparse
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from ansible_collections.outoftree.kmod.plugins.module_utils import compression
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.read import exports, kernel_image, kernels, ko
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_module import KernelModule
from tests.forge import families, images
from tests.forge import ko as forged
from tests.forge.btf import btf, btf_array, btf_function, btf_struct
from tests.forge.compressors import BY_LIBRARY
from tests.forge.elf import Section
from tests.forge.ko import RELEASE, Export
from tests.forge.signature import signed
from tests.forge.symvers import EXPORTS, symvers

SECONDS = 2.0
MEMORY = 256  # MiB
BATCH = 2000  # inputs that one process takes at a time
NUMBERS = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


class Target(NamedTuple):
    seeds: List[bytes]
    feed: Callable[[bytes], Any]


def module(data: bytes) -> None:
    """A module survives its trip through JSON's types, whatever is in it."""
    read = ko.parse(data, "fuzz.ko", structs=True)
    if KernelModule.from_dict(read.as_dict()) != read:
        raise AssertionError("as_dict and from_dict disagree")
    if ko.exports(data, "fuzz.ko") != list(read.exports):
        raise AssertionError("read whole or for its exports alone, it exports different symbols")


def image(data: bytes) -> None:
    unpacked = kernel_image.unpack(data, "vmlinuz")
    kernel_image.vermagic(unpacked)
    kernel_image.exports(unpacked, "vmlinuz")


def verdict_of(kernel: kernels.Kernel) -> Callable[[bytes], None]:
    def feed(data: bytes) -> None:
        for verdict in loader.judge(kernel, [ko.parse(data, "fuzz.ko")]):
            verdict.as_dict()

    return feed


def targets(root: Path) -> Dict[str, Target]:
    families.kernel(root)
    kernel = kernels.kernel(Host(str(root)), RELEASE)
    given = [Export("vendor_do", 0x77, False, "NS"), Export("vendor_gpl", 0x78, True)]
    types = Section(
        ".BTF",
        btf([btf_struct("device", 16, [("id", 1, 0)]), btf_array(1), btf_function(1, [("device", 2)])]),
    )
    modules = [
        forged.ko(exports=given),
        forged.ko(exports=given, export_form="symbols"),
        forged.ko(exports=given, export_form="flags"),
        forged.ko(machine="s390x"),
        forged.ko(machine="aarch64"),
        forged.ko(machine="i686"),
        forged.ko(ext_versions=[("printk", 0x22)]),
        signed(forged.ko(), b"\x30\x80" + bytes(64)),
        signed(forged.ko(), bytes(64), kind=1, algo=1),
        forged.ko(extra=[types]),
        forged.ko(extra=[types, types._replace(name=".BTF.base")]),
    ]
    tables = {name: images.symbols(layout) for name, layout in images.LAYOUTS.items()}
    linked = [images.vmlinux(layout, tables[name], layout.order) for name, layout in images.LAYOUTS.items()]
    raw = [images.arm64(layout, tables[name]) for name, layout in images.LAYOUTS.items() if layout.relative]
    raw += [
        images.riscv(layout, tables[name]) for name, layout in images.LAYOUTS.items() if layout.order == "<"
    ]
    raw += [
        images.loongarch(layout, tables[name])
        for name, layout in images.LAYOUTS.items()
        if layout.order == "<"
    ]
    packed = [images.bzimage(images.payload(kind, linked[0])) for kind in BY_LIBRARY]
    packed += [images.zboot(pack(raw[0])) for pack in BY_LIBRARY.values()]
    mainframe = images.raw(images.LAYOUTS["6.1 s390x"], tables["6.1 s390x"], images.S390_BASE)
    packed += [images.s390(BY_LIBRARY[kind](mainframe), len(mainframe)) for kind in ("gzip", "xz", "zstd")]
    return {
        "module": Target(modules, module),
        "verdict": Target(modules, verdict_of(kernel)),
        "image": Target(linked + raw, image),
        "packed image": Target(packed, image),
        "symvers": Target([symvers(EXPORTS)], exports.from_symvers),
        "compressed": Target(
            [pack(modules[0]) for pack in BY_LIBRARY.values()],
            lambda data: compression.decompress(data, "fuzz"),
        ),
    }


def damaged(random_: random.Random, seeds: List[bytes]) -> bytes:
    """One of the seeds with one to eight injuries."""
    data = bytearray(random_.choice(seeds))
    for _ in range(random_.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        at, kind = random_.randrange(len(data) + 1), random_.randrange(8)
        length = random_.choice((1, 2, 4, 8, 16, 64, 512))
        if kind == 0:
            data[at : at + 1] = bytes([random_.randrange(256)])
        elif kind == 1:  # a number that overflows something, where numbers stand
            size = random_.choice((2, 4, 8))
            at -= at % size
            number = (
                random_.choice(NUMBERS + [len(data), len(data) - at, at, random_.getrandbits(64)])
                & (1 << 8 * size) - 1
            )
            data[at : at + size] = number.to_bytes(size, random_.choice(("little", "big")))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at : at + length] = bytes(random_.getrandbits(8) for _ in range(min(length, 16)))
        elif kind == 6:
            data[at : at + length] = bytes(length)
        else:
            other = random_.choice(seeds)
            start = random_.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        data = data or bytearray(1)
    return bytes(data)


class TooSlow(BaseException):
    """Not to be caught by what is tested."""


def too_slow(*_: Any) -> None:
    raise TooSlow("more than %g s" % SECONDS)


def once(name: str, target: Target, number: int) -> str:
    """ "answered", "refused", or what went wrong."""
    data = damaged(random.Random("%s %d" % (name, number)), target.seeds)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.feed(data)
        return "answered"
    except KmodError:
        return "refused"
    except (Exception, TooSlow):
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def batch(work: Tuple[str, int, int]) -> Tuple[str, int, int, float, int, List[str]]:
    name, start, count = work
    answered, slowest, failures = 0, 0.0, []
    for number in range(start, start + count):
        began = time.process_time()
        outcome = once(name, TARGETS[name], number)
        slowest = max(slowest, time.process_time() - began)
        answered += outcome == "answered"
        if outcome not in ("answered", "refused"):
            failures.append("--replay '%s' %d\n%s" % (name, number, outcome))
    return name, count, answered, slowest, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=1000000)
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "NUMBER"))
    given = parser.parse_args()
    signal.signal(signal.SIGPROF, too_slow)
    if given.replay:
        print(once(given.replay[0], TARGETS[given.replay[0]], int(given.replay[1])))
        return 0
    each = -(-given.count // len(TARGETS))
    work = [(name, start, min(BATCH, each - start)) for start in range(0, each, BATCH) for name in TARGETS]
    rows = {name: [0, 0, 0.0, 0] for name in TARGETS}
    failures: List[str] = []
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for name, count, answered, slowest, memory, failed in pool.imap_unordered(batch, work):
            row = rows[name]
            rows[name] = [row[0] + count, row[1] + answered, max(row[2], slowest), max(row[3], memory)]
            failures += failed
    print("%-14s %9s %9s %10s %9s" % ("target", "inputs", "answered", "slowest s", "peak MiB"))
    for name, row in rows.items():
        print("%-14s %9d %9d %10.3f %9d" % (name, *row))
    print("\n".join(failures[:5]))
    largest = max(row[3] for row in rows.values())
    print(
        "%d of %d inputs failed; peak %d MiB" % (len(failures), sum(row[0] for row in rows.values()), largest)
    )
    return 1 if failures or largest > MEMORY else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        TARGETS = targets(Path(directory))
        sys.exit(main())
