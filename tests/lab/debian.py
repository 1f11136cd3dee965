# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian packages of any suite and architecture, fetched and unpacked outside of the checkout, as a plain
user.

A private apt configuration per suite and architecture reads this machine's own Debian sources (mirror,
keyring, proxy), so nothing here names a host or a kernel: what a suite offers is discovered. Everything lands
below ``cache()``; a finished item is only ever renamed into place, so any number of runs can share it.
"""

import argparse
import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

DAY = 24 * 3600
# What the machine's own apt configuration must not decide here: where things are kept, for whom, and what
# else runs.
NOT_INHERITED = (
    "Dir",
    "APT::Architecture",
    "APT::Update",
    "APT::Default-Release",
    "APT::Sandbox",
    "DPkg",
    "Acquire::IndexTargets",
    "Acquire::Languages",
)
Paragraph = Dict[str, str]


class LabError(Exception):
    """Something that the tests need cannot be had here; the text says what and why."""


class Missing(LabError):
    """What is missing is a tool or a right of this machine's: a test that needs it is skipped."""


class Image(NamedTuple):
    """A kernel that a suite offers."""

    release: str  # uname -r
    package: str
    version: str
    suite: str
    size: int  # bytes to download, of the image package alone
    arch: str = "amd64"


# Where things are kept


