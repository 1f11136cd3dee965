# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""That a package manager is at work is seen, and nothing is taken from it by looking."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import quiet

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class Held:
    """Another process that holds the lock, as dpkg and rpm do."""

    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout.readline() == b"held\n"

    def end(self):
        self.process.communicate()


@pytest.mark.parametrize("path", quiet.LOCKS)
def test_a_lock_that_is_held_is_seen_until_it_is_given_back(tmp_path, path):
    held = Held(tmp_path / path[1:])
    assert quiet.busy(Host(str(tmp_path))) == [path]
    held.end()
    assert quiet.busy(Host(str(tmp_path))) == []


def test_to_look_takes_no_lock_and_needs_none(tmp_path):
    path = tmp_path / quiet.LOCKS[0][1:]
    path.parent.mkdir(parents=True)
    path.touch(0o400)
    assert quiet.busy(Host(str(tmp_path))) == []
    with path.open("r+" if os.geteuid() == 0 else "r") as file:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/nowhere", path)])
def test_what_is_no_lock_is_none(tmp_path, make):
    path = tmp_path / quiet.LOCKS[0][1:]
    path.parent.mkdir(parents=True)
    make(str(path))
    assert quiet.busy(Host(str(tmp_path))) == []


ON_BTRFS = """
truncate -s 120M "$1/disk" && mkfs.btrfs -q "$1/disk" && mkdir "$1/root" && mount -o loop "$1/disk" "$1/root" || exit 77
cd "$1" && shift
"$@"
status=$?
umount root
exit $status
"""
LOOK = """
from pathlib import Path
from tests.unit.place.test_quiet import Held, Host, quiet
held = Held(Path("root/var/lib/rpm/.rpm.lock"))
assert quiet.busy(Host("root")) == ["/var/lib/rpm/.rpm.lock"]
held.end()
assert quiet.busy(Host("root")) == []
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.btrfs"), reason="needs root, and btrfs-progs")
def test_it_is_seen_on_btrfs_as_suse_has_it(tmp_path):
    """There stat and /proc/locks have different devices of one file."""
    here = [path for path in sys.path if path]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", ON_BTRFS, "sh", str(tmp_path), sys.executable, "-c", LOOK],
        env=dict(os.environ, PYTHONPATH=":".join([str(Path(__file__).parents[3]), *here])),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("btrfs cannot be mounted here")
    assert done.returncode == 0, done.stderr
