# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""depmod makes the same indexes of stand-ins for a kernel's own modules; where it might not, it reads those."""

import os
import random
import shutil
import subprocess
import time

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import depmod, stand_ins
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Plan
from tests.forge.fake_tree import ONE
from tests.forge.ko import LAYOUT, Export, ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
TOP = "/lib/modules/" + ONE


class Kernel:
    """A kernel's modules below a root, given by name: whom they need, and what only some of them have."""

    def __init__(self, root, needs, info=None, symvers=True):
        self.root = str(root)
        self.needs = needs
        for name, needed in needs.items():
            self.put("kernel/drivers/%s/%s.ko" % (name[0], name), name, needed, info=info)
        self.write("modules.order", "".join("kernel/drivers/%s/%s.ko\n" % (n[0], n) for n in needs))
        self.write("modules.builtin", "kernel/fs/ext4/ext4.ko\n")
        if symvers:
            self.write("symvers", "".join("0x00000005\tof_%s\t%s\tEXPORT_SYMBOL\n" % (n, n) for n in needs))
        os.makedirs(self.root + "/etc/depmod.d")
        with open(self.root + "/etc/depmod.d/dist.conf", "w") as handle:
            handle.write("search updates extra built-in weak-updates\n")
        time.sleep(0.01)  # the indexes come after the modules, by any clock
        self.depmod()

    def path(self, name):
        return "%s%s/%s" % (self.root, TOP, name)

    def write(self, name, data):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb" if isinstance(data, bytes) else "w") as handle:
            handle.write(data)

    def put(self, path, name, needed=(), *, gives=True, info=None):
        exports = [Export("of_" + name, 0x5)] if gives else []
        needs = [LAYOUT, *(("of_" + each, 0x5) for each in needed)]
        modinfo = {"alias": "pci:v*d*sv%s" % name, **((info or {}).get(name, {}))}
        self.write(
            path, ko(name, needs, release=ONE, exports=exports, export_form="symbols", modinfo=modinfo)
        )

    def depmod(self):
        subprocess.run(["depmod", "-b", self.root, "-C", self.root + "/etc/depmod.d", ONE], check=True)

    def indexes(self):
        found = {}
        for name in os.listdir(self.path("")):
            if name.startswith("modules."):
                with open(self.path(name), "rb") as handle:
                    found[name] = handle.read()
        return found

    def refresh(self):
        """What ours makes of it, and what depmod alone does."""
        plan = Plan(Host(self.root))
        depmod.refresh(plan, TOP, {}, without=())
        plan.apply()
        ours = self.indexes()
        self.depmod()
        return ours, self.indexes()


@pytest.fixture
def stood_in(monkeypatch):
    """What the last run was made with: stand-ins, or the modules themselves."""
    found = []
    made = depmod._run

    def run(host, modules_dir, *, without, own=None):
        found.append("stand-ins" if own else "modules")
        return made(host, modules_dir, without=without, own=own)

    monkeypatch.setattr(depmod, "_run", run)
    return found


