# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role rebuild by the real ansible-playbook, on hosts that are directories with Debian's kernels in them:
what is lacking is compiled, once for each class of kernels, signed and deployed; what fails says so at the end.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import build as command
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, sandbox
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko, signature
from tests import CHECKOUT
from tests.kernel import verdicts
from tests.lab import debian


def missing():
    try:
        sandbox.check()
    except Exception as error:
        return str(error)
    return debian.available()


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))
EDU = CHECKOUT / "tests/lab/edu"


@pytest.fixture(scope="session")
def kernels():
    """Four of Debian's 6.1, of which the last two are one class."""
    found = []
    for kernel in reversed(debian.kernels("bookworm")):
        if kernel.release.startswith("6.1.") and len(found) < 4:
            try:
                debian.headers(kernel)
                debian.tree(kernel)
                found.insert(0, kernel)
            except debian.LabError as error:
                debian.say(str(error))
    return found


def machine(root, kernels):
    """A machine with these kernels, as far as a loader looks at them."""
    for kernel in kernels:
        (root / "usr/lib/modules").mkdir(parents=True, exist_ok=True)
        for name in ("usr/lib/modules/" + kernel.release, "boot"):
            subprocess.run(
                ["cp", "-a", "--reflink=auto", str(debian.tree(kernel) / name), str((root / name).parent)],
                check=True,
            )
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    return root


class Fleet:
    def __init__(self, directory, kernels, collections, hosts=None):
        self.directory, self.kernels, self.collections = directory, kernels, collections
        hosts = hosts or {"web1": kernels[:2], "web2": kernels[2:]}
        self.roots = {name: machine(directory / name, own) for name, own in hosts.items()}
        argv = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=us",
            "-keyout",
            "key.pem",
        ]
        subprocess.run([*argv, "-out", "key.crt"], cwd=str(directory), check=True, stderr=subprocess.DEVNULL)
        for name in ("good", "bad"):
            shutil.copytree(str(EDU), str(directory / name))
        source = next((directory / "bad").glob("*.c"))
        source.write_text(source.read_text() + "\n#error no kernel does\n")

    def play(self, *options, playbook=None, limit="all", **variables):
        """(exit status, all that was said) of the role, or of a playbook."""
        hosts = {name: {"kmod_root": str(root)} for name, root in self.roots.items()}
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "kmod_store": str(self.directory / "builds"),
            "kmod_build_store": str(self.directory / "built"),
            "kmod_initrd": False,
            "kmod_install": True,
            "kmod_kernel": [],
            **variables,
        }
        (self.directory / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        play = {"hosts": "all", "gather_facts": False, "roles": ["outoftree.kmod.rebuild"]}
        (self.directory / "play.json").write_text(json.dumps([play]))
        done = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                *("-i", "inventory.json", "-l", limit + ",localhost", playbook or "play.json", *options),
            ],
            cwd=str(self.directory),
            env=dict(
                os.environ, ANSIBLE_COLLECTIONS_PATH=self.collections, ANSIBLE_HOST_PATTERN_MISMATCH="ignore"
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)

    def classes(self, build):
        """The releases of kernels with one fingerprint, by what a build needs: oldest first."""
        needs = predict.needs([ko.read(Host("/"), path) for path in build.modules])
        found = {}
        for kernel in self.kernels:
            facts = predict.facts(verdicts.core(kernel), needs.symbols)
            found.setdefault(predict.fingerprint(facts, needs), []).append(kernel.release)
        return list(found.values())

    def linked(self):
        """By host and kernel the release that the module in use was built for."""
        found = {}
        for name, root in self.roots.items():
            for kernel in sorted((root / "usr/lib/modules").iterdir()):
                dep = (kernel / "modules.dep").read_text()
                path = next((line.split(":")[0] for line in dep.splitlines() if "/ootedu.ko" in line), None)
                if path:
                    real = os.path.realpath(str(kernel / path))
                    data = Path(real).read_bytes()
                    found[name, kernel.name] = re.search(rb"vermagic=(\S+)", data).group(1).decode()
        return found

    def version(self, name, release):
        path = next((self.roots[name] / "usr/lib/modules" / release / "extra").rglob("ootedu.ko"))
        return re.search(rb"\0version=([^\0]+)", b"\0" + path.read_bytes()).group(1)


