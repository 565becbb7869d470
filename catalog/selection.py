"""A ``Query`` as SQL. Executes nothing; ``answers.py`` does.

Space is asked tiles first: the boxes of tiles choose tiles, the index on (tile, datetime)
their scenes, the boxes of scenes most of the answer, and shapely the rest, on the footprints
themselves. Questions of one shape, whatever their values, have one statement, made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from shapely.geometry.base import BaseGeometry
from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.types import NullType

from catalog import filter_sql
from catalog.area import query_boxes
from catalog.filter_tree import And, Spatial, Tree
from catalog.models import (
    BRANCHES,
    COLLECTIONS,
    REPOSITORIES,
    SCENE_REVISIONS,
    SCENES,
    SNAPSHOTS,
    STATE_COLUMNS,
    TILES,
)
from catalog.parse import Box
from catalog.portable_sql import one_of_these, unindexed
from catalog.query import PER_TILE, Query
from catalog.scene_rows import columns

_LISTS = {
    "ids": "item_id",
    "collection": "collection",
    "tile": "tile",
    "platform": "platform",
    "baseline": "baseline",
    "status": "status",
}
# What a NULL sorts as: last, upwards and downwards, on both databases.
_NULLS: dict[str, tuple[Any, Any]] = {
    "cloud_cover": (101.0, -1.0),
    "updated": (datetime(9999, 1, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)),
}
_SORT = {
    "datetime": "datetime",
    "cloud_cover": "cloud_cover",
    "id": "item_id",
    "updated": "updated",
}
_KEYS = ("id", "repository_id", "collection_id", "item_id", "tile", "epsg")
_THEN = bindparam("then", type_=SCENES.c.sequence.type)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a question asks: geometries by the index that ``Spatial`` has, and their tiles."""

    areas: tuple[BaseGeometry, ...]
    boxes: tuple[tuple[Box, ...], ...]
    tiles: tuple[list[str] | None, ...] = ()
    """None where there are too many to list."""

    @classmethod
    def of(cls, query: Query) -> Places:
        """Of the filter first, then that of ``bbox`` or ``intersects``."""
        areas = query.filter.places if query.filter else ()
        if query.area is not None:
            areas = (*areas, query.area)
        return cls(areas, tuple(query_boxes(area) for area in areas))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a question asks of, without its values."""

    lists: tuple[tuple[str, bool], ...]
    """Field, and whether it has several values."""
    ends: tuple[str, ...]
    """``datetime_low`` …"""
    tree: Tree | None
    places: tuple[tuple[int, bool], ...]
    """Of each: how many boxes, and whether its tiles are listed."""
    newest: bool
    per_tile: str | None
    past: bool
    sort: tuple[tuple[str, bool], ...]
    repository: bool
    limited: bool = False
    after: bool = False

    @property
    def exact(self) -> bool:
        """Whether SQL alone answers: no footprint is asked."""
        return self.tree is None or not filter_sql.asks_footprints(self.tree)


def condition_of(query: Query) -> Tree | None:
    """The filter, and the area as one more condition."""
    parts: list[Tree] = [query.filter.tree] if query.filter else []
    if query.area is not None:
        parts.append(Spatial("s_intersects", len(query.filter.places) if query.filter else 0))
    return None if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))


def shape_of(
    query: Query, places: Places, *, repository: bool, limited: bool = False, after: bool = False
) -> Shape:
    """What ``query`` asks of."""
    lists = []
    for field in _LISTS:
        values = getattr(query, field)
        if values is not None:
            lists.append((field, len(values) != 1))
    return Shape(
        lists=tuple(lists),
        ends=tuple(_ends(query)),
        tree=condition_of(query),
        places=tuple(
            (len(boxes), tiles is not None)
            for boxes, tiles in zip(places.boxes, places.tiles, strict=True)
        ),
        newest=query.newest,
        per_tile=query.per_tile,
        past=query.as_of is not None,
        sort=query.sort,
        repository=repository,
        limited=limited,
        after=after,
    )


def values_of(
    query: Query,
    places: Places,
    *,
    repository_id: int | None,
    then: int | None = None,
    limit: int | None = None,
    after: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """What the parameters of a statement of the shape of ``query`` stand for.

    Args:
        then: the ``sequence`` that ``query.as_of`` means.
        after: the values of the sort keys of the last scene of the page before, and its number.
    """
    values: dict[str, Any] = {}
    for field in _LISTS:
        found = getattr(query, field)
        if found is not None:
            values[field] = found[0] if len(found) == 1 else list(found)
    values |= _ends(query)
    if query.filter is not None:
        values |= filter_sql.parameters(query.filter.values)
    for n, (boxes, tiles) in enumerate(zip(places.boxes, places.tiles, strict=True)):
        if tiles is not None:
            values[f"tiles_{n}"] = tiles
        for k, box in enumerate(boxes):
            values |= zip((f"{side}_{n}_{k}" for side in ("w", "s", "e", "n")), box, strict=True)
    if repository_id is not None:
        values["repository"] = repository_id
    if then is not None:
        values["then"] = then
    if limit is not None:
        values["limit"] = limit
    if after is not None:
        *keys, pk = after
        for n, ((name, down), value) in enumerate(zip(query.sort, keys, strict=True)):
            values[f"after_{n}"] = _NULLS[name][down] if value is None else value
        values["after_pk"] = pk
    return values


@lru_cache(512)
def statement(shape: Shape) -> Select[Any]:
    """Rows of ``scene_rows.columns`` and of ``filter_sql.split``'s parts, in order.

    All scenes that may answer; exactly those that do where ``shape.exact``.
    """
    scene = _source(shape, "scenes")
    parts, _ = filter_sql.split(shape.tree) if shape.tree else ((), None)
    keys = _sort_keys(shape, scene.c)
    said = [type_coerce(filter_sql.condition(part, scene.c), NullType()) for part in parts]
    chosen = select(*columns(scene.c), *said)
    if shape.per_tile is None:
        chosen = chosen.select_from(scene).where(*_conditions(shape, scene.c))
    else:
        best = _source(shape, "best")
        one = replace(shape, sort=PER_TILE[shape.per_tile], per_tile=None)
        first = (
            select(best.c.id)
            .where(best.c.tile == TILES.c.tile, *_conditions(shape, best.c))
            .order_by(*_ordered(_sort_keys(one, best.c, of_one_tile=True)))
            .limit(1)
            .correlate(TILES)
            .scalar_subquery()
        )
        chosen = chosen.select_from(TILES.join(scene, scene.c.id == first))
        chosen = chosen.where(*_tile_conditions(shape))
    chosen = (
        chosen.join(COLLECTIONS, COLLECTIONS.c.id == scene.c.collection_id)
        .join(REPOSITORIES, REPOSITORIES.c.id == scene.c.repository_id)
        .join(BRANCHES, BRANCHES.c.id == scene.c.branch_id, isouter=True)
        .order_by(*_ordered(keys))
    )
    if shape.after:
        chosen = chosen.where(_follows(keys))
    return chosen.limit(bindparam("limit", type_=SCENES.c.epsg.type)) if shape.limited else chosen


@lru_cache(512)
def count_statement(shape: Shape) -> Select[Any]:
    """One number where ``shape.exact``; else footprints and ``filter_sql.split``'s parts."""
    scene = _source(shape, "scenes")
    parts, _ = filter_sql.split(shape.tree) if shape.tree else ((), None)
    if shape.exact:
        chosen = select(func.count())
    else:
        said = [type_coerce(filter_sql.condition(part, scene.c), NullType()) for part in parts]
        chosen = select(scene.c.footprint, *said)
    return chosen.select_from(scene).where(*_conditions(shape, scene.c))


