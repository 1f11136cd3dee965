# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real kernels as judges: every module of a list is handed to one, and what it answered is read off the
console.
"""

import errno
import hashlib
import os
import re
import struct
import tempfile
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from tests.forge.cpio import Content, Device
from tests.lab import debian, qemu

HERE = Path(__file__).resolve().parent
MARKER = b"~Module signature appended~\n"
BATCH = 256 << 20  # bytes of modules in one boot
SYMBOL = re.compile(r"Unknown symbol (\S+) \(err")


class Attempt(NamedTuple):
    """A module to be handed to the kernel. A kept one stays loaded, as a provider for those after it."""

    label: str
    data: bytes
    keep: bool = False
    flags: int = 0  # of finit_module


class Answer(NamedTuple):
    """What the kernel did with an attempt."""

    label: str
    errno: Optional[str]  # "EINVAL", None: taken, "CRASH": the kernel fell over it
    log: Tuple[str, ...]

    @property
    def symbols(self) -> List[str]:
        """The symbols that the kernel refused, sorted."""
        return sorted({symbol for line in self.log for symbol in SYMBOL.findall(line)})


def judge(
    kernel: debian.Image, attempts: Sequence[Attempt], append: str = "", timeout: float = 900
) -> List[Answer]:
    """What a kernel answers to each attempt, in their order, as one boot would (several, if they are too many
    for one).
    """
    answers: List[Answer] = []
    for batch in _batches(attempts):
        rest = list(batch)
        while rest:
            answered = _boot(kernel, rest, append, timeout)
            answers += answered
            rest = (
                [each for each in rest[: len(answered) - 1] if each.keep] + rest[len(answered) :]
                if len(answered) < len(rest)
                else []
            )
    return answers


def _batches(attempts: Sequence[Attempt]) -> Iterable[List[Attempt]]:
    """Split by size; a provider that is kept goes into every batch after its own too, so it is answered once
    for each.
    """
    batch: List[Attempt] = []
    kept: List[Attempt] = []
    for attempt in attempts:
        if sum(len(each.data) for each in batch) + len(attempt.data) > BATCH and len(batch) > len(kept):
            yield batch
            batch = list(kept)
        batch.append(attempt)
        if attempt.keep:
            kept.append(attempt)
    if batch:
        yield batch


def _boot(kernel: debian.Image, attempts: Sequence[Attempt], append: str, timeout: float) -> List[Answer]:
    files: Dict[str, Content] = {
        "proc": None,
        "dev/console": Device(5, 1),
        "dev/kmsg": Device(1, 11),
        "init": _init(),
    }
    lines = []
    for number, attempt in enumerate(attempts):
        files["m/%d" % number] = attempt.data
        lines.append("%s %d m/%d" % ("K" if attempt.keep else "T", attempt.flags, number))
    files["list"] = ("\n".join(lines) + "\n").encode()
    size = sum(len(attempt.data) for attempt in attempts)
    with tempfile.TemporaryDirectory(prefix="kmod-judge-") as directory:
        initrd = Path(directory, "initrd")
        initrd.write_bytes(qemu.initramfs(files))
        text = qemu.boot(
            debian.vmlinuz(kernel),
            initrd,
            "quiet loglevel=1 log_buf_len=16M " + append,
            timeout,
            memory=1024 + 3 * size // (1 << 20),
            stop=r"(?m)^= end$",
        )
    return _read(text, attempts)


def _read(text: str, attempts: Sequence[Attempt]) -> List[Answer]:
    answers = []
    blocks = re.split(r"(?m)^= m/(\d+) (\d+)\n", text)
    for number, code, rest in zip(blocks[1::3], blocks[2::3], blocks[3::3]):
        log = tuple(line[2:] for line in rest.splitlines() if line.startswith("| "))
        name = {"0": None, "255": "CRASH"}[code] if code in ("0", "255") else errno.errorcode[int(code)]
        answers.append(Answer(attempts[int(number)].label, name, log))
    if len(answers) != len(attempts) and (not answers or answers[-1].errno != "CRASH"):
        raise debian.LabError(
            "%d of %d modules were answered; the console ends with:\n%s"
            % (len(answers), len(attempts), text[-3000:])
        )
    return answers


def _init() -> bytes:
    source = HERE / "loader.c"

    def make(directory: Path) -> None:
        qemu.static(source, directory / "init")

    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return (
        debian.once(debian.cache() / "kernel-tests" / ("loader-" + digest), make)
        .joinpath("init")
        .read_bytes()
    )


# Modules as the harness changes them (little-endian 64 bit), with an eye of its own on ELF: it judges the
# project's reader too.


class Section(NamedTuple):
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    header: int  # where its header lies


def sections(data: bytes) -> List[Section]:
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQII", data, table + number * size) for number in range(count)]
    start = rows[names][4]
    return [
        Section(
            data[start + row[0] : data.index(b"\0", start + row[0])].decode(),
            row[1],
            row[2],
            row[4],
            row[5],
            row[6],
            row[7],
            table + number * size,
        )
        for number, row in enumerate(rows)
    ]


def section(data: bytes, name: str) -> Optional[Section]:
    return next((each for each in sections(data) if each.name == name), None)


def unsigned(data: bytes) -> bytes:
    """The module without its signature."""
    if not data.endswith(MARKER):
        return data
    end = len(data) - len(MARKER)
    return data[: end - 12 - struct.unpack_from(">I", data, end - 4)[0]]


def neutral(data: bytes) -> bytes:
    """The module without signature, init and exit: it can be loaded and removed and never runs.

    Its relocations of init_module and cleanup_module become R_*_NONE, which every check of the loader still
    walks over.
    """
    changed = bytearray(unsigned(data))
    found = section(bytes(changed), ".rela.gnu.linkonce.this_module")
    if found:
        for at in range(found.offset, found.offset + found.size, 24):
            struct.pack_into("<I", changed, at + 8, 0)
    return bytes(changed)


def versions(data: bytes) -> Dict[str, int]:
    """Where each symbol's entry of __versions lies."""
    found = section(data, "__versions")
    if not found:
        return {}
    return {
        data[at + 8 : at + 64].split(b"\0")[0].decode(): at
        for at in range(found.offset, found.offset + found.size, 64)
    }


