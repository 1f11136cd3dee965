# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: with -v every finding is told."""

from __future__ import annotations

from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class ActionModule(KmodAction):
    def prepare(self, args: dict[str, Any]) -> str | None:
        if self.verbose:
            args.setdefault("findings", "all")
        return super().prepare(args)
