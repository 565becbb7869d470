"""A lost database is made anew: the same rows, the same pixels, whatever died in between."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import assert_agree, item_at
from sqlalchemy import text
from stacks import C1, DATES, L2A, SCENES, TILES, Stack, child_environment, s3_client
from test_crawl import relaid

from catalog import lease, upkeep
from catalog.errors import BusyError, ConfigError, SourceError, UsageError
from catalog.itemless import NO_ITEM
from catalog.setup import keep_up, rebuild, repair

pytest_plugins = ["stacks"]

Rows = list[dict[str, Any]]

NUMBERS = {
    "id", "repository_id", "collection_id", "branch_id", "scene_id", "crawl_id", "raster_id",
    "recorded_at", "replaced_at", "sequence", "replaced_by", "updated_at", "written_at",
    "registered_at",
}  # fmt: skip
"""The catalog's own numbers, and when it wrote something down."""
OF_ITEMS = {
    "datetime", "platform", "cloud_cover", "baseline", "acquisition", "footprint", "minx", "miny",
    "maxx", "maxy", "created", "updated", "boa_evidence", "warnings", "item_sha256",
}  # fmt: skip
"""What the repository alone does not say."""
SELECTS = {
    "scenes": "SELECT c.name AS collection, b.name AS branch, s.* FROM scenes s "
    "JOIN collections c ON c.id = s.collection_id LEFT JOIN branches b ON b.id = s.branch_id",
    "revisions": "SELECT s.item_id, b.name AS branch, r.* FROM scene_revisions r "
    "JOIN scenes s ON s.id = r.scene_id LEFT JOIN branches b ON b.id = r.branch_id",
    "assets": "SELECT s.item_id, a.*, r.* FROM assets a JOIN scenes s ON s.id = a.scene_id "
    "LEFT JOIN rasters r ON r.id = a.raster_id",
    "snapshots": "SELECT n.id AS snapshot, b.name AS branch, n.* FROM snapshots n "
    "JOIN branches b ON b.id = n.branch_id",
    "branches": "SELECT c.name AS collection, b.* FROM branches b "
    "JOIN collections c ON c.id = b.collection_id",
    "collections": "SELECT name, stac_url, dialect FROM collections",
    "tiles": "SELECT * FROM tiles",
}


def dump(stack: Stack) -> dict[str, Rows]:
    """What the database says, without what is its own business."""
    found: dict[str, Rows] = {}
    with stack.engine() as engine, engine.connect() as connection:
        for name, statement in SELECTS.items():
            rows = [dict(row) for row in connection.execute(text(statement)).mappings()]
            kept = [{k: _plain(v) for k, v in row.items() if k not in NUMBERS} for row in rows]
            found[name] = sorted(kept, key=repr)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("[", "{")):
        value = json.loads(value)
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value


def without(rows: Rows, *names: str) -> Rows:
    return sorted(
        ({key: value for key, value in row.items() if key not in names} for row in rows), key=repr
    )


def lose_database(stack: Stack) -> None:
    if stack.name == "sqlite+local":
        for path in stack.directory.glob("cogcat.db*"):
            path.unlink()
        return
    with stack.engine() as engine, engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def restored(stack: Stack, before: Any) -> None:
    """The database as a backup has it."""
    lose_database(stack)
    (stack.directory / "cogcat.db").write_bytes(before)


def reprocess(stack: Stack, band: str) -> None:
    """The oldest scene of 10TFR comes back with another file."""
    item, other = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[2])
    for key in ("href", "file:size", "file:checksum"):
        item["assets"][band][key] = other["assets"][band][key]
    item["properties"]["updated"] = "2024-01-01T00:00:00Z"


def crawl_a_history(stack: Stack, tmp_path: Path) -> None:
    """Several commits: a scene is reprocessed, one comes in another layout, one moves to it."""
    stack.crawl()
    reprocess(stack, "red")
    assert stack.crawl().changed == 1
    added = relaid(stack, tmp_path, "2023-04-01")
    stack.items.append(added)
    moved = item_at(stack, "10TFR", DATES[1])
    moved["assets"] = copy.deepcopy(added["assets"])
    moved["properties"]["updated"] = "2024-02-01T00:00:00Z"
    assert stack.crawl().indexed == 2


