"""The write path on both stacks: what is indexed, what it costs, and what survives a death."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import zarr
from agreement import Died, Item, assert_agree, item_at
from stacks import (
    BANDS,
    C1,
    DATES,
    L2A,
    SCENES,
    TILES,
    Stack,
    child_environment,
    read_pixels,
    s3_client,
)

from catalog import committer, records, registry
from catalog import crawl as crawl_module
from catalog.cube_writer import Placement, stored_refs_digest
from catalog.demo.archive import build_archive
from catalog.demo.cogs import write_cog
from catalog.demo.faults import Fault
from catalog.errors import BusyError, ConfigError, SourceError, StoreError
from catalog.missing import MissingBandWarning
from catalog.setup import open_crawl, repair

pytest_plugins = ["stacks"]

# What is found is indexed, once


def test_everything_found_is_indexed_and_the_second_run_does_nothing(stack: Stack) -> None:
    report = stack.crawl()
    assert (report.found, report.new, report.indexed, report.failed) == (SCENES, SCENES, SCENES, 0)
    assert report.commits == len(TILES)
    assert report.requests == SCENES * BANDS

    served = stack.file_requests()
    assert Counter(request.path for request in served).most_common(1)[0][1] == 1
    assert len(served) == report.requests
    assert {(request.method, request.status) for request in served} == {("GET", 206)}
    assert_agree(stack, SCENES)

    before = stack.everything()
    again = stack.crawl()
    assert (again.found, again.unchanged) == (SCENES, SCENES)
    assert (again.new, again.changed, again.indexed, again.commits, again.requests) == (0,) * 5
    assert stack.file_requests() == []
    assert stack.everything() == before
    outcomes = stack.rows("SELECT outcome, found, indexed FROM crawls ORDER BY id")
    assert outcomes == [("done", SCENES, SCENES), ("done", SCENES, 0)]


def test_records_can_be_recomputed_from_the_source_and_the_store(stack: Stack) -> None:
    stack.crawl()
    items = {item["id"]: item for item in stack.items}
    repository = stack.repository()
    with stack.connect() as cat:
        scenes = list(cat.search())
        for scene in scenes:
            item = items[scene.id]
            served = requests.get(
                f"{stack.server.stac_url}/collections/{C1}/items/{scene.id}", timeout=10
            ).json()
            text = json.dumps(served, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert scene.item_sha256 == hashlib.sha256(text.encode()).hexdigest()
            assert scene.tile in item["id"]
            assert scene.epsg == 32610
            assert scene.datetime == datetime.fromisoformat(item["properties"]["datetime"])
            assert scene.cloud_cover == item["properties"]["eo:cloud_cover"]
            assert (scene.boa_offset, scene.boa_evidence) == (-1000, "raster:offset=-0.1")
            assert (scene.warnings, scene.last_error, scene.attempts) == ((), None, 0)
            assert scene.revision == 1
            place = Placement(scene.root, scene.time_index)
            store = repository.store(scene.snapshot_id)
            assert stored_refs_digest(repository, store, place) == scene.refs_sha256
            assert len(scene.assets) == BANDS
            for band, asset in scene.assets.items():
                path = stack.path(item, band)
                content = path.read_bytes()
                assert asset.href == stack.href(item, band)
                assert asset.size == len(content)
                assert asset.etag == f'"{hashlib.md5(content).hexdigest()}"'
                assert asset.last_modified == datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
                assert asset.checksum == "1220" + hashlib.sha256(content).hexdigest()
                header = content[: asset.header_length]
                assert asset.header_sha256 == hashlib.sha256(header).hexdigest()


def test_scenes_of_one_page_arrive_oldest_first(stack: Stack) -> None:
    stack.crawl()
    with stack.connect() as cat:
        for tile in TILES:
            oldest_first = list(cat.search(tile=tile, sort="datetime"))
            assert [scene.time_index for scene in oldest_first] == list(range(len(DATES)))


def test_pages_newest_first_repeat_an_item(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl_module, "PAGE", 2)
    stack.server.faults.repeat_last_item = True
    report = stack.crawl(bands=["scl"], page_size=2)
    assert len(stack.server.requests.below("/stac/v1/search")) == SCENES / 2
    assert (report.found, report.new, report.indexed) == (SCENES, SCENES, SCENES)
    assert_agree(stack, SCENES)


def test_documents_that_come_twice_are_one_scene(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one page, in the next page while the first waits, and after it was written."""
    items = json.loads(
        json.dumps(stack.items).replace(stack.server.archive.base_url, stack.server.url)
    )
    monkeypatch.setattr(crawl_module, "PAGE", 4)
    monkeypatch.setattr(crawl_module, "WAITING", 5)
    report = stack.crawl(items=[items[0], items[0], *items, *reversed(items), *items])
    assert (report.new, report.indexed, report.failed) == (SCENES, SCENES, 0)
    assert len(stack.file_requests()) == SCENES * BANDS
    assert_agree(stack, SCENES)


