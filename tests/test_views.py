"""Index arithmetic of lazy views, mosaics and their grouping: always as NumPy would have it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from xarray.core import indexing

from catalog import mosaic_array, warp
from catalog.cube import Grid
from catalog.mosaic import group
from catalog.mosaic_array import Layer, Levels, Masks, MosaicArray
from catalog.views import JoinedArray, MaskedArray, nearest


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint16]:
    made = np.random.default_rng(seed).integers(1, 9000, shape).astype(np.uint16)
    made[..., :7, :9] = 0
    return made


def opened(array: Any) -> xr.Variable:
    return xr.Variable(("time", "y", "x"), indexing.LazilyIndexedArray(array))


def indexers(size: int) -> st.SearchStrategy[Any]:
    number = st.integers(-size, size - 1)
    return number | st.slices(size) | st.lists(number, max_size=4).map(lambda v: np.array(v, int))


def outer(array: NDArray[Any], key: tuple[Any, ...]) -> NDArray[Any]:
    for axis in (2, 1, 0):
        array = array[(*(slice(None),) * axis, key[axis])]
    return array


@given(key=st.tuples(indexers(5), indexers(20), indexers(22)))
@settings(max_examples=80, deadline=None)
def test_joined_and_masked_views_read_as_numpy(key: tuple[Any, ...]) -> None:
    parts = [pixels(2, 20, 22, seed=1), None, pixels(3, 20, 22, seed=2)]
    order = [(2, 1), (0, 1), (1, 0), (2, 0), (0, 0)]
    variables = [None if part is None else xr.Variable(("time", "y", "x"), part) for part in parts]
    joined = opened(JoinedArray(variables, order, 5))
    want = np.stack(
        [
            np.full((20, 22), 5) if (part := parts[number]) is None else part[step]
            for number, step in order
        ]
    )
    np.testing.assert_array_equal(joined[key].values, outer(want, key))
    classes = np.random.default_rng(3).integers(0, 12, (5, 10, 11)).astype(np.uint8)
    scl = xr.Variable(("time", "y", "x"), classes)
    rows, columns = np.arange(20) // 2, np.arange(22) // 2
    masked = opened(MaskedArray(joined, scl, rows, columns, (3, 8), 0))
    fine = classes[:, rows][:, :, columns]
    np.testing.assert_array_equal(
        masked[key].values, outer(np.where(np.isin(fine, [3, 8]), 0, want), key)
    )


@given(
    size=st.sampled_from([10.0, 20.0, 40.0, 60.0]),
    other=st.sampled_from([20.0, 40.0, 80.0, 79.97]),
    count=st.integers(1, 200),
)
def test_nearest_is_the_pixel_a_centre_lies_in(size: float, other: float, count: int) -> None:
    ground = 12_000.0
    centres = (np.arange(count) + 0.5) * size
    others = (np.arange(int(ground / other)) + 0.5) * other
    found = nearest(centres, others, other)
    assert (np.abs(others[found] - centres) <= other / 2 + 1e-6).all()
    falling = nearest(-centres, -others, -other)
    np.testing.assert_array_equal(falling, found)


def layer(seed: int, west: float, *, epsg: int = 32610, offset: int = 0) -> Layer:
    """100 × 90 pixels of 10 m and their overview."""
    fine = pixels(1, 100, 90, seed=seed)
    grids = tuple(
        Grid(epsg, 90 // n, 100 // n, (10.0 * n, 0.0, west, 0.0, -10.0 * n, 5_000_000.0))
        for n in (1, 2)
    )
    variables = tuple(xr.Variable(("time", "y", "x"), fine[:, ::n, ::n]) for n in (1, 2))
    return Layer(Levels(grids, variables, 0), 0, offset)


def mosaic(*layers: Layer, grid: GeoBox, **options: Any) -> xr.Variable:
    settings: dict[str, Any] = {"resampling": "nearest", "masks": None, "reflectance": False}
    step = [(("b", str(n)), held) for n, held in enumerate(layers)]
    array = MosaicArray(
        grid, [step, step[::-1]], dtype=np.dtype("u2"), nodata=0, samples=None, **settings | options
    )
    return opened(array)


@pytest.fixture(scope="module")
def many_blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warp, "BLOCK", 48)
        patch.setattr(mosaic_array, "BLOCK", 48)
        grid = GeoBox.from_bbox(
            (600_000, 4_999_000, 601_300, 5_000_000), "EPSG:32610", resolution=10
        )
        other = GeoBox.from_bbox(grid.geographic_extent.boundingbox, resolution=0.00013)
        layers = [layer(1, 600_000.0), layer(2, 600_400.0)]
        masks = Masks({("b", "0"): layers[1], ("b", "1"): layers[0]}, range(0, 200, 3))
        yield [
            (lazy, lazy.values)
            for target in (grid, other)
            for resampling in ("nearest", "cubic")
            for lazy in [mosaic(*layers, grid=target, resampling=resampling, masks=masks)]
        ]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_window_is_a_window_of_the_whole(many_blocks: Any, data: st.DataObject) -> None:
    """Warped or copied, over many blocks: the pixels do not depend on how they are cut."""
    lazy, whole = data.draw(st.sampled_from(many_blocks))
    assert whole.any()
    key = data.draw(st.tuples(*(indexers(size) for size in whole.shape)))
    np.testing.assert_array_equal(lazy[key].values, outer(whole, key))


def test_the_first_valid_pixel_wins_by_its_own_offset() -> None:
    first, second = layer(1, 600_000.0, offset=-1000), layer(2, 600_000.0, offset=0)
    one, two = (np.asarray(held.levels.variables[0].values[0]) for held in (first, second))
    two[:] = np.roll(two, 5, axis=0)
    grid = GeoBox.from_bbox((600_000, 4_999_000, 600_900, 5_000_000), "EPSG:32610", resolution=10)
    raw = mosaic(first, second, grid=grid).values
    np.testing.assert_array_equal(raw[0], np.where(one > 0, one, two))
    np.testing.assert_array_equal(raw[1], np.where(two > 0, two, one))
    bright = mosaic(first, second, grid=grid, reflectance=True)
    array = bright.values
    want = np.where(one > 0, one - 1000.0, np.where(two > 0, two, np.nan)) / 10_000
    np.testing.assert_allclose(array[0], want, rtol=1e-5, atol=1e-6)
    assert array.dtype == np.float32


@dataclass(frozen=True)
class Seen:
    id: str
    datetime: datetime


@given(
    scenes=st.lists(
        st.builds(
            Seen,
            st.text("abc", min_size=1, max_size=3),
            st.integers(0, 200).map(
                lambda hours: datetime(2023, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
            ),
        ),
        max_size=20,
    ),
    groupby=st.sampled_from(["solar_day", "time", None]),
    longitude=st.floats(-180, 540),
)
def test_every_scene_is_in_one_step(
    scenes: list[Seen], groupby: str | None, longitude: float
) -> None:
    steps = group(scenes, groupby, longitude)
    flat = [scene for step in steps for scene in step]
    assert flat == sorted(scenes, key=lambda scene: (scene.datetime, scene.id))
    assert all(steps)
    days = [
        (step[0].datetime + timedelta(hours=int(((longitude + 180) % 360 - 180) / 15))).date()
        for step in steps
    ]
    if groupby == "solar_day":
        assert len(set(days)) == len(days)
    elif groupby == "time":
        assert len({step[0].datetime for step in steps}) == len(steps)
    else:
        assert len(steps) == len(scenes)
