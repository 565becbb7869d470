"""Write one COG laid out like those of Earth Search.

The GTiff driver copies a dataset with its overviews, so that full resolution and
overviews can have different tile sizes; GDAL's COG driver has one for all levels.
The result has all IFDs before the pixels, full resolution first, and the pixels
of the smallest overview first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.session import DummySession
from rasterio.transform import Affine

SMALLEST_OVERVIEW = 128
"""Pixels: no overview is made narrower than this, except the first."""
SMALLEST_OVERVIEW_BLOCK = 64
"""Pixels: GDAL refuses less for ``GDAL_TIFF_OVR_BLOCKSIZE``."""


def overview_levels(width: int) -> tuple[int, ...]:
    """Decimation factors ``(2, 4, …)`` for an image ``width`` pixels wide.

    Sizes round up (1098 → 549, 275, 138), as GDAL's do. There is always one level.
    """
    factors = [2]
    while -(-width // (factors[-1] * 2)) >= SMALLEST_OVERVIEW:
        factors.append(factors[-1] * 2)
    return tuple(factors)


def write_cog(
    path: Path,
    array: NDArray[np.generic],
    *,
    transform: tuple[float, float, float, float, float, float],
    epsg: int,
    block: int = 256,
    overview_block: int = 128,
    overviews: Sequence[int] | None = None,
    resampling: Literal["average", "nearest"] = "average",
    nodata: float | None = 0,
    compress: str | None = "DEFLATE",
    predictor: int = 2,
    zlevel: int = 1,
    tiled: bool = True,
    sparse_ok: bool = False,
    bigtiff: bool = False,
    scale: float | None = None,
    offset: float | None = None,
    statistics: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``array`` as a GeoTIFF with internal overviews; the same call writes the same bytes.

    Args:
        path: replaced if it exists; its directory must exist.
        array: ``(y, x)``, or ``(band=3, y, x)`` which becomes one file of three
            pixel-interleaved samples, as ``visual`` is. North up.
        transform: affine order (a, b, c, d, e, f), metres of ``epsg``.
        block: tile width and height of full resolution, a multiple of 16. A small
            one makes a long header: six to eight bytes a tile, sixteen in a BigTIFF.
        overview_block: the same for every overview; a power of two, at least 64.
        overviews: decimation factors; None takes ``overview_levels``, ``()`` makes none.
        resampling: of the overviews; ``nearest`` for classes.
        compress: None writes plain tiles (and no predictor).
        tiled: False writes strips, which is no COG: bad input.
        sparse_ok: tiles that are all nodata get offset 0 and length 0, and no bytes.
        bigtiff: 64-bit offsets; never chosen because of size.
        scale, offset: GDAL metadata, as strings in the header; pixels are not changed.
        statistics: ``STATISTICS_*`` strings of the valid pixels, as the real files have.
        metadata: further ``<Item>`` elements of the header's GDAL metadata; a long
            value makes a header of any length.
    """
    bands = array if array.ndim == 3 else array[np.newaxis]
    count, height, width = bands.shape
    factors = overview_levels(width) if overviews is None else tuple(overviews)
    options: dict[str, str | int] = {
        "TILED": "YES" if tiled else "NO",
        "COPY_SRC_OVERVIEWS": "YES" if factors else "NO",
        "BIGTIFF": "YES" if bigtiff else "NO",
        "SPARSE_OK": "YES" if sparse_ok else "NO",
        "INTERLEAVE": "PIXEL",
    }
    if tiled:
        options |= {"BLOCKXSIZE": block, "BLOCKYSIZE": block}
    if compress:
        options |= {"COMPRESS": compress, "PREDICTOR": predictor}
    if compress == "DEFLATE":
        options["ZLEVEL"] = zlevel
    if count == 3:
        options["PHOTOMETRIC"] = "RGB"
    with (
        # Without a session of AWS, which rasterio makes where there are keys.
        rasterio.Env(session=DummySession(), GDAL_TIFF_OVR_BLOCKSIZE=overview_block),
        rasterio.open(
            "",
            "w+",
            driver="MEM",
            width=width,
            height=height,
            count=count,
            dtype=bands.dtype,
            nodata=nodata,
            crs=f"EPSG:{epsg}",
            transform=Affine(*transform),
        ) as source,
    ):
        source.write(bands)
        if factors:
            source.build_overviews(factors, Resampling[resampling])
        if scale is not None:
            source.scales = (scale,) * count
        if offset is not None:
            source.offsets = (offset,) * count
        source.update_tags(OVR_RESAMPLING_ALG=resampling.upper(), **(metadata or {}))
        if statistics:
            for number, band in enumerate(bands, 1):
                source.update_tags(number, **_statistics(band, nodata))
        rasterio.shutil.copy(source, path, driver="GTiff", **options)


def _statistics(band: NDArray[np.generic], nodata: float | None) -> dict[str, str]:
    valid = band if nodata is None else band[band != nodata]
    if valid.size == 0:
        return {}
    return {
        "STATISTICS_MAXIMUM": f"{valid.max()}",
        "STATISTICS_MEAN": f"{valid.mean():.14g}",
        "STATISTICS_MINIMUM": f"{valid.min()}",
        "STATISTICS_STDDEV": f"{valid.std():.14g}",
        "STATISTICS_VALID_PERCENT": f"{100 * valid.size / band.size:.4g}",
    }
