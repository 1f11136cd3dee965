# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What boots start once a kernel has arrived by itself: the table of docs/follow.md, on every loader."""

import os
import types

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import bulletin, followed, settings
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import (
    grub_cfg,
    grubenv,
    loaders,
    storage,
    systemd_boot,
    trials,
)
from tests.unit.commands.follower import NEW, OLD, OTHER_ABI, Follower, machines

FAMILIES = sorted(machines.FAMILIES)
TRIERS = ["debian", "el7", "el9", "systemd-boot"]  # what can start an entry only once


class Machine(Follower):
    """One that runs: it can be started again, and shows with what it was."""

    def __init__(self, root, family, monkeypatch, refuses=False):
        super().__init__(root, family, refuses)
        self.release, self.cmdline, self.states = OLD, "quiet", {}
        self.once = root / systemd_boot.ONCE.path.lstrip("/")
        self.once.parent.mkdir(parents=True)
        if family == "systemd-boot":
            (root / systemd_boot.INFO.path.lstrip("/")).write_bytes(
                b"\x07\0\0\0" + "systemd-boot 252\0".encode("utf-16-le")
            )
        run = Host.run
        monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(release=self.release))
        monkeypatch.setattr(trials, "_cmdline", lambda host: self.cmdline)
        monkeypatch.setattr(trials, "_loaded", lambda host, release, driver: self.states)
        monkeypatch.setattr(trials, "_small", lambda host, path: self.mark if path == trials.MARK else "")
        monkeypatch.setattr(trials, "_asking", lambda host, release, driver: "a device")
        monkeypatch.setattr(Host, "live", property(lambda host: True))
        monkeypatch.setattr(
            Host,
            "run",
            lambda host, argv, *more, **options: (
                self.bootctl(argv[2]) if argv[0] == "bootctl" else run(host, [*argv], *more, **options)
            ),
        )
        monkeypatch.setattr(storage, "unwritable", lambda host, path, entry: None)
        self.mark = ""

    def bootctl(self, name):
        if name:
            self.once.write_bytes(b"\x07\0\0\0" + (name + "\0").encode("utf-16-le"))
        elif self.once.exists():
            self.once.unlink()

    def boot(self, works=True):
        """Start it: what is started, and with the driver or, where an entry of ours does not work, by the
        default after that.
        """
        menu = self.menu()
        started = next((each for each in menu.entries if each.id == menu.once), None) or menu.default
        self.bootctl("")
        for path in self.root.glob("boot/*/grubenv"):
            path.write_text(grubenv.set_(path.read_text(), "next_entry", None, path="grubenv"))
        if started.driver and not works:
            started = self.menu().default
            works = True
        self.release = next(release for release in (OLD, NEW) if release in started.linux)
        self.cmdline, self.states = started.args, {"vendor": "this" if started.driver and works else "no"}
        self.mark = self._mark_of(started)
        return self.release, started.driver

    def _mark_of(self, started):
        from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing, manifest

        found = (
            [each for each in existing.found(self.host) if each.wants.kernel == self.release]
            if started.driver
            else []
        )
        return manifest.find(self.host, found[0].path).added.mark if found else ""

    def tried(self):
        """(kernel, driver) of what the next boot alone starts."""
        menu = self.menu()
        entry = next((each for each in menu.entries if each.id == menu.once), None)
        return entry and (entry.kernel, entry.driver)

    def proved(self, **followed):
        """Deployed on OLD, tried and promoted, before NEW is the default; then NEW arrives and is what the
        distribution has boots start.
        """
        self.only(OLD)
        self.deploy()
        self.follow(vendor=dict(boot="default", **followed))
        self.run("refresh", OLD)
        assert self.tried() == (OLD, "vendor")
        assert self.boot() == (OLD, "vendor")
        self.run("refresh", OLD)
        assert self.started() == (OLD, "vendor")
        self.arrive()

    def only(self, release):
        """Have the distribution start this kernel, as if it were the newest."""
        self.set_default(release)

    def arrive(self):
        """NEW becomes the default, as the distribution does that: where it is saved by writing it, else there
        is nothing to do.
        """
        self.set_default(NEW)

    def set_default(self, release):
        loader = loaders.detect(self.host)
        if self.family == "systemd-boot":
            path = self.root / loader.config.lstrip("/")
            kept = [line for line in path.read_text().splitlines(True) if not line.startswith("default")]
            path.write_text("".join(kept))
            # the newest comes first: what is not there yet has the oldest version
            for each in self.root.glob("boot/efi/loader/entries/*.conf"):
                if "~" not in each.name:
                    version = ("1." if NEW in each.name and release == OLD else "") + (
                        NEW if NEW in each.name else OLD
                    )
                    each.write_text(
                        "".join(
                            "version    %s\n" % version if line.startswith("version") else line
                            for line in each.read_text().splitlines(True)
                        )
                    )
            return
        entry = next(
            each
            for each in self.menu().entries
            if each.driver is None
            and release in each.linux
            and "advanced" in each.id
            or each.driver is None
            and each.path.endswith(".conf")
            and release in each.linux
        )
        if self.family == "debian":
            path = self.root / loader.config.lstrip("/")
            text = path.read_text()
            top = "gnulinux-simple-"
            start = text.index("menuentry 'Debian GNU/Linux' ")
            end = text.index("submenu ")
            other = NEW if release == OLD else OLD
            assert top in text
            path.write_text(text[:start] + text[start:end].replace(other, release) + text[end:])
            return
        path = self.root / grub_cfg.environment(loader)[1:]
        # EL 7's grubby gives all entries one id, and saves the title
        name = entry.title if self.family == "el7" else entry.id
        path.write_text(grubenv.set_(path.read_text(), "saved_entry", name, path="grubenv"))


