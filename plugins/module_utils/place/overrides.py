# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What depmod is to list of a driver: the depmod.d file that has our files win where others have their names,
and which indexes are due.
"""

from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from ..host import Host
from ..read.depmod import by_name, config
from ..read.kernels import Kernel, modules_root
from ..read.names import may_be_module, module_of
from . import depmod, store
from .driver import Deployed, Target


def file(driver: str) -> str:
    return "/etc/depmod.d/outoftree.kmod-%s.conf" % driver


class Listing(NamedTuple):
    """What depmod is to list, and what it takes: the override file's text, empty if none is needed, and the
    releases that need it.
    """

    wanted: Dict[str, Dict[str, str]]  # kernel release -> module name -> path
    overrides: str
    overridden: Set[str]


def listing(host: Host, there: Deployed, target: Target) -> Listing:
    """For each module of ours, in each tree that has it: the file that the kernel is to use, or else the one
    that would be listed without ours.

    A link lies only where it is what the kernel is to use, so its line may speak of all kernels, those to
    come too; other lines speak of one.
    """
    lines: Set[Tuple[bool, str]] = set()
    answer = Listing({}, "", set())
    stored = {path for each in store.builds(host, there.driver) for path in each.paths}
    for release, build in sorted(target.used.items()):
        top = "%s/%s" % (modules_root(host), release)
        used = set(target.links[release]) or set(store.files_of(build) if build else [])
        own = [each for each in (*target.kept, *target.new) if each.release == release]
        ours = used.union(*map(store.files_of, own))
        rules = config(host, release, file(there.driver))
        found = by_name(host, top, rules) if ours else {}
        for name in sorted({module_of(path) for path in ours}):
            foreign = [
                path
                for path in found.get(name, [])
                if path not in stored and path not in there.links[release]
            ]
            candidates = foreign + sorted(path for path in ours if module_of(path) == name)
            best = next((path for path in candidates if path in used), None) or depmod.winner(
                rules, top, foreign
            )
            if best:
                answer.wanted.setdefault(release, {})[name] = best
                if depmod.winner(rules, top, candidates) != best:
                    everywhere = best in target.links[release]
                    lines.add((everywhere, depmod.override(best, top, everywhere)))
                    answer.overridden.add(release)
    head = "# Made by outoftree.kmod: these files of %s win over others of the same name.\n" % there.driver
    return answer._replace(
        overrides=head + "".join(line for _everywhere, line in sorted(lines)) if lines else ""
    )


def to_refresh(
    tree: store.ModuleTree, driver: str, target: Target, *, listing: Listing, installed: Sequence[Kernel]
) -> List[str]:
    """The kernels for which depmod is to be run: a file of theirs changes, or modules.dep does not say of it
    what it should (a run was cut off).
    """
    root = modules_root(tree.host)
    touched = [
        path
        for path in tree.plan.paths() + tree.removed
        if path.startswith(root + "/") and may_be_module(path)
    ]
    changed = {path[len(root) + 1 :].split("/", 1)[0] for path in touched}
    fresh = {build.directory for build in target.new}
    places = ["%s/%s" % (place, driver) for place in depmod.PLACES]
    served = {release: build.directory for release, build in target.used.items() if build}

    def due(release: str) -> bool:
        wanted = listing.wanted.get(release, {})
        return (
            release in changed
            or served.get(release) in fresh
            or depmod.stale(tree.host, "%s/%s" % (root, release), wanted, places)
        )

    return [kernel.release for kernel in installed if due(kernel.release)]
