# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""apt: kernels are packages of ever new names, which meta packages (linux-image-amd64) lead to.

What a host follows are the meta packages that it has; without any, the flavours and sources (linux, linux-6.12)
of its kernels. Asked by apt's own commands, as any user, with caches of our own in the place of the host's.
"""

import os
import re
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ...host import Host
from ..kernels import version_key
from . import manager
from .manager import ALL, DOWNLOAD, Asking, OfferedKernel, OfferedPackage, Offers, ask, said

STATUS = "/var/lib/dpkg/status"
LISTS = "/var/lib/apt/lists"
# When the lists were fetched last: apt's hook on Ubuntu and with update-notifier, else what apt itself changes
STAMPS = ("/var/lib/apt/periodic/update-success-stamp", LISTS, LISTS + "/partial")
IMAGES = ("linux-image-", "proxmox-kernel-", "pve-kernel-")
_IMAGE = re.compile(r"(?:linux-image|proxmox-kernel|pve-kernel)-(\d+\.\d+[^\s_]*?)(-signed)?")
_NO_IMAGE = re.compile(r"-(dbg|dbgsym|unsigned|template)$")
# What leads to kernels, and to nothing else that is asked for here
_META = re.compile(
    r"(linux|proxmox|pve)-(?!.*(headers|tools|libc|source|doc|base|firmware|compiler|kbuild|perf|cpupower))"
)
_PARTS = ("linux-binary-", "linux-modules-", "linux-modules-extra-", "linux-main-modules-")
_HEADERS = ("linux-headers-", "proxmox-headers-", "pve-headers-")
Stanza = Dict[str, str]


class Apt(manager.PackageManager):
    name = "apt"

    def offers(self, asking: Asking, which: str) -> Offers:
        lists = AptLists(asking)
        missing = lists.missing()
        had = lists.had()
        images = lists.led_to(had)
        if which == ALL or not images:
            mine = [each for each in had if _release(each)] or lists.of(asking.installed)
            flavours, sources = _kinds([*images, *mine], asking.installed)
            images += [
                each
                for each in lists.images()
                if (not flavours or _flavour(_release(each)) in flavours)
                and (not sources or _source(each) in sources)
            ]
        if not images:
            raise manager.none(
                self.name, "its lists have no package of a kernel of the flavours that the host has"
            )
        fresh = _fresh(images, had, asking.installed, which=which)
        return Offers(
            self.name,
            manager.age(asking.host, STAMPS),
            manager.ordered(lists.kernel(each, newest) for each, newest in fresh),
            missing,
        )

    def fetch(self, asking: Asking, packages: Sequence[OfferedPackage], directory: str) -> None:
        names = ["%s:%s=%s" % (each.name, each.arch, each.version) for each in packages]
        patience = ["Acquire::Retries=1"] + [
            "Acquire::%s::Timeout=%d" % (way, manager.SILENT) for way in ("http", "https", "ftp")
        ]
        patient = [word for each in patience for word in ("-o", each)]
        done = ask(
            asking,
            ["apt-get", *options(asking), *patient, "download", *names],
            directory=directory,
            limit=DOWNLOAD,
        )
        if done.status:
            if re.search("Hash Sum mismatch|unexpected size", done.err + done.out):
                raise manager.damaged(self.name, said(done))
            if "could not be authenticated" in done.err:
                raise manager.unsigned(self.name, said(done))
            raise manager.unreachable(self.name, said(done))


class AptLists:
    """What apt's lists say, each package's stanzas with the newest first."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.known: Dict[str, List[Stanza]] = {}
        self._run("apt-cache", "gencaches")  # once, and not for each question

    def missing(self) -> Tuple[str, ...]:
        """The repositories of which no list was ever fetched. Errors: OFFERED_NO_LISTS, OFFERED_BROKEN."""
        done = self._run("apt-get", "update", "--print-uris")
        wanted = re.findall(r"^'(\S+)/(?:In)?Release' (\S+)_(?:In)?Release\b", done.out, re.M)
        there = self.asking.host.listdir(LISTS)
        lacking = tuple(uri for uri, name in wanted if not any(each.startswith(name + "_") for each in there))
        if not any("_Packages" in each for each in there):
            raise manager.no_lists(
                "apt",
                "has no lists of packages on this host",
                "Run apt-get update there",
            )
        return lacking

    def had(self) -> List[Stanza]:
        """The packages about kernels that the host has."""
        host = self.asking.host
        text = host.read_text(STATUS, 256 << 20) if host.is_file(STATUS) else ""
        return [
            each
            for each in _stanzas(text)
            if each.get("Status", "").endswith(" installed") and _META.match(each["Package"])
        ]

    def led_to(self, had: Sequence[Stanza]) -> List[Stanza]:
        """The images that the host's meta packages lead to, as they would be upgraded now."""
        todo = [each["Package"] for each in had if _release(each) is None or self._leads(each)]
        found: Dict[str, Stanza] = {}
        seen: Set[str] = set()
        while todo:
            names, todo = [name for name in dict.fromkeys(todo) if name not in seen], []
            seen.update(names)
            for stanza in self._show(names, candidate=True) if names else ():
                for name, version in _depends(stanza):
                    image = self._image(name, version)
                    if image:
                        found.setdefault(name, image)
                    elif _META.match(name):
                        todo.append(name)
        return list(found.values())

    def _image(self, name: str, version: Optional[str]) -> Optional[Stanza]:
        """The package of a kernel, not of what leads to one; held ones too: what apt's pins say of it does not
        count, since kernels are held back there until there is a driver for them.
        """
        every = self._show([name]) if _IMAGE.fullmatch(name) and not _NO_IMAGE.search(name) else []
        exact = [each for each in every if each["Version"] == version] or every[:1]
        return exact[0] if exact and not self._leads(exact[0]) else None

    def _leads(self, stanza: Stanza) -> bool:
        """Whether what is called like a kernel (linux-image-6.12-amd64) leads to one."""
        own = _release(stanza)
        others = [_IMAGE.fullmatch(name) for name, _version in _depends(stanza)]
        return any(other and other.group(1) != own for other in others)

    def images(self) -> List[Stanza]:
        names = [name for prefix in IMAGES for name in self._names(prefix)]
        wanted = [name for name in names if _IMAGE.fullmatch(name) and not _NO_IMAGE.search(name)]
        found: Dict[str, Stanza] = {}
        for stanza in self._show(wanted):
            found.setdefault(stanza["Package"], stanza)
        return [each for each in found.values() if not self._leads(each)]

    def of(self, releases: Sequence[str]) -> List[Stanza]:
        return self._show([prefix + release for prefix in IMAGES for release in releases])

    def kernel(self, image: Stanza, newest: bool) -> OfferedKernel:
        release = _release(image) or ""
        # Ubuntu's modules, and what sid has split off: by the dependencies that name the release
        whole, todo = {image["Package"]: image}, [image]
        while todo:
            names = [name for name, _version in _depends(todo.pop()) if release in name]
            parts = [name for name in names if not name.startswith(_HEADERS) and name not in whole]
            for name in parts + ["linux-modules-extra-" + release] * (len(whole) == 1):
                stanza = self._alike(name, image)
                if stanza and not _NO_IMAGE.search(name):
                    whole[name] = stanza
                    todo.append(stanza)
        headers = [self._alike(prefix + release, image) for prefix in _HEADERS]
        small = [each for each in headers if each][:1]
        return OfferedKernel(
            release, tuple(map(_package, small)), tuple(map(_package, whole.values())), newest
        )

    def _alike(self, name: str, image: Stanza) -> Optional[Stanza]:
        """The package of the image's own version, else the newest."""
        every = self._show([name])
        return next(
            (each for each in every if each["Version"] == image["Version"]), every[0] if every else None
        )

    def _names(self, prefix: str) -> List[str]:
        return sorted(self._run("apt-cache", "pkgnames", prefix).out.split())

    def _show(self, names: Iterable[str], *, candidate: bool = False) -> List[Stanza]:
        """The stanzas of packages, those unknown left out; ``candidate``: what apt would install alone, so
        that the host's pins count.
        """
        names = list(dict.fromkeys(names))
        new = [name for name in names if name not in self.known]
        if candidate or new:
            option = ["--no-all-versions"] if candidate else []
            done = self._run("apt-cache", "show", *option, *(names if candidate else new), check=False)
            found = list(_stanzas(done.out))
            if candidate:
                return found
            self.known.update((name, []) for name in new)
            for stanza in found:
                if "Filename" in stanza:  # not what is known by its being installed alone
                    self.known.setdefault(stanza["Package"], []).append(stanza)
        return [stanza for name in names for stanza in self.known[name]]

    def _run(self, *argv: str, check: bool = True) -> "manager.tools.Completed":
        done = ask(self.asking, [argv[0], *options(self.asking), *argv[1:]])
        if done.status and (check or not re.search("No packages found|Unable to locate", done.err)):
            raise manager.broken("apt", said(done))
        return done


