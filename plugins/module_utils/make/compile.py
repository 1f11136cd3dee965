# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From source to .ko, in the order in which dkms does it: patches, PRE_BUILD, MAKE, is every module there,
strip, POST_BUILD (``dkms.in: do_build``).

What the sandbox holds is looked at before: a compiler that is not the kernel's, kbuild's own programs that do
not run here. What comes out is looked at after, from outside: are these modules for this kernel, and would it
take them.
"""

import json
import os
import re
import shlex
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError, from_oserror, printable
from ..host import Host
from ..judge import predict
from ..judge.loader import judge
from ..judge.verdict import INCOMPATIBLE, Verdict
from ..read import ko, names
from ..read.kernel_module import KernelModule
from ..read.runtime import OFFLINE
from . import dkms_conf, source
from .dkms_conf import DkmsConf
from .headers import Headers, kernel
from .sandbox import Box, Mount, run, said

RECIPE = 1  # counts up when the same input would give other bytes
MODULE = 256 << 20  # bytes
PLAIN = ("kbuild", "0")  # where a source without dkms.conf is built
SYMVERS = "Module.symvers"
STATUS = {  # of the script
    5: ("BUILD_PATCH", "a patch is missing"),
    6: ("BUILD_PATCH", "a patch does not apply"),
    7: ("BUILD_MODULE_MISSING", "not every module was built"),
    8: ("BUILD_FAILED", "PRE_BUILD fails"),
    9: ("BUILD_FAILED", "POST_BUILD fails"),
    10: ("BUILD_FAILED", "it does not compile"),
    11: ("BUILD_FAILED", "a module cannot be stripped"),
}
ERRORS = 5  # lines that are told
_ERROR = re.compile(
    r"(?:fatal error|(?<!\w)error|ERROR|Error \d+|\*\*\*)[: ]|: not found|No such file|undefined!|cannot |FAILED|Killed"
)
# "recipe failed" lines say nothing that the lines before them have not said
_ECHO = re.compile(r"^(?:make|gmake)(?:\[\d+\])?: \*\*\* \[")

_SCRIPT = r"""
shopt -s extglob
kernel_source_dir=/lib/modules/$kernelver/build
dkms_tree=%(tree)s source_tree=%(sources)s install_tree=/lib/modules
build=$dkms_tree/$module/$module_version/build
made=$dkms_tree/$module/$module_version/$kernelver/$arch/module
say() { printf '\n### %%s\n' "$1"; }
hook() {
    if [[ ! -x $build/${1%%%% *} ]]; then say "$1 is not executable: not run"; return; fi
    say "$1"
    (eval "cd $build/ && $build/$1")
}
cd "$build" || exit 15
for patch in "${patches[@]}"; do
    say "patch -p1 < patches/$patch"
    [[ patches/$patch != */../* && -e patches/$patch ]] || exit 5
    patch -p1 < "patches/$patch" || exit 6
done
[[ ! $pre_build ]] || hook "$pre_build" || exit 8
say "$make_command"
(eval "$make_command") || exit 10
if (( ! ${#built[@]} )); then
    while IFS= read -r -d '' each; do built+=("${each%%.ko}"); names+=("${each##*/}"); strips+=(yes); done \
        < <(find . -name '*.ko' -type f -printf '%%P\0' | LC_ALL=C sort -z)
    names=("${names[@]%%.ko}")
    (( ${#built[@]} )) || { echo "no module was built"; exit 7; }
fi
for number in "${!built[@]}"; do
    [[ -e ${built[number]}.ko ]] && continue
    echo "${built[number]}.ko was not built"; missing=1
done
[[ ! $missing ]] || exit 7
for number in "${!built[@]}"; do
    [[ ${strips[number]} = no ]] || "$strip" -g "${built[number]}.ko" || exit 11
    cp -- "${built[number]}.ko" "$made/${names[number]}.ko" || exit 11
done
[[ ! $post_build ]] || hook "$post_build" || exit 9
find . -name %(symvers)s -type f -exec cat {} + | LC_ALL=C sort -u > "$made/%(symvers)s"
exit 0
"""
_PROBE = r"""
tell() { printf '%%s\0%%s\0' "$1" "$2"; }
version() { "$1" --version 2> /dev/null | head -n 1; }
for cc in %(compilers)s; do
    command -v -- "$cc" > /dev/null || continue
    tell cc "$cc"; tell version "$(version "$cc")"; tell number "$("$cc" -dumpfullversion 2> /dev/null || "$cc" -dumpversion)"
    break
done
tell pahole "$(version pahole)"
for tool in %(tools)s; do command -v -- "$tool" > /dev/null || tell missing "$tool"; done
cd /lib/modules/%(release)s/build || exit 1
for own in %(own)s; do
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
    given: bool  # it has to be forced upon kbuild
    pahole: str  # its version, "" where it is not used
    clang: bool
    notes: Tuple[Tuple[str, str], ...]


class Built(NamedTuple):
    """The modules of a build, as they were judged by the kernel that they are for."""

    modules: Tuple[KernelModule, ...]
    verdicts: Tuple[Verdict, ...]
    files: Dict[str, bytes]


class BuildFailed(KmodError):
    """A source gives no build for this kernel, and would not the next time. ``lines`` are the first errors."""

    def __init__(self, what: str, why: str, code: str, lines: Sequence[str] = ()) -> None:
        super().__init__(
            what, why, "Read the log; mend the source, or get a version of it for this kernel", code
        )
        self.lines = list(lines)


# Before


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
        own=[each for each in own if os.path.lexists(headers.path(each)) or "scripts/" in each],
        release=headers.release,
    )
    for name in told.get("missing", []):
        raise KmodError(name, "is not installed on the build system", "Install it there", "TOOL_MISSING")
    cc = told.get("cc", [""])[0]
    wanted = _number(headers.option("CLANG_VERSION" if clang else "GCC_VERSION"))
    notes = _check_compiler(headers, cc, told.get("number", [""])[0], wanted, theirs=theirs)
    _check_own(headers, told)
    pahole = ""
    if headers.has_types:
        pahole, note = _pahole(told.get("pahole", [""])[0], headers.option("PAHOLE_VERSION"))
        notes += [note] if note else []
    return Tools(cc, told.get("version", [""])[0], cc != theirs, pahole, clang, tuple(notes))


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
    headers: Headers, cc: str, number: str, wanted: Tuple[int, ...], *, theirs: str
) -> List[Tuple[str, str]]:
    """A newer compiler than the kernel's does; an older one does not know the options that the kernel's
    configuration asks for.
    """
    text = headers.option("CC_VERSION_TEXT") or "an unknown compiler"
    if not cc:
        raise KmodError(
            headers.release,
            "was built with %s, and the build system has no compiler" % text,
            "Install %s there" % (theirs or "gcc"),
            "BUILD_COMPILER",
        )
    ours = _number(number)
    if not wanted or not ours or ours[0] == wanted[0]:
        return []
    if ours[0] < wanted[0]:
        raise KmodError(
            headers.release,
            "was built with %s, and the compiler here, %s %s, is older" % (text, cc, number),
            "Install %s, or build in a system that has it: give its root directory as root"
            % (theirs or "that one"),
            "BUILD_COMPILER",
        )
    return [("COMPILER_DIFFERS", "the kernel was built with %s, the module with %s %s" % (text, cc, number))]


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


# The build itself


def build(
    box: Box,
    headers: Headers,
    conf: Optional[DkmsConf],
    made_with: Tools,
    *,
    work: str,
    needed: Sequence[str],
    jobs: int,
    log: str,
) -> Built:
    """Build what lies at ``work``/build. ``needed`` are symvers files of drivers whose symbols it uses.

    Errors: BuildFailed.
    """
    name, version = (conf.name, conf.version) if conf else PLAIN
    above = "%s/%s/%s" % (dkms_conf.TREE, name, version)
    made = work + "/made"
    os.mkdir(made, 0o700)
    source.give(made, box.user)
    mounts = [*box.mounts, *dkms_conf.places(work + "/build", name, version)]
    mounts.append(Mount("%s/%s/%s/module" % (above, box.release, box.machine), made, writable=True))
    symbols = []
    for number, path in enumerate(needed):
        symbols.append("/run/needed/%d/%s" % (number, SYMVERS))
        mounts.append(Mount(symbols[-1], path))
    variables = {"CC": made_with.cc, "KERNEL_CC": made_with.cc}
    if made_with.clang:
        variables.update(LD="ld.lld", KERNEL_LD="ld.lld")
    if made_with.given:
        variables["MAKEFLAGS"] = " -- CC=" + made_with.cc
    if symbols:
        variables["KBUILD_EXTRA_SYMBOLS"] = " ".join(symbols)
    script = _script(box, conf, made_with, name=name, version=version, jobs=jobs)
    ran = run(box._replace(mounts=tuple(mounts)), ["/bin/bash", "-c", script], variables, log)
    if ran.exceeded:
        code = "BUILD_TIMEOUT" if ran.exceeded.startswith("time") else "BUILD_LIMIT"
        raise BuildFailed(
            name, "the build took more than its %s, and was ended" % ran.exceeded, code, _tail(log)
        )
    if ran.status:
        code, why = STATUS.get(ran.status, ("BUILD_FAILED", "the build ended with status %d" % ran.status))
        lines = errors(log, above + "/build/")
        raise BuildFailed(name, why + (": " + lines[0] if lines else ""), code, lines)
    return judged(made, headers, conf, needed_by(needed))


def _script(
    box: Box, conf: Optional[DkmsConf], made_with: Tools, *, name: str, version: str, jobs: int
) -> str:
    above = "%s/%s/%s" % (dkms_conf.TREE, name, version)
    plain = "make -C /lib/modules/%s/build M=%s/build" % (box.release, above)
    make = (conf.make if conf else "") or plain
    make += " LLVM=1" if made_with.clang else ""
    if not conf:
        make = make.replace("make", "make -j%d" % jobs, 1) + " modules"
    elif make.startswith("make"):  # sources rely on these words being put there, and on when they are not
        make = "make -j%d KERNELRELEASE=%s%s" % (jobs, box.release, make[4:])
    records = [record for record in conf.records if not record.excluded] if conf else []
    values = {
        "kernelver": box.release,
        "arch": box.machine,
        "module": name,
        "module_version": version,
        "make_command": make,
        "pre_build": conf.pre_build if conf else "",
        "post_build": conf.post_build if conf else "",
        "strip": "llvm-strip" if made_with.clang else "strip",
        "missing": "",
    }
    arrays = {
        "patches": conf.patches if conf else (),
        "built": [record.built for record in records],
        "names": [record.name for record in records],
        "strips": ["yes" if record.strip else "no" for record in records],
    }
    lines = ["%s=%s" % (key, shlex.quote(value)) for key, value in values.items()]
    lines += ["%s=(%s)" % (key, " ".join(map(shlex.quote, each))) for key, each in arrays.items()]
    return "\n".join(lines) + _SCRIPT % {
        "tree": dkms_conf.TREE,
        "sources": dkms_conf.SOURCES,
        "symvers": SYMVERS,
    }


def errors(log: str, below: str) -> List[str]:
    """The first lines of a log that say what is wrong, with paths from the source's root."""
    found: List[str] = []
    echoes: List[str] = []
    for line in said(log).decode("utf-8", "replace").splitlines():
        if _ERROR.search(line) and not line.startswith("### "):  # a step of ours, as its conf has it
            text = printable(line.replace(below, "").strip())[:300]
            into = echoes if _ECHO.match(line) else found
            if text not in into:
                into.append(text)
    return (found or echoes or _tail(log))[:ERRORS]


def _tail(log: str) -> List[str]:
    lines = said(log).decode("utf-8", "replace").split("\n")
    return [printable(line.strip())[:300] for line in lines if line.strip()][-ERRORS:]


# After


def needed_by(paths: Sequence[str]) -> List[KernelModule]:
    """The modules beside the symvers of drivers whose symbols are used."""
    return [
        ko.read(Host("/"), os.path.join(os.path.dirname(path), name))
        for path in paths
        for name in sorted(os.listdir(os.path.dirname(path)))
        if name.endswith(".ko")
    ]


def judged(made: str, headers: Headers, conf: Optional[DkmsConf], needed: Sequence[KernelModule]) -> Built:
    """What lies in a directory that the sandbox has written: nothing in there is believed.

    Errors: BUILD_MODULE_MISSING, BUILD_REFUSED.
    """
    files = _collected(made)
    symvers = files.pop(SYMVERS, b"")
    modules = [ko.parse(data, name) for name, data in files.items()]
    wanted = {record.name + ".ko" for record in conf.records if not record.excluded} if conf else set(files)
    missing = sorted(wanted - set(files))
    if missing or not modules:
        raise BuildFailed(
            headers.release,
            "%s is not there after the build" % (missing or ["no module"])[0],
            "BUILD_MODULE_MISSING",
        )
    twins = sorted(module.name for module in modules)
    for one, other in zip(twins, twins[1:]):
        if one == other:
            raise BuildFailed(headers.release, "two of its files are the module %s" % one, "BUILD_REFUSED")
    for module in modules:
        if module.built_for != headers.release:
            raise BuildFailed(
                module.path,
                "was built for %s, not for %s: its Makefile does not take the headers that it is given"
                % (module.built_for or "no kernel", headers.release),
                "BUILD_REFUSED",
            )
    verdicts = judge(kernel(headers), [*modules, *needed], OFFLINE)[: len(modules)]
    for verdict in verdicts:
        if verdict.verdict == INCOMPATIBLE:
            raise BuildFailed(
                verdict.name,
                "was built, but the kernel would refuse it (%s): %s" % (verdict.errno, verdict.short),
                "BUILD_REFUSED",
            )
    return Built(tuple(modules), tuple(verdicts), dict(files, **_symvers(symvers, modules)))


def _collected(made: str) -> Dict[str, bytes]:
    files: Dict[str, bytes] = {}
    try:
        found = sorted(os.scandir(made), key=lambda entry: entry.name)
    except OSError as error:
        raise from_oserror(made, error, "list the directory") from None
    for entry in found:
        if entry.is_file(follow_symlinks=False) and (
            entry.name == SYMVERS or names.is_stored_module(entry.name)
        ):
            files[entry.name] = Host("/").read(entry.path, MODULE)
    return files


def _symvers(data: bytes, modules: Sequence[KernelModule]) -> Dict[str, bytes]:
    """The symbols that these modules give to others, as kbuild has listed them."""
    given = {
        export.name.encode("utf-8", "surrogateescape") for module in modules for export in module.exports
    }
    lines = [
        line for line in data.splitlines(True) if line.split(b"\t")[1:2] and line.split(b"\t")[1] in given
    ]
    return {SYMVERS: b"".join(lines)} if lines else {}


def needs(built: Built) -> Dict[str, Any]:
    """What this source needs of a kernel, by this build, for ``judge/predict``."""
    told: Dict[str, Any] = json.loads(json.dumps(predict.needs(built.modules).as_dict()))
    return told


def versions(built: Built) -> Dict[str, str]:
    """The symbols that it was built against, with their CRCs."""
    return {
        version.name: "0x%08x" % version.crc
        for module in built.modules
        for version in (module.versions or ()) + (module.ext_versions or ())
    }
