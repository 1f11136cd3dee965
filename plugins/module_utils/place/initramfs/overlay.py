# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay: one raw archive that, appended to a shipped image, puts a driver into it and takes nothing
away.

It holds the driver's modules (uncompressed: the kmod of an old image reads nothing else), what they need and
the image lacks, and the indexes of the image's own module tree as the host's depmod makes them with the
driver in it.
"""

import hashlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError
from ...host import Host
from ...read.depmod import dependencies
from ...read.kernel_module import KernelModule
from ...read.names import module_of
from .. import depmod, loading, store
from . import cpio, early, indexes, manifest, needs, plain
from .generators import generator
from .image import SEGMENT_PIECE, SIZE_LIMIT, Digest, Image, place, squashed
from .kept import Kept
from .manifest import Added, Held, Wants
from .segments import Node, Sink, Tree, unpack

ALIGN = 512
NULS = 8  # an lz4 decoder reads 4 of them as its end; fewer, and it takes the next bytes for a block


class Overlay(NamedTuple):
    """The segment with the padding before it. ``digest`` is that of the whole variant."""

    size: int
    digest: Digest
    chunks: Callable[[], Iterator[bytes]]
    added: Added


class Unpacked(NamedTuple):
    """An overlay, and what unpacking it over the image gave: the digests of its files by path, and
    modules.dep.
    """

    overlay: Overlay
    digests: Dict[str, str]
    modules_dep: str


def build(
    host: Host, wants: Wants, modules: Sequence[KernelModule], *, image: Image, kept: Kept, method: str
) -> Overlay:
    """The overlay that puts ``modules`` into ``image``, whose module tree is in ``kept``.

    The image's tree becomes the variant's.

    There must be no ``obstacle``. Errors: EARLY_UNSUPPORTED, DEPENDENCY_MISSING, MODULE_TWICE, MODULE_NAME,
    VARIANT_REFUSED, INITRD_VERIFY.
    """
    had = kept.modules(image)
    ours = {"updates/" + store.file_name(module): module for module in modules}
    if len({module.name for module in modules}) != len(modules) or len(ours) != len(modules):
        raise KmodError(
            ", ".join(sorted(module.path for module in modules)),
            "are several builds of one module",
            "Name one build",
            "MODULE_TWICE",
        )
    needed = needs.Needed(host, wants.kernel, had, loading.softdeps(host, wants.drivers))
    extra = needed.extra(modules)
    new = dict(ours, **extra)
    names = {module.name for module in new.values()}
    stays = {path: had.files[path] for name, path in had.known.items() if name not in names}
    lists = indexes.made(host, wants.kernel, had, stays=stays, added=new, directory=kept.directory)
    needs.check(needed, lists["modules.dep"].decode("utf-8", "replace"), added=new, stays=stays)

    files = [
        cpio.Item(had.prefix + "/" + path, cpio.REGULAR | 0o644, module.size, plain.reader(host, module.path))
        for path, module in sorted(new.items())
    ]
    firmware, absent = needs.firmware(
        host, wants.kernel, image.tree, modules=list(modules) + list(extra.values())
    )
    files += firmware
    files += [cpio.item(had.prefix + "/" + name, data) for name, data in sorted(lists.items())]
    files += configured(host, image, wants)
    started, mark = starts(image, kept, wants, modules)
    added = Added(
        held(had.prefix, ours),
        tuple(sorted(module.name for module in extra.values())),
        tuple(sorted(entry.name for entry in firmware)),
        tuple(absent),
        mark,
    )
    unpacked = seal(image, files + started, wants, method=method, added=added)
    wrong = [module.path for module in added.modules if unpacked.digests.get(module.path) != module.sha256]
    refuse(image.path, wrong + misindexed(unpacked.modules_dep, had.prefix, added.modules, stays=stays))
    return unpacked.overlay


def held(prefix: str, modules: Dict[str, KernelModule]) -> Tuple[Held, ...]:
    """What is told of modules at these paths below an image's module directory."""
    return tuple(
        Held(module.name, prefix + "/" + path, module.sha256, module.version)
        for path, module in sorted(modules.items())
    )


def configured(host: Host, image: Image, wants: Wants) -> List[cpio.Item]:
    """The drivers' files in modprobe.d. One that the host does not have any more is empty, where the image still
    has it.
    """
    files = loading.configured(host, wants.drivers)
    paths = [loading.path(driver) for driver in wants.drivers]
    return [
        cpio.item(path[1:], files.get(path, b""))
        for path in paths
        if path in files or image.tree.find(path[1:]) is not None
    ]


def starts(
    image: Image, kept: Kept, wants: Wants, modules: Sequence[KernelModule]
) -> Tuple[List[cpio.Item], str]:
    """What is added to the early boot, and what is promised to be found in generator.PROOF then, "" for
    nothing.
    """
    soon = [
        module.name
        for module in modules
        if wants.early_load is True
        or (wants.early_load and depmod.driver_of(module.path, wants.drivers) in wants.early_load)
    ]
    files = [early.load(image, wants.drivers, soon)] if wants.early_load else []
    proof = early.proof(image.tree, {name: bytes(text) for name, text in kept.texts.items()}, wants.identity)
    return files + ([proof] if proof else []), wants.identity if proof else ""