@pytest.fixture(params=TRIERS)
def machine(request, tmp_path, monkeypatch):
    return Machine(tmp_path, request.param, monkeypatch)


@pytest.fixture(params=TRIERS)
def refusing(request, tmp_path, monkeypatch):
    return Machine(tmp_path, request.param, monkeypatch, refuses=True)


# A kernel that takes the driver


def test_none_leaves_all_to_the_distribution(machine):
    machine.deploy()
    machine.follow(vendor={})
    before = machine.menu().default
    machine.run()
    assert machine.menu().default == before and machine.tried() is None


def test_once_has_the_next_boot_try_it_and_the_one_after_is_as_before(machine):
    machine.deploy()
    machine.follow(vendor={"boot": "once"})
    before = machine.started()
    machine.run()
    assert machine.tried() == (NEW, "vendor") and machine.started() == before
    assert machine.boot() == (NEW, "vendor")
    machine.run("refresh", None)
    assert machine.started() == before and machine.tried() is None


@pytest.mark.parametrize("boot", ["once", "default"])
def test_where_grub_has_nothing_to_remember_it_in_that_is_told_and_the_rest_is_done(
    tmp_path, monkeypatch, boot
):
    """No hook could do more later."""
    host = Machine(tmp_path, "debian", monkeypatch)
    (tmp_path / "boot/grub/grubenv").unlink()
    host.deploy()
    host.follow(vendor={"boot": boot})
    answer = host.run()
    assert not answer.failed and any("grub-editenv" in note for note in answer.notes)
    assert ("vendor", NEW) in host.ours()


def test_default_tries_it_while_what_was_proved_stays_the_default(machine):
    machine.proved()
    answer = machine.run()
    assert not answer.failed
    assert machine.tried() == (NEW, "vendor") and machine.started() == (OLD, "vendor")
    assert not machine.run("refresh", None).changed
    assert machine.boot() == (NEW, "vendor")
    assert not machine.run("refresh", None).failed
    assert machine.started() == (NEW, "vendor") and machine.tried() is None
    assert not machine.run("refresh", None).changed


def test_default_after_a_trial_that_failed_is_what_was_proved_and_it_is_not_tried_again(machine):
    machine.proved()
    machine.run()
    assert machine.boot(works=False) == (OLD, "vendor")
    answer = machine.run("refresh", None)
    assert machine.started() == (OLD, "vendor") and machine.tried() is None and not answer.failed
    assert any(NEW in note for note in answer.notes) and any(
        NEW in line for line in bulletin.read(machine.host).lines
    )
    assert machine.boot() == (OLD, "vendor")
    assert not machine.run("add-kernel").changed and machine.tried() is None


def test_default_with_nothing_proved_leaves_the_distributions_default_until_the_trial_has_passed(machine):
    machine.deploy()
    machine.follow(vendor={"boot": "default"})
    before = machine.started()
    machine.run()
    assert machine.tried() == (NEW, "vendor") and machine.started() == before
    machine.boot()
    machine.run("refresh", None)
    assert machine.started() == (NEW, "vendor")


