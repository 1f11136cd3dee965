# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest of a variant: the last member of its last segment, found from the end without unpacking the
image.

It says what the variant was made of (``wants``: the same wants, the same variant) and the digests of all that
precedes it, so that one reading of the file shows whether it is whole.
"""

import hashlib
import json
import re
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple, Union

from ...errors import KmodError, MarkNewer, forgiving
from ...host import Host
from ...read import names
from . import cpio
from .image import SIZE_LIMIT

NAME = "etc/outoftree-kmod.json"
FORMAT = 1
METHODS = ("overlay", "segment", "rebuild")
TAIL = 1 << 18  # more than any manifest with the trailer and the padding behind it
NUMBERED = re.compile(r"^(.+)\.([1-9][0-9]*)$")


EarlyLoad = Union[bool, Tuple[str, ...]]  # whether the drivers are loaded at once, or which of them


class Base(NamedTuple):
    """The shipped image that a variant was made of."""

    path: str
    size: int
    sha256: str


class Wants(NamedTuple):
    """What a variant was made of: the same wants, the same variant."""

    kernel: str
    drivers: Tuple[str, ...]
    early_load: EarlyLoad
    modules: Tuple[Tuple[str, str], ...]  # name and sha256 of each
    base: Base
    needed: Tuple[Tuple[str, str], ...] = ()  # what those need that is not the kernel's own either, likewise
    configured: Tuple[Tuple[str, str], ...] = ()  # path and sha256 of the drivers' files in modprobe.d
    other: Tuple[Tuple[str, Any], ...] = ()  # what another version of this collection has written besides

    def as_dict(self) -> Dict[str, Any]:
        """As it is stored, in manifests and in marks."""
        lists = {"needed": self.needed, "configured": self.configured}
        said = dict(self.other, **{name: list(map(list, rows)) for name, rows in lists.items() if rows})
        return dict(
            said,
            kernel=self.kernel,
            drivers=list(self.drivers),
            early_load=list(self.early_load) if isinstance(self.early_load, tuple) else self.early_load,
            modules=[list(module) for module in self.modules],
            base=dict(self.base._asdict()),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Wants":
        """The inverse. ValueError, TypeError, KeyError or KmodError for what was not written here, or has
        names that cannot be used as such: images are input, also those with our marks."""
        base = Base(data["base"]["path"], data["base"]["size"], data["base"]["sha256"])
        early = data["early_load"]
        modules = tuple((name, sha256) for name, sha256 in data["modules"])
        needed = tuple((name, sha256) for name, sha256 in data.get("needed", ()))
        configured = tuple((path, sha256) for path, sha256 in data.get("configured", ()))
        _texts(
            data["drivers"],
            early if isinstance(early, list) else [],
            [base.path, base.sha256],
            [sha256 for _name, sha256 in modules + needed],
            *map(list, configured),
        )
        if not (
            data["drivers"]
            and all(names.check_driver(each) for each in data["drivers"])
            and names.is_release(data["kernel"])
            and isinstance(base.size, int)
            and all(names.is_module(name) for name, _sha256 in modules + needed)
        ):
            raise ValueError("not written here")
        other = tuple(sorted((key, value) for key, value in data.items() if key not in cls._fields))
        return cls(
            data["kernel"],
            tuple(data["drivers"]),
            tuple(early) if isinstance(early, list) else bool(early),
            modules=modules,
            base=base,
            needed=needed,
            configured=configured,
            other=other,
        )

    @property
    def identity(self) -> str:
        """What a variant says of itself once it is booted: the sha256 of what it was made of."""
        return hashlib.sha256(_dumped(self.as_dict())).hexdigest()


class Held(NamedTuple):
    """A module of the driver as it lies in an image."""

    name: str
    path: str
    sha256: str
    version: Optional[str]


class Added(NamedTuple):
    """What was added to an image, for people."""

    modules: Tuple[Held, ...] = ()
    dependencies: Tuple[str, ...] = ()  # names of modules
    firmware: Tuple[str, ...] = ()
    firmware_missing: Tuple[str, ...] = ()
    mark: str = ""  # what a boot of it writes to generator.PROOF, "" where nothing is promised

    def as_dict(self) -> Dict[str, Any]:
        return {
            "modules": [dict(held._asdict()) for held in self.modules],
            "dependencies": list(self.dependencies),
            "firmware": list(self.firmware),
            "firmware_missing": list(self.firmware_missing),
            "mark": self.mark,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Added":
        """The inverse, also of what earlier versions have stored.

        ValueError, TypeError and KeyError for anything else.
        """
        modules = tuple(
            Held(each["name"], each["path"], each["sha256"], each["version"])
            for each in data.get("modules", ())
        )
        needed, firmware, missing = (
            data.get(name, []) for name in ("dependencies", "firmware", "firmware_missing")
        )
        mark = data.get("mark", "")
        _texts(
            needed,
            firmware,
            missing,
            [mark],
            *[[held.name, held.path, held.sha256, held.version or ""] for held in modules],
        )
        return cls(modules, tuple(needed), tuple(firmware), tuple(missing), mark)


def _texts(*lists: Any) -> None:
    for each in lists:
        if not isinstance(each, list) or not all(isinstance(text, str) for text in each):
            raise ValueError("not a list of texts")


class Variant(NamedTuple):
    """A variant of ours that lies on the host."""

    path: str
    size: int
    wants: Wants
    method: str
    # size and sha256 of what precedes the segment: the shipped image, or a rebuilt one
    head: Tuple[int, str] = (0, "")
    segment: Tuple[int, str] = (0, "")  # size and sha256 from there to the manifest's own header
    added: Added = Added()
    # the manifest's own header and all that has to follow it; nothing where the file has lost its manifest
    # (see witness)
    tail: bytes = b""

    @property
    def base(self) -> str:
        """The path of the shipped image that it is a variant of."""
        return NUMBERED.sub(r"\1", self.path)


def text(
    wants: Wants, method: str, added: Added, *, head: Tuple[int, str], segment: Tuple[int, str]
) -> bytes:
    """The manifest's bytes, the same for the same arguments."""
    data = {
        "format": FORMAT,
        "wants": wants.as_dict(),
        "method": method,
        "head": head,
        "segment": segment,
        "contents": added.as_dict(),
    }
    return _dumped(dict(data, sha256=hashlib.sha256(_dumped(data)).hexdigest()))


