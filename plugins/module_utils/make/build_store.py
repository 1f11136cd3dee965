# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builds that were made, each found by what it was made of.

```
STORE/DRIVER/VERSION/RELEASE/   *.ko, Module.symvers, build.json (what it is, and the digest of each file)
STORE/by-input/DIGEST           leads to the build that was made of that input
STORE/failed/DIGEST/            reason.json and log of a build that failed: not tried again until its input changes
```

``STORE/DRIVER`` and ``STORE/DRIVER/VERSION`` can be deployed as they are. Paths are those of this machine: a
store belongs to whoever builds, and is no part of a host's system.

A build is there whole or not at all. One run at a time has a driver's slot for a release; what a killed one
has left there is cleared away by the next.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

from ..errors import KmodError, from_oserror
from ..read import names
from . import whole

ABOUT = "build.json"
LOG, REASON = "log", "reason.json"
BY_INPUT, FAILED, LOCKS = "by-input", "failed", ".locks"
FORMAT = 1  # of build.json; a store with a newer one was made by a newer collection
LIMIT = 512 << 20  # bytes of one file
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~:-]{0,63}", re.ASCII)


class BuildEntry(NamedTuple):
    """A build in the store. ``about`` is its build.json: driver, version, release, input, files and what else
    its maker has written down.
    """

    directory: str
    about: Dict[str, Any]

    @property
    def driver(self) -> str:
        return str(self.about["driver"])

    @property
    def version(self) -> str:
        return str(self.about["version"])

    @property
    def release(self) -> str:
        return str(self.about["release"])

    @property
    def input(self) -> str:
        """The digest of what it was made of."""
        return str(self.about["input"])

    @property
    def modules(self) -> List[str]:
        """Paths of its .ko files."""
        return [self.path(name) for name in sorted(self.about["files"]) if name.endswith(".ko")]

    def path(self, name: str) -> str:
        return "%s/%s" % (self.directory, name)

    def contents(self) -> Dict[str, bytes]:
        """Every file by name, build.json apart. Errors: BUILD_TAMPERED, those of reading."""
        found = {}
        for name, digest in self.about["files"].items():
            link = os.path.islink(self.path(name))
            found[name] = b"" if link else _read(self.path(name))
            if link or hashlib.sha256(found[name]).hexdigest() != digest:
                raise _tampered(self.path(name), "is not the file that was put there")
        return found


class BuildFailure(NamedTuple):
    """A build that failed. ``reason`` has code, message, and what else its maker has written down."""

    directory: str
    reason: Dict[str, Any]

    @property
    def log(self) -> str:
        return "%s/%s" % (self.directory, LOG)


def check_version(version: str) -> str:
    """The version, if a directory may be called so. Error: BUILD_VERSION."""
    if not _VERSION.fullmatch(version):
        raise KmodError(
            version or '""',
            "cannot be the version of a driver in the store",
            "Use at most 64 letters, digits, and . _ + ~ : - between them",
            "BUILD_VERSION",
        )
    return version


def check_driver(driver: str) -> str:
    """The name, if a driver may be called so here. Error: DRIVER_NAME."""
    names.check_driver(driver)
    if driver in (BY_INPUT, FAILED):
        raise KmodError(
            driver, "is the name of a part of the store", "Give the driver another name", "DRIVER_NAME"
        )
    return driver


# Looking


def find(store: str, digest: str) -> Optional[BuildEntry]:
    """The build that was made of this input, verified; None where there is none.

    Errors: BUILD_TAMPERED, BUILD_STORE_NEWER, those of reading.
    """
    link = "%s/%s/%s" % (store, BY_INPUT, _checked(digest))
    if not os.path.isdir(link):  # never made, or the driver's directory was removed by hand
        return None
    try:
        directory = os.path.realpath(link)
    except FileNotFoundError:  # another run has replaced it, with what was made of another input
        return None
    if not directory.startswith(os.path.realpath(store) + "/"):
        raise _tampered(link, "leads out of the store")
    made = _opened(directory)
    return made if made and made.input == digest else None


def entry(store: str, driver: str, version: str, release: str) -> Optional[BuildEntry]:
    """One build, verified; None where there is none. Errors: those of ``find``, and of bad names."""
    return _opened(_directory(store, driver, version, release))


def entries(store: str, driver: Optional[str] = None, release: Optional[str] = None) -> List[BuildEntry]:
    """Every build, or a driver's, or those for a release, by driver, version and release; verified.

    Errors: those of ``find``.
    """
    found = []
    for name in _listed(store) if driver is None else [check_driver(driver)]:
        if name in (BY_INPUT, FAILED):
            continue
        for version in _listed(os.path.join(store, name)):
            for each in _listed(os.path.join(store, name, version)):
                made = _opened(os.path.join(store, name, version, each)) if release in (None, each) else None
                found += [made] if made else []
    return found


