"""The same questions to cogcat and to pgstac, of the same scenes, in one run.

    python scripts/bench_pgstac.py --server postgresql://… --pypgstac PATH [--scenes 100000]

Needs a PostgreSQL server with PostGIS, on which databases may be made, and the command `pypgstac`
(`uv tool install 'pypgstac[psycopg]'`: its dependencies do not go with ours). Fills cogcat's
catalogs on SQLite and on that server as `bench_search.py` does, writes its items to a file, and has
pypgstac load them: both answer of the same items. Questions have other values every time. Prints
p50 in milliseconds of wall time, warm, one client:

* pgstac: `SELECT search(…)`, the items as the database's JSON, parsed,
* cogcat, items: the same, `Scenes.items_as_dicts`, as STAC items made of its records,
* cogcat: `Scenes.records`, what its own API answers with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_search
import psycopg
from sqlalchemy import make_url

import catalog

Ask = Callable[[], int]
"""Asks one question and gives the number of scenes."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--server", required=True, help="URL of a PostgreSQL server with PostGIS")
    parser.add_argument("--pypgstac", default="pypgstac", help="the command")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each question [3]")
    parser.add_argument("--keep", type=Path, help="directory to keep catalogs and items in")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        work = options.keep or Path(directory)
        work.mkdir(exist_ok=True)
        server = make_url(options.server).set(drivername="postgresql+psycopg")
        url = server.render_as_string(hide_password=False)
        urls = {
            "SQLite": bench_search.filled(None, work, options.scenes),
            "PostgreSQL": bench_search.filled(url, work, options.scenes),
        }
        dsn = pgstac(urls["SQLite"], url, work, options.scenes, options.pypgstac)
        compare(urls, dsn, work, options.scenes, options.seconds)


def pgstac(url: str, server: str, work: Path, size: int, command: str) -> str:
    """A database of pgstac with the same items; its address."""
    name = f"pgstac_{size}"
    dsn = make_url(server).set(drivername="postgresql", database=name)
    address = dsn.render_as_string(hide_password=False)
    with psycopg.connect(bench_search._libpq(server), autocommit=True) as connection:
        if (name,) in connection.execute("SELECT datname FROM pg_database").fetchall():
            return address
        connection.execute(f"CREATE DATABASE {name}")
    started = time.perf_counter()
    with catalog.connect(url, repository=str(work / "repository")) as cat:
        collections, items = work / "collections.ndjson", work / "items.ndjson"
        collections.write_text("\n".join(map(json.dumps, cat.collections())))
        with items.open("w") as file:
            for item in cat.search().items_as_dicts():
                file.write(json.dumps(item) + "\n")
    print(f"items written: {time.perf_counter() - started:.0f} s", flush=True)
    started = time.perf_counter()
    for words in (
        ["migrate"],
        ["load", "collections", str(collections), "--method", "insert"],
        ["load", "items", str(items), "--method", "insert"],
    ):
        subprocess.run([command, *words, "--dsn", address], check=True, stdout=subprocess.DEVNULL)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    print(f"{size} items into pgstac: {time.perf_counter() - started:.0f} s", flush=True)
    return address


