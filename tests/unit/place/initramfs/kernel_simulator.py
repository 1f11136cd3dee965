# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""init/initramfs.c once more, as the state machine that it is there: independent of the reader under test,
and only for tests.

``unpack`` gives the root file system that a kernel ends up with, and the error it would print, with which it
boots on nevertheless.
"""

import bz2
import lzma
import struct
import subprocess
import zlib
from typing import Callable, Dict, List, Optional, Tuple

S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000


class StopError(Exception):
    """The kernel's ``error()``."""


class Inode:
    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.data = b""  # of a file; a symlink's target
        self.names: Dict[str, Inode] = {}  # of a directory


class RootFs:
    """What namei does: paths are walked from the root, every symlink on the way but the last component is
    followed.
    """

    def __init__(self) -> None:
        self.root = Inode(S_IFDIR | 0o755)
        for name in ("dev", "root"):
            self.root.names[name] = Inode(S_IFDIR | 0o755)

    def parent(self, path: str, budget: int = 40) -> Tuple[Optional[Inode], str]:
        stack = [self.root]
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts:
            return None, ""
        last = parts.pop()
        while parts:
            part = parts.pop(0)
            if part == "..":
                stack = stack[:-1] or [self.root]
                continue
            child = stack[-1].names.get(part)
            if child is None:
                return None, last
            if child.mode & S_IFMT == S_IFLNK:
                budget -= 1
                if budget < 0:
                    return None, last
                target = child.data.decode("utf-8", "surrogateescape")
                if target.startswith("/"):
                    stack = [self.root]
                parts = [piece for piece in target.split("/") if piece not in ("", ".")] + parts
            elif child.mode & S_IFMT == S_IFDIR:
                stack.append(child)
            else:
                return None, last
        return stack[-1], last

    def get(self, path: str) -> Optional[Inode]:
        parent, name = self.parent(path)
        return parent.names.get(name) if parent else None

    def listing(self) -> Dict[str, Tuple[int, bytes]]:
        found: Dict[str, Tuple[int, bytes]] = {}

        def walk(inode: Inode, path: str) -> None:
            for name, child in inode.names.items():
                found[path + name] = (child.mode, child.data)
                walk(child, path + name + "/")

        walk(self.root, "")
        return found


