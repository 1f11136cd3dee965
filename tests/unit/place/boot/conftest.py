# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines of all families, and some that can be started again, for all tests of boot entries."""

from tests.unit.place.boot.test_entry import machine, trier  # noqa: F401
