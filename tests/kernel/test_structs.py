# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read of real kernels' structures equals what pahole says of them."""

import collections
import re
import shutil
import struct
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.judge import notes
from ansible_collections.outoftree.kmod.plugins.module_utils.read import btf, kernel_image, kernels, ko
from tests.kernel import machine, verdicts
from tests.kernel.test_verdicts import neighbours, releases
from tests.lab import debian, drivers

pytestmark = [
    pytest.mark.skipif(debian.available() is not None, reason=str(debian.available())),
    pytest.mark.skipif(shutil.which("pahole") is None, reason="no pahole on this machine"),
]
IMAGES = [
    pytest.param("bookworm", "amd64", "cloud-amd64"),
    *[
        pytest.param(*each, marks=pytest.mark.full)
        for each in (
            ("bullseye", "amd64", "cloud-amd64"),
            ("trixie", "amd64", "cloud-amd64"),
            ("sid", "amd64", "cloud-amd64"),
            ("trixie", "arm64", "cloud-arm64"),
            ("trixie", "s390x", "s390x"),
        )
    ],
]


def section(kernel, directory):
    """The path of a file with the kernel's BTF and nothing else."""
    path = debian.vmlinuz(kernel)
    found = btf.find(kernel_image.unpack(path.read_bytes(), str(path)))
    assert found is not None
    file = directory / (kernel.release + ".btf")
    file.write_bytes(
        b"".join(
            [
                struct.pack(
                    found.order + "HBBIIIII",
                    0xEB9F,
                    1,
                    0,
                    24,
                    0,
                    len(found.data),
                    len(found.data),
                    len(found.names),
                ),
                found.data,
                found.names,
            ]
        )
    )
    return found, file


def pahole(*argv):
    return subprocess.run(
        ["pahole", "-F", "btf", *map(str, argv)], check=True, stdout=subprocess.PIPE, universal_newlines=True
    ).stdout


@pytest.mark.parametrize("suite,arch,flavour", IMAGES)
def test_every_structure_has_its_size(suite, arch, flavour, tmp_path):
    found, file = section(debian.kernels(suite, arch, flavour)[-1], tmp_path)
    theirs, ours = collections.defaultdict(set), collections.defaultdict(set)
    for line in pahole("--sizes", file).splitlines():
        name, size, _holes = line.split("\t")
        theirs[name].add(int(size))
    for name, size in found.sized():
        ours[name].add(size)
    assert len(theirs) > 3000
    assert [name for name in theirs if not theirs[name] <= ours[name]] == []


@pytest.mark.parametrize("line", ["6.1", pytest.param("6.12", marks=pytest.mark.full)])
def test_structures_that_changed_between_neighbours(line, tmp_path):
    """By the in-tree modules of the older one: those that are noted are not alike in pahole's words either,
    and those that are not are.
    """
    newest, before = neighbours(line, 2)
    older = before[0]
    root = tmp_path / "root"
    for kernel in (older, newest):
        debian.run(["cp", "-alT", str(debian.tree(kernel)), str(root)])
    (theirs, before_file), (_ours, now_file) = section(older, tmp_path), section(newest, tmp_path)
    judged = kernels.kernel(verdicts.Host(str(root)), newest.release)
    noted, used = set(), set()
    for path in list(machine.modules(older).values())[::5]:
        module = ko.parse(machine.read(path), str(path), structs=True)
        used |= theirs.behind(module.btf_ids)
        noted |= {finding.symbol for finding in notes.structs_changed(module, judged)}
    before_text, now_text = described(before_file, used), described(now_file, used)
    changed = {
        name
        for name in used
        if name in before_text and name in now_text and before_text[name] != now_text[name]
    }
    print(
        "\n%s on %s: %d structures used, %d changed: %s"
        % (older.release, newest.release, len(used), len(changed), ", ".join(sorted(noted)[:8]))
    )
    assert len(used) > 300
    assert noted == changed


def described(file, names):
    """Size and members of each structure, with their offsets (byte: bit), as pahole shows them."""
    found = {}
    text = pahole("-C", ",".join(sorted(names)), file)
    for name, body in re.findall(r"^(?:struct|union) (\w+) \{\n(.*?)^\}[^\n]*;", text, re.S | re.M):
        found[name] = (
            re.findall(r"/\* size: (\d+)", body),
            re.findall(
                r"^\s*(?:[^/]*\(\*(\w+)\)\(|[^/]*?(\w+)(?:\[\d*\])*(?::\d+)?;|\} (\w+)).*?/\*\s+(\d+)(?::\s*(\d+))?\s+\d+ \*/",
                body,
                re.M,
            ),
        )
    return found


@pytest.mark.full
@pytest.mark.usefixtures("machines")
def test_a_module_that_keeps_what_it_needs_of_its_kernel(tmp_path):
    """With the base that pahole distils, of a suite whose pahole does: right on its own kernel, and on an
    older line just what differs there.
    """
    (own, other), found = (releases(line)[-1] for line in ("7", "6.12")), {}
    for kernel in own, other:
        found[kernel], _file = section(kernel, tmp_path)
    vmlinux = (
        debian.once(
            debian.cache() / "vmlinux" / ("%s_%s" % (own.release, own.version)),
            lambda directory: unpacked(own, directory),
        )
        / "vmlinux"
    )
    recipe = (
        """make -C "$kernel_source_dir" M="$PWD" modules
        pahole -J --btf_features=encode_force,var,float,enum64,distilled_base --btf_base=%s ootedu.ko"""
        % vmlinux
    )
    path = next(
        path
        for path in drivers.compiled("edu-distilled", drivers.HERE / "edu", own, recipe)
        if path.stem == "ootedu"
    )
    module = ko.parse(path.read_bytes(), str(path), structs=True)
    assert module.btf_base
    assert list(notes.structs_changed(module, verdicts.core(own))) == []
    there = dict(found[other].sized())
    expected = {
        (name, "%d bytes" % size, "%d bytes" % there[name])
        for name, size in module.btf_base
        if there.get(name, size) != size
    }
    assert expected
    assert {
        (note.symbol, note.wanted, note.found) for note in notes.structs_changed(module, verdicts.core(other))
    } == expected


def unpacked(kernel, directory):
    image = debian.vmlinuz(kernel)
    (directory / "vmlinux").write_bytes(kernel_image.unpack(image.read_bytes(), str(image)).data)
