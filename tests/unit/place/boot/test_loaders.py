# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The other loaders, and telling which one a host has."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    entry,
    loaders,
    shipped,
    systemd_boot,
)
from tests.forge import machines
from tests.forge.machines import DRIVER, MACHINE, NEW, OLD, write
from tests.unit.place.boot.test_entry import absent, identity, menu, present, refused, snapshot, variants

CONF, ENTRIES, LOADER = "boot/grub/grub.conf", "boot/efi/loader/entries", "boot/efi/loader/loader.conf"


# Telling which


@pytest.mark.parametrize(
    "family, kind, config",
    [
        ("debian", "grub2", "/boot/grub/grub.cfg"),
        ("el7", "grub2", "/boot/grub2/grub.cfg"),
        ("sles", "grub2", "/boot/grub2/grub.cfg"),
        ("el8", "bls", "/boot/grub2/grub.cfg"),
        ("el9", "bls", "/boot/grub2/grub.cfg"),
        ("el6", "grub-legacy", "/boot/grub/grub.conf"),
        ("systemd-boot", "systemd-boot", "/boot/efi/loader/loader.conf"),
        ("extlinux", "extlinux", "/boot/extlinux/extlinux.conf"),
    ],
)
def test_the_loader_is_told_from_its_files(tmp_path, family, kind, config):
    machines.FAMILIES[family](tmp_path)
    found = loaders.detect(Host(str(tmp_path)))
    assert (found.loader.name, found.config) == (kind, config)


def test_two_loaders_are_told_and_one_has_to_be_named(tmp_path):
    machines.debian(tmp_path)
    initrd = machines.systemd_boot(tmp_path)
    assert "systemd-boot" in refused("LOADER_AMBIGUOUS", present, tmp_path, {}).why
    for kind, family in (("systemd-boot", "systemd-boot"), ("grub2", "debian")):
        plan, answer = entry.present(
            Host(str(tmp_path)),
            entry.Request(DRIVER, loader=kind),
            machines.verified(variants(initrd, NEW, family=family)),
        )
        assert plan and answer.loader == kind


def test_a_loader_that_is_not_there_cannot_be_named(tmp_path):
    machines.debian(tmp_path)
    for kind in ("systemd-boot", "grub-legacy", "extlinux"):
        refused("LOADER_MISSING", loaders.detect, Host(str(tmp_path)), kind)


def test_what_an_upgrade_left_of_grub_legacy_is_not_the_loader(tmp_path):
    machines.el7(tmp_path)
    write(tmp_path, "/boot/grub/grub.conf", "default=0\n")
    assert loaders.detect(Host(str(tmp_path))).loader.name == "grub2"


@pytest.mark.parametrize("bios", [True, False])
def test_of_two_real_grub_cfgs_the_one_of_the_firmware_counts(tmp_path, bios):
    machines.el7(tmp_path)
    machines.el7(tmp_path, "/boot/efi/EFI/centos")
    if bios:
        (tmp_path / "boot/grub2/i386-pc").mkdir()
    assert (
        loaders.detect(Host(str(tmp_path))).config
        == ("/boot/grub2" if bios else "/boot/efi/EFI/centos") + "/grub.cfg"
    )


def test_the_image_that_the_loader_starts_is_the_shipped_one(tmp_path):
    initrd = machines.systemd_boot(tmp_path)  # with another copy in /boot, which it was made from
    assert shipped.initramfs(Host(str(tmp_path)), NEW) == "/boot/efi/%s/%s/%s" % (MACHINE, NEW, initrd % NEW)
    assert shipped.initramfs(Host(str(tmp_path)), "6.6.6") is None


@pytest.mark.parametrize(
    "path", ["/vmlinuz-1", "($root)/vmlinuz-1", "(hd0,msdos1)/vmlinuz-1", "$root/vmlinuz-1"]
)
def test_a_path_may_begin_with_a_device(tmp_path, path):
    write(tmp_path, "/boot/vmlinuz-1")
    assert shipped.locate(Host(str(tmp_path)), path) == "/boot/vmlinuz-1"


