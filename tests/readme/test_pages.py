# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands of further pages, as they are printed, in their order, each page in a project of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import COLLECTIONS
from tests.forge import fleet
from tests.readme import pages

BIN = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


def run(commands, cwd, environment, shell=False):
    """All that was said, by command; one shell for all of them where each needs what the one before has set."""
    said = {}
    for command in ["\n".join(["set -e", *commands])] if shell else commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=str(cwd),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, "%s\n%s" % (command, done.stdout)
        said[command] = done.stdout
    return said


def clean(text):
    return re.sub(r"\s+", " ", text).strip()


def shown(page):
    """Blocks of output: those without a language that follow a block of commands."""
    found = pages.blocks(page)
    return [body for (before, _), (kind, body) in zip(found, found[1:]) if not kind and before == "sh"]


@pytest.fixture
def collections(tmp_path):
    return dict(
        pages.settings(str(BIN), str(tmp_path)),
        ANSIBLE_COLLECTIONS_PATH=str(COLLECTIONS),
        ANSIBLE_LOCALHOST_WARNING="false",
        ANSIBLE_INVENTORY_UNPARSED_WARNING="false",
    )


def commands(page):
    return [command for kind, body in pages.blocks(page) if kind == "sh" for command in pages.commands(body)]


def test_the_tutorial_says_what_happens(checkout, collections):
    """In a copy of the checkout whose virtual environment is this one."""
    shutil.rmtree(checkout / "build")
    (checkout / "build/collections/ansible_collections/outoftree").mkdir(parents=True)
    (checkout / "build/collections/ansible_collections/outoftree/kmod").symlink_to(checkout)
    (checkout / "build/venv").symlink_to(BIN.parent)
    typed = commands("docs/tutorial.md")
    assert typed[0] == "make kmodctl"
    typed[0] = "make -o build/venv/.demo kmodctl"
    said = clean("".join(run(typed, checkout, collections, shell=True).values()))
    blocks = shown("docs/tutorial.md")
    assert len(blocks) > 6
    for block in blocks:
        for line in block.splitlines():
            assert clean(line) in said


@pytest.mark.parametrize("page", ["docs/update.md", "docs/secure-boot.md"])
def test_the_commands_of_a_page_do_what_they_should(page, project_in, tmp_path, collections):
    project_in(tmp_path / "project")
    assert run(commands(page), tmp_path / "project", collections)


def test_whoever_comes_from_packages_or_dkms_has_the_stores_driver_in_use_before_the_old_one_goes(
    project_in, tmp_path, collections
):
    project = project_in(tmp_path / "project")
    old, middle, _new = pages.RELEASES
    package = project / "hosts/db1/lib/modules" / old / "extra/mydriver/mydriver.ko"
    dkms = project / "hosts/db2/lib/modules" / middle / "updates/dkms/mydriver.ko"
    for path, release, change in ((package, old, 0), (dkms, middle, 1)):
        path.parent.mkdir(parents=True)
        shutil.copy2(fleet.build(tmp_path, "mydriver", release, change), path)
        subprocess.run(
            ["depmod", "-b", str(path.parents[len(path.parts) - len(project.parts) - 3]), release], check=True
        )
    first, *_rest = said = run(commands("docs/leaving.md"), project, collections)
    for host, release, theirs in (
        ("db1", old, "extra/mydriver/mydriver.ko:"),
        ("db2", middle, "updates/dkms"),
    ):
        listed = (project / "hosts" / host / "lib/modules" / release / "modules.dep").read_text()
        assert "mydriver.ko" in listed and theirs not in listed
    assert package.exists() and dkms.exists()
    package.unlink()
    dkms.unlink()
    again = run([first], project, collections)[first]
    assert again.count("failed=0") == 2 and said
    assert "changed=0" in run([first], project, collections)[first]


def test_a_controller_without_a_network_gets_all_that_it_needs_as_files(checkout, tmp_path):
    outside, inside = commands("docs/air-gap.md")[:2], commands("docs/air-gap.md")[2:]
    environment = pages.settings(str(BIN), str(tmp_path))
    try:
        run(outside, checkout, environment)
    except AssertionError as failed:
        if "index" in str(failed) or "onnection" in str(failed):
            pytest.skip("no package index")
        raise
    shutil.move(str(checkout / "carry"), str(tmp_path / "carry"))
    cut_off = dict(environment, PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    run(inside, tmp_path, cut_off)
    said = run(["ansible/bin/ansible-doc -l outoftree.kmod"], tmp_path, cut_off)
    assert "outoftree.kmod.kmod_deploy" in str(said)


def test_installing_is_what_the_readme_does():
    assert commands("docs/install.md") == commands("README.md")[2:5]
