# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fleet report: the same of the same records, true to what changed, and safe with any name."""

import base64
import hashlib
import html.parser
import json
import random
import re

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import (
    _records,
    _report,
    _report_html,
    _report_markdown,
    _report_words,
)
from tests.forge import records
from tests.forge.records import fits, kernel, record, refused, release, today, untold

OLD, NEW = release(47), release(50)
WELL = [fits("vendor", OLD, OLD), fits("vendor", NEW, OLD)]


def made(*hosts, earlier=None, **given):
    return _report.made(_records.merged(hosts), earlier, **given)


def again(report):
    return _report.read(_report.text(report).encode(), "report.json")


# report.json


def test_the_same_records_in_any_order_give_the_same_bytes():
    hosts = records.fleet(hosts=80, shapes=30)
    mixed = random.Random(1).sample(hosts, len(hosts))
    one, other = made(*hosts), made(*mixed)
    for form in (_report.text, _report_html.rendered, _report_markdown.rendered):
        assert form(one) == form(other), form


def test_a_report_of_no_hosts_is_one():
    empty = made()
    assert empty["counts"]["hosts"] == 0
    assert "no hosts" in _report_html.rendered(empty) and "no hosts" in _report_markdown.rendered(empty)
    assert list(_report_words.steps(empty)) == []


def test_a_fleet_that_stays_well_has_nothing_to_do():
    report = made(record("a", verdicts=WELL), record("b", verdicts=WELL))
    assert list(_report_words.steps(report)) == []
    assert "Nothing. Every host keeps its drivers" in _report_html.rendered(report)
    assert "Nothing. Every host keeps its drivers" in _report_markdown.rendered(report)


def test_a_fleet_without_a_driver_is_told_that_nothing_was_judged():
    (step,) = _report_words.steps(made(record("a", drivers=[], verdicts=[])))
    assert "No host has a driver" in step.why
    assert step.what in _report_html.rendered(made(record("a", drivers=[], verdicts=[])))


def test_what_to_do_comes_by_urgency_with_the_hosts_that_it_is_about():
    hold = {"what": "kernel", "kernel": NEW, "driver": ["vendor"], "reason": "no build"}
    report = made(
        record("lost"),
        record("held", held=[hold]),
        record("unsaid", verdicts=[untold("vendor", NEW)]),
        record(
            "late",
            verdicts=WELL[:1],
            kernels=[kernel(OLD, "running")],
            today=[today("reboot_pending", "older", None, OLD)],
        ),
        record("key", verdicts=[refused("vendor", NEW, ["SIG_REQUIRED"], [])]),
    )
    assert [step.what for step in _report_words.steps(report)] == [
        "Do not update 2 hosts yet",
        "Make 1 build",
        "Look at keys and settings of 1 host",
        "Find out about 1 host",
        "Pending reboots on 1 host",
    ]


# What changed


def test_what_changed_is_told_by_host_state_verdict_kernel_build_and_problem():
    before = made(
        record("a", verdicts=WELL),
        record("b"),
        record("gone"),
        record("c", today=[today("stale_image", "x")]),
    )
    newest = release(53)
    moved = record(
        "c",
        verdicts=[*WELL, refused("vendor", newest)],
        kernels=[kernel(OLD, "running"), kernel(newest, "offered", True)],
        facts={"vendor": {newest: records.facts(newest, put_page=5), OLD: records.facts(OLD, put_page=1)}},
    )
    changes = made(record("a"), record("b", verdicts=WELL), moved, record("new"), earlier=again(before))[
        "changes"
    ]
    assert (changes["new"], changes["gone"]) == (["new"], ["gone"])
    assert changes["states"] == [
        {"before": "well", "now": "loses", "hosts": ["a"]},
        {"before": "loses", "now": "well", "hosts": ["b"]},
    ]
    assert [(row["before"], row["now"], row["hosts"]) for row in changes["verdicts"]] == [
        ("compatible", "incompatible", ["a"]),
        ("incompatible", "compatible", ["b", "c"]),
    ]
    assert changes["kernels"] == {"new": [[newest, "x86_64"]], "gone": []}
    assert changes["builds"]["new"] == [["vendor", "1.0", "x86_64", newest]]
    assert changes["today"] == [{"kind": "stale_image", "before": 1, "now": 0}]
    assert changes["counts"] == {"loses": 3, "lacks": 0, "untold": 0, "well": 1}


