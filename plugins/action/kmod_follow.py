# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: kmodctl is put together here, and sent where a host has another one or none."""

from __future__ import annotations

import functools
import os
from typing import Any

from ansible_collections.outoftree.kmod.plugins.module_utils.place import zipapp
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files, _kmodctl
from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class ActionModule(KmodAction):
    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        if args.get("state") == "absent":
            return super().execute(args, task_vars)
        args = dict(args, sources=zipapp.digest(made()))
        answer = self._execute_module(module_args=args, task_vars=task_vars)
        if answer.get("failed") or self._task.check_mode or not answer.get("need_kmodctl"):
            return answer
        return super().execute(dict(args, kmodctl=self.send()), task_vars)

    def send(self) -> str:
        """Copy the archive to the host; answers with where it lies there."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        copy = os.path.join(_files.private(), "kmodctl.zip")
        with _files.new(copy) as name, open(name, "wb") as file:
            file.write(zipapp.packed(made()))
        sent: str = self._transfer_file(copy, shell.join_path(shell.tmpdir, "kmodctl.zip"))
        self._fixup_perms2([shell.tmpdir, sent], execute=False)
        return sent


@functools.lru_cache(maxsize=1)
def made() -> dict[str, bytes]:
    return _kmodctl.sources()
