# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making depmod list the right one of several files of one module, and running it on any root (kmod: tools/depmod.c)."""
import os
import posixpath
import re
from typing import Dict, List, Optional, Sequence, Tuple

from ..host import Host
from ..read import ko
from ..read.depmod import DIRECTORIES, Config, chosen, rank_of

PLACES = ("extra", "weak-updates", "weak-updates/outoftree.kmod", "updates")  # below which a driver has its directory of modules or of links


def winner(rules: Config, modules_dir: str, paths: Sequence[str]) -> Optional[str]:
    """The path that depmod lists out of files of one module; None where two rank equal, since it then keeps the one that readdir gave first."""
    ranks = {path: rank_of(path[len(modules_dir) + 1:], rules) for path in paths}
    best = [path for path in paths if ranks[path] == max(ranks.values())]
    return best[0] if len(best) == 1 else None


def override(path: str, modules_dir: str, everywhere: bool) -> str:
    """The depmod.d line by which this file wins. Its directory is compared exactly, its name as the file's name is written."""
    directory, name = posixpath.split(path[len(modules_dir) + 1:])
    return "override %s %s %s\n" % (name.split(".")[0], "*" if everywhere else _pattern(posixpath.basename(modules_dir)), directory)


def _pattern(release: str) -> str:
    """How a line names one kernel: kmod reads a regular expression (6.12.9+deb13 would not match itself), module-init-tools a plain release."""
    return re.sub(r"[^\w.-]", lambda special: "[%s]" % special.group(), release)


def listed(host: Host, modules_dir: str) -> Dict[str, str]:
    """What modules.dep lists: module name to path. Nothing where depmod never ran."""
    path = modules_dir + "/modules.dep"
    rows = host.read_text(path, 64 << 20).splitlines() if host.is_file(path) else []
    return {ko.normal(row.partition(":")[0]): posixpath.join(modules_dir, row.partition(":")[0]) for row in rows}


def linked(host: Host, release: str, drivers: Sequence[str]) -> Tuple[str, ...]:
    """The module files that depmod has chosen for a kernel out of the drivers' directories."""
    modules_dir = "/lib/modules/" + release
    directories = tuple("%s/%s/%s/" % (modules_dir, place, driver) for place in PLACES for driver in drivers)
    return tuple(sorted(path for path in chosen(host, modules_dir).values() if path.startswith(directories)))


def command(host: Host, modules_dir: str) -> List[str]:
    """The depmod call for one kernel of this host.

    On a root elsewhere its depmod.d is named, since -b does not reach it. The directory is named as it really lies: an absolute symlink
    /lib would lead depmod out of the root, and whether it looks in /lib/modules or /usr/lib/modules was decided when it was compiled.
    """
    directory, release = posixpath.split(modules_dir)
    if host.live:
        return ["depmod", release]
    parent = host.real(directory)
    if "--moduledir" in host.run(["depmod", "--help"]).out:
        where = ["-b", host.root, "-m", os.path.relpath(parent, host.root)]
    else:
        where = ["-b", parent[:-len("/lib/modules")]]
    for configuration in DIRECTORIES:
        where += ["-C", host.real(configuration)]
    return ["depmod"] + where + [release]
