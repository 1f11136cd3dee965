# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB 2: its script language, its environment block, custom.cfg, and what it starts."""

import os
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    bls,
    entry,
    loaders,
    script,
    storage,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import grubenv as env
from tests.forge import machines
from tests.forge.machines import DRIVER, MACHINE, NEW, OLD, UUID, grubenv, write
from tests.unit.place.boot.test_entry import absent, identity, menu, present, refused, snapshot, variants

CFG, CUSTOM, ENV = "boot/grub/grub.cfg", "boot/grub/custom.cfg", "boot/grub/grubenv"


@pytest.fixture
def debian(tmp_path):
    initrd = machines.debian(tmp_path)
    return tmp_path, variants(initrd, OLD, NEW)


# The language


@pytest.mark.parametrize(
    "raw, value",
    [
        ("plain", "plain"),
        ("'a b'", "a b"),
        ('"a b"', "a b"),
        (r"a\ b", "a b"),
        (r'"a\"b"', 'a"b'),
        (r"'a\b'", r"a\b"),
        (r"it\'s", "it's"),
        ("'it'\\''s'", "it's"),
        ("${root}/x", "${root}/x"),
        ("a'b'\"c\"d", "abcd"),
        ('"$x"', "$x"),
        ("a\\\nb", "ab"),
    ],
)
def test_words_are_read_as_grub_reads_them(raw, value):
    command = script.parse("echo %s\n" % raw, "x")[0]
    assert [word.value for word in command.words] == ["echo", value]
    assert script.parse("echo %s" % script.quote(value), "x")[0].words[1].value == value


def test_blocks_hold_their_commands_and_conditions_do_not_hide_any():
    found = script.parse(
        """# a comment with ' and {
function f { true; }
if [ x = y ]; then menuentry 'one' { linux /k; initrd /i }
else submenu two { menuentry three { linux /k } } ; fi""",
        "x",
    )
    assert [command.name for command in found] == ["function", "[", "menuentry", "submenu", "fi"]
    assert [each.name for each in found[2].walk()] == ["linux", "initrd"]
    assert [each.name for each in found[3].walk()] == ["menuentry", "linux"]


@pytest.mark.parametrize(
    "text, line", [("a\nmenuentry 'x {\n}\n", 2), ('echo "', 1), ("a {\n", 1), ("a\n}\n", 2), ("\n\n{ a", 3)]
)
def test_a_malformed_script_is_told_with_its_line(text, line):
    with pytest.raises(KmodError) as caught:
        script.parse(text, "/boot/grub/grub.cfg")
    assert caught.value.code == "CONFIG_MALFORMED" and "line %d:" % line in caught.value.why


def test_a_script_of_blocks_in_blocks_without_end_is_malformed():
    with pytest.raises(KmodError) as caught:
        script.parse("submenu x {\n" * 100000, "/boot/grub/grub.cfg")
    assert caught.value.code == "CONFIG_MALFORMED"


# The environment block


def test_the_block_keeps_its_size_in_bytes():
    text = grubenv("saved_entry=x")
    changed = env.set_(text, "saved_entry", "With driver \u00e9: \u2013", path="grubenv")
    assert len(changed.encode()) == 1024
    assert env.set_(changed, "saved_entry", "x", path="grubenv") == text


def test_a_block_whose_last_line_has_no_end_is_not_written_to():
    with pytest.raises(KmodError) as caught:
        env.set_(env.HEADER + "x=y" + "#" * 900, "next_entry", "z", path="grubenv")
    assert caught.value.code == "ENV_MALFORMED"


# custom.cfg


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="no grub-script-check on this machine")
@pytest.mark.parametrize("family", ["debian", "el7", "sles"])
def test_grub_itself_takes_what_is_written(tmp_path, family):
    initrd = machines.FAMILIES[family](tmp_path)
    for options in ({}, {"boot": "default"}, {"args": "a=b c.d=1,2 x=[1-3] y=(z)"}):
        present(tmp_path, variants(initrd, OLD, NEW), **options)[0].apply()
        custom = next(tmp_path.glob("boot/grub*/custom.cfg"))
        assert subprocess.run(["grub-script-check", str(custom)]).returncode == 0, custom.read_text()