def test_default_with_nothing_proved_after_a_trial_that_failed_is_the_distributions(machine):
    machine.deploy()
    machine.follow(vendor={"boot": "default"})
    before = machine.started()
    machine.run()
    assert machine.boot(works=False) == before
    answer = machine.run("refresh", None)
    assert machine.started() == before and machine.tried() is None and answer.notes and not answer.failed
    assert machine.run("add-kernel").notes == answer.notes and machine.tried() is None


def test_once_tries_it_whatever_has_proved_itself_before(machine):
    machine.proved()
    machine.follow(vendor={"boot": "once"})
    machine.run()
    assert machine.tried() == (NEW, "vendor") and machine.started() == (NEW, None)
    assert machine.boot() == (NEW, "vendor")
    machine.run("refresh", None)
    assert machine.started() == (NEW, None) and machine.tried() is None


def test_none_leaves_alone_what_somebody_has_made_the_default(machine):
    machine.proved()
    machine.follow(vendor={"boot": "none"})
    before = machine.started()
    machine.run()
    assert machine.started() == before and machine.tried() is None


@pytest.mark.parametrize("family", ["el6", "extlinux"])
@pytest.mark.parametrize("boot", ["once", "default"])
def test_a_loader_that_tries_nothing_is_told_of_and_starts_what_it_did(tmp_path, monkeypatch, family, boot):
    machine = Machine(tmp_path, family, monkeypatch)
    machine.deploy()
    machine.follow(vendor={"boot": boot})
    before = machine.started()
    answer = machine.run("refresh", None)
    assert answer.notes and not answer.failed
    assert machine.started() == before and ("vendor", NEW) in machine.ours()


def test_where_the_distribution_keeps_to_the_old_kernel_the_new_one_gets_its_entry_and_is_not_tried(
    tmp_path, monkeypatch
):
    """UPDATEDEFAULT=no, and a saved default."""
    machine = Machine(tmp_path, "el9", monkeypatch)
    machine.only(OLD)
    machine.deploy()
    machine.follow(vendor={"boot": "default"})
    machine.run("refresh", OLD)
    machine.boot()
    machine.run("refresh", OLD)
    assert not machine.run().failed
    assert machine.tried() is None and machine.started() == (OLD, "vendor")
    assert ("vendor", NEW) in machine.ours()


def test_a_new_image_below_the_default_means_a_new_trial(machine):
    machine.proved()
    machine.run()
    machine.boot()
    machine.run("refresh", None)
    machine.image(NEW, b"made again")
    machine.run("refresh", NEW)
    assert machine.tried() == (NEW, "vendor") and machine.started() == (OLD, "vendor")


# A kernel that takes none of its builds


@pytest.mark.parametrize("family", FAMILIES)
def test_without_keep_default_the_distribution_decides(tmp_path, family):
    host = Follower(tmp_path, family, refuses=True)
    host.deploy()
    host.follow(vendor={})
    before = host.menu().default
    answer = host.run()
    assert answer.refused and not answer.failed and host.menu().default == before
    assert [(each.kernel, each.driver) for each in answer.bulletin.lacking] == [(NEW, "vendor")]


@pytest.mark.parametrize("family", FAMILIES)
def test_keep_default_keeps_boots_on_the_newest_kernel_that_takes_it_until_a_build_arrives(tmp_path, family):
    host = Follower(tmp_path, family, refuses=True)
    host.deploy()
    host.follow(vendor={"keep_default": True})
    if family == "el6":
        path = tmp_path / "boot/grub/grub.conf"
        path.write_text(path.read_text().replace("default=1", "default=0"))  # the first one is NEW's
    before = host.started()
    answer = host.run()
    assert answer.refused and not answer.failed and answer.bulletin.kept == OLD
    assert host.started() == (OLD, None)
    host.run("refresh", None)
    assert host.started() == (OLD, None) and not host.run("refresh", None).changed
    host.deploy(kernels=(OLD, NEW), exports=True)
    host.run("refresh", None)
    assert host.started() == before and bulletin.read(host.host) == bulletin.Bulletin()
    assert not (tmp_path / "var/lib/outoftree-kmod/default").exists()


def test_keep_default_stays_with_the_entry_that_was_proved(refusing):
    refusing.proved(keep_default=True)
    answer = refusing.run()
    assert answer.bulletin.kept == OLD and refusing.started() == (OLD, "vendor") and refusing.tried() is None
    assert not refusing.run("refresh", None).changed


