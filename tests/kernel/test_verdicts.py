# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real kernels, booted, are asked; the core has to say the same: verdict, errno, the set of refused symbols,
the line in the log.

Kernels, neighbours and drivers are what Debian offers today: nothing is pinned. What the core leaves open is
listed, each code with a limit; DISAGREEMENTS.md tells what was found on the way.
"""

import lzma  # noqa: F401 - a Python without it cannot read in-tree modules of newer kernels: say so at once

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import from_symvers
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE
from tests.kernel import machine, mutants, verdicts
from tests.kernel.machine import Attempt
from tests.lab import debian, drivers

pytestmark = pytest.mark.usefixtures("machines")

# One line of kernels each: (suite, how its releases begin). Four generations: before and after the ELF checks
# of 5.12 and 6.4, CRCs of
# another kind of memory layout, and one without modversions but with __kflagstab.
LINES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "7": "sid"}
# a kernel without the check reads what happens to lie there: it takes the module, refuses it or falls over
ANYTHING_GOES = {
    "symbol: section out of range",
    "symbol: name out of range",
    "struct module: NOBITS",
    "elf: name of a section out of range",
}


def releases(line, flavour="cloud-amd64"):
    """The kernels of one line, oldest first."""
    try:
        found = [
            kernel
            for kernel in debian.kernels(LINES[line], flavour=flavour)
            if kernel.release.startswith(line + ".")
        ]
    except debian.LabError as error:
        pytest.skip(str(error))
    if not found:
        pytest.skip("%s offers no %s kernel" % (LINES[line], line))
    return found


def neighbours(line, count, flavour="cloud-amd64"):
    """The newest kernel of a line and up to ``count`` before it, oldest first; sid has one only and borrows
    from the suite that it feeds.
    """
    found = releases(line, flavour)
    if len(found) < 2 and LINES[line] == "sid":
        found = debian.kernels("forky", flavour=flavour) + found
    before = []
    for kernel in found[-2::-1]:
        if len(before) < count:
            try:
                debian.tree(kernel)
                debian.symvers(kernel)
                before.insert(0, kernel)
            except debian.LabError as error:  # an index may list what the mirror has dropped
                debian.say("%s: left out: %s" % (kernel.release, str(error).splitlines()[-1]))
    if not before:
        pytest.skip("no second kernel of the %s line can be had" % line)
    return found[-1], before


def report(compared, capsys, what, open_codes=()):
    """Prints the figures and fails on every difference."""
    with capsys.disabled():
        print(
            "\n%s: %d modules judged by both, %d differ%s%s"
            % (
                what,
                compared.judged,
                len(compared.differ),
                ", %d left open by the core" % len(compared.open) if compared.open else "",
                ", the kernel fell over %d" % len(compared.fell) if compared.fell else "",
            )
        )
    assert not compared.differ, "\n".join(compared.differ[:40])
    assert not [
        line for line in compared.open if not set(line.rsplit(": ", 1)[1].split(",")) <= set(open_codes)
    ], compared.open
    assert compared.judged


@pytest.mark.parametrize("line", LINES)
def test_every_case_that_a_file_can_show(line, capsys):
    """loader-level cases, each made from a small module by one change."""
    kernel = releases(line)[-1]
    modules = verdicts.cases(kernel)
    made = mutants.made(modules)
    attempts = []
    for needed in sorted({mutant.providers for mutant in made}):
        attempts += [Attempt(name, modules[name], keep=True) for name in needed]
        attempts += [Attempt(mutant.name, mutant.data) for mutant in made if mutant.providers == needed]
    answers = [
        answer
        for answer in machine.judge(kernel, attempts)
        if not (answer.label in ANYTHING_GOES and answer.errno in (None, "CRASH"))
    ]
    core = verdicts.core(kernel)
    ours = {
        mutant.name: verdicts.verdict(core, mutant.data, [modules[name] for name in mutant.providers])
        for mutant in made
    }
    report(
        verdicts.compare(answers, ours),
        capsys,
        "%s, cases" % kernel.release,
        ("STRUCT_MODULE_LAYOUT", "BTF_MISMATCH"),
    )


@pytest.mark.parametrize("line", LINES)
def test_signatures_of_the_distribution(line, capsys):
    """A signed in-tree module that has no init, as it is, with a byte changed, and the same of a neighbour,
    whose key is another.
    """
    kernel, before = neighbours(line, 1)
    found = {}
    for each, what in [(kernel, "own")] + [(each, "neighbour's") for each in before]:
        name, data = next(
            (name, data)
            for name, data in ((name, machine.read(path)) for name, path in machine.modules(each).items())
            if data.endswith(machine.MARKER)
            and not machine.section(data, ".rela.gnu.linkonce.this_module")
            and b"description=" in data
            and not machine.depends(data)
        )
        found.update(
            {
                what: data,
                what + ", a byte changed": mutants.changed_byte(data),
                what + ", signed by nobody": mutants.resigned(data),
            }
        )
    answers = machine.judge(kernel, [Attempt(name, data) for name, data in found.items()])
    core = verdicts.core(kernel)
    report(
        verdicts.compare(answers, {name: verdicts.verdict(core, data) for name, data in found.items()}),
        capsys,
        "%s, signatures" % kernel.release,
        ("SIG_BAD", "SIG_UNVERIFIED"),
    )


@pytest.mark.parametrize(
    "append, facts",
    [
        ("module.sig_enforce=1", {"sig_enforce": True}),
        ("lockdown=integrity", {"lockdown": True}),
        ("module_blacklist=labprop,labalone", {"blacklist": frozenset(["labprop", "labalone"])}),
    ],
)
@pytest.mark.parametrize(
    "line",
    [pytest.param("5.10", marks=pytest.mark.full), "6.1", pytest.param("6.12", marks=pytest.mark.full), "7"],
)
def test_facts_of_the_running_machine(line, append, facts, capsys):
    kernel = releases(line)[-1]
    modules = {name: machine.neutral(data) for name, data in verdicts.cases(kernel).items()}
    modules["signed by nobody"] = mutants.resigned(modules["labalone"])
    modules["garbage as signature"] = modules["labalone"] + b"x" * 64 + machine.MARKER
    modules["no ELF"] = b"text\n" * 40
    answers = machine.judge(kernel, [Attempt(name, data) for name, data in modules.items()], append)
    core = verdicts.core(kernel)
    runtime = OFFLINE._replace(
        sig_enforce="sig_enforce" in facts,
        **{name: value for name, value in facts.items() if name != "sig_enforce"},
    )
    ours = {name: verdicts.verdict(core, data, runtime=runtime) for name, data in modules.items()}
    report(
        verdicts.compare(answers, ours),
        capsys,
        "%s, %s" % (kernel.release, append),
        ("SIG_UNKNOWN_KEY", "SIG_LOCKDOWN"),
    )


@pytest.mark.parametrize("line", LINES)
def test_a_name_that_is_taken(line, capsys):
    """By a part of the kernel that has a directory in /sys/module.

    By a loaded module too, of which the core only takes note: after the next boot the name is free again.
    """
    kernel = releases(line)[-1]
    module = machine.neutral(verdicts.cases(kernel)["labalone"])
    taken = mutants.named(module, "spurious")
    answers = machine.judge(
        kernel, [Attempt("first", module, keep=True), Attempt("second", module), Attempt("builtin", taken)]
    )
    core = verdicts.core(kernel)
    report(
        verdicts.compare(
            answers,
            {
                "builtin": verdicts.verdict(
                    core, taken, runtime=OFFLINE._replace(builtin=frozenset(["spurious"]))
                )
            },
        ),
        capsys,
        "%s, names" % kernel.release,
    )
    second = verdicts.verdict(core, module, runtime=OFFLINE._replace(loaded=frozenset(["labalone"])))
    assert answers[1].errno == "EEXIST"
    assert "NAME_IN_USE" in {finding.code for finding in second.findings}


def test_symbols_for_some_modules_only(capsys):
    """Namespaces that name modules: those that use such a symbol, as they are and under another name."""
    kernel = releases("7")[-1]
    core = verdicts.core(kernel)
    own = {name: machine.neutral(machine.read(path)) for name, path in machine.modules(kernel).items()}
    for_some = {symbol for symbol, export in core.exports.items() if export.namespace.startswith("module:")}
    users = [name for name, data in own.items() if for_some & set(machine.undefined(data))]
    assert for_some and users
    needs = machine.dependencies(kernel)
    needed = {each for name in users for each in needs[name]}
    attempts = []
    for name, data in own.items():
        if name in users:
            attempts += [
                Attempt(name, data),
                Attempt(name + ", renamed", mutants.named(data, "X" + name[1:])),
            ]
        if name in needed:
            attempts.append(Attempt("in-tree " + name, data, keep=True))
    ours = {attempt.label: verdicts.verdict(core, attempt.data) for attempt in attempts if not attempt.keep}
    report(
        verdicts.compare(machine.judge(kernel, attempts), ours),
        capsys,
        "%s, %d symbols for some modules only" % (kernel.release, len(for_some)),
    )


def of_a_neighbour(kernel, other, with_layout=False, every=1):
    """Attempts that offer each in-tree module of another release to a kernel: before its own one of that name
    is loaded as a provider of those behind it, so that every module finds what it needs. ``with_layout``:
    with the right version of module_layout, so that the rules behind that one are asked too. ``every``: of so
    many, one.
    """
    theirs, needs = machine.modules(other), [machine.dependencies(kernel), machine.dependencies(other)]
    layout = from_symvers(debian.symvers(kernel).read_bytes())["module_layout"].crc if with_layout else None
    own = machine.modules(kernel)
    offered = [name for name in own if name in theirs][::every]
    needed = {each for name in offered for table in needs for each in table[name]}
    attempts = []
    for name, path in own.items():
        if name in offered:
            data = machine.neutral(machine.read(theirs[name]))
            if layout is not None and "module_layout" in machine.versions(data):
                data = machine.with_crc(data, "module_layout", layout)
            attempts.append(Attempt(name, data))
        if name in needed:
            attempts.append(Attempt("in-tree " + name, machine.neutral(machine.read(path)), keep=True))
    return attempts


def judge_neighbour(kernel, other, capsys, **how):
    attempts = of_a_neighbour(kernel, other, **how)
    answers = machine.judge(kernel, attempts)
    assert not [answer for answer in answers if answer.label.startswith("in-tree ") and answer.errno]
    core = verdicts.core(kernel)
    ours = {attempt.label: verdicts.verdict(core, attempt.data) for attempt in attempts if not attempt.keep}
    compared = verdicts.compare(answers, ours)
    refused = [answer for answer in answers if answer.errno]
    report(
        compared,
        capsys,
        "%s, in-tree modules of %s%s (%d refused, for %d symbols)"
        % (
            kernel.release,
            other.release,
            " as if of the same module_layout" if how.get("with_layout") else "",
            len(refused),
            sum(len(answer.symbols) for answer in refused),
        ),
        ("BTF_MISMATCH",),
    )
    return compared


@pytest.mark.parametrize("line, back", [("5.10", 1), ("6.1", 2), ("6.12", 1)])
def test_some_modules_of_a_neighbour(line, back, capsys):
    """One in ten of the neighbour's in-tree modules, with module_layout made to fit."""
    kernel, before = neighbours(line, back)
    judge_neighbour(kernel, before[0], capsys, with_layout=True, every=10)


