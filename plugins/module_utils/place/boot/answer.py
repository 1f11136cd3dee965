# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What is said of boot entries: a row for each, and what these come to for people and for a play."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ...read import names
from .trials import Running

STATES = ("pending", "failed", "idle", "passed")  # of trials, the one that matters most first


class EntryRow(NamedTuple):
    """An entry that is there (or can be: ``possible``), or one that is removed: then nothing is told of what
    it starts.
    """

    kernel: str
    id: str
    title: str  # printable
    path: str
    state: str  # present, absent, possible
    changed: bool
    initrd: Tuple[str, ...] = ()
    args: str = ""
    default: bool = False
    next: bool = False
    trial: str = "none"  # see trials.Trial
    driver: str = ""  # or several, see names.together

    def as_dict(self) -> Dict[str, Any]:
        row: Dict[str, Any] = {
            "kernel": self.kernel,
            "drivers": list(names.apart(self.driver)),
            "id": self.id,
            "title": self.title,
        }
        if self.state != "absent":
            row.update(initrd=list(self.initrd), args=self.args)
        row.update(path=self.path, state=self.state, changed=self.changed)
        if self.state != "absent":
            row.update(default=self.default, next=self.next, trial=self.trial)
        return row


class EntryAnswer(NamedTuple):
    """What the menu of a boot loader comes to for a driver, once it is as planned."""

    driver: str  # or several, as they are told
    loader: str
    config: str
    rows: Tuple[EntryRow, ...]
    default: Optional[str]  # the id of the entry that boots start, where that is told
    next: Optional[str]  # of the one that the next boot alone starts
    running: Running
    own: Tuple[str, ...]  # the kernels that have an entry of the driver
    others: Tuple[str, ...]  # the other drivers that have entries

    def on_trial(self, state: str, driver: str = "") -> List[str]:
        """The kernels whose trial (with that driver, if one is named) is in one of STATES."""
        return [
            row.kernel
            for row in self.rows
            if row.trial == state and (not driver or driver in names.apart(row.driver))
        ]

    @property
    def trial(self) -> str:
        """The state of its trials that matters most, of STATES or "none"."""
        return next((state for state in STATES if self.on_trial(state)), "none")

    @property
    def promote(self) -> bool:
        """Whether a trial went well and none is left to wait for: the entry may become the default."""
        return bool(self.on_trial("passed")) and not self.on_trial("pending")

    def possible(self) -> "EntryAnswer":
        """The same where it was only looked at."""
        return self._replace(rows=tuple(row._replace(changed=False, state="possible") for row in self.rows))

    def as_dict(self) -> Dict[str, Any]:
        pending = self.on_trial("pending")
        return {
            "loader": self.loader,
            "config": self.config,
            "kernels": [row.as_dict() for row in self.rows],
            "default": self.default,
            "next": self.next,
            "running": self.running.as_dict(),
            "trial": self.trial,
            "pending": pending,
            "trials": {state: self.on_trial(state) for state in STATES},
            "promote": self.promote,
            "reboot_needed": bool(pending),
            "msg": self.msg,
        }

    @property
    def msg(self) -> str:
        """One sentence for people."""
        pending, failed = self.on_trial("pending"), self.on_trial("failed")
        if not self.rows and self.own:
            return "The boot entries of %s stay as they are: %s." % (self.driver, ", ".join(self.own))
        if not self.rows:
            left = (
                "There are entries of %s." % ", ".join(self.others)
                if self.others
                else "There is none of any driver."
            )
            return "There is no boot entry of %s. %s" % (self.driver, left)
        if pending:
            return "The next boot alone tries %s on %s; reboot for that." % (self.driver, ", ".join(pending))
        if failed and self.running.verdict == "none":
            return (
                "The host should have come up with %s on %s once, and did not, or only without it. It is back on its default. "
                "Look at the console's log, or at the journal of the boot before."
                % (self.driver, ", ".join(failed))
            )
        if self.running.verdict != "none":
            return self.running.message
        kernels = ", ".join(row.kernel for row in self.rows)
        return "%s boot entries of %s: %s." % (self.rows[0].state.capitalize(), self.driver, kernels)
