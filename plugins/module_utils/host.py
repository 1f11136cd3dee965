# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine seen from a root directory: every path goes through a Host.

Paths are absolute strings as they are *inside* the root. Symlinks are resolved inside it, as after chroot(2): an absolute target
starts at the root again and ``..`` stops there, so nothing can lead out of it.
"""
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import time
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Union

from .errors import KmodError, from_oserror

MAX_LINKS = 40  # the kernel's own MAXSYMLINKS
READ_LIMIT = 512 << 20
SBIN = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")  # an unprivileged PATH often lacks sbin


class Completed(NamedTuple):
    """What a tool did: exit status and its two texts."""

    status: int
    out: str
    err: str


class Host:
    """A machine, or a directory that is laid out as one."""

    def __init__(self, root: str = "/") -> None:
        if not os.path.isdir(root):
            raise KmodError(root, "is not a directory", "Give the root directory of an installed system", "PATH_MISSING")
        self.root = os.path.realpath(root)
        self.keeps_cache = False  # whether what took long to read may be kept below /var/cache: not in check mode

    @property
    def live(self) -> bool:
        """Whether this is the running machine itself, so that its runtime facts count."""
        return self.root == "/"

    # Looking

    def real(self, path: str, follow: bool = True) -> str:
        """Where ``path`` lies on this machine; ``follow=False`` keeps a symlink as last component as it is.

        A missing component is no error (a file to be written has none yet); a loop is.
        """
        todo = [part for part in path.split("/") if part and part != "."][::-1]
        done: List[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            here = os.path.join(self.root, *done, part)
            if todo or follow:
                try:
                    target: Optional[str] = os.readlink(here)
                except OSError:  # not a symlink, or not there
                    target = None
                if target is not None:
                    links += 1
                    if links > MAX_LINKS:
                        raise KmodError(path, "too many levels of symbolic links", "Remove the symlink loop", "PATH_LOOP")
                    if target.startswith("/"):
                        done = []
                    todo.extend([piece for piece in target.split("/") if piece and piece != "."][::-1])
                    continue
            done.append(part)
        return os.path.join(self.root, *done)

    def inside(self, real: str) -> str:
        """The path inside the root of a real path: the inverse of ``real``."""
        return "/" + os.path.relpath(real, self.root) if real != self.root else "/"

    def lstat(self, path: str) -> Optional[os.stat_result]:
        """The file's own status (a symlink's, not its target's), None where there is none."""
        return _stat(self.real(path, follow=False), path)

    def stat(self, path: str) -> Optional[os.stat_result]:
        """The status behind symlinks, None where nothing is there."""
        return _stat(self.real(path), path)

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def is_dir(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def is_file(self, path: str) -> bool:
        found = self.stat(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_link(self, path: str) -> bool:
        found = self.lstat(path)
        return found is not None and stat.S_ISLNK(found.st_mode)

    def readlink(self, path: str) -> str:
        """The symlink's own text."""
        try:
            return os.readlink(self.real(path, follow=False))
        except OSError as error:
            raise from_oserror(path, error, "read the symlink") from None

    def listdir(self, path: str) -> List[str]:
        """The sorted names in a directory; none where there is no such directory."""
        try:
            return sorted(os.listdir(self.real(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise from_oserror(path, error, "list the directory") from None

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator["Reader"]:
        """A regular file for reading, never anything that could block or answer for ever (a FIFO, a device)."""
        real = self.real(path)
        try:
            handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise from_oserror(path, error, "open the file") from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise KmodError(path, "is not a regular file", "Name a file", "FILE_NOT_REGULAR")
            yield Reader(path, handle, status)
        finally:
            os.close(handle)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """The whole of a regular file of at most ``limit`` bytes."""
        with self.open(path) as reader:
            if reader.size > limit:
                raise KmodError(path, "has %d bytes, more than the %d that are read" % (reader.size, limit), code="FILE_TOO_LARGE")
            return b"".join(reader.chunks(limit=limit))

    def read_text(self, path: str, limit: int = 4 << 20) -> str:
        """A small configuration file; bytes that are no UTF-8 survive a round trip (surrogateescape)."""
        return self.read(path, limit).decode("utf-8", "surrogateescape")

    def free(self, path: str) -> int:
        """Bytes that an unprivileged or privileged writer (as we are) can still put on the file system of ``path``."""
        real = self.real(path)
        while not os.path.isdir(real):
            real = os.path.dirname(real)
        status = os.statvfs(real)
        return status.f_frsize * (status.f_bfree if os.geteuid() == 0 else status.f_bavail)

    # Changing

    def replace(self, path: str, data: Union[bytes, Iterable[bytes]], mode: int = 0o644, owner: Optional[Sequence[int]] = None,
                sha256: str = "") -> None:
        """Put a regular file at ``path``, whole or not at all: temporary file beside it, fsync, rename, fsync of the directory.

        With ``sha256`` the temporary file is read again, and gets its name only if it holds that.
        """
        real = self.real(path, follow=False)
        temporary = self._temporary(real)
        try:
            _unlink(temporary)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                for chunk in (data,) if isinstance(data, bytes) else data:
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(handle, view):]
                if owner is not None and os.geteuid() == 0:
                    _where_supported(os.fchown, handle, *owner)
                _where_supported(os.fchmod, handle, mode)
                os.fsync(handle)
            finally:
                os.close(handle)
            if sha256 and _sha256(temporary) != sha256:
                raise KmodError(path, "what was written is not what was planned: what it is made from changed meanwhile", "Run again", "FILE_CHANGED")
            os.replace(temporary, real)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, "write the file") from None
        finally:
            _unlink(temporary)

    def symlink(self, path: str, target: str) -> None:
        """Put a symlink at ``path`` in one step, over a file or symlink that is there."""
        real = self.real(path, follow=False)
        temporary = self._temporary(real)
        try:
            _unlink(temporary)
            os.symlink(target, temporary)
            os.replace(temporary, real)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, "make the symlink") from None
        finally:
            _unlink(temporary)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        real = self.real(path, follow=False)
        try:
            os.mkdir(real)
            os.chmod(real, mode)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, "make the directory") from None

    def remove(self, path: str) -> None:
        """Remove a file, a symlink or an empty directory."""
        real = self.real(path, follow=False)
        try:
            if os.path.isdir(real) and not os.path.islink(real):
                os.rmdir(real)
            else:
                os.unlink(real)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, "remove it") from None

    @staticmethod
    def _temporary(real: str) -> str:
        # One fixed name a file, so that a killed run leaves at most what its rerun overwrites. The leading dot and the suffix keep it
        # out of every glob that boot tools use (initramfs-*.img, *.conf, *.ko).
        directory, name = os.path.split(real)
        return os.path.join(directory, "." + name + ".kmod-new")

    # Its tools and its lock

    @staticmethod
    def tool(name: str) -> Optional[str]:
        """The full path of one of this machine's tools, None where it has none."""
        return shutil.which(name) or shutil.which(name, path=":".join(SBIN))

    def run(self, argv: Sequence[str], stdin: Optional[bytes] = None, check: bool = True, timeout: float = 1800) -> Completed:
        """Run a tool of this machine in the C locale. With ``check`` a status other than 0 is a KmodError that shows what it said."""
        program = self.tool(argv[0])
        if program is None:
            raise KmodError(argv[0], "is not installed", "Install the package that provides it", "TOOL_MISSING")
        environment = dict(os.environ, LC_ALL="C", LANGUAGE="C")
        try:
            done = subprocess.run([program] + list(argv[1:]), input=stdin or b"", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env=environment, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise KmodError(argv[0], "did not end within %d s" % timeout, code="TOOL_TIMEOUT") from None
        result = Completed(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
        if check and result.status:
            said = (result.err.strip() or result.out.strip())[-800:]
            raise KmodError(" ".join(argv), "exit status %d: %s" % (result.status, said or "it said nothing"), code="TOOL_FAILED")
        return result

    @contextlib.contextmanager
    def lock(self, timeout: float = 60) -> Iterator[None]:
        """One run a host. The lock is an flock on the modules' directory itself: it needs no file of its own and dies with its holder."""
        path = next((name for name in ("/lib/modules", "/usr/lib/modules", "/") if self.is_dir(name)), "/")
        handle = os.open(self.real(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise from_oserror(path, error, "lock the directory") from None
                if time.monotonic() >= deadline:
                    raise KmodError(path, "locked by another run (%s)" % _holder(os.fstat(handle)), "Wait for it to end and run again", "LOCKED")
                time.sleep(0.1)
            yield
        finally:
            os.close(handle)


class Reader:
    """An open regular file, read in pieces."""

    def __init__(self, path: str, handle: int, status: os.stat_result) -> None:
        self.path = path
        self.handle = handle
        self.size = status.st_size
        self.status = status

    def chunks(self, size: int = 1 << 18, limit: int = READ_LIMIT) -> Iterator[bytes]:
        """From where the file stands to its end; a file that grows past ``limit`` meanwhile is an error."""
        total = 0
        while True:
            try:
                chunk = os.read(self.handle, size)
            except OSError as error:
                raise from_oserror(self.path, error, "read the file") from None
            if not chunk:
                return
            total += len(chunk)
            if total > limit:
                raise KmodError(self.path, "has more than the %d bytes that are read" % limit, code="FILE_TOO_LARGE")
            yield chunk

    def at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer at the end of the file."""
        try:
            return os.pread(self.handle, size, offset)
        except OSError as error:
            raise from_oserror(self.path, error, "read the file") from None


def _stat(real: str, path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(real)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise from_oserror(path, error, "look at it") from None


def _sha256(real: str) -> str:
    digest = hashlib.sha256()
    with open(real, "rb", buffering=0) as handle:
        for chunk in iter(lambda: handle.read(1 << 18), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _unlink(real: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(real)


def _fsync_directory(real: str) -> None:
    handle = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _where_supported(os.fsync, handle)
    finally:
        os.close(handle)


def _where_supported(call, *arguments) -> None:  # type: ignore[no-untyped-def]
    """Owners, modes and directory syncs: a FAT file system (an EFI system partition) has none of them."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def _holder(status: os.stat_result) -> str:
    """Who holds the flock, by /proc/locks: ``7: FLOCK  ADVISORY  WRITE 4711 fe:00:131075 0 EOF``."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/locks") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].split(":")[2] == str(status.st_ino):
                with open("/proc/%d/cmdline" % int(fields[4]), "rb") as cmdline:
                    return "process %s: %s" % (fields[4], cmdline.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()[:120])
    return "process unknown"