def test_the_copy_keeps_what_the_shipped_entry_does_before_it_starts_the_kernel(debian):
    root, kernels = debian
    present(root, kernels)[0].apply()
    text = (root / CUSTOM).read_text()
    for needed in (
        "insmod part_msdos",
        "search --no-floppy --fs-uuid --set=root " + UUID,
        "load_video",
        "--class gnu-linux",
    ):
        assert text.count(needed) == 2
    assert text.count("menuentry 'With driver %s: Debian GNU/Linux, with Linux %s'" % (DRIVER, OLD)) == 1


def test_an_entry_tried_by_hand_does_not_become_the_default(tmp_path):
    initrd = machines.debian(tmp_path, "${saved_entry}", more="\tsavedefault\n")
    present(tmp_path, variants(initrd, NEW))[0].apply()
    assert "savedefault" not in (tmp_path / CUSTOM).read_text()


def test_custom_cfg_is_as_secret_as_grub_cfg(debian):
    root, kernels = debian
    present(root, kernels)[0].apply()
    assert (root / CUSTOM).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "theirs",
    ["", "\n", "menuentry 'Mine' {\n  chainloader +1\n}\n", "set timeout=9", "# no end of line\n\n# x"],
)
def test_what_others_wrote_into_custom_cfg_stays_to_the_byte(debian, theirs):
    root, kernels = debian
    write(root, CUSTOM, theirs, 0o640)
    before = snapshot(root)
    present(root, kernels, boot="default")[0].apply()
    text = (root / CUSTOM).read_text()
    assert text.startswith(theirs)
    assert [each.title for each in menu(root).entries if each.title == "Mine"] == ["Mine"] * (
        "Mine" in theirs
    )
    write(root, CUSTOM, text + "set later=1\n", 0o640)
    present(root, kernels)[0].apply()
    write(root, CUSTOM, (root / CUSTOM).read_text().replace("set later=1\n", ""), 0o640)
    absent(root)[0].apply()
    assert snapshot(root) == before


def test_what_stands_behind_half_a_block_of_ours_is_not_ours(debian):
    root, kernels = debian
    write(root, CUSTOM, "### BEGIN outoftree.kmod %s %s ###\nmenuentry 'Mine' {\n}\n" % (DRIVER, NEW), 0o600)
    before = snapshot(root)
    for _time in range(2):
        present(root, kernels, boot="default")[0].apply()
        assert [each.driver for each in menu(root).entries if each.title == "Mine"] == [None]
    absent(root)[0].apply()
    assert snapshot(root) == before


def test_an_entry_that_somebody_removed_comes_back_and_no_other_is_touched(debian):
    root, kernels = debian
    present(root, kernels)[0].apply()
    whole = (root / CUSTOM).read_text()
    write(
        root,
        CUSTOM,
        whole.replace(
            "menuentry 'With driver %s: Debian GNU/Linux, with Linux %s'" % (DRIVER, OLD), "menuentry 'x'"
        ),
        0o600,
    )
    present(root, kernels)[0].apply()
    assert (root / CUSTOM).read_text() == whole


def test_a_boot_partition_of_its_own_has_its_paths(tmp_path):
    initrd = machines.debian(tmp_path, boot="/")
    _plan, result = present(tmp_path, variants(initrd, NEW))
    assert result["kernels"][0]["initrd"] == ["/initrd.img-%s.1" % NEW]


@pytest.mark.parametrize("prefix", ["/@/boot/", "/@rootfs/boot/", "/BOOT/debian@/boot/"])
def test_a_subvolume_has_its_paths(tmp_path, prefix):
    initrd = machines.debian(tmp_path, boot=prefix)
    _plan, result = present(tmp_path, variants(initrd, NEW))
    assert result["kernels"][0]["initrd"] == ["%sinitrd.img-%s.1" % (prefix, NEW)]


def test_microcode_stays_before_the_variant(debian):
    root, kernels = debian
    write(root, "/boot/microcode.cpio")
    write(
        root,
        CFG,
        (root / CFG).read_text().replace("initrd\t/boot/initrd", "initrd\t/boot/microcode.cpio /boot/initrd"),
        0o600,
    )
    _plan, result = present(root, {NEW: kernels[NEW]})
    assert result["kernels"][0]["initrd"] == ["/boot/microcode.cpio", "/boot/initrd.img-%s.1" % NEW]


def test_a_driver_in_a_segment_of_its_own_comes_after_the_shipped_image(debian):
    root, kernels = debian
    shipped = "/boot/initrd.img-" + NEW
    plan, result = present(root, {NEW: (shipped,) + kernels[NEW]})
    plan.apply()
    assert result["kernels"][0]["initrd"] == [shipped, shipped + ".1"]
    assert not present(root, {NEW: (shipped,) + kernels[NEW]})[0]


