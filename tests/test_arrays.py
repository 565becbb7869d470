"""Snapshots as xarray: any index as NumPy takes it, reflectance, other processes, clear errors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scenes import (
    local_source,
    noise,
    read_level,
    references,
    served,
    source_of,
    write,
    write_small_cog,
    write_tiff,
)

from catalog.arrays import Steps, all_steps, choose, open_steps, read_cubes, resolutions
from catalog.cube_writer import Written
from catalog.errors import NotFoundError, StoreError
from catalog.repository import Repository, read_document

STORED = 6
ORDER = (4, 0, 5, 3, 1, 2)
"""In which the steps are opened: two cubes taking turns, and neither in its own order."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a0.tif`` … ``a5.tif``, 100 × 88 with some nodata; odd ones have another tile size."""
    directory = tmp_path_factory.mktemp("files")
    for number in range(STORED):
        pixels = noise(100, 88, seed=number)
        pixels[number * 10 : number * 10 + 20, :40] = 0
        write_small_cog(directory / f"a{number}.tif", pixels, block=32 if number % 2 else 64)
    write_small_cog(directory / "visual.tif", noise(3, 100, 88, dtype="uint8"))
    return directory


@pytest.fixture(scope="module")
def repository(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository.create(
        str(tmp_path_factory.mktemp("arrays") / "repository"), [local_source(files)]
    )


@pytest.fixture(scope="module")
def written(files: Path, repository: Repository) -> Written:
    """Scenes ``s0`` … ``s5``, offsets 0 and -1000 in turn, in the main cube and one variant; and
    ``v`` that has only ``visual``."""
    source = local_source(files)
    scenes = [
        references(f"s{n}", source, {"red": f"a{n}.tif"}, day=n, boa_offset=-1000 if n % 3 else 0)
        for n in range(STORED)
    ]
    return write(repository, *scenes, references("v", source, {"visual": "visual.tif"}, day=9))


def opened(
    repository: Repository,
    snapshot: str,
    order: Any = None,
    *,
    resolution: int = 10,
    bands: Any = ("red",),
    reflectance: bool = False,
) -> xr.Dataset:
    store = repository.store(snapshot)
    cubes = read_cubes(store)
    steps, times, ids, offsets = all_steps(store, cubes)
    order = [ids.index(name) for name in (ids if order is None else order)]
    return open_steps(
        store,
        cubes,
        steps=Steps(tuple(steps.roots[n] for n in order), tuple(steps.indices[n] for n in order)),
        times=times[order],
        ids=[ids[n] for n in order],
        offsets=offsets[order],
        resolution=resolution,
        bands=bands,
        reflectance=reflectance,
    )


@pytest.fixture(scope="module")
def lazy(repository: Repository, written: Written) -> xr.DataArray:
    return opened(repository, written.snapshot_id, [f"s{n}" for n in ORDER]).red


@pytest.fixture(scope="module")
def wanted(files: Path) -> NDArray[Any]:
    return np.stack([read_level(files / f"a{n}.tif") for n in ORDER])


def indexers(size: int) -> st.SearchStrategy[Any]:
    """Along one axis: a number, a slice with any step, or a list with repeats, perhaps empty."""
    number = st.integers(-size, size - 1)
    return number | st.slices(size) | st.lists(number, max_size=5).map(lambda v: np.array(v, int))


@given(key=st.tuples(indexers(STORED), indexers(100), indexers(88)))
@settings(max_examples=150, deadline=None)
def test_any_index_reads_as_numpy(
    lazy: xr.DataArray, wanted: NDArray[Any], key: tuple[Any, ...]
) -> None:
    """Outer indexing: each axis on its own, as xarray's ``isel`` does."""
    got = lazy.isel(time=key[0], y=key[1], x=key[2])
    want = wanted
    for axis in (2, 1, 0):
        want = want[(*(slice(None),) * axis, key[axis])]
    np.testing.assert_array_equal(got.values, want)
    assert got.dtype == want.dtype
    assert got.shape == want.shape


@given(first=st.slices(STORED), second=st.data())
@settings(max_examples=50, deadline=None)
def test_an_index_of_an_index_reads_as_numpy(
    lazy: xr.DataArray, wanted: NDArray[Any], first: slice, second: st.DataObject
) -> None:
    want = wanted[first, 20:80:3, ::-7]
    key = second.draw(st.tuples(*(st.slices(size) for size in want.shape)))
    got = lazy[first, 20:80:3, ::-7][key]
    np.testing.assert_array_equal(got.values, want[key])


def test_nothing_is_read_before_it_is_asked(files: Path, tmp_path: Path) -> None:
    """And then one request per chunk."""
    write_small_cog(tmp_path / "files" / "a.tif", noise(200, 200))
    with served(tmp_path) as server:
        source = source_of(server)
        repository = Repository.create(str(tmp_path / "repository"), [source])
        snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
        server.requests.reset()
        dataset = opened(repository, snapshot)
        assert "..." in repr(dataset.red)
        assert len(server.requests) == 0
        corner = dataset.red[0, :64, 64:128].values
        assert [(r.method, r.status) for r in server.requests] == [("GET", 206)]
    np.testing.assert_array_equal(corner, read_level(tmp_path / "files" / "a.tif")[:64, 64:128])


def test_coordinates(repository: Repository, written: Written) -> None:
    dataset = opened(repository, written.snapshot_id, ["s3", "v", "s0"], bands=("red", "visual"))
    assert [str(time)[:19] for time in dataset.time.values] == [
        "2023-01-04T19:00:00",
        "2023-01-10T19:00:00",
        "2023-01-01T19:00:00",
    ]
    assert dataset.scene.values.tolist() == ["s3", "v", "s0"]
    assert dataset.boa_offset.values.tolist() == [0, -1000, 0]
    assert dataset.boa_offset.dtype == np.int16
    assert (dataset.x.values[0], dataset.y.values[0]) == (600005.0, 5099995.0)
    assert (dataset.sizes["y"], dataset.sizes["x"]) == (100, 88)
    assert dataset.band.values.tolist() == ["red", "green", "blue"]
    assert dataset.visual.dims == ("time", "band", "y", "x")
    assert dataset.red.attrs["grid_mapping"] == "spatial_ref"


def test_a_band_that_a_step_lacks_reads_nodata(
    files: Path, repository: Repository, written: Written
) -> None:
    dataset = opened(repository, written.snapshot_id, ["v", "s1"], bands=("red", "visual")).load()
    assert not dataset.red.values[0].any()
    np.testing.assert_array_equal(dataset.red.values[1], read_level(files / "a1.tif"))
    np.testing.assert_array_equal(dataset.visual.values[0], read_level(files / "visual.tif"))
    assert not dataset.visual.values[1].any()


def test_reflectance_mixes_offsets(files: Path, repository: Repository, written: Written) -> None:
    """0 and -1000 in one array, two cubes; nodata is NaN; visual stays as it is."""
    names = [f"s{n}" for n in ORDER]
    dataset = opened(
        repository, written.snapshot_id, [*names, "v"], bands=("red", "visual"), reflectance=True
    )
    assert dataset.red.dtype == np.float32
    assert dataset.visual.dtype == np.uint8
    assert set(dataset.boa_offset.values.tolist()) == {0, -1000}
    for step, number in enumerate(ORDER):
        pixels = read_level(files / f"a{number}.tif").astype(float)
        offset = -1000 if number % 3 else 0
        want = np.where(pixels == 0, np.nan, (pixels + offset) / 10_000)
        np.testing.assert_allclose(dataset.red[step].values, want, rtol=1e-6, atol=1e-7)
        assert np.isnan(dataset.red[step, 0, 0].values) == (pixels[0, 0] == 0)
    assert np.isnan(dataset.red[-1].values).all()
    np.testing.assert_array_equal(
        dataset.red[2, ::-3, [5, 5, 1]].values, dataset.red[2].values[::-3, [5, 5, 1]]
    )


READER = """
import pickle, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    dataset = pickle.load(file)
np.save(sys.argv[2], dataset.red.values)
"""


def test_a_dataset_pickles_to_another_process(
    lazy: xr.DataArray, wanted: NDArray[Any], tmp_path: Path
) -> None:
    path = tmp_path / "dataset.pickle"
    path.write_bytes(pickle.dumps(lazy.to_dataset()))
    assert path.stat().st_size < 100_000
    subprocess.run([sys.executable, "-c", READER, path, tmp_path / "red.npy"], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "red.npy"), wanted)


