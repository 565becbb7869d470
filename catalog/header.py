"""One file's header: its references at every level and its identity, from one ranged GET.

``directories.py`` parses; the bytes it asks for are answered from the first
``FIRST_READ`` of the file, and from the store again only where a header is longer.
The response that carried those bytes also carried ETag, size and last-modified, so
no HEAD is needed. (virtual-tiff opens one file at a time and hides the read-ahead;
its codecs are used, and ``tests/test_header.py`` holds our references against its.)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from virtual_tiff.constants import COMPRESSORS, SAMPLE_DTYPES

from catalog.directories import (
    PROJECTED_CRS,
    RASTER_TYPE,
    Directory,
    Tag,
    read_directories,
)
from catalog.errors import DamagedFileError, HeaderError, SourceError, UnreadableFileError
from catalog.patience import Patience
from catalog.remote_file import FileBytes, Server, Unanswered
from catalog.scene import Asset
from catalog.settings import Source
from catalog.sources import location, resolve

REDUCED, MASK = 1, 4
"""NewSubfileType bits of an overview and of a transparency mask (TIFF 6.0, section 8)."""
PIXEL_IS_POINT = 2
"""GTRasterTypeGeoKey: the tie point is a pixel's centre, not its corner."""
PREDICTORS = (1, 2)
MAX_SIDE, MAX_TILE, MAX_SAMPLES = 2**20, 2**14, 2**8
"""What a sound file stays below by far; beyond, a damaged one would fill the memory."""
PATIENCE = Patience()
GONE = 64
"""Files in a row, of any scene, that a source may leave unanswered before it counts as away."""
RESAMPLED = ("aot", "wvp")
"""Bands that a processor may write at another resolution than the item's template says."""

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One image of the file: the full resolution or an overview."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    samples: int
    """Per pixel; above 1 only in ``visual``."""
    interleaved: bool
    """True where one tile holds all samples (planar configuration 1)."""
    dtype: str
    """NumPy name without byte order: ``uint16``."""
    byte_order: str
    """``little`` or ``big``."""
    compression: int
    """TIFF tag 259, one of virtual-tiff's ``COMPRESSORS``."""
    predictor: int
    """TIFF tag 317: 1 none, 2 horizontal differencing."""
    nodata: int | None
    offsets: NDArray[np.uint64]
    """Shape (planes, tile rows, tile columns); planes is 1 where interleaved. 0 with length 0: no
    such tile in the file, it reads as nodata."""
    lengths: NDArray[np.uint64]
    """Bytes, same shape as ``offsets``."""


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What one file's header says, and which file that was."""

    asset: Asset
    location: str
    """``vcc://{source}/{key}``, as references store it."""
    size: int
    """Bytes of the whole file."""
    etag: str | None
    """As served, quotes included."""
    last_modified: datetime | None
    """Aware, UTC."""
    checksum: str | datetime | None
    """What references carry so that a changed file is refused: an ETag on S3, else the time of
    last modification, or None where the store offers neither."""
    sha256: str
    """Hex, of the bytes read, in the order read: the first ``read`` bytes of the file unless its
    header is longer than ``FIRST_READ``."""
    read: int
    """Bytes read."""
    requests: int
    """GET requests it took: 1 unless the header is longer than ``FIRST_READ``, or one failed."""
    epsg: int | None
    transform: Transform
    """Of the full resolution, affine order (a, b, c, d, e, f), metres of the CRS."""
    levels: tuple[Level, ...]
    """Full resolution first, then overviews by falling width; masks left out."""
    warnings: tuple[str, ...]
    """What the item says otherwise but may: one sentence each."""


class Reads(Protocol):
    """Reads headers; ``HeaderReader`` does in this process, ``cluster.ClusterReader`` in others."""

    @property
    def scenes_at_once(self) -> int:
        """Scenes that are worth asking for together: fewer leave it idle."""
        ...

    async def read(self, asset: Asset) -> Header:
        """The header of ``asset``'s file, or a ``HeaderError``."""
        ...

    async def read_all(self, assets: Sequence[Asset]) -> list[Header | HeaderError]:
        """One answer per asset, in their order: a file that cannot be read keeps none of the
        others from being. Any other error is raised, and is nobody's fault in particular."""
        ...


