# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Headers are found wherever they lie, and seen where their packages have them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import headers, unpack
from tests.forge.ko import RELEASE
from tests.forge.package import deb
from tests.forge.sources import CONFIG, write
from tests.forge.sources import headers as forged
from tests.forge.symvers import EXPORTS, symvers

DIRECTORY = "/usr/src/linux-headers-" + RELEASE
UNITS = [DIRECTORY, "/usr/src/linux-headers-common", "/usr/lib/linux-kbuild-6.1"]


@pytest.fixture
def root(tmp_path):
    return forged(tmp_path / "root")


def found(path, release=RELEASE, keep="/nowhere"):
    return headers.given([str(path)], release, str(keep))


def code_of(work, *arguments):
    with pytest.raises(KmodError) as caught:
        work(*arguments)
    assert caught.value.then
    return caught.value.code


def seen(its, tmp_path, with_types=True):
    return {mount.place: mount for mount in headers.mounts(its, str(tmp_path), with_types)}


def test_a_root_and_a_build_directory_in_it_are_the_same_headers(root, tmp_path):
    one, other = found(root), found(str(root) + DIRECTORY)
    assert one._replace(origin="") == other._replace(origin="")
    assert one.directory == DIRECTORY and sorted(dict(one.units)) == sorted(UNITS)
    assert one.option("GCC_VERSION") == "10200" and headers.machine(one) == "x86_64"
    mounts = seen(one, tmp_path)
    assert mounts[DIRECTORY].source == str(root) + DIRECTORY
    assert mounts["/usr/lib/modules/%s/build" % RELEASE].link == DIRECTORY
    assert headers.kernel(one).vermagic == RELEASE + " SMP preempt mod_unload modversions "


def test_headers_that_were_rewritten_to_where_they_lie_are_seen_as_they_were(root, tmp_path):
    makefile = root / DIRECTORY[1:] / "Makefile"
    makefile.write_text("include %s/usr/src/linux-headers-common/Makefile\n" % root)
    (root / DIRECTORY[1:] / "scripts").unlink()
    (root / DIRECTORY[1:] / "scripts").symlink_to(str(root) + "/usr/lib/linux-kbuild-6.1/scripts")
    os.utime(str(makefile), (5, 5))
    its = found(root)
    assert sorted(dict(its.units)) == sorted(UNITS)
    mounts = seen(its, tmp_path)
    assert mounts[DIRECTORY + "/scripts"].link == "/usr/lib/linux-kbuild-6.1/scripts"
    copy = mounts[DIRECTORY + "/Makefile"].source
    assert Path(copy).read_text() == "include /usr/src/linux-headers-common/Makefile\n"
    assert os.stat(copy).st_mtime == 5 and its.digest() == found(forged(tmp_path / "again")).digest()


def test_types_are_masked_where_there_is_no_pahole(root, tmp_path):
    write(root, {DIRECTORY[1:] + "/vmlinux": b"x", DIRECTORY[1:] + "/.config": CONFIG})
    assert not found(root).has_types
    write(root, {DIRECTORY[1:] + "/.config": CONFIG + "CONFIG_DEBUG_INFO_BTF_MODULES=y\n"})
    its = found(root)
    assert its.has_types and DIRECTORY + "/vmlinux" not in seen(its, tmp_path)
    assert seen(its, tmp_path, False)[DIRECTORY + "/vmlinux"].source == "/dev/null"


@pytest.mark.parametrize("missing", ["usr/src/linux-headers-common", "usr/lib/linux-kbuild-6.1"])
def test_what_headers_lead_to_has_to_be_there(root, missing):
    shutil.rmtree(str(root / missing))
    assert code_of(found, root) == "HEADERS_INCOMPLETE"


@pytest.mark.parametrize("missing", [".config", "Module.symvers"])
def test_what_no_module_can_be_built_without_has_to_be_there(root, missing):
    (root / DIRECTORY[1:] / missing).unlink()
    assert code_of(found, root) == "HEADERS_INCOMPLETE"


def test_others_are_refused_by_their_release(root, tmp_path):
    assert code_of(found, root, "6.1.0-99-amd64") == "HEADERS_OTHER_RELEASE"
    assert code_of(found, str(root) + DIRECTORY, "6.1.0-99-amd64") == "HEADERS_OTHER_RELEASE"
    (tmp_path / "empty").mkdir()
    assert code_of(found, tmp_path / "empty") == code_of(found, tmp_path / "none") == "HEADERS_MISSING"


def tree(release=RELEASE):
    return {
        "Makefile": "all:\n",
        ".config": CONFIG,
        "Module.symvers": symvers(EXPORTS),
        "include/generated/utsrelease.h": '#define UTS_RELEASE "%s"\n' % release,
    }


@pytest.mark.parametrize(
    "where,directory,units",
    [
        # Enterprise Linux; Arch; SUSE, whose Makefile includes its neighbour's
        ("usr/src/kernels/%s", "/usr/src/kernels/%s", ["/usr/src/kernels/%s"]),
        ("usr/lib/modules/%s/build", "/usr/lib/modules/%s/build", ["/usr/lib/modules/%s/build"]),
        (
            "usr/src/linux-6-obj/x86_64/default",
            "/usr/src/linux-6-obj/x86_64/default",
            ["/usr/src/linux-6", "/usr/src/linux-6-obj"],
        ),
    ],
)
def test_other_families_shapes(tmp_path, where, directory, units):
    def named(text):
        return text % RELEASE if "%" in text else text

    write(tmp_path / "root" / named(where), tree())
    if "obj" in where:
        write(tmp_path / "root/usr/src/linux-6", {"Makefile": "all:\n"})
        (tmp_path / "root" / where / "Makefile").write_text("include ../../../linux-6/Makefile\n")
    its = found(tmp_path / "root")
    assert its.directory == named(directory) and [place for place, _source in its.units] == list(
        map(named, units)
    )


