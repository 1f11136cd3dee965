# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module files as they are once they are uncompressed, piece by piece."""

import hashlib
import os
from typing import Callable, Iterator

from ...compression import Decoder, detect
from ...host import Host


def reader(host: Host, path: str) -> Callable[[], Iterator[bytes]]:
    return lambda: plain(host, path)


def plain(host: Host, path: str) -> Iterator[bytes]:
    """The content of a module file, unpacked as it is read."""
    with host.open(path) as reader:
        kind = detect(reader.at(0, 6))
        if kind is None:
            yield from reader.chunks()
            return
        decoder = Decoder(kind, path)
        for chunk in reader.chunks():
            yield from decoder.feed(chunk)
        decoder.finish()


def sha256_of(file: str) -> str:
    """The digest of a module file of this machine once it is unpacked."""
    digest = hashlib.sha256()
    for chunk in plain_file(file):
        digest.update(chunk)
    return digest.hexdigest()


def plain_file(file: str) -> Iterator[bytes]:
    """The content of a module file of this machine."""
    return plain(Host("/"), os.path.realpath(file))
