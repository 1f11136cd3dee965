# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Power cuts, replayed: what a disk may hold when the power fails before a call of a run or of its tools.

Of a file's bytes what was there at its last fsync has survived, of a file that never had one its length may
be 0. Of the names in a directory
 - "journal": all are as they were last: the file system keeps them in order and has just written its journal
   (XFS, ext4 noauto_da_alloc);
 - "strict": those at the directory's last fsync alone have survived, as POSIX has it;
 - "some": each of those that have changed since then has, or has not (btrfs, FAT).
"""

import os
import random
import stat
from typing import Dict, List, NamedTuple, Optional, Tuple

from tests.crash.bench import Bench
from tests.crash.judge import Scene
from tests.crash.tree import Node, Tree

WAYS = ("journal", "strict", "some")
At = Tuple[int, ...]


class Entry(NamedTuple):
    """What a name in a directory leads to."""

    inode: int
    mode: int
    owner: Tuple[int, int]
    target: Optional[str]  # of a symlink


Names = Dict[str, Entry]


class Disk:
    """What is known of a root's file system while a run writes to it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.data: Dict[int, bytes] = {}  # inode: what is on the disk for certain
        self.names: Dict[int, Names] = {}  # inode of a directory: its names that are
        self.sync()

    def sync(self) -> None:
        """All is on the disk now."""
        for directory, _names, files in os.walk(self.root):
            self.names[os.stat(directory).st_ino] = _names_in(directory)
            for name in files:
                path = os.path.join(directory, name)
                if not os.path.islink(path):
                    self.fsync(path)

    def fsync(self, path: str) -> None:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            self.names[status.st_ino] = _names_in(path)
        else:
            with open(path, "rb") as handle:
                self.data[status.st_ino] = handle.read()

    def cut(self, way: str, seed: int) -> Dict[str, Node]:
        """The tree that is found after a power cut now."""
        found: Dict[str, Node] = {}
        chance = random.Random(seed)
        now = {
            os.stat(directory).st_ino: _names_in(directory)
            for directory, _names, _files in os.walk(self.root)
        }

        def below(inode: int, path: str) -> None:
            durable, last = self.names.get(inode, {}), now.get(inode, {})
            names = {"journal": last, "strict": durable}.get(way) if inode in now else durable
            if names is None:
                picked = {
                    name: chance.choice([durable, last]).get(name)
                    for name in sorted(set(durable) | set(last))
                }
                names = {name: entry for name, entry in picked.items() if entry}
            for name, entry in names.items():
                here = os.path.join(path, name)
                content = (
                    entry.target
                    if entry.target is not None
                    else None
                    if stat.S_ISDIR(entry.mode)
                    else self.data.get(entry.inode, b"")
                )
                found[here] = Node(entry.mode, entry.owner, content)
                if content is None:
                    below(entry.inode, here)

        below(os.stat(self.root).st_ino, "")
        return found


def _names_in(directory: str) -> Names:
    found = {}
    for entry in os.scandir(directory):
        status = entry.stat(follow_symlinks=False)
        target = os.readlink(entry.path) if entry.is_symlink() else None
        found[entry.name] = Entry(status.st_ino, status.st_mode, (status.st_uid, status.st_gid), target)
    return found


_states: Dict[str, Dict[At, Dict[str, Node]]] = {}


def cases(bench: Bench, scene: Scene) -> List[At]:
    """(number of the call, way); number 0: after the run. Equal states are one case."""
    name = scene.operation.name
    if name not in _states:
        _states[name] = _record(bench, scene)
    return list(_states[name])


def _record(bench: Bench, scene: Scene) -> Dict[At, Dict[str, Node]]:
    bench.put(scene.before)
    disk = Disk(bench.root)
    seen, states = set(), {}

    def cut(number: int) -> None:
        for way, label in enumerate(WAYS):
            nodes = disk.cut(label, number)
            key = Tree(nodes, {}).key
            if key not in seen:
                seen.add(key)
                states[number, way] = nodes

    def changing(pid: int, number: int, name: bytes, handle: int, _path: bytes, _path2: bytes) -> None:
        cut(number)
        call = name.decode()
        if call in ("fsync", "fdatasync"):
            path = os.readlink("/proc/%d/fd/%d" % (pid, handle))
            if path.startswith(bench.root) and not path.endswith(" (deleted)"):
                disk.fsync(path)
        elif call in ("sync", "syncfs"):
            disk.sync()

    bench.run(scene.operation.command, changing=changing)
    cut(0)
    if Tree(disk.cut("journal", 0), {}).nodes == scene.after.nodes == disk.cut("strict", 0):
        states.pop((0, 0), None)
    return states


def attempt(bench: Bench, scene: Scene, at: At) -> List[str]:
    cases(bench, scene)
    nodes = _states[scene.operation.name].get(at)
    if nodes is None:
        return []
    wrong = []
    if at[0] == 0 and nodes != scene.after.nodes:
        wrong.append("the run said that all is done, and not all is on the disk")
    old = min(scene.before.times.values())
    state = Tree(nodes, {path: scene.before.times.get(path, old) for path in nodes})
    bench.put(state)
    return wrong + bench.verdict(scene, state)
