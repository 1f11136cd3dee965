# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half, which plans, has kmod_build and kmod_sign work on the build host (where the task is
delegated to), and takes what they make into the controller's store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.utils.display import Display

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import sign
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError, printable
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import build_store
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files, _rebuild
from ansible_collections.outoftree.kmod.plugins.plugin_utils._action import KmodAction, bundle_pyelftools

MODULES = "outoftree.kmod."
OPTIONS = (
    "source",
    "version",
    "depends",
    "overrides",
    "ignore",
    "headers",
    "jobs",
    "timeout",
    "memory",
    "size",
    "root",
)
TOLD = ("result", "msg", "code", "errors", "log", "seconds", "directory", "findings", "repeated")


class ActionModule(KmodAction):
    _supports_check_mode = True
    _requires_connection = True
    key_tried = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super(KmodAction, self).run(tmp, task_vars)
        self.task_vars = task_vars or {}
        _validated, args = self.validate_argument_spec(
            {
                "records": {"type": "list", "elements": "dict", "required": True},
                "seen": {"type": "list", "elements": "dict", "default": []},
                "sources": {"type": "dict", "required": True},
                "store": {"type": "str", "required": True},  # of the build host, whose ~ it may begin with
                "dest": {"type": "path"},
                "before": {"type": "list", "elements": "dict", "default": []},
                "install": {"type": "bool", "default": False},
                "force": {"type": "bool", "default": False},
                "sign": {
                    "type": "dict",
                    "options": {
                        "key": {"type": "str", "required": True, "no_log": False},
                        "certificate": {"type": "path"},
                        "passphrase": {"type": "str", "no_log": True},
                        "host": {"type": "str", "choices": ["controller", "build"], "default": "controller"},
                    },
                },
            }
        )
        try:
            bundle_pyelftools()
            return dict(result, **self.rebuild(args))
        except KmodError as error:
            return dict(result, failed=True, msg=str(error), code=error.code)

    def rebuild(self, args: dict[str, Any]) -> dict[str, Any]:
        """Errors: BAD_OPTION, RECORD_NEWER, RECORD_DAMAGED, PLAN_DATA."""
        self.args = args
        self.local = self._connection.transport == "local"
        self.dest = os.path.abspath(args["dest"] or os.path.expanduser(args["store"]))
        self.store = os.path.abspath(os.path.expanduser(args["store"])) if self.local else args["store"]
        self.changed = False
        versions = _rebuild.versions(args["sources"])
        needed = _rebuild.needed(args["sources"])
        versions = {driver: versions[driver] for driver in needed}  # the order that they are deployed in
        self.sent: dict[str, str] = {}
        records = _rebuild.wanting(
            args["records"],
            args["seen"],
            versions,
            install=args["install"],
            signs=bool(args["sign"]),
            needed=needed,
        )
        outcome = _rebuild.carry_out(records, self.build, args["before"], needed)
        failed = [row for row in outcome.rows if row["result"] == _rebuild.FAILED]
        return {
            "changed": self.changed,
            "builds": outcome.rows,
            "failed_builds": failed,
            "waiting": _rebuild.waiting(failed, str(self._task.delegate_to or "the build host")),
            "again": outcome.again and not self._task.check_mode,
            "rest": outcome.rest,
            "no_source": _rebuild.without_source(args["records"], versions),
            "store": self.dest,
            "deploy": self.deployable(records, versions),
            "msg": summary(outcome.rows),
        }

    # One build

    def build(self, todo: _rebuild.Todo, number: int, count: int) -> dict[str, Any]:
        what = "%s %s for %s" % (todo.driver, self.args["sources"][todo.driver]["version"], todo.release)
        say("build %d of %d: %s%s" % (number, count, what, also(todo)))
        began = time.monotonic()
        self.try_key(todo)
        try:
            row = self.made(todo)
        except KmodError as error:
            row = {"result": _rebuild.FAILED, "code": error.code, "msg": str(error)}
        row = {"seconds": int(time.monotonic() - began), "errors": [], "log": None, **row}
        say("build %d of %d: %s: %s" % (number, count, what, told(row)))
        return row

    def made(self, todo: _rebuild.Todo) -> dict[str, Any]:
        answer = self.module("kmod_build", self.options(todo.driver, todo.release))
        row = {name: answer[name] for name in TOLD if answer.get(name) is not None}
        if answer.get("failed") or "result" not in answer:
            row.setdefault("msg", str(answer.get("module_stderr") or answer.get("msg") or "no answer")[-800:])
            return dict(row, result=_rebuild.FAILED, code=answer.get("code") or "BUILD_FAILED")
        self.changed |= bool(answer.get("changed"))
        if row["result"] in (_rebuild.BUILT, _rebuild.KEPT):
            if not self._task.check_mode:
                self.taken(todo, answer)
            row["seconds"] = answer.get("seconds") or 0
        return row

    def options(self, driver: str, release: str) -> dict[str, Any]:
        source = self.args["sources"][driver]
        given = {name: source[name] for name in OPTIONS if source.get(name) is not None}
        if source.get("src"):
            given["source"] = self.source(source["src"])
        given["version"] = str(source["version"])  # which YAML may take for a number
        if "depends" in given:  # what else there is of them in the store is older, or somebody else's
            others = self.args["sources"]
            given["depends"] = [
                "%s=%s" % (name, others[name]["version"]) if name in others else name
                for name in given["depends"]
            ]
        return dict(given, driver=driver, release=release, store=self.store, force=self.args["force"])

    def source(self, src: str) -> str:
        """Where a source of the controller lies on the build host, to which it is sent once in a call."""
        path = self.locate(src)
        if self.local:
            return path
        if src not in self.sent:
            archive = _files.archive(path)
            shell: Any = self._connection._shell
            if shell.tmpdir is None:
                self._make_tmp_path()
            there = shell.join_path(shell.tmpdir, "%d.tar" % len(self.sent))
            self.sent[src] = self._transfer_file(archive, there)
            self._fixup_perms2([shell.tmpdir, self.sent[src]], execute=False)
        return self.sent[src]

    def module(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name=MODULES + name, module_args=options, task_vars=self.task_vars
        )
        return answer

    # Signing, and into the controller's store

    def try_key(self, todo: _rebuild.Todo) -> None:
        """See to it before the first build that what is built can be signed. Errors: those of the key."""
        if self.key_tried or not self.args["sign"]:
            return
        self.key_tried = True
        try:
            if self.signs("build"):
                self.sign_there(todo)
            else:
                self.sign_here(todo, check=True)
        except KmodError as error:
            if error.code != "NO_BUILDS":  # there is nothing to sign yet
                raise

    def signs(self, where: str) -> bool:
        return bool(self.args["sign"]) and self.args["sign"]["host"] == where

    def signing(self, todo: _rebuild.Todo, store: str) -> dict[str, Any]:
        given = {name: self.args["sign"].get(name) for name in ("key", "certificate", "passphrase")}
        version = str(self.args["sources"][todo.driver]["version"])
        return dict(given, store=store, driver=todo.driver, version=version, release=todo.release)

    def sign_there(self, todo: _rebuild.Todo) -> None:
        """By the build host, in its store. Errors: those of signing."""
        answer = self.module("kmod_sign", self.signing(todo, self.store))
        if answer.get("failed"):
            code = str(answer.get("code") or "SIGN_FAILED")
            raise KmodError(self.store, str(answer.get("msg")), "", code)
        self.changed |= bool(answer.get("changed"))

    def sign_here(self, todo: _rebuild.Todo, *, check: bool = False) -> None:
        options = sign.Options(**self.signing(todo, self.dest))
        self.changed |= sign.run(Host("/"), options, check).changed and not check

    def taken(self, todo: _rebuild.Todo, answer: Mapping[str, Any]) -> None:
        """The build into the controller's store, signed before it is there. Errors: BUILD_TAMPERED, those of the
        store and of signing.
        """
        if self.signs("build"):
            self.sign_there(todo)
        if not (self.local and os.path.realpath(self.store) == os.path.realpath(self.dest)):
            self.fetched(todo, answer)
        if self.signs("controller"):
            self.sign_here(todo)

    def fetched(self, todo: _rebuild.Todo, answer: Mapping[str, Any]) -> None:
        about = json.loads(self.content(answer["directory"], build_store.ABOUT))
        there = build_store.entry(self.dest, todo.driver, about["version"], todo.release)
        if there and there.input == about["input"] and (there.about.get("signer") or not about.get("signer")):
            return
        files = {name: self.content(answer["directory"], name) for name in about["files"]}
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != about["files"][name]:
                raise KmodError(
                    "%s/%s" % (answer["directory"], name),
                    "is not the file that was put there",
                    "Find out who changed it; then remove the directory, and it is built again",
                    "BUILD_TAMPERED",
                )
        if self.signs("controller"):
            options = sign.Options(**self.signing(todo, self.dest))
            by = sign.key_of(options)
            made = sign.of_build(build_store.BuildEntry(answer["directory"], about), files, by, options)
            about, files = made.about, made.files
        with build_store.held(self.dest, todo.driver, todo.release) as slot:
            slot.put(about, files)
        self.changed = True

    def content(self, directory: str, name: str) -> bytes:
        path = self._connection._shell.join_path(directory, name)
        if self._connection.become:  # what root has written, who logs in may not be able to read
            answer = self._execute_module(
                module_name="ansible.legacy.slurp", module_args={"src": path}, task_vars=self.task_vars
            )
            if answer.get("failed"):
                raise unreadable(path, str(answer.get("msg")))
            return base64.b64decode(answer["content"])
        copy = os.path.join(_files.private(), "build-%d-%s" % (os.getpid(), os.path.basename(name)))
        try:
            self._connection.fetch_file(path, copy)
        except AnsibleError as error:
            raise unreadable(path, str(error)) from None
        with open(copy, "rb") as file:
            data = file.read()
        os.unlink(copy)
        return data

    # What hosts are to get

    def deployable(
        self, records: list[dict[str, Any]], versions: Mapping[str, str]
    ) -> dict[str, list[dict[str, Any]]]:
        """By host the drivers that the role deploy is to bring there, each with the builds that the controller's
        store has of it: whole ones, and where builds are signed, signed ones.
        """
        ready = {name: self.ready(name, version) for name, version in versions.items()}
        ahead = _rebuild.ahead(self.args["records"], self.args["seen"])
        return {
            record["host"]: [
                {"driver": name, "src": ready[name], "ahead": ahead.get(record["host"], {}).get(name, [])}
                for name in (each["driver"] for each in record["drivers"])
                if ready[name]
            ]
            for record in records
        }

    def ready(self, driver: str, version: str) -> list[str]:
        found = []
        for release in build_store.releases(self.dest, driver, version):
            try:
                made = build_store.entry(self.dest, driver, version, release)
            except KmodError as error:
                Display().warning(printable(str(error)))
                continue
            if made and (made.about.get("signer") or not self.args["sign"]):
                found.append(made.directory)
        return found


