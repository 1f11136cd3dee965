# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""New boot entries beside the shipped ones: planned as a whole, and read back before anything is written."""

import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError, SystemFailed, printable
from ...host import Host
from ...plan import Plan
from ...read import names
from ...read.kernels import version_key
from . import blocks, cmdline, detect, trials
from .menu import FALLBACK_ARGS, MARKER, Entry, Loader, Menu, New, Verified, View, check_args, forgotten
from .menu import release as release_of
from .shipped import LOADERS, choose, initrd_word, locate, starts


class Request(NamedTuple):
    """What is asked for besides the kernels."""

    driver: str
    args: str = ""
    fallback_args: Optional[str] = None  # None: FALLBACK_ARGS, until the entry is the default
    boot: str = "none"  # none, once, default, shipped
    copy_of: str = ""  # title or id of the entry to copy
    # whether the kernels are all that have a variant with the driver, and not some that were named
    all_kernels: bool = False


class Wanted(NamedTuple):
    """An entry that is to be, and what is known of its trial."""

    shipped: Entry
    new: New
    trial: trials.Trial


def present(
    host: Host, request: Request, kernels: Mapping[str, Verified], kind: str = "auto"
) -> Tuple[Plan, Dict[str, Any]]:
    """Plan an entry of the driver for each kernel: release to the initramfs images on the host, newest kernel
    last.

    Answers with ``loader``, ``config``, ``default``, ``next``, ``running``, a row for each of the
    ``kernels``, and what these come to: ``trial``, ``pending``, ``reboot_needed`` and ``msg``. Damaged images
    are refused, unless the shipped default is to be restored: that is so whatever is wrong with an entry.
    """
    try:
        return _present(host, request, kernels, kind)
    except KmodError as error:
        if request.boot != "shipped" or error.code == "DEFAULT_KEPT" or isinstance(error, SystemFailed):
            raise
        return _present(host, request, {}, kind)


def _present(
    host: Host, request: Request, kernels: Mapping[str, Verified], kind: str
) -> Tuple[Plan, Dict[str, Any]]:
    names.check_driver(request.driver)
    check_args(request.args)
    check_args(request.fallback_args or "")
    for release in kernels:
        names.check_release(release, "kernels")
    loader = detect.detect(host, kind)
    module = LOADERS[loader.kind]
    view = View(host)
    before = module.menu(view, loader)
    if request.boot != "shipped":
        detect.check_known(host)
    if request.boot in ("once", "default") and before.default and before.default.xen:
        raise KmodError(
            before.default.title,
            "is what boots start, with the Xen hypervisor; entries of %s are copies of those without it"
            % request.driver,
            "Choose the entry in the boot menu, or make one without Xen the default first",
            "DEFAULT_XEN",
        )
    kernels = _whole(host, request, before, kernels)
    target = _target(loader, request, before, kernels)
    running = trials.proof(
        host, request.driver, before, {release: images.mark for release, images in kernels.items()}
    )
    wanted = {
        release: _wanted(host, request, loader, before, running, release, images, release == target)
        for release, images in kernels.items()
    }
    tried = wanted[target] if target and wanted[target].trial.starts else None
    if tried or request.boot == "shipped":  # what is on trial is no default, at no time
        _give_back(view, loader, request.driver)
        view.then()
    for each in wanted.values():
        module.add(view, loader, each.shipped, each.new)
    _drop_doubled(
        view, loader, request.driver, before, {release: each.new for release, each in wanted.items()}
    )
    gone = [
        entry
        for entry in before.entries
        # with its kernel
        if entry.driver == request.driver
        and entry.kernel not in kernels
        and locate(host, entry.linux) is None
    ]
    _drop(view, loader, gone)
    if target and request.boot == "default":
        module.set_default(view, loader, _ours(module.menu(view, loader), request.driver, target))
    elif tried:
        module.set_once(view, loader, _ours(module.menu(view, loader), request.driver, tried.new.kernel))
        view.then()  # a run that is cut off before the trial is arranged must not look like one that failed
        module.add(view, loader, tried.shipped, tried.new._replace(trial=tried.trial.remark))
    after = module.menu(view, loader)
    _check(
        loader, before, after, {release: each.new for release, each in wanted.items()}, request.boot != "none"
    )
    fallback = FALLBACK_ARGS.split() if request.fallback_args is None else []
    for each in wanted.values():
        _check_lines(
            view, loader, _ours(after, request.driver, each.new.kernel), each.new, each is tried, fallback
        )
    meant = _ours(after, request.driver, target) if target and request.boot == "default" else None
    started = after.default if after.default and after.default.driver == request.driver else None
    if not _same(started, meant) and (meant or tried or request.boot == "shipped"):
        raise KmodError(
            loader.config,
            "would go on to start %r" % (after.default and after.default.title),
            "Set the default by hand",
            "DEFAULT_KEPT",
        )
    rows = [
        dict(_row(before, after, _ours(after, request.driver, release), each.new), trial=each.trial.state)
        for release, each in wanted.items()
    ]
    return view.plan(), _result(loader, request.driver, after, rows, running)


