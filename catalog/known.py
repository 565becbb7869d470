"""What a crawl looks up before it works: what is known of items, indexed of scenes, left to do.

Inside the caller's transaction, with a number of statements that does not depend on how many are
asked for. Knows no Icechunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    literal,
    null,
    or_,
    select,
    type_coerce,
    union,
    union_all,
)
from sqlalchemy.types import NullType

from catalog.assets import read_assets
from catalog.bands import band_set
from catalog.errors import SceneError, first_line
from catalog.models import ASSETS, BRANCHES, COLLECTIONS, ITEM_FAILURES, SCENE_REVISIONS, SCENES
from catalog.portable_sql import one_of
from catalog.recorded import DESCRIBED, IndexedState, Instant, KnownScene
from catalog.scene import Scene, scene_from_json


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A scene that an earlier crawl began and did not end."""

    number: int
    """To go on after."""
    collection: str
    id: str
    attempts: int
    """Failures in a row."""
    scene: Scene | SceneError
    """As it was then, or why that cannot be told any more."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A scene that is indexed without some of its bands."""

    number: int
    """To go on after."""
    collection: str
    id: str
    item_sha256: str
    bands: frozenset[str]
    """That are indexed, and those that are not."""


def known_scenes(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str]
) -> dict[str, KnownScene]:
    """What is known of these items of a collection; unknown ones are absent. One statement."""
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    mine = COLLECTIONS.c.name == collection
    scenes = (
        select(
            SCENES.c.item_id,
            SCENES.c.item_sha256,
            SCENES.c.status,
            SCENES.c.wanted_sha256,
            BRANCHES.c.name,
            SCENES.c.root,
            SCENES.c.time_index,
            SCENES.c.snapshot_id,
            SCENES.c.refs_sha256,
            SCENES.c.revision,
            SCENES.c.attempts,
            SCENES.c.next_attempt_at,
            SCENES.c.last_error,
            SCENES.c.bands,
            SCENES.c.missing,
            literal(0).label("unreadable"),
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .join(BRANCHES, BRANCHES.c.id == SCENES.c.branch_id, isouter=True)
        .where(SCENES.c.repository_id == repository_id, mine, one_of(SCENES.c.item_id, wanted))
    )
    failure = ITEM_FAILURES.c
    unreadable = (
        select(
            failure.item_id,
            failure.item_sha256,
            literal("failed"),
            failure.item_sha256,
            *(null().label(f"absent_{n}") for n in range(5)),
            literal(0),
            failure.attempts,
            failure.next_attempt_at,
            failure.reason,
            null().label("no_bands"),
            null().label("none_missing"),
            literal(1),
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == failure.collection_id)
        .where(failure.repository_id == repository_id, mine, one_of(failure.item_id, wanted))
    )
    known: dict[str, KnownScene] = {}
    failures: dict[str, KnownScene] = {}
    for item_id, *values, bands, lacks, failed in connection.execute(union_all(scenes, unreadable)):
        values += [band_set(bands) or frozenset(), frozenset(lacks or ()), bool(failed)]
        (failures if failed else known)[item_id] = KnownScene(*values)
    for item_id, found in failures.items():
        before = known.get(item_id)
        if before is not None:
            # The newest item is unreadable, an earlier one is not: its place stays known.
            found = replace(
                before,
                wanted_sha256=found.wanted_sha256,
                attempts=found.attempts,
                next_attempt_at=found.next_attempt_at,
                last_error=found.last_error,
                unreadable=True,
            )
        known[item_id] = found
    return known


def wanted_scenes(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str]
) -> dict[str, Scene]:
    """Those of the items whose indexing is outstanding, as they were when it was begun; what is
    recorded of one may be no scene any more, then it is left out."""
    statement = (
        select(SCENES.c.item_id, type_coerce(SCENES.c.wanted, NullType()))
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .where(
            SCENES.c.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            SCENES.c.wanted_sha256.is_not(None),
            one_of(SCENES.c.item_id, list(ids)),
        )
    )
    found = (
        (item_id, read_wanted(item_id, wanted))
        for item_id, wanted in connection.execute(statement)
        if wanted is not None
    )
    return {item_id: scene for item_id, scene in found if isinstance(scene, Scene)}


