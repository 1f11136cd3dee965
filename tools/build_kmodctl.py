# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put the core and the installed pyelftools into one file that any Python from 3.6 on runs: kmodctl."""

import importlib.util
import io
import marshal
import os
import struct
import sys
import zipfile
from pathlib import Path
from typing import Iterator, Tuple

CORE = Path(__file__).resolve().parent.parent / "plugins" / "module_utils"
PACKAGE = "outoftree_kmod"
MAIN = (
    """import sys

try:
    from %s.cli import main

    status = main()
except KeyboardInterrupt:
    status = 130
sys.exit(status)
"""
    % PACKAGE
)
SHEBANG = b"#!/usr/bin/env python3\n"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same input gives the same bytes
ELFTOOLS = ("__init__.py", "common", "construct", "elf")  # not dwarf and ehabi, which nothing here uses


def build(target: str) -> None:
    """Write the file, whole or not at all."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents()):
            info = zipfile.ZipInfo(name, LONG_AGO)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(SHEBANG + data.getvalue())
    temporary.chmod(0o755)
    os.replace(str(temporary), str(path))


def contents() -> Iterator[Tuple[str, bytes]]:
    """(name in the archive, bytes); every directory gets to be a package."""
    import elftools

    yield "__main__.py", MAIN.encode()
    found = {PACKAGE + "/" + str(path.relative_to(CORE)): path.read_bytes() for path in CORE.rglob("*.py")}
    source = Path(elftools.__file__).parent
    for name in ELFTOOLS:
        for path in [source / name] if name.endswith(".py") else (source / name).rglob("*.py"):
            found["elftools/" + str(path.relative_to(source))] = path.read_bytes()
    for name, content in list(found.items()):
        found[name + "c"] = compiled(name, content)
    for directory in {name.rpartition("/")[0] for name in found}:
        while directory:
            found.setdefault(directory + "/__init__.py", b"")
            directory = directory.rpartition("/")[0]
    yield from found.items()


def compiled(name: str, source: bytes) -> bytes:
    """The module's bytecode: a Python of the version that builds need not compile it at each start, any other
    ignores it and does.

    ``Lib/importlib/_bootstrap_external.py: _code_to_hash_pyc``, unchecked: a time would not survive the
    archive's two seconds and no zone.
    """
    code = compile(source, "kmodctl/" + name, "exec", dont_inherit=True, optimize=2)
    return (
        importlib.util.MAGIC_NUMBER
        + struct.pack("<I", 1)
        + importlib.util.source_hash(source)
        + marshal.dumps(code)
    )


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else "build/kmodctl")
