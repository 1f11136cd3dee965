# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot Loader Specification entries (type 1): one file an entry, read by GRUB's blscfg and by systemd-boot."""

import functools
import itertools
import re
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError
from ...read import names
from .. import texts
from . import cmdline
from .menu import Entry, New, without_ours
from .view import View

ENTRIES = "/boot/loader/entries"  # where GRUB reads them


class Line(NamedTuple):
    key: str
    value: str
    number: int


def lines(text: str) -> List[Line]:
    """The keys of an entry. A line without a value ends it, as it does for GRUB's blscfg."""
    found = []
    for number, line in enumerate(text.split("\n")):
        if line.lstrip(" \t").startswith("#"):
            continue
        key, _unused, value = line.strip(" \t").replace("\t", " ").partition(" ")
        if not value.strip():
            break
        found.append(Line(key, value.strip(), number))
    return found


def entry(path: str, text: str, starts: Sequence[str] = ("linux",)) -> Optional[Entry]:
    """The entry in a file, None where it has none of the keys that tell what it ``starts``."""
    found = lines(text)
    first = {each.key: each.value for each in reversed(found)}
    program = next((first[key] for key in starts if key in first), None)
    if program is None:
        return None
    initrd = tuple(" ".join(each.value for each in found if each.key == "initrd").split())
    args = " ".join(each.value for each in found if each.key == "options")
    driver, kernel = texts.whose(texts.marked(text))
    return Entry(
        id=identity(path),
        title=first.get("title", program),
        linux=first.get("linux", ""),
        initrd=initrd,
        args=args,
        path=path,
        text=text,
        driver=driver,
        kernel=kernel,
        trial=texts.trial(text),
        xen="xen" in program.rsplit("/", 1)[-1].lower(),
    )


def identity(path: str) -> str:
    """What loaders call the entry: its file's name without .conf."""
    return path.rsplit("/", 1)[1][: -len(".conf")]


def entries(view: View, directory: str) -> List[Entry]:
    """The entries as GRUB shows them: sorted by file name, the highest version first."""
    files = [name for name in view.names(directory) if name.endswith(".conf") and not name.startswith(".")]
    files.sort(key=lambda name: functools.cmp_to_key(compare)(split(name[: -len(".conf")])), reverse=True)
    found = [entry(directory + "/" + name, view.text(directory + "/" + name) or "") for name in files]
    return [each for each in found if each is not None]


def split(name: str) -> Tuple[str, str, str]:
    """Name, version and release, split at the last two hyphens as those of a package are."""
    parts = name.rsplit("-", 2)
    return (parts[0], parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else "")


def compare(one: Tuple[str, ...], other: Tuple[str, ...]) -> int:
    """-1, 0 or 1 as the first is older than the other, of the same age, or newer."""
    return next((result for result in map(vercmp, one, other) if result), 0)


def vercmp(one: str, other: str) -> int:
    """rpm's comparison of versions, which GRUB of Fedora and Enterprise Linux has (rpmio/rpmvercmp.c): ~
    comes before everything.
    """
    pattern = re.compile(r"~|\d+|[a-zA-Z]+")
    ones, others = pattern.findall(one), pattern.findall(other)
    for left, right in itertools.zip_longest(ones, others, fillvalue=""):
        left, right = (part.lstrip("0") or "0" if part.isdigit() else part for part in (left, right))
        if left != right:
            return 1 if _weight(left) > _weight(right) else -1
    return 0


def _weight(part: str) -> Tuple[int, int, str]:
    """Of one segment: ~ below the end, then letters, then numbers."""
    return (
        ("~", "").index(part) if part in ("~", "") else 3 if part.isdigit() else 2,
        len(part) if part.isdigit() else 0,
        part,
    )


def safe(driver: str) -> str:
    """The driver's name for a file's name, or those of several: without hyphens, at which names are split
    before they are compared.
    """
    return "~".join(re.sub(r"[^A-Za-z0-9.]", "_", each) for each in names.apart(names.short(driver)))


def path(shipped: str, new: New) -> str:
    """Our file's name: the shipped one's, ``~`` and the driver.

    Behind anything else than ``~`` it would sort before the shipped one.
    """
    return "%s~%s.conf" % (shipped[: -len(".conf")], safe(new.driver))


def compose(
    new: New, *, several: str = " ", end: Callable[[str], int] = cmdline.end, default: str = ""
) -> str:
    """The shipped entry's own text with another title and initrd, and with arguments added; variables in it
    stay as they are.

    ``several`` is what separates images: a space for GRUB, for others the beginning of another line. ``end``
    tells where in a text of arguments the kernel's own ones end, and ``default`` is what the loader takes
    where an entry has none.
    """
    shipped = new.shipped
    text = shipped.text.rstrip("\n").split("\n")
    found = lines(shipped.text)
    for each in found:
        if each.key == "title":
            text[each.number] = "title " + new.title(each.value)
        elif each.key == "initrd":
            text[each.number] = "initrd " + " ".join(
                several.join(new.initrd) if word == new.replaces else word for word in each.value.split()
            )
        elif each.key == "options":
            text[each.number] = "options " + without_ours(each.value, new.args.split())
    options = [(each.number, text[each.number][len("options ") :]) for each in found if each.key == "options"]
    number, value = next(
        ((number, value) for number, value in options if end(value) < len(value)), (options or [(-1, "")])[-1]
    )
    if options:
        text[number] = "options " + cmdline.insert(value, new.args, end(value))
    else:
        text.insert(found[-1].number + 1, "options " + cmdline.insert(default, new.args))
    # loaders show the kernel's path then, and ours would look like the shipped one
    if all(each.key != "title" for each in found):
        text.insert(0, "title " + new.title(shipped.title))
    return texts.mark(new.driver, new.kernel) + new.remark + "".join(line + "\n" for line in text)


def put(view: View, file: str, new: New, *, text: str) -> None:
    """Plan the entry's file, unless something that is not ours has its name."""
    old = view.text(file)
    if old is not None and texts.whose(texts.marked(old)) != (new.driver, new.kernel):
        raise KmodError(
            file,
            "is there and is not the entry of %s" % new.driver,
            "Move it away, or give the driver another name",
            "ENTRY_TAKEN",
        )
    view.put(file, text, like=new.shipped.path)
