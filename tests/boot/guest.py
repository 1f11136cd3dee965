# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine on a disk, running in QEMU: emulated, reached by ssh on the loopback interface alone, with a time
limit.
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from tests.lab.debian import LabError

LIMIT = 7200  # seconds that any machine may run
FIRMWARE = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")


def ovmf() -> bool:
    return all(os.path.exists(path) for path in FIRMWARE)


class Guest:
    """Runs from entering to leaving the context. ``log`` collects all that its serial line says, ``options``
    are more of QEMU's own.
    """

    def __init__(
        self, disk: Path, firmware: str, log: Path, key: Path, options: Sequence[str] = (), raw: bool = False
    ) -> None:
        self.disk = disk
        self.firmware = firmware
        self.log = log
        self.pid = log.with_suffix(".pid")
        self.key = key
        self.options = list(options)
        self.raw = raw
        self.port = _free_port()
        self.process: Optional[subprocess.Popen] = None
        self.leaving = False
        self.lock = threading.Lock()

    def __enter__(self) -> "Guest":
        self.start()
        return self

    def start(self) -> None:
        """Switch it on."""
        self.leaving = False
        self._start()
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()

    def _keep(self) -> None:
        """Start it again whenever it resets, as a machine does; QEMU ends then (-no-reboot).

        Within one QEMU (7.2) a reset under OVMF can take for ever: the firmware writes over all the code of
        the system before it, which QEMU still holds translated."""
        while (
            self.process is not None
            and self.process.wait() == 0
            and "reboot: Power down" not in self.console()[-500:]
        ):
            with self.lock:
                if self.leaving:
                    return
                self._start()

    def _start(self) -> None:
        argv = [
            "timeout",
            str(LIMIT),
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-cpu",
            "max",
            "-m",
            "1024",
            "-machine",
            "q35",
            "-no-user-config",
            "-display",
            "none",
            "-monitor",
            "none",
            "-device",
            "edu",
            "-no-reboot",
            "-pidfile",
            str(self.pid),
            "-chardev",
            "file,id=serial,path=%s,append=on" % self.log,
            "-serial",
            "chardev:serial",
            "-drive",
            "file=%s,if=virtio,format=%s,cache=unsafe" % (self.disk, "raw" if self.raw else "qcow2"),
            "-netdev",
            "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22" % self.port,
            "-device",
            "virtio-net-pci,netdev=net",
        ]
        if self.firmware == "ovmf":
            variables = self.log.with_suffix(".vars")
            if not variables.exists():  # what the firmware remembers stays with the disk
                shutil.copyfile(FIRMWARE[1], str(variables))
            argv += [
                "-drive",
                "if=pflash,format=raw,readonly=on,file=" + FIRMWARE[0],
                "-drive",
                "if=pflash,format=raw,file=%s" % variables,
            ]
        self.pid.unlink(missing_ok=True)
        self.process = subprocess.Popen(argv + self.options, stdin=subprocess.DEVNULL, start_new_session=True)

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """The power fails: what the machine has in its memory is lost.

        What it has flushed to its disk is in the system's hands by then (with cache=unsafe as well: it is not
        forced onto the disk below, but it leaves QEMU), and the system goes on."""
        assert self.process is not None
        with self.lock:
            self.leaving = True
            if self.process.poll() is None:
                try:  # QEMU alone: "timeout" waits until it is gone, and its disk and port are free
                    os.kill(int(self.pid.read_text()), signal.SIGKILL)
                except (OSError, ValueError):  # not that far yet
                    os.killpg(self.process.pid, signal.SIGKILL)
        self.keeper.join()

    @property
    def ssh_options(self) -> List[str]:
        # A connection made while the machine resets would stay half-open for ever: QEMU's network takes it,
        # and nobody answers.
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=30",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=6",
            "ControlMaster=no",
            "IdentitiesOnly=yes",
        ]
        return ["-i", str(self.key)] + [word for option in options for word in ("-o", option)]

    def console(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "") if self.log.exists() else ""

    def try_script(self, script: str, timeout: float = 600) -> Tuple[int, str]:
        argv = ["ssh"] + self.ssh_options + ["-p", str(self.port), "root@127.0.0.1", "sh", "-s"]
        try:
            done = subprocess.run(
                argv,
                input=script,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 255, "no answer within %d s" % timeout
        return done.returncode, done.stdout

    def script(self, script: str, timeout: float = 600) -> str:
        """What a shell script says that the machine runs as root; a status other than 0 is a LabError."""
        status, said = self.try_script(script, timeout)
        if status:
            raise LabError("the machine's script ended with %d: %s" % (status, said[-3000:]))
        return said

    def send(self, command: str, data: bytes) -> None:
        """Have a command of the machine's read ``data``."""
        self.script("base64 -d <<'END' | %s\n%sEND\n" % (command, base64.encodebytes(data).decode()))

    def wait(self, not_boot: str = "", timeout: float = 900) -> str:
        """Until it answers, in another boot than ``not_boot``: the id of this one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not self.keeper.is_alive():
                raise LabError("the machine has ended; its console says:\n%s" % self.console()[-3000:])
            status, said = self.try_script("cat /proc/sys/kernel/random/boot_id", 30)
            if status == 0 and said.strip() != not_boot:
                return said.strip()
            time.sleep(2)
        raise LabError("no answer within %d s; its console says:\n%s" % (timeout, self.console()[-3000:]))

    def reboot(self, timeout: float = 900) -> str:
        """Have it reboot, and wait until it answers again, whatever it was that came up."""
        old = self.wait(timeout=60)
        self.try_script("systemctl reboot", 30)
        return self.wait(old, timeout)

    def power_off(self) -> None:
        self.try_script("sync; systemctl poweroff", 30)
        self.keeper.join(120)
        if self.keeper.is_alive():
            raise LabError("the machine does not power off; its console says:\n%s" % self.console()[-2000:])


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
