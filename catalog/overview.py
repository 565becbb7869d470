"""What an operator wants to see of a catalog, as plain JSON values."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from catalog import heads, lease, watches
from catalog.answers import Asker
from catalog.json_values import plain
from catalog.query import Query
from catalog.recorded import Failure
from catalog.settings import OVERDUE
from catalog.status import duplicate_count, status_counts
from catalog.tile_boxes import TileBoxes
from catalog.watches import Watch


def overview(
    connection: Connection, repository_id: int, *, now: datetime, overdue_after: timedelta = OVERDUE
) -> dict[str, Any]:
    """Keys are a contract. Eight statements, another where a lease is held, another where a scene
    lacks a band, and one for each watch (for a place at most four).

    - ``scenes``, ``collections``, ``tiles``: scenes by status, collection and tile;
    - ``counts``: the same as rows of ``collection``, ``tile``, ``status``, ``scenes``;
    - ``outdated``: indexed, but their item has changed since; ``incomplete``: indexed, but without
      a band whose file cannot be read; ``incomplete_scenes``: the first hundred of these, by
      collection, tile and time, each with ``id``, ``collection``, ``tile``, ``bands`` and, in
      their order, ``reasons``; ``unreadable_items``;
    - ``duplicates``: indexed scenes that are the same acquisition as a newer one;
    - ``newest``: acquisition of the newest indexed scene, and ``lag_seconds`` since;
    - ``branches``: ``branch``, ``head``, ``scenes``, ``first``, ``last``; ``snapshots``: recorded;
    - ``watches``: as saved, with ``newest`` (of the indexed scenes that answer its query),
      ``lag_seconds`` (since then), ``quiet_seconds`` (since its last crawl that ended well) and
      ``overdue``;
    - ``crawls``: the last ten with their counts;
    - ``failures``: the first hundred, with ``reason``, ``attempts``, ``next_attempt_at`` and
      ``due_in_seconds`` (0 for now); ``parked``: how many of all wait for their time, ``due``: how
      many the next crawl tries again;
    - ``lease``: who may write now, or died while it might: ``holder``, ``since``, ``until``,
      ``is_here`` (the holder is running on this machine); None for nobody.

    Args:
        now: aware.
        overdue_after: since a watch's last crawl that ended well, or since it was saved.
    """
    counts = status_counts(connection, repository_id, failures=100)
    branches = heads.branch_summary(connection, repository_id)
    newest = max((branch.last for branch in branches if branch.last), default=None)
    waiting = counts.parked(now)
    return {
        "scenes": counts.total("status"),
        "collections": counts.total("collection"),
        "tiles": counts.total("tile"),
        "counts": [
            dict(zip(("collection", "tile", "status", "scenes"), row, strict=True))
            for row in counts.scenes
        ],
        "outdated": counts.outdated,
        "incomplete": counts.incomplete,
        "incomplete_scenes": [plain(scene) for scene in counts.incomplete_scenes],
        "unreadable_items": counts.unreadable,
        "duplicates": duplicate_count(connection, repository_id),
        "newest": plain(newest),
        "lag_seconds": _seconds(newest, now),
        "branches": [plain(branch) for branch in branches],
        "snapshots": heads.snapshot_count(connection, repository_id),
        "watches": [
            _watch(connection, repository_id, watch, now, overdue_after)
            for watch in watches.list_watches(connection)
        ],
        "crawls": [plain(crawl) for crawl in counts.crawls],
        "parked": waiting,
        "due": counts.outstanding - waiting,
        "failures": [_failure(failure, now) for failure in counts.failures],
        "lease": plain(lease.read_lease(connection, repository_id)),
    }


def _watch(
    connection: Connection,
    repository_id: int,
    watch: Watch,
    now: datetime,
    overdue_after: timedelta,
) -> dict[str, Any]:
    asked = watch.query
    question = Query.parse(
        collection=asked.get("collection"),
        tile=asked.get("tiles"),
        bbox=asked.get("bbox"),
        intersects=asked.get("intersects"),
        datetime=asked.get("datetime"),
        max_cloud_cover=asked.get("max_cloud_cover"),
        ids=asked.get("ids"),
        sort="-datetime",
        limit=1,
    )
    found = Asker(connection, repository_id, TileBoxes()).records(question)
    newest = found[0].datetime if found else None
    since = watch.last_finished_at or watch.created_at
    return {
        **plain(watch),
        "newest": plain(newest),
        "lag_seconds": _seconds(newest, now),
        "quiet_seconds": _seconds(watch.last_finished_at, now),
        "overdue": now - since > overdue_after,
    }


def _failure(failure: Failure, now: datetime) -> dict[str, Any]:
    due = failure.next_attempt_at
    wait = 0.0 if due is None else max(0.0, round((due - now).total_seconds(), 1))
    return {**plain(failure), "due_in_seconds": wait}


def _seconds(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else round((now - moment).total_seconds(), 1)
