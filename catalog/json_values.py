"""Values of foreign JSON, checked; and our own values as JSON.

What Python reads from JSON may be NaN or an endless integer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from numbers import Real
from typing import Any


def finite(value: Any) -> float | None:
    """A finite number (numpy's too), or None: JSON as Python reads it may hold NaN and endless
    integers."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: Any, below: int) -> int | None:
    """An integer in [0, ``below``), also if written as 5.0; or None."""
    number = finite(value)
    if number is None or number != int(number) or not 0 <= number < below:
        return None
    return int(value)


def band_list(bands: Iterable[str]) -> str:
    """``band red`` or ``bands red, nir``, without repeats."""
    names = list(dict.fromkeys(bands))
    return f"band{'s' if len(names) > 1 else ''} {', '.join(names)}"


def brief(value: Any) -> str:
    """For a message: one line of at most sixty characters."""
    if isinstance(value, Mapping | list | tuple):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def plain(value: Any) -> Any:
    """A record as plain JSON values: times as ISO 8601, UTC; bytes left out."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if hasattr(value, "__dataclass_fields__"):
        return {
            name: plain(getattr(value, name))
            for name in value.__dataclass_fields__
            if not isinstance(getattr(value, name), bytes) and name != "pk"
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
