"""The output grid of arrays over any area: a ``GeoBox`` from what was asked. Pure.

Grids are north up; pixel edges lie on multiples of the pixel size, so that two answers of one
CRS and resolution share their pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

from catalog.cube import Grid
from catalog.errors import ConfigError, NotFoundError, UsageError, first_line
from catalog.json_values import brief, finite
from catalog.seam import narrowest, projected, seam_of, transformer, unwrapped

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

WIDEST = 2_000_000
"""Pixels along a side: 20 m pixels reach around the globe."""
LONGEST_CRS = 100_000
"""Characters of a CRS as text: PROJ takes seconds to say that a megabyte is none."""
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
        import odc.geo.xr  # noqa: F401 - `dataset.odc`, which says what grid a dataset has
        import rasterio.warp  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"arrays over any area need odc-geo and rasterio ({first_line(error)}): "
            "pip install 'cogcat[load]'"
        ) from error


def parse_crs(crs: Any) -> CRS:
    """``EPSG:32610``, 32610, WKT, a pyproj, rasterio or odc-geo CRS … as pyproj's.

    Raises:
        UsageError: not a CRS, neither geographic nor projected, or of another planet.
    """
    try:
        if isinstance(crs, Integral) and not isinstance(crs, bool):
            crs = int(crs)  # of numpy, as a table has it
        if not isinstance(crs, CRS | str | int):
            crs = crs.to_wkt()
        if isinstance(crs, str) and len(crs) > LONGEST_CRS:
            raise CRSError("too long")
        found = CRS.from_user_input(crs)
    except (CRSError, AttributeError) as error:
        raise UsageError(
            f"unknown crs {brief(crs)}: give a code such as EPSG:32610 or EPSG:4326, or WKT"
        ) from error
    if not (found.is_geographic or found.is_projected):
        raise UsageError(f"crs {found.name!r} is neither geographic nor projected")
    try:
        transformer("EPSG:4326", crs_text(found))
    except ProjError as error:
        raise UsageError(
            f"crs {found.name!r} is not one of the Earth: {first_line(error)}"
        ) from error
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
    if not isinstance(resampling, str | Mapping):
        raise UsageError(f"resampling {brief(resampling)}: name one, or one for each band")
    given = {"*": resampling} if isinstance(resampling, str) else dict(resampling)
    named = {known.get(key, key): value for key, value in given.items()}
    for key, value in named.items():
        if not isinstance(value, str) or value not in RESAMPLING:
            raise NotFoundError(
                f"unknown resampling {brief(value)}; known are {', '.join(RESAMPLING)}"
            )
        if key != "*" and key not in bands:
            raise UsageError(f"resampling of {brief(key)}: only {', '.join(bands)} are opened")
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
    shown = named(crs)
    seam = seam_of(code)
    if seam is not None and seam.period is not None:
        # Where every turn repeats the last: around the ground, not the long way round the globe.
        parts = [unwrapped(grid) for grid in set(sources)] if area is None else _edges(area)
        turned = [projected(part, code, seam) for part in narrowest(parts)]
        bounds = [(*part.min(axis=0).tolist(), *part.max(axis=0).tolist()) for part in turned]
    elif area is not None:
        bounds = [_bounds(area, "EPSG:4326", code)]
    else:
        bounds = [_bounds(_ground(grid), f"EPSG:{grid.epsg}", code) for grid in set(sources)]
    corners = np.array(bounds, np.float64)
    if not np.isfinite(corners).all():
        raise UsageError(
            f"the area cannot be shown in {shown}: part of it has no coordinates there"
        )
    west, south = corners[:, :2].min(axis=0)
    east, north = corners[:, 2:].max(axis=0)
    for low, high in ((west, east), (south, north)):
        if high - low > WIDEST * resolution:
            raise UsageError(
                f"resolution {resolution:g} over {high - low:g} {unit_of(crs)}s of {shown} is more "
                f"than {WIDEST} pixels: ask for a smaller area or larger pixels"
            )
    box = BoundingBox(float(west), float(south), float(east), float(north), code)
    return GeoBox.from_bbox(box, resolution=float(resolution))


def given_grid(like: Any) -> GeoBox:
    """The grid of a ``GeoBox``, or of an xarray object that has a CRS.

    Raises:
        UsageError: it has no grid, no CRS that ``parse_crs`` takes, is turned, has pixels without
            a size or a place, or more than ``WIDEST`` along a side.
    """
    from odc.geo.geobox import GeoBox

    found = (
        like if isinstance(like, GeoBox) else getattr(getattr(like, "odc", None), "geobox", None)
    )
    if not isinstance(found, GeoBox) or found.crs is None:
        raise UsageError(
            f"no grid in {type(like).__name__}: give a GeoBox, or an array with coordinates and CRS"
        )
    a, b, c, d, e, f = found.transform[:6]
    if not np.isfinite([a, b, c, d, e, f]).all() or not (a or b) or not (d or e):
        raise UsageError("the grid given has pixels without a size, or without a place")
    if max(found.shape) > WIDEST:
        height, width = found.shape
        raise UsageError(
            f"the grid given has {height} rows and {width} columns, more than {WIDEST} along a "
            "side: give a part of it, or larger pixels"
        )
    parse_crs(str(found.crs))
    if not found.axis_aligned:
        raise UsageError("the grid given is turned: only grids along the axes can be filled")
    return found


def geobox_of(grid: Grid) -> GeoBox:
    """A cube's grid as odc-geo has it."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox((grid.height, grid.width), Affine(*grid.transform), f"EPSG:{grid.epsg}")


