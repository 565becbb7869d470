"""The answer to a ``Query``: one SQL statement and one exact test. Executes nothing.

Space is asked tiles first: the boxes of tiles choose tiles, the index on
(tile, datetime) their scenes, the boxes of scenes most of the answer, and
shapely the rest, on the footprints themselves:

    query = Query.parse(bbox=(-121, 44, -120, 45), datetime="2023-12", limit=10)
    records = list(answer(query, connection.execute(statement(query))))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import batched, islice
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from catalog.area import intersects_footprint, query_boxes, query_geometry
from catalog.models import BRANCHES, COLLECTIONS, REPOSITORIES, SCENES, TILES
from catalog.parse import Box
from catalog.portable_sql import one_of, unindexed
from catalog.query import Query
from catalog.recorded import SceneRecord

_BATCH = 2000
# What a NULL sorts as: last, upwards and downwards, on both databases.
_SORT: dict[str, tuple[ColumnElement[Any], Any, Any]] = {
    "datetime": (SCENES.c.datetime, None, None),
    "cloud_cover": (SCENES.c.cloud_cover, 101.0, -1.0),
    "id": (SCENES.c.item_id, None, None),
    "updated": (
        SCENES.c.updated,
        datetime(9999, 1, 1, tzinfo=UTC),
        datetime(1, 1, 2, tzinfo=UTC),
    ),
}
_ELSEWHERE = {
    "pk": SCENES.c.id,
    "id": SCENES.c.item_id,
    "collection": COLLECTIONS.c.name,
    "repository": REPOSITORIES.c.location,
    "branch": BRANCHES.c.name,
    "bbox": SCENES.c.minx,
}
_NAMES = tuple(field.name for field in fields(SceneRecord))
_BBOX, _WARNINGS = _NAMES.index("bbox"), _NAMES.index("warnings")
# In the order of SceneRecord, with the other three sides of the box at the end.
_COLUMNS = [_ELSEWHERE[name] if name in _ELSEWHERE else SCENES.c[name] for name in _NAMES] + [
    SCENES.c[side] for side in ("miny", "maxx", "maxy")
]


def statement(
    query: Query, *, repository_id: int | None = None, after: SceneRecord | None = None
) -> Select[Any]:
    """All scenes that may answer, in order; for ``answer``.

    Exact, limit included, unless a place is asked for: then the limit is left to
    ``answer``, after its test of the footprints.

    Args:
        repository_id: only what this repository holds; None for all there are.
        after: the last record of the page before: only what follows it.
    """
    keys = _sort_keys(query)
    chosen = (
        select(*_COLUMNS)
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .join(REPOSITORIES, REPOSITORIES.c.id == SCENES.c.repository_id)
        .join(BRANCHES, BRANCHES.c.id == SCENES.c.branch_id, isouter=True)
        .where(*_conditions(query, repository_id))
        .order_by(*(key.desc() if down else key.asc() for key, down in keys))
    )
    if after is not None:
        chosen = chosen.where(_follows(query, keys, after))
    return chosen if query.limit is None or query.area is not None else chosen.limit(query.limit)


def answer(query: Query, rows: Iterable[Row[Any]]) -> Iterator[SceneRecord]:
    """The records among the rows of ``statement`` that answer, at most ``query.limit``. Lazy."""
    if query.area is None:
        yield from islice(map(record, rows), query.limit)
        return
    area = query_geometry(query.area)
    yield from islice(
        (
            found
            for batch in batched(map(record, rows), _BATCH)
            for found, touches in zip(
                batch, intersects_footprint([r.footprint for r in batch], area), strict=True
            )
            if touches
        ),
        query.limit,
    )


def count_statement(query: Query, *, repository_id: int | None = None) -> Select[Any]:
    """What ``counted`` needs: one number, or the footprints to test where a place is asked for.

    Args:
        repository_id: as in ``statement``.
    """
    what: ColumnElement[Any] = func.count() if query.area is None else SCENES.c.footprint
    conditions = _conditions(query, repository_id)
    chosen = select(what).select_from(SCENES).where(*conditions)
    if query.collection is not None:
        chosen = chosen.join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
    return chosen


def counted(query: Query, rows: Iterable[Row[Any]]) -> int:
    """How many scenes answer, from the rows of ``count_statement``; at most ``query.limit``."""
    if query.area is None:
        total = int(next(iter(rows))[0])
    else:
        area = query_geometry(query.area)
        total = sum(
            int(np.count_nonzero(intersects_footprint([bytes(row[0]) for row in batch], area)))
            for batch in batched(rows, _BATCH)
        )
    return total if query.limit is None else min(total, query.limit)


def record(row: Row[Any] | Sequence[Any]) -> SceneRecord:
    """A row of ``statement`` as what it stands for."""
    *values, miny, maxx, maxy = list(row)
    values[_BBOX] = (values[_BBOX], miny, maxx, maxy)
    values[_WARNINGS] = tuple(values[_WARNINGS])
    return SceneRecord(*values)


def _conditions(query: Query, repository_id: int | None) -> list[ColumnElement[bool]]:
    scene = SCENES.c
    lists = (
        (scene.item_id, query.ids),
        (COLLECTIONS.c.name, query.collection),
        (scene.tile, query.tile),
        (scene.platform, query.platform),
        (scene.baseline, query.baseline),
        (scene.status, query.status),
    )
    conditions = [
        column == values[0] if len(values) == 1 else one_of(column, values)
        for column, values in lists
        if values is not None
    ]
    for column, ends in ((scene.datetime, query.datetime), (scene.cloud_cover, query.cloud_cover)):
        low, high = ends or (None, None)
        if low is not None:
            conditions.append(column >= low)
        if high is not None:
            conditions.append(column <= high)
    if repository_id is not None:
        conditions.append(scene.repository_id == repository_id)
    if query.newest:
        conditions.append(~superseded())
    if query.area is not None:
        boxes = query_boxes(query.area)
        tiles = select(TILES.c.tile).where(_overlaps(TILES.c, boxes))
        conditions += [scene.tile.in_(tiles), _overlaps(scene, boxes)]
    return conditions


def superseded() -> ColumnElement[bool]:
    """Whether another indexed scene of the collection is the same acquisition, processed later:
    by baseline, else by the source's ``created``, else by item id."""
    scene, other = SCENES.c, SCENES.alias("other")
    return exists().where(
        *(
            other.c[name] == scene[name]
            for name in ("acquisition", "tile", "collection_id", "repository_id")
        ),
        other.c.status == "indexed",
        tuple_(*_processed(other.c)) > tuple_(*_processed(scene)),
    )


