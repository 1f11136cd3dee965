# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""By which hooks a host tells kmodctl of kernels that come and go, and of images that are made again: one set
of files a family.

| family | early | late | removal begins | removal | image made again |
|---|---|---|---|---|---|
| EL 8 and later, Fedora (kernel-install) | install.d/45- | install.d/99- | install.d/10- | install.d/99- | path unit |
| EL 6 and 7 (new-kernel-pkg) | | postinst.d | | prerm.d | path unit |
| Debian, Ubuntu | postinst.d/do- | postinst.d/zzz- | prerm.d/do- | postrm.d/zzz- | post-update.d |
| SUSE, others | | path unit | | path unit | path unit |

Where systemd is: the path unit, a look at boot and one at shutdown, everywhere.
"""

import posixpath
import re
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..plan import Content, Directory, File, Link, Plan
from ..read import os_release
from . import bulletin, settings, zipapp
from . import hook_texts as texts
from .hook_texts import FORGET, HOOK, KMODCTL
from .manual import MANUAL_PAGE
from .settings import Followed, Settings
from .texts import KEPT

INSTALL_D = "/etc/kernel/install.d"
POSTINST_D = "/etc/kernel/postinst.d"
UNITS = "/etc/systemd/system"
MANUAL = "/usr/local/share/man/man8/kmodctl.8"
# what following leaves on a host besides links, variants and entries
LEFT = (bulletin.PENDING, bulletin.FACT, bulletin.MOTD, KEPT)
# What hooks may find: the interpreter that the role has seen comes first. EL 8 may have the second alone.
INTERPRETERS = ("/usr/bin/python3", "/usr/libexec/platform-python", "/usr/local/bin/python3")


class HookFile(NamedTuple):
    """A script or unit, and its mode."""

    text: str
    mode: int = 0o755


FAMILIES: Dict[str, Dict[str, str]] = {
    "el": {
        INSTALL_D + "/10-outoftree-kmod.install": texts.INSTALL_LEAVING,
        INSTALL_D + "/45-outoftree-kmod.install": texts.INSTALL_EARLY,
        INSTALL_D + "/99-outoftree-kmod.install": texts.INSTALL_LATE,
    },
    "el7": {
        POSTINST_D + "/outoftree-kmod": texts.POSTINST,
        "/etc/kernel/prerm.d/outoftree-kmod": texts.PRERM,
    },
    "debian": {
        POSTINST_D + "/do-outoftree-kmod": texts.DEBIAN_EARLY,
        POSTINST_D + "/zzz-outoftree-kmod": texts.DEBIAN_LATE,
        "/etc/kernel/prerm.d/do-outoftree-kmod": texts.DEBIAN_LEAVING,
        "/etc/kernel/postrm.d/zzz-outoftree-kmod": texts.DEBIAN_REMOVED,
        "/etc/initramfs/post-update.d/zz-outoftree-kmod": texts.DEBIAN_IMAGE,
    },
    "suse": {},
    "other": {},
}
UNIT_FILES: Dict[str, str] = {
    "outoftree-kmod.path": texts.PATH_UNIT,
    "outoftree-kmod.service": texts.SERVICE,
    texts.CHECK: texts.CHECK_UNIT,
    "outoftree-kmod-shutdown.service": texts.SHUTDOWN_UNIT,
}
# by multi-user.target
WANTED = ("outoftree-kmod.path", texts.CHECK, "outoftree-kmod-shutdown.service")
STARTED = ("outoftree-kmod.path", "outoftree-kmod-shutdown.service")


def family(host: Host) -> str:
    """Whose hooks a host has: el (kernel-install), el7 (new-kernel-pkg), debian, suse, other."""
    told = os_release.read(host)
    words = told.get("ID", "").split() + told.get("ID_LIKE", "").split()
    if "debian" in words or "ubuntu" in words:
        return "debian"
    if {"rhel", "fedora", "centos"} & set(words):
        version = re.match(r"\d+", told.get("VERSION_ID", ""))
        return "el7" if version and int(version.group()) < 8 else "el"
    if any(word == "suse" or word.startswith(("sles", "opensuse")) for word in words):
        return "suse"
    if not told and host.is_file("/etc/redhat-release"):
        return "el7"
    return "other"


def files(host: Host, interpreter: str = "") -> Dict[str, HookFile]:
    """Every script and unit that the host is to have, by path."""
    interpreters = [each for each in dict.fromkeys([interpreter, *INTERPRETERS]) if each]
    named = {
        "made_by": texts.MADE_BY,
        "hook": HOOK,
        "kmodctl": KMODCTL,
        "pending": bulletin.PENDING,
        "modules": "/lib/modules" if host.is_dir("/lib/modules") else "/usr/lib/modules",
        "interpreters": " ".join(interpreters + ["python3"]),
    }
    found = {HOOK: HookFile(texts.RUNNER % named)}
    found.update({path: HookFile(text % named) for path, text in FAMILIES[family(host)].items()})
    if has_systemd(host):
        found.update(
            {"%s/%s" % (UNITS, name): HookFile(text % named, 0o644) for name, text in UNIT_FILES.items()}
        )
    return found


def calls(host: Host) -> bool:
    """Whether anything on the host would tell kmodctl of a kernel."""
    return bool(FAMILIES[family(host)]) or has_systemd(host)


def has_systemd(host: Host) -> bool:
    return any(host.is_file(path) for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd"))


def wants(host: Host) -> List[Tuple[str, str]]:
    """(path, target) of the links by which units are enabled, as systemctl makes them."""
    if not has_systemd(host):
        return []
    return [("%s/multi-user.target.wants/%s" % (UNITS, name), "%s/%s" % (UNITS, name)) for name in WANTED]


# What the role asks for


def wanted(sources: str, interpreter: str, path: str) -> Dict[str, str]:
    """What the settings say of a kmodctl made of these sources (their digest)."""
    return {"sources": sources, "python": zipapp.version(), "interpreter": interpreter, "file": path}


def has_kmodctl(host: Host, sources: str, interpreter: str) -> bool:
    """Whether the host has a kmodctl made of these sources, by this Python and for that interpreter, as it
    was written.
    """
    old = settings.read_or_none(host)
    there = old.kmodctl.get("file", "") if old else ""
    if (
        not old
        or old.kmodctl != wanted(sources, interpreter, there)
        or not host.is_file(KMODCTL)
        or host.is_link(KMODCTL)
    ):
        return False
    return Content.stored(host, KMODCTL).sha256 == there


def present(
    host: Host,
    driver: str,
    followed: Followed,
    *,
    interpreter: str,
    sources: str,
    kmodctl: Optional[Content],
    diverted: bool = False,
) -> Plan:
    """Plan that the host follows new kernels with a driver: kmodctl, hooks, units, manual page, and the
    driver's part of the settings.

    ``kmodctl``: the file, made of ``sources`` (their digest); None where the host has it. ``diverted`` is for the
    settings.
    """
    old = settings.read_or_none(host)
    scripts = files(host, interpreter)
    scripts[MANUAL] = HookFile(MANUAL_PAGE, 0o644)
    links = wants(host)
    for path in [KMODCTL, *scripts]:
        if host.lstat(path) is not None and not is_ours(host, path):
            raise KmodError(
                path, "is there, and was not put there by this collection", "Move it away", "FOREIGN_FILE"
            )
    made = sorted(
        {
            *(old.made if old else ()),
            *_missing(host, [KMODCTL, *scripts, *(path for path, _target in links), *LEFT]),
        }
    )
    drivers = dict(old.drivers if old else {}, **{driver: followed})
    there = wanted(sources, interpreter, kmodctl.sha256) if kmodctl else old.kmodctl if old else {}
    plan = Plan(host)
    plan.put(
        settings.PATH,
        File(Content.of(Settings(drivers, interpreter, there, tuple(made), diverted).text.encode()), 0o644),
    )
    plan.put(texts.STATE, Directory())
    if kmodctl:
        plan.put(KMODCTL, File(kmodctl, 0o755))
    # the runner first: the others call it
    for path, each in sorted(scripts.items(), key=lambda item: (item[0] != HOOK, item[0])):
        plan.put(path, File(Content.of(each.text.encode()), each.mode))
    for path in _others(host, scripts):
        plan.put(path, None)
    for path, target in links:
        plan.put(path, Link(target))
    if running_systemd(host) and any(path.startswith(UNITS) for path in plan.paths()):
        plan.run(UNITS, ["systemctl", "daemon-reload"])
        plan.run(UNITS, ["systemctl", "--no-block", "start", *STARTED])
    return plan


def absent(host: Host, driver: str) -> Plan:
    """Plan that the host does not follow with a driver; with the last one all goes, to the directories that
    came with it.
    """
    old = settings.read_or_none(host)
    plan = Plan(host)
    drivers = {name: each for name, each in (old.drivers if old else {}).items() if name != driver}
    if old and drivers:
        plan.put(settings.PATH, File(Content.of(old._replace(drivers=drivers).text.encode()), 0o644))
        return plan
    for path in [HOOK, *_others(host, {}), KMODCTL, MANUAL]:
        if is_ours(host, path):
            plan.put(path, None)
    for path in LEFT:
        plan.put(path, None)
    units = [path for path, _target in wants(host)] + ["%s/%s" % (UNITS, name) for name in UNIT_FILES]
    # the runner is gone: nothing starts what waits for our lock
    if running_systemd(host) and any(host.lstat(path) for path in units):
        plan.run(UNITS, ["systemctl", "stop", *WANTED])
    for path in units:
        if is_ours(host, path):
            plan.put(path, None)
    if running_systemd(host) and any(path.startswith(UNITS) for path in plan.paths()):
        plan.run(UNITS, ["systemctl", "daemon-reload"])
        plan.run(UNITS, FORGET)
    gone = set(plan.paths())
    for path in sorted(old.made if old else (), key=len, reverse=True):
        if path != settings.DIRECTORY and _empty(host, path, gone):
            plan.put(path, None)
            gone.add(path)
    plan.put(settings.PATH, None)
    if _empty(host, settings.DIRECTORY, {settings.PATH}):
        plan.put(settings.DIRECTORY, None)
    return plan


def is_ours(host: Host, path: str) -> bool:
    """Whether a script, unit, page or kmodctl is one that we put there, by what is in it; a link, if it leads
    to such a unit.
    """
    if host.is_link(path):
        return host.readlink(path) in ["%s/%s" % (UNITS, name) for name in UNIT_FILES]
    if not host.is_file(path):
        return False
    data = host.read(path)
    return (
        not data  # what a power cut may leave of one
        or texts.MADE_BY.encode() in data
        or data.startswith(MANUAL_PAGE[:20].encode())
        or (path == KMODCTL and zipapp.MARK in data)
    )


def _missing(host: Host, paths: Iterable[str]) -> Set[str]:
    """The directories that are not there yet above some paths."""
    found: Set[str] = set()
    for path in paths:
        above = posixpath.dirname(path)
        while above not in found and not host.exists(above):
            found.add(above)
            above = posixpath.dirname(above)
    return found


def _empty(host: Host, directory: str, gone: Set[str]) -> bool:
    there = host.is_dir(directory) and not host.is_link(directory)
    return there and all("%s/%s" % (directory, name) in gone for name in host.listdir(directory))


def _others(host: Host, wanted: Mapping[str, object]) -> List[str]:
    """Hooks of ours that the host has and is not to have: it was upgraded, or is another family than it
    seemed.
    """
    every = {path for each in FAMILIES.values() for path in each}
    return [path for path in sorted(every - set(wanted)) if is_ours(host, path)]


def running_systemd(host: Host) -> bool:
    return host.live and host.is_dir("/run/systemd/system")
