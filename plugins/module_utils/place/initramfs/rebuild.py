# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A variant built by the tool that built the shipped image, into a file of its own, and looked at before it
is believed.

These tools exit with 0 when they have not found a module, or have taken an in-tree one of the same name. So
the module in the image is compared with the driver's, byte for byte.
"""

import time
from typing import Generator, NamedTuple, Sequence, Tuple

from ...errors import KmodError
from ...host import Host
from ...lock import scratch as scratch_directory
from ...plan import Content
from ...read import depmod
from ...read.kernel_module import KernelModule
from . import needs, overlay, plain
from .generator import Job, Tool
from .generators import generator
from .image import Digest, Image, read
from .kept import Kept
from .manifest import Added, Wants

# for mkosi-initrd / has to be a mount point
ENTER = 'mount --bind "$0" "$0"; mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'
UNPACKED = 3  # times the size of an image, about: what it is put together from
BIN = ("/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/")


class Phase(NamedTuple):
    """How long a step of it took, in seconds."""

    name: str
    seconds: float


class Rebuilt(NamedTuple):
    """What is known once it is built."""

    size: int
    sha256: str
    added: Added
    phases: Tuple[Phase, ...]


def tool(host: Host, shipped: Image) -> Tool:
    """The tool for images of the shipped kind that this host has."""
    made_by = generator(shipped.tree)
    for each in made_by.tools:
        if any(host.is_file(directory + each.name) for directory in BIN):
            return each
    names = " or ".join(each.name for each in made_by.tools)
    raise KmodError(
        shipped.path,
        "is of the kind %s, but there is no %s on this host" % (made_by.name, names),
        "Install it",
        "TOOL_MISSING",
    )


def content(host: Host, wants: Wants, modules: Sequence[KernelModule], *, shipped: Image) -> Content:
    """The variant, built when it is written. Its chunks return what is known then only: Rebuilt."""
    maker, release = tool(host, shipped), wants.kernel
    found = depmod.chosen(host, "/lib/modules/" + release)
    for module in modules:
        if module.name not in found or host.real(found[module.name]) != host.real(module.path):
            raise KmodError(
                module.path,
                "is not the file that kernel %s would load as %s, so that no tool would take it"
                % (release, module.name),
                "Link the driver into the kernel (kmod_link), or use method overlay",
                "MODULE_NOT_LINKED",
            )

    where = next((each for each in ("/var/tmp", "/tmp") if host.is_dir(each)), "/")
    if host.free(where) < shipped.size * UNPACKED:
        raise KmodError(
            where,
            "has %d MiB free, too little to rebuild an image of %d MiB there"
            % (host.free(where) >> 20, shipped.size >> 20),
            "Free space there, or use method overlay",
            "SCRATCH_FULL",
        )

    def chunks() -> Generator[bytes, None, Rebuilt]:
        with scratch_directory(host) as directory:
            scratch = host.inside(directory)
            output = scratch + "/initrd"
            start = time.monotonic()
            argv = maker.command(host, Job(release, [module.name for module in modules], scratch, output))
            # what the tool itself puts aside goes with our scratch directory, also when it is killed
            host.run(
                argv if host.live else ["unshare", "--mount", "sh", "-ec", ENTER, host.root] + argv,
                timeout=maker.limit,
                TMPDIR=scratch,
            )
            built = time.monotonic()
            made = _checked(host, maker, output, modules=modules, wants=wants, scratch=scratch)
            phases = (
                Phase(maker.name, round(built - start, 1)),
                Phase("verify", round(time.monotonic() - built, 1)),
            )
            digest, size = Digest.for_size(shipped.size), 0
            for chunk in overlay.appended(host, output, made):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
            if digest.hexdigest() != made.digest.hexdigest():
                raise KmodError(output, "changed after it was looked at", "Run again", "FILE_CHANGED")
            return Rebuilt(size, digest.hexdigest(), made.added, phases)

    return Content(shipped.size, "", chunks, binary=True)


def _checked(
    host: Host, maker: Tool, output: str, *, modules: Sequence[KernelModule], wants: Wants, scratch: str
) -> overlay.Overlay:
    """Look for the driver in the built image; what early loading needs and the manifest go behind it, and
    what the tool cannot be told to take.
    """
    if not host.is_file(output):
        raise KmodError(
            output,
            "the tool said that all went well, but has not written it",
            "Run it by hand to see why",
            "TOOL_FAILED",
        )
    kept = Kept(host.real(scratch), wants.kernel)
    image = read(host, output, kept.wanted)
    if not maker.takes_modules:
        return overlay.build(host, wants, modules, image=image, kept=kept, method="rebuild")
    had = kept.modules(image)
    wrong = [
        module.name
        for module in modules
        if module.name not in had.known or plain.sha256_of(had.files[had.known[module.name]]) != module.sha256
    ]
    overlay.refuse(output, wrong)
    ours = {had.known[module.name]: module for module in modules}
    there = {path: had.files[path] for path in had.known.values()}
    needs.check(needs.Needed(host, wants.kernel, had, {}), had.text("modules.dep"), added=ours, stays=there)
    started, mark = overlay.starts(image, kept, wants, modules)
    started = overlay.configured(host, image, wants) + started
    return overlay.seal(
        image, started, wants, method="rebuild", added=Added(overlay.held(had.prefix, ours), mark=mark)
    ).overlay
