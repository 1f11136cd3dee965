# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order and the default of menus, as the real loaders show them, against what is read off the same files
here.

No system is started: a kernel of an entry is a file that is no kernel, and the loader's complaint tells which
entry it chose.
"""

import os
import re
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry, loaders
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import View
from tests.boot import guest
from tests.forge import machines
from tests.lab import debian

LIMIT = 300
DRIVERS = ("a", "3w-9xxx", "z9", "A.b")
MODULES = (
    "normal",
    "password",
    "fat",
    "serial",
    "terminfo",
    "blsuki",
    "linux",
    "test",
    "echo",
    "configfile",
    "loadenv",
    "sleep",
    "halt",
)
reason = next(
    (
        "no %s on this machine" % tool
        for tool in ("qemu-system-x86_64", "mcopy", "mformat", "grub-mkimage")
        if not shutil.which(tool)
    ),
    None,
)
reason = reason or (None if guest.ovmf() else "no OVMF firmware") or debian.available()
PASSWORD = 'set superusers="root"\npassword root secret\n'
ASKS = "Enter username:"
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


def firmware(directory, files, boots=1):
    """What the machine says on its serial line, started by its firmware from a FAT disk with these files, at
    the last of several boots.
    """
    disk = directory / "esp.img"
    with open(str(disk), "wb") as file:
        file.truncate(64 << 20)
    environment = dict(os.environ, MTOOLS_SKIP_CHECK="1")
    subprocess.run(["mformat", "-i", str(disk), "-F", "::"], check=True, env=environment)
    for path, content in files.items():
        parents = path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            subprocess.run(
                ["mmd", "-i", str(disk), "-D", "s", "::/" + "/".join(parents[:depth])],
                env=environment,
                stderr=subprocess.DEVNULL,
            )
        (directory / "file").write_bytes(content)
        subprocess.run(
            ["mcopy", "-o", "-i", str(disk), str(directory / "file"), "::/" + path],
            check=True,
            env=environment,
        )
    variables = directory / "vars"
    shutil.copyfile(guest.FIRMWARE[1], str(variables))
    argv = [
        "-machine",
        "q35",
        "-drive",
        "if=pflash,format=raw,readonly=on,file=" + guest.FIRMWARE[0],
        "-drive",
        "if=pflash,format=raw,file=%s" % variables,
        "-drive",
        "file=%s,format=raw,if=virtio" % disk,
    ]
    return [serial(argv) for _ in range(boots)][-1]


def serial(machine):
    """What a machine says on its serial line until its loader has chosen, or asks who may."""
    argv = [
        "timeout",
        "--foreground",
        str(LIMIT),
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-nic",
        "none",
    ] + machine
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    text = b""
    try:
        while not re.search(rb"chosen-\d\d|" + ASKS.encode(), text):
            chunk = process.stdout.read1(1 << 16)
            if not chunk:
                break
            text += chunk
    finally:
        process.terminate()  # timeout passes that on
        process.wait()
    return re.sub(r"\x1b\[[0-9;=?]*[A-Za-z]", "\n", text.decode("utf-8", "replace"))


def shown(said, titles):
    """The titles in the order in which the menu shows them for the first time, and the number of the entry
    that was started.
    """
    at = {
        title: found.start()
        for title in titles
        for found in [re.search(r"^[ *]*%s *$" % re.escape(title), said, re.M)]
        if found
    }
    return sorted(at, key=at.__getitem__), int(re.search(r"chosen-(\d\d)", said).group(1))


def machine(root, family):
    """A family's boot directory with entries of several drivers for both of its kernels, each kernel's path
    telling which entry has it.
    """
    initrd = machines.FAMILIES[family](root)
    host = Host(str(root))
    kernels = {
        release: (machines.directory(family).replace("%s", release) + initrd % release + ".1",)
        for release in (machines.OLD, machines.NEW)
    }
    for driver in DRIVERS:
        entry.present(host, entry.Request(driver), machines.verified(kernels))[0].apply()
    return host, loaders.detect(host), kernels


def telling(host, loader):
    """The entries' files by path on the disk, each with a title and a kernel that name it; a file for each
    kernel.
    """
    files = {}
    # a number: long names break where the screen ends
    for number, name in enumerate(host.listdir(loader.entries)):
        text, stem = host.read_text(loader.entries + "/" + name), name[: -len(".conf")]
        text = re.sub(r"^(title\s+).*", r"\g<1>T-" + stem, text, flags=re.M)
        text = re.sub(r"^(linux\s+).*", r"\g<1>/chosen-%02d" % number, text, flags=re.M)
        files["loader/entries/" + name] = re.sub(r"^initrd.*\n", "", text, flags=re.M).encode()
        files["chosen-%02d" % number] = b"no kernel"
    return files


def as_promised(order):
    """The newer kernel's entries before the older one's, and of each the shipped one first.

    Ours are in the order of each loader's own taste.
    """
    kernels = [
        next(release for release in (machines.NEW, machines.OLD) if release in title) for title in order
    ]
    each = 1 + len(DRIVERS)
    return (
        kernels == [machines.NEW] * each + [machines.OLD] * each
        and ["~" in title for title in order] == ([False] + [True] * len(DRIVERS)) * 2
    )


def menu(host, loader):
    return loader.menu(View(host))


@pytest.fixture(scope="module")
def grub(tmp_path_factory):
    """GRUB of sid, the first with upstream's blscfg."""
    program = tmp_path_factory.mktemp("grub") / "grub.efi"
    modules = debian.unpack(debian.package("grub-efi-amd64-bin", "sid")) / "usr/lib/grub/x86_64-efi"
    subprocess.run(
        [
            "grub-mkimage",
            "-O",
            "x86_64-efi",
            "-d",
            str(modules),
            "-p",
            "(hd0)/grub",
            "-o",
            str(program),
            *MODULES,
        ],
        check=True,
    )
    return program.read_bytes()


