# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What drivers, modules and their files may be called, and what each name makes of a file."""

import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.read import names
from tests.forge import families
from tests.forge.ko import RELEASE, ko


@pytest.mark.parametrize(
    "path,name",
    [
        ("lime-6.1.0-9-amd64.ko", "lime_6"),
        ("/x/megaraid_sas-07.727.03.00.ko", "megaraid_sas_07"),
        ("a.b/snd-hda-intel.ko.xz", "snd_hda_intel"),
        ("a-b", "a_b"),
        (".ko", ""),
    ],
)
def test_the_name_that_kmod_makes_of_a_files(path, name):
    assert names.module_of(path) == name


@pytest.mark.parametrize(
    "file", ["lime-6.1.0-9-amd64.ko", "megaraid_sas-07.727.03.00.ko", "snd-hda-intel.ko"]
)
@pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
def test_the_name_that_the_real_kmod_makes_of_a_files(file, tmp_path):
    top = families.kernel(tmp_path)
    (top / "extra").mkdir()
    (top / "extra" / file).write_bytes(ko("inside", aliases=["of:probe"]))
    subprocess.run(["depmod", "-b", str(tmp_path), RELEASE], check=True, stderr=subprocess.DEVNULL)
    lines = (top / "modules.alias").read_text().splitlines()
    assert [line.split()[2] for line in lines if "of:probe" in line] == [names.module_of(file)]


@pytest.mark.parametrize(
    "name,kmods,readable,anyones,ours",
    [
        ("a.ko", True, True, True, True),
        ("a-b_1.ko", True, True, True, True),
        ("a.ko.gz", True, True, True, False),
        ("a.ko.xz", True, True, True, False),
        ("a.ko.zst", True, True, True, False),
        ("a.ko.bz2", False, True, True, False),
        ("a.ko.tmp", False, False, True, False),
        (".a.ko.kmod-new", False, False, True, False),
        ("a.1.ko", True, True, True, False),
        ("-a.ko", True, True, True, False),
        ("\u00e4.ko", True, True, True, False),
        ("a.ko\n", False, False, True, False),
        ("ako", False, False, False, False),
        ("a.o", False, False, False, False),
    ],
)
def test_for_whom_a_file_is_a_module(name, kmods, readable, anyones, ours):
    assert names.is_module_file("/x.ko/" + name) == kmods
    assert names.is_readable_module("/x.ko/" + name) == readable
    assert names.may_be_module("/x.ko/" + name) == anyones
    assert names.is_stored_module(name) == ours


@pytest.mark.parametrize(
    "path,module,file",
    [
        ("/x/snd-hda.ko.xz", "snd_hda", "snd-hda.ko"),
        ("/x/vendor.v2.ko", "vendor", "vendor.ko"),
        ("/x/vendor", "vendor", "vendor.ko"),
        ("/x/vendor-1.0.ko", "vendor", "vendor.ko"),
        ("/x/other.ko", "vendor", "vendor.ko"),
        ("/x/-a.ko", "_a", "_a.ko"),
    ],
)
def test_a_stored_file_is_called_as_kmod_finds_its_module(path, module, file):
    assert names.stored_name(path, module) == file
    assert names.module_of(file) == module and names.is_stored_module(file)