def snapshot_moment() -> Select[Any]:
    """When the commit of the snapshot :snapshot was recorded, in repository :repository: sequence
    and time of its last scene, as it is now and as it was; and when the commit was written.

    The moment of its scenes, wherever they are now; of a commit without scenes, its own.
    """
    known: ColumnElement[str] = bindparam("snapshot")

    def of(table: Any) -> list[Any]:
        mine = table.c.snapshot_id == known
        return [select(func.max(table.c[name])).where(mine) for name in ("sequence", "recorded_at")]

    written = (
        select(SNAPSHOTS.c.written_at)
        .join(BRANCHES, BRANCHES.c.id == SNAPSHOTS.c.branch_id)
        .where(SNAPSHOTS.c.id == known, BRANCHES.c.repository_id == bindparam("repository"))
    )
    asked = (*of(SCENES), *of(SCENE_REVISIONS), written)
    return select(*(each.scalar_subquery() for each in asked))


def _ends(query: Query) -> dict[str, Any]:
    found = {}
    for field, ends in (
        ("datetime", query.datetime),
        ("cloud_cover", query.cloud_cover),
        ("updated", (query.updated_since, None)),
    ):
        for side, end in zip(("low", "high"), ends or (None, None), strict=True):
            if end is not None:
                found[f"{field}_{side}"] = end
    return found


def _source(shape: Shape, name: str) -> Any:
    """The scenes as they are, or as they were at :then."""
    if not shape.past:
        return SCENES if name == "scenes" else SCENES.alias(name)
    scene, then = SCENES.c, SCENE_REVISIONS.c
    now = select(
        *(scene[key] for key in _KEYS),
        *(scene[column] for column in STATE_COLUMNS),
        # Work is of the present.
        literal(0).label("attempts"),
        type_coerce(null(), scene.last_error.type).label("last_error"),
        type_coerce(null(), scene.next_attempt_at.type).label("next_attempt_at"),
    ).where(scene.sequence <= _THEN)
    before = (
        select(
            *(scene[key] for key in _KEYS),
            *(then[column] for column in STATE_COLUMNS),
            literal(0),
            null(),
            null(),
        )
        .select_from(SCENE_REVISIONS.join(SCENES, scene.id == then.scene_id))
        .where(then.sequence <= _THEN, then.replaced_by > _THEN)
    )
    return union_all(now, before).subquery(f"{name}_then")