def test_full_batches_are_written_while_the_search_goes_on(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawl_module, "BATCH", 2)
    report = stack.crawl(bands=["scl"])
    assert (report.indexed, report.commits) == (SCENES, 4)
    assert_agree(stack, SCENES)


def test_a_server_that_ignores_the_question(stack: Stack) -> None:
    features = json.loads(
        json.dumps(stack.items).replace(stack.server.archive.base_url, stack.server.url)
    )
    body = json.dumps({"type": "FeatureCollection", "features": features, "links": []}).encode()
    stack.server.misbehave(f"{stack.server.stac_url}/search", body=body)
    report = stack.crawl(tiles=["10TFR"], datetime="2023-05/2023-12", max_cloud_cover=20)
    assert (report.found, report.indexed) == (1, 1)
    with stack.connect() as cat:
        assert cat.search().ids() == [item_at(stack, "10TFR", DATES[2])["id"]]


def cloud(item: Item) -> float:
    return float(item["properties"]["eo:cloud_cover"])


QUESTIONS: list[tuple[dict[str, Any], Callable[[Item], bool]]] = [
    ({"tiles": ["10TGR"]}, lambda item: "10TGR" in item["id"]),
    ({"bbox": (-121.9, 45.9, -121.0, 46.2)}, lambda item: "10TFR" in item["id"]),
    ({"datetime": "2023-03/2023-05"}, lambda item: "_202312" not in item["id"]),
    ({"datetime": "2023-05-02"}, lambda item: "_20230502" in item["id"]),
    ({"max_cloud_cover": 20}, lambda item: cloud(item) <= 20),
    (
        {"tiles": ["10TFR"], "datetime": "../2023-06-01", "max_cloud_cover": 10},
        lambda item: "10TFR_202303" in item["id"],
    ),
    (
        {"intersects": {"type": "Point", "coordinates": [-120.39, 46.0]}},
        lambda item: "10TGR" in item["id"],
    ),
    ({"ids": ["S2A_T10TFR_20230502T190950_L2A"]}, lambda item: "S2A_T10TFR" in item["id"]),
]


@pytest.mark.parametrize(
    ("question", "fits"), QUESTIONS, ids=["-".join(question) for question, _ in QUESTIONS]
)
def test_filters(stack: Stack, question: dict[str, Any], fits: Callable[[Item], bool]) -> None:
    expected = {item["id"] for item in stack.items if fits(item)}
    assert 0 < len(expected) < SCENES
    report = stack.crawl(bands=["scl"], **question)
    assert (report.found, report.indexed) == (len(expected), len(expected))
    with stack.connect() as cat:
        assert set(cat.search().ids()) == expected


def test_limit_takes_the_first_that_the_api_gives(stack: Stack) -> None:
    report = stack.crawl(limit=2, bands=["scl"])
    assert (report.found, report.indexed) == (2, 2)
    with stack.connect() as cat:
        assert {str(scene.datetime.date()) for scene in cat.search()} == {DATES[2]}
    assert stack.crawl(bands=["scl"]).new == SCENES - 2


def test_bands(stack: Stack) -> None:
    report = stack.crawl(tiles=["10TFR"], bands=["red", "B08"])
    assert report.requests == len(stack.file_requests()) == 2 * len(DATES)
    with stack.connect() as cat:
        scene = next(iter(cat.search()))
        assert (set(scene.assets), scene.warnings) == ({"red", "nir"}, ())
        assert set(cat.cube("10TFR").data_vars) == {"red", "nir"}
        assert set(scene.open(resolution=20).data_vars) == {"red", "nir"}


def test_a_crawl_for_other_bands_adds_them_to_those_there_are(stack: Stack) -> None:
    question: dict[str, Any] = {"tiles": ["10TFR"], "datetime": DATES[0]}
    assert stack.crawl(bands=["scl"], **question).indexed == 1
    assert stack.crawl(bands=["scl"], **question).indexed == 0
    report = stack.crawl(bands=["red"], **question)
    assert (report.changed, report.indexed) == (1, 1)
    with stack.connect() as cat:
        (scene,) = cat.search()
        assert set(scene.assets) == {"red", "scl"}
        assert scene.time_index == 0
        assert scene.open(bands=["scl"])["scl"].to_numpy().any()
    assert stack.crawl(**question).changed == 1
    with stack.connect() as cat:
        assert len(next(iter(cat.search())).assets) > 2
    # What is there already covers a smaller question.
    assert stack.crawl(bands=["red"], **question).unchanged == 1


def test_dry_run_reads_no_file_and_writes_nothing(stack: Stack) -> None:
    del stack.items[0]["properties"]["proj:epsg"]
    before = stack.everything(), stack.rows("SELECT * FROM crawls")
    report = stack.crawl(dry_run=True)
    assert (report.found, report.new, report.failed) == (SCENES, SCENES - 1, 1)
    assert (report.indexed, report.commits, report.requests) == (0, 0, 0)
    assert stack.file_requests() == []
    assert (stack.everything(), stack.rows("SELECT * FROM crawls")) == before
    assert stack.repository().branches() == set()


