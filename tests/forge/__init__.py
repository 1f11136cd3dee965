# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The makers of inputs: everything that a test, the fuzzer, a benchmark or the demo reads, from nothing.

What they make is held against real tools elsewhere (depmod, modprobe, cpio, gpg, kernels). They never judge:
what does is beside its tests.
"""
