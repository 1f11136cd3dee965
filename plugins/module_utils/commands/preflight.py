# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Say what becomes of a host's drivers: on the kernels that it has, and on those that it would get.

The answer is the host's record: plain data, by which a fleet is counted, builds are planned, kernels are held.
"""

import contextlib
import hashlib
import os
import re
import time
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from .. import lock
from ..errors import KmodError, forgiving
from ..host import Host
from ..judge import candidates, predict
from ..judge.candidates import DriverVerdict
from ..judge.selection import Build, Choice, builds, rank
from ..judge.subject import Subject
from ..judge.verdict import COMPATIBLE, UNKNOWN
from ..place import hooks, notice, store, today
from ..place.boot import shipped
from ..place.driver import Deployed, deployed
from ..place.today import Amiss, HeldBack
from ..plan import Plan
from ..read import inputs, kernel_package, kernels, names, os_release, runtime
from ..read.kernel_module import KernelModule
from ..read.kernel_package import KernelSource, UninstalledKernel
from ..read.kernels import Kernel, version_key
from ..read.offered import offers
from ..read.offered.manager import OfferedKernel, OfferedPackage, packages_of

LOOKS = True  # nothing is planned
VERSION = 1  # of the record: what reads one refuses a newer one
OLD = 7  # days after which a person is told how old the lists are


class GivenDriver(NamedTuple):
    """Modules, and what they are called; neither, where nothing is given."""

    driver: str = ""
    path: Tuple[str, ...] = ()
    described: Tuple[KernelModule, ...] = ()

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "GivenDriver":
        return cls(
            params["driver"] or "",
            tuple(params["path"] or ()),
            tuple(KernelModule.from_dict(module) for module in params["_described"] or ()),
        )


class Options(NamedTuple):
    """Those of the module kmod_preflight."""

    drivers: Tuple[str, ...] = ()  # of the host's store; all of them where none is named
    given: Tuple[GivenDriver, ...] = ()  # these modules count instead of what the host has of the driver
    kernel: Tuple[KernelSource, ...] = ()
    require: str = "none"
    defer: bool = False  # what has to be fetched is left to who asks, with what it takes to judge it there
    fetch: Tuple[OfferedPackage, ...] = ()  # nothing but fetch these
    into: str = ""  # into this directory of the machine

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        return cls(
            drivers=tuple(params["drivers"] or ()),
            given=tuple(GivenDriver.from_params(each) for each in [params, *(params["given"] or ())]),
            kernel=tuple(KernelSource.from_params(each) for each in params["kernel"] or ()),
            require=params["require"],
            defer=bool(params["_defer"]),
            fetch=packages_of(params["_fetch"] or ()),
            into=params["_into"] or "",
        )


class PossibleKernel(NamedTuple):
    """``state`` is running, installed or offered; ``newest`` among those of its state, see ``extended``."""

    kernel: str
    state: str
    newest: bool
    origin: Tuple[str, ...] = ()
    packages: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), origin=list(self.origin), packages=list(self.packages))


class Lists(NamedTuple):
    """What is to be said of a package manager's lists; ``error`` also where a kernel of theirs could not be
    fetched.
    """

    manager: Optional[str] = None
    age: Optional[int] = None  # seconds
    error: Optional[str] = None
    code: Optional[str] = None
    missing: Tuple[str, ...] = ()  # repositories whose lists were never fetched

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), missing=list(self.missing))


class Judgement(NamedTuple):
    """What was found out of one kernel: what it takes of each driver, and what builds are planned by."""

    kernel: PossibleKernel
    choices: Dict[str, Choice]
    facts: Dict[str, predict.KernelFacts]  # by driver
    code: str = ""  # why nothing could be found out, where that is so
    beside: FrozenSet[str] = frozenset()  # symbols that may come along with other modules

    @property
    def verdicts(self) -> List[DriverVerdict]:
        found = [candidates.summary(driver, choice) for driver, choice in self.choices.items()]
        if self.code:
            return [each._replace(exact=False, codes=(self.code,)) for each in found]
        return [candidates.opened(each, self.beside) for each in found]

    @property
    def well(self) -> bool:
        return all(each.verdict == COMPATIBLE for each in self.verdicts)


class Answer(NamedTuple):
    """``drivers`` are the builds of each; ``judged`` goes by kernel, the installed ones first."""

    about: Dict[str, Any]  # what the record says of the host itself
    drivers: Dict[str, Tuple[Build, ...]]
    judged: Tuple[Judgement, ...]
    today: Tuple[Amiss, ...]
    held: Tuple[HeldBack, ...]
    require: str
    subject: Optional[Subject] = None  # where some are deferred
    deferred: Tuple[OfferedKernel, ...] = ()

    @property
    def lost(self) -> List[str]:
        """What the required kernels do not take, a line each."""
        return [
            "%s: %s: %s" % (each.kernel.kernel, verdict.driver, verdict.why)
            for each in self.judged
            if self.require == "all" or each.kernel.state == "offered"
            for verdict in each.verdicts
            if verdict.verdict != COMPATIBLE
        ]

    @property
    def failed(self) -> bool:
        return self.require != "none" and bool(self.lost or self.about["error"])

    @property
    def msg(self) -> str:
        if self.about["error"]:
            return str(self.about["error"])
        if not self.drivers:
            return "There is no driver in the store."
        offered = [each for each in self.judged if each.kernel.state == "offered"]
        there = [each for each in self.judged if each not in offered]
        line = "%s: %d of %d installed kernels, %d of %d on offer" % (
            ", ".join(self.drivers),
            *(len([each for each in there if each.well]), len(there)),
            *(len([each for each in offered if each.well]), len(offered)),
        )
        return "; ".join([line, *self._replace(require="offered").lost, *self._old])

    @property
    def _old(self) -> List[str]:
        lists = self.about["lists"]
        days = (lists["age"] or 0) // 86400
        return ["the lists of %s are %d days old" % (lists["manager"], days)] if days >= OLD else []

    def as_dict(self) -> Dict[str, Any]:
        found: Dict[str, Any] = {"msg": self.msg, "record": self.record}
        if self.subject:
            offered = [each.as_dict() for each in self.deferred]
            found.update(subject=self.subject.as_dict(), deferred=offered)
        return found

    @property
    def record(self) -> Dict[str, Any]:
        newest = {
            driver: max(found, key=lambda build: rank("", build)) for driver, found in self.drivers.items()
        }
        bare = dict(
            self.about,
            drivers=[
                {
                    "driver": driver,
                    "version": newest[driver].version or None,
                    "builds": [
                        {"kernel": build.release, "version": build.version or None} for build in found
                    ],
                    "modules": sorted({module.name for build in found for module in build.modules}),
                }
                for driver, found in self.drivers.items()
            ],
            kernels=[],
            verdicts=[],
            today=[dict(row._asdict()) for row in self.today],
            held=[row.as_dict() for row in self.held],
            needs={
                driver: predict.needs(modules).as_dict()
                for driver, modules in candidates.planned_by(self.drivers).items()
            },
            facts={driver: {} for driver in self.drivers},
        )
        return extended(bare, self.judged)


class Fetched(NamedTuple):
    """Packages that were fetched: the name of each file and its SHA-256."""

    files: Dict[str, str]

    def as_dict(self) -> Dict[str, Any]:
        return {"msg": "fetched %s" % ", ".join(sorted(self.files)), "files": self.files}


def extended(record: Dict[str, Any], judged: Iterable[Judgement]) -> Dict[str, Any]:
    """A record with what was found out of more kernels.

    ``newest`` are those that boots are expected to start once the host is updated.
    """
    found = list(judged)
    kernels_ = [*record["kernels"], *(each.kernel.as_dict() for each in found)]
    if any(row["newest"] and row["state"] == "offered" for row in kernels_):
        kernels_ = [dict(row, newest=row["newest"] and row["state"] == "offered") for row in kernels_]
    verdicts = [
        dict(verdict.as_dict(), state=each.kernel.state) for each in found for verdict in each.verdicts
    ]
    facts = {
        driver: dict(
            of_kernels,
            **{each.kernel.kernel: each.facts[driver].as_dict() for each in found if driver in each.facts},
        )
        for driver, of_kernels in record["facts"].items()
    }
    return dict(record, kernels=kernels_, verdicts=record["verdicts"] + verdicts, facts=facts)


def run(host: Host, options: Options) -> Tuple[Plan, Any]:
    """Judge every driver against every kernel; or fetch packages that a call before has named.

    Errors: DRIVER_UNKNOWN, DRIVER_NAME, BAD_OPTION, those of reading modules, of ``kernel_package.opened`` and
    of ``offers.fetch``.
    """
    if options.fetch:
        return Plan(host), _fetch(host, options)
    there = _stored(host, options)
    drivers = {each.driver: each.builds for each in there if each.builds}
    drivers.update(_given(host, options))
    # what is in the store for a driver is judged anew, not found in place
    ours = re.compile(
        r"/(extra|weak-updates(/outoftree\.kmod)?)/(%s)/" % "|".join(map(re.escape, drivers or ["/"]))
    ).search
    subject = _subject(host, drivers)
    judged = list(_judge(kernels.installed(host), host, drivers, without=ours))
    plain = [source for source in options.kernel if not source.offered]
    if plain:
        with kernel_package.opened(host, plain) as found:
            judged += _judge(found, host, drivers, beside=subject.beside)
    lists, deferred = Lists(), []
    for source in options.kernel:
        if source.offered:
            lists, offered, left = _offered(host, source, subject, defer=options.defer)
            judged += offered
            deferred += left
    installed = kernels.installed(host)
    choices = {each.kernel.kernel: each.choices for each in judged if each.kernel.state != "offered"}
    return Plan(host), Answer(
        _about(host, installed, lists),
        drivers,
        tuple(judged),
        tuple(today.amiss(host, installed, there, choices=choices)),
        tuple(today.held(host)),
        options.require,
        subject if options.defer else None,
        tuple(deferred),
    )


def _fetch(host: Host, options: Options) -> Fetched:
    here = Host("/")
    os.makedirs(options.into, 0o755)
    with lock.scratch(here) as scratch:
        paths = offers.fetch(offers.asking(host, scratch), options.fetch, options.into)
    # who takes them from here, and removes them, is who made the directory above
    above = os.stat(os.path.dirname(options.into))
    for path in [*paths, options.into] if os.geteuid() == 0 else ():
        os.chown(path, above.st_uid, above.st_gid)
    return Fetched({os.path.basename(path): hashlib.sha256(here.read(path)).hexdigest() for path in paths})


def _stored(host: Host, options: Options) -> List[Deployed]:
    """The drivers of the store that are meant."""
    known = sorted({stored.driver for stored in store.builds(host)})
    for name in options.drivers:
        if name not in known and name not in [each.driver for each in options.given]:
            raise KmodError(
                name,
                "there is no driver of this name on %s" % host.root,
                "On this host: " + (", ".join(known) or "none"),
                "DRIVER_UNKNOWN",
            )
    return [deployed(host, name) for name in known if name in (options.drivers or known)]


def _given(host: Host, options: Options) -> Dict[str, Tuple[Build, ...]]:
    found = {}
    for each in options.given:
        modules = list(each.described) + [module for module, _packed in inputs.modules(host, each.path)]
        if bool(modules) != bool(each.driver):
            raise KmodError(
                "driver",
                "is the name of the modules that are given by src or path",
                "Give both, or leave both out; drivers names those that the host has",
                "BAD_OPTION",
            )
        if each.driver in found:
            raise KmodError(each.driver, "is given twice", "Give it once", "BAD_OPTION")
        if modules:
            found[names.check_driver(each.driver)] = tuple(builds(modules))
    return found


def _judge(
    chosen: List[Any],
    host: Host,
    drivers: Mapping[str, Sequence[Build]],
    *,
    without: Any = lambda path: False,
    beside: FrozenSet[str] = frozenset(),
) -> Iterator[Judgement]:
    """Each kernel is read once for all drivers, and let go of: its exports take some 10 MiB."""
    newest = max((kernel.release for kernel in chosen), key=version_key, default=None)
    while chosen:
        kernel = chosen.pop(0)
        origin = kernel.origin if isinstance(kernel, UninstalledKernel) else ()
        state = "offered" if origin else "running" if kernel.running else "installed"
        seen = PossibleKernel(kernel.release, state, kernel.release == newest, tuple(origin))
        choices = candidates.choices(kernel, drivers, candidates.now(host, kernel), without=without)
        yield Judgement(seen, choices, _facts(kernel, drivers, ""), beside=beside)


def judged_offer(
    found: Sequence[UninstalledKernel], offer: OfferedKernel, subject: Subject
) -> Iterator[Judgement]:
    """What a host's drivers are to a kernel that it was offered, by what was found in its packages."""
    for kernel in found:
        seen = seen_offer(offer)._replace(kernel=kernel.release, origin=kernel.origin)
        choices = candidates.choices(kernel, subject.drivers, subject.runtime)
        facts = _facts(kernel, subject.drivers, subject.like)
        yield Judgement(seen, choices, facts, beside=subject.beside)