# Dialects


def test_two_dialects_in_one_catalog(dialects_stack: Stack) -> None:
    stack = dialects_stack
    for collection in (C1, L2A):
        report = stack.crawl(collection=collection)
        assert (report.indexed, report.failed, report.commits) == (2, 0, 1)
        paths = Counter(request.path for request in stack.file_requests())
        assert set(paths.values()) == {1}
        assert paths.total() == report.requests
    assert_agree(stack, 4)
    with stack.connect() as cat:
        assert {(s.collection, s.branch, s.boa_offset) for s in cat.search()} == {
            (C1, f"{C1}/10TFR", -1000),
            (L2A, f"{L2A}/10TFR", 0),
        }


def test_planetary_computer(dialects_stack: Stack) -> None:
    stack = dialects_stack
    report = stack.crawl(collection=L2A, stac=stack.server.pc_stac_url)
    assert (report.indexed, report.failed) == (2, 0)
    assert len(stack.file_requests()) == report.requests == 2 * 16
    with stack.connect() as cat:
        old, new = cat.search(sort="datetime")
        assert (old.baseline, old.boa_offset) == ("03.01", 0)
        assert (new.baseline, new.boa_offset) == ("04.00", -1000)
        assert {asset.checksum for asset in old.assets.values()} == {None}
    assert_agree(stack, 2)


def test_two_collections_of_one_name_are_refused(dialects_stack: Stack) -> None:
    stack = dialects_stack
    stack.crawl(collection=L2A)
    before = stack.everything()
    with pytest.raises(ConfigError, match=r"sentinel-2-l2a.*earth-search-v1.*planetary-computer"):
        stack.crawl(collection=L2A, stac=stack.server.pc_stac_url)
    assert stack.everything() == before
    assert stack.file_requests() == []
    assert stack.rows("SELECT outcome FROM crawls ORDER BY id") == [("done",), ("failed",)]
    assert_agree(stack, 2)


# What changed


def test_a_changed_item_keeps_its_index_and_its_earlier_state(stack: Stack) -> None:
    stack.crawl(bands=["red", "scl"])
    item = item_at(stack, "10TFR", DATES[1])
    item["properties"]["eo:cloud_cover"] = 77.5
    with stack.connect() as cat:
        before = {scene.id: scene.record for scene in cat.search()}
        report = stack.crawl(bands=["red", "scl"])
        assert (report.new, report.changed, report.unchanged) == (0, 1, SCENES - 1)
        # Its files are the same: nothing is written, and what changed is recorded.
        assert (report.indexed, report.updated, report.commits) == (0, 1, 0)
        after = {scene.id: scene.record for scene in cat.search()}
    old, new = before.pop(item["id"]), after.pop(item["id"])
    assert after == before
    assert (old.cloud_cover != 77.5, new.cloud_cover) == (True, 77.5)
    assert (new.time_index, new.root, new.refs_sha256, new.snapshot_id) == (
        old.time_index, old.root, old.refs_sha256, old.snapshot_id,
    )  # fmt: skip
    assert (new.revision, new.item_sha256 == old.item_sha256) == (2, False)
    kept = stack.rows("SELECT revision, snapshot_id FROM scene_revisions")
    assert kept == [(1, old.snapshot_id)]
    assert_agree(stack, SCENES)
    assert stack.crawl(bands=["red", "scl"]).indexed == 0


def test_a_reprocessed_file_has_new_references_and_the_old_snapshot_its_old_pixels(
    stack: Stack,
) -> None:
    """The product comes back under another key, as reprocessed ones do."""
    stack.crawl(bands=["red", "scl"])
    item, other = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[2])
    old_pixels, new_pixels = stack.pixels(item, "red"), stack.pixels(other, "red")
    with stack.connect() as cat:
        old = cat.scene(item["id"])
        for key in ("href", "file:size", "file:checksum"):
            item["assets"]["red"][key] = other["assets"]["red"][key]
        assert stack.crawl(bands=["red", "scl"]).changed == 1
        new = cat.scene(item["id"])
        assert new.refs_sha256 != old.refs_sha256
        assert new.time_index == old.time_index
        np.testing.assert_array_equal(new.open(bands=["red"])["red"], new_pixels)
        np.testing.assert_array_equal(old.open(bands=["red"])["red"], old_pixels)
        then = cat.cube("10TFR", bands=["red"], as_of=old.snapshot_id)
        now = cat.cube("10TFR", bands=["red"])
        np.testing.assert_array_equal(then["red"][0], old_pixels)
        np.testing.assert_array_equal(now["red"][0], new_pixels)
        np.testing.assert_array_equal(now["red"][1:], then["red"][1:])
    assert_agree(stack, SCENES)


