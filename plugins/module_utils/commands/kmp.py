# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SUSE's weak-modules2 does: the modules of KMPs are linked into the weak-updates of the kernels of
their flavor that take them, by the rules of place/package_links.
"""

import posixpath
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

from ..host import Host
from ..place import kmp, package_links, packaged, store
from ..place.kmp import Kmp
from ..place.packaged import Source, WeakLink
from ..plan import Content, File, Plan
from ..read import names
from ..read.kernels import Kernel, version_key
from . import renew

MARKS = "/run/regenerate-initrd"  # where the distribution's regenerate-initrd-posttrans looks


class Options(NamedTuple):
    """``mark``: have the distribution make the images of kernels that change, at the end of the transaction."""

    verb: str  # add-kmp, remove-kmp, add-kernel, remove-kernel
    name: str  # of the KMP, with version and release; or the kernel's release
    listed: Tuple[str, ...] = ()  # of remove-kmp: its files
    mark: bool = False


class Answer(NamedTuple):
    """``told``: what weak-modules2 says with --verbose; ``changed``: kernels whose images may be of other modules
    now: a package that is upgraded has other modules where its links stay as they are.
    """

    told: Tuple[str, ...]
    changed: Tuple[str, ...]
    warnings: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        return {"changed_kernels": list(self.changed)}


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Plan it. Errors: those of running rpm, of reading and judging."""
    if options.verb == "remove-kernel":
        plan, left = package_links.without(host, options.name)
        _without_directories(plan, left.kernel.modules_dir)
        return plan, Answer((), (options.name,) if left.gone else (), ())
    about_kernel = options.verb == "add-kernel"
    flavor = options.name.rpartition("-")[2] if about_kernel else kmp.flavor_of(options.name)
    kernels = [
        each
        for each in store.installed(host)
        if (each.release == options.name if about_kernel else each.release.endswith("-" + flavor))
    ]
    packages = kmp.installed(host, flavor)
    mine = next((each for each in packages if each.nvr == options.name), Kmp(options.name, ()))
    warnings = []
    if options.verb == "remove-kmp":
        packages = [each for each in packages if each is not mine]
        mine = Kmp(options.name, kmp.sources(host, options.name, options.listed))
    if not about_kernel and not mine.modules:
        warnings.append("%s does not contain any kernel modules" % options.name)
    every = [source for each in packages for source in each.modules if host.is_file(source.path)]
    modules, odd = package_links.read(host, every)
    warnings += ["%s: %s" % each for each in odd.items()]
    offer = package_links.Offer(
        host,
        [each for each in every if each.path in modules],
        modules,
        wanted={each.name for each in (every if about_kernel else mine.modules)},
        first={source.tree for each in _newest(packages) for source in each.modules},
        gone={each.path for each in mine.modules} if options.verb == "remove-kmp" else set(),
        stored=packaged.stored_names(host),
    )
    there = {each.release: packaged.links(host, each) for each in kernels}
    plan = Plan(host)
    found: List[package_links.Found] = []
    changed: Set[str] = set()
    for kernel in kernels:
        fit = _without_taken(host, offer, kernel, there[kernel.release])
        one, rows, more = package_links.planned(
            fit, [kernel], lambda release: [each.path for each in mine.modules if each.tree == release]
        )
        plan.extend(one)
        found += rows
        changed.update(more)
        has = {each.means for each in there[kernel.release]}
        if any(each.tree == kernel.release or each.path in has for each in mine.modules):
            changed.add(kernel.release)
    if options.mark:
        # a kernel that arrives has no image yet
        for release in [options.name] if about_kernel and kernels else sorted(changed):
            plan.put(posixpath.join(MARKS, release), File(Content.of(b"")))
    told: List[str] = []
    for each in found:
        links = there[each.kernel.release]
        gone = {link.path for link in each.gone}
        after = {link.means for link in links if link.path not in gone and link.path not in each.links}
        after |= {packaged.meant(host, path, text) for path, text in each.links.items()}
        told += _told(
            each.kernel.release,
            [each for each in packages if about_kernel or _name(each.nvr) == _name(options.name)],
            mine,
            about_kernel,
            before={link.means for link in links},
            after=after,
        )
    return plan, Answer(tuple(told), tuple(sorted(changed)), tuple(warnings))


def _newest(packages: Sequence[Kmp]) -> List[Kmp]:
    """Of each package the highest version, whatever kernel that was built for."""
    found: Dict[str, Kmp] = {}
    for each in sorted(packages, key=lambda each: version_key(each.nvr)):
        found[_name(each.nvr)] = each
    return list(found.values())


def _without_taken(
    host: Host, offer: package_links.Offer, kernel: Kernel, links: Sequence[WeakLink]
) -> package_links.Offer:
    """The same without the packages of which a kernel has a module already, be it of another package or of
    none: they would share its name.
    """
    owners = {each.path: _name(each.unit) for each in offer.every}
    taken = {each.name: owners[each.means] for each in links if each.means in owners}
    for path in packaged.own(host, kernel):
        taken[names.module_of(path)] = owners.get(path, "")
    rivals = {
        each.unit
        for each in offer.every
        if each.tree != kernel.release and taken.get(each.name, _name(each.unit)) != _name(each.unit)
    }
    return offer._replace(every=[each for each in offer.every if each.unit not in rivals])


def _without_directories(plan: Plan, modules_dir: str) -> None:
    """Have weak-updates, which no package of SUSE's owns, and the kernel's directory go, if they are empty."""
    for directory in (modules_dir + "/weak-updates", modules_dir):
        left = {posixpath.join(directory, name) for name in plan.host.listdir(directory)}
        if not plan.host.is_dir(directory) or plan.host.is_link(directory) or left - set(plan.paths()):
            return
        plan.put(directory, None)


def _told(
    release: str, packages: Sequence[Kmp], mine: Kmp, about_kernel: bool, *, before: Set[str], after: Set[str]
) -> List[str]:
    """What becomes of each package in one kernel, in the words of weak-modules2."""
    every = {each.nvr: each for each in (*packages, mine)}
    old = [nvr for nvr, each in every.items() if _is_in(each.modules, before, release)]
    new = [each.nvr for each in packages if _is_in(each.modules, after, release)]
    staying = [nvr for nvr in new if nvr in old and (about_kernel or nvr == mine.nvr)]
    told = ["Package %s does not need to be added to kernel %s" % (nvr, release) for nvr in staying]
    gone = [nvr for nvr in old if nvr not in new]
    for nvr in (nvr for nvr in new if nvr not in old):
        replaced = next((each for each in gone if _name(each) == _name(nvr)), None)
        if replaced is None:
            told.append("Package %s added to kernel %s" % (nvr, release))
        else:
            gone.remove(replaced)
            told.append("Package %s replaced by package %s in kernel %s" % (replaced, nvr, release))
    return told + ["Package %s removed from kernel %s" % (nvr, release) for nvr in gone]


def _name(nvr: str) -> str:
    return nvr.rsplit("-", 2)[0]


def _is_in(modules: Sequence[Source], targets: Set[str], release: str) -> bool:
    return bool(modules) and all(each.tree == release or each.path in targets for each in modules)


def without_image(host: Host, release: str) -> List[str]:
    """The kernel, if it is installed and has no initramfs image."""
    there = release in (each.release for each in store.installed(host))
    return [release] if there and not renew.shipped(host, [release]) else []
