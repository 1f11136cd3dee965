# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole way on machines that boot from disks: deployed by the role over ssh, tried once, made the
default, removed.

Run by tests/boot/run, which says what it needs; ``--fast`` takes the first disk alone, without the trial that
fails.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import COLLECTIONS
from tests.boot import disks, guest
from tests.lab import debian, drivers

HERE = Path(__file__).resolve().parent
FAST = os.environ.get("BOOT_TESTS") == "fast"
DRIVER = "ootedu"
# Of every file that boots: all that was there before must be there, and nothing else after removal. GRUB
# itself writes to grubenv.
FILES = "find /boot /usr/lib/modules /etc/modprobe.d -type f ! -name grubenv ! -name loader.conf.old -print0 | sort -z | xargs -0 sha256sum"

EARLY = "virtio_scsi"  # what the shipped initramfs loads for a device that nothing needs


class Machine:
    """A running machine and the controller's view of it."""

    def __init__(self, disk, running, directory, release):
        self.disk = disk
        self.guest = running
        self.directory = directory
        self.kernel = debian.image(release, disk.suite)

    def play(self, *options, name="deploy", fails=False):
        """Run one of the collection's playbooks: the total of its tasks by outcome, and what it said."""
        inventory = self.directory / "inventory.json"
        inventory.write_text(
            json.dumps(
                {
                    "all": {
                        "hosts": {
                            self.disk.name: {
                                "ansible_host": "127.0.0.1",
                                "ansible_port": self.guest.port,
                                "ansible_user": "root",
                                "ansible_python_interpreter": "/usr/bin/python3",
                                "ansible_ssh_args": " ".join(self.guest.ssh_options),
                            }
                        }
                    }
                }
            )
        )
        environment = dict(
            os.environ,
            ANSIBLE_COLLECTIONS_PATH=str(COLLECTIONS),
            ANSIBLE_PIPELINING="true",
            ANSIBLE_HOST_KEY_CHECKING="false",
            ANSIBLE_LOCAL_TEMP=str(self.directory / "tmp"),
            ANSIBLE_NOCOLOR="1",
        )
        began = time.monotonic()
        argv = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "-i",
            str(inventory),
            "outoftree.kmod." + name,
            "--diff",
            *options,
        ]
        done = subprocess.run(
            argv,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=3000,
        )
        with open(str(self.directory / "plays.log"), "a") as log:
            log.write(done.stdout)
        print("%s %s: %.0f s" % (name, " ".join(options), time.monotonic() - began))
        assert bool(done.returncode) == fails, done.stdout
        recap = dict(re.findall(r"(\w+)=(\d+)", done.stdout[done.stdout.rindex("PLAY RECAP") :]))
        return {key: int(value) for key, value in recap.items()}, done.stdout

    def deploy(self, source, driver=DRIVER, *options, **more):
        return self.play("-e", "kmod_driver=" + driver, "-e", "kmod_src=%s" % source, *options, **more)

    def ran(self, script):
        return self.guest.script(script)

    def modules(self):
        return self.ran("cut -d ' ' -f 1 /proc/modules").split()

    def files(self):
        return dict(reversed(line.split(None, 1)) for line in self.ran(FILES).splitlines())

    def started_by(self):
        """The driver whose entry started the running system, None for a shipped entry."""
        found = re.search(r"outoftree\.kmod=(\S+)", self.ran("cat /proc/cmdline"))
        return found and found.group(1)

    def loaded_in_initramfs(self):
        """Whether the driver came before the root file system, by the kernel's log."""
        log = self.ran("dmesg")
        return (
            -1 < log.find("ootedu: loaded") < log.find("EXT4-fs (vda4): mounted")
            and "ootedu: bound to" in log
        )

    def levels(self):
        """By module, its parameter as it said it in the initramfs, where it was loaded, once in all; it has that
        still.
        """
        log = self.ran("dmesg")
        early = log.partition("EXT4-fs (vda4): mounted")[0]
        told = re.findall(r"\] (\w+): loaded, .*, level (\d+)$", early, re.M)
        assert len(told) == len(re.findall(r"\] ootedu\w*: loaded, ", log)), log
        for name, level in told:
            assert self.ran("cat /sys/module/%s/parameters/level" % name).strip() == level
        return {name: int(level) for name, level in told}


