"""Items, files and records that were made to stop a crawl: each fails by name, and the rest goes
on, now and in every crawl after it."""

from __future__ import annotations

import copy
import errno
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agreement import Item, assert_agree, item_at
from stacks import C1, DATES, L2A, SCENES, TILES, Stack

from catalog import committer, cube_writer, header, scene_files, watches
from catalog import records as records_module
from catalog.blame import is_everyones, of_scene
from catalog.database import write_transaction
from catalog.errors import ConfigError, HeaderError, SourceError, StoreError

pytest_plugins = ["stacks"]


class PanicException(BaseException):
    """As pyo3's: not an ``Exception``."""


def served(stack: Stack) -> list[Item]:
    """The honest items as the server serves them."""
    text = json.dumps(stack.items).replace(stack.server.archive.base_url, stack.server.url)
    documents: list[Item] = json.loads(text)
    return documents


def poisoned(honest: Item, number: int) -> Item:
    """A copy of ``honest`` under another id."""
    item = copy.deepcopy(honest)
    item["id"] = (
        f"S2A_T{honest['id'].split('_')[1].lstrip('T')}_2020010{number % 10}T19095{number}_L2A"
    )
    return item


def with_href(change: Callable[[str], str]) -> Callable[[Item], None]:
    def apply(item: Item) -> None:
        item["assets"]["scl"]["href"] = change(item["assets"]["scl"]["href"])

    return apply


def with_value(*path: str, value: Any) -> Callable[[Item], None]:
    def apply(item: Item) -> None:
        inner = item
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return apply


DEEP: Any = []
for _ in range(5_000):
    DEEP = [DEEP]

POISONS: dict[str, Callable[[Item], None]] = {
    "double slash": with_href(lambda href: href.replace("/files/", "/files//")),
    "dot": with_href(lambda href: href.replace("/files/", "/files/./")),
    "dots": with_href(lambda href: href.replace("/files/", "/files/a/../")),
    "nul": with_href(lambda href: href + "%00"),
    "line feed": with_href(lambda href: href + "%0a"),
    "blank": with_href(lambda href: href + "%20"),
    "long": with_href(lambda href: href + "a" * 1_000_000),
    "query": with_href(lambda href: href + "?x=" + "y" * 10_000),
    "elsewhere": with_href(lambda href: "https://evil.example/scl.tif"),
    "metadata service": with_href(lambda href: "http://169.254.169.254/latest/scl.tif"),
    "no href": with_href(lambda href: ""),
    "surrogate": with_value("properties", "title", value="\ud800"),
    "deep": with_value("properties", "title", value=DEEP),
    "no assets": with_value("assets", value={}),
    "collection with nul": with_value("collection", value="sentinel\0"),
    "long collection": with_value("collection", value="c" * 1_000_000),
    "long id": with_value("id", value="i" * 1_000_000),
    "year 1": with_value("properties", "datetime", value="0001-01-01T00:00:00Z"),
    "nan": with_value("properties", "proj:epsg", value=float("nan")),
    "huge epsg": with_value("properties", "proj:epsg", value=10**400),
    "no geometry": with_value("geometry", value=None),
}
STRANGE: list[Any] = [None, 3, "item", [], {}, {"type": "Feature"}, {"id": 1, "type": "Feature"}]


def placed(honest: list[Any], bad: list[Any], where: str) -> list[Any]:
    if where == "first":
        return [*bad, *honest]
    if where == "last":
        return [*honest, *bad]
    mixed = [*honest, *bad]
    random.Random(9).shuffle(mixed)
    return mixed


@pytest.mark.parametrize("where", ["first", "last", "mixed"])
def test_one_page_of_honest_and_poisoned_items(stack: Stack, where: str) -> None:
    honest = served(stack)
    bad: list[Any] = list(STRANGE)
    for number, (_, change) in enumerate(sorted(POISONS.items())):
        item = poisoned(honest[number % SCENES], number)
        change(item)
        bad.append(item)
    report = stack.crawl(items=placed(honest, bad, where), bands=["scl"])
    assert report.found == len(honest) + len(bad)
    # One of year 1 or with a long query may be taken: what matters is that nothing stands in the
    # way of the honest ones, and that all else is named.
    assert report.indexed >= SCENES
    assert report.failed == report.found - report.indexed
    with stack.connect() as cat:
        found = {scene.id for scene in cat.search()}
        assert {item["id"] for item in honest} <= found
        assert all(len(row["reason"]) < 3_000 for row in cat.status()["failures"])
    again = stack.crawl(items=placed(honest, bad, where), bands=["scl"], outstanding=True)
    assert again.unchanged == report.indexed
    # And when the source has removed them all.
    last = stack.crawl(items=honest, bands=["scl"], outstanding=True)
    assert (last.unchanged, last.indexed) == (SCENES, 0)


