# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A build in the store is found by what it was made of, is there whole or not at all, and is what was put
there.
"""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store, whole

ONE, OTHER = "1" * 64, "2" * 64
RELEASE = "6.1.0-56-amd64"
FILES = {"drv.ko": b"module", "Module.symvers": b"0x1\tdrv_open\n"}


@pytest.fixture
def store():
    """In memory, where that can be: each write is synced."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        yield directory + "/store"


def put(store, digest=ONE, version="1.0", files=None, driver="drv", **about):
    with build_store.held(store, driver, RELEASE) as slot:
        return slot.put(dict(about, version=version, input=digest), files or FILES)


def fail(store, digest=ONE):
    with build_store.held(store, "drv", RELEASE) as slot:
        return slot.fail(digest, {"code": "BUILD_FAILED", "message": "no"}, b"gcc: no\n")


def code_of(work, *arguments, **named):
    with pytest.raises(KmodError) as caught:
        work(*arguments, **named)
    assert str(caught.value).count(": ") and caught.value.then
    return caught.value.code


def test_a_build_is_found_by_its_input_and_lies_where_deploy_takes_it(store):
    made = put(store, compiler="gcc 12")
    assert made.directory == "%s/drv/1.0/%s" % (store, RELEASE)
    assert build_store.find(store, ONE) == made and build_store.find(store, OTHER) is None
    assert build_store.entry(store, "drv", "1.0", RELEASE) == made
    assert made.modules == [made.directory + "/drv.ko"] and made.contents() == FILES
    assert made.about["compiler"] == "gcc 12"
    assert sorted(os.listdir(made.directory)) == ["Module.symvers", "build.json", "drv.ko"]


def test_a_build_of_another_input_takes_its_place_and_the_earlier_input_is_forgotten(store):
    put(store)
    made = put(store, OTHER, files={"drv.ko": b"other"})
    assert build_store.find(store, ONE) is None
    assert build_store.find(store, OTHER) == made and made.contents() == {"drv.ko": b"other"}
    assert os.listdir(store + "/by-input") == [OTHER]


def test_an_entry_can_be_replaced_by_its_signed_form(store):
    made = put(store)
    with build_store.held(store, made.driver, made.release) as slot:
        signed = slot.put(dict(made.about, signer="me"), dict(made.contents(), **{"drv.ko": b"signed"}))
    assert build_store.find(store, ONE) == signed and signed.about["signer"] == "me"
    assert signed.contents() == {"drv.ko": b"signed", "Module.symvers": FILES["Module.symvers"]}


def test_versions_and_drivers_lie_beside_each_other(store):
    every = [put(store, ONE, "1.0"), put(store, OTHER, "2.0"), put(store, "3" * 64, driver="zzz")]
    assert build_store.entries(store) == every
    assert build_store.entries(store, "drv") == every[:2]
    assert build_store.entries(store, "none") == build_store.entries(store + "-none") == []


def test_a_store_that_was_copied_by_hand_is_a_store(store, tmp_path):
    made = put(store)
    shutil.copytree(store, str(tmp_path / "copy"), symlinks=True)
    assert build_store.find(str(tmp_path / "copy"), ONE).contents() == made.contents()
    (tmp_path / "only").mkdir()
    shutil.copytree(store + "/drv", str(tmp_path / "only/drv"))
    assert len(build_store.entries(str(tmp_path / "only"))) == 1


def test_a_failure_is_kept_with_its_log_until_a_build_of_that_input_succeeds(store):
    before = put(store, OTHER)
    failed = fail(store)
    assert build_store.failure(store, ONE) == failed
    assert Path(failed.log).read_bytes() == b"gcc: no\n"
    assert failed.reason == {"code": "BUILD_FAILED", "message": "no", "driver": "drv", "release": RELEASE}
    assert build_store.failure(store, OTHER) is None
    assert build_store.find(store, OTHER) == before
    fail(store)
    put(store, ONE)
    assert build_store.failure(store, ONE) is None and os.listdir(store + "/failed") == []


