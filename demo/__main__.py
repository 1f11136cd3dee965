# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""make demo: a vendor's driver goes to a fleet of five directory hosts, and comes back from it.

Everything happens below build/demo; nothing on this machine is changed. Ends with status 1 if a promise was
not kept. With --generated nothing is downloaded: the kernels and the driver are generated.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

from demo import kernels as source
from tests import CHECKOUT
from tests.forge import fleet

WORK = CHECKOUT / "build/demo"
# which of the four kernels each has
OFFER = "/srv/offer"  # where the package of a newer kernel lies on each host
HOSTS = {"el9": (1, 2, 3), "el7": (0, 1), "debian12": (2, 3), "sles15": (0, 3), "el6": (0, 1, 2)}


def main() -> int:
    begun = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    (WORK / "ansible.cfg").touch()  # nobody's own settings
    say("Kernels and a vendor's driver")
    stock = source.get(WORK / "stock", "--generated" in sys.argv)
    for line in stock.notes:
        print("  " + line)
    prepared = time.monotonic()
    say("A fleet of %d hosts" % len(HOSTS))
    roots = {host: WORK / "fleet" / host for host in HOSTS}
    for host, numbers in HOSTS.items():
        fleet.HOSTS[host](roots[host], [stock.kernels[number] for number in numbers])
        print("  %-9s %s" % (host, " ".join((fleet.HOSTS[host].__doc__ or "").split())))
        fleet.write(roots[host] / OFFER[1:] / stock.package.name, stock.package.read_bytes())
    (WORK / "fresh").mkdir()
    fleet.el9(WORK / "fresh/el9", [stock.kernels[number] for number in HOSTS["el9"]])
    shipped = {name: snapshot(root) for name, root in roots.items()}

    deploy = [
        "outoftree.kmod.deploy",
        "-e",
        "kmod_driver=" + stock.driver,
        "-e",
        "kmod_src=%s" % stock.builds.relative_to(CHECKOUT),
    ]
    first = play(roots, *deploy)
    table(first["results"])

    warned = [
        host
        for host in HOSTS
        for row in first["results"].get(host, {}).get("kmod_link", {}).get("unserved", [])
        if row["boots"]
    ]
    failed = [
        check(
            "the host whose next boot is without the driver is named, and no other",
            warned == [fleet.HELD_BACK],
        )
    ]
    failed.append(check("every host took its part", not trouble(first)))
    failed.append(
        check(
            "nothing that was shipped has changed",
            all(kept(root, shipped[name]) for name, root in roots.items()),
        )
    )

    say("The same again, which changes nothing")
    deployed = {name: snapshot(root, times=True) for name, root in roots.items()}
    second = play(roots, *deploy)
    failed.append(
        check(
            "a second run changes nothing: no file was written",
            not trouble(second)
            and changed(second) == 0
            and all(snapshot(root, times=True) == deployed[name] for name, root in roots.items()),
        )
    )

    say("In check mode, on a host that has nothing yet")
    fresh = {"el9": WORK / "fresh/el9"}
    before = snapshot(fresh["el9"], times=True)
    checked = play(fresh, *deploy, "--check")
    failed.append(
        check(
            "check mode writes nothing", not trouble(checked) and snapshot(fresh["el9"], times=True) == before
        )
    )
    failed.append(
        check(
            "and announces what the real run did",
            changed(checked) > 0 and links(checked, "el9") == links(first, "el9"),
        )
    )

    failed += preflight(roots, stock, deployed)

    removed = play(roots, "outoftree.kmod.remove", "-e", "kmod_driver=" + stock.driver)
    left = [
        "%s: %s" % (name, path)
        for name, root in roots.items()
        for path in differing(snapshot(root), shipped[name])
    ]
    failed.append(check("removal brings every tree back to the byte", not trouble(removed) and not left))
    for line in left[:20]:
        print("       " + line)
    print(
        "\n%d hosts, %d kernels, %.0f s (after %.0f s to fetch and unpack), %.0f MiB below %s"
        % (
            len(roots),
            sum(map(len, HOSTS.values())),
            time.monotonic() - prepared,
            prepared - begun,
            size(WORK) / 2**20,
            WORK.relative_to(CHECKOUT),
        )
    )
    return 1 if any(failed) else 0


def preflight(roots: dict[str, Path], stock: source.Stock, deployed: dict[str, dict]) -> list[bool]:
    """What a newer kernel would take from the hosts, before any of them has it."""
    say(
        "Before an update: kernel %s is on offer, its headers alone (%.1f MB) are there"
        % (stock.newer, stock.package.stat().st_size / 1e6)
    )
    report = WORK / "report"
    looked = play(
        roots,
        "outoftree.kmod.report",
        "-e",
        json.dumps({"kmod_kernel": [{"package": [OFFER]}], "kmod_report": str(report)}),
    )
    told = json.loads((report / "report.json").read_text()) if report.exists() else {}
    lost = sorted(
        host
        for host, answers in looked["results"].items()
        for row in answers.get("kmod_preflight", {}).get("record", {}).get("verdicts", [])
        if (row["kernel"], row["verdict"], row["state"]) == (stock.newer, "incompatible", "offered")
    )
    return [
        check(
            "the report says of every host that it would lose the driver",
            lost == sorted(HOSTS) and bool(told),
        ),
        check(
            "a preflight changes nothing",
            all(snapshot(root, times=True) == deployed[name] for name, root in roots.items()),
        ),
    ]


def differing(one: dict[str, tuple], other: dict[str, tuple]) -> list[str]:
    """The paths at which two snapshots differ."""
    return sorted(path for path in {*one, *other} if one.get(path) != other.get(path))


