#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: grub_entry
short_description: Add boot entries for a kernel with an initramfs variant
version_added: 1.0.0
description:
  - Adds a boot entry for each kernel that has an initramfs variant with the driver, or removes them. An entry
    is a copy of the
    one that the distribution ships for that kernel, with another title, the variant in place of the shipped
    image, and arguments
    appended.
  - The shipped entries, the boot loader's configuration and the default stay as they are, unless O(boot) asks
    for another
    default. The module checks that on the menu that would result, before it writes anything.
  - Under GRUB 2 the entries go into C(custom.cfg) beside C(grub.cfg), between marks. Where entries are files
    of their own
    (Boot Loader Specification), each is a file named like the shipped one with C(~) and the driver, a name
    that never sorts before it.
    Under GRUB legacy and extlinux they go to the end of the menu.
  - Entries that are not made by this module are left alone.
options:
  driver:
    description:
      - Name of the driver, or of several that one variant holds. They tell whose an entry is, and are the first thing that its
        title says.
      - A trial of an entry with several drivers went well if each of them has proved itself.
      - Where there is an entry with more drivers than those that are named, and none with these alone, it is that one which is
        meant. V(absent) removes all entries with any of them.
    type: list
    elements: str
    required: true
  state:
    description:
      - Whether the entries are there.
      - V(possible) only sees whether there can be entries for O(kernels), before there are variants of their
        images. Nothing is changed, and what is
        refused is refused for the same reasons as it would be later.
    type: str
    choices: [present, absent, possible]
    default: present
  kernels:
    description:
      - Releases of the kernels to add or remove entries for.
      - By default these are all kernels that have an initramfs variant with the driver, as
        M(outoftree.kmod.initrd_variant) makes it.
        Entries of the driver whose kernel is gone are removed then.
    type: list
    elements: str
    default: []
  initrd:
    description:
      - The images to load in place of the shipped one, for the single kernel in O(kernels). They lie in the
        directory of the shipped one.
      - By default the initramfs variant with the driver.
      - They are looked at as a whole, as a variant is, before anything is planned. Damaged ones are refused
        (C(VARIANT_DAMAGED)).
    type: list
    elements: path
  boot:
    description:
      - What the next boots start. V(none) leaves that as it is.
      - V(once) has the next boot alone start the new entry. After that the machine is back on its default,
        whether the trial went well or not.
        Nothing is done where the running system was started with these images and arguments and has loaded
        the driver, or where their trial went
        well before.
      - A trial that failed is not repeated. The module fails with the code C(TRIAL_FAILED) until the images
        or O(args) change, or the entry
        has been removed by O(state=absent). What was tried is remembered in a comment beside the entry.
      - V(default) makes it the default. The old one is remembered and comes back with O(state=absent).
      - V(shipped) restores the old default, and gives up a trial that has not begun. The entries stay.
      - V(once) and V(default) are about the kernel that boots start, that of the default entry, else the
        newest in the menu. If that one has no whole
        variant with the driver, it is an error (C(VARIANT_MISSING), C(VARIANT_DAMAGED)); another kernel is
        only meant where O(kernels) names it.
      - V(default) is refused where the trial failed. A variant that is whole and stale (the shipped image was
        made again) stays what it is, but is
        not tried or made the default (C(VARIANT_STALE)).
    type: str
    choices: [none, once, default, shipped]
    default: none
  args:
    description: Arguments for the kernel's command line, added behind those of the shipped entry, in front of
      what a C(--) leaves to init.
    type: str
    default: ''
  fallback_args:
    description:
      - Arguments that have the machine reboot by itself when the kernel or the initramfs fails, instead of
        waiting for somebody at the console.
      - V(auto) stands for C(panic=10 oops=panic rd.shell=0 rd.emergency=reboot) as long as the entry is not
        the default. The default behaves as the
        shipped entry does. What is given here instead stays in any case.
    type: str
    default: auto
  loader:
    description: The boot loader, where it is not the one that the host's files show.
    type: str
    choices: [auto, grub2, bls, systemd-boot, grub-legacy, extlinux]
    default: auto
  copy_of:
    description: Id or title of the entry to copy, needed where a kernel has several that differ. The id is
      what the error C(ENTRY_AMBIGUOUS) quotes.
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

- name: Restore the old default, and keep the entries
  outoftree.kmod.grub_entry:
    driver: 3w-9xxx
    boot: shipped

- name: Remove the entries, and restore the old default
  outoftree.kmod.grub_entry:
    driver: 3w-9xxx
    state: absent
"""

RETURN = r"""
loader:
  description: The boot loader. One of C(grub2), C(bls) (GRUB 2 with entries in files), C(systemd-boot),
    C(grub-legacy) and C(extlinux).
      C(none) where there is none to remove entries from.
  returned: success
  type: str
  sample: bls
config:
  description: Its configuration file.
  returned: success
  type: str
  sample: /boot/grub2/grub.cfg
