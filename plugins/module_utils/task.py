# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a request is carried out: plan, then apply unless in check mode; and what every module does around its
one call into the core.

Imports nothing of Ansible: it is handed the AnsibleModule. All of module_utils is private to this collection.
"""

import contextlib
import signal
import threading
import traceback
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from . import lock
from .errors import Interrupted, KmodError, from_oserror
from .host import Host
from .plan import Plan

# what a command's ``run`` makes of a host: the plan, and its Answer
Work = Callable[[Host], Tuple[Plan, Any]]
ATTEMPTS = 3  # at a host that others change at the same time


class Done(NamedTuple):
    """What a request came to: the steps as Ansible shows them with --diff, and the command's Answer."""

    changed: bool
    diff: List[Dict[str, str]]
    answer: Any


def carry_out(root: str, check: bool, work: Work) -> Done:
    """Do what ``work`` plans, one run a host at a time.

    Where someone else has changed the host meanwhile, it is planned again.

    An answer that ``waits`` is good for showing the plan alone: nothing is done. One that can be ``applied``
    takes what Plan.apply found out.
    """
    host = Host(root)
    host.keeps_cache = not check
    since = lock.glance(host, clear=not check)
    plan, answer = work(host)
    if check or not plan:
        return Done(bool(plan), plan.diff(), answer)
    if getattr(answer, "waits", False):
        return Done(False, [], answer)
    with lock.held(host, since) as turn, _signals_as_errors():
        attempt = 1
        while True:
            if turn.another or attempt > 1:
                plan, answer = work(host)
            diff = plan.diff()
            turn.announce(plan.paths(), plan.directories())
            try:
                found = plan.apply()
                return Done(bool(plan), diff, answer.applied(found) if hasattr(answer, "applied") else answer)
            except KmodError as error:
                if error.code != "FILE_CHANGED" or attempt == ATTEMPTS:
                    raise
                attempt += 1


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


@contextlib.contextmanager
def _failing(module: Any) -> Iterator[None]:
    """Every way out is one clear message."""
    try:
        yield
    except KmodError as error:
        module.fail_json(msg=str(error), code=error.code)
    except OSError as error:
        failed = from_oserror(str(error.filename or module.params["root"]), error, "go on")
        module.fail_json(msg=str(failed), code=failed.code, exception=traceback.format_exc())
    except Exception as error:
        module.fail_json(
            msg="%s: %s. Report this as a bug, with what -vvv shows" % (type(error).__name__, error),
            code="BUG",
            exception=traceback.format_exc(),
        )


def run(module: Any, command: Any) -> None:
    """Carry out one of ``commands`` with the module's parameters, and exit with its answer, as a failure
    where that is a refusal.

    Where it may change something: plan, apply unless in check mode, and ``changed`` and ``diff`` besides.
    """
    if not hasattr(command, "run"):
        _run_dicts(module, command)
        return
    with _failing(module):
        options = command.Options.from_params(module.params)
        if getattr(command, "LOOKS", False):
            host = Host(module.params["root"])
            host.keeps_cache = not module.check_mode
            _plan, answer = command.run(host, options)
            told = dict(answer.as_dict(), changed=False)
        else:
            done = carry_out(
                module.params["root"], module.check_mode, lambda host: command.run(host, options)
            )
            answer = done.answer
            told = dict(answer.as_dict(), changed=done.changed, diff=done.diff)
        failed = getattr(answer, "failed", False)
    if failed:
        module.fail_json(**_sendable(answer.as_dict()))
    module.exit_json(**_sendable(told))


def _run_dicts(module: Any, work: Any) -> None:
    with _failing(module):
        done = carry_out(module.params["root"], module.check_mode, lambda host: work(host, module.params))
    module.exit_json(**_sendable(dict(done.answer, changed=done.changed, diff=done.diff)))


def _sendable(answer: Any) -> Any:
    """The answer, with bytes of the host's files and names that are no UTF-8 as escapes: Ansible refuses an
    answer with surrogates as a whole.
    """
    if isinstance(answer, str):
        return answer.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(answer, dict):
        return {_sendable(name): _sendable(value) for name, value in answer.items()}
    return [_sendable(each) for each in answer] if isinstance(answer, (list, tuple)) else answer
