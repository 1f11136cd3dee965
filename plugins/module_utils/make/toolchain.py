# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a sandbox has to build with, looked at before anything is built: a compiler that is not the kernel's, kbuild's
own programs that do not run here, pahole.
"""

import os
import re
import shlex
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import KmodError, printable
from .headers import Headers
from .sandbox import Box, run

X86 = ("x86_64", "i386", "i486", "i586", "i686")
# by machine what names of gcc's targets begin with
TARGETS = {
    "x86_64": X86,
    "i686": X86,
    "aarch64": ("aarch64",),
    "armv7l": ("arm",),
    "ppc64le": ("powerpc64", "ppc64"),
    "s390x": ("s390x",),
    "riscv64": ("riscv64",),
    "loongarch64": ("loongarch64",),
}
_PROBE = r"""
tell() { printf '%%s\0%%s\0' "$1" "$2"; }
version() { "$1" --version 2> /dev/null | head -n 1; }
for cc in %(compilers)s; do
    command -v -- "$cc" > /dev/null || continue
    tell cc "$cc"; tell version "$(version "$cc")"; tell number "$("$cc" -dumpfullversion 2> /dev/null || "$cc" -dumpversion)"
    tell target "$("$cc" -dumpmachine 2> /dev/null)"
    said=$("$cc" -dM -E -x c - 2>&1 < /dev/null) || tell broken "${said%%%%$'\n'*}"
    case $said in *__clang__*) tell kind clang ;; *) tell kind gcc ;; esac
    break
done
tell pahole "$(version pahole)"; tell linker "$(version %(linker)s)"
for tool in %(tools)s; do command -v -- "$tool" > /dev/null || tell missing "$tool"; done
cd /lib/modules/%(release)s/build || exit 1
for own in %(own)s; do
    [[ -e $own ]] || { tell absent "$own"; continue; }
    said=$("./$own" 2>&1 < /dev/null)
    case $?:$said in
        126:* | 127:* | *"not found (required by"* | *"error while loading shared"*) tell unusable "$own"; tell why "${said%%%%$'\n'*}" ;;
    esac
