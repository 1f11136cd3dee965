# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: see KmodAction."""

from __future__ import annotations

from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class ActionModule(KmodAction):
    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        # what is signed is on the machine that has the key, whatever the host of the play is
        return super().execute({name: args[name] for name in args if name != "root"}, task_vars)
