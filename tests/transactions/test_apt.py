# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What apt and dpkg do with kernels, on hosts that follow them with a driver.

Each system has one kernel that the driver was built for and is deployed to, is offered a second that takes the same build (or, in sid, has one of its
own), and a third that refuses it.
"""
import os
import signal
import time
from pathlib import Path

import chroot
import drivers
import machine
import pytest
import systems
from machine import DRIVER, Machine, changes
from systems import META, System

SYSTEMS = (
    System("bookworm", "initramfs-tools", "grub2"),
    System("bookworm", "initramfs-tools", "systemd-boot"),
    System("trixie", "dracut", "grub2"),
    System("trixie", "initramfs-tools", "systemd-boot"),
    System("sid", "initramfs-tools", "grub2"),
    System("sid", "dracut", "systemd-boot"),
)
APT = "apt-get -y -q "


@pytest.fixture(scope="module", params=[pytest.param(each, id=str(each), marks=[pytest.mark.full] if number else [])
                                        for number, each in enumerate(SYSTEMS)])
def system(request, memory):
    return request.param


@pytest.fixture(scope="module")
def kernels(system):
    return [image.release for image in systems.kernels(system.suite)]


@pytest.fixture(scope="module")
def command(memory):
    return machine.kmodctl(memory)


@pytest.fixture(scope="module")
def deployed(system, memory, command):
    """A system with the driver on its kernel, which does not follow yet."""
    images = systems.kernels(system.suite)
    host = Machine(systems.base(system.suite, system.generator), memory, systems.shared(system.suite), command)
    try:
        host.ok(systems.LOADERS[system.loader])
        host.ok("apt-get update -qq")
        builds = images[:2] if system.suite == "sid" else images[:1]
        host.deploy({image.release: drivers.edu(image) for image in builds}, images[0].release)
        yield host.freeze()
    finally:
        host.remove()


@pytest.fixture
def host(deployed, system, memory, command, request):
    """One that follows new kernels."""
    host = Machine(deployed, memory, systems.shared(system.suite), command)
    try:
        host.follow()
        yield host
    finally:
        host.remove()


def package(system, number):
    return systems.kernels(system.suite)[number].package


def test_a_kernel_arrives(host, system, kernels):
    before = host.files()
    host.ok(APT + "install " + package(system, 1))
    host.served(kernels[1])
    assert host.default() == kernels[1], "the newest kernel is started, by its shipped entry"
    after = host.files()
    assert [line for line in changes(before, after) if kernels[0] in line] == [], "the other kernel's files are as they were"
    host.settled()


def test_it_leaves_again(host, system, kernels):
    before = host.files()
    host.ok(APT + "install " + package(system, 1))
    host.ok(APT + "purge " + package(system, 1))
    host.forgotten(kernels[1])
    host.served(kernels[0], deployed_before=True)
    host.settled()
    assert changes(before, host.files()) == []
