# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages for tests, made by hand."""

import gzip
import io
import struct
import tarfile

from tests.forge.cpio import TRAILER, member

FILES = {
    "lib/modules/5.14.0-1/extra/vendor/vendor.ko": b"module",
    "lib/modules/5.14.0-1/extra/vendor/helper.ko.xz": b"helper!",
    "usr/share/doc/vendor/README": b"text",
}


def deb(compress=gzip.compress, name="data.tar.gz", files=FILES):  # pylint: disable=dangerous-default-value
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo("./" + path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    members = [("debian-binary", b"2.0\n"), ("control.tar.gz", b"odd"), (name, compress(tar.getvalue()))]
    heads = [
        ("%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (title, 0, 0, 0, "100644", len(data))).encode()
        for title, data in members
    ]
    return b"!<arch>\n" + b"".join(
        head + data + b"\n" * (len(data) % 2) for head, (_title, data) in zip(heads, members)
    )


def rpm(compress=gzip.compress, files=FILES):  # pylint: disable=dangerous-default-value
    body = b"".join(member("./" + name, data=data, inode=1) for name, data in files.items()) + TRAILER
    signature = struct.pack(">4s4xII", b"\x8e\xad\xe8\x01", 1, 5) + bytes(16) + b"12345"
    header = struct.pack(">4s4xII", b"\x8e\xad\xe8\x01", 2, 3) + bytes(32) + b"abc"
    return (
        b"\xed\xab\xee\xdb"
        + bytes(92)
        + signature
        + b"\0" * (-(96 + len(signature)) % 8)
        + header
        + compress(body)
    )
