# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cases of a loader's life, each made from a real module by as small a change as will do.

A mutant is named after what was done to it. Those that cannot be made from a given module (another kernel
generation, no such section) are left out. All of it is for little-endian 64-bit modules; ``machine`` finds
the sections.
"""

import contextlib
import functools
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from tests.kernel.machine import (
    MARKER,
    Section,
    neutral,
    section,
    sections,
    undefined,
    unsigned,
    versions,
    with_crc,
)

WRONG = 0x0BADC0DE


class Mutant(NamedTuple):
    """A module to be judged, with the names of the modules that must be there before it."""

    name: str
    data: bytes
    providers: Tuple[str, ...] = ()


class Unfit(Exception):
    """A change that this module has no place for."""


def write(data: bytes, at: int, form: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, at, *values)
    return bytes(changed)


def _section(data: bytes, name: str) -> Section:
    found = section(data, name)
    if found is None:
        raise Unfit(name)
    return found


def _header(data: bytes, name: str, field: str, value: int) -> bytes:
    """Change one field of a section's header."""
    offset, form = {
        "name": (0, "I"),
        "type": (4, "I"),
        "flags": (8, "Q"),
        "offset": (24, "Q"),
        "size": (32, "Q"),
        "link": (40, "I"),
        "info": (44, "I"),
    }[field]
    return write(data, _section(data, name).header + offset, form, value)


def _replace(data: bytes, where: Section, old: bytes, new: bytes) -> bytes:
    """Change the first occurrence in a section; both are equally long."""
    assert len(old) == len(new), (old, new)
    at = data.find(old, where.offset, where.offset + where.size)
    if at < 0:
        raise Unfit(old.decode())
    return data[:at] + new + data[at + len(old) :]


def _hidden(data: bytes, name: str) -> bytes:
    """A section under a name that nobody looks for."""
    _section(data, name)
    names = sections(data)[struct.unpack_from("<H", data, 62)[0]]
    return _replace(data, names, b"\0" + name.encode() + b"\0", b"\0" + name[:-1].encode() + b"!\0")


def _modinfo(data: bytes, old: str, new: str) -> bytes:
    return _replace(data, _section(data, ".modinfo"), old.encode(), new.encode())


def _symbol(data: bytes, name: str) -> int:
    """Where a symbol's entry of .symtab lies."""
    table = _section(data, ".symtab")
    names = sections(data)[table.link]
    for at in range(table.offset, table.offset + table.size, 24):
        start = names.offset + struct.unpack_from("<I", data, at)[0]
        if data[start : data.index(b"\0", start)] == name.encode():
            return at
    raise Unfit(name)


def _renamed(data: bytes, symbol: str, new: str) -> bytes:
    """A symbol by another name in .strtab alone."""
    _symbol(data, symbol)
    return _replace(data, _section(data, ".strtab"), b"\0%s\0" % symbol.encode(), b"\0%s\0" % new.encode())


def _weak(data: bytes, symbol: str) -> bytes:
    return write(data, _symbol(data, symbol) + 4, "B", 0x20)


def _entry(data: bytes, symbol: str) -> int:
    found = versions(data)
    if symbol not in found:
        raise Unfit("no entry of " + symbol)
    return found[symbol]


def _without_version(data: bytes, symbol: str) -> bytes:
    at = _entry(data, symbol) + 8
    return data[:at] + b"?" + data[at + 1 :]


def _wrong(data: bytes, symbol: str) -> bytes:
    _entry(data, symbol)
    return with_crc(data, symbol, WRONG)


def _relocation(data: bytes, name: str) -> int:
    """Where the first PC-relative relocation of a section lies."""
    table = _section(data, ".rela" + name)
    for at in range(table.offset, table.offset + table.size, 24):
        if struct.unpack_from("<I", data, at + 8)[0] in (2, 4):  # R_X86_64_PC32, R_X86_64_PLT32
            return at
    raise Unfit(name)


def _signature(
    data: bytes, body: bytes, algorithm: int = 0, kind: int = 2, size: Optional[int] = None
) -> bytes:
    """A module with ``body`` as its signature, as ``scripts/sign-file.c`` appends it."""
    return (
        data
        + body
        + struct.pack(">BBBBB3xI", algorithm, 0, kind, 0, 0, len(body) if size is None else size)
        + MARKER
    )


