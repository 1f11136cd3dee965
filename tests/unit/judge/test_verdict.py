# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a verdict is told: each finding, or each kind of them."""

from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import (
    INCOMPATIBLE,
    NOTE,
    REFUSE,
    Finding,
    Verdict,
)


def verdict(*findings):
    return Verdict("/m.ko", "m", "6.1", INCOMPATIBLE, "EINVAL", tuple(findings))


def crc(symbol, effect=REFUSE):
    return Finding("SYMBOL_CRC", effect, "the version of %s differs" % symbol, symbol, "0x1", "0x2")


def test_findings_of_one_kind_are_one_with_their_number():
    found = verdict(
        crc("a"), Finding("WARN_OOT", "taint", "taints"), crc("b"), crc("c"), crc("d", NOTE)
    ).as_dict(folded=True)["findings"]
    assert found == [
        {"code": "SYMBOL_CRC", "effect": "refuse", "count": 3, "message": "3 symbols differ (a, b, ...)"},
        {"code": "WARN_OOT", "effect": "taint", "message": "taints"},
        # another effect is another kind; one alone is told whole
        crc("d", NOTE).as_dict(),
    ]


def test_what_is_not_counted_by_symbols_is_told_by_the_first():
    notes = [Finding("OPTION_UNKNOWN", NOTE, "sets %s" % name, wanted=name) for name in "xyz"]
    assert verdict(*notes).folded() == [
        {"code": "OPTION_UNKNOWN", "effect": "note", "count": 3, "message": "sets x (and 2 more like that)"}
    ]


def test_each_is_there_where_that_is_asked():
    assert len(verdict(crc("a"), crc("b")).as_dict()["findings"]) == 2
