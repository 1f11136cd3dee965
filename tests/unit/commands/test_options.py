# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module and its command mean the same by the same option: the module documents the default, kmodctl leaves
it to the command.
"""

import importlib

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import (
    check,
    entry,
    link,
    status,
    variant,
)

PLUGINS = "ansible_collections.outoftree.kmod.plugins."
COMMANDS = {
    "kmod_compat": check,
    "kmod_link": link,
    "initrd_variant": variant,
    "grub_entry": entry,
    "kmod_info": status,
}
REQUIRED = {"driver": {"str": "vendor", "list": ["vendor"]}}


@pytest.fixture(params=COMMANDS)
def module(request, monkeypatch):
    """The command, and the module's options where none is given that need not be."""
    found = importlib.import_module(PLUGINS + "modules." + request.param)
    seen = []
    monkeypatch.setattr(found, "AnsibleModule", lambda argument_spec, supports_check_mode: argument_spec)
    monkeypatch.setattr(found.task, "run", lambda spec, command: seen.append((spec, command)))
    found.main()
    ((spec, command),) = seen
    assert command is COMMANDS[request.param]
    return command, {
        name: REQUIRED[name][each["type"]] if each.get("required") else each.get("default")
        for name, each in spec.items()
    }


def test_what_is_not_given_is_what_kmodctl_leaves_out(module):
    command, params = module
    named = {"driver": command.Options.from_params(params).driver} if "driver" in params else {}
    assert command.Options.from_params(params) == command.Options(**named)
