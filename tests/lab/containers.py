# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines to be reached by ssh: containers of Debian systems that share nothing with this one but the network
and the kernel that runs. Whoever logs in has no rights there, and may use sudo where a machine is a host.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Sequence

from tests.forge import repositories
from tests.lab import debian

SUITE = "bookworm"
USER = "admin"
RUN = ("podman", "--runtime", "runc")  # crun cannot work on hybrid cgroups
BOTH = ["python3", "openssh-server"]
BUILDER = ["bubblewrap", "make", "gcc-12", "binutils", "patch", "libelf1"]
HOST = ["sudo", "kmod", "initramfs-tools"]
LOGIN = "useradd --create-home --shell /bin/sh %(user)s && mkdir -p home/%(user)s/.ssh /run/sshd" % {
    "user": USER
}


class Machine(NamedTuple):
    """A running machine."""

    name: str
    port: int
    key: Path
    container: str

    @property
    def variables(self) -> Dict[str, object]:
        """What Ansible reaches it by."""
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes"
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": "/usr/bin/python3",
        }

    def run(self, *argv: str) -> str:
        """A command's output there, as root."""
        return debian.run([*RUN, "exec", self.container, *argv])


def missing() -> str:
    """What lacks here to have such machines, in words; else nothing."""
    tools = ("podman", "runc", "mmdebstrap", "ssh", "ssh-keygen", "dpkg-deb")
    found = [tool for tool in tools if not shutil.which(tool)]
    if os.geteuid():
        found.append("root")
    return "needs " + ", ".join(found) if found else debian.available() or ""


def builder() -> str:
    """The image of a machine that compiles."""
    return _image("builder", [*BOTH, *BUILDER])


def host(kernel: debian.Image, meta: str) -> str:
    """The image of a machine with a kernel, and with the package that leads to the newest as it was when that
    kernel was the newest.
    """

    def hooks(work: Path) -> Sequence[str]:
        deb = repositories.deb(work / "meta", meta, kernel.version, Depends=kernel.package)
        yield "--customize-hook=copy-in %s /tmp" % deb
        yield "--customize-hook=chroot $1 dpkg --install /tmp/%s && rm $1/tmp/%s" % (deb.name, deb.name)
        sudo = "echo '%s ALL=(ALL) NOPASSWD: ALL' > $1/etc/sudoers.d/%s" % (USER, USER)
        yield "--customize-hook=" + sudo

    return _image("host-" + kernel.release, [*BOTH, *HOST, kernel.package], hooks)


def _image(name, packages, hooks=lambda work: ()) -> str:
    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            login = "--customize-hook=chroot $1 sh -c '%s'" % LOGIN
            debian.system(SUITE, directory / "root.tar", packages, login, *hooks(Path(work)))

    digest = hashlib.sha256(" ".join([*packages, LOGIN]).encode()).hexdigest()[:8]
    name = "ssh-%s-%s-%s" % (SUITE, name, digest)
    tar = debian.once(debian.cache() / "containers" / name, make) / "root.tar"
    tag = "localhost/kmod-" + name.lower()
    known = debian.run([*RUN, "images", "--quiet", "--filter", "reference=" + tag]).strip()
    if not known:
        debian.run([*RUN, "import", "--quiet", str(tar), tag])
    return tag


@contextlib.contextmanager
def running(images: Dict[str, str], directory: Path) -> Iterator[Dict[str, Machine]]:
    """Machines by name, each of an image, for as long as the context lasts."""
    key = directory / "key"
    debian.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    made: Dict[str, Machine] = {}
    try:
        for name, image in images.items():
            made[name] = _start(name, image, key)
        for machine in made.values():
            _wait(machine.port)
        yield made
    finally:
        for machine in made.values():
            debian.run([*RUN, "rm", "--force", "--time", "1", machine.container])


def _start(name: str, image: str, key: Path) -> Machine:
    port = _free_port()
    machine = Machine(name, port, key, "kmod-ssh-%s-%d" % (name, os.getpid()))
    login = "/home/%s/.ssh" % USER
    script = (
        "mkdir -p /run/sshd; echo '%s' > %s/authorized_keys; chown -R %s: %s; exec /usr/sbin/sshd -D -e -p %d -o ListenAddress=127.0.0.1"
        % (key.with_suffix(".pub").read_text().strip(), login, USER, login, port)
    )
    # the builder's user makes namespaces of its own; nobody has to remember to stop any of them
    options = [
        "--detach",
        "--rm",
        "--privileged",
        "--network",
        "host",
        "--hostname",
        name,
        "--timeout",
        "5400",
    ]
    options += ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=4096:4096"]
    debian.run([*RUN, "run", *options, "--name", machine.container, image, "sh", "-c", script])
    return machine


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(port: int) -> None:
    for _unused in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as there:
            if there.recv(4) == b"SSH-":
                return
        time.sleep(0.2)
    raise debian.LabError("nothing answers by ssh on port %d" % port)
