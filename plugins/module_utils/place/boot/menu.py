# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all boot loaders have in common here: entries in a menu, and what an entry to be is made of."""

import re
from typing import Container, List, NamedTuple, Optional, Tuple

from ...errors import KmodError
from ...read import names
from ..texts import MARKER, trial_comment

# A dead kernel or initramfs, or a driver that crashes, comes back by itself: panic= also makes the script of
# initramfs-tools reboot instead of
# giving a shell, the others do it for dracut. That is for entries on trial: the default, as the shipped one,
# leaves what it died of on the console.
FALLBACK_ARGS = "panic=10 oops=panic rd.shell=0 rd.emergency=reboot"


class Entry(NamedTuple):
    """One item of the boot menu; a submenu has no kernel."""

    id: str  # as the loader knows it: what its default is set to
    title: str
    linux: str  # path of the kernel as the loader sees it
    initrd: Tuple[str, ...]
    args: str
    path: str  # the file that it is written in
    text: str  # its own text, verbatim
    position: Tuple[int, ...] = ()  # place in the menu, one number a level
    section: str = ""  # the generator that wrote it (/etc/grub.d/10_linux), where known
    driver: Optional[str] = None  # whose it is, if it is one of ours: see names.together
    kernel: Optional[str] = None  # the release that it is ours for
    trial: str = ""  # of ours: "started", "passed" or "idle", and the digest of what was tried
    xen: bool = False  # whether it starts a hypervisor, which starts the kernel
    # how boots come to start it, where that was asked (shipped.starting): "default", "once"
    chosen: Tuple[str, ...] = ()


class Menu(NamedTuple):
    """What a loader would show, and start."""

    entries: List[Entry]
    default: Optional[Entry]  # what boots start
    once: Optional[str] = None  # the id that the next boot alone starts

    def ours(self, driver: str, kernel: str) -> Entry:
        return next(entry for entry in self.entries if (entry.driver, entry.kernel) == (driver, kernel))

    def with_any(self, drivers: Container[str]) -> List[Entry]:
        """Our entries with any of the drivers."""
        return [
            entry
            for entry in self.entries
            if entry.driver and any(each in drivers for each in names.apart(entry.driver))
        ]

    def is_started(self, entry: Entry) -> bool:
        """Whether it is the default, or what the next boot alone starts."""
        return same(self.default, entry) or self.once == entry.id


class Verified(NamedTuple):
    """The images that an entry of a kernel is to start, as they were found just now by who can tell whether
    they are whole.
    """

    paths: Tuple[str, ...]  # on the host, in the order in which they are loaded
    damage: Optional[KmodError] = None  # why they must not be started
    stale: Optional[str] = None  # why they are not what would be made today
    # what the variant leaves for trials.MARK when it is unpacked at boot, "" where it promises nothing
    mark: str = ""
    driver: str = ""  # those of the variant (names.together); then whose entry it is to be


class New(NamedTuple):
    """An entry to be: how it differs from the one that it is a copy of."""

    shipped: Entry  # the one that it is a copy of
    driver: str  # or several, see names.together
    kernel: str
    initrd: Tuple[str, ...]  # as the loader sees them, in place of the shipped one
    replaces: str  # the shipped initrd as the entry names it
    args: str  # added
    trial: str = ""
    returns: bool = False  # whether it is to come back by itself where it fails

    @property
    def id(self) -> str:
        return "outoftree-%s-%s" % (names.short(self.driver), self.kernel)

    def title(self, shipped: str) -> str:
        """What tells it from the others comes first: menus cut long titles off at the right."""
        shipped = re.sub(r"[\x00-\x1f\x7f]+", " ", shipped)
        drivers = names.apart(self.driver)
        return "With driver%s %s: %s%s" % (
            "s" if len(drivers) > 1 else "",
            ", ".join(drivers),
            shipped,
            "" if self.kernel in shipped else ", with Linux " + self.kernel,
        )

    @property
    def remark(self) -> str:
        return trial_comment(self.trial)


def key(entry: Entry) -> Tuple[str, ...]:
    """What makes it the same entry later: whose it is and for which kernel, and of a foreign one each byte."""
    return (entry.driver, entry.kernel or "") if entry.driver else (entry.path, entry.text, entry.title)


def same(one: Optional[Entry], other: Optional[Entry]) -> bool:
    return (one and key(one)) == (other and key(other))


def boots(entry: Entry, release: str) -> bool:
    """Whether an entry boots that kernel."""
    return release in _releases(entry)


def release(entry: Entry) -> Optional[str]:
    """The release of the kernel that an entry boots; None where its path does not tell."""
    return next((each for each in _releases(entry) if re.match(r"[0-9]+\.[0-9]", each)), None)


def _releases(entry: Entry) -> List[str]:
    """What an entry's kernel may be the release of: ``vmlinuz-REL``, ``…/REL/linux`` as kernel-install lays
    it out, ``…/REL/linux-DIGEST`` of SUSE's sdbootutil."""
    parts = entry.linux.split("/")
    kind, _unused, behind = parts[-1].partition("-")
    found = [behind] if kind.isalpha() and behind else []
    if len(parts) > 1 and kind in ("linux", "vmlinuz") and re.fullmatch(r"[0-9A-Za-z]*", behind):
        found.append(parts[-2])
    return found


def number(text: str) -> Optional[int]:
    """The entry's number that a text is, None where it is none that a menu can have."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def without_ours(args: str, written: Container[str] = ()) -> str:
    """Arguments of a shipped entry without those of an entry of ours that was running when kernel-install
    took the running system's for it.

    ``written``: what entries of ours have besides; ours is what stands behind the mark.
    """
    words = args.split()
    marks = [number for number, word in enumerate(words) if word.startswith((MARKER + "=", MARKER + "."))]
    if not marks:
        return args
    fallback = FALLBACK_ARGS.split()
    return " ".join(
        word
        for number, word in enumerate(words)
        if number not in marks and word not in fallback and not (number > marks[0] and word in written)
    )


def check_args(args: str) -> str:
    """Arguments that mean the same to every loader, and are the kernel's: words without quoting or expansion."""
    bad = re.search(r"[^ !%()*+,\-./0-9:;=?@A-Z\[\]^_a-z~]", args)
    if bad:
        raise KmodError(
            "args",
            "not every boot loader passes %r on as it is" % bad.group(),
            "Leave it out",
            "ARGS_INVALID",
        )
    words = args.split()
    if "--" in words:
        raise KmodError(
            "args", "what follows -- is for init, not for the kernel", "Leave the -- out", "ARGS_INVALID"
        )
    own = [word for word in words if word.startswith((MARKER + "=", MARKER + "."))]
    if own:
        raise KmodError("args", "%s is for this collection to set" % own[0], "Leave it out", "ARGS_INVALID")
    return " ".join(words)