kernels:
  description: One row for each entry that is there, or that is removed.
  returned: success
  type: list
  elements: dict
  contains:
    kernel:
      description: Release of the kernel.
      type: str
      returned: always
      sample: 5.14.0-503.11.1.el9_5.x86_64
    drivers:
      description: The drivers that it is for.
      type: list
      elements: str
      returned: always
      sample: [vendor]
    id:
      description: What the boot loader knows the entry by. Under GRUB legacy this is its number.
      type: str
      returned: always
      sample: 5f3c9d0e-5.14.0-503.11.1.el9_5.x86_64~vendor
    title:
      description: What the boot menu shows.
      type: str
      returned: always
      sample: 'With driver vendor: Rocky Linux (5.14.0-503.11.1.el9_5.x86_64) 9.5 (Blue Onyx)'
    path:
      description: The file that the entry is written in.
      type: str
      returned: always
      sample: /boot/loader/entries/5f3c9d0e-5.14.0-503.11.1.el9_5.x86_64~vendor.conf
    state:
      description: Whether it is V(present) or V(absent).
      type: str
      returned: always
      sample: present
    changed:
      description: Whether it was added, changed or removed.
      type: bool
      returned: always
      sample: true
    initrd:
      description: The images that it loads, as the boot loader sees them.
      type: list
      elements: str
      returned: O(state=present)
      sample: [/initramfs-5.14.0-503.11.1.el9_5.x86_64.img.1, $tuned_initrd]
    args:
      description: The arguments appended to those of the shipped entry.
      type: str
      returned: O(state=present)
      sample: outoftree.kmod=vendor outoftree.kmod.id=3f1c0a9be27d panic=10 oops=panic rd.shell=0
        rd.emergency=reboot
    default:
      description: Whether it is the default.
      type: bool
      returned: O(state=present)
      sample: false
    next:
      description: Whether the next boot alone starts it.
      type: bool
      returned: O(state=present)
      sample: true
    trial:
      description:
        - How the trial of these images went that O(boot=once) asked for. V(none) where it did not, V(pending)
          before that boot, V(passed) where the
          host was seen running the driver after it, V(failed) where it was not.
      type: str
      returned: O(state=present)
      sample: pending
msg:
  description: The outcome in one sentence. It names the drivers that have entries where O(driver) has none.
  returned: success
  type: str
  sample: The next boot alone tries vendor on 6.1.0-56-cloud-amd64; reboot for that.
trial:
  description: The first of V(pending), V(failed), V(idle) and V(passed) that the trial of a kernel is in,
    else V(none).
  returned: success
  type: str
  sample: pending
pending:
  description: Releases of the kernels whose trial is to begin at the next boot.
  returned: success
  type: list
  elements: str
  sample: [6.1.0-56-cloud-amd64]
trials:
  description: Releases of the kernels by the state that their trial is in, under C(pending), C(failed),
    C(idle) and C(passed).
  returned: success
  type: dict
  sample: {pending: [6.1.0-56-cloud-amd64], failed: [], idle: [], passed: []}
promote:
  description: Whether a trial went well and none waits for the next boot, so that O(boot=default) makes the
    default what has proved itself.
  returned: success
  type: bool
  sample: false
reboot_needed:
  description: Whether a trial waits for the next boot.
  returned: success
  type: bool
  sample: true
default:
  description: The id of the default entry. None where it is the entry that was started last.
  returned: success
  type: str
  sample: 5f3c9d0e-5.14.0-503.11.1.el9_5.x86_64
next:
  description: The id of the entry that the next boot alone starts.
  returned: success
  type: str
  sample: 5f3c9d0e-5.14.0-503.11.1.el9_5.x86_64~vendor
other_drivers:
  description: The drivers that are there where there is nothing of the one that is named. It may be one of
    them that was meant. A warning, too.
  returned: success
  type: list
  elements: str
  sample: []
running:
  description: What the running system shows of the driver, to tell how a trial went.
  returned: success
  type: dict
  contains:
    booted:
      description: Release of the running kernel if it was started by the driver's entry for it, with the
        images and arguments that this has now.
      type: str
      returned: always
      sample: 6.1.0-56-cloud-amd64
    loaded:
      description:
        - For each module of the driver, whether V(this) very module is loaded, an V(other) one of its name,
          V(no) one,
          or one that shows nothing to tell it by (V(unknown)). V(coming) or V(going) is one that is on its
          way in or out, or has crashed there.
      type: dict
      returned: always
      sample: {ootedu: this, ootedu_user: 'no'}
    initramfs:
      description:
        - Whether the variant was unpacked at boot, by what it leaves in C(/run/outoftree.kmod.variant). None
          where the entry did not start the
          system, or starts a variant that promises no such thing.
      type: bool
      returned: always
      sample: true
    verified:
      description:
        - Whether an entry of the driver started the system, the modules that are loaded, one at least, are
          those deployed, and the variant was
          unpacked.
      type: bool
      returned: always
      sample: true
    verdict:
      description:
        - What came of the boot in a word. V(none) if no entry of the driver, as it is now, started the system. V(well) if
          it came up with the deployed modules,
          V(idle) if it came up and no device asks for one, V(unloaded) if one does and none is loaded,
          V(other) if another module is,
          V(unknown) if that cannot be told, V(stuck) if a module is on its way in or out or has crashed
          there, and V(image) if the kernel was
          started with another initramfs, or without one.
      type: str
      returned: always
      sample: well
    message:
      description: What came of the boot in a sentence.
      type: str
      returned: always
      sample: The host came up with the entry of ootedu for 6.1.0-56-cloud-amd64 and has loaded ootedu as
        deployed.
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import entry


def main():
    module = AnsibleModule(
        argument_spec=dict(
            driver=dict(type="list", elements="str", required=True),
            state=dict(type="str", choices=["present", "absent", "possible"], default="present"),
            kernels=dict(type="list", elements="str", default=[]),
            initrd=dict(type="list", elements="path"),
            boot=dict(type="str", choices=["none", "once", "default", "shipped"], default="none"),
            args=dict(type="str", default=""),
            fallback_args=dict(type="str", default="auto"),
            loader=dict(
                type="str",
                choices=["auto", "grub2", "bls", "systemd-boot", "grub-legacy", "extlinux"],
                default="auto",
            ),
            copy_of=dict(type="str"),
            root=dict(type="path", default="/"),
        ),
        supports_check_mode=True,
    )
    task.run(module, entry)


if __name__ == "__main__":
    main()