@pytest.mark.parametrize("error", [ValueError("odd"), PanicException("index out of bounds")])
@pytest.mark.parametrize("step", ["header", "references", "write"])
def test_an_unexpected_error_of_one_scene_fails_that_scene(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    culprit = item_at(stack, "10TFR", DATES[1])["id"]
    target: Any
    target, name = {
        "header": (header, "_read"),
        "references": (scene_files, "scene_references"),
        "write": (cube_writer, "_put_references"),
    }[step]
    real = getattr(target, name)

    def fails(*arguments: Any, **options: Any) -> Any:
        first = arguments[0]
        name = getattr(first, "id", None) or getattr(first, "href", "")
        if step == "write":
            name = arguments[2].location
        if culprit in name:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(target, name, fails)
    report = stack.crawl(bands=["scl"])
    assert (report.indexed, report.failed, report.commits) == (SCENES - 1, 1, len(TILES))
    assert report.failures[0].scene == culprit
    assert f"{type(error).__name__}: {error}" in report.failures[0].reason or step == "write"
    assert str(error) in report.failures[0].reason
    # A watch takes it up again, whether or not the source still has it, and it is parked.
    for expected in (1, 0):
        again = stack.crawl(bands=["scl"], outstanding=True, tiles=["10TGR"])
        assert (again.retried, again.failed) == (expected, expected)
    monkeypatch.undo()
    healed = stack.crawl(bands=["scl"], retry=True)
    assert (healed.indexed, healed.failed) == (1, 0)
    assert_agree(stack, SCENES)


def test_a_commit_refused_without_a_name_is_made_scene_by_scene(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = item_at(stack, "10TFR", DATES[1])["id"]
    real = committer.write_batch

    def write(*arguments: Any, scenes: Any, **options: Any) -> Any:
        if any(scene.id == culprit for scene in scenes):
            raise PanicException("range end out of bounds")
        return real(*arguments, scenes=scenes, **options)

    monkeypatch.setattr(committer, "write_batch", write)
    report = stack.crawl(bands=["scl"])
    assert (report.indexed, report.failed) == (SCENES - 1, 1)
    assert report.failures[0].scene == culprit
    monkeypatch.undo()
    assert stack.crawl(bands=["scl"], retry=True).indexed == 1
    assert_agree(stack, SCENES)


@pytest.mark.parametrize("dies", [False, True])
def test_a_scene_that_the_database_refuses_after_its_commit(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """It stays pending, at the index that it has; the others of the commit are recorded, by this
    crawl or by the one that finds what it left."""
    culprit = item_at(stack, "10TFR", DATES[1])["id"]
    real = records_module.record_indexed
    refusals = []

    def record(connection: Any, repository: int, commit: Any, scenes: Any, *more: Any, **o: Any):
        if dies and not refusals:
            refusals.append(commit)
            raise StoreError("killed")
        done = real(connection, repository, commit, scenes, *more, **o)
        if any(indexed.scene.id == culprit for indexed in scenes):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return done

    monkeypatch.setattr(records_module, "record_indexed", record)
    if dies:
        with pytest.raises(StoreError, match="killed"):
            stack.crawl(bands=["scl"], tiles=["10TFR"])
    report = stack.crawl(bands=["scl"], tiles=["10TFR"])
    assert (report.indexed + report.recovered, report.failed) == (len(DATES) - 1, 1)
    monkeypatch.undo()
    assert stack.crawl(bands=["scl"], retry=True).failed == 0
    assert_agree(stack, SCENES)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        StoreError("refused"),
        ConfigError("database is gone"),
        KeyboardInterrupt(),
    ],
)
def test_errors_of_everything_still_stop_the_crawl(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def write(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(committer, "write_batch", write)
    with pytest.raises(type(error)):
        local_stack.crawl(bands=["scl"])
    assert local_stack.rows("SELECT count(*) FROM scenes WHERE last_error IS NOT NULL") == [(0,)]
    assert local_stack.rows("SELECT outcome FROM crawls") == [("failed",)]


def test_whose_an_error_is() -> None:
    for error in (ValueError("x"), PanicException(), MemoryError(), HeaderError("x"),
                  FileNotFoundError(errno.ENOENT, "x"), OSError(errno.ENAMETOOLONG, "x"),
                  RecursionError(), TimeoutError()):  # fmt: skip
        assert not is_everyones(error), error
    for error in (StoreError("x"), SourceError("x"), KeyboardInterrupt(), SystemExit(),
                  OSError(errno.ENOSPC, "x"), GeneratorExit()):  # fmt: skip
        assert is_everyones(error), error
    named = of_scene(HeaderError("odd", band="red", href="https://h/" + "a" * 10**6), "S2A")
    assert (named.scene, named.band, type(named)) == ("S2A", "red", HeaderError)
    assert len(str(named)) < 1_000


def test_an_item_that_the_database_refuses_keeps_no_other_from_being_sifted(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = item_at(stack, "10TFR", DATES[1])["id"]
    real = records_module.record_pending

    def pending(connection: Any, repository: int, scenes: Any, *more: Any, **options: Any) -> None:
        real(connection, repository, scenes, *more, **options)
        if any(scene.id == culprit for scene in scenes):
            raise OverflowError("Python int too large")

    monkeypatch.setattr(records_module, "record_pending", pending)
    report = stack.crawl(bands=["scl"])
    assert (report.found, report.new, report.indexed, report.failed) == (6, 5, 5, 1)
    assert "OverflowError: Python int too large" in report.failures[0].reason
    reasons = stack.rows("SELECT item_id, reason FROM item_failures")
    assert [row[0] for row in reasons] == [culprit]
    monkeypatch.undo()
    assert stack.crawl(bands=["scl"]).indexed == 1
    assert_agree(stack, SCENES)


# What was begun and cannot be read any more


def add_watch(stack: Stack, name: str, *words: str) -> None:
    done = stack.cli("watch", "add", name, "--stac", stack.server.stac_url, *words)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("wanted", ['{"id": 1}', "{}", "[]", '"text"', None, "{"])
def test_a_watch_whose_outstanding_scene_cannot_be_read_any_more_lives(
    stack: Stack, wanted: str | None
) -> None:
    if wanted == "{" and stack.moto:
        pytest.skip("PostgreSQL keeps no JSON that is none")
    add_watch(stack, "w", "--bands", "scl")
    victim = item_at(stack, "10TFR", DATES[0])
    stack.items.remove(victim)
    assert stack.cli("crawl", "--json").exit_code == 0
    stack.items.append(victim)
    victim["assets"]["scl"]["href"] = victim["assets"]["scl"]["href"].replace(".tif", "-gone.tif")
    assert stack.crawl(bands=["scl"]).failed == 1
    stack.items.remove(victim)
    with stack.engine() as engine, write_transaction(engine) as connection:
        value = "NULL" if wanted is None else f"'{wanted}'"
        connection.exec_driver_sql(f"UPDATE scenes SET wanted = {value} WHERE status = 'failed'")
    done = stack.cli("crawl", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["failed"]) == (1, 1)
    assert "cannot be read" in report["watches"]["w"]["failures"][0]["reason"]
    assert stack.cli("crawl", "--json").exit_code == 0, "it is parked"
    with stack.connect() as cat:
        assert cat.status()["parked"] == 1


def test_a_source_that_is_away_keeps_no_other_from_being_searched(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is outstanding lies on a host that is gone for good."""
    stack = local_stack
    gone = item_at(stack, "10TFR", DATES[0])
    files = stack.server.files_url
    stack.sources.insert(0, {"name": "gone", "match": "http://gone.test/", "url": files + "no/"})
    stack.write_config()
    stack.init()
    gone["assets"]["scl"]["href"] = "http://gone.test/scl.tif"
    real = header.HeaderReader._read

    async def read(self: Any, asset: Any, key: str, server: Any) -> Any:
        if server.source.name == "gone":
            raise SourceError("source 'gone' answers nothing any more")
        return await real(self, asset, key, server)

    monkeypatch.setattr(header.HeaderReader, "_read", read)
    add_watch(stack, "w", "--bands", "scl")
    assert stack.cli("crawl", "--json").exit_code == 2
    assert stack.rows("SELECT count(*) FROM scenes WHERE status = 'indexed'") == [(SCENES - 1,)]
    stack.items.append(poisoned(item_at(stack, "10TGR", DATES[0]), 1))
    done = stack.cli("crawl", "--json")
    assert done.exit_code == 2
    assert "source 'gone'" in done.stderr
    assert stack.rows("SELECT count(*) FROM scenes WHERE status = 'indexed'") == [(SCENES,)]


# Dialects


@pytest.mark.parametrize("where", ["first", "last", "mixed"])
@pytest.mark.parametrize("marks", ["none", "others"])
def test_a_dialect_is_an_items_own(dialects_stack: Stack, where: str, marks: str) -> None:
    stack = dialects_stack
    honest = [
        item
        for item in json.loads(
            json.dumps(stack.server.archive.items["earth-search-v1"]).replace(
                stack.server.archive.base_url, stack.server.url
            )
        )
        if item["collection"] == L2A
    ]
    odd = poisoned(honest[0], 3)
    odd["properties"] = {
        key: value for key, value in odd["properties"].items() if not key.startswith("earthsearch:")
    }
    if marks == "others":
        odd["properties"]["s2:mgrs_tile"] = "10TFR"
        odd["assets"]["B04"] = odd["assets"].pop("red")
    documents = placed(honest, [odd], where)
    # One by one: the odd one may be alone on its page.
    for document in documents:
        report = stack.crawl(items=[document], collection=L2A, bands=["red"])
        assert (report.indexed, report.failed) == (1, 0)
    again = stack.crawl(items=documents, collection=L2A, bands=["red"])
    assert again.unchanged == len(documents)


# Times that lie ahead


def test_a_time_that_lies_ahead_moves_no_watermark(stack: Stack) -> None:
    add_watch(stack, "w", "--bands", "scl")
    liar = item_at(stack, "10TFR", DATES[0])
    liar["properties"]["updated"] = "9999-12-31T23:59:59Z"
    newest = max(item["properties"]["updated"] for item in stack.items if item is not liar)
    assert stack.cli("crawl", "--json").exit_code == 0
    ((mark,),) = stack.rows("SELECT watermark FROM watches")
    with stack.engine() as engine, write_transaction(engine) as connection:
        (watch,) = watches.list_watches(connection)
    assert mark is not None
    assert watch.watermark == datetime.fromisoformat(newest)
    with stack.connect() as cat:
        (warning,) = cat.scene(liar["id"]).warnings
        assert "9999-12-31" in warning
        assert "in the future" in warning
    # Two that are published late, after the watermark as it should be.
    late = item_at(stack, "10TGR", DATES[0])
    late["properties"]["updated"] = (watch.watermark + timedelta(seconds=1)).isoformat()
    late["properties"]["eo:cloud_cover"] = 3.5
    assert json.loads(stack.cli("crawl", "--json").stdout)["changed"] == 1
    assert datetime.now(UTC) > watch.watermark


def test_a_clock_that_is_hours_ahead_moves_no_watermark(local_stack: Stack) -> None:
    """The border believes a day: zones are mixed up. A watermark of now would pass over what is
    published with its own, earlier time."""
    item = item_at(local_stack, "10TFR", DATES[0])
    others = [i["properties"]["updated"] for i in local_stack.items if i is not item]
    item["properties"]["updated"] = (datetime.now(UTC) + timedelta(hours=12)).isoformat()
    report = local_stack.crawl(bands=["scl"])
    assert report.watermark == datetime.fromisoformat(max(others))
    with local_stack.connect() as cat:
        assert "ahead of the clock" in cat.scene(item["id"]).warnings[0]


def test_a_clock_that_is_a_little_ahead_is_believed(local_stack: Stack) -> None:
    item = item_at(local_stack, "10TFR", DATES[0])
    item["properties"]["updated"] = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    report = local_stack.crawl(bands=["scl"])
    assert report.watermark == datetime.fromisoformat(item["properties"]["updated"])
    with local_stack.connect() as cat:
        assert cat.scene(item["id"]).warnings == ()


# Settings that are wrong, and hrefs that are foreign


def test_settings_that_match_nothing_are_one_line_and_no_failures(stack: Stack) -> None:
    right = stack.sources
    stack.sources = [{"name": "demo", "match": "https://else.where/", "url": "https://else.where/"}]
    stack.write_config()
    arguments = ("crawl", "--stac", stack.server.stac_url, "--bands", "scl")
    done = stack.cli(*arguments)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "no source matches" in done.stderr
    assert stack.rows("SELECT count(*) FROM scenes") == [(0,)]
    assert stack.rows("SELECT count(*) FROM item_failures") == [(0,)]
    stack.sources = right
    stack.write_config()
    assert stack.cli(*arguments).exit_code == 0


@pytest.mark.parametrize("where", ["first", "last"])
def test_an_odd_foreign_href_is_its_scenes_failure(stack: Stack, where: str) -> None:
    honest = served(stack)
    odd = poisoned(honest[0], 1)
    odd["assets"]["scl"]["href"] = "https://evil.example/scl.tif"
    report = stack.crawl(items=placed(honest[:3], [odd], where), bands=["scl"])
    assert (report.indexed, report.failed) == (3, 1)
    # Alone, when the honest ones are known: still no reason to stop a watch.
    other = poisoned(honest[1], 2)
    other["assets"]["scl"]["href"] = "https://evil.example/scl.tif"
    report = stack.crawl(items=[other], bands=["scl"])
    assert (report.indexed, report.failed) == (0, 1)
    # Settings that no longer match what is indexed are another thing.
    stack.sources = [{"name": "demo", "match": "https://else.where/", "url": "https://else.where/"}]
    stack.write_config()
    with pytest.raises(ConfigError, match="no source matches"):
        stack.crawl(items=honest, bands=["scl"])


# The command line


def test_options_that_can_be_repeated_add_up_and_others_are_refused(local_stack: Stack) -> None:
    stack = local_stack
    add_watch(
        stack, "w", "--bands", "red", "--bands", "scl,B08", "--tile", "10TFR", "--tile", "10TGR"
    )
    (saved,) = json.loads(stack.cli("watch", "list", "--json").stdout)
    assert saved["query"]["bands"] == ["red", "scl", "nir"]
    assert saved["query"]["tiles"] == ["10TFR", "10TGR"]
    arguments = ("crawl", "--stac", stack.server.stac_url, "--tile", "10TFR", "--dry-run", "--json")
    done = stack.cli(*arguments, "--bands", "red", "--bands", "scl")
    assert done.exit_code == 0, done.output
    for twice in (
        ("crawl", "--collection", C1, "--collection", L2A),
        ("crawl", "--datetime", "2023", "--datetime", "2024"),
        ("crawl", "--limit", "1", "--limit=2"),
        ("search", "--max-cloud-cover", "1", "--max-cloud-cover", "2"),
        ("search", "--bbox", "1,2,3,4", "--bbox", "5,6,7,8"),
        ("search", "--filter", "cloud_cover < 1", "--filter", "cloud_cover > 0"),
        ("watch", "add", "x", "--datetime", "2023", "--datetime", "2024"),
        ("export", "a.parquet", "--collection", "a", "--collection", "b"),
        ("show", "x", "--collection", "a", "--collection", "b"),
        ("changes", "--since", "2023", "--since", "2024"),
        ("maintain", "--keep-days", "1", "--keep-days", "2"),
        ("status", "--overdue", "1", "--overdue", "2"),
    ):
        done = stack.cli(*twice)
        assert done.exit_code == 2, twice
        assert "is given 2 times, and can be given once" in done.stderr, done.output
    for empty in (("--tile", ""), ("--ids", ","), ("--bands", "")):
        done = stack.cli("crawl", *empty)
        assert done.exit_code == 2
        assert "it is empty" in done.stderr


# A source that answers is not away


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404},
        {"status": 403},
        {"status": 400},
        {"body": b"<html>no</html>"},
        {"body": b""},
        {"status": 200, "body": b"not a file of yours"},
    ],
    ids=["404", "403", "400", "nonsense", "empty", "whole"],
)
def test_files_that_are_answered_in_a_row_are_no_silence(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    stack = local_stack
    monkeypatch.setattr(header, "GONE", 2)
    for item in stack.items[1:]:
        item["assets"]["scl"].pop("file:size", None)
        stack.server.misbehave(stack.href(item, "scl"), **answer)
    report = stack.crawl(bands=["scl"])
    assert (report.indexed, report.failed) == (1, SCENES - 1)
    assert stack.rows("SELECT outcome FROM crawls") == [("done",)]
