#!/usr/bin/python
# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: kmod_sign
short_description: Sign kernel modules
version_added: 1.0.0
description:
  - Gives modules the signature that the kernel's own C(sign-file) makes. That is a PKCS#7 message behind the
    file.
  - Runs where the key is, which is the controller (C(delegate_to=localhost)) or the build host. Hosts that
    get the modules need no key. Nothing of the kernel's tools is needed.
  - C(openssl) makes the signature, or the Python library C(cryptography) where there is no C(openssl). It is
    read and verified as a kernel does it before it is stored.
  - Signing again changes nothing. A signature by the same certificate is replaced where it is stale, one by
    anybody else is left alone (C(SIGNED_BY_OTHERS)).
  - The passphrase goes to C(openssl) through a pipe. It is in no command line, no file and no log.
options:
  key:
    description:
      - The private key. That is a file in PEM form, or the URI of a key in hardware (C(pkcs11:...)).
      - For the latter, C(openssl) needs its provider or its engine for PKCS#11. They find the token's library
        by C(PKCS11_PROVIDER_MODULE) or C(PKCS11_MODULE_PATH) in the environment, or by p11-kit. A PIN does
        not belong into the URI.
      - RSA keys do for every kernel, elliptic ones (P-256, P-384) for those since 5.13 that are configured
        with C(CONFIG_CRYPTO_ECDSA).
    type: str
    required: true
  certificate:
    description: The X.509 certificate of the key, in PEM or DER form. It may be in the file of the key.
    type: path
  passphrase:
    description: Passphrase of the key, or PIN of the token.
    type: str
  path:
    description:
      - Module files, or directories of them. They are signed where they lie.
      - Required unless O(store) is given.
    type: list
    elements: path
  store:
    description: The build store to sign builds in, as M(outoftree.kmod.kmod_build) fills it.
    type: path
  driver:
    description: The driver whose builds are meant. Required with O(store).
    type: str
  version:
    description: Sign builds of this version alone.
    type: str
  release:
    description: Sign the builds for this kernel release alone.
    type: str
  hash:
    description:
      - The hash to sign with, as C(CONFIG_MODULE_SIG_HASH) of the kernel that loads the module has it.
      - With V(auto) that is found out. The build store knows it, and for files it is looked up in the
        configuration of the kernel that they were built for, if that is installed here.
    type: str
    choices: [auto, sha1, sha224, sha256, sha384, sha512, sha3-256, sha3-384, sha3-512]
    default: auto
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying target.
    support: full
    details: Everything is done but storing the result, so that a wrong key shows.
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in check mode), when in diff
      mode.
    support: full
  idempotent:
    description: Running it twice in a row changes nothing the second time.
    support: full
extends_documentation_fragment:
  - outoftree.kmod.common.builder
  - outoftree.kmod.common.actiongroup_kmod
seealso:
  - module: outoftree.kmod.kmod_compat
author: Contributors to the outoftree.kmod project (@outoftree)
"""

EXAMPLES = r"""
- name: Sign the builds of a driver, with a key that only the controller has
  outoftree.kmod.kmod_sign:
    store: builds
    driver: v4l2loopback
    key: keys/modules.pem
    certificate: keys/modules.crt
    passphrase: "{{ vault_modules_passphrase }}"
  delegate_to: localhost
  run_once: true

- name: Sign with a key in hardware
  outoftree.kmod.kmod_sign:
    path: builds/v4l2loopback
    key: pkcs11:token=modules;object=signing
    certificate: keys/modules.crt
    passphrase: "{{ vault_token_pin }}"
    hash: sha256
  environment:
    PKCS11_MODULE_PATH: /usr/lib/softhsm/libsofthsm2.so
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
signer:
  description: By which the certificate is known.
  returned: success
  type: dict
  contains:
    subject:
      description: Common name of the certificate.
      type: str
      returned: always
      sample: Modules of example.com
    issuer:
      description: Name of its issuer, in DER as hexadecimal digits.
      type: str
      returned: always
      sample: 300d310b300906035504030c026d65
    serial:
      description: Serial number, as hexadecimal digits.
      type: str
      returned: always
      sample: 558e765f7e8383a86e10b6d28ad77b92bbd0e081
    key_id:
      description: Identifier of the key, as hexadecimal digits. Kernels list it in C(/proc/keys).
      type: str
      returned: always
      sample: 4a67fe15b6f0e389b4406173b051912be062765f
modules:
  description: Every module that was meant.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: Where it lies.
      type: str
      returned: always
      sample: builds/v4l2loopback/0.12.7/6.1.0-56-amd64/v4l2loopback.ko
    release:
      description: The kernel release that it was built for.
      type: str
      returned: always
      sample: 6.1.0-56-amd64
    hash:
      description: The hash of its signature.
      type: str
      returned: always
      sample: sha256
    state:
      description: V(signed) for one that was signed now, V(unchanged) for one that had that signature.
      type: str
      returned: always
      sample: signed
msg:
  description: The outcome in one sentence.
  returned: success
  type: str
  sample: 1 module signed by Modules of example.com.
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import sign


def main():
    module = AnsibleModule(
        argument_spec=dict(
            key=dict(type="str", required=True, no_log=False),
            certificate=dict(type="path"),
            passphrase=dict(type="str", no_log=True),
            path=dict(type="list", elements="path"),
            store=dict(type="path"),
            driver=dict(type="str"),
            version=dict(type="str"),
            release=dict(type="str"),
            hash=dict(
                type="str",
                choices=[
                    "auto",
                    "sha1",
                    "sha224",
                    "sha256",
                    "sha384",
                    "sha512",
                    "sha3-256",
                    "sha3-384",
                    "sha3-512",
                ],
                default="auto",
            ),
        ),
        mutually_exclusive=[("path", "store")],
        required_one_of=[("path", "store")],
        required_by=dict(store=("driver",)),
        supports_check_mode=True,
    )
    task.run(module, sign)


if __name__ == "__main__":
    main()
