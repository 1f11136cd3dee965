# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes host records (docs/report.md) as ``kmod_preflight`` does: one by one, or a whole fleet by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

AT = "2026-11-27T06:00:00Z"


def release(number: int, series: str = "6.1.0") -> str:
    return "%s-%d-amd64" % (series, number)


def needs(*symbols: str, machine: str = "x86_64", module: str = "vendor") -> dict[str, Any]:
    """What ``judge.predict.Needs.as_dict`` gives."""
    each = {"name": module, "strong": sorted(symbols), "weak": [], "proprietary": False, "namespaces": []}
    return {"machine": machine, "modules": [each]}


def facts(kernel: str, machine: str = "x86_64", layout: int = 1, **crcs: int) -> dict[str, Any]:
    """What ``judge.predict.KernelFacts.as_dict`` gives."""
    exports = {name: [crc, False, ""] for name, crc in sorted(dict(crcs, module_layout=layout).items())}
    return {
        "release": kernel,
        "machine": machine,
        "vermagic": kernel + " SMP preempt mod_unload modversions ",
        "exports": exports,
        "unversioned": False,
        "namespaces": None,
    }


def driver(name: str, builds: Iterable[str], version: str | None = "1.0") -> dict[str, Any]:
    made = [{"kernel": kernel, "version": version} for kernel in builds]
    return {"driver": name, "version": version, "builds": made, "modules": [name.replace("-", "_")]}


def kernel(name: str, state: str = "installed", newest: bool = False) -> dict[str, Any]:
    origin = ["/lib/modules/" + name] if state != "offered" else ["linux-headers-%s.deb" % name]
    packages = ["linux-image-" + name]
    return {"kernel": name, "state": state, "newest": newest, "origin": origin, "packages": packages}


def fits(driver: str, kernel: str, build: str, exact: bool = True) -> dict[str, Any]:
    return _verdict(
        driver,
        kernel,
        verdict="compatible",
        exact=exact,
        build=build,
        why="The kernel takes the build for %s." % build,
    )


def refused(
    driver: str, kernel: str, codes: Iterable[str] = ("SYMBOL_CRC",), symbols: Iterable[str] = ("put_page",)
) -> dict[str, Any]:
    symbols = list(symbols)
    why = "The version of %s differs." % ", ".join(symbols) if symbols else "The kernel refuses it."
    return _verdict(driver, kernel, codes=list(codes), symbols=symbols, errno="EINVAL", why=why)


def untold(driver: str, kernel: str, codes: Iterable[str] = ("VERMAGIC_UNKNOWN",)) -> dict[str, Any]:
    why = "The kernel's version magic is not available."
    return _verdict(driver, kernel, verdict="unknown", exact=False, codes=list(codes), why=why)


def _verdict(driver: str, kernel: str, **given: Any) -> dict[str, Any]:
    nothing = {
        "verdict": "incompatible",
        "exact": True,
        "build": None,
        "codes": [],
        "symbols": [],
        "errno": None,
    }
    return {"driver": driver, "kernel": kernel, **nothing, **given}


def today(kind: str, text: str, driver: str | None = None, kernel: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "driver": driver, "kernel": kernel, "text": text}


def record(host: str = "web1", **given: Any) -> dict[str, Any]:
    """A Debian host with one driver that has a build for its running kernel, 47, and is offered 50, which
    refuses it."""
    old, new = release(47), release(50)
    made: dict[str, Any] = {
        "version": 1,
        "host": host,
        "at": AT,
        "family": "debian",
        "distribution": "debian 12",
        "machine": "x86_64",
        "running": old,
        "default": old,
        "error": None,
        "lists": {"manager": "apt", "age": 3600, "error": None},
        "drivers": [driver("vendor", [old])],
        "kernels": [kernel(old, "running"), kernel(new, "offered", newest=True)],
        "verdicts": [fits("vendor", old, old), refused("vendor", new)],
        "today": [],
        "held": [],
        "needs": {"vendor": needs("put_page")},
        "facts": {"vendor": {old: facts(old, put_page=1), new: facts(new, put_page=2)}},
    }
    return dict(made, **given)


DRIVERS = (
    "3w-9xxx",
    "acpi-call",
    "bbswitch",
    "evdi",
    "ena",
    "igb-vendor",
    "lttng",
    "mlnx-en",
    "r8168",
    "zfs",
)
PROBLEMS = (
    ("stale_image", "The initramfs variant was made of an image that was made again since."),
    ("dangling_link", "weak-updates/vendor.ko leads to a file that is gone."),
    ("reboot_pending", "The host runs an older kernel than the one that boots start."),
    ("trial_failed", "The host was not seen running the driver after the trial."),
    ("no_build", "No build of the driver fits the kernel."),
    ("not_followed", "The kernel takes a build of the driver, and does not use it."),
)