def intended_items(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str]
) -> set[str]:
    """Those of the items that a crawl has set out to index. One statement."""
    statement = (
        select(SCENES.c.item_id)
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .where(
            SCENES.c.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            SCENES.c.wanted_sha256.is_not(None),
            one_of(SCENES.c.item_id, list(ids)),
        )
    )
    return set(connection.execute(statement).scalars())


def read_wanted(item_id: str, document: Any) -> Scene | SceneError:
    """What was to be indexed, or why that cannot be told any more."""
    try:
        scene = scene_from_json(json.loads(document) if isinstance(document, str) else document)
        if scene.id != item_id:
            raise ValueError(f"it is of {scene.id}")
        return scene
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return SceneError(
            "what was to be indexed of it is recorded in a form that cannot be read "
            f"({type(error).__name__}: {first_line(error)}); a crawl that meets its item again "
            "takes it from there",
            scene=item_id,
        )


def scenes_elsewhere(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str], branch: str
) -> dict[str, list[str]]:
    """Other branches than ``branch`` that hold some of these items, with their ids. One
    statement."""
    scene = SCENES.c
    statement = (
        select(BRANCHES.c.name, scene.item_id)
        .join(BRANCHES, BRANCHES.c.id == scene.branch_id)
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .where(
            scene.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            one_of(scene.item_id, list(ids)),
            scene.status != "withdrawn",
            BRANCHES.c.name != branch,
        )
        .order_by(BRANCHES.c.name, scene.item_id)
    )
    found: dict[str, list[str]] = {}
    for name, item in connection.execute(statement):
        found.setdefault(name, []).append(item)
    return found


@dataclass(frozen=True, slots=True)
class IndexedPlace:
    """Where an item is indexed, and what is to be compared with one of its id elsewhere."""

    tile: str
    datetime: Instant
    updated: Instant | None
    left: frozenset[str]
    """``item_sha256`` of the items that it was indexed from before."""


def indexed_places(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str]
) -> dict[str, IndexedPlace]:
    """Places of those of these items that are indexed. Two statements."""
    scene, then = SCENES.c, SCENE_REVISIONS.c
    mine = (
        (scene.repository_id == repository_id)
        & (COLLECTIONS.c.name == collection)
        & (scene.status == "indexed")
        & one_of(scene.item_id, list(ids))
    )
    joined = SCENES.join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
    left: dict[str, set[str]] = {}
    earlier = (
        select(scene.item_id, then.item_sha256)
        .select_from(joined.join(SCENE_REVISIONS, then.scene_id == scene.id))
        .where(mine)
    )
    for item, digest in connection.execute(earlier):
        left.setdefault(item, set()).add(digest)
    now = select(scene.item_id, scene.tile, scene.datetime, scene.updated).select_from(joined)
    return {
        item: IndexedPlace(tile, moment, updated, frozenset(left.get(item, ())))
        for item, tile, moment, updated in connection.execute(now.where(mine))
    }