@pytest.mark.full
@pytest.mark.parametrize("with_layout", [False, True])
@pytest.mark.parametrize(
    "line, flavour, back",
    [
        ("6.1", "amd64", 3),
        ("6.12", "cloud-amd64", 1),
        ("6.12", "cloud-amd64", 3),
        ("5.10", "cloud-amd64", 2),
        ("7", "cloud-amd64", 1),
    ],
)
def test_every_module_of_a_neighbour(line, flavour, back, with_layout, capsys):
    """All in-tree modules of another release: for the 6.1 of the large flavour some 4000."""
    kernel, before = neighbours(line, back, flavour)
    if line == "7" and with_layout:
        pytest.skip("no modversions")
    compared = judge_neighbour(kernel, before[0], capsys, with_layout=with_layout)
    assert flavour != "amd64" or compared.judged >= 3000


@pytest.mark.full
@pytest.mark.parametrize("line", LINES)
def test_every_module_of_its_own(line, capsys):
    """No kernel refuses its own modules; nor may the core."""
    kernel = releases(line)[-1]
    judge_neighbour(kernel, kernel, capsys)


def of_drivers(kernel, built):
    """Attempts that load each driver's modules, dependencies first, behind the in-tree modules that any of
    them needs.
    """
    exports = from_symvers(debian.symvers(kernel).read_bytes())
    needs = machine.dependencies(kernel)
    own = machine.modules(kernel)
    data = {
        name: [machine.neutral(path.read_bytes()) for path in in_order(paths)]
        for name, paths in built.items()
    }
    owners = {
        machine.name_of(exports[symbol].owner)
        for modules in data.values()
        for module in modules
        for symbol in machine.undefined(module)
        if symbol in exports
    }
    wanted = {each for owner in owners if owner in own for each in needs[owner] + [owner]}
    attempts = [
        Attempt("in-tree " + name, machine.neutral(machine.read(own[name])), keep=True)
        for name in own
        if name in wanted
    ]
    return data, attempts + [
        Attempt("%s %d" % (name, number), module, keep=True)
        for name, modules in data.items()
        for number, module in enumerate(modules)
    ]


