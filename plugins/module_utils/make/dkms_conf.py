# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a dkms.conf says, as dkms 3.4 takes it (``dkms.in: safe_source, read_conf, read_conf_strict``).

The file is a bash script, so it is bash that reads it, in the sandbox; what comes out are the values of the
known keys. dkms evaluates each value a second time, as text between double quotes, where variables of the
file's own are gone: so does this. A key that would be ignored is an error that names it, unless it is said
that it may be.
"""

import os
import re
import shlex
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from . import sandbox
from .sandbox import Box, Mount, run

TREE = "/var/lib/dkms"  # dkms_tree
OVERLAY = "/etc/dkms"  # of a driver: what is laid over its patches, and runs in place of its scripts
SOURCES = "/usr/src"  # source_tree
ANSWERS = "answers"  # what the script tells, in the sandbox's /tmp
LIMIT = 4 << 20  # bytes of that

# Scripts that dkms runs where and when a driver is added, installed or removed: no part of a build.
HOOKS = ("POST_ADD", "PRE_INSTALL", "POST_INSTALL", "POST_REMOVE")
NAMES = ("PACKAGE_NAME", "PACKAGE_VERSION")
ARRAYS = ("BUILT_MODULE_NAME", "BUILT_MODULE_LOCATION", "DEST_MODULE_NAME", "DEST_MODULE_LOCATION")
MATCHED = ("MAKE_MATCH", "PATCH_MATCH", "BUILD_EXCLUSIVE_KERNEL", "BUILD_EXCLUSIVE_ARCH")
# In dkms' order (``dkms_conf_variables``): a value may name a key that was evaluated before it.
KNOWN = (
    *NAMES,
    "POST_ADD",
    "POST_BUILD",
    "POST_INSTALL",
    "POST_REMOVE",
    "PRE_BUILD",
    "PRE_INSTALL",
    "BUILD_DEPENDS",
    "BUILD_EXCLUSIVE_ARCH",
    "BUILD_EXCLUSIVE_CONFIG",
    "BUILD_EXCLUSIVE_KERNEL",
    "BUILD_EXCLUSIVE_KERNEL_MIN",
    "BUILD_EXCLUSIVE_KERNEL_MAX",
    "MAKE",
    "MAKE_MATCH",
    "PATCH",
    "PATCH_MATCH",
    *ARRAYS,
    "STRIP",
    "AUTOINSTALL",
    "NO_WEAK_MODULES",
    "BUILD_DEPENDS_REBUILD",
    "OBSOLETE_BY",
    "CLEAN",
    "REMAKE_INITRD",
    "MODULES_CONF",
    "MODULES_CONF_OBSOLETES",
    "MODULES_CONF_ALIAS_TYPE",
    "MODULES_CONF_OBSOLETE_ONLY",
)
YES_OR_NO = ("AUTOINSTALL", "BUILD_DEPENDS_REBUILD", "NO_WEAK_MODULES")
# A key of one of these families that is not known is a newer dkms', or a slip. DKMS_DIRECTIVE... sets others.
_FAMILIES = (
    "BUILD_EXCLUSIVE_",
    "BUILT_MODULE_",
    "DEST_MODULE_",
    "BUILD_DEPENDS_",
    "DKMS_DIRECTIVE",
    "MODULES_CONF_",
    "POST_",
    "PRE_",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~:@-]*", re.ASCII)

_READ = r"""
__tell() {
    local -n __ref
    local __name __index
    for __name in %(known)s; do
        unset -n __ref
        local -n __ref=$__name
        for __index in "${!__ref[@]}"; do
            printf '%%s\0%%s\0%%s\0' "$__name" "$__index" "${__ref[$__index]%%$'\r'}"
        done
    done
    unset -n __ref
    for __name in %(families)s; do printf '?\0%%s\0\0' "$__name"; done
}
kernelver=$1 arch=$2 module=$3 module_version=$4
shift 4
kernel_source_dir=/lib/modules/$kernelver/build
kernel_config=$kernel_source_dir/.config
[[ -e $kernel_source_dir/include/config/auto.conf ]] && kernel_config=$kernel_source_dir/include/config/auto.conf
dkms_tree=%(tree)s source_tree=%(sources)s install_tree=/lib/modules
unset %(known)s
set -f
for __conf; do
    (set +f; exec 3>/tmp/raw; . "$__conf" >&2; __tell >&3) || :  # where set -e has no effect, as in dkms
    while IFS= read -r -d '' __name && IFS= read -r -d '' __index && IFS= read -r -d '' __value; do
        if [[ $__name == '?' ]]; then
            printf '?\0%%s\0\0' "$__index"
            continue
        fi
        __words=($__value)
        __words=${__words[*]}
        [[ $__value == [[:space:]]* ]] && __words=" $__words"  # as dkms' echo has it: then it begins with no "make"
        [[ $__value == *[![:space:]]*[[:space:]] ]] && __words+=" "
        eval "$__name[$__index]=\"$__words\"" || printf '!\0%%s\0%%s\0' "$__name" "$__value"
    done < /tmp/raw >> /tmp/%(answers)s
