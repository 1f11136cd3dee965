# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task costs a host on which all is as it should be, beside a module that does nothing (ping); and what
200 hosts that are directories cost the controller, by hosts, drivers and kernels.

The hosts of a fleet have generated kernels: what their modules and images hold does not matter where nothing
is read. The one host of a task has real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from demo import kernels as stock
from tests import COLLECTIONS
from tests.bench.report import Cost, Row, Section, cost, medians
from tests.forge import fleet
from tests.lab import debian

HOSTS = (50, 100, 200)
FEW, TURNS = 25, 5  # hosts, where drivers and kernels are counted
RUNS = 11
PING = {"ansible.builtin.ping": {}}
ROLE_TASKS = 5  # of the role deploy, with the check of its arguments: one of them runs a module on the host


class Fleet:
    """Ansible on hosts that are directories below one."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.own = 0.0  # seconds of the last play in the one process that hands out tasks
        (self.directory / "ansible.cfg").write_text("")
        self.environment = dict(
            os.environ,
            ANSIBLE_CONFIG=str(self.directory / "ansible.cfg"),
            ANSIBLE_COLLECTIONS_PATH=COLLECTIONS,
            ANSIBLE_LOCALHOST_WARNING="false",
            ANSIBLE_PIPELINING="1",
            ANSIBLE_FORKS="2",
            ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).parent / "callback_plugins"),
            ANSIBLE_CALLBACKS_ENABLED="own_time",
            OUTOFTREE_KMOD_OWN_TIME=str(self.directory / "own"),
        )

    def play(self, hosts: dict[str, str], play: dict[str, object], **environment: str) -> Cost:
        """The CPU seconds of a play, those of hosts included; the peak of the controller's own process."""
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {"hosts": {name: {"kmod_root": root} for name, root in hosts.items()}, "vars": variables}
        (self.directory / "inventory.json").write_text(json.dumps({"all": inventory}))
        path = self.directory / "play.json"
        path.write_text(json.dumps([dict({"hosts": "all", "gather_facts": False}, **play)]))
        argv = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "-i",
            str(self.directory / "inventory.json"),
        ]
        took = cost([*argv, str(path)], **dict(self.environment, **environment))
        self.own = float((self.directory / "own").read_text())
        return took

    def host(self, name: str, kernels: list[fleet.Kernel]) -> str:
        root = self.directory / name
        fleet.el9(root, kernels)
        (root / "var/cache").mkdir(parents=True)
        return str(root)

    def copies(self, template: str, count: int) -> dict[str, str]:
        names = ["h%03d" % number for number in range(count)]
        return {name: shutil.copytree(template, "%s-%s" % (template, name), symlinks=True) for name in names}


def deploy(drivers: dict[str, str]) -> dict[str, object]:
    rows = [{"driver": name, "src": path} for name, path in drivers.items()]
    return {"outoftree.kmod.kmod_deploy": {"root": "{{ kmod_root }}", "drivers": rows}}


def role(drivers: dict[str, str]) -> dict[str, object]:
    rows = [{"driver": name, "src": path} for name, path in drivers.items()]
    return {"roles": ["outoftree.kmod.deploy"], "vars": {"kmod_drivers": rows}}


def task() -> Section:
    """Of real kernels with symvers, on the host alone: what Ansible sends is run once more and measured."""
    with tempfile.TemporaryDirectory(prefix="bench-task-") as directory:
        there = Fleet(directory)
        given = stock.packaged(there.directory / "stock")
        root = there.host("host", given.kernels[1:])
        asked = deploy({given.driver: str(given.builds)})
        there.play({"host": root}, {"tasks": [asked]})
        cache = Path(root, "var/cache/outoftree.kmod")
        keep = {
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_PIPELINING": "0",
            "ANSIBLE_REMOTE_TEMP": directory + "/sent",
        }
        there.play({"host": root}, {"tasks": [PING, asked]}, **keep)
        sent = {path.name.split("_", 1)[1]: path for path in Path(directory, "sent").rglob("AnsiballZ_*.py")}

        def look() -> Cost:
            for path in cache.glob("settled:*"):
                path.unlink()
            return cost([sys.executable, str(sent["kmod_deploy.py"])])

        took = medians(
            RUNS,
            ping=lambda: cost([sys.executable, str(sent["ping.py"])]),
            look=look,
            settled=lambda: cost([sys.executable, str(sent["kmod_deploy.py"])]),
        )
        size = sent["kmod_deploy.py"].stat().st_size
        beside = sent["ping.py"].stat().st_size
    rows = [
        Row("a task, nothing touched", took["settled"].seconds, "s", "ping", took["ping"].seconds, -1.5),
        Row("a task that looks at everything", took["look"].seconds, "s", "ping", took["ping"].seconds),
        Row("memory of a task that looks", took["look"].memory, "MiB", "ping", took["ping"].memory),
        Row("what is sent with a task", size / 1000, "kB", "ping", beside / 1000),
    ]
    text = (
        "kmod_deploy with one driver, %d kernels (%s), variants and boot entries, on a host where all of it is as it should be."
        % (
            len(given.kernels) - 1,
            given.kernels[-1].release,
        )
    )
    return Section("A task on a host", text, rows)


