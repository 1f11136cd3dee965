# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a host's drivers to what is wanted of them, in one go: linked, in variants of the initramfs, with
boot entries, followed by new kernels; or gone.

Whatever can be refused is refused before anything is written. A host on which all is as it is wanted is judged
once, and nothing is written.
"""

from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from ..judge.selection import builds
from ..place import loading, settings, store, together
from ..place.initramfs import existing
from ..place.together import Shared
from ..read import names
from ..read.kernels import version_key
from ..turns import Turns
from . import entry as entries
from . import follow, following, gate
from . import link as links
from . import loading as loadings
from . import variant as variants
from .shared import entry_options, trial_of, variant_options
from .wanted import WantedDriver

TURNS = True
STEPS = ("link", "loading", "variant", "entry", "follow")
REQUIRE = ("all", "any", "booting", "none")


class Options(NamedTuple):
    """``files``, ``kmodctl`` and ``sources`` are filled in on the controller: see ``links.Options`` and
    ``following.Options``.
    """

    drivers: Tuple[WantedDriver, ...]
    exclusive: bool = False
    weak_modules: str = "leave"
    files: Optional[Mapping[str, str]] = None
    kmodctl: Optional[str] = None
    sources: str = ""

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        return cls(
            tuple(map(WantedDriver.from_params, params["drivers"])),
            params["exclusive"],
            params["weak_modules"],
            params["_files"],
            params["_kmodctl"],
            params["_sources"] or "",
        )


class DriverOutcome(NamedTuple):
    """What became of one driver, by the answers of its steps; None for one that was not taken."""

    driver: str
    state: str
    changed: Tuple[str, ...] = ()  # of link, loading, variant, entry, follow those that changed something
    link: Optional[links.Answer] = None
    loading: Optional[loadings.Answer] = None
    variant: Optional[variants.Answer] = None
    entry: Optional[entries.Answer] = None
    follow: Optional[following.Answer] = None
    trial: Tuple[str, ...] = ()  # kernels that the next boot alone tries it on
    reboot_needed: bool = False
    notes: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        steps = {name: getattr(self, name) for name in STEPS}
        return {
            "driver": self.driver,
            "state": self.state,
            "changed": list(self.changed),
            "trial": list(self.trial),
            "reboot_needed": self.reboot_needed,
            "notes": list(self.notes),
            **{name: answer.as_dict() if answer else None for name, answer in steps.items()},
        }

    @property
    def msg(self) -> str:
        """One line for people."""
        if self.state == "absent" or self.link is None:
            return "%s is %s" % (self.driver, "removed" if self.changed else "not there")
        return self.link.outcome.msg


class Answer(NamedTuple):
    """``need`` are files on the controller, and ``need_kmodctl`` whether that has to be sent: nothing was
    done before that. ``unlisted`` are the drivers that the host has besides.
    """

    drivers: Tuple[DriverOutcome, ...] = ()
    unlisted: Tuple[str, ...] = ()
    need: Tuple[str, ...] = ()
    need_kmodctl: bool = False

    def as_dict(self) -> Dict[str, Any]:
        return {
            "msg": "; ".join(each.msg for each in self.drivers),
            "summary": self.summary,
            "drivers": [each.as_dict() for each in self.drivers],
            "unlisted": list(self.unlisted),
            "reboot_needed": any(each.reboot_needed for each in self.drivers),
            "need": list(self.need),
            "need_kmodctl": self.need_kmodctl,
        }

    @property
    def summary(self) -> str:
        """What was done about each driver, and what has to be known of it, as a text to read."""
        lines = []
        for each in self.drivers:
            lines.append(each.msg + ("; changed: %s" % ", ".join(each.changed) if each.changed else ""))
            lines += ["  the host " + note for note in each.notes]
        lines += ["there, and not in the list: %s" % ", ".join(self.unlisted)] if self.unlisted else []
        return "\n".join(lines)


def run(turns: Turns, options: Options) -> Answer:
    """Look at every driver first, then bring all of them to what is wanted.

    Errors: BAD_OPTION, REQUIRE_UNMET, and those of the commands that it is put together from.
    """
    _check(options.drivers)
    host = turns.host
    listed = [each.driver for each in options.drivers]
    unlisted = sorted({each.driver for each in store.builds(host)} - set(listed))
    present = [each for each in options.drivers if each.state == "present"]
    absent = [WantedDriver(name, state="absent") for name in unlisted] if options.exclusive else []
    absent += [each for each in options.drivers if each.state == "absent"]
    shared = _shared(host, present, [each.driver for each in absent])
    foreseen = gate.look(host, present, options.files)
    coming = frozenset(module.name for each in foreseen.values() for module in each.answer.given)
    for wanted in present:
        if not foreseen[wanted.driver].early:
            loadings.run(host, wanted.loading(foreseen[wanted.driver].answer.outcome.after, coming))
    loading.refuse_circle(each.softdep for each in present)
    for each in shared:
        gate.refuse_shared(host, each, foreseen)
    answer = Answer(unlisted=() if options.exclusive else tuple(unlisted))
    # in check mode, too: what follows from links is seen on a host that has them
    need = [path for each in present for path in gate.lacking(each, foreseen[each.driver], options.files)]
    follows = any(each.follow for each in present) and not turns.check
    kmodctl = follows and not options.kmodctl and following.lacks_kmodctl(host, options.sources)
    if need or kmodctl:
        return answer._replace(need=tuple(need), need_kmodctl=kmodctl)
    work = _Deployment(
        turns, options, foreseen, coming, {each.driver: _Steps(turns) for each in [*absent, *present]}
    )
    gone = _absent(work, absent, shared)
    done = _present(work, present, shared)
    return answer._replace(drivers=(*gone, *done))


def _check(drivers: Sequence[WantedDriver]) -> None:
    named = [names.check_driver(each.driver) for each in drivers]
    for name in named:
        if named.count(name) > 1:
            raise KmodError(name, "is in the list of drivers twice", "Name each driver once", "BAD_OPTION")
    for each in drivers:
        if each.state == "absent" and each.version:
            raise KmodError(
                each.driver,
                "is to be removed, and a version is named",
                "Leave version out to remove the driver, or state to have that version in place of another one",
                "BAD_OPTION",
            )


def _shared(host: Host, present: Sequence[WantedDriver], absent: Sequence[str]) -> List[Shared]:
    """Which drivers share variants and entries: those that are listed, and of the others on the host those that
    follow new kernels, or share some with these already.
    """
    listed = [each.driver for each in present]
    told = settings.read_or_none(host)
    followed = dict(told.drivers if told else {})
    followed.update({each.driver: each.how for each in present})
    followed.update(together.others(host, {*listed, *absent, *followed}, followed))
    for name in absent:
        followed.pop(name, None)
    return [
        # of the others it is what follows new kernels that sees to their trials
        each._replace(asking=tuple(name for name in each.asking if name in listed))
        for each in together.shared(followed, absent)
    ]


# The work


class _Deployment(NamedTuple):
    turns: Turns
    options: Options
    foreseen: Mapping[str, gate.LinkPlan]
    coming: FrozenSet[str]  # names of the modules that are given
    steps: Mapping[str, "_Steps"]  # of each driver

    def of(self, shared: Shared) -> "List[_Steps]":
        return [self.steps[name] for name in shared.drivers if name in self.steps]


class _Started(NamedTuple):
    """What drivers share, as it is now."""

    shared: Shared
    made: variants.Answer
    listed: Optional[entries.Answer] = None
    passed: bool = False  # whether a trial went well that boot asked for
    unforeseen: Tuple[str, ...] = ()  # in check mode: the kernels of whose variants nothing is known yet


def _present(
    work: _Deployment, present: Sequence[WantedDriver], shared: Sequence[Shared]
) -> List[DriverOutcome]:
    turns = work.turns
    for each in shared:
        changes = [name for name in each.drivers if name in work.foreseen and work.foreseen[name].plan]
        if each.boot == "default" and each.entry and turns.host.live and changes:
            # until the new modules have proved themselves
            _take(turns, "entry", work.of(each), entries, entry_options(each, "shipped"))
    linked, configured = {}, {}
    for wanted in present:
        linked[wanted.driver] = _linked(work, wanted, shared)
        loaded = wanted.loading(linked[wanted.driver].outcome.after, work.coming)
        configured[wanted.driver] = work.steps[wanted.driver].take("loading", loadings, loaded)
    started = [_start(work, each) for each in shared]
    follow = {each.driver: work.steps[each.driver].follow(_following(each, work.options)) for each in present}
    refreshed = _refresh(work, [name for name, (_answer, unsettled) in follow.items() if unsettled])
    return [
        _outcome(
            work,
            each,
            linked[each.driver],
            configured[each.driver],
            next((one for one in started if each.driver in one.shared.drivers), None),
            follow[each.driver][0]._replace(refreshed=refreshed),
        )
        for each in present
    ]


def _linked(work: _Deployment, wanted: WantedDriver, shared: Sequence[Shared]) -> links.Answer:
    turns, foreseen = work.turns, work.foreseen[wanted.driver]
    planned: Optional[gate.LinkPlan] = foreseen
    if turns.writes:  # those before it have changed the host
        planned = None
        if foreseen.early:
            plan, answer = links.run(turns.host, wanted.link(work.options.files))
            planned = gate.LinkPlan(plan, answer, early=False)
            gate.refuse(wanted, planned)
            for each in shared:
                gate.refuse_shared(turns.host, each, {wanted.driver: planned})
            loadings.run(turns.host, wanted.loading(answer.outcome.after, work.coming))
    if wanted.load and not turns.check:
        _before_loading(work, wanted, (planned or foreseen).answer)
    linked: links.Answer = work.steps[wanted.driver].take(
        "link", links, wanted.link(work.options.files), planned
    )
    return linked


def _before_loading(work: _Deployment, wanted: WantedDriver, answer: links.Answer) -> None:
    """What is loaded now is to have its parameters. What it replaces is blacklisted only once it is there: a cut
    between leaves no device without either.
    """
    whole = wanted.loading(answer.outcome.after, work.coming)
    if loadings.run(work.turns.host, whole)[0]:
        early = whole._replace(wanted=whole.wanted._replace(blacklist=()))
        work.steps[wanted.driver].take("loading", loadings, early)


def _start(work: _Deployment, shared: Shared, leaving: "Sequence[_Steps]" = ()) -> _Started:
    """The variants and entries of drivers that share them; those that they had before go last. ``leaving`` are
    drivers that shared them until now: nothing is tried yet.
    """
    turns, steps = work.turns, [*work.of(shared), *leaving]
    made: variants.Answer = _take(turns, "variant", steps, variants, variant_options(shared))
    if turns.check and made.unforeseen:
        return _Started(shared, made, unforeseen=tuple(made.unforeseen))
    listed: Optional[entries.Answer] = None
    passed = False
    if shared.entry:
        boot = trial_of(turns.host, shared) if not leaving else "none"
        listed = _take(turns, "entry", steps, entries, entry_options(shared, boot))
        passed = boot != "none" and listed.menu.promote
        if passed and shared.boot == "default":
            listed = _take(turns, "entry", steps, entries, entry_options(shared, "default"))
    _take(turns, "variant", steps, variants, variant_options(shared, state="superseded"))
    return _Started(shared, made, listed, passed)


def _outcome(
    work: _Deployment,
    wanted: WantedDriver,
    linked: links.Answer,
    configured: loadings.Answer,
    started: Optional[_Started],
    follow: following.Answer,
) -> DriverOutcome:
    name = wanted.driver
    made = started.made.of(name) if started else None
    listed = started.listed.of(name) if started and started.listed else None
    tries = started is not None and trial_of(work.turns.host, started.shared) != "none"
    trial = listed.menu.on_trial("pending") if tries and listed else []
    over = started is not None and started.passed and started.shared.boot == "once"
    done = DriverOutcome(
        name,
        wanted.state,
        work.steps[name].changed,
        linked,
        configured,
        made,
        listed,
        follow,
        tuple(trial),
        reboot_needed=bool(trial) or (linked.reboot_needed and not over),
    )
    return done._replace(notes=tuple(_notes(done, linked, started)))


def _following(wanted: WantedDriver, options: Options) -> following.Options:
    return following.Options(
        wanted.driver,
        "present" if wanted.follow else "absent",
        wanted.how,
        options.kmodctl,
        options.sources,
        options.weak_modules,
    )


def _refresh(work: _Deployment, drivers: Sequence[str]) -> Optional[follow.Answer]:
    """Once all is as it is to follow: what the host had not done yet."""
    if not drivers:
        return None
    writes = work.turns.writes
    refreshed = following.refresh(work.turns)
    for name in drivers if work.turns.writes > writes else ():
        work.steps[name].note("follow")
    return refreshed


def _absent(
    work: _Deployment, absent: Sequence[WantedDriver], shared: Sequence[Shared]
) -> List[DriverOutcome]:
    """The other way round, so that nothing is started that is not there.

    The drivers that stay have theirs before those go that they had together.
    """
    turns, gone = work.turns, {each.driver for each in absent}
    follow = {
        each.driver: work.steps[each.driver].follow(following.Options(each.driver, "absent"))[0]
        for each in absent
    }
    there = existing.holding(turns.host, list(gone)) if gone else []
    beside = {name for each in there for name in each.wants.drivers}
    for each in shared:
        if beside & set(each.drivers):
            _start(work, each, leaving=[work.steps[name] for name in gone & beside])
    done = []
    for wanted in absent:
        name, steps = wanted.driver, work.steps[wanted.driver]
        listed = steps.take("entry", entries, entries.Options((name,), "absent", loader=wanted.how.loader))
        made = steps.take("variant", variants, variants.Options((name,), state="absent"))
        configured = steps.take("loading", loadings, loadings.Options(name))
        linked = steps.take("link", links, links.Options(name, state="absent"))
        done.append(
            DriverOutcome(name, wanted.state, steps.changed, linked, configured, made, listed, follow[name])
        )
    return done


def _take(turns: Turns, name: str, steps: "Sequence[_Steps]", command: Any, options: Any) -> Any:
    """One step of several drivers."""
    writes = turns.writes
    answer = turns.carry(lambda host: command.run(host, options))
    for each in steps if turns.writes > writes else ():
        each.note(name)
    return answer


class _Steps:
    """Commands carried out one after another, and which of them changed something."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.changed: Tuple[str, ...] = ()

    def take(self, name: str, command: Any, options: Any, foreseen: Optional[gate.LinkPlan] = None) -> Any:
        """``foreseen`` is what was planned already: it is carried out unless the host has changed."""
        planned = [foreseen] if foreseen else []
        writes = self.turns.writes
        answer = self.turns.carry(lambda host: planned.pop()[:2] if planned else command.run(host, options))
        if self.turns.writes > writes:
            self.note(name)
        return answer

    def follow(self, options: following.Options) -> Tuple[following.Answer, bool]:
        writes = self.turns.writes
        answer = following.arrange(self.turns, options)
        if self.turns.writes > writes:
            self.note("follow")
        return answer

    def note(self, name: str) -> None:
        self.changed = tuple(each for each in STEPS if each in {*self.changed, name})


