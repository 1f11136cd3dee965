# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: the record bears the host's name in the inventory."""

from __future__ import annotations

from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class ActionModule(KmodAction):
    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer = super().execute(args, task_vars)
        if "record" in answer:
            answer["record"]["host"] = (task_vars or {}).get("inventory_hostname", answer["record"]["host"])
        return answer
