# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be done, as data: a Plan is a list of steps that can be shown (check mode, diff), applied, or
taken back.

A Change turns the node at a path (file, symlink, directory, nothing) into another; Derived files are made by
one of the host's tools from what is there by then (depmod); a Command changes the running machine. Steps run
in their order. If one fails, or finds that someone else has changed its file since it was planned, those
already done are taken back, newest first.
"""

import hashlib
import posixpath
import re
import signal
import stat
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import tools
from .errors import Interrupted, KmodError
from .host import Host

TEXT_LIMIT = 64 << 10  # longer or binary contents are shown by digest
RECORD = re.compile(rb"\{[^\n]{400,}\n?")  # and so is what only programs read: one long line of JSON
SLACK = 256 << 10  # left free: for directories, and the lock
BLOCK = 4096  # what the end of each file takes, at most


class Content:
    """The bytes of a file, in memory or produced piece by piece; its size and sha256 are known beforehand (0
    and "" where a tool builds it).

    What is ``binary`` is shown by its digest, without a look at it. ``chunks`` may be a generator that
    returns what only making the file could find out (of an image that a tool builds): ``Plan.apply`` hands
    that on.
    """

    def __init__(
        self, size: int, sha256: str, chunks: Callable[[], Iterable[bytes]], binary: bool = False
    ) -> None:
        self.size = size
        self.sha256 = sha256
        self.chunks = chunks
        self.binary = binary

    @classmethod
    def of(cls, data: bytes) -> "Content":
        return cls(len(data), hashlib.sha256(data).hexdigest(), lambda: (data,))

    @classmethod
    def stored(cls, host: Host, path: str) -> "Content":
        """What the file holds now: hashed now, read again when it is used."""

        def chunks() -> Iterator[bytes]:
            with host.open(path) as reader:
                yield from reader.chunks()

        digest, size = hashlib.sha256(), 0
        for chunk in chunks():
            digest.update(chunk)
            size += len(chunk)
        return cls(size, digest.hexdigest(), chunks)

    def data(self) -> bytes:
        return b"".join(self.chunks())


class File(NamedTuple):
    content: Content
    mode: int = 0o644
    owner: Optional[Tuple[int, int]] = None  # (uid, gid); None: whoever runs

    @property
    def text(self) -> str:
        return "%04o sha256:%s %d bytes" % (self.mode, self.content.sha256, self.content.size)


class Link(NamedTuple):
    target: str

    @property
    def text(self) -> str:
        return "symlink to %s" % self.target


class Directory(NamedTuple):
    mode: int = 0o755

    @property
    def text(self) -> str:
        return "directory %04o" % self.mode


Node = Union[File, Link, Directory]


Undo = Callable[[], None]


class Change(NamedTuple):
    """The node at ``path`` before and after; None is nothing there."""

    path: str
    before: Optional[Node]
    after: Optional[Node]
    # hold the bytes of a replaced file until the plan is through, so that it can be put back
    keep: bool = True

    def prepare(self, host: Host) -> Optional[Undo]:
        """How to take this back, asked for before it is applied since it holds the replaced file's bytes;
        None where that is not wanted.
        """
        before = self.before
        if not self.keep:
            return None
        if isinstance(before, File):
            before = before._replace(content=Content.of(before.content.data()))
        back = Change(self.path, self.after, before)

        def undo() -> None:
            # also where the step failed after it had done its work
            if not _equal(look(host, self.path), before):
                back.apply(host)

        return undo

    def apply(self, host: Host) -> Any:
        """Answers with what making the content found out, see Content."""
        found: List[Any] = []

        def chunks(made: Any) -> Iterator[bytes]:
            found.append((yield from made))

        if isinstance(self.after, File):
            host.replace(
                self.path,
                chunks(self.after.content.chunks()),
                self.after.mode,
                owner=self.after.owner,
                sha256=self.after.content.sha256,
            )
        elif isinstance(self.after, Link):
            host.symlink(self.path, self.after.target)
        elif isinstance(self.after, Directory):
            host.mkdir(self.path, self.after.mode)
        else:
            host.remove(self.path)
        return found[0] if found else None

    def diff(self) -> Dict[str, str]:
        return {
            "before_header": self.path,
            "after_header": self.path,
            "before": _shown(self.before),
            "after": _shown(self.after),
        }


class Command(NamedTuple):
    """A tool that changes what ``path`` shows of the running machine (a module that is loaded, a variable of
    the firmware).
    """

    path: str
    argv: Tuple[str, ...]
    # what takes it back; run on undoing once all files are as they were
    inverse: Optional[Callable[[Host], Any]] = None
    # what is wrong once it has run, None if it did what it should
    proof: Optional[Callable[[Host], Optional[str]]] = None

    def prepare(self, host: Host) -> Optional[Undo]:
        inverse = self.inverse
        return (lambda: inverse(host)) if inverse else None

    def apply(self, host: Host) -> None:
        host.run(self.argv)
        wrong = self.proof(host) if self.proof else None
        if wrong:
            raise KmodError(
                " ".join(self.argv),
                "said that all is well, but %s" % wrong,
                "Run it by hand to see why",
                "TOOL_FAILED",
            )

    def diff(self) -> Dict[str, str]:
        return {
            "before_header": self.path,
            "after_header": self.path,
            "before": "",
            "after": "changed by %s\n" % " ".join(self.argv),
        }


class Derived(NamedTuple):
    """Files that a tool makes from others (depmod: modules.dep and its like).

    It makes them elsewhere; once looked at, they are put in place.
    """

    path: str  # the one that they are known by
    tool: str
    make: Callable[[Host], List[Change]]
    room: int  # bytes that they take, about
    aside: Any = None  # what ``make`` keeps for the next one; ``clear()`` once all steps are through

    def apply(self, host: Host) -> None:
        for change in self.make(host):
            change.apply(host)

    def diff(self) -> Dict[str, str]:
        return {
            "before_header": self.path,
            "after_header": self.path,
            "before": "",
            "after": "regenerated by %s\n" % self.tool,
        }


Step = Union[Change, Command, Derived]


class Plan:
    """Steps in the order in which they are safe.

    Building it writes nothing; an empty plan is ``changed: false``.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.steps: List[Step] = []
        self.planned: Dict[str, Optional[Node]] = {}  # what the paths of the steps will be
        self.seen: Dict[str, Optional[Stamp]] = {}  # what was at these paths when they were planned

    def __bool__(self) -> bool:
        return bool(self.steps)

    def put(self, path: str, after: Optional[Node], keep: bool = True) -> bool:
        """Plan that ``path`` becomes ``after`` (its missing parents too); nothing is planned where it is so
        already.
        """
        if path not in self.planned:
            self.seen.setdefault(path, stamp(self.host, path))
        before = self.planned[path] if path in self.planned else look(self.host, path)
        if _equal(before, after):
            return False
        if after is not None:
            self._parents(path)
        self._change(Change(path, before, after, keep))
        return True

    def extend(self, other: "Plan") -> None:
        """Have all of another plan's steps follow."""
        self.steps += other.steps
        self.planned.update(other.planned)
        self.seen = dict(other.seen, **self.seen)

    def _change(self, change: Change) -> None:
        self.steps.append(change)
        self.planned[change.path] = change.after

    def run(
        self,
        path: str,
        argv: Sequence[str],
        inverse: Optional[Callable[[Host], Any]] = None,
        *,
        proof: Optional[Callable[[Host], Optional[str]]] = None,
    ) -> None:
        self.steps.append(Command(path, tuple(argv), inverse, proof))

    def derive(
        self, path: str, tool: str, make: Callable[[Host], List[Change]], *, room: int, aside: Any = None
    ) -> None:
        self.steps.append(Derived(path, tool, make, room, aside))

    def _parents(self, path: str) -> None:
        missing = []
        parent = path.rsplit("/", 1)[0]
        while parent and not isinstance(self.planned.get(parent), Directory) and not self.host.exists(parent):
            missing.append(parent)
            self.seen.setdefault(parent, stamp(self.host, parent))
            parent = parent.rsplit("/", 1)[0]
        for directory in reversed(missing):
            self._change(Change(directory, None, Directory()))

    def diff(self) -> List[Dict[str, str]]:
        """What Ansible shows with --diff: one entry a step."""
        return [step.diff() for step in self.steps]

    def paths(self) -> List[str]:
        return [step.path for step in self.steps]

    def directories(self) -> List[str]:
        """Those that are made or removed."""
        return [
            step.path
            for step in self.steps
            if isinstance(step, Change) and Directory in (type(step.before), type(step.after))
        ]

    def apply(self) -> Dict[str, Any]:
        """Take every step; on a failure take back those that were done, then raise it.

        Answers with what making files found out that was not known before, by path: see Content.
        """
        self._check_room()
        found: Dict[str, Any] = {}
        files: List[Tuple[str, Undo]] = []
        commands: List[Tuple[str, Undo]] = []
        for_good: List[Tuple[str, Optional[Stamp]]] = []
        seen = dict(self.seen)
        try:
            for step in self.steps:
                if isinstance(step, Change) and step.path in seen:
                    self._check_unchanged(step, seen.pop(step.path))
                for each in step.make(self.host) if isinstance(step, Derived) else [step]:
                    undo = each.prepare(self.host)
                    if undo:
                        (commands if isinstance(each, Command) else files).append((each.path, undo))
                    else:
                        for_good.append((each.path, stamp(self.host, each.path)))
                    fact = each.apply(self.host)
                    found.update({} if fact is None else {each.path: fact})
            relabel(
                self.host,
                [step.path for step in self.steps if isinstance(step, Change) and step.after is not None],
            )
        except BaseException as error:
            left = _undo(files[::-1] + commands[::-1])
            told = ["What was done so far could not be taken back: " + "; ".join(left)] if left else []
            done = [path for path, was in for_good if stamp(self.host, path) != was]
            told += (
                ["What was replaced or removed for good by then stays so: " + ", ".join(done)] if done else []
            )
            why = error.as_error() if isinstance(error, Interrupted) else error
            if told and isinstance(why, KmodError):
                raise type(why)(
                    why.what, ". ".join([why.why] + told), why.then or "Mend that, and run again", why.code
                ) from None
            raise
        finally:
            self.clear()
        return found

    def clear(self) -> None:
        """Drop what was kept from one step to the next."""
        for step in self.steps:
            if isinstance(step, Derived) and step.aside is not None:
                step.aside.clear()

    def _check_unchanged(self, step: Change, was: "Optional[Stamp]") -> None:
        now = stamp(self.host, step.path)
        if now != was:
            raise KmodError(
                step.path,
                "was changed by someone else after this run had looked at it",
                "Run again",
                "FILE_CHANGED",
            )

    def _check_room(self) -> None:
        """Refuse what does not fit before anything is written: what is replaced goes only once the new is
        there. Error: NO_ROOM.
        """
        needed: Dict[int, int] = {}
        for step in self.steps:
            size = step.room if isinstance(step, Derived) else 0
            gone = 0
            if isinstance(step, Change):
                size = step.after.content.size if isinstance(step.after, File) else 0
                gone = step.before.content.size if isinstance(step.before, File) and not step.keep else 0
            if not size and not gone:
                continue
            directory = posixpath.dirname(step.path)
            device, free = self.host.room(directory)
            needed[device] = needed.get(device, SLACK) + (size + BLOCK if size else 0)
            if size and needed[device] > free:
                raise KmodError(
                    step.path,
                    "needs %d KiB on that file system with what else is written, and %d KiB are free"
                    % (needed[device] + 1023 >> 10, free >> 10),
                    "Free space there and run again",
                    "NO_ROOM",
                )
            needed[device] -= gone  # what is not kept to be put back leaves room for the next


