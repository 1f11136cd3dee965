# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is promised of the command kmodctl."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli
from tests.forge import families
from tests.forge.ko import Export, ko
from tests.forge.package import deb
from tests.forge.symvers import EXPORTS, symvers

NEWER = [("module_layout", 0x11, False, "", "vmlinux"), ("printk", 0x23, False, "", "vmlinux")]


@pytest.fixture(name="root")
def two_kernels(tmp_path: Path) -> Path:
    families.kernel(tmp_path / "root", "6.1.0-9-amd64")
    families.kernel(tmp_path / "root", "6.1.0-10-amd64", exports=NEWER)
    return tmp_path / "root"


def module(tmp_path: Path, name: str = "vendor", **arguments: Any) -> str:
    path = tmp_path / (name + ".ko")
    path.write_bytes(ko(name, **arguments))
    return str(path)


def checks(capsys: Any, *argv: str) -> List[Dict[str, Any]]:
    cli.main(["check", "--json"] + list(argv))
    return json.loads(capsys.readouterr().out)["checks"]


def test_exit_status_and_table(root: Path, tmp_path: Path, capsys: Any) -> None:
    path = module(tmp_path)
    assert cli.main(["check", "--root", str(root), path]) == 1
    assert capsys.readouterr().out == (
        "vendor  6.1.0-9-amd64   compatible\n"
        "vendor  6.1.0-10-amd64  incompatible  EINVAL  1 symbol differs (printk)\n"
    )
    assert cli.main(["check", "--root", str(root), "--kernel", "6.1.0-9-amd64", path]) == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["status"], "There is no driver in the store.\n"),
        (["variant"], "There is no initramfs variant of a driver.\n"),
        (["variant", "--driver", "vendor", "--absent"], "nothing to do\n"),
    ],
)
def test_a_host_without_anything_is_told_in_a_line(
    root: Path, capsys: Any, argv: List[str], said: str
) -> None:
    assert cli.main([*argv, "--root", str(root)]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    "argv,word",
    [
        (["/no/such.ko"], "does not exist"),
        (["/dev/null"], "not a regular file"),
        (["--kernel", "5.5.5"], "6.1.0-9-amd64, 6.1.0-10-amd64"),
        (["--symvers", "/etc/hostname"], "Say of which"),
        (["--root", "/etc/hostname"], "not a directory"),
    ],
)
def test_an_error_says_what_and_what_next(
    argv: List[str], word: str, root: Path, tmp_path: Path, capsys: Any
) -> None:
    files = [] if argv[0].startswith("/") else [module(tmp_path)]
    (tmp_path / "symvers").write_bytes(symvers(EXPORTS))
    argv = [
        str(tmp_path / "symvers") if each == "/etc/hostname" and "--symvers" in argv else each
        for each in argv
    ]
    assert cli.main(["check", "--root", str(root)] + argv + files) == 2
    assert word in capsys.readouterr().err


def test_json_is_as_documented(root: Path, tmp_path: Path, capsys: Any) -> None:
    found = checks(capsys, "--root", str(root), "--kernel", "6.1.0-10-amd64", module(tmp_path))
    assert [sorted(each) for each in found] == [["errno", "findings", "kernel", "module", "name", "verdict"]]
    assert {key: found[0][key] for key in ("module", "name", "kernel", "verdict", "errno")} == {
        "module": str(tmp_path / "vendor.ko"),
        "name": "vendor",
        "kernel": "6.1.0-10-amd64",
        "verdict": "incompatible",
        "errno": "EINVAL",
    }
    assert [each for each in found[0]["findings"] if each["effect"] == "refuse"] == [
        {
            "code": "SYMBOL_CRC",
            "effect": "refuse",
            "symbol": "printk",
            "wanted": "0x00000022",
            "found": "0x00000023",
            "message": "the version of printk differs",
        }
    ]


def test_kernels_are_named_by_release_pattern_or_newest(root: Path, tmp_path: Path, capsys: Any) -> None:
    path = module(tmp_path)
    for named, found in (("6.1.0-9-amd64", ["9"]), ("6.1.0-*", ["9", "10"]), ("newest", ["10"])):
        assert [
            each["kernel"].split("-")[1]
            for each in checks(capsys, "--root", str(root), "--kernel", named, path)
        ] == found


def test_what_is_no_module_has_a_verdict_beside_the_others(root: Path, tmp_path: Path, capsys: Any) -> None:
    """And files for several releases are judged as they are given: kmodctl check does not choose among
    builds.
    """
    (tmp_path / "torn.ko").write_bytes(ko("torn")[:300])
    argv = [
        "--root",
        str(root),
        "--kernel",
        "6.1.0-9-amd64",
        module(tmp_path, "one"),
        module(tmp_path, "two", release="5.5.5-5-amd64"),
    ]
    assert [each["verdict"] for each in checks(capsys, *argv)] == ["compatible", "compatible"]
    assert [each["verdict"] for each in checks(capsys, *argv, str(tmp_path / "torn.ko"))] == [
        "compatible",
        "incompatible",
        "compatible",
    ]


