# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a checkout in any directory importable under the collection's own name, and finds it a depmod."""
import os
import sys

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def collections_path() -> str:
    """A directory in which this checkout is ansible_collections/outoftree/kmod."""
    above = os.path.dirname(os.path.dirname(os.path.dirname(CHECKOUT)))
    if os.path.join(above, "ansible_collections", "outoftree", "kmod") == CHECKOUT:
        return above
    path = os.path.join(CHECKOUT, "build", "collections")
    link = os.path.join(path, "ansible_collections", "outoftree", "kmod")
    os.makedirs(os.path.dirname(link), exist_ok=True)
    if not os.path.islink(link):
        os.symlink(os.path.relpath(CHECKOUT, os.path.dirname(link)), link)
    return path


sys.path.insert(0, collections_path())

sys.path.insert(1, os.path.join(CHECKOUT, "tests"))

from lab import debian  # noqa: E402

os.environ["PATH"] += ":/usr/sbin:/sbin"  # a plain user's has none of it
debian.borrow_kmod()
