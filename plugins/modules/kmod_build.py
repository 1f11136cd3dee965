#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_build
short_description: Build a driver for one kernel on a build host
version_added: 1.0.0
description:
  - Builds the modules of a driver for one kernel release, in a sandbox, and puts them into a store that
    M(outoftree.kmod.kmod_link) and the role C(outoftree.kmod.deploy) take as it is.
  - The kernel need not be installed. Its headers are those that the build host has, else they are fetched
    from the host's repositories and unpacked beside, or they are given.
  - The sandbox has no network, no privileges and nothing of the host but its tools, read-only. The same input
    gives the same bytes on every host with the same compiler. Root hands the build to a user that is nobody.
  - What was built is judged by the kernel as its headers show it, before it is stored.
  - A build that is in the store already is not made again, and one that failed is not tried again, until the
    source, the headers, the compiler or what the driver depends on changes.
  - A dkms.conf is taken as dkms takes it. Keys that would not be honoured are errors that name them.
  - Needs C(bwrap) (bubblewrap), C(make), the kernel's compiler and binutils on the build host, with user
    namespaces for unprivileged users.
options:
  driver:
    description: Name of the driver, in the store and on the hosts.
    type: str
    required: true
  source:
    description:
      - The driver's source on the build host. A directory, or a tar archive of one, compressed or not.
      - With a C(dkms.conf) at its top it is built as that says, else C(make modules) in the kernel's headers.
    type: path
    required: true
  release:
    description: The kernel release to build for, as C(uname -r) has it there.
    type: str
    required: true
  version:
    description: Version of the driver, a directory of the store. The default is that of dkms.conf, or V(0).
    type: str
  store:
    description: Directory of the store on the build host. It is made if it is missing.
    type: path
    required: true
  headers:
    description:
      - The kernel's headers on the build host, instead of those that are installed or fetched. Packages
        (C(.deb), C(.rpm)), a directory of them, a directory that they were unpacked in, or a build directory
        (C(/usr/src/linux-headers-RELEASE)).
    type: list
    elements: path
    default: []
  depends:
    description:
      - Drivers whose symbols this one uses, as C(NAME) or C(NAME=VERSION). The store must have their builds for
        the same release, and a build of theirs that changes has this one built again. Without a version it is
        the one that was built last.
      - Those of C(BUILD_DEPENDS) in dkms.conf are added.
    type: list
    elements: str
    default: []
  overrides:
    description:
      - Files on the build host that are read after dkms.conf, as dkms reads those in C(/etc/dkms).
      - One directory may be among them, as C(/etc/dkms/PACKAGE). Its C(patches) are laid over those of the
        source, and its scripts run in place of those of the same name that C(PRE_BUILD) and C(POST_BUILD) name.
    type: list
    elements: path
    default: []
  ignore:
    description:
      - Keys of dkms.conf that may be set although they are not honoured, such as C(POST_INSTALL), a script
        that dkms runs on the host that it installs the driver on.
    type: list
    elements: str
    default: []
  jobs:
    description: How many compilers run at once. The default is one for each processor.
    type: int
  timeout:
    description: Seconds that a build may take. A build that took longer is tried again with a greater limit.
    type: int
    default: 3600
  memory:
    description: Memory that a build may use, all its processes together, in MiB.
    type: int
    default: 8192
  size:
    description: Disk space that a source and its build may use, in MiB.
    type: int
    default: 8192
  force:
    description: Build although the store has a build of the same input, or one has failed.
    type: bool
    default: false
  root:
    description:
      - Root directory of the system whose tools are used, where it is not the build host's own. Kernels of
        another suite need its compiler and C library. A directory that C(mmdebstrap) or C(dnf --installroot)
        has made will do.
      - The paths of the other options are the build host's own.
    type: path
    default: /
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
    details: Whether the source compiles is not found out then. RV(result) is V(pending).
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff
      mode.
    support: full
  idempotent:
    description: Running it twice in a row changes nothing the second time.
    support: full
  async:
    description: Supports being run with C(async).
    support: full
extends_documentation_fragment:
  - outoftree.kmod.common.builder
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_link
author: Contributors to the outoftree.kmod project (@outoftree)
"""

EXAMPLES = r"""
- name: Build a dkms source for a kernel that the hosts are about to get
  outoftree.kmod.kmod_build:
    driver: v4l2loopback
    source: /usr/src/v4l2loopback-0.12.7
    release: 6.1.0-57-amd64
    store: /srv/kmods

