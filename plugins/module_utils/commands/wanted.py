# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wanted of one driver: what ``deploy`` brings a host to."""

from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Tuple

from ..place.loading import Loading
from ..place.settings import Followed
from ..read.kernel_module import KernelModule
from . import link as links
from . import loading as loadings


class WantedDriver(NamedTuple):
    """What is wanted of one driver; see the options of the module kmod_deploy."""

    driver: str
    state: str = "present"
    path: Tuple[str, ...] = ()
    described: Optional[Tuple[KernelModule, ...]] = None
    kernels: Tuple[str, ...] = links.ALL
    require: str = "any"
    load: bool = False
    initrd: bool = True
    method: str = "auto"
    early_load: bool = False
    ignore_tpm: bool = False
    entry: bool = True
    args: str = ""
    fallback_args: Optional[str] = None
    loader: str = "auto"
    copy_of: str = ""
    boot: str = "none"  # none, once, default
    follow: bool = False
    keep_default: bool = False
    ahead: Tuple[str, ...] = ()
    options: Mapping[str, Any] = {}  # noqa: RUF012
    blacklist: Tuple[str, ...] = ()
    softdep: Mapping[str, Any] = {}  # noqa: RUF012
    load_at_boot: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "WantedDriver":
        given: Dict[str, Any] = {name: params[name] for name in cls._fields if params.get(name) is not None}
        given.update(
            {name: tuple(given[name]) for name in ("path", "kernels", "ahead", "blacklist") if name in given}
        )
        if params.get("_described") is not None:
            given["described"] = tuple(map(KernelModule.from_dict, params["_described"]))
        if given.get("fallback_args") == "auto":
            del given["fallback_args"]
        return cls(**given)

    def link(self, files: Optional[Mapping[str, str]]) -> links.Options:
        return links.Options(
            self.driver,
            path=self.path,
            described=self.described,
            files=None if self.described is None else files,
            kernels=self.kernels,
            load=self.load,
            ahead=self.ahead,
        )

    def loading(self, used: Mapping[str, Any], coming: Iterable[str] = ()) -> loadings.Options:
        wanted = Loading(self.options, self.blacklist, self.softdep, self.load_at_boot)
        return loadings.Options(self.driver, wanted, used, frozenset(coming), self.args)

    def followed(self) -> Followed:
        return Followed(
            kernels=self.kernels,
            initrd=self.initrd,
            method=self.method,
            early_load=self.early_load,
            ignore_tpm=self.ignore_tpm,
            entry=self.entry,
            args=self.args,
            fallback_args="auto" if self.fallback_args is None else self.fallback_args,
            loader=self.loader,
            copy_of=self.copy_of,
            boot=self.boot,
            keep_default=self.keep_default,
        )
