"""What an operator sees: ``cogcat status`` and the metrics of a crawl."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import make_scene
from prometheus_client.parser import text_fd_to_metric_families
from sqlalchemy import Engine, insert, select
from stacks import C1, DATES, SCENES, TILES, Stack
from test_changes import Recorder

from catalog.database import read_transaction, write_transaction
from catalog.models import LEASES, REPOSITORIES
from catalog.overview import overview
from catalog.status import status_counts

pytest_plugins = ["stacks"]

KEYS = {
    "database", "repository", "scenes", "collections", "tiles", "counts", "outdated",
    "incomplete", "incomplete_scenes", "duplicates",
    "unreadable_items", "newest", "lag_seconds", "branches", "snapshots", "watches", "crawls",
    "failures", "lease", "parked", "due", "store",
}  # fmt: skip


def add_watch(stack: Stack, name: str, *words: object) -> None:
    done = stack.cli(
        "watch", "add", name, "--stac", stack.server.stac_url, "--bands", "scl", *words
    )
    assert done.exit_code == 0, done.stderr


def shift_clock(stack: Stack, name: str, back: timedelta) -> None:
    """As if the watch's crawls and the watch itself were older."""
    with stack.engine() as engine, write_transaction(engine) as connection:
        from sqlalchemy import select, update

        from catalog.models import CRAWLS, WATCHES

        key = connection.execute(select(WATCHES.c.id).where(WATCHES.c.name == name)).scalar_one()
        rows = select(CRAWLS.c.id, CRAWLS.c.finished_at).where(CRAWLS.c.watch_id == key)
        for crawl, finished in connection.execute(rows).all():
            connection.execute(
                update(CRAWLS).where(CRAWLS.c.id == crawl).values(finished_at=finished - back)
            )


@pytest.fixture
def seen(stack: Stack) -> Stack:
    """Two watches, one overdue, and a file that is missing."""
    stack.server.misbehave(stack.href(stack.items[0], "scl"), status=404)
    add_watch(stack, "valley", "--tile", TILES[0])
    add_watch(stack, "hills", "--tile", TILES[1], "--datetime", "2023-01/2023-06")
    add_watch(stack, "sea", "--tile", "31TCJ")
    assert stack.cli("crawl").exit_code == 1
    # Twice, and it is parked.
    assert stack.cli("crawl", "--watch", "valley").exit_code == 1
    shift_clock(stack, "hills", timedelta(hours=30))
    return stack


def test_status_as_json(seen: Stack) -> None:
    now = datetime.now(UTC)
    found = json.loads(seen.cli("status", "--json").stdout)
    assert set(found) == KEYS
    assert found["scenes"] == {"failed": 1, "indexed": 4}
    assert found["collections"] == {C1: 5}
    assert found["tiles"] == {TILES[0]: 3, TILES[1]: 2}
    assert {"collection": C1, "tile": TILES[1], "status": "indexed", "scenes": 2} in found["counts"]
    assert found["snapshots"] == 2
    assert found["store"] is None
    assert len(found["crawls"]) == 4

    watches = {watch["name"]: watch for watch in found["watches"]}
    assert [(name, w["overdue"]) for name, w in watches.items()] == [
        ("hills", True), ("sea", False), ("valley", False)
    ]  # fmt: skip
    assert watches["hills"]["newest"].startswith(DATES[1])
    assert watches["sea"]["newest"] is watches["sea"]["lag_seconds"] is None
    newest = datetime.fromisoformat(watches["hills"]["newest"])
    assert watches["hills"]["lag_seconds"] == pytest.approx((now - newest).total_seconds(), abs=60)
    assert watches["hills"]["quiet_seconds"] == pytest.approx(30 * 3600, abs=60)

    (failure,) = found["failures"]
    assert "the file is missing" in failure["reason"]
    assert (found["parked"], found["due"], failure["attempts"]) == (1, 0, 2)
    assert 3000 < failure["due_in_seconds"] <= 3600
    later = json.loads(seen.cli("status", "--json", "--overdue", "40").stdout)
    assert not any(watch["overdue"] for watch in later["watches"])


def test_status_in_80_columns(seen: Stack) -> None:
    text = seen.cli("status").stdout
    words = text.split()
    for line in text.splitlines():
        assert len(line) <= 80 or "://" in line or line.startswith("repository"), line
    assert words.count("OVERDUE") == 1
    assert "1: 0 due now, 1 parked" in text
    assert "tried 2 times, again in" in text
    assert "snapshots  2 on 2 branches" in text
    assert "never" not in text


