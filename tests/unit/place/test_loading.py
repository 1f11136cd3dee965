# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One file in modprobe.d and one in modules-load.d for each driver, as the real modprobe reads them."""

import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.selection import Build
from ansible_collections.outoftree.kmod.plugins.module_utils.place import loading, store
from ansible_collections.outoftree.kmod.plugins.module_utils.place.loading import Loading
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as reading
from tests.forge.ko import ko

needs_modprobe = pytest.mark.skipif(not shutil.which("modprobe"), reason="needs modprobe (kmod)")
OLD, NEW = "6.1.0-9-amd64", "6.1.0-10-amd64"
PARAMETERS = (("parmtype", "debug:int"), ("parmtype", "mode:charp"), ("parmtype", "irqs:array of int"))
FILE, AT_BOOT = "/etc/modprobe.d/outoftree.kmod-vendor.conf", "/etc/modules-load.d/outoftree.kmod-vendor.conf"


@pytest.fixture
def root(tmp_path):
    top = tmp_path / "root"
    for release in (OLD, NEW):
        tree = top / "lib/modules" / release
        for path, data in {
            "kernel/in_tree.ko": ko("in_tree", release=release, aliases=["crypto-sum"]),
            "extra/vendor/vendor.ko": ko("vendor", release=release),
        }.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        (tree / "modules.builtin").write_text("kernel/drivers/base/part_of_it.ko\n")
        subprocess.run(["depmod", "-b", str(top), release], check=True, capture_output=True)
    reader = top / "usr/lib/systemd/systemd-modules-load"
    reader.parent.mkdir(parents=True)
    reader.write_text("")
    (top / "etc").mkdir()
    return top


def build(*names, release=OLD, told=PARAMETERS):
    made = []
    for name in names or ("vendor",):
        module = reading.parse(ko(name, release=release), "/%s.ko" % name)
        made.append(module._replace(modinfo=module.modinfo + told))
    return Build(release, tuple(made))


def texts(root, used=None, **wanted):
    host = Host(str(root))
    used = {OLD: build(), NEW: build()} if used is None else used
    return loading.texts(host, "vendor", Loading(**wanted), used=used, installed=store.installed(host))


def put(root, used=None, **wanted):
    plan = loading.present(Host(str(root)), "vendor", texts(root, used, **wanted))
    plan.apply()
    return plan


