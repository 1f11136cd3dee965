# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an entry adds to the kernel's command line reaches the kernel, and brings a trial back."""

import re
import struct
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import cmdline, grubenv, loaders
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import FALLBACK_ARGS
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import View
from tests.forge import machines
from tests.forge.machines import DRIVER, NEW, OLD
from tests.unit.place.boot.test_entry import absent, menu, present, refused, snapshot, variants


def change(root, pattern, replacement):
    """Edit the shipped files of whatever loader the machine has."""
    for path in [*root.glob("boot/**/*.cfg"), *root.glob("boot/**/*.conf")]:
        path.write_text(re.sub(pattern, replacement, path.read_text(), flags=re.M))


def lines(root):
    """What the kernel would get of each entry of ours."""
    host = Host(str(root))
    at = loaders.detect(host)
    return [
        line for each in menu(root).entries if each.driver for line in at.loader.lines(View(host), at, each)
    ]


SHIPPED_LINE = r"^([ \t]*(?:linux(?:16)?[ \t]+/\S*vmlinuz-\S+ root|kernel[ \t]|append[ \t]|options[ \t]).*)$"


def test_arguments_are_put_in_front_of_what_is_for_init(machine):
    root, kernels = machine
    change(root, SHIPPED_LINE, r"\1 -- 3 text")
    before = snapshot(root)
    present(root, kernels)[0].apply()
    assert len(lines(root)) == 2
    for line in lines(root):
        assert cmdline.words(line)[-4:] == FALLBACK_ARGS.split() and line.endswith(" -- 3 text")
    assert not present(root, kernels)[0]
    absent(root)[0].apply()
    assert snapshot(root) == before


@pytest.mark.parametrize("variable", ["kernelopts=root=/dev/sda1 ro -- 3", "tuned_params=skew_tick=1 --"])
def test_what_is_for_init_in_a_variable_of_grubs_counts(tmp_path, variable):
    kernels = variants(machines.el8(tmp_path), OLD, NEW)
    path = tmp_path / "boot/grub2/grubenv"
    name, _equals, value = variable.partition("=")
    path.write_text(grubenv.set_(path.read_text(), name, value, path="grubenv"))
    present(tmp_path, kernels)[0].apply()
    for line in lines(tmp_path):
        assert set(FALLBACK_ARGS.split()) <= set(cmdline.words(line)) and " -- " in line + " "
    assert not present(tmp_path, kernels)[0]


