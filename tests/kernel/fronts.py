# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""weak-modules and our own front, called as packages call them."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile

from tests import CHECKOUT

SCRIPT = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES")


def front(root, *argv, lines=()):
    return subprocess.run(
        [sys.executable, kmodctl(), "weak-modules", *argv, "--basedir", str(root)],
        input="".join(line + "\n" for line in lines).encode(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@functools.lru_cache(maxsize=None)
def kmodctl():
    directory = tempfile.mkdtemp(prefix="kmodctl-")
    atexit.register(shutil.rmtree, directory)
    subprocess.run(
        [sys.executable, str(CHECKOUT / "tools" / "build_kmodctl.py"), directory + "/kmodctl"], check=True
    )
    return directory + "/kmodctl"


def script(root, *argv, lines=()):
    return subprocess.run(
        ["bash", str(SCRIPT), *argv, "--dracut", "/bin/true", "--basedir", str(root)],
        input="".join(line + "\n" for line in lines).encode(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
    )
