"""What the catalog holds of a question and a complete search of the source did not return.

A scene that a search does not return may only answer the question no longer (its cloud cover was
corrected), so the source is asked for it by its id before it counts as gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched
from typing import Any

from sqlalchemy import Connection

from catalog import failures
from catalog.answers import Asker
from catalog.errors import UsageError
from catalog.query import Query
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items
from catalog.tile_boxes import TileBoxes

PAGE = 100
"""Ids asked for at once."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the catalog that a search was about, and how to ask for single items."""

    query: Query
    collection: str
    ask: Callable[[Sequence[str]], Iterable[Mapping[str, Any]]]
    """Ids → those of the items that the source still has, as served."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A scene that the search did not return."""

    id: str
    tile: str | None
    """None for an item that could not become a scene."""
    indexed: bool


def scope(url: str, query: StacQuery, **access: Any) -> Scope:
    """The scope of a search of ``url`` for ``query``; ``access`` is ``settings.stac_access``.

    Raises:
        UsageError: the search is not meant to return everything there is.
    """
    if query.collection is None:
        raise UsageError("--sync needs a collection")
    if query.limit is not None:
        raise UsageError("--sync needs a whole search: not with --limit")
    collection = query.collection

    def ask(ids: Sequence[str]) -> Iterable[Mapping[str, Any]]:
        return search_items(url, StacQuery.parse(collection=collection, ids=ids), **access)

    asked = query.as_dict()
    return Scope(
        Query.parse(
            collection=collection,
            tile=asked.get("tiles"),
            bbox=asked.get("bbox"),
            intersects=asked.get("intersects"),
            datetime=asked.get("datetime"),
            max_cloud_cover=asked.get("max_cloud_cover"),
            ids=asked.get("ids"),
            status="any",
        ),
        collection,
        ask,
    )


def missing(
    connection: Connection, repository_id: int, scope: Scope, seen: set[int]
) -> list[Missing]:
    """Scenes of the scope whose ids (by ``hash``) were not seen, tile by tile. One statement (for
    a place three), and one more where the scope is a whole collection.

    Two ids with one hash are taken for one: a scene that is gone may stay, none is lost.
    """
    by_id = replace(scope.query, sort=(("id", False),))
    asker = Asker(connection, repository_id, TileBoxes())
    found = [
        Missing(record.id, record.tile, record.status == "indexed")
        for record in asker.each(by_id)
        if hash(record.id) not in seen and (record.status != "withdrawn" or record.attempts)
    ]
    found.sort(key=lambda scene: (scene.tile or "", scene.id))
    if scope.query == Query.parse(collection=scope.collection, status="any"):
        unreadable = failures.unreadable_items(connection, repository_id, scope.collection)
        known = {scene.id for scene in found}
        found += [
            Missing(item, None, indexed=False)
            for item in unreadable
            if hash(item) not in seen and item not in known
        ]
    return found


def pages(found: Sequence[Missing]) -> Iterator[tuple[Missing, ...]]:
    """``found`` in the portions that are asked for at once."""
    return batched(found, PAGE)
