# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""pytest hooks for suites of real things: ONLY=fast leaves out what is marked ``full``, and what cannot be had
here is skipped with a word.
"""

import os

import pytest

from tests.lab import debian


def pytest_configure(config):
    config.addinivalue_line("markers", "full: not a part of the fast run (ONLY=fast)")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("ONLY") == "fast":
        chosen = [item for item in items if item.get_closest_marker("full") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except debian.Missing as reason:
        pytest.skip(str(reason))
