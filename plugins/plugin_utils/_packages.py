# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels' packages on the controller: a directory for each kernel, whole or not there, with the digests of its
files. Hosts that are offered the same kernel of the same distribution find it there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files

SUMS = "sums.json"


def place(cache: str, record: dict[str, Any], packages: list[dict[str, str]]) -> str:
    """Where these packages belong. What is the same by this is one kernel: distribution, architecture, and of each
    package name, version, repository and, where the lists have it, the digest.
    """
    what = [record["distribution"], record["machine"], record["lists"]["manager"], packages]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return os.path.join(os.path.abspath(os.path.expanduser(cache)), key)


@contextlib.contextmanager
def mine(where: str) -> Iterator[None]:
    """One worker at a time: the others wait, and find what it has brought."""
    os.makedirs(os.path.dirname(where), 0o700, exist_ok=True)
    with open(where + ".lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def there(where: str) -> list[str]:
    """The packages of a kernel; none unless all of them are as they were brought."""
    try:
        with open(os.path.join(where, SUMS), encoding="utf-8") as handle:
            sums = json.load(handle)
        paths = {os.path.join(where, name): digest for name, digest in sums.items()}
        return sorted(paths) if all(_digest(path) == digest for path, digest in paths.items()) else []
    except (OSError, ValueError, AttributeError):
        return []


@contextlib.contextmanager
def new(where: str) -> Iterator[str]:
    """A directory to fill, which then takes the place of what is there."""
    made = tempfile.mkdtemp(dir=os.path.dirname(where), prefix=".new-")
    try:
        yield made
        sums = {name: _digest(os.path.join(made, name)) for name in sorted(os.listdir(made))}
        with open(os.path.join(made, SUMS), "w", encoding="utf-8") as handle:
            json.dump(sums, handle)
        shutil.rmtree(where, ignore_errors=True)
        os.rename(made, where)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check(path: str, digest: str, wanted: list[dict[str, str]]) -> None:
    """Error: OFFERED_DAMAGED for what did not come over as it left the host, or is none of the packages as the lists
    have them: other hosts are judged by it, too.
    """
    found, listed = _digest(path), {each["digest"] for each in wanted}
    if found != digest or ("" not in listed and found not in listed):
        raise KmodError(
            os.path.basename(path),
            "did not come over from the host as it is there, or is not what the lists say",
            "Run again",
            "OFFERED_DAMAGED",
        )


def _digest(path: str) -> str:
    with open(path, "rb") as handle:
        return hashlib.sha256(handle.read()).hexdigest()


def kept(subject: dict[str, Any]) -> str:
    """Keep what a host has told of its drivers for this run; answers with the name to ask for it by. Most hosts of a
    fleet tell the same.
    """
    data = json.dumps(subject, sort_keys=True).encode()
    name = hashlib.sha256(data).hexdigest()
    path = os.path.join(_files.private(), "subject-" + name)
    if not os.path.exists(path):
        with _files.new(path) as temporary, open(temporary, "wb") as handle:
            handle.write(data)
    return name


def subject(name: str) -> dict[str, Any]:
    """Error: MODULE_DATA, where it is not of this run."""
    path = os.path.join(_files.private(), "subject-" + os.path.basename(name))
    try:
        with open(path, encoding="utf-8") as handle:
            found: dict[str, Any] = json.load(handle)
            return found
    except (OSError, ValueError):
        raise KmodError(
            name[:80],
            "is nothing that a host has told in this run",
            "Ask the hosts (kmod_preflight with cache) in the same run",
            "MODULE_DATA",
        ) from None
