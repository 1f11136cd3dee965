# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host as plans would leave it: whatever is asked of it is answered as by the host once they are carried out."""

import os
import stat
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.foreseen import Foreseen
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import (
    Change,
    Content,
    Directory,
    File,
    Link,
    Plan,
)


def a_file(text, mode=0o644):
    return File(Content.of(text.encode()), mode)


@pytest.fixture
def host(tmp_path):
    for path in ("usr/lib/modules/1/extra", "etc", "boot"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for path in ("etc/old", "etc/stays", "boot/gone", "usr/lib/modules/1/extra/a.ko"):
        (tmp_path / path).write_text("old " + path)
    return Host(str(tmp_path))


def planned(host):
    plan = Plan(host)
    plan.put("/etc/new", a_file("new", 0o600))
    plan.put("/etc/old", a_file("replaced"))
    plan.put("/boot/gone", None)
    plan.put("/boot", None)
    plan.put("/lib/modules/2/weak/b.ko", a_file("module"))
    plan.put("/lib/modules/1/weak/b.ko", Link("/lib/modules/2/weak/b.ko"))
    plan.put("/lib/modules/1/weak/lost.ko", Link("/nowhere"))
    plan.put("/etc/stays", Link("new"))
    plan.put("/srv/deep/er", Directory(0o700))
    return plan


PATHS = [
    "/", "/etc", "/etc/new", "/etc/old", "/etc/stays", "/boot", "/boot/gone", "/lib", "/lib/modules", "/lib/modules/1/weak",
    "/usr/lib/modules/1/weak/b.ko", "/lib/modules/1/weak/lost.ko", "/lib/modules/2", "/lib/modules/2/weak/b.ko", "/srv/deep/er",
    "/lib/modules/1/extra/a.ko", "/nowhere", ]  # fmt: skip


def answer(host, path):
    def tried(ask):
        try:
            return ask()
        except KmodError as error:
            return error.code
        except OSError as error:
            return error.errno

    def seen(status):
        return status and (
            stat.S_IFMT(status.st_mode),
            0 if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode),
            status.st_size if stat.S_ISREG(status.st_mode) else 0,
        )

    def at():
        with host.open(path) as reader:
            return reader.size, reader.at(2, 3), reader.at(100, 5), b"".join(reader.chunks())

    def scan():
        return [
            (each.name, each.is_dir(), each.is_file(follow_symlinks=False), each.is_symlink())
            for each in host.scan(path)[1]
        ]

    return {
        "lstat": tried(lambda: seen(host.lstat(path))),
        "stat": tried(lambda: seen(host.stat(path))),
        "real": tried(lambda: host.real(path)),
        "link": tried(lambda: host.readlink(path)),
        "names": tried(lambda: host.listdir(path)),
        "entries": tried(scan),
        "text": tried(lambda: host.read_text(path)),
        "pieces": tried(at),
    }


@pytest.mark.parametrize("path", PATHS)
def test_it_answers_as_the_host_will(host, path):
    plan = planned(host)
    before = {name: os.lstat(name).st_mtime_ns for name in (host.root, host.root + "/etc")}
    foreseen = Foreseen(host, plan)
    said = answer(foreseen, path)
    assert before == {name: os.lstat(name).st_mtime_ns for name in before}
    plan.apply()
    assert said == answer(host, path)


def test_one_plan_after_another(host):
    first = Foreseen(host, planned(host))
    plan = Plan(first)
    plan.put("/etc/new", a_file("newer"))
    plan.put("/etc/stays", None)
    second = Foreseen(first, plan)
    assert second.read_text("/etc/new") == "newer" and first.read_text("/etc/new") == "new"
    assert not second.exists("/etc/stays") and "stays" not in second.listdir("/etc")


def test_what_only_a_tool_would_find_out_is_not_there(host):
    plan = Plan(host)
    plan.put("/etc/built", File(Content(0, "", tuple)))
    assert not Foreseen(host, plan).exists("/etc/built")


def test_what_a_tool_derives_is_made_of_what_is_planned(host):
    plan = Plan(host)
    plan.put("/etc/new", a_file("new"))

    def make(there):
        text = there.read_text("/etc/new") + there.read_text("/etc/stays")
        return [Change("/etc/derived", None, a_file(text))]

    plan.derive("/etc/derived", "tool", make, room=0)
    assert Foreseen(host, plan).read_text("/etc/derived") == "newold etc/stays"


def test_a_tool_gets_the_file_as_it_is_planned(host, tmp_path):
    foreseen = Foreseen(host, planned(host))
    for path, text in (
        ("/lib/modules/1/weak/b.ko", "module"),
        ("/lib/modules/1/extra/a.ko", "old usr/lib/modules/1/extra/a.ko"),
    ):
        name = tmp_path / "laid"
        foreseen.lay(path, str(name))
        assert name.read_text() == text
        name.unlink()


def test_a_tool_gets_a_directory_as_it_is_planned(host, tmp_path):
    foreseen = Foreseen(host, planned(host))
    where = foreseen.laid_out("/etc", str(tmp_path / "laid"))
    assert {each.name: each.read_text() for each in Path(where).iterdir()} == {
        "new": "new",
        "old": "replaced",
        "stays": "new",
    }
    assert host.laid_out("/etc", str(tmp_path / "none")) == host.real("/etc")
