"""What could not be indexed, why, and when it is tried again. Knows no Icechunk.

The two that record a failure count every call: not for repeating.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    case,
    delete,
    literal,
    null,
    select,
    union_all,
    update,
)

from catalog.models import COLLECTIONS, ITEM_FAILURES, SCENES
from catalog.portable_sql import one_of, upsert
from catalog.recorded import Failure
from catalog.registry import collection_keys

RETRY_DELAYS = tuple(timedelta(hours=hours) for hours in (0, 1, 4, 24, 72, 168))
"""From a failure to the next attempt: after the first, the second …; the last one stays. The first
failure may be the network's: the next crawl tries again."""
LONGEST = 2_000
"""Characters of a reason that are kept."""


def record_failed(
    connection: Connection,
    repository_id: int,
    collection: str,
    reasons: Mapping[str, str],
    crawl: int,
    *,
    now: datetime | None = None,
) -> None:
    """Add a failed attempt, with its reason, to scenes by item id. Two statements.

    A scene that has a place stays as it is: an indexed one readable, a withdrawn one
    withdrawn. The next attempt is due after ``RETRY_DELAYS``.

    Raises:
        NotFoundError: the collection is not registered.
    """
    if not reasons:
        return
    moment = now or datetime.now(UTC)
    key = collection_keys(connection, {collection})[collection]
    stays = SCENES.c.snapshot_id.is_not(None)
    statement = (
        update(SCENES)
        .where(
            SCENES.c.item_id == bindparam("item"),
            SCENES.c.collection_id == key,
            SCENES.c.repository_id == repository_id,
        )
        .values(
            status=case((stays, SCENES.c.status), else_="failed"),
            crawl_id=case((stays, SCENES.c.crawl_id), else_=crawl),
            recorded_at=case((stays, SCENES.c.recorded_at), else_=_moment(moment)),
            attempts=SCENES.c.attempts + 1,
            last_error=bindparam("reason"),
            next_attempt_at=_next_attempt(SCENES.c.attempts, moment),
        )
    )
    connection.execute(
        statement,
        [{"item": item, "reason": storable(reason)} for item, reason in reasons.items()],
    )


def record_unreadable_item(
    connection: Connection,
    repository_id: int,
    collection: str,
    item_id: str,
    reason: str,
    crawl: int,
    *,
    item_sha256: str | None = None,
    now: datetime | None = None,
) -> None:
    """Add a failed attempt for an item that could not become a scene. Two statements.

    A scene indexed from an earlier item of this id stays readable. Another item
    than the last that failed (by its hash) starts to count anew.

    Raises:
        NotFoundError: the collection is not registered.
    """
    moment = now or datetime.now(UTC)
    key = collection_keys(connection, {collection})[collection]
    statement = upsert(connection.dialect.name, ITEM_FAILURES).values(
        repository_id=repository_id,
        collection_id=key,
        item_id=item_id,
        item_sha256=item_sha256,
        reason=storable(reason),
        attempts=1,
        failed_at=moment,
        next_attempt_at=moment + RETRY_DELAYS[0],
        crawl_id=crawl,
    )
    new, old = statement.excluded, ITEM_FAILURES.c
    same = new.item_sha256.is_not_distinct_from(old.item_sha256)
    before = case((same, old.attempts), else_=0)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["repository_id", "collection_id", "item_id"],
            set_={
                **{name: new[name] for name in ("item_sha256", "reason", "failed_at", "crawl_id")},
                "attempts": before + 1,
                "next_attempt_at": _next_attempt(before, moment),
            },
        )
    )


def storable(reason: str) -> str:
    """``reason`` as both databases take it: no more than ``LONGEST`` characters, all of them text,
    whatever was foreign in it."""
    text = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _next_attempt(attempts: ColumnElement[int], moment: datetime) -> ColumnElement[datetime]:
    *growing, last = (_moment(moment + delay) for delay in RETRY_DELAYS)
    return case(*((attempts == n, due) for n, due in enumerate(growing)), else_=last)


def _moment(moment: datetime) -> ColumnElement[datetime]:
    return literal(moment, SCENES.c.recorded_at.type)


def forget_failures(
    connection: Connection, repository_id: int, collection_id: int, ids: Sequence[str]
) -> None:
    """These items can be read now. One statement."""
    failure = ITEM_FAILURES.c
    connection.execute(
        delete(ITEM_FAILURES).where(
            failure.repository_id == repository_id,
            failure.collection_id == collection_id,
            one_of(failure.item_id, ids),
        )
    )


def unreadable_items(connection: Connection, repository_id: int, collection: str) -> list[str]:
    """Ids of the items of a collection that could not become a scene. One statement."""
    failure = ITEM_FAILURES.c
    statement = (
        select(failure.item_id)
        .join(COLLECTIONS, COLLECTIONS.c.id == failure.collection_id)
        .where(failure.repository_id == repository_id, COLLECTIONS.c.name == collection)
    )
    return list(connection.execute(statement).scalars())


def due_items(
    connection: Connection,
    repository_id: int,
    collection: str,
    *,
    limit: int,
    after: str = "",
    now: datetime | None = None,
) -> list[str]:
    """Ids behind ``after``, in their order, of the items of a collection that could not become a
    scene and are due. One statement."""
    failure = ITEM_FAILURES.c
    statement = (
        select(failure.item_id)
        .join(COLLECTIONS, COLLECTIONS.c.id == failure.collection_id)
        .where(
            failure.repository_id == repository_id,
            COLLECTIONS.c.name == collection,
            failure.item_id > after,
            failure.next_attempt_at <= (now or datetime.now(UTC)),
        )
        .order_by(failure.item_id)
        .limit(limit)
    )
    return list(connection.execute(statement).scalars())


def postpone_items(
    connection: Connection, repository_id: int, collection: str, ids: Sequence[str]
) -> None:
    """Add an attempt for items that could not become a scene, and that the source does not have
    now. Two statements."""
    moment = datetime.now(UTC)
    failure = ITEM_FAILURES.c
    key = collection_keys(connection, {collection})[collection]
    connection.execute(
        update(ITEM_FAILURES)
        .where(
            failure.repository_id == repository_id,
            failure.collection_id == key,
            one_of(failure.item_id, ids),
        )
        .values(
            attempts=failure.attempts + 1, next_attempt_at=_next_attempt(failure.attempts, moment)
        )
    )


def outstanding_failures(connection: Connection, repository_id: int) -> list[Failure]:
    """Every item that is not indexed as it should be, soonest due first. One statement."""
    scene, item = SCENES.c, ITEM_FAILURES.c
    scenes = (
        select(
            COLLECTIONS.c.name.label("collection"),
            scene.item_id.label("id"),
            scene.tile,
            scene.last_error,
            scene.attempts,
            scene.next_attempt_at,
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .where(scene.repository_id == repository_id, scene.last_error.is_not(None))
    )
    items = (
        select(
            COLLECTIONS.c.name,
            item.item_id,
            null(),
            item.reason,
            item.attempts,
            item.next_attempt_at,
        )
        .join(COLLECTIONS, COLLECTIONS.c.id == item.collection_id)
        .where(item.repository_id == repository_id)
    )
    found = union_all(scenes, items).order_by("next_attempt_at", "id")
    return [Failure(*row) for row in connection.execute(found)]
