# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels that are not installed, out of made-up packages. Real ones are in tests/kernel/test_packages.py."""

import gzip
import io
import os
import struct
import tarfile

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.exactness import exact
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.loader import judge
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_package, package
from ansible_collections.outoftree.kmod.plugins.module_utils.read import ko as reader
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_package import KernelSource
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import Runtime
from tests.forge import families
from tests.forge.families import CONFIG
from tests.forge.ko import RELEASE, Export, ko
from tests.forge.package import deb, rpm
from tests.forge.signature import OTHER, SIGNED, signed
from tests.forge.symvers import EXPORTS, symvers

X86 = CONFIG + "CONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\n"
NEWER = RELEASE.replace("-9-", "-10-")


def headers_of(release=RELEASE, exports=EXPORTS, config=X86, at="usr/src/linux-headers-%s"):
    return {
        at % release + "/" + name: data
        for name, data in (
            ("Module.symvers", symvers(exports)),
            (".config", config.encode()),
            ("include/generated/utsrelease.h", b'#define UTS_RELEASE "%s"\n' % release.encode()),
            ("Makefile", b"all:\n"),
        )
    }


def image_of(tmp_path, release=RELEASE, **options):
    """The files of a kernel, as its package would have them."""
    root = tmp_path / ("tree-" + release)
    families.kernel(root, release, config=X86, **options)
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def el_core(tmp_path):
    """The files of kernel-core and kernel-modules-core: all below /lib/modules."""
    files = image_of(tmp_path, family="el9")
    top = "lib/modules/%s/" % RELEASE
    files.update(
        {top + "vmlinuz": files["boot/vmlinuz-" + RELEASE], top + "config": files["boot/config-" + RELEASE]}
    )
    return without(files, "boot/")


def without(files, *beginnings):
    return {name: data for name, data in files.items() if not name.startswith(beginnings)}


def saved(tmp_path, **packages):
    for name, data in packages.items():
        (tmp_path / name.replace("__", ".")).write_bytes(data)
    return tuple("/" + name.replace("__", ".") for name in packages)


def sources(tmp_path, **packages):
    return [KernelSource(packages=saved(tmp_path, **packages))]


def opened(tmp_path, *given):
    return kernel_package.opened(Host(str(tmp_path)), given)


def verdict(kernel, data):
    module = reader.parse(data, "/vendor.ko")
    (found,) = judge(kernel, [module])
    return (
        found.verdict,
        [finding.code for finding in found.findings if finding.effect in ("refuse", "unknown")],
        exact(kernel, module, found),
    )


CASES = {  # a module, and what is said of it by the headers alone and by the whole kernel
    "fits": (ko(), ("compatible", [], False), ("compatible", [], True)),
    "other release": (ko(release="6.1.0-1-amd64"), ("compatible", [], False), ("compatible", [], True)),
    "other CRC": (
        ko(needs=[("module_layout", 0x11), ("printk", 0x23)]),
        ("incompatible", ["SYMBOL_CRC"], True),
        ("incompatible", ["SYMBOL_CRC"], True),
    ),
    "other layout": (
        ko(needs=[("module_layout", 0x12)]),
        ("incompatible", ["MODULE_LAYOUT_CRC"], True),
        ("incompatible", ["MODULE_LAYOUT_CRC"], True),
    ),
    "other flags": (
        ko(flags=" SMP mod_unload modversions "),
        ("incompatible", ["VERMAGIC_FLAGS"], True),
        ("incompatible", ["VERMAGIC_FLAGS"], True),
    ),
    "missing symbol": (
        ko(needs=[("module_layout", 0x11), ("gone", 1)]),
        ("incompatible", ["SYMBOL_MISSING"], True),
        ("incompatible", ["SYMBOL_MISSING"], True),
    ),
    "other machine": (
        ko(machine="aarch64"),
        ("incompatible", ["ELF_MACHINE"], True),
        ("incompatible", ["ELF_MACHINE"], True),
    ),
    "named as what is built in": (ko("ext4"), ("compatible", [], False), ("unknown", ["NAME_BUILTIN"], True)),
    "of a module": (
        ko(needs=[("module_layout", 0x11), ("scsi_add_host", 0x66)]),
        ("compatible", [], False),
        ("compatible", [], True),
    ),
}


