# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every version of pyelftools that is promised reads the same out of the same files."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import CHECKOUT
from tests.lab import debian

REQUIREMENT = re.search(
    r"^pyelftools>=([\d.]+),<([\d.]+)", (Path(CHECKOUT) / "requirements.txt").read_text(), re.M
)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

READ = """
import hashlib, json, sys
import elftools
from tests.forge import ko as forged
from tests.forge.ko import Export
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko

def read(data):
    try:
        return ko.parse(data, "/a.ko").as_dict()
    except KmodError as error:
        return error.code

found = {}
for machine in ("i686", "ppc64", "x86_64"):
    module = forged.ko(machine=machine, exports=[Export("one", 7), Export("two", 7, True, "NS")])
    found[machine] = read(module)
    for at in range(4, 64):  # each byte of the header but the magic
        found["%s %d" % (machine, at)] = [read(module[:at] + bytes([value]) + module[at + 1:]) for value in (0, 3, 255)]
for number in range(300):  # each machine that there is, and some that there are not
    found["machine %d" % number] = read(forged.ko(e_machine=number))
codes = {each for values in found.values() for each in (values if isinstance(values, list) else [values]) if isinstance(each, str)}
text = json.dumps(found, sort_keys=True)
json.dump([elftools.__version__, sorted(codes), hashlib.sha256(text.encode()).hexdigest()], sys.stdout)
"""


def number(version):
    return tuple(int(part) for part in version.split("."))


@functools.lru_cache()
def promised():
    """The versions within the requirement that pip's index has; none without a network."""
    done = subprocess.run(
        PIP + ["index", "versions", "pyelftools"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    found = re.search(r"^Available versions: (.*)", done.stdout.decode(), re.M)
    lowest, above = (number(each) for each in REQUIREMENT.groups())
    versions = sorted(found.group(1).split(", "), key=number) if found else []
    return [version for version in versions if lowest <= number(version) < above]


def reading(directory=None):
    """[version, codes of errors, digest of all that was read] with the pyelftools in a directory, or with the
    one that is installed.
    """
    path = [str(directory)] * bool(directory) + [str(CHECKOUT)]
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.decode())


def fetched(version):
    """Where that version lies: outside of the checkout, and fetched once."""
    return debian.once(
        debian.cache() / "pyelftools" / version,
        lambda path: subprocess.run(
            PIP + ["install", "--quiet", "--no-deps", "--target", str(path), "pyelftools==" + version],
            check=True,
            stderr=subprocess.DEVNULL,
        ),
    )


def test_no_header_at_all_is_an_error():
    assert reading()[1] == []


def test_every_version_that_is_promised_reads_the_same():
    versions = promised()
    if not versions:
        pytest.skip("pip's index is not to be reached")
    assert versions[0] == REQUIREMENT.group(1)
    answers = {version: reading(fetched(version)) for version in versions}
    assert [answer[0] for answer in answers.values()] == versions
    assert {tuple(map(str, answer[1:])) for answer in answers.values()} == {("[]", reading()[2])}
