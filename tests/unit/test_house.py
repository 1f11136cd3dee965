# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of the house: imports run one way, files stay short, and each says under which licence it is."""

import ast
import functools
import os
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

CHECKOUT = Path(os.path.realpath(__file__)).parents[2]
PLUGINS = CHECKOUT / "plugins"
COLLECTION = "ansible_collections.outoftree.kmod.plugins."
SOURCES = sorted(path.relative_to(PLUGINS).as_posix()[:-3] for path in PLUGINS.rglob("*.py"))
LONGEST = 500
ON_THE_CONTROLLER = (
    "modules/kmod_preflight_fleet",
    "modules/kmod_rebuild",
    "modules/kmod_report",
)  # documentation alone: all of it is its action plugin

LOOK = "errors host lock compression"  # the ground of what only looks
GROUND = LOOK + " plan"
# What each part of module_utils may import, itself apart. A file goes by the longest name here that is its
# own or a directory above it.
MAY_IMPORT: Dict[str, str] = {
    "errors": "",
    "decoders": "errors",
    "compression": "errors decoders",
    "tools": "errors",
    "reader": "errors",
    "seen": "",
    "host": "errors tools seen reader",
    "kept_files": "errors host",
    "settled": "host seen kept_files",
    "libcrypto": "",
    "lock": "errors host",
    "plan": "errors host tools",
    "foreseen": "errors host reader plan",
    "turns": "errors host lock plan foreseen seen",
    "task": "errors host turns seen settled",
    "read": LOOK + " kept_files libcrypto",
    "read/offered": LOOK + " tools read",  # package managers are asked, and change nothing
    "judge": LOOK + " read",
    "place": GROUND + " read judge place",
    # the shipped entry says which image is the shipped one,
    "place/boot": GROUND + " read place/texts place/depmod place/loaded",
    # so variants ask entries, and not the other way round
    "place/initramfs": GROUND + " read judge place/depmod place/store place/loading place/boot",
    "make": GROUND + " tools read judge",  # from source to .ko
    "commands": GROUND + " turns read judge make place",
    "arguments": "errors",
    "output": "errors",
    "weak_modules": GROUND + " task arguments output read place commands",
    "weak_modules2": GROUND + " task arguments output read place commands weak_modules",
    "cli": GROUND + " task turns arguments output read place commands weak_modules weak_modules2",
}
# What signs where there is no openssl.
CRYPTOGRAPHY = (
    "cryptography",
    "cryptography.exceptions",
    "cryptography.hazmat.backends",
    "cryptography.hazmat.primitives",
    "cryptography.hazmat.primitives.asymmetric",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.hazmat.primitives.serialization.pkcs7",
)
# What is neither the standard library's nor ours: by whom, and what.
FROM_OUTSIDE: Dict[str, Tuple[str, ...]] = {
    # docs/design.md says how it gets to the hosts
    "read/elf": ("ansible.module_utils.elftools.elf.enums", "elftools.elf.enums"),
    "make/sign": CRYPTOGRAPHY,
    "compression": ("compression",),  # the standard library's from Python 3.14 on
}


@functools.lru_cache(maxsize=None)
def imported(source: str) -> Tuple[str, ...]:
    """The modules that a file imports, at its top or anywhere in it: ``module_utils/read/ko`` for ours,
    dotted names for others'.
    """
    package = source.split("/")[:-1]
    names: List[str] = []
    for node in ast.walk(ast.parse((PLUGINS / (source + ".py")).read_text())):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = COLLECTION + ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            # ``from .boot import entry`` means a file, ``from .menu import Entry`` a thing in one
            names += [
                module + "." + each.name if _ours(module + "." + each.name) in SOURCES else module
                for each in node.names
            ]
    return tuple(_ours(name) for name in names)


def _ours(name: str) -> str:
    return name[len(COLLECTION) :].replace(".", "/") if name.startswith(COLLECTION) else name


def within(source: str, part: str) -> bool:
    return source == part or source.startswith(part + "/")


def core() -> List[str]:
    return [source[len("module_utils/") :] for source in SOURCES if source.startswith("module_utils/")]


def row(source: str) -> str:
    """The row of the table that a file of the core goes by."""
    return max((part for part in MAY_IMPORT if within(source, part)), key=len)


@pytest.mark.parametrize("source", core())
def test_imports_of_the_core_run_one_way(source):
    allowed = [row(source), *MAY_IMPORT[row(source)].split()]
    ours = [
        each[len("module_utils/") :]
        for each in imported("module_utils/" + source)
        if each.startswith("module_utils/")
    ]
    assert [each for each in ours if not any(within(each, part) for part in allowed)] == []


@pytest.mark.parametrize("source", core())
def test_the_core_imports_nothing_but_the_standard_library(source):
    known = FROM_OUTSIDE.get(source, ())
    assert [
        each
        for each in imported("module_utils/" + source)
        if not each.startswith("module_utils/")
        and each.split(".")[0] not in sys.stdlib_module_names
        and each not in known
    ] == []


def test_modules_import_the_core_and_nothing_of_the_controllers_half():
    for source in SOURCES:
        if source.startswith("modules/") and source not in ON_THE_CONTROLLER:
            assert {each.split("/")[0] for each in imported(source) if "/" in each} == {"module_utils"}, (
                source
            )


def test_no_file_imports_itself_by_way_of_others():
    assert list(circles()) == []


def circles() -> Iterator[str]:
    done: Set[str] = set()

    def follow(source: str, way: Tuple[str, ...]) -> Iterator[str]:
        if source in way:
            yield " -> ".join((*way[way.index(source) :], source))
        elif source not in done:
            for each in imported(source) if source in SOURCES else ():
                yield from follow(each, (*way, source))
            done.add(source)

    for source in SOURCES:
        yield from follow(source, ())


def test_no_file_of_the_plugins_is_too_long_to_be_read():
    lengths = {source: len((PLUGINS / (source + ".py")).read_text().splitlines()) for source in SOURCES}
    assert {source: length for source, length in lengths.items() if length > LONGEST} == {}


def test_every_python_file_says_its_licence():
    files = [
        path
        for top in ("plugins", "tests", "demo", "tools", "extensions")
        for path in (CHECKOUT / top).rglob("*.py")
        if "output" not in path.parts
    ]  # of ansible-test
    assert len(files) > 100
    line = (
        "SPDX-License-Identifier" + ": GPL-3.0-or-later\n"
    )  # in one piece it would be a licence of this file
    assert [str(path) for path in files if line not in path.read_text()[:400]] == []


def test_no_two_classes_of_the_core_have_one_name():
    places: Dict[str, List[str]] = {}
    for source in core():
        tree = ast.parse((PLUGINS / "module_utils" / (source + ".py")).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(source)
    # each command has these two
    assert {name for name, where in places.items() if len(where) > 1} == {"Options", "Answer"}
