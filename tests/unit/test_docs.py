# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the documentation tells people to type and to follow: the commands are ones that there are, and so are
the pages that links lead to."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from ansible_collections.outoftree.kmod.plugins.module_utils import arguments
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import version_key
from tests import CHECKOUT
from tests.readme import pages

PAGES = sorted(
    path
    for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("roles/*/README.md")]
    if path.is_file()
)
KMODCTL = sorted(
    {
        (page.relative_to(CHECKOUT).as_posix(), command.strip())
        for page in PAGES
        for command in re.findall(r"^ *(kmodctl .*)$|`(kmodctl [^`]*)`", page.read_text(), re.M)
        for command in command
        if command and "weak-modules" not in command  # it parses as the script does: test_weak_modules.py
    }
)
LINKS = sorted(
    {
        (page.relative_to(CHECKOUT).as_posix(), target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in target
    }
)


def test_there_are_commands_and_links():
    assert len(KMODCTL) > 5 and len(LINKS) > 30


@pytest.mark.parametrize(("page", "command"), KMODCTL)
def test_a_kmodctl_command_of_the_documentation_is_understood(page, command):
    words = shlex.split(command, comments=True)[1:]
    if words in (["link"], ["variant"], ["entry"], ["check"]):
        return  # the command's name, in a sentence
    given = arguments.parser().parse_args([word for word in words if word != "…"])
    assert given.command == words[0]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_link_leads_somewhere(page, target):
    path, _, section = target.partition("#")
    leads = (CHECKOUT / page).parent / path if path else CHECKOUT / page
    assert leads.exists()
    if section:
        titles = re.findall(r"^#+ (.*)$", leads.read_text(), re.M)
        assert section in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_yaml_of_the_documentation_is_yaml(page: Path):
    for block in re.findall(r"^```ya?ml\n(.*?)^```", page.read_text(), re.M | re.S):
        assert yaml.safe_load(block)


def told(options):
    """(name, sentence) of each option and what is in it."""
    for name, option in (options or {}).items():
        text = option["description"]
        yield from ((name, each) for each in ([text] if isinstance(text, str) else text))
        yield from told(option.get("suboptions") or option.get("options"))


def documented():
    for path in sorted((CHECKOUT / "plugins" / "modules").glob("*.py")):
        found = re.search(r'^DOCUMENTATION = r"""\n(.*?)^"""', path.read_text(), re.M | re.S)
        yield path.name, yaml.safe_load(found.group(1))["options"]
    for path in sorted(CHECKOUT.glob("roles/*/meta/argument_specs.yml")):
        yield path.parts[-3], yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]


