#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_info
short_description: Say which out-of-tree drivers are on a host, and which kernels use what of them
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Reads the drivers that M(outoftree.kmod.kmod_link) has stored, with their versions and builds, and for
    each installed kernel
    the out-of-tree modules that C(modprobe) would load, the links in its C(weak-updates), and of the running
    kernel what is loaded now.
    Also the initramfs variants and boot entries with the drivers, what is left over of kernels that are
    gone, and how new kernels get them.
options:
  drivers:
    description: Only these drivers, by default all that are stored. One that is not there at all is an error.
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

- name: Restart a service where the running kernel uses the driver
  ansible.builtin.service:
    name: acquisition
    state: restarted
  when: ansible_facts.kmod.drivers.mydriver.running | default(false)

- name: Fail if the running kernel still has an older module loaded
  ansible.builtin.assert:
    that: there.kernels | map(attribute='modules') | flatten | selectattr('loaded', 'eq', 'other') | length == 0
"""

RETURN = r"""
msg:
  description: One line. How many kernels use each driver.
  returned: success
  type: str
  sample: "dmy: 2 of 3 kernels use it"
ansible_facts:
  description: What plays decide by, as C(ansible_facts.kmod). Not where O(drivers) names some.
  returned: success
  type: dict
  contains:
    kmod:
      description:
        - In C(drivers) for each driver its C(version), the installed C(kernels) that use it, whether the running one does (C(running), V(null)
          for a machine that does not run), and whether new kernels get it (C(follows)).
        - In C(kernels) the installed kernels, oldest first.
      type: dict
  sample:
    kmod:
      drivers:
        dmy: {version: "1.0", kernels: [6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64], running: true, follows: false}
      kernels: [6.1.0-53-cloud-amd64, 6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64]
summary:
  description:
    - All of it as a text to read. On a host without drivers it is one line.
    - On the command line of C(ansible), without C(-v), C(-o) and C(--tree), this is a list of its lines, and all that is answered besides RV(msg) and
      C(ansible_facts).
  returned: success
  type: str
  sample: |-
    dmy (no version) for 6.1.0-55-cloud-amd64: used by 6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64
    6.1.0-53-cloud-amd64: dummy from kernel/drivers/net
    6.1.0-55-cloud-amd64: dummy from extra/dmy
    6.1.0-56-cloud-amd64: dummy from weak-updates/dmy
drivers:
  description: The drivers that are stored.
  returned: success
  type: list
  elements: dict
  contains:
    driver:
      description: Name of the driver.
      type: str
    builds:
      description: Its builds.
      type: list
      elements: dict
      contains:
        build:
          description: The kernel release that it was made for.
          type: str
        version:
          description: Version of the driver.
          type: str
        path:
          description: Where it is stored.
          type: str
        whole:
          description: Whether all of its files are there.
          type: bool
        kernels:
          description: The installed kernels that use it.
          type: list
          elements: str
        modules:
          description:
            - Its modules, each with C(name), C(path), C(sha256), C(srcversion) and C(signature).
            - C(signature) is V(signed), V(unsigned) or V(damaged). Whether a kernel accepts it is not looked
              at.
          type: list
          elements: dict
    loading:
      description: Its files in modprobe.d and modules-load.d, see M(outoftree.kmod.kmod_deploy).
      type: list
      elements: str
  sample:
    - driver: dmy
      loading: []
      builds:
        - build: 6.1.0-55-cloud-amd64
          version: ""
          path: /lib/modules/6.1.0-55-cloud-amd64/extra/dmy
          whole: true
          kernels: [6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64]
          modules:
            - name: dummy
              path: /lib/modules/6.1.0-55-cloud-amd64/extra/dmy/dummy.ko
              sha256: 64ca0a334020ce9a27e0ec632eaa0f9ec8c02ef3fdceb6220e75feddedd86481
              srcversion: null
              signature: signed
kernels:
  description: The installed kernels, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    kernel:
      description: Release of the kernel.
      type: str
    running:
      description: Whether it is the one that runs.
      type: bool
    modules:
      description:
        - The modules of the drivers, and all others that C(modprobe) would load from C(extra), C(updates) or
          C(weak-updates).
        - Each with its C(name), the C(path) of the file that C(modprobe) would load for it, if there is any,
          the C(sha256) of that, uncompressed,
          and an C(error) if it cannot be read.
        - C(loaded) is V(null) unless the kernel runs. Otherwise V(no), V(this) if that very file is loaded,
          V(other) if another one is,
          V(unknown) if the module has nothing to tell it by, V(coming) or V(going) if it is on its way in or
          out, or has crashed there.
      type: list
      elements: dict
    links:
      description: The links in C(weak-updates), each with C(path), C(target), C(ours) and C(dangling).
      type: list
      elements: dict
    images:
      description:
        - Its initramfs images, the shipped one first, each with C(path), an C(error) if it cannot be read,
          and in C(copies) those of the modules
          that are in it. C(current) says whether a copy is the file that the kernel's tree has, C(used) whether
          the image's own C(modprobe) would load it; a variant has the copy of the shipped image, too.
      type: list
      elements: dict
  sample:
    - kernel: 6.1.0-56-cloud-amd64
      running: false
      modules:
        - name: dummy
          path: /lib/modules/6.1.0-56-cloud-amd64/weak-updates/dmy/dummy.ko
          sha256: 64ca0a334020ce9a27e0ec632eaa0f9ec8c02ef3fdceb6220e75feddedd86481
          loaded: null
          error: null
      links:
        - path: /lib/modules/6.1.0-56-cloud-amd64/weak-updates/dmy/dummy.ko
          target: ../../../6.1.0-55-cloud-amd64/extra/dmy/dummy.ko
          ours: true
          dangling: false
      images: []
