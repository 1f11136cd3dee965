# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dkms.conf means here what it means to dkms."""

import contextlib
import os
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import dkms_conf, headers, sandbox
from ansible_collections.outoftree.kmod.plugins.module_utils.make.dkms_conf import Record
from ansible_collections.outoftree.kmod.plugins.module_utils.make.source import give
from tests.forge.ko import RELEASE
from tests.forge.sources import headers as forged
from tests.forge.sources import needs_sandbox

CONFIG = {"CONFIG_PCI": "m", "CONFIG_SMP": "y"}
HEAD = "PACKAGE_NAME=drv\nPACKAGE_VERSION=1.0\n"
ONE = HEAD + "BUILT_MODULE_NAME[0]=drv\nDEST_MODULE_LOCATION[0]=/extra\n"


@pytest.fixture(scope="module", autouse=True)
def sandboxed():
    needs_sandbox()


@pytest.fixture
def stack():
    with contextlib.ExitStack() as found:
        yield found


@pytest.fixture
def read(tmp_path, stack):
    """What a dkms.conf says, of a kernel whose headers are there."""
    scratch = Path(stack.enter_context(lock.scratch(Host("/"))))
    scratch.chmod(0o711)
    found = headers.given([str(forged(tmp_path / "headers"))], RELEASE, str(tmp_path))

    def go(text, *overrides, ignore=()):
        source = scratch / "build"
        source.mkdir(exist_ok=True)
        (source / "dkms.conf").write_bytes(text.encode())
        paths = []
        for number, override in enumerate(overrides):
            paths.append(str(tmp_path / ("override-%d" % number)))
            (tmp_path / ("override-%d" % number)).write_text(override)
        user = sandbox.unprivileged()
        give(str(source), user)
        mounts = tuple(headers.mounts(found, str(scratch), True))
        box = sandbox.Box("/", str(scratch), RELEASE, "x86_64", sandbox.Limits(), mounts, user)
        if (scratch / "tmp").exists():
            give(str(scratch / "tmp"), user)
        return dkms_conf.read(box, str(source), paths, CONFIG, ignore=ignore)

    return go


def refused(read, text, **named):
    with pytest.raises(KmodError) as caught:
        read(text, **named)
    return caught.value


def test_every_key_of_a_build(read):
    conf = read(
        HEAD
        + r"""
VERSIONS=$PACKAGE_VERSION            # a variable of its own
BUILT_MODULE_NAME[0]="$PACKAGE_NAME"
DEST_MODULE_LOCATION[0]="/kernel/drivers/misc"
BUILT_MODULE_NAME[2]=extra           # sparse
BUILT_MODULE_NAME[1]=middle
BUILT_MODULE_LOCATION[2]="sub/dir"
DEST_MODULE_NAME[2]=renamed
DEST_MODULE_LOCATION[1]=/updates
DEST_MODULE_LOCATION[2]=/extra
STRIP[0]=no
STRIP[2]=yes
MAKE[0]="make -C ${kernel_source_dir} M=$dkms_tree/$module/$module_version/build V=$VERSIONS"
MAKE[1]='make five'
MAKE_MATCH[1]="^5\."
MAKE[2]='make  six
   lines'
MAKE_MATCH[2]="^6\.1"
MAKE[3]='make $VERSIONS $kernelver'
MAKE_MATCH[3]="amd64$"
PATCH[0]=always.patch
PATCH[2]=six.patch
PATCH_MATCH[2]='^6\.[0-9]+'
PATCH[3]=seven.patch
PATCH_MATCH[3]='^7'
PRE_BUILD="configure --with-headers=$kernel_source_dir"
POST_BUILD='post $arch'
BUILD_DEPENDS=(one two)
AUTOINSTALL="yes"
CLEAN="make clean"
REMAKE_INITRD=no
NO_WEAK_MODULES="YES"
"""
    )
    assert conf.records == (
        Record("drv", "drv", False, ""),
        Record("middle", "middle", False, ""),  # as the first
        Record("sub/dir/extra", "renamed", True, ""),
    )
    # the last match; evaluated twice, so that the file's own variable is gone
    assert conf.make == "make  " + RELEASE or conf.make == "make " + RELEASE
    assert conf.patches == ("always.patch", "six.patch")
    assert conf.pre_build == "configure --with-headers=/lib/modules/%s/build" % RELEASE
    assert conf.post_build == "post x86_64"
    assert (conf.name, conf.version, conf.depends, conf.own_kernel_only) == (
        "drv",
        "1.0",
        ("one", "two"),
        True,
    )