@pytest.mark.parametrize("make", [deb, rpm])
@pytest.mark.parametrize("name", CASES)
def test_the_same_is_said_as_of_an_installed_one_or_it_says_that_it_may_not_be(tmp_path, name, make):
    module, by_headers, by_all = CASES[name]
    files = image_of(
        tmp_path, builtin=["ext4"], in_tree={"scsi_mod.ko": ko("scsi_mod", modinfo={"intree": "Y"})}
    )
    (tmp_path / "installed").mkdir()
    with opened(
        tmp_path, *sources(tmp_path, a=make(files=without(files, "usr/src")), b=make(files=headers_of()))
    ) as kernels:
        assert [(kernel.release, kernel.origin, kernel.lacks) for kernel in kernels] == [
            (RELEASE, ("/a", "/b"), ())
        ]
        assert verdict(kernels[0], module) == by_all
    with opened(tmp_path, KernelSource(root="/tree-" + RELEASE)) as kernels:
        assert verdict(kernels[0], module) == by_all
    with opened(tmp_path, KernelSource(packages=("/b",))) as kernels:
        assert [(kernel.release, kernel.origin, kernel.lacks) for kernel in kernels] == [
            (RELEASE, ("/b",), ("modules", "built-in", "certificates"))
        ]
        assert verdict(kernels[0], module) == by_headers


def test_nothing_is_left_when_it_is_done(tmp_path):
    with opened(tmp_path, *sources(tmp_path, a=deb(files=headers_of()))) as kernels:
        root = kernels[0].host.root
        assert os.path.isdir(root)
    assert not os.path.exists(root)


def test_where_a_symvers_is_all_there_is_only_its_crcs_are_known(tmp_path):
    (tmp_path / ("symvers-%s.gz" % RELEASE)).write_bytes(gzip.compress(symvers(EXPORTS)))
    with opened(tmp_path, KernelSource(symvers="/symvers-%s.gz" % RELEASE)) as kernels:
        assert (kernels[0].release, kernels[0].lacks) == (
            RELEASE,
            ("modules", "built-in", "config", "vermagic", "certificates"),
        )
        assert verdict(kernels[0], CASES["fits"][0]) == ("unknown", ["VERMAGIC_UNKNOWN"], False)
        assert verdict(kernels[0], CASES["other CRC"][0]) == (
            "incompatible",
            ["VERMAGIC_UNKNOWN", "SYMBOL_CRC"],
            True,
        )


@pytest.mark.parametrize("release,code", [("", "SYMVERS_OF_WHICH"), ("../x", "RELEASE_NAME")])
def test_a_symvers_of_no_kernel(tmp_path, release, code):
    (tmp_path / "Module.symvers").write_bytes(symvers(EXPORTS))
    with pytest.raises(KmodError) as caught, opened(
        tmp_path, KernelSource(symvers="/Module.symvers", release=release)
    ):
        pass
    assert caught.value.code == code


@pytest.mark.parametrize(
    "at",
    [
        "usr/src/linux-headers-%s",
        "usr/src/kernels/%s",
        "lib/modules/%s/build",
        "usr/src/linux-%s-obj/x86_64/default",
    ],
)
def test_headers_of_every_family(tmp_path, at):
    with opened(tmp_path, *sources(tmp_path, a=rpm(files=headers_of(at=at)))) as kernels:
        assert verdict(kernels[0], CASES["fits"][0])[0] == "compatible"


def test_what_is_listed_and_not_there_is_taken_from_where_it_is(tmp_path):
    """kernel-core lists /boot/symvers-R.gz, which its scripts make (%ghost)."""
    with opened(tmp_path, *sources(tmp_path, a=rpm(files=el_core(tmp_path)))) as kernels:
        assert kernels[0].lacks == ()
        assert kernels[0].sourced.origin == "/lib/modules/%s/symvers.xz" % RELEASE


def test_several_kernels_are_told_apart(tmp_path):
    different = [(symbol, crc + 1, *rest) for symbol, crc, *rest in EXPORTS]
    packages = sources(tmp_path, a=deb(files=headers_of(NEWER, different)), b=deb(files=headers_of()))
    with opened(tmp_path, *packages) as kernels:
        assert [
            (kernel.release, kernel.origin, verdict(kernel, CASES["fits"][0])[0]) for kernel in kernels
        ] == [(RELEASE, ("/b",), "compatible"), (NEWER, ("/a",), "incompatible")]


def test_two_builds_of_one_kernel_are_refused(tmp_path):
    different = [(symbol, crc + 1, *rest) for symbol, crc, *rest in EXPORTS]
    packages = sources(tmp_path, a=deb(files=headers_of(exports=different)), b=deb(files=headers_of()))
    for given in packages, [KernelSource(packages=(path,)) for path in packages[0].packages]:
        with pytest.raises(KmodError) as caught, opened(tmp_path, *given):
            pass
        assert caught.value.code == "KERNEL_TWO_BUILDS"
        assert "/a" in str(caught.value)
        assert "/b" in str(caught.value)


