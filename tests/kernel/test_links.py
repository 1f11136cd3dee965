# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_link on trees of real kernels: modprobe picks our files, a booted kernel loads them, a second run
writes nothing, removal is exact.

The drivers are a small one compiled for two of the kernels, and modules of one of the kernels taken for a
vendor's, which have namesakes in every tree.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko
from tests import COLLECTIONS
from tests.forge.cpio import Device
from tests.forge.families import FAMILIES
from tests.lab import debian, drivers, qemu

pytestmark = pytest.mark.skipif(debian.available() is not None, reason=str(debian.available()))
NAMESAKES = (
    "kernel/drivers/net/dummy.ko",
    "kernel/drivers/scsi/scsi_debug.ko",
    "kernel/arch/x86/crypto/crc32-pclmul.ko",
)
WRITES = (
    "open",
    "openat",
    "creat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "truncate",
    "ftruncate",
    "utimensat",
    "setxattr",
    "fsetxattr",
    "lsetxattr",
    "execve",
)


@pytest.fixture(scope="module")
def kernels():
    """The last four of one series, oldest first."""
    every = debian.kernels("bookworm", flavour="cloud-amd64")
    found = [kernel for kernel in every if kernel.release.split(".")[:2] == every[0].release.split(".")[:2]][
        -4:
    ]
    if len(found) < 3:
        pytest.skip("bookworm has no three neighbouring kernels today")
    return found


@pytest.fixture(scope="module")
def stock(kernels, tmp_path_factory):
    """A root with all of them, never changed; ``root`` copies it by hard links: no one writes into a file,
    only over it.
    """
    root = tmp_path_factory.mktemp("stock")
    (root / "boot").mkdir()
    for kernel in kernels:
        tree = debian.tree(kernel)
        top = next(
            path
            for path in (tree / "usr/lib/modules" / kernel.release, tree / "lib/modules" / kernel.release)
            if path.is_dir()
        )
        shutil.copytree(str(top), str(root / "lib/modules" / kernel.release), symlinks=True)
        for path in (tree / "boot").iterdir():
            shutil.copy2(str(path), str(root / "boot"))
        subprocess.run(
            ["depmod", "-b", str(root), kernel.release],
            check=True,
            env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
        )
    return root


@pytest.fixture
def root(stock, tmp_path):
    path = tmp_path / "root"
    subprocess.run(["cp", "-al", str(stock), str(path)], check=True)
    return path


def run(root, driver, *paths, **options):
    """Carry kmod_link out; answers with the rows by kernel."""
    plan, answer = link.run(Host(str(root)), link.Options(driver, paths)._replace(**options))
    plan.apply()
    return {row.kernel: row.as_dict() for row in answer.outcome.kernels}