def _signed(data: bytes) -> bytes:
    """Signed with a key that nobody knows."""
    with tempfile.TemporaryDirectory() as directory:
        key, certificate, content = (
            str(Path(directory, name)) for name in ("key.pem", "certificate.pem", "content")
        )
        Path(content).write_bytes(data)

        def run(*argv: str) -> bytes:
            done = subprocess.run(
                ["openssl", *argv], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            return done.stdout

        run(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=nobody",
            "-keyout",
            key,
            "-out",
            certificate,
        )
        body = run(
            "cms",
            "-sign",
            "-binary",
            "-noattr",
            "-nocerts",
            "-md",
            "sha256",
            "-outform",
            "DER",
            "-in",
            content,
            "-signer",
            certificate,
            "-inkey",
            key,
        )
    return _signature(data, body)


def _with_section(data: bytes, **contents: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        module = Path(directory, "module")
        module.write_bytes(data)
        argv = ["objcopy"]
        for name, content in contents.items():
            Path(directory, name).write_bytes(content)
            argv += [
                "--add-section",
                "%s=%s" % (name, Path(directory, name)),
                "--set-section-flags",
                "%s=alloc,readonly,data" % name,
            ]
        subprocess.run(argv + [str(module)], check=True)
        return module.read_bytes()


def _extended(data: bytes, missing: int = 0) -> bytes:
    """CRCs in the extended tables only; ``missing`` names have no CRC."""
    found = versions(data)
    if not found:
        raise Unfit("__versions")
    crcs = b"".join(data[at : at + 4] for at in list(found.values())[missing:])
    return _hidden(
        _with_section(
            data,
            __version_ext_crcs=crcs,
            __version_ext_names=b"".join(name.encode() + b"\0" for name in found),
        ),
        "__versions",
    )


def _doubled(data: bytes, first: bool) -> bytes:
    """Two entries of one symbol, the first or the second of them wrong.

    The other one's room is that of a symbol no longer needed.
    """
    entries = sorted((_entry(data, name), name) for name in ("kernel_kobj", "kobject_put"))
    kept, name = _entry(data, "kobject_put"), "kernel_kobj"
    data = _weak(_renamed(data, name, "kernel_kobX"), "kernel_kobX")
    copy = entries[0][0] if entries[1][0] == kept else entries[1][0]
    data = data[:copy] + data[kept : kept + 64] + data[copy + 64 :]
    return write(data, entries[0 if first else 1][0], "Q", WRONG)


def alone(data: bytes) -> Iterator[Tuple[str, Callable[[], bytes]]]:
    """Changes of ``labalone``, which needs the kernel alone."""
    size = len(data)
    release = _vermagic(data).split(" ")[0]
    flags = _vermagic(data)[len(release) :]
    other = release[:-1] + ("X" if release[-1] != "X" else "Y")
    this = ".gnu.linkonce.this_module"

    yield "unsigned", lambda: data
    yield "signature: marker only", lambda: data + MARKER
    yield "signature: id_type 0", lambda: _signature(data, b"x" * 64, kind=0)
    yield "signature: id_type 1", lambda: _signature(data, b"x" * 64, kind=1)
    yield "signature: longer than the file", lambda: _signature(data, b"x" * 64, size=1 << 30)
    yield "signature: no length", lambda: _signature(data, b"")
    yield "signature: no PKCS#7", lambda: _signature(data, b"garbage" * 40)
    yield "signature: field that must be 0", lambda: _signature(data, b"x" * 64, algorithm=1)
    yield "signature: unknown key", lambda: _signed(data)
    yield "signature: unknown key, a byte changed", lambda: _modinfo(_signed(data), "alias-to", "alias_to")
    yield "signature: a byte behind the marker", lambda: _signed(data) + b"\0"

    yield "vermagic: other release", lambda: _modinfo(data, "vermagic=" + release, "vermagic=" + other)
    yield (
        "vermagic: other release, no __versions",
        lambda: _hidden(_modinfo(data, "vermagic=" + release, "vermagic=" + other), "__versions"),
    )
    yield "vermagic: no SMP", lambda: _modinfo(data, release + " SMP ", release + " SMQ ")
    yield "vermagic: no mod_unload", lambda: _modinfo(data, " mod_unload ", " mod_onload ")
    yield "vermagic: last blank gone", lambda: _modinfo(data, flags + "\0", flags[:-1] + "\0\0")
    yield (
        "vermagic: no blank at all",
        lambda: _modinfo(data, _vermagic(data), _vermagic(data).replace(" ", "_")),
    )
    yield "vermagic: absent", lambda: _modinfo(data, "vermagic=", "vermagiX=")
    yield (
        "vermagic and __versions: absent",
        lambda: _hidden(_modinfo(data, "vermagic=", "vermagiX="), "__versions"),
    )

    yield "versions: absent", lambda: _hidden(data, "__versions")
    yield "versions: not ALLOC", lambda: _header(data, "__versions", "flags", 0)
    yield "versions: NOBITS", lambda: _header(data, "__versions", "type", 8)
    yield "versions: empty", lambda: _header(data, "__versions", "size", 0)
    yield (
        "versions: tail cut",
        lambda: _header(data, "__versions", "size", _section(data, "__versions").size - 8),
    )
    yield (
        "versions: tail too long",
        lambda: _header(data, "__versions", "size", _section(data, "__versions").size + 8),
    )
    yield "versions: module_layout differs", lambda: _wrong(data, "module_layout")
    yield "versions: module_layout missing", lambda: _without_version(data, "module_layout")
    yield "versions: module_layout, high half", lambda: write(data, _entry(data, "module_layout") + 4, "I", 1)
    yield "versions: one differs", lambda: _wrong(data, "kobject_put")
    yield "versions: one missing", lambda: _without_version(data, "kobject_put")
    yield "versions: one differs, one missing", lambda: _wrong(_without_version(data, "kobject_put"), "kfree")
    yield "versions: high half of one", lambda: write(data, _entry(data, "kobject_put") + 4, "I", 1)
    yield "versions: doubled, first wrong", lambda: _doubled(data, True)
    yield "versions: doubled, second wrong", lambda: _doubled(data, False)
    yield "versions: extended only", lambda: _extended(data)
    yield (
        "versions: extended only, other release",
        lambda: _modinfo(_extended(data), "vermagic=" + release, "vermagic=" + other),
    )
    yield "versions: extended, a CRC too few", lambda: _extended(data, 1)

    yield "symbol: not exported", lambda: _renamed(data, "kobject_put", "kobject_puX")
    yield (
        "symbol: not exported, weak",
        lambda: _weak(_renamed(data, "kobject_put", "kobject_puX"), "kobject_puX"),
    )
    yield "symbol: weak, differs", lambda: _wrong(_weak(data, "kobject_put"), "kobject_put")
    yield (
        "symbol: weak, GPL only, proprietary",
        lambda: _modinfo(_weak(data, "kernel_kobj"), "license=GPL\0", "license=LPG\0"),
    )
    yield "symbol: two, the first absent, the second differs", lambda: _two(data, True)
    yield "symbol: two, the first differs, the second absent", lambda: _two(data, False)
    yield "symbol: common", lambda: write(data, _symbol(data, "kobject_put") + 6, "H", 0xFFF2)
    yield "symbol: absolute", lambda: write(data, _symbol(data, "kobject_put") + 6, "H", 0xFFF1)
    yield "symbol: section out of range", lambda: write(data, _symbol(data, "kobject_put") + 6, "H", 0x4000)
    yield "symbol: name out of range", lambda: write(data, _symbol(data, "kobject_put"), "I", 0x7FFFFFFF)

    yield "license: proprietary", lambda: _modinfo(data, "license=GPL\0", "license=LPG\0")
    yield "license: lower case", lambda: _modinfo(data, "license=GPL\0", "license=gpl\0")
    yield "license: absent", lambda: _modinfo(data, "license=", "licensX=")
    yield "modinfo: absent", lambda: _hidden(data, ".modinfo")
    yield (
        "modinfo: two of them",
        lambda: _header(
            data, ".comment", "name", struct.unpack_from("<I", data, _section(data, ".modinfo").header)[0]
        ),
    )
    yield "modinfo: no retpoline", lambda: _modinfo(data, "retpoline=Y", "retpolinX=Y")
    yield "modinfo: no name", lambda: _modinfo(data, "\0name=", "\0nime=")
    yield "modinfo: staging", lambda: _modinfo(data, "description=A module", "staging=Y\0s=A module")
    yield "modinfo: livepatch", lambda: _modinfo(data, "description=A module f", "livepatch=Y\0x=A module")

    yield "struct module: 64 bytes less", lambda: _header(data, this, "size", _section(data, this).size - 64)
    yield "struct module: 64 bytes more", lambda: _header(data, this, "size", _section(data, this).size + 64)
    yield "struct module: NOBITS", lambda: _header(data, this, "type", 8)
    yield "struct module: not ALLOC", lambda: _header(data, this, "flags", 0)
    yield "struct module: absent", lambda: _header(data, this, "name", 0)
    yield (
        "struct module: two of them",
        lambda: _header(
            data, ".comment", "name", struct.unpack_from("<I", data, _section(data, this).header)[0]
        ),
    )

    yield "elf: type DYN", lambda: write(data, 16, "H", 3)
    yield "elf: type EXEC", lambda: write(data, 16, "H", 2)
    yield "elf: another machine", lambda: write(data, 18, "H", 183)
    yield "elf: class of 32 bits", lambda: write(data, 4, "B", 1)
    yield "elf: big endian", lambda: write(data, 5, "B", 2)
    yield "elf: ident version", lambda: write(data, 6, "B", 9)
    yield "elf: half of the file", lambda: data[: size // 2]
    yield "elf: 40 bytes", lambda: data[:40]
    yield "elf: without its last byte", lambda: data[:-1]
    yield "elf: empty file", lambda: b""
    yield (
        "elf: a text",
        lambda: (
            b"#!/bin/sh\n# no module, longer than the header of one, which has to be read before anything else is\nexit 1\n"
        ),
    )
    yield "elf: junk at the end", lambda: data + b"junk" * 64
    yield "elf: no section headers", lambda: write(data, 60, "H", 0)
    yield "elf: section headers out of range", lambda: write(data, 40, "Q", size - 64)
    yield "elf: section headers far out of range", lambda: write(data, 40, "Q", (1 << 64) - 64)
    yield "elf: size of a section header", lambda: write(data, 58, "H", 40)
    yield "elf: no names of sections", lambda: write(data, 62, "H", 0)
    yield "elf: names of sections out of range", lambda: write(data, 62, "H", 0x4000)
    yield "elf: huge section", lambda: _header(data, ".comment", "size", 1 << 62)
    yield "elf: section that wraps", lambda: _header(data, ".comment", "offset", (1 << 64) - 8)
    yield "elf: name of a section out of range", lambda: _header(data, ".comment", "name", 0x7FFFFFFF)
    yield "elf: no symbol table", lambda: _header(data, ".symtab", "type", 1)
    yield "elf: two symbol tables", lambda: _header(data, ".comment", "type", 2)
    yield "elf: strings of another type", lambda: _header(data, ".strtab", "type", 1)
    yield "elf: strings out of range", lambda: _header(data, ".symtab", "link", 0x4000)
    yield "elf: first section not null", lambda: write(data, sections(data)[0].header + 4, "I", 1)

    yield (
        "relocation: unknown type",
        lambda: write(
            data,
            _relocation(data, ".text") + 8
            if section(data, ".rela.text")
            else _relocation(data, ".init.text") + 8,
            "I",
            200,
        ),
    )
    yield "relocation: target in use", lambda: _target(data)
    yield "btf: no magic", lambda: write(data, _section(data, ".BTF").offset, "H", 0)
    yield "btf: cut", lambda: _header(data, ".BTF", "size", 8)


def _vermagic(data: bytes) -> str:
    found = _section(data, ".modinfo")
    at = data.index(b"vermagic=", found.offset) + 9
    return data[at : data.index(b"\0", at)].decode()


def _two(data: bytes, absent_first: bool) -> bytes:
    _entry(data, "kfree")
    order = [name for name in undefined(data) if name in ("kfree", "kobject_put")]
    absent, differs = order if absent_first else order[::-1]
    return _wrong(_renamed(data, absent, absent[:-1] + "X"), differs)


def _shifted(data: bytes, by: int) -> bytes:
    table = _section(data, ".rela.gnu.linkonce.this_module")
    return write(data, table.offset, "Q", struct.unpack_from("<Q", data, table.offset)[0] + by)


def _target(data: bytes) -> bytes:
    name = ".init.text"
    at = struct.unpack_from("<Q", data, _relocation(data, name))[0]
    return write(data, _section(data, name).offset + at, "I", 0x11111111)


def made(modules: Dict[str, bytes]) -> List[Mutant]:
    """Every mutant that the small modules of tests/kernel/cases give."""
    found = [Mutant("struct module: init shifted", _shifted(modules["labalone"], 8))]
    modules = {name: neutral(data) for name, data in modules.items()}
    made: List[Tuple[str, Tuple[str, ...], Callable[[], bytes]]]
    made = [(name, (), change) for name, change in alone(modules["labalone"])]
    made += [
        (name, providers, functools.partial(change, data))
        for name, data, providers, change in _driven(modules)
    ]
    for name, providers, change in made:
        with contextlib.suppress(Unfit):
            found.append(Mutant(name, change(), providers))
    return found


def _driven(
    modules: Dict[str, bytes],
) -> Iterator[Tuple[str, bytes, Tuple[str, ...], Callable[[bytes], bytes]]]:
    """Changes of modules that export symbols or need another one."""
    provider, user, heir = modules["labprov"], modules["labuser"], modules["labheir"]
    same: Callable[[bytes], bytes] = lambda data: data  # noqa: E731

    def as_if(data: bytes, old: bytes, new: bytes) -> bytes:
        return _replace(data, _section(data, "__ksymtab_strings"), old, new)

    kept = ("labprov",)
    yield "exports: taken", provider, (), same
    yield "exports: no CRCs", provider, (), lambda data: _hidden(_hidden(data, "__kcrctab"), "__kcrctab_gpl")
    yield "exports: no flags", provider, (), lambda data: _hidden(data, "__kflagstab")
    yield (
        "exports: a symbol of the kernel",
        provider,
        (),
        lambda data: as_if(data, b"labject_get\0", b"kobject_get\0"),
    )
    yield (
        "exports: a GPL-only symbol of the kernel",
        provider,
        (),
        lambda data: as_if(data, b"labject_put\0", b"kernel_kobj\0"),
    )
    yield "exports: those of a loaded module", provider, kept, _another_name
    yield "provider: not there", user, (), same
    yield "provider: there", user, kept, same
    yield "provider: one differs", user, kept, lambda data: _wrong(data, "labject_put")
    yield (
        "provider: one differs, one not exported",
        user,
        kept,
        lambda data: _wrong(_renamed(data, "labject_get", "labject_geX"), "labject_put"),
    )
    yield (
        "provider: namespace not imported",
        user,
        kept,
        lambda data: _modinfo(data, "import_ns=", "import_nX="),
    )
    yield (
        "provider: another namespace",
        user,
        kept,
        lambda data: _modinfo(data, "import_ns=LABSPACE", "import_ns=LABSPACF"),
    )
    yield (
        "provider: proprietary user",
        user,
        kept,
        lambda data: _modinfo(data, "license=GPL\0", "license=LPG\0"),
    )
    yield (
        "provider: weak, of a namespace not imported",
        user,
        kept,
        lambda data: _modinfo(_weak(data, "labspace_call"), "import_ns=", "import_nX="),
    )
    yield "provider: proprietary, GPL user of GPL-only symbols", heir, ("labprop",), same
    yield (
        "provider: proprietary, proprietary user",
        heir,
        ("labprop",),
        lambda data: _modinfo(data, "license=GPL\0", "license=LPG\0"),
    )


def _another_name(data: bytes) -> bytes:
    return named(data, "labtwin")


def named(data: bytes, new: str) -> bytes:
    """The module under another name of the same length."""
    this = _section(data, ".gnu.linkonce.this_module")
    old = data[this.offset + 24 : data.index(b"\0", this.offset + 24)].decode()
    data = _replace(data, this, old.encode(), new.encode())
    return _modinfo(data, "\0name=%s\0" % old, "\0name=%s\0" % new)


def changed_byte(signed: bytes) -> bytes:
    """A signed module with one byte changed where the loader does not look otherwise."""
    return _modinfo(signed, "description=", "descriptiXn=")


def resigned(data: bytes) -> bytes:
    """A module signed again, by nobody."""
    return _signed(unsigned(data))
