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

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import depmod, stand_ins
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Plan
from tests.forge.fake_tree import ONE, TWO
from tests.forge.ko import LAYOUT, Export, ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
TOP = "/lib/modules/" + ONE


class Kernel:
    """A kernel's modules below a root, given by name: whom they need, and what only some of them have."""

    def __init__(self, root, needs, info=None, symvers=True, release=ONE):
        self.root = str(root)
        self.release = release
        self.needs = needs
        for name, needed in needs.items():
            self.put("kernel/drivers/%s/%s.ko" % (name[0], name), name, needed, info=info)
        self.write("modules.order", "".join("kernel/drivers/%s/%s.ko\n" % (n[0], n) for n in needs))
        self.write("modules.builtin", "kernel/fs/ext4/ext4.ko\n")
        if symvers:
            self.write("symvers", "".join("0x00000005\tof_%s\t%s\tEXPORT_SYMBOL\n" % (n, n) for n in needs))
        os.makedirs(self.root + "/etc/depmod.d", exist_ok=True)
        with open(self.root + "/etc/depmod.d/dist.conf", "w") as handle:
            handle.write("search updates extra built-in weak-updates\n")
        time.sleep(0.01)  # the indexes come after the modules, by any clock
        self.depmod()

    def path(self, name):
        return "%s/lib/modules/%s/%s" % (self.root, self.release, name)

    def write(self, name, data):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb" if isinstance(data, bytes) else "w") as handle:
            handle.write(data)

    def put(self, path, name, needed=(), *, gives=True, info=None):
        exports = [Export("of_" + name, 0x5)] if gives else []
        needs = [LAYOUT, *(("of_" + each, 0x5) for each in needed)]
        modinfo = {"alias": "pci:v*d*sv%s" % name, **((info or {}).get(name, {}))}
        self.write(
            path,
            ko(name, needs, release=self.release, exports=exports, export_form="symbols", modinfo=modinfo),
        )

    def depmod(self):
        subprocess.run(
            ["depmod", "-b", self.root, "-C", self.root + "/etc/depmod.d", self.release], check=True
        )

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

    def run(host, modules_dir, *, without, own=None, shelf=None):
        found.append("stand-ins" if own else "modules")
        return made(host, modules_dir, without=without, own=own, shelf=shelf)

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


def nearly(needs, info, dice):
    """As the next kernel has them: some are gone, some have come, and some need or say something else."""
    gone = set(dice.sample(list(needs), 6))
    left = {
        name: [each for each in needed if each not in gone and dice.random() < 0.9]
        for name, needed in needs.items()
        if name not in gone
    }
    left.update({"new%d" % number: dice.sample(list(left), 2) for number in range(4)})
    said = {name: {"alias": "pci:other%d" % dice.randrange(9)} for name in dice.sample(list(left), 8)}
    return left, {**info, **said}


@pytest.mark.parametrize("seed", range(6))
def test_what_stood_in_for_one_kernel_is_used_for_the_next(tmp_path, stood_in, monkeypatch, seed):
    dice = random.Random(seed)
    webs = [web(seed)]
    webs += [nearly(*webs[0], dice)]
    webs += [webs[1], ({"one": [], "two": ["one"]}, None)]
    releases = [ONE, TWO, TWO + "a", TWO + "b"]
    kernels = [Kernel(tmp_path, *each, release=release) for each, release in zip(webs, releases)]
    kernels[1].put("kernel/drivers/u/unlisted.ko", "unlisted", gives=False)
    kernels[1].depmod()
    lines = kernels[1].indexes()["modules.dep"].splitlines(keepends=True)
    kernels[1].write("modules.dep", b"".join(line for line in lines if b"unlisted" not in line))
    kernels[2].put("extra/vendor.ko", "vendor", dice.sample(list(webs[2][0]), 3))
    written = []
    write = stand_ins._write
    monkeypatch.setattr(
        stand_ins,
        "_write",
        lambda path, *more: (written.append(path.partition("/modules/")[2]), write(path, *more)),
    )
    plan = Plan(Host(str(tmp_path)))
    for kernel in kernels:
        depmod.refresh(plan, "/lib/modules/" + kernel.release, {}, without=())
    plan.apply()
    ours = [kernel.indexes() for kernel in kernels]
    for kernel in kernels:
        kernel.depmod()
    assert ours == [kernel.indexes() for kernel in kernels] and stood_in == ["stand-ins"] * 4
    made = [sum(path.startswith(release + "/") for path in written) for release in releases]
    assert made[0] == 60 and 0 < made[1] < 50 and made[2:] == [0, 2]
    mine = "%s%d-" % (lock.SCRATCH, os.getpid())
    assert not [
        name for place in ("/dev/shm", "/var/tmp") for name in os.listdir(place) if name.startswith(mine)
    ]


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
    monkeypatch.setattr(stand_ins, "_module", lambda said: b"\x7fELF")
    ours, its = kernel.refresh()
    assert stood_in == ["stand-ins", "modules"] and ours == its
