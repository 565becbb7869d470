"""What people write for a time, a box, a tile, a platform …, as one normal form.

Used by every question that is asked: of a STAC API, of the SQL catalog, of our
own server. Each function raises ``UsageError`` with an example of what is right.
"""

from __future__ import annotations

import calendar
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Sized
from datetime import UTC, date, datetime, time
from itertools import islice
from typing import Any

import numpy as np

from catalog.bounds import LONGEST_VALUE, check_length, values_of
from catalog.errors import UsageError
from catalog.json_values import brief, finite
from catalog.names import name_fault

type Moment = str | date | datetime | np.datetime64
"""A point or a whole period (year, month, day) of time; a ``datetime`` is a ``date`` to Python."""
type TimeRange = tuple[datetime | None, datetime | None]
"""(start, end), both inclusive, aware, UTC; None is open."""
type Box = tuple[float, float, float, float]
"""(west, south, east, north) in degrees; west > east crosses the antimeridian."""

MOST = 2**63 - 2
"""Of a limit: databases count in 64 bits, and a page asks for one more."""
_TIME_HELP = (
    "write 2023, 2023-12, 2023-12-23, 2023-12-23T19:11:53Z, or a range such as "
    "2023-01-01/2023-03-31, 2023/.. or ../2023-06"
)
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)
_DATETIME = re.compile(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?P<offset>Z|[+-]\d{2}:\d{2})?",
    re.ASCII | re.IGNORECASE,
)
_TILE = re.compile(r"(?:MGRS-)?T?(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z])([A-HJ-NP-V])", re.ASCII)
_BASELINE = re.compile(r"N?(\d{2})\.?(\d{2})|(\d)\.(\d{2})", re.ASCII | re.IGNORECASE)
_PLATFORM = re.compile(r"(?:sentinel[- _]?|s)2([a-d])", re.ASCII)
# MGRS repeats its column letters every three zones, eight to a zone.
COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")


def parse_instant(text: str) -> datetime:
    """An RFC 3339 date-time (any offset, any fraction, ``T`` or a space) as aware UTC.

    Digits beyond microseconds are cut off.

    Raises:
        ValueError: it is something else; has no offset; or lies outside years 1 to 9999.
    """
    match = _DATETIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{brief(text)} is not an RFC 3339 date-time")
    if match["offset"] is None:
        raise ValueError(f"{brief(text)} has no offset from UTC")
    return _utc(datetime.fromisoformat(match[0].upper()))


def parse_datetime(
    when: Moment | tuple[Moment | None, Moment | None] | list[Moment | None] | slice | None,
) -> TimeRange:
    """The (start, end) that ``when`` means: aware UTC, both inclusive, None for open.

    Args:
        when: a date, ``2023``, ``2023-12`` or ``2023-12-23`` for the whole period up
            to its last microsecond; an RFC 3339 date-time with any offset for that
            instant (without an offset, and a naive ``datetime``, mean UTC); a ``datetime64``, of
            years, months or days for the whole period; a range ``a/b``, ``../b``, ``a/..``, a
            pair or a ``slice`` (None, ``..`` and nothing are open), from the start of the first
            to the end of the second; None for all time.

    Raises:
        UsageError: malformed, a day that does not exist, an end before its start,
            or a range open at both ends.
    """
    if when is None:
        return None, None
    if isinstance(when, str):
        check_length("a datetime", when, LONGEST_VALUE)
    ends: Any = when.split("/") if isinstance(when, str) and "/" in when else when
    if isinstance(ends, slice) and ends.step is None:
        ends = (ends.start, ends.stop)
    elif isinstance(ends, np.ndarray) and ends.ndim == 1:
        ends = list(ends)
    if not isinstance(ends, tuple | list):
        return _period(ends, when)
    if len(ends) != 2:
        raise UsageError(f"malformed datetime {_shown(when)}: a range has two ends; {_TIME_HELP}")
    first, last = (None if _is_open(end) else end for end in ends)
    if first is None and last is None:
        raise UsageError(f"malformed datetime {_shown(when)}: open at both ends; {_TIME_HELP}")
    start = None if first is None else _period(first, when)[0]
    end = None if last is None else _period(last, when)[1]
    if start is not None and end is not None and end < start:
        raise UsageError(f"malformed datetime {_shown(when)}: it ends before it starts")
    return start, end


