"""How much one question may hold: what is more is refused before it costs memory or time. Pure.

Shapes and conditions are parsed by native libraries, GEOS and ``cql2``, whose parsers call
themselves for every level of nesting, and end the process where there are too many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from itertools import islice
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from catalog.errors import UsageError

MOST_VERTICES = 100_000
"""Of an area; the outline of a country has some thousands."""
MOST_CROSSINGS = 500
"""Of lines of an area with each other: mending a thousand takes two seconds, ten thousand 25."""
MOST_VALUES = 100_000
"""Of a list, such as ids, or of IN."""
MOST_TEXT = 20_000_000
"""Characters of an area or a condition: one with as many vertices or values has 5 million."""
DEEPEST_AREA = 30
"""Levels of parentheses in WKT: a collection of MultiPolygons has five."""
MOST_COLLECTIONS = 1_000
"""In WKB, which nests them without end."""
MOST_OPERATORS = 2_000
"""In a condition, which has at most 400 parts."""
_MOST_PAIRS = 1_000_000
"""Of lines of an area near each other: more lie over each other than an outline's."""
_FIRST_SEGMENTS = 16

_COLLECTION = re.compile(
    # Of two dimensions, with flags of EWKB, and ISO's Z, M and ZM; in either order of bytes.
    rb"\x01(?:\x07\x00\x00[\x00\x20\x40\x60\x80\xa0\xc0\xe0]|[\xef]\x03\x00\x00|\xd7\x07\x00\x00"
    rb"|\xbf\x0b\x00\x00)"
    rb"|\x00(?:[\x00\x20\x40\x60\x80\xa0\xc0\xe0]\x00\x00\x07|\x00\x00\x03\xef|\x00\x00\x07\xd7"
    rb"|\x00\x00\x0b\xbf)"
)
_OPERATORS = re.compile(
    r"\b(?:and|or|not|like|in|is|between|div|casei|accenti)\b|[=<>]+|(?<=[\w)\]'\"])\s*[-+*/%^]",
    re.IGNORECASE,
)


def check_text(what: str, text: str | bytes | bytearray) -> None:
    """
    Raises:
        UsageError: it is longer than ``MOST_TEXT``.
    """
    if len(text) > MOST_TEXT:
        raise UsageError(
            f"{what} has {len(text):,} characters, more than {MOST_TEXT:,}: simplify it, or ask "
            "in portions"
        )


def check_wkt(text: str) -> None:
    """
    Raises:
        UsageError: parentheses are nested deeper than ``DEEPEST_AREA``.
    """
    marks = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    depth = np.cumsum((marks == ord("(")).astype(np.int64) - (marks == ord(")")))
    deepest = int(depth.max(initial=0))
    if deepest > DEEPEST_AREA:
        raise UsageError(f"malformed geometry: nested {deepest:,} deep, more than {DEEPEST_AREA}")


def check_wkb(data: bytes) -> None:
    """
    Raises:
        UsageError: it has more collections than ``MOST_COLLECTIONS``.
    """
    found = sum(1 for _ in islice(_COLLECTION.finditer(data), MOST_COLLECTIONS + 1))
    if found > MOST_COLLECTIONS:
        raise UsageError(f"malformed geometry: more than {MOST_COLLECTIONS:,} collections in WKB")


def check_vertices(shape: BaseGeometry) -> None:
    """
    Raises:
        UsageError: there are more than ``MOST_VERTICES``.
    """
    count = int(shapely.get_num_coordinates(shape))
    if count > MOST_VERTICES:
        raise UsageError(
            f"the area has {count:,} vertices, more than {MOST_VERTICES:,}: simplify it "
            "(shapely.simplify), or ask for its parts"
        )


def check_crossings(shape: BaseGeometry) -> None:
    """Of a shape whose lines are to be taken apart where they cross.

    Raises:
        UsageError: there are more crossings than ``MOST_CROSSINGS``.
    """
    xy, part = shapely.get_coordinates(_rings(shape), return_index=True)
    inside = part[1:] == part[:-1]
    segments = shapely.linestrings(np.stack([xy[:-1][inside], xy[1:][inside]], axis=1))
    tree = shapely.STRtree(segments)
    pairs, found, first, size = 0, 0, 0, _FIRST_SEGMENTS
    # Few at first: where nearly all cross, that tells at once.
    while first < len(segments):
        some = segments[first : first + size]
        here, there = tree.query(some)
        pairs += len(here)
        if pairs <= _MOST_PAIRS:
            found += int(shapely.crosses(some[here], segments[there]).sum())
        # Each is found from both of its sides.
        if found > 2 * MOST_CROSSINGS or pairs > _MOST_PAIRS:
            raise UsageError(
                f"the area's lines cross each other, or lie over each other, more than "
                f"{MOST_CROSSINGS} times: it is no outline; unite its parts "
                "(shapely.union_all), mend it (shapely.make_valid), or ask for its parts"
            )
        first, size = first + size, min(size * 4, 256)


def _rings(shape: BaseGeometry) -> Any:
    """Every line and ring on its own."""
    parts = shapely.get_parts(shape)
    while (shapely.get_type_id(parts) > 3).any():
        parts = shapely.get_parts(parts)
    polygons = shapely.get_type_id(parts) == 3
    return np.concatenate([shapely.get_rings(parts[polygons]), parts[~polygons]])


def at_most[T](what: str, values: Iterable[T]) -> list[T]:
    """The values of a list, which may be endless.

    Raises:
        UsageError: there are more than ``MOST_VALUES``.
    """
    found = list(islice(values, MOST_VALUES + 1))
    check_values(what, len(found), len(values) if isinstance(values, Sized) else None)
    return found


def check_values(what: str, count: int, all_: int | None = None) -> None:
    """
    Args:
        all_: how many there are, where more than ``count``.

    Raises:
        UsageError: they are more than ``MOST_VALUES``.
    """
    if count > MOST_VALUES:
        many = f"{all_ or count:,}" if all_ or count > MOST_VALUES + 1 else "no end of"
        raise UsageError(f"{what} has {many} values, more than {MOST_VALUES:,}: ask in portions")


def check_condition(bare: str) -> None:
    """
    Args:
        bare: CQL2 text, without what stands in quotes and without WKT.

    Raises:
        UsageError: it has more operators than ``MOST_OPERATORS``.
    """
    count = sum(1 for _ in _OPERATORS.finditer(bare))
    if count > MOST_OPERATORS:
        raise UsageError(
            f"filter has {count:,} operators, more than {MOST_OPERATORS:,}; IN takes "
            f"{MOST_VALUES:,} values"
        )
