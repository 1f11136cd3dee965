# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmodctl as one file: an archive of Python sources that an interpreter runs, with the bytecode of the Python
that puts it together.

What is sent to a host has no bytecode, since that is of one version of Python alone; the host's own Python
adds it, so that nothing has to be compiled at each start. Any other version ignores it and compiles. Which
sources it is made of tells a digest of them, whatever packed them.
"""

import hashlib
import importlib.util
import io
import marshal
import struct
import sys
import time
import zipfile
import zlib
from typing import Any, Dict

from ..errors import KmodError

LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same input gives the same bytes
LIMIT = 64 << 20
# By the name of a file in it one is told from any other; an installed one begins with that, so that it is told by
# what a power cut has left of it, too.
MARK = b"outoftree_kmod/cli.py"


def digest(sources: Dict[str, bytes]) -> str:
    """A sha256 of names and contents, by which two versions are told apart."""
    rows = ["%s  %s\n" % (hashlib.sha256(sources[name]).hexdigest(), name) for name in sorted(sources)]
    return hashlib.sha256("".join(rows).encode("utf-8")).hexdigest()


def packed(sources: Dict[str, bytes]) -> bytes:
    """The sources as they are sent: an archive without an interpreter."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, LONG_AGO)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, sources[name])
    return data.getvalue()


def unpacked(data: bytes, path: str) -> Dict[str, bytes]:
    """What ``packed`` was given. Error: KMODCTL_DAMAGED."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > LIMIT:
                raise zipfile.BadZipFile("it unpacks to more than %d bytes" % LIMIT)
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise KmodError(
            path, "is not the kmodctl that was sent: %s" % error, "Run the play again", "KMODCTL_DAMAGED"
        ) from None


def runnable(sources: Dict[str, bytes], interpreter: str) -> bytes:
    """The file that runs: for this Python, with its bytecode beside each source."""
    members = dict(sources)
    for name, source in sources.items():
        if name.endswith(".py"):
            members[name + "c"] = compiled(name, source)
    return b"#!%s\n# %s\n" % (interpreter.encode("utf-8"), MARK) + packed(members)


def compiled(name: str, source: bytes) -> bytes:
    """A module's bytecode as an archive holds it.

    ``Lib/importlib/_bootstrap_external.py: _code_to_hash_pyc``, unchecked: a time would not survive the
    archive's two seconds and no zone. The zipimport of Python 3.6 knows times alone (Modules/zipimport.c:
    unmarshal_code), and makes a local one of the archive's.
    """
    code = compile(source, "kmodctl/" + name, "exec", dont_inherit=True, optimize=2)
    if sys.version_info >= (3, 7):
        stamp = struct.pack("<I", 1) + importlib.util.source_hash(source)
    else:
        stamp = struct.pack(
            "<II", int(time.mktime(LONG_AGO + (-1, -1, -1))) & 0xFFFFFFFF, len(source) & 0xFFFFFFFF
        )
    return importlib.util.MAGIC_NUMBER + stamp + marshal.dumps(code)


def version() -> str:
    """Which bytecode this Python has."""
    number: Any = importlib.util.MAGIC_NUMBER
    return "%s %s" % (sys.implementation.cache_tag, bytes(number).hex())