def test_a_path_on_a_file_system_that_is_not_mounted_is_no_other_file_of_that_name(tmp_path):
    write(tmp_path, "/boot/initrd.img-1")
    assert shipped.locate(Host(str(tmp_path)), "/%s/1/initrd.img-1" % MACHINE) is None


# GRUB legacy


def test_the_default_keeps_its_number(tmp_path):
    initrd = machines.el6(tmp_path)
    present(tmp_path, variants(initrd, OLD, NEW))[0].apply()
    text = (tmp_path / CONF).read_text()
    assert "default=1\n" in text and text.count("title ") == 4
    assert [each.driver for each in menu(tmp_path).entries] == [None, None, DRIVER, DRIVER]
    assert (tmp_path / "etc/grub.conf").is_symlink() and (tmp_path / "boot/grub/menu.lst").is_symlink()


def test_the_copy_of_a_title_is_its_own_lines(tmp_path):
    initrd = machines.el6(tmp_path)
    present(tmp_path, variants(initrd, NEW))[0].apply()
    assert (
        (tmp_path / CONF)
        .read_text()
        .endswith(
            """\
### BEGIN outoftree.kmod 3w-9xxx {0} ###
title With driver 3w-9xxx: CentOS ({0})
\troot (hd0,0)
\tkernel /vmlinuz-{0} ro root=/dev/mapper/vg-root rd_NO_LUKS quiet outoftree.kmod=3w-9xxx {1} panic=10 oops=panic rd.shell=0 rd.emergency=reboot
\tinitrd /initramfs-{0}.img.1
### END outoftree.kmod 3w-9xxx {0} ###
""".format(NEW, identity((tmp_path / CONF).read_text()))
        )
    )


@pytest.mark.parametrize("default", ["default=0", "default 1", "default=saved", "# no default"])
@pytest.mark.parametrize("end", ["\n", "", "\n\n# a comment\n"])
def test_whatever_stood_there_comes_back_to_the_byte(tmp_path, default, end):
    initrd = machines.el6(tmp_path, default, end)
    before = snapshot(tmp_path)
    present(tmp_path, variants(initrd, OLD, NEW), boot="default")[0].apply()
    assert menu(tmp_path).default.driver == DRIVER
    absent(tmp_path)[0].apply()
    assert snapshot(tmp_path) == before


def test_a_default_that_counts_past_ours_still_means_the_same(tmp_path):
    initrd = machines.el6(tmp_path)
    present(tmp_path, variants(initrd, OLD, NEW))[0].apply()
    path = tmp_path / CONF
    path.write_text(
        path.read_text().replace("default=1", "default=4")
        + "title Mine\n\trootnoverify (hd1,0)\n\tchainloader +1\n"
    )
    assert menu(tmp_path).default.title == "Mine"
    absent(tmp_path)[0].apply()
    assert menu(tmp_path).default.title == "Mine"


def test_once_is_refused_with_what_to_do_instead(tmp_path):
    for family in ("el6", "extlinux"):
        root = tmp_path / family
        root.mkdir()
        initrd = machines.FAMILIES[family](root)
        before = snapshot(root)
        refused("ONCE_NOT_SAFE", present, root, variants(initrd, NEW), boot="once")
        assert snapshot(root) == before


# systemd-boot


def ours(root):
    return sorted(path.name for path in (root / ENTRIES).glob("*~*"))


def test_the_entry_keeps_its_sort_key_and_comes_after_the_shipped_one(tmp_path):
    initrd = machines.systemd_boot(tmp_path)
    present(tmp_path, variants(initrd, OLD, NEW, family="systemd-boot"))[0].apply()
    assert [(each.kernel, NEW in each.linux) for each in menu(tmp_path).entries] == [
        (None, True),
        (NEW, True),
        (None, False),
        (OLD, False),
    ]
    text = (tmp_path / ENTRIES / ("%s-%s~3w_9xxx.conf" % (MACHINE, NEW))).read_text()
    assert (
        "version    %s~3w_9xxx\n" % NEW in text
        and "sort-key rocky\n" in text
        and "machine-id %s\n" % MACHINE in text
    )


