# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have a driver's parameters, blacklist, soft dependencies and loading at boot in modprobe.d and modules-load.d."""

from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from ..errors import forgiving
from ..host import Host
from ..judge.selection import Build
from ..place import loading, store
from ..place.loading import Loading
from ..plan import Plan
from ..read import modprobe
from ..read.kernels import Kernel, version_key


class Options(NamedTuple):
    """``used``: the build that each kernel uses; ``coming``, ``args``: see loading.texts and kmod_deploy."""

    driver: str
    wanted: Loading = Loading()
    used: Mapping[str, Optional[Build]] = {}  # noqa: RUF012
    coming: FrozenSet[str] = frozenset()
    args: str = ""


class Answer(NamedTuple):
    """The files that there are now, and what a person has to know of them, in sentences."""

    files: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        return {"files": list(self.files)}


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Errors: those of loading.texts and loading.present."""
    if not any(options.wanted):
        return loading.absent(host, options.driver), Answer()
    installed = store.installed(host)
    texts = loading.texts(
        host, options.driver, options.wanted, used=options.used, installed=installed, coming=options.coming
    )
    plan = loading.present(host, options.driver, texts)
    places = ((loading.MODPROBE, texts.modprobe), (loading.AT_BOOT, texts.at_boot))
    files = tuple(loading.path(options.driver, directory) for directory, text in places if text)
    notes = [*_left_alone(options), *_contradicted(host, options, texts.modprobe)]
    if plan:  # said once
        notes += _not_there(installed, options.wanted.blacklist)
        notes += _loaded(host, options.wanted.options)
    return plan, Answer(files, tuple(notes))


def _left_alone(options: Options) -> Iterator[str]:
    """modprobe.d knows no kernels."""
    without = sorted((release for release, build in options.used.items() if build is None), key=version_key)
    if len(without) == len(options.used):
        yield (
            "uses %s on no kernel, so that nothing of it is in modprobe.d or modules-load.d." % options.driver
        )
        return
    if without and options.wanted.at_boot:
        yield (
            "loads %s at each boot, and %s no build of it: there systemd-modules-load.service fails at boot."
            % (options.driver, ("%s gets" if len(without) == 1 else "%s get") % ", ".join(without))
        )
    if without and options.wanted.blacklist:
        yield (
            "has %s blacklisted on every kernel, and %s no driver %s: no device has any of them loaded there."
            % (
                ", ".join(options.wanted.blacklist),
                ("%s gets" if len(without) == 1 else "%s get") % ", ".join(without),
                options.driver,
            )
        )


def _not_there(installed: Sequence[Kernel], blacklist: Sequence[str]) -> Iterator[str]:
    for name in map(_plain, blacklist):
        if any(name in kernel.builtin for kernel in installed):
            yield "has %s blacklisted, which is part of a kernel and there whatever modprobe.d says." % name
        elif not any(name in kernel.modules for kernel in installed):
            yield "has %s blacklisted, and no kernel here has a module of that name." % name


def _loaded(host: Host, modules: Iterable[str]) -> Iterator[str]:
    """What the running kernel has loaded is not touched by a file."""
    there = [name for name in modules if host.live and host.exists("/sys/module/%s/initstate" % _plain(name))]
    if there:
        yield (
            "has %s loaded with the parameters of before, until it is loaded again or the host is rebooted."
            % ", ".join(there)
        )


def _plain(name: str) -> str:
    return str(name).replace("-", "_")


def _contradicted(host: Host, options: Options, text: str) -> Iterator[str]:
    """Who else sets a parameter, and to what: modprobe hands on all of it, and the last word counts."""
    ours = _parameters(
        (line.split()[1], tuple(line.split()[2:]))
        for line in text.splitlines()
        if line.startswith("options ")
    )
    mine = loading.path(options.driver)
    others: List[Tuple[str, Dict[Tuple[str, str], str]]] = [
        (path, _parameters([(module, words)]))
        for module, words, path in modprobe.config(host).options
        if path != mine
    ]
    line = ""
    if host.live:
        with forgiving():
            line = host.read_text("/proc/cmdline")
    for where, words in (("the kernel's command line", line), ("args", options.args)):
        dotted = [word.partition(".") for word in words.split() if "." in word.partition("=")[0]]
        others.append((where, _parameters((module, (rest,)) for module, _dot, rest in dotted)))
    for where, given in others:
        for (module, name), value in sorted(given.items()):
            if ours.get((module, name), value) != value:
                yield (
                    "has %s.%s=%s by %s, too, where it is to be %s: the command line counts before modprobe.d, and of its "
                    "files the last by name." % (module, name, value, where, ours[module, name])
                )


def _parameters(rows: Any) -> Dict[Tuple[str, str], str]:
    found = {}
    for module, words in rows:
        for word in words:
            name, _equals, value = word.partition("=")
            found[modprobe.alias_of(module), name.replace("-", "_")] = value
    return found
