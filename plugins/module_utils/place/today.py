# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is amiss with drivers on a host today, whatever the next kernel brings. It reads, and never writes."""

from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from ..errors import forgiving
from ..host import Host
from ..judge.selection import Choice
from ..read.kernels import Kernel
from ..read.names import apart
from . import bulletin, inventory, kernel_holds
from .boot import hold, loaders, trials
from .boot.menu import Menu
from .boot.view import View
from .driver import Deployed, serving
from .hold_files import Hold, by_kernel
from .notice import booting

BAD_IMAGES = {"stale": "stale_image", "damaged": "damaged_image", "gone": "left_over"}


class Amiss(NamedTuple):
    """One thing, of a ``kind`` that docs/preflight.md lists; ``text`` is a sentence."""

    kind: str
    driver: Optional[str]
    kernel: Optional[str]
    text: str


class HeldBack(NamedTuple):
    """What is kept from changing: ``what`` is kernel or default."""

    what: str
    kernel: Optional[str]
    driver: Sequence[str]
    reason: str

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), driver=list(self.driver))


def amiss(
    host: Host,
    installed: Sequence[Kernel],
    there: Sequence[Deployed],
    *,
    choices: Mapping[str, Mapping[str, Choice]],
) -> List[Amiss]:
    """``there``: the drivers in the store; ``choices``: by kernel and driver what each installed one takes."""
    found: List[Amiss] = []
    found += _images(host)
    found += _links(host, installed, there)
    found += _entries(host)
    if installed:
        found += _running(host, installed, there)
        found += _builds(host, installed, there, choices=choices)
    found += [Amiss("pending", None, None, line) for line in bulletin.pending(host)]
    return found


def held(host: Host, holds: Optional[Sequence[Hold]] = None) -> List[HeldBack]:
    """The kernels that are not to be installed (or ``holds``, which are planned), and the default that is
    kept.
    """
    found = by_kernel(kernel_holds.read(host) if holds is None else holds)
    return [
        HeldBack(
            "kernel",
            kernel,
            [each.driver for each in of_it],
            "; ".join("%s: %s" % (each.driver, each.reason) for each in of_it),
        )
        for kernel, of_it in found.items()
    ] + _default(host)


def _default(host: Host) -> List[HeldBack]:
    kept = hold.read(host)
    lacking = bulletin.read(host).lacking
    return (
        [
            HeldBack(
                "default",
                kept.kernel,
                sorted({each.driver for each in lacking if each.boots}),
                "boots are kept on kernel %s, since a newer one takes no build of a driver" % kept.kernel,
            )
        ]
        if kept
        else []
    )


def _images(host: Host) -> Iterator[Amiss]:
    for row in inventory.variants(host):
        if row.error:
            yield Amiss("damaged_image", None, None, row.error)
        elif row.seen.state in BAD_IMAGES:
            text = {
                "stale": "%s is made of an image that has changed since",
                "damaged": "%s is damaged",
                "gone": "%s is of a kernel that is not installed any more",
            }[row.seen.state]
            for driver in row.seen.drivers:
                yield Amiss(BAD_IMAGES[row.seen.state], driver, row.seen.kernel, text % row.seen.path)


def _links(host: Host, installed: Sequence[Kernel], there: Sequence[Deployed]) -> Iterator[Amiss]:
    whose = {path: each.driver for each in there for links in each.links.values() for path in links}
    for kernel in installed:
        for link in inventory.links(host, kernel, set(whose)):
            if link.dangling:
                text = "%s leads nowhere (%s)" % (link.path, link.target)
                yield Amiss("dangling_link", whose.get(link.path), kernel.release, text)


def _entries(host: Host) -> Iterator[Amiss]:
    for row in inventory.entries(host):
        if row.missing:
            text = "the boot entry %r starts what is missing: %s" % (row.title, ", ".join(row.missing))
            for driver in row.drivers:
                yield Amiss("broken_entry", driver, row.kernel, text)
    with forgiving():
        menu = loaders.detect(host).menu(View(host))
        yield from _trials(host, menu)


def _trials(host: Host, menu: Menu) -> Iterator[Amiss]:
    for entry in menu.entries:
        if entry.driver and entry.trial:
            running = trials.proof(host, entry.driver, menu, marks={})
            trial = trials.known(entry.trial.split(" ")[-1], entry, once=menu.once, running=running)
            if trial.state == "failed":
                text = "the trial of the boot entry %r failed: %s" % (
                    entry.title,
                    running.message if running.booted == entry.kernel else "it came up without the driver",
                )
                for driver in apart(entry.driver):
                    yield Amiss("trial_failed", driver, entry.kernel, text)


def _running(host: Host, installed: Sequence[Kernel], there: Sequence[Deployed]) -> Iterator[Amiss]:
    """What a reboot changes."""
    running = next((kernel for kernel in installed if kernel.running), None)
    if running is None:
        return
    why = booting(host, installed)
    default = next((release for release, words in why.items() if "default" in words), running.release)
    if default != running.release:
        text = "%s runs, and boots start %s" % (running.release, default)
        yield Amiss("reboot_pending", None, default, text)
    for each in there:
        modules = {module.name for build in each.builds for module in build.modules}
        for used in inventory.used(host, running, sorted(modules)):
            if used.loaded == "other":
                text = "another module %s is loaded than the one that is installed" % used.name
                yield Amiss("reboot_pending", each.driver, running.release, text)


def _builds(
    host: Host,
    installed: Sequence[Kernel],
    there: Sequence[Deployed],
    *,
    choices: Mapping[str, Mapping[str, Choice]],
) -> Iterator[Amiss]:
    """Kernels without a build, and those that do not use the one that they would take."""
    why = booting(host, installed)
    for each in there:
        using = serving(host, each)
        for kernel in installed:
            choice = choices.get(kernel.release, {}).get(each.driver)
            words = why[kernel.release]
            if choice is None:
                continue
            if choice.build is None:
                text = "kernel %s%s takes no build of %s: %s"
                said = " (%s)" % ", ".join(words) if words else ""
                yield Amiss(
                    "no_build",
                    each.driver,
                    kernel.release,
                    text % (kernel.release, said, each.driver, choice.reason),
                )
            elif using.get(kernel.release) is None:
                text = "kernel %s would take the build of %s for %s, and does not use it"
                yield Amiss(
                    "not_followed",
                    each.driver,
                    kernel.release,
                    text % (kernel.release, each.driver, choice.build.release),
                )