def outstanding_scenes(
    connection: Connection,
    repository_id: int,
    collection: str | None = None,
    *,
    limit: int,
    after: int = 0,
    now: datetime | None = None,
) -> list[Outstanding]:
    """Scenes whose indexing was begun and not ended, and whose next attempt is due, as they were
    then, each with a number to go on ``after``. One statement."""
    scene, due = SCENES.c, now or datetime.now(UTC)
    statement = (
        select(
            scene.id,
            COLLECTIONS.c.name,
            scene.item_id,
            scene.attempts,
            type_coerce(scene.wanted, NullType()),
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .where(
            scene.repository_id == repository_id,
            scene.id > after,
            scene.wanted_sha256.is_not(None),
            or_(scene.next_attempt_at.is_(None), scene.next_attempt_at <= due),
        )
        .order_by(scene.id)
        .limit(limit)
    )
    if collection is not None:
        statement = statement.where(COLLECTIONS.c.name == collection)
    return [
        Outstanding(key, name, item_id, attempts, read_wanted(item_id, wanted))
        for key, name, item_id, attempts, wanted in connection.execute(statement)
    ]


def incomplete_scenes(
    connection: Connection,
    repository_id: int,
    collection: str | None,
    stac: str | None,
    *,
    limit: int,
    after: int = 0,
) -> list[Incomplete]:
    """Scenes that are indexed without a band, and of which nothing is outstanding, each with a
    number to go on ``after``. One statement; going on to the end looks at every scene once.

    Args:
        collection: that they are of; None for any that was last crawled from ``stac``.
    """
    scene = SCENES.c
    from_here = COLLECTIONS.c.stac_url == stac
    statement = (
        select(
            scene.id,
            COLLECTIONS.c.name,
            scene.item_id,
            scene.item_sha256,
            scene.bands,
            scene.missing,
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .where(
            scene.repository_id == repository_id,
            scene.id > after,
            scene.status == "indexed",
            scene.missing.is_not(None),
            scene.wanted_sha256.is_(None),
            from_here if collection is None else COLLECTIONS.c.name == collection,
        )
        .order_by(scene.id)
        .limit(limit)
    )
    return [
        Incomplete(key, name, item, digest, (band_set(bands) or frozenset()) | {*missing})
        for key, name, item, digest, bands, missing in connection.execute(statement)
    ]


def indexed_href(connection: Connection, repository_id: int, collection: str) -> str | None:
    """Of one file of the scene of a collection that was indexed last; None without any. One
    statement."""
    statement = (
        select(SCENES.c.href_prefix + ASSETS.c.href)
        .join(ASSETS, ASSETS.c.scene_id == SCENES.c.id)
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .where(
            SCENES.c.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            SCENES.c.status == "indexed",
        )
        .order_by(SCENES.c.id.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar_one_or_none()


def origins(
    connection: Connection, repository_id: int, ids: Iterable[str], collection: str | None = None
) -> list[tuple[str, str, str | None]]:
    """(item id, collection, API it was last crawled from) of the items that are known, in any state
    and as failures, in the order of their ids. One statement."""
    wanted = list(ids)
    parts = []
    for table in (SCENES, ITEM_FAILURES):
        part = (
            select(table.c.item_id, COLLECTIONS.c.name, COLLECTIONS.c.stac_url)
            .join(COLLECTIONS, COLLECTIONS.c.id == table.c.collection_id)
            .where(table.c.repository_id == repository_id, one_of(table.c.item_id, wanted))
        )
        parts.append(part if collection is None else part.where(COLLECTIONS.c.name == collection))
    return sorted((row[0], row[1], row[2]) for row in connection.execute(union(*parts)))


def indexed_states(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str]
) -> dict[str, IndexedState]:
    """What is indexed of these items of a collection. Two statements."""
    scene = SCENES.c
    statement = (
        select(
            scene.id,
            scene.item_id,
            *(scene[name] for name in DESCRIBED),
            scene.warnings,
            scene.missing,
            BRANCHES.c.name.label("branch"),
            scene.root,
            scene.time_index,
            scene.refs_sha256,
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .join(BRANCHES, BRANCHES.c.id == scene.branch_id)
        .where(
            scene.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            scene.status == "indexed",
            one_of(scene.item_id, list(ids)),
        )
    )
    rows = connection.execute(statement).all()
    files = read_assets(connection, [row.id for row in rows])
    return {
        row.item_id: IndexedState(
            datetime=row.datetime,
            boa_offset=row.boa_offset,
            warnings=tuple(row.warnings),
            branch=row.branch,
            root=row.root,
            time_index=row.time_index,
            refs_sha256=row.refs_sha256,
            files=files.get(row.id, {}),
            missing=tuple(row.missing or ()),
            described={name: getattr(row, name) for name in DESCRIBED},
        )
        for row in rows
    }


def same_acquisitions(
    connection: Connection, repository_id: int, collection: str, ids: Iterable[str]
) -> dict[str, list[str]]:
    """Those of these items that other indexed scenes of the collection are the same acquisition
    as, with the ids of those. One statement."""
    scene, other = SCENES.c, SCENES.alias("other")
    same = ("acquisition", "tile", "collection_id", "repository_id")
    statement = (
        select(scene.item_id, other.c.item_id)
        .join(other, and_(*(other.c[name] == scene[name] for name in same)))
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .where(
            scene.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            one_of(scene.item_id, list(ids)),
            other.c.item_id != scene.item_id,
            other.c.status == "indexed",
        )
        .order_by(scene.item_id, other.c.item_id)
    )
    found: dict[str, list[str]] = {}
    for item, twin in connection.execute(statement):
        found.setdefault(item, []).append(twin)
    return found
