# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SUSE's weak-modules2 promises those who call it. The kernels are small fakes laid out as SLES has them;
depmod is real, and so are rpm and the packages that it knows.
"""

import io
import os
import shutil
import subprocess
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli, weak_modules2
from tests.forge import families
from tests.forge.ko import LAYOUT, ko

NEED = [tool for tool in ("depmod", "rpm", "rpmbuild") if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(
    bool(NEED) or os.geteuid() != 0, reason="needs root, and %s" % (NEED or "nothing else")
)
ONE, TWO, RT = "6.4.0-150600.21-default", "6.4.0-150600.23-default", "6.4.0-150600.23-rt"
LINK = "lib/modules/%s/weak-updates/updates/vendor.ko"


class Suse:
    def __init__(self, root):
        self.root = root
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


@pytest.fixture
def suse(tmp_path, monkeypatch):
    for name in ("INITRD_IN_POSTTRANS", "TRANSACTIONAL_UPDATE", "WM2_VERBOSE", "WM2_LOGFILE", "WM2_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "root").mkdir()
    return Suse(tmp_path / "root")


TO = "/lib/modules/%s/updates/vendor.ko" % ONE


def test_a_kmp_serves_the_kernels_of_its_flavor_with_its_whole_path(suse):
    nvr = suse.kmp()
    status, out, err = suse.call("-v", "--add-kmp", nvr)
    assert (status, out) == (0, "")
    assert suse.links() == {TWO + "/weak-updates/updates/vendor.ko": TO}  # not the rt kernel
    assert "Package %s does not need to be added to kernel %s\n" % (nvr, ONE) in err
    assert "Package %s added to kernel %s\n" % (nvr, TWO) in err
    assert "weak-updates/updates/vendor.ko" in (suse.root / "lib/modules" / TWO / "modules.dep").read_text()
    assert suse.call("--add-kmp", nvr)[0] == 0


def test_a_kmp_is_added_as_a_whole_or_not_at_all(suse):
    nvr = suse.kmp(modules=("vendor", "other"), needs=("both",))
    path = suse.root / "lib/modules" / ONE / "updates/other.ko"
    path.write_bytes(ko("other", [LAYOUT, ("old", 0x5)], release=ONE, modinfo={"name": "other"}))
    status, _out, err = suse.call("-v", "--add-kmp", nvr)
    assert (status, suse.links()) == (0, {}) and "Package %s added to kernel" % nvr not in err


def test_a_module_that_no_package_has_is_not_seen(suse):
    nvr = suse.kmp()
    suse.rpm("-e", "--justdb", "--nodeps", "--noscripts", nvr)
    status, _out, err = suse.call("--add-kmp", nvr)
    assert (status, suse.links()) == (0, {})
    assert "%s does not contain any kernel modules" % nvr in err


def test_a_kmp_of_the_kernels_own_is_left(suse):
    suse.kmp(more="Provides: kmp_in_kernel")
    assert suse.call("--add-kernel", TWO)[0] == 0
    assert suse.links() == {}


def test_a_kernel_that_arrives_gets_all_that_fit(suse):
    suse.kmp()
    suse.kmp("unfit", modules=("unfit",), needs=("old",))
    for verb in ("--add-kernel", "--add-kernel-modules", "--remove-kernel-modules"):
        shutil.rmtree(str(suse.root / "lib/modules" / TWO / "weak-updates"), ignore_errors=True)
        status, _out, err = suse.call("--verbose", verb, TWO, lines=["/ignored.ko"] * ("modules" in verb))
        assert status == 0 and list(suse.links()) == [TWO + "/weak-updates/updates/vendor.ko"]
        assert "Package vendor-kmp-default-1-1 added to kernel %s" % TWO in err and "unfit" not in err


@pytest.mark.parametrize("files", ["gone", "there"])
def test_a_kmp_that_goes_takes_its_links_along(suse, files):
    nvr = suse.kmp()
    suse.call("--add-kmp", nvr)
    listed = suse.erase(nvr)
    if files == "gone":
        os.remove(str(suse.root / "lib/modules" / ONE / "updates/vendor.ko"))
    status, _out, err = suse.call("-v", "--remove-kmp", nvr, lines=listed)
    assert (status, suse.links()) == (0, {})
    assert "Package %s removed from kernel %s\n" % (nvr, TWO) in err
    assert "weak-updates" not in (suse.root / "lib/modules" / TWO / "modules.dep").read_text()


def test_another_version_takes_the_place_of_one_that_goes(suse):
    old = suse.kmp(version="1")
    suse.call("--add-kmp", old)
    new = suse.kmp(version="2", release="6.4.0-150600.22-default")
    listed = suse.erase(old)
    os.remove(str(suse.root / "lib/modules" / ONE / "updates/vendor.ko"))
    status, _out, err = suse.call("-v", "--remove-kmp", old, lines=listed)
    assert status == 0 and "Package %s replaced by package %s in kernel %s\n" % (old, new, TWO) in err
    assert suse.links()[TWO + "/weak-updates/updates/vendor.ko"].startswith("/lib/modules/6.4.0-150600.22")


def test_a_kernel_that_leaves_loses_its_links(suse):
    suse.call("--add-kmp", suse.kmp())
    assert suse.call("--remove-kernel", TWO) == (0, "", "")
    assert suse.links() == {}
    assert suse.call("--remove-kernel", "6.4.0-9-default")[0] == 0


def test_images_are_left_to_the_end_of_the_transaction(suse, monkeypatch):
    """The distribution's own regenerate-initrd-posttrans looks at the marks."""
    monkeypatch.setenv("INITRD_IN_POSTTRANS", "1")
    nvr = suse.kmp()
    assert suse.call("--add-kmp", nvr, "--dry-run") == (0, "", "") and suse.marks() == []
    suse.call("--add-kmp", nvr)
    assert suse.marks() == [TWO]
    suse.call("--add-kernel", RT)  # that has no image yet, whatever KMPs there are
    assert suse.marks() == sorted([RT, TWO])


