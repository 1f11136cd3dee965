# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A signature is the one that sign-file makes, by whichever tool; a key that cannot make it says why, and is
shown nowhere.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import tools
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import sign
from ansible_collections.outoftree.kmod.plugins.module_utils.read import signature
from tests import CHECKOUT
from tests.forge.ko import ko
from tests.forge.signature import OTHER, signed

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
KINDS = {
    "rsa": ("rsa:2048",),
    "p256": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "p384": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "ed25519": ("ed25519",),
    "k1": ("ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
    "other": ("rsa:2048",),
}
SECRET = "correct horse"


def openssl(directory, *argv):
    subprocess.run(["openssl", *argv], cwd=str(directory), check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = tmp_path_factory.mktemp("keys")
    for name, kind in KINDS.items():
        openssl(
            made, "req", "-x509", "-newkey", *kind, "-nodes", "-days", "99", "-subj", "/CN=Signer " + name,
            "-keyout", name + ".pem", "-out", name + ".crt",
        )  # fmt: skip
    openssl(made, "x509", "-in", "rsa.crt", "-outform", "DER", "-out", "rsa.der")
    openssl(made, "pkey", "-in", "rsa.pem", "-aes128", "-passout", "pass:" + SECRET, "-out", "locked.pem")
    openssl(
        made,
        "rsa",
        "-in",
        "rsa.pem",
        "-traditional",
        "-aes128",
        "-passout",
        "pass:" + SECRET,
        "-out",
        "old.pem",
    )
    openssl(made, "pkey", "-in", "rsa.pem", "-outform", "DER", "-out", "rsa.key.der")
    for name, start, end in (
        ("expired", "200101000000Z", "210101000000Z"),
        ("early", "480101000000Z", "490101000000Z"),
    ):
        openssl(made, "req", "-new", "-key", "rsa.pem", "-subj", "/CN=" + name, "-out", "request")
        (made / "database").write_text("")
        (made / "ca.conf").write_text(
            "[ca]\ndefault_ca=it\n[it]\ndatabase=database\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
            "policy=any\n[any]\ncommonName=supplied\n"
        )
        openssl(
            made, "ca", "-config", "ca.conf", "-batch", "-selfsign", "-keyfile", "rsa.pem", "-in", "request",
            "-startdate", start, "-enddate", end, "-notext", "-out", name + ".crt",
        )  # fmt: skip
    (made / "both.pem").write_bytes((made / "rsa.pem").read_bytes() + (made / "rsa.crt").read_bytes())
    return made


@pytest.fixture(params=["openssl", "cryptography"])
def tool(request, monkeypatch):
    if request.param == "cryptography":
        pytest.importorskip("cryptography")
        monkeypatch.setattr(tools, "find", lambda name: None)
    return request.param


def key(keys, name="rsa", certificate=None, passphrase=None):
    return sign.key(str(keys / (name + ".pem")), str(keys / (certificate or name + ".crt")), passphrase)


def refused(code, work, *arguments, **options):
    with pytest.raises(KmodError) as caught:
        work(*arguments, **options)
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.mark.parametrize("kind", ["rsa", "p256", "p384"])
@pytest.mark.parametrize("hash_name", ["sha224", "sha256", "sha384", "sha512"])
def test_what_is_made_is_read_and_verified_as_a_kernel_does_it(keys, tool, kind, hash_name):
    made = sign.signed("vendor.ko", ko(), key(keys, kind), hash_name)
    body, found = signature.split(made.data)
    (certificate,) = signature.certificates(key(keys, kind).certificate.whole)
    assert (made.new, body, found.fault, found.hash) == (True, ko(), "", hash_name)
    assert found.signer == "Signer " + kind and signature.made_by(found, certificate)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tools, "find", shutil.which)
        assert signature.verify(found, certificate) is True
        # and the loader's own view of a changed byte
        changed = made.data.replace(b"vendor", b"render", 1)
        assert changed != made.data and signature.verify(signature.split(changed)[1], certificate) is False


def test_the_signature_is_that_of_the_kernels_tool_to_the_byte(keys):
    """scripts/sign-file: CMS_add1_signer with CMS_NOCERTS, CMS_BINARY, CMS_NOSMIMECAP and no attributes."""
    (keys / "module").write_bytes(ko())
    openssl(
        keys, "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", "sha256", "-outform", "DER",
        "-in", "module", "-signer", "rsa.crt", "-inkey", "rsa.pem", "-out", "message",
    )  # fmt: skip
    assert sign.signed("vendor.ko", ko(), key(keys), "sha256").data == signed(
        ko(), (keys / "message").read_bytes()
    )


@pytest.mark.parametrize("hash_name", ["sha1", "sha3-256", "sha3-384", "sha3-512"])
def test_hashes_that_openssl_alone_signs_with(keys, hash_name):
    by = key(keys)
    made = sign.signed("vendor.ko", ko(), by, hash_name)
    assert signature.split(made.data)[1].hash == hash_name.replace("-", "_")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tools, "find", lambda name: None)
        refused("SIGN_FAILED", sign.signed, "vendor.ko", ko(), by, hash_name)


