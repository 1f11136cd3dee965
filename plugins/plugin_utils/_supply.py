# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether files are those that a vendor listed and signed, found out on the controller before anything
travels.

A list is what ``sha256sum`` writes. Its signature is checked by the tool that makes such signatures, against
the keys that were given and no others: nobody's own keyring, configuration or agent counts, and nothing is
fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host

LIMIT = 16 << 20  # of a list, a signature, a keyring
SECONDS = 60  # for a tool
PLAIN = re.compile(r"(\\?)([0-9A-Fa-f]{64}) [ *](.+)")  # sha256sum; a * marks a file that was read as binary
TAGGED = re.compile(r"(\\?)SHA256 \((.+)\) = ([0-9A-Fa-f]{64})")  # sha256sum --tag, and BSD
NAMESPACE = "file"  # what ssh-keygen(1) has for files


class Supply(NamedTuple):
    """A list of checksums that may be believed: file names, as they are from ``directory``, and their sha256;
    and who signed it.
    """

    path: str
    directory: str
    sums: dict[str, str]
    signer: str | None

    def check(self, path: str, data: bytes) -> None:
        """Hold the bytes of a file against the list. Errors: CHECKSUM_UNLISTED, CHECKSUM_DIFFERS."""
        name = os.path.relpath(
            os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)), self.directory
        )
        if name not in self.sums:
            raise KmodError(
                path,
                "is not listed in %s (as %s)" % (self.path, name),
                "Leave the file out, or get the vendor's complete list: its "
                "names are relative to its own directory",
                "CHECKSUM_UNLISTED",
            )
        found = hashlib.sha256(data).hexdigest()
        if found != self.sums[name]:
            raise KmodError(
                path,
                "is not the file that %s lists: its sha256 is %s, not %s"
                % (self.path, found, self.sums[name]),
                "Fetch it again from the vendor",
                "CHECKSUM_DIFFERS",
            )


def read(path: str, signature: str | None, keyring: str | None) -> Supply:
    """The list at ``path``, its detached signature checked against a keyring if one is given.

    Errors: CHECKSUMS_MALFORMED, and those of ``verified``.
    """
    data = Host("/").read(path, LIMIT)  # once: what is verified is what is read
    signer = verified(path, data, signature, keyring) if signature and keyring else None
    return Supply(path, os.path.realpath(os.path.dirname(path)), parse(path, data), signer)


