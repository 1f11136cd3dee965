# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Chooses the part for CI."""

import pytest

from tests import COLLECTIONS
from tests.lab.selection import pytest_collection_modifyitems, pytest_configure  # noqa: F401


@pytest.fixture(scope="session")
def collections():
    """The directory that has this checkout at ansible_collections/outoftree/kmod."""
    return COLLECTIONS
