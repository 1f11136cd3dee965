# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trials: an entry that the next boot alone starts. What was tried and how that went is remembered beside the entry, and goes with it.

Without that a play that runs every night would start what failed again every night.
"""
import hashlib
import os
from typing import Any, Dict, NamedTuple, Optional, Sequence, Set

from ...compression import decompress
from ...errors import KmodError
from ...host import Host
from ...plan import Content
from ...read import ko
from .. import depmod, loaded
from .menu import MARKER, Entry, Menu


class Trial(NamedTuple):
    """What is known of an entry's trial. It is that of these very images and arguments: with others there has been none."""

    state: str  # none, pending (the next boot), passed, failed (it has been, and the host was not seen running the driver)
    of: str  # a digest of what is tried
    remark: str  # what the entry is to remember, "" for nothing
    starts: bool = False  # whether it is this plan that has the next boot try it


def known(of: str, entry: Optional[Entry], once: Optional[str], running: Dict[str, Any]) -> Trial:
    """The trial of an entry that is there already (or not) and is to start what the digest ``of`` tells, if the next boot starts ``once`` and the
    running system shows ``running`` (see ``proof``).
    """
    remark = entry.trial if entry else ""
    had = remark.split(" ")[0] if remark.endswith(" " + of) else ""
    if entry and running["verified"] and running["booted"] == entry.kernel and mark(of) in entry.args.split():
        return Trial("passed", of, "passed " + of if had else "")
    if entry and once == entry.id:
        return Trial("pending", of, "started " + of)
    return Trial({"": "none", "started": "failed", "passed": "passed"}[had], of, remark if had else "")


def start(entry: Optional[Entry], trial: Trial) -> Trial:
    """The trial as it is once it is planned. One that failed is not repeated."""
    if entry and trial.state == "failed":
        raise KmodError(entry.title, "was started once with this very initramfs, and the host was not seen running the driver after that",
                        "Look at the console's log, or at the journal of that boot, and deploy a corrected driver. "
                        "To have the same tried again, remove the entry first (state: absent)", "TRIAL_FAILED")
    return Trial("pending", trial.of, "started " + trial.of, True)


def cancelled(trial: Trial) -> Trial:
    """The trial where the next boot is not to start it."""
    return trial._replace(state="none", remark="") if trial.state == "pending" else trial


def proof(host: Host, driver: str, menu: Menu) -> Dict[str, Any]:
    """What the running system shows of the driver: ``booted``, the kernel's release if an entry of the driver started it that is as it was then,
    and ``loaded``, each module of the driver as /sys has it (see ``loaded.state``).

    ``verified`` if the modules that are loaded, one at least, are the very ones that are deployed, by build ID or srcversion.
    """
    release = os.uname().release
    ours = [entry for entry in menu.entries if (entry.driver, entry.kernel) == (driver, release)] if host.live else []
    # That the driver is named would not tell: kernel-install gives the arguments of the running system to the entries of new kernels
    booted = any(_marks(entry.args) & _marks(_cmdline(host)) for entry in ours)
    states = _loaded(host, release, driver) if booted else {}
    return {"booted": release if booted else None, "loaded": states,
            "verified": "this" in states.values() and set(states.values()) <= {"this", "no"}}


def _loaded(host: Host, release: str, driver: str) -> Dict[str, str]:
    states = {}
    for path in depmod.linked(host, release, [driver]):
        data = decompress(host.read(path, ko.LIMIT), path, ko.LIMIT)
        module = ko.parse(data, path)
        states[module.name] = loaded.state(host, module, loaded.build_id(data, path))
    return states


def _cmdline(host: Host) -> str:
    return host.read_text("/proc/cmdline") if host.is_file("/proc/cmdline") else ""


def mark(of: str) -> str:
    """The argument that tells, once it is booted, what is tried."""
    return "%s.id=%s" % (MARKER, of[:12])


def _marks(args: str) -> Set[str]:
    return {word for word in args.split() if word.startswith(mark(""))}


def digest(host: Host, release: str, images: Sequence[str], args: str) -> str:
    """What is tried."""
    parts = [release] + [Content.stored(host, image).sha256 for image in images] + [args]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
