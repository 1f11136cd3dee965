# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes the lab importable, and skips what cannot be had here with a word."""

import pytest

from tests.lab.selection import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_call,
)


@pytest.fixture(scope="session")
def machines():
    """Skips where no kernel can be had or booted."""
    from tests.lab import debian, qemu

    reason = qemu.available() or debian.available()
    if reason:
        pytest.skip(reason)
