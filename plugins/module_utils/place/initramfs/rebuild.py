# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A variant built by the tool that built the shipped image, into a file of its own, and looked at before it is believed.

These tools exit with 0 when they have not found a module, or have taken an in-tree one of the same name. So the module in the image is
compared with the driver's, byte for byte.
"""
import os
import posixpath
import stat
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from ...errors import KmodError, from_oserror
from ...host import Host
from ...lock import scratch as scratch_directory
from ...plan import Content
from ...read import depmod
from ...read.kernel_module import KernelModule
from . import needs, overlay, parts
from .image import Digest, Image, generator, modules_dir, read

HOOK = '#!/bin/sh\n[ "$1" = prereqs ] && exit 0\n. /usr/share/initramfs-tools/hook-functions\nmanual_add_modules %s\n'
ENTER = 'mount --bind "$0" "$0"; mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'  # for mkosi-initrd / has to be a mount point
CONFIGURATION = "/etc/initramfs-tools"
COPY_SIZE, COPY_FILES = 64 << 20, 4096  # far more than a configuration has; what is in it is the administrators' to say
UNPACKED = 3  # times the size of an image, about: what it is put together from
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
    _copy(host, CONFIGURATION, copy)
    hook = host.real(copy) + "/hooks/kmod"
    try:
        os.makedirs(os.path.dirname(hook), exist_ok=True)
        with open(hook, "w") as handle:
            handle.write(HOOK % " ".join(build.names))
        os.chmod(hook, 0o755)
    except OSError as error:
        raise from_oserror(hook, error, "write the hook") from None
    return ["mkinitramfs", "-d", copy, "-o", build.output, build.release]


def _copy(host: Host, source: str, target: str) -> None:
    """Copy a directory's files, directories and symlinks, and nothing that could block or has no end. Errors: CONFIG_TOO_LARGE, those of writing.

    A relative symlink out of the directory is made an absolute one: it means what it meant.
    """
    files = size = 0
    todo = [""]
    while todo:
        below = todo.pop()
        try:
            os.mkdir(host.real(target + below), 0o755)
            for name in host.listdir(source + below):
                path, copy = "%s%s/%s" % (source, below, name), host.real("%s%s/%s" % (target, below, name), follow=False)
                status = host.lstat(path)
                files += 1
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    todo.append("%s/%s" % (below, name))
                elif stat.S_ISLNK(status.st_mode):
                    leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), host.readlink(path)))
                    os.symlink(host.readlink(path) if leads.startswith(source + "/") else leads, copy)
                elif stat.S_ISREG(status.st_mode):
                    size += status.st_size
                    if size <= COPY_SIZE:
                        data = host.read(path, COPY_SIZE)
                        with open(copy, "wb") as handle:
                            handle.write(data)
                        os.chmod(copy, stat.S_IMODE(status.st_mode))
                if files > COPY_FILES or size > COPY_SIZE:
                    raise KmodError(source, "holds more than %d files or %d MiB: that is not a configuration" % (COPY_FILES, COPY_SIZE >> 20),
                                    "Take out what does not belong there", "CONFIG_TOO_LARGE")
        except OSError as error:
            raise from_oserror(target, error, "copy the configuration") from None


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


def content(host: Host, shipped: Image, modules: Sequence[KernelModule], wants: Dict[str, Any], row: Dict[str, Any],
            written: List[Digest]) -> Content:
    """The variant, built when it is written; what is known by then only (digest, contents, times) is put into ``row`` and ``written``."""
    make, release = tool(host, shipped), wants["kernel"]
    found = depmod.chosen(host, "/lib/modules/" + release)
    for module in modules:
        if module.name not in found or host.real(found[module.name]) != host.real(module.path):
            raise KmodError(module.path, "is not the file that kernel %s would load as %s, so that no tool would take it" % (release, module.name),
                            "Link the driver into the kernel (kmod_link), or use method overlay", "MODULE_NOT_LINKED")

    where = next((each for each in ("/var/tmp", "/tmp") if host.is_dir(each)), "/")
    if host.free(where) < shipped.size * UNPACKED:
        raise KmodError(where, "has %d MiB free, too little to rebuild an image of %d MiB there"
                        % (host.free(where) >> 20, shipped.size >> 20), "Free space there, or use method overlay", "SCRATCH_FULL")

    def chunks() -> Iterator[bytes]:
        with scratch_directory(host) as directory:
            scratch = host.inside(directory)
            output = scratch + "/initrd"
            start = time.monotonic()
            argv = make(host, Build(release, [module.name for module in modules], scratch, output))
            # what the tool itself puts aside goes with our scratch directory, also when it is killed
            host.run(argv if host.live else ["unshare", "--mount", "sh", "-ec", ENTER, host.root] + argv, TMPDIR=scratch)
            built = time.monotonic()
            sealed = _checked(host, make, output, modules, wants, scratch)
            digest = Digest.for_size(shipped.size)
            row["phases"] = [{"name": argv[0], "seconds": round(built - start, 1)}, {"name": "verify", "seconds": round(time.monotonic() - built, 1)}]
            size = 0
            for chunk in overlay.appended(host, output, sealed):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
            if digest.hexdigest() != sealed.digest.hexdigest():
                raise KmodError(output, "changed after it was looked at", "Run again", "FILE_CHANGED")
            row.update(sealed.contents, sha256=digest.hexdigest(), size=size, bytes_added=size - shipped.size)
            written.append(digest)

    return Content(shipped.size, "", chunks, binary=True)


def _checked(host: Host, make: Tool, output: str, modules: Sequence[KernelModule], wants: Dict[str, Any], scratch: str) -> overlay.Overlay:
    """Look for the driver in the built image; what early loading needs and the manifest go behind it, and what the tool cannot be told to take."""
    if not host.is_file(output):
        raise KmodError(output, "the tool said that all went well, but has not written it", "Run it by hand to see why", "TOOL_FAILED")
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
    there = {path: had[path] for path in known.values()}
    needs.check(needs.Needed(host, wants["kernel"], known, had), parts.text_of(had, "modules.dep"), ours, there)
    contents: Dict[str, Any] = {"modules": parts.described(prefix, ours), "dependencies": [], "firmware": [], "firmware_missing": []}
    return overlay.seal(image, overlay.starts(image, store, wants, contents), wants, "rebuild", contents).overlay
