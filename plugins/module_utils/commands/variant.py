# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variants of the initramfs with drivers in them: made, removed, found possible, shown."""

from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple

from ..host import Host
from ..place import notice, store
from ..place.initramfs import existing, listing, variant
from ..place.initramfs.existing import Seen
from ..place.initramfs.manifest import EarlyLoad
from ..plan import Plan


class Options(NamedTuple):
    """Those of the module initrd_variant, which says what they mean."""

    driver: Tuple[str, ...]
    kernels: Tuple[str, ...] = ()
    modules: Tuple[str, ...] = ()
    method: str = "auto"
    early_load: EarlyLoad = False
    ignore_tpm: bool = False
    entries: str = "refuse"
    state: str = "present"  # present, absent, possible, superseded
    # of kmod_deploy and of hosts that follow new kernels, see Recipe and variant.superseded
    each: bool = False
    known: Tuple[str, ...] = ()

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        given: Dict[str, Any] = {name: params[name] for name in cls._fields if name in params}
        given.update((name, tuple(given[name])) for name in ("driver", "kernels", "modules"))
        return cls(**given)

    @property
    def recipe(self) -> variant.Recipe:
        return variant.Recipe(
            self.driver, self.modules, self.method, self.early_load, self.ignore_tpm, self.each
        )


class Answer(NamedTuple):
    """What is done about variants, and which drivers there are where there is nothing of those that were
    named.
    """

    variants: variant.Variants
    other_drivers: Tuple[str, ...]

    def of(self, driver: str) -> "Answer":
        """What of it is one driver's."""
        rows = tuple(
            row
            for row in self.variants.rows
            if not isinstance(row, variant.Made) or driver in row.wants.drivers
        )
        return self._replace(variants=self.variants._replace(rows=rows))

    @property
    def unforeseen(self) -> List[str]:
        """The kernels whose variant a tool builds when it is written: until then nothing is known of it."""
        made = [row for row in self.variants.rows if isinstance(row, variant.Made)]
        return [row.kernel for row in made if not row.sha256]

    def applied(self, found: Mapping[str, Any]) -> "Answer":
        """With what ``Plan.apply`` found out."""
        return self._replace(variants=self.variants.applied(found))

    def as_dict(self) -> Dict[str, Any]:
        return dict(self.variants.as_dict(), msg=self.msg, other_drivers=list(self.other_drivers))

    @property
    def msg(self) -> str:
        """One line for people."""
        rows = ", ".join("%s (%s)" % (row.path, row.status) for row in self.variants.rows)
        return "Initramfs variants: %s." % rows if rows else "There is no initramfs variant of it."


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Have the variants of ``options.driver`` (all of them in one) present or absent, or see whether they are
    possible.
    """
    store.check(host)
    if options.state == "absent":
        plan, variants = variant.absent(host, options.driver, options.kernels, entries=options.entries)
    elif options.state == "superseded":
        plan, variants = variant.superseded(host, options.recipe, options.known), variant.Variants()
    elif options.state == "possible":
        plan, variants = variant.possible(host, options.recipe, options.kernels)
    else:
        plan, variants = variant.present(host, options.recipe, options.kernels)
    return plan, Answer(variants, () if variants.rows else tuple(notice.other_drivers(host, options.driver)))


def overview(host: Host) -> List[Seen]:
    """The variants on the host, and which of them are out of date."""
    return existing.overview(host)


def lines(host: Host, path: str) -> Iterator[str]:
    """What is in an image, as text."""
    return listing.lines(host, path)
