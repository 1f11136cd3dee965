# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to be known of a generator of initramfs images. The list of them is in generators.py."""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import KmodError
from ...host import Host
from .segments import Tree

PROOF = "/run/outoftree.kmod.variant"  # where a booted variant says which one it is
SAY = "echo %%s > %s\n" % PROOF
LIB = ("usr/lib/", "lib/")


class Job(NamedTuple):
    """One request to a tool: names of modules to put in, a scratch directory and the file to write, as the
    tool sees them.
    """

    release: str
    names: Sequence[str]
    scratch: str
    output: str


class Tool(NamedTuple):
    """A program that builds images."""

    name: str
    command: Callable[[Host, Job], List[str]]
    takes_modules: bool = True  # without an option for them they go behind what it has made
    limit: int = 1800  # seconds that it may take


class Start(NamedTuple):
    """A file that the early boot reads by itself: its path and its text, each with a %s."""

    path: str
    text: str


class Generator(NamedTuple):
    """What makes a kind of images, and takes them through their early boot.

    ``early``: the file by which an image of it loads modules at the very start, named after the driver, with
    a line for each module. ``proof``: the file by which its early boot says which variant it is, in PROOF;
    None where it could not, or would not be seen after the early boot: what it is written to has to be the
    /run that the system then has. It gets the content of the image's files ``texts``.
    """

    name: str
    recognised: Callable[[Tree], bool]
    tools: Tuple[Tool, ...]  # that a rebuild is made by, the first that the host has
    files: Tuple[str, ...] = ()  # what distributions call images that it makes, with the release for %s
    early: Callable[[Tree], Optional[Start]] = lambda _tree: None
    proof: Callable[[Tree, Dict[str, bytes]], Optional[Start]] = lambda _tree, _texts: None
    texts: Tuple[str, ...] = ()
    # where nothing is made of what is appended: why, of the image at a path
    obstacle: Optional[Callable[[str], KmodError]] = None
