#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_compat
short_description: Say which installed kernels would load an out-of-tree kernel module, and why not
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Judges C(.ko) files against installed kernels by the rules of each kernel's own loader, without loading
    anything, and without
    a C(symvers) file where the distribution ships none.
  - A module may need others that are installed beside the kernel's own (of DKMS, a vendor's package or
    another driver). They are judged, too,
    and provide nothing where the kernel would refuse them.
  - Notes, which change no verdict, say why a module that the kernel takes may still not be loaded. These are
    lines of modprobe.d
    (C(MODPROBE_INSTALL), C(MODPROBE_BLACKLIST), C(MODPROBE_UNSUPPORTED), C(OPTION_UNKNOWN)), a module of the
    kernel's own for the same device
    (C(DEVICE_CLAIMED)) or of the same name (C(NAME_IN_TREE)), and a file whose name is not that of the module
    in it (C(NAME_OF_FILE)).
  - Fails where O(require) is not met, so that it can be used as an assertion. It never changes anything.
  - What a kernel without a C(symvers) exports is read out of its boot image and its modules. That takes
    seconds, so root keeps it below
    C(/var/cache/outoftree.kmod), but not in check mode.
options:
  path:
    description:
      - Modules on the host, inside O(root). C(.ko) files, compressed or not, packages (C(.deb), C(.rpm)) with
        modules in them, or directories
        that are searched for the first or, if they hold none, for the second.
      - The modules given are one driver. They may use each other's symbols.
    type: list
    elements: path
  src:
    description:
      - Modules on the controller, in the forms that O(path) takes. Relative paths are looked up where Ansible looks for files, then in the
        working directory.
      - The files are read there; what they need travels to the host, they themselves do not.
    type: list
    elements: path
  kernels:
    description:
      - The kernels to judge against, as releases or shell patterns of them.
      - V(all) are all that are installed, V(running) is the one that runs, V(newest) the one with the highest
        release.
    type: list
    elements: str
    default: [all]
  require:
    description:
      - When to fail. V(all) unless all the kernels chosen take every module, V(any) unless at least one of
        them takes every module,
        V(none) never.
      - V(booting) unless those take every module that will boot, and they are judged even if O(kernels)
        leaves them out. They are the kernel
        that runs, the newest one, and that of the default boot entry as far as the boot loader's files tell
        it.
      - A verdict of V(unknown) does not count as V(compatible).
      - Where several builds of a module are given, a kernel takes the module if it takes one of its builds.
    type: str
    choices: [all, any, booting, none]
    default: all
  each:
    description: Judge every module on its own, instead of offering all to each other as providers of symbols.
    type: bool
    default: false
  structs:
    description:
      - Also note structures whose layout is not the one that the module was built with, where the module and
        the kernel carry BTF.
      - Such a note (C(STRUCT_CHANGED)) never changes a verdict. The BTF of a module is complete only with
        that of the kernel that it was
        built for, so that kernel must be installed too, unless the module keeps what it needs of it
        (C(.BTF.base), since Linux 6.11).
      - Kernel images have to be unpacked for this, which takes about two seconds for each.
    type: bool
    default: false
  findings:
    description:
      - How findings of one kind in one module are told, such as symbols that differ. V(folded) makes one of them, with
        their C(count). V(all) tells each, with its symbol and both versions.
      - With C(-v) it is V(all), unless it is given.
    type: str
    choices: [folded, all]
    default: folded
  kernel:
    description:
      - Kernels that are not installed, to judge against instead of those that are. Each item names one place
        with one of O(kernel[].package),
        O(kernel[].root) and O(kernel[].symvers), on the host, inside O(root), or with O(kernel[].offered).
      - O(kernels) chooses among them. O(require=booting) has no meaning for them.
      - Nothing is installed or changed. What is needed of packages is unpacked below C(/var/tmp) and removed
        again.
  _described:
    description: Set by the collection's action plugin, not by playbooks. The modules of the files on the controller, as plain data.
    type: list
    elements: dict
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.supply
  - outoftree.kmod.common.kernel
  - outoftree.kmod.common.info
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_link
"""

EXAMPLES = r"""
# ansible all -m outoftree.kmod.kmod_compat -a 'src=builds/mydriver/mydriver.ko'
- name: Fail unless every installed kernel takes the driver
  outoftree.kmod.kmod_compat:
    src: builds/mydriver/mydriver.ko

- name: See whether a kernel that is not installed yet takes the driver
  outoftree.kmod.kmod_compat:
    path: /opt/vendor/modules
    kernel:
      - package: /var/tmp/linux-headers-6.1.0-57-amd64_6.1.195-1_amd64.deb
    require: none
  register: preflight

