# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drivers' sources, and headers to build them against, that need no compiler: a module is a file made
beforehand, and "compiling" it gives it its name.
"""

import shutil
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import sandbox
from tests.forge.ko import RELEASE, ko
from tests.forge.symvers import EXPORTS, symvers

CONFIG = (
    'CONFIG_CC_VERSION_TEXT="gcc-1 (Ours) 1.2.0"\nCONFIG_CC_IS_GCC=y\nCONFIG_GCC_VERSION=10200\n'
    "CONFIG_X86_64=y\nCONFIG_64BIT=y\nCONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\nCONFIG_MODULES=y\n"
    'CONFIG_MODULE_UNLOAD=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_SIG_HASH="sha256"\nCONFIG_PCI=m\n'
)
# every NAME.bin becomes NAME.ko
MAKEFILE = (
    "modules:\n\t@for each in $(M)/*.bin; do cp $$each $${each%.bin}.ko; done; echo built for $(M)\n"
    "clean:\n\trm -f $(M)/*.ko\n"
)
CONF = """PACKAGE_NAME=drv
PACKAGE_VERSION=1.0
BUILT_MODULE_NAME[0]=drv
DEST_MODULE_LOCATION[0]=/extra
STRIP[0]=no
MAKE[0]="cp drv.bin drv.ko"
"""


def needs_sandbox() -> None:
    """Skip where this machine allows no sandbox, or has no compiler."""
    try:
        sandbox.check()
    except KmodError as error:
        pytest.skip(str(error))
    for name in ("make", "gcc", "strip"):
        if not shutil.which(name):
            pytest.skip("needs %s" % name)


def write(directory: Path, files: dict) -> Path:
    """Files by their paths; those of text that begin with #! can be run."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        if path.read_bytes().startswith(b"#!"):
            path.chmod(0o755)
    return directory


def headers(root: Path, release: str = RELEASE, config: str = CONFIG, exports=EXPORTS) -> Path:
    """A root with headers of Debian's shape: three directories that name each other."""
    its, common, kbuild = (
        "usr/src/linux-headers-" + release,
        "usr/src/linux-headers-common",
        "usr/lib/linux-kbuild-6.1",
    )
    write(
        root,
        {
            its + "/.config": config,
            its + "/Module.symvers": symvers(exports),
            its + "/include/generated/utsrelease.h": '#define UTS_RELEASE "%s"\n' % release,
            its + "/Makefile": "include /%s/Makefile\n" % common,
            common + "/Makefile": MAKEFILE,
            kbuild + "/scripts/basic/fixdep": "#!/bin/sh\nexit 1\n",
            kbuild + "/scripts/mod/modpost": "#!/bin/sh\nexit 0\n",
        },
    )
    (root / its / "scripts").symlink_to("../../lib/linux-kbuild-6.1/scripts")
    return root


def source(directory: Path, conf: str = CONF, **files) -> Path:
    """A dkms source whose module "compiles"; without ``conf`` a Kbuild directory."""
    write(directory, {"drv.bin": ko("drv"), "Makefile": "obj-m := drv.o\n", **files})
    return write(directory, {"dkms.conf": conf}) if conf else directory
