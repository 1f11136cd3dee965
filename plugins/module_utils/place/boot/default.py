# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What the next boot starts; and the default set to another entry, anybody's, and back.

Here a kernel that arrives by itself is kept from taking the default (``kmod_keep_default``), whatever it took it by: the first place in the
menu (GRUB 2 with a saved default that names nothing, systemd-boot's order), ``saved_entry`` that kernel-install's or grubby's scripts set
(Enterprise Linux with UPDATEDEFAULT=yes), ``default`` of GRUB legacy. ``change`` comes once the distribution's own scripts have run, since they
set it again, and before the hook returns, since automatic reboots follow it. Where the distribution can only be told in its own settings
(GRUB_DEFAULT=0, which is DEFAULT_FIXED here; UPDATEDEFAULT), that is for the caller. ``restore`` is for when a build has arrived.
"""
from typing import NamedTuple, Optional

from ...errors import KmodError
from ...host import Host
from ...plan import Plan
from . import loaders, promises
from .menu import Entry, Menu, release, same
from .view import View


class NextBoot(NamedTuple):
    """What the next boot starts, as far as the boot loader's files tell."""

    menu: Menu
    entry: Optional[Entry]  # None where it is the one that was started last
    once: bool  # whether that is so for the next boot alone

    @property
    def release(self) -> Optional[str]:
        """The kernel's, where the entry tells."""
        return release(self.entry) if self.entry else None


def next_boot(host: Host) -> NextBoot:
    """Errors: those of ``loaders.detect`` and of reading the menu."""
    menu = loaders.detect(host).menu(View(host))
    tried = next((entry for entry in menu.entries if menu.once is not None and entry.id == menu.once), None)
    return NextBoot(menu, tried or menu.default, once=tried is not None)


def change(host: Host, entry: Entry) -> Plan:
    """Plan that boots start this entry of ``next_boot().menu`` from now on; what they started is remembered in the loader's own files.

    Errors: those of BootLoader.set_default (DEFAULT_FIXED, DEFAULT_OVERRIDDEN, ENV_MISSING, GRUB_PASSWORD ...), and DEFAULT_KEPT.
    """
    at, view = loaders.detect(host), View(host)
    before = at.menu(view)
    if not same(before.default, entry):
        at.loader.set_default(view, at, entry)
    after = at.menu(view)
    promises.check_menu(at, before, after, asked=True)
    if not same(after.default, entry):
        raise KmodError(at.config, "would go on to start %r" % (after.default and after.default.title), "Set the default by hand", "DEFAULT_KEPT")
    return view.plan()


def restore(host: Host, entry: Entry) -> Plan:
    """Plan that boots start again what they did before ``change``. Nothing is done where they do not start this entry: somebody else has decided."""
    at, view = loaders.detect(host), View(host)
    before = at.menu(view)
    if same(before.default, entry):
        at.loader.forget(view, at, entry)
    promises.check_menu(at, before, at.menu(view), asked=True)
    return view.plan()
