# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""build_docs.py DIRECTORY: the documentation as a site.

The pages are the checkout's own Markdown files, where they lie, and what antsibull-docs makes of the modules and
roles. ``docs/README.md`` is the front page: each of its headings is a part of the navigation, with the pages that are
linked below it. A warning of Sphinx's is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PAGES = (
    "*.md",
    "docs/*.md",
    "roles/*/README.md",
    "tests/README.md",
    "tests/crash/README.md",
    "tests/kernel/*.md",
)
FILES = ("COPYING", "CHANGELOG.rst", "execution-environment.yml", "docs/examples", "docs/*.svg", "meta/*.yml")
MODULES = "collections/outoftree/kmod/index"


def front(text: str) -> str:
    """The front page: links as they are from above docs/, and a part of the navigation for each heading."""
    text = re.sub(
        r"\]\((?![a-z]+:|#)([^)]+)\)", lambda link: "](%s)" % os.path.normpath("docs/" + link.group(1)), text
    )
    parts = re.split(r"^(?=## )", text, flags=re.M)
    for part in parts[1:]:
        title = part.split("\n")[0][3:]
        links = dict.fromkeys(re.findall(r"\]\(([^)#:]+)\.(?:md|rst)\)", part))
        pages = [*links] + [MODULES] * (title == "Reference")
        text += "\n```{toctree}\n:hidden:\n:caption: %s\n\n%s\n```\n" % (title, "\n".join(pages))
    return text


def main() -> None:
    target = Path(sys.argv[1]).absolute()
    source = target.parent / (target.name + "-source")
    for directory in (target, source):
        shutil.rmtree(directory, ignore_errors=True)
    for pattern in PAGES + FILES:
        for path in CHECKOUT.glob(pattern):
            place = source / path.relative_to(CHECKOUT)
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, place)
    # Labels of Ansible's own documentation, which the modules' pages refer to.
    labels = ("action_plugins", "common_return_values", "ansible_configuration_settings")
    (source / "ansible.rst").write_text(
        ":orphan:\n\n%s\nAnsible's own documentation\n===========================\n\n"
        "See https://docs.ansible.com/\n" % "".join(".. _%s:\n" % label for label in labels)
    )
    (source / "index.md").write_text(front((source / "docs/README.md").read_text()))
    (source / "docs/README.md").unlink()
    readme = source / "README.md"
    readme.write_text(readme.read_text().replace("(docs/README.md)", "(index.md)"))
    (source / "collections-made").mkdir(mode=0o755)
    modules = ["antsibull-docs", "collection", "--use-current", "--fail-on-error", "--dest-dir"]
    run(*modules, str(source / "collections-made"), "outoftree.kmod")
    shutil.move(source / "collections-made/collections", source / "collections")
    shutil.rmtree(source / "collections-made")
    run(
        "sphinx-build",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        str(CHECKOUT / "docs/site"),
        str(source),
        str(target),
    )


def run(program: str, *words: str) -> None:
    settings = {
        "PATH": "%s:%s" % (BIN, os.environ["PATH"]),
        "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "build/collections"),
    }
    done = subprocess.run([program, *words], check=False, env={**os.environ, **settings})
    if done.returncode:
        sys.exit("%s failed" % program)


if __name__ == "__main__":
    main()
