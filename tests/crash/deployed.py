# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has no command of kmodctl's: several drivers that are in the store already brought to what is wanted of them,
as the module kmod_deploy does it.
"""

import argparse
from typing import Sequence

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import deploy
from tests.crash.module import carry_out

DEPLOY = "kmod_deploy"


def main(argv: Sequence[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root")
    parser.add_argument("--absent", action="append", default=[])
    parser.add_argument("--blacklist", action="append", default=[])
    parser.add_argument("drivers", nargs="*")
    given = parser.parse_args(argv[1:])
    wanted = [deploy.WantedDriver(name, blacklist=tuple(given.blacklist)) for name in given.drivers]
    wanted += [deploy.WantedDriver(name, state="absent") for name in given.absent]
    return carry_out(given.root, lambda turns: deploy.run(turns, deploy.Options(tuple(wanted))))
