# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes into a variant beside the driver: its place in the indexes, what it depends on, its firmware, and how it is loaded early."""
import hashlib
import os
from typing import IO, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ...compression import Decoder, detect
from ...errors import KmodError, from_oserror
from ...host import Host
from ...read import depmod, ko
from . import cpio
from .image import MODULE, Image, dependencies, generator, module_name
from .segments import Node, Sink, Tree

FIRMWARE = ("lib/firmware/updates/%s/", "lib/firmware/updates/", "lib/firmware/%s/", "lib/firmware/")  # drivers/base/firmware_loader/main.c: fw_path
EARLY = {
    "initramfs-tools": ("conf/conf.d/zz-kmod-%s", "modprobe -q %s || :\n"),  # sourced by /init, before udev starts
    "systemd": ("etc/modules-load.d/kmod-%s.conf", "%s\n"),
    "dracut": ("lib/dracut/hooks/pre-udev/00-kmod-%s.sh", "modprobe -q %s || :\n"),
    "dracut-004": ("pre-udev/00-kmod-%s.sh", "modprobe -q %s || :\n"),
}


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
        with open(had["modules.dep"], encoding="utf-8", errors="replace") as lines:
            listed = dependencies(lines.read())
        marks = ["/" + path for path in listed]  # module-init-tools wrote absolute paths
        chosen = {path for path in paths if path in listed or any(mark.endswith("/" + path) for mark in marks)}
        paths = [path for path in paths if path in chosen] or paths
    return {module_name(path): path for path in sorted(paths)}


def dependencies_of(host: Host, release: str, modules: Sequence[ko.KernelModule], known: Dict[str, str],
                    had: Dict[str, str]) -> Dict[str, ko.KernelModule]:
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


def indexes(host: Host, release: str, directory: str, had: Dict[str, str], kept: Dict[str, str],
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


def described(prefix: str, modules: Dict[str, ko.KernelModule]) -> List[Dict[str, Any]]:
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
    for chunk in plain(Host("/"), os.path.realpath(file)):
        digest.update(chunk)
    return digest.hexdigest()


def firmware(host: Host, release: str, tree: Tree, modules: Sequence[ko.KernelModule]) -> Tuple[List[cpio.Item], List[str]]:
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


def early(image: Image, drivers: Sequence[str], names: Sequence[str]) -> cpio.Item:
    kind = generator(image.tree)
    if kind not in EARLY:
        raise KmodError(image.path, "its way of loading modules early is not known", "Leave out early_load", "EARLY_UNSUPPORTED")
    path, line = EARLY[kind]
    return cpio.item(path % "-".join(drivers), "".join(line % name for name in names).encode("utf-8"))
