# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a verdict on a kernel to come hangs upon of a host, as plain data: so a kernel is read once, where its
packages are, and judged for every host of a fleet.

Of what the host's own configuration says, only the lines of modprobe.d are not in it: they are notes, and
change no verdict.
"""

from typing import Any, Dict, FrozenSet, NamedTuple, Tuple

from ..errors import KmodError
from ..read.kernel_module import KernelModule
from ..read.runtime import OFFLINE, Runtime
from .selection import Build


class Subject(NamedTuple):
    """``like``: the version magic of the host's newest kernel, "" where it cannot be told; ``beside``: see
    ``candidates.beside``.
    """

    drivers: Dict[str, Tuple[Build, ...]]
    runtime: Runtime = OFFLINE
    like: str = ""
    beside: FrozenSet[str] = frozenset()

    def as_dict(self) -> Dict[str, Any]:
        return {
            "drivers": {
                driver: [
                    dict(build._asdict(), modules=[module.as_dict() for module in build.modules])
                    for build in found
                ]
                for driver, found in self.drivers.items()
            },
            "runtime": self.runtime.as_dict(),
            "like": self.like,
            "beside": sorted(self.beside),
        }

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "Subject":
        """Error: MODULE_DATA for anything that ``as_dict`` has not made."""
        try:
            drivers = {
                driver: tuple(
                    Build(**dict(build, modules=tuple(map(KernelModule.from_dict, build["modules"]))))
                    for build in found
                )
                for driver, found in data["drivers"].items()
            }
            return cls(
                drivers, Runtime.from_dict(data["runtime"]), str(data["like"]), frozenset(data["beside"])
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise KmodError(
                "what a host has told of its drivers",
                "is not as it was made (%r)" % (error,),
                "Use the same version of the collection on both sides",
                "MODULE_DATA",
            ) from None
