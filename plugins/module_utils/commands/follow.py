# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host does by itself about kernels: one arrives, one leaves, an image is made again.

For every driver, under one lock.

What is done hangs upon what is on disk, and not upon the verb: packages that are installed again, or
upgraded, say that a kernel leaves which stays, and that one arrives which was there. A driver that fails
keeps no other from being served.
"""

import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import ENDS_ALL, KmodError, forgiving
from ..host import MODULES, Host
from ..judge import selection
from ..judge.loader import judge
from ..judge.verdict import COMPATIBLE
from ..place import (
    bulletin,
    diversion,
    hooks,
    image_mode,
    kernel_holds,
    notice,
    quiet,
    settings,
    store,
    together,
    weak_links,
)
from ..place import driver as drivers
from ..place.boot import leaks
from ..place.bulletin import Bulletin, Lacking
from ..place.hook_texts import FORGET, KMODCTL
from ..place.initramfs import existing, image
from ..place.settings import Followed, Settings
from ..place.together import Shared
from ..plan import Plan, stamp
from ..read import kernels, names
from ..read.kernels import Kernel, modules_root
from ..turns import Turns
from . import default, entry, link, variant
from .shared import entry_options, variant_options

VERBS = ("add-kernel", "remove-kernel", "refresh")
BOOT_WAIT, BOOT_STEP = 60.0, 5.0  # seconds: how long after the boot a driver may still be loaded


class Options(NamedTuple):
    """What is to be looked at: ``kernel`` is a release, or None for all.

    ``early``: in bounded time, of a kernel that arrives the links alone, and of one that leaves the boot
    entries alone, whatever is on disk: they go before what they start does. ``settle``: once the host is
    quiet, and again until it has been. ``boot``: again for a while, as long as a driver may be loaded yet.
    """

    verb: str
    kernel: Optional[str] = None
    early: bool = False
    settle: bool = False
    boot: bool = False


class Row(NamedTuple):
    """What was done about one driver and one kernel.

    ``variant`` and ``entry`` are their states, "" where there is none.
    """

    driver: str
    kernel: str
    verdict: str
    reason: str
    build: Optional[str] = None
    variant: str = ""
    entry: str = ""
    error: str = ""

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict())


class Answer(NamedTuple):
    """``errors`` are what could not be done besides the rows' own, ``notes`` what is to be known."""

    verb: str
    changed: bool
    rows: Tuple[Row, ...]
    bulletin: Bulletin
    errors: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    undecided: bool = False  # whether a trial goes on: the driver may be loaded yet

    def as_dict(self) -> Dict[str, Any]:
        return {
            "verb": self.verb,
            "changed": self.changed,
            "drivers": [row.as_dict() for row in self.rows],
            "kept": self.bulletin.kept,
            "errors": list(self.errors),
            "notes": list(self.notes),
        }

    @property
    def failed(self) -> bool:
        """Whether something could not be done."""
        return bool(self.errors) or any(row.error for row in self.rows)

    @property
    def refused(self) -> bool:
        """Whether a kernel that was looked at takes none of a driver's builds."""
        return any(row.verdict not in ("", COMPATIBLE) and row.build is None for row in self.rows)

    @property
    def lacking(self) -> List[Lacking]:
        """Where a kernel that boots start has to do without a driver."""
        return [each for each in self.bulletin.lacking if each.boots]


def in_rounds(root: str, check: bool, options: Options) -> Answer:
    """``run``, as often as the options have it: what happens while it is at work would tell nobody (events
    that reach a unit while its service runs are lost), and after a boot drivers are loaded one by one.

    Each round has the lock for itself.
    """
    deadline = time.monotonic() + BOOT_WAIT
    while True:
        host = Host(root)
        if options.settle:
            quiet.wait(host)
        before = quiet.state(host) if options.settle else ()
        with Turns(root, check) as turns:
            answer = run(turns, options)
        if options.boot and answer.undecided and time.monotonic() < deadline:
            time.sleep(BOOT_STEP)
        elif not options.settle or check or answer.failed or quiet.state(host) == before:
            return answer


