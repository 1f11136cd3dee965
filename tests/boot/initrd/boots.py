# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variants of real images, booted: the console must show the driver of the variant at work before there is
any root file system.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import segments, variant
from tests.boot.initrd import images
from tests.boot.initrd.images import COMPRESSIONS, MODULES, SUITES, Base
from tests.forge.cpio import cpio
from tests.lab import debian, drivers, qemu
from tests.unit.place.initramfs import kernel_simulator

APPEND = {
    "initramfs-tools": "break=premount",
    "dracut": "rd.shell=0 rd.timeout=300 rd.retry=300 root=/dev/vda rd.emergency=reboot",
    "mkosi-initrd": "root=/dev/vda rd.emergency=reboot",
}
LOADED = r"\] ootedu: loaded"
BOUND = r"\] ootedu: bound"
END = r"\(initramfs\)|Spawning shell|reboot: |Kernel panic|dracut-emergency"
HERE = Path(__file__).resolve().parent
NAMESAKE = "ipr"  # an in-tree driver that all these images carry
# How the driver is loaded. tun is in none of these images, and says its name.
LOADING = """# outoftree.kmod edu: made by a test
options ootedu level=7
options ootedu_user level=8
softdep ootedu_user pre: tun
"""
AS_TOLD = (
    r"\] tun: Universal",
    r"\] ootedu: loaded, version 1.0, level 7$",
    r"\] ootedu_user: loaded, .*, level 8$",
)


class Case(NamedTuple):
    base: Base
    what: str = "overlay"

    @property
    def name(self) -> str:
        return "%s: %s" % (self.base.name, self.what)


def cases() -> List[Case]:
    made = []
    for suite in SUITES:
        for tool in ("initramfs-tools", "dracut"):
            made += [Case(Base(suite, tool, kind)) for kind in COMPRESSIONS] + [
                Case(Base(suite, tool, "zstd", True))
            ]
            made += [
                Case(Base(suite, tool), what)
                for what in ("early", "loading", "namesake", "segment", "rebuild", "proof")
            ]
        made += [
            Case(Base(suite, "initramfs-tools", "lz4"), "too few NULs"),
            Case(Base(suite, "initramfs-tools", "gzip"), "off by 1"),
            Case(Base(suite, "initramfs-tools"), "directory lib"),
        ]
        # bookworm's mkosi makes no initrds, and sid's stops on a machine whose own kernel has no
        # /proc/modules
        if suite == "trixie":
            made += [
                Case(Base(suite, "mkosi-initrd"), what)
                for what in ("overlay", "loading", "namesake", "rebuild", "proof")
            ]
    return made


FAST = [
    Case(Base("bookworm", "initramfs-tools", "lz4")),
    Case(Base("trixie", "initramfs-tools", "zstd", True)),
    Case(Base("sid", "initramfs-tools", "zstd", True)),
    Case(Base("trixie", "dracut", "gzip")),
    Case(Base("sid", "initramfs-tools"), "namesake"),
    Case(Base("bookworm", "initramfs-tools"), "loading"),
    Case(Base("trixie", "initramfs-tools"), "proof"),
    Case(Base("trixie", "dracut"), "proof"),
    Case(Base("bookworm", "initramfs-tools", "lz4"), "too few NULs"),
]


# What is booted


