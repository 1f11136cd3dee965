# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The variants that are on a host: which they are, what state they are in, and what a boot entry loads of
them.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError, SystemFailed
from ...host import Host
from ...read import names
from ...read.kernels import version_key
from .. import depmod
from . import image, manifest, witness
from .manifest import NUMBERED, Variant, Wants


def found(host: Host) -> List[Variant]:
    """The variants of ours on the host, in the order of their paths; also what is left of one, if it bears a
    mark (see witness).
    """
    paths: List[str] = []
    for directory in image.directories(host):
        paths += _numbered(host, directory)
    variants = (_ours(host, path) for path in paths)
    return [variant for variant in variants if variant]


def _numbered(host: Host, directory: str) -> List[str]:
    paths = [directory + "/" + name for name in host.listdir(directory) if NUMBERED.match(name)]
    return [path for path in paths if host.is_file(path) and not host.is_link(path)]


def _ours(host: Host, path: str) -> Optional[Variant]:
    variant = manifest.find(host, path)
    mark = None if variant else witness.find(host, path)
    return witness.remains(host, path, mark) if mark else variant


def marks_alone(host: Host) -> List[Tuple[str, witness.Mark]]:
    """The marks beside which no variant lies: none at all any more, or yet, or somebody else's file."""
    marks: List[Tuple[str, witness.Mark]] = []
    for directory in image.directories(host):
        marks += witness.all_in(host, directory)
    return [
        (path, mark)
        for path, mark in marks
        if host.is_link(path) or not host.is_file(path) or not _ours(host, path)
    ]


def holding(host: Host, drivers: Sequence[str]) -> List[Variant]:
    """The variants that hold any of the drivers."""
    return [variant for variant in found(host) if set(drivers) & set(variant.wants.drivers)]


def started(
    host: Host, drivers: Sequence[str], kernels: Sequence[str] = (), *, each: bool = False
) -> Dict[str, Variant]:
    """What a boot entry starts for each kernel that has a variant with the drivers, or with some of them
    (``each``), or for each of the named kernels; oldest kernel first. Error: VARIANT_MISSING.
    """
    if each:
        found = of_each(host, drivers)
    else:  # one with these drivers alone comes last
        of_all = [one for one in holding(host, drivers) if set(drivers) <= set(one.wants.drivers)]
        found = {one.wants.kernel: one for one in sorted(of_all, key=lambda one: -len(one.wants.drivers))}
    for release in kernels:
        if release not in found:
            raise KmodError(
                release,
                "has no initramfs variant with %s" % ", ".join(drivers),
                "Make it first: outoftree.kmod.initrd_variant",
                "VARIANT_MISSING",
            )
    chosen = sorted(set(found) & set(kernels or found), key=version_key)
    return {release: found[release] for release in chosen}


def of_each(host: Host, drivers: Sequence[str]) -> Dict[str, Variant]:
    """For each kernel the one of its variants with any of the drivers that is to be started: that with those
    which it has modules of, else that with the most of them.
    """
    of: Dict[str, List[Variant]] = {}
    for each in holding(host, drivers):
        of.setdefault(each.wants.kernel, []).append(each)
    return {release: _best(host, release, drivers, of[release]) for release in of}


def _best(host: Host, release: str, drivers: Sequence[str], there: Sequence[Variant]) -> Variant:
    if len(there) == 1:
        return there[0]
    its = drivers_of(host, release, drivers)
    most = sorted(
        there, key=lambda each: (len(set(each.wants.drivers) - set(drivers)), -len(each.wants.drivers))
    )
    return next((each for each in there if tuple(sorted(each.wants.drivers)) == its), most[0])


def loaded(path: str, base: str, method: str) -> Tuple[str, ...]:
    """The images that a boot entry loads for a variant, in that order."""
    return (base, path) if method == "segment" else (path,)


def verified(host: Host, release: str, images: Sequence[str]) -> Tuple[str, ...]:
    """The sha256 of each image that is to be started for a kernel, all of which are whole just now: a variant
    by the digests in its manifest, any other image by unpacking it. Each file is read once. Error:
    VARIANT_DAMAGED."""
    return tuple(_verified(host, release, path) for path in images)


def _verified(host: Host, release: str, path: str) -> str:
    ours = _ours(host, path)
    why = "is not what was written: it was changed, or cut off"
    try:
        if ours is None:
            return image.read(host, path).sha256
        if ours.wants.kernel != release:
            why = "is a variant for %s, not for %s" % (ours.wants.kernel, release)
        else:
            sha256 = manifest.checked(host, ours)
            if sha256:
                return sha256
    except SystemFailed:
        raise
    except KmodError as error:
        why = "is not a whole initramfs image: %s" % error.why
    raise KmodError(
        path,
        why,
        "Make it again (outoftree.kmod.initrd_variant); until then boot: shipped restores the old default",
        "VARIANT_DAMAGED",
    )


class Seen(NamedTuple):
    """A variant on the host and its state."""

    path: str
    kernel: str
    drivers: Tuple[str, ...]
    method: str
    size: int
    state: str  # see overview

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), drivers=list(self.drivers))


def overview(host: Host) -> List[Seen]:
    """Each variant on the host, and its state, in the order of their paths.

    current, stale (the shipped image is another one by now), damaged, gone (the kernel is), or foreign: by
    the mark there was one, and it is somebody else's file that lies there now.
    """
    seen = [
        _seen(each.path, each.wants, each.method, size=each.size, state=state(host, each))
        for each in found(host)
    ]
    for path, mark in marks_alone(host):
        status = host.lstat(path)
        if status is not None:
            seen.append(_seen(path, mark.wants, mark.method, size=status.st_size, state="foreign"))
    return sorted(seen, key=lambda each: each.path)


def _seen(path: str, wants: Wants, method: str, *, size: int, state: str) -> Seen:
    return Seen(path, wants.kernel, wants.drivers, method=method, size=size, state=state)


def state(host: Host, variant: Variant) -> str:
    if gone(host, variant):
        return "gone"
    if not manifest.checked(host, variant):
        return "damaged"
    return "stale" if stale(host, variant) else "current"


def stale(host: Host, variant: Variant) -> bool:
    """Whether the shipped image is another one by now than that which a variant was made of."""
    return (
        not host.is_file(variant.base) or image.checksum(host, variant.base)[1] != variant.wants.base.sha256
    )


def gone(host: Host, variant: Variant) -> bool:
    """Whether the kernel of a variant is no longer installed."""
    return not host.exists(variant.base) and not _installed(host, variant.wants.kernel)


def having(host: Host, drivers: Sequence[str], some: bool = False) -> List[str]:
    """The installed kernels that have modules of each of the drivers, or of ``some`` of them."""
    least = 1 if some else len(set(drivers))
    return [release for release in _kernels(host) if len(drivers_of(host, release, drivers)) >= least]


def drivers_of(host: Host, release: str, drivers: Sequence[str]) -> Tuple[str, ...]:
    """Those of the drivers that a kernel has modules of, by their names."""
    found = {depmod.driver_of(path, drivers) for path in depmod.linked(host, release, drivers)}
    return tuple(sorted(driver for driver in found if driver))


def _kernels(host: Host) -> List[str]:
    return [
        release
        for release in host.listdir("/lib/modules")
        if names.is_release(release) and _installed(host, release)
    ]


def _installed(host: Host, release: str) -> bool:
    """Not what a removed kernel leaves behind: extra/ and weak-updates/ with an index of them."""
    return host.exists("/boot/vmlinuz-" + release) or host.is_dir("/lib/modules/%s/kernel" % release)