def fleet(
    hosts: int = 5000, kernels: int = 20, drivers: int = 10, seed: int = 1, shapes: int = 440
) -> list[dict[str, Any]]:
    """Hosts of ``shapes`` kinds, of which few have many hosts, as in a fleet that grew: by two series of
    kernels, each of which changes the versions of some symbols from one to the next.
    """
    chance = random.Random(seed)
    series = [release(47 + number) for number in range(kernels // 2)]
    series += [release(100 + number, "6.12") for number in range(kernels - kernels // 2)]
    names = [DRIVERS[number % 10] + ("" if number < 10 else str(number)) for number in range(drivers)]
    symbols = {name: ["%s_%d" % (name.replace("-", "_"), number) for number in range(40)] for name in names}
    crcs: dict[str, dict[str, int]] = {}
    for number, name in enumerate(series):
        before = crcs[series[number - 1]] if number else {}
        crcs[name] = {
            symbol: chance.getrandbits(32) if chance.random() < 0.02 or not number else before[symbol]
            for each in names
            for symbol in symbols[each]
        }
    kinds = [_shape(chance, series, names, symbols, crcs) for _number in range(shapes)]
    sizes = [1 / (1 + number) for number in range(shapes)]
    chosen = kinds + chance.choices(kinds, sizes, k=max(0, hosts - shapes))
    return [
        _host(chance, "node%04d.example.org" % number, kind) for number, kind in enumerate(chosen[:hosts])
    ]


def _host(chance: random.Random, name: str, kind: dict[str, Any]) -> dict[str, Any]:
    if chance.random() < 0.01:
        return {"version": 1, "host": name, "at": AT, "error": "The host is not reached by ssh."}
    found = []
    for each in kind["drivers"] if chance.random() < 0.08 else []:
        problem, text = chance.choice(PROBLEMS)
        found.append(today(problem, text, each["driver"], kind["running"]))
    return dict(kind, host=name, today=found)


def _shape(
    chance: random.Random,
    series: list[str],
    names: list[str],
    symbols: dict[str, list[str]],
    crcs: dict[str, dict[str, int]],
) -> dict[str, Any]:
    half = series[: len(series) // 2] if chance.random() < 0.6 else series[len(series) // 2 :]
    first = chance.randrange(len(half) - 1)
    has = half[first : first + chance.randint(2, 4)]
    running = chance.choice(has[:-1])
    drivers, verdicts = [], []
    for name in chance.sample(names, chance.randint(1, min(3, len(names)))):
        builds: list[str] = []
        kept_up = chance.random() < 0.8
        for each in (
            [one for one in has if one != half[-1]] if kept_up else has[: chance.randint(1, len(has) - 1)]
        ):
            if not any(all(crcs[build][one] == crcs[each][one] for one in symbols[name]) for build in builds):
                builds.append(each)
        drivers.append(driver(name, builds))
        for each in has:
            differ = {
                build: [one for one in symbols[name] if crcs[build][one] != crcs[each][one]]
                for build in builds
            }
            build = next((build for build in reversed(builds) if not differ[build]), None)
            if build:
                verdicts.append(fits(name, each, build, exact=each != has[-1] or chance.random() < 0.8))
            elif chance.random() < 0.05:
                verdicts.append(untold(name, each))
            else:
                verdicts.append(refused(name, each, symbols=differ[builds[-1]][:8]))
    lost = [
        each["driver"] for each in verdicts if each["kernel"] == has[-1] and each["verdict"] != "compatible"
    ]
    hold = {"what": "kernel", "kernel": has[-1], "driver": lost, "reason": "No build fits it."}
    distribution = "debian 12" if half[0].startswith("6.1.") else "debian 13"
    return dict(
        record(),
        distribution=distribution,
        running=running,
        default=has[-2],
        drivers=drivers,
        kernels=[
            kernel(
                each,
                "running" if each == running else "offered" if each == has[-1] else "installed",
                each == has[-1],
            )
            for each in has
        ],
        verdicts=verdicts,
        held=[hold] if lost and chance.random() < 0.3 else [],
        needs={
            each["driver"]: needs(*symbols[each["driver"]], module=each["modules"][0]) for each in drivers
        },
        facts={
            each["driver"]: {
                one: facts(one, **{symbol: crcs[one][symbol] for symbol in symbols[each["driver"]]})
                for one in has
            }
            for each in drivers
        },
    )


HOSTILE = (
    "<script>window.hurt=1</script>",
    "</script><img src=x onerror=window.hurt=1>",
    "\"onclick='window.hurt=1' x=\"",
    "--><svg/onload=window.hurt=1>",
    "{{ 7 * 7 }}{% raw %}",
    "ünïcode \U0001f600 \u202eevil",
    "two\nlines\r\n\x00\x1b[31m",
    "\udcff lone",
    "&lt;b&gt;",
    "n" * 10000,
)


def hostile() -> Iterator[dict[str, Any]]:
    """Every text of a record is one that would do harm where it is not taken for text."""
    old = release(47)
    for number, text in enumerate(HOSTILE):
        verdicts = [
            dict(refused(text, text, [text], [text, "put_page"]), why=text, errno=text, build=text),
            dict(fits(text, old + text, text), why=text),
        ]
        yield record(
            "%d%s" % (number, text),
            at="2026-11-27T06:00:00Z" if number else text,
            distribution=text,
            machine=text,
            running=old + text,
            default=text,
            error=text if number % 3 == 2 else None,
            lists={"manager": text, "age": None, "error": text},
            drivers=[driver(text, [text], text)],
            kernels=[kernel(old + text, "running"), kernel(text, "offered", True)],
            verdicts=verdicts,
            today=[today(text, text, text, text), today("stale_image", text, text, text)],
            held=[{"what": text, "kernel": text, "driver": [text], "reason": text}],
            needs={},
            facts={},
        )
