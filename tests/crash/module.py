# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A command that only a module of Ansible has, carried out as a process of its own."""

import json
from typing import Any, Callable

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.output import say, warn
from ansible_collections.outoftree.kmod.plugins.module_utils.turns import Turns


def carry_out(
    root: str, work: Callable[[Turns], Any], failed: Callable[[Any], bool] = lambda _: False
) -> int:
    """Say what ``work`` answers, as JSON. The exit status; each way out is a line and a status, as kmodctl's."""
    try:
        with Turns(root) as turns:
            answer = work(turns)
    except KmodError as error:
        warn(str(error))
        return 2
    except KeyboardInterrupt:
        warn("interrupted")
        return 130
    say(json.dumps(answer.as_dict()))
    return 2 if failed(answer) else 0
