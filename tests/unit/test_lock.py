# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time changes a host, nobody else can keep it from that, and what a killed run leaves is
cleared away.
"""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock, task
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import Interrupted, KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Content, File, Link, Plan

HEAD = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started with: nohup,\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)  # or in a shell's background\n"
    "from ansible_collections.outoftree.kmod.plugins.module_utils import lock, task\n"
    "from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host\n"
    "from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Content, File, Plan\n"
    "def say(): print('there', flush=True); return b'x'\n"
    "host = Host(sys.argv[1])\n"
)


@pytest.fixture
def host(tmp_path):
    (tmp_path / "root/lib/modules").mkdir(parents=True)
    (tmp_path / "root/boot").mkdir()
    return Host(str(tmp_path / "root"))


def start(program, host):
    """Another process that has got as far as saying so."""
    other = subprocess.Popen(
        [sys.executable, "-c", HEAD + program, host.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert other.stdout.readline() == b"there\n"
    return other


def end(other, number=signal.SIGKILL):
    other.send_signal(number)
    other.wait()
    other.stdin.close()
    other.stdout.close()


def link(target):
    def work(host):
        plan = Plan(host)
        plan.put("/boot/link", Link(target))
        return plan, {}

    return work


def everything(host):
    return sorted(
        os.path.join(directory, name)
        for directory, names, files in os.walk(host.root)
        for name in names + files
    )


def test_a_second_run_waits_and_then_says_who_is_at_work_and_since_when(host):
    other = start("with lock.held(host): say(); sys.stdin.read()", host)
    with pytest.raises(
        KmodError, match=r"process %d .* for \d+ s, since \d\d:\d\d:\d\d" % other.pid
    ) as caught:
        lock.glance(host, wait=0.3)
    assert caught.value.code == "LOCKED"
    with pytest.raises(KmodError), lock.held(host, wait=0.3):
        pass
    other.stdin.close()
    lock.glance(host, wait=10)
    other.wait()
    other.stdout.close()


def test_nothing_is_written_where_there_is_nothing_to_do_or_only_a_look(host):
    before = everything(host)
    changed = os.stat(host.root + "/lib/modules").st_mtime_ns
    task.carry_out(host.root, True, link("x"))
    task.carry_out(host.root, False, lambda host: (Plan(host), {}))
    assert (everything(host), os.stat(host.root + "/lib/modules").st_mtime_ns) == (before, changed)


def test_the_lock_is_gone_when_all_is_done(host):
    assert task.carry_out(host.root, False, link("x")).changed
    assert everything(host) == sorted(
        [host.root + "/boot", host.root + "/boot/link", host.root + "/lib", host.root + "/lib/modules"]
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_no_other_user_can_take_the_lock(host):
    os.chmod(os.path.dirname(host.root), 0o755)
    with lock.held(host):
        program = "import fcntl, os, sys\nos.setuid(65534)\nfcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)"
        done = subprocess.run(
            [sys.executable, "-c", program, host.real(lock.path(host))], stderr=subprocess.PIPE, check=False
        )
    assert b"Permission denied" in done.stderr


def test_what_a_killed_run_leaves_is_cleared_away_by_the_next(host):
    program = """
def slow():
    yield b"half"
    say(); time.sleep(60)
def work(host):
    plan = Plan(host)
    plan.put("/lib/modules/6.1.0-1/extra/new/file", File(Content(8, "0" * 64, lambda: [b"whole"])))
    plan.put("/boot/image.1", File(Content(8, "0" * 64, slow, True)))
    return plan, {}
