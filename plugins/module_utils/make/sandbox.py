# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where foreign code runs: a driver's dkms.conf, its Makefile, its scripts.

Bubblewrap gives it a file system of its own: the tools of a system, read-only, and a few directories of the
build's. Nothing else of the machine is seen: no network, no home, no /lib/modules, no process but its own. It
runs as nobody in particular, for a limited time, with limited memory, processes and room. All paths are the
same on every machine, and ``uname``, ``date`` and /proc/version answer for the kernel that is built for.
"""

import contextlib
import os
import pwd
import resource
import signal
import stat
import subprocess
import tempfile
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .. import tools
from ..errors import KmodError, from_oserror, printable

EPOCH = "1577836800"  # what the time is for ``date`` and the compiler: the same every day
PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
BLOCK = 4096  # bytes; an empty file takes an inode
SAID = 4 << 20  # bytes of a log, from either end
TICK = 0.2  # seconds between two looks at what a build uses
_HIDDEN = ("modules", "debug", "firmware")  # of /usr/lib, besides linux-kbuild-*: the machine's own kernels'
_NOT_USR = ("src", "lib", "local", "games")
_ETC = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    # sources ask these which distribution they are built on
    "os-release",
    "debian_version",
    "redhat-release",
    "lsb-release",
    "SuSE-release",
)
_OF_THE_KERNEL = (
    "cmdline",
    "config.gz",
    "kallsyms",
    "modules",
    "version_signature",
)  # in /proc: the machine's own
_UNAME = r"""#!/bin/sh
asked=
[ $# -gt 0 ] || asked=s
for each; do
    case $each in
        --all) asked=${asked}a ;;
        --kernel-name) asked=${asked}s ;;
        --nodename) asked=${asked}n ;;
        --kernel-release) asked=${asked}r ;;
        --kernel-version) asked=${asked}v ;;
        --machine) asked=${asked}m ;;
        --processor) asked=${asked}p ;;
        --hardware-platform) asked=${asked}i ;;
        --operating-system) asked=${asked}o ;;
        -*) asked=$asked${each#-} ;;
    esac
done
case $asked in *a*) asked=snrvmo ;; esac
told=
for each in 's Linux' 'n build' 'r %(release)s' 'v #1 SMP' 'm %(machine)s' 'p %(machine)s' 'i %(machine)s' 'o GNU/Linux'; do
    case $asked in *${each%%%% *}*) told="$told ${each#* }" ;; esac
done
echo "${told# }"
"""
_DATE = r"""#!/bin/sh
for each; do
    case $each in -d* | --date* | -r* | --ref* | -f* | --file*) exec /run/date "$@" ;; esac