def test_a_watch_that_never_ran_is_overdue_after_a_while(local_stack: Stack) -> None:
    add_watch(local_stack, "new", "--tile", TILES[0])
    with local_stack.engine() as engine, read_transaction(engine) as connection:
        soon, late = (
            overview(connection, 1, now=datetime.now(UTC) + timedelta(hours=hours))["watches"][0]
            for hours in (1, 27)
        )
    assert (soon["overdue"], late["overdue"]) == (False, True)
    assert soon["quiet_seconds"] is None
    assert "never" in local_stack.cli("status").stdout


def test_the_store_is_measured_when_asked(seen: Stack) -> None:
    found = json.loads(seen.cli("status", "--store", "--json").stdout)["store"]
    assert "store      " in seen.cli("status", "--store").stdout
    if not seen.moto:
        files = [path for path in Path(seen.location).rglob("*") if path.is_file()]
        assert found == {"bytes": sum(f.stat().st_size for f in files), "objects": len(files)}
    else:
        assert found["objects"] > 5
        assert found["bytes"] > 5000


def test_it_takes_as_many_statements_whatever_there_is(
    seen: Stack, statements: Callable[..., Any]
) -> None:
    with seen.connect() as cat, statements(cat._engine) as sent:
        cat.status()
    assert len(sent) == 8 + 3


@pytest.fixture
def many(engine: Engine, tmp_path: Path) -> Engine:
    """40 scenes of each of 5 tiles; all of the second lack a band, and two of the fourth."""
    Recorder(engine, tmp_path).commit(
        *(make_scene(f"s{n:03}", tile=f"10TF{n // 40}") for n in range(200))
    )
    with write_transaction(engine) as connection:
        missing = """UPDATE scenes SET missing = '["scl"]', warnings =
            '["scl is not indexed: the file is missing.", "red is not indexed: it is large."]'
            WHERE """
        connection.exec_driver_sql(missing + "tile = '10TF1'")
        connection.exec_driver_sql(missing + "item_id IN ('s120', 's121')")
    return engine


def test_scenes_without_a_band_are_named_up_to_a_limit(
    many: Engine, statements: Callable[..., Any]
) -> None:
    for limit, tiles in ((100, {"10TF1": 40, "10TF3": 2}), (3, {"10TF1": 3}), (0, {})):
        with read_transaction(many) as connection, statements(many) as sent:
            found = status_counts(connection, 1, failures=limit)
        assert found.incomplete == 42
        assert Counter(scene.tile for scene in found.incomplete_scenes) == tiles
        assert len(sent) == 3 + (limit > 0)
    with read_transaction(many) as connection:
        found = status_counts(connection, 1)
        (scene, *_) = found.incomplete_scenes
        assert (scene.bands, scene.reasons) == (("scl",), ("the file is missing",))
        times = [scene.id for scene in found.incomplete_scenes if scene.tile == "10TF1"]
        assert times == sorted(times)
    with write_transaction(many) as connection:
        connection.exec_driver_sql("UPDATE scenes SET warnings = '[]' WHERE tile = '10TF3'")
    with read_transaction(many) as connection:
        last = status_counts(connection, 1).incomplete_scenes[-1]
        assert last.reasons == ("no reason is recorded",)


def test_scenes_without_a_band_are_found_by_their_tiles(
    many: Engine, statements: Callable[..., Any]
) -> None:
    """No index says which of a million lack one."""
    if many.dialect.name != "sqlite":
        return
    with read_transaction(many) as connection, statements(many) as sent:
        status_counts(connection, 1)
        (statement,) = (text for text in sent if "json_each" in text)
        values = (1, '["10TF1"]', "indexed", 100, 0)
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    assert any("ix_scenes_tile_datetime (tile=?)" in row[3] for row in plan), plan


def test_a_catalog_without_anything(stack: Stack) -> None:
    found = json.loads(stack.cli("status", "--json").stdout)
    assert set(found) == KEYS
    assert (found["newest"], found["snapshots"], found["watches"]) == (None, 0, [])
    assert "scenes     none" in stack.cli("status").stdout


# Metrics