task.carry_out(host.root, False, work)"""
    program = program.replace('"0" * 64, lambda', '"", lambda')
    other = start(program, host)
    end(other)
    assert host.listdir("/boot") == [".image.1.kmod-new"] and host.exists(lock.path(host))
    # as if it had been killed when the directory was just made
    os.unlink(host.root + "/lib/modules/6.1.0-1/extra/new/file")
    task.carry_out(host.root, False, lambda host: (Plan(host), {}))
    assert everything(host) == sorted(host.root + path for path in ("/boot", "/lib", "/lib/modules"))


def test_what_a_step_has_left_whose_error_was_told_goes_though_the_run_went_on(host):
    left = host.root + "/lib/modules/.half.conf.kmod-new"
    with lock.held(host) as turn:
        turn.announce(["/lib/modules/half.conf"])
        with open(left, "w") as file:
            file.write("ha")
        turn.announce(["/boot/other"])
    assert not os.path.exists(left) and not host.exists(lock.path(host))


def test_check_mode_clears_nothing_away(host):
    host.replace("/boot/.image.kmod-new", b"half")
    with open(host.real(lock.path(host)), "w") as file:
        file.write('{"beside": ["/boot"]}')
    task.carry_out(host.root, True, link("x"))
    assert host.listdir("/boot") == [".image.kmod-new"]


def test_a_lock_that_came_with_a_tree_names_nothing_else(host):
    for directory in ("/var", "/var/empty", "/boot/grub"):
        host.mkdir(directory)
    host.replace("/boot/keep", b"")
    with open(host.real(lock.path(host)), "w") as file:
        file.write(
            '{"beside": ["/boot", 3, "/none", "/boot/../.."], "directories": ["/var/empty", "/boot/grub", "/lib/modules/../../var/empty"]}'
        )
    task.carry_out(host.root, False, lambda host: (Plan(host), {}))
    assert (
        host.is_dir("/var/empty")
        and host.is_dir("/boot/grub")
        and host.exists("/boot/keep")
        and not host.exists(lock.path(host))
    )


def test_a_tool_that_outlives_its_killed_run_keeps_the_lock(host):
    other = start(
        "with lock.held(host):\n host.run(['sh', '-c', 'echo $$ > %s/pid; sleep 60' % sys.argv[1]]) if say() else 0",
        host,
    )
    while not (host.is_file("/pid") and host.read("/pid")):
        pass
    end(other)
    tool = int(host.read("/pid"))
    try:
        with pytest.raises(KmodError, match="it is gone, but what it has started still runs: process"):
            lock.glance(host, wait=0.2)
    finally:
        os.killpg(tool, signal.SIGKILL)
    lock.glance(host, wait=10)


def test_a_run_that_waited_plans_again(host):
    seen = []

    def work(host):
        seen.append(host.is_link("/boot/link"))
        if len(seen) == 1:  # another run comes and goes between the first look and the lock
            task.carry_out(host.root, False, link("theirs"))
        plan = Plan(host)
        plan.put("/boot/other", Link("ours"))
        return plan, {"saw": seen[-1]}

    assert task.carry_out(host.root, False, work).answer == {"saw": True}
    assert seen == [False, True]


def test_what_an_admin_writes_meanwhile_is_not_lost(host):
    host.replace("/boot/grubenv", b"a=1\n")
    runs = []

    def work(host):
        data = host.read("/boot/grubenv")
        plan = Plan(host)
        plan.put("/boot/grubenv", File(Content.of(data + b"ours=1\n")))
        if not runs:
            with open(host.root + "/boot/grubenv", "ab") as file:
                file.write(b"theirs=1\n")
        runs.append(1)
        return plan, {}

    task.carry_out(host.root, False, work)
    assert host.read("/boot/grubenv") == b"a=1\ntheirs=1\nours=1\n"


def test_a_file_that_never_rests_is_given_up(host):
    host.replace("/boot/grubenv", b"0")

    def work(host):
        plan = Plan(host)
        plan.put("/boot/grubenv", File(Content.of(b"ours")))
        host.replace("/boot/grubenv", host.read("/boot/grubenv") + b"1")
        return plan, {}

    with pytest.raises(KmodError) as caught:
        task.carry_out(host.root, False, work)
    assert caught.value.code == "FILE_CHANGED" and not host.exists(lock.path(host))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_asked_to_end_takes_back_what_it_has_done(host, number):
    program = """
def slow():
    say(); time.sleep(60)
    yield b""
def work(host):
    plan = Plan(host)
    plan.put("/boot/first", File(Content.of(b"1")))
    plan.put("/boot/second", File(Content(0, "", slow)))
    return plan, {}
try:
    task.carry_out(host.root, False, work)
