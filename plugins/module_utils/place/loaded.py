# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which modules the running kernel has loaded, and loading new ones into it."""

import array
import fcntl
import functools
import posixpath
import socket
import struct
from typing import List, NamedTuple, Optional, Sequence, Set

from ..errors import KmodError
from ..host import Host
from ..plan import Plan
from ..read import elf
from ..read.kernel_module import KernelModule

BUILD_ID = ".note.gnu.build-id"
IFF_UP = 1  # include/uapi/linux/if.h
# include/uapi/linux/sockios.h, ethtool.h: struct ethtool_drvinfo is 196 bytes
SIOCETHTOOL, ETHTOOL_GDRVINFO = 0x8946, 3
BETWEEN = ("coming", "going")  # kernel/module/sysfs.c: show_initstate


def state(host: Host, module: KernelModule, build_id: Optional[bytes]) -> str:
    """Whether the running kernel has ``module`` loaded: "no", "this" one, an"other" of its name, "unknown"
    which, or one that is "coming" or "going": it stays so if it crashed while it was.

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


class Wanted(NamedTuple):
    """A module that the running kernel is to have, what tells that it has that very one, and its ``state``
    now.
    """

    module: KernelModule
    build_id: Optional[bytes]
    state: str


def reload(plan: Plan, modules: Sequence[Wanted]) -> bool:
    """Plan that the running kernel uses these modules; False if only a reboot can bring that about.

    What is loaded under their names is removed first, where nothing uses it but they themselves. If a new one
    does not load, the old ones are loaded again, from the files as they were.
    """
    names = {each.module.name for each in modules}
    others = _users_first([each.module for each in modules if each.state == "other"])
    if any(each.state in BETWEEN for each in modules) or any(
        not _removable(plan.host, name, names) for name in others
    ):
        return False
    if others:
        plan.run(
            "/sys/module",
            ["rmmod"] + others,
            lambda host: _load_again(host, others[::-1]),
            proof=lambda host: _still(host, others),
        )
    for each in modules:
        if each.state in ("no", "other"):
            name = each.module.name
            plan.run(
                "/sys/module/" + name,
                ["modprobe", name],
                functools.partial(_unload, name=name),
                proof=functools.partial(_not_this, wanted=each),
            )
    return True


def _still(host: Host, names: Sequence[str]) -> Optional[str]:
    left = [name for name in names if _is_loaded(host, name)]
    return "%s is still loaded" % ", ".join(left) if left else None


def _not_this(host: Host, wanted: Wanted) -> Optional[str]:
    now = state(host, wanted.module, wanted.build_id)
    text = {
        "this": None,
        "unknown": None,
        "no": "is not loaded",
        "other": "another module of that name is loaded",
    }
    return "%s: %s" % (wanted.module.name, text.get(now, "it is %s" % now)) if text.get(now, now) else None


def _load_again(host: Host, names: Sequence[str]) -> None:
    lost = []
    for name in names:
        done = host.run(["modprobe", name], check=False)
        if done.status or not _is_loaded(host, name):
            lost.append(name)
    if lost:
        raise KmodError(
            ", ".join(lost),
            "was loaded before, and could not be loaded again",
            "Look at dmesg, and load it by hand",
            code="MODULE_LOST",
        )


def _unload(host: Host, name: str) -> None:
    if _is_loaded(host, name):
        host.run(["rmmod", name])


def _is_loaded(host: Host, name: str) -> bool:
    return host.is_file("/sys/module/%s/initstate" % name)


def _users_first(modules: Sequence[KernelModule]) -> List[str]:
    left = {module.name: set(module.depends) for module in modules}
    found: List[str] = []
    while left:
        free = sorted(
            name for name in left if not any(name in uses for other, uses in left.items() if other != name)
        ) or sorted(left)
        found.append(free[0])
        del left[free[0]]
    return found


def _removable(host: Host, name: str, ours: Set[str]) -> bool:
    holders = host.listdir("/sys/module/%s/holders" % name)
    users = (
        int(host.read_text("/sys/module/%s/refcnt" % name).strip() or 0)
        if host.is_file("/sys/module/%s/refcnt" % name)
        else 1
    )
    return (
        set(holders) <= ours
        and users <= len(holders)
        and not any(_drives(host, interface, name) for interface in _interfaces_up(host))
    )


def _interfaces_up(host: Host) -> List[str]:
    """A network driver can be removed while its interface is up, and the connection to the host goes with it."""
    up = []
    for interface in host.listdir("/sys/class/net"):
        flags = "/sys/class/net/%s/flags" % interface
        if host.is_file(flags) and int(host.read_text(flags).strip() or "0", 16) & IFF_UP:
            up.append(interface)
    return up


def _drives(host: Host, interface: str, name: str) -> bool:
    """Whether a module drives an interface: by its device, or by what the driver of one without a device says
    (``ethtool -i``).
    """
    module = "/sys/class/net/%s/device/driver/module" % interface
    if host.exists(module):
        return posixpath.basename(host.real(module)) == name
    host.past()
    information = array.array("B", struct.pack("I", ETHTOOL_GDRVINFO) + bytes(192))
    request = struct.pack(
        "16sP", interface.encode("ascii", "replace")[:15], information.buffer_info()[0]
    ).ljust(40, b"\0")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, SIOCETHTOOL, request)
    except OSError:  # it does not say
        return False
    return (
        information.tobytes()[4:36].partition(b"\0")[0].decode("ascii", "replace").replace("-", "_") == name
    )
