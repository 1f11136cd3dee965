# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is said of a module and a kernel."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

COMPATIBLE, INCOMPATIBLE, UNKNOWN = "compatible", "incompatible", "unknown"
REFUSE = "refuse"  # the loader refuses the module for this
TAINT = "taint"
DOUBT = "unknown"  # whether the loader refuses it cannot be told from here
NOTE = "note"  # never changes a verdict

_COUNTED = {  # what many findings of one kind are told as
    "SYMBOL_CRC": ("1 symbol differs", "{} symbols differ"),
    "SYMBOL_MISSING": ("1 symbol is missing", "{} symbols are missing"),
    "NO_SYMBOL_VERSION": ("1 symbol has no version", "{} symbols have no version"),
}


class Finding(NamedTuple):
    """One reason, of a kind named by ``code``. ``wanted`` is the module's side and ``found`` the kernel's.

    ``errno`` is what the loader returns for it and ``dmesg`` the line that it prints, as far as it has one.
    """

    code: str
    effect: str  # refuse, taint, unknown, note
    message: str
    symbol: Optional[str] = None
    wanted: Optional[str] = None
    found: Optional[str] = None
    errno: Optional[str] = None
    dmesg: Optional[str] = None

    def as_dict(self) -> Dict[str, Any]:
        """code, effect and message always; symbol, wanted and found where they say something."""
        answer = {"code": self.code, "effect": self.effect, "message": self.message}
        answer.update(
            (name, value)
            for name, value in (("symbol", self.symbol), ("wanted", self.wanted), ("found", self.found))
            if value is not None
        )
        return answer


class Provenance(NamedTuple):
    """Of a kernel that is not installed: where it was found, what of it cannot be seen there, and whether the
    verdict is what it will be.
    """

    origin: Tuple[str, ...]
    lacks: Tuple[str, ...]
    exact: bool

    def as_dict(self) -> Dict[str, Any]:
        return {"origin": list(self.origin), "lacks": list(self.lacks), "exact": self.exact}


class Verdict(NamedTuple):
    """The answer for one module (its path and name) on one kernel (its release).

    ``errno`` is that of the refusing loader, None unless incompatible; ``dmesg`` is the first line that it
    prints then.
    """

    module: str
    name: str
    kernel: str
    verdict: str  # compatible, incompatible, unknown
    errno: Optional[str]
    findings: Tuple[Finding, ...]
    dmesg: Optional[str] = None
    seen: Optional[Provenance] = None  # where the kernel is not installed

    @property
    def compatible(self) -> bool:
        return self.verdict == COMPATIBLE

    @property
    def reason(self) -> Optional[Finding]:
        """The finding that decides: the first that refuses, else the first that leaves it open."""
        for effect in (REFUSE, DOUBT):
            for finding in self.findings:
                if finding.effect == effect:
                    return finding
        return None

    @property
    def short(self) -> str:
        """That finding in a few words, told with all others of its kind: ``3 symbols differ
        (pci_enable_device, skb_put, ...)``.
        """
        first = self.reason
        if first is None:
            return ""
        return _counted([finding for finding in self.findings if finding.code == first.code]) or first.message

    def folded(self) -> List[Dict[str, Any]]:
        """The findings, those of one kind as one with their ``count``, in the order of the first of each."""
        kinds: Dict[Tuple[str, str], List[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault((finding.effect, finding.code), []).append(finding)
        return [
            each[0].as_dict()
            if len(each) == 1
            else {
                "code": each[0].code,
                "effect": each[0].effect,
                "count": len(each),
                "message": _counted(each) or "%s (and %d more like that)" % (each[0].message, len(each) - 1),
            }
            for each in kinds.values()
        ]

    def as_dict(self, folded: bool = False) -> Dict[str, Any]:
        return {
            "module": self.module,
            "name": self.name,
            "kernel": self.kernel,
            "verdict": self.verdict,
            "errno": self.errno,
            "findings": self.folded() if folded else [finding.as_dict() for finding in self.findings],
            **(self.seen.as_dict() if self.seen else {}),
        }


def _counted(findings: Sequence[Finding]) -> str:
    """``3 symbols differ (pci_enable_device, skb_put, ...)``; "" for what is not told by counting."""
    symbols = [finding.symbol for finding in findings if finding.symbol]
    code = findings[0].code
    if code not in _COUNTED or not symbols:
        return ""
    shown = ", ".join(symbols[:2]) + (", ..." if len(symbols) > 2 else "")
    return "%s (%s)" % (_COUNTED[code][len(symbols) > 1].format(len(symbols)), shown)
