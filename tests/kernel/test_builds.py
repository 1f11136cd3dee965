# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian's dkms sources, built by kmod_build and by Debian's own dkms: the same modules, to the byte, or the
same failure; and what was built is handed to the kernel that it is for, booted.

Sources, kernels and systems are what Debian offers today: nothing is pinned.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import build
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import sandbox, unpack
from tests.forge.sources import needs_sandbox, write
from tests.kernel import machine, verdicts
from tests.kernel.machine import Attempt
from tests.kernel.test_verdicts import releases
from tests.lab import debian, dkms_itself

pytestmark = pytest.mark.skipif(debian.available() is not None, reason=str(debian.available()))
# Drivers of one module and several, with and without a Makefile, with scripts, hooks, filters and failures;
# none takes minutes.
NAMES = (
    "acpi-call",
    "bbswitch",
    "ddcci",
    "dpdk-kmods",
    "langford",
    "librem-ec-acpi",
    "lime-forensics",
    "nat-rtsp",
    "openrazer-driver",
    "rapiddisk",
    "rtpengine-kernel",
    "tp-smapi",
    "v4l2loopback",
    "vpoll",
    "xtrx",
)
EDU = Path(dkms_itself.__file__).parent / "edu"


@pytest.fixture(scope="module", autouse=True)
def sandboxed():
    needs_sandbox()


def headers(kernel):
    """The directory that a kernel's headers are unpacked in, as their packages have them."""
    packages = [str(path) for path in debian.headers_packages(kernel)]
    return Path(unpack.packages(packages, str(debian.cache() / "unpacked-headers"), kernel.release))


def ours(kernel, source, store, root="/", driver="drv", **options):
    return build.run(
        Host(str(root)),
        build.Options(
            driver, str(source), kernel.release, str(store), headers=(str(headers(kernel)),), **options
        ),
        False,
    )


def newest(line, number, flavour):
    """The newest kernel of a line whose headers can be had, or one of those before it."""
    for kernel in reversed(releases(line, flavour)):
        try:
            debian.headers_packages(kernel)
        except debian.LabError:  # an index may list what the mirror has dropped
            continue
        if not number:
            return kernel
        number -= 1
    return pytest.skip("no kernel of %s with its headers" % line)


# A source that asks the machine for its kernel and for the time, and writes down when and where it is built.
CONF = """PACKAGE_NAME=ootedu
PACKAGE_VERSION=1
BUILT_MODULE_NAME[0]=ootedu
BUILT_MODULE_NAME[1]=ootedu_user
DEST_MODULE_LOCATION[0]=/extra
DEST_MODULE_LOCATION[1]=/extra
PRE_BUILD=when
MAKE[0]="make"
"""
WHEN = """#!/bin/bash
echo "the clock says $(perl -e 'print 1900 + (gmtime)[5]')"
cp ootedu.c copied.h; touch ootedu.c  # times of files are the clock's
"""
MAKEFILE = "all:\n\t$(MAKE) -C /lib/modules/$(shell uname -r)/build M=$(CURDIR) modules\n"
STAMP = 'ccflags-y += -Wno-error=date-time -Wno-date-time -DBUILT=\\"$(shell date +%s)-$(shell uname -r)\\"\n'
SAYS = "\nstatic const char when[] __attribute__((used)) = __DATE__ __TIME__ __FILE__ BUILT;\n"


def clock(patch, offset, kernel):
    """What is built from now on sees such a clock (+1500d), and files' times by it. By Debian's libfaketime, of
    the suite that is built with.
    """
    unpacked = debian.unpack(debian.package("libfaketime", kernel.suite))
    library = next(unpacked.rglob("libfaketimeMT.so.1"))
    answers, bwrap = sandbox._answers, sandbox._bwrap
    mine = sandbox.Mount("/run/faketime.so", str(library))
    words = ["--setenv", "LD_PRELOAD", mine.place, "--setenv", "FAKETIME", offset]
    patch.setattr(sandbox, "_answers", lambda box, directory: [*answers(box, directory), mine])
    patch.setattr(sandbox, "_bwrap", lambda mounts: [*bwrap(mounts), *words])


