"""The command line: its output, its exit codes, and one clear line for every fault."""

from __future__ import annotations

import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from rasterio.errors import NotGeoreferencedWarning
from sqlalchemy import text
from stacks import BANDS, C1, DATES, L2A, SCENES, TILES, Stack, read_pixels, run_cli

from catalog.cli import main
from catalog.database import open_engine, write_transaction
from catalog.demo.server import ArchiveServer

pytest_plugins = ["stacks"]

COUNTS = {
    "found", "new", "changed", "unchanged", "indexed",
    "failed", "withdrawn", "commits", "requests", "seconds",
}  # fmt: skip
SCENE_KEYS = {
    "id", "collection", "tile", "epsg", "datetime", "cloud_cover", "status", "bbox", "baseline",
    "boa_offset", "branch", "time_index", "snapshot_id", "refs_sha256", "item_sha256", "warnings",
}  # fmt: skip


def crawl(stack: Stack, *more: object) -> Any:
    return stack.cli("crawl", "--stac", stack.server.stac_url, "--bands", "scl", *more)


def one_line(stderr: str) -> str:
    """The complaint: the only line on stderr that is not a log's, without a traceback."""
    assert "Traceback" not in stderr
    (line,) = (line for line in stderr.splitlines() if line.startswith("cogcat: "))
    return line


def picture_pixels(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return read_pixels(path)


# Commands and options


def commands(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[n for n, _ in commands()])
def test_every_command_and_option_is_explained(name: str, command: click.Command) -> None:
    assert command.help, name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]}"
    shown = run_cli(*name.split(), "--help")
    assert (shown.exit_code, shown.stderr) == (0, "")


def test_every_command_takes_the_settings_and_json() -> None:
    for name, command in commands():
        if isinstance(command, click.Group) or name == "demo":
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--database", "--repository", "--config"} <= options, name
        assert "--json" in options or name in ("preview", "serve", "export"), name


def test_version_and_help() -> None:
    assert run_cli("--version").output.startswith("cogcat, version ")
    assert {"init", "crawl", "search", "show", "status", "preview", "demo"} <= set(main.commands)
    unknown = run_cli("crowl")
    assert unknown.exit_code == 2
    assert "crowl" in unknown.stderr


# Output


def test_crawl_prints_its_counts(stack: Stack) -> None:
    first = crawl(stack, "--json")
    assert first.exit_code == 0
    counts = json.loads(first.stdout)
    assert set(counts) >= COUNTS
    assert (counts["found"], counts["new"], counts["indexed"]) == (SCENES, SCENES, SCENES)
    assert (counts["commits"], counts["requests"]) == (len(TILES), SCENES)
    assert "snapshot" in first.stderr, "the log of commits"
    again = crawl(stack)
    assert again.exit_code == 0
    assert again.stdout == f"{SCENES} scenes found, nothing to do: all are indexed as they are\n"
    planned = stack.cli("crawl", "--stac", stack.server.stac_url, "--tile", "10TFR", "--dry-run")
    assert "3 found: 0 new" in planned.stdout or "nothing to do" in planned.stdout


def test_dry_run_says_what_it_would_do(stack: Stack) -> None:
    planned = crawl(stack, "--dry-run", "--tile", "10TFR")
    assert planned.exit_code == 0
    assert "3 found: 3 new" in planned.stdout
    assert "would index 3" in planned.stdout
    assert stack.cli("search", "--format", "ids").stdout == ""


def test_crawl_takes_every_filter(stack: Stack, tmp_path: Path) -> None:
    place = tmp_path / "place.geojson"
    place.write_text(json.dumps({"type": "Point", "coordinates": [-121.68, 46.02]}))
    for words, found in (
        (["--tile", "10TFR", "--tile", "10TGR"], 6),
        (["--tile", "10TFR,10TGR"], 6),
        (["--intersects", "POINT(-121.68 46.02)"], 3),
        (["--bbox", "-121.9,45.9,-121,46.2"], 3),
        (["--intersects", place], 3),
        (["--datetime", "2023-05"], 2),
        (["--max-cloud-cover", "20"], 4),
        (["--ids", stack.items[0]["id"], "--ids", stack.items[1]["id"]], 2),
        (["--limit", "2"], 2),
        (["--collection", C1, "--tile", "31UFU"], 0),
    ):
        counts = json.loads(crawl(stack, "--dry-run", "--json", *words).stdout)
        assert counts["found"] == counts["new"] == found, words


