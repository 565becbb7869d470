"""Build the look-alike archive: a directory of COGs, and the STAC items that name them.

Keys are those of the real buckets, bucket name first::

    DIRECTORY/archive.json                                                  items and collections
    DIRECTORY/files/e84-earth-search-sentinel-data/sentinel-2-c1-l2a/10/T/FR/2023/12/…/B04.tif
    DIRECTORY/files/sentinel-cogs/sentinel-s2-l2a-cogs/10/T/FR/2023/12/…/B04.tif
    DIRECTORY/files/sentinel2-l2/10/T/FR/2023/12/23/….SAFE/GRANULE/…/R10m/…_B04_10m.tif

Pixels are synthetic (``landscape.py``). The same arguments give the same bytes,
items and modification times.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.session import DummySession

from catalog.bands import BY_NAME
from catalog.demo.cogs import SMALLEST_OVERVIEW_BLOCK, write_cog
from catalog.demo.documents import collection, item
from catalog.demo.landscape import WHOLE_TILE, Landscape, SwathEdge
from catalog.demo.products import (
    EARTH_SEARCH_C1,
    EARTH_SEARCH_V1,
    PLANETARY_COMPUTER,
    FileFacts,
    SceneFacts,
    bands_of,
    resolution_of,
)

DEFAULT_TILES = ("10TFR", "10TGR", "11TLL")
"""Neighbours from west to east in Oregon and Washington; the last is in another UTM zone."""
DEFAULT_DATES = ("2023-03-08", "2023-05-02", "2023-06-16", "2023-08-10", "2023-09-24", "2023-12-23")
DEFAULT_BASE_URL = "http://127.0.0.1:8765"

_CLOUD_COVERS = (8.0, 35.0, 0.0, 80.0, 12.0, 3.0)
_EDGES = (
    WHOLE_TILE,
    SwathEdge(1.0, 0.3, 0.8),
    WHOLE_TILE,
    WHOLE_TILE,
    SwathEdge(-1.0, -0.3, -0.45),
    WHOLE_TILE,
)


@dataclass(slots=True)
class Archive:
    """A built archive. Change its items at will: a server started with it serves what is here."""

    directory: Path
    base_url: str
    """Of the server that the items name, without a last slash; files are below ``/files``."""
    items: dict[str, list[dict[str, Any]]]
    """Dialect → items, by date, then tile."""
    collections: dict[str, dict[str, Any]]
    """Dialect → collection. Two dialects have the same collection id, on different API roots."""

    @property
    def files(self) -> Path:
        """Directory that is served as ``/files``."""
        return self.directory / "files"

    def path(self, href: str) -> Path:
        """The file an asset's href stands for.

        Raises:
            ValueError: the href is of another server.
        """
        prefix = f"{self.base_url}/files/"
        if not href.startswith(prefix):
            raise ValueError(f"{href} is not below {prefix}")
        return self.files / href.removeprefix(prefix)

    def rebased(self, base_url: str, *, files_url: str | None = None) -> Archive:
        """A copy whose items name another server.

        Args:
            files_url: where the files are, if not at ``{base_url}/files``: an object
                store to which the buckets were copied, say.
        """
        text = json.dumps([self.items, self.collections])
        if files_url is not None:
            text = text.replace(f"{self.base_url}/files", files_url.rstrip("/"))
        items, collections = json.loads(text.replace(self.base_url, base_url.rstrip("/")))
        return replace(self, base_url=base_url.rstrip("/"), items=items, collections=collections)

    def save(self) -> None:
        """Write ``archive.json``, from which ``load_archive`` reads it back."""
        document = {
            "base_url": self.base_url,
            "items": self.items,
            "collections": self.collections,
        }
        self.directory.joinpath("archive.json").write_text(json.dumps(document, indent=1))


def load_archive(directory: str | os.PathLike[str]) -> Archive:
    """The archive that ``build_archive`` left in a directory."""
    path = Path(directory)
    document = json.loads(path.joinpath("archive.json").read_text())
    return Archive(path.resolve(), document["base_url"], document["items"], document["collections"])


def build_archive(
    directory: str | os.PathLike[str],
    *,
    base_url: str = DEFAULT_BASE_URL,
    tiles: Sequence[str] = DEFAULT_TILES,
    dates: Sequence[str | date] = DEFAULT_DATES,
    dialects: Sequence[str] = (EARTH_SEARCH_C1,),
    width: int = 1098,
    pixel_size: int = 10,
    block: int = 256,
    bands: Sequence[str] | None = None,
    true_shapes: bool = True,
    seed: int = 0,
    workers: int | None = None,
) -> Archive:
    """Write the COGs of every tile on every date, and describe them.

    A tile's upper left corner is the real one; ``width`` pixels from there are made
    (with the defaults 10.98 km, a tenth of the real tile). Cloud cover and swath
    edges cycle through the dates: the second and the fifth date of the first tile
    are partial, and those of its neighbours shift by one date each.

    Args:
        base_url: of the server that will serve it; ``ArchiveServer`` puts its own in.
        tiles: five-character MGRS names.
        dialects: ``earth-search-c1``, ``earth-search-v1``, ``planetary-computer``.
        width: pixels of the 10 m bands, a multiple of 6. 20 m bands have half, 60 m a sixth.
        pixel_size: metres of the 10 m bands' pixels; 100 spreads 1098 over the whole tile.
        block: tile size where the real archive has 1024; half and quarter where it has
            512 and 256, but never below 64 in overviews.
        bands: names to make, of those the dialect has; None makes all.
        true_shapes: False repeats Earth Search v1's claim that aot and wvp are 20 m.
        seed: another seed is another landscape.
        workers: threads; None takes one per core.
    """
    root = Path(directory).resolve()
    base_url = base_url.rstrip("/")
    days = [day if isinstance(day, date) else date.fromisoformat(day) for day in dates]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        landscapes = list(pool.map(lambda tile: Landscape(tile, width, seed), tiles))

        def make(job: tuple[str, int, int]) -> dict[str, Any]:
            dialect, day, tile = job
            wanted = [band for band in bands_of(dialect) if bands is None or band in bands]
            scene, arrays = _scene(
                dialect,
                tiles[tile],
                days[day],
                landscape=landscapes[tile],
                pixel_size=pixel_size,
                cloud_cover=_CLOUD_COVERS[(day + tile) % len(_CLOUD_COVERS)],
                edge=_EDGES[(day + tile) % len(_EDGES)],
                bands=wanted,
            )
            files = _write_files(root / "files", dialect, scene, arrays, block)
            return item(dialect, scene, files, base_url=base_url, true_shapes=true_shapes)

        jobs = [
            (dialect, day, tile)
            for dialect in dialects
            for day in range(len(days))
            for tile in range(len(tiles))
        ]
        made = list(pool.map(make, jobs))
    archive = Archive(
        directory=root,
        base_url=base_url,
        items={
            dialect: [
                document for document, job in zip(made, jobs, strict=True) if job[0] == dialect
            ]
            for dialect in dialects
        },
        collections={dialect: collection(dialect, base_url=base_url) for dialect in dialects},
    )
    archive.save()
    return archive


def tile_origin(tile: str) -> tuple[int, int, int]:
    """EPSG code, and easting and northing in metres of the upper left corner of an MGRS tile.

    Tiles of Sentinel-2 are the 100 km squares of MGRS, grown to 109.8 km eastward
    and southward from a corner that is moved out to the next multiple of 60 m:
    10TFR starts at 600000 5100000, 13TDE at 399960 4500000.
    """
    zone, band, column, row = int(tile[:2]), tile[2], tile[3], tile[4]
    # Columns repeat every three zones, rows every 2000 km; even zones start five rows on.
    easting = "ABCDEFGHJKLMNPQRSTUVWXYZ".index(column) - (zone - 1) % 3 * 8 + 1
    rows = "ABCDEFGHJKLMNPQRSTUV"
    northing = (rows.index(row) - (0 if zone % 2 else 5)) % 20
    latitude = -80 + 8 * "CDEFGHJKLMNPQRSTUVWX".index(band) + 4
    south = band < "N"
    middle = latitude * 1.107 + (100 if south else 0)
    northing += 20 * round((middle - northing) / 20)
    # The multiples are counted from the equator, which is at 10 000 km in southern zones.
    equator = 10_000_000 if south else 0
    top = (northing + 1) * 100_000 - equator
    return (
        (32700 if south else 32600) + zone,
        easting * 100_000 // 60 * 60,
        -(-top // 60) * 60 + equator,
    )


def _scene(
    dialect: str,
    tile: str,
    day: date,
    *,
    landscape: Landscape,
    pixel_size: int,
    cloud_cover: float,
    edge: SwathEdge,
    bands: Sequence[str],
) -> tuple[SceneFacts, dict[str, NDArray[Any]]]:
    """The facts of a scene and its arrays, which always include scl."""
    epsg, west, north = tile_origin(tile)
    width = landscape.size(10)
    extent = width * pixel_size
    to_degrees = Transformer.from_crs(epsg, 4326, always_xy=True)
    corners = [
        to_degrees.transform(west + u * extent, north - v * extent) for u, v in edge.outline()
    ]
    centre = to_degrees.transform(west + extent / 2, north - extent / 2)
    # Tiles further south are seen later in the pass; names keep them apart where not.
    seconds = 19 * 3600 + 11 * 60 + 53.327 + (5_100_000 - north) / 6_700
    scene = SceneFacts(
        tile=tile,
        epsg=epsg,
        origin=(west, north),
        pixel_size=pixel_size,
        width=width,
        seen=datetime.combine(day, time(), UTC) + timedelta(milliseconds=round(seconds * 1000)),
        orbit=13,
        outline=tuple((round(lon, 7), round(lat, 7)) for lon, lat in corners),
        centroid=centre,
        cloud_cover=0.0,
        class_percentages={},
        nodata_percentage=0.0,
    )
    resolutions = {band: resolution_of(dialect, band) for band in bands}
    arrays = landscape.scene(
        day,
        cloud_cover=cloud_cover,
        edge=edge,
        boa_offset=scene.boa_offset(dialect),
        resolutions={"scl": 20, **resolutions},
    )
    counts = np.bincount(arrays["scl"].ravel(), minlength=12)
    valid = int(counts[1:].sum())
    percent = {number: round(100 * int(counts[number]) / valid, 6) for number in range(1, 12)}
    scene = replace(
        scene,
        cloud_cover=round(100 * int(counts[8:11].sum()) / valid, 6),
        class_percentages=percent,
        nodata_percentage=round(100 * int(counts[0]) / int(counts.sum()), 6),
    )
    if "scl" not in bands:
        del arrays["scl"]
    return scene, arrays


def _write_files(
    root: Path,
    dialect: str,
    scene: SceneFacts,
    arrays: dict[str, NDArray[Any]],
    block: int,
) -> dict[str, FileFacts]:
    """Write every file of a scene; asset key or band → what was written."""
    keys = {band: scene.file_key(dialect, band) for band in arrays}
    for band, array in arrays.items():
        path = root / keys[band]
        path.parent.mkdir(parents=True, exist_ok=True)
        resolution = resolution_of(dialect, band)
        full, overview = _blocks(dialect, resolution, block)
        reflectance = BY_NAME[band].reflectance
        write_cog(
            path,
            array,
            transform=_transform(scene, scene.width // array.shape[-1] * scene.pixel_size),
            epsg=scene.epsg,
            block=full,
            overview_block=overview,
            resampling="nearest" if band == "scl" else "average",
            scale=0.0001 if reflectance else None,
            offset=scene.boa_offset(dialect) / 10_000 if reflectance else None,
        )
    small = _preview(scene, arrays)
    for name, key in scene.other_files(dialect).items():
        keys[name] = key
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            pixel = scene.width * scene.pixel_size / small.shape[-1]
            write_cog(
                path,
                small,
                transform=_transform(scene, pixel),
                epsg=scene.epsg,
                block=128,
                overviews=(),
            )
        elif path.suffix == ".jpg":
            _write_jpeg(path, small)
        elif path.suffix == ".json":
            path.write_text(json.dumps({"utmZone": int(scene.tile[:2]), "synthetic": True}))
        else:
            path.write_text(f"<synthetic tile='{scene.tile}' product='{scene.product(dialect)}'/>")
    moment = scene.created.timestamp()
    facts: dict[str, FileFacts] = {}
    for name, key in keys.items():
        content = (root / key).read_bytes()
        facts[name] = FileFacts(key, len(content), hashlib.sha256(content).hexdigest())
        os.utime(root / key, (moment, moment))
    return facts


def _blocks(dialect: str, resolution: int, block: int) -> tuple[int, int]:
    """Tile size at full resolution and in overviews, where 1024 is called ``block``.

    Collection 1 has 1024 and 512 in every file. Earlier files of Earth Search have
    1024/512 at 10 m, 512/256 at 20 m, 256/128 at 60 m; Planetary Computer's 512/512.
    """
    if dialect == EARTH_SEARCH_C1:
        full, overview = block, block // 2
    elif dialect == EARTH_SEARCH_V1:
        full = block // {10: 1, 20: 2, 60: 4}[resolution]
        overview = full // 2
    elif dialect == PLANETARY_COMPUTER:
        full = overview = block // 2
    else:
        raise ValueError(f"unknown dialect {dialect!r}")
    return max(16, full), max(SMALLEST_OVERVIEW_BLOCK, overview)


def _transform(scene: SceneFacts, pixel: float) -> tuple[float, float, float, float, float, float]:
    west, north = scene.origin
    return (pixel, 0.0, west, 0.0, -pixel, north)


def _preview(scene: SceneFacts, arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """(band=3, y, x) uint8: every few pixels of visual, or grey where it was not made."""
    step = max(1, scene.width // 110)
    if "visual" in arrays:
        return arrays["visual"][:, ::step, ::step].astype(np.uint8)
    size = -(-scene.width // step)
    return np.full((3, size, size), 128, np.uint8)


def _write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    # Without PAM, or GDAL leaves the transform in an .aux.xml; rasterio warns if there is none.
    count, height, width = pixels.shape
    with (
        rasterio.Env(session=DummySession(), GDAL_PAM_ENABLED="NO"),
        rasterio.open(
            path,
            "w",
            driver="JPEG",
            width=width,
            height=height,
            count=count,
            dtype="uint8",
            transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
        ) as target,
    ):
        target.write(pixels)
