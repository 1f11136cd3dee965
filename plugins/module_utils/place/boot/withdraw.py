# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Having no boot start entries of ours: before they go, before their images go or change, or where the old
default is to be restored.
"""

from typing import Container, List, Optional, Sequence

from ...errors import KmodError
from ...host import Host
from ...plan import Plan
from .. import texts
from . import promises
from .boot_loader import Installation
from .loaders import installed
from .menu import Entry, key, same
from .shipped import starts
from .view import View


def give_back(host: Host, paths: Sequence[str]) -> Plan:
    """Plan that no boot starts an entry with one of these images on the host: before an image becomes another
    one that was never tried.

    Where that takes the default or the next boot from an entry of ours, the old default is restored.
    DEFAULT_KEPT where it cannot be: the entry is somebody else's, or was made the default by somebody else.
    """
    plan = Plan(host)
    for at in installed(host):
        view = View(host)
        _forget(view, at, [entry for entry in _started(view, at, paths) if entry.driver])
        left = _started(view, at, paths)
        if left:
            raise KmodError(
                at.config,
                "would go on to start %r with %s, which is about to change"
                % (left[0].title, " ".join(left[0].initrd)),
                "Set the default to a shipped entry by hand",
                "DEFAULT_KEPT",
            )
        plan.extend(view.plan())
    return plan


def without(host: Host, paths: Sequence[str]) -> Plan:
    """Plan that no entry of ours starts one of these images on the host: before an image goes.

    The old default is back first.
    """
    plan = Plan(host)
    for at in installed(host):
        view = View(host)
        before = at.menu(View(host))
        gone = [entry for entry in before.entries if entry.driver and starts(host, entry, paths)]
        drop(view, at, gone)
        promises.check_menu(
            at, before, at.menu(view), asked=any(same(before.default, entry) for entry in gone)
        )
        plan.extend(view.plan())
    return plan


def _started(view: View, at: Installation, paths: Sequence[str]) -> List[Entry]:
    menu = at.menu(view)
    return [entry for entry in menu.entries if menu.is_started(entry) and starts(view.host, entry, paths)]


def restore(view: View, at: Installation, drivers: Container[str]) -> None:
    """Restore the old default, and have no boot start an entry with any of the drivers."""
    menu = at.menu(view)
    _forget(view, at, [entry for entry in menu.with_any(drivers) if menu.is_started(entry)])


def _forget(view: View, at: Installation, entries: Sequence[Entry]) -> None:
    for entry in entries:
        _cancel(view, at, entry)
        at.loader.forget(view, at, entry)


def _cancel(view: View, at: Installation, entry: Entry) -> None:
    """Have an entry forget its trial before the next boot does: one that has not begun must not look like one
    that failed.
    """
    if at.menu(view).once == entry.id and entry.trial:
        text = view.text(entry.path) or ""
        block = texts.block(text, entry.driver or "", entry.kernel or "")
        start, stop = block.span() if block else (0, len(text))
        view.put(entry.path, text[:start] + texts.without_trial(text[start:stop]) + text[stop:])
        view.then()


def drop(view: View, at: Installation, entries: Sequence[Entry]) -> None:
    """Take entries of ours out; before the first goes, nothing that is started names any.

    Last ones first: a loader may count them.
    """
    for change in (at.loader.forget, at.loader.drop):
        for entry in reversed(entries):
            there = _there(view, at, entry)
            if there:
                change(view, at, there)


def _there(view: View, at: Installation, entry: Entry) -> Optional[Entry]:
    """The entry as it is by now."""
    return next(
        (each for each in at.menu(view).entries if key(each) == key(entry) and each.id == entry.id), None
    )
