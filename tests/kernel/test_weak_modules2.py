# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SUSE's own weak-modules2 and ours, over the same calls on the same trees.

OUTOFTREE_KMOD_WEAK_MODULES2 names a copy of the script, which runs with this machine's programs on an overlay.
Its rpmsort, which is SUSE's, is written here in rpm's own order.
"""

import os
import re
import shutil
import subprocess
from typing import Dict, List, NamedTuple

import pytest

from tests.forge.suse import MISSING, ONE, TWO, Suse

SCRIPT = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES2")
NEED = [
    *MISSING,
    *([] if SCRIPT else ["OUTOFTREE_KMOD_WEAK_MODULES2, which names a copy of weak-modules2"]),
    *([] if os.geteuid() == 0 else ["root"]),
]
pytestmark = pytest.mark.skipif(bool(NEED), reason="needs %s" % ", ".join(NEED))
RPMSORT = r"""#!/usr/bin/python3
import functools, subprocess, sys
def order(one, two):
    text = "%%{lua:print(rpm.vercmp('%s', '%s'))}" % (one, two)
    return int(subprocess.run(["rpm", "--eval", text], stdout=subprocess.PIPE, check=True).stdout)
lines = sorted(sys.stdin.read().split(), key=functools.cmp_to_key(order), reverse="-r" in sys.argv)
print("\n".join(lines))
"""
# SUSE's looks for modules below /usr
DEPMOD = """#!/bin/sh
for word; do
    [ "$before" != -b ] || [ -e "$word/lib" ] || ln -s usr/lib "$word/lib"
    before=$word
