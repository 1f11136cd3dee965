# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a build is told of the machine. What it can do there is in tests/unit/commands/test_build.py."""

import os
import subprocess
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import sandbox

TOLD = {"release": "6.1.0-9-amd64", "machine": "x86_64", "epoch": sandbox.EPOCH}


@pytest.mark.parametrize(
    "options,told",
    [
        ("", "Linux"),
        ("-r", "6.1.0-9-amd64"),
        ("--kernel-release", "6.1.0-9-amd64"),
        ("-m", "x86_64"),
        ("-p", "x86_64"),
        ("-rs", "Linux 6.1.0-9-amd64"),
        ("-s -m", "Linux x86_64"),
        ("-a", "Linux build 6.1.0-9-amd64 #1 SMP x86_64 GNU/Linux"),
        ("--all", "Linux build 6.1.0-9-amd64 #1 SMP x86_64 GNU/Linux"),
    ],
)
def test_uname_answers_for_the_kernel_that_is_built_for(options, told):
    script = sandbox._UNAME % TOLD
    done = subprocess.run(["sh", "-c", script, "uname", *options.split()], capture_output=True, check=True)
    assert done.stdout.decode() == told + "\n"


def test_processes_and_memory_are_those_of_all_that_was_started():
    script = "import subprocess, sys, time; x = b'x' * (60 << 20); p = subprocess.Popen(['sleep', '60']); print('there', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        process.stdout.readline()
        count, memory = sandbox._used(os.getpid())
        os.killpg(process.pid, 9)
    assert count >= 3 and memory > 60 << 20


def test_disk_space_is_that_of_files_that_are_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/big").write_bytes(b"x" * (3 << 20))
    with open(str(tmp_path / "sparse"), "wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "link").symlink_to("/")
    assert 3 << 20 <= sandbox._size(str(tmp_path), 1 << 30) < 4 << 20
    for number in range(300):  # a million of them would take all that the file system has of inodes
        (tmp_path / ("empty%d" % number)).touch()
    assert sandbox._size(str(tmp_path), 1 << 30) > 4 << 20


def test_who_runs_foreign_code_is_nobody():
    user = sandbox.unprivileged()
    assert user is None if os.geteuid() else 61184 <= user < 65534


def test_a_machine_that_allows_no_sandbox_is_said_to(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text(
        "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n"
    )
    (tmp_path / "bwrap").chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):  # of pytest's, which are its user's own
        if directory.stat().st_uid == os.getuid() and directory.stat().st_mode & 0o777 == 0o700:
            directory.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (tmp_path, os.environ["PATH"]))
    with pytest.raises(KmodError) as caught:
        sandbox.check()
    assert caught.value.code == "SANDBOX_REFUSED" and "Permission denied" in str(caught.value)
