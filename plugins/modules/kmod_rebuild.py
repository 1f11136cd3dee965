#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_rebuild
short_description: Build what a fleet's kernels lack of its drivers, and nothing else
version_added: 1.0.0
description:
  - Plans by the records of hosts (M(outoftree.kmod.kmod_preflight)) the fewest builds after which no host
    lacks a driver, and makes them on the build host, one after the other (M(outoftree.kmod.kmod_build)).
    That is the host that the task is delegated to.
  - Each build is signed if O(sign) is given, and taken into the store on the controller, which
    M(outoftree.kmod.kmod_link) and the role C(outoftree.kmod.deploy) take as it is.
  - Kernels that one of a host's builds fits keep it, whatever version that is of.
  - A build that fails stops none of the others. The task does not fail for it. See RV(failed_builds).
  - Use the role C(outoftree.kmod.rebuild), which asks the hosts, calls this as often as there is something to
    build, and deploys.
options:
  records:
    description: The records of the hosts.
    type: list
    elements: dict
    required: true
  seen:
    description:
      - What the hosts say of the builds that the store has of the sources already, for the plan of what is
        still missing. Each is what M(outoftree.kmod.kmod_preflight) says of them with C(given).
    type: list
    elements: dict
    default: []
  sources:
    description:
      - By driver where its source is and its C(version). Either C(source), a path on the build host, or C(src),
        one on the controller, which is sent there.
      - And any of the options C(depends), C(overrides), C(ignore), C(headers), C(jobs), C(timeout), C(memory),
        C(size) and C(root) of M(outoftree.kmod.kmod_build).
    type: dict
    required: true
  store:
    description: Directory of the store on the build host.
    type: path
    required: true
  dest:
    description: Directory of the store on the controller. The default is O(store).
    type: path
  before:
    description: RV(builds) of the call before, so that nothing is tried twice.
    type: list
    elements: dict
    default: []
  install:
    description: Whether hosts that have not got a driver want it.
    type: bool
    default: false
  force:
    description: Build although the store has a build of the same input, or one has failed.
    type: bool
    default: false
  sign:
    description:
      - What builds are signed with. The options are those of M(outoftree.kmod.kmod_sign).
      - The key is tried before the first build. Without a good one the task fails, and nothing is compiled.
    type: dict
    suboptions:
      key:
        description: The private key, a file or a URI (C(pkcs11:...)).
        type: str
        required: true
      certificate:
        description: Its certificate.
        type: path
      passphrase:
        description: Its passphrase.
        type: str
      host:
        description: Where the key is.
        type: str
        choices: [controller, build]
        default: controller
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: partial
    details: The first round of builds is planned and looked for in the store. What they would tell is not known.
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff
      mode.
    support: none
  idempotent:
    description: Running it twice in a row changes nothing the second time.
    support: full
extends_documentation_fragment:
  - outoftree.kmod.common.builder
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_preflight
  - module: outoftree.kmod.kmod_build
  - module: outoftree.kmod.kmod_sign
author: Contributors to the outoftree.kmod project (@outoftree)
"""

EXAMPLES = r"""
- name: Build what the hosts of this play lack
  outoftree.kmod.kmod_rebuild:
    records: "{{ ansible_play_hosts | map('extract', hostvars, ['preflight', 'record']) | list }}"
    sources:
      v4l2loopback:
        source: /usr/src/v4l2loopback-0.12.7
        version: 0.12.7
    store: /srv/kmods
    dest: builds
    sign:
      key: keys/modules.pem
      certificate: keys/modules.crt
  delegate_to: build1
  run_once: true
"""

RETURN = r"""
builds:
  description: Every build that was made or tried, those of O(before) first.
  returned: success
  type: list
  elements: dict
  contains:
    driver:
      description: The driver.
      type: str
      returned: always
      sample: v4l2loopback
    release:
      description: The kernel release that it was built for.
      type: str
      returned: always
      sample: 6.1.0-56-amd64
    serves:
      description: The kernels that it is for.
      type: list
      elements: str
      returned: always
      sample: [6.1.0-55-amd64, 6.1.0-56-amd64]
    certain:
      description: Whether it was known beforehand that they take it.
      type: bool
      returned: always
      sample: true
    hosts:
      description: The hosts that wait for it.
      type: list
      elements: str
      returned: always
      sample: [web1, web2]
    result:
      description: V(built), V(kept), V(excluded), V(failed), in check mode V(pending).
      type: str
      returned: always
      sample: built
    seconds:
      description: How long it took.
      type: int
      returned: always
      sample: 16
    repeated:
      description: Whether it has failed before with the same input, and was not tried again.
      type: bool
      returned: when it was tried
      sample: false
    code:
      description: Reason code of a failure.
      type: str
      returned: on failure
      sample: BUILD_FAILED
    errors:
      description: The first lines of the log that say what is wrong.
      type: list
      elements: str
      returned: always
      sample: []
    log:
      description: Path of the log on the build host.
      type: str
      returned: always
      sample: /srv/kmods/failed/0f3a/log
failed_builds:
  description: Those of RV(builds) that failed.
  returned: success
  type: list
  elements: dict
  sample: []
waiting:
  description: By host the builds that failed and that it waits for, as the key C(today) of its record has it.
  returned: success
  type: dict
  sample: {}
again:
  description: Whether it is worth asking the hosts again, with what was built.
  returned: success
  type: bool
  sample: true
rest:
  description: By driver what no build can serve. C(impossible) (no headers), C(untold), C(ambiguous) and
    C(elsewhere) (refused for what no build changes).
  returned: success
  type: dict
  sample: {}
no_source:
  description: By driver that some kernel takes no build of, and that O(sources) does not have, the hosts.
  returned: success
  type: dict
  sample: {}
deploy:
  description: >-
    By host the drivers that it is to get, as the option C(drivers) of M(outoftree.kmod.kmod_deploy) has them. Builds
    that were changed in the store are left out, and with O(sign) those that are not signed.
  returned: success
  type: dict
  sample: {web1: [{driver: v4l2loopback, src: [/home/me/builds/v4l2loopback/0.12.7/6.1.0-56-amd64], ahead: []}]}
store:
  description: Path of the store on the controller.
  returned: success
  type: str
  sample: /home/me/builds
msg:
  description: The outcome in one sentence.
  returned: success
  type: str
  sample: "3 builds: 2 built, 1 failed, 41 s."
"""
