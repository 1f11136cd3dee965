# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builds are signed in their store, files where they lie, and nothing is half done."""

import hashlib
import json
import os
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import sign as command
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, sign
from ansible_collections.outoftree.kmod.plugins.module_utils.read import signature
from tests.forge.ko import RELEASE, ko

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
INPUT = hashlib.sha256(b"input").hexdigest()
OTHER_RELEASE = "5.14.0-2.el9.x86_64"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = tmp_path_factory.mktemp("keys")
    for name in ("old", "new"):
        argv = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "9",
            "-subj",
            "/CN=" + name,
        ]
        subprocess.run([*argv, "-keyout", name, "-out", name + ".crt"], cwd=str(made), check=True, stderr=-3)
    return made


@pytest.fixture
def store(tmp_path):
    place = str(tmp_path / "store")
    for release, digest in ((RELEASE, INPUT), (OTHER_RELEASE, INPUT[::-1])):
        with build_store.held(place, "vendor", release) as slot:
            about = {"version": "1.0", "input": digest, "module_sig_hash": "sha512", "compiler": "gcc"}
            slot.put(about, {"vendor.ko": ko(), "helper.ko": ko("helper"), "Module.symvers": b"symbols\n"})
    return place


def run(keys, name="new", check=False, **options):
    given = dict(key=str(keys / name), certificate=str(keys / (name + ".crt")), **options)
    return command.run(Host("/"), command.Options(**given), check)


def signer(path):
    with open(path, "rb") as file:
        found = signature.split(file.read())[1]
    return found and (found.signer, found.hash)


def contents(directory):
    return {
        os.path.join(at, name): open(os.path.join(at, name), "rb").read()
        for at, _below, names in os.walk(directory)
        for name in names
    }


def test_builds_are_signed_with_the_hash_of_their_kernel_and_say_by_whom(keys, store):
    answer = run(keys, store=store, driver="vendor")
    assert answer.changed and [row.state for row in answer.modules] == ["signed"] * 4
    for build in build_store.entries(store, "vendor"):  # which verifies the digests
        assert [signer(path) for path in build.modules] == [("new", "sha512")] * 2
        assert build.about["signer"]["subject"] == "new" and build.about["signer"]["hash"] == "sha512"
        assert (build.about["compiler"], build.contents()["Module.symvers"]) == ("gcc", b"symbols\n")
    assert build_store.find(store, INPUT).release == RELEASE
    before = contents(store)
    again = run(keys, store=store, driver="vendor")
    assert not again.changed and contents(store) == before
    assert "4 had that signature already" in again.as_dict()["msg"]


def test_one_release_alone(keys, store):
    run(keys, store=store, driver="vendor", release=RELEASE)
    one, other = (build_store.entry(store, "vendor", "1.0", each) for each in (RELEASE, OTHER_RELEASE))
    assert signer(one.modules[0]) and not signer(other.modules[0]) and "signer" not in other.about


def test_another_key_replaces_the_one_that_the_store_knows_of(keys, store):
    run(keys, "old", store=store, driver="vendor")
    answer = run(keys, store=store, driver="vendor")
    assert [row.state for row in answer.modules] == ["signed"] * 4
    data = contents(build_store.entry(store, "vendor", "1.0", RELEASE).directory)
    module = next(each for path, each in data.items() if path.endswith("vendor.ko"))
    assert signature.split(module)[0] == ko()


def test_check_mode_does_all_but_storing_it(keys, store):
    before = contents(store)
    answer = run(keys, check=True, store=store, driver="vendor")
    assert answer.changed and len(answer.diff) == 4 and contents(store) == before
    with pytest.raises(KmodError) as caught:
        command.run(
            Host("/"),
            command.Options(str(keys / "old"), str(keys / "new.crt"), store=store, driver="vendor"),
            True,
        )
    assert caught.value.code == "KEY_MISMATCH"


def test_a_build_that_was_tampered_with_is_not_signed(keys, store):
    build = build_store.entry(store, "vendor", "1.0", RELEASE)
    with open(build.path("vendor.ko"), "ab") as file:
        file.write(b"more")
    with pytest.raises(KmodError) as caught:
        run(keys, store=store, driver="vendor")
    assert caught.value.code == "BUILD_TAMPERED"


