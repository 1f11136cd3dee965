# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes reports of made-up fleets for the browser: python -m tests.report.pages DIRECTORY"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ansible_collections.outoftree.kmod.plugins.plugin_utils import _records, _report, _report_html
from tests.forge import records


def pages() -> dict[str, _report.Report]:
    made = {name: _report.made(_records.merged(hosts)) for name, hosts in fleets().items()}
    # what changed since some hosts were others, and one problem was not there
    earlier = _records.merged(
        records.fleet(seed=1)[150:] + [records.record("old%d" % number) for number in range(30)]
    )
    for record in earlier[:200]:
        record["verdicts"] = [dict(each, verdict="unknown") for each in record["verdicts"]]
    before = _report.read(_report.text(_report.made(earlier)).encode(), "earlier")
    made["fleet"] = _report.made(_records.merged(records.fleet()), before)
    return made


def fleets() -> dict[str, list[dict]]:
    well = [records.fits("vendor", records.release(number), records.release(47)) for number in (47, 50)]
    return {
        "empty": [],
        "well": [records.record("web%d" % number, verdicts=well) for number in range(3)],
        "small": records.fleet(hosts=12, kernels=6, drivers=2, shapes=6),
        "machines": [records.record("pc"), records.record("arm", machine="aarch64")],
        "hostile": list(records.hostile()),
    }


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, report in pages().items():
        began = time.monotonic()
        page = _report_html.rendered(report)
        (directory / (name + ".html")).write_text(page)
        print("%-9s %7d bytes in %.1f s" % (name, len(page.encode()), time.monotonic() - began))
        assert len(page.encode()) <= 1 << 20, "%s is larger than 1 MiB" % name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