class Unpacker:
    def __init__(self, lz4_pads: bool) -> None:
        self.fs = RootFs()
        self.lz4_pads = lz4_pads
        self.links: Dict[Tuple[int, int, int, int], str] = {}

    def unpack_to_rootfs(self, image: bytes) -> Optional[str]:
        buf = memoryview(image)
        this_header = 0
        try:
            while buf:
                saved = this_header
                if buf[0] == 0x30 and not this_header & 3:
                    written = self.write_buffer(buf)
                    this_header += written
                    buf = buf[written:]
                    continue
                if buf[0] == 0:
                    buf = buf[1:]
                    this_header += 1
                    continue
                decompress = self.decompress_method(bytes(buf[:4]))
                if decompress is None:
                    raise StopError("invalid magic at start of compressed archive")
                out, used, failed = decompress(bytes(buf))
                self.flush_buffer(memoryview(out))
                if failed:
                    raise StopError(failed)
                this_header = saved + used
                buf = buf[used:]
        except StopError as error:
            return str(error)
        return None

    def flush_buffer(self, out: memoryview) -> None:
        at = 0
        while at < len(out):
            if out[at] == 0x30:
                at += self.write_buffer(out[at:])
            elif out[at] == 0:
                at += 1
                if at < len(out) and out[at] != 0 and at & 3:
                    raise StopError("broken padding")
            else:
                raise StopError("junk within compressed archive")

    def write_buffer(self, buf: memoryview) -> int:
        """From GotHeader to Reset: one member."""
        head = bytes(buf[:110])
        if len(head) < 110:
            raise StopError("junk at the end of compressed archive")
        if head[:6] not in (b"070701", b"070702"):
            raise StopError("no cpio magic")
        ino, mode, _uid, _gid, nlink, _mtime, size, major, minor, _rmaj, _rmin, name_len = (
            int(head[6 + 8 * at : 14 + 8 * at], 16) for at in range(12)
        )
        name_end = (110 + name_len + 3) & ~3
        body_end = name_end + size
        following = (body_end + 3) & ~3
        if body_end > len(buf):
            raise StopError("junk at the end of compressed archive")
        name = bytes(buf[110 : 110 + name_len]).split(b"\0")[0].decode("utf-8", "surrogateescape")
        body = bytes(buf[name_end:body_end])
        if name == "TRAILER!!!":
            self.links = {}
        elif mode & S_IFMT == S_IFLNK:
            self.clean_path(name, 0)
            self.create(name, mode, body.split(b"\0")[0])
        else:
            self.do_name(name, mode, nlink, (major, minor, ino), body)
        return min(following, len(buf))

    def do_name(self, name: str, mode: int, nlink: int, key: Tuple[int, int, int], body: bytes) -> None:
        self.clean_path(name, mode)
        if mode & S_IFMT == S_IFREG:
            linked = self.maybe_link(name, mode, nlink, key)
            if linked < 0:
                return
            node = self.open_creat(name, mode)
            if node is None:
                return
            if linked != 1:
                node.data = b""
            node.mode = mode
            if body:
                node.data = body
        elif mode & S_IFMT == S_IFDIR:
            self.create(name, mode, b"")
            found = self.fs.get(name)
            if found is not None:
                found.mode = mode
        elif self.maybe_link(name, mode, nlink, key) == 0:
            self.create(name, mode, b"")

    def clean_path(self, name: str, mode: int) -> None:
        parent, last = self.fs.parent(name)
        node = parent.names.get(last) if parent else None
        if parent is not None and node is not None and (node.mode ^ mode) & S_IFMT and not node.names:
            del parent.names[last]

    def maybe_link(self, name: str, mode: int, nlink: int, key: Tuple[int, int, int]) -> int:
        if nlink < 2:
            return 0
        found = self.links.get(key + (mode & S_IFMT,))
        if found is None:
            self.links[key + (mode & S_IFMT,)] = name
            return 0
        self.clean_path(name, 0)
        old, (parent, last) = self.fs.get(found), self.fs.parent(name)
        if old is None or old.mode & S_IFMT == S_IFDIR or parent is None or last in parent.names:
            return -1
        parent.names[last] = old
        return 1

    def open_creat(self, name: str, mode: int) -> Optional[Inode]:
        parent, last = self.fs.parent(name)
        if parent is None:
            return None
        node = parent.names.setdefault(last, Inode(mode))
        return node if node.mode & S_IFMT == S_IFREG else None

    def create(self, name: str, mode: int, data: bytes) -> None:
        """mkdir, symlink, mknod: nothing happens where something is."""
        parent, last = self.fs.parent(name)
        if parent is not None and last not in parent.names:
            parent.names[last] = Inode(mode)
            parent.names[last].data = data

    def decompress_method(self, buf: bytes) -> Optional[Callable[[bytes], Tuple[bytes, int, str]]]:
        """lib/decompress.c"""
        table: List[Tuple[bytes, Callable[[bytes], Tuple[bytes, int, str]]]] = [
            (b"\x1f\x8b", lambda data: by_object(zlib.decompressobj(31), data)),
            (b"BZ", lambda data: by_object(bz2.BZ2Decompressor(), data)),
            (b"\x5d\x00", lambda data: by_object(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data)),
            (b"\xfd7", lambda data: by_object(lzma.LZMADecompressor(lzma.FORMAT_XZ), data)),
            (b"\x28\xb5", by_zstd),
            (b"\x02\x21", self.unlz4),
            (b"\x89L", by_lzop),
        ]
        return next((method for magic, method in table if buf.startswith(magic)), None)

    def unlz4(self, data: bytes) -> Tuple[bytes, int, str]:
        """lib/decompress_unlz4.c without a fill function; ``lz4_pads`` is 2c484419efc0."""
        at, out = 4, b""
        while True:
            if self.lz4_pads and len(data) - at < 4:
                return out, at, ""
            chunk = struct.unpack("<I", data[at : at + 4])[0] if len(data) - at >= 4 else 0
            if chunk == 0x184C2102:
                at += 4
                continue
            if self.lz4_pads and chunk == 0:
                return out, at, ""
            if not self.lz4_pads and len(data) - at == 0:
                return out, at, ""
            at += 4
            block = data[at : at + chunk]
            plain = lz4_block(block) if chunk and len(block) == chunk else None
            if plain is None:
                return out, at, "Decoding failed"
            out += plain
            at += chunk
            if not self.lz4_pads and at >= len(data):
                return out, at, ""


