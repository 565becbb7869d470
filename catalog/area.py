"""Where a question lies on a round Earth: any form of geometry in, footprints that touch it out.

Longitude, latitude in degrees (EPSG:4326). Footprints start in [-180, 180) and may run
beyond 180 (``footprint.py``), so a question is asked at every shift of 360° at which one
may lie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from catalog.bounds import (
    DEEPEST,
    MOST_CROSSINGS,
    MOST_PIECES,
    check_depth,
    check_geojson,
    check_json,
    check_length,
    check_number,
    check_vertices,
    check_wkb,
    check_wkt,
)
from catalog.errors import UsageError
from catalog.footprint import WIDEST
from catalog.mending import mended
from catalog.parse import Box

_EASTMOST = 180.0 + WIDEST
_SHIFTS = (-360.0, 0.0, 360.0)
_EWKT = re.compile(r"SRID=(\d{1,9});(.*)", re.DOTALL | re.IGNORECASE)
_HEX = re.compile(r"[0-9A-Fa-f]+")
_FAULTS = (
    shapely.errors.ShapelyError,
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    RuntimeError,  # of PROJ
    TypeError,
    ValueError,
)


def parse_geometry(given: Any) -> BaseGeometry:
    """A valid 2-D geometry from any form people write it in.

    Takes GeoJSON (geometry, Feature or FeatureCollection, as a mapping or text), WKT or WKB,
    shapely, anything with ``__geo_interface__``, or a list of these. What knows its CRS
    (geopandas, odc-geo, EWKT) is brought to degrees, or refused. Heights are dropped, lines that
    cross themselves are mended, and several features become their union. Longitudes are taken
    literally (a polygon may span the globe) and may run beyond ±180 to cross the
    antimeridian.

    Raises:
        UsageError: not a geometry, empty, of an SRID that is not 4326, more than ``bounds`` has
            it, or a coordinate that is not a finite number or not on the globe.
    """
    try:
        shape = shapely.force_2d(_Reading().shape(given))
    except UsageError:
        raise
    except _FAULTS as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UsageError(
            f"malformed geometry: neither GeoJSON nor WKT nor a shape: {lines[0]}"
        ) from error
    if shape.is_empty:
        raise UsageError("malformed geometry: it is empty")
    coordinates = shapely.get_coordinates(shape)
    if not np.isfinite(coordinates).all():
        raise UsageError("malformed geometry: a coordinate is not a finite number")
    if (np.abs(coordinates) > (360, 90)).any():
        raise UsageError("malformed geometry: coordinates are longitude, latitude in degrees")
    try:
        return mended(shape, MOST_CROSSINGS, DEEPEST)
    except (ValueError, shapely.errors.ShapelyError) as error:
        raise UsageError(f"the geometry cannot be taken: {error}; simplify it") from error


def plain_geometry(shape: BaseGeometry) -> dict[str, Any]:
    """GeoJSON to send to a STAC API: one geometry whose longitudes lie within ±180.

    What runs beyond ±180 is cut there (RFC 7946, 3.1.9).

    Raises:
        UsageError: it crosses the antimeridian more than ``MOST_PIECES`` times.
    """
    minx, _, maxx, _ = shape.bounds
    if minx < -180 or maxx > 180:
        x = shapely.get_coordinates(shape)[:, 0]
        over = int(np.count_nonzero(np.diff(x > 180)) + np.count_nonzero(np.diff(x < -180)))
        check_number(
            "an area that crosses the antimeridian {} times", over, MOST_PIECES, "simplify it"
        )
        globe = shapely.box(-180, -90, 180, 90)
        shifted = [_shifted(shape, shift) for shift in _SHIFTS]
        shape = shapely.union_all(shapely.intersection(shifted, globe))
    document: dict[str, Any] = json.loads(shapely.to_geojson(shape))
    return document


def box_geometry(box: Box) -> BaseGeometry:
    """A box as a polygon, or the line or point it shrinks to: a polygon of no area meets nothing.

    Args:
        box: (west, south, east, north); west > east crosses the antimeridian, and
            gives longitudes beyond 180.
    """
    west, south, east, north = box
    if west > east:
        east += 360
    if west == east and south == north:
        return shapely.Point(west, south)
    if west == east or south == north:
        return shapely.LineString([(west, south), (east, north)])
    return shapely.box(west, south, east, north)


def query_boxes(area: BaseGeometry) -> tuple[Box, ...]:
    """The plain boxes (minx <= maxx) at which footprints that touch ``area`` may be stored.

    Parts west and east of Greenwich have boxes of their own, or an area cut in two
    at the antimeridian would have one around the globe.
    """
    parts = shapely.bounds(shapely.get_parts(area))
    western = parts[:, 0] + parts[:, 2] < 0
    boxes: list[Box] = []
    for half in (parts[western], parts[~western]):
        if len(half):
            minx, miny = (float(value) for value in half[:, :2].min(axis=0))
            maxx, maxy = (float(value) for value in half[:, 2:].max(axis=0))
            boxes += [(minx + k, miny, maxx + k, maxy) for k in _shifts(minx, maxx)]
    return tuple(boxes)


def query_geometry(area: BaseGeometry) -> tuple[BaseGeometry, ...]:
    """What ``intersects_footprint`` takes: ``area``, prepared, at every shift that matters."""
    minx, _, maxx, _ = area.bounds
    # Apart: one prepared collection of them takes GEOS 3.14 three to nine times as long.
    copies = tuple(_shifted(area, shift) for shift in _shifts(minx, maxx))
    shapely.prepare(list(copies))
    return copies


def intersects_footprint(
    footprints: Sequence[bytes] | NDArray[np.object_], query: Sequence[BaseGeometry]
) -> NDArray[np.bool_]:
    """Which of ``footprints`` (WKB of ``footprint``) touch ``query`` (of ``query_geometry``).

    A shared border counts, as in STAC's ``intersects``. One array operation: 50 000
    footprints take about 0.1 s.
    """
    found = np.zeros(len(footprints), dtype=np.bool_)
    if len(footprints):
        shapes = shapely.from_wkb(np.asarray(footprints, dtype=object))
        for copy in query:
            found |= shapely.intersects(copy, shapes)
    return found


class _Reading:
    """One area from what was given, its vertices counted before they are made a shape of."""

    def __init__(self) -> None:
        self.vertices = 0

    def shape(self, given: Any, level: int = 0) -> BaseGeometry:
        check_depth("a geometry", level)
        if isinstance(given, str | bytes | bytearray):
            given = self.of_text(given)
        if isinstance(given, BaseGeometry):
            self.count(shapely.get_num_coordinates(given))
            srid = int(shapely.get_srid(given))
            if srid not in (0, 4326):
                raise ValueError(f"its SRID is {srid}; give longitude, latitude in degrees, 4326")
            return given
        if isinstance(given, list | tuple):
            check_vertices(self.vertices + len(given))
            return shapely.geometrycollections([self.shape(part, level + 1) for part in given])
        if getattr(given, "crs", None) is not None and hasattr(given, "to_crs"):
            self.of_frame(given)
            given = given.to_crs("EPSG:4326")
            self.vertices = 0
        plain = isinstance(given, Mapping)
        document = given if plain else getattr(given, "__geo_interface__", None)
        if document is None:
            raise TypeError(f"a {type(given).__name__} has no __geo_interface__")
        self.count(check_geojson(document))
        kind = document.get("type")
        if kind == "Feature":
            return _shape_of_feature(document)
        if kind == "FeatureCollection":
            if not document["features"]:
                raise ValueError("the FeatureCollection has no features")
            return shapely.geometrycollections([_shape_of_feature(f) for f in document["features"]])
        return shapely.geometry.shape(document)

    def of_text(self, given: str | bytes | bytearray) -> BaseGeometry | Mapping[str, Any]:
        check_length("a geometry", given)
        if isinstance(given, bytes | bytearray) and not given.lstrip().startswith(b"{"):
            return _shape_of_wkb(bytes(given))
        text = (given if isinstance(given, str) else given.decode()).strip()
        if text.startswith("{"):
            check_json("a geometry", text)
            document: Mapping[str, Any] = json.loads(text)
            return document
        if _HEX.fullmatch(text):
            return _shape_of_wkb(bytes.fromhex(text))
        check_wkt(text)
        extended = _EWKT.fullmatch(text)
        if extended is None:
            return shapely.from_wkt(text)
        return shapely.set_srid(shapely.from_wkt(extended[2]), int(extended[1]))

    def of_frame(self, given: Any) -> None:
        """geopandas' and odc-geo's, before they are brought to another CRS."""
        shapes = getattr(getattr(given, "geometry", None), "values", getattr(given, "geom", None))
        if shapes is not None:
            self.count(int(shapely.get_num_coordinates(np.asarray(shapes, dtype=object)).sum()))

    def count(self, vertices: int) -> None:
        self.vertices += max(1, int(vertices))
        check_vertices(self.vertices)


def _shape_of_wkb(data: bytes) -> BaseGeometry:
    check_wkb(data)
    return shapely.from_wkb(data)


def _shape_of_feature(document: Mapping[str, Any]) -> BaseGeometry:
    if not isinstance(document, Mapping) or not isinstance(document.get("geometry"), Mapping):
        raise ValueError("a Feature has no geometry")
    return shapely.geometry.shape(document["geometry"])


def _shifts(minx: float, maxx: float) -> list[float]:
    """Degrees by which what spans these longitudes may be moved and still meet a footprint."""
    return [k for k in _SHIFTS if maxx + k >= -180 and minx + k <= _EASTMOST]


def _shifted(shape: BaseGeometry, degrees: float) -> BaseGeometry:
    return shapely.transform(shape, lambda xy: np.add(xy, (degrees, 0.0))) if degrees else shape
