"""Where scenes are, as a crawl writes it down; ``known.py`` looks it up. Knows no Icechunk.

Every function works inside the caller's transaction (``database.write_transaction``)
with a small number of statements that does not depend on the size of the batch, and
may be repeated with the same arguments and leave the same rows. The order of a crawl is

    registry.register_*, registry.begin_crawl → known.known_scenes → record_pending
    → (commit to the store) → record_indexed | record_updated | failures.record_failed
    → registry.finish_crawl

and a process may die after any of them (the transaction of a function that
raised is to be rolled back): ``record_indexed`` is one transaction
and takes a commit only once, in the order of the branch's history.

What one repository holds is kept apart from what others do: an item may be a
scene of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    case,
    delete,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from catalog.assets import (
    common_directory,
    remove_assets,
    write_assets,
)
from catalog.bands import band_bits
from catalog.errors import BusyError, StoreError
from catalog.failures import forget_failures
from catalog.models import (
    BRANCHES,
    COLLECTIONS,
    SCENE_REVISIONS,
    SCENES,
    SNAPSHOTS,
    STATE_COLUMNS,
)
from catalog.portable_sql import microseconds, one_of, upsert
from catalog.recorded import DESCRIBED, Commit, IndexedScene
from catalog.registry import collection_keys
from catalog.scene import Scene, scene_to_json
from catalog.tiles import BOX, grow_tiles


def record_pending(
    connection: Connection,
    repository_id: int,
    scenes: Iterable[Scene],
    crawl: int,
    *,
    now: datetime | None = None,
) -> None:
    """Write down that these scenes are about to be indexed. Five statements for one collection.

    A scene without a place in the store takes the item's metadata and is
    ``pending``. One that has a place keeps it with its metadata and stays
    ``indexed`` (or ``withdrawn``); only what is wanted changes.
    Another item than the last that failed starts with no attempts behind it.

    Raises:
        NotFoundError: a scene's collection is not registered.
    """
    batch = {(scene.collection, scene.id): scene for scene in scenes}
    if not batch:
        return
    collections = collection_keys(connection, {name for name, _ in batch})
    moment = _next_moment(connection, now)
    shared = {
        "repository_id": repository_id,
        "status": "pending",
        "revision": 0,
        "href_prefix": "",
        "attempts": 0,
        "recorded_at": moment.at,
        "sequence": moment.sequence,
        "crawl_id": crawl,
    }
    rows = [
        _described(scene, collections[scene.collection])
        | shared
        | {"wanted_sha256": scene.item_sha256, "wanted": scene_to_json(scene)}
        for scene in batch.values()
    ]
    connection.execute(_pending_statement(connection.dialect.name), rows)
    grow_tiles(connection, batch.values())
    for name, key in collections.items():
        forget_failures(connection, repository_id, key, [item for of, item in batch if of == name])


def record_indexed(
    connection: Connection,
    repository_id: int,
    commit: Commit,
    scenes: Sequence[IndexedScene],
    crawl: int | None = None,
    *,
    withdrawn: Sequence[str] = (),
    now: datetime | None = None,
) -> bool:
    """Record one commit and where its scenes are now, whole. Twelve statements, and
    four more where scenes were indexed before: their earlier states become revisions.

    Args:
        withdrawn: item ids that the commit took out.

    Returns:
        False if the commit had been recorded already; then nothing changes, even
        where later commits have moved the head or the scenes.

    Raises:
        NotFoundError: the collection is not registered.
        BusyError: the recorded head is not ``commit.parent_id``: another crawl
            commits to the branch, or a commit before this one is not recorded.
        StoreError: another scene has been recorded at the place of one of these.
    """
    collection = collection_keys(connection, {commit.collection})[commit.collection]
    branch = _branch(connection, repository_id, collection, commit)
    if not _add_snapshot(connection, branch.id, commit, len(scenes) + len(withdrawn), crawl):
        return False
    if commit.parent_id is not None and branch.head_snapshot not in (
        commit.parent_id,
        commit.snapshot_id,
    ):
        raise BusyError(
            f"{commit.branch}: commit {commit.snapshot_id} follows {commit.parent_id}, but the "
            f"catalog has {branch.head_snapshot} as head: another crawl is writing, or died here"
        )
    connection.execute(
        update(BRANCHES)
        .where(BRANCHES.c.id == branch.id)
        .values(head_snapshot=commit.snapshot_id, updated_at=commit.written_at)
    )
    moment = _next_moment(connection, now)
    place = {"branch_id": branch.id, "snapshot_id": commit.snapshot_id}
    try:
        _record_states(connection, repository_id, collection, scenes, place, crawl, moment)
    except IntegrityError as error:
        if "time_index" not in str(error.orig):
            raise
        raise StoreError(
            f"{commit.branch}: commit {commit.snapshot_id} puts a scene where the catalog "
            "has another"
        ) from error
    if withdrawn:
        gone = _Withdrawal(repository_id, collection, branch.id, commit, crawl, moment)
        gone.record(connection, withdrawn)
    return True


def move_head(
    connection: Connection, repository_id: int, branch: str, snapshot_id: str, moment: datetime
) -> None:
    """Set the recorded head of a branch to a commit that is recorded. One statement."""
    connection.execute(
        update(BRANCHES)
        .where(BRANCHES.c.repository_id == repository_id, BRANCHES.c.name == branch)
        .values(head_snapshot=snapshot_id, updated_at=moment)
    )


def record_updated(
    connection: Connection,
    repository_id: int,
    collection: str,
    scenes: Sequence[IndexedScene],
    crawl: int | None = None,
    *,
    now: datetime | None = None,
) -> None:
    """Record changed items whose files are as they were: the scenes stay where they are, at the
    snapshot they have. Thirteen statements.

    Raises:
        NotFoundError: the collection is not registered.
    """
    if scenes:
        key = collection_keys(connection, {collection})[collection]
        moment = _next_moment(connection, now)
        _record_states(connection, repository_id, key, scenes, {}, crawl, moment)


def record_settled(
    connection: Connection, repository_id: int, collection: str, ids: Sequence[str]
) -> None:
    """Nothing is to be done for scenes that a crawl set out to index: they are as recorded. Two
    statements."""
    key = collection_keys(connection, {collection})[collection]
    connection.execute(
        update(SCENES)
        .where(
            SCENES.c.repository_id == repository_id,
            SCENES.c.collection_id == key,
            one_of(SCENES.c.item_id, ids),
        )
        .values(**_NO_WORK)
    )


def forget_scenes(
    connection: Connection, repository_id: int, collection: str, ids: Sequence[str]
) -> None:
    """Give up what is outstanding of items that are gone from the source: those that were never
    indexed are forgotten, the others stay as they are recorded. Five statements."""
    key = collection_keys(connection, {collection})[collection]
    these = (
        SCENES.c.repository_id == repository_id,
        SCENES.c.collection_id == key,
        one_of(SCENES.c.item_id, ids),
    )
    connection.execute(delete(SCENES).where(*these, SCENES.c.snapshot_id.is_(None)))
    connection.execute(update(SCENES).where(*these).values(**_NO_WORK))
    forget_failures(connection, repository_id, key, ids)


def _record_states(
    connection: Connection,
    repository_id: int,
    collection: int,
    scenes: Sequence[IndexedScene],
    place: Mapping[str, Any],
    crawl: int | None,
    moment: Moment,
) -> None:
    """The new states of scenes, at ``place`` (branch and snapshot) or where each was."""
    batch = {indexed.scene.id: indexed for indexed in scenes}
    if not batch:
        return
    before = _existing(connection, repository_id, collection, batch)
    replaced = [row.id for row in before.values() if row.snapshot_id is not None]
    if replaced:
        _keep_revisions(connection, replaced, moment)
    rows = []
    for item_id, indexed in batch.items():
        old = before.get(item_id)
        where = place or (
            {"branch_id": old.branch_id, "snapshot_id": old.snapshot_id} if old else {}
        )
        rows.append(
            _described(indexed.scene, collection)
            | dict(where)
            | _NO_WORK
            | {
                "repository_id": repository_id,
                "recorded_at": moment.at,
                "sequence": moment.sequence,
                "status": "indexed",
                "revision": 1 + (old.revision if old else 0),
                "root": indexed.root,
                "time_index": indexed.time_index,
                "refs_sha256": indexed.refs_sha256,
                "warnings": list(dict.fromkeys((*indexed.scene.warnings, *indexed.warnings))),
                "href_prefix": common_directory([file.href for file in indexed.files]),
                "missing": list(indexed.missing) or None,
                "bands": band_bits(file.band for file in indexed.files),
                "crawl_id": crawl,
            }
        )
    connection.execute(_indexed_statement(connection.dialect.name), rows)
    if len(before) < len(batch):
        before = _existing(connection, repository_id, collection, batch)
    write_assets(
        connection,
        {
            before[row["item_id"]].id: (row["href_prefix"], batch[row["item_id"]].files)
            for row in rows
        },
    )
    grow_tiles(connection, [indexed.scene for indexed in batch.values()])
    forget_failures(connection, repository_id, collection, list(batch))


@dataclass(frozen=True, slots=True)
class _Withdrawal:
    """One commit that took scenes out of its branch."""

    repository_id: int
    collection: int
    branch_id: int
    commit: Commit
    crawl: int | None
    moment: Moment

    def record(self, connection: Connection, ids: Sequence[str]) -> None:
        """Those that are indexed on another branch meanwhile stay so; what is outstanding for
        another tile stays to be done."""
        before = _existing(connection, self.repository_id, self.collection, ids)
        indexed = [
            row.id
            for row in before.values()
            if row.status == "indexed" and row.branch_id == self.branch_id
        ]
        if not indexed:
            return
        outstanding = connection.execute(
            select(SCENES.c.id, SCENES.c.wanted).where(
                one_of(SCENES.c.id, indexed), SCENES.c.wanted_sha256.is_not(None)
            )
        )
        moving = {
            key for key, wanted in outstanding if wanted and wanted["tile"] != self.commit.tile
        }
        _keep_revisions(connection, indexed, self.moment)
        for keys, work in ((set(indexed) - moving, _NO_WORK), (moving, {})):
            if keys:
                connection.execute(
                    update(SCENES)
                    .where(one_of(SCENES.c.id, sorted(keys)))
                    .values(
                        status="withdrawn",
                        revision=SCENES.c.revision + 1,
                        snapshot_id=self.commit.snapshot_id,
                        refs_sha256=NO_REFERENCES,
                        bands=None,
                        recorded_at=self.moment.at,
                        sequence=self.moment.sequence,
                        crawl_id=self.crawl,
                        **work,
                    )
                )
        done = [name for name, row in before.items() if row.id not in moving]
        forget_failures(connection, self.repository_id, self.collection, done)


def record_left(
    connection: Connection, repository_id: int, collection: str, branch: str, ids: Sequence[str]
) -> None:
    """Scenes that a branch holds and that could not be recorded as indexed: what moves them to
    another tile has to take them out there. One statement."""
    names = select(COLLECTIONS.c.id).where(COLLECTIONS.c.name == collection)
    held = select(BRANCHES.c.id).where(
        BRANCHES.c.repository_id == repository_id, BRANCHES.c.name == branch
    )
    connection.execute(
        update(SCENES)
        .where(
            SCENES.c.repository_id == repository_id,
            SCENES.c.collection_id == names.scalar_subquery(),
            one_of(SCENES.c.item_id, ids),
            SCENES.c.snapshot_id.is_(None),
        )
        .values(branch_id=held.scalar_subquery())
    )


class Moment(NamedTuple):
    """When something is recorded.

    Of the moments of a repository, in the order in which they were committed: ``sequence`` rises,
    always. ``at`` is true wherever the clock of whoever recorded it was, and rises as long as
    clocks differ by less than ``SKEW``. A clock that was far ahead so leaves wrong times on what
    it recorded itself and on nothing after it, and places in the feed are places still.
    """

    at: datetime
    sequence: int
    """The microseconds of the clock, or one more than the last."""


SKEW = timedelta(minutes=10)
"""How much the clocks of machines that write may differ: within it, times are kept in order."""
_MICROSECOND = timedelta(microseconds=1)


def _now() -> datetime:
    return datetime.now(UTC)


def _next_moment(connection: Connection, now: datetime | None) -> Moment:
    """Behind all that is recorded. One statement."""
    newest = (
        select(SCENES.c.sequence, SCENES.c.recorded_at)
        .order_by(SCENES.c.sequence.desc(), SCENES.c.recorded_at.desc())
        .limit(1)
    )
    last = connection.execute(newest).first()
    at = now or _now()
    if last is None:
        return Moment(at, microseconds(at))
    if at <= last.recorded_at <= at + SKEW:
        at = last.recorded_at + _MICROSECOND
    return Moment(at, max(microseconds(at), last.sequence + 1))


NO_REFERENCES = hashlib.sha256().hexdigest()
"""``refs_sha256`` of a scene that has none: of a withdrawn one."""
_NO_WORK: dict[str, Any] = {
    "wanted_sha256": None,
    "wanted": None,
    "attempts": 0,
    "last_error": None,
    "next_attempt_at": None,
}
_UNIQUE = ("item_id", "collection_id", "repository_id")


def _described(scene: Scene, collection_id: int) -> dict[str, Any]:
    return (
        {"collection_id": collection_id, "item_id": scene.id, "warnings": list(scene.warnings)}
        | {name: getattr(scene, name) for name in DESCRIBED}
        | dict(zip(BOX, scene.bbox, strict=True))
    )


@cache
def _pending_statement(dialect: str) -> Any:
    statement = upsert(dialect, SCENES)
    old, new = SCENES.c, statement.excluded
    placed = old.snapshot_id.is_not(None)
    again = old.wanted_sha256 == new.item_sha256
    changes: dict[str, Any] = {
        name: case((placed, old[name]), else_=new[name])
        for name in (*DESCRIBED, *BOX, "warnings", "recorded_at", "sequence", "crawl_id")
    }
    changes["status"] = case((placed, old.status), else_="pending")
    changes["wanted_sha256"], changes["wanted"] = new.wanted_sha256, new.wanted
    changes["attempts"] = case((again, old.attempts), else_=0)
    changes["last_error"] = case((again, old.last_error), else_=null())
    changes["next_attempt_at"] = case((again, old.next_attempt_at), else_=null())
    return statement.on_conflict_do_update(index_elements=_UNIQUE, set_=changes)


@cache
def _indexed_statement(dialect: str) -> Any:
    statement = upsert(dialect, SCENES)
    fixed = {"id", *_UNIQUE}
    return statement.on_conflict_do_update(
        index_elements=_UNIQUE,
        set_={c.name: statement.excluded[c.name] for c in SCENES.columns if c.name not in fixed},
    )


def _branch(connection: Connection, repository_id: int, collection: int, commit: Commit) -> Row:
    """The branch's row, locked; a new one has the commit's parent as its head."""
    x, y = commit.origin or (None, None)
    statement = upsert(connection.dialect.name, BRANCHES).values(
        repository_id=repository_id,
        collection_id=collection,
        tile=commit.tile,
        name=commit.branch,
        epsg=commit.epsg,
        origin_x=x,
        origin_y=y,
        head_snapshot=commit.parent_id or "",
        updated_at=commit.written_at,
    )
    statement = statement.on_conflict_do_update(
        index_elements=["repository_id", "name"],
        set_={
            name: func.coalesce(BRANCHES.c[name], statement.excluded[name])
            for name in ("origin_x", "origin_y")
        },
    )
    return connection.execute(statement.returning(BRANCHES.c.id, BRANCHES.c.head_snapshot)).one()


def _add_snapshot(
    connection: Connection, branch: int, commit: Commit, scenes: int, crawl: int | None
) -> bool:
    statement = upsert(connection.dialect.name, SNAPSHOTS).values(
        id=commit.snapshot_id,
        parent_id=commit.parent_id,
        branch_id=branch,
        written_at=commit.written_at,
        crawl_id=crawl,
        scenes=scenes,
    )
    statement = statement.on_conflict_do_nothing(index_elements=["id"]).returning(SNAPSHOTS.c.id)
    return connection.execute(statement).first() is not None


def _existing(
    connection: Connection, repository_id: int, collection: int, ids: Iterable[str]
) -> dict[str, Row]:
    scene = SCENES.c
    statement = (
        select(
            scene.id,
            scene.item_id,
            scene.status,
            scene.branch_id,
            scene.snapshot_id,
            scene.revision,
        )
        .where(
            one_of(scene.item_id, ids),
            scene.collection_id == collection,
            scene.repository_id == repository_id,
        )
        .with_for_update()
    )
    return {row.item_id: row for row in connection.execute(statement)}


def _keep_revisions(connection: Connection, keys: list[int], moment: Moment) -> None:
    files = remove_assets(connection, keys)
    state = select(SCENES.c.id.label("scene_id"), *(SCENES.c[name] for name in STATE_COLUMNS))
    states = connection.execute(state.where(one_of(SCENES.c.id, keys))).mappings().all()
    replaced = {"replaced_at": moment.at, "replaced_by": moment.sequence}
    connection.execute(
        insert(SCENE_REVISIONS),
        [dict(row) | {"assets": files[row["scene_id"]]} | replaced for row in states],
    )
