# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans carried out, one run a host at a time.

Several one after another are each made of what the one before has left, under one lock.

The lock is taken with the first plan that changes something: a look that finds all well makes no file.
"""

import contextlib
import signal
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import lock
from .errors import Interrupted, KmodError
from .host import Host
from .plan import Plan
from .seen import BLIND, Blind

# what a command's ``run`` makes of a host: the plan, and its Answer
Work = Callable[[Host], Tuple[Plan, Any]]
ATTEMPTS = 3  # at a host that others change at the same time


class Turns(contextlib.ExitStack):
    """``carry`` plans and applies; with ``check`` it only plans, each of what would be there by then.

    Errors: LOCKED, those of planning and applying.
    """

    def __init__(
        self, root: str, check: bool = False, wait: Optional[float] = None, seen: Blind = BLIND
    ) -> None:
        super().__init__()
        self._host = Host(root)
        self._host.seen = seen
        self._host.keeps_cache = not check
        self._planned: List[Plan] = []  # in check mode what the host is not seen with yet
        self.check = check
        self.wait = wait
        self.turn: Optional[lock.Turn] = None
        self.since = lock.glance(self.host, wait, clear=not check)
        self.writes = 0  # plans that were carried out, or would be
        self.diff: List[Dict[str, str]] = []  # their steps, as Ansible shows them

    @property
    def host(self) -> Host:
        """The host as it is; in check mode, as it would be by now."""
        while self._planned:
            from .foreseen import Foreseen

            self._host = Foreseen(self._host, self._planned.pop(0))
        return self._host

    @property
    def changed(self) -> bool:
        return self.writes > 0

    def carry(self, work: Work) -> Any:
        """What ``work`` answers, once what it planned is done.

        Where someone else has changed the host meanwhile, it is planned again.

        An answer that ``waits`` is good for showing the plan alone: nothing is done. One that can be
        ``applied`` takes what Plan.apply found out.
        """
        plan, answer = work(self.host)
        for attempt in range(ATTEMPTS):
            if not plan:
                return answer
            if self.check:
                self.writes += 1
                self.diff += plan.diff()
                self._planned.append(plan)
                return answer
            if getattr(answer, "waits", False):
                return answer
            turn, another = self._take()
            if another or attempt:
                plan, answer = work(self.host)
            diff = plan.diff()
            turn.announce(plan.paths(), plan.directories())
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

    def _take(self) -> Tuple[lock.Turn, bool]:
        """The lock, and whether somebody may have been at work since the plan was made: it was only taken now."""
        if self.turn is not None:
            return self.turn, False
        self.turn = self.enter_context(lock.held(self.host, self.since, self.wait))
        self.enter_context(_signals_as_errors())
        return self.turn, self.turn.another


@contextlib.contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let a request to end (also: the connection is gone) take back what was done so far, instead of leaving
    it half.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # the first is enough: what is taken back is taken back whole
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    # nohup, a job in the background
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    except Interrupted as ended:
        raise ended.as_error() from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
