"""What the commands share: options, errors as one line, ways of printing."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from catalog.errors import BusyError, CatalogError, UsageError

FAILED, USAGE, BUSY, INTERRUPTED = 1, 2, 3, 130

err = Console(stderr=True, soft_wrap=True)
log = logging.getLogger("catalog")


class Command(click.Command):
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


class Group(click.Group):
    command_class = Command


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--config", metavar="FILE", help="cogcat.toml to read."),
        click.option(
            "--repository", metavar="PATH|s3://…", help="Icechunk repository [./cogcat-repo]."
        ),
        click.option("--database", metavar="URL", help="SQL catalog [sqlite:///cogcat.db]."),
    ):
        command = option(command)
    return command


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def where_options(command: Callable[..., Any]) -> Callable[..., Any]:
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


def geometry(path: str | None) -> Any:
    if path is None:
        return None
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--intersects {path}: {error}") from error


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=None if len(str(value)) > 10**6 else 1))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as their values, whatever the terminal: lines stay lines for grep."""
    cells = [header, *(["" if value is None else str(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())