def test_crawl_of_a_file_of_items(local_stack: Stack, tmp_path: Path) -> None:
    stack = local_stack
    served = json.dumps(stack.items).replace(stack.server.archive.base_url, stack.server.url)
    path = tmp_path / "items.ndjson"
    path.write_text("\n".join(json.dumps(item) for item in json.loads(served)))
    done = stack.cli("crawl", "--items", path, "--bands", "scl", "--tile", "10TFR", "--json")
    assert json.loads(done.stdout)["indexed"] == len(DATES)


def test_search(crawled: Stack) -> None:
    both = crawled.cli("search", "--json", "--format", "geojson")
    assert (both.exit_code, both.stderr) == (
        2,
        "cogcat: --json and --format geojson are two answers: give one\n",
    )
    table = crawled.cli("search", "--tile", "10TFR")
    assert table.stdout.splitlines()[0].split()[:3] == ["scene", "tile", "datetime"]
    assert len(table.stdout.splitlines()) == 1 + len(DATES)
    assert table.stderr == "3 scenes\n"
    ids = crawled.cli("search", "--tile", "10TFR", "--sort", "datetime", "--format", "ids")
    assert ids.stdout.split() == [i["id"] for i in crawled.items if "10TFR" in i["id"]]
    for words in (["--format", "json"], ["--json"]):
        found = json.loads(crawled.cli("search", "--datetime", "2023-05", *words).stdout)
        assert {scene["id"][4:10] for scene in found} == {"T10TFR", "T10TGR"}
        assert set(found[0]) >= SCENE_KEYS
        assert found[0]["datetime"].endswith("Z")
        assert "pk" not in found[0]
    nothing = crawled.cli("search", "--tile", "31UFU")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "0 scenes\n")


def test_show(crawled: Stack) -> None:
    scene = crawled.items[0]["id"]
    document = json.loads(crawled.cli("show", scene, "--json").stdout)
    assert set(document) >= SCENE_KEYS | {"assets"}
    assert set(document["assets"]["red"]) >= {
        "href", "size", "etag", "last_modified", "checksum", "header_sha256",
    }  # fmt: skip
    shown = crawled.cli("show", scene)
    assert shown.exit_code == 0
    assert document["snapshot_id"] in shown.stdout
    assert shown.stdout.count(".tif") == BANDS


def test_status(crawled: Stack) -> None:
    document = json.loads(crawled.cli("status", "--json").stdout)
    assert document["scenes"] == {"indexed": SCENES}
    assert document["tiles"] == dict.fromkeys(TILES, len(DATES))
    assert {row["branch"] for row in document["branches"]} == {f"{C1}/{tile}" for tile in TILES}
    assert document["crawls"][0]["counts"]["found"] == SCENES
    assert document["failures"] == []
    shown = crawled.cli("status")
    assert f"{SCENES} indexed" in shown.stdout
    assert f"{C1}/10TFR" in shown.stdout


def test_preview(crawled: Stack, tmp_path: Path) -> None:
    item = crawled.items[0]
    path = tmp_path / "look.png"
    done = crawled.cli("preview", item["id"], "-o", path)
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    pixels = picture_pixels(path)
    np.testing.assert_array_equal(pixels, crawled.pixels(item, "visual"))
    refused = crawled.cli("preview", item["id"], "-o", tmp_path / "no" / "look.png")
    assert refused.exit_code == 2
    assert "look.png" in one_line(refused.stderr)


def test_preview_without_true_colour(stack: Stack, tmp_path: Path) -> None:
    stack.crawl(bands=["red", "green", "blue"], limit=1)
    with stack.connect() as cat:
        scene = next(iter(cat.search()))
        path = tmp_path / "look.png"
        assert stack.cli("preview", scene.id, "-o", path).exit_code == 0
        pixels = picture_pixels(path)
        red = scene.open(resolution=10, bands=["red"], reflectance=True)["red"].to_numpy()
    expected = np.nan_to_num(np.clip(red / 0.3, 0, 1)) * 255
    np.testing.assert_array_equal(pixels[0], expected.astype("u1"))


