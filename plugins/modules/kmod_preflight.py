#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_preflight
short_description: Say what becomes of a host's out-of-tree drivers on the kernels that it has, and on those that it would get
version_added: 1.0.0
author: Contributors to the outoftree.kmod project (@outoftree)
description:
  - Judges the drivers of a host against its installed kernels, and against kernels that it has not got yet,
    as each kernel's own loader would.
  - Answers with the host's record. It is plain data of a documented shape (docs/preflight.md of the
    collection), by which a fleet is counted and builds are planned.
  - Nothing is installed or changed.
options:
  drivers:
    description:
      - The drivers to look at, of those that were deployed to the host. All of them by default.
    type: list
    elements: str
    default: []
  driver:
    description:
      - What the modules given by O(src) or O(path) are called. They count instead of what the host has of this
        driver.
      - Required with O(path) or O(src).
    type: str
  path:
    description:
      - Modules on the host, inside O(root), of a driver that is not deployed there. C(.ko) files, packages
        (C(.deb), C(.rpm)), or directories of them.
    type: list
    elements: path
  src:
    description:
      - Modules on the controller, in the forms that O(path) takes.
    type: list
    elements: path
  given:
    description:
      - Several drivers at once, each with what O(driver), O(path) and O(src) say of one. They are
        judged beside each other, so one may use the symbols of another.
    type: list
    elements: dict
    suboptions:
      driver:
        description: What the modules are called.
        type: str
        required: true
      path:
        description: Modules on the host.
        type: list
        elements: path
      src:
        description: Modules on the controller.
        type: list
        elements: path
      _described:
        description: Set by the collection's action plugin, not by playbooks. The modules of the files on the controller, as plain data.
        type: list
        elements: dict
  kernel:
    description:
      - Kernels that are not installed. Each item names one place with one of O(kernel[].package),
        O(kernel[].root) and O(kernel[].symvers), on the host, inside O(root), or with O(kernel[].offered).
  cache:
    description:
      - A directory on the controller. With it, packages of kernels on offer (O(kernel[].offered)) are not read on
        the host. The first host that is offered a kernel fetches its packages, they are kept in this directory
        for all others, and M(outoftree.kmod.kmod_preflight_fleet) reads each kernel once and judges it for all
        hosts. The role C(outoftree.kmod.preflight) does that.
    type: path
  require:
    description:
      - When to fail. V(none) never, V(offered) unless every kernel of O(kernel) takes every driver, V(all)
        unless the installed ones do so as well.
      - What is on offer and cannot be told (no lists, no answer) is an error in the record with V(none), and a
        failure otherwise.
      - A verdict of V(unknown) does not count as V(compatible).
    type: str
    choices: [none, offered, all]
    default: none
  _described:
    description: Set by the collection's action plugin, not by playbooks. The modules of the files on the controller, as plain data.
    type: list
    elements: dict
  _defer:
    description: Set by the collection's action plugin, not by playbooks. Whether kernels in packages are left to the controller.
    type: bool
  _fetch:
    description: Set by the collection's action plugin, not by playbooks. The packages to fetch for the fleet.
    type: list
    elements: dict
  _into:
    description: Set by the collection's action plugin, not by playbooks. Where they are put.
    type: path
extends_documentation_fragment:
  - outoftree.kmod.common
  - outoftree.kmod.common.supply
  - outoftree.kmod.common.kernel
  - outoftree.kmod.common.info
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_compat
  - module: outoftree.kmod.kmod_info
"""

EXAMPLES = r"""
# ansible all -b -m outoftree.kmod.kmod_preflight
- name: See what becomes of the drivers of each host
  outoftree.kmod.kmod_preflight:
  register: preflight

- name: Fail where the kernel in these packages does not take every driver that is deployed
  outoftree.kmod.kmod_preflight:
    kernel:
      - package: [/var/tmp/offer/kernel-devel.rpm]
    require: offered

- name: Fail where the next kernel update would take a driver away
  outoftree.kmod.kmod_preflight:
    kernel:
      - offered: newest
    require: offered
"""

RETURN = r"""
msg:
  description: One line. How many of the kernels take all drivers, and for each on offer that does not, the
    first reason.
  returned: always
  type: str
  sample: "mydriver: 2 of 2 installed kernels, 0 of 1 on offer; 5.14.0-611.el9.x86_64: mydriver: 1 symbol
    differs (kfree)"
