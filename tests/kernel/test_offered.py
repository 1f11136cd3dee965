# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dnf's lists alone refuse of a real kernel is what the installed kernel refuses: its symbols as Enterprise Linux's
packages provide them, asked and fetched by the real dnf.
"""

import contextlib

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.candidates import BY_CRC
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import INCOMPATIBLE
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_package
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import offers
from tests.forge import repositories
from tests.kernel import kernel_rpms, verdicts
from tests.kernel.test_packages import groups, opened, told
from tests.kernel.test_verdicts import neighbours
from tests.lab import debian

pytestmark = [
    pytest.mark.skipif(debian.available() is not None, reason=str(debian.available())),
    pytest.mark.skipif(
        bool(repositories.lacking(repositories.DNF)), reason=str(repositories.lacking(repositories.DNF))
    ),
    pytest.mark.full,
]


@pytest.mark.parametrize("line", ["6.1", "6.12"])
def test_what_the_lists_alone_refuse_the_installed_kernel_refuses(line, tmp_path, capsys):
    kernel, before = neighbours(line, 1)
    rpms = kernel_rpms.build(kernel, "el9", tmp_path / "made")
    place = rpms["kernel-core"].parents[1]
    repositories.dnf_lists(place)
    repositories.dnf_host(tmp_path / "root", {"baseos": place})
    installed = verdicts.core(kernel)
    counts = {"judged": 0, "refused": 0, "by the lists": 0}
    with contextlib.ExitStack() as stack:
        asking = offers.asking(Host(str(tmp_path / "root")), stack.enter_context(lock.scratch()))
        (offer,) = offers.offers(asking, "newest").kernels
        listed = kernel_package.of_lists(asking, offer, stack)
        (fetched,) = kernel_package.of_offer(asking, offer, stack)
        (direct,) = stack.enter_context(opened([rpms["kernel-devel"]]))
        assert fetched.release == direct.release == kernel.release
        assert {name: each.crc for name, each in listed.exports.items()} == {
            name: each.crc for name, each in direct.exports.items()
        }
        for label, modules in groups(kernel, before, every=30):
            rows = zip(*(told(each, modules) for each in (installed, listed, fetched, direct)))
            for real, by_lists, by_package, directly in rows:
                counts["judged"] += 1
                counts["refused"] += real[0][0] == INCOMPATIBLE
                assert by_package == directly, label
                if by_lists[1] and any(
                    code in BY_CRC for code, _symbol in by_lists[0][2]
                ):  # no owners in lists
                    counts["by the lists"] += 1
                    assert real[0][0] == INCOMPATIBLE, label
                else:
                    assert by_lists[0][0] != "compatible", label
    with capsys.disabled():
        print("\n%s: %s" % (kernel.release, counts))
    assert counts["by the lists"] > counts["refused"] / 2