def modprobe(root, *args):
    done = subprocess.run(
        ["modprobe", "-d", str(root), "-C", str(root) + loading.MODPROBE, "-S", OLD, *args],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def refused(code, match, root, used=None, **wanted):
    with pytest.raises(KmodError, match=match) as error:
        texts(root, used, **wanted)
    assert error.value.code == code


@needs_modprobe
def test_modprobe_reads_what_was_wanted(root):
    put(
        root,
        options={"vendor": {"mode": "two words", "debug": 2, "irqs": [3, 4]}},
        blacklist=["in-tree"],
        softdep={"vendor": {"pre": ["in_tree"]}},
    )
    said = modprobe(root, "-c").splitlines()
    assert 'options vendor debug=2 irqs=3,4 mode="two words"' in said
    assert "blacklist in_tree" in said and any(
        line.startswith("softdep vendor pre: in_tree") for line in said
    )
    steps = modprobe(root, "-n", "-v", "vendor").splitlines()
    assert [line.split()[1].rsplit("/", 1)[1] for line in steps] == ["in_tree.ko", "vendor.ko"]
    assert steps[1].split(None, 2)[2].strip() == 'debug=2 irqs=3,4 mode="two words"'


def test_a_second_run_writes_nothing_and_what_is_not_wanted_any_more_goes(root):
    before = sorted(root.rglob("*"))
    wanted = {"options": {"vendor": {"debug": 1}}, "at_boot": True}
    assert put(root, **wanted) and not put(root, **wanted)
    assert (root / AT_BOOT[1:]).read_text().splitlines()[1:] == ["vendor"]
    assert put(root, options={"vendor": {"debug": 1}}) and not (root / AT_BOOT[1:]).exists()
    assert put(root, options={"vendor": {"debug": 3}}).diff()[0]["after"].endswith("options vendor debug=3\n")
    loading.absent(Host(str(root)), "vendor").apply()
    assert sorted(root.rglob("*")) == before  # with the directories
    assert not loading.absent(Host(str(root)), "vendor")


def test_a_directory_that_was_there_stays_and_one_that_we_made_goes_with_the_last_driver(root):
    (root / "etc/modules-load.d").mkdir()
    put(root, blacklist=["in_tree"], at_boot=True)
    host = Host(str(root))
    other = loading.texts(host, "other", Loading(blacklist=("x",)), used={OLD: build("other")}, installed=[])
    loading.present(host, "other", other).apply()
    loading.absent(host, "vendor").apply()
    assert (root / "etc/modprobe.d/outoftree.kmod-other.conf").exists()
    loading.absent(host, "other").apply()
    assert (root / "etc/modules-load.d").exists() and not (root / "etc/modprobe.d").exists()


def test_what_a_run_that_was_cut_off_has_left_goes_with_the_next(root):
    before = sorted(root.rglob("*"))
    put(root, blacklist=["in_tree"])
    (root / FILE[1:]).unlink()  # the mark alone
    loading.absent(Host(str(root)), "vendor").apply()
    assert sorted(root.rglob("*")) == before
    for directory in (loading.MODPROBE, loading.AT_BOOT):  # the directory alone
        (root / directory[1:]).mkdir()
    lock.clear_leftovers(Host(str(root)), {"directories": [loading.MODPROBE, loading.AT_BOOT, "/etc/other"]})
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("foreign", ["file", "link", "directory", "other driver"])
def test_what_is_not_ours_stays_as_it_is(root, foreign):
    place = root / FILE[1:]
    place.parent.mkdir()
    if foreign == "link":
        place.symlink_to("/dev/null")
    elif foreign == "directory":
        place.mkdir()
    else:
        place.write_text(
            "options vendor debug=1\n" if foreign == "file" else "# outoftree.kmod vendor2: made by\n"
        )
    with pytest.raises(KmodError) as error:
        put(root, blacklist=["in_tree"])
    assert error.value.code == "FOREIGN_FILE"
    assert not put(root) and not loading.absent(Host(str(root)), "vendor")
    assert loading.configured(Host(str(root)), ["vendor"]) == {}


def test_a_file_of_ours_that_somebody_has_changed_or_a_full_disk_has_emptied_is_made_again(root):
    put(root, blacklist=["in_tree"])
    whole = (root / FILE[1:]).read_text()
    for damaged in ("", whole + "install vendor /bin/true\n"):
        (root / FILE[1:]).write_text(damaged)
        assert put(root, blacklist=["in_tree"]) and (root / FILE[1:]).read_text() == whole
    assert loading.configured(Host(str(root)), ["vendor", "other"]) == {FILE: whole.encode()}


def test_a_parameter_has_to_be_one_of_each_build_that_a_kernel_uses(root):
    used = {OLD: build(), NEW: build(told=(("parmtype", "level:int"),)), "6.2.0": None}
    refused(
        "PARAMETER_UNKNOWN",
        "build that kernel %s uses. It has level" % NEW,
        root,
        used,
        options={"vendor": {"debug": 1}},
    )
    used = {OLD: build(), NEW: build(told=(("parmtype", "debug:bool"),))}
    refused("PARAMETER_VALUE", "boolean", root, used, options={"vendor": {"debug": 7}})
    assert texts(root, used, options={"vendor": {"debug": 1}}).modprobe.endswith("options vendor debug=1\n")


def test_only_modules_of_the_driver_have_options_and_soft_dependencies(root):
    refused(
        "OPTION_MODULE", "no module of the driver, which has vendor", root, options={"in_tree": {"debug": 1}}
    )
    refused("OPTION_MODULE", "no module of the driver", root, softdep={"in_tree": {"pre": ["vendor"]}})


def test_where_no_kernel_uses_the_driver_nothing_is_blacklisted(root):
    wanted = {"options": {"vendor": {"debug": 1}}, "blacklist": ("in_tree",), "at_boot": True}
    assert texts(root, {OLD: None, NEW: None}, **wanted) == loading.Texts()


@pytest.mark.parametrize(
    "name", ["in_tree\ninstall vendor /bin/sh", "a b", "", "x" * 60, "*", "#", "../x", "nul\0"]
)
def test_what_is_no_modules_name_is_refused_everywhere(root, name):
    refused("MODULE_NAME", "module's name", root, blacklist=[name])
    refused("MODULE_NAME", "module's name", root, softdep={"vendor": {"pre": [name]}})
    refused("MODULE_NAME", "module's name", root, options={name: {"debug": 1}})


@pytest.mark.parametrize(
    "wanted",
    [
        {"options": {"vendor": "debug=1"}},
        {"options": {"vendor": None}},
        {"options": {"vendor": {"debug": 1}, "ven-dor": {}}},
        {"options": {"vendor": {"irq-list": 1, "irq_list": 2}}},
        {"softdep": {"vendor": {"pre": ["vendor"]}}},
        {"softdep": {"vendor": ["in_tree"]}},
        {"softdep": {"vendor": {"before": ["in_tree"]}}},
    ],
)
def test_another_shape_is_told(root, wanted):
    used = {OLD: build("vendor", "ven_dor", told=(*PARAMETERS, ("parmtype", "irq_list:int")))}
    if "ven-dor" in wanted.get("options", {}):
        wanted["options"]["ven_dor"] = {}
    refused("BAD_OPTION", "options|softdep", root, used, **wanted)


def test_a_driver_does_not_blacklist_itself(root):
    refused("BLACKLIST_OWN", "vendor is a module of the driver itself", root, blacklist=["in_tree", "vendor"])


def test_a_soft_dependency_is_a_module_an_alias_built_in_or_comes_with_the_driver(root):
    for name in ("in-tree", "part_of_it", "crypto_sum", "vendor_core"):
        assert texts(
            root, {OLD: build("vendor", "vendor_core")}, softdep={"vendor": {"post": [name]}}
        ).modprobe
    refused(
        "SOFTDEP_MISSING",
        "kernel %s has no module nowhere" % OLD,
        root,
        softdep={"vendor": {"pre": ["nowhere"]}},
    )
    (root / "lib/modules" / OLD / "kernel/in_tree.ko").rename(
        root / "lib/modules" / OLD / "kernel/another.ko"
    )
    subprocess.run(["depmod", "-b", str(root), OLD], check=True, capture_output=True)
    # a kernel that has no build of the driver needs none of it
    assert texts(root, {OLD: None, NEW: build()}, softdep={"vendor": {"pre": ["in_tree"]}}).modprobe
    refused("SOFTDEP_MISSING", OLD, root, softdep={"vendor": {"pre": ["in_tree"]}})


def test_loading_at_boot_needs_somebody_who_reads_of_it_and_leaves_out_what_one_build_lacks(root):
    used = {OLD: build("vendor", "vendor_core"), NEW: build("vendor")}
    assert texts(root, used, at_boot=True).at_boot.splitlines()[1:] == ["vendor"]
    (root / "usr/lib/systemd/systemd-modules-load").unlink()
    refused("AT_BOOT_UNREAD", "nothing on this host reads it", root, at_boot=True)
    (root / "etc/init.d").mkdir()
    (root / "etc/init.d/kmod").write_text("")
    assert texts(root, at_boot=True).at_boot
