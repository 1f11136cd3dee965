# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_compat's ``kernel``: kernels that are not installed."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import check
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from tests.forge import families
from tests.forge.ko import RELEASE, ko
from tests.forge.symvers import EXPORTS, symvers

PARAMS = {
    "path": ["/vendor.ko"],
    "_described": None,
    "kernels": ["all"],
    "require": "all",
    "each": False,
    "structs": False,
    "findings": "folded",
}
NEW = "6.1.0-10-amd64"


@pytest.fixture(name="root")
def one_kernel(tmp_path):
    families.kernel(tmp_path)
    (tmp_path / "vendor.ko").write_bytes(ko("vendor"))
    (tmp_path / "symvers-new").write_bytes(symvers(EXPORTS))
    (tmp_path / "symvers-other").write_bytes(
        symvers([(name, crc + 1, *rest) for name, crc, *rest in EXPORTS])
    )
    return tmp_path


def run(root, **params):
    plan, answer = check.run(Host(str(root)), check.Options.from_params(dict(PARAMS, **params)))
    assert not plan
    return answer


def new(name="new", release=NEW):
    return {"package": None, "root": None, "symvers": "/symvers-" + name, "release": release}


def test_they_are_judged_instead_of_those_that_are_installed(root):
    answer = run(root, kernel=[new()])
    (row,) = answer.as_dict()["checks"]
    assert (answer.kernels, answer.compatible, answer.booting, answer.failed) == ((NEW,), (), (), True)
    assert (row["verdict"], row["exact"], row["origin"]) == ("unknown", False, ["/symvers-new"])
    assert row["lacks"] == ["modules", "built-in", "config", "vermagic", "certificates"]


def test_several_and_a_choice_among_them(root):
    both = [new("other", "6.1.0-11-amd64"), new()]
    assert run(root, kernel=both).kernels == (NEW, "6.1.0-11-amd64")
    answer = run(root, kernel=both, kernels=["newest"], require="none")
    assert [(each.kernel, each.verdict) for each in answer.checks] == [("6.1.0-11-amd64", "incompatible")]
    with pytest.raises(KmodError) as caught:
        run(root, kernel=both, kernels=[RELEASE])
    assert caught.value.code == "NO_SUCH_KERNEL"


def test_without_any_the_answer_says_nothing_of_that(root):
    (row,) = run(root, kernel=None).as_dict()["checks"]
    assert not {"origin", "exact", "lacks"} & set(row)


@pytest.mark.parametrize("params", [{"require": "booting"}, {"kernel": [dict(new(), root="/")]}])
def test_what_has_no_meaning_is_an_error(root, params):
    with pytest.raises(KmodError) as caught:
        run(root, **dict({"kernel": [new()]}, **params))
    assert caught.value.code == "BAD_OPTION"


def test_a_host_of_which_no_kernel_is_installed_can_be_asked(tmp_path, root):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("vendor.ko", "symvers-other"):
        (root / name).rename(empty / name)
    assert [each.verdict for each in run(empty, kernel=[new("other")]).checks] == ["incompatible"]
