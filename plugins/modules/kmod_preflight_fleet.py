#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_preflight_fleet
short_description: Judge the kernels that a fleet's hosts would get, each of them once for all hosts
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Puts together the records of all hosts of a play from what M(outoftree.kmod.kmod_preflight) answered for each
    with its option O(outoftree.kmod.kmod_preflight#module:cache). Each kernel's packages are read once, on the
    controller, and judged for every host by that host's drivers and by what holds there (enrolled keys,
    lockdown, the kernel's command line).
  - A host that could not be reached, or failed, has a record that says so.
  - The role C(outoftree.kmod.preflight) does both. All of it happens on the controller, in one task (C(run_once)).
options:
  looked:
    description: The variable in which the play has registered what M(outoftree.kmod.kmod_preflight) answered.
    type: str
    default: kmod_looked
  require:
    description:
      - What RV(lost) lists. V(none) nothing, V(offered) the kernels on offer that do not take a driver, and what
        could not be told, V(all) the installed ones as well.
      - The task does not fail for that, so that all hosts are told of.
    type: str
    choices: [none, offered, all]
    default: none
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
    details: The module never changes anything.
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff mode.
    support: N/A
    details: The module never changes anything.
  idempotent:
    description: Running it twice in a row gives the same result.
    support: full
extends_documentation_fragment:
  - outoftree.kmod.common.controller
seealso:
  - module: outoftree.kmod.kmod_preflight
  - module: outoftree.kmod.kmod_report
"""

EXAMPLES = r"""
- name: Look at all hosts
  hosts: all
  gather_facts: false
  tasks:
    - name: See which kernels they would get
      outoftree.kmod.kmod_preflight:
        kernel:
          - offered: newest
        cache: ~/.cache/outoftree.kmod/packages
      register: kmod_looked
      ignore_unreachable: true
      failed_when: false

    - name: Judge these kernels
      outoftree.kmod.kmod_preflight_fleet:
      register: kmod_judged
      run_once: true
"""

RETURN = r"""
msg:
  description: How many hosts there are, and how many could not be told.
  returned: always
  type: str
  sample: 12 hosts, of which 1 could not be told
records:
  description: By host its record, RV(outoftree.kmod.kmod_preflight#module:record).
  returned: success
  type: dict
lost:
  description: By host a line for each thing that it lacks of what O(require) asks for.
  returned: success
  type: dict
  sample: {web1: ["5.14.0-611.el9.x86_64: mydriver: 1 symbol differs (kfree)"]}
absent:
  description: The hosts that did not answer.
  returned: success
  type: list
  elements: str
  sample: [web2]
"""