def say(text: str) -> None:
    print("\n\033[1m%s\033[0m" % text if sys.stdout.isatty() else "\n" + text, flush=True)


def check(promise: str, held: bool) -> bool:
    """Print whether a promise held; answers with whether it was broken."""
    print("  %s  %s" % ("ok " if held else "NO ", promise), flush=True)
    return not held


def play(roots: dict[str, Path], *command: str) -> dict:
    """Print an ansible-playbook command and run it as it is printed, from the checkout, on hosts that are
    directories.

    Answers with {"results": {host: {module: result}}, "totals": {host: counts}}.
    """
    inventory = WORK / ("inventory.json" if len(roots) > 1 else "%s.json" % next(iter(roots)))
    inventory.write_text(
        json.dumps(
            {
                "all": {
                    "hosts": {host: {"kmod_root": str(root)} for host, root in roots.items()},
                    "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
                }
            },
            indent=1,
        )
    )
    argv = ["ansible-playbook", "-i", str(inventory.relative_to(CHECKOUT)), *command]
    say(shlex.join(argv))
    results = WORK / "results.json"
    results.unlink(missing_ok=True)
    environment = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=str(CHECKOUT / "build/collections"),
        ANSIBLE_STDOUT_CALLBACK="progress",
        ANSIBLE_CALLBACK_PLUGINS=str(CHECKOUT / "demo/callback_plugins"),
        ANSIBLE_FORKS=str(len(roots)),
        ANSIBLE_PIPELINING="true",
        ANSIBLE_LOCAL_TEMP=str(WORK / "tmp"),
        ANSIBLE_REMOTE_TEMP=str(WORK / "tmp"),
        DEMO_RESULTS=str(results),
        ANSIBLE_CONFIG=str(WORK / "ansible.cfg"),
        PATH=os.path.dirname(sys.executable) + ":" + os.environ["PATH"],
    )
    subprocess.run(argv, cwd=CHECKOUT, env=environment, check=False)
    return json.loads(results.read_text()) if results.exists() else {"results": {}, "totals": {}}


def trouble(run: dict) -> bool:
    return not run["totals"] or any(
        total["failures"] or total["unreachable"] for total in run["totals"].values()
    )


def changed(run: dict) -> int:
    return sum(total["changed"] for total in run["totals"].values())


def links(run: dict, host: str) -> list[tuple]:
    return [
        (row["kernel"], row.get("link"))
        for row in run["results"].get(host, {}).get("kmod_link", {}).get("kernels", [])
    ]


def table(results: dict) -> None:
    """What every kernel of every host got: verdict with its first reason, build, variant and boot entry. !
    marks those that boots start in vain.
    """
    rows = [("host", "kernel", "verdict", "module from", "initramfs variant", "boot entry")]
    for host in HOSTS:
        answers = results.get(host, {})
        variants = {row["kernel"]: row for row in answers.get("initrd_variant", {}).get("variants", [])}
        entries = {row["kernel"]: row for row in answers.get("grub_entry", {}).get("kernels", [])}
        vain = {row["kernel"] for row in answers.get("kmod_link", {}).get("unserved", []) if row["boots"]}
        for row in answers.get("kmod_link", {}).get("kernels", []):
            release = row["kernel"]
            verdict = row["verdict"] + (": " + row["reason"] if row.get("reason") else "")
            rows.append(
                (
                    host,
                    release + (" !" if release in vain else ""),
                    verdict,
                    row.get("build") or "-",
                    os.path.basename(variants.get(release, {}).get("path") or "-"),
                    re.sub("^[0-9a-f]{32}-", "", str(entries.get(release, {}).get("id") or "-")),
                )
            )
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  " + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()
    for host in HOSTS:
        for warning in results.get(host, {}).get("kmod_link", {}).get("warnings", []):
            print("  WARNING  " + warning)


def snapshot(root: Path, times: bool = False) -> dict[str, tuple]:
    """Every path below a root with its type, mode and contents; with ``times``, also when it was written and
    as which inode.
    """
    seen = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            entry: tuple = (status.st_mode,)
            if stat.S_ISLNK(status.st_mode):
                entry += (os.readlink(path),)
            elif stat.S_ISREG(status.st_mode):
                entry += (digest(path, status), status.st_size)
            seen[os.path.relpath(path, root)] = entry + ((status.st_mtime_ns, status.st_ino) if times else ())
    return seen


_digests: dict[tuple, str] = {}


def digest(path: str, status: os.stat_result) -> str:
    key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
    if key not in _digests:
        with open(path, "rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


def kept(root: Path, before: dict[str, tuple]) -> bool:
    """Whether all that was there still is as it was, depmod's own indexes apart.

    GRUB legacy has one menu, to which its entries are appended.
    """
    after = snapshot(root)
    changed = {
        path
        for path, entry in before.items()
        if after.get(path) != entry and not os.path.basename(path).startswith("modules.")
    }
    menu = "boot/grub/grub.conf"
    if menu in changed:
        changed.remove(menu)
        with open(root / menu, "rb") as file:
            if hashlib.sha256(file.read(before[menu][2])).hexdigest() != before[menu][1]:
                changed.add(menu)
    for path in sorted(changed):
        print("       changed: %s" % (root / path))
    return not changed


def size(path: Path) -> int:
    """Bytes on disk, each inode once."""
    inodes = {}
    for directory, _names, files in os.walk(path):
        for name in files:
            status = os.lstat(os.path.join(directory, name))
            inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


if __name__ == "__main__":
    sys.exit(main())