done
"""


class Tools(NamedTuple):
    """What a build is made with. ``notes`` are (code, what is to be known)."""

    cc: str
    version: str  # the compiler's, as it tells it
    linker: str  # the same
    given: bool  # it has to be forced upon kbuild
    pahole: str  # its version, "" where it is not used
    clang: bool
    notes: Tuple[Tuple[str, str], ...]


class Compiler(NamedTuple):
    """What a compiler says of itself, "" for what it does not say. ``broken`` is what it says where it cannot
    compile at all.
    """

    cc: str
    version: str
    number: str
    target: str
    kind: str
    broken: str


def tools(box: Box, headers: Headers, *, patches: bool) -> Tools:
    """What there is to build with in the box. Errors: TOOL_MISSING, BUILD_COMPILER, KBUILD_UNUSABLE."""
    text = headers.option("CC_VERSION_TEXT")
    clang = bool(headers.option("CC_IS_CLANG"))
    theirs = text.split(" ")[0] if re.fullmatch(r"[\w.+-]+", text.split(" ")[0]) else ""
    own = ["scripts/basic/fixdep", "scripts/mod/modpost"]
    own += ["tools/objtool/objtool"] if headers.option("OBJTOOL") else []
    own += ["tools/bpf/resolve_btfids/resolve_btfids"] if headers.has_types else []
    needed = ["make", "ld.lld", "llvm-strip"] if clang else ["make", "ld", "strip"]
    told = _probed(
        box,
        compilers=[theirs, "clang"] if clang else [theirs, "gcc", "cc"],
        tools=needed + ["patch"] * patches,
        linker=needed[1],
        own=[each for each in own if os.path.lexists(headers.path(each)) or "scripts/" in each],
        release=headers.release,
    )
    for name in told.get("missing", []):
        raise KmodError(name, "is not installed on the build system", "Install it there", "TOOL_MISSING")
    cc = Compiler(*(told.get(name, [""])[0] for name in Compiler._fields))
    wanted = _number(headers.option("CLANG_VERSION" if clang else "GCC_VERSION"))
    notes = _check_compiler(headers, cc, wanted, theirs=theirs, machine=box.machine)
    _check_own(headers, told)
    pahole = ""
    if headers.has_types:
        pahole, note = _pahole(told.get("pahole", [""])[0], headers.option("PAHOLE_VERSION"))
        notes += [note] if note else []
    forced = cc.cc != ("clang" if clang else theirs)  # with LLVM=1 kbuild takes clang by that name
    return Tools(cc.cc, cc.version, told.get("linker", [""])[0], forced, pahole, clang, tuple(notes))


def _probed(box: Box, **words: Any) -> Dict[str, List[str]]:
    script = _PROBE % {
        name: word if isinstance(word, str) else " ".join(shlex.quote(each) for each in word if each)
        for name, word in words.items()
    }
    path = box.work + "/probed"
    short = box.limits._replace(seconds=min(60, box.limits.seconds))
    ran = run(box._replace(limits=short), ["/bin/bash", "-c", script], {}, path)
    with open(path, "rb") as file:
        fields = file.read(1 << 20).decode("utf-8", "replace").split("\0")
    os.unlink(path)
    if ran.status and len(fields) < 3:
        raise KmodError(
            box.system,
            "has no bash that runs in a sandbox: %s" % printable(fields[0].strip())[-300:],
            "Build on a system with bash and the kernel's compiler",
            "SANDBOX_REFUSED",
        )
    found: Dict[str, List[str]] = {}
    for name, value in zip(fields[0::2], fields[1::2]):
        found.setdefault(name, []).append(value)
    return found


def _check_own(headers: Headers, told: Dict[str, List[str]]) -> None:
    for name in told.get("absent", []):
        raise KmodError(
            "%s/%s" % (headers.origin, name),
            "is missing from the headers of %s" % headers.release,
            "Give the packages of the distribution, or prepare the tree (make modules_prepare)",
            "HEADERS_INCOMPLETE",
        )
    for name, why in zip(told.get("unusable", []), told.get("why", [])):
        library = re.search(r"loading shared libraries: (\S+): cannot open", why)
        raise KmodError(
            "%s of the headers of %s" % (name, headers.release),
            "does not run on the build system: %s" % printable(why)[:200],
            "Install the package with %s there (libelf1, elfutils-libelf and the like)" % library.group(1)
            if library
            else "Build in a system of the release that the kernel is of: give its root directory as root, or build on "
            "such a host",
            "KBUILD_UNUSABLE",
        )


def _check_compiler(
    headers: Headers, cc: Compiler, wanted: Tuple[int, ...], *, theirs: str, machine: str
) -> List[Tuple[str, str]]:
    """It has to be of the kernel's kind and for its machine. A newer one than the kernel's does; an older one
    does not know the options that the kernel's configuration asks for.
    """
    text = headers.option("CC_VERSION_TEXT") or "an unknown compiler"
    kind = "clang" if headers.option("CC_IS_CLANG") else "gcc"

    def refused(why: str, then: str) -> KmodError:
        return KmodError(headers.release, "was built with %s, and %s" % (text, why), then, "BUILD_COMPILER")

    ours = _number(cc.number)
    there = "the compiler here, %s %s, " % (cc.cc, cc.number)
    install = "Install %s on the build system" % (theirs or kind)
    elsewhere = install + ", or build in a system that has it: give its root directory as root"
    if not cc.cc:
        raise refused("the build system has no compiler", install)
    if cc.broken:
        raise refused("%sdoes not work: %s" % (there, printable(cc.broken)[:200]), install)
    if cc.kind != kind:
        raise refused("%sis %s" % (there, cc.kind), elsewhere)
    made_for = TARGETS.get(machine)
    if made_for and kind == "gcc" and cc.target and not cc.target.startswith(made_for):
        raise refused("%sis for %s" % (there, printable(cc.target)[:80]), elsewhere)
    if not wanted or not ours or ours[0] == wanted[0]:
        return []
    if ours[0] < wanted[0]:
        raise refused(there + "is older", elsewhere)
    note = "the kernel was built with %s, the module with %s %s" % (text, cc.cc, cc.number)
    return [("COMPILER_DIFFERS", note)]


def _number(text: str) -> Tuple[int, ...]:
    """A version: 120200 (12.2.0), as the configuration has it, or 12.2.0."""
    if text.isdigit() and len(text) > 4:
        return int(text) // 10000, int(text) // 100 % 100
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def _pahole(version: str, wanted: str) -> Tuple[str, Optional[Tuple[str, str]]]:
    """Its version, "" where the modules are built without types, and what is to be known then."""
    ours = [int(each) for each in re.findall(r"\d+", version)[:2]]
    number = ours[0] * 100 + ours[1] if len(ours) == 2 else 0
    if not number:
        why = "pahole is not installed on the build system"
    elif wanted.isdigit() and number < int(wanted):
        why = "pahole here is %s, and the kernel's was %s.%s" % (version, wanted[:-2], wanted[-2:])
    else:
        return version, None
    return "", ("PAHOLE_MISSING", why + ": the modules have no types (BTF); they load without")
