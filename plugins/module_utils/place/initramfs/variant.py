# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""initramfs variants: a new file beside the shipped image, named as that with ``.`` and a number, with a driver in it.

The shipped image is never written. A variant is told by its manifest, kept while that says that it was made of the same things, and made
again, under its number, when the distribution has made its image anew or the driver has changed.
"""
import contextlib
import os
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError
from ...host import Host
from ...plan import Change, Content, File, Plan
from ...read import ko
from ...read.kernels import version_key
from .. import depmod
from . import image, manifest, overlay, parts, rebuild, sealed
from .manifest import NUMBERED, Variant

PLENTY = 1 << 30
SLACK = 1 << 20  # left free on /boot


class Request(NamedTuple):
    """What a variant is to be: see the options of the module initrd_variant."""

    drivers: Tuple[str, ...]
    modules: Tuple[str, ...] = ()  # files on the host; none: those that the kernel has of the drivers
    method: str = "auto"
    early_load: bool = False
    ignore_tpm: bool = False


def requested(host: Host, params: Dict[str, Any]) -> Tuple[Plan, Dict[str, Any]]:
    """What the module initrd_variant does with its options."""
    if params["state"] == "absent":
        return absent(host, params["driver"], params["kernels"])
    request = Request(tuple(params["driver"]), tuple(params["modules"]), params["method"], params["early_load"], params["ignore_tpm"])
    return present(host, request, params["kernels"])


def present(host: Host, request: Request, kernels: Sequence[str] = ()) -> Tuple[Plan, Dict[str, Any]]:
    """A variant for each of the kernels, by default for all that have the drivers; those of kernels that are gone are removed.

    The result: ``{"variants": [row], "pruned": [path]}``; a row is that of ``plan``.
    """
    whole, rows = Plan(host), []
    for release in kernels or having(host, request.drivers):
        modules = request.modules or depmod.linked(host, release, request.drivers)
        if not modules:
            raise KmodError("/lib/modules/" + release, "has no module of %s" % " and ".join(request.drivers), "Link the driver into it (kmod_link)",
                            "DRIVER_MISSING")
        steps, row = plan(host, release, modules, request)
        whole.extend(steps)
        rows.append(row)
    _room(host, whole)
    pruned = [variant.path for variant in _with(host, request.drivers) if gone(host, variant)] if not kernels else []
    for path in pruned:
        whole.put(path, None, keep=False)
    return whole, {"variants": rows, "pruned": pruned}


def absent(host: Host, drivers: Sequence[str], kernels: Sequence[str] = ()) -> Tuple[Plan, Dict[str, Any]]:
    """Remove the variants with any of the drivers, of the named kernels or of all. The result is that of ``present``."""
    steps, rows = Plan(host), []
    for variant in _with(host, drivers):
        if not kernels or variant.wants["kernel"] in kernels:
            steps.put(variant.path, None, keep=False)
            rows.append({"kernel": variant.wants["kernel"], "path": variant.path, "status": "removed"})
    return steps, {"variants": rows, "pruned": []}


def plan(host: Host, release: str, modules: Sequence[str], request: Request) -> Tuple[Plan, Dict[str, Any]]:
    """The variant of one kernel with the module files in it.

    The row: kernel, drivers, base, base_sha256, early_load, path, status (current, created or replaced), method, initrds (what a boot entry
    loads, in that order), sha256, size, bytes_added, and what was added: modules, dependencies, firmware, firmware_missing. Of a rebuild
    digest, sizes, contents and ``phases`` are known once the plan is applied.
    """
    base = image.shipped(host, release)
    parsed = sorted((_read(host, path) for path in modules), key=lambda module: (module.name, module.path))
    wants: Dict[str, Any] = {"kernel": release, "drivers": sorted(request.drivers), "early_load": request.early_load,
                             "modules": [[module.name, module.sha256] for module in parsed]}
    row: Dict[str, Any] = {"kernel": release, "drivers": wants["drivers"], "base": base, "early_load": request.early_load}
    steps = Plan(host)
    old = next((variant for variant in found(host) if variant.base == base and variant.wants["drivers"] == wants["drivers"]), None)
    if old:
        size, sha256 = image.checksum(host, base)
        if old.wants == dict(wants, base={"path": base, "size": size, "sha256": sha256}) and request.method in ("auto", old.method):
            whole = manifest.checked(host, old)
            if whole:
                made = _made(old.wants, old.path, old.method, whole, old.size)
                return steps, dict(row, base_sha256=sha256, path=old.path, status="current", **made, **old.contents)
    if not request.ignore_tpm:
        sealed.check(host)
    row.update(path=old.path if old else _free_name(host, base), status="replaced" if old else "created")
    with tempfile.TemporaryDirectory(prefix="kmod-", dir=_scratch()) as directory:
        store = parts.Store(directory, release)
        shipped = image.read(host, base, store.wanted)
        wants["base"] = {"path": base, "size": shipped.size, "sha256": shipped.sha256}
        row["base_sha256"] = shipped.sha256
        content = _content(host, shipped, parsed, store, wants, request.method, row)
    steps.put(row["path"], File(content, shipped.mode, shipped.owner), keep=old is None)
    return steps, row


def _scratch() -> Optional[str]:
    """Memory for the module tree that depmod is given, where there is plenty: hundreds of small files that no disk needs to see."""
    with contextlib.suppress(OSError):
        memory = os.statvfs("/dev/shm")
        if os.access("/dev/shm", os.W_OK) and memory.f_bavail * memory.f_frsize >= PLENTY:
            return "/dev/shm"
    return None


def _content(host: Host, shipped: image.Image, modules: Sequence[ko.KernelModule], store: parts.Store, wants: Dict[str, Any], method: str,
             row: Dict[str, Any]) -> Content:
    """The variant by the method that was asked for; ``auto`` rebuilds what no overlay can be put on."""
    against = overlay.obstacle(shipped, wants["kernel"])
    if against and (method not in ("auto", "rebuild") or against.code == "INITRD_SQUASH"):  # a rebuild would be a squash again
        raise against
    if method == "auto":
        method = "rebuild" if against else "overlay"
    if method == "rebuild":
        row.update(_made(wants, row["path"], method, "", 0), bytes_added=0)
        return rebuild.content(host, shipped, modules, wants, row)
    made = overlay.build(host, wants["kernel"], modules, shipped, store, wants, method)
    row.update(_made(wants, row["path"], method, made.sha256, made.size + (shipped.size if method == "overlay" else 0)), **made.contents)
    chunks = made.chunks if method == "segment" else lambda: overlay.appended(host, shipped.path, made)
    return Content(row["size"], made.sha256, chunks, binary=True)


def _made(wants: Dict[str, Any], path: str, method: str, sha256: str, size: int) -> Dict[str, Any]:
    base = wants["base"]
    alone = method == "segment"
    return {"method": method, "initrds": [base["path"], path] if alone else [path], "sha256": sha256, "size": size,
            "bytes_added": size if alone else size - base["size"]}


def _read(host: Host, path: str) -> ko.KernelModule:
    module = ko.read(host, path)
    if module.vermagic is None:
        why = module.faults[0].message if module.faults else "it has no vermagic"
        raise KmodError(path, "is no kernel module: " + why, "Copy the file again", "MODULE_BAD")
    return module


def _free_name(host: Host, base: str) -> str:
    number = 1
    while host.lstat("%s.%d" % (base, number)) is not None:
        number += 1
    return "%s.%d" % (base, number)


def _room(host: Host, whole: Plan) -> None:
    """Refuse what does not fit, before anything is written: a full /boot is what kernel updates fail of. An old variant goes only after
    the new one is there."""
    needed = SLACK
    for step in whole.steps:
        if isinstance(step, Change) and isinstance(step.after, File):
            free = host.free(os.path.dirname(step.path))
            needed += step.after.content.size
            if needed > free:
                raise KmodError(step.path, "needs %d MiB, but %d MiB are free there" % (needed + 0xfffff >> 20, free >> 20),
                                "Free space in %s, for instance of old kernels, or use method segment where the boot loader takes several images"
                                % os.path.dirname(step.path), "BOOT_FULL")
            if isinstance(step.before, File):
                needed -= step.before.content.size


# What is there

def found(host: Host) -> List[Variant]:
    """The variants of ours on the host, in the order of their paths."""
    paths = [directory + "/" + name for directory in image.directories(host) for name in host.listdir(directory) if NUMBERED.match(name)]
    variants = [manifest.find(host, path) for path in paths if host.is_file(path) and not host.is_link(path)]
    return [variant for variant in variants if variant]


def _with(host: Host, drivers: Sequence[str]) -> List[Variant]:
    """The variants that hold any of the drivers."""
    return [variant for variant in found(host) if set(drivers) & set(variant.wants["drivers"])]


def images(host: Host, driver: str, kernels: Sequence[str] = ()) -> Dict[str, Tuple[str, ...]]:
    """What a boot entry loads for each kernel that has a variant with the driver (or each of the named ones), oldest kernel first."""
    made: Dict[str, Tuple[str, ...]] = {}
    for each in sorted(_with(host, [driver]), key=lambda each: -len(each.wants["drivers"])):  # one with this driver alone comes last
        if not kernels or each.wants["kernel"] in kernels:
            made[each.wants["kernel"]] = (each.base, each.path) if each.method == "segment" else (each.path,)
    for release in kernels:
        if release not in made:
            raise KmodError(release, "has no initramfs variant with %s" % driver, "Make it first: outoftree.kmod.initrd_variant", "VARIANT_MISSING")
    return dict(sorted(made.items(), key=lambda item: version_key(item[0])))


def overview(host: Host) -> List[Dict[str, Any]]:
    """Each variant on the host, and its state: current, stale (the shipped image is another one by now), damaged, or gone (the kernel is)."""
    rows = []
    for each in found(host):
        state = "current" if manifest.checked(host, each) else "damaged"
        if not host.is_file(each.base):
            state = "gone" if gone(host, each) else "stale"
        elif image.checksum(host, each.base)[1] != each.wants["base"]["sha256"]:
            state = "stale"
        rows.append({"path": each.path, "kernel": each.wants["kernel"], "drivers": each.wants["drivers"], "method": each.method, "size": each.size,
                     "state": state})
    return rows


def gone(host: Host, variant: Variant) -> bool:
    """Whether the kernel of a variant is no longer installed."""
    return not host.exists(variant.base) and not _installed(host, variant.wants["kernel"])


def having(host: Host, drivers: Sequence[str]) -> List[str]:
    """The installed kernels that have modules of each of the drivers."""
    return [release for release in host.listdir("/lib/modules")
            if _installed(host, release) and all(depmod.linked(host, release, [driver]) for driver in drivers)]


def _installed(host: Host, release: str) -> bool:
    """Not what a removed kernel leaves behind: extra/ and weak-updates/ with an index of them."""
    return host.exists("/boot/vmlinuz-" + release) or host.is_dir("/lib/modules/%s/kernel" % release)
