# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Skips what cannot be had here with a word."""

import os

import pytest

FAST = os.environ.get("ONLY") == "fast"


def pytest_configure(config):
    config.addinivalue_line("markers", "full: not a part of the fast run (ONLY=fast)")


def pytest_collection_modifyitems(config, items):
    if FAST:
        chosen = [item for item in items if item.get_closest_marker("full") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    from tests.lab import debian

    try:
        return (yield)
    except debian.Missing as reason:
        pytest.skip(str(reason))


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
