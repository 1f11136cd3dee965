# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The roots that faults are tried on, and the operations: one line each."""

import functools
import gzip
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from tests.crash import deployed, followed, tree
from tests.forge import families, initramfs, machines
from tests.forge.cpio import cpio
from tests.forge.ko import ko
from tests.forge.machines import NEW, OLD
from tests.forge.symvers import EXPORTS

DRIVER = "acme"  # its modules: acme, which the kernels have too, and acme_helper, which they do not
# directory below src: version; v1b has other bytes at the same path
BUILDS = {"v1": "1.0", "v1b": "1.0", "v2": "2.0"}

LINK, NEWER, SAME_PATH = (
    "link --driver acme {src}/v1",
    "link --driver acme {src}/v2",
    "link --driver acme {src}/v1b",
)
VARIANT, SEGMENT, REBUILD = (
    "variant --driver acme",
    "variant --driver acme --method segment",
    "variant --driver acme --method rebuild",
)
ENTRY = "entry --driver acme"
UNLINK, NO_VARIANT, NO_ENTRY = LINK.split(" {")[0] + " --absent", VARIANT + " --absent", ENTRY + " --absent"
REMOVAL = (NO_ENTRY, NO_VARIANT, UNLINK)


# a second driver, in variants and entries with the first
SECOND, SECOND_NEWER = (
    LINK.replace("acme", "beta").replace("v1", "beta1"),
    NEWER.replace("acme", "beta").replace("v2", "beta2"),
)
ONE, BOTH = deployed.DEPLOY + " acme", deployed.DEPLOY + " acme beta"
BOTH_DEFAULT = ENTRY + " --driver beta --boot default"
SECOND_REMOVAL = tuple(each.replace("acme", "beta") for each in REMOVAL)


FOLLOWED_REMOVAL = (followed.FOLLOW_NO_MORE, *REMOVAL)
WHOLE = (LINK, VARIANT, ENTRY)
FOLLOW, KEEP = followed.FOLLOW, followed.FOLLOW + " --keep-default"
ADD = "add-kernel " + NEW


Exports = Sequence[Tuple[str, int, bool, str, str]]
OTHER: Exports = [(name, crc + 1, *rest) for name, crc, *rest in EXPORTS]  # what a kernel has that refuses


class Operation(NamedTuple):
    """A command line of kmodctl (or what stands for kmod_follow) to be tried with faults, and those that come
    before it.

    ``lost`` puts other's dangling links in first. ``arrives``, ``leaves``: by then the newer kernel has come,
    or is taken away but for its modules. ``refuses``: it takes only what was built for itself.
    """

    name: str
    family: str  # of machines.FAMILIES
    before: Tuple[str, ...]
    command: str
    lost: bool = False
    arrives: bool = False
    leaves: bool = False
    refuses: bool = False

    @property
    def follows(self) -> bool:
        """Whether it is of several steps, each of which is whole: what was done of it stays."""
        return (
            any(word in self.command for word in ("kernel", "kmod_follow", deployed.DEPLOY))
            or self.command == "refresh"
        )

    @property
    def removal(self) -> Tuple[str, ...]:
        if deployed.DEPLOY in self.command:
            return (*REMOVAL, *SECOND_REMOVAL)
        return FOLLOWED_REMOVAL if self.follows else REMOVAL


def _of_each_loader() -> List[Operation]:
    """Entries differ by loader: grub2, bls, systemd-boot, grub-legacy, extlinux."""
    found = []
    for family in ("debian", "el9", "systemd-boot", "el6", "extlinux"):
        there = (LINK, VARIANT)
        found += [
            Operation("entry:" + family, family, there, ENTRY),
            Operation("default:" + family, family, there, ENTRY + " --boot default"),
            Operation("promote:" + family, family, there + (ENTRY,), ENTRY + " --boot default"),
            Operation(
                "shipped:" + family, family, there + (ENTRY + " --boot default",), ENTRY + " --boot shipped"
            ),
            Operation("entry-absent:" + family, family, there + (ENTRY,), NO_ENTRY),
            Operation("default-absent:" + family, family, there + (ENTRY + " --boot default",), NO_ENTRY),
        ]
        # the others can start nothing only once, or by the firmware's variables alone
        if family in ("debian", "el9"):
            found.append(Operation("once:" + family, family, there, ENTRY + " --boot once"))
            found.append(
                Operation(
                    "retry:" + family,
                    family,
                    there + (ENTRY + " --boot default", NEWER, VARIANT),
                    ENTRY + " --boot once",
                )
            )
    return found