def test_without_it_boots_go_on_to_the_new_kernel_whatever_has_proved_itself(refusing):
    """A host that is to get every update would stay on an old kernel for ever."""
    refusing.proved()
    answer = refusing.run()
    assert answer.bulletin.kept is None and not answer.failed
    assert refusing.started() == (NEW, None) and refusing.tried() is None
    assert not refusing.run("refresh", None).failed and refusing.started() == (NEW, None)
    refusing.deploy(exports=OTHER_ABI, kernels=("all",))
    refusing.run("refresh", None)
    assert refusing.tried() == (NEW, "vendor")


def test_keep_default_is_right_again_after_the_distribution_has_moved_it(refusing):
    refusing.deploy()
    refusing.follow(vendor={"keep_default": True})
    refusing.run()
    assert refusing.started() == (OLD, None)
    refusing.arrive()
    refusing.run("refresh", None)
    assert refusing.started() == (OLD, None)


def test_a_default_that_nothing_can_be_kept_on_is_told(refusing):
    refusing.only(OLD)
    refusing.deploy()
    refusing.follow(vendor={"keep_default": True}, other={"keep_default": True})
    refusing.arrive()
    answer = refusing.run()
    assert answer.failed and any("no other kernel" in each for each in answer.errors)


def test_where_a_driver_does_not_fit_an_admin_finds_it(refusing):
    refusing.deploy()
    refusing.follow(vendor={"keep_default": True})
    answer = refusing.run()
    assert (
        answer.lacking
        and "disagrees" in answer.lacking[0].reason
        or "module_layout" in answer.lacking[0].reason
    )
    fact = bulletin.read(refusing.host)
    assert fact.lacking[0].kernel == NEW and "newest" in fact.lacking[0].boots and fact.kept == OLD
    motd = (refusing.root / bulletin.MOTD[1:]).read_text()
    assert NEW in motd and "vendor" in motd and "kept on kernel " + OLD in motd


@pytest.mark.parametrize(
    "looks, told", [(b"/etc/motd.d:/run/motd.d", True), (b"/etc/motd", False), (b"", False)]
)
def test_logins_tell_it_where_pam_looks_for_such_files_and_nobody_has_made_the_directory(
    refusing, looks, told
):
    (refusing.root / "run/motd.d").rmdir()
    module = refusing.root / "usr/lib/x86_64-linux-gnu/security/pam_motd.so"
    if looks:
        module.parent.mkdir(parents=True)
        module.write_bytes(b"\x7fELF\0%s\0" % looks)
    refusing.deploy()
    path = refusing.root / settings.PATH[1:]
    refusing.follow(vendor={})
    path.write_text(path.read_text().replace('"made": []', '"made": ["/run/motd.d"]'))
    refusing.run()
    assert (refusing.root / bulletin.MOTD[1:]).exists() == told
    refusing.follow(vendor={"kernels": (OLD,)})
    path.write_text(path.read_text().replace('"made": []', '"made": ["/run/motd.d"]'))
    refusing.run("refresh", None)
    assert not (refusing.root / "run/motd.d").exists(), "it goes with what it came with"


def test_kmodctl_says_it_where_a_person_installs_the_kernel(tmp_path, capfdbinary):
    from ansible_collections.outoftree.kmod.plugins.module_utils import cli

    host = Follower(tmp_path, "debian", refuses=True)
    host.deploy()
    host.follow(vendor={"keep_default": True})
    assert cli.main(["add-kernel", "--root", str(tmp_path), NEW]) == 1
    said = capfdbinary.readouterr().out.decode()
    assert (
        "Kernel %s (newest) takes no build of the driver vendor: " % NEW in said
        and "Boots are kept on kernel %s" % OLD in said
    )


# What others do to our entries


def test_options_that_others_rewrote_are_ours_again(tmp_path):
    host = Follower(tmp_path, "el9")
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    before = host.snapshot()
    for path in (tmp_path / "boot/loader/entries").glob("*.conf"):  # grub2-mkconfig of EL 9
        path.write_text(
            "".join(
                "options root=UUID=1 ro\n" if line.startswith("options") else line
                for line in path.read_text().splitlines(True)
            )
        )
    shipped = {
        path.name: path.read_text()
        for path in (tmp_path / "boot/loader/entries").glob("*.conf")
        if "~" not in path.name
    }
    host.run("refresh", None)
    assert host.snapshot().keys() == before.keys()
    assert {
        path.name: path.read_text()
        for path in (tmp_path / "boot/loader/entries").glob("*.conf")
        if "~" not in path.name
    } == shipped
    assert all(
        "root=UUID=1 ro outoftree.kmod=vendor" in entry.args for entry in host.menu().entries if entry.driver
    )


