"""What becomes of a repository that is crawled every day.

    python scripts/long_run.py [--days 200] [--tiles 10]

Plays so many days: every morning some tiles have a new scene, now and then one of the last weeks
is reprocessed; a watch crawls what is new, and once a week `cogcat maintain` runs. The files are a
few small ones under many ids, read over loopback; the items, the crawl and the upkeep are real.
Prints, for each tenth of the days, what a crawl costs (the server's CPU left out) and what lies in
the repository behind it. The last tenth should be like the first in all but the scenes.
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from catalog import cron, lease, registry, watches
from catalog.database import open_engine, read_transaction, write_transaction
from catalog.demo.archive import Archive, build_archive
from catalog.demo.server import ArchiveServer
from catalog.settings import Settings, Source
from catalog.setup import open_catalog, set_up
from catalog.upkeep import maintain

TILES = ("10TFR", "10TGR", "10TGS", "10TFS", "10TER", "10TES", "11TLL", "11TLM", "11TML", "11TMM")
COLLECTION = "sentinel-2-c1-l2a"
DIALECT = "earth-search-c1"
NEW, REPROCESSED = 0.4, 0.02
"""Chances of a tile and day: a scene every two and a half days, one in twenty made anew."""


@dataclass(slots=True)
class Day:
    """What one day's crawl cost, and what there was after it."""

    scenes: int
    indexed: int
    seconds: float
    cpu: float
    """Seconds, of this process without its server."""
    upkeep: float
    """Seconds; 0 on most days."""
    store: int
    """Bytes of all objects of the repository."""
    objects: int
    info: int
    """Bytes of the repository's info file."""
    database: int
    """Bytes of the SQLite file."""


class Calendar:
    """The archive as it grows: ``dawn`` adds a day's scenes to what the server offers."""

    def __init__(self, archive: Archive, first: datetime, dice: random.Random) -> None:
        self._files: dict[str, list[dict[str, Any]]] = {}
        for item in archive.items[DIALECT]:
            tile = item["properties"]["grid:code"].removeprefix("MGRS-")
            self._files.setdefault(tile, []).append(item)
        self._offered = archive.items[DIALECT] = []
        self._first, self._dice = first, dice

    def dawn(self, day: int) -> None:
        seen = self._first + timedelta(days=day, hours=4)
        recent = [item for item in self._offered if _days_ago(item, seen) < 20]
        for tile, models in self._files.items():
            if self._dice.random() < NEW or day == 0:
                item = copy.deepcopy(self._dice.choice(models))
                item["id"] = f"S2A_T{tile}_{seen:%Y%m%dT%H%M%S}_L2A"
                for name in ("datetime", "created"):
                    item["properties"][name] = _stamp(seen)
                item["properties"]["updated"] = _stamp(seen + timedelta(hours=6))
                self._offered.append(item)
            mine = [item for item in recent if f"_T{tile}_" in item["id"]]
            if mine and self._dice.random() < REPROCESSED:
                item = self._dice.choice(mine)
                item["assets"] = copy.deepcopy(self._dice.choice(models)["assets"])
                item["properties"]["updated"] = _stamp(seen + timedelta(hours=6))
                item["properties"]["s2:processing_baseline"] = f"05.{self._dice.randint(11, 99)}"


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _days_ago(item: dict[str, Any], now: datetime) -> float:
    return (now - datetime.fromisoformat(item["properties"]["datetime"])).total_seconds() / 86_400


