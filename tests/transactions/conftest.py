# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Skips what cannot be had here with a word."""

import pytest

pytest.register_assert_rewrite("tests.transactions.machine")  # so that what differs is told

from tests.lab.selection import (  # noqa: E402, F401
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_call,
)


@pytest.fixture(scope="session")
def memory():
    """A directory in memory for what tests change, thrown away with all mounts at the end; skips where that
    cannot be.
    """
    from tests.transactions import chroot

    reason = chroot.missing()
    if reason:
        pytest.skip(reason)
    with chroot.scratch() as place:
        yield place
