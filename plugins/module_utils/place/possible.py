# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What will be refused later, found out before anything of a driver is written: ``state: possible`` of the modules."""
from typing import Any, Dict, Sequence, Tuple

from ..host import Host
from ..plan import Content, File, Plan
from ..read.kernels import version_key
from . import store
from .boot import entry
from .boot.menu import Verified
from .initramfs import early, image, sealed, variant


def variants(host: Host, request: variant.Request, kernels: Sequence[str]) -> Tuple[Plan, Dict[str, Any]]:
    """That each of the kernels has an image that a variant can be made of as it is asked for, with room for it, and would start with that.

    Images of which there is a variant with the drivers are not read again. Answers as ``variant.present`` does, with no change. Errors: those
    of ``image.shipped``, ``image.read``, ``sealed.check``, ``variant.way``, ``early.load`` and ``variant.room``.
    """
    rows, whole = [], Plan(host)
    had = {each.base for each in variant.found(host) if set(request.drivers) <= set(each.wants["drivers"])}
    if kernels and not request.ignore_tpm:
        sealed.check(host)
    for release in kernels:
        path = image.shipped(host, release)
        rows.append({"kernel": release, "path": path, "status": "possible"})
        if path not in had:
            shipped = image.read(host, path)
            method = variant.way(shipped, release, request.method)
            if request.early_load:
                early.load(shipped, request.drivers, [])
            size = shipped.size if method != "segment" else 0
            whole.put(variant.free_name(host, path), File(Content(size, "", tuple), shipped.mode, shipped.owner), keep=False)
    variant.room(host, whole)
    return Plan(host), {"variants": rows, "pruned": []}


def entries(host: Host, request: entry.Request, kernels: Sequence[str], kind: str) -> Tuple[Plan, Dict[str, Any]]:
    """That each of the kernels can have an entry, beside those that have a variant already: planned with the shipped image in the place of variants.

    Answers as ``entry.present`` does, with no change. Errors: those of ``image.shipped`` and ``entry.present``.
    """
    installed = {kernel.release for kernel in store.installed(host)}
    releases = sorted({*kernels, *(installed & set(variant.images(host, request.driver)))}, key=version_key)
    images = {release: Verified((image.shipped(host, release),)) for release in releases}
    _plan, result = entry.present(host, request._replace(all_kernels=True), images, kind)
    return Plan(host), dict(result, kernels=[dict(row, changed=False, state="possible") for row in result["kernels"]])
