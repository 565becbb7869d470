"""Items that go and come back, items whose files stay, and scenes that keep failing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from agreement import Died, assert_agree, item_at
from stacks import C1, DATES, SCENES, TILES, Stack, s3_client

from catalog import committer, failures, known, records
from catalog.cube_writer import scene_ids
from catalog.errors import NotFoundError, SourceError, UsageError
from catalog.setup import repair
from catalog.stac_query import StacQuery
from catalog.sync import scope

pytest_plugins = ["stacks"]

BANDS = ["red", "scl"]


@contextmanager
def clock(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> Iterator[None]:
    """Failures are recorded, and parked scenes looked at, as at ``moment``."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment.astimezone(tz)

    with monkeypatch.context() as patch:
        for module in (failures, known, records):
            patch.setattr(module, "datetime", Clock)
        patch.setattr("catalog.sieve.datetime", Clock)
        yield


# Gone from the source


def test_what_is_gone_is_withdrawn_and_reads_as_nodata(stack: Stack) -> None:
    stack.crawl(bands=BANDS)
    item = item_at(stack, "10TFR", DATES[1])
    old_pixels = stack.pixels(item, "red")
    with stack.connect() as cat:
        before = cat.scene(item["id"])
    stack.items.remove(item)
    # Without being asked for, nothing is.
    assert stack.crawl(bands=BANDS).withdrawn == 0
    report = stack.crawl(bands=BANDS, sync=True)
    assert (report.found, report.unchanged, report.withdrawn) == (SCENES - 1, SCENES - 1, 1)
    assert (report.commits, report.requests, report.failed) == (1, 0, 0)
    with stack.connect() as cat:
        gone = cat.scene(item["id"])
        assert (gone.status, gone.revision, gone.time_index) == ("withdrawn", 2, before.time_index)
        assert gone.refs_sha256 == records.NO_REFERENCES
        with pytest.raises(NotFoundError, match=rf"{item['id']} is withdrawn.*gone from the sour"):
            gone.open(bands=["red"])
        assert item["id"] not in cat.search().ids()
        assert cat.search(status="withdrawn").ids() == [item["id"]]
        cube = cat.cube("10TFR", bands=["red"])
        assert cube.sizes["time"] == len(DATES) - 1
        assert item["id"] not in cube["scene"].values
        # The snapshot it had still has it.
        then = cat.cube("10TFR", bands=["red"], as_of=before.snapshot_id)
        np.testing.assert_array_equal(then["red"][1], old_pixels)
        # A reader that knows nothing of cogcat finds nodata and no name, not stale pixels.
        plain = xr.open_zarr(
            cat.repository.store(gone.snapshot_id), group="r10m", zarr_format=3,
            consolidated=False, mask_and_scale=False,
        )  # fmt: skip
        assert not plain["red"][gone.time_index].to_numpy().any()
        assert plain["scene"].values[gone.time_index] == ""
        others = [index for index in range(len(DATES)) if index != gone.time_index]
        assert plain["red"][others].to_numpy().any(axis=(1, 2)).all()
    assert stack.rows("SELECT revision, status FROM scene_revisions") == [(1, "indexed")]
    assert_agree(stack, SCENES - 1)
    again = stack.crawl(bands=BANDS, sync=True)
    assert (again.withdrawn, again.commits) == (0, 0)


def test_what_comes_back_is_indexed_again(stack: Stack) -> None:
    stack.crawl(bands=BANDS)
    item = item_at(stack, "10TGR", DATES[0])
    stack.items.remove(item)
    assert stack.crawl(bands=BANDS, sync=True).withdrawn == 1
    stack.items.append(item)
    report = stack.crawl(bands=BANDS, sync=True)
    assert (report.new, report.indexed, report.withdrawn) == (1, 1, 0)
    with stack.connect() as cat:
        back = cat.scene(item["id"])
        assert (back.status, back.revision) == ("indexed", 3)
        # Its old place stays empty: an index that was cited once means one thing for ever.
        assert back.time_index == len(DATES)
        np.testing.assert_array_equal(back.open(bands=["red"])["red"], stack.pixels(item, "red"))
        cube = cat.cube("10TGR", bands=["red"])
        assert list(cube["scene"].values) == [item_at(stack, "10TGR", day)["id"] for day in DATES]
    states = stack.rows("SELECT revision, status FROM scene_revisions ORDER BY revision")
    assert states == [(1, "indexed"), (2, "withdrawn")]
    assert_agree(stack, SCENES)


