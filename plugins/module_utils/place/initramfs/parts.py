# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module tree of an image: kept on disk while the image is read, and indexed anew with the driver in it."""
import hashlib
import os
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from ...compression import Decoder, detect
from ...errors import KmodError, from_oserror
from ...host import Host
from ...read import index
from ...read.kernel_module import KernelModule
from . import early
from .image import MODULE, dependencies, module_name
from .segments import Node, Sink, Tree

TEXT_LIMIT = 1 << 20


class Store:
    """The module tree of an image, kept on disk while the image is read (``wanted`` is for ``unpack``)."""

    def __init__(self, directory: str, release: str) -> None:
        self.directory = directory
        self.part = "lib/modules/%s/" % release
        self.files: Dict[Node, str] = {}
        self.texts: Dict[str, bytearray] = {}  # of early.TEXTS
        self.handle: Optional[IO[bytes]] = None

    def wanted(self, path: str, node: Node) -> Optional[Sink]:
        if path in early.TEXTS and node.size <= TEXT_LIMIT:
            self.texts[path] = bytearray()
            return self.texts[path].extend
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
        if self.handle is not None:
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


def indexed(had: Dict[str, str]) -> Dict[str, str]:
    """{module name: path} of what the image's index lists: of several files with one name its distribution has chosen one."""
    paths = [path for path in had if MODULE.search(path)]
    if "modules.dep" in had:
        listed = dependencies(text_of(had, "modules.dep"))
        marks = ["/" + path for path in listed]  # module-init-tools wrote absolute paths
        chosen = {path for path in paths if path in listed or any(mark.endswith("/" + path) for mark in marks)}
        paths = [path for path in paths if path in chosen] or paths
    return {module_name(path): path for path in sorted(paths)}


def text_of(had: Dict[str, str], name: str) -> str:
    """A small file of the image's module tree; "" where it has none."""
    if name not in had:
        return ""
    with open(had[name], encoding="utf-8", errors="replace") as handle:
        return handle.read()


def indexes(host: Host, release: str, directory: str, had: Dict[str, str], kept: Dict[str, str],
            added: Dict[str, KernelModule]) -> Dict[str, bytes]:
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
        _refuse_half(made, had, list(kept) + list(added))
        for name in list(made):
            if name in had:
                with open(had[name], "rb") as handle:
                    if handle.read() == made[name]:
                        del made[name]
    except OSError as error:
        raise from_oserror(root, error, "lay out the module tree") from None
    if "modules.dep" not in made:
        _depmod_failed("has not listed %s" % ", ".join(sorted(added)))
    return made


def _refuse_half(made: Dict[str, bytes], had: Dict[str, str], paths: Sequence[str]) -> None:
    """Look into what depmod made: its exit status tells nothing of a full disk or of a stub in its place."""
    listed = dependencies(made.get("modules.dep", b"").decode("utf-8", "replace"))
    missing = [path for path in paths if path not in listed]
    if missing:
        _depmod_failed("has not listed %s" % ", ".join(sorted(missing)[:5]))
    for name in sorted(set(made) | {name for name in had if name.startswith("modules.") and name.endswith(".bin")}):
        if name.endswith(".bin") and not name.startswith("modules.builtin") and not index.whole(made.get(name, b"")):
            _depmod_failed("has made no whole %s" % name)
    if "modules.dep.bin" in made:  # which is what modprobe reads
        entries = index.entries(made["modules.dep.bin"])
        missing = [path for path in paths if not any(row.startswith(path + ":") for row in entries.get(module_name(path), ()))]
        if missing:
            _depmod_failed("has left %s out of modules.dep.bin" % ", ".join(sorted(missing)[:5]))


def _depmod_failed(why: str) -> None:
    raise KmodError("depmod", why, "Look whether depmod works on this host, and whether its disks are full", "TOOL_FAILED")


def _order(had: Dict[str, str], kept: Iterable[str], added: Iterable[str]) -> List[str]:
    lines: List[str] = []
    if "modules.order" in had:
        with open(had["modules.order"], encoding="utf-8", errors="surrogateescape") as handle:
            lines = handle.read().split()
    paths = {MODULE.sub(".ko", path) for path in kept} | set(added)
    first = [line for line in lines if line in paths]
    return first + sorted(paths - set(first))


def described(prefix: str, modules: Dict[str, KernelModule]) -> List[Dict[str, Any]]:
    return [{"name": module.name, "path": prefix + "/" + path, "sha256": module.sha256, "version": module.version}
            for path, module in sorted(modules.items())]


def reader(host: Host, path: str) -> Callable[[], Iterator[bytes]]:
    return lambda: plain(host, path)


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


def sha256_of(file: str) -> str:
    """The digest of a module file of this machine once it is unpacked."""
    digest = hashlib.sha256()
    for chunk in plain_file(file):
        digest.update(chunk)
    return digest.hexdigest()


def plain_file(file: str) -> Iterator[bytes]:
    """The content of a module file of this machine."""
    return plain(Host("/"), os.path.realpath(file))
