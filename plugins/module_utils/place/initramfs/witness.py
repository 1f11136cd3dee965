# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mark beside a variant: what was written there, for when the variant itself is too damaged to say so.

A mark alone proves nothing: it may have come with a restored tree or a package, and somebody else's file may
lie in the variant's place by now. A file that has no manifest of ours is held to be what is left of a variant
only

- if it is empty, or nothing but NULs;
- or if it is not longer than what was written, begins as an initramfs does, and half of the pieces that it
  has in full are those that were
  written (of a file shorter than one piece: its first bytes are). One that is shorter and unpacks without an
  error is a whole image: not ours.

All else is somebody else's: it is left alone, and said.
"""

import json
import zlib
from typing import List, NamedTuple, Optional, Tuple

from ...compression import detect
from ...errors import KmodError, MarkNewer, SystemFailed, forgiving
from ...host import Host, Reader
from . import manifest
from .image import SEGMENT_PIECE, SIZE_LIMIT, Digest, read
from .manifest import METHODS, NUMBERED, Variant, Wants

FORMAT = 1
START, END = ".", ".outoftree.kmod"
MODE = 0o600
LIMIT = 1 << 20  # more than any mark
NAME_MAX = 255 - len(".kmod-new") - 1  # with what is put around a name while it is written


class Mark(NamedTuple):
    """What was written to the file beside the mark; nothing is known of a rebuilt image before it is there
    (``size`` 0).
    """

    wants: Wants
    method: str
    size: int = 0
    sha256: str = ""
    start: str = ""  # the first bytes, in hexadecimal
    piece: int = 0  # bytes of a piece
    pieces: Tuple[int, ...] = ()  # the CRC-32 of each

    @property
    def text(self) -> bytes:
        return (
            json.dumps(
                dict(self._asdict(), wants=self.wants.as_dict(), format=FORMAT), sort_keys=True
            ).encode("ascii")
            + b"\n"
        )


def path_of(variant: str) -> str:
    directory, name = variant.rsplit("/", 1)
    return "%s/%s%s%s" % (directory, START, name, END)


def of(wants: Wants, method: str, size: int, *, digest: Digest) -> Mark:
    """The mark of a file of ``size`` bytes, all of which ``digest`` has been given."""
    return Mark(
        wants,
        method,
        size,
        digest.hexdigest(),
        start=digest.start.hex(),
        piece=digest.piece,
        pieces=digest.pieces,
    )


def for_file(host: Host, variant: Variant) -> Mark:
    """The mark that a whole variant ought to have."""
    with host.open(variant.path) as reader:
        digest = (
            Digest(SEGMENT_PIECE) if variant.method == "segment" else Digest.for_size(variant.wants.base.size)
        )
        for chunk in reader.chunks(limit=SIZE_LIMIT):
            digest.update(chunk)
        return of(variant.wants, variant.method, reader.size, digest=digest)


def written(host: Host, path: str) -> bytes:
    """The mark's text for the variant that was written to ``path`` just now. Error: FILE_CHANGED."""
    variant = manifest.find(host, path)
    if variant is None:
        raise KmodError(path, "is not what was written there just now", "Run again", "FILE_CHANGED")
    return for_file(host, variant).text


def find(host: Host, variant: str) -> Optional[Mark]:
    """The mark beside a path, whatever lies there; None where there is none, or none that was written by us."""
    path = path_of(variant)
    try:
        if host.is_link(path) or not host.is_file(path):
            return None
        data = json.loads(host.read(path, LIMIT).decode("ascii"))
        found = data.pop("format")
        if found > FORMAT:
            raise MarkNewer(path, found, FORMAT)
        mark = Mark(**dict(data, pieces=tuple(data["pieces"]), wants=Wants.from_dict(data["wants"])))
        bytes.fromhex(mark.start)
        sound = (
            mark.method in METHODS
            and isinstance(mark.sha256, str)
            and all(
                isinstance(number, int) and number >= 0 for number in (mark.size, mark.piece) + mark.pieces
            )
            and (mark.piece >= 512 or not mark.pieces)
        )
    except SystemFailed:
        raise
    except (KmodError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return mark if sound else None


def all_in(host: Host, directory: str) -> List[Tuple[str, Mark]]:
    """The marks in a directory, each with the path that it is about."""
    found = []
    for name in host.listdir(directory):
        if name.startswith(START) and name.endswith(END) and NUMBERED.match(name[len(START) : -len(END)]):
            path = "%s/%s" % (directory, name[len(START) : -len(END)])
            mark = find(host, path)
            if mark:
                found.append((path, mark))
    return found


def remains(host: Host, path: str, mark: Mark) -> Optional[Variant]:
    """The damaged variant that a file with no manifest is, by the rule above; None for somebody else's."""
    with forgiving():
        if not host.is_link(path) and host.is_file(path) and _written(host, path, mark):
            with host.open(path) as reader:
                return Variant(path, reader.size, mark.wants, mark.method)
    return None


def _written(host: Host, path: str, mark: Mark) -> bool:
    with host.open(path) as reader:
        head = reader.at(0, 64)
        if not head or not any(any(chunk) for chunk in reader.chunks(limit=SIZE_LIMIT)):
            return True
        if reader.size > mark.size:
            return False
        if reader.size < mark.piece:
            same = bytes.fromhex(mark.start).startswith(head)
        else:
            same = (head[:1] in (b"\0", b"0") or detect(head[:6]) is not None) and _same_pieces(reader, mark)
        shorter = reader.size < mark.size
    return same and not (shorter and _unpacks(host, path))


def _same_pieces(reader: Reader, mark: Mark) -> bool:
    """Whether half of the pieces are there. Holes (all NULs) do not count, either way."""
    same = other = 0
    for number, written in enumerate(mark.pieces[: reader.size // mark.piece]):
        piece = reader.at(number * mark.piece, mark.piece)
        if zlib.crc32(piece) & 0xFFFFFFFF == written:
            same += 1
        elif any(piece):
            other += 1
    return same > 0 and same >= other


def _unpacks(host: Host, path: str) -> bool:
    with forgiving():
        read(host, path)
        return True
    return False
