# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tools that do otherwise than they should: wrappers of the real ones, which come first in PATH.

Run as a program, this is the wrapper.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Sequence

WRAPPED = ("depmod", "unshare")  # unshare: what rebuilds an initramfs runs below it, in the root
LIMIT = 1.0  # seconds that a tool has in these tests
MODES = {
    "fails": "exits with 1, and has done nothing",
    "fails-late": "does its work and exits with 1",
    "noisy": "exits with 1 and says many lines, with escape sequences",
    "nothing": "exits with 0, and has done nothing",
    "empty": "writes files of 0 bytes",
    "half": "writes half of its files",
    "garbage": "writes other bytes",
    "missing": "leaves one of its files out",
    "lacks": "has not seen the kernel's own modules",
    "hangs": "does not end",
    "slow": "takes a while before it begins",
    "waits": "takes longer than another run would wait",
    "not-executable": "cannot be started",
}


def install(directory: Path, mode: str, at: int, places: Sequence[str]) -> None:
    """Have this process's tools go wrong, at the call number ``at`` alone (from 1) or at each (0)."""
    directory.mkdir(exist_ok=True)
    os.environ.update(
        CRASH_MODE=mode,
        CRASH_AT=str(at),
        CRASH_PATH=os.environ["PATH"],
        CRASH_PLACES=":".join(places),
        CRASH_COUNT=str(directory / "count"),
    )
    (directory / "count").write_bytes(b"")
    for name in WRAPPED:
        text = '#!/bin/sh\nexec %s -S -E %s %s "$@"\n' % (sys.executable, os.path.abspath(__file__), name)
        (directory / name).write_text("\0no program" if mode == "not-executable" else text)
        (directory / name).chmod(0o755)
    os.environ["PATH"] = "%s:%s" % (directory, os.environ["PATH"])
    if mode == "waits":
        return
    communicate = subprocess.Popen.communicate

    def sooner(process, input=None, timeout=None):  # type: ignore[no-untyped-def]
        return communicate(process, input, timeout if timeout is None else min(timeout, LIMIT))

    subprocess.Popen.communicate = sooner  # type: ignore[method-assign]


def main(name: str, arguments: List[str]) -> int:
    os.environ["PATH"] = os.environ["CRASH_PATH"]
    argv = [name] + arguments
    mode = os.environ["CRASH_MODE"]
    if "--help" in argv:  # a question, no work
        return subprocess.call(argv)
    with open(os.environ["CRASH_COUNT"], "ab") as count:
        count.write(b".")
        number = count.tell()
    if int(os.environ["CRASH_AT"]) not in (0, number):
        return subprocess.call(argv)
    if mode in ("fails", "nothing"):
        return int(mode == "fails")
    if mode == "hangs":
        time.sleep(600)
    if mode in ("slow", "waits"):
        time.sleep(0.3 if mode == "slow" else 6)
    if mode == "noisy":
        sys.stderr.write("".join("\x1b[31m%s: error %d\x1b[0m\n" % (name, line) for line in range(200)))
        return 1
    began = time.time()
    lacking = ["-C", _excluding()] if mode == "lacks" and name == "depmod" else []
    status = subprocess.call(argv[:1] + lacking + argv[1:])
    made = _made(began)
    for path in made[:1] if mode == "missing" else made:
        _spoil(path, mode)
    return 1 if mode == "fails-late" else status


def _excluding() -> str:
    path = os.environ["CRASH_COUNT"] + ".conf"
    with open(path, "w") as conf:
        conf.write("exclude kernel\n")
    return path


def _made(began: float) -> List[str]:
    found = []
    for place in os.environ["CRASH_PLACES"].split(":"):
        for directory, _names, files in os.walk(place):
            for name in files:
                path = os.path.join(directory, name)
                if (
                    name.startswith(("modules.", "initrd"))
                    and not os.path.islink(path)
                    and os.stat(path).st_mtime >= began - 0.02
                ):
                    found.append(path)
    return sorted(found, key=lambda path: (not path.endswith(".dep.bin"), path))


def _spoil(path: str, mode: str) -> None:
    size = os.path.getsize(path)
    if mode in ("empty", "half"):
        os.truncate(path, 0 if mode == "empty" else size // 2)
    elif mode == "garbage":
        with open(path, "r+b") as handle:
            handle.write(b"\x5a" * size)
    elif mode == "missing":
        os.unlink(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