def live(
    directory: Path, *, days: int, tiles: int, keep: int, weekly: int, width: int, seed: int = 0
) -> list[Day]:
    """Plays ``days`` days in an empty ``directory``.

    Args:
        keep: days for which a snapshot is kept; upkeep runs every ``weekly`` days, 0 never.
        width: pixels of the files.
    """
    archive = build_archive(
        directory / "archive", tiles=TILES[:tiles], dates=("2023-03-08", "2023-05-02"),
        width=width, block=64,
    )  # fmt: skip
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    calendar = Calendar(archive, today - timedelta(days=days + 1), random.Random(seed))
    lived: list[Day] = []
    mornings: list[datetime] = []
    with ArchiveServer(archive) as server:
        source = Source(name="demo", match=server.files_url, url=server.files_url)
        settings = Settings(
            database=f"sqlite:///{directory / 'cogcat.db'}",
            repository=str(directory / "repo"),
            sources=(source,),
        )
        set_up(settings)
        engine = open_engine(settings.database)
        with write_transaction(engine) as connection:
            watches.save_watch(
                connection, "daily", {"collection": COLLECTION, "stac": server.stac_url}
            )
        for day in range(days):
            calendar.dawn(day)
            mornings.append(datetime.now(UTC))
            with read_transaction(engine) as connection:
                (watch,) = watches.list_watches(connection)
            started, cpu = time.monotonic(), _cpu(server)
            report = cron.run_watch(settings, engine, watch)
            seconds, cpu = time.monotonic() - started, _cpu(server) - cpu
            assert not report.failed, report.failures[0]
            started = time.monotonic()
            if weekly and day % weekly == weekly - 1:
                # A day of the calendar is as long as its crawl took.
                age = datetime.now(UTC) - mornings[max(0, day - keep)]
                _maintain(settings, keep=age)
            upkeep = time.monotonic() - started
            sizes = [f.stat().st_size for f in (directory / "repo").rglob("*") if f.is_file()]
            with read_transaction(engine) as connection:
                ((scenes,),) = connection.exec_driver_sql("SELECT count(*) FROM scenes")
            lived.append(
                Day(
                    scenes=scenes,
                    indexed=report.indexed,
                    seconds=seconds,
                    cpu=cpu,
                    upkeep=upkeep,
                    store=sum(sizes),
                    objects=len(sizes),
                    info=(directory / "repo" / "repo").stat().st_size,
                    database=(directory / "cogcat.db").stat().st_size,
                )
            )
        engine.dispose()
    return lived


def _cpu(server: ArchiveServer) -> float:
    clock = time.pthread_getcpuclockid(server._thread.ident or 0)
    return time.process_time() - time.clock_gettime(clock)


def _maintain(settings: Settings, *, keep: timedelta) -> None:
    engine, repository = open_catalog(settings)
    try:
        with write_transaction(engine) as connection:
            key = registry.register_repository(connection, repository.id, repository.location)
        with lease.held(engine, key) as held:
            maintain(engine, repository, key, held, keep=keep, grace=timedelta(0))
    finally:
        engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--days", type=int, default=200, help="[200]")
    parser.add_argument("--tiles", type=int, default=10, help=f"at most {len(TILES)} [10]")
    parser.add_argument("--keep", type=int, default=14, help="days that snapshots are kept [14]")
    parser.add_argument("--weekly", type=int, default=7,
                        help="days between two runs of upkeep, 0 for none [7]")  # fmt: skip
    parser.add_argument("--width", type=int, default=546, help="pixels of a 10 m band [546]")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory:
        lived = live(
            Path(directory), days=options.days, tiles=options.tiles, keep=options.keep,
            weekly=options.weekly, width=options.width,
        )  # fmt: skip
    print(f"{options.days} days, {options.tiles} tiles, {lived[-1].scenes} scenes; snapshots kept "
          f"{options.keep} days, upkeep every {options.weekly} days")  # fmt: skip
    print("      days  scenes  indexed  s/crawl  CPU s/crawl  CPU ms/indexed  store KB/scene  "
          "objects  info KB  DB KB/scene  upkeep s")  # fmt: skip
    tenth = max(1, options.days // 10)
    for first in range(0, options.days, tenth):
        print(_row(first, lived[first : first + tenth]))


def _row(first: int, days: list[Day]) -> str:
    indexed = sum(day.indexed for day in days)
    last = days[-1]
    runs = [day.upkeep for day in days if day.upkeep > 0.01] or [0.0]

    def mean(name: str) -> float:
        return sum(getattr(day, name) for day in days) / len(days)

    return (
        f"{first:4}-{first + len(days) - 1:4}  {last.scenes:6}  {indexed:7}  {mean('seconds'):7.2f}"
        f"  {mean('cpu'):11.2f}  {1000 * mean('cpu') * len(days) / max(1, indexed):14.0f}"
        f"  {mean('store') / mean('scenes') / 1000:14.1f}  {mean('objects'):7.0f}"
        f"  {mean('info') / 1000:7.1f}  {last.database / last.scenes / 1000:11.1f}"
        f"  {sum(runs) / len(runs):8.1f}"
    )


if __name__ == "__main__":
    main()
