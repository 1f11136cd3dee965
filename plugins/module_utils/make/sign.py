# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules get the signature that the kernel's ``scripts/sign-file`` makes, without that tool.

openssl makes it, which also knows keys in hardware (PKCS#11); where there is none, Python's ``cryptography``
does. What either has made is read and verified as a kernel does it before anybody gets it. The key stays
where it is; a passphrase goes through a pipe, never onto a command line or into a file.
"""

import base64
import binascii
import contextlib
import os
import re
import struct
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional

from .. import tools
from ..errors import KmodError
from ..host import Host
from ..lock import scratch
from ..read import ko, signature
from ..read.signature import MARKER, Certificate

HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")
TOKEN = "pkcs11:"  # how the name of a key in hardware begins (RFC 7512)
KEY_LIMIT = 1 << 20  # bytes of a key or a certificate
RSA, ELLIPTIC = "1.2.840.113549.1.1.1", "1.2.840.10045.2.1"
# crypto/asymmetric_keys/x509_cert_parser.c: x509_extract_key_data
CURVES = {
    "1.2.840.10045.3.1.1": "P-192",
    "1.2.840.10045.3.1.7": "P-256",
    "1.3.132.0.34": "P-384",
    "1.3.132.0.35": "P-521",
}
OTHERS = {"1.3.101.112": "Ed25519", "1.3.101.113": "Ed448", "1.2.840.10040.4.1": "DSA"}
# What openssl and Python's cryptography say of a key that is not the certificate's, and of a passphrase.
_MISMATCH = re.compile(r"key (values|type) mismatch|different key type|do(es)? not match", re.I)
_LOCKED = re.compile(
    r"bad decrypt|bad password|maybe wrong password|incorrect password|PIN|login failed", re.I
)
_ENCRYPTED = re.compile(rb"BEGIN ENCRYPTED PRIVATE KEY|^Proc-Type: 4,ENCRYPTED", re.M)


class SigningKey(NamedTuple):
    """What signs: a private key, by path or by PKCS#11 URI, and the certificate that belongs to it."""

    name: str
    certificate: Certificate
    passphrase: Optional[str] = None

    def __repr__(self) -> str:  # whatever shows it shows no passphrase
        return "SigningKey(%s)" % self.name

    def as_dict(self) -> Dict[str, str]:
        """By which a person, or a machine, knows the certificate."""
        found = self.certificate
        return {
            "subject": found.subject,
            "issuer": found.issuer,
            "serial": found.serial,
            "key_id": found.key_id,
        }


class SignedBytes(NamedTuple):
    """A module with a signature, and whether that is a new one."""

    data: bytes
    new: bool


def key(name: str, certificate: Optional[str] = None, passphrase: Optional[str] = None) -> SigningKey:
    """The key at a path or with a PKCS#11 URI; the certificate (PEM or DER) may be in the key's own file.

    Errors: KEY_UNREADABLE, KEY_LOCKED, KEY_UNSUITED, CERT_UNREADABLE, CERT_EXPIRED, BAD_OPTION, PATH_MISSING
    and others of reading.
    """
    passphrase = passphrase or None
    if name.startswith(TOKEN):
        _check_uri(name)
        if not certificate:
            raise KmodError(
                "certificate",
                "is not given, and a key in hardware brings none along",
                "Give the file with its certificate",
                "BAD_OPTION",
            )
    else:
        name = os.path.abspath(os.path.expanduser(name))
        data = _read(name)
        if b"PRIVATE KEY-----" not in data:
            raise KmodError(
                name,
                "has no private key in PEM form%s"
                % (", but a certificate or a public key" if b"-----BEGIN" in data else ""),
                "Give the file that begins with -----BEGIN PRIVATE KEY----- (openssl pkey turns others into it)",
                "KEY_UNREADABLE",
            )
        if _ENCRYPTED.search(data) and passphrase is None:
            raise _locked(name, "is encrypted, and no passphrase was given")
    path = certificate or name
    found = read_certificate(path, _read(path))
    _check_type(path, found)
    _check_dates(path, found)
    return SigningKey(name, found, passphrase)


def read_certificate(path: str, data: bytes) -> Certificate:
    """The first certificate in a PEM or DER file. Error: CERT_UNREADABLE."""
    pem = re.search(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", data, re.S)
    with contextlib.suppress(binascii.Error, ValueError):
        data = base64.b64decode(pem.group(1)) if pem else data
    found = next(signature.certificates(data), None)
    if found is None:
        raise KmodError(
            path,
            "has no X.509 certificate",
            "Give the certificate of the key, in PEM or DER form",
            "CERT_UNREADABLE",
        )
    return found


def _check_uri(name: str) -> None:
    if re.search(r"[;?&]pin-value=", name):
        raise KmodError(
            "key",
            "has the PIN in it (pin-value), where everybody on this machine would see it",
            "Give it as passphrase, or name a file with it (pin-source=file:/...)",
            "BAD_OPTION",
        )


def _check_type(path: str, certificate: Certificate) -> None:
    algorithm, curve = signature.key_type(certificate)
    if algorithm == RSA or (algorithm == ELLIPTIC and curve in CURVES):
        return
    what = OTHERS.get(algorithm) or ("elliptic, with curve %s" % curve if curve else "of type %s" % algorithm)
    raise KmodError(
        path,
        "its key is %s, which no kernel verifies modules with" % what,
        "Use an RSA key (2048 bits or more), or for kernels since 5.13 an elliptic one (P-256, P-384)",
        "KEY_UNSUITED",
    )


def _check_dates(path: str, certificate: Certificate) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    for wrong, when, what in (
        (certificate.ends and certificate.ends < now, certificate.ends, "was valid until"),
        (certificate.begins and certificate.begins > now, certificate.begins, "is valid only from"),
    ):
        if wrong:
            raise KmodError(
                path,
                "the certificate %s %s UTC (it is %s now)" % (what, when, now),
                "Give one that is valid; kernels look at no dates, so what was signed before goes on loading",
                "CERT_EXPIRED",
            )


def _read(path: str) -> bytes:
    return Host("/").read(os.path.abspath(path), KEY_LIMIT)


def _locked(name: str, why: str) -> KmodError:
    return KmodError(name, why, "Give the right one as passphrase (from Ansible Vault)", "KEY_LOCKED")


# Which hash


def hash_of(config: Dict[str, str]) -> Optional[str]:
    """The hash that a kernel with this configuration has its own modules signed with; None where it does not
    say, as one without signatures.
    """
    return config.get("CONFIG_MODULE_SIG_HASH")


def check_hash(name: str, whence: str) -> str:
    """Error: SIGN_HASH."""
    if name not in HASHES:
        raise KmodError(
            whence,
            "asks for the hash %r, by which nothing can be signed here" % name,
            "Give one of %s" % ", ".join(HASHES),
            "SIGN_HASH",
        )
    return name


# Signing


def signed(
    path: str, data: bytes, by: SigningKey, hash_name: str, *, before: Optional[Mapping[str, str]] = None
) -> SignedBytes:
    """The bytes of a module with a signature by this key; as they are where they have that already.

    A signature by the same certificate is replaced, and one by the certificate that it is known to have been
    signed with ``before`` (as ``SigningKey.as_dict`` has it); others are left alone. ``path`` is for messages.
    Errors: SIGNED_BY_OTHERS, SIGN_PACKED, MODULE_BAD, SIGN_FAILED, KEY_MISMATCH, KEY_LOCKED, KEY_UNREADABLE,
    TOOL_MISSING.
    """
    module = ko.unpacked(data, path)
    if module.packed:
        raise KmodError(
            path,
            "is compressed (%s), and a signature is made of what is in it" % module.packed,
            "Sign it before it is compressed; nothing here needs it compressed",
            "SIGN_PACKED",
        )
    if module.faults:
        raise KmodError(
            path, "is not a kernel module: " + module.faults[0].message, "Copy the file again", "MODULE_BAD"
        )
    body, found = signature.split(data)
    if found is not None:
        current = signature.made_by(found, by.certificate)
        if current and found.hash == hash_name.replace("-", "_") and _verified(found, by) is True:
            return SignedBytes(data, False)
        known = [before.get(name) for name in ("issuer", "serial")] if before else None
        if not current and known != [found.issuer, found.serial]:
            raise KmodError(
                path,
                "is signed already, by %s" % (found.signer or found.key_id or "somebody unknown"),
                "Give the module as it was built, without a signature",
                "SIGNED_BY_OTHERS",
            )
    return SignedBytes(_made(path, body, by, hash_name), True)


def try_out(by: SigningKey) -> None:
    """See that the key opens and is that of the certificate, before anything is made that it is to sign.

    Errors: those of ``signed`` that are about the key.
    """
    _made(by.name, b"to be signed", by, "sha256")


def _made(path: str, body: bytes, by: SigningKey, hash_name: str) -> bytes:
    message = _message(path, body, by, hash_name)
    made = body + message + struct.pack(">BBBBB3xI", 0, 0, signature.PKCS7, 0, 0, len(message)) + MARKER
    _prove(path, made, body, by, hash_name=hash_name)
    return made


def _prove(path: str, made: bytes, body: bytes, by: SigningKey, *, hash_name: str) -> None:
    rest, found = signature.split(made)
    wrong = None
    if found is None or found.fault or rest != body or not signature.made_by(found, by.certificate):
        wrong = "is not one that a kernel would read"
    elif found.hash != hash_name.replace("-", "_"):
        wrong = "was made with %s instead of %s" % (found.hash or "another hash", hash_name)
    else:
        good = _verified(found, by)
        if good is False:
            raise _mismatch(by)
        wrong = None if good else "cannot be verified here, with neither openssl nor Python's cryptography"
    if wrong:
        raise KmodError(path, "the signature that was made " + wrong, "Report this as a bug", "SIGN_FAILED")


def _mismatch(by: SigningKey) -> KmodError:
    return KmodError(
        by.name,
        "is not the key of the certificate (%s)" % (by.certificate.subject or by.certificate.serial),
        "Give the certificate that was made for this key",
        "KEY_MISMATCH",
    )


def _verified(found: signature.Signature, by: SigningKey) -> Optional[bool]:
    """By the reader that judges modules; by Python's cryptography where that has no openssl."""
    good = signature.verify(found, by.certificate)
    return _verified_in_python(found, by) if good is None else good


def _message(path: str, body: bytes, by: SigningKey, hash_name: str) -> bytes:
    """The PKCS#7 message, without certificates, attributes or the module itself."""
    maker = _maker()
    if maker is None:
        raise KmodError(
            "openssl",
            "is not installed on this machine, and neither is Python's cryptography, one of which signs",
            "Install either (packages openssl, python3-cryptography)",
            "TOOL_MISSING",
        )
    return maker(path, body, by, hash_name)


def _maker() -> Optional[Callable[[str, bytes, SigningKey, str], bytes]]:
    if tools.find("openssl"):
        return _by_openssl
    with contextlib.suppress(ImportError):
        import cryptography.hazmat.primitives.serialization.pkcs7  # noqa: F401

        return _in_python
    return None


def _by_openssl(path: str, body: bytes, by: SigningKey, hash_name: str) -> bytes:
    pem = base64.encodebytes(by.certificate.whole).decode("ascii")
    with scratch() as directory, _passphrase(by.passphrase) as handle:
        module, certificate = os.path.join(directory, "module"), os.path.join(directory, "certificate")
        made = os.path.join(directory, "message")
        with open(module, "wb") as file:
            file.write(body)
        with open(certificate, "w", encoding="ascii") as text:
            text.write("-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % pem)
        argv = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-outform", "DER"]
        argv += ["-md", hash_name, "-in", module, "-signer", certificate, "-out", made]
        argv += ["-inkey", by.name]
        argv += ["-passin", "fd:%d" % handle] + (_token_options() if by.name.startswith(TOKEN) else [])
        done = tools.run(argv, check=False, held=(handle,))
        if done.status:
            raise _refused(path, by, done.err)
        with open(made, "rb") as result:
            return result.read()


@contextlib.contextmanager
def _passphrase(text: Optional[str]) -> Iterator[int]:
    """A handle to read it from; an empty line where there is none, so that nothing asks for it."""
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as pipe:
            pipe.write((text or "").encode("utf-8") + b"\n")
        yield reading
    finally:
        os.close(reading)


def _token_options() -> List[str]:
    """What has openssl reach keys in hardware: its provider (3.0 or newer), or the engine.

    Error: TOOL_MISSING.
    """
    if tools.run(["openssl", "list", "-providers", "-provider", "pkcs11"], check=False).status == 0:
        return ["-provider", "pkcs11", "-provider", "default"]
    if "available" in tools.run(["openssl", "engine", "-t", "pkcs11"], check=False).out:
        return ["-engine", "pkcs11", "-keyform", "engine"]
    raise KmodError(
        "openssl",
        "has neither the provider nor the engine for PKCS#11 on this machine",
        "Install either (packages pkcs11-provider, libengine-pkcs11-openssl, openssl-pkcs11)",
        "TOOL_MISSING",
    )


def _refused(path: str, by: SigningKey, said: str) -> KmodError:
    """By what openssl, or Python's cryptography, says of a key."""
    last = "; ".join(line for line in said.strip().splitlines() if line.strip())[-400:]
    if _MISMATCH.search(said):
        return _mismatch(by)
    if _LOCKED.search(said):
        return _locked(
            by.name,
            "cannot be opened with the passphrase that was given"
            if by.passphrase
            else "cannot be opened without a passphrase",
        )
    if re.search(
        r"unable to load|could not (read|find|deserialize)|no start line|not found|unsupported", said, re.I
    ):
        return KmodError(
            by.name,
            "cannot be used as a key: %s" % last,
            "Check the file, or the token's URI",
            "KEY_UNREADABLE",
        )
    return KmodError(path, "cannot be signed: %s" % last, "Sign by hand to see why", "SIGN_FAILED")


# Without openssl


def _in_python(path: str, body: bytes, by: SigningKey, hash_name: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.backends import default_backend
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs7

    if by.name.startswith(TOKEN):
        raise KmodError(
            "openssl",
            "is not installed on this machine, and keys in hardware need it",
            "Install it",
            "TOOL_MISSING",
        )
    options = [
        pkcs7.PKCS7Options.DetachedSignature,
        pkcs7.PKCS7Options.Binary,
        pkcs7.PKCS7Options.NoAttributes,
        pkcs7.PKCS7Options.NoCerts,
    ]
    secret = None if by.passphrase is None else by.passphrase.encode("utf-8")
    pem = _read(by.name)
    try:
        private: Any = serialization.load_pem_private_key(
            pem, secret if _ENCRYPTED.search(pem) else None, default_backend()
        )
        certificate = x509.load_der_x509_certificate(by.certificate.whole, default_backend())
        builder = pkcs7.PKCS7SignatureBuilder().set_data(body)
        builder = builder.add_signer(certificate, private, _python_hash(hash_name))
        return builder.sign(serialization.Encoding.DER, options)
    except (ValueError, TypeError) as error:
        raise _refused(path, by, str(error)) from None


def _python_hash(name: str) -> Any:
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, name.upper().replace("-", "_"))()


def _verified_in_python(found: signature.Signature, by: SigningKey) -> Optional[bool]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.backends import default_backend
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
    except ImportError:
        return None
    public: Any = serialization.load_der_public_key(by.certificate.key, default_backend())
    hashed = utils.Prehashed(_python_hash(found.hash.replace("_", "-")))
    value, digest = bytes.fromhex(found.value), bytes.fromhex(found.digest)
    try:
        if signature.key_type(by.certificate)[0] == RSA:
            public.verify(value, digest, padding.PKCS1v15(), hashed)
        else:
            public.verify(value, digest, ec.ECDSA(hashed))
    except InvalidSignature:
        return False
    return True
