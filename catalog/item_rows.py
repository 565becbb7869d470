"""Reads for STAC items and collections: what the records alone do not say. Knows no Icechunk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, func, select

from catalog.assets import past_assets, read_assets
from catalog.models import BRANCHES, COLLECTIONS, SCENES, TILES
from catalog.portable_sql import is_text, one_of_these
from catalog.recorded import CollectionExtent, DescribedScene, SceneRecord
from catalog.selection import superseded


def described_scenes(
    connection: Connection, records: Sequence[SceneRecord]
) -> list[DescribedScene]:
    """Each record with its files, in order. Two statements; three where one is of the past."""
    if not records:
        return []
    scenes = sorted({record.pk for record in records})
    rows = connection.execute(_described(), {"scenes": scenes})
    now = {pk: (at, url, bool(old)) for pk, at, url, old in rows}
    files = read_assets(connection, scenes)
    past = [record for record in records if now[record.pk][0] != record.recorded_at]
    earlier = past_assets(connection, past) if past else {}
    described = []
    for record in records:
        at, url, old = now[record.pk]
        is_past = at != record.recorded_at
        held = earlier.get((record.pk, record.recorded_at), {}) if is_past else files.get(record.pk)
        described.append(
            DescribedScene(record, held or {}, url, is_past or (old and record.status == "indexed"))
        )
    return described


@cache
def _described() -> Select[Any]:
    return (
        select(
            SCENES.c.id,
            SCENES.c.recorded_at,
            COLLECTIONS.c.stac_url,
            superseded(SCENES.c, SCENES.alias("other").c).label("old"),
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .where(one_of_these(SCENES.c.id, "scenes"))
    )


def collection_extents(connection: Connection, repository_id: int) -> list[CollectionExtent]:
    """Every collection that has a branch in the repository, by name. One statement."""
    scene = SCENES.c

    def end(of: Any) -> Any:
        # By the index on (tile, datetime), a tile at a time.
        return (
            select(of(scene.datetime))
            .where(
                scene.tile == BRANCHES.c.tile,
                scene.collection_id == BRANCHES.c.collection_id,
                scene.repository_id == BRANCHES.c.repository_id,
                scene.status == "indexed",
            )
            .scalar_subquery()
        )

    statement = (
        select(
            COLLECTIONS.c.name,
            COLLECTIONS.c.stac_url,
            TILES.c.minx,
            TILES.c.miny,
            TILES.c.maxx,
            TILES.c.maxy,
            end(func.min),
            end(func.max),
        )
        .select_from(BRANCHES)
        .join(COLLECTIONS, COLLECTIONS.c.id == BRANCHES.c.collection_id)
        .join(TILES, TILES.c.tile == BRANCHES.c.tile)
        .where(BRANCHES.c.repository_id == repository_id)
        .order_by(COLLECTIONS.c.name, BRANCHES.c.tile)
    )
    held: dict[str, tuple[str | None, list[Any], list[datetime]]] = {}
    for name, url, *box, first, last in connection.execute(statement):
        _, boxes, times = held.setdefault(is_text(name), (url, [], []))
        boxes.append(tuple(box))
        times += [at for at in (first, last) if at is not None]
    return [
        CollectionExtent(
            name, url, tuple(boxes), min(times, default=None), max(times, default=None)
        )
        for name, (url, boxes, times) in held.items()
    ]