def newest(store: str, name: str, release: str, version: str = "") -> Optional[BuildEntry]:
    """The last build that was made for a release of a driver, called by its name or that of its dkms package, or
    that of a version; None where there is none. Errors: those of ``find``, for these builds alone.
    """
    found = []
    for driver in _listed(store):
        for each in _listed(os.path.join(store, driver)) if driver not in (BY_INPUT, FAILED) else ():
            directory = os.path.join(store, driver, each, release)
            if version not in ("", each):
                continue
            if driver != name:
                try:
                    about = _about(directory)
                except KmodError:  # whatever is wrong with it, it is no matter of ours
                    continue
                if about is None or about.get("package") != name:
                    continue
            made = _opened(directory)
            found += [made] if made else []
    return max(found, key=lambda each: os.path.getmtime(each.directory), default=None)


def releases(store: str, driver: str, version: str) -> List[str]:
    """What a version of a driver may have builds for. Errors: those of bad names."""
    return _listed(os.path.join(store, check_driver(driver), check_version(version)))


def failure(store: str, digest: str) -> Optional[BuildFailure]:
    """Why a build of this input failed, None where none did."""
    directory = "%s/%s/%s" % (store, FAILED, _checked(digest))
    try:
        reason = json.loads(_read("%s/%s" % (directory, REASON)).decode("utf-8"))
    except ValueError:
        return None  # damaged: it is tried again
    except KmodError as error:
        if error.code == "PATH_MISSING":
            return None
        raise
    return BuildFailure(directory, reason) if isinstance(reason, dict) and "code" in reason else None


def check_file(path: str, copy: str) -> None:
    """See that a copy of a file that lies in a build, wherever that has been copied to, is what build.json says,
    and that no module of the build is missing. Files elsewhere are left alone.

    Errors: BUILD_TAMPERED, BUILD_STORE_NEWER, those of reading.
    """
    directory, name = os.path.split(path)
    if not os.path.isfile("%s/%s" % (directory, ABOUT)):
        return
    try:
        about = json.loads(_read("%s/%s" % (directory, ABOUT)).decode("utf-8"))
        files = dict(about["files"]) if _DIGEST.fullmatch(about["input"]) else {}
    except (ValueError, KeyError, TypeError):
        return  # another's
    if not files:
        return
    _check_format(about, "%s/%s" % (directory, ABOUT))
    lost = sorted(
        each for each in files if each.endswith(".ko") and not os.path.exists("%s/%s" % (directory, each))
    )
    if lost:
        raise _tampered("%s/%s" % (directory, lost[0]), "is missing from its build")
    if name not in files:
        raise _tampered(path, "was added to a build")
    if hashlib.sha256(_read(copy)).hexdigest() != files[name]:
        raise _tampered(path, "is not the file that was put there")


def _opened(directory: str) -> Optional[BuildEntry]:
    """A build whose files are those that build.json lists.

    It may be replaced while it is looked at: what does not fit then is looked at again.
    """
    for _attempt in range(3):
        about = _about(directory)
        if about is None:
            return None
        made = BuildEntry(directory, about)
        try:
            there = set(_listed(directory)) - {ABOUT}
            if there != set(about["files"]):
                odd = sorted(there ^ set(about["files"]))
                raise _tampered(
                    made.path(odd[0]),
                    "was added to a build" if odd[0] in there else "is missing from its build",
                )
            made.contents()
            return made
        except KmodError:
            if _about(directory) == about:
                raise
    raise _tampered(directory, "changes all the time")


def _about(directory: str) -> Optional[Dict[str, Any]]:
    path = "%s/%s" % (directory, ABOUT)
    data = _settled(path)
    if data is None:
        if not os.path.isdir(directory):
            return None
        raise _tampered(path, "is missing from its build")
    try:
        about = json.loads(data.decode("utf-8"))
        fits = (
            isinstance(about["files"], dict)
            and all(os.path.basename(name) == name and name != ABOUT for name in about["files"])
            # the directory says the same, or somebody has moved it
            and "/".join(directory.rsplit("/", 3)[1:])
            == "%s/%s/%s" % (about["driver"], about["version"], about["release"])
            and _DIGEST.fullmatch(about["input"])
        )
    except (ValueError, KeyError, TypeError):
        raise _tampered(path, "does not describe a build") from None
    _check_format(about, path)
    if not fits:
        raise _tampered(path, "does not describe the build that it lies with")
    return dict(about)


