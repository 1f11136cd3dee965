# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook update from its beginning to its end, on hosts that are directories with Debian's kernels: the real
apt has a newer kernel on offer that takes none of the builds; what compiles for it is compiled, and hosts whose
driver does not are left as they are.
"""

import json
import re
import shutil
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store
from tests.forge import repositories
from tests.lab import debian
from tests.rebuild.test_rebuild import Fleet, kernels, missing  # noqa: F401

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.skipif(bool(repositories.lacking(repositories.APT)), reason="needs apt and dpkg-dev"),
]
META = "linux-image-amd64"
UPDATE = """
import pathlib, subprocess, sys
root, tree, image = map(pathlib.Path, sys.argv[1:])
(root / "updated").touch()
options = ["Dir=%s" % root, "Dir::State::status=%s/var/lib/dpkg/status" % root, "APT::Sandbox::User=root"]
argv = ["apt-get", "-q", "-s", "dist-upgrade", *(word for each in options for word in ("-o", each))]
said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
if "Inst %s " % image in said:
    for name in ("usr/lib/modules", "boot"):
        subprocess.run(["cp", "-a", "--no-clobber", "%s/%s/." % (tree, name), str(root / name)], check=True)
"""


class Updated(Fleet):
    """web1 and web2 have the driver ootedu, web3 has another; all three will get the newer kernel."""

    def __init__(self, directory, old, new, collections):
        super().__init__(directory, [old, new], collections, dict.fromkeys(("web1", "web2", "web3"), [old]))
        self.old, self.new = old, new
        repository = directory / "apt"
        repositories.deb(repository, old.package, old.version)
        repositories.deb(repository, new.package, new.version, Source="linux-signed-amd64")
        repositories.deb(repository, META, new.version, Depends=new.package)
        name = "linux-headers-" + new.release
        shutil.copy(str(debian.package(name, new.suite, new.arch, new.version)), str(repository))
        repositories.apt_lists(repository)
        there = [
            {"Package": META, "Version": old.version, "Depends": old.package},
            {"Package": old.package, "Version": old.version},
        ]
        for root in self.roots.values():
            (root / "usr/bin").mkdir(parents=True, exist_ok=True)
            (root / "usr/bin/apt-get").touch()
            (root / "etc").mkdir(exist_ok=True)
            (root / "etc/os-release").write_text("ID=debian\nVERSION_ID=12\n")
            repositories.apt_host(root, [repository], there)
        (directory / "update.py").write_text(UPDATE)
        argv = [
            sys.executable,
            str(directory / "update.py"),
            "{{ kmod_root }}",
            str(debian.tree(new)),
            new.package,
        ]
        tasks = [{"name": "Update", "ansible.builtin.command": {"argv": argv}}]
        (directory / "update.json").write_text(json.dumps(tasks))

        (directory / "bad/ootedu_user.c").unlink()
        (directory / "bad/ootedu.c").rename(directory / "bad/drifted.c")
        (directory / "bad/Kbuild").write_text("obj-m := drifted.o\n")
        source = (directory / "good/ootedu.c").read_text().replace("0x11e8", "0x11e9")
        (directory / "bad/drifted.c").write_text(source)

    def update(self, **variables):
        return self.play(
            playbook="outoftree.kmod.update",
            kmod_kernel=[{"offered": "newest"}],
            kmod_update=str(self.directory / "update.json"),
            kmod_serial=1,
            kmod_report=str(self.directory / "report"),
            **variables,
        )

    def build_for(self, name, kernel, driver):
        path = self.roots[name] / "usr/lib/modules" / kernel.release / "extra" / driver
        return path.exists()


@pytest.fixture
def fleet(tmp_path, kernels, collections):  # noqa: F811
    return Updated(tmp_path, kernels[-3], kernels[-1], collections)


def test_what_the_update_breaks_is_rebuilt_and_hosts_that_wait_for_a_failed_build_are_left_as_they_are(fleet):
    sources = {
        "ootedu": {"source": str(fleet.directory / "good"), "version": "1.0"},
        "drifted": {"source": str(fleet.directory / "bad"), "version": "1.0"},
    }
    for driver, hosts in (("ootedu", "web1,web2"), ("drifted", "web3")):
        status, said = fleet.play(limit=hosts, kmod_sources={driver: sources[driver]})
        assert status == 0, said[-4000:]
    assert [fleet.build_for(name, fleet.new, "ootedu") for name in fleet.roots] == [False] * 3

    broken = fleet.directory / "bad/drifted.c"
    broken.write_text(broken.read_text() + "\n#error no kernel does\n")
    status, said = fleet.update(kmod_sources=sources, kmod_install=False)
    assert status == 2, said[-4000:]
    store = str(fleet.directory / "builds")
    assert [(each.driver, each.release) for each in build_store.entries(store)] == [
        ("drifted", fleet.old.release),
        ("ootedu", fleet.old.release),
        ("ootedu", fleet.new.release),
    ]
    assert [(root / "updated").exists() for root in fleet.roots.values()] == [True, True, False]
    assert [fleet.build_for(name, fleet.new, "ootedu") for name in fleet.roots] == [True, True, False]
    assert fleet.linked() == {
        (name, kernel.release): kernel.release
        for name in ("web1", "web2")
        for kernel in (fleet.old, fleet.new)
    }
    assert "web3 lacks 1 of 2 builds." in said and "error: #error no kernel does" in said
    report = (fleet.directory / "report/report.md").read_text()
    assert "## Builds that failed" in report or "Builds that failed" in report
    assert "web3" in report and "#error no kernel does" in report

    # once it compiles, the rest follows, and nothing else is touched
    broken.write_text(broken.read_text().replace("#error no kernel does", ""))
    for root in fleet.roots.values():
        (root / "updated").unlink(missing_ok=True)
    status, said = fleet.update(kmod_sources=sources, kmod_install=False)
    assert status == 0, said[-4000:]
    assert "build 1 of 1: drifted 1.0 for %s" % fleet.new.release in said
    assert fleet.build_for("web3", fleet.new, "drifted") and (fleet.roots["web3"] / "updated").exists()
    # the updates that are made here, and the build, which is told of with the first host
    assert re.findall(r"web[12] : ok=\d+ changed=(\d+)", said) == ["2", "1"], said[-800:]