def test_what_is_for_init_in_a_variable_that_grub_cfg_sets_counts(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    change(tmp_path, r"^export menuentry_id_option$", 'export menuentry_id_option\nset extra="quiet -- 3"')
    change(tmp_path, SHIPPED_LINE, r"\1 ${extra}")
    present(tmp_path, kernels)[0].apply()
    assert [cmdline.words(line)[-5:] for line in lines(tmp_path)] == [FALLBACK_ARGS.split() + ["quiet"]]
    subprocess.run(["grub-script-check", str(tmp_path / "boot/grub/custom.cfg")], check=True)


def test_a_variable_behind_that_overrides_the_way_back_makes_no_trial(tmp_path, monkeypatch):
    from tests.unit.place.boot.test_entry import Running

    kernels = variants(machines.el8(tmp_path), NEW)
    Running(tmp_path, "el8", monkeypatch)
    path = tmp_path / "boot/grub2/grubenv"
    path.write_text(
        grubenv.set_(path.read_text(), "kernelopts", "root=/dev/sda1 panic=0 -- 3", path="grubenv")
    )
    before = snapshot(tmp_path)
    assert "panic=0" in refused("TRIAL_NO_RETURN", present, tmp_path, kernels, boot="once").why
    assert snapshot(tmp_path) == before
    assert present(tmp_path, kernels)[0]


def test_an_entry_without_options_keeps_those_that_grub_has_for_it(tmp_path):
    kernels = variants(machines.el9(tmp_path), NEW)
    change(tmp_path, r"^options .*\n", "")
    path = tmp_path / "boot/grub2/grubenv"
    path.write_text(grubenv.set_(path.read_text(), "default_kernelopts", "root=/dev/sda1 ro", path="grubenv"))
    present(tmp_path, kernels)[0].apply()
    assert [cmdline.words(line)[1:3] for line in lines(tmp_path)] == [["root=/dev/sda1", "ro"]]


@pytest.mark.parametrize("size, fits", [(2047, True), (2048, False)])
def test_a_line_that_the_kernel_would_cut_off_is_refused(machine, size, fits):
    root, kernels = machine
    kernels = {NEW: kernels[NEW]}
    present(root, kernels)[0].apply()
    room = size - len(lines(root)[0])
    absent(root)[0].apply()
    change(root, SHIPPED_LINE, r"\1 " + "x" * (room - 1))
    before = snapshot(root)
    if fits:
        present(root, kernels)[0].apply()
        assert [len(line) for line in lines(root)] == [size]
    else:
        error = refused("ARGS_TOO_LONG", present, root, kernels)
        assert "2048" in error.why and "2047" in error.why and snapshot(root) == before


def x86(version, size):
    return (b"\0" * 0x202 + b"HdrS" + struct.pack("<H", version)).ljust(0x238, b"\0") + struct.pack(
        "<I", size
    )


def efi(machine_type):
    return (
        b"MZ\0\0zimg".ljust(0x3C, b"\0")
        + struct.pack("<I", 0x40)
        + b"PE\0\0"
        + struct.pack("<H", machine_type)
    ).ljust(0x200, b"\0")


@pytest.mark.parametrize(
    "image, most",
    [
        (x86(0x020F, 2047), 2047),
        (x86(0x020F, 4095), 4095),
        (x86(0x0205, 0), 255),
        (b"\0" * 0x38 + b"ARM\x64", 2047),
        (b"\0" * 0x38 + b"RSC\x05", 1023),
        (efi(0xAA64), 2047),
        (efi(0x5064), 1023),
        (b"\0" * 0x10008 + b"S390EP".ljust(0x428, b"\0") + struct.pack(">Q", 4096), 4095),
        (b"\0" * 0x10008 + b"S390EP".ljust(0x500, b"\0"), 895),
        (b"\x7fELF", 2047),
        (b"MZ", 2047),
        (b"MZ" + b"\xff" * 0x40, 2047),
        (b"", 2047),
    ],
)
def test_how_much_a_kernel_takes_is_read_off_the_kernel(tmp_path, image, most):
    (tmp_path / "vmlinuz").write_bytes(image)
    assert cmdline.limit(Host(str(tmp_path)), "/vmlinuz") == most


def test_the_limit_is_that_of_the_kernel_that_is_started(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    (tmp_path / "boot" / ("vmlinuz-" + NEW)).write_bytes(x86(0x020F, 160))
    assert "over 160" in refused("ARGS_TOO_LONG", present, tmp_path, kernels).why


def test_what_stands_in_quotes_is_part_of_a_word_as_for_the_kernel():
    assert cmdline.words('a "b -- c" dyndbg="file x +p; -- y" z -- init') == [
        "a",
        '"b -- c"',
        'dyndbg="file x +p; -- y"',
        "z",
    ]
    assert cmdline.words('a "--" b') == ["a"]
    assert cmdline.insert('a dyndbg="x -- y"', "ours") == 'a dyndbg="x -- y" ours'


def test_grubs_own_quotes_are_counted_as_it_passes_them_on(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    change(tmp_path, SHIPPED_LINE, r"""\1 dyndbg="file a.c +p" 'x="y z"' """)
    present(tmp_path, kernels)[0].apply()
    (line,) = lines(tmp_path)
    assert ' "dyndbg=file a.c +p" "x=\\"y z\\"" outoftree.kmod=' in line


def test_a_quote_that_is_not_closed_would_swallow_what_is_added(tmp_path):
    kernels = variants(machines.el6(tmp_path), NEW)
    change(tmp_path, SHIPPED_LINE, r'\1 dyndbg="file a.c +p')
    refused("ARGS_INVALID", present, tmp_path, kernels)


@pytest.mark.parametrize(
    "waits", ["init=/bin/sh", "rd.break", "break=premount", "systemd.unit=rescue.target", "rdinit=/bin/bash"]
)
def test_an_entry_that_waits_at_the_console_is_not_tried(trier, waits):
    root, kernels, _reboot = trier
    before = snapshot(root)
    assert waits in refused("TRIAL_NO_RETURN", present, root, kernels, boot="once", args=waits).why
    change(root, SHIPPED_LINE, r"\1 " + waits)
    assert (
        waits
        in refused(
            "TRIAL_NO_RETURN", present, root, {NEW: kernels[NEW]}, boot="once", copy_of=shown(root)
        ).why
    )
    absent(root)
    change(root, re.escape(" " + waits), "")
    assert snapshot(root) == before


def shown(root):
    return next(each.id for each in menu(root).entries if NEW in each.linux and "recovery" not in each.id)


def test_arguments_in_the_shipped_line_that_ours_come_behind_do_not_matter(trier):
    root, kernels, _reboot = trier
    change(root, SHIPPED_LINE, r"\1 panic=0 rd.shell=1")
    present(root, kernels, boot="once")[0].apply()
    assert [cmdline.words(line)[-4:] for line in lines(root)] == [FALLBACK_ARGS.split()] * 2


def test_arguments_of_a_trial_that_were_asked_for_are_there_once(trier):
    root, kernels, _reboot = trier
    present(root, kernels, boot="once", args="oops=panic panic=10")[0].apply()
    for line in lines(root):
        assert line.count("panic=10") == line.count("oops=panic") == 1


def test_arguments_that_are_for_init_or_for_us_are_refused(machine):
    root, kernels = machine
    for bad in ("--", "a -- b", "outoftree.kmod=other", "outoftree.kmod.id=123"):
        refused("ARGS_INVALID", present, root, kernels, args=bad)
    assert present(root, kernels, args="--a b--")[0]


def test_every_way_through_an_entry_is_checked(tmp_path):
    kernels = variants(machines.debian(tmp_path), NEW)
    change(tmp_path, r"^(\t*)(linux\t.*)$", r"\1if [ $x ]; then\n\1\2 -- one\n\1else\n\1\2 two\n\1fi")
    present(tmp_path, kernels)[0].apply()
    found = lines(tmp_path)
    assert (
        len(found) == 2
        and found[0].endswith("rd.emergency=reboot -- one")
        and " two outoftree.kmod=" + DRIVER in found[1]
    )
