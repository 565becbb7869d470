"""The output grid of arrays over any area: a ``GeoBox`` from what was asked. Pure.

Grids are north up; pixel edges lie on multiples of the pixel size, so that two answers of one
CRS and resolution share their pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from catalog.cube import Grid
from catalog.errors import ConfigError, NotFoundError, UsageError, first_line

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

WIDEST = 2_000_000
"""Pixels along a side: 20 m pixels reach around the globe."""
RESAMPLING = (
    "nearest",
    "bilinear",
    "cubic",
    "cubic_spline",
    "lanczos",
    "average",
    "mode",
    "max",
    "min",
    "med",
    "q1",
    "q3",
    "sum",
    "rms",
)
"""What GDAL's warp knows."""
_DEGREE = 111_320.0


def require_odc() -> None:
    """Raises ConfigError where the packages of the extra ``load`` are missing."""
    try:
        import odc.geo  # noqa: F401
        import rasterio.warp  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"arrays over any area need odc-geo and rasterio ({first_line(error)}): "
            "pip install 'cogcat[load]'"
        ) from error


def parse_crs(crs: Any) -> CRS:
    """``EPSG:32610``, 32610, WKT, a pyproj, rasterio or odc-geo CRS … as pyproj's.

    Raises:
        UsageError: not a CRS, or neither geographic nor projected.
    """
    try:
        if not isinstance(crs, CRS | str | int):
            crs = crs.to_wkt()
        found = CRS.from_user_input(crs)
    except (CRSError, AttributeError) as error:
        raise UsageError(
            f"unknown crs {crs!r}: give a code such as EPSG:32610 or EPSG:4326, or WKT"
        ) from error
    if not (found.is_geographic or found.is_projected):
        raise UsageError(f"crs {found.name!r} is neither geographic nor projected")
    return found


def most_common(epsgs: Iterable[int]) -> int:
    """The EPSG code named most often; of several the lowest."""
    return min(Counter(epsgs).items(), key=lambda code: (-code[1], code[0]))[0]


def parse_resampling(
    resampling: str | Mapping[str, str], bands: Iterable[str], known: Mapping[str, str]
) -> dict[str, str]:
    """Resampling by band, in rasterio's names.

    Args:
        resampling: one for all, or by band with ``*`` for the others (nearest where not given).
        known: what else the bands are called → their names.

    Raises:
        NotFoundError: no such resampling; the message lists those there are.
        UsageError: it names a band that is not opened.
    """
    bands = list(bands)
    given = {"*": resampling} if isinstance(resampling, str) else dict(resampling)
    named = {known.get(key, key): value for key, value in given.items()}
    for key, value in named.items():
        if value not in RESAMPLING:
            raise NotFoundError(f"unknown resampling {value!r}; known are {', '.join(RESAMPLING)}")
        if key != "*" and key not in bands:
            raise UsageError(f"resampling of {key!r}: only {', '.join(bands)} are opened")
    return {band: named.get(band, named.get("*", "nearest")) for band in bands}


def output_grid(
    *, crs: CRS, resolution: float, area: BaseGeometry | None, sources: Iterable[Grid]
) -> GeoBox:
    """The grid of ``crs`` that covers ``area``, or else ``sources``.

    Args:
        resolution: pixel size in the unit of ``crs``.
        area: EPSG:4326, longitude latitude; may run beyond 180.
        sources: grids to cover where no area is asked for.

    Raises:
        UsageError: a resolution that is no size, or seems of another unit; more pixels than
            ``WIDEST`` along a side; an area that ``crs`` cannot show.
    """
    from odc.geo.geobox import GeoBox
    from odc.geo.geom import BoundingBox

    _check_resolution(crs, resolution)
    code = crs_text(crs)
    if area is not None:
        bounds = [_bounds(area, "EPSG:4326", code)]
    else:
        bounds = [_bounds(_ground(grid), f"EPSG:{grid.epsg}", code) for grid in set(sources)]
    corners = np.array(bounds, np.float64)
    if not np.isfinite(corners).all():
        raise UsageError(f"the area cannot be shown in {code}: part of it has no coordinates there")
    west, south = corners[:, :2].min(axis=0)
    east, north = corners[:, 2:].max(axis=0)
    for low, high in ((west, east), (south, north)):
        if (high - low) / resolution > WIDEST:
            raise UsageError(
                f"resolution {resolution:g} over {high - low:g} {unit_of(crs)}s of {code} is more "
                f"than {WIDEST} pixels: ask for a smaller area or larger pixels"
            )
    box = BoundingBox(float(west), float(south), float(east), float(north), code)
    return GeoBox.from_bbox(box, resolution=resolution)


