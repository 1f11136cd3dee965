# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The host's small text files as a plan would leave them.

A boot loader's file turns a View into a Menu. Since a View shows planned texts in place of those on disk, the
menu that a plan would leave behind is read by the same code before anything is written.
"""

from typing import Any, Dict, List, Optional

from ...errors import KmodError
from ...host import Host
from ...plan import Command, Content, File, Plan, Stamp, stamp

TEXT_LIMIT = 4 << 20  # bytes of a loader's file
MANY = 4096  # files with entries: a menu that nobody reads


class Stage:
    """Texts by path (None: no file), each written once, and a tool of the host's that runs after them."""

    def __init__(self) -> None:
        self.changed: Dict[str, Optional[str]] = {}
        self.command: Optional[Command] = None


class View:
    """The host's small text files as they will be once what is planned has been written.

    Each is read once, so that a plan is made of one state.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.stages = [Stage()]
        self.like: Dict[str, str] = {}
        self.found: Dict[str, Optional[str]] = {}  # what was read
        self.seen: Dict[str, Optional[Stamp]] = {}  # and when: what is there on writing must be that still
        self.kept: Dict[Any, Any] = {}  # what a loader's file made of the texts as they are planned now

    def then(self) -> None:
        """What is planned from here on is done only when all that was planned so far has been."""
        self.stages.append(Stage())

    def resolve(self, path: str) -> str:
        return self.host.inside(self.host.real(path))

    def text(self, path: str) -> Optional[str]:
        """A file's text, None where there is none."""
        path = self.resolve(path)
        for stage in reversed(self.stages):
            if path in stage.changed:
                return stage.changed[path]
        if path not in self.found:
            self.seen[path] = stamp(self.host, path)
            self.found[path] = self.host.read_text(path, TEXT_LIMIT) if self.host.is_file(path) else None
        return self.found[path]

    def names(self, directory: str) -> List[str]:
        """The names of the regular files in a directory, sorted."""
        directory = self.resolve(directory)
        names = {name for name in self.host.listdir(directory) if self.host.is_file(directory + "/" + name)}
        for path, text in (each for stage in self.stages for each in stage.changed.items()):
            if path.rsplit("/", 1)[0] == directory:
                (names.discard if text is None else names.add)(path.rsplit("/", 1)[1])
        if len(names) > MANY:
            raise KmodError(
                directory,
                "has %d files, more than the %d that are read" % (len(names), MANY),
                "Remove what no kernel needs",
                "ENTRIES_TOO_MANY",
            )
        return sorted(names)

    def put(self, path: str, text: Optional[str], *, like: str = "") -> None:
        """Plan a text (None: no file).

        A new file gets the mode and owner of ``like``, so that secrets in it stay as secret.
        """
        self.text(path)
        self.kept.clear()
        path = self.resolve(path)
        self.stages[-1].changed[path] = text
        self.like.setdefault(path, self.resolve(like or path))

    def run(self, command: Command) -> None:
        """Plan one of the host's tools, after what is planned so far and before what follows."""
        self.stages[-1].command = command
        self.then()

    def plan(self) -> Plan:
        """The writes, in the order in which they were planned."""
        plan = Plan(self.host)
        plan.seen.update(self.seen)
        for stage in self.stages:
            for path, text in stage.changed.items():
                status = self.host.stat(path) or self.host.stat(self.like[path])
                if text is None or status is None:
                    plan.put(path, None if text is None else File(Content.of(encode(text))))
                else:
                    plan.put(
                        path,
                        File(
                            Content.of(encode(text)), status.st_mode & 0o7777, (status.st_uid, status.st_gid)
                        ),
                    )
            if stage.command:
                plan.run(
                    stage.command.path,
                    stage.command.argv,
                    inverse=stage.command.inverse,
                    proof=stage.command.proof,
                )
        return plan


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