@pytest.fixture
def fleet(tmp_path, kernels, collections):
    return Fleet(tmp_path, kernels, collections)


def test_each_class_is_built_once_signed_stored_and_deployed(fleet):
    old = [kernel.release for kernel in fleet.kernels]
    sources = {"ootedu": {"source": str(fleet.directory / "good"), "version": "1.0"}}
    sign = {"key": str(fleet.directory / "key.pem"), "certificate": str(fleet.directory / "key.crt")}
    status, said = fleet.play(kmod_sources=sources, kmod_sign=sign)
    assert status == 0, said[-4000:]
    store = str(fleet.directory / "builds")
    made = build_store.entries(store, "ootedu")
    classes = fleet.classes(made[0])
    assert [each.release for each in made] == [each[0] for each in classes] and len(made) < len(old), said[
        -4000:
    ]
    assert "build 1 of 1: ootedu 1.0 for %s" % old[0] in said
    for each in made:
        assert each.about["signer"]["subject"] == "us"
        assert all(signature.split(Path(path).read_bytes())[1].signer == "us" for path in each.modules)
        assert (
            signature.split(
                Path(build_store.entries(str(fleet.directory / "built"))[0].modules[0]).read_bytes()
            )[1]
            is None
        )
    first = {release: each[0] for each in classes for release in each}
    assert {kernel: build for (_host, kernel), build in fleet.linked().items()} == first
    status, said = fleet.play(kmod_sources=sources, kmod_sign=sign)
    assert status == 0 and "changed=0" in said and "Nothing is to be built" not in said
    assert not re.search(r"changed=[1-9]", said), said[-3000:]

    # a new version is for new kernels alone: here there are none
    newer = {"ootedu": dict(sources["ootedu"], version="2.0")}
    status, said = fleet.play(kmod_sources=newer, kmod_sign=sign)
    assert status == 0 and {each.version for each in build_store.entries(store, "ootedu")} == {"1.0"}


@pytest.mark.full
def test_a_source_that_does_not_compile_fails_alone_and_at_the_end(fleet):
    sources = {
        "bad": {"source": str(fleet.directory / "bad"), "version": "1.0"},
        "ootedu": {"source": str(fleet.directory / "good"), "version": "1.0"},
    }
    status, said = fleet.play(kmod_sources=sources)
    assert status == 2, said[-4000:]
    assert "error: #error no kernel does" in said and "BUILD_FAILED" in said
    log = Path(re.search(r"Log on localhost: (\S+?)\.? ", said).group(1))
    assert "#error no kernel does" in log.read_text()
    assert re.search(
        r"build 1 of \d: bad 1.0 for \S+: failed \(BUILD_FAILED\) after \d+ s: .*error: #error", said
    )
    assert len(fleet.linked()) == 4  # the other one is there for all that
    assert re.search(r"web1 : ok=\d+ changed=\d+ unreachable=0 failed=1", said), said[-500:]

    tried = log.stat().st_mtime_ns
    status, said = fleet.play(kmod_sources=sources)
    assert status == 2 and "before, and is not tried again until its input changes: " in said, said[-4000:]
    assert log.stat().st_mtime_ns == tried and "error: #error no kernel does" in said
    broken = next((fleet.directory / "bad").glob("*.c"))
    broken.write_text(broken.read_text().replace("#error no kernel does", ""))
    shutil.rmtree(fleet.roots["web2"])
    machine(fleet.roots["web2"], fleet.kernels[2:])
    # both drivers have modules of one name, so that one of them has to go first
    status, said = fleet.play(limit="web2", kmod_sources={"bad": sources["bad"]})
    assert status == 0 and "bad 1.0 for %s: built" % fleet.kernels[2].release in said, said[-4000:]


