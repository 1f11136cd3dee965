# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: judged first from descriptions, then only the files that the host needs are sent to
it.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils._sending import SendingAction


class ActionModule(SendingAction):
    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        if "_described" not in args:
            return super().execute(args, task_vars)
        answer = self._execute_module(module_args=args, task_vars=task_vars)
        wanted = answer.pop("need", [])
        if answer.get("failed") or self._task.check_mode or not (wanted or self._task.async_val):
            return answer
        answer = super().execute(dict(args, _files=self.send(wanted)), task_vars)
        answer.pop("need", None)
        return answer
