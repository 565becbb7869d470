"""Where the coordinates of a CRS jump: at the antimeridian, and what lies on either side. Pure.

In EPSG:4326 or 3857 the ground on both sides of ±180° is a whole turn apart. An output grid there
may run beyond 180° (or below -180°), and a tile of zone 1 or 60 may lie on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from catalog.cube import Grid
from catalog.footprint import narrowest_span, within_180, wrapped

_LATITUDES = np.array([0.0, 30.0, -30.0, 55.0, -55.0])
_NEAR = 1e-7
"""Degrees from the antimeridian."""
_SIDE = 22
"""Points along each side of an outline, as GDAL takes them along a window's."""
Points = NDArray[np.float64]
"""(n, 2)."""


@dataclass(frozen=True, slots=True)
class Seam:
    """The antimeridian in a CRS in which it is a jump."""

    west: float
    """x of -180°; meaningless where ``period`` is None."""
    period: float | None
    """From -180° to 180° along x, where every turn repeats the last: of geographic and cylindrical
    CRS; None of others."""

    def turns(self, x: Points) -> NDArray[np.int64]:
        """How many whole turns ``x`` lies east of [-180°, 180°)."""
        assert self.period is not None
        return np.floor((x - self.west) / self.period + 1e-12).astype(np.int64)


@lru_cache(64)
def seam_of(crs: str) -> Seam | None:
    """None where both sides of the antimeridian meet, as in its UTM zones and at the poles."""
    if CRS.from_user_input(crs).is_geographic:
        return Seam(-180.0, 360.0)
    there = transformer("EPSG:4326", crs)
    west, east = (
        np.column_stack(there.transform(np.full(len(_LATITUDES), longitude), _LATITUDES))
        for longitude in (-180 + _NEAR, 180 - _NEAR)
    )
    finite = np.isfinite(west).all(axis=1) & np.isfinite(east).all(axis=1)
    west, jump = west[finite], east[finite] - west[finite]
    if not finite.any() or np.abs(jump).max() < 1000:
        return None
    straight = finite.all() and np.ptp(west[:, 0]) < 1 and np.ptp(jump[:, 0]) < 1
    if straight and np.abs(jump[:, 1]).max() < 1 and jump[0, 0] > 0:
        ends = [there.transform(longitude, 0.0)[0] for longitude in (-180.0, 180.0)]
        return Seam(float(ends[0]), float(ends[1] - ends[0]))
    return Seam(0.0, None)


@lru_cache(1024)
def outlines(grid: Grid) -> tuple[Points, ...]:
    """The ground of ``grid``, degrees, along its edges: in one piece, or cut in two at ±180°."""
    ring = unwrapped(grid)
    shape = shapely.Polygon(ring)
    if shape.bounds[2] <= 180:
        return (ring,)
    if not shape.is_valid:
        shape = shapely.make_valid(shape)
    (cut,) = within_180([shapely.to_wkb(shape)])
    return tuple(shapely.get_coordinates(part) for part in shapely.get_parts(cut))


def unwrapped(grid: Grid) -> Points:
    """The edges of ``grid``, degrees; west lies in [-180, 180), east may lie beyond 180."""
    a, _, c, _, e, f = grid.transform
    right, bottom = c + a * grid.width, f + e * grid.height
    x, y = np.linspace(c, right, _SIDE), np.linspace(f, bottom, _SIDE)
    ring = np.concatenate(
        [
            np.column_stack([x, np.full(_SIDE, f)]),
            np.column_stack([np.full(_SIDE, right), y]),
            np.column_stack([x[::-1], np.full(_SIDE, bottom)]),
            np.column_stack([np.full(_SIDE, c), y[::-1]]),
        ]
    )
    longitudes, latitudes = transformer(f"EPSG:{grid.epsg}", "EPSG:4326").transform(*ring.T)
    longitudes = np.unwrap(longitudes, period=360.0)
    longitudes -= 360.0 * np.floor((longitudes.min() + 180) / 360)
    return np.column_stack([longitudes, latitudes])


def narrowest(parts: Sequence[Points]) -> list[Points]:
    """``parts`` (degrees) moved by whole turns against each other, so that together they span as
    little as can be; as they are where nothing is gained."""
    lows = [float(part[:, 0].min()) for part in parts]
    span = narrowest_span((low, float(np.ptp(p[:, 0]))) for low, p in zip(lows, parts, strict=True))
    if span is None:
        return list(parts)
    starts = np.array([wrapped(low) for low in lows])
    # What begins before the stretch does is taken a turn later.
    turns = np.round((np.where(starts < span[0], starts + 360, starts) - lows) / 360)
    if (turns == turns[0]).all():
        return list(parts)
    return [np.add(part, (360 * turn, 0.0)) for part, turn in zip(parts, turns, strict=True)]


def projected(points: Points, crs: str, seam: Seam) -> Points:
    """``points`` (degrees, in any turn) in a CRS that repeats, each in its own turn."""
    assert seam.period is not None
    turns = np.floor((points[:, 0] + 180) / 360)
    x, y = transformer("EPSG:4326", crs).transform(points[:, 0] - 360 * turns, points[:, 1])
    return np.column_stack([x + seam.period * turns, y])


@lru_cache(256)
def transformer(source: str, target: str) -> Any:
    return Transformer.from_crs(source, target, always_xy=True)