@pytest.fixture(scope="module", params=disks.DISKS[:1] if FAST else disks.DISKS, ids=lambda disk: disk.name)
def machine(request, tmp_path_factory):
    reason = disks.missing()
    if reason:
        pytest.skip(reason)
    disk = request.param
    directory = (
        Path(os.environ["BOOT_LOGS"]) / disk.name
        if os.environ.get("BOOT_LOGS")
        else tmp_path_factory.mktemp(disk.name)
    )
    directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with guest.Guest(
        disks.overlay(disk, directory),
        disk.firmware,
        directory / "console.log",
        disks.key(),
        options=["-device", "virtio-scsi-pci"],
    ) as running:
        running.wait()
        print("\n%s: answers after %.0f s" % (disk.name, time.monotonic() - began))
        yield Machine(disk, running, directory, running.script("uname -r").strip())


@pytest.fixture(scope="module")
def driver(machine):
    """The directory of the driver's modules for the machine's kernel."""
    return drivers.edu(machine.kernel)[0].parent


@pytest.fixture(scope="module")
def shipped(machine):
    assert machine.started_by() is None
    return machine.files()


def test_tried_once_and_then_the_default(machine, driver, shipped):
    totals, said = machine.deploy(driver, DRIVER, "-e", "kmod_boot=default", "-e", "kmod_reboot=true")
    assert totals["failed"] == 0 and totals["changed"] > 0, said
    assert machine.started_by() == DRIVER
    assert machine.loaded_in_initramfs(), machine.ran("dmesg | tail -60")
    assert " panic=10 " in machine.ran("cat /proc/cmdline"), "on trial it falls back"
    now = machine.files()
    # depmod's, and where systemd-boot has its default
    asked = re.compile(r".*/modules\.[^/]*|.*/loader\.conf")
    assert [path for path in shipped if now.get(path) != shipped[path] and not asked.fullmatch(path)] == []


