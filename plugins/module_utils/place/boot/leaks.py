# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Arguments of our entries that others have carried into what is not ours.

kernel-install takes the running system's arguments for the entry of a new kernel where there is no
/etc/kernel/cmdline (20-grub, 90-loaderentry), and ``grubby --update-kernel=ALL`` writes those of the last
entry into that file. After a trial these are ours, and the arguments that have a trial come back by itself:
all kernels to come would reboot where they should wait. Each is one place that is found, and mended: our
words go, all others stay as they are. What was asked for besides (kmod_args) is known by the entries of ours
that have it.
"""

import re
from typing import Container, Dict, List, Tuple

from ...errors import forgiving
from ...host import Host
from ...plan import Plan
from ..texts import MARKER
from . import loaders
from .menu import Entry, without_ours
from .view import View

CMDLINE = "/etc/kernel/cmdline"
_OURS = re.compile(r"(^|\s)%s[.=]" % re.escape(MARKER))


def found(host: Host) -> List[str]:
    """The files that hold arguments of ours and are none of ours, sorted."""
    view = View(host)
    return sorted(_mended(host, view))


def rewritten(host: Host) -> List[str]:
    """The entries of ours whose arguments others have written anew, by their files and titles: the next look
    writes them as they are to be.
    """
    view, changed = View(host), []
    with forgiving():
        for at in loaders.installed(host):
            changed += [
                "%s (%s)" % (entry.path, entry.title)
                for entry in at.menu(view).entries
                if entry.driver and "%s=%s" % (MARKER, entry.driver) not in entry.args.split()
            ]
    return changed


def mend(host: Host) -> Tuple[Plan, List[str]]:
    """Plan that they do not, and name them."""
    view = View(host)
    texts = _mended(host, view)
    for path, text in texts.items():
        view.put(path, text)
    return view.plan(), sorted(texts)


def _mended(host: Host, view: View) -> Dict[str, str]:
    """Those files, each with its text without what is ours."""
    paths = {}
    entries: List[Entry] = []
    with forgiving():  # no boot loader, or a menu that cannot be read, has no entries to mend
        for at in loaders.installed(host):
            entries += at.menu(view).entries
    written = {word for entry in entries if entry.driver for word in behind_mark(entry.args)}
    text = view.text(CMDLINE)
    if text and _OURS.search(text):
        paths[CMDLINE] = without_ours(text.strip(), written) + ("\n" if text.endswith("\n") else "")
    for entry in entries:
        if (
            entry.driver is None
            and entry.path.endswith(".conf")
            and _OURS.search(entry.args)
            and not _starts_variant(entry)
        ):
            paths[entry.path] = _options(view.text(entry.path) or "", written)
    return paths


def behind_mark(args: str) -> List[str]:
    """What an entry of ours has behind its mark: what we added, unless variables follow."""
    words = re.split(r"\s%s\.\S+" % re.escape(MARKER), " " + args)[-1].split()
    return [word for word in words[: words.index("--") if "--" in words else None] if "$" not in word]


def _starts_variant(entry: Entry) -> bool:
    """Whether it may be somebody's own copy of an entry of ours, which is as they want it."""
    return any(re.search(r"\.\d+$", word) for word in entry.initrd)


def _options(text: str, written: Container[str]) -> str:
    return re.sub(
        r"^(options[ \t]+)(.*)$",
        lambda line: line.group(1) + without_ours(line.group(2), written),
        text,
        flags=re.M,
    )
