# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of stand-ins for the modules of real kernels depmod makes the same indexes, byte for byte, as of the modules.

Drivers are some of the kernel's own, moved to extra/. ONLY=fast in the environment: one kernel.
"""

import os
import random
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import depmod, stand_ins
from tests.lab import debian

pytestmark = pytest.mark.skipif(debian.available() is not None, reason=str(debian.available()))
SUITES = ("bookworm",) if os.environ.get("ONLY") == "fast" else ("bullseye", "bookworm", "trixie")
DRIVERS = 8


@pytest.fixture(scope="module")
def shelf():
    """One for all kernels, as it is where several are linked at once."""
    found = stand_ins.Shelf()
    yield found
    found.clear()


@pytest.mark.parametrize("suite", SUITES)
def test_depmod_makes_the_same_of_them(suite, tmp_path, monkeypatch, shelf):
    kernel = debian.kernels(suite, flavour="cloud-amd64")[-1]
    tree = debian.tree(kernel)
    source = next(
        path
        for path in (tree / "usr/lib/modules" / kernel.release, tree / "lib/modules" / kernel.release)
        if path.is_dir()
    )
    top = tmp_path / "lib/modules" / kernel.release
    shutil.copytree(str(source), str(top), symlinks=True)
    for name in ("build", "source"):
        if (top / name).is_symlink():
            (top / name).unlink()
    subprocess.run(["depmod", "-b", str(tmp_path), kernel.release], check=True)
    rows = [line.partition(":") for line in (top / "modules.dep").read_text().splitlines()]
    needs = {path: needed.split() for path, _colon, needed in rows}
    needed = {each for every in needs.values() for each in every}
    dice = random.Random(kernel.release)
    drivers = dice.sample([path for path in sorted(needs) if needs[path] and path not in needed], DRIVERS)
    for path in drivers:
        (top / path).rename(tmp_path / os.path.basename(path))
    subprocess.run(["depmod", "-b", str(tmp_path), kernel.release], check=True)
    (top / "extra").mkdir()
    for path in drivers:
        (tmp_path / os.path.basename(path)).rename(top / "extra" / os.path.basename(path))
    host, modules_dir = Host(str(tmp_path)), "/lib/modules/" + kernel.release
    # what they export was the kernel's own
    monkeypatch.setattr(stand_ins, "_is_foreign", lambda host, release, symbols: True)
    own = stand_ins.known(host, modules_dir, shelf.own)
    assert own is not None and len(own.needs) > 500
    quick = depmod._run_with(host, modules_dir, own, shelf)
    whole = depmod._run(host, modules_dir, without=frozenset())
    assert quick is not None and quick.made == whole.made and len(quick.given) == DRIVERS
