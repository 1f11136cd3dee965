#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_link
short_description: Give every installed kernel the right build of an out-of-tree driver
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Judges the builds of a driver against the installed kernels by the rules of each kernel's own loader, and
    gives each kernel the best
    build that it takes, all modules of the driver or none. The newest version comes first, and of that the
    build made for the kernel,
    then the one made for the newest kernel.
  - The builds that are used are stored in C(/lib/modules/BUILT-FOR/extra/DRIVER/), whether that kernel is
    installed or not. The other
    kernels get symlinks to them in their C(weak-updates/DRIVER/). Where another module of the same name would
    win, a C(depmod.d) file
    overrides that. C(depmod) runs once for each kernel that changed.
  - A build lies where the kernel it was built for looks, so that kernel sees it whether it was chosen by
    O(kernels) or not.
  - Nothing that belongs to someone else is changed. Removal leaves the tree as it was.
options:
  driver:
    description: Name of the driver. Its modules are kept, judged and removed together under this name.
    type: str
    required: true
  path:
    description:
      - Modules on the host, inside O(root). C(.ko) files, compressed or not, packages (C(.deb), C(.rpm)) with
        modules in them, which are read
        and not installed, or directories that are searched for the first or, if they hold none, for the
        second.
      - Modules that were built for the same kernel are one build. Several builds for one kernel, such as two
        versions of the driver,
        lie in directories of their own.
      - Without O(path) and O(src) the stored builds are used, for example for a kernel that was installed
        later.
    type: list
    elements: path
  src:
    description:
      - Modules on the controller, in the forms that O(path) takes. Relative paths are looked up where Ansible looks for files, then in the
        working directory.
      - The files are read there, and of them only those that the host's kernels need and that it does not
        have travel to it.
    type: list
    elements: path
  kernels:
    description:
      - The kernels to serve, as releases or shell patterns of them.
      - V(all) are all that are installed, V(running) is the one that runs, V(newest) the one with the highest
        release.
      - Other kernels keep what they have.
      - Only with O(state=present).
    type: list
    elements: str
    default: [all]
  state:
    description:
      - Whether the driver is there.
      - With V(absent), O(version) and O(build) say what of it is to go. Kernels that used that get the next
        best build that is left.
    type: str
    choices: [present, absent]
    default: present
  version:
    description:
      - The version of the driver that is wanted, as C(modinfo) shows it. Builds of other versions are not used, and go.
        By default it is the newest that is given or stored, so that an older one that is given changes nothing.
      - With O(state=absent), remove the builds of this version only.
    type: str
  build:
    description: Remove the builds for this kernel release only. Only with O(state=absent).
    type: str
  load:
    description:
      - Load the driver's modules into the running kernel now, if it is given a build. Older ones that are
        loaded and that nothing uses are
        removed before.
      - Where they are in use they stay loaded, and RV(reboot_needed) or RV(held_back_by) says so.
    type: bool
    default: false
  heal:
    description:
      - Repair every link in the C(weak-updates) of the chosen kernels that leads nowhere, whoever made it. It
        is led to another
        build in the C(extra) or C(updates) of some kernel that its own kernel takes, or removed.
      - Links of O(driver) are repaired in any case.
    type: bool
    default: false
  _described:
    description: Set by the collection's action plugin, not by playbooks. The modules of the files on the controller, as plain data.
    type: list
    elements: dict
  _files:
    description: Set by the collection's action plugin, not by playbooks. Where files of the controller lie on the host, once they are sent.
    type: dict
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.supply
  - outoftree.kmod.common.change
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_compat
"""

EXAMPLES = r"""
- name: Give every installed kernel the driver, from a directory of builds on the controller
  outoftree.kmod.kmod_link:
    driver: mydriver
    src: builds/mydriver

- name: Link what is stored into a kernel that was installed later
  outoftree.kmod.kmod_link:
    driver: mydriver
    kernels: newest

- name: Go back from version 2.0 to the older one that is left
  outoftree.kmod.kmod_link:
    driver: mydriver
    state: absent
    version: "2.0"

- name: Remove the driver
  outoftree.kmod.kmod_link:
    driver: mydriver
    state: absent
"""

RETURN = r"""
msg:
  description: The outcome in one line.
  returned: always
  type: str
  sample: "dmy: 2 of 3 kernels use it (6.1.0-53-cloud-amd64: dummy: the version of module_layout differs)"
driver:
  description: Name of the driver.
  returned: success
  type: str
  sample: dmy
