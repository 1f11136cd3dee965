# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels on offer, read once and judged for all hosts of a fleet.

Hosts with the same drivers, for which the same holds (keys, lockdown, what the command line says), get one verdict
that is worked out once.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import preflight
from ansible_collections.outoftree.kmod.plugins.module_utils.commands.preflight import Judgement
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.subject import Subject
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_package
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered.manager import OfferedKernel
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _packages, _records

Look = dict[str, Any]  # what kmod_preflight answered for a host
FIELDS = set(OfferedKernel._fields)


def records(looks: dict[str, Look]) -> dict[str, _records.Record]:
    """The whole record of each host. One that did not answer has a record that says so."""
    judged: dict[tuple[str, str], list[Judgement] | KmodError] = {}
    for where, wanting in _by_kernel(looks).items():
        judged.update(_judged(where, wanting))
    return {host: _record(host, look, judged) for host, look in looks.items()}


def _by_kernel(looks: dict[str, Look]) -> dict[str, dict[str, OfferedKernel]]:
    """By the place of a kernel's packages the subjects that it is judged for, and one offer of it for each."""
    found: dict[str, dict[str, OfferedKernel]] = {}
    for look in looks.values():
        for offer in look.get("deferred") or ():
            if "cached" in offer:
                found.setdefault(offer["cached"], {}).setdefault(look["subject"], _offer(offer))
    return found


def _judged(
    where: str, wanting: dict[str, OfferedKernel]
) -> dict[tuple[str, str], list[Judgement] | KmodError]:
    with contextlib.ExitStack() as stack:
        try:
            paths = _packages.there(where)
            if not paths:
                raise KmodError(
                    where, "has been changed since it was fetched", "Run again", "OFFERED_DAMAGED"
                )
            offer = next(iter(wanting.values()))
            kernels = kernel_package.of_fetched(None, paths, offer, stack)
            for kernel in kernels:
                kernel.origin = ()  # differs by host
            return {
                (where, name): list(
                    preflight.judged_offer(kernels, mine, Subject.from_dict(_packages.subject(name)))
                )
                for name, mine in wanting.items()
            }
        except KmodError as error:
            return {(where, name): error for name in wanting}


def _record(
    host: str, look: Look, judged: dict[tuple[str, str], list[Judgement] | KmodError]
) -> _records.Record:
    if "record" not in look:
        why = str(look.get("msg") or "it was not asked")
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return dict(_records.without(host, why), at=when)
    record = dict(look["record"], host=host)
    for each in look.get("deferred") or ():
        offer = _offer(each)
        found = judged[each["cached"], look["subject"]] if "cached" in each else _not_fetched(each)
        if isinstance(found, KmodError):
            lists = dict(record["lists"], error=str(found), code=found.code)
            record = dict(record, error=str(found), lists=lists)
            drivers = [row["driver"] for row in record["drivers"]]
            rows = [preflight.untold(offer, drivers, found)]
        else:
            rows = [_for_host(judgement, offer, each["asked_whole"]) for judgement in found]
        record = preflight.extended(record, rows)
    return record


def _not_fetched(offer: dict[str, Any]) -> KmodError:
    code = str(offer["code"])
    return KmodError(str(offer["release"]), str(offer["error"]), "", code)


def _for_host(judgement: Judgement, offer: OfferedKernel, whole: bool) -> Judgement:
    """How old the lists are, and what is newest, is each host's own."""
    seen = judgement.kernel._replace(newest=offer.newest, origin=offer.origin(whole))
    return judgement._replace(kernel=seen)


def _offer(data: dict[str, Any]) -> OfferedKernel:
    return OfferedKernel.from_dict({name: data[name] for name in FIELDS})


def lost(record: _records.Record, require: str) -> list[str]:
    """What a host lacks of what is required of it, a line each."""
    if require == "none":
        return []
    said = [record["error"]] if record["error"] else []
    return said + [
        "%s: %s: %s" % (row["kernel"], row["driver"], row["why"])
        for row in record["verdicts"]
        if row["verdict"] != _records.COMPATIBLE and (require == "all" or row["state"] == "offered")
    ]
