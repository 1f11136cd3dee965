# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a build that does not exist yet would load on a kernel.

A source that is compiled for another kernel of one series needs the same symbols, with that kernel's CRCs. So
what an earlier build needs, and what both kernels export, tell it: by the loader's rules that compare a
module with a kernel, for a module that is sound in itself. All of it goes to and from JSON: facts are
gathered where the kernels are, and compared where the plan is made.
"""

from typing import Any, Dict, Hashable, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from . import policy, symbol_rules, version_rules
from .module_rules import proprietary

LAYOUT = "module_layout"
ABSENT, BARRED = (
    "absent",
    "barred",
)  # instead of a CRC: the loader does not find it; it does, and a namespace refuses it


class ModuleNeeds(NamedTuple):
    """What one module of a driver needs of a kernel: symbols by name, sorted, without those that the driver
    itself gives.
    """

    name: str
    strong: Tuple[str, ...]
    weak: Tuple[str, ...]
    proprietary: bool
    namespaces: Tuple[str, ...]  # that it imports


class Needs(NamedTuple):
    """What a driver needs of a kernel, by one of its builds.

    Drivers that use each other's symbols count as one.
    """

    machine: str
    modules: Tuple[ModuleNeeds, ...]

    @property
    def symbols(self) -> List[str]:
        found = {LAYOUT}
        for module in self.modules:
            found.update(module.strong, module.weak)
        return sorted(found)

    def as_dict(self) -> Dict[str, Any]:
        return {"machine": self.machine, "modules": [dict(module._asdict()) for module in self.modules]}

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "Needs":
        """Error: PLAN_DATA for anything that ``as_dict`` has not made."""
        try:
            return cls(
                str(data["machine"]),
                tuple(
                    ModuleNeeds(
                        each["name"],
                        tuple(each["strong"]),
                        tuple(each["weak"]),
                        bool(each["proprietary"]),
                        tuple(each["namespaces"]),
                    )
                    for each in data["modules"]
                ),
            )
        except (KeyError, TypeError) as error:
            raise not_as_made("what a driver needs", error) from None


class KernelFacts(NamedTuple):
    """What is compared of a kernel.

    ``exports`` are (CRC, for GPL modules alone, namespace) of the symbols that were asked for.
    """

    release: str
    machine: Optional[str]
    vermagic: Optional[str]
    exports: Dict[str, Tuple[Optional[int], bool, str]]
    # whether a symbol of which a module has no version is taken; None where that cannot be told
    unversioned: Optional[bool] = None
    namespaces: Optional[bool] = None  # whether namespaces need not be imported

    def as_dict(self) -> Dict[str, Any]:
        return dict(
            self._asdict(), exports={name: list(export) for name, export in sorted(self.exports.items())}
        )

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "KernelFacts":
        """Error: PLAN_DATA for anything that ``as_dict`` has not made."""
        try:
            exports = {
                name: (crc, bool(gpl), str(namespace))
                for name, (crc, gpl, namespace) in data["exports"].items()
            }
            return cls(**dict(data, exports=exports))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_as_made("what is known of a kernel", error) from None


def needs(modules: Sequence[KernelModule]) -> Needs:
    """By the modules of one build."""
    given = {export.name for module in modules for export in module.exports}
    return Needs(
        modules[0].machine,
        tuple(_module_needs(module, given) for module in sorted(modules, key=lambda module: module.name)),
    )


def _module_needs(module: KernelModule, given: Any) -> ModuleNeeds:
    found: Dict[bool, List[str]] = {True: [], False: []}
    for undefined in module.undefined:
        name = None if undefined.common else symbol_rules.looked_up(undefined.name, module.machine)
        if name is not None and name not in given and name != "_GLOBAL_OFFSET_TABLE_":
            found[undefined.weak].append(name)
    return ModuleNeeds(
        module.name,
        tuple(sorted(found[False])),
        tuple(sorted(found[True])),
        proprietary(module),
        tuple(sorted(set(module.namespaces))),
    )


def facts(kernel: Kernel, symbols: Sequence[str]) -> KernelFacts:
    """Of a kernel as it came: what was added to its modules does not count. Error: KERNEL_NO_CRC_SOURCE."""
    exports = kernel.exports
    chosen = {
        name: exports[name] for name in symbols if name in exports and exports[name].owner not in kernel.added
    }
    loader = policy.loader(kernel)
    return KernelFacts(
        kernel.release,
        kernel.machine,
        kernel.vermagic,
        {name: (each.crc, each.gpl, each.namespace) for name, each in chosen.items()},
        version_rules.missing_version(loader),
        loader.option("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS"),
    )


def states(kernel: KernelFacts, module: ModuleNeeds) -> Dict[str, Hashable]:
    """By symbol what a kernel makes of it for a module: its CRC, ABSENT, or BARRED."""
    found: Dict[str, Hashable] = {}
    for name in module.strong + module.weak:
        crc, gpl, namespace = kernel.exports.get(name, (None, False, ""))
        if name not in kernel.exports or (gpl and module.proprietary):
            found[name] = ABSENT
        elif namespace and namespace not in module.namespaces and not kernel.namespaces:
            found[name] = BARRED
        else:
            found[name] = crc
    return found


def fingerprint(kernel: KernelFacts, driver: Needs) -> Hashable:
    """Two kernels with the same one are one to this driver: they take and refuse the same builds, and a build
    for the one is one for the other.
    """
    return (
        kernel.machine,
        _magic(kernel),
        kernel.exports.get(LAYOUT),
        kernel.unversioned,
        tuple(
            tuple(sorted(states(kernel, module).items(), key=lambda item: item[0]))
            for module in driver.modules
        ),
    )


def _magic(kernel: KernelFacts) -> Optional[str]:
    """What of the version magic has to be equal (``module_rules.same_magic``)."""
    if kernel.vermagic is None or " modversions" not in kernel.vermagic:
        return kernel.vermagic
    return kernel.vermagic.partition(" ")[2]


def predicted(build: KernelFacts, kernel: KernelFacts, driver: Needs) -> Optional[bool]:
    """Whether a build made for the one kernel would load on the other.

    None where it cannot be said: what the source needs on a kernel that lacks one of the symbols known so far
    is not known before it is built.
    """
    if None in (build.machine, kernel.machine, build.vermagic, kernel.vermagic):
        return None
    if build.machine != kernel.machine or _magic(build) != _magic(kernel):
        return False
    versioned = " modversions" in (kernel.vermagic or "")
    if versioned and build.exports.get(LAYOUT, (None,))[0] != kernel.exports.get(LAYOUT, (None,))[0]:
        return False
    if any(_lacks_something(build, module) for module in driver.modules):
        return None
    if any(_lacks_something(kernel, module) for module in driver.modules):
        return False
    answers = [_versions_agree(build, kernel, module) for module in driver.modules if versioned]
    return False if False in answers else None if None in answers else True


def _lacks_something(kernel: KernelFacts, module: ModuleNeeds) -> bool:
    """Whether the loader refuses any build of the module for a symbol that is not there, or in a namespace
    that it does not import.
    """
    found = states(kernel, module)
    return any(found[name] in (ABSENT, BARRED) for name in module.strong) or BARRED in found.values()


def _versions_agree(build: KernelFacts, kernel: KernelFacts, module: ModuleNeeds) -> Optional[bool]:
    """``version_rules.check_version``, for all that is there."""
    ours, theirs = states(build, module), states(kernel, module)
    pairs = [(ours[name], crc) for name, crc in theirs.items() if crc not in (ABSENT, None)]
    if any(one not in (ABSENT, other) for one, other in pairs):
        return False
    # weak, and not there where it is built: the build has no version of it
    return kernel.unversioned if any(one == ABSENT for one, _other in pairs) else True


def not_as_made(what: str, error: Exception) -> KmodError:
    return KmodError(
        what,
        "is not as it was made (%r)" % (error,),
        "Use the same version of the collection for both",
        "PLAN_DATA",
    )
