"""Shapes as people and sources draw them, made valid: mended where they cross, parts joined.

Polygons are mended by GEOS's "structure" one at a time, and then joined. Its "linework" takes
ground that is covered twice for a hole (a MultiPolygon of 400 squares side by side lost 180), and
minutes for rings that cross themselves some thousand times. How often lines meet is counted first:
mending and joining pay some 25 µs for each crossing, and memory.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

type Shapes = NDArray[np.object_]

# shapely's type ids, from _MULTI on of many.
_LINES, _POLYGON, _MULTI, _COLLECTION = (1, 2), 3, 4, 7
_FEW = 64
"""Segments that cannot meet often enough to be counted."""
_PAIRS = 500_000
"""Of segments, held at once."""
_CORNERS = 16
"""Corners that touch cost as much as one crossing."""
_JOINED = 4
"""Polygons joined at once: few, for what lies within the first ones is crossed no more."""
_APART = 1_000.0
"""Degrees from group to group: they do not meet."""


def mended(shape: BaseGeometry, most: int, deepest: int) -> BaseGeometry:
    """``shape`` if it is valid; else, and of a collection, the ground that its parts cover.

    Args:
        shape: 2-D, with finite coordinates.
        most: places where its lines may cross or touch.
        deepest: levels of collections.

    Raises:
        ValueError: more of either.
    """
    budget = _Budget(most)
    kind = shapely.get_type_id(shape)
    if kind != _COLLECTION and shape.is_valid:
        if kind not in (_POLYGON, _POLYGON + 3):
            # Lines may cross and be valid, but what cuts and joins them pays for it, too.
            budget.count(_parts([shape], deepest))
        return shape
    parts = _parts([shape], deepest)
    broken = ~shapely.is_valid(parts)
    budget.count(parts[broken], np.arange(np.count_nonzero(broken)))
    parts[broken] = shapely.make_valid(parts[broken], method="structure")
    # A polygon of no width is a line now.
    parts = _parts(parts, deepest)
    polygons = shapely.get_type_id(parts) == _POLYGON
    if not polygons.any():
        budget.count(parts)
        return shapely.union_all(parts)
    ground = _ground(parts[polygons], budget)
    if polygons.all():
        return ground
    every = np.array([*shapely.get_parts(ground), *parts[~polygons]], dtype=object)
    budget.count(every)
    return shapely.union_all(every)


def _ground(polygons: Shapes, budget: _Budget) -> BaseGeometry:
    """The union of valid polygons, neighbours first."""
    if len(polygons) > _JOINED:
        west, south, east, north = shapely.bounds(polygons).T
        column = np.argsort(np.argsort(west + east)) // max(1, round(len(polygons) ** 0.5))
        polygons = polygons[np.lexsort((south + north, column))]
    while len(polygons) > 1:
        budget.count(polygons, np.arange(len(polygons)) // _JOINED)
        starts = range(0, len(polygons), _JOINED)
        joined = [shapely.union_all(polygons[n : n + _JOINED]) for n in starts]
        polygons = np.array(joined, dtype=object)
    ground: BaseGeometry = polygons[0]
    return ground


def _parts(shapes: list[BaseGeometry] | Shapes, deepest: int) -> Shapes:
    """Points, lines and polygons that ``shapes`` consist of; nothing that is empty."""
    parts: Shapes = np.array(shapes, dtype=object)
    for _ in range(deepest + 1):
        if not (shapely.get_type_id(parts) >= _MULTI).any():
            return parts[~shapely.is_empty(parts)]
        parts = shapely.get_parts(parts)
    raise ValueError(f"collections are nested more than {deepest} deep, and {deepest} is the most")


class _Budget:
    """How often lines may still meet."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.spent = 0

    def count(self, shapes: Shapes, groups: NDArray[np.int64] | None = None) -> None:
        """Counts how often lines of shapes of one group cross or touch each other and themselves.

        Args:
            shapes: as ``_parts`` has them, or MultiPolygons.
            groups: of each shape; None where all are of one.

        Raises:
            ValueError: with what was counted before, more than may be.
        """
        starts, ends, follower = _segments(shapes, groups)
        total = len(starts)
        if total <= _FEW:
            return
        segments = shapely.linestrings(np.stack([starts, ends], axis=1))
        tree = shapely.STRtree(segments)
        step = max(1, _PAIRS // total)
        crossings = corners = 0
        for first in range(0, total, step):
            one, other = tree.query(segments[first : first + step], predicate="intersects")
            one += first
            # Each pair once; what follows another in its line touches it.
            met = (one < other) & (follower[one] != other) & (follower[other] != one)
            one, other = one[met], other[met]
            corner = np.zeros(len(one), dtype=np.bool_)
            for here in (starts, ends):
                for there in (starts, ends):
                    corner |= (here[one] == there[other]).all(axis=1)
            corners += int(np.count_nonzero(corner))
            crossings += int(np.count_nonzero(~corner))
            if self.spent + crossings + corners // _CORNERS > self.most:
                raise ValueError(
                    f"its lines cross or touch in more than {self.most} places, and {self.most} "
                    "is the most"
                )
        self.spent += crossings + corners // _CORNERS


def _segments(
    shapes: Shapes, groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Starts and ends, (n, 2), of all that have a length, and of each the index of the one that
    follows it in its line; -1 of none. Groups lie ``_APART``."""
    if groups is None:
        groups = np.zeros(len(shapes), dtype=np.int64)
    kinds = shapely.get_type_id(shapes)
    linear = np.isin(kinds, _LINES)
    polygonal = kinds >= _POLYGON
    polygons, mine = shapely.get_parts(shapes[polygonal], return_index=True)
    rings, ring_of = shapely.get_rings(polygons, return_index=True)
    lines = np.concatenate([rings, shapes[linear]])
    group = np.concatenate([groups[polygonal][mine][ring_of], groups[linear]])
    points, line = shapely.get_coordinates(lines, return_index=True)
    points[:, 0] += _APART * group[line]
    inner = np.flatnonzero((line[1:] == line[:-1]) & (points[1:] != points[:-1]).any(axis=1))
    starts, ends, line = points[inner], points[inner + 1], line[inner]
    index = np.arange(len(line))
    follower = np.append(index[1:], -1)[: len(line)]
    last = np.append(line[1:] != line[:-1], True)[: len(line)]
    # A ring goes on where it began.
    begin = np.searchsorted(line, line)
    closed = (starts[begin] == ends).all(axis=1)
    follower[last] = np.where(closed, begin, -1)[last]
    return starts, ends, follower
