# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kmodctl that is older than what lies on the host says so, and changes nothing."""

import contextlib
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import store
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import manifest, witness
from tests.unit.commands.follower import NEW, OLD, Follower

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
COMMANDS = (
    "add-kernel " + NEW,
    "add-kernel --early " + NEW,
    "remove-kernel " + NEW,
    "refresh",
    "link --driver vendor --absent",
    "link --driver vendor {build}",
    "link --driver other {build}",
    "variant --driver vendor",
    "variant --driver vendor --absent",
    "entry --driver vendor --boot default",
    "entry --driver vendor --absent",
)


@pytest.fixture
def host(tmp_path):
    host = Follower(tmp_path / "root")
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    return host


def marks(host):
    found = [path for path in host.root.rglob(store.MARK) if not path.is_symlink()]
    assert found
    return found


def refuses(host, command, capfd):
    before = host.snapshot()
    build = str(host.root / "lib/modules" / OLD / "extra/vendor")
    verb, *words = command.format(build=build).split()
    status = cli.main([verb, "--root", str(host.root), *words])
    said = capfd.readouterr().err
    lock = "lib/modules/.outoftree.kmod.lock"
    assert {path: what for path, what in host.snapshot().items() if path != lock} == {
        path: what for path, what in before.items() if path != lock
    }
    return status == cli.FAILED and "newer version of outoftree.kmod (format 2; this one reads 1)" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_that_a_newer_version_has_written_is_left_as_it_is(host, command, capfd):
    for path in marks(host):
        text = path.read_text()
        assert "format 1\n" in text
        path.write_text(text.replace("format 1\n", "format 2\n"))
    assert refuses(host, command, capfd)


@pytest.mark.parametrize(
    "command",
    [
        each
        for each in COMMANDS
        if each in ("refresh", "variant --driver vendor", "entry --driver vendor --boot default")
    ],
)
def test_variants_that_a_newer_version_has_written_are_left_as_they_are(host, command, capfd, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(manifest, "FORMAT", 2)
        newer.setattr(witness, "FORMAT", 2)
        for name in host.variants():
            (host.root / name).unlink()
        with contextlib.suppress(FileNotFoundError):
            for path in host.root.rglob(".outoftree.kmod.*"):
                path.unlink()
        host.run("refresh", None)
    assert refuses(host, command, capfd)


def test_a_mark_of_before_there_were_formats_is_understood(host):
    for path in marks(host):
        path.write_text(path.read_text().replace("# outoftree.kmod format 1\n", ""))
    assert not host.run("refresh", None).changed
    assert [each.driver for each in store.builds(Host(str(host.root)))] == ["vendor"]


def test_status_says_what_it_cannot_understand(host, capfd):
    for path in marks(host):
        path.write_text(path.read_text().replace("format 1\n", "format 2\n"))
    assert cli.main(["status", "--root", str(host.root), "--json"]) == cli.FAILED
    said = capfd.readouterr()
    assert "newer version" in said.err and not said.out
