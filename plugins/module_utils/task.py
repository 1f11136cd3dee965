# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a request is carried out: plan, then apply unless in check mode; and what every module does around its
one call into the core.

Imports nothing of Ansible: it is handed the AnsibleModule. All of module_utils is private to this collection.
"""

import contextlib
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .errors import KmodError, from_oserror
from .host import Host
from .seen import BLIND, TICK, Blind, Notes

if TYPE_CHECKING:  # most runs of run_unless_settled import neither this nor what it needs
    from .turns import Work


class Done(NamedTuple):
    """What a request came to: the steps as Ansible shows them with --diff, and the command's Answer."""

    changed: bool
    diff: List[Dict[str, str]]
    answer: Any


def carry_out(root: str, check: bool, work: "Work", wait: Optional[float] = None) -> Done:
    """Do what ``work`` plans, one run a host at a time, unless in ``check`` mode; ``wait`` as for ``Turns``."""
    from .turns import Turns

    with Turns(root, check, wait) as turns:
        answer = turns.carry(work)
    return Done(turns.changed, turns.diff, answer)


@contextlib.contextmanager
def _failing(module: Any) -> Iterator[None]:
    """Every way out is one clear message."""
    try:
        yield
    except KmodError as error:
        module.fail_json(msg=str(error), code=error.code)
    except OSError as error:
        import traceback

        failed = from_oserror(str(error.filename or module.params.get("root", "/")), error, "go on")
        module.fail_json(msg=str(failed), code=failed.code, exception=traceback.format_exc())
    except Exception as error:
        import traceback

        module.fail_json(
            msg="%s: %s. Report this as a bug, with what -vvv shows" % (type(error).__name__, error),
            code="BUG",
            exception=traceback.format_exc(),
        )


def run(module: Any, command: Any) -> None:
    """Carry out one of ``commands`` with the module's parameters, and exit with its answer, as a failure
    where that is a refusal.

    Where it may change something: plan, apply unless in check mode, and ``changed`` and ``diff`` besides. One
    that works APART changes a store of builds and nothing of a host, and sees to that itself.
    """
    with _failing(module):
        options: Any = command.Options.from_params(module.params)
        answer: Any = None
        if getattr(command, "LOOKS", False):
            host = Host(module.params["root"])
            host.keeps_cache = not module.check_mode
            _plan, answer = command.run(host, options)
            told = dict({"changed": False}, **answer.as_dict())
            facts = getattr(answer, "facts", None)
            told.update({"ansible_facts": {"kmod": facts}} if facts is not None else {})
        elif getattr(command, "APART", False):
            answer = command.run(Host(module.params.get("root", "/")), options, module.check_mode)
            told = dict(answer.as_dict(), changed=answer.changed, diff=answer.diff)
        elif getattr(command, "TURNS", False):
            told, _writes = _in_turns(command, module.params["root"], module.check_mode, module.params)
        else:
            done = carry_out(
                module.params["root"], module.check_mode, lambda host: command.run(host, options)
            )
            answer = done.answer
            told = dict(answer.as_dict(), changed=done.changed, diff=done.diff)
        failed = answer is not None and getattr(answer, "failed", False)
    if failed:
        module.fail_json(**_sendable(answer.as_dict()))
    module.exit_json(**_sendable(told))


def run_unless_settled(module: Any, load: Callable[[], Any], archive: Optional[str]) -> None:
    """The same for a command that works in several turns, which ``load`` imports: not before it is known that
    something may have to be done. ``archive`` is what the module was packed in.
    """
    from . import settled

    with _failing(module):
        root, check = module.params["root"], module.check_mode
        host = Host(root)
        host.keeps_cache = not check
        asked = settled.key(module._name, module.params, archive)
        told = settled.answer(host, asked) if asked else None
        if told is None:
            command = load()
            looked = Notes()
            told, writes = _in_turns(command, root, check, module.params, looked)
            if asked and not check:
                again = told
                with contextlib.suppress(KmodError):  # what was to be done is done
                    if writes:  # and is looked at once more
                        time.sleep(TICK)
                        looked = Notes()
                        params = dict(module.params, **dict.fromkeys(settled.SENT))
                        again, writes = _in_turns(command, root, True, params, looked)
                    if not (writes or again.get("need") or again.get("need_kmodctl")):
                        settled.keep(host, asked, looked, again)
    module.exit_json(**told)


def _in_turns(
    command: Any, root: str, check: bool, params: Dict[str, Any], looked: Blind = BLIND
) -> Tuple[Dict[str, Any], int]:
    """The answer, and how many plans were carried out, or would be."""
    from .turns import Turns

    with Turns(root, check, seen=looked) as turns:
        answer = command.run(turns, command.Options.from_params(params))
    return _sendable(dict(answer.as_dict(), changed=turns.changed, diff=turns.diff)), turns.writes


def _sendable(answer: Any) -> Any:
    """The answer, with bytes of the host's files and names that are no UTF-8 as escapes: Ansible refuses an
    answer with surrogates as a whole.
    """
    if isinstance(answer, str):
        return answer.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(answer, dict):
        return {_sendable(name): _sendable(value) for name, value in answer.items()}
    return [_sendable(each) for each in answer] if isinstance(answer, (list, tuple)) else answer
