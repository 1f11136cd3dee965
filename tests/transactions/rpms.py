# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of kernels as Enterprise Linux lays them out and scripts them, made of Debian's kernel files.

kernel-core has what is booted, kernel-modules-core (from EL 9 on) and kernel-modules the modules, kernel
needs all of them; on EL 7 it is the one package. Their scripts call depmod, weak-modules, kernel-install and dracut in the order, and with
the attention to exit statuses, of EL's kernel.spec.
"""

import gzip
import lzma
import re
import shutil
import tempfile
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Tuple

from tests.lab import debian
from tests.lab.debian import Image, run
from tests.transactions import grubby

LAYOUT = 3  # to be raised when packages() or _section() makes other packages
STATE = "/var/lib/rpm-state/kernel"
# Here kernel-modules has these, and what comes before it all else.
MORE = re.compile(r"/kernel/(net|sound|drivers/net)/")


class Package(NamedTuple):
    """One package of a kernel: its files by their paths in it, and its scripts by the names that rpm has for
    them.
    """

    name: str
    files: Dict[str, Path]
    scripts: Dict[str, str]
    needs: List[str]
    ghosts: List[str] = []
    directories: List[str] = []  # empty ones


OSTREE = "if test -f /run/ostree-booted; then exit 0; fi\n"  # from EL 10 on
CORE = {
    "post": "mkdir -p {state}\ntouch {state}/installing_core_{release}\n",
    "posttrans": """{ostree}rm -f {state}/installing_core_{release}
if [ -x /usr/sbin/weak-modules ]
then
    /usr/sbin/weak-modules --add-kernel {release} || exit $?
fi
/bin/kernel-install add {release} /lib/modules/{release}/vmlinuz || exit $?
if [ ! -e "/boot/{symvers}" ]; then
    cp -r /lib/modules/{release}/{packed} /boot/{symvers}
fi
""",
    "preun": """{ostree}/bin/kernel-install remove {release} || exit $?
if [ -x /usr/sbin/weak-modules ]
then
    /usr/sbin/weak-modules --remove-kernel {release} || exit $?
fi
""",
}
MODULES = {
    "post": """/sbin/depmod -a {release}
if [ ! -f {state}/installing_core_{release} ]; then
    mkdir -p {state}
    touch {state}/need_to_run_dracut_{release}
fi
""",
    "postun": "/sbin/depmod -a {release}\n",
    "posttrans": """if [ -f {state}/need_to_run_dracut_{release} ]; then
    rm -f {state}/need_to_run_dracut_{release}
    echo "Running: dracut -f --kver {release}"
    dracut -f --kver "{release}" || exit $?
fi
""",
}
# by depmod
MADE = (
    "alias",
    "alias.bin",
    "builtin.alias.bin",
    "builtin.bin",
    "dep",
    "dep.bin",
    "devname",
    "softdep",
    "symbols",
    "symbols.bin",
)


def packages(image: Image, el: int) -> List[Package]:
    """Everything that a kernel consists of on EL 7 to 10."""
    release = image.release
    tree = debian.tree(image)
    modules = tree / "usr/lib/modules" / release
    top = "/lib/modules/%s" % release
    packed = "symvers.xz" if el >= 10 else "symvers.gz"
    symvers = "symvers-%s.%s" % (release, packed[8:])
    others = ("vmlinuz", "config", "System.map", *("modules." + name for name in MADE))
    found_there = [
        path
        for path in sorted(modules.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name not in others
    ]
    files = {"%s/%s" % (top, path.relative_to(modules)): path for path in found_there}
    core = {}
    for name in ("config", "System.map"):  # sid has them among the modules
        there = modules / name
        core["%s/%s" % (top, name)] = there if there.exists() else tree / "boot" / ("%s-%s" % (name, release))
    core[top + "/vmlinuz"] = debian.vmlinuz(image)
    core["%s/%s" % (top, packed)] = _symvers(image, packed)
    more = {path: source for path, source in files.items() if MORE.search(path)}
    first = {path: source for path, source in files.items() if path not in more}
    boot = [
        "/boot/vmlinuz-" + release,
        "/boot/config-" + release,
        "/boot/System.map-" + release,
        "/boot/" + symvers,
        "/boot/initramfs-%s.img" % release,
    ]
    made = ["%s/modules.%s" % (top, name) for name in MADE]

    def scripted(scripts: Dict[str, str]) -> Dict[str, str]:
        return {
            name: text.format(
                state=STATE,
                release=release,
                symvers=symvers,
                packed=packed,
                ostree=OSTREE if el >= 10 else "",
            )
            for name, text in scripts.items()
        }

    empty = ["%s/%s" % (top, name) for name in ("updates", "weak-updates")]
    if el == 7:
        whole = {**grubby.at_boot(image, core), **files}
        return [Package("kernel", whole, scripted(grubby.SCRIPTS), [], [boot[-1], *made], empty)]
    needs = "%s-uname-r(" + release + ")"
    found = [
        Package(
            "kernel-core",
            core if el >= 9 else {**core, **first},
            scripted(CORE),
            [needs % "kernel-modules-core"] if el >= 9 else [],
            boot if el >= 9 else boot + made,
            empty,
        ),
        Package("kernel-modules", more, scripted(MODULES), [needs % "kernel-core"]),
        Package("kernel", {}, {}, [needs % "kernel-core", needs % "kernel-modules"]),
    ]
    if el >= 9:
        found.insert(
            1,
            Package(
                "kernel-modules-core",
                first,
                scripted({"posttrans": "/sbin/depmod -a {release}\n"}),
                [needs % "kernel-core"],
                made,
            ),
        )
    return found


def _symvers(image: Image, packed: str) -> Path:
    def make(directory: Path) -> None:
        data = debian.symvers(image).read_bytes()
        (directory / packed).write_bytes(
            lzma.compress(data, preset=1, check=lzma.CHECK_CRC32)
            if packed.endswith("xz")
            else gzip.compress(data, 1)
        )

    return (
        debian.once(debian.cache() / "transactions" / ("symvers-" + image.release + packed[7:]), make)
        / packed
    )


def version(release: str) -> Tuple[str, str]:
    """(version, release) of the packages: numbers that sort as the kernels do."""
    numbers = re.findall(r"\d+", release.replace("amd64", ""))
    return ".".join(numbers[:3]), ".".join(numbers[3:] or ["1"])


def name(package: str, image: Image) -> str:
    """One package of a kernel, as dnf and rpm are told of it."""
    return "-".join((package, *version(image.release)))


def build(image: Image, el: int, target: Path) -> None:
    """Write a kernel's packages into a directory."""
    found = packages(image, el)
    spec = HEAD.format(*version(image.release))
    for package in found:
        spec += _section(package, image.release)
    rpmbuild(
        spec,
        {path: source for package in found for path, source in package.files.items()},
        target,
        [path for package in found for path in package.directories],
    )


