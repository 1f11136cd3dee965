# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB's environment block: a file of 1024 bytes with ``name=value`` lines, filled up with ``#``
(grub-core/lib/envblk.c).

GRUB writes to the file's blocks in place, so its size never changes.
"""

import re
from typing import List, Optional, Tuple

from ...errors import KmodError
from .view import encode

HEADER = "# GRUB Environment Block\n"


def parse(text: str, path: str) -> List[Tuple[str, str]]:
    """The variables in their order. A block that GRUB would not read is an error."""
    if not text.startswith(HEADER):
        raise _malformed(path)
    variables = []
    for line in re.split(r"(?<!\\)\n", text[len(HEADER) :]):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            variables.append((name, re.sub(r"\\(.)", r"\1", value, flags=re.S)))
    return variables


def _malformed(path: str) -> KmodError:
    return KmodError(
        path,
        "is not an environment block of GRUB",
        "Make a new one: grub-editenv %s create" % path,
        "ENV_MALFORMED",
    )


def get(variables: List[Tuple[str, str]], name: str) -> Optional[str]:
    return next((value for each, value in variables if each == name), None)


def set_(text: str, name: str, value: Optional[str], *, path: str) -> str:
    """The block with one variable changed where it stands, added after the others, or (None) taken out."""
    old = re.search(r"^%s=(?:\\.|[^\\\n])*\n" % re.escape(name), text, re.M | re.S)
    line = "" if value is None else "%s=%s\n" % (name, re.sub(r"([\\\n])", r"\\\1", value))
    body = text.rstrip("#")
    if not body.endswith("\n"):
        raise _malformed(path)
    changed = body[: old.start()] + line + body[old.end() :] if old else body + line
    room = len(encode(text)) - len(encode(changed))
    if room < 0:
        raise KmodError(
            path,
            "has no room for %s" % name,
            "Remove variables that nobody uses: grub-editenv %s unset NAME" % path,
            "ENV_FULL",
        )
    return changed + "#" * room