def test_lines_are_joined_and_quotes_within_quotes_go(read):
    conf = read(ONE + "MAKE[0]='make  one\n  two \"X=1\"'\r\n")
    assert conf.make == "make one two X=1"


def test_a_matching_make_needs_no_first_one(read):
    assert read(ONE + "MAKE[0]=zero\nMAKE_MATCH[0]=^5\n").make == ""
    assert read(ONE + "MAKE[0]=zero\nMAKE_MATCH[0]=^6\nMAKE[1]=one\n").make == "zero"


def test_spaces_about_a_value_stay_and_count(read):
    """A command that begins with one is none that begins with make; a pattern that ends with one fits nothing."""
    conf = read(ONE + "MAKE='\t make  x '\nBUILD_EXCLUSIVE_KERNEL='^6.1 '\nPRE_BUILD=' '\nPATCH[0]='a '\n")
    assert (conf.make, conf.pre_build, conf.patches) == (" make x ", " ", ("a ",))
    assert conf.excluded == "BUILD_EXCLUSIVE_KERNEL: ^6.1 "


def test_a_conf_that_wants_to_end_at_an_error_is_read_on_as_by_dkms(read):
    assert read(ONE + "set -e\nfalse\nMAKE=x\n").make == "x"


def test_a_value_may_name_what_dkms_has_evaluated_before_it(read):
    text = ONE + "MAKE='make ${PACKAGE_VERSION} ${BUILT_MODULE_NAME}.'\nSTRIP='$DEST_MODULE_LOCATION no'\n"
    conf = read(text)
    assert conf.make == "make 1.0 ."  # names of modules come after it
    assert conf.values["STRIP"] == {0: "/extra no"}


def test_what_is_built_may_lie_below_by_its_name_if_it_gets_another(read):
    conf = read(ONE + "BUILT_MODULE_NAME[0]=sub/drv\nDEST_MODULE_NAME[0]=drv\n")
    assert conf.records == (Record("sub/drv", "drv", True, ""),)


def test_one_module_is_called_as_the_package(read):
    assert read(HEAD + "DEST_MODULE_LOCATION=/extra\n").records == (Record("drv", "drv", True, ""),)


def test_it_is_bash_and_sees_the_kernel(read):
    conf = read(
        ONE
        + """
. $kernel_source_dir/.config
if [[ $CONFIG_SMP = y && $arch = x86_64 && -e $source_tree/$module-$module_version/dkms.conf ]]; then
    BUILT_MODULE_NAME[1]=$(basename "$(dirname "$BASH_SOURCE")")
    DEST_MODULE_LOCATION[1]=/extra
fi
echo told >&2; echo shown
"""
    )
    assert [record.name for record in conf.records] == ["drv", "build"]


@pytest.mark.parametrize(
    "text,why",
    [
        ("BUILD_EXCLUSIVE_KERNEL='^5'", "BUILD_EXCLUSIVE_KERNEL: ^5"),
        ("BUILD_EXCLUSIVE_KERNEL='1.0-9'", ""),  # not anchored
        ("BUILD_EXCLUSIVE_KERNEL_MIN=6.2", "BUILD_EXCLUSIVE_KERNEL_MIN: 6.2"),
        ("BUILD_EXCLUSIVE_KERNEL_MAX=6.1", "BUILD_EXCLUSIVE_KERNEL_MAX: 6.1"),  # the longer is greater
        ("BUILD_EXCLUSIVE_KERNEL_MIN=6.1\nBUILD_EXCLUSIVE_KERNEL_MAX=6.10", ""),  # by number, not by letters
        ("OBSOLETE_BY=6.0", "BUILD_EXCLUSIVE_KERNEL_MAX: 6.0"),
        ("OBSOLETE_BY=6.0\nBUILD_EXCLUSIVE_KERNEL_MAX=7", ""),
        ("BUILD_EXCLUSIVE_ARCH='i.86'", "BUILD_EXCLUSIVE_ARCH: i.86"),
        ("BUILD_EXCLUSIVE_ARCH='x86_64|aarch64'", ""),
        ("BUILD_EXCLUSIVE_CONFIG='CONFIG_PCI !CONFIG_NONE CONFIG_SMP'", ""),
        ("BUILD_EXCLUSIVE_CONFIG='CONFIG_PCI !CONFIG_SMP'", "BUILD_EXCLUSIVE_CONFIG: CONFIG_PCI !CONFIG_SMP"),
        ("BUILD_EXCLUSIVE_KERNEL='REQUIRES CONFIG_X'", "BUILD_EXCLUSIVE_KERNEL: REQUIRES CONFIG_X"),
    ],
)
def test_kernels_that_it_is_not_for(read, text, why):
    assert read(ONE + text + "\n").excluded == why