kernels:
  description:
    - What each of the chosen kernels gets, oldest first. With O(state=absent) the kernels that used what is
      removed.
  returned: success
  type: list
  elements: dict
  contains:
    kernel:
      description: Release of the kernel.
      type: str
    verdict:
      description: V(compatible) if it takes a build of the driver, otherwise the verdict on the build that
        was considered first.
      type: str
    reason:
      description: Why it is not V(compatible), in a few words.
      type: str
    build:
      description: Release of the kernel that the build which it uses was made for, V(null) if it gets none.
      type: str
    version:
      description: Version of the driver that it uses.
      type: str
    files:
      description: The files that the kernel uses, which are links unless the build was made for it.
      type: list
      elements: str
    linked:
      description: Whether the files are links to a build for another kernel.
      type: bool
    override:
      description: Whether C(depmod) needs an override to list these files, because there are others of the
        same name.
      type: bool
  sample:
    - kernel: 6.1.0-53-cloud-amd64
      verdict: incompatible
      reason: "dummy: the version of module_layout differs"
      build: null
      version: null
      files: []
      linked: false
      override: false
    - kernel: 6.1.0-56-cloud-amd64
      verdict: compatible
      reason: ""
      build: 6.1.0-55-cloud-amd64
      version: ""
      files: [/lib/modules/6.1.0-56-cloud-amd64/weak-updates/dmy/dummy.ko]
      linked: true
      override: true
unserved:
  description:
    - The kernels that get no build, oldest first. Those of the chosen ones, and others that boots are
      expected to start.
    - Each has its C(kernel), a C(verdict) with a C(reason) (V(null) if it was not chosen), and in C(boots)
      why it is expected to be started,
      as the V(running) one, the V(newest) or the boot loader's V(default).
    - They are a warning, too.
  returned: success
  type: list
  elements: dict
  sample:
    - kernel: 6.1.0-53-cloud-amd64
      boots: [default]
      verdict: incompatible
      reason: the version of module_layout differs
other_drivers:
  description:
    - The drivers that are there where there is nothing of the one that is to be removed. It may be one of
      them that was meant.
    - They are a warning, too.
  returned: success
  type: list
  elements: str
  sample: []
healed:
  description: The links that led nowhere and were not the driver's own. Empty unless O(heal=true).
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Path of the link.
      type: str
    before:
      description: Where it led to.
      type: str
    after:
      description: Where it leads to now, V(null) if it was removed.
      type: str
  sample:
    - path: /lib/modules/5.14.0-1/weak-updates/other/other.ko
      before: /lib/modules/gone/extra/other/other.ko
      after: ../../../5.14.0-2/extra/other/other.ko
left:
  description:
    - Files that lie where ours was to be removed, and are not what was put there. They are somebody else's
      now, and stay.
  returned: success
  type: list
  elements: str
  sample: []
ahead:
  description: Kernels that are held on the driver's account (M(outoftree.kmod.kmod_hold)) and that a build is
    stored for now. They are released by that.
  returned: success
  type: list
  elements: str
  sample: []
reboot_needed:
  description: Whether the running kernel has other modules loaded than those that it is given now, and a
    reboot changes that.
  returned: success
  type: bool
  sample: false
held_back_by:
  description:
    - The initramfs image of the default boot entry, where it is the reason why the running kernel has other
      modules loaded. It has copies of its
      own, which the next boot would load again.
    - A variant of it (M(outoftree.kmod.initrd_variant)) with a boot entry (M(outoftree.kmod.grub_entry))
      helps.
  returned: success
  type: str
  sample: /boot/initramfs-5.14.0-503.11.1.el9_5.x86_64.img
signer:
  description: Who signed O(checksums), as the tool that checked O(signature) names them.
  returned: O(signature) given
  type: str
  sample: Vendor Releases <release@vendor.example> (6F2A0E8F5A4B3C2D1E0F9A8B7C6D5E4F3A2B1C0D)
code:
  description: A stable code for the reason of the failure. See docs/codes.md of the collection.
  returned: failure
  type: str
  sample: MODULE_OF_OTHER_DRIVER
"""
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            driver=dict(type="str", required=True),
            path=dict(type="list", elements="path"),
            src=dict(type="list", elements="path"),
            _described=dict(type="list", elements="dict"),
            checksums=dict(type="path"),
            signature=dict(type="path"),
            keyring=dict(type="path"),
            _files=dict(type="dict"),
            kernels=dict(type="list", elements="str", default=["all"]),
            state=dict(type="str", choices=["present", "absent"], default="present"),
            version=dict(type="str"),
            build=dict(type="str"),
            load=dict(type="bool", default=False),
            heal=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    task.run(module, link)


if __name__ == "__main__":
    main()