# The shipped entry


def test_without_a_shipped_entry_for_the_kernel_the_reason_is_told(debian):
    root, kernels = debian
    write(root, CFG, machines.GRUB_HEAD % "0" + machines.GRUB_TAIL, 0o600)
    assert NEW in refused("ENTRY_MISSING", present, root, {NEW: kernels[NEW]}).why


def test_of_two_that_differ_one_has_to_be_named(debian):
    root, kernels = debian
    text = (root / CFG).read_text()
    other = machines.menuentry(
        "Debian with sysvinit", "sysv", NEW, "initrd.img-%s", args="init=/lib/sysvinit/init"
    )
    write(
        root, CFG, text.replace("### END /etc/grub.d/10_linux", other + "### END /etc/grub.d/10_linux"), 0o600
    )
    assert "'Debian with sysvinit'" in refused("ENTRY_AMBIGUOUS", present, root, {NEW: kernels[NEW]}).why
    plan, _result = present(root, {NEW: kernels[NEW]}, copy_of="sysv")
    plan.apply()
    assert "init=/lib/sysvinit/init outoftree.kmod" in next(
        each.args for each in menu(root).entries if each.driver
    )


def test_a_hand_made_entry_is_no_shipped_one(debian):
    root, kernels = debian
    mine = machines.menuentry("My own", "mine", NEW, "initrd.img-%s", args="debug")
    write(
        root,
        CFG,
        (root / CFG)
        .read_text()
        .replace("### END /etc/grub.d/40_custom", mine + "### END /etc/grub.d/40_custom"),
        0o600,
    )
    _plan, result = present(root, {NEW: kernels[NEW]})
    assert "debug" not in result["kernels"][0]["args"]
    assert present(root, {NEW: kernels[NEW]}, copy_of="My own")[0]


def test_a_grub_cfg_that_does_not_source_custom_cfg(debian):
    root, kernels = debian
    text = (root / CFG).read_text()
    write(root, CFG, text[: text.index("### BEGIN /etc/grub.d/41_custom")], 0o600)
    before = snapshot(root)
    refused("GRUB_NO_CUSTOM", present, root, kernels)
    assert snapshot(root) == before


def test_a_malformed_grub_cfg(debian):
    root, kernels = debian
    write(root, CFG, (root / CFG).read_text() + "menuentry 'x {\n", 0o600)
    assert "/boot/grub/grub.cfg" in str(refused("CONFIG_MALFORMED", present, root, kernels))


def test_an_id_that_is_taken(debian):
    root, kernels = debian
    theirs = machines.menuentry("Theirs", "outoftree-%s-%s" % (DRIVER, NEW), OLD, "initrd.img-%s")
    write(root, CUSTOM, theirs)
    before = snapshot(root)
    refused("ENTRY_TAKEN", present, root, kernels)
    assert snapshot(root) == before


def test_a_shipped_initramfs_that_is_not_there(debian):
    root, kernels = debian
    (root / "boot" / ("initrd.img-" + NEW)).unlink()
    refused("INITRD_MISSING", present, root, {NEW: kernels[NEW]})


# The default


@pytest.mark.parametrize(
    "default, means",
    [
        ("0", "Debian GNU/Linux"),
        ("1", "Advanced options for Debian GNU/Linux"),
        ("1>2", "Debian GNU/Linux, with Linux " + OLD),
        ("7", "Debian GNU/Linux"),
        (
            "gnulinux-advanced-%s>gnulinux-%s-advanced-%s" % (UUID, OLD, UUID),
            "Debian GNU/Linux, with Linux " + OLD,
        ),
        (
            "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux " + NEW,
            "Debian GNU/Linux, with Linux " + NEW,
        ),
        ("", "Debian GNU/Linux"),
        ("nothing of that name", "Debian GNU/Linux"),
        ("1>nothing", "Debian GNU/Linux, with Linux " + NEW),
    ],
)
def test_the_default_is_what_grub_would_start(tmp_path, default, means):
    machines.debian(tmp_path, default)
    assert menu(tmp_path).default.title == means


