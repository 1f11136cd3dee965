# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A build from source to store in a real sandbox, of sources that need no compiling. Real ones are in
tests/kernel/test_builds.py.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import build
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import selection
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, sandbox, toolchain
from ansible_collections.outoftree.kmod.plugins.module_utils.make.headers import given
from ansible_collections.outoftree.kmod.plugins.module_utils.read import inputs
from ansible_collections.outoftree.kmod.plugins.modules import kmod_build
from tests.forge.ko import LAYOUT, RELEASE, Export, ko
from tests.forge.sources import CONF, CONFIG, headers, needs_sandbox, source, write
from tests.forge.symvers import EXPORTS

OTHER = "6.1.0-10-amd64"


@pytest.fixture(scope="module", autouse=True)
def sandboxed():
    needs_sandbox()


@pytest.fixture(autouse=True)
def tree(tmp_path):
    headers(tmp_path / "headers")
    source(tmp_path / "source")


@pytest.fixture
def run(tmp_path):
    """Build, with what is given instead of the usual."""

    def go(check=False, **options):
        given = {
            "driver": "drv",
            "source": str(tmp_path / "source"),
            "release": RELEASE,
            "store": str(tmp_path / "store"),
            "headers": (str(tmp_path / "headers"),),
            "jobs": 1,
        }
        return build.run(Host("/"), build.Options(**dict(given, **options)), check)

    return go


def conf(tmp_path, text, **files):
    shutil.rmtree(str(tmp_path / "source"))
    source(tmp_path / "source", text, **files)


def make(tmp_path, command):
    conf(tmp_path, CONF.replace('"cp drv.bin drv.ko"', "'%s'" % command))


def code_of(run, **options):
    with pytest.raises(KmodError) as caught:
        run(**options)
    assert caught.value.then
    return caught.value.code


def test_a_build_is_stored_and_kept_and_made_again_when_its_input_changes(run, tmp_path):
    first = run()
    assert (first.result, first.changed, first.failed, first.version) == ("built", True, False, "1.0")
    assert first.modules == (str(tmp_path / "store/drv/1.0" / RELEASE / "drv.ko"),)
    assert Path(first.modules[0]).read_bytes() == ko("drv")
    assert list(first.digests) == ["drv.ko"] and first.needs["modules"][0]["strong"] == ["printk"]
    assert first.verdicts[0]["verdict"] == "compatible"
    assert first.code is None and "code" not in first.as_dict()
    assert "cp drv.bin drv.ko" in Path(first.log).read_text()
    again = run()
    assert (again.result, again.changed) == ("kept", False)
    assert again._replace(result="", msg="", changed=True) == first._replace(result="", msg="")
    json.dumps(again.as_dict())
    assert run(force=True).result == "built"
    os.utime(str(tmp_path / "source/drv.bin"), (1, 1))  # times are no part of it
    assert run().result == "kept"
    write(tmp_path / "source", {"README": "more"})
    changed = run()
    assert changed.result == "built" and changed.input != first.input
    about = json.loads(Path(changed.directory, "build.json").read_text())
    assert about["module_sig_hash"] == "sha256" and about["symbols"]["printk"] == "0x00000022"
    assert about["vermagic"].startswith(RELEASE) and about["signer"] is None


def test_check_mode_writes_nothing_and_says_what_would_be_built(run, tmp_path):
    answer = run(check=True)
    assert (answer.result, answer.changed, answer.failed) == ("pending", True, False)
    assert not (tmp_path / "store").exists()
    first = run()
    assert answer.input == first.input and answer.diff and not run(check=True).diff
    assert run(check=True).result == "kept"


def test_a_failure_is_kept_with_its_first_errors_and_not_repeated_until_its_input_changes(run, tmp_path):
    before = run()
    make(tmp_path, "echo drv.c:7:3: error: too few arguments; echo more >&2; exit 2")
    failed = run()
    assert (failed.result, failed.failed, failed.code, failed.changed) == (
        "failed",
        True,
        "BUILD_FAILED",
        False,
    )
    assert failed.errors == ("drv.c:7:3: error: too few arguments",)
    assert failed.log in failed.msg and "more\n" in Path(failed.log).read_text()
    stamp = os.stat(failed.log).st_mtime_ns
    again = run()
    assert (
        again.repeated
        and again.failed
        and "tried before" in again.msg
        and os.stat(again.log).st_mtime_ns == stamp
    )
    assert run(check=True).failed
    assert run(force=True).failed and os.stat(again.log).st_mtime_ns != stamp
    assert build_store.entry(str(tmp_path / "store"), "drv", "1.0", RELEASE).input == before.input
    make(tmp_path, "cp drv.bin drv.ko #")
    assert run().result == "built"


