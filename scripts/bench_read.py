"""What reading pixels costs, beside other readers of the same files.

    python -m uv run --group bench python scripts/bench_read.py [--latency-ms 30] [--runs 3]

Makes 41 scenes of each of two tiles with full-size files (10 980 pixels, 1024² DEFLATE tiles with
predictor 2, about 1.3 MB each), serves them with latency, crawls them, and lets every reader do

* series: open a tile and read one pixel of 40 scenes × 2 bands,
* 512: open a scene and read a window of 512² of 2 bands,
* 2048: the same with 2048²,
* mosaic: 2048² pixels of 2 bands on 5 days where the two tiles meet, on the tiles' own grid,
* warped: the same ground in EPSG:3857, nearest.

Every reader runs in a process of its own, in which it has read one pixel of another scene, so that
its libraries are loaded. Windows are of four scenes, one after the other, so that no cache of
pixels helps; figures are per window. What each is given before the clock starts:

* cogcat: a catalog that is open, as in a session; snapshot and manifests are known where the scene
  before needed the same. The database and the repository lie on disk,
* cogcat cold: nothing; it connects anew for every window,
* odc-stac, rioxarray, rasterio, async-geotiff: the parsed items, or the hrefs in them,
* odc-stac search: nothing; it asks the STAC API (pystac-client, by id) for every window,
* fetch only: the byte ranges that cogcat asks for. They are fetched, all at once, and not decoded:
  the floor that server, machine and latency set.

All must read equal pixels. The best of the runs counts; requests and bytes are what the server
sent. The server shares the machine's cores with the readers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE, NEIGHBOUR = "10TFR", "10TGR"
EAST = {TILE: 600_000, NEIGHBOUR: 700_000}
"""Left edge, metres of EPSG:32610; the tiles share 9.8 km."""
NORTH = 5_100_000
COLLECTION, BANDS = "sentinel-2-c1-l2a", ("red", "nir")
DAYS = slice(3, 8)
"""Of the mosaics."""
SCENES, SIZE, MODELS = 40, 10_980, 2
WARM = SCENES
"""The scene each reader has read before: one more than the others."""
THREADS = 40
"""Of the readers that have no number of their own: a thread waits for its request."""
WINDOWS = ((0, 2300, 5100), (11, 7000, 1500), (22, 4444, 4444), (33, 130, 8200))
"""Scene, first row and first column of each window."""
PIXEL = (4321, 6789)
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_CACHEMAX": "512",
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": "50000000",
}

Pixels = NDArray[np.uint16]
Read = Callable[[list[int], int, int, int], Pixels]
"""(scenes, first row, first column, size) → (band, time, y, x)."""
ReadArea = Callable[[Any], Pixels]
"""A GeoBox → (band, time, y, x)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--latency-ms", type=float, default=30, help="of every request [30]")
    parser.add_argument("--runs", type=int, default=3, help="of each reader [3]")
    parser.add_argument("--only", nargs="*", choices=READERS, help="these readers alone")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--archive", type=Path, help="kept here for another run")
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if options.reader:
        print(json.dumps(one_run(options.reader, options.tasks[0], options.work)))
        return
    from catalog.demo.server import ArchiveServer

    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        archive = options.archive or work / "archive"
        if not (archive / "made").exists():
            make_archive(archive)
        with ArchiveServer(archive) as server:
            prepare(work, server)
            server.faults.latency_ms = options.latency_ms
            print(f"{SCENES} scenes, {len(BANDS)} bands, {options.latency_ms:g} ms latency, "
                  f"{os.cpu_count()} cores, best of {options.runs}")  # fmt: skip
            for task in options.tasks:
                compare(server, work, task, options.only or list(READERS), options.runs)


