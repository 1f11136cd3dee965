# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""capture.py FILE.svg COMMAND...: run a command in a terminal of its own, and draw what it printed.

The text is as it came, letter by letter: bold stays bold, and nothing is left out but the machine's own path of the
checkout. Ends with the command's status; a command that failed leaves no picture.
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from html import escape
from pathlib import Path

COLUMNS = 190
CELL, LINE, MARGIN = 7.25, 17, 14  # pixels, of a font of 12
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<!-- SPDX-License-Identifier: GPL-3.0-or-later -->
<title>{title}</title>
<rect width="100%" height="100%" rx="8" fill="#1b1f24"/>
<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="12" fill="#d6dbe0">
"""


def printed(command: "list[str]") -> "tuple[int, str]":
    """The command's status, and what it wrote to a terminal of COLUMNS columns; it is shown meanwhile."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # it may have been make that started this
            os.environ.pop(name, None)
        os.execvp(command[0], command)
    taken = []
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        os.write(1, data)
        taken.append(data)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), b"".join(taken).decode(errors="replace")


def lines(text: str) -> "list[list[tuple[bool, str]]]":
    """Lines as pieces of text, bold or not, wrapped at the terminal's edge; of what was written over the last counts."""
    bold = False
    done = []
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        row: list[tuple[bool, str]] = []
        for piece in re.split(r"(\x1b\[[0-9;]*[A-Za-z]|\r)", line):
            if piece == "\r":
                row = []
            elif piece.startswith("\x1b"):
                bold = piece == "\x1b[1m" or (bold and piece not in ("\x1b[0m", "\x1b[m", "\x1b[22m"))
            else:
                row += [(bold, letter) for letter in piece]
        for start in range(0, len(row) or 1, COLUMNS):
            done.append(pieces(row[start : start + COLUMNS]))
    return done


def pieces(row: "list[tuple[bool, str]]") -> "list[tuple[bool, str]]":
    joined: list[tuple[bool, str]] = []
    for bold, letter in row:
        if joined and joined[-1][0] == bold:
            joined[-1] = (bold, joined[-1][1] + letter)
        else:
            joined.append((bold, letter))
    return joined


def drawn(rows: "list[list[tuple[bool, str]]]", title: str) -> str:
    longest = max(sum(len(text) for _bold, text in row) for row in rows)
    size = {"width": round(longest * CELL + 2 * MARGIN), "height": len(rows) * LINE + 2 * MARGIN}
    svg = HEAD.format(title=escape(title), **size)
    for number, row in enumerate(rows):
        spans = "".join(
            '<tspan font-weight="bold" fill="#ffffff">%s</tspan>' % escape(text) if bold else escape(text)
            for bold, text in row
        )
        if spans:
            svg += '<text x="%d" y="%d">%s</text>\n' % (MARGIN, MARGIN + (number + 1) * LINE - 5, spans)
    return svg + "</g>\n</svg>\n"


def main() -> int:
    target, *command = sys.argv[1:]
    status, text = printed(command)
    if status == 0:
        text = "$ %s\n%s" % (" ".join(command), text.replace(os.getcwd() + "/", ""))
        text = text.replace(" ", "\xa0")  # viewers disagree on whether blanks in a row are shown
        Path(target).write_text(drawn(lines(text), "The output of: " + " ".join(command)))
    return status


if __name__ == "__main__":
    sys.exit(main())