def _undo(steps: Sequence[Tuple[str, Undo]]) -> List[str]:
    """Take steps back in this order, all that can be; answers with what is left, each with the reason.

    Beside what stays nothing else is taken away: neither the mark that says whose it is nor the directory.
    """
    left: List[str] = []
    beside: List[str] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
    try:
        for path, undo in steps:
            if not any(
                (where + "/").startswith(path + "/") or where == posixpath.dirname(path) for where in beside
            ):
                error = _failing(undo) and _failing(undo)  # what fails once may do the second time
                if error:
                    left.append("%s: %s" % (error.what, error.why))
                    beside.append(posixpath.dirname(path))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return left


def _failing(undo: Undo) -> Optional[KmodError]:
    try:
        undo()
    except KmodError as error:
        return error
    return None


def look(host: Host, path: str) -> Optional[Node]:
    """The node at ``path`` now (a symlink itself, not what it leads to)."""
    status = host.lstat(path)
    if status is None:
        return None
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Link(host.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return Directory(mode)
    if stat.S_ISREG(status.st_mode):
        return File(Content.stored(host, path), mode, (status.st_uid, status.st_gid))
    raise KmodError(path, "is neither a file, a symlink nor a directory", "Move it away", "FILE_NOT_REGULAR")


class Stamp(NamedTuple):
    """What changes with a file when someone writes it, without reading it again."""

    kind: int
    inode: Tuple[int, int]
    size: int
    modified: int
    changed: int


def stamp(host: Host, path: str) -> Optional[Stamp]:
    """None where nothing is there. Of a directory only that it is one: what is in it is others' steps."""
    status = host.lstat(path)
    if status is None:
        return None
    if stat.S_ISDIR(status.st_mode):
        return Stamp(stat.S_IFMT(status.st_mode), (0, 0), 0, 0, 0)
    return Stamp(
        stat.S_IFMT(status.st_mode),
        (status.st_dev, status.st_ino),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _equal(one: Optional[Node], other: Optional[Node]) -> bool:
    if isinstance(one, File) and isinstance(other, File):
        return same(one, other)
    return (isinstance(one, Directory) and isinstance(other, Directory)) or one == other


def same(one: File, other: File) -> bool:
    """Equal bytes and mode; owners count only where both are asked for."""
    owners = one.owner is None or other.owner is None or one.owner == other.owner
    return (
        owners
        and one.mode == other.mode
        and one.content.size == other.content.size
        and one.content.sha256 == other.content.sha256
    )


def relabel(host: Host, paths: List[str]) -> None:
    """Give new files the label that the host's SELinux policy has for them, where one is in force."""
    if paths and host.live and host.exists("/sys/fs/selinux/enforce") and tools.find("restorecon"):
        host.run(["restorecon", "-F", "--"] + paths, check=False)


def _shown(node: Optional[Node]) -> str:
    if node is None:
        return ""
    if isinstance(node, File) and not node.content.binary and node.content.size <= TEXT_LIMIT:
        data = node.content.data()
        if b"\0" not in data and not RECORD.fullmatch(data):
            return data.decode("utf-8", "replace")
    return node.text + "\n"
