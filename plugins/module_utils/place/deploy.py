# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kmod_link asks of the core: from the task's options to a plan and its answer."""
import functools
import re
from typing import Any, Dict, List, Optional, Tuple

from ..compression import decompress
from ..errors import KmodError, forgiving
from ..host import Host
from ..judge import selection
from ..judge.loader import judge
from ..judge.selection import Build
from ..plan import Content, Plan
from ..read import inputs, names
from ..read.kernel_module import KernelModule
from . import heal, loaded, notice, store, weak_links
from .boot import shipped
from .boot.menu import boots
from .initramfs import listing


def link(host: Host, options: Dict[str, Any], preview: bool = False) -> Tuple[Plan, Dict[str, Any]]:
    """Carry out kmod_link's ``options``.

    The modules come from ``path`` on the host (or in the root ``whence``), or as ``described`` on the controller (KernelModule.as_dict). Of the
    latter only those that the answer's ``need`` lists are wanted as files: then the same call is made again with ``files``, which maps each
    of their paths on the controller to where it lies on the host now. Until then the plan can be shown (``preview``) but is not carried out:
    it comes back empty.
    """
    driver = names.check_driver(options["driver"])
    idle = {"version": options["version"], "build": options["build"]} if options["state"] == "present" else {"kernels": options["kernels"] != ["all"]}
    for name in sorted(name for name, given in idle.items() if given):
        raise KmodError(name, "cannot be used with state %s" % options["state"], "Leave it out", "BAD_OPTION")
    installed = store.installed(host)
    if not installed:
        raise KmodError(host.root, "there is no kernel below /lib/modules", "Give the root of an installed system", "NO_KERNELS")
    chosen = selection.matching(installed, options["kernels"])
    tree = store.ModuleTree(host, Plan(host))
    ours = re.compile(r"/(extra|weak-updates(/outoftree\.kmod)?)/%s/" % re.escape(driver)).search  # what is replaced provides nothing
    judged = functools.partial(judge, without=ours)
    healing = (lambda tree, ours: heal.heal(tree, chosen, judge, skip=ours)) if options["heal"] else None
    given, contents = _given(host, options)
    given = [module._replace(packed="") for module in given]  # it is stored as it is uncompressed
    gone = options["state"] == "absent"
    if gone:
        outcome = weak_links.absent(tree, driver, version=options["version"], release=options["build"], installed=installed, judge=judged,
                                    healing=healing)
    else:
        outcome = weak_links.present(tree, driver, selection.builds(given), installed=installed, chosen=chosen, judge=judged, contents=contents,
                                     healing=healing)
    rows = [each.as_dict() for each in outcome.kernels]
    result: Dict[str, Any] = {"driver": driver, "kernels": rows, "healed": [each.as_dict() for each in outcome.healed],
                              "left": list(outcome.left), "need": list(outcome.need), "msg": outcome.msg}
    result["unserved"] = [] if gone else notice.unserved(host, installed, rows, outcome.after)
    result["other_drivers"] = notice.other_drivers(host, [driver]) if gone and not tree.plan else []
    here = next((kernel.release for kernel in installed if kernel.running), None)
    other = here is not None and _reboot_needed(tree.plan, outcome.before[here], outcome.after[here], contents, options["load"])
    result["held_back_by"] = _held_back_by(host, outcome.after) if other else None
    result["reboot_needed"] = other and result["held_back_by"] is None
    if result["need"] and options["files"] is None and not preview:
        return Plan(host), result
    return tree.plan, result


def _reboot_needed(plan: Plan, before: Optional[Build], after: Optional[Build], contents: weak_links.Contents, load: bool) -> bool:
    """Whether the running kernel would go on with other modules than those it is given. With ``load`` the plan loads them, where that can be done."""
    wanted = _loaded(plan.host, after, contents)
    given = {each.module.name for each in wanted}
    left = any(each.state == "this" and each.module.name not in given for each in _loaded(plan.host, before, contents))
    if load and not loaded.reload(plan, wanted):
        return True
    return left or (not load and any(each.state == "other" or each.state in loaded.BETWEEN for each in wanted))


def _held_back_by(host: Host, after: Dict[str, Optional[Build]]) -> Optional[str]:
    """The image of the default boot entry that has another copy of a module than its kernel is given: it is loaded from there, before the
    root file system is seen, at the next boot too. An entry of ours starts a variant, which follows the driver.
    """
    entry = shipped.default(host)
    release = next((release for release in after if entry and boots(entry, release)), None)
    build = after[release] if release else None
    if entry is None or entry.driver or release is None or build is None:
        return None
    wanted = {module.name: module.sha256 for module in build.modules}
    for path in (shipped.locate(host, word) for word in entry.initrd):
        with forgiving():  # an image that cannot be read has nothing to load
            copies = listing.modules(host, path, release, names=list(wanted)) if path else {}
            if any(copy["sha256"] != wanted[name] for name, copy in copies.items()):
                return path
    return None


def _loaded(host: Host, build: Optional[Build], contents: weak_links.Contents) -> List[loaded.Wanted]:
    """Each module of a build, and whether it is loaded."""
    found = []
    for module in build.modules if build else ():
        stored = "%s/%s" % (build.directory if build else "", store.file_name(module))
        content = contents(module)
        data = content.data() if content else host.read(stored) if host.is_file(stored) else b""
        build_id = loaded.build_id(data, module.path)
        found.append(loaded.Wanted(module, build_id, loaded.state(host, module, build_id)))
    return found


def _given(host: Host, options: Dict[str, Any]) -> Tuple[List[KernelModule], weak_links.Contents]:
    if options["described"] is not None:
        here = Host("/")  # where Ansible transfers files to, whatever the root to work on
        files = options["files"] or {}

        def sent(module: KernelModule) -> Optional[Content]:
            return content(here, module, files[module.path]) if module.path in files else None

        return [KernelModule.from_dict(module) for module in options["described"]], sent
    whence = Host(options.get("whence", host.root))
    found = list(inputs.modules(whence, options["path"] or []))
    packed = {module.path: data for module, data in found}

    def there(module: KernelModule) -> Optional[Content]:
        if module.path not in packed:  # one that is stored
            return None
        data = packed[module.path]
        if data is None:
            return content(whence, module, module.path)
        plain = decompress(data, module.path)
        return Content(module.size, module.sha256, lambda: (plain,), binary=True)

    return [module for module, _data in found], there


def content(host: Host, module: KernelModule, path: str) -> Content:
    return Content(module.size, module.sha256, lambda: (decompress(host.read(path), path),), binary=True)
