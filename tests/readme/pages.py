# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which commands the documentation tells people to type, and where each of them is run."""

import os
import re
from typing import Dict, List, Tuple

from tests import CHECKOUT

RELEASES = ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.12.1.el9_6.x86_64")
TYPED = (
    "ansible",
    "kmodctl",
    "make",
    "python",
    "pip",
    "mmdebstrap",
    "openssl",
    "systemctl",
    "mokutil",
    "build/kmodctl",
    "sha256sum",
    "gpg",
    "ssh-keygen",
    "minisign",
    "dnf",
    "dkms",
)
# Pages of which every block marked ``sh`` is run by tests/readme, in order; README.md with the lowest and the newest controller.
RUN = (
    "README.md",
    "docs/tutorial.md",
    "docs/first-driver.md",
    "docs/update.md",
    "docs/secure-boot.md",
    "docs/leaving.md",
    "docs/air-gap.md",
    "docs/install.md",
    "docs/supply.md",
)
# Commands outside of such blocks, by how they begin: the test that runs them, or why none can.
ELSEWHERE = {
    "ansible-playbook outoftree.kmod.canary": "tests/integration/test_canary.py",
    "ansible-playbook outoftree.kmod.update": "tests/rebuild/test_rebuild.py",
    "ansible-playbook outoftree.kmod.rebuild": "tests/rebuild/test_rebuild.py",
    "ansible-playbook -i inventory outoftree.kmod.report": "tests/integration/test_report.py",
    "ansible-playbook -i localhost, -c local outoftree.kmod.deploy -e kmod_root": "tests/ways/test_images.py",
    "ansible-galaxy collection install --force -p collections": "tests/ways/test_pull.py",
    "ansible-playbook -i build/demo/inventory.json": "tests/integration/test_demo.py",
    "ansible HOST -m outoftree.kmod.kmod_info": "tests/readme/test_pages.py",
    "ansible-galaxy collection install -r requirements.yml": "the repository is none that a test can reach",
    "mmdebstrap": "tests/ways/test_images.py",
    "make demo-rebuild": ".ci/run",
    "make ee": "tests/ways/test_execution_environment.py",
    "systemctl enable": "tests/ways/test_pull.py verifies the units; enabling them is systemd's",
    "sha256sum": "tests/unit/plugin_utils/test_supply.py",
    "gpg": "tests/unit/plugin_utils/test_supply.py",
    "ssh-keygen": "tests/unit/plugin_utils/test_supply.py",
    "minisign": "tests/unit/plugin_utils/test_supply.py",
    "mokutil": "it needs a machine with Secure Boot and somebody at its console",
    "openssl req": "tests/integration/test_sign.py",
    "kmodctl": "tests/unit/test_docs.py parses each, tests/unit/test_cli.py runs each command",
    "build/kmodctl": "tests/ways/test_images.py",
}


def blocks(page: str) -> List[Tuple[str, str]]:
    """(language, text) of the code blocks of a page, those in lists too."""
    text = (CHECKOUT / page).read_text()
    return [
        (kind, re.sub("^" + indent, "", body, flags=re.M))
        for indent, kind, body in re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.M | re.S)
    ]


def commands(text: str) -> List[str]:
    """The commands of a block, one a line, without comments."""
    lines = re.sub(r" *\\\n\s*", " ", text).splitlines()
    return [
        re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip() and not line.startswith("#")
    ]


def elsewhere(page: str) -> List[str]:
    """The commands of a page that stand in blocks that are not run."""
    return [
        command
        for kind, body in blocks(page)
        if not kind
        for command in commands(body)
        if command.startswith(TYPED)
    ]


PLAY = next(body for kind, body in blocks("README.md") if kind == "yaml")


def settings(path: str, home: str) -> Dict[str, str]:
    """The environment of somebody who has set nothing."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "PYTHON", "VIRTUAL_ENV"))
    }
    return dict(kept, HOME=home, PATH="%s:%s" % (path, os.environ["PATH"]), LC_ALL="C.UTF-8", COLUMNS="300")