def compare(server: Any, work: Path, task: str, readers: list[str], runs: int) -> None:
    print(f"\n{task:15} {'seconds':>8} {'CPU s':>7} {'requests':>9} {'MB':>7} {'cogcat is':>10}")
    found: dict[str, dict[str, Any]] = {}
    # In turns, so that a busy minute of the machine is everyone's.
    for _ in range(runs):
        for reader in readers:
            if task in AREAS and reader not in AREA_READERS:
                continue
            command = [sys.executable, __file__, "--reader", reader, "--tasks", task]
            process = subprocess.Popen(
                [*command, "--work", work], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
                env={**os.environ, **GDAL}, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            process.stdout.readline()
            server.requests.reset()
            said, _ = process.communicate("go\n")
            if process.returncode:
                found.setdefault(reader, {"failed": True})
                continue
            result = json.loads(said.splitlines()[-1])
            served = list(server.requests)
            result["requests"] = len(served)
            result["bytes"] = sum(request.sent for request in served)
            if reader not in found or result["seconds"] < found[reader]["seconds"]:
                found[reader] = result
    ours = found.get("cogcat", {})
    ours = {} if "failed" in ours else ours
    for reader, result in found.items():
        if "failed" in result:
            print(f"{reader:15} failed")
            continue
        n = result["windows"]
        ratio = f"{result['seconds'] / ours['seconds']:.1f} ×" if ours else ""
        equal = "" if reader == FLOOR or result["pixels"] == ours.get("pixels", result["pixels"]) \
            else "  OTHER PIXELS"  # fmt: skip
        size = result["bytes"] / n / 1e6
        print(
            f"{reader:15} {result['seconds'] / n:8.3f} {result['cpu'] / n:7.3f} "
            f"{result['requests'] / n:9.1f} {size:7.1f} {ratio:>10}{equal}",
            flush=True,
        )


def one_run(reader: str, task: str, work: Path) -> dict[str, Any]:
    windows: list[Any]
    if task in AREAS:
        read_area = AREA_READERS[reader](work)
        read_area(AREAS[task](9_000, 9_000, 1))
        windows = [(AREAS[task](row, column, 2048),) for _, row, column in AREA_WINDOWS]
        read: Any = read_area
    else:
        read = READERS[reader](work)
        read([WARM], 9_000, 9_000, 1)
        windows = [(list(range(SCENES)), *PIXEL, 1)] if task == "series" else [
            ([scene], row, column, int(task)) for scene, row, column in WINDOWS
        ]  # fmt: skip
    if hasattr(read, "prepare"):
        read.prepare(windows)
    print("warm", flush=True)
    sys.stdin.readline()
    digest = hashlib.sha256()
    wall, cpu = time.perf_counter(), time.process_time()
    got = [read(*window) for window in windows]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for pixels in got:
        digest.update(np.ascontiguousarray(pixels, np.uint16).tobytes())
        digest.update(str(pixels.shape).encode())
    return {"seconds": wall, "cpu": cpu, "pixels": digest.hexdigest(), "windows": len(windows)}


def cogcat(work: Path, *, cold: bool = False, plain: bool = False) -> Read:
    """``plain``: as xarray reads by itself, one variable after the other."""
    import catalog

    ids = [item["id"] for item in items(work)]
    session = catalog.connect(config=work / "cogcat.toml")

    def read(scenes: list[int], row: int, column: int, size: int) -> Pixels:
        opened = catalog.connect(config=work / "cogcat.toml") if cold else session
        if len(scenes) > 1:
            dataset = opened.cube(TILE, bands=BANDS, resolution=10)
            dataset = dataset.isel(time=slice(len(scenes)))
        else:
            dataset = opened.scene(ids[scenes[0]]).open(bands=BANDS, resolution=10)
        window = dataset.isel(y=slice(row, row + size), x=slice(column, column + size))
        return pixels_of(window.load() if plain else window.cogcat.load())

    return read


def cogcat_area(work: Path, *, cold: bool = False) -> ReadArea:
    import catalog

    ids = days_ids(work)
    session = catalog.connect(config=work / "cogcat.toml")

    def read(box: Any) -> Pixels:
        opened = catalog.connect(config=work / "cogcat.toml") if cold else session
        return pixels_of(opened.load(ids=ids, bands=BANDS, geobox=box).cogcat.load())

    return read


class FetchOnly:
    """The ranges of cogcat's chunks, each in a thread and on a connection of its own."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def prepare(self, windows: list[Any]) -> None:
        from zarr.core.sync import sync

        import catalog
        from catalog.repository import steps_references

        opened = catalog.connect(config=self.work / "cogcat.toml")
        records = [opened.scene(item["id"]).record for item in items(self.work)]
        store = opened.repository.store(opened.cube(TILE).attrs["cogcat_snapshot"])
        steps = sorted(record.time_index for record in records)
        found = [sync(steps_references(store, f"r10m/{band}", (11, 11), steps)) for band in BANDS]
        self.jobs: dict[str, list[tuple[str, int, int]]] = {}
        for scenes, row, column, size in windows:
            at = np.ix_(
                [steps.index(records[n].time_index) for n in scenes],
                range(row // 1024, (row + size - 1) // 1024 + 1),
                range(column // 1024, (column + size - 1) // 1024 + 1),
            )
            self.jobs[str((scenes, row, column, size))] = [
                (str(url), int(offset), int(length))
                for parts in found
                for url, offset, length in zip(*(part[at].flat for part in parts), strict=True)
            ]
        opened.close()
        self.pool = ThreadPoolExecutor(max(map(len, self.jobs.values())))

    def __call__(self, *window: Any) -> Pixels:
        if hasattr(self, "jobs"):
            list(self.pool.map(self.fetch, self.jobs[str(window)]))
        return np.empty(0, np.uint16)

    @staticmethod
    def fetch(job: tuple[str, int, int]) -> None:
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        url, offset, length = job
        parts = urlsplit(url)
        connection = HTTPConnection(parts.netloc)
        connection.request("GET", parts.path, headers={
            "Range": f"bytes={offset}-{offset + length - 1}"
        })  # fmt: skip
        assert len(connection.getresponse().read()) == length
        connection.close()


def odc(work: Path, *, search: bool = False) -> Read:
    import odc.stac
    from odc.geo.geobox import GeoBox

    found = parsed(items(work))
    odc.stac.configure_rio(cloud_defaults=True)

    def read(scenes: list[int], row: int, column: int, size: int) -> Pixels:
        box = GeoBox((size, size), transform(row, column), "EPSG:32610")
        chosen = [found[n] for n in scenes]
        if search:
            chosen = searched(work, [item.id for item in chosen])
        return pixels_of(odc.stac.load(chosen, BANDS, geobox=box, groupby="id", pool=THREADS))

    return read


def odc_area(work: Path, *, search: bool = False) -> ReadArea:
    import odc.stac

    ids = days_ids(work)
    given = parsed([item for item in items(work, None) if item["id"] in ids])
    odc.stac.configure_rio(cloud_defaults=True)

    def read(box: Any) -> Pixels:
        chosen = searched(work, ids) if search else given
        dataset = odc.stac.load(chosen, BANDS, geobox=box, groupby="solar_day", pool=THREADS)
        return pixels_of(dataset)

    return read


def parsed(documents: list[dict[str, Any]]) -> list[Any]:
    from pystac import Item

    return [Item.from_dict(document) for document in documents]


def searched(work: Path, ids: list[str]) -> list[Any]:
    from pystac_client import Client

    client = Client.open((work / "stac.txt").read_text())
    asked = client.search(ids=ids, collections=[COLLECTION], limit=100)
    return sorted(asked.items(), key=lambda item: item.datetime)


def days_ids(work: Path) -> list[str]:
    """Of both tiles' scenes of the mosaics."""
    days = [item["properties"]["datetime"][:10] for item in items(work)[DAYS]]
    every = items(work, None)
    return [item["id"] for item in every if item["properties"]["datetime"][:10] in days]


def own_grid(row: int, column: int, size: int) -> Any:
    from odc.geo.geobox import GeoBox

    return GeoBox((size, size), transform(row, column), "EPSG:32610")


def web_mercator(row: int, column: int, size: int) -> Any:
    """14 m there are 10 m of the ground."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    left, _, _, top = own_grid(row, column, 1).extent.to_crs("EPSG:3857").boundingbox.bbox
    return GeoBox((size, size), Affine(14, 0, left, 0, -14, top), "EPSG:3857")


def rioxarray(work: Path) -> Read:
    import rioxarray as rio

    def read(scenes: list[int], row: int, column: int, size: int) -> Pixels:
        def one(href: str) -> Pixels:
            with rio.open_rasterio(href, chunks=None, cache=False) as array:
                return array[0, row : row + size, column : column + size].values

        return by_file(work, scenes, one)

    return read


def rasterio(work: Path) -> Read:
    import rasterio as rio
    from rasterio.windows import Window

    def read(scenes: list[int], row: int, column: int, size: int) -> Pixels:
        def one(href: str) -> Pixels:
            with rio.open(href) as dataset:
                return dataset.read(1, window=Window(column, row, size, size))

        return by_file(work, scenes, one)

    return read


def async_geotiff(work: Path) -> Read:
    import asyncio

    from async_geotiff import GeoTIFF, Window
    from obstore.store import HTTPStore

    base, _, _ = items(work)[0]["assets"]["red"]["href"].partition("/files/")

    def read(scenes: list[int], row: int, column: int, size: int) -> Pixels:
        async def one(href: str) -> Pixels:
            file = await GeoTIFF.open(href.removeprefix(base + "/"), store=store)
            array = await file.read(window=Window(column, row, size, size))
            return np.asarray(array.data)[0]

        async def every() -> Pixels:
            chosen = [items(work)[n] for n in scenes]
            hrefs = [item["assets"][band]["href"] for band in BANDS for item in chosen]
            done = await asyncio.gather(*map(one, hrefs))
            return np.stack(done).reshape(len(BANDS), len(chosen), size, size)

        return asyncio.run(every())

    store = HTTPStore.from_url(base, client_options={"allow_http": True})
    return read


FLOOR = "fetch only"
READERS: dict[str, Callable[[Path], Read]] = {
    "cogcat": cogcat,
    "cogcat cold": partial(cogcat, cold=True),
    "cogcat .load": partial(cogcat, plain=True),
    "odc-stac": odc,
    "odc-stac search": partial(odc, search=True),
    "rioxarray": rioxarray,
    "rasterio": rasterio,
    "async-geotiff": async_geotiff,
    FLOOR: FetchOnly,
}
AREA_READERS: dict[str, Callable[[Path], ReadArea]] = {
    "cogcat": cogcat_area,
    "cogcat cold": partial(cogcat_area, cold=True),
    "odc-stac": odc_area,
    "odc-stac search": partial(odc_area, search=True),
}
AREAS: dict[str, Callable[[int, int, int], Any]] = {"mosaic": own_grid, "warped": web_mercator}
AREA_WINDOWS = ((0, 3100, 9300), (0, 6500, 9000))
TASKS = ("series", "512", "2048", *AREAS)


def transform(row: int, column: int) -> Any:
    from affine import Affine

    return Affine(10, 0, EAST[TILE] + 10 * column, 0, -10, NORTH - 10 * row)


def pixels_of(dataset: Any) -> Pixels:
    found = np.stack([dataset[band].values for band in BANDS])
    return found if found.ndim == 4 else found[:, np.newaxis]


def by_file(work: Path, scenes: list[int], one: Callable[[str], Pixels]) -> Pixels:
    found = items(work)
    chosen = [found[n] for n in scenes]
    hrefs = [item["assets"][band]["href"] for band in BANDS for item in chosen]
    with ThreadPoolExecutor(min(THREADS, len(hrefs))) as pool:
        done = list(pool.map(one, hrefs))
    return np.stack(done).reshape(len(BANDS), len(chosen), *done[0].shape)


def items(work: Path, tile: str | None = TILE) -> list[dict[str, Any]]:
    """In order of time; None: of both tiles."""
    found: list[dict[str, Any]] = json.loads((work / "items.json").read_text())
    return [item for item in found if tile is None or tile in item["id"]]


def prepare(work: Path, server: Any) -> None:
    """A crawled catalog, and the items as the server gives them, in order of time."""
    from catalog.settings import load_settings
    from catalog.setup import open_crawl, set_up
    from catalog.stac_query import StacQuery
    from catalog.stac_search import search_items

    (work / "cogcat.toml").write_text(
        f'database = "sqlite:///{work}/cogcat.db"\nrepository = "{work}/repo"\n'
        f'[[sources]]\nname = "bench"\nmatch = "{server.files_url}"\nurl = "{server.files_url}"\n'
    )
    settings = load_settings(config=work / "cogcat.toml")
    set_up(settings)
    query = StacQuery.parse(collection=COLLECTION)
    found = list(search_items(server.stac_url, query))
    report = open_crawl(settings, bands=BANDS).run(
        found, query={}, collection=COLLECTION, stac=server.stac_url
    )
    assert report.indexed == 2 * (SCENES + 1), report
    found.sort(key=lambda item: item["properties"]["datetime"])
    (work / "items.json").write_text(json.dumps(found))
    (work / "stac.txt").write_text(server.stac_url)


def make_archive(directory: Path) -> None:
    """Small scenes first, for their items; then full-size files in place of theirs."""
    from catalog.demo.archive import build_archive

    days = [date(2023, 1, 1) + timedelta(days=5 * n) for n in range(SCENES + 1)]
    archive = build_archive(
        directory, tiles=tuple(EAST), dates=days, width=132, block=64, bands=BANDS, workers=1
    )
    models = {
        (tile, band, n): write_model(directory / f"model-{tile}-{band}-{n}.tif", seed, EAST[tile])
        for seed, (tile, band, n) in enumerate(product(EAST, BANDS, range(MODELS)))
    }
    numbers = dict.fromkeys(EAST, 0)
    for item in archive.items["earth-search-c1"]:
        tile = next(tile for tile in EAST if tile in item["id"])
        numbers[tile] += 1
        item["properties"]["proj:code"] = "EPSG:32610"
        for band in BANDS:
            asset = item["assets"][band]
            path = archive.path(asset["href"])
            path.unlink()
            os.link(models[tile, band, numbers[tile] % MODELS], path)
            asset["proj:shape"] = [SIZE, SIZE]
            asset["proj:transform"] = [10, 0, EAST[tile], 0, -10, NORTH]
            asset["file:size"] = path.stat().st_size
            asset.pop("file:checksum", None)
    archive.save()
    (directory / "made").touch()


def write_model(path: Path, seed: int, east: int) -> Path:
    """Hills, fields and grain that compress as the real files do."""
    if path.exists():
        return path
    from catalog.demo.cogs import write_cog

    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 2_000, (122, 122)).repeat(90, 0).repeat(90, 1).astype(np.uint16)
    rows = np.sin(np.arange(SIZE) / 700 + seed)[:, np.newaxis]
    pixels = fields + (1_500 * (2 + rows * np.cos(np.arange(SIZE) / 900))).astype(np.uint16)
    pixels += rng.integers(0, 90, (SIZE, SIZE), dtype=np.uint16)
    write_cog(
        path, pixels, transform=(10, 0, east, 0, -10, NORTH), epsg=32610, block=1024,
        overview_block=512, overviews=(2, 4, 8, 16), statistics=False, zlevel=6,
    )  # fmt: skip
    return path


if __name__ == "__main__":
    main()
