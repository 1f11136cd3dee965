# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a host's drivers to what is wanted of them, in one go: linked, in variants of the initramfs, with
boot entries, followed by new kernels; or gone.

Whatever can be refused is refused before anything is written. A host on which all is as it is wanted is judged
once, and nothing is written.
"""

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from ..judge.verdict import COMPATIBLE
from ..place import store
from ..place.initramfs import existing
from ..place.loading import Loading
from ..place.settings import Followed
from ..plan import Plan
from ..read import names
from ..read.kernel_module import KernelModule
from ..turns import Turns
from . import entry as entries
from . import following
from . import link as links
from . import loading as loadings
from . import variant as variants

TURNS = True
REQUIRE = ("all", "any", "booting", "none")


class WantedDriver(NamedTuple):
    """What is wanted of one driver; see the options of the module kmod_deploy."""

    driver: str
    state: str = "present"
    path: Tuple[str, ...] = ()
    described: Optional[Tuple[KernelModule, ...]] = None
    kernels: Tuple[str, ...] = links.ALL
    require: str = "any"
    load: bool = False
    initrd: bool = True
    method: str = "auto"
    early_load: bool = False
    ignore_tpm: bool = False
    entry: bool = True
    args: str = ""
    fallback_args: Optional[str] = None
    loader: str = "auto"
    copy_of: str = ""
    boot: str = "none"  # none, once, default
    follow: bool = False
    keep_default: bool = False
    ahead: Tuple[str, ...] = ()
    options: Mapping[str, Any] = {}  # noqa: RUF012
    blacklist: Tuple[str, ...] = ()
    softdep: Mapping[str, Any] = {}  # noqa: RUF012
    load_at_boot: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "WantedDriver":
        given: Dict[str, Any] = {name: params[name] for name in cls._fields if params.get(name) is not None}
        given.update(
            {name: tuple(given[name]) for name in ("path", "kernels", "ahead", "blacklist") if name in given}
        )
        if params.get("_described") is not None:
            given["described"] = tuple(map(KernelModule.from_dict, params["_described"]))
        if given.get("fallback_args") == "auto":
            del given["fallback_args"]
        return cls(**given)

    @property
    def enters(self) -> bool:
        return self.initrd and self.entry

    def link(self, files: Optional[Mapping[str, str]]) -> links.Options:
        return links.Options(
            self.driver,
            path=self.path,
            described=self.described,
            files=None if self.described is None else files,
            kernels=self.kernels,
            load=self.load,
            ahead=self.ahead,
        )

    def variant(self, **more: Any) -> variants.Options:
        made = variants.Options(
            (self.driver,), method=self.method, early_load=self.early_load, ignore_tpm=self.ignore_tpm
        )
        return made._replace(**more)

    def menu(self, boot: str, **more: Any) -> entries.Options:
        made = entries.Options(
            self.driver,
            boot=boot,
            args=self.args,
            fallback_args=self.fallback_args,
            loader=self.loader,
            copy_of=self.copy_of,
        )
        return made._replace(**more)

    def loading(self, used: Mapping[str, Any], coming: Iterable[str] = ()) -> loadings.Options:
        wanted = Loading(self.options, self.blacklist, self.softdep, self.load_at_boot)
        return loadings.Options(self.driver, wanted, used, frozenset(coming), self.args)

    def followed(self) -> Followed:
        return Followed(
            kernels=self.kernels,
            initrd=self.initrd,
            method=self.method,
            early_load=self.early_load,
            ignore_tpm=self.ignore_tpm,
            entry=self.entry,
            args=self.args,
            fallback_args="auto" if self.fallback_args is None else self.fallback_args,
            loader=self.loader,
            copy_of=self.copy_of,
            boot=self.boot,
            keep_default=self.keep_default,
        )


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
        steps = {name: getattr(self, name) for name in ("link", "loading", "variant", "entry", "follow")}
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
        lines += ["not in the list, and there: %s" % ", ".join(self.unlisted)] if self.unlisted else []
        return "\n".join(lines)


class _Foreseen(NamedTuple):
    """What linking one driver comes to, as things are. ``early``: it needs symbols of a driver before it in the
    list that is not there yet, so that this is not the last word.
    """

    plan: Plan
    answer: links.Answer
    early: bool


def run(turns: Turns, options: Options) -> Answer:
    """Look at every driver first, then bring one after another to what is wanted.

    Errors: BAD_OPTION, REQUIRE_UNMET, and those of the commands that it is put together from.
    """
    _check(options.drivers)
    host = turns.host
    unlisted = sorted(
        {each.driver for each in store.builds(host)} - {each.driver for each in options.drivers}
    )
    gone = [WantedDriver(name, state="absent") for name in unlisted] if options.exclusive else []
    present = [each for each in options.drivers if each.state == "present"]
    foreseen = _foreseen(host, present, options.files)
    coming = {module.name for each in foreseen.values() for module in each.answer.given}
    for each in present:
        if not foreseen[each.driver].early:
            loadings.run(host, each.loading(foreseen[each.driver].answer.outcome.after, coming))
    answer = Answer(unlisted=() if options.exclusive else tuple(unlisted))
    if not turns.check:
        need = [path for each in present for path in _lacking(each, foreseen[each.driver], options.files)]
        follows = any(each.follow for each in present)
        kmodctl = follows and not options.kmodctl and following.lacks_kmodctl(host, options.sources)
        if need or kmodctl:
            return answer._replace(need=tuple(need), need_kmodctl=kmodctl)
    done = [_absent(turns, each) for each in [*gone, *options.drivers] if each.state == "absent"]
    done += [_present(turns, each, foreseen[each.driver], options, coming) for each in present]
    return answer._replace(drivers=tuple(done))


def _check(drivers: Sequence[WantedDriver]) -> None:
    named = [names.check_driver(each.driver) for each in drivers]
    for name in named:
        if named.count(name) > 1:
            raise KmodError(name, "is in the list of drivers twice", "Name each driver once", "BAD_OPTION")
    tried = [each.driver for each in drivers if each.state == "present" and each.boot != "none"]
    if len(tried) > 1:
        raise KmodError(
            " and ".join(tried),
            "are both to be tried by the next boot, which can start one entry",
            "Leave boot at none for all but one of them",
            "BAD_OPTION",
        )


# Before anything is written


def _foreseen(
    host: Host, drivers: Sequence[WantedDriver], files: Optional[Mapping[str, str]]
) -> Dict[str, _Foreseen]:
    """Errors: those of ``_gate``."""
    found: Dict[str, _Foreseen] = {}
    for wanted in drivers:
        plan, answer = links.run(host, wanted.link(files))
        to_come = [each.answer.given for each in found.values() if each.plan]
        early = bool(answer.unserved) and any(_uses(answer.given, given) for given in to_come)
        found[wanted.driver] = _Foreseen(plan, answer, early)
        if not early:
            _gate(host, wanted, found[wanted.driver])
    return found


def _uses(modules: Sequence[KernelModule], others: Sequence[KernelModule]) -> bool:
    """Whether they need a symbol that the others export."""
    exported = {export.name for module in others for export in module.exports}
    return any(needed.name in exported for module in modules for needed in module.undefined)


def _lacking(wanted: WantedDriver, foreseen: _Foreseen, files: Optional[Mapping[str, str]]) -> List[str]:
    """The files on the controller that are wanted here."""
    if files is not None or not (foreseen.early or foreseen.answer.waits):
        return []
    if foreseen.early:  # which builds it comes to is not known yet
        return [module.path for module in wanted.described or ()]
    return list(foreseen.answer.outcome.need)


def _gate(host: Host, wanted: WantedDriver, foreseen: _Foreseen) -> None:
    """Refuse what can be refused before anything is written, and say so.

    Errors: REQUIRE_UNMET, those of ``state: possible`` of the other commands.
    """
    answer = foreseen.answer
    takers = [row.kernel for row in answer.outcome.kernels if row.verdict == COMPATIBLE]
    unmet = {
        "none": False,
        "any": not takers,
        "all": len(takers) < len(answer.outcome.kernels),
        "booting": any(row.boots for row in answer.unserved),
    }
    if unmet[wanted.require]:
        raise KmodError(
            wanted.driver,
            "%s, and require is %s" % (answer.reasons, wanted.require),
            "Deploy builds for them, or require less. Nothing of it has been written",
            "REQUIRE_UNMET",
        )
    # where nothing new is linked, and there are variants already, there is nothing that is not tried below
    new = set(takers) - set(existing.images(host, wanted.driver))
    if wanted.initrd and takers and (foreseen.plan or new):
        _possible(host, wanted, takers)


def _possible(host: Host, wanted: WantedDriver, kernels: Sequence[str]) -> None:
    """That variants and entries can be had, and how to do without where not."""
    steps: List[Any] = [("initrd", variants, wanted.variant(state="possible", kernels=tuple(kernels)))]
    if wanted.entry:
        options = wanted.menu(_boot(host, wanted), state="possible", kernels=tuple(kernels))
        steps.append(("entry", entries, options))
    for option, command, given in steps:
        try:
            command.run(host, given)
        except KmodError as error:
            without = "boot entry" if option == "entry" else "initramfs variant or boot entry"
            raise KmodError(
                error.what,
                error.why,
                "%s. Nothing of it has been written. With %s: false (kmod_%s of the role) no %s is made"
                % (error.then.rstrip("."), option, option, without),
                error.code,
            ) from error


def _boot(host: Host, wanted: WantedDriver) -> str:
    """What the entry is asked for: the default only ever comes after a trial, and there is none elsewhere."""
    return "once" if wanted.boot != "none" and host.live else "none"


# One driver


def _present(
    turns: Turns, wanted: WantedDriver, foreseen: _Foreseen, options: Options, coming: Iterable[str]
) -> DriverOutcome:
    host, steps = turns.host, _Steps(turns)
    planned: Optional[_Foreseen] = foreseen
    if turns.writes:  # those before it have changed the host
        planned = None
        if foreseen.early and not turns.check:
            plan, answer = links.run(host, wanted.link(options.files))
            planned = _Foreseen(plan, answer, early=False)
            _gate(host, wanted, planned)
            loadings.run(host, wanted.loading(answer.outcome.after, coming))
    boot = _boot(host, wanted)
    tries = boot != "none" and wanted.enters
    if wanted.boot == "default" and tries and foreseen.plan:
        # until the new modules have proved themselves
        steps.take("entry", entries, wanted.menu("shipped"))
    if wanted.load and not turns.check:
        _before_loading(steps, wanted, (planned or foreseen).answer, coming)
    linked: links.Answer = steps.take("link", links, wanted.link(options.files), planned)
    configured = steps.take("loading", loadings, wanted.loading(linked.outcome.after, coming))
    made = steps.take("variant", variants, wanted.variant()) if wanted.initrd else None
    listed: Optional[entries.Answer] = None
    if wanted.enters:
        listed = steps.take("entry", entries, wanted.menu(boot))
    passed = tries and bool(listed and listed.menu.promote)
    if passed and wanted.boot == "default":
        listed = steps.take("entry", entries, wanted.menu("default"))
    follow = steps.follow(_following(wanted, options))
    trial = listed.menu.on_trial("pending") if tries and listed else []
    over = passed and wanted.boot == "once"
    done = DriverOutcome(
        wanted.driver,
        wanted.state,
        steps.changed,
        linked,
        configured,
        made,
        listed,
        follow,
        tuple(trial),
        reboot_needed=bool(trial) or (linked.reboot_needed and not over),
    )
    return done._replace(notes=tuple(_notes(turns, wanted, done, linked=linked)))


def _before_loading(
    steps: "_Steps", wanted: WantedDriver, answer: links.Answer, coming: Iterable[str]
) -> None:
    """What is loaded now is to have its parameters. What it replaces is blacklisted only once it is there: a cut
    between leaves no device without either.
    """
    whole = wanted.loading(answer.outcome.after, coming)
    if loadings.run(steps.turns.host, whole)[0]:
        steps.take("loading", loadings, whole._replace(wanted=whole.wanted._replace(blacklist=())))


def _following(wanted: WantedDriver, options: Options) -> following.Options:
    return following.Options(
        wanted.driver,
        "present" if wanted.follow else "absent",
        wanted.followed(),
        options.kmodctl,
        options.sources,
        options.weak_modules,
    )


def _absent(turns: Turns, wanted: WantedDriver) -> DriverOutcome:
    """The other way round, so that nothing is started that is not there."""
    steps = _Steps(turns)
    follow = steps.follow(following.Options(wanted.driver, "absent"))
    listed = steps.take("entry", entries, entries.Options(wanted.driver, "absent", loader=wanted.loader))
    made = steps.take("variant", variants, variants.Options((wanted.driver,), state="absent"))
    configured = steps.take("loading", loadings, loadings.Options(wanted.driver))
    linked = steps.take("link", links, links.Options(wanted.driver, state="absent"))
    return DriverOutcome(wanted.driver, wanted.state, steps.changed, linked, configured, made, listed, follow)


class _Steps:
    """Commands carried out one after another, and which of them changed something."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.changed: Tuple[str, ...] = ()

    def take(self, name: str, command: Any, options: Any, foreseen: Optional[_Foreseen] = None) -> Any:
        """``foreseen`` is what was planned already: it is carried out unless the host has changed."""
        planned = [foreseen] if foreseen else []
        writes = self.turns.writes
        answer = self.turns.carry(lambda host: planned.pop()[:2] if planned else command.run(host, options))
        self._note(name, writes)
        return answer

    def follow(self, options: following.Options) -> following.Answer:
        writes = self.turns.writes
        answer = following.run(self.turns, options)
        self._note("follow", writes)
        return answer

    def _note(self, name: str, writes: int) -> None:
        if self.turns.writes > writes and name not in self.changed:
            self.changed += (name,)


