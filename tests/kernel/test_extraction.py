# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read out of real boot images and in-tree modules equals the distribution's own Module.symvers, to the last symbol.

Prints a table. ONLY=fast in the environment: one kernel that other suites fetch anyway.
"""
import json
import os
import resource
import time

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import depmod, kernel_image, sources
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import from_symvers
from ansible_collections.outoftree.kmod.tests.lab import debian

EVERY = [
    ("bookworm", "amd64", "cloud-amd64"),
    ("bullseye", "amd64", "amd64"),
    ("bookworm", "amd64", "amd64"),
    ("trixie", "amd64", "amd64"),
    ("sid", "amd64", "amd64"),
    ("bullseye", "arm64", "arm64"),
    ("bookworm", "arm64", "arm64"),
    ("trixie", "arm64", "cloud-arm64"),
    ("sid", "arm64", "cloud-arm64"),
    ("bookworm", "ppc64el", "powerpc64le"),
    ("trixie", "ppc64el", "powerpc64le"),
    ("trixie", "riscv64", "riscv64"),
    ("bookworm", "s390x", "s390x"),
    ("trixie", "s390x", "s390x"),
    ("sid", "s390x", "s390x"),
]
KERNELS = EVERY[:1] if os.environ.get("ONLY") == "fast" else EVERY
ROW = "%-30s %-16s %8s %8s %8s %8s %9s"

pytestmark = pytest.mark.skipif(debian.available() is not None, reason=str(debian.available()))


@pytest.fixture(scope="module")
def rows(request):
    """The table, printed at the end whatever else is captured."""
    found = []
    yield found
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + ROW % ("kernel", "image", "symbols", "exact", "unpack s", "all s", "peak MiB"))
        for row in found:
            print(ROW % row)


def newest(suite, arch, flavour):
    try:
        return debian.kernels(suite, arch, flavour)[-1]
    except (debian.LabError, IndexError) as error:
        pytest.skip("%s has no %s kernel: %s" % (suite, flavour, error))


def image_of(root, release):
    return next(path for path in ("/boot/vmlinuz-" + release, "/boot/vmlinux-" + release, "/usr/lib/modules/%s/vmlinuz" % release)
                if os.path.exists(root + path))


def in_child(work):
    """What ``work`` answers, done in a process of its own, and that process's peak memory in MiB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writing, "w") as out:
            json.dump([work(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10], out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    assert text, "the child died"
    return json.loads(text)


@pytest.mark.parametrize("suite,arch,flavour", KERNELS, ids=["-".join(kernel) for kernel in KERNELS])
def test_equals_module_symvers(suite, arch, flavour, rows):
    kernel = newest(suite, arch, flavour)
    root = str(debian.tree(kernel))
    host, modules, image = Host(root), "/lib/modules/" + kernel.release, image_of(root, kernel.release)

    def extract():
        began = time.perf_counter()
        unpacked = kernel_image.unpack(host.read(image), image)
        middle = time.perf_counter()
        kind = unpacked.kind
        del unpacked
        found = sources.read(host, modules, None, image)
        return kind, found.exports, found.notes, middle - began, time.perf_counter() - middle

    (kind, exports, notes, unpacking, everything), peak = in_child(extract)
    expected = {name: list(export) for name, export in from_symvers(debian.symvers(kernel).read_bytes()).items()}
    exact = sum(exports.get(name) == export for name, export in expected.items())
    rows.append((kernel.release, kind, len(expected), exact, "%.2f" % unpacking, "%.2f" % everything, peak))
    assert not notes
    assert exports == expected


def test_a_symvers_of_another_build_is_not_believed():
    suite, arch, flavour = EVERY[0]
    kernels = debian.kernels(suite, arch, flavour)
    if len(kernels) < 2:
        pytest.skip("%s offers one %s kernel only" % (suite, flavour))
    older, newer = kernels[-2:]
    root = str(debian.tree(newer))
    host, modules, image = Host(root), "/lib/modules/" + newer.release, image_of(root, newer.release)
    right, wrong = (from_symvers(debian.symvers(kernel).read_bytes()) for kernel in (newer, older))
    in_tree = sources.in_tree(depmod.chosen(host, modules), modules)
    assert sources.disagreement(host, right, in_tree) is None
    assert (sources.disagreement(host, wrong, in_tree) is None) == (right == wrong)
    assert sources.read(host, modules, None, image).exports == right