def test_a_damaged_failure_is_none(store):
    failed = fail(store)
    for text in ("", "[]", "{}", "nonsense"):
        Path(failed.directory, "reason.json").write_text(text)
        assert build_store.failure(store, ONE) is None


def _changed(directory):
    (directory / "drv.ko").write_bytes(b"evil!!")


def _added(directory):
    (directory / "more.ko").write_bytes(b"evil")


def _linked(directory):
    (directory / "drv.ko").unlink()
    (directory / "drv.ko").symlink_to("/etc/passwd")


def _about(**changes):
    def tamper(directory):
        about = json.loads((directory / "build.json").read_text())
        (directory / "build.json").write_text(json.dumps(dict(about, **changes)))

    return tamper


@pytest.mark.parametrize(
    "tamper",
    [
        _changed,
        _added,
        _linked,
        lambda directory: (directory / "drv.ko").unlink(),
        lambda directory: (directory / "build.json").unlink(),
        lambda directory: (directory / "build.json").write_text("{"),
        lambda directory: (directory / "build.json").write_text("[]"),
        _about(release="6.1.0-57-amd64"),
        _about(driver="other"),
        _about(files={"../drv.ko": ONE}),
        _about(input="x"),
    ],
)
def test_a_build_that_was_tampered_with_is_an_error_and_can_be_built_again(store, tamper):
    directory = Path(put(store).directory)
    tamper(directory)
    assert code_of(build_store.entry, store, "drv", "1.0", RELEASE) == "BUILD_TAMPERED"
    assert code_of(build_store.entries, store) == "BUILD_TAMPERED"
    made = put(store)
    assert build_store.find(store, ONE) == made and made.contents() == FILES


def checked(directory, copy=None):
    build_store.check_file(str(directory / "drv.ko"), str(copy or directory / "drv.ko"))


@pytest.mark.parametrize(
    "tamper",
    [
        lambda directory: (directory / "drv.ko").write_bytes(b"changed"),
        lambda directory: _about(files={"other.ko": ONE})(directory),
        lambda directory: _about(files={"drv.ko": ONE})(directory),
        lambda directory: _about(files={"drv.ko": hashlib.sha256(b"module").hexdigest(), "b.ko": ONE})(
            directory
        ),
    ],
)
def test_a_file_of_a_build_that_was_tampered_with_is_refused_wherever_the_build_was_copied_to(
    store, tmp_path, tamper
):
    copied = tmp_path / "by-hand"
    shutil.copytree(put(store).directory, str(copied))
    checked(copied)
    tamper(copied)
    assert code_of(checked, copied) == "BUILD_TAMPERED"


def test_what_is_read_is_what_is_checked_and_what_others_call_build_json_is_theirs(store, tmp_path):
    directory = Path(put(store).directory)
    (tmp_path / "copy").write_bytes(b"changed since")
    assert code_of(checked, directory, tmp_path / "copy") == "BUILD_TAMPERED"
    for text in ("{}", "[]", "no json", '{"files": {"drv.ko": "x"}}', '{"files": [], "input": "x"}'):
        (directory / "build.json").write_text(text)
        checked(directory)
    (directory / "build.json").unlink()
    checked(directory)


def test_an_input_that_leads_out_of_the_store_is_an_error(store, tmp_path):
    put(str(tmp_path / "other"))
    put(store)
    Path(store, "by-input", ONE).unlink()
    Path(store, "by-input", ONE).symlink_to(str(tmp_path / "other/drv/1.0" / RELEASE))
    assert code_of(build_store.find, store, ONE) == "BUILD_TAMPERED"


def test_a_store_of_a_newer_collection_is_not_misread(store):
    _about(format=99)(Path(put(store).directory))
    assert code_of(build_store.find, store, ONE) == "BUILD_STORE_NEWER"


@pytest.mark.parametrize("driver", ["by-input", "failed", "../x", "", ".locks"])
def test_no_driver_is_called_as_a_part_of_the_store(store, driver):
    assert code_of(put, store, driver=driver) == "DRIVER_NAME"


