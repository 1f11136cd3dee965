# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fake roots laid out as the families lay out theirs, with modules that the real depmod and modprobe read."""
import hashlib
import os
import struct
import subprocess
from types import SimpleNamespace

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.selection import builds
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import COMPATIBLE, INCOMPATIBLE, REFUSE, Finding, Verdict
from ansible_collections.outoftree.kmod.plugins.module_utils.place import deploy, depmod, heal, store, weak_links
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Plan
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko

SEARCH = {
    "el": ("etc/depmod.d/dist.conf", "search updates extra built-in weak-updates\n"),
    "sles": ("lib/depmod.d/depmod-00-system.conf", "search updates extra weak-updates kgraft built-in\n"),
    "ubuntu": ("etc/depmod.d/ubuntu.conf", "search updates ubuntu built-in\n"),
    "debian": None,
}


def module(name, release, version="", depends="", note=""):
    """The bytes of a module without code: its .modinfo, and an exported or undefined symbol for each dependency."""
    normal = name.replace("-", "_")
    pairs = [("license", "GPL"), ("name", normal), ("depends", depends), ("note", note), ("vermagic", release + " SMP mod_unload modversions "),
             ("version", version)]
    info = b"".join(("%s=%s" % pair).encode() + b"\0" for pair in pairs if pair[1] or pair[0] == "depends")
    names, symbols = b"\0", struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    for symbol, section in [("sym_of_" + normal, 0xfff1)] + [("sym_of_" + each, 0) for each in depends.split(",") if each]:
        symbols += struct.pack("<IBBHQQ", len(names), 0x10, 0, section, 0, 0)
        names += symbol.encode() + b"\0"
    sections = [(b".gnu.linkonce.this_module", 1, 3, b"\0" * 896, 0, 0, 0), (b".modinfo", 1, 2, info, 0, 0, 0),
                (b"__ksymtab_strings", 1, 2, b"sym_of_" + normal.encode() + b"\0", 0, 0, 0),
                (b".symtab", 2, 0, symbols, 5, 1, 24), (b".strtab", 3, 0, names, 0, 0, 0)]
    titles = b"\0" + b"".join(row[0] + b"\0" for row in sections) + b".shstrtab\0"
    sections.append((b".shstrtab", 3, 0, titles, 0, 0, 0))
    body, headers = b"", struct.pack("<IIQQQQIIQQ", *[0] * 10)
    for title, kind, flags, data, link, info_field, size in sections:
        headers += struct.pack("<IIQQQQIIQQ", titles.index(title + b"\0"), kind, flags, 0, 64 + len(body), len(data), link, info_field, 1, size)
        body += data
    ident = b"\x7fELF\2\1\1" + b"\0" * 9
    return ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections) + 1, len(sections)) + body + headers


class FakeTree:
    """A root of one family with these kernels. ``fits`` says which releases take a module, by the digest of its bytes."""

    def __init__(self, root, family="el", kernels=("5.14.0-1", "5.14.0-2", "5.14.0-3"), in_tree=("e1000e",)):
        self.root = str(root)
        os.makedirs(self.root, exist_ok=True)
        self.fits = {}
        self.judged = []
        search = SEARCH[family]
        if search:
            self.write(search[0], search[1].encode())
        for release in kernels:
            self.kernel(release, in_tree, family)

    def kernel(self, release, in_tree=("e1000e",), family="el"):
        for name in in_tree:
            self.write("lib/modules/%s/kernel/drivers/net/%s.ko" % (release, name), module(name, release, "in-tree"))
        for directory in ("extra", "updates", "weak-updates") if family == "el" else ():
            os.makedirs(self.path("lib/modules/%s/%s" % (release, directory)))
        self.depmod(release)

    def path(self, path):
        return Host(self.root).real(path, follow=False)

    def write(self, path, data):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "wb") as handle:
            handle.write(data)

    def data(self, path):
        return Host(self.root).read(path)

    def depmod(self, release):
        host = Host(self.root)
        host.run(depmod.command(host, "/lib/modules/" + release))

    def vendor(self, release, fits, names=("vendor",), version="1.0", at="build", note=""):
        """Put a build for ``release`` at ``at``, in the root; it loads on the kernels of ``fits``."""
        for name in names:
            data = module(name, release, version, note=note)
            self.fits[hashlib.sha256(data).hexdigest()] = set(fits)
            self.write("%s/%s.ko" % (at, name), data)

    def judge(self, kernel, modules):
        self.judged.append((kernel.release, tuple(each.path for each in modules)))
        answer = []
        for each in modules:
            fine = kernel.release in self.fits.get(each.sha256, ())
            findings = () if fine else (Finding("MODULE_LAYOUT_CRC", REFUSE, "disagrees about version of symbol module_layout"),)
            answer.append(Verdict(each.path, each.name, kernel.release, COMPATIBLE if fine else INCOMPATIBLE, None if fine else "ENOEXEC", findings))
        return answer

    @property
    def installed(self):
        return [SimpleNamespace(release=release, modules_dir="/lib/modules/" + release) for release in sorted(os.listdir(self.path("lib/modules")))
                if os.path.exists(self.path("lib/modules/%s/modules.dep" % release))]

    def plan(self, paths=(), driver="vendor", kernels=None, healing=False):
        """The plan of kmod_link for the modules at these paths, and its answer."""
        tree = store.Tree(Host(self.root), Plan(Host(self.root)))
        given = builds(ko.read(tree.host, path) for path in ko.find(tree.host, list(paths)))
        chosen = [kernel for kernel in self.installed if kernels is None or kernel.release in kernels]
        outcome = weak_links.present(tree, driver, given, self.installed, chosen, self.judge, lambda each: deploy.content(tree.host, each, each.path),
                                     self.healing(chosen) if healing else None)
        return tree.plan, outcome.result

    def healing(self, kernels):
        return lambda tree, ours: heal.heal(tree, kernels, self.judge, ours)

    def deploy(self, *paths, **options):
        """Apply, and answer with build by kernel."""
        plan, result = self.plan(paths, **options)
        plan.apply()
        return {row["kernel"]: row["build"] for row in result["kernels"]}

    def plan_removal(self, driver="vendor", version=None, build=None):
        tree = store.Tree(Host(self.root), Plan(Host(self.root)))
        outcome = weak_links.absent(tree, driver, version, build, self.installed, self.judge)
        return tree.plan, outcome.result

    def remove(self, *args, **options):
        """Apply, and answer with the build that those kernels have now that lost theirs."""
        plan, result = self.plan_removal(*args, **options)
        plan.apply()
        return {row["kernel"]: row["build"] for row in result["kernels"]}

    def loads(self, release, name="vendor"):
        """The file that the real modprobe would load, below the modules directory; None where there is none."""
        done = subprocess.run(["modprobe", "-d", self.root, "-S", release, "--show-depends", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True, check=False)
        if done.returncode:
            return None
        return done.stdout.strip().splitlines()[-1].split()[1].partition("/lib/modules/%s/" % release)[2]

    def snapshot(self):
        """Every node of the tree but the files that depmod derives."""
        found = {}
        for directory, names, files in os.walk(self.root):
            for name in names + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                below = os.path.relpath(path, self.root)
                what = os.readlink(path) if os.path.islink(path) else None if name in names else self.data(below)
                if not name.startswith("modules.") or name == "modules.dep":
                    found[below] = (status.st_mode, status.st_uid, status.st_gid, what)
        return found
