# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fake roots laid out as the families lay out theirs, with small modules that the real depmod and modprobe
read and that are really judged.
"""

import copy
import os
import shutil
import subprocess
from pathlib import Path

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from tests.forge import families
from tests.forge.families import FAMILIES
from tests.forge.ko import LAYOUT, ko

ONE, TWO, THREE, FOUR = RELEASES = "5.14.0-1", "5.14.0-2", "5.14.0-3", "5.14.0-4"


def module(name, release, version="", fits=None, depends="", note=""):
    """A module for ``release`` that loads on the kernels of ``fits``: it needs a symbol that those export and
    no others.
    """
    needs = [LAYOUT] + ([(_takes(fits), 0x77)] if fits is not None else [])
    modinfo = {"depends": depends, "note": note, "version": version or None, "name": name.replace("-", "_")}
    return ko(name, needs, release=release, modinfo=modinfo)


def _takes(releases):
    return "takes_" + "_".join(str(RELEASES.index(release)) for release in sorted(releases))


class FakeTree:
    """A root of one family with these kernels."""

    def __init__(self, root, family="el8", releases=(ONE, TWO, THREE), in_tree=("e1000e",)):
        self.root = str(root)
        self.family = family
        self.in_tree = in_tree
        os.makedirs(self.root, exist_ok=True)
        layout = FAMILIES[family]
        if layout.modules.startswith("usr/"):
            os.makedirs(self.path("/usr/lib"))
            os.symlink("usr/lib", self.path("/lib"))
        if layout.depmod:
            self.write(layout.depmod[0], layout.depmod[1].encode())
        for release in releases:
            self.kernel(release)

    def kernel(self, release, takes=True):
        """Install a kernel, or change what it ``takes``."""
        masks = [
            [each for place, each in enumerate(RELEASES) if number >> place & 1]
            for number in range(1 << len(RELEASES))
        ]
        exports = [LAYOUT + (False, "", "vmlinux")] + [
            (_takes(mask), 0x77, False, "", "vmlinux") for mask in masks if takes and release in mask
        ]
        in_tree = {"drivers/net/%s.ko" % name: module(name, release, "in-tree") for name in self.in_tree}
        families.kernel(Path(self.root), release, exports=exports, family=self.family, in_tree=in_tree)
        for directory in FAMILIES[self.family].directories:
            os.makedirs(self.path("/lib/modules/%s/%s" % (release, directory)), exist_ok=True)
        self.depmod(release)

    def clone(self, root):
        other = copy.copy(self)
        other.root = str(root)
        shutil.copytree(self.root, other.root, symlinks=True)
        return other

    def path(self, path):
        return Host(self.root).real(path, follow=False)

    def data(self, path):
        return Host(self.root).read(path)

    def write(self, path, data):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "wb") as handle:
            handle.write(data)

    def depmod(self, release):
        configuration = ["-C", self.path("/etc/depmod.d"), "-C", self.path("/usr/lib/depmod.d")]
        subprocess.run(["depmod", "-b", self.root] + configuration + [release], check=True)

    def vendor(self, release, fits, names=("vendor",), version="1.0", at="build", note=""):
        """Put a build for ``release`` at ``at``, in the root; it loads on the kernels of ``fits``."""
        for name in names:
            self.write("%s/%s.ko" % (at, name), module(name, release, version, fits, note=note))

    def plan(self, *paths, **options):
        """The plan of kmod_link for the modules at these paths, and its answer."""
        asked = link.Options("vendor", paths)._replace(
            **dict(options, kernels=tuple(options.get("kernels", link.ALL)))
        )
        plan, answer = link.run(Host(self.root), asked)
        return plan, answer.as_dict()

    def deploy(self, *paths, **options):
        """Apply, and answer with build by kernel."""
        plan, result = self.plan(*paths, **options)
        plan.apply()
        return {row["kernel"]: row["build"] for row in result["kernels"]}

    def plan_removal(self, **options):
        return self.plan(state="absent", **options)

    def remove(self, **options):
        """Apply, and answer with the build that those kernels have now that lost theirs."""
        return self.deploy(state="absent", **options)

    def loads(self, release, name="vendor"):
        """The file that the real modprobe would load, below the modules directory; None where there is none."""
        done = subprocess.run(
            ["modprobe", "-d", self.root, "-S", release, "--show-depends", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            check=False,
        )
        if done.returncode:
            return None
        return done.stdout.strip().splitlines()[-1].split()[1].partition("/lib/modules/%s/" % release)[2]

    def snapshot(self):
        """Every node of the tree but the files that depmod derives and the cache of what kernels export."""
        found = {}
        for directory, names, files in os.walk(self.root):
            for name in names + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                below = os.path.relpath(path, self.root)
                what = (
                    os.readlink(path) if os.path.islink(path) else None if name in names else self.data(below)
                )
                if not name.startswith("modules.") or name == "modules.dep":
                    found[below] = (status.st_mode, status.st_uid, status.st_gid, what)
        return found
