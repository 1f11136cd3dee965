#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: grub_entry
short_description: Add boot entries for a kernel with an initramfs variant
version_added: 0.1.0
description:
  - Adds a boot entry for each kernel that has an initramfs variant with the driver, or removes them. An entry is a copy of the
    one that the distribution ships for that kernel, with another title, the variant in place of the shipped image, and arguments
    appended.
  - The shipped entries, the boot loader's configuration and the default stay as they are, unless O(boot=default) asks for another
    default. The module checks that on the menu that it is going to leave behind, before it writes anything.
  - Under GRUB 2 the entries go into C(custom.cfg) beside C(grub.cfg), between marks. Where entries are files of their own
    (Boot Loader Specification), each is a file named like the shipped one with C(~) and the driver, a name that never sorts before it.
    Under GRUB legacy and extlinux they go to the end of the menu.
  - Entries that are not made by this module are left alone.
options:
  driver:
    description: Name of the driver. It tells whose an entry is, and is the first thing that its title says.
    type: str
    required: true
  state:
    description: Whether the entries are there.
    type: str
    choices: [present, absent]
    default: present
  kernels:
    description:
      - Releases of the kernels to add or remove entries for.
      - By default these are all kernels that have an initramfs variant with the driver, as M(outoftree.kmod.initrd_variant) makes it.
        Entries of the driver whose kernel is gone are removed then.
    type: list
    elements: str
    default: []
  initrd:
    description:
      - The images to load in place of the shipped one, for the single kernel in O(kernels). They lie in the directory of the shipped one.
      - By default the initramfs variant with the driver.
    type: list
    elements: path
  boot:
    description:
      - What the next boots start. V(none) leaves that as it is.
      - V(once) has the next boot alone start the new entry. After that the machine is back on its default, whether the trial went well or not.
        Nothing is done where the running system was started by that entry, or where it is the default.
      - V(default) makes it the default. The old one is remembered and comes back with O(state=absent).
      - If entries for several kernels are made, the one for the kernel of the present default is meant, else the one for the newest.
    type: str
    choices: [none, once, default]
    default: none
  args:
    description: Arguments for the kernel's command line, appended to those of the shipped entry.
    type: str
    default: ''
  fallback_args:
    description:
      - Arguments that make a kernel or an initramfs that fails come back by itself, instead of waiting for somebody at the console.
      - V(auto) stands for C(panic=10 rd.shell=0 rd.emergency=reboot).
    type: str
    default: auto
  loader:
    description: The boot loader, where it is not the one that the host's files show.
    type: str
    choices: [auto, grub2, bls, systemd-boot, grub-legacy, extlinux]
    default: auto
  copy_of:
    description: Title or id of the entry to copy, needed where a kernel has several that differ.
    type: str
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.change
  - outoftree.kmod.common.actiongroup_kmod
author: Contributors to the outoftree.kmod project (@outoftree)
"""

EXAMPLES = r"""
- name: A boot entry for each kernel that has a variant with the driver
  outoftree.kmod.grub_entry:
    driver: 3w-9xxx

- name: Try it on the next boot alone
  outoftree.kmod.grub_entry:
    driver: 3w-9xxx
    boot: once

- name: Make it the default
  outoftree.kmod.grub_entry:
    driver: 3w-9xxx
    boot: default

- name: Remove the entries, and have the old default back
  outoftree.kmod.grub_entry:
    driver: 3w-9xxx
    state: absent
"""

RETURN = r"""
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry


def work(host, params):
    if params["state"] == "absent":
        return entry.absent(host, params["driver"], params["kernels"], params["loader"])
    if params["initrd"] and len(params["kernels"]) != 1:
        raise KmodError("initrd", "is for one kernel", "Name that kernel alone in kernels", "ARGS_INVALID")
    fallback = entry.FALLBACK_ARGS if params["fallback_args"] == "auto" else params["fallback_args"]
    request = entry.Request(params["driver"], params["args"], fallback, params["boot"], params["copy_of"] or "")
    explicit = {params["kernels"][0]: tuple(params["initrd"])} if params["initrd"] else None
    return entry.present(host, request, explicit or entry.variants(host, params["driver"], params["kernels"]), params["loader"])


def main():
    module = AnsibleModule(
        argument_spec=dict(
            driver=dict(type="str", required=True),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            kernels=dict(type="list", elements="str", default=[]),
            initrd=dict(type="list", elements="path"),
            boot=dict(type="str", choices=["none", "once", "default"], default="none"),
            args=dict(type="str", default=""),
            fallback_args=dict(type="str", default="auto"),
            loader=dict(type="str", choices=["auto", "grub2", "bls", "systemd-boot", "grub-legacy", "extlinux"], default="auto"),
            copy_of=dict(type="str"),
            root=dict(type="path", default="/"),
        ),
        supports_check_mode=True,
    )
    task.run(module, work)


if __name__ == "__main__":
    main()
