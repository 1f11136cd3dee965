# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules that a person means."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import inputs
from tests.forge.ko import RELEASE, ko
from tests.forge.package import rpm


@pytest.mark.parametrize(
    "paths,code",
    [
        ([""], "PATH_EMPTY"),
        ([" \t"], "PATH_EMPTY"),
        (["/a.ko", ""], "PATH_EMPTY"),
        (["a\0b"], "PATH_EMPTY"),
        (["/none"], "PATH_MISSING"),
        (["/empty"], "NO_MODULES"),
        (["/a.ko/b"], "PATH_MISSING"),
    ],
)
def test_paths_that_name_no_module_are_errors_that_say_so(paths, code, tmp_path):
    (tmp_path / "a.ko").write_bytes(ko())
    (tmp_path / "empty/dir.ko").mkdir(parents=True)
    with pytest.raises(KmodError) as caught:
        inputs.find(Host(str(tmp_path)), paths)
    assert (caught.value.code, bool(caught.value.then)) == (code, True)


def test_a_directory_of_packages_is_as_good_as_one_of_modules(tmp_path):
    (tmp_path / "builds" / "el9").mkdir(parents=True)
    files = {"lib/modules/%s/extra/vendor.ko" % RELEASE: ko("vendor")}
    (tmp_path / "builds" / "el9" / "vendor.rpm").write_bytes(rpm(files=files))
    found = list(inputs.modules(Host(str(tmp_path)), ["/builds"]))
    assert [(module.name, module.path, data) for module, data in found] == [
        (
            "vendor",
            "/builds/el9/vendor.rpm/lib/modules/%s/extra/vendor.ko" % RELEASE,
            next(iter(files.values())),
        )
    ]


def test_where_there_are_modules_packages_beside_them_are_left_alone(tmp_path):
    (tmp_path / "vendor.ko").write_bytes(ko("vendor"))
    (tmp_path / "sources.deb").write_bytes(b"of no interest")
    assert [(module.path, data) for module, data in inputs.modules(Host(str(tmp_path)), ["/"])] == [
        ("/vendor.ko", None)
    ]


def test_what_somebody_is_still_writing_is_not_found(tmp_path):
    for name in ("6.1.0-56", ".6.1.0-56.new"):
        (tmp_path / "builds" / name).mkdir(parents=True)
        (tmp_path / "builds" / name / "vendor.ko").write_bytes(ko())
    (tmp_path / "builds/.hidden.ko").write_bytes(ko())
    assert inputs.find(Host(str(tmp_path)), ["/builds"]) == ["/builds/6.1.0-56/vendor.ko"]
