# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host says of its distribution: os-release(5)."""

from typing import Dict

from ..host import Host


def read(host: Host) -> Dict[str, str]:
    """KEY -> value without quotes; empty where there is no such file."""
    path = next((each for each in ("/etc/os-release", "/usr/lib/os-release") if host.is_file(each)), None)
    rows = (line.partition("=") for line in host.read_text(path, 1 << 16).splitlines()) if path else ()
    return {name: value.strip("\"'") for name, equals, value in rows if equals}


def name(host: Host) -> str:
    """``debian 12``, ``rocky 9.6``; "" where nothing tells."""
    told = read(host)
    return " ".join(told[key] for key in ("ID", "VERSION_ID") if told.get(key))
