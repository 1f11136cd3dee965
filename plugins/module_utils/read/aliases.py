# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The aliases by which devices ask for modules, and which of a kernel's modules want a device that a driver wants.

An alias is a pattern of devices' names (``scripts/mod/file2alias.c``). A kernel has some twenty thousand and a
driver up to hundreds, so they are found by the parts of a name that tell most.
"""

import functools
import re
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

# Aliases by which a device is asked for. Others, as for ciphers or file systems, many modules may share.
_DEVICE = re.compile(
    r"(pci|usb|hid|virtio|vmbus|acpi|of|i2c|spi|platform|mdio|sdio|pnp|auxiliary|xen|scsi|mei|wmi|dmi):?.*[0-9A-Z]"
)
# What stands before each number in the name of a device, and where those are that tell most, unless they come first
_NUMBERS = {
    "pci": ("v d sv sd bc sc i", ()),
    "usb": ("v p d dc dsc dp ic isc ip in", ()),
    "hid": ("b g v p", (2, 3, 0, 1)),
    "sdio": ("c v d", (1, 2, 0)),
    "virtio": ("d v", ()),
}
_FORMS = {
    bus: re.compile("".join("%s([^a-z]*)" % letters for letters in text.split()) + "$")
    for bus, (text, _order) in _NUMBERS.items()
}
_HEAD, _WILD = re.compile(r"[^*?\[]*"), re.compile(r"[*?\[]")
ANY, SOME = "*", "?"  # of keys: a part that any text fits, and one that several do


class Claim(NamedTuple):
    """``number`` is its place in the list."""

    number: int
    pattern: str
    parts: Tuple[str, ...]


class Rival(NamedTuple):
    """The first pattern by which a module wants a device, and ``unsure`` if that and the alias name nothing in
    common: one a vendor's device, the other a class, which that device may be of or not.
    """

    unsure: bool
    number: int
    pattern: str


ByName = Dict[str, List[Claim]]  # in their order


class Index(NamedTuple):
    """The claims of one bus."""

    by_parts: Dict[str, Dict[str, ByName]]  # by the keys of their first two parts
    by_rest: Dict[Tuple[str, ...], ByName]  # by all others: of each module the first
    told: Set[int]  # the places of all that any claim of a class names


class Aliases:
    """(pattern, module's name), in their order. What a bus has is looked through when a driver is for that bus."""

    def __init__(self, pairs: Iterable[Tuple[str, str]]) -> None:
        self._pairs = pairs
        self._buses: Optional[Dict[str, List[Tuple[int, str, str]]]] = None
        self._indexes: Dict[str, Index] = {}

    def rivals(self, aliases: Iterable[str], name: str) -> Dict[str, Rival]:
        """By name the other modules that want, or may want, a device which these aliases ask for; those that do
        come first.
        """
        found: Dict[str, Rival] = {}
        looked: Set[Tuple[Any, ...]] = set()
        for alias in filter(_DEVICE.match, aliases):
            bus, parts = _parts(alias)
            for unsure, of_class, claims in self._near(bus, parts):
                if (
                    of_class
                ):  # what they do not name does not count, and in that alone most aliases of a driver differ
                    told = self._index(bus).told
                    kind = (bus, len(parts), *(part for place, part in enumerate(parts) if place in told))
                    if kind in looked:
                        continue
                    looked.add(kind)
                for module, theirs in claims.items():
                    best = found.get(module)
                    for claim in theirs if module != name else ():
                        if best is not None and best.number <= claim.number and (unsure or not best.unsure):
                            break
                        if _same(alias, parts, claim):
                            both = any(one != ANY != other for one, other in zip(parts, claim.parts))
                            rival = Rival(not both, claim.number, claim.pattern)
                            best = found[module] = rival if best is None else min(best, rival)
        return dict(sorted(found.items(), key=lambda each: (each[1].unsure, each[0])))

    def _near(self, bus: str, parts: Tuple[str, ...]) -> Iterator[Tuple[bool, bool, ByName]]:
        """All claims that may want the same device, with whether that can be no more than unsure, and whether they
        are of classes.
        """
        index = self._index(bus)
        if parts[:2] == (ANY, ANY) and len(parts) > 2:  # a class, for which those two do not count
            for rest, claims in index.by_rest.items():
                yield rest.count(ANY) == len(rest), False, claims
            return
        first, second = _key(parts, 0), _key(parts, 1)
        for one in list(index.by_parts) if first in (ANY, SOME) else (first, ANY, SOME):
            level = index.by_parts.get(one, {})
            for other in level if second in (ANY, SOME) else (second, ANY, SOME):
                if other in level:
                    yield False, one == other == ANY and len(parts) > 2, level[other]

    def _index(self, bus: str) -> Index:
        if self._buses is None:
            self._buses = {}
            for number, (pattern, name) in enumerate(self._pairs):
                self._buses.setdefault(pattern.partition(":")[0], []).append((number, pattern, name))
        if bus not in self._indexes:
            index = self._indexes[bus] = Index({}, {}, set())
            for number, pattern, name in self._buses.get(bus, ()):
                if _DEVICE.match(pattern):
                    claim = Claim(number, pattern, _parts(pattern)[1])
                    first, second = _key(claim.parts, 0), _key(claim.parts, 1)
                    level = index.by_parts.setdefault(first, {})
                    level.setdefault(second, {}).setdefault(name, []).append(claim)
                    index.by_rest.setdefault(claim.parts[2:] or claim.parts, {}).setdefault(name, [claim])
                    if first == second == ANY:
                        index.told.update(place for place, part in enumerate(claim.parts) if part != ANY)
        return self._indexes[bus]


def _parts(alias: str) -> Tuple[str, Tuple[str, ...]]:
    """The bus, and what is compared each on its own: numbers where the bus has such, else what is between colons.

    A node of a device tree and a device of ACPI say what they are compatible with, too: as a whole the names of any
    two drivers could be those of one device.
    """
    bus, _colon, rest = alias.partition(":")
    if bus == "of":
        return bus, (re.sub(r"C?\*$", "", rest).rpartition("*")[2],)
    numbers = _FORMS[bus].match(rest) if bus in _FORMS else None
    if numbers is None:
        return bus, tuple(rest.split(":"))
    found, order = numbers.groups(), _NUMBERS[bus][1]
    return bus, tuple(map(found.__getitem__, order)) if order else found


def _key(parts: Tuple[str, ...], place: int) -> str:
    """One that is not there is as good as one that several texts fit."""
    part = parts[place] if place < len(parts) else SOME
    return part if part.isalnum() or part == ANY or not _WILD.search(part) else SOME


def _same(alias: str, parts: Tuple[str, ...], claim: Claim) -> bool:
    if len(parts) != len(claim.parts):  # of another form, such as one that says no more than a vendor
        return overlap(alias, claim.pattern)
    return all(
        one in (other, ANY) or other == ANY or _overlap(one, other) for one, other in zip(parts, claim.parts)
    )


def head(pattern: str) -> str:
    """What stands before any wildcard."""
    return _HEAD.match(pattern).group()  # type: ignore[union-attr]


def overlap(one: str, other: str) -> bool:
    """Whether there is a name that both patterns (``*``, ``?``, ``[...]``) match; ``*`` stands for no colon."""
    mine, theirs = one.split(":"), other.split(":")
    return len(mine) == len(theirs) and all(map(_overlap, mine, theirs))


@functools.lru_cache(maxsize=1 << 16)  # each kernel of a host has nearly the same
def _overlap(one: str, other: str) -> bool:
    """The same of what is between colons."""
    heads = head(one), head(other)
    if not heads[0].startswith(heads[1]) and not heads[1].startswith(heads[0]):
        return False  # nearly all, by the first few characters
    if heads == (one, other):
        return one == other
    left, right = _tokens(one), _tokens(other)
    reached = {(0, 0)}
    todo = [(0, 0)]
    while todo:
        at, there = todo.pop()
        if at == len(left) and there == len(right):
            return True
        steps = []
        if at < len(left) and left[at] == "*":
            steps += [(at + 1, there)] + ([(at, there + 1)] if there < len(right) else [])
        if there < len(right) and right[there] == "*":
            steps += [(at, there + 1)] + ([(at + 1, there)] if at < len(left) else [])
        if (
            at < len(left)
            and there < len(right)
            and "*" not in (left[at], right[there])
            and _share(left[at], right[there])
        ):
            steps.append((at + 1, there + 1))
        todo += [step for step in steps if step not in reached]
        reached.update(steps)
    return False


def _tokens(pattern: str) -> List[str]:
    return re.findall(r"\[[^]]*\]|.", pattern, re.S)


def _share(one: str, other: str) -> bool:
    if "?" in (one, other):
        return True
    return bool(_characters(one) & _characters(other))


def _characters(token: str) -> FrozenSet[str]:
    if not token.startswith("["):
        return frozenset(token)
    found: Set[str] = set()
    for first, last in re.findall(r"(.)(?:-(.))?", token[1:-1]):
        found.update(map(chr, range(ord(first), ord(last or first) + 1)))
    return frozenset(found)
