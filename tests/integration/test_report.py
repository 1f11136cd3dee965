# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook that asks all hosts and writes the report: a host that stays well, one whose new kernel takes no
build, and one that does not answer.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forge import families
from tests.forge.ko import RELEASE, ko
from tests.forge.symvers import EXPORTS

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
NEWER = ("6.1.0-10-amd64", "6.1.0-11-amd64")


@pytest.fixture
def fleet(tmp_path, collections):
    """run(playbook, **options) -> its output, in ``tmp_path``."""
    hosts = {"away": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}}
    for name, change in (("well", 0), ("loses", 1)):
        families.kernel(tmp_path / name, RELEASE, exports=EXPORTS, family="el9")
        exports = [(symbol, crc + change, *rest) for symbol, crc, *rest in EXPORTS]
        families.kernel(tmp_path / name, NEWER[change], exports=exports, family="el9")
        hosts[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "kmod_root": str(tmp_path / name),
        }
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    (tmp_path / "vendor.ko").write_bytes(ko())

    def run(playbook, **options):
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                "-i",
                str(tmp_path / "inventory.json"),
                playbook if "/" in playbook else "outoftree.kmod." + playbook,
                "-e",
                json.dumps(options),
            ],
            cwd=str(tmp_path),
            env=dict(os.environ, ANSIBLE_COLLECTIONS_PATH=collections, ANSIBLE_NOCOLOR="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    return run


def test_all_hosts_are_asked_and_the_report_is_written(fleet, tmp_path):
    fleet(
        "deploy",
        kmod_hosts="well,loses",
        kmod_driver="vendor",
        kmod_src=str(tmp_path / "vendor.ko"),
        kmod_initrd=False,
        kmod_entry=False,
        kmod_require="any",
    )
    for each in ("usr/bin/dnf", "etc/dnf/dnf.conf"):
        (tmp_path / "loses" / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loses" / each).write_text("")
    hold(fleet, tmp_path)
    before = files(tmp_path / "loses")
    assert before[tmp_path / "loses" / "etc/dnf/dnf.conf"]
    # a relative directory is from the working directory, and drivers are named as for the role deploy
    said = fleet(
        "report",
        kmod_preflight_offered="none",
        kmod_report="reports/today",
        kmod_drivers=[{"driver": "vendor", "src": "x"}],
    )
    written = tmp_path / "reports" / "today"
    report = json.loads((written / "report.json").read_text())
    states = {host: group["state"] for group in report["groups"] for host in group["hosts"]}
    assert states == {"well": "well", "loses": "loses", "away": "untold"}, said
    assert [build["release"] for plan in report["rebuild"] for build in plan["builds"]] == [NEWER[1]]
    (away,) = [group for group in report["groups"] if "away" in group["hosts"]]
    assert "connect" in away["error"]
    assert "Of 3 hosts 1 loses a driver, 1 cannot be told, 1 stays well." in said
    assert "Make 1 build." in said and "report.html" in said
    assert "Do not update" not in said  # the host is held back
    assert "vendor" in (written / "report.html").read_text()
    assert files(tmp_path / "loses") == before  # a report changes no host, and what is held stays so
    assert (report["counts"]["held"], report["held"][0]["hosts"]) == (1, ["loses"])
    assert "changed=1" in said.split("PLAY RECAP")[1]


def hold(fleet, directory):
    """Have the host that loses the driver not be offered the kernel that refuses it."""
    kernel = [{"symvers": "/boot/symvers-%s.gz" % NEWER[1], "release": "6.1.0-99-amd64"}]
    tasks = [
        {"outoftree.kmod.kmod_preflight": {"kernel": kernel}, "register": "looked"},
        {"outoftree.kmod.kmod_hold": {"record": "{{ looked.record }}"}},
    ]
    play = {"hosts": "loses", "gather_facts": False, "tasks": tasks}
    (directory / "hold.json").write_text(json.dumps([play]))
    said = fleet(str(directory / "hold.json"))
    assert "failed=0" in said, said


def files(root):
    return {
        path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "cache" not in path.parts
    }
