# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""New boot entries beside the shipped ones: planned as a whole, and read back before anything is written."""

import os
import re
from typing import Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError, SystemFailed, printable
from ...host import Host
from ...plan import Plan
from ...read import names
from ...read.kernels import version_key
from ..texts import MARKER
from . import loaders, promises, trials, withdraw
from .answer import EntryAnswer, EntryRow
from .boot_loader import Installation
from .menu import FALLBACK_ARGS, Entry, Menu, New, Verified, check_args, same
from .menu import release as release_of
from .shipped import choose, initrd_word, locate
from .view import View


class Request(NamedTuple):
    """What is asked for besides the kernels."""

    driver: str  # or several, see names.together
    args: str = ""
    fallback_args: Optional[str] = None  # None: FALLBACK_ARGS, until the entry is the default
    boot: str = "none"  # none, once, default, shipped
    copy_of: str = ""  # title or id of the entry to copy
    loader: str = loaders.AUTO
    # whether the kernels are all that have a variant with the drivers, and not some that were named
    all_kernels: bool = False
    # whether each kernel gets an entry of those of the drivers that it has: others with any of them go, as
    # long as all of theirs are ``known``
    each: bool = False
    known: Tuple[str, ...] = ()
    # arguments that are those of one driver, and the drivers that ask for ``boot``
    args_of: Tuple[Tuple[str, str], ...] = ()
    asking: Tuple[str, ...] = ()

    @property
    def drivers(self) -> Tuple[str, ...]:
        return names.apart(self.driver)

    @property
    def told(self) -> str:
        return trials.told(self.driver)

    def args_for(self, driver: str) -> str:
        """What is appended for an entry of these drivers: of several each word once."""
        drivers = names.apart(driver)
        given = [args for each, args in self.args_of if each in drivers] if self.each else [self.args]
        return (
            "".join(given)
            if len(drivers) == 1 or not self.each
            else " ".join(dict.fromkeys(" ".join(given).split()))
        )


class Intended(NamedTuple):
    """An entry that is to be, and what is known of its trial."""

    new: New
    trial: trials.Trial


def present(host: Host, request: Request, kernels: Mapping[str, Verified]) -> Tuple[Plan, EntryAnswer]:
    """Plan an entry of the driver for each kernel: release to the initramfs images on the host, newest kernel
    last.

    Damaged images are refused, unless the shipped default is to be restored: that is so whatever is wrong
    with an entry.
    """
    try:
        return _present(host, request, kernels)
    except KmodError as error:
        if request.boot != "shipped" or error.code == "DEFAULT_KEPT" or isinstance(error, SystemFailed):
            raise
        return _present(host, request, {})


