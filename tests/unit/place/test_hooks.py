# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is promised of hooks: those that each family calls, ending with 0 whatever happens, and gone to the
byte when they are to go.
"""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import (
    bulletin,
    hook_texts,
    hooks,
    image_mode,
    settings,
    zipapp,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.settings import Followed
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Content

RELEASES = {
    "debian": "ID=debian\nVERSION_ID=12\n",
    "ubuntu": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n',
    "mint": "ID=linuxmint\nID_LIKE='ubuntu debian'\n",
    "rhel8": 'ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="8.10"\n',
    "rocky9": 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n',
    "el10": 'ID="almalinux"\nID_LIKE="rhel centos fedora"\nVERSION_ID="10.0"\n',
    "fedora": "ID=fedora\nVERSION_ID=42\n",
    "centos7": 'ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"\n',
    "stream9": 'ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="9"\n',
    "sles": 'ID="sles"\nID_LIKE="suse"\nVERSION_ID="15.6"\n',
    "tumbleweed": 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n',
    "arch": "ID=arch\n",
    "none": None,
}
FAMILY = {
    "debian": "debian",
    "ubuntu": "debian",
    "mint": "debian",
    "rhel8": "el",
    "rocky9": "el",
    "el10": "el",
    "fedora": "el",
    "centos7": "el7",
    "stream9": "el",
    "sles": "suse",
    "tumbleweed": "suse",
    "arch": "other",
    "none": "other",
}
KMODCTL = b"#!python3\n" + zipapp.MARK
SCRIPTS = {
    "debian": {
        "etc/kernel/postinst.d/do-outoftree-kmod",
        "etc/kernel/postinst.d/zzz-outoftree-kmod",
        "etc/kernel/prerm.d/do-outoftree-kmod",
        "etc/kernel/postrm.d/zzz-outoftree-kmod",
        "etc/initramfs/post-update.d/zz-outoftree-kmod",
    },
    "el": {
        "etc/kernel/install.d/10-outoftree-kmod.install",
        "etc/kernel/install.d/45-outoftree-kmod.install",
        "etc/kernel/install.d/99-outoftree-kmod.install",
    },
    "el7": {"etc/kernel/postinst.d/outoftree-kmod", "etc/kernel/prerm.d/outoftree-kmod"},
    "suse": set(),
    "other": set(),
}


def system(root, name="rocky9", systemd=True):
    for directory in ("etc", "usr/lib", "lib/modules", "usr/local/sbin", "var/lib"):
        (root / directory).mkdir(parents=True)
    if RELEASES[name] is not None:
        (root / "etc/os-release").write_text(RELEASES[name])
    if systemd:
        (root / "usr/lib/systemd").mkdir()
        (root / "usr/lib/systemd/systemd").touch()
    return root


def install(root, driver="vendor", followed=Followed(), kmodctl=KMODCTL):  # noqa: B008
    plan = hooks.present(
        Host(str(root)),
        driver,
        followed,
        interpreter="/usr/bin/python3",
        sources="1",
        kmodctl=Content.of(kmodctl),
    )
    plan.apply()
    return plan


def remove(root, driver="vendor"):
    plan = hooks.absent(Host(str(root)), driver)
    plan.apply()
    return plan


def tree(root):
    found = {}
    for directory, names, files in os.walk(str(root)):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            what = (
                os.readlink(path)
                if stat.S_ISLNK(status.st_mode)
                else Path(path).read_bytes()
                if stat.S_ISREG(status.st_mode)
                else None
            )
            found[os.path.relpath(path, str(root))] = (status.st_mode, what)
    return found


# Which


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_each_family_has_the_hooks_that_its_packages_call(tmp_path, name):
    root = system(tmp_path, name)
    install(root)
    assert hooks.family(Host(str(root))) == FAMILY[name]
    there = {
        path
        for path in tree(root)
        if path.startswith(("etc/kernel/", "etc/initramfs/")) and os.path.isfile(str(root / path))
    }
    assert there == SCRIPTS[FAMILY[name]]
    assert all(os.access(str(root / path), os.X_OK) for path in there)
    units = {path.name for path in (root / "etc/systemd/system").glob("outoftree-kmod*")}
    assert units == {
        "outoftree-kmod.path",
        "outoftree-kmod.service",
        "outoftree-kmod-check.service",
        "outoftree-kmod-shutdown.service",
    }


def test_a_host_without_os_release_that_calls_itself_red_hat_is_of_the_old_family(tmp_path):
    root = system(tmp_path, "none", systemd=False)
    (root / "etc/redhat-release").write_text("CentOS release 6.10 (Final)\n")
    assert hooks.family(Host(str(root))) == "el7"


def test_without_systemd_there_are_no_units(tmp_path):
    root = system(tmp_path, "debian", systemd=False)
    install(root)
    assert (
        not (root / "etc/systemd").exists() and (root / "etc/kernel/postinst.d/zzz-outoftree-kmod").exists()
    )


def test_names_of_hooks_are_those_that_run_parts_runs_and_sort_where_they_have_to():
    """run-parts takes no dots; kernel-install of 257 sorts by bytes."""
    debian = [os.path.basename(path) for path in hooks.FAMILIES["debian"]]
    assert all("." not in name for name in debian)
    assert (
        "dkms"
        < "do-outoftree-kmod"
        < "dracut"
        < "initramfs-tools"
        < "zz-systemd-boot"
        < "zz-update-grub"
        < "zzz-outoftree-kmod"
    )
    assert "40-dkms.install" < "45-outoftree-kmod.install" < "50-depmod.install" < "50-dracut.install"
    assert "95-kernel-hooks.install" < "99-grub-mkconfig.install" < "99-outoftree-kmod.install"


# Put and taken back


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_all_is_gone_to_the_byte_when_the_last_driver_does_not_follow(tmp_path, name):
    root = system(tmp_path, name)
    before = tree(root)
    install(root)
    (root / bulletin.PENDING[1:]).write_text("something\n")
    (root / bulletin.FACT[1:]).parent.mkdir(parents=True, exist_ok=True)
    (root / bulletin.FACT[1:]).write_text("{}")
    remove(root)
    assert tree(root) == before


def test_directories_and_files_of_others_stay(tmp_path):
    root = system(tmp_path, "debian")
    (root / "etc/kernel/postinst.d").mkdir(parents=True)
    (root / "etc/kernel/postinst.d/others").write_text("#!/bin/sh\n")
    install(root)
    (root / "usr/local/libexec/theirs").write_text("theirs")
    before = {path for path in tree(root) if "outoftree" not in path and "kmodctl" not in path}
    remove(root)
    after = set(tree(root))
    assert {"etc/kernel/postinst.d/others", "usr/local/libexec/theirs"} <= after and after < before


@pytest.mark.parametrize(
    "path",
    [
        "usr/local/sbin/kmodctl",
        "etc/kernel/install.d/45-outoftree-kmod.install",
        "etc/systemd/system/outoftree-kmod.path",
    ],
)
def test_what_somebody_else_has_there_is_left_alone(tmp_path, path):
    root = system(tmp_path)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("theirs")
    before = tree(root)
    with pytest.raises(KmodError) as caught:
        install(root)
    assert caught.value.code == "FOREIGN_FILE" and path in str(caught.value) and tree(root) == before
    (root / path).unlink()
    install(root)
    (root / path).write_text("theirs")
    remove(root)
    assert (root / path).read_text() == "theirs"


@pytest.mark.parametrize(
    "path",
    ["etc/kernel/postinst.d/outoftree-kmod", "etc/initramfs/post-update.d/zz-outoftree-kmod"],
)
def test_what_somebody_else_has_where_another_family_has_hooks_is_left_alone(tmp_path, path):
    root = system(tmp_path)
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text("theirs")
    before = tree(root)
    install(root)
    assert (root / path).read_text() == "theirs"
    remove(root)
    assert tree(root) == before


@pytest.mark.parametrize("left", [0, 1000])
def test_a_kmodctl_or_hook_that_was_cut_off_is_written_anew_and_taken_away(tmp_path, left):
    """As a power cut leaves them."""
    root = system(tmp_path)
    before = tree(root)
    kmodctl = zipapp.runnable(
        {"__main__.py": b"pass\n", zipapp.MARK.decode(): b"# " + os.urandom(3000).hex().encode()},
        "/usr/bin/python3",
    )
    install(root, kmodctl=kmodctl)
    whole = tree(root)
    for path in ("usr/local/sbin/kmodctl", "etc/kernel/install.d/45-outoftree-kmod.install"):
        os.truncate(str(root / path), min(left, (root / path).stat().st_size))
    install(root, kmodctl=kmodctl)
    assert tree(root) == whole
    os.truncate(str(root / "usr/local/sbin/kmodctl"), left)
    remove(root)
    assert tree(root) == before


def test_a_second_time_changes_nothing(tmp_path):
    root = system(tmp_path)
    install(root)
    assert not hooks.present(
        Host(str(root)),
        "vendor",
        Followed(),
        interpreter="/usr/bin/python3",
        sources="1",
        kmodctl=Content.of(KMODCTL),
    )
    assert not hooks.present(
        Host(str(root)), "vendor", Followed(), interpreter="/usr/bin/python3", sources="1", kmodctl=None
    )
    remove(root)
    assert not hooks.absent(Host(str(root)), "vendor")


def test_the_interpreter_that_the_play_saw_comes_first_and_the_others_in_one_order(tmp_path):
    """Not in that of a set, which is another one in each process."""
    root = system(tmp_path)
    text = hooks.files(Host(str(root)), "/opt/python")[hook_texts.HOOK].text
    assert (
        "for python in /opt/python /usr/bin/python3 /usr/libexec/platform-python /usr/local/bin/python3 python3; do"
        in text
    )
    text = hooks.files(Host(str(root)), "/usr/libexec/platform-python")[hook_texts.HOOK].text
    assert (
        "for python in /usr/libexec/platform-python /usr/bin/python3 /usr/local/bin/python3 python3; do"
        in text
    )


def test_of_two_drivers_each_has_its_settings_and_all_stays_until_the_last_goes(tmp_path):
    root = system(tmp_path)
    before = tree(root)
    install(root, "one", Followed(boot="default"))
    install(root, "two", Followed(initrd=False))
    told = settings.read(Host(str(root)))
    assert (told.drivers["one"].boot, told.drivers["two"].initrd) == ("default", False)
    remove(root, "one")
    assert (
        list(settings.read(Host(str(root))).drivers) == ["two"] and (root / "usr/local/sbin/kmodctl").exists()
    )
    remove(root, "two")
    assert tree(root) == before


@pytest.mark.parametrize("stop", range(1, 25))
def test_a_run_that_was_cut_off_is_finished_by_the_next_and_still_taken_back_whole(tmp_path, stop):
    root = system(tmp_path, "debian")
    before = tree(root)
    plan = hooks.present(
        Host(str(root)),
        "vendor",
        Followed(),
        interpreter="/usr/bin/python3",
        sources="1",
        kmodctl=Content.of(KMODCTL),
    )
    for step in plan.steps[:stop]:
        step.apply(plan.host)
    if stop % 2:
        install(root)
    gone = hooks.absent(Host(str(root)), "vendor")
    for step in gone.steps[:stop]:
        step.apply(gone.host)
    remove(root)
    assert tree(root) == before


def test_damaged_settings_are_written_anew(tmp_path):
    root = system(tmp_path)
    install(root)
    (root / settings.PATH[1:]).write_text("{")
    install(root)
    assert list(settings.read(Host(str(root))).drivers) == ["vendor"]


def test_settings_of_a_newer_version_are_left_alone(tmp_path):
    root = system(tmp_path)
    install(root)
    path = root / settings.PATH[1:]
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(KmodError) as caught:
        install(root)
    assert caught.value.code == "SETTINGS_NEWER"


@pytest.mark.parametrize(
    "make, code",
    [
        (lambda root: (root / "sysroot/ostree").mkdir(parents=True), "IMAGE_MODE"),
        (lambda root: (root / "sysroot/composefs").mkdir(parents=True), "IMAGE_MODE"),
        (
            lambda root: (
                (root / "usr/lib/kernel").mkdir()
                or (root / "usr/lib/kernel/install.conf").write_text("layout=ostree\n")
            ),
            "IMAGE_MODE",
        ),
        (
            lambda root: (
                (root / "usr/sbin").mkdir()
                or (root / "usr/sbin/transactional-update").touch()
                or (root / "etc/fstab").write_text("/dev/vda2 / btrfs ro,subvol=@ 0 0\n")
            ),
            "TRANSACTIONAL",
        ),
    ],
)
def test_systems_that_are_replaced_as_a_whole_are_refused(tmp_path, make, code):
    root = system(tmp_path)
    image_mode.refuse(Host(str(root)))
    make(root)
    with pytest.raises(KmodError) as caught:
        image_mode.refuse(Host(str(root)))
    assert caught.value.code == code


# kmodctl


def test_what_is_sent_has_one_digest_whoever_packed_it_and_runs_with_its_own_bytecode(tmp_path):
    sources = {
        "__main__.py": b"import sys, package.part\nsys.exit(package.part.answer)\n",
        "package/__init__.py": b"",
        "package/part.py": b"answer = 7\n",
    }
    again = zipapp.unpacked(zipapp.packed(sources), "sent")
    assert again == sources and zipapp.digest(again) == zipapp.digest(sources) != zipapp.digest(
        dict(sources, more=b"")
    )
    file = tmp_path / "kmodctl"
    file.write_bytes(zipapp.runnable(sources, shutil.which("python3")))
    file.chmod(0o755)
    assert subprocess.run([str(file)], check=False).returncode == 7
    spoiled = zipapp.packed(
        dict(zipapp.unpacked(file.read_bytes(), "it"), **{"package/part.py": b"no Python at all ("})
    )
    file.write_bytes(b"#!%s\n" % shutil.which("python3").encode() + spoiled)
    assert subprocess.run([str(file)], check=False).returncode == 7  # the bytecode is what runs


@pytest.mark.parametrize("damage", [b"", b"PK", b"no archive", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive_is_refused(damage):
    with pytest.raises(KmodError) as caught:
        zipapp.unpacked(damage, "sent")
    assert caught.value.code == "KMODCTL_DAMAGED"


def test_a_kmodctl_that_was_changed_or_made_by_another_python_is_made_again(tmp_path, monkeypatch):
    root = system(tmp_path)
    install(root)
    host = Host(str(root))
    assert hooks.has_kmodctl(host, "1", "/usr/bin/python3") and not hooks.has_kmodctl(
        host, "2", "/usr/bin/python3"
    )
    assert not hooks.has_kmodctl(host, "1", "/usr/libexec/platform-python")
    monkeypatch.setattr(zipapp, "version", lambda: "another")
    assert not hooks.has_kmodctl(host, "1", "/usr/bin/python3")
    monkeypatch.undo()
    (root / "usr/local/sbin/kmodctl").write_bytes(KMODCTL + b"x")
    assert not hooks.has_kmodctl(host, "1", "/usr/bin/python3")


# The scripts themselves, by the real sh


class Scripts:
    """The scripts of a family in a directory, with every path in them below it; ``kmodctl`` is a stand-in
    that notes its arguments.
    """

    def __init__(self, root, family):
        self.root = root
        for path, each in hooks.files(Host(str(system(root / "host", family))), "/nowhere/python").items():
            file = root / path[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.inside(each.text))
            file.chmod(each.mode)
        self.log, self.pending = root / "log", root / bulletin.PENDING[1:]
        self.kmodctl("sys.exit(0)")

    def inside(self, text):
        for path in (hook_texts.HOOK, hook_texts.KMODCTL, bulletin.PENDING):
            text = text.replace(path, str(self.root) + path)
        return (
            text.replace("seconds=120", "seconds=1")
            .replace("/run/systemd/system", "/nowhere")
            .replace("logger -t", "true -t")
        )

    def kmodctl(self, does):
        file = self.root / hook_texts.KMODCTL[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        note = "open(%r, 'a').write(' '.join(sys.argv[1:]) + '\\n')" % str(self.log)
        file.write_text("import sys, time\n%s\nprint('said by kmodctl')\n%s\n" % (note, does))

    def run(self, script, *arguments, shell="sh", **environment):
        done = subprocess.run(
            [shell, str(self.root / script), *arguments],
            env=dict({"PATH": os.environ["PATH"]}, **environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
        called = self.log.read_text().splitlines() if self.log.exists() else []
        if self.log.exists():
            self.log.unlink()
        return done.returncode, called, done.stderr


HOOK = hook_texts.HOOK[1:]


def test_kernel_install_calls_the_early_slot_the_late_one_and_removal(tmp_path):
    scripts = Scripts(tmp_path, "rocky9")
    leaving, early, late = (
        "etc/kernel/install.d/%d-outoftree-kmod.install" % number for number in (10, 45, 99)
    )
    assert scripts.run(leaving, "remove", "K", "/boot/x")[:2] == (0, ["remove-kernel --early K"])
    assert scripts.run(early, "add", "K", "/boot/x", "/lib/modules/K/vmlinuz")[:2] == (
        0,
        ["add-kernel --early K"],
    )
    assert scripts.run(late, "add", "K", "/boot/x")[:2] == (0, ["add-kernel K"])
    assert scripts.run(late, "remove", "K", "/boot/x")[:2] == (0, ["remove-kernel K"])
    for script, word in ((leaving, "add"), (early, "remove"), (leaving, "inspect"), (late, "inspect")):
        assert scripts.run(script, word, "K")[:2] == (0, [])


def test_new_kernel_pkg_calls_one_slot_and_removal(tmp_path):
    scripts = Scripts(tmp_path, "centos7")
    assert scripts.run("etc/kernel/postinst.d/outoftree-kmod", "K", "/boot/vmlinuz-K")[:2] == (
        0,
        ["add-kernel K"],
    )
    assert scripts.run("etc/kernel/prerm.d/outoftree-kmod", "K", "/boot/vmlinuz-K")[:2] == (
        0,
        ["remove-kernel K"],
    )


@pytest.mark.parametrize("shell", [each for each in ("dash", "bash", "busybox") if shutil.which(each)])
@pytest.mark.parametrize(
    "said, adds, removes",
    [
        (None, True, False),
        ("configure", True, False),
        ("configure 6.1.0-1", True, False),
        ("'configure' '6.1.0-1'", True, False),
        ('"configure"', True, False),
        ("remove", False, True),
        ("'remove'", False, True),
        ("purge", False, True),
        ("upgrade 6.1.0-2", False, False),
        ("install", False, False),
        ("triggered linux-update-K", False, False),
        ("abort-upgrade 6.1", False, False),
    ],
)
def test_debians_hooks_do_what_dpkg_is_about(tmp_path, said, adds, removes, shell):
    scripts = Scripts(tmp_path, "debian")
    environment = {} if said is None else {"DEB_MAINT_PARAMS": said}
    run = (
        (lambda script: scripts.run(script, "K", "/boot/vmlinuz-K", shell=shell, **environment)[:2])
        if shell != "busybox"
        else (lambda script: scripts.run(script, "K", "/boot/vmlinuz-K", **environment)[:2])
    )
    assert run("etc/kernel/postinst.d/do-outoftree-kmod") == (0, ["add-kernel --early K"] if adds else [])
    assert run("etc/kernel/postinst.d/zzz-outoftree-kmod") == (0, ["add-kernel K"] if adds else [])
    leaves = ["remove-kernel --early K"] if said in ("remove", "'remove'") else []
    assert run("etc/kernel/prerm.d/do-outoftree-kmod") == (0, leaves)
    assert run("etc/kernel/postrm.d/zzz-outoftree-kmod") == (0, ["remove-kernel K"] if removes else [])
    assert run("etc/initramfs/post-update.d/zz-outoftree-kmod") == (0, ["refresh K"] if said is None else [])


@pytest.mark.parametrize("script", sorted(SCRIPTS["debian"]))
def test_hooks_without_the_rest_are_silent(tmp_path, script):
    scripts = Scripts(tmp_path, "debian")
    (tmp_path / HOOK).unlink()
    assert scripts.run(script, "K", "/boot/vmlinuz-K") == (0, [], "")


def test_what_kmodctl_says_is_shown_and_what_went_well_leaves_no_mark(tmp_path):
    scripts = Scripts(tmp_path, "rocky9")
    for does in ("sys.exit(0)", "sys.exit('--help' not in sys.argv)"):
        scripts.kmodctl(does)
        status, called, said = scripts.run(HOOK, "add-kernel", "K")
        assert (status, called[0], said.strip()) == (
            0,
            "add-kernel K",
            "said by kmodctl",
        ) and not scripts.pending.exists()


@pytest.mark.parametrize(
    "does, why",
    [
        ("sys.exit(2)", "kmodctl ended with 2"),
        ("import os; os.kill(os.getpid(), 9)", "longer than"),
        ("raise ImportError('half an update')", "cannot be run"),
        ("time.sleep(30)", "longer than 1 seconds"),
    ],
)
def test_what_could_not_be_done_is_marked_and_the_package_goes_on(tmp_path, does, why):
    scripts = Scripts(tmp_path, "rocky9")
    scripts.kmodctl(does)
    status, _called, said = scripts.run(HOOK, "add-kernel", "--early", "K")
    assert status == 0 and "at the next boot" in said
    assert (
        scripts.pending.read_text().startswith("add-kernel --early K: ")
        and why in scripts.pending.read_text()
    )


def test_from_the_early_slot_on_it_is_marked_that_the_rest_is_to_be_done(tmp_path):
    """A transaction may end before the late one: killed, or by another's plugin that failed."""
    scripts = Scripts(tmp_path, "rocky9")
    scripts.kmodctl("sys.exit(0)")
    for verb in ("add-kernel", "remove-kernel"):
        scripts.run(HOOK, verb, "--early", "K")
    assert [line.partition(":")[0] for line in scripts.pending.read_text().splitlines()] == [
        "add-kernel --early K",
        "remove-kernel --early K",
    ]


