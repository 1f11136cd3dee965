# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a host that follows new kernels says what an admin has to know: a local fact of Ansible, and the
message of the day.

The fact is the record: ``{"drivers": {NAME: [{"kernel", "boots", "reason"}]}, "kept": RELEASE or null,
"problems": [text]}``. The message of the day is there only while there is something to say. Both are files of
ours alone, and written only where they change.
"""

import json
import posixpath
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import forgiving, printable
from ..host import Host
from ..plan import Content, File, Plan

FACT = "/etc/ansible/facts.d/outoftree_kmod.fact"
MOTD = "/run/motd.d/outoftree-kmod"
PENDING = "/var/lib/outoftree-kmod/pending"
LIMIT = 1 << 20
MANY = 50  # lines of what is pending that are read


class Lacking(NamedTuple):
    """A kernel that takes no build of a driver, why boots may be expected to start it, and why it takes none."""

    driver: str
    kernel: str
    boots: Tuple[str, ...]
    reason: str


class Bulletin(NamedTuple):
    lacking: Tuple[Lacking, ...] = ()
    kept: Optional[str] = None  # the kernel that the default is kept on
    problems: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        drivers: Dict[str, List[Dict[str, Any]]] = {}
        for each in self.lacking:
            row = {"kernel": each.kernel, "boots": list(each.boots), "reason": each.reason}
            drivers.setdefault(each.driver, []).append(row)
        return {"drivers": drivers, "kept": self.kept, "problems": list(self.problems)}

    @property
    def lines(self) -> List[str]:
        """For people: what concerns a kernel that boots start, and what could not be done."""
        return self.kernels + [printable(line) for line in self.problems]

    @property
    def kernels(self) -> List[str]:
        """What concerns a kernel that boots start."""
        said = [
            "Kernel %s (%s) takes no build of the driver %s: %s"
            % (each.kernel, ", ".join(each.boots), each.driver, each.reason)
            for each in self.lacking
            if each.boots
        ]
        said += (
            ["Boots are kept on kernel %s until a build for the newer one is deployed." % self.kept]
            if self.kept
            else []
        )
        return [printable(line) for line in said]


def read(host: Host) -> Bulletin:
    """What was said last; nothing where that cannot be read."""
    with forgiving():
        if host.is_file(FACT):
            try:
                told = json.loads(host.read_text(FACT, LIMIT))
                lacking = [
                    Lacking(driver, str(row["kernel"]), tuple(map(str, row["boots"])), str(row["reason"]))
                    for driver, rows in told["drivers"].items()
                    for row in rows
                ]
                return Bulletin(tuple(lacking), told["kept"], tuple(map(str, told["problems"])))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                pass
    return Bulletin()


def post(host: Host, bulletin: Bulletin, made: Sequence[str] = ()) -> Plan:
    """Plan that a host says this and nothing else.

    ``made``: directories that came with following: that of the message of the day goes with it.
    """
    plan = Plan(host)
    plan.put(
        FACT, File(Content.of((json.dumps(bulletin.as_dict(), indent=2, sort_keys=True) + "\n").encode()))
    )
    lines = bulletin.lines
    if lines and has_motd(host):
        text = "Out-of-tree drivers (kmodctl status tells more):\n" + "".join(
            "  %s\n" % line for line in lines
        )
        plan.put(MOTD, File(Content.of(text.encode("utf-8", "backslashreplace"))))
    else:
        plan.put(MOTD, None)
        directory, name = posixpath.split(MOTD)
        if directory in made and host.is_dir(directory) and set(host.listdir(directory)) <= {name}:
            plan.put(directory, None)
    return plan


def has_motd(host: Host) -> bool:
    """Whether logins show the files of /run/motd.d (pam_motd from Linux-PAM 1.3.1 on; Debian 11, EL 8 and
    later). Debian has pam_motd look there, and makes no such directory.
    """
    if any(host.is_dir(path) for path in ("/run/motd.d", "/etc/motd.d", "/usr/lib/motd.d")):
        return True
    libraries = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
    libraries += ["/usr/lib/" + name for name in host.listdir("/usr/lib") if name.endswith("-linux-gnu")]
    modules = [path + "/security/pam_motd.so" for path in libraries]
    return any(host.is_file(path) and b"/run/motd.d" in host.read(path, LIMIT) for path in modules)


def noted(host: Host) -> List[str]:
    """The lines that hooks have added about what they could not do, the oldest first."""
    if not host.is_file(PENDING):
        return []
    status = host.stat(PENDING)
    if status and status.st_size > LIMIT:
        return ["%s: there is more than can be read" % PENDING]
    return [line for line in host.read_text(PENDING, LIMIT).splitlines() if line]


def pending(host: Host) -> List[str]:
    """What hooks could not do, a line each, the oldest first; no line twice."""
    return _once(noted(host))


def settled(host: Host, release: Optional[str], seen: int) -> Plan:
    """Plan that nothing is pending any more, or nothing about one kernel, of the first ``seen`` lines: a hook
    may have added another about what came since.
    """
    plan = Plan(host)
    lines = noted(host)
    old = [
        line
        for line in lines[:seen]
        if release is not None and line.partition(":")[0].split()[-1:] != [release]
    ]
    left = _once(old + lines[seen:])
    plan.put(
        PENDING,
        File(Content.of("".join(line + "\n" for line in left).encode("utf-8", "surrogateescape")))
        if left
        else None,
    )
    return plan


def _once(lines: Sequence[str]) -> List[str]:
    return list(dict.fromkeys(lines))[-MANY:]