def test_a_returning_item_that_cannot_be_read_stays_withdrawn(stack: Stack) -> None:
    stack.crawl(bands=BANDS)
    item = item_at(stack, "10TGR", DATES[0])
    stack.items.remove(item)
    stack.crawl(bands=BANDS, sync=True)
    stack.items.append(item)
    stack.server.misbehave(stack.href(item, "red"), status=404)
    assert stack.crawl(bands=BANDS).failed == 1
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        assert (scene.status, scene.attempts) == ("withdrawn", 1)
    # Gone once more, it is no longer waited for.
    stack.items.remove(item)
    assert stack.crawl(bands=BANDS, sync=True).withdrawn == 0
    with stack.connect() as cat:
        assert cat.scene(item["id"]).attempts == 0
    assert stack.rows("SELECT count(*) FROM scenes WHERE wanted_sha256 IS NOT NULL") == [(0,)]


def test_only_what_the_question_is_about_is_withdrawn(stack: Stack) -> None:
    stack.crawl(bands=BANDS)
    kept = item_at(stack, "10TFR", DATES[2])
    stack.items[:] = [kept]
    question: dict[str, Any] = {"tiles": ["10TFR"], "datetime": "2023-05", "bands": BANDS}
    dry = stack.crawl(sync=True, dry_run=True, **question)
    assert (dry.withdrawn, dry.commits) == (1, 0)
    assert_agree(stack, SCENES)
    assert stack.crawl(sync=True, **question).withdrawn == 1
    assert_agree(stack, SCENES - 1)
    assert stack.crawl(tiles=["10TGR"], sync=True, bands=BANDS).withdrawn == len(DATES)
    assert stack.crawl(sync=True, bands=BANDS).withdrawn == 1
    with stack.connect() as cat:
        assert cat.search().ids() == [kept["id"]]
        with pytest.raises(NotFoundError):
            cat.cube("10TGR")


def test_an_item_that_answers_the_question_no_longer_is_not_gone(stack: Stack) -> None:
    """Its cloud cover was corrected: the search with a limit does not return it, the source has
    it."""
    for item in stack.items:
        item["properties"]["eo:cloud_cover"] = 5.0
    stack.crawl(bands=BANDS, max_cloud_cover=20)
    item = item_at(stack, "10TFR", DATES[0])
    item["properties"]["eo:cloud_cover"] = 90.0
    report = stack.crawl(bands=BANDS, max_cloud_cover=20, sync=True)
    assert (report.withdrawn, report.updated, report.changed) == (0, 1, 1)
    with stack.connect() as cat:
        assert cat.scene(item["id"]).cloud_cover == 90.0
    assert_agree(stack, SCENES)


def test_a_search_that_breaks_off_withdraws_nothing(stack: Stack) -> None:
    stack.crawl(bands=BANDS)

    def broken() -> Iterator[Any]:
        yield copy.deepcopy(stack.items[0])
        raise SourceError("the API went away")

    with pytest.raises(SourceError):
        stack.crawl(bands=BANDS, sync=True, items=broken())
    assert_agree(stack, SCENES)


def test_never_indexed_and_gone_is_forgotten(stack: Stack) -> None:
    unread, unplaced = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TGR", DATES[0])
    stack.server.misbehave(stack.href(unread, "red"), status=404)
    del unplaced["properties"]["proj:epsg"]
    assert stack.crawl(bands=BANDS).failed == 2
    stack.items.remove(unread)
    stack.items.remove(unplaced)
    report = stack.crawl(bands=BANDS, sync=True)
    assert (report.withdrawn, report.failed, report.commits) == (0, 0, 0)
    with stack.connect() as cat:
        assert cat.search(status="any").count() == SCENES - 2
        assert cat.status()["failures"] == []


