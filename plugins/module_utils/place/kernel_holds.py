# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels that a host is not to install while a driver has no build for them.

The package manager's own files say so (see hold_files.py), and they alone: nothing is recorded beside them,
so what they say is what is so. Files can be written from a hook, while the package manager has its lock and
none of its commands would work.
"""

from typing import Collection, Iterable, List, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import MODULES, Host
from ..plan import Content, File, Plan, look
from ..read import kernels, names
from . import hold_files, hooks
from .hold_files import ALL, Hold, HoldFile

LIMIT = 4 << 20
# by the first program that a host of the family has; dnf 5 reads the file of dnf 4 too
TOOLS = {
    "debian": (("/usr/bin/apt-get", hold_files.APT),),
    "el": (
        ("/usr/bin/dnf-3", hold_files.DNF),
        ("/usr/bin/dnf5", hold_files.DNF5),
        ("/usr/bin/dnf", hold_files.DNF),
        ("/usr/bin/microdnf", hold_files.DNF),
    ),
    "el7": (("/usr/bin/dnf", hold_files.DNF), ("/usr/bin/yum", hold_files.YUM)),
    "suse": (("/usr/bin/zypper", hold_files.ZYPP),),
}


def read(host: Host) -> List[Hold]:
    """What is held on this host, sorted."""
    return in_order(row for file in ALL for row in hold_files.rows(_text(host, file) or ""))


def in_order(holds: Iterable[Hold]) -> List[Hold]:
    """Sorted, with one reason for a kernel and a driver: the last that is given."""
    found = {(each.kernel, each.driver): each for each in holds}
    return sorted(
        found.values(), key=lambda each: (kernels.version_key(each.kernel), each.kernel, each.driver)
    )


def write(host: Host, holds: Sequence[Hold]) -> Plan:
    """Plan that exactly this is held.

    Errors: NO_HOLD where no package manager is known, FOREIGN_FILE, HOLD_FOREIGN, HOLD_DAMAGED, HOLD_LINK.
    """
    into = manager(host)
    if into is None and holds:
        raise KmodError(
            host.root,
            "has no package manager that this collection can have leave a kernel alone",
            "Set kmod_hold to default or none",
            "NO_HOLD",
        )
    plan = Plan(host)
    for file in ALL:
        before = _text(host, file)
        mine = list(holds) if file is into else []
        if not mine and not file.whole and not hold_files.rows(before or ""):
            continue
        after = file.made(file.path, before, mine)
        if after == before:
            continue
        if host.is_link(file.path):
            raise KmodError(
                file.path,
                "is a symlink, and what it leads to may be others' too",
                "Make it a file",
                "HOLD_LINK",
            )
        old = look(host, file.path)
        mode = old.mode if isinstance(old, File) else 0o644
        data = None if after is None else after.encode("utf-8", "surrogateescape")
        plan.put(file.path, None if data is None else File(Content.of(data), mode))
    if host.live and hold_files.APT.path in plan.paths():
        _see_effect(plan, sorted({each.kernel for each in holds}))
    return plan


def _see_effect(plan: Plan, releases: Sequence[str]) -> None:
    """Ask apt, once the file is there, whether it would still install the kernels: preferences of others that
    name the packages may come first.
    """
    for release in releases:
        package = "linux-image-" + release
        asked = ("apt-cache", "policy", package)

        def proof(host: Host, asked: Tuple[str, ...] = asked) -> Optional[str]:
            said = host.run(list(asked), check=False).out.splitlines()
            candidate = [line.split(":", 1)[1].strip() for line in said if line.startswith("  Candidate:")]
            return (
                "preferences of others have apt install it all the same"
                if candidate[:1] not in ([], ["(none)"])
                else None
            )

        plan.run(package, list(asked), proof=proof)


def manager(host: Host) -> Optional[HoldFile]:
    """The file for the host's package manager."""
    tools = TOOLS.get(hooks.family(host)) or tuple(each for family in TOOLS.values() for each in family)
    return next((file for program, file in tools if host.exists(program)), None)


def _text(host: Host, file: HoldFile) -> Optional[str]:
    """None where there is no file. Bytes that are no UTF-8 come back as they were."""
    if not host.is_file(file.path):
        return None
    return host.read(file.path, LIMIT).decode("utf-8", "surrogateescape")


# What has come to an end


def is_installed(host: Host, release: str) -> bool:
    return any(kernels.is_kernel(host, directory, release) for directory in MODULES)


def settle(host: Host, driver: str = "", *, gone: bool = False, stored: Collection[str] = ()) -> Plan:
    """Plan that what nothing is gained by any more is released: the kernel is installed. Or ``driver``, of
    which a plan is being made, is ``gone`` by that, or builds of it for some kernels are ``stored``.

    Errors as of ``write``.
    """
    held = read(host)
    left = [
        each
        for each in held
        if not (each.driver == driver and (gone or each.kernel in stored))
        and not is_installed(host, each.kernel)
    ]
    return write(host, left) if left != held else Plan(host)


def check(kernel: str, driver: str, reason: str) -> Hold:
    """A hold that is asked for. Errors: RELEASE_NAME, DRIVER_NAME, HOLD_REASON."""
    names.check_driver(driver)
    if not names.is_release(kernel):
        raise KmodError(
            kernel,
            "is not a release that a kernel can have",
            "Name a kernel as uname -r does",
            "RELEASE_NAME",
        )
    if not reason.strip():
        raise KmodError(kernel, "is to be held for no reason", "Give a reason", "HOLD_REASON")
    made = Hold(kernel, driver, reason)
    return hold_files.rows(made.row)[0]
