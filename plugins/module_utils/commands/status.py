# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Show the drivers that are on a host, what each kernel, its images and the boot menu have of them, and how
new kernels get them.
"""

import posixpath
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..place import followed, inventory, loading, store, today
from ..place.driver import deployed, serving
from ..place.followed import State
from ..place.inventory import Orphan, SeenEntry, SeenKernel, SeenVariant, StoredBuild, StoredDriver
from ..place.today import HeldBack
from ..plan import Plan
from ..read.kernels import Kernel, version_key

LOOKS = True  # nothing is planned


class Options(NamedTuple):
    """Those of the module kmod_info."""

    drivers: Tuple[str, ...] = ()  # these alone

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        return cls(tuple(params["drivers"]))


class Answer(NamedTuple):
    """What there is; of variants and entries also those of kernels that are gone. ``following`` is None where
    new kernels get nothing; ``held`` are kernels, and the default.
    """

    drivers: Tuple[StoredDriver, ...]
    kernels: Tuple[SeenKernel, ...]
    variants: Tuple[SeenVariant, ...]
    entries: Tuple[SeenEntry, ...]
    orphans: Tuple[Orphan, ...]
    following: Optional[State]
    held: Tuple[HeldBack, ...]
    facts: Optional[Dict[str, Any]] = (
        None  # of the host as a whole; None where some drivers alone were asked for
    )

    def as_dict(self) -> Dict[str, Any]:
        return {
            "msg": self.msg,
            "drivers": [row.as_dict() for row in self.drivers],
            "kernels": [row.as_dict() for row in self.kernels],
            "variants": [row.as_dict() for row in self.variants],
            "entries": [row.as_dict() for row in self.entries],
            "orphans": [dict(row._asdict()) for row in self.orphans],
            "following": self.following.as_dict() if self.following else None,
            "held": [each.as_dict() for each in self.held],
            "summary": self.summary,
        }

    @property
    def msg(self) -> str:
        """One line for people."""
        if not self.drivers:
            return self._nothing
        users = {
            driver.driver: {release for build in driver.builds for release in build.kernels}
            for driver in self.drivers
        }
        return "; ".join(
            "%s: %d of %d kernels use it" % (driver, len(kernels & self._releases), len(self.kernels))
            for driver, kernels in users.items()
        )

    @property
    def _releases(self) -> Set[str]:
        return {kernel.kernel for kernel in self.kernels}

    @property
    def _nothing(self) -> str:
        """That there is no driver, and in the same line what there is of others."""
        others = {module.name for kernel in self.kernels for module in kernel.modules if module.path}
        lost = sum(link.dangling for kernel in self.kernels for link in kernel.links)
        said = ["out-of-tree modules of others: %s" % ", ".join(sorted(others))] if others else []
        said += ["links of others that lead nowhere: %d" % lost] if lost else []
        return "There is no driver in the store%s." % (" (%s)" % "; ".join(said) if said else "")

    @property
    def summary(self) -> str:
        """All of it as a text to read."""
        if not (self.drivers or self.variants or self.entries or self.orphans or self.following or self.held):
            return self._nothing
        lines = [] if self.drivers else [self._nothing]
        for driver in self.drivers:
            lines += [
                "%s %s for %s: %s"
                % (driver.driver, build.version or "(no version)", build.build, _users(build))
                for build in driver.builds
            ]
            lines += ["  loaded as %s says" % path for path in driver.loading]
        variants = {row.seen.path: row for row in self.variants}
        for kernel in self.kernels:
            lines += _kernel_lines(kernel, variants)
            lines += ["  " + _entry_line(entry) for entry in self.entries if entry.kernel == kernel.kernel]
        lines += map(_orphan_line, self.orphans)
        shown = {image.path for kernel in self.kernels for image in kernel.images}
        lines += [
            row.error or "%s: the variant is %s" % (row.seen.path, row.seen.state)
            for row in self.variants
            if row.seen.path not in shown and row.seen.state != "gone"
        ]
        lines += self.following.lines if self.following else []
        return "\n".join(
            lines
            + [
                "kernel %s is held: %s" % (row.kernel, row.reason)
                for row in self.held
                if row.what == "kernel"
            ]
        )


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Look. Error: DRIVER_UNKNOWN, for a name that nothing on the host has."""
    variants, entries = inventory.variants(host), inventory.entries(host)
    known = {stored.driver for stored in store.builds(host)}
    elsewhere = {name for row in entries for name in row.drivers}.union(
        *(row.seen.drivers for row in variants)
    )
    for name in options.drivers:
        if name not in known | elsewhere:
            raise KmodError(
                name,
                "there is no driver of this name on %s" % host.root,
                "On this host: " + (", ".join(sorted(known | elsewhere)) or "none"),
                "DRIVER_UNKNOWN",
            )
    if options.drivers:
        variants = [row for row in variants if set(options.drivers) & set(row.seen.drivers)]
        entries = [row for row in entries if set(options.drivers) & set(row.drivers)]
    there = [deployed(host, name) for name in sorted(set(options.drivers) or known)]
    installed = store.installed(host)
    configured = loading.found(host)
    drivers = tuple(
        inventory.stored_driver(each, serving(host, each))._replace(
            loading=tuple(configured.get(each.driver, ()))
        )
        for each in there
    )
    left = [] if options.drivers else [paths for driver, paths in configured.items() if driver not in known]
    following = followed.state(host)
    return Plan(host), Answer(
        drivers=drivers,
        kernels=tuple(inventory.kernel(host, kernel, there) for kernel in installed),
        variants=tuple(variants),
        entries=tuple(entries),
        orphans=tuple(
            inventory.orphans(variants, entries, there, installed={kernel.release for kernel in installed})
            + [Orphan("loading", path, "") for paths in left for path in paths]
        ),
        following=following,
        held=tuple(today.held(host)),
        facts=None if options.drivers else _facts(drivers, installed, following),
    )