def test_sorted_by_module_then_kernel(root: Path, tmp_path: Path, capsys: Any) -> None:
    found = checks(capsys, "--root", str(root), module(tmp_path, "zeta"), module(tmp_path, "alpha"))
    assert [(each["name"], each["kernel"]) for each in found] == [
        ("alpha", "6.1.0-9-amd64"),
        ("alpha", "6.1.0-10-amd64"),
        ("zeta", "6.1.0-9-amd64"),
        ("zeta", "6.1.0-10-amd64"),
    ]


def test_files_provide_for_each_other_unless_each(root: Path, tmp_path: Path, capsys: Any) -> None:
    core = module(tmp_path, "core", exports=[Export("core_init", 5)])
    user = module(tmp_path, "user", needs=(("module_layout", 0x11), ("core_init", 5)))
    argv = ["--root", str(root), "--kernel", "6.1.0-9-amd64", user, core]
    assert [each["verdict"] for each in checks(capsys, *argv)] == ["compatible", "compatible"]
    assert [each["verdict"] for each in checks(capsys, "--each", *argv)] == ["compatible", "incompatible"]


def test_symvers_of_a_kernel_that_is_not_there(root: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "symvers").write_bytes(symvers(NEWER))
    found = checks(
        capsys,
        "--root",
        str(root),
        "--kernel",
        "6.1.0-99-amd64",
        "--symvers",
        str(tmp_path / "symvers"),
        module(tmp_path),
    )
    assert [(each["kernel"], each["verdict"]) for each in found] == [("6.1.0-99-amd64", "incompatible")]


def test_packages_of_a_kernel_that_is_not_installed(root: Path, tmp_path: Path, capsys: Any) -> None:
    release = "6.1.0-99-amd64"
    files = {
        "usr/src/linux-headers-%s/%s" % (release, name): data
        for name, data in (
            ("Module.symvers", symvers(NEWER)),
            (".config", b"CONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_MODVERSIONS=y\n"),
            ("include/generated/utsrelease.h", b'#define UTS_RELEASE "%s"\n' % release.encode()),
        )
    }
    (tmp_path / "offer").mkdir()
    (tmp_path / "offer" / "headers.deb").write_bytes(deb(files=files))
    found = checks(capsys, "--root", str(root), "--package", str(tmp_path / "offer"), module(tmp_path))
    assert [(each["kernel"], each["verdict"], each["exact"], each["origin"]) for each in found] == [
        (release, "incompatible", True, [str(tmp_path / "offer" / "headers.deb")])
    ]
    fits = module(
        tmp_path, needs=(("module_layout", 0x11), ("kfree", 0x33)), weak=("kfree",), flags=" SMP modversions "
    )
    for given in (
        ["--package", str(tmp_path / "offer" / "headers.deb")],
        ["--package", unpacked(tmp_path / "tree", files)],
    ):
        assert cli.main(["check", *given, fits]) == 0
        assert capsys.readouterr().out == "vendor  6.1.0-99-amd64  compatible (not exact)\n"


def unpacked(directory: Path, files: Dict[str, bytes]) -> str:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return str(directory)


def test_one_file_that_runs_alone(root: Path, tmp_path: Path) -> None:
    tool = Path(__file__).resolve().parents[2] / "tools" / "build_kmodctl.py"
    target = tmp_path / "bin" / "kmodctl"
    subprocess.run([sys.executable, str(tool), str(target)], check=True)
    first = target.read_bytes()
    subprocess.run([sys.executable, str(tool), str(target)], check=True)
    assert target.read_bytes() == first
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            str(target),
            "check",
            "--root",
            str(root),
            "--kernel",
            "6.1.0-9-amd64",
            module(tmp_path),
        ],
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
        check=True,
    )
    assert done.stdout == b"vendor  6.1.0-9-amd64  compatible\n"


