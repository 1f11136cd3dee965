# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages with a kernel's headers, fetched by the machine's package manager and unpacked beside: nothing is
installed.

They are unpacked by the families' own tools, with their times: on Enterprise Linux three files of the headers
have one on purpose, and the build would make them again. What was unpacked is kept, by what it was unpacked
from.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .. import tools
from ..errors import KmodError, from_oserror
from ..host import Host
from ..lock import scratch
from ..read.offered import apt
from ..read.offered.manager import Asking

SECONDS = 900  # to fetch or to unpack a package
_DEBIAN = re.compile(
    r"linux-(?:[a-z0-9-]+-)?headers-|linux-kbuild-"
)  # of what they depend on; not the kernel


def packages(paths: Sequence[str], keep: str, release: str) -> str:
    """The directory that packages are unpacked in, below ``keep``.

    Errors: TOOL_MISSING, TOOL_FAILED, HEADERS_MISSING for what is no package, those of writing.
    """
    told = hashlib.sha256()
    for path in sorted(paths, key=os.path.basename):
        with Host("/").open(path) as reader:
            for chunk in reader.chunks():
                told.update(chunk)
    directory = "%s/%s_%s" % (keep, release, told.hexdigest()[:12])
    if os.path.isdir(directory):
        return directory
    with _made(directory) as temporary:
        for path in paths:
            _unpack(os.path.abspath(path), temporary)
    return directory


def _unpack(path: str, directory: str) -> None:
    if path.endswith(".deb"):
        argv = ["dpkg-deb", "-x", path, directory]
    elif path.endswith(".rpm"):
        for name in ("rpm2cpio", "cpio"):
            if tools.find(name) is None:
                raise KmodError(name, "is not installed", "Install it, to unpack %s" % path, "TOOL_MISSING")
        script = (
            'set -o pipefail; cd "$1"; rpm2cpio "$2" | cpio --extract --make-directories '
            "--preserve-modification-time --no-absolute-filenames --quiet"
        )
        argv = ["bash", "-c", script, "bash", directory, path]
    else:
        raise KmodError(
            path,
            "is neither a directory nor a .deb nor an .rpm",
            "Name the kernel's headers",
            "HEADERS_MISSING",
        )
    tools.run(argv, timeout=SECONDS)


@contextlib.contextmanager
def _made(directory: str) -> Iterator[str]:
    """A directory to fill, which gets its name once it is full; of two runs the first."""
    above = os.path.dirname(directory)
    try:
        os.makedirs(above, 0o755, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".new-", dir=above)
    except OSError as error:
        raise from_oserror(above, error, "make the directory") from None
    try:
        os.chmod(temporary, 0o755)
        yield temporary
        with contextlib.suppress(OSError):  # another run has put it there meanwhile
            os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not os.path.isdir(directory):
        raise KmodError(directory, "cannot be made", "Look what lies there", "HEADERS_MISSING")


# Fetching


class Manager(NamedTuple):
    """``wanted`` names the packages of a kernel's headers as ``get`` takes them, [] where they are not offered."""

    tool: str
    wanted: Callable[[Asking, str], List[str]]
    get: Callable[[Asking, Sequence[str], str], None]


def fetched(root: str, release: str, keep: str) -> Optional[str]:
    """The headers of a kernel out of a system's repositories, unpacked below ``keep``; None where they do not
    offer them. What was fetched before is not fetched again, also where it is not offered any more.

    The system's lists are taken as they are. Errors: TOOL_MISSING, TOOL_FAILED, those of unpacking.
    """
    usr = root.rstrip("/") + "/usr/bin/"
    manager = next((each for each in MANAGERS if os.path.exists(usr + each.tool)), None)
    if manager is None:
        raise KmodError(
            "apt-get, dnf, zypper",
            "this system has none of them to fetch headers with",
            "Give headers: a directory, or packages",
            "TOOL_MISSING",
        )
    with scratch(Host("/")) as private:
        asking = Asking(Host(root), private, (), os.uname().machine)
        wanted = manager.wanted(asking, release)
        if not wanted:
            return max(_before(keep, release), key=os.path.getmtime, default=None)
        name = hashlib.sha256("\n".join(sorted(wanted)).encode("utf-8")).hexdigest()[:12]
        directory = "%s/%s_%s" % (keep, release, name)
        if os.path.isdir(directory):
            return directory
        got = private + "/got"
        os.mkdir(got)
        os.chmod(private, 0o755)  # apt fetches as a user of its own, if that one can get here
        with _made(directory) as temporary:
            manager.get(asking, wanted, got)
            for package in sorted(os.listdir(got)):
                if package.endswith((".deb", ".rpm")):
                    _unpack(os.path.join(got, package), temporary)
    return directory


