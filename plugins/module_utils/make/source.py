# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A driver's source, copied to where it is built: a directory, or an archive of one.

An archive may be made to do harm: nothing of it is written outside of its directory, not through a link
either, and no more than a limit. All files get one time, so that what is built does not depend on when they
were copied, and what an earlier build has left among them goes.
"""

import hashlib
import os
import posixpath
import re
import shutil
import stat
import tarfile
from typing import Any, Iterator, List, Optional, Set, Tuple

from ..compression import stream
from ..errors import KmodError, from_oserror
from ..host import Host
from .sandbox import EPOCH

FILES = 200000
DKMS_CONF = "dkms.conf"
NOT_SOURCE = (".git", ".svn", ".hg")  # the history of a source is none
# What kbuild leaves: it would be taken for up to date. An object goes where what it was made of is there; one
# that a vendor ships instead of a source stays.
_LEFT = re.compile(
    r".*\.(ko|mod|mod\.c|mod\.o)|\..*\.cmd|\..*\.o\.d|modules\.order|Module\.symvers|\.cache\.mk"
)
_AGAIN = "Get the source again from where it came from"


def copy(path: str, target: str, limit: int) -> None:
    """Copy a source to the directory ``target``, which is made; with ``limit`` the bytes that it may have.

    Errors: PATH_MISSING, SOURCE_EMPTY, SOURCE_HOSTILE, SOURCE_DAMAGED, SOURCE_TOO_LARGE, those of reading and
    writing.
    """
    if not os.path.exists(path):
        raise KmodError(path, "does not exist", "Name the driver's source on the build host", "PATH_MISSING")
    try:
        if os.path.isdir(path):
            _copy_directory(path, target, limit)
        else:
            _unpack(path, target, limit)
            _descend(target)
        _tidy(target)
    except OSError as error:
        raise from_oserror(error.filename or path, error, "copy the source") from None
    if not any(os.path.isfile(os.path.join(target, name)) for name in (DKMS_CONF, "Makefile", "Kbuild")):
        raise KmodError(
            path,
            "has neither a dkms.conf nor a Makefile nor a Kbuild at its top",
            "Name the directory of a driver's source",
            "SOURCE_EMPTY",
        )


def _copy_directory(path: str, target: str, limit: int) -> None:
    total = count = 0
    for above, names in _walk(path):
        inside = os.path.relpath(above, path)
        os.mkdir(os.path.join(target, inside) if inside != "." else target, 0o755)
        for name in names:
            source, copied = os.path.join(above, name), os.path.join(target, inside, name)
            status = os.lstat(source)
            count += 1
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(source), copied)
            elif stat.S_ISREG(status.st_mode):
                total += status.st_size
                if total > limit or count > FILES:
                    raise _too_large(path, limit)
                shutil.copyfile(source, copied)
                os.chmod(copied, 0o755 if status.st_mode & 0o111 else 0o644)
            # sockets and the like are no source


def _walk(path: str) -> Iterator[Tuple[str, List[str]]]:
    """Each directory, those above first, with the names of what is no directory in it."""
    todo = [path]
    while todo:
        above = todo.pop()
        names = []
        for entry in sorted(os.scandir(above), key=lambda entry: entry.name):
            if not entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
            elif entry.name not in NOT_SOURCE:
                todo.append(entry.path)
        yield above, names


def _too_large(path: str, limit: int) -> KmodError:
    return KmodError(
        path,
        "has more than %d MiB, or more than %d files" % (limit >> 20, FILES),
        "Raise size, if that is what it should have",
        "SOURCE_TOO_LARGE",
    )


# Archives


def _unpack(path: str, target: str, limit: int) -> None:
    os.mkdir(target, 0o755)
    with Host("/").open(path) as reader:
        pieces = _Unpacked(stream(reader.chunks(), path, limit + (limit >> 3)))
        try:
            with tarfile.open(fileobj=pieces, mode="r|") as archive:  # type: ignore[call-overload]
                _members(path, archive, target, limit=limit)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise KmodError(
                path, "cannot be read as a tar archive: %s" % error, _AGAIN, "SOURCE_DAMAGED"
            ) from None
        except KmodError as error:
            if error.code == "COMP_LIMIT":
                raise _too_large(path, limit) from None
            raise


class _Unpacked:
    """What comes in pieces, to be read by number of bytes."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self.source = source
        self.rest = b""

    def read(self, size: int) -> bytes:
        while len(self.rest) < size:
            piece = next(self.source, b"")
            if not piece:
                break
            self.rest += piece
        found, self.rest = self.rest[:size], self.rest[size:]
        return found