@pytest.mark.parametrize(
    ("page", "options"), list(documented()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_an_option_speaks_of_others_by_their_names(page, options):
    """ansible-doc sorts them: what was before it is not any more."""
    relative = re.compile(r"^(The same\b|As above|Likewise|Who may sign it)|\b(that list|those kernels)\b")
    assert [(name, text) for name, text in told(options) if relative.search(text)] == []


def typed_elsewhere():
    every = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("roles/*/README.md")]
    return sorted(
        {
            (page, command)
            for page in (path.relative_to(CHECKOUT).as_posix() for path in every)
            for command in pages.elsewhere(page)
        }
    )


@pytest.mark.parametrize(("page", "command"), typed_elsewhere())
def test_a_command_that_is_not_run_here_is_run_by_another_test_or_cannot_be(page, command):
    where = [by for start, by in pages.ELSEWHERE.items() if command.startswith(start)]
    assert where, "%s: no test runs it, and tests/readme/pages.py says nothing of it" % page
    named = re.findall(r"tests/\S+\.py", where[0])
    assert all((CHECKOUT / name).exists() for name in named)


def test_only_pages_that_are_run_have_blocks_that_say_so():
    every = [
        path.relative_to(CHECKOUT).as_posix()
        for path in [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")]
    ]
    assert sorted(pages.RUN) == sorted(
        page for page in every if any(kind == "sh" for kind, _ in pages.blocks(page))
    )


def shown_by():
    """The last column of the comparison: a file of tests, or one test of it."""
    rows = re.findall(r"^\| (?!\| |\|?-)(.*) \|$", (CHECKOUT / "docs/comparison.md").read_text(), re.M)
    return [(cells[0], cells[-1].strip("` ")) for cells in (row.split(" | ") for row in rows)]


def test_the_comparison_has_rows():
    assert len(shown_by()) > 15


@pytest.mark.parametrize(("row", "test"), shown_by())
def test_what_the_comparison_says_of_this_collection_is_shown_by_a_test_that_is_there(row, test):
    path, _, name = test.partition("::")
    text = (CHECKOUT / path).read_text()
    assert "def %s(" % name in text if name else "def test_" in text


def test_what_a_module_or_role_says_it_came_with_is_a_release_or_the_next_one():
    metadata = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())
    kept = CHECKOUT / "changelogs/changelog.yaml"
    released = yaml.safe_load(kept.read_text())["releases"] if kept.exists() else {}
    for path in [*CHECKOUT.glob("plugins/modules/*.py"), *CHECKOUT.glob("roles/*/meta/argument_specs.yml")]:
        first, *later = re.findall(r"^ *version_added: *(\S+)$", path.read_text(), re.M)
        assert first == str(metadata["version"]) or first in released, path
        coming = max(map(version_key, [*released, str(metadata["version"])]))
        assert all(each in released or version_key(each) > coming for each in later), path  # of options


ANSIBLE = sorted(
    {
        (page.relative_to(CHECKOUT).as_posix(), re.sub(r" *\\\n\s*", " ", command).strip())
        for page in PAGES
        for found in re.findall(
            r"^ *(ansible(?:-playbook)? (?:[^\n]*\\\n)*[^\n]*)$|`(ansible(?:-playbook)? -[^`]*)`",
            page.read_text(),
            re.M,
        )
        for command in found
        if command
    }
)
OPTIONS = {
    path.stem: set(
        yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', path.read_text(), re.S).group(1))["options"]
    )
    for path in CHECKOUT.glob("plugins/modules/*.py")
}
VARIABLES = {
    name
    for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml")
    for name in yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]
} | {
    name for path in CHECKOUT.glob("playbooks/*.yml") for name in re.findall(r"\bkmod_\w+", path.read_text())
}


def test_there_are_commands_of_ansible():
    assert len(ANSIBLE) > 20 and any(page == "docs/troubleshooting.md" for page, _ in ANSIBLE)


@pytest.mark.parametrize(("page", "command"), ANSIBLE)
def test_a_command_of_ansible_names_what_there_is(page, command):
    """Modules with their options, playbooks, and variables that some role or playbook has."""
    module = re.search(r"-m outoftree\.kmod\.(\w+)", command)
    if module:
        given = re.search(r"-a '([^']*)'", command)
        names = re.findall(r"(\w+)=", given.group(1)) if given else []
        assert set(names) <= OPTIONS[module.group(1)] | {"root"}
    for playbook in re.findall(r"(?<!-m )\boutoftree\.kmod\.(\w+)", command):
        assert (CHECKOUT / "playbooks" / (playbook + ".yml")).exists()
    for name in re.findall(r"-e '?\{?\"?(\w+)", command):
        assert name in VARIABLES


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_plays_and_tasks_of_the_documentation_name_options_that_there_are(page):
    def look(node):
        if isinstance(node, list):
            for each in node:
                look(each)
        elif isinstance(node, dict):
            for key, value in node.items():
                name = str(key).rpartition(".")[2]
                if str(key).startswith("outoftree.kmod.") and isinstance(value, dict):
                    assert set(value) <= OPTIONS[name] | {"root"}
                if str(key).startswith("kmod_"):
                    assert key in VARIABLES
                look(value)

    for block in re.findall(r"^```ya?ml\n(.*?)^```", page.read_text(), re.M | re.S):
        look(yaml.safe_load(block))


def test_the_picture_of_the_demo_shows_every_promise_of_it_as_kept():
    promises = re.findall(r'check\(\s*"([^"]+)"', (CHECKOUT / "demo/__main__.py").read_text())
    shown = (CHECKOUT / "docs/demo.svg").read_text().replace("\xa0", " ")
    assert len(promises) > 6 and "  NO   " not in shown
    for promise in promises:
        assert "  ok   %s" % promise in shown, "make capture"
