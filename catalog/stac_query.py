"""A question to a STAC API, validated once, and whether an item answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import shapely

from catalog.errors import ItemError, UsageError
from catalog.footprint import footprint, intersects_footprint, plain_geometry, query_geometry
from catalog.item import tile_of_item, time_of_item
from catalog.json_values import finite
from catalog.parse import Box, parse_bbox, parse_datetime, parse_tile


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

    @classmethod
    def parse(
        cls,
        *,
        collection: str | None = None,
        tiles: str | Iterable[str] = (),
        bbox: str | Iterable[float] | None = None,
        intersects: Mapping[str, Any] | None = None,
        datetime: str | None = None,
        max_cloud_cover: float | None = None,
        ids: str | Iterable[str] = (),
        limit: int | None = None,
    ) -> StacQuery:
        """The question as given on a command line or in a watch.

        Args:
            intersects: any GeoJSON: geometry, Feature or FeatureCollection.
            datetime: every form of ``parse_datetime`` that is text.

        Raises:
            UsageError: one line that names the part that is wrong and shows what is right.
        """
        if collection is not None and not (isinstance(collection, str) and collection.strip()):
            raise UsageError("collection is empty; write an id such as sentinel-2-c1-l2a")
        if bbox is not None and intersects is not None:
            raise UsageError("give a bbox or a geometry that it intersects, not both")
        if datetime is not None and not isinstance(datetime, str):
            raise UsageError(f"malformed datetime {datetime!r}: write text such as 2023-12")
        parse_datetime(datetime)
        if max_cloud_cover is not None:
            cover = finite(max_cloud_cover)
            if cover is None or not 0 <= cover <= 100:
                raise UsageError(
                    f"malformed cloud cover {max_cloud_cover!r}: write a percentage from 0 to 100"
                )
            max_cloud_cover = cover
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise UsageError(f"malformed limit {limit!r}: write a number such as 100")
        if limit is not None and limit < 1:
            raise UsageError(f"malformed limit {limit!r}: write 1 or more")
        wanted = tuple(dict.fromkeys([ids] if isinstance(ids, str) else ids))
        if not all(isinstance(name, str) and name.strip() for name in wanted):
            raise UsageError(
                "an item id is empty; write one such as S2B_T10TFR_20231223T190950_L2A"
            )
        geometry = None
        if intersects is not None:
            try:
                geometry = plain_geometry(intersects)
            except ValueError as error:
                raise UsageError(f"malformed geometry: {error}") from error
        return cls(
            collection=collection,
            tiles=tuple(
                dict.fromkeys(map(parse_tile, [tiles] if isinstance(tiles, str) else tiles))
            ),
            bbox=None
            if bbox is None
            else parse_bbox(bbox if isinstance(bbox, str) else tuple(bbox)),
            intersects=geometry,
            datetime=datetime,
            max_cloud_cover=max_cloud_cover,
            ids=wanted,
            limit=limit,
        )

    def as_dict(self) -> dict[str, Any]:
        """The parts that were asked, as JSON: ``StacQuery.parse(**q.as_dict()) == q``."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
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
    place = query.bbox if query.bbox is not None else query.intersects
    area = None if place is None else query_geometry(place)

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


def _meets(item: Mapping[str, Any], area: shapely.Geometry) -> bool:
    geometry = item.get("geometry")
    if not isinstance(geometry, Mapping):
        return True
    try:
        wkb, _ = footprint(geometry)
    except ValueError:
        return True
    return bool(intersects_footprint([wkb], area)[0])
