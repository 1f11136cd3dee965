# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmodctl, the host's own command: the same core as the modules', so it gives the same answers."""
import argparse
import contextlib
import json
import os
import sys
from typing import Any, Dict, Optional, Sequence, Tuple

from .errors import KmodError, printable
from .host import Host
from .task import Work, carry_out

OK, NOT_ALL, FAILED, INTERRUPTED = 0, 1, 2, 130  # exit status; argparse's own is 2 as well
HERE = "/"  # files named on the command line are those of this machine, whatever --root says


def say(text: str) -> None:
    try:
        sys.stdout.buffer.write(b"".join(printable(line).encode("utf-8") + b"\n" for line in text.split("\n")))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise KmodError("standard output", "cannot be written: %s. What was asked for is done, the answer alone is lost" % error.strerror,
                        "Run again with --check to see it", "OUTPUT_LOST") from None


def _open_streams() -> None:
    """Closed standard streams become /dev/null, before a host's file gets one of their numbers, which tools write to."""
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            break
        os.set_inheritable(handle, True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # for as long as we run
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Carry out a command line; the exit status. Every way out is one line and a status."""
    try:
        _open_streams()
        options = _parsed(argv)
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _failed("interrupted", INTERRUPTED)
    except KmodError as error:
        if error.code == "OUTPUT_LOST":
            _let_go()
        return _failed(str(error))
    except (OSError, MemoryError) as error:
        _let_go()
        return _failed("cannot go on: %s" % (error if str(error) else type(error).__name__))
    except Exception as error:
        if "KMODCTL_DEBUG" in os.environ:
            raise
        return _failed("%s: %s. Report this as a bug, with what KMODCTL_DEBUG=1 shows" % (type(error).__name__, error))


def _let_go() -> None:
    with contextlib.suppress(OSError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what could not be written is not tried again at the exit


def _failed(why: str, status: int = FAILED) -> int:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("kmodctl: %s\n" % printable(why))
    return status


def _parsed(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    given = sys.argv[1:] if argv is None else argv
    for word in given:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make an empty list of it
            raise KmodError(word, "-- cannot be the value of an option", "Leave it out", "ARGS_INVALID")
    return parser().parse_args(given)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="kmodctl", description="Out-of-tree kernel modules and the kernels of a machine.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    for add, run in ((_check_parser, check), (_status_parser, status), (_link_parser, link), (_variant_parser, variant), (_entry_parser, entry)):
        each = add(commands)
        each.set_defaults(run=run)
        each.add_argument("--root", default="/", metavar="DIR", help="root directory of the machine that is meant")
        each.add_argument("--json", action="store_true", help="print one object with everything that was found")
    return top


def _check_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser("check", help="say which kernels would load modules, and why not",
                               description="Say which installed kernels would load modules, and why not. Nothing is loaded or changed. "
                                           "Exit status: 0 if all are compatible, 1 if some are not, 2 for an error.")
    each.add_argument("files", nargs="+", metavar="FILE.ko",
                      help="module, compressed or not, or a directory or package of them; they may use each other's symbols")
    each.add_argument("--each", action="store_true", help="judge every module on its own")
    each.add_argument("--structs", action="store_true", help="also note which structures have changed (BTF; some seconds a kernel)")
    each.add_argument("--symvers", metavar="FILE", help="take the kernel's exports from this file; its kernel need not be installed")
    each.add_argument("--package", action="append", default=[], metavar="FILE",
                      help="judge against the kernel in these packages (.deb, .rpm; several: all of one kernel, or of several), or in a directory "
                           "of them or one that they were unpacked in, instead of those that are installed")
    _kernels_option(each)
    return each


def _status_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser("status", help="show the drivers, and what each kernel and its images have of them")
    each.add_argument("driver", nargs="*", metavar="DRIVER", help="these drivers alone")
    return each


def _link_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser("link", help="give a driver's modules to the kernels that take them, or take them away",
                               description="Store a driver's modules and link them to every kernel that takes them; without files, link anew "
                                           "what is stored. Exit status: 1 if some kernel gets none.")
    each.add_argument("files", nargs="*", metavar="FILE.ko", help="the driver's modules, or directories or packages of them")
    each.add_argument("--version", help="with --absent: remove this version alone")
    each.add_argument("--build", metavar="REL", help="with --absent: remove the build for this kernel alone")
    each.add_argument("--load", action="store_true", help="load the driver into the running kernel, where that can be done")
    each.add_argument("--heal", action="store_true", help="also mend or remove links of others that lead nowhere")
    _change_options(each)
    return each


def _variant_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser("variant", help="show, make or remove initramfs variants, or list what is in an image",
                               description="Show the initramfs variants and which of them are out of date; with --driver make or remove those with "
                                           "a driver; with --list show what an image holds, all its segments together. Exit status of the first: "
                                           "1 if some are not current.")
    each.add_argument("--list", metavar="FILE", help="list the files of an image, as the kernel unpacks it")
    each.add_argument("--method", choices=["auto", "overlay", "segment", "rebuild"], default="auto", help="how to make them")
    each.add_argument("--early-load", action="store_true", help="load the driver at the very start of the initramfs")
    each.add_argument("--entries", choices=["refuse", "remove"], default="refuse",
                      help="with --absent: what to do about boot entries that start a variant (default: refuse, and name them)")
    _change_options(each, several=True)
    return each


def _entry_parser(commands: Any) -> argparse.ArgumentParser:
    each = commands.add_parser("entry", help="add or remove boot entries for kernels with a driver's variants",
                               description="Add a boot entry for each kernel that has a variant with the driver, beside the shipped ones, or "
                                           "remove them.")
    each.add_argument("--boot", choices=["none", "once", "default", "shipped"], default="none",
                      help="start it at the next boot alone, or from now on, or what was started before")
    each.add_argument("--args", default="", help="arguments for the kernel's command line besides those of the shipped entry")
    each.add_argument("--copy-of", default="", metavar="ID", help="id or title of the entry to copy, where a kernel has several that differ")
    _change_options(each)
    return each


def _kernels_option(each: argparse.ArgumentParser) -> None:
    each.add_argument("--kernel", action="append", default=[], metavar="REL", help="for this kernel alone (may be given several times)")


def _change_options(each: argparse.ArgumentParser, several: bool = False) -> None:
    if several:
        each.add_argument("--driver", action="append", metavar="NAME", help="the driver (several: all in one variant)")
    else:
        each.add_argument("--driver", required=True, metavar="NAME", help="name of the driver")
    each.add_argument("--absent", action="store_true", help="remove what there is of the driver")
    each.add_argument("--check", action="store_true", help="only say what would be done")
    _kernels_option(each)


def check(options: argparse.Namespace) -> int:
    from .commands import check as command
    from .read import inputs
    from .read.export_sources import SourcedExports
    from .read.exports import read_symvers

    here = Host(HERE)
    modules = [module._replace(path=path.rstrip("/") + module.path[len(os.path.abspath(path)):])
               for path in options.files for module, _packed in inputs.modules(here, [os.path.abspath(path)])]
    exports = SourcedExports(read_symvers(here, os.path.abspath(options.symvers)), options.symvers, ()) if options.symvers else None
    host = Host(options.root)
    host.keeps_cache = True
    _plan, answer = command.run(host, command.Options(
        described=tuple(modules), kernels=tuple(options.kernel) or command.ALL, each=options.each, structs=options.structs, as_given=True,
        boots=False, exports=exports, kernel=_sources(here, options.package), whence=HERE))
    rows = [[verdict.name, verdict.kernel, verdict.verdict + (" (not exact)" if verdict.seen and not verdict.seen.exact else ""),
             verdict.errno or "", verdict.short] for verdict in answer.checks]
    _show(options, {"checks": answer.as_dict()["checks"]}, _columns(rows))
    return OK if all(verdict.compatible for verdict in answer.checks) else NOT_ALL


def _sources(here: Host, paths: Sequence[str]) -> Tuple[Any, ...]:
    """Packages are one set; a directory without any is what some were unpacked in."""
    from .read import names
    from .read.kernel_package import KernelSource

    full = [os.path.abspath(path) for path in paths]
    roots = [path for path in full if here.is_dir(path) and not any(map(names.is_package, here.listdir(path)))]
    packages = tuple(path for path in full if path not in roots)
    return tuple(KernelSource(root=path) for path in roots) + ((KernelSource(packages),) if packages else ())


def status(options: argparse.Namespace) -> int:
    from .commands import status as command

    _plan, answer = command.run(Host(options.root), command.Options(tuple(options.driver)))
    _show(options, answer.as_dict(), answer.summary)
    return OK


def link(options: argparse.Namespace) -> int:
    from .commands import link as command

    asked = command.Options(
        options.driver, path=tuple(os.path.abspath(path) for path in options.files), whence=HERE, kernels=tuple(options.kernel) or command.ALL,
        state="absent" if options.absent else "present", version=options.version, build=options.build, load=options.load, heal=options.heal)
    answer, result = _change(options, lambda host: command.run(host, asked))
    rows = [[row.kernel, row.verdict, row.build.release if row.build else "", row.reason] for row in answer.outcome.kernels]
    _show(options, result, "\n".join([answer.outcome.msg] + ([_columns(rows)] if rows else [])))
    return OK if options.absent or answer.served else NOT_ALL


def variant(options: argparse.Namespace) -> int:
    from .commands import variant as command

    if options.list:
        for line in command.lines(Host(HERE), os.path.abspath(options.list)):
            say(line)
        return OK
    if not options.driver:
        rows = command.overview(Host(options.root))
        _show(options, [row.as_dict() for row in rows],
              _columns([[row.kernel, row.state, ",".join(row.drivers), row.method, row.path] for row in rows]))
        return OK if all(row.state == "current" for row in rows) else NOT_ALL
    asked = command.Options(tuple(options.driver), tuple(options.kernel), method=options.method, early_load=options.early_load,
                            entries=options.entries, state="absent" if options.absent else "present")
    _answer, result = _change(options, lambda host: command.run(host, asked))
    lines = [[row["kernel"], row["status"], row["path"]] for row in result["variants"]] + [["", "pruned", path] for path in result["pruned"]]
    lines += [["", "no longer started", row["entry"]] for row in result.get("given_back", [])]
    _show(options, result, _columns(lines))
    return OK


def entry(options: argparse.Namespace) -> int:
    from .place import started
    from .place.boot import entry as entries

    request = entries.Request(options.driver, options.args, boot=options.boot, copy_of=options.copy_of)
    _answer, result = _change(options, lambda host: entries.absent(host, options.driver, options.kernel) if options.absent
                     else started.present(host, request, options.kernel))
    rows = [[row["kernel"], row["state"], row["title"]] for row in result["kernels"]]
    _show(options, result, "\n".join([result["msg"]] + ([_columns(rows)] if rows else [])))
    return OK


def _change(options: argparse.Namespace, work: Work) -> Tuple[Any, Dict[str, Any]]:
    """What a change answers, as it is and as it is printed; carried out unless it is only looked at."""
    done = carry_out(options.root, options.check, work)
    result = done.answer.as_dict() if hasattr(done.answer, "as_dict") else done.answer
    others = result.get("other_drivers")
    if others:
        named = options.driver if isinstance(options.driver, str) else ", ".join(options.driver)
        sys.stderr.write("kmodctl: there is nothing of a driver called %s here, but of %s\n" % (named, ", ".join(others)))
    return done.answer, dict(result, changed=done.changed)


def _show(options: argparse.Namespace, answer: Any, text: str) -> None:
    say(json.dumps(answer, indent=2) if options.json else text)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """One line a row, all columns but the last of one width."""
    widths = [max(len(text) for text in column) for column in list(zip(*rows))[:-1]]
    return "\n".join("  ".join([text.ljust(width) for text, width in zip(row, widths)] + [row[-1]]).rstrip() for row in rows)
