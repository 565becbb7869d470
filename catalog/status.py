"""The catalog in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, case, func, select

from catalog.errors import ConfigError, first_line
from catalog.failures import outstanding_failures, storable
from catalog.json_values import brief
from catalog.models import COLLECTIONS, CRAWLS, SCENES
from catalog.portable_sql import is_text, one_of
from catalog.recorded import CrawlCounts, CrawlRecord, IncompleteScene, Status
from catalog.scene import why_not_indexed


def status_counts(
    connection: Connection, repository_id: int, *, crawls: int = 10, failures: int = 100
) -> Status:
    """What a repository holds, its last crawls, its failures, and scenes without a band: at most
    ``failures`` of each. Three statements, and one more where a scene lacks a band."""
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
    lacks: dict[tuple[str, str], int] = {}
    for row in counted:
        if row[5]:
            lacks[row[0], row[1]] = lacks.get((row[0], row[1]), 0) + row[5]
    found = outstanding_failures(connection, repository_id)
    recent = select(CRAWLS).where(CRAWLS.c.repository_id == repository_id)
    runs = connection.execute(recent.order_by(CRAWLS.c.id.desc()).limit(crawls)).mappings()
    names = CrawlCounts.__dataclass_fields__
    return Status(
        scenes=tuple(sorted((row[0], row[1], row[2], row[3]) for row in counted)),
        outdated=sum(row[4] for row in counted),
        incomplete=sum(lacks.values()),
        incomplete_scenes=_incomplete(connection, repository_id, lacks, failures),
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


def _incomplete(
    connection: Connection, repository_id: int, lacks: Mapping[tuple[str, str], int], limit: int
) -> tuple[IncompleteScene, ...]:
    """The first scenes without a band, by collection, tile and time, of those whose numbers by
    collection and tile are ``lacks``. No statement where there are none, else one, which looks at
    the scenes of no more tiles than it gives scenes."""
    tiles: set[str] = set()
    held = 0
    for place in sorted(lacks):
        if held >= limit:
            break
        held += lacks[place]
        tiles.add(place[1])
    if not tiles:
        return ()
    scene = SCENES.c
    # By the index of tiles: no other says which of a million scenes lack a band.
    statement = (
        select(scene.item_id, COLLECTIONS.c.name, scene.tile, scene.missing, scene.warnings)
        .join(COLLECTIONS, COLLECTIONS.c.id == scene.collection_id)
        .where(
            scene.repository_id == repository_id,
            one_of(scene.tile, sorted(tiles)),
            scene.status == "indexed",
            scene.missing.is_not(None),
        )
        .order_by(COLLECTIONS.c.name, scene.tile, scene.datetime, scene.item_id)
        .limit(limit)
    )
    return tuple(_lacking(*row) for row in connection.execute(statement))


def _lacking(item: str, collection: str, tile: str, missing: Any, warnings: Any) -> IncompleteScene:
    try:
        bands = tuple(map(is_text, missing))
        said = (why_not_indexed(band, warnings) for band in bands)
        reasons = tuple(storable(reason or "no reason is recorded") for reason in said)
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"the database is damaged: scene {brief(item)} has a value that cannot be "
            f"({first_line(error)})"
        ) from error
    return IncompleteScene(item, collection, tile, bands, reasons)


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
