#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: initrd_variant
short_description: Put a driver into a variant of each kernel's initramfs
version_added: 1.0.0
author:
  - Contributors to the outoftree.kmod project (@outoftree)
description:
  - Makes a new file beside the initramfs image that the distribution ships for a kernel, named as that with
    C(.) and the smallest
    free number, which holds all of the shipped image and the driver. The shipped image is never written.
  - A variant is verified before it gets its name. It is unpacked by the kernel's own rules, everything that
    the shipped image has must
    still be in it, the driver's modules must be those that were asked for, and no other copy of them may win.
  - When the distribution makes its image again, the variant is out of date. The next run makes it again,
    under the same number.
  - A variant is used by a boot entry only, see M(outoftree.kmod.grub_entry). Where boots start one that is to
    be made again, the old
    default is restored first, since the new one was never tried.
  - The driver's modules are judged together with those that the variant has for them. What the kernel would
    not load out of it is refused.
  - Beside each variant lies a small hidden file. It says that this is a variant where the variant is too
    damaged to say so itself.
options:
  driver:
    description:
      - Name of the driver, or of several drivers that are to be in one variant.
      - Variants of other drivers are left alone.
    type: list
    elements: str
    required: true
    aliases: [drivers]
  kernels:
    description:
      - Releases of the kernels to make variants for.
      - By default these are all installed kernels that have the driver, as M(outoftree.kmod.kmod_link) put it
        there. Variants whose
        kernel is no longer installed are then removed.
      - With O(state=absent) the default is all kernels.
    type: list
    elements: str
    default: []
  modules:
    description:
      - Module files on the host, all of the driver, to be used instead of those that the kernel has in the
        driver's directories
        below C(extra), C(weak-updates) or C(updates).
      - Requires O(kernels).
    type: list
    elements: path
    default: []
  method:
    description:
      - V(overlay) appends one archive to a copy of the shipped image. It takes a fraction of a second and
        keeps every byte.
      - V(segment) writes that archive into a file of its own, for boot loaders that load several images one
        after the other (GRUB 2,
        systemd-boot). It needs no room for a copy.
      - V(rebuild) has the distribution's own tool (dracut, for one) build an image with its present
        configuration into the new file. It takes
        as long as that tool does.
      - V(auto) is V(overlay) where an overlay works, which is nearly everywhere, and V(rebuild) elsewhere.
    type: str
    choices: [auto, overlay, segment, rebuild]
    default: auto
  early_load:
    description:
      - Load the driver at the very start of the initramfs. By default udev loads its modules when a device
        asks for them.
    type: bool
    default: false
  ignore_tpm:
    description:
      - Go on where a TPM opens an encrypted disk only as long as the initramfs stays the same. A boot of the
        variant then asks for the
        disk's passphrase.
    type: bool
    default: false
  entries:
    description:
      - What O(state=absent) does about boot entries that start a variant.
      - With V(refuse) it is an error (C(VARIANT_STARTED)) that names them, and nothing is removed.
      - With V(remove) the entries of this collection are removed first, and the old default is restored.
        Entries of others are never touched.
        They are an error, as with V(refuse).
    type: str
    choices: [refuse, remove]
    default: refuse
  state:
    description:
      - Whether the variants are there.
      - V(possible) only sees whether there can be variants for O(kernels), before the driver is linked into
        them. Nothing is changed.
    type: str
    choices: [present, absent, possible]
    default: present
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.change
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_link
  - module: outoftree.kmod.grub_entry
notes:
  - C(lsinitramfs) and C(lsinitrd) show nothing of an appended archive.
"""

EXAMPLES = r"""
- name: A variant with the driver for every kernel that has it
  outoftree.kmod.initrd_variant:
    driver: ootedu

- name: The same for one kernel, with the driver loaded as early as possible
  outoftree.kmod.initrd_variant:
    driver: ootedu
    kernels: [6.1.0-56-cloud-amd64]
    early_load: true

- name: Module files that are not linked into a kernel
  outoftree.kmod.initrd_variant:
    driver: ootedu
    kernels: [6.1.0-56-cloud-amd64]
    modules: [/opt/vendor/ootedu.ko]

- name: Build it with the distribution's own tool
  outoftree.kmod.initrd_variant:
    driver: ootedu
    method: rebuild
  async: 1800
  poll: 10

- name: Remove all variants with the driver
  outoftree.kmod.initrd_variant:
    driver: ootedu
    state: absent

- name: The same, with the boot entries that start them
  outoftree.kmod.initrd_variant:
    driver: ootedu
    state: absent
    entries: remove
"""

RETURN = r"""
msg:
  description: The variants and what is done about each, in a sentence.
  returned: always
  type: str
  sample: "Initramfs variants: /boot/initrd.img-6.1.0-56-cloud-amd64.1 (created)."
