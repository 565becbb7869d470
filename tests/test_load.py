"""Arrays over any area, on the look-alike archive spread over whole tiles: neighbours overlap, and
the third lies in another zone. odc-stac and rasterio are the judges."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers the accessor
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_zeros
from odc.stac import load as odc_load
from rasterio.warp import Resampling, reproject
from sqlalchemy import Engine
from stacks import C1, Stack, _built, child_environment, open_stack

import catalog
from catalog.cube import Grid
from catalog.demo.archive import Archive, build_archive
from catalog.demo.server import ArchiveServer
from catalog.errors import ConfigError, NotFoundError, UsageError
from catalog.masks import SCL_CLASSES, parse_mask
from catalog.warp import placements, read_window

pytest_plugins = ["stacks"]

WEST, EAST, ZONE_11 = "10TFR", "10TGR", "11TLL"
PIXEL = 400
"""Metres, where the real archive has 10."""
DATES = ("2023-03-08", "2023-05-02")
Statements = Callable[[Engine], AbstractContextManager[list[str]]]


@pytest.fixture(scope="session")
def spread_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return _built(
        "spread",
        tmp_path_factory,
        lambda path: build_archive(
            path,
            tiles=(WEST, EAST, ZONE_11),
            dates=DATES,
            width=276,
            pixel_size=PIXEL,
            block=128,
            bands=["red", "scl", "coastal", "visual"],
        ),
    )


@pytest.fixture(scope="session")
def spread(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    spread_archive: Archive,
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("spread")
    with (
        ArchiveServer(spread_archive) as running,
        open_stack("sqlite+local", request, directory, running) as made,
    ):
        made.crawl()
        yield made


@pytest.fixture
def cat(spread: Stack) -> Iterator[catalog.Catalog]:
    with spread.connect() as opened:
        yield opened


def odc(stack: Stack, ids: list[str], bands: list[str], grid: GeoBox, **options: Any) -> Any:
    """What odc-stac loads from the files of the same items, by solar day."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = [pystac.Item.from_dict(item) for item in stack.items if item["id"] in ids]
        return odc_load(
            items,
            bands=bands,
            geobox=grid,
            groupby="solar_day",
            patch_url=lambda href: str(stack.path(hrefs[href][0], hrefs[href][1])),
            **options,
        )


hrefs: dict[str, tuple[Any, str]] = {}


@pytest.fixture(autouse=True)
def known_hrefs(spread: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # With keys around, as tests on S3 leave them, rasterio makes two sessions of boto3's for every
    # array in memory.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    for item in spread.items:
        for key, asset in item["assets"].items():
            hrefs[asset["href"]] = (item, key)


# Against odc-stac

AREAS = {
    "one tile": ([WEST], None),
    "two tiles": ([WEST, EAST], None),
    "two zones": ([EAST, ZONE_11], None),
    "another zone": ([WEST, EAST, ZONE_11], "EPSG:32611"),
    "degrees": ([EAST, ZONE_11], "EPSG:4326"),
}


@pytest.mark.parametrize("times", [1, 2.5, 6, 10], ids=lambda n: f"{n:g} pixels")
@pytest.mark.parametrize("area", AREAS)
def test_nearest_pixels_are_odc_stacs(
    spread: Stack, cat: catalog.Catalog, area: str, times: float
) -> None:
    """At every kind of overview resolution: 10, 25, 60 and 100 m of the real archive."""
    tiles, crs = AREAS[area]
    resolution = PIXEL * times / (100_000 if crs == "EPSG:4326" else 1)
    bands = ["red", "scl", "coastal"]
    ours = cat.load(tile=tiles, bands=bands, crs=crs, resolution=resolution)
    theirs = odc(spread, cat.search(tile=tiles).ids(), bands, ours.odc.geobox)
    for band in bands:
        np.testing.assert_array_equal(ours[band], theirs[band], err_msg=band)
        assert ours[band].dtype == theirs[band].dtype
        assert 0.1 < (ours[band].values != 0).mean() < 1, "with edges of nodata"


@pytest.mark.parametrize("times", [2, 6])
@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "average"])
def test_resampled_pixels_are_odc_stacs_within_one(
    spread: Stack, cat: catalog.Catalog, resampling: str, times: int
) -> None:
    tiles = [WEST, EAST, ZONE_11]
    options = {"bands": ["red", "coastal"], "resampling": resampling}
    ours = cat.load(tile=tiles, datetime="2023-05", resolution=PIXEL * times, **options)
    theirs = odc(spread, ours.scene.item().split(), grid=ours.odc.geobox, **options)
    for band in ("red", "coastal"):
        difference = ours[band].values.astype(int) - theirs[band].values
        assert np.abs(difference).max() <= 1, band
        np.testing.assert_array_equal(ours[band] == 0, theirs[band] == 0)


