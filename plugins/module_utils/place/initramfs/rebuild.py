# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A variant built by the tool that built the shipped image, into a file of its own, and looked at before it is believed.

These tools exit with 0 when they have not found a module, or have taken an in-tree one of the same name. So the module in the image is
compared with the driver's, byte for byte.
"""
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from ...errors import KmodError, from_oserror
from ...host import Host
from ...plan import Content
from ...read import depmod, ko
from . import cpio, overlay, parts
from .image import Image, generator, modules_dir, read

HOOK = '#!/bin/sh\n[ "$1" = prereqs ] && exit 0\n. /usr/share/initramfs-tools/hook-functions\nmanual_add_modules %s\n'
ENTER = 'mount --bind "$0" "$0"; mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'  # for mkosi-initrd / has to be a mount point
BIN = ("/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/")


class Build(NamedTuple):
    """One request to a tool: names of modules to put in, a scratch directory and the file to write, as the tool sees them."""

    release: str
    names: Sequence[str]
    scratch: str
    output: str


def dracut(_host: Host, build: Build) -> List[str]:
    # --nostrip: stripped modules are not the driver's any more
    return ["dracut", "--force", "--nostrip", "--add-drivers", " ".join(build.names), build.output, build.release]


def mkinitramfs(host: Host, build: Build) -> List[str]:
    """With a copy of the configuration directory, so that the shipped one stays as it is."""
    copy = build.scratch + "/conf"
    hook = host.real(copy) + "/hooks/kmod"
    shutil.copytree(host.real("/etc/initramfs-tools"), host.real(copy), symlinks=True)
    os.makedirs(os.path.dirname(hook), exist_ok=True)
    with open(hook, "w") as handle:
        handle.write(HOOK % " ".join(build.names))
    os.chmod(hook, 0o755)
    return ["mkinitramfs", "-d", copy, "-o", build.output, build.release]


def mkosi_initrd(_host: Host, build: Build) -> List[str]:
    """It takes the modules that are loaded just now and those of its own list, and has no option for others: see ``_checked``."""
    directory, name = build.output.rsplit("/", 1)
    return ["mkosi-initrd", "--kernel-version", build.release, "--output-dir", directory, "--output", name]


def mkinitrd(_host: Host, build: Build) -> List[str]:
    """That of EL 5, whose init loads what it is told to."""
    return ["mkinitrd", "-f"] + ["--with=" + name for name in build.names] + [build.output, build.release]


Tool = Callable[[Host, Build], List[str]]
TOOLS: Dict[str, Tuple[Tool, ...]] = {  # by what takes the shipped image through its early boot
    "initramfs-tools": (mkinitramfs,), "systemd": (mkosi_initrd, dracut), "dracut": (dracut,), "dracut-004": (dracut,), "nash": (mkinitrd,),
    "unknown": (dracut, mkinitramfs, mkosi_initrd, mkinitrd)}


def tool(host: Host, shipped: Image) -> Tool:
    """The tool for images of the shipped kind that this host has."""
    kind = generator(shipped.tree)
    if kind == "systemd" and shipped.tree.find("usr/lib/dracut"):
        kind = "dracut"
    for make in TOOLS[kind]:
        if any(host.is_file(directory + make.__name__.replace("_", "-")) for directory in BIN):
            return make
    names = " or ".join(make.__name__.replace("_", "-") for make in TOOLS[kind])
    raise KmodError(shipped.path, "is of the kind %s, but there is no %s on this host" % (kind, names), "Install it", "TOOL_MISSING")


def content(host: Host, shipped: Image, modules: Sequence[ko.KernelModule], wants: Dict[str, Any], row: Dict[str, Any]) -> Content:
    """The variant, built when it is written; what it is known by then only (digest, contents, times) is put into ``row``."""
    make, release = tool(host, shipped), wants["kernel"]
    found = depmod.chosen(host, "/lib/modules/" + release)
    for module in modules:
        if module.name not in found or host.real(found[module.name]) != host.real(module.path):
            raise KmodError(module.path, "is not the file that kernel %s would load as %s, so that no tool would take it" % (release, module.name),
                            "Link the driver into the kernel (kmod_link), or use method overlay", "MODULE_NOT_LINKED")

    def chunks() -> Iterator[bytes]:
        with _scratch(host) as scratch:
            output = scratch + "/initrd"
            start = time.monotonic()
            try:
                argv = make(host, Build(release, [module.name for module in modules], scratch, output))
            except (OSError, shutil.Error) as error:
                raise from_oserror(scratch, OSError(str(error)), "copy the configuration") from None
            host.run(argv if host.live else ["unshare", "--mount", "sh", "-ec", ENTER, host.root] + argv)
            built = time.monotonic()
            sealed = _checked(host, make, output, modules, wants, scratch)
            digest = hashlib.sha256()
            row["phases"] = [{"name": argv[0], "seconds": round(built - start, 1)}, {"name": "verify", "seconds": round(time.monotonic() - built, 1)}]
            size = 0
            for chunk in overlay.appended(host, output, sealed):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
            row.update(sealed.contents, sha256=digest.hexdigest(), size=size, bytes_added=size - shipped.size)

    return Content(shipped.size, "", chunks, binary=True)


@contextlib.contextmanager
def _scratch(host: Host) -> Iterator[str]:
    above = next((path for path in ("/var/tmp", "/tmp") if host.is_dir(path)), "/")
    try:
        directory = tempfile.mkdtemp(prefix="kmod-", dir=host.real(above))
    except OSError as error:
        raise from_oserror(above, error, "make a temporary directory") from None
    try:
        yield host.inside(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _checked(host: Host, make: Tool, output: str, modules: Sequence[ko.KernelModule], wants: Dict[str, Any], scratch: str) -> overlay.Overlay:
    """Look for the driver in the built image; what early loading needs and the manifest go behind it, and what the tool cannot be told to take."""
    if not host.is_file(output):
        raise KmodError(output, "the tool said that all went well, but has not written it", code="TOOL_FAILED")
    store = parts.Store(host.real(scratch), wants["kernel"])
    image = read(host, output, store.wanted)
    if make is mkosi_initrd:
        return overlay.build(host, wants["kernel"], modules, image, store, wants, "rebuild")
    prefix = modules_dir(image.tree, wants["kernel"])
    had = store.tree(image.tree, prefix)
    known = parts.indexed(had)
    wrong = [module.name for module in modules if module.name not in known or parts.sha256_of(had[known[module.name]]) != module.sha256]
    overlay.refuse(output, wrong)
    ours = {known[module.name]: module for module in modules}
    contents = {"modules": parts.described(prefix, ours), "dependencies": [], "firmware": [], "firmware_missing": []}
    early: List[cpio.Item] = [parts.early(image, wants["drivers"], [module.name for module in modules])] if wants["early_load"] else []
    return overlay.seal(image, early, wants, "rebuild", contents).overlay
