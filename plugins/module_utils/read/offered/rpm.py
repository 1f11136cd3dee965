# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dnf 4, dnf 5, and yum of EL 7 with yum-utils: kernels are further versions of packages that a host has.

Lists are asked as they lie on the host (``-C``), as any user. What the configuration's [main] excludes is not
left out: kernels are held back there until there is a driver for them, and that is what is to be found out.
"""

import os
import re
from typing import Dict, Iterable, List, Optional, Sequence, Set

from .. import os_release
from ..export_sources import SourcedExports
from ..kernels import version_key
from . import manager
from .manager import ALL, DOWNLOAD, Asking, OfferedKernel, OfferedPackage, Offers, ask, said

DATABASES = ("rpmdb.sqlite", "Packages", "Packages.db")
PLACES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
# What is called kernel-something, and is no kernel
_OTHER = re.compile(
    r"-(devel|headers|modules|tools|libs|docs?|debug(info|source)?|abi|stablelists|srpm|rpm|macros|internal|partner"
    r"|matched|cross|selftests|syms|source|firmware|livepatch|uki|virt|addons|common|debuginfo|extra|core-debug)\b"
)
USUAL = ("kernel-core", "kernel")
FORMAT = r"%{name}\t%{epoch}\t%{version}\t%{release}\t%{arch}\t%{repoid}"


class Dnf(manager.PackageManager):
    """dnf 4, as Enterprise Linux 8 to 10 have it."""

    name = "dnf"
    caches = "/var/cache/dnf"
    plugin = "dnf-plugins-core"
    refresh = "dnf makecache"

    def offers(self, asking: Asking, which: str) -> Offers:
        found: List[OfferedKernel] = []
        repositories: Set[str] = set()
        had = _images(asking)
        for name in had or USUAL:
            packages = self._query(asking, ["--available", name])
            mine = [each for each in packages if each.name == name and each.arch == asking.machine]
            repositories.update(each.repository for each in mine)
            for each in _newer(mine, had.get(name, ()), asking.installed, which=which):
                found.append(self._kernel(asking, each)._replace(newest=each is mine[-1]))
            if mine and not had:
                break
        if not repositories:
            raise manager.none(self.name, "no %s in its lists" % " or ".join(had or USUAL))
        return Offers(self.name, self._age(asking, repositories), manager.ordered(found))

    def _kernel(self, asking: Asking, image: OfferedPackage) -> OfferedKernel:
        base = re.sub(r"-core$", "", image.name)
        every = {
            each.name: each
            for each in self._query(asking, ["--available", "%s*-%s" % (base, _evra(image, epoch=False))])
            if each.version == image.version and each.arch == image.arch
        }
        small = [every[name] for name in (base + "-devel",) if name in every]
        parts = (base + "-modules-core", base + "-modules")
        release = manager.release_of(self._provides(asking, image)) or _uname(image)
        return OfferedKernel(
            release, tuple(small), (image, *(every[name] for name in parts if name in every))
        )

    def versions(self, asking: Asking, kernel: OfferedKernel) -> Optional[SourcedExports]:
        image = kernel.whole[0]
        return manager.of_provides(
            self._provides(asking, image), "what the lists say that %s provides" % str(image)
        )

    def fetch(self, asking: Asking, packages: Sequence[OfferedPackage], directory: str) -> None:
        argv = self._download(asking, directory) + [_nevra(each) for each in packages]
        done = ask(asking, argv, directory=directory, limit=DOWNLOAD)
        if re.search("No such command|invalid choice|Unknown argument", done.err):
            raise manager.broken(self.name, "it has no command to download: install %s" % self.plugin)
        gone = re.search("Error opening .*No such file", done.err)
        if not gone and re.search(
            "incorrect checksum|checksum doesn't match|[Cc]hecksum error|truncated", done.err
        ):
            raise manager.damaged(self.name, said(done))
        if done.status or len(os.listdir(directory)) < len(packages):
            raise manager.unreachable(self.name, said(done))

    # How its commands are called

    def _common(self, asking: Asking) -> List[str]:
        logs = os.path.join(asking.scratch, self.name)
        os.makedirs(logs, exist_ok=True)
        host = asking.host
        settings = {"logdir": logs, "persistdir": logs, "cachedir": host.real(self.caches)}
        options: List[str] = []
        if not host.live:
            settings["reposdir"] = host.real("/etc/yum.repos.d")
            settings["varsdir"] = ",".join(map(host.real, ("/etc/dnf/vars", "/etc/yum/vars")))
            options += self._config(asking)
            version = os_release.read(host).get("VERSION_ID", "").split(".")[0]
            options += ["--releasever=%s" % (version or "0")]
            options += ["--forcearch=" + asking.machine] if asking.machine else []
        return ["-q", "-y", *options, *("--setopt=%s=%s" % each for each in sorted(settings.items()))]

    def _config(self, asking: Asking) -> List[str]:
        path = next(
            (each for each in ("/etc/dnf/dnf.conf", "/etc/yum.conf") if asking.host.is_file(each)), None
        )
        return ["--config=" + (asking.host.real(path) if path else os.devnull)]

    def _query(self, asking: Asking, argv: Sequence[str]) -> List[OfferedPackage]:
        """Oldest first."""
        rows = manager.lines(self._asked(asking, ["--qf", FORMAT, *argv]).out)
        found = [
            OfferedPackage(name, "%s:%s-%s" % (epoch, version, release), arch, repository)
            for name, epoch, version, release, arch, repository in (row for row in rows if len(row) == 6)
        ]
        return sorted(dict.fromkeys(found), key=lambda each: version_key(each.version))

    def _provides(self, asking: Asking, package: OfferedPackage) -> str:
        return self._asked(asking, ["--available", "--provides", _nevra(package)]).out

    def _asked(self, asking: Asking, argv: Sequence[str]) -> "manager.tools.Completed":
        done = ask(asking, [*self._program(asking), *argv])
        if done.status:
            if re.search("no cache for|[Cc]ache-only|not available in offline|No Cache available", done.err):
                raise manager.no_lists(
                    self.name,
                    "has no lists of packages on this host: %s" % said(done),
                    "Run %s there" % self.refresh,
                )
            raise manager.broken(self.name, said(done))
        return done

    def _program(self, asking: Asking) -> List[str]:
        # without plugins: one writes into the cache, another (versionlock) leaves out what is held back
        return ["dnf", "-C", "--noplugins", *self._common(asking), "--disableexcludes=main", "repoquery"]

    def _download(self, asking: Asking, directory: str) -> List[str]:
        patient = [
            "--setopt=*.metadata_expire=-1",
            "--setopt=timeout=%d" % manager.SILENT,
            "--setopt=retries=2",
        ]
        return [
            *("dnf", "--disableplugin=local", "--disableplugin=versionlock"),
            *self._common(asking),
            *patient,
            "--disableexcludes=main",
            "download",
            "--destdir",
            directory,
        ]

    def _age(self, asking: Asking, repositories: Iterable[str]) -> Optional[int]:
        top, host = self.caches, asking.host
        found = [
            "%s/%s/repodata/repomd.xml" % (top, name)
            for name in host.listdir(top)
            if name.rpartition("-")[0] in repositories
        ]
        return manager.age(host, found, oldest=True)


class Dnf5(Dnf):
    """dnf 5, as Fedora 41 and later have it."""

    name = "dnf5"
    caches = "/var/cache/libdnf5"
    plugin = "dnf5-plugins"
    refresh = "dnf5 makecache"

    def _asked(self, asking: Asking, argv: Sequence[str]) -> "manager.tools.Completed":
        # it puts no end of line behind each
        words = [
            "--queryformat=%s\\n" % FORMAT if word == FORMAT else word for word in argv if word != "--qf"
        ]
        return super()._asked(asking, words)

    def _program(self, asking: Asking) -> List[str]:
        return ["dnf5", "-C", *self._common(asking), "--setopt=disable_excludes=main", "repoquery"]

    def _download(self, asking: Asking, directory: str) -> List[str]:
        patient = ["--setopt=*.metadata_expire=-1", "--setopt=timeout=%d" % manager.SILENT]
        return [
            *("dnf5", *self._common(asking), *patient),
            *("--setopt=disable_excludes=main", "download", "--destdir", directory),
        ]


class Yum(Dnf):
    """yum 3 of Enterprise Linux 7, by the commands of yum-utils."""

    name = "yum"
    caches = "/var/cache/yum"
    plugin = "yum-utils"
    refresh = "yum makecache"

    def _common(self, asking: Asking) -> List[str]:
        return [] if asking.host.live else self._config(asking)

    def _config(self, asking: Asking) -> List[str]:
        return ["--config=" + asking.host.real("/etc/yum.conf")]

    def _asked(self, asking: Asking, argv: Sequence[str]) -> "manager.tools.Completed":
        return super()._asked(asking, [word for word in argv if word != "--available"])

    def _program(self, asking: Asking) -> List[str]:
        return ["repoquery", "-C", "--show-duplicates", *self._common(asking)]

    def _download(self, asking: Asking, directory: str) -> List[str]:
        return ["yumdownloader", *self._common(asking), "--destdir", directory]

    def _age(self, asking: Asking, repositories: Iterable[str]) -> Optional[int]:
        """Its caches lie at ARCH/RELEASE/REPOSITORY."""
        host, found = asking.host, []
        for arch in host.listdir(self.caches):
            for release in host.listdir("%s/%s" % (self.caches, arch)):
                found += [
                    "%s/%s/%s/%s/repomd.xml" % (self.caches, arch, release, each) for each in repositories
                ]
        return manager.age(host, found, oldest=True)


def _images(asking: Asking) -> Dict[str, List[str]]:
    """The packages that the host's kernels came in (kernel-core, kernel-rt-core, kernel on EL 7, kernel-uek),
    and the VERSION-RELEASE of each that is installed.
    """
    host = asking.host
    place = next(
        (each for each in PLACES if any(host.is_file("%s/%s" % (each, name)) for name in DATABASES)), None
    )
    if place is None:  # rpm would make one
        return {}
    options = [] if host.live else ["--dbpath", host.real(place)]
    done = ask(asking, ["rpm", *options, "-qa", "--qf", "%{NAME}\\t%{VERSION}-%{RELEASE}\\n", "kernel*"])
    if done.status:
        raise manager.broken("rpm", said(done))
    found: Dict[str, List[str]] = {}
    for name, version in manager.lines(done.out):
        if not _OTHER.search(name):
            found.setdefault(name, []).append(version)
    return {name: versions for name, versions in sorted(found.items()) if name + "-core" not in found}


def _newer(
    packages: Sequence[OfferedPackage], had: Sequence[str], installed: Sequence[str], *, which: str
) -> List[OfferedPackage]:
    """Those newer than the newest of their name that is installed, oldest first.

    Where no database of rpm tells, by the releases of the kernels that are.
    """
    newest = max(map(version_key, had or [_bare(release) for release in installed]), default=None)
    found = [each for each in packages if newest is None or version_key(_evr(each)) > newest]
    return found if which == ALL else found[-1:]


def _kind(name: str) -> str:
    return re.sub(r"^kernel-?|-?core$", "", name)


def _bare(release: str) -> str:
    """VERSION-RELEASE of a kernel's release, without the architecture and what follows."""
    return re.sub(r"\.(x86_64|aarch64|ppc64le|s390x|i686|riscv64)(\+.*)?$", "", release)


def _evr(package: OfferedPackage) -> str:
    return package.version.partition(":")[2]


def _uname(package: OfferedPackage) -> str:
    """What ``uname -r`` says of it, where its package does not: VERSION-RELEASE.ARCH, and a flavour."""
    kind = _kind(package.name)
    return "%s.%s%s" % (_evr(package), package.arch, "+" + kind if kind else "")


def _evra(package: OfferedPackage, *, epoch: bool = True) -> str:
    return "%s.%s" % (package.version if epoch else _evr(package), package.arch)


def _nevra(package: OfferedPackage) -> str:
    return "%s-%s" % (package.name, _evra(package, epoch=not package.version.startswith("0:")))
