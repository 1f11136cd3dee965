# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine with a shipped image, for all tests of variants."""

from tests.unit.place.initramfs.test_initramfs_variant import content, machine  # noqa: F401
