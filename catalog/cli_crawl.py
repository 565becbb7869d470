"""The crawler's commands: crawl and watch."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from catalog import logs
from catalog.bands import band_names
from catalog.cli_options import (
    FAILED,
    INTERRUPTED,
    USAGE,
    Command,
    Group,
    err,
    geometry,
    json_option,
    log,
    patience,
    print_json,
    print_table,
    say,
    settings_options,
    several_option,
    tell,
    wait_option,
    where_options,
)
from catalog.errors import UsageError
from catalog.json_values import plain
from catalog.settings import check_stac, load_settings, stac_access

COUNTS = (
    "found", "new", "changed", "unchanged", "indexed", "failed", "withdrawn", "commits",
    "requests", "seconds",
)  # fmt: skip
BESIDE = ("updated", "reread", "incomplete", "parked", "retried", "duplicates", "recovered")
"""Counts beside those of the contract."""


PROGRESS = 10.0
"""Seconds between two lines of progress in a JSON log."""


def _query_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What crawl asks and watch saves."""
    command = several_option(
        "--require", "Index no scene without these; else one is, without what cannot be read."
    )(command)
    command = several_option("--bands", "Such as red,nir,scl; or repeated [all].")(command)
    command = where_options(command)
    return click.option(
        "--stac", metavar="URL", help="STAC API to search [settings' own, or Earth Search]."
    )(command)


@click.command(cls=Command)
@_query_options
@click.option(
    "--items", metavar="FILE", help="Items from a JSON, NDJSON or stac-geoparquet file, not an API."
)
@click.option("--watch", metavar="NAME", help="Run this watch; without a query, all of them run.")
@click.option("--full", is_flag=True, help="Watches from their beginning, not their watermark.")
@click.option("--sync", is_flag=True,
              help="Withdraw scenes of the query whose items are gone from the source; a watch "
              "then asks all it means.")  # fmt: skip
@click.option("--retry", is_flag=True,
              help="Try what failed before now, not when it is due, and bands that could not be "
              "read; watches do so for all of their collection [with --ids].")  # fmt: skip
@click.option("--reread", is_flag=True,
              help="Read the headers of indexed scenes too, though their items are the same: for "
              "files that changed behind them.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1, 512), default=32, show_default=True,
              help="Header requests in flight; with --dask, of each worker.")  # fmt: skip
@click.option("--dask", metavar="ADDRESS", help="Read headers on a dask.distributed cluster "
              "(tcp://host:8786), or `local`: on one started for this crawl.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done; read no file.")
@click.option("--metrics", metavar="FILE", type=click.Path(path_type=Path),
              help="Write Prometheus text-file metrics there.")  # fmt: skip
