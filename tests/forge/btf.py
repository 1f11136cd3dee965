# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Types as .BTF has them (Documentation/bpf/btf.rst)."""

import struct
from typing import Any, Sequence, Tuple, Union


def btf_type(
    kind: int, name: str, value: int, parts: int = 0, more: Sequence[Union[int, str]] = ()
) -> Tuple[Any, ...]:
    """One BTF type: ``value`` is its size or a type's id, ``more`` the numbers (or names) behind it."""
    return kind, name, value, parts, tuple(more)


def btf_int(name: str, size: int) -> Tuple[Any, ...]:
    return btf_type(1, name, size, 0, [8 * size])


def btf_array(element: int) -> Tuple[Any, ...]:
    return btf_type(3, "", 0, 0, [element, 1, 4])


def btf_struct(name: str, size: int, members: Sequence[Tuple[str, int, int]]) -> Tuple[Any, ...]:
    """``members``: name, type, offset in bits."""
    return btf_type(4, name, size, len(members), [each for member in members for each in member])


def btf_function(result: int, parameters: Sequence[Tuple[str, int]]) -> Tuple[Any, ...]:
    return btf_type(13, "", result, len(parameters), [each for parameter in parameters for each in parameter])


def btf(types: Sequence[Tuple[Any, ...]]) -> bytes:
    """A .BTF section."""
    names, data = b"\0", b""
    for kind, name, value, parts, more in types:
        numbers = []
        for word in ("", name) + more:  # the first is the empty one, at 0
            if isinstance(word, str) and word:
                numbers.append(len(names))
                names += word.encode() + b"\0"
            else:
                numbers.append(word or 0)
        data += struct.pack("<III%dI" % len(more), numbers[1], kind << 24 | parts, value, *numbers[2:])
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), len(names)) + data + names
