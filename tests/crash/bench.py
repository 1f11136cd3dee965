# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A private corner of this machine, in which runs are carried out on a root and what they leave is held
against undisturbed runs.
"""

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from ansible_collections.outoftree.kmod.plugins.module_utils import cli
from tests.crash import deployed, faketools, followed, judge, scenes, shim, tree
from tests.crash.judge import Scene
from tests.crash.tree import Tree

SCRATCH = ("/dev/shm", "/var/tmp", "/tmp")
NEWUSER, NEWNS = 0x10000000, 0x00020000
PRIVATE, RECURSIVE = 1 << 18, 1 << 14
HERE = Path(__file__).resolve().parents[2] / "build" / "crash"


def seclude() -> None:
    """Mount memory over the scratch directories and over build/crash, for this process and its children
    alone.
    """
    HERE.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(NEWNS if user == 0 else NEWUSER | NEWNS):
        raise OSError(ctypes.get_errno(), "unshare: " + os.strerror(ctypes.get_errno()))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("0 %d 1" % user)
        Path("/proc/self/gid_map").write_text("0 %d 1" % group)
    if libc.mount(b"none", b"/", None, PRIVATE | RECURSIVE, None):
        raise OSError(ctypes.get_errno(), "mount: " + os.strerror(ctypes.get_errno()))
    for place in SCRATCH + (str(HERE),):
        if libc.mount(
            b"crash", os.fsencode(place), b"tmpfs", 0, b"mode=0755" if place == str(HERE) else b"mode=1777"
        ):
            raise OSError(ctypes.get_errno(), "mount: " + os.strerror(ctypes.get_errno()))


class Bench:
    """One process's corner: a root that cases are tried on, one after the other."""

    def __init__(self) -> None:
        self.root = str(HERE / "root")
        self.places = (self.root,) + SCRATCH
        self.src = scenes.sources(HERE / "src")
        self.scenes: Dict[str, Scene] = {}
        self.calls: Dict[str, List[shim.Call]] = {}
        self.seen: Dict[bytes, List[str]] = {}
        self.log = str(HERE / "log")
        top = Path(str(cli.__file__)).parent
        for each in top.rglob("*.py"):  # once, not in each child
            importlib.import_module(
                ".".join((cli.__name__[: -len(".cli")],) + each.relative_to(top).with_suffix("").parts)
            )

    # Runs

    def work(self, command: str, before: Optional[Callable[[], None]] = None) -> Callable[[], int]:
        """What a child does for a command line of kmodctl, or what stands for kmod_follow."""
        argv = command.format(src=self.src).split()
        argv[1:1] = ["--root", self.root]

        def work() -> int:
            sys.argv = ["kmodctl"] + argv
            if before:
                before()
            if argv[0] == followed.FOLLOW.split()[0]:
                return followed.main(argv, self.src / "kmodctl.zip")
            if argv[0] == deployed.DEPLOY:
                return deployed.main(argv)
            return cli.main(argv)

        return work

    def run(
        self,
        command: str,
        faults: Sequence[shim.Fault] = (),
        before: Optional[Callable[[], None]] = None,
        **options: Any,
    ) -> shim.Ended:
        return shim.run(self.work(command, before), self.places, faults, **options)

    def put(self, state: Tree) -> None:
        tree.put(
            Tree({path: node for path, node in state.nodes.items() if path[0] != "@"}, state.times), self.root
        )
        for place in SCRATCH:
            for name in os.listdir(place):
                path = os.path.join(place, name)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        for path in (each for each in state.nodes if each[0] == "@"):  # what a killed run has left there
            node = state.nodes[path]
            if node.content is None:
                os.mkdir(path[1:], node.mode & 0o7777)
            elif isinstance(node.content, bytes):
                Path(path[1:]).write_bytes(node.content)
            else:
                os.symlink(node.content, path[1:])

    def state(self) -> Tree:
        """The root, and what lies in the scratch directories (its paths begin with @)."""
        found = tree.capture(self.root)
        for place in SCRATCH:
            if os.listdir(place):
                more = tree.capture(place)
                found.nodes.update({"@%s/%s" % (place, path): node for path, node in more.nodes.items()})
                found.times.update({"@%s/%s" % (place, path): when for path, when in more.times.items()})
        return found

    # Scenes

    def scene(self, name: str) -> Scene:
        """The trees of an operation, and the calls of its undisturbed run.

        Error: RuntimeError where it fails without any fault.
        """
        if name in self.scenes:
            return self.scenes[name]
        operation = scenes.by_name()[name]
        whole = scenes.prepared(operation, self.src)
        self.put(whole)
        if operation.leaves:
            followed.leave(Path(self.root))
        shipped = self.state()
        menus = {"shipped": judge.boots(self.root)}
        self.put(followed.without(whole) if operation.arrives else whole)
        for command in operation.before:
            self._must(name, command)
        if operation.arrives:
            self.put(followed.arrived(self.state(), whole))
        if operation.leaves:
            followed.leave(Path(self.root))
        before = tree.aged(self.state())
        menus["before"] = judge.boots(self.root)
        self.put(before)  # as it is for each case
        status = self._must(name, operation.command, log=self.log)
        self.calls[name] = shim.read_log(self.log)
        after = self.state()
        menus["after"] = judge.boots(self.root)
        again = self.run(operation.command, log=self.log)
        writes = [
            call
            for call in shim.read_log(self.log)
            if call.kind == shim.CHANGE and call.name not in ("flock", "open", "openat")
        ]
        if again.status != status or self.state().nodes != after.nodes or writes:
            raise RuntimeError(
                "%s: the second run is not empty: %s" % (name, [call[2:] for call in writes[:3]] or again.err)
            )
        for command in operation.removal:
            self._must(name, command)
        removed = self.state()
        if not operation.lost and removed.nodes != shipped.nodes:
            raise RuntimeError("%s: removal leaves %s" % (name, tree.differences(shipped, removed)))
        self.scenes[name] = Scene(operation, shipped, before, after, removed, status, menus)
        return self.scenes[name]

    def _must(self, name: str, command: str, **options: Any) -> int:
        ended = self.run(command, **options)
        if ended.status and not (ended.status == 1 and not ended.err):  # it says which kernels get nothing
            raise RuntimeError("%s: %s: %s" % (name, command, ended))
        return ended.status or 0

    # Verdicts

    def verdict(self, scene: Scene, state: Tree) -> List[str]:
        """What is wrong with a state, which lies at the root: as it is, after a rerun, and after a removal.

        Of equal states one is tried.
        """
        if state.nodes in (scene.before.nodes, scene.after.nodes):
            return []
        key = scene.operation.name.encode() + state.key
        if key not in self.seen:
            self.seen[key] = judge.judge(scene, state, self.root) + self.afterwards(scene, state)
        return self.seen[key]

    def afterwards(self, scene: Scene, state: Tree) -> List[str]:
        """A rerun gives the tree of an undisturbed run, and a removal without it the shipped one."""
        wrong = []
        again = self.run(scene.operation.command)
        if again.status != scene.status:
            wrong.append("the rerun fails: %s" % _short(again))
        else:
            wrong += self.unlike("the rerun", scene.after)
        if not scene.operation.lost:  # others' links are healed or not by now, which stays so
            self.put(state)
        ends = [self.run(command) for command in scene.operation.removal]
        failed = next((each for each in ends if each.status), None)
        if failed:
            wrong.append("removal fails: %s" % _short(failed))
        else:
            wrong += self.unlike("removal", scene.removed)
        return wrong

    def unlike(self, what: str, wanted: Tree) -> List[str]:
        found = self.state()
        if wanted.nodes == found.nodes:
            return []
        return ["after %s: %s" % (what, " ".join(tree.differences(wanted, found)[:6]))]

    def attempt(
        self,
        scene: Scene,
        faults: Sequence[shim.Fault],
        killed: bool,
        lasting: bool,
        before: Optional[Callable[[], None]] = None,
        **options: Any,
    ) -> List[str]:
        """One case: a run from the state before, with faults. What is wrong then."""
        self.put(scene.before)
        ended = self.run(scene.operation.command, faults, before, **options)
        state = self.state()
        calls = self.calls[scene.operation.name]
        failing = [
            calls[min(each.at, len(calls)) - 1].path
            for each in faults
            if each.what in (shim.FAIL, shim.FAIL_FROM)
        ]
        scratch = not all(path.startswith(self.root) for path in failing)
        wrong = judge.ending(scene, ended, state, killed, lasting, ("@",) if scratch or lasting else ())
        return wrong + self.verdict(scene, state)

    def with_tool(self, mode: str, at: int) -> Callable[[], None]:
        """Has the tools of a run do otherwise than they should (see faketools.py)."""
        return lambda: faketools.install(HERE / "tools", mode, at, self.places)


def _short(ended: shim.Ended) -> str:
    return (ended.err.strip().splitlines() or ["status %s, and no word" % ended.status])[-1][:300]


def missing() -> Optional[str]:
    """Why none of this can be done here."""
    for tool in ("cc", "depmod", "modprobe", "unshare"):
        if not shutil.which(tool):
            return "there is no %s" % tool
    try:
        shim.build()
    except (OSError, subprocess.CalledProcessError) as error:
        return "the shim cannot be compiled: %s" % error
    pid = os.fork()
    if pid == 0:
        try:
            seclude()
            os._exit(shim.run(lambda: 0, ("/none",), log=os.devnull).status or 0)
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
    return "processes cannot be traced or secluded" if os.waitpid(pid, 0)[1] else None
