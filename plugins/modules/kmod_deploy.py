#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_deploy
short_description: Bring the out-of-tree drivers of a host to what is wanted of them
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Does in one task, for any number of drivers, what M(outoftree.kmod.kmod_link), M(outoftree.kmod.initrd_variant),
    M(outoftree.kmod.grub_entry) and M(outoftree.kmod.kmod_follow) do one by one.
  - Every driver is judged and everything is looked at before anything is written. What can be refused is refused then.
  - On a host where all is as it is wanted this is one look, which writes nothing and sends nothing. What it rested on is kept in
    C(/var/cache/outoftree.kmod), so that the same task looks no more than whether any of that was touched, until the next boot and for a day at most.
  - Drivers are brought there in the order in which they are listed. One that needs symbols of another comes after it.
  - The drivers that want an initramfs variant and a boot entry have one of each together for every kernel, with those of them that it takes.
    They are tried together, and the entry becomes the default when each of them has proved itself.
  - In check mode all of it is planned, one step of what would be there after those before it. The modules that the host lacks are sent
    to Ansible's temporary directory for that. Of a variant that the distribution's own tool builds (O(drivers[].method=rebuild)) nothing
    is known before it is there; that is said in RV(drivers[].notes).
  - The role C(outoftree.kmod.deploy) is this module, and reboots where that is asked for.
