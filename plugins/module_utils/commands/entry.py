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
from ..read import names


class Options(NamedTuple):
    """Those of the module grub_entry, which says what they mean."""

    driver: Tuple[str, ...]
    state: str = "present"  # present, absent, possible
    kernels: Tuple[str, ...] = ()
    initrd: Tuple[str, ...] = ()
    boot: str = "none"  # none, once, default, shipped
    args: str = ""
    fallback_args: Optional[str] = None  # None: those that bring a trial back, see menu.FALLBACK_ARGS
    loader: str = loaders.AUTO
    copy_of: str = ""
    # of kmod_deploy and of hosts that follow new kernels, see entry.Request
    each: bool = False
    known: Tuple[str, ...] = ()
    args_of: Tuple[Tuple[str, str], ...] = ()
    asking: Tuple[str, ...] = ()
    takes: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()  # of ``possible``: the drivers that each kernel takes

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        given: Dict[str, Any] = {name: params[name] for name in cls._fields if name in params}
        given.update((name, tuple(given[name] or ())) for name in ("driver", "kernels", "initrd"))
        given["fallback_args"] = None if given["fallback_args"] == "auto" else given["fallback_args"]
        given["copy_of"] = given["copy_of"] or ""
        return cls(**given)

    @property
    def request(self) -> entry.Request:
        return entry.Request(
            names.together(self.driver),
            args=self.args,
            fallback_args=self.fallback_args,
            boot=self.boot,
            copy_of=self.copy_of,
            loader=self.loader,
            each=self.each,
            known=self.known,
            args_of=self.args_of,
            asking=self.asking,
        )


class Answer(NamedTuple):
    """What the menu comes to, and which drivers there are where it has nothing of those that were named."""

    menu: EntryAnswer
    other_drivers: Tuple[str, ...]

    def of(self, driver: str) -> "Answer":
        """What of it is one driver's."""
        rows = tuple(row for row in self.menu.rows if driver in names.apart(row.driver))
        return self._replace(menu=self.menu._replace(rows=rows))

    def as_dict(self) -> Dict[str, Any]:
        return dict(self.menu.as_dict(), other_drivers=list(self.other_drivers))


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Have the drivers' entries present or absent, or see whether they are possible."""
    store.check(host)
    plan = Plan(host)
    if options.state == "absent":
        plan, answer = entry.absent(host, options.request.driver, options.kernels, loader=options.loader)
    elif options.state == "possible":
        answer = possible.entries(host, options.request, options.kernels, dict(options.takes))
    else:
        plan, answer = started.present(host, options.request, options.kernels, initrd=options.initrd)
    return plan, Answer(answer, () if answer.rows else tuple(notice.other_drivers(host, options.driver)))