def test_a_file_replaced_in_place_is_refused(own_files: Path, stack: Stack) -> None:
    """Its time of last modification no longer is the one that its references carry."""
    stack.crawl(tiles=["10TFR"], bands=["red"])
    item, other = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[2])
    path = stack.path(item, "red")
    later = path.stat().st_mtime + 60
    path.write_bytes(stack.path(other, "red").read_bytes())
    os.utime(path, (later, later))
    with stack.connect() as cat:
        old = cat.scene(item["id"])
        with pytest.raises(StoreError, match=rf"{item['id']} red: .*changed"):
            old.open(bands=["red"])["red"].load()
        # The other scenes are read as before.
        cat.scene(other["id"]).open(bands=["red"])["red"].load()
        item["properties"]["updated"] = "2024-01-01T00:00:00Z"
        item["assets"]["red"] |= {
            key: other["assets"]["red"][key] for key in ("file:size", "file:checksum")
        }
        assert stack.crawl(tiles=["10TFR"], bands=["red"]).changed == 1
        new = cat.scene(item["id"])
        np.testing.assert_array_equal(new.open(bands=["red"])["red"], read_pixels(path))
        assert new.refs_sha256 != old.refs_sha256


def test_files_that_changed_behind_their_items_are_read_again_when_asked(
    own_files: Path, stack: Stack
) -> None:
    stack.crawl(tiles=["10TFR"], bands=["red"])
    item = item_at(stack, "10TFR", DATES[0])
    path = stack.path(item, "red")
    os.utime(path, (path.stat().st_mtime + 60,) * 2)
    with stack.connect() as cat:
        with pytest.raises(StoreError, match=rf"cogcat crawl --ids {item['id']} --reread"):
            cat.scene(item["id"]).open(bands=["red"])["red"].load()
        assert stack.crawl(tiles=["10TFR"], bands=["red"]).unchanged == len(DATES)
        done = stack.cli("crawl", "--stac", stack.server.stac_url, "--tile", "10TFR",
                         "--bands", "red", "--reread", "--json")  # fmt: skip
        counts = json.loads(done.stdout)
        assert (counts["reread"], counts["unchanged"]) == (len(DATES), len(DATES) - 1)
        assert (counts["changed"], counts["indexed"], counts["commits"]) == (1, 1, 1)
        np.testing.assert_array_equal(
            cat.scene(item["id"]).open(bands=["red"])["red"], read_pixels(path)
        )
        again = stack.crawl(tiles=["10TFR"], bands=["red"], reread=True)
        assert (again.unchanged, again.changed, again.updated) == (len(DATES), 0, 0)
        assert again.commits == 0
        assert again.requests == len(DATES)


def test_an_object_replaced_on_s3_is_refused_by_its_etag(s3_stack: Stack) -> None:
    stack = s3_stack
    assert stack.crawl(tiles=["10TFR"], bands=["red", "visual"]).indexed == len(DATES)
    item, other = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[2])
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        content = stack.path(item, "red").read_bytes()
        assert scene.assets["red"].etag == f'"{hashlib.md5(content).hexdigest()}"'
        assert scene.assets["red"].href == item["assets"]["red"]["href"]
        for band in ("red", "visual"):
            ours = scene.open(resolution=10, bands=[band])[band]
            np.testing.assert_array_equal(ours, stack.pixels(item, band))
        bucket, _, key = item["assets"]["red"]["href"].removeprefix("https://").partition("/")
        s3_client(str(stack.moto)).put_object(
            Bucket=bucket.partition(".")[0],
            Key=key,
            Body=stack.path(other, "red").read_bytes(),
            ACL="public-read",
        )
        with pytest.raises(StoreError, match=rf"{item['id']} red: .*changed"):
            scene.open(bands=["red"])["red"].load()
        scene.open(resolution=10, bands=["visual"])["visual"].load()
    assert_agree(stack, len(DATES))


def test_a_band_missing_in_one_scene_reads_as_nodata_there(stack: Stack) -> None:
    first, middle = item_at(stack, "10TFR", DATES[0]), item_at(stack, "10TFR", DATES[1])
    del first["assets"]["nir"], middle["assets"]["red"]
    report = stack.crawl(tiles=["10TFR"], bands=None)
    assert (report.indexed, report.failed) == (len(DATES), 0)
    with stack.connect() as cat:
        scene = cat.scene(middle["id"])
        assert any("red" in warning for warning in scene.warnings)
        with pytest.warns(MissingBandWarning, match=f"no red in {middle['id']}"):
            cube = cat.cube("10TFR", bands=["red", "nir", "scl"], resolution=20)
        assert cube["red"][1].max() == 0
        assert cube["nir"][0].max() == 0
        for step, date in enumerate(DATES):
            item = item_at(stack, "10TFR", date)
            np.testing.assert_array_equal(cube["scl"][step], stack.pixels(item, "scl"))
        np.testing.assert_array_equal(cube["red"][0], stack.pixels(first, "red", level=1))
        scaled = cat.cube("10TFR", bands=["red"], reflectance=True, missing="nodata")["red"][1]
        assert scaled.isnull().all()
    assert_agree(stack, len(DATES))