class Slopes(NamedTuple):
    """CPU seconds a host, of the whole run and of the role, and what one more driver and kernel adds."""

    ping: float
    role: float
    driver: float
    kernel: float
    own: float  # of a host's seconds those of the one process that hands out tasks


def hosts(counts: tuple[int, ...] = HOSTS) -> tuple[Section, Slopes]:
    with tempfile.TemporaryDirectory(prefix="bench-hosts-") as directory:
        there = Fleet(directory)
        made = Path(directory, "made")
        kernels = [fleet.kernel(made, "6.1.0-%d-generated" % number) for number in range(1, 9)]
        drivers = {}
        for number in range(1, 5):
            fleet.build(made / ("d%d" % number), "vendor%d" % number, kernels[0].release)
            drivers["vendor%d" % number] = str(made / ("d%d" % number))
        one = dict(list(drivers.items())[:1])
        template = there.host("few", kernels[:2])
        there.play({"t": template}, {"tasks": [deploy(one)]})
        shutil.rmtree(template + "/var/cache/outoftree.kmod", ignore_errors=True)
        every = there.copies(template, max(counts))
        there.play(every, role(one))  # each settles
        lines: dict[str, list[tuple[float, float]]] = {"ping": [], "role": []}
        took: dict[str, Cost] = {}
        own: list[float] = []
        for count in counts:
            some = dict(list(every.items())[:count])
            took = {
                "ping": there.play(some, {"tasks": [PING]}),
                "role": there.play(some, role(one)),
            }
            own.append(there.own)
            for name, each in took.items():
                lines[name].append((float(count), each.seconds))
        as_many = there.play(dict(list(every.items())[: counts[0]]), {"tasks": [PING] * ROLE_TASKS})
        few, several = dict(list(every.items())[:FEW]), dict(list(every.items())[-FEW:])
        there.play(several, role(drivers))
        wide = there.host("wide", kernels)
        there.play({"t": wide}, {"tasks": [deploy(one)]})
        shutil.rmtree(wide + "/var/cache/outoftree.kmod", ignore_errors=True)
        many = there.copies(wide, FEW)
        there.play(many, role(one))
        more = medians(  # they differ by little, so they take turns
            TURNS,
            base=lambda: there.play(few, role(one)),
            drivers=lambda: there.play(several, role(drivers)),
            kernels=lambda: there.play(many, role(one)),
        )
    per = {name: (found[-1][1] - found[0][1]) / (counts[-1] - counts[0]) for name, found in lines.items()}
    halves = [
        (lines["role"][place][1] - lines["role"][place - 1][1]) / (counts[place] - counts[place - 1])
        for place in range(1, len(counts))
    ]
    slopes = Slopes(
        per["ping"],
        per["role"],
        (more["drivers"].seconds - more["base"].seconds) / FEW / 3,
        (more["kernels"].seconds - more["base"].seconds) / FEW / 6,
        (own[-1] - own[0]) / (counts[-1] - counts[0]),
    )
    rows = [
        Row(
            "role, %d hosts, beside as many trivial tasks" % counts[0],
            lines["role"][0][1],
            "s",
            "%d × ping" % ROLE_TASKS,
            as_many.seconds,
            -1.3,
        ),
        Row(
            "role, %d hosts, beside one ping" % counts[-1],
            took["role"].seconds,
            "s",
            "ping",
            took["ping"].seconds,
        ),
        Row("a host more, role", per["role"], "s", "ping", per["ping"]),
        Row(
            "a host more: the last %d beside the first" % (counts[-1] - counts[-2]),
            halves[-1],
            "s",
            "before",
            halves[0],
            -1.3,
        ),
        Row("of it the process that hands out tasks", slopes.own * 1000, "ms", "a host", per["role"] * 1000),
        Row("a driver more on each host", slopes.driver * 1000, "ms", "a host", per["role"] * 1000),
        Row("a kernel more on each host", slopes.kernel * 1000, "ms", "a host", per["role"] * 1000),
        Row(
            "controller's memory, %d hosts" % counts[-1],
            took["role"].memory,
            "MiB",
            "ping",
            took["ping"].memory,
        ),
    ]
    text = (
        "The role deploy with one driver on hosts with two kernels, on which nothing is to be done; seconds are those of the\n"
        "controller and of all hosts, which are directories of this machine. The role is one task on the host and four that only\n"
        "the controller carries out."
    )
    return Section("A fleet in the steady state", text, rows, lines, ("hosts", "CPU seconds")), slopes


def main() -> None:
    reason = debian.available()
    if reason or os.geteuid() != 0:
        raise SystemExit("skipped: " + (reason or "only root keeps what it found"))
    print(task().markdown())
    print(hosts()[0].markdown())


if __name__ == "__main__":
    main()
