# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel exports."""
from typing import Dict, NamedTuple, Optional

from .. import compression
from ..errors import KmodError
from ..host import Host

VMLINUX = "vmlinux"


class Export(NamedTuple):
    """One exported symbol. ``crc`` is None where no versions are kept, ``namespace`` is "" for none, ``owner`` is vmlinux or a module's name."""

    crc: Optional[int]
    gpl: bool
    namespace: str
    owner: str


# Where distributions put a kernel's symvers; each may be compressed in any way, whatever its name says.
_PLACES = (
    "/boot/symvers-%s",  # EL, SUSE
    "/lib/modules/%s/symvers",  # EL 8 on, Fedora
    "/usr/lib/modules/%s/symvers",  # SUSE
    "/usr/src/kernels/%s/Module.symvers",  # EL: kernel-devel
    "/lib/modules/%s/build/Module.symvers",  # Debian, Arch, SUSE: headers
    "/usr/lib/modules/%s/build/Module.symvers",
    "/usr/src/linux-headers-%s/Module.symvers",  # Debian: headers without the kernel itself
)


def find_symvers(host: Host, release: str) -> Optional[str]:
    """The first place where the kernel's symvers lies; None where there is none."""
    places = (place % release + ending for place in _PLACES for ending in (".xz", ".gz", ".zst", ""))
    return next((path for path in places if host.is_file(path)), None)


def read_symvers(host: Host, path: str) -> Dict[str, Export]:
    return from_symvers(compression.decompress(host.read(path), path), path)


def from_symvers(data: bytes, what: str = "Module.symvers") -> Dict[str, Export]:
    """A symvers file's exports by symbol name. Error: SYMVERS_BAD for a file that is none.

    The columns are crc, symbol, module, export kind and, since 5.4, a namespace, which stood third until 5.6
    (``scripts/mod/modpost.c: read_dump``). A file in which every CRC is 0 is of a kernel without CONFIG_MODVERSIONS.
    """
    found: Dict[str, Export] = {}
    owners: Dict[str, str] = {}
    versioned = False
    for line in data.decode("utf-8", "backslashreplace").split("\n"):
        columns = line.split("\t")
        kind = columns[3] if len(columns) > 3 else ""
        if not kind.startswith("EXPORT_"):
            if len(columns) > 4 and columns[4].startswith("EXPORT_"):
                columns[2:5] = columns[3], columns[4], columns[2]
                kind = columns[3]
            else:
                continue
        try:
            crc = int(columns[0], 16)
        except ValueError:
            continue
        module = columns[2]
        owner = owners.get(module)
        if owner is None:
            owner = owners[module] = VMLINUX if module.startswith(VMLINUX) else module.rsplit("/", 1)[-1].replace("-", "_")
        versioned = versioned or crc != 0
        found[columns[1]] = Export(crc, "_GPL" in kind and not kind.endswith("_FUTURE"), columns[4].strip() if len(columns) > 4 else "", owner)
    if not found:
        raise KmodError(what, "lists no exported symbol", "Install the kernel's symvers (its -devel or -headers package) again", "SYMVERS_BAD")
    return found if versioned else {symbol: export._replace(crc=None) for symbol, export in found.items()}
