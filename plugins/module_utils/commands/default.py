# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What boots start on a host that follows new kernels. docs/follow.md has it as a table.

A kernel that arrives by itself never makes anything unproven of ours the default. With ``boot: default`` its
entry is tried once, and the default is the newest entry that has proved itself, until this one has. With
``keep_default`` a kernel that takes no build of a driver does not become the default: the newest that does
stays it, by the entry that was proved, or else the shipped one.
"""

from typing import Dict, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import ENDS_ALL, KmodError
from ..host import Host
from ..place.boot import hold, trials
from ..place.boot.answer import EntryAnswer
from ..place.boot.menu import release as release_of
from ..place.settings import Followed
from ..place.together import Shared
from ..read.kernels import version_key
from ..turns import Turns
from . import entry
from .shared import entry_options

NO_LOADER = ("LOADER_MISSING", "LOADER_AMBIGUOUS")
# What somebody has to know, and nothing that a later run could do
NOTES = ("ONCE_NOT_SAFE", "TRIAL_FAILED", "GRUB_NO_ONCE", "DEFAULT_XEN", "ENV_MISSING")


class Decided(NamedTuple):
    kept: Optional[str] = None  # the kernel that boots are kept on
    errors: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    undecided: bool = False  # whether a trial goes on right now


def settle(
    turns: Turns,
    drivers: Mapping[str, Followed],
    wanted: Mapping[str, Set[str]],
    *,
    shared: Sequence[Shared],
    served: Mapping[str, Set[str]],
) -> Decided:
    """Bring the default to what it is to be.

    ``shared``: which of the drivers are in one variant and entry.
    ``wanted``, ``served``: the kernels that each driver is meant for, and those that use a build.
    """
    host = turns.host
    kind = next((followed.loader for followed in drivers.values() if followed.loader != "auto"), "auto")
    touching = [
        name for name, followed in drivers.items() if followed.keep_default or followed.boot != "none"
    ]
    if not touching and hold.read(host) is None:
        return Decided()
    try:
        wish = hold.wished(host, kind)
        release = release_of(wish) if wish else None
        if release is None:
            return Decided(kept=_kept(host))
        keepers = [
            name for name, followed in drivers.items() if followed.keep_default and release in wanted[name]
        ]
        if any(release not in served[name] for name in keepers):
            return _keep(turns, drivers, keepers, shared=shared, served=served, refused=release)
        if hold.read(host) is not None:
            turns.carry(lambda host: (hold.release(host), None))
    except KmodError as error:
        return _told(error)
    tried = []
    for each in shared if turns.host.live and not turns.check else ():
        asking = [name for name in each.asking if release in served[name] & wanted[name]]
        refused = [name for name in each.asking if release in wanted[name] - served[name]]
        if each.entry and asking:
            tried.append(_try(turns, each, asking, release=release))
        elif each.entry and refused:
            tried.append(_give_back(turns, each))
    return Decided(
        None,
        tuple(text for each in tried for text in each.errors),
        tuple(text for each in tried for text in each.notes),
        any(each.undecided for each in tried),
    )


def _kept(host: Host) -> Optional[str]:
    held = hold.read(host)
    return held.kernel if held else None


def _told(error: KmodError) -> Decided:
    if error.code in ENDS_ALL:
        raise error
    return Decided(notes=(str(error),)) if error.code in NOTES + NO_LOADER else Decided(errors=(str(error),))


# A kernel that takes no build


def _keep(
    turns: Turns,
    drivers: Mapping[str, Followed],
    keepers: Sequence[str],
    *,
    shared: Sequence[Shared],
    served: Mapping[str, Set[str]],
    refused: str,
) -> Decided:
    """Have boots start the newest kernel that takes all drivers that ask for that."""
    good = set.intersection(*(served[name] for name in keepers))
    if not good:
        return Decided(
            errors=(
                "%s takes no build of every driver that asks for kmod_keep_default, and no other kernel does"
                % refused,
            )
        )
    release = max(good, key=version_key)
    now = hold.now(turns.host, drivers[keepers[0]].loader)
    # an entry of ours, which somebody or a trial has made that
    if now is not None and now.driver and release_of(now) == release:
        return Decided(kept=release)
    for each in shared:
        asking = [name for name in each.asking if name in keepers]
        if asking and each.entry and each.boot == "default" and _proven(turns, each, asking) == release:
            if hold.read(turns.host) is not None:
                turns.carry(lambda host: (hold.release(host), None))
            _start(turns, each, asking, boot="default", release=release)
            return Decided(kept=release)
    first = drivers[keepers[0]]
    turns.carry(lambda host: hold.hold(host, release, first.loader, copy_of=first.copy_of))
    return Decided(kept=release)


# A kernel that does


def _try(turns: Turns, shared: Shared, asking: Sequence[str], *, release: str) -> Decided:
    """Have the next boot try the drivers' entry for a kernel, or make what has proved itself the default."""
    try:
        answer = _start(turns, shared, asking, boot="none")
        state = _trials(answer).get(release, "none")
        if state == "none":
            answer = _start(turns, shared, asking, boot="once", release=release)
        proven = _newest_passed(
            answer if state != "none" else _start(turns, shared, asking, boot="none"), asking
        )
        if shared.boot == "default" and proven is not None:
            writes = turns.writes
            _start(turns, shared, asking, boot="default", release=proven)
            # what was the default gets the arguments back by which it comes back by itself
            if turns.writes != writes:
                _start(turns, shared, asking, boot="none")
        failed = state == "failed"
        undecided = (
            failed and answer.running.booted == release and answer.running.verdict in ("idle", "unloaded")
        )
        drivers = next(trials.told(row.driver) for row in answer.rows if row.kernel == release)
        note = (
            "%s was tried on %s, and the host was not seen running the driver after that%s. It is not tried again until the driver or the image "
            "changes, or its entry is removed"
            % (drivers, release, ": " + answer.running.message.rstrip(".") if answer.running.booted else "")
        )
        return Decided(
            notes=(note,) if failed and not undecided else (), undecided=undecided or state == "idle"
        )
    except KmodError as error:
        return _told(error)


def _give_back(turns: Turns, shared: Shared) -> Decided:
    """Have boots start what the distribution means them to: a kernel that takes no driver, and nobody has
    asked to keep them on an older one.
    """
    try:
        _start(turns, shared, shared.asking, boot="shipped")
    except KmodError as error:
        return _told(error)
    return Decided()


def _start(
    turns: Turns, shared: Shared, asking: Sequence[str], *, boot: str, release: str = ""
) -> EntryAnswer:
    asked = entry_options(shared, boot, kernels=[release] if release else [], asking=asking)
    answer: entry.Answer = turns.carry(lambda host: entry.run(host, asked))
    return answer.menu


def _proven(turns: Turns, shared: Shared, asking: Sequence[str]) -> Optional[str]:
    """The newest kernel whose entry of the drivers has passed its trial."""
    return _newest_passed(_start(turns, shared, asking, boot="none"), asking)


def _newest_passed(answer: EntryAnswer, asking: Sequence[str]) -> Optional[str]:
    """Of those whose entry has all the drivers that ask for it."""
    passed = [set(answer.on_trial("passed", name)) for name in asking]
    return max(set.intersection(*passed), key=version_key, default=None)


def _trials(answer: EntryAnswer) -> Dict[str, str]:
    return {row.kernel: row.trial for row in answer.rows}
