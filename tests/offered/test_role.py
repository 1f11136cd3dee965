# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role preflight on a small fleet of directory hosts, with the real apt and dnf and repositories of made-up kernels."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forge import families, kernels, repositories
from tests.forge.ko import ko
from tests.forge.repositories import Rpm, deb, rpms
from tests.forge.symvers import EXPORTS

pytestmark = pytest.mark.skipif(
    bool(repositories.lacking((*repositories.APT, "depmod"))), reason="needs apt, dpkg-dev and depmod"
)
OLD, MIDDLE, NEW = ["6.1.0-%d-amd64" % number for number in (9, 10, 11)]
EL_OLD, EL_NEW = "5.14.0-1.el9.x86_64", "5.14.0-2.el9.x86_64"
CHANGED = [(name, crc + (name == "kfree"), *rest) for name, crc, *rest in EXPORTS]
NEEDS = [("module_layout", 0x11), ("kfree", 0x33)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Three Debian hosts that are offered the same two kernels, one of them with another driver; one of Enterprise
    Linux; one whose lists cannot be read; one whose repository has lost a package since its lists were fetched.
    """
    top = tmp_path_factory.mktemp("fleet")
    for place in ("debian", "lossy"):
        for release, version, exports in ((MIDDLE, "6.1.10-1", EXPORTS), (NEW, "6.1.11-1", CHANGED)):
            deb(top / place, "linux-image-" + release, version, Source="linux-signed-amd64", Section=place)
            deb(
                top / place,
                "linux-headers-" + release,
                version,
                kernels.headers(release, exports),
                Section=place,
            )
        repositories.apt_lists(top / place)
    builds = {"first": NEEDS, "second": [("module_layout", 0x11)]}
    for name, needs in builds.items():
        (top / (name + ".ko")).write_bytes(ko("vendor", needs, release=OLD))
    for host, place, driver in (
        ("web1", "debian", "first"),
        ("web2", "debian", "first"),
        ("db1", "debian", "second"),
        ("broken", "debian", "first"),
        ("lossy", "lossy", "first"),
    ):
        root = top / "hosts" / host
        families.kernel(root, OLD)
        families.configure(root, "debian")
        shutil.copy(str(top / (driver + ".ko")), str(root / "vendor.ko"))
        repositories.apt_host(root, [top / place])
    (top / "lossy" / ("linux-headers-%s_6.1.11-1_amd64.deb" % NEW)).unlink()
    (top / "hosts/broken/etc/apt/sources.list").write_text("nonsense\n")
    if not repositories.lacking(repositories.DNF):
        packages = [
            Rpm("kernel-core", provides=["kernel-uname-r = " + EL_NEW, "kernel(kfree) = 0x00000034"]),
            Rpm("kernel-devel", kernels.headers(EL_NEW, CHANGED, at=kernels.EL)),
        ]
        rpms(top / "el", "5.14.0", "2.el9", packages)
        repositories.dnf_lists(top / "el")
        root = top / "hosts/el1"
        families.kernel(root, EL_OLD, family="el9")
        families.configure(root, "el9")
        (root / "vendor.ko").write_bytes(ko("vendor", NEEDS, release=EL_OLD))
        repositories.dnf_host(root, {"baseos": top / "el"})
    return top


@pytest.fixture
def run(tmp_path, fleet, collections):
    """run(hosts, tasks after the role, options): exit status, what was said, and {host: record}."""

    def go(hosts, *options, **more):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "apt-get").write_text(
            '#!/bin/sh\necho "$*" >> %s/asked\nexec %s "$@"\n' % (tmp_path, shutil.which("apt-get"))
        )
        (tools / "apt-get").chmod(0o755)
        known = {host: {"kmod_root": str(fleet / "hosts" / host)} for host in hosts if host != "away"}
        if "away" in hosts:
            known["away"] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "kmod_driver": "vendor",
            "kmod_path": "/vendor.ko",
            "kmod_preflight_offered": "all",
            "kmod_preflight_cache": str(tmp_path / "cache"),
            **more,
        }
        (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": known, "vars": variables}}))
        save = {
            "ansible.builtin.copy": {
                "content": "{{ dict(groups.all | zip(groups.all | map('extract', hostvars, 'kmod_preflight'))) | to_json }}",
                "dest": str(tmp_path / "records.json"),
            },
            "vars": {"kmod_root": "/"},
        }
        plays = [
            {"hosts": "all", "gather_facts": False, "roles": ["outoftree.kmod.preflight"]},
            {"hosts": "localhost", "gather_facts": False, "tasks": [save]},
        ]
        (tmp_path / "play.json").write_text(json.dumps(plays))
        (tmp_path / "ansible.cfg").touch()
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                *("-i", str(tmp_path / "inventory.json"), str(tmp_path / "play.json"), *options),
            ],
            env=dict(
                os.environ,
                ANSIBLE_COLLECTIONS_PATH=collections,
                ANSIBLE_NOCOLOR="1",
                COLUMNS="1000",
                ANSIBLE_PIPELINING="true",
                ANSIBLE_CONFIG=str(tmp_path / "ansible.cfg"),
                ANSIBLE_LOCALHOST_WARNING="false",
                PATH="%s:%s" % (tools, os.environ["PATH"]),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        path = tmp_path / "records.json"
        records = json.loads(path.read_text()) if path.exists() else {}
        return done.returncode, done.stdout, records

    go.fetches = lambda: [
        line.rpartition(" ")[2]
        for line in (tmp_path / "asked").read_text().splitlines()
        if " download " in line
    ]
    go.cache = tmp_path / "cache"
    return go


def verdicts(record):
    return {
        row["kernel"]: (row["verdict"], row["codes"])
        for row in record["verdicts"]
        if row["state"] == "offered"
    }


def test_a_fleet_is_told_and_each_kernel_is_fetched_once(run, fleet):
    hosts = ["web1", "web2", "db1"] + ["el1"] * (fleet / "hosts/el1").exists()
    failed, said, records = run(hosts)
    assert not failed, said
    refused = {MIDDLE: ("compatible", []), NEW: ("incompatible", ["SYMBOL_CRC"])}
    assert verdicts(records["web1"]) == verdicts(records["web2"]) == refused
    assert verdicts(records["db1"]) == {MIDDLE: ("compatible", []), NEW: ("compatible", [])}
    assert sorted(run.fetches()) == [
        "linux-headers-%s:amd64=6.1.10-1" % MIDDLE,
        "linux-headers-%s:amd64=6.1.11-1" % NEW,
    ]
    newest = {row["kernel"]: row["newest"] for row in records["web1"]["kernels"]}
    assert newest == {OLD: False, MIDDLE: False, NEW: True}
    for host in hosts:
        assert (records[host]["host"], records[host]["error"]) == (host, None)
    if "el1" in hosts:
        assert verdicts(records["el1"]) == {EL_NEW: ("incompatible", ["SYMBOL_CRC"])}
        assert records["el1"]["kernels"][1]["origin"][0].startswith("what the lists say that kernel-core")
    # and what is in the cache is used the next time, but not if it was changed
    failed, said, _records = run(["web2"])
    assert not failed and len(run.fetches()) == 2, said
    (next(run.cache.glob("*/*%s*.deb" % NEW))).write_bytes(b"changed")
    failed, said, records = run(["web2"])
    assert not failed and len(run.fetches()) == 3 and verdicts(records["web2"]) == refused, said


@pytest.mark.full
def test_hosts_that_cannot_be_told_are_in_the_records_and_the_report_and_never_silently_well(run, tmp_path):
    failed, said, records = run(["web1", "away", "broken", "lossy"], kmod_report_dir=str(tmp_path / "report"))
    assert not failed, said
    assert "unreachable" in records["away"]["error"].lower() or "connect" in records["away"]["error"].lower()
    assert records["broken"]["lists"]["code"] == "OFFERED_BROKEN" and records["broken"]["error"]
    assert verdicts(records["lossy"]) == {
        MIDDLE: ("compatible", []),
        NEW: ("unknown", ["OFFERED_UNREACHABLE"]),
    }
    assert records["lossy"]["error"]
    assert verdicts(records["web1"])[NEW][0] == "incompatible"
    for host in ("broken", "lossy"):
        assert "%s: apt: " % host in said or "%s: %s" % (host, records[host]["error"])[:40] in said
    report = (tmp_path / "report/report.md").read_text()
    for host in ("web1", "away", "broken", "lossy"):
        assert host in report


@pytest.mark.full
def test_it_fails_where_that_is_asked_after_all_hosts_were_told_of(run):
    failed, said, _records = run(["web1", "db1", "broken"], kmod_preflight_require="offered")
    assert failed
    assert "web1: %s: vendor: 1 symbol differs (kfree)" % NEW in said
    assert "broken: apt: cannot say which kernels there are" in said
    assert (
        "db1                        : ok=" in said and "failed=0" in said.split("db1   ")[-1].splitlines()[0]
    )