- name: Build against headers that were copied to the build host, in a system of the kernel's suite
  outoftree.kmod.kmod_build:
    driver: mydriver
    source: /srv/sources/mydriver-2.1.tar.gz
    version: "2.1"
    release: 6.12.118+deb13-amd64
    headers: [/srv/headers/6.12.118]
    root: /srv/systems/trixie
    store: /srv/kmods
"""

RETURN = r"""
result:
  description:
    - V(built), V(kept) (the store has it), V(excluded) (dkms.conf says that it is not for this kernel), or
      V(failed). In check mode V(pending) for what would be built.
  returned: always
  type: str
  sample: built
driver:
  description: The driver.
  returned: always
  type: str
  sample: v4l2loopback
version:
  description: Its version.
  returned: always
  type: str
  sample: 0.12.7
release:
  description: The kernel release.
  returned: always
  type: str
  sample: 6.1.0-57-amd64
directory:
  description: Directory of the build.
  returned: always
  type: str
  sample: /srv/kmods/v4l2loopback/0.12.7/6.1.0-57-amd64
modules:
  description: Paths of its modules.
  returned: always
  type: list
  elements: str
  sample: [/srv/kmods/v4l2loopback/0.12.7/6.1.0-57-amd64/v4l2loopback.ko]
digests:
  description: SHA-256 of each module, by file name.
  returned: always
  type: dict
  sample: {v4l2loopback.ko: 0f3a}
needs:
  description: What the driver needs of a kernel, for the plan of what to rebuild.
  returned: always
  type: dict
  sample: {machine: x86_64, modules: []}
verdicts:
  description: What the kernel would say of each module.
  returned: always
  type: list
  elements: dict
  contains:
    module:
      description: Name of the module.
      type: str
      returned: always
      sample: v4l2loopback
    verdict:
      description: V(compatible), or V(unknown) where the headers do not show enough.
      type: str
      returned: always
      sample: compatible
    errno:
      description: What the kernel would answer, if it refused the module.
      type: str
      returned: always
      sample: null
    reason:
      description: Why.
      type: str
      returned: always
      sample: ""
findings:
  description: What is to be known, each with a code of docs/codes.md.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: Reason code.
      type: str
      returned: always
      sample: PAHOLE_MISSING
    message:
      description: The reason.
      type: str
      returned: always
      sample: pahole is not installed on the build system
log:
  description: Path of the build's log on the build host.
  returned: always
  type: str
  sample: /srv/kmods/failed/0f3a/log
errors:
  description: The first lines of the log that say what is wrong.
  returned: always
  type: list
  elements: str
  sample: ["v4l2loopback.c:2201:9: error: too many arguments"]
input:
  description: Digest of all that the build depends on.
  returned: always
  type: str
  sample: 0f3a
seconds:
  description: How long the build took.
  returned: always
  type: int
  sample: 16
repeated:
  description: Whether a build of this input has failed before, and was not tried again.
  returned: always
  type: bool
  sample: false
code:
  description: Reason code of a failure.
  returned: failure
  type: str
  sample: BUILD_FAILED
msg:
  description: The outcome in one sentence.
  returned: always
  type: str
  sample: v4l2loopback 0.12.7 was built for 6.1.0-57-amd64.
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import build


def main():
    module = AnsibleModule(
        argument_spec=dict(
            driver=dict(type="str", required=True),
            source=dict(type="path", required=True),
            release=dict(type="str", required=True),
            version=dict(type="str"),
            store=dict(type="path", required=True),
            headers=dict(type="list", elements="path", default=[]),
            depends=dict(type="list", elements="str", default=[]),
            overrides=dict(type="list", elements="path", default=[]),
            ignore=dict(type="list", elements="str", default=[]),
            jobs=dict(type="int"),
            timeout=dict(type="int", default=3600),
            memory=dict(type="int", default=8192),
            size=dict(type="int", default=8192),
            force=dict(type="bool", default=False),
            root=dict(type="path", default="/"),
        ),
        supports_check_mode=True,
    )
    task.run(module, build)


if __name__ == "__main__":
    main()
