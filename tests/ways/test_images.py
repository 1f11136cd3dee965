# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images of docs/images.md, with a real kernel of Debian's and a real driver, which is taken out of the kernel's
own tree first, as its vendor would ship it."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import CHECKOUT
from tests.boot.initrd import images as systems
from tests.lab import debian, drivers
from tests.readme import pages
from tests.ways.given import run, settings

DRIVER = "ena"
IN_TREE = "find $1/usr/lib/modules $1/lib/modules -name '%s.ko*' -delete; depmod -b $1 %s"

# A directory with a kernel and what starts it, from the mirror that this machine uses.
MKOSI = """[Distribution]
Distribution=debian
Release=trixie
[Output]
Format=directory
Output=image
[Content]
Bootable=yes
Bootloader=systemd-boot
UnifiedKernelImages=no
Packages=%s,systemd,systemd-boot,udev,kmod
"""
# in a system that others use too: what it keeps goes with the mounts
IN_MKOSI = """for name in resolv.conf hosts; do mount --bind /mnt/$name /etc/$name; done
for directory in /var/tmp /var/cache /root; do mount -t tmpfs tmpfs $directory; done
cd /mnt; mkosi build"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("mmdebstrap", "depmod", "unshare"))),
    reason="needs root, mmdebstrap and depmod",
)


@pytest.fixture(scope="session")
def kernel():
    """The newest kernel of bookworm's own series."""
    offered = debian.kernels("bookworm", flavour="cloud-amd64")
    series = ".".join(offered[0].release.split(".")[:2]) + "."
    return [image for image in offered if image.release.startswith(series)][-1]


@pytest.fixture(scope="session")
def builds(kernel, tmp_path_factory):
    directory = tmp_path_factory.mktemp("builds") / "mydriver"
    (directory / kernel.release).mkdir(parents=True)
    shutil.copy2(next(debian.tree(kernel).rglob(DRIVER + ".ko*")), directory / kernel.release)
    return directory


@pytest.fixture(scope="session")
def kmodctl(tmp_path_factory):
    made = tmp_path_factory.mktemp("kmodctl") / "kmodctl"
    subprocess.run([sys.executable, str(CHECKOUT / "tools/build_kmodctl.py"), str(made)], check=True)
    return made


def told(page):
    """The page's mmdebstrap command, taken apart."""
    (command,) = [each for each in pages.elsewhere(page) if each.startswith("mmdebstrap")]
    return shlex.split(command)


def test_mmdebstraps_hooks_make_links_a_variant_and_an_entry(kernel, builds, kmodctl, tmp_path):
    words = told("docs/images.md")
    (include,) = [word[len("--include=") :] for word in words if word.startswith("--include=")]
    hooks = [
        word.replace("build/kmodctl", str(kmodctl))
        .replace("--driver mydriver", "--driver " + DRIVER)
        .replace("builds/mydriver", str(builds))
        for word in words
        if word.startswith("--customize-hook=")
    ]
    assert len(hooks) == 3
    packages = include.replace("linux-image-cloud-amd64", kernel.package).split(",")
    root = tmp_path / "root"
    debian.system(
        "bookworm",
        root,
        [*packages, "zstd"],
        "--customize-hook=" + IN_TREE % (DRIVER, kernel.release),
        *hooks,
    )
    driver = "extra/%s/%s.ko" % (DRIVER, DRIVER)
    assert (root / "lib/modules" / kernel.release / driver).exists()
    assert driver + ":" in (root / "lib/modules" / kernel.release / "modules.dep").read_text()
    variant = root / "boot" / ("initrd.img-%s.1" % kernel.release)
    listed = subprocess.run(
        [sys.executable, str(kmodctl), "variant", "--list", str(variant)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "updates/%s.ko" % DRIVER in listed.stdout
    menu = (root / "boot/extlinux/extlinux.conf").read_text()
    assert "initrd /boot/%s\n" % variant.name in menu and re.search(r"^default l0$", menu, re.M)


def test_the_role_gives_an_image_root_its_driver_and_has_it_follow(kernel, builds, tmp_path):
    (play,) = [each for each in pages.elsewhere("docs/images.md") if each.startswith("ansible-playbook")]
    root = tmp_path / "image"
    shutil.copytree(debian.tree(kernel), root, symlinks=True)
    run(["sh", "-c", IN_TREE % (DRIVER, kernel.release), "sh", root], settings(tmp_path))
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    words = [
        word.replace("/srv/image", str(root))
        .replace("kmod_driver=mydriver", "kmod_driver=" + DRIVER)
        .replace("builds/mydriver", str(builds))
        for word in shlex.split(play)
    ]
    more = ["-e", "ansible_python_interpreter=" + sys.executable]
    more += ["-e", "kmod_initrd=false", "-e", "kmod_entry=false"]  # the table's last row: a kernel alone
    failed, said = run([*words, *more], settings(tmp_path))
    assert not failed and "changed=1" in said, said
    assert list(root.glob("lib/modules/*/extra/%s/%s.ko" % (DRIVER, DRIVER)))
    assert (root / "usr/local/sbin/kmodctl").exists()
    assert (root / "etc/kernel/postinst.d/zzz-outoftree-kmod").exists()
    failed, said = run([*words, *more], settings(tmp_path))
    assert not failed and "changed=0" in said, said


def test_mkosis_script_has_the_driver_in_the_image_and_in_what_it_starts_with(kmodctl, tmp_path):
    kernel = systems.kernel("trixie")
    shutil.copy2(kmodctl, tmp_path / "kmodctl")
    (tmp_path / "builds/mydriver" / kernel.release).mkdir(parents=True)
    shutil.copy2(drivers.edu(kernel)[0], tmp_path / "builds/mydriver" / kernel.release)
    shutil.copy2(CHECKOUT / "docs/examples/mkosi/mkosi.postinst", tmp_path)
    (tmp_path / "mkosi.conf").write_text(MKOSI % kernel.package)
    apt = tmp_path / "mkosi.sandbox/etc/apt"
    for path, text in {
        "sources.list.d/mkosi.sources": debian.sources("trixie"),
        "apt.conf.d/machine": "\n".join([*debian.inherited(), ""]),
    }.items():
        (apt / path).parent.mkdir(parents=True)
        (apt / path).write_text(text)
    for name in ("resolv.conf", "hosts"):
        shutil.copy2("/etc/" + name, tmp_path)
    systems.run_in(systems.root("trixie", "mkosi-initrd"), tmp_path, IN_MKOSI)
    modules = tmp_path / "image/usr/lib/modules" / kernel.release
    assert "extra/mydriver/ootedu.ko:" in (modules / "modules.dep").read_text()
    (entry,) = (tmp_path / "image/boot/loader/entries").iterdir()
    early = tmp_path / "early"  # as the loader puts them into memory: one has the directories of the other
    with early.open("wb") as whole:
        for path in re.findall(r"^initrd (\S+)$", entry.read_text(), re.M):
            data = (tmp_path / "image/boot" / path.lstrip("/")).read_bytes()
            whole.write(data + bytes(-len(data) % 4))
    listed = subprocess.run(
        [sys.executable, str(kmodctl), "variant", "--list", str(early)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "/%s/extra/mydriver/ootedu.ko\n" % kernel.release in listed.stdout
