# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Plan shows what it would do, does it in order, and takes it back when a step fails."""

import os
import stat

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import (
    Change,
    Content,
    Directory,
    File,
    Link,
    Plan,
)


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
            held = (
                os.readlink(path)
                if stat.S_ISLNK(mode)
                else b""
                if stat.S_ISDIR(mode)
                else host.read(host.inside(path))
            )
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
    assert plan.diff()[2] == {
        "before_header": "/etc/depmod.d/a.conf",
        "after_header": "/etc/depmod.d/a.conf",
        "before": "",
        "after": "override x\n",
    }
    plan.apply()
    assert host.read("/etc/depmod.d/a.conf") == b"override x\n" and host.readlink("/boot/link") == "target"


def test_what_only_programs_read_is_shown_by_its_digest_and_what_people_read_as_it_is(host):
    record, settings = b'{"a": "%s"}\n' % (b"0" * 500), b'{\n "a": 1\n}\n'
    arguments = b"options %s\n" % (b"quiet " * 200)
    host.replace("/boot/old", record)
    plan = Plan(host)
    plan.put("/boot/old", None)
    for name, data in (("/boot/record", record), ("/boot/settings", settings), ("/boot/entry", arguments)):
        plan.put(name, text(data))
    gone, made, *read = plan.diff()
    assert "sha256:" in gone["before"] == made["after"] and len(made["after"]) < 110
    assert [each["after"].encode() for each in read] == [settings, arguments]


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


def test_beside_what_could_not_be_taken_back_its_mark_stays(host, monkeypatch):
    plan = Plan(host)
    for name in ("mark", "module", "last"):
        plan.put("/boot/new/" + name, text(name.encode()))
    plan.put("/boot/other", text(b""))
    plan.run("/x", ["false"])
    remove = Host.remove

    def failing(self, path):
        if path.endswith("module"):
            raise KmodError(path, "no")
        remove(self, path)

    monkeypatch.setattr(Host, "remove", failing)
    with pytest.raises(KmodError, match="could not be taken back: /boot/new/module: no"):
        plan.apply()
    assert host.listdir("/boot") == ["new"] and host.listdir("/boot/new") == ["mark", "module"]


def test_what_fails_once_on_the_way_back_is_tried_again(host, monkeypatch):
    plan = Plan(host)
    plan.put("/boot/one", text(b"1"))
    plan.run("/x", ["false"])
    remove, tried = Host.remove, []

    def failing(self, path):
        tried.append(path)
        if len(tried) == 1:
            raise KmodError(path, "no")
        remove(self, path)

    monkeypatch.setattr(Host, "remove", failing)
    with pytest.raises(KmodError, match="exit status 1: it said nothing"):
        plan.apply()
    assert host.listdir("/boot") == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_command_is_taken_back_by_its_inverse_once_the_files_are_as_they_were(host, fails):
    told = []
    plan = Plan(host)
    plan.put("/boot/one", text(b"1"))
    plan.run("/x", ["true"], lambda host: told.append(host.listdir("/boot")))
    plan.run(
        "/y",
        ["true"],
        lambda host: told.append("first"),
        proof=lambda host: "nothing has happened" if fails else None,
    )
    if fails:
        with pytest.raises(KmodError, match="said that all is well, but nothing has happened"):
            plan.apply()
    else:
        plan.apply()
    assert told == (["first", []] if fails else [])


def test_a_step_that_failed_after_its_work_was_done_is_taken_back(host, monkeypatch):
    plan = Plan(host)
    plan.put("/boot/one", text(b"1"))
    replace = Host.replace

    def failing(self, *arguments, **options):
        replace(self, *arguments, **options)
        raise KmodError("/boot", "cannot be synced")

    monkeypatch.setattr(Host, "replace", failing)
    with pytest.raises(KmodError, match="cannot be synced"):
        plan.apply()
    assert host.listdir("/boot") == []


def test_what_is_replaced_for_good_leaves_room_for_the_next(host, monkeypatch):
    for number in range(3):
        host.replace("/boot/%d" % number, b"x" * (400 << 10))
    monkeypatch.setattr(Host, "room", lambda self, path: (1, 1 << 20))
    plan = Plan(host)
    for number in range(3):
        plan.put("/boot/%d" % number, File(Content(400 << 10, "", lambda: [b"y"], True)), keep=False)
    plan.apply()
    assert host.read("/boot/2") == b"y"


def test_what_does_not_fit_is_refused_before_anything_is_written(host, monkeypatch):
    monkeypatch.setattr(Host, "room", lambda self, path: (1, 1 << 20))
    plan = Plan(host)
    for number in range(3):
        plan.put("/boot/%d" % number, File(Content(400 << 10, "", lambda: [b"x"], True)))
    with pytest.raises(KmodError) as caught:
        plan.apply()
    assert caught.value.code == "NO_ROOM" and host.listdir("/boot") == []


def test_a_file_that_someone_changes_after_it_was_planned_is_left_to_them(host):
    host.replace("/boot/file", b"old")
    plan = Plan(host)
    plan.put("/boot/first", text(b""))
    plan.put("/boot/file", text(b"ours"))
    host.replace("/boot/file", b"theirs")
    with pytest.raises(KmodError) as caught:
        plan.apply()
    assert (
        caught.value.code == "FILE_CHANGED"
        and host.read("/boot/file") == b"theirs"
        and host.listdir("/boot") == ["file"]
    )


def test_what_cannot_be_put_back_is_named(host, monkeypatch):
    plan = Plan(host)
    plan.put("/boot/one", text(b"1"))
    plan.run("/x", ["false"])
    monkeypatch.setattr(
        Host, "remove", lambda self, path: (_unused for _unused in ()).throw(KmodError(path, "no"))
    )
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


def test_what_only_making_a_file_finds_out_comes_back_from_applying(host):
    def made():
        yield b"image"
        return {"size": 5}

    plan = Plan(host)
    plan.put("/boot/known", text(b"x"))
    plan.put("/boot/made", File(Content(0, "", made)))
    assert plan.apply() == {"/boot/made": {"size": 5}}
    assert Plan(host).apply() == {}


def test_a_device_in_the_way_is_an_error(host):
    os.mkfifo(host.real("/boot/odd"))
    with pytest.raises(KmodError, match="neither a file"):
        Plan(host).put("/boot/odd", Link("x"))
