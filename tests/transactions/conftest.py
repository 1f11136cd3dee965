# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests of all systems begin with: a module has a fixture ``system``. Skips what cannot be had here with
a word.
"""

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


@pytest.fixture(scope="session")
def command(memory):
    """The host's own command."""
    from tests.transactions import machine

    return machine.kmodctl(memory)


@pytest.fixture(scope="module")
def kernels(system):
    """The releases of the system's three kernels."""
    return [image.release for image in system.kernels()]


@pytest.fixture(scope="module")
def deployed(system, memory, command):
    """A system with the driver on its first kernel, which does not follow yet."""
    from tests.lab import drivers
    from tests.transactions.machine import Machine

    first = system.kernels()[0]
    host = Machine(system.base(), memory, system.shared(), command)
    try:
        system.begin(host)
        host.deploy({first.release: drivers.edu(first)}, first.release)
        yield host.freeze()
    finally:
        host.remove()


@pytest.fixture
def bare(deployed, system, memory, command):
    """One of a test's own."""
    from tests.transactions.machine import Machine

    host = Machine(deployed, memory, system.shared(), command)
    try:
        yield host
    finally:
        host.remove()


@pytest.fixture
def host(bare):
    """One that follows new kernels."""
    bare.follow()
    return bare
