# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which distribution family a kernel is of: debian, ubuntu, rhel, fedora, suse, amazon, arch; "" if nothing
tells.
"""

import re
from typing import Sequence, Tuple

_RELEASES = (
    ("rhel", r"\.el\d"),
    ("fedora", r"\.fc\d"),
    ("amazon", r"\.amzn\d"),
    ("arch", r"-arch\d+-\d+$"),
    ("suse", r"^\d[\d.]+-[\d.]+-(default|preempt|azure|rt|kvmsmall|64kb|debug|pae|xen|desktop|vanilla)$"),
    (
        "ubuntu",
        r"-\d+-(generic|lowlatency|aws|azure|gcp|gke|oracle|kvm|virtual|oem|raspi|ibm|nvidia|realtime)(-\w+)*$",
    ),
    (
        "debian",
        r"[-+](rc\d|\d|deb\d|bpo)[^ ]*-(amd64|i?[36]86(-pae)?|arm64(-16k)?|armmp(-lpae)?|powerpc64le(-64k)?|s390x|riscv64|loong64)$",
    ),
)


def of_kernel(release: str, modinfo: Sequence[Tuple[str, str]]) -> str:
    """By the kernel's own marks: its release, and the .modinfo of one of its modules.

    The host's os-release says nothing of a kernel that was built elsewhere, and the compiler's name only
    where it was built.
    """
    keys = dict(modinfo)
    if "rhelversion" in keys:
        return "rhel"
    if "suserelease" in keys:
        return "suse"
    return next((name for name, pattern in _RELEASES if re.search(pattern, release)), "")