@pytest.mark.parametrize("point", ["before the commit", "after the commit", "before the record"])
def test_a_withdrawal_that_dies_is_completed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    stack.crawl(bands=BANDS)
    item = item_at(stack, "10TFR", DATES[1])
    stack.items.remove(item)
    module, name = {
        "before the commit": (committer, "withdraw_batch"),
        "after the commit": (committer, "withdraw_batch"),
        "before the record": (records, "record_indexed"),
    }[point]
    real = getattr(module, name)

    def dying(*args: Any, **kw: Any) -> Any:
        if point == "after the commit":
            real(*args, **kw)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying)
        with pytest.raises(Died):
            stack.crawl(bands=BANDS, sync=True)
    with stack.connect() as cat:
        # Until it is recorded, readers see the scene where it was.
        cat.scene(item["id"]).open(bands=["scl"])["scl"].load()
    mended = repair(stack.settings)
    assert mended.withdrawn == (0 if point == "before the commit" else 1)
    assert stack.crawl(bands=BANDS, sync=True).withdrawn == 1 - mended.withdrawn
    with stack.connect() as cat:
        assert cat.scene(item["id"]).status == "withdrawn"
    assert_agree(stack, SCENES - 1)


def test_a_variant_is_withdrawn_from_its_own_cube(own_files: Path, stack: Stack) -> None:
    from scenes import noise, write_small_cog

    item = item_at(stack, "10TFR", DATES[1])
    transform = tuple(item["assets"]["red"]["proj:transform"][:6])
    path = stack.path(item, "red")
    height, width = item["assets"]["red"]["proj:shape"]
    path.unlink()
    write_small_cog(path, noise(height, width), transform=transform, epsg=item_epsg(item))
    for key in ("file:size", "file:checksum"):
        item["assets"]["red"].pop(key, None)
    stack.crawl(bands=["red"])
    with stack.connect() as cat:
        assert cat.scene(item["id"]).root.startswith("variant-")
    stack.items.remove(item)
    assert stack.crawl(bands=["red"], sync=True).withdrawn == 1
    with stack.connect() as cat:
        head = cat.scene(item["id"]).snapshot_id
        assert item["id"] not in scene_ids(cat.repository.store(head))
        assert cat.cube("10TFR", bands=["red"]).sizes["time"] == len(DATES) - 1
    assert_agree(stack, SCENES - 1)


def item_epsg(item: dict[str, Any]) -> int:
    properties = item["properties"]
    return int(properties.get("proj:epsg") or properties["proj:code"].removeprefix("EPSG:"))


def test_sync_on_the_command_line(stack: Stack) -> None:
    url = stack.server.stac_url
    assert stack.cli("watch", "add", "all", "--stac", url, "--bands", "red,scl").exit_code == 0
    assert stack.cli("crawl").exit_code == 0
    del stack.items[0]
    # From its watermark a watch cannot know what is gone.
    assert json.loads(stack.cli("crawl", "--json").stdout)["withdrawn"] == 0
    done = stack.cli("crawl", "--sync", "--json")
    assert (done.exit_code, json.loads(done.stdout)["withdrawn"]) == (0, 1)
    del stack.items[0]
    said = stack.cli("crawl", "--stac", url, "--bands", "red,scl", "--sync").stdout
    assert "1 withdrawn" in said
    assert_agree(stack, SCENES - 2)
    for words in (["--limit", "3", "--stac", url], ["--items", "x.json"]):
        refused = stack.cli("crawl", "--sync", *words)
        assert refused.exit_code == 2
        assert "--sync" in refused.stderr
    with pytest.raises(UsageError, match="collection"):
        scope(url, StacQuery.parse())


# The same files


def test_a_file_touched_is_written_anew_even_if_its_item_says_it_is_the_same(
    own_files: Path, stack: Stack
) -> None:
    """References carry its time of last modification: they have to move with it."""
    import os

    stack.crawl(bands=BANDS, tiles=["10TFR"])
    item = item_at(stack, "10TFR", DATES[0])
    item["properties"]["eo:cloud_cover"] = 1.5
    path = stack.path(item, "red")
    later = path.stat().st_mtime + 60
    os.utime(path, (later, later))
    report = stack.crawl(bands=BANDS, tiles=["10TFR"])
    assert (report.changed, report.indexed, report.updated) == (1, 1, 0)
    with stack.connect() as cat:
        cat.scene(item["id"]).open(bands=["red"])["red"].load()


