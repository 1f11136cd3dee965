# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image that a distribution ships for a kernel: where it is, what is in it."""

import hashlib
import os
import zlib
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from ...errors import KmodError, forgiving
from ...host import Host, Reader
from ..boot import shipped as shipped_entry
from . import cpio
from .generators import FILES
from .segments import REGENERATE, Segment, Tree, Wanted, unpack

SIZE_LIMIT = 2 << 30
BOOT = ("/boot", "/efi", "/boot/efi")
# The real root of a "squash" image of dracut is a file in it, which is mounted over everything else
SQUASHED = ("squash-root.img", "squashfs-root.img", "erofs-root.img", "squash/root.img")
SEGMENT_PIECE = 4096  # for the Digest of a file that is one segment, whose size is not known before


class Digest:
    """The sha256 of bytes as they come, and a CRC-32 of each piece of them, by which the remains of a damaged
    file are known (see witness).
    """

    def __init__(self, piece: int) -> None:
        self.piece = piece
        self.start = b""
        self.pieces: Tuple[int, ...] = ()
        self.whole = hashlib.sha256()
        self._crc = self._filled = 0

    @classmethod
    def for_size(cls, size: int) -> "Digest":
        """With some 64 pieces where there are about so many bytes."""
        return cls(max(512, -(-size // 64 // 512) * 512))

    def update(self, data: bytes) -> None:
        self.start += data[: 64 - len(self.start)]
        self.whole.update(data)
        view = memoryview(data)
        while view:
            part = view[: self.piece - self._filled]
            self._crc, self._filled, view = (
                zlib.crc32(part, self._crc),
                self._filled + len(part),
                view[len(part) :],
            )
            if self._filled == self.piece:
                self.pieces += (self._crc & 0xFFFFFFFF,)
                self._crc = self._filled = 0

    def copy(self) -> "Digest":
        """One that goes on by itself."""
        other = Digest(self.piece)
        other.__dict__.update(self.__dict__, whole=self.whole.copy())
        return other

    def hexdigest(self) -> str:
        return self.whole.hexdigest()


class Image(NamedTuple):
    """An image as read: ``digest`` goes on with what is appended."""

    path: str
    size: int
    mode: int
    owner: Tuple[int, int]
    digest: Digest
    tree: Tree
    segments: List[Segment]

    @property
    def sha256(self) -> str:
        return self.digest.hexdigest()


def directories(host: Host) -> Iterator[str]:
    """Where images lie: /boot and the EFI system partition, and in kernel-install's "bls" layout a directory
    per entry token and kernel.

    Each once, under the first of its names: /efi may be a symlink to /boot. What cannot be looked into is
    passed over.
    """
    seen = set()
    for boot in BOOT:
        below = [
            "%s/%s/%s" % (boot, token, release)
            for token in _names(host, boot)
            for release in _names(host, "%s/%s" % (boot, token))
        ]
        for directory in [boot] + below:
            with forgiving():
                real = host.real(directory)
                if real not in seen and host.is_dir(directory):
                    seen.add(real)
                    yield directory


def _names(host: Host, directory: str) -> List[str]:
    with forgiving():  # a symlink loop, for one
        return host.listdir(directory)
    return []


def shipped(host: Host, release: str) -> str:
    """The path of the image that the distribution made for a kernel and that its boot entry starts.

    Errors: INITRD_MISSING, INITRD_UKI, INITRD_NOT_FILE, INITRD_OUTSIDE.
    """
    known = {host.real(directory): directory for directory in directories(host)}
    started = shipped_entry.initramfs(host, release) or "/"
    within = known.get(host.real(os.path.dirname(started)))
    usual = [name % release for name in FILES] + [
        directory + "/initrd" for directory in known.values() if directory.endswith("/" + release)
    ]
    for path in (["%s/%s" % (within, os.path.basename(started))] if within else []) + usual:
        status = host.stat(path)
        if status is None:
            continue
        if not host.is_file(path):
            raise KmodError(path, "is not a regular file", REGENERATE, "INITRD_NOT_FILE")
        if not host.is_link(path):
            return path
        real = host.inside(host.real(path))
        if os.path.dirname(real) != host.inside(host.real(os.path.dirname(path))):
            raise KmodError(
                path,
                "is a symlink out of its directory, to %s" % real,
                "Put the image itself there",
                "INITRD_OUTSIDE",
            )
        return os.path.dirname(path) + "/" + os.path.basename(real)
    for boot in BOOT:
        for name in host.listdir(boot + "/EFI/Linux"):
            if release in name and name.endswith(".efi"):
                raise KmodError(
                    "%s/EFI/Linux/%s" % (boot, name),
                    "is a unified kernel image: its signature covers the initramfs in it",
                    "Install the kernel with layout=bls (/etc/kernel/install.conf) beside it",
                    "INITRD_UKI",
                )
    raise KmodError(
        "/boot",
        "there is no initramfs image of kernel %s" % release,
        "Build it with the distribution's own tool",
        "INITRD_MISSING",
    )


def read(host: Host, path: str, wanted: Optional[Wanted] = None) -> Image:
    """Unpack an image of the host; ``wanted`` as for ``segments.unpack``."""
    with host.open(path) as reader:
        if reader.at(0, 2) == b"MZ":
            raise KmodError(
                path,
                "is an EFI program, not an initramfs image",
                "Use a kernel whose initramfs is a file of its own",
                "INITRD_UKI",
            )
        digest, tree = Digest.for_size(reader.size), Tree()
        segments = unpack(_hashed(reader, digest), path, tree, wanted=wanted)
        unchanged(reader)
        if not segments:
            raise KmodError(path, "is empty", REGENERATE, "INITRD_DAMAGED")
        status = reader.status
        return Image(
            path,
            reader.size,
            status.st_mode & 0o7777,
            owner=(status.st_uid, status.st_gid),
            digest=digest,
            tree=tree,
            segments=segments,
        )


def checksum(host: Host, path: str) -> Tuple[int, str]:
    """Size and sha256 of an image, without unpacking it."""
    with host.open(path) as reader:
        digest = hashlib.sha256()
        for _chunk in _hashed(reader, digest):
            pass
        unchanged(reader)
        return reader.size, digest.hexdigest()


def _hashed(reader: Reader, digest: Any) -> Iterator[bytes]:
    for chunk in reader.chunks(limit=SIZE_LIMIT):
        digest.update(chunk)
        yield chunk


def unchanged(reader: Reader) -> None:
    now, then = os.fstat(reader.handle), reader.status
    if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
        raise KmodError(
            reader.path,
            "changed while it was read",
            "Let the tool that writes it come to its end and run again",
            "INITRD_CHANGED",
        )


# What is in it


def modules_dir(tree: Tree, release: str) -> str:
    """The real path of the image's module tree, where its own modprobe looks; that it should have if there is
    none.
    """
    for name in ("lib/modules/", "usr/lib/modules/"):
        real = tree.real(name + release, follow=True)
        if real is not None and real in tree.nodes:
            return real
    lib = tree.real("lib", follow=True)
    return (lib if lib in tree.nodes else "lib") + "/modules/" + release  # type: ignore[operator]


def squashed(tree: Tree) -> bool:
    return any(tree.find(name) for name in SQUASHED)


def place(tree: Tree, what: str, path: str) -> Tuple[str, List[str]]:
    """The real path for a new file, and those of its directories that the tree does not have yet, outermost
    first.

    No directory that exists may be named again in a later segment: naming ``lib`` where that is a symlink to
    usr/lib replaces the symlink by an empty directory, and nothing works any more.
    """
    done, missing = "", []  # type: str, List[str]
    parts = path.split("/")
    for part in parts[:-1]:
        here = (done + "/" + part).lstrip("/")
        real = None if missing else tree.real(here, follow=True)
        node = None if real is None else tree.nodes.get(real)
        if node is None and here not in tree.nodes:
            missing.append(here)
            done = here
        elif node is None or node.kind != cpio.DIRECTORY:
            raise KmodError(
                what, "%s in the image leads to no directory" % here, REGENERATE, "INITRD_DAMAGED"
            )
        else:
            done = real or ""
    return (done + "/" + parts[-1]).lstrip("/"), missing