def parse(path: str, data: bytes) -> dict[str, str]:
    """File name to sha256, of a list as ``sha256sum`` writes it, with or without ``--tag``.

    Errors: CHECKSUMS_MALFORMED.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        plain, tagged = PLAIN.fullmatch(line), TAGGED.fullmatch(line)
        if plain:
            escaped, digest, name = plain.groups()
        elif tagged:
            escaped, name, digest = tagged.groups()
        else:
            raise _malformed(path, number, "is not a line of a list of SHA-256 checksums")
        if escaped:  # coreutils: a name with a backslash, a newline or a carriage return in it
            name = re.sub(
                r"\\([\\nr])", lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match.group(1)], name
            )
        if name.startswith("/") or ".." in name.split("/"):
            raise _malformed(path, number, "names a file outside of the list's own directory: %r" % name)
        name = os.path.normpath(name)
        if sums.setdefault(name, digest.lower()) != digest.lower():
            raise _malformed(path, number, "lists %r again, with another checksum" % name)
    if not sums:
        raise KmodError(
            path,
            "lists no file",
            "Give the list of SHA-256 checksums that the vendor ships (SHA256SUMS)",
            "CHECKSUMS_MALFORMED",
        )
    return sums


def _malformed(path: str, number: int, why: str) -> KmodError:
    return KmodError(
        "%s, line %d" % (path, number),
        why,
        "Give the list of SHA-256 checksums as the vendor ships it (SHA256SUMS), with relative names",
        "CHECKSUMS_MALFORMED",
    )


class Question(NamedTuple):
    """A signature to be checked: the bytes signed, the files that the tool is given, and the paths to name in
    messages.
    """

    data: bytes
    signature: str
    keyring: str
    of: str
    signature_path: str
    keyring_path: str
    directory: str  # private, for what the tool writes

    def no(self, why: str, code: str, output: str = "") -> KmodError:
        for mine, path in ((self.signature, self.signature_path), (self.keyring, self.keyring_path)):
            output = output.replace(mine, path)
        said = " (%s)" % " ".join(output.split())[-300:] if output.strip() else ""
        step = {
            "SIGNER_UNKNOWN": "Find out whose key that is before you add it to the keyring",
            "KEYRING_UNREADABLE": "Give the signer's public key, in the form of the tool that made the signature",
        }
        return KmodError(
            self.signature_path,
            why + said,
            step.get(
                code,
                "Fetch the list and its signature again from the vendor, and do not deploy "
                "what came with these",
            ),
            code,
        )


def verified(path: str, data: bytes, signature: str, keyring: str) -> str:
    """Check the detached ``signature`` of ``data``, the content of ``path``; answers with who signed it, as
    the tool names them.

    The kind of signature says which tool is meant. Errors: SIGNATURE_UNREADABLE, SIGNATURE_BAD (of other
    data, or damaged), SIGNATURE_EXPIRED, SIGNER_UNKNOWN, SIGNER_EXPIRED, SIGNER_REVOKED, KEYRING_UNREADABLE,
    TOOL_MISSING, TOOL_FAILED.
    """
    host = Host("/")
    mark, keys = host.read(signature, LIMIT), host.read(keyring, LIMIT)
    with tempfile.TemporaryDirectory(prefix="kmod-") as directory:
        files = {}
        for name, content in (("signature", mark), ("keyring", keys)):
            files[name] = os.path.join(directory, name)
            with open(files[name], "wb") as file:
                file.write(content)
        question = Question(data, files["signature"], files["keyring"], path, signature, keyring, directory)
        return _kind(question, mark)(question)


def _kind(question: Question, mark: bytes) -> Callable[[Question], str]:
    head = mark.lstrip()
    if head.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        return _ssh
    if head.startswith(b"untrusted comment:"):
        return _minisign
    if head.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----"):
        raise question.no("is a signed text, not a detached signature", "SIGNATURE_UNREADABLE")
    if (
        head.startswith(b"-----BEGIN PGP SIGNATURE-----") or mark[:1] >= b"\x80"
    ):  # or bare packets (RFC 4880, 4.2)
        return _gpg
    raise question.no("is not a signature of gpg, ssh-keygen or minisign", "SIGNATURE_UNREADABLE")


def _gpg(question: Question) -> str:
    """By GnuPG, whose status lines say what was found (doc/DETAILS). gpgv would not do: to it every key of
    the keyring is valid for ever.
    """
    base = [
        "gpg",
        "--homedir",
        question.directory,
        "--no-options",
        "--batch",
        "--no-tty",
        "--no-autostart",
        "--disable-dirmngr",
        "--no-auto-key-retrieve",
        "--trust-model",
        "always",
        "--no-default-keyring",
        "--status-fd",
        "1",
        "--keyring",
    ]
    with open(question.keyring, "rb") as file:
        ring = (
            question.keyring if file.read(12)[8:] == b"KBXf" else os.path.join(question.directory, "ring.kbx")
        )
    if ring != question.keyring:
        imported = _run(base + [ring, "--import", question.keyring])
        if "[GNUPG:] IMPORT_OK " not in imported.stdout:
            raise question.no(
                "cannot be checked: %s holds no key of gpg" % question.keyring_path,
                "KEYRING_UNREADABLE",
                imported.stderr,
            )
    done = _run(base + [ring, "--verify", question.signature, "-"], question.data)
    lines = [line.split(" ", 3)[1:] for line in done.stdout.splitlines() if line.startswith("[GNUPG:] ")]
    said = {line[0]: line[1:] for line in lines}
    signers, name = [], None  # several may have signed it, and not all need to be known
    for word, *rest in lines:
        if word == "VALIDSIG" and name is not None:
            signers.append("%s (%s)" % (name, rest[0]))
        if word == "NEWSIG" or word.endswith("SIG"):
            name = rest[-1] if word == "GOODSIG" else None
    if signers and "BADSIG" not in said:
        return ", ".join(signers)
    for word, why, code in (
        ("BADSIG", "is not a signature of %s" % question.of, "SIGNATURE_BAD"),
        ("REVKEYSIG", "was made by a key that is revoked", "SIGNER_REVOKED"),
        ("EXPKEYSIG", "was made by a key that has expired", "SIGNER_EXPIRED"),
        ("EXPSIG", "has expired", "SIGNATURE_EXPIRED"),
        ("NO_PUBKEY", "was made by a key that %s does not hold" % question.keyring_path, "SIGNER_UNKNOWN"),
    ):
        if word in said:
            raise question.no(why, code, " ".join(said[word]))
    raise question.no(
        "cannot be checked by gpg",
        "SIGNATURE_UNREADABLE" if "NODATA" in said else "SIGNATURE_BAD",
        done.stderr,
    )


def _ssh(question: Question) -> str:
    """By OpenSSH: the keyring is a file of allowed signers (ssh-keygen(1)), any of whom may have signed it."""
    sound = _run(
        ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", question.signature], question.data
    )
    if sound.returncode:
        raise question.no(
            "is not a signature of %s in the namespace %r" % (question.of, NAMESPACE),
            "SIGNATURE_BAD",
            sound.stderr,
        )
    found = _run(["ssh-keygen", "-Y", "find-principals", "-s", question.signature, "-f", question.keyring])
    said = found.stderr
    for principal in found.stdout.splitlines():
        done = _run(
            [
                "ssh-keygen",
                "-Y",
                "verify",
                "-n",
                NAMESPACE,
                "-I",
                principal,
                "-s",
                question.signature,
                "-f",
                question.keyring,
            ],
            question.data,
        )
        if done.returncode == 0:
            return "%s (%s)" % (principal, done.stdout.split()[-1])
        said = done.stderr
    if "expired" in said or "not yet valid" in said:
        raise question.no("was made by a key that is not valid now", "SIGNER_EXPIRED", said)
    raise question.no(
        "was made by a key that %s does not allow for that" % question.keyring_path,
        "SIGNER_UNKNOWN",
        said + sound.stdout,
    )


def _minisign(question: Question) -> str:
    """By minisign: the keyring is the one public key."""
    data = os.path.join(question.directory, "data")
    with open(data, "wb") as file:
        file.write(question.data)
    done = _run(["minisign", "-V", "-Q", "-m", data, "-x", question.signature, "-p", question.keyring])
    if done.returncode == 0:
        with open(question.keyring, encoding="utf-8", errors="replace") as key:
            return "%s (%s)" % (key.read().split()[-1], done.stdout.strip())
    if "key id" in done.stderr:
        raise question.no(
            "was made by another key than that in %s" % question.keyring_path, "SIGNER_UNKNOWN", done.stderr
        )
    if "public key" in done.stderr:
        raise question.no(
            "cannot be checked: %s is not a public key of minisign" % question.keyring_path,
            "KEYRING_UNREADABLE",
            done.stderr,
        )
    raise question.no("is not a signature of %s" % question.of, "SIGNATURE_BAD", done.stderr)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def _run(argv: list[str], data: bytes = b"") -> Done:
    tool = shutil.which(argv[0])
    if tool is None:
        raise KmodError(
            argv[0],
            "is not installed on the controller, and this signature is checked by it",
            "Install it (Debian: %s)"
            % {"gpg": "gnupg", "ssh-keygen": "openssh-client"}.get(argv[0], argv[0]),
            "TOOL_MISSING",
        )
    try:
        done = subprocess.run(
            [tool, *argv[1:]],
            input=data,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env=dict(os.environ, LC_ALL="C"),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KmodError(
            tool, "cannot check the signature: %s" % error, "Try it by hand", "TOOL_FAILED"
        ) from None
    return Done(
        done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )
