# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host knows of how it is to follow new kernels: one file, in which each driver has what the role was
given for it.
"""

import json
import os.path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import KmodError
from ..host import Host
from ..read import names

DIRECTORY = "/etc/outoftree-kmod"
PATH = DIRECTORY + "/follow.json"
FORMAT = 1
LIMIT = 1 << 20
CHOICES = {
    "boot": ("none", "once", "default"),
    "method": ("auto", "overlay", "segment", "rebuild"),
    "loader": ("auto", "grub2", "bls", "systemd-boot", "grub-legacy", "extlinux"),
}
_CALLED = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}


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

    ``made`` are the directories that came with it, and go with it when nothing else is left in them. ``diverted``:
    whether kmodctl is in the place of weak-modules (see diversion.py).
    """

    drivers: Dict[str, Followed]
    interpreter: str = ""
    kmodctl: Dict[str, str] = {}  # noqa: RUF012  # digests: of the sources that were sent, and of the file made of them, by which Python
    made: Tuple[str, ...] = ()
    diverted: bool = False

    @property
    def text(self) -> str:
        told = {
            "format": FORMAT,
            "interpreter": self.interpreter,
            "kmodctl": self.kmodctl,
            "made": list(self.made),
            "diverted": self.diverted,
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
        told = _typed(json.loads(_text(host)), dict, "it")
    except (ValueError, RecursionError) as error:
        raise _damaged("it is no JSON: %s" % error) from None
    if _typed(told.get("format"), int, "format") > FORMAT:
        raise KmodError(
            PATH,
            "was written by a newer version of outoftree.kmod (format %d; this one reads %d)"
            % (told["format"], FORMAT),
            "Run the role again, with kmod_follow: true",
            "SETTINGS_NEWER",
        )
    drivers = {
        name: _followed(name, _typed(each, dict, name))
        for name, each in _typed(told.get("drivers"), dict, "drivers").items()
    }
    kmodctl = {
        name: _typed(value, str, "kmodctl")
        for name, value in _typed(told.get("kmodctl", {}), dict, "kmodctl").items()
    }
    made = tuple(_directory(path) for path in _typed(told.get("made"), list, "made"))
    return Settings(
        drivers,
        _typed(told.get("interpreter"), str, "interpreter"),
        kmodctl,
        made,
        _typed(told.get("diverted", False), bool, "diverted"),
    )


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
    for name, choices in CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise _damaged("%s of %s is none of %s" % (name, driver, ", ".join(choices)))
    return known._replace(**given)


def _directory(path: Any) -> str:
    """One that came with following: it goes when it is empty."""
    if not os.path.isabs(_typed(path, str, "made")) or os.path.normpath(path) != path:
        raise _damaged("made is no list of directories")
    return str(path)


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or (
        isinstance(value, bool) and kind is not bool
    ):  # True is no number here
        raise _damaged("%s is not %s" % (what, _CALLED[kind]))
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
