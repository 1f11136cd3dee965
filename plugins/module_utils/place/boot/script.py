# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB 2's script language, as far as finding menu entries in a grub.cfg and changing single words of them needs it."""
import functools
import re
from typing import Iterator, List, Mapping, NamedTuple, Optional

from ...errors import KmodError

DEPTH = 50  # of blocks; a menu has three
KEYWORDS = ("if", "then", "elif", "else", "while", "until", "do", "!")

# grub-core/script/yylex.l: a word is made of plain characters, escapes, quoted strings and ${variables}
_TOKEN = re.compile(r"""
    (?P<blank>(?:[ \t\r]|\\\n)+)
  | (?P<comment>\#[^\n]*)
  | (?P<end>[\n;&|<>]+)
  | (?P<brace>[{}])
  | (?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|\$\{[^}\n]*\}|[^\s;&|<>{}'"\\])+)
""", re.VERBOSE | re.DOTALL)
_PIECE = re.compile(r"""\\(?P<escaped>.)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|(?P<plain>[^\\'"]+)""", re.DOTALL)


class Word(NamedTuple):
    raw: str
    start: int
    stop: int

    @property
    def value(self) -> str:
        """The word without its quotes; variables stay as they are written."""
        if not re.search(r"[\\'\"]", self.raw):
            return self.raw
        return "".join(
            (piece.group("escaped") or "").replace("\n", "") + (piece.group("single") or "")
            + re.sub(r"\\([\\\"$\n])", lambda escape: escape.group(1).replace("\n", ""), piece.group("double") or "") + (piece.group("plain") or "")
            for piece in _PIECE.finditer(self.raw))


    def expanded(self, variables: Mapping[str, str]) -> List[str]:
        """The words that GRUB makes of it: a variable that is not quoted falls apart at blanks, or away (grub-core/script/execute.c)."""
        fields: List[str] = []
        joined = False  # whether what follows belongs to the last of them
        for piece in _PIECE.finditer(self.raw):
            if piece.group("plain") is None:
                text = "".join(piece.group(kind) or "" for kind in ("escaped", "single"))
                text += _variables(Word('"%s"' % piece.group("double"), 0, 0).value, variables) if piece.group("double") else ""
                parts, open_left, open_right = [text], True, True
            else:
                text = _variables(piece.group("plain"), variables)
                parts, open_left, open_right = text.split(), not text[:1].isspace(), not text[-1:].isspace()
            if parts and joined and open_left:
                fields[-1] += parts.pop(0)
            fields += parts
            joined = bool(fields) and open_right
        return fields


def _variables(text: str, variables: Mapping[str, str]) -> str:
    """A text with its variables put in; one that is not set is nothing."""
    for _depth in range(4):  # of values that name variables themselves
        text = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda name: variables.get(name.group(1) or name.group(2), ""), text)
    return text


class Command(NamedTuple):
    """A simple command, or a block (``menuentry``, ``submenu``, ``function``) with the commands in its braces."""

    words: List[Word]
    body: Optional[List["Command"]]  # type: ignore[misc]
    start: int
    stop: int

    @property
    def name(self) -> str:
        return self.words[0].value if self.words else ""

    def walk(self) -> Iterator["Command"]:
        """The commands in its body, those in its conditions too."""
        for command in self.body or ():
            yield command
            yield from command.walk()


@functools.lru_cache(maxsize=8)  # a plan reads the same few scripts again and again; nobody changes what is found
def parse(text: str, path: str) -> List[Command]:
    """The commands of a script in their order; those inside ``if`` stand on the level around it."""
    levels: List[List[Command]] = [[]]
    heads: List[List[Word]] = []
    words: List[Word] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise _malformed(path, text, position, "a quote that is not closed")
        kind, token = found.lastgroup, found.group()
        if kind == "word":
            words.append(Word(token, position, found.end()))
        elif token == "{":
            if len(heads) == DEPTH:
                raise _malformed(path, text, position, "more than %d blocks in one another" % DEPTH)
            heads.append(_plain(words))
            levels.append([])
            words = []
        elif kind in ("end", "brace"):
            _finish(levels[-1], words)
            words = []
            if token == "}":
                if not heads:
                    raise _malformed(path, text, position, "a } without its {")
                body, head = levels.pop(), heads.pop()
                levels[-1].append(Command(head, body, head[0].start if head else position, found.end()))
        position = found.end()
    if heads:
        raise _malformed(path, text, heads[-1][0].start if heads[-1] else len(text), "a { that is not closed")
    _finish(levels[-1], words)
    return levels[0]


def _plain(words: List[Word]) -> List[Word]:
    while words and words[0].raw in KEYWORDS:
        words = words[1:]
    return words


def _finish(level: List[Command], words: List[Word]) -> None:
    words = _plain(words)
    if words:
        level.append(Command(words, None, words[0].start, words[-1].stop))


def _malformed(path: str, text: str, position: int, what: str) -> KmodError:
    return KmodError(path, "line %d: %s" % (text.count("\n", 0, position) + 1, what),
                     "Correct the file, or have it generated again", "CONFIG_MALFORMED")


def quote(value: str) -> str:
    """A word that means ``value``."""
    return "'%s'" % value.replace("'", "'\\''")
