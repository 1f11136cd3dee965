# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules that hold on some machines, and notes that never change a verdict."""

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader, policy
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.symbol_rules import for_module
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_image, kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as modules
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE, Runtime
from ansible_collections.outoftree.kmod.plugins.module_utils.read.signature import certificates
from tests.forge import families
from tests.forge.elf import MACHINES, Section, elf
from tests.forge.families import CONFIG
from tests.forge.ko import RELEASE, Export, ko
from tests.forge.signature import OTHER, PKCS7, SIGNED, signed
from tests.forge.symvers import EXPORTS

EL9 = "5.14.0-427.el9.x86_64"
LAYOUT = ("module_layout", 0x11)


def judged(root, *files, release=RELEASE, path="/opt/vendor.ko", **kernel):
    families.kernel(root, release, **kernel)
    offered = [modules.parse(data, path) for data in files]
    return loader.judge(kernels.installed(Host(str(root)))[0], offered, OFFLINE)


def codes(verdict, effect):
    return [finding.code for finding in verdict.findings if finding.effect == effect]


@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_every_machine(machine, tmp_path):
    good, bad = judged(
        tmp_path,
        ko(machine=machine),
        ko("other", needs=(LAYOUT, ("printk", 0x99)), machine=machine),
        machine=machine,
    )
    assert (good.verdict, bad.verdict, bad.errno) == ("compatible", "incompatible", "EINVAL")


def test_byte_order_is_part_of_the_machine(tmp_path):
    (verdict,) = judged(tmp_path, ko(machine="ppc64"), machine="ppc64le")
    assert (verdict.verdict, verdict.errno, codes(verdict, "refuse")) == (
        "incompatible",
        "ENOEXEC",
        ["ELF_MACHINE"],
    )


def test_dots_before_the_names_of_powerpc(tmp_path):
    """arch/powerpc/kernel/module_64.c: dedotify, dedotify_versions"""
    (verdict,) = judged(
        tmp_path, ko(needs=(LAYOUT, (".printk", 0x22)), unlisted=[".TOC."], machine="ppc64"), machine="ppc64"
    )
    assert verdict.verdict == "compatible"


def test_arm64_wants_sections_for_linkage(tmp_path):
    config = CONFIG + "CONFIG_ARM64_MODULE_PLTS=y\n"
    (verdict,) = judged(tmp_path, ko(machine="aarch64", without=[".plt"]), machine="aarch64", config=config)
    assert (verdict.errno, codes(verdict, "refuse")) == ("ENOEXEC", ["ELF_NO_PLT"])


def test_code_that_may_be_written_is_refused_but_for_arm64_trampolines(tmp_path):
    config = CONFIG + "CONFIG_STRICT_MODULE_RWX=y\n"
    good, bad = judged(
        tmp_path,
        ko(machine="aarch64", extra=[Section(".text.ftrace_trampoline", flags=7)]),
        ko("other", machine="aarch64", extra=[Section(".text.hot", flags=7)]),
        machine="aarch64",
        config=config,
    )
    assert (good.verdict, bad.errno, codes(bad, "refuse")) == ("compatible", "ENOEXEC", ["ELF_WX"])


@pytest.mark.parametrize(
    "namespace,name,fits",
    [
        ("module:kvm", "kvm", True),
        ("module:kvm", "kvm_amd", False),
        ("module:kvm*", "kvm_amd", True),
        ("module:vfio,kvm-*", "kvm_amd", True),
        ("module:vfio,kvm", "vfi", False),
        ("module:*", "anything", True),
        ("module:", "anything", False),
    ],
)
def test_namespaces_of_modules(namespace, name, fits):
    assert for_module(namespace, name) == fits


@pytest.mark.parametrize(
    "release,family,has",
    [
        ("5.14.0-427.el9", "rhel", False),
        ("5.14.0-503.11.1.el9_5", "rhel", True),
        ("5.14.0-503", "", False),
        ("6.4.0", "", True),
        ("6.3.9", "", False),
    ],
)
def test_rules_that_were_backported(release, family, has):
    it = policy.Loader(release, policy.version(release), family, {}, kernels.Traits(), {})
    assert it.has("struct module size") == has


