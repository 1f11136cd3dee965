# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host knows of how it is to follow new kernels: one file, in which each driver has what the role was
given for it.
"""

import json
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import KmodError
from ..host import Host
from ..read import names

DIRECTORY = "/etc/outoftree-kmod"
PATH = DIRECTORY + "/follow.json"
FORMAT = 1
LIMIT = 1 << 20
BOOTS = ("none", "once", "default")


class Followed(NamedTuple):
    """How one driver is given to new kernels: the options of the modules, as the role has them."""

    kernels: Tuple[str, ...] = ("all",)
    initrd: bool = True
    method: str = "auto"
    early_load: bool = False
    ignore_tpm: bool = False
    entry: bool = True
    args: str = ""
    fallback_args: str = "auto"
    loader: str = "auto"
    copy_of: str = ""
    boot: str = "none"
    keep_default: bool = False

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), kernels=list(self.kernels))


LINKS_ALONE = Followed(initrd=False, entry=False)  # for what nothing is known of


class Settings(NamedTuple):
    """The file's contents.

    ``made`` are the directories that came with it, and go with it when nothing else is left in them.
    """

    drivers: Dict[str, Followed]
    interpreter: str = ""
    kmodctl: Dict[str, str] = {}  # noqa: RUF012  # digests: of the sources that were sent, and of the file made of them, by which Python
    made: Tuple[str, ...] = ()

    @property
    def text(self) -> str:
        told = {
            "format": FORMAT,
            "interpreter": self.interpreter,
            "kmodctl": self.kmodctl,
            "made": list(self.made),
            "drivers": {name: followed.as_dict() for name, followed in self.drivers.items()},
        }
        return json.dumps(told, indent=2, sort_keys=True) + "\n"


def read(host: Host) -> Optional[Settings]:
    """The settings; None where the host follows nothing. Errors: SETTINGS_DAMAGED, SETTINGS_NEWER."""
    if host.lstat(PATH) is None:
        return None
    if not host.is_file(PATH):
        raise _damaged("it is no file")
    try:
        told = json.loads(_text(host))
        found = told["format"]
        if isinstance(found, int) and found > FORMAT:
            raise KmodError(
                PATH,
                "was written by a newer version of outoftree.kmod (format %d; this one reads %d)"
                % (found, FORMAT),
                "Run the role again, with kmod_follow: true",
                "SETTINGS_NEWER",
            )
        drivers = {name: _followed(name, each) for name, each in told["drivers"].items()}
        kmodctl = {name: _typed(value, str, "kmodctl") for name, value in told.get("kmodctl", {}).items()}
        made = [_typed(path, str, "made") for path in told["made"]]
        return Settings(drivers, _typed(told["interpreter"], str, "interpreter"), kmodctl, tuple(made))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged("%s: %s" % (type(error).__name__, error)) from None


def _text(host: Host) -> str:
    try:
        return host.read_text(PATH, LIMIT)
    except KmodError as error:
        if error.code != "FILE_TOO_LARGE":
            raise
        raise _damaged(error.why) from None


def read_or_none(host: Host) -> Optional[Settings]:
    """The settings, or None where there are none that can be understood: what is written next takes their
    place.
    """
    try:
        return read(host)
    except KmodError as error:
        if error.code != "SETTINGS_DAMAGED":
            raise
    return None


def _followed(driver: str, told: Dict[str, Any]) -> Followed:
    """One driver's part. What a newer version added is left out; what is missing is as it is by default."""
    try:
        names.check_driver(driver)
    except KmodError as error:
        raise _damaged(str(error)) from None
    known = Followed()
    given = {}
    for name, default in known._asdict().items():
        if name in told:
            kind = list if name == "kernels" else type(default)
            given[name] = _typed(told[name], kind, "%s of %s" % (name, driver))
    if "kernels" in given:
        given["kernels"] = tuple(_typed(each, str, "kernels of %s" % driver) for each in given["kernels"])
    if given.get("boot", "none") not in BOOTS:
        raise _damaged("boot of %s" % driver)
    return known._replace(**given)


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise _damaged("%s is not of type %s" % (what, kind.__name__))
    return value


def _damaged(why: str) -> KmodError:
    return KmodError(
        PATH,
        "cannot be understood (%s), so how drivers are to follow is not known" % why,
        "Run the role again with kmod_follow: true, or remove the file",
        "SETTINGS_DAMAGED",
    )


def drivers_of(settings: Optional[Settings], stored: List[str]) -> Dict[str, Followed]:
    """How each driver is to follow: those of the settings; without any, what lies in the store gets links
    alone.
    """
    return dict(sorted(settings.drivers.items())) if settings else dict.fromkeys(sorted(stored), LINKS_ALONE)
