# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""GRUB 2: entries in a custom.cfg beside grub.cfg, which 41_custom has grub.cfg source at boot.

So nothing is generated again, and grub-mkconfig leaves ours alone. The default and the entry for the next
boot alone are those that grub.cfg takes from the environment block. With Boot Loader Specification entries
(blscfg) ours are files of their own.
"""

import re
from typing import List, Optional

from ...errors import KmodError
from ...host import Host
from .. import texts
from . import bls, grub_text, grubenv, script, storage
from .boot_loader import BootLoader, Installation, real
from .grub_cfg import (
    LINUX,
    GrubConfig,
    config,
    custom,
    environment,
    environment_of,
    name,
    resolve,
    variables_of,
)
from .grub_legacy import GRUB2 as FILES
from .menu import Entry, Menu, New
from .view import View

_DEFAULT = re.compile(r'^if \[ -z "\$\{boot_once\}" \]; then set default=\'.*\'; fi\n', re.M)
DEFAULT_OPTIONS = "$default_kernelopts"  # of an entry in a file that has none
REMEMBERED = "outoftree_kmod_default"  # the saved_entry that ours replaced


def found(host: Host) -> Optional[Installation]:
    """By a grub.cfg with a menu that is no blscfg."""
    at = _found(host)
    return at if at and at.loader is GRUB else None


def found_with_files(host: Host) -> Optional[Installation]:
    """By a grub.cfg with blscfg, and entries for it."""
    at = _found(host)
    return at if at and at.loader is BLS else None


def asked(host: Host) -> Optional[Installation]:
    """Asked for where blscfg was found."""
    at = _found(host)
    return at._replace(loader=GRUB, entries="") if at else None


def asked_with_files(host: Host) -> Optional[Installation]:
    """Asked for where no blscfg was found, or no entries for it."""
    at = _found(host)
    return at._replace(loader=BLS, entries=at.entries or bls.ENTRIES) if at else None


def _found(host: Host) -> Optional[Installation]:
    """The one of both that there is.

    A short grub.cfg on the EFI system partition only leads to the real one.
    """
    plain = [path for path in FILES if host.is_file(path)]
    vendors = ["/boot/efi/EFI/%s/grub.cfg" % name for name in host.listdir("/boot/efi/EFI")]
    efi = [path for path in vendors if host.is_file(path) and has_menu(host.read_text(path))]
    if (
        plain
        and efi
        and not (
            host.exists("/sys/firmware/efi")
            if host.live
            else not host.is_dir(plain[0].rsplit("/", 1)[0] + "/i386-pc")
        )
    ):
        efi = []
    for path in efi + plain:
        if re.search(r"^[ \t]*blscfg\b", host.read_text(path), re.M) and any(
            name.endswith(".conf") for name in host.listdir(bls.ENTRIES)
        ):
            return Installation(BLS, real(host, path), bls.ENTRIES)
        return Installation(GRUB, real(host, path))
    return None


def has_menu(text: str) -> bool:
    return re.search(r"^[ \t]*(menuentry|submenu|blscfg)\b", text, re.M) is not None


def menu(view: View, at: Installation) -> Menu:
    found = config(view, at)
    variables = environment_of(view, at)
    default = re.sub(
        r"^\$\{?saved_entry\}?$", lambda _: grubenv.get(variables, "saved_entry") or "", found.default
    )
    once = grubenv.get(variables, "next_entry")
    following = resolve(found.entries, once) if once and found.once else None
    return Menu(found.entries, resolve(found.entries, default), following.id if following else once or None)


def lines(view: View, at: Installation, entry: Entry) -> List[str]:
    """The command lines that the kernel may get, one for each way through the entry, as GRUB puts them
    together (grub-core/lib/cmdline.c).
    """
    variables = variables_of(view, at)
    if entry.path.endswith(".conf"):
        commands = [grub_text.linux_command(entry.linux, entry.args)]
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


def add(view: View, at: Installation, new: New) -> None:
    """Our block in custom.cfg; beside an entry that is a file of its own, another such file."""
    if new.shipped.path.endswith(".conf"):
        variables = variables_of(view, at)
        composed = bls.compose(
            new, end=lambda options: grub_text.end_of_options(options, variables), default=DEFAULT_OPTIONS
        )
        bls.put(view, bls.path(new.shipped.path, new), new, text=composed)
        return
    if not config(view, at).custom:
        raise KmodError(
            at.config,
            "does not source custom.cfg, where new entries go",
            "Add what 41_custom of GRUB writes, or run grub-mkconfig",
            "GRUB_NO_CUSTOM",
        )
    text = view.text(custom(at))
    old = texts.block(text or "", new.driver, new.kernel)
    default = _DEFAULT.search(old.group("body")) if old else None
    body = grub_text.compose(new, variables_of(view, at)) + new.remark + (default.group() if default else "")
    view.put(custom(at), texts.put(text, new.driver, new.kernel, body=body), like=at.config)


def drop(view: View, at: Installation, entry: Entry) -> None:
    """What somebody has made the default (grub-set-default) is none once nothing goes by that name any more."""
    if entry.path.endswith(".conf"):
        view.put(entry.path, None)
    else:
        view.put(entry.path, texts.cut(view.text(entry.path) or "", entry.driver or "", entry.kernel or ""))
    path = environment(at)
    text = view.text(path)
    saved = grubenv.get(grubenv.parse(text, path), "saved_entry") if text is not None else None
    if saved not in (entry.id, entry.title, name(entry)):
        return
    if not any(saved in (each.id, each.title, name(each)) for each in at.menu(view).entries):
        view.put(path, grubenv.set_(text or "", "saved_entry", None, path=path))


def set_default(view: View, at: Installation, entry: Entry) -> None:
    """Make an entry the default, in the way that this grub.cfg takes it from; only the one that is replaced
    is remembered.
    """
    _check_unattended(view, at, entry)
    found = config(view, at)
    if "saved_entry" not in _without_ours(view, at).default:
        if entry.path.endswith(".conf"):
            raise KmodError(
                at.config,
                "has a fixed default and does not look at the saved one",
                "Set GRUB_DEFAULT=saved in /etc/default/grub and run grub-mkconfig",
                "DEFAULT_FIXED",
            )
        _set_in_custom(view, at, entry)
        return
    path = environment(at)
    text, variables = _environment_to_write(view, at), environment_of(view, at)
    old = grubenv.get(variables, "saved_entry")
    if old == name(entry):
        return
    if not any(each.driver and name(each) == old for each in found.entries):
        text = grubenv.set_(text, REMEMBERED, "none" if old is None else "=" + old, path=path)
    view.put(path, grubenv.set_(text, "saved_entry", name(entry), path=path))


def _without_ours(view: View, at: Installation) -> GrubConfig:
    """The configuration as it would be without our blocks."""
    bare = View(view.host)
    text = view.text(custom(at))
    bare.stages, bare.found, bare.seen = view.stages + bare.stages, view.found, view.seen
    bare.put(custom(at), texts.without_blocks(text) if text is not None else None)
    return config(bare, at)


def _set_in_custom(view: View, at: Installation, entry: Entry) -> None:
    """For a grub.cfg with a fixed default: custom.cfg, which comes last, sets it, except where the next boot
    alone has an entry of its own.
    """
    text = view.text(custom(at)) or ""
    for block in list(texts.blocks(text)):
        wanted = _DEFAULT.sub("", block.group("body"))
        if texts.whose(block) == (entry.driver, entry.kernel):
            wanted += "if [ -z \"${boot_once}\" ]; then set default='%s'; fi\n" % entry.id
        text = texts.put(text, block.group("driver"), block.group("kernel"), body=wanted)
    view.put(custom(at), text)


def keep(view: View, at: Installation, entry: Entry) -> None:
    """Where there is a fixed default, a block in custom.cfg says so, as the block of an entry of ours does."""
    before = view.text(custom(at))
    view.put(custom(at), texts.put(before, texts.HOLDER, entry.kernel or "", body=""), like=at.config)
    set_default(view, at, entry)
    block = texts.block(view.text(custom(at)) or "", texts.HOLDER, entry.kernel or "")
    if block is None or not block.group("body"):
        view.put(custom(at), before, like=at.config)


def let_go(view: View, at: Installation) -> None:
    for block in list(texts.blocks(view.text(custom(at)) or "")):
        driver, kernel = texts.whose(block)
        if driver == texts.HOLDER:
            view.put(custom(at), texts.cut(view.text(custom(at)) or "", driver, kernel or ""))


def set_once(view: View, at: Installation, entry: Entry) -> None:
    """Have the next boot alone start our entry; GRUB itself takes that back before it does."""
    _check_unattended(view, at, entry)
    found = config(view, at)
    if not found.once:
        raise KmodError(
            at.config,
            "does not look at next_entry, so no entry can be started only once",
            "Run grub-mkconfig",
            "GRUB_NO_ONCE",
        )
    path, text = environment(at), _environment_to_write(view, at)
    why = storage.unwritable(view.host, path, "" if at.entries else entry.text)
    if why:
        raise KmodError(
            path,
            "GRUB cannot write to it: %s. An entry that is tried once would be started again and again" % why,
            "Choose the entry in the boot menu, or put the file on a plain partition",
            "ONCE_NOT_SAFE",
        )
    if grubenv.get(environment_of(view, at), "next_entry") != name(entry):
        view.put(path, grubenv.set_(text, "next_entry", name(entry), path=path))


def forget(view: View, at: Installation, entry: Entry) -> None:
    """Before our entry goes: nothing that GRUB starts may name it any more, and the old default is back."""
    _forget_in_environment(view, at, entry)
    path = custom(at)
    text = view.text(path)
    for block in texts.blocks(text or ""):
        if texts.whose(block) == (entry.driver, entry.kernel) and _DEFAULT.search(block.group("body")):
            view.put(
                path,
                texts.put(
                    text,
                    block.group("driver"),
                    block.group("kernel"),
                    body=_DEFAULT.sub("", block.group("body")),
                ),
            )


def _forget_in_environment(view: View, at: Installation, entry: Entry) -> None:
    path = environment(at)
    text = view.text(path)
    if text is None:
        return
    variables, found = grubenv.parse(text, path), config(view, at)
    if grubenv.get(variables, "next_entry") == name(entry):
        text = grubenv.set_(text, "next_entry", None, path=path)
    remembered = grubenv.get(variables, REMEMBERED)
    saved = grubenv.get(variables, "saved_entry")
    if remembered is not None and saved == name(entry):
        text = grubenv.set_(
            text, "saved_entry", remembered[1:] if remembered.startswith("=") else None, path=path
        )
    names = {name(each) for each in found.entries if each.driver} - {name(entry)}
    kept = texts.kept(view.text(texts.KEPT))  # by a default that is kept it is remembered, too
    is_kept = entry.driver != texts.HOLDER and (saved or "").rpartition(">")[2] == kept != ""
    if remembered is not None and saved not in names and not is_kept:
        text = grubenv.set_(text, REMEMBERED, None, path=path)
    if text != view.text(path):
        view.put(path, text)


def _environment_to_write(view: View, at: Installation) -> str:
    path = environment(at)
    text = view.text(path)
    if text is None:
        raise KmodError(
            path,
            "is not there, so GRUB remembers nothing from one boot to the next",
            "Make it: grub-editenv %s create" % path,
            "ENV_MISSING",
        )
    return text


def _check_unattended(view: View, at: Installation, entry: Entry) -> None:
    found = config(view, at)
    # blscfg restricts an entry to grub_users if that expands to anything, and knows no other way
    if entry.path.endswith(".conf"):
        free, then = (
            _users(view, at, entry) is None,
            "Take grub_users out of the shipped entries, or unset it, first",
        )
    else:
        free, then = "--unrestricted" in entry.text, "Give the shipped entries --unrestricted first"
    if found.superusers and not free:
        raise KmodError(
            at.config,
            "the menu is protected by a password, which %r would wait for" % entry.title,
            then,
            "GRUB_PASSWORD",
        )


def _users(view: View, at: Installation, entry: Entry) -> Optional[str]:
    """grub_users of an entry in a file, with the variable of that name expanded; None where that comes to
    nothing at all.
    """
    value = next((line.value for line in bls.lines(entry.text) if line.key == "grub_users"), None)
    if value != "$grub_users":  # blscfg knows no braces
        return value
    users = config(view, at).users
    return users if users is not None else grubenv.get(environment_of(view, at), "grub_users")


GRUB = BootLoader(
    name="grub2",
    looked_for=FILES,
    found=found,
    asked=asked,
    menu=menu,
    lines=lines,
    add=add,
    drop=drop,
    set_default=set_default,
    set_once=set_once,
    forget=forget,
    keep=keep,
    let_go=let_go,
)
BLS = GRUB._replace(name="bls", found=found_with_files, asked=asked_with_files)
