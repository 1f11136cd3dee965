# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every module of the collection does around its one call into the core.

Imports nothing of Ansible: it is handed the AnsibleModule.
"""
from typing import Any, Callable, Dict, Tuple

from .errors import KmodError
from .host import Host
from .plan import Plan

Report = Callable[[Host, Dict[str, Any]], Tuple[bool, Dict[str, Any]]]
Work = Callable[[Host, Dict[str, Any]], Tuple[Plan, Dict[str, Any]]]


def run(module: Any, work: Work) -> None:
    """Plan under the host's lock, apply unless in check mode, and exit with ``changed``, ``diff`` and what ``work`` answered."""
    try:
        host = Host(module.params["root"])
        host.keeps_cache = not module.check_mode
        with host.lock():
            plan, result = work(host, module.params)
            diff = plan.diff()
            if plan and not module.check_mode:
                plan.apply()
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