def test_an_id_that_begins_with_a_number_is_no_number(tmp_path):
    initrd = machines.el9(tmp_path, saved="%s-%s" % (MACHINE, OLD))
    assert menu(tmp_path).default.id == "%s-%s" % (MACHINE, OLD)
    assert present(tmp_path, variants(initrd, OLD, NEW), boot="default")[1]["default"] == "%s-%s~3w_9xxx" % (
        MACHINE,
        OLD,
    )


def test_a_default_that_our_entries_would_shift_is_refused(tmp_path):
    initrd = machines.el9(tmp_path, saved="1")
    before = snapshot(tmp_path)
    refused("DEFAULT_WOULD_CHANGE", present, tmp_path, variants(initrd, NEW))
    assert snapshot(tmp_path) == before


def test_a_saved_default_is_saved_again_after_removal(tmp_path):
    initrd = machines.el7(tmp_path)
    present(tmp_path, variants(initrd, NEW), boot="default")[0].apply()
    text = (tmp_path / "boot/grub2/grubenv").read_text()
    assert "saved_entry=outoftree-%s-%s\n" % (DRIVER, NEW) in text and len(text) == 1024
    assert not (tmp_path / "boot/grub2/custom.cfg").read_text().count("set default")


def test_a_default_that_somebody_else_has_set_since_is_theirs(tmp_path):
    initrd = machines.el7(tmp_path)
    present(tmp_path, variants(initrd, NEW), boot="default")[0].apply()
    path = tmp_path / "boot/grub2/grubenv"
    path.write_text(env.set_(path.read_text(), "saved_entry", "1", path="grubenv"))
    absent(tmp_path)[0].apply()
    assert path.read_text() == grubenv("saved_entry=1")


@pytest.mark.parametrize("family", ["el7", "el9"])
@pytest.mark.parametrize("by", ["id", "title"])
def test_what_somebody_has_made_the_default_by_hand_is_named_no_longer_once_it_goes(tmp_path, family, by):
    initrd = machines.FAMILIES[family](tmp_path)
    present(tmp_path, variants(initrd, NEW))[0].apply()
    ours = next(each for each in menu(tmp_path).entries if each.driver)
    path = tmp_path / "boot/grub2/grubenv"
    path.write_text(env.set_(path.read_text(), "saved_entry", getattr(ours, by), path="grubenv"))
    absent(tmp_path)[0].apply()
    assert "saved_entry" not in path.read_text() and menu(tmp_path).default.kernel is None


def test_with_a_fixed_default_custom_cfg_sets_another_but_not_against_a_trial(debian):
    root, kernels = debian
    present(root, kernels, boot="default")[0].apply()
    assert (root / CUSTOM).read_text().count(
        "if [ -z \"${boot_once}\" ]; then set default='outoftree-%s-%s'; fi\n" % (DRIVER, NEW)
    ) == 1
    assert (root / ENV).read_text() == grubenv()


def test_a_fixed_default_that_no_custom_cfg_sets_is_told(tmp_path):
    initrd = machines.el9(tmp_path)
    cfg = tmp_path / "boot/grub2/grub.cfg"
    write(
        tmp_path,
        "/boot/grub2/grub.cfg",
        cfg.read_text().replace('set default="${saved_entry}"', 'set default="0"'),
    )
    assert (
        "GRUB_DEFAULT=saved"
        in refused("DEFAULT_FIXED", present, tmp_path, variants(initrd, NEW), boot="default").then
    )


# Once


def test_once_is_left_to_grub_to_take_back(debian):
    root, kernels = debian
    before = snapshot(root)
    plan, result = present(root, kernels, boot="once")
    plan.apply()
    assert (root / ENV).read_text() == grubenv("next_entry=outoftree-%s-%s" % (DRIVER, NEW))
    assert [row["next"] for row in result["kernels"]] == [False, True] and menu(root).default.driver is None
    assert not present(root, kernels, boot="once")[0]
    assert not present(root, kernels)[0], "boot: none leaves a pending trial as it is"
    absent(root)[0].apply()
    assert snapshot(root) == before


def test_the_order_of_writing_is_entry_first_and_of_removal_last(debian):
    root, kernels = debian
    plan, _result = present(root, kernels, boot="once")
    # that it was tried
    assert [path.rsplit("/", 1)[1] for path in plan.paths()] == ["custom.cfg", "grubenv", "custom.cfg"]
    plan.apply()
    assert [path.rsplit("/", 1)[1] for path in absent(root)[0].paths()] == ["grubenv", "custom.cfg"]


