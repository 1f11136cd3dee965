# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd-boot: entries of the Boot Loader Specification, a default in loader.conf, one for the next boot
alone in a variable of the firmware.

An entry's file may be named with a count (``ID+3.conf``, ``ID+2-1.conf``, ``ID+0-3.conf`` when all tries have
failed), which the loader counts down and systemd-bless-boot takes off. Ours have none: the variable is
forgotten before the entry starts, and loaders do not agree on whether the count belongs to the id that the
variable holds (to 252 it does, to 262 it does not).
"""

import fnmatch
import functools
import re
from typing import List, NamedTuple, Optional, Tuple

from ...errors import KmodError
from ...host import Host
from ...plan import Command
from ...read.efi import Variable
from .. import texts
from . import bls
from .boot_loader import BootLoader, Installation
from .menu import Entry, Menu, New
from .view import View

ESP = ("/efi", "/boot/efi", "/boot")  # where the EFI system partition is mounted (bootctl(1))
DEFAULT, ONCE, INFO = Variable("LoaderEntryDefault"), Variable("LoaderEntryOneShot"), Variable("LoaderInfo")
BOOTCTL = {DEFAULT: ("bootctl", "set-default"), ONCE: ("bootctl", "set-oneshot")}
_COUNT = re.compile(r"\+(?P<left>\d+)(-\d+)?$")
_DEFAULT = re.compile(r"^default[ \t]+(?P<value>\S.*?)[ \t]*\n", re.M)


def found(host: Host) -> Optional[Installation]:
    """By its program on an EFI system partition; entries may lie on an extended boot partition instead."""
    for esp in ESP:
        if any(name.startswith("systemd-boot") for name in host.listdir(esp + "/EFI/systemd")):
            entries = next(
                (
                    each + "/loader/entries"
                    for each in (esp, "/boot")
                    if host.is_dir(each + "/loader/entries")
                ),
                esp + "/loader/entries",
            )
            return Installation(SYSTEMD_BOOT, esp + "/loader/loader.conf", entries)
    return None


def menu(view: View, at: Installation) -> Menu:
    entries = _entries(view, at)
    once = _planned(view, ONCE)
    return Menu(
        entries,
        _default(view, at, entries),
        once[: -len(".conf")] if once.endswith(".conf") else once or None,
    )


def _default(view: View, at: Installation, entries: List[Entry]) -> Optional[Entry]:
    """What boots start: the first entry that the firmware's variable means, else loader.conf, else the first
    (systemd's src/boot/boot.c: config_select_default_entry). None where files do not tell.
    """
    others = unified(view.host, at)  # which have their places in the menu by what is in them
    for pattern in (_planned(view, DEFAULT), _configured(view, at)):
        if pattern.startswith("@"):  # @saved: whatever was started last
            return None
        good = [entry for entry in entries if _means(pattern, entry.id + ".conf")]
        if good or any(_means(pattern, name) for name in others):
            return good[0] if good else None
    return entries[0] if entries and not others else None


def _means(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name.lower(), pattern.lower())


def unified(host: Host, at: Installation) -> List[str]:
    """Kernels that come as one file with their initramfs (Boot Loader Specification, type 2).

    They are in the menu and not in these files.
    """
    places = {path.rsplit("/loader/", 1)[0] + "/EFI/Linux" for path in (at.config, at.entries)}
    names = [name for place in sorted(places) for name in host.listdir(place)]
    return [name for name in names if name.lower().endswith(".efi")]


def _planned(view: View, variable: Variable) -> str:
    """What a variable of the firmware is, once what is planned has been done."""
    commands = [stage.command for stage in view.stages if stage.command]
    planned = [command.argv[-1] for command in commands if command.path == variable.path]
    return planned[-1] if planned else variable.text(view.host)


def _set(view: View, variable: Variable, name: str) -> None:
    """Have the firmware remember the name of an entry's file, or forget it ("")."""
    before = _planned(view, variable)
    if before == name:
        return
    tool = BOOTCTL[variable]

    def proof(host: Host) -> Optional[str]:
        now = variable.text(host)
        return None if now == name else "%s is %r" % (variable.name, now)

    view.run(
        Command(variable.path, (*tool, name), inverse=lambda host: host.run([*tool, before]), proof=proof)
    )


def _configured(view: View, at: Installation) -> str:
    found = list(_DEFAULT.finditer((view.text(at.config) or "") + "\n"))
    return found[-1].group("value") if found else ""


def _entries(view: View, at: Installation) -> List[Entry]:
    """In the order of the menu (systemd's src/boot/boot.c: config_entry_compare)."""
    found = []
    for name in view.names(at.entries):
        path = at.entries + "/" + name
        entry = (
            bls.entry(path, view.text(path) or "", ("linux", "efi"))
            if name.lower().endswith(".conf")
            else None
        )
        if entry is not None:
            found.append((_order(entry), entry._replace(id=_COUNT.sub("", entry.id))))
    found.sort(key=functools.cmp_to_key(_compare))
    return [entry._replace(position=(number,)) for number, (_unused, entry) in enumerate(found)]


class Order(NamedTuple):
    failed: bool
    unsorted: bool
    sort_key: str
    machine: str
    version: str
    name: str


def _order(entry: Entry) -> Order:
    keys = {line.key: line.value for line in bls.lines(entry.text)}
    count = _COUNT.search(entry.id)
    return Order(
        failed=count is not None and count.group("left") == "0",
        unsorted="sort-key" not in keys,
        sort_key=keys.get("sort-key", ""),
        machine=keys.get("machine-id", ""),
        version=keys.get("version", ""),
        name=_COUNT.sub("", entry.id),
    )


def _compare(one: Tuple[Order, Entry], other: Tuple[Order, Entry]) -> int:
    """Tried and failed ones last; by sort-key, those without one after; the newest version first, then the
    highest name.
    """
    left, right = one[0], other[0]
    if left[:2] != right[:2]:
        return -1 if left[:2] < right[:2] else 1
    if not left.unsorted and left[:4] != right[:4]:
        return -1 if left[:4] < right[:4] else 1
    by_version = 0 if left.unsorted else bls.vercmp(right.version, left.version)
    return by_version or bls.vercmp(right.name, left.name)


def _path(entry: Entry) -> str:
    """The file's name without a count."""
    return "%s/%s.conf" % (entry.path.rsplit("/", 1)[0], _COUNT.sub("", bls.identity(entry.path)))


def add(view: View, at: Installation, new: New) -> None:
    """A copy of the shipped entry that never comes before it: the same sort-key, a lower version and a lower
    name.
    """
    text = re.sub(
        r"^(version[ \t]+\S+)",
        r"\1~%s" % bls.safe(new.driver),
        bls.compose(new, several="\ninitrd "),
        flags=re.M,
    )
    ours = next(
        (entry for entry in _entries(view, at) if (entry.driver, entry.kernel) == (new.driver, new.kernel)),
        None,
    )
    bls.put(view, ours.path if ours else bls.path(_path(new.shipped), new), new, text=text)


def lines(view: View, at: Installation, entry: Entry) -> List[str]:
    """The command lines that the kernel may get: systemd-boot tells the kernel's EFI stub the images in words
    of their own in front.
    """
    return [" ".join(["initrd=" + path for path in entry.initrd] + [entry.args])]


def drop(view: View, at: Installation, entry: Entry) -> None:
    """What somebody has made the default in the firmware is none once it is gone."""
    if _planned(view, DEFAULT) == entry.id + ".conf":
        _set(view, DEFAULT, "")
    view.put(entry.path, None)


def set_default(view: View, at: Installation, entry: Entry) -> None:
    """Have loader.conf name an entry, ours without a count; the line that was there is kept in a comment."""
    overriding = _planned(view, DEFAULT)
    there = [each.id + ".conf" for each in _entries(view, at)] + unified(view.host, at)
    if not _means(overriding, entry.id + ".conf") and any(_means(overriding, name) for name in there):
        raise KmodError(
            at.config,
            "the firmware's variable LoaderEntryDefault comes before it, and says %s" % overriding,
            "Unset it: bootctl set-default ''",
            "DEFAULT_OVERRIDDEN",
        )
    _uncount(view, entry)
    text = view.text(at.config)
    old = list(_DEFAULT.finditer(text or ""))
    line = "default %s.conf\n" % entry.id
    if not old or old[-1].group() != line:
        view.put(at.config, texts.with_default(text, old[-1] if old else None, line), like=entry.path)


def set_once(view: View, at: Installation, entry: Entry) -> None:
    """Have the firmware remember it for the next boot, which the loader forgets before it starts the entry."""
    if not view.host.live or not view.host.exists(INFO.path):
        raise KmodError(
            at.config,
            "which entry is started once is kept in variables of the firmware, which only the running machine has",
            "Choose the entry in the boot menu, or run this on the machine itself",
            "ONCE_NOT_SAFE",
        )
    _uncount(view, entry)
    _set(view, ONCE, entry.id + ".conf")


def _uncount(view: View, entry: Entry) -> None:
    path = _path(entry)
    if entry.path != path:
        view.put(path, view.text(entry.path), like=entry.path)
        view.put(entry.path, None)


def forget(view: View, at: Installation, entry: Entry) -> None:
    """Before our entry goes: nothing names it any more, and the old default is back."""
    if _planned(view, ONCE) == entry.id + ".conf":
        _set(view, ONCE, "")
    text = view.text(at.config) or ""
    ours = texts.remembered_default(text, _DEFAULT)
    if ours and ours.group("value") == entry.id + ".conf":
        view.put(at.config, texts.with_old_default(text, ours))


SYSTEMD_BOOT = BootLoader(
    name="systemd-boot",
    looked_for=("EFI/systemd on an EFI system partition",),
    found=found,
    menu=menu,
    lines=lines,
    add=add,
    drop=drop,
    set_default=set_default,
    set_once=set_once,
    forget=forget,
    program="systemd-boot",
)