def _whole(
    host: Host, request: Request, before: Menu, kernels: Mapping[str, Verified]
) -> Dict[str, Verified]:
    """The kernels whose images may be started: all of them, or an error.

    Where the shipped default is to be restored, others are left alone.
    """
    if request.boot == "shipped":
        return {release: images for release, images in kernels.items() if images.damage is None}
    for entry in before.entries if request.all_kernels else ():
        if entry.driver == request.driver and entry.kernel not in kernels and locate(host, entry.linux):
            raise KmodError(
                entry.title,
                "starts %s with %s, which is not a whole variant with the driver %s"
                % (entry.kernel, " ".join(entry.initrd), request.driver),
                "Make the variant again (outoftree.kmod.initrd_variant), or remove the entry (state: absent)",
                "VARIANT_DAMAGED",
            )
    for images in kernels.values():
        if images.damage:
            raise images.damage
    return dict(kernels)


def _target(loader: Loader, request: Request, before: Menu, kernels: Mapping[str, Verified]) -> Optional[str]:
    """The kernel that is meant where boots are to start something else: that of the default, else the newest
    in the menu.

    Where that is none of the kernels, the newest of those that were named; another than what boots start is
    not chosen in silence.
    """
    shown = [each for each in map(release_of, before.entries) if each]
    boots_now = (release_of(before.default) if before.default else None) or max(
        shown, key=version_key, default=None
    )
    if not kernels or boots_now in kernels:
        return boots_now if kernels else None
    newest = list(kernels)[-1]
    if request.all_kernels and request.boot in ("once", "default"):
        raise KmodError(
            boots_now or loader.config,
            "is the kernel that boots start, and has no initramfs variant with %s; %s has one"
            % (request.driver, newest),
            "Make the variant (outoftree.kmod.initrd_variant), or name in kernels the one to start instead",
            "VARIANT_MISSING",
        )
    return newest


def _wanted(
    host: Host,
    request: Request,
    loader: Loader,
    before: Menu,
    running: Dict[str, Any],
    release: str,
    images: Verified,
    target: bool,
) -> Wanted:
    """The entry for a kernel; ``target`` if it is that one which boots start, if they start any of the
    driver's.
    """
    shipped = choose(host, before, release, loader, request.copy_of)
    named, replaces = _initrd(host, shipped, release, images.paths)
    old = next(
        (each for each in before.entries if (each.driver, each.kernel) == (request.driver, release)), None
    )
    promoted = old is not None and _same(before.default, old)
    of = trials.digest(host, release, images.paths, request.args)
    trial = trials.known(of, old, before.once, running)
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
        trial = trials.start(old, trial)
    elif chosen and old:
        trials.check(old, trial)
    elif request.boot == "shipped":
        trial = trials.cancelled(trial)
    default = (
        target if request.boot == "default" else promoted and request.boot != "shipped" and not trial.starts
    )
    fallback = (
        request.fallback_args if request.fallback_args is not None else "" if default else FALLBACK_ARGS
    )
    new = New(
        request.driver,
        release,
        named,
        replaces,
        _arguments(request, of, fallback),
        "" if trial.starts else trial.remark,
        bool(fallback),
    )
    taken = next((entry for entry in before.entries if entry.driver is None and entry.id == new.id), None)
    if taken:
        raise KmodError(
            taken.path,
            "has an entry called %s that is not ours" % taken.id,
            "Give the driver or that entry another name",
            "ENTRY_TAKEN",
        )
    return Wanted(shipped, new, trial)


