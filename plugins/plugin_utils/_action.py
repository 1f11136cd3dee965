# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of every module: what a host lacks travels with the task."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_utils_loader

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko, package

PYELFTOOLS = "pyelftools>=0.27,<0.33"  # 0.33 needs Python 3.10 on every host; 0.27 to 0.32 run on 3.6


class KmodAction(ActionBase):
    """Runs the module of the same name. ``src`` becomes plain data here (``described``), so that every host judges without the files."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        bundle_pyelftools()
        args = dict(self._task.args)
        if (args.get("src") or args.get("src") == "") and args.get("state") != "absent":
            args["described"] = self.describe(args.pop("src"))
        result.update(self.execute(args, task_vars))
        result.get("invocation", {}).get("module_args", {}).pop("described", None)  # nobody wants to read that
        return result

    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module; a subclass may do so in several steps."""
        return self._execute_module(module_args=args, task_vars=task_vars, wrap_async=self._task.async_val)

    def describe(self, src: str | list[str]) -> list[dict[str, Any]]:
        """The module files at these paths as plain data, each read once in a run of Ansible, whatever the number of hosts."""
        controller = Host("/")
        try:
            ko.check_paths([src] if isinstance(src, str) else src)
            paths = [unpacked(controller, self._find_needle("files", path)) for path in ([src] if isinstance(src, str) else src)]
            return [described(controller, path) for path in ko.find(controller, paths)]
        except KmodError as error:
            raise AnsibleActionFail(str(error)) from None


def unpacked(controller: Host, path: str) -> str:
    """Of a package, a directory with the modules in it, made once in a run of Ansible; any other path as it is."""
    if not package.SUFFIX.search(path) or not os.path.isfile(path):
        return path
    status = os.stat(path)
    key = "%s %d %d %d" % (os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino)
    kept = os.path.join(C.DEFAULT_LOCAL_TMP, "outoftree_kmod", hashlib.sha256(key.encode()).hexdigest())
    if not os.path.isdir(kept):
        made = tempfile.mkdtemp(dir=os.path.dirname(kept))
        for name, data in package.modules(controller, path):
            target = os.path.join(made, os.path.basename(path), name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            controller.replace(target, data)
        with contextlib.suppress(OSError):  # another worker was first
            os.rename(made, kept)
    return os.path.join(kept, os.path.basename(path))


def described(controller: Host, path: str) -> dict[str, Any]:
    status = os.stat(path)
    key = "%s %d %d %d" % (os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino)
    kept = os.path.join(C.DEFAULT_LOCAL_TMP, "outoftree_kmod", hashlib.sha256(key.encode()).hexdigest() + ".json")
    with contextlib.suppress(FileNotFoundError), open(kept, encoding="utf-8") as had:
        return json.load(had)
    answer = ko.read(controller, path).as_dict()
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(kept), delete=False) as file:  # other workers may be at it, too
        json.dump(answer, file)
    os.replace(file.name, kept)
    return answer


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
