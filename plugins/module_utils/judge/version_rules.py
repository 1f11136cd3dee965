# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the loader compares what a module was built with (``kernel/module/version.c``).

These are the CRCs of symbols and of the layout of struct module, and the version magic; and what becomes of a
module without them.
"""

from typing import Dict, Iterator, NamedTuple, Optional

from ..read.kernel_module import KernelModule
from .policy import Loader
from .verdict import DOUBT, NOTE, REFUSE, TAINT, Finding


class Versions(NamedTuple):
    """What a loader compares: the version of each symbol, of two the first. ``crcs`` is None where the module has
    none, or in a form that this kernel's have not.
    """

    crcs: Optional[Dict[str, int]]
    extended: bool = False


def versions_of(module: KernelModule, loader: Loader) -> Versions:
    if module.ext_versions is not None and loader.has("extended versions"):
        return Versions(dict(reversed(module.ext_versions)), extended=True)
    if module.versions is None or module.chained_versions != loader.traits.chained_versions:
        return Versions(None)
    if module.machine.startswith("ppc64"):  # arch/powerpc/kernel/module_64.c: dedotify_versions
        return Versions({version.name.lstrip("."): version.crc for version in reversed(module.versions)})
    return Versions(dict(reversed(module.versions)))


def check_version(
    module: KernelModule, loader: Loader, symbol: str, *, crc: Optional[int], versions: Versions
) -> Optional[Finding]:
    """kernel/module/version.c: check_version; None where the versions agree or there is nothing to compare."""
    if crc is None:
        return None
    wanted = None if versions.crcs is None else versions.crcs.get(symbol)
    if versions.extended:
        if wanted is None:
            return Finding(
                "NO_SYMBOL_VERSION",
                TAINT,
                "the module has no extended version of %s; the kernel warns and goes on" % symbol,
                symbol,
            )
    elif module.versions is None:
        return try_to_force_load(
            loader,
            "MODVERSIONS_ABSENT",
            "the module has no symbol versions (__versions)",
            dmesg="%s: %s" % (module.name, symbol),
        )
    elif versions.crcs is None:
        return Finding(
            "MODVERSIONS_FORMAT",
            DOUBT,
            "the module's symbol versions are kept in another form than this kernel's",
            symbol,
        )
    elif wanted is None:
        return _no_symbol_version(module, loader, symbol)
    if wanted == crc:
        return None
    return Finding(
        "SYMBOL_CRC",
        REFUSE,
        "the version of %s differs" % symbol,
        symbol=symbol,
        wanted="0x%08x" % wanted,
        found="0x%08x" % crc,
        errno="EINVAL",
        dmesg="%s: disagrees about version of symbol %s" % (module.name, symbol),
    )


def _no_symbol_version(module: KernelModule, loader: Loader, symbol: str) -> Finding:
    message = "the module has no version of %s" % symbol
    dmesg = "%s: no symbol version for %s" % (module.name, symbol)
    accepted = missing_version(loader)
    if accepted is None:
        return Finding(
            "NO_SYMBOL_VERSION_POLICY",
            DOUBT,
            message + "; some kernels refuse that, and whose this is cannot be told",
            symbol,
        )
    if accepted:
        return Finding(
            "NO_SYMBOL_VERSION", TAINT, message + "; the kernel warns and goes on", symbol, dmesg=dmesg
        )
    return Finding("NO_SYMBOL_VERSION", REFUSE, message, symbol, errno="EINVAL", dmesg=dmesg)


def missing_version(loader: Loader) -> Optional[bool]:
    """Whether a symbol without an entry in ``__versions`` is accepted (``kernel/module/version.c:
    check_version``, its end).

    Refused until 4.8; accepted with one warning since, but for Debian, which patches that out. None where it
    is not known whose kernel this is.
    """
    if loader.version < (4, 9) or loader.family == "debian":
        return False
    return True if loader.family else None


def check_modstruct_version(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/version.c: check_modstruct_version"""
    if not loader.modversions:
        yield Finding(
            "OK_UNVERSIONED",
            NOTE,
            "the kernel keeps no symbol versions: only names and the version magic are compared",
        )
        return
    export = loader.exports.get("module_layout")
    crc = export.crc if export else loader.traits.module_layout
    if crc is None:
        return  # without exports that is found out symbol by symbol
    versions = versions_of(module, loader)
    finding = check_version(module, loader, "module_layout", crc=crc, versions=versions)
    if finding is not None:
        code = {"SYMBOL_CRC": "MODULE_LAYOUT_CRC"}.get(finding.code, finding.code)
        yield finding._replace(code=code, errno="ENOEXEC" if finding.effect == REFUSE else None)


def same_magic(one: str, other: str, versions: bool) -> bool:
    """With symbol versions the release, the first word, is left out."""
    if versions:
        one, other = one.partition(" ")[2], other.partition(" ")[2]
    return one == other


def try_to_force_load(loader: Loader, code: str, message: str, *, dmesg: str) -> Finding:
    """kernel/module/main.c: try_to_force_load"""
    allowed = loader.option("MODULE_FORCE_LOAD")
    if allowed is None:
        return Finding(
            code,
            DOUBT,
            message
            + "; loaded only with CONFIG_MODULE_FORCE_LOAD, and the kernel's configuration is not available",
        )
    if allowed:
        return Finding(
            code,
            TAINT,
            message + "; CONFIG_MODULE_FORCE_LOAD lets it pass and taints the kernel",
            dmesg=dmesg + ": kernel tainted.",
        )
    return Finding(code, REFUSE, message, errno="ENOEXEC")
