# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The loader's answer to every kind of module that it tells apart: one row each."""

import gzip
import hashlib
import lzma
import os
import shutil
import struct
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import Verdict
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_module import KernelModule
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE, Runtime
from ansible_collections.outoftree.kmod.plugins.module_utils.read.signature import certificates
from tests.forge import families
from tests.forge.elf import Section, retype
from tests.forge.families import CONFIG
from tests.forge.ko import FLAGS, RELEASE, Export, ko, relocated, versions_table
from tests.forge.signature import IN_TREE, OTHER, PKCS7, SIGNED, STALE, signed
from tests.forge.symvers import EXPORTS

YES, NO, OPEN = "compatible", "incompatible", "unknown"
Kernel = Dict[str, Any]  # arguments of families.kernel

# Kernels
DEBIAN: Kernel = {}
EL7: Kernel = {"release": "3.10.0-1160.el7.x86_64", "family": "el7", "struct_size": 600}
EL8: Kernel = {"release": "4.18.0-553.el8.x86_64", "family": "el8"}
ARCH: Kernel = {"release": "6.6.9-arch1-1", "flags": FLAGS}
HOMEMADE: Kernel = {"release": "6.6.9-mine"}
DEB13: Kernel = {"release": "6.12.9+deb13-amd64", "struct_size": 1280, "exit": 1200}
V618: Kernel = {"release": "6.18.2-arch1-1", "struct_size": 1280, "exit": 1200}
V72: Kernel = {"release": "7.2.1-arch1-1", "struct_size": 1280, "exit": 1200}
FORCE = CONFIG + "CONFIG_MODULE_FORCE_LOAD=y\n"


def on(kernel: Kernel, *settings: str, without: str = "", **more: Any) -> Kernel:
    """The kernel with CONFIG_… lines more, or one less, and other arguments of families.kernel."""
    config = kernel.get("config", CONFIG).replace(without + "=y\n" if without else "\0", "") + "".join(
        "%s\n" % line for line in settings
    )
    return dict(kernel, config=config, **more)


def built(kernel: Kernel, **more: Any) -> Dict[str, Any]:
    """Arguments of ko for a module that was built for the kernel."""
    return dict(
        {
            key: value
            for key, value in kernel.items()
            if key in ("release", "struct_size", "exit", "flags", "init", "machine")
        },
        **more,
    )


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def section_row(data: bytes, place: int) -> int:
    """Where a section's header lies."""
    return int(struct.unpack_from("<Q", data, 40)[0]) + 64 * place


def last_symbol(data: bytes) -> int:
    """Where the last entry of .symtab lies."""
    rows = (section_row(data, place) for place in range(struct.unpack_from("<H", data, 60)[0]))
    offset, size = next(
        struct.unpack_from("<QQ", data, row + 24)
        for row in rows
        if struct.unpack_from("<I", data, row + 4)[0] == 2
    )
    return int(offset + size - 24)


def first_section_used(kernel: Kernel) -> Tuple[bytes, Kernel]:
    data = ko(**built(kernel))
    return changed(data, section_row(data, 0) + 4, b"\1"), kernel


def without_versions(kernel: Kernel = DEBIAN, **more: Any) -> bytes:
    return ko(versioned=False, **built(kernel, **more))


PROPRIETARY = {"license": "Proprietary"}
LAYOUT = ("module_layout", 0x11)
PLAIN = (LAYOUT, ("printk", 0x22))


class Case(NamedTuple):
    number: int
    what: str
    verdict: str
    code: str  # "" for no finding that matters, else one that must be there
    errno: Optional[str]
    module: Union[bytes, List[bytes]]  # several: the last is judged, the others are offered with it
    kernel: Kernel = DEBIAN
    runtime: Runtime = OFFLINE


REFUSED_HALF = ko(needs=(LAYOUT, ("absent", 1), ("printk", 0x99)))
HEADER = ko()

PLATFORM = "CONFIG_INTEGRITY_PLATFORM_KEYRING=y"
SIGNED_DIGEST = hashlib.sha256(SIGNED).hexdigest()
SIGNED_EL7 = PKCS7.sign_old(ko(**built(EL7)))

