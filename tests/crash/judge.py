# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What must hold of a machine at any moment, whatever has happened to the run that was changing it."""

import os
import re
import subprocess
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import TEMPORARY, Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import loaders, shipped
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.view import View
from tests.crash import indexes, scenes
from tests.crash.shim import Ended
from tests.crash.tree import LOCK, Node, Tree, differences
from tests.forge.machines import NEW, OLD

INDEX = re.compile(r"(usr/)?lib/modules/[^/]+/modules\.[^/]+$")
CONFIGURED = "etc/modprobe.d/outoftree.kmod-%s.conf" % scenes.DRIVER
IMAGE = re.compile(r"(initrd|initramfs)[^/]*\.[0-9]+$")


class Boots(NamedTuple):
    """What the boot loader's files say."""

    foreign: List[Tuple[str, ...]]
    # id: the images that it loads, inside the root; of one that is not there the loader's own word
    ours: Dict[str, Tuple[str, ...]]
    default: Optional[str]
    once: Optional[str]


class Scene(NamedTuple):
    """The trees that a state is held against."""

    operation: scenes.Operation
    shipped: Tree
    before: Tree
    after: Tree  # of an undisturbed run
    removed: Tree  # after all is taken back again: the shipped tree, but for what was healed
    status: int  # of the undisturbed run
    menus: Dict[str, Boots]  # shipped, before, after, and of further states that may be
    further: Tuple[Tree, ...] = ()  # trees whose files are whole, too

    @property
    def known(self) -> Tuple[Tree, ...]:
        return (self.shipped, self.before, self.after) + self.further


def boots(root: str) -> Boots:
    """Error: KmodError where the files cannot be read."""
    host = Host(root)
    loader = loaders.detect(host)
    menu = loader.menu(View(host))
    ours = {
        each.id: tuple(
            shipped.locate(host, word) or word for word in (each.linux,) + each.initrd if "$" not in word
        )
        for each in menu.entries
        if each.driver
    }
    foreign = [
        (each.id, each.title, each.linux, " ".join(each.initrd), each.args, each.text)
        for each in menu.entries
        if not each.driver
    ]
    return Boots(foreign, ours, menu.default and menu.default.id, menu.once)


def judge(scene: Scene, state: Tree, root: str) -> List[str]:
    """What is wrong with a machine in this state, which is what lies at ``root``."""
    return _shipped(scene, state) + _modules(scene, state, root) + _menu(scene, state, root)


def _shipped(scene: Scene, state: Tree) -> List[str]:
    """Nothing shipped is touched but what an undisturbed run changes; what is ours is whole."""
    wrong = []
    for path, node in scene.shipped.nodes.items():
        if INDEX.match(path):
            continue
        if any(each.nodes.get(path) != node for each in scene.known):  # a boot loader's file: see _menu
            continue
        if state.nodes.get(path) != node:
            wrong.append("shipped %s %s" % (path, "is changed" if path in state.nodes else "is gone"))
    for path, node in state.nodes.items():
        known = [each.nodes[path].content for each in scene.known if path in each.nodes]
        if (
            path not in scene.shipped.nodes
            and known
            and path.endswith((".ko", ".img", ".1", ".2"))
            and node.content not in known
        ):
            wrong.append("%s is not whole" % path)
    return wrong


def needed(scene: Scene, release: str) -> Set[str]:
    """The modules that modprobe has to find at any time."""
    key = (scene.operation.name, release)
    if key not in _needed:
        found = [
            set(indexes.modules(each.nodes, release)[0])
            for each in (scene.shipped, scene.before, scene.after)
        ]
        _needed[key] = found[0] | (found[1] & found[2])
    return _needed[key]


_needed: Dict[Tuple[str, str], Set[str]] = {}
_asked: Dict[Tuple[Any, ...], List[str]] = {}


def _modules(scene: Scene, state: Tree, root: str) -> List[str]:
    wrong = []
    for release in (OLD,) if scene.operation.leaves else (OLD, NEW):
        wanted = needed(scene, release)
        found, faults, unlisted = indexes.modules(state.nodes, release)
        if CONFIGURED in state.nodes and scenes.DRIVER not in found:
            wrong.append("%s has what it replaces blacklisted, and not the driver" % release)
        lost = sorted(wanted - set(found))
        if lost:
            wrong.append(
                "modprobe of %s does not find %s any more (%s)"
                % (release, ", ".join(lost), "; ".join(sorted(faults)) or "not listed")
            )
        try:
            gone = {
                each for each in indexes.aliases(scene.shipped.nodes, release) if each[2] != scenes.DRIVER
            }
            gone -= indexes.aliases(state.nodes, release)
            if gone:
                wrong.append("the indexes of %s have lost %s" % (release, sorted(gone)[0]))
        except indexes.Damaged as error:
            wrong.append("index of %s: %s" % (release, error))
        if wanted & unlisted:
            wrong.append("modules.dep of %s lacks %s" % (release, ", ".join(sorted(wanted & unlisted))))
        if not lost:
            wrong += _modprobe(state, root, release, sorted(wanted))
    return wrong