@pytest.mark.parametrize(
    "text,errno", [(b"\x013Module hash %*phN is blacklisted\n", "EKEYREJECTED"), (b"another text", None)]
)
def test_digests_that_the_firmware_rejects_count_where_the_kernel_looks(text, errno, tmp_path):
    families.kernel(tmp_path, in_tree={"a/first.ko": SIGNED})
    (tmp_path / "boot" / ("vmlinuz-" + RELEASE)).write_bytes(elf([Section(".rodata", text)]))
    module = modules.parse(SIGNED, "/opt/vendor.ko")
    (verdict,) = loader.judge(
        kernels.installed(Host(str(tmp_path)))[0], [module], Runtime(rejected=frozenset([module.sha256]))
    )
    assert verdict.errno == errno


MACHINE = "CONFIG_INTEGRITY_PLATFORM_KEYRING=y\nCONFIG_INTEGRITY_MACHINE_KEYRING=y\nCONFIG_SECONDARY_TRUSTED_KEYRING=y\n"


@pytest.mark.parametrize(
    "release,config,firmware,mok_trusted,verdict",
    [
        ("6.6.9-arch1-1", MACHINE, True, True, "incompatible"),  # of the firmware: on .platform alone
        ("6.6.9-arch1-1", MACHINE, False, True, "compatible"),  # the owner's: on .machine
        ("6.6.9-arch1-1", MACHINE, False, False, "incompatible"),  # but not where shim does not allow it
        ("6.6.9-arch1-1", MACHINE.replace("MACHINE", "NO"), False, True, "incompatible"),
        ("6.6.9-arch1-1", MACHINE + "CONFIG_INTEGRITY_CA_MACHINE_KEYRING=y\n", False, True, "unknown"),
        ("5.15.9-arch1-1", MACHINE, False, True, "incompatible"),  # before .machine
        ("6.6.9-mine", MACHINE, True, True, "unknown"),  # it may be patched
        ("6.6.9-mine", MACHINE, False, True, "compatible"),
        ("6.1.0-9-amd64", MACHINE, True, False, "compatible"),
        ("6.8.0-31-generic", MACHINE, True, False, "compatible"),
        ("6.11.4-301.fc41.x86_64", MACHINE, True, False, "compatible"),
        ("5.14.0-427.el9.x86_64", MACHINE, True, False, "compatible"),
        ("6.1.0-9-amd64", "", True, False, "incompatible"),  # no .platform at all
        ("3.10.0-1160.el7.x86_64", "", True, False, "compatible"),  # there it was .system_keyring
    ],
)
def test_a_key_of_the_firmware_or_the_owner_where_signatures_are_required(
    release, config, firmware, mok_trusted, verdict, tmp_path
):
    """include/keys/system_keyring.h: .builtin, .secondary with .machine behind it, and .platform, which
    upstream is for kexec images alone.
    """
    old = release.startswith("3.10")
    signer = tuple(certificates(PKCS7.certificate))
    size = {"struct_size": 600} if old else {}
    families.kernel(tmp_path, release, config=CONFIG + config, **size)
    data = ko(release=release, **size)
    module = modules.parse(PKCS7.sign_old(data) if old else signed(data, PKCS7.sign(data)), "/opt/vendor.ko")
    runtime = Runtime(
        sig_enforce=True, enrolled=signer, firmware=signer if firmware else (), mok_trusted=mok_trusted
    )
    (found,) = loader.judge(kernels.installed(Host(str(tmp_path)))[0], [module], runtime)
    assert found.verdict == verdict, found.findings