def _newer(driver: str, linked: links.Answer) -> Iterator[str]:
    """Where somebody has given an older version than the one that stays."""
    given = max((build.version for build in builds(linked.given)), key=version_key, default=None)
    newer = [
        row
        for row in linked.outcome.kernels
        if given is not None and row.build and version_key(row.build.version) > version_key(given)
    ]
    if newer and newer[0].build:
        yield (
            "keeps version %s of the driver %s on %s: that is newer than what was given (%s). To go back, name the version that is wanted: "
            "version of the driver (kmod_version of the role)."
            % (
                newer[0].build.version,
                driver,
                ", ".join(row.kernel for row in newer),
                given or "without a version",
            )
        )


def _notes(done: DriverOutcome, linked: links.Answer, started: Optional[_Started]) -> List[str]:
    """What a person has to know of a driver that is deployed, a sentence or two each."""
    notes = []
    boot = started.shared.boot if started else "none"
    if started and started.unforeseen:
        notes.append(
            "the initramfs variant of %s is built by the distribution's own tool when it is written: its digest, and what "
            "follows from it%s, is not known in check mode."
            % (", ".join(started.unforeseen), " for the boot entry" if started.shared.entry else "")
        )
    notes += done.loading.notes if done.loading else ()
    notes += _newer(done.driver, linked)
    if done.trial:
        notes.append(
            "needs a reboot: the next boot alone tries the driver %s on %s."
            % (done.driver, ", ".join(done.trial))
        )
    elif done.reboot_needed:
        notes.append("needs a reboot: until then it uses other modules than those that it was given.")
    if boot == "default" and done.entry and done.entry.menu.trial == "idle":
        notes.append(
            "came up well in its trial, but none of its devices asked for the driver %s. Nothing is proved, and the default stays as "
            "it was. With early_load (kmod_early_load of the role) the driver is loaded in the trial."
            % done.driver
        )
    if linked.held_back_by is not None and boot == "none":
        notes.append(
            "goes on with other modules, whether it is rebooted or not: its default boot entry loads them out of %s. Set boot "
            "(kmod_boot of the role) to once or default to have it start the entry with the variant."
            % linked.held_back_by
        )
    return notes
