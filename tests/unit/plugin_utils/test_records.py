# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Host records are looked at before anything is counted."""

import copy
import json

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _records
from tests.forge import records


def refused(data, code="RECORD_DAMAGED"):
    with pytest.raises(KmodError) as caught:
        _records.validated(data, "host record 3")
    assert caught.value.code == code, caught.value
    return str(caught.value)


def test_a_record_is_taken_as_it_is_and_goes_through_json():
    made = records.record(
        verdicts=[dict(each, state="installed") for each in records.record()["verdicts"]],
        held=[{"what": "kernel", "kernel": None, "driver": ["vendor"], "reason": "no build"}],
    )
    assert _records.validated(json.loads(json.dumps(made))) == made


def test_keys_of_a_later_time_are_left_out_at_every_depth():
    made = _records.validated(records.record())
    more = copy.deepcopy(made)
    more["colour"] = more["lists"]["colour"] = more["verdicts"][0]["colour"] = ["red"]
    assert _records.validated(more) == made


def test_a_host_that_could_not_be_told_needs_no_more_than_its_name_and_why():
    record = _records.without("web1", "not reached")
    assert (record["error"], record["drivers"], record["running"]) == ("not reached", [], None)


def test_a_newer_record_is_refused_with_its_host_and_both_versions():
    text = refused(records.record(version=2), "RECORD_NEWER")
    assert "web1" in text and "version 2" in text and "up to 1" in text


@pytest.mark.parametrize("version", [None, "1", True, 0, -1, 1.5, [1]])
def test_what_is_no_version_is_damage(version):
    assert "version" in refused(records.record(version=version))


@pytest.mark.parametrize(
    "path, value",
    [
        (("host",), ""),
        (("host",), None),
        (("host",), 5),
        (("at",), 12),
        (("running",), ["6.1.0-47-amd64"]),
        (("drivers",), {"vendor": {}}),
        (("drivers", 0), "vendor"),
        (("drivers", 0, "driver"), None),
        (("drivers", 0, "builds", 0, "kernel"), 5),
        (("kernels", 1, "newest"), "yes"),
        (("kernels", 1, "state"), "gone"),
        (("kernels", 1, "packages", 0), None),
        (("lists", "age"), "old"),
        (("lists",), []),
        (("verdicts", 0, "verdict"), "maybe"),
        (("verdicts", 0, "verdict"), None),
        (("verdicts", 0, "exact"), 1),
        (("verdicts", 1, "symbols"), "put_page"),
        (("needs",), []),
        (("facts", "vendor"), []),
        (("today",), [{"text": "no kind"}]),
    ],
)
def test_damage_is_named_by_host_and_key(path, value):
    made = records.record()
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    text = refused(made)
    assert ("host record of web1" in text) or path == ("host",)
    assert str(path[0]) in text


@pytest.mark.parametrize("data", [None, [], "web1", 5])
def test_what_is_no_object_is_damage_named_by_its_place(data):
    assert "host record 3" in refused(data)


def test_a_long_name_does_not_fill_the_message():
    assert len(refused(records.record(host="h" * 10000, version="x"))) < 300


def test_hosts_come_in_the_order_of_people_and_the_latest_of_two_records_counts():
    hosts = [records.record(host) for host in ("web10", "web2", "db1")]
    later = records.record("web2", at="2026-11-28T06:00:00Z", running="new")
    found = _records.merged([later, *hosts])
    assert [record["host"] for record in found] == ["db1", "web2", "web10"]
    assert found[1]["running"] == "new"