@pytest.mark.parametrize(
    "text,code",
    [
        ('MAKE[0]="true"', "BUILD_MODULE_MISSING"),
        ('PATCH[0]="none.patch"', "BUILD_PATCH"),
        ('PATCH[0]="../dkms.conf"', "BUILD_PATCH"),
        ('PRE_BUILD="fails.sh"', "BUILD_FAILED"),
        ('POST_BUILD="fails.sh"', "BUILD_FAILED"),
        ('MAKE[0]="cp other.bin drv.ko"', "BUILD_REFUSED"),  # a module for another release
        ('MAKE[0]="cp wrong.bin drv.ko"', "BUILD_REFUSED"),  # with the CRC of another symvers
        ('MAKE[0]="cp dkms.conf drv.ko"', "BUILD_REFUSED"),  # no module at all
    ],
)
def test_each_way_to_fail_has_its_code_and_stores_no_module(run, tmp_path, text, code):
    files = {
        "fails.sh": "#!/bin/sh\nexit 3\n",
        "other.bin": ko("drv", release=OTHER),
        "wrong.bin": ko("drv", (LAYOUT, ("printk", 0x23))),
    }
    conf(tmp_path, CONF + text + "\n", **files)
    failed = run()
    assert (failed.result, failed.code) == ("failed", code), failed.msg
    assert [path.name for path in (tmp_path / "store").iterdir() if path.name != ".locks"] == ["failed"]
    assert not list((tmp_path / "store").rglob("*.ko"))


def test_patches_hooks_and_names_are_as_dkms_has_them(run, tmp_path):
    text = """PACKAGE_NAME=drv
PACKAGE_VERSION=1.0
BUILT_MODULE_NAME[0]=inner
BUILT_MODULE_LOCATION[0]=sub
DEST_MODULE_NAME[0]=drv
DEST_MODULE_LOCATION[0]=/extra
STRIP=no
PATCH[0]=one.patch
PATCH_MATCH[0]="^6\\.1\\."
PATCH[1]=two.patch
PATCH_MATCH[1]="^7"
PRE_BUILD="pre.sh $kernelver"
POST_BUILD=post.sh
MAKE[0]="make named KREL=$(uname -r)"
MAKE[1]="exit 9"
MAKE_MATCH[1]="^5"
"""
    patch = "--- a/recipe\n+++ b/recipe\n@@ -1 +1 @@\n-false\n+cp drv.bin sub/inner.ko\n"
    conf(
        tmp_path,
        text,
        **{
            "recipe": "false\n",
            "sub/inner.c": "",
            "patches/one.patch": patch,
            "pre.sh": '#!/bin/sh\nnew=$1\ntest "$1" = "%s" && touch prepared\n' % RELEASE,
            "post.sh": "#!/bin/sh\ntest -f ../%s/x86_64/module/drv.ko && echo post was here\n" % RELEASE,
            "Makefile": 'named:\n\ttest -f prepared && test "$(KERNELRELEASE)" = "$(KREL)" && sh ./recipe\n',
        },
    )
    answer = run()
    assert answer.result == "built", answer.msg
    assert [Path(name).name for name in answer.modules] == ["drv.ko"]
    log = Path(answer.log).read_text()
    assert "post was here" in log and "make -j1 KERNELRELEASE=%s named" % RELEASE in log


def test_commands_are_evaluated_where_the_keys_are_set(run, tmp_path):
    text = CONF + "MAKE='sh ./recipe \\$PACKAGE_NAME \\${BUILT_MODULE_NAME[0]} \\$kernelver'\n"
    conf(tmp_path, text, recipe='echo "told $*"; test "$PATH" && ! env | grep PACKAGE && cp $1.bin $2.ko\n')
    answer = run()
    assert answer.result == "built", answer.msg
    assert "told drv drv %s\n" % RELEASE in Path(answer.log).read_text()


