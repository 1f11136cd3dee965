# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of it happens on the controller, in one task for all hosts."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _preflight


class ActionModule(ActionBase):
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        known = task_vars or {}
        _validated, args = self.validate_argument_spec(
            {
                "looked": {"type": "str", "default": "kmod_looked"},
                "require": {"type": "str", "choices": ["none", "offered", "all"], "default": "none"},
            }
        )
        try:
            looks = {host: _look(known, host, args["looked"]) for host in _hosts(known)}
            records = _preflight.records(looks)
        except KmodError as error:
            return dict(result, failed=True, msg=str(error), code=error.code)
        lost = {host: _preflight.lost(record, args["require"]) for host, record in records.items()}
        untold = [host for host, record in records.items() if record["error"]]
        return dict(
            result,
            changed=False,
            records=records,
            lost={host: lines for host, lines in lost.items() if lines},
            absent=[host for host, look in looks.items() if "record" not in look],
            msg="%d hosts, of which %d could not be told" % (len(records), len(untold)),
        )


def _hosts(known: dict[str, Any]) -> list[str]:
    """Those of this batch, and those that the play has lost before it came to it."""
    lost = set(known["ansible_play_hosts_all"]) - set(known["ansible_play_hosts"])
    batch = set(known["ansible_play_batch"]) | lost
    return [str(host) for host in known["ansible_play_hosts_all"] if host in batch]


def _look(known: dict[str, Any], host: str, name: str) -> dict[str, Any]:
    """What the host answered; a host that did not is in the records all the same."""
    answer = known["hostvars"][host].get(name)
    return dict(answer) if answer else {"msg": "it failed, or could not be reached, before it was asked"}
