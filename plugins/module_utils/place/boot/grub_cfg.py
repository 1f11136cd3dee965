# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What a grub.cfg with all that it sources comes to, read as GRUB 2 would run it: entries, default,
variables.
"""

import os
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from ...errors import KmodError
from .. import texts
from . import bls, grubenv, script
from .boot_loader import Installation
from .menu import Entry, number
from .view import View

_SECTION = re.compile(
    r"^### BEGIN (?P<name>/\S+) ###\n(?:(?!### (?:BEGIN|END) /).*\n)*### END (?P=name) ###$", re.M
)
LINUX = ("linux", "linux16", "linuxefi")
INITRD = ("initrd", "initrd16", "initrdefi")
XEN = ("multiboot", "multiboot2", "xen_hypervisor")
GRUBS_OWN = re.compile(
    r"feature_|grub_|config_|net_|pxe|efi|shim|lockdown|(root|prefix|cmdpath|lang|chosen|timeout|timeout_style|[0-9?#*@])$"
)


class GrubConfig(NamedTuple):
    """What a grub.cfg, with what it sources, comes to."""

    entries: List[Entry]
    default: str  # the text that default is set to, variables as written
    custom: bool  # whether custom.cfg is sourced
    once: bool  # whether next_entry is honoured
    superusers: bool
    users: Optional[str]  # what the variable grub_users is set to
    variables: Dict[str, str]  # what others are set to


def custom(at: Installation) -> str:
    return os.path.dirname(at.config) + "/custom.cfg"


def environment(at: Installation) -> str:
    return os.path.dirname(at.config) + "/grubenv"


def config(view: View, at: Installation) -> GrubConfig:
    if at not in view.kept:
        view.kept[at] = _config(view, at)
    return view.kept[at]  # type: ignore[no-any-return]


def _config(view: View, at: Installation) -> GrubConfig:
    text = view.text(at.config)
    if text is None:
        raise KmodError(
            at.config, "is not there", "Generate it: grub-mkconfig -o %s" % at.config, "CONFIG_MISSING"
        )
    reader = _Walk(view, at)
    reader.read(script.parse(text, at.config), _Source(at.config, text), ())
    return GrubConfig(
        entries=reader.entries,
        default=reader.default,
        custom=reader.custom,
        once="${next_entry}" in text,
        superusers=reader.superusers,
        users=reader.users,
        variables=dict(reader.later, **reader.variables),
    )


class _Source:
    """A file that entries are written in."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.ours = texts.Spans(text)
        self.sections = texts.Spans(text, _SECTION)


class _Walk:
    """Walks a configuration in the order in which GRUB would run it.

    All entries are taken, whatever their conditions; settings are not where a condition tells for certain
    that they are not made: where Fedora counts failed boots down, ``default`` is set to 1 in the end.
    """

    def __init__(self, view: View, at: Installation) -> None:
        self.view = view
        self.at = at
        self.entries: List[Entry] = []
        self.default = ""
        self.custom = False
        self.superusers = False
        self.users: Optional[str] = None
        self.variables: Dict[str, str] = {}
        self.later: Dict[str, str] = {}  # what functions set
        self.environment = environment_of(view, at)
        self.counts: Dict[Tuple[int, ...], int] = {}

    def place(self, parent: Tuple[int, ...]) -> Tuple[int, ...]:
        self.counts[parent] = self.counts.get(parent, -1) + 1
        return parent + (self.counts[parent],)

    def read(self, commands: List[script.Statement], source: _Source, parent: Tuple[int, ...]) -> None:
        for command, taken in script.running(commands, self.holds):
            if command.body is not None and command.name in ("menuentry", "submenu", "hiddenentry"):
                entry = _entry(command, source, self.place(parent))
                self.entries.append(entry)
                if command.name == "submenu":
                    self.read(command.body, source, entry.position)
            elif command.name == "blscfg" and self.at.entries:
                self.entries.extend(
                    each._replace(position=self.place(parent))
                    for each in bls.entries(self.view, self.at.entries)
                )
            elif (
                command.name in ("source", ".")
                and len(command.words) > 1
                and command.words[1].value.endswith("/custom.cfg")
            ):
                self.source_custom(parent)
            elif command.name == "function":  # called somewhere, and sets what entries use (vt_handoff)
                self.later.update(
                    each.words[1].value.partition("=")[::2]
                    for each in command.walk()
                    if each.name == "set" and len(each.words) > 1
                )
            elif command.name == "set" and len(command.words) > 1:
                name, _unused, value = command.words[1].value.partition("=")
                if taken:
                    self.variables[name] = value
                if taken and name == "default" and value not in ("${next_entry}", "$next_entry"):
                    self.default = value
                elif name == "grub_users":
                    self.users = value
                self.superusers = self.superusers or name == "superusers" and bool(value)

    def holds(self, condition: script.Statement) -> Optional[bool]:
        """Whether a condition is true on a boot for which nobody asked for another entry; None where files do
        not tell.
        """
        environment = {
            name: value for name, value in self.environment if name not in ("next_entry", "prev_saved_entry")
        }
        known = dict(environment, **self.variables)
        named = set(re.findall(r"\$\{?(\w+)", " ".join(word.raw for word in condition.words)))
        if condition.name not in ("[", "test") or any(GRUBS_OWN.match(name) for name in named - set(known)):
            return None
        words = [field for word in condition.words[1:] for field in word.expanded(known)]
        return script.test(words[:-1] if words[-1:] == ["]"] else words)

    def source_custom(self, parent: Tuple[int, ...]) -> None:
        path = custom(self.at)
        text = self.view.text(path)
        # 41_custom names it twice, for GRUBs with and without config_directory
        if text is not None and not self.custom:
            self.custom = True
            self.read(script.parse(text, path), _Source(path, text), parent)
        self.custom = True


