# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole product on five families of hosts, with generated kernels: make demo checks its own promises."""

import shutil
import subprocess
import sys

import pytest

from tests import CHECKOUT


@pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
def test_the_demo_keeps_its_promises(capsys):
    said = []
    argv = [sys.executable, "-m", "demo", "--generated"]
    with subprocess.Popen(
        argv, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        for line in demo.stdout:
            said.append(line)
            with capsys.disabled():  # it takes a while
                print(".", end="", flush=True)
    output = "".join(said)
    assert demo.returncode == 0, output
    for promise in (
        "nothing that was shipped has changed",
        "no file was written",
        "check mode writes nothing",
        "back to the byte",
        "is named, and no other",
        "of every host that it would lose the driver",
        "a preflight changes nothing",
    ):
        assert any(line.startswith("  ok") and line.endswith(promise) for line in output.splitlines()), output
    assert (
        "WARNING  el7: kernel 6.1.0-1-generated (default) gets no driver vendor: 1 symbol differs (kfree). The host boots without it"
        in output
    )
    assert output.count(" incompatible: 1 symbol differs (kfree)") == 3
