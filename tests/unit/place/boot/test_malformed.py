# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Damaged boot configurations: there is an answer or a KmodError, no byte of anybody else is lost, and it
does not take long.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.place import texts
from tests.forge import machines
from tests.forge.machines import DRIVER, NEW, OLD, write
from tests.unit.place.boot.test_entry import absent, menu, present, snapshot, variants

CONFIGURATIONS = (
    "boot/grub*/grub.cfg",
    "boot/grub*/custom.cfg",
    "boot/grub*/grubenv",
    "boot/grub/grub.conf",
    "boot/extlinux/extlinux.conf",
    "boot/loader/entries/*.conf",
    "boot/efi/loader/entries/*.conf",
    "boot/efi/loader/loader.conf",
)
THEIRS = "menuentry 'Mine' --id mine {\n  chainloader +1\n}\nset later=1"
PIECES = [
    each.encode("utf-8", "surrogateescape")
    for each in (
        "'",
        '"',
        "\\",
        "{",
        "}",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\u2028",
        "\u0663",
        "\u00b2",
        "\u00e9",
        "\udcff",
        "#",
        "=",
        ">",
        "${",
        "$menuentry_id_option",
        "--id",
        " --id=",
        "menuentry 'x' {\n",
        "submenu y {\n",
        "linux\n",
        "initrd\n",
        "linux /vmlinuz-%s\n" % NEW,
        "insmod blscfg\nblscfg\n",
        "source $prefix/custom.cfg\n",
        "set default=1>2>x\n",
        "set default=%s\n" % ("9" * 5000),
        "set superusers=x\n",
        "if [ x ]; then\n",
        "title\n",
        "title x\n",
        "default=\u00b2\n",
        "default=%s\n" % ("9" * 5000),
        "default saved\n",
        "default 7\n",
        "label\n",
        "label x\n",
        "append\n",
        "initrd a,b\n",
        "options\n",
        "version\n",
        "sort-key a\n",
        "next_entry=x\n",
        "saved_entry=%s\n" % ("9" * 5000),
        "saved_entry=\\",
        "### BEGIN outoftree.kmod %s %s ###\n" % (DRIVER, NEW),
        "### BEGIN outoftree.kmod other %s +newline ###\n" % OLD,
        "### END outoftree.kmod other %s ###\n" % NEW,
        "### BEGIN /etc/grub.d/10_linux ###\n",
        "### END /etc/grub.d/10_linux ###\n",
    )
]

place = st.integers(0, 1 << 12)
damage = st.one_of(
    st.tuples(st.just("cut"), place, st.integers(1, 300)),
    st.tuples(st.just("end"), place, st.just(0)),
    st.tuples(st.just("put"), place, st.sampled_from(PIECES)),
    st.tuples(st.just("put"), place, st.binary(max_size=20)),
    st.tuples(st.just("repeat"), place, st.integers(1, 400)),
)


def damaged(data, steps):
    for what, at, more in steps:
        at = at % (len(data) + 1)
        if what == "cut":
            data = data[:at] + data[at + more :]
        elif what == "end":
            data = data[:at]
        elif what == "put":
            data = data[:at] + more + data[at:]
        else:
            data = data[:at] + data[at : at + more] * 3 + data[at + more :]
    return data


