# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The signature behind a module's ELF file.

``… | PKCS#7 in DER | struct module_signature | "~Module signature appended~\\n"`` (``include/linux/module_signature.h``)
"""
import struct
from typing import NamedTuple, Optional, Tuple

MARKER = b"~Module signature appended~\n"
_TRAILER = struct.Struct(">BBBBB3sI")  # algo, hash, id_type, signer_len, key_id_len, padding, sig_len
PKCS7 = 2


class Signature(NamedTuple):
    """``fault`` is "" or the code of what is wrong with its form: SIG_UNSUPPORTED (taken as unsigned) or SIG_MALFORMED (fatal)."""

    fault: str = ""
    pkcs7: str = ""  # hexadecimal


def split(data: bytes) -> Tuple[bytes, Optional[Signature]]:
    """(the module without its signature, the signature), as ``kernel/module/signing.c: mod_verify_sig`` cuts it."""
    if not data.endswith(MARKER):
        return data, None
    body = data[:-len(MARKER)]
    if len(body) <= _TRAILER.size:
        return body, Signature("SIG_MALFORMED")
    algo, digest, kind, signer, key, padding, size = _TRAILER.unpack(body[-_TRAILER.size:])
    if size >= len(body) - _TRAILER.size:
        return body, Signature("SIG_MALFORMED")
    if kind != PKCS7:
        return body, Signature("SIG_UNSUPPORTED")
    if algo or digest or signer or key or padding != b"\0\0\0":
        return body, Signature("SIG_MALFORMED")
    end = len(body) - _TRAILER.size
    return body[:end - size], Signature("", body[end - size:end].hex())