def relaid(stack: Stack, tmp_path: Path, date: str) -> Item:
    """An item of 10TFR whose files have larger tiles; they are put among the test's own."""
    other = build_archive(
        tmp_path / f"other-{date}",
        base_url=stack.server.archive.base_url,
        tiles=("10TFR",),
        dates=(date,),
        width=546,
        block=256,
        bands=("red", "scl"),
    )
    for path in other.files.rglob("*.tif"):
        target = stack.server.archive.files / path.relative_to(other.files)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    (item,) = other.items["earth-search-c1"]
    return item


def test_a_scene_laid_out_otherwise_goes_to_a_variant(
    own_files: Path, stack: Stack, tmp_path: Path
) -> None:
    stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    added = relaid(stack, tmp_path, "2023-04-01")
    stack.items.append(added)
    assert stack.crawl(tiles=["10TFR"], bands=["red", "scl"]).indexed == 1
    with stack.connect() as cat:
        scene = cat.scene(added["id"])
        assert scene.root.startswith("variant-")
        assert scene.time_index == 0
        cube = cat.cube("10TFR", bands=["red"])
        dates = (DATES[0], "2023-04-01", *DATES[1:])
        assert tuple(str(time)[:10] for time in cube["time"].values) == dates
        expected = [stack.pixels(item_at(stack, "10TFR", date), "red") for date in dates]
        np.testing.assert_array_equal(cube["red"], np.stack(expected))
        np.testing.assert_array_equal(scene.open(bands=["red"])["red"], stack.pixels(added, "red"))
    assert_agree(stack, len(DATES) + 1)


def test_a_changed_scene_leaves_nothing_of_its_old_state(
    own_files: Path, stack: Stack, tmp_path: Path
) -> None:
    """One loses a band, another moves to a variant: a plain reader meets nodata there."""
    stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    poorer = item_at(stack, "10TFR", DATES[1])
    del poorer["assets"]["red"]
    stack.items[stack.items.index(item_at(stack, "10TFR", DATES[2]))] = relaid(
        stack, tmp_path, DATES[2]
    )
    moved = item_at(stack, "10TFR", DATES[2])
    moved["properties"]["updated"] = "2024-01-01T00:00:00Z"
    report = stack.crawl(tiles=["10TFR"], bands=["red", "scl"])
    assert (report.changed, report.indexed, report.failed) == (2, 2, 0)
    assert_agree(stack, len(DATES))
    with stack.connect() as cat:
        scene = cat.scene(moved["id"])
        assert scene.root.startswith("variant-")
        np.testing.assert_array_equal(scene.open(bands=["red"])["red"], stack.pixels(moved, "red"))
        cube = cat.cube("10TFR", bands=["red"], missing="nodata")
        assert (cube.sizes["time"], int(cube["red"][1].max())) == (3, 0)
        store = stack.repository().store(scene.snapshot_id)
    group = zarr.open_group(store, path="r10m", mode="r")
    red: Any = group["red"]
    assert [bool(np.any(red[step])) for step in range(3)] == [True, False, False]


# What is broken


def striped(path: Path) -> bytes:
    target = path.with_suffix(".striped")
    write_cog(
        target,
        read_pixels(path),
        transform=(10, 0, 600000, 0, -10, 5100000),
        epsg=32610,
        tiled=False,
        overviews=(),
    )
    return target.read_bytes()


def other_size(path: Path) -> bytes:
    target = path.with_suffix(".other")
    write_cog(
        target,
        read_pixels(path)[:-2],
        transform=(10, 0, 600000, 0, -10, 5100000),
        epsg=32610,
        block=128,
    )
    return target.read_bytes()


Break = Callable[[Path], dict[str, Any]]
BROKEN: list[dict[str, Break]] = [
    {
        "truncated: its tiles reach": lambda path: {"body": path.read_bytes()[:60_000]},
        "truncated: the file ends": lambda path: {"body": path.read_bytes()[:300]},
        "the file is empty": lambda path: {"body": b""},
        "the file is missing": lambda path: {"status": 404},
    },
    {
        "cannot be read": lambda path: {"status": 403},
        "not a TIFF": lambda path: {"body": b"<html>come back later</html>" * 40},
        "striped": lambda path: {"body": striped(path)},
        "544 rows and 546 columns": lambda path: {"body": other_size(path)},
    },
]