@pytest.fixture(scope="module", params=sorted(machines.FAMILIES))
def family(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    initrd = machines.FAMILIES[request.param](root)
    if request.param in ("debian", "el7", "sles"):
        write(root, next(root.glob("boot/grub*")).relative_to(root).as_posix() + "/custom.cfg", THEIRS)
    pristine = {
        path: path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()
    }
    configurations = sorted(
        {path for pattern in CONFIGURATIONS for path in root.glob(pattern)} & set(pristine)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield root, variants(initrd, OLD, NEW, family=request.param), pristine, configurations


def anew(root, pristine):
    """The family's tree as it was, whatever the example before has made of it."""
    for path in root.rglob("*"):
        if path not in pristine and path.is_file() and not path.is_symlink():
            path.unlink()
    for path, content in pristine.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_there_is_an_answer_or_a_reason_and_nothing_is_lost(family, data):
    root, kernels, pristine, configurations = family
    anew(root, pristine)
    for path in data.draw(st.lists(st.sampled_from(configurations), min_size=1, max_size=2, unique=True)):
        path.write_bytes(damaged(pristine[path], data.draw(st.lists(damage, min_size=1, max_size=4))))
    before = snapshot(root)
    sizes = {path: path.stat().st_size for path in configurations if path.name == "grubenv"}
    for boot in ("none", "once", "default"):
        try:
            plan, _result = present(root, kernels, boot=boot)
        except KmodError as error:
            assert error.why and snapshot(root) == before
            continue
        plan.apply()
        assert {path: path.stat().st_size for path in sizes} == sizes, "GRUB writes to the blocks that it has"
        assert not present(root, kernels, boot=boot)[0]
        assert boot != "default" or menu(root).default.driver == DRIVER
        assert {each.kernel for each in menu(root).entries if each.driver == DRIVER} == set(kernels)
        absent(root)[0].apply()
        assert snapshot(root) == before


BLOCK, SECTION = (
    "### BEGIN outoftree.kmod %s %s ###\n" % (DRIVER, NEW),
    "### BEGIN /etc/grub.d/10_linux ###\n",
)


@pytest.mark.parametrize(
    "family, path, fillings",
    [
        (
            "debian",
            "boot/grub/grub.cfg",
            [
                "'",
                "{\n",
                "\t \n",
                "a\\",
                "x" * 100,
                SECTION,
                "menuentry x {\n}\n",
                "initrd x ",
                "default x\n",
            ],
        ),
        ("debian", "boot/grub/custom.cfg", ["'x'", "\t \n", BLOCK, "menuentry x {\n}\n"]),
        ("el6", "boot/grub/grub.conf", ["title x\n", "\t \n", BLOCK, "default x\n", "kernel x "]),
        (
            "extlinux",
            "boot/extlinux/extlinux.conf",
            ["label x\n", "\t \n", BLOCK, "default x\n", "initrd x "],
        ),
        ("el9", "boot/loader/entries/x-1-1.conf", ["linux x\n", "\t \n", "initrd x "]),
        ("systemd-boot", "boot/efi/loader/loader.conf", ["default x\n", "\t \n"]),
    ],
)
def test_a_long_file_of_one_thing_is_read_quickly(tmp_path, family, path, fillings):
    initrd = machines.FAMILIES[family](tmp_path)
    whole = (tmp_path / path).read_text() if (tmp_path / path).exists() else ""
    for filling in fillings:
        write(tmp_path, path, whole + filling * (60000 // len(filling)))
        began = time.process_time()
        try:
            present(tmp_path, variants(initrd, OLD, NEW, family=family), boot="default")
        except KmodError as error:
            assert error.why and len(str(error)) < 2000
        assert time.process_time() - began < 2, filling


@pytest.mark.parametrize("boot", ["none", "once", "default", "shipped", "absent"])
@pytest.mark.parametrize("family", sorted(machines.FAMILIES))
def test_copies_of_our_entry_that_somebody_made_go(tmp_path, family, boot):
    initrd = machines.FAMILIES[family](tmp_path)
    shipped = snapshot(tmp_path)
    kernels = variants(initrd, NEW, family=family)
    present(tmp_path, kernels, boot="default")[0].apply()
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]:
        text = path.read_text()
        if path.parent.name == "entries" and "~" in path.name:
            (path.parent / ("zz-" + path.name)).write_text(text)
            (path.parent / ("aa-" + path.name)).write_text(text)
        elif "# BEGIN outoftree.kmod" in text:
            path.write_text(text + "".join(block.group() for block in texts.blocks(text)))

    def again():
        return absent(tmp_path) if boot == "absent" else present(tmp_path, kernels, boot=boot, args="more=1")

    again()[0].apply()
    assert not again()[0]
    assert [entry.kernel for entry in menu(tmp_path).entries if entry.driver] == (
        [] if boot == "absent" else [NEW]
    )
    assert boot != "absent" or snapshot(tmp_path) == shipped
