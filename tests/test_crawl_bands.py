"""A band that cannot be read keeps no other from being indexed: what the record says, when it is
tried again, and who wants all or nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from agreement import Item, assert_agree, item_at
from alembic import command
from alembic.config import Config
from conftest import ROOT
from stacks import C1, DATES, SCENES, Stack
from worlds import copied

from catalog import committer as committer_module
from catalog import records
from catalog.database import migrate, migration_connection, write_transaction
from catalog.errors import StoreError, UsageError
from catalog.failures import RETRY_DELAYS
from catalog.setup import open_crawl, rebuild

pytest_plugins = ["stacks"]

TWO = ["red", "scl"]


def tiff(**options: Any) -> bytes:
    """Sound, and none that a reference can be made of, as ``options`` say."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.tif"
        profile: dict[str, Any] = {
            "driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint16",
            "crs": "EPSG:32610", "transform": (20.0, 0, 600000, 0, -20.0, 5100000),
            "tiled": True, "blockxsize": 64, "blockysize": 64,
        }  # fmt: skip
        profile |= options
        profile["transform"] = rasterio.Affine(*profile["transform"])
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.ones((1, 64, 64), profile["dtype"]))
        return path.read_bytes()


FOR_GOOD: dict[str, tuple[dict[str, Any], str]] = {
    "striped": ({"tiled": False}, "striped, not tiled"),
    "jpeg": ({"compress": "JPEG", "dtype": "uint8"}, "compression 7"),
    "15 bits": ({"nbits": 15}, "15"),
    "floats": ({"dtype": "float32"}, "float32"),
    "elsewhere": ({"crs": "EPSG:32611"}, "EPSG:32611"),
    "predictor": ({"compress": "ZSTD", "dtype": "float32", "predictor": 3}, "float32"),
}


def spoil(stack: Stack, item: Item, band: str, **options: Any) -> None:
    """Its file is another; the item is not to contradict it."""
    for name in ("file:size", "file:checksum", "proj:shape", "proj:transform"):
        item["assets"][band].pop(name, None)
    stack.server.misbehave(stack.href(item, band), body=tiff(**options))


@contextmanager
def missing(stack: Stack, item: Item, band: str) -> Iterator[None]:
    path = stack.server.misbehave(stack.href(item, band), status=404)
    yield
    faults = stack.server.faults.paths
    for key in [key for key, fault in faults.items() if fault is path]:
        del faults[key]


def scene_of(stack: Stack, item: Item) -> Any:
    with stack.connect() as cat:
        found = cat.scene(item["id"])
        return found.record, dict(found.assets)


def status(stack: Stack) -> dict[str, Any]:
    with stack.connect() as cat:
        return cat.status()


@pytest.mark.parametrize("how", FOR_GOOD)
def test_a_file_that_can_never_be_referenced_costs_its_own_band(
    local_stack: Stack, how: str
) -> None:
    options, reason = FOR_GOOD[how]
    item = item_at(local_stack, "10TFR", DATES[0])
    spoil(local_stack, item, "scl", **options)
    report = local_stack.crawl(bands=TWO)
    assert (report.indexed, report.failed, report.incomplete) == (SCENES, 0, 1)
    record, assets = scene_of(local_stack, item)
    assert (record.missing, list(assets)) == (("scl",), ["red"])
    (warning,) = record.warnings
    assert warning.startswith("scl is not indexed: ")
    assert reason in warning