def test_a_report_that_is_made_twice_in_one_place_does_not_lose_what_changed():
    first = made(record("a", verdicts=WELL))
    second = made(record("a"), earlier=again(first), replaces=True)
    assert second["changes"]["states"]
    assert made(record("a"), earlier=again(second), replaces=True) == second
    # of one kept elsewhere, it is said that nothing changed
    assert made(record("a"), earlier=again(second))["changes"]["states"] == []


@pytest.mark.parametrize(
    "data, code",
    [
        (b"", "REPORT_DAMAGED"),
        (b"{}", "REPORT_DAMAGED"),
        (b"[1]", "REPORT_DAMAGED"),
        (b"\xff", "REPORT_DAMAGED"),
        (b"[" * 100000, "REPORT_DAMAGED"),
        (b'{"version": 2}', "REPORT_NEWER"),
        (b'{"version": 1, "groups": [{"hosts": "a"}]}', "REPORT_DAMAGED"),
    ],
)
def test_an_earlier_report_that_is_newer_or_damaged_is_refused_by_its_name(data, code):
    with pytest.raises(KmodError) as caught:
        _report.read(data, "/srv/report.json")
    assert caught.value.code == code
    assert "/srv/report.json" in str(caught.value)


# Names that would do harm


class Page(html.parser.HTMLParser):
    """The elements and attributes of a page, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.ids, self.links, self.texts, self.raw = [], [], [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data):
        inside = self.elements[-1][0] if self.elements else ""
        if inside in ("style", "script") and inside not in self.raw:
            self.raw[inside] = data
        self.texts.append(data)


@pytest.fixture(scope="module")
def hurt():
    before = made(*records.hostile(), record("a", verdicts=WELL))
    return made(*list(records.hostile())[1:], record("b", verdicts=WELL), earlier=again(before))


def test_names_with_markup_are_text_on_the_page(hurt):
    page = Page(_report_html.rendered(hurt))
    allowed = {
        "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "h4", "p", "nav", "ul",
        "ol", "li", "main", "section", "strong", "small", "svg", "rect", "div", "table", "caption", "thead", "tbody",
        "tr", "th", "td", "details", "summary", "code", "span", "label", "input", "select", "option", "output", "br",
        "footer", "script",
    }  # fmt: skip
    assert {tag for tag, _attrs in page.elements} <= allowed
    assert [tag for tag, _attrs in page.elements].count("script") == 1
    assert not any(
        name.startswith("on") or name == "style" for _tag, attrs in page.elements for name in attrs
    )
    assert "<script>window.hurt=1</script>" in "".join(page.texts)
    assert "49" not in "".join(page.texts).split("{{ 7 * 7 }}")[1][:5]
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", each) for each in page.ids)


def test_every_link_leads_to_one_place_of_the_page(hurt):
    for report in (hurt, made(*records.fleet(hosts=60, shapes=30))):
        page = Page(_report_html.rendered(report))
        assert len(set(page.ids)) == len(page.ids)
        assert {link[1:] for link in page.links} <= set(page.ids)
        assert all(link.startswith("#") for link in page.links)


def test_the_policy_lets_only_what_was_written_here_run(hurt):
    page = Page(_report_html.rendered(hurt))
    (policy,) = [attrs["content"] for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for element in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[element].encode()).digest()).decode()
        assert "%s-src 'sha256-%s'" % (element, digest) in policy


def test_no_control_characters_no_lone_surrogates_and_no_endless_names_are_on_the_page(hurt):
    for text in (_report_html.rendered(hurt), _report_markdown.rendered(hurt)):
        text.encode("utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
        assert "n" * 2001 not in text


def test_names_mean_nothing_in_markdown(hurt):
    text = _report_markdown.rendered(hurt)
    assert not re.search(r"(?<!\\)<", text)
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 6), line


def test_all_of_a_name_is_in_the_json(hurt):
    text = _report.text(hurt)
    assert text.isascii()
    assert "n" * 10000 in text
    assert json.loads(text) == hurt
