# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have a host's package manager leave kernels alone that a driver has no build for, or not any more: what the
module kmod_hold does.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..judge.verdict import COMPATIBLE
from ..place import image_mode, kernel_holds, today
from ..place.hold_files import Hold
from ..place.today import HeldBack
from ..plan import Plan
from ..read import names


class Options(NamedTuple):
    """Those of the module: ``kernels`` are (release, driver, reason), ``drivers`` those that this is about,
    None for all. ``untold`` is why a host's record says nothing, so that all stays as it is.
    """

    state: str = "present"
    kernels: Tuple[Tuple[str, str, str], ...] = ()
    drivers: Optional[Tuple[str, ...]] = None
    untold: str = ""

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        if params["record"] is not None and params["state"] == "present":
            return of_record(params["record"])
        rows = tuple((each["kernel"], each["driver"], each["reason"]) for each in params["kernels"] or ())
        drivers = params["drivers"]
        return cls(params["state"], rows, None if drivers is None else tuple(drivers))


def of_record(record: Mapping[str, Any]) -> Options:
    """What is to be held by a host's record: the kernels on offer that are not known to take a build of each
    of its drivers. Error: RECORD_DAMAGED.
    """
    try:
        lists = record.get("lists") or {}
        untold = record.get("error") or lists.get("error") or ""
        rows = [
            (str(row["kernel"]), str(row["driver"]), str(row.get("why") or row["verdict"]))
            for row in record.get("verdicts") or ()
            if row["state"] == "offered" and row["verdict"] != COMPATIBLE
        ]
        drivers = tuple(str(row["driver"]) for row in record.get("drivers") or ())
    except (KeyError, TypeError, AttributeError) as error:
        raise KmodError(
            "record",
            "is not as kmod_preflight makes it (%s: %s)" % (type(error).__name__, error),
            "Give its return value record",
            "RECORD_DAMAGED",
        ) from None
    return Options(kernels=tuple(rows), drivers=drivers, untold=str(untold))


class Answer(NamedTuple):
    """``left``: what was asked for and is not done, with the reason."""

    held: Tuple[HeldBack, ...]
    left: Tuple[Dict[str, str], ...]
    file: Optional[str]
    untold: str = ""

    def as_dict(self) -> Dict[str, Any]:
        return {
            "held": [each.as_dict() for each in self.held],
            "left": list(self.left),
            "file": self.file,
            "msg": self.msg,
        }

    @property
    def msg(self) -> str:
        kernels = [str(each.kernel) for each in self.held if each.what == "kernel"]
        said = "Held: %s." % ", ".join(kernels) if kernels else "No kernel is held."
        lines = ["%s is not held: %s." % (row["kernel"], row["reason"]) for row in self.left]
        why = ["That stays so, since it cannot be told what the host would get: %s" % self.untold]
        return " ".join([said, *lines, *(why if self.untold else [])])


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Have exactly the kernels that are asked for be held on account of the drivers that this is about; those
    of other drivers stay as they are.

    A kernel that is installed already is left: to hold it would help nobody, and keeps its updates away.

    Errors: BAD_OPTION, DRIVER_NAME, RELEASE_NAME, HOLD_REASON, IMAGE_MODE, TRANSACTIONAL, those of
    kernel_holds.write.
    """
    asked, about = _checked(options)
    there = kernel_holds.read(host)
    if options.untold:
        return Plan(host), _answer(host, there, set(), options.untold)
    if asked:
        image_mode.refuse(host)
    installed = {each.kernel for each in asked if kernel_holds.is_installed(host, each.kernel)}
    kept = [each for each in there if about is not None and each.driver not in about]
    wanted = kernel_holds.in_order([*kept, *(each for each in asked if each.kernel not in installed)])
    return kernel_holds.write(host, wanted), _answer(host, wanted, installed)


def _checked(options: Options) -> Tuple[List[Hold], Optional[List[str]]]:
    asked = [kernel_holds.check(*each) for each in options.kernels]
    about = None if options.drivers is None else [names.check_driver(each) for each in options.drivers]
    if options.state == "absent" and asked:
        raise KmodError("kernels", "cannot be used with state absent", "Leave it out", "BAD_OPTION")
    for each in asked:
        if about is not None and each.driver not in about:
            raise KmodError(
                "kernels", "names %s, which drivers does not" % each.driver, "Add it there", "BAD_OPTION"
            )
    return asked, about


def _answer(host: Host, holds: List[Hold], installed: Set[str], untold: str = "") -> Answer:
    into = kernel_holds.manager(host) if holds else None
    why = "it is installed already (kmod_hold default keeps boots from starting it)"
    left = tuple({"kernel": release, "reason": why} for release in sorted(installed))
    return Answer(tuple(today.held(host, holds)), left, into.path if into else None, untold)
