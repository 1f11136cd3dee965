# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finds this machine a depmod."""

import os

from tests.lab import debian

os.environ["PATH"] += ":/usr/sbin:/sbin"  # a plain user's has none of it
debian.borrow_kmod()