@pytest.mark.skipif(not shutil.which("depmod"), reason="no depmod on this machine")
def test_variants_are_made_shown_and_removed(root: Path, tmp_path: Path, capsys: Any) -> None:
    image = root / "boot" / "initramfs-6.1.0-9-amd64.img"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(
        b"070701" + b"0" * 30 + b"00000002" + b"0" * 50 + b"0000000B" + b"00000000" + b"TRAILER!!!" + bytes(4)
    )
    extra = root / "lib/modules/6.1.0-9-amd64/extra/vendor"
    extra.mkdir(parents=True)
    (extra / "vendor.ko").write_bytes(ko("vendor"))
    (root / "lib/modules/6.1.0-9-amd64/modules.dep").write_text("extra/vendor/vendor.ko:\n")
    (root / "boot/vmlinuz-6.1.0-9-amd64").write_bytes(b"")
    command = ["variant", "--root", str(root)]
    assert cli.main(command + ["--driver", "vendor", "--check"]) == 0
    assert "created" in capsys.readouterr().out and not image.with_name(image.name + ".1").exists()
    assert cli.main(command + ["--driver", "vendor"]) == 0
    assert image.with_name(image.name + ".1").exists()
    capsys.readouterr()
    assert cli.main(command) == 0
    assert capsys.readouterr().out.split() == [
        "6.1.0-9-amd64",
        "current",
        "vendor",
        "overlay",
        "/boot/%s.1" % image.name,
    ]
    assert cli.main(["variant", "--list", str(image) + ".1"]) == 0
    assert "updates/vendor.ko" in capsys.readouterr().out
    image.write_bytes(image.read_bytes() + bytes(8))
    assert cli.main(command + ["--json"]) == 1
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["stale"]
    assert cli.main(command + ["--driver", "vendor", "--absent"]) == 0
    assert not image.with_name(image.name + ".1").exists()


BLS = """title Vendor Linux (%s)
version %s
linux /boot/vmlinuz-%s
initrd /boot/initramfs-%s.img
options root=/dev/vda1 ro
"""


@pytest.mark.skipif(not shutil.which("depmod"), reason="no depmod on this machine")
def test_the_whole_way_and_back(root: Path, tmp_path: Path, capsys: Any) -> None:
    """As the modules of the collection go it: linked, shown, in a variant, in the boot menu, and removed to
    the byte.
    """
    release = "6.1.0-9-amd64"
    image = root / "boot" / ("initramfs-%s.img" % release)
    image.write_bytes(
        b"070701" + b"0" * 30 + b"00000002" + b"0" * 50 + b"0000000B" + b"00000000" + b"TRAILER!!!" + bytes(4)
    )
    (root / "boot/loader/entries").mkdir(parents=True)
    (root / "boot/loader/entries" / ("0123-%s.conf" % release)).write_text(BLS % ((release,) * 4))
    (root / "boot/grub2").mkdir()
    (root / "boot/grub2/grub.cfg").write_text("insmod blscfg\nblscfg\n")
    before = files(root)
    vendor = ["--root", str(root), "--driver", "vendor"]

    assert cli.main(["link", "--check", module(tmp_path)] + vendor) == 1, (
        "one of the kernels does not take it"
    )
    assert files(root) == before
    capsys.readouterr()
    assert cli.main(["link", module(tmp_path)] + vendor) == 1
    assert capsys.readouterr().out.splitlines()[1].split() == [release, "compatible", release]
    assert cli.main(["link", "--kernel", release] + vendor) == 0
    assert cli.main(["variant"] + vendor) == cli.main(["entry"] + vendor) == 0
    capsys.readouterr()
    assert cli.main(["status", "--root", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "used by " + release in shown and "/boot/%s.1: vendor" % image.name in shown
    assert cli.main(["entry", "--json", "--check"] + vendor) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["changed"], [row["initrd"] for row in answer["kernels"]]) == (
        False,
        [["/boot/%s.1" % image.name]],
    )

    for command in ("entry", "variant", "link"):
        assert cli.main([command, "--absent"] + vendor) == 0
    assert {path: data for path, data in files(root).items() if "/modules." not in path} == {
        path: data for path, data in before.items() if "/modules." not in path
    }, "all but what depmod writes"


@pytest.mark.parametrize("args", ["--", "-- x", "a -- b", "$x", "\xe9", "a\nb", "'", "outoftree.kmod=other"])
def test_odd_arguments_for_the_kernel_are_one_clear_line(
    root: Path, capsys: pytest.CaptureFixture[str], args: str
) -> None:
    assert cli.main(["entry", "--root", str(root), "--driver", "vendor", "--args=" + args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("kmodctl: ") and err.count("\n") == 1 and "Leave" in err


def test_a_driver_that_has_no_entries_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["entry", "--absent", "--root", str(root), "--driver", "vender"]) == 0
    assert "There is no boot entry of vender" in capsys.readouterr().out


def files(root: Path) -> Dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(root: Path, closed: str, tmp_path: Path) -> None:
    program = "import sys; from ansible_collections.outoftree.kmod.plugins.module_utils import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        program,
        "link",
        "--root",
        str(root),
        "--driver",
        "vendor",
        module(tmp_path),
    ]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" ' + closed, "sh"] + command,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode in (0, 1) and b"bug" not in done.stderr
    assert list(root.rglob("extra/vendor/vendor.ko"))


def test_an_answer_that_cannot_be_written_is_said_to_be_lost(root: Path) -> None:
    program = "import sys; from ansible_collections.outoftree.kmod.plugins.module_utils import cli; sys.exit(cli.main(sys.argv[1:]))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "status", "--root", str(root)],
            stdout=full,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
            check=False,
        )
    assert (
        done.returncode == 2 and b"the answer alone is lost" in done.stderr and done.stderr.count(b"\n") == 1
    )