@pytest.mark.parametrize("kinds", BROKEN, ids=["bytes", "kinds"])
def test_broken_files_fail_their_scenes_alone(
    own_files: Path, stack: Stack, kinds: dict[str, Break]
) -> None:
    broken = dict(zip((item["id"] for item in stack.items), kinds, strict=False))
    hrefs = {}
    for item in stack.items[: len(kinds)]:
        del item["assets"]["red"]["file:size"]
        hrefs[item["id"]] = href = stack.href(item, "red")
        stack.server.misbehave(href, **kinds[broken[item["id"]]](stack.path(item, "red")))
    report = stack.crawl(bands=["red"])
    good = SCENES - len(kinds)
    assert (report.new, report.indexed, report.failed) == (SCENES, good, len(kinds))
    with stack.connect() as cat:
        for failure in report.failures:
            for part in (failure.scene, "red", broken.pop(failure.scene), hrefs[failure.scene]):
                assert part in failure.reason
            assert "\n" not in failure.reason
            scene = cat.scene(failure.scene)
            assert (scene.status, scene.attempts, scene.last_error) == ("failed", 1, failure.reason)
            # The first failure may be the network's: the next crawl tries again.
            assert scene.next_attempt_at == scene.recorded_at
    assert not broken
    assert_agree(stack, good)

    stack.server.faults.reset()
    again = stack.crawl(bands=["red"])
    assert (again.new, again.indexed, again.failed) == (len(kinds), len(kinds), 0)
    with stack.connect() as cat:
        for scene_id in hrefs:
            scene = cat.scene(scene_id)
            assert (scene.status, scene.attempts, scene.last_error) == ("indexed", 0, None)
    assert_agree(stack, SCENES)


def test_a_file_of_another_length_than_its_item_says(stack: Stack) -> None:
    item = item_at(stack, "10TFR", DATES[1])
    item["assets"]["red"]["file:size"] += 1
    (failure,) = stack.crawl(bands=["red"]).failures
    size = item["assets"]["red"]["file:size"]
    assert f"{size - 1} bytes, its item says {size}" in failure.reason


def test_an_item_without_a_place_fails_alone(stack: Stack) -> None:
    item = item_at(stack, "10TGR", DATES[0])
    epsg = item["properties"].pop("proj:epsg")
    report = stack.crawl(bands=["scl"])
    assert (report.found, report.new, report.indexed, report.failed) == (
        SCENES, SCENES - 1, SCENES - 1, 1,
    )  # fmt: skip
    assert report.failures[0].reason.startswith(f"{item['id']}: no EPSG code")
    with stack.connect() as cat:
        status = cat.status()
    assert status["unreadable_items"] == 1
    (failure,) = status["failures"]
    assert (failure["id"], failure["attempts"]) == (item["id"], 1)
    assert "no EPSG code" in failure["reason"]
    item["properties"]["proj:epsg"] = epsg
    assert stack.crawl(bands=["scl"]).indexed == 1
    with stack.connect() as cat:
        assert cat.status()["failures"] == []
    assert_agree(stack, SCENES)


def test_an_indexed_scene_stays_readable_while_its_new_state_fails(stack: Stack) -> None:
    """And when the source takes the change back, the catalog is up to date again."""
    stack.crawl(bands=["red"])
    item = item_at(stack, "10TFR", DATES[1])
    original = copy.deepcopy(item)
    item["properties"]["updated"] = "2024-01-01T00:00:00Z"
    stack.server.misbehave(stack.href(item, "red"), status=404, times=1)
    report = stack.crawl(bands=["red"])
    assert (report.changed, report.indexed, report.failed) == (1, 0, 1)
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        assert (scene.status, scene.revision, scene.attempts) == ("indexed", 1, 1)
        np.testing.assert_array_equal(scene.open(bands=["red"])["red"], stack.pixels(item, "red"))
        assert cat.status()["outdated"] == 1
        stack.items[stack.items.index(item)] = original
        assert stack.crawl(bands=["red"]).failed == 0
        assert cat.status()["outdated"] == 0
        assert cat.status()["failures"] == []
    assert_agree(stack, SCENES)


def test_a_repository_without_the_source_of_an_href(stack: Stack) -> None:
    bucket = f"{stack.server.files_url}e84-earth-search-sentinel-data/"
    stack.sources.insert(0, {"name": "other", "match": bucket, "url": bucket})
    stack.write_config()
    with pytest.raises(ConfigError, match=r"no container 'other'.*run `cogcat init`"):
        stack.crawl(bands=["scl"])
    assert stack.rows("SELECT count(*) FROM scenes WHERE last_error IS NOT NULL") == [(0,)]
    stack.init()
    assert stack.crawl(bands=["scl"]).indexed == SCENES


def test_an_href_that_no_source_reads(stack: Stack) -> None:
    item_at(stack, "10TFR", DATES[0])["assets"]["red"]["href"] = "https://elsewhere.org/red.tif"
    report = stack.crawl(bands=["red"])
    assert (report.indexed, report.failed) == (SCENES - 1, 1)
    assert "no source matches" in report.failures[0].reason
    assert "https://elsewhere.org/" in report.failures[0].reason


