# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual environments with the lowest and the newest versions of what a controller needs, kept beside the lab's
packages."""

import fcntl
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple

from tests.lab import debian

VERSIONS: Dict[
    str, Tuple[Sequence[str], Sequence[str]]
] = {  # and the Pythons that each runs on, the better one first
    "lowest": (["ansible-core==2.16.*", "pyelftools==0.27"], ("3.10", "3.11", "3.12")),
    "newest": (["ansible-core", "pyelftools<0.33"], ("3.14", "3.13", "3.12", "3.11")),
    **{
        core: (["ansible-core==%s.*" % core, "pyelftools<0.33"], ("3.12", "3.11"))
        for core in ("2.17", "2.18", "2.19", "2.20", "2.21")
    },
}


def python(version: str) -> Optional[str]:
    """A Python of that version on this machine."""
    for path in glob.glob(
        "%s/versions/%s.*/bin/python"
        % (os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), version)
    ) + [shutil.which("python" + version), sys.executable]:
        if (
            path
            and subprocess.run(
                [path, "-c", "import sys; sys.exit('%%d.%%d' %% sys.version_info[:2] != '%s')" % version],
                stderr=subprocess.DEVNULL,
                check=False,
            ).returncode
            == 0
        ):
            return path
    return None


def controller(which: str) -> Path:
    """The bin directory of such an environment. Error: ``debian.Missing`` where it cannot be made here."""
    packages, versions = VERSIONS[which]
    chosen = next(filter(None, map(python, versions)), None)
    if chosen is None:
        raise debian.Missing("no Python of %s on this machine" % ", ".join(versions))
    venv = debian.cache() / "controllers" / which
    done = venv / "made-of"
    wanted = "%s %s" % (chosen, " ".join(packages))
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(str(venv) + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != wanted:
            subprocess.run([chosen, "-m", "venv", "--clear", str(venv)], check=True)
            made = subprocess.run(
                [str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *packages],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if made.returncode:
                raise debian.Missing("%s cannot be installed: no package index" % " ".join(packages))
            done.write_text(wanted)
    return venv / "bin"