def test_time_steps_are_odc_stacs(spread: Stack, cat: catalog.Catalog) -> None:
    ours = cat.load(bands=["scl"], resolution=4000)
    theirs = odc(spread, cat.search().ids(), ["scl"], ours.odc.geobox)
    np.testing.assert_array_equal(ours.time, theirs.time.astype("datetime64[us]"))
    assert [len(names.split()) for names in ours.scene.values] == [3, 3]
    assert cat.load(bands=["scl"], resolution=4000, groupby=None).sizes["time"] == 6
    assert cat.load(bands=["scl"], resolution=4000, groupby="time").sizes["time"] == len(
        {item["properties"]["datetime"] for item in spread.items}
    )


# Against rasterio


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic_spline", "lanczos", "max"])
@pytest.mark.parametrize("band", ["red", "visual"])
def test_pixels_are_rasterios(
    spread: Stack, cat: catalog.Catalog, resampling: str, band: str
) -> None:
    """Inside one scene of another zone; ``visual`` has three samples."""
    item = next(item for item in spread.items if f"T{EAST}_20230308" in item["id"])
    grid = GeoBox.from_bbox((250_000, 5_005_000, 330_000, 5_080_000), "EPSG:32611", resolution=500)
    ours = cat.load(ids=item["id"], bands=[band], like=grid, resampling=resampling)[band][0]
    with rasterio.open(spread.path(item, band)) as source:
        want = np.zeros((source.count, *grid.shape), source.dtypes[0])
        reproject(
            rasterio.band(source, list(source.indexes)),
            want,
            dst_crs=str(grid.crs),
            dst_transform=grid.transform,
            resampling=Resampling[resampling],
            SRC_FILL_RATIO_HEURISTICS="NO",
        )
    difference = np.abs(np.squeeze(want).astype(int) - ours.values)
    # GDAL sees the grid, and we the part of it that the scene reaches.
    if resampling == "nearest":
        assert (difference > 0).mean() < 0.002
    else:
        # It places pixels to an eighth, along rows of one length or another.
        assert np.quantile(difference, 0.98) <= 1
    assert (want != 0).mean() > 0.5


def test_the_native_grid_is_copied(spread: Stack, cat: catalog.Catalog) -> None:
    """Whatever the resampling: nothing lies between the pixels."""
    item = spread.items[0]
    for resampling in ("nearest", "cubic"):
        ours = cat.load(ids=item["id"], bands=["red"], resampling=resampling)
        np.testing.assert_array_equal(ours["red"][0], spread.pixels(item, "red"))
    assert ours.odc.geobox == cat.scene(item["id"]).open(bands=["red"]).odc.geobox


# Lazy


def test_all_bands_at_once(cat: catalog.Catalog) -> None:
    """``dataset.cogcat.load()`` of more lazy arrays than there are threads."""
    tile = cat.cube(WEST, bands=["red"], mask="clouds")
    area = cat.load(tile=[WEST, EAST], bands=["red", "scl"], resolution=2 * PIXEL, mask="clouds")
    for opened in (tile, area):
        many = opened.assign({f"also{n}": opened.red.copy() for n in range(40)})
        xr.testing.assert_identical(many.copy().cogcat.load(), many.load())


def test_only_what_is_needed_is_read(spread: Stack, cat: catalog.Catalog) -> None:
    spread.server.requests.reset()
    lazy = cat.load(tile=[WEST, EAST], bands=["red", "visual"], mask="clouds", resolution=PIXEL)
    assert "..." in repr(lazy["red"])
    assert len(spread.file_requests()) == 0
    corner = lazy["red"][0, 30:40, 10:20].values
    assert corner.any()
    paths = [request.path for request in spread.file_requests()]
    assert len(paths) == 2, "a chunk of red and a chunk of scl"
    lazy["visual"][0, :, 30:40, 10:20].values  # noqa: B018
    assert len(spread.file_requests()) == 3, "scl is known"


