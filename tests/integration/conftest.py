# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs tasks by the real ansible-playbook, in one go, and hands out their results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import COLLECTIONS


@pytest.fixture(scope="session")
def collections():
    """The directory that has this checkout at ansible_collections/outoftree/kmod."""
    return COLLECTIONS


@pytest.fixture(scope="session")
def play(tmp_path_factory, collections):
    """play({name: task}, **environment) runs the tasks one after another, failures or not; answers with
    {name: result}.
    """

    def run(tasks, *options, **environment):
        directory = tmp_path_factory.mktemp("play")
        plays = [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "ignore_errors": True,
                "vars": {
                    "ansible_python_interpreter": "{{ lookup('ansible.builtin.env', 'ANSIBLE_PYTHON_INTERPRETER') }}"
                },
                "tasks": [dict(task, name=name) for name, task in tasks.items()],
            }
        ]
        (directory / "play.json").write_text(json.dumps(plays))
        (directory / "ansible.cfg").touch()
        settings = {
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": collections,
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_STDOUT_CALLBACK": "results",
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
        }
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), str(directory / "play.json"), *options],
            env={**os.environ, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        results = {answer.pop("task"): answer for answer in map(json.loads, lines)}
        assert set(results) == set(tasks), done.stdout + done.stderr
        return results

    return run