def test_a_directory_of_overrides_has_patches_and_scripts_of_its_own(run, tmp_path):
    patch = "--- a/recipe\n+++ b/recipe\n@@ -1 +1 @@\n-%s\n+%s\n"
    text = CONF + 'MAKE[0]="sh ./recipe"\nPATCH[0]=one.patch\nPATCH[1]=two.patch\nPRE_BUILD="pre.sh x"\n'
    files = {"recipe": "false\n", "pre.sh": "#!/bin/sh\nexit 1\n", "patches/one.patch": "none"}
    conf(tmp_path, text, **files)
    overlay = write(
        tmp_path / "overlay",
        {
            "patches/one.patch": patch % ("false", "true"),
            "patches/two.patch": patch % ("true", "cp drv.bin drv.ko"),
            "pre.sh": '#!/bin/sh\npwd\ntest "$1" = x && echo mine\n',
        },
    )
    more = write(tmp_path, {"more.conf": "BUILT_MODULE_NAME[0]=drv\n"}) / "more.conf"
    assert run().code == "BUILD_PATCH"
    answer = run(overrides=(str(overlay), str(more)))
    assert answer.result == "built", answer.msg
    assert "/etc/dkms/drv\nmine\n" in Path(answer.log).read_text()
    assert run(overrides=(str(overlay), str(more))).result == "kept"
    write(overlay, {"pre.sh": "#!/bin/sh\necho other\n"})
    assert run(overrides=(str(overlay), str(more))).result == "built"
    assert code_of(run, overrides=(str(overlay), str(tmp_path))) == "BAD_OPTION"


def test_what_kernels_are_built_with_has_to_be_in_their_headers(run, tmp_path):
    (tmp_path / "headers/usr/lib/linux-kbuild-6.1/scripts/mod/modpost").unlink()
    assert code_of(run) == "HEADERS_INCOMPLETE"


def test_a_kernel_that_the_source_is_not_for_is_no_failure(run, tmp_path):
    conf(tmp_path, CONF + "BUILD_EXCLUSIVE_KERNEL_MIN=6.2\n")
    answer = run()
    assert (answer.result, answer.failed, answer.changed) == ("excluded", False, False)
    assert "BUILD_EXCLUSIVE_KERNEL_MIN: 6.2" in answer.msg and not (tmp_path / "store").exists()


def test_a_directory_without_dkms_conf_is_built_by_the_kernels_makefile(run, tmp_path):
    conf(tmp_path, "")
    (tmp_path / "source/drv.bin").write_bytes(ko("drv"))
    # strip reads what is made here otherwise than the kernel does, so it is left out
    write(tmp_path / "source", {"left.ko": b"old", "modules.order": b"left.o"})
    answer = run(version="3")
    assert answer.version == "3"
    assert answer.code in (None, "BUILD_FAILED", "BUILD_REFUSED")
    assert "built for /var/lib/dkms/kbuild/0/build" in Path(answer.log).read_text()
    assert "left" not in str(answer.modules)


def test_an_archive_gives_the_same_input_and_bytes_as_its_directory(run, tmp_path):
    first = run()
    packed = shutil.make_archive(str(tmp_path / "drv-1.0"), "xztar", str(tmp_path), "source")
    again = run(source=packed, store=str(tmp_path / "elsewhere"))
    assert (again.input, again.digests) == (first.input, first.digests)


# where sources look that know dkms alone
RECIPE = """cat $KBUILD_EXTRA_SYMBOLS
cmp $KBUILD_EXTRA_SYMBOLS /var/lib/dkms/base/1.0/$(uname -r)/$(uname -m)/module/Module.symvers || exit 1
cp drv.bin drv.ko
"""


