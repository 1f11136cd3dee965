# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Around every module: plan, then apply unless in check mode, and one clear message on failure."""

import functools
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import task, turns
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Content, File, Link, Plan


class Exit(Exception):
    pass


class Module:
    """As much of an AnsibleModule as task.run touches."""

    def __init__(self, root, check_mode=False):
        self.params = {"root": str(root)}
        self.check_mode = check_mode

    def exit_json(self, **answer):
        raise Exit(dict(answer, failed=False))

    def fail_json(self, **answer):
        raise Exit(dict(answer, failed=True))


class Answer(NamedTuple):
    msg: object
    failed: bool = False
    waits: bool = False

    def as_dict(self):
        return self.msg if isinstance(self.msg, dict) else {"msg": self.msg}


def command(work, looks=False):
    """A command as those in commands/ are."""
    return SimpleNamespace(
        run=work, Options=SimpleNamespace(from_params=lambda params: params["root"]), LOOKS=looks
    )


def run(module, work, looks=False):
    with pytest.raises(Exit) as caught:
        task.run(module, command(work, looks))
    return caught.value.args[0]


def link(host, options, waits=False):
    plan = Plan(host)
    plan.put("/link", Link("target"))
    return plan, Answer("done", waits=waits)


def test_a_change_is_made_reported_and_not_made_again(tmp_path):
    answer = run(Module(tmp_path), link)
    assert answer["changed"] and answer["msg"] == "done" and answer["diff"][0]["after_header"] == "/link"
    assert (tmp_path / "link").is_symlink()
    assert run(Module(tmp_path), link)["changed"] is False


def test_check_mode_predicts_and_writes_nothing(tmp_path):
    predicted = run(Module(tmp_path, check_mode=True), link)
    assert list(tmp_path.iterdir()) == []
    assert run(Module(tmp_path), link) == predicted


def test_what_waits_for_files_is_shown_and_not_done(tmp_path):
    waiting = functools.partial(link, waits=True)
    assert run(Module(tmp_path, check_mode=True), waiting)["changed"]
    assert run(Module(tmp_path), waiting) == {"msg": "done", "changed": False, "diff": [], "failed": False}
    assert list(tmp_path.iterdir()) == []


def test_the_answer_takes_what_only_applying_finds_out(tmp_path):
    class Made(NamedTuple):
        size: int

        def applied(self, found):
            return self._replace(size=found["/made"])

        def as_dict(self):
            return self._asdict()

    def make(host, options):
        def chunks():
            yield b"12345"
            return 5

        plan = Plan(host)
        plan.put("/made", File(Content(0, "", chunks)))
        return plan, Made(0)

    assert run(Module(tmp_path, check_mode=True), make)["size"] == 0
    assert run(Module(tmp_path), make)["size"] == 5


def test_a_failure_is_one_message_with_a_code(tmp_path):
    def refuse(host, options):
        raise KmodError("/boot/x", "is damaged", "Copy it again", "COMP_CORRUPT")

    assert run(Module(tmp_path), refuse) == {
        "msg": "/boot/x: is damaged. Copy it again",
        "code": "COMP_CORRUPT",
        "failed": True,
    }


def test_a_root_that_is_not_there_is_a_failure(tmp_path):
    assert run(Module(tmp_path / "none"), link)["code"] == "PATH_MISSING"


@pytest.mark.parametrize("failed", [False, True])
def test_what_only_looks_takes_no_turn_and_fails_where_it_refuses(tmp_path, failed, monkeypatch):
    monkeypatch.setattr(turns, "Turns", None)
    answer = run(Module(tmp_path), lambda host, options: (Plan(host), Answer("1 of 2", failed)), looks=True)
    assert answer == dict({"msg": "1 of 2", "failed": failed}, **({} if failed else {"changed": False}))


def test_bytes_that_are_no_text_arrive_as_escapes(tmp_path):
    """Ansible takes no answer with a surrogate in it, as an odd byte in a file or a name on the host becomes."""
    odd = b"options d\xe9bug".decode("utf-8", "surrogateescape")
    told = {"msg": odd, "left": [{odd: (odd,)}], "size": 3, "build": None}
    answer = run(Module(tmp_path), lambda host, options: (Plan(host), Answer(told)))
    shown = "options d\\udce9bug"
    assert (answer["msg"], answer["left"], answer["size"], answer["build"]) == (
        shown,
        [{shown: [shown]}],
        3,
        None,
    )
    for failed in (False, True):
        answer = run(Module(tmp_path), lambda host, options: (Plan(host), Answer(odd, failed)), looks=True)  # noqa: B023
        assert answer["msg"] == shown