# Faults

Words = Callable[[Stack], list[object]]
QUESTIONS: list[tuple[Words, str]] = [
    (lambda s: ["crawl", "--stac", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1"),
    (lambda s: ["crawl", "--stac", f"{s.server.files_url}nothing"], "answered 404"),
    (lambda s: ["crawl", "--stac", s.href(s.items[0], "tileinfo_metadata")], "not a STAC API"),
    (lambda s: ["crawl", "--stac", s.href(s.items[0], "granule_metadata")], "not a STAC API"),
    (lambda s: ["crawl", "--stac", "example"], "malformed STAC address 'example'"),
    (lambda s: [*here(s), "--collection", "sentinel-9"], "unknown collection 'sentinel-9'"),
    (lambda s: [*here(s), "--tile", "99ZZZ"], "99ZZZ"),
    (lambda s: [*here(s), "--datetime", "yesterday"], "malformed datetime 'yesterday'"),
    (lambda s: [*here(s), "--datetime", "2024/2023"], "2024/2023"),
    (lambda s: [*here(s), "--bbox", "1,2,3"], "bbox"),
    (lambda s: [*here(s), "--bbox", "1,9,3,4"], "bbox"),
    (lambda s: [*here(s), "--max-cloud-cover", "120"], "120"),
    (lambda s: [*here(s), "--limit", "0"], "limit"),
    (lambda s: [*here(s), "--bands", "purple"], "unknown band 'purple'"),
    (lambda s: [*here(s), "--intersects", "none.geojson"], "none.geojson"),
    (lambda s: ["crawl", "--items", "none.json"], "none.json"),
    (lambda s: ["search", "--tile", "99ZZZ"], "99ZZZ"),
    (lambda s: ["search", "--datetime", "yesterday"], "yesterday"),
    (lambda s: ["search", "--bbox", "1,2,3"], "bbox"),
    (lambda s: ["search", "--bbox", "a,b,c,d"], "a,b,c,d"),
    (lambda s: ["search", "--max-cloud-cover", "-3"], "-3"),
    (lambda s: ["search", "--limit", "-1"], "limit"),
    (lambda s: ["search", "--sort", "size"], "size"),
    (lambda s: ["search", "--status", "lost"], "lost"),
    (lambda s: ["show", "S2B_NOBODY"], "no scene 'S2B_NOBODY'"),
    (lambda s: ["preview", "S2B_NOBODY", "-o", "x.png"], "no scene 'S2B_NOBODY'"),
    (lambda s: ["search", "--config", "none.toml"], "none.toml: no such configuration file"),
    (lambda s: ["search", "--database", "sqlite:///none/none.db"], "no such directory 'none'"),
    (lambda s: ["search", "--database", "sqlite:///none.db"], "is not set up"),
    (lambda s: ["search", "--database", "mysql://host/x"], "unknown driver 'mysql'"),
    (lambda s: [*here(s), "--repository", "nowhere"], "no repository at nowhere"),
    (lambda s: [*here(s), "--repository", "gs://bucket/x"], "gs://bucket/x"),
]  # fmt: skip


def here(stack: Stack) -> list[object]:
    return ["crawl", "--stac", stack.server.stac_url]


@pytest.mark.parametrize(
    ("words", "names"), QUESTIONS, ids=[f"{n:02}-{q[1][:24]}" for n, q in enumerate(QUESTIONS)]
)
def test_a_wrong_question_is_one_line_and_exit_code_2(
    local_stack: Stack, words: Words, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *_: None)
    done = local_stack.cli(*words(local_stack))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert names in one_line(done.stderr)


@pytest.mark.parametrize("option", ["--limit", "--max-cloud-cover", "--concurrency"])
def test_a_number_that_is_none(local_stack: Stack, option: str) -> None:
    done = local_stack.cli(*here(local_stack), option, "many")
    assert done.exit_code == 2
    assert "many" in done.stderr.splitlines()[-1]
    assert option in done.stderr.splitlines()[-1]


def test_a_tile_that_is_not_there_finds_nothing(stack: Stack) -> None:
    done = crawl(stack, "--tile", "31UFU")
    assert (done.exit_code, done.stdout) == (
        0, "no scene found: nothing answers the query\n",
    )  # fmt: skip


def test_a_failed_scene_is_exit_code_1(stack: Stack) -> None:
    stack.server.misbehave(stack.href(stack.items[0], "scl"), status=404)
    del stack.items[1]["properties"]["proj:epsg"]
    done = crawl(stack, "--json")
    assert done.exit_code == 1
    counts = json.loads(done.stdout)
    assert (counts["indexed"], counts["failed"]) == (SCENES - 2, 2)
    assert {failure["scene"] for failure in counts["failures"]} == {
        stack.items[0]["id"], stack.items[1]["id"],
    }  # fmt: skip
    assert "Traceback" not in done.stderr
    for item, reason in ((stack.items[0], "the file is missing"), (stack.items[1], "no EPSG code")):
        (line,) = (line for line in done.stderr.splitlines() if item["id"] in line)
        assert reason in line
    status = stack.cli("status")
    assert "the file is missing" in status.stdout
    assert "no EPSG code" in status.stdout
    again = crawl(stack)
    assert again.exit_code == 1
    assert "2 failed" in again.stdout


def test_two_dialects_under_one_name(dialects_stack: Stack) -> None:
    stack = dialects_stack
    assert crawl(stack, "--collection", L2A).exit_code == 0
    done = stack.cli("crawl", "--stac", stack.server.pc_stac_url, "--collection", L2A)
    assert done.exit_code == 2
    assert "use another database and repository" in one_line(done.stderr)


@pytest.mark.parametrize("words", [["search"], ["status"], ["show", "X"], ["crawl"]])
def test_a_database_that_is_not_set_up(bare_stack: Stack, words: list[str]) -> None:
    done = bare_stack.cli(*words)
    assert done.exit_code == 2
    assert f"run `cogcat init --config {bare_stack.config}`" in one_line(done.stderr)
    assert not (bare_stack.directory / "cogcat.db").exists()


@pytest.mark.parametrize("words", [["search"], ["crawl"]])
def test_a_database_at_another_revision(stack: Stack, words: list[str]) -> None:
    engine = open_engine(stack.database)
    with write_transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    done = stack.cli(*words)
    assert done.exit_code == 2
    line = one_line(done.stderr)
    assert "9999" in line
    assert "test" not in line or ":***@" in line or "password" not in line


def test_verbose_shows_the_traceback(local_stack: Stack) -> None:
    done = run_cli("-v", "search", "--tile", "99ZZZ", "--config", str(local_stack.config))
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    assert done.stdout == ""


def test_a_reader_who_has_seen_enough(crawled: Stack) -> None:
    process = crawled.process("search", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_crawl_saves_its_state(stack: Stack, number: signal.Signals) -> None:
    """Two scenes at a time of a server that takes its time."""
    stack.server.faults.latency_ms = 400
    process = stack.process(
        "crawl",
        "--stac",
        stack.server.stac_url,
        "--bands",
        "red,scl",
        "--concurrency",
        "2",
        "--json",
    )
    wait_for(lambda: len(stack.file_requests()) >= 4, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    counts = json.loads(stdout)
    assert 0 < counts["indexed"] < SCENES
    with stack.connect() as cat:
        assert cat.search().count() == counts["indexed"]
    stack.server.faults.reset()
    report = stack.crawl(bands=["red", "scl"])
    assert (report.new, report.indexed) == (SCENES - counts["indexed"],) * 2
    assert stack.rows("SELECT outcome FROM crawls ORDER BY id") == [("interrupted",), ("done",)]


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_environment_names_the_settings(
    crawled: Stack, monkeypatch: pytest.MonkeyPatch, server: ArchiveServer
) -> None:
    monkeypatch.setenv("COGCAT_DATABASE", crawled.database)
    assert run_cli("search", "--format", "ids").exit_code == 0
    monkeypatch.setenv("COGCAT_DATABASE", "sqlite:///elsewhere.db")
    assert run_cli("search").exit_code == 2
    assert run_cli("search", "--database", crawled.database).exit_code == 0