def test_drivers_that_are_needed_give_their_symbols_and_have_to_be_there(run, tmp_path):
    source(
        tmp_path / "base",
        CONF.replace("drv", "base"),
        **{"base.bin": ko("base", exports=[Export("base_open", 0x77)])},
    )
    write(tmp_path / "base", {"Module.symvers.in": "0x00000077\tbase_open\tbase\tEXPORT_SYMBOL\t\n"})
    write(
        tmp_path / "base",
        {"dkms.conf": CONF.replace("drv", "base").replace('ko"', 'ko; cp Module.symvers.in Module.symvers"')},
    )
    user = {"drv.bin": ko("drv", (LAYOUT, ("printk", 0x22), ("base_open", 0x77)), depends="base")}
    text = CONF.replace('"cp drv.bin drv.ko"', '"sh ./recipe"') + "BUILD_DEPENDS[0]=base\n"
    conf(tmp_path, text, recipe=RECIPE, **user)
    assert code_of(run) == "DEPENDS_MISSING"
    base = run(driver="base", source=str(tmp_path / "base"))
    assert base.result == "built", base.msg
    answer = run()
    assert answer.result == "built", answer.msg
    assert "base_open" in Path(answer.log).read_text()
    assert json.loads(Path(answer.directory, "build.json").read_text())["needed"] == {"base": base.input}
    write(tmp_path / "base", {"README": "new"})
    run(driver="base", source=str(tmp_path / "base"))
    assert run().result == "built"  # what it was built against has changed
    # another driver's entry is no matter of this one's
    write(tmp_path / "store/other/1" / RELEASE, {"build.json": "{}"})
    assert run(force=True).result == "built"


def test_what_a_needed_driver_needs_is_there_as_well(run, tmp_path):
    """drv uses mid, which uses low, each by a dkms package of another name."""

    def layer(name, needs, gives, **options):
        crcs = [LAYOUT, ("printk", 0x22), *((need, 0x70 + ord(need[0])) for need in needs)]
        module = ko(
            name, tuple(crcs), depends=",".join(needs), exports=[Export(n, 0x70 + ord(n[0])) for n in gives]
        )
        text = CONF.replace("drv", name).replace("PACKAGE_NAME=", "PACKAGE_NAME=pkg-")
        lines = "".join("0x%08x\t%s\t%s\tEXPORT_SYMBOL\t\n" % (0x70 + ord(n[0]), n, name) for n in gives)
        text = text.replace(
            '.ko"',
            '.ko; printf %s > Module.symvers; cat $KBUILD_EXTRA_SYMBOLS"' % repr(lines)[1:-1].join("''"),
        )
        shutil.rmtree(str(tmp_path / name), ignore_errors=True)
        source(tmp_path / name, text, **{name + ".bin": module})
        return run(driver=name, source=str(tmp_path / name), **options)

    assert layer("low", (), ("low_open",)).result == "built"
    middle = layer("mid", ("low_open",), ("mid_open",), depends=("pkg-low",))
    assert middle.result == "built", middle.msg
    answer = layer("drv", ("mid_open",), (), depends=("pkg-mid",))
    assert answer.result == "built", answer.msg
    about = json.loads(Path(answer.directory, "build.json").read_text())
    assert sorted(about["needed"]) == ["low", "mid"]
    write(tmp_path / "low", {"README": "newer"})
    assert run(driver="low", source=str(tmp_path / "low")).result == "built"
    # mid was built with what is gone
    assert code_of(run, source=str(tmp_path / "drv"), depends=("mid",)) == "DEPENDS_MISSING"
    assert code_of(run, source=str(tmp_path / "drv"), depends=("drv",)) == "DEPENDS_MISSING"


def test_of_what_is_needed_a_version_may_be_named(run, tmp_path):
    module = ko("base", exports=[Export("base_open", 0x77)])
    symbols = "; printf '0x00000077\\tbase_open\\tbase\\tEXPORT_SYMBOL\\t\\n' > Module.symvers"
    text = CONF.replace("drv", "base").replace('.ko"', '.ko%s"' % symbols)
    made = {}
    for version in ("1.0", "2.0"):
        source(tmp_path / ("base-" + version), text, **{"base.bin": module, "README": version})
        made[version] = run(driver="base", source=str(tmp_path / ("base-" + version)), version=version).input
    user = {"drv.bin": ko("drv", (LAYOUT, ("printk", 0x22), ("base_open", 0x77)), depends="base")}
    conf(tmp_path, CONF + "BUILD_DEPENDS[0]=base\n", **user)
    for depends, version in (((), "2.0"), (("base=1.0",), "1.0"), (("base=2.0",), "2.0")):
        answer = run(depends=depends)
        assert answer.result == "built" or depends == ("base=2.0",), answer.msg
        about = json.loads(Path(answer.directory, "build.json").read_text())
        assert about["needed"] == {"base": made[version]}
    assert code_of(run, depends=("base=3.0",)) == "DEPENDS_MISSING"
    assert code_of(run, depends=("base=1.0", "base=2.0")) == "DEPENDS_MISSING"