def test_overviews(files: Path, repository: Repository, written: Written) -> None:
    cubes = read_cubes(repository.store(written.snapshot_id))
    assert resolutions(cubes) == {size: ["red", "visual"] for size in (10, 20, 40)}
    for level, size in enumerate((10, 20, 40)):
        dataset = opened(repository, written.snapshot_id, ["s1", "s0"], resolution=size)
        for step, number in enumerate((1, 0)):
            np.testing.assert_array_equal(
                dataset.red[step].values, read_level(files / f"a{number}.tif", level)
            )


def test_what_is_not_there_is_named(repository: Repository, written: Written) -> None:
    cubes = read_cubes(repository.store(written.snapshot_id))
    assert choose(cubes, None, None, "tile 10TFR") == (10, ["red", "visual"])
    assert choose(cubes, ["red"], 40, "tile 10TFR") == (40, ["red"])
    with pytest.raises(NotFoundError, match="tile 10TFR: no band 'nir'; there are red, visual"):
        choose(cubes, ["nir"], None, "tile 10TFR")
    with pytest.raises(NotFoundError, match="no resolution of 15 m; there are 10, 20, 40"):
        choose(cubes, None, 15, "tile 10TFR")
    with pytest.raises(NotFoundError, match=r"no resolution of 10\.4 m"):
        choose(cubes, None, 10.4, "tile 10TFR")
    with pytest.raises(NotFoundError, match="tile 10TFR: no scene is indexed"):
        choose([], None, None, "tile 10TFR")
    session = repository.icechunk.readonly_session(snapshot_id=repository.first_snapshot())
    assert read_cubes(session.store) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "uint8"}, "has another shape, type or nodata"),
        ({"transform": (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)}, "have other grids at 10 m"),
    ],
)
def test_scenes_that_cannot_share_an_array_are_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    (tmp_path / "files").mkdir()
    write_tiff(tmp_path / "files" / "a.tif", noise(90, 90))
    other = dict(options)
    pixels = noise(90, 90, dtype=other.pop("dtype", "uint16"))
    write_tiff(tmp_path / "files" / "b.tif", pixels, **other)
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(
        repository,
        references("a", source, {"red": "a.tif"}),
        references("b", source, {"red": "b.tif"}),
    ).snapshot_id
    for name in ("a", "b"):
        dataset = opened(repository, snapshot, [name])
        np.testing.assert_array_equal(
            dataset.red.values[0], read_level(tmp_path / "files" / f"{name}.tif")
        )
    with pytest.raises(NotFoundError, match=reason):
        opened(repository, snapshot, ["a", "b"])