def families(path: Path) -> dict[str, dict[str, float]]:
    """As Prometheus' own parser reads the file: metric → label value → value."""
    found: dict[str, dict[str, float]] = {}
    with path.open() as text:
        for family in text_fd_to_metric_families(text):
            assert family.documentation, family.name
            assert family.type == "gauge"
            for sample in family.samples:
                label = next(iter(sample.labels.values()), "")
                found.setdefault(sample.name, {})[label] = sample.value
    return found


def test_metrics_of_watches(seen: Stack, tmp_path: Path) -> None:
    path = tmp_path / "cogcat.prom"
    path.write_text("what was there")
    before = datetime.now(UTC).timestamp()
    done = seen.cli("crawl", "--metrics", path)
    assert done.exit_code in (0, 1)
    found = families(path)
    names = {"valley", "hills", "sea"}
    assert set(found["cogcat_crawl_found"]) == set(found["cogcat_crawl_ok"]) == names
    assert found["cogcat_crawl_ok"] == dict.fromkeys(names, 1)
    last = found["cogcat_watch_last_success_timestamp_seconds"]
    assert set(last) == names
    assert min(last.values()) >= before - 1
    assert found["cogcat_run_timestamp_seconds"][""] >= before
    newest = found["cogcat_watch_newest_scene_timestamp_seconds"]
    assert set(newest) == {"valley", "hills"}
    assert math.isclose(newest["hills"], 1683054718, abs_tol=86400)
    assert found["cogcat_scenes"]["indexed"] == 4
    assert found["cogcat_scenes"]["withdrawn"] == 0
    assert found["cogcat_parked"][""] + found["cogcat_due"][""] == 1
    assert [p.name for p in tmp_path.glob(".cogcat.prom*")] == []


def test_metrics_of_a_watch_that_broke_off(seen: Stack, tmp_path: Path) -> None:
    path = tmp_path / "cogcat.prom"
    seen.cli("crawl", "--metrics", path)
    before = families(path)["cogcat_watch_last_success_timestamp_seconds"]
    seen.server.misbehave("/stac/v1/search", status=400)
    seen.server.misbehave("/stac/v1", status=400)
    assert seen.cli("crawl", "--metrics", path).exit_code == 2
    found = families(path)
    assert found["cogcat_crawl_ok"] == dict.fromkeys(("valley", "hills", "sea"), 0)
    assert "cogcat_crawl_found" not in found
    assert found["cogcat_watch_last_success_timestamp_seconds"] == before


def test_metrics_of_a_single_crawl(local_stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "cogcat.prom"
    local_stack.cli(
        "crawl", "--stac", local_stack.server.stac_url, "--bands", "scl", "--metrics", path
    )
    found = families(path)
    assert found["cogcat_crawl_indexed"] == {"": SCENES}
    assert found["cogcat_crawl_ok"] == {"": 1}
    assert "cogcat_watch_overdue" not in found
    refused = local_stack.cli("crawl", "--tile", "10TFR", "--stac", local_stack.server.stac_url,
                              "--metrics", tmp_path / "no" / "place")  # fmt: skip
    assert refused.exit_code == 2
    assert "--metrics" in refused.stderr


def test_a_lease_is_shown_and_broken(stack: Stack) -> None:
    with stack.engine() as engine, write_transaction(engine) as connection:
        key = connection.execute(select(REPOSITORIES.c.id)).scalar_one()
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        row = {"holder": "elsewhere:boot:77:x", "acquired_at": tomorrow, "expires_at": tomorrow}
        connection.execute(insert(LEASES).values(repository_id=key, **row))
    stamp = tomorrow.isoformat().replace("+00:00", "Z")
    assert json.loads(stack.cli("status", "--json").stdout)["lease"] == {
        "holder": "elsewhere, process 77", "since": stamp, "until": stamp, "is_here": False,
    }  # fmt: skip
    assert "lease      elsewhere, process 77\n           since 2" in stack.cli("status").stdout
    busy = stack.cli("repair")
    assert busy.exit_code == 3
    assert "cogcat repair --break-lease" in busy.stderr
    assert stack.cli("repair", "--yes").exit_code == 2
    broken = stack.cli("repair", "--break-lease")
    assert broken.exit_code == 0
    assert "the lease was broken of elsewhere, process 77, since 2" in broken.stdout
    assert json.loads(stack.cli("repair", "--break-lease", "--json").stdout)["broken_lease"] is None
    assert json.loads(stack.cli("status", "--json").stdout)["lease"] is None
