# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What weak-modules does: modules that packages bring are linked into the weak-updates of the kernels that
take them.

Whatever is asked, what comes of it is told by what lies on disk (``place/package_links``).
"""

import posixpath
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..place import package_links, packaged, store
from ..place.package_links import Found
from ..place.packaged import Source
from ..plan import Plan
from ..read import names
from ..read.exports import find_symvers
from ..read.kernels import Kernel

VERBS = ("add-modules", "remove-modules", "add-kernel", "remove-kernel")


class Options(NamedTuple):
    verb: str
    listed: Tuple[str, ...] = ()  # absolute paths inside the root, of the first two
    kernel: str = ""  # of the last two


class Answer(NamedTuple):
    """``changed``: kernels whose modules change, oldest first; ``concerned``: those and all that have a
    module that was named.
    """

    kernels: Tuple[Found, ...]
    changed: Tuple[str, ...]
    concerned: Tuple[str, ...]
    warnings: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        return {"changed_kernels": list(self.changed)}


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Plan it. Errors: NO_SUCH_KERNEL, of add-kernel; those of reading and judging."""
    if options.verb == "remove-kernel":
        plan, gone = package_links.without(host, options.kernel)
        changed = (options.kernel,) if gone.gone else ()
        return plan, Answer((gone,), changed, changed, ())
    return _Work(host, options).done()


class _Work:
    """One request: what was read for it."""

    def __init__(self, host: Host, options: Options) -> None:
        self.host = host
        self.options = options
        self.warnings: List[str] = []
        self.listed = list(dict.fromkeys(packaged.named(host, path) for path in options.listed))
        self.there = [each for each in self.listed if host.is_file(each.path)]
        self.installed = store.installed(host)

    def done(self) -> Tuple[Plan, Answer]:
        kernels = self.installed if self.options.verb != "add-kernel" else [self._arrived()]
        self.there = named = self._named()
        lies = {self._plain(each) for each in named}
        every: List[Source] = named + [each for each in packaged.sources(self.host) if each.path not in lies]
        modules, odd = package_links.read(self.host, every)
        self.warnings += [
            "%s: %s" % (path, why)
            for path, why in odd.items()
            if self.options.verb == "add-kernel" or packaged.plain(self.host, path) in lies
        ]
        every = packaged.joined([each for each in every if each.path in modules], modules)
        offer = package_links.Offer(
            self.host,
            every,
            modules,
            wanted=self._wanted(every),
            first={each.tree for each in every if self._plain(each) in lies},
            gone={self._plain(each) for each in self.listed if not self.host.exists(each.path)}
            if self.options.verb == "remove-modules"
            else set(),
            stored=packaged.stored_names(self.host),
        )
        plan, found, changed = package_links.planned(offer, kernels, self._files)
        mine = {each.name for each in named}
        having = (
            {each.kernel.release for each in found if mine & each.names}
            | {each.tree for each in self.listed}
            | set(changed)
        )
        concerned = tuple(kernel.release for kernel in self.installed if kernel.release in having)
        self.warnings += [
            "%s is in the way, so that no link is made there" % path
            for each in found
            for path in each.blocked
        ]
        return plan, Answer(found, changed, concerned, tuple(self.warnings))

    def _plain(self, each: Source) -> str:
        return packaged.plain(self.host, each.path)

    def _arrived(self) -> Kernel:
        for kernel in self.installed:
            if kernel.release == self.options.kernel:
                if find_symvers(self.host, kernel.release) is None:
                    self.warnings.append(
                        "kernel %s has no symvers: what it exports is read from its image" % kernel.release
                    )
                return kernel
        raise KmodError(
            self.options.kernel,
            "no such kernel is installed",
            "Installed: %s" % (", ".join(kernel.release for kernel in self.installed) or "none"),
            "NO_SUCH_KERNEL",
        )

    def _named(self) -> List[Source]:
        if self.options.verb != "add-modules":
            return []
        self.warnings += [
            "%s %s" % (each.path, "is no file" if self.host.exists(each.path) else "does not exist")
            for each in self.listed
            if each not in self.there
        ]
        odd = [
            each
            for each in self.there
            if not packaged.can_be_listed(each) or not names.is_module_file(each.path)
        ]
        self.warnings += ["%s is not called as depmod can list it" % each.path for each in odd]
        ours = [
            each
            for each in self.there
            if posixpath.basename(each.path) in dict(store.marked(self.host, posixpath.dirname(each.path)))
        ]
        self.warnings += ["%s is left to outoftree.kmod, which has put it there" % each.path for each in ours]
        return [each for each in self.there if each not in odd and each not in ours]

    def _wanted(self, every: Sequence[Source]) -> Set[str]:
        """The modules whose links are looked at; with remove-modules only what leads nowhere by now: rpm calls
        with what it has replaced.
        """
        if self.options.verb == "add-kernel":
            return {each.name for each in every}
        return {each.name for each in self.there} if self.options.verb == "add-modules" else set()

    def _files(self, release: str) -> List[str]:
        """What was named and lies in a kernel's own tree: modules.dep is to know it."""
        return [each.path for each in self.there if each.tree == release]
