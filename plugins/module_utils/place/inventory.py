# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What out-of-tree drivers there are on a host, and what its kernels make of them."""
import hashlib
import posixpath
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from ..compression import decompress
from ..errors import KmodError, SystemFailed, forgiving
from ..host import Host
from ..read import kernels, ko
from ..read.depmod import listed
from ..read.kernel_module import KernelModule
from ..read.names import is_readable_module, module_of
from . import heal, loaded, store
from .boot import detect, shipped
from .boot.menu import View, boots
from .driver import Deployed, deployed, serving
from .initramfs import existing, image

PLACES = ("extra", "updates", "weak-updates")  # where out-of-tree modules are


def inventory(host: Host, drivers: Sequence[str] = ()) -> Dict[str, Any]:
    """The drivers in the store (only those named, if any are), and for every kernel its out-of-tree modules, links and images; all variants
    and entries of ours with their states, and what of ours is left of kernels that are gone.

    ``{"drivers": [...], "kernels": [...], "variants": [...], "entries": [...], "orphans": [...], "summary": text}``, as kmod_info documents it.
    It reads, and never writes. What cannot be read is a row with an ``error``. Error: DRIVER_UNKNOWN.
    """
    variants, entries = _variants(host), _entries(host)
    known = {stored.driver for stored in store.builds(host)}
    elsewhere = {row["driver"] for row in entries} | {name for row in variants for name in row["drivers"]}
    for name in drivers:
        if name not in known | elsewhere:
            raise KmodError(name, "there is no driver of this name on %s" % host.root,
                            "On this host: " + (", ".join(sorted(known | elsewhere)) or "none"), "DRIVER_UNKNOWN")
    names = set(drivers) or known
    there = [deployed(host, name) for name in sorted(names)]
    installed = store.installed(host)
    using = {each.driver: serving(host, each) for each in there}
    kernel_rows = [_kernel(host, kernel, there) for kernel in installed]
    driver_rows = [_driver(each, using[each.driver]) for each in there]
    variants = [row for row in variants if not drivers or names & set(row["drivers"])]
    entries = [row for row in entries if row["driver"] in names or not drivers]
    found: Dict[str, Any] = {"drivers": driver_rows, "kernels": kernel_rows, "variants": variants, "entries": entries,
                             "orphans": _orphans(variants, entries, there, [kernel.release for kernel in installed])}
    return dict(found, summary=_summary(found))


def _variants(host: Host) -> List[Dict[str, Any]]:
    try:
        return [seen.as_dict() for seen in existing.overview(host)]
    except KmodError as error:
        return [{"path": error.what, "kernel": "", "drivers": [], "method": "", "size": 0, "state": "damaged", "error": str(error)}]


def _entries(host: Host) -> List[Dict[str, Any]]:
    """The boot entries of ours, and whether what they start is there; none where no boot loader is found."""
    try:
        loader = detect.detect(host)
        menu = shipped.LOADERS[loader.kind].menu(View(host), loader)
    except SystemFailed:
        raise
    except KmodError:
        return []
    rows = []
    for entry in menu.entries:
        if entry.driver is not None:
            files = [word for word in (entry.linux,) + entry.initrd if "$" not in word]
            rows.append({"driver": entry.driver, "kernel": entry.kernel or "", "id": entry.id, "title": entry.title, "path": entry.path,
                         "default": menu.default is not None and menu.default.id == entry.id, "once": menu.once == entry.id,
                         "starts": files, "missing": [word for word in files if shipped.locate(host, word) is None]})
    return rows


def _orphans(variants: Sequence[Dict[str, Any]], entries: Sequence[Dict[str, Any]], there: Sequence[Deployed],
             installed: Sequence[str]) -> List[Dict[str, Any]]:
    found = [{"kind": "variant", "path": row["path"], "kernel": row["kernel"], "size": row["size"]} for row in variants if row["state"] == "gone"]
    found += [{"kind": "entry", "path": row["path"], "kernel": row["kernel"], "size": 0} for row in entries
              if row["missing"] or row["kernel"] not in installed]
    found += [{"kind": "link", "path": path, "kernel": release, "size": 0} for each in there for release, links in sorted(each.links.items())
              for path in sorted(links) if release not in installed]
    return found


def default_release(host: Host) -> Optional[str]:
    """The kernel that boots start; None where the boot loader's files do not tell, or it is not installed."""
    entry = shipped.default(host)
    return next((kernel.release for kernel in kernels.installed(host) if entry and boots(entry, kernel.release)), None)


def _driver(there: Deployed, using: Dict[str, Any]) -> Dict[str, Any]:
    builds = [{"build": build.release, "version": build.version, "path": build.directory, "whole": True,
               "kernels": sorted(release for release, used in using.items() if used and used.directory == build.directory),
               "modules": [_module(module, path) for module, path in zip(build.modules, store.files_of(build))]} for build in there.builds]
    builds += [{"build": stored.release, "version": "", "path": stored.directory, "whole": False, "kernels": [], "modules": []}
               for stored in there.broken]
    return {"driver": there.driver, "builds": builds}


def _module(module: KernelModule, path: str) -> Dict[str, Any]:
    signature = "unsigned" if module.signature is None else "damaged" if module.signature.fault else "signed"
    return {"name": module.name, "path": path, "sha256": module.sha256, "srcversion": module.srcversion, "signature": signature}