def _entry(command: script.Statement, source: _Source, position: Tuple[int, ...]) -> Entry:
    title, ident = _head(command)
    linux: Tuple[str, ...] = ()
    initrd: Tuple[str, ...] = ()  # of several commands the longest: another may load microcode alone
    xen = command.name != "submenu" and any(each.name in XEN for each in command.walk())
    if command.name != "submenu":
        for each in command.walk():
            values = tuple(word.value for word in each.words[1:])
            if each.name in LINUX and values:
                linux = values
            elif each.name in INITRD and len(values) >= len(initrd):
                initrd = values
    line = source.text.rfind("\n", 0, command.start) + 1
    block, section = source.ours.at(command.start), source.sections.at(command.start)
    driver, kernel = texts.whose(block)
    return Entry(
        id=ident or title,
        title=title,
        linux=linux[0] if linux else "",
        initrd=initrd,
        args=" ".join(linux[1:]),
        path=source.path,
        text=source.text[line : command.stop] + "\n",
        position=position,
        section=section.group("name") if section else "",
        driver=driver,
        kernel=kernel,
        trial=texts.trial(block.group("body")) if block else "",
        xen=xen,
    )


def _head(command: script.Statement) -> Tuple[str, str]:
    """Title and id of an entry; the options of menuentry may stand anywhere (grub-core/commands/menuentry.c)."""
    title, ident, skip = "", "", ""
    for word in command.words[1:]:
        if skip:
            ident = word.value if skip == "id" else ident
            skip = ""
        elif word.raw in ("--id", "$menuentry_id_option", "${menuentry_id_option}"):
            skip = "id"
        elif word.raw.startswith("--id="):
            ident = word.value[5:]
        elif word.raw in ("--class", "--users", "--hotkey", "--source"):
            skip = "other"
        elif not word.raw.startswith("--") and not title:
            title = word.value
    return title, ident


def environment_of(view: View, at: Installation) -> List[Tuple[str, str]]:
    text = view.text(environment(at))
    return grubenv.parse(text, environment(at)) if text is not None else []


def resolve(entries: List[Entry], default: str) -> Optional[Entry]:
    """The entry that a value of ``default`` means: numbers, titles or ids, one a level; the first where it
    means none.

    grub-core/normal/menu.c: get_entry_number, menuentry_eq. A number counts only as a whole, as in the GRUB
    of Fedora and Enterprise Linux.
    """
    parent: Tuple[int, ...] = ()
    found: Optional[Entry] = None
    for part in re.split(r"(?<!>)>(?!>)", default):
        part = part.replace(">>", ">")
        level = [entry for entry in entries if entry.position[:-1] == parent]
        if not level:
            break
        named = [entry for entry in level if part in (entry.title, entry.id)]
        place = number(part)
        numbered = level[place : place + 1] if place is not None else []
        found = (numbered or named or level)[0]
        parent = found.position
    return found


def name(entry: Entry) -> str:
    """What to set default to.

    GRUB without the distributions' patch takes an id that begins with a digit, as many machine IDs do, for a
    number; a title of ours never does."""
    return entry.title.replace(">", ">>") if entry.id[:1].isdigit() else entry.id


def variables_of(view: View, at: Installation) -> Dict[str, str]:
    """What GRUB's variables are when an entry starts, as far as files tell: those of the environment block
    come last.
    """
    return dict(config(view, at).variables, **dict(environment_of(view, at)))