def _conditions(shape: Shape, scene: Any) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for field, several in shape.lists:
        if field == "collection":
            name = COLLECTIONS.c.name
            known = select(COLLECTIONS.c.id).where(_among(name, field, several))
            conditions.append(scene.collection_id.in_(known))
        else:
            conditions.append(_among(scene[_LISTS[field]], field, several))
    for end in shape.ends:
        field, _, side = end.rpartition("_")
        column = scene[field]
        limit = bindparam(end, type_=column.type)
        conditions.append(column >= limit if side == "low" else column <= limit)
    if shape.repository:
        conditions.append(scene.repository_id == bindparam("repository"))
    if shape.newest:
        conditions.append(~superseded(scene, _source(shape, "other").c))
    if shape.tree is not None:
        for part in filter_sql.conjuncts(shape.tree):
            conditions.append(filter_sql.possible(part, scene, lambda n: _near(shape, n, scene)))
    return conditions


def superseded(scene: Any, other: Any) -> ColumnElement[bool]:
    """Whether another indexed scene of the collection is the same acquisition, processed later:
    by baseline, else by the source's ``created``, else by item id."""
    return exists().where(
        *(
            other[name] == scene[name]
            for name in ("acquisition", "tile", "collection_id", "repository_id")
        ),
        other.status == "indexed",
        tuple_(*_processed(other)) > tuple_(*_processed(scene)),
    )


def _processed(scene: Any) -> tuple[ColumnElement[Any], ...]:
    long_ago = literal(datetime(1, 1, 2, tzinfo=UTC), SCENES.c.created.type)
    return (
        func.coalesce(scene.baseline, ""),
        func.coalesce(scene.created, long_ago),
        scene.item_id,
    )


def _among(column: ColumnElement[Any], name: str, several: bool) -> ColumnElement[bool]:
    if several:
        return one_of_these(column, name)
    return column == bindparam(name, type_=column.type)


def _near(shape: Shape, place: int, scene: Any) -> ColumnElement[bool]:
    boxes, listed = shape.places[place]
    overlaps = or_(
        *(
            and_(
                scene.minx <= bindparam(f"e_{place}_{k}", type_=scene.minx.type),
                scene.maxx >= bindparam(f"w_{place}_{k}", type_=scene.minx.type),
                scene.miny <= bindparam(f"n_{place}_{k}", type_=scene.minx.type),
                scene.maxy >= bindparam(f"s_{place}_{k}", type_=scene.minx.type),
            )
            for k in range(boxes)
        )
    )
    return and_(one_of_these(scene.tile, f"tiles_{place}"), overlaps) if listed else overlaps


def _tile_conditions(shape: Shape) -> list[ColumnElement[bool]]:
    """Tiles that need not be looked at for one of each."""
    conditions: list[ColumnElement[bool]] = []
    several = dict(shape.lists).get("tile")
    if several is not None:
        conditions.append(_among(TILES.c.tile, "tile", several))
    for part in filter_sql.conjuncts(shape.tree) if shape.tree else ():
        if (
            isinstance(part, Spatial)
            and part.operator != "s_disjoint"
            and shape.places[part.index][1]
        ):
            conditions.append(one_of_these(TILES.c.tile, f"tiles_{part.index}"))
    return conditions


def _sort_keys(
    shape: Shape, scene: Any, *, of_one_tile: bool = False
) -> list[tuple[ColumnElement[Any], bool]]:
    keys: list[tuple[ColumnElement[Any], bool]] = []
    # One tile's scenes lie in the index in the order of time; several tiles' or ids' do not.
    lists = dict(shape.lists)
    several = any(listed for _, listed in shape.places) or lists.get("tile", False)
    follows_index = of_one_tile or ("ids" not in lists and not several)
    for name, down in shape.sort:
        column = scene["item_id" if name == "id" else name]
        if name in _NULLS:
            column = func.coalesce(column, literal(_NULLS[name][down], column.type))
        elif not follows_index:
            column = unindexed(column)
        keys.append((column, down))
    return [*keys, (scene.id, keys[-1][1])]


def _ordered(keys: Sequence[tuple[ColumnElement[Any], bool]]) -> list[Any]:
    return [key.desc() if down else key.asc() for key, down in keys]


def _follows(keys: Sequence[tuple[ColumnElement[Any], bool]]) -> ColumnElement[bool]:
    names = [*(f"after_{n}" for n in range(len(keys) - 1)), "after_pk"]
    values = [bindparam(name, type_=key.type) for name, (key, _) in zip(names, keys, strict=True)]
    columns, downs = [key for key, _ in keys], {down for _, down in keys}
    if len(downs) == 1:
        # A row comparison: one range of an index. The same written with OR is a scan.
        here, there = tuple_(*columns), tuple_(*values)
        return here < there if downs.pop() else here > there
    further: ColumnElement[bool] | None = None
    for (key, down), value in zip(reversed(keys), reversed(values), strict=True):
        beyond = key < value if down else key > value
        further = beyond if further is None else or_(beyond, and_(key == value, further))
    assert further is not None
    return further
