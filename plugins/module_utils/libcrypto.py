# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signatures of public keys, verified by the host's libcrypto: the library that the ``openssl`` command is made of,
without a process for each.
"""

import contextlib
import ctypes
import ctypes.util
import functools
from typing import Any, Iterator, Optional

_POINTER, _BYTES, _LENGTH = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
_FUNCTIONS = {  # include/openssl/x509.h, evp.h, err.h: what each takes and gives
    "d2i_PUBKEY": ([_POINTER, ctypes.POINTER(_BYTES), ctypes.c_long], _POINTER),
    "EVP_PKEY_CTX_new": ([_POINTER, _POINTER], _POINTER),
    "EVP_PKEY_verify_init": ([_POINTER], ctypes.c_int),
    "EVP_PKEY_CTX_ctrl_str": ([_POINTER, _BYTES, _BYTES], ctypes.c_int),
    "EVP_PKEY_verify": ([_POINTER, _BYTES, _LENGTH, _BYTES, _LENGTH], ctypes.c_int),
    "ERR_clear_error": ([], None),
}


def verify(key: bytes, hash_name: str, *, digest: bytes, value: bytes) -> Optional[bool]:
    """Whether ``value`` is the signature over a digest by a key (SubjectPublicKeyInfo in DER).

    None where that cannot be told: no library, or one that lacks this kind of key or hash.
    """
    context = _context(key, hash_name)
    if context is None:
        return None
    good = _library().EVP_PKEY_verify(context, value, len(value), digest, len(digest)) == 1
    _library().ERR_clear_error()
    return good


@functools.lru_cache(maxsize=None)  # as many as there are keys of a host's kernels, and those are few
def _context(key: bytes, hash_name: str) -> Optional[int]:
    """An EVP_PKEY_CTX, which verifies any number of signatures."""
    library = _library()
    if library is None:
        return None
    parsed = library.d2i_PUBKEY(None, ctypes.byref(_BYTES(key)), len(key))
    context: Optional[int] = library.EVP_PKEY_CTX_new(parsed, None) if parsed else None
    ready = (
        context is not None
        and library.EVP_PKEY_verify_init(context) == 1
        and library.EVP_PKEY_CTX_ctrl_str(context, b"digest", hash_name.encode()) == 1
    )
    library.ERR_clear_error()
    return context if ready else None


@functools.lru_cache(maxsize=None)
def _library() -> Any:
    for name in _names():
        try:
            library = ctypes.CDLL(name)
            for function, (takes, gives) in _FUNCTIONS.items():
                getattr(library, function).argtypes = takes
                getattr(library, function).restype = gives
        except (OSError, AttributeError):
            continue
        return library
    return None


def _names() -> Iterator[str]:
    """What Python's own hashlib is linked to is there already; a Python without such a file has to look."""
    with contextlib.suppress(ImportError, AttributeError):
        import _hashlib

        yield _hashlib.__file__
    found = ctypes.util.find_library("crypto")
    if found:
        yield found
