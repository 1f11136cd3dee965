# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay: one raw archive that, appended to a shipped image, puts a driver into it and takes nothing away.

It holds the driver's modules (uncompressed: the kmod of an old image reads nothing else), what they need and the image lacks, and the
indexes of the image's own module tree as the host's depmod makes them with the driver in it.
"""
import hashlib
import os
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...compression import Decoder, detect
from ...errors import KmodError, from_oserror
from ...host import Host
from ...read import depmod, ko
from . import cpio, manifest
from .image import MODULE, Image, dependencies, generator, module_name, modules_dir, place, squashed
from .segments import Node, Sink, Tree, unpack

ALIGN = 512
NULS = 8  # an lz4 decoder reads 4 of them as its end; fewer, and it takes the next bytes for a block
FIRMWARE = ("lib/firmware/updates/%s/", "lib/firmware/updates/", "lib/firmware/%s/", "lib/firmware/")  # drivers/base/firmware_loader/main.c: fw_path
EARLY = {
    "initramfs-tools": ("conf/conf.d/zz-kmod-%s", "modprobe -q %s || :\n"),  # sourced by /init, before udev starts
    "systemd": ("etc/modules-load.d/kmod-%s.conf", "%s\n"),
    "dracut": ("lib/dracut/hooks/pre-udev/00-kmod-%s.sh", "modprobe -q %s || :\n"),
    "dracut-004": ("pre-udev/00-kmod-%s.sh", "modprobe -q %s || :\n"),
}


class Overlay(NamedTuple):
    """The segment with the padding before it. ``sha256`` is that of the whole variant, ``contents`` what was added."""

    size: int
    sha256: str
    chunks: Callable[[], Iterator[bytes]]
    contents: Dict[str, Any]


class Store:
    """The module tree of an image, kept on disk while the image is read (``wanted`` is for ``unpack``)."""

    def __init__(self, directory: str, release: str) -> None:
        self.directory = directory
        self.part = "lib/modules/%s/" % release
        self.files: Dict[Node, str] = {}
        self.handle: Optional[IO[bytes]] = None

    def wanted(self, path: str, node: Node) -> Optional[Sink]:
        start = path.find(self.part)
        name = path.rsplit("/", 1)[-1]
        if start not in (0, 4) or not (MODULE.search(name) or name.startswith("modules.")):
            return None
        self.close()
        self.files[node] = os.path.join(self.directory, str(len(self.files)))
        try:
            self.handle = open(self.files[node], "wb")  # noqa: SIM115  # closed when the next file begins
        except OSError as error:
            raise from_oserror(self.files[node], error, "unpack the image") from None
        return self._write

    def _write(self, data: bytes) -> None:
        assert self.handle is not None
        try:
            self.handle.write(data)
        except OSError as error:
            raise from_oserror(self.handle.name, error, "unpack the image") from None

    def close(self) -> None:
        if self.handle is not None:
            self.handle.close()

    def tree(self, image: Tree, prefix: str) -> Dict[str, str]:
        """{path below the module directory: the file that holds it} of what the image has in the end."""
        self.close()
        return {path[len(prefix) + 1:]: self.files[image.nodes[path]] for path in image.under(prefix) if image.nodes[path] in self.files}


def build(host: Host, release: str, modules: Sequence[ko.KernelModule], image: Image, store: Store, wants: Dict[str, Any],
          method: str) -> Overlay:
    """The overlay that puts ``modules`` into ``image``, whose module tree is in ``store``. The image's tree becomes the variant's.

    Errors: INITRD_SQUASH, INITRD_LZ4, INITRD_NASH, EARLY_UNSUPPORTED, DEPENDENCY_MISSING, INITRD_VERIFY.
    """
    supported(image, release)
    prefix = modules_dir(image.tree, release)
    had = store.tree(image.tree, prefix)
    known = _known(had)
    extra = _complete(host, release, modules, known, had)
    ours = {"updates/" + os.path.basename(MODULE.sub(".ko", module.path)): module for module in modules}
    if len({module.name for module in modules}) != len(modules) or len(ours) != len(modules):
        raise KmodError(", ".join(sorted(module.path for module in modules)), "are several builds of one module", "Name one build", "MODULE_TWICE")
    added = dict(ours, **extra)
    names = {module.name for module in added.values()}
    kept = {path: had[path] for name, path in known.items() if name not in names}
    indexes = _indexes(host, release, store.directory, had, kept, added)

    files = [_module(host, prefix + "/" + path, module) for path, module in sorted(added.items())]
    firmware, absent = _firmware(host, release, image.tree, list(modules) + list(extra.values()))
    files += firmware
    files += [cpio.item(prefix + "/" + name, data) for name, data in sorted(indexes.items())]
    if wants["early_load"]:
        files.append(_early(image, "-".join(wants["drivers"]), [module.name for module in modules]))
    items = _placed(image, files)
    contents = {"modules": [{"name": module.name, "path": prefix + "/" + path, "sha256": module.sha256, "version": module.version}
                            for path, module in sorted(ours.items())],
                "dependencies": sorted(module.name for module in extra.values()),
                "firmware": sorted(entry.name for entry in firmware), "firmware_missing": absent}
    return seal(image, items, wants, method, contents, prefix, kept)


def supported(image: Image, release: str) -> None:
    """Refuse the images whose early boot would not see what is appended, or not use it."""
    then = "Use method rebuild"
    if squashed(image.tree):
        raise KmodError(image.path, "keeps its files in a file system image, which is mounted over what is appended", then, "INITRD_SQUASH")
    if generator(image.tree) == "nash":
        raise KmodError(image.path, "loads the modules that its init lists, and no others", then, "INITRD_NASH")
    if image.segments[-1].kind == "lz4" and tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit()) < (5, 13):
        # 2c484419efc0 lib/decompress_unlz4.c: correctly handle zero-padding around initrds
        raise KmodError(image.path, "is lz4-compressed, and kernels before 5.13 stop at the padding behind it", then, "INITRD_LZ4")


def lead(size: int) -> bytes:
    """The NULs between an image of ``size`` bytes and the segment: a raw archive starts at a multiple of 4."""
    return b"\0" * (NULS + cpio.padding(size + NULS, ALIGN))


def seal(image: Image, items: List[cpio.Item], wants: Dict[str, Any], method: str, contents: Dict[str, Any],
         prefix: str, kept: Iterable[str]) -> Overlay:
    """Add the manifest, unpack all of it into the image's tree as the kernel will, and look at what comes out."""
    alone = method == "segment"  # the loader puts it behind the image, at a multiple of 4; its own NULs stop an lz4 decoder
    nuls = b"\0" * ALIGN if alone else lead(image.size)
    whole = hashlib.sha256() if alone else image.digest.copy()
    head = (0, whole.hexdigest()) if alone else (image.size, image.sha256)
    items += _placed(image, [cpio.item(manifest.NAME, b"")], [entry.name for entry in items if entry.mode & cpio.FORMAT == cpio.DIRECTORY])
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

    written = {entry.name for entry, _head in built}
    untouched = {path: fact for path, fact in _facts(image.tree).items() if path not in written}
    digests: Dict[str, Any] = {}
    modules_dep: List[bytes] = []

    def wanted(path: str, _node: Node) -> Sink:
        if path == prefix + "/modules.dep":
            return modules_dep.append
        digests[path] = hashlib.sha256()
        return digests[path].update  # type: ignore[no-any-return]

    unpack(watched(), image.path, image.tree, wanted, image.size + (cpio.padding(image.size) if alone else 0))
    after = _facts(image.tree)
    wrong = [path for path, fact in untouched.items() if after.get(path) != fact]
    wrong += [module["path"] for module in contents["modules"]
              if module["path"] not in digests or digests[module["path"]].hexdigest() != module["sha256"]]
    wrong += misindexed(b"".join(modules_dep).decode("utf-8", "replace"), prefix, contents["modules"], kept)
    if wrong:
        raise KmodError(image.path, "a variant of it would not hold what it should: " + ", ".join(sorted(set(wrong))[:5]),
                        "Use method rebuild, and report this with the image's listing", "INITRD_VERIFY")
    return Overlay(len(nuls) + cpio.size(built), whole.hexdigest(), chunks, contents)