@pytest.mark.parametrize(
    "line,flavour",
    [("6.1", "cloud-amd64"), pytest.param("6.12", "cloud-amd64", marks=pytest.mark.full)],  # this one has BTF
)
def test_the_same_input_gives_the_same_bytes_in_another_place_on_another_day(
    line, flavour, tmp_path, monkeypatch
):
    kernel = newest(line, 0, flavour)
    root = "/" if line == "6.1" else dkms_itself.system(kernel.suite)
    source = tmp_path / "one" / "source"
    shutil.copytree(str(EDU), str(source))
    files = {"dkms.conf": CONF, "Makefile": MAKEFILE, "Kbuild": STAMP + (EDU / "Kbuild").read_text()}
    write(source, dict(files, when=WHEN))
    for path in source.glob("*.c"):
        path.write_text(path.read_text() + SAYS)
    first = ours(kernel, source, tmp_path / "store", root)
    assert first.result == "built", first.msg
    assert "the clock says %d\n" % time.gmtime().tm_year in Path(first.log).read_text()
    other = tmp_path / "another" / "place" / "of-a-longer-name"
    shutil.copytree(str(source), str(other))
    for path in other.rglob("*"):
        os.utime(str(path), (1, 1))
    for number, (offset, jobs) in enumerate(
        (("+1500d", 1), ("-3000d", 3))
    ):  # before the time of all files, too
        with monkeypatch.context() as patch:
            clock(patch, offset, kernel)
            again = ours(kernel, other, tmp_path / ("store-%d" % number), root, jobs=jobs)
        assert again.result == "built", again.msg
        assert "the clock says %d\n" % time.gmtime().tm_year not in Path(again.log).read_text()
        assert (again.input, again.digests) == (first.input, first.digests) and len(first.digests) == 2
    data = Path(first.modules[0]).read_bytes()
    assert b"Jan  1 2020" in data and kernel.release.encode() in data
    assert not re.search(rb"/(tmp|root|work|home)/", data)
    assert all(each["verdict"] == "compatible" for each in first.verdicts)


def test_headers_are_fetched_by_the_systems_apt_and_unpacked_beside(tmp_path, monkeypatch):
    kernel = newest("6.1", 0, "cloud-amd64")
    configuration = debian._configuration(kernel.suite, "amd64", False)
    monkeypatch.setenv("APT_CONFIG", debian._environment(configuration)["APT_CONFIG"])
    monkeypatch.setattr(build, "_cache", lambda: str(tmp_path / "headers"))
    options = build.Options("ootedu", str(EDU), kernel.release, str(tmp_path / "store"))
    made = build.run(Host("/"), options, False)
    assert made.result == "built" and len(made.modules) == 2, made.msg
    (there,) = (tmp_path / "headers").iterdir()
    assert {path.name for path in (there / "usr/src").iterdir()} >= {"linux-headers-" + kernel.release}
    assert not Path("/lib/modules", kernel.release, "build").exists()
    monkeypatch.setenv("APT_CONFIG", "/dev/null")  # what was fetched is not fetched again
    monkeypatch.setenv("PATH", "%s:%s" % (tmp_path / "bin", os.environ["PATH"]))
    write(tmp_path / "bin", {"apt-cache": "#!/bin/sh\nexit 100\n"})
    assert build.run(Host("/"), options, False).result == "kept"


def sources(suite):
    """(name of the package, its source's directory) for the drivers that a suite has."""
    for name in NAMES:
        if debian.packages(re.escape(name) + "-dkms", suite):
            unpacked = debian.unpack(debian.package(name + "-dkms", suite))
            yield name, next(unpacked.glob("usr/src/*/dkms.conf")).parent


