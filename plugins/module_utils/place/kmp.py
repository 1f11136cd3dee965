# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SUSE's kernel module packages (KMPs), as rpm knows them.

A KMP is called NAME-kmp-FLAVOR and serves kernels of that flavor, whose releases end with it. Its links keep
the whole path: weak-updates/updates/x.ko for a module in updates/.
"""

import re
from typing import Dict, List, NamedTuple, Sequence

from ..host import Host
from ..read import names
from . import packaged
from .packaged import Source

# what a KMP has that a kernel's own package brings (fate#319339)
IN_KERNEL = "kmp_in_kernel"
_QUERY = r"K %{NAME}-%{VERSION}-%{RELEASE}\n[P %{PROVIDENAME}\n][F %{FILENAMES}\n]"
_PATH = re.compile(r"(?:/usr)?/lib/modules/([^/]+)/(?!kernel/|weak-updates/)(.+)", re.DOTALL)


class Kmp(NamedTuple):
    """A package: its name, version and release, and its modules."""

    nvr: str
    modules: Sequence[Source]


def flavor_of(kmp: str) -> str:
    """That of NAME-kmp-FLAVOR-VERSION-RELEASE."""
    return kmp.rsplit("-", 2)[0].rpartition("-kmp-")[2]


def installed(host: Host, flavor: str) -> List[Kmp]:
    """The KMPs of a flavor. Errors: those of running rpm."""
    root = [] if host.live else ["--root", host.root]
    said = host.run(
        ["rpm", *root, "-qa", "--nodigest", "--nosignature", "--qf", _QUERY, "*-kmp-" + flavor]
    ).out
    found: Dict[str, List[str]] = {}
    in_kernel = set()
    nvr = ""
    for kind, _blank, text in (line.partition(" ") for line in said.splitlines()):
        if kind == "K":
            nvr = text
            found[nvr] = []
        elif kind == "P" and text == IN_KERNEL:
            in_kernel.add(nvr)
        elif kind == "F":
            found[nvr].append(text)
    return [Kmp(nvr, sources(host, nvr, paths)) for nvr, paths in found.items() if nvr not in in_kernel]


def sources(host: Host, nvr: str, paths: Sequence[str]) -> List[Source]:
    """The modules among a package's files; all of them or none serve a kernel.

    Links say what rpm says: by that weak-modules2 knows its own once the files are gone.
    """
    found = []
    for path in paths:
        parts = _PATH.fullmatch(path)
        if parts and names.is_module_file(path):
            found.append(Source(packaged.plain(host, path), parts.group(1), parts.group(2), nvr, path))
    return [each for each in found if packaged.can_be_listed(each)]
