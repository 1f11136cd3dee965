# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which modules the running kernel has loaded, and loading new ones into it."""
from typing import List, Optional, Sequence, Tuple

from ..host import Host
from ..plan import Plan
from ..read import elf
from ..read.ko import KernelModule

BUILD_ID = ".note.gnu.build-id"
BETWEEN = ("coming", "going")  # kernel/module/sysfs.c: show_initstate


def state(host: Host, module: KernelModule, build_id: Optional[bytes]) -> str:
    """Whether the running kernel has ``module`` loaded: "no", "this" one, an"other" of its name, "unknown" which, or one that is "coming" or "going":
    it stays so if it crashed while it was.

    The build ID tells for certain, srcversion (a digest of the sources) where a module has no build ID.
    """
    top = "/sys/module/" + module.name
    if not host.is_file(top + "/initstate"):  # what is built in has a directory, too
        return "no"
    initstate = host.read_text(top + "/initstate").strip()
    if initstate in BETWEEN:
        return initstate
    note = "%s/notes/%s" % (top, BUILD_ID)
    if build_id and host.is_file(note):
        return "this" if host.read(note) == build_id else "other"
    source = host.read_text(top + "/srcversion").strip() if host.is_file(top + "/srcversion") else None
    if source is None and module.srcversion is None:
        return "unknown"
    return "this" if source == module.srcversion else "other"


def build_id(data: bytes, path: str) -> Optional[bytes]:
    """The build ID note in a module's bytes, as /sys/module/NAME/notes shows it."""
    file = elf.parse(data)
    section = file.find_any(BUILD_ID)
    return file.contents(section) if section else None


def reload(plan: Plan, modules: Sequence[Tuple[KernelModule, str]]) -> bool:
    """Plan that the running kernel uses these modules, each given with its ``state``; False if only a reboot can bring that about.

    What is loaded under their names is removed first, where nothing uses it but they themselves.
    """
    names = {module.name for module, _state in modules}
    others = _users_first([module for module, state_now in modules if state_now == "other"])
    if any(state_now in BETWEEN for _module, state_now in modules) or any(not _removable(plan.host, name, names) for name in others):
        return False
    if others:
        plan.run("/sys/module", ["rmmod"] + others)
    for module, state_now in modules:
        if state_now in ("no", "other"):
            plan.run("/sys/module/" + module.name, ["modprobe", module.name])
    return True


def _users_first(modules: Sequence[KernelModule]) -> List[str]:
    left = {module.name: set(module.depends) for module in modules}
    found: List[str] = []
    while left:
        free = sorted(name for name in left if not any(name in uses for other, uses in left.items() if other != name)) or sorted(left)
        found.append(free[0])
        del left[free[0]]
    return found


def _removable(host: Host, name: str, ours: set) -> bool:
    holders: List[str] = host.listdir("/sys/module/%s/holders" % name)
    users = int(host.read_text("/sys/module/%s/refcnt" % name).strip() or 0) if host.is_file("/sys/module/%s/refcnt" % name) else 1
    return set(holders) <= ours and users <= len(holders)