def obstacle(image: Image, release: str) -> Optional[KmodError]:
    """Why the early boot of an image would not see what is appended, or not use it."""
    if squashed(image.tree):
        return KmodError(
            image.path,
            "keeps its files in a file system image, which is mounted over what is appended",
            "Build it with dracut, without its squash modules (omit_dracutmodules)",
            "INITRD_SQUASH",
        )
    against = generator(image.tree).obstacle
    if against:
        return against(image.path)
    if image.segments[-1].kind == "lz4" and tuple(
        int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit()
    ) < (5, 14):
        # 2c484419efc0 lib/decompress_unlz4.c: correctly handle zero-padding around initrds
        return KmodError(
            image.path,
            "is lz4-compressed, and kernels before 5.14 stop at the padding behind it",
            "Use method rebuild",
            "INITRD_LZ4",
        )
    return None


def lead(size: int) -> bytes:
    """The NULs between an image of ``size`` bytes and the segment: a raw archive starts at a multiple of 4."""
    return b"\0" * (NULS + cpio.padding(size + NULS, ALIGN))


def appended(host: Host, path: str, made: Overlay) -> Iterator[bytes]:
    """An image of the host with an overlay behind it."""
    with host.open(path) as reader:
        yield from reader.chunks(limit=SIZE_LIMIT)
    yield from made.chunks()


def seal(image: Image, files: Sequence[cpio.Item], wants: Wants, *, method: str, added: Added) -> Unpacked:
    """The files and a manifest as a segment, unpacked into the image's tree as the kernel will: nothing else
    may have changed there.
    """
    # the loader puts it behind the image, at a multiple of 4; its own NULs stop an lz4 decoder
    alone = method == "segment"
    nuls = b"\0" * ALIGN if alone else lead(image.size)
    whole = Digest(SEGMENT_PIECE) if alone else image.digest.copy()
    head = (0, whole.hexdigest()) if alone else (image.size, image.sha256)
    items = _placed(image, list(files) + [cpio.item(manifest.NAME, b"")])
    last = items.pop()
    before, length = hashlib.sha256(nuls), len(nuls)
    for piece in cpio.body(cpio.archive(items)[:-1]):
        before.update(piece)
        length += len(piece)
    about = manifest.text(wants, method, added, head=head, segment=(length, before.hexdigest()))
    built = cpio.archive(items + [cpio.item(last.name, about)])

    def chunks() -> Iterator[bytes]:
        yield nuls
        yield from cpio.write(built)

    def watched() -> Iterator[bytes]:
        for chunk in chunks():
            whole.update(chunk)
            yield chunk

    digests: Dict[str, Any] = {}
    modules_dep: List[bytes] = []

    def wanted(path: str, _node: Node) -> Sink:
        if path.endswith("/modules.dep"):
            return modules_dep.append
        digests[path] = hashlib.sha256()
        return digests[path].update  # type: ignore[no-any-return]

    written = {entry.name for entry, _head in built}
    untouched = {path: fact for path, fact in _facts(image.tree).items() if path not in written}
    unpack(
        watched(),
        image.path,
        image.tree,
        wanted=wanted,
        offset=image.size + (cpio.padding(image.size) if alone else 0),
    )
    after = _facts(image.tree)
    refuse(image.path, [path for path, fact in untouched.items() if after.get(path) != fact])
    overlay = Overlay(len(nuls) + cpio.size(built), whole, chunks, added)
    return Unpacked(
        overlay,
        {path: digest.hexdigest() for path, digest in digests.items()},
        b"".join(modules_dep).decode("utf-8", "replace"),
    )


def _placed(image: Image, files: Iterable[cpio.Item]) -> List[cpio.Item]:
    """The files under their real paths, behind the directories that they need and the image lacks."""
    directories: List[str] = []
    found = []
    for file in files:
        path, missing = place(image.tree, image.path, file.name)
        directories += [name for name in missing if name not in directories]
        found.append(file._replace(name=path))
    return [cpio.directory(name) for name in directories] + found


def refuse(path: str, wrong: Sequence[str]) -> None:
    if wrong:
        raise KmodError(
            path,
            "a variant of it would not hold what it should: " + ", ".join(sorted(set(wrong))[:5]),
            "Use the other method, and report this with the image's listing (kmodctl variant --list)",
            "INITRD_VERIFY",
        )


def misindexed(modules_dep: str, prefix: str, modules: Sequence[Held], *, stays: Iterable[str]) -> List[str]:
    """What is wrong with the index: another copy of one of ``modules`` that would win, one of them or of what
    ``stays`` that is not on it.
    """
    listed = set(dependencies(modules_dep))
    winners = {module.name: module.path[len(prefix) + 1 :] for module in modules}
    return [path for path in listed if winners.get(module_of(path), path) != path] + [
        path for path in list(winners.values()) + list(stays) if path not in listed
    ]


def _facts(tree: Tree) -> Dict[str, Tuple[Any, ...]]:
    return {
        path: (node.mode, node.owner, node.size, node.target, id(node)) for path, node in tree.nodes.items()
    }
