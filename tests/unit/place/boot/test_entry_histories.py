# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever happens to a host that the role deploys to with kmod_boot=default, its default entry is one that
starts.
"""

import random

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry
from tests.forge import machines
from tests.forge.machines import DRIVER, NEW, OLD, write
from tests.unit.place.boot.test_entry import Running, absent, menu, present, snapshot, variants


class CutOff(Exception):
    pass


class Machine:
    """A running host with one driver.

    Its versions are numbers, of which the odd ones die in the initramfs, as all do with the argument "die".
    """

    def __init__(self, root, family, monkeypatch):
        self.root = root
        self.chance = None  # of being cut off
        self.kernels = variants(machines.FAMILIES[family](root), OLD, NEW, family=family)
        self.started = None  # our entry that the running system was started by
        self.deployed = self.loaded = 0
        self.args = ""
        self.running = Running(root, family, monkeypatch)
        self.image(0)
        self.shipped = snapshot(root)

    def image(self, version):
        for images in self.kernels.values():
            write(self.root, images[0], "version %d" % version, 0o600)

    def boot(self):
        """Start what is to be started once, else the default, until a system runs."""
        once, default = self.running.next_boot()
        for each in [once, default] if once else [default]:
            version = (
                int((self.root / self.kernels[each.kernel][0].lstrip("/")).read_text().split()[1])
                if each.driver
                else 0
            )
            self.started, self.loaded = (each, version) if each.driver else (None, None)
            self.running.cmdline = each.args if each.driver else ""
            if version % 2 == 0 and not each.args.endswith("die") and " die " not in each.args:
                return
            assert each is once, "the default entry does not start"
            assert "panic=10" in each.args, "nobody is there to reset it"

    def task(self, boot):
        """Run grub_entry: the row of the kernel that boots. The run may be cut off."""
        self.running.states = {"vendor": "this" if self.loaded == self.deployed else "other"}
        plan, result = present(self.root, self.kernels, boot=boot, args=self.args)
        if self.chance and self.chance.random() < 0.3:
            plan.steps = plan.steps[: self.chance.choice([0, self.chance.randrange(len(plan.steps) + 1)])]
            plan.apply()
            raise CutOff
        plan.apply()
        return next(row for row in result["kernels"] if row["kernel"] == NEW)

    def role(self, version):
        """As commands/deploy.py does."""
        if version != self.deployed:
            self.deployed = version
            self.task("shipped")
        self.image(version)
        if self.task("once")["trial"] == "passed":
            self.task("default")


@pytest.mark.parametrize("family", ["debian", "el7", "el9", "systemd-boot"])
@pytest.mark.parametrize("seed", range(12))
def test_the_default_always_starts(tmp_path, monkeypatch, family, seed):
    machine = Machine(tmp_path, family, monkeypatch)
    promote(machine)
    machine.chance = chance = random.Random("%s %d" % (family, seed))
    for _step in range(25):
        event = chance.choice(
            ["same", "same", "upgrade", "upgrade", "arguments", "boot", "boot", "boot", "remove"]
        )
        try:
            if event == "boot":
                machine.boot()
            elif event == "remove":
                absent(tmp_path)[0].apply()
            else:
                machine.args = chance.choice(["", "die"]) if event == "arguments" else machine.args
                machine.role(machine.deployed + (event == "upgrade"))
        except CutOff:
            if chance.random() < 0.5:  # of the power
                machine.boot()
        except KmodError as error:
            assert error.code == "TRIAL_FAILED"
    machine.boot()
    # the vendor mends it
    machine.chance, machine.args, machine.deployed = None, "", machine.deployed + machine.deployed % 2
    absent(tmp_path)[0].apply()
    promote(machine)
    absent(tmp_path)[0].apply()
    machine.image(0)
    assert snapshot(tmp_path) == machine.shipped


def promote(machine):
    for _run in range(2):
        machine.role(machine.deployed)
        machine.boot()
    assert menu(machine.root).default.driver == DRIVER and machine.started


@pytest.mark.parametrize("family", sorted(machines.FAMILIES))
@pytest.mark.parametrize("seed", range(8))
def test_removal_brings_every_byte_back(tmp_path, family, seed):
    """Of two drivers, whatever was done before and wherever it was cut off."""
    chance = random.Random("%s %d" % (family, seed))
    kernels = variants(machines.FAMILIES[family](tmp_path), OLD, NEW, family=family)
    shipped, default = snapshot(tmp_path), menu(tmp_path).default
    for _step in range(20):
        driver, boot = chance.choice([DRIVER, "other"]), chance.choice(["none", "default", "shipped", None])
        wanted = {release: images for release, images in kernels.items() if chance.random() < 0.8}
        plan = (
            entry.present(Host(str(tmp_path)), entry.Request(driver, boot=boot), machines.verified(wanted))
            if boot
            else entry.absent(Host(str(tmp_path)), driver, chance.choice([[], [OLD]]))
        )[0]
        if chance.random() < 0.4:
            plan.steps = plan.steps[: chance.randrange(len(plan.steps) + 1)]
        plan.apply()
        now = menu(tmp_path).default
        assert now.driver or (now.title, now.linux) == (default.title, default.linux)
    for driver in (DRIVER, "other"):
        entry.absent(Host(str(tmp_path)), driver)[0].apply()
    assert snapshot(tmp_path) == shipped