def _before(keep: str, release: str) -> List[str]:
    try:
        names = os.listdir(keep)
    except OSError:
        return []
    return [
        os.path.join(keep, name)
        for name in names
        if re.fullmatch(re.escape(release) + r"_[0-9a-f]{12}", name)
    ]


def _apt(asking: Asking, *words: str) -> List[str]:
    return [words[0], "-q", *apt.options(asking), *words[1:]]


def _apt_wanted(asking: Asking, release: str) -> List[str]:
    """NAME=VERSION of linux-headers-R and of the headers and kbuild packages that it depends on."""
    found: Dict[str, str] = {}
    todo = ["linux-headers-" + release]
    while todo:
        name = todo.pop()
        shown = tools.run(_apt(asking, "apt-cache", "show", "--no-all-versions", name), check=False).out
        version = re.search(r"^Version: (\S+)", shown, re.M)
        if name in found or not version:
            continue
        found[name] = version.group(1)
        depends = re.search(r"^Depends: (.*)", shown, re.M)
        todo += [
            each
            for each in re.findall(r"[a-z0-9][a-z0-9.+-]+", depends.group(1) if depends else "")
            if _DEBIAN.match(each)
        ]
    return ["%s=%s" % item for item in sorted(found.items())] if "linux-headers-" + release in found else []


def _apt_get(asking: Asking, wanted: Sequence[str], directory: str) -> None:
    """Into the working directory, which is why a shell does it."""
    argv = _apt(asking, "apt-get", "download", *wanted)
    tools.run(["sh", "-ec", 'cd "$1"; shift; exec "$@"', "sh", directory] + argv, timeout=SECONDS)


def _dnf(root: str, *words: str) -> List[str]:
    # a kernel that is held back can be built for
    options = ["-q", "--setopt=disable_excludes=main"] + (["--installroot", root] if root != "/" else [])
    return ["dnf", *options, *words]


def _dnf_wanted(asking: Asking, release: str) -> List[str]:
    query = _dnf(
        asking.host.root,
        "repoquery",
        "--available",
        "--whatprovides",
        "kernel-devel-uname-r = " + release,
        "--qf",
        "%{name}-%{version}-%{release}.%{arch}\n",
    )
    return sorted(set(tools.run(query, timeout=SECONDS).out.split()))[-1:]


def _dnf_get(asking: Asking, wanted: Sequence[str], directory: str) -> None:
    tools.run(_dnf(asking.host.root, "download", "--destdir", directory, *wanted), timeout=SECONDS)


def _zypper(root: str, *words: str) -> List[str]:
    return ["zypper", "--non-interactive"] + (["--root", root] if root != "/" else []) + list(words)


def _zypper_wanted(asking: Asking, release: str) -> List[str]:
    """NAME=EDITION of kernel-FLAVOUR-devel and kernel-devel: their editions are the release's with one more
    number, that of the rebuild.
    """
    version, _dash, flavour = release.rpartition("-")
    found = []
    for name in ("kernel-%s-devel" % flavour, "kernel-devel"):
        shown = tools.run(
            _zypper(
                asking.host.root,
                "--xmlout",
                "search",
                "--details",
                "--match-exact",
                "--type",
                "package",
                name,
            ),
            check=False,
            timeout=SECONDS,
        ).out
        editions = re.findall(r'<solvable\b[^>]*\bedition="(%s(?:\.[\d.]+)?)"' % re.escape(version), shown)
        found += (
            ["%s=%s" % (name, max(editions, key=lambda each: [int(n) for n in re.findall(r"\d+", each)]))]
            if editions
            else []
        )
    return found if len(found) == 2 else []


def _zypper_get(asking: Asking, wanted: Sequence[str], directory: str) -> None:
    tools.run(
        _zypper(asking.host.root, "--pkg-cache-dir", directory + "/cache", "download", *wanted),
        timeout=SECONDS,
    )
    for above, _below, names in os.walk(directory + "/cache"):
        for name in names:
            if name.endswith(".rpm"):
                os.rename(os.path.join(above, name), os.path.join(directory, name))


MANAGERS = (
    Manager("apt-get", _apt_wanted, _apt_get),
    Manager("dnf", _dnf_wanted, _dnf_get),
    Manager("zypper", _zypper_wanted, _zypper_get),
)
