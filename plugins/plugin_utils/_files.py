# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's files: each is read once in a run of Ansible, and what is checked, judged and sent are the
bytes that were read then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ansible import constants as C

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError, from_oserror
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, source
from ansible_collections.outoftree.kmod.plugins.module_utils.read import inputs, ko, names, package
from ansible_collections.outoftree.kmod.plugins.plugin_utils._supply import Supply

HERE = Host("/")


class ModuleFile(NamedTuple):
    """A module file by the name that people know it by (of one in a package, as if that were a directory),
    and a private copy of its bytes.
    """

    path: str
    copy: str


def private() -> str:
    """A directory of this run of Ansible, closed to other users, that all its workers share."""
    directory = os.path.join(C.DEFAULT_LOCAL_TMP, "outoftree_kmod")
    os.makedirs(directory, exist_ok=True)
    return directory


def found(paths: Sequence[str], supply: Supply | None) -> list[ModuleFile]:
    """The module files at these paths, in directories and packages among them, each file (or package) held
    against the ``supply``, and a build of a build store against its build.json.
    """
    files = []
    for path in inputs.find(HERE, paths):
        copy = _copied(path, supply)
        build_store.check_file(path, copy)
        files += _unpacked(path, copy) if names.is_package(path) else [ModuleFile(path, copy)]
    return files


def described(file: ModuleFile) -> dict[str, Any]:
    """The module in a file as plain data."""
    kept = file.copy + ".json"
    with contextlib.suppress(FileNotFoundError), open(kept, encoding="utf-8") as had:
        return json.load(had)
    with _named(file.copy, file.path):
        answer = ko.read(HERE, file.copy, structs=True)._replace(path=file.path).as_dict()
    with new(kept) as name, open(name, "w", encoding="utf-8") as made:
        json.dump(answer, made)
    return answer


def archive(path: str) -> str:
    """A source as one file: an archive as it is, or one of the directory, without its history. Errors: those of
    reading.
    """
    if not os.path.isdir(path):
        return path
    made = os.path.join(private(), "source-%s.tar" % hashlib.sha256(path.encode()).hexdigest()[:16])
    try:
        with new(made) as name, tarfile.open(name, "w") as file:
            file.add(path, "source", filter=lambda member: None if _is_history(member.name) else member)
    except OSError as error:
        raise from_oserror(error.filename or path, error, "read the source") from None
    return made


def _is_history(name: str) -> bool:
    return os.path.basename(name) in source.NOT_SOURCE


def _copied(path: str, supply: Supply | None) -> str:
    """Where a private copy of the file is, as it was when a worker of this run read it first; one that has
    changed is read anew.
    """
    status = os.stat(path)
    key = "%s %d %d %d" % (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ino)
    directory = os.path.join(private(), hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest())
    os.makedirs(directory, exist_ok=True)
    kept = os.path.join(directory, os.path.basename(path))
    if not os.path.isfile(kept):
        with new(kept) as name, open(name, "wb") as made:
            made.write(HERE.read(path))
    if supply:
        supply.check(path, HERE.read(kept))
    return kept


def _unpacked(path: str, copy: str) -> list[ModuleFile]:
    kept = copy + ".d"
    if not os.path.isdir(kept):
        made = tempfile.mkdtemp(dir=private())
        with _named(copy, path):
            for name, data in package.modules(HERE, copy):
                target = os.path.join(made, name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "wb") as file:
                    file.write(data)
        with contextlib.suppress(OSError):  # another worker was first
            os.rename(made, kept)
    return [ModuleFile(path + each[len(kept) :], each) for each in inputs.find(HERE, [kept])]


@contextlib.contextmanager
def _named(copy: str, path: str) -> Iterator[None]:
    """What is wrong with a copy is wrong with the file."""
    try:
        yield
    except KmodError as error:
        raise KmodError(error.what.replace(copy, path), error.why, error.then, error.code) from None


@contextlib.contextmanager
def new(path: str) -> Iterator[str]:
    """A name to write a file under that is then renamed to ``path``: other workers may be at it, too."""
    handle, name = tempfile.mkstemp(dir=private())
    os.close(handle)
    yield name
    os.replace(name, path)