def grub_files(grub, host, head, entries):
    config = (
        "serial --unit=0\nterminal_output serial\nset root=hd0\n"
        + machines.GRUB_HEAD % "${saved_entry}"
        + head
        + "set timeout=1\nblscfg\n"
    )
    return dict(
        entries,
        **{
            "EFI/BOOT/BOOTX64.EFI": grub,
            "grub/grub.cfg": config.encode(),
            "grub/grubenv": host.read("/boot/grub2/grubenv"),
        },
    )


@pytest.mark.parametrize("boot", ["none", "once", "default"])
@pytest.mark.parametrize("family", ["debian", "el7", "sles"])
def test_grub_shows_and_starts_what_custom_cfg_adds(tmp_path, grub, family, boot):
    """With a grub.cfg as grub-mkconfig writes it: of debian with a fixed default, of the others with a saved
    one.
    """
    host, loader, kernels = machine(tmp_path / "root", family)
    entry.present(host, entry.Request(DRIVERS[1], boot=boot), machines.verified(kernels))[0].apply()
    expected = menu(host, loader)
    ids = [each.id for each in expected.entries if each.linux]
    kernels_of, titles_of = iter(range(len(ids))), iter(range(len(ids)))
    files = dict(
        {"chosen-%02d" % number: b"no kernel" for number in range(len(ids))}, **{"EFI/BOOT/BOOTX64.EFI": grub}
    )
    for name, head in (
        ("grub.cfg", "serial --unit=0\nterminal_output serial\nset root=hd0\nset timeout=1\n"),
        ("custom.cfg", ""),
        ("grubenv", ""),
    ):
        text = host.read_text(loader.config.replace("grub.cfg", name))
        # it is another disk
        text = re.sub(
            r"^\t[ \t]*(if|else|fi|search|set root|insmod|load_video|initrd)\b.*\n", "", text, flags=re.M
        )
        text = re.sub(
            r"^(\t+)linux(16)?[ \t].*",
            lambda line: "%slinux /chosen-%02d" % (line.group(1), next(kernels_of)),
            text,
            flags=re.M,
        )
        files["grub/" + name] = (
            head + re.sub("'With driver .*?'", lambda title: "'T-%02d'" % next(titles_of), text)
        ).encode()
    titles = [each.title for each in expected.entries if len(each.position) == 1 and not each.driver]
    titles += [
        "T-%02d" % number for number, _entry in enumerate(each for each in expected.entries if each.driver)
    ]
    order, started = shown(firmware(tmp_path, files), titles)
    assert order == titles
    assert ids[started] == (expected.once or expected.default.id)
    assert ids[started].startswith("outoftree-") == (boot != "none")


