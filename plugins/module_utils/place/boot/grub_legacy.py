# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB legacy: one menu in grub.conf or menu.lst, whose ``default`` counts its titles.

So ours goes to the end.
"""

import itertools
import re
from typing import List, Optional

from ...errors import KmodError
from ...host import Host
from .. import texts
from . import cmdline, one_file
from .boot_loader import BootLoader, Installation, first
from .menu import Entry, Menu, New, number
from .view import View

FILES = ("/boot/grub/grub.conf", "/boot/grub/menu.lst", "/etc/grub.conf")
GRUB2 = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
_TITLE = re.compile(r"^[ \t]*title[ \t=]+(?P<title>.*?)[ \t]*$", re.M)
_DEFAULT = re.compile(r"^(?P<head>[ \t]*default[ \t=]+)(?P<value>\S+)(?P<tail>.*)\n", re.M)


def found(host: Host) -> Optional[Installation]:
    # beside GRUB 2: what an upgrade from GRUB legacy leaves behind
    path = None if any(map(host.is_file, GRUB2)) else first(host, FILES)
    return Installation(GRUB_LEGACY, path) if path else None


def menu(view: View, at: Installation) -> Menu:
    text = one_file.whole(view, at)
    entries = _entries(at, text)
    default = next((found.group("value") for found in _DEFAULT.finditer(text, 0, _end_of_head(text))), "0")
    place = number(default) if default != "saved" else -1
    return Menu(entries, next((entry for entry in entries if entry.position == (place or 0,)), None))


def _end_of_head(text: str) -> int:
    found = _TITLE.search(text)
    return found.start() if found else len(text)


def _entries(at: Installation, text: str) -> List[Entry]:
    titles = list(_TITLE.finditer(text))
    ours = texts.Spans(text)
    found = []
    for place, title in enumerate(titles):
        end = titles[place + 1].start() if place + 1 < len(titles) else len(text)
        block = ours.at(title.start())
        driver, kernel_of = texts.whose(block)
        body = own(text[title.start() : end])
        kernel = _command(body, "kernel")
        initrd = _command(body, "initrd")
        # kernel --type=, --no-mem-option
        words = list(itertools.dropwhile(lambda word: word.startswith("--"), kernel))
        found.append(
            Entry(
                id=str(place),
                title=title.group("title"),
                linux=words[0] if words else "",
                initrd=tuple(initrd),
                args=" ".join(words[1:]),
                path=at.config,
                text=body,
                position=(place,),
                driver=driver,
                kernel=kernel_of,
                xen=_line(body, "module") is not None,
            )
        )
    return found


def own(body: str) -> str:
    """An entry's lines without what stands between it and the next one: blank lines and comments."""
    lines = body.splitlines(True)
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return "".join(lines).rstrip("\n") + "\n"


def _line(body: str, command: str) -> "Optional[re.Match[str]]":
    return re.search(r"^(?P<head>[ \t]*%s[ \t]+)(?P<words>.*?)[ \t]*$" % command, body, re.M)


def _command(body: str, command: str) -> List[str]:
    found = _line(body, command)
    return found.group("words").split() if found else []


def compose(new: New) -> str:
    """The shipped entry's own lines with another title and initrd, and with arguments appended."""
    shipped = new.shipped
    text = shipped.text if shipped.text.endswith("\n") else shipped.text + "\n"
    text = re.sub(
        r"^([ \t]*title[ \t=]+).*$",
        lambda line: line.group(1) + new.title(shipped.title),
        text,
        count=1,
        flags=re.M,
    )
    # to try an entry by hand must not make it the default
    text = re.sub(r"^[ \t]*savedefault.*\n", "", text, flags=re.M)
    kernel, initrd = _line(text, "kernel"), _line(text, "initrd")
    if kernel is None or initrd is None:
        raise KmodError(
            shipped.path,
            "the entry %r has no kernel with an initrd" % shipped.title,
            "Correct it",
            "ENTRY_MALFORMED",
        )
    words = [" ".join(new.initrd) if word == new.replaces else word for word in initrd.group("words").split()]
    for found, value in sorted(
        [(initrd, " ".join(words)), (kernel, cmdline.insert(kernel.group("words"), new.args))],
        key=lambda edit: edit[0].start(),
        reverse=True,
    ):
        text = text[: found.start("words")] + value + text[found.end("words") :]
    return text


def lines(view: View, at: Installation, entry: Entry) -> List[str]:
    """The command lines that the kernel may get."""
    return [entry.args]


def add(view: View, at: Installation, new: New) -> None:
    one_file.put(view, at, new, body=compose(new))


def set_default(view: View, at: Installation, entry: Entry) -> None:
    """Have ``default`` count to an entry; the line that stood there is kept in a comment above it."""
    text = one_file.whole(view, at)
    old = next(_DEFAULT.finditer(text, 0, _end_of_head(text)), None)
    if old is None or old.group("value") != entry.id:
        line = (
            "%s%s%s\n" % (old.group("head"), entry.id, old.group("tail"))
            if old
            else "default=%s\n" % entry.id
        )
        view.put(at.config, texts.with_default(text, old, line))


def set_once(view: View, at: Installation, entry: Entry) -> None:
    raise KmodError(
        at.config,
        "GRUB legacy is told what to start once from its own shell alone",
        "Run: grub, then savedefault --default=%s --once" % entry.id,
        "ONCE_NOT_SAFE",
    )


def forget(view: View, at: Installation, entry: Entry) -> None:
    """Before our entry goes: the old default is back, and one that counts past it still means the same."""
    text = one_file.whole(view, at)
    ours = texts.remembered_default(text, _DEFAULT, _end_of_head(text))
    current = ours or _DEFAULT.search(text, 0, _end_of_head(text))
    counted = number(current.group("value")) if current else None
    if current is None or counted is None:
        return
    if ours and ours.group("value") == entry.id:
        view.put(at.config, texts.with_old_default(text, ours))
    elif counted > int(entry.id):
        view.put(at.config, text[: current.start("value")] + str(counted - 1) + text[current.end("value") :])


GRUB_LEGACY = BootLoader(
    name="grub-legacy",
    looked_for=FILES,
    found=found,
    menu=menu,
    lines=lines,
    add=add,
    drop=one_file.drop,
    set_default=set_default,
    set_once=set_once,
    forget=forget,
    once=False,
)
