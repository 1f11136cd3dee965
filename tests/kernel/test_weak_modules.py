# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The same trees through weak-modules and through kmod_link; where they differ, the booted kernel says who is
right.

OUTOFTREE_KMOD_WEAK_MODULES names a copy of the script. Prints a table with what each linked and the time it
took.
"""

import gzip
import os
import shutil
import subprocess
import time

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from tests.kernel import machine
from tests.lab import debian, drivers, qemu

SCRIPT = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES")
NEED = (
    debian.available()
    or qemu.available()
    or (None if SCRIPT else "OUTOFTREE_KMOD_WEAK_MODULES names no copy of weak-modules")
)
pytestmark = pytest.mark.skipif(NEED is not None, reason=str(NEED))
CASES = {
    "as built": lambda data: data,
    "one symbol of another version": lambda data: machine.with_crc(
        data, sorted(set(machine.versions(data)) - {"module_layout"})[0], 1
    ),
    "other flags in vermagic": lambda data: data.replace(b" SMP preempt ", b" SMP PREEMPT "),
    "no versions at all": lambda data: data.replace(b"\0__versions\0", b"\0__nothings\0"),
    "needs a symbol that nothing exports": lambda data: data.replace(
        b"\0pci_unregister_driver\0", b"\0pci_unregister_driveX\0"
    ),
}


@pytest.fixture(scope="module")
def kernels():
    every = debian.kernels("bookworm", flavour="cloud-amd64")
    return [kernel for kernel in every if kernel.release.split(".")[:2] == every[0].release.split(".")[:2]][
        -4:
    ]


@pytest.fixture(scope="module")
def stock(kernels, tmp_path_factory):
    """A root with what weak-modules wants of a kernel: a symvers in /boot, and EL's search order."""
    root = tmp_path_factory.mktemp("stock")
    (root / "etc/depmod.d").mkdir(parents=True)
    (root / "etc/depmod.d/dist.conf").write_text("search updates extra built-in weak-updates\n")
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
        (root / "boot" / ("symvers-%s.gz" % kernel.release)).write_bytes(
            gzip.compress(debian.symvers(kernel).read_bytes())
        )
        subprocess.run(
            ["depmod", "-b", str(root), kernel.release],
            check=True,
            env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
        )
    return root


def by_weak_modules(root, release, data):
    """The kernels that weak-modules links the module into."""
    path = root / "lib/modules" / release / "extra/case/ootedu.ko"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    subprocess.run(
        [
            "bash",
            str(SCRIPT),
            "--add-modules",
            "--no-initramfs",
            "--dracut",
            "/bin/true",
            "--basedir",
            str(root),
        ],
        input=("%s\n" % path).encode(),
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
    )
    return {each.parent.parent.parent.name for each in root.glob("lib/modules/*/weak-updates/case/ootedu.ko")}


def by_kmod_link(root, data):
    (root / "case").mkdir()
    (root / "case/ootedu.ko").write_bytes(data)
    plan, answer = link.run(Host(str(root)), link.Options("case", ("/case",)))
    plan.apply()
    return {row.kernel for row in answer.outcome.kernels if row.linked}


@pytest.mark.parametrize("case", CASES)
def test_where_they_differ_the_kernel_agrees_with_us(case, kernels, stock, tmp_path, capsys):
    built_for = kernels[-2]
    data = CASES[case](next(path for path in drivers.edu(built_for) if path.name == "ootedu.ko").read_bytes())
    found = {}
    for name, judge in (
        ("weak-modules", lambda root: by_weak_modules(root, built_for.release, data)),
        ("kmod_link", lambda root: by_kmod_link(root, data)),
    ):
        root = tmp_path / name
        subprocess.run(["cp", "-al", str(stock), str(root)], check=True)
        begun = time.monotonic()
        found[name] = (judge(root), time.monotonic() - begun)
        shutil.rmtree(str(root))
    differ = [
        kernel
        for kernel in kernels
        if kernel is not built_for
        and (kernel.release in found["weak-modules"][0]) != (kernel.release in found["kmod_link"][0])
    ]
    with capsys.disabled():
        for name, (linked, took) in found.items():
            print(
                "\n%-36s %-13s %5.1f s  %s" % (case, name, took, ", ".join(sorted(linked)) or "none"), end=""
            )
    for kernel in differ:
        (answer,) = machine.judge(kernel, [machine.Attempt(case, data)])
        with capsys.disabled():
            print(
                "\n%-36s %-13s %7s  %s"
                % ("", "the kernel", "", "%s: %s" % (kernel.release, answer.errno or "taken")),
                end="",
            )
        assert (answer.errno is None) == (kernel.release in found["kmod_link"][0])
