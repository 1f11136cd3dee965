# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB 2: entries in a custom.cfg beside grub.cfg, which 41_custom has grub.cfg source at boot.

So nothing is generated again, and grub-mkconfig leaves ours alone. The default and the entry for the next
boot alone are those that grub.cfg takes from the environment block. Used for the menu of GRUB with Boot
Loader Specification entries as well.
"""

import os
import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from ...errors import KmodError
from . import blocks, bls, grubenv, script, storage
from .menu import Entry, Loader, Menu, New, View, number, trial

_SECTION = re.compile(
    r"^### BEGIN (?P<name>/\S+) ###\n(?:(?!### (?:BEGIN|END) /).*\n)*### END (?P=name) ###$", re.M
)
_DEFAULT = re.compile(r'^if \[ -z "\$\{boot_once\}" \]; then set default=\'.*\'; fi\n', re.M)
LINUX = ("linux", "linux16", "linuxefi")
INITRD = ("initrd", "initrd16", "initrdefi")
# What an entry of ours does not do: become the default because it was tried by hand, or be tried twice
# (Ubuntu's images for clouds)
LEAVE_OUT = ("savedefault", "initrdfail")
# Ubuntu: after a boot that failed the menu waits, where GRUB_RECORDFAIL_TIMEOUT says so for ever
WAIT = "recordfail"
XEN = ("multiboot", "multiboot2", "xen_hypervisor")
DEFAULT_OPTIONS = "$default_kernelopts"  # of an entry in a file that has none
GRUBS_OWN = re.compile(
    r"feature_|grub_|config_|net_|pxe|efi|shim|lockdown|(root|prefix|cmdpath|lang|chosen|timeout|timeout_style|[0-9?#*@])$"
)
REMEMBERED = "outoftree_kmod_default"  # the saved_entry that ours replaced


class Config(NamedTuple):
    """What a grub.cfg, with what it sources, comes to."""

    entries: List[Entry]
    default: str  # the text that default is set to, variables as written
    custom: bool  # whether custom.cfg is sourced
    once: bool  # whether next_entry is honoured
    superusers: bool
    users: Optional[str]  # what the variable grub_users is set to
    variables: Dict[str, str]  # what others are set to


def custom(loader: Loader) -> str:
    return os.path.dirname(loader.config) + "/custom.cfg"


def environment(loader: Loader) -> str:
    return os.path.dirname(loader.config) + "/grubenv"


def config(view: View, loader: Loader) -> Config:
    if loader not in view.kept:
        view.kept[loader] = _config(view, loader)
    return view.kept[loader]  # type: ignore[no-any-return]


def _config(view: View, loader: Loader) -> Config:
    text = view.text(loader.config)
    if text is None:
        raise KmodError(
            loader.config,
            "is not there",
            "Generate it: grub-mkconfig -o %s" % loader.config,
            "CONFIG_MISSING",
        )
    reader = _Reader(view, loader)
    reader.read(script.parse(text, loader.config), _Source(loader.config, text), ())
    return Config(
        reader.entries,
        reader.default,
        reader.custom,
        "${next_entry}" in text,
        reader.superusers,
        reader.users,
        dict(reader.later, **reader.variables),
    )


class _Source:
    """A file that entries are written in."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.ours = blocks.Spans(text)
        self.sections = blocks.Spans(text, _SECTION)


