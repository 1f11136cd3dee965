# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sign builds: those of a build store, or module files as they lie there."""

import os
import tempfile
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ..errors import KmodError, from_oserror
from ..host import Host
from ..make import build_store, sign
from ..make.sign import SigningKey
from ..read import inputs, ko
from ..read.kernels import Kernel

APART = True  # nothing of the machine is changed, only builds
LIMIT = 512 << 20  # bytes of a module
AUTO = "auto"


class Options(NamedTuple):
    """Those of the module kmod_sign, which says what they mean."""

    key: str
    certificate: Optional[str] = None
    passphrase: Optional[str] = None
    path: Tuple[str, ...] = ()
    store: Optional[str] = None
    driver: Optional[str] = None
    version: Optional[str] = None
    release: Optional[str] = None
    hash: str = AUTO

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        """Relative paths are from the working directory; an empty one stays what it is, an error."""
        given = {name: params[name] for name in cls._fields}
        paths = tuple(os.path.abspath(each) if each.strip() else each for each in given["path"] or ())
        return cls(**dict(given, path=paths, store=given["store"] and os.path.abspath(given["store"])))


class SignedModule(NamedTuple):
    """``state``: signed now, or unchanged as it was before."""

    path: str
    release: str
    hash: str
    state: str


class SignedBuild(NamedTuple):
    """What is to be stored of a build: its build.json and its files; and what became of each module."""

    about: Dict[str, Any]
    files: Dict[str, bytes]
    rows: Tuple[SignedModule, ...]


class Answer(NamedTuple):
    """``changed`` says whether something was signed, or would have been."""

    signer: Dict[str, str]
    modules: Tuple[SignedModule, ...]

    @property
    def changed(self) -> bool:
        return any(module.state == "signed" for module in self.modules)

    @property
    def diff(self) -> List[Dict[str, str]]:
        """As Ansible shows it."""
        return [self._diff(module) for module in self.modules if module.state == "signed"]

    def as_dict(self) -> Dict[str, Any]:
        new = [module for module in self.modules if module.state == "signed"]
        rest = len(self.modules) - len(new)
        return {
            "signer": self.signer,
            "modules": [dict(module._asdict()) for module in self.modules],
            "msg": "%d module%s signed by %s%s."
            % (
                len(new),
                "" if len(new) == 1 else "s",
                self.signer["subject"] or self.signer["serial"],
                "; %d had that signature already" % rest if rest else "",
            ),
        }

    def _diff(self, module: SignedModule) -> Dict[str, str]:
        text = "signed with %s by %s (serial number %s)\n" % (
            module.hash,
            self.signer["subject"],
            self.signer["serial"],
        )
        return {"before_header": module.path, "after_header": module.path, "before": "", "after": text}


def run(host: Host, options: Options, check: bool = False) -> Answer:
    """Sign what is not signed so already; with ``check`` everything is done but storing it.

    Errors: BAD_OPTION, NO_BUILDS, SIGN_HASH, those of ``make.sign``, of the store and of reading.
    """
    if bool(options.path) == bool(options.store) or (options.store and not options.driver):
        raise KmodError(
            "path, and store with driver",
            "are both given" if options.path and options.store else "are both missing, or driver is",
            "Give one of them",
            "BAD_OPTION",
        )
    by = key_of(options)
    if options.path:
        modules = [_file(path, by, options, check) for path in inputs.find(host, options.path)]
    else:
        modules = [module for build in _builds(options) for module in _build(build, by, options, check)]
    return Answer(by.as_dict(), tuple(modules))


def key_of(options: Options) -> SigningKey:
    """The key, which opens and is that of the certificate. Errors: those of ``make.sign``."""
    by = sign.key(options.key, options.certificate, options.passphrase)
    sign.try_out(by)
    return by


def _builds(options: Options) -> List[build_store.BuildEntry]:
    found = [
        build
        for build in build_store.entries(options.store or "", options.driver)
        if options.version in (None, build.version) and options.release in (None, build.release)
    ]
    if not found:
        raise KmodError(
            "%s in %s" % (options.driver, options.store),
            "has no such build",
            "Build it first (outoftree.kmod.kmod_build)",
            "NO_BUILDS",
        )
    return found


def _build(
    build: build_store.BuildEntry, by: SigningKey, options: Options, check: bool
) -> List[SignedModule]:
    """All modules of a build, which is stored anew with them: whole or not at all."""
    store = options.store or ""
    with build_store.held(store, build.driver, build.release) as slot:
        now = build_store.entry(store, build.driver, build.version, build.release)
        if now is None:
            raise KmodError(
                build.directory, "was removed meanwhile", "Run again when nobody else is at it", "NO_BUILDS"
            )
        made = of_build(now, now.contents(), by, options)
        if not check and (any(row.state == "signed" for row in made.rows) or now.about != made.about):
            slot.put(made.about, made.files)
    return list(made.rows)


def of_build(
    build: build_store.BuildEntry, files: Mapping[str, bytes], by: SigningKey, options: Options
) -> SignedBuild:
    """The files of a build with its modules signed, wherever it is to be stored.

    Errors: SIGN_HASH, those of ``make.sign.signed``.
    """
    hash_name = _hash(options, build.about.get("module_sig_hash"), build.release, build.directory)
    signed, rows = dict(files), []
    for name in sorted(name for name in files if name.endswith(".ko")):
        made = sign.signed(build.path(name), files[name], by, hash_name, before=build.about.get("signer"))
        signed[name] = made.data
        state = "signed" if made.new else "unchanged"
        rows.append(SignedModule(build.path(name), build.release, hash_name, state))
    return SignedBuild(dict(build.about, signer=dict(by.as_dict(), hash=hash_name)), signed, tuple(rows))


def _file(path: str, by: SigningKey, options: Options, check: bool) -> SignedModule:
    data = Host("/").read(path, LIMIT)
    release = ko.unpacked(data, path).built_for
    hash_name = _hash(options, None, release, path)
    made = sign.signed(path, data, by, hash_name)
    if made.new and not check:
        _replace(path, made.data)
    return SignedModule(path, release, hash_name, "signed" if made.new else "unchanged")


def _hash(options: Options, told: Optional[str], release: str, what: str) -> str:
    """That which the kernel's own modules are signed with, as its configuration says where it is at hand."""
    if options.hash != AUTO:
        return sign.check_hash(options.hash, "hash")
    if told is None and release:
        told = sign.hash_of(Kernel(Host("/"), release, "/lib/modules/" + release).config)
    if told is None:
        raise KmodError(
            what,
            "was built for %s, whose configuration is not at hand to say which hash it wants"
            % (release or "a kernel that it does not name"),
            "Give hash, as CONFIG_MODULE_SIG_HASH of that kernel has it (often sha256)",
            "SIGN_HASH",
        )
    return sign.check_hash(told, "the configuration of " + release)


def _replace(path: str, data: bytes) -> None:
    """The file is there as it was, or whole and signed. Errors: those of writing."""
    real, new = os.path.realpath(path), ""
    try:
        mode = os.stat(real).st_mode & 0o7777
        handle, new = tempfile.mkstemp(prefix=".", suffix=".kmod-new", dir=os.path.dirname(real))
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
            os.fchmod(handle, mode)
        os.replace(new, real)
    except OSError as error:
        if new and os.path.exists(new):
            os.unlink(new)
        raise from_oserror(path, error, "write the signed module") from None
