# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the boot loaders of these systems would show and start, read in a simple way that only has to do for
the files that are made here.
"""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from tests.lab.debian import natural


class Entry(NamedTuple):
    id: str
    title: str
    release: str
    initrd: str  # the last one, as the loader calls it
    options: str

    @property
    def driver(self) -> Optional[str]:
        found = re.search(r" outoftree\.kmod=(\S+)", self.options)
        return found and found.group(1)


class Menu(NamedTuple):
    entries: List[Entry]
    default: Optional[Entry]  # what starts when nobody chooses
    once: Optional[Entry]  # what the next boot alone starts


def grub2(boot: Path, releases: List[str]) -> Menu:
    """GRUB 2's, with entries in grub.cfg, or in files where blscfg stands in it."""
    directory = boot / ("grub2" if (boot / "grub2").exists() else "grub")
    text = (directory / "grub.cfg").read_text()
    custom = (directory / "custom.cfg").read_text() if (directory / "custom.cfg").exists() else ""
    entries = [
        _written(each, releases)
        for each in re.findall(r"^[ \t]*menuentry .*?^[ \t]*\}", text + custom, re.M | re.S)
    ]
    if re.search(r"^blscfg", text, re.M):
        entries = files(boot / "loader/entries", releases) + entries
    entries = [entry for entry in entries if entry.release]
    environment = _environment(directory / "grubenv")
    default = re.findall(r"^ *(?:if .*; then )?set default=[\"']?([^\"'\n;]*)", text + custom, re.M)
    chosen = [each for each in default if each != "${next_entry}"][-1]
    if chosen == "${saved_entry}":
        chosen = environment.get("saved_entry", "0")
    return Menu(
        entries,
        _named(entries, chosen) or (entries[0] if entries else None),
        _named(entries, environment.get("next_entry", "")),
    )


def _named(entries: List[Entry], name: str) -> Optional[Entry]:
    last = name.split(">")[-1]
    return next((entry for entry in entries if last in (entry.id, entry.title)), None) if last else None


def _environment(path: Path) -> Dict[str, str]:
    text = path.read_text() if path.exists() else ""
    return dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)  # type: ignore[misc]


def _written(text: str, releases: List[str]) -> Entry:
    title = re.match(r"\s*menuentry '([^']*)'", text)
    name = re.search(r"\$menuentry_id_option '([^']*)'", text)
    linux = re.search(r"^\s*linux\S*\s+(\S+)(.*)", text, re.M)
    initrd = re.search(r"^\s*initrd\S*\s+(.*\S)", text, re.M)
    return Entry(
        name.group(1) if name else "",
        title.group(1) if title else "",
        _release(linux.group(1) if linux else "", releases),
        initrd.group(1).split()[-1] if initrd else "",
        linux.group(2) if linux else "",
    )


def _release(path: str, releases: List[str]) -> str:
    """The longest of the known releases that is a part of a kernel's path."""
    return max(
        (each for each in releases if re.search(r"[-/]%s(/|$)" % re.escape(each), path)), key=len, default=""
    )


def files(directory: Path, releases: List[str]) -> List[Entry]:
    """Entries of the Boot Loader Specification, that which is shown first being the first."""
    found = []
    for path in directory.glob("*.conf"):
        lines = [
            line.split(None, 1)
            for line in path.read_text().splitlines()
            if line.strip() and not line.startswith("#")
        ]
        fields = {line[0]: line[1].strip() if len(line) > 1 else "" for line in lines}
        found.append(
            Entry(
                path.name[:-5],
                fields.get("title", ""),
                _release(fields.get("linux", ""), releases),
                fields.get("initrd", "").split()[-1] if fields.get("initrd") else "",
                " " + fields.get("options", ""),
            )
        )
    return sorted(found, key=lambda entry: natural(re.sub(r"\+\d+(-\d+)?$", "", entry.id)), reverse=True)


def systemd_boot(esp: Path, releases: List[str]) -> Menu:
    entries = files(esp / "loader/entries", releases)
    default = re.search(r"^default\s+(\S+)", (esp / "loader/loader.conf").read_text(), re.M)
    pattern = re.escape(default.group(1)).replace(r"\*", ".*") if default else ""
    matching = [entry for entry in entries if pattern and re.fullmatch(pattern, entry.id + ".conf")]
    return Menu(entries, (matching or entries or [None])[0], None)
