# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person sees who asks a host on the command line of ansible."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forge import families
from tests.forge.families import EXPORTS
from tests.forge.ko import ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
RELEASES = ["6.1.0-%d-amd64" % number for number in range(1, 5)]
SYMBOLS = [("vendor_needs_%d" % number, number) for number in range(1, 60)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A host with four kernels, all but the newest of which refuse the driver for each of its symbols."""
    top = tmp_path_factory.mktemp("host")
    for release in RELEASES:
        changed = release != RELEASES[-1]
        more = [(name, crc + 100 * changed, *EXPORTS[0][2:]) for name, crc in SYMBOLS]
        families.kernel(top, release, exports=[*EXPORTS, *more])
        subprocess.run(["depmod", "-b", str(top), release], check=True, stderr=subprocess.DEVNULL)
    (top / "opt").mkdir()
    (top / "opt/vendor.ko").write_bytes(ko("vendor", [EXPORTS[0][:2], *SYMBOLS], release=RELEASES[-1]))
    return top


@pytest.fixture(scope="module")
def ansible(root, tmp_path_factory, collections):
    (tmp_path_factory.getbasetemp() / "ansible.cfg").touch()
    settings = {
        "ANSIBLE_CONFIG": str(tmp_path_factory.getbasetemp() / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": collections,
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
    }

    def run(module, *options, **arguments):
        argv = [str(Path(sys.executable).parent / "ansible"), "localhost", "-m", "outoftree.kmod." + module]
        done = subprocess.run(
            [*argv, "-a", json.dumps(dict(arguments, root=str(root))), *options],
            env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    return run


def answer(said):
    return json.loads(said[said.index("=> {") + 3 :])


def test_a_verdict_on_every_kernel_fits_on_a_screen_and_is_whole_where_it_is_asked_for(ansible):
    given = {"path": "/opt/vendor.ko", "require": "none"}
    said = ansible("kmod_compat", **given)
    found = answer(said)
    assert len(said.splitlines()) < 30 and set(found) == {"changed", "compatible", "msg", "summary"}
    assert found["compatible"] == RELEASES[-1:]
    at = found["summary"].index("%s: vendor is incompatible (EINVAL)" % RELEASES[0])
    told = "  refuse SYMBOL_CRC: 59 symbols differ (vendor_needs_1, vendor_needs_2, ...)"
    assert found["summary"][at + 1] == told
    for whole in (
        ansible("kmod_compat", "-v", **given),
        ansible("kmod_compat", "-o", findings="all", **given),
    ):
        assert len(answer(whole)["checks"][0]["findings"]) > 59


def test_a_host_without_drivers_says_so_in_a_line(ansible):
    found = answer(ansible("kmod_info"))
    assert found["summary"] == ["There is no driver in the store."] == [found["msg"]]
    assert found["ansible_facts"]["kmod"] == {"drivers": {}, "kernels": RELEASES}


def test_what_was_deployed_is_told_by_its_lines(ansible):
    wanted = {"driver": "vendor", "path": "/opt/vendor.ko", "initrd": False, "blacklist": ["dummy"]}
    said = ansible("kmod_deploy", drivers=[wanted])
    found = answer(said)
    first = found["summary"][0]
    assert first.startswith("vendor: 1 of 4 kernels use it") and first.endswith("; changed: link, loading")
    assert found["summary"][1].startswith("  the host has dummy blacklisted on every kernel")
    assert "drivers" not in found and len(said.splitlines()) < 30
    found = answer(ansible("kmod_link", driver="vendor", path="/opt/vendor.ko"))
    assert set(found) == {"changed", "msg", "reboot_needed"} and "1 of 4 kernels use it" in found["msg"]
    whole = answer(ansible("kmod_link", "-v", driver="vendor", path="/opt/vendor.ko"))
    assert len(whole["kernels"]) == 4
    said = ansible("kmod_preflight")
    assert len(said.splitlines()) < 20 and set(answer(said)) == {"changed", "msg", "summary"}
    told = "%s (installed): vendor is incompatible: 59 symbols differ (vendor_needs_1, vendor_needs_2, ...)"
    assert told % RELEASES[0] in answer(said)["summary"]
