"""The most memory a crawl takes, however many scenes it meets.

    python scripts/bench_memory.py [--scenes 1000 20000] [--tiles 20] [--bands red,nir,scl]

Makes one small real file per band and tile, and an NDJSON file of as many items as asked for, each
another scene of the same files; crawls them with a process of its own into an empty catalog; and
prints the process's peak of resident memory, and what it was after each quarter.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from catalog.demo.archive import build_archive
from catalog.item_file import read_items
from catalog.settings import Settings, Source
from catalog.setup import open_crawl, set_up

FIRST = datetime(2016, 1, 1, 19, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--tiles", type=int, default=20, help="that the scenes lie on [20]")
    parser.add_argument("--bands", default="red,nir,scl", help="of each scene [red,nir,scl]")
    parser.add_argument("--missing", action="store_true", help="no scene has its files: all fail")
    parser.add_argument("--crawl", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crawl:
        crawl(Path(options.crawl), options.scenes[0])
        return
    with tempfile.TemporaryDirectory() as directory:
        models = make_models(Path(directory), options.tiles, options.bands.split(","))
        for scenes in options.scenes:
            work = Path(directory) / str(scenes)
            work.mkdir()
            write_items(work / "items.ndjson", models, scenes, missing=options.missing)
            subprocess.run(
                [sys.executable, __file__, "--crawl", str(work), "--scenes", str(scenes)],
                check=True,
            )


def make_models(directory: Path, tiles: int, bands: list[str]) -> list[dict[str, Any]]:
    """One item per tile, of these bands and no more; its files lie in ``directory``."""
    names = [f"10T{a}{b}" for a in "CDEFG" for b in "KLMNPQRS"][:tiles]
    archive = build_archive(
        directory / "archive", tiles=names, dates=("2023-05-02",), width=132, block=64, bands=bands
    )
    local = archive.rebased("file://" + str(archive.directory))
    items = local.items["earth-search-c1"]
    for item in items:
        for key, asset in list(item["assets"].items()):
            if not asset["href"].endswith(".tif"):
                del item["assets"][key]
    return items


def write_items(path: Path, models: list[dict[str, Any]], scenes: int, *, missing: bool) -> None:
    copies = [copy.deepcopy(model) for model in models]
    with path.open("w", encoding="utf-8") as file:
        for number in range(scenes):
            item = copies[number % len(copies)]
            moment = FIRST + timedelta(hours=4 * (number // len(copies)))
            tile = item["properties"]["grid:code"].removeprefix("MGRS-")
            item["id"] = f"S2A_T{tile}_{moment:%Y%m%dT%H%M%S}_L2A"
            item["properties"]["datetime"] = moment.isoformat()
            if missing:
                for asset in item["assets"].values():
                    asset["href"] = asset["href"].removesuffix("-none") + "-none"
            file.write(json.dumps(item) + "\n")


def crawl(work: Path, scenes: int) -> None:
    logging.disable(logging.WARNING)
    files = (work.parent / "archive" / "files").as_uri() + "/"
    source = Source(name="files", match=files, url=files)
    settings = Settings(f"sqlite:///{work}/cogcat.db", str(work / "repo"), (source,))
    set_up(settings)
    marks: list[str] = []
    started, cpu = time.monotonic(), time.process_time()
    with open_crawl(settings) as running:
        items = measured(read_items(work / "items.ndjson"), scenes, marks)
        report = running.run(items, query={})
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{scenes:7} scenes: peak {peak:.0f} MB; {report.indexed} indexed, {report.failed} failed, "
        f"{report.commits} commits, {seconds:.0f} s, {1000 * cpu / scenes:.1f} ms CPU/scene; "
        f"MB at each quarter: {' '.join(marks)}",
        flush=True,
    )


def measured(items: Iterable[Any], scenes: int, marks: list[str]) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number % max(1, scenes // 4) == 0:
            marks.append(f"{resident():.0f}")
        yield item
    marks.append(f"{resident():.0f}")


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