def host_of(case: Case, work: Path) -> Host:
    """A directory host with the shipped image, the kernel's modules and the driver linked into them."""
    kernel = images.kernel(case.base.suite)
    if case.what == "rebuild":
        debian.run(["cp", "-al", str(images.installed(case.base.suite, case.base.tool)), str(work / "host")])
    else:
        (work / "host/usr/lib/modules").mkdir(parents=True)
        (work / "host/lib").symlink_to("usr/lib")
        (work / "host/boot").mkdir()
        debian.run(
            ["cp", "-al", str(debian.tree(kernel) / MODULES / kernel.release), str(work / "host" / MODULES)]
        )
    root = work / "host"
    (root / "boot" / ("vmlinuz-" + kernel.release)).write_bytes(b"")
    shutil.copy(str(images.image(case.base)), str(root / "boot" / ("initrd.img-" + kernel.release)))
    target = root / MODULES / kernel.release / "updates/edu"
    target.mkdir(parents=True)
    if case.what == "loading":
        (root / "etc/modprobe.d").mkdir(parents=True)
        (root / "etc/modprobe.d/outoftree.kmod-edu.conf").write_text(LOADING)
    made = {"namesake": namesake, "loading": drivers.levels}.get(case.what, drivers.edu)
    for path in made(kernel):
        shutil.copy(str(path), str(target))
    debian.run(["depmod", "-b", str(root), kernel.release])
    return Host(str(root))


def namesake(kernel: debian.Image) -> List[Path]:
    """The edu driver under the name of an in-tree one."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        source.mkdir()
        shutil.copy(str(HERE.parents[1] / "lab/edu/ootedu.c"), str(source))
        (source / "Kbuild").write_text("obj-m := %s.o\n%s-y := ootedu.o\n" % (NAMESAKE, NAMESAKE))
        return drivers.compiled(
            "edu-namesake", source, kernel, 'make -C "$kernel_source_dir" M="$PWD" modules'
        )


def booted_image(case: Case, work: Path) -> Path:
    """The file for -initrd. The traps are made by hand, from a variant that is right."""
    host = host_of(case, work)
    method = case.what if case.what in ("segment", "rebuild") else "overlay"
    early = case.what in ("early", "loading")
    plan, answer = variant.present(host, variant.Recipe(("edu",), method=method, early_load=early))
    result = answer.applied(plan.apply()).as_dict()
    (row,) = result["variants"]
    if method == "rebuild":
        tool = row["phases"][0]["name"]
        assert tool == {"initramfs-tools": "mkinitramfs"}.get(case.base.tool, case.base.tool), (
            "rebuilt by %s" % tool
        )
    (work / "mark").write_text(row["mark"])
    shipped, made = (Path(host.real(row[key])).read_bytes() for key in ("base", "path"))
    if case.what == "segment":
        made = shipped + bytes(-len(shipped) % 4) + made  # as GRUB and systemd-boot put it into memory
    elif method == "overlay":
        assert made.startswith(shipped), "the shipped bytes are not what it begins with"
        tail = made[len(shipped) :].lstrip(b"\0")
        if case.what == "too few NULs":
            made = shipped + bytes(-len(shipped) % 4) + tail
        elif case.what == "off by 1":
            made = shipped + bytes(9 + -(len(shipped) + 8) % 512) + tail
        elif case.what == "directory lib":
            made = made + evil()
    agrees(made, case.what not in ("too few NULs", "off by 1"))
    (work / "initrd").write_bytes(made)
    return work / "initrd"


def evil() -> bytes:
    return cpio({"lib/new": b"x"})  # with a directory entry for lib


def agrees(image: bytes, sound: bool) -> None:
    """Our reader and the kernel's state machine see the same files, or both an error."""
    tree, data = segments.Tree(), {}

    def wanted(_path: str, node: segments.Node) -> segments.Sink:
        data[node] = hashlib.sha256()
        return data[node].update

    files, error = kernel_simulator.unpack(image)
    assert (error is None) == sound, "the simulator says %s" % error
    try:
        segments.unpack([image], "image", tree, wanted=wanted)
    except KmodError as found:
        assert not sound, str(found)
        return
    assert sound, "the reader takes what the kernel does not"
    ours = {
        path: (node.mode, data.get(node, hashlib.sha256(node.target.encode())).hexdigest())
        for path, node in tree.nodes.items()
        if path
    }
    assert ours == {
        path: (mode, hashlib.sha256(content).hexdigest()) for path, (mode, content) in files.items()
    }, "reader and simulator differ"


