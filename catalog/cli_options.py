"""What the commands share: options, errors as one line, ways of printing."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.logging import RichHandler

from catalog import logs
from catalog.bounds import LONGEST_TEXT, check_values
from catalog.errors import BusyError, CatalogError, UsageError, first_line, redacted
from catalog.logs import without_secrets_in
from catalog.printable import json_escaped, printable, printable_lines

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

FAILED, USAGE, BUSY, INTERRUPTED = 1, 2, 3, 130
UNEXPECTED = 70
"""An error that is none of ours, and so a bug: ``EX_SOFTWARE`` of sysexits.h."""

_WRITTEN_OUT = re.compile(r"\s*(\{|(SRID=\d+;)?[A-Za-z]+\s*Z?\s*\()")
"""How GeoJSON and WKT begin, and no file's name does."""

err = Console(stderr=True, soft_wrap=True)
log = logging.getLogger("catalog")


class Command(click.Command):
    """A command whose errors are one line on stderr and an exit code. An option that can
    mean only one value is refused when it is given twice: neither is left out in silence."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(context).parse_args(list(args))
        for option, times in Counter(order).items():
            if times > 1 and isinstance(option, click.Option):
                if option.multiple or option.is_flag or option.count:
                    continue
                raise click.UsageError(
                    f"{option.opts[0]} is given {times} times, and can be given once", context
                )
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        with _errors_as_lines():
            return super().invoke(context)


class Group(click.Group):
    command_class = Command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _shown_as_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        try:
            with _errors_as_lines(), _shown_as_usage():
                return super().invoke(context)
        except click.ClickException as error:
            if not logs.is_json():
                raise
            log.error("%s", error.format_message())
            sys.exit(error.exit_code)


@contextmanager
def _shown_as_usage() -> Iterator[None]:
    """What click says of a wrong command line repeats it: fit for a terminal, too."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable_lines(redacted(error.message))  # type: ignore[misc]
        raise


