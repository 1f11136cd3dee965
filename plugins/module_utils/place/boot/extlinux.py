# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""extlinux (and U-Boot, which reads the same file): one menu whose ``default`` names a label."""

import re
from typing import List, Optional

from ...errors import KmodError
from ...host import Host
from .. import texts
from . import cmdline, grub_legacy, one_file
from .boot_loader import BootLoader, Installation, first
from .menu import Entry, Menu, New
from .view import View

FILES = ("/boot/extlinux/extlinux.conf",)
_LABEL = re.compile(r"^[ \t]*label[ \t]+(?P<label>.*?)[ \t]*$", re.M | re.I)
_DEFAULT = re.compile(r"^[ \t]*default[ \t]+(?P<value>.*?)[ \t]*\n", re.M | re.I)


def found(host: Host) -> Optional[Installation]:
    path = first(host, FILES)
    return Installation(EXTLINUX, path) if path else None


def menu(view: View, at: Installation) -> Menu:
    text = one_file.whole(view, at)
    entries = _entries(at, text)
    named = _DEFAULT.search(text)
    default = next(
        (entry for entry in entries if named and entry.id == named.group("value")),
        entries[0] if entries else None,
    )
    return Menu(entries, default)


def _entries(at: Installation, text: str) -> List[Entry]:
    labels = list(_LABEL.finditer(text))
    ours = texts.Spans(text)
    found = []
    for number, label in enumerate(labels):
        end = labels[number + 1].start() if number + 1 < len(labels) else len(text)
        block = ours.at(label.start())
        body = grub_legacy.own(text[label.start() : end])
        initrd = _value(body, "initrd").split(",") if _line(body, "initrd") else []
        title = _value(body, "menu label").replace("^", "") or label.group("label")
        driver, kernel = texts.whose(block)
        linux = _value(body, "linux") or _value(body, "kernel")
        found.append(
            Entry(
                id=label.group("label"),
                title=title,
                linux=linux,
                initrd=tuple(initrd),
                args=_value(body, "append"),
                path=at.config,
                text=body,
                position=(number,),
                driver=driver,
                kernel=kernel,
                xen=linux.endswith("mboot.c32"),
            )
        )
    return found


def _line(body: str, key: str) -> Optional["re.Match[str]"]:
    return re.search(r"^[ \t]*%s[ \t]+(?P<value>.*?)[ \t]*$" % key.replace(" ", r"[ \t]+"), body, re.M | re.I)


def _value(body: str, key: str) -> str:
    found = _line(body, key)
    return found.group("value") if found else ""


def compose(new: New) -> str:
    shipped = new.shipped
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


def lines(view: View, at: Installation, entry: Entry) -> List[str]:
    """The command lines that the kernel may get; extlinux puts its own two in front (the same as words of
    append).
    """
    return ["BOOT_IMAGE=%s initrd=%s %s" % (entry.linux, ",".join(entry.initrd), entry.args)]


def add(view: View, at: Installation, new: New) -> None:
    one_file.put(view, at, new, body=compose(new))


def set_default(view: View, at: Installation, entry: Entry) -> None:
    text = one_file.whole(view, at)
    old = _DEFAULT.search(text)
    if old is None or old.group("value") != entry.id:
        view.put(at.config, texts.with_default(text, old, "default %s\n" % entry.id))


def set_once(view: View, at: Installation, entry: Entry) -> None:
    raise KmodError(
        at.config,
        "this loader has no entry that it starts only once",
        "Choose the entry in its menu",
        "ONCE_NOT_SAFE",
    )


def forget(view: View, at: Installation, entry: Entry) -> None:
    text = one_file.whole(view, at)
    ours = texts.remembered_default(text, _DEFAULT)
    if ours and ours.group("value") == entry.id:
        view.put(at.config, texts.with_old_default(text, ours))


EXTLINUX = BootLoader(
    name="extlinux",
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
