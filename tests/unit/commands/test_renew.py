# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variants are made again when packages change the modules that they hold.

The stored driver vendor needs giver, which a package brings: so a variant for it holds both.
"""

import io
import shutil
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import weak_modules
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link, variant
from ansible_collections.outoftree.kmod.plugins.module_utils.task import carry_out
from tests.forge.ko import Export, ko
from tests.unit.commands.follower import NEW, OLD, Follower
from tests.unit.place.initramfs.kernel_simulator import unpack

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
NEEDS = [("module_layout", 0x11), ("printk", 0x22)]
GIVER = "/lib/modules/%s/extra/giver/giver.ko" % NEW


class Machine(Follower):
    def package(self, version, path=GIVER, crc=0x22):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            ko(
                "giver",
                [("module_layout", 0x11), ("printk", crc)],
                release=NEW,
                modinfo={"name": "giver", "version": version},
                exports=[Export("given", 0x5)],
                export_form="symbols",
            )
        )

    def call(self, *argv, lines=(GIVER,)):
        """The exit status, standard output and standard error of weak-modules."""
        streams = sys.stdin, sys.stdout, sys.stderr
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        sys.stdin = io.TextIOWrapper(io.BytesIO("".join(line + "\n" for line in lines).encode()))
        sys.stdout, sys.stderr = out, err
        try:
            status = weak_modules.main([*argv, "--basedir", str(self.root)])
            out.flush()
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
        return status, out.buffer.getvalue().decode(), err.getvalue()

    def variant(self, release=OLD):
        return self.image_path(release, ".1")

    def held(self):
        """The version of giver in OLD's variant."""
        files, error = unpack(self.variant().read_bytes())
        assert error is None
        data = next((data for path, (_mode, data) in files.items() if path.endswith("/giver.ko")), b"")
        return next((word[8:].decode() for word in data.split(b"\0") if word.startswith(b"version=")), None)

    def state(self):
        paths = [self.image_path(release, more) for release in (OLD, NEW) for more in ("", ".1")]
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.fixture
def machine(tmp_path):
    """giver 1.0 is linked for OLD, and variants for vendor are there for both kernels."""
    machine = Machine(tmp_path / "root")
    machine.package("1.0")
    assert machine.call("--add-modules", "--no-initramfs")[0] == 0
    path = tmp_path / "vendor.ko"
    path.write_bytes(
        ko("vendor", [*NEEDS, ("given", 0x5)], release=OLD, depends="giver", modinfo={"name": "vendor"})
    )
    asked = link.Options("vendor", path=(str(path),), whence="/", kernels=(OLD, NEW))
    carry_out(str(machine.root), False, lambda host: link.run(host, asked))
    wanted = variant.Options(("vendor",), (OLD, NEW))
    carry_out(str(machine.root), False, lambda host: variant.run(host, wanted))
    assert machine.held() == "1.0"
    return machine


def test_a_variant_holds_the_module_that_a_package_has_replaced_in_its_place(machine):
    """No link changes then: the file that it leads to does."""
    machine.package("2.0")
    before = machine.state()
    status, out, err = machine.call("--add-modules")
    assert (status, machine.held()) == (0, "2.0")
    assert "%s: the variant of the initramfs is made again\n" % inside(machine, OLD) in out
    changed = {name for name, state in machine.state().items() if before[name] != state}
    assert changed == {machine.variant(OLD).name, machine.variant(NEW).name}  # both hold it
    assert "left as shipped: %s" % str(machine.image_path(OLD)).replace(str(machine.root), "") in err


def test_a_variant_stays_that_can_no_longer_be_made(machine):
    """What is on the disk would not load any more, and what it holds does."""
    machine.package("2.0", crc=0x23)  # neither kernel takes it
    status, _out, err = machine.call("--add-modules")
    assert status == 0 and machine.held() == "1.0"
    assert "variants of the initramfs are not made again: " in err and "needs the module giver" in err


def test_a_variant_that_is_as_it_should_be_is_left(machine):
    before = machine.state()
    for _again in (False, True):
        status, out, _err = machine.call("--add-modules")
        assert (status, out) == (0, "") and machine.state() == before


def test_a_variant_of_a_kernel_that_is_not_concerned_is_left(machine):
    path = "/lib/modules/%s/extra/other/other.ko" % OLD
    other = machine.root / path.lstrip("/")
    other.parent.mkdir(parents=True)
    other.write_bytes(ko("other", [("module_layout", 0x12)], release=OLD, modinfo={"name": "other"}))
    machine.package("2.0")
    before = machine.variant(NEW).read_bytes()
    assert machine.call("--add-modules", lines=[path])[0] == 0  # NEW does not take it
    assert machine.variant(NEW).read_bytes() == before and machine.held() == "2.0"


@pytest.mark.parametrize("option", ["--no-initramfs", "--dry-run", "--check-initramfs-prog=true"])
def test_images_are_left_where_that_is_asked_for(machine, option):
    machine.package("2.0")
    before = machine.state()
    assert machine.call("--add-modules", option)[0] == 0
    assert machine.state() == before


def test_links_stay_where_a_variant_cannot_be_made(machine):
    machine.package("2.0", path="/lib/modules/%s/extra/more/giver.ko" % NEW)
    machine.image_path(OLD).write_bytes(b"damaged")
    more = "/lib/modules/%s/extra/more/giver.ko" % NEW
    status, _out, err = machine.call("--add-modules", lines=[more])
    assert status == 0 and "variants of the initramfs are not made again: " in err
    assert (machine.root / "lib/modules" / OLD / "weak-updates/more/giver.ko").is_symlink()


def inside(machine, release):
    return str(machine.variant(release)).replace(str(machine.root), "")
