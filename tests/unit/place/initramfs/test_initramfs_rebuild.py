# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A rebuild is a new file by the distribution's own tool, believed only once the driver's own bytes are found
in it.
"""

import gzip
import hashlib
import os
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import (
    existing,
    initramfs_tools,
    listing,
    rebuild,
    variant,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.tools import Completed
from tests.forge.compressors import COMPRESSIONS
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD, Machine, modules
from tests.forge.ko import RELEASE, ko
from tests.unit.place.initramfs import kernel_simulator

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")

DRIVER = ko("acme", filler=b"the vendor's")
TREE = "lib/modules/" + RELEASE
KINDS = {
    "mkinitramfs": {"scripts/functions": b"", "conf/initramfs.conf": b""},
    "dracut": {"usr/lib/systemd/systemd": b"", "usr/lib/dracut/hooks/pre-udev": None},
    "mkosi-initrd": {"usr/lib/systemd/systemd": b""},  # and the driver is not in what it makes
    "mkinitrd": {"bin/nash": b"", "init": b"insmod x"},
}


class Tool:
    """Stands in for the tool of a family: notes how it was called and writes an image as it would."""

    def __init__(self, machine, monkeypatch, tmp_path, name, content=None, status=0):
        self.calls = []
        self.machine = machine
        path = machine.root / "usr/sbin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self.name, self.status = name, status
        driver = {} if name == "mkosi-initrd" else {"extra/acme/acme.ko": DRIVER}
        self.content = (
            content
            if content is not None
            else cpio(
                {
                    "init": b"new",
                    **KINDS[name],
                    **modules(TREE, dict(driver, **{"kernel/other.ko": ko("other")}), tmp_path / "built"),
                }
            )
        )
        real = Host.run

        def run(host, argv, timeout=None, **options):
            if argv[0] == "depmod":
                return real(host, argv, timeout=timeout, **options)
            assert timeout == 1800
            at = argv.index(host.root)
            assert argv[:at] == ["unshare", "--mount", "sh", "-ec", rebuild.ENTER]
            self.calls.append(argv[at + 1 :])
            self.options = options
            if status:
                raise KmodError(name, "exit status %d" % status, code="TOOL_FAILED")
            self.look(host, argv[at + 1 :])
            output = host.real(self.output(argv))
            if self.content is not None and content != b"":
                with open(output, "wb") as handle:
                    handle.write(COMPRESSIONS["xz"](self.content))
            return Completed(0, "", "")

        monkeypatch.setattr(Host, "run", run)

    def look(self, host, argv):
        if argv[0] == "mkinitramfs":
            conf = host.real(argv[argv.index("-d") + 1])
            with open(conf + "/hooks/kmod") as hook:
                assert "manual_add_modules acme" in hook.read()
            assert os.access(conf + "/hooks/kmod", os.X_OK)
            assert os.path.exists(conf + "/initramfs.conf")

    @staticmethod
    def output(argv):
        if "--output-dir" in argv:
            return argv[argv.index("--output-dir") + 1] + "/" + argv[argv.index("--output") + 1]
        return argv[argv.index("-o") + 1] if "-o" in argv else argv[-2]


def make(tmp_path, monkeypatch, name, **options):
    machine = Machine(tmp_path / "host")
    machine.image(gzip.compress(cpio(dict({"lib": None}, **KINDS[name]))))
    machine.module("extra/acme/acme.ko", DRIVER)
    (machine.root / "etc/initramfs-tools").mkdir(parents=True)
    (machine.root / "etc/initramfs-tools/initramfs.conf").write_text("MODULES=most\n")
    (machine.root / "var/tmp").mkdir(parents=True)
    return machine, Tool(machine, monkeypatch, tmp_path, name, **options)


def run(machine, method="rebuild", **more):
    plan, answer = variant.present(Host(str(machine.root)), variant.Recipe(("acme",), method=method, **more))
    result = answer.applied(plan.apply()).as_dict()
    return result["variants"][0]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("mkinitramfs", ["-d", "-o", RELEASE]),
        ("dracut", ["--nostrip", "--add-drivers", "acme", RELEASE]),
        ("mkosi-initrd", ["--kernel-version", RELEASE, "--output"]),
        ("mkinitrd", ["--with=acme", RELEASE]),
    ],
)
def test_each_familys_tool_builds_a_new_file(tmp_path, monkeypatch, name, expected):
    machine, tool = make(tmp_path, monkeypatch, name)
    before = machine.snapshot()
    row = run(machine)
    (call,) = tool.calls
    assert call[0] == name and set(expected) <= set(call)
    assert (row["method"], row["status"]) == ("rebuild", "created")
    path = machine.root / row["path"][1:]
    files, error = kernel_simulator.unpack(path.read_bytes())
    assert error is None and files["init"][1] in (b"new", b"insmod x")
    (module,) = row["modules"]
    assert (
        files[module["path"]][1] == DRIVER
        and module["path"][len(TREE) + 1 :] in files[TREE + "/modules.dep"][1].decode()
    )
    assert (
        row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and row["size"] == path.stat().st_size
    )
    assert [phase["name"] for phase in row["phases"]] == [name, "verify"]
    variant.absent(Host(str(machine.root)), ["acme"])[0].apply()
    assert machine.snapshot() == before  # nothing else was written, no scratch is left


def test_a_second_run_builds_nothing(tmp_path, monkeypatch):
    machine, tool = make(tmp_path, monkeypatch, "dracut")
    first = run(machine)
    second = run(machine)
    assert len(tool.calls) == 1 and second["status"] == "current" and second["sha256"] == first["sha256"]


def test_a_new_shipped_image_is_followed(tmp_path, monkeypatch):
    machine, tool = make(tmp_path, monkeypatch, "dracut")
    run(machine)
    machine.image(gzip.compress(cpio(dict({"lib": None, "more": b""}, **KINDS["dracut"]))))
    assert run(machine)["status"] == "replaced" and len(tool.calls) == 2


def test_check_mode_builds_nothing_and_gives_no_digest(tmp_path, monkeypatch):
    machine, tool = make(tmp_path, monkeypatch, "dracut")
    before = machine.snapshot()
    plan, answer = variant.present(Host(str(machine.root)), variant.Recipe(("acme",), method="rebuild"))
    result = answer.as_dict()
    plan.diff()
    assert (
        plan and result["variants"][0]["sha256"] == "" and tool.calls == [] and machine.snapshot() == before
    )


def test_auto_rebuilds_what_no_overlay_can_be_put_on(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "mkinitrd")
    assert run(machine, "auto")["method"] == "rebuild"


def test_early_loading_goes_behind_what_the_tool_made(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "mkinitramfs")
    row = run(machine, early_load=True)
    files, _error = kernel_simulator.unpack((machine.root / row["path"][1:]).read_bytes())
    assert files["conf/conf.d/zz-kmod-acme"][1] == b"modprobe -q acme || :\n"


def failed(machine, **more):
    before = machine.snapshot()
    with pytest.raises(KmodError) as caught:
        run(machine, **more)
    assert machine.snapshot() == before
    return caught.value.code


def test_a_tool_that_fails_leaves_nothing(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut", status=1)
    assert failed(machine) == "TOOL_FAILED"


def test_a_tool_that_writes_nothing_is_noticed(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut", content=b"")
    assert failed(machine) == "TOOL_FAILED"


def test_a_tool_that_left_the_driver_out_is_noticed(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut", content=cpio({"init": b""}))
    assert failed(machine) == "INITRD_VERIFY"


def test_a_tool_that_took_the_in_tree_namesake_is_noticed(tmp_path, monkeypatch):
    content = cpio(
        {"init": b"", **modules(TREE, {"kernel/acme.ko": ko("acme", filler=b"in-tree")}, tmp_path / "wrong")}
    )
    machine, _tool = make(tmp_path, monkeypatch, "dracut", content=content)
    assert failed(machine) == "INITRD_VERIFY"


def test_garbage_is_noticed(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut", content=b"garbage")
    assert failed(machine) == "INITRD_DAMAGED"


def test_a_module_that_is_not_linked_is_refused(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut")
    (machine.root / "acme.ko").write_bytes(DRIVER)
    with pytest.raises(KmodError) as caught:
        variant.present(
            Host(str(machine.root)), variant.Recipe(("acme",), ("/acme.ko",), "rebuild"), [RELEASE]
        )
    assert caught.value.code == "MODULE_NOT_LINKED"


def test_a_host_without_the_tool_is_told(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut")
    (machine.root / "usr/sbin/dracut").unlink()
    assert failed(machine) == "TOOL_MISSING"


def test_the_listing_shows_what_came_from_which_segment(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut")
    row = run(machine, "overlay")
    text = list(listing.lines(Host(str(machine.root)), row["path"]))
    assert text[0].startswith("segment 1: gzip at 0, ") and text[1].startswith("segment 2: cpio at ")
    assert text[2] == "variant of %s for kernel %s with acme (overlay)" % (row["base"], RELEASE)
    assert any(line.startswith(" 2 -rw-r--r--") and line.endswith(TREE + "/updates/acme.ko") for line in text)
    assert any(line.startswith(" 1 ") and line.endswith("systemd") for line in text)


@pytest.mark.parametrize("pack", [lambda data: data, COMPRESSIONS["xz"], COMPRESSIONS["zstd"]])
def test_the_copy_that_an_image_would_load_is_told_by_its_digest(tmp_path, pack):
    machine = Machine(tmp_path / "host")
    suffix = {b"\xfd": ".xz", b"\x28": ".zst"}.get(pack(DRIVER)[:1], "")
    files = modules(TREE, {"kernel/acme.ko": ko("acme", filler=b"in-tree")}, tmp_path / "m")
    files[TREE + "/updates/acme.ko" + suffix] = pack(DRIVER)
    files[TREE + "/modules.dep"] = ("updates/acme.ko%s:\n" % suffix).encode()
    machine.image(gzip.compress(cpio(files)))
    found = listing.modules(
        Host(str(machine.root)), "/boot/" + machine.base.name, RELEASE, names=["acme", "other"]
    )
    assert found == {
        "acme": listing.Copy(
            TREE + "/updates/acme.ko" + suffix, hashlib.sha256(DRIVER).hexdigest(), used=True
        )
    }


# What is read because it lies on the host


def copied(machine, monkeypatch):
    """The configuration that mkinitramfs was given."""
    seen = {}

    def look(self, host, argv):
        conf = host.real(argv[argv.index("-d") + 1])
        for below, _directories, names in os.walk(conf):
            for name in names:
                path = os.path.join(below, name)
                seen[os.path.relpath(path, conf)] = (
                    os.readlink(path) if os.path.islink(path) else os.stat(path).st_mode & 0o777
                )

    monkeypatch.setattr(Tool, "look", look)
    run(machine)
    return seen


def test_the_configuration_is_copied_as_it_is_but_for_what_could_block(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "mkinitramfs")
    conf = machine.root / "etc/initramfs-tools"
    (conf / "scripts/init-top").mkdir(parents=True)
    (conf / "scripts/init-top/mine").write_text("#!/bin/sh\n")
    (conf / "scripts/init-top/mine").chmod(0o755)
    os.mkfifo(str(conf / "scripts/fifo"))
    (conf / "loop").symlink_to("loop")
    (conf / "within").symlink_to("scripts/init-top/mine")
    (conf / "scripts/out").symlink_to("../../default/x")
    (conf / "absolute").symlink_to("/etc/y")
    if os.geteuid() == 0:
        os.mknod(str(conf / "zero"), 0o020600, os.makedev(1, 5))
    assert copied(machine, monkeypatch) == {
        "initramfs.conf": 0o644,
        "hooks/kmod": 0o755,
        "scripts/init-top/mine": 0o755,
        "loop": "loop",
        "within": "scripts/init-top/mine",
        "scripts/out": "/etc/default/x",
        "absolute": "/etc/y",
    }


@pytest.mark.parametrize("what", ["size", "number"])
def test_a_configuration_without_bounds_is_refused(tmp_path, monkeypatch, what):
    machine, _tool = make(tmp_path, monkeypatch, "mkinitramfs")
    conf = machine.root / "etc/initramfs-tools"
    if what == "size":
        with open(str(conf / "huge"), "wb") as handle:
            handle.truncate(1 << 40)
    else:
        monkeypatch.setattr(initramfs_tools, "COPY_FILES", 20)
        for number in range(21):
            (conf / str(number)).touch()
    with pytest.raises(KmodError) as caught:
        run(machine)
    assert caught.value.code == "CONFIG_TOO_LARGE"


def test_what_a_tool_puts_aside_lies_in_our_scratch_directory(tmp_path, monkeypatch):
    machine, tool = make(tmp_path, monkeypatch, "dracut")
    run(machine)
    assert tool.options == {"TMPDIR": os.path.dirname(tool.output(["dracut", *tool.calls[0][1:]]))}
    assert list((machine.root / "var/tmp").iterdir()) == []


def test_scratch_of_a_killed_run_is_cleared_by_the_next_also_in_another_root(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = (
        machine.root
        / "var/tmp"
        / ("outoftree.kmod-%d-%d-1-x" % (dead.pid, os.stat("/proc/self/ns/pid").st_ino))
    )
    (left / "conf").mkdir(parents=True)
    done = task.carry_out(str(machine.root), False, lambda host: variant.absent(host, ["acme"]))
    assert not done.changed and list((machine.root / "var/tmp").iterdir()) == []


def test_too_little_room_to_build_in_is_said_before_anything_is_written(tmp_path, monkeypatch):
    machine, tool = make(tmp_path, monkeypatch, "dracut")
    real = Host.free
    monkeypatch.setattr(
        Host, "free", lambda self, path: 10 if path.startswith("/var/tmp") else real(self, path)
    )
    assert failed(machine) == "SCRATCH_FULL" and tool.calls == []


def test_a_run_that_is_cut_off_before_the_mark_is_whole_is_made_good(tmp_path, monkeypatch):
    machine, tool = make(tmp_path, monkeypatch, "dracut")
    for done in (1, 2):
        plan, _result = variant.present(Host(str(machine.root)), variant.Recipe(("acme",), method="rebuild"))
        plan.steps = plan.steps[:done]
        plan.apply()
        run(machine)
        assert not variant.present(Host(str(machine.root)), variant.Recipe(("acme",), method="rebuild"))[0]
        machine.variant().write_bytes(machine.variant().read_bytes()[:-700])
        assert [row.state for row in existing.overview(Host(str(machine.root)))] == ["damaged"]
        variant.absent(Host(str(machine.root)), ["acme"])[0].apply()
        assert machine.all_in_boot() == [machine.base.name, "vmlinuz-" + RELEASE]


def test_a_rebuilt_image_whose_modules_would_not_load_is_refused(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut")
    symvers = machine.root / "usr/src" / ("linux-headers-" + RELEASE) / "Module.symvers"
    symvers.parent.mkdir(parents=True)
    # another one than the driver was built for
    symvers.write_text("0x00000012\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n")
    assert failed(machine) == "VARIANT_REFUSED"
