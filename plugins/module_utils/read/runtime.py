# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds on the machine that is running now, and nowhere else to be read."""

import re
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from ..errors import forgiving
from ..host import Host
from . import efi, modprobe, signature
from .kernels import Kernel
from .signature import Certificate


class Runtime(NamedTuple):
    """None where it cannot be told, as for a machine that is not running.

    What the command line and the firmware say holds for every kernel of the machine; ``loaded`` and
    ``builtin`` are of the running one alone.
    """

    sig_enforce: Optional[bool] = None
    lockdown: Optional[bool] = None  # integrity or confidentiality
    blacklist: FrozenSet[str] = frozenset()  # module_blacklist= of the command line
    # modprobe.blacklist= of the same: modprobe's affair, not the kernel's
    modprobe_blacklist: FrozenSet[str] = frozenset()
    loaded: FrozenSet[str] = frozenset()
    builtin: FrozenSet[str] = frozenset()  # names in /sys/module that are not loaded modules
    keys: Optional[FrozenSet[str]] = None  # the kernel's asymmetric keys, as /proc/keys describes them
    enrolled: Tuple[Certificate, ...] = ()  # what shim and the firmware hand to the kernel
    firmware: Tuple[Certificate, ...] = ()  # those of them that the firmware itself has (db)
    # whether shim allows that the kernel trusts the owner's keys (MOK) as it does its own
    mok_trusted: bool = False
    mok: bool = False  # whether shim has started the machine, and hands on what its owner has enrolled
    enrolling: Tuple[Certificate, ...] = ()  # what the next boot asks about (mokutil --import)
    revoked: Tuple[Certificate, ...] = ()  # the same of keys that are not to be trusted
    rejected: FrozenSet[str] = frozenset()  # SHA-256 digests of files that are not to be run

    def as_dict(self) -> Dict[str, Any]:
        """Nothing but what JSON has."""
        found: Dict[str, Any] = dict(self._asdict())
        for name, value in found.items():
            if isinstance(value, frozenset):
                found[name] = sorted(value)
            elif isinstance(value, tuple):
                found[name] = [
                    _certificate_as_dict(each) if isinstance(each, Certificate) else each for each in value
                ]
        return found

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "Runtime":
        """The inverse of ``as_dict``. Errors: KeyError, TypeError, ValueError for anything else."""
        found = dict(data)
        for name, value in data.items():
            if isinstance(value, (list, tuple)):
                rows = [_certificate(each) if isinstance(each, dict) else each for each in value]
                found[name] = (tuple if isinstance(getattr(OFFLINE, name), tuple) else frozenset)(rows)
        return cls(**found)


def _certificate_as_dict(given: Certificate) -> Dict[str, Any]:
    return dict(given._asdict(), key=given.key.hex(), whole=given.whole.hex())


def _certificate(data: Dict[str, Any]) -> Certificate:
    return Certificate(**dict(data, key=bytes.fromhex(data["key"]), whole=bytes.fromhex(data["whole"])))


OFFLINE = Runtime()


def facts(kernel: Kernel) -> Runtime:
    """Read anew at each call."""
    host = kernel.host
    if not host.live:
        return OFFLINE
    enforce = _text(host, "/sys/module/module/parameters/sig_enforce")
    lockdown = re.search(r"\[(\w+)\]", _text(host, "/sys/kernel/security/lockdown") or "")
    secure_boot = _variable(host, efi.Variable("SecureBoot", efi.GLOBAL))
    line = _text(host, "/proc/cmdline") or ""
    named = re.findall(r"(?:^|\s)module_blacklist=(\S+)", line)
    loaded = frozenset(_found(host, "/proc/modules", r"^(\S+)")) if kernel.running else frozenset()
    firmware = tuple(signature.certificates(_variable(host, efi.Variable("db", efi.SECURITY))))
    owners = _variable(host, efi.Variable("MokListRT", efi.SHIM))
    keys = frozenset(_found(host, "/proc/keys", r" asymmetri (.*?): X509"))
    return Runtime(
        sig_enforce=enforce.strip() == "Y" if enforce else None,
        lockdown=lockdown.group(1) != "none"
        if lockdown
        else secure_boot[-1:] == b"\1"
        if secure_boot
        else None,
        blacklist=frozenset(name for each in named for name in each.split(",")),
        modprobe_blacklist=modprobe.blacklisted_at_boot(line),
        loaded=loaded,
        builtin=frozenset(host.listdir("/sys/module")) - loaded if kernel.running else frozenset(),
        keys=keys or None,
        enrolled=tuple(signature.certificates(owners)) + firmware,
        enrolling=tuple(signature.certificates(_variable(host, efi.Variable("MokNew", efi.SHIM)))),
        mok=bool(owners),
        firmware=firmware,
        mok_trusted=_variable(host, efi.Variable("MokListTrustedRT", efi.SHIM))[-1:] == b"\1",
        revoked=tuple(
            signature.certificates(
                _variable(host, efi.Variable("MokListXRT", efi.SHIM))
                + _variable(host, efi.Variable("dbx", efi.SECURITY))
            )
        ),
        rejected=frozenset(_found(host, "/proc/keys", r" blacklist bin:([0-9a-f]{64})$")),
    )


def _text(host: Host, path: str) -> Optional[str]:
    with forgiving():
        return host.read_text(path)
    return None


def _found(host: Host, path: str, pattern: str) -> List[str]:
    with forgiving():
        return host.find(path, pattern)
    return []


def _variable(host: Host, variable: efi.Variable) -> bytes:
    """Empty where there is none or it may not be read."""
    with forgiving():
        return variable.value(host) or b""
    return b""