def test_what_is_recorded_and_shown_and_that_it_is_read_once(stack: Stack) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)
    stack.crawl(bands=TWO)
    before = stack.everything()
    again = stack.crawl(bands=TWO)
    assert (again.unchanged, again.requests) == (SCENES, 0)
    assert stack.everything() == before
    # Fewer bands, and those that are there.
    assert stack.crawl(bands=["red"]).unchanged == SCENES

    found = status(stack)
    assert found["incomplete"] == 1
    (lacks,) = found["incomplete_scenes"]
    assert lacks == {
        "id": item["id"], "collection": C1, "tile": "10TFR", "bands": ["scl"],
        "reasons": [lacks["reasons"][0]],
    }  # fmt: skip
    assert lacks["reasons"][0].startswith("striped, not tiled")
    said = stack.cli("status").stdout
    assert "1 without a band that cannot be read" in said
    assert "\nincomplete 1: `cogcat crawl --retry" in said
    assert f"  {item['id']}\n    scl: striped, not tiled" in said
    shown = json.loads(stack.cli("show", item["id"], "--json").stdout)
    assert shown["missing"] == ["scl"]
    assert "striped" in shown["warnings"][0]
    assert "striped" in stack.cli("show", item["id"]).stdout
    rows = json.loads(stack.cli("search", "--json").stdout)
    assert sum(row["missing"] == ["scl"] for row in rows) == 1
    assert "indexed without scl" in stack.cli("search").stdout
    with stack.connect() as cat:
        (lacking,) = (
            i for i in cat.search().items_as_dicts() if "cogcat:missing" in i["properties"]
        )
        assert lacking["properties"]["cogcat:missing"] == ["scl"]
        assert "scl" not in lacking["assets"]
        frame = cat.search().to_pandas()
        assert sorted(frame["missing"]) == [(), (), (), (), (), ("scl",)]
        # Its other band reads as ever.
        opened = cat.scene(item["id"]).open(bands=["red"], resolution=20)
        assert opened["red"].shape == (273, 273)

    # Asked for once more it is tried; the same again is no change.
    changes = len(stack.rows("SELECT 1 FROM scene_revisions"))
    tried = stack.crawl(bands=TWO, retry=True)
    assert (tried.reread, tried.unchanged, tried.changed, tried.indexed) == (1, SCENES, 0, 0)
    assert len(stack.rows("SELECT 1 FROM scene_revisions")) == changes
    # Mended, it comes in.
    stack.server.faults.reset()
    mended = stack.crawl(bands=TWO, retry=True)
    assert (mended.reread, mended.changed, mended.indexed) == (1, 1, 1)
    record, assets = scene_of(stack, item)
    assert (record.missing, record.warnings, list(assets)) == ((), (), TWO)
    assert (status(stack)["incomplete"], status(stack)["incomplete_scenes"]) == (0, [])
    assert record.revision == 2
    assert_agree(stack, SCENES)


@pytest.mark.parametrize("mended", [True, False])
def test_when_the_item_changes_it_is_tried_again(stack: Stack, mended: bool) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)
    stack.crawl(bands=TWO)
    item["properties"]["eo:cloud_cover"] = 3.25
    if mended:
        stack.server.faults.reset()
    report = stack.crawl(bands=["red"])
    assert (report.changed, report.indexed, report.updated) == (1, int(mended), int(not mended))
    record, assets = scene_of(stack, item)
    assert record.cloud_cover == 3.25
    assert (record.missing == (), "scl" in assets) == (mended, mended)


def test_a_missing_file_is_waited_for_and_then_done_without(stack: Stack) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    with missing(stack, item, "scl"):
        for number in range(len(RETRY_DELAYS)):
            report = stack.crawl(bands=TWO, retry=True, tiles=["10TFR"])
            assert (report.failed, report.incomplete) == (1, 0), number
        assert status(stack)["incomplete"] == 0
        # The last of them from the records alone.
        last = stack.crawl(bands=TWO, retry=True, outstanding=True, tiles=["10TGR"])
        assert (last.retried, last.failed, last.incomplete) == (1, 0, 1)
        record, _ = scene_of(stack, item)
        assert record.missing == ("scl",)
        assert "scl is not indexed: the file is missing." in record.warnings
        assert (record.last_error, status(stack)["failures"]) == (None, [])
        assert stack.crawl(bands=TWO, tiles=["10TFR"]).unchanged == len(DATES)
        # Asked for once more, it is still missing, which is no news.
        for how in ({"retry": True}, {"reread": True}):
            again = stack.crawl(bands=TWO, tiles=["10TFR"], **how)
            assert (again.failed, again.unchanged, again.changed) == (0, len(DATES), 0)
        assert status(stack)["failures"] == []
    assert stack.crawl(bands=TWO, reread=True, ids=[item["id"]]).changed == 1
    assert scene_of(stack, item)[0].missing == ()
    assert_agree(stack, SCENES)


def test_a_retry_tries_once_what_records_and_search_both_name(stack: Stack) -> None:
    item, unreadable = (item_at(stack, "10TFR", DATES[n]) for n in (0, 1))
    unreadable["properties"]["datetime"] = "soon"

    def attempts() -> list[Any]:
        scenes = "SELECT attempts FROM scenes WHERE wanted_sha256 IS NOT NULL"
        return stack.rows(f"{scenes} UNION ALL SELECT attempts FROM item_failures")

    def retry() -> dict[str, Any]:
        report: dict[str, Any] = json.loads(stack.cli(*retried, "--json").stdout)["watches"]["w"]
        return report

    stack.cli("watch", "add", "w", "--stac", stack.server.stac_url, "--bands", "red,scl")
    retried = ("crawl", "--retry", "--full")
    with missing(stack, item, "scl"):
        stack.cli("crawl")
        for number in range(2, len(RETRY_DELAYS) + 1):
            assert retry()["failed"] == 2
            assert attempts() == [(number,), (number,)]
        # Done without the band at last, it is not begun anew by the same crawl.
        report = retry()
        assert (report["incomplete"], report["failed"]) == (1, 1)
        assert attempts() == [(len(RETRY_DELAYS) + 1,)]


