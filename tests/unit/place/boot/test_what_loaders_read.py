# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written is what the loader starts; where its own way cannot be told from the files, nothing is."""

import os
import re
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import started
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    cmdline,
    entry,
    grub_cfg,
    grub_text,
    grubenv,
    loaders,
    script,
    systemd_boot,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import Verified
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import MANY, View
from tests.forge import machines
from tests.forge.machines import DRIVER, MACHINE, NEW, OLD, UUID, write
from tests.unit.place.boot.test_cmdline import change, lines
from tests.unit.place.boot.test_entry import Running, absent, menu, present, refused, snapshot, variants

# Ubuntu's images for clouds: /etc/default/grub.d/40-force-partuuid.cfg, 10_linux

CLOUD = """\\1if [ "${initrdfail}" = 1 ]; then
\\1  echo\t'GRUB_FORCE_PARTUUID set, initrdless boot failed. Attempting with initrd.'
\\1  linux\t\\2
\\1  initrd\t%s/boot/initrd.img-\\3
\\1else
\\1  echo\t'GRUB_FORCE_PARTUUID set, attempting initrdless boot.'
\\1  linux\t\\2 panic=-1
%s\\1fi
\\1initrdfail"""


@pytest.mark.parametrize("early", ["", "/boot/microcode.cpio "])
def test_no_way_through_an_entry_starts_the_kernel_without_the_variant(tmp_path, early):
    kernels = variants(machines.debian(tmp_path), OLD, NEW)
    change(
        tmp_path,
        r"^(\t+)linux\t(/boot/vmlinuz-(\S+) .*)\n.*\n\t+initrd\t.*$",
        CLOUD % (early, early and "\\1  initrd\t/boot/microcode.cpio\n"),
    )
    before = snapshot(tmp_path)
    present(tmp_path, kernels)[0].apply()
    custom = tmp_path / "boot/grub/custom.cfg"
    subprocess.run(["grub-script-check", str(custom)], check=True)
    ways = [each for each in script.parse(custom.read_text(), "custom.cfg") if each.body]
    assert len(ways) == 2
    for each, release in zip(ways, (OLD, NEW)):
        commands = [command for command in each.walk() if command.name in ("linux", "initrd")]
        assert [command.name for command in commands] == ["linux", "initrd"] * 2
        for command in commands[1::2]:
            assert [word.value for word in command.words[1:]] == early.split() + [
                "/boot/initrd.img-%s.1" % release
            ]
    assert "initrdfail\n" not in custom.read_text(), "a trial is not begun a second time"
    assert (
        all(cmdline.words(line)[-4:] == entry.FALLBACK_ARGS.split() for line in lines(tmp_path))
        and len(lines(tmp_path)) == 4
    )
    assert not present(tmp_path, kernels)[0]
    absent(tmp_path)[0].apply()
    assert snapshot(tmp_path) == before


def test_after_a_trial_that_failed_the_menu_does_not_wait(tmp_path):
    """Ubuntu: recordfail has it wait for GRUB_RECORDFAIL_TIMEOUT, which may be for ever.

    The default does as the shipped entry does.
    """
    kernels = variants(machines.debian(tmp_path), OLD, NEW)
    change(tmp_path, r"^(\t+)load_video$", r"\1recordfail\n\1load_video")
    present(tmp_path, kernels)[0].apply()
    custom = tmp_path / "boot/grub/custom.cfg"
    assert "recordfail" not in custom.read_text()
    present(tmp_path, kernels, boot="default")[0].apply()
    assert custom.read_text().count("recordfail") == 1


@pytest.mark.parametrize(
    "text, bare",
    [
        ("linux k\ninitrd i", 0),
        ("linux k", 1),
        ("if [ a ]; then\nlinux k\nelse\nlinux k\nfi\ninitrd i", 0),
        ("initrd i\nlinux k", 1),
        ("if [ a ]; then linux k; initrd i; elif [ b ]; then linux k; else linux k; initrd i; fi", 1),
        ("linux k\nif [ a ]; then\ninitrd i\nfi", 1),
        ("linux k\nif [ a ]; then\ninitrd i\nelse\ninitrd j i\nfi", 0),
        ("linux k\nif a; then\nif b; then\ninitrd i\nfi\nelse\ninitrd i\nfi", 1),
    ],
)
def test_ways_through_conditions(text, bare):
    assert (
        len(grub_text.without_initrd(script.parse("menuentry x {\n%s\n}\n" % text, "text")[0], "i")) == bare
    )


