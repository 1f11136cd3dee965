# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SUSE's weak-modules2 promises those who call it. The kernels are small fakes laid out as SLES has them;
depmod is real, and so are rpm and the packages that it knows.
"""

import os
import shutil
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli
from tests.forge.ko import LAYOUT, ko
from tests.forge.suse import MISSING, ONE, RT, TWO, Suse

pytestmark = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0, reason="needs root, and %s" % (MISSING or "nothing else")
)


@pytest.fixture
def suse(tmp_path, monkeypatch):
    for name in ("INITRD_IN_POSTTRANS", "TRANSACTIONAL_UPDATE", "WM2_VERBOSE", "WM2_LOGFILE", "WM2_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "root").mkdir()
    return Suse(tmp_path / "root")


TO = "/usr/lib/modules/%s/updates/vendor.ko" % ONE


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
    assert suse.links()[TWO + "/weak-updates/updates/vendor.ko"].startswith(
        "/usr/lib/modules/6.4.0-150600.22"
    )


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
    assert suse.marks() == [ONE, TWO]
    suse.call("--add-kernel", RT)  # that has no image yet, whatever KMPs there are
    assert suse.marks() == sorted([ONE, RT, TWO])


def test_a_kmp_that_is_upgraded_has_the_images_made_again_that_may_have_the_old_one(suse, monkeypatch):
    """Its links stay as they are, and what they lead to is another file."""
    suse.call("--add-kmp", suse.kmp(version="1"))
    suse.rpm("-e", "--justdb", "--nodeps", "--noscripts", "vendor-kmp-default-1-1")
    monkeypatch.setenv("INITRD_IN_POSTTRANS", "1")
    before = suse.links()
    suse.call("--add-kmp", suse.kmp(version="2"))
    assert suse.links() == before and suse.marks() == [ONE, TWO]


def test_of_two_kmps_that_have_a_module_of_one_name_a_kernel_keeps_that_which_it_has(suse):
    first = suse.kmp()
    suse.call("--add-kmp", first)
    before = suse.links()
    status, _out, err = suse.call("-v", "--add-kmp", suse.kmp("rival", release="6.4.0-150600.22-default"))
    assert (status, suse.links()) == (0, before) and "rival" not in err


def test_a_module_that_lies_in_a_kernel_itself_is_not_linked_beside_it(suse):
    nvr = suse.kmp()
    place = suse.root / "lib/modules" / TWO / "updates"
    place.mkdir()
    shutil.copyfile(str(suse.root / "lib/modules" / ONE / "updates/vendor.ko"), str(place / "vendor.ko"))
    assert suse.call("--add-kmp", nvr)[0] == 0 and suse.links() == {}


def test_of_several_versions_the_highest_serves_whatever_kernel_it_was_built_for(suse):
    suse.kmp(version="1", release="6.4.0-150600.22-default")
    suse.kmp(version="2", release="6.4.0-150600.20-default")
    assert suse.call("--add-kernel", TWO)[0] == 0
    assert "150600.20" in suse.links()[TWO + "/weak-updates/updates/vendor.ko"]


def test_the_directory_of_a_kernel_that_has_left_goes_with_its_last_links(suse):
    place = suse.root / "lib/modules/6.4.0-150600.24-default/weak-updates/updates"
    place.mkdir(parents=True)
    (place / "vendor.ko").symlink_to(TO)
    assert suse.call("--remove-kernel", "6.4.0-150600.24-default")[0] == 0
    assert not place.parent.parent.exists()


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
