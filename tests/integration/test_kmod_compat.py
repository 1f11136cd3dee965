# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_compat by the real ansible-playbook: what it answers, where it goes red, and what it says of bad
input.
"""

import os
import shutil
import subprocess
import tempfile

import pytest

from tests.forge import families
from tests.forge.ko import ko
from tests.forge.symvers import EXPORTS

RELEASES = ("6.1.0-1-amd64", "6.1.0-2-amd64", "6.1.0-10-amd64")
NEEDS = [("module_layout", 0x11), ("printk", 0x22), ("kfree", 0x33)]


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """A root with three kernels, of which the oldest differs in one symbol."""
    root = tmp_path_factory.mktemp("host")
    for release in RELEASES:
        exports = [
            (symbol, crc + (release == RELEASES[0] and symbol == "kfree"), *rest)
            for symbol, crc, *rest in EXPORTS
        ]
        families.kernel(root, release, exports=exports, family="el9")
    return root


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    good = ko("vendor", NEEDS, release=RELEASES[1])
    for name, data in {
        "vendor.ko": good,
        "text.ko": b"not a module\n",
        "half.ko": good[: len(good) // 2],
        "empty.ko": b"",
        "arm.ko": ko("arm", NEEDS, release=RELEASES[1], machine="aarch64"),
    }.items():
        (directory / name).write_bytes(data)
    (directory / "nothing").mkdir()
    (directory / "loop.ko").symlink_to("loop.ko")
    return directory


def compat(**options):
    return {"outoftree.kmod.kmod_compat": options}


@pytest.fixture(scope="session")
def answers(play, host, files, tmp_path_factory):
    root, src = str(host), str(files / "vendor.ko")
    bare = tmp_path_factory.mktemp("bare")
    return play(
        {
            "all": compat(root=root, src=src),
            "any": compat(root=root, src=src, require="any"),
            "none": compat(root=root, src=src, require="none"),
            "newest": compat(root=root, src=src, kernels="newest"),
            "pattern": compat(root=root, src=src, kernels=["6.1.0-[12]-*"], require="any"),
            "no such kernel": compat(root=root, src=src, kernels="5.*"),
            "no such file": compat(root=root, src=str(files / "none.ko")),
            "no such file on the host": compat(root=root, path="/opt/none.ko"),
            "empty directory": compat(root=root, src=str(files / "nothing")),
            "text": compat(root=root, src=str(files / "text.ko")),
            "half": compat(root=root, src=str(files / "half.ko")),
            "empty": compat(root=root, src=str(files / "empty.ko")),
            "other architecture": compat(root=root, src=str(files / "arm.ko")),
            "loop": compat(root=root, src=str(files / "loop.ko")),
            "no kernels": compat(root=str(bare), src=src),
            "no root": compat(root=str(bare / "none"), src=src),
            "nothing to judge": compat(root=root),
            "an empty path": compat(root=root, src=""),
            "an empty path among others": compat(root=root, src=[src, ""]),
            "no path at all": compat(root=root, src=[]),
            "an empty path on the host": compat(root=root, path=""),
            "booting": compat(root=root, src=src, require="booting", kernels=["6.1.0-1-*"]),
        }
    )


def test_the_default_is_an_assertion_on_all_kernels(answers):
    answer = answers["all"]
    assert (
        answer["failed"]
        and answer["msg"] == "vendor: 2 of 3 kernels; 6.1.0-1-amd64: 1 symbol differs (kfree)"
    )
    assert answer["compatible"] == list(RELEASES[1:]) and answer["kernels"] == list(RELEASES)


def test_any_kernel_will_do_where_that_is_asked(answers):
    assert not answers["any"]["failed"] and not answers["none"]["failed"]
    assert answers["any"]["changed"] is False


def test_kernels_are_chosen_by_name_and_pattern(answers):
    assert answers["newest"]["kernels"] == [RELEASES[2]] and not answers["newest"]["failed"]
    assert answers["pattern"]["kernels"] == list(RELEASES[:2])
    assert (
        answers["no such kernel"]["failed"]
        and "means none of the installed kernels" in answers["no such kernel"]["msg"]
    )


def test_the_kernels_that_will_boot_may_be_asked_for(answers):
    """Without a boot loader or a running kernel that is the newest; it is judged whatever was chosen."""
    answer = answers["booting"]
    assert not answer["failed"] and answer["booting"] == [RELEASES[2]]
    assert (answer["kernels"], answer["compatible"]) == ([RELEASES[0], RELEASES[2]], [RELEASES[2]])


def test_every_check_is_there_for_machines(answers):
    check = answers["all"]["checks"][0]
    assert (check["name"], check["kernel"], check["verdict"], check["errno"]) == (
        "vendor",
        RELEASES[0],
        "incompatible",
        "EINVAL",
    )
    finding = next(finding for finding in check["findings"] if finding["effect"] == "refuse")
    assert (finding["code"], finding["symbol"], finding["wanted"], finding["found"]) == (
        "SYMBOL_CRC",
        "kfree",
        "0x00000033",
        "0x00000034",
    )


@pytest.mark.parametrize(
    "case, words",
    [
        ("no such file", "none.ko"),
        ("no such file on the host", "/opt/none.ko: does not exist"),
        ("empty directory", "holds no .ko file"),
        ("text", "not an ELF file"),
        ("half", "vendor"),
        ("empty", "empty"),
        ("other architecture", "aarch64"),
        ("loop", "loop.ko"),
        ("no kernels", "there is no kernel"),
        ("no root", "is not a directory"),
        ("nothing to judge", "path and src: name no module"),
        ("an empty path", "is empty"),
        ("an empty path among others", "is empty"),
        ("no path at all", "is empty"),
        ("an empty path on the host", "is empty"),
    ],
)
def test_bad_input_is_one_clear_message(answers, case, words):
    assert answers[case]["failed"] and "Traceback" not in str(answers[case])
    if case != "half":
        assert words in answers[case]["msg"]


def test_nothing_is_written_and_no_description_is_echoed(answers, host):
    assert (
        not list(host.rglob(".*kmod-new")) and "_described" not in answers["all"]["invocation"]["module_args"]
    )


@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_every_way_to_run_it(play, host, files, pipelining):
    task = compat(root=str(host), src=str(files / "vendor.ko"), require="any")
    tasks = {
        "plain": task,
        "async": dict(task, **{"async": 60, "poll": 1}),
        "check": dict(task, check_mode=True),
    }
    answers = play(tasks, ANSIBLE_PIPELINING=pipelining)
    for answer in answers.values():
        assert not answer["failed"] and answer["compatible"] == list(RELEASES[1:]), answer


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("sudo"), reason="needs root and sudo to become another user"
)
@pytest.mark.parametrize("pipelining", ["true", "false"])
def test_as_an_unprivileged_user(play, host, files, pipelining):
    if pipelining == "false" and not shutil.which("setfacl"):
        pytest.skip("Ansible needs setfacl for this")
    # pytest's own directories are private, and this user has to read it
    with tempfile.TemporaryDirectory() as public:
        shutil.copytree(str(host), public + "/host")
        for path in (public, public + "/host"):
            os.chmod(path, 0o755)
        task = dict(
            compat(root=public + "/host", src=str(files / "vendor.ko"), require="any"),
            become=True,
            become_user="nobody",
        )
        answers = play(
            {"become": task, "check": dict(task, check_mode=True)},
            ANSIBLE_PIPELINING=pipelining,
            ANSIBLE_PYTHON_INTERPRETER=_public_python(),
            ANSIBLE_REMOTE_TEMP="/tmp/.ansible-kmod-test",
        )
    for answer in answers.values():
        assert not answer["failed"] and answer["compatible"] == list(RELEASES[1:]), answer


def _public_python():
    """A Python that the other user can run; the tests' own may lie in somebody's home."""
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if (
            os.path.exists(python)
            and subprocess.run(["sudo", "-u", "nobody", python, "-c", ""], check=False).returncode == 0
        ):
            return python
    pytest.skip("no Python that nobody can run")