@pytest.mark.full
@pytest.mark.parametrize("line,number", [("6.1", 0), ("6.1", 1), ("6.12", 0), ("6.12", 1)])
def test_as_debians_own_dkms_and_taken_by_the_booted_kernel(line, number, capsys, tmp_path):
    kernel = newest(line, number, "amd64")
    root, there = dkms_itself.system(kernel.suite), headers(kernel)
    store = debian.cache() / "builds"
    differ, built, failed, equal = [], {}, [], 0
    for name, source in sources(kernel.suite):
        began = time.monotonic()
        try:
            answer = ours(kernel, source, store, root, driver=name)
        except KmodError as error:
            differ.append("%s: %s" % (name, error))
            continue
        text = (source / "dkms.conf").read_text()
        package, version = (
            re.search(r"^%s=[\"']?([^\"'\s]+)" % key, text, re.M).group(1)
            for key in ("PACKAGE_NAME", "PACKAGE_VERSION")
        )
        theirs = dkms_itself.build(kernel, there, source, package, version)
        with capsys.disabled():
            print(
                "\n%s %s: %s%s, dkms %d (%d s)"
                % (
                    name,
                    kernel.release,
                    answer.result,
                    " " + answer.code if answer.code else "",
                    theirs.status,
                    time.monotonic() - began,
                )
            )
        expected = {"excluded": (77,), "failed": (5, 6, 7, 10, 13), "built": (0,), "kept": (0,)}[
            answer.result
        ]
        mine = {Path(path).stem: Path(path) for path in answer.modules}
        if theirs.status not in expected and not (answer.result == "excluded" and theirs.status == 9):
            differ.append(
                "%s: %s, and dkms ends with %d: %s" % (name, answer.msg, theirs.status, theirs.log[-500:])
            )
        elif set(mine) != set(theirs.modules):
            differ.append("%s: %s, and dkms has %s" % (name, sorted(mine), sorted(theirs.modules)))
        elif answer.failed or answer.result == "excluded":
            failed.append(name)
            if answer.failed and answer.code == "BUILD_FAILED" and answer.errors:
                line_of = re.search(r"([\w.-]+\.[ch]:\d+)", answer.errors[0])
                if line_of and line_of.group(1) not in theirs.log:
                    differ.append("%s: dkms fails otherwise than at %s" % (name, line_of.group(1)))
        else:
            built[name] = mine
            same = [
                machine.unsigned(machine.read(theirs.modules[each])) == machine.read(path)
                for each, path in mine.items()
            ]
            equal += all(same)
    assert not differ, "\n".join(differ)
    with capsys.disabled():
        print(
            "\n%s: %d drivers as by dkms: %d built (%d of them to the byte as dkms' own), %d not for it or with the same failure"
            % (kernel.release, len(built) + len(failed), len(built), equal, len(failed))
        )
    assert len(built) + len(failed) >= 12 and len(built) >= 6 and equal == len(built)
    booted(kernel, built, capsys)


def booted(kernel, built, capsys):
    """Every module is handed to the kernel after those that it needs, and it does what was said of it."""
    core, needed = verdicts.core(kernel), machine.dependencies(kernel)
    own = machine.modules(kernel)
    attempts, said, kept = [], {}, set()
    for name, modules in built.items():
        data = {machine.name_of(path.name): path.read_bytes() for path in modules.values()}
        order = []
        while len(order) < len(data):  # those that need none of the rest first
            order.append(
                next(
                    each
                    for each in data
                    if each not in order and not (set(machine.depends(data[each])) & set(data)) - set(order)
                )
            )
        judged = dict(zip(order, verdicts.group(core, [data[each] for each in order])))
        for each in order:
            for other in machine.depends(data[each]):
                for before in [*needed.get(other, ()), other] if other in own else ():
                    if before not in kept:
                        kept.add(before)
                        attempts.append(
                            Attempt("own " + before, machine.neutral(machine.read(own[before])), True)
                        )
            label = "%s/%s" % (name, each)
            said[label] = judged[each]
            attempts.append(Attempt(label, machine.neutral(data[each]), True))
    compared = verdicts.compare(machine.judge(kernel, attempts), said)
    with capsys.disabled():
        print(
            "\n%s, booted: %d modules, %d differ from what was said, %d taken"
            % (
                kernel.release,
                compared.judged,
                len(compared.differ),
                sum(each.compatible for each in said.values()),
            )
        )
    assert not compared.differ and not compared.fell and not compared.open, compared
    assert compared.judged == len(said) and all(each.compatible for each in said.values())