def protect(root, more=""):
    config = root / "boot/grub2/grub.cfg"
    config.write_text(PASSWORD + more + config.read_text())


@pytest.mark.parametrize(
    "chosen, head", [(None, ""), ("once", ""), ("saved", ""), ("once", PASSWORD), ("saved", PASSWORD)]
)
def test_grub_shows_and_starts_what_is_read_off_its_files(tmp_path, grub, chosen, head):
    host, loader, kernels = machine(tmp_path / "root", "el9")
    if head:
        protect(tmp_path / "root")
    if chosen:
        boot = {"once": "once", "saved": "default"}[chosen]
        entry.present(host, entry.Request(DRIVERS[1], boot=boot), machines.verified(kernels))[0].apply()
    expected = menu(host, loader)
    files = grub_files(grub, host, head, telling(host, loader))
    block = host.read_text("/boot/grub2/grubenv")
    for each in expected.entries:  # the titles are others here
        block = block.replace("=%s\n" % each.title, "=T-%s\n" % each.id)
    files["grub/grubenv"] = block.rstrip("#").ljust(1024, "#").encode()
    order, started = shown(firmware(tmp_path, files), ["T-" + each.id for each in expected.entries])
    assert as_promised(order)
    started = host.listdir(loader.entries)[started]
    assert started == (expected.once or expected.default.id) + ".conf"
    assert ("~" in started) == bool(chosen)
    if chosen == "once":  # and what failed to start is not tried again
        _order, second = shown(firmware(tmp_path, files, boots=2), [])
        assert host.listdir(loader.entries)[second] == expected.default.id + ".conf"


@pytest.mark.parametrize(
    "lines",
    ["", "grub_arg --unrestricted", "grub_users root", "grub_users $grub_users", "grub_users ${grub_users}"],
)
@pytest.mark.parametrize("variable", ["", "set grub_users=root\n", 'set grub_users=""\n'])
def test_grub_asks_for_a_password_where_that_is_read_off_its_files(tmp_path, grub, lines, variable):
    """Entries in files: only where it does not are they made what boots start."""
    host, loader, kernels = machine(tmp_path / "root", "el9")
    protect(tmp_path / "root", variable)
    for path in (tmp_path / "root/boot/loader/entries").iterdir():
        path.write_text(
            path.read_text()
            .replace("grub_arg --unrestricted\n", "")
            .replace("grub_users $grub_users\n", lines + "\n" if lines else "")
        )
    said = firmware(tmp_path, grub_files(grub, host, PASSWORD + variable, telling(host, loader)))
    codes = set()
    for boot in ("once", "default"):
        try:
            entry.present(host, entry.Request(DRIVERS[1], boot=boot), machines.verified(kernels))
            codes.add(None)
        except KmodError as error:
            codes.add(error.code)
    assert codes == ({"GRUB_PASSWORD"} if ASKS in said else {None})


@pytest.mark.parametrize("suite", ["bookworm", "sid"])
@pytest.mark.parametrize("boot", ["none", "default"])
def test_systemd_boot_shows_and_starts_what_is_read_off_its_files(tmp_path, suite, boot):
    host, loader, kernels = machine(tmp_path / "root", "systemd-boot")
    entry.present(host, entry.Request(DRIVERS[1], boot=boot), machines.verified(kernels))[0].apply()
    expected = menu(host, loader)
    program = next(
        debian.unpack(debian.package("systemd-boot-efi", suite)).rglob("systemd-bootx64.efi")
    ).read_bytes()
    files = dict(
        telling(host, loader),
        **{"EFI/BOOT/BOOTX64.EFI": program, "loader/loader.conf": host.read(loader.config)},
    )
    order, started = shown(firmware(tmp_path, files), ["T-" + each.id for each in expected.entries])
    assert as_promised(order)
    started = host.listdir(loader.entries)[started]
    assert started == expected.default.id + ".conf"
    assert ("~" in started) == (boot == "default")


