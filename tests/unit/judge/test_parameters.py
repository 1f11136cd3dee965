# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module's parameters, and the values that its loader would take for them."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import parameters
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_module import KernelModule


def module(*modinfo):
    return KernelModule("/m.ko", "m", "", 0, "x86_64", modinfo=modinfo)


TOLD = module(
    ("parm", "debug:Level of debugging: 0 to 5"),
    ("parmtype", "debug:int"),
    ("parm", "mode:How"),
    ("parmtype", "irq-list:array of int"),
)


def test_types_come_from_modinfo_and_a_description_alone_is_a_parameter_too():
    assert parameters.known(TOLD) == {"debug": "int", "mode": "", "irq-list": "array of int"}


def test_dashes_and_underscores_are_one():
    assert parameters.find(TOLD, "irq_list", "") == "irq-list"
    assert parameters.find(TOLD, "async-probe", "") == "async_probe"


def test_a_parameter_that_is_not_there_is_an_error_with_those_that_are():
    with pytest.raises(
        KmodError, match=r"m\.debg: .* in the build that.*It has debug, irq-list, mode"
    ) as error:
        parameters.find(TOLD, "debg", " in the build that kernel 6.1 uses")
    assert error.value.code == "PARAMETER_UNKNOWN"
    with pytest.raises(KmodError, match="It has none"):
        parameters.find(module(), "debug", "")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("int", 3, "3"),
        ("int", "-0x10", "-0x10"),
        ("int", True, "1"),
        ("uint", "4294967295", "4294967295"),
        ("long", 1 << 62, str(1 << 62)),
        ("byte", 255, "255"),
        ("ulong", "0755", "0755"),
        ("bool", True, "1"),
        ("bool", "False", "0"),  # as a template gives it
        ("bool", "on", "1"),
        ("bint", 0, "0"),
        ("invbool", "Y", "1"),
        ("charp", "fast", "fast"),
        ("charp", 0, "0"),
        ("charp", "a,b", "a,b"),
        ("charp", "", ""),
        ("charp", "two words", None),
        ("string", "eth0", "eth0"),
        ("", "anything#else$", "anything#else$"),
        ("", [1, 2], "1,2"),
        ("array of int", [1, "2"], "1,2"),
        ("array of int", "1,2", "1,2"),
        ("array of int", 5, "5"),
        ("array of charp", ["a", "b"], "a,b"),
        ("array of bool", [True, False], "1,0"),
    ],
)
def test_what_a_type_takes_is_written_as_the_kernel_reads_it(kind, value, text):
    assert parameters.written("m.p", value, kind) == ("p=%s" % text if text is not None else 'p="two words"')


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", "three"),
        ("int", ""),
        ("int", 1 << 31),
        ("int", "08"),
        ("int", "1 2"),
        ("int", 1.5),
        ("int", [1]),
        ("int", None),
        ("int", {"a": 1}),
        ("uint", -1),
        ("byte", 256),
        ("ushort", 65536),
        ("bool", "maybe"),
        ("bool", 2),
        ("charp", True),  # mode: on
        ("charp", 'say "hello"'),
        ("charp", "back\\slash"),
        ("charp", "a\noptions other x=1"),
        ("charp", "a\ninstall m /bin/sh -c evil"),
        ("charp", "tab\t"),
        ("charp", "naïve"),
        ("charp", "x" * 1025),
        ("charp", ["a", "b"]),
        ("", "a\0b"),
        ("", False),
        ("array of int", [1, "x"]),
        ("array of int", []),
        ("array of charp", ["a,b"]),
        ("array of charp", [["a"]]),
    ],
)
def test_what_the_kernel_would_refuse_or_take_for_something_else_is_an_error(kind, value):
    with pytest.raises(KmodError, match=r"m\.p: cannot be set to") as error:
        parameters.written("m.p", value, kind)
    assert error.value.code == "PARAMETER_VALUE"
