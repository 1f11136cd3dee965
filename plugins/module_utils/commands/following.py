# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host follows new kernels with a driver: what the module kmod_follow does."""

import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ..errors import KmodError
from ..host import Host
from ..place import bulletin, diversion, hooks, image_mode, kernel_holds, settings, zipapp
from ..place.boot import hold
from ..place.hook_texts import KMODCTL
from ..place.settings import Followed
from ..plan import Content, Plan
from ..read import names
from ..turns import Turns
from . import follow

FIELDS = tuple(name for name in Followed._fields if name != "kernels")

TURNS = True  # ``run`` is handed Turns: what is installed first is what the rest is planned with


class Options(NamedTuple):
    """Those of the module kmod_follow.

    ``kmodctl`` is where its archive lies on the host, ``sources`` the digest of what it is made of.
    """

    driver: str
    state: str = "present"
    followed: Followed = Followed()
    kmodctl: Optional[str] = None
    sources: str = ""
    weak_modules: str = "leave"

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        given: Dict[str, Any] = {name: params[name] for name in FIELDS if params[name] is not None}
        return cls(
            params["driver"],
            params["state"],
            Followed(kernels=tuple(params["kernels"]), **given),
            params["_kmodctl"],
            params["_sources"] or "",
            params["weak_modules"],
        )


class Answer(NamedTuple):
    """``need_kmodctl``: nothing was done, since kmodctl has to be sent first."""

    driver: str
    family: str
    following: Tuple[str, ...]
    hooks: Tuple[str, ...]
    refreshed: Optional[follow.Answer] = None
    need_kmodctl: bool = False

    def as_dict(self) -> Dict[str, Any]:
        said = self.refreshed.bulletin if self.refreshed else bulletin.Bulletin()
        lacking = [
            {"kernel": each.kernel, "boots": list(each.boots), "reason": each.reason}
            for each in said.lacking
            if each.driver == self.driver
        ]
        return {
            "driver": self.driver,
            "family": self.family,
            "following": list(self.following),
            "hooks": list(self.hooks),
            "kept": said.kept,
            "lacking": lacking,
            "problems": list(said.problems),
            "need_kmodctl": self.need_kmodctl,
            "msg": self.msg,
        }

    @property
    def msg(self) -> str:
        if self.driver in self.following:
            return "The host follows new kernels with %s." % ", ".join(self.following)
        return "The host does not follow new kernels with %s%s." % (
            self.driver,
            ", but with " + ", ".join(self.following) if self.following else "",
        )


def run(turns: Turns, options: Options) -> Answer:
    """Have it follow or not.

    Where hooks had left something to do, or a build has arrived for a kernel that had none, that is done now.

    Errors: DRIVER_NAME, IMAGE_MODE, TRANSACTIONAL, NO_HOOKS, SETTINGS_NEWER, KMODCTL_DAMAGED, those of
    applying a plan.
    """
    answer, unsettled = arrange(turns, options)
    return answer._replace(refreshed=refresh(turns) if unsettled else None)


def arrange(turns: Turns, options: Options) -> Tuple[Answer, bool]:
    """The same, but for what is to be done now: whether there may be something, which ``refresh`` does. Errors as
    of ``run``.
    """
    names.check_driver(options.driver)
    return _absent(turns, options.driver) if options.state == "absent" else _present(turns, options)


def refresh(turns: Turns) -> Optional[follow.Answer]:
    return (
        follow.run(turns, follow.Options("refresh"))
        if not turns.check and settings.read_or_none(turns.host)
        else None
    )


def lacks_kmodctl(host: Host, sources: str) -> bool:
    """Whether kmodctl has to be sent before the host can follow."""
    return not hooks.has_kmodctl(host, sources, _interpreter())


def _interpreter() -> str:
    return sys.executable or "/usr/bin/python3"


def _present(turns: Turns, options: Options) -> Tuple[Answer, bool]:
    host = turns.host
    image_mode.refuse(host)
    family = hooks.family(host)
    if not hooks.calls(host):
        raise KmodError(
            host.root,
            "has neither hooks for kernels that this collection knows nor systemd, so nothing would call kmodctl",
            "Leave kmod_follow out, and have what installs kernels call kmodctl add-kernel",
            "NO_HOOKS",
        )
    interpreter = _interpreter()
    has = hooks.has_kmodctl(host, options.sources, interpreter)
    if not has and options.kmodctl is None and not turns.check:
        return Answer(options.driver, family, _following(host), (), need_kmodctl=True), False
    kmodctl = None if has else _kmodctl(options, interpreter)

    def plan(host: Host) -> Tuple[Plan, None]:
        return hooks.present(
            host,
            options.driver,
            options.followed,
            interpreter=interpreter,
            sources=options.sources,
            kmodctl=kmodctl,
            diverted=divert,
        ), None

    divert = options.weak_modules == "divert"
    before = _diverted(host)
    if divert:
        diversion.present(host, KMODCTL, interpreter, diverted=before)  # refused before the settings say so
    else:
        turns.carry(lambda host: (diversion.absent(host, diverted=before), None))
    turns.carry(plan)
    if divert:
        turns.carry(lambda host: (diversion.present(host, KMODCTL, interpreter, diverted=True), None))
    there = _following(host) if not turns.check else tuple(sorted({*_following(host), options.driver}))
    answer = Answer(options.driver, family, there, tuple(sorted(hooks.files(host, interpreter))))
    return answer, _unsettled(host)


def _diverted(host: Host) -> bool:
    told = settings.read_or_none(host)
    return told is not None and told.diverted


def _kmodctl(options: Options, interpreter: str) -> Content:
    """The file that is to lie on the host; in check mode, in which nothing is sent, one that can only be
    shown.
    """
    if options.kmodctl is None:
        return Content(0, "", tuple, binary=True)
    here = Host("/")  # where Ansible transfers files to, whatever the root to work on
    sources = zipapp.unpacked(here.read(options.kmodctl), options.kmodctl)
    if zipapp.digest(sources) != options.sources:
        raise KmodError(
            options.kmodctl, "is not the kmodctl that was sent", "Run the play again", "KMODCTL_DAMAGED"
        )
    return Content.of(zipapp.runnable(sources, interpreter))


def _absent(turns: Turns, driver: str) -> Tuple[Answer, bool]:
    host = turns.host
    old = settings.read_or_none(host)
    left = tuple(sorted(set(old.drivers if old else ()) - {driver}))
    if not left and hold.read(host) is not None:
        turns.carry(lambda host: (hold.release(host), None))
    if not left:  # before kmodctl goes, which is called from there
        diverted = _diverted(host)
        turns.carry(lambda host: (diversion.absent(host, diverted=diverted), None))
    turns.carry(lambda host: (hooks.absent(host, driver), None))
    return Answer(driver, hooks.family(host), left, ()), bool(left and old and driver in old.drivers)


def _following(host: Host) -> Tuple[str, ...]:
    there = settings.read_or_none(host)
    return tuple(sorted(there.drivers)) if there else ()


def _unsettled(host: Host) -> bool:
    """Whether hooks left something to do, or something was said of kernels that may be over now; or nothing
    was said yet.
    """
    said: List[Any] = [
        bulletin.pending(host),
        bulletin.read(host) != bulletin.Bulletin(),
        hold.read(host),
        kernel_holds.read(host),
        not host.is_file(bulletin.FACT),
    ]
    return any(said)
