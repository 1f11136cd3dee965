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
from tests.lab import debian
from tests.readme import pages
from tests.ways.given import run, settings

DRIVER = "ena"
IN_TREE = "find $1/usr/lib/modules $1/lib/modules -name '%s.ko*' -delete; depmod -b $1 %s"

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


def test_mkosi_makes_an_image_whose_kernel_has_the_driver(kernel, builds, kmodctl, tmp_path):
    """mkosi of Debian 13, in a container of its own."""
    if not all(map(shutil.which, ("podman", "runc"))):
        pytest.skip("needs podman and runc")
    made = debian.once(
        debian.cache() / "containers/trixie-mkosi",
        lambda directory: debian.system(
            "trixie",
            directory / "root.tar",
            [
                "ca-certificates",
                "mkosi",
                "python3",
                "kmod",
                "cpio",
                "zstd",
                "systemd",
                "debian-archive-keyring",
            ]
            + ["bubblewrap", "uidmap"],
        ),
    )
    podman = ["podman", "--runtime=runc"]
    subprocess.run([*podman, "import", "--quiet", str(made / "root.tar"), "localhost/kmod-mkosi"], check=True)
    source = tmp_path / "image"
    source.mkdir()
    shutil.copy2(CHECKOUT / "docs/examples/mkosi/mkosi.postinst", source)
    shutil.copy2(kmodctl, source / "kmodctl")
    shutil.copytree(builds, source / "builds/mydriver")
    (source / "mkosi.conf").write_text(
        "[Distribution]\nDistribution=debian\nRelease=bookworm\n[Output]\nFormat=directory\nOutputDirectory=out\n"
        "[Content]\nBootable=no\nPackages=kmod %s\n" % kernel.package
    )
    # The machine's own mirror, and no repository of debug symbols besides; mkosi leaves such files as they are.
    lists = source / "mkosi.sandbox/etc/apt/sources.list.d"
    lists.mkdir(parents=True)
    for name in ("bookworm", "mkosi"):  # as it is called until and since mkosi 26
        (lists / (name + ".sources")).write_text(debian.sources("bookworm"))
    failed, said = run(
        [*podman, "run", "--rm", "--privileged", "--network=host"]
        + ["--ulimit=nofile=1024:20000", "--ulimit=nproc=1024:2000"]
        + ["-v", "/etc/ssl/certs:/etc/ssl/certs:ro", "-v", "%s:/image" % source, "-w", "/image"]
        + ["localhost/kmod-mkosi", "mkosi", "--force", "build"],
        settings(tmp_path),
    )
    assert not failed, said[-4000:]
    (root,) = [path for path in (source / "out").iterdir() if (path / "usr/lib/modules").is_dir()]
    tree = root / "usr/lib/modules" / kernel.release
    assert (tree / "extra/mydriver" / (DRIVER + ".ko")).exists()
    assert "extra/mydriver/%s.ko:" % DRIVER in (tree / "modules.dep").read_text()
