# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmodctl, the host's own command: the same core as the modules', so it gives the same answers."""

import gc
import os
import sys
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from .errors import KmodError
from .host import Host
from .output import WEAK_MODULES, WEAK_MODULES2, columns, let_go, open_streams, say, warn
from .task import carry_out

if TYPE_CHECKING:
    from argparse import Namespace

    from .turns import Work

OK, NOT_ALL, FAILED, INTERRUPTED = 0, 1, 2, 130  # exit status; argparse's own is 2 as well
HERE = "/"  # files named on the command line are those of this machine, whatever --root says


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Carry out a command line; the exit status. Every way out is one line and a status."""
    # it lives shortly, and keeps ten thousands of small records that are in no circle
    gc.set_threshold(1 << 16)
    given = sys.argv[1:] if argv is None else list(argv)
    called = os.path.basename(sys.argv[0])
    fronts = (WEAK_MODULES, WEAK_MODULES2)
    name = called if called in fronts else given[0] if given[:1] and given[0] in fronts else ""
    if name:
        if name == WEAK_MODULES:
            from .weak_modules import main as front
        else:
            from .weak_modules2 import main as front
        return front(given if called in fronts else given[1:])
    from .arguments import parsed

    try:
        open_streams()
        options = parsed(given)
        status = COMMANDS[options.command](options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return _failed("interrupted", INTERRUPTED)
    except KmodError as error:
        if error.code == "OUTPUT_LOST":
            let_go()
        return _failed(str(error))
    except (OSError, MemoryError) as error:
        let_go()
        return _failed("cannot go on: %s" % (error if str(error) else type(error).__name__))
    except Exception as error:
        if "KMODCTL_DEBUG" in os.environ:
            raise
        return _failed(
            "%s: %s. Report this as a bug, with what KMODCTL_DEBUG=1 shows" % (type(error).__name__, error)
        )


def _failed(why: str, status: int = FAILED) -> int:
    warn(why)
    return status


def check(options: "Namespace") -> int:
    from .commands import check as command
    from .read import inputs
    from .read.export_sources import SourcedExports
    from .read.exports import read_symvers

    here = Host(HERE)
    modules = [
        module._replace(path=path.rstrip("/") + module.path[len(os.path.abspath(path)) :])
        for path in options.files
        for module, _packed in inputs.modules(here, [os.path.abspath(path)], options.structs)
    ]
    exports = (
        SourcedExports(read_symvers(here, os.path.abspath(options.symvers)), options.symvers, ())
        if options.symvers
        else None
    )
    host = Host(options.root)
    host.keeps_cache = True
    _plan, answer = command.run(
        host,
        command.Options(
            described=tuple(modules),
            kernels=tuple(options.kernel) or command.ALL,
            each=options.each,
            structs=options.structs,
            findings="all",
            as_given=True,
            boots=False,
            exports=exports,
            kernel=_sources(here, options),
            whence=HERE,
        ),
    )
    if options.json:
        import json

        # a line for each: there may be thousands, and json takes eight times as long to indent them
        checks = ",\n".join(json.dumps(verdict.as_dict()) for verdict in answer.checks)
        say('{"checks": [\n%s\n]}' % checks)
    else:
        say(columns([_row(verdict) for verdict in answer.checks]))
    return OK if all(verdict.compatible for verdict in answer.checks) else NOT_ALL


def _row(verdict: Any) -> List[str]:
    """Of a judge.verdict.Verdict."""
    exact = "" if verdict.seen is None or verdict.seen.exact else " (not exact)"
    return [verdict.name, verdict.kernel, verdict.verdict + exact, verdict.errno or "", verdict.short]


def _sources(here: Host, options: "Namespace") -> Tuple[Any, ...]:
    """Packages are one set; a directory without any is what some were unpacked in."""
    from .read import names
    from .read.kernel_package import KernelSource

    if options.offered:
        return (KernelSource(offered=options.offered, whole=options.whole),)
    full = [os.path.abspath(path) for path in options.package]
    roots = [
        path for path in full if here.is_dir(path) and not any(map(names.is_package, here.listdir(path)))
    ]
    packages = tuple(path for path in full if path not in roots)
    return tuple(KernelSource(root=path) for path in roots) + ((KernelSource(packages),) if packages else ())


def status(options: "Namespace") -> int:
    from .commands import status as command

    _plan, answer = command.run(Host(options.root), command.Options(tuple(options.driver)))
    _show(options, answer.as_dict(), answer.summary)
    return OK


def link(options: "Namespace") -> int:
    from .commands import link as command

    asked = command.Options(
        options.driver,
        path=tuple(os.path.abspath(path) for path in options.files),
        whence=HERE,
        kernels=tuple(options.kernel) or command.ALL,
        state="absent" if options.absent else "present",
        version=options.version,
        build=options.build,
        load=options.load,
        heal=options.heal,
    )
    answer, result = _change(options, lambda host: command.run(host, asked))
    rows = [
        [row.kernel, row.verdict, row.build.release if row.build else "", row.reason]
        for row in answer.outcome.kernels
    ]
    _show(options, result, "\n".join([answer.outcome.msg] + ([columns(rows)] if rows else [])))
    return OK if options.absent or answer.served else NOT_ALL


def variant(options: "Namespace") -> int:
    from .commands import variant as command

    if options.list:
        for line in command.lines(Host(HERE), os.path.abspath(options.list)):
            say(line)
        return OK
    if not options.driver:
        rows = command.overview(Host(options.root))
        _show(
            options,
            [row.as_dict() for row in rows],
            columns([[row.kernel, row.state, ",".join(row.drivers), row.method, row.path] for row in rows])
            or "There is no initramfs variant of a driver.",
        )
        return OK if all(row.state == "current" for row in rows) else NOT_ALL
    asked = command.Options(
        tuple(options.driver),
        tuple(options.kernel),
        method=options.method,
        early_load=options.early_load,
        entries=options.entries,
        state="absent" if options.absent else "present",
    )
    answer, result = _change(options, lambda host: command.run(host, asked))
    made = answer.variants
    lines = [[row.kernel, row.status, row.path] for row in made.rows] + [
        ["", "pruned", path] for path in made.pruned
    ]
    lines += [["", "no longer started", row.entry] for row in made.given_back]
    _show(options, result, columns(lines) or "nothing to do")
    return OK


def entry(options: "Namespace") -> int:
    from .commands import entry as command

    asked = command.Options(
        tuple(options.driver),
        state="absent" if options.absent else "present",
        kernels=tuple(options.kernel),
        boot=options.boot,
        args=options.args,
        copy_of=options.copy_of,
    )
    answer, result = _change(options, lambda host: command.run(host, asked))
    rows = [[row.kernel, row.state, row.title] for row in answer.menu.rows]
    _show(options, result, "\n".join([answer.menu.msg] + ([columns(rows)] if rows else [])))
    return OK


def follow(options: "Namespace") -> int:
    from .commands import follow as command

    release = options.release
    if release is None and options.command != "refresh":
        release = os.uname().release
    boot = getattr(options, "boot", False)
    asked = command.Options(
        options.command, release, getattr(options, "early", False), getattr(options, "settle", False), boot
    )
    answer = command.in_rounds(options.root, options.check, asked)
    rows = [
        [
            row.driver,
            row.kernel,
            row.verdict,
            row.build or "",
            row.variant,
            row.entry,
            row.error or row.reason,
        ]
        for row in answer.rows
    ]
    said = ([columns(rows)] if rows else []) + answer.bulletin.kernels + [*answer.errors, *answer.notes]
    _show(options, answer.as_dict(), "\n".join(said) or "nothing to do")
    return FAILED if answer.failed else NOT_ALL if (answer.lacking if boot else answer.refused) else OK


def build(options: "Namespace") -> int:
    from .commands import build as command

    paths = {
        name: [os.path.abspath(each) for each in getattr(options, name) or ()]
        for name in ("headers", "overrides")
    }
    params = dict(vars(options), source=os.path.abspath(options.source), **paths)
    answer = command.run(Host(options.root), command.Options.from_params(params), options.check)
    notes = ["%(code)s: %(message)s" % each for each in answer.findings]
    _show(
        options,
        dict(answer.as_dict(), changed=answer.changed),
        "\n".join([answer.msg, *answer.errors, *notes]),
    )
    return NOT_ALL if answer.failed else OK


def _change(options: "Namespace", work: "Work") -> Tuple[Any, Dict[str, Any]]:
    """What a change answers, as it is and as it is printed; carried out unless it is only looked at."""
    done = carry_out(options.root, options.check, work)
    others = done.answer.other_drivers
    if others:
        named = options.driver if isinstance(options.driver, str) else ", ".join(options.driver)
        warn("there is nothing of a driver called %s here, but of %s" % (named, ", ".join(others)))
    return done.answer, dict(done.answer.as_dict(), changed=done.changed)


def _show(options: "Namespace", answer: Any, text: str) -> None:
    import json

    say(json.dumps(answer, indent=2) if options.json else text)


COMMANDS = {
    "check": check,
    "status": status,
    "link": link,
    "variant": variant,
    "entry": entry,
    "add-kernel": follow,
    "remove-kernel": follow,
    "refresh": follow,
    "build": build,
}