done
exec /usr/sbin/depmod "$@"
"""
OLDER, NEWER = "6.4.0-150600.20-default", "6.4.0-150600.22-default"


class Said(NamedTuple):
    """What a call came to: what the caller and the next boot notice."""

    status: int
    packages: List[str]  # what is said of each package
    links: Dict[str, str]


class Both:
    """A host, and how the script fares on a copy of it."""

    def __init__(self, work):
        self.work = work
        (work / "root").mkdir()
        self.suse = Suse(work / "root")
        for release in (ONE, TWO):  # by this the script knows a kernel
            (self.suse.root / ("boot/System.map-" + release)).write_text("")

    def call(self, *argv, lines=()):
        """(what the script comes to, what ours does), each on the host as it is; it goes on from ours."""
        theirs = self.script(argv, lines)
        status, _out, err = self.suse.call("-v", *argv, lines=lines)
        return theirs, Said(status, told(err), links(self.suse.root))

    def script(self, argv, lines):
        place = self.work / "script"
        upper, merged = place / "upper", place / "merged"
        for each in (upper / "usr/lib/rpm", place / "work", merged):
            each.mkdir(parents=True)
        try:
            shutil.copytree(str(self.suse.root), str(upper), symlinks=True, dirs_exist_ok=True)
            (upper / "lib").unlink()
            shutil.copyfile(str(SCRIPT), str(upper / "weak-modules2"))
            for name, text in (("usr/lib/rpm/rpmsort", RPMSORT), ("depmod", DEPMOD)):
                (upper / name).write_text(text)
                (upper / name).chmod(0o755)
            mounts = "lowerdir=/,upperdir=%s,workdir=%s" % (upper, place / "work")
            inside = (
                "set -e; mount -t overlay overlay -o %s %s; mount -t proc proc %s/proc; mount --bind /dev %s/dev; exec chroot %s bash /weak-modules2 -v %s"
                % (mounts, merged, merged, merged, merged, " ".join(argv))
            )
            done = subprocess.run(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside],
                input="".join(line + "\n" for line in lines),
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
                env=dict(
                    os.environ,
                    INITRD_IN_POSTTRANS="1",
                    DEPMOD="/depmod",
                    PATH="/usr/sbin:/usr/bin:/sbin:/bin",
                ),
            )
            print(done.stdout)
            return Said(done.returncode, told(done.stdout), links(upper))
        finally:
            shutil.rmtree(str(place))


def told(text):
    return sorted(re.findall(r"^Package \S+ (?:added|removed|replaced|does not).*", text, re.M))


def links(root):
    top = root / "usr/lib/modules"
    return {str(path.relative_to(top)): os.readlink(str(path)) for path in top.glob("*/weak-updates/**/*.ko")}


@pytest.fixture
def both(tmp_path, monkeypatch):
    monkeypatch.setenv("INITRD_IN_POSTTRANS", "1")
    return Both(tmp_path)


def equal(pair):
    theirs, ours = pair
    assert ours == theirs
    return ours


def test_a_kmp_that_fits_is_added(both):
    nvr = both.suse.kmp()
    assert list(equal(both.call("--add-kmp", nvr)).links) == [TWO + "/weak-updates/updates/vendor.ko"]
    equal(both.call("--add-kmp", nvr))


def test_a_kmp_that_does_not_fit_is_not(both):
    nvr = both.suse.kmp(needs=("old",))
    assert equal(both.call("--add-kmp", nvr)).links == {}


def test_all_modules_of_a_kmp_or_none(both):
    nvr = both.suse.kmp(modules=("vendor", "other"))
    assert len(equal(both.call("--add-kmp", nvr)).links) == 2


def test_a_newer_version_takes_the_place_of_an_older_one(both):
    old = both.suse.kmp()
    equal(both.call("--add-kmp", old))
    new = both.suse.kmp(version="2", release=NEWER)
    (link,) = equal(both.call("--add-kmp", new)).links.values()
    assert NEWER in link


def test_a_kmp_goes(both):
    nvr = both.suse.kmp()
    both.call("--add-kmp", nvr)
    listed = both.suse.erase(nvr)
    os.remove(str(both.suse.root / "lib/modules" / ONE / "updates/vendor.ko"))
    assert equal(both.call("--remove-kmp", nvr, lines=listed)).links == {}


def test_a_kmp_goes_and_another_version_serves(both):
    old = both.suse.kmp()
    both.call("--add-kmp", old)
    both.suse.kmp(version="2", release=NEWER)
    listed = both.suse.erase(old)
    os.remove(str(both.suse.root / "lib/modules" / ONE / "updates/vendor.ko"))
    links = equal(both.call("--remove-kmp", old, lines=listed)).links
    assert sorted(path.partition("/")[0] for path in links) == [ONE, TWO]


@pytest.mark.parametrize("verb", ["--add-kernel", "--add-kernel-modules", "--remove-kernel-modules"])
def test_a_kernel_gets_what_fits(both, verb):
    both.suse.kmp()
    both.suse.kmp("unfit", modules=("unfit",), needs=("old",))
    both.suse.kmp("second", modules=("second",))
    assert len(equal(both.call(verb, TWO)).links) == 2


def test_a_kernel_leaves(both):
    """Where its directory goes as well, the script succeeds; else its status is that of rmdir."""
    nvr = both.suse.kmp()
    both.call("--add-kmp", nvr)
    theirs, ours = both.call("--remove-kernel", TWO)
    assert (theirs.status, ours.status) == (1, 0) and theirs.links == ours.links == {}
    place = both.suse.root / "lib/modules/6.4.0-150600.24-default/weak-updates/updates"
    place.mkdir(parents=True)
    (place / "vendor.ko").symlink_to("/usr/lib/modules/%s/updates/vendor.ko" % ONE)
    equal(both.call("--remove-kernel", "6.4.0-150600.24-default"))
    assert not place.parent.parent.exists()


def test_of_two_kmps_with_one_module_the_first_stays(both):
    first = both.suse.kmp()
    both.call("--add-kmp", first)
    second = both.suse.kmp("rival", release=NEWER)
    equal(both.call("--add-kmp", second))


def test_of_two_versions_a_kernel_gets_the_newer(both):
    both.suse.kmp(version="1", release=OLDER)
    both.suse.kmp(version="2", release=NEWER)
    (link,) = equal(both.call("--add-kernel", TWO)).links.values()
    assert NEWER in link


def test_the_packages_version_and_the_kernels_disagree(both):
    both.suse.kmp(version="1", release=NEWER)
    both.suse.kmp(version="2", release=OLDER)
    (link,) = equal(both.call("--add-kernel", TWO)).links.values()
    assert OLDER in link, "the package's version counts"


def test_an_older_version_that_is_added_later_leaves_the_newer_one(both):
    newer = both.suse.kmp(version="2", release=NEWER)
    equal(both.call("--add-kmp", newer))
    older = both.suse.kmp(version="1", release=OLDER)
    assert all(NEWER in link for link in equal(both.call("--add-kmp", older)).links.values())


def test_a_file_of_no_package_lies_there_under_its_name(both):
    nvr = both.suse.kmp()
    place = both.suse.root / "lib/modules" / TWO / "updates"
    place.mkdir(parents=True)
    shutil.copyfile(str(both.suse.root / "lib/modules" / ONE / "updates/vendor.ko"), str(place / "vendor.ko"))
    assert equal(both.call("--add-kmp", nvr)).links == {}


@pytest.mark.parametrize(
    "argv", [(), ("--add-kmp",), ("--add-kernel", "a", "b"), ("--nonsense",), ("--remove-kmp", "a", "b")]
)
def test_a_wrong_command_line(both, argv):
    equal(both.call(*argv))