@pytest.mark.parametrize(
    "config,code,told",
    [
        (
            CONFIG.replace("10200", "990100").replace("1.2.0", "99.1.0"),
            "BUILD_COMPILER",
            "gcc-1 (Ours) 99.1.0",
        ),
        (CONFIG.replace("CONFIG_X86_64=y\n", ""), "HEADERS_INCOMPLETE", "machine"),
    ],
)
def test_what_cannot_build_is_said_before(run, tmp_path, config, code, told):
    shutil.rmtree(str(tmp_path / "headers"))
    headers(tmp_path / "headers", config=config)
    with pytest.raises(KmodError) as caught:
        run()
    assert caught.value.code == code and told in str(caught.value)
    assert not (tmp_path / "store").exists()


NO_COMPILER = toolchain.Compiler("", "", "", "", "", "")


def test_a_machine_without_a_compiler_is_told_which_one_to_install(tmp_path):
    found = given([str(tmp_path / "headers")], RELEASE, str(tmp_path))
    with pytest.raises(KmodError) as caught:
        toolchain._check_compiler(found, NO_COMPILER, (1, 2), theirs="gcc-1", machine="x86_64")
    assert caught.value.code == "BUILD_COMPILER" and caught.value.then == "Install gcc-1 on the build system"


@pytest.mark.parametrize(
    "body,told",
    [
        (
            "case $1 in -dM) echo '#define __clang__ 1' ;; -dumpmachine) echo x86_64-pc-linux-gnu ;; esac",
            "is clang",
        ),
        ("case $1 in -dM) exit ;; -dumpmachine) echo aarch64-linux-gnu ;; esac", "is for aarch64-linux-gnu"),
        (
            "case $1 in -dM) echo 'fatal error: cannot execute cc1' >&2; exit 1 ;; esac",
            "does not work: fatal error",
        ),
    ],
)
def test_a_compiler_of_another_kind_or_machine_or_one_that_does_not_work_is_said_before(
    run, tmp_path, monkeypatch, body, told
):
    shutil.rmtree(str(tmp_path / "headers"))
    headers(tmp_path / "headers", config=CONFIG.replace("gcc-1 (Ours)", "yes (Ours)"))
    write(tmp_path, {"cc": "#!/bin/sh\n%s\necho 12.2.0\n" % body})
    mine = sandbox.Mount("/usr/bin/yes", str(tmp_path / "cc"))  # stands where a mount can be made
    answers = sandbox._answers
    monkeypatch.setattr(sandbox, "_answers", lambda box, directory: [*answers(box, directory), mine])
    with pytest.raises(KmodError) as caught:
        run()
    assert caught.value.code == "BUILD_COMPILER" and told in str(caught.value)
    assert "Install yes on the build system" in str(caught.value)


def test_a_newer_compiler_is_a_finding_and_is_forced_upon_kbuild(run, tmp_path):
    conf(tmp_path, CONF + "MAKE[0]='sh ./recipe'\n", recipe="echo CC is $CC $MAKEFLAGS; cp drv.bin drv.ko\n")
    answer = run()
    assert [each["code"] for each in answer.findings] == ["COMPILER_DIFFERS"]
    assert "CC is gcc -- CC=gcc" in Path(answer.log).read_text()


def test_kbuilds_own_programs_have_to_run_here(run, tmp_path):
    write(tmp_path / "headers/usr/lib/linux-kbuild-6.1/scripts/mod", {"modpost": b"\x7fELF" + b"\xff" * 60})
    assert code_of(run) == "KBUILD_UNUSABLE"


def test_a_library_that_they_lack_is_named(tmp_path):
    found = given([str(tmp_path / "headers")], RELEASE, str(tmp_path))
    why = "objtool: error while loading shared libraries: libelf.so.1: cannot open shared object file: No such file"
    with pytest.raises(KmodError) as caught:
        toolchain._check_own(found, {"unusable": ["objtool"], "why": [why]})
    assert caught.value.then.startswith("Install the package with libelf.so.1 there")


def test_headers_of_another_release_are_refused(run):
    assert code_of(run, release=OTHER) == "HEADERS_OTHER_RELEASE"


def test_an_entry_that_was_tampered_with_is_not_kept_silently(run):
    Path(run().modules[0]).write_bytes(b"evil")
    assert code_of(run) == "BUILD_TAMPERED"
    assert run(force=True).result == "built" and run().result == "kept"