def pixels(stack: Stack) -> dict[str, Any]:
    """Of every scene, of the cube, and of the cube as it was."""
    found: dict[str, Any] = {}
    with stack.connect() as cat:
        for scene in cat.search():
            found[scene.id] = scene.open(resolution=20, bands=["red", "scl"]).load()
        found["cube"] = cat.cube("10TFR", bands=["red", "scl"], resolution=20).load()
        asked = "SELECT snapshot_id FROM scene_revisions WHERE snapshot_id IS NOT NULL"
        for number, snapshot in enumerate(sorted({row[0] for row in stack.rows(asked)})):
            cube = cat.cube("10TFR", bands=["red"], resolution=20, as_of=snapshot)
            found[f"then {number}"] = cube.load()
    return found


def assert_same_pixels(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, dataset in one.items():
        for band in dataset.data_vars:
            np.testing.assert_array_equal(dataset[band], other[name][band], err_msg=name)


def test_with_its_items_it_is_row_by_row_as_it_was(
    own_files: Path, stack: Stack, tmp_path: Path
) -> None:
    crawl_a_history(stack, tmp_path)
    before, seen = dump(stack), pixels(stack)
    assert {row["revision"] for row in before["scenes"]} == {1, 2}
    assert any(row["root"] for row in before["scenes"])
    lose_database(stack)

    done = stack.cli("rebuild", "--stac", stack.server.stac_url, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts.pop("seconds") > 0
    assert counts == {
        "branches": len(TILES), "commits": 4, "scenes": SCENES + 1, "revisions": 2, "withdrawn": 0,
        "complete": SCENES + 1, "partial": 0, "files_gone": 0, "files_changed": 0,
        "files_unread": 0, "lost": 0, "foreign": 0, "requests": counts["requests"],
    }  # fmt: skip

    after = dump(stack)
    for name in ("scenes", "assets", "snapshots", "branches", "collections"):
        assert after[name] == before[name], name
    # Items of earlier states are gone; what the store and the files say of them is there.
    earlier = [
        without(
            [row | {"assets": without(row["assets"], "checksum")} for row in rows["revisions"]],
            *OF_ITEMS,
        )
        for rows in (before, after)
    ]
    assert earlier[0] == earlier[1]
    assert len(earlier[0]) == 2
    assert_agree(stack, SCENES + 1)
    assert_same_pixels(pixels(stack), seen)

    again = stack.crawl()
    assert (again.unchanged, again.commits, again.requests) == (SCENES + 1, 0, 0)
    assert dump(stack) == after
    assert "nothing to rebuild" in stack.cli("rebuild").stdout


def test_without_items_it_is_what_the_repository_says_until_a_crawl_completes_it(
    own_files: Path, stack: Stack, tmp_path: Path
) -> None:
    crawl_a_history(stack, tmp_path)
    before, seen = dump(stack), pixels(stack)
    lose_database(stack)
    stack.init()

    with pytest.raises(ConfigError, match="run `cogcat rebuild`"):
        stack.crawl()
    done = rebuild(stack.settings)
    assert (done.scenes, done.complete, done.partial) == (SCENES + 1, 0, SCENES + 1)
    assert not done.damaged
    after = dump(stack)
    assert without(after["scenes"], *OF_ITEMS) == without(before["scenes"], *OF_ITEMS)
    assert without(after["assets"], "checksum") == without(before["assets"], "checksum")
    assert after["snapshots"] == before["snapshots"]
    assert after["branches"] == before["branches"]
    for old, new in zip(
        sorted(before["scenes"], key=lambda row: row["item_id"]),
        sorted(after["scenes"], key=lambda row: row["item_id"]),
        strict=True,
    ):
        assert new["platform"] == old["platform"]
        assert (new["cloud_cover"], new["baseline"], new["updated"]) == (None, None, None)
        assert "without its item" in new["warnings"][0]
        # The tile holds every footprint that lies on it.
        for low in ("minx", "miny"):
            assert new[low] <= old[low] + 1e-6
        for high in ("maxx", "maxy"):
            assert new[high] >= old[high] - 1e-6
    with stack.connect() as cat:
        assert {scene.item_sha256 for scene in cat.search()} == {NO_ITEM}
        assert cat.search(bbox=(-121.9, 45.5, -121.0, 46.2)).count() > 0
    assert_agree(stack, SCENES + 1)
    assert_same_pixels(pixels(stack), seen)

    assert stack.crawl().changed == SCENES + 1
    completed = dump(stack)
    moving = ("revision", "snapshot_id")
    assert without(completed["scenes"], *moving) == without(before["scenes"], *moving)
    assert completed["assets"] == before["assets"]
    assert completed["collections"] == before["collections"]
    assert_agree(stack, SCENES + 1)
    assert stack.crawl().unchanged == SCENES + 1


def test_several_dialects_each_from_its_own_source(dialects_stack: Stack, tmp_path: Path) -> None:
    """A file of items in any order, of more scenes than are there, for one collection; the API for
    the other."""
    stack = dialects_stack
    assert stack.crawl(collection=C1, bands=["red", "scl", "visual"]).indexed == 2
    assert stack.crawl(collection=L2A, stac=stack.server.pc_stac_url).indexed == 2
    before = dump(stack)
    items = copy.deepcopy(stack.items)
    stray = copy.deepcopy(items[0])
    stray["id"] = stray["id"].replace("S2A", "S2B")
    served = json.dumps([stray, *reversed(items)])
    path = tmp_path / "items.json"
    path.write_text(served.replace(stack.server.archive.base_url, stack.server.url))
    lose_database(stack)

    first = rebuild(stack.settings, items=path, collection=C1)
    assert (first.branches, first.scenes, first.complete) == (1, 2, 2)
    second = rebuild(stack.settings, stac=stack.server.pc_stac_url)
    assert (second.branches, second.scenes, second.complete) == (1, 2, 2)
    after = dump(stack)
    after["collections"][0]["stac_url"] = before["collections"][0]["stac_url"]
    assert after == before


def test_files_on_s3_without_items(s3_stack: Stack) -> None:
    """Hrefs are those of the items, though the references name a bucket; a file whose bytes
    changed behind the same header is noticed by its ETag."""
    stack = s3_stack
    assert stack.crawl(tiles=["10TFR"], bands=["red", "visual"]).indexed == len(DATES)
    before = dump(stack)
    item = item_at(stack, "10TFR", DATES[0])
    content = bytearray(stack.path(item, "red").read_bytes())
    content[-1] ^= 0xFF
    bucket, _, key = item["assets"]["red"]["href"].removeprefix("https://").partition("/")
    s3_client(str(stack.moto)).put_object(
        Bucket=bucket.partition(".")[0], Key=key, Body=bytes(content), ACL="public-read"
    )
    lose_database(stack)
    done = rebuild(stack.settings)
    assert (done.scenes, done.files_changed, done.files_gone) == (len(DATES), 1, 0)
    after = dump(stack)
    where = ("item_id", "band", "href")
    hrefs = [[{k: row[k] for k in where} for row in d["assets"]] for d in (before, after)]
    assert hrefs[0] == hrefs[1]
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        assert "red: the file is no longer the one that is referenced." in scene.warnings
        assert (scene.assets["red"].etag, scene.assets["red"].header_length) == (None, 0)
        assert scene.assets["visual"].etag is not None


def test_files_that_are_gone_or_changed_are_named_and_their_scenes_recorded(
    own_files: Path, stack: Stack
) -> None:
    stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    before = dump(stack)
    gone, other, changed = (item_at(stack, "10TFR", date) for date in DATES)
    lose_database(stack)
    hidden = stack.path(gone, "red").read_bytes()
    stack.path(gone, "red").unlink()
    # Another image of the same size lies where it was: its tiles are elsewhere.
    kept = stack.path(changed, "red").stat()
    was = stack.path(changed, "red").read_bytes()
    stack.path(changed, "red").write_bytes(stack.path(other, "red").read_bytes())
    os.utime(stack.path(changed, "red"), (kept.st_mtime, kept.st_mtime))
    done = stack.cli("rebuild", "--stac", stack.server.stac_url, "--json")
    assert done.exit_code == 1, done.output
    counts = json.loads(done.stdout)
    assert (counts["scenes"], counts["complete"], counts["partial"]) == (3, 1, 2)
    assert (counts["files_gone"], counts["files_changed"]) == (1, 1)
    with stack.connect() as cat:
        for item, reason in ((gone, "missing"), (changed, "bytes, its item says")):
            scene = cat.scene(item["id"])
            assert scene.status == "indexed"
            assert any(text.startswith("red: ") and reason in text for text in scene.warnings)
            assert scene.cloud_cover == item["properties"]["eo:cloud_cover"]
            assert scene.item_sha256 == NO_ITEM
            assert scene.assets["red"].header_length == 0
            assert scene.assets["scl"].header_length > 0
        assert cat.scene(other["id"]).item_sha256 != NO_ITEM
    # When they are back, a crawl completes what is not whole and leaves the rest.
    for item, content in ((gone, hidden), (changed, was)):
        stack.path(item, "red").write_bytes(content)
        os.utime(stack.path(item, "red"), (kept.st_mtime, kept.st_mtime))
    report = stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    assert (report.changed, report.unchanged) == (2, 1)
    moving = ("revision", "snapshot_id")
    assert without(dump(stack)["scenes"], *moving) == without(before["scenes"], *moving)


def test_an_item_that_moved_on_is_left_for_the_crawl(own_files: Path, stack: Stack) -> None:
    stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    lose_database(stack)
    item, other = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[2])
    item["assets"]["red"]["href"] = other["assets"]["red"]["href"]
    for key in ("file:size", "file:checksum"):
        item["assets"]["red"][key] = other["assets"]["red"][key]
    done = stack.cli("rebuild", "--stac", stack.server.stac_url, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["partial"] == 1
    with stack.connect() as cat:
        assert cat.scene(item["id"]).cloud_cover is None
    report = stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    assert (report.changed, report.indexed) == (1, 1)
    assert_agree(stack, len(DATES))


def test_a_store_that_does_not_answer_stops_it(stack: Stack) -> None:
    stack.crawl(tiles=["10TFR"], bands=["scl"])
    before = dump(stack)
    lose_database(stack)
    for item in stack.items:
        stack.server.misbehave(stack.href(item, "scl"), status=403)
    with pytest.raises(SourceError, match=r"10TFR: no file of commit .* can be read: .*scl"):
        rebuild(stack.settings, stac=stack.server.stac_url)
    assert dump(stack)["scenes"] == []
    stack.server.faults.reset()
    assert rebuild(stack.settings, stac=stack.server.stac_url).complete == len(DATES)
    assert dump(stack) == before


KILLER = """
import os, signal, sys
from catalog import rebuild, records
point, at, config, stac = sys.argv[1:]
calls = 0
real = records.record_indexed

def record_indexed(*args, **kw):
    global calls
    calls += 1
    if calls < int(at):
        return real(*args, **kw)
    if point == "recording":
        real(*args, **kw)
    os.kill(os.getpid(), signal.SIGKILL)

def files(real_check):
    async def check(*args, **kw):
        result = await real_check(*args, **kw)
        global calls
        calls += 1
        if calls == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return check

if point == "reading":
    rebuild.check_files = files(rebuild.check_files)
else:
    records.record_indexed = record_indexed

from catalog.cli import main
main(["rebuild", "--stac", stac, "--config", config])
"""


@pytest.mark.parametrize(
    ("point", "at"), [("recording", 1), ("recording", 2), ("recorded", 3), ("reading", 5)]
)
def test_a_killed_rebuild_goes_on_where_it_was(stack: Stack, point: str, at: int) -> None:
    for date in (DATES[0], DATES[1]):
        stack.crawl(bands=["scl"], datetime=date)
    reprocess(stack, "scl")
    stack.crawl(bands=["scl"], datetime=DATES[0])
    before = dump(stack)
    lose_database(stack)
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, point, str(at), str(stack.config), stack.server.stac_url],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(),
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    half = stack.rows("SELECT count(*) FROM snapshots")[0][0]
    assert 0 <= half < 5
    with stack.connect() as cat:
        for scene in cat.search():
            scene.open(bands=["scl"]).load()
    if half:
        with pytest.raises(ConfigError, match="run `cogcat rebuild`"):
            stack.crawl(bands=["scl"])
    done = rebuild(stack.settings, stac=stack.server.stac_url)
    assert done.commits == 5 - half
    after = dump(stack)
    for name in ("scenes", "assets", "snapshots", "branches", "collections", "tiles"):
        assert after[name] == before[name], name
    assert_agree(stack, 4)
    assert stack.crawl(bands=["scl"], datetime=f"{DATES[0]}/{DATES[1]}").unchanged == 4


def test_a_backup_that_is_behind_is_completed(local_stack: Stack) -> None:
    stack = local_stack
    stack.crawl(bands=["scl"], datetime=DATES[0])
    backup = (stack.directory / "cogcat.db").read_bytes()
    stack.crawl(bands=["scl"], datetime=DATES[1])
    before = dump(stack)
    restored(stack, backup)
    with pytest.raises(ConfigError, match="cogcat rebuild"):
        repair(stack.settings)
    assert rebuild(stack.settings, stac=stack.server.stac_url).complete == len(TILES)
    assert dump(stack) == before


def test_a_database_of_another_history_is_refused(stack: Stack) -> None:
    stack.crawl(bands=["scl"], tiles=["10TFR"])
    repository = stack.repository()
    repository.reset(f"{C1}/10TFR", repository.first_snapshot())
    before = stack.everything()
    with pytest.raises(ConfigError, match=r"another history .* rebuild into an empty database"):
        rebuild(stack.settings)
    done = stack.cli("rebuild")
    assert done.exit_code == 2
    assert "another history" in done.stderr
    assert stack.everything() == before


def test_one_at_a_time_and_one_source_of_items(stack: Stack) -> None:
    stack.crawl(bands=["scl"], tiles=["10TFR"])
    key = stack.rows("SELECT id FROM repositories")[0][0]
    with stack.engine() as engine, lease.held(engine, key), pytest.raises(BusyError):
        rebuild(stack.settings)
    with pytest.raises(UsageError, match="not both"):
        rebuild(stack.settings, stac="https://example.org", items="items.json")


def test_no_repository_leaves_no_database(bare_stack: Stack) -> None:
    stack = bare_stack
    with pytest.raises(ConfigError, match="no repository"):
        rebuild(stack.settings)
    if stack.name == "sqlite+local":
        assert not (stack.directory / "cogcat.db").exists()


def test_a_container_without_a_source_is_named(stack: Stack) -> None:
    stack.crawl(bands=["scl"], tiles=["10TFR"])
    lose_database(stack)
    stack.sources = []
    stack.write_config()
    with pytest.raises(ConfigError, match=r"container 'demo'.*\[\[sources\]\]"):
        rebuild(stack.settings)


def test_commits_that_have_expired(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scenes are found in the first commit that is left."""
    for date in DATES:
        stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=date)
    reprocess(stack, "scl")
    stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=DATES[0])
    history = stack.repository().history(f"{C1}/10TFR", since=None)
    cut = history[1].written_at + (history[2].written_at - history[1].written_at) / 2
    real = upkeep.maintain

    def maintain(*args: Any, keep: timedelta, **options: Any) -> upkeep.Upkeep:
        return real(*args, keep=datetime.now(UTC) - cut, grace=timedelta(0), **options)

    monkeypatch.setattr("catalog.setup.maintain", maintain)
    assert keep_up(stack.settings, keep=timedelta(0)).expired == 2
    before, seen = dump(stack), len(DATES)
    lose_database(stack)
    done = rebuild(stack.settings, stac=stack.server.stac_url)
    assert (done.scenes, done.complete, done.lost, done.commits) == (seen, seen, 0, 2)
    after = dump(stack)
    assert {row["snapshot"] for row in after["snapshots"]} == {info.id for info in history[2:]}
    same = ("snapshot_id", "revision")
    assert without(after["scenes"], *same) == without(before["scenes"], *same)
    assert_agree(stack, seen)
    assert stack.crawl(bands=["scl"], tiles=["10TFR"]).unchanged == seen


def test_withdrawn_scenes_stay_withdrawn(stack: Stack) -> None:
    asked: dict[str, Any] = {"bands": ["scl"], "tiles": ["10TFR"]}
    stack.crawl(**asked)
    gone, back = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[1])
    stack.items.remove(gone)
    stack.items.remove(back)
    assert stack.crawl(sync=True, **asked).withdrawn == 2
    stack.items.append(back)
    assert stack.crawl(**asked).indexed == 1
    before = dump(stack)
    lose_database(stack)
    done = rebuild(stack.settings, stac=stack.server.stac_url)
    assert (done.scenes, done.withdrawn, done.complete, done.partial) == (2, 2, 2, 0)
    after = dump(stack)
    for name in ("snapshots", "branches"):
        assert after[name] == before[name], name
    assert without(after["scenes"], *OF_ITEMS) == without(before["scenes"], *OF_ITEMS)
    with stack.connect() as cat:
        assert cat.scene(gone["id"]).status == "withdrawn"
        assert cat.scene(back["id"]).item_sha256 != NO_ITEM
    assert_agree(stack, 2)
    assert stack.crawl(sync=True, **asked).unchanged == 2
