# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""extlinux (and U-Boot, which reads the same file): one menu whose ``default`` names a label."""

import re
from typing import List, Optional

from ...errors import KmodError
from . import blocks, cmdline, grub_legacy
from .menu import MARKER, Entry, Loader, Menu, New, View

_LABEL = re.compile(r"^[ \t]*label[ \t]+(?P<label>.*?)[ \t]*$", re.M | re.I)
_DEFAULT = re.compile(r"^[ \t]*default[ \t]+(?P<value>.*?)[ \t]*\n", re.M | re.I)
_REMEMBERED = re.compile(r"^# %s default(?P<old>.*)\n" % re.escape(MARKER), re.M)


drop = blocks.drop


def menu(view: View, loader: Loader) -> Menu:
    text = blocks.whole(view, loader)
    entries = _entries(loader, text)
    named = _DEFAULT.search(text)
    default = next(
        (entry for entry in entries if named and entry.id == named.group("value")),
        entries[0] if entries else None,
    )
    return Menu(entries, default)


def _entries(loader: Loader, text: str) -> List[Entry]:
    labels = list(_LABEL.finditer(text))
    ours = blocks.Spans(text)
    found = []
    for number, label in enumerate(labels):
        end = labels[number + 1].start() if number + 1 < len(labels) else len(text)
        block = ours.at(label.start())
        body = grub_legacy.own(text[label.start() : end])
        initrd = _value(body, "initrd").split(",") if _line(body, "initrd") else []
        title = _value(body, "menu label").replace("^", "") or label.group("label")
        driver, kernel = blocks.whose(block) if block else (None, None)
        linux = _value(body, "linux") or _value(body, "kernel")
        found.append(
            Entry(
                label.group("label"),
                title,
                linux,
                tuple(initrd),
                _value(body, "append"),
                loader.config,
                body,
                (number,),
                "",
                driver,
                kernel,
                xen=linux.endswith("mboot.c32"),
            )
        )
    return found


def _line(body: str, key: str) -> Optional["re.Match[str]"]:
    return re.search(r"^[ \t]*%s[ \t]+(?P<value>.*?)[ \t]*$" % key.replace(" ", r"[ \t]+"), body, re.M | re.I)


def _value(body: str, key: str) -> str:
    found = _line(body, key)
    return found.group("value") if found else ""


def compose(shipped: Entry, new: New) -> str:
    text = shipped.text if shipped.text.endswith("\n") else shipped.text + "\n"
    initrd = ",".join(
        path for word in shipped.initrd for path in (new.initrd if word == new.replaces else (word,))
    )
    values = {
        "label": new.id,
        "menu label": new.title(shipped.title),
        "initrd": initrd,
        "append": cmdline.insert(shipped.args, new.args),
    }
    for key, value in values.items():
        found = _line(text, key)
        if found:
            text = text[: found.start("value")] + value + text[found.end("value") :]
        elif key != "menu label":
            text += "\t%s %s\n" % (key, value)
    return text


def lines(view: View, loader: Loader, entry: Entry) -> List[str]:
    """The command lines that the kernel may get; extlinux puts its own two in front (the same as words of
    append).
    """
    return ["BOOT_IMAGE=%s initrd=%s %s" % (entry.linux, ",".join(entry.initrd), entry.args)]


def add(view: View, loader: Loader, shipped: Entry, new: New) -> None:
    blocks.add(view, loader, new, compose(shipped, new))


def set_default(view: View, loader: Loader, entry: Entry) -> None:
    text = blocks.whole(view, loader)
    found = _DEFAULT.search(text)
    line = "default %s\n" % entry.id
    if found is None:
        view.put(loader.config, "# %s default\n%s%s" % (MARKER, line, text))
    elif found.group("value") != entry.id:
        remembered = "" if _REMEMBERED.search(text) else "# %s default %s" % (MARKER, found.group())
        view.put(loader.config, text[: found.start()] + remembered + line + text[found.end() :])


def set_once(view: View, loader: Loader, entry: Entry) -> None:
    raise KmodError(
        loader.config,
        "this loader has no entry that it starts only once",
        "Choose the entry in its menu",
        "ONCE_NOT_SAFE",
    )


def forget(view: View, loader: Loader, entry: Entry) -> None:
    text = blocks.whole(view, loader)
    remembered = _REMEMBERED.search(text)
    current = _DEFAULT.search(text, remembered.end()) if remembered else None
    if remembered and current and current.group("value") == entry.id:
        old = remembered.group("old")[1:]
        view.put(
            loader.config, text[: remembered.start()] + (old + "\n" if old else "") + text[current.end() :]
        )
