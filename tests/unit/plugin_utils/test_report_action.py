# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kmod_report takes for the fleet, and how it writes its files."""

import os
import stat

import pytest

from ansible_collections.outoftree.kmod.plugins.action import kmod_report
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _records, _report
from tests.forge import records


def asked(play, **answers):
    """(host, error) of each record, by what is known in a play of these hosts."""
    known = {"ansible_play_hosts_all": play, "groups": {"all": list(answers)}, "hostvars": answers}
    return [(each["host"], each["error"]) for each in _records.merged(kmod_report.told(known))]


def looked(**answer):
    return {"kmod_looked": answer}


def test_every_host_that_was_asked_is_in_the_report_whatever_it_answered():
    assert asked(
        ["a", "b", "c", "d", "e"],
        a=looked(record=records.record("/srv/root")),  # its name in the inventory counts
        b=looked(failed=True, msg="no such driver"),
        c=looked(unreachable=True, msg="Failed to connect"),
        d={},
        e={"kmod_preflight": records.record("e"), **looked(msg="older")},
        other={},
    ) == [
        ("a", None),
        ("b", "no such driver"),
        ("c", "Failed to connect"),
        ("d", "The host was not asked, or not reached."),
        ("e", None),
    ]


def test_of_two_answers_of_a_host_the_later_one_counts():
    early, late = records.record("a"), records.record("a", at="2026-11-27T07:00:00Z", error="x")
    assert asked(["a"], a={"kmod_preflight": early, **looked(record=late)}) == [("a", "x")]
    assert asked(["a"], a={"kmod_preflight": late, **looked(record=early)}) == [("a", "x")]


def test_a_play_of_the_controller_tells_of_the_hosts_of_the_play_before_and_not_of_itself():
    answers = {"a": looked(record=records.record()), "b": {}, "localhost": {}}
    assert asked(["localhost"], **answers) == [("a", None)]
    assert asked(["localhost"], a={}) == []


def test_there_need_be_no_earlier_report_in_the_place_of_the_new_one_and_elsewhere_there_must(tmp_path):
    own = str(tmp_path / "report.json")
    assert kmod_report.earlier(None, own) is None
    assert kmod_report.earlier(own, own) is None
    with pytest.raises(KmodError) as caught:
        kmod_report.earlier(str(tmp_path / "other.json"), own)
    assert caught.value.code == "PATH_MISSING"
    kmod_report.put(own, _report.text(_report.made([])).encode())
    assert kmod_report.earlier(own, own)["whole"]["counts"]["hosts"] == 0


def test_files_are_whole_or_not_there_and_have_the_mode_of_new_ones(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.md"
    kmod_report.put(str(path), b"text")
    mask = os.umask(0)
    os.umask(mask)
    assert path.read_bytes() == b"text"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask

    def fails(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KmodError) as caught:
        kmod_report.put(str(path), b"other")
    assert caught.value.code == "ENOSPC"
    assert path.read_bytes() == b"text"
    assert os.listdir(path.parent) == ["report.md"]


def test_a_directory_that_cannot_be_one_is_an_error_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KmodError) as caught:
        kmod_report.put(str(tmp_path / "file" / "report.md"), b"")
    assert caught.value.code in ("EEXIST", "ENOTDIR") and "file" in str(caught.value)