def assert_a_cd_starts(tmp_path, expected, boot, loader, *options):
    """Of the files in iso/, whose entries are told as T-00 and so on: ``loader`` shows them in their order
    and starts the default.
    """
    subprocess.run(
        [
            "xorriso",
            "-as",
            "mkisofs",
            "-quiet",
            "-R",
            "-b",
            loader,
            *options,
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-boot-info-table",
            "-o",
            str(tmp_path / "disk.iso"),
            str(tmp_path / "iso"),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    titles = ["T-%02d" % number for number in range(len(expected.entries))]
    order, started = shown(serial(["-cdrom", str(tmp_path / "disk.iso")]), titles)
    assert order == titles
    assert expected.entries[started].position == expected.default.position
    assert (expected.default.driver is not None) == (boot == "default")


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="no xorriso on this machine")
@pytest.mark.parametrize("boot", ["none", "default"])
def test_grub_legacy_shows_and_starts_what_is_read_off_its_file(tmp_path, boot):
    host, loader, kernels = machine(tmp_path / "root", "el6")
    entry.present(host, entry.Request(DRIVERS[1], boot=boot), machines.verified(kernels))[0].apply()
    expected = menu(host, loader)
    text = host.read_text(loader.config)
    for kind, line in (("title ", "title T-%02d"), ("\tkernel ", "\tkernel /chosen-%02d")):
        for number in range(len(expected.entries)):
            text = re.sub("^%s[^T/].*|^%s/vmlinuz.*" % (kind, kind), line % number, text, count=1, flags=re.M)
    text = re.sub(r"^(\troot|splashimage|hiddenmenu).*\n", "", text, flags=re.M).replace(
        "timeout=5", "timeout=1"
    )
    write = tmp_path / "iso/boot/grub"
    write.mkdir(parents=True)
    (write / "menu.lst").write_text("serial --unit=0\nterminal --timeout=0 serial\n" + text)
    stage2 = next(debian.unpack(debian.package("grub-legacy", "bookworm")).rglob("stage2_eltorito"))
    shutil.copyfile(str(stage2), str(write / "stage2_eltorito"))
    assert_a_cd_starts(tmp_path, expected, boot, "boot/grub/stage2_eltorito")


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="no xorriso on this machine")
@pytest.mark.parametrize("boot", ["none", "default"])
def test_syslinux_shows_and_starts_what_is_read_off_its_file(tmp_path, boot):
    """ISOLINUX, which reads the same file as EXTLINUX with the same code, but needs no file system that is
    mounted.
    """
    host, loader, kernels = machine(tmp_path / "root", "extlinux")
    entry.present(host, entry.Request(DRIVERS[1], boot=boot), machines.verified(kernels))[0].apply()
    expected = menu(host, loader)
    text = host.read_text(loader.config)
    for kind, line in (("\tmenu label ", "\tmenu label T-%02d"), ("\tlinux ", "\tlinux /chosen-%02d")):
        for number in range(len(expected.entries)):
            text = re.sub("^%s(?!T-|/chosen-).*" % kind, line % number, text, count=1, flags=re.M)
    text = re.sub(r"^\t(initrd|append|fdtdir).*\n", "", text, flags=re.M)
    write = tmp_path / "iso/isolinux"
    write.mkdir(parents=True)
    (write / "isolinux.cfg").write_text("serial 0 115200\nui menu.c32\n" + text)
    for package, names in (
        ("isolinux", ["isolinux.bin"]),
        ("syslinux-common", ["ldlinux.c32", "menu.c32", "libutil.c32"]),
    ):
        tree = debian.unpack(debian.package(package, "bookworm"))
        for name in names:
            shutil.copyfile(
                str(next(path for path in tree.rglob(name) if "efi" not in str(path.parent.name))),
                str(write / name),
            )
    assert_a_cd_starts(tmp_path, expected, boot, "isolinux/isolinux.bin", "-c", "isolinux/boot.cat")
