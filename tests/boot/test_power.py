# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The power fails right after each step, and once within one, on file systems that write late: the machine
starts, and has lost no module.

A cut is QEMU killed: what the machine had not flushed to its disk is gone. POWER_SEED=NUMBER repeats the cut
within a step.
"""

import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import CHECKOUT
from tests.boot import disks, guest
from tests.boot.test_boot import DRIVER, FILES
from tests.lab import debian, drivers

STEP = "python3 /root/kmodctl %s --driver " + DRIVER
STEPS = (
    "link /root/build",
    "variant",
    "entry --boot once",
    "entry --absent",
    "variant --absent",
    "link --absent",
)
SEED = int(os.environ.get("POWER_SEED") or random.randrange(1 << 32))
MAY_CHANGE = re.compile(r".*/modules\.[^/]*")
NAMES = r"sed 's/:.*//; s|.*/||; s/\.ko.*//' /lib/modules/$(uname -r)/modules.dep"
# In one go, as a connection takes seconds. Besides the files of ``FILES`` there are other names, there and
# where else a step may write; what an
# entry remembers of its trial is left out, since a boot decides that.
LOOK = r"""
part() { echo "== $1"; }
part files
%s
menu=/boot/grub/custom.cfg
[ ! -e $menu ] || grep -v '^# outoftree.kmod trial ' $menu | sha256sum | sed "s|-$|$menu|"
part places
find /boot /usr/lib/modules /etc -path '/etc/*' ! -path '/etc/depmod.d*' -prune -o -type l -printf '%%p -> %%l\n' -o -type d -printf '%%p/\n'
[ ! -e /etc/depmod.d ] || find /etc/depmod.d -type f -exec sha256sum {} +
find /var/tmp /dev/shm -mindepth 1 -maxdepth 1 ! -name 'systemd-private-*'
part modules
xargs modprobe -aD <<'END' 2>&1
%s
END
part empty
find /lib/modules -name 'modules.*' -size 0
part mounted
findmnt -no OPTIONS /
part started
cat /proc/cmdline
"""


class Look(NamedTuple):
    """What a machine is like."""

    files: dict  # digests by path: all that boots
    places: tuple
    modules: frozenset  # what modprobe would do for the shipped modules' names
    empty: tuple  # indexes
    mounted: tuple
    trial: bool  # which entry started it

    @property
    def state(self):
        """What a step decides."""
        return self.files, self.places


class Machine:
    """A machine whose power fails."""

    def __init__(self, running):
        self.guest = running
        self.names = running.script(NAMES)
        self.shipped = self.look()
        self.undisturbed = []  # the state that each step leaves, and the seconds that it takes
        self.seconds = []

    def look(self):
        parts = {}
        for part in self.guest.script(LOOK % (FILES, self.names)).split("== ")[1:]:
            name, *lines = part.splitlines()
            parts[name] = tuple(sorted(lines))
        files = dict(reversed(line.split(None, 1)) for line in parts["files"])
        return Look(
            files,
            parts["places"],
            frozenset(parts["modules"]),
            parts["empty"],
            parts["mounted"],
            "outoftree.kmod=" in parts["started"][0],
        )

    def step(self, number):
        status, said = self.guest.try_script(STEP % STEPS[number])
        assert status == 0, said

    def cut(self):
        """Cut the power and start it again: it comes up, with all that was shipped."""
        began = time.monotonic()
        self.guest.cut()
        self.guest.start()
        self.guest.wait()
        now = self.look()
        print("power cut, and up again: %.0f s" % (time.monotonic() - began))
        assert now.mounted == self.shipped.mounted
        assert self.shipped.modules - now.modules == frozenset(), "modprobe no longer finds these"
        assert now.empty == self.shipped.empty
        wrong = [
            path
            for path, digest in self.shipped.files.items()
            if now.files.get(path) != digest and not MAY_CHANGE.fullmatch(path)
        ]
        assert wrong == []
        return now


@pytest.fixture(scope="module", params=(disks.DISKS[0], disks.XFS), ids=lambda disk: disk.name)
def machine(request, tmp_path_factory):
    reason = disks.missing()
    if reason:
        pytest.skip(reason)
    disk = request.param
    directory = (
        Path(os.environ["BOOT_LOGS"]) / ("power-" + disk.name)
        if os.environ.get("BOOT_LOGS")
        else tmp_path_factory.mktemp(disk.name)
    )
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, str(CHECKOUT / "tools/build_kmodctl.py"), str(directory / "kmodctl")], check=True
    )
    with guest.Guest(
        disks.overlay(disk, directory), disk.firmware, directory / "console.log", disks.key()
    ) as running:
        running.wait()
        release = running.script("uname -r").strip()
        running.script("mkdir /root/build")
        for path in [directory / "kmodctl"] + drivers.edu(debian.image(release, disk.suite)):
            running.send(
                "cat > /root/%s%s" % ("build/" * (path.suffix == ".ko"), path.name), path.read_bytes()
            )
        if disk.filesystem == "ext4":  # else it flushes by itself what is renamed over another file
            running.script("sed -i s/noatime/noatime,noauto_da_alloc/ /etc/fstab; mount -o remount /")
        running.script("sync")
        machine = Machine(running)
        assert ("noauto_da_alloc" in machine.shipped.mounted[0]) == (disk.filesystem == "ext4")
        yield machine


def test_undisturbed_the_steps_lead_back_to_the_shipped_machine(machine):
    for number in range(len(STEPS)):
        began = time.monotonic()
        machine.step(number)
        machine.seconds.append(time.monotonic() - began)
        machine.undisturbed.append(machine.look().state)
    print("\n" + ", ".join("%s: %.0f s" % each for each in zip(STEPS, machine.seconds)))
    assert machine.undisturbed[-1] == machine.shipped.state


@pytest.mark.parametrize("number", range(len(STEPS)), ids=STEPS)
def test_what_a_step_has_done_survives_a_power_cut_right_after_it(machine, number):
    chosen = random.Random(SEED)
    tried = number == chosen.randrange(len(STEPS)) and _cut_within(
        machine, number, chosen.uniform(0.2, 1) * machine.seconds[number]
    )
    machine.step(number)
    now = machine.cut()
    assert now.state == machine.undisturbed[number]
    assert now.trial == ("once" in STEPS[number] and not tried)
    machine.step(number)
    assert machine.look().state == machine.undisturbed[number], "a second run changes nothing"


def _cut_within(machine, number, seconds):
    """Whether the machine was on trial after that."""
    print("\nseed %d: the power fails %.1f s into %s" % (SEED, seconds, STEPS[number]))
    step = threading.Thread(target=machine.guest.try_script, args=(STEP % STEPS[number],))
    step.start()
    time.sleep(seconds)
    now = machine.cut()
    step.join()
    machine.step(number)
    assert machine.look().state == machine.undisturbed[number], "a rerun completes it"
    return now.trial


def test_in_the_end_all_is_as_it_was_shipped(machine):
    assert machine.look().state == machine.shipped.state
