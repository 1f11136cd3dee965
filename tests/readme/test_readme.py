# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The README's commands, as they are printed and in their order, with the lowest and the newest versions of
what it promises.

Commands are in blocks marked ``sh``; the play is in the one marked ``yaml``. The hosts are directories.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests import CHECKOUT
from tests.forge import fleet
from tests.lab import controllers, debian
from tests.lab.controllers import VERSIONS

README = (CHECKOUT / "README.md").read_text()
COMMANDS = [block.strip() for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)]
PLAY = re.search(r"^```yaml\n(.*?)^```", README, re.M | re.S).group(1)
OLD, MIDDLE, NEW = (
    "5.14.0-427.13.1.el9_4.x86_64",
    "5.14.0-503.11.1.el9_5.x86_64",
    "5.14.0-570.12.1.el9_6.x86_64",
)
pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("depmod", "gpg"))), reason="needs depmod and gpg")


@pytest.fixture(scope="session", params=list(VERSIONS))
def controller(request):
    try:
        return controllers.controller(request.param)
    except debian.Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the checkout as somebody has it who has run the tests in it: with the caches that these
    leave.
    """
    copy = tmp_path_factory.mktemp("checkout") / "outoftree.kmod"
    for name in (
        subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=str(CHECKOUT),
            stdout=subprocess.PIPE,
            check=True,
        )
        .stdout.decode()
        .split("\0")
    ):
        if name and (CHECKOUT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(CHECKOUT / name), str(copy / name))
    for name in (
        ".pytest_cache/v",
        ".mypy_cache/3.10",
        ".ruff_cache/0",
        ".hypothesis/examples",
        "plugins/modules/__pycache__",
        "build/venv",
        ".ansible",
        "plugins/.mypy_cache",
    ):
        (copy / name).mkdir(parents=True)
        (copy / name / "cached").write_text("a cache\n")
    return copy


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    return {
        release: fleet.kernel(directory, release, change)
        for release, change in ((OLD, 0), (MIDDLE, 1), (NEW, 2))
    }


@pytest.fixture(scope="session")
def project(controller, tmp_path_factory, kernels):
    """A vendor's builds, with a signed list, for hosts of which one has a newer kernel, not its default yet,
    that takes neither of them.
    """
    directory = tmp_path_factory.mktemp("project")
    for release, change in ((OLD, 0), (MIDDLE, 1)):
        fleet.build(directory / "builds/mydriver", "mydriver", release, change)
    os.system("cd %s/builds/mydriver && sha256sum */* > SHA256SUMS" % directory)
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    gpg = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--yes",
        "--pinentry-mode",
        "loopback",
        "--passphrase",
        "",
        "--armor",
    ]
    subprocess.run(
        [*gpg, "--quick-generate-key", "Vendor <release@vendor.example>", "ed25519", "sign", "never"],
        check=True,
    )
    subprocess.run([*gpg, "--output", str(directory / "vendor.asc"), "--export"], check=True)
    subprocess.run([*gpg, "--detach-sign", str(directory / "builds/mydriver/SHA256SUMS")], check=True)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    (directory / "driver.yml").write_text(PLAY)
    for name, releases in (("db1", (OLD, MIDDLE)), ("db2", (NEW, MIDDLE))):
        fleet.el9(directory / "hosts" / name, [kernels[release] for release in releases])
    hosts = {name: {"kmod_root": str(directory / "hosts" / name)} for name in ("db1", "db2")}
    (directory / "inventory").write_text(
        json.dumps(
            {
                "storage": {
                    "hosts": hosts,
                    "vars": {
                        "ansible_connection": "local",
                        "ansible_become": False,
                        "ansible_python_interpreter": sys.executable,
                    },
                }
            }
        )
    )
    return directory


@pytest.fixture(scope="session")
def said(controller, checkout, project, tmp_path_factory):
    """What each command said, by its text; all of them ended well."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "PYTHON", "VIRTUAL_ENV"))
    }
    settings.update(
        HOME=str(tmp_path_factory.mktemp("home")),
        PATH="%s:%s" % (controller, os.environ["PATH"]),
        LC_ALL="C.UTF-8",
        COLUMNS="300",
    )
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
            heard[command] = re.sub(r"\s+", " ", done.stdout)
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


def test_check_mode_says_what_it_does_not_foresee(said):
    text = one(said, "driver.yml --check --diff")
    assert (
        "check mode links nothing" in text
        and "an initramfs variant and a boot entry (for the first time, or again) for " + OLD in text
    )


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
        ("FAILED!", one(said, "kmod_compat")),
    ):
        printed = [
            block
            for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
            if not kind and words in block
        ]
        (block,) = [block for block in printed if "db1" in block]
        for part in block.split("..."):
            assert clean(part) in clean(text)


def test_the_fleets_command_finds_the_builds_in_the_working_directory(said):
    # each in a turn of its own
    assert one(said, "outoftree.kmod.deploy", "-e kmod_boot=default").count("failed=0") == 2


def test_the_lists_signer_is_checked(said):
    assert "failed=0" in one(said, "kmod_checksums")


def test_ad_hoc_says_which_machines_would_lose_the_driver(said):
    assert "db2 | FAILED!" in one(said, "kmod_compat") and "mydriver: 1 of 2 kernels" in one(
        said, "kmod_compat"
    )


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
