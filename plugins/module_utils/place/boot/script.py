# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB 2's script language, as far as finding menu entries in a grub.cfg and changing single words of them
needs it.
"""

import functools
import itertools
import re
from typing import (
    Callable,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

from ...errors import KmodError

State = TypeVar("State")
DEPTH = 50  # of blocks; a menu has three
KEYWORDS = ("if", "then", "elif", "else", "while", "until", "do", "!")

# grub-core/script/yylex.l: a word is made of plain characters, escapes, quoted strings and ${variables}
_TOKEN = re.compile(
    r"""
    (?P<blank>(?:[ \t\r]|\\\n)+)
  | (?P<comment>\#[^\n]*)
  | (?P<end>[\n;&|<>]+)
  | (?P<brace>[{}])
  | (?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|\$\{[^}\n]*\}|[^\s;&|<>{}'"\\])+)
""",
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(
    r"""\\(?P<escaped>.)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|(?P<plain>[^\\'"]+)""", re.DOTALL
)


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
            (piece.group("escaped") or "").replace("\n", "")
            + (piece.group("single") or "")
            + re.sub(
                r"\\([\\\"$\n])",
                lambda escape: escape.group(1).replace("\n", ""),
                piece.group("double") or "",
            )
            + (piece.group("plain") or "")
            for piece in _PIECE.finditer(self.raw)
        )

    def expanded(self, variables: Mapping[str, str]) -> List[str]:
        """The words that GRUB makes of it: a variable that is not quoted falls apart at blanks, or away
        (grub-core/script/execute.c).
        """
        fields: List[str] = []
        joined = False  # whether what follows belongs to the last of them
        for piece in _PIECE.finditer(self.raw):
            if piece.group("plain") is None:
                text = "".join(piece.group(kind) or "" for kind in ("escaped", "single"))
                text += (
                    _variables(Word('"%s"' % piece.group("double"), 0, 0).value, variables)
                    if piece.group("double")
                    else ""
                )
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
        text = re.sub(
            r"\$(?:\{(\w+)\}|(\w+))", lambda name: variables.get(name.group(1) or name.group(2), ""), text
        )
    return text


class Statement(NamedTuple):
    """A simple command, or a block (``menuentry``, ``submenu``, ``function``) with the commands in its
    braces.
    """

    words: List[Word]
    body: Optional[List["Statement"]]  # type: ignore[misc]
    start: int
    stop: int
    keywords: Tuple[str, ...] = ()  # in front of it; some stand alone, of no words

    @property
    def name(self) -> str:
        return self.words[0].value if self.words else ""

    def walk(self) -> Iterator["Statement"]:
        """The commands in its body, those in its conditions too."""
        for command in self.body or ():
            yield command
            yield from command.walk()


# a plan reads the same few scripts again and again; nobody changes what is found
@functools.lru_cache(maxsize=8)
def parse(text: str, path: str) -> List[Statement]:
    """The commands of a script in their order; those inside ``if`` stand on the level around it."""
    levels: List[List[Statement]] = [[]]
    heads: List[List[Word]] = []
    words: List[Word] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise _malformed(path, text, position, what="a quote that is not closed")
        kind, token = found.lastgroup, found.group()
        if kind == "word":
            words.append(Word(token, position, found.end()))
        elif token == "{":
            if len(heads) == DEPTH:
                raise _malformed(path, text, position, what="more than %d blocks in one another" % DEPTH)
            heads.append(_plain(words))
            levels.append([])
            words = []
        elif kind in ("end", "brace"):
            _finish(levels[-1], words)
            words = []
            if token == "}":
                if not heads:
                    raise _malformed(path, text, position, what="a } without its {")
                body, head = levels.pop(), heads.pop()
                levels[-1].append(Statement(head, body, head[0].start if head else position, found.end()))
        position = found.end()
    if heads:
        raise _malformed(
            path, text, heads[-1][0].start if heads[-1] else len(text), what="a { that is not closed"
        )
    _finish(levels[-1], words)
    return levels[0]


def _plain(words: List[Word]) -> List[Word]:
    return list(itertools.dropwhile(lambda word: word.raw in KEYWORDS, words))


def _finish(level: List[Statement], words: List[Word]) -> None:
    if words:
        plain = _plain(words)
        keywords = tuple(word.raw for word in words[: len(words) - len(plain)])
        level.append(Statement(plain, None, (plain or words)[0].start, words[-1].stop, keywords))


def ways(
    commands: Iterable[Statement], step: Callable[[Statement, State], State], start: State
) -> Set[State]:
    """What is reached at the end of commands, by whatever way through their conditions; ``step`` tells what a
    command makes of a state.
    """
    states = {start}
    # of each block: what came in, what its branches so far came to, whether it has an else
    inside: List[Tuple[Set[State], Set[State], bool]] = []
    for command in commands:
        for keyword in command.keywords:
            if keyword in ("if", "while", "until"):
                inside.append((set(states), set(), False))
            elif keyword in ("elif", "else") and inside:
                came, done, _unused = inside.pop()
                inside.append((came, done | states, keyword == "else"))
                states = set(came)
        if command.name in ("fi", "done") and inside:
            came, done, complete = inside.pop()
            states |= done if complete else done | came
        states = {step(command, state) for state in states}
    return states


class _Block:
    """An ``if`` that is not closed yet: what is known of the conditions of its branches, None where that
    cannot be told.
    """

    def __init__(self, outside: bool) -> None:
        self.outside = outside  # whether it is in a branch that is not taken itself
        self.before: Optional[bool] = False  # whether a branch before this one was taken
        self.condition: Optional[bool] = None
        self.commands = 0  # in the condition, so far
        self.body = False

    def next(self) -> None:
        self.before = (
            True
            if self.before or self.condition
            else None
            if None in (self.before, self.condition)
            else False
        )
        self.condition, self.commands, self.body = None, 0, False

    @property
    def dead(self) -> bool:
        return self.outside or self.body and (self.before is True or self.condition is False)


def running(
    commands: Iterable[Statement], holds: Callable[[Statement], Optional[bool]]
) -> Iterator[Tuple[Statement, bool]]:
    """Commands, each with False if it is in a branch of which ``holds`` tells that it is not taken (None
    where it cannot tell).
    """
    blocks: List[_Block] = []
    for command in commands:
        for keyword in command.keywords:
            if keyword in ("if", "while", "until"):
                blocks.append(_Block(bool(blocks) and blocks[-1].dead))
            elif blocks and keyword in ("elif", "else"):
                blocks[-1].next()
                blocks[-1].body = keyword == "else"
            elif blocks and keyword in ("then", "do"):
                blocks[-1].body = True
        if blocks and not blocks[-1].body and command.words:
            blocks[-1].commands += 1
            told = (
                holds(command)
                if blocks[-1].commands == 1 and command.keywords[-1:] in (("if",), ("elif",))
                else None
            )
            blocks[-1].condition = told
        if command.name in ("fi", "done") and blocks:
            blocks.pop()
        yield command, not (blocks and blocks[-1].dead)


def test(words: Sequence[str]) -> Optional[bool]:
    """What ``[ words ]`` comes to (grub-core/commands/test.c), as far as it is about texts; None otherwise.
    -a binds closer than -o.
    """
    for operator, decide in (("-o", any), ("-a", all)):
        if operator in words:
            at = list(words).index(operator)
            parts = [test(words[:at]), test(words[at + 1 :])]
            known = [part for part in parts if part is not None]
            told: bool = decide(known)
            return told if len(known) == 2 or told is (decide is any) and known else None
    if words[:1] == ["!"]:
        inner = test(words[1:])
        return None if inner is None else not inner
    if len(words) == 3 and words[1] in ("=", "==", "!="):
        return (words[0] == words[2]) == (words[1] != "!=")
    if len(words) == 2 and words[0] in ("-n", "-z"):
        return (words[1] != "") == (words[0] == "-n")
    return words[0] != "" if len(words) == 1 else False if not words else None


def _malformed(path: str, text: str, position: int, *, what: str) -> KmodError:
    return KmodError(
        path,
        "line %d: %s" % (text.count("\n", 0, position) + 1, what),
        "Correct the file, or have it generated again",
        "CONFIG_MALFORMED",
    )


def quote(value: str) -> str:
    """A word that means ``value``."""
    return "'%s'" % value.replace("'", "'\\''")
