# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of every module: what a host lacks travels with the task, and what a person has to
see is a warning.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.errors import AnsibleFileNotFound
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import module_utils_loader
from ansible.release import __version__ as ansible_version
from ansible.utils.display import Display

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError, printable
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _files, _supply

PYELFTOOLS = "pyelftools>=0.27,<0.33"  # 0.33 needs Python 3.10 on every host; 0.27 to 0.32 run on 3.6
SUPPLY = ("checksums", "signature", "keyring")
# The last ansible-core for each Python that hosts may have, of those that newer ones have left behind (its
# module_utils/basic.py, _PY_MIN).
LAST_CORE = {(3, 6): (2, 16), (3, 7): (2, 17), (3, 8): (2, 19)}
# What a person who reads an answer as it is printed gets of it besides its summary.
SHORT = ("changed", "failed", "msg", "code", "compatible", "default", "next", "reboot_needed", "signer")
ANSIBLES = ("exception", "diff", "warnings", "deprecations", "ansible_facts")


class KmodAction(ActionBase):
    """Runs the module of the same name.

    ``src`` becomes plain data here (``described``), so that every host judges without the files.
    """

    _supports_check_mode = True
    _supports_async = True

    @property
    def verbose(self) -> bool:
        return bool(Display().verbosity)

    @property
    def is_read(self) -> bool:
        """Whether somebody reads the answer as it is: it was asked for on the command line of ``ansible``, and not in
        a form for programs.
        """
        asked = context.CLIARGS.get("module_name") and not self.verbose
        data = context.CLIARGS.get("one_line") or context.CLIARGS.get("tree")
        return bool(asked) and not data and C.DEFAULT_STDOUT_CALLBACK in ("default", "minimal")

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self.copies: dict[
            str, str
        ] = {}  # of the module files on the controller, by the path that they are described by
        known = task_vars or {}
        try:
            bundle_pyelftools()
            args = dict(self._task.args)
            if (
                "root" not in args and "kmod_root" in known
            ):  # a host that is a directory is one for every task, ad hoc ones too
                args["root"] = self._templar.template(known["kmod_root"])
            signer = self.prepare(args)
            answer = self.execute(args, task_vars)
            self.explain(answer)
        except KmodError as error:
            return dict(result, failed=True, msg=str(error), code=error.code)
        result.update(answer)
        if signer:
            result["signer"] = signer
        warnings = [
            printable("%s: %s" % (known.get("inventory_hostname", "this host"), text))
            for text in to_say(result, args)
        ]
        if warnings:
            result["warnings"] = list(result.get("warnings") or []) + warnings
        given = result.get("invocation", {}).get("module_args", {})
        for each in [given, *(given.get("drivers") or []), *(given.get("given") or [])]:
            if isinstance(each, dict):
                each.pop("_described", None)  # nobody wants to read that
        return short(result) if self.is_read else result

    def execute(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module; a subclass may do so in several steps."""
        return self._execute_module(module_args=args, task_vars=task_vars, wrap_async=self._task.async_val)

    def prepare(self, args: dict[str, Any]) -> str | None:
        """Replace what is on the controller by its description; answers with who signed it, if that was to be
        checked.

        Errors: BAD_OPTION, PATH_MISSING, those of ``_supply.read`` and of reading the modules.
        """
        for name in ("src", "path", *SUPPLY):
            value = args.get(name)
            empty = name in args and (
                value is None if name in SUPPLY else False
            )  # what is to be checked is never left unchecked in silence
            if empty or value is not None and (not value or "" in value and not isinstance(value, str)):
                raise KmodError(
                    name, "is empty", "Leave it out, or check the variable that it comes from", "BAD_OPTION"
                )
        given = {name: args.pop(name) for name in ("src", *SUPPLY) if args.get(name) is not None}
        if not given or args.get("state") == "absent":
            return None
        for name, needs in (
            ("checksums", "src"),
            ("signature", "checksums"),
            ("signature", "keyring"),
            ("keyring", "signature"),
        ):
            if name in given and needs not in given:
                raise KmodError(
                    name, "says nothing without %s" % needs, "Give both, or leave it out", "BAD_OPTION"
                )
        if "src" in given and args.get("path"):
            raise KmodError("src and path", "are both given", "Give one of them", "BAD_OPTION")
        where = {name: self.locate(given[name]) for name in SUPPLY if name in given}
        supply = (
            _supply.read(where["checksums"], where.get("signature"), where.get("keyring")) if where else None
        )
        src = given["src"] if isinstance(given["src"], list) else [given["src"]]
        files = _files.found([self.locate(path) for path in src], supply)
        args["_described"] = [_files.described(file) for file in files]
        self.copies.update(files)
        return supply.signer if supply else None

    def locate(self, path: str) -> str:
        """The file or directory on the controller: where Ansible looks for a play's files and, as a
        collection's playbook has none of its own beside it, in the working directory."""
        try:
            return self._find_needle("files", path)
        except AnsibleFileNotFound:
            here = os.path.abspath(path)
            if os.path.exists(here):
                return here
            raise KmodError(
                path,
                "is not on the controller, neither in the working directory (%s) nor where this play's files are (%s)"
                % (os.getcwd(), self._loader.get_basedir()),
                "Give a path from there, or an absolute one",
                "PATH_MISSING",
            ) from None

    def explain(self, answer: dict[str, Any]) -> None:
        """Where a module was not understood by the host's Python, say so, instead of what came of that.

        Errors: PYTHON_TOO_OLD.
        """
        unread = "module_stdout" in answer or re.search("requires .*Python", str(answer.get("msg")))
        if not answer.get("failed") or "code" in answer or not unread or not self._used_interpreter:
            return
        interpreter = self._used_interpreter.lstrip("#!").strip()
        asked = self._low_level_execute_command(
            "%s -c 'import sys; print(\"version %%d.%%d.%%d\" %% sys.version_info[:3])'" % interpreter
        )
        found = re.search(r"version (\d+)\.(\d+)\.\d+", asked.get("stdout", ""))
        if found is None:
            return
        spoken, version = found.group().split()[1], (int(found.group(1)), int(found.group(2)))
        core = tuple(int(part) for part in ansible_version.split(".")[:2])
        if version < (3, 6):
            raise KmodError(
                interpreter,
                "is Python %s on this host, and the collection needs 3.6 or newer there" % spoken,
                "Install a newer one and name it in ansible_python_interpreter",
                "PYTHON_TOO_OLD",
            )
        if version in LAST_CORE and core > LAST_CORE[version]:
            raise KmodError(
                interpreter,
                "is Python %s on this host, which ansible-core %s does not serve" % (spoken, ansible_version),
                "Name a newer interpreter of the host in ansible_python_interpreter, or use ansible-core %d.%d, the last one for Python %d.%d"
                % (*LAST_CORE[version], *version),
                "PYTHON_TOO_OLD",
            )


def short(answer: dict[str, Any]) -> dict[str, Any]:
    """What there is to read of an answer, where it says that in a summary or in one line: ansible prints the lines of
    a list, and a text as one line.
    """
    summary = answer.get("summary")
    if not isinstance(summary, str) and not isinstance(answer.get("msg"), str):
        return answer
    kept = {name: value for name, value in answer.items() if name in SHORT + ANSIBLES or name.startswith("_")}
    return dict(kept, summary=summary.splitlines()) if isinstance(summary, str) else kept


def to_say(answer: dict[str, Any], args: dict[str, Any]) -> Iterator[str]:
    """What a person has to see without asking for details: from the answer's ``unserved`` and
    ``other_drivers``.
    """
    for each in answer.get("drivers") or []:
        if isinstance(each, dict):
            yield from to_say(each.get("link") or {}, each)
    driver = args.get("driver")
    rows = answer.get("unserved") or []
    if rows:
        said = [
            "kernel %s%s gets no driver %s: %s"
            % (
                row["kernel"],
                " (%s)" % ", ".join(row["boots"]) if row["boots"] else "",
                driver,
                row["reason"],
            )
            for row in rows
        ]
        yield "%s. %s" % (
            "; ".join(said),
            "The host boots without it: deploy a build for that kernel, or have the host start another one"
            if any(row["boots"] for row in rows)
            else "Boots are expected to start other kernels",
        )
    if answer.get("other_drivers"):
        yield "there is nothing of a driver called %s here, but of %s" % (
            ", ".join(driver) if isinstance(driver, list) else driver,
            ", ".join(answer["other_drivers"]),
        )


def bundle_pyelftools() -> None:
    """Let the controller's installed pyelftools be packed with the module as
    ``ansible.module_utils.elftools``.

    Ansible packs what a module imports from there, looking in its directories for module utilities. One that
    holds nothing but a symlink to the package is added to them: no copy of the package is kept, and hosts
    need nothing installed. Errors: PYELFTOOLS_MISSING.
    """
    try:
        import elftools
    except ImportError:
        raise KmodError(
            "pyelftools",
            "is not installed on the controller",
            "pip install '%s'" % PYELFTOOLS,
            "PYELFTOOLS_MISSING",
        ) from None
    if tuple(int(part) for part in elftools.__version__.split(".")[:2]) >= (0, 33):
        raise KmodError(
            "pyelftools %s" % elftools.__version__,
            "on the controller does not run on the Python of older hosts",
            "pip install '%s'" % PYELFTOOLS,
            "PYELFTOOLS_MISSING",
        )
    directory = os.path.join(_files.private(), "bundle")
    os.makedirs(directory, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # another worker of this run was first
        os.symlink(os.path.dirname(elftools.__file__), os.path.join(directory, "elftools"))
    module_utils_loader.add_directory(directory)
