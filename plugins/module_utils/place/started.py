# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What boot entries are to start: images that were verified just now. The one way from variants to entries."""
from typing import Any, Dict, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from ..plan import Plan
from .boot import entry
from .boot.menu import Verified
from .initramfs import image, manifest, variant


def present(host: Host, request: entry.Request, kernels: Sequence[str] = (), initrd: Optional[Sequence[str]] = None,
            kind: str = "auto") -> Tuple[Plan, Dict[str, Any]]:
    """Plan entries for these kernels or all that have a variant with the driver; ``initrd``: the images, instead of the variant, for one kernel."""
    if initrd and len(kernels) != 1:
        raise KmodError("initrd", "is for one kernel", "Name that kernel alone in kernels", "ARGS_INVALID")
    images = {kernels[0]: tuple(initrd)} if initrd else variant.images(host, request.driver, kernels)
    found = {release: verified(host, release, paths) for release, paths in images.items()}
    return entry.present(host, request._replace(all_kernels=not kernels), found, kind)


def verified(host: Host, release: str, paths: Tuple[str, ...]) -> Verified:
    """A look at a kernel's images. One that is not there is left to whoever wants it."""
    stale, mark = None, ""
    for path in paths if all(host.is_file(path) for path in paths) else ():
        found = manifest.find(host, path)
        damage = _damage(host, release, path, found)
        if damage:
            return Verified(paths, damage=damage)
        if found:
            mark = str(found.contents.get("mark", ""))
            if not host.is_file(found.base) or image.checksum(host, found.base)[1] != found.wants["base"]["sha256"]:
                stale = "was made of another %s than the one that is there now" % found.base
    return Verified(paths, stale=stale, mark=mark)


def _damage(host: Host, release: str, path: str, found: Optional[manifest.Variant]) -> Optional[KmodError]:
    why = "is not what was written: the digests of its manifest do not match"
    try:
        if found is None:
            image.read(host, path)
            return None
        if found.wants["kernel"] != release:
            why = "is a variant for %s, not for %s" % (found.wants["kernel"], release)
        elif manifest.checked(host, found) is not None:
            return None
    except KmodError as error:
        why = "is no whole initramfs image: %s" % error.why
    return KmodError(path, why, "Make it again (outoftree.kmod.initrd_variant); until then boot: shipped has the old default back", "VARIANT_DAMAGED")
