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
    how: Followed = Followed()  # on kernels to come too, where it follows
    version: str = ""  # "" is the newest that there is
    require: str = "any"
    load: bool = False
    follow: bool = False
    ahead: Tuple[str, ...] = ()
    options: Mapping[str, Any] = {}  # noqa: RUF012
    blacklist: Tuple[str, ...] = ()
    softdep: Mapping[str, Any] = {}  # noqa: RUF012
    load_at_boot: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "WantedDriver":
        def given(*fields: str) -> Dict[str, Any]:
            found = {name: params[name] for name in fields if params.get(name) is not None}
            return {name: tuple(each) if isinstance(each, list) else each for name, each in found.items()}

        described = params.get("_described")
        return cls(
            how=Followed(**given(*Followed._fields)),
            described=None if described is None else tuple(map(KernelModule.from_dict, described)),
            **given(*(name for name in cls._fields if name not in ("how", "described"))),
        )

    def link(self, files: Optional[Mapping[str, str]]) -> links.Options:
        return links.Options(
            self.driver,
            path=self.path,
            described=self.described,
            files=None if self.described is None else files,
            kernels=self.how.kernels,
            version=self.version or None,
            load=self.load,
            ahead=self.ahead,
        )

    def loading(self, used: Mapping[str, Any], coming: Iterable[str] = ()) -> loadings.Options:
        wanted = Loading(self.options, self.blacklist, self.softdep, self.load_at_boot)
        return loadings.Options(self.driver, wanted, used, frozenset(coming), self.how.args)