def _check_format(about: Mapping[str, Any], path: str) -> None:
    if about.get("format") != FORMAT:
        raise KmodError(
            path,
            "was written by another version of this collection",
            "Use that version, or another store",
            "BUILD_STORE_NEWER",
        )


def _settled(path: str) -> Optional[bytes]:
    """What a build's file has in it; None where it is not there, and nobody is about to put it there."""
    for patience in (0.01, 0.1, 0.5, 0.0):
        try:
            return _read(path)
        except KmodError as error:
            if error.code != "PATH_MISSING":
                raise
        directory = os.path.dirname(path)
        if not any(map(os.path.isdir, (directory, *whole.beside(directory)))):
            break
        time.sleep(patience)
    return None


def _tampered(path: str, why: str) -> KmodError:
    return KmodError(
        path,
        why + ": the build in this directory cannot be trusted",
        "Find out who changed it; then remove the directory, and it is built again",
        "BUILD_TAMPERED",
    )


# Changing


class Slot:
    """A driver's builds for one release, while nobody else may change them."""

    def __init__(self, store: str, driver: str, release: str) -> None:
        self.store = store
        self.driver = driver
        self.release = release

    def put(self, about: Mapping[str, Any], files: Mapping[str, bytes]) -> BuildEntry:
        """Store a build, in place of the one that the version has for this release, and forget that its input
        failed. ``about`` has at least version and input; the rest is kept as it is.

        Errors: BUILD_VERSION, those of writing (ENOSPC): then all is as it was.
        """
        version, digest = check_version(str(about["version"])), _checked(str(about["input"]))
        directory = _directory(self.store, self.driver, version, self.release)
        told = dict(
            about,
            format=FORMAT,
            driver=self.driver,
            release=self.release,
            files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        )
        before = None
        with contextlib.suppress(KmodError):  # whatever is wrong with it, it goes
            before = _about(directory)
        whole.swap(directory, dict(files, **{ABOUT: _json(told)}))
        link = "%s/%s/%s" % (self.store, BY_INPUT, digest)
        with whole.os_errors(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            whole.link(link, "../%s/%s/%s" % (self.driver, version, self.release))
            if before and before["input"] != digest:
                whole.forget("%s/%s/%s" % (self.store, BY_INPUT, before["input"]))
        whole.remove("%s/%s/%s" % (self.store, FAILED, digest))
        return BuildEntry(directory, told)

    def fail(self, digest: str, reason: Mapping[str, Any], log: bytes) -> BuildFailure:
        """Keep why a build of this input failed. ``reason`` has code and message. Builds are left alone.

        Errors: those of writing.
        """
        directory = "%s/%s/%s" % (self.store, FAILED, _checked(digest))
        told = dict(reason, driver=self.driver, release=self.release)
        whole.swap(directory, {LOG: log, REASON: _json(told)})
        return BuildFailure(directory, told)


@contextlib.contextmanager
def held(store: str, driver: str, release: str, wait: float = 60) -> Iterator[Slot]:
    """The slot of a driver and a release, once nobody else has it.

    Errors: DRIVER_NAME, RELEASE_NAME, LOCKED after ``wait`` seconds, those of writing.
    """
    check_driver(driver)
    names.check_release(release, "release")
    path = "%s/%s/%s@%s" % (store, LOCKS, driver, release)
    with whole.os_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        _lock(handle, path, wait)
        for version in _listed(os.path.join(store, driver)):
            whole.mend(os.path.join(store, driver, version, release))
        yield Slot(store, driver, release)
    finally:
        os.close(handle)


def _lock(handle: int, path: str, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise from_oserror(path, error, "take the lock") from None
        if time.monotonic() >= deadline:
            raise KmodError(
                path,
                "another run has been building this driver for this release for %d s" % wait,
                "Wait for it to end, or end it, and run again",
                "LOCKED",
            )
        time.sleep(0.1)


# Small things


def _directory(store: str, driver: str, version: str, release: str) -> str:
    names.check_release(release, "release")
    return "%s/%s/%s/%s" % (store, check_driver(driver), check_version(version), release)


def _listed(directory: str) -> List[str]:
    """The names in a directory, none that begin with a dot."""
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise from_oserror(directory, error, "list the directory") from None


def _read(path: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(handle, "rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise from_oserror(path, error, "read the file") from None
    if len(data) > LIMIT:
        raise KmodError(path, "has more than %d bytes" % LIMIT, "Look what it is", "FILE_TOO_LARGE")
    return data


def _json(told: Mapping[str, Any]) -> bytes:
    return (json.dumps(told, indent=1, sort_keys=True) + "\n").encode("utf-8")


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError("%r is no SHA-256 digest" % digest)
    return digest