def _facts(
    drivers: Sequence[StoredDriver], installed: Sequence[Kernel], following: Optional[State]
) -> Dict[str, Any]:
    """What plays decide by, small enough to be kept for each host of a fleet."""
    running = next((kernel.release for kernel in installed if kernel.running), None)
    found = {}
    for driver in drivers:
        used = [build for build in driver.builds if build.kernels] or list(driver.builds)
        kernels = {release for build in driver.builds for release in build.kernels}
        found[driver.driver] = {
            "version": max((build.version for build in used), key=version_key, default=""),
            "kernels": [kernel.release for kernel in installed if kernel.release in kernels],
            "running": running in kernels if running else None,
            "follows": following is not None and driver.driver in following.drivers,
        }
    return {"drivers": found, "kernels": [kernel.release for kernel in installed]}


def _kernel_lines(row: SeenKernel, variants: Mapping[str, SeenVariant]) -> List[str]:
    outside = [(module.name, module.path) for module in row.modules if module.path]
    lines = ["%s%s: %s" % (row.kernel, " (running)" if row.running else "", _list(outside, row.kernel))]
    lines += ["  %s" % module.error for module in row.modules if module.error]
    for image in row.images:
        state = "; the variant is %s" % variants[image.path].seen.state if image.path in variants else ""
        # one a name: that which is loaded
        copies = {copy.name: copy for copy in sorted(image.copies, key=lambda copy: copy.used)}
        inside = ", ".join(
            name + ("" if copy.current else " (not the file that is deployed)")
            for name, copy in sorted(copies.items())
        )
        lines.append("  %s: %s%s" % (image.path, image.error or inside or "none of the drivers", state))
    return lines + [
        "  %s leads nowhere (%s)" % (link.path, link.target) for link in row.links if link.dangling
    ]


def _entry_line(row: SeenEntry) -> str:
    what = "default entry" if row.default else "entry for the next boot alone" if row.once else "entry"
    return "%s %r: %s" % (
        what,
        row.title,
        "what it starts is missing: " + ", ".join(row.missing) if row.missing else "its files are there",
    )


def _orphan_line(row: Orphan) -> str:
    if row.kind == "loading":
        return "left over: %s of a driver that is not there" % row.path
    size = " (%.0f MiB)" % (row.size / (1 << 20)) if row.size else ""
    return "left over: %s %s for %s%s" % (row.kind, row.path, row.kernel or "an unknown kernel", size)


def _users(build: StoredBuild) -> str:
    if not build.whole:
        return "files are missing or damaged"
    return "used by " + ", ".join(build.kernels) if build.kernels else "no kernel uses it"


def _list(modules: Sequence[Tuple[str, str]], release: str) -> str:
    return (
        ", ".join(
            "%s from %s" % (name, posixpath.dirname(path.partition("/%s/" % release)[2]))
            for name, path in modules
        )
        or "no out-of-tree module"
    )