def loads(root, release, name):
    done = subprocess.run(
        ["modprobe", "-d", str(root), "-S", release, "--show-depends", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        check=False,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
    )
    return (
        "/" + os.path.relpath(done.stdout.splitlines()[-1].split()[1], str(root))
        if done.returncode == 0
        else None
    )


def snapshot(root):
    found = {}
    for directory, names, files in os.walk(str(root)):
        for name in names + files:
            path = Path(directory, name)
            what = (
                os.readlink(str(path))
                if path.is_symlink()
                else ""
                if path.is_dir()
                else hashlib.sha256(path.read_bytes()).hexdigest()
            )
            if not re.match(r"modules\.(?!builtin|order)", name):
                found[os.path.relpath(str(path), str(root))] = (path.lstat().st_mode, what)
    return found


def vendor(kernel, stock, to):
    """Modules of the kernel as a vendor's driver."""
    to.mkdir(parents=True)
    for path in NAMESAKES:
        shutil.copy(str(stock / "lib/modules" / kernel.release / path), str(to))


@pytest.mark.parametrize("family", ["debian", "el8", "tumbleweed", "ubuntu"])
def test_namesakes_in_every_tree_never_win(stock, root, kernels, family):
    depmod = FAMILIES[family].depmod
    if depmod:
        (root / "etc/depmod.d").mkdir(parents=True)
        (root / "etc/depmod.d/dist.conf").write_text(depmod[1])
    before = snapshot(root)
    vendor(kernels[-2], stock, root / "vendor")
    rows = run(root, "vendor", "/vendor")
    assert rows[kernels[-2].release]["verdict"] == "compatible"
    assert any(row["linked"] for row in rows.values()), (
        "no neighbour takes the modules of %s any more" % kernels[-2].release
    )
    for release, row in rows.items():
        for path in NAMESAKES:
            name = Path(path).stem
            ours = [file for file in row["files"] if Path(file).stem == name]
            assert loads(root, release, name) == (
                ours[0] if row["build"] else "/lib/modules/%s/%s" % (release, path)
            )
    assert all((root / "vendor" / Path(path).name).is_file() for path in NAMESAKES)
    shutil.rmtree(str(root / "vendor"))
    run(root, "vendor", state="absent")
    assert snapshot(root) == before


@pytest.fixture
def edu(kernels, root):
    """The driver compiled for the newest and the oldest of the kernels."""
    for kernel in (kernels[0], kernels[-1]):
        for path in drivers.edu(kernel):
            (root / "edu" / kernel.release).mkdir(parents=True, exist_ok=True)
            shutil.copy(str(path), str(root / "edu" / kernel.release))
    return root / "edu"


def test_each_kernel_gets_its_own_or_the_newest_build_that_it_takes(root, kernels, edu):
    rows = run(root, "edu", "/edu")
    assert rows[kernels[0].release]["build"] == kernels[0].release
    assert rows[kernels[-1].release]["build"] == kernels[-1].release
    for release, row in rows.items():
        assert (loads(root, release, "ootedu_user") in row["files"]) == bool(row["build"])
        assert row["override"] is False
    assert not (root / "etc").exists()


def test_a_second_run_writes_nothing_and_starts_nothing(root, kernels, edu, tmp_path):
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    script = tmp_path / "run.py"
    script.write_text(
        """
import sys
sys.path.insert(0, %r)
from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
options = link.Options("edu", ("/edu",), heal=True)
sys.exit(10 if task.carry_out(%r, False, lambda host: link.run(host, options)).changed else 0)
"""
        % (COLLECTIONS, str(root))
    )
    argv = [sys.executable, "-B", str(script)]
    assert subprocess.run(argv, check=False).returncode == 10
    log = tmp_path / "log"
    strace = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=" + ",".join("?" + call for call in WRITES)]
    assert subprocess.run(strace + argv, check=False).returncode == 0
    calls = [
        line
        for line in log.read_text().splitlines()
        if not re.search(r" open(at)?\(", line) or re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", line)
    ]
    # a file without a name, in which a kernel's image lies while it is read, is no part of the host
    unnamed = re.compile(r"/dev/null|O_TMPFILE")
    assert [line for line in calls if "execve(" not in line and not unnamed.search(line)] == []
    assert len([line for line in calls if "execve(" in line]) == 1  # Python itself


def test_check_mode_says_what_is_then_done(root, edu):
    before = snapshot(root)
    options = link.Options("edu", ("/edu",))
    planned, said = link.run(Host(str(root)), options)
    assert snapshot(root) == before
    applied, done = link.run(Host(str(root)), options)
    assert planned.diff() == applied.diff()
    assert said.as_dict() == done.as_dict()
    applied.apply()
    after = snapshot(root)
    assert {path for path in set(before) | set(after) if before.get(path) != after.get(path)} == {
        path[1:] for path in planned.paths() if not path.endswith("modules.dep")
    }


@pytest.mark.skipif(qemu.available() is not None, reason=str(qemu.available()))
def test_a_booted_kernel_loads_what_was_linked(root, kernels, edu):
    shutil.rmtree(str(edu / kernels[-1].release))
    rows = run(root, "edu", "/edu")
    linked = [kernel for kernel in kernels if rows[kernel.release]["linked"]]
    refused = [kernel for kernel in kernels if not rows[kernel.release]["build"]]
    if not linked:
        shutil.copy(str(drivers.edu(kernels[-2])[0]), str(edu))
        pytest.skip("no neighbour of %s takes a module built for it today" % kernels[0].release)
    assert boot(root, linked[0], rows[linked[0].release]["files"]) == ["loaded", "loaded"]
    for kernel in refused[:1]:
        stored = rows[kernels[0].release]["files"]
        assert boot(root, kernel, stored) == ["refused", "refused"]


def boot(root, kernel, files):
    """What happens to these module files, loaded in dependency order by the kernel when it has booted."""
    order = sorted(files, key=lambda path: len(ko.read(Host(str(root)), path).depends))
    contents = {"m/" + Path(path).name: (root / path[1:]).read_bytes() for path in order}
    script = "#!/bin/sh\n" + "".join(
        "insmod /m/%s && echo kmod: loaded || echo kmod: refused\n" % Path(path).name for path in order
    )
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    made = {
        "bin/busybox": busybox.read_bytes(),
        "bin/sh": "busybox",
        "bin/insmod": "busybox",
        "bin/poweroff": "busybox",
        "dev/console": Device(5, 1),
        "init": (script + "echo kmod: end\npoweroff -f\n").encode(),
    }
    with tempfile.TemporaryDirectory() as directory:
        initrd = Path(directory, "initrd")
        initrd.write_bytes(qemu.initramfs(dict(made, **contents)))
        text = qemu.boot(debian.vmlinuz(kernel), initrd, "quiet", stop=r"(?m)^kmod: end")
    return re.findall(r"(?m)^kmod: (loaded|refused)", text)
