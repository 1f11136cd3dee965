# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Boot entries that start kernels with a driver's variants: made, tried, made the default, removed, found
possible.
"""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from ..host import Host
from ..place import notice, possible, started, store
from ..place.boot import entry, loaders
from ..place.boot.answer import EntryAnswer
from ..plan import Plan


class Options(NamedTuple):
    """Those of the module grub_entry, which says what they mean."""

    driver: str
    state: str = "present"  # present, absent, possible
    kernels: Tuple[str, ...] = ()
    initrd: Tuple[str, ...] = ()
    boot: str = "none"  # none, once, default, shipped
    args: str = ""
    fallback_args: Optional[str] = None  # None: those that bring a trial back, see menu.FALLBACK_ARGS
    loader: str = loaders.AUTO
    copy_of: str = ""

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        given: Dict[str, Any] = {name: params[name] for name in cls._fields}
        given.update((name, tuple(given[name] or ())) for name in ("kernels", "initrd"))
        given["fallback_args"] = None if given["fallback_args"] == "auto" else given["fallback_args"]
        given["copy_of"] = given["copy_of"] or ""
        return cls(**given)

    @property
    def request(self) -> entry.Request:
        return entry.Request(
            self.driver,
            args=self.args,
            fallback_args=self.fallback_args,
            boot=self.boot,
            copy_of=self.copy_of,
            loader=self.loader,
        )


class Answer(NamedTuple):
    """What the menu comes to, and which drivers there are where it has nothing of the one that was named."""

    menu: EntryAnswer
    other_drivers: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        return dict(self.menu.as_dict(), other_drivers=list(self.other_drivers))


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Have the driver's entries present or absent, or see whether they are possible."""
    store.check(host)
    plan = Plan(host)
    if options.state == "absent":
        plan, answer = entry.absent(host, options.driver, options.kernels, loader=options.loader)
    elif options.state == "possible":
        answer = possible.entries(host, options.request, options.kernels)
    else:
        plan, answer = started.present(host, options.request, options.kernels, initrd=options.initrd)
    return plan, Answer(answer, () if answer.rows else tuple(notice.other_drivers(host, [options.driver])))
