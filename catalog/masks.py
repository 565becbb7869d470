"""Which pixels to leave out: the classes of the scene classification map, by name or number. Pure.

Names follow STAC's classification of Sentinel-2's SCL (``classification:classes``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from catalog.bands import asked
from catalog.errors import NotFoundError
from catalog.json_values import brief

SCL_CLASSES: tuple[str, ...] = (
    "no_data",
    "saturated_or_defective",
    "dark_area",
    "cloud_shadow",
    "vegetation",
    "not_vegetated",
    "water",
    "unclassified",
    "cloud_medium_probability",
    "cloud_high_probability",
    "thin_cirrus",
    "snow",
)
"""By their number in the product, 0 to 11."""

MASKS: dict[str, tuple[int, ...]] = {
    # What the product's cloud cover percentage counts, and so `max_cloud_cover`.
    "clouds": (8, 9, 10),
    "clouds_and_shadows": (3, 8, 9, 10),
    "invalid": (0, 1),
}
"""Names of several classes at once."""

_SHORT = {
    "cloud_medium": 8,
    "cloud_high": 9,
    "cirrus": 10,
    "cloud_shadows": 3,
    "dark_area_pixels": 2,
    "defective": 1,
    "nodata": 0,
    "not_vegetation": 5,
    "snow_or_ice": 11,
}


def parse_mask(mask: str | int | Iterable[str | int] | None) -> tuple[int, ...]:
    """The numbers of the classes to mask, ascending; () for None.

    Args:
        mask: ``clouds`` (8, 9, 10), ``clouds_and_shadows`` (and 3), ``invalid`` (0, 1), the name of
            a class, its number, or several of these.

    Raises:
        NotFoundError: no class is called so; the message lists those that are.
        UsageError: there are more than a thousand.
    """
    if mask is None:
        return ()
    words = asked("mask", mask)
    return tuple(sorted({number for word in words for number in _numbers(word)}))


def in_classes(scl: NDArray[np.integer], classes: Iterable[int]) -> NDArray[np.bool_]:
    """Where ``scl`` is one of ``classes``: the same shape."""
    table = np.zeros(256, np.bool_)
    table[list(classes)] = True
    return table[scl.astype(np.uint8, copy=False)]


def _numbers(word: str | int) -> tuple[int, ...]:
    if isinstance(word, str):
        name = word.strip().lower().replace(" ", "_").replace("-", "_")
        if name in MASKS:
            return MASKS[name]
        if name in SCL_CLASSES:
            return (SCL_CLASSES.index(name),)
        if name in _SHORT:
            return (_SHORT[name],)
        if name.isdecimal() and int(name) < len(SCL_CLASSES):
            return (int(name),)
    elif not isinstance(word, bool) and word in range(len(SCL_CLASSES)):
        return (int(word),)
    known = ", ".join(f"{name} ({number})" for number, name in enumerate(SCL_CLASSES))
    raise NotFoundError(
        f"unknown scl class {brief(word)}; known are {known}; and {', '.join(MASKS)}"
    )
