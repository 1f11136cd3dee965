# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module's parameters, as its modinfo has them (``parm``, ``parmtype``), and what may be given for one.

The kernel ignores a parameter that a module does not have, and refuses to load the module for a value that it
cannot take (``kernel/params.c``). Neither is to be found out by a boot.
"""

import re
from typing import Any, Dict

from ..errors import KmodError
from ..read.kernel_module import KernelModule

EVERY = ("async_probe", "dyndbg")  # what any module takes (kernel/module/main.c: unknown_module_param_cb)
ARRAY = "array of "
# kernel/params.c: STANDARD_PARAM_DEF; what has no bits is as wide as a long
_SIGNED, _UNSIGNED = {"short": 16, "int": 32, "long": 64}, {"byte": 8, "ushort": 16, "uint": 32, "hexint": 32}
_UNSIGNED.update({"ulong": 64, "ullong": 64})
_BOOLS = ("bool", "invbool", "bint", "bool_enable_only")
_TRUTH = {
    "y": "1",
    "yes": "1",
    "true": "1",
    "on": "1",
    "1": "1",
    "n": "0",
    "no": "0",
    "false": "0",
    "off": "0",
    "0": "0",
}
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?:0x(?P<hex>[0-9a-f]+)|(?P<oct>0[0-7]*)|(?P<dec>[1-9][0-9]*))", re.I | re.ASCII
)
_TEXT = re.compile(r"[ !#-\[\]-~]*")  # no quote and no backslash: neither can be escaped there
TEXT_LIMIT = 1024  # kernel/params.c: param_set_charp


def known(module: KernelModule) -> Dict[str, str]:
    """Each parameter's type, "" where it has one of its own that modinfo does not tell."""
    rows = [text.partition(":") for key in ("parm", "parmtype") for text in module.infos(key)]
    found = dict.fromkeys([name for name, _colon, _text in rows], "")
    found.update(
        {name: kind for name, _colon, kind in (text.partition(":") for text in module.infos("parmtype"))}
    )
    return found


def find(module: KernelModule, name: str, where: str) -> str:
    """The parameter as the module calls it: dashes and underscores are one to the kernel (``parameq``).

    ``where`` says which kernels are meant. Error: PARAMETER_UNKNOWN, with those that it has.
    """
    there = known(module)
    found = next((each for each in [*there, *EVERY] if _same(each, name)), None)
    if found is None:
        raise KmodError(
            "%s.%s" % (module.name, name),
            "the module has no such parameter%s. It has %s" % (where, ", ".join(sorted(there)) or "none"),
            "Name one of those" if there else "Leave it out",
            "PARAMETER_UNKNOWN",
        )
    return found


def _same(one: str, other: str) -> bool:
    return one.replace("-", "_") == other.replace("-", "_")


def written(name: str, value: Any, kind: str) -> str:
    """``NAME=VALUE`` as it stands in modprobe.d, for a parameter of this type ("" where that is not told).

    ``name`` is MODULE.PARAMETER. Error: PARAMETER_VALUE.
    """
    if kind.startswith(ARRAY):
        each = kind[len(ARRAY) :]
        given = (
            value
            if isinstance(value, (list, tuple))
            else str(value).split(",")
            if isinstance(value, str)
            else [value]
        )
        if not given:
            raise _wrong(name, value, "an empty list says nothing")
        text = ",".join(_one(name, part, each, listed=True) for part in given)
    elif isinstance(value, (list, tuple)) and kind:
        raise _wrong(name, value, "it takes one value (%s) and no list" % kind)
    elif isinstance(value, (list, tuple)):
        text = ",".join(_one(name, part, kind, listed=True) for part in value)
    else:
        text = _one(name, value, kind)
    parameter = name.partition(".")[2]
    return '%s="%s"' % (parameter, text) if " " in text else "%s=%s" % (parameter, text)


def _one(name: str, value: Any, kind: str, listed: bool = False) -> str:
    if value is None or isinstance(value, (dict, list, tuple, float)):
        raise _wrong(name, value, "it has to be a text, a whole number or a boolean")
    if kind in _BOOLS:
        return _bool(name, value)
    if kind in _SIGNED or kind in _UNSIGNED:
        return _number(name, value, kind)
    if isinstance(value, bool):
        raise _wrong(
            name,
            value,
            "YAML takes on, off, yes and no for booleans, and this parameter is none: put it in quotes",
        )
    text = str(value)
    if not _TEXT.fullmatch(text):
        raise _wrong(
            name, value, "printable ASCII without quotes and backslashes is all that can stand in modprobe.d"
        )
    if listed and "," in text:
        raise _wrong(name, value, "a comma parts the elements of a list")
    if len(text) > TEXT_LIMIT:
        raise _wrong(name, text[:40] + "...", "it has more than %d characters" % TEXT_LIMIT)
    return text


def _bool(name: str, value: Any) -> str:
    """``lib/kstrtox.c: kstrtobool``; 0 and 1 are what every kernel takes."""
    found = str(int(value)) if isinstance(value, (bool, int)) else _TRUTH.get(value.lower())
    if found not in ("0", "1"):
        raise _wrong(name, value, "it is a boolean")
    return found


def _number(name: str, value: Any, kind: str) -> str:
    """``lib/kstrtox.c``, with base 0."""
    text = str(int(value)) if isinstance(value, (bool, int)) else value.strip()
    found = _NUMBER.fullmatch(text)
    if found is None or (found.group("sign") == "-" and kind in _UNSIGNED):
        raise _wrong(name, value, "it is a number (%s)" % kind)
    base = 16 if found.group("hex") else 8 if found.group("oct") else 10
    number = int(found.group("sign") + (found.group("hex") or found.group("oct") or found.group("dec")), base)
    low, high = (
        (-(1 << _SIGNED[kind] - 1), (1 << _SIGNED[kind] - 1) - 1)
        if kind in _SIGNED
        else (0, (1 << _UNSIGNED[kind]) - 1)
    )
    if not low <= number <= high:
        raise _wrong(name, value, "%s goes from %d to %d" % (kind, low, high))
    return text


def _wrong(name: str, value: Any, why: str) -> KmodError:
    return KmodError(
        name,
        "cannot be set to %r: %s" % (value, why),
        "Correct it in the driver's options",
        "PARAMETER_VALUE",
    )
