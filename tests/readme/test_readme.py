# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands of the README and of the first pages after it, as they are printed and in their order, with the lowest
and the newest versions of what is promised.

Commands are in blocks marked ``sh``; the play is in the one marked ``yaml``. The hosts are directories.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import COLLECTIONS
from tests.lab import controllers, debian
from tests.readme import pages

PAGES = ("README.md", "docs/first-driver.md", "docs/supply.md")
BLOCKS = [block for page in PAGES for block in pages.blocks(page)]
COMMANDS = [body.strip() for kind, body in BLOCKS if kind == "sh"]
OLD, MIDDLE, NEW = pages.RELEASES
pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("depmod", "gpg"))), reason="needs depmod and gpg")


@pytest.fixture(scope="session", params=os.environ.get("CORES", "lowest newest").split())
def controller(request):
    try:
        return controllers.controller(request.param)
    except debian.Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def project(controller, tmp_path_factory, project_in):
    return project_in(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def said(controller, checkout, project, tmp_path_factory):
    """What each command said, by its text; all of them ended well."""
    settings = pages.settings(str(controller), str(tmp_path_factory.mktemp("home")))
    heard = {}
    for block in COMMANDS:
        for command in re.sub(r"\\\n\s*", "", block).splitlines():
            command = re.sub(r"\s+# .*", "", command)
            if command.startswith("make "):
                command = command.replace("make ", "make -n ")  # they are what CI runs
            here = checkout if command.startswith(("make ", "pip ", "ansible-galaxy ")) else project
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=str(here),
                env=settings,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            heard.setdefault(
                command, re.sub(r"\s+", " ", done.stdout)
            )  # of one that is printed twice the first
            assert done.returncode == 0, "%s\n%s" % (command, done.stdout)
    heard["installed"] = sorted(
        str(
            path.relative_to(
                Path(settings["HOME"]) / ".ansible/collections/ansible_collections/outoftree/kmod"
            )
        )
        for path in Path(settings["HOME"]).joinpath(".ansible/collections").rglob("*")
        if path.is_file()
    )
    return heard


def one(said, *words):
    (found,) = [text for command, text in said.items() if all(word in command for word in words)]
    return found


def test_what_is_installed_is_the_collection_and_none_of_the_checkouts_caches(said):
    assert (
        "roles/deploy/tasks/main.yml" in said["installed"]
        and "plugins/modules/kmod_link.py" in said["installed"]
    )
    assert not [
        name
        for name in said["installed"]
        if name.endswith("/cached") or name.startswith((".", "tests", "build", "demo"))
    ]


def test_check_mode_shows_entries_and_variants_of_a_host_that_has_nothing_yet(said):
    text = one(said, "driver.yml --check --diff")
    assert "+title With driver mydriver: Rocky Linux (%s)" % OLD in text
    assert "after: /boot/initramfs-%s.img.1" % OLD in text


def test_a_kernel_that_gets_no_driver_is_a_warning_that_names_the_host_and_the_reason(said):
    text = said["ansible-playbook -i inventory driver.yml"]
    assert "WARNING]: db2: kernel %s (newest) gets no driver mydriver: 1 symbol differs (kfree)" % NEW in text
    assert "WARNING]: db1" not in text


def clean(text):
    """Without what differs from run to run: which host was first, and how wide the terminal is."""
    return re.sub(r"\s+", " ", re.sub(r"changed: \[\w+\]|\*+", "", text)).strip()


def test_the_output_that_is_printed_is_the_one_that_comes(said):
    for words, text in (
        ("TASK [", said["ansible-playbook -i inventory driver.yml"]),
        ("SUCCESS", one(said, "kmod_compat")),
    ):
        printed = [body for kind, body in BLOCKS if not kind and words in body]
        (block,) = [block for block in printed if "db1" in block]
        for part in block.split("..."):
            assert clean(part) in clean(text)


def test_the_fleets_command_finds_the_builds_in_the_working_directory(said):
    # each in a turn of its own
    assert one(said, "outoftree.kmod.deploy", "-e kmod_boot=default").count("failed=0") == 2


def test_the_lists_signer_is_checked(said):
    assert "failed=0" in one(said, "kmod_checksums")


def test_ad_hoc_says_which_machines_would_lose_the_driver(said):
    assert "db2 | SUCCESS" in one(said, "kmod_compat") and "%s: 1 symbol differs" % NEW in one(
        said, "kmod_compat"
    )


def test_drivers_are_listed_without_the_variables_of_one_driver(controller, project):
    """What a template names is read before ansible-core 2.19, whether it is used or not."""
    settings = dict(pages.settings(str(controller), str(project)), ANSIBLE_COLLECTIONS_PATH=str(COLLECTIONS))
    playbook = ["ansible-playbook", "-i", "inventory", "--check", "-v"]
    listed = {"kmod_drivers": [{"driver": "mydriver", "src": "builds/mydriver"}]}
    for given, told in (
        (listed, "2 of 2 kernels use it"),
        ({}, "kmod_driver and kmod_drivers: name no driver. Give one of them."),
        ({"kmod_exclusive": True}, "kmod_driver and kmod_drivers: name no driver. Give one of them."),
        (dict(listed, kmod_driver="other"), "kmod_driver (other) and kmod_drivers: are both given."),
    ):
        done = subprocess.run(
            [*playbook, "outoftree.kmod.deploy", "-e", json.dumps(given)],
            cwd=str(project), env=settings, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        assert told in done.stdout and (given == listed) == (not done.returncode), done.stdout


def test_removal_removes(said):
    assert one(said, "outoftree.kmod.remove").count("changed=1") == 2


def test_what_collection_build_packs_has_no_caches_in_it_either(controller, checkout, tmp_path):
    subprocess.run(
        [str(controller / "ansible-galaxy"), "collection", "build", "--output-path", str(tmp_path)],
        cwd=str(checkout),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(str(packed)) as archive:
        assert not [name for name in archive.getnames() if name.endswith("/cached") or name.startswith(".")]