def by_object(engine: object, data: bytes) -> Tuple[bytes, int, str]:
    try:
        out = engine.decompress(data)  # type: ignore[attr-defined]
    except (zlib.error, OSError, lzma.LZMAError) as error:
        return b"", 0, str(error)
    return out, len(data) - len(engine.unused_data), "" if engine.eof else "unexpected end"  # type: ignore[attr-defined]


def by_zstd(data: bytes) -> Tuple[bytes, int, str]:
    """One frame: its end is found by walking its blocks (RFC 8878), its content by the tool."""
    descriptor = data[4]
    at = (
        5
        + (0 if descriptor & 0x20 else 1)
        + (0, 1, 2, 4)[descriptor & 3]
        + ((1 if descriptor & 0x20 else 0), 2, 4, 8)[descriptor >> 6]
    )
    last = 0
    while not last:
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        at += 3 + (1 if kind == 1 else size)
        if at > len(data):
            return b"", 0, "unexpected end"
    at += 4 if descriptor & 4 else 0
    return subprocess.run(["zstd", "-dc"], input=data[:at], stdout=subprocess.PIPE, check=True).stdout, at, ""


def by_lzop(data: bytes) -> Tuple[bytes, int, str]:
    """lib/decompress_unlzo.c: blocks follow the header until a length of 0; content by the tool."""
    version = struct.unpack(">H", data[9:11])[0]
    at = 17 if version >= 0x940 else 16  # behind the method, and the level where there is one
    # flags, filter, mode, times
    at += (
        4
        + (4 if struct.unpack(">I", data[at : at + 4])[0] & 0x800 else 0)
        + 8
        + (4 if version >= 0x940 else 0)
    )
    at += 1 + data[at] + 4  # name, checksum of the header
    while at + 4 <= len(data) and data[at : at + 4] != bytes(4):
        at += 12 + struct.unpack(">I", data[at + 4 : at + 8])[0]
    at += 4
    if at > len(data):
        return b"", 0, "file corrupted"
    return subprocess.run(["lzop", "-dc"], input=data[:at], stdout=subprocess.PIPE, check=True).stdout, at, ""


def lz4_block(data: bytes) -> Optional[bytes]:
    """The lz4 block format."""
    out, at = bytearray(), 0
    try:
        while True:
            token = data[at]
            at += 1
            length = token >> 4
            if length == 15:
                while data[at] == 255:
                    length, at = length + 255, at + 1
                length, at = length + data[at], at + 1
            out += data[at : at + length]
            if at + length > len(data):
                return None
            at += length
            if at == len(data):
                return bytes(out)
            offset = struct.unpack("<H", data[at : at + 2])[0]
            at += 2
            match = (token & 15) + 4
            if token & 15 == 15:
                while data[at] == 255:
                    match, at = match + 255, at + 1
                match, at = match + data[at], at + 1
            if not 0 < offset <= len(out):
                return None
            start = len(out) - offset
            while match:  # a match may overlap what it makes
                part = out[start : start + match]
                out += part
                start, match = start + len(part), match - len(part)
    except (IndexError, struct.error):
        return None


def unpack(image: bytes, lz4_pads: bool = True) -> Tuple[Dict[str, Tuple[int, bytes]], Optional[str]]:
    """{path: (mode, data or target)} of the unpacked tree, and the kernel's error, None where it is content."""
    unpacker = Unpacker(lz4_pads)
    error = unpacker.unpack_to_rootfs(image)
    return unpacker.fs.listing(), error