def _members(path: str, archive: Any, target: str, *, limit: int) -> None:
    files: Set[str] = set()
    links: List[Tuple[str, str]] = []
    total = count = 0
    for member in archive:
        archive.members = []  # else it keeps them all
        name = _name(path, member.name)
        count += 1
        total += member.size if member.isreg() else 0
        if count > FILES or total > limit:
            raise _too_large(path, limit)
        if name == ".":
            continue
        if name in files or any(above in files for above in _above(name)):
            raise _hostile(path, name, "is there twice, or below what is no directory")
        where = os.path.join(target, name)
        if member.isdir():
            os.makedirs(where, 0o755, exist_ok=True)
            continue
        files.add(name)
        os.makedirs(os.path.dirname(where), 0o755, exist_ok=True)
        if member.isreg():
            with archive.extractfile(member) as source, open(where, "xb") as file:
                shutil.copyfileobj(source, file, 1 << 18)
            os.chmod(where, 0o755 if member.mode & 0o111 else 0o644)
        elif member.issym():
            links.append((name, _target(path, name, member.linkname)))
        elif member.islnk():
            other = _name(path, member.linkname)
            if other not in files or not os.path.isfile(os.path.join(target, other)):
                raise _hostile(path, name, "is a hard link to something that does not come before it")
            shutil.copy(os.path.join(target, other), where)
        else:
            raise _hostile(path, name, "is neither a file, a directory nor a link")
    for name, text in links:  # last, so that nothing is written through one
        os.symlink(text, os.path.join(target, name))


def _name(path: str, name: str) -> str:
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise _hostile(path, name, "leads out of the archive")
    return posixpath.normpath(name)


def _target(path: str, name: str, text: str) -> str:
    leads = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
    if text.startswith("/") or leads == ".." or leads.startswith("../"):
        raise _hostile(path, name, "is a link that leads out of the archive, to %s" % text)
    return text


def _above(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _hostile(path: str, name: str, why: str) -> KmodError:
    return KmodError(
        "%s: %s" % (path, name),
        why + ": no archive of a source is like that",
        "Do not use it; " + _AGAIN[0].lower() + _AGAIN[1:],
        "SOURCE_HOSTILE",
    )


def _descend(target: str) -> None:
    """An archive often has one directory, and the source is in it; one of ``dkms mktarball`` has two."""
    for _unused in range(3):
        names = os.listdir(target)
        inner = "dkms_source_tree" if "dkms_source_tree" in names else names[0] if len(names) == 1 else ""
        if (
            not inner
            or not os.path.isdir(os.path.join(target, inner))
            or os.path.islink(os.path.join(target, inner))
        ):
            return
        os.rename(os.path.join(target, inner), target + ".inner")
        shutil.rmtree(target)
        os.rename(target + ".inner", target)


# As it is built


def _tidy(target: str) -> None:
    """Without what an earlier build has left, and with one time for all."""
    moment = (int(EPOCH), int(EPOCH))
    for above, below, names in os.walk(target, topdown=False):
        for name in names:
            where = os.path.join(above, name)
            if not os.path.islink(where) and (_LEFT.fullmatch(name) or _compiled(name, names)):
                os.unlink(where)
            else:
                os.utime(where, moment, follow_symlinks=False)
        for name in below:
            where = os.path.join(above, name)
            if name == ".tmp_versions":
                shutil.rmtree(where)
            elif os.path.islink(where):
                os.utime(where, moment, follow_symlinks=False)
        os.utime(above, moment)


def _compiled(name: str, beside: List[str]) -> bool:
    stem = name[:-2]
    return name.endswith(".o") and not {stem + ".c", stem + ".S", ".%s.cmd" % name}.isdisjoint(beside)


def digest(target: str) -> str:
    """Of every file's path, mode and content. Not of times and owners."""
    told = hashlib.sha256()
    for above, names in _walk(target):
        for name in names:
            where = os.path.join(above, name)
            told.update(os.fsencode(os.path.relpath(where, target)) + b"\0")
            if os.path.islink(where):
                told.update(b"l" + os.fsencode(os.readlink(where)))
            else:
                told.update(b"x" if os.stat(where).st_mode & 0o100 else b"f")
                with open(where, "rb") as file:
                    content = hashlib.sha256()
                    for chunk in iter(lambda: file.read(1 << 18), b""):
                        content.update(chunk)
                told.update(content.digest())
            told.update(b"\0")
    return told.hexdigest()


def give(target: str, user: Optional[int]) -> None:
    """Make a user the owner of all of it."""
    if user is None:
        return
    for above, below, names in os.walk(target):
        for name in [".", *below, *names]:
            os.chown(os.path.join(above, name), user, user, follow_symlinks=False)


def take_back(target: str) -> None:
    """Make everything removable, whatever a build has made of it."""
    for above, below, _names in os.walk(target):
        for name in below:
            where = os.path.join(above, name)
            if not os.path.islink(where):
                os.chmod(where, 0o700)