except Exception as error:
    print(error.code, flush=True)"""
    other = start(program, host)
    other.send_signal(number)
    assert other.stdout.readline() == b"INTERRUPTED\n"
    end(other)
    assert everything(host) == sorted(host.root + path for path in ("/boot", "/lib", "/lib/modules"))


def test_scratch_goes_with_its_run_and_that_of_a_killed_one_with_the_next(host):
    with lock.scratch() as mine:
        assert os.stat(mine).st_mode & 0o777 == 0o700
        other = start(
            "with lock.scratch() as theirs: print(theirs if say() else 0, flush=True); time.sleep(60)", host
        )
        theirs = other.stdout.readline().decode().strip()
        lock.clear_scratch()
        assert os.path.isdir(theirs)
        end(other)
        lock.clear_scratch()
        assert not os.path.exists(theirs) and os.path.isdir(mine)
    assert not os.path.exists(mine)


def test_what_only_looks_like_scratch_of_ours_stays():
    odd = [tempfile.mkdtemp(prefix=lock.SCRATCH), tempfile.mkdtemp(prefix=lock.SCRATCH + "1-x-y-")]
    lock.clear_scratch()
    for each in odd:
        os.rmdir(each)


@pytest.mark.parametrize(
    "told",
    [
        "[" * 100000,
        "[1]",
        '{"beside": ["/a\\u0000", "/\\ud800", "/%s"]}' % ("a" * 300),
        '{"directories": ["/lib/modules/a\\u0000"]}',
        '{"directories": ["/lib/modules/\\ud800", "/lib/modules/%s"]}' % ("a" * 300),
        '{"beside": ["/loop/x"], "directories": ["/lib/modules/loop/x"]}',
        '{"pid": Infinity, "since": Infinity, "command": 1}',
        '{"pid": 1, "since": 1e300, "command": ""}',
        '{"pid": 1, "since": -1e18, "command": ""}',
    ],
)
def test_whatever_an_odd_lock_says_nobody_is_kept_out_by_that(host, told):
    os.symlink("loop", host.real("/loop"))
    os.symlink("loop", host.real("/lib/modules/loop"))
    with open(host.real(lock.path(host)), "w") as file:
        file.write(told)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(KmodError) as caught:
            lock.glance(host, wait=0)
        assert caught.value.code == "LOCKED"
    lock.glance(host, wait=0)
    assert not host.exists(lock.path(host))


@pytest.mark.parametrize(
    "make",
    [
        os.mkdir,
        os.mkfifo,
        lambda path: os.symlink("none", path),
        lambda path: os.symlink("/etc/passwd", path),
    ],
)
def test_what_is_no_lock_is_named(host, make):
    make(host.real(lock.path(host), follow=False))
    with pytest.raises(KmodError) as caught:
        lock.glance(host, wait=0)
    assert caught.value.code == "LOCK_ODD"


SIGNALLED = """
def work(host):
    plan = Plan(host)
    plan.run("/x", ["true"], proof=proof)
    return plan, {}
def proof(host):
    with contextlib.suppress(OSError, KmodError), forgiving():
        say(); time.sleep(2)
    print("went on", flush=True)
import contextlib, signal
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError, forgiving
if %r: signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    task.carry_out(host.root, False, work)
except Exception as error:
    print(error.code, flush=True)"""


@pytest.mark.parametrize("ignored,answer", [(False, b"INTERRUPTED\n"), (True, b"went on\n")])
def test_a_request_to_end_is_taken_for_nothing_else_and_ignored_where_the_caller_has_it_so(
    host, ignored, answer
):
    other = start(SIGNALLED % ignored, host)
    other.send_signal(signal.SIGHUP)
    assert other.stdout.readline() == answer
    end(other)


def test_a_run_that_is_interrupted_while_it_makes_its_directory_takes_it_back(monkeypatch):
    mkdir, made = os.mkdir, []

    def interrupted(path, mode):
        mkdir(path, mode)
        made.append(path)
        raise Interrupted(2)

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(Interrupted), lock.scratch():
        pass
    assert made and not os.path.exists(made[0])
