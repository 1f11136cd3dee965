# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules out of packages: hand-made ones, and those that the families' own tools make."""

import bz2
import gzip
import lzma
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import package
from tests.forge.package import FILES, deb, rpm

MODULES = [
    ("lib/modules/5.14.0-1/extra/vendor/helper.ko.xz", b"helper!"),
    ("lib/modules/5.14.0-1/extra/vendor/vendor.ko", b"module"),
]


def modules(tmp_path, data, name="package.deb"):
    (tmp_path / name).write_bytes(data)
    return sorted(package.modules(Host(str(tmp_path)), "/" + name))


@pytest.mark.parametrize(
    "compress,name",
    [
        (gzip.compress, "data.tar.gz"),
        (lzma.compress, "data.tar.xz"),
        (bz2.compress, "data.tar.bz2"),
        (bytes, "data.tar"),
    ],
)
def test_deb(tmp_path, compress, name):
    assert modules(tmp_path, deb(compress, name)) == MODULES


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, bytes])
def test_rpm(tmp_path, compress):
    assert modules(tmp_path, rpm(compress)) == MODULES


@pytest.mark.parametrize("made", [deb, rpm])
def test_a_path_cannot_lead_out(tmp_path, made):
    assert modules(tmp_path, made(files={"../../etc/evil.ko": b"x"})) == [("etc/evil.ko", b"x")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#!/bin/sh\n",
        deb()[:70],
        deb()[:-30],
        rpm()[:50],
        rpm()[:130],
        rpm(bytes)[:-200],
        rpm()[:-20],
        rpm().replace(b"\x8e\xad\xe8", b"\x8e\xad\xe9"),
    ],
)
def test_what_is_no_whole_package_is_an_error_that_names_it(tmp_path, data):
    with pytest.raises(KmodError) as error:
        modules(tmp_path, data)
    assert error.value.code in ("PACKAGE_DAMAGED", "COMP_CORRUPT")
    assert error.value.what == "/package.deb"
    assert error.value.then


def test_a_package_without_modules(tmp_path):
    with pytest.raises(KmodError) as error:
        modules(tmp_path, deb(files={"usr/bin/tool": b""}))
    assert error.value.code == "NO_MODULES"


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
@pytest.mark.parametrize("form", ["gzip", "xz", "zstd", "none"])
def test_what_dpkg_makes(tmp_path, form):
    tree = tmp_path / "tree"
    control = b"Package: v\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: v\n"
    for path, data in list(FILES.items()) + [("DEBIAN/control", control)]:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Z" + form, "--build", str(tree), str(tmp_path / "p.deb")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert sorted(package.modules(Host(str(tmp_path)), "/p.deb")) == MODULES


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="needs rpmbuild")
@pytest.mark.parametrize("form", ["w9.gzdio", "w2.xzdio", "w3.zstdio"])
def test_what_rpmbuild_makes(tmp_path, form):
    install = "".join(
        "mkdir -p %%{buildroot}/%s\nprintf %%%%s '%s' > %%{buildroot}/%s\n"
        % (path.rsplit("/", 1)[0], data.decode(), path)
        for path, data in FILES.items()
    )
    spec = tmp_path / "v.spec"
    spec.write_text(
        "Name: v\nVersion: 1\nRelease: 1\nSummary: v\nLicense: x\nBuildArch: noarch\n%%description\nv\n%%install\n%s%%files\n%s\n"
        % (install, "\n".join("/" + path for path in FILES))
    )
    subprocess.run(
        [
            "rpmbuild",
            "-bb",
            "--quiet",
            "--define",
            "_topdir %s" % tmp_path,
            "--define",
            "_binary_payload " + form,
            "--define",
            "__os_install_post true",
            str(spec),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (built,) = (tmp_path / "RPMS").rglob("*.rpm")
    assert modules(tmp_path, built.read_bytes(), "package.rpm") == MODULES
