# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host on which nothing was touched gets the answer of the last look; one on which anything was is looked at."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import kept_files, seen, settled, task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.modules import kmod_deploy
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files
from tests import CHECKOUT, COLLECTIONS
from tests.unit.commands.follower import NEW
from tests.unit.commands.test_deploy import Machine
from tests.unit.test_task import Exit

pytestmark = [
    pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps what it found"),
]
CACHE = "var/cache/outoftree.kmod"
# as Ansible hands over what a task leaves out
DRIVER = dict({name: option.get("default") for name, option in kmod_deploy.DRIVER.items()}, driver="vendor")


class Settled(Machine):
    """A host that has a driver, and the request for it."""

    def __init__(self, root):
        super().__init__(root)
        (self.root / "var/cache").mkdir(exist_ok=True)
        self.archive = root.parent / "module.zip"
        self.pack("1")
        self.looks = 0
        self.drivers = [dict(DRIVER, path=[self.module("vendor")])]

    def pack(self, code):
        with zipfile.ZipFile(self.archive, "w") as packed:
            packed.writestr("ansible_collections/outoftree/kmod/plugins/module_utils/x.py", code)

    def load(self):
        self.looks += 1
        return deploy

    def params(self, **more):
        sent = {"_files": None, "_kmodctl": None, "_sources": None}
        return {
            "root": str(self.root),
            "drivers": self.drivers,
            "exclusive": False,
            "weak_modules": "leave",
            **sent,
            **more,
        }

    def ask(self, check=False, **more):
        """The answer, and whether it was had by looking."""
        before, root, params = self.looks, self.root, self.params(**more)

        class Module:
            _name, check_mode = "kmod_deploy", check

            def exit_json(self, **answer):
                raise Exit(dict(answer, failed=False))

            def fail_json(self, **answer):
                raise Exit(dict(answer, failed=True, root=root))

        Module.params = params
        with pytest.raises(Exit) as caught:
            task.run_unless_settled(Module(), self.load, str(self.archive))
        return caught.value.args[0], self.looks > before

    def first(self, pattern):
        return sorted(self.root.glob(pattern))[0]


@pytest.fixture
def host(tmp_path):
    host = Settled(tmp_path / "root")
    answer, looked = host.ask()
    assert answer["changed"] and looked
    return host


def state(root):
    """Every path below the root and what tells that it was changed."""
    paths = [os.path.join(top, name) for top, names, files in os.walk(root) for name in names + files]
    return {path: (os.lstat(path).st_ino, os.lstat(path).st_ctime_ns) for path in [str(root), *paths]}


def test_the_second_run_needs_no_look_and_writes_nothing_at_all(host):
    before = state(host.root)
    answer, looked = host.ask()
    assert not looked and state(host.root) == before
    assert answer["changed"] is False and answer["diff"] == []
    assert answer["drivers"][0]["driver"] == "vendor" and answer["drivers"][0]["changed"] == []
    assert host.ask(check=True) == (answer, False)


def test_the_answer_is_the_one_that_a_look_gives(host):
    kept, looked = host.ask()
    shutil.rmtree(host.root / CACHE)
    seen_now, looked_now = host.ask()
    assert (kept, looked, looked_now) == (json.loads(json.dumps(seen_now)), False, True)


