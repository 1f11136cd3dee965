# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""One list of boot loaders: what users may name and read is held against it."""

import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import loaders
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import View
from tests.forge import machines

CHECKOUT = Path(__file__).resolve().parents[4]
NAMES = [loader.name for loader in loaders.LOADERS]


def test_no_two_have_one_name():
    assert len(set(NAMES)) == len(NAMES) and loaders.AUTO not in NAMES


def test_the_module_offers_each():
    text = (CHECKOUT / "plugins/modules/grub_entry.py").read_text()
    documented = yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', text, re.S).group(1))
    assert documented["options"]["loader"]["choices"] == [loaders.AUTO, *NAMES]
    given = re.search(r"loader=dict\(.*?choices=\[(.*?)\]", text, re.S).group(1)
    assert re.findall(r'"(.*?)"', given) == [loaders.AUTO, *NAMES]
    returned = yaml.safe_load(re.search(r'RETURN = r"""(.*?)"""', text, re.S).group(1))["loader"][
        "description"
    ]
    assert [name for name in NAMES if "C(%s)" % name not in returned] == []


def test_the_role_offers_each():
    specs = yaml.safe_load((CHECKOUT / "roles/deploy/meta/argument_specs.yml").read_text())
    assert specs["argument_specs"]["main"]["options"]["kmod_loader"]["choices"] == [loaders.AUTO, *NAMES]


def test_the_document_tells_of_each_what_it_can():
    """A row each in the table of docs/entries.md: its name first, whether it can start an entry once last."""
    rows = re.findall(
        r"^\| [^|]*\(`([a-z0-9-]+)`\) \|.*\| (yes|no)[^|]* \|$",
        (CHECKOUT / "docs/entries.md").read_text(),
        re.M,
    )
    assert rows == [(loader.name, "yes" if loader.once else "no") for loader in loaders.LOADERS]


@pytest.mark.parametrize("family", sorted(machines.FAMILIES))
def test_what_cannot_start_an_entry_once_says_so_whatever_is_asked(tmp_path, family):
    machines.FAMILIES[family](tmp_path)
    view = View(Host(str(tmp_path)))
    at = loaders.detect(view.host)
    if not at.loader.once:
        with pytest.raises(KmodError) as refused:
            at.loader.set_once(view, at, at.menu(view).entries[0])
        assert refused.value.code == "ONCE_NOT_SAFE"


def test_each_is_tried_on_a_machine_that_has_it(tmp_path):
    found = set()
    for family, make in machines.FAMILIES.items():
        make(tmp_path / family)
        found.add(loaders.detect(Host(str(tmp_path / family))).loader.name)
    assert found == set(NAMES)
