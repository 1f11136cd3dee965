# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every module of the collection does around its one call into the core.

Imports nothing of Ansible: it is handed the AnsibleModule.
"""
import contextlib
from typing import Any, Callable, Dict, Iterator, Tuple

from .errors import KmodError
from .host import Host
from .plan import Plan

Report = Callable[[Host, Dict[str, Any]], Tuple[bool, Dict[str, Any]]]
Work = Callable[[Host, Dict[str, Any]], Tuple[Plan, Dict[str, Any]]]


@contextlib.contextmanager
def planned(root: str, check: bool, work: Callable[[Host], Tuple[Plan, Dict[str, Any]]]) -> Iterator[Tuple[Plan, Dict[str, Any]]]:
    """What ``work`` plans and answers, under the host's lock: to be looked at before it is applied, unless ``check``, on leaving."""
    host = Host(root)
    host.keeps_cache = not check
    with host.lock():
        plan, result = work(host)
        yield plan, result
        if plan and not check:
            plan.apply()


def run(module: Any, work: Work) -> None:
    """Plan, apply unless in check mode, and exit with ``changed``, ``diff`` and what ``work`` answered."""
    try:
        with planned(module.params["root"], module.check_mode, lambda host: work(host, module.params)) as (plan, result):
            diff = plan.diff()
    except KmodError as error:
        module.fail_json(msg=str(error), code=error.code)
    module.exit_json(changed=bool(plan), diff=diff, **result)


def report(module: Any, look: Report) -> None:
    """For what only looks: exit with its answer, as a failure unless it says that all is well."""
    try:
        host = Host(module.params["root"])
        host.keeps_cache = not module.check_mode
        well, result = look(host, module.params)
    except KmodError as error:
        module.fail_json(msg=str(error), code=error.code)
    if not well:
        module.fail_json(**result)
    module.exit_json(changed=False, **result)