# Taken up by watches


def watched(stack: Stack, name: str = "w", *words: str) -> None:
    done = stack.cli("watch", "add", name, "--stac", stack.server.stac_url, *words)
    assert done.exit_code == 0, done.output


def run(stack: Stack, *words: str, code: int = 0) -> dict[str, Any]:
    stack.server.requests.reset()
    done = stack.cli("crawl", "--json", *words)
    assert done.exit_code == code, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def reads(stack: Stack, item: Item) -> int:
    """How often an item's files were read, by its red one."""
    path = urlsplit(stack.href(item, "red")).path
    return sum(request.path == path for request in stack.file_requests())


def test_a_watch_takes_up_what_lacks_a_band_though_it_lies_behind_its_window(stack: Stack) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)
    watched(stack, "w", "--bands", "red,scl")
    assert run(stack)["incomplete"] == 1
    before = stack.everything()
    # Not by itself, and nothing is written where nothing has changed.
    found = run(stack)["found"]
    assert (found < SCENES, reads(stack, item)) == (True, 0)
    report = run(stack, "--retry")
    assert (report["reread"], report["changed"], report["indexed"]) == (1, 0, 0)
    assert (report["found"], reads(stack, item)) == (found + 1, 1)
    assert stack.everything() == before
    stack.server.faults.reset()
    assert run(stack)["indexed"] == 0
    report = run(stack, "--retry")
    assert (report["reread"], report["changed"], report["indexed"]) == (1, 1, 1)
    record, assets = scene_of(stack, item)
    assert (record.missing, record.revision, list(assets)) == ((), 2, TWO)
    assert run(stack, "--retry")["reread"] == 0
    assert_agree(stack, SCENES)


def test_what_is_missing_for_good_is_not_begun_anew(local_stack: Stack) -> None:
    item = item_at(local_stack, "10TFR", DATES[0])
    watched(local_stack, "w", "--bands", "red,scl")
    with missing(local_stack, item, "scl"):
        for _ in range(len(RETRY_DELAYS) + 1):
            local_stack.cli("crawl", "--retry")
        assert scene_of(local_stack, item)[0].missing == ("scl",)
        before = local_stack.everything()
        report = run(local_stack, "--retry")
        assert (report["reread"], report["failed"]) == (1, 0)
        assert local_stack.everything() == before
        # A band that was there is waited for as ever.
        with missing(local_stack, item, "red"):
            assert run(local_stack, "--retry", code=1)["failed"] == 1
    assert run(local_stack, "--retry")["indexed"] == 1
    assert scene_of(local_stack, item)[0].missing == ()


def test_several_watches_of_a_collection_take_up_once(local_stack: Stack) -> None:
    stack = local_stack
    lacks, fails, odd = (item_at(stack, "10TFR", DATES[n]) for n in range(3))
    spoil(stack, lacks, "scl", tiled=False)
    when = odd["properties"].pop("datetime")
    for name, tile in (("a", "10TFR"), ("b", "10TGR"), ("c", "10TGR"), ("d", "10TFR")):
        watched(stack, name, "--tile", tile, "--bands", "red,scl")

    def attempts() -> list[Any]:
        scenes = "SELECT attempts FROM scenes WHERE wanted_sha256 IS NOT NULL"
        return stack.rows(f"{scenes} UNION ALL SELECT attempts FROM item_failures")

    with missing(stack, fails, "scl"):
        run(stack, "--watch", "a", code=1)
        run(stack, "--watch", "b", code=1)
        before = attempts()
        report = run(stack, "--retry", code=1)
        assert attempts() == [(number + 1,) for (number,) in before]
        assert (report["retried"], report["reread"]) == (1, 1)
        assert [reads(stack, one) for one in (lacks, fails, odd)] == [1, 1, 0]
        # Also by their own search, whatever each asks.
        report = run(stack, "--retry", "--full", code=1)
        assert attempts() == [(number + 2,) for (number,) in before]
        assert (report["reread"], reads(stack, lacks)) == (1, 1)
    stack.server.faults.reset()
    odd["properties"]["datetime"] = when
    assert run(stack, "--retry")["indexed"] == 3
    assert_agree(stack, SCENES)