OPERATIONS = [
    Operation("link", "el9", (), LINK),
    Operation("link:debian", "debian", (), LINK),
    Operation("same-path", "el9", (LINK,), SAME_PATH),
    Operation("upgrade", "el9", (LINK,), NEWER),
    Operation("version-back", "el9", (LINK, NEWER), "link --driver acme --absent --version 2.0"),
    Operation("one-kernel", "el9", (), LINK + " --kernel " + NEW),
    Operation("unlink", "el9", (LINK,), UNLINK),
    Operation("unlink:debian", "debian", (LINK,), UNLINK),
    Operation("heal", "el9", (LINK,), LINK + " --heal", lost=True),
    Operation("variant", "el9", (LINK,), VARIANT),
    Operation("variant:early", "debian", (LINK,), VARIANT + " --early-load"),
    Operation("variant:anew", "el9", (LINK, VARIANT, NEWER), VARIANT),
    Operation("segment", "debian", (LINK,), SEGMENT),
    Operation("rebuild (stand-in)", "el9", (LINK,), REBUILD),
    Operation("variant-absent", "el9", (LINK, VARIANT), NO_VARIANT),
    Operation("segment-absent", "systemd-boot", (LINK, SEGMENT), NO_VARIANT),
] + _of_each_loader()
OPERATIONS += [
    Operation("follow", "el9", (LINK,), FOLLOW),
    Operation("follow-no-more", "debian", (*WHOLE, FOLLOW), followed.FOLLOW_NO_MORE),
    Operation("add-kernel:early", "el9", (*WHOLE, FOLLOW), ADD + " --early", arrives=True),
    Operation("add-kernel", "el9", (*WHOLE, FOLLOW), ADD, arrives=True),
    Operation("add-kernel:debian", "debian", (*WHOLE, FOLLOW), ADD, arrives=True),
    Operation(
        "remove-kernel:early",
        "debian",
        (LINK, VARIANT, ENTRY + " --boot default", FOLLOW),
        "remove-kernel --early " + NEW,
    ),
    Operation("remove-kernel", "el9", (*WHOLE, FOLLOW), "remove-kernel " + NEW, leaves=True),
    Operation(
        "remove-kernel:default",
        "systemd-boot",
        (LINK, VARIANT, ENTRY + " --boot default", FOLLOW),
        "remove-kernel " + NEW,
        leaves=True,
    ),
    Operation("refresh", "el9", (*WHOLE, FOLLOW, NEWER), "refresh"),
]
for _family in ("el9", "debian", "systemd-boot"):  # what was proved is the default before
    _there = (LINK, SECOND)
    OPERATIONS += [
        Operation("driver-added:" + _family, _family, (*_there, ONE, ENTRY + " --boot default"), BOTH),
        Operation("driver-updated:" + _family, _family, (*_there, BOTH, BOTH_DEFAULT, SECOND_NEWER), BOTH),
        Operation(
            "driver-removed:" + _family, _family, (*_there, BOTH, BOTH_DEFAULT), ONE + " --absent beta"
        ),
    ]
LOADED = ONE + " --blacklist rival"
OPERATIONS += [
    Operation("loaded", "el9", (LINK + " --kernel " + NEW,), LOADED),
    Operation("loaded-no-more", "debian", (LINK, LOADED), ONE),
    Operation("loaded-absent", "debian", (LINK, LOADED), deployed.DEPLOY + " --absent acme"),
]
for _family in ("el9", "debian", "systemd-boot"):  # the default stays on the older kernel, and moves on
    OPERATIONS += [
        Operation("keep:" + _family, _family, (LINK, KEEP), ADD, arrives=True, refuses=True),
        Operation(
            "keep-no-more:" + _family,
            _family,
            (LINK, KEEP, "link --driver acme {src}/new"),
            "refresh",
            refuses=True,
        ),
    ]

# The tool that rebuilds: no real one runs in a root as small as these, so this stands in for dracut. It
# copies what has been prepared.
STAND_IN = r"""
#include <fcntl.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    static char data[1 << 20];
    char name[256];
    snprintf(name, sizeof name, "/usr/share/stand-in/%s", argv[argc - 1]);
    int from = open(name, O_RDONLY), to = open(argv[argc - 2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t size = read(from, data, sizeof data);
    return from < 0 || to < 0 || size <= 0 || write(to, data, size) != size || close(to);
}
"""


def sources(directory: Path) -> Path:
    """The driver's builds as a vendor ships them."""
    for name, version in BUILDS.items():
        for module in ("acme", "acme_helper"):
            path = directory / name / (module + ".ko")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_module(module, name, version))
    for name in ("beta1", "beta2"):
        path = directory / name / "beta.ko"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_module("beta", name, name[-1] + ".0", alias="pci:v00005678d*"))
    for module in ("acme", "acme_helper"):
        path = directory / "new" / (module + ".ko")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_module(module, "new", "1.0", OTHER))
    followed.archive(directory)
    return directory


