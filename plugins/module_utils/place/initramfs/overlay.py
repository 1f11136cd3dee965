# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay: one raw archive that, appended to a shipped image, puts a driver into it and takes nothing away.

It holds the driver's modules (uncompressed: the kmod of an old image reads nothing else), what they need and the image lacks, and the
indexes of the image's own module tree as the host's depmod makes them with the driver in it.
"""
import hashlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError
from ...host import Host
from ...read.kernel_module import KernelModule
from . import cpio, early, manifest, needs, parts
from .image import SEGMENT_PIECE, SIZE_LIMIT, Digest, Image, dependencies, generator, module_name, modules_dir, place, squashed
from .segments import Node, Sink, Tree, unpack

ALIGN = 512
NULS = 8  # an lz4 decoder reads 4 of them as its end; fewer, and it takes the next bytes for a block


class Overlay(NamedTuple):
    """The segment with the padding before it. ``digest`` is that of the whole variant, ``contents`` what was added."""

    size: int
    digest: Digest
    chunks: Callable[[], Iterator[bytes]]
    contents: Dict[str, Any]


class Sealed(NamedTuple):
    """What unpacking the segment over the image gave: the digests of its files by path, and modules.dep."""

    overlay: Overlay
    digests: Dict[str, str]
    modules_dep: str


def build(host: Host, release: str, modules: Sequence[KernelModule], image: Image, store: parts.Store, wants: Dict[str, Any],
          method: str) -> Overlay:
    """The overlay that puts ``modules`` into ``image``, whose module tree is in ``store``. The image's tree becomes the variant's.

    There must be no ``obstacle``. Errors: EARLY_UNSUPPORTED, DEPENDENCY_MISSING, MODULE_TWICE, MODULE_NAME, VARIANT_REFUSED, INITRD_VERIFY.
    """
    prefix = modules_dir(image.tree, release)
    had = store.tree(image.tree, prefix)
    known = parts.indexed(had)
    ours = {"updates/" + needs.file_name(module): module for module in modules}
    if len({module.name for module in modules}) != len(modules) or len(ours) != len(modules):
        raise KmodError(", ".join(sorted(module.path for module in modules)), "are several builds of one module", "Name one build", "MODULE_TWICE")
    needed = needs.Needed(host, release, known, had)
    extra = needed.extra(modules)
    added = dict(ours, **extra)
    names = {module.name for module in added.values()}
    kept = {path: had[path] for name, path in known.items() if name not in names}
    indexes = parts.indexes(host, release, store.directory, had, kept, added)
    needs.check(needed, indexes["modules.dep"].decode("utf-8", "replace"), added, kept)

    files = [cpio.Item(prefix + "/" + path, cpio.REGULAR | 0o644, module.size, parts.reader(host, module.path))
             for path, module in sorted(added.items())]
    firmware, absent = needs.firmware(host, release, image.tree, list(modules) + list(extra.values()))
    files += firmware
    files += [cpio.item(prefix + "/" + name, data) for name, data in sorted(indexes.items())]
    contents: Dict[str, Any] = {
        "modules": parts.described(prefix, ours), "dependencies": sorted(module.name for module in extra.values()),
        "firmware": sorted(entry.name for entry in firmware), "firmware_missing": absent}
    sealed = seal(image, files + starts(image, store, wants, contents), wants, method, contents)
    wrong = [module["path"] for module in contents["modules"] if sealed.digests.get(module["path"]) != module["sha256"]]
    refuse(image.path, wrong + misindexed(sealed.modules_dep, prefix, contents["modules"], kept))
    return sealed.overlay


def starts(image: Image, store: parts.Store, wants: Dict[str, Any], contents: Dict[str, Any]) -> List[cpio.Item]:
    """What is added to the early boot. ``contents`` says by ``mark`` what is promised to be found in early.PROOF then, "" for nothing."""
    files = [early.load(image, wants["drivers"], [name for name, _sha256 in wants["modules"]])] if wants["early_load"] else []
    proof = early.proof(image.tree, {name: bytes(text) for name, text in store.texts.items()}, manifest.identity(wants))
    contents["mark"] = manifest.identity(wants) if proof else ""
    return files + ([proof] if proof else [])


def obstacle(image: Image, release: str) -> Optional[KmodError]:
    """Why the early boot of an image would not see what is appended, or not use it."""
    then = "Use method rebuild"
    if squashed(image.tree):
        return KmodError(image.path, "keeps its files in a file system image, which is mounted over what is appended",
                         "Build it with dracut, without its squash modules (omit_dracutmodules)", "INITRD_SQUASH")
    if generator(image.tree) == "nash":
        return KmodError(image.path, "loads the modules that its init lists, and no others", then, "INITRD_NASH")
    if image.segments[-1].kind == "lz4" and tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit()) < (5, 14):
        # 2c484419efc0 lib/decompress_unlz4.c: correctly handle zero-padding around initrds
        return KmodError(image.path, "is lz4-compressed, and kernels before 5.14 stop at the padding behind it", then, "INITRD_LZ4")
    return None


def lead(size: int) -> bytes:
    """The NULs between an image of ``size`` bytes and the segment: a raw archive starts at a multiple of 4."""
    return b"\0" * (NULS + cpio.padding(size + NULS, ALIGN))


def appended(host: Host, path: str, made: Overlay) -> Iterator[bytes]:
    """An image of the host with an overlay behind it."""
    with host.open(path) as reader:
        yield from reader.chunks(limit=SIZE_LIMIT)
    yield from made.chunks()


def seal(image: Image, files: Sequence[cpio.Item], wants: Dict[str, Any], method: str, contents: Dict[str, Any]) -> Sealed:
    """The files and a manifest as a segment, unpacked into the image's tree as the kernel will: nothing else may have changed there."""
    alone = method == "segment"  # the loader puts it behind the image, at a multiple of 4; its own NULs stop an lz4 decoder
    nuls = b"\0" * ALIGN if alone else lead(image.size)
    whole = Digest(SEGMENT_PIECE) if alone else image.digest.copy()
    head = (0, whole.hexdigest()) if alone else (image.size, image.sha256)
    items = _placed(image, list(files) + [cpio.item(manifest.NAME, b"")])
    last = items.pop()
    before, length = hashlib.sha256(nuls), len(nuls)
    for piece in cpio.body(cpio.archive(items)[:-1]):
        before.update(piece)
        length += len(piece)
    built = cpio.archive(items + [cpio.item(last.name, manifest.text(wants, method, head, (length, before.hexdigest()), contents))])

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
    unpack(watched(), image.path, image.tree, wanted, image.size + (cpio.padding(image.size) if alone else 0))
    after = _facts(image.tree)
    refuse(image.path, [path for path, fact in untouched.items() if after.get(path) != fact])
    overlay = Overlay(len(nuls) + cpio.size(built), whole, chunks, contents)
    return Sealed(overlay, {path: digest.hexdigest() for path, digest in digests.items()}, b"".join(modules_dep).decode("utf-8", "replace"))


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
        raise KmodError(path, "a variant of it would not hold what it should: " + ", ".join(sorted(set(wrong))[:5]),
                        "Use the other method, and report this with the image's listing (kmodctl variant --list)", "INITRD_VERIFY")


def misindexed(modules_dep: str, prefix: str, modules: Sequence[Dict[str, Any]], kept: Iterable[str]) -> List[str]:
    """What is wrong with the index: another copy of one of ``modules`` that would win, one of them or of the ``kept`` files that is not on it."""
    listed = set(dependencies(modules_dep))
    winners = {module["name"]: module["path"][len(prefix) + 1:] for module in modules}
    return [path for path in listed if winners.get(module_name(path), path) != path] + \
        [path for path in list(winners.values()) + list(kept) if path not in listed]


def _facts(tree: Tree) -> Dict[str, Tuple[Any, ...]]:
    return {path: (node.mode, node.owner, node.size, node.target, id(node)) for path, node in tree.nodes.items()}
