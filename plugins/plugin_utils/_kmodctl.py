# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kmodctl is made of: the core, as it lies in this collection, and what it uses of the controller's
installed pyelftools.
"""

from __future__ import annotations

from pathlib import Path

CORE = Path(__file__).resolve().parent.parent / "module_utils"
PACKAGE = "outoftree_kmod"
MAIN = (
    """import os
import sys

try:
    from %s.cli import main

    status = main()
except KeyboardInterrupt:
    status = 130
except Exception as error:  # of an interpreter that is only half there: 1 would mean that all went well but for a driver that does not fit
    sys.stderr.write("kmodctl: cannot be started: %%s: %%s\\n" %% (type(error).__name__, error))
    status = 2
try:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(status)  # all is done: to take every record apart before would only take time
except (OSError, ValueError):
    sys.exit(status)
"""
    % PACKAGE
)
ELFTOOLS = ("__init__.py", "common", "construct", "elf")  # not dwarf and ehabi, which nothing here uses


def sources() -> dict[str, bytes]:
    """Name in the archive to bytes; every directory gets to be a package.

    ImportError where pyelftools is not installed.
    """
    import elftools

    found = {"__main__.py": MAIN.encode()}
    found.update(
        {PACKAGE + "/" + path.relative_to(CORE).as_posix(): path.read_bytes() for path in CORE.rglob("*.py")}
    )
    source = Path(elftools.__file__).parent
    for name in ELFTOOLS:
        for path in [source / name] if name.endswith(".py") else (source / name).rglob("*.py"):
            found["elftools/" + path.relative_to(source).as_posix()] = path.read_bytes()
    for directory in {name.rpartition("/")[0] for name in found}:
        while directory:
            found.setdefault(directory + "/__init__.py", b"")
            directory = directory.rpartition("/")[0]
    return found
