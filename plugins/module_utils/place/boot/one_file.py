# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Boot loaders with one file for all entries: ours are blocks in it."""

from ...errors import KmodError
from .. import texts
from .boot_loader import Installation
from .menu import Entry, New
from .view import View


def whole(view: View, at: Installation) -> str:
    text = view.text(at.config)
    if text is None:
        raise KmodError(
            at.config, "is not there", "Name the loader that the host boots with", "CONFIG_MISSING"
        )
    return text


def put(view: View, at: Installation, new: New, *, body: str) -> None:
    view.put(at.config, texts.put(whole(view, at), new.driver, new.kernel, body=body))


def drop(view: View, at: Installation, entry: Entry) -> None:
    view.put(at.config, texts.cut(whole(view, at), entry.driver or "", entry.kernel or ""))