def in_order(paths):
    """A driver's modules, those first that others need."""
    depends = {machine.name_of(str(path)): machine.depends(path.read_bytes()) for path in paths}
    done = []

    def visit(name):
        for each in depends.get(name, []):
            visit(each)
        if name in depends and name not in done:
            done.append(name)

    for name in sorted(depends):
        visit(name)
    by_name = {machine.name_of(str(path)): path for path in paths}
    return [by_name[name] for name in done]


def judge_drivers(kernel, built, capsys, what):
    data, attempts = of_drivers(kernel, built)
    answers = machine.judge(kernel, attempts)
    core = verdicts.core(kernel)
    ours = {
        "%s %d" % (name, number): verdict
        for name, modules in data.items()
        for number, verdict in enumerate(verdicts.group(core, modules))
    }
    compared = verdicts.compare(answers, ours)
    taken = [
        name
        for name in data
        if not any(answer.errno for answer in answers if answer.label.rpartition(" ")[0] == name)
    ]
    report(
        compared,
        capsys,
        "%s, %s: %d drivers, %d of them taken" % (kernel.release, what, len(data), len(taken)),
        ("BTF_MISMATCH", "DEP_UNKNOWN"),
    )


@pytest.mark.parametrize("line", LINES)
def test_a_driver_built_for_a_neighbour(line, capsys):
    kernel, before = neighbours(line, 1)
    for each in before + [kernel]:
        judge_drivers(kernel, {"edu": drivers.edu(each)}, capsys, "edu built for %s" % each.release)


@pytest.mark.full
@pytest.mark.parametrize("line, back", [("6.1", 4), ("6.12", 3), ("7", 1)])
def test_real_drivers_on_the_neighbours(line, back, capsys):
    """Debian's dkms drivers, built for the newest kernel of a line, on that one and those before it."""
    newest, before = neighbours(line, back, "amd64")
    built = drivers.all_dkms(newest)
    assert len(built) >= 8
    for kernel in before + [newest]:
        judge_drivers(kernel, built, capsys, "real drivers built for %s" % newest.release)


@pytest.mark.full
def test_real_drivers_of_an_older_kernel(capsys):
    """The other way round: a vendor builds for the oldest."""
    newest, before = neighbours("6.1", 3, "amd64")
    built = drivers.all_dkms(before[0])
    for kernel in before[1:] + [newest]:
        judge_drivers(kernel, built, capsys, "real drivers built for %s" % before[0].release)