def middle_longitude(grid: GeoBox) -> float:
    """Degrees, of the middle of ``grid``; not finite where that has none."""
    height, width = grid.shape
    x, y = grid.transform @ (width / 2, height / 2)
    return float(transformer(str(grid.crs), "EPSG:4326").transform(x, y)[0])


def metres(grid: GeoBox) -> float:
    """Pixel size of ``grid`` in metres at most, as a rule: the larger side."""
    crs = CRS.from_user_input(str(grid.crs))
    size = max(abs(grid.resolution.x), abs(grid.resolution.y))
    if crs.is_geographic:
        return float(size * _DEGREE)
    return float(size * crs.axis_info[0].unit_conversion_factor)


def given_centres(like: Any, grid: GeoBox) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The coordinates (y, x) of what ``grid`` was given by, so that both are aligned to the last
    digit; None for a bare ``GeoBox``.

    Raises:
        UsageError: they are not evenly spaced: no grid has them.
    """
    from odc.geo.geobox import GeoBox

    if isinstance(like, GeoBox):
        return None
    found = []
    for name, start, step, size in zip(
        like.odc.spatial_dims,
        (grid.transform.f, grid.transform.c),
        (grid.transform.e, grid.transform.a),
        grid.shape,
        strict=True,
    ):
        own = np.asarray(like.coords[name])
        even = _centres(start, step, size)
        # Written so that NaN is uneven.
        if own.shape != even.shape or not (np.abs(own - even) <= abs(step) / 1e3).all():
            raise UsageError(f"the grid given is uneven: {name!r} has steps of several sizes")
        found.append(own)
    return found[0], found[1]


def _centres(start: float, step: float, size: int) -> NDArray[np.float64]:
    """Of ``size`` pixels from an edge on; where edges are multiples of the pixel size, the same
    numbers to the last digit for every grid, or what is aligned would not be equal."""
    pixels = np.arange(size, dtype=np.float64) + 0.5
    edge = round(start / step)
    if abs(start / step - edge) < 1e-6:
        start, pixels = 0.0, pixels + edge
    centres: NDArray[np.float64] = pixels * step + start
    return centres


def coordinates(
    grid: GeoBox, own: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> dict[str, Any]:
    """``y``, ``x`` (pixel centres) and ``spatial_ref`` (CF grid mapping, WKT, ``GeoTransform`` in
    GDAL order), for a dataset.

    Args:
        own: of ``given_centres``.
    """
    crs = CRS.from_user_input(str(grid.crs))
    a, b, c, d, e, f = grid.transform[:6]
    axes = {axis["axis"]: axis for axis in crs.cs_to_cf()}
    y = _centres(f, e, grid.shape.y) if own is None else own[0]
    x = _centres(c, a, grid.shape.x) if own is None else own[1]
    return {
        "y": ("y", y, axes.get("Y", {})),
        "x": ("x", x, axes.get("X", {})),
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


def named(crs: CRS) -> str:
    """For a message: ``EPSG:…`` where it has a code, else its name."""
    code = crs.to_epsg()
    return f"crs {brief(crs.name)}" if code is None else f"EPSG:{code}"


def unit_of(crs: CRS) -> str:
    """``metre``, ``degree`` …"""
    return str(crs.axis_info[0].unit_name)


def _ground(grid: Grid) -> BaseGeometry:
    a, _, c, _, e, f = grid.transform
    return shapely.box(c, f + e * grid.height, c + a * grid.width, f)


def _check_resolution(crs: CRS, resolution: float) -> None:
    size = finite(resolution)
    if size is None or size <= 0:
        raise UsageError(f"resolution {brief(resolution)} is not the size of a pixel")
    if crs.is_geographic and resolution >= 1:
        raise UsageError(
            f"resolution {resolution:g} is in degrees for {named(crs)}: "
            f"{resolution:g} m are about {resolution / _DEGREE:.6f}"
        )
    if crs.is_projected and resolution < 0.1:
        raise UsageError(
            f"resolution {resolution:g} is in {unit_of(crs)}s for {named(crs)}: "
            f"{resolution:g} degrees are about {resolution * _DEGREE:.0f} m"
        )


def _edges(area: BaseGeometry) -> list[NDArray[np.float64]]:
    """The vertices of each part of ``area``, and points between them."""
    return [shapely.get_coordinates(part) for part in shapely.get_parts(_followed(area))]


def _followed(outline: BaseGeometry) -> BaseGeometry:
    """With points between its corners: a straight edge may be none in another CRS."""
    west, south, east, north = outline.bounds
    step = max(east - west, north - south) / 50
    return shapely.segmentize(outline, step) if step > 0 else outline


def _bounds(outline: BaseGeometry, source: str, target: str) -> tuple[float, ...]:
    """The box around ``outline`` in another CRS, its edges followed and not only its corners."""
    there = transformer(source, target)
    moved = shapely.transform(_followed(outline), there.transform, interleaved=False)
    points = shapely.get_coordinates(moved)
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
