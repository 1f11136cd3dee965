# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A variant that is too damaged to say whose it is: the mark beside it says so, and by itself proves nothing."""

import gzip
import json
import os
import random
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing, variant, witness
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD, Machine
from tests.forge.ko import RELEASE, ko

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")

REQUEST = variant.Recipe(("acme",))
NOISE = random.Random(1).randbytes(40000)


def flipped(at):
    return lambda data: data[: at % len(data)] + bytes([data[at] ^ 1]) + data[at % len(data) + 1 :]


BROKEN = {
    "no bytes": lambda data: b"",
    "one byte": lambda data: data[:1],
    "a few": lambda data: data[:100],
    "one piece and a half": lambda data: data[:1500],
    "half": lambda data: data[: len(data) // 2],
    "all but one": lambda data: data[:-1],
    "without the manifest": lambda data: data[:-3000],
    "nothing but NULs": lambda data: bytes(len(data)),
    "NULs from the middle on": lambda data: data[: len(data) // 2] + bytes(len(data) // 2),
    "tail flipped": lambda data: data.replace(b'"acme"', b'"acne"', 1),
    "head flipped": flipped(5),
    "last byte flipped": flipped(-1),
    "tail overwritten": lambda data: data[:-2000] + NOISE[:2000],
}
THEIRS = {
    "another image": lambda data: gzip.compress(cpio({"init": b"theirs", "more": NOISE})),
    "a copy of the shipped image": lambda data: data[: witnessed(data)],
    "a text": lambda data: b"notes\n",
    "a longer file": lambda data: data + NOISE,
    "noise of the same length": lambda data: (NOISE * 9)[: len(data)],
    "a broken image of another make": lambda data: gzip.compress(cpio({"init": NOISE}))[:9000],
}


def witnessed(data):
    """The length of the shipped image in a variant."""
    found = json.loads(data[data.rindex(b'{\n "contents"') : data.rindex(b"070701")].rstrip(b"\0").decode())
    return found["wants"]["base"]["size"]


@pytest.fixture(params=["overlay", "segment"])
def machine(request, tmp_path):
    made = Machine(tmp_path / "host")
    made.image(gzip.compress(cpio({"init": b"#!/bin/sh\n", "noise": NOISE[:9000]})))
    made.module("extra/acme/acme.ko", ko("acme", filler=NOISE[:6000]))
    made.request = REQUEST._replace(method=request.param)
    return made


def host(machine):
    return Host(str(machine.root))


def present(machine):
    plan, answer = variant.present(host(machine), machine.request)
    result = answer.applied(plan.apply()).as_dict()
    return result["variants"][0]


def absent(machine):
    plan, answer = variant.absent(host(machine), ["acme"])
    result = answer.applied(plan.apply()).as_dict()
    return result["variants"]


def states(machine):
    return [(row.path[-2:], row.state) for row in existing.overview(host(machine))]


@pytest.mark.parametrize("how", sorted(BROKEN))
def test_a_broken_variant_is_shown_as_damaged_made_again_and_removed(machine, how):
    before = machine.all_in_boot()
    present(machine)
    whole, mark = machine.variant().read_bytes(), machine.mark().read_bytes()
    machine.variant().write_bytes(BROKEN[how](whole))
    assert machine.variant().read_bytes() != whole
    assert states(machine) == [(".1", "damaged")]
    with pytest.raises(KmodError) as caught:
        existing.verified(host(machine), RELEASE, ["/boot/" + machine.variant().name])
    assert caught.value.code == "VARIANT_DAMAGED"
    row = present(machine)
    assert (row["status"], row["path"][-2:]) == ("replaced", ".1")
    assert machine.variant().read_bytes() == whole and machine.mark().read_bytes() == mark
    machine.variant().write_bytes(BROKEN[how](whole))
    assert [row["status"] for row in absent(machine)] == ["removed"]
    assert machine.all_in_boot() == before


@pytest.mark.parametrize("how", sorted(THEIRS))
def test_what_somebody_else_has_put_there_is_left_alone_and_said(machine, how):
    if how == "a copy of the shipped image" and machine.request.method == "segment":
        pytest.skip("a segment has no copy in it")
    present(machine)
    theirs = THEIRS[how](machine.variant().read_bytes())
    machine.variant().write_bytes(theirs)
    if how == "a longer file":
        theirs = machine.variant().read_bytes()[:-300] + NOISE[:300]  # with no manifest near its end
        machine.variant().write_bytes(theirs + NOISE * 7)
        theirs = machine.variant().read_bytes()
    mark = machine.mark().read_bytes()
    assert states(machine) == [(".1", "foreign")]
    assert [row["status"] for row in absent(machine)] == ["foreign"]
    assert machine.variant().read_bytes() == theirs and not machine.mark().exists()
    machine.mark().write_bytes(mark)  # one that came with a restored tree
    assert variant.present(host(machine), machine.request)[1].foreign == ("/boot/" + machine.variant().name,)
    assert present(machine)["path"].endswith(".2")
    assert machine.variant().read_bytes() == theirs and not machine.mark().exists()
    assert states(machine) == [(".2", "current")]
    assert not variant.present(host(machine), machine.request)[0]


def test_the_mark_is_there_before_the_variant_and_goes_after_it(machine):
    plan, _result = variant.present(host(machine), machine.request)
    assert plan.paths() == ["/boot/" + machine.mark().name, "/boot/" + machine.variant().name]
    plan.apply()
    assert machine.mark().stat().st_mode & 0o777 == 0o600
    assert variant.absent(host(machine), ["acme"])[0].paths() == [
        "/boot/" + machine.variant().name,
        "/boot/" + machine.mark().name,
    ]


def test_a_variant_that_cannot_be_replaced_keeps_its_mark(machine, monkeypatch):
    present(machine)
    before = machine.snapshot()
    machine.module("extra/acme/acme.ko", ko("acme", filler=b"2"))
    plan, _result = variant.present(host(machine), machine.request)
    real = Host.replace

    def replace(self, path, *arguments, **options):
        if path.endswith(".1"):
            raise KmodError(path, "no space")
        real(self, path, *arguments, **options)

    monkeypatch.setattr(Host, "replace", replace)
    with pytest.raises(KmodError):
        plan.apply()
    monkeypatch.undo()
    after = machine.snapshot()
    assert {path: after[path] for path in after if "/boot/" in path} == {
        path: before[path] for path in before if "/boot/" in path
    }


@pytest.mark.parametrize("done", range(1, 3))
def test_a_run_that_is_cut_off_is_made_good_by_the_next_and_by_removal(machine, done):
    before = machine.snapshot()
    for mend in (present, absent):
        for make in (variant.present, lambda host, _request: variant.absent(host, ["acme"])):
            if make is not variant.present:
                present(machine)
            plan, _result = make(host(machine), machine.request)
            plan.steps = plan.steps[:done]
            plan.apply()
            mend(machine)
            if mend is present:
                assert (
                    states(machine) == [(".1", "current")]
                    and not variant.present(host(machine), machine.request)[0]
                )
            absent(machine)
            assert machine.snapshot() == before


def test_a_variant_of_an_older_version_has_no_mark_and_gets_one(machine):
    present(machine)
    mark = machine.mark().read_bytes()
    machine.mark().unlink()
    assert states(machine) == [(".1", "current")]
    assert present(machine)["status"] == "current" and machine.mark().read_bytes() == mark
    machine.mark().unlink()
    assert [row["status"] for row in absent(machine)] == ["removed"] and not machine.variant().exists()


def test_without_a_mark_what_has_lost_its_manifest_is_nobodys(machine):
    present(machine)
    machine.mark().unlink()
    machine.variant().write_bytes(b"")
    assert present(machine)["path"].endswith(".2") and machine.variant().read_bytes() == b""


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[" * 100000, b"\xff", b'{"format": 1}', None, "link", "directory", "fifo"]
)
def test_a_mark_that_is_none_of_ours_changes_nothing(machine, text):
    machine.variant().write_bytes(b"")
    if text == "link":
        machine.mark().symlink_to("/etc/passwd")
    elif text == "directory":
        machine.mark().mkdir()
    elif text == "fifo":
        os.mkfifo(str(machine.mark()))
    elif text is not None:
        machine.mark().write_bytes(text)
    assert states(machine) == []
    assert present(machine)["path"].endswith(".2") and machine.variant().read_bytes() == b""


@pytest.mark.parametrize(
    "change",
    [
        {"drivers": ["../../x"]},
        {"drivers": ["a\nb"]},
        {"drivers": []},
        {"kernel": "../etc"},
        {"kernel": 7},
        {"base": None},
    ],
)
def test_names_in_a_mark_are_input(machine, change):
    present(machine)
    machine.variant().write_bytes(b"")
    data = json.loads(machine.mark().read_bytes().decode())
    data["wants"].update(change)
    machine.mark().write_text(json.dumps(data))
    assert witness.find(host(machine), "/boot/" + machine.variant().name) is None


def test_a_number_whose_mark_cannot_be_written_is_passed_over(machine):
    machine.mark().mkdir()
    assert present(machine)["path"].endswith(".2")


def test_a_mark_of_a_kernel_that_is_gone_goes_with_the_driver(machine):
    present(machine)
    machine.variant().unlink()
    shutil.rmtree(str(machine.modules))
    absent(machine)
    assert machine.all_in_boot() == [machine.base.name, "vmlinuz-" + RELEASE]


def test_a_mark_whose_variant_came_to_lie_elsewhere_goes_with_the_next_run(machine):
    machine.variant().write_bytes(b"theirs")
    plan, _result = variant.present(host(machine), machine.request)
    plan.steps = plan.steps[:1]
    plan.apply()
    machine.variant().unlink()
    assert (
        machine.mark(2).exists() and present(machine)["path"].endswith(".1") and not machine.mark(2).exists()
    )
    assert not variant.present(host(machine), machine.request)[0]