def test_a_build_is_signed_whole_or_not_at_all(keys, store, monkeypatch):
    signed, before = sign.signed, contents(store)

    def fails(path, *rest, **options):
        if path.endswith("vendor.ko"):
            raise KmodError(path, "cannot be signed", "", "SIGN_FAILED")
        return signed(path, *rest, **options)

    monkeypatch.setattr(sign, "signed", fails)
    with pytest.raises(KmodError):
        run(keys, store=store, driver="vendor")
    assert contents(store) == before


def test_files_are_signed_where_they_lie_and_keep_their_rights(keys, tmp_path):
    path = tmp_path / "build" / "vendor.ko"
    path.parent.mkdir()
    path.write_bytes(ko())
    path.chmod(0o640)
    (tmp_path / "link.ko").symlink_to(path)
    answer = run(keys, path=(str(tmp_path / "link.ko"),), hash="sha256")
    assert answer.modules == ((str(tmp_path / "link.ko"), RELEASE, "sha256", "signed"),)
    assert signer(path) == ("new", "sha256") and path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["vendor.ko"] and (tmp_path / "link.ko").is_symlink()
    assert not run(keys, path=(str(path.parent),), hash="sha256").changed


def test_the_hash_of_a_kernel_that_is_not_here_has_to_be_given(keys, tmp_path):
    (tmp_path / "vendor.ko").write_bytes(ko())
    with pytest.raises(KmodError) as caught:
        run(keys, path=(str(tmp_path / "vendor.ko"),))
    assert caught.value.code == "SIGN_HASH" and RELEASE in str(caught.value)


@pytest.mark.parametrize(
    "options,code",
    [
        ({}, "BAD_OPTION"),
        ({"path": ("/x",), "store": "/y", "driver": "vendor"}, "BAD_OPTION"),
        ({"store": "/y"}, "BAD_OPTION"),
        ({"store": "/nowhere", "driver": "vendor"}, "NO_BUILDS"),
        ({"path": ("/nowhere",)}, "PATH_MISSING"),
    ],
)
def test_bad_options(keys, options, code):
    with pytest.raises(KmodError) as caught:
        run(keys, **options)
    assert caught.value.code == code


def test_nothing_of_the_key_is_in_the_answer(keys, store):
    told = json.dumps(run(keys, store=store, driver="vendor").as_dict())
    private = (keys / "new").read_text().splitlines()[1:-1]
    assert not [line for line in private if line in told] and str(keys / "new") not in told


@pytest.mark.parametrize(
    "name,certificate,code", [("new", "old.crt", "KEY_MISMATCH"), ("none", "new.crt", "PATH_MISSING")]
)
def test_a_key_that_will_not_do_is_known_before_there_is_anything_to_sign(
    keys, tmp_path, name, certificate, code
):
    options = {"key": str(keys / name), "certificate": str(keys / certificate)}
    with pytest.raises(KmodError) as caught:
        command.run(Host("/"), command.Options(store=str(tmp_path), driver="vendor", **options))
    assert caught.value.code == code
    options["key"], options["certificate"] = str(keys / "new"), str(keys / "new.crt")
    with pytest.raises(KmodError) as caught:
        command.run(Host("/"), command.Options(store=str(tmp_path), driver="vendor", **options))
    assert caught.value.code == "NO_BUILDS"


@pytest.mark.parametrize("where", [{"path": ["store/vendor/1.0"]}, {"store": "store", "driver": "vendor"}])
def test_relative_paths_are_from_the_working_directory(keys, store, monkeypatch, where):
    monkeypatch.chdir(os.path.dirname(store))
    params = dict.fromkeys(command.Options._fields)
    params.update(where, key=str(keys / "new"), certificate=str(keys / "new.crt"), hash="sha256")
    answer = command.run(Host("/"), command.Options.from_params(params))
    assert [module.state for module in answer.modules].count("signed") == 4
