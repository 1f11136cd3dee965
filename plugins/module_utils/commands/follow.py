# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host does by itself about kernels: one arrives, one leaves, an image is made again. For every driver, under one lock.

What is done hangs upon what is on disk, and not upon the verb: packages that are installed again, or upgraded, say that a kernel leaves
which stays, and that one arrives which was there. A driver that fails keeps no other from being served.
"""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError, forgiving
from ..host import Host
from ..judge import selection
from ..judge.loader import judge
from ..judge.verdict import COMPATIBLE
from ..place import deploy, settings, started, store, weak_links
from ..place.boot import entry
from ..place.initramfs import image, variant
from ..place.settings import Followed
from ..plan import Plan
from ..read import kernels, names
from ..read.kernels import Kernel
from ..turns import Turns

VERBS = ("add-kernel", "remove-kernel", "refresh")


class Options(NamedTuple):
    """What is to be looked at: ``kernel`` is a release, or None for all. ``early``: links alone, in bounded time."""

    verb: str
    kernel: Optional[str] = None
    early: bool = False


class Row(NamedTuple):
    """What was done about one driver and one kernel. ``variant`` and ``entry`` are their states, "" where there is none."""

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
    verb: str
    changed: bool
    rows: Tuple[Row, ...]
    errors: Tuple[str, ...]  # what is wrong with no driver, but with the settings or the host

    def as_dict(self) -> Dict[str, Any]:
        return {"verb": self.verb, "changed": self.changed, "drivers": [row.as_dict() for row in self.rows], "errors": list(self.errors)}

    @property
    def failed(self) -> bool:
        """Whether something could not be done."""
        return bool(self.errors) or any(row.error for row in self.rows)

    @property
    def unserved(self) -> List[Row]:
        """Where a kernel takes none of a driver's builds."""
        return [row for row in self.rows if row.verdict not in ("", COMPATIBLE) and row.build is None]


def run(turns: Turns, options: Options) -> Answer:
    """Carry it out for every driver. Errors: RELEASE_NAME, KERNEL_MISSING, LOCKED."""
    host = turns.host
    if options.kernel is not None and not names.is_release(options.kernel):
        raise KmodError(options.kernel, "is not a release that a kernel can have", "Name a kernel as uname -r does", "RELEASE_NAME")
    errors: List[str] = []
    told = None
    try:
        told = settings.read(host)
    except KmodError as error:  # links are right whatever is in it
        errors.append(str(error))
    drivers = settings.drivers_of(told, sorted({stored.driver for stored in store.builds(host)}))
    leaving = options.verb == "remove-kernel" and options.kernel is not None and not stays(host, options.kernel)
    if not leaving and options.kernel is not None:
        kernels.kernel(host, options.kernel)
    rows: List[Row] = []
    for driver, followed in drivers.items():
        if leaving and options.kernel is not None:
            rows += _leave(turns, driver, options.kernel)
        else:
            rows += _serve(turns, driver, followed, options)
    return Answer(options.verb, turns.changed, tuple(rows), tuple(errors))


def stays(host: Host, release: str) -> bool:
    """Whether a kernel that is said to leave can still be booted: its modules, its image and its initramfs are there.

    Packages say so of kernels that are installed again or upgraded, too; where a kernel does leave, its initramfs or what boot loaders start
    goes before its modules do. The copy of the kernel among its modules goes last of all.
    """
    there = any(kernels.is_kernel(host, directory, release) for directory in kernels.MODULES)
    found = kernels.find_image(host, release) if there else None
    if found is None or found.startswith(kernels.MODULES):
        return False
    with forgiving():
        return bool(image.shipped(host, release))
    return False


def _serve(turns: Turns, driver: str, followed: Followed, options: Options) -> List[Row]:
    """Link a driver, and unless it is ``early`` make its variants and entries, for one kernel or for all that it is meant for."""
    rows: List[Row] = []
    try:
        chosen = _chosen(store.installed(turns.host), followed, options.kernel)
        if not chosen:
            return []
        linked = turns.carry(lambda host: deploy.link(host, _asked(driver, chosen)))
        rows = [Row(driver, each["kernel"], each["verdict"], each["reason"], each["build"]) for each in linked["kernels"]]
        served = [row.kernel for row in rows if row.build is not None]
        if options.early or not served:
            return rows
        if followed.initrd:
            rows = _with_variants(turns, driver, followed, served, rows)
        if followed.initrd and followed.entry:
            rows = _with_entries(turns, driver, followed, served, rows)
        return rows
    except KmodError as error:
        if error.code in ("LOCKED", "INTERRUPTED"):
            raise
        return [row._replace(error=str(error)) for row in rows] or [Row(driver, options.kernel or "", "", "", error=str(error))]


def _with_variants(turns: Turns, driver: str, followed: Followed, served: Sequence[str], rows: List[Row]) -> List[Row]:
    request = variant.Request((driver,), (), followed.method, followed.early_load, followed.ignore_tpm)
    made = turns.carry(lambda host: variant.present(host, request, served))
    states = {each["kernel"]: each["status"] for each in made["variants"]}
    return [row._replace(variant=states.get(row.kernel, "")) for row in rows]


def _with_entries(turns: Turns, driver: str, followed: Followed, served: Sequence[str], rows: List[Row]) -> List[Row]:
    fallback = None if followed.fallback_args == "auto" else followed.fallback_args
    request = entry.Request(driver, followed.args, fallback, "none", followed.copy_of)
    made = turns.carry(lambda host: started.present(host, request, served, None, followed.loader))
    states = {each["kernel"]: each["state"] for each in made["kernels"]}
    return [row._replace(entry=states.get(row.kernel, "")) for row in rows]


def _leave(turns: Turns, driver: str, release: str) -> List[Row]:
    """Take what a driver has of a kernel that leaves: entry, variant, links. Builds that lie below it stay."""
    row = Row(driver, release, "", "the kernel leaves")
    works: List[Callable[[Host], Tuple[Plan, Any]]] = [
        lambda host: entry.absent(host, driver, [release]),
        lambda host: variant.absent(host, [driver], [release], "remove"),
        lambda host: _unlink(host, driver, release)]
    errors = []
    for work in works:
        try:
            turns.carry(work)
        except KmodError as error:
            if error.code in ("LOCKED", "INTERRUPTED"):
                raise
            errors.append(str(error))
    return [row._replace(error="; ".join(errors))]


def _unlink(host: Host, driver: str, release: str) -> Tuple[Plan, Any]:
    """Plan that a kernel has no links, installed or not; the others keep theirs."""
    tree = store.Tree(host, Plan(host))
    staying = [kernel for kernel in store.installed(host) if kernel.release != release]
    if weak_links.deployed(host, driver).builds:
        weak_links.present(tree, driver, [], staying, [], judge, lambda module: None)
    return tree.plan, None


def _chosen(installed: Sequence[Kernel], followed: Followed, release: Optional[str]) -> List[str]:
    """The kernels that a driver is meant for; of these the one that is asked about."""
    found: Set[str] = set()
    for pattern in followed.kernels:
        with forgiving():  # a pattern may mean none of them today
            found.update(kernel.release for kernel in selection.matching(installed, [pattern]))
    return [kernel.release for kernel in installed if kernel.release in found and release in (None, kernel.release)]


def _asked(driver: str, chosen: List[str]) -> Dict[str, Any]:
    return {"driver": driver, "state": "present", "kernels": chosen, "path": [], "described": None, "files": None, "version": None,
            "build": None, "load": False, "heal": False}
