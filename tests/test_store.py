"""The store: pixels as in the files for a reader who knows nothing of cogcat, and appends."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
import zarr_cm
from conftest import make_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from scenes import (
    BRANCH,
    START,
    href_of,
    levels_of,
    local_source,
    make_asset,
    noise,
    read_header,
    read_level,
    references,
    served,
    source_of,
    write,
    write_small_cog,
    write_tiff,
)

from catalog import cube_writer, sources
from catalog.arrays import all_steps, open_steps, read_cubes, resolutions
from catalog.bands import BY_NAME
from catalog.cube import SceneReferences, refs_digest, scene_references
from catalog.cube_writer import Placement, scene_ids, stored_refs_digest, write_batch
from catalog.demo.archive import Archive, build_archive
from catalog.errors import NotFoundError, SceneError, StoreError
from catalog.header import Header, HeaderReader
from catalog.item import scene_from_item
from catalog.repository import Repository
from catalog.scene import Scene
from catalog.settings import Source

DIALECTS = ("earth-search-c1", "earth-search-v1", "planetary-computer")
DATES = ("2021-06-16", "2023-05-02")
PLAIN_READER = Path(__file__).with_name("plain_reader.py")


# Every dialect, read by a stranger


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """One tile in all dialects; its second scene is partial. No tile size divides an image."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.demo.cogs.SMALLEST_OVERVIEW", 48)  # 204, 102 and 51 pixels
        return build_archive(
            tmp_path_factory.mktemp("archive"),
            tiles=("10TFR",),
            dates=DATES,
            dialects=DIALECTS,
            width=204,
            block=128,
        )


@pytest.fixture(scope="module")
def scenes(archive: Archive) -> dict[str, list[Scene]]:
    return {
        dialect: [scene_from_item(item) for item in items]
        for dialect, items in archive.items.items()
    }


@pytest.fixture(scope="module")
def repository(
    archive: Archive, scenes: dict[str, list[Scene]], tmp_path_factory: pytest.TempPathFactory
) -> Repository:
    """Every dialect on a branch of its own, both scenes in one commit."""
    source = Source(
        name="archive", match=f"{archive.base_url}/files/", url=f"{archive.files.as_uri()}/"
    )
    made = Repository.create(str(tmp_path_factory.mktemp("all") / "repository"), [source])

    async def read(scene: Scene) -> list[Header]:
        reader = HeaderReader([source])
        return list(await asyncio.gather(*map(reader.read, scene.assets)))

    for dialect, found in scenes.items():
        write_batch(
            made,
            dialect,
            collection=found[0].collection,
            tile="10TFR",
            scenes=[scene_references(scene, asyncio.run(read(scene))) for scene in found],
            crawl="test",
        )
    return made


@pytest.fixture(scope="module")
def plain(repository: Repository, archive: Archive, tmp_path_factory: Any) -> dict[str, Any]:
    """What plain xarray reads in a process that imports nothing of cogcat: branch → group →
    name → array, and ``attributes`` and ``dims`` of every variable beside."""
    directory = tmp_path_factory.mktemp("plain")
    prefix = f"{archive.files.as_uri()}/"
    subprocess.run(
        [
            *(sys.executable, "-W", "error", PLAIN_READER),
            *(repository.location, prefix, directory, *DIALECTS),
        ],
        check=True,
        cwd=directory,
    )
    found: dict[str, Any] = json.loads((directory / "documents.json").read_text())
    for branch, groups in found.items():
        for group, variables in groups.items():
            with np.load(directory / f"{branch}.{group}.npz", allow_pickle=True) as arrays:
                for name in arrays.files:
                    variables[name]["values"] = arrays[name]
    return found