def test_a_tree_of_ones_own_is_seen_in_a_constant_place(tmp_path):
    for name in ("one", "another"):
        its = found(write(tmp_path / name, tree()))
        assert its.directory == "/usr/src/linux-" + RELEASE
        assert dict(its.units) == {its.directory: str(tmp_path / name)}


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_packages_are_unpacked_once_and_found_together(root, tmp_path):
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "/scripts/" not in str(path)
    }
    common = {name: data for name, data in files.items() if "common" in name}
    (tmp_path / "a.deb").write_bytes(
        deb(files={name: data for name, data in files.items() if name not in common})
    )
    (tmp_path / "b.deb").write_bytes(deb(files=common))
    keep = tmp_path / "keep"
    its = headers.given([str(tmp_path / "a.deb"), str(tmp_path / "b.deb")], RELEASE, str(keep))
    assert its.directory == DIRECTORY and its.origin == "a.deb, b.deb"
    (kept,) = keep.iterdir()
    again = headers.given([str(tmp_path / "b.deb"), str(tmp_path / "a.deb")], RELEASE, str(keep))
    assert list(keep.iterdir()) == [kept] and again.units == its.units
    assert code_of(headers.given, [str(tmp_path / "a.deb")], RELEASE, str(keep)) == "HEADERS_INCOMPLETE"
    (tmp_path / "c.txt").write_text("")
    assert code_of(headers.given, [str(tmp_path / "c.txt")], RELEASE, str(keep)) == "HEADERS_MISSING"


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A system with a package manager of ours; answers with its root and what it was called with."""

    def make(tool, script):
        write(tmp_path / "bin", {tool: '#!/bin/sh\necho "$0 $*" >> %s/calls\n%s' % (tmp_path, script)})
        write(tmp_path / "system/usr/bin", {tool: "#!/bin/sh\n"})
        monkeypatch.setenv("PATH", "%s:%s" % (tmp_path / "bin", os.environ["PATH"]))
        return str(tmp_path / "system")

    return make


def called(tmp_path):
    return [line.split("/")[-1] for line in (tmp_path / "calls").read_text().splitlines()]


@pytest.mark.skipif(not shutil.which("rpm2cpio") or not shutil.which("rpmbuild"), reason="needs rpm")
def test_zypper_is_asked_for_the_flavours_and_the_common_package(tmp_path, manager):
    release = "6.4.0-150600.23.53-default"
    rpm = tmp_path / "made.rpm"
    shutil.copy(str(built_rpm(tmp_path)), str(rpm))
    system = manager(
        "zypper",
        'case "$*" in *search*)\n'
        'for v in 23.50.1 23.53.1 23.53.2; do echo "<solvable status=\\"x\\" edition=\\"6.4.0-150600.$v\\"/>"; done;;\n'
        '*) for last; do :; done; while [ "$1" != --pkg-cache-dir ]; do shift; done; mkdir -p $2/repo; cp %s $2/repo/;; esac'
        % rpm,
    )
    directory = unpack.fetched(system, release, str(tmp_path / "keep"))
    assert os.listdir(os.path.join(directory, "usr/src"))
    assert (
        "kernel-default-devel=6.4.0-150600.23.53.2 kernel-devel=6.4.0-150600.23.53.2" in called(tmp_path)[-1]
    )
    assert unpack.fetched(system, release, str(tmp_path / "keep")) == directory
    assert len([line for line in called(tmp_path) if "download" in line]) == 1


def built_rpm(tmp_path):
    spec = write(
        tmp_path / "spec",
        {
            "x.spec": "Name: kernel-devel\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\n%install\n"
            "mkdir -p %{buildroot}/usr/src/kernels/x; touch -d @5 %{buildroot}/usr/src/kernels/x/Makefile\n%files\n/usr/src/kernels\n"
        },
    )
    subprocess.run(
        [
            "rpmbuild",
            "-bb",
            "--define",
            "_topdir %s" % tmp_path,
            "--define",
            "_rpmdir %s/rpms" % tmp_path,
            str(spec / "x.spec"),
        ],
        check=True,
        capture_output=True,
    )
    return next((tmp_path / "rpms").rglob("*.rpm"))


@pytest.mark.skipif(not shutil.which("rpm2cpio") or not shutil.which("rpmbuild"), reason="needs rpm")
def test_dnf_is_asked_by_the_release_and_times_are_kept(tmp_path, manager):
    rpm = built_rpm(tmp_path)
    script = 'case "$*" in *repoquery*) echo kernel-devel-1-1.noarch;; *) while [ "$1" != --destdir ]; do shift; done; cp %s $2/;; esac'
    directory = unpack.fetched(manager("dnf", script % rpm), "5.14.0-1.el9.x86_64", str(tmp_path / "keep"))
    assert os.stat(os.path.join(directory, "usr/src/kernels/x/Makefile")).st_mtime == 5
    assert "kernel-devel-uname-r = 5.14.0-1.el9.x86_64" in called(tmp_path)[0]


def test_what_is_not_offered_is_none_but_what_was_fetched_before_is_used(tmp_path, manager):
    system = manager("dnf", "exit 0")
    assert unpack.fetched(system, RELEASE, str(tmp_path / "keep")) is None
    (tmp_path / "keep" / (RELEASE + "_0123456789ab")).mkdir(parents=True)
    assert unpack.fetched(system, RELEASE, str(tmp_path / "keep")).endswith("_0123456789ab")
    (tmp_path / "none/usr/bin").mkdir(parents=True)
    assert code_of(unpack.fetched, str(tmp_path / "none"), RELEASE, str(tmp_path / "keep")) == "TOOL_MISSING"
