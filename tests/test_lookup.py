"""The read path on both stacks: questions, scenes and pixels."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from sqlalchemy import Engine
from stacks import BANDS, C1, DATES, L2A, SCENES, TILES, Stack, child_environment

import catalog
from catalog.errors import ConfigError, NotFoundError, StoreError, UsageError
from catalog.recorded import SceneRecord

pytest_plugins = ["stacks"]

Statements = Callable[[Engine], AbstractContextManager[list[str]]]
Item = dict[str, Any]


@pytest.fixture
def cat(crawled: Stack) -> Iterator[catalog.Catalog]:
    with crawled.connect() as opened:
        yield opened


def items(stack: Stack, tile: str) -> list[Item]:
    """Of a tile, by time."""
    return sorted(
        (item for item in stack.items if tile in item["id"]),
        key=lambda item: item["properties"]["datetime"],
    )


# Questions


def test_search(crawled: Stack, cat: catalog.Catalog) -> None:
    everything = cat.search()
    assert everything.count() == len(everything.ids()) == len(list(everything)) == SCENES
    times = [scene.datetime for scene in everything]
    assert times == sorted(times, reverse=True)
    assert all(isinstance(scene, catalog.StoredScene) for scene in everything)
    first, *_, last = items(crawled, "10TFR")
    for question, expected in (
        ({"tile": "T10TFR"}, 3),
        ({"tile": ["10TFR", "10TGR"]}, 6),
        ({"tile": "31UFU"}, 0),
        ({"datetime": "2023-05"}, 2),
        ({"datetime": (None, datetime(2023, 4, 1, tzinfo=UTC))}, 2),
        ({"bbox": (-122, 45.9, -121, 46.1)}, 3),
        ({"intersects": "POINT (-120.39 46.0)"}, 3),
        ({"max_cloud_cover": 20}, 4),
        ({"platform": "S2A"}, 2),
        ({"ids": [first["id"], "nobody"]}, 1),
        ({"collection": C1, "limit": 4}, 4),
        ({"collection": "elsewhere"}, 0),
        ({"baseline": "05.10"}, 2),
        ({"status": "failed"}, 0),
        ({"status": "any"}, 6),
    ):
        found = cat.search(**question)  # type: ignore[arg-type]
        assert (found.count(), len(found.ids())) == (expected, expected), question
    assert cat.search(tile="10TFR", sort="cloud_cover", limit=1).ids() == [last["id"]]
    assert cat.search(tile="10TFR", sort="datetime").ids()[0] == first["id"]


def test_to_pandas(crawled: Stack, cat: catalog.Catalog) -> None:
    frame = cat.search(tile="10TFR", sort="datetime").to_pandas()
    assert list(frame.index) == [item["id"] for item in items(crawled, "10TFR")]
    assert frame.index.name == "id"
    for name in ("datetime", "created", "updated", "recorded_at", "next_attempt_at"):
        assert isinstance(frame[name].dtype, pd.DatetimeTZDtype)
        assert str(frame[name].dt.tz) == "UTC"
    assert frame["cloud_cover"].dtype == np.float64
    assert frame["time_index"].dtype == "Int64"
    assert frame["epsg"].dtype == np.int64
    assert set(frame.columns) == set(SceneRecord.__dataclass_fields__) - {"pk", "footprint", "id"}
    assert frame["datetime"].iloc[0] == pd.Timestamp("2023-03-08T19:11:53.327Z")
    empty = cat.search(tile="31UFU").to_pandas()
    assert len(empty) == 0
    assert empty.dtypes.equals(frame.dtypes)


def test_one_scene(crawled: Stack, cat: catalog.Catalog) -> None:
    item = items(crawled, "10TFR")[0]
    scene = cat.scene(item["id"])
    assert scene.id == item["id"]
    assert scene.branch == f"{C1}/10TFR"
    assert (scene.tile, scene.epsg, scene.time_index, scene.boa_offset) == (
        "10TFR",
        32610,
        0,
        -1000,
    )
    assert len(scene.snapshot_id) == 20
    assert len(scene.refs_sha256) == 64
    assert scene.assets["red"].etag.startswith('"')
    assert len(scene.assets) == BANDS
    assert {"branch", "snapshot_id", "open", "assets"} <= set(dir(scene))
    assert item["id"] in repr(scene)
    assert scene == cat.scene(item["id"], collection=C1)
    assert len({scene, cat.scene(item["id"])}) == 1
    with pytest.raises(AttributeError):
        scene.nothing  # noqa: B018
    with pytest.raises(NotFoundError, match="no scene 'S2B_NOBODY'"):
        cat.scene("S2B_NOBODY")


def test_statements_per_question(crawled: Stack, statements: Statements) -> None:
    with crawled.connect() as cat:
        scene = next(iter(cat.search(tile="10TFR")))

        def cost(ask: Callable[[], Any]) -> int:
            with statements(cat._engine) as seen:
                ask()
            return len(seen)

        assert cost(lambda: cat.search(tile="10TFR", bbox=(-180, -90, 180, 90))) == 0
        assert cost(lambda: list(cat.search())) == 1
        # The boxes of tiles are read once; then whether they have changed is asked.
        assert cost(lambda: cat.search(bbox=(-122, 45, -120, 47)).count()) == 3
        assert cost(lambda: cat.search(bbox=(-122, 45, -120, 47)).count()) == 2
        assert cost(lambda: cat.search(bbox=(-122, 45, -120, 47)).page()) == 2
        assert cost(cat.changes) == 1
        assert cost(lambda: cat.search().to_pandas()) == 1
        assert cost(lambda: cat.scene(scene.id)) == 1
        # Has the scene another state by now? And then its files.
        assert cost(lambda: cat.scene(scene.id).assets) == 3
        assert cost(lambda: scene.open(resolution=20)) == 0
        assert cost(lambda: cat.cube("10TFR")) == 1
        # The branch, its commits, and all states of its scenes.
        assert cost(lambda: cat.cube("10TFR", as_of=scene.snapshot_id)) == 3
        assert cost(cat.status) == 8


# Pixels


LEVELS = [("red", 0), ("red", 1), ("red", 2), ("scl", 0), ("visual", 0), ("swir16", 1)]


@pytest.mark.parametrize(("band", "level"), [*LEVELS, ("coastal", 0)])
def test_pixels_are_rasterios(crawled: Stack, cat: catalog.Catalog, band: str, level: int) -> None:
    for item in items(crawled, "10TGR"):
        expected = crawled.pixels(item, band, level)
        native = item["assets"][band]["proj:transform"][0]
        size = round(native * crawled.pixels(item, band).shape[-1] / expected.shape[-1])
        ours = cat.scene(item["id"]).open(resolution=size, bands=[band])[band]
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(ours, expected)
        if band != "visual":
            np.testing.assert_array_equal(ours[5:300:7, -3:], expected[5:300:7, -3:])


def test_a_scene_as_a_dataset(crawled: Stack, cat: catalog.Catalog) -> None:
    item = items(crawled, "10TFR")[1]
    scene = cat.scene(item["id"])
    dataset = scene.open(resolution=10, bands=["B04", "visual"])
    assert dataset["red"].dims == ("y", "x")
    assert dataset["visual"].dims == ("band", "y", "x")
    assert list(dataset["band"].values) == ["red", "green", "blue"]
    assert (float(dataset.x[0]), float(dataset.y[0])) == (600005.0, 5099995.0)
    assert str(dataset.time.values) == "2023-05-02T19:11:53.327000"
    assert dataset.scene.item() == scene.id
    assert dataset.spatial_ref.attrs["GeoTransform"].split()[0] == "600000.0"
    assert dataset.attrs["cogcat_snapshot"] == scene.snapshot_id
    assert dataset.attrs["cogcat_branch"] == scene.branch
    assert set(scene.open().data_vars) == {"blue", "green", "red", "nir", "visual"}
    # A box by coordinates, lazily.
    part = dataset["red"].sel(x=slice(600100, 600900), y=slice(5099000, 5098000))
    np.testing.assert_array_equal(part, crawled.pixels(item, "red")[100:200, 10:90])


def test_a_scene_as_a_tree(crawled: Stack, cat: catalog.Catalog) -> None:
    item = items(crawled, "10TFR")[0]
    scene = cat.scene(item["id"])
    tree = scene.open_tree(bands=["red", "scl"])
    assert {"r10m", "r20m", "r40m"} <= set(tree.children)
    assert set(tree["r10m"].data_vars) == {"red"}
    assert set(tree["r20m"].data_vars) == {"red", "scl"}
    np.testing.assert_array_equal(tree["r20m"]["red"], crawled.pixels(item, "red", 1))
    assert tree.attrs["cogcat_scene"] == scene.id
    with pytest.raises(NotFoundError, match="no band 'cirrus'"):
        scene.open_tree(bands=["cirrus"])


def test_cube(crawled: Stack, cat: catalog.Catalog) -> None:
    cube = cat.cube("T10TGR", bands=["red", "scl"], resolution=20)
    assert set(cube.data_vars) == {"red", "scl"}
    assert cube["red"].dims == ("time", "y", "x")
    assert cube["red"].dtype == np.uint16
    assert cube["scl"].dtype == np.uint8
    assert [str(time)[:10] for time in cube.time.values] == list(DATES)
    expected = items(crawled, "10TGR")
    assert list(cube.scene.values) == [item["id"] for item in expected]
    assert list(cube.boa_offset.values) == [-1000] * 3
    for step, item in enumerate(expected):
        np.testing.assert_array_equal(cube["red"][step], crawled.pixels(item, "red", 1))
    stacked = np.stack([crawled.pixels(item, "red", 1) for item in expected])
    np.testing.assert_array_equal(
        cube["red"][[2, 0], 10:20, [5, 3]], stacked[[2, 0], 10:20][:, :, [5, 3]]
    )
    np.testing.assert_array_equal(cube["red"].isel(time=slice(None, None, -1)), stacked[::-1])
    np.testing.assert_array_equal(cube["red"].max("time"), stacked.max(0))
    assert cat.cube("10TGR", bands=["red", "scl"]).x.size == 273, "the finest they share"


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        ("2023-05", [1]),
        ("2023-03-08/2023-05-02", [0, 1]),
        ("2023-03-08T19:11:53.327Z", [0]),
        ("2023-06/..", [2]),
        (("2023-01-01", None), [0, 1, 2]),
    ],
)
def test_cube_of_a_time(cat: catalog.Catalog, when: Any, steps: list[int]) -> None:
    whole = cat.cube("10TFR", bands=["scl"])
    part = cat.cube("10TFR", bands=["scl"], datetime=when)
    assert list(part.scene.values) == [whole.scene.values[step] for step in steps]
    # The same scenes as a search finds.
    assert sorted(part.scene.values) == sorted(cat.search(tile="10TFR", datetime=when).ids())


def test_reflectance_of_one_cube_with_two_offsets(dialects_stack: Stack) -> None:
    """Planetary Computer's scenes carry an offset since baseline 04.00 and none before."""
    stack = dialects_stack
    stack.crawl(collection=L2A, stac=stack.server.pc_stac_url, bands=["red", "scl", "visual"])
    old, new = stack.server.archive.items["planetary-computer"]
    with stack.connect() as cat:
        cube = cat.cube("10TFR", bands=["B04", "SCL"], resolution=20, reflectance=True)
        assert list(cube.boa_offset.values) == [0, -1000]
        assert cube["red"].dtype == np.float32
        assert cube["scl"].dtype == np.uint8
        steps = []
        for item, offset in ((old, 0), (new, -1000)):
            raw = stack.pixels(item, "B04", 1)
            steps.append(np.where(raw == 0, np.nan, (raw.astype("f8") + offset) * 1e-4))
            scene = cat.scene(item["id"])
            ours = scene.open(resolution=20, bands=["red"], reflectance=True)["red"]
            np.testing.assert_allclose(ours, steps[-1], rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(scene.open(resolution=20, bands=["red"])["red"], raw)
        expected = np.stack(steps)
        for part in (slice(None), slice(None, None, -1), [1], [1, 0, 1]):
            ours = cube["red"].isel(time=part)
            np.testing.assert_allclose(ours, expected[part], rtol=1e-6, atol=1e-7)
        colours = cat.scene(new["id"]).open(resolution=10, bands=["visual"], reflectance=True)
        assert colours["visual"].dtype == np.uint8


def test_as_of(stack: Stack) -> None:
    stack.crawl(tiles=["10TFR"], datetime="2023-03", bands=["scl"])
    with stack.connect() as cat:
        first = next(iter(cat.search()))
        between = datetime.now(UTC)
        stack.crawl(tiles=["10TFR"], bands=["scl"])
        assert cat.cube("10TFR").sizes["time"] == 3
        for as_of in (first.snapshot_id, between, between.isoformat()):
            then = cat.cube("10TFR", as_of=as_of)
            assert list(then.scene.values) == [first.id]
            assert then.attrs["cogcat_snapshot"] == first.snapshot_id
        assert cat.cube("10TFR", as_of=datetime.now(UTC)).sizes["time"] == 3
        assert cat.cube("10TFR", as_of=f"{between:%Y-%m-%d}").sizes["time"] == 3, "until its end"
        with pytest.raises(NotFoundError, match="nothing was recorded"):
            cat.cube("10TFR", as_of=between - timedelta(days=1))
        with pytest.raises(NotFoundError, match="no recorded snapshot 'ABC'"):
            cat.cube("10TFR", as_of="ABC")
        with pytest.raises(UsageError, match="no time zone"):
            cat.cube("10TFR", as_of=datetime(2023, 1, 1))  # noqa: DTZ001


def test_what_is_not_there_is_named_with_what_is(cat: catalog.Catalog) -> None:
    for ask, message in (
        (lambda: cat.cube("99ZZZ"), "99ZZZ"),
        (lambda: cat.cube("31UFU"), "no tile 31UFU; there are 10TFR, 10TGR"),
        (lambda: cat.cube("10TFR", collection="other"), "no tile 10TFR in collection 'other'"),
        (lambda: cat.cube("10TFR", bands=["purple"]), "unknown band 'purple'; known are coastal"),
        (lambda: cat.cube("10TFR", bands=["cirrus"]), "no band 'cirrus'; there are coastal"),
        (lambda: cat.cube("10TFR", resolution=15), "no resolution of 15 m; there are 10, 20"),
        (lambda: cat.cube("10TFR", bands=["scl"], resolution=10), "'scl' has no array at 10 m"),
        (lambda: cat.cube("10TFR", datetime="1999"), "no scene in '1999'; there are 3"),
        (lambda: cat.cube("10TFR", datetime="soon"), "soon"),
        (lambda: cat.cube("10TFR", resolution="10m"), "resolution '10m' is not the size"),
        (lambda: cat.cube("10TFR", chunks={"depth": 1}), "chunks={'depth': 1}"),
        (lambda: cat.scene(None), "malformed item id None"),  # type: ignore[arg-type]
        (lambda: cat.load(tile="10TFR", datetime="1999"), "answers tile=10TFR, datetime='1999-01"),
        (lambda: cat.search(tile="10TFI"), "10TFI"),
        (lambda: cat.search(bbox=(1, 2, 3)), "bbox"),
        (lambda: cat.search(max_cloud_cover=101), "cloud"),
        (lambda: cat.search(limit=-1), "limit"),
        (lambda: cat.search(sort="size"), "size"),
        (lambda: cat.search(status="lost"), "lost"),
    ):
        with pytest.raises(UsageError) as caught:
            ask()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_scene_that_is_not_indexed_says_why(stack: Stack) -> None:
    item = items(stack, "10TFR")[0]
    stack.server.misbehave(stack.href(item, "scl"), status=404)
    stack.crawl(tiles=["10TFR"], bands=["scl"])
    with stack.connect() as cat:
        scene = cat.scene(item["id"])
        assert (scene.status, scene.snapshot_id, scene.branch) == ("failed", None, None)
        assert scene.assets == {}
        with pytest.raises(NotFoundError, match=r"is failed, not indexed: .* file is missing"):
            scene.open()
        assert scene.id not in cat.search().ids()
        assert cat.cube("10TFR").sizes["time"] == 2


def test_one_name_in_two_collections(dialects_stack: Stack) -> None:
    stack = dialects_stack
    # Both have the tile; made to have one id too.
    stack.server.archive.items["earth-search-v1"][0]["id"] = stack.items[0]["id"]
    for collection in (C1, L2A):
        stack.crawl(collection=collection, bands=["scl"])
    with stack.connect() as cat:
        with pytest.raises(UsageError, match=f"in collections {C1}, {L2A}: say which"):
            cat.scene(stack.items[0]["id"])
        assert cat.scene(stack.items[0]["id"], collection=L2A).collection == L2A
        joined = cat.cube("10TFR", bands=["scl"], resolution=20)
        assert sorted(joined.collection.values) == [C1, C1, L2A, L2A]
        assert joined.attrs["cogcat_branches"] == [f"{C1}/10TFR", f"{L2A}/10TFR"]
        assert list(joined.time.values) == sorted(joined.time.values)
        ours = {C1: stack.items, L2A: stack.server.archive.items["earth-search-v1"]}
        for step, name in enumerate(joined.collection.values):
            item = ours[name][step // 2]
            np.testing.assert_array_equal(joined["scl"][step], stack.pixels(item, "scl"))
        np.testing.assert_array_equal(joined["scl"][::-2, 5], joined["scl"].values[::-2, 5])
        assert cat.cube("10TFR", collection=C1).attrs["cogcat_branch"] == f"{C1}/10TFR"


# Elsewhere


def test_threads_share_a_catalog(crawled: Stack, cat: catalog.Catalog) -> None:
    expected = {item["id"]: int(crawled.pixels(item, "scl").sum()) for item in crawled.items}
    failures: list[BaseException] = []

    def read(tile: str) -> None:
        try:
            for _ in range(3):
                for scene in cat.search(tile=tile):
                    ours = scene.open(resolution=20, bands=["scl"])["scl"].to_numpy()
                    assert int(ours.sum()) == expected[scene.id]
                assert cat.cube(tile, bands=["scl"]).sizes["time"] == 3
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=read, args=(tile,)) for tile in (*TILES, *TILES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_scenes_travel_to_other_processes(crawled: Stack, cat: catalog.Catalog) -> None:
    found = list(cat.search(tile="10TFR"))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        sums = list(pool.map(red_sum, found))
        assert len(set(pool.map(process_and_catalog, found))) == 1
    assert sums == list(map(red_sum, found))
    assert pickle.loads(pickle.dumps(found[0])).assets == found[0].assets


def red_sum(scene: catalog.StoredScene) -> int:
    return int(scene.open(resolution=40, bands="red").red.sum())


def process_and_catalog(scene: catalog.StoredScene) -> tuple[int, int]:
    """All scenes that a process is sent share one catalog there."""
    return os.getpid(), id(scene._open_store.__self__)  # type: ignore[attr-defined]


def test_a_scene_is_a_geometry_to_others(cat: catalog.Catalog) -> None:
    scene = next(iter(cat.search(tile="10TFR")))
    assert shapely.geometry.shape(scene).equals(shapely.from_wkb(scene.footprint))
    assert scene in list(cat.search(intersects=scene))


@pytest.mark.parametrize("chunks", ["auto", {}, {"time": 1, "y": 100}, -1])
def test_chunks_are_of_pixels_alone(cat: catalog.Catalog, chunks: Any) -> None:
    cube = cat.cube("10TFR", bands=["red"], resolution=40, chunks=chunks)
    assert cube.red.chunks is not None
    assert all(coordinate.chunks is None for coordinate in cube.coords.values())
    xr.testing.assert_identical(cube.load(), cat.cube("10TFR", bands="red", resolution=40).load())


def test_a_pickled_dataset_is_read_in_another_process(
    crawled: Stack, cat: catalog.Catalog, tmp_path: Path
) -> None:
    cube = cat.cube("10TFR", bands=["red"], resolution=40, reflectance=True)
    path = tmp_path / "cube.pickle"
    path.write_bytes(pickle.dumps(cube))
    xr.testing.assert_identical(pickle.loads(path.read_bytes()).load(), cube.load())
    code = (
        "import pickle, sys; cube = pickle.load(open(sys.argv[1], 'rb'));"
        "print(cube['red'].sum().item(), cube.sizes['time'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    total, steps = done.stdout.split()
    assert int(steps) == 3
    assert float(total) == pytest.approx(cube["red"].sum().item())


def test_connect(crawled: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COGCAT_CONFIG", str(crawled.config))
    with catalog.connect() as cat:
        assert cat.search().count() == SCENES
        assert "Catalog" in repr(cat)
    with pytest.raises(ConfigError, match=r"is not set up.*run `cogcat init`"):
        catalog.connect(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    with catalog.connect(repository=str(tmp_path / "none")) as cat:
        assert cat.search().count() == SCENES, "no repository is needed to ask"
        with pytest.raises(ConfigError, match=r"no repository at .*none: run `cogcat init`"):
            cat.cube("10TFR")


def test_a_search_of_the_past_reads_pixels_of_the_past(stack: Stack) -> None:
    stack.crawl(tiles=["10TFR"], datetime="2023-03", bands=["scl"])
    with stack.connect() as cat:
        (first,) = cat.search()
        stack.crawl(tiles=["10TFR"], bands=["scl"])
        for as_of in (first.recorded_at, first.snapshot_id):
            then = cat.search(tile="10TFR", as_of=as_of)
            assert then.ids() == [first.id]
            cube = then.to_xarray(bands=["scl"])
            assert list(cube.scene.values) == [first.id]
            assert first.snapshot_id in str(cube.attrs)
            expected = first.open(bands=["scl"])["scl"]
            np.testing.assert_array_equal(next(iter(then)).open(bands=["scl"])["scl"], expected)
            np.testing.assert_array_equal(cube["scl"][0], expected)
        assert cat.search().to_xarray(bands=["scl"]).sizes["time"] == 3


def _pixels(opened: catalog.Catalog, dataset: Any, results: Any) -> None:
    for read in (
        lambda: opened.cube("10TFR", bands=["red"]).red[0, :2, :2].to_numpy(),
        lambda: dataset.red[0, :2, :2].to_numpy(),
        lambda: opened.search().count(),
    ):
        try:
            results.put(str(read()))
        except Exception as error:  # noqa: BLE001 - handed to the test
            results.put(f"{type(error).__name__}: {error}")


def test_pixels_in_a_forked_process_are_refused_instead_of_waited_for(crawled: Stack) -> None:
    """Icechunk's threads are not there any more; SQL is."""
    with crawled.connect() as cat:
        dataset = cat.cube("10TFR", bands=["red"])
        dataset.red[0, :2, :2].load()
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_pixels, args=(cat, dataset, results))
        child.start()
        said = [results.get(timeout=60) for _ in range(3)]
        child.join(60)
    assert [text.partition(":")[0] for text in said[:2]] == ["StoreError"] * 2
    assert "'spawn' or 'forkserver'" in said[0]
    assert said[2] == str(SCENES)


def test_a_dataset_sent_to_a_forked_pool_is_refused_there(crawled: Stack) -> None:
    """By an error that comes home: one that ended the worker would leave the pool waiting."""
    with crawled.connect() as cat:
        dataset = cat.cube("10TFR", bands=["red"], resolution=40)
        dataset.red[0, :2, :2].load()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            asked = pool.map_async(_first_pixel, [dataset])
            with pytest.raises(StoreError, match="'spawn' or 'forkserver'"):
                asked.get(timeout=60)


def _first_pixel(dataset: xr.Dataset) -> int:
    return int(dataset.red[0, 0, 0])