def misindexed(modules_dep: str, prefix: str, modules: Sequence[Dict[str, Any]], kept: Iterable[str]) -> List[str]:
    """What is wrong with the index: another copy of one of ``modules`` that would win, one of them or of the ``kept`` files that is not on it."""
    listed = set(dependencies(modules_dep))
    winners = {module["name"]: module["path"][len(prefix) + 1:] for module in modules}
    return [path for path in listed if winners.get(module_name(path), path) != path] + \
        [path for path in list(winners.values()) + list(kept) if path not in listed]


def _facts(tree: Tree) -> Dict[str, Tuple[Any, ...]]:
    return {path: (node.mode, node.owner, node.size, node.target, id(node)) for path, node in tree.nodes.items()}


# The parts

def _known(had: Dict[str, str]) -> Dict[str, str]:
    """{module name: path} of what the image's index lists: of several files with one name its distribution has chosen one."""
    paths = [path for path in had if MODULE.search(path)]
    if "modules.dep" in had:
        with open(had["modules.dep"], encoding="utf-8", errors="replace") as lines:
            listed = dependencies(lines.read())
        marks = ["/" + path for path in listed]  # module-init-tools wrote absolute paths
        chosen = {path for path in paths if path in listed or any(mark.endswith("/" + path) for mark in marks)}
        paths = [path for path in paths if path in chosen] or paths
    return {module_name(path): path for path in sorted(paths)}


