# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks on more than one host."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forge import families
from tests.forge.ko import RELEASE, ko
from tests.forge.symvers import EXPORTS

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


@pytest.fixture
def deploy(tmp_path, collections):
    """deploy(options) to a host whose kernel does not take the driver and to one whose kernel does: {host:
    whether it failed}.
    """
    hosts = {}
    for name, crc in (("canary", 1), ("other", 0)):
        exports = [(symbol, value + crc, *rest) for symbol, value, *rest in EXPORTS]
        families.kernel(tmp_path / name, RELEASE, exports=exports, family="el9")
        hosts[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "kmod_root": str(tmp_path / name),
        }
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    (tmp_path / "vendor.ko").write_bytes(ko())

    def run(**options):
        # as -e NAME=VALUE gives it
        options.update(kmod_driver="vendor", kmod_src=str(tmp_path / "vendor.ko"), kmod_initrd="false")
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                "-i",
                str(tmp_path / "inventory.json"),
                "outoftree.kmod.deploy",
                "-e",
                json.dumps(options),
            ],
            env=dict(os.environ, ANSIBLE_COLLECTIONS_PATH=collections, ANSIBLE_NOCOLOR="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return {
            name: failed != "0" for name, failed in re.findall(r"^(\w+) +: .*failed=(\d+)", done.stdout, re.M)
        }

    return run


def test_hosts_are_served_all_at_once_or_in_turns_that_stop_at_a_failure(deploy):
    assert deploy(kmod_serial=[1, "100%"]) == {"canary": True}
    assert deploy() == {"canary": True, "other": False}
