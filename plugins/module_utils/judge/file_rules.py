# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the loader asks of the file: its ELF structures and its relocations."""

from typing import Dict, Iterator

from ..read.kernel_module import KernelModule
from .policy import Loader
from .verdict import DOUBT, NOTE, REFUSE, Finding

# Faults that every loader refuses, and those that some do: code -> the rule's name in policy.SINCE.
_ALWAYS = (
    "ELF_MAGIC",
    "ELF_TYPE",
    "ELF_SHDR",
    "ELF_TRUNCATED",
    "ELF_SECTION_BOUNDS",
    "ELF_NO_SYMTAB",
    "ELF_NO_THIS_MODULE",
    # Older kernels (until 6.18; 6.14 for names) do not look, and fall over it.
    "ELF_SYMBOL_SECTION",
    "ELF_SYMBOL_NAME",
)
_SOME: Dict[str, str] = {
    "ELF_SECTION_NULL": "section bounds",
    "MODINFO_DUP": "unique sections",
    "ELF_THIS_MODULE": "unique sections",
    "ELF_SYMTABS": "unique sections",
    "ELF_STRTAB": "string table type",
    "MODVERSIONS_EXT_BAD": "extended versions",
}


def file_empty(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """fs/kernel_read_file.c: kernel_read_file"""
    for fault in module.faults:
        if fault.code == "FILE_EMPTY":
            yield Finding(fault.code, REFUSE, fault.message, errno="EINVAL")


def decompression(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/decompress.c: module_decompress; lib/xz/xz_dec_stream.c: dec_stream_header knows no check
    but CRC32 and none.

    kmod decompressed files itself until 30; since 31 it leaves that to a kernel that can (libkmod-module.c:
    do_finit_module), with no way back.
    """
    if (
        "check" not in module.packed
        or loader.version < (5, 17)
        or loader.option("MODULE_DECOMPRESS") is False
    ):
        return
    # what it decompresses is what its own modules are compressed with
    if loader.config and not loader.option("MODULE_COMPRESS_XZ"):
        return
    version = loader.kmod()
    if version is not None and version < 31:
        return
    message = "its .xz file has a check that this kernel's decoder does not know: compress it with xz --check=crc32, or not at all"
    if version is None or not loader.config:
        yield Finding(
            "COMP_CHECK",
            DOUBT,
            message + " (whether the kernel decompresses it cannot be told)",
            found=module.packed,
        )
    else:
        yield Finding("COMP_CHECK", REFUSE, message, found=module.packed, errno="EINVAL")


def elf_validity(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: elf_validity_cache_copy (until 6.3 elf_validity_check and setup_load_info; until
    5.11 elf_header_check)
    """
    for fault in module.faults:
        if fault.code in _ALWAYS or (fault.code in _SOME and loader.has(_SOME[fault.code])):
            yield Finding(fault.code, REFUSE, fault.message, errno="ENOEXEC")
    if module.odd_ident:
        yield Finding(
            "WARN_ELF_IDENT",
            NOTE,
            "its ELF header's class and byte order are not those of %s; the loader does not look at them"
            % module.machine,
        )


def elf_check_arch(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """arch/*/include/asm/elf.h: elf_check_arch"""
    machine = loader.traits.machine
    if any(fault.code == "ELF_MACHINE" for fault in module.faults) or (
        module.machine and machine and module.machine != machine
    ):
        yield Finding(
            "ELF_MACHINE",
            REFUSE,
            "made for %s, not for %s" % (module.machine or "another machine", machine or "this one"),
            wanted=module.machine or None,
            found=machine,
            errno="ENOEXEC",
            dmesg="Invalid architecture in ELF header" if loader.version >= (6, 0) else None,
        )


def struct_module_size(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: elf_validity_cache_index_mod"""
    ours, theirs = module.struct_size, loader.traits.struct_size
    if not ours or theirs is None or ours == theirs:
        return
    message = "struct module has %d bytes in the module and %d in the kernel" % (ours, theirs)
    if loader.has("struct module size"):
        yield Finding(
            "STRUCT_MODULE_SIZE",
            REFUSE,
            message,
            wanted=str(ours),
            found=str(theirs),
            errno="ENOEXEC",
            dmesg="module %s: .gnu.linkonce.this_module section size must match the kernel's built struct module size at run time"
            % module.name,
        )
    else:
        yield Finding(
            "STRUCT_MODULE_SIZE",
            NOTE,
            message + "; this kernel loads it all the same and may crash",
            wanted=str(ours),
            found=str(theirs),
        )


def module_frob_arch_sections(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """arch/arm64/kernel/module-plts.c; kernel/module/strict_rwx.c: module_enforce_rwx_sections"""
    for fault in module.faults:
        if fault.code == "ELF_NO_PLT" and (loader.option("ARM64_MODULE_PLTS") or loader.version >= (6, 5)):
            yield Finding(
                fault.code,
                REFUSE,
                fault.message,
                errno="ENOEXEC",
                dmesg="%s: module PLT section(s) missing" % module.name,
            )
        elif fault.code == "ELF_WX" and loader.has("no writable code") and loader.option("STRICT_MODULE_RWX"):
            yield Finding(fault.code, REFUSE, fault.message, errno="ENOEXEC")


def apply_relocations(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """arch/x86/kernel/module.c: apply_relocate_add"""
    for fault in module.faults:
        if fault.code == "RELOC_UNKNOWN" or (
            fault.code == "RELOC_TARGET" and loader.has("x86 relocation targets")
        ):
            yield Finding(fault.code, REFUSE, fault.message, errno="ENOEXEC")
    for what, ours, theirs in (
        ("init", module.init_offset, loader.traits.init_offset),
        ("exit", module.exit_offset, loader.traits.exit_offset),
    ):
        if ours is not None and theirs is not None and ours != theirs:
            yield _struct_module_layout(module, loader, what, ours=ours, theirs=theirs)


def _struct_module_layout(
    module: KernelModule, loader: Loader, what: str, *, ours: int, theirs: int
) -> Finding:
    """Fields of struct module lie elsewhere in this kernel: the relocation writes over another field.

    On x86 that is refused where the loader has filled that field in already. Of one field this is certain:
    behind init comes, aligned to a cache line, the first address of the module's memory (core_layout, since
    6.4 mem).
    """
    message = "the %s function is at byte %d of struct module in the module and at byte %d in the kernel" % (
        what,
        ours,
        theirs,
    )
    memory = (theirs + 8 + 63) // 64 * 64
    if (
        what == "init"
        and ours == memory
        and module.machine == "x86_64"
        and loader.has("x86 relocation targets")
    ):
        return Finding(
            "STRUCT_MODULE_LAYOUT",
            REFUSE,
            message,
            wanted=str(ours),
            found=str(theirs),
            errno="ENOEXEC",
            dmesg="x86/modules: %s relocation target, existing value is nonzero"
            % ("Invalid" if loader.version >= (6, 3) else "Skipping invalid"),
        )
    return Finding(
        "STRUCT_MODULE_LAYOUT",
        DOUBT,
        message + ": the kernel would overwrite its own data",
        wanted=str(ours),
        found=str(theirs),
    )
