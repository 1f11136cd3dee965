# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tells what the one process has worked that hands out tasks and takes in answers: no number of processors or
forks makes that shorter.
"""

import os
import resource

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: own_time
type: aggregate
short_description: CPU seconds of ansible-playbook itself, written to a file
description:
  - Writes them to the file that the environment variable names.
options: {}
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "own_time"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats):
        own = resource.getrusage(resource.RUSAGE_SELF)
        with open(os.environ["OUTOFTREE_KMOD_OWN_TIME"], "w") as file:
            file.write(str(own.ru_utime + own.ru_stime))
