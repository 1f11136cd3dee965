# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine seen from a root directory: every path goes through a Host.

Paths are absolute strings as they are *inside* the root. Symlinks are resolved inside it, as after chroot(2):
an absolute target starts at the root again and ``..`` stops there, so nothing can lead out of it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import struct
from typing import Generator, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, Union

from . import tools
from .errors import KmodError, from_oserror
from .reader import READ_LIMIT, Reader
from .seen import BLIND

MAX_LINKS = 40  # the kernel's own MAXSYMLINKS
# A boot loader reads a file system without its journal. What is only there yet it does not see: after a power
# cut GRUB would start what was before.
READ_BY_LOADERS = ("/boot/", "/efi/")
# fs/ext4/ext4.h, from Linux 5.14 on: have all that is in the journal where it belongs
EXT4_IOC_CHECKPOINT = 0x4004662B
# below which a host has a directory of modules for each release; one may lead to the other
MODULES = ("/lib/modules", "/usr/lib/modules")
TEMPORARY = ".kmod-new"  # how the name of a file ends that is not whole yet
NAME_MAX = 255  # bytes, on every file system that a kernel boots from


class Host:
    """A machine, or a directory that is laid out as one."""

    as_it_is = True  # and not as plans would leave it

    def __init__(self, root: str = "/") -> None:
        if "\0" in root or not os.path.isdir(root):
            raise KmodError(
                root, "is not a directory", "Give the root directory of an installed system", "PATH_MISSING"
            )
        self.root = os.path.realpath(root)
        # whether what took long to read may be kept below /var/cache: not in check mode
        self.keeps_cache = False
        # of the lock, while it is held: tools hold it as well, until they end
        self.lock_handle: Optional[int] = None
        self._private: Set[str] = set()  # directories that are known to be root's alone
        # what is looked at, noted as long as somebody wants to know
        self.seen = BLIND

    @property
    def live(self) -> bool:
        """Whether this is the running machine itself, so that its runtime facts count."""
        return self.root == "/"

    # Looking

    def past(self) -> None:
        """Say that something is looked at without being noted here."""
        self.seen.spoil()

    def real(self, path: str, follow: bool = True) -> str:
        """Where ``path`` lies on this machine; ``follow=False`` keeps a symlink as last component as it is.

        A missing component is no error (a file to be written has none yet); a loop is.
        """
        return self._walk(path, follow)[0]

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """What is looked at here is not noted: it follows from what is."""
        seen, self.seen = self.seen, BLIND
        try:
            yield
        finally:
            self.seen = seen

    def _walk(self, path: str, follow: bool) -> Tuple[str, Set[str]]:
        """The real path, and every directory that was looked into on the way there."""
        path = _native(path)
        todo = [part for part in path.split("/") if part and part != "."][::-1]
        done: List[str] = []
        visited = {self.root}
        base = self.root.rstrip("/") + "/"
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                continue
            visited.add(base + "/".join(done) if done else self.root)
            if todo or follow:
                try:
                    target = self._link(base + "/".join([*done, part]))
                except OSError as error:
                    raise from_oserror(path, error, "look at it") from None
                if target is not None:
                    self.seen.link(base + "/".join([*done, part]), target)
                    links += 1
                    if links > MAX_LINKS:
                        raise KmodError(
                            path, "too many levels of symbolic links", "Remove the symlink loop", "PATH_LOOP"
                        )
                    if target.startswith("/"):
                        done = []
                    todo.extend([piece for piece in target.split("/") if piece and piece != "."][::-1])
                    continue
            done.append(part)
        self.seen.through(visited)
        return base + "/".join(done) if done else self.root, visited

    def _link(self, real: str) -> Optional[str]:
        """The text of a symlink; None for anything else, and where nothing is."""
        try:
            return os.readlink(real)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return None

    def _stat(self, real: str, path: str) -> Optional[os.stat_result]:
        try:
            return self.entry(real)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise from_oserror(path, error, "look at it") from None

    def entry(self, real: str) -> os.stat_result:
        """The own status of what lies at a real path. Errors: OSError."""
        try:
            found = os.lstat(real)
        except OSError as error:
            self.seen.unopened(real, error)
            raise
        self.seen.status(real, found)
        return found

    def inside(self, real: str) -> str:
        """The path inside the root of a real path: the inverse of ``real``."""
        return "/" + os.path.relpath(real, self.root) if real != self.root else "/"

    def lstat(self, path: str) -> Optional[os.stat_result]:
        """The file's own status (a symlink's, not its target's), None where there is none."""
        return self._stat(self.real(path, follow=False), path)

    def stat(self, path: str) -> Optional[os.stat_result]:
        """The status behind symlinks, None where nothing is there."""
        return self._stat(self.real(path), path)

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
        real = self.real(path, follow=False)
        try:
            target = os.readlink(real)
        except OSError as error:
            raise from_oserror(path, error, "read the symlink") from None
        self.seen.link(real, target)
        return target

    def listdir(self, path: str) -> List[str]:
        """The sorted names in a directory; none where there is no such directory."""
        real = self.real(path)
        found: List[str] = []
        try:
            found = sorted(os.listdir(real))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise from_oserror(path, error, "list the directory") from None
        self.seen.names(real, found)
        return found

    def scan(self, path: str) -> Tuple[str, List["os.DirEntry[str]"]]:
        """Where a directory lies, and its entries by name. Errors: OSError, PATH_LOOP."""
        real = self.real(path)
        found = sorted(os.scandir(real), key=lambda entry: entry.name)
        self.seen.entries(real, found)
        return real, found

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Reader]:
        """A regular file for reading, never anything that could block or answer for ever (a FIFO, a device)."""
        yield from self._reader(path, self.real(path))

    def _reader(self, path: str, real: str) -> Iterator[Reader]:
        try:
            handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.seen.unopened(real, error)
            raise from_oserror(path, error, "open the file") from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise KmodError(path, "is not a regular file", "Name a file", "FILE_NOT_REGULAR")
            if not self.live:
                _refuse_swapped(path, real, handle)
            self.seen.opened(real, status)
            yield Reader(path, handle, status)
        finally:
            os.close(handle)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """The whole of a regular file of at most ``limit`` bytes."""
        with self.open(path) as reader:
            if reader.size > limit:
                raise KmodError(
                    path,
                    "has %d bytes, more than the %d that are read" % (reader.size, limit),
                    code="FILE_TOO_LARGE",
                )
            data = b"".join(reader.chunks(limit=limit))
        if self.seen is not BLIND:
            self.seen.content(self.real(path), data)
        return data

    def read_text(self, path: str, limit: int = 4 << 20) -> str:
        """A small configuration file; bytes that are no UTF-8 survive a round trip (surrogateescape)."""
        return self.read(path, limit).decode("utf-8", "surrogateescape")

    def find(self, path: str, pattern: str) -> List[str]:
        """What ``pattern``, with one group, finds in a text of which nothing else counts: /proc/keys tells how
        long each key lives, too.
        """
        with self.unseen():
            text = self.read_text(path)
        found = [str(each) for each in re.findall(pattern, text, re.MULTILINE)]
        self.seen.found(self.real(path), pattern, found)
        return found

    def lay(self, path: str, name: str) -> None:
        """Have ``name``, elsewhere on this machine, be that file for a tool to read. Errors: OSError."""
        os.symlink(self.real(path), name)

    def laid_out(self, path: str, name: str) -> str:
        """Where a tool finds a directory of files: there, or else as ``name``. Errors: OSError."""
        return self.real(path)

    def free(self, path: str) -> int:
        """Bytes that an unprivileged or privileged writer (as we are) can still put on the file system of
        ``path``.
        """
        return self.room(path)[1]

    def room(self, path: str) -> Tuple[int, int]:
        """The device that ``path`` is on, or will be, and the bytes that are free there."""
        real = self.real(path)
        self.past()
        while not os.path.isdir(real):
            real = os.path.dirname(real)
        try:
            status = os.statvfs(real)
            return os.stat(real).st_dev, status.f_frsize * (
                status.f_bfree if os.geteuid() == 0 else status.f_bavail
            )
        except OSError as error:
            raise from_oserror(path, error, "see how much room there is") from None

    # Changing

    def replace(
        self,
        path: str,
        data: Union[bytes, Iterable[bytes]],
        mode: int = 0o644,
        *,
        owner: Optional[Sequence[int]] = None,
        sha256: str = "",
    ) -> None:
        """Put a regular file at ``path``, whole or not at all: temporary file beside it, fsync, rename, fsync
        of the directory.

        With ``sha256`` the temporary file is read again, and gets its name only if it holds that.
        """
        with self._renamed(path, "write the file") as temporary:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                for chunk in (data,) if isinstance(data, bytes) else data:
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(handle, view) :]
                if owner is not None and os.geteuid() == 0:
                    _where_supported(os.fchown, handle, *owner)
                _where_supported(os.fchmod, handle, mode)
                os.fsync(handle)
            finally:
                os.close(handle)
                if isinstance(data, Generator):
                    # what it holds (a scratch directory) goes now: an error's traceback would keep it until
                    # the run is over
                    data.close()
            if sha256 and _sha256(temporary) != sha256:
                raise KmodError(
                    path,
                    "what was written is not what was planned: what it is made from changed meanwhile",
                    "Run again",
                    "FILE_CHANGED",
                )

    def symlink(self, path: str, target: str) -> None:
        """Put a symlink at ``path`` in one step, over a file or symlink that is there."""
        with self._renamed(path, "make the symlink") as temporary:
            os.symlink(target, temporary)

    @contextlib.contextmanager
    def _renamed(self, path: str, doing: str) -> Iterator[str]:
        """The name beside ``path`` to make something under, which then takes the place of what is there."""
        real = self._writable(path)
        name = temporary(real)
        try:
            _clear(name)
            yield name
            os.replace(name, real)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, doing) from None
        finally:
            # what stays is cleared away by the next run: see lock.py
            with contextlib.suppress(OSError, KmodError):
                _clear(name)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        real = self._writable(path)
        try:
            os.mkdir(real)
            os.chmod(real, mode)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, "make the directory") from None

    def remove(self, path: str) -> None:
        """Remove a file, a symlink or an empty directory."""
        real = self._writable(path)
        try:
            if os.path.isdir(real) and not os.path.islink(real):
                os.rmdir(real)
            else:
                os.unlink(real)
            _fsync_directory(real)
        except OSError as error:
            raise from_oserror(path, error, "remove it") from None

    def _writable(self, path: str) -> str:
        """Where ``path`` lies, in directories that nobody but root can rearrange between this look and what
        is done next. Error: TREE_NOT_PRIVATE.
        """
        self.past()
        real, visited = self._walk(path, follow=False)
        for directory in sorted(visited - self._private) if os.geteuid() == 0 else ():
            try:
                status = os.lstat(directory)
            except OSError:  # what is missing is reported by who wants to write there
                continue
            group = status.st_mode & stat.S_IWGRP and status.st_gid != 0
            if status.st_uid != 0 or group or status.st_mode & stat.S_IWOTH:
                raise KmodError(
                    self.inside(directory),
                    "can be changed by others than root, who could lead what is written here elsewhere",
                    "Give it to root alone: chown root: and chmod go-w",
                    "TREE_NOT_PRIVATE",
                )
            self._private.add(directory)
        return real

    # Its tools

    def run(
        self,
        argv: Sequence[str],
        stdin: Optional[bytes] = None,
        check: bool = True,
        *,
        timeout: Optional[float] = None,
        directory: Optional[str] = None,
        **environment: str,
    ) -> tools.Completed:
        """Run one of this machine's tools, see ``tools.run``. One that outlives us keeps the lock."""
        self.past()
        held = () if self.lock_handle is None else (self.lock_handle,)
        return tools.run(argv, stdin, check, held=held, timeout=timeout, directory=directory, **environment)


