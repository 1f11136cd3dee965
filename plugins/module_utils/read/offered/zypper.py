# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""zypper of SUSE: kernel-FLAVOUR, and kernel-FLAVOUR-devel with its headers (openSUSE/kernel-source)."""

import os
import re
import shutil
from typing import List, Optional, Sequence
from xml.etree import ElementTree

from ..export_sources import SourcedExports
from ..kernels import version_key
from . import manager
from .manager import DOWNLOAD, Asking, OfferedKernel, OfferedPackage, Offers, ask, said

CACHE = "/var/cache/zypp"
NOT_FOUND = 104  # zypper(8): ZYPPER_EXIT_INF_CAP_NOT_FOUND
SKIPPED = 106  # ZYPPER_EXIT_INF_REPOS_SKIPPED
NO_REPOSITORIES = 6  # ZYPPER_EXIT_NO_REPOS


class Zypper(manager.PackageManager):
    name = "zypper"

    def offers(self, asking: Asking, which: str) -> Offers:
        flavours = sorted({_flavour(release) for release in asking.installed}) or ["default"]
        kernels: List[OfferedKernel] = []
        known = False
        for flavour in flavours:
            images = self._search(asking, "kernel-" + flavour)
            headers = {each.version: each for each in self._search(asking, "kernel-%s-devel" % flavour)}
            known = known or bool(images)
            found = [
                OfferedKernel(
                    _uname(each.version, flavour),
                    tuple(headers[each.version] for _once in (1,) if each.version in headers),
                    (each,),
                )
                for each in images
            ]
            mine = [release for release in asking.installed if _flavour(release) == flavour]
            kernels += manager.chosen(found, which, mine)
        if not known:
            raise manager.none(self.name, "no kernel-%s in its lists" % " or kernel-".join(flavours))
        return Offers(self.name, self._age(asking), manager.ordered(kernels))

    def versions(self, asking: Asking, kernel: OfferedKernel) -> Optional[SourcedExports]:
        """``zypper info`` tells of the newest alone."""
        image = kernel.whole[0]
        done = ask(asking, [*self._program(asking), "info", "--provides", image.name])
        version = re.search(r"^Version\s*:\s*(\S+)", done.out, re.M)
        if done.status or not version or version.group(1) != image.version:
            return None
        return manager.of_provides(done.out, "what the lists say that %s provides" % str(image))

    def fetch(self, asking: Asking, packages: Sequence[OfferedPackage], directory: str) -> None:
        cache = os.path.join(asking.scratch, "packages")
        names = ["%s=%s" % (each.name, each.version) for each in packages]
        argv = [*self._program(asking), "--pkg-cache-dir", cache, "download", *names]
        done = ask(asking, argv, limit=DOWNLOAD)
        files = [
            os.path.join(below, name)
            for below, _names, names in os.walk(cache)
            for name in names
            if name.endswith(".rpm")
        ]
        if done.status or len(files) < len(packages):
            if re.search("[Dd]igest verification failed|[Ww]rong digest|[Cc]hecksum", done.err + done.out):
                raise manager.damaged(self.name, said(done))
            if re.search("[Ss]ignature verification failed", done.err + done.out):
                raise manager.unsigned(self.name, said(done))
            raise manager.unreachable(self.name, said(done))
        for path in files:
            shutil.move(path, directory)

    def _search(self, asking: Asking, name: str) -> List[OfferedPackage]:
        """Oldest first."""
        argv = ["--xmlout", "search", "--details", "--type", "package", "--match-exact", name]
        done = ask(asking, [*self._program(asking), *argv])
        if done.status == NO_REPOSITORIES:
            raise manager.broken(self.name, said(done))
        if done.status == SKIPPED or re.search(
            "cache is missing|needs to be refreshed|metadata not found", done.err + done.out, re.I
        ):
            raise manager.no_lists(
                self.name,
                "has no lists of some repository on this host: %s" % _text(done.out),
                "Run zypper refresh there",
            )
        if done.status not in (0, NOT_FOUND):
            raise manager.broken(self.name, _text(done.out) or said(done))
        try:
            rows = (
                [each.attrib for each in ElementTree.fromstring(done.out).iter("solvable")]
                if done.out.strip()
                else []
            )
        except ElementTree.ParseError as error:
            raise manager.broken(self.name, "its answer cannot be read (%s)" % error) from None
        found = [
            OfferedPackage(row["name"], row["edition"], row["arch"], row.get("repository", ""))
            for row in rows
            # what is installed and in no repository any more has this one
            if {"name", "edition", "arch"} <= set(row) and row.get("repository") != "(System Packages)"
        ]
        wanted = [each for each in found if each.name == name and each.arch in (asking.machine, "noarch")]
        return sorted(dict.fromkeys(wanted), key=lambda each: version_key(each.version))

    def _program(self, asking: Asking) -> List[str]:
        root = [] if asking.host.live else ["--root", asking.host.root]
        return ["zypper", "--non-interactive", "--no-refresh", *root]

    def _age(self, asking: Asking) -> Optional[int]:
        host, top = asking.host, CACHE + "/raw"
        return manager.age(
            host, ["%s/%s/repodata/repomd.xml" % (top, name) for name in host.listdir(top)], oldest=True
        )


def _text(out: str) -> str:
    """The messages of an answer in XML."""
    return "; ".join(re.findall(r"<message[^>]*type=\"(?:error|warning)\"[^>]*>([^<]+)<", out))[-600:]


def _flavour(release: str) -> str:
    return release.rpartition("-")[2]


def _uname(edition: str, flavour: str) -> str:
    """6.4.0-150600.23.25-default of 6.4.0-150600.23.25.1: the last number counts how often it was built."""
    version, _dash, release = edition.partition("-")
    return "%s-%s-%s" % (version, release.rpartition(".")[0] or release, flavour)
