"""Decoding in native code: bit for bit what virtual-tiff's codecs and Zarr's make of a chunk."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from catalog.codecs import FastZlib, HorizontalDelta, TileDecoder
from catalog.cube import _array, _codecs

COMPRESSIONS = {
    1: lambda b: b,
    8: zlib.compress,
    5: imagecodecs.lzw_encode,
    50000: imagecodecs.zstd_encode,
}
CODECS = ["catalog", "virtual-tiff"]


def document(
    predictor: int, compression: int, order: str, dtype: str, samples: int
) -> dict[str, Any]:
    shape, names = [1, 16, 24], ["time", "y", "x"]
    if samples > 1:
        shape.insert(1, samples)
        names.insert(1, "band")
    codecs = json.loads(_codecs(predictor, compression, order, dtype, samples > 1))
    return _array(shape, shape, dtype, 0, codecs, names, {})


def encoded(pixels: NDArray[Any], predictor: int, compression: int, order: str) -> bytes:
    """As a TIFF writer does: ``pixels`` are (sample, row, column)."""
    tile = pixels.transpose(1, 2, 0)
    if predictor == 2:
        tile = np.diff(tile, axis=1, prepend=np.zeros_like(tile[:, :1]))
    raw = tile.astype(tile.dtype.newbyteorder("<" if order == "little" else ">")).tobytes()
    return bytes(COMPRESSIONS[compression](raw))


def read_with_zarr(described: dict[str, Any], data: bytes, whose: str) -> NDArray[Any]:
    chosen = {
        "HorizontalDeltaCodec": "virtual_tiff.codecs.HorizontalDeltaCodec",
        "numcodecs.zlib": "zarr.codecs.numcodecs.Zlib",
        "imagecodecs_lzw": "virtual_tiff.imagecodecs.LZWCodec",
        "imagecodecs_zstd": "virtual_tiff.imagecodecs.ZstdCodec",
    }
    if whose == "catalog":
        chosen = {
            "HorizontalDeltaCodec": "catalog.codecs.HorizontalDelta",
            "numcodecs.zlib": "catalog.codecs.FastZlib",
            "imagecodecs_lzw": "catalog.codecs.BoundedLzw",
            "imagecodecs_zstd": "catalog.codecs.BoundedZstd",
        }
    store = MemoryStore()
    make = default_buffer_prototype().buffer.from_bytes
    key = "c/" + "/".join("0" * len(described["shape"]))
    asyncio.run(store.set("zarr.json", make(json.dumps(described).encode())))
    asyncio.run(store.set(key, make(data)))
    with zarr.config.set({"codecs": {**zarr.config.get("codecs"), **chosen}}):
        array = zarr.open_array(store, mode="r")
        return np.asarray(array[:])[0]


@pytest.mark.filterwarnings("ignore:Imagecodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("predictor", [1, 2])
def test_a_tile_is_what_zarr_and_virtual_tiff_read(
    predictor: int, compression: int, dtype: str, order: str, samples: int
) -> None:
    limits = np.iinfo(dtype)
    pixels = np.random.default_rng(1).integers(
        limits.min, limits.max, (samples, 16, 24), dtype=dtype, endpoint=True
    )
    described = document(predictor, compression, order, dtype, samples)
    data = encoded(pixels, predictor, compression, order)
    decoder = TileDecoder.of(described)
    assert decoder is not None
    np.testing.assert_array_equal(decoder.decode(data, 0, 16), pixels)
    np.testing.assert_array_equal(decoder.decode(data, 5, 9), pixels[:, 5:9])
    for whose in CODECS:
        got = read_with_zarr(described, data, whose)
        np.testing.assert_array_equal(got.reshape(pixels.shape), pixels)


@pytest.mark.parametrize(
    "change",
    [
        {"codecs": [{"name": "bytes"}, {"name": "zstd"}]},
        {"codecs": [{"name": "bytes"}, {"name": "numcodecs.zlib"}, {"name": "crc32c"}]},
        {"codecs": [{"name": "HorizontalDeltaCodec"}, {"name": "bytes"}], "data_type": "float32"},
    ],
)
def test_a_chain_it_does_not_know_is_left_to_zarr(change: dict[str, Any]) -> None:
    assert TileDecoder.of(document(2, 8, "little", "uint16", 1) | change) is None


@given(damage=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_are_an_error_and_never_pixels(damage: st.DataObject) -> None:
    pixels = np.random.default_rng(2).integers(0, 9, (1, 16, 24)).astype(np.uint16)
    data = bytearray(encoded(pixels, 2, 8, "little"))
    decoder = TileDecoder.of(document(2, 8, "little", "uint16", 1))
    assert decoder is not None
    # The first two bytes may change and still say the same: window size and level.
    at = damage.draw(st.integers(2, len(data) - 1))
    if damage.draw(st.booleans()):
        data = data[:at]
    else:
        data[at] ^= damage.draw(st.integers(1, 255))
    try:
        got = decoder.decode(bytes(data), 0, 16)
    except ValueError:
        return
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tile_of_another_size_is_an_error(compression: int) -> None:
    decoder = TileDecoder.of(document(1, compression, "little", "uint16", 1))
    assert decoder is not None
    for rows in (15, 17):
        data = encoded(np.ones((1, rows, 24), np.uint16), 1, compression, "little")
        with pytest.raises(ValueError, match="tile"):
            decoder.decode(data, 0, 16)


@pytest.mark.parametrize("level", [1, 9])
def test_zlib_still_writes_and_reads_what_another_codec_changed(level: int) -> None:
    """FastZlib serves every array of the process: also one whose bytes have another length."""
    assert zarr.config.get("codecs")["numcodecs.zlib"] == "catalog.codecs.FastZlib"
    values = np.arange(1000, dtype=np.int32)
    array = zarr.create_array(
        MemoryStore(), data=values, chunks=(100,),
        compressors=[zarr.codecs.GzipCodec(), FastZlib(level=level)],
    )  # fmt: skip
    np.testing.assert_array_equal(array[:], values)
    assert [c.to_dict()["name"] for c in array.metadata.codecs][-1] == "numcodecs.zlib"


PROCESS = """
import sys, zarr
from zarr.registry import get_codec_class
for name in sys.argv[1:]:
    print(get_codec_class(name).__name__)
print(sorted(n for n in sys.modules if n.startswith("catalog.") or n == "sqlalchemy"))
"""


@pytest.mark.parametrize("first", [0, 1])
def test_a_process_that_only_has_zarr_finds_the_codecs(first: int) -> None:
    """By the entry points; nothing of cogcat but this module is imported."""
    served = {
        "HorizontalDeltaCodec": "HorizontalDelta",
        "numcodecs.zlib": "FastZlib",
        "imagecodecs_lzw": "BoundedLzw",
        "imagecodecs_zstd": "BoundedZstd",
    }
    names = [*served][first:]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROCESS, *names],
        capture_output=True,
        text=True,
        check=True,
    )
    *found, second = done.stdout.splitlines()
    assert found == [served[name] for name in names]
    assert second == (
        "['catalog.codecs', 'catalog.errors', 'catalog.printable', 'catalog.redaction']"
    )


def test_codecs_say_what_stands_in_the_store() -> None:
    assert HorizontalDelta().to_dict() == {"name": "HorizontalDeltaCodec"}
    assert FastZlib(level=1).to_dict()["name"] == "numcodecs.zlib"
