# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signed modules for tests: a certificate and PKCS#7 messages as the kernel's sign-file makes them, with a
small key made on the spot.
"""

import hashlib
import random
import struct
from typing import NamedTuple, Optional

from tests.forge.ko import ko

_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")


class Signer(NamedTuple):
    """``certificate`` is X.509 in DER, ``message`` a PKCS#7 message that is the signature of something else."""

    name: bytes
    serial: int
    modulus: int
    private: int
    certificate: bytes
    key_id: bytes
    message: bytes = b""

    def sign(self, data: bytes) -> bytes:
        """PKCS#7: detached, without certificates and attributes."""
        sha256 = sequence(oid("2.16.840.1.101.3.4.2.1"))
        who = sequence(name(self.name), integer(self.serial))
        signer = sequence(
            integer(1), who, sha256, sequence(oid("1.2.840.113549.1.1.1"), b"\5\0"), node(4, self.value(data))
        )
        content = sequence(
            integer(1), node(0x31, sha256), sequence(oid("1.2.840.113549.1.7.1")), node(0x31, signer)
        )
        return sequence(oid("1.2.840.113549.1.7.2"), node(0xA0, content))

    def sign_old(self, data: bytes) -> bytes:
        """The module, signed as until Linux 4.2 (``scripts/sign-file``)."""
        value = self.value(data)
        message = len(value).to_bytes(2, "big") + value
        trailer = bytes([1, 4, 1, len(self.name), len(self.key_id), 0, 0, 0]) + len(message).to_bytes(
            4, "big"
        )
        return data + self.name + self.key_id + message + trailer + b"~Module signature appended~\n"

    def value(self, data: bytes) -> bytes:
        """PKCS #1 v1.5"""
        info = _PREFIX + hashlib.sha256(data).digest()
        size = (self.modulus.bit_length() + 7) // 8
        padded = b"\0\1" + b"\xff" * (size - 3 - len(info)) + b"\0" + info
        return pow(int.from_bytes(padded, "big"), self.private, self.modulus).to_bytes(size, "big")


def node(tag: int, *contents: bytes) -> bytes:
    data = b"".join(contents)
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + data


def sequence(*contents: bytes) -> bytes:
    return node(0x30, *contents)


def integer(value: int) -> bytes:
    return node(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(text: str) -> bytes:
    first, second, *rest = [int(part) for part in text.split(".")]
    data = bytes([40 * first + second])
    for number in rest:
        groups = [number & 0x7F]
        while number > 0x7F:
            number >>= 7
            groups.append(number & 0x7F | 0x80)
        data += bytes(groups[::-1])
    return node(6, data)


def name(common: bytes) -> bytes:
    return sequence(node(0x31, sequence(oid("2.5.4.3"), node(12, common))))


def signer(common: bytes, serial: int, seed: int) -> Signer:
    source = random.Random(seed)
    one, other = _prime(source), _prime(source)
    modulus, private = one * other, _inverse(65537, (one - 1) * (other - 1))
    key = sequence(
        sequence(oid("1.2.840.113549.1.1.1"), b"\5\0"),
        node(3, b"\0" + sequence(integer(modulus), integer(65537))),
    )
    algorithm = sequence(oid("1.2.840.113549.1.1.11"), b"\5\0")
    validity = sequence(node(23, b"200101000000Z"), node(23, b"490101000000Z"))
    key_id = hashlib.sha1(key).digest()
    identifier = sequence(oid("2.5.29.14"), node(4, node(4, key_id)))
    body = sequence(
        node(0xA0, integer(2)),
        integer(serial),
        algorithm,
        name(common),
        validity,
        name(common),
        key,
        node(0xA3, sequence(identifier)),
    )
    certificate = sequence(body, algorithm, node(3, bytes(65)))
    made = Signer(common, serial, modulus, private, certificate, key_id)
    return made._replace(message=made.sign(b"something else"))


def _prime(source: random.Random) -> int:
    while True:
        candidate = source.getrandbits(512) | 1 << 511 | 1 << 510 | 1
        if candidate % 65537 != 1 and all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5, 7)):
            return candidate


def _inverse(value: int, modulus: int) -> int:
    a, b, x, y = value, modulus, 1, 0
    while b:
        a, b, x, y = b, a % b, y, x - a // b * y
    return x % modulus


def signed(module: bytes, pkcs7: bytes, *, kind: int = 2, size: Optional[int] = None, algo: int = 0) -> bytes:
    """A module with a signature appended."""
    return (
        module
        + pkcs7
        + struct.pack(">BBBBB3xI", algo, 0, kind, 0, 0, len(pkcs7) if size is None else size)
        + b"~Module signature appended~\n"
    )


PKCS7 = signer(b"Vendor signing key", 0x1234567890, 1)
OTHER = signer(b"Old machine owner key", 0x99, 2)
IN_TREE = ko(modinfo={"intree": "Y"})
SIGNED = signed(IN_TREE, PKCS7.sign(IN_TREE))
STALE = signed(IN_TREE, OTHER.sign(IN_TREE))
