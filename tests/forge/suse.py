# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A SUSE host in a directory: small fakes of kernels laid out as SLES has them, real rpm, and packages that it
knows.
"""

import io
import os
import shutil
import subprocess
import sys

from ansible_collections.outoftree.kmod.plugins.module_utils import weak_modules2
from tests.forge import families
from tests.forge.ko import LAYOUT, ko

MISSING = [tool for tool in ("depmod", "rpm", "rpmbuild") if not shutil.which(tool)]
ONE, TWO, RT = "6.4.0-150600.21-default", "6.4.0-150600.23-default", "6.4.0-150600.23-rt"


class Suse:
    def __init__(self, root):
        self.root = root
        (root / "usr/lib").mkdir(parents=True)
        (root / "lib").symlink_to("usr/lib")
        families.configure(root, "sles")
        for release in (ONE, TWO, RT):
            exports = [(*LAYOUT, False, "", "vmlinux")]
            exports += [
                (name, 0x5, False, "", "vmlinux") for name in ("old", "both")[: 2 if release == ONE else 0]
            ]
            exports += [("both", 0x5, False, "", "vmlinux")] * (release != ONE)
            families.kernel(root, release, exports=exports, family="sles")
            self.depmod(release)
        for directory in ("run", "var/lib/rpm"):
            (root / directory).mkdir(parents=True)

    def depmod(self, release):
        subprocess.run(["depmod", "-b", str(self.root), release], check=True)

    def kmp(self, name="vendor", version="1", release=ONE, needs=("both",), modules=("vendor",), more=""):
        """Install a KMP; its name, version and release."""
        paths = []
        for module in modules:
            path = "/usr/lib/modules/%s/updates/%s.ko" % (release, module)
            target = self.root / "lib/modules" / release / "updates" / (module + ".ko")
            target.parent.mkdir(parents=True, exist_ok=True)
            symbols = [LAYOUT, *((symbol, 0x5) for symbol in needs)]
            target.write_bytes(
                ko(module, symbols, release=release, modinfo={"version": version, "name": module})
            )
            paths.append(path)
        self.depmod(release)
        work = self.root.parent / "rpm"
        work.mkdir(exist_ok=True)
        (work / "kmp.spec").write_text(
            "Name: %s-kmp-default\nVersion: %s\nRelease: 1\nSummary: -\nLicense: GPL\n%s\n%%description\n-\n"
            "%%install\n%s%%files\n%s"
            % (
                name,
                version,
                more,
                "".join(
                    "mkdir -p %%{buildroot}%s\ntouch %%{buildroot}%s\n" % (os.path.dirname(p), p)
                    for p in paths
                ),
                "".join(path + "\n" for path in paths),
            )
        )
        subprocess.run(
            [
                "rpmbuild",
                "-bb",
                "--quiet",
                "--define",
                "_topdir %s" % work,
                "--define",
                "__os_install_post %{nil}",
                "--define",
                "_rpmdir %s" % work,
                str(work / "kmp.spec"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (built,) = work.rglob("*.rpm")
        subprocess.run(
            [
                "rpm",
                "--root",
                str(self.root),
                "-i",
                "--justdb",
                "--nodeps",
                "--noscripts",
                "--ignorearch",
                "--oldpackage",
                "--replacefiles",
                str(built),
            ],
            check=True,
        )
        built.unlink()
        return "%s-kmp-default-%s-1" % (name, version)

    def erase(self, nvr):
        """What rpm does before %postun; the list that the scriptlet kept."""
        paths = self.rpm("-ql", nvr).split()
        self.rpm("-e", "--justdb", "--nodeps", "--noscripts", nvr)
        return paths

    def rpm(self, *argv):
        return subprocess.run(
            ["rpm", "--root", str(self.root), *argv], check=True, stdout=subprocess.PIPE
        ).stdout.decode()

    def call(self, *argv, lines=()):
        """Exit status, standard output and standard error."""
        streams = sys.stdin, sys.stdout, sys.stderr
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        sys.stdin = io.TextIOWrapper(io.BytesIO("".join(line + "\n" for line in lines).encode()))
        sys.stdout, sys.stderr = out, err
        try:
            status = weak_modules2.main(list(argv), str(self.root))
            out.flush()
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
        return status, out.buffer.getvalue().decode(), err.getvalue()

    def links(self):
        return {
            str(path.relative_to(self.root / "lib/modules")): os.readlink(str(path))
            for path in sorted(self.root.glob("lib/modules/*/weak-updates/**/*.ko"))
        }

    def marks(self):
        return sorted(path.name for path in self.root.glob("run/regenerate-initrd/*"))
