# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build a driver for one kernel, on a build host, unless the store has a build of the same input already."""

import errno
import hashlib
import json
import os
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from ..lock import clear_scratch, scratch
from ..make import build_log, build_store, compile, dkms_conf, headers, sandbox, source, toolchain, unpack
from ..make.build_store import BuildEntry, BuildFailure
from ..make.compile import Built
from ..make.dkms_conf import DkmsConf
from ..make.headers import Headers
from ..make.sandbox import Box, Limits, Mount
from ..make.toolchain import Tools
from ..read import names

APART = True  # nothing of the machine is changed, only a store
BUILT, KEPT, EXCLUDED, FAILED = "built", "kept", "excluded", "failed"
PENDING = "pending"  # in check mode: it would be built
LOG = "build.log"
ROOM, FILES = 16 << 20, 64  # bytes and files that a file system has left which is not full


class Options(NamedTuple):
    """Those of the module kmod_build, which says what they mean."""

    driver: str
    source: str
    release: str
    store: str
    version: str = ""
    headers: Tuple[str, ...] = ()
    depends: Tuple[str, ...] = ()
    overrides: Tuple[str, ...] = ()
    ignore: Tuple[str, ...] = ()
    jobs: int = 0
    force: bool = False
    limits: Limits = Limits()
    root: str = "/"

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        given = {name: tuple(params[name] or ()) for name in ("headers", "depends", "overrides", "ignore")}
        limits = Limits(seconds=params["timeout"], memory=params["memory"] << 20, size=params["size"] << 20)
        for name in ("timeout", "memory", "size"):
            if params[name] <= 0:
                raise KmodError(name, "is not more than 0", "Leave it out for the usual limit", "BAD_OPTION")
        return cls(
            params["driver"],
            params["source"],
            params["release"],
            os.path.abspath(params["store"]),
            params["version"] or "",
            jobs=params["jobs"] or 0,
            force=params["force"],
            limits=limits,
            root=params["root"],
            **given,
        )


