# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The indexes that an image's module tree shall have: made by the host's depmod, with the driver in it, and
looked into.
"""

import os
from typing import Dict, Iterable, List, Sequence

from ...errors import KmodError, from_oserror
from ...host import Host
from ...read import index
from ...read.depmod import dependencies
from ...read.kernel_module import KernelModule
from ...read.names import module_of
from .kept import InImage
from .plain import plain

# what depmod reads of a tree besides the modules, and modules.order
ITS_INPUT = ("modules.builtin", "modules.builtin.modinfo")


def made(
    host: Host,
    release: str,
    had: InImage,
    *,
    stays: Dict[str, str],
    added: Dict[str, KernelModule],
    directory: str,
) -> Dict[str, bytes]:
    """{name: content} of the indexes that depmod makes of the modules that stay and the added ones, as far as
    the image's own differ.

    ``stays``: {path below the module directory: file}. The tree is laid out in ``directory``, where the
    image's files lie.
    """
    root = os.path.join(directory, "root")
    base = os.path.join(root, "usr/lib/modules", release)
    config = os.path.join(directory, "depmod.conf")
    try:
        _lay_out(host, base, had, stays=stays, added=added)
        os.symlink("usr/lib", os.path.join(root, "lib"))  # depmod looks in lib or in usr/lib, as it was built
        with open(config, "w") as handle:
            handle.write("search updates built-in\n")
        host.run(["depmod", "-b", root, "-C", config, release])
        new = {
            name: _content(os.path.join(base, name))
            for name in sorted(os.listdir(base))
            if name.startswith("modules.") and not name.startswith(("modules.builtin", "modules.order"))
        }
        _refuse_half(new, had, list(stays) + list(added))
        differing = {
            name: data
            for name, data in new.items()
            if name not in had.files or _content(had.files[name]) != data
        }
    except OSError as error:
        raise from_oserror(root, error, "lay out the module tree") from None
    if "modules.dep" not in differing:
        _depmod_failed("has not listed %s" % ", ".join(sorted(added)))
    return differing


def _lay_out(
    host: Host, base: str, had: InImage, *, stays: Dict[str, str], added: Dict[str, KernelModule]
) -> None:
    os.makedirs(base)
    for path, file in list(stays.items()) + [
        (name, had.files[name]) for name in ITS_INPUT if name in had.files
    ]:
        os.makedirs(os.path.dirname(os.path.join(base, path)), exist_ok=True)
        os.link(file, os.path.join(base, path))
    for path, module in added.items():
        os.makedirs(os.path.dirname(os.path.join(base, path)), exist_ok=True)
        with open(os.path.join(base, path), "wb") as handle:
            for chunk in plain(host, module.path):
                handle.write(chunk)
    # depmod sorts by this list, and what is not on it in the order of the directory: with all on it, the same
    # tree gives the same indexes
    with open(os.path.join(base, "modules.order"), "w", encoding="utf-8", errors="surrogateescape") as order:
        for path in _order(had, stays, added):
            order.write(path + "\n")


def _content(file: str) -> bytes:
    with open(file, "rb") as handle:
        return handle.read()


def _refuse_half(new: Dict[str, bytes], had: InImage, paths: Sequence[str]) -> None:
    """Look into what depmod made: its exit status tells nothing of a full disk or of a stub in its place."""
    listed = dependencies(new.get("modules.dep", b"").decode("utf-8", "replace"))
    missing = [path for path in paths if path not in listed]
    if missing:
        _depmod_failed("has not listed %s" % ", ".join(sorted(missing)[:5]))
    for name in sorted(
        set(new) | {name for name in had.files if name.startswith("modules.") and name.endswith(".bin")}
    ):
        if (
            name.endswith(".bin")
            and not name.startswith("modules.builtin")
            and not index.whole(new.get(name, b""))
        ):
            _depmod_failed("has made no whole %s" % name)
    if "modules.dep.bin" in new:  # which is what modprobe reads
        entries = index.entries(new["modules.dep.bin"])
        missing = [
            path
            for path in paths
            if not any(row.startswith(path + ":") for row in entries.get(module_of(path), ()))
        ]
        if missing:
            _depmod_failed("has left %s out of modules.dep.bin" % ", ".join(sorted(missing)[:5]))


def _depmod_failed(why: str) -> None:
    raise KmodError(
        "depmod", why, "Look whether depmod works on this host, and whether its disks are full", "TOOL_FAILED"
    )


def _order(had: InImage, stays: Iterable[str], added: Iterable[str]) -> List[str]:
    lines: List[str] = []
    if "modules.order" in had.files:
        with open(had.files["modules.order"], encoding="utf-8", errors="surrogateescape") as handle:
            lines = handle.read().split()
    paths = {_uncompressed(path) for path in stays} | set(added)
    first = [line for line in lines if line in paths]
    return first + sorted(paths - set(first))


def _uncompressed(path: str) -> str:
    """As modules.order has it."""
    return path[: path.rindex(".ko")] + ".ko"