@pytest.mark.parametrize("gone", ["kmodctl", "python"])
def test_neither_kmodctl_nor_python_is_needed_for_a_package_to_go_on(tmp_path, gone):
    scripts = Scripts(tmp_path, "rocky9")
    hook = tmp_path / HOOK
    if gone == "kmodctl":
        (tmp_path / hook_texts.KMODCTL[1:]).unlink()
    else:
        text = hook.read_text()
        start = text.index("for python in ") + len("for python in ")
        hook.write_text(text[:start] + "/nowhere/python3; do" + text[text.index("; do", start) + 4 :])
    status, called, said = scripts.run(HOOK, "add-kernel", "K")
    assert (status, called) == (0, []) and gone in scripts.pending.read_text().lower() and said


def test_the_unit_at_boot_ends_as_kmodctl_does(tmp_path):
    scripts = Scripts(tmp_path, "rocky9")
    for number in (0, 1, 2):
        scripts.kmodctl("sys.exit(%d)" % number)
        status, called, _said = scripts.run(HOOK, "boot")
        assert (status, called[0]) == (number, "refresh --boot")


def test_a_mark_is_one_line_whatever_a_release_is_called(tmp_path):
    scripts = Scripts(tmp_path, "rocky9")
    scripts.kmodctl("sys.exit(2)")
    for number, word in enumerate(("K; touch /tmp/x \x1b[31m$(id)", "K\nrefresh\n: x", "%s\\n", "-n"), 1):
        assert scripts.run(HOOK, "add-kernel", word)[0] == 0
        assert "\x1b" not in scripts.pending.read_text()
        assert scripts.pending.read_text().count("\n") == number


def test_a_place_for_marks_that_is_no_file_holds_up_no_package(tmp_path):
    scripts = Scripts(tmp_path, "rocky9")
    scripts.kmodctl("sys.exit(2)")
    scripts.pending.parent.mkdir(parents=True)
    os.mkfifo(str(scripts.pending))
    status, _called, said = scripts.run(HOOK, "add-kernel", "--early", "K")
    assert status == 0 and "at the next boot" in said


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck on this machine")
@pytest.mark.parametrize("family", ["debian", "rocky9", "centos7"])
def test_scripts_are_plain_sh(tmp_path, family):
    for path, each in hooks.files(Host(str(system(tmp_path / "host", family))), "/usr/bin/python3").items():
        if each.text.startswith("#!/bin/sh"):
            file = tmp_path / os.path.basename(path)
            file.write_text(each.text)
            done = subprocess.run(
                ["shellcheck", "-s", "sh", str(file)], stdout=subprocess.PIPE, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