@pytest.mark.parametrize(
    "fstab, why",
    [
        ("/dev/mapper/vg-root / xfs defaults 0 0\n", "LVM"),
        ("/dev/vg/root / ext4 defaults 0 0\n", "LVM"),
        ("/dev/md0 / ext4 defaults 0 0\n", "RAID"),
        ("UUID=1 / btrfs subvol=@ 0 0\n", "btrfs"),
        ("rpool / zfs defaults 0 0\n", "zfs"),
        ("UUID=2 / ext4 defaults 0 0\n/dev/mapper/vg-boot /boot ext4 defaults 0 0\n", "LVM"),
    ],
)
def test_once_is_refused_where_grub_cannot_write(debian, fstab, why):
    root, kernels = debian
    write(root, "/etc/fstab", "# comment\n" + fstab)
    before = snapshot(root)
    assert why in refused("ONCE_NOT_SAFE", present, root, kernels, boot="once").why
    assert snapshot(root) == before
    present(root, kernels, boot="default")[0].apply()


@pytest.mark.parametrize(
    "fstab",
    [
        "UUID=2 / ext4 defaults 0 0\n",
        "/dev/mapper/vg-root / xfs defaults 0 0\n/dev/sda1 /boot ext4 defaults 0 0\n",
        "/dev/mapper/mpatha2 / ext4 defaults 0 0\n",
        "/dev/disk/by-id/x / ext4 defaults 0 0\n",
    ],
)
def test_once_is_allowed_on_a_plain_partition(debian, fstab):
    root, kernels = debian
    write(root, "/etc/fstab", fstab)
    assert present(root, kernels, boot="once")[0]


@pytest.mark.parametrize("module", ["lvm", "diskfilter mdraid1x", "zfs", "btrfs"])
def test_once_is_refused_where_the_shipped_entry_shows_that_grub_cannot_write(debian, module):
    root, kernels = debian
    write(
        root, CFG, (root / CFG).read_text().replace("insmod ext2", "insmod %s\n\tinsmod ext2" % module), 0o600
    )
    refused("ONCE_NOT_SAFE", present, root, kernels, boot="once")


def test_once_needs_a_grub_cfg_that_looks_for_it(debian):
    root, kernels = debian
    write(root, CFG, (root / CFG).read_text().replace("next_entry", "other"), 0o600)
    refused("GRUB_NO_ONCE", present, root, kernels, boot="once")


def test_once_needs_an_environment_block(debian):
    root, kernels = debian
    (root / ENV).unlink()
    refused("ENV_MISSING", present, root, kernels, boot="once")
    write(root, ENV, "next_entry=x\n")
    refused("ENV_MALFORMED", present, root, kernels, boot="once")
    write(root, ENV, grubenv("x=" + "y" * 960))
    refused("ENV_FULL", present, root, kernels, boot="once")


def test_that_there_is_no_environment_block_is_told_before_what_it_would_be_on(debian):
    root, kernels = debian
    (root / ENV).unlink()
    write(root, "/etc/fstab", "/dev/vg/root / ext4 defaults 0 0\n")
    refused("ENV_MISSING", present, root, kernels, boot="once")


@pytest.mark.parametrize(
    "files, why",
    [
        ({}, None),
        ({"md/level": "raid1"}, "RAID"),
        ({"dm/uuid": "LVM-x"}, "LVM"),
        ({"dm/uuid": "CRYPT-LUKS2-x"}, None),
        ({"dm/uuid": "mpath-x"}, None),
        ({"dm/uuid": "CRYPT-LUKS2-x", "slaves/dm-1/dm/uuid": "LVM-x"}, "LVM"),
        ({"dm/uuid": "CRYPT-LUKS2-x", "slaves/md0/md/level": "raid1"}, "RAID"),
        ({"dm/uuid": "CRYPT-LUKS2-x", "slaves/sda2/partition": "2"}, None),
    ],
)
def test_on_a_running_machine_all_that_lies_below_counts(tmp_path, files, why):
    for path, text in files.items():
        write(tmp_path, "/block/" + path, text)
    assert str(storage.stacked(str(tmp_path / "block"))).endswith(str(why))


def test_a_partition_of_a_raid_is_on_raid(tmp_path):
    write(tmp_path, "/md0/md/level", "raid1")
    write(tmp_path, "/md0/md0p1/partition", "1")
    assert "RAID" in str(storage.stacked(str(tmp_path / "md0/md0p1")))