@contextmanager
def _errors_as_lines() -> Iterator[None]:
    """No error of ours, and none that is a bug, shows a traceback unless it is asked for."""
    try:
        yield
    except CatalogError as error:
        if log.isEnabledFor(logging.DEBUG):
            log.exception("%s", type(error).__name__)
        tell(str(error), logging.ERROR)
        sys.exit(BUSY if isinstance(error, BusyError) else USAGE)
    except KeyboardInterrupt:
        tell("interrupted", logging.ERROR)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our stdout has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (a native library's panic is no Exception)
        _tell_bug(error)
        sys.exit(UNEXPECTED)


def _tell_bug(error: BaseException) -> None:
    what = f"unexpected {type(error).__name__}: {first_line(error)}"
    if logs.is_json():
        log.critical("%s", what, exc_info=error)
        return
    if log.isEnabledFor(logging.DEBUG):
        log.critical("%s", what, exc_info=error)
    tell(
        f"{what}: this is a fault of cogcat's: please report it with the traceback that "
        "`--log-level debug` shows; what is recorded stays",
        logging.ERROR,
    )


def say(text: str = "", *, stderr: bool = False) -> None:
    """The one way to print a line: what is not printable in it is escaped, secrets left out, and
    a command that it names is the one to type here."""
    click.echo(printable(redacted(with_settings(text)), None), err=stderr)


_HINT = re.compile(r"`cogcat (?!demo\b|-)([^`]*)`")


def with_settings(text: str) -> str:
    """``text`` whose hints, such as ```cogcat init```, name the settings of this command line, too:
    without them they would be commands for another catalog."""
    context = click.get_current_context(silent=True)
    if context is None or "`cogcat " not in text:
        return text

    def completed(found: re.Match[str]) -> str:
        words = found[1]
        for option in ("config", "repository", "database"):
            given = context.params.get(option)
            if given and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
                named = f"--{option} {shlex.quote(printable(str(given)))}"
                words += "" if f"--{option}" in words else f" {named}"
        return f"`cogcat {words}`"

    return _HINT.sub(completed, text)


def tell(message: str, level: int = logging.INFO, **fields: Any) -> None:
    """A line on stderr that is no log line to a person, and one to a machine."""
    if logs.is_json():
        log.log(level, "%s", with_settings(message), extra=fields)
    else:
        say(f"cogcat: {message}" if level > logging.INFO else message, stderr=True)


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Of ``cogcat`` itself and of each command: the one nearer to the command's end wins."""
    for option in (
        click.option("--log-level", type=click.Choice(logs.LEVELS), expose_value=False,
                     is_eager=True, callback=_log_option, envvar="COGCAT_LOG_LEVEL",
                     help="Of the logs on stderr [info]."),
        click.option("--log-format", type=click.Choice(logs.FORMATS), expose_value=False,
                     is_eager=True, callback=_log_option, envvar="COGCAT_LOG_FORMAT",
                     help="json: one object a line [text]."),
    ):  # fmt: skip
        command = option(command)
    return command


def _log_option(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        wanted = context.meta.setdefault("catalog.logs", {})
        wanted[str(option.name)] = value
        set_up_logs(context)


def set_up_logs(context: click.Context) -> None:
    """As the options up to here say."""
    wanted = context.meta.get("catalog.logs", {})
    level = wanted.get("log_level") or (
        "debug" if context.find_root().params.get("verbose") else "info"
    )
    terminal = RichHandler(console=err, show_path=False) if err.is_terminal else None
    undo = logs.configure(wanted.get("log_format", "text"), level, terminal=terminal)
    context.find_root().call_on_close(undo)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--config", metavar="FILE", help="cogcat.toml to read."),
        click.option(
            "--repository", metavar="PATH|s3://…", help="Icechunk repository [./cogcat-repo]."
        ),
        click.option("--database", metavar="URL", help="SQL catalog [sqlite:///cogcat.db]."),
    ):
        command = option(command)
    return log_options(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The filters that crawl and search share."""
    for option in (
        click.option("--limit", type=int, metavar="N", help="At most this many scenes."),
        click.option(
            "--ids",
            multiple=True,
            metavar="ID",
            callback=_several,
            help="Item ids; commas between them, or repeated.",
        ),
        click.option(
            "--max-cloud-cover", type=float, metavar="PERCENT", help="At most this cloudy."
        ),
        click.option("--datetime", metavar="RANGE", help="2023, 2023-12, 2023-12-01/.., …, UTC."),
        click.option(
            "--intersects",
            metavar="FILE",
            help="GeoJSON or WKT of a geometry: a file, - for stdin, or the text itself.",
        ),
        click.option("--bbox", metavar="W,S,E,N", help="Degrees; W > E crosses the antimeridian."),
        click.option(
            "--tile",
            multiple=True,
            metavar="TILE",
            callback=_several,
            help="MGRS tiles; commas between them, or repeated.",
        ),
        click.option("--collection", metavar="ID", help="STAC collection."),
    ):
        command = option(command)
    return command


def _several(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    found: list[str] = []
    for word in value:
        parts = [part for part in word.split(",") if part.strip()]
        if not parts:
            # An empty variable of a shell is no question for everything.
            raise click.BadParameter("it is empty", context, option)
        found += parts
    try:
        check_values([len(found)])
    except UsageError as error:
        raise click.BadParameter(str(error), context, option) from error
    return tuple(found)


def several_option(name: str, help: str, *, metavar: str = "LIST") -> Callable[..., Any]:
    """An option of names with commas between them that may be repeated: all of them together."""
    return click.option(name, multiple=True, metavar=metavar, callback=_several, help=help)


def wait_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--wait",
        type=float,
        metavar="SECONDS",
        is_flag=False,
        flag_value=float("inf"),
        help="Wait for a crawl that holds the repository; without SECONDS, as long as it takes.",
    )(command)


def patience(wait: float | None) -> float | None:
    """Seconds to wait; None for as long as it takes."""
    return 0.0 if wait is None else None if wait == float("inf") else wait


def question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All that a question to the catalog is made of; for ``question``."""
    for option in (
        click.option("--sort", metavar="KEYS", help="Such as -datetime,cloud_cover [-datetime]."),
        click.option("--as-of", metavar="TIME|SNAPSHOT", help="As the catalog knew scenes then."),
        click.option(
            "--per-tile",
            type=click.Choice(["latest", "least_cloudy"]),
            help="One scene of each tile.",
        ),
        click.option("--filter", metavar="CQL2", help="Condition, CQL2 text or JSON."),
        click.option(
            "--updated-since",
            metavar="TIME",
            help="Items that the source has changed since, by its own 'updated'.",
        ),
        click.option(
            "--cloud-cover",
            metavar="LOW,HIGH",
            help="Range in percent; an end may be absent.",
        ),
        click.option("--baseline", metavar="NN.NN", help="Processing baseline, such as 05.10."),
        click.option(
            "--newest",
            is_flag=True,
            help="Of scenes that are the same acquisition, the one processed last.",
        ),
        click.option(
            "--status",
            metavar="STATE",
            default="indexed",
            show_default=True,
            help="indexed, pending, failed, withdrawn or any.",
        ),
        click.option("--platform", metavar="NAME", help="sentinel-2a, S2B, …"),
    ):
        command = option(command)
    return where_options(command)


def question(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``question_options`` as ``Catalog.search`` takes them."""
    found = {name: value if value != () else None for name, value in options.items()}
    cloud_cover = found["cloud_cover"]
    return found | {
        "intersects": geometry(found["intersects"]),
        "cloud_cover": None if cloud_cover is None else _range(cloud_cover),
    }


def _range(text: str) -> tuple[float | None, ...]:
    try:
        return tuple(float(end) if end.strip() else None for end in text.split(","))
    except ValueError:
        raise UsageError(
            f"malformed --cloud-cover {text!r}: write two percentages, 10,30"
        ) from None


def geometry(given: str | None) -> BaseGeometry | None:
    """What ``--intersects`` names."""
    if given is None:
        return None
    # Takes a moment to import, which `cogcat --help` need not wait for.
    from catalog.area import parse_geometry

    text = given
    try:
        # One character more than a geometry may have: what is longer is refused unread.
        if given == "-":
            text = sys.stdin.read(LONGEST_TEXT + 1)
        elif not _WRITTEN_OUT.match(given):
            with Path(given).open(encoding="utf-8") as file:
                text = file.read(LONGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"--intersects {given}: {error}") from error
    try:
        return parse_geometry(text)
    except UsageError as error:
        raise UsageError(f"--intersects {given[:60]}: {error}") from error


def print_json(value: Any) -> None:
    """An answer of a few rows, or of many: secrets left out."""
    say_json(without_secrets_in(value), indent=None if len(str(value)) > 10**6 else 1)


def say_json(value: Any, *, indent: int | None = None) -> None:
    """A JSON value; its strings keep what they hold, escaped as JSON does."""
    click.echo(json_line(value, indent=indent))


def json_line(value: Any, *, indent: int | None = None) -> str:
    """JSON text in which every character is printable, but the line feeds of ``indent``."""
    return json_escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as their values, whatever the terminal: lines stay lines for grep."""
    cells = [
        header,
        *(["" if value is None else printable(str(value)) for value in row] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(padded).rstrip())