def rpmbuild(spec: str, files: Dict[str, Path], target: Path, directories: Iterable[str] = ()) -> None:
    with tempfile.TemporaryDirectory(dir=str(target), prefix=".build-") as directory:
        root = Path(directory) / "root"
        root.mkdir()
        for path in directories:
            (root / path.lstrip("/")).mkdir(parents=True)
        for path, source in files.items():
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(source), str(place))
        (Path(directory) / "spec").write_text(spec)
        run(
            [
                "rpmbuild",
                "-bb",
                "--quiet",
                "--nodeps",
                "--buildroot",
                str(root),
                "--target",
                "x86_64",
                "-D",
                "_topdir " + directory,
                "-D",
                "_rpmdir %s" % target,
                "-D",
                "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
                directory + "/spec",
            ]
        )


def kmod(name: str, modules: List[Path], release: str, target: Path) -> str:
    """Write a package of out-of-tree modules that were built for a kernel, scripted as %kernel_module_package
    has it; its file's name.
    """
    place = "/lib/modules/%s/extra/%s" % (release, name)
    files = {"%s/%s" % (place, path.name): path for path in modules}
    spec = HEAD.format(1, 1) + KMOD.format(
        name=name, place=place, release=release, files="\n".join(sorted(files))
    )
    rpmbuild(spec, files, target)
    return "kmod-%s-1-1.x86_64.rpm" % name


# kmodtool's: at the time of %postun the files are gone
KMOD = """%package -n kmod-{name}
Summary: Modules
AutoReqProv: no
%description -n kmod-{name}
Modules.
%post -n kmod-{name}
if [ -e "/boot/System.map-{release}" ]; then
    /usr/sbin/depmod -aeF "/boot/System.map-{release}" "{release}" > /dev/null || :
fi
if [ -x /usr/sbin/weak-modules ]; then
    find {place} -name '*.ko' | /usr/sbin/weak-modules --add-modules
fi
%preun -n kmod-{name}
rpm -ql kmod-{name} | grep '\\.ko$' > /var/run/rpm-kmod-{name}-modules
%postun -n kmod-{name}
if [ -e "/boot/System.map-{release}" ]; then
    /usr/sbin/depmod -aeF "/boot/System.map-{release}" "{release}" > /dev/null || :
fi
if [ -x /usr/sbin/weak-modules ]; then
    /usr/sbin/weak-modules --remove-modules < /var/run/rpm-kmod-{name}-modules
fi
rm /var/run/rpm-kmod-{name}-modules
%files -n kmod-{name}
%defattr(-,root,root)
%dir {place}
{files}
"""
HEAD = """%define _build_id_links none
%define debug_package %{{nil}}
%define __os_install_post %{{nil}}
%define __spec_install_pre %{{nil}}
%define _binary_payload w1.gzdio
Name: lab
Version: {0}
Release: {1}
Summary: A kernel
License: GPL-2.0
AutoReqProv: no
%description
A kernel.
"""


def _section(package: Package, release: str) -> str:
    what = "kernel" if package.name in ("kernel", "kernel-core") else "kernel-module"
    lines = [
        "%package -n " + package.name,
        "Summary: A part of a kernel",
        "AutoReqProv: no",
        "Provides: %s-uname-r(%s)" % (package.name, release),
        "Provides: installonlypkg(%s)" % what,
    ]
    lines += ["Requires: " + need for need in package.needs] + [
        "%description -n " + package.name,
        "A part of a kernel.",
    ]
    for name, text in package.scripts.items():
        lines += ["%%%s -n %s" % (name, package.name), text]
    directories = sorted(
        {str(above) for path in package.files for above in Path(path).parents if len(above.parts) > 3}
    )
    lines += ["%files -n " + package.name, "%defattr(-,root,root)"] + ["%dir " + path for path in directories]
    lines += ["%dir " + path for path in package.directories]
    return "\n".join(lines + list(package.files) + ["%ghost " + path for path in package.ghosts]) + "\n\n"
