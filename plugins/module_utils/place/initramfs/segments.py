# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An initramfs image as the kernel unpacks it (``init/initramfs.c``), read once from front to back in bounded
memory.

``initramfs := ("\\0" | cpio_archive | compressed(cpio_archive))*``. A raw archive starts at a multiple of 4
in the whole buffer; anything else that is no NUL must be the magic of a compression. Later members win over
earlier ones by the rules of ``do_name`` in ``Tree.take``. Where the kernel would stop with an error (and boot
on with what it has) this is a KmodError: such an image is not to be built upon.
"""

from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ...compression import Decoder, detect
from ...errors import KmodError
from . import cpio

PATH_MAX = 4096
UNPACKED_LIMIT = 4 << 30  # an image with every firmware and a graphics driver unpacks to less than 1 GiB
MEMBER_LIMIT = 1 << 20
REGENERATE = "Have the distribution's own tool build the image again"

Sink = Callable[[bytes], None]
Wanted = Callable[[str, "Node"], Optional[Sink]]


class Segment(NamedTuple):
    """One archive of the image: where it lies, how it is packed and what came out."""

    offset: int
    size: int
    kind: str  # cpio, or the compression around it
    unpacked: int
    members: int


class Node:
    """What is at a path of the unpacked tree. Hard links share their node."""

    __slots__ = ("mode", "owner", "size", "target", "segment")

    def __init__(self, mode: int, owner: Tuple[int, int], target: str = "", *, segment: int = 0) -> None:
        self.mode = mode
        self.owner = owner
        self.size = 0
        self.target = target
        self.segment = segment

    @property
    def kind(self) -> int:
        return self.mode & cpio.FORMAT


class Tree:
    """The root file system that the kernel makes of the members.

    Paths have no leading slash; "" is the root.
    """

    def __init__(self) -> None:
        # what the kernel's own built-in archive (usr/default_cpio_list) has made before
        self.nodes: Dict[str, Node] = {
            name: Node(cpio.DIRECTORY | 0o755, (0, 0)) for name in ("", "dev", "root")
        }
        self.links: Dict[Tuple[int, int, int, int], str] = {}
        self.segment = 0

    def real(self, name: str, follow: bool = False) -> Optional[str]:
        """Where ``name`` lies once symlinks are resolved (the last component's only with ``follow``); None
        where a parent is missing.
        """
        todo = [part for part in name.split("/") if part and part != "."][::-1]
        done: List[str] = []
        hops = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = "/".join(done + [part])
            node = self.nodes.get(here)
            if node is not None and node.kind == cpio.SYMLINK and (todo or follow):
                hops += 1
                if hops > 40:
                    return None
                if node.target.startswith("/"):
                    done = []
                todo.extend([piece for piece in node.target.split("/") if piece and piece != "."][::-1])
                continue
            if todo and (node is None or node.kind != cpio.DIRECTORY):
                return None
            done.append(part)
        return "/".join(done)

    def find(self, name: str) -> Optional[Node]:
        """The node behind a path, symlinks followed."""
        real = self.real(name, follow=True)
        return None if real is None else self.nodes.get(real)

    def under(self, directory: str) -> Iterator[str]:
        """The paths below a real directory."""
        start = directory + "/"
        return (path for path in self.nodes if path.startswith(start))

    def take(self, member: cpio.Member, target: str) -> Optional[Tuple[str, Node]]:
        """Put a member into the tree (``do_name``, ``do_symlink``).

        Answers with the file that its data goes to, if to any.
        """
        linked_to = self._linked_to(member)
        path = self.real(member.name)
        if path is None or path == "" and member.kind != cpio.DIRECTORY:
            return None  # no parent directory: the member vanishes without a word
        if member.kind == cpio.SYMLINK:
            if self._clear(path, 0):
                self.nodes[path] = self._node(member, target)
            return None
        clear = self._clear(path, member.kind)
        if linked_to and not self._link(path, linked_to):
            return None
        if clear and not linked_to:
            self._keep(path, member)
        node = self.nodes.get(path)
        if member.kind != cpio.REGULAR or node is None or node.kind != cpio.REGULAR:
            return None
        if member.size or not linked_to:
            node.size = member.size
        return path, node

    def _clear(self, path: str, kind: int) -> bool:
        """``clean_path``: another kind of node makes way, unless it is a directory that is not empty."""
        node = self.nodes.get(path)
        if node is None or node.kind == kind:
            return True
        if node.kind == cpio.DIRECTORY and (not path or any(self.under(path))):
            return False
        del self.nodes[path]
        return True

    def _linked_to(self, member: cpio.Member) -> str:
        """``find_link``: the name of the earlier member that this one is a hard link of."""
        if member.links < 2 or member.kind in (cpio.DIRECTORY, cpio.SYMLINK):
            return ""
        key = member.inode + (member.kind,)
        if key in self.links:
            return self.links[key]
        self.links[key] = member.name
        return ""

    def _link(self, path: str, name: str) -> bool:
        cleared = self._clear(path, 0)
        node = self.nodes.get(self.real(name) or "")
        if not cleared or node is None or node.kind == cpio.DIRECTORY:
            return False
        self.nodes[path] = node
        return True

    def _keep(self, path: str, member: cpio.Member) -> None:
        """A node of the same kind stays and takes mode and owner; its hard links see that too."""
        node = self.nodes.get(path)
        if node is None:
            self.nodes[path] = self._node(member, "")
        else:
            node.mode, node.owner, node.segment = member.mode, (member.uid, member.gid), self.segment

    def _node(self, member: cpio.Member, target: str) -> Node:
        return Node(member.mode, (member.uid, member.gid), target, segment=self.segment)


def unpack(
    pieces: Iterable[bytes], what: str, tree: Tree, *, wanted: Optional[Wanted] = None, offset: int = 0
) -> List[Segment]:
    """Unpack the bytes of an image, or of what follows its first ``offset`` bytes, into ``tree``.

    ``wanted`` is asked for every regular file, by its real path, and may answer with a function that is given
    the data piece by piece. Errors: INITRD_DAMAGED, INITRD_LIMIT and those of the decoders, naming ``what``.
    """
    stream = _Stream(pieces, offset)
    segments: List[Segment] = []
    reader = _Reader(what, tree, wanted)
    while stream.after_nuls() is not None:
        start, members = stream.offset, reader.members
        tree.segment = len(segments)
        if stream.head(1) == b"0" and start % 4 == 0:
            reader.archive(stream)
            segments.append(
                Segment(start, stream.offset - start, "cpio", stream.offset - start, reader.members - members)
            )
            continue
        kind = detect(stream.head(6))
        if kind is None:
            raise damaged(what, start, "invalid magic at start of compressed archive")
        decoder = Decoder(kind, what)
        inner = _Stream(_decoded(stream, decoder, what))
        while inner.after_nuls() is not None:
            if inner.head(1) != b"0" or inner.offset % 4:
                raise damaged(what, start, "junk within compressed archive")
            reader.archive(inner)
        stream.give_back(decoder.unused)
        segments.append(Segment(start, stream.offset - start, kind, inner.offset, reader.members - members))
    return segments


def damaged(what: str, offset: int, why: str) -> KmodError:
    return KmodError(what, "%s at offset %d" % (why, offset), REGENERATE, "INITRD_DAMAGED")


def _decoded(stream: "_Stream", decoder: Decoder, what: str) -> Iterator[bytes]:
    total = 0
    while not decoder.eof:
        chunk = stream.chunk()
        if not chunk:
            decoder.finish()
            return
        for piece in decoder.feed(chunk):
            total += len(piece)
            if total > UNPACKED_LIMIT:
                raise KmodError(
                    what,
                    "unpacks to more than %d bytes" % UNPACKED_LIMIT,
                    "It is damaged, or made to do harm",
                    "INITRD_LIMIT",
                )
            yield piece


class _Reader:
    """Members of archives, one after the other."""

    def __init__(self, what: str, tree: Tree, wanted: Optional[Wanted]) -> None:
        self.what = what
        self.tree = tree
        self.wanted = wanted
        self.members = 0

    def archive(self, stream: "_Stream") -> None:
        """From a header to the trailer, or to where no further header follows."""
        while stream.head(1) == b"0":
            start = stream.offset
            found = cpio.header(stream.take(cpio.HEADER))
            if found is None:
                raise damaged(self.what, start, "no cpio magic")
            member, name_size = found
            if (
                not 0 < name_size <= PATH_MAX
                or member.size
                and member.kind not in (cpio.REGULAR, cpio.SYMLINK)
            ):
                raise damaged(self.what, start, "a member that no kernel takes")
            padded = name_size + cpio.padding(cpio.HEADER + name_size)
            name = stream.take(padded)
            if len(name) < padded or name[name_size - 1 : name_size] != b"\0":
                raise damaged(self.what, start, "a name without its end")
            member = member._replace(name=name.split(b"\0")[0].decode("utf-8", "surrogateescape"))
            if member.name == cpio.TRAILER:
                self.tree.links.clear()
                return
            self.members += 1
            if self.members > MEMBER_LIMIT:
                raise KmodError(
                    self.what,
                    "has more than %d members" % MEMBER_LIMIT,
                    "It is damaged, or made to do harm",
                    "INITRD_LIMIT",
                )
            self._data(stream, member)

    def _data(self, stream: "_Stream", member: cpio.Member) -> None:
        start = stream.offset
        if member.kind == cpio.SYMLINK:
            if member.size > PATH_MAX:
                raise damaged(self.what, start, "a member that no kernel takes")
            target = stream.take(member.size)
            self.tree.take(member, target.split(b"\0")[0].decode("utf-8", "surrogateescape"))
        else:
            place = self.tree.take(member, "")
            sink = (
                self.wanted(*place) if place and self.wanted and (member.size or member.links < 2) else None
            )
            stream.copy(member.size, sink)
        if stream.offset - start < member.size:
            raise damaged(self.what, stream.offset, "the image ends within %s" % member.name)
        stream.skip(cpio.padding(member.size))


class _Stream:
    """Bytes that come in pieces, and how many of them were taken."""

    def __init__(self, pieces: Iterable[bytes], offset: int = 0) -> None:
        self.pieces = iter(pieces)
        self.piece = b""
        self.at = 0
        self.offset = offset

    def _fill(self) -> bool:
        while self.at >= len(self.piece):
            piece = next(self.pieces, None)
            if piece is None:
                return False
            self.piece, self.at = piece, 0
        return True

    def head(self, size: int) -> bytes:
        """The next bytes, left where they are."""
        if self._fill() and self.at + size <= len(self.piece):
            return self.piece[self.at : self.at + size]
        data = self.take(size)
        self.give_back(data)
        return data

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        if self.at + size <= len(self.piece):
            data = self.piece[self.at : self.at + size]
            self.at += size
            self.offset += size
            return data
        parts: List[bytes] = []
        self.copy(size, parts.append)
        return b"".join(parts)

    def chunk(self) -> bytes:
        """What is at hand, b"" at the end."""
        return self.take(len(self.piece) - self.at) if self._fill() else b""

    def give_back(self, data: bytes) -> None:
        self.offset -= len(data)
        self.piece, self.at = data + self.piece[self.at :], 0

    def copy(self, size: int, sink: Optional[Sink] = None) -> None:
        """Hand the next ``size`` bytes to ``sink`` piece by piece."""
        while size and self._fill():
            count = min(size, len(self.piece) - self.at)
            if sink is not None:
                sink(self.piece[self.at : self.at + count])
            self.at += count
            self.offset += count
            size -= count

    def skip(self, size: int) -> None:
        self.copy(size)

    def after_nuls(self) -> Optional[int]:
        """The offset of the next byte that is no NUL, None at the end."""
        while self._fill():
            rest = self.piece[self.at :].lstrip(b"\0") if self.piece[self.at] == 0 else None
            if rest is None:
                return self.offset
            self.offset += len(self.piece) - self.at - len(rest)
            self.at = len(self.piece) - len(rest)
        return None