done
{
    __tell
    for __name in %(matched)s; do
        unset -n __ref
        declare -n __ref=$__name
        for __index in "${!__ref[@]}"; do
            [[ $__name == BUILD_EXCLUSIVE_ARCH ]] && __value=$arch || __value=$kernelver
            [[ $__value =~ ${__ref[$__index]} ]] && printf '=\0%%s\0%%s\0' "$__name" "$__index"
        done
    done
    printf '.\0\0\0'
} >> /tmp/%(answers)s
"""


class Record(NamedTuple):
    """A module that is to be built. ``built`` is its file below the source's root, without .ko, and ``name``
    what it is called afterwards.
    """

    built: str
    name: str
    strip: bool
    excluded: str  # why it is not for this kernel, "" if it is


class DkmsConf(NamedTuple):
    """``values`` are all keys, by name and index: commands are evaluated where they are set."""

    name: str
    version: str
    records: Tuple[Record, ...]
    make: str  # "" for dkms' own
    patches: Tuple[str, ...]
    pre_build: str
    post_build: str
    depends: Tuple[str, ...]
    own_kernel_only: bool  # not to be used with other kernels than the one that it is built for
    values: Dict[str, Dict[int, str]]

    @property
    def excluded(self) -> str:
        """Why nothing is built for this kernel, "" where something is."""
        if self.records and all(record.excluded for record in self.records):
            return self.records[0].excluded
        return ""


def read(
    box: Box, source: str, overrides: Sequence[str], config: Dict[str, str], *, ignore: Sequence[str] = ()
) -> DkmsConf:
    """What the dkms.conf of a source that lies at ``source`` says of the kernel of the box, with overrides
    (files) read after it. ``config`` is that of the kernel.

    Errors: DKMS_CONF for one that dkms refuses or that cannot be read; DKMS_KEY for a key that is not
    honoured, and is none of those to ``ignore``.
    """
    names = ("source", "0")
    for _pass in range(2):  # its own name and version are known only once it was read, and are in scope then
        said, values, matched = _sourced(box, source, overrides, names, ignore=ignore)
        names = (values.get(NAMES[0], {}).get(0, ""), values.get(NAMES[1], {}).get(0, ""))
        for key, value in zip(NAMES, names):
            if not _NAME.fullmatch(value):
                raise _bad(
                    "%s is %s" % (key, "%r, which cannot be a name" % value if value else "not set"), said
                )
    return _made(values, matched, box=box, config=config)


Values = Dict[str, Dict[int, str]]  # by key and index


def _sourced(
    box: Box, source: str, overrides: Sequence[str], names: Tuple[str, ...], *, ignore: Sequence[str]
) -> Tuple[str, Values, List[Tuple[str, int]]]:
    build = "%s/%s/%s/build" % (TREE, names[0], names[1])
    mounts = [*box.mounts, *places(source, names[0], names[1])]
    files = []
    for number, path in enumerate(overrides):
        files.append("/run/overrides/%d" % number)
        mounts.append(Mount(files[-1], path))
    script = _READ % {
        "known": " ".join(KNOWN),
        "families": " ".join("${!%s@}" % family for family in _FAMILIES),
        "matched": " ".join(MATCHED),
        "tree": TREE,
        "sources": SOURCES,
        "answers": ANSWERS,
    }
    answers = "%s/tmp/%s" % (box.work, ANSWERS)
    if os.path.lexists(answers):
        os.unlink(answers)
    module = names if names[0] != "source" else ("", "")
    argv = ["/bin/bash", "-c", "cd %s; %s" % (shlex.quote(build), script), "bash", box.release, box.machine]
    log = box.work + "/said"
    ran = run(
        box._replace(mounts=tuple(mounts), limits=box.limits._replace(seconds=min(60, box.limits.seconds))),
        [*argv, *module, build + "/dkms.conf", *files],
        {},
        log,
    )
    said = sandbox.said(log).decode("utf-8", "replace")
    os.unlink(log)
    if ran.exceeded:
        raise _bad("reading it took more than its %s" % ran.exceeded, said)
    if os.path.islink(answers) or not os.path.isfile(answers):
        raise _bad("it cannot be read", said)
    fields = Host("/").read(answers, LIMIT).decode("utf-8", "surrogateescape").split("\0")
    rows = list(zip(fields[0::3], fields[1::3], fields[2::3]))
    if not rows or rows[-1][0] != ".":
        raise _bad("it ends bash, or what it says is not to be understood", said)
    return (said, *_values(rows, ignore, said=said))


def _values(
    rows: Sequence[Tuple[str, str, str]], ignore: Sequence[str], *, said: str
) -> Tuple[Values, List[Tuple[str, int]]]:
    values: Values = {}
    matched = []
    for kind, name, value in rows:
        if kind == "!":
            raise _bad("the value of %s is not to be understood: %s" % (name, value), said)
        if kind == "?" and name not in KNOWN and name not in ignore:
            raise _not_honoured(name, "is not known")
        if kind == "=":
            matched.append((name, int(value)))
        if kind in KNOWN:
            if not name.isdigit():
                raise _bad("%s has the index %r" % (kind, name), said)
            values.setdefault(kind, {})[int(name)] = value
    for name in HOOKS:
        if any(values.get(name, {}).values()) and name not in ignore:
            raise _not_honoured(
                name, "is run where the driver is added, installed or removed, which a build does not do"
            )
    return values, matched


def places(source: str, name: str, version: str) -> List[Mount]:
    """Where a source is seen, as dkms has it."""
    above = "%s/%s/%s" % (TREE, name, version)
    return [
        Mount(above + "/build", source, writable=True),
        Mount(above + "/source", link=above + "/build"),
        Mount("%s/%s-%s" % (SOURCES, name, version), link=above + "/build"),
    ]


def built(name: str, version: str, box: Box) -> str:
    """Where dkms keeps the modules of a build for the kernel of the box, and its Module.symvers."""
    return "%s/%s/%s/%s/%s/module" % (TREE, name, version, box.release, box.machine)


def _made(
    values: Values, matched: Sequence[Tuple[str, int]], *, box: Box, config: Dict[str, str]
) -> DkmsConf:
    def option(key: str, index: int = 0) -> str:
        return values.get(key, {}).get(index, "")

    name, version = option("PACKAGE_NAME"), option("PACKAGE_VERSION")
    count = 1 + max(
        [
            -1,
            *(index for key in ARRAYS for index in values.get(key, {})),
        ]
    )
    words = {key: _yes(key, option(key)) for key in YES_OR_NO}
    exclusive = _Exclusive(values, matched, box=box, config=config, count=count)
    records = []
    for index in range(count):
        built = option("BUILT_MODULE_NAME", index) or (name if count == 1 else "")
        called = option("DEST_MODULE_NAME", index) or built
        _check_record(index, built, called, option("DEST_MODULE_LOCATION", index))
        location = option("BUILT_MODULE_LOCATION", index)
        location += "/" if location and not location.endswith("/") else ""
        strip = option("STRIP", index) or option("STRIP") or "yes"
        records.append(Record(location + built, called, strip[0] not in "nN", exclusive.why_not(index)))
    if not records:
        raise _bad("it names no module: nothing would come of it", "")
    for what in ([record.built for record in records], [record.name for record in records]):
        twice = next((each for each in what if what.count(each) > 1), None)
        if twice:
            raise _bad("it names the module %s twice" % twice, "")
    make = "" if option("MAKE_MATCH") else option("MAKE")
    for index, command in sorted(values.get("MAKE", {}).items()):
        if command and ("MAKE_MATCH", index) in matched and option("MAKE_MATCH", index):
            make = command
    patches = [
        patch
        for index, patch in sorted(values.get("PATCH", {}).items())
        if patch and (not option("PATCH_MATCH", index) or ("PATCH_MATCH", index) in matched)
    ]
    return DkmsConf(
        name,
        version,
        tuple(records),
        make,
        tuple(patches),
        option("PRE_BUILD"),
        option("POST_BUILD"),
        tuple(each for _index, each in sorted(values.get("BUILD_DEPENDS", {}).items()) if each),
        words["NO_WEAK_MODULES"],
        values,
    )


def _check_record(index: int, built: str, called: str, location: str) -> None:
    for key, value in (("BUILT_MODULE_NAME", built), ("DEST_MODULE_NAME", called)):
        if not value:
            raise _bad("%s[%d] is not set" % (key, index), "")
        if value.endswith((".o", ".ko")):
            raise _bad("%s[%d] ends in .o or .ko" % (key, index), "")
    if "/" in called:  # the one that is built may be one
        raise _bad("DEST_MODULE_NAME[%d] is a path" % index, "")
    if not location.startswith(("/kernel", "/updates", "/extra")):
        raise _bad("DEST_MODULE_LOCATION[%d] does not begin with /kernel, /updates or /extra" % index, "")


def _yes(key: str, value: str) -> bool:
    if value.lower() not in ("", "yes", "no"):
        raise _bad("%s is %r, neither yes nor no" % (key, value), "")
    return value.lower() == "yes"


class _Exclusive:
    """Which kernels modules are for (``dkms.in: check_build_exclusive_for_module``): what has no index, or 0,
    binds all of them.
    """

    def __init__(
        self,
        values: Values,
        matched: Sequence[Tuple[str, int]],
        *,
        box: Box,
        config: Dict[str, str],
        count: int,
    ) -> None:
        self.values = values
        self.matched = matched
        self.box = box
        self.config = config
        greatest = values.get("BUILD_EXCLUSIVE_KERNEL_MAX", {})
        obsolete = values.get("OBSOLETE_BY", {}).get(0, "")
        if obsolete and not any(greatest.get(index) for index in range(max(count, 1))):
            values["BUILD_EXCLUSIVE_KERNEL_MAX"] = {0: obsolete}

    def why_not(self, index: int) -> str:
        for each in sorted({0, index}):
            for key, fits in (
                ("BUILD_EXCLUSIVE_KERNEL", self._matches),
                ("BUILD_EXCLUSIVE_KERNEL_MIN", self._new_enough),
                ("BUILD_EXCLUSIVE_KERNEL_MAX", self._old_enough),
                ("BUILD_EXCLUSIVE_ARCH", self._matches),
                ("BUILD_EXCLUSIVE_CONFIG", self._configured),
            ):
                value = self.values.get(key, {}).get(each, "")
                if value and not fits(key, each, value):
                    return "%s: %s" % (key, value)
        return ""

    def _matches(self, key: str, index: int, _value: str) -> bool:
        return (key, index) in self.matched

    def _new_enough(self, _key: str, _index: int, value: str) -> bool:
        return _padded(self.box.release) >= _padded(value)

    def _old_enough(self, _key: str, _index: int, value: str) -> bool:
        return _padded(self.box.release) <= _padded(value)

    def _configured(self, _key: str, _index: int, value: str) -> bool:
        return all(
            (self.config.get(word.lstrip("!")) in ("y", "m")) != word.startswith("!")
            for word in value.split()
        )


def _padded(version: str) -> str:
    """As dkms orders versions: numbers by their value, and of two of which one begins with the other the
    longer is greater. (Its numbers have three digits at most.)
    """
    return re.sub(r"\d+", lambda number: number.group().zfill(20), version.replace(" ", ""))


def _bad(why: str, said: str) -> KmodError:
    last = " (%s)" % said.strip().splitlines()[-1][:200] if said.strip() else ""
    return KmodError(
        "dkms.conf", why + last, "Mend it, or give overrides: dkms would not take it either", "DKMS_CONF"
    )


def _not_honoured(name: str, why: str) -> KmodError:
    return KmodError(
        "dkms.conf",
        "sets %s, which %s" % (name, why),
        "See to what it does, and name it in ignore",
        "DKMS_KEY",
    )
