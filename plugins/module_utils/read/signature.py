# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The signature behind a module's ELF file, and the certificates that it is verified with.

``… | PKCS#7 in DER | struct module_signature | "~Module signature appended~\\n"``
(``include/linux/module_signature.h``); until 4.2 there is ``signer | key identifier | length | RSA
signature`` instead of the PKCS#7. Only the parts of ASN.1 that these need are read, and the host's libcrypto
does the arithmetic.
"""

import hashlib
import re
import struct
from typing import Iterator, List, NamedTuple, Optional, Tuple, Union

MARKER = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3sI")  # algo, hash, id_type, signer_len, key_id_len, padding, sig_len
X509, PKCS7 = 1, 2  # id_type: until 4.2, and since

_HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.8": "sha3_256",
    "2.16.840.1.101.3.4.2.9": "sha3_384",
    "2.16.840.1.101.3.4.2.10": "sha3_512",
    "1.2.840.113549.2.5": "md5",
}
_SIGNED_DATA, _DATA, _COMMON_NAME = "1.2.840.113549.1.7.2", "1.2.840.113549.1.7.1", "2.5.4.3"
_KEY_IDENTIFIER = "2.5.29.14"
_RSA = 1  # algo: until 4.2
# hash: until 4.2 (crypto/asymmetric_keys/public_key.h: PKEY_HASH_)
_OLD_HASHES = {2: "sha1", 4: "sha256", 5: "sha384", 6: "sha512", 7: "sha224"}


Bytes = Union[bytes, bytearray]


class Signature(NamedTuple):
    """``fault`` is "" or what is wrong with its form: SIG_UNSUPPORTED (ENOPKG), SIG_MALFORMED (EBADMSG) or
    SIG_BAD (EKEYREJECTED).

    The signer is named by issuer and serial number, or by a key identifier; bytes are hexadecimal. ``digest``
    is that of the module.
    """

    fault: str = ""
    id_type: int = PKCS7
    signer: str = ""  # the issuer's common name, for people
    issuer: str = ""
    serial: str = ""
    key_id: str = ""
    hash: str = ""
    digest: str = ""
    value: str = ""


class Certificate(NamedTuple):
    """``begins`` and ``ends`` are when it is valid, as ``2026-01-31 12:00:00`` (UTC), "" where that cannot be
    read. Kernels do not look at them.
    """

    subject: str  # common name
    issuer: str
    serial: str
    key_id: str
    key: bytes  # SubjectPublicKeyInfo in DER
    begins: str = ""
    ends: str = ""
    whole: bytes = b""  # in DER


class Asn1Error(ValueError):
    """Bytes that are not what their length or place says."""


class _Node(NamedTuple):
    tag: int
    data: Bytes  # all of what it was read from
    head: int  # where its tag is
    start: int  # where its contents start and end
    end: int

    @property
    def contents(self) -> bytes:
        return bytes(self.data[self.start : self.end])

    @property
    def whole(self) -> bytes:
        return bytes(self.data[self.head : self.end])

    def children(self) -> List["_Node"]:
        found, at = [], self.start
        while at < self.end:
            node = _node(self.data, at, self.end)
            found.append(node)
            at = node.end
        return found


def split(data: bytes) -> Tuple[bytes, Optional[Signature]]:
    """(the module without its signature, the signature), as ``kernel/module/signing.c: mod_verify_sig`` cuts
    and checks it.
    """
    if not data.endswith(MARKER):
        return data, None
    end = len(data) - len(MARKER) - _TRAILER.size
    if end <= 0:
        return data[: -len(MARKER)], Signature("SIG_MALFORMED")
    algo, hashed, kind, signer, key, padding, size = _TRAILER.unpack_from(data, end)
    if size >= end:
        return data[: -len(MARKER)], Signature("SIG_MALFORMED", kind)
    body, message = data[: end - size], data[end - size : end]
    if kind == X509:
        return body, _old_form(body, message, algo=algo, hashed=hashed, signer=signer, key=key)
    if kind != PKCS7:  # mod_check_sig fails before anything but the marker is cut off
        return data[: -len(MARKER)], Signature("SIG_UNSUPPORTED", kind)
    if algo or hashed or signer or key or padding != b"\0\0\0":
        return data[: -len(MARKER)], Signature("SIG_MALFORMED")
    try:
        return body, _signed_data(body, message)
    except (Asn1Error, IndexError, ValueError):  # fewer parts than a signature has
        return body, Signature("SIG_MALFORMED")


def _old_form(body: bytes, message: bytes, *, algo: int, hashed: int, signer: int, key: int) -> Signature:
    """kernel/module_signing.c: mod_verify_sig, as it was until 4.2"""
    start = len(body) - signer - key
    # the first is an EBADMSG there, and refused like an ENOPKG
    if start <= 0 or algo != _RSA or hashed not in _OLD_HASHES:
        return Signature("SIG_UNSUPPORTED", X509)
    name, key_id = body[start : start + signer], body[start + signer :]
    sized = len(message) > 2 and len(message) == 2 + int.from_bytes(message[:2], "big")
    return Signature(
        "",
        X509,
        name.decode("utf-8", "replace"),
        key_id=key_id.hex(),
        hash=_OLD_HASHES[hashed],
        digest=_digest(_OLD_HASHES[hashed], body[:start]),
        value=message[2:].hex() if sized else "",
    )


def _signed_data(body: bytes, message: bytes) -> Signature:
    """crypto/asymmetric_keys/pkcs7_parser.c; the first of its signers"""
    kind, content = _node(message, 0, len(message)).children()[:2]
    if _oid(kind) != _SIGNED_DATA:
        return Signature("SIG_MALFORMED")
    parts = content.children()[0].children()
    encapsulated = parts[2].children()
    signers = parts[-1].children()
    if parts[-1].tag != 0x31 or not signers:
        return Signature("SIG_MALFORMED")
    fields = signers[0].children()
    name, algorithm, rest = fields[1], fields[2], fields[3:]
    found = Signature(hash=_HASHES.get(_oid(algorithm.children()[0]), ""))
    if name.tag == 0x30:
        issuer, serial = name.children()[:2]
        found = found._replace(signer=_common_name(issuer), issuer=issuer.whole.hex(), serial=_number(serial))
    else:
        found = found._replace(key_id=name.contents.hex())
    # kernel/…/pkcs7_verify.c: pkcs7_verify: not pkcs7-data, or has authattrs
    if _oid(encapsulated[0]) != _DATA or rest[0].tag == 0xA0:
        return found._replace(fault="SIG_BAD")
    if not found.hash:
        return found._replace(fault="SIG_UNSUPPORTED")
    return found._replace(digest=_digest(found.hash, body), value=rest[1].contents.hex())


def _digest(name: str, body: bytes) -> str:
    try:
        return hashlib.new(name, body).hexdigest()
    except ValueError:  # this Python has no such hash
        return ""


def made_by(signature: Signature, certificate: Certificate) -> bool:
    if signature.key_id:
        return signature.key_id == certificate.key_id
    return (signature.issuer, signature.serial) == (certificate.issuer, certificate.serial)


def verify(signature: Signature, certificate: Certificate) -> Optional[bool]:
    """Whether the signature over the digest is right; None where that cannot be told here: no libcrypto, or
    one that lacks this kind of key.
    """
    if not signature.digest:
        return None
    from .. import libcrypto  # few modules that are judged are signed

    return libcrypto.verify(
        certificate.key,
        signature.hash.replace("_", "-"),
        digest=bytes.fromhex(signature.digest),
        value=bytes.fromhex(signature.value),
    )


def certificates(data: Bytes) -> Iterator[Certificate]:
    """The X.509 certificates anywhere in the data: a .der file, or a list of them as EFI variables have."""
    at = 0
    # a sequence that begins with one; those of short elliptic keys are less than 256 bytes
    for match in re.finditer(rb"\x30(?=(?:\x81.|\x82..)\x30[\x81\x82])", data, re.S):
        if match.start() < at:
            continue
        try:
            node = _node(data, match.start(), len(data))
            found = _certificate(node)
        except (Asn1Error, IndexError, ValueError):
            continue
        at = node.end
        yield found


def _certificate(node: _Node) -> Certificate:
    fields = node.children()[0].children()
    fields = fields[1:] if fields[0].tag == 0xA0 else fields  # the version
    serial, issuer, subject, key = fields[0], fields[2], fields[4], fields[5]
    key_id = ""
    for field in fields[6:]:
        for extension in field.children()[0].children() if field.tag == 0xA3 else ():
            parts = extension.children()
            if _oid(parts[0]) == _KEY_IDENTIFIER:
                key_id = _node(parts[-1].contents, 0, len(parts[-1].contents)).contents.hex()
    begins, ends = map(_time, fields[3].children()[:2])
    return Certificate(
        _common_name(subject),
        issuer.whole.hex(),
        _number(serial),
        key_id,
        key.whole,
        begins,
        ends,
        node.whole,
    )


def key_type(certificate: Certificate) -> Tuple[str, str]:
    """The algorithm of its public key and, of an elliptic one, the curve, as object identifiers; "" where
    there is none. Error: ValueError.
    """
    algorithm = _node(certificate.key, 0, len(certificate.key)).children()[0].children()
    named = len(algorithm) > 1 and algorithm[1].tag == 6
    return _oid(algorithm[0]), _oid(algorithm[1]) if named else ""


def _node(data: Bytes, at: int, limit: int) -> _Node:
    if at + 2 > limit:
        raise Asn1Error("cut off")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 0 < count <= 4 or start + count > limit:
            raise Asn1Error("bad length")
        length, start = int.from_bytes(data[start : start + count], "big"), start + count
    if start + length > limit:
        raise Asn1Error("too long")
    return _Node(data[at], data, at, start, start + length)


def _oid(node: _Node) -> str:
    if node.tag != 6 or not node.contents:
        raise Asn1Error("no object identifier")
    numbers, value = [], 0
    for byte in node.contents:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    return ".".join(
        str(each)
        for each in [min(numbers[0] // 40, 2), numbers[0] - 40 * min(numbers[0] // 40, 2)] + numbers[1:]
    )


def _time(node: _Node) -> str:
    """UTCTime has two digits for the year, which is one from 1950 to 2049 (RFC 5280)."""
    text = node.contents.decode("ascii", "replace")
    if node.tag == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    digits = text[:14]
    if len(digits) != 14 or not digits.isdigit():
        return ""
    return "%s-%s-%s %s:%s:%s" % (digits[:4], *(digits[at : at + 2] for at in range(4, 14, 2)))


def _number(node: _Node) -> str:
    return node.contents.lstrip(b"\0").hex()


def _common_name(name: _Node) -> str:
    for part in name.children():
        for pair in part.children():
            kind, value = pair.children()[:2]
            if _oid(kind) == _COMMON_NAME:
                return value.contents.decode("utf-8", "replace")
    return ""
