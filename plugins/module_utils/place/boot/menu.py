# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all boot loaders have in common here: entries in a menu, read from and planned as texts.

A loader's module turns a View into a Menu. Since a View shows planned texts in place of those on disk, the
menu that a plan would leave behind is read by the same code before anything is written.
"""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ...errors import KmodError
from ...host import Host
from ...plan import Content, File, Plan, Stamp, stamp

# A dead kernel or initramfs, or a driver that crashes, comes back by itself: panic= also makes the script of
# initramfs-tools reboot instead of
# giving a shell, the others do it for dracut. That is for entries on trial: the default, as the shipped one,
# leaves what it died of on the console.
FALLBACK_ARGS = "panic=10 oops=panic rd.shell=0 rd.emergency=reboot"
TEXT_LIMIT = 4 << 20  # bytes of a loader's file
MANY = 4096  # files with entries: a menu that nobody reads
# on the kernel's command line; the kernel leaves unknown names with a dot to modules and tells nobody
MARKER = "outoftree.kmod"


class Loader(NamedTuple):
    """A boot loader found on a host."""

    kind: str  # grub2, bls (GRUB 2 with blscfg), systemd-boot, grub-legacy, extlinux
    config: str  # its main configuration file, as a real path inside the root
    entries: str = ""  # directory of Boot Loader Specification entries


class Entry(NamedTuple):
    """One item of the boot menu; a submenu has no kernel."""

    id: str  # as the loader knows it: what its default is set to
    title: str
    linux: str  # path of the kernel as the loader sees it
    initrd: Tuple[str, ...]
    args: str
    path: str  # the file that it is written in
    text: str  # its own text, verbatim
    position: Tuple[int, ...] = ()  # place in the menu, one number a level
    section: str = ""  # the generator that wrote it (/etc/grub.d/10_linux), where known
    driver: Optional[str] = None  # whose it is, if it is one of ours
    kernel: Optional[str] = None  # the release that it is ours for
    trial: str = ""  # of ours: "started", "passed" or "idle", and the digest of what was tried
    xen: bool = False  # whether it starts a hypervisor, which starts the kernel
    # how boots come to start it, where that was asked (shipped.starting): "default", "once"
    chosen: Tuple[str, ...] = ()


class Menu(NamedTuple):
    """What a loader would show, and start."""

    entries: List[Entry]
    default: Optional[Entry]  # what boots start
    once: Optional[str] = None  # the id that the next boot alone starts


class Verified(NamedTuple):
    """The images that an entry of a kernel is to start, as they were found just now by who can tell whether
    they are whole.
    """

    paths: Tuple[str, ...]  # on the host, in the order in which they are loaded
    damage: Optional[KmodError] = None  # why they must not be started
    stale: Optional[str] = None  # why they are not what would be made today
    # what the variant leaves for trials.MARK when it is unpacked at boot, "" where it promises nothing
    mark: str = ""


class New(NamedTuple):
    """An entry to be: how it differs from the one that it is a copy of."""

    driver: str
    kernel: str
    initrd: Tuple[str, ...]  # as the loader sees them, in place of the shipped one
    replaces: str  # the shipped initrd as the entry names it
    args: str  # added
    trial: str = ""
    returns: bool = False  # whether it is to come back by itself where it fails

    @property
    def id(self) -> str:
        return "outoftree-%s-%s" % (self.driver, self.kernel)

    def title(self, shipped: str) -> str:
        """What tells it from the others comes first: menus cut long titles off at the right."""
        shipped = re.sub(r"[\x00-\x1f\x7f]+", " ", shipped)
        return "With driver %s: %s%s" % (
            self.driver,
            shipped,
            "" if self.kernel in shipped else ", with Linux " + self.kernel,
        )

    @property
    def mark(self) -> str:
        return "%s %s %s" % (MARKER, self.driver, self.kernel)

    @property
    def remark(self) -> str:
        """The comment beside the entry that remembers its trial. It goes with the entry."""
        return "# %s trial %s\n" % (MARKER, self.trial) if self.trial else ""


_TRIAL = re.compile(r"^# %s trial ((?:started|passed|idle) [0-9a-f]{64})\n" % re.escape(MARKER), re.M)


def trial(text: str) -> str:
    """What the comment in an entry of ours says of its trial, "" where it has had none."""
    found = _TRIAL.search(text)
    return found.group(1) if found else ""


def forgotten(text: str) -> str:
    """An entry's text without that comment."""
    return _TRIAL.sub("", text)


class Command(NamedTuple):
    """A tool of the host's, what takes back what it does, and what tells whether it did it (see
    plan.Command).
    """

    path: str
    argv: List[str]
    inverse: Callable[[Host], Any]
    proof: Callable[[Host], Optional[str]]


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
        self.kept: Dict[Loader, Any] = {}  # what a loader's module made of the texts as they are planned now

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

    def put(self, path: str, text: Optional[str], like: str = "") -> None:
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
                plan.run(*stage.command)
        return plan


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def boots(entry: Entry, release: str) -> bool:
    """Whether an entry boots that kernel."""
    return release in _releases(entry)


def release(entry: Entry) -> Optional[str]:
    """The release of the kernel that an entry boots; None where its path does not tell."""
    return next((name for name in _releases(entry) if re.match(r"[0-9]+\.[0-9]", name)), None)


def _releases(entry: Entry) -> List[str]:
    """What an entry's kernel may be the release of: ``vmlinuz-REL``, ``…/REL/linux`` as kernel-install lays
    it out, ``…/REL/linux-DIGEST`` of SUSE's sdbootutil."""
    parts = entry.linux.split("/")
    kind, _unused, behind = parts[-1].partition("-")
    found = [behind] if kind.isalpha() and behind else []
    if len(parts) > 1 and kind in ("linux", "vmlinuz") and re.fullmatch(r"[0-9A-Za-z]*", behind):
        found.append(parts[-2])
    return found


def number(text: str) -> Optional[int]:
    """The entry's number that a text is, None where it is none that a menu can have."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def without_ours(args: str) -> str:
    """Arguments of a shipped entry without those of an entry of ours that was running when kernel-install
    took the running system's for it.
    """
    ours = [word for word in args.split() if word.startswith((MARKER + "=", MARKER + "."))]
    return (
        " ".join(word for word in args.split() if word not in ours + FALLBACK_ARGS.split()) if ours else args
    )


def check_args(args: str) -> str:
    """Arguments that mean the same to every loader, and are the kernel's: words without quoting or expansion."""
    bad = re.search(r"[^ !%()*+,\-./0-9:;=?@A-Z\[\]^_a-z~]", args)
    if bad:
        raise KmodError(
            "args",
            "not every boot loader passes %r on as it is" % bad.group(),
            "Leave it out",
            "ARGS_INVALID",
        )
    words = args.split()
    if "--" in words:
        raise KmodError(
            "args", "what follows -- is for init, not for the kernel", "Leave the -- out", "ARGS_INVALID"
        )
    own = [word for word in words if word.startswith((MARKER + "=", MARKER + "."))]
    if own:
        raise KmodError("args", "%s is for this collection to set" % own[0], "Leave it out", "ARGS_INVALID")
    return " ".join(words)
