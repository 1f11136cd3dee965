# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmodctl in the place of weak-modules, and the script back as it was."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import diversion

SCRIPT = '#!/bin/sh\necho the script "$@"\n'
PLACE = "usr/sbin/weak-modules"


@pytest.fixture
def root(tmp_path):
    place = tmp_path / PLACE
    place.parent.mkdir(parents=True)
    os.symlink("usr/sbin", str(tmp_path / "sbin"))
    place.write_text(SCRIPT)
    place.chmod(0o750)
    os.utime(str(place), ns=(10**18, 10**18))
    return tmp_path


def divert(root, kmodctl="/usr/local/sbin/kmodctl", python=sys.executable):
    plan = diversion.present(Host(str(root)), kmodctl, python, diverted=True)
    plan.apply()
    return plan


def seen(root):
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_text())
        for path in (root / "usr").rglob("*")
        if path.is_file()
    }


def test_the_script_lies_beside_and_comes_back_exactly(root):
    before = seen(root)
    divert(root)
    after = seen(root)
    assert after[PLACE + ".distrib"] == before[PLACE]
    assert "kmodctl weak-modules" in after[PLACE][2]
    diversion.absent(Host(str(root)), diverted=True).apply()
    assert seen(root) == before


def test_a_second_time_there_is_nothing_to_do(root):
    divert(root)
    assert not diversion.present(Host(str(root)), "/usr/local/sbin/kmodctl", sys.executable, diverted=True)
    diversion.absent(Host(str(root)), diverted=True).apply()
    assert not diversion.absent(Host(str(root)), diverted=True)


def test_planning_writes_nothing(root):
    before = seen(root)
    assert diversion.present(Host(str(root)), "/usr/local/sbin/kmodctl", sys.executable, diverted=True)
    assert seen(root) == before


def test_a_host_without_the_script_gets_none(tmp_path):
    (tmp_path / "usr/sbin").mkdir(parents=True)
    assert not diversion.present(Host(str(tmp_path)), "/kmodctl", sys.executable, diverted=True)
    assert not diversion.absent(Host(str(tmp_path)), diverted=True)


def test_a_script_that_its_package_has_written_anew_is_the_one_that_comes_back(root):
    divert(root)
    (root / PLACE).write_text("#!/bin/sh\n# newer\n")
    assert diversion.came_back(Host(str(root)))
    divert(root)
    assert not diversion.came_back(Host(str(root)))
    diversion.absent(Host(str(root)), diverted=True).apply()
    assert list(seen(root)) == [PLACE]
    assert (root / PLACE).read_text() == "#!/bin/sh\n# newer\n"


def test_a_script_that_has_come_back_stays_where_the_diversion_ends(root):
    divert(root)
    (root / PLACE).write_text("#!/bin/sh\n# newer\n")
    diversion.absent(Host(str(root)), diverted=True).apply()
    assert {path: what[2] for path, what in seen(root).items()} == {PLACE: "#!/bin/sh\n# newer\n"}


def test_what_somebody_else_has_diverted_is_left_alone(root):
    """dpkg-divert calls the package's own file so by default, and an admin's script is in its place."""
    (root / (PLACE + ".distrib")).write_text("#!/bin/sh\n# the package's\n")
    before = seen(root)
    host = Host(str(root))
    assert not diversion.absent(host, diverted=False)
    with pytest.raises(KmodError) as caught:
        diversion.present(host, "/usr/local/sbin/kmodctl", sys.executable, diverted=False)
    assert caught.value.code == "WEAK_MODULES_ODD" and ".distrib" in str(caught.value)
    (root / PLACE).unlink()
    assert not diversion.absent(host, diverted=False)
    assert seen(root).items() < before.items()


def test_in_sbin_itself_as_el_6_has_it(tmp_path):
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/weak-modules").write_text(SCRIPT)
    divert(tmp_path)
    assert (tmp_path / "sbin/weak-modules.distrib").read_text() == SCRIPT


