# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role and the modules tell a person, by the real ansible-playbook on hosts that are directories."""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forge import fleet
from tests.forge.ko import ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")

OLD, NEW = "6.1.0-1", "6.1.0-2"


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Two kernels, and builds of two drivers for the older one, which the newer one refuses."""
    directory = tmp_path_factory.mktemp("stock")
    kernels = [fleet.kernel(directory, release, change) for release, change in ((OLD, 0), (NEW, 1))]
    for driver in ("vendor", "rival"):
        fleet.build(directory / driver, driver, OLD)
    fleet.build(directory / "library", "library", NEW, 1)
    told = "debug:int\0parmtype=mode:charp\0parmtype=irqs:array of int"
    needs = [(symbol, crc) for symbol, crc, *_rest in fleet.exports(0) if symbol in fleet.NEEDS]
    for name, version in (("older", "1.0"), ("newer", "2.0")):
        data = ko("vendor", needs, release=OLD, modinfo={"version": version})
        fleet.write(directory / name / OLD / "vendor.ko", data)
    fleet.write(
        directory / "parametered/vendor.ko", ko("vendor", needs, release=OLD, modinfo={"parmtype": told})
    )
    return kernels, directory


@pytest.fixture
def host(tmp_path, stock):
    """host(name, kernels) makes one with entries in files, as Enterprise Linux has them."""

    def make(name, *numbers):
        fleet.el9(tmp_path / name, [stock[0][number] for number in numbers or (0,)])
        return tmp_path / name

    return make


@pytest.fixture
def run(tmp_path, stock, collections):
    """run(roots, playbook or task, options): the exit status and all that is said, in one line; from the
    directory that the builds are in.
    """

    def go(roots, what, *options, **more):
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            **({} if "kmod_drivers" in more else {"kmod_driver": "vendor"}),
            **more,
        }
        (tmp_path / "inventory.json").write_text(
            json.dumps(
                {"all": {"hosts": {root.name: {"kmod_root": str(root)} for root in roots}, "vars": variables}}
            )
        )
        if isinstance(what, list):
            (tmp_path / "plays").mkdir(exist_ok=True)
            # the dashes make it YAML: of JSON, ansible-core before 2.19 does not know where a task is from
            (tmp_path / "plays/play.yml").write_text(
                "---\n" + json.dumps([{"hosts": "all", "gather_facts": False, "tasks": what}])
            )
            what = str(tmp_path / "plays/play.yml")
        (tmp_path / "ansible.cfg").touch()
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                "-i",
                str(tmp_path / "inventory.json"),
                what,
                *options,
            ],
            env=dict(
                os.environ,
                ANSIBLE_COLLECTIONS_PATH=collections,
                ANSIBLE_NOCOLOR="1",
                COLUMNS="1000",
                ANSIBLE_PIPELINING="true",
                ANSIBLE_CONFIG=str(tmp_path / "ansible.cfg"),
                ANSIBLE_LOCALHOST_WARNING="false",
            ),
            cwd=str(stock[1]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, re.sub(r"\s+", " ", done.stdout)

    return go


def names(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.name.startswith("modules.")}


# Kernels that get no driver


def test_every_host_says_which_kernel_gets_nothing_why_and_whether_it_will_boot(run, host):
    both, new, old = host("both", 0, 1), host("new", 1), host("old", 0)
    failed, said = run(
        [both, new, old], "outoftree.kmod.deploy", kmod_src="vendor", kmod_require="none", kmod_entry=False
    )
    assert not failed, said
    for name in ("both", "new"):
        assert (
            "WARNING]: %s: kernel %s (newest, default) gets no driver vendor: 1 symbol differs (kfree)."
            % (name, NEW)
            in said
        )
    assert "WARNING]: old" not in said


def test_a_kernel_that_no_boot_is_expected_to_start_is_told_as_that_and_one_that_was_not_chosen_too(
    run, host
):
    root = host("both", 0, 1)
    task = {"outoftree.kmod.kmod_link": {"driver": "vendor", "src": "vendor"}}
    (root / "boot/grub2/grubenv").write_text((root / "boot/grub2/grubenv").read_text().replace(NEW, OLD))
    _failed, said = run([root], [task])
    assert "kernel %s (newest) gets no" % NEW in said and "The host boots without it" in said
    _failed, said = run(
        [root], [{"outoftree.kmod.kmod_link": dict(task["outoftree.kmod.kmod_link"], kernels=[OLD])}]
    )
    assert (
        "kernel %s (newest) gets no driver vendor: it is not one of the kernels that were chosen" % NEW
        in said
    )
    third = host("third", 1, 0)  # the last entry is the default, the highest release the newest
    _failed, said = run([third], [task])
    assert "both: " not in said and "kernel %s (newest) gets" % NEW in said


# Refused before anything is written


def test_what_can_be_refused_is_refused_before_anything_is_written(run, host):
    """And the way to do without it is named, and works."""
    faults = {"loader": "kmod_entry", "entry": "kmod_entry", "image": "kmod_initrd"}
    roots = {name: host(name) for name in faults}
    shutil.rmtree(str(roots["loader"] / "boot/grub2"))
    next((roots["entry"] / "boot/loader/entries").iterdir()).unlink()
    (roots["image"] / ("boot/initramfs-%s.img" % OLD)).unlink()
    before = {name: names(root) for name, root in roots.items()}
    failed, said = run(list(roots.values()), "outoftree.kmod.deploy", kmod_src="vendor")
    assert failed and len(re.findall("failed=1", said)) == 3
    for name, option in faults.items():
        assert re.search(
            "Nothing of it has been written. With [a-z]+: false .%s of the role" % option, said
        ), said
        assert names(roots[name]) == before[name]
    failed, said = run(
        list(roots.values()),
        "outoftree.kmod.deploy",
        kmod_src="vendor",
        kmod_entry=False,
        kmod_initrd="{{ inventory_hostname != 'image' }}",
    )
    assert not failed, said


def test_possible_changes_nothing_even_where_it_is_possible(run, host):
    root = host("host")
    before = names(root)
    options = {"driver": "vendor", "kernels": [OLD], "state": "possible"}
    tasks = [{"outoftree.kmod.initrd_variant": options}, {"outoftree.kmod.grub_entry": options}]
    failed, said = run([root], tasks)
    assert not failed and "changed=0" in said and names(root) == before


# Paths


def test_relative_paths_are_those_of_the_play_and_else_of_the_working_directory(run, host, stock, tmp_path):
    root = host("host")
    task = {"outoftree.kmod.kmod_compat": {"src": "vendor", "require": "none"}, "register": "found"}
    show = {"ansible.builtin.debug": {"msg": "read {{ found.checks[0].module }}"}}
    _failed, said = run([root], [task, show])
    assert "read %s/vendor/%s/vendor.ko" % (stock[1], OLD) in said
    shutil.copytree(str(stock[1] / "vendor"), str(tmp_path / "plays/files/vendor"))
    _failed, said = run([root], [task, show])
    assert "read %s/plays/files/vendor/%s/vendor.ko" % (tmp_path, OLD) in said
    failed, said = run([root], "outoftree.kmod.deploy", kmod_src="nothing/here")
    assert (
        failed
        and "nothing/here: is not on the controller, neither in the working directory (%s)" % stock[1] in said
        and "remote_src" not in said
    )


def test_an_empty_path_is_named(run, host):
    tasks = [
        {"outoftree.kmod." + module: dict(more, **{option: value}), "ignore_errors": True}
        for module, more in (("kmod_compat", {}), ("kmod_link", {"driver": "vendor"}))
        for option in ("src", "path")
        for value in ("", [], [""])
    ]
    _failed, said = run([host("host")], tasks)
    assert len(re.findall('"msg": "(src|path): is empty', said)) == 12 and "ignored=12" in said


# Names


def test_a_typo_in_a_drivers_name_is_seen_by_the_names_that_are_there(run, host):
    root = host("host")
    failed, said = run([root], "outoftree.kmod.deploy", kmod_src="vendor", kmod_initrd=False)
    assert not failed, said
    words = "WARNING]: host: there is nothing of a driver called %s here, but of vendor"
    failed, said = run([root], "outoftree.kmod.remove", kmod_driver="vendro")
    assert not failed and words % "vendro" in said
    tasks = [
        {"outoftree.kmod." + module: dict(options, driver=driver)}
        for module, options, driver in (
            ("grub_entry", {"boot": "shipped"}, "first"),
            ("grub_entry", {}, "second"),
            ("initrd_variant", {}, "third"),
        )
    ]
    failed, said = run([root], tasks)
    assert not failed and all(words % driver in said for driver in ("first", "second", "third"))
    failed, said = run([root], "outoftree.kmod.remove")
    assert not failed and "there is nothing of" not in said
    failed, said = run([root], "outoftree.kmod.remove")
    assert not failed and "there is nothing of" not in said and "changed=0" in said


def test_a_host_that_is_a_directory_is_one_for_ad_hoc_tasks_too(run, host):
    root = host("host")
    _failed, said = run(
        [root],
        [
            {"outoftree.kmod.kmod_info": {}, "register": "info"},
            {"ansible.builtin.debug": {"msg": "{{ info.kernels }}"}},
        ],
    )
    assert OLD in said and os.uname().release not in said


# Check mode


def test_check_mode_on_a_fresh_host_shows_the_entry_and_the_digests_that_a_real_run_gives(run, host):
    root = host("host")
    before = names(root)
    drivers = [{"driver": name, "src": name} for name in ("vendor", "rival")]
    tasks = [
        {"outoftree.kmod.kmod_deploy": {"root": str(root), "drivers": drivers}, "register": "done"},
        {
            "ansible.builtin.debug": {
                "msg": "made {{ done.drivers[0].variant.variants[0].sha256 }} {{ done.drivers[1].entry.kernels[0].args }} made"
            }
        },
    ]
    failed, said = run([root], tasks, "--check", "--diff")
    assert not failed and names(root) == before, said
    assert "With drivers rival, vendor: " in said and "outoftree.kmod=rival,vendor" in said
    failed, really = run([root], tasks, "--diff")
    assert not failed and names(root) != before, really
    made = [re.search("made [0-9a-f]{64} .* made", each).group() for each in (said, really)]
    assert made[0] == made[1]
    assert "changed=0" in run([root], tasks, "--check")[1]


def test_two_drivers_of_a_role_share_an_entry_and_one_that_is_removed_leaves_the_other_its_own(run, host):
    root = host("host")
    drivers = [{"driver": name, "src": name} for name in ("vendor", "rival")]
    failed, said = run([root], "outoftree.kmod.deploy", kmod_drivers=drivers)
    assert not failed, said
    entries = root / "boot/loader/entries"
    assert [path.name.partition("~")[2] for path in entries.glob("*~*")] == ["rival~vendor.conf"]
    failed, said = run([root], "outoftree.kmod.remove", kmod_driver="rival")
    assert not failed, said
    assert [path.name.partition("~")[2] for path in entries.glob("*~*")] == ["vendor.conf"]
    assert len(list((root / "boot").glob("initramfs*.[0-9]"))) == 1


# The options of the modules are there in the role


def test_the_role_hands_on_what_variants_and_entries_are_made_of(run, host):
    root = host("host")
    failed, said = run([root], "outoftree.kmod.deploy", kmod_src="vendor", kmod_early_load=True)
    # its init is no generator's
    assert failed and "EARLY_UNSUPPORTED" in said and "Nothing of it has been written" in said
    failed, said = run(
        [root],
        "outoftree.kmod.deploy",
        kmod_src="vendor",
        kmod_args="vendor.debug=1",
        kmod_method="segment",
        kmod_fallback_args="panic=7",
        kmod_loader="bls",
    )
    assert not failed, said
    (entry,) = [
        path for path in (root / "boot/loader/entries").iterdir() if path.name.endswith("~vendor.conf")
    ]
    text = entry.read_text()
    assert "vendor.debug=1 panic=7" in text and re.search(
        r"^initrd /initramfs-%s.img .*/initramfs-%s.img.1" % (OLD, OLD), text, re.M
    )
    failed, said = run([root], "outoftree.kmod.deploy", kmod_src="vendor", kmod_loader="extlinux")
    assert failed and "extlinux" in said


def test_the_role_hands_on_which_entry_is_to_be_copied(run, host):
    root = host("host")
    (shipped,) = (root / "boot/loader/entries").iterdir()
    hand = shipped.with_name("hand.conf")
    hand.write_text(shipped.read_text().replace("title ", "title Hand ") + "options extra\n")
    failed, said = run([root], "outoftree.kmod.deploy", kmod_src="vendor", kmod_copy_of="nothing")
    assert failed and "is called 'nothing'" in said and "Nothing of it has been written" in said
    title = re.search("^title (.*)$", hand.read_text(), re.M).group(1)
    failed, said = run([root], "outoftree.kmod.deploy", kmod_src="vendor", kmod_copy_of=title)
    assert not failed and "options extra" in hand.with_name("hand~vendor.conf").read_text(), said


# Old interpreters


@pytest.mark.parametrize(
    "version, words",
    [
        ("2.7", "is Python 2.7.%s on this host, and the collection needs 3.6 or newer there"),
        (
            "3.6",
            "is Python 3.6.%s on this host, which ansible-core {core} does not serve. Name a newer interpreter of the host in "
            "ansible_python_interpreter, or use ansible-core 2.16, the last one for Python 3.6",
        ),
        ("3.7", "or use ansible-core 2.17, the last one for Python 3.7"),
    ],
)
def test_a_python_that_is_too_old_is_named_with_the_ansible_core_that_serves_it(run, host, version, words):
    from ansible.release import __version__

    found = glob.glob(
        "%s/versions/%s.*/bin/python"
        % (os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), version)
    )
    if not found:
        pytest.skip("no Python %s on this machine" % version)
    if version != "2.7" and tuple(map(int, __version__.split(".")[:2])) < (2, 18):
        pytest.skip("this ansible-core serves it")
    failed, said = run(
        [host("host")], [{"outoftree.kmod.kmod_info": {}}], ansible_python_interpreter=found[0]
    )
    patch = found[0].split("/")[-3].rsplit(".", 1)[1]
    assert failed and (words.replace("%s", patch).format(core=__version__)) in said, said


# Parts of the role


def test_a_look_says_what_would_be_done_and_does_nothing(run, host):
    root = host("host")
    before = names(root)
    given = {"kmod_src": "vendor", "kmod_entry": False}
    failed, said = run([root], "outoftree.kmod.deploy", "--tags", "kmod_look", **given)
    assert not failed and names(root) == before, said
    assert (
        "vendor: 1 of 1 kernels use it" in said
        and "changed: link" in said
        and "Bring the drivers" not in said
    )
    failed, said = run([root], "outoftree.kmod.deploy", "--tags", "kmod_reboot", **given)
    assert not failed and names(root) == before, said
    failed, said = run([root], "outoftree.kmod.deploy", "--tags", "kmod_deploy", **given)
    assert not failed and "See what would be done" not in said and names(root) > before, said


def test_an_incompatible_driver_can_be_a_warning_and_the_others_are_deployed(run, host):
    root = host("new", 1)
    drivers = [{"driver": "vendor", "src": "vendor"}, {"driver": "library", "src": "library"}]
    given = {"kmod_drivers": drivers, "kmod_entry": False, "kmod_initrd": False}
    failed, said = run([root], "outoftree.kmod.deploy", **given)
    assert failed and "REQUIRE_UNMET" in said or "0 of 1 kernels take it" in said
    failed, said = run([root], "outoftree.kmod.deploy", kmod_ignore_incompatible=True, **given)
    assert not failed and "gets no driver vendor" in said, said
    assert (root / ("lib/modules/%s/extra/library" % NEW)).exists()


def test_one_driver_and_a_list_of_drivers_at_a_time_are_refused_so_that_none_is_removed_by_mistake(run, host):
    root = host("host")
    listed = [{"driver": name, "src": name} for name in ("vendor", "rival")]
    failed, said = run([root], "outoftree.kmod.deploy", kmod_drivers=listed)
    assert not failed, said
    before = names(root)
    for playbook in ("deploy", "remove", "canary"):
        failed, said = run(
            [root], "outoftree.kmod." + playbook, "-e", "kmod_driver=rival", kmod_drivers=listed
        )
        assert (
            failed and "kmod_driver (rival) and kmod_drivers: are both given. Leave one of them out" in said
        )
        assert names(root) == before
    aside = ("-e", json.dumps({"kmod_driver": "rival", "kmod_drivers": []}))
    failed, said = run([root], "outoftree.kmod.remove", *aside, kmod_drivers=listed)
    assert not failed and (root / ("lib/modules/%s/extra/vendor" % OLD)).exists(), said
    assert not (root / ("lib/modules/%s/extra/rival" % OLD)).exists()


def test_what_a_host_has_and_the_list_does_not_is_told_each_time_and_removed_where_that_is_asked_for(
    run, host
):
    root = host("host")
    listed = [{"driver": name, "src": name, "initrd": False} for name in ("vendor", "rival")]
    told = "host has rival besides, not in kmod_drivers. kmod_exclusive: true removes that."
    assert told not in run([root], "outoftree.kmod.deploy", kmod_drivers=listed)[1]
    for _again in range(2):
        failed, said = run([root], "outoftree.kmod.deploy", kmod_drivers=listed[:1])
        assert not failed and told in said and "changed=0" in said, said
    assert told not in run([root], "outoftree.kmod.deploy", kmod_src="vendor", kmod_initrd=False)[1]
    failed, said = run([root], "outoftree.kmod.deploy", kmod_drivers=listed[:1], kmod_exclusive=True)
    assert not failed and told not in said
    assert not (root / ("lib/modules/%s/extra/rival" % OLD)).exists()


def test_errors_that_are_ignored_are_told_once(run, host):
    failed, said = run(
        [host("host")],
        [
            {
                "ansible.builtin.include_role": {
                    "name": "outoftree.kmod.deploy",
                    "apply": {"ignore_errors": True},
                }
            }
        ],
        kmod_src="nothing/here",
    )
    assert not failed and "ignored=1 " in said, said


def test_an_older_version_is_deployed_where_it_is_named_and_told_where_it_is_not(run, host):
    root = host("host")
    given = {"kmod_entry": False, "kmod_initrd": False}
    module = root / ("lib/modules/%s/extra/vendor/vendor.ko" % OLD)
    for src, version, there in (("newer", "", "2.0"), ("vendor", "", "2.0"), ("older", "1.0", "1.0")):
        failed, said = run([root], "outoftree.kmod.deploy", kmod_src=src, kmod_version=version, **given)
        assert not failed and b"version=%s" % there.encode() in module.read_bytes(), said
        told = "keeps version 2.0 of the driver vendor on %s: that is newer than what was given" % OLD
        assert (told in said) == (src == "vendor")
    failed, said = run([root], "outoftree.kmod.remove", kmod_version="1.0")
    assert failed and "is to be removed, and a version is named" in said and module.exists()


def test_how_it_is_loaded_by_variables_of_one_driver(run, host):
    root = host("host")
    given = {"kmod_src": "parametered", "kmod_entry": False, "kmod_initrd": False}
    options = {"vendor": {"debug": 2, "mode": "two words", "irqs": [1, 2]}}
    failed, said = run(
        [root], "outoftree.kmod.deploy", kmod_options=options, kmod_blacklist=["rival"], **given
    )
    assert not failed, said
    assert (root / "etc/modprobe.d/outoftree.kmod-vendor.conf").read_text().splitlines()[1:] == [
        'options vendor debug=2 irqs=1,2 mode="two words"',
        "blacklist rival",
    ]
    failed, said = run([root], "outoftree.kmod.deploy", kmod_options={"vendor": {"debgu": 2}}, **given)
    assert failed and "has no such parameter. It has debug, irqs, mode" in said
    failed, said = run([root], "outoftree.kmod.remove", kmod_options=options)
    assert not failed and not (root / "etc/modprobe.d/outoftree.kmod-vendor.conf").exists(), said
