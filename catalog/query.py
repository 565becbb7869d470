"""A question about the scenes of a catalog, validated once. ``selection.py`` asks it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from shapely.geometry.base import BaseGeometry

from catalog.area import box_geometry, parse_geometry
from catalog.bounds import LONGEST_VALUE, check_length, check_values, values_of
from catalog.errors import UsageError
from catalog.filter_cql2 import parse_filter
from catalog.filter_tree import Filter
from catalog.json_values import brief
from catalog.parse import (
    Box,
    TimeRange,
    format_datetime,
    parse_baseline,
    parse_bbox,
    parse_cloud_cover,
    parse_collection,
    parse_datetime,
    parse_item_id,
    parse_limit,
    parse_platform,
    parse_several,
    parse_tile,
)
from catalog.recorded import STATUSES

SORT_KEYS = ("datetime", "cloud_cover", "id", "updated")
_SORT_NAMES = {name: name for name in SORT_KEYS} | {"eo:cloud_cover": "cloud_cover"}
PER_TILE: dict[str, tuple[tuple[str, bool], ...]] = {
    "latest": (("datetime", True),),
    "least_cloudy": (("cloud_cover", False), ("datetime", True)),
}
"""Which scene of a tile → the order it is the first of."""
_SNAPSHOT = re.compile(r"[0-9A-Z]{20}", re.ASCII)

Instant = datetime
"""``datetime`` where a field has its name."""


@dataclass(frozen=True, slots=True)
class Query:
    """A validated question; made by ``Query.parse``. None asks for nothing, () for no scene."""

    ids: tuple[str, ...] | None = None
    collection: tuple[str, ...] | None = None
    tile: tuple[str, ...] | None = None
    """Five characters each, without the T."""
    bbox: Box | None = None
    """(west, south, east, north) within ±180; west > east crosses the antimeridian."""
    intersects: BaseGeometry | None = None
    """Valid, 2-D, degrees; not together with ``bbox``."""
    datetime: TimeRange | None = None
    """First and last instant, both inclusive, aware UTC; None is open."""
    cloud_cover: tuple[float | None, float | None] | None = None
    """Percent, both inclusive; scenes without a value do not match."""
    platform: tuple[str, ...] | None = None
    baseline: tuple[str, ...] | None = None
    status: tuple[str, ...] | None = ("indexed",)
    newest: bool = False
    """Of scenes that are the same acquisition, only the one processed last."""
    updated_since: Instant | None = None
    """The source's ``updated``, inclusive; scenes without it do not match."""
    filter: Filter | None = None
    per_tile: str | None = None
    """A key of ``PER_TILE``: of the scenes of a tile that match, this one."""
    as_of: Instant | str | None = None
    """An instant, or the id of a snapshot: that of its recording."""
    sort: tuple[tuple[str, bool], ...] = (("datetime", True),)
    """(key, descending); ties are broken by the catalog's own number of the scene."""
    limit: int | None = None

    @classmethod
    def parse(
        cls,
        *,
        ids: str | Iterable[str] | None = None,
        collection: str | Iterable[str] | None = None,
        tile: str | Iterable[str] | None = None,
        bbox: Sequence[float] | str | None = None,
        intersects: Any = None,
        datetime: Any = None,
        max_cloud_cover: float | None = None,
        cloud_cover: Sequence[float | None] | None = None,
        platform: str | Iterable[str] | None = None,
        baseline: str | Iterable[str] | None = None,
        status: str | Iterable[str] | None = "indexed",
        newest: bool = False,
        updated_since: Any = None,
        filter: str | Mapping[str, Any] | bool | Filter | None = None,
        per_tile: str | None = None,
        as_of: Instant | str | None = None,
        sort: str | Iterable[str | Mapping[str, str]] | None = None,
        limit: int | None = None,
    ) -> Query:
        """The question in the words of its asker.

        Args:
            ids, collection, tile, platform, baseline, status: one or several.
                Tiles as ``10TFR``, ``T10TFR`` or ``1CCV``; platforms as
                ``sentinel-2a`` or ``S2A``; baselines as ``05.10`` or ``N0510``;
                ``status=None`` or ``"any"`` for all.
            newest: of scenes of a collection that are the same acquisition (``_0`` and ``_1``, or
                processed again under another id), only the one processed last.
            bbox: west, south, east, north in degrees; west > east crosses the antimeridian.
            intersects: GeoJSON (geometry or feature, as mapping or text), WKT, shapely,
                or anything with ``__geo_interface__``. Not together with ``bbox``.
            datetime: a STAC datetime or interval, ``2023``, ``2023-12``, ``2023-12-23``,
                a date or datetime (naive is UTC), or a pair of these with None as open.
            max_cloud_cover: percent, inclusive.
            cloud_cover: (low, high) percent, inclusive; None is open.
            updated_since: a time as for ``datetime``, from its start: scenes whose item the
                source has changed since, by its own ``updated``. Where a source has none
                (Planetary Computer), no scene matches.
            filter: CQL2, text or JSON: ``filter_cql2.parse_filter``. Beside the others.
            per_tile: ``latest`` or ``least_cloudy`` (of two as clear, the later): of the scenes
                of each tile that match all the rest, that one.
            as_of: a time (aware, or ISO text, up to its end) or a snapshot id: scenes as the
                catalog knew them then.
            sort: ``datetime``, ``cloud_cover``, ``id``, ``updated``, each with ``-`` for
                descending; several with commas; or STAC's ``sortby``, objects of ``field`` and
                ``direction``. Newest first where not given.
            limit: at most so many scenes.

        Raises:
            UsageError: a value that means nothing, or more than ``bounds`` has it; names it and
                what would do.
        """
        if bbox is not None and intersects is not None:
            raise UsageError("give a bbox or a geometry that it intersects, not both")
        query = cls(
            ids=parse_several(ids, parse_item_id),
            collection=parse_several(collection, parse_collection),
            tile=parse_several(tile, parse_tile),
            bbox=None if bbox is None else parse_bbox(bbox),
            intersects=None if intersects is None else parse_geometry(intersects),
            datetime=None if datetime is None else parse_datetime(datetime),
            cloud_cover=_cloud_range(max_cloud_cover, cloud_cover),
            platform=parse_several(platform, parse_platform),
            baseline=parse_several(baseline, parse_baseline),
            status=parse_several(None if status == "any" else status, _status),
            newest=bool(newest),
            updated_since=_since(updated_since),
            filter=None if filter is None else parse_filter(filter),
            per_tile=_per_tile(per_tile),
            as_of=_as_of(as_of),
            sort=_sort(sort),
            limit=parse_limit(limit),
        )
        lists = (query.ids, query.collection, query.tile, query.platform, query.baseline)
        named = [len(values) for values in lists if values is not None]
        check_values([*named, query.filter.listed if query.filter else 0])
        return query

    def __str__(self) -> str:
        """What is asked for, and nothing of what is not."""
        asked = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        if self.filter is not None:
            asked["filter"] = self.filter.text
        if self.datetime is not None:
            ends = (".." if end is None else format_datetime(end) for end in self.datetime)
            asked["datetime"] = "/".join(ends)
        words = (f"{name}={_said(value)}" for name, value in asked.items())
        return ", ".join(words) or "all scenes"

    @property
    def area(self) -> BaseGeometry | None:
        """What footprints have to touch, degrees; None where no place was asked for."""
        return self.intersects if self.bbox is None else box_geometry(self.bbox)

    @property
    def fingerprint(self) -> str:
        """The same for questions that differ in their limit alone; 16 hex digits."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, BaseGeometry):
                value = value.wkb_hex
            elif isinstance(value, Filter):
                value = value.text
            if field.name != "limit":
                parts.append(f"{field.name}={value!r}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _said(value: Any) -> str:
    if not isinstance(value, tuple):
        return brief(value)
    listed = [text if isinstance(text, str) else brief(text) for text in value]
    return ",".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _since(given: Any) -> datetime | None:
    if given is None:
        return None
    start, end = parse_datetime(given)
    if (
        start is None
        or (isinstance(given, str) and "/" in given)
        or isinstance(given, list | tuple)
    ):
        raise UsageError(f"malformed updated_since {given!r}: write a time, no range")
    assert end is not None
    return start


def _per_tile(given: str | None) -> str | None:
    if given is not None and given not in PER_TILE:
        raise UsageError(f"per_tile {given!r} is unknown; known are {', '.join(PER_TILE)}")
    return given


def _as_of(given: Any) -> datetime | str | None:
    if given is None:
        return None
    if isinstance(given, datetime) and given == given:
        if given.tzinfo is None:
            raise UsageError(f"as_of={given!r} has no time zone")
        return given
    if isinstance(given, str) and _SNAPSHOT.fullmatch(given.strip()):
        return given.strip()
    end = None
    if "/" not in str(given) and not isinstance(given, tuple | list):
        try:
            # The end of the day, month or second that was named.
            end = parse_datetime(given)[1]
        except UsageError:
            end = None
    if end is None:
        raise UsageError(f"malformed as_of {given!r}: write a time, or the id of a snapshot")
    return end


def _status(text: str) -> str:
    if text not in STATUSES:
        raise UsageError(f"status {text!r} is unknown; known are {', '.join(STATUSES)} and any")
    return text


def _cloud_range(
    most: float | None, both: Sequence[float | None] | None
) -> tuple[float | None, float | None] | None:
    if most is None and both is None:
        return None
    ends: Any = (None, None)
    if both is not None:
        ends = None if isinstance(both, str) or not hasattr(both, "__len__") else tuple(both)
        if ends is None or len(ends) != 2:
            raise UsageError(f"malformed cloud cover {both!r}: a range has two ends, low and high")
    low, high = map(parse_cloud_cover, ends)
    tops = [value for value in (high, parse_cloud_cover(most)) if value is not None]
    top = min(tops, default=None)
    if low is not None and top is not None and low > top:
        raise UsageError(f"malformed cloud cover: from {low:g} to {top:g} is no range")
    return low, top


def _sort(given: Any) -> tuple[tuple[str, bool], ...]:
    if given is None:
        return (("datetime", True),)
    if isinstance(given, str):
        check_length("a sort", given, LONGEST_VALUE)
        given = given.split(",")
    elif isinstance(given, Mapping) or not isinstance(given, Iterable):
        given = [given]
    keys: dict[str, bool] = {}
    for word in values_of("keys to sort by", given, 100):
        text = word
        if isinstance(word, Mapping) and word.get("direction", "asc") in ("asc", "desc"):
            text = f"{'-' if word.get('direction') == 'desc' else ''}{word.get('field')}"
        text = text.strip() if isinstance(text, str) else ""
        name = text.removeprefix("-").removeprefix("+").removeprefix("properties.")
        if name not in _SORT_NAMES:
            raise UsageError(
                f"sort {word!r} is unknown; known are {', '.join(SORT_KEYS)}, each with -"
            )
        keys.setdefault(_SORT_NAMES[name], text.startswith("-"))
    if not keys:
        raise UsageError("sort names no key")
    return tuple(keys.items())