def _facts(
    kernel: Kernel, drivers: Mapping[str, Sequence[Build]], like: str
) -> Dict[str, predict.KernelFacts]:
    """``like``: the version magic of the host's newest kernel. Of a kernel of which only the lists were seen
    the flags are taken to be those: it is refused whatever they are, and a build that is planned by them is
    judged.
    """
    found = {}
    for driver, modules in candidates.planned_by(drivers).items():
        with contextlib.suppress(KmodError):  # there is nothing with its CRCs; the verdict says so
            facts = predict.facts(kernel, predict.needs(modules).symbols)
            if facts.vermagic is None and like:
                flags = like.partition(" ")[2]
                machine = modules[0].machine
                facts = facts._replace(vermagic="%s %s" % (kernel.release, flags), machine=machine)
            found[driver] = facts
    return found


def _subject(host: Host, drivers: Dict[str, Tuple[Build, ...]]) -> Subject:
    """What is to be known of the host for kernels to come."""
    installed = kernels.installed(host)
    newest = next((each for each in reversed(installed) if each.vermagic), None)
    now = runtime.facts(Kernel(host, "", ""))
    if newest is None:
        return Subject(drivers, now)
    return Subject(drivers, now, newest.vermagic or "", candidates.beside(host, newest, drivers.values()))