@pytest.mark.parametrize("tags", [(None, 0), (0, None), (None, None), (65535, 0), (None, 7)])
def test_zero_is_nodata_whatever_the_tag_says(tmp_path: Path, tags: tuple[Any, Any]) -> None:
    """In Level-2A it is; what the tag names is no pixel either. As rasterio reads, else."""
    (tmp_path / "files").mkdir()
    pixels = [noise(90, 90, seed=seed) for seed in (0, 1)]
    for number, (held, tag) in enumerate(zip(pixels, tags, strict=True)):
        held[:20] = 0
        if tag:
            held[30:40] = tag
        options = {"block": 32} if number else {}
        write_tiff(tmp_path / "files" / f"{number}.tif", held, nodata=tag, **options)
        if tag:
            held[held == tag] = 0
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(
        repository,
        *(references(f"s{n}", source, {"red": f"{n}.tif"}, boa_offset=0) for n in (0, 1)),
    ).snapshot_id
    for order in (["s0"], ["s1"], ["s0", "s1"], ["s1", "s0"]):
        raw = opened(repository, snapshot, order).red
        assert raw.attrs["_FillValue"] == 0
        scaled = opened(repository, snapshot, order, reflectance=True).red
        for step, name in enumerate(order):
            want = pixels[int(name[1])]
            np.testing.assert_array_equal(raw[step].values, want)
            shown = np.where(want == 0, np.nan, want * np.float32(0.0001))
            np.testing.assert_allclose(scaled[step].values, shown, rtol=1e-6)


