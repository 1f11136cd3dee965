#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_report
short_description: Write the report on a fleet's drivers and kernels
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Puts together what M(outoftree.kmod.kmod_preflight) found on each host, and writes C(report.html),
    C(report.md) and C(report.json) into a directory of the controller.
  - They say how many hosts stay well with their next kernel, lose a driver, or cannot be told; which kernel
    takes which driver, on groups of identical hosts, down to codes and symbols; the fewest builds that are
    to be made; how things are today; what is held back; and what changed since an earlier report.
  - C(report.html) is one file that needs no network and no JavaScript. docs/report.md of the collection has
    the keys of C(report.json).
  - All of it happens on the controller. One task is enough (C(run_once)). The playbook
    C(outoftree.kmod.report) asks all hosts and writes the report.
  - The same records give the same files, to the byte.
options:
  dest:
    description:
      - The directory that the three files are written to. It is made where it is missing.
      - A relative path is one from the working directory.
    type: path
    required: true
  records:
    description:
      - The records of the hosts, RV(outoftree.kmod.kmod_preflight#module:record). Of several of one host the
        latest counts.
      - By default those of all hosts that were asked, in this play or one before it. That is the fact
        C(kmod_preflight), which the role C(outoftree.kmod.preflight) sets, or what
        M(outoftree.kmod.kmod_preflight) answered if the play registers it as C(kmod_looked).
      - A host that did not answer is in the report as one that could not be told.
    type: list
    elements: dict
  since:
    description:
      - An earlier C(report.json). The report says what changed since.
      - This may be the one in O(dest), which is then replaced, and need not be there the first time.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff
      mode.
    support: full
    details: Shows the lines of C(report.md). Of the other files it says how long they are.
  idempotent:
    description: Running it twice in a row changes nothing the second time.
    support: full
extends_documentation_fragment:
  - outoftree.kmod.common.controller
seealso:
  - module: outoftree.kmod.kmod_preflight
"""

EXAMPLES = r"""
# After the role outoftree.kmod.preflight; the playbook outoftree.kmod.report is both.
- name: Compare with the report of yesterday, and replace it
  outoftree.kmod.kmod_report:
    dest: /srv/www/drivers
    since: /srv/www/drivers/report.json
  run_once: true

- name: Write a report on records that were kept in a file
  outoftree.kmod.kmod_report:
    dest: /srv/www/drivers
    records: "{{ lookup('ansible.builtin.file', '/srv/records.json') | from_json }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
msg:
  description: The numbers in one sentence.
  returned: success
  type: str
  sample: Of 5,000 hosts 883 lose a driver, 4,117 stay well.
dest:
  description: The directory with the files.
  returned: success
  type: str
  sample: /srv/www/drivers
counts:
  description: How many hosts there are of each state.
  returned: success
  type: dict
  contains:
    hosts:
      description: All hosts.
      type: int
      sample: 5000
    loses:
      description: Hosts that lose a driver with their next kernel.
      type: int
      sample: 883
    lacks:
      description: Hosts of which neither the running kernel nor the next one takes a driver.
      type: int
      sample: 0
    untold:
      description: Hosts of which it cannot be told.
      type: int
      sample: 0
    well:
      description: Hosts that keep all drivers.
      type: int
      sample: 4117
    held:
      description: Of those that lose a driver, how many are held back.
      type: int
      sample: 282
    groups:
      description: How many groups of identical hosts there are.
      type: int
      sample: 428
rebuild:
  description: By driver the fewest builds that serve all kernels, and what else it takes. docs/report.md has
    the keys.
  returned: success
  type: list
  elements: dict
steps:
  description: What to do, the most urgent first.
  returned: success
  type: list
  elements: str
  sample: ["Make 6 builds. No build of the fleet fits 6 kernels. The rebuild list says what to build for."]
"""
