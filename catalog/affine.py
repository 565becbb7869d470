"""Where the pixels of a file lie, checked alike whether the file or its item says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

Transform = tuple[float, float, float, float, float, float]
"""Affine order (a, b, c, d, e, f): x = a·column + b·row + c, y = d·column + e·row + f; metres."""

FINEST, COARSEST = 1.0, 10_000.0
"""Metres a pixel; those of Sentinel-2 and its overviews are 10 to some thousands."""
EASTINGS = (-100_000.0, 1_100_000.0)
NORTHINGS = (-100_000.0, 10_200_000.0)
"""Metres of UTM that an origin may have. Those of tiles are 99 960 to 899 960 and 0 to 10 000 020;
what is beyond by a tile is no place in a zone."""


def checked_transform(values: Sequence[float]) -> Transform:
    """Six numbers as a transform of a north-up grid of UTM.

    Raises:
        ValueError: what keeps them from being one; in GDAL's order (origin first) too, which is
            never guessed to be meant.
    """
    a, b, c, d, e, f = values
    if not all(map(math.isfinite, values)):
        raise ValueError("not of finite numbers")
    if a <= 0 or b or d or e >= 0:
        if c == e == 0 and b > 0 and f < 0:
            raise ValueError("in GDAL's order, origin first, not in affine order")
        raise ValueError("of no north-up grid")
    if not (FINEST <= a <= COARSEST and FINEST <= -e <= COARSEST):
        raise ValueError(f"of pixels of {a:g} by {-e:g} m")
    if not (EASTINGS[0] <= c <= EASTINGS[1] and NORTHINGS[0] <= f <= NORTHINGS[1]):
        raise ValueError(f"of an origin outside UTM ({c:g}, {f:g})")
    return (a, b, c, d, e, f)