def absent(
    host: Host, driver: str, kernels: Sequence[str] = (), kind: str = "auto"
) -> Tuple[Plan, Dict[str, Any]]:
    """Plan that no entry of the driver is left, for these kernels or for all.

    Where there is no boot loader, there is none.
    """
    names.check_driver(driver)
    try:
        loader = detect.detect(host, kind)
    except KmodError as error:
        if error.code != "LOADER_MISSING":
            raise
        nothing = Menu([], None)
        return Plan(host), _result(
            Loader("none", ""), driver, nothing, [], trials.proof(host, driver, nothing, {})
        )
    module = LOADERS[loader.kind]
    view = View(host)
    before = module.menu(view, loader)
    gone = [
        entry
        for entry in before.entries
        if entry.driver == driver and (not kernels or entry.kernel in kernels)
    ]
    _drop(view, loader, gone)
    after = module.menu(view, loader)
    _check(loader, before, after, {}, any(_same(before.default, entry) for entry in gone))
    rows = [
        {
            "kernel": entry.kernel,
            "id": entry.id,
            "title": printable(entry.title),
            "path": entry.path,
            "state": "absent",
            "changed": True,
        }
        for entry in gone
    ]
    return view.plan(), _result(loader, driver, after, rows, trials.proof(host, driver, before, {}))


def give_back(host: Host, paths: Sequence[str]) -> Plan:
    """Plan that no boot starts an entry with one of these images on the host: before an image becomes another
    one that was never tried.

    Where that takes the default or the next boot from an entry of ours, the old default is restored.
    DEFAULT_KEPT where it cannot be: the entry is somebody else's, or was made the default by somebody else.
    """
    plan = Plan(host)
    for loader in detect.installed(host):
        view = View(host)
        for entry in _chosen(host, loader, view, paths):
            if entry.driver:
                _cancel(view, loader, entry)
                LOADERS[loader.kind].forget(view, loader, entry)
        left = _chosen(host, loader, view, paths)
        if left:
            raise KmodError(
                loader.config,
                "would go on to start %r with %s, which is about to change"
                % (left[0].title, " ".join(left[0].initrd)),
                "Set the default to a shipped entry by hand",
                "DEFAULT_KEPT",
            )
        plan.extend(view.plan())
    return plan


def without(host: Host, paths: Sequence[str]) -> Plan:
    """Plan that no entry of ours starts one of these images on the host: before an image goes.

    The old default is back first.
    """
    plan = Plan(host)
    for loader in detect.installed(host):
        module, view = LOADERS[loader.kind], View(host)
        before = module.menu(View(host), loader)
        gone = [entry for entry in before.entries if entry.driver and starts(host, entry, paths)]
        _drop(view, loader, gone)
        _check(
            loader, before, module.menu(view, loader), {}, any(_same(before.default, entry) for entry in gone)
        )
        plan.extend(view.plan())
    return plan


def _chosen(host: Host, loader: Loader, view: View, paths: Sequence[str]) -> List[Entry]:
    menu = LOADERS[loader.kind].menu(view, loader)
    return [
        entry
        for entry in menu.entries
        if (_same(menu.default, entry) or menu.once == entry.id) and starts(host, entry, paths)
    ]


