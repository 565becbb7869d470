"""Footprints on a round Earth: GeoJSON in, WKB out, and GeoJSON again.

A footprint is stored as one piece whose longitudes start in [-180, 180) and may
run beyond 180, so that its box never has minx > maxx and plain interval tests
hold. ``area.py`` asks for them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from catalog.errors import ConfigError
from catalog.json_values import brief
from catalog.mending import mended
from catalog.parse import Box

WIDEST = 60.0
"""Degrees of longitude that a footprint may span. A tile is 110 km wide, 12° at 84° N,
the northern end of the MGRS zones; what is wider is not the footprint of a scene."""

MOST_POSITIONS = 10_000
"""Of a footprint. Those of scenes have 5 to some hundreds."""

MOST_CROSSINGS = 10_000
"""Places where its lines cross or touch: mending takes a quarter of a second for as many."""

_POLYGON = 3  # shapely's type id


def footprint(geometry: Mapping[str, Any]) -> tuple[bytes, Box]:
    """A scene's footprint and its (minx, miny, maxx, maxy), degrees, EPSG:4326.

    Takes a GeoJSON Polygon or MultiPolygon. Heights are dropped, invalid rings are
    mended (their polygonal part is kept), and what lies over the antimeridian,
    whether split there (RFC 7946, 3.1.9) or as one ring that jumps from 179 to -179,
    becomes one piece: minx in [-180, 180), maxx perhaps beyond 180.

    Returns:
        Little-endian WKB of a valid 2-D Polygon or MultiPolygon, and its bounds.

    Raises:
        ValueError: not such a geometry, more than ``MOST_POSITIONS`` or ``MOST_CROSSINGS``, a
            coordinate that is not a finite number or not on the globe, no area, around a pole, or
            wider than ``WIDEST``.
    """
    return stored_footprint(footprint_shape(geometry))


def footprint_shape(geometry: Mapping[str, Any]) -> BaseGeometry:
    """``footprint`` before it is written: valid, one piece, minx in [-180, 180)."""
    polygons = _align([_polygon(rings) for rings in _polygons_of(geometry)])
    shape = polygons[0] if len(polygons) == 1 else shapely.GeometryCollection(polygons)
    try:
        shape = mended(shape, MOST_CROSSINGS, 1)
    except (ValueError, shapely.errors.ShapelyError) as error:
        raise ValueError(f"the geometry cannot be mended: {error}") from error
    parts = [part for part in shapely.get_parts(shape) if shapely.get_type_id(part) == _POLYGON]
    if len(parts) == 0 or not (shape := _joined(parts)).area > 0:
        raise ValueError("the geometry has no area")
    west, _, east, _ = shape.bounds
    if east - west > WIDEST:
        raise ValueError(f"the geometry spans {east - west:.0f}° of longitude, too wide for a tile")
    return _shifted(shape, -360.0 * math.floor((west + 180) / 360))


def stored_footprint(shape: BaseGeometry) -> tuple[bytes, Box]:
    """What ``footprint_shape`` gave, as records keep it."""
    minx, miny, maxx, maxy = shape.bounds
    return shapely.to_wkb(shape, output_dimension=2, byte_order=1), (minx, miny, maxx, maxy)


def footprint_geojson(wkb: bytes) -> tuple[dict[str, Any], list[float]]:
    """A stored footprint as a GeoJSON geometry and its bbox, as RFC 7946 wants them.

    What lies over the antimeridian is cut there into a MultiPolygon (3.1.9), its bbox has
    west > east (5.2); shells run counterclockwise (3.1.6). Degrees, nothing is rounded.

    Args:
        wkb: what ``footprint`` gave.
    """
    (shape,) = stored_footprints([wkb])
    bounds: Sequence[float] = shape.bounds
    if bounds[2] > 180:
        here, there = _cut(shape)
        shape = _joined([*here, *there])
        # A sliver may vanish in cutting; the box is of what is left.
        south, north = shape.bounds[1::2]
        west = min(part.bounds[0] for part in here or there)
        east = max(part.bounds[2] for part in there or here)
        bounds = (west, south, east, north)
    shape = shapely.orient_polygons(shape)
    if shapely.get_type_id(shape) == _POLYGON and not shapely.get_num_interior_rings(shape):
        # What nearly all are, at a third of the time.
        ring = shapely.get_coordinates(shape).tolist()
        return {"type": "Polygon", "coordinates": [ring]}, list(bounds)
    document: dict[str, Any] = json.loads(shapely.to_geojson(shape))
    return document, list(bounds)


def narrowest_span(spans: Iterable[tuple[float, float]]) -> tuple[float, float] | None:
    """The narrowest stretch of a round Earth that holds all ``spans``: from west, in [-180, 180),
    eastwards to east, in any turn; None where they leave no gap.

    Args:
        spans: (west, width), degrees; at least one.
    """
    ordered = sorted((wrapped(west), width) for west, width in spans)
    reach = max(start + width for start, width in ordered) - 360
    # Eastwards from where the last one ends: the widest gap is what is left out.
    gap, west, east = 0.0, -180.0, 180.0
    for start, width in ordered:
        if start - reach > gap:
            gap, west, east = start - reach, start, reach
        reach = max(reach, start + width)
    return None if gap <= 0 else (west, east)


def wrapped(longitude: float) -> float:
    """The same in [-180, 180), degrees."""
    return longitude if -180 <= longitude < 180 else (longitude + 180) % 360 - 180


def stored_footprints(footprints: Sequence[bytes]) -> NDArray[np.object_]:
    """Shapes of what the catalog holds, as they are.

    Raises:
        ConfigError: one is no WKB: the database is damaged.
    """
    try:
        found: NDArray[np.object_] = shapely.from_wkb(np.array(footprints, dtype=object))
        return found
    except (shapely.errors.ShapelyError, TypeError, ValueError) as error:
        raise ConfigError("the database is damaged: it holds a footprint that is none") from error


def within_180(footprints: Sequence[bytes]) -> NDArray[np.object_]:
    """Stored footprints as shapes whose longitudes lie within ±180: cut at the antimeridian."""
    shapes = stored_footprints(footprints)
    for index in np.flatnonzero(shapely.bounds(shapes).reshape(-1, 4)[:, 2] > 180):
        here, there = _cut(shapes[index])
        shapes[index] = _joined([*here, *there])
    return shapes


def _cut(shape: BaseGeometry) -> tuple[list[BaseGeometry], list[BaseGeometry]]:
    """The polygons on this side of the antimeridian, and those beyond, brought to -180."""
    halves = (
        shapely.intersection(shape, shapely.box(-180, -90, 180, 90)),
        _shifted(shapely.intersection(shape, shapely.box(180, -90, 540, 90)), -360.0),
    )
    here, there = (
        [part for part in shapely.get_parts(half) if shapely.get_type_id(part) == _POLYGON]
        for half in halves
    )
    return here, there


def _polygons_of(geometry: Mapping[str, Any]) -> list[Any]:
    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"the geometry is {brief(kind)}, not a Polygon or MultiPolygon")
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list | tuple) or not polygons:
        raise ValueError("the geometry has no coordinates")
    if len(polygons) > MOST_POSITIONS:
        raise ValueError(
            f"the geometry has {len(polygons)} polygons, and {MOST_POSITIONS} is the most"
        )
    positions = sum(
        len(ring)
        for rings in polygons
        if isinstance(rings, list | tuple)
        for ring in rings
        if isinstance(ring, list | tuple)
    )
    if positions > MOST_POSITIONS:
        raise ValueError(
            f"the geometry has {positions} positions, and {MOST_POSITIONS} is the most"
        )
    return list(polygons)


def _polygon(rings: Any) -> BaseGeometry:
    if not isinstance(rings, list | tuple) or not rings:
        raise ValueError("the geometry has a polygon without rings")
    shell, *holes = (_ring(ring) for ring in rings)
    return shapely.Polygon(shell, [np.add(hole, (_turn(shell, hole), 0.0)) for hole in holes])


def _ring(positions: Any) -> NDArray[np.float64]:
    """(n, 2) longitudes and latitudes, unwrapped: no step is longer than 180°."""
    if not isinstance(positions, list | tuple) or len(positions) < 3:
        raise ValueError("the geometry has a ring of fewer than three positions")
    ring = np.array([_position(position) for position in positions], dtype=np.float64)
    if not np.array_equal(ring[0], ring[-1]):
        ring = np.vstack([ring, ring[:1]])
    steps = np.diff(ring[:, 0])
    turns = np.cumsum((steps < -180).astype(np.int64) - (steps > 180))
    if turns[-1] != 0:
        raise ValueError("the geometry encircles a pole")
    ring[1:, 0] += 360.0 * turns
    return ring


def _position(position: Any) -> tuple[float, float]:
    if not isinstance(position, list | tuple) or len(position) < 2:
        raise ValueError("the geometry has a position that is not [longitude, latitude]")
    longitude, latitude = position[:2]
    for number in (longitude, latitude):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"the geometry has a coordinate {brief(number)} that is not a number")
    # Written so that NaN fails too.
    if not (-360 <= longitude <= 360 and -90 <= latitude <= 90):
        raise ValueError("the geometry has a coordinate outside the globe")
    return float(longitude), float(latitude)


def _align(polygons: list[BaseGeometry]) -> list[BaseGeometry]:
    """Each shifted by whole turns to lie nearest the first."""
    first = np.reshape(polygons[0].bounds, (2, 2))
    return [
        _shifted(polygon, _turn(first, np.reshape(polygon.bounds, (2, 2)))) for polygon in polygons
    ]


def _turn(anchor: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Degrees to add to ``other``'s longitudes, a multiple of 360, to come nearest ``anchor``."""
    middle = [(points[:, 0].min() + points[:, 0].max()) / 2 for points in (anchor, other)]
    return 360.0 * round((middle[0] - middle[1]) / 360)


def _shifted(shape: BaseGeometry, degrees: float) -> BaseGeometry:
    return shapely.transform(shape, lambda xy: np.add(xy, (degrees, 0.0))) if degrees else shape


def _joined(parts: Sequence[BaseGeometry]) -> BaseGeometry:
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