def test_arguments_of_ours_that_leaked_are_taken_out_again_and_others_stay(tmp_path):
    host = Follower(tmp_path, "el9")
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    ours = next(entry for entry in host.menu().entries if entry.driver and entry.kernel == OLD)
    (tmp_path / "etc/kernel").mkdir()
    (tmp_path / "etc/kernel/cmdline").write_text(ours.args + " quiet\n")  # grubby --update-kernel=ALL
    path = next((tmp_path / "boot/loader/entries").glob("*-%s.conf" % NEW))
    before = path.read_text()
    path.write_text(
        before.replace(
            "\noptions ", "\noptions outoftree.kmod=vendor outoftree.kmod.id=123456789abc panic=10 "
        )
    )
    assert not host.run("refresh", None).failed
    assert path.read_text() == before
    cmdline = (tmp_path / "etc/kernel/cmdline").read_text()
    assert (
        "outoftree" not in cmdline
        and "panic" not in cmdline
        and cmdline.endswith(" quiet\n")
        and cmdline.startswith("root=")
    )
    assert len(host.ours()) == 2 and not host.run("refresh", None).changed


def test_what_was_asked_for_besides_leaks_and_is_taken_out_too(tmp_path):
    """At once: the entry for the new kernel is a copy of the shipped one without it."""
    host = Follower(tmp_path, "el9")
    host.deploy()
    host.follow(vendor={"args": "vendor.debug=1 quiet", "fallback_args": "panic=7", "kernels": (OLD,)})
    host.run("refresh", None)
    running = next(entry for entry in host.menu().entries if entry.driver).args
    assert "vendor.debug=1 quiet panic=7" in running
    path = next((tmp_path / "boot/loader/entries").glob("*-%s.conf" % NEW))
    before = path.read_text()
    shipped = next(line for line in before.splitlines() if line.startswith("options "))
    leaked = "options quiet %s acme.mine=1" % running.replace("$tuned_params", "").strip()
    path.write_text(before.replace(shipped, leaked))
    host.follow(vendor={"args": "vendor.debug=1 quiet", "fallback_args": "panic=7"})
    assert not host.run("add-kernel", NEW).failed
    options = next(line for line in path.read_text().splitlines() if line.startswith("options "))
    assert options.split()[1] == "quiet" and options.endswith(" acme.mine=1")
    assert not any(word in options for word in ("outoftree", "vendor.debug", "panic"))
    ours = next(entry for entry in host.menu().entries if entry.driver and entry.kernel == NEW).args
    assert [ours.split().count(word) for word in ("vendor.debug=1", "panic=7", "acme.mine=1")] == [1, 1, 1]
    assert not host.run("refresh", None).changed


def test_a_variant_that_others_deleted_is_made_again(tmp_path):
    """kernel-install remove in its bls layout wipes the kernel's directory, ours in it, and leaves our entry."""
    host = Follower(tmp_path, "systemd-boot")
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    before = host.snapshot()
    host.image_path(NEW, ".1").unlink()
    host.run("refresh", None)
    assert host.snapshot() == before


# What status says


def test_status_says_what_is_amiss_and_nothing_once_it_is_mended(tmp_path):
    host = Follower(tmp_path, "el9")
    assert followed.state(host.host) is None
    host.deploy()
    host.follow(vendor={})
    host.run("refresh", None)
    assert followed.state(host.host).lines == ["new kernels get: vendor"]
    (tmp_path / bulletin.PENDING[1:]).write_text("add-kernel 9: no Python\n")
    (tmp_path / "etc/kernel").mkdir()
    (tmp_path / "etc/kernel/cmdline").write_text("root=UUID=1 outoftree.kmod=vendor panic=10\n")
    for path in (tmp_path / "boot/loader/entries").glob("*~vendor.conf"):
        path.write_text(
            "".join(
                "options root=UUID=1 ro\n" if line.startswith("options") else line
                for line in path.read_text().splitlines(True)
            )
        )
    said = followed.state(host.host).lines
    assert (
        len(said) == 5
        and "add-kernel 9: no Python" in said[1]
        and "/etc/kernel/cmdline" in said[2]
        and "~vendor.conf" in said[3]
    )
    host.run("refresh", None)
    assert followed.state(host.host).lines == ["new kernels get: vendor"]


def test_status_says_that_the_settings_are_damaged(tmp_path):
    host = Follower(tmp_path, "el9")
    host.follow(vendor={})
    (tmp_path / settings.PATH[1:]).write_text("{")
    assert settings.PATH in followed.state(host.host).lines[0]
