"""Odd questions about arrays: refused at once, in few words and little memory."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_zeros
from test_load import cat as cat
from test_load import known_hrefs as known_hrefs
from test_load import spread as spread
from test_load import spread_archive as spread_archive

import catalog
from catalog.errors import UsageError

pytest_plugins = ["stacks"]

NAN, INF = float("nan"), float("inf")
LONG = "x" * 1_000_000
SITE = (
    'ENGCRS["site",EDATUM["d"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["metre",1]]'
)
UTM = "EPSG:32610"
Question = Callable[[catalog.Catalog], Any]


def box(a: float, e: float, c: float = 5e5, shape: Any = (10, 10), crs: Any = UTM) -> GeoBox:
    return GeoBox(shape, Affine(a, 0, c, 0, e, 4e6), crs)


def plain(**change: Any) -> Any:
    return xr_zeros(box(100, -100)).assign_coords(**change)


RESOLUTIONS = (NAN, INF, -INF, 0, -1, 1e-9, 10**400, "ten", "10", True, [10], 1j, b"10", {},
               np.float32(-1), np.datetime64("2020"))  # fmt: skip
BANDS = ([], [""], "", [None], [1], [["red"]], {"red": 1}, 5, b"red", np.array(5), [True], [LONG],
         itertools.repeat("red"), ["red"] * 100_000, [NAN], ["red\0"], [{}])  # fmt: skip
CRSS = ("", 0, -1, "EPSG:0", "EPSG:", SITE, "EPSG:4978", "EPSG:5773", 10**30, True, [], {}, NAN,
        b"EPSG:4326", LONG, "+proj=nonsense", 4326.5, " ", "IAU_2015:30100",
        "+proj=ortho +lat_0=-90", "+proj=geos +h=35785831")  # fmt: skip
RESAMPLINGS = ("", None, 5, [], ["nearest"], {"*": 5}, {"*": []}, {"red": None}, {5: "nearest"},
               b"nearest", True, "NEAREST", LONG, {("a",): "x"})  # fmt: skip
GROUPINGS = ("", 5, [], {}, "day", True, b"time", NAN, LONG, ("solar_day",), np.array([1, 2]))
MASKS = ("", -1, 256, NAN, True, b"clouds", {"clouds": 1}, [[]], [None], 10**30, "1,2", LONG,
         range(10**9), itertools.count(), ["clouds"] * 100_000, np.array(5.5))  # fmt: skip
CHUNKS = (NAN, "huge", {"x": -5}, {"x": 0}, {"z": 5}, {"x": "ten"}, {"x": NAN}, {"x": (1, 2)},
          {"x": (10**12,)}, object(), b"auto")  # fmt: skip
MISSING = ("", 5, [], True, "skip", b"nodata", NAN, {}, LONG)
LIKES = (
    xr.DataArray(np.zeros((2, 2))), xr.Dataset(), np.zeros((2, 2)), UTM, {}, True,
    plain(x=np.full(10, NAN)), plain(x=np.full(10, INF)), plain(x=np.arange(10) ** 2.0),
    box(100, -100, crs=None), box(0, 0), box(100, 0), box(NAN, -100), box(100, -100, INF),
    box(1e-4, -1e-4, shape=(10**10, 10**10)), box(1, -1, shape=(1, 10**12)),
    box(100, -100, crs="EPSG:4978"), GeoBox((9, 9), Affine(9, 1, 5e5, 1, -9, 4e6), UTM),
)  # fmt: skip
GLOBE, STATE = (-179, -80, 179, 80), (-124, 40, -120, 48)
GRIDS = ((1, 3857, GLOBE), (11, 3857, GLOBE), (0.2, 3857, STATE), (1e-5, 4326, GLOBE),
         (5e-324, 4326, STATE), (1e-300, 4326, GLOBE), (0.11, 32610, STATE))  # fmt: skip
TILES = ("", 5, None, [], LONG, "10TFR\0", b"10TFR", NAN, ["10TFR"])


def questions() -> dict[str, Question]:
    """Name → what asks."""
    asked: dict[str, Question] = {}

    def load(**options: Any) -> Question:
        if "like" not in options:
            options = {"resolution": 400} | options
        return lambda cat: cat.load(**{"tile": "10TFR", "bands": ["red"]} | options)

    def cube(**options: Any) -> Question:
        return lambda cat: cat.cube("10TFR", **{"bands": ["red"]} | options)

    def scene(**options: Any) -> Question:
        return lambda cat: next(iter(cat.search(limit=1))).open(**{"bands": ["red"]} | options)

    for ways, name, values in (
        ((load, cube, scene), "resolution", RESOLUTIONS),
        ((load, cube, scene), "bands", BANDS),
        ((load,), "crs", CRSS),
        ((load,), "resampling", RESAMPLINGS),
        ((load,), "groupby", GROUPINGS),
        ((load, cube, scene), "mask", MASKS),
        ((load, cube), "chunks", CHUNKS),
        ((load, cube, scene), "missing", MISSING),
        ((load,), "like", LIKES),
    ):
        for way, (n, value) in itertools.product(ways, enumerate(values)):
            asked[f"{way.__name__} {name} {n}: {str(value)[:40]}"] = way(**{name: value})
    for size, crs, area in GRIDS:
        asked[f"{size} m of {crs} over {area}"] = lambda cat, size=size, crs=crs, area=area: (
            cat.load(bands=["red"], resolution=size, crs=crs, bbox=area)
        )
    for tile in TILES:
        asked[f"tile {str(tile)[:20]}"] = lambda cat, tile=tile: cat.cube(tile)
    return asked


def test_odd_questions_are_refused_at_once(cat: catalog.Catalog) -> None:
    assert cat.load(tile="10TFR", bands=["red"], chunks="auto", mask="clouds").sizes["time"] == 2
    asked = questions()
    assert len(asked) > 200
    wrong: list[str] = []
    tracemalloc.start()
    try:
        for name, ask in asked.items():
            tracemalloc.reset_peak()
            before, begun = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                found = ask(cat)
            except UsageError as error:
                text = str(error)
                if len(text) > 600 or "\n" in text:
                    wrong.append(f"{name}: {len(text)} characters: {text[:200]}")
            except BaseException as error:  # noqa: BLE001
                wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            else:
                wrong.append(f"{name}: {found.sizes}")
            if time.process_time() - begun > 1:
                wrong.append(f"{name}: {time.process_time() - begun:.1f} s")
            if tracemalloc.get_traced_memory()[1] - before > 50 * 2**20:
                wrong.append(f"{name}: {tracemalloc.get_traced_memory()[1] - before} bytes")
    finally:
        tracemalloc.stop()
    assert wrong == []


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 7)])
def test_grids_of_few_pixels_are_grids(cat: catalog.Catalog, shape: tuple[int, int]) -> None:
    grid = box(400, -400, 600_000.0, shape)
    found = cat.load(tile="10TFR", bands=["red"], like=grid)
    assert found["red"].load().shape[1:] == shape
    back_to_front = xr_zeros(box(400, -400, 600_000.0, (4, 3))).T
    assert cat.load(tile="10TFR", bands=["red"], like=back_to_front)["red"].shape[1:] == (4, 3)


def test_a_wide_grid_is_lazy(cat: catalog.Catalog) -> None:
    """The bound is of a side: its centres are in memory, its pixels only where they are asked."""
    wide = cat.load(bands=["red"], crs=3857, resolution=1, bbox=STATE)
    assert wide.sizes["x"] * wide.sizes["y"] > 5e11
    assert wide["red"][0, :2, :2].load().shape == (2, 2)