def _dumped(data: Dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, indent=1).encode("ascii") + b"\n"


def find(host: Host, path: str) -> Optional[Variant]:
    """The variant at ``path``; None for an image that is not ours. Error: MARK_NEWER."""
    with host.open(path) as reader:
        size = reader.size
        start = max(0, size - TAIL)
        tail = reader.at(start, TAIL)
    name_at = tail.rfind(NAME.rsplit("/", 1)[1].encode("ascii") + b"\0")
    head_at = tail.rfind(b"070701", 0, max(name_at, 0))
    found = cpio.header(tail[head_at : head_at + cpio.HEADER]) if head_at >= 0 else None
    if found is None:
        return None
    member, name_size = found
    data_at = head_at + cpio.HEADER + name_size
    data_at += cpio.padding(data_at - head_at)
    end = data_at + member.size + cpio.padding(member.size)
    behind = tail[head_at:end] + cpio.archive([], member.inode[2] + 1)[0][1]
    try:
        data = json.loads(tail[data_at : data_at + member.size].decode("ascii"))
        if (
            hashlib.sha256(
                _dumped({key: value for key, value in data.items() if key != "sha256"})
            ).hexdigest()
            != data["sha256"]
        ):
            return None
        if data["format"] > FORMAT:
            raise MarkNewer(path, data["format"], FORMAT)
        variant = Variant(
            path,
            size,
            Wants.from_dict(data["wants"]),
            data["method"],
            head=tuple(data["head"]),
            segment=tuple(data["segment"]),
            added=Added.from_dict(data["contents"]),
            tail=behind + b"\0" * cpio.padding(start + head_at + len(behind), cpio.BLOCK),
        )
        ours = (
            data["format"] == FORMAT
            and data["method"] in METHODS
            and variant.head[0] + variant.segment[0] == start + head_at
        )
    except MarkNewer:
        raise
    except (KmodError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    return variant if ours else None


def checked(host: Host, variant: Variant) -> Optional[str]:
    """The sha256 of the whole file; None where it is not, to the last byte, what its manifest says, so that
    it is to be made again.
    """
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
    return (
        whole.hexdigest()
        if digests == [variant.head[1], variant.segment[1]] and tail == variant.tail
        else None
    )
