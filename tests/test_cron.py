"""Watches through the command line: saved, run, moved on; the lease; upkeep."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stacks import C1, DATES, L2A, SCENES, Stack

from catalog import cron, lease, upkeep, watches
from catalog.database import open_engine, write_transaction
from catalog.demo.faults import Fault
from catalog.errors import StoreError
from catalog.repository import Repository
from catalog.setup import keep_up
from catalog.watches import Watch

pytest_plugins = ["stacks"]

NOW = datetime(2024, 6, 1, tzinfo=UTC)


def saved(stack: Stack, name: str) -> Watch:
    engine = open_engine(stack.settings.database)
    try:
        with write_transaction(engine) as connection:
            return watches.get_watch(connection, name)
    finally:
        engine.dispose()


def add(stack: Stack, name: str, *words: str, stac: str | None = None) -> None:
    done = stack.cli(
        "watch", "add", name, "--stac", stac or stack.server.stac_url, "--bands", "scl", *words
    )
    assert done.exit_code == 0, done.output


def run(stack: Stack, *words: Any) -> dict[str, Any]:
    done = stack.cli("crawl", "--json", *words)
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def asked(stack: Stack) -> list[dict[str, Any]]:
    return [json.loads(row[0]) if isinstance(row[0], str) else row[0] for row in stack.rows(
        "SELECT query FROM crawls ORDER BY id"
    )]  # fmt: skip


def test_without_a_query_all_watches_run_from_where_they_have_got_to(stack: Stack) -> None:
    refused = stack.cli("crawl")
    assert refused.exit_code == 2
    assert "no query and no watch" in refused.stderr
    add(stack, "valley", "--tile", "10TFR")
    add(stack, "rest", "--datetime", f"{DATES[0]}/..")
    first = run(stack)
    assert (first["indexed"], set(first["watches"])) == (SCENES, {"rest", "valley"})
    newest = max(item["properties"]["updated"] for item in stack.items)
    valley = saved(stack, "valley")
    assert valley.watermark is not None
    assert valley.watermark <= datetime.fromisoformat(newest)
    assert valley.last_finished_at is not None
    stack.server.requests.reset()
    again = run(stack)
    # The server was asked for what changed, not for all.
    assert 0 < again["found"] < first["found"]
    assert (again["indexed"], again["requests"], again["failed"]) == (0, 0, 0)
    assert "updated_since" in asked(stack)[-1]
    assert run(stack, "--watch", "rest", "--full")["found"] == SCENES
    listed = json.loads(stack.cli("watch", "list", "--json").stdout)
    assert [row["name"] for row in listed] == ["rest", "valley"]
    assert "10TFR" in stack.cli("watch", "list").stdout
    status = json.loads(stack.cli("status", "--json").stdout)
    assert [row["name"] for row in status["watches"]] == ["rest", "valley"]
    assert "valley" in stack.cli("status").stdout
    assert stack.cli("watch", "remove", "rest").exit_code == 0
    assert set(run(stack)["watches"]) == {"valley"}


def test_an_incomplete_answer_moves_no_watermark_and_withdraws_nothing(
    local_stack: Stack,
) -> None:
    stack = local_stack
    add(stack, "valley", "--tile", "10TFR")
    run(stack)
    before = saved(stack, "valley").watermark
    short = {"features": stack.items[:1], "numberMatched": len(stack.items), "links": []}
    stack.server.faults.paths["/stac/v1/search"] = Fault(
        status=200, body=json.dumps(short).encode()
    )
    for how in ((), ("--full",), ("--sync",)):
        refused = stack.cli("crawl", "--watch", "valley", *how)
        assert refused.exit_code == 2, refused.stderr
        assert "incomplete answer is not believed" in refused.stderr
    stack.server.faults.reset()
    assert saved(stack, "valley").watermark == before
    assert stack.rows("SELECT count(*) FROM scenes WHERE status <> 'indexed'") == [(0,)]


def test_what_changed_since_is_found_and_an_interrupted_crawl_moves_nothing_on(
    stack: Stack,
) -> None:
    add(stack, "valley", "--tile", "10TFR")
    run(stack)
    before = saved(stack, "valley").watermark
    assert before is not None
    item = next(item for item in stack.items if "10TFR" in item["id"])
    later = before + timedelta(days=1)
    properties = item["properties"]
    kept = dict(properties)
    try:
        properties["updated"] = later.isoformat().replace("+00:00", "Z")
        properties["eo:cloud_cover"] = 77.0
        report = run(stack)
        assert (report["changed"], report["updated"], report["indexed"]) == (1, 1, 0)
        assert saved(stack, "valley").watermark == later
    finally:
        properties.clear()
        properties.update(kept)


def test_a_source_that_does_not_say_when_items_changed_is_looked_back_through(
    dialects_stack: Stack,
) -> None:
    stack = dialects_stack
    add(stack, "pc", "--collection", L2A, stac=stack.server.pc_stac_url)
    found = run(stack)["found"]
    watch = saved(stack, "pc")
    assert watch.watermark is None
    assert watch.last_finished_at is not None
    query = cron.question(watch)
    assert query.updated_since is None
    first = watch.last_finished_at - cron.LOOK_BACK
    assert query.datetime == f"{first:%Y-%m-%dT%H:%M:%S.%f}Z/.."
    assert run(stack)["found"] < found or found == 0


def test_a_watch_that_has_found_nothing_yet_is_asked_from_its_beginning(stack: Stack) -> None:
    """What is published later may be of any day: not of the look-back window alone."""
    add(stack, "valley", "--tile", "10TFR")
    published = list(stack.items)
    stack.items.clear()
    for _ in range(2):
        assert run(stack)["found"] == 0
        watch = saved(stack, "valley")
        assert (watch.last_finished_at is None, watch.has_found) == (False, False)
        assert cron.question(watch) == cron.question(watch, full=True)
    stack.items.extend(published)
    # Nor has a crawl that was stopped met all there are.
    stops: list[Callable[[], None]] = []
    engine = open_engine(stack.settings.database)
    try:
        report = cron.run_watch(
            stack.settings,
            engine,
            saved(stack, "valley"),
            on_start=stops.append,
            on_progress=lambda report: stops[0]() if report.found else None,
        )
    finally:
        engine.dispose()
    assert (report.interrupted, report.found > 0) == (True, True)
    watch = saved(stack, "valley")
    assert cron.question(watch) == cron.question(watch, full=True)
    run(stack)
    assert stack.rows("SELECT count(*) FROM scenes WHERE status = 'indexed'") == [(len(DATES),)]
    assert saved(stack, "valley").has_found
    assert cron.question(saved(stack, "valley")).updated_since is not None


WATCH = Watch(1, "w", {"stac": "http://127.0.0.1/", "collection": C1}, None, NOW, None, None)


@pytest.mark.parametrize(
    ("asked_for", "expected"),
    [
        (None, "2024-05-02T00:00:00Z/.."),
        ("2024-05-20/..", "2024-05-20T00:00:00Z/.."),
        ("2020/..", "2024-05-02T00:00:00Z/.."),
        ("../2024-05-10", "2024-05-02T00:00:00Z/2024-05-10T23:59:59.999999Z"),
        ("2023", "2023"),
    ],
)
def test_the_look_back_window_stays_within_the_question(
    asked_for: str | None, expected: str
) -> None:
    query = dict(WATCH.query) | ({"datetime": asked_for} if asked_for else {})
    watch = replace(WATCH, query=query, last_finished_at=NOW)
    assert cron.question(watch).datetime == expected
    assert cron.question(watch, full=True).datetime == asked_for
    assert cron.question(replace(watch, last_finished_at=None)).datetime == asked_for


def test_one_watch_that_fails_does_not_keep_the_others_from_running(stack: Stack) -> None:
    add(stack, "a-dead", stac="http://127.0.0.1:9/")
    add(stack, "valley", "--tile", "10TFR")
    done = stack.cli("crawl", "--json")
    assert done.exit_code == 2
    report = json.loads(done.stdout)
    assert report["indexed"] == len(DATES)
    assert "127.0.0.1:9" in report["watches"]["a-dead"]["error"]
    assert "watch a-dead: " in done.stderr
    assert "Traceback" not in done.output


def test_a_second_crawl_stops_with_3_or_waits(stack: Stack) -> None:
    assert stack.crawl(bands=["scl"], tiles=["10TFR"]).indexed == len(DATES)
    engine = open_engine(stack.settings.database)
    ((key,),) = stack.rows("SELECT id FROM repositories")
    crawls = stack.rows("SELECT count(*) FROM crawls")
    words = ("crawl", "--stac", stack.server.stac_url, "--bands", "scl")
    try:
        with lease.held(engine, key):
            refused = stack.cli(*words)
            assert refused.exit_code == 3
            assert refused.stderr.count("\n") == 1
            assert "another crawl" in refused.stderr
            assert stack.cli("maintain").exit_code == 3
            assert stack.cli("repair", "--wait", "0.1").exit_code == 3
        assert stack.rows("SELECT count(*) FROM crawls") == crawls
        waited = stack.cli(*words, "--wait")
        assert waited.exit_code == 0, waited.output
    finally:
        engine.dispose()


def test_metrics_are_prometheus_text(stack: Stack, tmp_path: Path) -> None:
    add(stack, "valley", "--tile", "10TFR")
    path = tmp_path / "metrics" / "cogcat.prom"
    path.parent.mkdir()
    run(stack, "--metrics", path)
    lines = path.read_text().splitlines()
    assert f'cogcat_crawl_indexed{{watch="valley"}} {len(DATES)}' in lines
    assert "# TYPE cogcat_crawl_failed gauge" in lines
    assert list(path.parent.iterdir()) == [path]


def test_upkeep_keeps_all_that_is_recorded_readable(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for date in DATES:
        stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=date)
    repository = stack.repository()
    branch = f"{C1}/10TFR"
    before = repository.history(branch, since=None)
    assert len(before) == len(DATES)
    with stack.connect() as cat:
        pixels = [scene.open(bands=["scl"])["scl"].to_numpy() for scene in cat.search()]
    planned = keep_up(stack.settings, keep=timedelta(0), dry_run=True)
    assert planned.expired == len(DATES) - 1
    assert [s.id for s in stack.repository().history(branch, since=None)] == [s.id for s in before]
    monkeypatch.setattr(upkeep, "GRACE", timedelta(0))
    real = upkeep.maintain
    monkeypatch.setattr(
        "catalog.setup.maintain", lambda *a, **kw: real(*a, **kw, grace=timedelta(0))
    )
    done = keep_up(stack.settings, keep=timedelta(0))
    assert done.expired == planned.expired
    assert done.objects_deleted > 0
    assert done.copies_deleted > 0
    with stack.connect() as cat:
        found = list(cat.search())
        assert {scene.snapshot_id for scene in found} == {before[-1].id}
        for scene, was in zip(found, pixels, strict=True):
            assert (scene.open(bands=["scl"])["scl"].to_numpy() == was).all()
        assert cat.cube("10TFR").sizes["time"] == len(DATES)
    recorded = {row[0] for row in stack.rows("SELECT id FROM snapshots")}
    assert recorded == {before[-1].id}
    # Each run leaves a copy or two of its own, for the next to remove: they do not add up.
    for _ in range(3):
        again = keep_up(stack.settings, keep=timedelta(0))
        assert again.expired == 0
        assert again.copies_kept <= 3
    # The next crawl goes on from there.
    assert stack.crawl(bands=["scl"], tiles=["10TFR"]).unchanged == len(DATES)
    assert stack.crawl(bands=["scl"]).indexed == SCENES - len(DATES)
    assert len(list(stack.repository().icechunk.ops_log())) > len(DATES)


def test_upkeep_refuses_while_a_head_is_not_recorded(stack: Stack) -> None:
    stack.crawl(bands=["scl"], tiles=["10TFR"])
    repository: Repository = stack.repository()
    session = repository.icechunk.writable_session(f"{C1}/10TFR")
    session.commit("by someone else", allow_empty=True)
    own = open_engine(stack.settings.database)
    ((key,),) = stack.rows("SELECT id FROM repositories")
    try:
        with lease.held(own, key) as held, pytest.raises(StoreError, match="cogcat repair"):
            upkeep.maintain(own, repository, key, held, keep=timedelta(0))
    finally:
        own.dispose()
