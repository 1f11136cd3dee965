# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Installed kernels, laid out as the families lay out theirs."""

import gzip
import lzma
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from tests.forge.ko import FLAGS, RELEASE, ko
from tests.forge.symvers import EXPORTS, symvers

CONFIG = "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODULE_SIG=y\nCONFIG_LIVEPATCH=y\nCONFIG_RETPOLINE=y\n"


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

    family: debian (headers), el (symvers.gz in both places), suse (/usr/lib/modules). in_tree: more modules,
    path below kernel/ -> bytes. module: what to give to ``ko`` for the one module that is always there.
    exports None: no symvers.
    """
    top = root / ("usr/lib/modules" if family == "suse" else "lib/modules") / release
    layout = next((crc for symbol, crc, *_rest in exports or EXPORTS if symbol == "module_layout"), None)
    dummy = ko(
        "dummy",
        [("module_layout", layout or 0)],
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
        if family == "debian":
            written[root / "usr/src" / ("linux-headers-" + release) / "Module.symvers"] = table
        elif family == "el":
            written[boot / ("symvers-%s.gz" % release)] = gzip.compress(table)
            written[top / "symvers.xz"] = lzma.compress(table, check=lzma.CHECK_CRC32)
        else:
            written[boot / ("symvers-%s.gz" % release)] = gzip.compress(table)
    for path, data in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top