def test_zero_percent_is_a_value(tmp_path: Path) -> None:
    """Of probabilities: a file without the tag has no nodata, one with it has the one it says."""
    (tmp_path / "files").mkdir()
    pixels = noise(90, 90, dtype="uint8") % 101
    pixels[:20] = 0
    for name, tag in (("a", None), ("b", 0)):
        write_tiff(tmp_path / "files" / f"{name}.tif", pixels, nodata=tag)
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(
        repository,
        references("a", source, {"cloud": "a.tif"}),
        references("b", source, {"cloud": "b.tif"}),
    ).snapshot_id
    for order, fill in ((["a"], 255), (["b"], 0), (["a", "b"], 255)):
        cloud = opened(repository, snapshot, order, bands=["cloud"]).cloud
        assert cloud.attrs["_FillValue"] == fill
        for step, name in enumerate(order):
            want = pixels if name == "a" or fill == 0 else np.where(pixels == 0, 255, pixels)
            np.testing.assert_array_equal(cloud[step].values, want)


@pytest.mark.parametrize("fault", ["changed", "gone", "cut"])
@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_file_that_cannot_be_read_names_scene_and_band(
    tmp_path: Path, scheme: str, fault: str
) -> None:
    for number in range(3):
        path = write_small_cog(
            tmp_path / "files" / f"a{number}.tif", noise(60, 60, seed=number), overviews=()
        )
        os.utime(path, (1_700_000_000, 1_700_000_000))
    with served(tmp_path) as server:
        source = source_of(server) if scheme == "http" else local_source(tmp_path / "files")
        repository = Repository.create(str(tmp_path / "repository"), [source])
        snapshot = write(
            repository,
            *(references(f"s{n}", source, {"red": f"a{n}.tif"}) for n in range(3)),
        ).snapshot_id
        red = opened(repository, snapshot, ["s2", "s1", "s0"]).red
        path = tmp_path / "files" / "a1.tif"
        want = read_level(tmp_path / "files" / "a2.tif")
        if fault == "gone":
            path.unlink()
        else:
            if fault == "cut":
                path.write_bytes(path.read_bytes()[:1000])
            os.utime(path, (1_700_000_009, 1_700_000_009))
        with pytest.raises(StoreError, match=r"^s1 red: ") as error:
            red.load()
        assert "\n" not in str(error.value)
        assert "a1.tif" in str(error.value)
        assert error.value.__cause__ is not None
        np.testing.assert_array_equal(red[0].values, want)


def test_a_cube_of_untagged_files_from_before_takes_new_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its documents said nothing of nodata: they do from the next commit on, for plain readers too,
    and scenes with the tag stand beside those without, at the same references."""
    (tmp_path / "files").mkdir()
    for name, tag in (("old", None), ("new", None), ("tagged", 0)):
        write_tiff(tmp_path / "files" / f"{name}.tif", noise(90, 90), nodata=tag)
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    scenes = {
        name: references(name, source, {"red": f"{name}.tif"}, day=day)
        for day, name in enumerate(("old", "new", "tagged"))
    }
    monkeypatch.setattr("catalog.cube._stated", lambda band, tagged: tagged)
    old = references("old", source, {"red": "old.tif"})
    assert old.arrays[0].spec.nodata is None
    assert old.sha256 == scenes["old"].sha256
    first = write(repository, old).snapshot_id
    monkeypatch.undo()
    assert "_FillValue" not in _red(repository, first)["attributes"]
    assert opened(repository, first).red.attrs["_FillValue"] == 0
    snapshot = write(repository, scenes["new"], scenes["tagged"]).snapshot_id
    assert [cube.root for cube in read_cubes(repository.store(snapshot))] == [""]
    assert _red(repository, snapshot)["attributes"]["_FillValue"] == 0
    again = write(repository, scenes["old"])
    assert again.placements["old"].time_index == 0
    np.testing.assert_array_equal(
        opened(repository, again.snapshot_id).red.values[0],
        read_level(tmp_path / "files" / "old.tif"),
    )


def _red(repository: Repository, snapshot: str) -> Any:
    return read_document(repository.store(snapshot), "r10m/red/zarr.json")
