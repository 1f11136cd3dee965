# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a request that found nothing to be done would find the same again.

The answer of such a look is kept on the host for a day, with all that it rested on (``seen``). As long as that
is as it was, the same request of the same collection gets the same answer without anything being read and
judged, which is what most of a fleet's runs come to. Whatever was touched is looked at again as a whole, and
so is a host after a boot, and once a day: a disk can lose what nobody has changed.
"""

import hashlib
import json
import os
import time
import zipfile
from typing import Any, Dict, Mapping, Optional

from . import kept_files, seen
from .host import Host

# parameters that say where on the host lies what was sent for this very run
SENT = ("_files", "_kmodctl")
BOOT = "/proc/sys/kernel/random/boot_id"


def key(name: str, params: Mapping[str, Any], archive: Optional[str]) -> Optional[str]:
    """What tells a request from all others: the module's name and parameters, the collection's code in the
    archive that the module came in, the boot and who asks. None where it cannot be told.
    """
    try:
        with zipfile.ZipFile(archive or "") as packed:
            code = [(each.filename, each.CRC) for each in packed.infolist() if "outoftree" in each.filename]
        with open(BOOT) as boot:
            asked = {option: value for option, value in params.items() if option not in SENT}
            told = [name, asked, sorted(code), boot.read(), os.uname(), os.geteuid(), kept_files.DAY]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode("ascii")).hexdigest()
    except (OSError, zipfile.BadZipFile, TypeError, ValueError):
        return None


def answer(host: Host, asked: str) -> Optional[Dict[str, Any]]:
    """The answer that a look would give; None where it has to be had by looking."""
    kept = kept_files.load(host, _name(asked), asked)
    try:
        if kept is None or not 0 <= time.time() - kept["at"] < kept_files.DAY or not seen.same(kept["facts"]):
            return None
        return dict(kept["answer"])
    except (OSError, LookupError, TypeError, ValueError):
        return None


def keep(host: Host, asked: str, looked: seen.Notes, told: Dict[str, Any]) -> None:
    """Keep the answer of a look that found nothing to be done, if all that it rested on is known."""
    if looked.settled():
        kept = {"key": asked, "at": time.time(), "answer": told, "facts": looked.facts()}
        kept_files.store(host, _name(asked), kept)


def _name(asked: str) -> str:
    return "%s:%s" % (kept_files.SETTLED, asked[:32])
