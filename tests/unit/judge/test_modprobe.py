# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What modprobe and udev make of a module that the loader takes."""

import lzma

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels, modprobe
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE, Runtime
from tests.forge import families
from tests.forge.families import CONFIG
from tests.forge.ko import RELEASE, ko

SLES = "6.4.0-150600.21-default"
NIC = "pci:v000010ECd00008125sv*sd*bc*sc*i*"


def write(root, **files):
    for path, text in files.items():
        path = root / path.replace("__", "/").replace("_d", ".d").replace("_conf", ".conf")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def judged(root, module, release=RELEASE, runtime=OFFLINE, **kernel):
    families.kernel(root, release, **kernel)
    (verdict,) = loader.judge(
        kernels.installed(Host(str(root)))[0], [modules.parse(module, "/opt/vendor.ko")], runtime
    )
    return verdict


def noted(verdict, *codes):
    assert verdict.verdict == "compatible"
    return [
        (each.code, each.found)
        for each in verdict.findings
        if each.code.startswith(codes or ("MODPROBE_", "OPTION_", "DEVICE_"))
    ]


@pytest.mark.parametrize(
    "text,found",
    [
        ("blacklist vendor\n", [("MODPROBE_BLACKLIST", "/etc/modprobe.d/a.conf")]),
        ("  blacklist\tvendor # why\n", [("MODPROBE_BLACKLIST", "/etc/modprobe.d/a.conf")]),
        ("# blacklist vendor\nblacklist vendor2\n", []),
        ("install vendor /bin/false\n", [("MODPROBE_INSTALL", "/bin/false")]),
        ("install vend* \\\n /bin/true; echo no\n", [("MODPROBE_INSTALL", "/bin/true; echo no")]),
        ("install vendor\n", []),
        ("blacklist vendor\r\n", []),  # modprobe reads a name that ends with CR
        ("# one\u2028blacklist vendor\nblacklist\fvendor\n", []),
        ("allow_unsupported_modules 0\n", []),  # no SUSE
        (
            "options vendor debug=1 nosuch=2 dyndbg=+p quiet\noptions other nosuch=1\n",
            [("OPTION_UNKNOWN", "/etc/modprobe.d/a.conf")] * 2,
        ),
    ],
)
def test_what_modprobe_d_says(text, found, tmp_path):
    write(tmp_path, etc__modprobe_d__a_conf=text)
    module = ko(modinfo={"parm": "debug:how much", "parmtype": "debug:int"})
    assert noted(judged(tmp_path, module)) == found


def test_a_file_masks_those_of_its_name_in_later_directories(tmp_path):
    write(
        tmp_path,
        etc__modprobe_d__a_conf="",
        lib__modprobe_d__a_conf="blacklist vendor\n",
        run__modprobe_d__a_conf="blacklist vendor\n",
        usr__lib__modprobe_d__b_conf="install vendor /bin/one\n",
        lib__modprobe_d__c_conf="install vendor /bin/two\n",
        etc__modprobe_d__old="blacklist vendor\n",
    )
    assert noted(judged(tmp_path, ko())) == [("MODPROBE_INSTALL", "/bin/one")]


def test_names_are_written_with_dashes_or_underscores(tmp_path):
    write(tmp_path, etc__modprobe_d__a_conf="blacklist my-vendor\n")
    assert [code for code, _found in noted(judged(tmp_path, ko("my_vendor")))] == ["MODPROBE_BLACKLIST"]


@pytest.mark.parametrize(
    "text,supported,found",
    [
        (
            "allow_unsupported_modules 0\n",
            None,
            [("MODPROBE_UNSUPPORTED", "/lib/modprobe.d/10-unsupported-modules.conf")],
        ),
        ("allow_unsupported_modules 0\n", "external", []),
        ("allow_unsupported_modules 0\n", "yes", []),
        ("allow_unsupported_modules 1\n", None, []),
        ("allow_unsupported_modules 0\nallow_unsupported_modules 1\n", None, []),
    ],
)
def test_what_suse_does_not_support(text, supported, found, tmp_path):
    path = tmp_path / "lib/modprobe.d/10-unsupported-modules.conf"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    module = ko(release=SLES, modinfo={"supported": supported})
    assert noted(judged(tmp_path, module, SLES, family="sles")) == found


def test_the_command_line_is_read_by_modprobe_too(tmp_path):
    assert modprobe.blacklisted_at_boot(
        "quiet modprobe.blacklist=a,my-b x=modprobe.blacklist=c modprobe.blacklist=d"
    ) == {"a", "my_b", "d"}
    verdict = judged(tmp_path, ko(), runtime=Runtime(modprobe_blacklist=frozenset(["vendor"])))
    assert noted(verdict) == [("MODPROBE_BLACKLIST", None)]


@pytest.mark.parametrize(
    "theirs,configured,found",
    [
        (NIC, "", [("DEVICE_CLAIMED", "r8169")]),
        ("pci:v000010ECd*sv*sd*bc02sc00i*", "", [("DEVICE_CLAIMED", "r8169")]),
        (NIC, "blacklist r8169\n", []),
        ("pci:v000010ECd00008168sv*sd*bc*sc*i*", "", []),
        ("usb:v*", "", []),
    ],
)
def test_the_kernels_own_module_for_the_same_device(theirs, configured, found, tmp_path):
    """r8125, and r8169 of the kernel."""
    own = {"drivers/net/r8169.ko": ko("r8169", modinfo={"intree": "Y"})}
    top = families.kernel(tmp_path, in_tree=own)
    (top / "modules.alias").write_text("# a comment\nalias %s r8169\nalias %s gone\n" % (theirs, NIC))
    write(tmp_path, etc__modprobe_d__a_conf=configured)
    assert noted(judged(tmp_path, ko("r8125", aliases=[NIC, "char-major-9-*"]), in_tree=own)) == found


