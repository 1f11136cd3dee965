# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prints a line for each finished task of each host, and keeps the results for the demo's table."""

from __future__ import annotations

import json
import os
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: progress
type: stdout
short_description: one line a task and host
description: One line a task and host; results go to the file that the environment variable DEMO_RESULTS names.
"""

# The modules that kmod_deploy does the work of, by the names that its answer has for their answers.
STEPS = {"link": "kmod_link", "variant": "initrd_variant", "entry": "grub_entry"}


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "progress"

    def __init__(self):
        super().__init__()
        self.results = {}
        self.started = {}

    def v2_runner_on_start(self, host, task):
        self.started[host.name, task._uuid] = time.monotonic()

    def _finished(self, result, word):
        host, task = result._host.name, result._task
        if task.action.startswith("outoftree.kmod."):
            module = task.action.rsplit(".", 1)[1]
            seconds = time.monotonic() - self.started[host, task._uuid]
            answer = result._result
            outcome = word or ("changed" if answer.get("changed") else "ok")
            print(
                "  %-9s %-68s %-9s %4.1f s" % (host, task.name.split(" : ")[-1], outcome, seconds), flush=True
            )
            if word:
                print("            " + str(answer.get("msg")), flush=True)
            kept = self.results.setdefault(host, {})
            kept[module] = answer
            for row in answer.get("drivers", []) if module == "kmod_deploy" else []:
                kept.update({name: dict(row[step] or {}) for step, name in STEPS.items()})
                kept["kmod_link"]["warnings"] = answer.get("warnings", [])

    def v2_runner_on_ok(self, result):
        self._finished(result, "")
        if result._task.action == "ansible.builtin.debug":
            said = result._result.get("msg")
            for line in said if isinstance(said, list) else [said]:
                print("            %s" % line, flush=True)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._finished(result, "FAILED")
        if not result._task.action.startswith("outoftree.kmod."):
            print("  %s: %s" % (result._host.name, result._result.get("msg")))

    def v2_runner_on_unreachable(self, result):
        self._finished(result, "UNREACHABLE")

    def v2_playbook_on_stats(self, stats):
        totals = {host: stats.summarize(host) for host in stats.processed}
        with open(os.environ["DEMO_RESULTS"], "w", encoding="utf-8") as file:
            json.dump({"results": self.results, "totals": totals}, file, default=str)
