# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What modules an image has: its module tree, kept on disk while the image is read."""

import os
from typing import IO, Dict, NamedTuple, Optional

from ...errors import from_oserror
from ...read.depmod import dependencies
from ...read.names import is_readable_module, module_of
from .generators import TEXTS
from .image import Image, modules_dir
from .segments import Node, Sink

TEXT_LIMIT = 1 << 20


class InImage(NamedTuple):
    """The module tree that an image has in the end."""

    prefix: str  # the module directory, where the image's own modprobe looks
    files: Dict[str, str]  # path below it: the file of this machine that holds it
    known: Dict[str, str]  # module name: path below it, of what the image's index lists

    def text(self, name: str) -> str:
        """A small file of it; "" where there is none."""
        if name not in self.files:
            return ""
        with open(self.files[name], encoding="utf-8", errors="replace") as handle:
            return handle.read()


class Kept:
    """The module tree of an image, kept on disk while the image is read (``wanted`` is for ``unpack``)."""

    def __init__(self, directory: str, release: str) -> None:
        self.directory = directory
        self.part = "lib/modules/%s/" % release
        self.files: Dict[Node, str] = {}
        self.texts: Dict[str, bytearray] = {}  # of generators.TEXTS
        self.handle: Optional[IO[bytes]] = None

    def wanted(self, path: str, node: Node) -> Optional[Sink]:
        if path in TEXTS and node.size <= TEXT_LIMIT:
            self.texts[path] = bytearray()
            return self.texts[path].extend
        start = path.find(self.part)
        name = path.rsplit("/", 1)[-1]
        if start not in (0, 4) or not (is_readable_module(name) or name.startswith("modules.")):
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

    def modules(self, image: Image) -> InImage:
        self.close()
        release = self.part.split("/")[-2]
        prefix = modules_dir(image.tree, release)
        nodes = {path: image.tree.nodes[path] for path in image.tree.under(prefix)}
        files = {
            path[len(prefix) + 1 :]: self.files[node] for path, node in nodes.items() if node in self.files
        }
        return InImage(prefix, files, _known(files))


def _known(files: Dict[str, str]) -> Dict[str, str]:
    """Of several files with one name the image's distribution has chosen one: that is on its index."""
    paths = [path for path in files if is_readable_module(path)]
    listed = dependencies(InImage("", files, {}).text("modules.dep"))
    marks = ["/" + path for path in listed]  # module-init-tools wrote absolute paths
    chosen = {path for path in paths if path in listed or any(mark.endswith("/" + path) for mark in marks)}
    return {module_of(path): path for path in sorted([path for path in paths if path in chosen] or paths)}
