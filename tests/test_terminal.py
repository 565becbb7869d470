"""Nothing foreign reaches a terminal that it would obey: every command on a poisoned catalog."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import threading
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from rich.logging import RichHandler
from sqlalchemy import text
from stacks import C1, Stack, run_cli

from catalog import logs
from catalog.cli_options import print_table, say
from catalog.database import write_transaction
from catalog.printable import printable

pytest_plugins = ["stacks"]

POISON = (
    "\x1b[31m\x1b]8;;http://evil\x07[red][link=http://evil]x[/link]\x9b2J\r\n2026 ERROR forged\t"
    "\u202egnp\u200b\u2028\ufeff\x7f\x85"
)
BAD = ("Cc", "Cf", "Cs", "Zl", "Zp")
POISONED = {
    "scenes": ("item_id", "platform", "baseline", "last_error", "acquisition"),
    "collections": ("stac_url",),
    "assets": ("etag",),
    "item_failures": ("item_id", "reason"),
    "repositories": ("location",),
    "branches": ("name",),
    "sources": ("match", "url", "endpoint"),
}


@pytest.fixture(autouse=True)
def the_logger_as_it_was() -> Iterator[None]:
    log = logging.getLogger("catalog")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


def assert_fit(said: str) -> None:
    for line in said.split("\n"):
        for char in line:
            assert unicodedata.category(char) not in BAD, ascii(line)


def assert_done_fit(done: Result) -> None:
    assert_fit(done.stdout)
    assert_fit(done.stderr)
    assert "Traceback" not in done.stderr


@pytest.fixture
def poisoned(local_stack: Stack) -> Stack:
    """As a catalog may be that an earlier version crawled, or another program wrote to."""
    stack = local_stack
    href = stack.href(stack.items[0], "scl")
    stack.server.misbehave(href, status=404)
    stack.crawl(bands=["scl"])
    stack.cli("watch", "add", "w", "--tile", "10TFR")
    with stack.engine() as engine, write_transaction(engine) as connection:
        for table, columns in POISONED.items():
            for column in columns:
                connection.execute(
                    text(
                        f"UPDATE {table} SET {column} = coalesce({column}, '') || :poison "
                        f"WHERE {column} IS NOT NULL OR '{column}' = 'endpoint'"
                    ),
                    {"poison": POISON},
                )
        connection.execute(
            text("UPDATE watches SET name = name || :poison, query = :query"),
            {"poison": POISON, "query": json.dumps({"stac": POISON, "ids": [POISON]})},
        )
        connection.execute(text("UPDATE crawls SET query = :q"), {"q": json.dumps({"x": POISON})})
        connection.execute(text("UPDATE scenes SET warnings = :w"), {"w": json.dumps([POISON])})
        connection.execute(
            text("UPDATE repositories SET location = replace(location, :poison, '')"),
            {"poison": POISON},
        )
    return stack


@pytest.mark.parametrize("style", logs.FORMATS)
@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["search", "--status", "any"],
        ["search", "--json"],
        ["search", "--format", "ids"],
        ["search", "--format", "geojson"],
        ["changes"],
        ["changes", "--json"],
        ["show", "ID"],
        ["show", "ID", "--json"],
        ["show", POISON],
        ["search", "--platform", POISON],
        ["search", "--filter", POISON],
        ["search", "--datetime", POISON],
        ["search", f"--{POISON}"],
        [POISON],
        ["watch", "list"],
        ["watch", "list", "--json"],
        ["watch", "add", POISON, "--tile", "10TFR"],
        ["watch", "remove", POISON],
        ["watch", POISON],
        ["crawl", "--watch", POISON],
        ["crawl"],
        ["crawl", "--ids", POISON, "--stac", "http://127.0.0.1:1/"],
        ["crawl", "--stac", f"http://{POISON}/"],
        ["crawl", "--collection", POISON, "--stac", "STAC"],
        ["crawl", "--stac", "STAC", "--tile", "10TFR", "--bands", "scl"],
        ["crawl", "--items", POISON],
        ["crawl", "--bands", POISON],
        ["export", POISON + "/x"],
        ["init", "--repository", POISON],
        ["init", "--database", POISON],
        ["init", "--config", POISON],
        ["repair"],
        ["rebuild"],
        ["maintain", "--dry-run"],
        ["preview", "ID", "-o", POISON + "/x.png"],
    ],
    ids=lambda words: ascii(" ".join(words).replace(POISON, "POISON"))[1:-1],
)
def test_no_command_prints_it(poisoned: Stack, words: list[str], style: str) -> None:
    (name,) = poisoned.rows("SELECT item_id FROM scenes WHERE status = 'indexed' LIMIT 1")[0]
    known = {"ID": name, "STAC": poisoned.server.stac_url}
    done = poisoned.cli("--log-format", style, *(known.get(word, word) for word in words))
    assert_done_fit(done)
    if "--json" in words and done.exit_code == 0:
        for line in done.stdout.splitlines() if words[0] == "changes" else [done.stdout]:
            json.loads(line)
    if style == "json":
        for line in done.stderr.splitlines():
            json.loads(line)
    if words == ["search", "--format", "ids"]:
        assert len(done.stdout.splitlines()) == 5
    if words[:2] == ["search", "--json"]:
        assert POISON in json.loads(done.stdout)[0]["id"]


def test_an_api_that_says_it(local_stack: Stack) -> None:
    for item in local_stack.items:
        item["properties"]["title"] = POISON
        item["properties"]["platform"] = POISON
    local_stack.items[0]["id"] = POISON
    local_stack.items[1]["assets"]["scl"]["href"] += POISON
    local_stack.items[2]["geometry"] = {"type": POISON}
    local_stack.items[3]["properties"]["datetime"] = POISON
    for style in logs.FORMATS:
        done = local_stack.cli(
            "--log-format", style, "crawl", "--stac", local_stack.server.stac_url,
            "--bands", "scl", "--datetime", "2023",
        )  # fmt: skip
        assert_done_fit(done)
        assert_done_fit(local_stack.cli("--log-format", style, "status"))
    for table in ("scenes", "item_failures", "crawls", "collections", "watches"):
        for row in local_stack.rows(f"SELECT * FROM {table}"):
            for value in row:
                if isinstance(value, str) and not value.startswith("{"):
                    assert_fit(value)


def test_rich_adds_its_own_and_obeys_nothing() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=500, soft_wrap=True)
    handler = RichHandler(console=console, show_path=False)
    undo = logs.configure("text", "info", terminal=handler)
    logging.getLogger("catalog.test").warning("%s [bold]b[/bold] [link=http://e]l[/link]", POISON)
    undo()
    said = stream.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert_fit(plain)
    assert "[link=http://e]l[/link]" in plain
    assert "[red]" in plain
    assert "\\x1b[31m" in plain
    assert "]8;;" not in said.replace("\\x1b]8;;", "")


@pytest.mark.parametrize("style", logs.FORMATS)
def test_every_way_into_stderr(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    undo = logs.configure(style, "debug")
    secret = "https://u:hunter2@h/?token=hunter2"
    log = logging.getLogger("catalog.test")
    log.info("%s %s", POISON, secret, extra={"scene": POISON, "href": [secret, POISON]})
    try:
        try:
            raise ValueError(f"{POISON} {secret}")
        except ValueError as error:
            raise KeyError(POISON) from error
    except KeyError:
        log.exception("broken")
    logging.getLogger("another.library").warning("%s %s", POISON, secret)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(style, "debug")
        warnings.warn(f"{POISON} {secret}", UserWarning, stacklevel=1)

    def fails() -> None:
        raise OSError(f"{POISON} {secret}")

    thread = threading.Thread(target=fails, name=POISON)
    thread.start()
    thread.join()
    undo()
    said = capsys.readouterr().err
    assert_fit(said)
    assert "hunter2" not in said
    if style == "json":
        for line in said.splitlines():
            json.loads(line)
    else:
        # Nothing that a message holds begins a line as a log line does.
        assert not [line for line in said.splitlines() if line.startswith("2026 ERROR")]


def test_tables_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [(POISON, None), ("x", 3)])
    say(POISON)
    said = capsys.readouterr().out
    assert_fit(said)
    assert len(said.splitlines()) == 4


def hint(said: str) -> list[str]:
    """The one command that a message names."""
    (found,) = re.findall(r"`cogcat ([^`]*)`", said)
    return shlex.split(found)


def test_hints_are_commands_for_this_catalog(local_stack: Stack, tmp_path: Any) -> None:
    """As printed, from a directory that knows nothing of the catalog."""
    stack = local_stack
    config = tmp_path / "it's a file.toml"
    config.write_text(
        f'database = "sqlite:///{tmp_path}/hint.db"\nrepository = "{tmp_path}/hint-repo"\n'
        f'stac = "{stack.server.stac_url}"\n'
        f'[[sources]]\nname = "files"\nmatch = "{stack.server.files_url}"\n'
        f'url = "{stack.server.files_url}"\n'
    )
    said = run_cli("search", "--config", str(config))
    assert said.exit_code == 2
    words = hint(said.stderr)
    assert words == ["init", "--config", str(config)]
    assert run_cli(*words).exit_code == 0
    said = run_cli("crawl", "--config", str(config))
    words = hint(said.stderr)
    assert words[:2] == ["watch", "add"]
    saved = run_cli(*words)
    assert saved.exit_code == 0
    words = hint(saved.stdout)
    assert words == ["crawl", "--config", str(config)]
    assert run_cli(*words).exit_code == 0
    other = run_cli("repair", "--config", str(config), "--repository", str(tmp_path / "b b"))
    assert hint(other.stderr)[:3] == ["init", "--config", str(config)]
    assert run_cli(*hint(other.stderr)).exit_code == 0


def test_the_hint_of_a_changed_file(own_files: Any, local_stack: Stack, tmp_path: Any) -> None:
    stack = local_stack
    stack.crawl(bands=["red", "green", "blue"], limit=1)
    ((item, location),) = stack.rows("SELECT item_id, etag FROM scenes, assets LIMIT 1")
    scene = next(found for found in stack.items if found["id"] == item)
    for band in ("red", "green", "blue", "visual"):
        path = stack.path(scene, band)
        if path.exists():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data + b"\0")
    done = stack.cli("preview", item, "-o", tmp_path / "a.png")
    assert done.exit_code == 2, location
    words = hint(done.stderr)
    assert words[:2] == ["crawl", "--ids"]
    assert words[2] == item
    assert words[-2:] == ["--config", str(stack.config)]
    assert C1 in stack.rows("SELECT name FROM collections")[0]


def test_quoting_of_what_a_hint_names() -> None:
    from catalog.errors import ChangedFileError

    for scene in ("a b", "a;rm -rf ~", "$(x)", "it's", '"', "S2B_1"):
        words = hint(str(ChangedFileError("the file is gone", scene, "red", "https://h/a.tif")))
        assert words == ["crawl", "--ids", scene, "--reread", "--bands", "red"]
    assert printable(str(ChangedFileError("x", POISON, "red", "h"))) is not None
