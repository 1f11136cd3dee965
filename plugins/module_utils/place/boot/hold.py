# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeping the default on a shipped entry, of a kernel that takes the drivers, while a newer kernel takes none of their builds.

It is done by the means by which an entry of ours becomes the default, and taken back by those: what was the default is remembered where it
was, in the loader's own files. Which entry is kept stands in a file of ours, since a shipped entry bears no mark.
"""
import json
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from ...errors import KmodError
from ...host import Host
from ...plan import Content, File, Plan
from . import blocks, detect, grub2
from .menu import KEPT, MARKER, Entry, Loader, Menu, View
from .shipped import LOADERS, choose

HOLDER = MARKER  # in the place of a driver's name: none can be called so


class Held(NamedTuple):
    """The entry that is kept the default."""

    kernel: str
    id: str
    loader: str

    @property
    def text(self) -> str:
        return json.dumps(dict(self._asdict()), sort_keys=True) + "\n"


def read(host: Host) -> Optional[Held]:
    """What was kept last; None where nothing is, or it cannot be read. Others may have moved the default since (see ``in_force``)."""
    if not host.is_file(KEPT):
        return None
    try:
        told = json.loads(host.read_text(KEPT, 1 << 16))
        return Held(str(told["kernel"]), str(told["id"]), str(told["loader"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def in_force(menu: Menu, held: Optional[Held]) -> bool:
    return held is not None and menu.default is not None and menu.default.driver is None and menu.default.id == held.id


def wished(host: Host, kind: str = "auto") -> Optional[Entry]:
    """What boots would start if nothing of ours were the default: what the distribution means them to start. Errors: those of the loader's menu."""
    loader = detect.detect(host, kind)
    view = View(host)
    _without_ours(view, loader, read(host))
    return LOADERS[loader.kind].menu(view, loader).default  # type: ignore[no-any-return]


def now(host: Host, kind: str = "auto") -> Optional[Entry]:
    """What boots start today. Errors as of ``wished``."""
    loader = detect.detect(host, kind)
    return LOADERS[loader.kind].menu(View(host), loader).default  # type: ignore[no-any-return]


def hold(host: Host, release: str, kind: str = "auto", copy_of: str = "") -> Tuple[Plan, Held]:
    """Plan that boots start the shipped entry of a kernel. Errors: those of ``shipped.choose`` and of setting a default, DEFAULT_KEPT."""
    loader = detect.detect(host, kind)
    detect.check_known(host)
    module, view = LOADERS[loader.kind], View(host)
    before = module.menu(view, loader)
    entry = choose(host, before, release, loader, copy_of)
    held = Held(release, entry.id, loader.kind)
    if read(host) != held or not in_force(before, held):
        _without_ours(view, loader, read(host))
        wanted = _held(module.menu(view, loader), entry, release)
        _in_block(view, loader, wanted)
        after = module.menu(view, loader)
        if after.default is None or after.default.id != entry.id or _foreign(before) != _foreign(after):
            raise KmodError(loader.config, "would go on to start %r instead of %r" % (after.default and after.default.title, entry.title),
                            "Set the default by hand", "DEFAULT_KEPT")
    plan = Plan(host)
    plan.put(KEPT, File(Content.of(held.text.encode())))  # first: a run that is cut off leaves a note of what is not so, and no default without one
    plan.extend(view.plan())
    return plan, held


def release(host: Host) -> Plan:
    """Plan that nothing is kept any more: the default is what it was before, or what others have made it since."""
    held, plan = read(host), Plan(host)
    for loader in detect.installed(host) if held else []:
        view = View(host)
        if held and loader.kind == held.loader:
            _let_go(view, loader, held)
        plan.extend(view.plan())
    plan.put(KEPT, None)
    return plan


def _without_ours(view: View, loader: Loader, held: Optional[Held]) -> None:
    """Have nothing of ours be the default: neither an entry nor what is kept."""
    _let_go(view, loader, held)
    module = LOADERS[loader.kind]
    for entry in module.menu(view, loader).entries:
        default = module.menu(view, loader).default
        if entry.driver and default and (default.driver, default.kernel) == (entry.driver, entry.kernel):
            module.forget(view, loader, entry)


def _let_go(view: View, loader: Loader, held: Optional[Held]) -> None:
    module = LOADERS[loader.kind]
    menu = module.menu(view, loader)
    if held and menu.default and in_force(menu, held):
        module.forget(view, loader, _held(menu, menu.default, held.kernel))
    _without_block(view, loader)


def _held(menu: Menu, entry: Entry, release: str) -> Entry:
    """The shipped entry, under the name that the default has to be set to, as if it were of ours.

    One in a submenu is named with what it is in. GRUB with entries in files, where ids begin with the machine's, takes them for no numbers.
    """
    name = ">".join([each.id.replace(">", ">>") for each in _above(menu.entries, entry)] + [entry.id])
    if not re.fullmatch(r"[\w.+~:@%>=,/ -]+", name):
        raise KmodError(entry.path, "the entry %r has an id that the default cannot be set to: %s" % (entry.title, name[:80]),
                        "Set the default by hand", "DEFAULT_KEPT")
    path = re.sub(r"\+\d+(-\d+)?(?=\.conf$)", "", entry.path)  # an entry with a count of tries keeps its file's name
    return entry._replace(id=name, title=name, driver=HOLDER, kernel=release, path=path)


def _above(entries: List[Entry], entry: Entry) -> List[Entry]:
    by_place: Dict[Tuple[int, ...], Entry] = {each.position: each for each in entries}
    places = [entry.position[:depth] for depth in range(1, len(entry.position))]
    return [by_place[place] for place in places if place in by_place]


def _in_block(view: View, loader: Loader, wanted: Entry) -> None:
    """Make it the default. Where GRUB has a fixed one, a block in custom.cfg says so, as the block of an entry of ours does."""
    if loader.kind not in ("grub2", "bls"):
        LOADERS[loader.kind].set_default(view, loader, wanted)
        return
    path = grub2.custom(loader)
    before = view.text(path)
    view.put(path, blocks.put(before, HOLDER, wanted.kernel or "", ""), like=loader.config)
    grub2.set_default(view, loader, wanted)
    mine = [block for block in blocks.each(view.text(path) or "") if blocks.whose(block)[0] == HOLDER]
    if not any(block.group("body") for block in mine):
        view.put(path, before, like=loader.config)


def _without_block(view: View, loader: Loader) -> None:
    if loader.kind not in ("grub2", "bls"):
        return
    path = grub2.custom(loader)
    for block in list(blocks.each(view.text(path) or "")):
        driver, kernel = blocks.whose(block)
        if driver == HOLDER:
            view.put(path, blocks.cut(view.text(path) or "", driver, kernel))


def _foreign(menu: Menu) -> List[Tuple[str, str]]:
    return [(entry.path, entry.text) for entry in menu.entries if entry.driver is None]

