# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The calls that packages make, by weak-modules and by our own front (kmodctl weak-modules), on small trees.

OUTOFTREE_KMOD_WEAK_MODULES names a copy of the script. DIFFERS says of each call where and why it does not
come to the same. Prints a table with what each linked and the time it took.
"""

import gzip
import lzma
import os
import shutil
import subprocess
import time

import pytest

from tests.forge.fake_tree import FOUR, ONE, THREE, TWO, FakeTree, module
from tests.forge.ko import LAYOUT, Export, ko
from tests.kernel.fronts import SCRIPT, front, script

beside = pytest.mark.skipif(
    not SCRIPT or not shutil.which("depmod"),
    reason="OUTOFTREE_KMOD_WEAK_MODULES names no copy of weak-modules",
)


class Tree(FakeTree):
    def kernel(self, release, takes=True):
        super().kernel(release, takes)
        self.write("/boot/System.map-" + release, b"")
        os.remove(self.path("/lib/modules/%s/symvers.xz" % release))

    def put(self, release, below, fits=None, data=None):
        path = "/lib/modules/%s/extra/%s" % (release, below)
        name = os.path.basename(below).partition(".")[0]
        self.write(path, module(name, release, fits=fits) if data is None else data)
        self.depmod(release)
        return self.root + path

    def links(self):
        """(release, path below weak-updates) -> the path inside the root that the link means, and whether
        that is there.
        """
        found = {}
        for release in os.listdir(self.path("/lib/modules")):
            top = self.path("/lib/modules/%s/weak-updates" % release)
            for directory, names, files in os.walk(top):
                for path in [
                    os.path.join(directory, name)
                    for name in names + files
                    if os.path.islink(os.path.join(directory, name))
                ]:
                    target = os.readlink(path).replace(self.root, "", 1)
                    found[release, os.path.relpath(path, top)] = (target, os.path.exists(self.path(target)))
        return found


def chain(tree, fits):
    """Two modules, of which one needs the other."""
    given = [LAYOUT, ("takes_" + "_".join(str((ONE, TWO, THREE, FOUR).index(each)) for each in fits), 0x77)]
    one = tree.put(
        TWO,
        "pair/giver.ko",
        data=ko("giver", given, release=TWO, exports=[Export("given", 0x5)], export_form="symbols"),
    )
    return [
        one,
        tree.put(
            TWO,
            "pair/taker.ko",
            data=ko("taker", [LAYOUT, ("given", 0x5)], release=TWO, modinfo={"depends": "giver"}),
        ),
    ]


def added(tree, paths):
    """The state that the script itself leaves after --add-modules, as on a host where it was used before."""
    script(tree.root, "--add-modules", "--no-initramfs", lines=paths)
    return paths


def removed(tree, paths):
    for path in added(tree, paths):
        os.remove(path)
    return paths


def arriving(tree, fits=(TWO, FOUR)):
    tree.put(TWO, "vendor/vendor.ko", list(fits))
    tree.put(ONE, "vendor/vendor.ko", [ONE, FOUR])
    tree.kernel(FOUR)
    return []


def without_symvers(tree):
    arriving(tree)
    for path in tree_files(tree, "symvers"):
        if FOUR in path:
            os.remove(path)
    return []


def tree_files(tree, word):
    return [
        os.path.join(directory, name)
        for directory, _names, files in os.walk(tree.root)
        for name in files
        if word in name
    ]


def packed_otherwise(tree):
    """symvers as EL 10 has it."""
    for release in (ONE, TWO, THREE):
        table = tree.path("/boot/symvers-%s.gz" % release)
        with gzip.open(table) as plain:
            tree.write(
                "/lib/modules/%s/symvers.xz" % release, lzma.compress(plain.read(), check=lzma.CHECK_CRC32)
            )
        os.remove(table)
    return [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])]


def damaged(tree):
    return [
        tree.put(TWO, "vendor/vendor.ko", [ONE, TWO]),
        tree.root + "/lib/modules/%s/extra/missing/missing.ko" % TWO,
    ]


def upgraded(tree):
    paths = added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO, THREE])])
    tree.put(TWO, "vendor/vendor.ko", [TWO, THREE])
    return paths


def lost(tree):
    added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])])
    shutil.rmtree(tree.path("/lib/modules/" + TWO))
    return []


def second_call(tree):
    """amdgpu.ko in one call, amdkcl.ko, which it needs, in the next."""
    giver, taker = chain(tree, [ONE, TWO, THREE])
    script(tree.root, "--add-modules", "--no-initramfs", lines=[taker])
    return [giver]


def provider_gone(tree):
    giver, _taker = added(tree, chain(tree, [ONE, TWO, THREE]))
    os.remove(giver)
    return [giver]


def for_another_kernel(tree):
    """%post and %postun of an upgrade that was built for another kernel than what it replaces."""
    old = added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO, THREE])])
    added(tree, [tree.put(THREE, "vendor/vendor.ko", [ONE, TWO, THREE])])
    os.remove(old[0])
    return old


def with_links(tree):
    """As find lists them the second time."""
    paths = added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])])
    return [*paths, tree.root + "/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE]


ADD, REMOVE = ("--add-modules", "--no-initramfs"), ("--remove-modules", "--no-initramfs")
CALLS = {  # name: (what is there, the call)
    "kmodtool %post": (lambda tree: [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])], ("--add-modules",)),
    "nothing fits": (lambda tree: [tree.put(TWO, "vendor/vendor.ko", [TWO])], ADD),
    "two that need each other": (lambda tree: chain(tree, [ONE, TWO]), ADD),
    "one of two does not fit": (
        lambda tree: [*chain(tree, [ONE, TWO, THREE]), tree.put(TWO, "pair/other.ko", [ONE, TWO])],
        ADD,
    ),
    "outside of any tree": (lambda tree: outside(tree), ("--verbose", "--no-initramfs", "--add-modules")),
    "kvdo, older DUPs": (
        lambda tree: [tree.put(TWO, "good/good.ko", [ONE, TWO]), tree.put(TWO, "more/more.ko", [ONE, TWO])],
        ("--dracut=/bin/true", "--no-initramfs", "--add-modules"),
    ),
    "Lustre": (
        lambda tree: [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])],
        ("--verbose", "--add-modules"),
    ),
    "LKRG": (lambda tree: [], ("--add-kernel", "--no-initramfs")),  # without a release
    "amdgpu's second call": (second_call, ADD),
    "a provider goes": (provider_gone, REMOVE),
    "upgrade for another kernel": (for_another_kernel, REMOVE),
    "links of ours in the list": (with_links, ADD),
    "cut short": (
        lambda tree: [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])],
        ("--add-m", "--no-i", "--verb"),
    ),
    "empty list": (lambda tree: [], ADD),
    "one empty line": (lambda tree: [""], ADD),
    "kmodtool %postun": (
        lambda tree: removed(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO, THREE])]),
        REMOVE,
    ),
    "%postun of an upgrade": (
        lambda tree: added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])]),
        REMOVE,
    ),
    "MLNX_OFED uninstall": (
        lambda tree: added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])]),
        (*REMOVE, "--delete-modules"),
    ),
    "kernel %posttrans": (arriving, ("--add-kernel", FOUR)),
    "kernel %preun": (
        lambda tree: added(tree, [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])]) and [],
        ("--remove-kernel", ONE),
    ),
    "unknown kernel leaves": (lambda tree: [], ("--remove-kernel", "5.5.5")),
    "unknown kernel arrives": (lambda tree: [], ("--add-kernel", "5.5.5")),
    "usage": (lambda tree: [], ("--nonsense",)),
    "no action": (lambda tree: [], ("--verbose",)),
    "dry run": (
        lambda tree: [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])],
        ("--verbose", "--dry-run", *ADD),
    ),
    "check-initramfs-prog": (
        lambda tree: [tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])],
        ("--add-modules", "--check-initramfs-prog", "/bin/false"),
    ),
    "several kmods at once": (
        lambda tree: [tree.put(TWO, "good/good.ko", [ONE, TWO]), tree.put(TWO, "bad/bad.ko", [TWO])],
        ADD,
    ),
    "upgrade in place": (upgraded, ADD),
    "build kernel is gone": (lost, ("--add-kernel", ONE)),
    "kernel without symvers": (without_symvers, ("--add-kernel", FOUR)),
    "symvers.xz": (packed_otherwise, ADD),
    "a path that is not there": (damaged, ADD),
    "other flags in vermagic": (
        lambda tree: [
            tree.put(
                TWO,
                "rt/rt.ko",
                data=ko("rt", [LAYOUT], release=TWO, flags=" SMP preempt_rt mod_unload modversions "),
            )
        ],
        ADD,
    ),
}
DIFFERS = {
    "amdgpu's second call": "what lacked a module is linked by the call that brings it",
    "links of ours in the list": "it links to links, with their whole path",
    "outside of any tree": "with --basedir, the link goes below weak-updates with the root's own path",
    "several kmods at once": "B5: one that does not fit keeps others from being linked",
    "upgrade in place": "B4: the old link leads to what no longer fits",
    "build kernel is gone": "B9: the link leads nowhere",
    "kernel without symvers": "B14: exit status 1, and the kernel gets no boot entry",
    "symvers.xz": "B3: it is read with zcat, so that nothing seems to fit",
    "a path that is not there": "a path that does not exist is linked into every kernel",
    "other flags in vermagic": "B7: the kernel refuses it",
}


def outside(tree):
    tree.write("/opt/acfs/oracleacfs.ko", module("oracleacfs", TWO, fits=[ONE, TWO]))
    return [tree.root + "/opt/acfs/oracleacfs.ko"]


@beside
@pytest.mark.parametrize("name", CALLS)
def test_a_call_comes_to_the_same_as_the_scripts_or_is_listed_with_the_reason(name, tmp_path, capsys):
    prepare, argv = CALLS[name]
    found = {}
    for who, call in (("script", script), ("front", front)):
        tree = Tree(tmp_path / who)
        lines = prepare(tree)
        begun = time.monotonic()
        done = call(tree.root, *argv, lines=lines)
        compat = sorted(line for line in done.stdout.decode().splitlines() if " with kernel " in line)
        found[who] = (tree.links(), done.returncode, compat if "--verbose" in argv else [])
        with capsys.disabled():
            print(
                "\n%-26s %-7s %5.2f s  status %d  %s"
                % (
                    name,
                    who,
                    time.monotonic() - begun,
                    done.returncode,
                    ", ".join("%s %s" % key for key in sorted(found[who][0])) or "none",
                ),
                end="",
            )
    with capsys.disabled():
        print("  " + DIFFERS.get(name, ""), end="")
    assert (found["script"] != found["front"]) == (name in DIFFERS)


def script_at_home(tree, *argv, lines=()):
    """The script without --basedir, for which the tree's kernels are this machine's, in a name space of its
    own.
    """
    work = tree.root + ".work"
    os.makedirs(work, exist_ok=True)
    mount = (
        "mount -t overlay -o lowerdir=/usr/lib,upperdir=%s/lib,workdir=%s overlay /usr/lib && mount --bind %s/boot /boot || exit 99\n"
        'exec bash "$@"' % (tree.root, work, tree.root)
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", str(SCRIPT), *argv, "--dracut", "/bin/true"],
        input="".join(line.replace(tree.root, "", 1) + "\n" for line in lines).encode(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
    )
    if done.returncode == 99:
        pytest.skip("needs to mount an overlay: %s" % done.stderr.decode())
    assert done.returncode == 0, done.stderr.decode()


def as_package(tree, giver):
    front(tree.root, *ADD, lines=[tree.put(TWO, "vendor/vendor.ko", data=giver)])


def as_stored_driver(tree, giver):
    tree.write("/build/vendor.ko", giver)
    tree.deploy("/build")


@beside
@pytest.mark.parametrize("deploy", [as_package, as_stored_driver])
def test_the_script_sees_what_our_links_lead_to_and_leaves_them(deploy, tmp_path):
    """It copies weak-updates of all kernels into a sandbox, looks there, and writes it back: both forms of
    links have to come through that.
    """
    tree = Tree(tmp_path / "root")
    deploy(
        tree,
        ko(
            "vendor",
            [LAYOUT, ("takes_0_1_2", 0x77)],
            release=TWO,
            exports=[Export("given", 0x5)],
            export_form="symbols",
        ),
    )
    before = tree.links()
    assert len(before) == 2
    needy = tree.put(
        TWO,
        "needy/needy.ko",
        data=ko("needy", [LAYOUT, ("given", 0x5)], release=TWO, modinfo={"depends": "vendor"}),
    )
    script_at_home(tree, *ADD, lines=[needy])
    added = {
        (release, "needy/needy.ko"): ("/lib/modules/%s/extra/needy/needy.ko" % TWO, True)
        for release in (ONE, THREE)
    }
    assert tree.links() == {**before, **added}
    os.remove(needy)
    script_at_home(tree, *REMOVE, lines=[needy])
    assert tree.links() == before


@beside
def test_the_script_removes_our_links_when_the_package_goes(tmp_path):
    tree = Tree(tmp_path / "root")
    path = tree.put(TWO, "vendor/vendor.ko", [ONE, TWO])
    front(tree.root, *ADD, lines=[path])
    os.remove(path)
    script_at_home(tree, *REMOVE, lines=[path])
    assert tree.links() == {}
