# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel's module loader would say of modules: its rules in its order (``kernel/module/main.c:
load_module``).

The first rule that refuses decides, with the errno of its last finding. Those behind it are looked at all the
same, as notes: the loader would not get there, a person who mends the module will.
"""

from itertools import takewhile
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ..errors import forgiving
from ..read import ko
from ..read.exports import VMLINUX, Export
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from ..read.runtime import Runtime, facts
from . import file_rules, modprobe_notes, module_rules, notes, signature_rules, symbol_rules, version_rules
from .policy import Loader
from .policy import loader as loader_of
from .symbol_rules import Provided
from .verdict import COMPATIBLE, DOUBT, INCOMPATIBLE, NOTE, REFUSE, UNKNOWN, Finding, Verdict


def judge(
    kernel: Kernel,
    modules: Sequence[KernelModule],
    runtime: Optional[Runtime] = None,
    *,
    structs: bool = False,
    without: Callable[[str], Any] = lambda path: False,
) -> List[Verdict]:
    """One verdict a module, in the order given.

    The modules are offered to each other, before what is deployed for that kernel already, and none is judged
    before those that it needs: the symbols of a refused module are not there. ``runtime`` is what holds on
    the machine now, by itself if it is a running one. ``structs``: also note which structures have changed;
    images have to be unpacked for that. ``without``: the installed files that count as removed, such as those
    of a version that these modules replace.
    """
    group = Group(
        kernel, modules, facts(kernel) if runtime is None else runtime, structs=structs, without=without
    )
    return [group.verdict(module) for module in modules]


class Group:
    """Modules that are loaded into one kernel together."""

    def __init__(
        self,
        kernel: Kernel,
        modules: Sequence[KernelModule],
        runtime: Runtime,
        *,
        structs: bool,
        without: Callable[[str], Any],
    ) -> None:
        self.kernel = kernel
        self.structs = structs
        self.loader = loader_of(kernel, runtime)
        self.offered: Dict[str, KernelModule] = {}
        for module in modules:
            self.offered.setdefault(module.name, module)
        self.added = {
            name: path
            for name, path in kernel.added.items()
            if name not in self.offered and not without(path)
        }
        self.replaced = set(kernel.added) - set(self.added)
        self.exported = self._exported(self.offered.values())
        self.added_exports: Dict[str, Dict[str, Tuple[Export, KernelModule]]] = {}  # by module
        self.done: Dict[int, Verdict] = {}
        self.judging: List[int] = []  # a module, that which it needs, and so on

    def verdict(self, module: KernelModule) -> Verdict:
        if id(module) not in self.done:
            self.judging.append(id(module))
            self.done[id(module)] = compose(module, self.loader, self._stages(module))
            self.judging.pop()
        return self.done[id(module)]

    def _stages(self, module: KernelModule) -> Iterator[Iterable[Finding]]:
        """The loader's steps in its order, each as what it finds."""
        loader = self.loader
        yield file_rules.file_empty(module, loader)
        yield file_rules.decompression(module, loader)
        yield signature_rules.module_sig_check(module, loader)
        yield file_rules.elf_validity(module, loader)
        yield file_rules.elf_check_arch(module, loader)
        if not module.modinfo and not module.struct_size and module.faults:
            return  # nothing of it could be read
        yield file_rules.struct_module_size(module, loader)
        early = loader.has("blacklist before versions")
        if early:
            yield module_rules.blacklisted(module, loader)
        yield version_rules.check_modstruct_version(module, loader)
        if not early:
            yield module_rules.blacklisted(module, loader)
        yield module_rules.check_modinfo(module, loader)
        yield file_rules.module_frob_arch_sections(module, loader)
        yield module_rules.already_there(module, loader)
        yield module_rules.module_augment_kernel_taints(module, loader)
        yield module_rules.check_export_symbol_sections(module, loader)
        yield module_rules.setup_modinfo(module, loader)
        yield symbol_rules.simplify_symbols(module, loader, self.find)
        yield file_rules.apply_relocations(module, loader)
        yield symbol_rules.verify_exported_symbols(module, loader, self.find, loaded=self._there_before)
        yield module_rules.btf_module_notify(module, loader)
        yield notes.named_otherwise(module)
        yield notes.namesake(module, self.kernel)
        yield modprobe_notes.configured(module, self.kernel, loader)
        yield modprobe_notes.claimed_by_others(module, self.kernel, loader)
        yield notes.compiled_otherwise(module, loader)
        yield notes.outside_of_stablelist(module, self.kernel, loader)
        if self.structs:
            yield notes.structs_changed(module, self.kernel)

    def find(self, symbol: str) -> Optional[Provided]:
        """kernel/module/main.c: find_symbol; the modules' part of it by what modprobe would have loaded
        before.
        """
        export = self.loader.exports.get(symbol)
        if export is not None and export.owner == VMLINUX:
            return Provided(export)
        found = self.exported.get(symbol)
        if found is None and export is not None and export.owner in self.added:
            found = self._of_added(export.owner).get(symbol)
        if found is not None:
            return self._provided(*found)
        if (
            export is None
            or export.owner in self.offered
            or export.owner in self.added
            or export.owner in self.replaced
        ):
            return None
        return Provided(export)

    def _of_added(self, name: str) -> Dict[str, Tuple[Export, KernelModule]]:
        """What one of the modules exports that lie beside the kernel's own; nothing where its file cannot be
        read, as a weak link may dangle.
        """
        if name not in self.added_exports:
            with forgiving():
                self.added_exports[name] = self._exported([ko.read(self.kernel.host, self.added[name])])
        return self.added_exports.setdefault(name, {})

    def _exported(self, modules: Iterable[KernelModule]) -> Dict[str, Tuple[Export, KernelModule]]:
        found: Dict[str, Tuple[Export, KernelModule]] = {}
        for module in modules:
            for export in module.exports:
                # __ksymtab_gpl is ignored where there are flags
                if module.exports_flags or not (export.gpl and self.loader.export_flags):
                    found.setdefault(
                        export.name, (Export(export.crc, export.gpl, export.namespace, module.name), module)
                    )
        return found

    def _provided(self, export: Export, module: KernelModule) -> Provided:
        # itself, or one that needs what needs it: of those neither can be loaded before the other
        if id(module) in self.judging:
            return Provided(
                export,
                module_rules.proprietary(module),
                None if id(module) == self.judging[-1] else "DEP_CYCLE",
            )
        verdict = self.verdict(module)
        refused = verdict.reason.code if verdict.verdict == INCOMPATIBLE and verdict.reason else None
        return Provided(export, self._proprietary(module), refused, verdict.verdict == UNKNOWN)

    def _proprietary(self, module: KernelModule) -> bool:
        """Its own license, or inherited from one that it uses (``inherit_taint``)."""
        return any(
            finding.code in ("WARN_LICENSE", "WARN_PROPRIETARY_DEP")
            for finding in self.verdict(module).findings
        )

    def _there_before(self, module: KernelModule) -> List[str]:
        """The modules that are loaded for certain when this one is: those that it needs, and of the group
        those that come before it.
        """
        before = takewhile(
            lambda name: name != module.name, self.offered if module.name in self.offered else ()
        )
        return list(before) + list(symbol_rules.owners(module, self.find))


def compose(module: KernelModule, loader: Loader, stages: Iterable[Iterable[Finding]]) -> Verdict:
    """The verdict of all that was found; what is behind the stage that refuses becomes a note."""
    findings: List[Finding] = []
    refused: Optional[Finding] = None
    dmesg: Optional[str] = None
    for stage in stages:
        found = list(stage)
        refusals = [finding for finding in found if finding.effect == REFUSE]
        if refused is not None:
            found = [
                finding._replace(effect=NOTE, message=finding.message + " (not reached)")
                if finding.effect in (REFUSE, DOUBT)
                else finding
                for finding in found
            ]
        elif refusals:
            refused, dmesg = refusals[-1], refusals[0].dmesg
        findings += found
    verdict = (
        INCOMPATIBLE
        if refused
        else UNKNOWN
        if any(finding.effect == DOUBT for finding in findings)
        else COMPATIBLE
    )
    return Verdict(
        module.path,
        module.name,
        loader.release,
        verdict=verdict,
        errno=refused.errno if refused else None,
        findings=tuple(findings),
        dmesg=dmesg,
    )
