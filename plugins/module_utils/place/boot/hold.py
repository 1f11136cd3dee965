# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeping the default on a shipped entry, of a kernel that takes the drivers, while a newer kernel takes none
of their builds.

It is done by the means by which an entry of ours becomes the default, and taken back by those: what was the
default is remembered where it was, in the loader's own files. Which entry is kept stands in a file of ours,
since a shipped entry bears no mark.
"""

import json
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from ...errors import KmodError
from ...host import Host
from ...plan import Content, File, Plan
from ..texts import HOLDER, KEPT
from . import loaders
from .boot_loader import Installation
from .menu import Entry, Menu, same
from .shipped import choose
from .view import View


class KeptDefault(NamedTuple):
    """The entry that is kept the default, by what ``_name`` gives."""

    kernel: str
    id: str
    loader: str

    @property
    def text(self) -> str:
        return json.dumps(dict(self._asdict()), sort_keys=True) + "\n"


def read(host: Host) -> Optional[KeptDefault]:
    """What was kept last; None where nothing is, or it cannot be read.

    Others may have moved the default since (see ``in_force``).
    """
    if not host.is_file(KEPT):
        return None
    try:
        told = json.loads(host.read_text(KEPT, 1 << 16))
        return KeptDefault(str(told["kernel"]), str(told["id"]), str(told["loader"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def in_force(menu: Menu, held: Optional[KeptDefault]) -> bool:
    return (
        held is not None
        and menu.default is not None
        and menu.default.driver is None
        and _name(menu, menu.default) == held.id
    )


def wished(host: Host, kind: str = "auto") -> Optional[Entry]:
    """What boots would start if nothing of ours were the default: what the distribution means them to start.

    Errors: those of the loader's menu.
    """
    at, view = loaders.detect(host, kind), View(host)
    _without_ours(view, at, read(host))
    return at.menu(view).default


def now(host: Host, kind: str = "auto") -> Optional[Entry]:
    """What boots start today. Errors as of ``wished``."""
    return loaders.detect(host, kind).menu(View(host)).default


def hold(host: Host, release: str, kind: str = "auto", *, copy_of: str = "") -> Tuple[Plan, KeptDefault]:
    """Plan that boots start the shipped entry of a kernel.

    Errors: those of ``shipped.choose`` and of setting a default, DEFAULT_KEPT.
    """
    at = loaders.detect(host, kind)
    loaders.check_known(host)
    view = View(host)
    before = at.menu(view)
    entry = choose(host, at, before, release=release, copy_of=copy_of)
    held = KeptDefault(release, _name(before, entry), at.loader.name)
    if read(host) != held or not in_force(before, held):
        _without_ours(view, at, read(host))
        wanted = _held(at.menu(view), entry, release)
        (at.loader.keep or at.loader.set_default)(view, at, wanted)
        after = at.menu(view)
        if after.default is None or not same(after.default, entry) or _foreign(before) != _foreign(after):
            raise KmodError(
                at.config,
                "would go on to start %r instead of %r"
                % (after.default and after.default.title, entry.title),
                "Set the default by hand",
                "DEFAULT_KEPT",
            )
    plan = Plan(host)
    # first: a run that is cut off leaves a note of what is not so, and no default without one
    plan.put(KEPT, File(Content.of(held.text.encode())))
    plan.extend(view.plan())
    return plan, held


def release(host: Host) -> Plan:
    """Plan that nothing is kept any more: the default is what it was before, or what others have made it
    since.
    """
    held, plan = read(host), Plan(host)
    for at in loaders.installed(host) if held else []:
        view = View(host)
        if held and at.loader.name == held.loader:
            _let_go(view, at, held)
        plan.extend(view.plan())
    plan.put(KEPT, None)
    return plan


def _without_ours(view: View, at: Installation, held: Optional[KeptDefault]) -> None:
    """Have nothing of ours be the default: neither an entry nor what is kept."""
    _let_go(view, at, held)
    for entry in at.menu(view).entries:
        default = at.menu(view).default
        if entry.driver and default and (default.driver, default.kernel) == (entry.driver, entry.kernel):
            at.loader.forget(view, at, entry)


def _let_go(view: View, at: Installation, held: Optional[KeptDefault]) -> None:
    menu = at.menu(view)
    if held and menu.default and in_force(menu, held):
        at.loader.forget(view, at, _held(menu, menu.default, held.kernel))
    if at.loader.let_go:
        at.loader.let_go(view, at)


def _held(menu: Menu, entry: Entry, release: str) -> Entry:
    """The shipped entry, under the name that the default has to be set to, as if it were of ours.

    One in a submenu is named with what it is in. GRUB with entries in files, where ids begin with the
    machine's, takes them for no numbers.
    """
    name = ">".join(_name(menu, each).replace(">", ">>") for each in [*_above(menu.entries, entry), entry])
    if not re.fullmatch(r"[\w.+~:@%>=,/() -]+", name):
        raise KmodError(
            entry.path,
            "the entry %r has an id that the default cannot be set to: %s" % (entry.title, name[:80]),
            "Set the default by hand",
            "DEFAULT_KEPT",
        )
    # an entry with a count of tries keeps its file's name
    path = re.sub(r"\+\d+(-\d+)?(?=\.conf$)", "", entry.path)
    return entry._replace(id=name, title=name, driver=HOLDER, kernel=release, path=path)


def _name(menu: Menu, entry: Entry) -> str:
    """What names an entry among those beside it: its id, or the title where others have the same id. grubby of
    EL 7 copies an entry for a new kernel with its id.
    """
    beside = [each.id for each in menu.entries if each.position[:-1] == entry.position[:-1]]
    return entry.id if beside.count(entry.id) == 1 else entry.title


def _above(entries: List[Entry], entry: Entry) -> List[Entry]:
    by_place: Dict[Tuple[int, ...], Entry] = {each.position: each for each in entries}
    places = [entry.position[:depth] for depth in range(1, len(entry.position))]
    return [by_place[place] for place in places if place in by_place]


def _foreign(menu: Menu) -> List[Tuple[str, str]]:
    return [(entry.path, entry.text) for entry in menu.entries if entry.driver is None]