def _offered(
    host: Host, source: KernelSource, subject: Subject, *, defer: bool
) -> Tuple[Lists, List[Judgement], List[OfferedKernel]]:
    """What the package manager offers. What cannot be told is said, and hinders nothing else.

    ``defer``: what is to be fetched is not, but is the last of the answers.
    """
    judged: List[Judgement] = []
    deferred: List[OfferedKernel] = []
    with contextlib.ExitStack() as stack:
        lists = Lists()
        try:
            lists = Lists(offers.detect(host).name)
            asked = offers.asking(host, stack.enter_context(lock.scratch(Host("/"))))
            found = offers.offers(asked, source.offered)
        except KmodError as error:
            return lists._replace(error=str(error), code=error.code), [], []
        lists = lists._replace(age=found.age, missing=found.missing)
        for offer in found.kernels:
            if not subject.drivers:
                judged.append(Judgement(seen_offer(offer), {}, {}))
                continue
            try:
                with contextlib.ExitStack() as once:
                    there = _opened(asked, offer, once, source=source, subject=subject, defer=defer)
                    judged += judged_offer(there, offer, subject)
                    deferred += [] if there else [offer]
            except KmodError as error:
                lists = lists._replace(error=str(error), code=error.code)
                judged.append(untold(offer, subject.drivers, error))
    return lists, judged, deferred


