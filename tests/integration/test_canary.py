# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook canary on hosts that are directories.

An update here puts the newer kernel's files there, unless the package manager's own file holds it, as the
package manager would. What directories cannot show is the reboot: tests/boot tries entries on real disks.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import kernel_holds
from tests.forge import fleet

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
OLD, NEW = "6.1.0-1.el9.x86_64", "6.1.0-2.el9.x86_64"
NAMES = ("web1", "web2", "web3")
UPDATE = """
import pathlib, subprocess, sys
root, after = map(pathlib.Path, sys.argv[1:])
(root / "updated").touch()
if (root / "broken").exists():
    sys.exit("the repository does not answer")
if "kernel*-NEW" not in (root / "etc/dnf/dnf.conf").read_text():
    subprocess.run(["cp", "-a", "--no-clobber", "--no-preserve=links", "%s/." % after, str(root)], check=True)
"""


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Two kernels, the newer of which takes only what was built for it, and builds for one and for both."""
    directory = tmp_path_factory.mktemp("stock")
    kernels = [
        fleet.kernel(directory / "kernels", release, number) for number, release in enumerate((OLD, NEW))
    ]
    for number, release in enumerate((OLD, NEW)):
        fleet.build(directory / "both", "vendor", release, number)
    fleet.build(directory / "old", "vendor", OLD)
    fleet.el9(directory / "after", kernels)
    (directory / "update.py").write_text(UPDATE.replace("NEW", NEW))
    return kernels, directory


class Fleet:
    def __init__(self, stock, directory, collections):
        self.kernels, self.stock = stock
        self.directory, self.collections = directory, collections
        self.roots = {name: directory / name for name in NAMES}
        for root in self.roots.values():
            fleet.el9(root, self.kernels[:1])
            for path, text in (("etc/dnf/dnf.conf", "[main]\n"), ("usr/bin/dnf-3", "")):
                fleet.write(root / path, text)
            shutil.copytree(self.kernels[1].tree, root / "srv/offer", symlinks=True)
            (root / "srv/offer/initramfs").unlink()
        argv = [sys.executable, str(self.stock / "update.py"), "{{ kmod_root }}", str(self.stock / "after")]
        tasks = [{"name": "Update", "ansible.builtin.command": {"argv": argv}}]
        (directory / "update.json").write_text(json.dumps(tasks))

    def run(self, builds, **more):
        """Whether it failed, and all that was said."""
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "kmod_driver": "vendor",
            "kmod_src": str(self.stock / builds),
            "kmod_kernel": [{"root": "/srv/offer"}],
            "kmod_update": str(self.directory / "update.json"),
            "kmod_report": str(self.directory / "report"),
            "kmod_initrd": False,
            **more,
        }
        hosts = {name: {"kmod_root": str(root)} for name, root in self.roots.items()}
        (self.directory / "inventory.json").write_text(
            json.dumps({"all": {"hosts": hosts, "vars": variables}})
        )
        (self.directory / "ansible.cfg").touch()
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                "-i",
                str(self.directory / "inventory.json"),
                "outoftree.kmod.canary",
            ],
            env=dict(
                os.environ,
                ANSIBLE_COLLECTIONS_PATH=self.collections,
                ANSIBLE_NOCOLOR="1",
                COLUMNS="1000",
                ANSIBLE_PIPELINING="true",
                ANSIBLE_CONFIG=str(self.directory / "ansible.cfg"),
                ANSIBLE_LOCALHOST_WARNING="false",
            ),
            cwd=str(self.directory),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, re.sub(r"\s+", " ", done.stdout)

    def updated(self):
        return [name for name, root in self.roots.items() if (root / "updated").exists()]

    def served(self, name):
        """The kernels that have their own build."""
        return sorted(
            path.parts[-4] for path in self.roots[name].glob("usr/lib/modules/*/extra/vendor/vendor.ko")
        )

    def entries(self, name):
        return len(list(self.roots[name].glob("boot/loader/entries/*~vendor.conf")))

    def held(self, name):
        return [each.kernel for each in kernel_holds.read(Host(str(self.roots[name])))]

    def report(self):
        return (self.directory / "report/report.md").read_text()


@pytest.fixture
def machines(tmp_path, stock, collections):
    return Fleet(stock, tmp_path, collections)


def test_with_a_build_for_it_every_host_gets_the_kernel_and_the_driver_on_it(machines):
    failed, said = machines.run("both", kmod_initrd=True)
    assert not failed, said
    assert machines.updated() == list(NAMES)
    assert [machines.served(name) for name in NAMES] == [[OLD, NEW]] * 3
    assert [machines.entries(name) for name in NAMES] == [2] * 3
    assert machines.held("web1") == []
    assert "Stay well | 3 |" in machines.report()


def test_without_one_the_kernel_is_held_and_all_else_is_updated_until_there_is(machines):
    failed, said = machines.run("old")
    assert not failed, said
    assert machines.updated() == list(NAMES)
    assert [machines.served(name) for name in NAMES] == [[OLD]] * 3
    assert [machines.held(name) for name in NAMES] == [[NEW]] * 3
    failed, said = machines.run("both")
    assert not failed, said
    assert [machines.served(name) for name in NAMES] == [[OLD, NEW]] * 3
    assert [machines.held(name) for name in NAMES] == [[]] * 3


def test_the_turns_end_at_a_host_whose_update_fails_and_the_report_says_why(machines):
    (machines.roots["web2"] / "broken").touch()
    failed, said = machines.run("both", kmod_serial=1)
    assert failed
    assert machines.updated() == ["web1", "web2"], "the third is left as it was"
    assert machines.served("web1") == [OLD, NEW] and machines.served("web2") == []
    assert "the repository does not answer" in machines.report()
    assert "web2 failed, and no other host is updated." in said


def test_a_kernel_that_came_without_a_build_ends_the_turns_on_what_the_host_had(machines):
    failed, said = machines.run("old", kmod_hold="none", kmod_serial=1)
    assert failed and machines.updated() == ["web1"]
    assert machines.served("web1") == []
    assert "web1" in machines.report() and "1 symbol differs (kfree)" in machines.report()


def test_a_host_of_which_nothing_can_be_told_is_left_out_and_the_others_go_on(machines):
    shutil.rmtree(machines.roots["web1"] / "srv/offer")
    failed, said = machines.run("both", kmod_serial=1)
    assert machines.updated() == ["web2", "web3"], said
    assert "web1" in machines.report()