variants:
  description: One row for each variant.
  returned: success
  type: list
  elements: dict
  contains:
    kernel:
      description: Release of the kernel.
      type: str
      returned: always
      sample: 6.1.0-56-cloud-amd64
    path:
      description: The variant.
      type: str
      returned: always
      sample: /boot/initrd.img-6.1.0-56-cloud-amd64.1
    status:
      description:
        - What is done about it. One of C(current), C(created), C(replaced), C(removed), C(possible), and
          C(foreign) where somebody else's file
          has taken the place of a variant. That is left alone.
      type: str
      returned: always
      sample: created
    drivers:
      description: The drivers in it.
      type: list
      elements: str
      returned: O(state=present)
      sample: [ootedu]
    base:
      description: The shipped image that it is a variant of.
      type: str
      returned: O(state=present)
      sample: /boot/initrd.img-6.1.0-56-cloud-amd64
    base_sha256:
      description: The SHA-256 digest of that image.
      type: str
      returned: O(state=present)
      sample: f0dd5ae702c819c5923e2290dd899454f258d6ef05fb0c1fde9457eb80a32306
    initrds:
      description: The images that a boot entry has to load, in that order.
      type: list
      elements: str
      returned: O(state=present)
      sample: [/boot/initrd.img-6.1.0-56-cloud-amd64.1]
    method:
      description: How it was made.
      type: str
      returned: O(state=present)
      sample: overlay
    early_load:
      description: Whether the driver is loaded at the very start.
      type: bool
      returned: O(state=present)
      sample: false
    sha256:
      description: The digest of the variant, in check mode that of the file that would be written. Empty for
        a rebuild in check mode.
      type: str
      returned: O(state=present)
      sample: 7b1e808ef0915a3b1769d98c665b807ebd30498150b708ec98e3b0437463f566
    size:
      description: Its size in bytes.
      type: int
      returned: O(state=present)
      sample: 14117888
    bytes_added:
      description: How many of them are not the shipped image.
      type: int
      returned: O(state=present)
      sample: 380078
    modules:
      description: The driver's modules in it, by name, path in the image, digest and version.
      type: list
      elements: dict
      returned: O(state=present)
      sample:
        - name: ootedu
          path: usr/lib/modules/6.1.0-56-cloud-amd64/updates/ootedu.ko
          sha256: 3abaed2d378dd65f0fb48a0c1a6b2bcd31f60ecddf264b15fb21697444c09194
          version: '1.0'
    dependencies:
      description:
        - Modules that the driver depends on and that the shipped image lacks, or has another file of than the
          out-of-tree one that the kernel's
          own tree has (a driver stack that replaces the kernel's).
      type: list
      elements: str
      returned: O(state=present)
      sample: []
    firmware:
      description: Firmware files that the driver names and that the shipped image lacks.
      type: list
      elements: str
      returned: O(state=present)
      sample: []
    firmware_missing:
      description: Firmware files, or patterns for them, that the driver names and that neither the image nor
        the host has.
      type: list
      elements: str
      returned: O(state=present)
      sample: []
    mark:
      description:
        - The line that is found in C(/run/outoftree.kmod.variant) once the variant was booted. Empty where
          the image has no way to write it.
      type: str
      returned: O(state=present)
      sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    phases:
      description: How long the steps of a rebuild took, in seconds.
      type: list
      elements: dict
      returned: when rebuilt
      sample:
        - name: mkinitramfs
          seconds: 4.9
        - name: verify
          seconds: 0.3
given_back:
  description:
    - The entries that boots started until now, and that start a variant which is replaced. The old default is
      restored before that.
    - C(path) is the variant and C(entry) the title of the entry.
  returned: when there are any
  type: list
  elements: dict
  sample:
    - path: /boot/initrd.img-6.1.0-56-cloud-amd64.1
      entry: "With driver ootedu: Debian GNU/Linux"
foreign:
  description: Where a variant was, and somebody else's file is now. It is left alone, and the variant gets
    another number.
  returned: when there are any
  type: list
  elements: str
  sample: [/boot/initrd.img-6.1.0-56-cloud-amd64.1]
pruned:
  description: Variants that are removed because their kernel is no longer installed.
  returned: success
  type: list
  elements: str
  sample: []
other_drivers:
  description: The drivers that are there where there is nothing of the one that is named. It may be one of
    them that was meant. A warning, too.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import variant


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            driver=dict(type="list", elements="str", required=True, aliases=["drivers"]),
            kernels=dict(type="list", elements="str", default=[]),
            modules=dict(type="list", elements="path", default=[]),
            method=dict(type="str", choices=["auto", "overlay", "segment", "rebuild"], default="auto"),
            early_load=dict(type="bool", default=False),
            ignore_tpm=dict(type="bool", default=False),
            entries=dict(type="str", choices=["refuse", "remove"], default="refuse"),
            state=dict(type="str", choices=["present", "absent", "possible"], default="present"),
        ),
        supports_check_mode=True,
    )
    task.run(module, variant)


if __name__ == "__main__":
    main()
