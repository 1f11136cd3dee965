# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signatures are read as the kernel reads them, and verified where a certificate is at hand."""

import ctypes
import hashlib
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils import libcrypto
from ansible_collections.outoftree.kmod.plugins.module_utils.read import signature
from ansible_collections.outoftree.kmod.plugins.module_utils.read.signature import (
    certificates,
    made_by,
    split,
    verify,
)
from tests.forge.ko import ko
from tests.forge.signature import OTHER, PKCS7, signed

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
(CERTIFICATE,) = certificates(PKCS7.certificate)
KEYS = {
    "RSA": ("rsa:2048",),
    "P-256": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "P-384": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
}


def test_signer_and_digest():
    body, found = split(signed(ko(), PKCS7.sign(ko())))
    assert body == ko()
    assert (found.fault, found.signer, found.serial, found.hash) == (
        "",
        "Vendor signing key",
        "1234567890",
        "sha256",
    )
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


def test_a_short_certificate_among_others(tmp_path):
    """Of an elliptic key, without extensions: less than 256 bytes to sign."""
    (tmp_path / "plain.conf").write_text("[req]\ndistinguished_name=it\n[it]\n")
    argv = ["openssl", "req", "-x509", "-newkey", *KEYS["P-256"], "-nodes", "-subj", "/CN=us", "-config"]
    argv += ["plain.conf", "-keyout", "key", "-outform", "DER", "-out", "short"]
    subprocess.run(argv, cwd=str(tmp_path), check=True, stderr=subprocess.DEVNULL)
    data = (tmp_path / "short").read_bytes()
    assert data[4:6] == b"\x30\x81"
    found = list(certificates(b"\x30" + PKCS7.certificate + data + OTHER.certificate))
    assert [each.subject for each in found] == ["Vendor signing key", "us", "Old machine owner key"]


def test_when_a_certificate_is_valid():
    assert (CERTIFICATE.begins, CERTIFICATE.ends) == ("2020-01-01 00:00:00", "2049-01-01 00:00:00")
    assert CERTIFICATE.whole == PKCS7.certificate


def by_openssl(kind, tmp_path, hash_name="sha384"):
    """(certificate, a signature of it, one of another module)"""

    def openssl(*argv):
        subprocess.run(
            ["openssl", *argv],
            cwd=str(tmp_path),
            check=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    (tmp_path / "content").write_bytes(ko())
    openssl(
        "req",
        "-x509",
        "-newkey",
        *KEYS[kind],
        "-nodes",
        "-subj",
        "/CN=somebody",
        "-keyout",
        "key",
        "-out",
        "certificate",
        "-outform",
        "PEM",
    )
    openssl("x509", "-in", "certificate", "-outform", "DER", "-out", "der")
    openssl(
        "cms",
        "-sign",
        "-binary",
        "-noattr",
        "-nocerts",
        "-md",
        hash_name,
        "-outform",
        "DER",
        "-in",
        "content",
        "-signer",
        "certificate",
        "-inkey",
        "key",
        "-out",
        "message",
    )
    (certificate,) = certificates((tmp_path / "der").read_bytes())
    message = (tmp_path / "message").read_bytes()
    return (certificate, *(split(signed(data, message))[1] for data in (ko(), ko() + b"more")))


@pytest.mark.parametrize("kind", KEYS)
def test_what_openssl_has_signed(kind, tmp_path):
    certificate, good, bad = by_openssl(kind, tmp_path)
    assert made_by(good, certificate) and good.hash == "sha384"
    assert (verify(good, certificate), verify(bad, certificate)) == (True, False)
    assert verify(good._replace(value=good.value[:-2]), certificate) is False
    assert verify(good._replace(value=""), certificate) is False
    assert verify(good, certificate._replace(key=b"no key")) is None
    assert verify(good._replace(hash="sha999"), certificate) is None


def test_no_libcrypto(monkeypatch):
    found = split(signed(ko(), PKCS7.sign(ko())))[1]
    # and one that has other functions
    monkeypatch.setattr(libcrypto, "_names", lambda: ("libcrypto.so.none", "libc.so.6"))
    for each in (libcrypto._library, libcrypto._context):
        monkeypatch.setattr(libcrypto, each.__wrapped__.__name__, each.__wrapped__)
    assert verify(found, CERTIFICATE) is None


def test_a_python_whose_hashlib_has_no_file_finds_the_hosts(monkeypatch):
    monkeypatch.setitem(sys.modules, "_hashlib", None)
    for each in (libcrypto._library, libcrypto._context):
        monkeypatch.setattr(libcrypto, each.__wrapped__.__name__, each.__wrapped__)
    assert verify(split(signed(ko(), PKCS7.sign(ko())))[1], CERTIFICATE)


@pytest.mark.parametrize(
    "name", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"]
)
def test_any_hash_that_modules_are_signed_with(name, tmp_path):
    certificate, good, bad = by_openssl("RSA", tmp_path, name)
    size = len(good.value) // 2
    wrong = ["00" * size, "ff" * size, "00" + good.value, good.value[2:]]
    every = [good, bad, good, *(good._replace(value=value) for value in wrong)]
    assert [verify(each, certificate) for each in every] == [True, False, True] + [False] * 4


def test_a_failure_leaves_no_error_behind():
    """libcrypto is Python's own, too."""
    found = split(signed(ko() + b"more", PKCS7.sign(ko())))[1]
    assert verify(found, CERTIFICATE) is False and verify(found, CERTIFICATE._replace(key=b"no key")) is None
    peek = libcrypto._library().ERR_peek_error
    peek.restype = ctypes.c_ulong
    assert peek() == 0


def test_the_form_until_4_2():
    body, found = split(PKCS7.sign_old(ko()))
    assert body[: len(ko())] == ko()
    assert (found.fault, found.id_type, found.signer, found.key_id, found.hash) == (
        "",
        1,
        "Vendor signing key",
        CERTIFICATE.key_id,
        "sha256",
    )
    assert made_by(found, CERTIFICATE) and verify(found, CERTIFICATE) is True
    assert verify(split(b"more" + PKCS7.sign_old(ko()))[1], CERTIFICATE) is False


@given(st.integers(0, len(PKCS7.message) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_message_is_some_answer(at, value):
    message = PKCS7.message[:at] + bytes([value]) + PKCS7.message[at + 1 :]
    body, found = split(signed(ko(), message))
    assert body == ko()
    assert found.fault in ("", "SIG_MALFORMED", "SIG_BAD", "SIG_UNSUPPORTED")


@given(st.binary(max_size=400))
def test_any_bytes_may_follow_the_magic_of_a_certificate(data):
    assert isinstance(list(signature.certificates(b"\x30\x82\x01\x00\x30\x82" + data)), list)
