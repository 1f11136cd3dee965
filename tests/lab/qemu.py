# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels booted in QEMU: emulated, without a network, with a time limit, and nothing but the console to look
at.
"""

import re
import selectors
import shutil
import subprocess
import time
from pathlib import Path
from typing import List, Mapping, NamedTuple, Optional, Sequence, Union

from tests.forge.cpio import Content, cpio
from tests.lab.debian import LabError, run


class Machine(NamedTuple):
    """How one architecture is emulated."""

    program: str
    options: List[str]
    console: str
    append: str = ""


MACHINES = {
    # a busy host is late, which the kernel takes for broken
    "amd64": Machine("qemu-system-x86_64", ["-cpu", "max"], "ttyS0", "no_timer_check "),
    "arm64": Machine("qemu-system-aarch64", ["-machine", "virt", "-cpu", "cortex-a57"], "ttyAMA0"),
    "s390x": Machine("qemu-system-s390x", ["-machine", "s390-ccw-virtio"], "ttysclp0"),
    "ppc64el": Machine("qemu-system-ppc64", ["-machine", "pseries"], "hvc0"),
}


def available(arch: str = "amd64") -> Optional[str]:
    """None where an architecture can be booted, else the reason why not."""
    program = MACHINES[arch].program
    return None if shutil.which(program) else "no %s on this machine" % program


def boot(
    kernel: Path,
    initrd: Optional[Path] = None,
    append: str = "",
    timeout: float = 180,
    stop: Optional[str] = None,
    devices: Sequence[str] = (),
    memory: int = 768,
    arch: str = "amd64",
    extra: Sequence[str] = (),
) -> str:
    """Boot a kernel and return what it wrote on its console.

    It ends when the machine powers off or reboots, or once the console matches ``stop``. A machine that does
    neither within ``timeout`` seconds is a LabError that shows the end of the console. ``devices`` are values
    of ``-device`` (such as "edu").
    """
    machine = MACHINES[arch]
    argv = [
        machine.program,
        "-accel",
        "tcg",
        "-m",
        str(memory),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-nic",
        "none",
        "-kernel",
        str(kernel),
    ] + machine.options
    argv += ["-initrd", str(initrd)] if initrd else []
    argv += [word for device in devices for word in ("-device", device)]
    argv += ["-append", ("console=%s panic=1 " % machine.console + machine.append + append).strip()]
    return console(argv + list(extra), timeout, stop)


def console(argv: Sequence[str], timeout: float, stop: Optional[str] = None) -> str:
    """Run any QEMU whose serial line is its standard output; as ``boot`` otherwise."""
    reason = None if shutil.which(argv[0]) else "no %s on this machine" % argv[0]
    if reason:
        raise LabError(reason)
    deadline = time.monotonic() + timeout
    text = bytearray()
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise LabError(
                        "%s: no end within %d s; its console ends with:\n%s"
                        % (argv[0], timeout, _decode(text)[-3000:])
                    )
                chunk = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                text += chunk
                if not chunk or (stop and re.search(stop, _decode(text[-len(chunk) - 4096 :]))):
                    return _decode(text)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _decode(text: Union[bytes, bytearray]) -> str:
    return text.decode("utf-8", "replace").replace("\r", "")


def initramfs(files: Mapping[str, Content]) -> bytes:
    """An archive of relative paths, whose files can all be executed; see tests.forge.cpio."""
    return cpio(files, permissions=0o755)


def static(source: Path, output: Path) -> Path:
    """A C program compiled without any library that it would need at run time."""
    run(["gcc", "-O1", "-Wall", "-Werror", "-static", "-o", str(output), str(source)])
    return output
