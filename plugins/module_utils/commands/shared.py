# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options with which the commands ``variant`` and ``entry`` serve drivers that share variants and entries."""

from typing import Optional, Sequence

from ..host import Host
from ..place.together import Shared
from . import entry, variant


def variant_options(shared: Shared, kernels: Sequence[str] = (), state: str = "present") -> variant.Options:
    return variant.Options(
        shared.drivers,
        tuple(kernels),
        method=shared.method,
        early_load=shared.early_load,
        ignore_tpm=shared.ignore_tpm,
        state=state,
        each=True,
        known=shared.known,
    )


def entry_options(
    shared: Shared,
    boot: str = "none",
    *,
    kernels: Sequence[str] = (),
    state: str = "present",
    asking: Optional[Sequence[str]] = None,
) -> entry.Options:
    """``asking``: the drivers that ask for ``boot``, where those are not all that did."""
    return entry.Options(
        shared.drivers,
        state=state,
        kernels=tuple(kernels),
        boot=boot,
        fallback_args=None if shared.fallback_args == "auto" else shared.fallback_args,
        loader=shared.loader,
        copy_of=shared.copy_of,
        each=True,
        known=shared.known,
        args_of=shared.args_of,
        asking=shared.asking if asking is None else tuple(asking),
    )


def trial_of(host: Host, shared: Shared) -> str:
    """What the entry is asked for: the default only ever comes after a trial, and there is none elsewhere."""
    return "once" if shared.asking and shared.entry and host.live else "none"
