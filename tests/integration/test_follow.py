# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's kmod_follow, by the real ansible-playbook on hosts that are directories."""

import json
import os
import subprocess
import sys

from tests.integration.test_role import host, names, pytestmark, run, stock  # noqa: F401

ROLE = "outoftree.kmod.deploy"
KMODCTL = "usr/local/sbin/kmodctl"


def family(root, ident="rocky", like="rhel centos fedora", version="9.4"):
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text('ID="%s"\nID_LIKE="%s"\nVERSION_ID="%s"\n' % (ident, like, version))
    (root / "usr/lib/systemd").mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/systemd/systemd").touch()
    return root


def well(done):
    status, said = done
    assert status == 0, said
    return said


def kmodctl(root, *words):
    done = subprocess.run(
        [str(root / KMODCTL), *words, "--root", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
        check=False,
    )
    return done.returncode, done.stdout


def test_a_host_follows_and_a_second_play_changes_nothing_and_false_takes_all_of_it_away(run, host):  # noqa: F811
    root = family(host("follower", 0))
    well(run([root], ROLE, kmod_src="vendor", kmod_entry=False))
    before = names(root)
    said = well(run([root], ROLE, kmod_src="vendor", kmod_entry=False, kmod_follow=True))
    assert "changed=1 " in said
    for path in (
        KMODCTL,
        "usr/local/libexec/outoftree-kmod-hook",
        "etc/kernel/install.d/10-outoftree-kmod.install",
        "etc/kernel/install.d/45-outoftree-kmod.install",
        "etc/kernel/install.d/99-outoftree-kmod.install",
        "etc/systemd/system/outoftree-kmod.path",
        "usr/local/share/man/man8/kmodctl.8",
    ):
        assert path in names(root), path
    told = json.loads((root / "etc/outoftree-kmod/follow.json").read_text())
    assert told["drivers"]["vendor"]["entry"] is False and told["interpreter"] == sys.executable
    written = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    said = well(run([root], ROLE, "--diff", kmod_src="vendor", kmod_entry=False, kmod_follow=True))
    assert "changed=0 " in said, said
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == written
    said = well(run([root], ROLE, kmod_src="vendor", kmod_entry=False))
    assert "changed=1 " in said and names(root) == before


def test_the_script_weak_modules_is_diverted_when_that_is_asked_for_and_comes_back_as_it_was(run, host):  # noqa: F811
    root = family(host("follower", 0))
    script = root / "usr/sbin/weak-modules"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("#!/bin/sh\necho the distribution\n")
    script.chmod(0o755)
    os.utime(script, (1700000000, 1700000000))
    shipped = (script.read_bytes(), script.stat().st_mode, script.stat().st_mtime_ns)
    asked = {"kmod_src": "vendor", "kmod_entry": False, "kmod_follow": True, "kmod_weak_modules": "divert"}
    assert "changed=1 " in well(run([root], ROLE, **asked))
    assert "kmodctl" in script.read_text()
    assert (root / "usr/sbin/weak-modules.distrib").read_bytes() == shipped[0]
    assert "changed=0 " in well(run([root], ROLE, **asked))
    well(run([root], ROLE, **dict(asked, kmod_weak_modules="leave")))
    assert (script.read_bytes(), script.stat().st_mode, script.stat().st_mtime_ns) == shipped
    well(run([root], ROLE, **asked))
    well(run([root], ROLE, kmod_src="vendor", kmod_entry=False))
    assert (script.read_bytes(), script.stat().st_mode, script.stat().st_mtime_ns) == shipped
    assert not (root / "usr/sbin/weak-modules.distrib").exists()


def test_a_kernel_that_takes_no_build_is_told_and_the_default_is_kept_if_that_is_asked_for(run, host):  # noqa: F811
    root = family(host("follower", 0, 1))
    well(run([root], ROLE, kmod_src="vendor", kmod_follow=True, kmod_keep_default=True))
    fact = json.loads((root / "etc/ansible/facts.d/outoftree_kmod.fact").read_text())
    assert fact["kept"] == "6.1.0-1" and "kfree" in fact["drivers"]["vendor"][0]["reason"]
    assert b"6.1.0-1\n" in (root / "boot/grub2/grubenv").read_bytes()
    status, said = kmodctl(root, "add-kernel", "6.1.0-2")
    assert status == 1 and "kfree" in said
    well(run([root], ROLE, kmod_src="vendor"))
    assert b"6.1.0-1\n" not in (
        root / "boot/grub2/grubenv"
    ).read_bytes() and "etc/ansible/facts.d" not in names(root)


def test_removal_of_the_driver_takes_following_along_and_leaves_nothing(run, host):  # noqa: F811
    root = family(host("follower", 0), "debian", "", "12")
    before = names(root)
    well(run([root], ROLE, kmod_src="vendor", kmod_follow=True))
    assert "etc/kernel/postinst.d/zzz-outoftree-kmod" in names(root)
    well(run([root], ROLE, kmod_state="absent"))
    assert names(root) == before


def test_with_two_drivers_all_stays_until_the_last_one_does_not_follow(run, host):  # noqa: F811
    root = family(host("follower", 0))
    for driver in ("vendor", "rival"):
        well(run([root], ROLE, kmod_driver=driver, kmod_src=driver, kmod_entry=False, kmod_follow=True))
    well(run([root], ROLE, kmod_driver="rival", kmod_src="rival", kmod_entry=False))
    assert (
        sorted(json.loads((root / "etc/outoftree-kmod/follow.json").read_text())["drivers"]) == ["vendor"]
        and (root / KMODCTL).exists()
    )
    well(run([root], ROLE, kmod_driver="vendor", kmod_src="vendor", kmod_entry=False))
    assert not (root / KMODCTL).exists() and not (root / "etc/outoftree-kmod").exists()


def test_kmodctl_is_sent_again_only_where_it_is_another_one(run, host):  # noqa: F811
    root = family(host("follower", 0))
    task = [{"outoftree.kmod.kmod_follow": {"driver": "vendor"}}]
    well(run([root], ROLE, kmod_src="vendor", kmod_entry=False, kmod_follow=True))
    (root / KMODCTL).write_bytes((root / KMODCTL).read_bytes()[:-9])
    assert "changed=1 " in well(run([root], task))
    assert "changed=0 " in well(run([root], task))
    assert kmodctl(root, "status")[0] == 0


def test_check_mode_shows_all_and_writes_nothing(run, host):  # noqa: F811
    root = family(host("follower", 0))
    well(run([root], ROLE, kmod_src="vendor", kmod_entry=False))
    before = names(root)
    said = well(run([root], ROLE, "--check", "--diff", kmod_src="vendor", kmod_entry=False, kmod_follow=True))
    assert (
        "changed=1 " in said
        and "/usr/local/sbin/kmodctl" in said
        and "outoftree-kmod.path" in said
        and names(root) == before
    )


def test_a_host_that_nothing_would_tell_is_refused_and_one_in_image_mode_too(run, host):  # noqa: F811
    root = host("bare", 0)
    (root / "etc/os-release").unlink()
    task = [{"outoftree.kmod.kmod_follow": {"driver": "vendor"}}]
    failed, said = run([root], task)
    assert failed and "NO_HOOKS" in said or "nothing would call kmodctl" in said
    family(root)
    (root / "run").mkdir(exist_ok=True)
    (root / "run/ostree-booted").touch()
    failed, said = run([root], task)
    assert failed and "Containerfile" in said


def test_what_hooks_could_not_do_is_done_by_the_next_play(run, host):  # noqa: F811
    root = family(host("follower", 0))
    well(run([root], ROLE, kmod_src="vendor", kmod_entry=False, kmod_follow=True))
    (root / "var/lib/outoftree-kmod/pending").write_text("refresh: there is no Python\n")
    said = well(run([root], ROLE, kmod_src="vendor", kmod_entry=False, kmod_follow=True))
    assert "changed=1 " in said and not (root / "var/lib/outoftree-kmod/pending").exists()