def _native(path: str) -> str:
    """A path as Python has it for this machine's file systems: what files say is UTF-8, and Python 3.6 may
    take names for ASCII in the C locale.
    """
    try:
        if "\0" not in path:
            return os.fsdecode(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half a character, as JSON can have it
        pass
    raise KmodError(path, "is no path", "Name a file", "PATH_MISSING")


def temporary(real: str) -> str:
    """The name that a file has until it is whole.

    One fixed name a file, so that a killed run leaves at most what its rerun overwrites. The leading dot and
    the suffix keep it out of every glob that boot tools use (initramfs-*.img, *.conf, *.ko).
    """
    directory, name = os.path.split(real)
    new = "." + name + TEMPORARY
    if len(os.fsencode(new)) > NAME_MAX:
        new = "." + hashlib.sha256(os.fsencode(name)).hexdigest() + TEMPORARY
    return os.path.join(directory, new)


def _sha256(real: str) -> str:
    digest = hashlib.sha256()
    with open(real, "rb", buffering=0) as handle:
        for chunk in iter(lambda: handle.read(1 << 18), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _clear(name: str) -> None:
    """Remove what a killed run has left under the name of a temporary file."""
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass
    except OSError:
        if not os.path.isdir(name):
            raise
        raise KmodError(
            name,
            "is in the way: a file is written under that name before it is put in its place",
            "Move it away",
            "IN_THE_WAY",
        ) from None


def _refuse_swapped(path: str, real: str, handle: int) -> None:
    """Refuse what was opened elsewhere than where it was found: others may rearrange directories inside a
    root. Error: PATH_MOVED.
    """
    try:
        where = os.readlink("/proc/self/fd/%d" % handle)
    except OSError:  # no /proc
        return
    if where not in (real, real + " (deleted)"):
        raise KmodError(
            path, "was moved while it was opened", "Run again when nobody changes the tree", "PATH_MOVED"
        )


def _fsync_directory(real: str) -> None:
    handle = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _where_supported(os.fsync, handle)
        if real.startswith(READ_BY_LOADERS):
            with contextlib.suppress(OSError):  # another file system, an older kernel, not root
                fcntl.ioctl(handle, EXT4_IOC_CHECKPOINT, struct.pack("I", 0))
    finally:
        os.close(handle)


def _where_supported(call, *arguments) -> None:  # type: ignore[no-untyped-def]
    """Owners, modes and directory syncs: a FAT file system (an EFI system partition) has none of them."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
