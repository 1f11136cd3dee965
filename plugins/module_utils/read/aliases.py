# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The aliases of a kernel's modules, found by how they begin: there are some ten thousand, and each of a driver's
is held against them.
"""

import bisect
import re
from typing import Dict, Iterable, List, Tuple

_HEAD = re.compile(r"[^*?\[]*")  # what stands before any wildcard
Claim = Tuple[int, str, str]  # place in the list, pattern, module's name


class Aliases:
    """(pattern, module's name), in their order."""

    def __init__(self, pairs: Iterable[Tuple[str, str]]) -> None:
        self._by_head: Dict[str, List[Claim]] = {}
        for number, (pattern, name) in enumerate(pairs):
            self._by_head.setdefault(_key(pattern), []).append((number, pattern, name))
        self._heads = sorted(self._by_head)

    def near(self, pattern: str) -> List[Claim]:
        """Those that can match what ``pattern`` matches: of the two, what stands before any wildcard begins with
        the other's.
        """
        mine = _key(pattern)
        heads = [mine[:size] for size in range(len(mine)) if mine[:size] in self._by_head]
        for place in range(bisect.bisect_left(self._heads, mine), len(self._heads)):
            if not self._heads[place].startswith(mine):
                break
            heads.append(self._heads[place])
        return [claim for each in heads for claim in self._by_head[each]]


def compatible(alias: str) -> str:
    """``Cvendor,device`` of ``of:N*T*Cvendor,deviceC*``"""
    return re.sub(r"C?\*$", "", alias).rpartition("*")[2]


def head(pattern: str) -> str:
    """What stands before any wildcard."""
    return _HEAD.match(pattern).group()  # type: ignore[union-attr]


def _key(pattern: str) -> str:
    """How it begins; in a device tree that is nothing, and what counts is at the end."""
    return "of:" + compatible(pattern) if pattern.startswith("of:") else head(pattern)
