# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make_images.py TESTS ROOT: a shipped initramfs for each kernel of the root, as dracut lays it out, with the in-tree modules in it."""
import gzip
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from build_initramfs import cpio  # noqa: E402

root = Path(sys.argv[2])
for modules in (root / "lib/modules").iterdir():
    top = modules.resolve()
    files = {"usr/lib/modules/%s/%s" % (modules.name, path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*"))
             if path.is_file() and not path.is_symlink()}
    image = root / "boot" / ("initramfs-%s.img" % modules.name)
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(gzip.compress(cpio({"init": b"#!/bin/sh\n", "lib": "usr/lib", "usr/lib/systemd/systemd": b"", **files}), mtime=0))
    image.chmod(0o600)
