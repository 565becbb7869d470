"""What a crawl costs, beside the plain way of doing the same.

    python scripts/bench_crawl.py [--scenes 64] [--latency-ms 30] [--dask local]

Makes full-size files (10 980 pixels, 1024² tiles, 15 bands with all overviews; flat pixels, so
that they are small), serves them with latency from a process of its own, and prints scenes per
second of a whole crawl, CPU per scene of each step, store bytes per scene and requests per
asset; then the same for virtual-tiff + VirtualiZarr with one commit per scene.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import HTTPStore
from virtual_tiff import VirtualTIFF
from virtualizarr.manifests import ManifestStore

from catalog import records, registry
from catalog.cluster import connect, pack
from catalog.cube import scene_references
from catalog.cube_writer import write_batch
from catalog.database import open_engine, write_transaction
from catalog.demo.archive import Archive, build_archive
from catalog.demo.cogs import write_cog
from catalog.header import HeaderReader, Reads
from catalog.item import scene_from_item
from catalog.recorded import Commit
from catalog.repository import Repository
from catalog.settings import Settings, Source
from catalog.setup import open_crawl, set_up
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items

COLLECTION = "sentinel-2-c1-l2a"
TILES = ("10TFR", "10TGR")
BANDS = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08",
    "nir09", "swir16", "swir22", "visual", "scl", "wvp",
)  # fmt: skip
FULL = {10: 10_980, 20: 5_490, 60: 1_830}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=64, help="of two tiles [64]")
    parser.add_argument("--plain-scenes", type=int, default=3, help="of the plain way [3]")
    parser.add_argument("--dask", metavar="ADDRESS", help="and with headers read there, or `local`")
    parser.add_argument("--latency-ms", type=float, default=30, help="of every request [30]")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        archive = make_archive(work / "archive", -(-options.scenes // len(TILES)))
        with served(work / "archive", options.latency_ms) as (stac, files):
            print(f"{options.scenes} scenes of {len(TILES)} tiles, {len(BANDS)} bands, "
                  f"{options.latency_ms:g} ms latency, {os.cpu_count()} cores")  # fmt: skip
            source = Source(name="bench", match=files, url=files)
            ours = whole_crawl(work, stac, source)
            if options.dask:
                with connect(options.dask, (source,)) as reader:
                    whole_crawl(work, stac, source, reader)
            steps(work, stac, source)
            plain = plain_way(work, stac, source, options.plain_scenes)
            print(f"\ncogcat / plain: {ours / plain:.1f} × the scenes per second")
    del archive


def make_archive(directory: Path, dates: int) -> Archive:
    """Small scenes first, for their items; then full-size files in place of theirs."""
    days = [date(2023, 1, 1) + timedelta(days=2 * n) for n in range(dates)]
    archive = build_archive(directory, tiles=TILES, dates=days, width=132, block=64, bands=BANDS)
    models = directory / "models"
    models.mkdir()
    made: dict[tuple[int, str, int], Path] = {}
    for item in archive.items["earth-search-c1"]:
        for asset in item["assets"].values():
            if "proj:shape" not in asset or not asset["href"].endswith(".tif"):
                continue
            resolution = int(asset["gsd"])
            dtype = "uint8" if {"scl", "cloud", "snow", "visual"} & {_band(asset)} else "uint16"
            kind = (resolution, dtype, 3 if _band(asset) == "visual" else 1)
            if kind not in made:
                made[kind] = models / ("-".join(map(str, kind)) + ".tif")
                _write_model(made[kind], *kind)
            path = archive.path(asset["href"])
            path.unlink()
            os.link(made[kind], path)
            asset["proj:shape"] = [FULL[resolution]] * 2
            asset["file:size"] = path.stat().st_size
            asset.pop("file:checksum", None)
    archive.save()
    return archive


def _band(asset: dict[str, Any]) -> str:
    name = asset["href"].rsplit("/", 1)[1]
    return {"TCI.tif": "visual", "SCL.tif": "scl"}.get(name, name)


def _write_model(path: Path, resolution: int, dtype: str, samples: int) -> None:
    size = FULL[resolution]
    shape = (size, size) if samples == 1 else (samples, size, size)
    pixels = np.ones(shape, dtype)
    step = -(-size // 16)
    # Values that differ between tiles, so that no tile is like another.
    pixels[..., :, :] += np.repeat(np.arange(16, dtype=dtype), step)[:size]
    write_cog(
        path, pixels, transform=(resolution, 0, 600_000, 0, -resolution, 5_100_000), epsg=32610,
        block=1024, overview_block=512, overviews=(2, 4, 8, 16), statistics=False,
    )  # fmt: skip


@contextmanager
def served(directory: Path, latency_ms: float) -> Iterator[tuple[str, str]]:
    """The archive on loopback in a process of its own: addresses of its STAC API and files."""
    command = [sys.executable, "-m", "catalog.demo.server", str(directory)]
    process = subprocess.Popen(
        [*command, "--latency-ms", str(latency_ms)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        stac = process.stdout.readline().split()[-1]
        yield stac, stac.partition("/stac")[0] + "/files/"
    finally:
        process.terminate()
        process.wait()


def whole_crawl(work: Path, stac: str, source: Source, reader: Reads | None = None) -> float:
    """Scenes per second of ``cogcat crawl``, all steps overlapping as they do; CPU of this process
    alone."""
    name = "on the cluster" if reader else "whole crawl"
    settings = _fresh(work / name.replace(" ", "-"), source)
    query = StacQuery.parse(collection=COLLECTION)
    crawl = open_crawl(settings, bands=BANDS, reader=reader)
    cpu, wall = time.process_time(), time.monotonic()
    report = crawl.run(search_items(stac, query), query={}, collection=COLLECTION, stac=stac)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    assert not report.failed, report.failures[0]
    size = sum(f.stat().st_size for f in Path(settings.repository).rglob("*") if f.is_file())
    n = report.indexed
    print(f"\ncogcat, {name}: {n / wall:.1f} scenes/s, {1000 * cpu / n:.1f} ms CPU/scene, "
          f"{report.commits} commits, {size / n / 1000:.1f} KB of store/scene, "
          f"{report.requests / n / len(BANDS):.2f} requests/asset")  # fmt: skip
    return n / wall


def steps(work: Path, stac: str, source: Source) -> None:
    """CPU of each step by itself, all threads of the process counted."""
    settings = _fresh(work / "steps", source)
    repository = Repository.open(settings.repository, settings.sources)
    engine = open_engine(settings.database)
    query = StacQuery.parse(collection=COLLECTION)

    def search() -> list[Any]:
        return [scene_from_item(item, bands=BANDS) for item in search_items(stac, query)]

    scenes, spent = _spent(search)
    rows = [("search and items", spent)]

    async def read() -> list[Any]:
        reader = HeaderReader(settings.sources)
        return list(await asyncio.gather(*(
            asyncio.gather(*(reader.read(asset) for asset in scene.assets)) for scene in scenes
        )))  # fmt: skip

    headers, spent = _spent(lambda: asyncio.run(read()))
    rows.append(("headers", spent))
    sent = sum(len(pickle.dumps(pack(found), 5)) for found in headers)
    chunks = sum(level.offsets.size for found in headers for h in found for level in h.levels)
    print(f"  from a worker: {sent / len(scenes) / 1000:.1f} KB/scene, "
          f"{sent / chunks:.1f} bytes/chunk")  # fmt: skip
    references, spent = _spent(
        lambda: [scene_references(s, h) for s, h in zip(scenes, headers, strict=True)]
    )
    rows.append(("references", spent))
    batches = [
        [n for n, scene in enumerate(scenes) if scene.tile == tile][first : first + 32]
        for tile in TILES
        for first in range(0, len(scenes), 32)
    ]
    batches = [batch for batch in batches if batch]

    def commit() -> list[Any]:
        return [
            write_batch(
                repository, f"{COLLECTION}/{scenes[batch[0]].tile}", collection=COLLECTION,
                tile=scenes[batch[0]].tile, scenes=[references[n] for n in batch], crawl="1",
            )
            for batch in batches
        ]  # fmt: skip

    written, spent = _spent(commit)
    rows.append(("commit", spent))

    def record() -> None:
        from catalog.recovery import indexed_scene

        with write_transaction(engine) as connection:
            key = registry.register_repository(connection, repository.id, repository.location)
            registry.register_collection(connection, COLLECTION, stac, "earth-search-c1")
            crawl = registry.begin_crawl(connection, {}, repository_id=key)
        for batch, done in zip(batches, written, strict=True):
            with write_transaction(engine) as connection:
                records.record_pending(connection, key, [scenes[n] for n in batch], crawl)
            tile = scenes[batch[0]].tile
            made = Commit(
                done.branch, COLLECTION, tile, scenes[batch[0]].epsg, done.snapshot_id, None,
                done.written_at,
            )  # fmt: skip
            ready = [
                indexed_scene(scenes[n], references[n], headers[n], done.placements[scenes[n].id])
                for n in batch
            ]
            with write_transaction(engine) as connection:
                records.record_indexed(connection, key, made, ready, crawl)

    _, spent = _spent(record)
    rows.append(("records", spent))
    for name, cpu in rows:
        print(f"  {name:18} {1000 * cpu / len(scenes):6.1f} ms CPU/scene")
    print(f"  {'together':18} {1000 * sum(cpu for _, cpu in rows) / len(scenes):6.1f} ms CPU/scene")


def plain_way(work: Path, stac: str, source: Source, scenes: int) -> float:
    """Scenes per second of virtual-tiff + VirtualiZarr, a group per scene and a commit each."""
    path = work / "plain"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(source.url, icechunk.http_store({"allow_http": "true"}))
    )
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)), config)
    query = StacQuery.parse(collection=COLLECTION, limit=scenes)
    store = HTTPStore.from_url(source.url.rstrip("/"), client_options={"allow_http": True})
    registry = ObjectStoreRegistry({source.url.rstrip("/"): store})
    parser = VirtualTIFF(ifd_layout="nested")
    cpu, wall = time.process_time(), time.monotonic()
    number = 0
    for item in search_items(stac, query):
        scene = scene_from_item(item, bands=BANDS)
        session = repository.writable_session("main")
        for asset in scene.assets:
            for level, group in parser(asset.href, registry)._group.groups.items():
                # VirtualiZarr takes one group at a time; the file is still opened once.
                dataset = ManifestStore(group, registry=registry).to_virtual_dataset()
                dataset.vz.to_icechunk(session.store, group=f"{scene.id}/{asset.band}/{level}")
        session.commit(scene.id)
        number += 1
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    print(f"\nplain way, {number} scenes: {number / wall:.2f} scenes/s, "
          f"{1000 * cpu / number:.0f} ms CPU/scene, {number} commits, "
          f"{size / number / 1000:.1f} KB of store/scene")  # fmt: skip
    return number / wall


def _fresh(directory: Path, source: Source) -> Settings:
    directory.mkdir()
    settings = Settings(f"sqlite:///{directory}/cogcat.db", str(directory / "repo"), (source,))
    set_up(settings)
    return settings


def _spent[T](work: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


if __name__ == "__main__":
    main()
