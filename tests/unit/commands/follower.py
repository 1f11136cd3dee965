# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with two kernels that follows new ones: its drivers were deployed while OLD alone was there, and NEW
arrives.
"""

import gzip
import os
import stat
import subprocess
import tempfile
from pathlib import Path

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import follow, link
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import settings
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import loaders
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import View
from ansible_collections.outoftree.kmod.plugins.module_utils.place.settings import Followed, Settings
from ansible_collections.outoftree.kmod.plugins.module_utils.turns import Turns
from tests.forge import families, initramfs, machines
from tests.forge.cpio import cpio
from tests.forge.ko import LAYOUT, ko
from tests.forge.machines import MACHINE, NEW, OLD
from tests.forge.symvers import EXPORTS

__all__ = ["MACHINE", "NEW", "OLD", "Follower", "machines"]
OTHER_ABI = [(name, crc + 1, *rest) for name, crc, *rest in EXPORTS]


class Follower:
    """The host in a directory. ``refuses``: NEW has other CRCs, so that it takes no build for OLD."""

    def __init__(self, root, family="el9", refuses=False):
        root.mkdir(exist_ok=True)
        self.root, self.family = root, family
        self.initrd = machines.FAMILIES[family](root)
        for path in sorted(root.rglob("*.1")):  # where the tests of entries have their variants
            path.unlink()
        for directory in (
            "etc/ansible/facts.d",
            "usr/lib",
            "var/tmp",
            "var/lib/outoftree-kmod",
            "run/motd.d",
        ):
            (root / directory).mkdir(parents=True, exist_ok=True)
        for release in (OLD, NEW):
            self.kernel(release, OTHER_ABI if refuses and release == NEW else EXPORTS)
            self.image(release)

    def kernel(self, release, exports):
        layout = self.family if self.family in families.FAMILIES else "debian"  # others are boot loaders
        families.kernel(self.root, release, family=layout, exports=exports)
        if self.family == "systemd-boot":
            (self.root / "boot" / ("vmlinuz-" + release)).unlink()
        subprocess.run(["depmod", "-b", str(self.root), release], check=True, stderr=subprocess.DEVNULL)

    @property
    def host(self):
        return Host(str(self.root))

    def image_path(self, release, more=""):
        directory = machines.directory(self.family)
        return self.root / (
            (directory % release if "%" in directory else directory) + self.initrd % release + more
        ).lstrip("/")

    def image(self, release, note=b"1"):
        """The shipped image, as the distribution makes it (again)."""
        with tempfile.TemporaryDirectory() as directory:
            files = {"kernel/drivers/net/e1000e.ko": ko("e1000e", release=release)}
            made = {
                "init": b"#!/bin/sh\n" + note,
                "usr/lib/systemd/systemd": b"",
                "usr/lib/dracut/hooks/pre-udev": None,
            }
            made.update(
                initramfs.modules(
                    "usr/lib/modules/" + release,
                    files,
                    Path(directory),
                    modules_order=b"",
                    modules_builtin=b"",
                    modules_builtin_modinfo=b"",
                )
            )
        self.image_path(release).write_bytes(gzip.compress(cpio(made), mtime=0))

    def deploy(self, driver="vendor", kernels=(OLD,), version="1.0", exports=(), more=()):
        """Store a build for OLD and link it, as a play did; ``more`` are symbols that it needs besides."""
        needs = [("module_layout", 0x12), ("printk", 0x23)] if exports else [LAYOUT, ("printk", 0x22), *more]
        release = NEW if exports else OLD
        data = ko(
            driver.replace("-", "_"),
            needs,
            release=release,
            modinfo={"version": version, "name": driver.replace("-", "_")},
        )
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / (driver + ".ko")
            path.write_bytes(data)
            plan, _answer = link.run(
                self.host, link.Options(driver, path=(str(path),), whence="/", kernels=tuple(kernels))
            )
            plan.apply()

    def follow(self, **drivers):
        """Have the settings say how these drivers follow."""
        path = self.root / settings.PATH.lstrip("/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            Settings(
                {name.replace("_", "-"): Followed()._replace(**each) for name, each in drivers.items()}
            ).text
        )

    def run(self, verb="add-kernel", kernel=NEW, early=False, check=False, wait=None):
        with Turns(str(self.root), check, wait) as turns:
            return follow.run(turns, follow.Options(verb, kernel, early))

    def links(self, release=NEW, driver="vendor"):
        place = self.root / "lib/modules" / release / "weak-updates" / driver
        return sorted(path.name for path in place.glob("*.ko")) if place.is_dir() else []

    def listed(self, release=NEW):
        return (self.root / "lib/modules" / release / "modules.dep").read_text()

    def variants(self):
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob(self.initrd % "*" + ".[0-9]")
        )

    def menu(self):
        return loaders.detect(self.host).menu(View(self.host))

    def ours(self):
        return sorted((each.driver, each.kernel) for each in self.menu().entries if each.driver)

    def started(self):
        """(kernel, driver) of the entry that boots start."""
        default = self.menu().default
        return next(release for release in (OLD, NEW) if release in default.linux), default.driver

    def leave(self, release=NEW):
        """What the distribution takes first of a kernel that leaves."""
        for path in {
            self.image_path(release),
            self.root / "boot" / self.image_path(release).name,
            self.root / "boot" / ("vmlinuz-" + release),
            self.image_path(release).parent / "linux",
        }:
            if path.exists():
                path.unlink()
        for path in self.root.glob("boot/**/loader/entries/*-%s.conf" % release):
            path.unlink()

    def snapshot(self):
        """Every path with its mode and what it holds; of indexes only that they are there, since depmod made
        the first ones.
        """
        found = {}
        for directory, names, files in os.walk(str(self.root)):
            for name in names + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                what = None
                if stat.S_ISLNK(status.st_mode):
                    what = os.readlink(path)
                elif stat.S_ISREG(status.st_mode) and not name.startswith("modules."):
                    what = Path(path).read_bytes()
                found[os.path.relpath(path, str(self.root))] = (status.st_mode, what)
        return found
