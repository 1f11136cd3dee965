# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a request is carried out: plan, then apply unless in check mode; and what every module does around its one call into the core.

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

Report = Callable[[Host, Dict[str, Any]], Tuple[bool, Dict[str, Any]]]
Work = Callable[[Host], Tuple[Plan, Any]]
ATTEMPTS = 3  # at a host that others change at the same time


class Done(NamedTuple):
    """What a request came to: the steps as Ansible shows them with --diff, and its answer."""

    changed: bool
    diff: List[Dict[str, str]]
    result: Any


def carry_out(root: str, check: bool, work: Work) -> Done:
    """Do what ``work`` plans, one run a host at a time. Where someone else has changed the host meanwhile, it is planned again."""
    host = Host(root)
    host.keeps_cache = not check
    since = lock.glance(host, clear=not check)
    plan, result = work(host)
    if check or not plan:
        return Done(bool(plan), plan.diff(), result)
    with lock.held(host, since) as turn, _signals_as_errors():
        attempt = 1
        while True:
            if turn.another or attempt > 1:
                plan, result = work(host)
            diff = plan.diff()
            turn.announce(plan.paths(), plan.directories())
            try:
                found = plan.apply()
                return Done(bool(plan), diff, result.applied(found) if hasattr(result, "applied") else result)
            except KmodError as error:
                if error.code != "FILE_CHANGED" or attempt == ATTEMPTS:
                    raise
                attempt += 1


@contextlib.contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let a request to end (also: the connection is gone) take back what was done so far, instead of leaving it half."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # the first is enough: what is taken back is taken back whole
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}  # nohup, a job in the background
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
        module.fail_json(msg="%s: %s. Report this as a bug, with what -vvv shows" % (type(error).__name__, error), code="BUG",
                         exception=traceback.format_exc())


def run(module: Any, work: Any) -> None:
    """Plan, apply unless in check mode, and exit with ``changed``, ``diff`` and what ``work`` answered."""
    with _failing(module):
        if hasattr(work, "Options"):
            options = work.Options.from_params(module.params)
            done = carry_out(module.params["root"], module.check_mode, lambda host: work.run(host, options))
        else:
            done = carry_out(module.params["root"], module.check_mode, lambda host: work(host, module.params))
        answer = dict(_as_dict(done.result), changed=done.changed, diff=done.diff)
    module.exit_json(**_sendable(answer))


def _as_dict(result: Any) -> Dict[str, Any]:
    return result.as_dict() if hasattr(result, "as_dict") else result  # type: ignore[no-any-return]


def report(module: Any, look: Report) -> None:
    """For what only looks: exit with its answer, as a failure unless it says that all is well."""
    with _failing(module):
        host = Host(module.params["root"])
        host.keeps_cache = not module.check_mode
        well, result = look(host, module.params)
    if not well:
        module.fail_json(**_sendable(result))
    module.exit_json(changed=False, **_sendable(result))


def _sendable(answer: Any) -> Any:
    """The answer, with bytes of the host's files and names that are no UTF-8 as escapes: Ansible refuses an answer with surrogates as a whole."""
    if isinstance(answer, str):
        return answer.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(answer, dict):
        return {_sendable(name): _sendable(value) for name, value in answer.items()}
    return [_sendable(each) for each in answer] if isinstance(answer, (list, tuple)) else answer
