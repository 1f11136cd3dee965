# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a driver's modules are loaded: one file in modprobe.d, and one in modules-load.d where the host is to load
them at each boot.

Both hold for all kernels of a host, so what they say is held against the build that each of them uses. The
first line says whose a file is: what does not begin so is somebody else's, and stays as it is.
"""

import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..judge import parameters
from ..judge.selection import Build
from ..plan import Content, File, Plan
from ..read import kernels, names
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from . import store
from .texts import MARKER

MODPROBE, AT_BOOT = "/etc/modprobe.d", "/etc/modules-load.d"
# What reads modules-load.d: systemd, Debian's kmod without it, OpenRC
READERS = (
    "/usr/lib/systemd/systemd-modules-load",
    "/lib/systemd/systemd-modules-load",
    "/etc/init.d/kmod",
    "/etc/init.d/modules-load",
)
_HEAD = "# %s %s: made by kmod_deploy, which writes it anew and removes it with the driver.\n"
_PARTS = ("pre", "post")
Used = Mapping[str, Optional[Build]]  # by kernel release


class Loading(NamedTuple):
    """What is wanted: see the options of the module kmod_deploy."""

    options: Mapping[str, Any] = {}  # noqa: RUF012  # by module: {parameter: value}
    blacklist: Tuple[str, ...] = ()
    softdep: Mapping[str, Any] = {}  # noqa: RUF012  # by module: {"pre": [...], "post": [...]}
    at_boot: bool = False


class Texts(NamedTuple):
    """What the two files are to hold; "" where there is to be none."""

    modprobe: str = ""
    at_boot: str = ""


def path(driver: str, directory: str = MODPROBE) -> str:
    """Files of ours are called so in directories that are shared: see store.ModuleTree."""
    return "%s/outoftree.kmod-%s.conf" % (directory, driver)


def is_ours(text: str, driver: str) -> bool:
    """An empty file is what a full disk has left of one."""
    return not text or text.startswith("# %s %s:" % (MARKER, driver))


def texts(
    host: Host,
    driver: str,
    wanted: Loading,
    *,
    used: Used,
    installed: Sequence[Kernel],
    coming: Iterable[str] = (),
) -> Texts:
    """The files' texts, checked against the builds that the kernels use.

    ``coming`` are modules of other drivers that are deployed with this one, and may not be there yet. Errors:
    BAD_OPTION, MODULE_NAME, OPTION_MODULE, PARAMETER_UNKNOWN, PARAMETER_VALUE, BLACKLIST_OWN, SOFTDEP_MISSING,
    AT_BOOT_UNREAD.
    """
    by_kernel = {
        release: {each.name: each for each in build.modules} for release, build in used.items() if build
    }
    if not by_kernel:  # a blacklist would leave its devices without any driver
        return Texts()
    own = _sorted_names(by_kernel.values())
    lines = []
    for module, given in sorted(_by_module("options", wanted.options, driver, own).items()):
        words = [_word(module, name, value, by_kernel) for name, value in _pairs("options", module, given)]
        if len({word.partition("=")[0] for word in words}) < len(words):
            raise _bad("options", "of %s set one parameter twice" % module, "Leave one of them out")
        lines += ["options %s %s" % (module, " ".join(words))] if words else []
    lines += ["blacklist %s" % name for name in _blacklist(wanted.blacklist, driver, own)]
    for module, given in sorted(_by_module("softdep", wanted.softdep, driver, own).items()):
        parts = dict(_pairs("softdep", module, given))
        if set(parts) - set(_PARTS):
            raise _bad(
                "softdep",
                "of %s has %s" % (module, ", ".join(sorted(set(parts) - set(_PARTS)))),
                "pre and post are all it can have",
            )
        others = {part: [_module(each) for each in _list("softdep", parts.get(part))] for part in _PARTS}
        if any(module in names for names in others.values()):
            raise _bad("softdep", "of %s names %s itself" % (module, module), "Leave it out")
        _there(others, module, own, by_kernel, installed=installed, coming=coming)
        said = ["%s: %s" % (part, " ".join(others[part])) for part in _PARTS if others[part]]
        lines += ["softdep %s %s" % (module, " ".join(said))] if said else []
    head = _HEAD % (MARKER, driver)
    return Texts(
        head + "\n".join(lines) + "\n" if lines else "",
        head + "\n".join(_at_boot(host, own, by_kernel)) + "\n" if wanted.at_boot and own else "",
    )


def present(host: Host, driver: str, wanted: Texts) -> Plan:
    """Plan that the files hold these texts. Error: FOREIGN_FILE."""
    tree = store.ModuleTree(host, Plan(host))
    tree.touched.update((MODPROBE, AT_BOOT))  # a run that was cut off may have left its mark alone
    for directory, text in ((MODPROBE, wanted.modprobe), (AT_BOOT, wanted.at_boot)):
        place = path(driver, directory)
        if text and not _is_mine(host, place, driver):
            raise KmodError(
                place, "is there, and was not put there by this collection", "Move it away", "FOREIGN_FILE"
            )
        if text:
            tree.put(place, File(Content.of(text.encode("ascii"))))
        elif host.lstat(place) is not None and _is_mine(host, place, driver):
            tree.remove(place)
    tree.sweep()
    return tree.plan


def absent(host: Host, driver: str) -> Plan:
    return present(host, driver, Texts())


def configured(host: Host, drivers: Iterable[str]) -> Dict[str, bytes]:
    """What the host has in modprobe.d for these drivers, by path: what their variants take along."""
    found = {}
    for driver in sorted(drivers):
        place = path(driver)
        if host.is_file(place) and not host.is_link(place) and _is_mine(host, place, driver):
            found[place] = host.read(place, 1 << 20)
    return found


def softdeps(host: Host, drivers: Iterable[str]) -> Dict[str, List[str]]:
    """What these files have loaded before and after each module, "pre:" and "post:" among it."""
    found: Dict[str, List[str]] = {}
    for data in configured(host, drivers).values():
        for line in data.decode("utf-8", "replace").splitlines():
            words = line.split()
            if words[:1] == ["softdep"] and len(words) > 1:
                found.setdefault(names.alias_of(words[1]), []).extend(words[2:])
    return found


def found(host: Host) -> Dict[str, List[str]]:
    """The files of ours that a host has, by driver, whether there is anything else of that or not."""
    there: Dict[str, List[str]] = {}
    for directory in (MODPROBE, AT_BOOT):
        for name in host.listdir(directory):
            named = re.match(r"outoftree\.kmod-(.+)\.conf$", name)
            if named and _is_mine(host, "%s/%s" % (directory, name), named.group(1)):
                there.setdefault(named.group(1), []).append("%s/%s" % (directory, name))
    return there


def _is_mine(host: Host, place: str, driver: str) -> bool:
    if host.lstat(place) is None:
        return True
    return not host.is_link(place) and host.is_file(place) and is_ours(host.read_text(place), driver)


# What was given


def _by_module(option: str, given: Any, driver: str, own: Sequence[str]) -> Dict[str, Any]:
    """What is given for each module of the driver. Errors: BAD_OPTION, OPTION_MODULE."""
    if not isinstance(given, dict):
        raise _bad(option, "is no dictionary", "Give it the names of modules as keys")
    found: Dict[str, Any] = {}
    for name, value in given.items():
        module = _module(name)
        if module not in own:
            by = "{%s: {%s: ...}}" % (own[0], name)  # one step of nesting was left out
            raise KmodError(
                "%s of %s" % (option, driver),
                "%s is no module of the driver, which has %s" % (module, ", ".join(own)),
                "Name one of those" + ("" if isinstance(value, dict) else ", as in %s: %s" % (option, by)),
                "OPTION_MODULE",
            )
        if module in found:
            raise _bad(option, "names %s twice" % module, "Name each module once")
        found[module] = value
    return found


def _pairs(option: str, module: str, given: Any) -> List[Tuple[str, Any]]:
    if not isinstance(given, dict):
        raise _bad(option, "of %s is no dictionary" % module, "Write it as {name: value}")
    return sorted((str(name), value) for name, value in given.items())


def _list(option: str, given: Any) -> List[Any]:
    if given is None:
        return []
    if not isinstance(given, (list, tuple)):
        given = [given]
    return list(given)


def _module(name: Any) -> str:
    """A module's name as modprobe knows it. Error: MODULE_NAME."""
    found = str(name).replace("-", "_")
    if not names.is_module(found):
        raise KmodError(
            str(name)[:80],
            "cannot be a module's name",
            "Give the name alone, as lsmod shows it",
            "MODULE_NAME",
        )
    return found


