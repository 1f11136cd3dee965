# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that follows new kernels with a driver, and what is asked of it by its own tools."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import following
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import hooks
from ansible_collections.outoftree.kmod.plugins.module_utils.place.settings import Followed
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Content
from ansible_collections.outoftree.kmod.plugins.module_utils.turns import Turns
from tests import CHECKOUT
from tests.transactions import menus
from tests.transactions.chroot import Layers, Root

DRIVER = "ootedu"
# What no promise is made about: caches of tools, logs, databases of the package manager, what is in memory on
# a machine.
PASSING = re.compile(
    r"/(proc|dev|run|tmp|srv|root|var/(cache|log|tmp|lib/(dpkg|apt|systemd|rpm|dnf|initramfs-tools)))(/|$)"
    r"|/usr/lib/sysimage/libdnf5(/|$)"
    r"|/etc/(ld\.so\.cache|passwd-|group-|\.pwd\.lock)$|/var/lib/(logrotate|grub)(/|$)"
)


def kmodctl(directory: Path) -> Path:
    """The host's own command, built of this checkout."""
    path = directory / "kmodctl"
    subprocess.run([sys.executable, str(CHECKOUT / "tools/build_kmodctl.py"), str(path)], check=True)
    return path


class Machine(Root):
    """A system with kmodctl."""

    def __init__(self, layers: Layers, work: Path, shared: Path, command: Path) -> None:
        super().__init__(layers, work, shared)
        self.command = command

    # What is done to it

    def follow(self, driver: str = DRIVER, **settings: Any) -> None:
        """Have it follow new kernels, as the role does."""
        hooks.present(
            Host(str(self.path)),
            driver,
            Followed()._replace(**settings),
            interpreter="",
            sources="",
            kmodctl=Content.of(self.command.read_bytes()),
        ).apply()

    def follow_no_more(self, driver: str = DRIVER) -> None:
        with Turns(str(self.path)) as turns:
            following.run(turns, following.Options(driver, "absent"))

    def give(self, builds: Dict[str, List[Path]], options: str = "", driver: str = DRIVER) -> None:
        """Store a driver's builds, by the kernel that each is for, and link it."""
        given = self.path / "root/given"
        for built_for, modules in builds.items():
            (given / built_for).mkdir(parents=True)
            for path in modules:
                shutil.copy2(str(path), str(given / built_for))
        shutil.copy2(str(self.command), str(self.path / "root/kmodctl"))
        self.ok(
            "python3 /root/kmodctl link --driver %s %s %s"
            % (driver, options, " ".join("/root/given/" + built_for for built_for in builds))
        )
        shutil.rmtree(str(given))

    def deploy(self, builds: Dict[str, List[Path]], release: str, driver: str = DRIVER) -> None:
        """Give one kernel a driver whole."""
        self.give(builds, "--kernel " + release, driver)
        for what in ("variant", "entry"):
            self.ok("python3 /root/kmodctl %s --driver %s --kernel %s" % (what, driver, release))

    # What is asked of it

    def asked(self, what: str) -> Any:
        """What kmodctl answers to a question."""
        return json.loads(self.run("python3 /root/kmodctl %s --json" % what).said)

    def loads(self, release: str, module: str = DRIVER) -> Optional[str]:
        """The file that modprobe takes a module from on a kernel, all links followed; None where it finds
        none.
        """
        found = self.run("modprobe -n -S %s --show-depends %s 2>/dev/null | tail -1" % (release, module))
        path = re.match(r"insmod (\S+)", found.said)
        return (
            path and os.path.realpath(str(self.path) + path.group(1))[len(os.path.realpath(str(self.path))) :]
        )

    def image(self, release: str) -> Path:
        """The distribution's own initramfs, as Debian or Enterprise Linux calls it."""
        enterprise = self.boot / ("initramfs-%s.img" % release)
        return enterprise if enterprise.exists() else self.boot / ("initrd.img-" + release)

    def variants(self, release: str) -> List[Dict[str, str]]:
        """What kmodctl tells of the variants of a kernel's image."""
        return [row for row in self.asked("variant") if row["kernel"] == release]

    def shipped_has(self, release: str, module: str = DRIVER) -> bool:
        """Whether the distribution's own image has a module, by the distribution's own tool."""
        return self._lists("%s /boot/%s" % (self.lister, self.image(release).name), module)

    def has(self, variant: str, module: str = DRIVER) -> bool:
        """Whether a variant has it. (The distributions' tools stop after the first of an image's segments.)"""
        return self._lists("python3 /root/kmodctl variant --list " + variant, module)

    def _lists(self, script: str, module: str) -> bool:
        return re.search(r"/%s\.ko" % module, self.ok(script)) is not None

    @property
    def lister(self) -> str:
        return "lsinitramfs" if (self.path / "usr/bin/lsinitramfs").exists() else "lsinitrd"

    def marks(self) -> List[str]:
        """What could not be done and is left for later."""
        path = self.path / "var/lib/outoftree-kmod/pending"
        return path.read_text().splitlines() if path.exists() else []

    def entry(self, release: str) -> Optional[str]:
        """The initramfs that an entry of ours starts a kernel with, as the loader calls it; None where there
        is no entry.
        """
        return self._one([each for each in self.menu().entries if each.driver and each.release == release])

    def shipped(self, release: str) -> Optional[str]:
        """The same of the distribution's entry."""
        found = {each.initrd for each in self.menu().entries if not each.driver and each.release == release}
        assert len(found) < 2, found
        return found.pop() if found else None

    def _one(self, entries: List[menus.Entry]) -> Optional[str]:
        assert len(entries) < 2, entries
        return entries[0].initrd if entries else None

    def kernels(self) -> List[str]:
        """The releases that there may be entries of: those that modules or images are of."""
        found = {path.name for path in (self.path / "usr/lib/modules").iterdir()}
        return sorted(found | {path.name.partition("-")[2] for path in self.boot.glob("vmlinuz-*")})

    def menu(self) -> menus.Menu:
        """What the boot loader offers and starts."""
        esp = self.boot / "efi"
        return (
            menus.systemd_boot(esp, self.kernels())
            if (esp / "EFI/systemd").exists()
            else menus.grub2(self.boot, self.kernels())
        )

    def default(self) -> Tuple[str, Optional[str]]:
        """The kernel that starts when nobody chooses, and the driver of the entry, if it is one of ours."""
        found = self.menu().default
        assert found is not None
        return found.release, found.driver

    def served(self, release: str, shipped_has: bool = True) -> None:
        """Everything that a kernel is to have is there, and is what is there."""
        assert self.loads(release), "modprobe finds the driver on %s" % release
        assert self.shipped_has(release) == shipped_has, (
            "the distribution's own image of %s has the driver" % release
        )
        (row,) = self.variants(release)
        assert row["state"] == "current" and self.has(row["path"]), row
        started = self.entry(release)
        assert started, "an entry of %s starts with the driver" % release
        assert started in [row["path"], row["path"][len("/boot") :], row["path"][len("/boot/efi") :]], (
            "as the loader calls it"
        )

    def forgotten(self, release: str) -> None:
        """Nothing of a kernel is left, be it ours or the distribution's."""
        assert [path for path in self.files() if release in path] == []
        assert [each for each in self.menu().entries if each.release == release] == []

    def settled(self) -> None:
        """Nothing is left to do: a look at everything changes nothing."""
        before = self.files()
        answer = self.asked("refresh")
        assert changes(before, self.files()) == []
        assert answer["changed"] is False, answer
        assert self.marks() == []

    def left_of(self, release: str) -> List[str]:
        """The files of a kernel that has left, but for builds of drivers."""
        return [
            path
            for path in self.files()
            if release in path and "/extra" not in path and not path.endswith(release)
        ]

    def files(self) -> Dict[str, str]:
        """Every file by its path, with what tells whether it has changed: mode, owner, contents."""
        top = str(self.path)
        found = {}
        for directory, names, files in os.walk(top):
            inside = directory[len(top) :] or "/"
            names[:] = [name for name in names if not PASSING.match(os.path.join(inside, name))]
            for name in names + files:
                path = os.path.join(inside, name)
                if not PASSING.match(path):
                    found[path] = _state(top + path)
        return found


DIGESTS: Dict[Tuple[int, ...], str] = {}


def _state(path: str) -> str:
    state = os.lstat(path)
    told = "%o %d:%d" % (state.st_mode, state.st_uid, state.st_gid)
    if os.path.islink(path):
        return told + " -> " + os.readlink(path)
    if os.path.isfile(path):
        # what was read once and has not been written since is not read again
        key = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if key not in DIGESTS:
            with open(path, "rb") as file:
                DIGESTS[key] = hashlib.file_digest(file, "blake2b").hexdigest()[:16]
        told += " " + DIGESTS[key]
    return told


def changes(before: Dict[str, str], after: Dict[str, str]) -> List[str]:
    """What differs between two looks at all files, a line each."""
    return [
        "%s: %s, now %s" % (path, before.get(path, "absent"), after.get(path, "absent"))
        for path in sorted(set(before) | set(after))
        if before.get(path) != after.get(path)
    ]