class _Reader:
    """Walks a configuration in the order in which GRUB would run it.

    All entries are taken, whatever their conditions; settings are not where a condition tells for certain
    that they are not made: where Fedora counts failed boots down, ``default`` is set to 1 in the end.
    """

    def __init__(self, view: View, loader: Loader) -> None:
        self.view = view
        self.loader = loader
        self.entries: List[Entry] = []
        self.default = ""
        self.custom = False
        self.superusers = False
        self.users: Optional[str] = None
        self.variables: Dict[str, str] = {}
        self.later: Dict[str, str] = {}  # what functions set
        self.environment = environment_of(view, loader)
        self.counts: Dict[Tuple[int, ...], int] = {}

    def place(self, parent: Tuple[int, ...]) -> Tuple[int, ...]:
        self.counts[parent] = self.counts.get(parent, -1) + 1
        return parent + (self.counts[parent],)

    def read(self, commands: List[script.Command], source: _Source, parent: Tuple[int, ...]) -> None:
        for command, taken in script.running(commands, self.holds):
            if command.body is not None and command.name in ("menuentry", "submenu", "hiddenentry"):
                entry = _entry(command, source, self.place(parent))
                self.entries.append(entry)
                if command.name == "submenu":
                    self.read(command.body, source, entry.position)
            elif command.name == "blscfg" and self.loader.entries:
                self.entries.extend(
                    each._replace(position=self.place(parent)) for each in bls.entries(self.view, self.loader)
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

    def holds(self, condition: script.Command) -> Optional[bool]:
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
        path = custom(self.loader)
        text = self.view.text(path)
        # 41_custom names it twice, for GRUBs with and without config_directory
        if text is not None and not self.custom:
            self.custom = True
            self.read(script.parse(text, path), _Source(path, text), parent)
        self.custom = True


def _entry(command: script.Command, source: _Source, position: Tuple[int, ...]) -> Entry:
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
    driver, kernel = blocks.whose(block) if block else (None, None)
    return Entry(
        ident or title,
        title,
        linux[0] if linux else "",
        initrd,
        " ".join(linux[1:]),
        source.path,
        source.text[line : command.stop] + "\n",
        position,
        section.group("name") if section else "",
        driver,
        kernel,
        trial(block.group("body")) if block else "",
        xen,
    )


def _head(command: script.Command) -> Tuple[str, str]:
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


def menu(view: View, loader: Loader) -> Menu:
    found = config(view, loader)
    variables = environment_of(view, loader)
    default = re.sub(
        r"^\$\{?saved_entry\}?$", lambda _: grubenv.get(variables, "saved_entry") or "", found.default
    )
    once = grubenv.get(variables, "next_entry")
    following = resolve(found.entries, once) if once and found.once else None
    return Menu(found.entries, resolve(found.entries, default), following.id if following else once or None)


def environment_of(view: View, loader: Loader) -> List[Tuple[str, str]]:
    text = view.text(environment(loader))
    return grubenv.parse(text, environment(loader)) if text is not None else []


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


# Changing


def compose(shipped: Entry, new: New, variables: Mapping[str, str]) -> str:
    """The shipped entry's own text with another title, id and initrd, and with arguments added."""
    indent = shipped.text[: len(shipped.text) - len(shipped.text.lstrip(" \t"))]
    text = "".join(
        line[len(indent) :] if line.startswith(indent) else line for line in shipped.text.splitlines(True)
    )
    command = script.parse(text, shipped.path)[0]
    edits = _edit_head(command, new, shipped)
    bare = _bare(command, new.replaces)
    images = ""
    for each in command.walk():
        if each.name in INITRD and new.replaces in [word.value for word in each.words]:
            images = " ".join(
                " ".join(new.initrd) if word.value == new.replaces else word.raw for word in each.words[1:]
            )
            edits += [
                (word.start, word.stop, " ".join(new.initrd))
                for word in each.words[1:]
                if word.value == new.replaces
            ]
        elif each.name in LEAVE_OUT or each.name == WAIT and new.returns or each.name in INITRD and bare:
            edits.append((text.rfind("\n", 0, each.start) + 1, text.find("\n", each.stop) + 1, ""))
    for each in command.walk():
        if each.name in LINUX:
            at = _end(each, variables)
            added = " ".join(_word(word) for word in new.args.split())
            initrd = "\n%s %s" % (each.name.replace("linux", "initrd"), images) if each.start in bare else ""
            if at == each.stop:
                edits.append((at, at, " " + added + initrd))
            else:
                edits += [(at, at, added + " "), (each.stop, each.stop, initrd)]
    for start, stop, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[stop:]
    return text


def _end(linux: script.Command, variables: Mapping[str, str]) -> int:
    """Where the kernel's own arguments end: in front of a -- that stands alone, or of a variable that has
    one.
    """
    return next((word.start for word in linux.words[2:] if "--" in word.expanded(variables)), linux.stop)


def _end_of_options(text: str, variables: Mapping[str, str]) -> int:
    """The same in the options of an entry in a file, out of which blscfg makes a command."""
    return _end(_linux("x", text), variables) - len("linux x ")


def _linux(path: str, options: str) -> script.Command:
    return script.parse("linux %s %s" % (path, options), "options")[0]


def lines(view: View, loader: Loader, entry: Entry) -> List[str]:
    """The command lines that the kernel may get, one for each way through the entry, as GRUB puts them
    together (grub-core/lib/cmdline.c).
    """
    variables = variables_of(view, loader)
    if entry.path.endswith(".conf"):
        commands = [_linux(entry.linux, entry.args)]
    else:
        commands = [each for each in script.parse(entry.text, entry.path)[0].walk() if each.name in LINUX]
    found = []
    for command in commands:
        words = [field for word in command.words[1:] for field in word.expanded(variables)]
        found.append(
            " ".join(
                ["BOOT_IMAGE=" + word if number == 0 else _passed(word) for number, word in enumerate(words)]
            )
        )
    return found


def _passed(word: str) -> str:
    escaped = re.sub(r"([\\'\"])", r"\\\1", word)
    return '"%s"' % escaped if " " in word else escaped


def variables_of(view: View, loader: Loader) -> Dict[str, str]:
    """What GRUB's variables are when an entry starts, as far as files tell: those of the environment block
    come last.
    """
    return dict(config(view, loader).variables, **dict(environment_of(view, loader)))


def _bare(command: script.Command, image: str) -> Set[int]:
    """Where the commands stand that, by some way through the entry, start the kernel without its initramfs.

    Ubuntu's images for clouds (GRUB_FORCE_PARTUUID) try that first, and an initramfs only on the boot after
    one that failed.
    """

    def step(each: script.Command, state: Tuple[int, bool]) -> Tuple[int, bool]:
        if each.name in LINUX:
            return each.start, False
        return (state[0], image in [word.value for word in each.words]) if each.name in INITRD else state

    return {start for start, loaded in script.ways(command.walk(), step, (-1, True)) if not loaded}


def _edit_head(command: script.Command, new: New, shipped: Entry) -> List[Tuple[int, int, str]]:
    words = command.words
    title = next(word for word in words[1:] if word.value == shipped.title)
    edits = [(title.start, title.stop, script.quote(new.title(shipped.title)))]
    for option, word in zip(words[1:], words[2:] + words[-1:]):
        if option.raw in ("--id", "$menuentry_id_option", "${menuentry_id_option}"):
            return edits + [(word.start, word.stop, script.quote(new.id))]
        if option.raw.startswith("--id="):
            return edits + [(option.start, option.stop, "--id=" + script.quote(new.id))]
    return edits + [(title.stop, title.stop, " --id " + script.quote(new.id))]


def _word(argument: str) -> str:
    return argument if re.fullmatch(r"[\w.,:=/@%+~^-]+", argument) else script.quote(argument)


def add(view: View, loader: Loader, shipped: Entry, new: New) -> None:
    """Our block in custom.cfg; beside an entry that is a file of its own, another such file."""
    if shipped.path.endswith(".conf"):
        variables = variables_of(view, loader)
        composed = bls.compose(
            shipped, new, end=lambda options: _end_of_options(options, variables), default=DEFAULT_OPTIONS
        )
        bls.put(view, bls.path(shipped, new), composed, shipped, new)
        return
    if not config(view, loader).custom:
        raise KmodError(
            loader.config,
            "does not source custom.cfg, where new entries go",
            "Add what 41_custom of GRUB writes, or run grub-mkconfig",
            "GRUB_NO_CUSTOM",
        )
    text = view.text(custom(loader))
    old = next(
        (
            block.group("body")
            for block in blocks.each(text or "")
            if blocks.whose(block) == (new.driver, new.kernel)
        ),
        "",
    )
    default = _DEFAULT.search(old)
    body = (
        compose(shipped, new, variables_of(view, loader)) + new.remark + (default.group() if default else "")
    )
    view.put(custom(loader), blocks.put(text, new.driver, new.kernel, body), like=loader.config)


def drop(view: View, loader: Loader, entry: Entry) -> None:
    if entry.path.endswith(".conf"):
        view.put(entry.path, None)
    else:
        view.put(entry.path, blocks.cut(view.text(entry.path) or "", entry.driver or "", entry.kernel or ""))


def set_default(view: View, loader: Loader, entry: Entry) -> None:
    """Make our entry the default, in the way that this grub.cfg takes it from; only the one that is replaced
    is remembered.
    """
    _check_unattended(view, loader, entry)
    found = config(view, loader)
    if "saved_entry" not in _without_ours(view, loader).default:
        if entry.path.endswith(".conf"):
            raise KmodError(
                loader.config,
                "has a fixed default and does not look at the saved one",
                "Set GRUB_DEFAULT=saved in /etc/default/grub and run grub-mkconfig",
                "DEFAULT_FIXED",
            )
        _set_in_custom(view, loader, entry)
        return
    path = environment(loader)
    text, variables = _environment_to_write(view, loader), environment_of(view, loader)
    old = grubenv.get(variables, "saved_entry")
    if old == name(entry):
        return
    if not any(each.driver and name(each) == old for each in found.entries):
        text = grubenv.set_(text, path, REMEMBERED, "none" if old is None else "=" + old)
    view.put(path, grubenv.set_(text, path, "saved_entry", name(entry)))


def _without_ours(view: View, loader: Loader) -> Config:
    """The configuration as it would be without our blocks."""
    bare = View(view.host)
    text = view.text(custom(loader))
    bare.stages, bare.found, bare.seen = view.stages + bare.stages, view.found, view.seen
    bare.put(custom(loader), blocks.without(text) if text is not None else None)
    return config(bare, loader)


def _set_in_custom(view: View, loader: Loader, entry: Entry) -> None:
    """For a grub.cfg with a fixed default: custom.cfg, which comes last, sets it, except where the next boot
    alone has an entry of its own.
    """
    text = view.text(custom(loader)) or ""
    for driver, kernel, body in [blocks.whose(block) + (block.group("body"),) for block in blocks.each(text)]:
        wanted = _DEFAULT.sub("", body)
        if (driver, kernel) == (entry.driver, entry.kernel):
            wanted += "if [ -z \"${boot_once}\" ]; then set default='%s'; fi\n" % entry.id
        text = blocks.put(text, driver, kernel, wanted)
    view.put(custom(loader), text)


def set_once(view: View, loader: Loader, entry: Entry) -> None:
    """Have the next boot alone start our entry; GRUB itself takes that back before it does."""
    _check_unattended(view, loader, entry)
    if not config(view, loader).once:
        raise KmodError(
            loader.config,
            "does not look at next_entry, so no entry can be started only once",
            "Run grub-mkconfig",
            "GRUB_NO_ONCE",
        )
    why = storage.unwritable(view.host, environment(loader), "" if loader.entries else entry.text)
    if why:
        raise KmodError(
            environment(loader),
            "GRUB cannot write to it: %s. An entry that is tried once would be started again and again" % why,
            "Choose the entry in the boot menu, or put the file on a plain partition",
            "ONCE_NOT_SAFE",
        )
    path = environment(loader)
    if grubenv.get(environment_of(view, loader), "next_entry") != name(entry):
        view.put(path, grubenv.set_(_environment_to_write(view, loader), path, "next_entry", name(entry)))


def forget(view: View, loader: Loader, entry: Entry) -> None:
    """Before our entry goes: nothing that GRUB starts may name it any more, and the old default is back."""
    _forget_in_environment(view, loader, entry)
    path = custom(loader)
    text = view.text(path)
    for block in blocks.each(text or ""):
        if blocks.whose(block) == (entry.driver, entry.kernel) and _DEFAULT.search(block.group("body")):
            view.put(
                path,
                blocks.put(
                    text, entry.driver or "", entry.kernel or "", _DEFAULT.sub("", block.group("body"))
                ),
            )


def _forget_in_environment(view: View, loader: Loader, entry: Entry) -> None:
    path = environment(loader)
    text = view.text(path)
    if text is None:
        return
    variables = grubenv.parse(text, path)
    if grubenv.get(variables, "next_entry") == name(entry):
        text = grubenv.set_(text, path, "next_entry", None)
    remembered = grubenv.get(variables, REMEMBERED)
    saved = grubenv.get(variables, "saved_entry")
    if remembered is not None and saved == name(entry):
        text = grubenv.set_(text, path, "saved_entry", remembered[1:] if remembered.startswith("=") else None)
    if remembered is not None and not any(
        each.driver and name(each) == saved != name(entry) for each in config(view, loader).entries
    ):
        text = grubenv.set_(text, path, REMEMBERED, None)
    if text != view.text(path):
        view.put(path, text)


def _environment_to_write(view: View, loader: Loader) -> str:
    path = environment(loader)
    text = view.text(path)
    if text is None:
        raise KmodError(
            path,
            "is not there, so GRUB remembers nothing from one boot to the next",
            "Make it: grub-editenv %s create" % path,
            "ENV_MISSING",
        )
    return text


def _check_unattended(view: View, loader: Loader, entry: Entry) -> None:
    found = config(view, loader)
    # blscfg restricts an entry to grub_users if that expands to anything, and knows no other way
    if entry.path.endswith(".conf"):
        free, then = (
            _users(view, loader, found, entry) is None,
            "Take grub_users out of the shipped entries, or unset it, first",
        )
    else:
        free, then = "--unrestricted" in entry.text, "Give the shipped entries --unrestricted first"
    if found.superusers and not free:
        raise KmodError(
            loader.config,
            "the menu is protected by a password, which %r would wait for" % entry.title,
            then,
            "GRUB_PASSWORD",
        )


def _users(view: View, loader: Loader, found: Config, entry: Entry) -> Optional[str]:
    """grub_users of an entry in a file, with the variable of that name expanded; None where that comes to
    nothing at all.
    """
    value = next((line.value for line in bls.lines(entry.text) if line.key == "grub_users"), None)
    if value != "$grub_users":  # blscfg knows no braces
        return value
    return found.users if found.users is not None else grubenv.get(environment_of(view, loader), "grub_users")