def _present(host: Host, request: Request, kernels: Mapping[str, Verified]) -> Tuple[Plan, EntryAnswer]:
    at, view = _start(host, request, kernels)
    before = at.menu(view)
    if request.boot != "shipped":
        loaders.check_known(host)
    if request.boot in ("once", "default") and before.default and before.default.xen:
        raise KmodError(
            before.default.title,
            "is what boots start, with the Xen hypervisor; entries of %s are copies of those without it"
            % request.told,
            "Choose the entry in the boot menu, or make one without Xen the default first",
            "DEFAULT_XEN",
        )
    kernels = _named(request, before, _whole(host, request, before, kernels=kernels))
    target = _target(at, request, before, kernels=kernels)
    now = os.uname().release
    running = trials.proof(
        host,
        kernels[now].driver if now in kernels else request.driver,
        before,
        marks={release: images.mark for release, images in kernels.items()},
    )
    wanted = {
        release: _intended(
            host,
            request,
            before,
            at=at,
            running=running,
            release=release,
            images=images,
            target=release == target,
        )
        for release, images in kernels.items()
    }
    made = {release: each.new for release, each in wanted.items()}
    tried = wanted[target] if target and wanted[target].trial.starts else None
    if tried or request.boot == "shipped":  # what is on trial is no default, at no time
        withdraw.restore(view, at, request.drivers)
        view.then()
    for new in made.values():
        at.loader.add(view, at, new)
    _drop_doubled(view, at, before, made=made)
    gone = [
        entry
        for entry in before.with_any(request.drivers)
        if (
            _superseded(request, entry, kernels)
            if entry.kernel in kernels
            else locate(host, entry.linux) is None
        )
    ]
    withdraw.drop(view, at, gone)
    if target and request.boot == "default":
        at.loader.set_default(view, at, at.menu(view).ours(kernels[target].driver, target))
    elif tried:
        at.loader.set_once(view, at, at.menu(view).ours(tried.new.driver, tried.new.kernel))
        view.then()  # a run that is cut off before the trial is arranged must not look like one that failed
        at.loader.add(view, at, tried.new._replace(trial=tried.trial.remark))
    after = at.menu(view)
    asked = request.boot != "none" or any(same(before.default, entry) for entry in gone)
    promises.check_menu(at, before, after, made=made.values(), asked=asked)
    fallback = FALLBACK_ARGS.split() if request.fallback_args is None else []
    for each in wanted.values():
        entry = after.ours(each.new.driver, each.new.kernel)
        promises.check_lines(view, at, each.new, entry=entry, trial=each is tried, fallback=fallback)
    meant = after.ours(kernels[target].driver, target) if target and request.boot == "default" else None
    started = after.default if after.default in after.with_any(request.drivers) else None
    if not same(started, meant) and (meant or tried or request.boot == "shipped"):
        raise KmodError(
            at.config,
            "would go on to start %r" % (after.default and after.default.title),
            "Set the default by hand",
            "DEFAULT_KEPT",
        )
    rows = [_row(before, after, each.new, trial=each.trial.state) for each in wanted.values()]
    return view.plan(), _answer(at, request.driver, after, rows=rows, running=running)


def _superseded(request: Request, entry: Entry, kernels: Mapping[str, Verified]) -> bool:
    """Whether an entry of another set of drivers goes, now that there is one of those that its kernel has."""
    return (
        request.each
        and request.boot != "shipped"
        and entry.driver != kernels[entry.kernel or ""].driver
        and all(driver in request.known for driver in names.apart(entry.driver or ""))
    )


def _start(host: Host, request: Request, kernels: Mapping[str, Verified]) -> Tuple[Installation, View]:
    """The boot loader, and its files as they are; what is asked for has no faults in itself."""
    names.together(request.drivers)  # they can be drivers' names
    for args in [request.args] + [args for _driver, args in request.args_of]:
        check_args(args)
    check_args(request.fallback_args or "")
    for release in kernels:
        names.check_release(release, "kernels")
    return loaders.detect(host, request.loader), View(host)


def _whole(
    host: Host, request: Request, before: Menu, *, kernels: Mapping[str, Verified]
) -> Dict[str, Verified]:
    """The kernels whose images may be started: all of them, or an error.

    Where the shipped default is to be restored, others are left alone.
    """
    if request.boot == "shipped":
        return {release: images for release, images in kernels.items() if images.damage is None}
    for entry in before.with_any(request.drivers) if request.all_kernels else ():
        if entry.kernel not in kernels and locate(host, entry.linux):
            raise KmodError(
                entry.title,
                "starts %s with %s, which is not a whole variant with the driver %s"
                % (entry.kernel, " ".join(entry.initrd), request.told),
                "Make the variant again (outoftree.kmod.initrd_variant), or remove the entry (state: absent)",
                "VARIANT_DAMAGED",
            )
    for images in kernels.values():
        if images.damage:
            raise images.damage
    return dict(kernels)


def _named(request: Request, before: Menu, kernels: Mapping[str, Verified]) -> Dict[str, Verified]:
    """The same, with whose each entry is to be: of the drivers that were asked for; or of those of its variant
    where ``each``, or where there is such an entry, and none of the former.
    """
    own = request.driver
    there = {(entry.driver, entry.kernel) for entry in before.entries}
    return {
        release: images._replace(
            driver=images.driver
            if images.driver
            and (request.each or ((images.driver, release) in there and (own, release) not in there))
            else own
        )
        for release, images in kernels.items()
    }