def test_on_s3_an_item_with_checksums_says_enough(s3_stack: Stack) -> None:
    stack = s3_stack
    stack.crawl(bands=BANDS, tiles=["10TFR"])
    heads = stack.rows("SELECT head_snapshot FROM branches")
    item, other = (item_at(stack, "10TFR", day) for day in DATES[:2])
    item["properties"]["eo:cloud_cover"] = 1.5
    # This one has no checksum to compare: its files are asked.
    other["properties"]["eo:cloud_cover"] = 2.5
    for band in BANDS:
        del other["assets"][band]["file:checksum"]
    report = stack.crawl(bands=BANDS, tiles=["10TFR"])
    assert (report.changed, report.updated, report.commits) == (2, 2, 0)
    assert report.requests == len(BANDS)
    assert stack.rows("SELECT head_snapshot FROM branches") == heads
    with stack.connect() as cat:
        for document, cloud in ((item, 1.5), (other, 2.5)):
            scene = cat.scene(document["id"])
            assert (scene.cloud_cover, scene.revision) == (cloud, 2)
            np.testing.assert_array_equal(
                scene.open(bands=["red"])["red"], stack.pixels(document, "red")
            )
        assert scene.assets["red"].checksum is None
    assert_agree(stack, len(DATES))
    assert stack.crawl(bands=BANDS, tiles=["10TFR"]).unchanged == len(DATES)


def test_an_object_replaced_with_another_etag_is_written_anew(s3_stack: Stack) -> None:
    stack = s3_stack
    stack.crawl(bands=BANDS, tiles=["10TFR"])
    item, other = (item_at(stack, "10TFR", day) for day in DATES[:2])
    bucket, _, key = item["assets"]["red"]["href"].removeprefix("https://").partition("/")
    s3_client(str(stack.moto)).put_object(
        Bucket=bucket.partition(".")[0],
        Key=key,
        Body=stack.path(other, "red").read_bytes(),
        ACL="public-read",
    )
    for name in ("file:size", "file:checksum"):
        item["assets"]["red"].pop(name)
    report = stack.crawl(bands=BANDS, tiles=["10TFR"])
    assert (report.changed, report.indexed, report.updated) == (1, 1, 0)
    with stack.connect() as cat:
        red = cat.scene(item["id"]).open(bands=["red"])["red"]
        np.testing.assert_array_equal(red, stack.pixels(other, "red"))


def test_an_offset_that_changes_is_written_anew(stack: Stack) -> None:
    """The store says it too, for those who read it alone."""
    stack.crawl(bands=BANDS)
    item = item_at(stack, "10TFR", DATES[0])
    item["properties"]["earthsearch:boa_offset_applied"] = True
    report = stack.crawl(bands=BANDS)
    assert (report.changed, report.indexed, report.updated) == (1, 1, 0)
    assert_agree(stack, SCENES)


# Failing again and again


