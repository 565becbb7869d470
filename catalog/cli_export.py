"""Answers as STAC items: on stdout, or as files that appear whole."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

import catalog
from catalog.cli_options import (
    Command,
    json_line,
    json_option,
    print_json,
    question,
    question_options,
    settings_options,
    tell,
)
from catalog.errors import UsageError

if TYPE_CHECKING:
    from catalog.search_result import Scenes

STYLES = ("geojson", "geoparquet")


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@question_options
@settings_options
@json_option
def export(
    file: Path,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write scenes to FILE as stac-geoparquet: STAC items, one a row.

    Each has its source files as assets, and the asset icechunk that says where in the repository
    the scene is. FILE appears whole or not at all; what was there is replaced.
    """
    with catalog.connect(database, repository=repository, config=config) as cat:
        written = cat.search(**question(options)).to_geoparquet(file)
    size = file.stat().st_size
    if as_json:
        print_json({"file": str(file), "items": written, "bytes": size})
    else:
        tell(f"{written} items, {size / 1e6:.1f} MB in {file}")


def write(scenes: Scenes, style: str, output: Path | None) -> None:
    """Write scenes as a GeoJSON FeatureCollection or as stac-geoparquet.

    Args:
        style: one of ``STYLES``.
        output: where to; None for stdout.

    Raises:
        UsageError: Parquet to a terminal.
    """
    if style == "geojson":
        if output is None:
            _write_geojson(scenes, None)
        else:
            from catalog.item_table import beside

            with beside(output) as partial, partial.open("w", encoding="utf-8") as stream:
                _write_geojson(scenes, stream)
    elif output is not None:
        scenes.to_geoparquet(output)
    else:
        if sys.stdout.isatty():
            raise UsageError("geoparquet is not for a terminal: give -o FILE, or redirect it")
        # A Parquet file ends with what its beginning is: it is made whole, then sent.
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "items.parquet"
            scenes.to_geoparquet(file)
            with file.open("rb") as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer)


def _write_geojson(scenes: Scenes, stream: IO[str] | None) -> None:
    """One item a line, so that any number takes little memory here and with whoever reads it."""
    click.echo('{"type": "FeatureCollection", "features": [', stream, nl=False)
    for number, item in enumerate(scenes.items_as_dicts()):
        line = json_line(item)
        click.echo(f",\n{line}" if number else f"\n{line}", stream, nl=False)
    click.echo("\n]}", stream)