def test_without_sort_keys_names_decide_and_ours_still_comes_after(tmp_path):
    initrd = machines.systemd_boot(tmp_path, sort_key="")
    present(tmp_path, variants(initrd, OLD, NEW, family="systemd-boot"))[0].apply()
    assert [each.kernel for each in menu(tmp_path).entries] == [None, NEW, None, OLD]


def test_a_count_belongs_to_the_name_of_the_file_alone(tmp_path):
    initrd = machines.systemd_boot(tmp_path)
    shipped_path = tmp_path / ENTRIES / ("%s-%s.conf" % (MACHINE, NEW))
    shipped_path.rename(tmp_path / ENTRIES / ("%s-%s+3.conf" % (MACHINE, NEW)))
    kernels = variants(initrd, NEW, family="systemd-boot")
    present(tmp_path, kernels)[0].apply()
    name = "%s-%s~3w_9xxx" % (MACHINE, NEW)
    assert ours(tmp_path) == [name + ".conf"]
    for counted in ("+1", "+0-1"):
        (tmp_path / ENTRIES / ours(tmp_path)[0]).rename(tmp_path / ENTRIES / (name + counted + ".conf"))
        plan, result = present(tmp_path, kernels)
        assert not plan and result["kernels"][0]["id"] == name


def test_an_entry_that_was_tried_and_failed_goes_to_the_end_of_the_menu(tmp_path):
    machines.systemd_boot(tmp_path)
    path = tmp_path / ENTRIES / ("%s-%s.conf" % (MACHINE, NEW))
    path.rename(tmp_path / ENTRIES / ("%s-%s+0-3.conf" % (MACHINE, NEW)))
    assert menu(tmp_path).default.id == "%s-%s" % (MACHINE, OLD)


@pytest.mark.parametrize(
    "conf",
    [
        "timeout 3\n",
        "default %s-%s.conf\ntimeout 3\n" % (MACHINE, OLD),
        "timeout 3\ndefault %s-*\n" % MACHINE,
        "",
        None,
    ],
)
def test_the_default_of_loader_conf_is_remembered(tmp_path, conf):
    initrd = machines.systemd_boot(tmp_path)
    if conf is None:
        (tmp_path / LOADER).unlink()
    else:
        write(tmp_path, "/" + LOADER, conf, 0o700)
    before = snapshot(tmp_path)
    present(tmp_path, variants(initrd, NEW, OLD, family="systemd-boot"), boot="default")[0].apply()
    assert menu(tmp_path).default.driver == DRIVER
    absent(tmp_path)[0].apply()
    assert snapshot(tmp_path) == before


def test_once_needs_the_running_machine(tmp_path):
    initrd = machines.systemd_boot(tmp_path)
    refused("ONCE_NOT_SAFE", present, tmp_path, variants(initrd, NEW, family="systemd-boot"), boot="once")


def test_on_the_running_machine_once_is_a_variable_of_the_firmware(tmp_path, monkeypatch):
    initrd = machines.systemd_boot(tmp_path)
    monkeypatch.setattr(Host, "live", property(lambda host: True))
    write(tmp_path, systemd_boot.INFO.path, "\x07\0\0\0" + "\0".join("systemd-boot 252\0"))
    plan, result = present(tmp_path, variants(initrd, NEW, family="systemd-boot"), boot="once")
    name = "%s-%s~3w_9xxx" % (MACHINE, NEW)
    path = "/boot/efi/loader/entries/%s.conf" % name
    assert plan.paths() == [path, systemd_boot.ONCE.path, path]
    assert plan.steps.pop(1).argv == ("bootctl", "set-oneshot", name + ".conf")
    plan.apply()
    write(tmp_path, systemd_boot.ONCE.path, "\x07\0\0\0" + "\0".join(name + ".conf\0") + "\0")
    plan, result = present(tmp_path, variants(initrd, NEW, family="systemd-boot"), boot="once")
    assert not plan and result["kernels"][0]["next"] and result["next"] == name
    assert absent(tmp_path)[0].steps[0].argv == ("bootctl", "set-oneshot", "")  # before the entry goes


