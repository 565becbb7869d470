"""Small real files, and scenes made of them, for the tests of headers, cubes and stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import rasterio
from conftest import make_scene
from numpy.typing import NDArray
from rasterio.transform import Affine

from catalog.cube import SceneReferences, scene_references
from catalog.cube_writer import Written, write_batch
from catalog.demo.archive import Archive
from catalog.demo.cogs import write_cog
from catalog.demo.server import ArchiveServer
from catalog.header import Header, HeaderReader
from catalog.repository import Repository
from catalog.scene import Asset
from catalog.settings import Source

EPSG = 32610
TRANSFORM = (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0)
COLLECTION, TILE = "sentinel-2-c1-l2a", "10TFR"
BRANCH = f"{COLLECTION}/{TILE}"
START = datetime(2023, 1, 1, 19, 0, 0, 123456, tzinfo=UTC)


def noise(*shape: int, seed: int = 0, dtype: str = "uint16") -> NDArray[Any]:
    """Pixels no codec can guess; never 0, which is nodata."""
    high = min(20_000, np.iinfo(dtype).max)
    return np.random.default_rng(seed).integers(1, high, shape).astype(dtype)


def write_tiff(
    path: Path,
    array: NDArray[Any],
    *,
    block: int | None = 64,
    nodata: float | None = 0,
    transform: Sequence[float] | None = TRANSFORM,
    epsg: int | None = EPSG,
    **options: Any,
) -> Path:
    """``array``, (y, x) or (band, y, x), as a GeoTIFF without overviews; ``block`` None makes
    strips; ``options`` are GDAL's creation options."""
    bands = array if array.ndim == 3 else array[np.newaxis]
    count, height, width = bands.shape
    tiles = {} if block is None else {"tiled": True, "blockxsize": block, "blockysize": block}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=bands.dtype,
        nodata=nodata,
        crs=f"EPSG:{epsg}" if epsg else None,
        transform=Affine(*transform) if transform else None,
        **tiles,
        **options,
    ) as dataset:
        dataset.write(bands)
    return path


def write_small_cog(path: Path, array: NDArray[Any], **options: Any) -> Path:
    """The archive's layout, with tiles of 64 and overviews by 2 and 4."""
    settings: dict[str, Any] = {
        "transform": TRANSFORM,
        "epsg": EPSG,
        "block": 64,
        "overview_block": 64,
        "overviews": (2, 4),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_cog(path, array, **settings | options)
    return path


def read_level(path: Path, level: int = 0) -> NDArray[Any]:
    """What rasterio reads: level 0 is the full resolution; (y, x), or (band, y, x) of several."""
    options = {"overview_level": level - 1} if level else {}
    with rasterio.open(path, **options) as dataset:
        found = dataset.read()
    return found[0] if len(found) == 1 else found


def levels_of(path: Path) -> int:
    with rasterio.open(path) as dataset:
        return 1 + len(dataset.overviews(1))


def tile_table(path: Path, level: int = 0, sample: int = 1) -> list[tuple[int, int]]:
    """GDAL's own (offset, length) of every tile, row by row; (0, 0) where there is none."""
    options = {"overview_level": level - 1} if level else {}
    with rasterio.open(path, **options) as dataset:
        height, width = dataset.block_shapes[0]
        rows, columns = -(-dataset.height // height), -(-dataset.width // width)
    number = level - 1 if level else None
    with rasterio.open(path) as dataset:
        tags = [
            [
                dataset.get_tag_item(f"{what}_{x}_{y}", "TIFF", bidx=sample, ovr=number)
                for what in ("BLOCK_OFFSET", "BLOCK_SIZE")
            ]
            for y in range(rows)
            for x in range(columns)
        ]
    return [(int(offset or 0), int(size or 0)) for offset, size in tags]


@contextmanager
def served(directory: Path) -> Iterator[ArchiveServer]:
    """``directory/files`` over HTTP."""
    with ArchiveServer(Archive(directory, "http://archive.invalid", {}, {})) as server:
        yield server


def source_of(server: ArchiveServer, name: str = "files") -> Source:
    return Source(name=name, match=server.files_url, url=server.files_url)


def local_source(directory: Path, name: str = "local") -> Source:
    return Source(name=name, match=f"{directory.as_uri()}/", url=f"{directory.as_uri()}/")


def make_asset(href: str, band: str = "red", **facts: Any) -> Asset:
    values: dict[str, Any] = {
        "band": band,
        "key": band,
        "href": href,
        "size": None,
        "checksum": None,
        "shape": None,
        "transform": None,
    }
    return Asset(**values | facts)


def href_of(source: Source, key: str) -> str:
    """As an item would name ``key``: percent-encoded."""
    return source.match + quote(key)


def read_header(asset: Asset, *sources: Source) -> Header:
    return asyncio.run(HeaderReader(sources).read(asset))


def references(
    scene_id: str, source: Source, files: Mapping[str, str], *, day: int = 0, **changes: Any
) -> SceneReferences:
    """A scene of ``files`` (band → key below ``source``), ``day`` days after ``START``."""
    assets = tuple(make_asset(href_of(source, key), band) for band, key in files.items())
    scene = make_scene(
        scene_id, datetime=START + timedelta(days=day), epsg=EPSG, assets=assets, **changes
    )

    async def read() -> list[Header]:
        reader = HeaderReader([source])
        return list(await asyncio.gather(*map(reader.read, assets)))

    return scene_references(scene, asyncio.run(read()))


def write(
    repository: Repository, *scenes: SceneReferences, branch: str = BRANCH, crawl: str = "crawl"
) -> Written:
    return write_batch(
        repository, branch, collection=COLLECTION, tile=TILE, scenes=scenes, crawl=crawl
    )