variants:
  description: The initramfs variants with the drivers.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The image.
      type: str
    kernel:
      description: Release of its kernel.
      type: str
    drivers:
      description: The drivers in it.
      type: list
      elements: str
    method:
      description: How it was made, see M(outoftree.kmod.initrd_variant).
      type: str
    size:
      description: Its size in bytes.
      type: int
    state:
      description: V(current), V(stale) if the shipped image was made again since, V(damaged), V(foreign) if
        somebody else's file is in its place now,
        or V(gone) if its kernel is.
      type: str
  sample:
    - path: /boot/initrd.img-6.1.0-56-cloud-amd64.1
      kernel: 6.1.0-56-cloud-amd64
      drivers: [dmy]
      method: overlay
      size: 34603008
      state: current
entries:
  description: The boot entries of the drivers.
  returned: success
  type: list
  elements: dict
  contains:
    driver:
      description: Name of the driver; of several, with commas between them.
      type: str
    drivers:
      description: The drivers that it is for.
      type: list
      elements: str
    kernel:
      description: Release of the kernel.
      type: str
    id:
      description: Its name in the boot loader's configuration.
      type: str
    title:
      description: What the menu shows.
      type: str
    path:
      description: The file that it is written in.
      type: str
    default:
      description: Whether it is what boots start.
      type: bool
    once:
      description: Whether the next boot alone starts it.
      type: bool
    starts:
      description: Its kernel and images, as the boot loader sees them.
      type: list
      elements: str
    missing:
      description: Those of them that are not there.
      type: list
      elements: str
  sample:
    - driver: dmy
      drivers: [dmy]
      kernel: 6.1.0-56-cloud-amd64
      id: outoftree-dmy-6.1.0-56-cloud-amd64
      title: "With driver dmy: Debian GNU/Linux, with Linux 6.1.0-56-cloud-amd64"
      path: /boot/grub/custom.cfg
      default: false
      once: true
      starts: [/boot/vmlinuz-6.1.0-56-cloud-amd64, /boot/initrd.img-6.1.0-56-cloud-amd64.1]
      missing: []
orphans:
  description: >-
    What is left of kernels or drivers that are gone, or starts what is gone. Each with its C(kind) (V(variant), V(entry),
    V(link) or V(loading)), C(path), C(kernel)
    and, for images, C(size) in bytes.
  returned: success
  type: list
  elements: dict
  sample: []
following:
  description:
    - How the host follows new kernels (M(outoftree.kmod.kmod_follow)), V(null) where it does not.
    - C(drivers) has for each driver the options that it was given.
      C(lacking) has for each driver the kernels that take no build of it, as they were found last, each with
      C(kernel), C(boots) and C(reason).
    - C(kept) is the kernel that boots are kept on, C(problems) what could not be done, C(pending) what hooks
      have left for later, C(leaked) the files of others' that hold arguments of our entries, C(rewritten) the
      entries of ours that others have written anew, C(error) why the settings cannot be read, if they cannot.
  returned: success
  type: dict
  sample:
    drivers: {dmy: {kernels: [all], boot: default, keep_default: true}}
    lacking: {dmy: [{kernel: 6.12.117+deb12-cloud-amd64, boots: [newest], reason: "symbol put_page has another CRC"}]}
    kept: 6.1.0-56-cloud-amd64
    problems: []
    pending: []
    leaked: []
    rewritten: []
    error: ""
held:
  description: >-
    What is kept from changing, each with C(what) (V(kernel) that is not to be installed, or V(default)), its
    C(kernel), the drivers (C(driver)) on whose account, and the C(reason).
  returned: success
  type: list
  elements: dict
  sample: []
code:
  description: A stable code for the reason of the failure. See docs/codes.md of the collection.
  returned: failure
  type: str
  sample: PATH_MISSING
"""
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import status


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            drivers=dict(type="list", elements="str", default=[]),
        ),
        supports_check_mode=True,
    )
    task.run(module, status)


if __name__ == "__main__":
    main()
