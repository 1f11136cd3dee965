# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One driver for four kernels, as dkms does it on each host, and as it is built here once for each class and
then deployed: user and system seconds, and the packages that a host has for it.

dkms works in a small system of Debian's, which needs root and mmdebstrap. What 200 hosts cost is computed from
one of each.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import build
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict, rebuild_plan
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels as read_kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko
from demo.rebuild import headers, install, newest
from tests import CHECKOUT
from tests.lab import debian

PACKAGE, DRIVER, KERNELS, HOSTS = "acpi-call-dkms", "acpi-call", 4, 200
DKMS = r"""
mount -t proc proc /proc; mount -t tmpfs tmpfs /var/lib/dkms
for release in "$@"; do dkms install -m %s -v %s -k "$release"; done
"""


def spent() -> float:
    """User and system seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def chroot() -> Path:
    """A host with dkms and all that it builds with."""
    names = [each.release for each in newest(KERNELS)]
    wanted = ["dkms", "gcc", "libc6-dev", "kmod", *("linux-headers-" + name for name in names)]

    def make(temporary: Path) -> None:
        debian.say("making a host with dkms")
        debian.system("bookworm", temporary / "root", wanted)
        debian.system("bookworm", temporary / "plain", ["kmod"])

    return debian.once(debian.cache() / "chroots" / ("dkms-%s-%s" % (names[0], names[-1])), make)


def packages(root: Path) -> Dict[str, int]:
    """Installed ones by name, in KiB."""
    said = debian.run(
        ["dpkg-query", "--admindir", str(root / "var/lib/dpkg"), "-W", "-f", "${Package} ${Installed-Size}\n"]
    )
    return {name: int(size or 0) for name, size in (line.split(" ") for line in said.splitlines())}


def main() -> None:
    kernels = newest(KERNELS)
    source = next(debian.unpack(debian.package(PACKAGE, "bookworm")).glob("usr/src/*"))
    version = source.name.rpartition("-")[2]
    print("%s %s for %s" % (DRIVER, version, ", ".join(each.release for each in kernels)))

    place = chroot()
    before = spent()
    target = place / "root/usr/src" / source.name
    debian.run(["cp", "-a", "--no-target-directory", str(source), str(target)])
    script = DKMS % (DRIVER, version)
    argv = ["unshare", "--mount", "chroot", str(place / "root"), "bash", "-ec", script, "dkms"]
    said = subprocess.run(
        [*argv, *(each.release for each in kernels)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
    theirs = spent() - before
    extra = {
        name: size for name, size in packages(place / "root").items() if name not in packages(place / "plain")
    }

    with tempfile.TemporaryDirectory(prefix="kmod-bench-") as directory:
        store, root = Path(directory, "store"), Path(directory, "host")
        given = tuple(str(path) for each in kernels for path in headers(each))
        before, made = spent(), []

        def compiled(release: str) -> build.Answer:
            options = build.Options(
                DRIVER, str(source), release, str(store), version, headers=given, force=True
            )
            made.append(build.run(Host("/"), options))
            return made[-1]

        compiled(kernels[0].release)
        for each in planned(kernels, made[0]):
            compiled(each)
        ours = spent() - before
        assert all(each.result == "built" for each in made)
        for kernel in kernels:
            install(root, kernel)
        before = spent()
        kmodctl = CHECKOUT / "build/kmodctl"
        debian.run(
            [
                sys.executable,
                str(kmodctl),
                "link",
                "--root",
                str(root),
                "--driver",
                "acpi-call",
                str(store / DRIVER / version),
            ]
        )
        link = spent() - before
    told = "%3d hosts: dkms %8.1f CPU s; here %8.1f CPU s (%d builds %.1f s, and %.1f s on each host), %.0f times less"
    for hosts in (1, HOSTS):
        here = ours + hosts * link
        print(told % (hosts, hosts * theirs, here, len(made), ours, link, hosts * theirs / here))
    print(
        "packages for it: dkms %d on each host (%.0f MiB), %d on %d hosts (%.0f GiB); here 0 on a host, as many on the build host"
        % (
            len(extra),
            sum(extra.values()) / 1024,
            len(extra) * HOSTS,
            HOSTS,
            sum(extra.values()) * HOSTS / 2**20,
        )
    )


def planned(kernels: List[debian.Image], first: build.Answer) -> List[str]:
    """The other builds that are needed, by what the first one needs."""
    assert first.needs is not None
    needs = predict.needs([ko.read(Host("/"), path) for path in first.modules])
    with tempfile.TemporaryDirectory(prefix="kmod-bench-") as directory:
        for kernel in kernels:
            install(Path(directory), kernel)
        facts = [predict.facts(each, needs.symbols) for each in read_kernels.installed(Host(directory))]
    releases = tuple(each.release for each in facts)
    takers = {
        first.release: tuple(each.release for each in facts if predict.predicted(facts[0], each, needs))
    }
    plan = rebuild_plan.least(
        rebuild_plan.PlanRequest(DRIVER, needs, tuple(facts), releases, releases, takers)
    )
    return [each.release for each in plan.builds]


if __name__ == "__main__":
    main()
