# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All of kmod_report: it works on the controller, and starts nothing on any host."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError, from_oserror, printable
from ansible_collections.outoftree.kmod.plugins.plugin_utils import (
    _records,
    _report,
    _report_html,
    _report_markdown,
    _report_words,
)

OPTIONS = {
    "dest": {"type": "path", "required": True},
    "records": {"type": "list", "elements": "dict"},
    "since": {"type": "path"},
}
ANSWERS = ("kmod_looked", "kmod_preflight")  # variables of a host
LIMIT = 1 << 30  # an earlier report of a million hosts is smaller


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _checked, options = self.validate_argument_spec(argument_spec=OPTIONS)
        try:
            given = options["records"]
            records = _records.merged(told(task_vars or {}) if given is None else given)
            dest = os.path.abspath(options["dest"])
            since = options["since"] and os.path.abspath(options["since"])
            own = os.path.join(dest, "report.json")
            report = _report.made(records, earlier(since, own), since == own)
            files = {
                "report.json": _report.text(report),
                "report.md": _report_markdown.rendered(report),
                "report.html": _report_html.rendered(report),
            }
            changed = {
                os.path.join(dest, name): text
                for name, text in files.items()
                if had(os.path.join(dest, name)) != encoded(text)
            }
            if self._task.diff:
                result["diff"] = [difference(path, text) for path, text in changed.items()]
            if not self._task.check_mode:
                for path, text in changed.items():
                    put(path, encoded(text))
        except KmodError as error:
            return dict(result, failed=True, msg=str(error), code=error.code)
        return dict(
            result,
            changed=bool(changed),
            dest=dest,
            counts=report["counts"],
            rebuild=report["rebuild"],
            steps=[printable("%s. %s" % (step.what, step.why)) for step in _report_words.steps(report)],
            msg=sentence(report["counts"]),
        )


def told(task_vars: dict[str, Any]) -> list[Any]:
    """The records of all hosts that were asked, in this play or in one before: the fact ``kmod_preflight`` of the
    role, or what ``kmod_preflight`` answered (registered as ``kmod_looked``).

    A host of this play without either could not be told, and neither could one whose answer is a failure.
    """
    hostvars = task_vars.get("hostvars", {})
    every = task_vars.get("groups", {}).get("all", [])
    answers = {host: [hostvars[host][name] for name in ANSWERS if name in hostvars[host]] for host in every}
    here = task_vars.get("ansible_play_hosts_all", [])
    if not any(answers.get(host) for host in here):
        here = []  # a play of the controller alone
    nothing = [{"msg": "The host was not asked, or not reached."}]
    return [
        record(host, answer)
        for host in every
        if answers[host] or host in here
        for answer in answers[host] or nothing
    ]


def record(host: str, answer: Any) -> Any:
    """Of a host with several the latest counts (``_records.merged``)."""
    if not isinstance(answer, dict):
        return _records.without(host, "Its answer is none of kmod_preflight's.")
    if "version" in answer:
        return dict(answer, host=host)
    if isinstance(answer.get("record"), dict):
        return dict(answer["record"], host=host)
    return _records.without(host, str(answer.get("msg") or "kmod_preflight failed there."))


def earlier(since: str | None, own: str) -> dict[str, Any] | None:
    """The earlier report. There need be none yet in the place of the new one.

    Errors: PATH_MISSING, REPORT_DAMAGED, REPORT_NEWER.
    """
    if since is None:
        return None
    data = had(since)
    if data is None and since == own:
        return None
    if data is None:
        raise KmodError(since, "there is no such report", "Leave since out for the first one", "PATH_MISSING")
    return _report.read(data, since)


def had(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_oserror(path, error, "read the report") from None


def put(path: str, data: bytes) -> None:
    """The whole file or none of it, with the mode that a new file has for whoever runs."""
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
            try:
                file.write(data)
                mask = os.umask(0o022)
                os.umask(mask)
                os.fchmod(file.fileno(), 0o666 & ~mask)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise from_oserror(path, error, "write the report") from None


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def difference(path: str, text: str) -> dict[str, str]:
    """What Ansible shows: the lines that differ in report.md; of the others only that they do."""
    before = had(path) or b""
    if path.endswith(".md"):
        shown = before.decode("utf-8", "replace")
        return {"before": shown, "after": text, "before_header": path, "after_header": path}
    return {"prepared": "%s: %d bytes, %d before\n" % (path, len(encoded(text)), len(before))}


def sentence(counts: dict[str, int]) -> str:
    return "Of %s %s." % (
        _report_words.count(counts["hosts"], "host"),
        ", ".join(
            "%s %s" % (format(counts[state], ","), word.one if counts[state] == 1 else word.many)
            for state, word in _report_words.STATES.items()
            if counts[state]
        )
        or "nothing is known",
    )
