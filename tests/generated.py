# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small generated kernels for the demo's directory hosts, and a driver's builds for them."""
import subprocess
import sys
from pathlib import Path

import build_ko

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "demo"))

import fleet  # noqa: E402

NEEDS = ("module_layout", "printk", "kfree")


def exports(change: int) -> list:
    return [(symbol, crc + change * (symbol == "kfree"), *rest) for symbol, crc, *rest in build_ko.EXPORTS]


def kernel(directory: Path, release: str, change: int = 0) -> fleet.Kernel:
    """A kernel that takes what was built for another one of the same ``change`` and no other."""
    tree = directory / release
    top = build_ko.kernel(tree, release, exports=exports(change),
                          in_tree={"drivers/block/disk.ko": build_ko.ko("disk", [("module_layout", 0x11)], release=release)})
    (top / "modules.builtin.modinfo").touch()
    subprocess.run(["depmod", "-b", str(tree), release], check=True)
    made = fleet.Kernel(release, tree, build_ko.symvers(exports(change)), generated=True)
    (tree / "initramfs").write_bytes(fleet.initramfs(made, sorted(tree.rglob("disk.ko"))))
    return made


def build(directory: Path, driver: str, release: str, change: int = 0) -> Path:
    """The driver's module, built for a release, at RELEASE/DRIVER.ko."""
    path = directory / release / (driver + ".ko")
    needs = [(symbol, crc) for symbol, crc, *_rest in exports(change) if symbol in NEEDS]
    fleet.write(path, build_ko.ko(driver, needs, release=release))
    return path