# Proxmox: proxmox-boot-tool


def test_menus_that_another_tool_writes_elsewhere_are_not_taken_for_those_in_boot(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    present(tmp_path, kernels)[0].apply()
    write(tmp_path, "/etc/kernel/proxmox-boot-uuids", "1234-ABCD\n")
    for boot in ("none", "once", "default"):
        assert "proxmox-boot-tool" in refused("LOADER_ELSEWHERE", present, tmp_path, kernels, boot=boot).why
    absent(tmp_path)[0].apply()
    assert menu(tmp_path).entries and not any(each.driver for each in menu(tmp_path).entries)


def test_a_tool_that_has_no_partitions_to_write_to_is_no_obstacle(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    write(tmp_path, "/etc/kernel/proxmox-boot-uuids", "\n")
    assert present(tmp_path, kernels)[0]


# Xen

XEN = """menuentry 'Debian GNU/Linux, with Xen hypervisor' --class xen $menuentry_id_option 'xen-gnulinux-simple-%s' {
\techo\t'Loading Xen ...'
\tmultiboot2\t/boot/xen-4.17-amd64.gz placeholder
\tmodule2\t/boot/vmlinuz-%s placeholder root=UUID=%s ro quiet
\tmodule2\t--nounzip\t/boot/initrd.img-%s
}
""" % (UUID, NEW, UUID, NEW)


def test_a_host_that_boots_xen_does_not_lose_it_to_a_trial_or_a_default(tmp_path, monkeypatch):
    kernels = variants(machines.debian(tmp_path, default="xen-gnulinux-simple-" + UUID), NEW)
    change(tmp_path, "^### END /etc/grub.d/10_linux ###$", "### END /etc/grub.d/10_linux ###\n" + XEN)
    Running(tmp_path, "debian", monkeypatch)
    assert menu(tmp_path).default.xen
    before = snapshot(tmp_path)
    for boot in ("once", "default"):
        assert "Xen" in refused("DEFAULT_XEN", present, tmp_path, kernels, boot=boot).why
    assert snapshot(tmp_path) == before
    present(tmp_path, kernels)[0].apply()
    assert menu(tmp_path).default.xen


def test_a_host_that_has_xen_and_does_not_boot_it_is_like_any_other(tmp_path, monkeypatch):
    kernels = variants(machines.debian(tmp_path), NEW)
    change(tmp_path, "^### END /etc/grub.d/10_linux ###$", "### END /etc/grub.d/10_linux ###\n" + XEN)
    Running(tmp_path, "debian", monkeypatch)
    present(tmp_path, kernels, boot="once")[0].apply()
    assert menu(tmp_path).once


@pytest.mark.parametrize("family", ["el6", "extlinux", "systemd-boot"])
def test_xen_is_told_by_other_loaders_entries_too(tmp_path, family):
    kernels = variants(machines.FAMILIES[family](tmp_path), NEW, family=family)
    if family == "el6":
        change(tmp_path, r"^default=1$", "default=0")
        change(
            tmp_path,
            r"^title",
            "title Xen\n\tkernel /xen.gz\n\tmodule /vmlinuz-%s ro\n\tmodule /initramfs-%s.img\ntitle"
            % (NEW, NEW),
        )
    elif family == "extlinux":
        change(
            tmp_path,
            r"^default l0$",
            "default xen\nlabel xen\n\tkernel /boot/mboot.c32\n\tappend xen.gz --- vmlinuz --- initrd\n",
        )
    else:
        write(tmp_path, "/boot/efi/loader/entries/xen.conf", "title Xen\nefi /EFI/xen/xen-4.17.efi\n")
        write(tmp_path, "/boot/efi/loader/loader.conf", "default xen.conf\n")
    refused("DEFAULT_XEN", present, tmp_path, kernels, boot="default")


# Conditions in grub.cfg

COUNTING = """### BEGIN /etc/grub.d/08_fallback_counting ###
insmod increment
# Check if boot_counter exists and boot_success=0 to activate this behaviour.
if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
  # if countdown has ended, choose to boot rollback deployment,
  # i.e. default=1 on OSTree-based systems.
  if  [ "${boot_counter}" = "0" -o "${boot_counter}" = "-1" ]; then
    set default=1
    set boot_counter=-1
  # otherwise decrement boot_counter
  else
    decrement boot_counter
  fi
  save_env boot_counter
fi
### END /etc/grub.d/08_fallback_counting ###

"""


@pytest.mark.parametrize(
    "variables, counted",
    [
        ([], False),
        (["boot_counter=2", "boot_success=0"], False),
        (["boot_counter=0"], False),
        (["boot_counter=0", "boot_success=1"], False),
        (["boot_counter=0", "boot_success=0"], True),
    ],
)
def test_failed_boots_that_are_counted_change_the_default_only_when_they_are(tmp_path, variables, counted):
    """Fedora and Enterprise Linux: without conditions the default would always be the second entry."""
    saved = "%s-%s" % (MACHINE, NEW)
    kernels = variants(machines.el9(tmp_path, saved), OLD, NEW)
    change(
        tmp_path,
        "^### BEGIN /etc/grub.d/10_linux ###$",
        COUNTING.replace("\\", "\\\\") + "### BEGIN /etc/grub.d/10_linux ###",
    )
    write(tmp_path, "/boot/grub2/grubenv", machines.grubenv("saved_entry=" + saved, *variables))
    assert menu(tmp_path).default.id == (saved if not counted else "%s-%s" % (MACHINE, OLD))
    if not counted:
        present(tmp_path, kernels, boot="default")[0].apply()
        assert menu(tmp_path).default.driver == DRIVER


@pytest.mark.parametrize(
    "words, comes_to",
    [
        ("", False),
        ("x", True),
        ("-n x", True),
        ("-z x", False),
        ("a = a", True),
        ("a == b", False),
        ("a != b", True),
        ("! a = a", False),
        ("-s file", None),
        ("! -f file", None),
        ("a = a -a -s file", None),
        ("a = b -a -s file", False),
        ("a = a -o -s file", True),
        ("a = b -o -s file", None),
        ("a = b -a a = b -o a = a", True),
        ("1 -lt 2", None),
    ],
)
def test_conditions_come_to_what_is_known(words, comes_to):
    assert script.test(words.split()) is comes_to


@pytest.mark.parametrize(
    "text, default",
    [
        ("if [ a = a ]; then set default=yes; else set default=no; fi", "yes"),
        ("if [ a = b ]; then set default=no; fi", ""),
        (
            "if [ a = b ]; then set default=no; elif [ -n x ]; then set default=yes; else set default=no; fi",
            "yes",
        ),
        ("if [ -s f ]; then set default=one; else set default=other; fi", "other"),
        ("if ! [ a = a ]; then set default=no; fi", "no"),
        ("if [ a = b ] && [ -s f ]; then set default=maybe; fi", "maybe"),
        ('if [ "${grub_platform}" = pc ]; then set default=maybe; fi', "maybe"),
        ("if [ a = b ]; then if [ a = a ]; then set default=no; fi; set default=no; fi", ""),
        ('set x=1\nif [ "$x" = 1 ]; then set default=yes; fi', "yes"),
        ('if [ "$x" ]; then set default=no; fi\nset x=1', ""),
    ],
)
def test_settings_in_conditions(tmp_path, text, default):
    write(tmp_path, "/boot/grub/grub.cfg", text + "\nmenuentry a {\nlinux /vmlinuz-1\n}\n")
    assert grub_cfg.config(View(Host(str(tmp_path))), loaders.detect(Host(str(tmp_path)))).default == default


# Unified kernel images


def test_a_default_that_may_be_a_unified_image_is_not_guessed(tmp_path):
    machines.systemd_boot(tmp_path)
    assert menu(tmp_path).default
    write(tmp_path, "/boot/efi/EFI/Linux/rocky-6.1.efi", "MZ")
    assert menu(tmp_path).default is None


# Names of entries and images


def sdbootutil(root, snapshots=(1,)):
    """openSUSE's sdbootutil: kernel and image by the digest of what is in them, an entry a snapshot."""
    token, digest = "opensuse-tumbleweed", "a1b2c3d4e5f60718293a4b5c6d7e8f9001122334"
    write(root, "/etc/kernel/entry-token", token + "\n")
    write(root, "/boot/efi/EFI/systemd/systemd-bootx64.efi")
    write(root, "/boot/efi/loader/loader.conf", "timeout 3\n")
    for release in (OLD, NEW):
        write(root, "/boot/efi/%s/%s/linux-%s" % (token, release, digest))
        for ending in ("", ".1"):
            write(root, "/boot/efi/%s/%s/initrd-%s%s" % (token, release, digest, ending))
        for number in snapshots:
            write(
                root,
                "/boot/efi/loader/entries/%s-%s-%d.conf" % (token, release, number),
                "title openSUSE Tumbleweed\nversion %d@%s\nsort-key opensuse-tumbleweed\n"
                "options root=UUID=%s rootflags=subvol=@/.snapshots/%d/snapshot\nlinux /%s/%s/linux-%s\ninitrd /%s/%s/initrd-%s\n"
                % (number, release, UUID, number, token, release, digest, token, release, digest),
            )
    return {release: ("/boot/efi/%s/%s/initrd-%s.1" % (token, release, digest),) for release in (OLD, NEW)}


def test_images_named_by_their_digest_are_read(tmp_path):
    kernels = sdbootutil(tmp_path)
    before = snapshot(tmp_path)
    plan, result = present(tmp_path, kernels, boot="default")
    plan.apply()
    assert [row["initrd"][0] for row in result["kernels"]] == [
        kernels[release][0][len("/boot/efi") :] for release in (OLD, NEW)
    ]
    assert menu(tmp_path).default.kernel == NEW
    absent(tmp_path)[0].apply()
    assert snapshot(tmp_path) == before


def test_of_snapshots_one_is_named_by_its_id(tmp_path):
    kernels = sdbootutil(tmp_path, (1, 2))
    error = refused("ENTRY_AMBIGUOUS", present, tmp_path, {NEW: kernels[NEW]})
    ident = "opensuse-tumbleweed-%s-2" % NEW
    assert repr(ident) in error.why and "copy_of" in error.then
    assert present(tmp_path, {NEW: kernels[NEW]}, copy_of=ident)[0]


@pytest.mark.parametrize("family", ["el9", "systemd-boot"])
def test_of_a_cloned_machines_entries_its_own_is_copied(tmp_path, family):
    kernels = variants(machines.FAMILIES[family](tmp_path), NEW, family=family)
    other = "0" * 32
    (path,) = tmp_path.glob("boot/**/entries/%s-%s.conf" % (MACHINE, NEW))
    (path.parent / ("%s-%s.conf" % (other, NEW))).write_text(
        path.read_text().replace("options", "options of=another")
    )
    error = refused("ENTRY_AMBIGUOUS", present, tmp_path, kernels)
    assert MACHINE in error.why and other in error.why
    write(tmp_path, "/etc/machine-id", MACHINE + "\n")
    present(tmp_path, kernels)[0].apply()
    assert all("of=another" not in each.args for each in menu(tmp_path).entries if each.driver)


@pytest.mark.parametrize("family", ["debian", "el9"])
def test_of_two_entries_the_one_whose_kernel_is_there_is_copied(tmp_path, family):
    kernels = variants(machines.FAMILIES[family](tmp_path), NEW)
    if family == "debian":
        other = machines.menuentry("Debian of the clone", "clone", NEW, "initrd.img-%s", boot="/elsewhere/")
        change(tmp_path, "^submenu", other.replace("\\", "\\\\") + "submenu")
    else:
        path = tmp_path / "boot/loader/entries" / ("%s-%s.conf" % (MACHINE, NEW))
        write(
            tmp_path,
            "/boot/loader/entries/other-%s.conf" % NEW,
            path.read_text().replace("linux /", "linux /elsewhere/"),
        )
    present(tmp_path, kernels)[0].apply()
    assert all("elsewhere" not in each.linux for each in menu(tmp_path).entries if each.driver)


def test_the_entry_to_copy_is_named_for_its_own_kernel_and_others_go_by_the_rule(machine):
    root, kernels = machine
    shipped = next(each for each in menu(root).entries if NEW in each.linux and "single" not in each.args)
    assert present(root, kernels, copy_of=shipped.id)[0].steps
    refused("ENTRY_MISSING", present, root, kernels, copy_of="a typo")


@pytest.mark.parametrize("wrong", ["shipped entry gone", "too long", "no image"])
def test_the_shipped_default_comes_back_whatever_is_wrong_with_an_entry(tmp_path, wrong):
    kernels = variants(machines.el9(tmp_path, "%s-%s" % (MACHINE, OLD)), OLD, NEW)
    present(tmp_path, kernels, boot="default")[0].apply()
    started_now = menu(tmp_path).default.kernel
    if wrong == "too long":
        change(tmp_path, r"^(options .*)$", r"\1 " + "x" * 2000)
    else:
        path = (
            "boot/loader/entries/%s-%s.conf" % (MACHINE, started_now)
            if wrong == "shipped entry gone"
            else kernels[started_now][0]
        )
        (tmp_path / path.lstrip("/")).unlink()
    result = present(tmp_path, kernels, boot="shipped")
    result[0].apply()
    assert menu(tmp_path).default.driver is None and result[1]["msg"]


# What somebody else writes meanwhile


def test_what_somebody_writes_after_it_was_read_is_not_lost(machine):
    root, kernels = machine
    plan = present(root, kernels, boot="default")[0]
    for step in plan.steps:
        path = root / step.path.lstrip("/")
        text = path.read_text() if path.exists() else ""
        write(
            root,
            step.path,
            text.replace("#" * 20, "somebody=else\n######", 1)
            if path.name == "grubenv"
            else text + "# mine\n",
        )
        break
    written = snapshot(root)
    with pytest.raises(KmodError) as caught:
        plan.apply()
    assert caught.value.code == "FILE_CHANGED" and snapshot(root) == written


def test_what_is_written_between_reading_and_planning_is_noticed_too(tmp_path, monkeypatch):
    kernels = variants(machines.el7(tmp_path), NEW)
    path = tmp_path / "boot/grub2/grubenv"
    kept = View.plan

    def late(view):
        text = path.read_text()
        os.utime(str(path), ns=(1, 1))
        path.write_text(grubenv.set_(text, "boot_success", "1", path="grubenv"))
        return kept(view)

    monkeypatch.setattr(View, "plan", late)
    plan = present(tmp_path, kernels, boot="default")[0]
    with pytest.raises(KmodError) as caught:
        plan.apply()
    assert caught.value.code == "FILE_CHANGED" and "boot_success=1" in path.read_text()
    assert not (tmp_path / "boot/grub2/custom.cfg").exists()


def test_other_variables_stay_where_they_are(tmp_path):
    kernels = variants(machines.el7(tmp_path), NEW)
    path = tmp_path / "boot/grub2/grubenv"
    others = ["boot_success=1", "kernelopts=root=/dev/sda1 a=\\\\b", "boot_indeterminate=0"]
    path.write_text(machines.grubenv("saved_entry=CentOS Linux (%s) 7 (Core)" % NEW, *others))
    present(tmp_path, kernels, boot="default")[0].apply()
    shown = subprocess.run(
        ["grub-editenv", str(path), "list"], stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert (
        "boot_success=1\n" in shown
        and "kernelopts=root=/dev/sda1 a=\\b\n" in shown
        and "boot_indeterminate=0\n" in shown
    )
    assert "saved_entry=outoftree-%s-%s\n" % (DRIVER, NEW) in shown


def test_what_bootctl_says_is_read_back_and_taken_back(tmp_path, monkeypatch):
    kernels = variants(machines.systemd_boot(tmp_path), NEW, family="systemd-boot")
    running = Running(tmp_path, "systemd-boot", monkeypatch)
    running.bootctl("somebody.conf")
    step = next(
        step
        for step in present(tmp_path, kernels, boot="once")[0].steps
        if "bootctl" in getattr(step, "argv", ())
    )
    host = Host(str(tmp_path))
    assert "somebody.conf" in step.proof(host)
    host.run(step.argv)
    assert step.proof(host) is None
    step.inverse(host)
    assert systemd_boot.ONCE.text(host) == "somebody.conf"


# Odd files and names


@pytest.mark.parametrize(
    "family, path",
    [
        ("debian", "/boot/grub/custom.cfg"),
        ("debian", "/boot/grub/grubenv"),
        ("el9", "/boot/loader/entries/odd.conf"),
        ("debian", "/etc/fstab"),
        ("systemd-boot", "/boot/efi/loader/entries/odd.conf"),
        ("debian", "/etc/machine-id"),
        ("debian", "/etc/kernel/proxmox-boot-uuids"),
    ],
)
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_is_no_file_neither_blocks_nor_is_read(tmp_path, family, path, kind):
    kernels = variants(machines.FAMILIES[family](tmp_path), NEW, family=family)
    odd = tmp_path / path.lstrip("/")
    odd.parent.mkdir(parents=True, exist_ok=True)
    if odd.exists():
        odd.unlink()
    {
        "fifo": lambda: os.mkfifo(str(odd)),
        "device": lambda: odd.symlink_to("/dev/zero"),
        "directory": odd.mkdir,
    }[kind]()
    try:
        present(tmp_path, kernels)
    except KmodError as error:
        assert error.code == "FILE_NOT_REGULAR"
    absent(tmp_path)


def test_a_menu_of_too_many_files_is_not_read(tmp_path):
    kernels = variants(machines.el9(tmp_path), NEW)
    for number in range(MANY):
        (tmp_path / "boot/loader/entries" / ("x%d.conf" % number)).touch()
    refused("ENTRIES_TOO_MANY", present, tmp_path, kernels)


def test_a_huge_entry_is_not_read(tmp_path):
    kernels = variants(machines.el9(tmp_path), NEW)
    with open(str(tmp_path / "boot/loader/entries/huge.conf"), "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(KmodError) as caught:
        present(tmp_path, kernels)
    assert caught.value.code == "FILE_TOO_LARGE"


@pytest.mark.parametrize("name", ["a b", "a;reboot", "a'b", "a$b", "a{b", "ä", "a\x1bb", "a\nb", "a,b"])
def test_images_with_names_that_a_loader_would_take_apart(machine, name):
    root, kernels = machine
    path = os.path.dirname(kernels[NEW][0]) + "/" + name
    write(root, path)
    refused("INITRD_NAME", present, root, {NEW: (path,)})


@pytest.mark.parametrize("release", ["6.1;reboot", "6.1 0", "6.1'", "../6.1", "6.1\n7", "6.1\x1b[2J"])
def test_kernels_with_names_that_no_kernel_has(machine, release):
    root, kernels = machine
    refused("RELEASE_NAME", present, root, {release: kernels[NEW]})


@pytest.mark.parametrize(
    "title",
    ['It\'s "mine"; reboot', "tab\there", "clear \x1b[2J", "Möbius", "caf\udce9", "{ }", "\\", "$root"],
)
def test_titles_of_shipped_entries_stay_titles(tmp_path, title):
    kernels = variants(machines.debian(tmp_path), NEW)
    path = tmp_path / "boot/grub/grub.cfg"
    text = path.read_text().replace("'Debian GNU/Linux'", script.quote(title))
    text = text.replace("'Debian GNU/Linux, with Linux %s'" % NEW, script.quote(title + "2"))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    plan, result = present(tmp_path, kernels, boot="default")
    plan.apply()
    subprocess.run(["grub-script-check", str(tmp_path / "boot/grub/custom.cfg")], check=True)
    assert menu(tmp_path).default.driver == DRIVER and not present(tmp_path, kernels, boot="default")[0]
    shown = result["kernels"][0]["title"]
    assert (
        shown.isprintable()
        and shown.encode("utf-8")
        and not re.search("[\x00-\x1f]", menu(tmp_path).default.title)
    )


# The kernel that is meant, and images that are whole


def all_of(root, kernels, boot):
    plan, answer = entry.present(Host(str(root)), entry.Request(DRIVER, boot=boot, all_kernels=True), kernels)
    return plan, answer.as_dict()


@pytest.mark.parametrize("boot", ["once", "default"])
def test_where_the_kernel_that_boots_start_has_no_variant_no_older_one_is_meant_in_silence(
    machine, monkeypatch, boot
):
    root, kernels = machine
    change(root, r"^default=1$", "default=0")
    before = snapshot(root)
    error = refused("VARIANT_MISSING", all_of, root, machines.verified({OLD: kernels[OLD]}), boot)
    assert NEW in str(error) and OLD in str(error) and snapshot(root) == before
    assert present(root, {OLD: kernels[OLD]}, boot="default")[1]["kernels"][0]["default"], (
        "but where that kernel was named"
    )


@pytest.mark.parametrize("boot", ["none", "once", "default"])
def test_where_the_default_starts_what_is_no_whole_variant_any_more_nothing_is_moved(machine, boot):
    root, kernels = machine
    present(root, kernels, boot="default")[0].apply()
    started_now, before = menu(root).default.kernel, snapshot(root)
    others = {release: images for release, images in kernels.items() if release != started_now}
    error = refused("VARIANT_DAMAGED", all_of, root, machines.verified(others), boot)
    assert started_now in str(error) and snapshot(root) == before
    all_of(root, machines.verified(others), "shipped")[0].apply()
    assert menu(root).default.driver is None


@pytest.mark.parametrize("boot", ["none", "once", "default"])
@pytest.mark.parametrize("there", [False, True])
def test_damaged_images_are_refused_whatever_is_asked_for(machine, boot, there):
    root, kernels = machine
    if there:
        present(root, kernels)[0].apply()
    before = snapshot(root)
    damaged = machines.verified(kernels)
    damaged[NEW] = damaged[NEW]._replace(
        damage=KmodError(kernels[NEW][0], "is cut off", "Make it again", "VARIANT_DAMAGED")
    )
    refused("VARIANT_DAMAGED", all_of, root, damaged, boot)
    assert snapshot(root) == before
    if there:
        assert [row["kernel"] for row in all_of(root, damaged, "shipped")[1]["kernels"]] == [OLD]


def test_a_stale_variant_is_not_made_the_default_anew_and_stays_it(machine):
    root, kernels = machine
    stale = {
        release: Verified(tuple(images), stale="was made of another image")
        for release, images in kernels.items()
    }
    all_of(root, stale, "none")[0].apply()
    refused("VARIANT_STALE", all_of, root, stale, "default")
    present(root, kernels, boot="default")[0].apply()
    assert not all_of(root, stale, "default")[0]


def test_images_that_were_given_are_unpacked_as_a_whole(tmp_path):
    from tests.forge.cpio import cpio

    machines.debian(tmp_path)
    whole = cpio({"init": b"#!/bin/sh\n" * 100})
    for name, content in (("whole", whole), ("cut", whole[:-300]), ("none", b""), ("text", b"initramfs")):
        (tmp_path / "boot" / name).write_bytes(content)
    host = Host(str(tmp_path))
    for name in ("cut", "none", "text"):
        refused(
            "VARIANT_DAMAGED", started.present, host, entry.Request(DRIVER), [NEW], initrd=["/boot/" + name]
        )
    refused("VARIANT_MISSING", started.present, host, entry.Request(DRIVER), [NEW], initrd=["/boot/missing"])
    refused("ARGS_INVALID", started.present, host, entry.Request(DRIVER), [], initrd=["/boot/whole"])
    assert started.present(host, entry.Request(DRIVER), [NEW], initrd=["/boot/whole"])[0]
    assert loaders.detect(host).loader.name == "grub2"


@pytest.mark.parametrize("family", ["el9", "systemd-boot"])
def test_a_copy_of_another_entry_takes_the_place_of_the_first(tmp_path, family):
    kernels = variants(machines.FAMILIES[family](tmp_path), NEW, family=family)
    other = "0" * 32
    (path,) = tmp_path.glob("boot/**/entries/%s-%s.conf" % (MACHINE, NEW))
    (path.parent / ("%s-%s.conf" % (other, NEW))).write_text(
        path.read_text().replace("options", "options of=another")
    )
    before = snapshot(tmp_path)
    for token in (MACHINE, other, MACHINE):
        present(tmp_path, kernels, copy_of="%s-%s" % (token, NEW))[0].apply()
        ours = [each for each in menu(tmp_path).entries if each.driver]
        assert [("of=another" in each.args) for each in ours] == [token == other]
        assert not present(tmp_path, kernels, copy_of="%s-%s" % (token, NEW))[0]
    absent(tmp_path)[0].apply()
    assert snapshot(tmp_path) == before
