"""What records refer to: repositories, sources, collections, crawls. Knows no Icechunk.

Every function works inside the caller's transaction and may be repeated, but for
``begin_crawl``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from catalog.errors import ConfigError, NotFoundError
from catalog.models import COLLECTIONS, CRAWLS, REPOSITORIES, SOURCES
from catalog.portable_sql import is_text, one_of, upsert
from catalog.recorded import CrawlCounts, KnownRepository
from catalog.redaction import without_secrets
from catalog.settings import Source

GENERIC = "generic"
"""Dialect of items that bear no catalog's marks: it says nothing of their collection."""


def register_repository(
    connection: Connection, uid: str, location: str, *, now: datetime | None = None
) -> int:
    """Key of the repository, added if it is new, with the place where it is now. One statement.

    Args:
        uid: ``Repository.id``: a repository that was moved keeps its key and all it holds.
        location: absolute path or URL.
    """
    moment = now or datetime.now(UTC)
    statement = upsert(connection.dialect.name, REPOSITORIES).values(
        uid=uid, location=location, registered_at=moment, seen_at=moment
    )
    statement = statement.on_conflict_do_update(
        index_elements=["uid"],
        set_={name: statement.excluded[name] for name in ("location", "seen_at")},
    ).returning(REPOSITORIES.c.id)
    return int(connection.execute(statement).scalar_one())


def known_repositories(connection: Connection) -> list[KnownRepository]:
    """Every repository of the catalog, the last seen first. One statement."""
    repository = REPOSITORIES.c
    statement = select(repository.id, repository.uid, repository.location).order_by(
        repository.seen_at.desc(), repository.id.desc()
    )
    return [
        KnownRepository(key, is_text(uid), is_text(location))
        for key, uid, location in connection.execute(statement)
    ]


def find_repository(
    connection: Connection, location: str, read_id: Callable[[], str | None]
) -> KnownRepository | None:
    """The repository at ``location``, as the catalog knows it; None where it knows none at all.

    Records can be read without their store: it is asked for its id only where the catalog has
    not seen one at the location. Where there is none to ask, records that can only be one
    repository's are that one's. One statement.

    Args:
        location: as registered.
        read_id: ``Repository.id`` of what is there now; None for nothing.

    Raises:
        ConfigError: what is there is not in this catalog, or nothing is and it has several.
    """
    known = known_repositories(connection)
    for found in known:
        if found.location == location:
            return found
    uid = read_id()
    if uid is None and len(known) < 2:
        return known[0] if known else None
    for found in known:
        if found.uid == uid:
            return found
    places = ", ".join(found.location for found in known) or "none"
    if uid is None:
        raise ConfigError(f"no repository at {location}; the database holds {places}: name one")
    raise ConfigError(
        f"repository {location} is not in the database, which holds {places}: run `cogcat init` "
        "to add it"
    )


def register_sources(
    connection: Connection, sources: Iterable[Source], *, now: datetime | None = None
) -> None:
    """Keep the sources of the settings as they are now. One statement."""
    seen = {"seen_at": now or datetime.now(UTC)}
    rows = [
        {key: value for key, value in asdict(source).items() if key in SOURCES.c} | seen
        for source in sources
    ]
    if not rows:
        return
    statement = upsert(connection.dialect.name, SOURCES)
    changed = {name: statement.excluded[name] for name in rows[0] if name != "name"}
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changed), rows)


