#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_hold
short_description: Keep kernels that a driver has no build for from being installed
version_added: 1.0.0
description:
  - Writes into the package manager's own files that a kernel is not to be installed, with the driver and the
    reason in a comment. All other updates go on, newer kernels included.
  - A kernel is held whole, with all its packages. Where C(kernel-core) alone were held, C(dnf upgrade) would
    fail as a whole.
  - What others have written into these files stays as it is. Once nothing is held any more, the files are what
    they were before. The collection's docs/hold.md has them, and what each does.
  - Each run says all that is to be held on account of the drivers that it is about, and what they do not need
    any more is released. A hold is also released when M(outoftree.kmod.kmod_link) stores a build for the
    kernel, or when the host finds the kernel installed, or the driver removed.
  - A kernel that is installed already is left as it is, and named in the answer. To keep boots from starting
    it is O(outoftree.kmod.kmod_follow#module:keep_default).
options:
  state:
    description:
      - With V(present) exactly O(kernels) are held on account of O(drivers).
      - With V(absent) nothing is.
    type: str
    choices: [present, absent]
    default: present
  kernels:
    description: What is to be held, a kernel and a driver each.
    type: list
    elements: dict
    suboptions:
      kernel:
        description: Release of the kernel, as C(uname -r) will say it.
        type: str
        required: true
      driver:
        description: Name of the driver that has no build for it.
        type: str
        required: true
      reason:
        description: Why it has none, in one line.
        type: str
        required: true
  record:
    description:
      - Instead of O(kernels) and O(drivers), what M(outoftree.kmod.kmod_preflight) found, its return value
        RV(outoftree.kmod.kmod_preflight#module:record). The kernels on offer are held that are not known to
        take a build of each of the host's drivers.
      - Where it could not be told what the host would get, all stays as it is.
    type: dict
  drivers:
    description:
      - The drivers that this is about. Kernels that are held on account of others stay so.
      - Without it, it is about all of them.
    type: list
    elements: str
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.change
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_preflight
  - module: outoftree.kmod.kmod_follow
author: Contributors to the outoftree.kmod project (@outoftree)
"""

EXAMPLES = r"""
- name: The kernel that the driver has no build for yet is not installed
  outoftree.kmod.kmod_hold:
    kernels:
      - kernel: 5.14.0-611.el9.x86_64
        driver: 3w-9xxx
        reason: the version of put_page differs
    drivers: [3w-9xxx]

- name: See what the host would get
  outoftree.kmod.kmod_preflight:
    kernel:
      - package: [/var/tmp/offer]
  register: preflight

- name: What would break is not installed, and what has a build by now is released
  outoftree.kmod.kmod_hold:
    record: "{{ preflight.record }}"

- name: Nothing is held on its account any more
  outoftree.kmod.kmod_hold:
    state: absent
    drivers: [3w-9xxx]
"""

RETURN = r"""
held:
  description: What is held on this host, on account of all drivers.
  returned: success
  type: list
  elements: dict
  contains:
    what:
      description: V(kernel) for one that is not to be installed, V(default) for the default of boots that is
        kept (O(outoftree.kmod.kmod_follow#module:keep_default)).
      type: str
      returned: always
      sample: kernel
    kernel:
      description: Release of the kernel that is held, or that boots are kept on.
      type: str
      returned: always
      sample: 5.14.0-611.el9.x86_64
    driver:
      description: The drivers on whose account it is held.
      type: list
      elements: str
      returned: always
      sample: [3w-9xxx]
    reason:
      description: Why.
      type: str
      returned: always
      sample: '3w-9xxx: the version of put_page differs'
left:
  description: What was to be held and is not.
  returned: success
  type: list
  elements: dict
  contains:
    kernel:
      description: Release of the kernel.
      type: str
      returned: always
      sample: 5.14.0-570.el9.x86_64
    reason:
      description: Why it is left.
      type: str
      returned: always
      sample: it is installed already
file:
  description: The file that says so, V(null) where nothing is held.
  returned: success
  type: str
  sample: /etc/dnf/dnf.conf
msg:
  description: The outcome in one sentence.
  returned: success
  type: str
  sample: 'Held: 5.14.0-611.el9.x86_64.'
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import hold


def main():
    module = AnsibleModule(
        argument_spec=dict(
            state=dict(type="str", choices=["present", "absent"], default="present"),
            kernels=dict(
                type="list",
                elements="dict",
                options=dict(
                    kernel=dict(type="str", required=True),
                    driver=dict(type="str", required=True),
                    reason=dict(type="str", required=True),
                ),
            ),
            record=dict(type="dict"),
            drivers=dict(type="list", elements="str"),
            root=dict(type="path", default="/"),
        ),
        mutually_exclusive=[("record", "kernels"), ("record", "drivers")],
        supports_check_mode=True,
    )
    task.run(module, hold)


if __name__ == "__main__":
    main()
