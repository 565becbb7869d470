"""Watches run one after another, each from where it has got to: what cron starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from catalog import watches
from catalog.database import write_transaction
from catalog.errors import BusyError, CatalogError, UsageError
from catalog.header import Reads
from catalog.parse import format_datetime, parse_datetime, parse_item_id
from catalog.report import Report
from catalog.settings import Settings, stac_access
from catalog.setup import open_crawl
from catalog.sieve import Tried
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items
from catalog.sync import scope
from catalog.watches import Watch

OVERLAP = timedelta(hours=1)
"""Behind the watermark: an item may become visible later than its ``updated`` says."""
LOOK_BACK = timedelta(days=30)
"""Of acquisitions, where a source does not say when an item changed (Planetary Computer): scenes
are published, and published anew, within weeks."""


@dataclass(frozen=True, slots=True)
class Run:
    """How one watch went."""

    watch: str
    report: Report | None
    """None where it did not come to a crawl."""
    error: CatalogError | None


def question(watch: Watch, *, full: bool = False) -> StacQuery:
    """What to ask now: the watch's query from its watermark or look-back window on.

    Args:
        full: all that the query means, as in its first crawl.
    """
    saved = {key: value for key, value in watch.query.items() if key not in watches.BESIDE}
    query = StacQuery.parse(**saved)
    if full or watch.last_finished_at is None or query.limit is not None:
        # Of a limited one there may be more than was ever asked for, whatever is newest.
        return query
    if not watch.has_found:
        # What comes to an empty place may be of any day.
        return query
    if watch.watermark is not None:
        return replace(query, updated_since=watch.watermark - OVERLAP)
    start, end = parse_datetime(query.datetime)
    first = watch.last_finished_at - LOOK_BACK
    if start is not None:
        first = max(start, first)
    if end is not None and end <= first:
        return query  # all of it lies before the window: it is looked through again
    last = ".." if end is None else format_datetime(end)
    return replace(query, datetime=f"{format_datetime(first)}/{last}")


def run_watch(
    settings: Settings,
    engine: Engine,
    watch: Watch,
    *,
    full: bool = False,
    concurrency: int = 32,
    dry_run: bool = False,
    retry: bool = False,
    reread: bool = False,
    sync: bool = False,
    wait: float | None = 0.0,
    reader: Reads | None = None,
    on_progress: Callable[[Report], None] | None = None,
    on_start: Callable[[Callable[[], None]], None] | None = None,
    outstanding: bool = True,
    tried: Tried | None = None,
) -> Report:
    """One crawl of a watch; its watermark moves on if the crawl ended well. Scenes that an earlier
    crawl began and did not end come first: what has not changed since is not returned again.

    Args:
        retry: try what failed before whether or not it is due, and scenes without a band again.
        reread: ask all that the query means, and read the files though the items are as indexed.
        sync: ask all that the query means, and withdraw what is gone from the source.
        on_start: is given the function that stops the crawl.
        outstanding: take up what was begun, failed or lacks a band, of all of the collection.
        tried: as of ``Crawl``.

    Raises:
        CatalogError: as ``Crawl.run``.
    """
    query = question(watch, full=full or sync or reread)
    stac = str(watch.query["stac"])
    access = stac_access(stac, settings)
    crawl = open_crawl(
        settings,
        bands=watch.query.get("bands"),
        require=watch.query.get("require", ()),
        concurrency=concurrency,
        dry_run=dry_run,
        retry=retry,
        reread=reread,
        wait=wait,
        reader=reader,
        on_progress=on_progress,
        tried=tried,
    )
    with crawl:
        if on_start is not None:
            on_start(crawl.stop)
        asked = query.as_dict() | {"stac": stac, "watch": watch.name}
        if query.updated_since is not None:
            asked["updated_since"] = format_datetime(query.updated_since)
        report = crawl.run(
            search_items(stac, query, **access),
            query=asked,
            collection=query.collection,
            stac=stac,
            watch=watch,
            outstanding=outstanding,
            ask=lambda ids: _by_ids(stac, query.collection, ids, access),
            scope=scope(stac, query, **access) if sync else None,
        )
    if not (dry_run or report.interrupted):
        mark = report.watermark
        if mark is not None:
            # A clock that is a little ahead at the source must not hide what comes after it.
            mark = min(mark, datetime.now(UTC))
        with write_transaction(engine) as connection:
            watches.advance_watch(connection, watch, mark)
    return report


def _by_ids(
    stac: str, collection: str | None, ids: Sequence[str], access: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """Those of the items that the API has; an id that it cannot be asked for is none of its own."""
    fit = []
    for item in ids:
        with suppress(UsageError):
            fit.append(parse_item_id(item))
    if fit:
        yield from search_items(stac, StacQuery.parse(collection=collection, ids=fit), **access)


def run_all(
    settings: Settings,
    engine: Engine,
    chosen: list[Watch],
    *,
    full: bool = False,
    retry: bool = False,
    **how: object,
) -> list[Run]:
    """Runs watches in turn; one that fails does not keep the others from running. What ``retry``
    tries again is taken up once for all watches of a collection, and no scene is tried twice.

    Raises:
        BusyError: another crawl holds the repository: none of them would get further.
    """
    runs: list[Run] = []
    tried: Tried = {}
    taken_up: set[tuple[object, object]] = set()
    for watch in chosen:
        place = watch.query.get("stac"), watch.query.get("collection")
        try:
            report = run_watch(
                settings,
                engine,
                watch,
                full=full,
                retry=retry,
                outstanding=not (retry and place in taken_up),
                tried=tried,
                **how,  # type: ignore[arg-type]
            )
        except BusyError:
            raise
        except CatalogError as error:
            runs.append(Run(watch.name, None, error))
            continue
        runs.append(Run(watch.name, report, None))
        taken_up.add(place)
        if report.interrupted:
            break
    return runs