def expected(archive: Archive, scene: Scene) -> Iterator[tuple[str, int, Path]]:
    """(band, level, path) of every image of a scene's files."""
    for asset in scene.assets:
        path = archive.path(asset.href)
        for level in range(levels_of(path)):
            yield asset.band, level, path


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stranger_reads_every_pixel(
    archive: Archive, scenes: dict[str, list[Scene]], plain: dict[str, Any], dialect: str
) -> None:
    seen = 0
    for step, scene in enumerate(scenes[dialect]):
        for band, level, path in expected(archive, scene):
            want = read_level(path, level)
            options = {"overview_level": level - 1} if level else {}
            with rasterio.open(path, **options) as dataset:
                group = f"r{round(dataset.transform.a)}m"
                transform = dataset.transform
            variables = plain[dialect][group]
            got = variables[band]["values"][step]
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want, f"{band} {group} {scene.id}")
            rows, columns = want.shape[-2:]
            x, _ = transform @ (np.arange(columns) + 0.5, np.zeros(columns))
            _, y = transform @ (np.zeros(rows), np.arange(rows) + 0.5)
            np.testing.assert_allclose(variables["x"]["values"], x, rtol=0, atol=1e-6)
            np.testing.assert_allclose(variables["y"]["values"], y, rtol=0, atol=1e-6)
            seen += 1
    arrays = [
        name
        for variables in plain[dialect].values()
        for name, variable in variables.items()
        if len(variable["dims"]) >= 3
    ]
    assert seen == len(arrays) * len(scenes[dialect])
    assert {"red", "visual", "scl"} <= set(arrays)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stranger_finds_times_ids_and_offsets(
    scenes: dict[str, list[Scene]], plain: dict[str, Any], dialect: str
) -> None:
    for group, variables in plain[dialect].items():
        times = variables["time"]["values"]
        assert times.dtype.kind == "M"
        assert [str(time)[:19] for time in times] == [
            scene.datetime.strftime("%Y-%m-%dT%H:%M:%S") for scene in scenes[dialect]
        ]
        assert list(variables["scene"]["values"]) == [scene.id for scene in scenes[dialect]]
        assert list(variables["boa_offset"]["values"]) == [
            scene.boa_offset for scene in scenes[dialect]
        ]
        for name, variable in variables.items():
            if len(variable["dims"]) == 3:
                assert variable["dims"] == ["time", "y", "x"], (group, name)
            elif len(variable["dims"]) == 4:
                assert (name, variable["dims"]) == ("visual", ["time", "band", "y", "x"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_grid_mapping_says_where_the_pixels_lie(
    archive: Archive, scenes: dict[str, list[Scene]], plain: dict[str, Any], dialect: str
) -> None:
    for group, variables in plain[dialect].items():
        attributes = variables["spatial_ref"]["attributes"]
        crs = CRS.from_cf(attributes)
        assert crs.to_epsg() == scenes[dialect][0].epsg == 32610
        assert CRS.from_wkt(attributes["crs_wkt"]) == CRS.from_epsg(32610)
        assert attributes["grid_mapping_name"] == "transverse_mercator"
        numbers = [float(number) for number in attributes["GeoTransform"].split()]
        x, y = variables["x"]["values"], variables["y"]["values"]
        affine = rasterio.Affine.from_gdal(*numbers)
        assert affine @ (0.5, 0.5) == pytest.approx((x[0], y[0]))
        assert affine @ (x.size - 0.5, y.size - 0.5) == pytest.approx((x[-1], y[-1]))
        for name, variable in variables.items():
            if len(variable["dims"]) >= 3:
                assert variable["grid_mapping"] == "spatial_ref", (group, name)


@pytest.mark.parametrize(
    ("dialect", "reflectance"),
    [*((dialect, False) for dialect in DIALECTS), ("planetary-computer", True)],
)
def test_cogcat_reads_the_same_pixels(
    archive: Archive,
    scenes: dict[str, list[Scene]],
    repository: Repository,
    dialect: str,
    reflectance: bool,
) -> None:
    """Reflectance too, of a cube that mixes offsets of 0 and -1000 (Planetary Computer's)."""
    store = repository.store(repository.head(dialect) or "")
    cubes = read_cubes(store)
    steps, times, ids, offsets = all_steps(store, cubes)
    assert (len(steps), list(offsets)) == (2, [scene.boa_offset for scene in scenes[dialect]])
    if reflectance:
        assert set(offsets.tolist()) == {0, -1000}
    for size, bands in resolutions(cubes).items():
        dataset = open_steps(
            store, cubes, steps=steps, times=times, ids=ids, offsets=offsets,
            resolution=size, bands=bands, reflectance=reflectance,
        )  # fmt: skip
        dataset = dataset.load()
        for step, scene in enumerate(scenes[dialect]):
            for band, level, path in expected(archive, scene):
                with rasterio.open(path, **({"overview_level": level - 1} if level else {})) as at:
                    if round(at.transform.a) != size:
                        continue
                want = read_level(path, level)
                got = dataset[band].values[step]
                if reflectance and BY_NAME[band].reflectance:
                    pixels = want.astype("float64")
                    want = np.where(pixels == 0, np.nan, (pixels + scene.boa_offset) * 1e-4)
                    assert got.dtype == np.float32
                    np.testing.assert_allclose(got, want.astype("float32"), rtol=1e-6, atol=1e-7)
                else:
                    np.testing.assert_array_equal(got, want)


def test_the_conventions_are_valid(repository: Repository) -> None:
    """GeoZarr's own validators, on the attributes as stored."""
    for dialect in DIALECTS:
        store = repository.store(repository.head(dialect) or "")
        root = zarr.open_group(store, mode="r")
        attributes = dict(root.attrs)
        assert set(zarr_cm.detect_revisions(attributes)) == {"multiscales", "proj", "spatial"}
        zarr_cm.validate_all(attributes)
        layout: Any = attributes["multiscales"]
        assert [entry["asset"] for entry in layout["layout"]] == list(
            attributes["cogcat"]["bands"]  # type: ignore[index,call-overload]
        )
        for name in attributes["cogcat"]["bands"]:  # type: ignore[index,call-overload,union-attr]
            group = dict(root[name].attrs)
            assert set(zarr_cm.detect_revisions(group)) == {"proj", "spatial"}
            zarr_cm.validate_all(group)
            zarr_cm.spatial.validate({k: v for k, v in group.items() if k[:8] == "spatial:"})
            zarr_cm.proj.validate({k: v for k, v in group.items() if k[:5] == "proj:"})
            assert group["proj:code"] == "EPSG:32610"


def test_main_says_what_the_repository_is(repository: Repository) -> None:
    session = repository.icechunk.readonly_session("main")
    described: Any = dict(zarr.open_group(session.store, mode="r").attrs)["cogcat"]
    assert {"branches", "groups", "arrays", "reflectance", "order", "references"} <= set(described)


# Batches


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a0.tif`` … ``a5.tif`` of 200 × 200 and other kinds of file, each of its own noise."""
    directory = tmp_path_factory.mktemp("files")
    for number in range(6):
        write_small_cog(directory / f"a{number}.tif", noise(200, 200, seed=number))
    write_small_cog(directory / "scl.tif", noise(100, 100, dtype="uint8"), transform=T20)
    write_small_cog(directory / "visual.tif", noise(3, 200, 200, dtype="uint8"))
    write_small_cog(directory / "tiles.tif", noise(200, 200, seed=7), block=128)
    write_small_cog(directory / "tiles2.tif", noise(200, 200, seed=8), block=128)
    write_small_cog(directory / "bytes.tif", noise(200, 200, seed=9, dtype="uint8"))
    holes = noise(200, 200, seed=10)
    holes[64:128, :64] = 0
    write_small_cog(directory / "sparse.tif", holes, sparse_ok=True)
    return directory


T20 = (20.0, 0.0, 600000.0, 0.0, -20.0, 5100000.0)


@pytest.fixture
def source(files: Path) -> Source:
    return local_source(files)


@pytest.fixture
def empty(tmp_path: Path, source: Source) -> Repository:
    return Repository.create(str(tmp_path / "repository"), [source])


def band(repository: Repository, snapshot: str, name: str = "r10m/red") -> np.ndarray[Any, Any]:
    array: Any = zarr.open_group(repository.store(snapshot), mode="r")[name]
    return np.asarray(array[:])


def ids(repository: Repository, snapshot: str) -> dict[str, Placement]:
    return scene_ids(repository.store(snapshot))


def test_batches_append_in_order_of_arrival(files: Path, source: Source, empty: Repository) -> None:
    """Whatever their times; what was read at an earlier snapshot reads the same for ever."""
    days = [5, 3, 9, 1, 7, 0]
    made = [
        references(f"s{n}", source, {"red": f"a{n}.tif"}, day=day) for n, day in enumerate(days)
    ]
    first = write(empty, *made[:2])
    second = write(empty, made[2])
    third = write(empty, *made[3:])
    assert [w.placements for w in (first, second, third)] == [
        {"s0": Placement("", 0), "s1": Placement("", 1)},
        {"s2": Placement("", 2)},
        {f"s{n}": Placement("", n) for n in (3, 4, 5)},
    ]
    assert (second.parent_id, third.parent_id) == (first.snapshot_id, second.snapshot_id)
    assert empty.head(BRANCH) == third.snapshot_id
    for written, count in ((first, 2), (second, 3), (third, 6)):
        assert list(ids(empty, written.snapshot_id)) == [f"s{n}" for n in range(count)]
        pixels = band(empty, written.snapshot_id)
        assert len(pixels) == count
        for number in range(count):
            np.testing.assert_array_equal(pixels[number], read_level(files / f"a{number}.tif"))
        times = band(empty, written.snapshot_id, "r10m/time")
        assert times.tolist() == [
            int((START + timedelta(days=day)).timestamp()) for day in days[:count]
        ]
    assert [s.id for s in empty.history(BRANCH, since=None)] == [
        w.snapshot_id for w in (first, second, third)
    ]
    assert [s.id for s in empty.history(BRANCH, since=second.snapshot_id)] == [third.snapshot_id]


def test_a_batch_written_twice_gives_one_result(source: Source, empty: Repository) -> None:
    batch = [references(f"s{n}", source, {"red": f"a{n}.tif"}) for n in range(2)]
    first, again = write(empty, *batch), write(empty, *batch)
    assert again.placements == first.placements
    assert ids(empty, again.snapshot_id) == ids(empty, first.snapshot_id)
    np.testing.assert_array_equal(band(empty, again.snapshot_id), band(empty, first.snapshot_id))


def test_an_overwritten_scene_keeps_its_index(
    files: Path, source: Source, empty: Repository
) -> None:
    """Where the new file is sparse, nothing of the old one shows; the old snapshot stays."""
    old = write(
        empty,
        references("s0", source, {"red": "a0.tif"}),
        references("s1", source, {"red": "a1.tif"}, boa_offset=0),
        references("s2", source, {"red": "a2.tif"}),
    )
    new = write(empty, references("s1", source, {"red": "sparse.tif"}, day=4, boa_offset=-1000))
    assert new.placements == {"s1": Placement("", 1)}
    assert list(ids(empty, new.snapshot_id)) == ["s0", "s1", "s2"]
    want = read_level(files / "sparse.tif")
    assert (want[64:128, :64] == 0).all()
    np.testing.assert_array_equal(band(empty, new.snapshot_id)[1], want)
    for name, level in (("r20m/red", 1), ("r40m/red", 2)):
        np.testing.assert_array_equal(
            band(empty, new.snapshot_id, name)[1], read_level(files / "sparse.tif", level)
        )
    np.testing.assert_array_equal(band(empty, old.snapshot_id)[1], read_level(files / "a1.tif"))
    for index in (0, 2):
        np.testing.assert_array_equal(
            band(empty, new.snapshot_id)[index], read_level(files / f"a{index}.tif")
        )
    assert band(empty, new.snapshot_id, "r10m/boa_offset").tolist() == [-1000, -1000, -1000]
    assert band(empty, old.snapshot_id, "r10m/boa_offset").tolist() == [-1000, 0, -1000]
    assert band(empty, new.snapshot_id, "r20m/time")[1] == int(
        (START + timedelta(days=4)).timestamp()
    )


def test_a_band_that_a_scene_lacks_reads_nodata(
    files: Path, source: Source, empty: Repository
) -> None:
    """Missing here, gone with a new version, or seen first in a later scene."""
    first = write(
        empty,
        references("s0", source, {"red": "a0.tif", "scl": "scl.tif"}),
        references("s1", source, {"red": "a1.tif"}),
    )
    scl = band(empty, first.snapshot_id, "r20m/scl")
    np.testing.assert_array_equal(scl[0], read_level(files / "scl.tif"))
    assert (scl.shape, scl[1].max()) == ((2, 100, 100), 0)

    second = write(empty, references("s2", source, {"visual": "visual.tif", "blue": "a2.tif"}))
    visual = band(empty, second.snapshot_id, "r10m/visual")
    assert visual.shape == (3, 3, 200, 200)
    np.testing.assert_array_equal(visual[2], read_level(files / "visual.tif"))
    assert not visual[:2].any()
    assert not band(empty, second.snapshot_id)[2].any()
    np.testing.assert_array_equal(
        band(empty, second.snapshot_id, "r10m/blue")[2], read_level(files / "a2.tif")
    )

    third = write(empty, references("s0", source, {"red": "a0.tif"}))
    assert not band(empty, third.snapshot_id, "r20m/scl").any()
    assert third.placements["s0"].time_index == 0


def test_a_group_seen_first_in_a_later_scene_has_all_times(
    source: Source, empty: Repository
) -> None:
    write(empty, references("s0", source, {"scl": "scl.tif"}))
    snapshot = write(empty, references("s1", source, {"red": "a1.tif"}, day=1)).snapshot_id
    dataset = xr.open_zarr(empty.store(snapshot), group="r10m", consolidated=False)
    assert dataset.scene.values.tolist() == ["s0", "s1"]
    assert dataset.red.dims == ("time", "y", "x")
    assert np.isnan(dataset.red[0]).all()


def test_scenes_that_do_not_fit_share_a_variant(
    files: Path, source: Source, empty: Repository
) -> None:
    """Another tile size and another type are two variants; the next of a kind joins its own."""
    first = write(
        empty,
        references("s0", source, {"red": "a0.tif"}),
        references("t0", source, {"red": "tiles.tif"}),
    )
    second = write(
        empty,
        references("s1", source, {"red": "a1.tif"}),
        references("t1", source, {"red": "tiles2.tif"}),
        references("b0", source, {"red": "bytes.tif"}),
    )
    tiles = first.placements["t0"].root
    kinds = second.placements["b0"].root
    assert tiles.startswith("variant-")
    assert kinds.startswith("variant-")
    assert tiles != kinds
    assert first.placements == {"s0": Placement("", 0), "t0": Placement(tiles, 0)}
    assert second.placements == {
        "s1": Placement("", 1),
        "t1": Placement(tiles, 1),
        "b0": Placement(kinds, 0),
    }
    for name, index, path in (
        ("r10m/red", 1, "a1.tif"),
        (f"{tiles}/r10m/red", 0, "tiles.tif"),
        (f"{tiles}/r10m/red", 1, "tiles2.tif"),
        (f"{kinds}/r10m/red", 0, "bytes.tif"),
    ):
        np.testing.assert_array_equal(
            band(empty, second.snapshot_id, name)[index], read_level(files / path)
        )
    assert len(ids(empty, second.snapshot_id)) == 5
    store = empty.store(second.snapshot_id)
    cubes = read_cubes(store)
    assert [cube.root for cube in cubes] == ["", tiles, kinds]
    _, _, names, _ = all_steps(store, cubes)
    assert names == ["s0", "s1", "t0", "t1", "b0"]


def test_variants_of_another_size_are_kept_apart(tmp_path: Path) -> None:
    """Alike in all but the size of the image."""
    for name, shape in (("main", (200, 200)), ("wide", (64, 130)), ("high", (130, 64))):
        write_small_cog(tmp_path / "files" / f"{name}.tif", noise(*shape), overviews=())
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    names = ("main", "wide", "high")
    written = write(
        repository, *(references(name, source, {"red": f"{name}.tif"}) for name in names)
    )
    assert len({place.root for place in written.placements.values()}) == 3
    for name in names:
        root = written.placements[name].root
        pixels = band(repository, written.snapshot_id, f"{root}/r10m/red".lstrip("/"))
        np.testing.assert_array_equal(pixels[0], read_level(tmp_path / "files" / f"{name}.tif"))


def test_a_branch_may_begin_with_any_kind_of_scene(source: Source, empty: Repository) -> None:
    """The first kind is the main cube, whatever it is."""
    assert write(empty, references("t0", source, {"red": "tiles.tif"})).placements == {
        "t0": Placement("", 0)
    }
    later = write(empty, references("s0", source, {"red": "a0.tif"}))
    assert later.placements["s0"].root.startswith("variant-")


def test_a_scene_that_moves_between_cubes_leaves_its_old_one(
    files: Path, source: Source, empty: Repository
) -> None:
    old = write(
        empty,
        references("s0", source, {"red": "a0.tif"}),
        references("s1", source, {"red": "a1.tif"}),
    )
    new = write(empty, references("s0", source, {"red": "tiles.tif"}))
    root = new.placements["s0"].root
    assert root.startswith("variant-")
    assert ids(empty, new.snapshot_id) == {"s1": Placement("", 1), "s0": Placement(root, 0)}
    main = band(empty, new.snapshot_id)
    assert not main[0].any()
    np.testing.assert_array_equal(main[1], read_level(files / "a1.tif"))
    assert list(ids(empty, old.snapshot_id)) == ["s0", "s1"]
    back = write(empty, references("s0", source, {"red": "a0.tif"}))
    assert back.placements == {"s0": Placement("", 2)}
    assert not band(empty, back.snapshot_id, f"{root}/r10m/red").any()
    store = empty.store(back.snapshot_id)
    assert all_steps(store, read_cubes(store))[2] == ["s1", "s0"]


def test_more_steps_than_a_chunk_or_a_manifest_holds(
    files: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.cube.TIME_CHUNK", 4)
    monkeypatch.setattr("catalog.cube_writer.TIME_CHUNK", 4)
    monkeypatch.setattr("catalog.repository.MANIFEST_STEPS", 3)
    empty = Repository.create(str(tmp_path / "small"), [source])
    one = references("s", source, {"red": "a0.tif", "scl": "scl.tif"})
    other = references("s", source, {"red": "a1.tif", "scl": "scl.tif"})
    count = 0
    for batch in (1, 3, 1, 5):
        made = []
        for number in range(count, count + batch):
            like = other if number % 2 else one
            made.append(
                type(like)(f"s{number}", START + timedelta(days=number), -number, like.arrays, "")
            )
        count += batch
        snapshot = write(empty, *made).snapshot_id
        dataset = xr.open_zarr(
            empty.store(snapshot), group="r20m", consolidated=False, mask_and_scale=False
        )
        assert dataset.scene.values.tolist() == [f"s{n}" for n in range(count)]
        assert dataset.boa_offset.values.tolist() == [-n for n in range(count)]
        assert dataset.time.values[-1] == np.datetime64(
            (START + timedelta(days=count - 1)).replace(tzinfo=None), "s"
        )
        for number in range(count):
            np.testing.assert_array_equal(
                dataset.red.values[number], read_level(files / f"a{number % 2}.tif", 1)
            )
        assert list(ids(empty, snapshot)) == [f"s{n}" for n in range(count)]
    assert count == 10


def test_times_before_1970_are_cut_off_downwards(source: Source, empty: Repository) -> None:
    made = references("s0", source, {"red": "a0.tif"})
    early = type(made)(
        "s0", datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=UTC), 0, made.arrays, made.sha256
    )
    snapshot = write(empty, early).snapshot_id
    dataset = xr.open_zarr(empty.store(snapshot), group="r10m", consolidated=False)
    assert dataset.time.values[0] == np.datetime64("1969-12-31T23:59:58")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bigtiff", {"bigtiff": True}),
        ("uncompressed", {"compress": None}),
        ("lzw", {"compress": "LZW"}),
        ("zstd", {"compress": "ZSTD"}),
        ("no predictor", {"predictor": 1}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*codecs are not in the Zarr version 3:UserWarning")
def test_other_cogs_read_right(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = write_small_cog(tmp_path / "files" / "a.tif", noise(200, 330), **options)
    source = local_source(path.parent)
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    for level, group in enumerate(("r10m", "r20m", "r40m")):
        np.testing.assert_array_equal(
            band(repository, snapshot, f"{group}/red")[0], read_level(path, level)
        )


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "options"),
    [
        ("big-endian", (200, 330), "uint16", {"ENDIANNESS": "BIG", "compress": "DEFLATE"}),
        ("big-endian delta", (200, 330), "uint16",
         {"ENDIANNESS": "BIG", "compress": "DEFLATE", "predictor": 2}),
        ("big-endian delta samples", (3, 200, 330), "uint16",
         {"ENDIANNESS": "BIG", "compress": "DEFLATE", "predictor": 2, "interleave": "pixel"}),
        ("planes", (3, 200, 330), "uint8",
         {"interleave": "band", "compress": "DEFLATE", "predictor": 2}),
        ("samples", (3, 200, 330), "uint16",
         {"interleave": "pixel", "compress": "DEFLATE", "predictor": 2}),
        ("signed", (200, 330), "int16",
         {"compress": "DEFLATE", "predictor": 2, "nodata": -32768}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*codecs are not in the Zarr version 3:UserWarning")
def test_other_tiffs_read_right(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str, options: dict[str, Any]
) -> None:
    (tmp_path / "files").mkdir()
    path = write_tiff(tmp_path / "files" / "a.tif", noise(*shape, dtype=dtype), **options)
    source = local_source(path.parent)
    repository = Repository.create(str(tmp_path / "repository"), [source])
    held = "red" if len(shape) == 2 else "visual"
    snapshot = write(repository, references("s0", source, {held: "a.tif"})).snapshot_id
    np.testing.assert_array_equal(band(repository, snapshot, f"r10m/{held}")[0], read_level(path))


# Digests, containers, names


def test_the_digest_can_be_recomputed_from_the_store(source: Source, empty: Repository) -> None:
    made = [
        references("s0", source, {"red": "a0.tif", "scl": "scl.tif", "visual": "visual.tif"}),
        references("s1", source, {"red": "sparse.tif"}),
        references("t0", source, {"red": "tiles.tif"}),
    ]
    written = write(empty, *made)
    store = empty.store(written.snapshot_id)
    for scene in made:
        place = written.placements[scene.id]
        assert stored_refs_digest(empty, store, place) == scene.sha256
        assert len(scene.sha256) == 64
    assert len({scene.sha256 for scene in made}) == 3
    again = write(empty, references("s0", source, {"red": "a5.tif"}))
    new = stored_refs_digest(empty, empty.store(again.snapshot_id), again.placements["s0"])
    assert new != made[0].sha256


@given(st.data())
@settings(max_examples=80)
def test_the_digest_changes_with_every_part_of_a_reference(data: st.DataObject) -> None:
    numbers = st.integers(1, 2**63 - 1)
    grid = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = grid[0] * grid[1]

    def draw() -> np.ndarray[Any, Any]:
        values = data.draw(st.lists(numbers, min_size=size, max_size=size))
        return np.array(values, np.uint64).reshape(grid)

    arrays = [(f"r10m/{name}", "vcc://a/b.tif", draw(), draw()) for name in ("blue", "red")]
    digest = refs_digest(arrays)
    assert refs_digest(reversed(arrays)) == digest
    at = tuple(data.draw(st.integers(0, n - 1)) for n in grid)
    path, where, offsets, lengths = arrays[1]
    change = data.draw(numbers)
    changed = {
        "path": ("r10m/green", where, offsets, lengths),
        "location": (path, "vcc://a/c.tif", offsets, lengths),
        "offset": (path, where, _with(offsets, at, change), lengths),
        "length": (path, where, offsets, _with(lengths, at, change)),
        "none": (path, where, offsets, _with(lengths, at, 0)),
        "grid": (path, where, offsets.reshape(1, -1, 1), lengths.reshape(1, -1, 1)),
    }
    for name, array in changed.items():
        same = all(np.array_equal(a, b) for a, b in zip(array, arrays[1], strict=True))
        assert (refs_digest([arrays[0], array]) == digest) is same, name
    # Without a length there is no reference, whatever its offset.
    gone = _with(lengths, at, 0)
    assert refs_digest([arrays[0], (path, where, offsets, gone)]) == refs_digest(
        [arrays[0], (path, where, _with(offsets, at, change), gone)]
    )


def _with(values: np.ndarray[Any, Any], at: tuple[int, ...], value: int) -> np.ndarray[Any, Any]:
    changed = values.copy()
    changed[at] = value
    return changed


def test_a_repository_pointed_at_a_mirror_reads_from_there(files: Path, tmp_path: Path) -> None:
    """Same name, other url: digests stay, and so do pixels when the first place is gone."""
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy2(files / "a0.tif", there / "a0.tif")
    first = local_source(there, "mine")
    repository = Repository.create(str(tmp_path / "mirrored"), [first])
    scene = references("s0", first, {"red": "a0.tif"})
    written = write(repository, scene)
    want = read_level(there / "a0.tif")
    mirror = tmp_path / "mirror"
    there.rename(mirror)
    pointed = Source(name="mine", match=first.match, url=f"{mirror.as_uri()}/")
    for again in (
        Repository.create(repository.location, [pointed]),
        Repository.open(repository.location),
    ):
        assert again.containers == {"mine": pointed.url}
        np.testing.assert_array_equal(band(again, written.snapshot_id)[0], want)
        store = again.store(written.snapshot_id)
        assert stored_refs_digest(again, store, Placement("", 0)) == scene.sha256


def test_creating_again_keeps_what_is_there(
    files: Path, source: Source, empty: Repository, tmp_path: Path
) -> None:
    snapshot = write(empty, references("s0", source, {"red": "a0.tif"})).snapshot_id
    other = local_source(tmp_path, "other")
    again = Repository.create(empty.location, [other])
    assert again.containers == {"local": source.url, "other": other.url}
    assert again.head(BRANCH) == snapshot
    np.testing.assert_array_equal(band(again, snapshot)[0], read_level(files / "a0.tif"))


NAMES = ["a b.tif", "100%.tif", "a#1.tif", "a?b=c.tif", "é/ü.tif", "a%20b.tif", "+&=;,.tif"]


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_names_with_any_characters(tmp_path: Path, scheme: str) -> None:
    """Percent-encoded in the href, as ``Path.as_uri()`` writes it or a web server wants it, decoded
    for the store, encoded again in the reference; the directory's name is no plainer."""
    files = tmp_path / ("my files/é 100%" if scheme == "file" else "files")
    for number, name in enumerate(NAMES):
        write_small_cog(files / name, noise(60, 60, seed=number), overviews=())
    with served(tmp_path) as server:
        source = source_of(server) if scheme == "http" else local_source(files)
        repository = Repository.create(str(tmp_path / "repository"), [source])
        made = []
        for number, name in enumerate(NAMES):
            href = href_of(source, name) if scheme == "http" else (files / name).as_uri()
            header = read_header(make_asset(href), source)
            again = sources.href_of(header.location, [source])
            assert sources.resolve(again, [source]) == sources.resolve(href, [source])
            assert scheme == "http" or again == href
            made.append(scene_references(make_scene(f"s{number}"), [header]))
        written = write(repository, *made)
        pixels = band(Repository.open(repository.location), written.snapshot_id)
        store = repository.store(written.snapshot_id)
        for number, name in enumerate(NAMES):
            np.testing.assert_array_equal(pixels[number], read_level(files / name), name)
            place = written.placements[f"s{number}"]
            assert stored_refs_digest(repository, store, place) == made[number].sha256, name


# What is refused


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_file_that_changed_is_refused(tmp_path: Path, scheme: str) -> None:
    """By its time of last modification; the same file with the same time still reads."""
    path = write_small_cog(tmp_path / "files" / "a.tif", noise(60, 60), overviews=())
    os.utime(path, (1_700_000_000.5, 1_700_000_000.5))
    with served(tmp_path) as server:
        source = source_of(server) if scheme == "http" else local_source(tmp_path / "files")
        repository = Repository.create(str(tmp_path / "repository"), [source])
        snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
        np.testing.assert_array_equal(band(repository, snapshot)[0], read_level(path))
        os.utime(path, (1_700_000_002, 1_700_000_002))
        with pytest.raises(icechunk.IcechunkError, match=r"checksum of the object .* has changed"):
            band(repository, snapshot)


def test_a_location_without_a_container_writes_nothing(
    files: Path, source: Source, empty: Repository
) -> None:
    first = write(empty, references("s0", source, {"red": "a0.tif"}))
    stranger = local_source(files, "stranger")
    scenes = (
        references("s1", source, {"red": "a1.tif"}),
        references("s2", stranger, {"red": "a2.tif"}),
    )
    with pytest.raises(StoreError, match=r"no container for vcc://stranger/a2\.tif") as error:
        write(empty, *scenes)
    assert "\n" not in str(error.value)
    assert empty.head(BRANCH) == first.snapshot_id
    assert list(ids(empty, first.snapshot_id)) == ["s0"]
    with pytest.raises(StoreError, match="no container"):
        write(empty, scenes[1], branch="sentinel-2-c1-l2a/11TLL")
    head = empty.head("sentinel-2-c1-l2a/11TLL")
    assert head is None or scene_ids(empty.store(head)) == {}


def test_a_snapshot_that_is_not_there(empty: Repository) -> None:
    for name in ("nonsense", "VY76P925PRY57WFEK410"):
        with pytest.raises(NotFoundError, match=f"no snapshot {name} in "):
            empty.store(name)


def test_a_history_that_is_anothers(source: Source, empty: Repository) -> None:
    write(empty, references("s0", source, {"red": "a0.tif"}))
    with pytest.raises(StoreError, match="does not hold snapshot VY76P925PRY57WFEK410"):
        empty.history(BRANCH, since="VY76P925PRY57WFEK410")


# Several at once


def test_a_conflict_is_tried_again(
    files: Path, source: Source, empty: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer of the same branch commits in between: neither loses anything."""
    write(empty, references("s0", source, {"red": "a0.tif"}))
    other = references("s1", source, {"red": "a1.tif"})
    original = cube_writer._fill
    tries = 0

    async def meddling(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        placements = await original(*args)
        if tries == 1:
            monkeypatch.setattr(cube_writer, "_fill", original)
            await asyncio.to_thread(write, Repository.open(empty.location), other)
            monkeypatch.setattr(cube_writer, "_fill", meddling)
        return placements

    monkeypatch.setattr(cube_writer, "_fill", meddling)
    written = write(empty, references("s2", source, {"red": "a2.tif"}))
    assert tries == 2
    assert list(ids(empty, written.snapshot_id)) == ["s0", "s1", "s2"]
    for number in range(3):
        np.testing.assert_array_equal(
            band(empty, written.snapshot_id)[number], read_level(files / f"a{number}.tif")
        )


WRITER = """
import pickle, sys
from dataclasses import replace
from catalog.cube_writer import write_batch
from catalog.repository import Repository

location, scene, branch, commits = sys.argv[1:]
repository = Repository.open(location)
with open(scene, "rb") as file:
    made = pickle.load(file)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(commits)):
    written = write_batch(
        repository, branch, collection="c", tile="t", crawl="x",
        scenes=[replace(made, id=f"s{number}")],
    )
    print(written.snapshot_id, flush=True)
"""


def test_two_processes_lose_nothing(source: Source, empty: Repository, tmp_path: Path) -> None:
    """On a local file system, to different branches, twenty commits each."""
    scene = tmp_path / "scene.pickle"
    scene.write_bytes(pickle.dumps(references("s", source, {"scl": "scl.tif"})))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, empty.location, scene, branch, "20"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for branch in ("c/one", "c/two")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    repository = Repository.open(empty.location)
    assert repository.branches() == {"c/one", "c/two"}
    for branch, snapshots in zip(("c/one", "c/two"), printed, strict=True):
        assert [s.id for s in repository.history(branch, since=None)] == snapshots
        assert len(snapshots) == 20
        assert list(ids(repository, snapshots[-1])) == [f"s{n}" for n in range(20)]


# What one scene can do to the others


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"boa_offset": 40_000}, "boa_offset"),
        ({"id": "a\x1b[31m"}, "id"),
        ({"id": "x" * 2_000}, "id"),
        ({"id": ""}, "id"),
    ],
)
def test_a_scene_that_the_store_cannot_hold_is_named_and_none_is_written(
    empty: Repository, one_file: SceneReferences, changes: dict[str, Any], reason: str
) -> None:
    bad = dataclasses.replace(one_file, **{"id": "bad"} | changes)
    with pytest.raises(SceneError, match=reason) as refused:
        write(empty, one_file, bad)
    assert refused.value.scene == bad.id
    assert empty.history(BRANCH, since=None) == []


def test_references_that_icechunk_refuses_are_their_scenes(
    empty: Repository, one_file: SceneReferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("invalid location")

    monkeypatch.setattr(icechunk.IcechunkStore, "set_virtual_refs_arr", refuse)
    with pytest.raises(SceneError, match=r"good red: .*invalid location"):
        write(empty, one_file)
    assert empty.history(BRANCH, since=None) == []


def test_a_tile_has_so_many_layouts_and_no_more(
    empty: Repository, one_file: SceneReferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cube_writer, "MOST_VARIANTS", 2)

    def laid_out(number: int) -> SceneReferences:
        arrays = tuple(
            dataclasses.replace(a, spec=dataclasses.replace(a.spec, nodata=number))
            for a in one_file.arrays
        )
        return dataclasses.replace(one_file, id=f"s{number}", arrays=arrays)

    written = write(empty, *map(laid_out, range(3)))
    assert len({place.root for place in written.placements.values()}) == 3
    with pytest.raises(SceneError, match="s3: its files are laid out like none of the 3 cubes"):
        write(empty, laid_out(3))
    again = dataclasses.replace(laid_out(2), id="again")
    assert write(empty, again).placements["again"].root == written.placements["s2"].root


@pytest.fixture
def one_file(tmp_path: Path, empty: Repository) -> SceneReferences:
    """A scene of one file, in a container that ``empty`` has."""
    ((name, prefix),) = empty.containers.items()
    write_small_cog(tmp_path / "files" / "one.tif", noise(128, 128))
    made = references("good", local_source(tmp_path / "files", name), {"red": "one.tif"})
    arrays = tuple(
        dataclasses.replace(array, location=f"vcc://{name}/one.tif") for array in made.arrays
    )
    assert prefix
    return dataclasses.replace(made, arrays=arrays)
