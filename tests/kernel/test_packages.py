# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is said of real kernels by their packages alone is what is said of them when they are installed.

The kernels' own loaders are asked, too: for in-tree modules of a neighbour, which they take or refuse for all
kinds of reasons.
"""

import contextlib
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.exactness import exact
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.verdict import INCOMPATIBLE, REFUSE
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_package, kernels, ko
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import from_symvers
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_package import KernelSource
from tests.kernel import kernel_rpms, machine, mutants, verdicts
from tests.kernel.test_extraction import EVERY, fetched, offered
from tests.kernel.test_verdicts import LINES, neighbours, of_a_neighbour
from tests.lab import debian, drivers

pytestmark = pytest.mark.skipif(debian.available() is not None, reason=str(debian.available()))
FEW = [pytest.param(line, marks=[] if line == "6.1" else [pytest.mark.full]) for line in LINES]
# Codes that only what headers do not have can give: names and parameters of built-in modules, the kernel's
# keys, and, where the
# headers are older than 6.12, the layout of struct module.
NOT_IN_HEADERS = {
    "NAME_BUILTIN",
    "SIG_BAD",
    "SIG_HASH_REJECTED",
    "STRUCT_MODULE_SIZE",
    "STRUCT_MODULE_LAYOUT",
}


def image_packages(kernel):
    """All packages of a kernel without its headers."""
    accept = lambda name: kernel.release in name and "headers" not in name  # noqa: E731
    return tuple(str(path) for path in debian._with_dependencies(kernel, kernel.package, accept))


def headers_package(kernel):
    name = "linux-headers-" + kernel.release
    return (str(debian.package(name, kernel.suite, kernel.arch, kernel.version)),)


def opened(packages):
    return kernel_package.opened(Host("/"), [KernelSource(packages=tuple(map(str, packages)))])


def in_tree(kernel, target, every):
    """In-tree modules as if they were somebody's drivers: as they are, unsigned, and as if built with the
    target's module_layout.
    """
    # without module_layout where no versions are kept
    exports = from_symvers(debian.symvers(target).read_bytes())
    layout = exports["module_layout"].crc if "module_layout" in exports else None
    for name, path in list(machine.modules(kernel).items())[::every]:
        data = machine.read(path)
        yield "%s of %s" % (name, kernel.release), [data]
        plain = machine.unsigned(data)
        if "module_layout" in machine.versions(plain) and layout is not None:
            yield (
                "%s of %s, with module_layout" % (name, kernel.release),
                [machine.with_crc(plain, "module_layout", layout)],
            )


def groups(kernel, others, every):
    """(label, modules that are loaded together): in-tree ones, compiled drivers, and cases of all kinds."""
    for each in [kernel, *others]:
        yield from in_tree(each, kernel, every)
        yield "edu for " + each.release, [path.read_bytes() for path in drivers.edu(each)]
    cases = verdicts.cases(kernel)
    for mutant in mutants.made(cases):
        yield mutant.name, [*(cases[name] for name in mutant.providers), mutant.data]


def told(kernel, modules):
    """One line of each: verdict, errno, and the symbols that are refused with their codes; then whether it is
    exact.
    """
    parsed = [ko.parse(data, "module-%d.ko" % number) for number, data in enumerate(modules)]
    for module, found in zip(parsed, loader.judge(kernel, parsed)):
        refused = [(each.code, each.symbol) for each in found.findings if each.effect == REFUSE]
        beyond = [
            (each.code, each.symbol)
            for each in found.findings
            if each.symbol and "(not reached)" in each.message
        ]
        certain = (
            exact(kernel, module, found) if isinstance(kernel, kernel_package.UninstalledKernel) else True
        )
        yield (found.verdict, found.errno, refused, beyond), certain, {each.code for each in found.findings}


def compare(installed, other, offered_groups):
    """(how many were judged, how many were certain, the codes behind those that differ without being certain,
    lines that are wrong)
    """
    judged, certain, behind, wrong = 0, 0, set(), []
    for label, modules in offered_groups:
        for (one, _always, codes), (two, exact_, there) in zip(
            told(installed, modules), told(other, modules)
        ):
            judged += 1
            certain += exact_
            if exact_ and one != two:
                same = (
                    one[0] == two[0] == INCOMPATIBLE
                )  # refused by an earlier rule, which only the installed kernel shows
                if not same or not (codes - there) & NOT_IN_HEADERS:
                    wrong.append("%s: installed %s, here %s" % (label, one, two))
            elif one != two:
                behind |= (codes ^ there) & NOT_IN_HEADERS
                if not (codes ^ there) & NOT_IN_HEADERS:
                    wrong.append("%s: installed %s, here %s, and nothing says why" % (label, one, two))
    return judged, certain, behind, wrong


@pytest.mark.parametrize("line", FEW)
def test_the_image_alone_and_the_headers_alone_say_what_the_installed_kernel_says(line, capsys):
    newest, before = neighbours(line, 2)
    for kernel, others in [(newest, before)] + ([(before[-1], [newest])] if line != "6.1" else []):
        offered_groups = list(groups(kernel, others, every=18))
        installed = verdicts.core(kernel)
        rows = []
        for what, packages in (("image", image_packages(kernel)), ("headers", headers_package(kernel))):
            with opened(packages) as found:
                assert [each.release for each in found] == [kernel.release]
                judged, certain, behind, wrong = compare(installed, found[0], offered_groups)
            rows.append(
                "%s %d, %d exact%s"
                % (what, judged, certain, " (%s)" % ", ".join(sorted(behind)) if behind else "")
            )
            assert not wrong, "\n".join(wrong[:20])
            assert judged > 100
            assert certain == judged if what == "image" else 0 < certain < judged
        with capsys.disabled():
            print("\n%s: %s" % (kernel.release, "; ".join(rows)))


@pytest.mark.full
@pytest.mark.usefixtures("machines")
@pytest.mark.parametrize(
    "line,back", [("6.1", 0), ("6.12", 0), ("6.1", 1), ("6.12", 1), ("5.10", 0), ("7", 0), ("6.1", 2)]
)
def test_the_booted_kernel_says_what_its_packages_said(line, back, capsys):
    newest, before = neighbours(line, 3)
    every = [*before, newest]
    kernel, other = every[-1 - back], every[-2 - back] if len(every) > back + 1 else every[-1]
    attempts = of_a_neighbour(kernel, other, with_layout=line != "7", every=25)
    answers = [each for each in machine.judge(kernel, attempts) if not each.label.startswith("in-tree ")]
    offered_ = {each.label: each.data for each in attempts if not each.keep}
    answers = [each for each in answers if each.label in offered_]
    rows = []
    for what, packages in (
        ("installed", ()),
        ("image", image_packages(kernel)),
        ("headers", headers_package(kernel)),
    ):
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(opened(packages))[0] if packages else verdicts.core(kernel)
            ours = {label: verdicts.verdict(found, data) for label, data in offered_.items()}
            certain = {
                label: verdict
                for label, verdict in ours.items()
                if what != "headers" or exact(found, ko.parse(offered_[label], "module.ko"), verdict)
            }
        compared = verdicts.compare(answers, certain)
        rows.append("%s %d" % (what, compared.judged - len(compared.open)))
        assert not compared.differ, "\n".join(compared.differ[:20])
        # of a kernel that takes all of them, headers alone leave everything open
        assert compared.judged or what == "headers"
    refused = [each for each in answers if each.errno]
    with capsys.disabled():
        print(
            "\n%s, booted: %d modules, %d refused for %d symbols; the same by %s"
            % (
                kernel.release,
                len(answers),
                len(refused),
                sum(len(each.symbols) for each in refused),
                ", ".join(rows),
            )
        )


@pytest.mark.skipif(not kernel_rpms.available(), reason="needs rpmbuild")
@pytest.mark.parametrize(
    "layout",
    ["el9", pytest.param("el10", marks=pytest.mark.full), pytest.param("el8", marks=pytest.mark.full)],
)
@pytest.mark.parametrize("line", ["6.1", pytest.param("6.12", marks=pytest.mark.full)])
def test_rpms_of_the_same_files_say_the_same(line, layout, tmp_path, capsys):
    kernel, before = neighbours(line, 1)
    rpms = kernel_rpms.build(kernel, layout, tmp_path)
    offered_groups = list(groups(kernel, before, every=30))
    installed, rows = verdicts.core(kernel), []
    for names in ("kernel-core", "kernel-modules-core"), ("kernel-devel",), ("kernel-core",):
        with opened([rpms[name] for name in names]) as found:
            assert [each.release for each in found] == [kernel.release]
            judged, certain, behind, wrong = compare(installed, found[0], offered_groups)
        rows.append("%s %d, %d exact (%s)" % (" + ".join(names), judged, certain, ", ".join(sorted(behind))))
        assert not wrong, "\n".join(wrong[:20])
        assert certain == judged if len(names) == 2 else 0 < certain < judged
    with capsys.disabled():
        print("\n%s, %s: %s" % (kernel.release, layout, "; ".join(rows)))


@pytest.mark.parametrize(
    "suite,arch,flavour,generation",
    [
        pytest.param(*each, marks=[] if number == 0 else [pytest.mark.full])
        for number, each in enumerate(
            EVERY
            + [
                ("bookworm", "amd64", "rt-amd64", "6.1."),
                ("trixie", "amd64", "rt-amd64", "6.12."),
                ("sid", "amd64", "rt-amd64", ""),
            ]
        )
    ],
)
def test_headers_tell_version_magic_machine_and_struct_module(suite, arch, flavour, generation):
    kernel, root = fetched(offered(suite, arch, flavour, generation))
    installed = kernels.kernel(Host(root), kernel.release).traits
    with opened([debian.package("linux-headers-" + kernel.release, suite, arch, kernel.version)]) as found:
        ours = found[0].traits
    assert (ours.vermagic, ours.machine) == (installed.vermagic, installed.machine)
    if ours.struct_size is not None:
        expected = (installed.struct_size, installed.init_offset, installed.exit_offset)
        assert (ours.struct_size, ours.init_offset, ours.exit_offset) == expected
    else:
        assert not Path(debian.symvers(kernel).parent / "vmlinux").exists()