def format_datetime(moment: datetime) -> str:
    """RFC 3339 in UTC with ``Z``; microseconds only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _is_open(end: object) -> bool:
    return end is None or (isinstance(end, str) and end.strip() in ("", ".."))


def _period(moment: Moment, whole: object) -> tuple[datetime, datetime]:
    if isinstance(moment, np.datetime64) and not np.isnat(moment):
        if np.datetime_data(moment.dtype)[0] in ("Y", "M", "D"):
            moment = str(moment)
        else:
            moment = moment.astype("datetime64[us]").item()
    # pandas' NaT passes for a datetime, and is unequal to itself.
    if not isinstance(moment, str | date) or moment != moment:
        raise UsageError(f"malformed datetime {_shown(whole)}: {_TIME_HELP}")
    try:
        if isinstance(moment, datetime):
            instant = _utc(moment)
            return instant, instant
        if isinstance(moment, date):
            return _days(moment, moment)
        text = moment.strip()
        if match := _DATE.fullmatch(text):
            year, month, day = (int(part) if part else None for part in match.groups())
            assert year is not None
            last_month = month or 12
            last_day = day or calendar.monthrange(year, last_month)[1]
            return _days(date(year, month or 1, day or 1), date(year, last_month, last_day))
        if match := _DATETIME.fullmatch(text):
            instant = _utc(datetime.fromisoformat(text.upper()))
            return instant, instant
    except (ValueError, OverflowError) as error:
        raise UsageError(f"malformed datetime {_shown(whole)}: {error}; {_TIME_HELP}") from error
    raise UsageError(f"malformed datetime {_shown(whole)}: {_TIME_HELP}")


def _days(first: date, last: date) -> tuple[datetime, datetime]:
    return (
        datetime.combine(first, time.min, tzinfo=UTC),
        datetime.combine(last, time.max, tzinfo=UTC),
    )


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


def parse_bbox(box: str | Iterable[float]) -> Box:
    """(west, south, east, north) with longitudes within ±180; west > east crosses ±180.

    Args:
        box: ``"W,S,E,N"``, four numbers, or six with heights, which are dropped.
            Longitudes within ±360 are taken too, and brought back.

    Raises:
        UsageError: not four or six finite numbers, or outside the globe, or upside down.
    """
    example = "write west,south,east,north in degrees, such as -122.5,37.2,-121.8,38.0"
    four = f"malformed bbox {_shown(box)}: it is four finite numbers; {example}"
    try:
        # One more than there may be, of however many.
        given = box[:LONGEST_VALUE].split(",") if isinstance(box, str) else box
        parts: list[Any] = list(islice(given, 7))
        if any(isinstance(part, bool) for part in parts):
            raise UsageError(four)
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(four) from None
    if len(numbers) == 6:
        numbers = [numbers[0], numbers[1], numbers[3], numbers[4]]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UsageError(four)
    west, south, east, north = numbers
    if not (-90 <= south <= 90 and -90 <= north <= 90):
        raise UsageError(f"malformed bbox {_shown(box)}: latitudes lie within ±90; {example}")
    if south > north:
        raise UsageError(f"malformed bbox {_shown(box)}: south lies above north; {example}")
    if not (-360 <= west <= 360 and -360 <= east <= 360):
        raise UsageError(f"malformed bbox {_shown(box)}: longitudes lie within ±180; {example}")
    if east - west >= 360:
        return -180.0, south, 180.0, north
    return _within_180(west), south, _within_180(east), north


def _within_180(longitude: float) -> float:
    if longitude > 180:
        return longitude - 360
    return longitude + 360 if longitude < -180 else longitude


def parse_tile(text: str) -> str:
    """Five characters, zero-padded, no ``T``: ``T10TFR`` → ``10TFR``, ``1ccv`` → ``01CCV``.

    Raises:
        UsageError: no MGRS square of 100 km is called so.
    """
    match = _TILE.fullmatch(text.strip().upper()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(
            f"malformed tile {_shown(text)}: write zone, band and square, such as 10TFR"
        )
    zone, band, column, row = int(match[1]), match[2], match[3], match[4]
    if not 1 <= zone <= 60:
        raise UsageError(
            f"unknown tile {_shown(text)}: zones are 01 to 60; a tile is such as 10TFR"
        )
    if column not in (columns := COLUMNS[zone % 3]):
        raise UsageError(
            f"unknown tile {_shown(text)}: squares of zone {zone:02} begin with {columns[0]} to "
            f"{columns[-1]}; a tile is such as 10TFR"
        )
    return f"{zone:02}{band}{column}{row}"


def parse_platform(text: str) -> str:
    """``sentinel-2a`` from ``Sentinel-2A``, ``S2A`` and the like.

    Raises:
        UsageError: none of Sentinel-2 A to D.
    """
    match = _PLATFORM.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(
            f"unknown platform {_shown(text)}: write sentinel-2a (or S2A), 2b, 2c or 2d"
        )
    return f"sentinel-2{match[1]}"


def parse_baseline(text: str) -> str:
    """``05.10`` from ``05.10``, ``5.10`` or ``N0510``.

    Raises:
        UsageError: not a processing baseline.
    """
    match = _BASELINE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(
            f"malformed baseline {_shown(text)}: write a processing baseline such as 05.10"
        )
    return f"{int(match[1] or match[3]):02}.{match[2] or match[4]}"


def parse_cloud_cover(percent: float | None) -> float | None:
    """Percent; None stays None.

    Raises:
        UsageError: not a number from 0 to 100.
    """
    if percent is None:
        return None
    number = finite(percent)
    if number is None or not 0 <= number <= 100:
        raise UsageError(
            f"malformed cloud cover {_shown(percent)}: write a percentage from 0 to 100"
        )
    return number


def parse_limit(limit: int | None) -> int | None:
    """A number of scenes, 1 or more; None stays None.

    Raises:
        UsageError: something else.
    """
    if limit is None:
        return None
    try:
        number = 0 if isinstance(limit, bool) else operator.index(limit)
    except TypeError:
        number = 0
    if not 1 <= number <= MOST:
        raise UsageError(
            f"malformed limit {_shown(limit)}: write a whole number of 1 or more, as in 100"
        )
    return number


def parse_item_id(text: str) -> str:
    """The id of a STAC item, which is that of its scene.

    Raises:
        UsageError: not printable text of at most 255 bytes.
    """
    return _name("item id", text, "S2B_T10TFR_20231223T190950_L2A")


def parse_collection(text: str) -> str:
    """The id of a STAC collection.

    Raises:
        UsageError: not printable text of at most 255 bytes.
    """
    return _name("collection", text, "sentinel-2-c1-l2a")


def parse_several(
    given: str | Iterable[str] | None, one: Callable[[str], str]
) -> tuple[str, ...] | None:
    """One value or several, each through ``one``, without repeats; None stays None.

    Raises:
        UsageError: as ``one``; more than ``bounds.MOST_VALUES``.
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        given = [given]
    return tuple(dict.fromkeys(map(one, values_of("values", given))))


def _name(what: str, text: str, example: str) -> str:
    # A terminal may give two code points for what an item writes as one.
    name = unicodedata.normalize("NFC", text).strip() if isinstance(text, str) else text
    if fault := name_fault(name):
        raise UsageError(f"malformed {what} {_shown(text)}: {fault}; write one such as {example}")
    return name


def _shown(value: Any) -> str:
    """For a message: what was given, as Python writes it, but not all of a long one."""
    if isinstance(value, str | bytes):
        return brief(value, 100)
    if isinstance(value, Sized) and len(value) > 100:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return brief(value, 100)
    return text if len(text) <= 100 else f"{text[:99]}…"


def is_unicode(text: str) -> bool:
    """False for half of a surrogate pair: what a terminal made of bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