def test_a_search_that_breaks_off_loses_nothing_it_had_found(stack: Stack) -> None:
    searches: Iterator[int] = iter(range(100))

    def second_page_fails(request: Any) -> Fault | None:
        if request.path.endswith("/search") and next(searches) == 1:
            return Fault(status=500)
        return None

    stack.server.faults.callback = second_page_fails
    with pytest.raises(SourceError, match=r"/stac/v1/search answered 500"):
        stack.crawl(bands=["scl"], page_size=2)
    assert_agree(stack, 2)
    assert stack.rows("SELECT outcome, found, indexed FROM crawls") == [("failed", 2, 2)]
    assert stack.crawl(bands=["scl"]).indexed == SCENES - 2


# Death


def dying(real: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    def die(*args: Any, **kw: Any) -> Any:
        if after:
            real(*args, **kw)
        raise Died

    return die


DEATHS = {
    "before the intent is recorded": (records, "record_pending", False),
    "within the transaction of the intent": (records, "record_pending", True),
    "before the commit": (committer, "write_batch", False),
    "after the commit": (committer, "write_batch", True),
    "before the record": (records, "record_indexed", False),
    "within the transaction of the record": (records, "record_indexed", True),
    "before the end is recorded": (registry, "finish_crawl", False),
}


@pytest.mark.parametrize(
    ("before", "point"),
    [("new", point) for point in DEATHS]
    + [("changed", point) for point in DEATHS if point.endswith(("commit", "of the record"))],
)
def test_a_crawl_that_raises_anywhere_is_completed_by_the_next(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, point: str, before: str
) -> None:
    bands = ["red", "scl"]
    if before == "changed":
        stack.crawl(bands=bands)
        for item in stack.items:
            item["properties"]["eo:cloud_cover"] = 50.0
        other = item_at(stack, "10TFR", DATES[2])["assets"]["red"]
        item_at(stack, "10TFR", DATES[0])["assets"]["red"] = copy.deepcopy(other)
    module, name, after = DEATHS[point]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying(getattr(module, name), after=after))
        with pytest.raises(Died):
            stack.crawl(bands=bands)
    with stack.connect() as cat:
        # Readers see what was recorded, whatever the store holds by now.
        for scene in cat.search():
            scene.open(bands=["scl"])["scl"].load()
    stack.crawl(bands=bands)
    assert_agree(stack, SCENES)
    with stack.connect() as cat:
        assert cat.search(status="any").count() == SCENES
        for tile in TILES:
            cube = cat.cube(tile, bands=["red"])
            assert cube.sizes["time"] == len(DATES)
            for step, date in enumerate(DATES):
                expected = stack.pixels(item_at(stack, tile, date), "red")
                np.testing.assert_array_equal(cube["red"][step], expected)
        if before == "changed":
            assert {scene.cloud_cover for scene in cat.search()} == {50.0}
    assert stack.crawl(bands=bands).indexed == 0