def _complete(host: Host, release: str, modules: Sequence[ko.KernelModule], known: Dict[str, str], had: Dict[str, str]) -> Dict[str, ko.KernelModule]:
    """{path below the module directory: module} of the kernel's own modules that the driver depends on and the image lacks."""
    modules_dir = "/lib/modules/" + release
    lists = [host.read_text(modules_dir + "/modules.builtin")] if host.is_file(modules_dir + "/modules.builtin") else []
    if "modules.builtin" in had:
        with open(had["modules.builtin"], encoding="utf-8", errors="replace") as handle:
            lists.append(handle.read())
    builtin = {module_name(line) for text in lists for line in text.split()}
    on_host = depmod.chosen(host, modules_dir)
    done = set(known) | builtin | {module.name for module in modules}
    extra: Dict[str, ko.KernelModule] = {}
    todo = [(module, name, True) for module in modules for name in module.depends]
    todo += [(module, name, False) for module in modules for name in _soft(module)]
    while todo:
        module, name, needed = todo.pop(0)
        name = name.replace("-", "_")
        if name in done:
            continue
        if name in on_host:
            done.add(name)
            found = ko.read(host, on_host[name])
            extra[MODULE.sub(".ko", on_host[name][len(modules_dir) + 1:])] = found
            todo += [(found, further, True) for further in found.depends]
        elif needed:
            raise KmodError(module.path, "needs the module %s, which is neither in the image nor among those of kernel %s" % (name, release),
                            "Install the package with the kernel's further modules, or name all modules of the driver", "DEPENDENCY_MISSING")
    return extra


def _soft(module: ko.KernelModule) -> List[str]:
    """``softdep=pre: a b post: c``: wanted where there is one."""
    return [word for value in module.infos("softdep") for word in value.split() if not word.endswith(":")]


