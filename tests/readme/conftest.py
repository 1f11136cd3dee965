# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the commands of the documentation are run in: a checkout as people have it, and a project of theirs."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import CHECKOUT
from tests.forge import fleet
from tests.readme import pages

OLD, MIDDLE, NEW = pages.RELEASES


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
def project_in(tmp_path_factory, kernels):
    """project_in(directory): a vendor's builds there, with a signed list, for hosts of which one has a newer kernel, not
    its default yet, that takes neither of them.
    """

    def make(directory):
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
        (directory / "driver.yml").write_text(pages.PLAY)
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

    return make