def _bad(option: str, why: str, then: str) -> KmodError:
    return KmodError(option, why, then, "BAD_OPTION")


def refuse_circle(softdeps: Iterable[Any]) -> None:
    """Orders that contradict each other, of all drivers: modprobe would follow the one that it meets first.

    What is not written as it should be is for ``texts`` to refuse. Error: BAD_OPTION.
    """
    before: Dict[str, Set[str]] = {}
    for softdep in softdeps:
        for name, parts in softdep.items() if isinstance(softdep, dict) else ():
            for part in _PARTS if isinstance(parts, dict) else ():
                for other in _list("softdep", parts.get(part)):
                    pair = (str(other).replace("-", "_"), str(name).replace("-", "_"))
                    first, then = pair if part == "pre" else pair[::-1]
                    before.setdefault(then, set()).add(first)
    seen: Set[str] = set()

    def walk(module: str, way: Tuple[str, ...]) -> None:
        if module in way[:-1]:
            circle = " after ".join(way[way.index(module) :])
            raise _bad("softdep", "asks for %s" % circle, "Leave one of these out")
        for each in sorted(before.get(module, ())) if module not in seen else ():
            walk(each, (*way, each))
        seen.add(module)

    for module in sorted(before):
        walk(module, (module,))


# Against what is there


