"""The ground of a file or of a tile, for footprints that say less or other than they should."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from catalog.affine import Transform
from catalog.footprint import footprint_shape
from catalog.parse import COLUMNS

TILE_SIDE = 109_800.0
"""Metres: 100 km and what overlaps to the east and south (ESA's tiling grid)."""
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
"""Letters of the rows of 100 km, from the equator in odd zones, from F in even ones."""
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
"""Letters of the latitude bands of 8 degrees, from 80 S."""
_EDGE = 9
"""Points on each side of an outline: a straight side bends by some metres."""
_WIDE = 2.0
"""Tiles that a footprint may reach beyond its own, in each direction."""


def grid_ground(epsg: int, transform: Transform, width: int, height: int) -> BaseGeometry:
    """What an image covers, degrees, as ``footprint.footprint_shape`` gives it.

    Raises:
        ValueError: it lies where its projection leads nowhere.
    """
    # Takes a tenth of a second to load, and is needed for few scenes.
    from pyproj.exceptions import ProjError

    a, _, c, _, e, f = transform
    side = np.linspace(0.0, 1.0, _EDGE)[:-1]
    across = np.concatenate([side, np.ones_like(side), 1 - side, np.zeros_like(side)])
    down = np.concatenate([np.zeros_like(side), side, np.ones_like(side), 1 - side])
    try:
        ring: Any = _to_degrees(epsg).transform(
            c + a * width * across, f + e * height * down, errcheck=True
        )
    except ProjError as error:
        raise ValueError("the ground of its files is outside its projection") from error
    return footprint_shape({"type": "Polygon", "coordinates": [np.stack(ring, axis=1).tolist()]})


def tile_transform(tile: str) -> Transform:
    """Of the 10 m grid of an MGRS tile, in its own zone: Sentinel-2's tiles hang from the upper
    left corner of their square of 100 km, put outwards to whole steps of 60 m from
    the equator.

    Args:
        tile: as ``parse.parse_tile`` gives it.
    """
    zone, band, column, row = int(tile[:2]), tile[2], tile[3], tile[4]
    easting = 100_000.0 * (1 + COLUMNS[zone % 3].index(column))
    rows = (_ROWS.index(row) - (0 if zone % 2 else 5)) % 20
    # The letters repeat every 2 000 km: the square nearest the middle of its band is meant.
    equator = 0.0 if band >= "N" else 10_000_000.0
    latitude = -76.0 + 8 * _BANDS.index(band) + (2 if band == "X" else 0)
    middle = latitude * 110_600.0 + equator
    northing = 100_000.0 * rows
    northing += 2_000_000.0 * round((middle - northing - 50_000.0) / 2_000_000.0)
    top = equator + 60.0 * math.ceil((northing + 100_000.0 - equator) / 60)
    return (10.0, 0.0, 60.0 * (easting // 60), 0.0, -10.0, top)


def touches_tile(transform: Transform, width: int, height: int, tile: str) -> bool:
    """Whether an image in the zone of a tile has any of the tile's ground."""
    a, _, c, _, e, f = transform
    _, _, west, _, _, north = tile_transform(tile)
    across = c < west + TILE_SIDE and c + a * width > west
    return across and f > north - TILE_SIDE and f + e * height < north


@lru_cache(maxsize=4096)
def tile_ground(tile: str) -> BaseGeometry:
    """What an MGRS tile covers, degrees, prepared for questions. Shared: not to be changed."""
    epsg = (32600 if tile[2] >= "N" else 32700) + int(tile[:2])
    side = round(TILE_SIDE / 10)
    ground = grid_ground(epsg, tile_transform(tile), side, side)
    shapely.prepare(ground)
    return ground


def lies_on_tile(shape: BaseGeometry, tile: str) -> bool:
    """Whether a footprint touches its tile, and reaches no further beyond than two tiles."""
    ground = tile_ground(tile)
    west, south, east, north = _bounds(tile)
    minx, miny, maxx, maxy = shape.bounds
    turn = 360.0 * round((west + east - minx - maxx) / 720)
    across, up = _WIDE * (east - west), _WIDE * (north - south)
    if (
        minx + turn < west - across
        or maxx + turn > east + across
        or miny < south - up
        or maxy > north + up
    ):
        return False
    if turn:
        shape = shapely.transform(shape, lambda xy: np.add(xy, (turn, 0.0)))
    return bool(ground.intersects(shape))


@lru_cache(maxsize=4096)
def _bounds(tile: str) -> tuple[float, float, float, float]:
    bounds: tuple[float, float, float, float] = tile_ground(tile).bounds
    return bounds


@lru_cache(maxsize=128)
def _to_degrees(epsg: int) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(epsg, 4326, always_xy=True)