# A menu with passwords


def test_under_a_password_the_copy_is_as_free_as_the_shipped_entry(tmp_path):
    initrd = machines.el7(tmp_path)
    cfg = tmp_path / "boot/grub2/grub.cfg"
    cfg.write_text(
        'set superusers="root"\nexport superusers\npassword_pbkdf2 root grub.pbkdf2.sha512.1\n'
        + cfg.read_text()
    )
    present(tmp_path, variants(initrd, OLD, NEW), boot="once")[0].apply()
    assert (tmp_path / "boot/grub2/custom.cfg").read_text().count("--unrestricted") == 2


def test_an_entry_that_would_wait_for_a_password_is_not_started_unattended(debian):
    root, kernels = debian
    write(root, CFG, 'set superusers="root"\n' + (root / CFG).read_text(), 0o600)
    for boot in ("once", "default"):
        refused("GRUB_PASSWORD", present, root, kernels, boot=boot)
    assert present(root, kernels)[0]


@pytest.mark.parametrize(
    "lines, grub_cfg, environment, asks",
    [
        ("", "", [], False),
        ("grub_arg --unrestricted\n", "", [], False),
        ("grub_users root\n", "", [], True),
        ("grub_users ${grub_users}\n", "", [], True),
        ("grub_users $grub_users\n", "", [], False),
        ("grub_users $grub_users\n", "", ["grub_users=root"], True),
        ("grub_users $grub_users\n", "set grub_users=root\n", [], True),
        ("grub_users $grub_users\n", 'set grub_users=""\n', [], True),
    ],
)
def test_entries_in_files_wait_for_a_password_by_their_own_rule(tmp_path, lines, grub_cfg, environment, asks):
    """Each row as the real GRUB has it (tests/boot/test_menus.py)."""
    initrd = machines.el9(tmp_path)
    for path in (tmp_path / "boot/loader/entries").iterdir():
        path.write_text(path.read_text().replace("grub_users $grub_users\ngrub_arg --unrestricted\n", lines))
    cfg = tmp_path / "boot/grub2/grub.cfg"
    cfg.write_text('set superusers="root"\n' + grub_cfg + cfg.read_text())
    (tmp_path / "boot/grub2/grubenv").write_text(grubenv(*environment))
    for boot in ("once", "default"):
        if asks:
            assert (
                "grub_users"
                in refused("GRUB_PASSWORD", present, tmp_path, variants(initrd, NEW), boot=boot).then
            )
        else:
            assert present(tmp_path, variants(initrd, NEW), boot=boot)[0]


# EFI


def test_the_short_grub_cfg_of_the_efi_system_partition_leads_to_the_real_one(debian):
    root, _kernels = debian
    write(
        root,
        "/boot/efi/EFI/debian/grub.cfg",
        "search.fs_uuid %s root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n" % UUID,
    )
    assert loaders.detect(Host(str(root))).config == "/boot/grub/grub.cfg"


def test_a_grub_cfg_on_the_efi_system_partition_has_its_custom_cfg_and_environment_there(tmp_path):
    initrd = machines.el7(tmp_path, "/boot/efi/EFI/centos")
    (tmp_path / "boot/grub2").mkdir()
    (tmp_path / "boot/grub2/grubenv").symlink_to("../efi/EFI/centos/grubenv")
    before = snapshot(tmp_path)
    plan, _result = present(tmp_path, variants(initrd, NEW), boot="default")
    assert plan.paths() == ["/boot/efi/EFI/centos/custom.cfg", "/boot/efi/EFI/centos/grubenv"]
    plan.apply()
    assert (tmp_path / "boot/grub2/grubenv").is_symlink()
    absent(tmp_path)[0].apply()
    assert snapshot(tmp_path) == before


def test_an_environment_block_behind_a_symlink_is_written_where_it_lies(tmp_path):
    initrd = machines.el8(tmp_path)
    env_path = tmp_path / "boot/grub2/grubenv"
    write(tmp_path, "/boot/efi/EFI/redhat/grubenv", env_path.read_text())
    env_path.unlink()
    env_path.symlink_to("../efi/EFI/redhat/grubenv")
    present(tmp_path, variants(initrd, NEW), boot="default")[0].apply()
    assert (
        env_path.is_symlink()
        and "saved_entry=With driver 3w-9xxx: " in (tmp_path / "boot/efi/EFI/redhat/grubenv").read_text()
    )


