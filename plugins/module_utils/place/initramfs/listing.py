# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images for people and for an audit: what the kernel makes of them, all segments together, which lsinitrd
and lsinitramfs do not show.
"""

import hashlib
import stat
from typing import Container, Dict, Iterator, List, NamedTuple, Optional

from ...compression import Decoder, detect
from ...errors import printable
from ...host import Host
from ...read.depmod import dependencies
from ...read.names import is_readable_module, module_of
from . import manifest
from .image import modules_dir, read
from .segments import Node, Sink


def lines(host: Host, path: str) -> Iterator[str]:
    """The segments, whose variant it is, then each file as ``ls -l`` has it with the number of the segment
    that it comes from.
    """
    image = read(host, path)
    for number, segment in enumerate(image.segments, 1):
        yield "segment %d: %s at %d, %d bytes, %d members, %d bytes unpacked" % (
            number,
            segment.kind,
            segment.offset,
            segment.size,
            segment.members,
            segment.unpacked,
        )
    variant = manifest.find(host, path)
    if variant:
        wants = variant.wants
        yield "variant of %s for kernel %s with %s (%s)" % (
            wants.base.path,
            wants.kernel,
            ", ".join(wants.drivers),
            variant.method,
        )
    yield ""
    for name, node in sorted(image.tree.nodes.items()):
        if name:
            target = " -> " + node.target if node.target else ""
            yield "%2d %s %5d %5d %9d %s" % (
                node.segment + 1,
                stat.filemode(node.mode),
                node.owner[0],
                node.owner[1],
                node.size,
                printable(name + target),
            )


class Copy(NamedTuple):
    """A module's file in an image; ``used``: it is what the image's own modprobe would load for that name."""

    path: str
    sha256: str  # of the uncompressed file
    used: bool


def copies(host: Host, path: str, release: str, *, names: Container[str]) -> List[Copy]:
    """The copies of the named modules that are in an image, by path."""
    found: Dict[str, _Digest] = {}  # of two files of one path the later one is what the kernel has in the end
    texts: Dict[str, bytearray] = {}

    def wanted(where: str, node: Node) -> Optional[Sink]:
        if where.endswith("/%s/modules.dep" % release):
            texts[where] = bytearray()
            return texts[where].extend
        if is_readable_module(where) and module_of(where) in names:
            found[where] = _Digest(where)
            return found[where].take
        return None

    image = read(host, path, wanted)
    prefix = modules_dir(image.tree, release)
    listed = dependencies(texts.get(prefix + "/modules.dep", bytearray()).decode("utf-8", "replace"))
    # mkinitramfs takes a link in weak-updates along, and what it leads to
    used = {image.tree.real(prefix + "/" + each, follow=True) for each in listed}
    return [Copy(where, digest.sha256(), where in used) for where, digest in sorted(found.items())]


def modules(host: Host, path: str, release: str, *, names: Container[str]) -> Dict[str, Copy]:
    """The copy of each named module that an image's own modprobe would load."""
    return {module_of(each.path): each for each in copies(host, path, release, names=names) if each.used}


class _Digest:
    """The sha256 of what a file is once it is uncompressed."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.decoder: Optional[Decoder] = None
        self.digest = hashlib.sha256()
        self.begun = False

    def take(self, data: bytes) -> None:
        if not self.begun:
            kind = detect(data[:6])
            self.decoder, self.begun = Decoder(kind, self.what) if kind else None, True
        for piece in self.decoder.feed(data) if self.decoder else (data,):
            self.digest.update(piece)

    def sha256(self) -> str:
        return self.digest.hexdigest()
