# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of generated kernels as their packages have them."""

from pathlib import Path

from tests.forge import families
from tests.forge.families import CONFIG
from tests.forge.symvers import EXPORTS, symvers

X86 = CONFIG + "CONFIG_X86_64=y\nCONFIG_64BIT=y\nCONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\n"
DEBIAN, EL, SUSE = "usr/src/linux-headers-%s", "usr/src/kernels/%s", "usr/src/linux-obj/x86_64/%s"


def headers(release, exports=EXPORTS, config=X86, at=DEBIAN):
    """What of a kernel's headers is read, as path -> bytes."""
    files = {
        "Module.symvers": symvers(exports),
        ".config": config.encode(),
        "include/generated/utsrelease.h": b'#define UTS_RELEASE "%s"\n' % release.encode(),
        "Makefile": b"all:\n",
    }
    return {"%s/%s" % (at % release, name): data for name, data in files.items()}


def image(directory: Path, release, family="debian", **options):
    """All files of a kernel, as path -> bytes; ``directory`` is for making them."""
    root = directory / ("tree-" + release)
    families.kernel(root, release, config=X86, family=family, **options)
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def el_core(directory: Path, release, **options):
    """The files of kernel-core and kernel-modules-core: all below /lib/modules."""
    files = image(directory, release, "el9", **options)
    top = "lib/modules/%s/" % release
    for name in ("vmlinuz", "config"):
        files[top + name] = files["boot/%s-%s" % (name, release)]
    return {name: data for name, data in files.items() if not name.startswith("boot/")}
