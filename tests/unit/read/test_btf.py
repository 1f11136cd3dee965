# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""BTF is read by its own format's rules, and structures that differ are noted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.read import btf, kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE
from tests.forge import btf as forged
from tests.forge import families
from tests.forge.btf import btf_array, btf_function, btf_int, btf_struct, btf_type
from tests.forge.elf import Section, elf
from tests.forge.ko import RELEASE, ko

OLDER = "6.1.0-8-amd64"
# Types by id: 1 int, 2 struct device, 3 struct inner without a name, 4 const, 5 pointer, 6 array, 7 typedef,
# 8 a function and 9 its prototype
TYPES = (
    btf_int("int", 4),
    btf_struct("device", 16, [("id", 1, 0), ("", 3, 64), ("flag", 1, 96)]),
    btf_struct("", 8, [("inner", 1, 0)]),
    btf_type(btf.CONST, "", 2),
    btf_type(btf.PTR, "", 4),
    btf_array(5),
    btf_type(btf.TYPEDEF, "devices", 6),
    btf_type(btf.FUNC, "probe", 9),
    btf_function(1, [("device", 5)]),
)


def test_layouts():
    found = btf.Btf(forged.btf(TYPES))
    assert found.layouts(["device", "absent"]) == {"device": [(16, (("id", 0), ("inner", 64), ("flag", 96)))]}
    assert list(found.sized()) == [("device", 16)]


def test_structures_behind_types():
    found = btf.Btf(forged.btf(TYPES))
    assert found.behind([7]) == found.behind([5, 2]) == {"device"}
    assert found.behind([0, 1, 3, 99]) == set()
    assert found.referred() == {1, 2, 3, 4, 5, 6, 9}


def test_types_that_lead_to_each_other():
    assert btf.Btf(forged.btf([btf_type(btf.CONST, "", 2), btf_type(btf.CONST, "", 1)])).behind([1]) == set()


@given(st.binary(max_size=200))
def test_any_bytes(data):
    whole = forged.btf(TYPES)
    for damaged in (data, whole[:24] + data + whole[24 + len(data) :]):
        try:
            found = btf.Btf(damaged)
            found.behind(found.referred())
            found.layouts([struct.name for struct in found.sized()])
        except btf.BtfError:
            continue


def judged(root, module, now, older=None):
    """The notes on a module on the kernel of today, with that which it was built for installed too or not."""
    for release, types in ((RELEASE, now), (OLDER, older)):
        if types is not None:
            families.kernel(root, release)
            (root / "boot" / ("vmlinuz-" + release)).write_bytes(elf([Section(".BTF", forged.btf(types))]))
    kernel = kernels.kernel(Host(str(root)), RELEASE)
    (verdict,) = loader.judge(
        kernel, [modules.parse(module, "/opt/vendor.ko", structs=True)], OFFLINE, structs=True
    )
    assert verdict.compatible
    return [
        (finding.symbol, finding.wanted, finding.found)
        for finding in verdict.findings
        if finding.code == "STRUCT_CHANGED"
    ]


USER = ko(release=OLDER, extra=[Section(".BTF", forged.btf([btf_type(btf.PTR, "", 2)]))])
DEVICE = TYPES[1]


@pytest.mark.parametrize(
    "now,note",
    [
        (DEVICE, []),
        (btf_struct("device", 24, [("id", 1, 0), ("flag", 1, 160)]), [("device", "16 bytes", "24 bytes")]),
        (
            btf_struct("device", 16, [("id", 1, 0), ("flag", 1, 32)]),
            [("device", "inner at bit 64", "flag at bit 32")],
        ),
        (
            btf_struct("device", 16, [("id", 1, 0), ("", 3, 64), ("flag", 1, 32)]),
            [("device", "flag at bit 96", "flag at bit 32")],
        ),
        (
            btf_struct("device", 16, [("id", 1, 0), ("", 3, 64), ("flag", 1, 96), ("new", 1, 32)]),
            [("device", "nothing at bit 0", "new at bit 32")],
        ),
        (btf_struct("other", 16, []), []),
    ],
)
def test_against_the_kernel_that_it_was_built_for(now, note, tmp_path):
    assert judged(tmp_path, USER, (TYPES[0], now) + TYPES[2:], TYPES) == note


def test_that_kernel_is_not_installed(tmp_path):
    assert judged(tmp_path, USER, (TYPES[0], btf_struct("device", 24, []))) == []


@pytest.mark.parametrize("size,note", [(16, []), (12, [("device", "12 bytes", "16 bytes")])])
def test_what_the_module_keeps_of_that_kernel(size, note, tmp_path):
    extra = [
        Section(".BTF", forged.btf([])),
        Section(".BTF.base", forged.btf([btf_struct("device", size, [])])),
    ]
    assert judged(tmp_path, ko(release=OLDER, extra=extra), TYPES) == note


def test_a_newer_kind_of_type_is_no_fault():
    module = modules.parse(
        ko(extra=[Section(".BTF", forged.btf([btf_type(29, "new", 1)]))]), "/opt/vendor.ko", structs=True
    )
    assert (module.btf, module.btf_ids) == ("ok", ())


def test_types_are_read_where_structures_are_asked_for():
    without, read = (modules.parse(USER, "/opt/vendor.ko", structs) for structs in (False, True))
    assert (without.btf, without.btf_ids) == ("ok", ()) and read.btf_ids
    assert read._replace(btf_ids=()) == without