def test_another_watch_s_scene_keeps_its_bands_and_is_no_failure(local_stack: Stack) -> None:
    """Whoever indexed it wanted two bands, and required none."""
    stack = local_stack
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)
    stack.crawl(bands=TWO)
    watched(stack, "w", "--tile", "10TGR", "--require", "scl,nir", "--bands", "red,scl,nir")
    run(stack)
    before = stack.rows("SELECT * FROM scenes WHERE tile = '10TFR'")
    assert run(stack, "--retry")["reread"] == 1
    assert stack.rows("SELECT * FROM scenes WHERE tile = '10TFR'") == before
    stack.server.faults.reset()
    assert run(stack, "--retry")["indexed"] == 1
    assert list(scene_of(stack, item)[1]) == TWO
    # One that is gone from the source stays as it is.
    spoil(stack, item, "scl", tiled=False)
    assert stack.crawl(bands=TWO, reread=True).incomplete == 1
    stack.items.remove(item)
    assert run(stack, "--retry")["reread"] == 0
    assert scene_of(stack, item)[0].missing == ("scl",)


def test_a_scene_without_any_file_fails(local_stack: Stack) -> None:
    item = item_at(local_stack, "10TFR", DATES[0])
    for band in TWO:
        spoil(local_stack, item, band, tiled=False)
    report = local_stack.crawl(bands=TWO)
    assert (report.indexed, report.failed) == (SCENES - 1, 1)
    assert "striped" in report.failures[0].reason


def test_whoever_wants_all_or_nothing_requires_it(stack: Stack) -> None:
    item, lacking = (item_at(stack, "10TFR", DATES[n]) for n in (0, 1))
    spoil(stack, item, "scl", tiled=False)
    gone = lacking["assets"].pop("scl")
    arguments = ("--stac", stack.server.stac_url, "--bands", "red,scl")
    done = stack.cli("watch", "add", "w", *arguments, "--require", "SCL")
    assert done.exit_code == 0, done.output
    done = stack.cli("crawl", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["failed"], report["indexed"]) == (1, 2, SCENES - 2)
    reasons = {f["scene"]: f["reason"] for f in report["watches"]["w"]["failures"]}
    assert "striped" in reasons[item["id"]]
    assert "no asset for band scl, required here" in reasons[lacking["id"]]
    # Also in its later tries, though all its retries are spent, and another crawl takes it up.
    with stack.engine() as engine, write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE scenes SET attempts = 9 WHERE status = 'failed'")
    assert stack.crawl(bands=TWO, retry=True, outstanding=True, tiles=["10TGR"]).failed == 1
    # Who does not mind has it, and the watch that does says so again.
    done = stack.cli("crawl", *arguments, "--retry", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["indexed"], report["incomplete"]) == (0, 2, 1)
    done = stack.cli("crawl", *arguments, "--require", "scl", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["failed"], report["unchanged"]) == (1, 2, SCENES - 2)
    assert scene_of(stack, item)[0].status == "indexed"
    lacking["assets"]["scl"] = gone
    stack.server.faults.reset()
    done = stack.cli("crawl", *arguments, "--require", "scl", "--retry", "--json")
    assert done.exit_code == 0, done.output
    assert status(stack)["incomplete"] == 0
    assert_agree(stack, SCENES)


def test_what_is_required_is_among_the_bands(local_stack: Stack) -> None:
    done = local_stack.cli("crawl", "--bands", "red", "--require", "scl")
    assert done.exit_code == 2
    assert "--require scl: not among --bands red" in done.stderr
    with pytest.raises(UsageError, match="cannot be required"):
        open_crawl(local_stack.settings, bands=["red"], require=["B08"])


# What a process that ends so holds is closed by nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mended", [False, True])
def test_a_crawl_that_died_after_its_commit(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, mended: bool
) -> None:
    """What was committed without a band is adopted without it, or written with it."""
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)

    def dies(*_: Any, **__: Any) -> Any:
        raise StoreError("killed")

    monkeypatch.setattr(committer_module.records, "record_indexed", dies)
    with pytest.raises(StoreError, match="killed"):
        stack.crawl(bands=TWO, tiles=["10TFR"])
    monkeypatch.undo()
    assert records.record_indexed is not dies
    if mended:
        stack.server.faults.reset()
    report = stack.crawl(bands=TWO, outstanding=True)
    assert report.recovered == len(DATES) - mended
    record, _ = scene_of(stack, item)
    assert record.missing == (() if mended else ("scl",))
    assert stack.crawl(bands=TWO).unchanged == SCENES
    if mended:
        assert_agree(stack, SCENES)


