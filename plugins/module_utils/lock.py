# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time changes a host, and the next one clears away what a killed run has left.

The lock is a file beside the kernels' modules, there only while something is being changed, that nobody but
its owner may open: so no other user can take it. What is about to be written is listed in it, so that the run
after a killed one, or after a power cut, knows where there may be temporary files. Tools hold the lock too:
one that outlives its killed run keeps others out until it ends.

Looking and planning need no lock. A run that finds that another one has been at work since it began to look
plans again.
"""

import contextlib
import errno
import fcntl
import json
import os
import posixpath
import shutil
import stat
import sys
import time
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, cast

from .errors import KmodError, forgiving, from_oserror, printable
from .host import MODULES, TEMPORARY, Host

NAME = ".outoftree.kmod.lock"
WAIT = 60.0  # seconds, for another run to end
TICK = 0.1  # seconds: two changes within one tick of a file system's clock look like one
SCRATCH = "outoftree.kmod-"
PLENTY = 1 << 30  # bytes that have to be free in memory before scratch files are put there
_MEMORY = "/dev/shm"


class Glance(NamedTuple):
    """What tells whether another run has been at work since: it makes and removes the lock."""

    # when the lock's directory was last changed, in ns; None where a further change might not show
    at: Optional[int]


def path(host: Host) -> str:
    """The lock, as a path inside the root."""
    return next((name for name in (*MODULES, "/") if host.is_dir(name)), "/").rstrip("/") + "/" + NAME


def glance(host: Host, wait: Optional[float] = None, clear: bool = True) -> Glance:
    """Wait until nobody changes the host.

    What a killed run has left is cleared away, unless only a look is wanted. Error: LOCKED.
    """
    real = host.real(path(host), follow=False)
    if host.lstat(path(host)) is not None:
        if clear:
            with held(host, wait=wait):
                pass
        else:
            with contextlib.suppress(PermissionError, FileNotFoundError):
                handle = _open(real, os.O_RDWR)
                try:
                    _flock(handle, host, wait)
                finally:
                    os.close(handle)
    clear_scratch(host)
    at = _changed(real)
    return Glance(at if at is not None and at < (time.time() - TICK) * 1e9 else None)


class Turn:
    """The lock, held. ``another`` tells whether another run may have been at work since the glance that it
    was taken with.
    """

    def __init__(self, host: Host, handle: int, another: bool, left: Dict[str, Any]) -> None:
        self.host = host
        self.handle = handle
        self.another = another
        self._beside, self._directories = set(_texts(left, "beside")), set(_texts(left, "directories"))

    def announce(self, paths: Sequence[str], directories: Sequence[str] = ()) -> None:
        """Write down, for the run after one that is cut off, what is written next; ``directories`` are made
        or removed.

        What was announced before stays written down: of what failed and was told, something may be left.
        """
        real = (os.path.dirname(self.host.real(each, follow=False)) for each in paths)
        self._beside.update(map(self.host.inside, real))
        self._directories.update(directories)
        with _os_errors(path(self.host)):
            _write(self.handle, self.host, beside=self._beside, directories=self._directories)


@contextlib.contextmanager
def held(host: Host, since: Optional[Glance] = None, wait: Optional[float] = None) -> Iterator[Turn]:
    """The host's lock. What an earlier run has left is cleared away, now and when it is given back.

    Errors: LOCKED, those of writing the file.
    """
    where = path(host)
    real = host._writable(where)
    with _os_errors(where):
        handle, another = _take(host, real, since, wait=wait)
    try:
        host.lock_handle = handle
        told = _listed(handle)
        turn = Turn(host, handle, another, {} if clear_leftovers(host, told) else told)
        turn.announce(())
        yield turn
    finally:
        host.lock_handle = None
        with contextlib.suppress(OSError, KmodError):
            if clear_leftovers(host, _listed(handle)):
                host.remove(where)
        os.close(handle)


@contextlib.contextmanager
def _os_errors(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_oserror(where, error, "take the lock") from None


def _take(host: Host, real: str, since: Optional[Glance], *, wait: Optional[float]) -> Any:
    deadline = time.monotonic() + (WAIT if wait is None else wait)
    before = _changed(real)
    while True:
        try:
            handle, made = _open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL), True
        except FileExistsError:
            try:
                handle, made = _open(real, os.O_RDWR), False
            except FileNotFoundError:  # given back meanwhile
                continue
        try:
            _flock(handle, host, deadline - time.monotonic())
            if _same(handle, real):
                return handle, not made or since is None or since.at is None or since.at != before
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has removed it
        before = None


def _open(real: str, flags: int) -> int:
    try:
        handle = os.open(real, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise KmodError(real, "is not the lock that it should be", "Move it away", "LOCK_ODD") from None
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        os.close(handle)
        raise KmodError(real, "is not a lock of this collection", "Move it away", "LOCK_ODD")
    return handle


def _same(handle: int, real: str) -> bool:
    try:
        status = os.lstat(real)
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)


def _changed(real: str) -> Optional[int]:
    try:
        return os.stat(os.path.dirname(real)).st_mtime_ns
    except OSError:
        return None


def _flock(handle: int, host: Host, wait: Optional[float]) -> None:
    deadline = time.monotonic() + (WAIT if wait is None else wait)
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            raise KmodError(
                path(host),
                "another run is at work on this host: %s" % _holder(handle),
                "Wait for it to end, or end it, and run again",
                "LOCKED",
            )
        time.sleep(0.1)


def _holder(handle: int) -> str:
    """Who holds the lock and since when, by what is written in it, and by /proc/locks: a tool may hold it
    after its run was killed.
    """
    told = _listed(handle)
    try:
        since = int(told["since"])
        begun = time.strftime("%H:%M:%S", time.localtime(since))
        text = "process %d (%s), for %d s, since %s" % (
            told["pid"],
            str(told["command"])[:120],
            time.time() - since,
            begun,
        )
        alive = os.path.exists("/proc/%d" % told["pid"]) or not os.path.exists("/proc/self")
    except (KeyError, TypeError, ValueError, OSError, OverflowError):
        text, alive = "it has only begun", True
    if not alive:
        text += "; it is gone, but what it has started still runs: %s" % _tool(os.fstat(handle).st_ino)
    return printable(text)


def _tool(inode: int) -> str:
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if (
                name.isdigit()
                and int(name) != os.getpid()
                and any(
                    os.stat("/proc/%s/fd/%s" % (name, each)).st_ino == inode
                    for each in os.listdir("/proc/%s/fd" % name)
                )
            ):
                with open("/proc/%s/cmdline" % name, "rb") as cmdline:
                    return "process %s (%s)" % (
                        name,
                        cmdline.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()[:120],
                    )
    return "an unknown process"


# What a killed run leaves


def _write(handle: int, host: Host, *, beside: Set[str], directories: Set[str]) -> None:
    told = {
        "pid": os.getpid(),
        "since": int(time.time()),
        "command": " ".join(sys.argv)[:400],
        "directories": sorted(directories),
        "beside": sorted(beside),
    }
    data = json.dumps(told).encode("ascii")
    os.ftruncate(handle, 0)
    os.pwrite(handle, data, 0)
    os.fsync(handle)
    directory = os.open(
        os.path.dirname(host.real(path(host), follow=False)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    )
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _listed(handle: int) -> Dict[str, Any]:
    try:
        told = json.loads(os.pread(handle, 16 << 20, 0).decode("ascii"))
        return told if isinstance(told, dict) else {}
    except (ValueError, OSError, RecursionError):
        return {}


def clear_leftovers(host: Host, told: Dict[str, Any]) -> bool:
    """Remove what a run may have left that is not whole: temporary files, and directories that it made or
    emptied. Whether nothing is left.
    """
    clean = True
    for directory in _texts(told, "beside"):
        with forgiving():  # what is no directory, or no name at all, has nothing of ours
            for name in host.listdir(directory):
                if name.startswith(".") and name.endswith(TEMPORARY):
                    clean = _removed(host, "%s/%s" % (directory.rstrip("/"), name)) and clean
    # a lock that came with a tree is not to be trusted with others
    ours = (posixpath.dirname(path(host)) + "/", "/etc/depmod.d", "/etc/modprobe.d", "/etc/modules-load.d")
    for directory in sorted(_texts(told, "directories"), key=len, reverse=True):
        possible = directory.startswith(ours) and posixpath.normpath(directory) == directory
        with forgiving():
            if (
                possible
                and host.is_dir(directory)
                and not host.is_link(directory)
                and not host.listdir(directory)
            ):
                clean = _removed(host, directory) and clean
    return clean


def _texts(told: Dict[str, Any], key: str) -> List[str]:
    found = told.get(key)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _removed(host: Host, where: str) -> bool:
    try:
        host.remove(where)
        return True
    except KmodError:
        return False


# Scratch


@contextlib.contextmanager
def scratch(inside: Optional[Host] = None) -> Iterator[str]:
    """A private directory for this run alone, as a path on this machine; ``inside`` a host's root, for tools
    that run in there.

    In memory, where there is plenty: hundreds of small files that no disk needs to see. Its name says whose
    it is.
    """
    # the name comes first: a run that is interrupted while the directory is made takes it back, too
    directory = os.path.join(_place(inside) or _elsewhere(), _mine() + os.urandom(8).hex())
    made = True
    try:
        try:
            os.mkdir(directory, 0o700)
        except OSError as error:
            made = False
            raise from_oserror(directory, error, "make a temporary directory") from None
        yield directory
    finally:
        if made:
            try:
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                # what could not be removed, or was interrupted, may be the second time; else a later run does it
                shutil.rmtree(directory, ignore_errors=True)


def unnamed_file() -> Optional[BinaryIO]:
    """A file without a name, for what is too much for memory; None where there is no place for one."""
    import tempfile

    try:
        return cast(BinaryIO, tempfile.TemporaryFile(dir=_place(None)))
    except OSError:
        return None


def _place(inside: Optional[Host]) -> Optional[str]:
    if inside is not None and not inside.live:
        return inside.real(next((each for each in ("/var/tmp", "/tmp") if inside.is_dir(each)), "/"))
    if inside is None:
        with contextlib.suppress(OSError):
            memory = os.statvfs(_MEMORY)
            if os.access(_MEMORY, os.W_OK) and memory.f_bavail * memory.f_frsize >= PLENTY:
                return _MEMORY
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None


def _elsewhere() -> str:
    import tempfile  # which imports much, and is seldom asked

    return tempfile.gettempdir()


def _mine() -> str:
    return "%s%d-%d-%s-" % (SCRATCH, os.getpid(), _namespace(), _started(os.getpid()))


def _namespace() -> int:
    """Which process IDs are meant: containers that share a directory do not share those."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: IDs are used again. Empty where there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as status:
            return status.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def clear_scratch(inside: Optional[Host] = None) -> None:
    """Remove the scratch directories of runs that were killed."""
    # tempfile.gettempdir would make a file to find out
    places = {_MEMORY, "/var/tmp", os.environ.get("TMPDIR") or "/tmp"} | (
        {str(_place(inside))} if inside else set()
    )
    for place in sorted(places):
        try:
            names = [name for name in os.listdir(place) if name.startswith(SCRATCH)]
        except OSError:
            continue
        for name in names:
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid, namespace, started = name[len(SCRATCH) :].split("-")[:3]
                status = os.lstat("%s/%s" % (place, name))
                mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
                if mine and int(namespace) == _namespace() != 0 and _started(int(pid)) != started:
                    shutil.rmtree("%s/%s" % (place, name), ignore_errors=True)