def _target(
    at: Installation, request: Request, before: Menu, *, kernels: Mapping[str, Verified]
) -> Optional[str]:
    """The kernel that is meant where boots are to start something else: that of the default, else the newest
    in the menu.

    Where that is none of the kernels, the newest of those that were named; another than what boots start is
    not chosen in silence.
    """
    shown = [each for each in map(release_of, before.entries) if each]
    boots_now = (release_of(before.default) if before.default else None) or max(
        shown, key=version_key, default=None
    )
    if boots_now is not None and boots_now in kernels:
        here = set(request.asking) & set(names.apart(kernels[boots_now].driver))
        if request.each and not here and request.boot in ("once", "default"):
            raise _lacks(boots_now, ", ".join(request.asking))
    if not kernels or boots_now in kernels:
        return boots_now if kernels else None
    newest = list(kernels)[-1]
    if request.all_kernels and request.boot in ("once", "default"):
        raise _lacks(boots_now or at.config, request.told, "; %s has one" % newest)
    return newest


def _lacks(kernel: str, drivers: str, more: str = "") -> KmodError:
    return KmodError(
        kernel,
        "is the kernel that boots start, and has no initramfs variant with %s%s" % (drivers, more),
        "Make the variant (outoftree.kmod.initrd_variant), or name in kernels the one to start instead",
        "VARIANT_MISSING",
    )


def _intended(
    host: Host,
    request: Request,
    before: Menu,
    *,
    at: Installation,
    running: trials.Running,
    release: str,
    images: Verified,
    target: bool,
) -> Intended:
    """The entry for a kernel; ``target`` if it is that one which boots start, if they start any of the
    driver's.
    """
    shipped = choose(host, at, before, release=release, copy_of=request.copy_of)
    named, replaces = _initrd(host, shipped, release, images=images.paths)
    old = next(
        (each for each in before.entries if (each.driver, each.kernel) == (images.driver, release)), None
    )
    promoted = old is not None and same(before.default, old)
    args = request.args_for(images.driver)
    of = trials.digest(host, release, images.paths, args=args)
    trial = trials.known(of, old, once=before.once, running=running)
    chosen = target and (
        request.boot == "default"
        and not promoted
        or request.boot == "once"
        and trial.state in ("none", "failed")
        and (host.live or not promoted)
    )
    if chosen and images.stale:
        raise KmodError(
            images.paths[-1],
            images.stale,
            "Make it again first: outoftree.kmod.initrd_variant",
            "VARIANT_STALE",
        )
    if chosen and request.boot == "once":
        trial = trials.start(old, trial, running)
    elif chosen and old:
        trials.check(old, trial, running)
    elif request.boot == "shipped":
        trial = trials.cancelled(trial)
    default = (
        target if request.boot == "default" else promoted and request.boot != "shipped" and not trial.starts
    )
    fallback = (
        request.fallback_args if request.fallback_args is not None else "" if default else FALLBACK_ARGS
    )
    new = New(
        shipped,
        driver=images.driver,
        kernel=release,
        initrd=named,
        replaces=replaces,
        args=_arguments(images.driver, args, of, fallback),
        trial="" if trial.starts else trial.remark,
        returns=bool(fallback),
    )
    taken = next((entry for entry in before.entries if entry.driver is None and entry.id == new.id), None)
    if taken:
        raise KmodError(
            taken.path,
            "has an entry called %s that is not ours" % taken.id,
            "Give the driver or that entry another name",
            "ENTRY_TAKEN",
        )
    return Intended(new, trial)


def absent(
    host: Host, driver: str, kernels: Sequence[str] = (), *, loader: str = loaders.AUTO
) -> Tuple[Plan, EntryAnswer]:
    """Plan that no entry with the driver, or any of several (names.together), is left, for these kernels or for all.

    Where there is no boot loader, there is none.
    """
    names.together(names.apart(driver))
    try:
        at = loaders.detect(host, loader)
    except KmodError as error:
        if error.code != "LOADER_MISSING":
            raise
        nothing = Menu([], None)
        return Plan(host), _answer(
            None, driver, nothing, rows=[], running=trials.proof(host, driver, nothing, marks={})
        )
    view = View(host)
    before = at.menu(view)
    gone = [entry for entry in before.with_any(names.apart(driver)) if not kernels or entry.kernel in kernels]
    withdraw.drop(view, at, gone)
    after = at.menu(view)
    promises.check_menu(at, before, after, asked=any(same(before.default, entry) for entry in gone))
    rows = [
        EntryRow(
            entry.kernel or "",
            entry.id,
            printable(entry.title),
            path=entry.path,
            state="absent",
            changed=True,
            driver=entry.driver or "",
        )
        for entry in gone
    ]
    return view.plan(), _answer(
        at, driver, after, rows=rows, running=trials.proof(host, driver, before, marks={})
    )


