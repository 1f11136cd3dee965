# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the loader finds the symbols that a module needs (``kernel/module/main.c: simplify_symbols,
resolve_symbol``).
"""

from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..read.exports import VMLINUX, Export
from ..read.kernel_module import KernelModule
from .module_rules import proprietary
from .policy import Loader, package_of
from .verdict import DOUBT, NOTE, REFUSE, TAINT, Finding
from .version_rules import Versions, check_version, versions_of


class Provided(NamedTuple):
    """An export that is there when the module is loaded, or would be if its owner were not ``refused``."""

    export: Export
    proprietary: bool = False  # of its owner
    refused: Optional[str] = None  # the code for which its owner is refused
    doubtful: bool = False  # whether its owner is refused cannot be told


Find = Callable[[str], Optional[Provided]]


def simplify_symbols(module: KernelModule, loader: Loader, find: Find) -> Iterator[Finding]:
    """Every undefined symbol, in the order of the symbol table: the errno of the last that fails is the
    loader's answer.
    """
    if loader.problem is not None and any(not undefined.common for undefined in module.undefined):
        yield Finding(
            loader.problem.code, DOUBT, "what the kernel exports cannot be told: %s" % loader.problem.why
        )
    for note in loader.notes:
        yield Finding(note.code, NOTE, note.message)
    tainted, gpl_used, versions = proprietary(module), False, versions_of(module, loader)
    agreed = (versions.crcs or {}).get
    for undefined in module.undefined:
        if undefined.common:
            yield Finding(
                "ELF_COMMON",
                REFUSE,
                "%s is a common symbol" % undefined.name,
                undefined.name,
                errno="ENOEXEC",
                dmesg="%s: please compile with -fno-common" % module.name,
            )
            continue
        name = looked_up(undefined.name, module.machine)
        if name is None or _ignored(name, module, loader):
            continue
        provided = find(name)
        if provided is None or provided.refused:
            if loader.problem is None and not undefined.weak:
                yield _unknown_symbol(module, loader, name, provided=provided)
            continue
        export = provided.export
        if export.gpl and tainted:
            if not undefined.weak:
                yield _enoent(
                    module,
                    "SYMBOL_GPL_ONLY",
                    "%s is for GPL modules only, and the license is '%s'"
                    % (name, module.license or "unspecified"),
                    symbol=name,
                )
            continue
        gpl_used = gpl_used or export.gpl
        if provided.proprietary and loader.has("inherit taint"):
            if gpl_used:
                if not undefined.weak:
                    yield _enoent(
                        module,
                        "DEP_PROPRIETARY",
                        "%s is of the proprietary module %s, and symbols for GPL modules only are used as well"
                        % (name, export.owner),
                        symbol=name,
                    )
                continue
            if not tainted:
                yield Finding(
                    "WARN_PROPRIETARY_DEP",
                    TAINT,
                    "%s is of the proprietary module %s, whose taint it inherits" % (name, export.owner),
                    name,
                )
            tainted = True
        if provided.doubtful:
            yield Finding(
                "DEP_UNKNOWN",
                DOUBT,
                "%s is of %s, of which it is unknown whether this kernel loads it" % (name, export.owner),
                name,
            )
        if export.namespace or agreed(name) != export.crc:  # few
            yield from _version(module, loader, name, export=export, versions=versions)


def _version(
    module: KernelModule, loader: Loader, name: str, *, export: Export, versions: Versions
) -> Iterator[Finding]:
    """check_version, then verify_namespace_is_imported: a symbol that fails the first does not get to the
    second.
    """
    finding = check_version(module, loader, name, crc=export.crc, versions=versions)
    if finding is not None:
        if finding.code == "SYMBOL_CRC" and export.owner not in loader.owners:
            yield finding._replace(
                code="DEP_CRC", message="the version of %s, which %s provides, differs" % (name, export.owner)
            )
        elif finding.code not in ("MODVERSIONS_ABSENT", "MODVERSIONS_FORMAT"):  # said once, of module_layout
            yield finding
        if finding.effect == REFUSE:
            return
    yield from verify_namespace_is_imported(module, loader, name, export=export)


def verify_namespace_is_imported(
    module: KernelModule, loader: Loader, symbol: str, *, export: Export
) -> Iterator[Finding]:
    """kernel/module/main.c: verify_namespace_is_imported, verify_module_namespace"""
    namespace = export.namespace
    if not namespace or namespace in module.namespaces:
        return
    if namespace.startswith("module:") and loader.has("module namespaces"):
        if for_module(namespace, module.name):
            return
        code, message = (
            "NS_MODULE_ONLY",
            "%s is for the modules %s only" % (symbol, namespace[len("module:") :]),
        )
    else:
        code, message = (
            "NS_NOT_IMPORTED",
            "%s is in the namespace %s, which the module does not import" % (symbol, namespace),
        )
    dmesg = "%s: module uses symbol (%s) from namespace %s, but does not import it." % (
        module.name,
        symbol,
        namespace,
    )
    allowed = loader.option("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS")
    if allowed is None:
        yield Finding(
            code,
            DOUBT,
            message + "; the kernel's configuration, which may allow that, is not available",
            symbol,
            found=namespace,
        )
    elif allowed:
        yield Finding(
            code, TAINT, message + "; the kernel warns and goes on", symbol, found=namespace, dmesg=dmesg
        )
    else:
        yield Finding(code, REFUSE, message, symbol, found=namespace, errno="EINVAL", dmesg=dmesg)


def for_module(namespace: str, name: str) -> bool:
    """Whether "module:a,b*" names the module: a star at the end stands for anything, "-" is "_"."""
    for pattern in namespace[len("module:") :].replace("-", "_").split(","):
        if pattern == name or (pattern.endswith("*") and name.startswith(pattern[:-1])):
            return True
    return False


def looked_up(name: str, machine: str) -> Optional[str]:
    """The name that is looked up; None for one that is not (``arch/powerpc/kernel/module_64.c: dedotify``)."""
    if machine.startswith("ppc64") and name.startswith("."):
        return None if name == ".TOC." else name[1:]
    return name


def _ignored(name: str, module: KernelModule, loader: Loader) -> bool:
    """kernel/module/main.c: ignore_undef_symbol"""
    return (
        name == "_GLOBAL_OFFSET_TABLE_"
        and module.machine in ("x86_64", "i686")
        and loader.has("x86 ignores _GLOBAL_OFFSET_TABLE_")
    )


def _unknown_symbol(
    module: KernelModule, loader: Loader, name: str, *, provided: Optional[Provided]
) -> Finding:
    if provided is not None:
        return _enoent(
            module,
            "DEP_REFUSED",
            "%s is of %s, which is refused itself (%s)" % (name, provided.export.owner, provided.refused),
            symbol=name,
        )
    if name in loader.absent:
        return _enoent(
            module,
            "DEP_MISSING",
            "%s is of %s, a module of this kernel that is not installed: %s"
            % (name, loader.absent[name], package_of(loader, loader.absent[name])),
            symbol=name,
        )
    absent = [
        each for each in module.depends if each not in loader.owners | loader.installed | loader.builtin
    ]
    if absent:
        return _enoent(
            module,
            "DEP_MISSING",
            "nothing exports %s; the module depends on %s, which is neither given nor installed. If it is one "
            "of the kernel's own, %s" % (name, ", ".join(absent), package_of(loader, absent[0])),
            symbol=name,
        )
    broken = [each for each in module.depends if each in loader.installed - loader.owners]
    if broken:
        return _enoent(
            module,
            "DEP_MISSING",
            "nothing exports %s; the module depends on %s, and what is installed of that does not export it "
            "or cannot be read" % (name, ", ".join(broken)),
            symbol=name,
        )
    return _enoent(module, "SYMBOL_MISSING", "the kernel does not export %s" % name, symbol=name)


def _enoent(module: KernelModule, code: str, message: str, *, symbol: str) -> Finding:
    return Finding(
        code,
        REFUSE,
        message,
        symbol,
        errno="ENOENT",
        dmesg="%s: Unknown symbol %s (err -2)" % (module.name, symbol),
    )


def verify_exported_symbols(
    module: KernelModule, loader: Loader, find: Find, *, loaded: Callable[[KernelModule], Sequence[str]]
) -> Iterator[Finding]:
    """kernel/module/main.c: verify_exported_symbols.

    ``loaded`` tells the modules that are there for certain when this one is loaded.
    """
    for export in module.exports:
        provided = find(export.name)
        if provided is None or provided.export.owner == module.name or provided.refused:
            continue
        owner = provided.export.owner
        message = "it exports %s, which %s exports already" % (
            export.name,
            "the kernel" if owner == VMLINUX else owner,
        )
        if owner == VMLINUX or owner in loaded(module):
            yield Finding(
                "DUP_EXPORT",
                REFUSE,
                message,
                export.name,
                found=owner,
                errno="ENOEXEC",
                dmesg="%s: exports duplicate symbol %s (owned by %s)"
                % (module.name, export.name, "kernel" if owner == VMLINUX else owner),
            )
        else:
            yield Finding(
                "DUP_EXPORT", NOTE, message + ": the two cannot be loaded together", export.name, found=owner
            )


def owners(module: KernelModule, find: Find) -> Tuple[str, ...]:
    """The modules that this one needs, in the order in which it needs them."""
    found: List[str] = []
    for undefined in module.undefined:
        provided = None if undefined.common else find(looked_up(undefined.name, module.machine) or "")
        if provided is not None and provided.export.owner not in found + [VMLINUX]:
            found.append(provided.export.owner)
    return tuple(found)
