# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trials: an entry that the next boot alone starts.

What was tried and how that went is remembered beside the entry, and goes with it.

Without that a play that runs every night would start what failed again every night.
"""

import fnmatch
import hashlib
import itertools
import os
import re
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ...compression import decompress
from ...errors import KmodError, forgiving
from ...host import Host
from ...plan import Content
from ...read import ko, names
from ...read.names import alias_of
from .. import depmod, loaded
from ..texts import MARKER
from .menu import Entry, Menu

# written out of the initramfs: the line by which the variant says which it is
MARK = "/run/outoftree.kmod.variant"
DEVICES = 1 << 17  # directories of /sys that are looked at


class Trial(NamedTuple):
    """What is known of an entry's trial.

    It is that of these very images and arguments: with others there has been none.
    """

    # none, pending (the next boot), passed, idle (came up, nothing asked for the driver), failed (was not
    # seen running the driver)
    state: str
    of: str  # a digest of what is tried
    remark: str  # what the entry is to remember, "" for nothing
    starts: bool = False  # whether it is this plan that has the next boot try it


class Running(NamedTuple):
    """What the running system shows of a driver."""

    booted: Optional[str]  # the kernel's release, if an entry of the driver started it that is as it was then
    loaded: Tuple[Tuple[str, str], ...]  # each module of the driver as /sys has it (see ``loaded.state``)
    # whether the variant was unpacked at boot; None where it promises nothing that would tell
    initramfs: Optional[bool]
    # whether the modules that are loaded, one at least, are the very ones that are deployed, and the variant
    # was unpacked
    verified: bool
    verdict: str  # the same in a word, see ``_verdict`` and ``_shown``
    message: str  # and in a sentence

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), loaded=dict(self.loaded))


def known(of: str, entry: Optional[Entry], *, once: Optional[str], running: Running) -> Trial:
    """The trial of an entry that is there already (or not) and is to start what the digest ``of`` tells, if
    the next boot starts ``once`` and the running system shows ``running`` (see ``proof``).
    """
    remark = entry.trial if entry else ""
    had = remark.split(" ")[0] if remark.endswith(" " + of) else ""
    if entry and running.booted == entry.kernel and mark(of) in entry.args.split():
        shown = "passed" if running.verified else "idle" if running.verdict == "idle" else ""
        if shown:
            return Trial(shown, of, "%s %s" % (shown, of) if had else "")
    if entry and once == entry.id:
        return Trial("pending", of, "started " + of)
    return Trial({"": "none", "started": "failed"}.get(had, had), of, remark if had else "")


def start(entry: Optional[Entry], trial: Trial, running: Running) -> Trial:
    """The trial as it is once it is planned. One that failed is not repeated."""
    if entry:
        check(entry, trial, running)
    return Trial("pending", trial.of, "started " + trial.of, True)


def check(entry: Entry, trial: Trial, running: Running) -> None:
    """Refuse to have boots start what failed its trial."""
    if trial.state == "failed":
        what = "the driver" if len(names.apart(entry.driver or "")) == 1 else "all of its drivers"
        raise KmodError(
            entry.title,
            "was started once with this same initramfs, and the host was not seen running %s after that%s"
            % (what, ": " + running.message.rstrip(".") if running.booted == entry.kernel else ""),
            "Look at the console's log, or at the journal of that boot, and deploy a corrected driver. "
            "To try the same again, remove the entry first (state: absent)",
            "TRIAL_FAILED",
        )


def cancelled(trial: Trial) -> Trial:
    """The trial where the next boot is not to start it."""
    return trial._replace(state="none", remark="") if trial.state == "pending" else trial


def proof(host: Host, driver: str, menu: Menu, *, marks: Mapping[str, str]) -> Running:
    """What the running system shows of the driver, or of all those that share an entry (names.together).

    ``marks``: what the variant of each kernel leaves in MARK when it is unpacked.

    Modules are told by build ID or srcversion.
    """
    release = os.uname().release
    ours = (
        [entry for entry in menu.entries if (entry.driver, entry.kernel) == (driver, release)]
        if host.live
        else []
    )
    # That the driver is named would not tell: kernel-install gives the arguments of the running system to the
    # entries of new kernels
    booted = any(_marks(entry.args) & _marks(_cmdline(host)) for entry in ours)
    states = {each: _loaded(host, release, each) if booted else {} for each in names.apart(driver)}
    promised = marks.get(release, "")
    unpacked = _small(host, MARK) == promised if booted and promised else None
    verdict, message = (
        "none",
        "The running system was not started by an entry of %s as it is now." % told(driver),
    )
    if booted:
        verdict, message = _verdict(host, release, driver, states=states, unpacked=unpacked)
    return Running(
        release if booted else None,
        tuple(state for each in states.values() for state in each.items()),
        unpacked,
        verified=verdict == "well",
        verdict=verdict,
        message=message,
    )


def _verdict(
    host: Host,
    release: str,
    driver: str,
    *,
    states: Mapping[str, Mapping[str, str]],
    unpacked: Optional[bool],
) -> Tuple[str, str]:
    """What the system that the entry started shows, in a word and in a sentence: of several drivers the first
    that failed, else the first that nothing asked for; it is well when each of them has proved itself.
    """
    up = "The host came up with the entry of %s for %s" % (told(driver), release)
    if unpacked is False:
        return (
            "image",
            up
            + ", but the boot loader gave the kernel another initramfs than the variant, or none: the variant was not unpacked.",
        )
    against = [_shown(host, release, each, states[each], came=up + ", but ") for each in states]
    wrong = [each for each in against if each and each[0] != "idle"] + [each for each in against if each]
    if wrong:
        return wrong[0]
    these = [name for each in states.values() for name in each if each[name] == "this"]
    return "well", up + " and has loaded %s as deployed." % ", ".join(sorted(these))


def told(driver: str) -> str:
    """For people."""
    return ", ".join(names.apart(driver))


def _shown(
    host: Host, release: str, driver: str, states: Mapping[str, str], *, came: str
) -> Optional[Tuple[str, str]]:
    """What speaks against one driver of those that came up; None where it has proved itself."""
    named = {
        state: ", ".join(sorted(name for name in states if states[name] == state))
        for state in states.values()
    }
    for state in loaded.BETWEEN:
        if state in named:
            return "stuck", came + "%s is still %s: it crashed there, or waits for a device." % (
                named[state],
                state,
            )
    if "other" in named:
        return (
            "other",
            came
            + "with another module than the deployed one: %s. Look for what loaded that." % named["other"],
        )
    if "unknown" in named:
        return "unknown", came + "%s has neither a build ID nor a srcversion that tells which it is." % named[
            "unknown"
        ]
    if "this" in named:
        return None
    asking = _asking(host, release, driver)
    if asking:
        return "unloaded", came + (
            "no module of %s is loaded, although the device %s asks for one. Look at dmesg and at modprobe.d."
            % (driver, asking)
        )
    return "idle", came + (
        "no device asks for the driver %s, so none of its modules was loaded. If that is as it should be, prove it by "
        "loading it at boot (early_load of the variant, or modules-load.d) or now (load: true of kmod_link)."
        % driver
    )


def _asking(host: Host, release: str, driver: str) -> Optional[str]:
    """A device of the running system that a module of the driver has an alias for (kmod:
    libkmod/libkmod-index.c matches with fnmatch, too).
    """
    modules = [ko.read(host, path) for path in depmod.linked(host, release, [driver])]
    patterns = [fnmatch.translate(alias_of(alias)) for module in modules for alias in module.aliases]
    wanted = re.compile("|".join(patterns) or "(?!)")
    host.past()
    for directory, _names, files in itertools.islice(os.walk(host.real("/sys/devices")), DEVICES):
        device = host.inside(directory)
        if "modalias" in files and wanted.match(alias_of(_small(host, device + "/modalias"))):
            return device
    return None


def _loaded(host: Host, release: str, driver: str) -> Dict[str, str]:
    states = {}
    for path in depmod.linked(host, release, [driver]):
        data = decompress(host.read(path, ko.LIMIT), path, ko.LIMIT)
        module = ko.parse(data, path)
        states[module.name] = loaded.state(host, module, loaded.build_id(data, path))
    return states


def _cmdline(host: Host) -> str:
    return _small(host, "/proc/cmdline")


def _small(host: Host, path: str) -> str:
    """The one line of a file of the kernel's or of early boot; "" where there is none."""
    with forgiving():
        return host.read_text(path, 1 << 16).strip()
    return ""


def mark(of: str) -> str:
    """The argument that tells, once it is booted, what is tried."""
    return "%s.id=%s" % (MARKER, of[:12])


def _marks(args: str) -> Set[str]:
    return {word for word in args.split() if word.startswith(mark(""))}


def digest(host: Host, release: str, images: Sequence[str], *, args: str) -> str:
    """What is tried."""
    parts = [release] + [Content.stored(host, image).sha256 for image in images] + [args]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