@pytest.mark.parametrize(
    "release,shim,waits,note",
    [
        ("6.1.0-9-amd64", True, False, "SIG_NOT_ENROLLED"),
        ("6.1.0-9-amd64", True, True, "SIG_ENROLMENT_WAITS"),
        ("6.1.0-9-amd64", False, False, None),  # nothing there that would take it
        ("5.15.9-arch1-1", True, False, None),  # its kernel would not look there
        ("4.18.0-553.el8_10.x86_64", True, False, "SIG_NOT_ENROLLED"),
        ("5.14.0-427.el9.x86_64", True, False, "SIG_NOT_ENROLLED"),
        ("6.11.4-301.fc41.x86_64", True, True, "SIG_ENROLMENT_WAITS"),
        ("6.8.0-31-generic", True, False, "SIG_NOT_ENROLLED"),
        ("6.4.0-150600.23.25-default", True, False, "SIG_NOT_ENROLLED"),
    ],
)
@pytest.mark.parametrize("required", ["sig_enforce", "lockdown", None])
def test_a_key_that_the_owner_can_enrol(release, shim, waits, note, required, tmp_path):
    families.kernel(tmp_path, release, config=CONFIG + MACHINE)
    data = ko(release=release)
    module = modules.parse(signed(data, PKCS7.sign(data)), "/opt/vendor.ko")
    theirs, others = (tuple(certificates(each.certificate)) for each in (PKCS7, OTHER))
    runtime = Runtime(
        sig_enforce=required == "sig_enforce",
        lockdown=required == "lockdown",
        keys=frozenset(["Debian Secure Boot CA: 6ccece7e4c6c0d1f6149f3dd27dfcc5cbb419ea1"]),
        enrolled=others,
        mok=shim,
        enrolling=theirs if waits else (),
    )
    (found,) = loader.judge(kernels.installed(Host(str(tmp_path)))[0], [module], runtime)
    assert found.verdict == ("incompatible" if required else "compatible")
    assert [code for code in codes(found, "note") if code.startswith("SIG_")] == ([note] if note else [])
    said = [finding.message for finding in found.findings if finding.code == "SIG_NOT_ENROLLED"]
    assert all("mokutil --import" in message for message in said)
    told = {"SIG_NOT_ENROLLED": "mokutil --import", "SIG_ENROLMENT_WAITS": "confirm it at the console"}
    assert not (required and note) or told[note] in found.short, "the reason is what people see"
    enrolled = runtime._replace(enrolled=theirs, mok_trusted=True)
    (found,) = loader.judge(kernels.installed(Host(str(tmp_path)))[0], [module], enrolled)
    assert not [code for code in codes(found, "note") if code in told]
    assert found.verdict == "compatible" or "arch" in release  # which looks nowhere that owners reach


def test_what_an_image_says_of_signatures_is_read_once(tmp_path, monkeypatch):
    families.kernel(tmp_path)
    (tmp_path / "var/cache").mkdir(parents=True)
    image = tmp_path / "boot" / ("vmlinuz-" + RELEASE)
    image.write_bytes(
        elf([Section(".rodata", b"\x013Module hash %*phN is blacklisted\n" + PKCS7.certificate)])
    )
    host = Host(str(tmp_path))
    host.keeps_cache = True
    first = kernels.installed(host)[0].trust
    assert ([each.subject for each in first.certificates], first.checks_digests) == (
        ["Vendor signing key"],
        True,
    )
    unpacked = []
    monkeypatch.setattr(kernel_image, "unpack", lambda data, what: unpacked.append(what))
    assert kernels.installed(host)[0].trust == first
    assert not unpacked
    image.write_bytes(image.read_bytes() + b"\0")
    assert kernels.installed(host)[0].trust == kernels.Trust()
    assert unpacked


def test_what_is_not_reached_is_a_note(tmp_path):
    (verdict,) = judged(tmp_path, ko(needs=(("module_layout", 0x12), ("printk", 0x99))))
    assert (verdict.errno, codes(verdict, "refuse")) == ("ENOEXEC", ["MODULE_LAYOUT_CRC"])
    assert [
        (finding.code, finding.symbol)
        for finding in verdict.findings
        if finding.message.endswith("(not reached)")
    ] == [("SYMBOL_CRC", "printk")]
    assert verdict.dmesg == "vendor: disagrees about version of symbol module_layout"


def test_providers_in_any_order(tmp_path):
    user = ko("user", needs=(LAYOUT, ("middle_init", 2)))
    middle = ko("middle", needs=(LAYOUT, ("core_init", 1)), exports=[Export("middle_init", 2)])
    core = ko("core", exports=[Export("core_init", 1)])
    assert [each.verdict for each in judged(tmp_path, user, middle, core)] == ["compatible"] * 3