# On file systems of its own: /var/tmp, where it is built, of so much.
SMALL = """
mount -t tmpfs -o mode=1777,%s none /var/tmp
mount -t tmpfs -o size=1m none /dev/shm
exec "$@"
"""
BUILD = "import sys; from ansible_collections.outoftree.kmod.plugins.module_utils import cli; sys.exit(cli.main())"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize(
    "options,greedy",
    [
        (
            "size=30m",
            "head -c 60M /dev/zero > big; rm -f big; exit 1",
        ),  # room again, as after a compiler's end
        ("size=30m", "cat /dev/zero > big"),
        ("nr_inodes=300", "for i in $(seq 400); do echo > file$i || exit 1; done"),
    ],
)
def test_a_full_disk_is_no_failure_of_the_source(run, tmp_path, options, greedy):
    conf(tmp_path, CONF + 'MAKE[0]="sh ./greedy"\n', greedy=greedy + "\n")
    words = ["build", str(tmp_path / "source"), "--driver", "drv", "--kernel", RELEASE, "--json"]
    words += ["--store", str(tmp_path / "store"), "--headers", str(tmp_path / "headers")]
    argv = ["unshare", "--mount", "sh", "-ec", SMALL % options, "sh", sys.executable, "-c", BUILD]
    environment = dict(os.environ, PYTHONPATH=":".join(sys.path))
    done = subprocess.run(
        [*argv, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 2 and b"the disk is full" in done.stdout, done.stdout
    assert not list((tmp_path / "store").rglob("reason.json"))
    make(tmp_path, "cp drv.bin drv.ko")
    assert run().result == "built"


@pytest.mark.parametrize(
    "line,code",
    [
        ("/tmp/ccX.s: Disk quota exceeded", "ENOSPC"),
        ("cc1: fatal error: error writing to /tmp/ccX.s: No space left on device", "ENOSPC"),
        ("gcc: fatal error: Killed signal terminated program cc1", "BUILD_STARVED"),
        ("make[2]: *** [scripts/Makefile.build:250: drv.o] Killed", "BUILD_STARVED"),
        ("/bin/sh: 1: Cannot fork: Resource temporarily unavailable", "BUILD_STARVED"),
    ],
)
def test_what_the_machine_is_short_of_is_no_failure_of_the_source(run, tmp_path, line, code):
    conf(tmp_path, CONF + "MAKE[0]='cat said; exit 1'\n", said=line + "\nmore\n")
    assert code_of(run) == code
    assert not list((tmp_path / "store").rglob("reason.json"))


@pytest.mark.parametrize(
    "line,limit",
    [
        ("cc1: out of memory allocating 65536 bytes after a total of 1 bytes", "memory"),
        ("ld: Cannot allocate memory", "memory"),
        ("make: *** [all] File size limit exceeded (core dumped)", "size"),
    ],
)
def test_a_limit_that_a_tool_runs_into_is_one(run, tmp_path, line, limit):
    conf(tmp_path, CONF + "MAKE[0]='cat said; exit 1'\n", said=line + "\n")
    failed = run()
    assert failed.code == "BUILD_LIMIT" and limit in failed.msg


def test_a_source_that_speaks_of_it_is_short_of_nothing(run, tmp_path):
    said = "drv.c:7: error: no\n    7 |  printk(oom: Cannot allocate memory\n      | x: No space left on device\n"
    conf(tmp_path, CONF + "MAKE[0]='cat said; exit 1'\n", said=said)
    failed = run()
    assert (failed.code, failed.errors) == ("BUILD_FAILED", ("drv.c:7: error: no",))


def test_an_endless_build_ends_and_is_tried_again_with_more_time(run, tmp_path):
    make(tmp_path, "(sleep 1000 \\& sleep 1000)".replace("\\&", "&"))
    began = time.monotonic()
    failed = run(limits=sandbox.Limits(seconds=2))
    assert failed.code == "BUILD_TIMEOUT" and time.monotonic() - began < 30
    assert "tried before" in run(limits=sandbox.Limits(seconds=2)).msg
    again = run(limits=sandbox.Limits(seconds=3))
    assert again.code == "BUILD_TIMEOUT" and "tried before" not in again.msg


@pytest.mark.parametrize(
    "limit,command",
    [
        (
            "size",
            "head -c 100M /dev/zero > big; head -c 100M /dev/zero > more; head -c 100M /dev/zero > big3; sleep 100",
        ),
        ("processes", "for i in $(seq 200); do sleep 100 & done; wait"),
        (
            "size",
            "head -c 300M /dev/zero > big; sleep 100",  # one file: the limit is each process' own
        ),
        (
            "memory",
            'perl -e "push @a, 1 x 1000000 while 1" || sleep 100 & for i in 1 2 3; do perl -e "\\$a = 1 x 150000000; sleep 100" & done; wait',
        ),
    ],
)
def test_a_build_that_takes_too_much_ends(run, tmp_path, limit, command):
    conf(tmp_path, CONF + 'MAKE[0]="sh ./greedy"\n', greedy=command + "\n")
    small = {"size": 200 << 20, "processes": 100, "memory": 300 << 20}[limit]
    failed = run(limits=sandbox.Limits(seconds=60)._replace(**{limit: small}))
    assert failed.code == "BUILD_LIMIT" and limit in failed.msg, failed.msg


def test_a_build_that_says_too_much_ends_and_its_log_is_kept_short(run, tmp_path):
    make(tmp_path, "yes")
    failed = run(limits=sandbox.Limits(seconds=60, size=64 << 20))
    assert failed.code == "BUILD_LIMIT" and "size" in failed.msg
    assert 8 << 20 <= os.stat(failed.log).st_size < 9 << 20 and len(failed.errors) == 5


def test_a_store_is_what_a_driver_is_deployed_from(run, tmp_path):
    first = run()
    shutil.rmtree(str(tmp_path / "headers"))
    headers(tmp_path / "headers", OTHER)
    conf(tmp_path, CONF, **{"drv.bin": ko("drv", release=OTHER)})
    run(release=OTHER)
    for directory in ("store/drv", "store/drv/1.0"):
        found = [module for module, _packed in inputs.modules(Host("/"), [str(tmp_path / directory)])]
        assert [build.release for build in selection.builds(found)] == sorted([OTHER, RELEASE])
    assert first.directory == str(tmp_path / "store/drv/1.0" / RELEASE)


def test_the_network_and_what_lies_outside_are_not_there_and_nothing_is_left(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    if os.geteuid() == 0:
        outside.chmod(0o777)
    attempt = (
        "(exec 3<>/dev/tcp/127.0.0.1/%d) && touch drv.net; touch %s/evil /usr/evil /etc/evil /var/lib/dkms/evil /evil; "
        "ls %s; test -e /root/.ssh -o -e /home && touch drv.home; ls drv.* ; exit 1"
        % (_listening(), outside, outside)
    )
    conf(tmp_path, CONF + 'MAKE[0]="bash ./attempt"\n', attempt=attempt + "\n")
    failed = run()
    log = Path(failed.log).read_text()
    assert failed.code == "BUILD_FAILED" and not list(outside.iterdir())
    assert "drv.net" not in log and "drv.home" not in log and log.count("Read-only file system") >= 3


def _listening():
    import socket

    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    _kept.append(server)
    return server.getsockname()[1]


_kept: list = []


def test_the_machines_own_kernel_is_not_seen(run, tmp_path):
    asked = (
        "uname -r; cat /proc/version /proc/sys/kernel/osrelease; ls /lib/modules; uname -m; date +%Y; id -u\n"
        "cat /boot/config-$(uname -r); echo version is $(cat /proc/sys/kernel/version)\n"
        'for each in cmdline modules kallsyms config.gz; do echo "proc: $(head -c 9 /proc/$each 2> /dev/null)|"; done'
    )
    conf(tmp_path, CONF + 'MAKE[0]="sh ./ask; cp drv.bin drv.ko"\n', ask=asked + "\n")
    said = Path(run().log).read_text()
    assert os.uname().release not in said and said.count(RELEASE) >= 4
    assert "2020\n1000\n" in said and "CONFIG_MODVERSIONS=y" in said and "version is #1 SMP\n" in said
    assert not re.search("proc: [^|]", said)


def test_two_runs_at_once_build_once(run, tmp_path):
    import multiprocessing

    make(tmp_path, "sleep 2; cp drv.bin drv.ko")
    with multiprocessing.Pool(2) as pool:
        results = [pool.apply_async(_build, (str(tmp_path),)) for _unused in range(2)]
        assert sorted(each.get(120) for each in results) == ["built", "kept"]


def _build(base):
    options = build.Options(
        "drv", base + "/source", RELEASE, base + "/store", headers=(base + "/headers",), jobs=1
    )
    return build.run(Host("/"), options).result


def test_without_bubblewrap_the_error_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(sandbox.tools, "find", lambda name: None)
    assert code_of(run) == "SANDBOX_MISSING"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_killed_leaves_no_process_and_the_next_clears_what_it_left(run, tmp_path, number):
    asleep = str(10**6 + os.getpid())  # so that nobody else's sleep is meant
    make(tmp_path, "echo begun > begun; exec sleep " + asleep)
    words = ["build", str(tmp_path / "source"), "--driver", "drv", "--kernel", RELEASE]
    words += ["--store", str(tmp_path / "store"), "--headers", str(tmp_path / "headers")]
    environment = dict(os.environ, PYTHONPATH=":".join(sys.path))
    # whoever runs the tests may have these ignored (nohup), which is inherited
    heard = "import signal; signal.signal(%d, signal.SIG_DFL); " % number if number != signal.SIGKILL else ""
    with subprocess.Popen([sys.executable, "-c", heard + BUILD, *words], env=environment) as process:
        begun = "outoftree.kmod-%d-*/build/begun" % process.pid
        deadline = time.monotonic() + 60
        while not list(Path("/var/tmp").glob(begun)) and time.monotonic() < deadline:
            time.sleep(0.1)
        (left,) = Path("/var/tmp").glob(begun)
        process.send_signal(number)
    deadline = time.monotonic() + 20
    while _runs(asleep) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(asleep) and not list((tmp_path / "store").rglob("build.json"))
    make(tmp_path, "cp drv.bin drv.ko")
    assert run().result == "built" and not left.parent.parent.exists()


def _runs(word):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", word.encode()]:
                return True
    return False


def test_reading_a_dkms_conf_ends(run, tmp_path):
    conf(tmp_path, CONF + "while :; do :; done\n")
    assert code_of(run, limits=sandbox.Limits(seconds=2)) == "DKMS_CONF"


def test_scratch_is_cleared_away(run, tmp_path):
    make(tmp_path, "mkdir -p locked/in; chmod 0 locked; cp drv.bin drv.ko")
    assert run().result == "built"
    mine = "outoftree.kmod-%d-" % os.getpid()
    assert not [name for name in os.listdir("/var/tmp") if name.startswith(mine)]


def test_exports_of_the_kernel_count(run, tmp_path):
    shutil.rmtree(str(tmp_path / "headers"))
    headers(tmp_path / "headers", exports=[each for each in EXPORTS if each[0] != "printk"])
    failed = run()
    assert failed.code == "BUILD_REFUSED" and "printk" in failed.msg and "ENOENT" in failed.msg


PARAMS = {"driver": "drv", "source": "/s", "release": RELEASE, "store": "/store"}


def test_the_modules_defaults_are_the_commands(monkeypatch):
    seen = []
    monkeypatch.setattr(kmod_build, "AnsibleModule", lambda argument_spec, supports_check_mode: argument_spec)
    monkeypatch.setattr(kmod_build.task, "run", lambda spec, command: seen.append((spec, command)))
    kmod_build.main()
    ((spec, command),) = seen
    given = {name: each.get("default") for name, each in spec.items()}
    assert command is build
    assert build.Options.from_params(dict(given, **PARAMS)) == build.Options(**PARAMS)
    with pytest.raises(KmodError) as caught:
        build.Options.from_params(dict(given, memory=0, **PARAMS))
    assert caught.value.code == "BAD_OPTION"


def test_kmodctl_builds_and_tells(tmp_path, capsysbinary):
    words = ["build", str(tmp_path / "source"), "--driver", "drv", "--kernel", RELEASE]
    words += ["--store", str(tmp_path / "store"), "--headers", str(tmp_path / "headers")]
    assert cli.main([*words, "--check"]) == 0 and not (tmp_path / "store").exists()
    assert cli.main(words) == 0
    assert b"drv 1.0 was built for %s." % RELEASE.encode() in capsysbinary.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["result"] == "kept"
    make(tmp_path, "echo error: no; exit 1")
    assert cli.main(words) == 1
    assert b"\nerror: no\n" in capsysbinary.readouterr().out