def test_chunks(cat: catalog.Catalog) -> None:
    options = {"tile": [EAST, ZONE_11], "bands": ["red", "scl"], "resolution": 700}
    options |= {"resampling": "bilinear", "mask": "clouds", "reflectance": True}
    lazy = cat.load(**options)
    chunked = cat.load(**options, chunks={"time": 1, "y": 64, "x": 100})
    assert chunked["red"].chunks[0] == (1, 1)
    assert chunked["red"].chunks[1][0] == 64
    blocks = chunked["red"].data
    assert len(blocks.__dask_graph__()) <= blocks.npartitions + 2, "one task for a block"
    xr.testing.assert_identical(chunked.compute(scheduler="threads"), lazy.load())
    assert cat.cube(WEST, chunks={"time": 1})["red"].chunks[0] == (1, 1)
    with pytest.raises(UsageError, match="chunks="):
        cat.load(**options, chunks={"z": 1})


READER = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    dataset = pickle.load(file)
print(int(dataset["red"].sum().compute(scheduler="synchronous")))
"""


@pytest.mark.parametrize("chunks", [None, {"y": 128, "x": 128}])
def test_a_pickle_is_read_in_another_process(
    cat: catalog.Catalog, tmp_path: Path, chunks: Any
) -> None:
    dataset = cat.load(bands=["red"], resolution=2000, mask="clouds", chunks=chunks)
    path = tmp_path / "dataset.pickle"
    path.write_bytes(pickle.dumps(dataset))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == int(dataset["red"].sum())


def test_statements(spread: Stack, statements: Statements) -> None:
    with spread.connect() as cat:
        for ask, cost in (
            (lambda: cat.load(tile=WEST, bands=["red"]), 2),
            (lambda: cat.load(bands=["red"]), 2),
            (lambda: cat.search(tile=WEST).to_xarray(["red"]), 2),
            (lambda: cat.load(tile=WEST, bands=["red"], as_of=datetime.now(UTC)), 3),
        ):
            with statements(cat._engine) as seen:
                ask()
            assert len(seen) == cost


# Metadata


def test_others_know_the_grid(cat: catalog.Catalog, tmp_path: Path) -> None:
    for dataset, epsg in (
        (cat.load(tile=[EAST, ZONE_11], bands=["red"], resolution=1000), 32610),
        (cat.load(bbox=(-121, 45, -120, 46), bands=["red"], crs=4326, resolution=0.01), 4326),
        (cat.cube(WEST, bands=["red"]), 32610),
        (cat.search(tile=WEST).to_xarray(["red"], reflectance=True), 32610),
    ):
        assert dataset.rio.crs.to_epsg() == epsg
        assert dataset.odc.geobox.crs.epsg == epsg
        assert dataset["red"].odc.geobox == dataset.odc.geobox
        assert dataset.rio.transform() == dataset.odc.geobox.transform
        assert dataset.rio.transform()[0] == pytest.approx(float(dataset.x[1] - dataset.x[0]))
        assert dataset["red"].attrs["grid_mapping"] == "spatial_ref"
        assert dataset.attrs["cogcat_branches"] == sorted(dataset.attrs["cogcat_branches"])
        assert len(dataset.attrs["cogcat_snapshots"]) == len(dataset.attrs["cogcat_branches"])
    assert dataset["red"].rio.nodata is None, "NaN needs no name"
    assert cat.cube(WEST, bands=["red"])["red"].rio.nodata == 0
    degrees = cat.load(bbox=(-121, 45, -120, 46), bands=["red"], crs=4326, resolution=0.01)
    assert degrees.x.attrs["units"] == "degrees_east"
    assert (float(degrees.x[0]), float(degrees.y[0])) == pytest.approx((-120.995, 45.995))
    two = cat.load(tile=[EAST, ZONE_11], bands=["red"], resolution=1000)
    assert two.attrs["cogcat_branches"] == [f"{C1}/{EAST}", f"{C1}/{ZONE_11}"]
    cited = dict(zip(two.attrs["cogcat_branches"], two.attrs["cogcat_snapshots"], strict=True))
    again = cat.load(tile=[EAST, ZONE_11], bands=["red"], resolution=1000, as_of=cited)
    xr.testing.assert_identical(again, two)


def test_a_grid_given(cat: catalog.Catalog) -> None:
    grid = GeoBox.from_bbox((640_000, 5_000_000, 700_000, 5_050_000), "EPSG:32610", resolution=500)
    first = cat.load(tile=WEST, bands=["red"], geobox=grid)
    assert first.odc.geobox == grid
    xr.testing.assert_identical(cat.load(tile=WEST, bands=["red"], like=first), first)
    xr.testing.assert_identical(cat.load(tile=WEST, bands=["red"], like=xr_zeros(grid)), first)


def test_the_area_asked_for_is_covered(cat: catalog.Catalog) -> None:
    shape = "POLYGON ((-121 45.2, -120.4 45.3, -120.7 45.8, -121 45.2))"
    dataset = cat.load(intersects=shape, bands=["red"], resolution=400)
    west, south, east, north = dataset.rio.transform_bounds("EPSG:4326")
    assert west <= -121
    assert east >= -120.4
    assert south <= 45.2
    assert north >= 45.8
    assert dataset.sizes["x"] < 200
    whole = cat.load(tile=[WEST, EAST], bands=["red"], resolution=400)
    part = whole.sel(x=dataset.x, y=dataset.y)
    np.testing.assert_array_equal(part["red"], dataset["red"])


# Masks


def test_masks_of_cubes_and_scenes(spread: Stack, cat: catalog.Catalog) -> None:
    item = spread.items[0]
    scl = spread.pixels(item, "scl")
    fine = np.kron(scl, np.ones((2, 2), np.uint8))
    clouds = np.isin(fine, [8, 9, 10])
    assert 0.01 < clouds.mean() < 0.99
    red = spread.pixels(item, "red")
    scene = cat.scene(item["id"])
    masked = scene.open(bands=["red", "visual"], mask="clouds")
    np.testing.assert_array_equal(masked["red"], np.where(clouds, 0, red))
    np.testing.assert_array_equal(
        masked["visual"], np.where(clouds, 0, spread.pixels(item, "visual"))
    )
    some = masked["red"].isel(y=slice(None, None, -7), x=[5, 3, 200])
    np.testing.assert_array_equal(some, np.where(clouds, 0, red)[::-7][:, [5, 3, 200]])
    bright = scene.open(bands=["red"], mask=[3, "cloud_medium", "water"], reflectance=True)["red"]
    want = np.where(np.isin(fine, [3, 8, 6]) | (red == 0), np.nan, (red - 1000.0) / 10_000)
    np.testing.assert_allclose(bright, want, rtol=1e-5, atol=1e-6)
    assert bright.attrs["units"] == "1"
    tree = scene.open_tree(["red"], mask="clouds")
    coarse = spread.pixels(item, "red", 1)
    np.testing.assert_array_equal(
        tree[f"r{2 * PIXEL}m"]["red"], np.where(np.isin(scl, [8, 9, 10]), 0, coarse)
    )
    coastal = scene.open(bands=["coastal"], mask="clouds")["coastal"]
    # Pixels of 60 m below scl's overview of 40 m: centres at 0.75 and 2.25 of its pixels …
    at = ((np.arange(46) + 0.5) * 1.5).astype(int)
    below = np.isin(spread.pixels(item, "scl", 1)[np.ix_(at, at)], [8, 9, 10])
    np.testing.assert_array_equal(coastal, np.where(below, 0, spread.pixels(item, "coastal")))
    cube = cat.cube(WEST, bands=["red"], mask="clouds")
    np.testing.assert_array_equal(cube["red"][0], np.where(clouds, 0, red))


def test_masks_of_mosaics(cat: catalog.Catalog) -> None:
    """A masked pixel of the first scene leaves its place to the second."""
    options = {"tile": [WEST, EAST], "datetime": "2023-03", "resolution": 2 * PIXEL}
    options |= {"bands": ["red", "scl"]}
    masked = cat.load(**options, mask="clouds")
    steps = cat.load(**options, groupby=None)
    want = np.zeros(masked["red"].shape[1:], np.uint16)
    for red, scl in zip(steps["red"].values, steps["scl"].values, strict=True):
        clear = np.where(np.isin(scl, [8, 9, 10]), 0, red)
        want = np.where(want == 0, clear, want)
    np.testing.assert_array_equal(masked["red"][0], want)
    assert not np.isin(masked["scl"], [8, 9, 10]).any()
    whole = cat.load(**options)
    assert (masked["red"] == 0).sum() > (whole["red"] == 0).sum()
    both = ((steps["red"].values > 0).sum(axis=0) == 2) & (want > 0)
    assert (want != whole["red"].values[0])[both].any(), "some of the second is seen"


# Several tiles or one


def test_to_xarray(spread: Stack, cat: catalog.Catalog) -> None:
    found = cat.search(tile=WEST, datetime="2023-05")
    one = found.to_xarray(["red"], mask="clouds")
    assert one.scene.values.tolist() == found.ids()
    xr.testing.assert_identical(
        one, cat.cube(WEST, bands=["red"], datetime="2023-05", mask="clouds")
    )
    area = cat.search(tile=[WEST, EAST])
    xr.testing.assert_identical(
        area.to_xarray(["red"], 1000, groupby="time"),
        cat.load(tile=[WEST, EAST], bands=["red"], resolution=1000, groupby="time"),
    )
    assert found.to_xarray(["red"], 800, crs=32611).odc.geobox.crs.epsg == 32611
    with pytest.raises(NotFoundError, match="no resolution of 1000 m; there are 400"):
        found.to_xarray(["red"], 1000)
    with pytest.raises(UsageError, match="unknown argument colour"):
        area.to_xarray(colour="red")


# Errors


def test_what_cannot_be_loaded_says_why(cat: catalog.Catalog) -> None:
    for options, message in (
        ({"bands": ["purple"]}, "unknown band 'purple'; known are"),
        ({"bands": ["nir"]}, "no band 'nir'; there are coastal"),
        ({"tile": "31UFU"}, "there are tiles 10TFR, 10TGR, 11TLL"),
        ({"datetime": "1999"}, "no indexed scene answers"),
        ({"crs": "EPSG:99"}, "unknown crs 'EPSG:99'"),
        ({"crs": object()}, "unknown crs"),
        ({"crs": "EPSG:4978"}, "neither geographic nor projected"),
        ({"crs": 4326}, "give a resolution in degrees"),
        ({"crs": 4326, "resolution": 20}, "is in degrees for EPSG:4326: 20 m are about 0.000180"),
        ({"resolution": 0.0001}, "is in metres for EPSG:32610"),
        ({"resolution": -10}, "not the size of a pixel"),
        ({"resolution": float("nan")}, "not the size of a pixel"),
        ({"crs": 3857, "resolution": 0.11, "bbox": (-179, -80, 179, 80)}, "more than 2000000"),
        ({"mask": "fog"}, "unknown scl class 'fog'; known are no_data (0)"),
        ({"mask": [12]}, "unknown scl class 12"),
        ({"resampling": "closest"}, "unknown resampling 'closest'; known are nearest"),
        ({"resampling": {"blue": "cubic"}, "bands": ["red"]}, "resampling of 'blue': only red"),
        ({"groupby": "month"}, "unknown groupby 'month'; known are 'solar_day', 'time', None"),
        ({"like": 5}, "no grid in int"),
        ({"like": 5, "geobox": 5}, "give one"),
        ({"like": xr_zeros(GeoBox.from_bbox((0, 0, 1, 1), resolution=1)), "crs": 4326}, "not both"),
        ({"bands": []}, "bands is empty"),
        ({"bands": 5}, "unknown band 5"),
        ({"resampling": None}, "resampling None: name one"),
        ({"resolution": True}, "not the size of a pixel"),
        ({"resolutoin": 10}, "load takes no resolutoin"),
        ({"chunks": {"x": 0}}, "chunks={'x': 0}"),
        ({"mask": 1.5}, "unknown scl class 1.5"),
        ({"as_of": "2001"}, "nothing was recorded as of 2001"),
        ({"as_of": "ABC"}, "no recorded snapshot 'ABC'"),
        ({"as_of": {f"{C1}/{WEST}": "ABC"}}, "no recorded snapshot 'ABC'"),
    ):
        with pytest.raises(UsageError) as caught:
            cat.load(**options)  # type: ignore[arg-type]
        assert message in str(caught.value), options
        assert "\n" not in str(caught.value)


def test_grids_of_one_pixel_size_are_aligned_to_the_last_digit(cat: catalog.Catalog) -> None:
    """Or what is added would lose the rows and columns whose coordinates differ there."""
    for crs, resolution in ((4326, 0.0017), (4326, 0.001), (32610, 410)):
        grid: dict[str, Any] = {"bands": ["red"], "crs": crs, "resolution": resolution}
        whole = cat.load(tile=[WEST, EAST], **grid)
        part = cat.load(tile=[WEST, EAST], bbox=(-121, 45.3, -120.8, 45.5), **grid)
        assert (whole.red + part.red).shape == part.red.shape
        piece = whole.isel(x=slice(7, 90), y=slice(3, 60))
        again = cat.load(tile=[WEST, EAST], bands=["red"], like=piece)
        assert (whole.red + again.red).shape == again.red.shape
    uneven = whole.isel(x=[0, 5, 6])
    with pytest.raises(UsageError, match="uneven: 'x' has steps"):
        cat.load(tile=WEST, bands=["red"], like=uneven)


def test_numbers_of_numpy(cat: catalog.Catalog) -> None:
    table = cat.search(tile=WEST).to_pandas()
    loaded = cat.load(
        tile=WEST, bands="red", crs=table.epsg.iloc[0], resolution=np.float32(800),
        mask=np.int64(3),
    )  # fmt: skip
    assert loaded.odc.geobox == cat.load(tile=WEST, bands="red", resolution=800).odc.geobox


@pytest.mark.parametrize("resampling", ["nearest", "cubic"])
def test_zero_is_a_value_where_nothing_is_nodata(resampling: str) -> None:
    """GDAL would make 1 of it, so as not to be taken for a nodata that was made up."""
    source = Grid(32610, 64, 64, (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_100_000.0))
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, 32:] = 7
    block = GeoBox.from_bbox((600_000, 5_099_360, 600_640, 5_100_000), "EPSG:32610", resolution=13)
    (placement,) = placements((source,), block, False)
    window = (slice(0, block.shape[0]), slice(0, block.shape[1]))
    found = read_window(
        lambda level, part: pixels[part], (source,), placement, block, window,
        resampling=resampling, nodata=None,
    )  # fmt: skip
    assert found is not None
    assert (found[1][5:-5, 3:20] == 0).all()
    assert (found[1][5:-5, -20:-3] == 7).all()


def test_sums_do_not_depend_on_the_window(cat: catalog.Catalog) -> None:
    grid: dict[str, Any] = {"crs": 3857, "resolution": 600, "resampling": "sum"}
    whole = cat.load(tile=[WEST, EAST], bands=["red"], datetime="2023-03", **grid).red
    part = cat.load(tile=[WEST, EAST], bands=["red"], datetime="2023-03", **grid).red
    np.testing.assert_array_equal(part[0, 30:60, 40:90].values, whole.values[0, 30:60, 40:90])


def test_an_output_whose_middle_has_no_longitude(cat: catalog.Catalog) -> None:
    """Days are then those of a scene's own longitude."""
    corner = GeoBox.from_bbox(
        (5e6, 5e6, 7e6, 7e6), "+proj=ortho +lat_0=45 +lon_0=-121", resolution=50_000
    )
    assert not (cat.load(tile=WEST, bands=["red"], like=corner).red > 0).any()


