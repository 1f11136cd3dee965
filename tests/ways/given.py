# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the ways are run, and what is looked for afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import CHECKOUT, COLLECTIONS

BIN = Path(sys.executable).parent
OLD, NEW = "6.1.0-1", "6.1.0-2"


def inventory(path, roots, **variables):
    """The roots as hosts that are reached without a network."""
    given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **variables}
    path.write_text(
        json.dumps({"all": {"hosts": {root.name: {"kmod_root": str(root)} for root in roots}, "vars": given}})
    )
    return path


def settings(directory, **more):
    """An environment with nobody's own settings of Ansible's."""
    (directory / "ansible.cfg").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    given = {
        "PATH": "%s:%s" % (BIN, os.environ["PATH"]),
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "COLUMNS": "300",
    }
    return {**kept, **given, **more}


def run(command, environment, cwd=CHECKOUT):
    """(exit status, all that was said)."""
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        cwd=str(cwd),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def has_driver(root):
    """The driver is in the kernel's tree, in a variant, and has an entry of its own."""
    return (
        list(root.glob("lib/modules/*/extra/mydriver/**/mydriver.ko"))
        + list(root.glob("boot/initramfs-*.img.1"))
        + [
            path
            for path in root.glob("boot/loader/entries/*.conf")
            if "outoftree.kmod=mydriver" in path.read_text()
        ]
    )


def collection(directory):
    """The collection as ``ansible-galaxy collection build`` packs it."""
    failed, said = run(
        ["ansible-galaxy", "collection", "build", "--force", "--output-path", directory, CHECKOUT],
        settings(directory),
    )
    assert not failed, said
    (packed,) = Path(directory).glob("outoftree-kmod-*.tar.gz")
    return packed
