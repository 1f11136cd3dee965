# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real modules and kernels through weak-modules, kmod_link and our own front: where a module is linked by one
and not by the other, the booted kernel says who is right.

OUTOFTREE_KMOD_WEAK_MODULES names a copy of the script. Prints the table that docs/weak-modules.md has.
"""

import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import time
from collections import defaultdict

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from tests.kernel import machine, mutants
from tests.kernel.fronts import SCRIPT, front, script
from tests.lab import debian, drivers, qemu

NEED = (
    debian.available()
    or qemu.available()
    or (None if SCRIPT else "OUTOFTREE_KMOD_WEAK_MODULES names no copy of weak-modules")
)
pytestmark = pytest.mark.skipif(NEED is not None, reason=str(NEED))
ADD = ("--add-modules", "--no-initramfs")
CHANGES = {  # what is done to the module, and the finding of the script that it is about
    "as built": lambda data: data,
    "one symbol of another version": lambda data: machine.with_crc(
        data, sorted(set(machine.versions(data)) - {"module_layout"})[0], 1
    ),
    "B7 other flags in vermagic": lambda data: data.replace(b" SMP preempt ", b" SMP PREEMPT "),
    "no versions at all": lambda data: data.replace(b"\0__versions\0", b"\0__nothings\0"),
    "B8 an empty file": lambda data: b"",
    "needs a symbol that nothing exports": lambda data: data.replace(
        b"\0pci_unregister_driver\0", b"\0pci_unregister_driveX\0"
    ),
}


@pytest.fixture(scope="module")
def kernels():
    every = debian.kernels("bookworm", flavour="cloud-amd64")
    series = every[0].release.split(".")[:2]
    return [kernel for kernel in every if kernel.release.split(".")[:2] == series][-3:]


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
        depmod(root, kernel.release)
    return root


def depmod(root, release):
    subprocess.run(
        ["depmod", "-b", str(root), release],
        check=True,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
    )


class Scene:
    """A root with the kernels: the last but one is that for which the modules were built."""

    def __init__(self, root, kernels, data):
        self.root = root
        self.releases = [kernel.release for kernel in kernels]
        self.built = self.releases[-2]
        self.data = data  # of ootedu and ootedu_user

    def put(self, name="ootedu", data=None, release=None, ending=".ko"):
        path = self.root / "lib/modules" / (release or self.built) / "extra/case" / (name + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.unlink()
        path.write_bytes(self.data[name] if data is None else data)
        return str(path)

    def broken(self, name="ootedu"):
        return CHANGES["one symbol of another version"](self.data[name])

    def linked(self):
        """{(release, module): the file that is linked there; None where the link leads nowhere}."""
        found = {}
        for path in self.root.glob("lib/modules/*/weak-updates/**/*.ko*"):
            target = os.readlink(str(path)).replace(str(self.root), "", 1)
            file = self.root / target.lstrip("/")
            release = path.relative_to(self.root / "lib/modules").parts[0]
            found[release, path.name.partition(".")[0]] = file.read_bytes() if file.is_file() else None
        return found


def changed(change):
    def prepare(scene):
        return ADD, [scene.put(data=CHANGES[change](scene.data["ootedu"]))]

    return prepare


def packed_symvers(scene):
    for release in scene.releases:
        path = scene.root / "boot" / ("symvers-%s.gz" % release)
        data = gzip.decompress(path.read_bytes())
        (scene.root / "boot" / ("symvers-%s.xz" % release)).write_bytes(lzma.compress(data))
        path.unlink()
    return ADD, [scene.put()]


def upgraded(scene):
    """The links are there; the package's new file does not fit the other kernels."""
    script(scene.root, *ADD, lines=[scene.put()])
    return ADD, [scene.put(data=scene.broken())]


def with_one_that_does_not_fit(scene):
    unfit = mutants.named(scene.broken(), "ootedv")
    path = scene.root / "lib/modules" / scene.built / "extra/other/ootedv.ko"
    path.parent.mkdir(parents=True)
    path.write_bytes(unfit)
    return ADD, [scene.put(), str(path)]


def lost(scene):
    """The kernel that it was built for is gone with its directory."""
    script(scene.root, *ADD, lines=[scene.put()])
    shutil.rmtree(str(scene.root / "lib/modules" / scene.built))
    return ("--add-kernel", scene.releases[-1], "--no-initramfs"), []


def zstd(scene):
    path = scene.put()
    subprocess.run(["zstd", "-q", "--rm", path], check=True)
    return ("--add-kernel", scene.releases[-1], "--no-initramfs"), []


def without_symvers(scene):
    scene.put()
    (scene.root / "boot" / ("symvers-%s.gz" % scene.releases[-1])).unlink()
    return ("--add-kernel", scene.releases[-1], "--no-initramfs"), []