def _modprobe(state: Tree, root: str, release: str, wanted: List[str]) -> List[str]:
    """The real modprobe, once for each state of the indexes."""
    top = "/lib/modules/%s/modules." % release
    key = (
        release,
        tuple(wanted),
        tuple(sorted((path, node.content) for path, node in state.nodes.items() if top in "/" + path)),
    )
    if key not in _asked:
        _asked[key] = []
        for name in wanted:
            done = subprocess.run(
                ["modprobe", "-d", root, "-S", release, "--show-depends", name],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            if done.returncode:
                _asked[key].append(
                    "modprobe -S %s --show-depends %s: %s" % (release, name, done.stdout.strip()[:200])
                )
    return _asked[key]


def _menu(scene: Scene, state: Tree, root: str) -> List[str]:
    """Only what was verified is started."""
    wrong = []
    try:
        now = boots(root)
    except (KmodError, OSError) as error:
        return ["the boot loader's files cannot be read: %s" % error]
    known = scene.menus
    if now.foreign != known["shipped"].foreign:
        wrong.append("the shipped entries are not what they were")
    good = {(path, node.content) for each in scene.known for path, node in each.nodes.items()}
    for name, images in now.ours.items():
        for image in images:
            node = indexes.real(state.nodes, image)
            whole = node is not None and any(
                node.content == content
                for path, content in good
                if os.path.basename(path) == os.path.basename(image)
            )
            # what its kernel took along when it left was missing before
            if not whole and not (node is None and indexes.real(scene.before.nodes, image) is None):
                wrong.append(
                    "the entry %s names %s, which is %s"
                    % (name, image, "not there" if node is None else "not whole")
                )
    allowed = {each.default for each in known.values()}
    if now.default not in allowed:
        wrong.append("boots would start %r, which is none of %s" % (now.default, sorted(map(str, allowed))))
    if now.once and (now.once not in {each.once for each in known.values()} or now.once not in now.ours):
        wrong.append("the next boot would start %r" % now.once)
    for path, node in state.nodes.items():
        if path.endswith("/grubenv") and path in scene.shipped.nodes:
            wrong += _environment(path, node, now)
        elif path.endswith("loader.conf") and isinstance(node.content, bytes):
            name = re.search(rb"^default (outoftree-.*)\.conf$", node.content, re.M)
            if name and name.group(1).decode() not in now.ours:
                wrong.append("%s names the entry %s, which is not there" % (path, name.group(1).decode()))
    return wrong


def _environment(path: str, node: Node, now: Boots) -> List[str]:
    data = node.content if isinstance(node.content, bytes) else b""
    if len(data) != 1024 or not data.startswith(b"# GRUB Environment Block\n"):
        return ["%s is not whole (%d bytes)" % (path, len(data))]
    values = dict(
        line.split("=", 1) for line in data.decode().splitlines() if "=" in line and not line.startswith("#")
    )
    return [
        "%s: %s names %s, which is not there" % (path, name, values[name])
        for name in ("saved_entry", "next_entry")
        if values.get(name, "").startswith("outoftree-") and values[name] not in now.ours
    ]


def ending(
    scene: Scene, ended: Ended, state: Tree, killed: bool, lasting: bool, excused: Tuple[str, ...] = ()
) -> List[str]:
    """How a run may end that met a fault: with the work done, or with one clear line and everything as
    before.

    ``killed``: the fault was to kill it. ``lasting``: the fault would not go away, so that nothing could be
    put back; then it is to be said. ``excused``: beginnings of paths that could not be cleared away for that
    fault: the next run does.
    """
    state = Tree(
        {path: node for path, node in state.nodes.items() if not path.startswith(excused)}
        if excused
        else state.nodes,
        {},
    )
    if ended.late:
        return ["it did not end"]
    if ended.status is None:
        return [] if killed else ["it died of a signal"]
    lines = ended.err.splitlines()
    wrong = []
    if "Traceback" in ended.err:
        wrong.append("a traceback: %s" % lines[-1])
    if ended.status == scene.status:
        if lines:
            wrong.append("all is well, it says, and also: %s" % lines[0])
        if differences(scene.after, state, LOCK):
            wrong.append(
                "all is well, it says, but not as after an undisturbed run: %s"
                % " ".join(differences(scene.after, state, LOCK)[:4])
            )
        return wrong
    if scene.operation.follows and ended.status is not None:
        # each of its steps is whole: what was done stays, the verdict on the tree says whether that is right
        if len(lines) > 1 and "Traceback" not in ended.err or not (lines or ended.out.strip()):
            wrong.append("%d lines instead of one (exit status %d)" % (len(lines), ended.status))
        return wrong
    # when all was done
    if lines[:1] == ["kmodctl: interrupted"] and not differences(scene.after, state, LOCK):
        return wrong
    if ended.status == 1 and not lines:  # it says which kernels get nothing
        return wrong
    if len(lines) != 1 and "Traceback" not in ended.err:
        wrong.append(
            "%d lines instead of one (exit status %d): %r" % (len(lines), ended.status, ended.err[:200])
        )
    # which the next run clears away, as it does temporary files that could not be
    left = differences(scene.before, state, LOCK)
    left = [each for each in left if not (lasting and each.startswith("+") and each.endswith(TEMPORARY))]
    if left and not (lasting and "could not be taken back" in ended.err) and "stays so: " not in ended.err:
        wrong.append(
            "it failed%s, but has not taken all back: %s (%s)"
            % (" and does not say so" if lasting else "", " ".join(left[:4]), ended.err.strip()[:300])
        )
    return wrong
