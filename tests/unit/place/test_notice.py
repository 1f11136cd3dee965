# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person is told of a host, and what is refused before anything is written, on a directory laid out as
Enterprise Linux 9.
"""

import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import notice, possible, store
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import variant
from ansible_collections.outoftree.kmod.plugins.module_utils.place.weak_links import Served
from tests.forge import fleet

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")

OLD, MIDDLE, NEW = RELEASES = ("6.1.0-1", "6.1.0-2", "6.1.0-10")


@pytest.fixture
def root(tmp_path):
    """Three kernels, of which the middle one is the default."""
    kernels = [fleet.kernel(tmp_path / "kernels", release) for release in RELEASES]
    fleet.el9(tmp_path / "root", [kernels[0], kernels[2], kernels[1]])
    return tmp_path / "root"


def test_boots_are_expected_of_the_newest_and_the_default_kernel(root):
    host = Host(str(root))
    assert notice.booting(host, store.installed(host)) == {OLD: [], MIDDLE: ["default"], NEW: ["newest"]}


def test_without_a_boot_loader_the_newest_is_left(root):
    shutil.rmtree(str(root / "boot/grub2"))
    host = Host(str(root))
    assert notice.booting(host, store.installed(host)) == {OLD: [], MIDDLE: [], NEW: ["newest"]}


def test_unserved_are_the_chosen_kernels_without_a_build_and_others_that_boot(root):
    host = Host(str(root))
    rows = [
        Served(OLD, "incompatible", "so", build=None, files=(), linked=False, override=False),
        Served(MIDDLE, "compatible", "", build=None, files=(), linked=False, override=False),
    ]
    found = notice.unserved(host, store.installed(host), rows, after={OLD: None, MIDDLE: object(), NEW: None})
    assert [(row.kernel, row.boots, row.verdict) for row in found] == [
        (OLD, (), "incompatible"),
        (NEW, ("newest",), None),
    ]
    assert found[0].reason == "so" and "chosen" in found[1].reason


def test_an_entry_is_possible_where_it_could_be_made_and_refused_for_the_same_reason_where_not(root):
    host = Host(str(root))
    before = sorted(map(str, root.rglob("*")))
    answer = possible.entries(host, entry.Request("vendor"), RELEASES)
    assert [(row.kernel, row.state, row.changed) for row in answer.rows] == [
        (release, "possible", False) for release in RELEASES
    ]
    assert sorted(map(str, root.rglob("*"))) == before
    next(path for path in (root / "boot/loader/entries").iterdir() if NEW in path.name).unlink()
    with pytest.raises(KmodError) as caught:
        possible.entries(host, entry.Request("vendor"), RELEASES)
    assert caught.value.code == "ENTRY_MISSING"


def test_a_trial_that_could_not_be_of_the_kernel_that_boots_is_refused_beforehand(root):
    with pytest.raises(KmodError) as caught:
        possible.entries(Host(str(root)), entry.Request("vendor", boot="default"), [OLD])
    assert MIDDLE in str(caught.value)


def test_a_variant_is_possible_of_an_image_that_is_there_and_that_no_tpm_guards(root):
    host = Host(str(root))
    plan, result = variant.possible(host, variant.Recipe(("vendor",)), RELEASES)
    assert not plan and [row.status for row in result.rows] == ["possible"] * 3
    fleet.write(root / "etc/crypttab", "data /dev/none - tpm2-device=auto,tpm2-pcrs=7+9\n")
    with pytest.raises(KmodError) as caught:
        variant.possible(host, variant.Recipe(("vendor",)), RELEASES)
    assert caught.value.code == "TPM_SEALED"
    variant.possible(host, variant.Recipe(("vendor",), ignore_tpm=True), RELEASES)
    (root / ("boot/initramfs-%s.img" % OLD)).unlink()
    with pytest.raises(KmodError) as caught:
        variant.possible(host, variant.Recipe(("vendor",), ignore_tpm=True), RELEASES)
    assert caught.value.code == "INITRD_MISSING"


def test_what_a_variant_cannot_be_made_of_or_has_no_room_for_is_refused_beforehand(root, monkeypatch):
    host = Host(str(root))
    with pytest.raises(KmodError) as caught:  # an init that is no initramfs generator's
        variant.possible(host, variant.Recipe(("vendor",), early_load=True), [OLD])
    assert caught.value.code == "EARLY_UNSUPPORTED"
    monkeypatch.setattr(Host, "free", lambda host, path: 0)
    with pytest.raises(KmodError) as caught:
        variant.possible(host, variant.Recipe(("vendor",)), [OLD])
    assert caught.value.code == "BOOT_FULL"
    monkeypatch.undo()
    (root / ("boot/initramfs-%s.img" % OLD)).write_bytes(b"no image")
    with pytest.raises(KmodError):
        variant.possible(host, variant.Recipe(("vendor",)), [OLD])
