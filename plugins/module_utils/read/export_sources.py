# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that a kernel and its modules export, from the best source at hand.

A symvers is believed only if in-tree modules of the same kernel agree with it: many are left over from
another build. Without one the boot image and the in-tree modules themselves are read, which takes a second or
more and is therefore cached.
"""

import hashlib
import os
import stat
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from .. import compression
from ..errors import KmodError, SystemFailed, from_oserror
from ..host import Host
from . import cache, depmod, ko
from .exports import VMLINUX, Export, Exports, read_symvers

# in-tree modules that a source is checked against: some 200 symbols. Of another build's CRCs three in four
# differ.
SAMPLE = 12

# Errors that are the file's own. Any other is of this machine (no libzstd, no permission): then nothing is
# known, not "it exports nothing".
DAMAGE = ("COMP_CORRUPT", "COMP_LIMIT", "FILE_NOT_REGULAR", "FILE_TOO_LARGE", "PATH_MISSING", "PATH_LOOP")


class Note(NamedTuple):
    code: str
    message: str


class SourcedExports(NamedTuple):
    """The exports by symbol, the file that those of vmlinux were read from (None: from nowhere), and what is
    to be said about it.

    ``absent``: by symbol the module of the kernel's own that would export it, and is not installed.
    """

    exports: Mapping[str, Export]
    origin: Optional[str]
    notes: Tuple[Note, ...]
    absent: Dict[str, str] = {}


def read(
    host: Host, modules_dir: str, modules: Dict[str, str], *, symvers: Optional[str], image: Optional[str]
) -> SourcedExports:
    """What the kernel with its ``modules`` (``depmod.chosen``) in ``modules_dir`` exports to a module that
    modprobe loads into it.

    Notes: KERNEL_SYMVERS_STALE, KERNEL_IMAGE_MISMATCH, or what reading the file failed with, for what was not
    believed; KERNEL_NO_CRC_SOURCE where nothing is left.
    """
    own = depmod.in_tree(modules, modules_dir)
    notes: List[Note] = []
    for origin in (symvers, image):
        if origin is None:
            continue
        try:
            exports = (
                read_symvers(host, origin)
                if origin == symvers
                else _from_image(host, origin, modules_dir, own=own)
            )
            wrong = disagreement(host, exports, own)
            if wrong is None:
                absent = exports.of(exports.owners - modules.keys() - {VMLINUX}) if modules else {}
                if modules:  # else it has none that could be looked at
                    _as_loaded(host, modules_dir, exports, modules=modules, own=own)
                return SourcedExports(exports, origin, tuple(notes), absent=absent)
        except SystemFailed:
            raise
        except KmodError as error:
            notes.append(Note(error.code, str(error)))
            continue
        notes.append(
            Note(
                "KERNEL_SYMVERS_STALE" if origin == symvers else "KERNEL_IMAGE_MISMATCH",
                "%s is of another build: %s" % (origin, wrong),
            )
        )
    notes.append(
        Note(
            "KERNEL_NO_CRC_SOURCE",
            "no symvers and no readable kernel image for %s" % os.path.basename(modules_dir),
        )
    )
    return SourcedExports({}, None, tuple(notes))


def disagreement(host: Host, exports: Mapping[str, Export], own: Dict[str, str]) -> Optional[str]:
    """The first symbol of a sample of in-tree modules that these exports lack or have another CRC for, in
    words.
    """
    for name in _sample(host, own):
        try:
            module = ko.brief(compression.decompress(host.read(own[name]), own[name]), own[name])
        except KmodError as error:
            if error.code in DAMAGE:
                continue
            raise
        if module.info("intree") is None:  # a vendor's, written over the kernel's own: it need not even fit
            continue
        for symbol, crc in module.versions or module.ext_versions or ():
            export = exports.get(symbol.lstrip("."))  # ppc64
            if export is None:
                return "in-tree module %s needs %s, which is not in it" % (name, symbol)
            if export.crc is not None and export.crc != crc:
                return "in-tree module %s has %s with CRC 0x%08x, it says 0x%08x" % (
                    name,
                    symbol,
                    crc,
                    export.crc,
                )
    return None


def _sample(host: Host, own: Dict[str, str]) -> Iterator[str]:
    """Names of modules from all over the kernel, the smallest of three each time: they are unpacked for this."""
    names = sorted(own)
    step = max(1, len(names) // SAMPLE)
    real: Dict[str, str] = {}
    for start in range(0, min(len(names), step * SAMPLE), step):
        sizes = {name: _status(host, own[name], real) for name in names[start : start + step : -(-step // 3)]}
        found = {name: status.st_size for name, status in sizes.items() if status}
        yield min(found or sizes, key=lambda name: found.get(name, 0))


def _from_image(host: Host, path: str, modules_dir: str, *, own: Dict[str, str]) -> Exports:
    """The image's exports and those of all in-tree modules; by the cache where none of these files has
    changed.
    """
    release = os.path.basename(modules_dir)
    key = fingerprint(host, [path] + sorted(own.values()))
    kept = cache.load(host, release, key)
    if kept is None:
        from . import kernel_image

        found = dict(_of_modules(host, _exporting(host, modules_dir, own)))
        found.update(kernel_image.exports(kernel_image.of(host, path), path))
        cache.store(host, release, key, exports=found)
        kept = Exports.made(found)
    return kept


def fingerprint(host: Host, paths: List[str]) -> str:
    """A digest of the paths, sizes, times and inodes of files."""
    digest = hashlib.sha256()
    real: Dict[str, str] = {}
    for path in paths:
        status = _status(host, path, real)
        if status is None:  # listed in modules.dep and gone since
            continue
        digest.update(
            ("%s\0%d\0%d\0%d\n" % (path, status.st_size, status.st_mtime_ns, status.st_ino)).encode(
                "utf-8", "surrogateescape"
            )
        )
    return digest.hexdigest()


def _status(host: Host, path: str, real: Dict[str, str]) -> Optional[os.stat_result]:
    """``Host.stat`` of one of many files; ``real`` has the directories that are known by now."""
    directory, _slash, name = path.rpartition("/")
    try:
        status = host.entry(_real(host, directory, real) + "/" + name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise from_oserror(path, error, "look at it") from None
    return (host.stat(path) or status) if stat.S_ISLNK(status.st_mode) else status


def _real(host: Host, directory: str, known: Dict[str, str]) -> str:
    """``Host.real`` of one of hundreds of directories, by the one above it: resolving each of them anew would
    take longer than all the rest. Errors: OSError.
    """
    if directory not in known:
        above, _slash, name = directory.rpartition("/")
        found = _real(host, above, known) + "/" + name if above else ""
        if not found or not stat.S_ISDIR(host.entry(found).st_mode):
            found = host.real(directory)
        known[directory] = found
    return known[directory]


def _exporting(host: Host, modules_dir: str, own: Dict[str, str]) -> List[Tuple[str, str]]:
    """The in-tree modules that export something: by ``modules.symbols`` where depmod has run (a third of
    them), else all.
    """
    named = set(_by_symbol(host, modules_dir).values())
    return [(name, path) for name, path in sorted(own.items()) if not named or name in named]


def _as_loaded(
    host: Host, modules_dir: str, exports: Exports, *, modules: Dict[str, str], own: Dict[str, str]
) -> None:
    """With the modules as depmod picks them: what a symvers has of modules that are not installed or are
    shadowed (updates/) does not count, and what is installed beside the in-tree ones does.
    """
    exports.drop(exports.owners - own.keys() - {VMLINUX})
    beside = _of_modules(host, sorted((name, path) for name, path in modules.items() if name not in own))
    preferred: Optional[Dict[str, str]] = None
    for symbol, export in beside:
        there = exports.get(symbol)
        if there is not None and there.owner == VMLINUX:  # find_symbol looks there first
            continue
        # depmod lets the one win that it meets last, in no order of names
        if there is not None and there.owner not in own:
            preferred = _by_symbol(host, modules_dir) if preferred is None else preferred
            if preferred.get(symbol, export.owner) != export.owner:
                continue
        exports.put(symbol, export)


def _by_symbol(host: Host, modules_dir: str) -> Dict[str, str]:
    """The module that depmod found each symbol in, by ``modules.symbols``; nothing where it has not run."""
    index = modules_dir + "/modules.symbols"
    lines = host.read_text(index, limit=64 << 20).splitlines() if host.is_file(index) else []
    words = [line.split() for line in lines if line.startswith("alias symbol:")]
    return {each[1][len("symbol:") :]: each[2] for each in words if len(each) == 3}


def _of_modules(host: Host, modules: List[Tuple[str, str]]) -> Iterator[Tuple[str, Export]]:
    """The exports of (name, path) modules.

    A damaged file exports nothing: the kernel could not load it either.
    """
    for name, path in modules:
        try:
            data = compression.decompress(host.read(path), path)
            exported = ko.exports(data, path) if b"__ksymtab" in data else []
        except KmodError as error:
            if error.code in DAMAGE:
                continue
            raise
        for each in exported:
            yield each.name, Export(each.crc, each.gpl, each.namespace, name)
