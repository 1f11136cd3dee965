# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of files that is there whole or not at all, whatever cuts off who writes it."""

import contextlib
import os
import shutil
from typing import Iterator, Mapping, Tuple

from ..errors import from_oserror

_NEW, _OLD = ".new", ".old"


def swap(directory: str, files: Mapping[str, bytes]) -> None:
    """Put a directory of files in the place of the one that is there, whole or not at all."""
    above = os.path.dirname(directory)
    new, old = beside(directory)
    with os_errors(directory):
        os.makedirs(above, exist_ok=True)
    mend(directory)
    try:
        with os_errors(directory):
            os.mkdir(new)
            for each, data in files.items():
                _write(os.path.join(new, each), data)
            _sync(new)
            if os.path.isdir(directory):
                os.rename(directory, old)
            os.rename(new, directory)
            _sync(above)
    finally:
        mend(directory)


def mend(directory: str) -> None:
    """Clear away what a run has left that did not get to its end; what it had put aside comes back."""
    new, old = beside(directory)
    if os.path.isdir(old) and not os.path.exists(directory):
        with os_errors(directory):
            os.rename(old, directory)
    remove(old)
    remove(new)


def link(path: str, target: str) -> None:
    new = os.path.join(os.path.dirname(path), ".%s.%d%s" % (os.path.basename(path), os.getpid(), _NEW))
    forget(new)  # of a run that was killed
    os.symlink(target, new)
    os.rename(new, path)


def forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove(directory: str) -> None:
    if os.path.isdir(directory):
        with os_errors(directory):
            shutil.rmtree(directory)


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)


def _sync(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def beside(directory: str) -> Tuple[str, str]:
    """Where a new build lies before it takes its place, and the old one until then."""
    above, name = os.path.split(directory)
    return os.path.join(above, "." + name + _NEW), os.path.join(above, "." + name + _OLD)


@contextlib.contextmanager
def os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_oserror(path, error, "write to the store") from None
