# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What there is to know of a boot loader, each in a record that its own file fills in; and one as it was
found on a host.
"""

from typing import Callable, List, NamedTuple, Optional, Tuple

from ...host import Host
from .menu import Entry, Menu, New
from .view import View


class BootLoader(NamedTuple):
    """What a boot loader's file says of it. ``loaders.LOADERS`` lists all that are known.

    What changes something plans it in the View, as texts; ``at`` is the loader as it was found. An entry of
    ours is written and taken out whole, marked as ours (see place.texts).
    """

    name: str  # of the option ``loader`` and in answers
    looked_for: Tuple[str, ...]  # what tells it, for the error where nothing is found
    found: Callable[[Host], "Optional[Installation]"]  # by the host's files
    # Errors: CONFIG_MISSING, CONFIG_MALFORMED and others of reading
    menu: Callable[[View, "Installation"], Menu]
    # the command lines that the kernel may get, one for each way through an entry
    lines: Callable[[View, "Installation", Entry], List[str]]
    # an entry of ours, or what it is to be now. It never becomes the default by its place
    add: Callable[[View, "Installation", New], None]
    # an entry of ours, once nothing names it any more (``forget``)
    drop: Callable[[View, "Installation", Entry], None]
    # the default that is replaced is remembered beside it
    set_default: Callable[[View, "Installation", Entry], None]
    # for the next boot alone. Error: ONCE_NOT_SAFE where it might be started again
    set_once: Callable[[View, "Installation", Entry], None]
    # nothing names the entry any more: the old default is back
    forget: Callable[[View, "Installation", Entry], None]
    # the same of a shipped entry, which bears no mark and stands here under a name of ours, where that is
    # another thing than ``set_default``; and nothing that came with it is left
    keep: "Optional[Callable[[View, Installation, Entry], None]]" = None
    let_go: "Optional[Callable[[View, Installation], None]]" = None
    once: bool = True  # whether it can start an entry once at all
    # its name in the firmware's LoaderInfo, of one that may be installed beside the one that boots
    program: str = ""
    # the same where it is named and files show another one
    asked: "Optional[Callable[[Host], Optional[Installation]]]" = None


class Installation(NamedTuple):
    """A boot loader as it was found on a host."""

    loader: BootLoader
    config: str  # its main configuration file, as a real path inside the root
    entries: str = ""  # directory of Boot Loader Specification entries, where it reads them

    def menu(self, view: View) -> Menu:
        return self.loader.menu(view, self)


def real(host: Host, path: str) -> str:
    """Where symlinks lead to, inside the root."""
    return host.inside(host.real(path))


def first(host: Host, paths: Tuple[str, ...]) -> Optional[str]:
    """The first of these files that is there, as a real path inside the root."""
    return next((real(host, path) for path in paths if host.is_file(path)), None)