def _module(
    name: str, build: str, version: str, exports: Exports = EXPORTS, alias: str = "pci:v00001234d*"
) -> bytes:
    return ko(
        name,
        _needs(exports),
        release=OLD if exports is EXPORTS else NEW,
        modinfo={"version": version, "note": build, "name": name, "alias": alias},
    )


def _needs(exports: Exports) -> List[Tuple[str, int]]:
    return [(symbol, crc) for symbol, crc, *_rest in exports if symbol in ("module_layout", "printk")]


def shipped(root: Path, family: str, refuses: bool = False) -> None:
    """A machine of that family as it is before there is a driver. ``refuses``: the newer kernel has other
    symbols.
    """
    initrd = machines.FAMILIES[family](root)
    for path in sorted(root.rglob("*.1")):  # where the tests of entries have their variants
        path.unlink()
    layout = family if family in families.FAMILIES else "debian"  # others are boot loaders
    for directory in ("etc", "usr/lib", "usr/sbin", "var/tmp", "var/cache", "var/lib", "tmp", "proc", "run"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    if layout.startswith("el"):
        (root / "lib").symlink_to("usr/lib")
    for release in (OLD, NEW):
        exports = OTHER if refuses and release == NEW else EXPORTS
        in_tree = {
            "drivers/net/%s.ko" % name: ko(name, _needs(exports), release=release, modinfo={"intree": "Y"})
            for name in ("acme", "e1000e")
        }
        families.kernel(
            root, release, family=layout, in_tree=in_tree, builtin=("loop", "xhci"), exports=exports
        )
        _depmod(root, release)
        image = (
            machines.directory(family) % release if family == "systemd-boot" else machines.directory(family)
        )
        path = root / image.lstrip("/") / (initrd % release)
        mode = path.stat().st_mode & 0o777
        path.write_bytes(_image(release, {}))
        path.chmod(mode)
    (root / "usr/lib/firmware").mkdir(exist_ok=True)
    (root / "etc/hostname").write_text("crash\n")
    (root / "etc/os-release").write_text(families.FAMILIES[layout].os_release)
    for name in ("systemd/systemd", "motd.d/welcome"):
        (root / "usr/lib" / name).parent.mkdir()
        (root / "usr/lib" / name).touch()


def _depmod(root: Path, release: str) -> None:
    subprocess.run(["depmod", "-b", str(root), release], check=True, stderr=subprocess.DEVNULL)


def stand_in(root: Path, src: Path) -> None:
    """The tool that rebuilds initramfs images, and what it answers with."""
    with tempfile.TemporaryDirectory() as directory:
        code = os.path.join(directory, "stand-in.c")
        Path(code).write_text(STAND_IN)
        subprocess.run(["cc", "-static", "-Os", "-s", "-o", str(root / "usr/sbin/dracut"), code], check=True)
    driver = {
        "extra/acme/%s.ko" % name: (src / "v1" / (name + ".ko")).read_bytes()
        for name in ("acme", "acme_helper")
    }
    for release in (OLD, NEW):
        path = root / "usr/share/stand-in" / release
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_image(release, driver))


def _image(release: str, more: Dict[str, bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        files = {"kernel/drivers/net/%s.ko" % name: ko(name, release=release) for name in ("e1000e", "ext4")}
        made: Dict[str, object] = {
            "init": b"#!/bin/sh\n",
            "usr/lib/systemd/systemd": b"",
            "usr/lib/dracut/hooks/pre-udev": None,
        }
        made.update(
            initramfs.modules(
                "usr/lib/modules/" + release,
                {**files, **more},
                Path(directory),
                modules_order=b"",
                modules_builtin=b"",
                modules_builtin_modinfo=b"",
            )
        )
    return gzip.compress(cpio(made), mtime=0)  # type: ignore[arg-type]


def lose(root: Path) -> None:
    """Links of a package that is gone: of one driver there is another build, of the other none."""
    for name, build in (("mended", True), ("pruned", False)):
        for release in (NEW,):
            link = root / "lib/modules" / release / "weak-updates" / name / (name + ".ko")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/lib/modules/5.14.0-1/extra/%s/%s.ko" % (name, name))
        if build:
            there = root / "lib/modules" / OLD / "extra" / name / (name + ".ko")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(ko(name, release=OLD))
            _depmod(root, OLD)


@functools.lru_cache(maxsize=None)
def by_name() -> Dict[str, Operation]:
    return {each.name: each for each in OPERATIONS}


def prepared(operation: Operation, src: Path) -> "tree.Tree":
    """The root before anything of ours, for an operation."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "root"
        root.mkdir()
        shipped(root, operation.family, operation.refuses)
        if "rebuild" in operation.name:
            stand_in(root, src)
        if operation.lost:
            lose(root)
        return tree.capture(str(root))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