def options(asking: Asking) -> List[str]:
    """Caches of our own; of another root all else is that one's."""
    cache = os.path.join(asking.scratch, "apt")
    os.makedirs(os.path.join(cache, "archives", "partial"), exist_ok=True)
    # containers have these set to nothing
    files = ["Dir::Cache::%s=%s.bin" % (name, name) for name in ("pkgcache", "srcpkgcache")]
    # others go on with their work, and no file of a lock is made
    found = ["Dir::Cache=" + cache, *files, "Debug::NoLocking=true"]
    host: Host = asking.host
    if not host.live:
        found += ["Dir=" + host.root, "Dir::State::status=" + host.real(STATUS)]
        arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(asking.machine)
        found += ["APT::Architecture=" + arch, "APT::Architectures=" + arch] if arch else []
    return [word for each in found for word in ("-o", each)]


def _stanzas(text: str) -> Iterator[Stanza]:
    for block in re.split(r"\n\s*\n", text):
        rows = re.findall(r"^(\S[^:\n]*):[ \t]*(.*(?:\n[ \t].*)*)", block, re.M)
        stanza = {key: value.strip() for key, value in rows}
        if "Package" in stanza and "Version" in stanza:
            yield stanza


def _depends(stanza: Stanza) -> List[Tuple[str, Optional[str]]]:
    """(package, the one version of it that will do) of all alternatives."""
    text = ",".join(stanza.get(key, "") for key in ("Depends", "Pre-Depends"))
    rows = re.findall(r"([a-z0-9][a-z0-9.+-]+)(?::\w+)?\s*(?:\(\s*(=|>=|<=|>>|<<)\s*([^)\s]+)\s*\))?", text)
    return [(name, version if relation == "=" else None) for name, relation, version in rows]


