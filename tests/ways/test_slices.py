# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs that share an inventory, as AWX cuts a sliced job template: each takes every Nth host, all run beside each
other, and one report comes of what they found."""

import json
import shutil
import subprocess

import pytest

from demo.kernels import headers
from tests.ways.given import BIN, has_driver, inventory, run, settings

SLICES, HOSTS = 3, 6

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


@pytest.fixture
def sliced(tmp_path, builds):
    """sliced(roots, playbook, options) runs a job a slice, all at once; answers with what each of them said."""

    def go(roots, playbook, *options, **variables):
        jobs = []
        for number in range(SLICES):
            own = tmp_path / ("job%d" % number)  # a controller of its own: an execution environment
            own.mkdir(exist_ok=True)
            hosts = inventory(own / "inventory.json", roots, kmod_driver="mydriver", **variables)
            limit = ",".join(root.name for root in roots[number::SLICES])
            jobs.append(
                subprocess.Popen(
                    [str(BIN / "ansible-playbook"), "-i", str(hosts), "-l", limit, playbook, *options],
                    env=settings(own, **caches(tmp_path)),
                    cwd=str(builds.parent),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        said = [job.communicate()[0] for job in jobs]
        assert not any(job.returncode for job in jobs), "\n".join(said)
        return said

    return go


def caches(directory):
    return {
        "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(directory / "facts"),
        "HOME": str(directory),
    }


def test_slices_deploy_beside_each_other_what_one_job_would(sliced, hosts, builds, tmp_path):
    roots = hosts(HOSTS)
    for said in sliced(roots, "outoftree.kmod.deploy", kmod_src="mydriver"):
        assert said.count("changed=1") == HOSTS // SLICES
    assert [len(has_driver(root)) for root in roots] == [3] * HOSTS
    whole = inventory(tmp_path / "all.json", roots, kmod_driver="mydriver", kmod_src=str(builds))
    failed, said = run(
        ["ansible-playbook", "-i", whole, "outoftree.kmod.deploy"], settings(tmp_path), builds.parent
    )
    assert not failed and said.count("changed=0") == HOSTS, said


def test_one_report_comes_of_all_slices(sliced, hosts, builds, tmp_path):
    roots = hosts(HOSTS)
    sliced(roots, "outoftree.kmod.deploy", kmod_src="mydriver")
    for root in roots:
        headers(root / "srv/offer/linux-headers.deb", "6.1.0-3")
    sliced(roots, "outoftree.kmod.report", kmod_kernel=[{"package": ["/srv/offer"]}])
    play = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": [{"outoftree.kmod.kmod_report": {"dest": str(tmp_path / "report")}}],
        }
    ]
    (tmp_path / "unite.json").write_text(json.dumps(play))
    failed, said = run(
        ["ansible-playbook", "-i", inventory(tmp_path / "all.json", roots), tmp_path / "unite.json"],
        settings(tmp_path, **caches(tmp_path)),
    )
    assert not failed, said
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["counts"]["hosts"] == report["counts"]["loses"] == HOSTS
    assert report["counts"]["groups"] == 1
    assert [(kernel["kernel"], kernel["offered"]) for kernel in report["kernels"]][0] == ("6.1.0-3", HOSTS)
