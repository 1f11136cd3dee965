# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of every module: what a host lacks travels with the task."""
from __future__ import annotations

import contextlib
import os
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_utils_loader

PYELFTOOLS = "pyelftools>=0.27,<0.33"  # 0.33 needs Python 3.10 on every host; 0.27 to 0.32 run on 3.6


class KmodAction(ActionBase):
    """Runs the module of the same name. A subclass turns what lies on the controller into module arguments in ``execute``."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        bundle_pyelftools()
        result.update(self.execute(dict(self._task.args), task_vars))
        return result

    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self._execute_module(module_args=args, task_vars=task_vars, wrap_async=self._task.async_val)


def bundle_pyelftools() -> None:
    """Let the controller's installed pyelftools be packed with the module as ``ansible.module_utils.elftools``.

    Ansible packs what a module imports from there, looking in its directories for module utilities. One that holds nothing but a symlink
    to the package is added to them: no copy of the package is kept, and hosts need nothing installed.
    """
    try:
        import elftools
    except ImportError:
        raise AnsibleActionFail("pyelftools is not installed on the controller: pip install '%s'" % PYELFTOOLS) from None
    if tuple(int(part) for part in elftools.__version__.split(".")[:2]) >= (0, 33):
        raise AnsibleActionFail("pyelftools %s on the controller does not run on the Python of older hosts: pip install '%s'"
                                % (elftools.__version__, PYELFTOOLS))
    directory = os.path.join(C.DEFAULT_LOCAL_TMP, "outoftree_kmod")
    os.makedirs(directory, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # another worker of this run was first
        os.symlink(os.path.dirname(elftools.__file__), os.path.join(directory, "elftools"))
    module_utils_loader.add_directory(directory)