def with_crc(data: bytes, symbol: str, crc: int) -> bytes:
    """The module as if it had been built against another version of one symbol."""
    changed = bytearray(data)
    struct.pack_into("<Q", changed, versions(data)[symbol], crc)
    return bytes(changed)


def undefined(data: bytes) -> List[str]:
    """The names of the symbols that the module needs."""
    table = next(each for each in sections(data) if each.type == 2)
    names = sections(data)[table.link]
    found = []
    for at in range(table.offset + 24, table.offset + table.size, 24):
        name, _info, _other, index = struct.unpack_from("<IBBH", data, at)
        if index == 0 and name:
            start = names.offset + name
            found.append(data[start : data.index(b"\0", start)].decode())
    return found


def depends(data: bytes) -> List[str]:
    """The modules that a module says it needs."""
    found = section(data, ".modinfo")
    text = data[found.offset : found.offset + found.size] if found else b""
    names = re.search(rb"(?:^|\0)depends=([^\0]*)", text)
    return [name_of(name) for name in names.group(1).decode().split(",") if name] if names else []


def read(path: Path) -> bytes:
    """A module file, unpacked."""
    data = path.read_bytes()
    if data.startswith(b"\xfd7zXZ"):
        import lzma

        return lzma.decompress(data)
    return data


def modules(kernel: debian.Image) -> Dict[str, Path]:
    """The kernel's in-tree modules by name, dependencies first."""
    needs = dependencies(kernel)
    base = debian.tree(kernel) / "usr" / "lib" / "modules" / kernel.release
    paths = {
        name_of(line): base / line.partition(":")[0]
        for line in (base / "modules.dep").read_text().splitlines()
    }
    ordered: Dict[str, Path] = {}
    for name in sorted(needs):
        for each in needs[name] + [name]:
            ordered.setdefault(each, paths[each])
    return ordered


def dependencies(kernel: debian.Image) -> Dict[str, List[str]]:
    """What each in-tree module needs, directly or not, in the order in which to load it."""
    text = (debian.tree(kernel) / "usr" / "lib" / "modules" / kernel.release / "modules.dep").read_text()
    return {
        name_of(line): [name_of(path) for path in reversed(line.partition(":")[2].split())]
        for line in text.splitlines()
    }


def name_of(path: str) -> str:
    return os.path.basename(path.partition(":")[0]).split(".ko")[0].replace("-", "_")
