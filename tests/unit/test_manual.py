# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manual page names every command of kmodctl, and every file and unit that comes with it."""

import argparse
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import arguments
from ansible_collections.outoftree.kmod.plugins.module_utils.place import (
    bulletin,
    hook_texts,
    hooks,
    settings,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.manual import MANUAL_PAGE

PLAIN = MANUAL_PAGE.replace("\\-", "-")


def commands():
    top = arguments.parser()
    return next(action for action in top._actions if isinstance(action, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_in_it(command):
    assert command in PLAIN


def test_options_of_the_commands_that_only_hooks_use_are_in_it():
    for command in ("add-kernel", "refresh"):
        for action in commands()[command]._actions:
            for option in action.option_strings:
                assert option in PLAIN or option in ("-h",), option


@pytest.mark.parametrize(
    "what", [settings.PATH, hook_texts.HOOK, bulletin.PENDING, bulletin.FACT, *hooks.UNIT_FILES]
)
def test_every_file_and_unit_is_in_it(what):
    assert what in PLAIN


@pytest.mark.skipif(not shutil.which("man"), reason="no man on this machine")
def test_it_is_read_without_a_warning():
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "-"],
        input=MANUAL_PAGE.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.stderr == b""
