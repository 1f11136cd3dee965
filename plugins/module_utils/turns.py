# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several plans one after another, each made of what the one before has left, in one process and under one lock.

The lock is taken with the first plan that changes something: a look that finds all well makes no file.
"""
import contextlib
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import lock
from .errors import KmodError
from .host import Host
from .plan import Plan
from .task import ATTEMPTS, _failing, _sendable, _signals_as_errors

Work = Callable[[Host], Tuple[Plan, Any]]


class Turns(contextlib.ExitStack):
    """``carry`` plans and applies; with ``check`` it only plans, of what is there now. Errors: LOCKED, those of planning and applying."""

    def __init__(self, root: str, check: bool = False, wait: Optional[float] = None) -> None:
        super().__init__()
        self.host = Host(root)
        self.host.keeps_cache = not check
        self.check = check
        self.wait = wait
        self.turn: Optional[lock.Turn] = None
        self.since = lock.glance(self.host, wait, clear=not check)
        self.writes = 0  # plans that were carried out, or would be
        self.diff: List[Dict[str, str]] = []  # their steps, as Ansible shows them

    @property
    def changed(self) -> bool:
        return self.writes > 0

    def carry(self, work: Work) -> Any:
        """What ``work`` answers, once what it planned is done. Where someone else has changed the host meanwhile, it is planned again."""
        plan, answer = work(self.host)
        for attempt in range(ATTEMPTS):
            if not plan:
                return answer
            if self.check:
                self.writes += 1
                self.diff += plan.diff()
                return answer
            if self._take() or attempt:
                plan, answer = work(self.host)
            assert self.turn is not None
            diff = plan.diff()
            self.turn.announce(plan.paths(), plan.directories())
            try:
                found = plan.apply()
            except KmodError as error:
                if error.code != "FILE_CHANGED" or attempt == ATTEMPTS - 1:
                    raise
            else:
                self.writes += bool(plan)
                self.diff += diff
                return answer.applied(found) if hasattr(answer, "applied") else answer
        return answer

    def _take(self) -> bool:
        """Whether somebody may have been at work since the plan was made: the lock was only taken now."""
        if self.turn is not None:
            return False
        self.turn = self.enter_context(lock.held(self.host, self.since, self.wait))
        self.enter_context(_signals_as_errors())
        return self.turn.another


def run(module: Any, command: Any) -> None:
    """Carry out a command that goes by turns for an AnsibleModule (see ``task.run``)."""
    with _failing(module):
        options = command.Options.from_params(module.params)
        with Turns(module.params["root"], module.check_mode) as turns:
            answer = command.run(turns, options).as_dict()
        answer.update(changed=turns.changed, diff=turns.diff)
    module.exit_json(**_sendable(answer))