options:
  drivers:
    description: The drivers, and what is wanted of each.
    type: list
    elements: dict
    required: true
    suboptions:
      driver:
        description: Name of the driver. Its modules are kept, judged and removed together under this name.
        type: str
        required: true
      state:
        description: Whether the driver is there, or nothing of it.
        type: str
        choices: [present, absent]
        default: present
      src:
        description:
          - The modules on the controller, as in M(outoftree.kmod.kmod_link). Without it and O(drivers[].path) those that are stored
            on the host are used.
        type: list
        elements: path
      path:
        description: The modules on the host, inside O(root), as in M(outoftree.kmod.kmod_link).
        type: list
        elements: path
      checksums:
        description: A list of SHA-256 checksums on the controller, in which every file of O(drivers[].src) has to be.
        type: path
      signature:
        description: A detached signature of O(drivers[].checksums), on the controller.
        type: path
      keyring:
        description: Who may sign O(drivers[].checksums). A file on the controller.
        type: path
      kernels:
        description: The kernels to serve, as releases or patterns of them, or V(all), V(running), V(newest).
        type: list
        elements: str
        default: [all]
      version:
        description:
          - The version of the driver that is wanted, as C(modinfo) shows it. Builds of other versions are not used, and go.
          - By default it is the newest that is given or stored. Where that is newer than what was given, RV(drivers[].notes) says so.
        type: str
        default: ""
        version_added: 1.1.0
      require:
        description:
          - Refuse, before anything of this driver is written, unless V(all) or V(any) of O(drivers[].kernels) take it, or those that boots are
            expected to start (V(booting)).
        type: str
        choices: [all, any, booting, none]
        default: any
      load:
        description: Load the modules into the running kernel now, too, where that can be done.
        type: bool
        default: false
      initrd:
        description: Whether the kernels that take it get an initramfs variant with it.
        type: bool
        default: true
      method:
        description: How variants are made.
        type: str
        choices: [auto, overlay, segment, rebuild]
        default: auto
      early_load:
        description: Load the driver at the very start of the initramfs, whether a device asks for it or not.
        type: bool
        default: false
      ignore_tpm:
        description: Go on where a TPM opens an encrypted disk only as long as the initramfs stays the same.
        type: bool
        default: false
      entry:
        description: Whether each variant gets a boot entry. Without O(drivers[].initrd) there is none.
        type: bool
        default: true
      args:
        description: Arguments for the kernel's command line, appended to those of the shipped entry.
        type: str
        default: ""
      fallback_args:
        description: Arguments that have a host reboot by itself when a trial fails, as in M(outoftree.kmod.grub_entry).
        type: str
        default: auto
      loader:
        description: The boot loader, where it is not the one that the host's files show.
        type: str
        choices: [auto, grub2, bls, systemd-boot, grub-legacy, extlinux]
        default: auto
      copy_of:
        description: Title or id of the shipped entry to copy, where a kernel has several that differ.
        type: str
      boot:
        description:
          - What the next boots start. V(none) leaves that as it is, V(once) tries the new entry on the next boot alone, V(default) makes it
            the default once such a trial went well, which takes a reboot and another run.
          - The drivers of a host that have boot entries have one together, and are tried together. What one of them asks for is
            what is done; V(once) and V(default) at a time are refused.
          - On a machine that does not run (O(root)) nothing is tried.
        type: str
        choices: [none, once, default]
        default: none
      follow:
        description: Whether kernels that are installed later get the driver by themselves, as in M(outoftree.kmod.kmod_follow).
        type: bool
        default: false
      keep_default:
        description:
          - With O(drivers[].follow=true), keep the default on the newest kernel that takes the driver while the one that boots would start
            takes none of its builds.
        type: bool
        default: false
      ahead:
        description:
          - Kernel releases whose builds are stored on the host although it has no such kernel yet. A kernel that arrives, and takes one of
            them, finds it there. The role C(outoftree.kmod.rebuild) fills it in.
        type: list
        elements: str
        default: []
      options:
        description:
          - Parameters that the driver's modules are loaded with, now and by the initramfs variants. A dictionary of its modules, each
            with a dictionary of parameters and values. A list is written with commas.
          - A parameter that a module does not have, by the build that a kernel gets, is an error (C(PARAMETER_UNKNOWN)) that lists those it
            has, and so is a value that does not fit its type (C(PARAMETER_VALUE)).
          - O(drivers[].options), O(drivers[].blacklist) and O(drivers[].softdep) are one file, C(/etc/modprobe.d/outoftree.kmod-DRIVER.conf),
            which goes when they are left out, and with the driver.
        type: dict
        default: {}
      blacklist:
        description:
          - Modules that no device has loaded any more, such as the kernel's own for the same devices. They can still be loaded by name.
          - modprobe.d holds for all kernels of a host. Where one gets no build of the driver, nothing may be left for the device there, and
            RV(drivers[].notes) says so.
        type: list
        elements: str
        default: []
      softdep:
        description:
          - What C(modprobe) loads before (C(pre)) and after (C(post)) a module of the driver, where it is there. A dictionary of its modules,
            each with a dictionary of C(pre) and C(post), which are lists of modules.
          - A module that a kernel with the driver does not have is an error (C(SOFTDEP_MISSING)).
        type: dict
        default: {}
      load_at_boot:
        description:
          - Load the driver's modules at each boot, whether a device asks for them or not, by C(/etc/modules-load.d/outoftree.kmod-DRIVER.conf).
          - That is once the root file system is there. O(drivers[].early_load) does it in the initramfs.
        type: bool
        default: false
      _described:
        description: Set by the collection's action plugin, not by playbooks. The modules of the files on the controller, as plain data.
        type: list
        elements: dict
  exclusive:
    description:
      - Whether drivers that the host has and that are not in O(drivers) are removed. Otherwise they are in RV(unlisted).
    type: bool
    default: false
  weak_modules:
    description: What becomes of the distribution's script, as in M(outoftree.kmod.kmod_follow).
    type: str
    choices: [leave, divert]
    default: leave
  _beside:
    description: Set by the role C(deploy), not by playbooks. A driver that is named beside the list, which is refused.
    type: str
  _files:
    description: Set by the collection's action plugin, not by playbooks. Where files of the controller lie on the host, once they are sent.
    type: dict
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
"""

EXAMPLES = r"""
- name: Have two drivers on every kernel that takes them
  outoftree.kmod.kmod_deploy:
    drivers:
      - driver: mydriver
        src: builds/mydriver
        follow: true
      - driver: monitor
        src: builds/monitor
        initrd: false

- name: Load a driver with parameters, in the place of the kernel's own
  outoftree.kmod.kmod_deploy:
    drivers:
      - driver: mydriver
        src: builds/mydriver
        options:
          mydriver: {queues: 4, mode: fast, irqs: [10, 11]}
        blacklist: [in_tree_driver]
        load_at_boot: true

- name: Have these drivers and no others
  outoftree.kmod.kmod_deploy:
    drivers:
      - driver: mydriver
        src: builds/mydriver
    exclusive: true

