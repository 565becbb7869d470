"""The command ``cogcat``: thin commands over the library, and the only place that prints.

Data on stdout, progress and logs on stderr. Exit codes: 0 done; 1 done, but some scenes
failed (recorded, will be retried); 2 usage or configuration; 3 another crawl holds the
repository; 70 a fault of cogcat's own; 130 interrupted, state saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import catalog
from catalog import cli_crawl, cli_export, cli_status, cli_upkeep
from catalog.cli_options import (
    Group,
    json_line,
    json_option,
    log_options,
    print_json,
    print_table,
    question,
    question_options,
    say,
    say_json,
    set_up_logs,
    settings_options,
    tell,
)
from catalog.errors import UsageError
from catalog.json_values import plain
from catalog.settings import load_settings

if TYPE_CHECKING:
    from catalog.recorded import SceneRecord


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(catalog.__version__, prog_name="cogcat")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks and debug logs.")
@log_options
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Sentinel-2 COG archives as one versioned Zarr cube, with a SQL catalog of what was done."""
    set_up_logs(context)


@main.command()
@settings_options
@json_option
def init(database: str | None, repository: str | None, config: str | None, as_json: bool) -> None:
    """Create or migrate the database, and create or open the repository. Safe to repeat.

    Each source of cogcat.toml, and each built-in one, becomes a virtual chunk container.
    """
    from catalog.setup import set_up

    settings = load_settings(database=database, repository=repository, config=config)
    done = set_up(settings)
    if as_json:
        print_json(asdict(done))
    else:
        say(f"database   {done.database} at revision {done.revision}")
        say(f"repository {done.repository}, containers {', '.join(done.containers)}")


@main.command()
@question_options
@click.option("--format", "style", default="table", show_default=True, help="Of the answer.",
              type=click.Choice(["table", "json", "geojson", "ids", "geoparquet"]))  # fmt: skip
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path),
              help="Write geojson or geoparquet there instead of to stdout.")  # fmt: skip
@settings_options
@json_option
def search(
    style: str,
    output: Path | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Scenes of the catalog, by place, time and cloud.

    geojson and geoparquet are STAC items, each with an asset that says where in the repository
    the scene is.
    """
    if as_json and style not in ("table", "json"):
        raise UsageError(f"--json and --format {style} are two answers: give one")
    style = "json" if as_json else style
    asked = question(options)
    if output is not None and style not in cli_export.STYLES:
        raise UsageError(f"-o is for --format {' or '.join(cli_export.STYLES)}, not {style}")
    with _connect(database, repository, config) as cat:
        scenes = cat.search(**asked)
        if style in cli_export.STYLES:
            cli_export.write(scenes, style, output)
            return
        found = scenes.records()
    if style == "json":
        print_json([plain(record) for record in found])
    elif style == "ids":
        for record in found:
            say(record.id)
    else:
        _print_scenes(found)


@main.command()
@click.option("--since", metavar="TOKEN|TIME", help="Where an earlier feed ended, or a time, UTC.")
@click.option("--limit", type=int, metavar="N", help="At most this many changes.")
@settings_options
@json_option
def changes(
    since: str | None,
    limit: int | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """What was indexed, changed or withdrawn, in the order in which it was recorded.

    With --json one object a line, each with the token to go on behind it. Where the feed
    goes on is said on stderr.
    """
    with _connect(database, repository, config) as cat:
        feed = cat.changes(since, limit)
    if as_json:
        for change in feed:
            say_json(plain(change))
    elif feed:
        print_table(
            ("recorded", "what", "scene", "snapshot"),
            [
                (f"{change.recorded_at:%Y-%m-%d %H:%M:%S}", change.kind, change.id,
                 change.snapshot_id)
                for change in feed
            ],
        )  # fmt: skip
    tell(f"go on with --since {feed.token}", token=feed.token)


@main.command()
@click.argument("scene")
@click.option("--collection", metavar="ID", help="Where two collections have the id.")
@settings_options
@json_option
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
        print_json(document)
        return
    for key, value in document.items():
        if key == "assets" or value in (None, []):
            continue
        say(f"{key:<14} {value if isinstance(value, str) else json_line(value)}")
    say()
    print_table(
        ("band", "bytes", "etag", "header sha256", "href"),
        [
            (band, asset.size, asset.etag, asset.header_sha256[:12], asset.href)
            for band, asset in assets.items()
        ],
    )


@main.command()
@click.argument("scene")
@click.option("-o", "--output", required=True, metavar="FILE.png", type=click.Path(path_type=Path),
              help="Picture to write.")  # fmt: skip
@click.option("--collection", metavar="ID", help="Where two collections have the id.")
@settings_options
@json_option
def preview(
    scene: str,
    output: Path,
    collection: str | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """A quick look at SCENE in true colour, as a PNG."""
    from catalog.preview import write_preview

    with _connect(database, repository, config) as cat:
        found = cat.scene(scene, collection=collection)
        write_preview(found, output)
    if as_json:
        print_json({"scene": found.id, "snapshot_id": found.snapshot_id, "file": str(output)})
    else:
        say(str(output))


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
    run_demo(directory, say=say)


def _connect(database: str | None, repository: str | None, config: str | None) -> catalog.Catalog:
    return catalog.connect(database, repository=repository, config=config)


def _print_scenes(found: Sequence[SceneRecord]) -> None:
    if found:
        print_table(
            ("scene", "tile", "datetime", "cloud %", "baseline", "state", "snapshot"),
            [
                (
                    scene.id,
                    scene.tile,
                    f"{scene.datetime:%Y-%m-%d %H:%M:%S}",
                    None if scene.cloud_cover is None else f"{scene.cloud_cover:.1f}",
                    scene.baseline,
                    " without ".join(filter(None, (scene.status, ", ".join(scene.missing)))),
                    scene.snapshot_id,
                )
                for scene in found
            ],
        )
    tell(f"{len(found)} scenes")


for _command in (
    cli_crawl.crawl,
    cli_crawl.watch,
    cli_upkeep.repair,
    cli_upkeep.rebuild,
    cli_upkeep.maintain,
):
    main.add_command(_command)
main.add_command(cli_status.status)
main.add_command(cli_export.export)