def test_signing_again_changes_nothing_and_what_is_stale_is_replaced(keys, tool):
    by = key(keys)
    made = sign.signed("vendor.ko", ko(), by, "sha256").data
    assert sign.signed("vendor.ko", made, by, "sha256") == (made, False)
    stale = made.replace(b"vendor", b"render", 1)
    again, new = sign.signed("vendor.ko", stale, by, "sha256")
    body, found = signature.split(again)
    assert new and len(again) == len(made) and b"Module signature" not in body
    assert sign.signed("vendor.ko", made, by, "sha512").new


def test_the_signature_of_somebody_else_is_left_alone_unless_it_is_known_to_be_ours(keys):
    theirs = signed(ko(), OTHER.sign(ko()))
    said = refused("SIGNED_BY_OTHERS", sign.signed, "vendor.ko", theirs, key(keys), "sha256")
    assert "Old machine owner key" in said
    before = key(keys, "other")
    once = sign.signed("vendor.ko", ko(), before, "sha256").data
    refused("SIGNED_BY_OTHERS", sign.signed, "vendor.ko", once, key(keys), "sha256")
    twice = sign.signed("vendor.ko", once, key(keys), "sha256", before=before.as_dict())
    assert signature.split(twice.data)[0] == ko()
    damaged = ko() + b"~Module signature appended~\n"
    refused("SIGNED_BY_OTHERS", sign.signed, "vendor.ko", damaged, key(keys), "sha256", before={})


@pytest.mark.parametrize("name", ["locked", "old"])
def test_a_passphrase(keys, tool, name):
    by = key(keys, name, "rsa.crt", SECRET)
    assert sign.signed("vendor.ko", ko(), by, "sha256").new
    refused("KEY_LOCKED", key, keys, name, "rsa.crt")
    refused("KEY_LOCKED", key, keys, name, "rsa.crt", "")
    wrong = key(keys, name, "rsa.crt", "wrong passphrase")
    said = refused("KEY_LOCKED", sign.signed, "vendor.ko", ko(), wrong, "sha256")
    assert "wrong passphrase" not in said


def test_a_passphrase_that_is_not_needed_does_no_harm(keys, tool):
    assert sign.signed("vendor.ko", ko(), key(keys, passphrase=SECRET), "sha256").new


def test_the_passphrase_is_on_no_command_line_and_in_no_file(keys, monkeypatch, tmp_path):
    run, seen = tools.run, []

    def look(argv, *rest, **options):
        files = [Path(each).read_bytes() for each in argv if os.path.isfile(each)]
        seen.append((argv, files, options))
        return run(argv, *rest, **options)

    monkeypatch.setattr(tools, "run", look)
    by = key(keys, "locked", "rsa.crt", SECRET)
    sign.signed("vendor.ko", ko(), by, "sha256")
    signing = [each for each in seen if "cms" in each[0]]
    assert signing and SECRET not in repr(seen) and SECRET not in repr(by) + str(by) + "%s" % (by,)
    assert not [data for _argv, files, _options in signing for data in files if SECRET.encode() in data]


def test_the_certificate_may_be_in_the_keys_own_file_and_in_der(keys):
    assert sign.key(str(keys / "both.pem")) == key(keys)._replace(name=str(keys / "both.pem"))
    assert key(keys, certificate="rsa.der") == key(keys)


@pytest.mark.parametrize(
    "name,certificate,code,words",
    [
        ("missing.pem", "rsa.crt", "PATH_MISSING", "missing.pem"),
        ("rsa.pem", "missing.crt", "PATH_MISSING", "missing.crt"),
        ("rsa.pem", None, "CERT_UNREADABLE", "no X.509 certificate"),
        ("rsa.pem", "rsa.pem", "CERT_UNREADABLE", "no X.509 certificate"),
        ("rsa.crt", "rsa.crt", "KEY_UNREADABLE", "but a certificate"),
        ("rsa.key.der", "rsa.crt", "KEY_UNREADABLE", "PEM"),
        ("ed25519.pem", "ed25519.crt", "KEY_UNSUITED", "Ed25519"),
        ("k1.pem", "k1.crt", "KEY_UNSUITED", "curve"),
        ("rsa.pem", "expired.crt", "CERT_EXPIRED", "2021-01-01 00:00:00"),
        ("rsa.pem", "early.crt", "CERT_EXPIRED", "2048-01-01 00:00:00"),
        ("pkcs11:object=x", None, "BAD_OPTION", "certificate"),
        ("pkcs11:object=x?pin-value=1234", "rsa.crt", "BAD_OPTION", "pin-value"),
    ],
)
def test_keys_that_cannot_be_used(keys, name, certificate, code, words):
    path = name if name.startswith("pkcs11:") else str(keys / name)
    said = refused(code, sign.key, path, certificate and str(keys / certificate), None)
    assert words in said and "1234" not in said