@pytest.mark.full
def test_check_mode_says_what_would_be_built_and_writes_nothing(fleet):
    sources = {"ootedu": {"source": str(fleet.directory / "good"), "version": "1.0"}}
    sign = {"key": str(fleet.directory / "key.pem"), "certificate": str(fleet.directory / "key.crt")}
    status, said = fleet.play("--check", kmod_sources=sources, kmod_sign=sign)
    assert status == 0 and re.search(r"build 1 of \d: ootedu 1.0 for \S+: pending", said), said[-4000:]
    assert not (fleet.directory / "builds").exists() and not (fleet.directory / "built").exists()
    # a build that is there, and was not signed, is not signed by looking either
    build = dict(sources["ootedu"], store=str(fleet.directory / "built"), driver="ootedu")
    made = command.run(Host("/"), command.Options(release=fleet.kernels[0].release, **build))
    assert made.result == "built"
    before = {path: path.read_bytes() for path in (fleet.directory / "built").rglob("*") if path.is_file()}
    status, said = fleet.play("--check", kmod_sources=sources, kmod_sign=dict(sign, host="build"))
    assert status == 0 and "ootedu 1.0 for %s: kept" % fleet.kernels[0].release in said, said[-4000:]
    assert not (fleet.directory / "builds").exists() and fleet.linked() == {}
    assert before == {
        path: path.read_bytes() for path in (fleet.directory / "built").rglob("*") if path.is_file()
    }


@pytest.mark.full
def test_a_new_version_is_built_for_new_kernels_and_older_ones_keep_what_they_have(fleet):
    for root in fleet.roots.values():
        shutil.rmtree(root)
    web1 = fleet.roots["web1"]
    fleet.roots = {"web1": machine(web1, fleet.kernels[:1])}
    old, new = fleet.kernels[0], fleet.kernels[-1]  # which take no build of each other
    sources = {"ootedu": {"source": str(fleet.directory / "good"), "version": "1.0"}}
    assert fleet.play(kmod_sources=sources)[0] == 0
    assert fleet.linked() == {("web1", old.release): old.release}
    for source in (fleet.directory / "good").glob("*.c"):
        source.write_text(source.read_text().replace('MODULE_VERSION("1.0")', 'MODULE_VERSION("2.0")'))
    machine(web1, [new])
    sources["ootedu"]["version"] = "2.0"
    status, said = fleet.play(kmod_sources=sources)
    assert status == 0, said[-4000:]
    store = str(fleet.directory / "builds")
    assert [(each.version, each.release) for each in build_store.entries(store)] == [
        ("1.0", old.release),
        ("2.0", new.release),
    ]
    assert fleet.linked() == {("web1", each.release): each.release for each in (old, new)}
    there = {each.release: fleet.version("web1", each.release) for each in (old, new)}
    assert there == {old.release: b"1.0", new.release: b"2.0"}
    status, said = fleet.play(kmod_sources=sources)
    assert status == 0 and not re.search(r"changed=[1-9]", said), said[-3000:]


@pytest.mark.full
def test_a_store_that_was_copied_by_hand_is_deployed_without_a_build_host_and_not_if_it_was_changed(fleet):
    sources = {"ootedu": {"source": str(fleet.directory / "good"), "version": "1.0"}}
    assert fleet.play(limit="web1", kmod_sources=sources)[0] == 0
    copied = fleet.directory / "stick"
    subprocess.run(["cp", "-a", str(fleet.directory / "builds/ootedu"), str(copied)], check=True)
    for name in ("builds", "built", "good"):
        shutil.rmtree(fleet.directory / name)
    web2 = fleet.roots["web2"]
    shutil.rmtree(web2)
    machine(web2, fleet.kernels[:2])
    options = {"kmod_driver": "ootedu", "kmod_src": "stick"}
    module = next(copied.rglob("ootedu.ko"))
    good = module.read_bytes()
    module.write_bytes(good + b"\0")
    status, said = fleet.play(playbook="outoftree.kmod.deploy", limit="web2", **options)
    assert status == 2 and "was put there: the build in this directory cannot be trusted" in said, said[
        -3000:
    ]
    assert ("web2", fleet.kernels[0].release) not in fleet.linked()
    module.write_bytes(good)
    status, said = fleet.play(playbook="outoftree.kmod.deploy", limit="web2", **options)
    assert status == 0, said[-3000:]
    expected = {kernel: build for (host, kernel), build in fleet.linked().items() if host == "web1"}
    assert {kernel: build for (host, kernel), build in fleet.linked().items() if host == "web2"} == expected
