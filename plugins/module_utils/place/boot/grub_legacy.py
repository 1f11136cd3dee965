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
from . import blocks, cmdline
from .menu import MARKER, Entry, Loader, Menu, New, View, number

_TITLE = re.compile(r"^[ \t]*title[ \t=]+(?P<title>.*?)[ \t]*$", re.M)
_DEFAULT = re.compile(r"^(?P<head>[ \t]*default[ \t=]+)(?P<value>\S+)(?P<tail>.*)\n", re.M)
_REMEMBERED = re.compile(r"^# %s default (?P<line>.*)\n" % re.escape(MARKER), re.M)


drop = blocks.drop


def menu(view: View, loader: Loader) -> Menu:
    text = blocks.whole(view, loader)
    entries = _entries(loader, text)
    default = next((found.group("value") for found in _DEFAULT.finditer(text, 0, _end_of_head(text))), "0")
    place = number(default) if default != "saved" else -1
    return Menu(entries, next((entry for entry in entries if entry.position == (place or 0,)), None))


def _end_of_head(text: str) -> int:
    found = _TITLE.search(text)
    return found.start() if found else len(text)


def _entries(loader: Loader, text: str) -> List[Entry]:
    titles = list(_TITLE.finditer(text))
    ours = blocks.Spans(text)
    found = []
    for place, title in enumerate(titles):
        end = titles[place + 1].start() if place + 1 < len(titles) else len(text)
        block = ours.at(title.start())
        driver, kernel_of = blocks.whose(block) if block else (None, None)
        body = own(text[title.start() : end])
        kernel = _command(body, "kernel")
        initrd = _command(body, "initrd")
        # kernel --type=, --no-mem-option
        words = list(itertools.dropwhile(lambda word: word.startswith("--"), kernel))
        found.append(
            Entry(
                str(place),
                title.group("title"),
                words[0] if words else "",
                tuple(initrd),
                " ".join(words[1:]),
                loader.config,
                body,
                (place,),
                "",
                driver,
                kernel_of,
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


def compose(shipped: Entry, new: New) -> str:
    """The shipped entry's own lines with another title and initrd, and with arguments appended."""
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


def lines(view: View, loader: Loader, entry: Entry) -> List[str]:
    """The command lines that the kernel may get."""
    return [entry.args]


def add(view: View, loader: Loader, shipped: Entry, new: New) -> None:
    blocks.add(view, loader, new, compose(shipped, new))


def set_default(view: View, loader: Loader, entry: Entry) -> None:
    """Have ``default`` count to our entry; the line that stood there is kept in a comment above it."""
    text = blocks.whole(view, loader)
    found = next(_DEFAULT.finditer(text, 0, _end_of_head(text)), None)
    if found is None:
        line = "# %s default \ndefault=%s\n" % (MARKER, entry.id)
        view.put(loader.config, line + text)
    elif found.group("value") != entry.id:
        line = "%s%s%s\n" % (found.group("head"), entry.id, found.group("tail"))
        if not _REMEMBERED.search(text):
            line = "# %s default %s" % (MARKER, found.group()) + line
        view.put(loader.config, text[: found.start()] + line + text[found.end() :])


def set_once(view: View, loader: Loader, entry: Entry) -> None:
    raise KmodError(
        loader.config,
        "GRUB legacy is told what to start once from its own shell alone",
        "Run: grub, then savedefault --default=%s --once" % entry.id,
        "ONCE_NOT_SAFE",
    )


def forget(view: View, loader: Loader, entry: Entry) -> None:
    """Before our entry goes: the old default is back, and one that counts past it still means the same."""
    text = blocks.whole(view, loader)
    remembered = _REMEMBERED.search(text)
    found = _DEFAULT.search(text, remembered.end() if remembered else 0, _end_of_head(text))
    counted = number(found.group("value")) if found else None
    if found is None or counted is None:
        return
    if remembered and found.group("value") == entry.id:
        old = remembered.group("line")
        view.put(
            loader.config, text[: remembered.start()] + (old + "\n" if old else "") + text[found.end() :]
        )
    elif counted > int(entry.id):
        view.put(loader.config, text[: found.start("value")] + str(counted - 1) + text[found.end("value") :])