@wait_option
@settings_options
@json_option
def crawl(
    stac: str | None,
    bands: tuple[str, ...],
    require: tuple[str, ...],
    items: str | None,
    watch: str | None,
    full: bool,
    sync: bool,
    retry: bool,
    reread: bool,
    concurrency: int,
    dask: str | None,
    dry_run: bool,
    metrics: Path | None,
    wait: float | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Search a STAC API and index what is new or changed: one small GET per file, no pixels.

    Without a query it runs every watch from where it has got to: the line for cron.
    """
    from catalog.item_file import read_items
    from catalog.report import Report
    from catalog.setup import open_crawl
    from catalog.stac_query import matching
    from catalog.stac_search import search_items
    from catalog.sync import scope

    settings = load_settings(database=database, repository=repository, config=config)
    how: dict[str, Any] = {"concurrency": concurrency, "dry_run": dry_run, "wait": patience(wait)}
    asked = any(value not in (None, ()) for value in where.values())
    if not (asked or stac or items or bands or require) or watch is not None:
        if asked or stac or items or bands or require:
            raise UsageError("--watch has its own query: give it none here")
        how |= {"full": full, "sync": sync, "retry": retry, "reread": reread}
        with _reader(settings, None if dry_run else dask, concurrency) as how["reader"]:
            _run_watches(settings, watch, metrics=metrics, as_json=as_json, **how)
        return
    if sync and items:
        raise UsageError("--sync asks an API what it still has: not with --items")
    names, needed = _bands(bands, require)
    total = Report()
    with (
        _reader(settings, None if dry_run else dask, concurrency) as how["reader"],
        _progress(enabled=not as_json) as show,
        _stopping() as running,
    ):
        for api, query in _questions(settings, where, stac, items):
            access = stac_access(api, settings) if api else {}
            whole = scope(str(api), query, **access) if sync else None
            kept = query.as_dict() | {"stac": api, "items": items, "bands": names}
            kept = {key: value for key, value in (kept | {"require": needed}).items() if value}
            with open_crawl(
                settings,
                bands=names,
                require=needed or (),
                on_progress=show,
                retry=retry or bool(query.ids),
                reread=reread,
                **how,
            ) as work:
                running(work.stop)
                total.add(
                    work.run(
                        matching(read_items(items), query)
                        if items
                        else search_items(str(api), query, **access),
                        query=kept,
                        collection=query.collection,
                        stac=api,
                        scope=whole,
                    )
                )
            if total.interrupted:
                break
    _write_metrics(metrics, settings, {"": total})
    if as_json:
        print_json(_json(total))
    else:
        say(_sentence(total, dry_run))
    _leave(total.interrupted, total.failed)


def _questions(
    settings: Any, where: Mapping[str, Any], stac: str | None, items: str | None
) -> list[tuple[str | None, Any]]:
    """Which API is asked, None for a file, and what. Items that are asked for by their ids alone
    are asked for where the catalog has them from."""
    from catalog.setup import origins

    if items:
        return [(None, _query(where, default=None))]
    if not where["ids"] or stac is not None:
        api = stac or settings.stac
        check_stac(api)
        return [(api, _query(where, default=settings.collection))]
    return [
        (
            place.stac or settings.stac,
            _query({**where, "ids": place.ids}, default=place.collection or settings.collection),
        )
        for place in origins(settings, where["ids"], where["collection"])
    ]


def _run_watches(
    settings: Any,
    name: str | None,
    *,
    metrics: Path | None,
    as_json: bool,
    dry_run: bool,
    **how: Any,
) -> None:
    from catalog import watches
    from catalog.cron import run_all
    from catalog.database import read_transaction
    from catalog.setup import open_catalog

    engine, _ = open_catalog(settings)
    try:
        with read_transaction(engine) as connection:
            chosen = (
                watches.list_watches(connection)
                if name is None
                else [watches.get_watch(connection, name)]
            )
        if not chosen:
            raise UsageError(
                "no query and no watch: give a filter such as --tile 10TFR, or save one with "
                "`cogcat watch add NAME --tile 10TFR`"
            )
        with _progress(enabled=not as_json) as show, _stopping() as running:
            runs = run_all(
                settings, engine, chosen, dry_run=dry_run, on_progress=show, on_start=running, **how
            )
    finally:
        engine.dispose()
    reports = {run.watch: run.report for run in runs if run.report is not None}
    broken = tuple(run.watch for run in runs if run.report is None)
    _write_metrics(metrics, settings, reports, broken)
    if as_json:
        documents = {
            run.watch: _json(run.report) if run.report else {"error": str(run.error)}
            for run in runs
        }
        sums = {
            key: sum(getattr(report, key) for report in reports.values())
            for key in (*COUNTS, *BESIDE)
        }
        print_json({**sums, "watches": documents})
    for run in runs:
        if run.report is None:
            tell(f"watch {run.watch}: {run.error}", logging.ERROR, watch=run.watch)
        elif not as_json:
            say(f"{run.watch}: {_sentence(run.report, dry_run)}")
    interrupted = any(report.interrupted for report in reports.values())
    if not interrupted and any(run.error for run in runs):
        sys.exit(USAGE)
    _leave(interrupted, sum(report.failed for report in reports.values()))


@click.group(cls=Group)
def watch() -> None:
    """Saved crawl queries, which `cogcat crawl` runs one after another."""


@watch.command("add")
@click.argument("name")
@_query_options
@settings_options
@json_option
def watch_add(
    name: str,
    stac: str | None,
    bands: tuple[str, ...],
    require: tuple[str, ...],
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Save a query as NAME; one of that name is replaced, and asked from its beginning unless the
    query is the same."""
    from catalog.watches import save_watch

    settings = load_settings(database=database, repository=repository, config=config)
    query = _query(where, default=settings.collection)
    api = stac or settings.stac
    check_stac(api)
    kept: dict[str, Any] = query.as_dict() | {"stac": api}
    for key, names in zip(("bands", "require"), _bands(bands, require), strict=True):
        if names:
            kept[key] = list(names)
    with _writing(database, repository, config) as connection:
        anew = save_watch(connection, name, kept)
    if as_json:
        print_json({"name": name, "query": kept, "starts_anew": anew})
    elif anew:
        say(f"watch {name} saved; `cogcat crawl` runs it")
    else:
        say(f"watch {name} asks that already; it goes on where it is")


@watch.command("list")
@settings_options
@json_option
def watch_list(
    database: str | None, repository: str | None, config: str | None, as_json: bool
) -> None:
    """Every watch: its query, how far it has got, when it last ended well."""
    from catalog.watches import list_watches

    with _writing(database, repository, config) as connection:
        found = list_watches(connection)
    if as_json:
        print_json([plain(saved) for saved in found])
    elif found:
        print_table(
            ("watch", "watermark", "last done", "query"),
            [
                (
                    saved.name,
                    plain(saved.watermark),
                    plain(saved.last_finished_at),
                    " ".join(f"{key}={value}" for key, value in saved.query.items()),
                )
                for saved in found
            ],
        )


@watch.command("remove")
@click.argument("name")
@settings_options
@json_option
def watch_remove(
    name: str, database: str | None, repository: str | None, config: str | None, as_json: bool
) -> None:
    """Forget the watch NAME; what it indexed stays."""
    from catalog.watches import remove_watch

    with _writing(database, repository, config) as connection:
        remove_watch(connection, name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        say(f"watch {name} removed")


def _query(where: Mapping[str, Any], *, default: str | None) -> Any:
    from catalog.stac_query import StacQuery

    return StacQuery.parse(
        collection=where["collection"] or default,
        tiles=where["tile"],
        bbox=where["bbox"],
        intersects=geometry(where["intersects"]),
        datetime=where["datetime"],
        max_cloud_cover=where["max_cloud_cover"],
        ids=where["ids"],
        limit=where["limit"],
    )


def _bands(
    names: Sequence[str], required: Sequence[str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    bands, needed = band_names(names), band_names(required)
    if bands and (more := [band for band in needed if band not in bands]):
        raise UsageError(f"--require {','.join(more)}: not among --bands {','.join(bands)}")
    return bands or None, needed or None


@contextmanager
def _reader(settings: Any, dask: str | None, concurrency: int) -> Iterator[Any]:
    """What reads headers on a cluster; None where this process does."""
    if dask is None:
        yield None
        return
    from catalog.cluster import connect

    with connect(dask, settings.sources, concurrency=concurrency) as reader:
        yield reader


@contextmanager
def _writing(database: str | None, repository: str | None, config: str | None) -> Iterator[Any]:
    from catalog.database import check_revision, open_engine, write_transaction

    settings = load_settings(database=database, repository=repository, config=config)
    engine = open_engine(settings.database)
    try:
        check_revision(engine)
        with write_transaction(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _json(report: Any) -> dict[str, Any]:
    return {
        **asdict(report.counts()),
        **{key: getattr(report, key) for key in BESIDE},
        "interrupted": report.interrupted,
        "failures": [asdict(failure) for failure in report.failures],
    }


def _sentence(report: Any, dry_run: bool) -> str:
    number = report.new + report.changed if dry_run else report.indexed
    reread = "though as indexed, to be read again" if dry_run else "read again, though as indexed"
    also = [
        f"{count} {what}"
        for count, what in (
            (report.recovered, "of a crawl that died recorded"),
            (report.retried, "of earlier crawls taken up"),
            (report.reread, reread),
            (report.incomplete, "indexed without a band that cannot be read"),
            (report.updated, "of the changed have the same files, recorded only"),
            (report.parked, "failed before and are not due yet"),
            (report.duplicates, "are an acquisition that is there twice"),
            (report.withdrawn, "would be withdrawn" if dry_run else "withdrawn"),
        )
        if count
    ]
    if not (report.found or also):
        return "no scene found: nothing answers the query"
    if not (report.new or report.changed or report.failed or also):
        return f"{report.found} scenes found, nothing to do: all are indexed as they are"
    return "; ".join(
        (
            f"{report.found} found: {report.new} new, {report.changed} changed, "
            f"{report.unchanged} unchanged",
            f"{'would index' if dry_run else 'indexed'} {number}, {report.failed} failed",
            *also,
            f"{report.commits} commits, {report.requests} requests, {report.seconds:.1f} s",
        )
    )


def _leave(interrupted: bool, failed: int) -> None:
    if interrupted:
        tell("interrupted; what is recorded stays, run it again to go on", logging.WARNING)
        sys.exit(INTERRUPTED)
    if failed:
        sys.exit(FAILED)


def _write_metrics(
    path: Path | None, settings: Any, reports: Mapping[str, Any], failed: tuple[str, ...] = ()
) -> None:
    if path is None:
        return
    from catalog import metrics
    from catalog.lookup import Catalog

    with Catalog(settings) as cat:
        summary = cat.status()
    metrics.write(path, metrics.render(reports, summary, failed=failed, now=time.time()))


@contextmanager
def _progress(enabled: bool) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal; elsewhere the log lines of each commit say enough."""
    if logs.is_json():
        yield _progress_log()
        return
    if not (enabled and err.is_terminal):
        yield lambda report: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} scenes/s, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("crawling", total=None, rate=0.0, failed=0)

        def show(report: Any) -> None:
            done = report.unchanged + report.indexed + report.failed
            elapsed = progress.tasks[task].elapsed or 0.0
            rate = report.indexed / elapsed if elapsed else 0.0
            progress.update(
                task, completed=done, total=report.found, rate=rate, failed=report.failed
            )

        yield show


def _progress_log() -> Callable[[Any], None]:
    """Progress as log lines, one in ``PROGRESS`` seconds."""
    last = time.monotonic()

    def show(report: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS:
            last = time.monotonic()
            counts = {key: getattr(report, key) for key in COUNTS[:9]}
            log.info("crawling", extra=counts)

    return show


@contextmanager
def _stopping() -> Iterator[Callable[[Callable[[], None]], None]]:
    """SIGINT and SIGTERM end the batch in hand, not the process; a second SIGINT does.

    Gives a function that takes what stops the crawl that is running.
    """
    stops: list[Callable[[], None]] = []
    stopped = False

    def running(stop: Callable[[], None]) -> None:
        stops[:] = [stop]
        if stopped:
            stop()

    def handler(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        tell("stopping after the batch in hand …")
        for stop in stops:
            stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {name: signal.signal(name, handler) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield running
    finally:
        for name, old in before.items():
            signal.signal(name, old)