def test_without_that_a_kernel_that_has_no_image_is_told_of(suse):
    status, _out, err = suse.call("--add-kernel", TWO)
    assert status == 0 and suse.marks() == []
    assert "kernel %s has no initrd yet" % TWO in err


def test_a_dry_run_changes_nothing(suse):
    nvr = suse.kmp()
    status, _out, err = suse.call("--dry-run", "-v", "--add-kmp", nvr)
    assert (status, suse.links()) == (0, {}) and "Package %s added to kernel %s" % (nvr, TWO) in err


@pytest.mark.parametrize(
    "argv,why",
    [
        ([], "Please specify one of the --add-* or --remove-* options"),
        (["--add-kmp"], "Option --add-kmp requires exactly one argument"),
        (["--remove-kmp", "a", "b"], "Option --remove-kmp requires exactly one argument"),
        (["--add-kernel", "a", "b"], "Too many arguments to --add-kernel"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_a_wrong_command_line_ends_with_1(suse, argv, why):
    status, out, err = suse.call(*argv)
    assert (status, out) == (1, "") and why in err and "Usage:" in err


def test_what_the_environment_says_counts(suse, monkeypatch, tmp_path):
    nvr = suse.kmp()
    monkeypatch.setenv("WM2_VERBOSE", "1")
    monkeypatch.setenv("WM2_LOGFILE", str(tmp_path / "log"))
    _status, _out, err = suse.call("--add-kmp", nvr)
    assert err == "weak-modules2: appending output to %s\n" % (tmp_path / "log")
    assert "Package %s added to kernel %s\n" % (nvr, TWO) in (tmp_path / "log").read_text()


def test_help_ends_with_0_and_options_may_be_cut_short(suse):
    assert suse.call("--usage")[0] == suse.call("-h")[0] == 0
    nvr = suse.kmp()
    assert suse.call("--add-km", nvr, "--verb")[0] == 0 and len(suse.links()) == 1


def test_it_is_called_by_its_name_and_by_that_of_kmodctl(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/lib/module-init-tools/weak-modules2", "--usage"])
    assert cli.main() == 0
    assert "--add-kmp kmp-name-version-release" in capsys.readouterr().out
    assert cli.main(["weak-modules2", "--usage"]) == 0
