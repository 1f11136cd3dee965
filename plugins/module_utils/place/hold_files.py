# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files by which package managers are told to leave a kernel alone: one a manager, each with what is held
and why in lines of ours.

| manager | file | what holds |
|---|---|---|
| apt | a file of ours in preferences.d | every package that is named after the kernel: Pin-Priority -1 |
| dnf 5 | a file of ours in libdnf5.conf.d | ``excludepkgs``, added to others' |
| dnf 4, yum | a block in [main] of dnf.conf, yum.conf | ``excludepkgs`` or ``exclude``, the one that is free: dnf adds both up |
| zypper | records in /etc/zypp/locks, with a comment | what provides ``kernel-FLAVOUR-VERSION`` |

It is always the whole kernel: where kernel-core alone is held, ``dnf upgrade`` fails as a whole, and no
security update arrives any more. The text of a file is made of the one that is there and of what is to be
held; None stands for no file.
"""

import re
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError, forgiving, printable
from ..read import names
from . import texts
from .texts import MARKER

HOLDER, WHAT = MARKER, "kernels"  # in the places of a driver's name and a kernel's: none can be called so
REASON = 300  # characters: more is nothing that a comment is read for
_ROW = re.compile(
    r"%s hold (?P<kernel>\S+) (?P<driver>\S+): (?P<reason>.*?)(?= \| %s hold |$)"
    % (re.escape(MARKER), re.escape(MARKER)),
    re.M,
)
_LEFT = re.compile(r"%s (hold|%s) " % (re.escape(MARKER), re.escape(HOLDER)))  # a row, or a mark
_HEAD = "%s holds kernels that a driver has no build for, until there is one" % MARKER


class Hold(NamedTuple):
    """That a kernel is not to be installed, and on which driver's account."""

    kernel: str
    driver: str
    reason: str

    @property
    def row(self) -> str:
        """As it stands in a file: one line, which no reason can make another one's."""
        reason = printable(self.reason).replace(MARKER + " hold", MARKER + ".hold")
        return "%s hold %s %s: %s" % (MARKER, self.kernel, self.driver, reason[:REASON].strip())


def rows(text: str) -> List[Hold]:
    """What a file says that we hold, in its order; what cannot be ours by its names is left out."""
    found = []
    for row in _ROW.finditer(text):
        with forgiving():
            driver = names.check_driver(row.group("driver"))
            found.append(Hold(names.check_release(row.group("kernel"), "hold"), driver, row.group("reason")))
    return list(dict.fromkeys(found))


Made = Callable[[str, Optional[str], Sequence[Hold]], Optional[str]]


class HoldFile(NamedTuple):
    """A file, and how its text is made: ``made(path, text, holds)``. It may be ours as a whole."""

    path: str
    made: Made
    whole: bool = False


def by_kernel(holds: Sequence[Hold]) -> Dict[str, List[Hold]]:
    found: Dict[str, List[Hold]] = {}
    for each in holds:
        found.setdefault(each.kernel, []).append(each)
    return found


# Files of ours alone


def _own(path: str, text: Optional[str]) -> bool:
    """Whether a file at a path of ours is ours. An empty one is what a full disk has left of it."""
    return text is None or not text.strip() or MARKER in text


def _whole(path: str, text: Optional[str], made: Optional[str]) -> Optional[str]:
    if _own(path, text):
        return made
    if made is None:
        return text
    raise KmodError(
        path, "is there, and was not put there by this collection", "Move it away", "FOREIGN_FILE"
    )


def _preferences(path: str, text: Optional[str], holds: Sequence[Hold]) -> Optional[str]:
    stanzas = []
    for kernel, each in by_kernel(holds).items():
        lines = [_HEAD] + [hold.row for hold in each]
        stanzas.append(
            "".join("Explanation: %s\n" % line for line in lines)
            + "Package: %s\nPin: release *\nPin-Priority: -1\n" % apt_packages(kernel)
        )
    return _whole(path, text, "\n".join(stanzas) or None)


def apt_packages(release: str) -> str:
    """The packages of a kernel, as apt's preferences name several: linux-image-R, -modules-R, -headers-R,
    -image-unsigned-R, -binary-R ...

    What depends on them, such as linux-image-amd64, is kept back by that; it goes on with the next kernel.
    """
    return r"/^linux-([a-z0-9.+-]+-)?%s(-unsigned|-dbg|-dbgsym)?$/" % re.sub(r"([.+])", r"\\\1", release)