def given_grid(like: Any) -> GeoBox:
    """The grid of a ``GeoBox``, or of an xarray object that has a CRS.

    Raises:
        UsageError: it has no grid, no CRS, or is turned.
    """
    from odc.geo.geobox import GeoBox

    found = (
        like if isinstance(like, GeoBox) else getattr(getattr(like, "odc", None), "geobox", None)
    )
    if not isinstance(found, GeoBox) or found.crs is None:
        raise UsageError(
            f"no grid in {type(like).__name__}: give a GeoBox, or an array with coordinates and CRS"
        )
    if not found.axis_aligned:
        raise UsageError("the grid given is turned: only grids along the axes can be filled")
    return found


def geobox_of(grid: Grid) -> GeoBox:
    """A cube's grid as odc-geo has it."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox((grid.height, grid.width), Affine(*grid.transform), f"EPSG:{grid.epsg}")


def middle_longitude(grid: GeoBox) -> float:
    """Degrees, of the middle of ``grid``."""
    height, width = grid.shape
    x, y = grid.transform @ (width / 2, height / 2)
    return float(_transformer(str(grid.crs), "EPSG:4326").transform(x, y)[0])


def metres(grid: GeoBox) -> float:
    """Pixel size of ``grid`` in metres at most, as a rule: the larger side."""
    crs = CRS.from_user_input(str(grid.crs))
    size = max(abs(grid.resolution.x), abs(grid.resolution.y))
    if crs.is_geographic:
        return float(size * _DEGREE)
    return float(size * crs.axis_info[0].unit_conversion_factor)


def coordinates(grid: GeoBox) -> dict[str, Any]:
    """``y``, ``x`` (pixel centres) and ``spatial_ref`` (CF grid mapping, WKT, ``GeoTransform`` in
    GDAL order), for a dataset."""
    crs = CRS.from_user_input(str(grid.crs))
    a, b, c, d, e, f = grid.transform[:6]
    axes = {axis["axis"]: axis for axis in crs.cs_to_cf()}
    return {
        "y": ("y", f + e * (np.arange(grid.shape.y) + 0.5), axes.get("Y", {})),
        "x": ("x", c + a * (np.arange(grid.shape.x) + 0.5), axes.get("X", {})),
        "spatial_ref": (
            (),
            np.int64(0),
            {**crs.to_cf(), "GeoTransform": " ".join(repr(float(v)) for v in (c, a, b, f, d, e))},
        ),
    }


def crs_text(crs: CRS) -> str:
    """``EPSG:…`` where it has a code, else WKT."""
    code = crs.to_epsg()
    return crs.to_wkt() if code is None else f"EPSG:{code}"


def unit_of(crs: CRS) -> str:
    """``metre``, ``degree`` …"""
    return str(crs.axis_info[0].unit_name)


def _ground(grid: Grid) -> BaseGeometry:
    a, _, c, _, e, f = grid.transform
    return shapely.box(c, f + e * grid.height, c + a * grid.width, f)


def _check_resolution(crs: CRS, resolution: float) -> None:
    if not (isinstance(resolution, int | float) and math.isfinite(resolution) and resolution > 0):
        raise UsageError(f"resolution {resolution!r} is not the size of a pixel")
    if crs.is_geographic and resolution >= 1:
        raise UsageError(
            f"resolution {resolution:g} is in degrees for {crs_text(crs)}: "
            f"{resolution:g} m are about {resolution / _DEGREE:.6f}"
        )
    if crs.is_projected and resolution < 0.1:
        raise UsageError(
            f"resolution {resolution:g} is in {unit_of(crs)}s for {crs_text(crs)}: "
            f"{resolution:g} degrees are about {resolution * _DEGREE:.0f} m"
        )


def _bounds(outline: BaseGeometry, source: str, target: str) -> tuple[float, ...]:
    """The box around ``outline`` in another CRS, its edges followed and not only its corners."""
    west, south, east, north = outline.bounds
    step = max(east - west, north - south) / 50
    if step > 0:
        outline = shapely.segmentize(outline, step)
    there = _transformer(source, target)
    moved = shapely.transform(outline, there.transform, interleaved=False)
    points = shapely.get_coordinates(moved)
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)