- name: See what would happen on the newest kernel
  outoftree.kmod.kmod_compat:
    path: /opt/vendor/modules
    kernels: newest
    require: none
  register: verdicts
"""

RETURN = r"""
msg:
  description: One line. How many of the kernels take the driver, and for each that does not, the first
    reason.
  returned: always
  type: str
  sample: "ena: 2 of 3 kernels; 6.1.0-54-cloud-amd64: the version of module_layout differs"
compatible:
  description: Releases of the kernels that take every module, oldest first.
  returned: success or O(require) not met
  type: list
  elements: str
  sample: [6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64]
booting:
  description: Releases of the kernels that will boot, oldest first. See O(require).
  returned: success or O(require) not met
  type: list
  elements: str
  sample: [6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64]
kernels:
  description: Releases of the kernels that were judged, oldest first.
  returned: success or O(require) not met
  type: list
  elements: str
  sample: [6.1.0-54-cloud-amd64, 6.1.0-55-cloud-amd64, 6.1.0-56-cloud-amd64]
checks:
  description: The verdict on each module for each kernel, by module and kernel.
  returned: success or O(require) not met
  type: list
  elements: dict
  contains:
    module:
      description: Path of the file.
      type: str
    name:
      description: The module's name.
      type: str
    kernel:
      description: The kernel's release.
      type: str
    verdict:
      description: V(compatible), V(incompatible) or V(unknown).
      type: str
    errno:
      description: What the kernel's loader would return, for an incompatible module.
      type: str
    findings:
      description: >-
        The reasons, in the loader's order. C(effect) is V(refuse), V(taint), V(unknown) or V(note). C(code)
        is stable (docs/codes.md of the
        collection lists them all), C(message) is for people. C(symbol), C(wanted) (by the module) and
        C(found) (in the kernel) are there where
        they say something. C(count) is there instead of them where several of one kind are told as one, see
        O(findings).
      type: list
      elements: dict
    origin:
      description: The files that the kernel was found in.
      returned: O(kernel) given
      type: list
      elements: str
    lacks:
      description: What cannot be seen of it there. V(modules), V(built-in), V(config), V(vermagic) and
        V(certificates).
      returned: O(kernel) given
      type: list
      elements: str
    exact:
      description:
        - Whether the verdict, and the symbols that are refused, are certain to be the same once the kernel is
          installed.
        - A refusal nearly always is. V(compatible) is where nothing is lacking that could refuse the module.
      returned: O(kernel) given
      type: bool
  sample:
    - module: builds/ena/6.1.0-55-cloud-amd64/ena.ko
      name: ena
      kernel: 6.1.0-54-cloud-amd64
      verdict: incompatible
      errno: ENOEXEC
      findings:
        - code: MODULE_LAYOUT_CRC
          effect: refuse
          message: the version of module_layout differs
          symbol: module_layout
          wanted: "0xa351f379"
          found: "0x82164fbb"
summary:
  description:
    - The verdicts and the kinds of findings as a text to read, kernel by kernel.
    - On the command line of C(ansible), without C(-v), C(-o) and C(--tree), this is a list of its lines, and all that is answered besides RV(msg) and
      RV(compatible).
  returned: success or O(require) not met
  type: str
  sample: |-
    6.1.0-54-cloud-amd64: ena is incompatible (ENOEXEC)
      refuse MODULE_LAYOUT_CRC: the version of module_layout differs
signer:
  description: Who signed O(checksums), as the tool that checked O(signature) names them.
  returned: O(signature) given
  type: str
  sample: Vendor Releases <release@vendor.example> (6F2A0E8F5A4B3C2D1E0F9A8B7C6D5E4F3A2B1C0D)
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import check


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            path=dict(type="list", elements="path"),
            src=dict(type="list", elements="path"),
            _described=dict(type="list", elements="dict"),
            checksums=dict(type="path"),
            signature=dict(type="path"),
            keyring=dict(type="path"),
            kernels=dict(type="list", elements="str", default=["all"]),
            require=dict(type="str", choices=["all", "any", "booting", "none"], default="all"),
            each=dict(type="bool", default=False),
            structs=dict(type="bool", default=False),
            findings=dict(type="str", choices=["folded", "all"], default="folded"),
            kernel=dict(
                type="list",
                elements="dict",
                options=dict(
                    package=dict(type="list", elements="path"),
                    root=dict(type="path"),
                    symvers=dict(type="path"),
                    release=dict(type="str"),
                    offered=dict(type="str", choices=["newest", "all"]),
                    whole=dict(type="bool", default=False),
                ),
            ),
        ),
        supports_check_mode=True,
    )
    task.run(module, check)


if __name__ == "__main__":
    main()
