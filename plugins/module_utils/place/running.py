# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the running kernel uses the modules that it is given, and what keeps it from that."""

from typing import List, Mapping, Optional, Sequence

from ..errors import forgiving
from ..host import Host
from ..judge.selection import Build
from ..plan import Plan
from ..read.kernels import Kernel
from . import loaded, notice, store, weak_links
from .boot import shipped
from .initramfs import listing


def goes_on_with_others(
    plan: Plan,
    installed: Sequence[Kernel],
    outcome: weak_links.Outcome,
    *,
    contents: weak_links.Contents,
    load: bool,
) -> bool:
    """Whether the running kernel would go on with other modules than those it is given.

    With ``load`` the plan loads them, where that can be done.
    """
    here = next((kernel.release for kernel in installed if kernel.running), None)
    if here is None:
        return False
    wanted = _loaded(plan.host, outcome.after[here], contents)
    given = {each.module.name for each in wanted}
    left = any(
        each.state == "this" and each.module.name not in given
        for each in _loaded(plan.host, outcome.before[here], contents)
    )
    if load and not loaded.reload(plan, wanted):
        return True
    return left or (
        not load and any(each.state == "other" or each.state in loaded.BETWEEN for each in wanted)
    )


def held_back_by(host: Host, after: Mapping[str, Optional[Build]]) -> Optional[str]:
    """The image of the default boot entry that has another copy of a module than its kernel is given: it is
    loaded from there, before the root file system is seen, at the next boot too. An entry of ours starts a
    variant, which follows the driver.
    """
    entry = shipped.default(host)
    release = notice.started_by(entry, after)
    build = after[release] if release else None
    if entry is None or entry.driver or release is None or build is None:
        return None
    wanted = {module.name: module.sha256 for module in build.modules}
    for path in (shipped.locate(host, word) for word in entry.initrd):
        with forgiving():  # an image that cannot be read has nothing to load
            copies = listing.modules(host, path, release, names=wanted) if path else {}
            if any(copy.sha256 != wanted[name] for name, copy in copies.items()):
                return path
    return None


def _loaded(host: Host, build: Optional[Build], contents: weak_links.Contents) -> List[loaded.Wanted]:
    """Each module of a build, and whether it is loaded."""
    found = []
    for module in build.modules if build else ():
        stored = "%s/%s" % (build.directory if build else "", store.file_name(module))
        content = contents(module)
        data = content.data() if content else host.read(stored) if host.is_file(stored) else b""
        build_id = loaded.build_id(data, module.path)
        found.append(loaded.Wanted(module, build_id, loaded.state(host, module, build_id)))
    return found