def run(turns: Turns, options: Options) -> Answer:
    """Carry it out for every driver, once.

    Errors: RELEASE_NAME, KERNEL_MISSING, LOCKED, IMAGE_MODE, TRANSACTIONAL, SETTINGS_NEWER, MARK_NEWER.
    """
    host = turns.host
    seen = len(bulletin.noted(host))
    if options.kernel is not None and not names.is_release(options.kernel):
        raise KmodError(
            options.kernel,
            "is not a release that a kernel can have",
            "Name a kernel as uname -r does",
            "RELEASE_NAME",
        )
    image_mode.refuse(host)
    told, errors = _settings(host)
    every = settings.drivers_of(told, sorted({stored.driver for stored in store.builds(host)}))
    leaving = (
        options.verb == "remove-kernel"
        and options.kernel is not None
        and (options.early or not stays(host, options.kernel))
    )
    if not leaving and options.kernel is not None:
        kernels.kernel(host, options.kernel)
    if told is not None and not options.early:  # before entries are copied of what has leaked
        errors += [each for each in [_failing(turns, leaks.mend)] if each]
    rows: List[Row] = []
    there = Installed(turns)
    for driver, followed in every.items():
        rows += (
            _leave(turns, driver, options.kernel or "", entries_alone=options.early)
            if leaving
            else _link(turns, there, driver, followed=followed, options=options)
        )
    if told is None or options.early:
        return Answer(options.verb, turns.changed, tuple(rows), Bulletin(), tuple(errors))
    shared: List[Shared] = []
    try:
        beside = together.others(turns.host, told.drivers, told.drivers)
        shared = together.shared({**told.drivers, **beside})
    except KmodError as error:
        if error.code in ENDS_ALL:
            raise
        errors.append(str(error))
    for each in shared if not leaving else ():
        rows = _start(turns, each, options.kernel, rows=rows)
    return _settle(
        turns,
        told,
        options,
        shared=shared,
        rows=rows,
        errors=errors,
        gone=options.kernel if leaving else None,
        seen=seen,
    )


def _settings(host: Host) -> Tuple[Optional[Settings], List[str]]:
    """The settings, and what is wrong with them: links are right whatever they say."""
    try:
        return settings.read(host), []
    except KmodError as error:
        if error.code != "SETTINGS_DAMAGED":
            raise
        return None, [str(error)]


def stays(host: Host, release: str) -> bool:
    """Whether a kernel that is said to leave can still be booted: its modules, its image and its initramfs
    are there.

    Packages say so of kernels that are installed again or upgraded, too; where a kernel does leave, its
    initramfs or what boot loaders start goes before its modules do. The copy of the kernel among its modules
    goes last of all.
    """
    there = any(kernels.is_kernel(host, directory, release) for directory in MODULES)
    found = kernels.find_image(host, release) if there else None
    if found is None or found.startswith(MODULES):
        return False
    with forgiving():
        return bool(image.shipped(host, release))
    return False


# One driver


