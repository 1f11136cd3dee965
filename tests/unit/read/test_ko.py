# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module file becomes plain data, whatever machine it is made for and whatever is wrong with it."""

import gzip
import hashlib
import json
import random
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import faults
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_module import (
    Exported,
    KernelModule,
    Undefined,
    Version,
)
from tests.forge.elf import MACHINES, Section
from tests.forge.ko import RELEASE, Export, chained_table, ko

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=40)
CRCS = st.integers(0, 2**32 - 1)
TABLES = st.dictionaries(
    NAMES.filter(lambda name: name not in ("init_module", "cleanup_module")), CRCS, max_size=12
)


def parse(**arguments):
    return modules.parse(ko(**arguments), "/lib/vendor.ko")


@pytest.mark.parametrize("machine", sorted(MACHINES))
@given(needs=TABLES, exports=TABLES, weak=st.booleans())
@settings(max_examples=15, deadline=None)
def test_what_was_built_in_is_read_out(machine, needs, exports, weak):
    given_exports = [
        Export(name, crc, crc % 2 == 1, "NS" if crc % 3 == 0 else "")
        for name, crc in exports.items()
        if name not in needs
    ]
    module = parse(
        machine=machine, needs=list(needs.items()), exports=given_exports, weak=list(needs) if weak else []
    )
    assert module.faults == ()
    assert module.machine == machine
    assert module.versions == tuple(Version(*each) for each in needs.items())
    assert module.undefined == tuple(Undefined(name, weak) for name in needs if name != "module_layout")
    assert sorted(module.exports) == sorted(Exported(*each) for each in given_exports)
    assert (module.struct_size, module.init_offset, module.exit_offset) == (896, 312, 848)


@pytest.mark.parametrize(
    "form,crc,flags",
    [("numbers", 7, False), ("symbols", 7, False), ("flags", 7, True), ("none", None, False)],
)
@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_exports_of_every_generation(machine, form, crc, flags):
    module = parse(
        machine=machine, exports=[Export("one", 7), Export("two", 7, True, "NS")], export_form=form
    )
    assert module.exports == (Exported("one", crc, False, ""), Exported("two", crc, True, "NS"))
    assert module.exports_flags == flags
    assert module.exports_crcs == (crc is not None)


@given(TABLES)
@settings(max_examples=25, deadline=None)
def test_round_trip_through_json(needs):
    module = parse(
        needs=list(needs.items()),
        ext_versions=list(needs.items()),
        exports=[Export("one", 7)],
        common=["buffer"],
    )
    again = KernelModule.from_dict(json.loads(json.dumps(module.as_dict())))
    assert again == module
    assert hash(again) == hash(module)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"path": "x"},
        "text",
        dict(parse().as_dict(), versions=[1]),
        dict(parse().as_dict(), extra=1),
    ],
)
def test_other_data_is_refused(data):
    with pytest.raises(KmodError) as caught:
        KernelModule.from_dict(data)
    assert caught.value.code == "MODULE_DATA"


@given(TABLES.filter(len))
@settings(max_examples=25, deadline=None)
def test_versions_as_ubuntu_keeps_them(needs):
    module = parse(versions=chained_table(list(needs.items())))
    assert module.chained_versions
    assert module.versions == tuple(Version(*each) for each in needs.items())


def test_name_of_modinfo_then_of_struct_module_then_of_the_file():
    assert parse(name="one-two").name == "one_two"
    assert parse(name="inside", modinfo={"name": None}).name == "inside"
    assert modules.parse(b"no module", "/lib/snd-hda.ko.xz").name == "snd_hda"


def test_first_value_counts():
    module = parse(modinfo={"license": "GPL"}, extra=[])
    assert module.license == "GPL" and module.depends == [] and module.built_for == RELEASE
    assert parse(modinfo={"depends": "a-b,c"}).depends == ["a_b", "c"]
    assert parse(firmware=["a.bin", "b.bin"], imports=["NS"]).firmware == ["a.bin", "b.bin"]


def test_the_digest_is_that_of_the_uncompressed_file(tmp_path):
    (tmp_path / "a.ko.gz").write_bytes(gzip.compress(ko()))
    assert modules.read(Host(str(tmp_path)), "/a.ko.gz").sha256 == hashlib.sha256(ko()).hexdigest()


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_damage_is_data_or_the_one_error(seed):
    source = random.Random(seed)
    data = bytearray(
        ko(
            exports=[Export("one", 7)],
            ext_versions=[("printk", 1)],
            extra=[Section(".BTF", bytes(30), flags=0)],
        )
    )
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(data) - 8)
        data[at : at + 8] = struct.pack(
            "<Q", source.choice([0, 1, 0xFF, 2**31, 2**32 - 1, 2**63, 2**64 - 1, source.getrandbits(64)])
        )
    data = data[: source.choice([len(data), len(data), source.randrange(len(data))])]
    try:
        module = modules.parse(bytes(data), "/vendor.ko")
    except KmodError:
        return
    assert KernelModule.from_dict(json.loads(json.dumps(module.as_dict()))) == module


@given(
    data=st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 255]), max_size=40).map(bytes),
    places=st.lists(
        st.tuples(st.integers(0, 45) | st.just(1 << 62), st.sampled_from(sorted(faults._X86_64))), max_size=6
    ),
)
@settings(max_examples=400, deadline=None)
def test_a_relocated_place_that_is_not_empty_is_found_as_by_looking_at_each(data, places):
    offsets, types = (array(code, column) for code, column in zip("QI", zip(*places) if places else ((), ())))
    filled = [offset for offset, kind in places if any(data[offset : offset + faults._X86_64[kind]])]
    assert faults._filled(data, offsets, types) == (filled[0] if filled else None)
