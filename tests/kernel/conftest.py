# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes the lab importable, and skips what cannot be had here with a word."""

import os

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "full: not a part of the fast run (ONLY=fast)")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("ONLY") == "fast":
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
def machines():
    """Skips where no kernel can be had or booted."""
    from tests.lab import debian, qemu

    reason = qemu.available() or debian.available()
    if reason:
        pytest.skip(reason)
