# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is promised of kmod_follow about the script weak-modules, which somebody else may have diverted."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import following
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import hooks, settings
from ansible_collections.outoftree.kmod.plugins.module_utils.turns import Turns
from tests.unit.place.test_hooks import system, tree

SCRIPT = "usr/sbin/weak-modules"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "has_kmodctl", lambda *arguments: True)
    (system(tmp_path) / SCRIPT).parent.mkdir()
    (tmp_path / SCRIPT).write_text("#!/bin/sh\n# the package's\n")
    (tmp_path / SCRIPT).chmod(0o755)
    return tmp_path


def arrange(root, **options):
    with Turns(str(root)) as turns:
        following.arrange(turns, following.Options("vendor", **options))
        return turns.changed


def weak_modules(root):
    return {path.name: path.read_text() for path in (root / SCRIPT).parent.iterdir()}


def test_what_somebody_else_has_diverted_stays_whatever_is_asked_for(root):
    """The package's own script lies beside, by dpkg-divert; before, a play took it away."""
    (root / SCRIPT).rename(root / (SCRIPT + ".distrib"))
    (root / SCRIPT).write_text("#!/bin/sh\n# an admin's\n")
    before, theirs = tree(root), weak_modules(root)
    with pytest.raises(KmodError) as caught:
        arrange(root, weak_modules="divert")
    assert caught.value.code == "WEAK_MODULES_ODD" and tree(root) == before
    assert arrange(root) and weak_modules(root) == theirs
    arrange(root, state="absent")
    assert tree(root) == before


def test_a_diversion_is_remembered_until_it_ends(root):
    before, theirs = tree(root), weak_modules(root)
    assert arrange(root, weak_modules="divert") and settings.read(Host(str(root))).diverted
    assert not arrange(root, weak_modules="divert")
    assert set(weak_modules(root)) == {"weak-modules", "weak-modules.distrib"}
    (root / SCRIPT).write_text("#!/bin/sh\n# newer\n")
    assert arrange(root, weak_modules="divert") and "kmodctl" in weak_modules(root)["weak-modules"]
    assert arrange(root) and not settings.read(Host(str(root))).diverted
    assert weak_modules(root) == {"weak-modules": "#!/bin/sh\n# newer\n"} and not arrange(root)
    (root / SCRIPT).write_text(theirs["weak-modules"])
    arrange(root, weak_modules="divert")
    arrange(root, state="absent")
    assert tree(root) == before
