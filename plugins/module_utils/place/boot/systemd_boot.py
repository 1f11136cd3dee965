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
from . import bls
from .menu import MARKER, Command, Entry, Loader, Menu, New, View

VARIABLES = "/sys/firmware/efi/efivars/%s-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
VARIABLE_LIMIT = 1 << 16
SET_ONCE = ["bootctl", "set-oneshot"]
_COUNT = re.compile(r"\+(?P<left>\d+)(-\d+)?$")
_DEFAULT = re.compile(r"^default[ \t]+(?P<value>\S.*?)[ \t]*\n", re.M)
_REMEMBERED = re.compile(r"^# %s default(?P<old>.*)\n" % re.escape(MARKER), re.M)


def menu(view: View, loader: Loader) -> Menu:
    entries = _entries(view, loader)
    default = _variable(view.host, "LoaderEntryDefault") or _configured(view, loader)
    if default.startswith("@"):  # @saved: whatever was started last
        chosen = None
    else:
        good = [
            entry for entry in entries if fnmatch.fnmatchcase(entry.id.lower() + ".conf", default.lower())
        ]
        # which has its place in the menu by what is in it
        others = [] if good else unified(view.host, loader)
        chosen = None if others else (good or entries or [None])[0]  # type: ignore[list-item]
    once = _once(view)
    return Menu(entries, chosen, once[: -len(".conf")] if once.endswith(".conf") else once or None)


def unified(host: Host, loader: Loader) -> List[str]:
    """Kernels that come as one file with their initramfs (Boot Loader Specification, type 2).

    They are in the menu and not in these files.
    """
    places = {path.rsplit("/loader/", 1)[0] + "/EFI/Linux" for path in (loader.config, loader.entries)}
    return [name for place in sorted(places) for name in host.listdir(place) if name.lower().endswith(".efi")]


def _once(view: View) -> str:
    """What the next boot alone starts, once what is planned has been done."""
    # each of them is of _start_once
    planned = [stage.command.argv[-1] for stage in view.stages if stage.command]
    return planned[-1] if planned else _variable(view.host, "LoaderEntryOneShot")


def _start_once(view: View, name: str) -> None:
    before = _once(view)
    if before == name:
        return

    def proof(host: Host) -> Optional[str]:
        now = _variable(host, "LoaderEntryOneShot")
        return None if now == name else "the firmware has %r for the next boot" % now

    view.run(
        Command(
            VARIABLES % "LoaderEntryOneShot",
            [*SET_ONCE, name],
            lambda host: host.run([*SET_ONCE, before]),
            proof,
        )
    )


def _variable(host: Host, name: str) -> str:
    """A variable of systemd's boot loader interface: four bytes of attributes, then UTF-16."""
    path = VARIABLES % name
    if not host.live or not host.is_file(path):
        return ""
    return host.read(path, VARIABLE_LIMIT)[4:].decode("utf-16-le", "replace").rstrip("\0")


def _configured(view: View, loader: Loader) -> str:
    found = list(_DEFAULT.finditer((view.text(loader.config) or "") + "\n"))
    return found[-1].group("value") if found else ""


def _entries(view: View, loader: Loader) -> List[Entry]:
    """In the order of the menu (systemd's src/boot/boot.c: config_entry_compare)."""
    found = []
    for name in view.names(loader.entries):
        path = loader.entries + "/" + name
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
        count is not None and count.group("left") == "0",
        "sort-key" not in keys,
        keys.get("sort-key", ""),
        keys.get("machine-id", ""),
        keys.get("version", ""),
        _COUNT.sub("", entry.id),
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


def add(view: View, loader: Loader, shipped: Entry, new: New) -> None:
    """A copy of the shipped entry that never comes before it: the same sort-key, a lower version and a lower
    name.
    """
    plain = shipped._replace(path=_path(shipped))
    text = re.sub(
        r"^(version[ \t]+\S+)",
        r"\1~%s" % bls.safe(new.driver),
        bls.compose(shipped, new, "\ninitrd "),
        flags=re.M,
    )
    ours = next(
        (
            entry
            for entry in _entries(view, loader)
            if (entry.driver, entry.kernel) == (new.driver, new.kernel)
        ),
        None,
    )
    bls.put(view, ours.path if ours else bls.path(plain, new), text, shipped, new)


def lines(view: View, loader: Loader, entry: Entry) -> List[str]:
    """The command lines that the kernel may get: systemd-boot tells the kernel's EFI stub the images in words
    of their own in front.
    """
    return [" ".join(["initrd=" + path for path in entry.initrd] + [entry.args])]


def drop(view: View, loader: Loader, entry: Entry) -> None:
    view.put(entry.path, None)


def set_default(view: View, loader: Loader, entry: Entry) -> None:
    """Have loader.conf name our entry, without a count; the line that was there is kept in a comment."""
    overriding = _variable(view.host, "LoaderEntryDefault")
    if overriding and overriding != entry.id + ".conf":
        raise KmodError(
            loader.config,
            "the firmware's variable LoaderEntryDefault comes before it, and says %s" % overriding,
            "Unset it: bootctl set-default ''",
            "DEFAULT_OVERRIDDEN",
        )
    _uncount(view, entry)
    text = view.text(loader.config)
    old = list(_DEFAULT.finditer(text or ""))
    line = "default %s.conf\n" % entry.id
    if old and old[-1].group() == line:
        return
    if text is None:
        view.put(loader.config, "# %s default +file\n%s" % (MARKER, line), like=entry.path)
    elif not old:
        view.put(loader.config, "# %s default\n%s%s" % (MARKER, line, text))
    else:
        remembered = "" if _REMEMBERED.search(text) else "# %s default %s" % (MARKER, old[-1].group())
        view.put(loader.config, text[: old[-1].start()] + remembered + line + text[old[-1].end() :])


def set_once(view: View, loader: Loader, entry: Entry) -> None:
    """Have the firmware remember it for the next boot, which the loader forgets before it starts the entry."""
    if not view.host.live or not view.host.exists(VARIABLES % "LoaderInfo"):
        raise KmodError(
            loader.config,
            "which entry is started once is kept in variables of the firmware, which only the running machine has",
            "Choose the entry in the boot menu, or run this on the machine itself",
            "ONCE_NOT_SAFE",
        )
    _uncount(view, entry)
    _start_once(view, entry.id + ".conf")


def _uncount(view: View, entry: Entry) -> None:
    path = _path(entry)
    if entry.path != path:
        view.put(path, view.text(entry.path), like=entry.path)
        view.put(entry.path, None)


def forget(view: View, loader: Loader, entry: Entry) -> None:
    """Before our entry goes: nothing names it any more, and the old default is back."""
    if _once(view) == entry.id + ".conf":
        _start_once(view, "")
    text = view.text(loader.config) or ""
    remembered = _REMEMBERED.search(text)
    current = _DEFAULT.search(text, remembered.end()) if remembered else None
    if remembered and current and current.group("value") == entry.id + ".conf":
        old = remembered.group("old")[1:]
        whole = (
            text[: remembered.start()]
            + (old + "\n" if old and old != "+file" else "")
            + text[current.end() :]
        )
        view.put(loader.config, None if old == "+file" and not whole else whole)