def register_collection(
    connection: Connection,
    name: str,
    stac_url: str | None = None,
    dialect: str | None = None,
    *,
    others: Collection[str] = (),
    now: datetime | None = None,
) -> int:
    """Key of the collection, added if it is new. One statement, and one before it with a dialect.

    A later ``stac_url`` replaces an earlier one (an API may move); None keeps it. A dialect is an
    item's own, and one API may serve several: the collection's, the first that was met, serves only
    to notice that another API has a collection of the same name.

    Args:
        dialect: of the items at hand; None where they bear no marks.
        others: all dialects among them.

    Raises:
        ConfigError: the collection was crawled from another API, and no item at hand is of its
            dialect: two catalogs have collections of this name, and one would withdraw the
            other's scenes.
    """
    if dialect is not None:
        held = select(COLLECTIONS.c.dialect, COLLECTIONS.c.stac_url).where(
            COLLECTIONS.c.name == name
        )
        known, url = connection.execute(held).one_or_none() or (None, None)
        if known not in (None, GENERIC, dialect, *others) and url is not None and url != stac_url:
            raise ConfigError(
                f"collection {name!r} is {known} in this catalog, and {dialect} at "
                f"{stac_url or 'a file'}: use another database and repository for it"
            )
    statement = upsert(connection.dialect.name, COLLECTIONS).values(
        name=name,
        stac_url=None if stac_url is None else without_secrets(stac_url),
        dialect=dialect,
        registered_at=now or datetime.now(UTC),
    )
    new, old = statement.excluded, COLLECTIONS.c
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={
            "stac_url": func.coalesce(new.stac_url, old.stac_url),
            "dialect": func.coalesce(func.nullif(old.dialect, GENERIC), new.dialect, old.dialect),
        },
    ).returning(COLLECTIONS.c.id)
    return int(connection.execute(statement).scalar_one())


def begin_crawl(
    connection: Connection,
    query: Mapping[str, Any],
    *,
    repository_id: int | None = None,
    watch_id: int | None = None,
    now: datetime | None = None,
) -> int:
    """Key of a new crawl. One statement. Not repeatable: every call is a crawl of its own."""
    row = {"query": _without_secrets(query), "repository_id": repository_id, "watch_id": watch_id}
    done = connection.execute(insert(CRAWLS).values(**row, started_at=now or datetime.now(UTC)))
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


def _without_secrets(query: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a question; the commands refuse addresses with secrets before."""
    return {
        key: without_secrets(value) if isinstance(value, str) else value
        for key, value in query.items()
    }


def begin_rebuild(connection: Connection, what: Mapping[str, Any], repository_id: int) -> int:
    """Key of a new crawl that is a rebuild; ended with ``finish_crawl``, ``done`` or not."""
    return begin_crawl(connection, {"rebuild": dict(what)}, repository_id=repository_id)


def crawl_starts(connection: Connection, repository_id: int) -> dict[int, datetime]:
    """When each crawl of a repository began, by its key. One statement."""
    crawl = CRAWLS.c
    statement = select(crawl.id, crawl.started_at).where(crawl.repository_id == repository_id)
    return {row.id: row.started_at for row in connection.execute(statement)}


def is_half_rebuilt(connection: Connection, repository_id: int) -> bool:
    """Whether the last rebuild of the repository's records did not come to its end."""
    crawl = CRAWLS.c
    rebuilds = (
        select(crawl.outcome)
        .where(
            crawl.repository_id == repository_id, crawl.query["rebuild"].as_string().is_not(None)
        )
        .order_by(crawl.id.desc())
        .limit(1)
    )
    last = connection.execute(rebuilds).first()
    return last is not None and last.outcome != "done"


def finish_crawl(
    connection: Connection,
    crawl: int,
    counts: CrawlCounts,
    outcome: str,
    *,
    watermark: datetime | None = None,
    now: datetime | None = None,
) -> None:
    """Write down how a crawl ended. One statement."""
    values = asdict(counts) | {"outcome": outcome, "watermark": watermark}
    connection.execute(
        update(CRAWLS)
        .where(CRAWLS.c.id == crawl)
        .values(**values, finished_at=now or datetime.now(UTC))
    )


def collection_keys(connection: Connection, names: set[str]) -> dict[str, int]:
    statement = select(COLLECTIONS.c.name, COLLECTIONS.c.id).where(
        one_of(COLLECTIONS.c.name, sorted(names))
    )
    keys = {row.name: int(row.id) for row in connection.execute(statement)}
    if missing := names - set(keys):
        raise NotFoundError(f"collection {min(missing)!r} is not registered in the catalog")
    return keys
