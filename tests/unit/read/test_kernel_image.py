# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exports of a kernel are read out of any boot image, to the last symbol, and nothing is believed that
does not add up.
"""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.outoftree.kmod.plugins.module_utils import decoders
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernel_image
from tests.forge import images
from tests.forge.compressors import BY_LIBRARY

EVERY_LAYOUT = pytest.mark.parametrize("name", sorted(images.LAYOUTS))
EVERY_COMPRESSION = pytest.mark.parametrize("kind", sorted(BY_LIBRARY))
NEW = images.LAYOUTS["6.1"]


def read(data):
    return kernel_image.exports(kernel_image.unpack(data, "vmlinuz"), "vmlinuz")


def refused(data):
    with pytest.raises(KmodError) as error:
        read(data)
    assert str(error.value).startswith("vmlinuz: ")
    return error.value.code


@EVERY_LAYOUT
def test_elf_image_of_every_generation(name):
    layout = images.LAYOUTS[name]
    exports = images.symbols(layout)
    assert read(images.vmlinux(layout, exports, layout.order)) == exports


def test_elf_image_of_32_bits():
    exports = images.symbols(NEW)
    assert read(images.vmlinux(NEW, exports, bits=32)) == exports


@pytest.mark.parametrize("name", [name for name, layout in images.LAYOUTS.items() if layout.relative])
def test_arm64_image_of_every_generation(name):
    exports = images.symbols(images.LAYOUTS[name])
    assert read(images.arm64(images.LAYOUTS[name], exports)) == exports


@pytest.mark.parametrize("name", [name for name, layout in images.LAYOUTS.items() if layout.order == "<"])
def test_riscv_image_of_every_generation(name):
    exports = images.symbols(images.LAYOUTS[name])
    assert read(images.riscv(images.LAYOUTS[name], exports)) == exports


@pytest.mark.parametrize("name", [name for name, layout in images.LAYOUTS.items() if layout.order == "<"])
def test_loongarch_image_of_every_generation(name):
    exports = images.symbols(images.LAYOUTS[name])
    assert read(images.zboot(BY_LIBRARY["zstd"](images.loongarch(images.LAYOUTS[name], exports)))) == exports


@pytest.mark.parametrize("name", [name for name, layout in images.LAYOUTS.items() if layout.order == ">"])
@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bzip2"])
def test_s390x_image(name, kind):
    exports = images.symbols(images.LAYOUTS[name])
    kernel = images.raw(images.LAYOUTS[name], exports, images.S390_BASE)
    assert read(images.s390(BY_LIBRARY[kind](kernel), len(kernel))) == exports


@EVERY_COMPRESSION
def test_bzimage_of_every_compression(kind):
    exports = images.symbols(NEW)
    assert read(images.bzimage(images.payload(kind, images.vmlinux(NEW, exports)))) == exports


@EVERY_COMPRESSION
def test_zboot_image_of_every_compression(kind):
    exports = images.symbols(NEW)
    assert read(images.zboot(BY_LIBRARY[kind](images.arm64(NEW, exports)))) == exports


@EVERY_COMPRESSION
def test_image_compressed_as_a_whole(kind):
    exports = images.symbols(NEW)
    assert read(BY_LIBRARY[kind](images.arm64(NEW, exports))) == exports


def test_one_name_may_be_the_tail_of_another():
    assert {"kfree", "__kfree"} <= set(read(images.arm64(NEW, images.symbols(NEW))))


@pytest.mark.parametrize("build", [images.vmlinux, images.arm64, images.riscv])
def test_vermagic_is_the_kernels_own(build):
    image = kernel_image.unpack(build(NEW, images.symbols(NEW)), "vmlinuz")
    assert kernel_image.vermagic(image) == "6.1.0-1-test SMP preempt mod_unload modversions "


def test_no_vermagic_without_a_banner():
    assert kernel_image.vermagic(kernel_image.unpack(b"\x7fELF" + bytes(99), "vmlinuz")) is None


def test_what_cannot_be_unpacked_here_is_named(monkeypatch):
    monkeypatch.setattr(decoders, "_library", lambda *names: None)
    assert refused(images.bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(99))) == "COMP_UNSUPPORTED"


def test_s390x_payload_is_found_behind_the_magic_of_what_cannot_be_read(monkeypatch):
    exports = images.symbols(images.LAYOUTS["6.1 s390x"])
    kernel = images.raw(images.LAYOUTS["6.1 s390x"], exports, images.S390_BASE)
    image = images.s390(b"\x28\xb5\x2f\xfd" + BY_LIBRARY["xz"](kernel), len(kernel))
    real = kernel_image.compression.Decoder

    def decoder(kind, what):
        if kind == "zstd":
            raise KmodError(what, "no library", code="COMP_UNSUPPORTED")
        return real(kind, what)

    monkeypatch.setattr(kernel_image.compression, "Decoder", decoder)
    assert read(image) == exports
    assert refused(images.s390(BY_LIBRARY["zstd"](kernel), len(kernel))) == "COMP_UNSUPPORTED"


def test_a_payload_that_unpacks_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr(kernel_image, "LIMIT", 1 << 20)
    assert refused(images.bzimage(images.payload("xz", bytes(2 << 20)))) == "COMP_LIMIT"


@pytest.mark.parametrize(
    "data", [b"", b"MZ", b"text\n" * 999, bytes(1 << 17), b"\x7fELF", b"MZ\0\0zimg", images.bzimage(b"")]
)
def test_what_is_no_kernel_is_refused(data):
    assert refused(data) in ("KERNEL_IMAGE_UNKNOWN", "KERNEL_IMAGE_NO_EXPORTS")


def test_compressed_layers_have_an_end():
    data = images.arm64(NEW, images.symbols(NEW))
    for _unused in range(9):
        data = BY_LIBRARY["gzip"](data)
    assert refused(data) == "KERNEL_IMAGE_UNKNOWN"


@EVERY_COMPRESSION
def test_a_cut_off_image_is_refused(kind):
    image = images.bzimage(images.payload(kind, images.vmlinux(NEW, images.symbols(NEW))))
    for cut in range(0, len(image) - 40, len(image) // 37):
        with contextlib.suppress(KmodError):
            assert read(image[:cut]) == images.symbols(NEW)  # lz4 alone has no end mark


def test_raw_tables_that_do_not_add_up_are_not_believed():
    exports = images.symbols(NEW)
    image = images.arm64(NEW, exports)
    start = image.index(b"module:kvm")
    assert refused(image[:start] + b"\x80" * 20 + image[start + 20 :]) == "KERNEL_IMAGE_NO_EXPORTS"
    assert (
        refused(
            image.replace(b"module_layout\0", b"module_laiout\0")
            .replace(b"kfree\0", b"kfrei\0")
            .replace(b"vfree\0", b"vfrei\0")
        )
        == "KERNEL_IMAGE_NO_EXPORTS"
    )


def test_raw_tables_out_of_order_are_not_believed():
    exports = images.symbols(NEW)
    image = images.arm64(NEW, exports)
    assert refused(image.replace(b"plain_1\0", b"zzzzz_1\0")) == "KERNEL_IMAGE_NO_EXPORTS"


BUILT = [
    images.vmlinux(NEW, images.symbols(NEW)),
    images.arm64(NEW, images.symbols(NEW)),
    images.bzimage(b"\x1f\x8b"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(BUILT),
    st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=8)), max_size=8),
    st.integers(0, 1 << 14),
)
def test_a_damaged_image_gives_an_answer_or_the_one_error(image, damage, cut):
    data = bytearray(image)
    for at, junk in damage:
        at %= len(data)
        data[at : at + len(junk)] = junk
    with contextlib.suppress(KmodError):
        read(bytes(data[: len(data) - cut // 64]))
