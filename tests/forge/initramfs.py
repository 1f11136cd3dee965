# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images, modules and hosts for the tests, from nothing."""

import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple, Union

from tests.forge.ko import RELEASE

DEPMOD = shutil.which("depmod") or ""


def modules(
    path: str, files: Dict[str, bytes], work: Path, **more: bytes
) -> Dict[str, Union[bytes, str, None]]:
    """The module tree of an image below ``path`` (lib/modules/REL): the files and depmod's indexes of them."""
    tree = work / "index"
    base = tree / "lib/modules" / path.rsplit("/", 1)[-1]
    (tree / "usr").mkdir(parents=True, exist_ok=True)
    (tree / "lib").mkdir(exist_ok=True)
    if not (tree / "usr/lib").exists():
        (tree / "usr/lib").symlink_to("../lib")
    for name, data in {**files, **{key.replace("_", "."): value for key, value in more.items()}}.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(data)
    subprocess.run([DEPMOD, "-b", str(tree), base.name], check=True)
    found = sorted(each for each in base.rglob("*") if each.is_file())
    return {"%s/%s" % (path, each.relative_to(base)): each.read_bytes() for each in found}


class Machine:
    """A directory host with one kernel, its shipped image, and a driver linked into it."""

    def __init__(self, root: Path, release: str = RELEASE) -> None:
        self.root = root
        self.release = release
        self.modules = root / "lib/modules" / release
        (root / "boot").mkdir(parents=True)
        (self.modules / "kernel").mkdir(parents=True)
        (root / "usr").mkdir()
        (root / "usr/lib").symlink_to("../lib")
        (root / "boot" / ("vmlinuz-" + release)).write_bytes(b"kernel")

    @property
    def base(self) -> Path:
        return self.root / "boot" / ("initrd.img-" + self.release)

    def image(self, data: bytes, mode: int = 0o600) -> Path:
        self.base.write_bytes(data)
        self.base.chmod(mode)
        return self.base

    def module(self, path: str, data: bytes) -> Path:
        """Put a module file below /lib/modules/REL and index it."""
        file = self.modules / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        subprocess.run([DEPMOD, "-b", str(self.root), self.release], check=True)
        return file

    def snapshot(self) -> Dict[str, Tuple[int, bytes]]:
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        return {str(path): (path.stat().st_mode, path.read_bytes()) for path in files}

    def boot(self) -> List[str]:
        """What lies in /boot, but for the marks beside variants."""
        return [name for name in self.all_in_boot() if not name.endswith(".outoftree.kmod")]

    def all_in_boot(self) -> List[str]:
        return sorted(path.name for path in (self.root / "boot").iterdir())

    def variant(self, number: int = 1) -> Path:
        return self.root / "boot" / ("%s.%d" % (self.base.name, number))

    def mark(self, number: int = 1) -> Path:
        return self.root / "boot" / (".%s.%d.outoftree.kmod" % (self.base.name, number))
