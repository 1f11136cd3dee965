# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Systems in directories, of which a test changes a copy: an overlay on what is shared, with /proc, /dev, and
a file system of its own at /boot.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

from tests.lab import debian
from tests.lab.debian import LabError, run

# A machine on which packages are installed without a question, no service is started, and nothing looks for a
# disk.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_OFFLINE": "1",
    "SYSTEMD_ESP_PATH": "/boot/efi",
}
DEVICES = ("null", "zero", "full", "random", "urandom")
UUID = "0f6d2c11-7a9e-4d55-9c1a-2b7f3e8d6a40"  # of the root file system, as far as anybody asks
BOOT_SIZE = "400m"
SHARED = Path("srv/shared")  # what is the host's own and is only read: packages, drivers


class Done(NamedTuple):
    """What a command in a system came to."""

    status: int
    said: str  # both streams


def missing() -> Optional[str]:
    """None where systems can be made and changed here, else the reason why not."""
    if os.geteuid():
        return "not root"
    if not os.environ.get("PRIVATE_MOUNTS"):
        return (
            "no mounts of its own: start it by tests/transactions/run, where unshare --mount --pid is allowed"
        )
    absent = [tool for tool in ("mmdebstrap", "dpkg-scanpackages", "cpio") if shutil.which(tool) is None]
    if absent:
        return "not installed: " + ", ".join(absent)
    return debian.available()


@contextlib.contextmanager
def mounted(root: Path, shared: Path) -> Iterator[None]:
    """What a running system has in its directories, mounted below ``root``, and ``shared`` at SHARED."""
    places = []
    try:
        if (
            not root.is_mount()
        ):  # as / is everywhere: where it is not, rpm 6 runs no script (its plugin "unshare")
            run(["mount", "--bind", str(root), str(root)])
            places.append(root)
        for kind, name, mode in (
            ("proc", "proc", ""),
            ("tmpfs", "dev", "0755"),
            ("tmpfs", "run", "0755"),
            ("tmpfs", "tmp", "1777"),
        ):
            run(["mount", "-t", kind, *(["-o", "mode=" + mode] if mode else []), kind, str(root / name)])
            places.append(root / name)
        _devices(root / "dev")
        (root / SHARED).mkdir(parents=True, exist_ok=True)
        run(["mount", "--bind", "-o", "ro", str(shared), str(root / SHARED)])
        places.append(root / SHARED)
        yield
    finally:
        end(root)
        for place in reversed(places):
            run(["umount", "--lazy", str(place)])


def _devices(dev: Path) -> None:
    for name in DEVICES:
        found = os.stat("/dev/" + name)
        os.mknod(str(dev / name), found.st_mode, found.st_rdev)
    (dev / "shm").mkdir()
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to("fd/%d" % number)
    (dev / "disk/by-uuid").mkdir(parents=True)
    (dev / "vda1").touch()
    (dev / "disk/by-uuid" / UUID).symlink_to("../../vda1")  # so grub-mkconfig names the root by it


def end(root: Path) -> None:
    """End what still runs in a system."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(str(process / "root"))) == root:
                os.kill(int(process.name), signal.SIGKILL)


def start(root: Path, script: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a shell script in a system, without a network; its standard input is empty."""
    argv = ["unshare", "--net", "chroot", str(root), "/bin/sh", "-ec", "cd /; " + script]
    return subprocess.Popen(
        argv,
        env=dict(ENVIRONMENT, **environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        start_new_session=True,
    )


def ran(root: Path, script: str, timeout: float = 300, **environment: str) -> Done:
    """Run a shell script in a system to its end."""
    with start(root, script, **environment) as process:
        try:
            said, _nothing = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end(root)
            said, _nothing = process.communicate()
            raise LabError("no end within %d s: %s\n%s" % (timeout, script, said[-3000:])) from None
    return Done(process.returncode, said)


def _processes(root: Path) -> Iterator[Tuple[List[str], Path]]:
    """(command line after its first word, directory in /proc) of each process in a system."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(str(process / "root")) == str(root):
                yield (process / "cmdline").read_text().split("\0")[1:-1], process


def _kill(process: Path) -> None:
    """Kill a process and all that it has started."""
    with contextlib.suppress(OSError):
        children = (process / "task" / process.name / "children").read_text().split()
        os.kill(int(process.name), signal.SIGKILL)
        for child in children:
            _kill(process.parent / child)


def kill_amid(root: Path, words: List[str]) -> None:
    """Kill what runs with these words, amid its work."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        for line, process in _processes(root):
            if line[: len(words)] == words:
                time.sleep(0.2)
                return _kill(process)
        time.sleep(0.005)
    raise AssertionError("it never ran")


class Layers(NamedTuple):
    """A system as it was left at some time: directories of an overlay, topmost first, and what is in its
    /boot.
    """

    lower: Tuple[Path, ...]
    boot: Path


class Root:
    """A system that is changed: in memory, as an overlay. /boot is an ext4 of its own: what can be done with
    a boot loader's file depends on what it lies on, and GRUB's names for files on what is mounted where."""

    def __init__(self, layers: Layers, memory: Path, shared: Path) -> None:
        self.layers = layers
        self.work = Path(tempfile.mkdtemp(dir=str(memory)))
        self.path = self.work / "root"
        self.boot = self.path / "boot"
        self._stack = contextlib.ExitStack()
        for name in ("upper", "work", "root"):
            (self.work / name).mkdir()
        self._mount(
            "-t",
            "overlay",
            "overlay",
            "-o",
            "lowerdir=%s,upperdir=%s,workdir=%s"
            % (":".join(map(str, layers.lower)), self.work / "upper", self.work / "work"),
            str(self.path),
        )
        for number, place in enumerate(("", "efi")):  # no room is kept for root alone
            image = str(self.work / ("%d.ext4" % number))
            run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", str(layers.boot / place), image, BOOT_SIZE])
            self._mount("-o", "loop", image, str(self.boot / place))
        self._stack.enter_context(mounted(self.path, shared))
        for place in (self.boot, self.boot / "efi"):  # sid's grub-editenv asks what its file lies on
            device = os.stat(str(place)).st_dev
            name = os.path.basename(
                os.path.realpath("/sys/dev/block/%d:%d" % (os.major(device), os.minor(device)))
            )
            os.mknod(str(self.path / "dev" / name), stat.S_IFBLK | 0o600, device)

    def _mount(self, *words: str) -> None:
        run(["mount", *words])
        self._stack.callback(run, ["umount", words[-1]])

    def freeze(self) -> Layers:
        """The system as it is now, for others to go on from; it is not to be changed any more."""
        run(["cp", "-a", str(self.boot), str(self.work / "boot")])
        self._stack.close()
        return Layers((self.work / "upper", *self.layers.lower), self.work / "boot")

    def remove(self) -> None:
        self._stack.close()
        shutil.rmtree(str(self.work))

    def run(self, script: str, **environment: str) -> Done:
        return ran(self.path, script, **environment)

    def ok(self, script: str, **environment: str) -> str:
        """What a script said that has to succeed."""
        done = self.run(script, **environment)
        assert done.status == 0, "%s: exit status %d\n%s" % (script, done.status, done.said)
        return done.said

    def start(self, script: str, **environment: str) -> "subprocess.Popen[str]":
        return start(self.path, script, **environment)


def write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    """Write a file of a system, and the directories above it."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in memory."""
    with tempfile.TemporaryDirectory(prefix="transactions-") as directory:
        run(["mount", "-t", "tmpfs", "-o", "size=8g", "tmpfs", directory])
        try:
            yield Path(directory)
        finally:
            run(["umount", "--lazy", directory])
