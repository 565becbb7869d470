"""Writes of a crawl: once or twice, in any order of dying, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import shapely
from conftest import make_scene
from sqlalchemy import Engine, delete, select, text

from catalog.answers import Asker
from catalog.assets import read_assets
from catalog.database import read_transaction, write_transaction
from catalog.errors import BusyError, ConfigError, NotFoundError, StoreError
from catalog.failures import RETRY_DELAYS, record_failed, record_unreadable_item
from catalog.heads import branch_heads, branch_snapshots, branch_summary, tile_branches, tile_names
from catalog.known import known_scenes, wanted_scenes
from catalog.models import ASSETS, SCENE_REVISIONS, SCENES, SNAPSHOTS, TILES, Base
from catalog.query import Query
from catalog.recorded import AssetRecord, Commit, CrawlCounts, IndexedScene, KnownRepository, Raster
from catalog.records import record_indexed, record_pending
from catalog.registry import (
    begin_crawl,
    finish_crawl,
    known_repositories,
    register_collection,
    register_repository,
    register_sources,
)
from catalog.scene import Scene, scene_to_json
from catalog.settings import BUILT_IN_SOURCES
from catalog.status import status_counts
from catalog.tile_boxes import TileBoxes
from catalog.tiles import tile_box

C1 = "sentinel-2-c1-l2a"
NOW = datetime(2024, 3, 1, tzinfo=UTC)
RED = Raster(10980, 10980, (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0), "uint16", 0)
SCL = Raster(5490, 5490, (20.0, 0.0, 600000.0, 0.0, -20.0, 5100000.0), "uint8", None)
Statements = Callable[[Engine], AbstractContextManager[list[str]]]


def _start(engine: Engine) -> tuple[int, int]:
    with write_transaction(engine) as connection:
        repository = register_repository(connection, "uid-1", "s3://bucket/repo", now=NOW)
        register_collection(connection, C1, "https://stac/v1", "earth-search-c1", now=NOW)
        query = {"tile": ["10TFR"]}
        return repository, begin_crawl(connection, query, repository_id=repository, now=NOW)


def _commit(snapshot: str = "SNAP1", parent: str | None = "ROOT", **changes: Any) -> Commit:
    commit = Commit(f"{C1}/10TFR", C1, "10TFR", 32610, snapshot, parent, NOW, (600000.0, 5000040.0))
    return replace(commit, **changes)


def _files(scene: Scene, etag: str = '"e"') -> tuple[AssetRecord, ...]:
    return tuple(
        AssetRecord(
            band=band,
            href=f"https://bucket/10/T/FR/{scene.id}/{band}.tif",
            size=2**33,
            etag=etag,
            last_modified=NOW,
            checksum="1220" + "ab" * 32,
            header_sha256="cd" * 32,
            header_length=4208,
            raster=SCL if band == "scl" else RED,
        )
        for band in ("scl", "red", "nir")
    )


def _indexed(scenes: Sequence[Scene], first: int = 0, **changes: Any) -> list[IndexedScene]:
    return [
        replace(IndexedScene(scene, "", first + n, "ee" * 32, _files(scene)), **changes)
        for n, scene in enumerate(scenes)
    ]


def _scenes(count: int, **changes: Any) -> list[Scene]:
    return [make_scene(f"S2B_T10TFR_{n:06d}", **changes) for n in range(count)]


def _everything(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with read_transaction(engine) as connection:
        return {
            name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for name, table in Base.metadata.tables.items()
        }


def _rows(engine: Engine) -> dict[str, Any]:
    with read_transaction(engine) as connection:
        return {row["item_id"]: row for row in connection.execute(select(SCENES)).mappings()}


def test_registering_twice_is_once(engine: Engine) -> None:
    first = _start(engine)
    with write_transaction(engine) as connection:
        register_sources(connection, BUILT_IN_SOURCES, now=NOW)
        register_sources(connection, BUILT_IN_SOURCES, now=NOW)
        assert register_repository(connection, "uid-1", "s3://bucket/repo") == first[0]
        assert register_repository(connection, "uid-2", "s3://bucket/other") != first[0]
        key = register_collection(connection, C1, None, None)
        assert register_collection(connection, C1, "https://moved/v1", "earth-search-c1") == key
    found = _everything(engine)
    assert len(found["sources"]) == len(BUILT_IN_SOURCES)
    assert [row[2] for row in found["collections"]] == ["https://moved/v1"]


def test_two_catalogs_with_one_collection_name_are_refused(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        register_collection(connection, "sentinel-2-l2a", "https://es", "earth-search-v1")
    with (
        pytest.raises(ConfigError, match="earth-search-v1 in this catalog"),
        write_transaction(engine) as connection,
    ):
        register_collection(connection, "sentinel-2-l2a", "https://pc", "planetary-computer")


def test_crawl_is_written_down(engine: Engine) -> None:
    repository, crawl = _start(engine)
    counts = CrawlCounts(found=3, new=2, unchanged=1, indexed=2, commits=1, requests=6, seconds=0.5)
    with write_transaction(engine) as connection:
        finish_crawl(connection, crawl, counts, "done", watermark=NOW, now=NOW)
        (run,) = status_counts(connection, repository).crawls
    assert run.counts == counts
    assert (run.query, run.outcome, run.finished_at) == ({"tile": ["10TFR"]}, "done", NOW)


def test_a_scene_from_pending_to_indexed(engine: Engine) -> None:
    repository, crawl = _start(engine)
    scene = make_scene(warnings=("no band wvp",))
    with write_transaction(engine) as connection:
        record_pending(connection, repository, [scene], crawl, now=NOW)
        before = known_scenes(connection, repository, C1, [scene.id, "another"])
    assert list(before) == [scene.id]
    known = before[scene.id]
    assert (known.status, known.item_sha256, known.snapshot_id) == ("pending", "aa" * 32, None)
    with write_transaction(engine) as connection:
        (indexed,) = _indexed([scene], 7, warnings=("nodata differs", "no band wvp"))
        assert record_indexed(connection, repository, _commit(), [indexed], crawl, now=NOW)
        known = known_scenes(connection, repository, C1, [scene.id])[scene.id]
        assert (known.status, known.branch, known.root) == ("indexed", f"{C1}/10TFR", "")
        assert (known.time_index, known.snapshot_id, known.revision) == (7, "SNAP1", 1)
        assert known.wanted_sha256 is None
        heads = branch_heads(connection, repository)
        assert heads[f"{C1}/10TFR"].snapshot_id == "SNAP1"
        assert heads[f"{C1}/10TFR"].origin == (600000.0, 5000040.0)

        query = Query.parse(ids=scene.id)
        (record,) = Asker(connection, None, TileBoxes()).records(query)
        assert record.repository == "s3://bucket/repo"
        assert record.warnings == ("no band wvp", "nodata differs")
        assert (record.datetime, record.bbox) == (scene.datetime, scene.bbox)
        assert (record.footprint, record.refs_sha256) == (scene.footprint, "ee" * 32)
        assets = read_assets(connection, [record.pk])[record.pk]
    # In the order of the bands, and as they were given.
    assert list(assets) == ["red", "nir", "scl"]
    for file in _files(scene):
        found = assets[file.band]
        assert all(getattr(found, name) == getattr(file, name) for name in AssetRecord.__slots__)
    row = _rows(engine)[scene.id]
    assert row["href_prefix"] == f"https://bucket/10/T/FR/{scene.id}/"


def test_the_same_commit_twice_is_the_same_rows(engine: Engine) -> None:
    repository, crawl = _start(engine)
    scenes = _scenes(3)
    for _ in range(2):
        with write_transaction(engine) as connection:
            record_pending(connection, repository, scenes, crawl, now=NOW)
        with write_transaction(engine) as connection:
            record_pending(connection, repository, scenes[:2], crawl, now=NOW)
    first, second = _commit(), _commit("SNAP2", "SNAP1")
    with write_transaction(engine) as connection:
        assert record_indexed(connection, repository, first, _indexed(scenes[:2]), crawl, now=NOW)
    with write_transaction(engine) as connection:
        assert record_indexed(
            connection, repository, second, _indexed(scenes[2:], 2), crawl, now=NOW
        )
    once = _everything(engine)
    for commit, batch in ((first, _indexed(scenes[:2])), (second, _indexed(scenes[2:], 2))):
        with write_transaction(engine) as connection:
            assert not record_indexed(connection, repository, commit, batch, crawl)
    assert _everything(engine) == once


def test_without_intent_the_store_alone_can_be_recorded(engine: Engine) -> None:
    repository, _ = _start(engine)
    scenes = _scenes(2)
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, _commit(), _indexed(scenes), now=NOW)
    assert {row["status"] for row in _rows(engine).values()} == {"indexed"}


def test_a_changed_scene_stays_as_it_was_until_it_is_indexed_again(engine: Engine) -> None:
    repository, crawl = _start(engine)
    old = make_scene(baseline="02.14", boa_offset=0, item_sha256="01" * 32)
    new = make_scene(baseline="05.00", boa_offset=-1000, item_sha256="02" * 32, cloud_cover=50.0)
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, _commit(), _indexed([old]), crawl, now=NOW)
    was = _rows(engine)[old.id]
    with write_transaction(engine) as connection:
        record_pending(connection, repository, [new], crawl, now=NOW)
        known = known_scenes(connection, repository, C1, [old.id])[old.id]
        assert status_counts(connection, repository).outdated == 1
        # Enough to complete it without its item.
        assert wanted_scenes(connection, repository, C1, [old.id, "other"]) == {old.id: new}
    # Old pixels with the new offset would be wrong reflectance.
    now = dict(_rows(engine)[old.id])
    wanted = {"wanted_sha256": "02" * 32, "wanted": scene_to_json(new)}
    assert now == dict(was) | wanted
    assert (known.status, known.item_sha256, known.wanted_sha256) == (
        "indexed",
        "01" * 32,
        "02" * 32,
    )

    with write_transaction(engine) as connection:
        record_failed(connection, repository, C1, {old.id: "no answer"}, crawl, now=NOW)
    now = dict(_rows(engine)[old.id])
    assert (now["status"], now["attempts"], now["snapshot_id"]) == ("indexed", 1, "SNAP1")

    with write_transaction(engine) as connection:
        again = _indexed([new], refs_sha256="ff" * 32, files=_files(new, '"f"'))
        record_indexed(connection, repository, _commit("SNAP2", "SNAP1"), again, crawl, now=NOW)
    now = _rows(engine)[old.id]
    assert (now["baseline"], now["boa_offset"], now["revision"]) == ("05.00", -1000, 2)
    assert (now["attempts"], now["last_error"]) == (0, None)
    assert (now["wanted_sha256"], now["wanted"]) == (None, None)
    with read_transaction(engine) as connection:
        (earlier,) = connection.execute(select(SCENE_REVISIONS)).mappings()
        assert set(connection.execute(select(ASSETS.c.etag)).scalars()) == {'"f"'}
    assert (earlier["revision"], earlier["snapshot_id"]) == (1, "SNAP1")
    assert (earlier["baseline"], earlier["boa_offset"]) == ("02.14", 0)
    assert (earlier["refs_sha256"], earlier["item_sha256"]) == ("ee" * 32, "01" * 32)
    assert earlier["footprint"] == old.footprint
    red = next(asset for asset in earlier["assets"] if asset["band"] == "red")
    assert red == {
        "band": "red",
        "href": f"https://bucket/10/T/FR/{old.id}/red.tif",
        "size": 2**33,
        "etag": '"e"',
        "last_modified": NOW.isoformat(),
        "checksum": "1220" + "ab" * 32,
        "header_sha256": "cd" * 32,
        "header_length": 4208,
        "raster": asdict(RED) | {"transform": list(RED.transform)},
    }


def test_failures_wait_longer_each_time_until_the_item_changes(engine: Engine) -> None:
    repository, crawl = _start(engine)
    scene = make_scene()
    for delay in (*RETRY_DELAYS, RETRY_DELAYS[-1]):
        with write_transaction(engine) as connection:
            record_pending(connection, repository, [scene], crawl, now=NOW)
            record_failed(connection, repository, C1, {scene.id: "red: not a TIFF"}, crawl, now=NOW)
            known = known_scenes(connection, repository, C1, [scene.id])[scene.id]
        assert (known.status, known.next_attempt_at) == ("failed", NOW + delay)
    assert known.attempts == len(RETRY_DELAYS) + 1
    with write_transaction(engine) as connection:
        (failure,) = status_counts(connection, repository).failures
        assert (failure.id, failure.tile, failure.reason) == (scene.id, "10TFR", "red: not a TIFF")
        record_pending(
            connection, repository, [replace(scene, item_sha256="bb" * 32)], crawl, now=NOW
        )
        known = known_scenes(connection, repository, C1, [scene.id])[scene.id]
    assert (known.status, known.attempts, known.next_attempt_at) == ("pending", 0, None)


def test_an_item_that_is_no_scene(engine: Engine) -> None:
    repository, crawl = _start(engine)
    scene = make_scene("S2B_BAD")
    args = (C1, "S2B_BAD", "no geometry", crawl)
    with write_transaction(engine) as connection:
        for attempt in (1, 2):
            record_unreadable_item(connection, repository, *args, item_sha256="01" * 32, now=NOW)
            known = known_scenes(connection, repository, C1, ["S2B_BAD"])["S2B_BAD"]
            assert (known.status, known.attempts) == ("failed", attempt)
            assert known.next_attempt_at == NOW + RETRY_DELAYS[attempt - 1]
            assert (known.item_sha256, known.last_error) == ("01" * 32, "no geometry")
        record_unreadable_item(connection, repository, *args, item_sha256="02" * 32, now=NOW)
        assert known_scenes(connection, repository, C1, ["S2B_BAD"])["S2B_BAD"].attempts == 1
        status = status_counts(connection, repository)
        assert (status.unreadable, status.failures[0].tile) == (1, None)
        # Once it can be read, the failure is history.
        record_pending(connection, repository, [scene], crawl, now=NOW)
        assert known_scenes(connection, repository, C1, ["S2B_BAD"])["S2B_BAD"].status == "pending"
        assert status_counts(connection, repository).failures == ()
        record_indexed(connection, repository, _commit(), _indexed([scene]), crawl)
        # And the other way round: the scene stays where it is.
        record_unreadable_item(connection, repository, *args, item_sha256="03" * 32, now=NOW)
        known = known_scenes(connection, repository, C1, ["S2B_BAD"])["S2B_BAD"]
    assert (known.status, known.snapshot_id, known.attempts) == ("indexed", "SNAP1", 1)
    assert (known.item_sha256, known.wanted_sha256) == ("aa" * 32, "03" * 32)


def test_a_head_that_moved_is_another_crawl(engine: Engine) -> None:
    repository, crawl = _start(engine)
    one, two, three = _scenes(3)
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, _commit(), _indexed([one]), crawl, now=NOW)
    before = _everything(engine)
    wrong = _commit("SNAP3", "SNAP2")
    with pytest.raises(BusyError, match="SNAP1 as head"), write_transaction(engine) as connection:
        record_indexed(connection, repository, wrong, _indexed([two], 1), crawl)
    assert _everything(engine) == before
    with write_transaction(engine) as connection:
        unchecked = _commit("SNAP3", None)
        assert record_indexed(connection, repository, unchecked, _indexed([three], 2), crawl)


def test_two_scenes_in_one_place_are_refused(engine: Engine) -> None:
    repository, crawl = _start(engine)
    one, two = _scenes(2)
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, _commit(), _indexed([one]), crawl, now=NOW)
    before = _everything(engine)
    commit = _commit("SNAP2", "SNAP1")
    with pytest.raises(StoreError, match="another"), write_transaction(engine) as connection:
        record_indexed(connection, repository, commit, _indexed([two]), crawl)
    assert _everything(engine) == before
    # The sibling cube counts for itself.
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, commit, _indexed([two], root="variant-12"), crawl)


def test_unregistered_collection(engine: Engine) -> None:
    repository, crawl = _start(engine)
    with pytest.raises(NotFoundError, match="'other'"), write_transaction(engine) as connection:
        record_pending(connection, repository, [make_scene(collection="other")], crawl)


def test_an_item_repeated_in_a_page_is_one_scene(engine: Engine) -> None:
    repository, crawl = _start(engine)
    with write_transaction(engine) as connection:
        record_pending(connection, repository, [make_scene(), make_scene(cloud_cover=1.0)], crawl)
    (row,) = _rows(engine).values()
    assert row["cloud_cover"] == 1.0


def test_tiles_grow_with_their_scenes(engine: Engine) -> None:
    repository, crawl = _start(engine)
    boxes = [(-121.0, 44.0, -120.0, 45.0), (-121.5, 44.5, -120.5, 44.6), (-121.0, 43.0, -119.0, 44)]
    scenes = [make_scene(f"s{n}", footprint=shapely.box(*box)) for n, box in enumerate(boxes)]
    with write_transaction(engine) as connection:
        record_pending(connection, repository, scenes[:2], crawl)
        assert connection.execute(select(TILES)).all() == [("10TFR", -121.5, 44.0, -120.0, 45.0)]
        record_indexed(connection, repository, _commit(), _indexed(scenes[1:]), crawl)
        assert connection.execute(select(TILES)).all() == [("10TFR", -121.5, 43.0, -119.0, 45.0)]


def test_tile_boxes_at_the_antimeridian_lie_side_by_side() -> None:
    assert tile_box("01CCV", (-179.5, -79, -175, -78)) == (180.5, -79, 185, -78)
    assert tile_box("01CCV", (179.0, -79, 182.0, -78)) == (179.0, -79, 182.0, -78)
    assert tile_box("60CWS", (-180.5, -79, -179.5, -78)) == (179.5, -79, 180.5, -78)
    assert tile_box("31TCJ", (-0.1, 43, 1.3, 44)) == (-0.1, 43, 1.3, 44)


@pytest.mark.parametrize("count", [1, 200])
def test_statements_do_not_grow_with_the_batch(
    engine: Engine, statements: Statements, count: int
) -> None:
    repository, crawl = _start(engine)
    scenes = _scenes(count)
    with write_transaction(engine) as connection:
        with statements(engine) as seen:
            record_pending(connection, repository, scenes, crawl)
        assert len(seen) == 5
        with statements(engine) as seen:
            known_scenes(connection, repository, C1, [scene.id for scene in scenes])
        assert len(seen) == 1
        with statements(engine) as seen:
            record_indexed(connection, repository, _commit(), _indexed(scenes), crawl)
        assert len(seen) == 12, seen
        with statements(engine) as seen:
            again = _commit("SNAP2", "SNAP1")
            record_indexed(connection, repository, again, _indexed(scenes), crawl)
        assert len(seen) == 16, seen
        with statements(engine) as seen:
            assert not record_indexed(connection, repository, again, _indexed(scenes), crawl)
        assert len(seen) == 3, seen
        with statements(engine) as seen:
            record_failed(connection, repository, C1, {scene.id: "gone" for scene in scenes}, crawl)
        assert len(seen) == 2
        with statements(engine) as seen:
            branch_heads(connection, repository)
            status_counts(connection, repository)
        assert len(seen) == 4


def test_status_counts(engine: Engine) -> None:
    repository, crawl = _start(engine)
    ours, other = _scenes(3), make_scene("other", tile="11SKA")
    with write_transaction(engine) as connection:
        record_pending(connection, repository, [*ours, other], crawl, now=NOW)
        record_indexed(connection, repository, _commit(), _indexed(ours[:2]), crawl, now=NOW)
        record_failed(connection, repository, C1, {other.id: "later"}, crawl, now=NOW)
        second = begin_crawl(connection, {}, repository_id=repository, now=NOW + timedelta(days=1))
        status = status_counts(connection, repository, crawls=1)
    assert status.scenes == (
        (C1, "10TFR", "indexed", 2),
        (C1, "10TFR", "pending", 1),
        (C1, "11SKA", "failed", 1),
    )
    assert status.total("status") == {"indexed": 2, "pending": 1, "failed": 1}
    assert status.total("tile") == {"10TFR": 3, "11SKA": 1}
    assert [run.id for run in status.crawls] == [second]
    assert [failure.id for failure in status.failures] == ["other"]


def test_a_recorded_snapshot_cannot_be_dropped(engine: Engine) -> None:
    repository, crawl = _start(engine)
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, _commit(), _indexed([make_scene()]), crawl)
    with (
        pytest.raises(ConfigError, match=r"(?i)foreign key"),
        write_transaction(engine) as connection,
    ):
        connection.execute(delete(SNAPSHOTS))


def test_a_repository_that_moved_is_the_same(engine: Engine) -> None:
    later = NOW + timedelta(days=1)
    with write_transaction(engine) as connection:
        first = register_repository(connection, "uid-1", "/data/repo", now=NOW)
        assert register_repository(connection, "uid-1", "/moved/repo", now=NOW) == first
        # Another one takes its old place, and it comes to lie in another's.
        second = register_repository(connection, "uid-2", "/data/repo", now=NOW)
        assert register_repository(connection, "uid-1", "/data/repo", now=later) == first
        assert known_repositories(connection) == [
            KnownRepository(first, "uid-1", "/data/repo"),
            KnownRepository(second, "uid-2", "/data/repo"),
        ]


def test_two_repositories_of_one_database_are_kept_apart(engine: Engine) -> None:
    one, crawl = _start(engine)
    here, both = make_scene("here"), make_scene("both")
    bad = (C1, "bad", "no geometry", crawl)
    with write_transaction(engine) as connection:
        two = register_repository(connection, "uid-2", "/other", now=NOW)
        record_indexed(connection, one, _commit(), _indexed([here, both]), crawl, now=NOW)
        record_unreadable_item(connection, one, *bad, now=NOW)
    before = _rows(engine)
    ids = ["here", "both", "bad"]
    with write_transaction(engine) as connection:
        assert known_scenes(connection, two, C1, ids) == {}
        assert branch_heads(connection, two) == tile_branches(connection, two, "10TFR") == {}
        assert tile_names(connection, two) == branch_summary(connection, two) == []
        assert status_counts(connection, two).scenes == ()
        assert status_counts(connection, two).failures == ()
        record_pending(connection, two, [both], crawl, now=NOW)
        record_failed(connection, two, C1, {"both": "no answer"}, crawl, now=NOW)
        record_pending(connection, two, [make_scene("bad")], crawl, now=NOW)
        commit = _commit("SNAP9")
        record_indexed(connection, two, commit, _indexed([both], files=()), crawl, now=NOW)
    with read_transaction(engine) as connection:
        found = known_scenes(connection, one, C1, ids)
        assert [found[name].status for name in ids] == ["indexed", "indexed", "failed"]
        assert {found[name].snapshot_id for name in ("here", "both")} == {"SNAP1"}
        found = known_scenes(connection, two, C1, ids)
        assert {name: scene.status for name, scene in found.items()} == {
            "both": "indexed",
            "bad": "pending",
        }
        assert found["both"].snapshot_id == "SNAP9"
        branch = f"{C1}/10TFR"
        assert tile_branches(connection, one, "10TFR") == {branch: "SNAP1"}
        assert tile_branches(connection, two, "10TFR") == {branch: "SNAP9"}
        assert [name for name, _ in branch_snapshots(connection, two, branch)] == ["SNAP9"]
        assert [row.scenes for row in branch_summary(connection, one)] == [2]
        assert [row.scenes for row in branch_summary(connection, two)] == [1]
        asked = Query.parse(sort="id")
        for repository, names in ((one, ["both", "here"]), (two, ["both"]), (None, None)):
            asker = Asker(connection, repository, TileBoxes())
            answers = asker.records(asked)
            assert asker.count(asked) == len(answers)
            if names:
                assert [scene.id for scene in answers] == names
        assert sorted(scene.repository for scene in answers) == [
            *("/other", "s3://bucket/repo", "s3://bucket/repo"),
        ]
        rows = connection.execute(select(SCENES).where(SCENES.c.repository_id == one)).mappings()
        assert {row["item_id"]: row for row in rows} == before


@pytest.mark.parametrize(
    ("etag", "stored"),
    [
        ('"d41d8cd98f00b204e9800998ecf8427e"', 17),
        ('"d41d8cd98f00b204e9800998ecf8427e-12"', 20),
        ('"D41D8CD98F00B204E9800998ECF8427E"', 33),
        ('W/"0815-abc"', 13),
        ('"0x8DC5F7E7D4C3F10"', 18),
        ("d41d8cd9", 9),
        ('"' + "ab" * 300 + '"', None),
        *((text, None) for text in ('""', '"', "", '"abc"', '"é\n"x"', '"ab"c', '"ff')),
        (None, None),
    ],
)
def test_etags_come_back_as_they_were_sent(
    engine: Engine, etag: str | None, stored: int | None
) -> None:
    repository, crawl = _start(engine)
    scene = make_scene()
    files = tuple(replace(file, etag=etag) for file in _files(scene))
    with write_transaction(engine) as connection:
        record_indexed(connection, repository, _commit(), _indexed([scene], files=files), crawl)
        assert set(connection.execute(select(ASSETS.c.etag)).scalars()) == {etag}
        if stored is not None:
            raw = connection.execute(text("SELECT etag FROM assets")).scalars()
            assert {len(value) for value in raw} == {stored}