@pytest.mark.parametrize("other", ["other", "p256"])
def test_a_certificate_of_another_key(keys, tool, other):
    by = key(keys, "rsa", other + ".crt")
    assert "Signer " + other in refused("KEY_MISMATCH", sign.signed, "vendor.ko", ko(), by, "sha256")


def test_a_damaged_key(keys, tool, tmp_path):
    damaged = tmp_path / "damaged.pem"
    damaged.write_bytes((keys / "rsa.pem").read_bytes().replace(b"M", b"A", 9))
    by = sign.key(str(damaged), str(keys / "rsa.crt"))
    refused("KEY_UNREADABLE", sign.signed, "vendor.ko", ko(), by, "sha256")


def test_neither_openssl_nor_cryptography(keys, monkeypatch):
    monkeypatch.setattr(tools, "find", lambda name: None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for name in [each for each in sys.modules if each.startswith("cryptography.")]:
        monkeypatch.setitem(sys.modules, name, None)
    said = refused("TOOL_MISSING", sign.signed, "vendor.ko", ko(), key(keys), "sha256")
    assert "python3-cryptography" in said


def test_a_token_without_openssls_part_for_it(keys):
    by = sign.key("pkcs11:object=signing", str(keys / "rsa.crt"), "1234")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OPENSSL_ENGINES", str(keys))
        patched.setenv("OPENSSL_MODULES", str(keys))
        said = refused("TOOL_MISSING", sign.signed, "vendor.ko", ko(), by, "sha256")
    assert "libengine-pkcs11-openssl" in said


def test_what_is_no_module_is_not_signed(keys):
    import lzma

    by = key(keys)
    refused("MODULE_BAD", sign.signed, "notes.txt", b"text\n" * 99, by, "sha256")
    packed = lzma.compress(ko(), lzma.FORMAT_XZ, lzma.CHECK_CRC32)
    refused("SIGN_PACKED", sign.signed, "vendor.ko.xz", packed, by, "sha256")


def test_a_signature_that_a_kernel_would_not_take_is_not_handed_out(keys, monkeypatch):
    by = key(keys)
    monkeypatch.setattr(sign, "_by_openssl", lambda *_: OTHER.sign(ko()))
    refused("SIGN_FAILED", sign.signed, "vendor.ko", ko(), by, "sha256")
    attributes = ["-nocerts", "-nosmimecap"]

    def with_attributes(path, body, by, hash_name):
        (keys / "module").write_bytes(body)
        openssl(
            keys, "cms", "-sign", "-binary", *attributes, "-md", hash_name, "-outform", "DER", "-in", "module",
            "-signer", "rsa.crt", "-inkey", "rsa.pem", "-out", "message",
        )  # fmt: skip
        return (keys / "message").read_bytes()

    monkeypatch.setattr(sign, "_by_openssl", with_attributes)
    refused("SIGN_FAILED", sign.signed, "vendor.ko", ko(), by, "sha256")


def test_the_hash_is_the_kernels_own():
    assert sign.hash_of({"CONFIG_MODULE_SIG_HASH": "sha512"}) == "sha512"
    assert sign.hash_of({"CONFIG_MODULES": "y"}) is None
    assert sign.check_hash("sha3-384", "it") == "sha3-384"
    assert "md4" in refused("SIGN_HASH", sign.check_hash, "md4", "the configuration")


def test_the_commands_in_the_documentation_make_a_key_that_signs(tmp_path):
    text = (CHECKOUT / "docs/rebuild.md").read_text()
    (make,) = re.findall(r"^openssl (req .*)$", text, re.M)
    (turn,) = re.findall(r"`openssl (x509 [^`]*)`", text)
    openssl(tmp_path, *shlex.split(make), "-passout", "pass:" + SECRET)
    by = sign.key(str(tmp_path / "modules.pem"), str(tmp_path / "modules.crt"), SECRET)
    sign.try_out(by)
    openssl(tmp_path, *shlex.split(turn))
    der = tmp_path / "modules.der"
    assert sign.read_certificate(str(der), der.read_bytes()) == by.certificate
