# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the commands cost, by what can be counted on any machine: modules imported, files opened, bytes read,
processes started. The figures are those of today with little room: who makes one larger knows why.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_image, kernels
from tests import CHECKOUT, COLLECTIONS
from tests.forge import images
from tests.forge.ko import ko
from tests.unit.commands.follower import NEW, OLD
from tests.unit.test_settled import CACHE, Settled

pytestmark = [
    pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)"),
    pytest.mark.skipif(sys.version_info < (3, 8), reason="needs audit hooks"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps what it found"),
]
CORE = "ansible_collections.outoftree.kmod.plugins.module_utils."

COUNT = """
import json, os, sys
import encodings.ascii, encodings.idna, encodings.unicode_escape
root = os.path.realpath(sys.argv[1])
counted = {"opened": {}, "processes": 0, "read": 0}

def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(root + "/"):
        path = str(arguments[0])[len(root):]
        counted["opened"][path] = counted["opened"].get(path, 0) + 1
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system"):
        counted["processes"] += 1

read = os.read
def counting(handle, size):
    data = read(handle, size)
    counted["read"] += len(data)
    return data

os.read = counting
sys.addaudithook(hook)
try:
    exec(sys.argv[2], {"given": json.loads(sys.stdin.read())})
except SystemExit:
    pass
counted["modules"] = sorted(each for each in sys.modules if each.startswith(("ansible_collections.outoftree", "elftools", "ctypes")))
print("\\n" + json.dumps(counted))
"""
TASK = """
import tests
from ansible_collections.outoftree.kmod.plugins.module_utils import task

class Module:
    _name, check_mode, params = "kmod_deploy", False, given["params"]
    def exit_json(self, **answer):
        assert answer["changed"] is False
    def fail_json(self, **answer):
        raise Exception(answer)

def load():
    from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy
    return deploy

task.run_unless_settled(Module(), load, given["archive"])
"""
KMODCTL = """
import sys
import tests
from ansible_collections.outoftree.kmod.plugins.module_utils import cli
sys.exit(cli.main(given))
"""


def counted(root, script, given):
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(root), script],
        input=json.dumps(given),
        env=dict(os.environ, PYTHONPATH="%s:%s" % (CHECKOUT, COLLECTIONS)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    found["core"] = {each[len(CORE) :] for each in found["modules"] if each.startswith(CORE)}
    found["files"] = sum(found["opened"].values())
    return found


@pytest.fixture
def host(tmp_path):
    host = Settled(tmp_path / "root")
    assert host.ask()[0]["changed"]
    return host


def test_a_settled_host_costs_a_handful_of_modules_and_small_files(host):
    found = counted(host.root, TASK, {"params": host.params(), "archive": str(host.archive)})
    assert found["core"] == {"errors", "host", "kept_files", "reader", "seen", "settled", "task", "tools"}
    assert found["processes"] == 0
    # the record, and files of up to 4 KiB whose content counts
    assert found["files"] <= 30 and found["read"] <= 32 << 10
    assert not any(each.startswith(("elftools", "ctypes")) for each in found["modules"])


def test_a_look_judges_without_a_process_and_reads_no_file_often(host):
    shutil.rmtree(host.root / CACHE)
    found = counted(host.root, TASK, {"params": host.params(), "archive": str(host.archive)})
    assert found["processes"] == 0
    assert not any(each.startswith(("elftools", "ctypes")) for each in found["modules"])
    assert (
        not {"decoders", "read.kernel_image", "read.kernel_package", "read.offered", "make"} & found["core"]
    )
    images = {name: times for name, times in found["opened"].items() if name.startswith("/boot/initramfs")}
    assert images and max(images.values()) <= 16
    assert max(found["opened"].values()) <= 16 and found["files"] <= 145 and found["read"] <= 110 << 10


def test_check_imports_nothing_that_changes_a_host_and_reads_each_file_about_once(host):
    found = counted(
        host.root, KMODCTL, ["check", "--root", str(host.root), str(host.root / "opt/vendor/vendor.ko")]
    )
    assert found["processes"] == 0
    assert not any(each.startswith(("elftools", "ctypes")) for each in found["modules"])
    assert {
        each for each in found["core"] if each.startswith(("place.boot.", "place.initramfs.", "make."))
    } == set()
    assert max(found["opened"].values()) <= 4 and found["files"] <= 60


def test_a_boot_image_is_unpacked_once_for_exports_certificates_and_vermagic(tmp_path, monkeypatch):
    (tmp_path / "boot").mkdir()
    (tmp_path / "lib/modules" / OLD / "kernel").mkdir(parents=True)
    (tmp_path / "lib/modules" / OLD / "kernel/a.ko").write_bytes(
        ko("a", [("module_layout", 0x11)], release=OLD)
    )
    (tmp_path / "boot" / ("vmlinuz-" + OLD)).write_bytes(
        images.bzimage(
            images.payload(
                "gzip", images.vmlinux(images.LAYOUTS["6.1"], images.symbols(images.LAYOUTS["6.1"]))
            )
        )
    )
    times = []
    unpack = kernel_image.unpack
    monkeypatch.setattr(kernel_image, "unpack", lambda *given: times.append(given[1]) or unpack(*given))
    kernel = kernels.kernel(Host(str(tmp_path)), OLD)
    assert kernel.sourced is not None and kernel.trust is not None and kernels._image_vermagic(kernel)
    assert len(times) == 1


def test_weak_modules_starts_one_depmod_for_a_kernel(host):
    extra = host.root / "lib/modules" / OLD / "extra/others"
    extra.mkdir(parents=True)
    (extra / "theirs.ko").write_bytes(ko("theirs", [("module_layout", 0x11), ("printk", 0x22)], release=OLD))
    subprocess.run(["depmod", "-b", str(host.root), OLD], check=True, stderr=subprocess.DEVNULL)
    words = ["weak-modules", "--add-kernel", NEW, "--no-initramfs", "--basedir", str(host.root)]
    found = counted(host.root, KMODCTL, words)
    assert found["processes"] == 1
    assert (host.root / "lib/modules" / NEW / "weak-updates").exists()
    assert found["opened"]["/lib/modules/%s/extra/others/theirs.ko" % OLD] <= 2