def unreadable(path: str, why: str) -> KmodError:
    return KmodError(
        path,
        "could not be brought over from the build host: " + why,
        "See that who logs in there may read it, or set become (kmod_build_become of the role)",
        "BUILD_UNREADABLE",
    )


def also(todo: _rebuild.Todo) -> str:
    others = [release for release in todo.serves if release != todo.release]
    return ", which serves %s as well" % ", ".join(others) if others else ""


def told(row: Mapping[str, Any]) -> str:
    if row["result"] != _rebuild.FAILED:
        return "%s, %d s" % (row["result"], row["seconds"])
    lines = [*(row["errors"] or [row["msg"]])[:3], *(["log: %s" % row["log"]] if row["log"] else [])]
    when = "after %d s" % row["seconds"]
    if row.get("repeated"):
        when = "before, and is not tried again until its input changes"
    return "failed (%s) %s: %s" % (row["code"], when, "; ".join(lines))


def summary(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Nothing is to be built."
    counts = {
        word: sum(row["result"] == word for row in rows) for word in dict.fromkeys(r["result"] for r in rows)
    }
    text = ", ".join("%d %s" % (count, word) for word, count in counts.items())
    return "%d build%s: %s, %d s." % (
        len(rows),
        "" if len(rows) == 1 else "s",
        text,
        sum(r["seconds"] for r in rows),
    )


def say(text: str) -> None:
    Display().display(printable(text))
