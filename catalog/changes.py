"""The feed of changes: what became of scenes, in the order in which it was recorded.

What is recorded together has one ``sequence``, and no two transactions of a repository
have the same: so (``sequence``, scene) is a place in the feed that nothing is ever
recorded before, whatever clocks say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any

import numpy as np
from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    func,
    select,
    tuple_,
    union_all,
)

from catalog.answers import last_sequence
from catalog.errors import UsageError
from catalog.json_values import brief
from catalog.models import BRANCHES, COLLECTIONS, SCENE_REVISIONS, SCENES
from catalog.parse import parse_datetime, parse_limit
from catalog.recorded import Instant
from catalog.tokens import read_token, write_token

KINDS = ("indexed", "changed", "updated", "withdrawn", "returned")
_LAST = 2**63 - 1
"""No scene's number is behind it."""
_TOKEN = "changes"
_LONGEST_TIME = 64
"""Characters."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that became of a scene."""

    kind: str
    """``indexed`` for the first time; ``changed``: its files, and its place in the store was
    written anew; ``updated``: its record alone; ``withdrawn`` from the source; ``returned``."""
    id: str
    collection: str
    tile: str
    datetime: Instant
    recorded_at: Instant
    revision: int
    branch: str | None
    time_index: int | None
    snapshot_id: str | None
    """Where the scene is as it was then; None where that has expired."""
    refs_sha256: str | None
    token: str = field(repr=False)
    """The feed goes on behind this change with it."""


@dataclass(frozen=True, slots=True)
class Changes(Sequence[Change]):
    """Changes in order, and where the feed goes on."""

    entries: tuple[Change, ...]
    token: str
    """For ``since``; the same that was given where nothing has changed."""

    def __iter__(self) -> Iterator[Change]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]


def changes(
    connection: Connection,
    repository_id: int,
    since: Any = None,
    limit: int | None = None,
    *,
    uid: str = "",
) -> Changes:
    """What was recorded in a repository since a time (inclusive) or behind a token. One statement;
    two for a time.

    Args:
        uid: ``Repository.id``, which tokens name.

    Raises:
        UsageError: ``since`` is neither, or of another repository.
    """
    most = parse_limit(limit)
    sequence, pk = _place(connection, repository_id, uid, since)
    values = {"repository": repository_id, "since": sequence, "pk": pk}
    statement = _statement(most is not None)
    if most is not None:
        values["most"] = most
    entries = []
    for place, scene, before, was, refs_before, snapshot_before, *row in connection.execute(
        statement, values
    ):
        (status, item, collection, tile, taken, at, revision, branch, index, snapshot, refs) = row
        moved = None not in (snapshot, snapshot_before) and snapshot != snapshot_before
        if status == "withdrawn":
            kind = "withdrawn"
        elif before is None:
            kind = "indexed"
        elif was == "withdrawn":
            kind = "returned"
        else:
            kind = "changed" if moved or refs != refs_before else "updated"
        entries.append(
            Change(
                kind, item, collection, tile, taken, at, revision, branch, index, snapshot, refs,
                write_token(_TOKEN, uid, [place, scene]),
            )
        )  # fmt: skip
    end = entries[-1].token if entries else write_token(_TOKEN, uid, [sequence, pk])
    return Changes(tuple(entries), end)


def _place(connection: Connection, repository_id: int, uid: str, since: Any) -> tuple[int, int]:
    """(sequence, scene) behind which the feed goes on."""
    if since is None:
        return 0, 0
    if not isinstance(since, str | date | np.datetime64):
        raise UsageError(f"malformed since {brief(since)}: write a time, or a token of changes")
    if not isinstance(since, str) or _is_time(since):
        start = parse_datetime(since)[0]
        if start is None or isinstance(since, list | tuple) or "/" in str(since):
            raise UsageError(f"malformed since {brief(since)}: write a time, or a token of changes")
        return last_sequence(connection, repository_id, start, inclusive=False), _LAST
    sequence, pk = read_token(_TOKEN, uid, since, ("whole", "whole"))
    return sequence, pk


def _is_time(text: str) -> bool:
    if len(text) > _LONGEST_TIME:
        return False
    try:
        parse_datetime(text)
    except UsageError:
        return False
    return True


@cache
def _statement(limited: bool) -> Select[Any]:
    scene, then = SCENES.c, SCENE_REVISIONS.c
    since = bindparam("since", type_=scene.sequence.type)
    pk = bindparam("pk", type_=scene.id.type)
    shared = ("datetime", "recorded_at", "sequence", "revision", "branch_id", "time_index",
              "snapshot_id", "refs_sha256")  # fmt: skip

    def state(of: Any, key: Any) -> list[Any]:
        return [key.label("scene_id"), scene.item_id, scene.collection_id, scene.tile,
                of.status, *(of[name] for name in shared)]  # fmt: skip

    mine = (scene.repository_id == bindparam("repository"), scene.sequence >= since)
    now = select(*state(scene, scene.id)).where(
        *mine,
        tuple_(scene.sequence, scene.id) > tuple_(since, pk),
        scene.time_index.is_not(None),
    )
    # A scene's present was recorded after its past: its index finds the past too.
    before = (
        select(*state(then, then.scene_id))
        .select_from(SCENES.join(SCENE_REVISIONS, scene.id == then.scene_id))
        .where(
            *mine,
            tuple_(then.sequence, then.scene_id) > tuple_(since, pk),
            then.time_index.is_not(None),
        )
    )
    if limited:
        # Each of both in order: an index then ends the reading.
        most = bindparam("most", type_=scene.epsg.type)
        now = select(now.order_by(scene.sequence, scene.id).limit(most).subquery())
        before = select(before.order_by(then.sequence, then.scene_id).limit(most).subquery())
    feed = union_all(now, before).subquery("feed")
    old = SCENE_REVISIONS.alias("old")
    entry = feed.c
    chosen = (
        select(
            entry.sequence,
            entry.scene_id,
            old.c.id,
            old.c.status,
            old.c.refs_sha256,
            old.c.snapshot_id,
            entry.status,
            entry.item_id,
            COLLECTIONS.c.name,
            # Of an earlier state: the tile that it was on.
            func.coalesce(BRANCHES.c.tile, entry.tile),
            entry.datetime,
            entry.recorded_at,
            entry.revision,
            BRANCHES.c.name,
            entry.time_index,
            entry.snapshot_id,
            entry.refs_sha256,
        )
        .select_from(feed)
        .join(COLLECTIONS, COLLECTIONS.c.id == entry.collection_id)
        .join(BRANCHES, BRANCHES.c.id == entry.branch_id, isouter=True)
        .join(
            old,
            and_(
                old.c.scene_id == entry.scene_id,
                old.c.replaced_by == entry.sequence,
                old.c.time_index.is_not(None),
            ),
            isouter=True,
        )
        .order_by(entry.sequence, entry.scene_id)
    )
    return chosen.limit(bindparam("most", type_=scene.epsg.type)) if limited else chosen
