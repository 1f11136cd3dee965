# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The distributions' families by one name each, and kernels installed as they install theirs."""

import gzip
import lzma
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

from tests.forge.ko import FLAGS, RELEASE, ko
from tests.forge.symvers import EXPORTS, symvers

BOOT, MODULES, HEADERS = "/boot", "its modules", "its headers"  # where a kernel's symvers can be


class Family(NamedTuple):
    """``initrd`` is what it calls an initramfs, with a place for the release; ``depmod`` (path, text) of its
    configuration.
    """

    initrd: str
    os_release: str
    depmod: Optional[Tuple[str, str]] = None
    modules: str = "lib/modules"  # where its packages have them
    directories: Tuple[str, ...] = ()  # shipped empty, beside a kernel's own modules
    symvers: Tuple[str, ...] = (BOOT,)


_EL = ("extra", "updates", "weak-updates")
_SEARCH = "search updates extra built-in weak-updates\n"
FAMILIES = {
    # /etc/redhat-release is all that it has
    "el6": Family("initramfs-%s.img", "", ("etc/depmod.d/dist.conf", _SEARCH), directories=_EL),
    "el7": Family(
        "initramfs-%s.img",
        'NAME="CentOS Linux"\nVERSION_ID="7"\nID="centos"\nID_LIKE="rhel fedora"\n',
        ("etc/depmod.d/dist.conf", _SEARCH),
        directories=_EL,
    ),
    "el8": Family(
        "initramfs-%s.img",
        'NAME="Rocky Linux"\nVERSION_ID="8.10"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
        ("etc/depmod.d/dist.conf", _SEARCH),
        directories=_EL,
        symvers=(BOOT, MODULES),
    ),
    "el9": Family(
        "initramfs-%s.img",
        'NAME="Rocky Linux"\nVERSION_ID="9.6"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
        ("usr/lib/depmod.d/dist.conf", _SEARCH),
        directories=_EL,
        symvers=(BOOT, MODULES),
    ),
    "debian": Family(
        "initrd.img-%s", 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n', symvers=(HEADERS,)
    ),
    "ubuntu": Family(
        "initrd.img-%s",
        'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n',
        ("etc/depmod.d/ubuntu.conf", "search updates ubuntu built-in\n"),
        symvers=(HEADERS,),
    ),
    "sles": Family(
        "initrd-%s",
        'NAME="SLES"\nVERSION_ID="15.6"\nID="sles"\nID_LIKE="suse"\n',
        ("lib/depmod.d/00-system.conf", "search updates extra weak-updates kgraft built-in\n"),
    ),
    "tumbleweed": Family(
        "initrd-%s",
        'NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n',
        ("usr/lib/depmod.d/depmod-00-system.conf", "search updates extra weak-updates kgraft built-in\n"),
        "usr/lib/modules",
    ),
}
CONFIG = "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODULE_SIG=y\nCONFIG_LIVEPATCH=y\nCONFIG_RETPOLINE=y\n"


def configure(root: Path, family: str) -> None:
    """The family's own depmod.d and os-release."""
    layout = FAMILIES[family]
    for path, text in filter(None, [layout.depmod, ("etc/os-release", layout.os_release)]):
        if text:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)


def kernel(
    root: Path,
    release: str = RELEASE,
    *,
    exports: Optional[Sequence[Tuple[str, int, bool, str, str]]] = EXPORTS,
    config: Optional[str] = CONFIG,
    family: str = "debian",
    flags: str = FLAGS,
    builtin: Sequence[str] = (),
    in_tree: Optional[Dict[str, bytes]] = None,
    **module: Any,
) -> Path:
    """An installed kernel below ``root``: image (no real one), config, symvers where the family keeps it, and
    in-tree modules.

    family: one of FAMILIES. in_tree: more modules, path below kernel/ -> bytes.
    module: what to give to ``ko`` for the one module that is always there. exports None: no symvers.
    """
    layout = FAMILIES[family]
    top = root / layout.modules / release
    crc = next((crc for symbol, crc, *_rest in exports or EXPORTS if symbol == "module_layout"), None)
    dummy = ko(
        "dummy",
        [("module_layout", crc or 0)],
        release=release,
        flags=flags,
        modinfo={"intree": "Y"},
        versioned="modversions" in flags,
        **module,
    )
    files: Dict[str, bytes] = {"kernel/drivers/net/dummy.ko": dummy}
    files.update({"kernel/" + name: data for name, data in (in_tree or {}).items()})
    files["modules.order"] = "".join(sorted(name + "\n" for name in files)).encode()
    files["modules.builtin"] = "".join("kernel/drivers/base/%s.ko\n" % name for name in builtin).encode()
    written = {top / name: data for name, data in files.items()}
    boot = root / "boot"
    written[boot / ("vmlinuz-" + release)] = b"MZ no real kernel"
    if config is not None:
        written[boot / ("config-" + release)] = config.encode()
    if exports is not None:
        table = symvers(exports)
        places = {
            BOOT: boot / ("symvers-%s.gz" % release),
            MODULES: top / "symvers.xz",
            HEADERS: root / "usr/src" / ("linux-headers-" + release) / "Module.symvers",
        }
        for path in [places[place] for place in layout.symvers]:
            pack = {
                ".gz": gzip.compress,
                ".xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
            }.get(path.suffix, bytes)
            written[path] = pack(table)
    for path, data in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top
