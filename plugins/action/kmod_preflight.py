# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half: the record bears the host's name in the inventory; and packages of kernels on offer come
to the controller, once for all hosts that are offered the same.
"""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _packages
from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction


class ActionModule(KmodAction):
    def prepare(self, args: dict[str, Any]) -> str | None:
        signer = super().prepare(args)
        given = args.get("given")
        if isinstance(given, list) and all(isinstance(each, dict) for each in given):
            args["given"] = [dict(each) for each in given]
            for each in args["given"]:
                super().prepare(each)
        return signer

    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        cache = args.pop("cache", None)
        args.update({"_defer": True} if cache else {})
        answer = super().execute(args, task_vars)
        if "record" in answer:
            answer["record"]["host"] = str(
                (task_vars or {}).get("inventory_hostname", answer["record"]["host"])
            )
            if self.is_read:
                answer["summary"] = "\n".join(lines(answer["record"]))
        if cache and "subject" in answer:
            answer["subject"] = _packages.kept(answer["subject"])
            answer["deferred"] = [
                self.collected(offer, answer, args=args, cache=cache, task_vars=task_vars)
                for offer in answer["deferred"]
            ]
        return answer

    def collected(
        self,
        offer: dict[str, Any],
        answer: dict[str, Any],
        *,
        args: dict[str, Any],
        cache: str,
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """A kernel on offer with the directory that its packages are in, or with why there is none."""
        whole = any(boolean(each.get("whole") or False, strict=False) for each in args["kernel"])
        wanted = offer["whole"] if whole or not offer["small"] else offer["small"]
        where = _packages.place(cache, answer["record"], wanted)
        try:
            with _packages.mine(where):
                if not _packages.there(where):
                    self.bring(wanted, where, args=args, task_vars=task_vars)
            return dict(offer, cached=where, asked_whole=whole)
        except KmodError as error:
            return dict(offer, error=str(error), code=error.code)

    def bring(
        self,
        wanted: list[dict[str, str]],
        where: str,
        *,
        args: dict[str, Any],
        task_vars: dict[str, Any] | None,
    ) -> None:
        """Have the host fetch packages, and take them over. Errors: those of the host, OFFERED_DAMAGED."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        self._fixup_perms2([shell.tmpdir], execute=False)
        into = shell.join_path(shell.tmpdir, os.path.basename(where))
        told = self._execute_module(
            module_args={"root": args.get("root", "/"), "_fetch": wanted, "_into": into}, task_vars=task_vars
        )
        if told.get("failed") or "files" not in told:
            code = str(told.get("code", "OFFERED_UNREACHABLE"))
            names = ", ".join(each["name"] for each in wanted)
            raise KmodError(names, str(told.get("msg", "could not be fetched")), "", code)
        with _packages.new(where) as directory:
            for name, digest in told["files"].items():
                target = os.path.join(directory, os.path.basename(name))
                self._connection.fetch_file(shell.join_path(into, name), target)
                _packages.check(target, digest, wanted)


def lines(record: dict[str, Any]) -> list[str]:
    """A host's record for a person: a line a verdict, and what is amiss now."""
    told = [
        "%(kernel)s (%(state)s): %(driver)s is %(verdict)s: %(why)s" % each for each in record["verdicts"]
    ]
    return told + [each["text"] for each in record["today"]]