@pytest.mark.parametrize(
    "release,family,package",
    [
        ("6.1.0-9-amd64", "debian", "install linux-image-6.1.0-9-amd64"),
        ("6.1.0-9-cloud-amd64", "debian", "cloud kernels leave many modules out: install linux-image-amd64"),
        ("6.8.0-31-generic", "debian", "install linux-modules-extra-6.8.0-31-generic"),
        ("5.14.0-427.el9.x86_64", "el9", "kernel-modules-extra-5.14.0-427.el9.x86_64"),
        ("6.4.0-150600.21-default", "sles", "install kernel-default or kernel-default-extra"),
        ("6.6.9-mine", "debian", "install the kernel's package that has videodev.ko"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_module_of_the_kernels_own_that_is_not_installed_is_named_with_its_package(
    listed, release, family, package, tmp_path
):
    """A symvers lists what was built, installed or not."""
    own = (("video_register", 7, False, "", "drivers/media/v4l2-core/videodev"),)
    user = ko(needs=(LAYOUT, ("video_register", 7)), release=release, modinfo={"depends": "videodev"})
    (verdict,) = judged(tmp_path, user, release=release, family=family, exports=EXPORTS[:-1] + own * listed)
    assert (verdict.errno, codes(verdict, "refuse")) == ("ENOENT", ["DEP_MISSING"])
    assert package in verdict.reason.message and "videodev" in verdict.reason.message
    assert ("of this kernel that is not installed" in verdict.reason.message) == listed


def test_modules_that_need_each_other_cannot_be_loaded(tmp_path):
    one = ko("one", needs=(LAYOUT, ("two_init", 2)), exports=[Export("one_init", 1)])
    two = ko("two", needs=(LAYOUT, ("one_init", 1)), exports=[Export("two_init", 2)])
    assert [(each.verdict, each.errno) for each in judged(tmp_path, one, two)] == [
        ("incompatible", "ENOENT")
    ] * 2


@pytest.mark.parametrize(
    "search,preferred",
    [
        ("updates built-in", "updates"),
        ("updates extra built-in weak-updates", "updates or extra"),
        ("extra weak-updates updates built-in", "updates or extra or weak-updates"),
    ],
)
def test_note_of_a_namesake_and_of_what_depmod_prefers(search, preferred, tmp_path):
    (tmp_path / "etc/depmod.d").mkdir(parents=True)
    (tmp_path / "etc/depmod.d/dist.conf").write_text("search %s\n" % search)
    (verdict,) = judged(tmp_path, ko("dummy"))
    note = next(finding for finding in verdict.findings if finding.code == "NAME_IN_TREE")
    assert (verdict.verdict, note.effect) == ("compatible", "note")
    assert note.message.endswith("modprobe prefers one in " + preferred)


def test_note_of_missing_landing_pads_and_type_hashes(tmp_path):
    config = CONFIG + "CONFIG_X86_KERNEL_IBT=y\nCONFIG_CFI_CLANG=y\n"
    without, with_both = judged(
        tmp_path,
        ko(),
        ko("other", extra=[Section(".init.text", b"\xf3\x0f\x1e\xfa", flags=6), Section(".kcfi_traps")]),
        config=config,
    )
    assert (without.verdict, with_both.verdict) == ("compatible", "compatible")
    assert {"WARN_IBT", "WARN_KCFI"} <= set(codes(without, "note"))
    assert not {"WARN_IBT", "WARN_KCFI"} & set(codes(with_both, "note"))


def test_note_of_symbols_outside_of_the_stablelist(tmp_path):
    directory = tmp_path / "lib/modules/kabi-current"
    directory.mkdir(parents=True)
    (directory / "kabi_stablelist_x86_64").write_text("[rhel9_x86_64_stablelist]\n\tprintk\n")
    (verdict,) = judged(
        tmp_path,
        ko(needs=(LAYOUT, ("printk", 0x22), ("kfree", 0x33)), release=EL9),
        release=EL9,
        family="el9",
        exports=EXPORTS,
    )
    note = next(finding for finding in verdict.findings if finding.code == "KABI_UNSTABLE")
    assert (verdict.verdict, note.message) == (
        "compatible",
        "1 of its symbols are outside of the kernel's stablelist (kfree)",
    )


@pytest.mark.parametrize(
    "path,name,noted",
    [
        ("/opt/lime-6.1.0-9-amd64.ko", "lime", "lime_6"),
        ("/opt/megaraid_sas-07.727.03.00.ko.xz", "megaraid_sas", "megaraid_sas_07"),
        ("/opt/vendor.v2.ko", "vendor", None),
        ("/opt/snd-hda.ko.gz", "snd-hda", None),
        ("/opt/.ko", "vendor", ""),
    ],
)
def test_note_of_a_file_under_whose_name_modprobe_does_not_look_for_the_module(path, name, noted, tmp_path):
    (verdict,) = judged(tmp_path, ko(name), path=path)
    assert verdict.verdict == "compatible"
    assert [finding.found for finding in verdict.findings if finding.code == "NAME_OF_FILE"] == [noted] * (
        noted is not None
    )


@pytest.mark.parametrize("name", ["a b", "../x", "a\nb", "a;b", "\x1b[31m", "x" * 60])
def test_names_that_no_build_gives_are_noted_as_the_loader_takes_them(name, tmp_path):
    (verdict,) = judged(tmp_path, ko("x", modinfo={"name": name}))
    assert (verdict.verdict, "MODULE_NAME" in codes(verdict, "note")) == ("compatible", True)
