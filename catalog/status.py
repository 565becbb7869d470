"""The catalog in numbers."""

from __future__ import annotations

from sqlalchemy import Connection, case, func, select

from catalog.failures import outstanding_failures
from catalog.models import COLLECTIONS, CRAWLS, SCENES
from catalog.recorded import CrawlCounts, CrawlRecord, Status


def status_counts(
    connection: Connection, repository_id: int, *, crawls: int = 10, failures: int = 100
) -> Status:
    """What a repository holds, its last crawls and its failures. Three statements."""
    stale = func.sum(
        case(((SCENES.c.status == "indexed") & SCENES.c.wanted_sha256.is_not(None), 1), else_=0)
    )
    lacking = func.sum(
        case(((SCENES.c.status == "indexed") & SCENES.c.missing.is_not(None), 1), else_=0)
    )
    counted = connection.execute(
        select(COLLECTIONS.c.name, SCENES.c.tile, SCENES.c.status, func.count(), stale, lacking)
        .join(COLLECTIONS, COLLECTIONS.c.id == SCENES.c.collection_id)
        .where(SCENES.c.repository_id == repository_id)
        .group_by(COLLECTIONS.c.name, SCENES.c.tile, SCENES.c.status)
    ).all()
    found = outstanding_failures(connection, repository_id)
    recent = select(CRAWLS).where(CRAWLS.c.repository_id == repository_id)
    runs = connection.execute(recent.order_by(CRAWLS.c.id.desc()).limit(crawls)).mappings()
    names = CrawlCounts.__dataclass_fields__
    return Status(
        scenes=tuple(sorted((row[0], row[1], row[2], row[3]) for row in counted)),
        outdated=sum(row[4] for row in counted),
        incomplete=sum(row[5] for row in counted),
        unreadable=sum(failure.tile is None for failure in found),
        failures=tuple(found[:failures]),
        due_at=tuple(failure.next_attempt_at for failure in found),
        crawls=tuple(
            CrawlRecord(
                id=row["id"],
                query=row["query"],
                started_at=row["started_at"],
                finished_at=row["finished_at"],
                outcome=row["outcome"],
                counts=CrawlCounts(**{name: row[name] for name in names}),
            )
            for row in runs
        ),
    )


def duplicate_count(connection: Connection, repository_id: int) -> int:
    """Indexed scenes beyond the first of each acquisition of a collection and tile. One
    statement."""
    scene = SCENES.c
    twins = (
        select((func.count() - 1).label("more"))
        .where(
            scene.repository_id == repository_id,
            scene.status == "indexed",
            scene.acquisition.is_not(None),
        )
        .group_by(scene.acquisition, scene.tile, scene.collection_id)
        .having(func.count() > 1)
        .subquery()
    )
    return int(connection.execute(select(func.coalesce(func.sum(twins.c.more), 0))).scalar_one())
