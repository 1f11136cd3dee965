# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written into package managers' files so that they leave a kernel alone, and that nothing of it is
left. tests/transactions/test_hold.py has them read it.
"""

import os
import re
from fnmatch import fnmatchcase

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import hold_files, kernel_holds
from ansible_collections.outoftree.kmod.plugins.module_utils.place.hold_files import Hold
from tests.forge import families

DEBIAN, EL, SUSE = "6.1.0-56-amd64", "5.14.0-611.el9.x86_64", "6.4.0-150600.23.17-default"
APT = "etc/apt/preferences.d/00-outoftree-kmod"
# family -> what its os-release says, the program, its file, what others have in it (None: no file)
MANAGERS = {
    "apt": ("debian", "usr/bin/apt-get", APT, None),
    "dnf 4": ("rhel", "usr/bin/dnf-3", "etc/dnf/dnf.conf", "[main]\ngpgcheck=1\nexcludepkgs=nginx\n"),
    "dnf 4, no file": ("rhel", "usr/bin/dnf-3", "etc/dnf/dnf.conf", None),
    "dnf 4, with a repository": (
        "rhel",
        "usr/bin/dnf-3",
        "etc/dnf/dnf.conf",
        "# mine\n[main]\nbest=True\n\n[repo]\nexcludepkgs=x\nexclude=y\nbaseurl=file:///",
    ),
    "dnf 4, no section": ("rhel", "usr/bin/dnf-3", "etc/dnf/dnf.conf", "# nothing yet"),
    "dnf 4, cut off": ("rhel", "usr/bin/dnf-3", "etc/dnf/dnf.conf", "[main]"),
    "dnf 5": ("fedora", "usr/bin/dnf5", "etc/dnf/libdnf5.conf.d/outoftree-kmod.conf", None),
    "yum": ("rhel 7", "usr/bin/yum", "etc/yum.conf", "[main]\nkeepcache=0\n"),
    "zypper": (
        "sles",
        "usr/bin/zypper",
        "etc/zypp/locks",
        "\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: nginx\n",
    ),
    "zypper, no file": ("sles", "usr/bin/zypper", "etc/zypp/locks", None),
    "zypper, cut off": ("sles", "usr/bin/zypper", "etc/zypp/locks", "type: package\nsolvable_name: x"),
}


def host_of(root, manager):
    family, program, path, text = MANAGERS[manager]
    name, _space, version = family.partition(" ")
    files = {"etc/os-release": "ID=%s\nVERSION_ID=%s\n" % (name, version or "9"), program: ""}
    if text is not None:
        files[path] = text
    for each, content in files.items():
        (root / each).parent.mkdir(parents=True, exist_ok=True)
        (root / each).write_text(content)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    return Host(str(root))


@pytest.fixture(params=MANAGERS)
def managed(request, tmp_path):
    """(host, the file)"""
    return host_of(tmp_path, request.param), tmp_path / MANAGERS[request.param][2]


def write(host, *holds):
    plan = kernel_holds.write(host, kernel_holds.in_order(holds))
    plan.apply()
    return plan


def contents(root):
    return {
        os.path.join(directory, name): (
            os.lstat(os.path.join(directory, name)).st_mode,
            data(directory, name),
        )
        for directory, _names, files in os.walk(str(root))
        for name in files
    }


def data(directory, name):
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()


def test_what_is_held_is_found_again_and_goes_without_a_trace(managed, tmp_path):
    host, path = managed
    before = contents(tmp_path)
    holds = [Hold(EL, "a", "put_page differs"), Hold(EL, "b", "no build"), Hold(DEBIAN, "a", "ümläut: x")]
    write(host, *holds)
    assert set(kernel_holds.read(host)) == set(holds)
    assert not write(host, *holds), "the second time there is nothing to do"
    write(host, holds[1])
    assert kernel_holds.read(host) == [holds[1]]
    write(host)
    assert kernel_holds.read(host) == []
    assert contents(tmp_path) == before


def test_no_line_of_others_is_touched(managed, tmp_path):
    host, path = managed
    before = path.read_text().splitlines() if path.exists() else []
    write(host, Hold(EL, "a", "x"))
    left = iter(path.read_text().splitlines())
    assert all(line in left for line in before), "all there, and in their order"
    if before:
        path.write_text(path.read_text().rstrip("\n") + "\n# added since\n")
        write(host)
        assert path.read_text().splitlines() == [*before, "# added since"]


def test_the_driver_and_the_reason_are_told_where_an_admin_looks(managed):
    host, path = managed
    write(host, Hold(SUSE, "my-driver", "the version of put_page differs"))
    assert re.search(
        "%s my-driver: the version of put_page differs$" % re.escape(SUSE), path.read_text(), re.M
    )


def rules(path):
    """What is no comment."""
    return [line for line in path.read_text().split("\n") if not re.match("#|Explanation:|comment:", line)]


HOSTILE = (
    "two\nlines\nexcludepkgs=*",
    "a | outoftree.kmod hold 9.9 other: b",
    "outoftree.kmod hold 9.9 other: b",
    "### END outoftree.kmod outoftree.kmod kernels ###",
    "x\r\x1b[2J\u2028Pin-Priority: 1",
    "\udcff\udc80",
    "y" * 10000,
)


@pytest.mark.parametrize("reason", HOSTILE)
def test_a_reason_is_one_comment_whatever_is_in_it(managed, tmp_path, reason):
    host, path = managed
    before = contents(tmp_path)
    write(host, Hold(EL, "a", "x"), Hold(EL, "b", "z"))
    plain = rules(path)
    hold = kernel_holds.check(EL, "a", reason)
    write(host, hold, Hold(EL, "b", "z"))
    assert [(each.kernel, each.driver) for each in kernel_holds.read(host)] == [(EL, "a"), (EL, "b")]
    assert rules(path) == plain
    assert not write(host, hold, Hold(EL, "b", "z"))
    write(host)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "kernel, driver, reason, code",
    [
        ("../6.1", "a", "x", "RELEASE_NAME"),
        ("6.1 *", "a", "x", "RELEASE_NAME"),
        ("6.1*", "a", "x", "RELEASE_NAME"),
        ("*", "a", "x", "RELEASE_NAME"),
        ("", "a", "x", "RELEASE_NAME"),
        ("6.1", "a b", "x", "DRIVER_NAME"),
        ("6.1", "a:\n", "x", "DRIVER_NAME"),
        ("6.1", "a", " ", "HOLD_REASON"),
    ],
)
def test_what_no_kernel_and_no_driver_can_be_called_is_refused(kernel, driver, reason, code):
    with pytest.raises(KmodError) as refused:
        kernel_holds.check(kernel, driver, reason)
    assert refused.value.code == code


# Whole kernels, and no others

APT_NAMES = (
    "linux-image-6.1.0-56-amd64",
    "linux-image-6.1.0-56-amd64-unsigned",
    "linux-image-6.1.0-56-amd64-dbg",
    "linux-image-unsigned-6.1.0-56-amd64",
    "linux-headers-6.1.0-56-amd64",
    "linux-modules-extra-6.1.0-56-amd64",
    "linux-binary-6.1.0-56-amd64",
    "linux-6.1.0-56-amd64",
)
NOT_APT_NAMES = (
    "linux-image-amd64",
    "linux-image-6.1.0-55-amd64",
    "linux-image-6.1.0-5-amd64",
    "linux-image-16.1.0-56-amd64",
    "linux-image-6.1.0-56-cloud-amd64",
    "linux-image-6.1.0-56-rt-amd64",
    "linux-headers-6.1.0-56-common",
    "linux-image-6x1.0-56-amd64",
    "linux-image-6.1.0-56-amd64-mine",
    "foo-linux-image-6.1.0-56-amd64",
)


def test_apt_is_told_of_every_package_of_a_kernel_and_of_no_other():
    pattern = hold_files.apt_packages(DEBIAN)
    assert pattern.startswith("/") and pattern.endswith("/")
    assert [name for name in APT_NAMES + NOT_APT_NAMES if re.search(pattern[1:-1], name)] == list(APT_NAMES)


@pytest.mark.parametrize(
    "release, held, others",
    [
        (
            EL,
            ("kernel-5.14.0-611.el9.x86_64", "kernel-core-5.14.0-611.el9.x86_64"),
            (
                "kernel-core-5.14.0-611.5.1.el9.x86_64",
                "kernel-core-5.14.0-611.el9_7.x86_64",
                "nginx-1-1.x86_64",
            ),
        ),
        (
            EL + "+rt",
            ("kernel-rt-5.14.0-611.el9.x86_64", "kernel-rt-modules-core-5.14.0-611.el9.x86_64"),
            ("kernel-core-5.14.0-611.el9.x86_64", "kernel-debug-core-5.14.0-611.el9.x86_64"),
        ),
    ],
)
def test_rpm_managers_are_told_of_every_package_of_a_kernel_and_of_no_other(release, held, others):
    glob = hold_files.rpm_packages(release)
    assert all(fnmatchcase(name, glob) for name in held)
    assert not any(fnmatchcase(name, glob) for name in others)


# What is not as it was left


def test_dnf_has_two_names_for_the_option_and_the_free_one_is_taken(tmp_path):
    host = host_of(tmp_path, "dnf 4")
    path = tmp_path / "etc/dnf/dnf.conf"
    write(host, Hold(EL, "a", "x"))
    assert "exclude=kernel*-%s\n" % EL in path.read_text()
    write(host)
    path.write_text("[main]\nexclude = nginx\n")
    write(host, Hold(EL, "a", "x"))
    assert "excludepkgs=kernel*-%s\n" % EL in path.read_text()


@pytest.mark.parametrize(
    "manager, text",
    [("dnf 4", "[main]\nexclude: a\nexcludepkgs = b\n"), ("yum", "[main]\nexclude=a\n")],
)
def test_where_neither_is_free_it_is_said_what_to_add(tmp_path, manager, text):
    host = host_of(tmp_path, manager)
    path = tmp_path / MANAGERS[manager][2]
    path.write_text(text)
    with pytest.raises(KmodError, match=r"Add there: kernel\*-" + re.escape(EL)) as refused:
        write(host, Hold(EL, "a", "x"))
    assert refused.value.code == "HOLD_FOREIGN"
    assert path.read_text() == text


@pytest.mark.parametrize("manager", ["apt", "dnf 5"])
def test_a_file_of_others_at_a_place_of_ours_stays(tmp_path, manager):
    host = host_of(tmp_path, manager)
    path = tmp_path / MANAGERS[manager][2]
    path.write_text("Package: nginx\n")
    with pytest.raises(KmodError) as refused:
        write(host, Hold(EL, "a", "x"))
    assert refused.value.code == "FOREIGN_FILE"
    assert not write(host)
    assert path.read_text() == "Package: nginx\n"


@pytest.mark.parametrize("manager", ["apt", "dnf 5"])
@pytest.mark.parametrize("left", [0, 60, -20])
def test_a_file_of_ours_that_was_cut_off_is_written_anew_or_goes(tmp_path, manager, left):
    host = host_of(tmp_path, manager)
    path = tmp_path / MANAGERS[manager][2]
    write(host, Hold(EL, "a", "x"))
    whole = path.read_text()
    path.write_text(whole[:left])
    write(host, Hold(EL, "a", "x"))
    assert path.read_text() == whole
    path.write_text(whole[:left])
    write(host)
    assert not path.exists()


@pytest.mark.parametrize("manager", ["dnf 4", "yum", "zypper"])
@pytest.mark.parametrize("mark", ["BEGIN", "END"])
def test_a_block_without_one_of_its_marks_is_left_and_said(tmp_path, manager, mark):
    host = host_of(tmp_path, manager)
    path = tmp_path / MANAGERS[manager][2]
    write(host, Hold(EL, "a", "x"))
    path.write_text(re.sub("### %s .*\n" % mark, "", path.read_text()))
    damaged = path.read_text()
    assert [each.kernel for each in kernel_holds.read(host)] == [EL], "it is held all the same"
    for holds in ([], [Hold(EL, "b", "y")]):
        with pytest.raises(KmodError) as refused:
            write(host, *holds)
        assert refused.value.code == "HOLD_DAMAGED"
    assert path.read_text() == damaged


def test_a_link_in_the_place_of_a_file_is_left(tmp_path):
    host = host_of(tmp_path, "dnf 4")
    path = tmp_path / "etc/dnf/dnf.conf"
    path.rename(tmp_path / "etc/shared.conf")
    path.symlink_to("../shared.conf")
    with pytest.raises(KmodError) as refused:
        write(host, Hold(EL, "a", "x"))
    assert refused.value.code == "HOLD_LINK"


def test_modes_stay(tmp_path):
    host = host_of(tmp_path, "dnf 4")
    path = tmp_path / "etc/dnf/dnf.conf"
    path.chmod(0o600)
    write(host, Hold(EL, "a", "x"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_zypper_drops_the_marks_and_the_records_are_known_by_their_comments(tmp_path):
    host = host_of(tmp_path, "zypper")
    path = tmp_path / "etc/zypp/locks"
    write(host, Hold(SUSE, "a", "x"), Hold(SUSE, "b", "y"))
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    path.write_text("\n".join(lines).strip("\n") + "\n\n")  # as Locks::save writes it
    assert [(each.driver, each.reason) for each in kernel_holds.read(host)] == [("a", "x"), ("b", "y")]
    write(host, Hold(SUSE, "b", "y"))
    assert kernel_holds.read(host) == [Hold(SUSE, "b", "y")]
    write(host)
    assert "kernel" not in path.read_text() and "solvable_name: nginx" in path.read_text()


def test_a_host_with_another_manager_by_now_is_held_by_that_one(tmp_path):
    host = host_of(tmp_path, "dnf 4")
    write(host, Hold(EL, "a", "x"))
    (tmp_path / "usr/bin/dnf-3").unlink()
    host = host_of(tmp_path, "dnf 5")
    write(host, Hold(EL, "a", "x"))
    assert "kernel*" not in (tmp_path / "etc/dnf/dnf.conf").read_text()
    assert (tmp_path / "etc/dnf/libdnf5.conf.d/outoftree-kmod.conf").exists()
    assert kernel_holds.read(host) == [Hold(EL, "a", "x")]


def test_without_a_package_manager_it_is_refused(tmp_path):
    host = Host(str(tmp_path))
    with pytest.raises(KmodError) as refused:
        write(host, Hold(EL, "a", "x"))
    assert refused.value.code == "NO_HOLD"
    assert not write(host)


# The end of it


def test_a_hold_is_over_once_the_kernel_is_installed_or_the_driver_has_a_build_or_is_gone(tmp_path):
    host = host_of(tmp_path, "apt")
    families.kernel(tmp_path, "6.1.0-55-amd64")
    held = [Hold("6.1.0-55-amd64", "a", "x"), Hold(DEBIAN, "a", "x"), Hold(DEBIAN, "b", "x")]
    write(host, *held)
    kernel_holds.settle(host).apply()
    assert kernel_holds.read(host) == held[1:]
    assert not kernel_holds.settle(host, "a", stored=["6.1.0-99-amd64"])
    assert not kernel_holds.settle(host, "c", gone=True)
    kernel_holds.settle(host, "a", stored=[DEBIAN]).apply()
    assert kernel_holds.read(host) == held[2:]
    kernel_holds.settle(host, "b", gone=True).apply()
    assert kernel_holds.read(host) == [] and not (tmp_path / APT).exists()