def _opened(
    asked: offers.Asking,
    offer: OfferedKernel,
    stack: contextlib.ExitStack,
    *,
    source: KernelSource,
    subject: Subject,
    defer: bool,
) -> List[UninstalledKernel]:
    """None of what is to be deferred."""

    def enough(kernel: UninstalledKernel) -> bool:
        return candidates.refused(kernel, subject.drivers.values())

    if not defer:
        return kernel_package.of_offer(asked, offer, stack, whole=source.whole, enough=enough)
    seen = None if source.whole else kernel_package.of_lists(asked, offer, stack)
    return [seen] if seen and enough(seen) else []


def untold(offer: OfferedKernel, drivers: Iterable[str], error: KmodError) -> Judgement:
    """Of a kernel that could not be fetched or read."""
    choices = {driver: Choice(offer.release, None, UNKNOWN, str(error)) for driver in drivers}
    return Judgement(seen_offer(offer), choices, {}, error.code)


def seen_offer(offer: OfferedKernel) -> PossibleKernel:
    packages = tuple(map(str, offer.whole))
    return PossibleKernel(offer.release, "offered", offer.newest, (offer.lists,), packages)


def _about(host: Host, installed: Sequence[Kernel], lists: Lists) -> Dict[str, Any]:
    default = None
    with forgiving():
        default = notice.started_by(shipped.default(host), [kernel.release for kernel in installed])
    machine = next((kernel.machine for kernel in reversed(installed) if kernel.machine), None)
    return {
        "version": VERSION,
        "host": os.uname().nodename if host.live else host.root,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "family": hooks.family(host),
        "distribution": os_release.name(host),
        "machine": os.uname().machine if host.live else machine,
        "running": next((kernel.release for kernel in installed if kernel.running), None),
        "default": default,
        "error": lists.error,
        "lists": lists.as_dict(),
    }
