# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts whose only Python is 3.6, as ``platform-python`` outside of PATH, and only root's to run: an unprivileged user
logs in and becomes root by sudo."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests import CHECKOUT
from tests.lab import controllers, debian
from tests.ways.given import has_driver, inventory, run, settings

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("sudo", "unshare", "depmod"))),
    reason="needs root, sudo, unshare and depmod",
)


@pytest.fixture
def lowest():
    """The lowest controller, and the Python that it runs on."""
    try:
        venv = controllers.controller("lowest").parent
    except debian.Missing as error:
        pytest.skip(str(error))
    return next(venv.glob("lib/python*/site-packages")), Path(os.path.realpath(venv / "bin/python"))


@pytest.fixture
def place():
    """A directory that everybody can look into, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="platform-python."))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_host_with_root_only_platform_python_gets_its_drivers_and_the_second_run_changes_nothing(
    lowest, place, hosts, builds, tmp_path
):
    packages, python = lowest
    old = controllers.python("3.6")
    if old is None:
        pytest.skip("no Python 3.6 on this machine")
    (root,) = hosts(1)
    shutil.move(str(root), place / "root")
    root = place / "root"
    shutil.copytree(builds, place / "builds")
    binds = {
        "python": Path(old).resolve().parent.parent,
        "runs": python.parent.parent,
        "packages": packages,
        "ansible_collections/outoftree/kmod": CHECKOUT,
        "sudoers": tmp_path / "sudoers",
    }
    (tmp_path / "sudoers").mkdir()
    (tmp_path / "sudoers/nobody").write_text("nobody ALL=(ALL) NOPASSWD: ALL\n")
    for name in (*binds, "home"):
        (place / name).mkdir(parents=True)
    shutil.chown(place / "home", "nobody")
    platform = place / "platform-python"
    platform.write_text(
        '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n'
        % (place / "python/lib", place / "python/bin" / Path(old).resolve().name)
    )
    platform.chmod(0o700)
    inventory(
        place / "inventory.json",
        [root],
        ansible_python_interpreter=str(platform),
        ansible_become=True,
        kmod_driver="mydriver",
        kmod_src=str(place / "builds"),
        kmod_follow=True,
    )
    (place / "run").write_text(
        "set -eu\n"
        + "".join("mount --bind %s %s\n" % (source, place / name) for name, source in binds.items())
        + "mount --bind %s /etc/sudoers.d\n" % (place / "sudoers")
        + "cd %s\n" % place
        + 'exec setpriv --reuid nobody --regid nogroup --clear-groups "$@"\n'
    )
    ansible = [place / "runs/bin" / python.name, "-m", "ansible", "playbook", "-i", place / "inventory.json"]
    environment = settings(
        place,
        HOME=str(place / "home"),
        PYTHONPATH=str(place / "packages"),
        LD_LIBRARY_PATH=str(place / "runs/lib"),
        ANSIBLE_COLLECTIONS_PATH=str(place),
        ANSIBLE_REMOTE_TEMP=str(place / "home/tmp"),
    )
    for changed in (1, 0):
        failed, said = run(
            ["unshare", "--mount", "bash", place / "run", *ansible, "outoftree.kmod.deploy"],
            environment,
            cwd=place,
        )
        assert not failed and re.search(r"root +: ok=\d+ +changed=%d " % changed, said), said
    assert len(has_driver(root)) == 3
    status = subprocess.run(
        [old, str(root / "usr/local/sbin/kmodctl"), "status", "--root", str(root)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "mydriver" in status.stdout
