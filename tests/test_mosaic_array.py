"""Mosaics of layers in memory: the pixels of a plain loop over the scenes, and no more of them read
than is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catalog.cube import Grid
from catalog.grid import geobox_of
from catalog.mosaic_array import Layer, Levels, Masks, MosaicArray
from catalog.warp import Window

SIZE = 12
GRID = Grid(32610, SIZE, SIZE, (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_100_000.0))
Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Watched(Layer):
    """A layer that tells which of its windows were read."""

    read_windows: list[Window]

    def read(self, level: int, window: Window) -> Pixels:
        self.read_windows.append(window)
        return Layer.read(self, level, window)


def watched(pixels: Pixels, nodata: int | None, offset: int = 0) -> Watched:
    dims = ("time", "y", "x") if pixels.ndim == 2 else ("time", "band", "y", "x")
    levels = Levels((GRID,), (xr.Variable(dims, pixels[np.newaxis]),), nodata)
    return Watched(levels, 0, offset, [])


def mosaic(layers: list[Watched], scl: list[Watched] | None, *, reflectance: bool) -> MosaicArray:
    pixels = layers[0].levels.variables[0]
    names = [("branch", f"scene {n}") for n in range(len(layers))]
    return MosaicArray(
        geobox_of(GRID),
        [list(zip(names, layers, strict=True))],
        dtype=pixels.dtype,
        nodata=layers[0].levels.nodata,
        samples=pixels.shape[1] if pixels.ndim == 4 else None,
        resampling="nearest",
        masks=Masks(dict(zip(names, scl, strict=True)), [9]) if scl else None,
        reflectance=reflectance,
    )


def plainly(layers: list[Watched], scl: list[Watched] | None, *, reflectance: bool) -> Pixels:
    """Scene by scene, over everything."""
    first = layers[0].levels
    fill: Any = np.nan if reflectance else first.nodata or 0
    kind = np.float32 if reflectance else first.variables[0].dtype
    out = np.full(first.variables[0].shape[1:], fill, kind)
    for n, layer in enumerate(layers):
        pixels = layer.levels.variables[0].values[0]
        valid = np.ones(pixels.shape, bool) if first.nodata is None else pixels != first.nodata
        if scl:
            valid = valid & (scl[n].levels.variables[0].values[0] != 9)
        missing = np.isnan(out) if reflectance else out == fill
        scaled = pixels
        if reflectance:
            scaled = (pixels + np.float32(layer.boa_offset)) * np.float32(0.0001)
        out[missing & valid] = scaled[missing & valid]
    return out


# Few values, so that nodata and what is missing lie in patches and by themselves.
_patches = st.lists(
    st.tuples(*[st.integers(0, SIZE)] * 4, st.integers(0, 2)), min_size=0, max_size=4
)


def patched(patches: list[tuple[int, ...]], base: int, shape: tuple[int, ...]) -> Pixels:
    out = np.full(shape, base, np.uint16)
    for top, bottom, left, right, value in patches:
        out[..., min(top, bottom) : max(top, bottom), min(left, right) : max(left, right)] = value
    return out


@settings(max_examples=300, deadline=None)
@given(
    scenes=st.lists(st.tuples(_patches, st.integers(0, 5)), min_size=1, max_size=4),
    clouds=st.none() | _patches,
    nodata=st.sampled_from([0, 1, None]),
    samples=st.booleans(),
    reflectance=st.booleans(),
    window=st.tuples(*[st.integers(0, SIZE - 1)] * 4),
)
def test_a_mosaic_is_that_of_a_plain_loop(
    scenes: list[tuple[list[tuple[int, ...]], int]],
    clouds: list[tuple[int, ...]] | None,
    nodata: int | None,
    samples: bool,
    reflectance: bool,
    window: tuple[int, ...],
) -> None:
    shape = (3, SIZE, SIZE) if samples else (SIZE, SIZE)
    layers = [
        watched(patched(patches, base, shape), nodata, -n)
        for n, (patches, base) in enumerate(scenes)
    ]
    scl = None
    if clouds is not None:
        # Each scene's clouds lie elsewhere.
        once = patched([(*patch[:4], 9) for patch in clouds], 4, (SIZE, SIZE))
        scl = [watched(np.roll(once, n * 3, axis=1), None) for n in range(len(layers))]
    expected = plainly(layers, scl, reflectance=reflectance)
    top, bottom, left, right = window
    rows = slice(min(top, bottom), max(top, bottom) + 1)
    columns = slice(min(left, right), max(left, right) + 1)
    dims = ("time", "band", "y", "x") if samples else ("time", "y", "x")
    array = mosaic(layers, scl, reflectance=reflectance)
    found = xr.Variable(dims, xr.core.indexing.LazilyIndexedArray(array))
    np.testing.assert_array_equal(
        found.isel(time=0, y=rows, x=columns).values, expected[..., rows, columns]
    )


def test_of_later_scenes_only_the_ground_that_is_missing_is_read() -> None:
    first = np.full((SIZE, SIZE), 5, np.uint16)
    first[2:4, 7:9] = first[6, 5] = 0
    second = np.full((SIZE, SIZE), 6, np.uint16)
    layers = [watched(pixels, 0) for pixels in (first, second, second)]
    array = mosaic(layers, None, reflectance=False)
    out = array[xr.core.indexing.BasicIndexer((0, slice(None), slice(None)))]
    np.testing.assert_array_equal(out, np.where(first == 0, 6, first))
    assert layers[0].read_windows == [(slice(0, SIZE), slice(0, SIZE))]
    assert layers[1].read_windows == [(slice(2, 7), slice(5, 9))]
    assert layers[2].read_windows == []
