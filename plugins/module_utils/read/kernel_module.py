# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel module as plain data: what it needs and what it gives.

Everything that a verdict depends on is in the KernelModule, and it goes to and from JSON, so a module can be
read on one machine and judged on another. A file that no kernel would load is still a KernelModule, with
faults.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from . import names
from .btf import Struct
from .elf import Fault
from .signature import Signature


class Undefined(NamedTuple):
    """A symbol that the module needs, or (``common``) one that the loader will not have."""

    name: str
    weak: bool = False
    common: bool = False


class Version(NamedTuple):
    """The CRC that a symbol had when the module was built: all of the field, which 64-bit kernels compare in
    full.
    """

    name: str
    crc: int


class Exported(NamedTuple):
    """A symbol that the module gives to others. ``crc`` is None where it keeps none."""

    name: str
    crc: Optional[int]
    gpl: bool
    namespace: str


class KernelModule(NamedTuple):
    """``versions`` and ``ext_versions`` are None where the module has no such table; all tables are in the
    file's order.
    """

    path: str
    name: str
    sha256: str  # of the uncompressed file
    size: int
    machine: str
    modinfo: Tuple[Tuple[str, str], ...] = ()
    undefined: Tuple[Undefined, ...] = ()
    versions: Optional[Tuple[Version, ...]] = None
    chained_versions: bool = False  # Ubuntu's form of __versions: entries of any length
    ext_versions: Optional[Tuple[Version, ...]] = None
    exports: Tuple[Exported, ...] = ()
    exports_crcs: bool = False  # has a __kcrctab
    exports_flags: bool = False  # has a __kflagstab
    struct_size: int = 0  # of .gnu.linkonce.this_module
    init_offset: Optional[int] = None  # where in it the address of init_module goes
    exit_offset: Optional[int] = None
    btf: str = ""  # "ok", or "bad" where its header is damaged
    # the types that it refers to, its own and those of the kernel that it was built for
    btf_ids: Tuple[int, ...] = ()
    btf_base: Tuple[Struct, ...] = ()  # what it keeps of that kernel's structures
    signature: Optional[Signature] = None
    features: Tuple[str, ...] = ()  # what its code was compiled with: ibt, kcfi; or "no code"
    odd_ident: bool = False  # the ELF header's class and byte order are not those of the machine
    faults: Tuple[Fault, ...] = ()
    # how its file is compressed, if it is: "gzip", "xz", "zstd"; "xz, check 4" for another check than CRC32
    # or none
    packed: str = ""

    def info(self, key: str) -> Optional[str]:
        """The first value of a .modinfo key, as the loader takes it (``kernel/module/main.c: get_modinfo``)."""
        return next((value for name, value in self.modinfo if name == key), None)

    def infos(self, key: str) -> List[str]:
        return [value for name, value in self.modinfo if name == key]

    @property
    def vermagic(self) -> Optional[str]:
        return self.info("vermagic")

    @property
    def built_for(self) -> str:
        """The kernel release it was built for; "" if it does not say."""
        return (self.vermagic or "").split(" ")[0]

    @property
    def version(self) -> Optional[str]:
        return self.info("version")

    @property
    def srcversion(self) -> Optional[str]:
        return self.info("srcversion")

    @property
    def license(self) -> Optional[str]:
        return self.info("license")

    @property
    def depends(self) -> List[str]:
        return [names.module_of(name) for name in (self.info("depends") or "").split(",") if name]

    @property
    def firmware(self) -> List[str]:
        return self.infos("firmware")

    @property
    def aliases(self) -> List[str]:
        return self.infos("alias")

    @property
    def namespaces(self) -> List[str]:
        return self.infos("import_ns")

    def as_dict(self) -> Dict[str, Any]:
        """Nothing but what JSON has."""
        answer: Dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()
        }
        if self.signature is not None:
            answer["signature"] = self.signature._asdict()
        return answer

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "KernelModule":
        """The inverse of ``as_dict``, also after a trip through JSON.

        Error: MODULE_DATA for anything else.
        """
        try:
            rows = {name: _rows(kind, data[name]) for name, kind in _ROWS.items()}
            signature = data["signature"] and Signature(**data["signature"])
            modinfo = _rows(lambda key, value: (key, value), data["modinfo"])
            return cls(
                **dict(
                    data,
                    modinfo=modinfo,
                    features=tuple(data["features"]),
                    btf_ids=tuple(data["btf_ids"]),
                    signature=signature,
                    **rows,
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise KmodError(
                str(data.get("path") if isinstance(data, dict) else data)[:200],
                "is not a description of a module (%r)" % (error,),
                "Use the same version of the collection on both sides",
                "MODULE_DATA",
            ) from None


_ROWS: Dict[str, Any] = {
    "undefined": Undefined,
    "versions": Version,
    "ext_versions": Version,
    "exports": Exported,
    "faults": Fault,
    "btf_base": Struct,
}


def _rows(kind: Any, rows: Optional[Sequence[Any]]) -> Any:
    return None if rows is None else tuple(kind(*row) for row in rows)