def test_a_snapshot_of_one_tile_is_a_moment_for_the_others(
    spread: Stack, cat: catalog.Catalog
) -> None:
    heads = {tile: cat.cube(tile, bands=["red"]).cogcat_snapshot for tile in (WEST, EAST)}
    last = max(heads, key=lambda tile: _written(spread, heads[tile]))
    both = cat.load(tile=[WEST, EAST], bands=["red"], resolution=1000, as_of=heads[last])
    assert dict(zip(both.cogcat_branches, both.cogcat_snapshots, strict=True)) == {
        f"{C1}/{tile}": snapshot for tile, snapshot in heads.items()
    }


def _written(stack: Stack, snapshot: str) -> Any:
    return stack.rows(f"SELECT written_at FROM snapshots WHERE id = '{snapshot}'")[0][0]


def test_a_fresh_process_needs_no_import_of_its_own(spread: Stack) -> None:
    code = (
        "import sys, catalog; cat = catalog.connect(config=sys.argv[1]);"
        "found = cat.load(tile='10TFR', bands=['red'], resolution=2000);"
        "again = cat.load(tile='10TFR', bands=['red'], like=found);"
        "print(again.odc.geobox == found.odc.geobox)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(spread.config)],
        capture_output=True, text=True, timeout=120, env=child_environment(),
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_an_install_without_the_extra(
    cat: catalog.Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("odc.geo", "odc.geo.xr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'cogcat\[load\]'"):
        cat.load(bands=["red"])


def test_every_class_has_its_number() -> None:
    assert parse_mask(list(SCL_CLASSES)) == tuple(range(12))
    assert parse_mask("clouds") == (8, 9, 10)
    assert parse_mask(["3", 8, "thin cirrus", "Cloud-Shadow"]) == (3, 8, 10)
    assert parse_mask(None) == ()
    for wrong in (True, -1, 3.5, "12"):
        with pytest.raises(NotFoundError):
            parse_mask([wrong])  # type: ignore[list-item]
