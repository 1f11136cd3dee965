# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The execution environment of execution-environment.yml: built by ``make ee``, then used as AWX uses one, by
ansible-runner. In place of the base image that the definition names stands the same system, made by mmdebstrap."""

import os
import re
import shutil
import subprocess

import pytest

from tests.lab import debian
from tests.ways.given import has_driver, run, settings

TOOLS = ("ansible-builder", "ansible-runner", "podman", "runc", "mmdebstrap", "make")
NAME, BASE = "localhost/outoftree-kmod-ee", "localhost/outoftree-kmod-ee-base"
LIMITS = ("--runtime=runc", "--ulimit=nofile=1024:20000", "--ulimit=nproc=1024:2000")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason="needs root and %s" % ", ".join(TOOLS),
)


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    """The image's name."""
    scratch = tmp_path_factory.mktemp("ee")
    made = debian.once(
        debian.cache() / "containers/trixie-slim",
        lambda directory: debian.system("trixie", directory / "root.tar", ["ca-certificates"]),
    )
    subprocess.run(
        ["podman", "--runtime=runc", "import", "--quiet", str(made / "root.tar"), BASE], check=True
    )
    # The package index is reached as this machine reaches it.
    build = [*LIMITS, "--network=host", "-v /etc/ssl/certs:/etc/ssl/certs:ro"]
    options = "--build-arg EE_BASE_IMAGE=%s --extra-build-cli-args '%s'" % (BASE, " ".join(build))
    failed, said = run(["make", "-o", "build/venv/.ways", "ee", "EE_OPTIONS=" + options], settings(scratch))
    assert not failed, said[-3000:]
    return NAME


def inside(image, command):
    done = subprocess.run(
        [
            "podman",
            "--runtime=runc",
            "run",
            "--rm",
            "--network=none",
            *LIMITS[1:],
            image,
            "sh",
            "-c",
            command,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_what_the_collection_needs_is_in_it(image):
    failed, said = inside(
        image,
        "python3 -c 'import elftools'; ansible-galaxy collection list; which gpg ssh-keygen minisign",
    )
    assert not failed and re.search(r"outoftree\.kmod +\d", said) and said.count("/usr/bin/") == 3, said


def test_a_job_in_it_deploys_a_driver_and_the_next_one_changes_nothing(image, hosts, builds, tmp_path):
    roots = hosts(2)
    job = tmp_path / "job"
    for name in ("inventory", "project"):
        (job / name).mkdir(parents=True)
    (job / "inventory/hosts.yml").write_text(
        "all:\n  hosts:\n"
        + "".join("    %s: {kmod_root: /hosts/%s}\n" % (root.name, root.name) for root in roots)
        + "  vars: {ansible_connection: local, kmod_driver: mydriver, kmod_src: /builds}\n"
    )
    (job / "project/site.yml").write_text("- import_playbook: outoftree.kmod.deploy\n")
    mounts = ["%s:/hosts" % roots[0].parent, "%s:/builds:ro" % builds]
    options = [*LIMITS, "--network=none", "--user=root"]  # the hosts' roots are root's
    for changed in (1, 0):
        failed, said = run(
            ["ansible-runner", "run", job, "-p", "site.yml", "--process-isolation"]
            + ["--process-isolation-executable", "podman", "--container-image", image]
            + ["--container-option=" + option for option in options]
            + ["--container-volume-mount=" + mount for mount in mounts],
            settings(tmp_path),
        )
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
        assert not failed and len(re.findall(r"changed=%d " % changed, plain)) == 2, said
    assert [len(has_driver(root)) for root in roots] == [3, 3]