class Answer(NamedTuple):
    """``result`` is built, kept, excluded, failed, or in check mode pending."""

    driver: str
    release: str
    version: str
    result: str
    msg: str
    changed: bool = False
    code: Optional[str] = None
    log: Optional[str] = None
    errors: Tuple[str, ...] = ()
    directory: Optional[str] = None
    modules: Tuple[str, ...] = ()
    digests: Dict[str, str] = {}
    needs: Optional[Dict[str, Any]] = None
    verdicts: Tuple[Dict[str, Any], ...] = ()
    findings: Tuple[Dict[str, str], ...] = ()
    input: Optional[str] = None
    seconds: int = 0
    repeated: bool = False  # this input has failed before, and was not tried again

    @property
    def failed(self) -> bool:
        return self.result == FAILED

    @property
    def diff(self) -> List[Dict[str, str]]:
        """As Ansible shows it."""
        if not self.changed:
            return []
        after = "".join("%s\n" % name for name in self.modules) or "a build\n"
        place = self.directory or "%s %s for %s" % (self.driver, self.version, self.release)
        return [{"before_header": place, "after_header": place, "before": "", "after": after}]

    def as_dict(self) -> Dict[str, Any]:
        told = dict(self._asdict())
        del told["changed"]
        if self.code is None:
            del told["code"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


class BuildJob(NamedTuple):
    """A source, copied to ``work``/build, and all that its build depends on."""

    options: Options
    box: Box
    work: str
    headers: Headers
    conf: Optional[DkmsConf]
    version: str
    source: str  # its digest
    overlay: Tuple[Mount, ...]
    needed: Tuple[BuildEntry, ...]


def run(host: Host, options: Options, check: bool = False) -> Answer:
    """Carry it out.

    Errors: those of names and options; SANDBOX_MISSING, SANDBOX_REFUSED; those of finding headers, of copying
    the source, and of reading dkms.conf; TOOL_MISSING, BUILD_COMPILER, KBUILD_UNUSABLE, DEPENDS_MISSING;
    BUILD_TAMPERED and others of the store. What is the source's fault is an answer.
    """
    build_store.check_driver(options.driver)
    names.check_release(options.release, "release")
    sandbox.check()
    if not check:
        clear_scratch(Host("/"))  # a build that was killed may have left much
    found = _headers(host, options)
    machine = headers.machine(found)
    with scratch(Host("/")) as work:
        try:
            box = _box(host, options, found, work=work, machine=machine)
            return _run(_job(options, box, found, work=work), check)
        finally:
            source.take_back(work)


def _headers(host: Host, options: Options) -> Headers:
    keep = _cache()
    if options.headers:
        return headers.given(options.headers, options.release, keep)
    found = headers.installed(host.root, options.release)
    if found is None:
        directory = unpack.fetched(host.root, options.release, keep)
        found = headers.given([directory], options.release, keep) if directory else None
    if found is None:
        raise KmodError(
            options.release,
            "its headers are neither installed on the build host nor offered by its repositories",
            "Update the package manager's lists, add the repository that has them, or give headers",
            "HEADERS_MISSING",
        )
    return found


def _cache() -> str:
    """Where headers that were unpacked are kept."""
    if os.geteuid() == 0:
        return "/var/cache/outoftree.kmod/headers"
    return os.path.join(os.path.expanduser("~"), ".cache", "outoftree.kmod", "unpacked-headers")


def _box(host: Host, options: Options, found: Headers, *, work: str, machine: str) -> Box:
    os.chmod(work, 0o711)  # the build's user passes through it to what is its own
    return Box(host.root, work, options.release, machine, options.limits, user=sandbox.unprivileged())


def _job(options: Options, box: Box, found: Headers, *, work: str) -> BuildJob:
    target = work + "/build"
    source.copy(options.source, target, options.limits.size)
    digest = source.digest(target)
    source.give(target, box.user)
    seen = box._replace(mounts=tuple(headers.mounts(found, work, found.has_types)))
    conf, overlay = None, []
    if os.path.isfile("%s/%s" % (target, source.DKMS_CONF)):
        files = [path for path in options.overrides if not os.path.isdir(path)]
        for path in files:
            Host("/").read(path)
        auto = found.path("include/config/auto.conf")
        config = headers.read_config(auto) if os.path.isfile(auto) else found.config
        conf = dkms_conf.read(seen, target, files, config, ignore=options.ignore)
        place = "%s/%s" % (dkms_conf.OVERLAY, conf.name)
        overlay = [Mount(place, path) for path in options.overrides if path not in files]
        if len(overlay) > 1:
            raise KmodError("overrides", "have several directories", "Give one", "BAD_OPTION")
    elif options.overrides:
        raise KmodError(
            "overrides", "are for a dkms.conf, and the source has none", "Leave them out", "BAD_OPTION"
        )
    version = options.version or (conf.version if conf else "0")
    build_store.check_version(version)
    needed = _needed(options, conf)
    return BuildJob(options, seen, work, found, conf, version, digest, tuple(overlay), needed)


def _needed(options: Options, conf: Optional[DkmsConf]) -> Tuple[BuildEntry, ...]:
    """The builds for this release of the drivers whose symbols are used, and of those that these were built with."""
    found: Dict[str, BuildEntry] = {}
    for word in (*options.depends, *(conf.depends if conf else ())):
        name, _is, version = word.partition("=")
        if any(name in _names(each) and version in ("", each.version) for each in found.values()):
            continue
        made = build_store.newest(options.store, name, options.release, version)
        if made is None:
            raise _depends_missing(options, word, "of which the store has no build")
        todo = [made]
        while todo:
            each = todo.pop()
            if each.driver == options.driver:
                raise _depends_missing(options, word, "which is itself, or was built with it")
            if found.setdefault(each.driver, each).input != each.input:
                raise _depends_missing(
                    options, word, "which was built with another build of %s" % each.driver
                )
            for other, digest in (each.about.get("needed") or {}).items():
                its = build_store.find(options.store, digest)
                if its is None:
                    why = "which was built with a build of %s that is gone" % other
                    raise _depends_missing(options, word, why)
                todo.append(its)
    return tuple(found.values())


def _names(made: BuildEntry) -> Tuple[Any, ...]:
    """Of the driver, and of its dkms package."""
    return made.driver, made.about.get("package")


def _depends_missing(options: Options, name: str, why: str) -> KmodError:
    return KmodError(
        options.driver,
        "needs %s, %s (for %s)" % (name, why, options.release),
        "Build %s for that release first, into the same store" % name.partition("=")[0],
        "DEPENDS_MISSING",
    )


def _run(job: BuildJob, check: bool) -> Answer:
    options, conf = job.options, job.conf
    if conf and conf.excluded:
        return _answer(
            job, EXCLUDED, "%s is not for %s (%s)" % (options.driver, options.release, conf.excluded)
        )
    made_with = toolchain.tools(job.box, job.headers, patches=bool(conf and conf.patches))
    digest = _input(job, made_with)
    if check:
        return _known(job, digest) or _answer(
            job,
            PENDING,
            "%s would be built for %s" % (options.driver, options.release),
            input=digest,
            changed=True,
        )
    with build_store.held(options.store, options.driver, options.release, options.limits.seconds) as slot:
        return _known(job, digest) or _build(job, made_with, digest, slot)


def _input(job: BuildJob, made_with: Tools) -> str:
    """The digest of all that the bytes of a build depend on."""
    overrides = [
        source.digest(path) if os.path.isdir(path) else hashlib.sha256(Host("/").read(path)).hexdigest()
        for path in job.options.overrides
    ]
    told = {
        "recipe": compile.RECIPE,
        "driver": job.options.driver,
        "source": job.source,
        "version": job.version,
        "overrides": overrides,
        "release": job.options.release,
        "headers": job.headers.digest(),
        "compiler": made_with.version,
        "linker": made_with.linker,
        "pahole": made_with.pahole,
        "needed": [[each.driver, each.input] for each in job.needed],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8")).hexdigest()


def _known(job: BuildJob, digest: str) -> Optional[Answer]:
    """What the store has of this input, if that is the answer."""
    options = job.options
    if options.force:
        return None
    there = build_store.find(options.store, digest)
    if there and there.driver == options.driver:
        text = "%s %s for %s is there already" % (options.driver, there.version, options.release)
        return _of_entry(job, there, KEPT, text)
    failed = build_store.failure(options.store, digest)
    if failed is None or _more(options.limits, failed):
        return None
    return _of_failure(
        job, failed, " (tried before: it is not tried again until its input changes, or with force)"
    )


def _more(limits: Limits, failed: BuildFailure) -> bool:
    """Whether a build that took more than it might has more now."""
    before = failed.reason.get("limits") or {}
    return failed.reason["code"] in ("BUILD_TIMEOUT", "BUILD_LIMIT") and any(
        value > before.get(name, value) for name, value in limits._asdict().items()
    )


def _build(job: BuildJob, made_with: Tools, digest: str, slot: build_store.Slot) -> Answer:
    options, began = job.options, time.monotonic()
    log = "%s/%s" % (job.work, LOG)
    mounts = (*headers.mounts(job.headers, job.work, bool(made_with.pahole)), *job.overlay)
    try:
        built = compile.build(
            job.box._replace(mounts=mounts),
            job.headers,
            job.conf,
            made_with,
            work=job.work,
            needed=[
                Mount(
                    dkms_conf.built(each.about.get("package") or each.driver, each.version, job.box),
                    each.directory,
                )
                for each in job.needed
            ],
            jobs=options.jobs or len(os.sched_getaffinity(0)),
            log=log,
        )
    except compile.BuildFailed as error:
        _check_room(job.work, log)
        reason = {
            "code": error.code,
            "message": str(error),
            "errors": error.lines,
            "version": job.version,
            "limits": dict(options.limits._asdict()),
            "seconds": int(time.monotonic() - began),
        }
        return _of_failure(job, slot.fail(digest, reason, sandbox.said(log)), "")
    about = _about(job, made_with, built, digest=digest, seconds=int(time.monotonic() - began))
    made = slot.put(about, dict(built.files, **{LOG: sandbox.said(log)}))
    text = "%s %s was built for %s" % (options.driver, job.version, options.release)
    return _of_entry(job, made, BUILT, text)._replace(changed=True)


def _check_room(work: str, log: str) -> None:
    """What the machine is short of says nothing of the source. Errors: ENOSPC, BUILD_STARVED."""
    line = build_log.starved(log)
    room = os.statvfs(work)
    full = room.f_frsize * room.f_bavail < ROOM or room.f_files and room.f_favail < FILES
    if full or line.endswith((os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))):
        raise KmodError(
            work,
            "the disk is full" + (": " + line if line else ""),
            "Free space on that file system (or files of it, or the quota) and run again",
            "ENOSPC",
        )
    if line:
        raise KmodError(
            "the build host",
            "ran out of memory or processes while it built: %s" % line,
            "Run again when it has more of them, or fewer compilers at once (jobs)",
            "BUILD_STARVED",
        )


def _about(job: BuildJob, made_with: Tools, built: Built, *, digest: str, seconds: int) -> Dict[str, Any]:
    notes = list(made_with.notes)
    if job.conf and job.conf.own_kernel_only:
        notes.append(
            ("OWN_KERNEL_ONLY", "the source says that a build is for the kernel it is made for alone")
        )
    return {
        "version": job.version,
        "input": digest,
        "package": job.conf.name if job.conf else None,
        "recipe": compile.RECIPE,
        "machine": job.box.machine,
        "vermagic": built.modules[0].vermagic,
        "compiler": made_with.version,
        "linker": made_with.linker,
        "pahole": made_with.pahole or None,
        "headers": {"origin": job.headers.origin, "digest": job.headers.digest()},
        "module_sig_hash": job.headers.option("MODULE_SIG_HASH") or None,
        "source": job.source,
        "needed": {each.driver: each.input for each in job.needed},
        "needs": compile.needs(built),
        "symbols": compile.versions(built),
        "verdicts": [
            {"module": each.name, "verdict": each.verdict, "errno": each.errno, "reason": each.short}
            for each in built.verdicts
        ],
        "findings": [{"code": code, "message": message} for code, message in notes],
        "seconds": seconds,
        "signer": None,
    }


# Answering


def _answer(job: BuildJob, result: str, msg: str, **more: Any) -> Answer:
    return Answer(job.options.driver, job.options.release, job.version, result, msg + ".", **more)


def _of_entry(job: BuildJob, made: BuildEntry, result: str, msg: str) -> Answer:
    about = made.about
    return _answer(
        job,
        result,
        msg,
        log=made.path(LOG) if LOG in about["files"] else None,
        directory=made.directory,
        modules=tuple(made.modules),
        digests={name: digest for name, digest in about["files"].items() if name.endswith(".ko")},
        needs=about.get("needs"),
        verdicts=tuple(about.get("verdicts") or ()),
        findings=tuple(about.get("findings") or ()),
        input=made.input,
        seconds=int(about.get("seconds") or 0),
    )


def _of_failure(job: BuildJob, failed: BuildFailure, more: str) -> Answer:
    reason = failed.reason
    lines: Sequence[str] = reason.get("errors") or ()
    msg = "%s %s for %s: %s%s. Log: %s" % (
        job.options.driver,
        job.version,
        job.options.release,
        str(reason.get("message", "")).rstrip("."),
        more,
        failed.log,
    )
    return _answer(
        job,
        FAILED,
        msg,
        code=str(reason["code"]),
        log=failed.log,
        errors=tuple(lines),
        input=os.path.basename(failed.directory),
        repeated=bool(more),
        seconds=int(reason.get("seconds") or 0),
    )
