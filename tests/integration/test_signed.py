# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""By the real ansible-playbook: a vendor's list and its signature are checked before anything reaches a host,
and what was checked is what does.
"""

import hashlib
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files, _supply
from tests.forge import families
from tests.forge.ko import RELEASE, ko

pytestmark = pytest.mark.skipif(
    not shutil.which("ssh-keygen") or not shutil.which("depmod"), reason="needs ssh-keygen and depmod"
)

BUILD = RELEASE


@pytest.fixture(scope="session")
def vendor(tmp_path_factory):
    """What a vendor ships: builds/RELEASE/vendor.ko.xz and more, a list, its signature and who may sign; and
    lists that are wrong in one way each.
    """
    directory = tmp_path_factory.mktemp("vendor")
    (directory / "builds" / BUILD).mkdir(parents=True)
    module = directory / "builds" / BUILD / "vendor.ko"
    module.write_bytes(ko(release=BUILD))
    line = "%s  builds/%s/vendor.ko\n" % (hashlib.sha256(module.read_bytes()).hexdigest(), BUILD)
    for name, text in {
        "good": line,
        "other": line.replace(line[:8], "deadbeef"),
        "lacks": line.replace("vendor.ko", "else.ko"),
    }.items():
        (directory / name).write_text(text)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")], check=True)
    subprocess.run(
        [
            "ssh-keygen",
            "-q",
            "-Y",
            "sign",
            "-f",
            str(directory / "key"),
            "-n",
            "file",
            str(directory / "good"),
        ],
        check=True,
    )
    (directory / "allowed").write_text("release@vendor.example " + (directory / "key.pub").read_text())
    return directory


@pytest.fixture(scope="session")
def answers(play, vendor, tmp_path_factory):
    tasks = {}
    roots = {}
    signed = {"checksums": "good", "signature": "good.sig", "keyring": "allowed"}
    cases = {
        "listed": {"checksums": "good"},
        "signed": signed,
        "another file": {"checksums": "other"},
        "not listed": {"checksums": "lacks"},
        "signature of another list": dict(signed, checksums="other"),
        "keyring alone": {"checksums": "good", "keyring": "allowed"},
        "signature alone": {"checksums": "good", "signature": "good.sig"},
        "no list": {"checksums": "none"},
        "empty": dict(signed, keyring=""),
        "null": dict(signed, signature=None),
    }
    for name, options in cases.items():
        for module in ("kmod_link", "kmod_compat"):
            root = roots["%s, %s" % (module, name)] = tmp_path_factory.mktemp("host")
            families.kernel(root, BUILD)
            given = {option: str(vendor / value) if value else value for option, value in options.items()}
            given.update({"driver": "vendor"} if module == "kmod_link" else {})
            tasks["%s, %s" % (module, name)] = {
                "outoftree.kmod." + module: dict(given, root=str(root), src=str(vendor / "builds"))
            }
    given = {"root": str(roots["kmod_link, listed"]), "driver": "vendor", "checksums": str(vendor / "good")}
    tasks["files on the host"] = {"outoftree.kmod.kmod_link": dict(given, path="/opt")}
    tasks["removal"] = {"outoftree.kmod.kmod_link": dict(given, state="absent")}
    return play(tasks)


@pytest.mark.parametrize("module", ["kmod_link", "kmod_compat"])
def test_what_the_vendor_listed_and_signed_is_deployed_and_the_signer_named(answers, module):
    assert not answers[module + ", listed"]["failed"] and "signer" not in answers[module + ", listed"]
    assert not answers[module + ", signed"]["failed"], answers[module + ", signed"]
    assert answers[module + ", signed"]["signer"].startswith("release@vendor.example (SHA256:")


@pytest.mark.parametrize("module", ["kmod_link", "kmod_compat"])
@pytest.mark.parametrize(
    "case, code",
    [
        ("another file", "CHECKSUM_DIFFERS"),
        ("not listed", "CHECKSUM_UNLISTED"),
        ("signature of another list", "SIGNATURE_BAD"),
        ("keyring alone", "BAD_OPTION"),
        ("signature alone", "BAD_OPTION"),
        ("no list", "PATH_MISSING"),
        ("empty", "BAD_OPTION"),
        ("null", "BAD_OPTION"),
    ],
)
def test_anything_else_is_refused_before_the_host_is_asked(answers, module, case, code):
    answer = answers["%s, %s" % (module, case)]
    assert answer["failed"] and answer["code"] == code and "Traceback" not in str(answer), answer
    assert "invocation" not in answer  # no module was run


def test_a_list_says_nothing_of_files_on_the_host_and_does_not_hinder_removal(answers):
    assert answers["files on the host"]["failed"] and answers["files on the host"]["code"] == "BAD_OPTION"
    assert answers["removal"]["changed"]


@pytest.fixture
def own(monkeypatch, tmp_path):
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(_files, "private", lambda: str(tmp_path / "private"))


def test_the_bytes_that_were_checked_are_those_that_are_read_and_sent_whatever_becomes_of_the_file(
    own, vendor, tmp_path
):
    shipped = tmp_path / "shipped"
    shutil.copytree(str(vendor), str(shipped))
    path = shipped / "builds" / BUILD / "vendor.ko"
    good = path.read_bytes()
    supply = _supply.read(str(shipped / "good"), None, None)
    (file,) = _files.found([str(shipped / "builds")], supply)
    path.write_bytes(ko("mallory", release=BUILD))
    described = _files.described(file)
    with open(file.copy, "rb") as sent:
        assert (
            hashlib.sha256(sent.read()).hexdigest() == described["sha256"] == hashlib.sha256(good).hexdigest()
        )
    with pytest.raises(_files.KmodError) as caught:
        _files.found([str(shipped / "builds")], supply)
    assert caught.value.code == "CHECKSUM_DIFFERS"


def test_of_a_package_it_is_the_package_that_is_listed(own, tmp_path):
    package = tmp_path / "vendor.deb"
    tree = tmp_path / "tree"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib/vendor.ko").write_bytes(ko(release=BUILD))
    subprocess.run(["tar", "-C", str(tree), "-cf", str(tmp_path / "data.tar"), "lib"], check=True)
    subprocess.run(["ar", "-rcS", str(package), str(tmp_path / "data.tar")], check=True)
    (tmp_path / "list").write_text("%s *vendor.deb\n" % hashlib.sha256(package.read_bytes()).hexdigest())
    supply = _supply.read(str(tmp_path / "list"), None, None)
    (file,) = _files.found([str(package)], supply)
    assert file.path == str(package) + "/lib/vendor.ko"
    package.write_bytes(package.read_bytes() + b"\n")
    with pytest.raises(_files.KmodError) as caught:
        _files.found([str(package)], supply)
    assert caught.value.code == "CHECKSUM_DIFFERS"
