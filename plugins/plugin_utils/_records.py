# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Host records: what ``kmod_preflight`` says of one host, as plain JSON (docs/preflight.md has every key).

They come from hosts, from files of last week and from other versions of the collection, so all of it is
looked at before anything is counted. Keys that are not known here are dropped; those that are missing have
the value that says "nothing".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError

VERSION = 1
COMPATIBLE, INCOMPATIBLE, UNKNOWN = "compatible", "incompatible", "unknown"

# A record is a dict of the shape of RECORD, once ``validated``.
Record = dict[str, Any]

# Shapes: a type; a tuple of the types or words that it may be, with NONE for null; a list of one shape; a dict
# of keys, each with its shape, or of any keys ({str: shape}).
NONE = object()
TEXT, TEXT_OR_NONE, NUMBER_OR_NONE, TRUE_OR_FALSE, ANY = str, (NONE, str), (NONE, int, float), bool, object
BUILD = {"kernel": TEXT, "version": TEXT_OR_NONE}
DRIVER = {"driver": TEXT, "version": TEXT_OR_NONE, "builds": [BUILD], "modules": [TEXT]}
KERNEL = {
    "kernel": TEXT,
    "state": ("running", "installed", "offered"),
    "newest": TRUE_OR_FALSE,
    "origin": [TEXT],
    "packages": [TEXT],
}
VERDICT = {
    "driver": TEXT,
    "kernel": TEXT,
    "state": (NONE, "running", "installed", "offered"),
    "verdict": (COMPATIBLE, INCOMPATIBLE, UNKNOWN),
    "exact": TRUE_OR_FALSE,
    "build": TEXT_OR_NONE,
    "codes": [TEXT],
    "symbols": [TEXT],
    "errno": TEXT_OR_NONE,
    "why": TEXT_OR_NONE,
}
RECORD = {
    "version": int,
    "host": TEXT,
    "at": TEXT,
    "family": TEXT_OR_NONE,
    "distribution": TEXT_OR_NONE,
    "machine": TEXT_OR_NONE,
    "running": TEXT_OR_NONE,
    "default": TEXT_OR_NONE,
    "error": TEXT_OR_NONE,
    "lists": {"manager": TEXT_OR_NONE, "age": NUMBER_OR_NONE, "error": TEXT_OR_NONE},
    "drivers": [DRIVER],
    "kernels": [KERNEL],
    "verdicts": [VERDICT],
    "today": [{"kind": TEXT, "driver": TEXT_OR_NONE, "kernel": TEXT_OR_NONE, "text": TEXT}],
    "held": [{"what": TEXT, "kernel": TEXT_OR_NONE, "driver": [TEXT], "reason": TEXT}],
    "needs": {str: ANY},
    "facts": {str: {str: ANY}},
}
KINDS = {int: "a number", str: "a text", bool: "true or false"}
# What has no value that could stand for it.
REQUIRED = {"version", "host", "driver", "kernel", "verdict", "state", "kind", "what"}


def validated(data: Any, where: str = "host record") -> Record:
    """One record with every key of RECORD in it. ``where`` names it as long as it has no host's name.

    Errors: RECORD_NEWER, RECORD_DAMAGED.
    """
    if isinstance(data, dict) and isinstance(data.get("host"), str):
        where = "host record of " + short(data["host"])
    check_version(data, VERSION, where)
    record: Record = shaped(data, RECORD, where)
    if not record["host"]:
        raise damaged(where, "host", "is empty")
    return record


def merged(items: Iterable[Any]) -> list[Record]:
    """Validated records, one a host, in the order of people's names for hosts (web2 before web10). Of several
    of one host the latest counts.
    """
    latest: dict[str, Record] = {}
    for number, item in enumerate(items, 1):
        record = validated(item, "host record %d" % number)
        if record["host"] not in latest or latest[record["host"]]["at"] <= record["at"]:
            latest[record["host"]] = record
    return [latest[name] for name in sorted(latest, key=natural)]


def verdicts(record: Record) -> list[dict[str, Any]]:
    """One a driver and kernel: of a kernel that is installed and on offer again, in newer packages, the one on
    offer, which comes last.
    """
    return list({(each["driver"], each["kernel"]): each for each in record["verdicts"]}.values())


def without(host: str, error: str) -> Record:
    """The record of a host that has none, because ``error``."""
    return validated({"version": VERSION, "host": host, "error": error})


def check_version(data: Any, known: int, where: str) -> None:
    """Errors: RECORD_NEWER, RECORD_DAMAGED."""
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise damaged(where, "version", "is not a number from 1 on")
    if version > known:
        raise KmodError(
            where,
            "has version %d, and this collection knows versions up to %d" % (version, known),
            "Use the newest of your versions of the collection to make the report",
            "RECORD_NEWER",
        )


def damaged(where: str, key: str, why: str) -> KmodError:
    return KmodError(
        where,
        "is damaged: %s %s" % (key, why) if key else "is damaged: it %s" % why,
        "Make it again (kmod_preflight), or leave the host out",
        "RECORD_DAMAGED",
    )


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key by which web2 comes before web10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts), name


def short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def shaped(data: Any, shape: Any, where: str, key: str = "") -> Any:
    """A copy of ``data`` that has this shape and nothing else. Error: RECORD_DAMAGED."""
    if shape is ANY:
        return data
    if isinstance(shape, list):
        if not isinstance(data, (list, tuple)):
            raise damaged(where, key, "is not a list")
        return [shaped(each, shape[0], where, "%s[%d]" % (key, at)) for at, each in enumerate(data)]
    if isinstance(shape, dict):
        if not isinstance(data, dict):
            raise damaged(where, key, "is not an object")
        if str in shape:
            return {
                str(name): shaped(value, shape[str], where, _under(key, str(name)))
                for name, value in data.items()
            }
        return {
            name: shaped(data[name], inner, where, _under(key, name))
            if data.get(name) is not None
            else _nothing(name, inner, where, _under(key, name))
            for name, inner in shape.items()
        }
    choices = shape if isinstance(shape, tuple) else (shape,)
    kinds = tuple(each for each in choices if isinstance(each, type))
    words = tuple(each for each in choices if isinstance(each, str))
    if isinstance(data, kinds) and (bool in kinds or not isinstance(data, bool)) or data in words:
        return str(data) if isinstance(data, str) else data  # no subclass of Ansible's
    expected = [KINDS[kind] for kind in kinds if kind in KINDS] or list(words)
    raise damaged(where, key, "is %s, not %s" % (short(repr(data), 40), " or ".join(expected)))


def _under(key: str, name: str) -> str:
    return "%s.%s" % (key, short(name, 40)) if key else short(name, 40)


def _nothing(name: str, shape: Any, where: str, key: str) -> Any:
    """What stands for a key that is missing or null. Error: RECORD_DAMAGED."""
    if isinstance(shape, list):
        return []
    if isinstance(shape, dict):
        return {} if str in shape else shaped({}, shape, where, key)
    if shape is ANY or isinstance(shape, tuple) and NONE in shape:
        return None
    if name in REQUIRED:
        raise damaged(where, key, "is missing")
    return shape()
