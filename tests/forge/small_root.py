# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make_root.py TESTS DIRECTORY: an EL-like root with kernels 1 to 3, and builds of a driver for 1 and 2; the latter suits 2 and 3."""
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import build_ko  # noqa: E402

LAYOUT = ("module_layout", 0x11)
RELEASES = {"5.14.0-1.el9.x86_64": 0x71, "5.14.0-2.el9.x86_64": 0x72, "5.14.0-3.el9.x86_64": 0x72}


def module(release, name="vendor", version="1.0"):
    return build_ko.ko(name, [LAYOUT, ("device_add", RELEASES[release])], release=release, modinfo={"version": version})


def main():
    directory = Path(sys.argv[2])
    root = directory / "root"
    (root / "etc" / "depmod.d").mkdir(parents=True)
    (root / "etc" / "depmod.d" / "dist.conf").write_text("search updates extra built-in weak-updates\n")
    for release, crc in RELEASES.items():
        exports = [LAYOUT + (False, "", "vmlinux"), ("device_add", crc, False, "", "vmlinux")]
        top = build_ko.kernel(root, release, exports=exports, family="el", in_tree={"drivers/net/vendor.ko": module(release, version="in-tree")})
        for name in ("extra", "updates", "weak-updates"):
            (top / name).mkdir()
        subprocess.run(["depmod", "-b", str(root), release], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    for release in list(RELEASES)[:2]:
        path = directory / "builds" / release / "vendor.ko"
        path.parent.mkdir(parents=True)
        path.write_bytes(module(release))


main()
