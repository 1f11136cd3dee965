# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: kmodctl is put together here, and sent where a host has another one or none."""

from __future__ import annotations

from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils._sending import SendingAction, kmodctl_digest


class ActionModule(SendingAction):
    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        if args.get("state") == "absent":
            return super().execute(args, task_vars)
        args = dict(args, _sources=kmodctl_digest())
        answer = self._execute_module(module_args=args, task_vars=task_vars)
        if answer.get("failed") or self._task.check_mode or not answer.get("need_kmodctl"):
            return answer
        return super().execute(dict(args, _kmodctl=self.send_kmodctl()), task_vars)
