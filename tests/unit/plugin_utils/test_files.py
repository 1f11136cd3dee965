# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read on the controller: files of a build store are those that were put there, and a source travels whole."""

from pathlib import Path

import pytest
from ansible import constants

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, source
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files
from tests.forge.ko import RELEASE, ko


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "local"))


def test_a_build_that_was_changed_in_the_store_is_not_read(tmp_path):
    with build_store.held(str(tmp_path / "store"), "vendor", RELEASE) as slot:
        made = slot.put({"version": "1.0", "input": "1" * 64}, {"vendor.ko": ko()})
    assert [each.path for each in _files.found([made.directory], None)] == made.modules
    Path(made.modules[0]).write_bytes(ko() + b"\0")
    with pytest.raises(KmodError) as caught:
        _files.found([str(tmp_path / "store/vendor")], None)
    assert caught.value.code == "BUILD_TAMPERED"


def test_a_source_is_sent_as_one_file_without_its_history_and_is_the_same_source_there(tmp_path):
    for path, text in {"Kbuild": "obj-m := a.o\n", "src/a.c": "int a;\n", ".git/config": "x"}.items():
        (tmp_path / "driver" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "driver" / path).write_text(text)
    (tmp_path / "driver/configure").write_text("#!/bin/sh\n")
    (tmp_path / "driver/configure").chmod(0o755)
    (tmp_path / "driver/b.c").symlink_to("src/a.c")
    archive = _files.archive(str(tmp_path / "driver"))
    for number, path in enumerate((str(tmp_path / "driver"), archive)):
        source.copy(path, str(tmp_path / str(number)), 1 << 20)
    assert source.digest(str(tmp_path / "0")) == source.digest(str(tmp_path / "1"))
    assert not (tmp_path / "1/.git").exists() and (tmp_path / "1/b.c").read_text() == "int a;\n"
    assert _files.archive(archive) == archive