def _drop_doubled(view: View, loader: Loader, driver: str, before: Menu, made: Mapping[str, New]) -> None:
    """Leave one entry a kernel: the others are copies of another one than now (``copy_of``), or somebody's
    copies of ours.
    """
    module = LOADERS[loader.kind]
    there = {(entry.path, entry.id) for entry in before.entries}
    now = [entry for entry in module.menu(view, loader).entries if entry.driver == driver]
    for kernel, new in made.items():
        of = [entry for entry in now if entry.kernel == kernel]
        fresh = (
            [entry for entry in of if (entry.path, entry.id) not in there]
            or [entry for entry in of if _as_meant(entry, new)]
            or of
        )
        _drop(view, loader, [entry for entry in of if entry is not fresh[0]])


def _as_meant(entry: Entry, new: New) -> bool:
    return (
        set(new.initrd) <= set(entry.initrd)
        and new.replaces not in set(entry.initrd) - set(new.initrd)
        and new.args in entry.args
    )


def _drop(view: View, loader: Loader, entries: Sequence[Entry]) -> None:
    """Take entries out; before the first goes, nothing that is started names any of them.

    Last ones first: a loader may count them.
    """
    module = LOADERS[loader.kind]
    for change in (module.forget, module.drop):
        for entry in reversed(entries):
            for now in [
                each
                for each in module.menu(view, loader).entries
                if _key(each) == _key(entry) and each.id == entry.id
            ][:1]:
                change(view, loader, now)


def _arguments(request: Request, of: str, fallback: str) -> str:
    args = check_args(request.args).split()
    return " ".join(
        ["%s=%s" % (MARKER, request.driver), trials.mark(of)]
        + args
        + [word for word in check_args(fallback).split() if word not in args]
    )


def _initrd(host: Host, shipped: Entry, release: str, images: Sequence[str]) -> Tuple[Tuple[str, ...], str]:
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


def _give_back(view: View, loader: Loader, driver: str) -> None:
    """Restore the old default, and have no boot start an entry of the driver."""
    menu = LOADERS[loader.kind].menu(view, loader)
    for entry in menu.entries:
        if entry.driver == driver and (_same(menu.default, entry) or menu.once == entry.id):
            _cancel(view, loader, entry)
            LOADERS[loader.kind].forget(view, loader, entry)


def _cancel(view: View, loader: Loader, entry: Entry) -> None:
    """Have an entry forget its trial before the next boot does: one that has not begun must not look like one
    that failed.
    """
    menu = LOADERS[loader.kind].menu(view, loader)
    if menu.once == entry.id and entry.trial:
        text = view.text(entry.path) or ""
        block = next(
            (block for block in blocks.each(text) if blocks.whose(block) == (entry.driver, entry.kernel)),
            None,
        )
        view.put(
            entry.path,
            forgotten(text)
            if block is None
            else text[: block.start()] + forgotten(block.group()) + text[block.end() :],
        )
        view.then()


def _ours(menu: Menu, driver: str, kernel: str) -> Entry:
    return next(entry for entry in menu.entries if (entry.driver, entry.kernel) == (driver, kernel))


def _key(entry: Entry) -> Tuple[str, ...]:
    """What makes it the same entry later: whose it is and for which kernel, and of a foreign one each byte."""
    return (entry.driver, entry.kernel or "") if entry.driver else (entry.path, entry.text, entry.title)


def _same(one: Optional[Entry], other: Optional[Entry]) -> bool:
    return (one and _key(one)) == (other and _key(other))


def _check_lines(
    view: View, loader: Loader, entry: Entry, new: New, trial: bool, fallback: Sequence[str]
) -> None:
    """What the kernel would get by each way through an entry: all that was meant, and on trial a way back."""
    kernel = locate(view.host, entry.linux)
    for line in LOADERS[loader.kind].lines(view, loader, entry):
        cmdline.check(
            entry.title,
            line,
            cmdline.limit(view.host, kernel) if kernel else cmdline.UNKNOWN,
            new.args.split(),
        )
        if trial:
            cmdline.check_return(entry.title, line, fallback)


