# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's command line: what the kernel makes of it, how much of it the kernel takes, and whether a boot
with it comes back by itself.
"""

import re
import struct
from typing import Iterator, List, Optional, Sequence

from ...errors import KmodError
from ...host import Host

# lib/cmdline.c: next_arg, white space within double quotes is part of a word; kernel/params.c: parse_args, a
# -- ends the kernel's own
_WORD = re.compile(r'(?:"[^"]*"?|[^\s"])+')
# What makes an initramfs or an init wait at the console: nobody reboots from there
_WAITS = re.compile(
    r"(rd\.)?break(=.*)?|single|emergency|rescue|-b|[1sS]|(rd\.)?systemd\.unit=(rescue|emergency)\.target|(rd)?init=\S*sh"
)
HEAD = 0x10500  # bytes of a kernel that tell what it is, s390's parameters among them
UNKNOWN = 2047


def words(line: str) -> List[str]:
    """The kernel's own words: those in front of a -- that stands alone."""
    return [found.group() for found in _WORD.finditer(line[: end(line)])]


def end(line: str) -> int:
    """Where the kernel's own words end: what comes behind a -- that stands alone is init's."""
    return next(
        (found.start() for found in _WORD.finditer(line) if found.group().strip('"') == "--"), len(line)
    )


def insert(line: str, new: str, at: Optional[int] = None) -> str:
    """A line with arguments added as the last ones that are the kernel's own (the last of a name wins)."""
    at = end(line) if at is None else at
    return " ".join(part for part in (line[:at].strip(), new, line[at:].strip()) if part)


def limit(host: Host, kernel: str) -> int:
    """How many bytes a kernel takes of its command line, the NUL not among them.

    What is over that is cut off.

    x86 says so in its header (Documentation/arch/x86/boot.rst: cmdline_size); s390 where its parameters lie,
    895 where it does not (arch/s390/include/asm/setup.h: struct parmarea). Of others it is COMMAND_LINE_SIZE
    of arch/*/include/uapi/asm/setup.h.
    """
    with host.open(kernel) as reader:
        head = reader.at(0, HEAD)
    if head[0x202:0x206] == b"HdrS":
        (version,) = struct.unpack_from("<H", head, 0x206)
        return struct.unpack_from("<I", head, 0x238)[0] if version >= 0x206 else 255  # type: ignore[no-any-return]
    if head[0x10008:0x1000E] == b"S390EP":
        (size,) = struct.unpack_from(">Q", head, 0x10430)
        return size - 1 if 896 <= size <= 1 << 16 else 895  # type: ignore[no-any-return]
    if head[0x38:0x3C] == b"RSC\x05" or _machine(head) in (0x5064, 0x5032):
        return 1023
    return UNKNOWN  # arm64 and ppc64, in whatever wrapping


def _machine(head: bytes) -> int:
    """The machine that an EFI program is for, 0 where it is none: compressed kernels of arm64, riscv and
    loongarch are such programs.
    """
    (at,) = struct.unpack_from("<I", head, 0x3C) if head[:2] == b"MZ" and len(head) >= 0x40 else (len(head),)
    return (
        struct.unpack_from("<H", head, at + 4)[0]
        if head[at : at + 4] == b"PE\0\0" and at + 6 <= len(head)
        else 0
    )  # type: ignore[no-any-return]


def check(title: str, line: str, *, most: int, ours: Sequence[str]) -> None:
    """Refuse a line that would not reach the kernel as it was meant: ``ours`` among its own words, and
    nothing cut off.
    """
    if line.count('"') % 2:
        raise KmodError(
            title,
            "a quote in its arguments is not closed, so that what is added would be part of one of them: %s"
            % line,
            "Close the quote in the shipped entry",
            "ARGS_INVALID",
        )
    lost = [word for word in ours if word not in words(line)]
    if lost:
        raise KmodError(
            title,
            "the kernel would not get %s of: %s" % (" ".join(lost), line),
            "Report this as a bug with the shipped entry",
            "ENTRY_MALFORMED",
        )
    size = len(line.encode("utf-8", "surrogateescape"))
    if size > most:
        raise KmodError(
            title,
            "its command line would have %d bytes, and the kernel cuts off what is over %d" % (size, most),
            "Take arguments out of the shipped entry (/etc/default/grub or /etc/kernel/cmdline), or give fewer in args",
            "ARGS_TOO_LONG",
        )


def check_return(title: str, line: str, fallback: Sequence[str]) -> None:
    """Refuse a trial that would not come back by itself: something waits at a console, or overrides the
    arguments to fall back with.
    """
    own = words(line)
    waits = next(
        (word for word in own + line[end(line) :].split() if _WAITS.fullmatch(word.strip('"'))), None
    )
    if waits:
        raise KmodError(
            title,
            "%s waits at the console, so that a trial with it does not come back by itself" % waits,
            "Take it out of the arguments, or name another entry with copy_of",
            "TRIAL_NO_RETURN",
        )
    for word in fallback:
        name = word.partition("=")[0]
        last = next(_named(own, name), word)
        if last != word and not (name == "panic" and re.fullmatch(r"panic=-?0*[1-9][0-9]*", last)):
            raise KmodError(
                title,
                "%s overrides %s, so that a trial with it does not come back by itself" % (last, word),
                "Take it out of the arguments",
                "TRIAL_NO_RETURN",
            )


def _named(own: Sequence[str], name: str) -> Iterator[str]:
    """The words of one name, the last first; the kernel takes - and _ in it for the same."""
    return (
        word for word in reversed(own) if word.partition("=")[0].replace("-", "_") == name.replace("-", "_")
    )
