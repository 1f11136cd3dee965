# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the running kernel has loaded, and what it takes to load something else."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import loaded
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Plan
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_module import KernelModule


def module(name="vendor", srcversion="", depends=""):
    modinfo = [("depends", depends)] + [("srcversion", srcversion)] * bool(srcversion)
    return KernelModule("/x/%s.ko" % name, name, "0" * 64, 1, "x86_64", tuple(modinfo))


@pytest.fixture
def running(tmp_path):
    """A root in which to say what /sys/module has."""

    def say(name="vendor", **files):
        top = tmp_path / "sys" / "module" / name
        for path, data in files.items():
            target = top / path.replace("__", "/").replace("build_id", ".note.gnu.build-id")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data) if isinstance(data, bytes) else target.mkdir()
        return Host(str(tmp_path))

    return say


@pytest.mark.parametrize(
    "files,srcversion,build_id,state",
    [
        ({}, "A", b"1", "no"),
        ({"parameters": None}, "A", b"1", "no"),  # built into the kernel
        ({"initstate": b"live\n", "notes__build_id": b"1"}, "", b"1", "this"),
        # rebuilt from the same sources
        ({"initstate": b"live\n", "notes__build_id": b"2", "srcversion": b"A\n"}, "A", b"1", "other"),
        ({"initstate": b"live\n", "srcversion": b"A\n"}, "A", None, "this"),
        ({"initstate": b"live\n", "srcversion": b"B\n"}, "A", None, "other"),
        ({"initstate": b"live\n"}, "A", None, "other"),
        ({"initstate": b"live\n"}, "", None, "unknown"),
        # as it stays when its init crashes
        ({"initstate": b"coming\n", "notes__build_id": b"1"}, "A", b"1", "coming"),
    ],
)
def test_what_is_loaded(running, files, srcversion, build_id, state):
    assert loaded.state(running(**files), module(srcversion=srcversion), build_id) == state


def commands(host, *states):
    plan = Plan(host)
    return loaded.reload(plan, [loaded.Wanted(each, None, state) for each, state in states]), [
        " ".join(step.argv) for step in plan.steps
    ]


def test_a_module_that_is_not_loaded_is_loaded(running):
    assert commands(running(), (module(), "no")) == (True, ["modprobe vendor"])


def test_what_is_loaded_already_is_left_alone(running):
    assert commands(running(), (module(), "this")) == (True, [])


def test_an_older_one_that_nothing_uses_is_replaced_its_users_first(running):
    running("core", refcnt=b"1\n", holders__vendor=None)
    host = running("vendor", refcnt=b"0\n")
    answer = commands(host, (module("core"), "other"), (module("vendor", depends="core"), "other"))
    assert answer == (True, ["rmmod vendor core", "modprobe core", "modprobe vendor"])


def test_one_that_crashed_needs_a_reboot(running):
    assert commands(running(), (module(), "coming")) == (False, [])


@pytest.mark.parametrize("files", [{"refcnt": b"1\n"}, {"refcnt": b"1\n", "holders__stranger": None}, {}])
def test_one_that_is_in_use_needs_a_reboot(running, files):
    assert commands(running(initstate=b"live\n", **files), (module(), "other")) == (False, [])
