# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One line of JSON a task."""

import json

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: stdout
short_description: one line of JSON a task
description: One line of JSON a task, for tests.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "results"

    def _show(self, result, failed):
        self._display.display(
            json.dumps(dict(result._result, task=result._task.name, failed=failed), default=str)
        )

    def v2_runner_on_ok(self, result):
        self._show(result, False)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._show(result, True)

    def v2_runner_on_unreachable(self, result):
        self._show(result, True)
