# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest of a variant: the last member of its last segment, found from the end without unpacking the image.

It says what the variant was made of (``wants``: the same wants, the same variant) and the digests of all that precedes it, so that one
reading of the file shows whether it is whole.
"""
import hashlib
import json
import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ...errors import KmodError
from ...host import Host
from . import cpio
from .image import SIZE_LIMIT

NAME = "etc/outoftree-kmod.json"
FORMAT = 1
TAIL = 1 << 18  # more than any manifest with the trailer and the padding behind it
NUMBERED = re.compile(r"^(.+)\.([1-9][0-9]*)$")


class Variant(NamedTuple):
    """A variant of ours that lies on the host."""

    path: str
    size: int
    wants: Dict[str, Any]
    method: str
    head: Tuple[int, str]  # size and sha256 of what precedes the segment: the shipped image, or a rebuilt one
    segment: Tuple[int, str]  # size and sha256 from there to the manifest's own header
    contents: Dict[str, Any]  # what was added, for people

    @property
    def base(self) -> str:
        """The path of the shipped image that it is a variant of."""
        return NUMBERED.sub(r"\1", self.path)


def text(wants: Dict[str, Any], method: str, head: Tuple[int, str], segment: Tuple[int, str], contents: Dict[str, Any]) -> bytes:
    """The manifest's bytes, the same for the same arguments."""
    data = {"format": FORMAT, "wants": wants, "method": method, "head": head, "segment": segment, "contents": contents}
    return _dumped(dict(data, sha256=hashlib.sha256(_dumped(data)).hexdigest()))


def _dumped(data: Dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, indent=1).encode("ascii") + b"\n"


def find(host: Host, path: str) -> Optional[Variant]:
    """The variant at ``path``; None for an image that is not ours."""
    with host.open(path) as reader:
        size = reader.size
        start = max(0, size - TAIL)
        tail = reader.at(start, TAIL)
    name_at = tail.rfind(NAME.rsplit("/", 1)[1].encode("ascii") + b"\0")
    head_at = tail.rfind(b"070701", 0, max(name_at, 0))
    found = cpio.header(tail[head_at:head_at + cpio.HEADER]) if head_at >= 0 else None
    if found is None:
        return None
    member, name_size = found
    data_at = head_at + cpio.HEADER + name_size
    data_at += cpio.padding(data_at - head_at)
    try:
        data = json.loads(tail[data_at:data_at + member.size].decode("ascii"))
        if hashlib.sha256(_dumped({key: value for key, value in data.items() if key != "sha256"})).hexdigest() != data["sha256"]:
            return None
        wants = data["wants"]
        variant = Variant(path, size, wants, data["method"], tuple(data["head"]), tuple(data["segment"]), data["contents"])
        ours = (data["format"] == FORMAT and isinstance(wants["drivers"], list) and isinstance(wants["kernel"], str)
                and variant.head[0] + variant.segment[0] == start + head_at)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
    return variant if ours else None


def checked(host: Host, variant: Variant) -> Optional[str]:
    """The sha256 of the whole file; None where head or segment are not what the manifest says, so that it is to be made again."""
    whole, part = hashlib.sha256(), hashlib.sha256()
    digests = []
    ends = [variant.head[0], variant.head[0] + variant.segment[0]]
    at = 0
    try:
        with host.open(variant.path) as reader:
            for chunk in reader.chunks(limit=SIZE_LIMIT):
                whole.update(chunk)
                while ends and at + len(chunk) >= ends[0]:
                    cut = ends.pop(0) - at
                    part.update(chunk[:cut])
                    digests.append(part.hexdigest())
                    part = hashlib.sha256()
                    chunk, at = chunk[cut:], at + cut
                part.update(chunk)
                at += len(chunk)
    except KmodError:
        return None
    return whole.hexdigest() if digests == [variant.head[1], variant.segment[1]] else None
