# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host lacks is copied to it: the files of modules, and kmodctl."""

from __future__ import annotations

import functools
import os
from typing import Any

from ansible_collections.outoftree.kmod.plugins.module_utils.place import zipapp
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files, _kmodctl
from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class SendingAction(KmodAction):
    """Runs a module that says first what it needs, and once more when that is there."""

    def send(self, paths: list[str]) -> dict[str, str]:
        """Copy files of the controller, as they were checked and judged, to the host; answers with where each
        lies there.
        """
        directory = self._directory()
        sent = {
            path: self._transfer_file(
                self.copies[path],
                self._connection._shell.join_path(directory, "%d-%s" % (number, os.path.basename(path))),
            )
            for number, path in enumerate(paths)
        }
        self._fixup_perms2([directory, *sent.values()], execute=False)
        return sent

    def send_kmodctl(self) -> str:
        """Copy its archive to the host; answers with where it lies there."""
        copy = os.path.join(_files.private(), "kmodctl.zip")
        with _files.new(copy) as name, open(name, "wb") as file:
            file.write(zipapp.packed(made()))
        directory = self._directory()
        sent: str = self._transfer_file(copy, self._connection._shell.join_path(directory, "kmodctl.zip"))
        self._fixup_perms2([directory, sent], execute=False)
        return sent

    def _directory(self) -> str:
        shell: Any = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        return str(shell.tmpdir)


@functools.lru_cache(maxsize=1)
def made() -> dict[str, bytes]:
    """The sources of kmodctl, by name."""
    return _kmodctl.sources()


def kmodctl_digest() -> str:
    """What tells this kmodctl from others."""
    return zipapp.digest(made())
