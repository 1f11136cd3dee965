# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What out-of-tree drivers there are on a host, and what its kernels make of them."""
import contextlib
import hashlib
import posixpath
from typing import Any, Dict, List, Sequence, Set, Tuple

from ..compression import decompress
from ..errors import KmodError
from ..host import Host
from ..read import kernels, ko
from . import depmod, heal, loaded, store, weak_links
from .initramfs import image, variant

PLACES = ("extra", "updates", "weak-updates")  # where out-of-tree modules are


def inventory(host: Host, drivers: Sequence[str] = ()) -> Dict[str, Any]:
    """The drivers in the store (only those named, if any are), and for every kernel its out-of-tree modules, links and images.

    ``{"drivers": [...], "kernels": [...], "summary": text}``, as kmod_info documents it. It reads, and never writes.
    """
    names = sorted({stored.driver for stored in store.builds(host)} if not drivers else set(drivers))
    installed = store.installed(host)
    there = [weak_links.deployed(host, name) for name in names]
    serving = {each.driver: weak_links.serving(host, each) for each in there}
    kernel_rows = [_kernel(host, kernel, there) for kernel in installed]
    driver_rows = [_driver(each, serving[each.driver]) for each in there]
    return {"drivers": driver_rows, "kernels": kernel_rows, "summary": _summary(driver_rows, kernel_rows)}


def _driver(there: weak_links.Deployed, serving: Dict[str, Any]) -> Dict[str, Any]:
    builds = [{"build": build.release, "version": build.version, "path": build.directory, "whole": True,
               "kernels": sorted(release for release, used in serving.items() if used and used.directory == build.directory),
               "modules": [_module(module, path) for module, path in zip(build.modules, weak_links.files_of(build))]} for build in there.builds]
    builds += [{"build": stored.release, "version": "", "path": stored.directory, "whole": False, "kernels": [], "modules": []}
               for stored in there.broken]
    return {"driver": there.driver, "builds": builds}


def _module(module: ko.KernelModule, path: str) -> Dict[str, Any]:
    signature = "unsigned" if module.signature is None else "damaged" if module.signature.fault else "signed"
    return {"name": module.name, "path": path, "sha256": module.sha256, "srcversion": module.srcversion, "signature": signature}


def _kernel(host: Host, kernel: kernels.Kernel, there: Sequence[weak_links.Deployed]) -> Dict[str, Any]:
    ours = {path for each in there for path in each.links[kernel.release]}
    listed = depmod.listed(host, kernel.modules_dir)
    names = {module.name for each in there for build in each.builds for module in build.modules}
    names.update(name for name, path in listed.items() if path[len(kernel.modules_dir) + 1:].split("/")[0] in PLACES)
    used = [_used(host, kernel, name, listed.get(name)) for name in sorted(names)]
    return {"kernel": kernel.release, "running": kernel.running, "modules": used, "links": _links(host, kernel, ours),
            "images": _images(host, kernel.release, {row["name"]: row["sha256"] for row in used})}


def _used(host: Host, kernel: kernels.Kernel, name: str, path: Any) -> Dict[str, Any]:
    """The file that modprobe would load for a module name, and whether it is what the running kernel has loaded."""
    data = decompress(host.read(path), path) if path and host.is_file(path) else None
    state = None
    if kernel.running and data is not None:
        state = loaded.state(host, ko.parse(data, path), loaded.build_id(data, path))
    return {"name": name, "path": path, "sha256": data and hashlib.sha256(data).hexdigest(), "loaded": state}


def _images(host: Host, release: str, used: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The kernel's initramfs images, each with its copies of these modules and whether they are the ones that the kernel's tree has."""
    if not used:
        return []
    paths = [each.path for each in variant.found(host) if each.wants["kernel"] == release]
    with contextlib.suppress(KmodError):  # there is none, as far as one can tell
        paths.insert(0, image.shipped(host, release))
    return [_copies(host, path, used) for path in paths]


def _copies(host: Host, path: str, used: Dict[str, Any]) -> Dict[str, Any]:
    pieces: Dict[str, List[bytes]] = {}

    def wanted(inside: str, _node: Any) -> Any:
        if not image.MODULE.search(inside) or ko.normal(inside) not in used:
            return None
        pieces[inside] = []  # of two files of one path the later one is what the kernel has in the end
        return pieces[inside].append

    try:
        image.read(host, path, wanted)
        found = {inside: hashlib.sha256(decompress(b"".join(data), inside)).hexdigest() for inside, data in sorted(pieces.items())}
    except KmodError as error:
        return {"path": path, "copies": [], "error": str(error)}
    copies = [{"name": ko.normal(inside), "path": inside, "sha256": digest, "current": digest == used[ko.normal(inside)]}
              for inside, digest in found.items()]
    return {"path": path, "copies": copies, "error": None}


def _links(host: Host, kernel: kernels.Kernel, ours: Set[str]) -> List[Dict[str, Any]]:
    top = kernel.modules_dir + "/weak-updates"
    lost = {"%s/%s" % (directory, name) for directory, names in heal.dangling(host, top).items() for name in names}
    return [{"path": path, "target": host.readlink(path), "ours": path in ours, "dangling": path in lost} for path in _below(host, top)]


def _below(host: Host, directory: str) -> List[str]:
    found = []
    for name in host.listdir(directory):
        path = "%s/%s" % (directory, name)
        if host.is_link(path):
            found.append(path)
        elif host.is_dir(path):
            found += _below(host, path)
    return found


def _summary(drivers: Sequence[Dict[str, Any]], rows: Sequence[Dict[str, Any]]) -> str:
    lines = []
    for driver in drivers:
        for build in driver["builds"]:
            lines.append("%s %s for %s: %s" % (driver["driver"], build["version"] or "(no version)", build["build"], _users(build)))
    for row in rows:
        outside = [(module["name"], module["path"]) for module in row["modules"] if module["path"]]
        lines.append("%s%s: %s" % (row["kernel"], " (running)" if row["running"] else "", _list(outside, row["kernel"])))
        lines += ["  %s: %s" % (each["path"], each["error"] or _content(each["copies"])) for each in row["images"]]
        lines += ["  %s leads nowhere (%s)" % (link["path"], link["target"]) for link in row["links"] if link["dangling"]]
    return "\n".join(lines)


def _users(build: Dict[str, Any]) -> str:
    if not build["whole"]:
        return "files are missing"
    return "used by " + ", ".join(build["kernels"]) if build["kernels"] else "no kernel uses it"


def _list(modules: Sequence[Tuple[str, str]], release: str) -> str:
    return ", ".join("%s from %s" % (name, posixpath.dirname(path.partition("/%s/" % release)[2])) for name, path in modules) or "no such module"


def _content(copies: Sequence[Dict[str, Any]]) -> str:
    return ", ".join("%s%s" % (copy["name"], "" if copy["current"] else " (another one)") for copy in copies) or "none of them"
