# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Around every module: plan, then apply unless in check mode, and one clear message on failure."""
import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.plan import Link, Plan


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


def run(module, work):
    with pytest.raises(Exit) as caught:
        task.run(module, work)
    return caught.value.args[0]


def link(host, params):
    plan = Plan(host)
    plan.put("/link", Link("target"))
    return plan, {"msg": "done"}


def test_a_change_is_made_reported_and_not_made_again(tmp_path):
    answer = run(Module(tmp_path), link)
    assert answer["changed"] and answer["msg"] == "done" and answer["diff"][0]["after_header"] == "/link"
    assert (tmp_path / "link").is_symlink()
    assert run(Module(tmp_path), link)["changed"] is False


def test_check_mode_predicts_and_writes_nothing(tmp_path):
    predicted = run(Module(tmp_path, check_mode=True), link)
    assert list(tmp_path.iterdir()) == []
    assert run(Module(tmp_path), link) == predicted


def test_a_failure_is_one_message_with_a_code(tmp_path):
    def refuse(host, params):
        raise KmodError("/boot/x", "is damaged", "Copy it again", "COMP_CORRUPT")

    assert run(Module(tmp_path), refuse) == {"msg": "/boot/x: is damaged. Copy it again", "code": "COMP_CORRUPT", "failed": True}


def test_a_root_that_is_not_there_is_a_failure(tmp_path):
    assert run(Module(tmp_path / "none"), link)["code"] == "PATH_MISSING"


@pytest.mark.parametrize("well", [True, False])
def test_a_report_fails_unless_all_is_well(tmp_path, well):
    with pytest.raises(Exit) as caught:
        task.report(Module(tmp_path), lambda host, params: (well, {"msg": "1 of 2"}))
    assert caught.value.args[0] == dict({"msg": "1 of 2", "failed": not well}, **({"changed": False} if well else {}))


def test_bytes_that_are_no_text_arrive_as_escapes(tmp_path):
    """Ansible takes no answer with a surrogate in it, as an odd byte in a file or a name on the host becomes."""
    odd = b"options d\xe9bug".decode("utf-8", "surrogateescape")
    work = lambda host, params: (Plan(host), {"msg": odd, "left": [{odd: (odd,)}], "size": 3, "build": None})  # noqa: E731
    answer = run(Module(tmp_path), work)
    shown = "options d\\udce9bug"
    assert (answer["msg"], answer["left"], answer["size"], answer["build"]) == (shown, [{shown: [shown]}], 3, None)
    for well in (True, False):
        with pytest.raises(Exit) as caught:
            task.report(Module(tmp_path), lambda host, params: (well, {"msg": odd}))  # noqa: B023
        assert caught.value.args[0]["msg"] == shown
