# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Put the core and the installed pyelftools into one file that any Python from 3.6 on runs: kmodctl."""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "build" / "collections"))

from ansible_collections.outoftree.kmod.plugins.module_utils.place import zipapp  # noqa: E402
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _kmodctl  # noqa: E402

INTERPRETER = "/usr/bin/env python3"


def build(target: str) -> None:
    """Write the file, whole or not at all."""
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(zipapp.runnable(_kmodctl.sources(), INTERPRETER))
    temporary.chmod(0o755)
    os.replace(str(temporary), str(path))


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else "build/kmodctl")