def _kernel(host: Host, kernel: kernels.Kernel, there: Sequence[Deployed]) -> Dict[str, Any]:
    ours = {path for each in there for path in each.links[kernel.release]}
    lists = listed(host, kernel.modules_dir)
    names = {module.name for each in there for build in each.builds for module in build.modules}
    names.update(name for name, path in lists.items() if path[len(kernel.modules_dir) + 1:].split("/")[0] in PLACES)
    used = [_used(host, kernel, name, lists.get(name)) for name in sorted(names)]
    return {"kernel": kernel.release, "running": kernel.running, "modules": used, "links": _links(host, kernel, ours),
            "images": _images(host, kernel.release, {row["name"]: row["sha256"] for row in used})}


def _used(host: Host, kernel: kernels.Kernel, name: str, path: Any) -> Dict[str, Any]:
    """The file that modprobe would load for a module name, and whether it is what the running kernel has loaded."""
    row: Dict[str, Any] = {"name": name, "path": path, "sha256": None, "loaded": None, "error": None}
    try:
        data = decompress(host.read(path), path) if path and host.exists(path) else None
        if data is not None:
            row["sha256"] = hashlib.sha256(data).hexdigest()
            if kernel.running:
                row["loaded"] = loaded.state(host, ko.parse(data, path), loaded.build_id(data, path))
    except KmodError as error:
        row["error"] = str(error)
    return row


def _images(host: Host, release: str, used: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The kernel's initramfs images, each with its copies of these modules and whether they are the ones that the kernel's tree has."""
    if not used:
        return []
    paths: List[str] = []
    with forgiving():
        paths = [each.path for each in existing.found(host) if each.wants.kernel == release]
    with forgiving():  # there is none, as far as one can tell
        paths.insert(0, image.shipped(host, release))
    return [_copies(host, path, used) for path in paths]


def _copies(host: Host, path: str, used: Dict[str, Any]) -> Dict[str, Any]:
    pieces: Dict[str, List[bytes]] = {}

    def wanted(inside: str, _node: Any) -> Any:
        if not is_readable_module(inside) or module_of(inside) not in used:
            return None
        pieces[inside] = []  # of two files of one path the later one is what the kernel has in the end
        return pieces[inside].append

    try:
        image.read(host, path, wanted)
        found = {inside: hashlib.sha256(decompress(b"".join(data), inside)).hexdigest() for inside, data in sorted(pieces.items())}
    except KmodError as error:
        return {"path": path, "copies": [], "error": str(error)}
    copies = [{"name": module_of(inside), "path": inside, "sha256": digest, "current": digest == used[module_of(inside)]}
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


def _summary(found: Dict[str, Any]) -> str:
    lines = [] if found["drivers"] else ["There is no driver in the store."]
    for driver in found["drivers"]:
        for build in driver["builds"]:
            version = build["version"] or "(no version)"
            lines.append("%s %s for %s: %s" % (driver["driver"], version, build["build"], _users(build)))
    states = {row["path"]: row for row in found["variants"]}
    shown = {each["path"] for row in found["kernels"] for each in row["images"]}
    for row in found["kernels"]:
        outside = [(module["name"], module["path"]) for module in row["modules"] if module["path"]]
        lines.append("%s%s: %s" % (row["kernel"], " (running)" if row["running"] else "", _list(outside, row["kernel"])))
        lines += ["  %s" % module["error"] for module in row["modules"] if module["error"]]
        lines += ["  %s: %s%s" % (each["path"], each["error"] or _content(each["copies"]), _state(states.get(each["path"])))
                  for each in row["images"]]
        lines += ["  %s leads nowhere (%s)" % (link["path"], link["target"]) for link in row["links"] if link["dangling"]]
        lines += ["  %s" % _entry(entry) for entry in found["entries"] if entry["kernel"] == row["kernel"]]
    for row in found["orphans"]:
        size = " (%.0f MiB)" % (row["size"] / (1 << 20)) if row["size"] else ""
        lines.append("left over: %s %s for %s%s" % (row["kind"], row["path"], row["kernel"] or "an unknown kernel", size))
    lines += [row.get("error") or "%s: the variant is %s" % (row["path"], row["state"]) for row in found["variants"]
              if row["path"] not in shown and row["state"] != "gone"]
    return "\n".join(lines)


def _state(row: Any) -> str:
    return "" if row is None else "; the variant is %s" % row["state"]


def _entry(row: Dict[str, Any]) -> str:
    what = "default entry" if row["default"] else "entry for the next boot alone" if row["once"] else "entry"
    return "%s %r: %s" % (what, row["title"], "what it starts is missing: " + ", ".join(row["missing"]) if row["missing"] else "all there")


def _users(build: Dict[str, Any]) -> str:
    if not build["whole"]:
        return "files are missing or damaged"
    return "used by " + ", ".join(build["kernels"]) if build["kernels"] else "no kernel uses it"


def _list(modules: Sequence[Tuple[str, str]], release: str) -> str:
    return ", ".join("%s from %s" % (name, posixpath.dirname(path.partition("/%s/" % release)[2])) for name, path in modules) or "no such module"


def _content(copies: Sequence[Dict[str, Any]]) -> str:
    return ", ".join("%s%s" % (copy["name"], "" if copy["current"] else " (another one)") for copy in copies) or "none of them"