def test_headers_of_another_architecture_are_refused(tmp_path):
    files = without(image_of(tmp_path), "usr/src", "boot")
    arm = headers_of(config=X86.replace("X86_64", "ARM64"))
    with pytest.raises(KmodError) as caught, opened(
        tmp_path, *sources(tmp_path, a=deb(files=files), b=deb(files=arm))
    ):
        pass
    assert caught.value.code == "KERNEL_TWO_BUILDS"


def test_headers_of_another_build_are_not_believed(tmp_path):
    """Without their CRCs, and without an image that can be read, nothing is known."""
    different = [(symbol, crc + 1, *rest) for symbol, crc, *rest in EXPORTS]
    files = without(image_of(tmp_path), "usr/src")
    with opened(
        tmp_path, *sources(tmp_path, a=deb(files=files), b=deb(files=headers_of(exports=different)))
    ) as kernels:
        assert verdict(kernels[0], CASES["fits"][0])[:2] == ("unknown", ["KERNEL_NO_CRC_SOURCE"])


@pytest.mark.parametrize(
    "files",
    [
        {"usr/bin/tool": b"x"},
        {"lib/modules/%s/extra/vendor.ko" % RELEASE: ko()},
        {"lib/modules/../x/kernel/a.ko": ko()},
        {},
        {"usr/share/doc/linux-image/copyright": b"x"},
        {"usr/src/linux-headers-x/Makefile": b""},
        {"boot/grub/grub.cfg": b""},
        {"lib/modules/not a release/kernel/a.ko": ko()},
    ],
)
def test_a_package_of_no_kernel_is_refused_by_name(tmp_path, files):
    with pytest.raises(KmodError) as caught, opened(
        tmp_path, *sources(tmp_path, other__deb=deb(files=files))
    ):
        pass
    assert (caught.value.code, caught.value.what) == ("PACKAGE_NO_KERNEL", "/other.deb")


def test_a_package_of_something_else_is_refused_beside_a_kernel_and_an_empty_one_passed_over(tmp_path):
    kernel, meta, common = (
        deb(files=headers_of()),
        deb(files={"usr/share/doc/linux-image-amd64/copyright": b"x"}),
        deb(files={"usr/src/linux-common/Kbuild": b""}),
    )
    with opened(tmp_path, *sources(tmp_path, a=kernel, b=meta, c=common)) as kernels:
        assert [each.origin for each in kernels] == [("/a",)]
    with pytest.raises(KmodError) as caught, opened(
        tmp_path, *sources(tmp_path, a=kernel, b=deb(files={"usr/bin/vi": b"x"}))
    ):
        pass
    assert (caught.value.code, caught.value.what) == ("PACKAGE_NO_KERNEL", "/b")


def test_a_directory_of_packages(tmp_path):
    (tmp_path / "offer").mkdir()
    saved(
        tmp_path / "offer",
        a__deb=deb(files=headers_of()),
        b__deb=deb(files=headers_of(NEWER)),
        notes=b"no package",
    )
    with opened(tmp_path, KernelSource(packages=("/offer",))) as kernels:
        assert [each.release for each in kernels] == [RELEASE, NEWER]


@pytest.mark.parametrize(
    "given,code",
    [
        (KernelSource(packages=("/missing.deb",)), "PATH_MISSING"),
        (KernelSource(packages=("/empty",)), "PACKAGE_NO_KERNEL"),
        (KernelSource(root="/empty"), "NO_KERNELS"),
        (KernelSource(root="/missing"), "PATH_MISSING"),
        (KernelSource(symvers="/missing", release="6.1"), "PATH_MISSING"),
    ],
)
def test_nothing_there(tmp_path, given, code):
    (tmp_path / "empty").mkdir()
    with pytest.raises(KmodError) as caught, opened(tmp_path, given):
        pass
    assert caught.value.code == code


@pytest.mark.parametrize("make", [deb, rpm])
def test_truncated_anywhere_is_an_error_that_names_it(tmp_path, make):
    whole = make(files=headers_of())
    for size in range(0, len(whole) - 1, 37):
        with pytest.raises(KmodError) as caught, opened(tmp_path, *sources(tmp_path, cut__deb=whole[:size])):
            pass
        assert caught.value.code in ("PACKAGE_DAMAGED", "COMP_CORRUPT"), size
        assert caught.value.what == "/cut.deb"