class HeaderReader:
    """Reads headers with at most ``concurrency`` requests in flight; one client per source.

    A request that meets 429, 5xx, a broken connection or a timeout is made again after growing,
    scattered pauses, or when the server asks for it. A header that makes no sense is believed to
    do so when a second read gives the same bytes.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        concurrency: int = 32,
        patience: Patience | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._servers: dict[str, Server] = {}
        self._gate = asyncio.Semaphore(concurrency)
        self._patience = patience or PATIENCE

    @property
    def scenes_at_once(self) -> int:
        return 1

    async def read(self, asset: Asset) -> Header:
        """The header of ``asset``'s file.

        Raises:
            UnreadableFileError: the file is none that can be referenced: for good.
            MissingFileError: it is not there, or damaged (``DamagedFileError``).
            HeaderError: no source reads the href, or its server did not give it.
            SourceError: the source has answered nothing for ``GONE`` files in a row.
        """
        try:
            source, key = resolve(asset.href, self._sources)
            if source.name not in self._servers:
                self._servers[source.name] = Server(source)
            return await self._read(asset, key, self._servers[source.name])
        except HeaderError as error:
            raise type(error)(error.reason, band=asset.band, href=asset.href) from error.__cause__

    async def read_all(self, assets: Sequence[Asset]) -> list[Header | HeaderError]:
        """The headers of ``assets``, each as ``read`` gives it or the error that it raises."""
        found = await asyncio.gather(*map(self.read, assets), return_exceptions=True)
        for result in found:
            if isinstance(result, BaseException) and not isinstance(result, HeaderError):
                raise result
        return found  # type: ignore[return-value]

    async def _read(self, asset: Asset, key: str, server: Server) -> Header:
        requests = retries = 0
        nonsense: str | None = None
        while True:
            await server.wait()
            data = FileBytes(server.store, key)
            throttled = False
            try:
                async with self._gate:
                    header = await _read(asset, server.source, key, data)
                server.unanswered = 0
                return replace(header, requests=requests + data.requests)
            except Unanswered as error:
                if server.unanswered >= GONE:
                    raise _gone(server, asset, error.reason) from error.__cause__
                if retries >= self._patience.retries:
                    server.unanswered += 1
                    raise HeaderError(error.reason) from error.__cause__
                throttled = error.throttled
            except HeaderError:
                if not data.pieces:
                    server.unanswered = 0
                    raise
                if retries >= self._patience.retries or data.sha256 == nonsense:
                    server.unanswered = 0
                    raise
                nonsense = data.sha256
            requests += data.requests
            retries += 1
            await asyncio.sleep(self._patience.pause(retries))
            if throttled:
                requests += await server.throttled(key)


async def _read(asset: Asset, source: Source, key: str, data: FileBytes) -> Header:
    await data.open()
    size = int(data.meta["size"])
    if asset.size is not None and asset.size != size:
        raise DamagedFileError(f"the file has {size} bytes, its item says {asset.size}")
    directories = await read_directories(data.read)
    # The first image and its overviews; masks and further pages are other images.
    first = directories[0]
    overviews = [
        other
        for other in directories[1:]
        if other.integer(Tag.SUBFILE_TYPE, 0) & (REDUCED | MASK) == REDUCED
    ]
    levels = tuple(sorted(map(_level, [first, *overviews]), key=lambda level: -level.width))
    _check(levels, size)
    transform = _transform(first, asset)
    last_modified = data.meta["last_modified"]
    return Header(
        asset=asset,
        location=location(source, key),
        size=size,
        etag=data.meta["e_tag"],
        last_modified=last_modified,
        checksum=_checksum(source, data.meta["e_tag"], last_modified),
        sha256=data.sha256,
        read=sum(len(piece) for _, piece in data.pieces),
        requests=data.requests,
        epsg=_epsg(first),
        transform=transform,
        levels=levels,
        warnings=_compare_shape(levels[0], transform, asset),
    )


def _checksum(
    source: Source, etag: str | None, last_modified: datetime | None
) -> str | datetime | None:
    """Icechunk sends a stored ETag without quotes: S3 takes that, a strict HTTP server answers 412
    and obstore's local store never matches, so elsewhere the time of last modification serves.

    Icechunk keeps whole seconds and HTTP sends whole seconds, both cut off, while files have
    fractions: the next whole second is the first that no unchanged file lies after.
    """
    if source.scheme == "s3" and etag:
        return etag
    if last_modified is None:
        return None
    return last_modified.replace(microsecond=0) + timedelta(seconds=1)


def _level(image: Directory) -> Level:
    if Tag.TILE_WIDTH not in image.fields or Tag.TILE_HEIGHT not in image.fields:
        raise UnreadableFileError("striped, not tiled: not a Cloud-Optimized GeoTIFF")
    width, height = image.integer(Tag.WIDTH), image.integer(Tag.HEIGHT)
    tile_width, tile_height = image.integer(Tag.TILE_WIDTH), image.integer(Tag.TILE_HEIGHT)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise UnreadableFileError(f"an image of {height} rows and {width} columns")
    if not (0 < tile_width <= MAX_TILE and 0 < tile_height <= MAX_TILE):
        raise UnreadableFileError(f"tiles of {tile_height} rows and {tile_width} columns")
    samples = image.integer(Tag.SAMPLES, 1)
    formats = image.integers(Tag.SAMPLE_FORMAT, 1).tolist()
    bits = image.integers(Tag.BITS, 1).tolist()
    dtype = np.dtype(SAMPLE_DTYPES.get((formats[0], bits[0]), "V"))
    same = len({*formats}) == len({*bits}) == 1
    if not same or dtype.itemsize * 8 != bits[0] or not 0 < samples <= MAX_SAMPLES:
        raise UnreadableFileError(f"{samples} samples of format {formats[:8]} and {bits[:8]} bits")
    if dtype.kind not in "iu":
        raise UnreadableFileError(f"samples are {dtype.name}, not integers")
    predictor = image.integer(Tag.PREDICTOR, 1)
    if predictor not in PREDICTORS:
        raise UnreadableFileError(f"predictor {predictor} is not supported")
    compression = image.integer(Tag.COMPRESSION, 1)
    if compression not in COMPRESSORS or Tag.JPEG_TABLES in image.fields:
        raise UnreadableFileError(f"compression {compression} is not supported")
    interleaved = samples == 1 or image.integer(Tag.PLANAR_CONFIGURATION, 1) == 1
    grid = (
        1 if interleaved else samples,
        math.ceil(height / tile_height),
        math.ceil(width / tile_width),
    )
    offsets = image.integers(Tag.TILE_OFFSETS).astype(np.uint64)
    lengths = image.integers(Tag.TILE_BYTES).astype(np.uint64)
    if offsets.size != math.prod(grid) or lengths.size != offsets.size:
        raise UnreadableFileError(
            f"its table lists {offsets.size} tiles and {lengths.size} sizes, "
            f"an image of this size has {math.prod(grid)}"
        )
    return Level(
        width=width,
        height=height,
        tile_width=tile_width,
        tile_height=tile_height,
        samples=samples,
        interleaved=interleaved,
        dtype=dtype.name,
        byte_order=image.byte_order,
        compression=compression,
        predictor=predictor,
        nodata=_nodata(image.text(Tag.GDAL_NODATA), dtype),
        offsets=offsets.reshape(grid),
        lengths=lengths.reshape(grid),
    )


def _nodata(text: str | None, dtype: np.dtype[Any]) -> int | None:
    if not text:
        return None
    try:
        value = float(text)
        return int(dtype.type(int(value))) if value == int(value) else None
    except (ValueError, OverflowError):
        return None  # GDAL too ignores a nodata that the type cannot hold


def _check(levels: Sequence[Level], size: int) -> None:
    first = levels[0]
    # In floating point: 64 bits of a damaged file overflow. A sparse tile may keep an offset.
    end = max(
        int(np.where(level.lengths > 0, level.offsets + level.lengths.astype(float), 0).max())
        for level in levels
    )
    if end > size:
        raise DamagedFileError(f"truncated: its tiles reach to byte {end}, the file has {size}")
    for level in levels[1:]:
        if (level.samples, level.dtype) != (first.samples, first.dtype):
            raise UnreadableFileError("its overviews have another number or type of samples")


def _compare_shape(level: Level, transform: Transform, asset: Asset) -> tuple[str, ...]:
    """Earth Search v1 says that ``aot`` and ``wvp`` have 20 m pixels; its files have 60 m and 10 m.
    There another shape over the same ground is a warning; elsewhere it is another image."""
    if asset.shape is None or asset.shape == (level.height, level.width):
        return ()
    rows, columns = asset.shape
    text = (
        f"the image has {level.height} rows and {level.width} columns, "
        f"its item says {rows} and {columns}"
    )
    pixel = asset.transform[0] if asset.transform else None
    same_ground = pixel is None or math.isclose(columns * pixel, level.width * transform[0])
    if asset.band in RESAMPLED and same_ground:
        return (f"{asset.band}: {text}",)
    raise UnreadableFileError(text)


def _epsg(image: Directory) -> int | None:
    code = image.geo_key(PROJECTED_CRS)
    return code if code and code < 32767 else None  # 32767: user-defined


def _transform(image: Directory, asset: Asset) -> Transform:
    """GeoTIFF 1.1, section 7.3.1: a tie point and a pixel scale, or a matrix."""
    matrix = image.floats(Tag.TRANSFORMATION, 16)
    scale, tie = image.floats(Tag.PIXEL_SCALE, 2), image.floats(Tag.TIE_POINT, 6)
    if matrix:
        found = (matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7])
    elif scale and tie:
        (sx, sy), (i, j, _, x, y, _) = scale, tie
        found = (sx, 0.0, x - i * sx, 0.0, -sy, y + j * sy)
    elif asset.transform is not None:
        return asset.transform
    else:
        raise UnreadableFileError("neither the file nor its item says where its pixels lie")
    a, b, c, d, e, f = found
    if not all(map(math.isfinite, found)) or a <= 0 or b or d or e >= 0:
        raise UnreadableFileError(f"its pixels are on no north-up grid: transform {found}")
    if image.geo_key(RASTER_TYPE) == PIXEL_IS_POINT:
        return (a, b, c - a / 2, d, e, f - e / 2)
    return found


def _gone(server: Server, asset: Asset, reason: str) -> SourceError:
    return SourceError(
        f"source {server.source.name!r} answers nothing any more ({asset.href} {reason}): what is "
        "indexed is recorded; see whether it is there, then run the crawl again"
    )