@pytest.mark.parametrize("version", ["", "..", "1/2", ".1", "1\n", "x" * 65])
def test_a_version_that_is_no_name_of_a_directory_is_refused(store, version):
    assert code_of(put, store, version=version) == "BUILD_VERSION"
    assert put(store, version="1:2.11.1~dfsg-8.4+b1").version == "1:2.11.1~dfsg-8.4+b1"


def test_a_release_that_no_kernel_has_is_refused(store):
    with pytest.raises(KmodError) as caught, build_store.held(store, "drv", "../6.1"):
        pass
    assert caught.value.code == "RELEASE_NAME"


def test_a_full_disk_leaves_everything_as_it_was(store, monkeypatch):
    made = put(store)
    write = whole._write

    def full(path, data):
        write(path, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(whole, "_write", full)
    assert code_of(put, store, OTHER) == "ENOSPC"
    assert code_of(fail, store) == "ENOSPC"
    assert build_store.find(store, ONE) == made and build_store.failure(store, ONE) is None
    assert os.listdir(store + "/drv/1.0") == [RELEASE]


def test_a_run_that_is_killed_at_any_point_leaves_a_whole_build_or_none(store):
    """The old one, nothing in between, then the new one: and nothing else is left once the next run begins."""
    seen = []
    for at in range(100):
        shutil.rmtree(store, ignore_errors=True)
        put(store)
        ended = _killed_at(at, lambda: put(store, OTHER, files={"drv.ko": b"other"}))
        with build_store.held(store, "drv", RELEASE):
            made = build_store.entry(store, "drv", "1.0", RELEASE)
        assert os.listdir(store + "/drv/1.0") == [RELEASE]
        seen.append(made.input)
        assert build_store.find(store, ONE) == (made if made.input == ONE else None)
        if ended:
            break
    assert at > 5 and seen == sorted(seen) and set(seen) == {ONE, OTHER}


def _killed_at(number, work):
    """Whether a process that is killed at its call of that number to the system got to its end before."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1] == 0
    left = [number]

    def counted(call):
        def wrapped(*arguments, **named):
            if not left[0]:
                os._exit(1)
            left[0] -= 1
            return call(*arguments, **named)

        return wrapped

    for name in ("mkdir", "rename", "symlink", "unlink", "rmdir", "fsync", "fchmod"):
        setattr(os, name, counted(getattr(os, name)))
    work()
    os._exit(0)


def _write_many(store, letter):
    for number in range(30):
        put(store, letter * 64, files={"drv.ko": letter.encode() * (1000 + number)})


def test_two_runs_that_write_at_once_never_mix(store):
    others = [multiprocessing.Process(target=_write_many, args=(store, letter)) for letter in "ab"]
    for other in others:
        other.start()
    looks = 0
    while any(other.is_alive() for other in others):
        for letter in "ab":
            made = build_store.find(store, letter * 64)
            looks += made is not None
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0] and looks
    made = build_store.entry(store, "drv", "1.0", RELEASE)
    assert set(made.contents()["drv.ko"]) == {ord(made.input[0])}


def _hold(store, ready, done):
    with build_store.held(store, "drv", RELEASE):
        ready.set()
        done.wait(20)


def test_a_slot_is_waited_for_and_another_drivers_is_free(store):
    ready, done = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=_hold, args=(store, ready, done))
    other.start()
    ready.wait(20)
    with build_store.held(store, "drv", "6.1.0-57-amd64", wait=0), build_store.held(store, "b", RELEASE):
        pass
    began = time.monotonic()
    with pytest.raises(KmodError) as caught, build_store.held(store, "drv", RELEASE, wait=0.3):
        pass
    assert caught.value.code == "LOCKED" and 0.3 <= time.monotonic() - began < 5
    done.set()
    other.join()
    with build_store.held(store, "drv", RELEASE, wait=0):
        pass