def test_a_default_that_the_firmware_holds_is_not_overridden(tmp_path, monkeypatch):
    initrd = machines.systemd_boot(tmp_path)
    monkeypatch.setattr(Host, "live", property(lambda host: True))
    write(
        tmp_path, systemd_boot.DEFAULT.path, "\x07\0\0\0" + "\0".join("%s-%s.conf\0" % (MACHINE, OLD)) + "\0"
    )
    assert menu(tmp_path, "systemd-boot").default.id == "%s-%s" % (MACHINE, OLD)
    error = refused(
        "DEFAULT_OVERRIDDEN",
        entry.present,
        Host(str(tmp_path)),
        entry.Request(DRIVER, boot="default", loader="systemd-boot"),
        machines.verified(variants(initrd, NEW, family="systemd-boot")),
    )
    assert "bootctl set-default" in error.then


def held_by_the_firmware(root, name):
    write(root, systemd_boot.DEFAULT.path, "\x07\0\0\0" + "\0".join(name + "\0") + "\0")


def test_what_the_firmware_holds_of_an_entry_that_goes_is_forgotten_first(tmp_path, monkeypatch):
    """Somebody has made ours the default by bootctl set-default, and its kernel leaves, or it is removed."""
    initrd = machines.systemd_boot(tmp_path)
    monkeypatch.setattr(Host, "live", property(lambda host: True))
    present(tmp_path, variants(initrd, NEW, family="systemd-boot"))[0].apply()
    ours = next(each.id for each in menu(tmp_path, "systemd-boot").entries if each.driver)
    held_by_the_firmware(tmp_path, ours + ".conf")
    (tmp_path / ("boot/efi/%s/%s/linux" % (MACHINE, NEW))).unlink()
    plan = absent(tmp_path)[0]
    assert [getattr(step, "argv", step.path) for step in plan.steps] == [
        ("bootctl", "set-default", ""),
        "/boot/efi/loader/entries/%s.conf" % ours,
    ]
    held_by_the_firmware(tmp_path, "somebody.conf")
    assert [step.path for step in absent(tmp_path)[0].steps] == ["/boot/efi/loader/entries/%s.conf" % ours]


def test_what_the_firmware_holds_of_an_entry_that_is_gone_counts_for_nothing(tmp_path, monkeypatch):
    """systemd-boot goes on with loader.conf then."""
    initrd = machines.systemd_boot(tmp_path)
    monkeypatch.setattr(Host, "live", property(lambda host: True))
    held_by_the_firmware(tmp_path, "gone.conf")
    write(tmp_path, "/" + LOADER, "default %s-%s.conf\n" % (MACHINE, OLD))
    assert menu(tmp_path, "systemd-boot").default.id == "%s-%s" % (MACHINE, OLD)
    kernels = machines.verified(variants(initrd, NEW, OLD, family="systemd-boot"))
    plan, _answer = entry.present(
        Host(str(tmp_path)), entry.Request(DRIVER, boot="default", loader="systemd-boot"), kernels
    )
    plan.apply()
    assert menu(tmp_path, "systemd-boot").default.driver == DRIVER


# extlinux


def test_a_label_is_copied_with_its_own_lines(tmp_path):
    initrd = machines.extlinux(tmp_path)
    present(tmp_path, variants(initrd, NEW))[0].apply()
    block = (tmp_path / "boot/extlinux/extlinux.conf").read_text().split("### BEGIN")[1]
    assert (
        "label outoftree-3w-9xxx-%s\n\tmenu label With driver 3w-9xxx: Debian GNU/Linux %s\n" % (NEW, NEW)
        in block
    )
    assert "\tinitrd /boot/initrd.img-%s.1\n\tfdtdir /usr/lib/linux-image-%s/\n" % (NEW, NEW) in block
    assert "quiet outoftree.kmod=3w-9xxx %s panic=10" % identity(block) in block and "single" not in block