def in_place(path):
    """Change a byte as a boot loader does: same inode, same size, and the time set back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"#")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


TOUCHED = {
    "a module": lambda host: in_place(host.first("lib/modules/*/extra/vendor/*.ko")),
    "a link": lambda host: host.first("lib/modules/*/weak-updates/vendor/*.ko").unlink(),
    "a variant": lambda host: in_place(host.first("boot/*.img.1")),
    "a variant's mark": lambda host: in_place(host.first("boot/.*.img.1*")),
    "a variant is gone": lambda host: host.first("boot/*.img.1").unlink(),
    "the shipped image": lambda host: host.image(NEW, b"2"),
    "an entry": lambda host: in_place(host.first("boot/loader/entries/*vendor*")),
    "an entry is gone": lambda host: host.first("boot/loader/entries/*vendor*").unlink(),
    "another entry": lambda host: (host.root / "boot/loader/entries/other.conf").write_text("title Other\n"),
    "modules.dep": lambda host: in_place(host.root / "lib/modules" / NEW / "modules.dep"),
    "a symvers": lambda host: in_place(host.first("boot/symvers*")),
    "modprobe.d": lambda host: (
        (host.root / "etc/modprobe.d").mkdir(exist_ok=True)
        or (host.root / "etc/modprobe.d/x.conf").write_text("blacklist vendor\n")
    ),
    "a kernel is gone": lambda host: shutil.rmtree(host.root / "lib/modules" / NEW),
    "a kernel came": lambda host: shutil.copytree(
        host.root / "lib/modules" / NEW, host.root / "lib/modules/6.9.0-1"
    ),
    "a directory became another": lambda host: (
        shutil.copytree(host.root / "boot", host.root / "boot2", symlinks=True),
        (host.root / "boot").rename(host.root / "boot1"),
        (host.root / "boot").symlink_to("boot2"),
    ),
    "the environment block, as GRUB writes it": lambda host: in_place(host.first("boot/grub2/grubenv")),
    "another run was killed": lambda host: (host.root / "lib/modules/.outoftree.kmod.lock").touch(0o600),
    "the collection": lambda host: host.pack("2"),
    "what is asked": lambda host: host.drivers[0].update(args="quiet"),
}


@pytest.mark.parametrize("touched", sorted(TOUCHED))
def test_what_was_touched_is_looked_at(host, touched):
    assert not host.ask()[1]
    TOUCHED[touched](host)
    _answer, looked = host.ask(check=True)
    assert looked


def test_another_boot_and_another_day_are_looked_at(host, tmp_path, monkeypatch):
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    with monkeypatch.context() as patched:
        patched.setattr(settled, "BOOT", str(boot))
        assert host.ask(check=True)[1]
    now = settled.time.time()
    for later, looks in ((3600, False), (kept_files.DAY, True), (-3600, True)):
        with monkeypatch.context() as patched:
            patched.setattr(settled.time, "time", lambda later=later: now + later)
            assert host.ask(check=True)[1] is looks


def test_nothing_is_kept_that_others_may_write_or_that_is_damaged(host):
    (path,) = (host.root / CACHE).glob("settled:*")
    path.chmod(0o666)
    assert host.ask(check=True)[1]
    path.chmod(0o644)
    assert not host.ask(check=True)[1]
    path.write_bytes(path.read_bytes()[:-9])
    assert host.ask(check=True)[1]


def test_check_mode_keeps_nothing(host):
    shutil.rmtree(host.root / CACHE)
    before = state(host.root)
    assert host.ask(check=True)[1] and host.ask(check=True)[1]
    assert state(host.root) == before


def test_one_that_still_wants_files_is_not_settled(tmp_path):
    host = Settled(tmp_path / "root")
    described = [json.loads(json.dumps(each)) for each in _described(host)]
    host.drivers = [dict(DRIVER, _described=described)]
    answer, _looked = host.ask()
    assert answer["need"] and not list((host.root / CACHE).glob("settled:*"))
    sent = {each["path"]: str(host.root / "opt/vendor/vendor.ko") for each in described}
    assert host.ask(_files=sent)[0]["changed"]
    assert host.ask()[1] is False  # the task of the next play, which sends nothing


def _described(host):
    return [_files.described(each) for each in _files.found([str(host.root / "opt/vendor/vendor.ko")], None)]


def test_what_a_file_system_cannot_tell_apart_yet_is_not_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(seen.SMALL + 1))
    looked = seen.Notes()
    looked.status(str(path), os.lstat(path))
    assert not looked.settled()
    settled.time.sleep(seen.TICK)
    assert looked.settled()
    looked.status(str(path), None)  # and here another answer than before
    assert not looked.settled()


LOOK = """
import json, os, sys
from ansible_collections.outoftree.kmod.plugins.module_utils import seen, task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy
looked = seen.Notes()
params = json.load(sys.stdin)
task._in_turns(deploy, params["root"], True, params, looked)
looked = seen.Notes()
os.path.lexists("/now-it-begins")
task._in_turns(deploy, params["root"], True, params, looked)
os.path.lexists("/now-it-ends")
json.dump(looked.facts(), sys.stdout)
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_all_that_a_look_asks_the_system_is_noted(host, tmp_path):
    """Every path below the root that a system call names, but for directories that lead to others."""
    log = tmp_path / "strace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-s", "4096", "-e", "trace=%file,getdents64", "-o", str(log)]
        + [sys.executable, "-c", LOOK],
        input=json.dumps(host.params()),
        env=dict(os.environ, PYTHONPATH="%s:%s" % (CHECKOUT, COLLECTIONS)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout)
    noted = {real for _kind, real, _value, _more in facts}
    calls = re.split('"/now-it-(?:begins|ends)"', log.read_text())[1]
    asked = set(re.findall(r'"(%s[^"]*)"' % re.escape(str(host.root)), calls))
    listed = set(re.findall(r'"(%s[^"]*)", [A-Z_|]*O_DIRECTORY' % re.escape(str(host.root)), calls))
    # where scratch files are, which killed runs have left and any run clears away
    listed.discard(str(host.root / "var/tmp"))
    assert listed and listed <= {real for kind, real, *_more in facts if kind in (seen.NAMES, seen.ENTRIES)}
    cache = str(host.root / "var/cache")
    assert len(asked) > 50
    missed = {path for path in asked if path.rstrip("/") not in noted and not path.startswith(cache)}
    # a component on the way, which is in the path of what is noted and was no symlink
    links = {real for kind, real, _value, _more in facts if kind == seen.LINK}
    assert {
        path for path in missed if not any(each.startswith(path + "/") for each in noted | links)
    } == set()


def test_a_link_of_old_is_what_it_was(tmp_path):
    """A symlink on the way that leads elsewhere now."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * (seen.SMALL + 1))
    (tmp_path / "way").symlink_to("one")
    host = Host(str(tmp_path))
    host.seen = looked = seen.Notes()
    assert host.is_file("/way/file")
    assert seen.same(looked.facts())
    Path(tmp_path, "way").unlink()
    Path(tmp_path, "way").symlink_to("two")
    assert not seen.same(looked.facts())
