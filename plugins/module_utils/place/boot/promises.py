# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What this collection promises of every change, held against the menu that it would leave behind."""

from typing import Iterable, Sequence

from ...errors import KmodError
from . import cmdline
from .boot_loader import Installation
from .menu import Entry, Menu, New, key, same
from .shipped import locate
from .view import View


def check_menu(at: Installation, before: Menu, after: Menu, *, made: Iterable[New] = (), asked: bool) -> None:
    """Foreign entries are as they were; so is the default, unless another one was ``asked`` for; what was
    ``made`` reads back as it was meant.
    """
    foreign = [[key(entry) for entry in menu.entries if entry.driver is None] for menu in (before, after)]
    if foreign[0] != foreign[1]:
        raise KmodError(
            at.config,
            "the change would touch entries that are not ours",
            "Report this as a bug",
            "ENTRY_FOREIGN",
        )
    if not asked and not same(before.default, after.default):
        raise KmodError(
            at.config,
            "the default is a number, which would mean %r instead of %r"
            % (after.default and after.default.title, before.default and before.default.title),
            "Set the default by id (grub-set-default, grubby --set-default) and run again",
            "DEFAULT_WOULD_CHANGE",
        )
    for new in made:
        entry = after.ours(new.driver, new.kernel)
        if not as_meant(entry, new):
            raise KmodError(
                entry.path,
                "the new entry does not read back as it was meant: initrd %s, %s"
                % (" ".join(entry.initrd), entry.args),
                "Report this as a bug with the shipped entry",
                "ENTRY_MALFORMED",
            )


def as_meant(entry: Entry, new: New) -> bool:
    return (
        set(new.initrd) <= set(entry.initrd)
        and new.replaces not in set(entry.initrd) - set(new.initrd)
        and new.args in entry.args
    )


def check_lines(
    view: View, at: Installation, new: New, *, entry: Entry, trial: bool, fallback: Sequence[str]
) -> None:
    """What the kernel would get by each way through an entry: all that was meant, and on trial a way back."""
    kernel = locate(view.host, entry.linux)
    for line in at.loader.lines(view, at, entry):
        cmdline.check(
            entry.title,
            line,
            most=cmdline.limit(view.host, kernel) if kernel else cmdline.UNKNOWN,
            ours=new.args.split(),
        )
        if trial:
            cmdline.check_return(entry.title, line, fallback)
