# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Plan shows what it would do, does it in order, and takes it back when a step fails."""
import os
import stat

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Change, Content, Directory, File, Link, Plan


@pytest.fixture
def host(tmp_path):
    (tmp_path / "boot").mkdir()
    return Host(str(tmp_path))


def tree(host):
    """Every path with what is there."""
    seen = {}
    for directory, names, files in os.walk(host.root):
        for name in names + files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            held = os.readlink(path) if stat.S_ISLNK(mode) else b"" if stat.S_ISDIR(mode) else host.read(host.inside(path))
            seen[os.path.relpath(path, host.root)] = (mode, held)
    return seen


def text(data, mode=0o644):
    return File(Content.of(data), mode)


def test_planning_writes_nothing_and_applying_does_what_was_shown(host):
    plan = Plan(host)
    assert plan.put("/etc/depmod.d/a.conf", text(b"override x\n"))
    assert plan.put("/boot/link", Link("target"))
    assert tree(host) == {"boot": (stat.S_IFDIR | 0o755, b"")}
    assert plan.paths() == ["/etc", "/etc/depmod.d", "/etc/depmod.d/a.conf", "/boot/link"]
    assert plan.diff()[2] == {"before_header": "/etc/depmod.d/a.conf", "after_header": "/etc/depmod.d/a.conf", "before": "", "after": "override x\n"}
    plan.apply()
    assert host.read("/etc/depmod.d/a.conf") == b"override x\n" and host.readlink("/boot/link") == "target"


def test_what_is_so_already_is_not_planned(host):
    host.replace("/boot/file", b"same", mode=0o600)
    host.symlink("/boot/link", "target")
    plan = Plan(host)
    assert not plan.put("/boot/file", text(b"same", 0o600))
    assert not plan.put("/boot/link", Link("target"))
    assert not plan.put("/boot/none", None)
    assert not plan.put("/boot", Directory())
    assert not plan and plan.diff() == []


def test_a_mode_alone_is_a_change(host):
    host.replace("/boot/file", b"same", mode=0o600)
    assert Plan(host).put("/boot/file", text(b"same", 0o644))


def test_a_shared_parent_is_made_once(host):
    plan = Plan(host)
    plan.put("/etc/a/1", text(b""))
    plan.put("/etc/a/2", text(b""))
    assert plan.paths() == ["/etc", "/etc/a", "/etc/a/1", "/etc/a/2"]


def test_a_failing_step_takes_back_those_before_it(host):
    host.replace("/boot/kept", b"old")
    host.replace("/boot/gone", b"data", mode=0o600)
    host.symlink("/boot/link", "old-target")
    before = tree(host)
    plan = Plan(host)
    plan.put("/boot/kept", text(b"new"))
    plan.put("/boot/gone", None)
    plan.put("/boot/link", Link("new-target"))
    plan.put("/boot/new/file", text(b""))
    plan.run("/lib/modules/modules.dep", ["false"])
    with pytest.raises(KmodError, match="exit status 1"):
        plan.apply()
    assert tree(host) == before


def test_an_interrupted_run_is_taken_back_too(host):
    before = tree(host)
    plan = Plan(host)
    plan.put("/boot/one", text(b"1"))

    def interrupted():
        yield b"part"
        raise KeyboardInterrupt

    plan.put("/boot/two", File(Content(8, "0" * 64, interrupted)))
    with pytest.raises(KeyboardInterrupt):
        plan.apply()
    assert tree(host) == before


def test_what_cannot_be_put_back_is_named(host, monkeypatch):
    plan = Plan(host)
    plan.put("/boot/one", text(b"1"))
    plan.run("/x", ["false"])
    monkeypatch.setattr(Host, "remove", lambda self, path: (_unused for _unused in ()).throw(KmodError(path, "no")))
    with pytest.raises(KmodError, match="could not be taken back: /boot/one: no"):
        plan.apply()


def test_a_large_content_is_streamed(host):
    piece = b"x" * 1000
    content = Content.stored(host, _file(host, piece * 50))
    Change("/boot/copy", None, File(content)).apply(host)
    assert host.read("/boot/copy") == piece * 50
    assert content.size == 50000


def _file(host, data):
    host.replace("/boot/source", data)
    return "/boot/source"


def test_a_device_in_the_way_is_an_error(host):
    os.mkfifo(host.real("/boot/odd"))
    with pytest.raises(KmodError, match="neither a file"):
        Plan(host).put("/boot/odd", Link("x"))
