"""The command ``cogcat``: thin commands over the library, and the only place that prints.

Data on stdout, progress and logs on stderr. Exit codes: 0 done; 1 done, but some scenes
failed (recorded, will be retried); 2 usage or configuration; 3 another crawl holds the
repository; 130 interrupted, state saved.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import catalog
from catalog.bands import band_names
from catalog.errors import BusyError, CatalogError, UsageError
from catalog.json_values import plain
from catalog.settings import DEFAULT_COLLECTION, EARTH_SEARCH, load_settings

if TYPE_CHECKING:
    from catalog.recorded import SceneRecord

FAILED, USAGE, BUSY, INTERRUPTED = 1, 2, 3, 130

err = Console(stderr=True, soft_wrap=True)
log = logging.getLogger("catalog")


class _Command(click.Command):
    """A command whose library errors are one line on stderr and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CatalogError as error:
            if context.find_root().params.get("verbose"):
                log.exception("%s", type(error).__name__)
            click.echo(f"cogcat: {error}", err=True)
            sys.exit(BUSY if isinstance(error, BusyError) else USAGE)
        except KeyboardInterrupt:
            click.echo("cogcat: interrupted", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of our stdout has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(catalog.__version__, prog_name="cogcat")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks and debug logs.")
def main(verbose: bool) -> None:
    """Sentinel-2 COG archives as one versioned Zarr cube, with a SQL catalog of what was done."""
    level = logging.DEBUG if verbose else logging.INFO
    handler: logging.Handler
    if err.is_terminal:
        handler = RichHandler(console=err, show_path=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--config", metavar="FILE", help="cogcat.toml to read."),
        click.option(
            "--repository", metavar="PATH|s3://…", help="Icechunk repository [./cogcat-repo]."
        ),
        click.option("--database", metavar="URL", help="SQL catalog [sqlite:///cogcat.db]."),
    ):
        command = option(command)
    return command


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def _where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The filters that crawl and search share."""
    for option in (
        click.option("--limit", type=int, metavar="N", help="At most this many scenes."),
        click.option("--ids", multiple=True, metavar="ID", help="Item ids; may be repeated."),
        click.option(
            "--max-cloud-cover", type=float, metavar="PERCENT", help="At most this cloudy."
        ),
        click.option("--datetime", metavar="RANGE", help="2023, 2023-12, 2023-12-01/.., …, UTC."),
        click.option(
            "--intersects", metavar="FILE", help="GeoJSON file with a geometry; - for stdin."
        ),
        click.option("--bbox", metavar="W,S,E,N", help="Degrees; W > E crosses the antimeridian."),
        click.option("--tile", multiple=True, metavar="TILE", help="MGRS tile; may be repeated."),
        click.option("--collection", metavar="ID", help="STAC collection."),
    ):
        command = option(command)
    return command


@main.command()
@_settings_options
@_json_option
def init(database: str | None, repository: str | None, config: str | None, as_json: bool) -> None:
    """Create or migrate the database, and create or open the repository. Safe to repeat.

    Each source of cogcat.toml, and Earth Search's two, becomes a virtual chunk container.
    """
    from catalog.setup import set_up

    settings = load_settings(database=database, repository=repository, config=config)
    done = set_up(settings)
    if as_json:
        _print_json(asdict(done))
    else:
        click.echo(f"database   {done.database} at revision {done.revision}")
        click.echo(f"repository {done.repository}, containers {', '.join(done.containers)}")


@main.command()
@click.option("--stac", metavar="URL", help="STAC API to search [Earth Search].")
@_where_options
@click.option("--bands", metavar="LIST", help="Such as red,nir,scl [all].")
@click.option("--items", metavar="FILE", help="Items from a JSON or NDJSON file, not an API.")
@click.option("--concurrency", type=click.IntRange(1, 512), default=32, show_default=True,
              help="Header requests in flight.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done; read no file.")
@_settings_options
@_json_option
def crawl(
    stac: str | None,
    collection: str | None,
    tile: tuple[str, ...],
    bbox: str | None,
    intersects: str | None,
    datetime: str | None,
    max_cloud_cover: float | None,
    ids: tuple[str, ...],
    limit: int | None,
    bands: str | None,
    items: str | None,
    concurrency: int,
    dry_run: bool,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Search a STAC API and index what is new or changed: one small GET per file, no pixels."""
    from catalog.item_file import read_items
    from catalog.setup import open_crawl
    from catalog.stac_query import StacQuery, matching
    from catalog.stac_search import search_items

    settings = load_settings(database=database, repository=repository, config=config)
    api = None if items else (stac or EARTH_SEARCH)
    query = StacQuery.parse(
        collection=collection or (None if items else DEFAULT_COLLECTION),
        tiles=tile,
        bbox=bbox,
        intersects=_geometry(intersects),
        datetime=datetime,
        max_cloud_cover=max_cloud_cover,
        ids=ids,
        limit=limit,
    )
    names = band_names(part for part in bands.split(",") if part) if bands else None
    with (
        _progress(enabled=not as_json) as show,
        open_crawl(
            settings, bands=names, concurrency=concurrency, dry_run=dry_run, on_progress=show
        ) as work,
    ):
        documents = matching(read_items(items), query) if items else search_items(str(api), query)
        asked = query.as_dict() | {"stac": api, "items": items, "bands": names}
        asked = {key: value for key, value in asked.items() if value is not None}
        with _stopping(work.stop):
            report = work.run(documents, query=asked, collection=query.collection, stac=api)
    counts = asdict(report.counts())
    if as_json:
        _print_json({**counts, "failures": [asdict(failure) for failure in report.failures]})
    else:
        would = "would index" if dry_run else "indexed"
        number = report.new + report.changed if dry_run else report.indexed
        if not (number or report.failed):
            click.echo(f"{report.found} scenes found, nothing to do: all are indexed as they are")
        else:
            click.echo(
                f"{report.found} found: {report.new} new, {report.changed} changed, "
                f"{report.unchanged} unchanged; {would} {number}, {report.failed} failed; "
                f"{report.commits} commits, {report.requests} requests, {report.seconds:.1f} s"
            )
    if report.interrupted:
        click.echo("cogcat: interrupted; what is recorded stays, run it again to go on", err=True)
        sys.exit(INTERRUPTED)
    if report.failed:
        sys.exit(FAILED)


@main.command()
@_where_options
@click.option("--platform", metavar="NAME", help="sentinel-2a, S2B, …")
@click.option("--status", metavar="STATE", default="indexed", show_default=True,
              help="indexed, pending, failed, withdrawn or any.")  # fmt: skip
@click.option("--sort", metavar="KEYS", help="Such as -datetime,cloud_cover [-datetime].")
@click.option("--format", "style", type=click.Choice(["table", "json", "ids"]), default="table",
              show_default=True, help="Of the answer.")  # fmt: skip
@_settings_options
@_json_option
def search(
    collection: str | None,
    tile: tuple[str, ...],
    bbox: str | None,
    intersects: str | None,
    datetime: str | None,
    max_cloud_cover: float | None,
    ids: tuple[str, ...],
    limit: int | None,
    platform: str | None,
    status: str,
    sort: str | None,
    style: str,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Scenes of the catalog, by place, time and cloud."""
    with _connect(database, repository, config) as cat:
        found = cat.search(
            collection=collection,
            tile=tile or None,
            bbox=bbox,
            intersects=_geometry(intersects),
            datetime=datetime,
            max_cloud_cover=max_cloud_cover,
            ids=ids or None,
            limit=limit,
            platform=platform,
            status=status,
            sort=sort,
        ).records()
    if as_json or style == "json":
        _print_json([plain(record) for record in found])
    elif style == "ids":
        for record in found:
            click.echo(record.id)
    else:
        _print_scenes(found)


@main.command()
@click.argument("scene")
@click.option("--collection", metavar="ID", help="Where two collections have the id.")
@_settings_options
@_json_option
def show(
    scene: str,
    collection: str | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """All that is recorded of SCENE, its files and checksums included."""
    with _connect(database, repository, config) as cat:
        found = cat.scene(scene, collection=collection)
        assets = found.assets
    document = {**plain(found.record), "assets": plain(assets)}
    if as_json:
        _print_json(document)
        return
    for key, value in document.items():
        if key == "assets" or value in (None, []):
            continue
        click.echo(f"{key:<14} {value if isinstance(value, str) else json.dumps(value)}")
    click.echo()
    _print_table(
        ("band", "bytes", "etag", "header sha256", "href"),
        [
            (band, asset.size, asset.etag, asset.header_sha256[:12], asset.href)
            for band, asset in assets.items()
        ],
    )


@main.command()
@_settings_options
@_json_option
def status(database: str | None, repository: str | None, config: str | None, as_json: bool) -> None:
    """What the catalog holds: scenes by state, tile and collection, last crawls, failures."""
    with _connect(database, repository, config) as cat:
        summary = cat.status()
    if as_json:
        _print_json(summary)
        return
    click.echo(f"database   {summary['database']}")
    click.echo(f"repository {summary['repository']}")
    states = ", ".join(f"{n} {state}" for state, n in summary["scenes"].items()) or "none"
    click.echo(f"scenes     {states}")
    if summary["branches"]:
        click.echo()
        _print_table(
            ("branch", "scenes", "first", "last", "head"),
            [
                (row["branch"], row["scenes"], row["first"][:10], row["last"][:10], row["head"])
                for row in summary["branches"]
                if row["scenes"]
            ],
        )
    if summary["crawls"]:
        click.echo()
        _print_table(
            ("crawl", "started", "outcome", "found", "indexed", "failed", "seconds"),
            [
                (
                    row["id"],
                    row["started_at"][:19],
                    row["outcome"] or "running or killed",
                    *(row["counts"][key] for key in ("found", "indexed", "failed")),
                    f"{row['counts']['seconds']:.1f}",
                )
                for row in summary["crawls"]
            ],
        )
    if summary["failures"]:
        click.echo()
    for row in summary["failures"]:
        click.echo(f"failed     {row['reason']} (tried {row['attempts']} times)")


@main.command()
@click.argument("scene")
@click.option("-o", "--output", required=True, metavar="FILE.png", type=click.Path(path_type=Path),
              help="Picture to write.")  # fmt: skip
@click.option("--collection", metavar="ID", help="Where two collections have the id.")
@_settings_options
def preview(
    scene: str,
    output: Path,
    collection: str | None,
    database: str | None,
    repository: str | None,
    config: str | None,
) -> None:
    """A quick look at SCENE in true colour, as a PNG."""
    from catalog.preview import write_preview

    with _connect(database, repository, config) as cat:
        write_preview(cat.scene(scene, collection=collection), output)
    click.echo(str(output))


@main.command()
@click.argument("directory", default="cogcat-demo", type=click.Path(path_type=Path))
def demo(directory: Path) -> None:
    """Make a small synthetic archive in DIRECTORY, serve it on loopback, crawl it, read it."""
    try:
        from catalog.demo.run import run_demo
    except ImportError as error:
        raise UsageError(
            f"the demo makes its own COGs and plots: install cogcat[demo] (no module {error.name})"
        ) from error
    run_demo(directory, say=click.echo)


def _connect(database: str | None, repository: str | None, config: str | None) -> catalog.Catalog:
    return catalog.connect(database, repository=repository, config=config)


def _geometry(path: str | None) -> Any:
    if path is None:
        return None
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--intersects {path}: {error}") from error


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=None if len(str(value)) > 10**6 else 1))


def _print_scenes(found: Sequence[SceneRecord]) -> None:
    if found:
        _print_table(
            ("scene", "tile", "datetime", "cloud %", "baseline", "state", "snapshot"),
            [
                (
                    scene.id,
                    scene.tile,
                    f"{scene.datetime:%Y-%m-%d %H:%M:%S}",
                    None if scene.cloud_cover is None else f"{scene.cloud_cover:.1f}",
                    scene.baseline,
                    scene.status,
                    scene.snapshot_id,
                )
                for scene in found
            ],
        )
    click.echo(f"{len(found)} scenes", err=True)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as their values, whatever the terminal: lines stay lines for grep."""
    cells = [header, *(["" if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


@contextmanager
def _progress(enabled: bool) -> Iterator[Callable[[Any], None]]:
    """A bar on a terminal; elsewhere the log lines of each commit say enough."""
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


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the batch in hand, not the process; a second SIGINT does."""

    def handler(number: int, frame: Any) -> None:
        err.print("stopping after the batch in hand …")
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {name: signal.signal(name, handler) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, old in before.items():
            signal.signal(name, old)