def _drop_doubled(view: View, at: Installation, before: Menu, *, made: Mapping[str, New]) -> None:
    """Leave one entry a kernel: the others are copies of another one than now (``copy_of``), or somebody's
    copies of ours.
    """
    there = {(entry.path, entry.id) for entry in before.entries}
    now = at.menu(view).entries
    for new in made.values():
        of = [entry for entry in now if (entry.driver, entry.kernel) == (new.driver, new.kernel)]
        fresh = [entry for entry in of if (entry.path, entry.id) not in there]
        kept = (fresh or [entry for entry in of if promises.as_meant(entry, new)] or of)[0]
        withdraw.drop(view, at, [entry for entry in of if entry is not kept])


def _arguments(driver: str, args: str, of: str, fallback: str) -> str:
    words = check_args(args).split()
    return " ".join(
        ["%s=%s" % (MARKER, driver), trials.mark(of)]
        + words
        + [word for word in check_args(fallback).split() if word not in words]
    )


def _initrd(
    host: Host, shipped: Entry, release: str, *, images: Sequence[str]
) -> Tuple[Tuple[str, ...], str]:
    """The images as the entry has to name them, and its own that they stand in for."""
    word = initrd_word(shipped, release)
    directory = word.rsplit("/", 1)[0]
    original = locate(host, word)
    if original is None:
        raise KmodError(
            word,
            "the entry %r starts it, and it is not there" % shipped.title,
            "Make it with the distribution's own tool",
            "INITRD_MISSING",
        )
    for image in images:
        if not host.is_file(image):
            raise KmodError(
                image, "is not there", "Make it first: outoftree.kmod.initrd_variant", "VARIANT_MISSING"
            )
        if not re.fullmatch(r"[\w.+~:@%=-]+", os.path.basename(image), re.ASCII):
            raise KmodError(
                image,
                "has a name that not every boot loader takes as it is",
                "Use letters, digits, and . _ + ~ : @ % = - alone",
                "INITRD_NAME",
            )
        if os.path.dirname(host.real(image)) != os.path.dirname(host.real(original)):
            raise KmodError(
                image,
                "does not lie beside the shipped %s" % original,
                "Put it into that directory, which the loader can read",
                "INITRD_ELSEWHERE",
            )
    return tuple(directory + "/" + os.path.basename(image) for image in images), word


def _row(before: Menu, after: Menu, new: New, *, trial: str) -> EntryRow:
    entry = after.ours(new.driver, new.kernel)
    was = next((each for each in before.entries if same(each, entry)), None)
    changed = was is None or (was.text, was.trial) != (entry.text, entry.trial)
    return EntryRow(
        new.kernel,
        entry.id,
        printable(entry.title),
        path=entry.path,
        state="present",
        changed=changed,
        initrd=entry.initrd,
        args=new.args,
        default=same(after.default, entry),
        next=after.once == entry.id,
        trial=trial,
        driver=new.driver,
    )


def _answer(
    at: Optional[Installation],
    driver: str,
    after: Menu,
    *,
    rows: Sequence[EntryRow],
    running: trials.Running,
) -> EntryAnswer:
    there = after.with_any(names.apart(driver))
    own = sorted({entry.kernel or "" for entry in there})
    others = sorted({trials.told(each.driver) for each in after.entries if each.driver and each not in there})
    return EntryAnswer(
        trials.told(driver),
        loader=at.loader.name if at else "none",
        config=at.config if at else "",
        rows=tuple(rows),
        default=after.default.id if after.default else None,
        next=after.once,
        running=running,
        own=tuple(own),
        others=tuple(others),
    )
