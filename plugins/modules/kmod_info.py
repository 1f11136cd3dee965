#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_info
short_description: Say which out-of-tree drivers are on a host, and which kernels use what of them
version_added: 0.1.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Reads the drivers that M(outoftree.kmod.kmod_link) has stored, with their versions and builds, and for each installed kernel
    the out-of-tree modules that C(modprobe) would load, the links in its C(weak-updates), and of the running kernel what is loaded now.
options:
  drivers:
    description: Only these drivers, by default all that are stored.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.info
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_link
  - module: outoftree.kmod.kmod_compat
"""

EXAMPLES = r"""
- name: See what is there
  outoftree.kmod.kmod_info:
  register: there

- name: Show it
  ansible.builtin.debug:
    msg: "{{ there.summary.splitlines() }}"

- name: Fail if the running kernel still has an older module loaded
  ansible.builtin.assert:
    that: there.kernels | map(attribute='modules') | flatten | selectattr('loaded', 'eq', 'other') | length == 0
"""

RETURN = r"""
"""
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.inventory import inventory


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            drivers=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    try:
        answer = inventory(Host(module.params["root"]), module.params["drivers"])
    except KmodError as error:
        module.fail_json(msg=str(error), code=error.code)
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
