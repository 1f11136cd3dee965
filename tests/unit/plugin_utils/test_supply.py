# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vendor's list of checksums and its signature: by real gpg, ssh-keygen and minisign, and what they must
not be talked into.
"""

import hashlib
import os
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _supply

DATA = b"a driver's bytes\n"
SUM = hashlib.sha256(DATA).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def vendor(tmp_path):
    """A directory as a vendor ships it: two builds and what sha256sum says of them."""
    for release in ("1", "2"):
        (tmp_path / "builds" / release).mkdir(parents=True)
        (tmp_path / "builds" / release / "vendor.ko").write_bytes(DATA)
    (tmp_path / "SHA256SUMS").write_text("%s  builds/1/vendor.ko\n%s *./builds/2/vendor.ko\n" % (SUM, SUM))
    return tmp_path


def refused(code, call, *args):
    with pytest.raises(KmodError) as caught:
        call(*args)
    assert caught.value.code == code, caught.value
    return str(caught.value)


# The list


def test_files_that_are_listed_and_match_pass_in_the_binary_form_and_with_a_dot_too(vendor):
    supply = _supply.read(str(vendor / "SHA256SUMS"), None, None)
    for release in ("1", "2"):
        supply.check(str(vendor / "builds" / release / "vendor.ko"), DATA)
    assert supply.signer is None


def test_what_sha256sum_writes_is_read_tagged_and_escaped_names_too(tmp_path):
    names = [
        "plain.ko",
        "two words.ko",
        "back\\slash.ko",
        "new\nline.ko",
        "r\rn.ko",
        "-dash.ko",
        "#hash.ko",
        "\udcff.ko",
        "a (b) = c.ko",
    ]
    for name in names:
        (tmp_path / name).write_bytes(DATA)
    for option in ("--text", "--binary", "--tag"):
        command = ["sha256sum", option, "--", *sorted(os.listdir(str(tmp_path)))]
        listed = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE, check=True)
        assert set(_supply.parse("list", listed.stdout)) == set(names), option


def test_a_list_that_came_by_windows_or_with_remarks_is_read():
    assert _supply.parse("list", ("# made by hand\r\n\r\n%s  a.ko\r\n" % SUM.upper()).encode()) == {
        "a.ko": SUM
    }


@pytest.mark.parametrize(
    "text, words",
    [
        ("%s  ../a.ko\n" % SUM, "outside"),
        ("%s  b/../../a.ko\n" % SUM, "outside"),
        ("%s  /lib/a.ko\n" % SUM, "outside"),
        ("SHA256 (../a.ko) = %s\n" % SUM, "outside"),
        ("%s  a.ko\n%s  ./a.ko\n" % (SUM, OTHER), "again"),
        ("%s a.ko\n" % SUM, "line 1"),
        ("%s  a.ko\n" % SUM[:-1], "line 1"),
        ("%s  a.ko\n" % hashlib.sha512(DATA).hexdigest(), "line 1"),
        ("MD5 (a.ko) = %s\n" % SUM, "line 1"),
        ("-----BEGIN PGP SIGNED MESSAGE-----\n%s  a.ko\n" % SUM, "line 1"),
        ("# nothing\n", "lists no file"),
        ("", "lists no file"),
    ],
)
def test_a_list_that_could_be_read_in_two_ways_is_refused(text, words):
    assert words in refused("CHECKSUMS_MALFORMED", _supply.parse, "list", text.encode())


def test_a_file_that_is_not_listed_under_its_own_name_is_refused(vendor):
    supply = _supply.read(str(vendor / "SHA256SUMS"), None, None)
    for path in (
        "builds/3/vendor.ko",
        "vendor.ko",
        "builds/1/Vendor.ko",
        "builds/vendor.ko",
        "../builds/1/vendor.ko",
    ):
        assert (
            "builds" in refused("CHECKSUM_UNLISTED", supply.check, str(vendor / path), DATA)
            or path == "vendor.ko"
        )


def test_a_file_with_other_bytes_is_refused(vendor):
    supply = _supply.read(str(vendor / "SHA256SUMS"), None, None)
    said = refused("CHECKSUM_DIFFERS", supply.check, str(vendor / "builds/1/vendor.ko"), DATA + b"\0")
    assert SUM in said and hashlib.sha256(DATA + b"\0").hexdigest() in said


def test_a_link_to_the_directory_is_the_directory(vendor, tmp_path_factory):
    current = tmp_path_factory.mktemp("links") / "current"
    current.symlink_to(vendor)
    _supply.read(str(current / "SHA256SUMS"), None, None).check(str(vendor / "builds/1/vendor.ko"), DATA)
    _supply.read(str(vendor / "SHA256SUMS"), None, None).check(str(current / "builds/1/vendor.ko"), DATA)


# The signature, by each tool


class Signer:
    """Makes keys and signatures of one kind in a directory of its own."""

    tool = ""

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir(mode=0o700)

    def run(self, *command, **options):
        return subprocess.run(
            command,
            cwd=str(self.directory),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=True,
            **options,
        ).stdout


class Gpg(Signer):
    tool = "gpg"

    def gpg(self, *options, **more):
        return self.run(
            "gpg",
            "--homedir",
            str(self.directory),
            "--batch",
            "--yes",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
            *options,
            **more,
        )

    def key(self, name, expires="never"):
        more = ["--faked-system-time", "20200101T000000"] if expires != "never" else []
        self.gpg(
            *more, "--quick-generate-key", "%s <%s@vendor.example>" % (name, name), "ed25519", "sign", expires
        )
        return self.public(name)

    def public(self, name, armor=True):
        path = self.directory / (name + ".asc")
        path.write_bytes(self.gpg(*(["--armor"] if armor else []), "--export", name))
        return path

    def sign(self, path, name, armor=True, when=None):
        made = self.directory / "signature"
        self.gpg(
            *(["--faked-system-time", when] if when else []),
            *(["--armor"] if armor else []),
            "--local-user",
            name,
            "--output",
            str(made),
            "--detach-sign",
            str(path),
        )
        return made

    def close(self):
        subprocess.run(["gpgconf", "--homedir", str(self.directory), "--kill", "all"], check=False)


class Ssh(Signer):
    tool = "ssh-keygen"

    def key(self, name, options=""):
        self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name)
        path = self.directory / (name + ".allowed")
        path.write_text(
            "%s@vendor.example %s %s" % (name, options, (self.directory / (name + ".pub")).read_text())
        )
        return path

    def sign(self, path, name, namespace="file"):
        made = path.parent / (path.name + ".sig")
        if made.exists():
            made.unlink()
        self.run("ssh-keygen", "-q", "-Y", "sign", "-f", name, "-n", namespace, str(path))
        return made

    def close(self):
        pass


class Minisign(Signer):
    tool = "minisign"

    def key(self, name):
        self.run("minisign", "-G", "-W", "-f", "-p", name + ".pub", "-s", name + ".key")
        return self.directory / (name + ".pub")

    def sign(self, path, name):
        made = self.directory / "signature"
        self.run("minisign", "-S", "-m", str(path), "-s", name + ".key", "-x", str(made))
        return made

    def close(self):
        pass


def made(kind, tmp_path_factory):
    if not shutil.which(kind.tool):
        pytest.skip("%s is not installed here" % kind.tool)
    return kind(tmp_path_factory.mktemp("s") / "keys")


@pytest.fixture(params=[Gpg, Ssh, Minisign], ids=lambda kind: kind.tool)
def signer(request, tmp_path_factory):
    signer = made(request.param, tmp_path_factory)
    yield signer
    signer.close()


@pytest.fixture
def gpg(tmp_path_factory):
    signer = made(Gpg, tmp_path_factory)
    yield signer
    signer.close()


@pytest.fixture
def ssh(tmp_path_factory):
    return made(Ssh, tmp_path_factory)


def read(vendor, signature, keyring):
    return _supply.read(str(vendor / "SHA256SUMS"), str(signature), str(keyring))


def test_a_list_that_a_given_key_signed_is_believed_and_the_signer_named(signer, vendor):
    keyring = signer.key("release")
    supply = read(vendor, signer.sign(vendor / "SHA256SUMS", "release"), keyring)
    assert len(supply.sums) == 2
    if signer.tool != "minisign":  # its keys have no names
        assert "release@vendor.example" in supply.signer
    assert supply.signer


def test_a_signature_of_other_data_is_refused(signer, vendor):
    keyring = signer.key("release")
    signature = signer.sign(vendor / "SHA256SUMS", "release")
    with open(str(vendor / "SHA256SUMS"), "a") as file:
        file.write("%s  more.ko\n" % SUM)
    refused("SIGNATURE_BAD", read, vendor, signature, keyring)


def test_a_key_that_was_not_given_is_refused(signer, vendor):
    keyring = signer.key("release")
    signer.key("mallory")
    said = refused("SIGNER_UNKNOWN", read, vendor, signer.sign(vendor / "SHA256SUMS", "mallory"), keyring)
    assert str(keyring) in said and "kmod-" not in said


def test_a_damaged_signature_is_refused(signer, vendor):
    keyring = signer.key("release")
    signature = signer.sign(vendor / "SHA256SUMS", "release")
    lines = signature.read_text().splitlines()
    lines[2 if signer.tool == "gpg" else 1] = lines[2 if signer.tool == "gpg" else 1][::-1]
    signature.write_text("\n".join(lines) + "\n")
    with pytest.raises(KmodError) as caught:
        read(vendor, signature, keyring)
    assert caught.value.code.startswith("SIGN"), caught.value


def test_a_keyring_of_another_kind_or_none_at_all_is_refused(signer, vendor):
    signer.key("release")
    signature = signer.sign(vendor / "SHA256SUMS", "release")
    assert refused(
        "SIGNER_UNKNOWN" if signer.tool == "ssh-keygen" else "KEYRING_UNREADABLE",
        read,
        vendor,
        signature,
        vendor / "SHA256SUMS",
    )
    refused("PATH_MISSING", read, vendor, signature, vendor / "nothing")


def test_a_missing_tool_is_named(signer, vendor, monkeypatch):
    keyring = signer.key("release")
    signature = signer.sign(vendor / "SHA256SUMS", "release")
    monkeypatch.setenv("PATH", str(vendor))
    assert signer.tool in refused("TOOL_MISSING", read, vendor, signature, keyring)


def test_a_key_of_the_users_own_does_not_count(gpg, vendor, monkeypatch):
    gpg.key("own")
    keyring = Gpg(gpg.directory.parent / "other").key("release")
    monkeypatch.setenv("GNUPGHOME", str(gpg.directory))
    refused("SIGNER_UNKNOWN", read, vendor, gpg.sign(vendor / "SHA256SUMS", "own"), keyring)


def test_bare_packets_and_a_keyring_of_several_keys_do_as_well(gpg, vendor):
    gpg.key("first")
    gpg.key("release")
    both = gpg.directory / "both"
    both.write_bytes(
        gpg.public("first", armor=False).read_bytes() + gpg.public("release", armor=False).read_bytes()
    )
    assert "release@" in read(vendor, gpg.sign(vendor / "SHA256SUMS", "release", armor=False), both).signer
    assert (
        "release@"
        in read(vendor, gpg.sign(vendor / "SHA256SUMS", "release"), gpg.directory / "pubring.kbx").signer
    )


def test_one_known_signer_of_two_is_enough_and_is_the_one_named(gpg, vendor):
    gpg.key("first")
    keyring = gpg.key("second")
    both = gpg.directory / "both.sig"
    both.write_bytes(
        b"".join(
            gpg.sign(vendor / "SHA256SUMS", name, armor=False).read_bytes() for name in ("second", "first")
        )
    )
    signer = read(vendor, both, keyring).signer
    assert "second@" in signer and "first@" not in signer


def test_a_revoked_key_is_refused(gpg, vendor):
    gpg.key("release")
    signature = gpg.sign(vendor / "SHA256SUMS", "release")
    revocation = next((gpg.directory / "openpgp-revocs.d").iterdir())
    revocation.write_text(revocation.read_text().replace(":-----BEGIN", "-----BEGIN"))
    gpg.gpg("--import", str(revocation))
    refused("SIGNER_REVOKED", read, vendor, signature, gpg.public("release"))


def test_a_key_or_a_signature_that_has_expired_is_refused(gpg, ssh, vendor):
    keyring = gpg.key("release", expires="20200201T000000")
    refused(
        "SIGNER_EXPIRED",
        read,
        vendor,
        gpg.sign(vendor / "SHA256SUMS", "release", when="20200110T000000"),
        keyring,
    )
    keyring = ssh.key("release", 'valid-before="20200201"')
    refused("SIGNER_EXPIRED", read, vendor, ssh.sign(vendor / "SHA256SUMS", "release"), keyring)


def test_a_signature_for_another_purpose_is_refused(ssh, vendor):
    keyring = ssh.key("release")
    refused(
        "SIGNATURE_BAD", read, vendor, ssh.sign(vendor / "SHA256SUMS", "release", namespace="git"), keyring
    )
    keyring = ssh.key("email", 'namespaces="email"')
    refused("SIGNER_UNKNOWN", read, vendor, ssh.sign(vendor / "SHA256SUMS", "email"), keyring)


def test_a_signed_text_is_no_detached_signature(gpg, vendor):
    keyring = gpg.key("release")
    signed = gpg.directory / "signed"
    for how in ("--clear-sign", "--sign"):
        gpg.gpg("--output", str(signed), how, str(vendor / "SHA256SUMS"))
        with pytest.raises(KmodError) as caught:
            read(vendor, signed, keyring)
        assert caught.value.code in ("SIGNATURE_UNREADABLE", "SIGNATURE_BAD"), caught.value


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\0" * 100])
def test_what_is_no_signature_at_all_is_refused(vendor, content):
    (vendor / "signature").write_bytes(content)
    refused("SIGNATURE_UNREADABLE", read, vendor, vendor / "signature", vendor / "SHA256SUMS")
