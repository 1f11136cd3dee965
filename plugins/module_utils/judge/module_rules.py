# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the loader asks of the module as a whole: its name, its .modinfo and what it exports."""

from typing import Iterator

from ..read.kernel_module import KernelModule
from .policy import Loader
from .verdict import DOUBT, NOTE, REFUSE, TAINT, Finding
from .version_rules import same_magic, try_to_force_load

GPL_COMPATIBLE = (
    "GPL",
    "GPL v2",
    "GPL and additional rights",
    "Dual BSD/GPL",
    "Dual MIT/GPL",
    "Dual MPL/GPL",
)
OFFENDERS = ("driverloader", "lve")


def blacklisted(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: blacklisted"""
    if module.name in loader.runtime.blacklist:
        yield Finding(
            "CMDLINE_BLACKLIST",
            REFUSE,
            "module_blacklist= on the kernel's command line names it",
            errno="EPERM",
            dmesg="Module %s is blacklisted" % module.name,
        )


def check_modinfo(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: check_modinfo; kernel/module/version.c: same_magic"""
    ours, theirs = module.vermagic, loader.traits.vermagic
    if ours is None:
        code, message = (
            ("VERMAGIC_ABSENT", "the module has no version magic")
            if module.modinfo
            else ("MODINFO_ABSENT", "the module has no .modinfo")
        )
        yield try_to_force_load(loader, code, message, dmesg="%s: bad vermagic" % module.name)
    elif theirs is None:
        yield Finding(
            "VERMAGIC_UNKNOWN",
            DOUBT,
            "the kernel's own version magic is not available: none of its modules can be read",
            wanted=ours,
        )
    elif not same_magic(ours, theirs, loader.modversions and module.versions is not None):
        wanted, found = ours.partition(" ")[2], theirs.partition(" ")[2]
        code, message = (
            "VERMAGIC_RELEASE",
            "built for %s, and it loads there alone, as no symbol versions are compared" % module.built_for,
        )
        if wanted != found:
            code, message = (
                "VERMAGIC_FLAGS",
                "built for a kernel that is '%s', and this one is '%s'" % (wanted.strip(), found.strip()),
            )
        yield Finding(
            code,
            REFUSE,
            message,
            wanted=ours,
            found=theirs,
            errno="ENOEXEC",
            dmesg="%s: version magic '%s' should be '%s'" % (module.name, ours, theirs),
        )
    if module.info("livepatch") is not None and loader.option("LIVEPATCH") is False:
        yield Finding(
            "LIVEPATCH_UNSUPPORTED",
            REFUSE,
            "a live patch, which this kernel has no support for",
            errno="ENOEXEC",
            dmesg="%s: module is marked as livepatch module, but livepatch support is disabled" % module.name,
        )


def module_augment_kernel_taints(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: module_augment_kernel_taints (until 6.3 part of check_modinfo): what never
    refuses.
    """
    if module.info("intree") is None:
        yield Finding(
            "WARN_OOT",
            TAINT,
            "an out-of-tree module taints the kernel",
            dmesg="%s: loading out-of-tree module taints kernel." % module.name,
        )
    if module.info("retpoline") is None and (
        loader.option("RETPOLINE") or loader.option("MITIGATION_RETPOLINE")
    ):
        yield Finding(
            "WARN_RETPOLINE",
            TAINT,
            "compiled without retpolines, on which this kernel relies",
            dmesg="%s: loading module not compiled with retpoline compiler." % module.name,
        )
    if module.info("staging") is not None:
        yield Finding("WARN_STAGING", TAINT, "a module from the staging directory taints the kernel")
    if proprietary(module):
        yield Finding(
            "WARN_LICENSE",
            TAINT,
            "the license '%s' taints the kernel" % (module.license or "unspecified"),
            dmesg="%s: module license '%s' taints kernel." % (module.name, module.license or "unspecified"),
        )


def proprietary(module: KernelModule) -> bool:
    """include/linux/license.h: license_is_gpl_compatible"""
    return (module.license or "unspecified") not in GPL_COMPATIBLE or module.name in OFFENDERS


def already_there(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: module_patient_check_exists; kernel/module/sysfs.c: mod_sysfs_init"""
    if module.name in loader.runtime.loaded:
        yield Finding(
            "NAME_IN_USE",
            NOTE,
            "a module of this name is loaded now: unload it or boot before this one can be loaded (EEXIST)",
        )
    elif module.name in loader.runtime.builtin:
        yield Finding(
            "NAME_BUILTIN",
            REFUSE,
            "this kernel has %s built in" % module.name,
            errno="EINVAL",
            dmesg="%s: module is already loaded" % module.name,
        )
    elif module.name in loader.builtin:
        yield Finding(
            "NAME_BUILTIN",
            DOUBT,
            "this kernel has %s built in: modprobe does nothing, and the loader refuses it if that has parameters"
            % module.name,
        )


def check_export_symbol_sections(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: check_export_symbol_sections (until 6.3 check_module_license_and_versions)"""
    if loader.export_flags and not module.exports_flags:
        if any(not export.gpl for export in module.exports):
            yield Finding(
                "EXPORT_NO_FLAGS",
                REFUSE,
                "it exports symbols without the flags (__kflagstab) that this kernel wants",
                errno="ENOEXEC",
                dmesg="%s: no flags for exported symbols" % module.name,
            )
        elif module.exports:
            yield Finding(
                "EXPORT_IGNORED",
                NOTE,
                "this kernel ignores the __ksymtab_gpl of older ones: what it exports is not seen",
            )
    if loader.modversions and module.exports and not module.exports_crcs:
        yield try_to_force_load(
            loader,
            "EXPORT_NO_CRC",
            "it exports symbols without versions",
            dmesg="%s: no versions for exported symbols" % module.name,
        )


def setup_modinfo(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/module/main.c: setup_modinfo"""
    for name in module.namespaces:
        if name.startswith("module:") and loader.has("module namespaces"):
            yield Finding(
                "NS_MODULE_IMPORT",
                REFUSE,
                "it imports %s, which only the kernel itself may grant" % name,
                errno="EPERM",
                dmesg="%s: module tries to import module namespace: %s" % (module.name, name),
            )


def btf_module_notify(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """kernel/bpf/btf.c: btf_module_notify"""
    if not module.btf or not loader.option("DEBUG_INFO_BTF_MODULES"):
        return
    if loader.option("MODULE_ALLOW_BTF_MISMATCH"):
        return
    if module.btf == "bad":
        yield Finding(
            "BTF_MISMATCH",
            REFUSE,
            "its type information (BTF) is damaged",
            errno="EINVAL",
            dmesg="failed to validate module [%s] BTF: -22" % module.name,
        )
    elif module.built_for != loader.release:
        yield Finding(
            "BTF_MISMATCH",
            DOUBT,
            "its type information (BTF) was made for another kernel, and this one refuses what does not fit",
        )