done
exec /run/date -u -d @%(epoch)s "$@"
"""


class Limits(NamedTuple):
    """What a build may use, all its processes together."""

    seconds: int = 3600
    memory: int = 8 << 30  # bytes
    processes: int = 2000
    size: int = 8 << 30  # bytes that it writes


class Mount(NamedTuple):
    """What is seen at ``place`` inside: a file or directory of this machine, read-only unless ``writable``; or
    a symlink with the text ``link``.
    """

    place: str
    source: str = ""
    writable: bool = False
    link: str = ""


class Box(NamedTuple):
    """``system`` is the root directory of the system whose tools are used. ``work`` is where all that is
    written lies, and ``user`` whose it is; None: ours.
    """

    system: str
    work: str
    release: str
    machine: str
    limits: Limits
    mounts: Tuple[Mount, ...] = ()
    user: Optional[int] = None


class Ran(NamedTuple):
    """How a program in the sandbox ended. ``exceeded`` says which limit ended it, "" where none did."""

    status: int
    exceeded: str


def check() -> None:
    """That there can be a sandbox on this machine. Errors: SANDBOX_MISSING, SANDBOX_REFUSED."""
    if tools.find("bwrap") is None:
        raise KmodError(
            "bwrap",
            "is not installed: foreign code is built in a sandbox, or not at all",
            "Install bubblewrap on the build host",
            "SANDBOX_MISSING",
        )
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    user = unprivileged()
    done = subprocess.run(
        [tools.find("bwrap") or "bwrap"] + argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        preexec_fn=lambda: _become(user, None),
    )
    if done.returncode:
        raise _refused(done.stdout.decode("utf-8", "replace"))


def unprivileged() -> Optional[int]:
    """The user that foreign code runs as: for root one that is nobody's, else ourselves (None).

    Of those that systemd keeps for services without a user of their own: 61184 to 65519.
    """
    if os.geteuid():
        return None
    taken = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                taken.add(os.stat("/proc/" + name).st_uid)
    for number in range(4096):
        user = 61184 + (os.getpid() + number) % 4096
        try:
            pwd.getpwuid(user)
        except KeyError:
            if user not in taken:
                return user
    raise KmodError("user", "all unprivileged users are taken", "Run fewer builds at once", "SANDBOX_REFUSED")


def run(box: Box, argv: Sequence[str], variables: Dict[str, str], log: str) -> Ran:
    """Run a program in the sandbox, in the directory /. What it says is added to the file ``log``.

    Errors: those of starting it.
    """
    with contextlib.ExitStack() as stack:
        try:
            answers = stack.enter_context(tempfile.TemporaryDirectory(prefix="answers-", dir=box.work))
            os.chmod(answers, 0o755)
            out = stack.enter_context(open(log, "ab"))
            process = subprocess.Popen(
                _outside(box, _mounts(box, answers)) + ["--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_environment(variables),
                cwd="/",
                start_new_session=True,
                preexec_fn=lambda: _become(None, box.limits),
            )
        except OSError as error:
            raise from_oserror(str(error.filename or "bwrap"), error, "run it") from None
        try:
            exceeded = _watched(box, process)
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # and all that is inside dies with it
            process.wait()
        if not exceeded and os.path.getsize(log) >= box.limits.size:
            exceeded = "size (%d MiB), with what it says" % (box.limits.size >> 20)
        if process.returncode and not exceeded:
            _check_begun(log)
        return Ran(process.returncode, exceeded)


def said(log: str) -> bytes:
    """What was said: all of it, or of very much the beginning and the end. Error: those of reading."""
    try:
        with open(log, "rb") as file:
            data = file.read(SAID)
            rest = os.fstat(file.fileno()).st_size - len(data)
            if rest > SAID:
                file.seek(-SAID, os.SEEK_END)
                data += b"\n[... %d bytes ...]\n" % (rest - SAID)
            return data + file.read(SAID)
    except OSError as error:
        raise from_oserror(log, error, "read the log") from None


def _check_begun(log: str) -> None:
    """bubblewrap says so if it has not come to run anything. Error: SANDBOX_REFUSED."""
    last = said(log).rstrip().rpartition(b"\n")[2]
    if last.startswith((b"bwrap: ", b"setpriv: ", b"mount: ", b"unshare: ")):
        raise _refused(last.decode("utf-8", "replace"))


def _refused(said: str) -> KmodError:
    return KmodError(
        "bwrap",
        "cannot make a sandbox here: %s" % printable(said.strip())[-300:],
        "Allow user namespaces on the build host (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or build on another",
        "SANDBOX_REFUSED",
    )


def _outside(box: Box, mounts: Sequence[Mount]) -> List[str]:
    """The command before "--": as another user than root, who may not see all that root has named. That is
    made visible first, in a mount namespace of its own.
    """
    bwrap = tools.find("bwrap") or "bwrap"
    if box.user is None:
        return [bwrap, *_bwrap(mounts)]
    user = str(box.user)
    seen: List[Mount] = []
    binds: List[str] = []
    for mount in mounts:
        if mount.link or _open_to_all(mount.source) or mount.source.startswith(box.work + "/"):
            seen.append(mount)
            continue
        kind = "directory" if os.path.isdir(mount.source) else "file"
        place = "%s/seen-%s-%d" % (box.work, kind, len(binds))
        if kind == "directory":
            os.makedirs(place, exist_ok=True)
        else:
            with open(place, "ab"):
                pass
        binds += [mount.source, place]
        seen.append(mount._replace(source=place))
    drop = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"]
    if not binds:
        return [*drop, bwrap, *_bwrap(seen)]
    script = 'while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done; shift; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *binds, "--", *drop, bwrap, *_bwrap(seen)]


def _open_to_all(path: str) -> bool:
    """Whether every user can get there; what is in it is another matter."""
    path = os.path.realpath(path)
    wanted = stat.S_IROTH | (stat.S_IXOTH if os.path.isdir(path) else 0)
    while True:
        if os.stat(path).st_mode & wanted != wanted:
            return False
        if path == "/":
            return True
        path, wanted = os.path.dirname(path), stat.S_IXOTH


def _become(user: Optional[int], limits: Optional[Limits]) -> None:
    """In the new process, before it runs anything."""
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if limits:
        for kind, value in (
            (resource.RLIMIT_AS, limits.memory),
            (resource.RLIMIT_FSIZE, limits.size),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(kind, (value, value))
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


def _environment(variables: Dict[str, str]) -> Dict[str, str]:
    return dict(
        variables,
        PATH=PATH,
        HOME="/tmp",
        TMPDIR="/tmp",
        LC_ALL="C",
        LANGUAGE="C",
        TZ="UTC",
        SHELL="/bin/bash",
        SOURCE_DATE_EPOCH=EPOCH,
        KBUILD_BUILD_TIMESTAMP="Wed Jan  1 00:00:00 UTC 2020",
        KBUILD_BUILD_USER="build",
        KBUILD_BUILD_HOST="build",
    )


# What is seen inside


def _mounts(box: Box, answers: str) -> List[Mount]:
    return [
        Mount("/tmp", _scratch(box), writable=True),
        *_system(box.system),
        *_answers(box, answers),
        *box.mounts,
    ]


def _bwrap(mounts: Sequence[Mount]) -> List[str]:
    argv = ["--unshare-all", "--die-with-parent", "--new-session", "--hostname", "build"]
    argv += ["--uid", "1000", "--gid", "1000", "--proc", "/proc", "--dev", "/dev"]
    for mount in mounts:
        if mount.link:
            argv += ["--symlink", mount.link, mount.place]
        else:
            argv += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.place]
    # what is left is in memory, without a limit
    return argv + ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


def _scratch(box: Box) -> str:
    path = box.work + "/tmp"
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
        if box.user is not None:
            os.chown(path, box.user, box.user)
    return path


def _system(root: str) -> Iterator[Mount]:
    """The tools of a system, without what it has of kernels; what is merged into /usr is so inside."""
    for name in _names(root, "/usr"):
        if name not in _NOT_USR:
            yield _copy(root, "/usr/" + name)
    for name in _names(root, "/usr/lib"):
        if name not in _HIDDEN and not name.startswith("linux-kbuild-"):
            yield _copy(root, "/usr/lib/" + name)
    for top in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        place = "/" + top
        if os.path.islink(root.rstrip("/") + place) or top != "lib":
            if os.path.lexists(root.rstrip("/") + place):
                yield _copy(root, place)
        else:
            for name in _names(root, place):
                if name not in _HIDDEN:
                    yield _copy(root, place + "/" + name)
    for name in _ETC:
        if os.path.exists("%s/etc/%s" % (root.rstrip("/"), name)):
            yield Mount("/etc/" + name, os.path.realpath("%s/etc/%s" % (root.rstrip("/"), name)))


def _names(root: str, place: str) -> List[str]:
    try:
        return sorted(os.listdir(root.rstrip("/") + place))
    except OSError as error:
        raise from_oserror(root.rstrip("/") + place, error, "list the directory") from None


def _copy(root: str, place: str) -> Mount:
    source = root.rstrip("/") + place
    return Mount(place, link=os.readlink(source)) if os.path.islink(source) else Mount(place, source)


def _answers(box: Box, directory: str) -> Iterator[Mount]:
    """What tells which kernel this is, whose it is, and what time it is."""
    told = {"release": box.release, "machine": box.machine, "epoch": EPOCH}
    texts = {
        "uname": _UNAME % told,
        "date": _DATE % told,
        "version": "Linux version %(release)s (build@build) #1 SMP\n" % told,
        "osrelease": "%(release)s\n" % told,
        "sysversion": "#1 SMP\n",
        "passwd": "build:x:1000:1000::/tmp:/bin/bash\n",
        "group": "build:x:1000:\n",
    }
    for name, text in texts.items():
        path = "%s/%s" % (directory, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)
    usr = "/usr/bin/" if os.path.islink(box.system.rstrip("/") + "/bin") else "/bin/"
    yield Mount("/run/date", box.system.rstrip("/") + usr + "date")
    yield Mount(usr + "uname", directory + "/uname")
    yield Mount(usr + "date", directory + "/date")
    yield Mount("/proc/version", directory + "/version")
    yield Mount("/proc/sys/kernel/osrelease", directory + "/osrelease")
    yield Mount("/proc/sys/kernel/version", directory + "/sysversion")
    for name in _OF_THE_KERNEL:
        if os.path.exists("/proc/" + name):
            yield Mount("/proc/" + name, "/dev/null")
    yield Mount("/etc/passwd", directory + "/passwd")
    yield Mount("/etc/group", directory + "/group")
    yield Mount("/var/tmp", link="/tmp")


# What it uses


def _watched(box: Box, process: "subprocess.Popen[bytes]") -> str:
    """Wait for the end; the limit that was exceeded before, "" for none. Error: NO_ROOM."""
    limits, began, looked = box.limits, time.monotonic(), 0.0
    while True:
        try:
            process.wait(TICK)
            return ""
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        if now - began > limits.seconds:
            return "time (%d s)" % limits.seconds
        processes, memory = _used(process.pid)
        if processes > limits.processes:
            return "processes (%d)" % limits.processes
        if memory > limits.memory:
            return "memory (%d MiB)" % (limits.memory >> 20)
        if now - looked > 1:
            began_look = time.monotonic()
            if _size(box.work, limits.size) > limits.size:
                return "size (%d MiB)" % (limits.size >> 20)
            looked = now + 9 * (time.monotonic() - began_look)  # no more than a tenth of the time


def _used(pid: int) -> Tuple[int, int]:
    """How many processes a process has started, itself included, and their memory in bytes."""
    children: Dict[int, List[Tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open("/proc/%s/stat" % name, "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append((int(name), int(fields[21])))
    todo, count, pages = [pid], 1, 0
    while todo:
        for child, resident in children.get(todo.pop(), ()):
            count, pages = count + 1, pages + max(resident, 0)
            todo.append(child)
    return count, pages * resource.getpagesize()


def _size(directory: str, enough: int) -> int:
    """Bytes on disk below a directory, no file for less than a block; no further than to ``enough``."""
    total, todo = 0, [directory]
    while todo and total <= enough:
        with contextlib.suppress(OSError):
            for each in os.scandir(todo.pop()):
                with contextlib.suppress(OSError):
                    total += max(each.stat(follow_symlinks=False).st_blocks * 512, BLOCK)
                    if each.is_dir(follow_symlinks=False):
                        todo.append(each.path)
    return total
