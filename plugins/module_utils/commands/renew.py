# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variants of the initramfs of kernels whose modules have changed are made again, as they are wanted; what a
distribution has shipped is left.
"""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

from ..errors import forgiving
from ..host import Host
from ..place.initramfs import existing, image, variant
from ..plan import Plan


class Options(NamedTuple):
    kernels: Tuple[str, ...]


class Answer(NamedTuple):
    """``made``: the variants that were made again."""

    made: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        return {"made": list(self.made)}


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Plan it. Errors: those of ``variant.present``."""
    plan = Plan(host)
    rows: List[Union[variant.Made, variant.Touched]] = []
    for each in existing.found(host):
        if each.wants.kernel in options.kernels and not existing.gone(host, each):
            recipe = variant.Recipe(
                each.wants.drivers, method=each.method, early_load=each.wants.early_load, ignore_tpm=True
            )
            steps, variants = variant.present(host, recipe, [each.wants.kernel], before=plan)
            plan.extend(steps)
            rows += variants.rows
    return plan, Answer(tuple(row.path for row in rows if row.status != "current"))


def shipped(host: Host, kernels: Sequence[str]) -> List[str]:
    """The images of these kernels that are the distribution's, and are left."""
    found = []
    for release in kernels:
        with forgiving():
            found.append(image.shipped(host, release))
    return found
