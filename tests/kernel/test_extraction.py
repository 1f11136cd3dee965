# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is read out of real boot images and in-tree modules equals the distribution's own Module.symvers, to
the last symbol.

Prints a table, with seconds of processor time. ONLY=fast in the environment: one kernel that other suites
fetch anyway.
"""

import json
import os
import subprocess
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import depmod, export_sources
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import from_symvers
from tests import CHECKOUT
from tests.lab import debian

EVERY = [  # suite, architecture, flavour, generation: the newest of these is taken
    ("bookworm", "amd64", "cloud-amd64", "6.1."),
    ("bullseye", "amd64", "amd64", "5.10."),
    ("bookworm", "amd64", "amd64", "6.1."),
    ("trixie", "amd64", "amd64", "6.12."),
    ("sid", "amd64", "amd64", ""),
    ("bullseye", "arm64", "arm64", "5.10."),
    ("bookworm", "arm64", "arm64", "6.1."),
    ("trixie", "arm64", "cloud-arm64", "6.12."),
    ("sid", "arm64", "cloud-arm64", ""),
    ("bookworm", "ppc64el", "powerpc64le", "6.1."),
    ("trixie", "ppc64el", "powerpc64le", "6.12."),
    ("trixie", "riscv64", "riscv64", "6.12."),
    ("sid", "loong64", "loong64", ""),
    ("bookworm", "i386", "686-pae", "6.1."),
    ("bookworm", "s390x", "s390x", "6.1."),
    ("trixie", "s390x", "s390x", "6.12."),
    ("sid", "s390x", "s390x", ""),
]
KERNELS = EVERY[:1] if os.environ.get("ONLY") == "fast" else EVERY
ROW = "%-30s %-21s %8s %8s %8s %8s %9s"

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


def offered(suite, arch, flavour, generation):
    """The kernels of one generation, oldest first; the test is skipped where a suite has none."""
    try:
        found = [
            kernel
            for kernel in debian.kernels(suite, arch, flavour)
            if kernel.release.startswith(generation) and kernel.release.count(".") > 1
        ]
    except debian.LabError as error:
        pytest.skip(str(error))
    if not found:
        pytest.skip("%s offers no %s kernel %s" % (suite, flavour, generation))
    return found


def fetched(kernels):
    """The newest kernel that can be had, and the root it is unpacked in: a mirror may list more than it
    holds.
    """
    for kernel in reversed(kernels):
        try:
            return kernel, str(debian.tree(kernel))
        except debian.LabError as error:
            reason = str(error)
    pytest.skip(reason)


def image_of(root, release):
    return next(
        path
        for path in (
            "/boot/vmlinuz-" + release,
            "/boot/vmlinux-" + release,
            "/usr/lib/modules/%s/vmlinuz" % release,
        )
        if os.path.exists(root + path)
    )


EXTRACT = """
import json, re, sys, time
import tests
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import depmod, export_sources, kernel_image
root, modules, image = sys.argv[1:]
host = Host(root)
times = [time.process_time()]
kind = kernel_image.unpack(host.read(image), image).kind
times.append(time.process_time())
found = export_sources.read(host, modules, depmod.chosen(host, modules), symvers=None, image=image)
times.append(time.process_time())
peak = int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) >> 10
json.dump([kind, dict(found.exports), found.notes, times[1] - times[0], times[2] - times[1], peak], sys.stdout)
"""


@pytest.mark.parametrize(
    "suite,arch,flavour,generation", KERNELS, ids=["-".join(kernel).rstrip("-") for kernel in KERNELS]
)
def test_equals_module_symvers(suite, arch, flavour, generation, rows):
    kernel, root = fetched(offered(suite, arch, flavour, generation))
    argv = [
        sys.executable,
        "-c",
        EXTRACT,
        root,
        "/lib/modules/" + kernel.release,
        image_of(root, kernel.release),
    ]
    kind, exports, notes, unpacking, everything, peak = json.loads(
        subprocess.run(argv, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE).stdout
    )
    expected = {
        name: list(export) for name, export in from_symvers(debian.symvers(kernel).read_bytes()).items()
    }
    exact = sum(exports.get(name) == export for name, export in expected.items())
    rows.append((kernel.release, kind, len(expected), exact, "%.2f" % unpacking, "%.2f" % everything, peak))
    assert not notes
    assert exports == expected


def test_a_symvers_of_another_build_is_not_believed():
    kernels = offered(*EVERY[0])
    newest, root = fetched(kernels[-1:])
    host, modules = Host(root), "/lib/modules/" + newest.release
    own = depmod.in_tree(depmod.chosen(host, modules), modules)
    right = from_symvers(debian.symvers(newest).read_bytes())
    assert export_sources.disagreement(host, right, own) is None
    different = 0
    for kernel in kernels[:-1]:
        try:
            other = from_symvers(debian.symvers(kernel).read_bytes())
        except debian.LabError:  # offered without its headers
            continue
        same = other == right  # some builds in a row have the same CRCs throughout
        different += not same
        assert (export_sources.disagreement(host, other, own) is None) == same, kernel.release
    if not different:
        pytest.skip("all builds on offer have the same CRCs")
