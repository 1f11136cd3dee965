# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signatures are read as the kernel reads them, and verified where a certificate is at hand."""
import hashlib

import pytest
from build_ko import ko, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from signing import OTHER, PKCS7

from ansible_collections.outoftree.kmod.plugins.module_utils.read import ecdsa, signature
from ansible_collections.outoftree.kmod.plugins.module_utils.read.signature import certificates, made_by, split, verify

CERTIFICATE, = certificates(PKCS7.certificate)
# RFC 6979, A.2.5 and A.2.6: the message "sample" with SHA-256 and SHA-384
P256 = ("1.2.840.10045.3.1.7", "sha256",
        "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6" "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
        0xefd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716, 0xf7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8)
P384 = ("1.3.132.0.34", "sha384",
        "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13"
        "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720",
        0x94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46,
        0x99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8)


def test_signer_and_digest():
    body, found = split(signed(ko(), PKCS7.sign(ko())))
    assert body == ko()
    assert (found.fault, found.signer, found.serial, found.hash) == ("", "Vendor signing key", "1234567890", "sha256")
    assert found.digest == hashlib.sha256(ko()).hexdigest()
    assert made_by(found, CERTIFICATE) and verify(found, CERTIFICATE) is True


def test_another_key_and_another_module():
    other = split(signed(ko(), OTHER.sign(ko())))[1]
    assert not made_by(other, CERTIFICATE) and verify(other, CERTIFICATE) is False
    assert verify(split(signed(ko() + b"more", PKCS7.sign(ko())))[1], CERTIFICATE) is False


def test_unsigned():
    assert split(ko()) == (ko(), None)


def test_certificates_among_other_bytes():
    data = b"\x30\x82junk" + PKCS7.certificate + bytes(17) + OTHER.certificate + b"\x30\x82"
    assert [each.subject for each in certificates(data)] == ["Vendor signing key", "Old machine owner key"]


@pytest.mark.parametrize("curve,name,key,r,s", [P256, P384], ids=["P-256", "P-384"])
def test_ecdsa(curve, name, key, r, s):
    point = ecdsa.point(curve, b"\4" + bytes.fromhex(key))
    digest = hashlib.new(name, b"sample").digest()
    assert ecdsa.verify(point, digest, r, s)
    assert not ecdsa.verify(point, digest, r, s - 1)
    assert not ecdsa.verify(point, hashlib.new(name, b"simple").digest(), r, s)
    assert not ecdsa.verify(point, digest, 0, s)
    assert ecdsa.point(curve, b"\4" + bytes.fromhex(key)[:-1] + b"\0") is None


@given(st.integers(0, len(PKCS7.message) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_message_is_some_answer(at, value):
    message = PKCS7.message[:at] + bytes([value]) + PKCS7.message[at + 1:]
    body, found = split(signed(ko(), message))
    assert body == ko()
    assert found.fault in ("", "SIG_MALFORMED", "SIG_BAD", "SIG_UNSUPPORTED")


@given(st.binary(max_size=400))
def test_any_bytes_may_follow_the_magic_of_a_certificate(data):
    assert isinstance(list(signature.certificates(b"\x30\x82\x01\x00\x30\x82" + data)), list)
