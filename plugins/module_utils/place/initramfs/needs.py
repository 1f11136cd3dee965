# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a driver needs to be loaded out of an image: other modules, the very ones that it was built against,
and firmware.

What is in the image need not be what the kernel's own tree has by now: of a module that an out-of-tree
package replaces (OFED's ib_core) the image may hold the kernel's own copy, which has the name but not the
symbols.
"""

import fnmatch
import posixpath
import re
from typing import Container, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ...errors import KmodError, forgiving
from ...host import Host
from ...judge.loader import judge
from ...judge.verdict import INCOMPATIBLE
from ...read import depmod, kernels, ko, names
from ...read.exports import VMLINUX
from ...read.kernel_module import KernelModule
from ...read.kernels import Kernel, kernel, modules_root
from .. import store
from . import cpio, plain
from .kept import InImage
from .segments import Tree

# drivers/base/firmware_loader/main.c: fw_path
FIRMWARE = ("lib/firmware/updates/%s/", "lib/firmware/updates/", "lib/firmware/%s/", "lib/firmware/")
PACKED = ("", ".zst", ".xz")
FIRMWARE_SIZE = 128 << 20  # of one file
# that one pattern may stand for; brcmfmac's, the widest of the kernel's own, stand for about 100
PATTERN_FILES = 256


class Needed:
    """The modules that a driver takes along into an image, and those that it finds there.

    ``soft`` is what modprobe.d, as it will be in the image, has loaded with modules, by their names.
    """

    def __init__(
        self,
        host: Host,
        release: str,
        had: InImage,
        soft: Mapping[str, Sequence[str]],
    ) -> None:
        self.host = host
        self.had = had
        self.soft = soft
        self.modules_dir = "/lib/modules/" + release
        self.kernel = kernel(host, release)
        self.choice = {
            name: path
            for name, path in depmod.chosen(host, self.modules_dir).items()
            if _below(path, self.modules_dir)
        }
        rows = depmod.needs(host, self.modules_dir)  # as depmod found out on the host, by symbols
        self.on_host = {
            posixpath.join(self.modules_dir, path): [names.module_of(need) for need in needs]
            for path, needs in rows.items()
        }
        self.in_image = depmod.dependencies(had.text("modules.dep"))
        texts = [had.text("modules.builtin")]
        if host.is_file(self.modules_dir + "/modules.builtin"):
            texts.append(host.read_text(self.modules_dir + "/modules.builtin"))
        self.builtin = {names.module_of(line) for text in texts for line in text.split()}

    def extra(self, modules: Sequence[KernelModule]) -> Dict[str, KernelModule]:
        """{path below the module directory: module} of what is to be taken along: what the image lacks, or
        has another file of than the one that the host's depmod chose where either of the two is out-of-tree.
        Errors: DEPENDENCY_MISSING, MODULE_NAME."""
        done = {module.name for module in modules}
        found: Dict[str, KernelModule] = {}
        todo = [need for module in modules for need in self._needs(module)]
        while todo:
            of, name, needed = todo.pop(0)
            if name in done or name in self.builtin and name not in self.choice:
                continue
            done.add(name)
            module = self._other(name)
            if module is not None:
                found[_place(self.choice[name][len(self.modules_dir) + 1 :], module)] = module
                todo += self._needs(module)
            elif name in self.had.known:
                todo += [
                    (of, names.module_of(path), False) for path in self.in_image.get(self.had.known[name], [])
                ]
            elif needed:
                raise KmodError(
                    of,
                    "needs the module %s, which is neither in the image nor among those of kernel %s"
                    % (name, self.kernel.release),
                    "Install the package with the kernel's extra modules, or name all modules of the driver",
                    "DEPENDENCY_MISSING",
                )
        return found

    def _other(self, name: str) -> Optional[KernelModule]:
        """The host's module of a name, unless the image's will do."""
        if name not in self.choice or not _is_file(self.host, self.choice[name]):  # a weak link may dangle
            return None
        if name not in self.had.known:
            return ko.read(self.host, self.choice[name])
        own = (
            self.choice[name].startswith(self.modules_dir + "/kernel/"),
            self.had.known[name].startswith("kernel/"),
        )
        if all(own):
            return None
        module = ko.read(self.host, self.choice[name])
        return module if module.sha256 != plain.sha256_of(self.had.files[self.had.known[name]]) else None

    def _needs(self, module: KernelModule) -> Iterator[Tuple[str, str, bool]]:
        """(whose, name, whether it cannot do without): by what the module says, and by the symbols that it
        uses.
        """
        for name in module.depends:
            if not names.is_module(name):
                raise KmodError(
                    module.path,
                    "depends on %r, which cannot be a module's name" % name[:80],
                    "Rebuild it",
                    "MODULE_NAME",
                )
            yield module.path, name, True
        for name in self.on_host.get(module.path, sorted(_owners(self.kernel, module))):
            yield module.path, name, False
        for name in softly(
            self.host, self.kernel.release, module, self.soft, known=(self.choice, self.had.known)
        ):
            yield module.path, name, False


def softly(
    host: Host,
    release: str,
    module: KernelModule,
    soft: Mapping[str, Sequence[str]],
    *,
    known: Sequence[Container[str]],
) -> List[str]:
    """The modules that are loaded with one where they are there, or asked for by it: by its softdep (``pre: a b
    post: c``) and weakdep, and by those of modprobe.d (loading.softdeps).

    A name is a module's that is ``known``, else an alias (``kmod: libkmod/libkmod-module.c``).
    """
    found: List[str] = []
    said = " ".join(module.infos("softdep") + module.infos("weakdep")).split()
    for word in said + list(soft.get(module.name, [])):
        name = names.alias_of(word)
        if any(name in each for each in known):
            found.append(name)
        elif word not in ("pre:", "post:"):
            found += kernels.named(kernel(host, release), name)
    return found


def replaceable(
    host: Host, release: str, modules: Sequence[KernelModule], soft: Mapping[str, Sequence[str]]
) -> Tuple[Tuple[str, str], ...]:
    """Name and sha256 of the modules that these need, by what depmod and softdeps say, and that did not come with
    the kernel either: a package may replace them.
    """
    top = "%s/%s" % (modules_root(host), release)
    rows = {
        posixpath.join(top, path): [posixpath.join(top, each) for each in needed]
        for path, needed in depmod.needs(host, top).items()
    }
    chosen = depmod.by_module(rows, top)
    softs = [name for each in modules for name in softly(host, release, each, soft, known=(chosen,))]
    own = {module.path for module in modules}
    found = {chosen[name] for name in softs if name in chosen}
    found = found.union(*(rows.get(path, []) for path in own | found)) - own
    there = [
        ko.read(host, path)
        for path in sorted(found)
        if not path.startswith(top + "/kernel/") and host.is_file(path)
    ]
    return tuple(sorted((module.name, module.sha256) for module in there))


def _owners(installed: Kernel, module: KernelModule, but: Container[str] = ()) -> Set[str]:
    """The kernel's modules that export what a module uses, ``but`` for these symbols."""
    if installed.sourced.origin is None:
        return set()
    found = (
        installed.exports.get(undefined.name)
        for undefined in module.undefined
        if not undefined.weak and undefined.name not in but
    )
    return {export.owner for export in found if export is not None and export.owner != VMLINUX}


def _below(path: str, directory: str) -> bool:
    """An index is input, too."""
    return posixpath.normpath(path) == path and path.startswith(directory + "/")


def _place(path: str, module: KernelModule) -> str:
    return posixpath.dirname(path) + "/" + store.file_name(module)


def check(needed: Needed, modules_dep: str, *, added: Dict[str, KernelModule], stays: Dict[str, str]) -> None:
    """Judge the added modules with those that the finished index has them load before.

    Error: VARIANT_REFUSED.
    """
    index = depmod.dependencies(modules_dep)
    closure: List[str] = []
    for path in added:
        closure += [each for each in [path] + index.get(path, []) if each not in closure]
    group = []
    for path in reversed(closure):
        if path in added:
            group.append(added[path])
        elif path in stays:
            group.append(_stored(stays[path], path))
    there = {module.name for module in group} | needed.builtin
    exported = {export.name for module in group for export in module.exports}
    for module, verdict in zip(group, judge(needed.kernel, group)):
        apart = sorted(_owners(needed.kernel, module, exported) - there)
        if not any(module is each for each in added.values()):
            continue
        if verdict.verdict == INCOMPATIBLE or apart:
            why = (
                verdict.short
                if verdict.verdict == INCOMPATIBLE
                else "it uses symbols of %s" % ", ".join(apart)
            )
            raise KmodError(
                module.path,
                "kernel %s would not load it out of the variant: %s" % (needed.kernel.release, why),
                "Deploy a build of the driver for the modules that this kernel has (kmod_compat says more)",
                "VARIANT_REFUSED",
            )


def _stored(file: str, path: str) -> KernelModule:
    """A module of the image, under the name that it has there."""
    module = ko.parse(b"".join(plain.plain_file(file)), path)
    return module if module.name == names.module_of(path) else module._replace(name=names.module_of(path))


# Firmware


def firmware(
    host: Host, release: str, tree: Tree, *, modules: Sequence[KernelModule]
) -> Tuple[List[cpio.Item], List[str]]:
    """The firmware files that the modules name, the image lacks and the host has; and the names of those that
    the host lacks too.
    """
    places = [place % release if "%s" in place else place for place in FIRMWARE]
    found: Dict[str, cpio.Item] = {}
    absent = []
    for name in sorted({name for module in modules for name in module.firmware}):
        wanted = _named(host, tree, name, places=places)
        if not wanted:
            absent.append(name.encode("unicode_escape").decode("ascii"))
        for each in wanted:
            paths = [place + each + suffix for place in places for suffix in PACKED]
            path = (
                None
                if any(tree.find(path) for path in paths)
                else next((path for path in paths if _is_file(host, "/" + path)), None)
            )
            if path is not None and path not in found:
                found[path] = cpio.item(path, host.read("/" + path, FIRMWARE_SIZE))
    return list(found.values()), absent


def _named(host: Host, tree: Tree, name: str, *, places: Sequence[str]) -> List[str]:
    """The files that a name stands for, in the image or on the host.

    It may be a pattern (``foo-*.bin``); all of it is the module's to say.
    """
    parts_of = name.split("/")
    if not re.match(r"[\x21-\x7e]{1,250}\Z", name) or any(part in ("", ".", "..") for part in parts_of):
        return []
    if not re.search(r"[*?\[]", name):
        there = any(
            tree.find(place + name + suffix) or _is_file(host, "/" + place + name + suffix)
            for place in places
            for suffix in PACKED
        )
        return [name] if there else []
    found: Set[str] = set()
    for place in places:
        found.update(_below_of(host, place, parts_of))
        directory = tree.real(place.rstrip("/"), follow=True)
        inside = [_plain(path[len(directory) + 1 :]) for path in tree.under(directory)] if directory else []
        found.update(each for each in inside if _fits(each, parts_of))
    return sorted(found) if len(found) <= PATTERN_FILES else []


def _below_of(host: Host, place: str, pattern: Sequence[str]) -> List[str]:
    """The host's files below a directory that a pattern stands for, one level of it after the other."""
    found = [""]
    for depth, part in enumerate(pattern):
        last = depth + 1 == len(pattern)
        above, found = found, []
        for below in above:
            listed = [_plain(name) if last else name for name in _listed(host, "/" + place + below)]
            found += [
                below + name + ("" if last else "/") for name in listed if fnmatch.fnmatchcase(name, part)
            ]
        if len(found) > PATTERN_FILES * 4:
            return found
    return found


def _fits(name: str, pattern: Sequence[str]) -> bool:
    split = name.split("/")
    return len(split) == len(pattern) and all(
        fnmatch.fnmatchcase(part, each) for part, each in zip(split, pattern)
    )


def _plain(name: str) -> str:
    return re.sub(r"\.(zst|xz)\Z", "", name)


def _listed(host: Host, directory: str) -> List[str]:
    with forgiving():
        return host.listdir(directory)
    return []


def _is_file(host: Host, path: str) -> bool:
    with forgiving():  # a symlink loop, for one
        return host.is_file(path)
    return False
