# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has no command of kmodctl's: that a host follows new kernels with a driver, or no longer, as the module
kmod_follow does it; and a kernel that leaves.
"""

import argparse
from pathlib import Path
from typing import Sequence

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import following
from ansible_collections.outoftree.kmod.plugins.module_utils.place import zipapp
from ansible_collections.outoftree.kmod.plugins.module_utils.place.settings import Followed
from tests.crash.module import carry_out
from tests.crash.tree import Tree
from tests.forge.machines import MACHINE, NEW

FOLLOW, FOLLOW_NO_MORE = "kmod_follow --driver acme", "kmod_follow --driver acme --absent"
# A small one: how it is put in place and taken away again does not hang upon what is in it
KMODCTL = {"__main__.py": b"import outoftree_kmod.cli\n", zipapp.MARK.decode(): b"print('kmodctl')\n"}


def main(argv: Sequence[str], archive: Path) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser()
    for name in ("--root", "--driver", "--boot"):
        parser.add_argument(name, default="none")
    for name in ("--absent", "--keep-default"):
        parser.add_argument(name, action="store_true")
    given = parser.parse_args(argv[1:])
    options = following.Options(
        given.driver,
        "absent" if given.absent else "present",
        Followed(boot=given.boot, keep_default=given.keep_default),
        str(archive),
        zipapp.digest(KMODCTL),
    )
    return carry_out(
        given.root,
        lambda turns: following.run(turns, options),
        failed=lambda answer: bool(answer.refreshed and answer.refreshed.failed),
    )


def archive(directory: Path) -> Path:
    """What is sent to a host."""
    path = directory / "kmodctl.zip"
    path.write_bytes(zipapp.packed(KMODCTL))
    return path


def without(tree: Tree) -> Tree:
    """As it is before the newer kernel arrives. What its distribution's tools make of all kernels they have
    made already.
    """
    return Tree({path: node for path, node in tree.nodes.items() if NEW not in path}, tree.times)


def arrived(tree: Tree, whole: Tree) -> Tree:
    """With the newer kernel as it is there."""
    more = {path: node for path, node in whole.nodes.items() if NEW in path}
    return Tree({**tree.nodes, **more}, {**whole.times, **tree.times})


def leave(root: Path) -> None:
    """What the distribution has taken of the newer kernel, which leaves, by the time its last hooks run."""
    names = [each + NEW for each in ("vmlinuz-", "initrd.img-", "initramfs-")]
    names += ["initramfs-%s.img" % NEW, "%s-%s.conf" % (MACHINE, NEW)]
    for path in sorted(root.glob("boot/**/*")):
        if path.name in names or (path.name == "linux" and path.parent.name == NEW):
            path.unlink()
