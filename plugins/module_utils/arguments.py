# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of kmodctl."""

import argparse
import sys
from typing import Any, Optional, Sequence

from .errors import KmodError


def parsed(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The options, and in ``command`` what they are for.

    Error: ARGS_INVALID; argparse's own end the program with status 2.
    """
    given = sys.argv[1:] if argv is None else argv
    for word in given:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make an empty list of it
            raise KmodError(word, "-- cannot be the value of an option", "Leave it out", "ARGS_INVALID")
    return parser().parse_args(given)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="kmodctl", description="Out-of-tree kernel modules and the kernels of a machine."
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    for add in (
        _check_parser,
        _status_parser,
        _link_parser,
        _variant_parser,
        _entry_parser,
        _add_kernel_parser,
        _remove_kernel_parser,
        _refresh_parser,
        _build_parser,
    ):
        each = add(commands)
        each.add_argument(
            "--root", default="/", metavar="DIR", help="root directory of the machine that is meant"
        )
        each.add_argument(
            "--json", action="store_true", help="print one object with everything that was found"
        )
    return top


def _check_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "check",
        help="say which kernels would load modules, and why not",
        description="Say which installed kernels would load modules, and why not. Nothing is loaded or changed. "
        "Exit status: 0 if all are compatible, 1 if some are not, 2 for an error.",
    )
    each.add_argument(
        "files",
        nargs="+",
        metavar="FILE.ko",
        help="module, compressed or not, or a directory or package of them; they may use each other's symbols",
    )
    each.add_argument("--each", action="store_true", help="judge every module on its own")
    each.add_argument(
        "--structs",
        action="store_true",
        help="also note which structures have changed (BTF; some seconds a kernel)",
    )
    instead = each.add_mutually_exclusive_group()
    instead.add_argument(
        "--symvers",
        metavar="FILE",
        help="take the kernel's exports from this file; its kernel need not be installed",
    )
    instead.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="FILE",
        help="judge against the kernels in these packages (.deb, .rpm; may be given several times), in a directory of them, or "
        "in one that they were unpacked in, instead of those that are installed",
    )
    instead.add_argument(
        "--offered",
        action="store_const",
        const="newest",
        help="judge against the kernel that the package manager would install next, fetched for that and not installed",
    )
    instead.add_argument(
        "--all-offered",
        dest="offered",
        action="store_const",
        const="all",
        help="the same for every kernel in its lists that is newer than those installed",
    )
    each.add_argument(
        "--whole",
        action="store_true",
        help="with --offered: fetch all of a kernel, not its headers alone",
    )
    _kernels_option(each)
    return each


def _status_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "status", help="show the drivers, and what each kernel and its images have of them"
    )
    each.add_argument("driver", nargs="*", metavar="DRIVER", help="these drivers alone")
    return each


def _link_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "link",
        help="give a driver's modules to the kernels that take them, or take them away",
        description="Store a driver's modules and link them to every kernel that takes them; without files, link anew "
        "what is stored. Exit status: 1 if some kernel gets none.",
    )
    each.add_argument(
        "files", nargs="*", metavar="FILE.ko", help="the driver's modules, or directories or packages of them"
    )
    each.add_argument("--version", help="this version alone: use no other, or with --absent remove no other")
    each.add_argument("--build", metavar="REL", help="with --absent: remove the build for this kernel alone")
    each.add_argument(
        "--load", action="store_true", help="load the driver into the running kernel, where that can be done"
    )
    each.add_argument(
        "--heal", action="store_true", help="also mend or remove links of others that lead nowhere"
    )
    _change_options(each)
    return each


def _variant_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "variant",
        help="show, make or remove initramfs variants, or list what is in an image",
        description="Show the initramfs variants and which of them are out of date; with --driver make or remove those with "
        "a driver; with --list show what an image holds, all its segments together. Exit status of the first: "
        "1 if some are not current.",
    )
    each.add_argument("--list", metavar="FILE", help="list the files of an image, as the kernel unpacks it")
    each.add_argument(
        "--method", choices=["auto", "overlay", "segment", "rebuild"], default="auto", help="how to make them"
    )
    each.add_argument(
        "--early-load", action="store_true", help="load the driver at the very start of the initramfs"
    )
    each.add_argument(
        "--entries",
        choices=["refuse", "remove"],
        default="refuse",
        help="with --absent: what to do about boot entries that start a variant (default: refuse, and name them)",
    )
    _change_options(each, several="all in one variant")
    return each


def _entry_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "entry",
        help="add or remove boot entries for kernels with a driver's variants",
        description="Add a boot entry for each kernel that has a variant with the driver, beside the shipped ones, or "
        "remove them.",
    )
    each.add_argument(
        "--boot",
        choices=["none", "once", "default", "shipped"],
        default="none",
        help="start it at the next boot alone, or from now on, or what was started before",
    )
    each.add_argument(
        "--args",
        default="",
        help="arguments for the kernel's command line besides those of the shipped entry",
    )
    each.add_argument(
        "--copy-of",
        default="",
        metavar="ID",
        help="id or title of the entry to copy, where a kernel has several that differ",
    )
    _change_options(each, several="all in one entry", required=True)
    return each


def _add_kernel_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "add-kernel",
        help="give the drivers of this host to a kernel that has arrived",
        description="Give every driver that this host has to a kernel: links, variant, boot entry, as its settings say. "
        "Exit status: 1 if the kernel takes none of some driver's builds, 2 if something could not be done.",
    )
    each.add_argument(
        "--early", action="store_true", help="links alone, before the distribution makes its own initramfs"
    )
    return _release_argument(each)


def _remove_kernel_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "remove-kernel",
        help="take from a kernel that leaves what the drivers have of it",
        description="Remove the boot entries, variants and links of a kernel that leaves. One that can still be booted is "
        "given its drivers instead, as add-kernel does: packages say that kernels leave which stay.",
    )
    each.add_argument(
        "--early",
        action="store_true",
        help="boot entries alone, before the kernel that they start is taken away",
    )
    return _release_argument(each)


def _refresh_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "refresh",
        help="bring links, variants and boot entries up to date",
        description="Judge again, and bring the drivers' links, variants and boot entries of one kernel or of all up to date.",
    )
    each.add_argument(
        "--settle",
        action="store_true",
        help="wait until no package manager is at work and no image is written, and look again after",
    )
    each.add_argument(
        "--boot",
        action="store_true",
        help="the machine has just come up: see how a trial went. Exit status 1 if a kernel that boots start lacks a driver",
    )
    return _release_argument(each, "all kernels")


def _build_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser(
        "build",
        help="build a driver for a kernel, on a build host",
        description="Build a driver's modules for one kernel in a sandbox, and put them into a store; a build that is there, or has "
        "failed, is not made again. Exit status: 1 if the source gives no build for that kernel.",
    )
    each.add_argument(
        "source",
        metavar="SOURCE",
        help="the driver's source: a directory or a tar archive, with a dkms.conf or a Kbuild",
    )
    each.add_argument("--driver", required=True, metavar="NAME", help="name of the driver")
    each.add_argument("--kernel", required=True, metavar="REL", help="the kernel's release", dest="release")
    each.add_argument("--store", required=True, metavar="DIR", help="the store")
    each.add_argument("--version", help="the driver's version (default: that of dkms.conf, or 0)")
    for option, metavar, text in (
        (
            "headers",
            "PATH",
            "the kernel's headers: a directory or a package (default: installed ones, or the repositories')",
        ),
        ("depends", "DRIVER", "a driver whose symbols this one uses, built into the same store before"),
        ("overrides", "FILE", "read after dkms.conf, as dkms reads /etc/dkms"),
        ("ignore", "KEY", "a key of dkms.conf that may be set and is not honoured"),
    ):
        each.add_argument(
            "--" + option, action="append", metavar=metavar, help=text + "; may be given several times"
        )
    each.add_argument("--jobs", type=int, metavar="N", help="how many compilers run at once")
    for limit, default, text in (
        ("timeout", 3600, "seconds that it may take"),
        ("memory", 8192, "MiB of memory that it may use"),
        ("size", 8192, "MiB that it may write"),
    ):
        each.add_argument("--" + limit, type=int, default=default, metavar="N", help=text)
    each.add_argument("--force", action="store_true", help="build although the store knows the outcome")
    each.add_argument("--check", action="store_true", help="only say what would be done")
    return each


def _release_argument(
    each: argparse.ArgumentParser, default: str = "the running kernel"
) -> argparse.ArgumentParser:
    each.add_argument(
        "release", nargs="?", metavar="REL", help="the kernel's release (default: %s)" % default
    )
    each.add_argument("--check", action="store_true", help="only say what would be done")
    return each


def _kernels_option(each: argparse.ArgumentParser) -> None:
    each.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="REL",
        help="for this kernel alone (may be given several times)",
    )


def _change_options(each: argparse.ArgumentParser, several: str = "", required: bool = False) -> None:
    if several:
        each.add_argument(
            "--driver",
            action="append",
            required=required,
            metavar="NAME",
            help="the driver (several: %s)" % several,
        )
    else:
        each.add_argument("--driver", required=True, metavar="NAME", help="name of the driver")
    each.add_argument("--absent", action="store_true", help="remove what there is of the driver")
    each.add_argument("--check", action="store_true", help="only say what would be done")
    _kernels_option(each)
