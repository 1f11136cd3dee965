# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Power cuts on real file systems: the device is copied at once, after a run or while it stands before a
call, and the copy is mounted.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from tests.crash import judge, scenes, shim, tree
from tests.crash.bench import HERE, Bench
from tests.crash.judge import Scene
from tests.crash.scenes import ENTRY, LINK, NEWER, VARIANT

ESP = "boot/efi"  # in the root of a machine with systemd-boot
KINDS: Dict[str, Tuple[str, List[str], str]] = {  # name: (family of the machine, mkfs, options of mount)
    "xfs": ("el9", ["mkfs.xfs", "-q"], "nouuid"),
    "ext4": ("el9", ["mkfs.ext4", "-q"], "noauto_da_alloc"),
    "btrfs": ("el9", ["mkfs.btrfs", "-q"], ""),
    "vfat": ("systemd-boot", ["mkfs.vfat"], ""),  # as the EFI system partition; the rest lies in memory
}
SIZE = 320 << 20  # XFS wants 300 MiB
STEPS = (
    LINK,
    VARIANT,
    ENTRY + " --boot default",
    NEWER,
    VARIANT + " --early-load",
    ENTRY + " --boot shipped",
    *scenes.REMOVAL,
)
IMAGE, COPY = HERE / "disk", HERE / "copy"
At = Tuple[int, ...]


def missing(kind: str) -> Optional[str]:
    """Why this file system cannot be had here."""
    family, mkfs, options = KINDS[kind]
    if not shutil.which(mkfs[0]):
        return "there is no %s" % mkfs[0]
    point = HERE / "point"
    point.mkdir(exist_ok=True)
    try:
        _format(kind)
        with _mounted(IMAGE, str(point), options):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        return said.decode().strip().splitlines()[0]


def cases(count: int) -> List[At]:
    """(step, number of the call; 0: when it is done)."""
    return [(4 * number % len(STEPS), number // len(STEPS)) for number in range(count)]


def _format(kind: str) -> None:
    IMAGE.unlink(missing_ok=True)
    with open(IMAGE, "wb") as handle:
        handle.truncate(SIZE)
    subprocess.run(
        KINDS[kind][1] + [str(IMAGE)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@contextlib.contextmanager
def _mounted(image: Path, point: str, options: str) -> Iterator[None]:
    subprocess.run(
        ["mount", "-o", ",".join(["loop"] + [options] * bool(options)), str(image), point],
        check=True,
        stderr=subprocess.PIPE,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def attempt(bench: Bench, kind: str, at: At) -> List[str]:
    """Cut the power in or after a step, all those before it being done."""
    step, call = at
    family, _mkfs, options = KINDS[kind]
    shipped = scenes.prepared(scenes.Operation("disk", family, (), ""), bench.src)
    trees = [shipped]
    bench.put(shipped)
    menus = {"shipped": judge.boots(bench.root)}
    for number, command in enumerate(STEPS[: step + 1]):  # undisturbed, in memory
        bench.run(command, log=bench.log)
        trees.append(bench.state())
        menus[str(number)] = judge.boots(bench.root)
    calls = [
        each.number
        for each in shim.read_log(bench.log)
        if each.kind == shim.CHANGE and each.path.startswith(bench.root)
    ]
    chosen = calls[(7 * call + step) % len(calls)] if call and calls else 0
    _format(kind)
    point = os.path.join(bench.root, ESP) if kind == "vfat" else bench.root
    tree.clear(bench.root)
    os.mkdir(bench.root)
    bench.put(trees[step])
    with _held(point), _mounted(IMAGE, point, options):
        for name in os.listdir(HERE / "held"):
            _move(HERE / "held" / name, point)
        _sync(point)
        bench.run(STEPS[step], [shim.Fault(chosen, shim.KILL_BEFORE)] if chosen else ())
        subprocess.run(["cp", "--sparse=always", str(IMAGE), str(COPY)], check=True)
    with _mounted(COPY, point, options):
        state = bench.state()
    if kind == "vfat":
        plain = {
            path: node._replace(mode=node.mode & 0o170000, owner=(0, 0))
            for path, node in state.nodes.items()
            if path.startswith(ESP)
        }
        wanted = trees[step + 1].nodes
        state.nodes.update(
            {
                path: wanted[path] if path in wanted and wanted[path].content == node.content else node
                for path, node in plain.items()
            }
        )
    for name in ("lost+found",):
        state.nodes.pop(name, None)
    scene = Scene(
        scenes.Operation("disk:%s:%d" % (kind, step), family, (), STEPS[step]),
        shipped,
        trees[step],
        trees[step + 1],
        shipped,
        0,
        menus,
        tuple(trees),
    )
    wrong = []
    if not chosen and state.nodes != scene.after.nodes:
        wrong.append(
            "the run said that all is done, and on the disk is otherwise: %s"
            % " ".join(tree.differences(scene.after, state)[:6])
        )
    bench.put(state)
    return wrong + bench.verdict(scene, state)


@contextlib.contextmanager
def _held(point: str) -> Iterator[None]:
    """What lies at the mount point is put aside, to be moved onto what is mounted there."""
    held = HERE / "held"
    tree.clear(str(held))
    held.mkdir()
    for name in os.listdir(point):
        shutil.move(os.path.join(point, name), held / name)
    yield


def _move(path: Path, point: str) -> None:
    subprocess.run(["cp", "-R", "--preserve=mode,timestamps,links", str(path), point], check=True)


def _sync(point: str) -> None:
    handle = os.open(point, os.O_RDONLY)
    if ctypes.CDLL(None).syncfs(handle):
        raise OSError("syncfs")
    os.close(handle)
