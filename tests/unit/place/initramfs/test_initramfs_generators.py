# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The generators that are known, each one record: what docs/initramfs.md says of them is what the list says."""

import os
import re
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import cpio
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs.generator import Generator, Job
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs.generators import (
    GENERATORS,
    UNKNOWN,
    generator,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs.segments import Node, Tree

DOCUMENT = Path(os.path.realpath(__file__)).parents[4] / "docs" / "initramfs.md"
NAMES = [each.name for each in GENERATORS]
# What the least image of each has, and the file that loads modules early in it
IMAGES = [
    ("initramfs-tools", ["scripts/functions", "conf/initramfs.conf"], "conf/conf.d/zz-kmod-%s"),
    (
        "initramfs-tools",
        ["scripts/functions", "conf/initramfs.conf", "usr/lib/systemd/systemd"],
        "conf/conf.d/zz-kmod-%s",
    ),
    ("dracut", ["usr/lib/dracut/hooks", "lib/systemd/systemd"], "etc/modules-load.d/kmod-%s.conf"),
    ("dracut", ["lib/dracut", "usr/lib/systemd/systemd"], "etc/modules-load.d/kmod-%s.conf"),
    ("dracut", ["usr/lib/dracut/hooks"], "lib/dracut/hooks/pre-udev/00-kmod-%s.sh"),
    ("systemd", ["usr/lib/systemd/systemd"], "etc/modules-load.d/kmod-%s.conf"),
    ("dracut-004", ["pre-udev"], "pre-udev/00-kmod-%s.sh"),
    ("nash", ["bin/nash"], None),
    ("unknown", ["init"], None),
]


def tree(paths):
    made = Tree()
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            made.nodes["/".join(parts[:depth])] = Node(cpio.DIRECTORY, (0, 0))
        made.nodes[path] = Node(cpio.REGULAR, (0, 0))
    return made


def table(heading):
    """The rows of the first table below a heading, as cells of words that are marked as code."""
    section = DOCUMENT.read_text().split("\n## %s\n" % heading)[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[re.findall("`([^`]+)`", cell) for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("name, paths, early", IMAGES)
def test_an_image_is_told_by_what_is_in_it_and_loads_modules_early_its_own_way(name, paths, early):
    found = generator(tree(paths))
    assert found.name == name
    start = found.early(tree(paths))
    assert (start.path if start else None) == early


def test_every_generator_is_told_apart_by_some_image():
    assert {name for name, _paths, _early in IMAGES} == {*NAMES, "unknown"}


def test_the_document_has_the_list_in_its_order_with_tools_and_names():
    rows = table("Generators")
    assert [row[0] for row in rows] == [[name] for name in NAMES]
    assert [row[3] for row in rows] == [[tool.name for tool in each.tools] for each in GENERATORS]
    assert [row[4] for row in rows] == [
        [name[len("/boot/") :] % "REL" for name in each.files] for each in GENERATORS
    ]


def test_the_document_says_how_each_loads_modules_early():
    rows = {row[0][0]: row[2] for row in table("Generators")}
    for name, _paths, early in IMAGES:
        if name in rows:
            assert (early is None and not rows[name]) or early % "DRIVER" in rows[name], name


def test_the_document_says_which_of_them_prove_a_boot():
    proving = {each.name for each in GENERATORS if each.proof is not Generator._field_defaults["proof"]}
    told = [name for row in table("What proves that it was booted") for name in row[0]]
    assert set(told) == proving


@pytest.mark.parametrize("tool", UNKNOWN.tools, ids=lambda tool: tool.name)
def test_a_tool_is_called_by_its_name_and_writes_where_it_is_told_to(tool, tmp_path):
    (tmp_path / "s").mkdir()
    argv = tool.command(Host(str(tmp_path)), Job("6.1.0-1-test", ["acme"], "/s", "/s/initrd"))
    assert argv[0] == tool.name and "6.1.0-1-test" in argv
    assert "/s/initrd" in argv or argv[argv.index("--output-dir") + 1 :] == ["/s", "--output", "initrd"]
