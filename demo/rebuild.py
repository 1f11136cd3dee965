# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make demo-rebuild: a driver of Debian's is compiled for kernels that three directory hosts have, and for those
that they are about to get: once for each class, before anybody updates.

Everything happens below build/demo, on real headers and kernels. Ends with status 1 if a promise was not kept.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, sandbox
from ansible_collections.outoftree.kmod.plugins.module_utils.read import signature
from demo.__main__ import OFFER, WORK, check, play, say, trouble
from tests import CHECKOUT
from tests.forge.fleet import hardlink_tree, write
from tests.lab import debian

DRIVER, PACKAGE = "acpi-call", "acpi-call-dkms"
STORE = WORK / "builds"
HOSTS = ("web1", "web2", "db1")  # which have the oldest of the kernels at first
KERNELS = 4  # of so many some are of one class, and some are not


def main() -> int:
    begun = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    (WORK / "ansible.cfg").touch()
    debian.borrow_kmod()
    try:
        reason = debian.available()
        sandbox.check()
    except KmodError as error:
        reason = str(error)
    if reason:
        print("Nothing can be compiled here: %s" % reason)
        return 1
    say("Kernels, their headers, and the source of a driver")
    kernels = newest(KERNELS)
    packages = [str(path) for kernel in kernels for path in headers(kernel)]
    unpacked = debian.unpack(debian.package(PACKAGE, "bookworm"))
    source = next(unpacked.glob("usr/src/*/dkms.conf")).parent
    version = source.name.rpartition("-")[2]
    for kernel in kernels:
        print("  %s, and %s" % (kernel.package, "linux-headers-" + kernel.release), flush=True)
    print("  %s %s" % (PACKAGE, version))
    roots = {name: WORK / "fleet" / name for name in HOSTS}
    for root in roots.values():
        install(root, kernels[0])
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Modules of example.com"]
    argv += ["-days", "30", "-keyout", str(WORK / "modules.pem"), "-out", str(WORK / "modules.crt")]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    (WORK / "sources.json").write_text(
        json.dumps(
            {
                "kmod_store": str(STORE),
                "kmod_sources": {DRIVER: {"source": str(source), "version": version, "headers": packages}},
                "kmod_sign": {"key": str(WORK / "modules.pem"), "certificate": str(WORK / "modules.crt")},
                "kmod_install": True,
                "kmod_initrd": False,
            },
            indent=1,
        )
    )
    prepared = time.monotonic()

    rebuild = ["outoftree.kmod.rebuild", "-e", "@%s" % (WORK / "sources.json").relative_to(CHECKOUT)]
    first = play(roots, *rebuild)
    there = releases(version)
    failed = [
        check(
            "the driver was built once for the kernel that the hosts have",
            not trouble(first) and there == [kernels[0].release],
        ),
        check("each host has the build for each of its kernels, signed", all(map(served, roots.values()))),
    ]

    for root in roots.values():
        for path in (path for kernel in kernels for path in small(kernel)):
            write(root / OFFER[1:] / path.name, path.read_bytes())
    say("Newer kernels are on offer: nothing of them is known but their headers, 3 MB each")
    (WORK / "offer.json").write_text(
        json.dumps({"kmod_kernel": [{"package": [OFFER]}], "kmod_deploy": False}, indent=1)
    )
    second = play(roots, *rebuild, "-e", "@%s" % (WORK / "offer.json").relative_to(CHECKOUT))
    answer = results(second)
    new = [row for row in answer.get("builds", []) if row["release"] not in there]
    failed += [
        check(
            "what the update would break was built before it: %d build%s for %s"
            % (len(new), "s"[: len(new) != 1], ", ".join(k for row in new for k in row["serves"])),
            not trouble(second) and all(row["result"] == "built" for row in new),
        ),
        check(
            "and it was known beforehand which kernels take which build", all(row["certain"] for row in new)
        ),
    ]

    say("The hosts are updated")
    for root in roots.values():
        for kernel in kernels:
            install(root, kernel)
    before = {path: path.stat().st_mtime_ns for path in STORE.rglob("*.ko")}
    third = play(roots, *rebuild)
    failed += [
        check(
            "nothing is left to build",
            not trouble(third) and before == {path: path.stat().st_mtime_ns for path in STORE.rglob("*.ko")},
        ),
        check("every kernel of every host has the driver", all(map(served, roots.values()))),
    ]
    print(
        "\n%d hosts, %d kernels, %d builds, %.0f s (after %.0f s to fetch and unpack)"
        % (len(roots), len(kernels), len(releases(version)), time.monotonic() - prepared, prepared - begun)
    )
    return 1 if any(failed) else 0


def newest(count: int) -> list[debian.Image]:
    """The newest kernels of a suite that can be had with their headers, oldest first."""
    found: list[debian.Image] = []
    offered = debian.kernels("bookworm", "amd64", "cloud-amd64")
    series = (
        ".".join(offered[0].release.split(".")[:2]) + "."
    )  # newer ones are backports, and never neighbours
    for kernel in reversed([each for each in offered if each.release.startswith(series)]):
        if len(found) < count:
            try:
                headers(kernel)
                debian.tree(kernel)
                found.insert(0, kernel)
            except debian.LabError as error:  # an index may list what the mirror has dropped
                print("  left out: %s" % str(error).splitlines()[0])
    return found


def headers(kernel: debian.Image) -> list[Path]:
    """The packages that a module is compiled with."""
    name = "linux-headers-" + kernel.release
    small(kernel)
    return debian._with_dependencies(
        kernel, name, lambda each: each.startswith(("linux-headers-", "linux-kbuild-"))
    )


def small(kernel: debian.Image) -> list[Path]:
    """The package by which a kernel is judged."""
    return [debian.package("linux-headers-" + kernel.release, kernel.suite, kernel.arch, kernel.version)]


def install(root: Path, kernel: debian.Image) -> None:
    modules = root / "usr/lib/modules" / kernel.release
    if not modules.exists():
        hardlink_tree(debian.tree(kernel) / "usr/lib/modules", root / "usr/lib/modules")
        hardlink_tree(debian.tree(kernel) / "boot", root / "boot")
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")


def releases(version: str) -> list[str]:
    """Those that the store has a build for."""
    return [build.release for build in build_store.entries(str(STORE), DRIVER) if build.version == version]


def results(run: dict) -> dict:
    return next((host["kmod_rebuild"] for host in run["results"].values() if "kmod_rebuild" in host), {})


def served(root: Path) -> bool:
    """Whether modprobe finds a signed module of the driver for each kernel of a host."""
    found = []
    for kernel in (root / "usr/lib/modules").iterdir():
        name = re.search(r"^(\S*/acpi_call\.ko):", (kernel / "modules.dep").read_text(), re.M)
        signed = signature.split((kernel / name.group(1)).read_bytes())[1] if name else None
        found.append(signed is not None and signed.signer == "Modules of example.com")
    return all(found)


if __name__ == "__main__":
    sys.exit(main())