def _check(loader: Loader, before: Menu, after: Menu, made: Mapping[str, New], asked: bool) -> None:
    """What this collection promises of every change, held against the menu that it would leave behind."""
    foreign = [[_key(entry) for entry in menu.entries if entry.driver is None] for menu in (before, after)]
    if foreign[0] != foreign[1]:
        raise KmodError(
            loader.config,
            "the change would touch entries that are not ours",
            "Report this as a bug",
            "ENTRY_FOREIGN",
        )
    if not asked and not _same(before.default, after.default):
        raise KmodError(
            loader.config,
            "the default is a number, which would mean %r instead of %r"
            % (after.default and after.default.title, before.default and before.default.title),
            "Set the default by id (grub-set-default, grubby --set-default) and run again",
            "DEFAULT_WOULD_CHANGE",
        )
    for release, new in made.items():
        entry = _ours(after, new.driver, release)
        if not _as_meant(entry, new):
            raise KmodError(
                entry.path,
                "the new entry does not read back as it was meant: initrd %s, %s"
                % (" ".join(entry.initrd), entry.args),
                "Report this as a bug with the shipped entry",
                "ENTRY_MALFORMED",
            )


def _row(before: Menu, after: Menu, entry: Entry, new: New) -> Dict[str, Any]:
    was = next((each for each in before.entries if _same(each, entry)), None)
    return {
        "kernel": entry.kernel,
        "id": entry.id,
        "title": printable(entry.title),
        "initrd": list(entry.initrd),
        "args": new.args,
        "path": entry.path,
        "state": "present",
        "changed": was is None or (was.text, was.trial) != (entry.text, entry.trial),
        "default": _same(after.default, entry),
        "next": after.once == entry.id,
    }


def _result(
    loader: Loader, driver: str, after: Menu, rows: List[Dict[str, Any]], running: Dict[str, Any]
) -> Dict[str, Any]:
    of = {
        state: [row["kernel"] for row in rows if row.get("trial") == state]
        for state in ("pending", "failed", "idle", "passed")
    }
    return {
        "loader": loader.kind,
        "config": loader.config,
        "kernels": rows,
        "default": after.default.id if after.default else None,
        "next": after.once,
        "running": running,
        "trial": next((state for state in of if of[state]), "none"),
        "pending": of["pending"],
        "reboot_needed": bool(of["pending"]),
        "msg": _message(driver, after, rows, of, running),
    }


def _message(
    driver: str, after: Menu, rows: List[Dict[str, Any]], of: Dict[str, List[str]], running: Dict[str, Any]
) -> str:
    """One sentence for people."""
    own = sorted(entry.kernel or "" for entry in after.entries if entry.driver == driver)
    if not rows and own:
        return "The boot entries of %s stay as they are: %s." % (driver, ", ".join(own))
    if not rows:
        others = sorted({entry.driver for entry in after.entries if entry.driver and entry.driver != driver})
        left = "There are entries of %s." % ", ".join(others) if others else "There is none of any driver."
        return "There is no boot entry of %s. %s" % (driver, left)
    if of["pending"]:
        return "The next boot alone tries %s on %s; reboot for that." % (driver, ", ".join(of["pending"]))
    if of["failed"] and running["verdict"] == "none":
        return (
            "The host should have come up with %s on %s once, and did not, or only without it. It is back on its default. "
            "Look at the console's log, or at the journal of the boot before."
            % (driver, ", ".join(of["failed"]))
        )
    if running["verdict"] != "none":
        return str(running["message"])
    return "%s boot entries of %s: %s." % (
        rows[0]["state"].capitalize(),
        driver,
        ", ".join(row["kernel"] for row in rows),
    )
