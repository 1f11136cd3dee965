# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: see KmodAction."""

from __future__ import annotations

from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class ActionModule(KmodAction):
    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        # Here it is the system whose tools build. A task that is delegated to the build host has the variables
        # of the host that it is done for, with that one's kmod_root.
        self._task.args.setdefault("root", "/")
        return super().run(tmp, task_vars)