# Entries that are files


def test_variables_of_enterprise_linux_8_stay_in_the_copy(tmp_path):
    initrd = machines.el8(tmp_path)
    present(tmp_path, variants(initrd, NEW))[0].apply()
    text = (tmp_path / "boot/loader/entries" / ("%s-%s~3w_9xxx.conf" % (MACHINE, NEW))).read_text()
    assert "options $kernelopts $tuned_params outoftree.kmod=3w-9xxx %s panic=10" % identity(text) in text
    assert (
        "initrd /initramfs-%s.img.1 $tuned_initrd\n" % NEW in text
        and "grub_users $grub_users\ngrub_arg --unrestricted\n" in text
    )


@pytest.mark.parametrize(
    "one, other, result",
    [
        ("1.0", "1.0", 0),
        ("1.0", "1.1", -1),
        ("1.10", "1.9", 1),
        ("1.0~rc1", "1.0", -1),
        ("1.0", "1.0~x", 1),
        ("1.0~a", "1.0~b", -1),
        ("a", "1", -1),
        ("1.0.1", "1.0", 1),
        ("1.0a", "1.0", 1),
        ("1_0", "1.0", 0),
        ("01", "1", 0),
        ("el9", "el9_4", -1),
        ("", "~", 1),
        ("427.el9.x86_64~x", "427.el9.x86_64", -1),
    ],
)
def test_versions_compare_as_rpm_compares_them(one, other, result):
    assert bls.vercmp(one, other) == result and bls.vercmp(other, one) == -result


def test_an_entry_without_a_title_gets_one_that_is_its_own(tmp_path):
    initrd = machines.el9(tmp_path)
    path = tmp_path / "boot/loader/entries" / ("%s-%s.conf" % (MACHINE, NEW))
    path.write_text(path.read_text().split("\n", 1)[1])
    present(tmp_path, variants(initrd, NEW), boot="default")[0].apply()
    assert menu(tmp_path).default.title == "With driver 3w-9xxx: /vmlinuz-" + NEW


@pytest.mark.parametrize("driver", ["a", "3w-9xxx", "z", "9", "A.b", "x+y", "a_b-c"])
def test_no_name_of_a_driver_sorts_its_entry_before_the_shipped_one(tmp_path, driver):
    initrd = machines.el9(tmp_path)
    entry.present(Host(str(tmp_path)), entry.Request(driver), machines.verified(variants(initrd, OLD, NEW)))[
        0
    ].apply()
    assert [each.kernel for each in menu(tmp_path).entries] == [None, NEW, None, OLD]


def test_a_line_without_a_value_ends_an_entry_as_for_grub(tmp_path):
    machines.el9(tmp_path)
    path = tmp_path / "boot/loader/entries" / ("%s-%s.conf" % (MACHINE, NEW))
    path.write_text(path.read_text().replace("linux ", "architecture\nlinux "))
    assert [each.id for each in menu(tmp_path).entries] == ["%s-%s" % (MACHINE, OLD)]


def test_a_file_of_somebody_else_under_our_name(tmp_path):
    initrd = machines.el9(tmp_path)
    write(tmp_path, "/boot/loader/entries/%s-%s~3w_9xxx.conf" % (MACHINE, NEW), "title x\nlinux /x\n")
    before = snapshot(tmp_path)
    refused("ENTRY_TAKEN", present, tmp_path, variants(initrd, NEW))
    assert snapshot(tmp_path) == before


def test_a_thing_that_is_no_entry_among_the_entries_is_left_alone(tmp_path):
    initrd = machines.el9(tmp_path)
    (tmp_path / "boot/loader/entries/dir.conf").mkdir()
    (tmp_path / "boot/loader/entries/dangling.conf").symlink_to("nowhere")
    write(tmp_path, "/boot/loader/entries/README", "x")
    assert present(tmp_path, variants(initrd, OLD, NEW))[0]


def test_a_file_that_cannot_be_replaced_leaves_everything_as_it_was(debian, monkeypatch):
    root, kernels = debian
    before = snapshot(root)
    plan, _result = present(root, kernels, boot="once")
    real = os.replace

    def replace(source, target):
        if target.endswith("grubenv"):
            raise FileExistsError(17, "File exists")
        real(source, target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KmodError) as caught:
        plan.apply()
    assert caught.value.what == "/boot/grub/grubenv"
    monkeypatch.undo()
    assert snapshot(root) == before