def older_pair(scene):
    """The newest pair fails by its second half; an older one fits."""
    for name in ("ootedu", "ootedu_user"):
        scene.put(name, release=scene.releases[0])
        scene.put(name, data=scene.broken(name) if name == "ootedu_user" else None)
    for release in scene.releases[:2]:
        depmod(scene.root, release)
    return ("--add-kernel", scene.releases[-1], "--no-initramfs"), []


def missing(scene):
    scene.put()
    return ADD, [str(scene.root / "lib/modules" / scene.built / "extra/case/ootnot.ko")]


SCENES = {change: changed(change) for change in CHANGES}
SCENES.update(
    {
        "B3 symvers.xz": packed_symvers,
        "B4 upgrade in place": upgraded,
        "B5 another driver that does not fit": with_one_that_does_not_fit,
        "B9 the build kernel is gone": lost,
        "B13 a .ko.zst": zstd,
        "B14 no symvers": without_symvers,
        "B15 an older pair": older_pair,
        "a path that does not exist": missing,
    }
)


def by_kmod_link(scene, data):
    (scene.root / "case").mkdir()
    (scene.root / "case/ootedu.ko").write_bytes(data)
    plan, answer = link.run(Host(str(scene.root)), link.Options("case", ("/case",)))
    plan.apply()
    return {row.kernel for row in answer.outcome.kernels if row.linked}


def unpacked(data):
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def test_where_they_differ_the_kernel_agrees_with_us(kernels, stock, tmp_path, capsys):
    built_for = kernels[-2]
    data = {path.stem: path.read_bytes() for path in drivers.edu(built_for)}
    found, took = {}, {}
    for name, prepare in SCENES.items():
        for who, call in (("script", script), ("here", front)):
            root = tmp_path / "root"
            subprocess.run(["cp", "-al", str(stock), str(root)], check=True)
            scene = Scene(root, kernels, data)
            argv, lines = prepare(scene)
            begun = time.monotonic()
            done = call(root, *argv, lines=lines)
            took[name, who] = time.monotonic() - begun
            found[name, who] = scene.linked(), done.returncode
            shutil.rmtree(str(root))
    for name in CHANGES:
        if CHANGES[name](data["ootedu"]):
            root = tmp_path / "root"
            subprocess.run(["cp", "-al", str(stock), str(root)], check=True)
            linked = by_kmod_link(Scene(root, kernels, data), CHANGES[name](data["ootedu"]))
            assert linked == {release for release, _module in found[name, "here"][0]}, name
            shutil.rmtree(str(root))
    asked = defaultdict(dict)  # release -> label -> the file, and whether it is linked here
    for name in SCENES:
        theirs, ours = found[name, "script"][0], found[name, "here"][0]
        for release, module in sorted(set(theirs) | set(ours)):
            files = theirs.get((release, module)), ours.get((release, module))
            if files[0] != files[1] and any(file is not None for file in files):
                # the one that is linked by one alone, or by both where they lead elsewhere
                for file, linked in ((files[0], False), (files[1], True)):
                    if file is not None:
                        digest = hashlib.sha256(file).hexdigest()[:8]
                        asked[release]["%s|%s|%s" % (name, module, digest)] = unpacked(file), linked
    words = {}
    for kernel in kernels:
        attempts = [
            machine.Attempt(label, data_, keep=name == "B15 an older pair")
            for label, (data_, _linked) in sorted(
                asked[kernel.release].items(), key=lambda item: item[0].startswith("B15")
            )
            for name in [label.split("|")[0]]
        ]
        for answer in machine.judge(kernel, attempts) if attempts else ():
            words[kernel.release, answer.label] = answer.errno
    with capsys.disabled():
        for name in SCENES:
            print("\n%s" % name)
            for who in ("script", "here"):
                links, status = found[name, who]
                told = ", ".join(
                    "%s %s%s" % (release, module, "" if file is not None else " (nowhere)")
                    for (release, module), file in sorted(links.items())
                )
                print("  %-7s status %d %6.1f s  %s" % (who, status, took[name, who], told or "none"))
            for (release, label), errno in sorted(words.items()):
                if label.split("|")[0] == name:
                    print("  kernel  %s: %s: %s" % (release, label.split("|")[1], errno or "taken"))
    wrong = [
        (release, label, errno)
        for (release, label), errno in words.items()
        if (errno is None) != asked[release][label][1]
    ]
    assert wrong == []
    differ = {name for name in SCENES if found[name, "script"] != found[name, "here"]}
    of_el9_alone = {"B15 an older pair"}  # EL 8's script does not forget between two builds what has fitted
    assert differ | of_el9_alone == set(SCENES) - {
        "as built",
        "one symbol of another version",
        "no versions at all",
        "needs a symbol that nothing exports",
    }
