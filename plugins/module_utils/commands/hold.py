# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have a host's package manager leave kernels alone that a driver has no build for, or not any more: what the
module kmod_hold does.
"""

from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from ..errors import KmodError
from ..host import Host
from ..place import image_mode, kernel_holds, today
from ..place.today import HeldBack
from ..plan import Plan
from ..read import names


class Options(NamedTuple):
    """Those of the module: ``kernels`` are (release, driver, reason), ``drivers`` those that this is about,
    None for all.
    """

    state: str = "present"
    kernels: Tuple[Tuple[str, str, str], ...] = ()
    drivers: Optional[Tuple[str, ...]] = None

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        rows = tuple((each["kernel"], each["driver"], each["reason"]) for each in params["kernels"])
        drivers = params["drivers"]
        return cls(params["state"], rows, None if drivers is None else tuple(drivers))


class Answer(NamedTuple):
    """``held`` is as in a host's record, ``left`` what was asked for and is not done, with the reason."""

    held: Tuple[HeldBack, ...]
    left: Tuple[Dict[str, str], ...]
    file: Optional[str]

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
        return " ".join(
            [said] + ["%s is not held: %s." % (row["kernel"], row["reason"]) for row in self.left]
        )


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Have exactly the kernels that are asked for be held on account of the drivers that this is about; those
    of other drivers stay as they are.

    A kernel that is installed already is left: to hold it would help nobody, and keeps its updates away.

    Errors: BAD_OPTION, DRIVER_NAME, RELEASE_NAME, HOLD_REASON, IMAGE_MODE, TRANSACTIONAL, those of
    kernel_holds.write.
    """
    asked = [kernel_holds.check(*each) for each in options.kernels]
    about = None if options.drivers is None else [names.check_driver(each) for each in options.drivers]
    if options.state == "absent" and asked:
        raise KmodError("kernels", "cannot be used with state absent", "Leave it out", "BAD_OPTION")
    stray = [each.driver for each in asked if about is not None and each.driver not in about]
    if stray:
        raise KmodError(
            "kernels", "names %s, which drivers does not" % stray[0], "Add it there", "BAD_OPTION"
        )
    if asked:
        image_mode.refuse(host)
    there = kernel_holds.read(host)
    installed = {each.kernel for each in asked if kernel_holds.is_installed(host, each.kernel)}
    kept = [each for each in there if about is not None and each.driver not in about]
    wanted = kernel_holds.in_order([*kept, *(each for each in asked if each.kernel not in installed)])
    plan = kernel_holds.write(host, wanted)
    into = kernel_holds.manager(host)
    why = "it is installed already (kmod_hold default keeps boots from starting it)"
    left = tuple({"kernel": release, "reason": why} for release in sorted(installed))
    return plan, Answer(tuple(today.held(host, wanted)), left, into.path if into and wanted else None)
