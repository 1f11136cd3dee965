# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Give a driver's modules to the kernels that take them, or take them away."""

import functools
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..compression import decompress
from ..errors import KmodError, forgiving
from ..host import Host
from ..judge import selection
from ..judge.loader import judge
from ..judge.verdict import COMPATIBLE
from ..place import heal, kernel_holds, loading, notice, running, store, weak_links
from ..place.notice import Unserved
from ..plan import Content, Plan
from ..read import inputs, kernels, names
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel

ALL = ("all",)


class Options(NamedTuple):
    """Those of the module kmod_link, which says what they mean.

    The modules come from ``path``, or as ``described`` on the controller. Of the latter only those that the
    answer's ``need`` lists are wanted as files: then the same call is made again with ``files``, which maps
    each of their paths on the controller to where it lies on the host now.
    """

    driver: str
    path: Tuple[str, ...] = ()
    described: Optional[Tuple[KernelModule, ...]] = None
    files: Optional[Mapping[str, str]] = None
    kernels: Tuple[str, ...] = ALL
    state: str = "present"
    version: Optional[str] = None
    build: Optional[str] = None
    load: bool = False
    heal: bool = False
    ahead: Tuple[str, ...] = ()  # releases whose builds are stored, although no such kernel is installed
    whence: Optional[str] = None  # the root that ``path`` lies in, where it is not the one to work on

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        described = params["_described"]
        return cls(
            driver=params["driver"],
            path=tuple(params["path"] or ()),
            described=None if described is None else tuple(map(KernelModule.from_dict, described)),
            files=params["_files"],
            kernels=tuple(params["kernels"]),
            state=params["state"],
            version=params["version"],
            build=params["build"],
            load=params["load"],
            heal=params["heal"],
        )


class Answer(NamedTuple):
    """What each kernel gets, and what a person has to be told of that."""

    outcome: weak_links.Outcome
    unserved: Tuple[Unserved, ...]
    other_drivers: Tuple[str, ...]
    held_back_by: Optional[str]
    reboot_needed: bool
    waits: bool  # for the files that are needed: until then the plan is to be shown and not carried out
    given: Tuple[KernelModule, ...] = ()  # the modules that were given

    @property
    def served(self) -> bool:
        """Whether each of the kernels has a build."""
        return all(row.build for row in self.outcome.kernels)

    @property
    def reasons(self) -> str:
        """``1 of 2 kernels takes it (6.1.0-54: 1 symbol differs)``."""
        rows = self.outcome.kernels
        takers = [row for row in rows if row.verdict == COMPATIBLE]
        reasons = ["%s: %s" % (row.kernel, row.reason) for row in self.unserved]
        said = "%d of %d kernels %s it" % (len(takers), len(rows), "takes" if len(takers) == 1 else "take")
        return "%s (%s)" % (said, "; ".join(reasons)) if reasons else said

    def as_dict(self) -> Dict[str, Any]:
        return {
            "driver": self.outcome.driver,
            "kernels": [row.as_dict() for row in self.outcome.kernels],
            "healed": [row.as_dict() for row in self.outcome.healed],
            "left": list(self.outcome.left),
            "ahead": list(self.outcome.ahead),
            "need": list(self.outcome.need),
            "msg": self.outcome.msg,
            "unserved": [row.as_dict() for row in self.unserved],
            "other_drivers": list(self.other_drivers),
            "held_back_by": self.held_back_by,
            "reboot_needed": self.reboot_needed,
        }


def run(host: Host, options: Options, known: Sequence[Kernel] = ()) -> Tuple[Plan, Answer]:
    """Have the driver present or absent.

    ``known`` are the installed kernels, where they were read before and nothing has changed since.

    Errors: BAD_OPTION, NO_KERNELS, and those of reading, judging and weak_links.
    """
    driver = names.check_driver(options.driver)
    _refuse_idle(options)
    installed = kernels.some(host, list(known) or store.installed(host))
    chosen = selection.matching(installed, options.kernels)
    tree = store.ModuleTree(host, Plan(host))
    held = {each.kernel for each in kernel_holds.read(host) if each.driver == driver}
    coming = held.union(options.ahead) - {kernel.release for kernel in installed}
    # what is replaced provides nothing
    ours = re.compile(r"/(extra|weak-updates(/outoftree\.kmod)?)/%s/" % re.escape(driver)).search
    judged = functools.partial(judge, without=ours)
    healing = (lambda tree, ours: heal.heal(tree, chosen, judge, skip=ours)) if options.heal else None
    given, contents = _given(host, options)
    gone = options.state == "absent"
    if gone:
        outcome = weak_links.absent(
            tree,
            driver,
            version=options.version,
            release=options.build,
            installed=installed,
            judge=judged,
            healing=healing,
        )
    else:
        outcome = weak_links.present(
            tree,
            driver,
            selection.builds(given),
            installed=installed,
            chosen=chosen,
            judge=judged,
            contents=contents,
            coming=coming,
            healing=healing,
            version=options.version,
        )
    whole = gone and options.version is None and options.build is None
    with forgiving():  # what is amiss there is kmod_hold's to tell
        tree.plan.extend(kernel_holds.settle(host, driver, gone=whole, stored=outcome.ahead))
    unserved = [] if gone else notice.unserved(host, installed, outcome.kernels, after=outcome.after)
    others = notice.other_drivers(host, [driver]) if gone and not tree.plan else []
    goes_on = running.goes_on_with_others(tree.plan, installed, outcome, contents=contents, load=options.load)
    held_back_by = running.held_back_by(host, outcome.after) if goes_on else None
    # what it has in modprobe.d goes first: a blacklist must not outlive the driver
    plan = loading.absent(host, driver) if whole else Plan(host)
    plan.extend(tree.plan)
    return plan, Answer(
        outcome,
        tuple(unserved),
        tuple(others),
        held_back_by,
        reboot_needed=goes_on and held_back_by is None,
        waits=bool(outcome.need) and options.files is None,
        given=tuple(given),
    )


def _refuse_idle(options: Options) -> None:
    """An option that says nothing with this state."""
    idle = {"build": options.build} if options.state == "present" else {"kernels": options.kernels != ALL}
    for name in sorted(name for name, given in idle.items() if given):
        raise KmodError(name, "cannot be used with state %s" % options.state, "Leave it out", "BAD_OPTION")


def _given(host: Host, options: Options) -> Tuple[List[KernelModule], weak_links.Contents]:
    """The modules as they are stored, uncompressed, and where their bytes come from."""
    if options.described is not None:
        files = options.files or {}
        here = Host("/")  # where Ansible transfers files to, whatever the root to work on

        def sent(module: KernelModule) -> Optional[Content]:
            return _content(here, module, files[module.path]) if module.path in files else None

        return [module._replace(packed="") for module in options.described], sent
    whence = Host(options.whence) if options.whence else host
    found = list(inputs.modules(whence, options.path))
    packed = {module.path: data for module, data in found}

    def there(module: KernelModule) -> Optional[Content]:
        if module.path not in packed:  # one that is stored
            return None
        data = packed[module.path]
        if data is None:
            return _content(whence, module, module.path)
        plain = decompress(data, module.path)
        return Content(module.size, module.sha256, lambda: (plain,), binary=True)

    return [module._replace(packed="") for module, _data in found], there


def _content(host: Host, module: KernelModule, path: str) -> Content:
    return Content(module.size, module.sha256, lambda: (decompress(host.read(path), path),), binary=True)
