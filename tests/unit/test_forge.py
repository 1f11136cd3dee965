# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests and the demo import one another in one way, which is how they share the makers of their inputs."""

import ast

import pytest

from tests import CHECKOUT

FILES = sorted([*CHECKOUT.glob("tests/**/*.py"), *CHECKOUT.glob("demo/**/*.py")])
NAMES = {path.stem for path in FILES}


def names(files):
    return [str(path.relative_to(CHECKOUT)) for path in files]


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text()) for path in FILES}


def changes_the_path(node):
    """Whether it is sys.path[…] = …, sys.path = … or sys.path.insert(…)."""
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.func.value]
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("insert", "append", "extend")
        else []
    )
    return any(ast.unparse(target).split("[")[0] == "sys.path" for target in targets)


def test_one_file_changes_the_path(trees):
    assert names(path for path, tree in trees.items() if any(map(changes_the_path, ast.walk(tree)))) == [
        "tests/__init__.py"
    ]


def test_what_is_shared_is_imported_by_its_whole_name(trees):
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or "."]
            else:
                continue
            found += [(path.name, module) for module in modules if module in NAMES or "kmod.tests" in module]
    assert not found