class Installed:
    """The installed kernels, and what was read of them, which is much; read again once their modules have
    changed.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.state: Any = None
        self.known: List[Kernel] = []

    def kernels(self) -> List[Kernel]:
        host = self.turns.host
        state = [
            (release, stamp(host, "%s/%s/modules.dep" % (modules_root(host), release)))
            for release in store.releases(host)
        ]
        if state != self.state:
            self.state, self.known = state, store.installed(host)
        return self.known


def _link(turns: Turns, there: Installed, driver: str, *, followed: Followed, options: Options) -> List[Row]:
    """Link a driver, for one kernel or for all that it is meant for."""
    try:
        chosen = meant(there.kernels(), followed, options.kernel)
        if not chosen:
            return []
        linked = turns.carry(
            lambda host: link.run(host, link.Options(driver, kernels=tuple(chosen)), there.kernels())
        )
        return [
            Row(driver, each.kernel, each.verdict, each.reason, each.build.release if each.build else None)
            for each in linked.outcome.kernels
        ]
    except KmodError as error:
        if error.code in ENDS_ALL:
            raise
        return [Row(driver, options.kernel or "", "", "", error=str(error))]


def _start(turns: Turns, shared: Shared, kernel: Optional[str], *, rows: List[Row]) -> List[Row]:
    """Make the variants and entries of drivers that share them, for one kernel or for all; rows with what came
    of it.
    """
    its = [row for row in rows if row.driver in shared.drivers]
    refused = kernel is not None and not any(row.build for row in its)
    if (its and all(row.error for row in its)) or (refused and not _has_variant(turns.host, shared, kernel)):
        return rows
    # of all kernels, what is left of those that are gone goes, too
    asked = [kernel] if kernel is not None else []
    try:
        if refused and not existing.drivers_of(turns.host, asked[0], shared.drivers):
            # installed again, the kernel takes them no longer
            turns.carry(lambda host: variant.run(host, _without(shared.drivers, asked[0])))
            return rows
        made = turns.carry(lambda host: variant.run(host, variant_options(shared, asked)))
        variants = {each["kernel"]: each["status"] for each in made.as_dict()["variants"]}
        entries: Dict[str, str] = {}
        if shared.entry:
            listed = turns.carry(lambda host: entry.run(host, entry_options(shared, kernels=asked)))
            entries = {each.kernel: each.state for each in listed.menu.rows}
        turns.carry(lambda host: variant.run(host, variant_options(shared, state="superseded")))
    except KmodError as error:
        if error.code in ENDS_ALL:
            raise
        failed = [row._replace(error=row.error or str(error)) if row in its else row for row in rows]
        return failed if its else [*rows, Row(shared.drivers[0], kernel or "", "", "", error=str(error))]
    return [
        row._replace(variant=variants.get(row.kernel, ""), entry=entries.get(row.kernel, ""))
        if row in its
        else row
        for row in rows
    ]


def _has_variant(host: Host, shared: Shared, kernel: Optional[str]) -> bool:
    return any(each.wants.kernel == kernel for each in existing.holding(host, shared.drivers))


def _without(drivers: Tuple[str, ...], release: str) -> variant.Options:
    """That a kernel has no variant with any of the drivers, and no entry that starts one."""
    return variant.Options(drivers, (release,), entries="remove", state="absent")


def _leave(turns: Turns, driver: str, release: str, *, entries_alone: bool = False) -> List[Row]:
    """Take what a driver has of a kernel that leaves: entry, variant, links.

    Builds that lie below it stay.
    """
    works: List[Callable[[Host], Tuple[Plan, Any]]] = [
        lambda host: entry.run(host, entry.Options((driver,), state="absent", kernels=(release,))),
        lambda host: variant.run(host, _without((driver,), release)),
        lambda host: _unlink(host, driver, release),
    ]
    errors = [
        error for error in (_failing(turns, work) for work in works[: 1 if entries_alone else None]) if error
    ]
    return [Row(driver, release, "", "the kernel leaves", error="; ".join(errors))]


def _failing(turns: Turns, work: Callable[[Host], Tuple[Plan, Any]]) -> str:
    """Carry something out; what was wrong, "" if nothing was."""
    try:
        turns.carry(work)
    except KmodError as error:
        if error.code in ENDS_ALL:
            raise
        return str(error)
    return ""


def _unlink(host: Host, driver: str, release: str) -> Tuple[Plan, Any]:
    """Plan that a kernel has no links, installed or not; the others keep theirs."""
    tree = store.ModuleTree(host, Plan(host))
    staying = [kernel for kernel in store.installed(host) if kernel.release != release]
    if drivers.deployed(host, driver).builds:
        weak_links.present(
            tree, driver, [], installed=staying, chosen=[], judge=judge, contents=lambda module: None
        )
    return tree.plan, None


def meant(installed: Sequence[Kernel], followed: Followed, release: Optional[str] = None) -> List[str]:
    """The kernels that a driver is meant for; of these the one that is asked about."""
    found: Set[str] = set()
    for pattern in followed.kernels:
        with forgiving():  # a pattern may mean none of them today
            found.update(kernel.release for kernel in selection.matching(installed, [pattern]))
    return [
        kernel.release
        for kernel in installed
        if kernel.release in found and release in (None, kernel.release)
    ]


# The host as a whole


def _diverted_again(host: Host, told: Settings) -> Plan:
    """Where the package of weak-modules has put its script over the call of kmodctl."""
    came_back = told.diverted and diversion.came_back(host)
    return diversion.present(host, KMODCTL, told.interpreter, diverted=True) if came_back else Plan(host)


def _settle(
    turns: Turns,
    told: Settings,
    options: Options,
    *,
    shared: Sequence[Shared],
    rows: List[Row],
    errors: List[str],
    gone: Optional[str],
    seen: int,
) -> Answer:
    """What follows for all drivers together: the default, what is said of it all, and what was pending.

    ``gone`` is a kernel that leaves: when rpm says so, its modules are still there. ``seen``: how many notes of
    hooks there were when the host was looked at.
    """
    before = bulletin.read(turns.host)
    problems = [
        _failing(turns, lambda host: (_diverted_again(host, told), None)),
        _failing(turns, lambda host: (kernel_holds.settle(host), None)),
    ]
    installed = [kernel for kernel in store.installed(turns.host) if kernel.release != gone]
    served = {driver: serving(turns.host, driver, installed) for driver in told.drivers}
    wanted = {driver: set(meant(installed, followed)) for driver, followed in told.drivers.items()}
    decided = default.settle(turns, told.drivers, wanted, shared=shared, served=served)
    errors = errors + [each for each in [*problems, *decided.errors] if each]
    said = Bulletin(
        tuple(_lacking(turns.host, installed, wanted, served=served, rows=rows)),
        decided.kept,
        tuple(sorted({*errors, *decided.notes, *(row.error for row in rows if row.error)})),
    )
    errors += [
        each for each in [_failing(turns, lambda host: (bulletin.post(host, said, told.made), None))] if each
    ]
    if not errors and not any(row.error for row in rows):
        errors += [
            each
            for each in [_failing(turns, lambda host: (bulletin.settled(host, options.kernel, seen), None))]
            if each
        ]
    if (
        not (errors or said.lines or turns.check)
        and (before.lines or seen)
        and hooks.running_systemd(turns.host)
    ):
        turns.host.run(FORGET, check=False)
    return Answer(
        options.verb, turns.changed, tuple(rows), said, tuple(errors), tuple(decided.notes), decided.undecided
    )


def serving(host: Host, driver: str, installed: Sequence[Kernel]) -> Set[str]:
    """The installed kernels that use a build of the driver."""
    used = drivers.serving(host, drivers.deployed(host, driver))
    return {kernel.release for kernel in installed if used.get(kernel.release)}


def _lacking(
    host: Host,
    installed: Sequence[Kernel],
    wanted: Dict[str, Set[str]],
    *,
    served: Dict[str, Set[str]],
    rows: Sequence[Row],
) -> List[Lacking]:
    """The kernels that take no build, with the reason as it was found now, or else the last time."""
    reasons = {(each.driver, each.kernel): each.reason for each in bulletin.read(host).lacking}
    reasons.update(
        {(row.driver, row.kernel): row.reason or row.error for row in rows if row.reason or row.error}
    )
    boots = notice.booting(host, installed) if installed else {}
    by_release = {kernel.release: kernel for kernel in installed}
    return [
        Lacking(
            driver,
            release,
            tuple(boots[release]),
            reasons.get((driver, release)) or _reason(host, driver, by_release[release]),
        )
        for driver in sorted(wanted)
        for release in sorted(wanted[driver] - served[driver], key=kernels.version_key)
    ]


def _reason(host: Host, driver: str, kernel: Kernel) -> str:
    """Why a kernel that was not looked at takes no build."""
    with forgiving():
        return selection.select([kernel], drivers.deployed(host, driver).builds, judge)[0].reason
    return "it has not been judged yet"
