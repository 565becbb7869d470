"""How fast a catalog gives its scenes as STAC items, and what an export costs.

    python3 -m uv run python scripts/bench_export.py [--scenes 100000]

Makes a SQLite catalog of made-up scenes of 18 files each, then asks it in processes of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path
from typing import Any

import shapely
from sqlalchemy import insert

import catalog
from catalog.bands import BANDS
from catalog.database import migrate, open_engine, write_transaction
from catalog.models import ASSETS, BRANCHES, COLLECTIONS, REPOSITORIES, SCENES, SNAPSHOTS, TILES

START = datetime(2016, 1, 1, tzinfo=UTC)
FILES = [band.name for band in BANDS if band.name != "cirrus"][:18]
COLLECTION = "sentinel-2-c1-l2a"
HOST = "https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com"


def build(url: str, location: str, scenes: int) -> None:
    engine = open_engine(url)
    migrate(engine)
    tiles = [
        f"{zone:02}T{'SAJ'[zone % 3]}{row}" for zone in range(1, 61) for row in "ABCDEFGHJKLMNP"
    ][: max(1, scenes // 100)]
    with write_transaction(engine) as connection:
        connection.execute(
            insert(REPOSITORIES),
            {"id": 1, "uid": "bench", "location": location, "registered_at": START,
             "seen_at": START},
        )  # fmt: skip
        connection.execute(
            insert(COLLECTIONS),
            {"id": 1, "name": COLLECTION, "registered_at": START,
             "stac_url": "https://earth-search.aws.element84.com/v1"},
        )  # fmt: skip
        for number, tile in enumerate(tiles, 1):
            west = -180 + (number * 0.43) % 360
            connection.execute(
                insert(TILES),
                {"tile": tile, "minx": west, "miny": 44.0, "maxx": west + 1.4, "maxy": 45.0},
            )
            connection.execute(
                insert(BRANCHES),
                {"id": number, "repository_id": 1, "collection_id": 1, "tile": tile,
                 "name": f"{COLLECTION}/{tile}", "epsg": 32600 + int(tile[:2]),
                 "head_snapshot": f"S{number:019}", "updated_at": START},
            )  # fmt: skip
            connection.execute(
                insert(SNAPSHOTS),
                {"id": f"S{number:019}", "branch_id": number, "written_at": START, "scenes": 1},
            )
        for batch in batched(range(scenes), 2000):
            connection.execute(insert(SCENES), [_scene(n, tiles) for n in batch])
            connection.execute(insert(ASSETS), [row for n in batch for row in _assets(n)])
    engine.dispose()


def _scene(n: int, tiles: list[str]) -> dict[str, Any]:
    place = n % len(tiles)
    tile = tiles[place]
    at = START + timedelta(days=n // len(tiles) * 2.5, seconds=place * 7)
    west = -180 + ((place + 1) * 0.43) % 360
    corners = [(0, 0), (1.4, 0.1), (1.35, 0.9), (0.6, 1.0), (0.05, 0.95)]
    shape = shapely.Polygon([(west + x, 44 + y) for x, y in corners])
    name = f"S2B_T{tile}_{at:%Y%m%dT%H%M%S}_L2A"
    return {
        "id": n + 1, "repository_id": 1, "collection_id": 1, "item_id": name, "tile": tile,
        "epsg": 32600 + int(tile[:2]), "href_prefix": f"{HOST}/{COLLECTION}/{tile}/{name}/",
        "revision": 1, "status": "indexed", "datetime": at, "platform": "sentinel-2b",
        "cloud_cover": n % 1000 / 10, "baseline": "05.10", "acquisition": f"{at:%Y%m%dT%H%M%S}",
        "footprint": shapely.to_wkb(shape), "created": at, "updated": at,
        **dict(zip(("minx", "miny", "maxx", "maxy"), shape.bounds, strict=True)),
        "boa_offset": -1000, "boa_evidence": "raster:offset=-0.1", "warnings": [],
        "item_sha256": f"{n:064x}", "branch_id": place + 1, "root": "",
        "time_index": n // len(tiles), "snapshot_id": f"S{place + 1:019}",
        "refs_sha256": f"{n:064x}", "recorded_at": START + timedelta(microseconds=n),
    }  # fmt: skip


def _assets(n: int) -> list[dict[str, Any]]:
    return [
        {"scene_id": n + 1, "band": band, "href": f"{band}.tif", "size": 10_000_000 + n,
         "checksum": "1220" + hashlib.sha256(f"{n}{band}".encode()).hexdigest(),
         "header_sha256": f"{n:064x}", "header_length": 4208}
        for band in sorted(FILES)
    ]  # fmt: skip


def ask(url: str, location: str, what: str, file: str) -> dict[str, Any]:
    with catalog.connect(url, repository=location) as cat:
        scenes = cat.search(sort="datetime")
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "items":
            count = len(cat.search(limit=2000).to_items())
        elif what == "dicts":
            count = sum(1 for _ in scenes.items_as_dicts())
        elif what == "export":
            count = scenes.to_geoparquet(file)
        else:
            count = len(cat.collections())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"count": count, "seconds": wall, "cpu": cpu, "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        print(json.dumps(ask(*arguments.ask)))
        return
    for scenes in arguments.scenes:
        with tempfile.TemporaryDirectory() as directory:
            url, location = f"sqlite:///{directory}/bench.db", f"{directory}/repo"
            build(url, location, scenes)
            for what in ("collections", "items", "dicts", "export"):
                file = Path(directory) / "items.parquet"
                words = [sys.executable, __file__, "--ask", url, location, what, str(file)]
                done = json.loads(subprocess.check_output(words))
                rate = done["count"] / done["seconds"]
                size = f", {file.stat().st_size / 1e6:.1f} MB" if file.exists() else ""
                print(
                    f"{scenes:>9,} scenes  {what:<12}{done['count']:>8,} in "
                    f"{done['seconds']:6.2f} s (CPU {done['cpu']:.2f}), {rate:8,.0f}/s, "
                    f"peak {done['peak_mb']:.0f} MB{size}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