def test_where_usr_sbin_is_usr_bin(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    os.symlink("bin", str(tmp_path / "usr/sbin"))
    (tmp_path / "usr/bin/weak-modules").write_text(SCRIPT)
    divert(tmp_path)
    assert (tmp_path / "usr/bin/weak-modules.distrib").read_text() == SCRIPT


def test_what_is_no_script_of_a_package_is_refused(root):
    os.remove(str(root / PLACE))
    os.symlink("/opt/vendor/weak-modules", str(root / PLACE))
    with pytest.raises(KmodError) as caught:
        divert(root)
    assert caught.value.code == "WEAK_MODULES_ODD"


def test_a_failure_takes_it_all_back(root):
    before = seen(root)
    plan = diversion.present(Host(str(root)), "/usr/local/sbin/kmodctl", sys.executable, diverted=True)
    plan.run("/x", ["false"])
    with pytest.raises(KmodError):
        plan.apply()
    assert seen(root) == before
    divert(root)
    before = seen(root)
    plan = diversion.absent(Host(str(root)), diverted=True)
    plan.run("/x", ["false"])
    with pytest.raises(KmodError):
        plan.apply()
    assert {path: what[::2] for path, what in seen(root).items()} == {
        path: what[::2] for path, what in before.items()
    }


@pytest.mark.parametrize("works", [True, False])
def test_where_kmodctl_cannot_be_run_the_script_is(root, works):
    kmodctl = root / "kmodctl of ours"
    with zipfile.ZipFile(str(kmodctl), "w") as archive:
        archive.writestr("__main__.py", "import sys\nprint('ours', *sys.argv[1:])\n")
    if not works:
        kmodctl.write_bytes(kmodctl.read_bytes()[:20])
    divert(root, str(kmodctl))
    text = (root / PLACE).read_text().replace("/usr/sbin/", str(root) + "/usr/sbin/")
    done = subprocess.run(
        ["sh", "-c", text, "weak-modules", "--add-kernel", "a b"], stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.decode() == ("ours weak-modules" if works else "the script") + " --add-kernel a b\n"


def killed_after(root, plan, steps):
    """What a run leaves that is killed after some of its steps, or amid the next one."""
    host = Host(str(root))
    for step in plan.steps[:steps]:
        step.apply(host)
    if steps < len(plan.steps) and plan.steps[steps].path.endswith(".distrib"):  # cp writes piece by piece
        (root / plan.steps[steps].path.lstrip("/")).write_text("#!/bin/sh\n# ha")


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("came_back", [False, True])
def test_wherever_a_diversion_is_cut_off_the_script_comes_back_exactly(root, steps, came_back):
    if came_back:
        divert(root)
        (root / PLACE).write_text("#!/bin/sh\n# newer\n")
    before = {PLACE: seen(root)[PLACE]}
    for again in (False, True):  # taken back at once, or completed first
        plan = diversion.present(Host(str(root)), "/usr/local/sbin/kmodctl", sys.executable, diverted=True)
        assert len(plan.steps) == 2
        killed_after(root, plan, steps)
        runnable = subprocess.run(["sh", "-n", str(root / PLACE)], check=False).returncode == 0
        assert runnable, "packages call it all the while"
        if again:
            divert(root)
            assert seen(root)[PLACE + ".distrib"] == before[PLACE]
        diversion.absent(Host(str(root)), diverted=True).apply()
        assert seen(root) == before


@pytest.mark.parametrize("steps", [0, 1])
def test_wherever_the_end_of_a_diversion_is_cut_off_it_is_completed(root, steps):
    before = seen(root)
    divert(root)
    killed_after(root, diversion.absent(Host(str(root)), diverted=True), steps)
    assert (root / PLACE).exists()
    diversion.absent(Host(str(root)), diverted=True).apply()
    assert seen(root) == before


def test_the_script_is_put_back_where_somebody_has_removed_ours(root):
    before = seen(root)
    divert(root)
    (root / PLACE).unlink()
    diversion.absent(Host(str(root)), diverted=True).apply()
    assert seen(root) == before
    assert not diversion.absent(Host(str(root)), diverted=True)


def test_a_failure_after_that_takes_it_back_too(root):
    divert(root)
    (root / PLACE).unlink()
    before = seen(root)
    plan = diversion.absent(Host(str(root)), diverted=True)
    plan.run("/x", ["false"])
    with pytest.raises(KmodError):
        plan.apply()
    assert seen(root) == before


SPEC = """\
Name: kmod
Version: %(version)s
Release: 1
Summary: -
License: GPL
BuildArch: noarch
%%description
-
%%install
mkdir -p %%{buildroot}/usr/sbin
printf '#!/bin/sh\\n# %(version)s\\n' > %%{buildroot}/usr/sbin/weak-modules
chmod 755 %%{buildroot}/usr/sbin/weak-modules
%%files
/usr/sbin/weak-modules
"""


class Rpm:
    def __init__(self, work):
        self.work = work
        self.root = work / "root"
        (self.root / "var/lib/rpm").mkdir(parents=True)

    def built(self, version):
        (self.work / "kmod.spec").write_text(SPEC % {"version": version})
        define = ["--define", "_topdir %s" % self.work, "--define", "_rpmdir %s" % self.work]
        subprocess.run(["rpmbuild", "-bb", "--quiet", *define, str(self.work / "kmod.spec")], check=True)
        (found,) = self.work.glob("noarch/kmod-%s-*.rpm" % version)
        return str(found)

    def __call__(self, *argv):
        done = subprocess.run(["rpm", "--root", str(self.root), *argv], stdout=subprocess.PIPE, check=False)
        return done.stdout.decode()

    @property
    def script(self):
        return (self.root / PLACE).read_text()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("rpmbuild"), reason="needs root, rpm and rpmbuild")
def test_packages_come_and_go_over_a_diversion_and_rpm_finds_nothing_in_the_end(tmp_path):
    """By the real rpm: an update writes the script anew; ours is put there again, and the new one comes back."""
    rpm = Rpm(tmp_path)
    rpm("-i", "--nodeps", rpm.built("1"))
    divert(rpm.root)
    assert "weak-modules" in rpm("-V", "--nodeps", "kmod")
    rpm("-U", "--nodeps", rpm.built("2"))
    assert rpm.script == "#!/bin/sh\n# 2\n" and diversion.came_back(Host(str(rpm.root)))
    divert(rpm.root)
    assert "kmodctl" in rpm.script
    diversion.absent(Host(str(rpm.root)), diverted=True).apply()
    assert rpm("-V", "--nodeps", "kmod") == "" and rpm.script == "#!/bin/sh\n# 2\n"
    assert os.listdir(str(rpm.root / "usr/sbin")) == ["weak-modules"]
    divert(rpm.root)
    rpm("--reinstall", "--nodeps", rpm.built("2"))
    diversion.absent(Host(str(rpm.root)), diverted=True).apply()
    assert rpm("-V", "--nodeps", "kmod") == "" and os.listdir(str(rpm.root / "usr/sbin")) == ["weak-modules"]
    divert(rpm.root)
    (rpm.root / PLACE).unlink()
    diversion.absent(Host(str(rpm.root)), diverted=True).apply()
    assert rpm("-V", "--nodeps", "kmod") == "", "somebody had removed ours"
    divert(rpm.root)
    rpm("-e", "--nodeps", "kmod")
    assert not divert(rpm.root)
    diversion.absent(Host(str(rpm.root)), diverted=True).apply()
    assert os.listdir(str(rpm.root / "usr/sbin")) == [], "the package has gone"