def _notes(turns: Turns, wanted: WantedDriver, done: DriverOutcome, *, linked: links.Answer) -> List[str]:
    """What a person has to know of a driver that is deployed, a sentence or two each."""
    served = [row.kernel for row in linked.outcome.kernels if row.build]
    notes = []
    if turns.check and "link" in done.changed and wanted.initrd and served:
        notes.append(
            "check mode links nothing, so what follows from new links is not shown here. A real run also makes %s (for the first "
            "time, or again) for %s."
            % (
                "an initramfs variant and a boot entry" if wanted.entry else "an initramfs variant",
                ", ".join(served),
            )
        )
    notes += done.loading.notes if done.loading else ()
    if done.trial:
        notes.append(
            "needs a reboot: the next boot alone tries the driver %s on %s."
            % (wanted.driver, ", ".join(done.trial))
        )
    elif done.reboot_needed:
        notes.append("needs a reboot: until then it uses other modules than those that it was given.")
    if wanted.boot == "default" and done.entry and done.entry.menu.trial == "idle":
        notes.append(
            "came up well in its trial, but none of its devices asked for the driver %s. Nothing is proved, and the default stays as "
            "it was. With early_load (kmod_early_load of the role) the driver is loaded in the trial."
            % wanted.driver
        )
    if linked.held_back_by is not None and wanted.boot == "none":
        notes.append(
            "goes on with other modules, whether it is rebooted or not: its default boot entry loads them out of %s. Set boot "
            "(kmod_boot of the role) to once or default to have it start the entry with the variant."
            % linked.held_back_by
        )
    return notes
