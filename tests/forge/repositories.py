# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Repositories of made-up packages, made by the families' own tools, and directory hosts that have their lists."""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Union

APT = ("apt-get", "apt-cache", "dpkg-deb", "dpkg-scanpackages")
DNF = ("dnf", "rpmbuild", "createrepo_c")


def lacking(tools: Sequence[str]) -> Optional[str]:
    found = [name for name in tools if not shutil.which(name)]
    if not found and "dnf" in tools and _run(["dnf", "download", "--help"], check=False).returncode:
        found = ["dnf download (dnf-plugins-core)"]
    return "needs " + ", ".join(found) if found else None


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """The address of a directory, which answers for as long as the context lasts."""
    handler = functools.partial(_Quiet, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "http://127.0.0.1:%d" % server.server_port
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def _run(argv, check=True, **options):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    assert not check or done.returncode == 0, done.stdout.decode("utf-8", "replace")
    return done


# .deb


def deb(
    directory: Path, name: str, version: str, files: Optional[Dict[str, bytes]] = None, **fields: str
) -> Path:
    """Write a package; ``fields`` are further ones of its control file (Depends, Source)."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "root"
        for path, data in dict(files or {}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(_control(name, version, fields))
        target = directory / ("%s_%s_amd64.deb" % (name, version))
        _run(["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", str(root), str(target)])
    return target


def _control(name: str, version: str, fields: Dict[str, str]) -> str:
    every = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "T <t@example.com>"}
    every.update(fields, Description="made up")
    return "".join("%s: %s\n" % each for each in every.items())


def apt_lists(repository: Path) -> None:
    done = subprocess.run(
        ["dpkg-scanpackages", "--multiversion", "."],
        cwd=str(repository),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=True,
    )
    (repository / "Packages").write_bytes(done.stdout)


def apt_host(
    root: Path, repositories: Sequence[Union[Path, str]], installed: Sequence[Dict[str, str]] = ()
) -> None:
    """A directory host with apt, that has these packages (fields of dpkg's status) and the repositories' lists."""
    for path in (
        "etc/apt/preferences.d",
        "var/lib/apt/lists/partial",
        "var/lib/dpkg",
        "var/cache/apt/archives/partial",
    ):
        (root / path).mkdir(parents=True, exist_ok=True)
    status = [
        _control(each["Package"], each["Version"], dict({"Status": "install ok installed"}, **each))
        for each in installed
    ]
    (root / "var/lib/dpkg/status").write_text("\n".join(status))
    (root / "etc/apt/sources.list").write_text(
        "".join("deb [trusted=yes] %s ./\n" % _address(each) for each in repositories)
    )
    apt_update(root)


def _address(place: Union[Path, str]) -> str:
    return "file://%s" % place if isinstance(place, Path) else place


def apt_update(root: Path, check: bool = True) -> None:
    options = ["Dir=%s" % root, "Dir::State::status=%s/var/lib/dpkg/status" % root, "APT::Sandbox::User=root"]
    _run(["apt-get", *(word for each in options for word in ("-o", each)), "update"], check=check)


# .rpm


class Rpm:
    """A package to be made."""

    def __init__(
        self, name: str, files: Optional[Dict[str, bytes]] = None, provides: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.files = dict(files or {})
        self.provides = provides


def rpms(
    directory: Path, version: str, release: str, packages: Sequence[Rpm], arch: str = "x86_64"
) -> List[Path]:
    """Write packages of one version into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "root"
        spec = "Name: made-up\nVersion: %s\nRelease: %s\nSummary: made up\nLicense: GPL-2.0-only\n" % (
            version,
            release,
        )
        spec += "AutoReqProv: no\n%description\nmade up\n"
        for package in packages:
            for path, data in package.files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
            spec += "%%package -n %s\nSummary: made up\n" % package.name
            spec += "".join("Provides: %s\n" % each for each in package.provides)
            spec += "%%description -n %s\nmade up\n%%files -n %s\n" % (package.name, package.name)
            spec += "".join("/%s\n" % path for path in package.files) + "\n"
        spec += "%%install\nmkdir -p %%{buildroot}\n[ ! -d %s ] || cp -a %s/. %%{buildroot}/\n" % (root, root)
        (Path(made) / "made-up.spec").write_text(spec)
        defined = [
            "_topdir " + made,
            "_rpmdir %s" % directory,
            "_build_id_links none",
            "debug_package %{nil}",
        ]
        defined += ["__os_install_post %{nil}", "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"]
        options = [word for each in defined for word in ("-D", each)]
        _run(["rpmbuild", "-bb", "--quiet", "--target", arch, *options, made + "/made-up.spec"])
    return sorted(directory.glob("*-%s-%s.%s.rpm" % (version, release, arch)))


def dnf_lists(repository: Path) -> None:
    _run(["createrepo_c", "--quiet", str(repository)])


def dnf_host(root: Path, repositories: Mapping[str, Union[Path, str]], lists: bool = True) -> None:
    """A directory host with dnf, that has the lists of these repositories."""
    for path in ("etc/yum.repos.d", "etc/dnf", "var/cache/dnf", "var/tmp"):
        (root / path).mkdir(parents=True, exist_ok=True)
    (root / "etc/dnf/dnf.conf").write_text("[main]\ngpgcheck=1\n")
    for name, place in repositories.items():
        (root / "etc/yum.repos.d" / (name + ".repo")).write_text(
            "[%s]\nname=%s\nbaseurl=%s\ngpgcheck=0\n" % (name, name, _address(place))
        )
    if lists:
        dnf_makecache(root)


def dnf_makecache(root: Path) -> None:
    with tempfile.TemporaryDirectory() as logs:
        settings = {
            "reposdir": root / "etc/yum.repos.d",
            "cachedir": root / "var/cache/dnf",
            "logdir": logs,
            "persistdir": logs,
        }
        options = ["--setopt=%s=%s" % each for each in settings.items()]
        _run(
            ["dnf", "-q", "--config=%s" % (root / "etc/dnf/dnf.conf"), "--releasever=9", "--forcearch=x86_64"]
            + [*options, "makecache"]
        )


def dnf_install(root: Path, packages: Sequence[Path]) -> None:
    """Have rpm's database say that these are installed."""
    database = root / "var/lib/rpm"
    database.mkdir(parents=True, exist_ok=True)
    _run(["rpm", "--dbpath", str(database), "-i", "--justdb", "--nodeps", "--noscripts", *map(str, packages)])


def aged(root: Path, paths: Sequence[str], days: float) -> None:
    """Have files, or all that match, be so many days old."""
    for pattern in paths:
        for path in root.glob(pattern):
            then = path.stat().st_mtime - days * 86400
            os.utime(path, (then, then))