def test_a_commit_whose_files_have_changed_since_is_not_adopted(
    own_files: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    question: dict[str, Any] = {"bands": ["scl"], "tiles": ["10TFR"], "datetime": DATES[0]}
    with monkeypatch.context() as patch:
        patch.setattr(records, "record_indexed", dying(records.record_indexed, after=False))
        with pytest.raises(Died):
            stack.crawl(**question)
    item = item_at(stack, "10TFR", DATES[0])
    stack.server.misbehave(item["assets"]["scl"]["href"], status=404)
    mended = repair(stack.settings)
    assert (mended.commits, mended.scenes, mended.pending) == (1, 0, 1)
    stack.server.faults.reset()
    report = stack.crawl(**question)
    assert (report.recovered, report.indexed) == (0, 1)
    assert_agree(stack, 1)
    with stack.connect() as cat:
        assert cat.scene(item["id"]).time_index == 0


def test_repair_records_what_a_crawl_committed_without_any_question(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repair(stack.settings).commits == 0
    with monkeypatch.context() as patch:
        patch.setattr(records, "record_indexed", dying(records.record_indexed, after=False))
        with pytest.raises(Died):
            stack.crawl(bands=["scl"], tiles=["10TFR"])
    done = stack.cli("repair", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "branches": 1, "commits": 1, "scenes": len(DATES), "withdrawn": 0, "pending": 0,
        "requests": len(DATES),
    }  # fmt: skip
    assert_agree(stack, len(DATES))
    assert "nothing to mend" in stack.cli("repair").stdout
    assert stack.crawl(bands=["scl"], tiles=["10TFR"]).unchanged == len(DATES)


def test_a_commit_that_was_not_recorded_is_adopted_before_the_next(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenes of a later question come to a branch whose head SQL does not know."""
    with monkeypatch.context() as patch:
        patch.setattr(records, "record_indexed", dying(records.record_indexed, after=False))
        with pytest.raises(Died):
            stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=DATES[0])
    with stack.connect() as cat:
        assert cat.search(status="pending").ids() == [item_at(stack, "10TFR", DATES[0])["id"]]
    report = stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=DATES[1])
    assert (report.recovered, report.indexed, report.requests) == (1, 1, 2)
    with stack.connect() as cat:
        assert cat.search(status="pending").count() == 0
        assert [scene.time_index for scene in cat.search(sort="datetime")] == [0, 1]
        # As if the crawl had lived: what only its item said is there too.
        item = item_at(stack, "10TFR", DATES[0])
        scene = cat.scene(item["id"])
        assert scene.assets["scl"].checksum == item["assets"]["scl"]["file:checksum"]
        assert scene.cloud_cover == item["properties"]["eo:cloud_cover"]
    stack.crawl(bands=["scl"], tiles=["10TFR"])
    assert_agree(stack, len(DATES))
    with stack.connect() as cat:
        assert [scene.time_index for scene in cat.search(sort="datetime")] == [0, 1, 2]


KILLER = """
import os, signal, sys
from catalog import committer, crawl, records, repository
from catalog.database import write_transaction
point, config, stac = sys.argv[1:]

def die(*args, **kw):
    os.kill(os.getpid(), signal.SIGKILL)

def after(real):
    def call(*args, **kw):
        real(*args, **kw)
        die()
    return call

Crawl = crawl.Crawl
if point == "pending recorded":
    Crawl._read = die
elif point == "committing":
    repository.Repository.writing = die
elif point == "committed":
    committer.write_batch = after(committer.write_batch)
elif point == "recording":
    records.record_indexed = after(records.record_indexed)
elif point == "one tile recorded":
    committer.Committer.write = after(committer.Committer.write)

from catalog.cli import main
main(["crawl", "--stac", stac, "--config", config, "--bands", "scl", "--json"])
"""


@pytest.mark.parametrize(
    ("point", "indexed", "recovered"),
    [
        ("pending recorded", 0, 0),
        ("committing", 0, 0),
        ("committed", 0, len(DATES)),
        ("recording", 0, len(DATES)),
        ("one tile recorded", len(DATES), 0),
    ],
)
def test_a_killed_crawl_is_completed_by_the_next(
    stack: Stack, point: str, indexed: int, recovered: int
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, point, str(stack.config), stack.server.stac_url],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(),
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with stack.connect() as cat:
        assert cat.search().count() == indexed
        assert cat.search(status="pending").count() == SCENES - indexed
    # At once: the lease of a process that is no more need not be waited for.
    report = stack.crawl(bands=["scl"])
    done = indexed + recovered
    assert (report.recovered, report.new, report.indexed, report.unchanged) == (
        recovered, SCENES - done, SCENES - done, done,
    )  # fmt: skip
    assert_agree(stack, SCENES)
    outcomes = stack.rows("SELECT outcome FROM crawls ORDER BY id")
    assert outcomes == [(None,), ("done",)]


def test_a_stopped_crawl_keeps_what_is_written(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawl_module, "PAGE", 2)
    monkeypatch.setattr(crawl_module, "BATCH", 1)
    with open_crawl(stack.settings, bands=["scl"]) as work:

        def stop_at_three(report: Any) -> None:
            if report.indexed >= 3:
                work.stop()

        work._on_progress = stop_at_three
        items = json.loads(
            json.dumps(stack.items).replace(stack.server.archive.base_url, stack.server.url)
        )
        report = work.run(items, query={}, collection=C1)
    assert report.interrupted
    # Of a page of two, the other may have been read too.
    assert report.indexed in (3, 4)
    assert_agree(stack, report.indexed)
    assert stack.rows("SELECT outcome FROM crawls") == [("interrupted",)]
    assert stack.crawl(bands=["scl"]).indexed == SCENES - report.indexed
    assert_agree(stack, SCENES)


def test_another_writer_of_the_branch_is_noticed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets in between our commit and its record, and takes it for one of a dead crawl."""
    write_batch = committer.write_batch

    def meanwhile(*args: Any, **kw: Any) -> Any:
        written = write_batch(*args, **kw)
        monkeypatch.setattr(committer, "write_batch", write_batch)
        stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=DATES[1])
        return written

    monkeypatch.setattr(committer, "write_batch", meanwhile)
    with pytest.raises(BusyError, match="another crawl"):
        stack.crawl(bands=["scl"], tiles=["10TFR"], datetime=DATES[0])
    assert stack.crawl(bands=["scl"]).new == SCENES - 1
    assert_agree(stack, SCENES)


def test_an_older_copy_of_the_repository_is_noticed(local_stack: Stack) -> None:
    """A database that knows other commits than the repository has."""
    stack = local_stack
    shutil.copytree(stack.directory / "repo", stack.directory / "copy")
    stack.crawl(bands=["scl"], datetime=DATES[0])
    with stack.connect() as cat:
        branch = next(iter(cat.search())).branch
    shutil.rmtree(stack.directory / "repo")
    (stack.directory / "copy").rename(stack.directory / "repo")
    copy = stack.repository()
    copy.icechunk.create_branch(branch, copy.first_snapshot())
    with pytest.raises(StoreError, match="the catalog's own repository"):
        stack.crawl(bands=["scl"], datetime=DATES[1])