def test_a_rebuilt_record_says_the_same(stack: Stack, tmp_path: Path) -> None:
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)
    stack.crawl(bands=TWO)
    before, _ = scene_of(stack, item)
    with copied(stack, tmp_path / "copy") as copy:
        with copy.engine() as engine, write_transaction(engine) as connection:
            for table in ("assets", "scene_revisions", "scenes", "snapshots", "branches"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
        rebuild(copy.settings, stac=copy.server.stac_url)
        after, _ = scene_of(copy, item)
        assert (after.missing, after.refs_sha256) == (("scl",), before.refs_sha256)
        assert copy.crawl(bands=TWO).failed == 0


def test_the_bands_of_every_state_are_recorded(stack: Stack) -> None:
    """And a database of before has them from its files."""
    item = item_at(stack, "10TFR", DATES[0])
    spoil(stack, item, "scl", tiled=False)
    stack.crawl(bands=TWO)
    stack.crawl(bands=["red", "nir"], ids=[item["id"]], reread=True)
    first, second = ("red",), ("red", "nir")
    with stack.connect() as cat:
        now = cat.scene(item["id"])
        assert now.bands == second
        assert set(now.open()) == {"red", "nir"}
        (then,) = cat.search(ids=[item["id"]], as_of=now.recorded_at - timedelta(microseconds=1))
        assert then.bands == first
        assert set(then.open()) == {"red"}
        assert cat.search().to_pandas().bands.map(len).tolist() == [2] * SCENES

    def recorded() -> list[Any]:
        asked = "SELECT id, bands FROM {} ORDER BY id"
        return [stack.rows(asked.format(table)) for table in ("scenes", "scene_revisions")]

    before = recorded()
    assert len(before[1]) == 1
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    with stack.engine() as engine:
        with migration_connection(engine) as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "0006")
        migrate(engine)
    assert recorded() == before


# Read again


def test_only_what_differs_is_written_when_all_is_read_again(stack: Stack) -> None:
    stack.crawl(bands=TWO)
    before = stack.everything()
    dry = stack.crawl(bands=TWO, reread=True, dry_run=True)
    assert (dry.reread, dry.changed, dry.unchanged, dry.new) == (SCENES, 0, 0, 0)
    done = stack.cli("crawl", "--stac", stack.server.stac_url, "--reread", "--dry-run",
                     "--bands", "red,scl")  # fmt: skip
    assert f"{SCENES} though as indexed, to be read again" in done.stdout
    again = stack.crawl(bands=TWO, reread=True)
    assert (again.reread, again.unchanged, again.changed, again.updated) == (SCENES, SCENES, 0, 0)
    assert again.requests == SCENES * len(TWO)
    assert stack.everything() == before
    # One file is another now, behind its item.
    item = item_at(stack, "10TFR", DATES[0])
    body = stack.path(item, "scl").read_bytes()
    stack.server.misbehave(stack.href(item, "scl"), body=body[:-1] + b"\1")
    third = stack.crawl(bands=TWO, reread=True)
    assert (third.unchanged, third.changed, third.failed) == (SCENES - 1, 1, 0)
    assert len(stack.rows("SELECT 1 FROM scene_revisions")) == 1


def test_a_scene_is_read_again_where_the_catalog_has_it_from(stack: Stack) -> None:
    stack.crawl(bands=TWO)
    item = item_at(stack, "10TFR", DATES[0])
    stack.server.requests.reset()
    done = stack.cli("crawl", "--ids", item["id"], "--reread", "--bands", "red,scl", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["found"], report["reread"]) == (1, 1)
    assert stack.server.requests.below("/stac/v1/search")
    both = stack.cli("crawl", "--ids", item["id"], "--ids", stack.items[-1]["id"], "--json")
    assert json.loads(both.stdout)["found"] == 2
    with stack.engine() as engine, write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE collections SET stac_url = NULL")
    done = stack.cli("crawl", "--ids", item["id"], "--reread")
    assert done.exit_code == 2
    assert "was indexed from a file of items: give it with --items FILE" in done.stderr
    name = Path(stack.directory) / "items.json"
    text = json.dumps(item).replace(stack.server.archive.base_url, stack.server.url)
    name.write_text(text)
    assert stack.cli("crawl", "--ids", item["id"], "--items", name, "--reread").exit_code == 0