def test_a_person_at_the_menu_can_tell_the_entries_apart(machine):
    # A menu on a terminal is drawn with cursor movements between its words.
    assert re.search("With driver ootedu", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", machine.guest.console()))


def test_on_a_real_vfat_files_are_made_and_replaced_as_elsewhere(machine, shipped):
    if machine.disk.name != "systemd-boot":
        pytest.skip("has its images and entries on ext4")
    assert machine.ran("findmnt -no FSTYPE -T /boot/efi/loader/loader.conf") == "vfat\n"
    now = {path: digest for path, digest in machine.files().items() if path.startswith("/boot/efi/")}
    made = sorted(path.rsplit("/", 1)[1] for path in set(now) - set(shipped))
    assert [re.sub("[^/]*" + re.escape(machine.kernel.release), "REL", name) for name in made] == [
        "REL.1.outoftree.kmod",  # its mark
        "REL~ootedu.conf",
        "REL.1",
    ], made
    assert now["/boot/efi/loader/loader.conf"] != shipped["/boot/efi/loader/loader.conf"]
    assert "default" in machine.ran("cat /boot/efi/loader/loader.conf")


def test_a_second_run_changes_nothing(machine, driver):
    before = machine.files()
    totals, said = machine.deploy(driver, DRIVER, "-e", "kmod_boot=default", "-e", "kmod_reboot=true")
    assert totals["changed"] == 0, said
    assert machine.files() == before


def test_still_there_after_another_reboot(machine):
    machine.guest.reboot()
    assert machine.started_by() == DRIVER
    assert machine.loaded_in_initramfs()
    assert "panic=" not in machine.ran("cat /proc/cmdline"), "the default does what the shipped entry does"


@pytest.mark.skipif(FAST, reason="only without --fast")
def test_another_version_has_to_prove_itself_before_it_is_the_default(machine):
    if machine.disk != disks.DISKS[0]:
        pytest.skip("not a matter of the boot loader")
    recipe = """sed -i 's/MODULE_VERSION("1/MODULE_VERSION("2/' *.c; make -C "$kernel_source_dir" M="$PWD" modules"""
    source = drivers.compiled("newer-edu", drivers.HERE / "edu", machine.kernel, recipe)[0].parent
    for on_trial in (True, False):  # the second play makes it the default
        machine.deploy(source, DRIVER, "-e", "kmod_boot=default")
        machine.guest.reboot()
        assert machine.started_by() == DRIVER and machine.ran("cat /sys/module/ootedu/version") == "2.0\n"
        assert (" panic=10 " in machine.ran("cat /proc/cmdline")) == on_trial


def test_removed_to_the_byte_and_the_shipped_entry_boots(machine, shipped):
    totals, said = machine.play("-e", "kmod_driver=" + DRIVER, name="remove")
    assert totals["changed"] > 0, said
    machine.guest.cut()  # at once; a power cut after each other step: test_power.py
    machine.guest.start()
    machine.guest.wait()
    assert machine.started_by() is None
    assert "ootedu" not in machine.ran("cat /proc/modules")
    assert machine.files() == shipped


@pytest.mark.skipif(FAST, reason="only without --fast")
def test_two_drivers_are_in_one_initramfs_and_tried_together(machine, shipped):
    """One of them needs the other, and no device asks for it. How they are loaded holds in the initramfs."""
    builds = drivers.levels(machine.kernel)[0].parent
    wanted = [
        {
            "driver": DRIVER,
            "src": str(builds / "ootedu.ko"),
            "boot": "default",
            "options": {"ootedu": {"level": 7}},
            "blacklist": [EARLY],
        },
        {
            "driver": "user",
            "src": str(builds / "ootedu_user.ko"),
            "early_load": True,
            "options": {"ootedu_user": {"level": 8}},
            "softdep": {"ootedu_user": {"pre": ["dummy"]}},
        },
    ]
    assert EARLY in machine.modules() and "dummy" not in machine.modules()
    told = ["-e", json.dumps({"kmod_drivers": wanted, "kmod_reboot": True})]
    totals, said = machine.play(*told)
    assert totals["failed"] == 0, said
    assert machine.started_by() == "ootedu,user" and machine.loaded_in_initramfs()
    assert machine.levels() == {"ootedu": 7, "ootedu_user": 8}
    loaded = machine.modules()
    assert EARLY not in loaded and "dummy" in loaded, loaded
    totals, said = machine.play(*told)
    assert totals["changed"] == 0, said
    machine.guest.reboot()
    assert machine.started_by() == "ootedu,user" and "panic=" not in machine.ran("cat /proc/cmdline")
    assert machine.levels() == {"ootedu": 7, "ootedu_user": 8}
    wanted[1] = {"driver": "user", "state": "absent"}
    machine.play("-e", json.dumps({"kmod_drivers": wanted, "kmod_reboot": True}))
    assert machine.started_by() == DRIVER and machine.loaded_in_initramfs()
    assert machine.levels() == {"ootedu": 7}, "udev's load, by the device"
    assert not {"ootedu_user", "dummy", EARLY} & set(machine.modules())
    machine.play("-e", "kmod_driver=" + DRIVER, name="remove")
    machine.guest.reboot()
    assert machine.started_by() is None and machine.files() == shipped
    assert EARLY in machine.modules()


@pytest.mark.skipif(FAST, reason="only without --fast")
@pytest.mark.parametrize(
    "name, panic, tail",
    [
        ("rootless", "ootrootless: no root file system", ""),
        ("crash", "Fatal exception", " -- --log-level=info"),
    ],
    ids=["rootless", "crash"],
)
def test_a_variant_that_dies_comes_back_by_itself_and_is_reported(machine, shipped, name, panic, tail):
    """Also where the shipped line ends with arguments of init's: what brings it back must not be among them."""
    if name == "crash" and machine.disk != disks.DISKS[0]:
        pytest.skip("not a matter of the boot loader")
    if tail:
        machine.ran(
            """set -e; cp -a /etc/default/grub /root/
                       sed -i 's/^\\(GRUB_CMDLINE_LINUX=".*\\)"/\\1%s"/' /etc/default/grub; update-grub"""
            % tail
        )
    source = drivers.compiled(
        name, HERE / name, machine.kernel, 'make -C "$kernel_source_dir" M="$PWD" modules'
    )[0].parent
    _totals, said = machine.deploy(
        source, name, "-e", "kmod_boot=default", "-e", "kmod_reboot=true", fails=True
    )
    assert "back on its default" in said
    console = machine.guest.console()
    assert "panic - not syncing: " + panic in console
    tried = re.findall(r"Kernel command line: (.* outoftree\.kmod=%s .*)" % name, console)[-1]
    assert " panic=10 " in tried.partition(" -- ")[0] + " " and tried.rstrip().endswith(tail)
    assert machine.started_by() is None and machine.ran("cat /proc/cmdline").rstrip().endswith(tail)
    machine.guest.reboot()
    assert machine.started_by() is None, "tried more than once"
    this_boot = machine.guest.wait()
    _totals, said = machine.deploy(
        source, name, "-e", "kmod_boot=default", "-e", "kmod_reboot=true", fails=True
    )
    assert "TRIAL_FAILED" in said and "was started once with this same initramfs" in said
    assert machine.guest.wait() == this_boot, "another run took the machine down again"
    machine.play("-e", "kmod_driver=" + name, name="remove")
    if tail:
        machine.ran("set -e; mv /root/grub /etc/default/grub; update-grub")
    assert machine.files() == shipped


@pytest.mark.skipif(FAST, reason="only without --fast")
def test_a_trial_in_which_the_variant_was_not_unpacked_has_not_passed(machine, driver, shipped):
    """The entry starts the kernel with another image: udev loads the very driver from the root file system,
    and only the initramfs tells.
    """
    if machine.disk != disks.DISKS[0]:
        pytest.skip("not a matter of the boot loader")
    machine.deploy(driver, DRIVER, "-e", "kmod_boot=once")
    machine.ran("""set -e; cd /boot/grub; cp -a custom.cfg /root/
                   sed -i 's/\\(initrd.img-[^ ]*\\)\\.1/\\1/' custom.cfg; ! cmp -s custom.cfg /root/custom.cfg""")
    machine.guest.reboot()
    assert (
        machine.started_by() == DRIVER
        and "ootedu " in machine.ran("cat /proc/modules")
        and not machine.loaded_in_initramfs()
    )
    machine.ran("mv /root/custom.cfg /boot/grub/custom.cfg")
    _totals, said = machine.deploy(driver, DRIVER, "-e", "kmod_boot=default", fails=True)
    assert "TRIAL_FAILED" in said or "was started once with this very initramfs" in said, said
    machine.play("-e", "kmod_driver=" + DRIVER, name="remove")
    machine.guest.reboot()
    assert machine.started_by() is None and machine.files() == shipped


@pytest.mark.skipif(FAST, reason="only without --fast")
def test_no_reboot_is_made_that_would_not_help(machine, driver):
    """The shipped initramfs loads another module of the driver's name: it would do so again."""
    if machine.disk != disks.DISKS[0]:
        pytest.skip("not a matter of the boot loader")
    recipe = (
        """sed -i 's/MODULE_DESCRIPTION("/&Another /' *.c; make -C "$kernel_source_dir" M="$PWD" modules"""
    )
    other = drivers.compiled("another-edu", drivers.HERE / "edu", machine.kernel, recipe)[0]
    machine.guest.send("cat > /lib/modules/$(uname -r)/kernel/drivers/misc/ootedu.ko", other.read_bytes())
    machine.ran("set -e; depmod; echo ootedu >> /etc/initramfs-tools/modules; update-initramfs -u")
    machine.guest.reboot()
    assert machine.loaded_in_initramfs()
    loaded, this_boot = machine.ran("cat /sys/module/ootedu/srcversion"), machine.guest.wait()
    for changes in (True, False):
        totals, said = machine.deploy(driver, DRIVER, "-e", "kmod_reboot=true")
        assert "out of /boot/initrd.img-" in said and (totals["changed"] > 0) == changes, said
        assert (
            machine.guest.wait() == this_boot and machine.ran("cat /sys/module/ootedu/srcversion") == loaded
        )
    machine.deploy(driver, DRIVER, "-e", "kmod_boot=once", "-e", "kmod_reboot=true")
    assert machine.started_by() == DRIVER and machine.ran("cat /sys/module/ootedu/srcversion") != loaded