def _release(stanza: Stanza) -> Optional[str]:
    found = _IMAGE.fullmatch(stanza["Package"])
    return found.group(1) if found and not _NO_IMAGE.search(stanza["Package"]) else None


def _source(stanza: Stanza) -> str:
    """``linux``, ``linux-signed-amd64``: of one series of kernels, whoever signed them."""
    return re.sub(r"-signed(?=-|$)", "", stanza.get("Source", stanza["Package"]).split(" ")[0])


def _flavour(release: Optional[str]) -> str:
    """amd64 of 6.1.0-56-amd64, rt-amd64 of 6.12.115+deb12-rt-amd64, generic of 6.8.0-45-generic."""
    words = (release or "").split("-")[1:]
    while words and re.match(r"\d|rc\d", words[0]):
        words.pop(0)
    return "-".join(words)


def _kinds(images: Sequence[Stanza], installed: Iterable[str]) -> Tuple[Set[str], Set[str]]:
    """The flavours and the sources of kernels."""
    flavours = {_flavour(_release(each)) for each in images} | set(map(_flavour, installed))
    return flavours, set(map(_source, images))


def _fresh(
    images: Sequence[Stanza], had: Sequence[Stanza], installed: Sequence[str], *, which: str
) -> Iterator[Tuple[Stanza, bool]]:
    """Those that the host has not got: newer kernels of each flavour, and newer packages of one that it has;
    and whether each is the newest of its flavour.
    """
    versions = {each["Package"]: each["Version"] for each in had}
    by_flavour: Dict[str, Dict[str, Stanza]] = {}
    for image in images:
        release = _release(image) or ""
        by_flavour.setdefault(_flavour(release), {}).setdefault(release, image)
    for flavour, found in by_flavour.items():
        mine = [release for release in installed if _flavour(release) == flavour]
        newest = max(map(version_key, mine), default=None)

        def is_news(release: str, image: Stanza, mine: Sequence[str] = mine, newest: Any = newest) -> bool:
            version = versions.get(image["Package"]) if release in mine else None
            if version is not None:
                return version_key(image["Version"]) > version_key(version)
            return newest is None or version_key(release) > newest

        news = [image for release, image in found.items() if is_news(release, image)]
        news.sort(key=lambda image: version_key(_release(image) or ""))
        for image in news if which == ALL else news[-1:]:
            yield image, image is news[-1]


def _package(stanza: Stanza) -> OfferedPackage:
    return OfferedPackage(
        stanza["Package"],
        stanza["Version"],
        stanza.get("Architecture", ""),
        digest=stanza.get("SHA256", ""),
    )
