"""Chunks read past Zarr: the same pixels, one request each, all at once; and stores kept open."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import (
    local_source,
    noise,
    read_level,
    references,
    served,
    source_of,
    write,
    write_small_cog,
)
from stacks import S3_REQUESTS, Stack
from test_arrays import indexers, opened

from catalog.cube_writer import Written
from catalog.errors import SourceError
from catalog.repository import Repository, SnapshotStore
from catalog.storage import TRIES

pytest_plugins = ["stacks"]

# virtual-tiff says so of each of its codecs when Zarr makes one.
pytestmark = pytest.mark.filterwarnings("ignore:Imagecodecs codecs are not in the Zarr version 3")

BANDS = ("red", "nir", "scl", "visual")
KINDS: dict[str, dict[str, Any]] = {
    "red": {},
    "nir": {"compress": "LZW"},
    "scl": {"compress": None},
    "visual": {},
}
STEPS, ROWS, COLUMNS = 3, 140, 150


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Written]:
    """Three scenes of a sparse band, an LZW band, a plain one and a pixel-interleaved one."""
    directory = tmp_path_factory.mktemp("chunks")
    source = local_source(directory / "files")
    repository = Repository.create(str(directory / "repository"), [source])
    scenes = []
    for n in range(STEPS):
        files = {band: f"{band}{n}.tif" for band in BANDS}
        for band, name in files.items():
            shape = (3, ROWS, COLUMNS) if band == "visual" else (ROWS, COLUMNS)
            dtype = "uint16" if band in ("red", "nir") else "uint8"
            pixels = noise(*shape, seed=n, dtype=dtype)
            pixels[..., :70, :64] = 0  # a tile that is not there
            options = {"sparse_ok": True, "overviews": (2,), **KINDS[band]}
            write_small_cog(directory / "files" / name, pixels, **options)
        scenes.append(references(f"s{n}", source, files, day=n, boa_offset=-1000 * (n % 2)))
    return repository, write(repository, *scenes)


@given(
    band=st.sampled_from(BANDS),
    key=st.tuples(indexers(STEPS), indexers(ROWS), indexers(COLUMNS)),
    samples=indexers(3),
)
@settings(max_examples=100, deadline=None)
def test_any_index_reads_as_zarr(
    written: tuple[Repository, Written], band: str, key: tuple[Any, ...], samples: Any
) -> None:
    repository, done = written
    stored = zarr.open_array(repository.store(done.snapshot_id), path=f"r10m/{band}", mode="r")
    want = np.asarray(stored[:])
    dataset = opened(repository, done.snapshot_id, bands=(band,))
    index = dict(zip(("time", "y", "x"), key, strict=True))
    if band == "visual":
        index = {"time": key[0], "band": samples, "y": key[1], "x": key[2]}
    got = dataset[band].isel(index)
    for axis, part in reversed(list(enumerate(index.values()))):
        want = want[(*(slice(None),) * axis, part)]
    np.testing.assert_array_equal(got.values, want)
    awaited = asyncio.run(dataset[band].isel(index).load_async())
    np.testing.assert_array_equal(awaited.values, want)
    assert got.dtype == want.dtype


def test_reflectance_is_made_of_the_same_pixels(written: tuple[Repository, Written]) -> None:
    repository, done = written
    raw = opened(repository, done.snapshot_id, bands=("red",)).red.values
    dataset = opened(repository, done.snapshot_id, bands=("red",), reflectance=True)
    offsets = dataset.boa_offset.values.astype(np.float32)[:, None, None]
    want = np.where(raw == 0, np.float32(np.nan), (raw + offsets) * np.float32(0.0001))
    got = dataset.red.values
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    assert np.isnan(got[:, :64, :64]).all()


def test_codecs_that_are_not_known_are_read_by_zarr(
    written: tuple[Repository, Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, done = written
    key = {"time": [2, 0, 2], "y": slice(100, 20, -7), "x": [3, 149, -1]}
    for reflectance in (False, True):
        dataset = opened(
            repository, done.snapshot_id, bands=("red", "nir"), reflectance=reflectance
        )
        want = dataset.isel(key).load()
        with monkeypatch.context() as patch:
            patch.setattr("catalog.codecs.TileDecoder.of", lambda document: None)
            by_zarr = opened(
                repository, done.snapshot_id, bands=("red", "nir"), reflectance=reflectance
            )
            xr.testing.assert_identical(by_zarr.isel(key).load(), want)


@pytest.mark.parametrize("at_once", [False, True])
def test_one_request_per_chunk(tmp_path: Path, at_once: bool) -> None:
    """2 bands of 4 scenes, a window over 4 tiles each; one scene is asked for twice."""
    for number in range(4):
        for band in ("red", "nir"):
            pixels = noise(400, 400, seed=number)
            path = tmp_path / "files" / f"{band}{number}.tif"
            write_small_cog(path, pixels, block=256, overviews=(2,))
    with served(tmp_path) as server:
        source = source_of(server)
        repository = Repository.create(str(tmp_path / "repository"), [source])
        scenes = [
            references(f"s{n}", source, {b: f"{b}{n}.tif" for b in ("red", "nir")}, day=n)
            for n in range(4)
        ]
        snapshot = write(repository, *scenes).snapshot_id
        dataset = opened(repository, snapshot, bands=("red", "nir"))
        window = dataset.isel(time=[3, 1, 3, 0, 2], y=slice(200, 300), x=slice(250, 260))
        server.requests.reset()
        loaded = window.cogcat.load() if at_once else window.load()
        served_ranges = [(r.path, r.range) for r in server.requests]
    assert loaded is window
    assert len(served_ranges) == len(set(served_ranges)) == 2 * 4 * 4
    for band in ("red", "nir"):
        want = read_level(tmp_path / "files" / f"{band}3.tif")[200:300, 250:260]
        np.testing.assert_array_equal(loaded[band].values[0], want)
        np.testing.assert_array_equal(loaded[band].values[2], want)


def test_one_request_per_chunk_on_s3(s3_stack: Stack) -> None:
    """And after the first read of a snapshot, none but for chunks."""
    s3_stack.crawl(limit=1)
    with s3_stack.connect() as cat:
        scene = next(iter(cat.search()))
        first = scene.open(bands=["red"], resolution=10).red.values
        S3_REQUESTS.clear()
        again = cat.scene(scene.id).open(bands=["red"], resolution=10)
        assert not S3_REQUESTS
        np.testing.assert_array_equal(again.red.values, first)
        tile = again.red.encoding["preferred_chunks"]["x"]
        assert len(S3_REQUESTS) == (-(-first.shape[0] // tile)) ** 2


def test_a_server_that_stumbles_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.chunk_reader.PAUSES", (0.01, 0.01))
    monkeypatch.setattr("catalog.storage.LONGEST_PAUSE", timedelta(milliseconds=200))
    write_small_cog(tmp_path / "files" / "a.tif", noise(60, 60), overviews=())
    with served(tmp_path) as server:
        source = source_of(server)
        repository = Repository.create(str(tmp_path / "repository"), [source])
        snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
        server.misbehave("/files/a.tif", status=503, times=2)
        pixels = opened(repository, snapshot).red.values
        np.testing.assert_array_equal(pixels[0], read_level(tmp_path / "files" / "a.tif"))
        server.misbehave("/files/a.tif", status=503)
        server.requests.reset()
        with pytest.raises(SourceError, match=r"^s0 red: its store does not answer: .*503.*a\.tif"):
            opened(repository, snapshot).red.load()
        # Icechunk's own tries, and no more.
        assert len(server.requests) == TRIES
        server.faults.reset()
        server.misbehave("/files/a.tif", truncate=10, times=2)
        pixels = opened(repository, snapshot).red.values
        np.testing.assert_array_equal(pixels[0], read_level(tmp_path / "files" / "a.tif"))


def reader(data: bytes, connection: Any) -> None:
    """In a fresh process: three datasets of one snapshot share one store."""
    datasets = [pickle.loads(data) for _ in range(3)]
    stores = {
        id(array.store)
        for dataset in datasets
        for array in dataset.red.variable._data.array.arrays.values()
    }
    connection.send((len(stores), datasets[2].red.values))


def test_copies_of_a_dataset_share_a_store_in_a_process(
    written: tuple[Repository, Written],
) -> None:
    """As tasks of a Dask worker do: the snapshot is fetched once there."""
    repository, done = written
    dataset = opened(repository, done.snapshot_id, bands=("red",))
    data = pickle.dumps(dataset)
    assert len(data) < 20_000
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=reader, args=(data, theirs))
    process.start()
    stores, pixels = ours.recv()
    process.join()
    assert stores == 1
    np.testing.assert_array_equal(pixels, dataset.red.values)


def test_a_snapshot_is_taken_apart_once(crawled: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time a tile is opened, the store is not asked for anything."""
    with crawled.connect() as cat:
        first = cat.cube("10TFR", bands=["red"], resolution=10)

        async def unexpected(self: SnapshotStore, key: str, *rest: Any) -> None:
            raise AssertionError(key)

        monkeypatch.setattr(SnapshotStore, "get", unexpected)
        again = cat.cube("10TFR", bands=["red"], resolution=10)
        assert again.sizes == first.sizes
        # What one caller does to its coordinates is not seen by the next.
        again.boa_offset.values[:] = 7
        assert not (cat.cube("10TFR", bands=["red"], resolution=10).boa_offset.values == 7).any()