@pytest.mark.parametrize(
    "theirs,found",
    [
        ("acpi*:VEND0001:*", True),
        ("acpi*:VEND0002:*", False),
        ("of:N*T*Cvendor,chip", True),
        ("of:N*T*Cvendor,chipC*", True),
        ("of:N*T*Cvendor,chip2C*", False),
        ("dmi*:svnVendor*:pnOne*:", True),
        ("dmi*:svnVendor*:pnTwo*:", False),
    ],
)
def test_a_device_with_several_names_is_not_that_of_every_driver(theirs, found, tmp_path):
    """A node of a device tree has all that it is compatible with in its name, and so has a device of ACPI."""
    own = {"drivers/r8169.ko": ko("r8169", modinfo={"intree": "Y"})}
    top = families.kernel(tmp_path, in_tree=own)
    (top / "modules.alias").write_text("alias %s r8169\n" % theirs)
    mine = ["acpi*:VEND0001:*", "of:N*T*Cvendor,chip", "of:N*T*Cvendor,chipC*", "dmi*:svnVendor*:pnOne*:"]
    verdict = judged(tmp_path, ko("vendor", aliases=mine), in_tree=own)
    assert noted(verdict) == ([("DEVICE_CLAIMED", "r8169")] if found else [])


@pytest.mark.parametrize("builtin", [False, True])
def test_a_driver_of_a_class_may_want_it_and_nobody_is_told_to_blacklist_that(builtin, tmp_path):
    """ata_generic takes all IDE controllers, and a network card is none."""
    own = {} if builtin else {"drivers/ata_generic.ko": ko("ata_generic", modinfo={"intree": "Y"})}
    top = families.kernel(tmp_path, in_tree=own, builtin=["ata_generic"] if builtin else [])
    (top / "modules.alias").write_text("alias pci:v*d*sv*sd*bc01sc01i* ata_generic\n")
    verdict = judged(
        tmp_path, ko("r8125", aliases=[NIC]), in_tree=own, builtin=["ata_generic"] if builtin else []
    )
    (finding,) = (each for each in verdict.findings if each.code == "DEVICE_CLAIMED")
    assert "may want the same device (pci:v*d*sv*sd*bc01sc01i*): that and the module's" in finding.message
    assert "blacklist" not in finding.message and builtin == ("part of this kernel" in finding.message)


def test_one_that_is_built_in_is_there_first(tmp_path):
    top = families.kernel(tmp_path, builtin=["r8169"])
    (top / "modules.builtin.modinfo").write_bytes(b"r8169.license=GPL\0r8169.alias=%s\0" % NIC.encode())
    verdict = judged(tmp_path, ko("r8125", aliases=[NIC]), builtin=["r8169"])
    assert noted(verdict) == [("DEVICE_CLAIMED", "r8169")]


def test_aliases_that_many_modules_share_are_no_devices(tmp_path):
    own = {
        "crypto/aes.ko": ko("aes", modinfo={"intree": "Y"}),
        "drivers/hid/hid.ko": ko("hid", modinfo={"intree": "Y"}),
    }
    top = families.kernel(tmp_path, in_tree=own)
    (top / "modules.alias").write_text("alias crypto-aes aes\nalias hid:b*g*v*p* hid\n")
    assert noted(judged(tmp_path, ko(aliases=["crypto-aes", "hid:b0003g*v0000045Ep*"]), in_tree=own)) == []


UNPACKS = CONFIG + "CONFIG_MODULE_DECOMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\n"


@pytest.mark.parametrize(
    "check,config,version,verdict",
    [
        (lzma.CHECK_CRC64, UNPACKS, 34, "incompatible"),
        (lzma.CHECK_SHA256, UNPACKS, 31, "incompatible"),
        (lzma.CHECK_CRC32, UNPACKS, 34, "compatible"),
        (lzma.CHECK_NONE, UNPACKS, 34, "compatible"),
        (lzma.CHECK_CRC64, UNPACKS, 30, "compatible"),  # kmod unpacks it
        (lzma.CHECK_CRC64, UNPACKS, None, "unknown"),
        (lzma.CHECK_CRC64, CONFIG, 34, "compatible"),
        (
            lzma.CHECK_CRC64,
            CONFIG + "CONFIG_MODULE_DECOMPRESS=y\nCONFIG_MODULE_COMPRESS_ZSTD=y\n",
            34,
            "compatible",
        ),
        (lzma.CHECK_CRC64, None, 34, "unknown"),
    ],
)
def test_the_check_of_an_xz_file_where_the_kernel_unpacks_it(check, config, version, verdict, tmp_path):
    families.kernel(tmp_path, config=config)
    (tmp_path / "vendor.ko.xz").write_bytes(lzma.compress(ko(), check=check))
    if version is not None:
        (tmp_path / "usr/bin").mkdir(parents=True)
        (tmp_path / "usr/bin/kmod").write_bytes(b"\0kmod version %d\n+ZSTD\0" % version)
    host = Host(str(tmp_path))
    (found,) = loader.judge(kernels.installed(host)[0], [modules.read(host, "/vendor.ko.xz")], OFFLINE)
    assert found.verdict == verdict
    if verdict != "compatible":
        assert (found.reason.code, found.errno) == (
            "COMP_CHECK",
            "EINVAL" if verdict == "incompatible" else None,
        )
