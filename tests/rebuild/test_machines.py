# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole loop over ssh: two hosts whose users become root by sudo, a build host whose user cannot, and the
controller, which has the source and the key. Kernels, lists and updates are Debian's own, by the real apt.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store
from ansible_collections.outoftree.kmod.plugins.module_utils.read import signature
from tests.lab import containers, debian

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(containers.missing()), reason=containers.missing()),
]
DRIVER, PACKAGE = "acpi-call", "acpi-call-dkms"
FLAVOUR = "cloud-amd64"
HOSTS = ("web1", "web2")
SECRET = "correct-horse-battery"


def neighbours():
    """The newest kernel of the suite's own series, and the newest before it that was another for drivers."""
    series = [each for each in debian.kernels("bookworm", flavour=FLAVOUR) if each.release.startswith("6.1.")]
    return series[-3], series[-1]


class Fleet:
    def __init__(self, directory, machines, collections):
        self.directory, self.machines, self.collections = directory, machines, collections
        unpacked = debian.unpack(debian.package(PACKAGE, "bookworm"))
        self.source = next(unpacked.glob("usr/src/*/dkms.conf")).parent
        self.version = self.source.name.rpartition("-")[2]
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=us", "-days", "30"]
        argv += ["-passout", "pass:" + SECRET, "-keyout", "modules.pem", "-out", "modules.crt"]
        subprocess.run(argv, cwd=directory, check=True, stderr=subprocess.DEVNULL)
        (directory / "ansible.cfg").touch()
        (directory / "secrets.json").write_text(json.dumps({"secret": SECRET}))

    def play(self, playbook, **variables):
        """(exit status, all that was said, with -vvv)"""
        common = {
            "kmod_store": "builds",
            "kmod_build_host": "build1",
            "kmod_build_store": "~/kmods",
            "kmod_sources": {DRIVER: {"src": str(self.source), "version": self.version}},
            "kmod_sign": {"key": "modules.pem", "certificate": "modules.crt", "passphrase": "{{ secret }}"},
            "kmod_preflight_cache": str(self.directory / "cache"),
            "kmod_entry": False,  # a container has no boot loader
            **variables,
        }
        known = {name: machine.variables for name, machine in self.machines.items()}
        inventory = {
            "all": {"hosts": {"build1": known["build1"]}, "vars": common},
            "hosts": {"hosts": {name: known[name] for name in HOSTS}, "vars": {"ansible_become": True}},
        }
        (self.directory / "inventory.json").write_text(json.dumps(inventory))
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-vvv", "--diff"]
        argv += ["-i", "inventory.json", "-e", "@secrets.json", "-e", "kmod_hosts=hosts", playbook]
        environment = dict(
            os.environ,
            ANSIBLE_COLLECTIONS_PATH=self.collections,
            ANSIBLE_CONFIG=str(self.directory / "ansible.cfg"),
            ANSIBLE_LOG_PATH=str(self.directory / "log"),
            ANSIBLE_NOCOLOR="1",
        )
        done = subprocess.run(
            argv, cwd=self.directory, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def served(self, name, release):
        """The path that modprobe finds the driver at, and who signed what lies there."""
        machine = self.machines[name]
        path = machine.run("modinfo", "-k", release, "-F", "filename", "acpi_call").strip()
        signer = machine.run("modinfo", "-k", release, "-F", "signer", "acpi_call").strip()
        return path, signer


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, collections):
    old, _new = neighbours()
    directory = tmp_path_factory.mktemp("machines")
    host = containers.host(old, "linux-image-" + FLAVOUR)
    images = {"build1": containers.builder(), **dict.fromkeys(HOSTS, host)}
    with containers.running(images, directory) as machines:
        for machine in machines.values():
            machine.run("apt-get", "-q", "update")
        yield Fleet(directory, machines, collections)


def changes(said):
    """By host what the recap says of changes and failures."""
    found = re.findall(r"^(\w+) +: .*changed=(\d+).*failed=(\d+)", said, re.M)
    return {name: rest for name, *rest in found}


def test_the_whole_loop_over_ssh(fleet):
    old, new = (kernel.release for kernel in neighbours())
    status, said = fleet.play("outoftree.kmod.rebuild", kmod_install=True, kmod_kernel=[])
    assert status == 0, said[-6000:]
    shown = [said]
    store = str(fleet.directory / "builds")
    assert [each.release for each in build_store.entries(store, DRIVER)] == [old]
    for name in HOSTS:
        path, signer = fleet.served(name, old)
        assert path.endswith("/%s/extra/%s/acpi_call.ko" % (old, DRIVER)) and signer == "us"
        assert "gcc" not in fleet.machines[name].run("ls", "/usr/bin"), "hosts need no compiler"
    built = "/home/%s/kmods/%s/%s/%s/acpi_call.ko" % (containers.USER, DRIVER, fleet.version, old)
    look = "grep -c 'Module signature appended' %s || true" % built
    assert fleet.machines["build1"].run("sh", "-c", look).strip() == "0", "the build host has no key"

    status, said = fleet.play("outoftree.kmod.update", kmod_serial=1)
    assert status == 0, said[-6000:]
    shown.append(said)
    assert "build 1 of 1: %s %s for %s" % (DRIVER, fleet.version, new) in said
    assert re.search(r"build 1 of 1: .* for %s: built, \d+ s" % re.escape(new), said)
    assert len(list((fleet.directory / "cache").glob("*/linux-headers-*.deb"))) == 1, "fetched once for all"
    for name in HOSTS:
        assert fleet.served(name, new)[0].endswith("/%s/extra/%s/acpi_call.ko" % (new, DRIVER))
        assert fleet.served(name, old)[0].endswith("/%s/extra/%s/acpi_call.ko" % (old, DRIVER))
        assert fleet.machines[name].run("sh", "-c", "ls /boot/initrd.img-%s.*" % new)
    assert "Nothing is held back." in (fleet.directory / "kmod-report/report.md").read_text()
    turns = [said.index("TASK [Update the host]"), said.rindex("TASK [Update the host]")]
    assert turns[0] != turns[1], "one after the other"

    status, said = fleet.play("outoftree.kmod.update", kmod_serial=1)
    assert status == 0 and [changes(said)[name] for name in HOSTS] == [["0", "0"]] * 2, said[-6000:]
    shown.append(said)

    private = (fleet.directory / "modules.pem").read_text().splitlines()[1:-1]
    every = "\n".join([*shown, (fleet.directory / "log").read_text()])
    assert not [line for line in [SECRET, *private] if line in every], "in what was shown or logged"
    for machine in fleet.machines.values():
        for secret in (SECRET, private[0]):
            places = "/home /root /tmp /var /etc /boot /run"
            found = "grep -rlIF -e '%s' %s 2>/dev/null || true" % (secret, places)
            assert machine.run("sh", "-c", found) == "", "on a managed host"
    for path in build_store.entries(store, DRIVER)[0].modules:
        assert signature.split(Path(path).read_bytes())[1].signer == "us"