def _sorted_names(builds: Iterable[Mapping[str, KernelModule]]) -> List[str]:
    return sorted(set().union(*builds))


def _word(module: str, name: str, value: Any, by_kernel: Mapping[str, Mapping[str, KernelModule]]) -> str:
    """Builds differ: each kernel's has to have the parameter, and to take the value."""
    found = ""
    for release, modules in sorted(by_kernel.items(), key=lambda item: kernels.version_key(item[0])):
        if module in modules:
            where = " in the build that kernel %s uses" % release if len(by_kernel) > 1 else ""
            parameter = parameters.find(modules[module], name, where)
            kind = parameters.known(modules[module]).get(parameter, "")
            found = parameters.written("%s.%s" % (module, parameter), value, kind)
    return found


def _blacklist(given: Sequence[Any], driver: str, own: Sequence[str]) -> List[str]:
    found = sorted({_module(name) for name in given})
    mine = [name for name in found if name in own]
    if mine:
        raise KmodError(
            "blacklist of %s" % driver,
            "%s is a module of the driver itself, and no device would have it loaded" % ", ".join(mine),
            "Name the modules that are to leave its devices alone",
            "BLACKLIST_OWN",
        )
    return found


def _there(
    others: Mapping[str, Sequence[str]],
    module: str,
    own: Sequence[str],
    by_kernel: Mapping[str, Any],
    *,
    installed: Sequence[Kernel],
    coming: Iterable[str],
) -> None:
    """That every kernel that has the driver has these. modprobe takes aliases there, too."""
    wanted = {name for part in _PARTS for name in others[part]} - set(own) - set(coming)
    for kernel in installed if wanted else ():
        if kernel.release not in by_kernel:
            continue
        lost = wanted - set(kernel.modules) - kernel.builtin
        lost = {name for name in lost if not kernels.named(kernel, name)}
        if lost:
            raise KmodError(
                "softdep of %s" % module,
                "kernel %s has no module %s" % (kernel.release, ", ".join(sorted(lost))),
                "Correct the name, or leave it out",
                "SOFTDEP_MISSING",
            )


def _at_boot(
    host: Host, own: Sequence[str], by_kernel: Mapping[str, Mapping[str, KernelModule]]
) -> List[str]:
    """The modules that each of the builds has: what one lacks would be a failed unit there."""
    if not any(host.is_file(reader) for reader in READERS):
        raise KmodError(
            AT_BOOT,
            "nothing on this host reads it (no systemd, no init script for it)",
            "Leave load_at_boot out; early_load has the initramfs load the driver",
            "AT_BOOT_UNREAD",
        )
    return [name for name in own if all(name in modules for modules in by_kernel.values())] or list(own)
