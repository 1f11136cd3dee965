# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The core's verdicts beside the answers of real kernels."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import (
    COMPATIBLE,
    DOUBT,
    INCOMPATIBLE,
    REFUSE,
    UNKNOWN,
    Verdict,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels, ko
from tests.kernel.machine import Answer
from tests.lab import debian, drivers

HERE = Path(__file__).resolve().parent
SYMBOL_RULES = ("SYMBOL_", "NO_SYMBOL_VERSION", "NS_", "DEP_")


class Compared(NamedTuple):
    """How many modules were judged by both, and where they differ, one line each.

    The kernel ``fell`` over some; ``open`` are those that the core calls unknown, with their codes.
    """

    judged: int
    differ: List[str]
    fell: List[str]
    open: List[str]


def cases(kernel: debian.Image) -> Dict[str, bytes]:
    """The small modules of tests/kernel/cases, by name, compiled for a kernel."""
    built = drivers.compiled("cases", HERE / "cases", kernel, 'make -C "$kernel_source_dir" M="$PWD" modules')
    return {path.stem: path.read_bytes() for path in built}


def core(kernel: debian.Image) -> kernels.Kernel:
    """The kernel as the core sees it, which has no symvers at hand."""
    return kernels.kernel(Host(str(debian.tree(kernel))), kernel.release)


def verdict(
    kernel: kernels.Kernel,
    data: bytes,
    providers: Sequence[bytes] = (),
    name: str = "module",
    **facts: object,
) -> Verdict:
    """The core's verdict on the last of some modules that are loaded one after the other."""
    modules = [ko.parse(each, "provider-%d.ko" % number) for number, each in enumerate(providers)] + [
        ko.parse(data, name)
    ]
    return loader.judge(kernel, modules, **facts)[-1]  # type: ignore[arg-type]


def group(kernel: kernels.Kernel, modules: Sequence[bytes]) -> List[Verdict]:
    """The core's verdicts on a driver's modules."""
    return loader.judge(
        kernel, [ko.parse(data, "module-%d.ko" % number) for number, data in enumerate(modules)]
    )


def compare(answers: Sequence[Answer], verdicts: Dict[str, Verdict]) -> Compared:
    differ = []
    fell = [answer.label for answer in answers if answer.errno == "CRASH"]
    both = [answer for answer in answers if answer.label in verdicts and answer.errno != "CRASH"]
    unknown = []
    for answer in both:
        ours = verdicts[answer.label]
        if ours.verdict == UNKNOWN:
            unknown.append(
                "%s: %s"
                % (
                    answer.label,
                    ",".join(sorted({finding.code for finding in ours.findings if finding.effect == DOUBT})),
                )
            )
            continue
        said = difference(answer, ours)
        if said:
            differ.append("%s: %s" % (answer.label, said))
    return Compared(len(both), differ, fell, unknown)


def difference(answer: Answer, ours: Verdict) -> Optional[str]:
    """What the kernel and the core do not agree on: verdict, errno, the refused symbols, the first line that
    it logs.
    """
    theirs = INCOMPATIBLE if answer.errno else COMPATIBLE
    codes = ",".join(sorted({finding.code for finding in ours.findings})) or "no finding"
    if ours.verdict != theirs or ours.errno != answer.errno:
        return "the kernel %s, the core %s %s (%s); log: %s" % (
            answer.errno or "takes it",
            ours.verdict,
            ours.errno or "",
            codes,
            " | ".join(answer.log[:4]),
        )
    symbols = sorted(
        {
            finding.symbol
            for finding in ours.findings
            if finding.symbol and finding.effect == REFUSE and finding.code.startswith(SYMBOL_RULES)
        }
        - {"module_layout"}
    )
    if symbols != answer.symbols:
        return "refused symbols: only the kernel %s, only the core %s (%s)" % (
            sorted(set(answer.symbols) - set(symbols))[:8],
            sorted(set(symbols) - set(answer.symbols))[:8],
            codes,
        )
    if answer.errno and ours.dmesg and not any(ours.dmesg in line for line in answer.log):
        return "the core's line is not in the log: %r (%s); log: %s" % (
            ours.dmesg,
            codes,
            " | ".join(answer.log[:4]),
        )
    return None