def _dropin(path: str, text: Optional[str], holds: Sequence[Hold]) -> Optional[str]:
    lines = ["# " + line for line in [_HEAD] + [hold.row for hold in holds]]
    made = "\n".join([*lines, "[main]", "excludepkgs=" + _globs(holds)]) + "\n" if holds else None
    return _whole(path, text, made)


def _globs(holds: Sequence[Hold]) -> str:
    return " ".join(rpm_packages(kernel) for kernel in by_kernel(holds))


def rpm_packages(release: str) -> str:
    """One glob for the packages of a kernel on Enterprise Linux and Fedora: uname -r is their
    VERSION-RELEASE.ARCH, and after a + their flavour.
    """
    version, _plus, flavour = release.partition("+")
    return "kernel%s*-%s" % ("-" + flavour if flavour else "", version)


# A block in others' files


def _in_main(keys: Tuple[str, ...]) -> Made:
    def made(path: str, text: Optional[str], holds: Sequence[Hold]) -> Optional[str]:
        bare = _without_block(path, text)
        if not holds:
            return bare
        section = re.search(r"^\[main\][ \t]*\r?(\n|\Z)", bare or "", re.M)
        after = (bare or "")[section.end() :] if section else ""
        used = re.findall(r"^(\w+)[ \t]*[=:]", after.partition("\n[")[0], re.M)
        key = next((each for each in keys if each not in used), None)
        if key is None:
            raise KmodError(
                path,
                "has %s already, and another line of that name would take its place" % " and ".join(keys),
                "Add there: %s" % _globs(holds),
                "HOLD_FOREIGN",
            )
        body = "".join("# %s\n" % hold.row for hold in holds) + "%s=%s\n" % (key, _globs(holds))
        if section is None:
            return texts.put(bare, HOLDER, WHAT, body="[main]\n" + body)
        head = (bare or "")[: section.end()]
        return texts.put(head, HOLDER, WHAT, body=body) + after

    return made


def _locks(path: str, text: Optional[str], holds: Sequence[Hold]) -> Optional[str]:
    """zypper writes the file anew, without the lines that begin with #; the record's own comment stays."""
    bare = _without_block(path, text, _without_records)
    if not holds:
        return bare
    records = [
        "type: package\nmatch_type: exact\ncase_sensitive: on\nsolvable_provides: %s\ncomment: %s\n"
        % (suse_provides(kernel), " | ".join(hold.row for hold in each))
        for kernel, each in by_kernel(holds).items()
    ]
    return texts.put(bare, HOLDER, WHAT, body="".join("\n" + record for record in records) + "\n")


def suse_provides(release: str) -> str:
    """What a kernel's package gives beside its name, whose release has a number of the rebuild too that uname
    -r does not show (openSUSE: kernel-source: kernel-binary.spec.in: bnc#901925). Its other packages need
    this one in its very version.
    """
    version, _dash, flavour = release.rpartition("-")
    return "kernel-%s-%s" % (flavour, version)


def _without_records(text: str) -> str:
    records = re.split(r"(?<=\n)(?=\n)|(?<=\n\n)", text)
    return "".join(
        each for each in records if not re.search(r"^comment:.*%s hold " % re.escape(MARKER), each, re.M)
    )


def _without_block(
    path: str, text: Optional[str], further: Callable[[str], str] = lambda text: text
) -> Optional[str]:
    """The text without what is ours in it. Error: HOLD_DAMAGED, where lines of ours are left over."""
    while text is not None and texts.block(text, HOLDER, WHAT):
        text = texts.cut(text, HOLDER, WHAT)
    if text is None:
        return None
    text = further(text)
    if _LEFT.search(text):
        raise KmodError(
            path,
            "has lines of this collection whose marks (BEGIN, END) are gone, so how far they reach is not known",
            "Remove what speaks of %s there, and what excludes the kernel" % MARKER,
            "HOLD_DAMAGED",
        )
    return text


APT = HoldFile(
    "/etc/apt/preferences.d/00-outoftree-kmod", _preferences, True
)  # the first that fits a package counts
DNF5 = HoldFile("/etc/dnf/libdnf5.conf.d/outoftree-kmod.conf", _dropin, True)
DNF = HoldFile("/etc/dnf/dnf.conf", _in_main(("excludepkgs", "exclude")))
YUM = HoldFile("/etc/yum.conf", _in_main(("exclude",)))
ZYPP = HoldFile("/etc/zypp/locks", _locks)
ALL = (APT, DNF5, DNF, YUM, ZYPP)