def compare(urls: dict[str, str], dsn: str, work: Path, size: int, seconds: float) -> None:
    tiles = list(itertools.islice(bench_search.tile_rows(), -(-size // bench_search.SERIES)))
    names = list(questions(tiles, 1))
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO pgstac, public")
        columns["pgstac"] = timed(
            names, tiles, seconds, lambda question: len(found(connection, question["stac"]))
        )
    for database, url in urls.items():
        with catalog.connect(url, repository=str(work / "repository")) as cat:
            for label, ask in (
                (f"{database}, items", lambda q: len(list(q.items_as_dicts()))),
                (database, lambda q: len(q.records())),
            ):
                columns[label] = timed(
                    names,
                    tiles,
                    seconds,
                    lambda question, ask=ask: ask(cat.search(**question["ours"])),  # type: ignore[misc]
                )
    print(f"\n{'p50, ms':24}" + "".join(f"{name:>20}" for name in columns) + "   scenes")
    for name in names:
        rows = {round(column[name][1]) for column in columns.values()}
        line = "".join(f"{column[name][0]:20.2f}" for column in columns.values())
        print(f"{name:24}{line}   {'/'.join(map(str, sorted(rows)))}")


def found(connection: psycopg.Connection[Any], question: dict[str, Any]) -> list[Any]:
    row = connection.execute("SELECT search(%s::jsonb)", [json.dumps(question)]).fetchone()
    assert row is not None
    features: list[Any] = row[0]["features"]
    return features


def timed(
    names: list[str], tiles: list[Any], seconds: float, ask: Callable[[dict[str, Any]], int]
) -> dict[str, tuple[float, float]]:
    """Question → (median milliseconds, median number of scenes); the same values for everyone."""
    table = {}
    for name in names:
        make = questions(tiles, 1)[name]
        for _ in range(3):
            ask(make())
        walls, counts = [], []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(walls) < 15:
            question = make()
            started = time.perf_counter()
            counts.append(ask(question))
            walls.append(time.perf_counter() - started)
        table[name] = (statistics.median(walls) * 1e3, statistics.median(counts))
    return table


def questions(tiles: list[Any], seed: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name → what makes one question, in pgstac's words and in ours."""
    rng = random.Random(seed)
    sort = {"sortby": [{"field": "datetime", "direction": "desc"}], "limit": 1000}

    def place() -> tuple[float, float]:
        box = rng.choice(tiles)
        x, y = (box["minx"] + box["maxx"]) / 2, (box["miny"] + box["maxy"]) / 2
        return (x + 180) % 360 - 180, min(max(y, -74), 74)

    def point() -> dict[str, Any]:
        x, y = place()
        year, month = rng.randint(18, 22), rng.randint(1, 12)
        when = f"20{year}-{month:02}-01T00:00:00Z/20{year}-{month:02}-28T23:59:59Z"
        geometry = {"type": "Point", "coordinates": [x, y]}
        condition = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 60]}
        return {
            "stac": {"intersects": geometry, "datetime": when, "filter": condition, **sort},
            "ours": {"intersects": geometry, "datetime": when, "max_cloud_cover": 60},
        }

    def box() -> dict[str, Any]:
        x, y = place()
        x = min(x, 175)
        year = rng.randint(18, 22)
        when = f"20{year}-01-01T00:00:00Z/20{year}-12-31T23:59:59Z"
        bbox = [x, y, x + 5, y + 5]
        return {
            "stac": {"bbox": bbox, "datetime": when, **sort},
            "ours": {"bbox": bbox, "datetime": when},
        }

    def series() -> dict[str, Any]:
        tile = rng.choice(tiles)["tile"]
        condition = {"op": "=", "args": [{"property": "grid:code"}, f"MGRS-{tile}"]}
        return {"stac": {"filter": condition, **sort}, "ours": {"tile": tile}}

    def one() -> dict[str, Any]:
        tile, step = rng.choice(tiles)["tile"], rng.randrange(bench_search.SERIES)
        name = bench_search.scene_id(tile, step)
        collection = bench_search.COLLECTION
        return {"stac": {"ids": [name], "collections": [collection]}, "ours": {"ids": name}}

    def newest() -> dict[str, Any]:
        year = rng.randint(18, 22)
        when = f"20{year}-01-01T00:00:00Z/20{year}-12-31T23:59:59Z"
        return {
            "stac": {"datetime": when, **sort, "limit": 50},
            "ours": {"datetime": when, "limit": 50},
        }

    return {
        "point + month + cloud": point,
        "5°×5° + year": box,
        "one tile's series": series,
        "one id": one,
        "50 newest of a year": newest,
    }


if __name__ == "__main__":
    main()
