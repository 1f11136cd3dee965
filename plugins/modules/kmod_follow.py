#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_follow
short_description: Have a host give new kernels a driver by itself
version_added: 1.0.0
description:
  - Installs C(kmodctl) (C(/usr/local/sbin/kmodctl)), hooks that the distribution's kernel packages call,
    units of systemd, and one file with
    settings, so that a kernel that is installed later gets the drivers of this host by itself. That is links,
    an initramfs variant and a boot entry,
    as M(outoftree.kmod.kmod_link), M(outoftree.kmod.initrd_variant) and M(outoftree.kmod.grub_entry) make
    them.
  - C(kmodctl) is put together on the controller from this collection and its pyelftools, and sent where the
    host has another one.
  - A hook always ends well, so that no package fails of it. What it could not do is noted, and done at the
    next boot or by the next run of this
    module.
  - A kernel that arrives by itself never makes anything that was not tried the default. The collection's
    docs/follow.md has what boots start.
  - Deploy the driver first. The role C(outoftree.kmod.deploy) does all of that with C(kmod_follow=true).
  - Hosts in image mode (ostree) and transactional ones are refused.
options:
  driver:
    description: Name of the driver, as it was deployed.
    type: str
    required: true
  state:
    description:
      - Whether new kernels get the driver.
      - With V(absent) for the last driver everything that this module has installed is removed, to the
        directories that came with it. The drivers
        stay deployed. A default that was kept goes back to what it was.
    type: str
    choices: [present, absent]
    default: present
  kernels:
    description: The kernels that are meant, as releases or patterns, or V(all), V(newest).
    type: list
    elements: str
    default: [all]
  initrd:
    description: Whether new kernels get an initramfs variant with the driver.
    type: bool
    default: true
  method:
    description: How variants are made. The option of M(outoftree.kmod.initrd_variant).
    type: str
    choices: [auto, overlay, segment, rebuild]
    default: auto
  early_load:
    description: Whether variants load the driver at the very start. The option of
      M(outoftree.kmod.initrd_variant).
    type: bool
    default: false
  ignore_tpm:
    description: Go on where a TPM opens an encrypted disk only as long as the initramfs stays the same.
    type: bool
    default: false
  entry:
    description: Whether new kernels get a boot entry for the variant.
    type: bool
    default: true
  args:
    description: Arguments of these entries. The option of M(outoftree.kmod.grub_entry).
    type: str
    default: ''
  fallback_args:
    description: Arguments of entries on trial. The option of M(outoftree.kmod.grub_entry).
    type: str
    default: auto
  loader:
    description: The boot loader, where it is not the one that the host's files show.
    type: str
    choices: [auto, grub2, bls, systemd-boot, grub-legacy, extlinux]
    default: auto
  copy_of:
    description: Title or id of the entry to copy, where a kernel has several that differ.
    type: str
    default: ''
  boot:
    description:
      - What boots start once a kernel has arrived that takes the driver. V(none) leaves that to the
        distribution.
      - V(once) has the next boot alone try the kernel's new entry.
      - V(default) does that, too, and makes the entry the default once it was started and has loaded the
        driver. Until then the default is the newest
        entry that has proved itself, if there is one.
    type: str
    choices: [none, once, default]
    default: none
  keep_default:
    description:
      - Keep the default on the newest kernel that takes the driver while the one that boots would start takes
        none of its builds. When a build for it
        arrives, the default is again what the distribution makes it.
    type: bool
    default: false
  weak_modules:
    description:
      - What packages' calls of C(weak-modules) reach, for all drivers of the host. With V(divert) that is
        C(kmodctl weak-modules). The distribution's script lies beside it, as C(weak-modules.distrib).
      - V(leave) puts the script back, and so does V(absent) for the last driver. See docs/weak-modules.md of
        the collection.
    type: str
    choices: [leave, divert]
    default: leave
  _kmodctl:
    description: Set by the collection's action plugin, not by playbooks. Where C(kmodctl) lies on the host, once it is sent.
    type: path
  _sources:
    description: Set by the collection's action plugin, not by playbooks. The digest of what C(kmodctl) is made of.
    type: str
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.change
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_info
author: Contributors to the outoftree.kmod project (@outoftree)
"""

EXAMPLES = r"""
- name: New kernels get the driver, and are started with it once it has proved itself
  outoftree.kmod.kmod_follow:
    driver: 3w-9xxx
    boot: default
    keep_default: true

- name: New kernels get links alone
  outoftree.kmod.kmod_follow:
    driver: 3w-9xxx
    initrd: false

- name: New kernels do not get it any more
  outoftree.kmod.kmod_follow:
    driver: 3w-9xxx
    state: absent
"""

RETURN = r"""
driver:
  description: The driver.
  returned: success
  type: str
  sample: 3w-9xxx
family:
  description: By whose hooks the host is told of kernels. V(el) (kernel-install), V(el7) (new-kernel-pkg),
    V(debian), V(suse) or V(other).
  returned: success
  type: str
  sample: debian
following:
  description: The drivers that new kernels get.
  returned: success
  type: list
  elements: str
  sample: [3w-9xxx]
hooks:
  description: The scripts and units that were installed.
  returned: O(state=present)
  type: list
  elements: str
  sample: [/etc/kernel/postinst.d/do-outoftree-kmod]
kept:
  description: The kernel that the default is kept on (O(keep_default)).
  returned: success
  type: str
  sample: 6.1.0-55-amd64
lacking:
  description: The kernels that take none of the driver's builds, as the host has found it last.
  returned: success
  type: list
  elements: dict
  contains:
    kernel:
      description: Release of the kernel.
      type: str
      returned: always
      sample: 6.1.0-56-amd64
    boots:
      description: Why boots may start it. It is the V(running) one, the V(newest), or the boot loader's
        V(default).
      type: list
      elements: str
      returned: always
      sample: [newest]
    reason:
      description: Why it takes none.
      type: str
      returned: always
      sample: the version of module_layout differs
problems:
  description: What could not be done, or is to be known.
  returned: success
  type: list
  elements: str
  sample: []
msg:
  description: The outcome in one sentence.
  returned: success
  type: str
  sample: The host follows new kernels with 3w-9xxx.
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import following


def main():
    module = AnsibleModule(
        argument_spec=dict(
            driver=dict(type="str", required=True),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            kernels=dict(type="list", elements="str", default=["all"]),
            initrd=dict(type="bool", default=True),
            method=dict(type="str", choices=["auto", "overlay", "segment", "rebuild"], default="auto"),
            early_load=dict(type="bool", default=False),
            ignore_tpm=dict(type="bool", default=False),
            entry=dict(type="bool", default=True),
            args=dict(type="str", default=""),
            fallback_args=dict(type="str", default="auto"),
            loader=dict(
                type="str",
                choices=["auto", "grub2", "bls", "systemd-boot", "grub-legacy", "extlinux"],
                default="auto",
            ),
            copy_of=dict(type="str", default=""),
            boot=dict(type="str", choices=["none", "once", "default"], default="none"),
            keep_default=dict(type="bool", default=False),
            weak_modules=dict(type="str", choices=["leave", "divert"], default="leave"),
            _kmodctl=dict(type="path"),
            _sources=dict(type="str"),
            root=dict(type="path", default="/"),
        ),
        supports_check_mode=True,
    )
    task.run(module, following)


if __name__ == "__main__":
    main()
