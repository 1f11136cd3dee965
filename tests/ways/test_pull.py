# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts that fetch their drivers themselves: ansible-pull, by the units and the play of docs/examples/pull."""

import re
import shlex
import shutil
import subprocess

import pytest

from tests import CHECKOUT
from tests.forge import fleet
from tests.ways.given import BIN, NEW, OLD, collection, has_driver, run, settings

EXAMPLES = CHECKOUT / "docs/examples/pull"
SERVICE = (EXAMPLES / "outoftree-kmod-pull.service").read_text()
COMMAND = re.search(r"^ExecStart=(.*)$", SERVICE, re.M).group(1)

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("git", "depmod"))), reason="needs git and depmod")


def commit(repository):
    for command in (["init", "-q", "-b", "main"], ["add", "-A", "-f"], ["commit", "-q", "-m", "Drivers"]):
        subprocess.run(
            ["git", "-c", "user.name=A", "-c", "user.email=a@example.com", *command],
            cwd=repository,
            check=True,
        )


@pytest.fixture
def repository(tmp_path, builds):
    """What hosts pull: the play, the builds, and the collection in the version that is to be used."""
    top = tmp_path / "drivers.git"
    top.mkdir()
    shutil.copy2(EXAMPLES / "local.yml", top)
    shutil.copytree(builds.parent, top / "builds")
    failed, said = run(
        [
            "ansible-galaxy",
            "collection",
            "install",
            "--offline",
            "--force",
            "-p",
            top / "collections",
            collection(tmp_path),
        ],
        settings(tmp_path),
    )
    assert not failed, said
    commit(top)
    return top


@pytest.fixture
def pull(tmp_path, repository):
    """pull(root) runs the service's own command, on a root directory in place of this machine."""

    def go(root):
        words = shlex.split(COMMAND)
        assert words[0] == "/opt/ansible/bin/ansible-pull"
        changes = {
            words[0]: str(BIN / "ansible-pull"),
            "https://git.example.com/drivers.git": repository.as_uri(),
            "/var/lib/drivers": str(tmp_path / "pulled"),
        }
        extra = ["-e", "kmod_root=%s" % root]
        return run(
            [changes.get(word, word) for word in words] + extra,
            settings(tmp_path, ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "none"), HOME=str(tmp_path)),
            cwd=tmp_path,
        )

    return go


def test_a_host_pulls_its_drivers_with_the_collection_that_the_repository_has(pull, hosts):
    (root,) = hosts(1)
    failed, said = pull(root)
    assert not failed and re.search(r"localhost +: ok=\d+ +changed=1 ", said), said
    assert len(has_driver(root)) == 3


def test_the_next_pull_changes_nothing(pull, hosts):
    (root,) = hosts(1)
    pull(root)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    failed, said = pull(root)
    assert not failed and re.search(r"localhost +: ok=\d+ +changed=0 ", said), said
    assert before == {path: path.lstat().st_mtime_ns for path in root.rglob("*")}


def test_a_build_that_is_committed_later_arrives_with_the_next_pull(pull, hosts, repository):
    (root,) = hosts(1, kernel=1)
    failed, said = pull(root)
    assert failed and "1 symbol differs (kfree)" in said
    fleet.build(repository / "builds/mydriver", "mydriver", NEW, 1)
    commit(repository)
    failed, said = pull(root)
    assert not failed, said
    assert len(has_driver(root)) == 3 and not list(root.glob("lib/modules/*/extra/**/%s" % OLD))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path):
    for name in ("outoftree-kmod-pull.service", "outoftree-kmod-pull.timer"):
        text = (EXAMPLES / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/ansible/bin/ansible-pull", str(BIN / "ansible-pull")))
    failed, said = run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.glob("outoftree-*")], settings(tmp_path)
    )
    assert not failed and "outoftree" not in said, said
    failed, said = run(["systemd-analyze", "calendar", "daily"], settings(tmp_path))
    assert not failed, said
