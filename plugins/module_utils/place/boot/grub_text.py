# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The text of a GRUB 2 menu entry of ours: that of the shipped one with single words changed."""

import re
from typing import List, Mapping, Set, Tuple

from . import script
from .grub_cfg import INITRD, LINUX
from .menu import New

# What an entry of ours does not do: become the default because it was tried by hand, or be tried twice
# (Ubuntu's images for clouds)
LEAVE_OUT = ("savedefault", "initrdfail")
# Ubuntu: after a boot that failed the menu waits, where GRUB_RECORDFAIL_TIMEOUT says so for ever
WAIT = "recordfail"


def compose(new: New, variables: Mapping[str, str]) -> str:
    """The shipped entry's own text with another title, id and initrd, and with arguments added."""
    shipped = new.shipped
    indent = shipped.text[: len(shipped.text) - len(shipped.text.lstrip(" \t"))]
    text = "".join(
        line[len(indent) :] if line.startswith(indent) else line for line in shipped.text.splitlines(True)
    )
    command = script.parse(text, shipped.path)[0]
    edits = _edit_head(command, new)
    bare = without_initrd(command, new.replaces)
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


def _end(linux: script.Statement, variables: Mapping[str, str]) -> int:
    """Where the kernel's own arguments end: in front of a -- that stands alone, or of a variable that has
    one.
    """
    return next((word.start for word in linux.words[2:] if "--" in word.expanded(variables)), linux.stop)


def end_of_options(text: str, variables: Mapping[str, str]) -> int:
    """The same in the options of an entry in a file, out of which blscfg makes a command."""
    return _end(linux_command("x", text), variables) - len("linux x ")


def linux_command(path: str, options: str) -> script.Statement:
    return script.parse("linux %s %s" % (path, options), "options")[0]


def without_initrd(command: script.Statement, image: str) -> Set[int]:
    """Where the commands stand that, by some way through the entry, start the kernel without its initramfs.

    Ubuntu's images for clouds (GRUB_FORCE_PARTUUID) try that first, and an initramfs only on the boot after
    one that failed.
    """

    def step(each: script.Statement, state: Tuple[int, bool]) -> Tuple[int, bool]:
        if each.name in LINUX:
            return each.start, False
        return (state[0], image in [word.value for word in each.words]) if each.name in INITRD else state

    return {start for start, loaded in script.ways(command.walk(), step, (-1, True)) if not loaded}


def _edit_head(command: script.Statement, new: New) -> List[Tuple[int, int, str]]:
    words = command.words
    title = next(word for word in words[1:] if word.value == new.shipped.title)
    edits = [(title.start, title.stop, script.quote(new.title(new.shipped.title)))]
    for option, word in zip(words[1:], words[2:] + words[-1:]):
        if option.raw in ("--id", "$menuentry_id_option", "${menuentry_id_option}"):
            return edits + [(word.start, word.stop, script.quote(new.id))]
        if option.raw.startswith("--id="):
            return edits + [(option.start, option.stop, "--id=" + script.quote(new.id))]
    return edits + [(title.stop, title.stop, " --id " + script.quote(new.id))]


def _word(argument: str) -> str:
    return argument if re.fullmatch(r"[\w.,:=/@%+~^-]+", argument) else script.quote(argument)