def _indexes(host: Host, release: str, directory: str, had: Dict[str, str], kept: Dict[str, str],
             added: Dict[str, ko.KernelModule]) -> Dict[str, bytes]:
    """{name: content} of the indexes that depmod makes of the kept and the added modules, as far as the image's own differ."""
    root = os.path.join(directory, "root")
    base = os.path.join(root, "usr/lib/modules", release)
    order = os.path.join(base, "modules.order")
    try:
        os.makedirs(base)
        os.symlink("usr/lib", os.path.join(root, "lib"))  # depmod looks in lib or in usr/lib, as it was built
        for path, file in list(kept.items()) + [(name, had[name]) for name in ("modules.builtin", "modules.builtin.modinfo") if name in had]:
            os.makedirs(os.path.dirname(os.path.join(base, path)), exist_ok=True)
            os.link(file, os.path.join(base, path))
        for path, module in added.items():
            os.makedirs(os.path.dirname(os.path.join(base, path)), exist_ok=True)
            with open(os.path.join(base, path), "wb") as handle:
                for chunk in plain(host, module.path):
                    handle.write(chunk)
        # depmod sorts by this list, and what is not on it in the order of the directory: with all on it, the same tree gives the same indexes
        with open(order, "w", encoding="utf-8", errors="surrogateescape") as handle:
            for path in _order(had, kept, added):
                handle.write(path + "\n")
        config = os.path.join(directory, "depmod.conf")
        with open(config, "w") as handle:
            handle.write("search updates built-in\n")
        host.run(["depmod", "-b", root, "-C", config, release])
        made = {}
        for name in sorted(os.listdir(base)):
            if name.startswith("modules.") and not name.startswith(("modules.builtin", "modules.order")):
                with open(os.path.join(base, name), "rb") as handle:
                    made[name] = handle.read()
        for name in list(made):
            if name in had:
                with open(had[name], "rb") as handle:
                    if handle.read() == made[name]:
                        del made[name]
    except OSError as error:
        raise from_oserror(root, error, "lay out the module tree") from None
    if "modules.dep" not in made:
        raise KmodError("depmod", "has not listed %s" % ", ".join(sorted(added)), "Look whether depmod works on this host", "TOOL_FAILED")
    return made


def _order(had: Dict[str, str], kept: Iterable[str], added: Iterable[str]) -> List[str]:
    lines: List[str] = []
    if "modules.order" in had:
        with open(had["modules.order"], encoding="utf-8", errors="surrogateescape") as handle:
            lines = handle.read().split()
    paths = {MODULE.sub(".ko", path) for path in kept} | set(added)
    first = [line for line in lines if line in paths]
    return first + sorted(paths - set(first))


def _module(host: Host, name: str, module: ko.KernelModule) -> cpio.Item:
    return cpio.Item(name, cpio.REGULAR | 0o644, module.size, lambda: plain(host, module.path))


def plain(host: Host, path: str) -> Iterator[bytes]:
    """The content of a module file, unpacked as it is read."""
    with host.open(path) as reader:
        kind = detect(reader.at(0, 6))
        if kind is None:
            yield from reader.chunks()
            return
        decoder = Decoder(kind, path)
        for chunk in reader.chunks():
            yield from decoder.feed(chunk)
        decoder.finish()


def _firmware(host: Host, release: str, tree: Tree, modules: Sequence[ko.KernelModule]) -> Tuple[List[cpio.Item], List[str]]:
    """The firmware files that the modules name, the image lacks and the host has; and the names of those that the host lacks too."""
    places = [place % release if "%s" in place else place for place in FIRMWARE]
    found, absent = [], []
    for name in sorted({name for module in modules for name in module.firmware}):
        paths = [place + name + suffix for place in places for suffix in ("", ".zst", ".xz")] if ".." not in name.split("/") else []
        if any(tree.find(path) for path in paths):
            continue
        path = next((path for path in paths if host.is_file("/" + path)), None)
        if path is None:
            absent.append(name)
        else:
            data = host.read("/" + path)
            found.append(cpio.item(path, data))
    return found, absent


def _early(image: Image, driver: str, names: Sequence[str]) -> cpio.Item:
    kind = generator(image.tree)
    if kind not in EARLY:
        raise KmodError(image.path, "its way of loading modules early is not known", "Leave out early_load", "EARLY_UNSUPPORTED")
    path, line = EARLY[kind]
    return cpio.item(path % driver, "".join(line % name for name in names).encode("utf-8"))


def _placed(image: Image, files: Iterable[cpio.Item], present: Iterable[str] = ()) -> List[cpio.Item]:
    """The files under their real paths, behind the directories that they need and the image lacks."""
    seen = set(present)
    directories, placed = [], []
    for file in files:
        path, missing = place(image.tree, image.path, file.name)
        directories += [cpio.directory(name) for name in missing if name not in seen]
        seen.update(missing)
        placed.append(file._replace(name=path))
    return directories + placed