summary:
  description:
    - The verdicts, and what is amiss now, as a list of lines.
    - This is all that is answered besides RV(msg) on the command line of C(ansible), without C(-v), C(-o) and C(--tree).
  returned: on the command line of C(ansible)
  type: list
  elements: str
record:
  description: What is known of the host. Keys that a newer collection adds can be ignored, a higher C(version)
    cannot.
  returned: success or O(require) not met
  type: dict
  contains:
    version:
      description: Of the shape of this record.
      type: int
      sample: 1
    host:
      description: The host's name in the inventory.
      type: str
      sample: web1
    at:
      description: When it was made, in UTC.
      type: str
      sample: "2026-11-27T10:00:00Z"
    family:
      description: V(el), V(el7), V(debian), V(suse) or V(other).
      type: str
      sample: el
    distribution:
      description: As os-release has it.
      type: str
      sample: rocky 9.6
    machine:
      description: As C(uname -m) has it.
      type: str
      sample: x86_64
    running:
      description: Release of the kernel that runs.
      type: str
      sample: 5.14.0-570.el9.x86_64
    default:
      description: Release of the kernel that boots start, as far as the boot loader's files tell.
      type: str
      sample: 5.14.0-570.el9.x86_64
    error:
      description: Why it could not be told what becomes of this host. Null otherwise.
      type: str
    lists:
      description: The package manager that was asked (C(manager)), how many seconds ago its lists were fetched
        (C(age)), why they could not be read or a kernel not be fetched (C(error), C(code)), and the
        repositories whose lists were never fetched (C(missing)). All null where it was not asked.
      type: dict
    drivers:
      description: Each C(driver) with its newest C(version), its C(builds) (C(kernel) and C(version)), and the
        names of its C(modules).
      type: list
      elements: dict
    kernels:
      description: >-
        Each C(kernel) with its C(state) (V(running), V(installed) or V(offered)), whether it is the C(newest),
        which boots are expected to start once the host is updated, the files that it was found in (C(origin)), and the
        C(packages) that it would come in.
      type: list
      elements: dict
    verdicts:
      description: >-
        For each C(driver) and C(kernel) (and C(state)) the C(verdict), whether it is C(exact), the release that
        the build which fits was made for (C(build)), what it is refused for (C(codes), C(symbols), C(errno)),
        and C(why), a sentence.
      type: list
      elements: dict
    today:
      description: What is amiss now. C(kind), C(driver), C(kernel), C(text).
      type: list
      elements: dict
    held:
      description: What is kept from changing. C(what), C(kernel), C(driver), C(reason).
      type: list
      elements: dict
    needs:
      description: By driver what it needs of a kernel, for the plan of builds.
      type: dict
    facts:
      description: By driver and kernel what is compared of the kernel, for the plan of builds.
      type: dict
subject:
  description: What M(outoftree.kmod.kmod_preflight_fleet) judges by.
  returned: O(cache) given
  type: str
deferred:
  description: The kernels on offer that are judged by M(outoftree.kmod.kmod_preflight_fleet), each with where its
    packages are in O(cache), or why they are not.
  returned: O(cache) given
  type: list
  elements: dict
signer:
  description: Who signed O(checksums), as the tool that checked O(signature) names them.
  returned: O(signature) given
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import preflight


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            drivers=dict(type="list", elements="str", default=[]),
            driver=dict(type="str"),
            path=dict(type="list", elements="path"),
            src=dict(type="list", elements="path"),
            _described=dict(type="list", elements="dict"),
            given=dict(
                type="list",
                elements="dict",
                options=dict(
                    driver=dict(type="str", required=True),
                    path=dict(type="list", elements="path"),
                    src=dict(type="list", elements="path"),
                    _described=dict(type="list", elements="dict"),
                ),
            ),
            checksums=dict(type="path"),
            signature=dict(type="path"),
            keyring=dict(type="path"),
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
            cache=dict(type="path"),
            _defer=dict(type="bool"),
            _fetch=dict(type="list", elements="dict"),
            _into=dict(type="path"),
            require=dict(type="str", choices=["none", "offered", "all"], default="none"),
        ),
        supports_check_mode=True,
    )
    task.run(module, preflight)


if __name__ == "__main__":
    main()
