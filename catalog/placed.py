"""Where the catalog records scenes to stand, for readers of their branches. Knows no Icechunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Select,
    Table,
    bindparam,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.types import NullType

from catalog.bands import band_set
from catalog.models import BRANCHES, SCENE_REVISIONS, SCENES
from catalog.recorded import PlacedScene

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Then(NamedTuple):
    """A branch as of then."""

    snapshot: str
    history: Sequence[str]
    """Ids of the recorded commits of the branch, oldest first."""


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
            scenes.append(PlacedScene(item, time(moment), offset, root, index, band_set(bands)))
    return found


def placed_then(
    connection: Connection, repository_id: int, branches: Mapping[str, Then]
) -> dict[str, tuple[dict[str, PlacedScene], dict[str, PlacedScene]]]:
    """What is recorded of the scenes that stood on branches then, by branch and item id: their
    state at the newest commit up to there; and, of those of which no such state is known (its
    snapshot has expired), the next one after. One statement for each branch."""
    found: dict[str, tuple[dict[str, PlacedScene], dict[str, PlacedScene]]] = {}
    time = _microseconds(connection.dialect.name)
    for branch, (snapshot, history) in branches.items():
        place = {name: number for number, name in enumerate(history)}
        last, never = place.get(snapshot, -1), len(history)
        asked = {"branch": branch, "repository": repository_id}
        rows = sorted(
            connection.execute(_states(), asked),
            key=lambda row: (place.get(row[2], never), row[1]),
        )
        then: dict[str, PlacedScene] = {}
        later: dict[str, PlacedScene] = {}
        met: set[str] = set()
        for item, _, written, status, when, offset, root, index, bands in rows:
            scene = None
            if status == "indexed":
                scene = PlacedScene(item, time(when), offset, root, index, band_set(bands))
            if place.get(written, never) <= last:
                met.add(item)
                then.pop(item, None)
                if scene is not None:
                    then[item] = scene
            elif scene is not None and item not in met:
                later.setdefault(item, scene)
        found[branch] = then, later
    return found


def _microseconds(dialect: str) -> Callable[[Any], int]:
    """What makes an instant as the driver gives it into microseconds since 1970."""
    if dialect == "postgresql":
        return lambda moment: (moment - _EPOCH) // _MICROSECOND
    return int


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
            scene.bands,
        )
        .select_from(BRANCHES)
        .join(SCENES, there, isouter=True)
        .where(
            branch.repository_id == bindparam("repository"),
            branch.tile == bindparam("wanted"),
            branch.head_snapshot != "",
        )
    )


@cache
def _states() -> CompoundSelect[Any]:
    """Of the scenes of a branch: those of now, and all earlier ones."""
    then = SCENE_REVISIONS
    return union_all(
        _state(SCENES).select_from(SCENES),
        _state(then).select_from(then.join(SCENES, SCENES.c.id == then.c.scene_id)),
    )


def _state(table: Table) -> Select[Any]:
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
            table.c.bands,
        )
        .join(BRANCHES, BRANCHES.c.id == table.c.branch_id)
        .where(
            BRANCHES.c.repository_id == bindparam("repository"),
            BRANCHES.c.name == bindparam("branch"),
            table.c.snapshot_id.is_not(None),
        )
    )
