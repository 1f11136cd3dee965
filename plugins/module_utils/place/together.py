# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which drivers of a host share its initramfs variants and boot entries, and what they ask for together.

A boot starts one entry with one initramfs, so the drivers that it needs have to be in the same. Each kernel gets
a variant and an entry with those of them that it takes.
"""

from typing import Any, Container, Dict, Iterable, List, Mapping, NamedTuple, Tuple

from ..errors import KmodError, forgiving
from ..host import Host
from ..read import names
from .boot import leaks, loaders
from .boot.menu import FALLBACK_ARGS, Menu
from .boot.view import View
from .initramfs import existing
from .settings import Followed

AGREED = ("method", "fallback_args", "loader", "copy_of", "boot")  # what one variant or entry can have one of


class Shared(NamedTuple):
    """What drivers ask for that share variants and entries; of one alone it is what that asks for.

    ``known``: the drivers whose own variants and entries go, once those that are shared are there.
    """

    drivers: Tuple[str, ...]
    entry: bool
    known: Tuple[str, ...]
    early_load: Tuple[str, ...]
    ignore_tpm: bool
    args_of: Tuple[Tuple[str, str], ...]
    asking: Tuple[str, ...]  # the drivers that ask for ``boot``
    method: str = "auto"
    fallback_args: str = "auto"
    loader: str = "auto"
    copy_of: str = ""
    boot: str = "none"


def shared(followed: Mapping[str, Followed], known: Iterable[str] = ()) -> List[Shared]:
    """Of the drivers that get variants those that get boot entries, and those that do not.

    ``known`` are others that are known of, too. Error: BAD_OPTION, where two ask for different things.
    """
    found = []
    for entry in (True, False):
        its = {name: each for name, each in sorted(followed.items()) if each.initrd and each.entry == entry}
        if its:
            found.append(
                Shared(
                    tuple(its),
                    entry,
                    known=tuple(sorted({*followed, *known})),
                    early_load=tuple(name for name, each in its.items() if each.early_load),
                    ignore_tpm=any(each.ignore_tpm for each in its.values()),
                    args_of=tuple((name, each.args) for name, each in its.items() if each.args),
                    asking=tuple(name for name, each in its.items() if each.boot != "none"),
                    **{option: _agreed(its, option) for option in AGREED},
                )
            )
    return found


def _agreed(followed: Mapping[str, Followed], option: str) -> Any:
    """What those say that say something: the others leave it as it is by default."""
    default = getattr(Followed(), option)
    said = [
        (name, getattr(each, option)) for name, each in followed.items() if getattr(each, option) != default
    ]
    for name, value in said[1:]:
        if value != said[0][1]:
            raise KmodError(
                "%s and %s" % (said[0][0], name),
                "share the initramfs variant and boot entry of each kernel, and are given %s %r and %r"
                % (option, said[0][1], value),
                "Give them the same %s, or give it to one of them alone" % option,
                "BAD_OPTION",
            )
    return said[0][1] if said else default


def others(host: Host, drivers: Container[str], told: Mapping[str, Followed]) -> Dict[str, Followed]:
    """The other drivers that share variants with some of these: what is still known of how they were deployed.

    The arguments that their entries have stay, but for those to fall back: what is ``told`` of these drivers has
    its own.
    """
    found: Dict[str, Followed] = {}
    beside = [
        name
        for each in existing.found(host)
        if any(driver in drivers for driver in each.wants.drivers)
        for name in each.wants.drivers
        if name not in drivers
    ]
    if beside:
        back = FALLBACK_ARGS.split() + " ".join(each.fallback_args for each in told.values()).split()
        menu = Menu([], None)
        with forgiving():  # without a boot loader there are no entries
            menu = loaders.detect(host).menu(View(host))
        for name in beside:
            entries = [entry for entry in menu.with_any([name]) if len(names.apart(entry.driver or "")) > 1]
            words = [word for entry in entries for word in leaks.behind_mark(entry.args)]
            own = [word for word in dict.fromkeys(words) if word not in back]
            found[name] = Followed(entry=bool(menu.with_any([name])), args=" ".join(own))
    return found
