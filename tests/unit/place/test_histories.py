# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What holds after any history of deployments, removals, and kernels that come and go, checked on random
ones.
"""

import os
import random
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands.link import judge
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import depmod, store
from ansible_collections.outoftree.kmod.plugins.module_utils.place.driver import deployed, serving
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read.depmod import by_name, config, listed
from tests.forge.fake_tree import FOUR, ONE, RELEASES, THREE, TWO, FakeTree

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
DRIVERS = {"vendor": ("vendor", "helper"), "rival": ("rival",)}


class History:
    def __init__(self, directory, seed):
        self.random = random.Random(seed)
        family = self.random.choice(["el8", "tumbleweed", "debian", "ubuntu"])
        self.tree = FakeTree(directory, family, releases=(ONE, TWO, THREE), in_tree=("vendor", "rival"))
        self.told = []

    def step(self):
        self.random.choice(
            [
                self.deploy,
                self.deploy,
                self.deploy,
                self.relink,
                self.remove,
                self.remove_part,
                self.kernel_comes,
                self.kernel_goes,
                self.kernel_changes,
                self.build_is_lost,
            ]
        )()

    def some(self, items, least=0):
        return sorted(self.random.sample(list(items), self.random.randint(least, len(items))))

    def deploy(self):
        driver = self.random.choice(sorted(DRIVERS))
        top = self.tree.path("/src")
        shutil.rmtree(top, ignore_errors=True)
        version = self.random.choice(["1.0", "1.1", "2.0"])
        for number, release in enumerate(self.some(RELEASES + ("5.14.0-9",), 1)):
            self.tree.vendor(
                release,
                self.some(RELEASES),
                DRIVERS[driver],
                version,
                "src/%d" % number,
                note=str(self.random.randint(0, 2)),
            )
        chosen = ["all"] if self.random.random() < 0.7 else self.some(self.releases(), 1)
        self.told.append(("deploy", driver, version, chosen))
        self.apply(driver, chosen, "/src")

    def relink(self):
        for driver in self.stored():
            self.told.append(("relink", driver))
            self.apply(driver, ["all"])

    def apply(self, driver, chosen, *paths):
        rows = self.tree.plan(*paths, driver=driver, kernels=chosen)[1]["kernels"]
        assert self.tree.deploy(*paths, driver=driver, kernels=chosen) == {
            row["kernel"]: row["build"] for row in rows
        }
        assert self.tree.plan(*paths, driver=driver, kernels=chosen)[0].paths() == []
        for row in rows:
            for path in row["files"]:
                assert listed(self.host, "/lib/modules/" + row["kernel"])[os.path.basename(path)[:-3]] == path

    def remove(self):
        driver = self.random.choice(sorted(DRIVERS))
        self.told.append(("remove", driver))
        self.tree.remove(driver=driver)
        assert not self.tree.plan_removal(driver=driver)[0]
        assert driver not in self.stored()

    def remove_part(self):
        for driver in self.stored()[:1]:
            what = self.random.choice(
                [{"version": "1.0"}, {"version": "2.0"}, {"build": self.random.choice(RELEASES)}]
            )
            self.told.append(("remove", driver, what))
            self.tree.remove(driver=driver, **what)
            assert not self.tree.plan_removal(driver=driver, **what)[0]

    def kernel_comes(self):
        self.told.append(("kernel comes",))
        self.tree.kernel(FOUR)

    def kernel_goes(self):
        """As a package manager removes it: what it does not own stays."""
        release = self.random.choice(self.releases())
        if len(self.releases()) > 1:
            self.told.append(("kernel goes", release))
            top = self.tree.path("/lib/modules/" + release)
            for name in os.listdir(top):
                path = os.path.join(top, name)
                if name == "kernel":
                    shutil.rmtree(path)
                elif name.startswith("modules."):
                    os.unlink(path)
            os.unlink(self.tree.path("/boot/vmlinuz-" + release))

    def kernel_changes(self):
        release = self.random.choice(self.releases())
        self.told.append(("kernel changes", release))
        self.tree.kernel(release, takes=self.random.random() < 0.5)

    def build_is_lost(self):
        for build in store.builds(self.host)[:1]:
            if self.random.random() < 0.3:
                self.told.append(("lost", build.directory))
                shutil.rmtree(self.tree.path(build.directory))

    @property
    def host(self):
        return Host(self.tree.root)

    def releases(self):
        return [kernel.release for kernel in kernels.installed(self.host)]

    def stored(self):
        return sorted({build.driver for build in store.builds(self.host)})

    def check(self):
        """After a run over all kernels and drivers: every kernel uses a build that it takes, the best, and
        depmod lists it.
        """
        self.relink()
        installed = kernels.installed(self.host)
        for driver in self.stored():
            there = deployed(self.host, driver)
            using = serving(self.host, there)
            assert not there.broken
            for kernel in installed:
                build = using[kernel.release]
                takes = [
                    each
                    for each in there.builds
                    if all(verdict.compatible for verdict in judge(kernel, each.modules))
                ]
                assert (build in takes) if takes else not there.links[kernel.release]
                rules = config(self.host, kernel.release)
                for name, paths in by_name(self.host, kernel.modules_dir, rules).items():
                    if name in DRIVERS[driver] and (takes or any("/kernel/" in path for path in paths)):
                        assert (
                            depmod.winner(rules, kernel.modules_dir, paths)
                            == listed(self.host, kernel.modules_dir)[name]
                        )


@pytest.mark.parametrize(
    "seed", range(*[int(word) for word in os.environ.get("KMOD_HISTORIES", "0 5").split()])
)
def test_any_history(tmp_path, seed):
    history = History(tmp_path / "root", seed)
    try:
        for _number in range(12):
            history.step()
        history.check()
        for driver in DRIVERS:
            history.tree.remove(driver=driver)
        left = [
            path
            for path, node in history.tree.snapshot().items()
            if not path.startswith("src")
            and ("outoftree.kmod" in path or "weak-updates/" in path or "extra/" in path)
        ]
        assert left == []
    except BaseException:
        print(history.told)
        raise