def test_a_module_alone_may_be_excluded(read):
    conf = read(
        ONE + "BUILT_MODULE_NAME[1]=two\nDEST_MODULE_LOCATION[1]=/extra\nBUILD_EXCLUSIVE_KERNEL_MIN[1]=7\n"
    )
    assert [bool(record.excluded) for record in conf.records] == [False, True] and not conf.excluded


def test_overrides_are_read_after_it_in_their_order(read):
    conf = read(ONE, 'MAKE[0]="make $PACKAGE_VERSION"', "STRIP=no\nMAKE[0]+=' again'")
    assert conf.make == "make 1.0 again" and not conf.records[0].strip


@pytest.mark.parametrize(
    "text,named",
    [
        (ONE + "POST_INSTALL=x.sh", "POST_INSTALL"),
        (ONE + "POST_ADD[0]=x.sh", "POST_ADD"),
        (ONE + "BUILD_EXCLUSIVE_MOON=full", "BUILD_EXCLUSIVE_MOON"),
        (ONE + "BUILT_MODULE_NAMES=x", "BUILT_MODULE_NAMES"),
        (ONE + "DKMS_DIRECTIVE_1=STRIP=no", "DKMS_DIRECTIVE_1"),
        (ONE + "DKMS_DIRECTIVE=STRIP=no", "DKMS_DIRECTIVE"),
        (ONE + "POST_BUILDS=x.sh", "POST_BUILDS"),
        (ONE + "PRE_REMOVE=x.sh", "PRE_REMOVE"),
    ],
)
def test_a_key_that_is_not_honoured_is_named_unless_it_may_be_ignored(read, text, named):
    error = refused(read, text + "\n")
    assert error.code == "DKMS_KEY" and named in error.why
    assert read(text + "\n", ignore=[named]).name == "drv"


@pytest.mark.parametrize(
    "text,told",
    [
        ("", "PACKAGE_NAME is not set"),
        ("PACKAGE_NAME=drv\n", "PACKAGE_VERSION is not set"),
        ("PACKAGE_NAME=../drv\nPACKAGE_VERSION=1\n", "cannot be a name"),
        (HEAD, "names no module"),
        (HEAD + "BUILT_MODULE_NAME[0]=drv\n", "DEST_MODULE_LOCATION[0]"),
        (HEAD + "BUILT_MODULE_NAME[0]=drv\nDEST_MODULE_LOCATION[0]=/opt\n", "does not begin with"),
        (HEAD + "BUILT_MODULE_NAME[0]=drv.ko\nDEST_MODULE_LOCATION[0]=/extra\n", "ends in .o or .ko"),
        (ONE + "BUILT_MODULE_NAME[1]=drv\nDEST_MODULE_LOCATION[1]=/extra\n", "drv twice"),
        (ONE + "DEST_MODULE_LOCATION[1]=/extra\n", "BUILT_MODULE_NAME[1] is not set"),
        (ONE + "NO_WEAK_MODULES=perhaps\n", "neither yes nor no"),
        (ONE + "AUTOINSTALL=true\n", "AUTOINSTALL is 'true', neither yes nor no"),
        (ONE + "BUILD_DEPENDS_REBUILD=1\n", "neither yes nor no"),
        (ONE + "DEST_MODULE_NAME[0]=sub/drv\n", "DEST_MODULE_NAME[0] is a path"),
        (HEAD + "BUILT_MODULE_NAME[0]=sub/drv\nDEST_MODULE_LOCATION[0]=/extra\n", "is a path"),
        (ONE + "exit 0\n", "PACKAGE_NAME is not set"),
        (ONE + "kill -9 $$\n", "it cannot be read"),
        (ONE + "MAKE='a `'\n", "not to be understood"),
    ],
)
def test_what_dkms_would_refuse_is_refused(read, text, told):
    error = refused(read, text)
    assert error.code == "DKMS_CONF" and told in str(error)


def test_it_cannot_reach_out(read, tmp_path):
    outside = tmp_path / "evil"
    read(ONE + "touch %s /usr/evil; ls %s && MAKE=seen\n" % (outside, os.path.dirname(__file__)))
    assert not outside.exists()
    assert read(ONE + "ls %s && MAKE=seen\n" % os.path.dirname(__file__)).make == ""