def web(seed, size=60):
    """Modules that need each other as those of a kernel do: some none, some many, none in a circle."""
    dice = random.Random(seed)
    names = ["%s%d" % (dice.choice("abc"), number) for number in range(size)]
    needs = {
        name: dice.sample(names[:place], min(place, dice.choice([0, 0, 1, 1, 2, 3, 5])))
        for place, name in enumerate(names)
    }
    order = list(names)
    dice.shuffle(order)
    info = {
        name: {"softdep": "pre: %s" % dice.choice(names), "alias": "char-major-%d-*" % dice.randrange(256)}
        for name in dice.sample(names, size // 4)
    }
    return {name: needs[name] for name in order}, info


@pytest.mark.parametrize("seed", range(12))
def test_the_indexes_are_those_that_depmod_makes_of_the_modules_themselves(tmp_path, stood_in, seed):
    needs, info = web(seed)
    kernel = Kernel(tmp_path, needs, info)
    ours, its = kernel.refresh()
    assert ours == its
    dice = random.Random(-seed)
    kernel.put("extra/vendor/vendor.ko", "vendor", ["bus", dice.choice(list(needs))])
    kernel.put("extra/vendor/bus.ko", "bus")
    kernel.put("weak-updates/other/other.ko", "other", dice.sample(list(needs), 3), gives=False)
    ours, its = kernel.refresh()
    assert b"extra/vendor/vendor.ko:" in its["modules.dep"] and b"of_bus bus" in its["modules.symbols"]
    # where others come in between, it may name what one needs in another order: then it reads the modules
    assert stood_in[:2] == ["stand-ins", "stand-ins"] and ours == its


def test_what_goes_is_left_out_by_depmod_alone(tmp_path, stood_in):
    kernel = Kernel(tmp_path, {"one": [], "two": ["one"]})
    kernel.put("extra/one/one.ko", "one")
    kernel.depmod()
    plan = Plan(Host(kernel.root))
    depmod.refresh(plan, TOP, {}, without=[TOP + "/extra/one/one.ko"])
    plan.apply()
    ours = kernel.indexes()
    os.remove(kernel.path("extra/one/one.ko"))
    kernel.depmod()
    assert stood_in == ["modules"] and ours == kernel.indexes()


def cut_off(kernel):
    with open(kernel.path("modules.alias"), "r+") as handle:
        handle.truncate(60)


def without_symbols(kernel):
    kernel.write("modules.symbols", "# Aliases for symbols, used by symbol_request().\n")


def replaced(kernel):
    time.sleep(0.01)
    kernel.put("kernel/drivers/t/two.ko", "two", [])


def come_since(kernel):
    time.sleep(0.01)
    kernel.put("kernel/drivers/n/new.ko", "new", ["two"])


def hidden_and_needed(kernel):
    kernel.put("extra/one/one.ko", "one", gives=False)


def hidden_by_its_like(kernel):
    kernel.put("extra/one/one.ko", "one")


def without_order(kernel):
    os.remove(kernel.path("modules.order"))


def gives_what_one_lacks(kernel):
    """A package of further modules is not installed, and another brings one of them."""
    kernel.put("extra/lacking/lacking.ko", "lacking")


def in_a_link(kernel):
    os.rename(kernel.path("kernel/drivers/t"), kernel.root + "/elsewhere")
    os.symlink(kernel.root + "/elsewhere", kernel.path("kernel/drivers/t"))


@pytest.mark.parametrize(
    "change",
    [
        cut_off,
        without_symbols,
        replaced,
        come_since,
        hidden_and_needed,
        hidden_by_its_like,
        without_order,
        gives_what_one_lacks,
        in_a_link,
    ],
)
@pytest.mark.parametrize("symvers", [True, False])
def test_where_the_indexes_cannot_tell_the_modules_are_read(tmp_path, stood_in, change, symvers):
    needs = {"one": [], "two": ["one"], "three": ["two", "lacking"]}
    kernel = Kernel(tmp_path, needs, symvers=False)
    if symvers:
        names = [*needs, "lacking"]
        kernel.write("symvers", "".join("0x00000005\tof_%s\t%s\tEXPORT_SYMBOL\n" % (n, n) for n in names))
    change(kernel)
    ours, its = kernel.refresh()
    assert stood_in[-1] == "modules" and ours == its


def test_a_module_in_front_of_one_that_none_needs_is_listed_in_its_place(tmp_path, stood_in):
    kernel = Kernel(tmp_path, {"one": [], "two": ["one"]})
    kernel.put("extra/two/two.ko", "two", ["one"], gives=False, info={"two": {"alias": "pci:newer"}})
    for _again in (False, True):  # then none lists the kernel's own
        ours, its = kernel.refresh()
        assert stood_in[-1] == "stand-ins" and ours == its and b"pci:newer two" in its["modules.alias"]


def test_an_index_that_this_depmod_is_the_first_to_make_is_made_of_the_modules(tmp_path, stood_in):
    kernel = Kernel(tmp_path, {"one": [], "two": ["one"]})
    os.remove(kernel.path("modules.devname"))
    ours, its = kernel.refresh()
    assert stood_in[-1] == "modules" and ours == its


def test_a_depmod_that_does_not_take_them_reads_the_modules(tmp_path, stood_in, monkeypatch):
    kernel = Kernel(tmp_path, {"one": [], "two": ["one"]})
    monkeypatch.setattr(stand_ins, "_module", lambda info, exports, needs: b"\x7fELF")
    ours, its = kernel.refresh()
    assert stood_in == ["stand-ins", "modules"] and ours == its
