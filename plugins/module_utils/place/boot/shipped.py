# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entry that a distribution ships for a kernel, and the files that it starts."""

import re
from typing import Iterator, List, Optional, Sequence, Tuple

from ...errors import KmodError, forgiving
from ...host import Host
from .boot_loader import Installation
from .loaders import detect, installed
from .menu import Entry, Menu, boots
from .view import View

_RECOVERY = re.compile(
    r"(^|\s)(single|recovery|emergency|rescue|1|s|S|systemd\.unit=(rescue|emergency)\.target)(\s|$)"
)


def initramfs(host: Host, release: str) -> Optional[str]:
    """The image on the host that the boot loader starts a kernel with; None where its menu does not tell.

    There may be others: kernel-install keeps one on the EFI system partition beside the one in /boot that it
    was copied from.
    """
    with forgiving():
        at = detect(host)
        return locate(host, initrd_word(choose(host, at, at.menu(View(host)), release=release), release))
    return None


def default(host: Host) -> Optional[Entry]:
    """The entry that boots start; None where the boot loader's files do not tell."""
    with forgiving():
        return detect(host).menu(View(host)).default
    return None


def starting(host: Host, path: str) -> List[Entry]:
    """The entries, ours and anybody's, that start an image, given by its path on the host whether it is there
    or not.

    Of every boot loader that the host has files of; ``chosen`` of each tells whether boots start it. A menu
    that cannot be read is an error.
    """
    found = []
    for at in installed(host):
        menu = at.menu(View(host))
        for entry in menu.entries:
            if starts(host, entry, [path]):
                chosen = [("default", menu.default == entry), ("once", menu.once == entry.id)]
                found.append(entry._replace(chosen=tuple(how for how, is_so in chosen if is_so)))
    return found


def starts(host: Host, entry: Entry, paths: Sequence[str]) -> bool:
    """Whether an entry starts one of these images."""
    places = [place for word in entry.initrd for place in _places(word)]
    return not {host.real(path) for path in paths}.isdisjoint(map(host.real, places))


def initrd_word(entry: Entry, release: str) -> str:
    """The one of an entry's images that is the kernel's own initramfs, beside those with microcode and the
    like.
    """
    words = [word for word in entry.initrd if release in word] or [
        word for word in entry.initrd if "$" not in word
    ]
    if len(words) != 1:
        named = " ".join(entry.initrd) or "none"
        raise KmodError(
            entry.path,
            "the entry %r does not name one initramfs of %s: %s" % (entry.title, release, named),
            "Name the entry to copy with copy_of",
            "ENTRY_MALFORMED",
        )
    return words[0]


def choose(host: Host, at: Installation, menu: Menu, *, release: str, copy_of: str = "") -> Entry:
    """The shipped entry of a kernel: generated ones before hand-made ones, this machine's own before those of
    the machine that it was cloned from, no recovery, and no two that differ."""
    shipped = [entry for entry in menu.entries if entry.driver is None]
    found = [entry for entry in shipped if boots(entry, release)]
    named = (
        [
            [entry for entry in those if copy_of == entry.id]
            or [entry for entry in those if copy_of == entry.title]
            for those in (found, shipped)
        ]
        if copy_of
        else [[], []]
    )
    if named[0] or (copy_of and not named[1]):  # it may be that of another kernel
        found = named[0]
    else:
        found = [entry for entry in found if not _RECOVERY.search(entry.args)]
        found = [entry for entry in found if entry.section.startswith("/etc/grub.d/10_")] or found
        for better in (lambda entry: locate(host, entry.linux), lambda entry: _own(host, entry)):
            if len({_started(entry) for entry in found}) > 1:
                found = [entry for entry in found if better(entry)] or found
    if not found:
        raise KmodError(
            at.config,
            "no entry boots %s%s" % (release, " and is called %r" % copy_of if copy_of else ""),
            "Let the distribution's own tool write it, or leave that kernel out",
            "ENTRY_MISSING",
        )
    if len({_started(entry) for entry in found}) > 1:
        raise KmodError(
            at.config,
            "%d entries boot %s and differ: %s"
            % (len(found), release, ", ".join("%r, called %r" % (entry.id, entry.title) for entry in found)),
            "Say which one to copy with copy_of: its id, which comes first",
            "ENTRY_AMBIGUOUS",
        )
    return next((entry for entry in found if release in entry.title), found[0])


def _started(entry: Entry) -> Tuple[str, Tuple[str, ...], str]:
    return entry.linux, entry.initrd, entry.args


def _own(host: Host, entry: Entry) -> bool:
    """Whether an entry in a file of its own is this installation's: its name begins with the machine's id, or
    what stands in for that.
    """
    texts = [
        host.read_text(path, 1 << 12).strip()
        for path in ("/etc/kernel/entry-token", "/etc/machine-id")
        if host.is_file(path)
    ]
    return bool(texts[:1]) and texts[0] != "" and entry.id.startswith(texts[0] + "-")


def locate(host: Host, path: str) -> Optional[str]:
    """The file on the host that a loader's path means."""
    return next((place for place in _places(path) if host.is_file(place)), None)


def _places(path: str) -> Iterator[str]:
    """Where on the host a loader's path may lie: it starts at the root of a file system, with the subvolume
    that is mounted there.
    """
    path = re.sub(r"^(\([^)]*\)|\$\w+)", "", path)
    # /@/boot/vmlinuz of btrfs, /BOOT/name@/vmlinuz of ZFS
    subvolume = re.match(r"/(?:.*@(?=/)|.*(?=/boot/))", path)
    for each in [path] + ([path[subvolume.end() :]] if subvolume else []):
        for mount in ("/boot", "", "/efi", "/boot/efi"):
            yield mount + each
