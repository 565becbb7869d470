"""A question to a STAC API, validated once, and whether an item answers it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from shapely.geometry.base import BaseGeometry

from catalog.area import (
    box_geometry,
    intersects_footprint,
    parse_geometry,
    plain_geometry,
    query_geometry,
)
from catalog.bounds import check_values
from catalog.errors import ItemError, UsageError
from catalog.footprint import footprint
from catalog.item import tile_of_item, time_of_item
from catalog.json_values import finite
from catalog.parse import (
    Box,
    parse_bbox,
    parse_cloud_cover,
    parse_collection,
    parse_datetime,
    parse_instant,
    parse_item_id,
    parse_limit,
    parse_several,
    parse_tile,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StacQuery:
    """What to crawl. Make one with ``StacQuery.parse``, which validates and normalises."""

    collection: str | None = None
    """Collection id; a search needs one, a file of items does not."""
    tiles: tuple[str, ...] = ()
    """Five characters each; any of them. Empty for all."""
    bbox: Box | None = None
    """(west, south, east, north), degrees; west > east crosses the antimeridian."""
    intersects: Mapping[str, Any] | None = None
    """One GeoJSON geometry within ±180; not together with ``bbox``."""
    datetime: str | None = None
    """As the user wrote it; ``parse_datetime`` says what it means."""
    max_cloud_cover: float | None = None
    """Percent, inclusive. Items that do not say their cloud cover do not match."""
    ids: tuple[str, ...] = ()
    """Item ids; any of them. Empty for all."""
    limit: int | None = None
    """Stop after so many matching items."""
    updated_since: dt.datetime | None = None
    """Aware; items whose ``updated`` is earlier do not match, those without one do. Not part of
    what is saved: a watch's own watermark gives it."""

    @classmethod
    def parse(
        cls,
        *,
        collection: str | None = None,
        tiles: str | Iterable[str] = (),
        bbox: str | Iterable[float] | None = None,
        intersects: Any = None,
        datetime: str | None = None,
        max_cloud_cover: float | None = None,
        ids: str | Iterable[str] = (),
        limit: int | None = None,
    ) -> StacQuery:
        """The question as given on a command line or in a watch.

        Args:
            intersects: any form of ``area.parse_geometry``.
            datetime: every form of ``parse_datetime`` that is text.

        Raises:
            UsageError: one line that names the part that is wrong and shows what is right.
        """
        if bbox is not None and intersects is not None:
            raise UsageError("give a bbox or a geometry that it intersects, not both")
        if datetime is not None and not isinstance(datetime, str):
            raise UsageError(f"malformed datetime {datetime!r}: write text such as 2023-12")
        parse_datetime(datetime)
        query = cls(
            collection=None if collection is None else parse_collection(collection),
            tiles=parse_several(tiles, parse_tile) or (),
            bbox=None if bbox is None else parse_bbox(bbox),
            intersects=None if intersects is None else plain_geometry(parse_geometry(intersects)),
            datetime=datetime,
            max_cloud_cover=parse_cloud_cover(max_cloud_cover),
            ids=parse_several(ids, parse_item_id) or (),
            limit=parse_limit(limit),
        )
        check_values([len(query.tiles), len(query.ids)])
        return query

    def as_dict(self) -> dict[str, Any]:
        """The parts that were asked, as JSON: ``StacQuery.parse(**q.as_dict()) == q``."""
        names = [field.name for field in fields(self) if field.name != "updated_since"]
        parts = {name: getattr(self, name) for name in names}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in parts.items()
            if value not in (None, ())
        }


def item_judge(query: StacQuery) -> Callable[[Mapping[str, Any]], str | None]:
    """A function that names the part of ``query`` an item does not answer, or None.

    For servers that ignore parts of a question, and for files. What cannot be judged
    (an item without geometry, time or tile) is let through, for ``scene_from_item`` to
    say what is wrong with it: a scene is never lost without a word.
    """
    start, end = parse_datetime(query.datetime)
    tiles, ids = frozenset(query.tiles), frozenset(query.ids)
    area = None
    if query.bbox is not None:
        area = query_geometry(box_geometry(query.bbox))
    elif query.intersects is not None:
        area = query_geometry(parse_geometry(query.intersects))

    def judge(item: Mapping[str, Any]) -> str | None:
        if query.collection is not None and item.get("collection") not in (None, query.collection):
            return "collection"
        if ids and item.get("id") not in ids:
            return "ids"
        properties = item.get("properties")
        if query.max_cloud_cover is not None and isinstance(properties, Mapping):
            cover = finite(properties.get("eo:cloud_cover"))
            if cover is None or cover > query.max_cloud_cover:
                return "max_cloud_cover"
        if query.updated_since is not None and isinstance(properties, Mapping):
            try:
                if parse_instant(str(properties.get("updated"))) < query.updated_since:
                    return "updated_since"
            except ValueError:
                pass  # it does not say, so it may have changed
        try:
            if tiles and tile_of_item(item) not in tiles:
                return "tiles"
            if start or end:
                when = time_of_item(item)
                if (start and when < start) or (end and when > end):
                    return "datetime"
        except ItemError:
            return None
        if area is not None and not _meets(item, area):
            return "bbox" if query.bbox is not None else "intersects"
        return None

    return judge


def _meets(item: Mapping[str, Any], area: Sequence[BaseGeometry]) -> bool:
    geometry = item.get("geometry")
    if not isinstance(geometry, Mapping):
        return True
    try:
        wkb, _ = footprint(geometry)
    except ValueError:
        return True
    return bool(intersects_footprint([wkb], area)[0])


def matching(items: Iterable[Mapping[str, Any]], query: StacQuery) -> Iterator[Mapping[str, Any]]:
    """Those of ``items`` that answer ``query``, at most ``query.limit``: for files of items."""
    judge = item_judge(query)
    return islice((item for item in items if judge(item) is None), query.limit)
