# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""By the real ansible-playbook: whatever is asked to be shown, the passphrase and the key are not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forge.ko import ko

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
SECRET = "correct-horse-battery"


def test_neither_passphrase_nor_key_is_shown_or_left_behind(tmp_path, collections):
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=us", "-passout", "pass:" + SECRET]
    argv += ["-keyout", "key.pem", "-out", "key.crt"]
    subprocess.run(argv, cwd=str(tmp_path), check=True, stderr=subprocess.DEVNULL)
    (tmp_path / "vendor.ko").write_bytes(ko())
    task = {
        "path": [str(tmp_path / "vendor.ko")],
        "key": "key.pem",
        "certificate": "key.crt",
        "passphrase": "{{ secret }}",
        "hash": "sha256",
    }
    wrong = dict(task, passphrase="{{ secret }}-not", path=[str(tmp_path / "other.ko")])
    (tmp_path / "other.ko").write_bytes(ko())
    tasks = [
        {"outoftree.kmod.kmod_sign": dict(task, passphrase="{{ secret }}-not"), "ignore_errors": True},
        {"outoftree.kmod.kmod_sign": wrong, "ignore_errors": True},
        {"outoftree.kmod.kmod_sign": task, "register": "answer"},
        {"ansible.builtin.debug": {"var": "answer"}},
    ]
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    (tmp_path / "secrets.json").write_text(json.dumps({"secret": SECRET}))
    environment = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=collections,
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
        ANSIBLE_LOG_PATH=str(tmp_path / "log"),
        ANSIBLE_LOCAL_TEMP=str(tmp_path / "local"),
        ANSIBLE_REMOTE_TEMP=str(tmp_path / "remote"),
    )
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "-vvvv",
            "--diff",
            "-e",
            "@secrets.json",
            "play.json",
        ],
        cwd=str(tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.count("KEY_LOCKED") >= 2 and "signed with sha256 by us" in done.stdout
    shown = done.stdout + done.stderr + (tmp_path / "log").read_text()
    private = (tmp_path / "key.pem").read_text().splitlines()[1:-1]
    assert not [line for line in [SECRET, *private] if line in shown]
    left = [path for name in ("local", "remote") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert not [path for path in left if SECRET.encode() in path.read_bytes()]
