# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: the drivers' modules are read here, and all is looked at from descriptions. Only where
the host lacks something does that travel, and the module runs once more.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils._sending import SendingAction, kmodctl_digest


class ActionModule(SendingAction):
    def prepare(self, args: dict[str, Any]) -> str | None:
        """Each driver has its own ``src``. Answers with who signed them."""
        drivers = args.get("drivers")
        if "_beside" in args:  # the role asks
            _refuse(args.pop("_beside"), drivers)
        if not isinstance(drivers, list) or not all(isinstance(each, dict) for each in drivers):
            return None  # the module says what is wrong with it
        args["drivers"] = [dict(each) for each in drivers]
        signers = [super(ActionModule, self).prepare(each) for each in args["drivers"]]
        return ", ".join(sorted({signer for signer in signers if signer})) or None

    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        if any(_is_true(each.get("follow")) for each in args.get("drivers") or [] if isinstance(each, dict)):
            args = dict(args, _sources=kmodctl_digest())
        answer = self._execute_module(module_args=args, task_vars=task_vars)
        need, need_kmodctl = answer.pop("need", []), answer.pop("need_kmodctl", False)
        sends = (
            need or need_kmodctl
        )  # in check mode, too: what follows from modules is foreseen by what they hold
        if answer.get("failed") or not (sends or self._task.async_val):
            return answer
        args = dict(args, _files=self.send(need))
        if need_kmodctl:
            args["_kmodctl"] = self.send_kmodctl()
        answer = super().execute(args, task_vars)
        for name in ("need", "need_kmodctl"):
            answer.pop(name, None)
        return answer


def _refuse(beside: str, drivers: Any) -> None:
    """What the variables of the role do not say clearly. Error: BAD_OPTION."""
    if beside:
        raise KmodError(
            "kmod_driver (%s) and kmod_drivers" % beside,
            "are both given",
            "Leave one of them out, for one run by an empty list",
            "BAD_OPTION",
        )
    if drivers == []:
        raise KmodError(
            "kmod_driver and kmod_drivers",
            "name no driver",
            "Give one of them. The last driver of a host is removed by kmod_state: absent",
            "BAD_OPTION",
        )


def _is_true(value: Any) -> bool:
    return boolean(value, strict=False) is True
