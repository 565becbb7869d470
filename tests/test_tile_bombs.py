"""Tiles that are not as long as their array says: an error in bounded memory, for every reader."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import icechunk
import imagecodecs
import numpy as np
import pytest
import tiffs
import xarray as xr
from scenes import local_source, make_asset, read_header, references, write
from test_arrays import opened

from catalog.errors import StoreError
from catalog.levels import COMPRESSIONS
from catalog.repository import Repository

pytestmark = pytest.mark.filterwarnings(
    "ignore:Imagecodecs codecs are not in the Zarr version 3:UserWarning"
)

ENCODERS: dict[int, Callable[[bytes], bytes]] = {
    1: bytes,
    5: imagecodecs.lzw_encode,
    8: zlib.compress,
    32946: zlib.compress,
    50000: imagecodecs.zstd_encode,
}
RAW = 64 * 64 * 2
BOMB = 16 * 2**20
"""Bytes that a tile of 8 KB becomes."""
LENGTHS = {"bomb": BOMB, "a byte more": RAW + 1, "a byte less": RAW - 1, "a tile more": 2 * RAW}


def with_tile(compression: int, data: bytes, predictor: int = 1) -> bytes:
    """A file of one tile."""
    made = tiffs.image(64, 64, 64).set(tiffs.COMPRESSION, compression)
    made.set(tiffs.PREDICTOR, predictor)
    made.tiles = [data]
    return tiffs.build([made])


def plain(repository: Repository, snapshot: str, prefix: str) -> xr.Dataset:
    """As anyone opens the store who has cogcat installed, and does not know it."""
    access = icechunk.credentials.LocalFileSystemAccess
    there = icechunk.Repository.open(
        icechunk.local_filesystem_storage(repository.location),
        authorize_virtual_chunk_access={prefix: access},
    )
    store = there.readonly_session(snapshot_id=snapshot).store
    return xr.open_zarr(store, group="r10m", consolidated=False, mask_and_scale=False, chunks=None)


def test_every_compression_that_a_header_takes_is_tried() -> None:
    assert set(ENCODERS) == set(COMPRESSIONS)


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("compression", [c for c in ENCODERS if c != 1])
def test_a_tile_of_another_length_is_an_error(
    tmp_path: Path, compression: int, length: str, predictor: int
) -> None:
    data = bytes(ENCODERS[compression](bytes(LENGTHS[length])))
    assert len(data) < 2 * RAW
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.tif").write_bytes(with_tile(compression, data, predictor))
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    dataset = opened(repository, snapshot)
    by_anyone = plain(repository, snapshot, source.url)
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match=r"^s0 red: .*a tile .*files/a\.tif\)$"):
            dataset.red.load()
        with pytest.raises((ValueError, RuntimeError)):
            by_anyone.red.load()
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", ENCODERS)
def test_a_tile_of_its_length_is_read_alike(tmp_path: Path, compression: int) -> None:
    pixels = np.random.default_rng(1).integers(1, 9, (64, 64)).astype("<u2")
    (tmp_path / "files").mkdir()
    data = bytes(ENCODERS[compression](pixels.tobytes()))
    (tmp_path / "files" / "a.tif").write_bytes(with_tile(compression, data))
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    np.testing.assert_array_equal(opened(repository, snapshot).red[0], pixels)
    np.testing.assert_array_equal(plain(repository, snapshot, source.url).red[0], pixels)


def test_lzw_without_an_end_code_is_whole(tmp_path: Path) -> None:
    """Some writers leave it out; the reader stops where the tile is full."""
    pixels = np.arange(64 * 64, dtype="<u2")
    data = bytes(imagecodecs.lzw_encode(pixels.tobytes()))
    (tmp_path / "a.tif").write_bytes(with_tile(5, data[:-1]))
    source = local_source(tmp_path)
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    got = opened(repository, snapshot).red[0].values.ravel()
    np.testing.assert_array_equal(got, pixels)


def test_a_reference_to_other_bytes_is_no_tile(tmp_path: Path) -> None:
    """Two tiles may be one and the same; what is damaged is not read as anything."""
    made = tiffs.image(40, 36)
    made.tiles[4] = struct.pack("<I", 7) * 16
    (tmp_path / "a.tif").write_bytes(tiffs.build([made]))
    source = local_source(tmp_path)
    assert read_header(make_asset(f"{source.url}a.tif"), source).levels[0].lengths.size == 9
    repository = Repository.create(str(tmp_path / "repository"), [source])
    snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    dataset: Any = opened(repository, snapshot)
    assert dataset.red[0, 0, 0] == 1
    with pytest.raises(StoreError, match=r"^s0 red: .*a tile cannot be decoded.*a\.tif\)$"):
        dataset.red[0, 20, 20].load()