CASES = [
    Case(
        1,
        "in-tree, signed, same kernel",
        YES,
        "",
        None,
        SIGNED,
        on(DEBIAN, signed=SIGNED),
        Runtime(enrolled=tuple(certificates(PKCS7.certificate))),
    ),
    Case(
        1,
        "the same, the certificate not at hand",
        YES,
        "SIG_UNVERIFIED",
        None,
        SIGNED,
        on(DEBIAN, signed=SIGNED),
    ),
    Case(2, "unsigned, nothing enforced", YES, "SIG_ABSENT", None, ko()),
    Case(
        3,
        "unsigned, module.sig_enforce=1",
        NO,
        "SIG_REQUIRED",
        "EKEYREJECTED",
        ko(),
        runtime=Runtime(sig_enforce=True),
    ),
    Case(
        3,
        "unsigned, CONFIG_MODULE_SIG_FORCE",
        NO,
        "SIG_REQUIRED",
        "EKEYREJECTED",
        ko(),
        on(DEBIAN, "CONFIG_MODULE_SIG_FORCE=y"),
    ),
    Case(4, "unsigned, lockdown", NO, "SIG_LOCKDOWN", "EPERM", ko(), runtime=Runtime(lockdown=True)),
    Case(
        5,
        "signed, then a byte changed",
        NO,
        "SIG_BAD",
        "EKEYREJECTED",
        changed(SIGNED, 70, b"\xaa"),
        on(DEBIAN, PLATFORM),
        Runtime(enrolled=tuple(certificates(PKCS7.certificate))),
    ),
    Case(
        5,
        "the same, signer's certificate not at hand",
        YES,
        "SIG_UNKNOWN_KEY",
        None,
        changed(SIGNED, 70, b"\xaa"),
    ),
    Case(
        6,
        "the marker alone: nothing else is cut off",
        YES,
        "SIG_UNSUPPORTED",
        None,
        ko() + b"~Module signature appended~\n",
    ),
    Case(6, "marker and an id_type of 0", YES, "SIG_UNSUPPORTED", None, signed(ko(), b"", kind=0)),
    Case(6, "marker and an id_type of 1", YES, "SIG_UNSUPPORTED", None, signed(ko(), b"", kind=1)),
    Case(
        7,
        "sig_len beyond the file",
        NO,
        "SIG_MALFORMED",
        "EBADMSG",
        signed(ko(), PKCS7.message, size=1 << 30),
    ),
    Case(8, "garbage instead of PKCS#7", NO, "SIG_MALFORMED", "EBADMSG", signed(ko(), b"garbage" * 20)),
    Case(9, "signed with a key that the kernel does not have", YES, "SIG_UNKNOWN_KEY", None, STALE),
    Case(
        9,
        "the same, enforced, the kernel's keys known",
        NO,
        "SIG_UNKNOWN_KEY",
        "EKEYREJECTED",
        STALE,
        runtime=Runtime(sig_enforce=True, keys=frozenset(["Another key: 0123"])),
    ),
    Case(
        9,
        "the same, enforced, the kernel's keys not known",
        OPEN,
        "SIG_UNKNOWN_KEY",
        None,
        STALE,
        runtime=Runtime(sig_enforce=True),
    ),
    Case(
        9,
        "signed with a key that the firmware revokes",
        NO,
        "SIG_REVOKED",
        "EKEYREJECTED",
        STALE,
        on(DEBIAN, "CONFIG_SYSTEM_REVOCATION_LIST=y"),
        Runtime(revoked=tuple(certificates(OTHER.certificate))),
    ),
    Case(
        9,
        "the same on a kernel that does not look",
        YES,
        "SIG_UNKNOWN_KEY",
        None,
        STALE,
        DEBIAN,
        Runtime(revoked=tuple(certificates(OTHER.certificate))),
    ),
    Case(
        9,
        "signed and known, its digest rejected by the firmware, the image not to be read",
        OPEN,
        "SIG_HASH_REJECTED",
        None,
        SIGNED,
        on(DEBIAN, PLATFORM),
        Runtime(enrolled=tuple(certificates(PKCS7.certificate)), rejected=frozenset([SIGNED_DIGEST])),
    ),
    Case(
        9,
        "an unsigned module whose digest is rejected",
        YES,
        "SIG_ABSENT",
        None,
        IN_TREE,
        DEBIAN,
        Runtime(rejected=frozenset([hashlib.sha256(IN_TREE).hexdigest()])),
    ),
    Case(
        9,
        "the form until 4.2, its signer's certificate at hand: EL 7",
        YES,
        "",
        None,
        SIGNED_EL7,
        EL7,
        Runtime(sig_enforce=True, enrolled=tuple(certificates(PKCS7.certificate))),
    ),
    Case(
        9,
        "the same, a byte changed",
        NO,
        "SIG_BAD",
        "EKEYREJECTED",
        changed(SIGNED_EL7, 70, b"\xaa"),
        EL7,
        Runtime(enrolled=tuple(certificates(PKCS7.certificate))),
    ),
    Case(9, "the same, a key that EL 7 does not have", YES, "SIG_UNKNOWN_KEY", None, SIGNED_EL7, EL7),
    Case(
        9,
        "the same, enforced",
        NO,
        "SIG_UNKNOWN_KEY",
        "ENOKEY",
        SIGNED_EL7,
        EL7,
        Runtime(sig_enforce=True, keys=frozenset(["Another key: 0123"])),
    ),
    Case(
        9,
        "unsigned, enforced: EL 7",
        NO,
        "SIG_REQUIRED",
        "ENOKEY",
        ko(**built(EL7)),
        EL7,
        Runtime(sig_enforce=True),
    ),
    Case(
        9,
        "the form since 4.3: EL 7",
        NO,
        "SIG_UNSUPPORTED",
        "ENOPKG",
        signed(ko(**built(EL7)), PKCS7.sign(ko(**built(EL7)))),
        EL7,
    ),
    Case(9, "the form until 4.2 on a kernel of today", YES, "SIG_UNSUPPORTED", None, PKCS7.sign_old(ko())),
    Case(10, "vermagic: another release, with versions", YES, "", None, ko(release="6.1.0-3-amd64")),
    Case(
        11,
        "vermagic: preempt_rt",
        NO,
        "VERMAGIC_FLAGS",
        "ENOEXEC",
        ko(flags=" SMP preempt_rt mod_unload modversions "),
    ),
    Case(
        11, "vermagic: no mod_unload", NO, "VERMAGIC_FLAGS", "ENOEXEC", ko(flags=" SMP preempt modversions ")
    ),
    Case(11, "vermagic: a blank less", NO, "VERMAGIC_FLAGS", "ENOEXEC", ko(flags=FLAGS.rstrip())),
    Case(
        12,
        "vermagic: another release, no versions",
        NO,
        "VERMAGIC_RELEASE",
        "ENOEXEC",
        ko(release="6.1.0-3-amd64", versioned=False),
        {"config": FORCE},
    ),
    Case(
        13,
        "no vermagic, FORCE_LOAD=y",
        YES,
        "VERMAGIC_ABSENT",
        None,
        ko(modinfo={"vermagic": None}),
        {"config": FORCE},
    ),
    Case(13, "no vermagic, FORCE_LOAD=n", NO, "VERMAGIC_ABSENT", "ENOEXEC", ko(modinfo={"vermagic": None})),
    Case(
        14,
        "no versions, same vermagic, FORCE_LOAD=y",
        YES,
        "MODVERSIONS_ABSENT",
        None,
        without_versions(),
        {"config": FORCE},
    ),
    Case(
        14,
        "no versions, same vermagic, FORCE_LOAD=n",
        NO,
        "MODVERSIONS_ABSENT",
        "ENOEXEC",
        without_versions(),
    ),
    Case(
        14,
        "no versions, the kernel's configuration not to be had",
        OPEN,
        "MODVERSIONS_ABSENT",
        None,
        without_versions(),
        {"config": None},
    ),
    Case(
        15,
        "module_layout differs",
        NO,
        "MODULE_LAYOUT_CRC",
        "ENOEXEC",
        ko(needs=(("module_layout", 0x12), ("printk", 0x22))),
    ),
    Case(16, "module_layout has no entry: Debian", NO, "NO_SYMBOL_VERSION", "ENOEXEC", ko(needs=PLAIN[1:])),
    Case(
        16,
        "module_layout has no entry: EL 7",
        NO,
        "NO_SYMBOL_VERSION",
        "ENOEXEC",
        ko(needs=PLAIN[1:], **built(EL7)),
        EL7,
    ),
    Case(
        16,
        "module_layout has no entry: EL 8",
        YES,
        "NO_SYMBOL_VERSION",
        None,
        ko(needs=PLAIN[1:], **built(EL8)),
        EL8,
    ),
    Case(
        16,
        "module_layout has no entry: upstream",
        YES,
        "NO_SYMBOL_VERSION",
        None,
        ko(needs=PLAIN[1:], **built(ARCH)),
        ARCH,
    ),
    Case(17, "one CRC differs", NO, "SYMBOL_CRC", "EINVAL", ko(needs=(LAYOUT, ("printk", 0x99)))),
    Case(18, "one symbol has no entry: Debian", NO, "NO_SYMBOL_VERSION", "EINVAL", ko(unlisted=["kfree"])),
    Case(
        18,
        "one symbol has no entry: upstream",
        YES,
        "NO_SYMBOL_VERSION",
        None,
        ko(unlisted=["kfree"], **built(ARCH)),
        ARCH,
    ),
    Case(
        19,
        "one symbol has no entry: nobody knows whose kernel",
        OPEN,
        "NO_SYMBOL_VERSION_POLICY",
        None,
        ko(unlisted=["kfree"], **built(HOMEMADE)),
        HOMEMADE,
    ),
    Case(20, "a symbol is not exported", NO, "SYMBOL_MISSING", "ENOENT", ko(needs=PLAIN + (("absent", 1),))),
    Case(
        21,
        "a weak symbol is not exported",
        YES,
        "",
        None,
        ko(needs=PLAIN + (("absent", 1),), weak=["absent"]),
    ),
    Case(
        22,
        "a weak symbol's CRC differs",
        NO,
        "SYMBOL_CRC",
        "EINVAL",
        ko(needs=(LAYOUT, ("printk", 0x99)), weak=["printk"]),
    ),
    Case(
        23,
        "proprietary, needs a GPL-only symbol",
        NO,
        "SYMBOL_GPL_ONLY",
        "ENOENT",
        ko(needs=PLAIN + (("gpl_only", 0x44),), modinfo=PROPRIETARY),
    ),
    Case(23, "proprietary, needs none", YES, "WARN_LICENSE", None, ko(modinfo=PROPRIETARY)),
    Case(
        24,
        "license=gpl is not GPL",
        NO,
        "SYMBOL_GPL_ONLY",
        "ENOENT",
        ko(needs=PLAIN + (("gpl_only", 0x44),), modinfo={"license": "gpl"}),
    ),
    Case(
        25,
        "no .modinfo, FORCE_LOAD=y",
        NO,
        "SYMBOL_GPL_ONLY",
        "ENOENT",
        ko(needs=PLAIN + (("gpl_only", 0x44),), without=[".modinfo"]),
        {"config": FORCE},
    ),
    Case(25, "no .modinfo, FORCE_LOAD=n", NO, "MODINFO_ABSENT", "ENOEXEC", ko(without=[".modinfo"])),
    Case(
        26,
        "a namespace is not imported",
        NO,
        "NS_NOT_IMPORTED",
        "EINVAL",
        ko(needs=PLAIN + (("spaced", 0x55),)),
    ),
    Case(
        26,
        "a namespace is not imported, which is allowed",
        YES,
        "NS_NOT_IMPORTED",
        None,
        ko(needs=PLAIN + (("spaced", 0x55),)),
        on(DEBIAN, "CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS=y"),
    ),
    Case(
        26,
        "a namespace is imported",
        YES,
        "",
        None,
        ko(needs=PLAIN + (("spaced", 0x55),), imports=["DRIVER_NS"]),
    ),
    Case(
        27,
        "a symbol for module:kvm*, in kvm-amd",
        YES,
        "",
        None,
        ko("kvm-amd", PLAIN + (("kvm_symbol", 1),), **built(V618)),
        dict(V618, exports=EXPORTS + (("kvm_symbol", 1, True, "module:vfio,kvm*", "vmlinux"),)),
    ),
    Case(
        27,
        "a symbol for module:kvm*, in another",
        NO,
        "NS_MODULE_ONLY",
        "EINVAL",
        ko(needs=PLAIN + (("kvm_symbol", 1),), **built(V618)),
        dict(V618, exports=EXPORTS + (("kvm_symbol", 1, True, "module:vfio,kvm*", "vmlinux"),)),
    ),
    Case(
        28,
        "needs a module that is not given",
        NO,
        "DEP_MISSING",
        "ENOENT",
        ko(needs=PLAIN + (("vendor_core_init", 1),), modinfo={"depends": "vendor_core"}),
    ),
    Case(
        29,
        "the provider's CRC differs",
        NO,
        "DEP_CRC",
        "EINVAL",
        [
            ko("vendor_core", exports=[Export("vendor_core_init", 2)]),
            ko(needs=PLAIN + (("vendor_core_init", 1),)),
        ],
    ),
    Case(
        29,
        "the provider fits",
        YES,
        "",
        None,
        [
            ko("vendor_core", exports=[Export("vendor_core_init", 1)]),
            ko(needs=PLAIN + (("vendor_core_init", 1),)),
        ],
    ),
    Case(
        29,
        "the provider is refused itself",
        NO,
        "DEP_REFUSED",
        "ENOENT",
        [
            ko("vendor_core", (LAYOUT, ("printk", 3)), exports=[Export("vendor_core_init", 1)]),
            ko(needs=PLAIN + (("vendor_core_init", 1),)),
        ],
    ),
    Case(
        30,
        "a GPL module with GPL-only symbols uses a proprietary provider",
        NO,
        "DEP_PROPRIETARY",
        "ENOENT",
        [
            ko("vendor_core", exports=[Export("vendor_core_init", 1)], modinfo=PROPRIETARY),
            ko(needs=PLAIN + (("gpl_only", 0x44), ("vendor_core_init", 1))),
        ],
    ),
    Case(
        30,
        "the same before 5.9",
        YES,
        "",
        None,
        [
            ko("vendor_core", exports=[Export("vendor_core_init", 1)], modinfo=PROPRIETARY, **built(EL8)),
            ko(needs=PLAIN + (("gpl_only", 0x44), ("vendor_core_init", 1)), **built(EL8)),
        ],
        EL8,
    ),
    Case(
        31, "exports what the kernel exports", NO, "DUP_EXPORT", "ENOEXEC", ko(exports=[Export("kfree", 1)])
    ),
    Case(
        31,
        "exports what the module before it exports",
        NO,
        "DUP_EXPORT",
        "ENOEXEC",
        [ko("one", exports=[Export("same", 1)]), ko("two", exports=[Export("same", 1)])],
    ),
    Case(32, "loaded already", YES, "NAME_IN_USE", None, ko(), runtime=Runtime(loaded=frozenset(["vendor"]))),
    Case(
        32,
        "built in, on the running kernel",
        NO,
        "NAME_BUILTIN",
        "EINVAL",
        ko(),
        runtime=Runtime(builtin=frozenset(["vendor"])),
    ),
    Case(32, "built in, on another kernel", OPEN, "NAME_BUILTIN", None, ko(), {"builtin": ["vendor"]}),
    Case(
        33,
        "module_blacklist=",
        NO,
        "CMDLINE_BLACKLIST",
        "EPERM",
        ko(),
        runtime=Runtime(blacklist=frozenset(["vendor"])),
    ),
    Case(
        34,
        "exports without CRCs, FORCE_LOAD=y",
        YES,
        "EXPORT_NO_CRC",
        None,
        ko(exports=[Export("mine")]),
        {"config": FORCE},
    ),
    Case(
        34, "exports without CRCs, FORCE_LOAD=n", NO, "EXPORT_NO_CRC", "ENOEXEC", ko(exports=[Export("mine")])
    ),
    Case(
        35,
        "exports of a 6.x module on 7.x",
        NO,
        "EXPORT_NO_FLAGS",
        "ENOEXEC",
        ko(exports=[Export("mine", 1)], **built(V72)),
        V72,
    ),
    Case(
        35,
        "exports of a 7.x module on 7.x",
        YES,
        "",
        None,
        ko(exports=[Export("mine", 1)], export_form="flags", **built(V72)),
        V72,
    ),
    Case(36, "struct module is 64 bytes larger: 6.1", YES, "STRUCT_MODULE_SIZE", None, ko(struct_size=960)),
    Case(
        36,
        "struct module is 64 bytes larger: 6.12",
        NO,
        "STRUCT_MODULE_SIZE",
        "ENOEXEC",
        ko(**built(DEB13, struct_size=1344)),
        DEB13,
    ),
    Case(
        37,
        "struct module has init elsewhere: an address of the kernel's is there",
        NO,
        "STRUCT_MODULE_LAYOUT",
        "ENOEXEC",
        ko(init=320),
    ),
    Case(
        37,
        "struct module has init elsewhere: who knows what is there",
        OPEN,
        "STRUCT_MODULE_LAYOUT",
        None,
        ko(init=336),
    ),
    Case(
        38,
        "a live patch without CONFIG_LIVEPATCH",
        NO,
        "LIVEPATCH_UNSUPPORTED",
        "ENOEXEC",
        ko(modinfo={"livepatch": "Y"}),
        on(DEBIAN, without="CONFIG_LIVEPATCH"),
    ),
    Case(38, "a live patch with it", YES, "", None, ko(modinfo={"livepatch": "Y"})),
    Case(39, "no retpolines", YES, "WARN_RETPOLINE", None, ko(modinfo={"retpoline": None})),
    Case(39, "not from the kernel's tree", YES, "WARN_OOT", None, ko()),
    Case(39, "from staging", YES, "WARN_STAGING", None, ko(modinfo={"staging": "Y"})),
    Case(40, "ET_EXEC", NO, "ELF_TYPE", "ENOEXEC", ko(kind=2)),
    Case(40, "ET_DYN", NO, "ELF_TYPE", "ENOEXEC", ko(kind=3)),
    Case(41, "another machine", NO, "ELF_MACHINE", "ENOEXEC", ko(machine="aarch64")),
    Case(41, "a machine that Linux does not know", NO, "ELF_MACHINE", "ENOEXEC", ko(e_machine=77)),
    Case(42, "only EI_CLASS is wrong", YES, "WARN_ELF_IDENT", None, ko(ei_class=1)),
    Case(42, "only EI_DATA is wrong", YES, "WARN_ELF_IDENT", None, ko(ei_data=2)),
    Case(43, "cut in half", NO, "ELF_TRUNCATED", "ENOEXEC", HEADER[: len(HEADER) // 2]),
    Case(43, "cut to 40 bytes", NO, "ELF_TRUNCATED", "ENOEXEC", HEADER[:40]),
    Case(44, "empty", NO, "FILE_EMPTY", "EINVAL", b""),
    Case(45, "text", NO, "ELF_MAGIC", "ENOEXEC", b"#!/bin/sh\necho hello\n" * 9),
    Case(
        46,
        "a section of 2^62 bytes",
        NO,
        "ELF_SECTION_BOUNDS",
        "ENOEXEC",
        changed(HEADER, len(HEADER) - 32, struct.pack("<Q", 1 << 62)),
    ),
    Case(
        46,
        "a section at 2^64 - 8",
        NO,
        "ELF_SECTION_BOUNDS",
        "ENOEXEC",
        changed(HEADER, len(HEADER) - 40, struct.pack("<Q", 2**64 - 8)),
    ),
    Case(47, "e_shnum 0", NO, "ELF_SHDR", "ENOEXEC", ko(shnum=0)),
    Case(47, "e_shstrndx beyond", NO, "ELF_SHDR", "ENOEXEC", ko(shstrndx=99)),
    Case(47, "e_shentsize 40", NO, "ELF_SHDR", "ENOEXEC", ko(shentsize=40)),
    Case(
        47,
        "the first section is not the null one",
        NO,
        "ELF_SECTION_NULL",
        "ENOEXEC",
        changed(HEADER, section_row(HEADER, 0) + 4, b"\1"),
    ),
    Case(47, "the same: EL7 does not look", YES, "", None, *first_section_used(EL7)),
    Case(
        47,
        "a symbol of a section beyond",
        NO,
        "ELF_SYMBOL_SECTION",
        "ENOEXEC",
        changed(HEADER, last_symbol(HEADER) + 6, b"\0\x40"),
    ),
    Case(
        47,
        "a symbol's name beyond",
        NO,
        "ELF_SYMBOL_NAME",
        "ENOEXEC",
        changed(HEADER, last_symbol(HEADER), b"\xff\xff\xff\x7f"),
    ),
    Case(
        48,
        "stripped of its symbols",
        NO,
        "ELF_NO_SYMTAB",
        "ENOEXEC",
        ko(without=[".symtab", ".strtab"], init=None, exit=None),
    ),
    Case(49, "symbol names in no STRTAB: 6.1", YES, "", None, retype(ko(), ".strtab", 1)),
    Case(
        49,
        "symbol names in no STRTAB: 6.12",
        NO,
        "ELF_STRTAB",
        "ENOEXEC",
        retype(ko(**built(DEB13)), ".strtab", 1),
        DEB13,
    ),
    Case(49, "two .modinfo: 6.1", YES, "", None, ko(extra=[Section(".modinfo", b"x=y\0")])),
    Case(
        49,
        "two .modinfo: 6.12",
        NO,
        "MODINFO_DUP",
        "ENOEXEC",
        ko(extra=[Section(".modinfo", b"x=y\0")], **built(DEB13)),
        DEB13,
    ),
    Case(50, "a common symbol", NO, "ELF_COMMON", "ENOEXEC", ko(common=["buffer"])),
    Case(51, "an unknown relocation", NO, "RELOC_UNKNOWN", "ENOEXEC", relocated(99)),
    Case(51, "a relocation where something is already", NO, "RELOC_TARGET", "ENOEXEC", relocated(1)),
    Case(52, "__versions without ALLOC", NO, "MODVERSIONS_ABSENT", "ENOEXEC", ko(versions_flags=0)),
    Case(
        53,
        "__versions of no whole number of entries",
        NO,
        "NO_SYMBOL_VERSION",
        "EINVAL",
        ko(versions=versions_table(PLAIN)[:-1]),
    ),
    Case(53, "__versions of no entry", NO, "NO_SYMBOL_VERSION", "ENOEXEC", ko(versions=b"")),
    Case(
        54,
        "two entries, the first right",
        YES,
        "",
        None,
        ko(versions=versions_table(PLAIN + (("printk", 0x99),))),
    ),
    Case(
        54,
        "two entries, the first wrong",
        NO,
        "SYMBOL_CRC",
        "EINVAL",
        ko(versions=versions_table((LAYOUT, ("printk", 0x99)) + PLAIN[1:])),
    ),
    Case(
        55,
        "a CRC with its high half set",
        NO,
        "SYMBOL_CRC",
        "EINVAL",
        ko(needs=(LAYOUT, ("printk", 1 << 32 | 0x22))),
    ),
    Case(56, "junk behind the ELF file", YES, "", None, ko() + b"junk" * 100),
    Case(57, ".ko.gz", YES, "", None, gzip.compress(ko())),
    Case(57, ".ko.xz", YES, "", None, lzma.compress(ko(), check=lzma.CHECK_CRC32)),
    Case(62, "no symvers, no readable image", OPEN, "KERNEL_NO_CRC_SOURCE", None, ko(), {"exports": None}),
    Case(
        63,
        "symvers of another build, no readable image",
        OPEN,
        "KERNEL_NO_CRC_SOURCE",
        None,
        ko(),
        {
            "in_tree": {
                "drivers/net/other.ko": ko("other", (LAYOUT, ("printk", 0x77)), modinfo={"intree": "Y"})
            }
        },
    ),
    Case(
        64,
        "no MODVERSIONS, same release",
        YES,
        "OK_UNVERSIONED",
        None,
        without_versions(on(V72, flags=" SMP preempt mod_unload ")),
        on(
            V72,
            without="CONFIG_MODVERSIONS",
            flags=" SMP preempt mod_unload ",
            exports=[(name, 0, *rest) for name, _, *rest in EXPORTS],
        ),
    ),
    Case(
        64,
        "no MODVERSIONS, another release",
        NO,
        "VERMAGIC_RELEASE",
        "ENOEXEC",
        without_versions(on(V72, flags=" SMP preempt mod_unload "), release="7.2.0-arch1-1"),
        on(
            V72,
            without="CONFIG_MODVERSIONS",
            flags=" SMP preempt mod_unload ",
            exports=[(name, 0, *rest) for name, _, *rest in EXPORTS],
        ),
    ),
    Case(
        65,
        "extended versions alone: 6.12",
        NO,
        "MODVERSIONS_ABSENT",
        "ENOEXEC",
        without_versions(DEB13, ext_versions=PLAIN),
        DEB13,
    ),
    Case(
        66,
        "extended versions alone, another release: 6.18",
        NO,
        "VERMAGIC_RELEASE",
        "ENOEXEC",
        without_versions(V618, ext_versions=PLAIN, release="6.18.1-arch1-1"),
        V618,
    ),
    Case(
        66,
        "extended versions alone, same release: 6.18",
        YES,
        "",
        None,
        without_versions(V618, ext_versions=PLAIN),
        V618,
    ),
    Case(
        66,
        "extended versions alone, a CRC differs: 6.18",
        NO,
        "SYMBOL_CRC",
        "EINVAL",
        without_versions(V618, ext_versions=(LAYOUT, ("printk", 0x99))),
        V618,
    ),
    Case(
        67,
        "more extended CRCs than names: 6.18",
        NO,
        "MODVERSIONS_EXT_BAD",
        "ENOEXEC",
        ko(
            extra=[Section("__version_ext_crcs", bytes(12)), Section("__version_ext_names", b"printk\0")],
            **built(V618),
        ),
        V618,
    ),
    Case(
        68,
        "damaged BTF, mismatch not allowed",
        NO,
        "BTF_MISMATCH",
        "EINVAL",
        ko(extra=[Section(".BTF", b"bad", flags=0)]),
        on(DEBIAN, "CONFIG_DEBUG_INFO_BTF_MODULES=y"),
    ),
    Case(
        68,
        "damaged BTF, mismatch allowed",
        YES,
        "",
        None,
        ko(extra=[Section(".BTF", b"bad", flags=0)]),
        on(DEBIAN, "CONFIG_DEBUG_INFO_BTF_MODULES=y", "CONFIG_MODULE_ALLOW_BTF_MISMATCH=y"),
    ),
    Case(69, "two symbols fail: ENOENT, then EINVAL", NO, "SYMBOL_MISSING", "EINVAL", REFUSED_HALF),
    Case(
        69,
        "two symbols fail: EINVAL, then ENOENT",
        NO,
        "SYMBOL_CRC",
        "ENOENT",
        ko(needs=(LAYOUT, ("printk", 0x99), ("absent", 1))),
    ),
]


def judged(root: Path, case: Case) -> Verdict:
    arguments = dict(case.kernel)
    in_tree = dict(arguments.pop("in_tree", {}))
    if "signed" in arguments:
        in_tree["a/first.ko"] = arguments.pop("signed")
    families.kernel(root, arguments.pop("release", RELEASE), in_tree=in_tree, **arguments)
    host = Host(str(root))
    offered: List[KernelModule] = []
    for number, data in enumerate(case.module if isinstance(case.module, list) else [case.module]):
        path = root / ("opt/%d/vendor.ko" % number)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        offered.append(modules.read(host, "/opt/%d/vendor.ko" % number))
    return loader.judge(kernels.installed(host)[0], offered, case.runtime)[-1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "%d %s" % (case.number, case.what))
def test_case(case: Case, tmp_path: Path) -> None:
    if case.runtime.enrolled and shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    verdict = judged(tmp_path, case)
    assert (verdict.verdict, verdict.errno) == (case.verdict, case.errno), verdict.findings
    if case.code:
        assert case.code in [finding.code for finding in verdict.findings]
    if verdict.reason is not None and case.number != 69:
        assert verdict.reason.code == case.code
    if case.verdict == YES and not case.code:
        assert {finding.code for finding in verdict.findings} <= {
            "WARN_OOT",
            "SIG_ABSENT",
            "WARN_LICENSE",
            "NAME_OF_FILE",
        }


def test_both_codes_are_listed(tmp_path: Path) -> None:
    """Case 69"""
    refused = [
        (finding.code, finding.symbol)
        for finding in judged(tmp_path, Case(69, "", NO, "", None, REFUSED_HALF)).findings
        if finding.effect == "refuse"
    ]
    assert refused == [("SYMBOL_MISSING", "absent"), ("SYMBOL_CRC", "printk")]


def _fifo(root: Path) -> str:
    os.mkfifo(str(root / "fifo.ko"))
    return "/fifo.ko"


def _written(data: bytes) -> Callable[[Path], str]:
    def write(root: Path) -> str:
        (root / "vendor.ko.xz").write_bytes(data)
        return "/vendor.ko.xz"

    return write


def _link(target: str) -> Callable[[Path], str]:
    def link(root: Path) -> str:
        (root / "vendor.ko").symlink_to(target)
        return "/vendor.ko"

    return link


def _bomb() -> bytes:
    """200 KiB that unpack to more than any module has."""
    packer = lzma.LZMACompressor(check=lzma.CHECK_CRC32)
    zeros = bytes(1 << 20)
    return b"".join([packer.compress(zeros) for _ in range(200)]) + packer.flush()


ERRORS: List[Tuple[int, str, str, Callable[[Path], str]]] = [
    (58, "cut .ko.xz", "COMP_CORRUPT", _written(lzma.compress(ko())[:-20])),
    (58, "changed .ko.xz", "COMP_CORRUPT", _written(changed(lzma.compress(ko()), 60, b"\0\0\0\0"))),
    (59, "a bomb", "COMP_LIMIT", _written(_bomb())),
    (60, "a FIFO", "FILE_NOT_REGULAR", _fifo),
    (60, "a directory", "FILE_NOT_REGULAR", lambda root: "/"),
    (61, "a symlink to itself", "PATH_LOOP", _link("vendor.ko")),
    (61, "a dangling symlink", "PATH_MISSING", _link("nowhere.ko")),
    (
        61,
        "a symlink out of the root stays in it",
        "PATH_MISSING",
        _link("../../../../../../../../../../bin/sh"),
    ),
]


@pytest.mark.parametrize("number,what,code,make", ERRORS, ids=["%d %s" % row[:2] for row in ERRORS])
def test_input_error(number: int, what: str, code: str, make: Callable[[Path], str], tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(KmodError) as raised:
        modules.read(Host(str(tmp_path)), path)
    assert raised.value.code == code
    assert raised.value.what == path


def test_every_case_is_here() -> None:
    assert {case.number for case in CASES} | {row[0] for row in ERRORS} == set(range(1, 70))
