# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What we sign is taken by a real kernel that trusts the key and insists on signatures, what we do not sign is
refused as the core says; and a key in hardware signs like one in a file.
"""

import errno
import os
import re
import struct
import subprocess
import uuid

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import tools
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import sign
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels, runtime, signature
from tests.kernel import machine, verdicts
from tests.kernel.test_firmware import CODE, PKCS7, booted
from tests.kernel.test_verdicts import releases
from tests.lab import debian

X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")  # EFI_CERT_X509_GUID
DB = "/sys/firmware/efi/efivars/db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
ENFORCED = "module.sig_enforce=1"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    made = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        argv = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=" + name,
        ]
        argv += ["-addext", "extendedKeyUsage=codeSigning", "-keyout", name + ".pem", "-out", name + ".crt"]
        subprocess.run(argv, cwd=str(made), check=True, stderr=subprocess.DEVNULL)
    return {
        name: sign.key(str(made / (name + ".pem")), str(made / (name + ".crt"))) for name in ("ours", "other")
    }


def variable(certificate):
    """What a signature list with one certificate is, as the firmware keeps it."""
    size = 16 + len(certificate)
    return X509.bytes_le + struct.pack("<III", 28 + size, 0, size) + bytes(16) + certificate


def update(value):
    """What efivarfs is given to have that stored in setup mode: attributes, and a signature by nobody."""
    now = struct.pack("<HBBBBBxIhBx", 2026, 1, 1, 0, 0, 0, 0, 0, 0)
    return struct.pack("<I", 0x27) + now + struct.pack("<IHH", 24, 0x200, 0xEF1) + PKCS7.bytes_le + value


@pytest.mark.full
@pytest.mark.usefixtures("machines")
@pytest.mark.skipif(not CODE.exists(), reason="no OVMF firmware on this machine")
@pytest.mark.parametrize("line", ["6.1", "6.12", "7"])
def test_a_kernel_that_trusts_the_key_and_insists_on_signatures(line, keys, tmp_path, monkeypatch):
    kernel = releases(line)[-1]
    modules = {name: machine.read(path) for name, path in machine.modules(kernel).items()}
    plain = machine.neutral(verdicts.cases(kernel)["labalone"])
    hash_name = sign.hash_of(verdicts.core(kernel).config)
    ours = sign.signed("labalone.ko", plain, keys["ours"], hash_name).data
    with monkeypatch.context() as patched:
        patched.setattr(sign, "_maker", lambda: sign._in_python)
        python = sign.signed("labalone.ko", plain, keys["ours"], hash_name).data
    assert python != ours
    offered = {
        "ours": ours,
        "python": python,
        "unsigned": plain,
        "other": sign.signed("labalone.ko", plain, keys["other"], hash_name).data,
        "changed": ours.replace(b"labalone", b"labbloke", 1),
    }
    value = variable(keys["ours"].certificate.whole)
    said = booted(
        kernel,
        tmp_path,
        {"efivarfs.ko": modules["efivarfs"], "db": update(value)},
        [
            "$b insmod /efivarfs.ko",
            "$b mount -t efivarfs efivarfs /sys/firmware/efi/efivars",
            "$b cat /db > %s && echo '= written'" % DB,
        ],
    )
    assert "= written" in said, said[-2000:]
    said = booted(
        kernel,
        tmp_path,
        {name + ".ko": data for name, data in offered.items()},
        [
            'for each in %s; do $b insmod /$each.ko; echo "= $each $?"' % " ".join(offered),
            "$b rmmod labalone 2>/dev/null; done",
            "$b dmesg | $b grep -i 'module'",
            "echo '= keys'",
            "$b cat /proc/keys",
        ],
        append=ENFORCED,
    )
    answers = {
        name: errno.errorcode.get(int(code)) for name, code in re.findall(r"^= (\w+) (\d+)$", said, re.M)
    }
    assert set(answers) == set(offered), said[-3000:]
    facts = facts_of(kernel, tmp_path / "root", said, value, monkeypatch)
    assert facts.sig_enforce and [each.subject for each in facts.enrolled] == ["ours"]
    core = verdicts.core(kernel)
    judged = {name: verdicts.verdict(core, data, runtime=facts) for name, data in offered.items()}
    print("\n%s, %s: %s" % (kernel.release, ENFORCED, answers))
    assert {name: verdict.errno for name, verdict in judged.items()} == answers
    assert {verdict.verdict for verdict in judged.values()} == {"compatible", "incompatible"}
    assert (answers["ours"], answers["python"]) == (None, None)
    assert judged["unsigned"].reason.code == "SIG_REQUIRED" and judged["unsigned"].dmesg in said


def facts_of(kernel, root, said, value, monkeypatch):
    """What the core reads of the booted machine: from files with what it has shown."""
    for path, data in (
        ("proc/keys", said.split("= keys\n")[1].encode()),
        ("proc/cmdline", ENFORCED.encode()),
        ("sys/module/module/parameters/sig_enforce", b"Y\n"),
        (DB[1:], struct.pack("<I", 0x27) + value),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    with monkeypatch.context() as patched:
        patched.setattr(Host, "live", True)
        return runtime.facts(
            kernels.Kernel(Host(str(root)), kernel.release, "/lib/modules/" + kernel.release)
        )


# A key in hardware


@pytest.fixture(scope="module")
def token(tmp_path_factory, keys):
    """(environment, URI, PIN) of a key in SoftHSM, out of Debian's packages: nothing is installed."""
    reason = debian.available()
    if reason:
        pytest.skip(reason)
    suite, made = debian._own_suite(), tmp_path_factory.mktemp("token")
    names = (
        "softhsm2",
        "softhsm2-common",
        "libsofthsm2",
        "libengine-pkcs11-openssl",
        "libbotan-2-19",
        "libp11-3",
    )
    names += ("libbotan-2-19", "libtspi1")
    roots = [
        debian.unpack(debian.package(name, suite))
        for name in names
        if debian.packages(re.escape(name), suite)
    ]
    find = lambda pattern: next((path for root in roots for path in root.rglob(pattern)), None)  # noqa: E731
    library, engine, tool = find("libsofthsm2.so"), find("engines-3/pkcs11.so"), find("usr/bin/softhsm2-util")
    if not (library and engine and tool):
        pytest.skip("%s has no SoftHSM or no engine for it" % suite)
    (made / "tokens").mkdir()
    (made / "conf").write_text("directories.tokendir = %s\n" % (made / "tokens"))
    libraries = sorted({str(path.parent) for root in roots for path in root.rglob("*.so.*")})
    environment = {
        "SOFTHSM2_CONF": str(made / "conf"),
        "PKCS11_MODULE_PATH": str(library),
        "OPENSSL_ENGINES": str(engine.parent),
        "LD_LIBRARY_PATH": ":".join(libraries),
    }

    def util(*argv):
        debian.run([str(tool), "--module", str(library), *argv], env=dict(os.environ, **environment))

    util("--init-token", "--free", "--label", "modules", "--pin", "4711", "--so-pin", "0815")
    util(
        "--import",
        keys["ours"].name,
        "--token",
        "modules",
        "--label",
        "signing",
        "--id",
        "01",
        "--pin",
        "4711",
    )
    return environment, "pkcs11:token=modules;object=signing;type=private", "4711"


