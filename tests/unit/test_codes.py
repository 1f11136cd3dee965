# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/codes.md lists every reason code and every word for a state that the sources can give, and none that
they cannot.
"""

import ast
import errno
import functools
import os
import re
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.make import dkms_conf

CHECKOUT = Path(os.path.realpath(__file__)).parents[2]
PLUGINS = CHECKOUT / "plugins"
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
# Written like codes, and none: kernel options in a table, ELF's and GnuPG's own words, variables of the
# environment; and what is answered as PATH_LOOP; keys of os-release and of dkms.conf.
NO_CODES = {
    *dkms_conf.KNOWN,
    *dkms_conf._FAMILIES,
    "KERNEL_CC",
    "X86_KERNEL_IBT",
    "CFI_CLANG",
    "ET_REL",
    "NO_PUBKEY",
    "KMODCTL_DEBUG",
    "INITRD_IN_POSTTRANS",
    "TRANSACTIONAL_UPDATE",
    "WM2_LOGFILE",
    "WM2_VERBOSE",
    "ELOOP",
    "ID_LIKE",
    "VERSION_ID",
    "CONFIG_MODULE_SIG_HASH",
}


@functools.lru_cache(maxsize=None)
def parsed() -> Dict[str, ast.Module]:
    return {
        path.relative_to(PLUGINS).as_posix(): ast.parse(path.read_text())
        for path in sorted(PLUGINS.rglob("*.py"))
    }


def trees(*beginnings: str) -> List[Tuple[str, ast.Module]]:
    """The files whose paths begin so, or all."""
    return [(path, tree) for path, tree in parsed().items() if path.startswith(beginnings or "")]


def strings(node: ast.AST) -> Iterator[str]:
    """The strings in it that can be an answer: not those that something is compared with or looked up by, nor
    the kernel's options.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if (
        isinstance(node, (ast.Compare, ast.Subscript))
        or isinstance(node, ast.Call)
        and called(node) == "option"
    ):
        return
    for child in ast.iter_child_nodes(node):
        yield from strings(child)


def called(call: ast.Call) -> str:
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) in names)


def given(call: ast.Call, name: str, position: int) -> List[ast.expr]:
    """What a call hands to a parameter, by its name or by its position."""
    return [each.value for each in call.keywords if each.arg == name] + call.args[position : position + 1]


def codes() -> Set[str]:
    found: Set[str] = set()
    for _path, tree in trees():
        words = set(strings(tree))
        found |= {word for word in words if CODE.fullmatch(word) or word in errno.errorcode.values()}
        for call in calls(tree, "KmodError", "fail_json"):  # codes of one word
            found |= {word for value in given(call, "code", 3) for word in strings(value)}
    return found - NO_CODES


def listed() -> Dict[str, List[str]]:
    """The first column of each table of docs/codes.md, by the heading that it stands under."""
    tables: Dict[str, List[str]] = {}
    heading = ""
    for line in (CHECKOUT / "docs" / "codes.md").read_text().splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        row = re.match(r"\| `([^`]+)` \|(.*)\|$", line)
        if row:
            assert all(cell.strip() for cell in row.group(2).split("|")), "an empty cell: " + line
            tables.setdefault(heading, []).append(row.group(1))
    return tables


def listed_codes() -> List[str]:
    return [word for words in listed().values() for word in words if word.isupper()]


def test_every_code_has_a_line():
    assert sorted(codes() - set(listed_codes())) == []


def test_every_line_is_of_a_code_that_is_given():
    assert sorted(set(listed_codes()) - codes()) == []


def test_no_code_has_two_lines():
    assert sorted(code for code in set(listed_codes()) if listed_codes().count(code) > 1) == []


def test_every_error_has_a_code_that_is_written_out():
    """So that they can be found, here and by whoever looks for one."""
    for path, tree in trees():
        for call in calls(tree, "KmodError", "SystemFailed"):
            code = given(call, "code", 3)
            assert code and isinstance(code[0], (ast.Constant, ast.Name, ast.Attribute)), "%s:%d" % (
                path,
                call.lineno,
            )


def of_states(*beginnings: str) -> Set[str]:
    """The words that are given as a ``state`` or a ``status``: in a dict, as an argument, or by a name."""
    found: Set[str] = set()
    for _path, tree in trees(*beginnings):
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                values = [
                    value
                    for key, value in zip(node.keys, node.values)
                    if isinstance(key, ast.Constant) and key.value in ("state", "status")
                ]
            elif isinstance(node, ast.keyword):
                values = [node.value] if node.arg in ("state", "status") else []
            elif isinstance(node, ast.Assign):
                values = (
                    [node.value]
                    if any(isinstance(each, ast.Name) and each.id == "state" for each in node.targets)
                    else []
                )
            else:
                continue
            found |= {word for value in values for word in strings(value)}
    return found


def returned(file: str, function: str) -> Set[str]:
    """The words that a function returns, alone or first of several."""
    found: Set[str] = set()
    for node in ast.walk(parsed()[file]):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and each.value is not None:
                    found |= set(
                        strings(each.value.elts[0] if isinstance(each.value, ast.Tuple) else each.value)
                    )
    return found


def constants(file: str, *names: str) -> Set[str]:
    """What these names of a module stand for."""
    found: Set[str] = set()
    for node in parsed()[file].body:
        if isinstance(node, ast.Assign):
            pairs = (
                zip(node.targets[0].elts, node.value.elts)
                if isinstance(node.targets[0], ast.Tuple)
                else [(node.targets[0], node.value)]
            )
            found |= {word for target, value in pairs if target.id in names for word in strings(value)}
    return found


def of_trials() -> Set[str]:
    """The first argument of each Trial, and what it is ``shown`` to be."""
    values = [value for call in calls(parsed()[TRIALS], "Trial") for value in call.args[:1]]
    values += [
        node.value
        for node in ast.walk(parsed()[TRIALS])
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "shown"
    ]
    # is remembered, and told as "failed"
    return {word for value in values for word in strings(value)} - {"", "started"}


PLACE = "module_utils/place/"
VERDICT, TRIALS, LOADED = "module_utils/judge/verdict.py", PLACE + "boot/trials.py", PLACE + "loaded.py"


def words() -> Dict[str, Set[str]]:
    """What the sources give, by the heading in docs/codes.md."""
    return {
        "Verdicts": constants(VERDICT, "COMPATIBLE", "INCOMPATIBLE", "UNKNOWN"),
        "Effects": constants(VERDICT, "REFUSE", "TAINT", "DOUBT", "NOTE"),
        "Modules that are loaded": returned(LOADED, "state") | constants(LOADED, "BETWEEN"),
        "Variants of the initramfs": of_states(PLACE + "initramfs/")
        | returned(PLACE + "initramfs/existing.py", "state"),
        "Boot entries": of_states(PLACE + "boot/", PLACE + "possible.py") - {"none"},  # of a trial
        "Trials": of_trials(),
        "The running system": returned(TRIALS, "_verdict") | returned(TRIALS, "_shown") | {"none"},
    }


@pytest.mark.parametrize("heading", words())
def test_every_word_for_a_state_has_a_line_and_every_line_is_such_a_word(heading):
    assert sorted(listed()[heading]) == sorted(words()[heading])