def test_a_scene_that_keeps_failing_is_parked_and_blocks_no_other(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    unplaced = item_at(stack, "10TGR", DATES[0])
    del unplaced["properties"]["proj:epsg"]
    stack.server.misbehave(stack.href(item, "red"), status=404)
    start = datetime.now(UTC)
    with clock(monkeypatch, start):
        assert stack.crawl(bands=["red"]).failed == 2
        # Once may have been the network.
        assert stack.crawl(bands=["red"]).failed == 2
        report = stack.crawl(bands=["red"])
    assert (report.failed, report.parked, report.requests) == (0, 2, 0)
    assert report.unchanged == SCENES - 2
    delays = [delay for delay in failures.RETRY_DELAYS if delay]
    moment = start
    for delay in delays:
        with clock(monkeypatch, moment + delay - timedelta(seconds=1)):
            assert stack.crawl(bands=["red"]).parked == 2
        moment += delay
        with clock(monkeypatch, moment):
            assert stack.crawl(bands=["red"]).failed == 2
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        assert scene.attempts == 2 + len(delays)
        assert scene.next_attempt_at == moment + failures.RETRY_DELAYS[-1]
        assert "red" in str(scene.last_error)
    # Another item than the one that failed is tried at once.
    stack.server.faults.reset()
    item["properties"]["eo:cloud_cover"] = 3.0
    with clock(monkeypatch, moment):
        report = stack.crawl(bands=["red"])
    assert (report.indexed, report.parked) == (1, 1)
    assert_agree(stack, SCENES - 1)


def test_parked_scenes_are_tried_when_asked_for(stack: Stack) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    words = ["crawl", "--stac", stack.server.stac_url, "--bands", "red,scl", "--json"]
    stack.server.misbehave(stack.href(item, "red"), status=404)
    for _ in range(2):
        assert stack.cli(*words).exit_code == 1
    stack.server.faults.reset()
    parked = stack.cli(*words)
    assert (parked.exit_code, json.loads(parked.stdout)["parked"]) == (0, 1)
    assert json.loads(stack.cli(*words, "--ids", item["id"]).stdout)["indexed"] == 1

    item["properties"]["eo:cloud_cover"] = 2.0
    item["assets"]["red"]["file:size"] += 1
    for _ in range(2):
        stack.cli(*words)
    assert json.loads(stack.cli(*words).stdout)["parked"] == 1
    retried = stack.cli(*words, "--retry")
    assert (retried.exit_code, json.loads(retried.stdout)["failed"]) == (1, 1)


def test_a_watch_takes_up_what_its_search_does_not_return_again(stack: Stack) -> None:
    """A scene that failed lies behind the watermark."""
    url = stack.server.stac_url
    item = item_at(stack, "10TFR", DATES[0])
    item["properties"]["updated"] = "2023-04-01T00:00:00Z"
    stack.server.misbehave(stack.href(item, "red"), status=404)
    stack.cli("watch", "add", "all", "--stac", url, "--bands", "red,scl")
    assert stack.cli("crawl", "--json").exit_code == 1
    stack.server.faults.reset()
    done = json.loads(stack.cli("crawl", "--json").stdout)
    assert (done["retried"], done["indexed"], done["failed"]) == (1, 1, 0)
    assert_agree(stack, SCENES)
    assert json.loads(stack.cli("crawl", "--json").stdout)["retried"] == 0


# Twice the same acquisition


def test_an_acquisition_offered_twice_is_reported_and_the_newest_can_be_asked_for(
    stack: Stack,
) -> None:
    stack.crawl(bands=BANDS)
    first = item_at(stack, "10TFR", DATES[0])
    again = copy.deepcopy(first)
    again["id"] = first["id"].replace("_L2A", "_1_L2A")
    again["properties"]["s2:processing_baseline"] = "05.11"
    again["properties"]["s2:datatake_id"] = (
        again["properties"]["s2:datatake_id"].rpartition("_N")[0] + "_N05.11"
    )
    stack.items.append(again)
    report = stack.crawl(bands=BANDS)
    assert (report.new, report.indexed, report.duplicates) == (1, 1, 1)
    with stack.connect() as cat:
        assert cat.search(tile=TILES[0]).count() == len(DATES) + 1
        newest = cat.search(tile=TILES[0], newest=True)
        assert newest.count() == len(DATES)
        assert again["id"] in newest.ids()
        assert first["id"] not in newest.ids()
        assert cat.search(ids=first["id"], newest=True).count() == 0
    assert json.loads(stack.cli("status", "--json").stdout)["duplicates"] == 1
    assert "1 an acquisition that is there twice" in stack.cli("status").stdout
    asked = stack.cli("search", "--tile", TILES[0], "--newest", "--format", "ids").stdout.split()
    assert (len(asked), again["id"] in asked) == (len(DATES), True)
    # The newer one gone, the older is the newest there is.
    stack.items.remove(again)
    assert stack.crawl(bands=BANDS, sync=True).withdrawn == 1
    with stack.connect() as cat:
        assert first["id"] in cat.search(tile=TILES[0], newest=True).ids()
    assert stack.rows("SELECT name FROM collections") == [(C1,)]
