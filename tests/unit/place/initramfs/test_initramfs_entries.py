# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No variant is removed or replaced under the boot entries that start it, on any loader, without a word."""

import gzip
import re
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import started
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry, shipped
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing, variant
from tests.forge import machines
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD
from tests.forge.ko import ko
from tests.forge.machines import DRIVER, NEW, OLD

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")
REQUEST = variant.Recipe((DRIVER,))


class Site:
    """A host of a family with two kernels that have the driver, and an initramfs each."""

    def __init__(self, root, family):
        self.root = root
        self.initrd = machines.FAMILIES[family](root)
        self.place = machines.directory(family)
        for release in (OLD, NEW):
            self.image(release, b"1")
            self.path(release, ".1").unlink()
            self.driver(release, b"1")

    @property
    def host(self):
        return Host(str(self.root))

    def path(self, release, more=""):
        directory = self.place % release if "%s" in self.place else self.place
        return self.root / (directory + self.initrd % release + more).lstrip("/")

    def image(self, release, text):
        self.path(release).write_bytes(gzip.compress(cpio({"init": text})))

    def driver(self, release, text):
        file = self.root / "lib/modules" / release / "extra" / DRIVER / "vendor.ko"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parents[2] / "kernel").mkdir(exist_ok=True)
        file.write_bytes(ko("vendor", filler=text, release=release))
        subprocess.run([DEPMOD, "-b", str(self.root), release], check=True, stderr=subprocess.DEVNULL)

    def variants(self):
        plan, answer = variant.present(self.host, REQUEST)
        return answer.applied(plan.apply()).as_dict()

    def entries(self, boot="none"):
        started.present(self.host, entry.Request(DRIVER, boot=boot))[0].apply()

    def default(self):
        found = shipped.default(self.host)
        return found and found.driver

    def files(self):
        return {str(path): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture(params=sorted(machines.FAMILIES))
def site(request, tmp_path):
    return Site(tmp_path, request.param)


def refused(site, code, **options):
    before = site.files()
    with pytest.raises(KmodError) as caught:
        variant.absent(site.host, [DRIVER], **options)
    assert caught.value.code == code and site.files() == before
    return str(caught.value)


def test_removal_is_refused_while_entries_start_the_variants_and_names_them(site):
    site.variants()
    site.entries("default")
    told = refused(site, "VARIANT_STARTED")
    assert (
        "With driver " + DRIVER in told
        and NEW in told
        and OLD in told
        and "the default" in told
        and "entries: remove" in told
    )


def test_removal_takes_the_entries_along_where_that_is_asked_for_and_leaves_nothing(site):
    before = site.files()
    site.variants()
    site.entries()
    site.entries("default")
    assert site.default() == DRIVER
    plan, answer = variant.absent(site.host, [DRIVER], entries="remove")
    result = answer.applied(plan.apply()).as_dict()
    assert [row["status"] for row in result["variants"]] == ["removed", "removed"]
    assert site.default() is None and site.files() == before


def test_removal_for_one_kernel_looks_at_its_entries_alone(site):
    site.variants()
    started.present(site.host, entry.Request(DRIVER), [NEW])[0].apply()
    variant.absent(site.host, [DRIVER], [OLD])[0].apply()
    refused(site, "VARIANT_STARTED", kernels=[NEW])


@pytest.mark.parametrize("what", ["driver", "image", "damage", "gone"])
def test_the_old_default_is_back_before_the_variant_under_it_is_written(site, what):
    site.variants()
    site.entries()
    site.entries("default")
    release = next(each for each in (NEW, OLD) if each in shipped.default(site.host).kernel)
    if what == "driver":
        site.driver(release, b"2")
    elif what == "image":
        site.image(release, b"2")
    elif what == "gone":
        site.path(release, ".1").unlink()
    else:
        site.path(release, ".1").write_bytes(b"")
    plan, answer = variant.present(site.host, REQUEST)
    result = answer.as_dict()
    (row,) = result["given_back"]
    assert row["path"].endswith(".1") and "With driver " + DRIVER in row["entry"]
    first = plan.paths().index(row["path"])
    steps, plan.steps = plan.steps, plan.steps[:first]
    assert steps[first:]
    plan.apply()  # a run that is cut off there
    assert site.default() is None
    site.variants()
    assert site.default() is None
    assert not variant.present(site.host, REQUEST)[0]


def test_a_variant_that_no_boot_starts_is_replaced_and_the_default_stays(site):
    site.variants()
    site.entries()
    before = shipped.default(site.host)
    for release in (OLD, NEW):
        site.driver(release, b"2")
    assert "given_back" not in site.variants() and shipped.default(site.host) == before


def test_what_was_given_back_stays_so_when_a_later_step_fails(site, monkeypatch):
    site.variants()
    site.entries()
    site.entries("default")
    for release in (OLD, NEW):
        site.driver(release, b"2")
    plan, _result = variant.present(site.host, REQUEST)
    last = plan.steps[-1].path
    real = Host.replace

    def replace(self, path, *arguments, **options):
        if path == last:
            raise KmodError(path, "no space", code="ENOSPC")
        return real(self, path, *arguments, **options)

    monkeypatch.setattr(Host, "replace", replace)
    with pytest.raises(KmodError):
        plan.apply()
    monkeypatch.undo()
    assert site.default() is None
    site.variants()
    assert [row.state for row in existing.overview(site.host)] == ["current", "current"]


def test_a_foreign_entry_is_never_taken_along(tmp_path):
    site = Site(tmp_path, "debian")
    site.variants()
    (tmp_path / "boot/grub/custom.cfg").write_text(
        "menuentry 'by hand' {\n linux /boot/vmlinuz-%s\n initrd /boot/%s.1\n}\n" % (NEW, site.initrd % NEW)
    )
    assert "by hand" in refused(site, "VARIANT_STARTED", entries="remove")


def test_two_drivers_entries_of_one_variant_go_together(tmp_path):
    site = Site(tmp_path, "debian")
    for release in (OLD, NEW):
        file = tmp_path / "lib/modules" / release / "extra/other/other.ko"
        file.parent.mkdir(parents=True)
        file.write_bytes(ko("other", release=release))
        site.driver(release, b"1")
    variant.present(site.host, variant.Recipe((DRIVER, "other")))[0].apply()
    for driver in (DRIVER, "other"):
        started.present(site.host, entry.Request(driver))[0].apply()
    variant.absent(site.host, [DRIVER], entries="remove")[0].apply()
    assert not [path for path in site.files() if re.search(r"\.1$|custom\.cfg$", path)]


def test_the_entries_of_a_kernel_that_is_gone_go_with_its_variant(site):
    site.variants()
    site.entries()
    kernels = ("linux", "initrd", "vmlinuz-" + OLD, site.initrd % OLD)
    for path in [
        path for path in site.root.rglob("*") if path.is_file() and OLD in str(path) and path.name in kernels
    ]:
        path.unlink()
    subprocess.run(["rm", "-r", str(site.root / "lib/modules" / OLD)], check=True)
    result = site.variants()
    assert len(result["pruned"]) == 1 and OLD in result["pruned"][0]
    assert not shipped.starting(site.host, result["pruned"][0])


def test_a_driver_with_a_name_that_is_none_is_refused_for_removal_too(tmp_path):
    site = Site(tmp_path, "debian")
    with pytest.raises(KmodError) as caught:
        variant.absent(site.host, ["../3w"])
    assert caught.value.code == "DRIVER_NAME"


def test_an_entry_is_made_of_whole_variants_only(site):
    site.variants()
    path = site.path(NEW, ".1")
    whole = path.read_bytes()
    for broken in (b"", whole[:-1], whole + b"x", whole[:700], whole.replace(b'"overlay"', b'"0verlay"')):
        path.write_bytes(broken)
        with pytest.raises(KmodError) as caught:
            site.entries("default")
        assert caught.value.code == "VARIANT_DAMAGED"