def test_a_key_in_hardware_signs_like_one_in_a_file(token, keys, tmp_path, monkeypatch):
    environment, uri, pin = token
    certificate = tmp_path / "certificate"
    certificate.write_bytes(keys["ours"].certificate.whole)
    module = verdicts.cases(releases("6.1")[-1])["labalone"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run, seen = tools.run, []
    monkeypatch.setattr(
        tools, "run", lambda argv, *rest, **options: (seen.append(argv), run(argv, *rest, **options))[1]
    )
    made = sign.signed("labalone.ko", module, sign.key(uri, str(certificate), pin), "sha256").data
    assert made == sign.signed("labalone.ko", module, keys["ours"], "sha256").data  # RSA's are deterministic
    assert signature.split(made)[1].signer == "ours"
    assert [argv for argv in seen if uri in argv] and not [argv for argv in seen if pin in " ".join(argv)]
    for wrong_uri, wrong_pin, code in (
        (uri, "0000", "KEY_LOCKED"),
        (uri, None, "KEY_LOCKED"),
        (uri.replace("signing", "none"), pin, "KEY_UNREADABLE"),
        (uri.replace("modules", "none"), pin, "KEY_UNREADABLE"),
    ):
        by = sign.key(wrong_uri, str(certificate), wrong_pin)
        with pytest.raises(sign.KmodError) as caught:
            sign.signed("labalone.ko", module, by, "sha256")
        assert caught.value.code == code, (wrong_uri, wrong_pin, caught.value)
