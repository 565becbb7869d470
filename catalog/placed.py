"""Where the catalog records scenes to stand, for readers of their branches. Knows no Icechunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select, type_coerce
from sqlalchemy.types import NullType

from catalog.heads import branch_snapshots
from catalog.models import ASSETS, BRANCHES, SCENE_REVISIONS, SCENES
from catalog.portable_sql import one_of, one_of_these
from catalog.recorded import PlacedScene, SceneRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def placed_scenes(
    connection: Connection, repository_id: int, tile: str
) -> dict[str, tuple[str, list[PlacedScene]]]:
    """The recorded head of every branch of a tile and the scenes that are indexed there now, by
    branch. One statement."""
    found: dict[str, tuple[str, list[PlacedScene]]] = {}
    time = _microseconds(connection.dialect.name)
    asked = {"wanted": tile, "repository": repository_id}
    for name, head, item, moment, *place, bands in connection.execute(_placed(), asked).all():
        scenes = found.setdefault(name, (head, []))[1]
        if item is not None:
            offset, root, index = place
            scenes.append(PlacedScene(item, time(moment), offset, root, index, _bands(bands)))
    return found


def placed_then(
    connection: Connection, repository_id: int, snapshots: Mapping[str, str]
) -> dict[str, tuple[dict[str, PlacedScene], dict[str, PlacedScene]]]:
    """What is recorded of the scenes that stood at ``snapshots`` (by branch), by branch and item
    id: their state at the newest commit up to there; and, of those of which no such state is known
    (its snapshot has expired), the next one after. Three statements for each branch."""
    found: dict[str, tuple[dict[str, PlacedScene], dict[str, PlacedScene]]] = {}
    time = _microseconds(connection.dialect.name)
    for branch, snapshot in snapshots.items():
        order = [name for name, _ in branch_snapshots(connection, repository_id, branch)]
        place = {name: number for number, name in enumerate(order)}
        asked = {"branch": branch, "repository": repository_id}
        last = place.get(snapshot, -1)
        rows = [row for text in (_states(), _earlier()) for row in connection.execute(text, asked)]
        rows.sort(key=lambda row: (place.get(row[2], len(order)), row[1]))
        then: dict[str, PlacedScene] = {}
        later: dict[str, PlacedScene] = {}
        met: set[str] = set()
        for item, _, written, status, when, offset, root, index, bands in rows:
            if bands is not None and not isinstance(bands, str):
                bands = ",".join(file["band"] for file in bands)
            scene = None
            if status == "indexed":
                scene = PlacedScene(item, time(when), offset, root, index, _bands(bands))
            if place.get(written, len(order)) <= last:
                met.add(item)
                then.pop(item, None)
                if scene is not None:
                    then[item] = scene
            elif scene is not None and item not in met:
                later.setdefault(item, scene)
        found[branch] = then, later
    return found


def bands_of(connection: Connection, records: Sequence[SceneRecord]) -> dict[int, frozenset[str]]:
    """The bands of scenes that files are recorded of, by ``SceneRecord.pk``; those of which none is
    are left out. One statement, and one more where a record is of an earlier state."""
    rows = connection.execute(_bands_of(), {"scenes": [record.pk for record in records]})
    found: dict[int, frozenset[str]] = {}
    now: dict[int, Any] = {}
    for pk, recorded_at, names in rows:
        now[pk] = recorded_at
        bands = _bands(names)
        if bands is not None:
            found[pk] = bands
    past = {record.pk for record in records if now.get(record.pk) != record.recorded_at}
    if past:
        then = SCENE_REVISIONS.c
        wanted = {(record.pk, record.recorded_at) for record in records if record.pk in past}
        for pk in past:
            found.pop(pk, None)
        statement = select(then.scene_id, then.recorded_at, then.assets)
        for pk, at, files in connection.execute(
            statement.where(one_of(then.scene_id, sorted(past)))
        ):
            if (pk, at) in wanted and files:
                found[pk] = frozenset(file["band"] for file in files)
    return found


def _microseconds(dialect: str) -> Callable[[Any], int]:
    """What makes an instant as the driver gives it into microseconds since 1970."""
    if dialect == "postgresql":
        return lambda moment: (moment - _EPOCH) // _MICROSECOND
    return int


@lru_cache(1024)
def _bands(names: str | None) -> frozenset[str] | None:
    return None if not names else frozenset(names.split(","))


def _names() -> Any:
    """The bands of a scene's files, with commas between."""
    return (
        select(func.aggregate_strings(ASSETS.c.band, ","))
        .where(ASSETS.c.scene_id == SCENES.c.id)
        .scalar_subquery()
    )


@cache
def _placed() -> Select[Any]:
    scene, branch = SCENES.c, BRANCHES.c
    there = (scene.branch_id == branch.id) & (scene.status == "indexed")
    return (
        select(
            branch.name,
            branch.head_snapshot,
            scene.item_id,
            type_coerce(scene.datetime, NullType()),
            scene.boa_offset,
            scene.root,
            scene.time_index,
            _names(),
        )
        .select_from(BRANCHES)
        .join(SCENES, there, isouter=True)
        .where(
            branch.repository_id == bindparam("repository"),
            branch.tile == bindparam("wanted"),
            branch.head_snapshot != "",
        )
    )


def _state(table: Any, bands: Any) -> Select[Any]:
    return (
        select(
            SCENES.c.item_id,
            table.c.revision,
            table.c.snapshot_id,
            table.c.status,
            type_coerce(table.c.datetime, NullType()),
            table.c.boa_offset,
            table.c.root,
            table.c.time_index,
            bands,
        )
        .select_from(table)
        .join(BRANCHES, BRANCHES.c.id == table.c.branch_id)
        .where(
            BRANCHES.c.repository_id == bindparam("repository"),
            BRANCHES.c.name == bindparam("branch"),
            table.c.snapshot_id.is_not(None),
        )
    )


@cache
def _states() -> Select[Any]:
    return _state(SCENES, _names())


@cache
def _earlier() -> Select[Any]:
    then = SCENE_REVISIONS
    return _state(then, then.c.assets).join(SCENES, SCENES.c.id == then.c.scene_id)


@cache
def _bands_of() -> Select[Any]:
    return select(SCENES.c.id, SCENES.c.recorded_at, _names()).where(
        one_of_these(SCENES.c.id, "scenes")
    )