def root_disk(work: Path) -> Path:
    """A system whose init says what the early boot has left in /run, and ends the machine."""
    tree = work / "root"
    for directory in ("sbin", "etc", "usr/lib", "usr/bin", "dev", "proc", "sys", "run", "tmp", "var"):
        (tree / directory).mkdir(parents=True)
    for name in ("etc/os-release", "usr/lib/os-release"):
        (tree / name).write_text("ID=test\nNAME=test\n")
    qemu.static(HERE / "says.c", tree / "sbin/init")
    debian.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(work / "disk"), "64M"])
    return work / "disk"


# What must be seen


def verdict(case: Case, console: str, mark: str) -> Optional[str]:
    """What is wrong with what the console shows, None if it is as it must be."""
    if case.what == "proof":
        seen = re.search(r"variant: (\w*)", console)
        return (
            None
            if seen and seen.group(1) == mark != ""
            else "what proves the variant was not found in /run, or was not promised"
        )
    failed = re.search(r"Initramfs unpacking failed: (.*)", console)
    loaded, bound = re.search(LOADED, console), re.search(BOUND, console)
    if case.what in ("too few NULs", "off by 1"):
        return None if failed and not loaded else "the trap did not spring"
    if case.what == "directory lib":
        return None if not bound else "the trap did not spring"
    if failed:
        return failed.group(0)
    if not loaded or not bound:
        return "the driver was not loaded" if not loaded else "the driver was not bound"
    if case.what == "loading":
        lacking = [each for each in AS_TOLD if len(re.findall(each, console, re.M)) != 1]
        return "not loaded as modprobe.d says, once: %s" % lacking if lacking else None
    udev = re.search(r"systemd-udevd version|Starting version|systemd-udevd\.service", console)
    if (
        case.what == "early"
        and case.base.tool == "initramfs-tools"
        and udev
        and loaded.start() > udev.start()
    ):
        return "the driver was loaded after udev had started"
    return None


def run(case: Case) -> Optional[str]:
    with tempfile.TemporaryDirectory(prefix="initrd-boot-") as directory:
        try:
            kernel = images.kernel(case.base.suite)
            initrd = booted_image(case, Path(directory))
            proof = case.what == "proof"
            disk = ["-drive", "file=%s,if=virtio,format=raw" % root_disk(Path(directory))] if proof else []
            console = qemu.boot(
                debian.vmlinuz(kernel),
                initrd,
                "root=/dev/vda rw" if proof else APPEND[case.base.tool],
                900,
                {"proof": END, "loading": "(?m)" + AS_TOLD[-1] + "|" + END}.get(case.what, BOUND + "|" + END),
                ["edu"],
                1024,
                extra=disk,
            )
            mark = (Path(directory) / "mark").read_text()
        except (KmodError, AssertionError, debian.LabError, subprocess.SubprocessError) as error:
            return str(error)
    wrong = verdict(case, console, mark)
    return wrong and "%s; the console ends with:\n%s" % (wrong, console[-2000:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="a few of them, for every change")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("pattern", nargs="*", help="regular expressions on names of cases; default: all")
    args = parser.parse_args()
    chosen = [
        case
        for case in (FAST if args.fast else cases())
        if all(re.search(pattern, case.name) for pattern in args.pattern)
    ]
    if args.list:
        print("\n".join(case.name for case in chosen))
        return 0
    reason = images.missing() or qemu.available()
    if reason:
        print("skipped: " + reason)
        return 0
    failures = 0
    for case in chosen:
        start = time.monotonic()
        wrong = run(case)
        failures += wrong is not None
        print(
            "%-6s %5.1f s  %s%s"
            % (
                "FAILED" if wrong else "ok",
                time.monotonic() - start,
                case.name,
                "\n" + wrong if wrong else "",
            ),
            flush=True,
        )
    print("%d of %d as they must be" % (len(chosen) - failures, len(chosen)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
