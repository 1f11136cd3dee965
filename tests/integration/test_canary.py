# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook canary on hosts that are directories, with the real apt and a repository of made-up kernels.

An update here asks apt what an upgrade would install, and puts the kernel's files there if that is among it.
What directories cannot show is the reboot: tests/boot tries entries on real disks.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import kernel_holds
from tests.forge import fleet, kernels, repositories

pytestmark = pytest.mark.skipif(
    bool(repositories.lacking((*repositories.APT, "depmod"))), reason="needs apt, dpkg-dev and depmod"
)
OLD, NEW = "6.1.0-9-amd64", "6.1.0-10-amd64"
META = {"Package": "linux-image-amd64", "Version": "6.1.9-1", "Depends": "linux-image-" + OLD}
NAMES = ("web1", "web2", "web3")
UPDATE = """
import pathlib, subprocess, sys
root, after = map(pathlib.Path, sys.argv[1:])
(root / "updated").touch()
if (root / "broken").exists():
    sys.exit("the repository does not answer")
options = ["Dir=%s" % root, "Dir::State::status=%s/var/lib/dpkg/status" % root, "APT::Sandbox::User=root"]
argv = ["apt-get", "-q", "-s", "dist-upgrade", *(word for each in options for word in ("-o", each))]
said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
if "Inst linux-image-6.1.0-10-amd64 " in said:
    subprocess.run(["cp", "-a", "--no-clobber", "%s/." % after, str(root)], check=True)
    (root / "boot/grub/grub.cfg").write_text((after / "boot/grub/grub.cfg").read_text())
"""


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Two kernels, the newer of which takes only what was built for it, and builds for one and for both."""
    top = tmp_path_factory.mktemp("stock")
    made = [fleet.kernel(top / "kernels", release, number) for number, release in enumerate((OLD, NEW))]
    for number, release in enumerate((OLD, NEW)):
        fleet.build(top / "both", "vendor", release, number)
    fleet.build(top / "old", "vendor", OLD)
    fleet.debian(top / "after", made)
    repositories.deb(top / "apt", "linux-image-" + OLD, "6.1.9-1")
    repositories.deb(top / "apt", "linux-image-" + NEW, "6.1.10-1")
    files = kernels.headers(NEW, fleet.exports(1))
    repositories.deb(top / "apt", "linux-headers-" + NEW, "6.1.10-1", files)
    repositories.deb(top / "apt", META["Package"], "6.1.10-1", Depends="linux-image-" + NEW)
    repositories.apt_lists(top / "apt")
    (top / "update.py").write_text(UPDATE)
    return made, top


class Fleet:
    def __init__(self, stock, directory, collections):
        made, self.stock = stock
        self.directory, self.collections = directory, collections
        self.roots = {name: directory / name for name in NAMES}
        for root in self.roots.values():
            fleet.debian(root, made[:1])
            fleet.write(root / "usr/bin/apt-get", "")
            there = [META, {"Package": "linux-image-" + OLD, "Version": "6.1.9-1"}]
            repositories.apt_host(root, [self.stock / "apt"], there)
        argv = [sys.executable, str(self.stock / "update.py"), "{{ kmod_root }}", str(self.stock / "after")]
        tasks = [{"name": "Update", "ansible.builtin.command": {"argv": argv}}]
        (directory / "update.json").write_text(json.dumps(tasks))

    def bring_ahead(self, builds):
        """What the role rebuild does: a build for the kernel to come is on the hosts before it."""
        for root in self.roots.values():
            given = link.Options("vendor", path=(str(self.stock / builds),), whence="/", ahead=(NEW,))
            link.run(Host(str(root)), given)[0].apply()

    def run(self, builds, **more):
        """Whether it failed, and all that was said. Without ``builds`` no driver is named."""
        given = {"kmod_driver": "vendor", "kmod_src": str(self.stock / builds)} if builds else {}
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            **given,
            "kmod_initrd": False,
            "kmod_update": str(self.directory / "update.json"),
            "kmod_report": str(self.directory / "report"),
            "kmod_preflight_cache": str(self.directory / "cache"),
            **more,
        }
        hosts = {name: {"kmod_root": str(root)} for name, root in self.roots.items()}
        inventory = self.directory / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))
        (self.directory / "ansible.cfg").touch()
        playbook = str(Path(sys.executable).parent / "ansible-playbook")
        done = subprocess.run(
            [playbook, "-i", str(inventory), "outoftree.kmod.canary"],
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
        found = self.roots[name].glob("usr/lib/modules/*/extra/vendor/vendor.ko")
        return sorted((path.parts[-4] for path in found), key=len)

    def held(self, name):
        return [each.kernel for each in kernel_holds.read(Host(str(self.roots[name])))]

    def report(self):
        return (self.directory / "report/report.md").read_text()


@pytest.fixture
def machines(tmp_path, stock, collections):
    return Fleet(stock, tmp_path, collections)


def test_a_kernel_without_a_build_is_held_and_arrives_in_turns_once_there_is_one(machines):
    failed, said = machines.run("old")
    assert not failed, said
    assert machines.updated() == list(NAMES), "all else is updated"
    assert [machines.served(name) for name in NAMES] == [[OLD]] * 3
    assert [machines.held(name) for name in NAMES] == [[NEW]] * 3
    assert (
        "Lose a driver | 3 |" in machines.report() and NEW in machines.report().partition("## Held back")[2]
    )
    machines.bring_ahead("both")
    assert [machines.served(name) for name in NAMES] == [[OLD, NEW]] * 3, "before the kernel is there"
    failed, said = machines.run(None, kmod_initrd=True)
    assert not failed, said
    assert [machines.served(name) for name in NAMES] == [[OLD, NEW]] * 3
    assert [machines.held(name) for name in NAMES] == [[]] * 3
    for root in machines.roots.values():
        assert (root / "boot/grub/custom.cfg").read_text().count("menuentry ") == 2
    assert "Lose a driver | 0 |" in machines.report() and "Nothing is held back." in machines.report()


def test_the_turns_end_at_a_host_whose_update_fails_and_the_report_says_why(machines):
    (machines.roots["web2"] / "broken").touch()
    failed, said = machines.run("both", kmod_serial=1)
    assert failed
    assert machines.updated() == ["web1", "web2"], "the third is left as it was"
    assert machines.served("web1") == [OLD, NEW] and machines.served("web2") == []
    assert "the repository does not answer" in machines.report()
    assert "web2 failed, and no other host is updated." in said


def test_a_kernel_that_came_without_a_build_ends_the_turns_and_a_host_that_cannot_be_told_is_left_out(
    machines,
):
    (machines.roots["web1"] / "etc/apt/sources.list").write_text("nonsense\n")
    failed, said = machines.run("old", kmod_hold="none", kmod_serial=1)
    assert failed and machines.updated() == ["web2"], said
    assert machines.served("web2") == [], "nothing was written"
    told = machines.report().partition("## Today")[2]
    assert "web2" in told and "1 symbol differs (kfree)" in told
    assert "Cannot be told | 1 |" in machines.report()
