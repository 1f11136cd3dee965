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

from ...errors import KmodError, forgiving
from ...host import Host
from ...read import names
from . import cpio
from .image import SIZE_LIMIT

NAME = "etc/outoftree-kmod.json"
FORMAT = 1
METHODS = ("overlay", "segment", "rebuild")
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
    tail: bytes = b""  # the manifest's own header and all that has to follow it; nothing where the file has lost its manifest (see witness)

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


def identity(wants: Dict[str, Any]) -> str:
    """What a variant says of itself once it is booted: the sha256 of what it was made of."""
    return hashlib.sha256(_dumped(wants)).hexdigest()


def sound(wants: Any) -> bool:
    """Whether these are wants as they are written here, and all names in them can be used as such: images are input, also those with our marks."""
    try:
        return (bool(wants["drivers"]) and all(names.check_driver(each) for each in wants["drivers"]) and names.is_release(wants["kernel"])
                and isinstance(wants["base"]["sha256"], str) and isinstance(wants["base"]["size"], int)
                and all(names.is_module(name) and isinstance(sha256, str) for name, sha256 in wants["modules"]))
    except (TypeError, KeyError, ValueError, KmodError):
        return False


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
    end = data_at + member.size + cpio.padding(member.size)
    behind = tail[head_at:end] + cpio.archive([], member.inode[2] + 1)[0][1]
    try:
        data = json.loads(tail[data_at:data_at + member.size].decode("ascii"))
        if hashlib.sha256(_dumped({key: value for key, value in data.items() if key != "sha256"})).hexdigest() != data["sha256"]:
            return None
        wants = data["wants"]
        variant = Variant(path, size, wants, data["method"], tuple(data["head"]), tuple(data["segment"]), dict(data["contents"]),
                          behind + b"\0" * cpio.padding(start + head_at + len(behind), cpio.BLOCK))
        ours = (data["format"] == FORMAT and data["method"] in METHODS and sound(wants)
                and variant.head[0] + variant.segment[0] == start + head_at)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    return variant if ours else None


def checked(host: Host, variant: Variant) -> Optional[str]:
    """The sha256 of the whole file; None where it is not, to the last byte, what its manifest says, so that it is to be made again."""
    whole, part = hashlib.sha256(), hashlib.sha256()
    digests, tail = [], b""
    ends = [variant.head[0], variant.head[0] + variant.segment[0]]
    at = 0
    with forgiving(), host.open(variant.path) as reader:
        if not variant.tail or reader.size != ends[1] + len(variant.tail):
            return None
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
            tail += b"" if ends else chunk
    return whole.hexdigest() if digests == [variant.head[1], variant.segment[1]] and tail == variant.tail else None
