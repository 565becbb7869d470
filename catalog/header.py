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
from typing import Protocol

from catalog.affine import Transform, checked_transform
from catalog.blame import is_everyones, of_scene
from catalog.directories import (
    PROJECTED_CRS,
    RASTER_TYPE,
    Directory,
    Tag,
    read_directories,
)
from catalog.errors import DamagedFileError, HeaderError, SourceError, UnreadableFileError
from catalog.levels import Level, read_levels
from catalog.patience import Patience
from catalog.remote_file import FileBytes, Server, Unanswered
from catalog.scene import Asset
from catalog.settings import Source
from catalog.sources import hosts_of, location, resolve

PIXEL_IS_POINT = 2
"""GTRasterTypeGeoKey: the tie point is a pixel's centre, not its corner."""
PATIENCE = Patience()
GONE = 64
"""Files in a row, of any scene, that a source may leave unanswered before it counts as away."""
RESAMPLED = ("aot", "wvp")
"""Bands that a processor may write at another resolution than the item's template says."""


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
    do so when a second read gives the same bytes, an answer that makes none when it comes again.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        concurrency: int = 32,
        patience: Patience | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._hosts = hosts_of(self._sources)
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
            SourceError: the source has answered nothing at all for ``GONE`` files in a row.
        """
        try:
            source, key = resolve(asset.href, self._sources)
            if source.name not in self._servers:
                self._servers[source.name] = Server(source, self._hosts)
            return await self._read(asset, key, self._servers[source.name])
        except HeaderError as error:
            raise type(error)(error.reason, band=asset.band, href=asset.href) from error.__cause__
        except BaseException as error:
            if is_everyones(error):
                raise
            # Of a library that this address or this file was too much for.
            found = of_scene(error, None)
            raise HeaderError(found.reason, band=asset.band, href=asset.href) from error

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
            data = FileBytes(server.store, key, ranges=server.ranges)
            throttled = False
            try:
                async with self._gate:
                    header = await _read(asset, server.source, key, data)
                server.unanswered, server.ranges = 0, data.ranges
                return replace(header, requests=requests + data.requests)
            except Unanswered as error:
                if error.tries is not None:
                    server.unanswered = 0
                elif server.unanswered >= GONE:
                    raise _gone(server, asset, error.reason) from error.__cause__
                if retries >= self._patience.retries or retries + 1 == error.tries:
                    server.unanswered += error.tries is None
                    raise HeaderError(error.reason) from error.__cause__ or error
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
    levels = read_levels(directories, asset.band, size)
    first = directories[0]
    transform = _transform(first, asset)
    return Header(
        asset=asset,
        location=location(source, key),
        size=size,
        etag=data.etag,
        last_modified=data.last_modified,
        checksum=_checksum(source, data.etag, data.last_modified),
        sha256=data.sha256,
        read=data.read_bytes,
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
    if source.scheme == "s3" and etag and not etag.startswith("W/"):
        return etag  # a weak one matches nothing that is asked for with If-Match
    if last_modified is None:
        return None
    return last_modified.replace(microsecond=0) + timedelta(seconds=1)


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
        return _checked(asset.transform, "its item's transform")
    else:
        raise UnreadableFileError("neither the file nor its item says where its pixels lie")
    a, b, c, d, e, f = _checked(found, "transform")
    if image.geo_key(RASTER_TYPE) == PIXEL_IS_POINT:
        return (a, b, c - a / 2, d, e, f - e / 2)
    return found


def _checked(found: Transform, whose: str) -> Transform:
    """The same of a file's and an item's: both name the group that the pixels go to."""
    try:
        return checked_transform(found)
    except ValueError as error:
        raise UnreadableFileError(
            f"its pixels are on no north-up grid of UTM: {whose} {found} is {error}"
        ) from error


def _gone(server: Server, asset: Asset, reason: str) -> SourceError:
    return SourceError(
        f"source {server.source.name!r} answers nothing any more ({asset.href} {reason}): what is "
        "indexed is recorded; see whether it is there, then run the crawl again"
    )