@pytest.mark.parametrize("make", [deb, rpm])
def test_damage_behind_the_last_file_that_is_needed_is_an_error(tmp_path, make):
    """The checksum of the compressed data is behind the archive's end."""
    whole = bytearray(make(files=headers_of()))
    whole[-7 if whole[-1:] != b"\n" else -8] ^= 1
    with pytest.raises(KmodError) as caught, opened(tmp_path, *sources(tmp_path, a=bytes(whole))):
        pass
    assert caught.value.code == "COMP_CORRUPT"


def test_links_of_a_package_lead_nowhere(tmp_path):
    """Neither a symlink that a later file would go through, nor one that stands for a file that is needed."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, target in (
            ("lib/modules/%s" % RELEASE, str(tmp_path)),
            ("boot/config-" + RELEASE, "/etc/passwd"),
            ("usr/src", "/etc"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        for name, data in headers_of().items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = deb(lambda _tar: tar.getvalue(), "data.tar")
    with opened(tmp_path, *sources(tmp_path, a=data)) as kernels:
        assert kernels[0].config["CONFIG_X86_64"] == "y"
        assert not [
            path
            for path, names, _files in os.walk(kernels[0].host.root)
            for name in names
            if os.path.islink(os.path.join(path, name))
        ]


def test_another_name_of_a_file_is_that_file(tmp_path):
    """Hard links: of tar by the first name, in cpio the last one has the content."""
    files = headers_of()
    name = "usr/src/linux-headers-%s/.config" % RELEASE
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for each, data in [("usr/share/same", files[name])] + [
            (each, data) for each, data in files.items() if each != name
        ]:
            member = tarfile.TarInfo(each)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.LNKTYPE, "usr/share/same"
        archive.addfile(member)
    linked = rpm(
        bytes,
        {
            name: b"",
            "usr/share/same": files[name],
            **{each: data for each, data in files.items() if each != name},
        },
    )
    for each in (name, "usr/share/same"):  # number of links, and one inode for both
        at = linked.index(b"./" + each.encode()) - 110
        linked = linked[: at + 6] + b"%08X" % 77 + linked[at + 14 : at + 38] + b"%08X" % 2 + linked[at + 46 :]
    for data in deb(lambda _tar: tar.getvalue(), "data.tar"), linked:
        with opened(tmp_path, *sources(tmp_path, a=data)) as kernels:
            assert kernels[0].config["CONFIG_X86_64"] == "y"


def test_a_bomb_is_an_error_before_it_fills_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "PAYLOAD", 1 << 20)
    for make in deb, rpm:
        with pytest.raises(KmodError) as caught, opened(
            tmp_path, *sources(tmp_path, a=make(files={"x": bytes(4 << 20)}))
        ):
            pass
        assert caught.value.code == "COMP_LIMIT"
    monkeypatch.setattr(package, "PAYLOAD", 1 << 30)
    monkeypatch.setattr(package, "FILE", 1 << 20)
    monkeypatch.setattr(kernel_package, "FILES", 3)
    for files in (
        {"boot/vmlinuz-" + RELEASE: bytes(2 << 20)},
        {"lib/modules/%s/kernel/%d.ko" % (RELEASE, number): b"" for number in range(9)},
    ):
        for make in deb, rpm:
            with pytest.raises(KmodError) as caught, opened(
                tmp_path, *sources(tmp_path, a=make(files=files))
            ):
                pass
            assert caught.value.code == "PACKAGE_DAMAGED"


def test_an_archive_that_says_more_than_it_has(tmp_path):
    member = tarfile.TarInfo("boot/vmlinuz-" + RELEASE)
    member.size = 1 << 50
    with pytest.raises(KmodError) as caught, opened(
        tmp_path, *sources(tmp_path, a=deb(lambda _tar: member.tobuf(), "data.tar"))
    ):
        pass
    assert caught.value.code == "PACKAGE_DAMAGED"


def test_a_name_that_is_a_directory_elsewhere(tmp_path):
    files = {"lib/modules/%s/kernel/a.ko" % RELEASE: ko(), "lib/modules/%s/kernel/a.ko/b.ko" % RELEASE: ko()}
    with pytest.raises(KmodError), opened(tmp_path, *sources(tmp_path, a=rpm(files=files))):
        pass


def test_symbols_of_modules_that_other_packages_have_are_not_refused(tmp_path):
    """kernel-core has the symvers of all modules, kernel-modules-core most modules, and the rest are in
    packages that a host may have or not.
    """
    files = el_core(tmp_path)
    files["lib/modules/%s/modules.order" % RELEASE] = (
        b"kernel/drivers/net/dummy.ko\nkernel/drivers/scsi/scsi_mod.ko\n"
    )
    with opened(tmp_path, *sources(tmp_path, a=rpm(files=files))) as kernels:
        assert kernels[0].elsewhere == {"scsi_add_host": "scsi_mod"}
        assert verdict(kernels[0], CASES["of a module"][0]) == ("compatible", [], False)
        assert verdict(kernels[0], CASES["fits"][0]) == ("compatible", [], True)
        assert verdict(kernels[0], CASES["missing symbol"][0]) == ("incompatible", ["SYMBOL_MISSING"], False)


def test_what_the_host_tells_modprobe_holds_for_a_kernel_to_come(tmp_path):
    (tmp_path / "etc/modprobe.d").mkdir(parents=True)
    (tmp_path / "etc/modprobe.d/local.conf").write_text("blacklist vendor\n")
    with opened(tmp_path, *sources(tmp_path, a=deb(files=headers_of()))) as kernels:
        (found,) = judge(kernels[0], [reader.parse(ko(), "/vendor.ko")])
    assert "MODPROBE_BLACKLIST" in [finding.code for finding in found.findings]


@pytest.mark.parametrize("item", [{}, {"release": "6.1"}, {"package": ["a"], "root": "/b"}, {"package": []}])
def test_an_item_without_one_source(item):
    with pytest.raises(KmodError) as caught:
        KernelSource.from_params(item)
    assert caught.value.code == "BAD_OPTION"


def test_an_item():
    assert KernelSource.from_params({"package": ["/a", "/b"]}) == KernelSource(packages=("/a", "/b"))
    assert KernelSource.from_params(
        {"symvers": "/a", "release": "6.1", "package": None, "root": None}
    ) == KernelSource(symvers="/a", release="6.1")


def test_a_package_that_says_too_much(tmp_path):
    """A name of more than any path's length, and an rpm's header that ends outside of it."""
    whole = rpm(bytes, {"boot/config-" + RELEASE: bytes(1 << 16)})
    at = whole.index(b"070701")
    named = whole[: at + 94] + b"%08X" % (1 << 15) + whole[at + 102 :]
    cut = whole[:104] + struct.pack(">II", 1 << 31, 1 << 31) + whole[112:]
    for damaged, words in (named, "a name of 32768 bytes"), (cut, "ends too early"):
        with pytest.raises(KmodError, match=words) as caught, opened(tmp_path, *sources(tmp_path, a=damaged)):
            pass
        assert caught.value.code == "PACKAGE_DAMAGED"


def test_a_refusal_by_what_only_its_modules_tell_for_certain_is_not(tmp_path):
    """Whether a kernel of 7.x wants flags of exports is seen in what its modules export; whether it has a
    key, by who signed them.
    """
    release = "7.0.1-amd64"
    giver = ko("vendor", release=release, exports=[Export("given", 1)])
    with opened(tmp_path, *sources(tmp_path, a=deb(files=headers_of(release)))) as kernels:
        assert verdict(kernels[0], giver) == ("incompatible", ["EXPORT_NO_FLAGS"], False)
    own = {
        "a/first.ko": ko(
            "first", release=release, modinfo={"intree": "Y"}, exports=[Export("own", 1)], export_form="flags"
        )
    }
    exports = (*EXPORTS, ("own", 1, False, "", "a/first"))
    files = image_of(tmp_path, release, in_tree=own, exports=exports)
    with opened(tmp_path, *sources(tmp_path, b=deb(files=files))) as kernels:
        assert verdict(kernels[0], giver) == ("incompatible", ["EXPORT_NO_FLAGS"], True)


def test_a_key_is_only_unknown_where_the_kernels_own_signer_is_seen(tmp_path):
    strict = Runtime(sig_enforce=True, keys=frozenset({"Somebody else: 11"}))
    module = reader.parse(signed(ko(), OTHER.sign(ko())), "/vendor.ko")
    own = {"a/first.ko": SIGNED}
    whole = deb(files=dict(image_of(tmp_path, in_tree=own), **headers_of()))
    for data, expected in (deb(files=headers_of()), False), (whole, True):
        with opened(tmp_path, *sources(tmp_path, a=data)) as kernels:
            (found,) = judge(kernels[0], [module], strict)
            assert [each.code for each in found.findings if each.effect == "refuse"] == ["SIG_UNKNOWN_KEY"]
            assert exact(kernels[0], module, found) is expected
