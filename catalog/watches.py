"""Watches: crawl queries that are saved, for cron to run by name or all together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from catalog.errors import NotFoundError, UsageError
from catalog.models import CRAWLS, WATCHES
from catalog.settings import check_stac

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Watch:
    """A saved query, how far it has got, and how its last crawl went."""

    id: int
    name: str
    query: Mapping[str, Any]
    """As ``StacQuery.as_dict``, with ``stac`` (the API) and ``bands`` beside it."""
    watermark: datetime | None
    """Newest ``updated`` of the source that a finished crawl has seen, UTC; None before the first,
    and for sources that do not say when an item changed."""
    created_at: datetime
    last_crawl: int | None
    last_finished_at: datetime | None
    """Of its last crawl that ended well, UTC."""


def save_watch(connection: Connection, name: str, query: Mapping[str, Any]) -> None:
    """Adds a watch, or gives the one of that name another query and no watermark.

    Raises:
        UsageError: the name has other characters than letters, digits, dot, dash and underscore,
            or the query's API a secret in its address.
    """
    check_stac(str(query.get("stac") or ""))
    if not NAME.fullmatch(name):
        raise UsageError(
            f"malformed watch name {name!r}: write letters, digits, '.', '-' and '_', at most 64"
        )
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(WATCHES).values(name=name, query=dict(query), created_at=datetime.now(UTC))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            # Another question has seen nothing yet.
            set_={"query": statement.excluded.query, "watermark": None},
        )
    )


def remove_watch(connection: Connection, name: str) -> None:
    """Forgets a watch; what it indexed stays.

    Raises:
        NotFoundError: there is none of that name; the message lists those there are.
    """
    if connection.execute(delete(WATCHES).where(WATCHES.c.name == name)).rowcount == 0:
        raise _unknown(connection, name)


def get_watch(connection: Connection, name: str) -> Watch:
    """One watch by name.

    Raises:
        NotFoundError: there is none of that name; the message lists those there are.
    """
    for watch in list_watches(connection):
        if watch.name == name:
            return watch
    raise _unknown(connection, name)


def list_watches(connection: Connection) -> list[Watch]:
    """Every watch, by name. One statement."""
    done = func.max(CRAWLS.c.finished_at).filter(CRAWLS.c.outcome == "done")
    statement = (
        select(
            WATCHES.c.id,
            WATCHES.c.name,
            WATCHES.c.query,
            WATCHES.c.watermark,
            WATCHES.c.created_at,
            func.max(CRAWLS.c.id),
            done,
        )
        .join(CRAWLS, CRAWLS.c.watch_id == WATCHES.c.id, isouter=True)
        .group_by(WATCHES.c.id)
        .order_by(WATCHES.c.name)
    )
    return [Watch(*row) for row in connection.execute(statement)]


def advance_watch(connection: Connection, watch: int, watermark: datetime | None) -> None:
    """Moves a watch's watermark on, never back."""
    if watermark is None:
        return
    mark = WATCHES.c.watermark
    connection.execute(
        update(WATCHES)
        .where(WATCHES.c.id == watch, mark.is_(None) | (mark < watermark))
        .values(watermark=watermark)
    )


def _unknown(connection: Connection, name: str) -> NotFoundError:
    names = ", ".join(watch.name for watch in list_watches(connection)) or "none"
    return NotFoundError(f"no watch {name!r}; there are {names}")
