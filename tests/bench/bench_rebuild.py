# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One driver for four kernels, as dkms does it on each host, and as it is built here once for each class and
then deployed: processor seconds, and the packages that a host has for it. A small driver and a large one.

dkms works in a small system of Debian's, with the kernels' own modules in place, since both run depmod. Needs
root, mmdebstrap and control groups (they count what a sandbox's processes use, whoever waits for them). What
200 hosts cost is computed from what one costs.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import build
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict, rebuild_plan
from ansible_collections.outoftree.kmod.plugins.module_utils.make import unpack
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels as read_kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko
from demo.rebuild import headers, install, newest
from tests import CHECKOUT
from tests.lab import debian

PACKAGES, KERNELS, HOSTS = ("acpi-call-dkms", "apfs-dkms"), 4, 200
# What dkms and its installed modules are is gone afterwards.
DKMS = r"""
root=$1 source=$2 name=$3 version=$4; shift 4
layers=$(mktemp -d /var/tmp/kmod-bench-XXXXXX); trap 'umount "$layers/root/proc" "$layers/root"; rm -r "$layers"' EXIT
mkdir "$layers/upper" "$layers/work" "$layers/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$layers/upper,workdir=$layers/work" "$layers/root"
mount -t proc proc "$layers/root/proc"
cp -a "$source" "$layers/root/usr/src/$name-$version"
for release; do chroot "$layers/root" dkms install -m "$name" -v "$version" -k "$release"; done
for release; do ls "$layers/root/usr/lib/modules/$release/updates/dkms"; done
"""


class Meter:
    """Processor seconds of all that is started within, by a control group."""

    seconds = 0.0


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    above, usage, unit = _groups()
    group = above / ("kmod-bench-%d" % os.getpid())
    group.mkdir()
    meter = Meter()
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield meter
        (above / "cgroup.procs").write_text(str(os.getpid()))
        found = re.search(usage, (group / ("cpu.stat" if unit == 1e6 else "cpuacct.usage")).read_text())
        assert found
        meter.seconds = int(found.group(1)) / unit
    finally:
        (above / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _groups() -> Tuple[Path, str, float]:
    """Where groups are made (ours, as its members have to come back), how their usage is told, and its unit."""
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    places = {
        line.split(":")[1]: line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().split()
    }
    for _device, place, kind, options, *_rest in mounted:
        if kind == "cgroup" and "cpuacct" in options.split(","):
            name = next(name for name in places if "cpuacct" in name.split(","))
            return Path(place + places[name]), r"(\d+)", 1e9
    for _device, place, kind, *_rest in mounted:
        if kind == "cgroup2":
            return Path(place + places[""]), r"usage_usec (\d+)", 1e6
    raise SystemExit("skipped: there are no control groups here")


class Dkms(NamedTuple):
    """A host with dkms and all that it builds with; what it has more than one without, and what it took to
    install that.
    """

    root: Path
    packages: int
    mebibytes: float
    seconds: float


def dkms_host(kernels: List[debian.Image]) -> Dkms:
    names = [each.release for each in kernels]
    wanted = ["dkms", "gcc", "libc6-dev", "kmod", *("linux-headers-" + name for name in names)]

    def make(temporary: Path) -> None:
        debian.say("making a host with dkms")
        seconds = []
        for name, packages_ in (("root", wanted), ("plain", ["kmod"])):
            with metered() as meter:
                debian.system("bookworm", temporary / name, packages_)
            seconds.append(meter.seconds)
        (temporary / "seconds").write_text(json.dumps(seconds[0] - seconds[1]))
        for kernel in kernels:
            tree = debian.tree(kernel) / "usr/lib/modules" / kernel.release
            debian.run(
                ["cp", "-a", str(tree) + "/.", str(temporary / "root/usr/lib/modules" / kernel.release)]
            )

    place = debian.once(debian.cache() / "chroots" / ("dkms-bench-%s-%s" % (names[0], names[-1])), make)
    plain = packages(place / "plain")
    more = [size for name, size in packages(place / "root").items() if name not in plain]
    return Dkms(place / "root", len(more), sum(more) / 1024, json.loads((place / "seconds").read_text()))


def packages(root: Path) -> Dict[str, int]:
    """Installed ones by name, in KiB."""
    admin = str(root / "var/lib/dpkg")
    argv = ["dpkg-query", "--admindir", admin, "-W", "-f", "${Package} ${Installed-Size}\n"]
    return {
        name: int(size or 0) for name, size in (line.split(" ") for line in debian.run(argv).splitlines())
    }


def by_dkms(host: Dkms, source: Path, name: str, version: str, kernels: List[debian.Image]) -> float:
    argv = ["unshare", "--mount", "bash", "-ec", DKMS, "bash", str(host.root), str(source), name, version]
    with metered() as meter:
        said = subprocess.run(
            [*argv, *(each.release for each in kernels)], capture_output=True, text=True, check=False
        )
    assert said.returncode == 0, said.stdout + said.stderr
    assert len(re.findall(r"^\S+\.ko", said.stdout, re.M)) >= len(kernels), said.stdout
    return meter.seconds


class Ours(NamedTuple):
    builds: int
    headers: float  # seconds to unpack them
    seconds: float  # of the builds
    link: float  # on each host


def by_us(source: Path, driver: str, version: str, kernels: List[debian.Image]) -> Ours:
    with tempfile.TemporaryDirectory(prefix="kmod-bench-") as directory:
        store, root = Path(directory, "store"), Path(directory, "host")
        there = {}
        with metered() as fetching:
            for kernel in kernels:
                given = [str(path) for path in headers(kernel)]
                there[kernel.release] = unpack.packages(given, directory + "/headers", kernel.release)
        made: List[build.Answer] = []

        def compiled(release: str) -> None:
            options = build.Options(
                driver, str(source), release, str(store), version, headers=(there[release],)
            )
            made.append(build.run(Host("/"), options))

        for kernel in kernels:
            install(root, kernel)
        with metered() as building:
            compiled(kernels[0].release)
            for release in planned(root, made[0]):
                compiled(release)
        assert all(each.result == "built" for each in made), made
        kmodctl = directory + "/kmodctl"
        debian.run([sys.executable, str(CHECKOUT / "tools/build_kmodctl.py"), kmodctl])
        argv = [sys.executable, kmodctl, "link", "--root", str(root), "--driver", driver]
        with metered() as linking:
            debian.run([*argv, str(store / driver / version)])
        for kernel in kernels:
            dep = (root / "usr/lib/modules" / kernel.release / "modules.dep").read_text()
            assert "/%s/" % driver in dep, kernel.release
    return Ours(len(made), fetching.seconds, building.seconds, linking.seconds)


def planned(root: Path, first: build.Answer) -> List[str]:
    """The other builds that are needed, by what the first one needs."""
    needs = predict.needs([ko.read(Host("/"), path) for path in first.modules])
    facts = [predict.facts(each, needs.symbols) for each in read_kernels.installed(Host(str(root)))]
    releases = tuple(each.release for each in facts)
    takers = tuple(each.release for each in facts if predict.predicted(facts[0], each, needs))
    plan = rebuild_plan.least(
        rebuild_plan.PlanRequest(
            first.driver, needs, tuple(facts), releases, releases, {first.release: takers}
        )
    )
    return [each.release for each in plan.builds]


def bench(package: str, kernels: List[debian.Image], host: Dkms) -> None:
    source = next(debian.unpack(debian.package(package, "bookworm")).glob("usr/src/*"))
    text = (source / "dkms.conf").read_text()
    name, version = (
        re.search(r"^%s=[\"']?([^\"'\s]+)" % key, text, re.M).group(1)  # type: ignore[union-attr]
        for key in ("PACKAGE_NAME", "PACKAGE_VERSION")
    )
    theirs = by_dkms(host, source, name, version, kernels)
    ours = by_us(source, package.rpartition("-")[0], version, kernels)
    print("%s %s for %s" % (name, version, " ".join(each.release for each in kernels)))
    rows = [
        ("dkms: a host, %d builds and modules installed" % len(kernels), theirs, ""),
        ("dkms: the packages for it installed", host.seconds, ""),
        ("here: headers of %d kernels unpacked, once" % len(kernels), ours.headers, ""),
        ("here: %d builds, judged and stored, once" % ours.builds, ours.seconds, ""),
        ("here: a host, modules linked for %d kernels" % len(kernels), ours.link, ""),
    ]
    for hosts in (1, HOSTS):
        dkms = hosts * theirs
        here = ours.headers + ours.seconds + hosts * ours.link
        plural = "s" if hosts > 1 else ""
        rows.append(("dkms: %d host%s" % (hosts, plural), dkms, ""))
        rows.append(
            ("here: %d host%s and a build host" % (hosts, plural), here, "   %.1f times less" % (dkms / here))
        )
    every = HOSTS * (theirs + host.seconds)
    here = ours.headers + ours.seconds + HOSTS * ours.link + host.seconds
    rows.append(("dkms: %d hosts, packages installed" % HOSTS, every, ""))
    rows.append(("here: the same, on the build host alone", here, "   %.1f times less" % (every / here)))
    for what, seconds, more in rows:
        print("  %-50s %8.1f CPU s%s" % (what, seconds, more))


def main() -> None:
    reason = debian.available()
    if reason:
        raise SystemExit("skipped: " + reason)
    kernels = newest(KERNELS)
    host = dkms_host(kernels)
    for package in PACKAGES:
        bench(package, kernels, host)
    print("packages for it")
    print("  %-50s %8d, %.0f MiB" % ("dkms: on each host", host.packages, host.mebibytes))
    print(
        "  %-50s %8d, %.0f GiB"
        % ("dkms: on %d hosts" % HOSTS, host.packages * HOSTS, host.mebibytes * HOSTS / 1024)
    )
    print("  %-50s %8d; on the build host as many as dkms has on each" % ("here: on %d hosts" % HOSTS, 0))


if __name__ == "__main__":
    main()
