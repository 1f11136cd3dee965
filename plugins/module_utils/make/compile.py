# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From source to .ko, in the order in which dkms does it: patches, PRE_BUILD, MAKE, is every module there,
strip, POST_BUILD (``dkms.in: do_build``).

What comes out is looked at from outside: are these modules for this kernel, and would it take them.
"""

import json
import os
import shlex
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError, from_oserror
from ..host import Host
from ..judge import predict
from ..judge.loader import judge
from ..judge.verdict import INCOMPATIBLE, Verdict
from ..read import ko, names
from ..read.kernel_module import KernelModule
from ..read.runtime import OFFLINE
from . import build_log, dkms_conf, source
from .dkms_conf import DkmsConf
from .headers import Headers, kernel
from .sandbox import Box, Mount, run
from .toolchain import Tools

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
_SCRIPT = r"""
shopt -s extglob
kernel_source_dir=/lib/modules/$kernelver/build
dkms_tree=%(tree)s source_tree=%(sources)s install_tree=/lib/modules
build=$dkms_tree/$module/$module_version/build
made=$dkms_tree/$module/$module_version/$kernelver/$arch/module
overlay=%(overlay)s/$module
say() { printf '\n### %%s\n' "$1"; }
hook() {
    local where=$build
    [[ ! -x $overlay/${1%%%% *} ]] || where=$overlay
    if [[ ! -x $where/${1%%%% *} ]]; then say "$1 is not executable: not run"; return; fi
    say "$1"
    (eval "cd $where/ && $where/$1")
}
cd "$build" || exit 15
if [[ -d $overlay/patches ]]; then mkdir -p patches && cp -R "$overlay/patches/." patches/ || exit 5; fi
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
find . -name %(symvers)s -type f -exec cat {} + | LC_ALL=C sort -u > "$made/%(symvers)s"
[[ ! $post_build ]] || hook "$post_build" || exit 9
exit 0
"""


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


# The build itself


def build(
    box: Box,
    headers: Headers,
    conf: Optional[DkmsConf],
    made_with: Tools,
    *,
    work: str,
    needed: Sequence[Mount],
    jobs: int,
    log: str,
) -> Built:
    """Build what lies at ``work``/build. ``needed`` are builds of drivers whose symbols it uses.

    Errors: BuildFailed.
    """
    name, version = (conf.name, conf.version) if conf else PLAIN
    above = "%s/%s/%s" % (dkms_conf.TREE, name, version)
    made = work + "/made"
    os.mkdir(made, 0o700)
    source.give(made, box.user)
    mounts = [*box.mounts, *dkms_conf.places(work + "/build", name, version)]
    mounts.append(Mount(dkms_conf.built(name, version, box), made, writable=True))
    mounts += needed
    symbols = [
        "%s/%s" % (each.place, SYMVERS) for each in needed if os.path.exists("%s/%s" % (each.source, SYMVERS))
    ]
    variables = {"CC": made_with.cc, "KERNEL_CC": made_with.cc}
    if headers.option("LD_IS_LLD"):
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
            name, "the build took more than its %s, and was ended" % ran.exceeded, code, build_log.last(log)
        )
    if ran.status:
        short = build_log.limit(log)
        if short:
            raise BuildFailed(
                name, "the build took more than its %s" % short, "BUILD_LIMIT", build_log.last(log)
            )
        code, why = STATUS.get(ran.status, ("BUILD_FAILED", "the build ended with status %d" % ran.status))
        lines = build_log.errors(log, above + "/build/")
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
    lines = ["%s[%d]=%s" % (key, index, shlex.quote(value)) for key, index, value in _keys(conf)]
    lines += ["%s=%s" % (key, shlex.quote(value)) for key, value in values.items()]
    lines += ["%s=(%s)" % (key, " ".join(map(shlex.quote, each))) for key, each in arrays.items()]
    return "\n".join(lines) + _SCRIPT % {
        "tree": dkms_conf.TREE,
        "sources": dkms_conf.SOURCES,
        "overlay": dkms_conf.OVERLAY,
        "symvers": SYMVERS,
    }


def _keys(conf: Optional[DkmsConf]) -> Iterator[Tuple[str, int, str]]:
    for key, of_index in (conf.values if conf else {}).items():
        for index, value in of_index.items():
            yield key, index, value


# After


def needed_by(builds: Sequence[Mount]) -> List[KernelModule]:
    return [
        ko.read(Host("/"), os.path.join(each.source, name))
        for each in builds
        for name in sorted(os.listdir(each.source))
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
