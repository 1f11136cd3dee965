# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What manifests and marks store: read as it was written by any version, and nothing else taken for it."""

import gzip
import json

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import (
    existing,
    manifest,
    variant,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs.manifest import Added, Wants
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD, Machine
from tests.forge.ko import RELEASE, ko

WANTS = {
    "kernel": "6.1.0-1-test",
    "drivers": ["acme"],
    "early_load": False,
    "modules": [["acme", "aa"]],
    "base": {"path": "/boot/initrd", "size": 7, "sha256": "bb"},
}
CONTENTS = {
    "modules": [{"name": "acme", "path": "lib/acme.ko", "sha256": "aa", "version": None}],
    "dependencies": ["dep"],
    "firmware": ["lib/firmware/x"],
    "firmware_missing": [],
    "mark": "cc",
}


def without(stored, key):
    return {name: value for name, value in stored.items() if name != key}


def test_what_is_stored_is_what_was_read():
    assert Wants.from_dict(WANTS).as_dict() == WANTS
    assert Added.from_dict(CONTENTS).as_dict() == CONTENTS


def test_a_manifest_has_the_bytes_that_it_always_had():
    text = manifest.text(
        Wants.from_dict(WANTS), "overlay", Added.from_dict(CONTENTS), head=(1, "dd"), segment=(2, "ee")
    )
    stored = json.loads(text)
    stored.pop("sha256")
    assert stored == {
        "format": 1,
        "wants": WANTS,
        "method": "overlay",
        "head": [1, "dd"],
        "segment": [2, "ee"],
        "contents": CONTENTS,
    }
    assert (
        Wants.from_dict(WANTS).identity == "ffa04746e1a0afc8cdb50615694879a78aedfa95cf9b48bbfe57fc9e3fc1f34f"
    )


def test_a_manifest_of_a_version_that_made_no_marks_is_read():
    assert Added.from_dict(without(CONTENTS, "mark")).mark == ""


def test_what_a_later_version_has_written_besides_is_kept_and_is_not_the_same():
    later = dict(WANTS, later={"a": [1]})
    assert Wants.from_dict(later).as_dict() == later
    assert Wants.from_dict(later) != Wants.from_dict(WANTS)


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": "../../etc"},
        {"kernel": 5},
        {"drivers": []},
        {"drivers": "acme"},
        {"drivers": ["a/b"]},
        {"modules": [["acme"]]},
        {"modules": [["a b", "aa"]]},
        {"modules": [["acme", 1]]},
        {"base": None},
        {"base": {"path": "/boot/x", "size": "7", "sha256": "bb"}},
        {"base": {"path": None, "size": 7, "sha256": "bb"}},
    ],
    ids=str,
)
def test_wants_that_were_not_written_here_are_nobodys(change):
    with pytest.raises((ValueError, TypeError, KeyError, KmodError)):
        Wants.from_dict(dict(WANTS, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"modules": [{}]},
        {"modules": [{"name": 1, "path": "", "sha256": "", "version": ""}]},
        {"firmware": "text"},
        {"dependencies": [None]},
        {"mark": ["x"]},
        {"firmware_missing": {"a": 1}},
    ],
    ids=str,
)
def test_contents_that_were_not_written_here_are_nobodys(change):
    with pytest.raises((ValueError, TypeError, KeyError)):
        Added.from_dict(dict(CONTENTS, **change))


@pytest.fixture
def host(tmp_path):
    machine = Machine(tmp_path / "host")
    machine.image(gzip.compress(cpio({"init": b"#!/bin/sh\n"})))
    machine.module("extra/acme/acme.ko", ko("acme"))
    machine.module("extra/other/other.ko", ko("other"))
    return Host(str(machine.root))


@pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")
def test_variants_that_are_planned_in_one_go_get_names_of_their_own(host):
    whole, first = variant.present(host, variant.Recipe(("acme",)), [RELEASE])
    more, second = variant.present(host, variant.Recipe(("other",)), [RELEASE], before=whole)
    whole.extend(more)
    whole.apply()
    base = "/boot/initrd.img-" + RELEASE
    assert [answer.rows[0].path for answer in (first, second)] == [base + ".1", base + ".2"]
    assert [(seen.path[-2:], seen.drivers, seen.state) for seen in existing.overview(host)] == [
        (".1", ("acme",), "current"),
        (".2", ("other",), "current"),
    ]
