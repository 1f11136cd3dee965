# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Symbols that a module installed beside the kernel's own provides: of DKMS, a KMP, OFED, or another driver
of ours.
"""

import gzip
import lzma
import os
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE, Runtime
from tests.forge import families
from tests.forge.families import CONFIG
from tests.forge.ko import RELEASE, Export, ko
from tests.forge.symvers import EXPORTS

LAYOUT = ("module_layout", 0x11)
GIVES = [Export("core_init", 1)]
CORE = ko("core", exports=GIVES)
USER = ko("user", needs=(LAYOUT, ("core_init", 1)))
NEEDS_DEPMOD = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


def judged(root, deployed, *offered, runtime=OFFLINE, in_tree=None, depmod=False, **kernel):
    """The verdict on the last of the offered modules, on a kernel beside whose own modules ``deployed`` (path
    -> bytes) lie.
    """
    top = families.kernel(root, in_tree=in_tree, **kernel)
    for path, data in deployed.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(data)
    if depmod:
        subprocess.run(
            ["depmod", "-b", str(root), kernel.get("release", RELEASE)], check=True, stderr=subprocess.DEVNULL
        )
    found = [modules.parse(data, "/opt/%d.ko" % number) for number, data in enumerate(offered)]
    return loader.judge(kernels.installed(Host(str(root)))[0], found, runtime)[-1]


def codes(verdict, effect):
    return [finding.code for finding in verdict.findings if finding.effect == effect]


@pytest.mark.parametrize(
    "path,packed",
    [
        ("extra/core.ko", bytes),
        ("updates/dkms/core.ko.xz", lzma.compress),
        ("weak-updates/x/core.ko.gz", gzip.compress),
        ("misc/core.ko", bytes),
    ],
)
def test_it_is_there_wherever_and_however_packed_it_lies(path, packed, tmp_path):
    assert judged(tmp_path, {path: packed(CORE)}, USER).verdict == "compatible"


def test_a_chain_of_them(tmp_path):
    middle = ko("middle", needs=(LAYOUT, ("core_init", 1)), exports=[Export("middle_init", 2)])
    user = ko("user", needs=(LAYOUT, ("middle_init", 2)))
    assert (
        judged(tmp_path, {"extra/core.ko": CORE, "updates/middle.ko": middle}, user).verdict == "compatible"
    )


@pytest.mark.parametrize(
    "core,user,config,errno,code",
    [
        (CORE, ko("user", needs=(LAYOUT, ("core_init", 9))), CONFIG, "EINVAL", "DEP_CRC"),
        (ko("core", needs=(LAYOUT, ("printk", 0x99)), exports=GIVES), USER, CONFIG, "ENOENT", "DEP_REFUSED"),
        (ko("core", needs=(LAYOUT, ("absent", 1)), exports=GIVES), USER, CONFIG, "ENOENT", "DEP_REFUSED"),
        (
            ko("core", exports=GIVES, export_form="none"),
            USER,
            CONFIG,
            "ENOENT",
            "DEP_REFUSED",
        ),  # EXPORT_NO_CRC
        (
            ko("core", exports=[Export("core_init", 1, True)]),
            ko("user", needs=(LAYOUT, ("core_init", 1)), modinfo={"license": "Proprietary"}),
            CONFIG,
            "ENOENT",
            "SYMBOL_GPL_ONLY",
        ),
        (
            ko("core", exports=[Export("core_init", 1, False, "CORE")]),
            USER,
            CONFIG,
            "EINVAL",
            "NS_NOT_IMPORTED",
        ),
        (
            ko("core", exports=GIVES, modinfo={"license": "Proprietary"}),
            ko("user", needs=(LAYOUT, ("gpl_only", 0x44), ("core_init", 1))),
            CONFIG,
            "ENOENT",
            "DEP_PROPRIETARY",
        ),
        (CORE[: len(CORE) // 2], USER, CONFIG, "ENOENT", "SYMBOL_MISSING"),
        (lzma.compress(CORE)[:-40], USER, CONFIG, "ENOENT", "SYMBOL_MISSING"),
    ],
)
def test_it_counts_as_the_loader_counts_it(core, user, config, errno, code, tmp_path):
    verdict = judged(tmp_path, {"extra/core.ko": core}, user, config=config)
    assert (verdict.verdict, verdict.errno) == ("incompatible", errno)
    assert code in codes(verdict, "refuse")


def test_without_symbol_versions_where_the_kernel_lets_that_pass(tmp_path):
    core = ko("core", exports=GIVES, export_form="none")
    assert (
        judged(
            tmp_path, {"extra/core.ko": core}, USER, config=CONFIG + "CONFIG_MODULE_FORCE_LOAD=y\n"
        ).verdict
        == "compatible"
    )


def test_whether_it_is_loaded_may_be_unknown(tmp_path):
    verdict = judged(tmp_path, {"extra/core.ko": CORE}, USER, builtin=["core"])
    assert (verdict.verdict, codes(verdict, "unknown")) == ("unknown", ["DEP_UNKNOWN"])


def test_one_that_the_command_line_forbids_is_not_there(tmp_path):
    verdict = judged(tmp_path, {"extra/core.ko": CORE}, USER, runtime=Runtime(blacklist=frozenset(["core"])))
    assert (verdict.errno, codes(verdict, "refuse")) == ("ENOENT", ["DEP_REFUSED"])


def test_one_that_replaces_the_kernels_own_counts_instead_of_it(tmp_path):
    in_tree = {"drivers/core.ko": ko("core", exports=[Export("core_init", 1), Export("core_exit", 2)])}
    exports = EXPORTS + (
        ("core_init", 1, False, "", "drivers/core"),
        ("core_exit", 2, False, "", "drivers/core"),
    )
    new = {"updates/core.ko": ko("core", exports=[Export("core_init", 7)])}
    assert (
        judged(
            tmp_path, new, ko("user", needs=(LAYOUT, ("core_init", 7))), in_tree=in_tree, exports=exports
        ).verdict
        == "compatible"
    )
    gone = judged(
        tmp_path, new, ko("user", needs=(LAYOUT, ("core_exit", 2))), in_tree=in_tree, exports=exports
    )
    assert codes(gone, "refuse") == ["SYMBOL_MISSING"]


def test_what_is_offered_counts_before_what_is_there(tmp_path):
    new = ko("core", exports=[Export("core_init", 7)])
    assert (
        judged(tmp_path, {"extra/core.ko": CORE}, new, ko("user", needs=(LAYOUT, ("core_init", 7)))).verdict
        == "compatible"
    )


def test_what_the_kernel_itself_exports_is_the_kernels(tmp_path):
    """A module that exports it as well is refused for that, and is needed by nobody."""
    thief = ko("thief", exports=[Export("printk", 0x99)])
    assert judged(tmp_path, {"extra/thief.ko": thief}, ko()).verdict == "compatible"


@NEEDS_DEPMOD
@pytest.mark.parametrize("names", [("aa", "zz"), ("zz", "aa")])
def test_of_several_the_one_that_modprobe_would_load(names, tmp_path):
    """Which one depmod has met last is the file system's affair; it has written down which."""
    deployed = {
        "extra/%s.ko" % name: ko(name, exports=[Export("core_init", crc)]) for crc, name in enumerate(names)
    }
    probe = ko("probe", needs=(LAYOUT, ("core_init", 0)))
    judged(tmp_path, dict(deployed, **{"extra/probe.ko": probe}), USER, depmod=True)
    index = (tmp_path / "lib/modules" / RELEASE / "modules.dep").read_text()
    loaded = next(line.split()[1] for line in index.splitlines() if line.startswith("extra/probe.ko:"))
    crc = names.index(os.path.basename(loaded)[:-3])
    fits, other = (
        judged(tmp_path, {}, ko("user", needs=(LAYOUT, ("core_init", each)))) for each in (crc, 1 - crc)
    )
    assert (fits.verdict, codes(other, "refuse")) == ("compatible", ["DEP_CRC"])


@pytest.mark.parametrize("core", [CORE[: len(CORE) // 2], ko("core")])
def test_a_provider_that_gives_nothing_is_named(core, tmp_path):
    user = ko("user", needs=(LAYOUT, ("core_init", 1)), modinfo={"depends": "core"})
    verdict = judged(tmp_path, {"extra/core.ko": core}, user)
    assert codes(verdict, "refuse") == ["DEP_MISSING"]
    assert verdict.reason.message.endswith(
        "depends on core, and what is installed of that does not export it or cannot be read"
    )
