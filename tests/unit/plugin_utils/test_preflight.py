# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels on offer that are judged on the controller for all hosts: as each host would have, and read once."""

import hashlib
import json
import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import preflight
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.subject import Subject
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_package
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_package import KernelSource
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import offers
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered.manager import (
    OfferedKernel,
    OfferedPackage,
    Offers,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import Runtime
from ansible_collections.outoftree.kmod.plugins.module_utils.read.signature import Certificate
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files, _packages, _preflight, _records
from tests.forge import families, kernels
from tests.forge.ko import ko
from tests.forge.package import deb

OLD, NEW = "6.1.0-9-amd64", "6.1.0-10-amd64"
PACKAGE = OfferedPackage("linux-headers-" + NEW, "6.1.10-1", "amd64")


@pytest.fixture(autouse=True)
def private(tmp_path, monkeypatch):
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(_files, "private", lambda: str(tmp_path / "private"))


class Manager(offers.PackageManager):
    """A fake one that offers a kernel."""

    name = "fake"
    age = 3600

    def offers(self, asking, which):
        return Offers("fake", self.age, (OfferedKernel(NEW, (PACKAGE,), (), newest=True),))

    def fetch(self, asking, packages, directory):
        with open(os.path.join(directory, "headers.deb"), "wb") as handle:
            handle.write(deb(files=kernels.headers(NEW)))


@pytest.fixture
def look(tmp_path, monkeypatch):
    """look(host, driver's bytes): what kmod_preflight answers for a host with ``cache``, and what it would without."""
    monkeypatch.setattr(offers, "detect", lambda host: Manager())

    def make(host, data, cached=True):
        root = tmp_path / host
        families.kernel(root, OLD)
        (root / "vendor.ko").write_bytes(data)
        asked = preflight.Options(
            given=(preflight.GivenDriver("vendor", ("/vendor.ko",)),),
            kernel=(KernelSource(offered="newest"),),
            defer=True,
        )
        _plan, answer = preflight.run(Host(str(root)), asked)
        found = json.loads(json.dumps(answer.as_dict()))
        found["record"].update(host=host)
        found["subject"] = _packages.kept(found["subject"])
        (offer,) = found["deferred"]
        where = _packages.place(str(tmp_path / "cache"), found["record"], offer["small"])
        with _packages.mine(where):
            if cached and not _packages.there(where):
                with _packages.new(where) as directory:
                    Manager().fetch(None, (), directory)
        found["deferred"] = [dict(offer, cached=where, asked_whole=False)]
        _plan, whole = preflight.run(Host(str(root)), asked._replace(defer=False))
        return found, dict(json.loads(json.dumps(whole.record)), host=host)

    return make


FITS, REFUSED = (
    ko("vendor", [("kfree", 0x33), ("module_layout", 0x11)]),
    ko("vendor", [("kfree", 1), ("module_layout", 0x11)]),
)


def test_the_records_are_those_that_the_hosts_would_have_made(look):
    looks, expected = {}, {}
    for host, data in (("web1", FITS), ("web2", FITS), ("db1", REFUSED)):
        looks[host], expected[host] = look(host, data)
    found = _preflight.records(looks)
    assert [row["verdict"] for host in found for row in found[host]["verdicts"]] == [
        *("compatible", "compatible") * 2,
        *("incompatible", "incompatible"),
    ]
    for host, record in found.items():
        assert dict(json.loads(json.dumps(record)), at="") == dict(expected[host], at="")
        assert _records.validated(record)


def test_a_kernel_is_read_once_and_equal_hosts_are_judged_once(look, monkeypatch):
    looks = {host: look(host, data)[0] for host, data in (("web1", FITS), ("web2", FITS), ("db1", REFUSED))}
    calls = []
    for module, name in ((kernel_package, "of_fetched"), (preflight, "judged_offer")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, real=real, name=name, **more: calls.append(name) or real(*args, **more),
        )
    _preflight.records(looks)
    assert sorted(calls) == ["judged_offer", "judged_offer", "of_fetched"]


def test_what_holds_on_a_host_counts_for_that_host_alone(look):
    """Here: that it takes no unsigned modules, and which keys it has enrolled."""
    looks = {host: look(host, FITS)[0] for host in ("plain", "locked")}
    subject = Subject.from_dict(_packages.subject(looks["locked"]["subject"]))
    locked = subject._replace(runtime=Runtime(sig_enforce=True, lockdown=True))
    looks["locked"]["subject"] = _packages.kept(locked.as_dict())
    found = _preflight.records(looks)
    verdict = {
        host: [row for row in record["verdicts"] if row["kernel"] == NEW][0] for host, record in found.items()
    }
    assert verdict["plain"]["verdict"] == "compatible"
    assert (verdict["locked"]["verdict"], verdict["locked"]["codes"]) == ("incompatible", ["SIG_REQUIRED"])


def test_what_a_host_has_told_survives_the_way():
    runtime = Runtime(
        sig_enforce=True,
        blacklist=frozenset({"b", "a"}),
        keys=frozenset({"key"}),
        enrolling=(Certificate("New", "New", "2", "cd", b"\x30\x03"),),
        enrolled=(Certificate("Owner", "Owner", "1", "ab", b"\x30\x01", whole=b"\x30\x02"),),
        mok_trusted=True,
    )
    subject = Subject({}, runtime, "6.1 SMP ")
    assert Subject.from_dict(json.loads(json.dumps(subject.as_dict()))) == subject
    with pytest.raises(KmodError) as caught:
        Subject.from_dict({"drivers": {}})
    assert caught.value.code == "MODULE_DATA"


def test_a_host_that_did_not_answer_has_a_record_that_says_so(look):
    found = _preflight.records(
        {"away": {"unreachable": True, "msg": "No route to host"}, "web1": look("web1", FITS)[0]}
    )
    assert (found["away"]["error"], found["away"]["verdicts"]) == ("No route to host", [])
    assert _preflight.lost(found["away"], "offered") == ["No route to host"]
    assert _preflight.lost(found["web1"], "offered") == _preflight.lost(found["away"], "none") == []


@pytest.mark.parametrize("damage", ["changed", "gone", "never fetched"])
def test_packages_that_are_not_as_they_were_fetched_leave_it_open(damage, look):
    looks = {"web1": look("web1", FITS, cached=damage != "never fetched")[0]}
    (offer,) = looks["web1"]["deferred"]
    if damage == "never fetched":
        looks["web1"]["deferred"] = [dict(offer, error="apt: no answer", code="OFFERED_UNREACHABLE")]
        del looks["web1"]["deferred"][0]["cached"]
    elif damage == "gone":
        os.unlink(os.path.join(offer["cached"], "headers.deb"))
    else:
        with open(os.path.join(offer["cached"], "headers.deb"), "ab") as handle:
            handle.write(b"x")
    (record,) = _preflight.records(looks).values()
    row = [row for row in record["verdicts"] if row["kernel"] == NEW][0]
    code = "OFFERED_UNREACHABLE" if damage == "never fetched" else "OFFERED_DAMAGED"
    assert (row["verdict"], row["codes"], record["lists"]["code"]) == ("unknown", [code], code)
    assert record["error"]


def test_other_packages_and_other_distributions_are_other_places(tmp_path):
    record = {"distribution": "debian 12", "machine": "x86_64", "lists": {"manager": "apt"}}
    package = PACKAGE._asdict()
    one = _packages.place(str(tmp_path), record, [package])
    assert one == _packages.place(str(tmp_path), dict(record, host="other"), [dict(package)])
    others = {
        _packages.place(str(tmp_path), dict(record, distribution="debian 13"), [package]),
        _packages.place(str(tmp_path), dict(record, machine="aarch64"), [package]),
        _packages.place(str(tmp_path), record, [dict(package, version="6.1.10-2")]),
        _packages.place(str(tmp_path), record, [dict(package, digest="other")]),
        _packages.place(str(tmp_path), record, [dict(package, repository="other")]),
    }
    assert len(others | {one}) == 6


def test_a_host_cannot_hand_over_another_package_than_the_lists_have(tmp_path):
    """Where they have its digest: all hosts that are offered it are judged by that file."""
    path = tmp_path / "headers.deb"
    path.write_bytes(b"something")
    sent = hashlib.sha256(b"something").hexdigest()
    _packages.check(str(path), sent, [dict(PACKAGE._asdict(), digest=sent)])
    _packages.check(str(path), sent, [PACKAGE._asdict()])
    for digest, listed in (("0" * 64, sent), (sent, "0" * 64)):
        with pytest.raises(KmodError) as caught:
            _packages.check(str(path), digest, [dict(PACKAGE._asdict(), digest=listed)])
        assert caught.value.code == "OFFERED_DAMAGED"