def cache() -> Path:
    """The directory that everything is kept in; safe to delete."""
    path = os.environ.get("OUTOFTREE_KMOD_CACHE") or os.path.join(
        os.path.expanduser("~"), ".cache", "outoftree.kmod"
    )
    return Path(path)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """One at a time, across processes, for what ``name`` stands for."""
    path = cache() / "locks" / re.sub(r"[^\w.+-]", "_", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def once(path: Path, make: Callable[[Path], None]) -> Path:
    """``path``, made by ``make(temporary directory)`` unless it is there already: whole or not at all."""
    if path.exists():
        return path
    with lock(str(path.relative_to(cache()))):
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=str(path.parent)))
        try:
            temporary.chmod(0o755)
            make(temporary)
            temporary.rename(path)
        finally:
            shutil.rmtree(str(temporary), ignore_errors=True)
    return path


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(argv: Sequence[str], **options: object) -> str:
    """A command's standard output; a LabError with the end of what it said if it fails."""
    done = subprocess.run(
        list(argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        errors="replace",
        check=False,
        **options,
    )  # type: ignore
    if done.returncode:
        raise LabError(
            "%s: exit status %d: %s"
            % (" ".join(argv[:6]), done.returncode, (done.stderr.strip() or done.stdout.strip())[-1500:])
        )
    return done.stdout


def natural(text: str) -> Tuple[Tuple[int, int, str], ...]:
    """A sort key in which 6.1.0-9 comes before 6.1.0-56 and 6.12~rc1 before 6.12."""
    parts = re.findall(r"\d+|~|[^\d~]+", text)
    return tuple(
        (-1, 0, "") if part == "~" else (1, int(part), "") if part.isdigit() else (1, -1, part)
        for part in parts
    ) + ((0, 0, ""),)


# apt


def _paragraphs(text: str) -> Iterator[Paragraph]:
    for block in re.split(r"\n\s*\n", text):
        fields: Paragraph = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in " \t":
                fields[name] = fields.get(name, "") + "\n" + line
            elif ":" in line:
                name, _unused, value = line.partition(":")
                name = name.lower()
                fields[name] = value.strip()
        if fields:
            yield fields


def _one_line(text: str) -> Iterator[Paragraph]:
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if found:
            options = dict(option.partition("=")[::2] for option in (found.group(1) or "").split())
            yield {
                "types": "deb",
                "uris": found.group(2),
                "suites": found.group(3),
                "components": found.group(4).split("#")[0],
                "signed-by": options.get("signed-by", ""),
            }


@functools.lru_cache()
def _machine_sources() -> Tuple[Paragraph, ...]:
    """This machine's own apt sources, of both forms, as paragraphs."""
    etc = Path(run(["apt-config", "shell", "P", "Dir::Etc/d"]).strip()[3:-1] or "/etc/apt")
    found: List[Paragraph] = []
    for path in [etc / "sources.list"] + sorted((etc / "sources.list.d").glob("*")):
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
            found += (
                _paragraphs(text)
                if path.suffix == ".sources"
                else _one_line(text)
                if path.suffix == ".list"
                else []
            )
    return tuple(
        source
        for source in found
        if "deb" in source.get("types", "").split() and source.get("enabled", "yes").lower() != "no"
    )


def _mirror(security: bool) -> Optional[Paragraph]:
    """The source that this machine takes Debian itself (or its security updates) from: the one for the
    machine's own suite.
    """
    names = {"stable", "testing", "unstable", "sid"}
    with contextlib.suppress(OSError):
        names |= set(re.findall(r'^VERSION_CODENAME="?(\w+)', Path("/etc/os-release").read_text(), re.M))
    if security:
        names = {name + ending for name in names for ending in ("-security", "/updates")}
    for source in _machine_sources():
        if names & set(source.get("suites", "").split()) and "main" in source.get("components", "").split():
            return source
    return None


def _pockets(suite: str, backports: bool) -> List[Tuple[Paragraph, str]]:
    main, security = _mirror(False), _mirror(True)
    if main is None:
        raise LabError("no Debian source for this machine's own suite in its apt configuration")
    found = [(main, suite)]
    if suite not in ("sid", "unstable", "experimental"):
        found += [(main, suite + "-updates")] + ([(security, suite + "-security")] if security else [])
    return found + ([(main, suite + "-backports")] if backports else [])


def _deb822(source: Paragraph, suite: str) -> str:
    signed = "Signed-By: %s\n" % source["signed-by"] if source.get("signed-by") else ""
    return "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n%s" % (
        source["uris"].split()[0],
        suite,
        signed,
    )


def sources(suite: str) -> str:
    """A .sources file for the suite (its updates and security too), from the mirror that this machine uses."""
    return "\n".join(_deb822(source, name) for source, name in _pockets(suite, False))


def inherited() -> List[str]:
    """This machine's own apt configuration (proxies and the like) without what is decided here."""
    return [line for line in run(["apt-config", "dump"]).splitlines() if not line.startswith(NOT_INHERITED)]


def system(
    suite: str, target: Path, packages: Sequence[str], *options: str, components: str = "main"
) -> None:
    """Install a small system of the suite with these packages into ``target``, a directory or a .tar; needs
    root and mmdebstrap.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as configuration:
        configuration.write("\n".join(inherited() + ['APT::Install-Recommends "false";', ""]))
        configuration.flush()
        run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--aptopt=" + configuration.name,
                "--include=" + ",".join(packages),
                *options,
                suite,
                # "-", else it takes other mirrors
                str(target),
                "-",
            ],
            input=sources(suite).replace("Components: main", "Components: " + components),
        )


def _configuration(suite: str, arch: str, backports: bool) -> Path:
    """A private apt configuration (its apt.conf), made once and brought up to date at most once a day."""
    base = cache() / "apt" / ("%s%s-%s" % (suite, "+backports" if backports else "", arch))
    conf = base / "apt.conf"
    updated = base / "updated"
    with lock("apt-" + base.name):
        if updated.exists() and time.time() - updated.stat().st_mtime < DAY:
            return conf
        for name in ("etc/sources.list.d", "state/lists/partial", "cache/archives/partial"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "status").write_text("")
        conf.write_text(
            "\n".join(
                inherited()
                + [
                    'Dir "%s/";' % base,
                    'Dir::Etc "etc";',
                    'Dir::Etc::parts "none";',
                    'Dir::Etc::main "none";',
                    'Dir::Etc::trusted "/etc/apt/trusted.gpg";',
                    'Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";',
                    'Dir::State "state";',
                    'Dir::State::status "%s/status";' % base,
                    'Dir::Cache "cache";',
                    'APT::Architecture "%s";' % arch,
                    'APT::Architectures "%s";' % arch,
                    'APT::Sandbox::User "%s";' % _user(),
                    'Acquire::Languages "none";',
                    'Acquire::Retries "3";',
                    "",
                ]
            )
        )
        usable = []
        for number, (source, name) in enumerate(_pockets(suite, backports)):
            path = base / "etc" / "sources.list.d" / ("%d.sources" % number)
            path.write_text(_deb822(source, name))
            say("apt-get update: %s (%s)" % (name, arch))
            try:
                run(
                    [
                        "apt-get",
                        "update",
                        "-q",
                        "-o",
                        "Dir::Etc::sourcelist=%s" % path,
                        "-o",
                        "Dir::Etc::sourceparts=none",
                        "-o",
                        "APT::Get::List-Cleanup=0",
                    ],
                    env=_environment(conf),
                )
                usable.append(name)
            except LabError as error:
                path.unlink()  # a suite without this pocket, or one that has moved to the archive
                if number == 0:
                    raise
                say("  left out: %s" % error)
        updated.write_text(" ".join(usable) + "\n")
    return conf


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _environment(conf: Path) -> Dict[str, str]:
    return dict(os.environ, APT_CONFIG=str(conf), LC_ALL="C")


def available() -> Optional[str]:
    """None where Debian packages can be fetched, else the reason why not."""
    for tool in ("apt-get", "apt-config", "dpkg-deb"):
        if shutil.which(tool, path=_path()) is None:
            return "no %s on this machine" % tool
    try:
        _configuration(_own_suite(), "amd64", False)
    except (LabError, OSError) as error:
        return str(error)
    return None


def borrow_kmod() -> None:
    """Give this process and its children depmod and modprobe out of Debian's packages where the machine has
    none: nothing is installed.
    """
    if shutil.which("depmod", path=_path()) or available() is not None:
        return
    suite = _own_suite()
    libraries = [
        next(unpack(package(name, suite)).rglob(soname)).parent
        for name, soname in (
            ("libkmod2", "libkmod.so.2"),
            ("libssl3" if packages("libssl3", suite) else "libssl3t64", "libcrypto.so.3"),
        )
    ]
    tools = cache() / "kmod"
    tools.mkdir(parents=True, exist_ok=True)
    binary = unpack(package("kmod", suite)) / "usr" / "bin" / "kmod"
    for name in ("depmod", "modprobe", "modinfo"):
        script = tools / name
        script.write_text(
            '#!/bin/bash\nLD_LIBRARY_PATH=%s exec -a %s %s "$@"\n'
            % (":".join(map(str, libraries)), name, binary)
        )
        script.chmod(0o755)
    os.environ["PATH"] = "%s:%s" % (tools, os.environ["PATH"])


def _own_suite() -> str:
    source = _mirror(False)
    if source is None:
        raise LabError("no Debian source for this machine's own suite in its apt configuration")
    return next(name for name in source["suites"].split() if "-" not in name)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"


@functools.lru_cache()
def _index(suite: str, arch: str, backports: bool) -> Dict[str, List[Paragraph]]:
    """Every package of the suite by name, its versions oldest first (fields' names in lower case)."""
    conf = _configuration(suite, arch, backports)
    files = run(
        ["apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"], env=_environment(conf)
    ).split()
    wanted = re.compile(r"^(Package|Version|Depends|Size|Architecture|Source|SHA256|Provides): (.*)$", re.M)
    found: Dict[str, List[Paragraph]] = {}
    for name in files:
        for block in run(["/usr/lib/apt/apt-helper", "cat-file", name], env=_environment(conf)).split("\n\n"):
            fields = {key.lower(): value for key, value in wanted.findall(block)}
            if fields:
                found.setdefault(fields["package"], []).append(fields)
    for versions in found.values():
        versions.sort(key=lambda fields: natural(fields["version"]))
    return found


def packages(pattern: str, suite: str, arch: str = "amd64", backports: bool = False) -> List[Paragraph]:
    """The newest version of each package whose whole name matches, by name: apt's own fields, in lower case."""
    match = re.compile(pattern).fullmatch
    return [versions[-1] for name, versions in sorted(_index(suite, arch, backports).items()) if match(name)]


def package(
    name: str, suite: str, arch: str = "amd64", version: Optional[str] = None, backports: bool = False
) -> Path:
    """The .deb of a package, checked by apt against the suite's signed index."""
    versions = _index(suite, arch, backports).get(name)
    if not versions:
        raise LabError("%s: no such package in %s (%s)" % (name, suite, arch))
    fields = next((each for each in versions if each["version"] == version), versions[-1])
    conf = _configuration(suite, arch, backports)

    def make(temporary: Path) -> None:
        say("fetching %s %s (%.1f MB)" % (name, fields["version"], int(fields["size"]) / 1e6))
        run(
            ["apt-get", "download", "-q", "%s=%s" % (name, fields["version"])],
            env=_environment(conf),
            cwd=str(temporary),
        )

    directory = once(cache() / "debs" / ("%s_%s_%s" % (name, fields["version"], arch)), make)
    return next(directory.glob("*.deb"))


def unpack(deb: Path) -> Path:
    """The directory that a package is unpacked in (shared: read it, do not write to it)."""
    return once(cache() / "unpacked" / deb.parent.name, lambda temporary: _extract(deb, temporary))


def _extract(deb: Path, root: Path) -> None:
    """Unpack into a root that is laid out as a machine with a merged /usr is: /lib is a symlink."""
    (root / "usr" / "lib").mkdir(parents=True, exist_ok=True)
    for name in ("lib", "bin", "sbin"):
        (root / "usr" / name).mkdir(exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to("usr/" + name)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as source:
        run(
            ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)], stdin=source.stdout
        )
    if source.returncode:
        raise LabError("%s: dpkg-deb cannot unpack it" % deb)


# Kernels


def kernels(
    suite: str, arch: str = "amd64", flavour: str = "cloud-amd64", backports: bool = False
) -> List[Image]:
    """Every kernel of one flavour that the suite, its updates and its security updates offer right now,
    oldest first.
    """
    # The third number tells a kernel from the metapackage that depends on the newest one.
    name = re.compile(
        r"linux-image-(\d+\.\d+[.-][0-9a-z.+~]*(?:-(?:rc)?\d+)?-%s)(-unsigned)?" % re.escape(flavour)
    )
    found: Dict[str, Image] = {}
    for each, versions in sorted(_index(suite, arch, backports).items()):
        match = name.fullmatch(each)
        if match and match.group(1) not in found:  # the signed one comes first and is what machines run
            newest = versions[-1]
            found[match.group(1)] = Image(
                match.group(1), each, newest["version"], suite, int(newest["size"]), arch
            )
    return sorted(found.values(), key=lambda image: natural(image.release))


def image(release: str, suite: str, arch: str = "amd64") -> Image:
    """One kernel by its release."""
    flavour = re.sub(r"^\d[0-9a-z.+~]*(-(rc)?\d+)?-", "", release)
    for each in kernels(suite, arch, flavour, backports="bpo" in release):
        if each.release == release:
            return each
    raise LabError("%s: not offered by %s (%s)" % (release, suite, arch))


def _with_dependencies(kernel: Image, name: str, accept: Callable[[str], bool]) -> List[Path]:
    """A package and those it depends on, directly or not, that ``accept`` takes by name."""
    backports = "bpo" in kernel.release
    index = _index(kernel.suite, kernel.arch, backports)
    done: List[str] = []
    todo = [name]
    while todo:
        each = todo.pop()
        if each in done or each not in index:
            continue
        done.append(each)
        alternatives = re.findall(r"([a-z0-9][a-z0-9.+-]+)(?:\s|,|$)", index[each][-1].get("depends", ""))
        todo += [depends for depends in alternatives if accept(depends)]
    return [package(each, kernel.suite, kernel.arch, backports=backports) for each in sorted(done)]


def image_packages(kernel: Image) -> List[Path]:
    """The packages that a kernel is installed by: from trixie's successors on the image, the modules and the
    rest are several, all named after the release."""
    return _with_dependencies(kernel, kernel.package, lambda name: kernel.release in name)


def tree(kernel: Image) -> Path:
    """A kernel installed below a root directory: boot/ (image and config), usr/lib/modules (lib is a
    symlink), depmod run.

    Shared by all: copy it (``cp -a --reflink=auto``) before writing to it.
    """

    def make(root: Path) -> None:
        for deb in image_packages(kernel):
            _extract(deb, root)
        if not list(root.glob("usr/lib/modules/%s/kernel" % kernel.release)):
            raise LabError("%s: no modules in it" % kernel.package)
        (root / "boot").mkdir(exist_ok=True)
        # as linux-base's 00-legacy-boot does for packages that ship nothing in /boot
        for name in ("vmlinuz", "config"):
            shipped = root / "usr" / "lib" / "modules" / kernel.release / name
            if shipped.exists():
                os.link(str(shipped), str(root / "boot" / ("%s-%s" % (name, kernel.release))))
        run(["depmod", "-b", str(root), kernel.release], env=dict(os.environ, PATH=_path()))

    return once(cache() / "kernels" / ("%s_%s_%s" % (kernel.release, kernel.version, kernel.arch)), make)


def vmlinuz(kernel: Image) -> Path:
    """The kernel's boot image."""
    return next((tree(kernel) / "boot").glob("vmlinu[xz]-" + kernel.release))


def headers_packages(kernel: Image) -> List[Path]:
    """The packages that a kernel's headers are installed by."""
    return _with_dependencies(
        kernel,
        "linux-headers-" + kernel.release,
        lambda name: name.startswith(("linux-headers-", "linux-kbuild-")),
    )


def headers(kernel: Image) -> Path:
    """The kernel's headers below a root directory of their own; ``build_directory`` is what modules are
    compiled against.
    """

    def make(root: Path) -> None:
        name = "linux-headers-" + kernel.release
        for deb in headers_packages(kernel):
            _extract(deb, root)
        if not (root / "usr/src" / name / ".config").exists():
            raise LabError("%s is not offered any more" % name)
        for path in root.glob("usr/src/linux-headers-*/Makefile"):
            # They name each other by absolute path; the final place is known, although the work is done in a
            # temporary one.
            path.write_text(
                path.read_text().replace("/usr/src/linux-headers", "%s/usr/src/linux-headers" % final)
            )
        for path in root.glob("usr/src/linux-headers-*/*"):
            if path.is_symlink() and os.readlink(str(path)).startswith("/usr/"):
                target = os.readlink(str(path))
                path.unlink()
                path.symlink_to(str(final) + target)

    final = cache() / "headers" / ("%s_%s_%s" % (kernel.release, kernel.version, kernel.arch))
    return once(final, make)


def build_directory(kernel: Image) -> Path:
    """What ``make -C`` is given to compile modules for this kernel."""
    return headers(kernel) / "usr" / "src" / ("linux-headers-" + kernel.release)


def symvers(kernel: Image) -> Path:
    """The kernel's Module.symvers, out of the one small package that has it."""
    name = "linux-headers-" + kernel.release
    return (
        unpack(package(name, kernel.suite, kernel.arch, kernel.version))
        / "usr"
        / "src"
        / name
        / "Module.symvers"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Debian kernels, as a suite offers them right now.")
    commands = parser.add_subparsers(dest="command")
    commands.required = True
    listing = commands.add_parser("list", help="the kernels that a suite offers")
    fetching = commands.add_parser("fetch", help="unpack one kernel and print its root directory")
    for each in (listing, fetching):
        each.add_argument("suite")
        each.add_argument("--arch", default="amd64")
    listing.add_argument("--flavour", default="cloud-amd64")
    listing.add_argument("--backports", action="store_true")
    fetching.add_argument("release")
    fetching.add_argument("--headers", action="store_true", help="its headers instead")
    options = parser.parse_args()
    try:
        if options.command == "list":
            for kernel in kernels(options.suite, options.arch, options.flavour, options.backports):
                print(
                    "%-32s %-48s %-18s %6.1f MB"
                    % (kernel.release, kernel.package, kernel.version, kernel.size / 1e6)
                )
        else:
            kernel = image(options.release, options.suite, options.arch)
            print(headers(kernel) if options.headers else tree(kernel))
    except LabError as error:
        say("debian.py: %s" % error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
