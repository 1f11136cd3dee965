# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception that the core raises on purpose."""
from typing import Optional


class KmodError(Exception):
    """A request that cannot be carried out: names the file, the reason and the next step.

    ``code`` is a stable reason code (such as ``COMP_CORRUPT``) for callers that must tell failures apart.
    """

    def __init__(self, what: str, why: str, then: str = "", code: str = "ERROR") -> None:
        super().__init__("%s: %s%s" % (what, why, ". " + then if then else ""))
        self.what = what
        self.why = why
        self.then = then
        self.code = code


_NEXT_STEP = {
    "ENOSPC": "Free space on that file system and run again",
    "EDQUOT": "Free space on that file system and run again",
    "EROFS": "The file system is mounted read-only: remount it read-write and run again",
    "EACCES": "Run with more privileges (become: true)",
    "EPERM": "Run with more privileges (become: true)",
    "ENOENT": "Check the path",
}


def from_oserror(path: str, error: OSError, doing: str) -> KmodError:
    """The KmodError for a system call that failed while ``doing`` something with ``path``."""
    import errno

    name = errno.errorcode.get(error.errno or 0, "EIO")
    code = {"ENOENT": "PATH_MISSING", "ELOOP": "PATH_LOOP"}.get(name, name)
    step: Optional[str] = _NEXT_STEP.get(name)
    return KmodError(path, "cannot %s: %s" % (doing, error.strerror or error), step or "", code)
