# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all ways of running the collection are tried on: hosts that are directories, and builds of a driver."""

import pytest

from tests.forge import fleet
from tests.ways.given import NEW, OLD


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """Two kernels, of which the newer one refuses what was built for the older one."""
    directory = tmp_path_factory.mktemp("kernels")
    return [fleet.kernel(directory, release, change) for release, change in ((OLD, 0), (NEW, 1))]


@pytest.fixture
def hosts(tmp_path, kernels):
    """hosts(number): that many roots, laid out as Enterprise Linux 9 has them, with one kernel each."""

    def make(number, kernel=0):
        roots = [tmp_path / "hosts" / ("host%02d" % each) for each in range(number)]
        for root in roots:
            fleet.el9(root, [kernels[kernel]])
        return roots

    return make


@pytest.fixture
def builds(tmp_path):
    """A vendor's build for the older kernel."""
    fleet.build(tmp_path / "builds/mydriver", "mydriver", OLD)
    return tmp_path / "builds/mydriver"
