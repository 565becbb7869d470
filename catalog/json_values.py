"""Values of foreign JSON, checked; and our own values as JSON.

What Python reads from JSON may be NaN or an endless integer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from numbers import Real
from typing import Any

from catalog.redaction import redacted


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


def brief(value: Any, most: int = 60) -> str:
    """For a message: one printable line of at most ``most`` characters, without secrets."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a huge number"
    if isinstance(value, bytes):
        value = value[:most]
    # Before it is cut: what is left of an address must not hold its password.
    text = repr(redacted(value)[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


MOST_NOTES, LONGEST_NOTE = 50, 400


def bounded_notes(notes: Iterable[str]) -> tuple[str, ...]:
    """Sentences for a record, each once: at most ``MOST_NOTES`` of ``LONGEST_NOTE`` characters,
    and one that says how many more there are."""
    kept = list(dict.fromkeys(bounded(note) for note in notes))
    if len(kept) > MOST_NOTES:
        kept[MOST_NOTES:] = [f"and {len(kept) - MOST_NOTES} more."]
    return tuple(kept)


def bounded(text: str, most: int = LONGEST_NOTE) -> str:
    """The first ``most`` characters, the last of them ``…`` where there are more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


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
