"""Watches: crawl queries that are saved, for cron to run by name or all together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from catalog.errors import NotFoundError, UsageError
from catalog.models import CRAWLS, WATCHES
from catalog.settings import check_stac

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

BESIDE = ("stac", "bands", "require")
"""Parts of a watch's query that are none of ``StacQuery``: the API, the bands that are indexed, and
those without which no scene is."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A saved query, how far it has got, and how its last crawl went."""

    id: int
    name: str
    query: Mapping[str, Any]
    """As ``StacQuery.as_dict``, with those of ``BESIDE`` beside it."""
    watermark: datetime | None
    """Newest ``updated`` of the source that a finished crawl has seen, UTC; None before the first,
    and for sources that do not say when an item changed."""
    created_at: datetime
    """When this question was first saved under the name."""
    last_crawl: int | None
    last_finished_at: datetime | None
    """Of the last crawl of this question that ended well, UTC."""
    has_found: bool = True
    """Whether a crawl of this question that ended well has met an item: one that did not end has
    not met all there are."""


def save_watch(connection: Connection, name: str, query: Mapping[str, Any]) -> bool:
    """Adds a watch, or gives the one of that name another question, which has seen nothing yet: it
    is asked from its beginning. The same question saved again goes on where it is.

    Returns:
        whether it starts anew.

    Raises:
        UsageError: the name has other characters than letters, digits, dot, dash and underscore,
            or the query's API a secret in its address.
    """
    check_stac(str(query.get("stac") or ""))
    if not NAME.fullmatch(name):
        raise UsageError(
            f"malformed watch name {name!r}: write letters, digits, '.', '-' and '_', at most 64"
        )
    held = select(WATCHES.c.query).where(WATCHES.c.name == name).with_for_update()
    before = connection.execute(held).scalar_one_or_none()
    if before is not None and _meaning(before) == _meaning(query):
        return False
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(WATCHES).values(name=name, query=dict(query), created_at=datetime.now(UTC))
    new = statement.excluded
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"query": new.query, "watermark": None, "created_at": new.created_at},
        )
    )
    return True


def _meaning(query: Mapping[str, Any]) -> dict[str, Any]:
    """``query`` whatever the order of its tiles, ids and bands."""
    lists = ("tiles", "ids", "bands", "require")
    return {
        key: sorted(value) if key in lists else json.loads(json.dumps(value))
        for key, value in query.items()
        if value is not None
    }


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
    # A crawl that began before the question was saved asked another.
    well = CRAWLS.c.started_at >= WATCHES.c.created_at, CRAWLS.c.outcome == "done"
    done = func.max(CRAWLS.c.finished_at).filter(*well)
    found = func.coalesce(func.max(CRAWLS.c.found).filter(*well), 0) > 0
    statement = (
        select(
            WATCHES.c.id,
            WATCHES.c.name,
            WATCHES.c.query,
            WATCHES.c.watermark,
            WATCHES.c.created_at,
            func.max(CRAWLS.c.id),
            done,
            found,
        )
        .join(CRAWLS, CRAWLS.c.watch_id == WATCHES.c.id, isouter=True)
        .group_by(WATCHES.c.id)
        .order_by(WATCHES.c.name)
    )
    return [Watch(*row) for row in connection.execute(statement)]


def advance_watch(connection: Connection, watch: Watch, watermark: datetime | None) -> None:
    """Moves a watch's watermark on, never back, unless it was given another question since."""
    if watermark is None:
        return
    mark = WATCHES.c.watermark
    connection.execute(
        update(WATCHES)
        .where(*_same(watch), mark.is_(None) | (mark < watermark))
        .values(watermark=watermark)
    )


def key_of(connection: Connection, watch: Watch) -> int | None:
    """Key of a watch; None if it was given another question since, or is gone."""
    key = connection.execute(select(WATCHES.c.id).where(*_same(watch))).scalar_one_or_none()
    return None if key is None else int(key)


def _same(watch: Watch) -> tuple[ColumnElement[bool], ...]:
    table = WATCHES.c
    return (
        table.id == watch.id, table.name == watch.name, table.created_at == watch.created_at,
    )  # fmt: skip


def _unknown(connection: Connection, name: str) -> NotFoundError:
    names = ", ".join(watch.name for watch in list_watches(connection)) or "none"
    return NotFoundError(f"no watch {name!r}; there are {names}")