- name: Remove a driver, whatever there is of it
  outoftree.kmod.kmod_deploy:
    drivers:
      - driver: mydriver
        state: absent
"""

RETURN = r"""
msg:
  description: The outcome in one line.
  returned: always
  type: str
  sample: "mydriver: 2 of 2 kernels use it"
summary:
  description:
    - What was done about each driver, and what has to be known of it, as a text to read.
    - On the command line of C(ansible), without C(-v), C(-o) and C(--tree), this is a list of its lines, and all that is answered besides RV(msg) and
      RV(reboot_needed).
  returned: success
  type: str
  sample: "mydriver: 2 of 2 kernels use it; changed: link, variant, entry"
drivers:
  description: What became of each driver, the removed ones first.
  returned: success
  type: list
  elements: dict
  contains:
    driver:
      description: Name of the driver.
      type: str
    state:
      description: V(present) or V(absent).
      type: str
    changed:
      description: Which of V(link), V(loading), V(variant), V(entry) and V(follow) changed something.
      type: list
      elements: str
    trial:
      description: The kernels that the next boot alone tries the driver on.
      type: list
      elements: str
    reboot_needed:
      description: Whether a reboot is needed for the driver to be used, and helps.
      type: bool
    notes:
      description: What a person has to know, in sentences.
      type: list
      elements: str
    link:
      description: The answer of M(outoftree.kmod.kmod_link).
      type: dict
    loading:
      description: The C(files) in modprobe.d and modules-load.d, a list.
      type: dict
    variant:
      description: The answer of M(outoftree.kmod.initrd_variant); V(null) without O(drivers[].initrd).
      type: dict
    entry:
      description: The answer of M(outoftree.kmod.grub_entry); V(null) without O(drivers[].entry).
      type: dict
    follow:
      description: The answer of M(outoftree.kmod.kmod_follow).
      type: dict
unlisted:
  description: The drivers that the host has and that are not in O(drivers).
  returned: success
  type: list
  elements: str
  sample: []
reboot_needed:
  description: Whether a reboot is needed for one of the drivers.
  returned: success
  type: bool
  sample: false
signer:
  description: Who signed the checksums.
  returned: O(drivers[].signature) given
  type: str
  sample: Vendor Releases <release@vendor.example> (6F2A0E8F5A4B3C2D1E0F9A8B7C6D5E4F3A2B1C0D)
code:
  description: A stable code for the reason of the failure. See docs/codes.md of the collection.
  returned: failure
  type: str
  sample: REQUIRE_UNMET
"""
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task

DRIVER = dict(
    driver=dict(type="str", required=True),
    state=dict(type="str", choices=["present", "absent"], default="present"),
    src=dict(type="list", elements="path"),
    path=dict(type="list", elements="path"),
    checksums=dict(type="path"),
    signature=dict(type="path"),
    keyring=dict(type="path"),
    kernels=dict(type="list", elements="str", default=["all"]),
    version=dict(type="str", default=""),
    require=dict(type="str", choices=["all", "any", "booting", "none"], default="any"),
    load=dict(type="bool", default=False),
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
    copy_of=dict(type="str"),
    boot=dict(type="str", choices=["none", "once", "default"], default="none"),
    follow=dict(type="bool", default=False),
    keep_default=dict(type="bool", default=False),
    ahead=dict(type="list", elements="str", default=[]),
    options=dict(type="dict", default={}),
    blacklist=dict(type="list", elements="str", default=[]),
    softdep=dict(type="dict", default={}),
    load_at_boot=dict(type="bool", default=False),
    _described=dict(type="list", elements="dict"),
)


def command():
    """All that looks and changes, which takes longer to import than a settled host takes to answer."""
    from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy

    return deploy


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            drivers=dict(type="list", elements="dict", options=DRIVER, required=True),
            exclusive=dict(type="bool", default=False),
            weak_modules=dict(type="str", choices=["leave", "divert"], default="leave"),
            _files=dict(type="dict"),
            _kmodctl=dict(type="path"),
            _sources=dict(type="str"),
            _beside=dict(type="str"),
        ),
        supports_check_mode=True,
    )
    task.run_unless_settled(module, command, getattr(__loader__, "archive", None))


if __name__ == "__main__":
    main()