def _processed(scene: Any) -> tuple[ColumnElement[Any], ...]:
    long_ago = literal(datetime(1, 1, 2, tzinfo=UTC), SCENES.c.created.type)
    return (
        func.coalesce(scene.baseline, ""),
        func.coalesce(scene.created, long_ago),
        scene.item_id,
    )


def _overlaps(table: Any, boxes: Sequence[Box]) -> ColumnElement[bool]:
    return or_(
        *(
            and_(table.minx <= e, table.maxx >= w, table.miny <= n, table.maxy >= s)
            for w, s, e, n in boxes
        )
    )


def _sort_keys(query: Query) -> list[tuple[ColumnElement[Any], bool]]:
    keys: list[tuple[ColumnElement[Any], bool]] = []
    # One tile's scenes lie in the index in the order of time; several tiles' or ids' do not.
    several = query.area is not None or (query.tile is not None and len(query.tile) != 1)
    follows_index = query.ids is None and not several
    for name, down in query.sort:
        column, up_null, down_null = _SORT[name]
        absent = down_null if down else up_null
        if absent is not None:
            column = func.coalesce(column, literal(absent, column.type))
        elif not follows_index:
            column = unindexed(column)
        keys.append((column, down))
    return [*keys, (SCENES.c.id, keys[-1][1])]


def _follows(
    query: Query, keys: list[tuple[ColumnElement[Any], bool]], last: SceneRecord
) -> ColumnElement[bool]:
    values: list[ColumnElement[Any]] = []
    for (name, down), (key, _) in zip(query.sort, keys, strict=False):
        value = getattr(last, name)
        if value is None:
            value = _SORT[name][2 if down else 1]
        values.append(literal(value, key.type))
    values.append(literal(last.pk, SCENES.c.id.type))
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
