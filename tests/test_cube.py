"""The layout of a cube: pure documents and digests, held against zarr's and GeoZarr's own rules."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr_cm
from conftest import make_scene
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS
from scenes import make_asset
from zarr.core.metadata.v3 import ArrayV3Metadata

from catalog.cube import (
    ArraySpec,
    Grid,
    coordinate_documents,
    fits,
    grid_mapping,
    grid_of_group,
    group_document,
    main_document,
    refs_digest,
    root_document,
    scene_references,
    spec_of_document,
    variant_root,
)
from catalog.errors import HeaderError
from catalog.header import Header, Level

CORNER = (600000.0, 5100000.0)


def level(width: int, height: int | None = None, **changes: Any) -> Level:
    height = height or width
    tile = changes.pop("tile", 512)
    grid = (1, -(-height // tile), -(-width // tile))
    values: dict[str, Any] = {
        "width": width,
        "height": height,
        "tile_width": tile,
        "tile_height": tile,
        "samples": 1,
        "interleaved": True,
        "dtype": "uint16",
        "byte_order": "little",
        "compression": 8,
        "predictor": 2,
        "nodata": 0,
        "offsets": np.arange(1, np.prod(grid) + 1, dtype=np.uint64).reshape(grid) * 1000,
        "lengths": np.full(grid, 999, np.uint64),
    }
    return Level(**values | changes)


def header(
    band: str, pixel: float, *levels: Level, epsg: int | None = 32610, **changes: Any
) -> Header:
    values: dict[str, Any] = {
        "asset": make_asset(f"https://host/{band}.tif", band),
        "location": f"vcc://host/{band}.tif",
        "size": 10**9,
        "etag": None,
        "last_modified": None,
        "checksum": None,
        "sha256": "00" * 32,
        "read": 1,
        "requests": 1,
        "epsg": epsg,
        "transform": (pixel, 0.0, CORNER[0], 0.0, -pixel, CORNER[1]),
        "levels": levels,
        "warnings": (),
    }
    return Header(**values | changes)


SIZES = {10: (10980, 5490, 2745, 1373, 687), 20: (5490, 2745, 1373, 687), 60: (1830, 915, 458)}


def real_headers() -> list[Header]:
    """The levels of a Collection 1 scene, three bands of it."""
    return [
        header(band, pixel, *(level(size) for size in SIZES[pixel]))
        for band, pixel in (("coastal", 60), ("scl", 20), ("red", 10))
    ]


# Groups


def test_groups_hold_native_bands_and_overviews_of_one_size() -> None:
    specs = scene_references(make_scene(), real_headers()).specs
    groups: dict[str, set[str]] = {}
    for spec in specs.values():
        groups.setdefault(spec.group, set()).add(spec.band)
    assert groups == {
        "r10m": {"red"},
        "r20m": {"red", "scl"},
        "r40m": {"red", "scl"},
        "r80m": {"red", "scl"},
        "r160m": {"red", "scl"},
        "r60m": {"coastal"},
        "r120m": {"coastal"},
        "r240m": {"coastal"},
    }
    for group in ("r20m", "r160m"):
        assert specs[f"{group}/red"].grid == specs[f"{group}/scl"].grid


def test_an_overview_covers_what_its_image_covers() -> None:
    for array in scene_references(make_scene(), real_headers()).arrays:
        grid = array.spec.grid
        a, _, c, _, e, f = grid.transform
        assert (c, f) == CORNER
        assert (a * grid.width, -e * grid.height) == pytest.approx((109_800, 109_800))
        y, x = grid.centres()
        assert (y.shape, x.shape) == ((grid.height,), (grid.width,))
        assert (x[0], y[0]) == pytest.approx((c + a / 2, f + e / 2))
        assert x[-1] + a / 2 == pytest.approx(c + 109_800)


def test_two_grids_of_one_name_are_two_groups() -> None:
    headers = [header("red", 10, level(1000)), header("blue", 10.3, level(971))]
    assert set(scene_references(make_scene(), headers).specs) == {
        "r10m/blue",
        "r10m-1000x1000/red",
    }


def test_the_order_of_headers_means_nothing() -> None:
    forward = scene_references(make_scene(), real_headers())
    backward = scene_references(make_scene(), real_headers()[::-1])
    assert forward.sha256 == backward.sha256
    assert list(forward.specs) == list(backward.specs) == sorted(forward.specs)


def test_headers_that_contradict_are_refused() -> None:
    with pytest.raises(HeaderError, match=r"^red: the file is in EPSG:32611, its item says"):
        scene_references(make_scene(), [header("red", 10, level(100), epsg=32611)])
    with pytest.raises(HeaderError, match=r"^red: two images of one size \(https://host/red"):
        scene_references(make_scene(), [header("red", 10, level(100), level(100))])
    assert scene_references(make_scene(), [header("red", 10, level(100), epsg=None)]).arrays


# Documents


SPECS = {
    "plain": level(1000),
    "bytes": level(1000, dtype="uint8", predictor=1, nodata=None),
    "uncompressed": level(1000, compression=1, predictor=1),
    "big": level(1000, byte_order="big"),
    "samples": level(1000, samples=3, dtype="uint8"),
    "planes": level(
        1000,
        samples=3,
        interleaved=False,
        offsets=np.ones((3, 2, 2), np.uint64),
        lengths=np.ones((3, 2, 2), np.uint64),
    ),
    "signed": level(1000, 800, dtype="int16", nodata=-32768),
    "lzw": level(1000, compression=5),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.filterwarnings("ignore:.*codecs are not in the Zarr version 3:UserWarning")
def test_an_array_document_is_zarrs_and_can_be_read_back(name: str) -> None:
    band = "visual" if SPECS[name].samples > 1 else "red"
    (array,) = scene_references(make_scene(), [header(band, 10, SPECS[name])]).arrays
    spec = array.spec
    document = json.loads(json.dumps(spec.document(7), allow_nan=False))
    assert spec_of_document(spec.path, document, spec.grid) == spec
    metadata = ArrayV3Metadata.from_dict(document)
    expected = (3,) if spec.samples > 1 else ()
    assert metadata.shape == (7, *expected, spec.grid.height, spec.grid.width)
    assert metadata.shape[-2:] == (SPECS[name].height, SPECS[name].width)
    chunks = metadata.chunk_grid.chunk_shape  # type: ignore[attr-defined]
    assert chunks[0] == 1
    assert array.offsets.shape == tuple(
        -(-size // chunk) for size, chunk in zip(metadata.shape[1:], chunks[1:], strict=True)
    )
    assert metadata.fill_value == (SPECS[name].nodata or 0)
    # A file that says nothing has its product's, which is 0.
    assert document["attributes"]["_FillValue"] == (SPECS[name].nodata or 0)
    assert document["attributes"]["grid_mapping"] == "spatial_ref"


def test_only_reflectance_says_how_to_get_it() -> None:
    headers = [header(band, 10, level(100)) for band in ("red", "scl", "aot")]
    documents = {
        array.spec.band: array.spec.document(1)["attributes"]
        for array in scene_references(make_scene(), headers).arrays
    }
    assert documents["red"]["reflectance"] == "(DN + boa_offset) * 0.0001"
    assert "reflectance" not in documents["scl"]
    assert "reflectance" not in documents["aot"]


def test_coordinate_documents_are_zarrs() -> None:
    grid = Grid(32610, 100, 80, (10.0, 0.0, *CORNER[:1], 0.0, -10.0, CORNER[1]))
    for name, document in coordinate_documents(grid, 5).items():
        metadata = ArrayV3Metadata.from_dict(json.loads(json.dumps(document)))
        shape = {"y": (80,), "x": (100,), "spatial_ref": ()}.get(name, (5,))
        assert metadata.shape == shape, name


def test_group_documents_keep_the_grid_and_the_conventions() -> None:
    specs = scene_references(make_scene(), real_headers()).specs
    grids = {spec.group: spec.grid for spec in specs.values()}
    for grid in grids.values():
        document = json.loads(json.dumps(group_document(grid)))
        assert grid_of_group(document) == grid
        zarr_cm.validate_all(document["attributes"])
        assert set(zarr_cm.detect_revisions(document["attributes"])) == {"proj", "spatial"}
        assert document["attributes"]["spatial:bbox"] == pytest.approx(
            [600000, 4990200, 709800, 5100000]
        )
    root = root_document("c", "10TFR", grids, {name: ["red"] for name in grids})
    attributes = json.loads(json.dumps(root))["attributes"]
    zarr_cm.validate_all(attributes)
    assert "multiscales" in zarr_cm.detect_revisions(attributes)
    layout = attributes["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == [
        "r10m", "r20m", "r40m", "r60m", "r80m", "r120m", "r160m", "r240m",
    ]  # fmt: skip
    for entry in layout:
        # GeoZarr: scale and translation are from the source's pixels to this level's.
        scale, translation = entry["transform"]["scale"], entry["transform"]["translation"]
        grid = grids[entry["asset"]]
        assert scale == [10980 / grid.height, 10980 / grid.width]
        assert translation == pytest.approx([(s - 1) / 2 for s in scale])
        y, x = grid.centres()
        fine_y, fine_x = grids["r10m"].centres()
        assert x[0] == pytest.approx(fine_x[0] + 10 * translation[1])
        assert y[0] == pytest.approx(fine_y[0] - 10 * translation[0])
    assert attributes["cogcat"]["bands"].keys() == grids.keys()


def test_documents_are_plain_json() -> None:
    grid = Grid(32610, 100, 80, (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0))
    for document in (main_document("uid"), root_document("c", "t", {}, {}), group_document(grid)):
        assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("epsg", [32601, 32610, 32660, 32701, 32760])
def test_the_grid_mapping_is_cf_and_gdals(epsg: int) -> None:
    grid = Grid(epsg, 100, 80, (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0))
    attributes = json.loads(json.dumps(grid_mapping(grid)))
    assert attributes["GeoTransform"] == "600000.0 10.0 0.0 5100000.0 0.0 -10.0"
    assert CRS.from_cf(attributes).to_epsg() == epsg
    assert CRS.from_wkt(attributes["crs_wkt"]) == CRS.from_epsg(epsg)


# Which cube


def spec(**changes: Any) -> ArraySpec:
    grid = Grid(32610, 100, 80, (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0))
    values: dict[str, Any] = {
        "band": "red",
        "group": "r10m",
        "grid": grid,
        "dtype": "uint16",
        "samples": 1,
        "chunk": (1, 64, 64),
        "nodata": 0,
        "codecs": "[]",
    }
    return ArraySpec(**values | changes)


GRID = spec().grid
OTHERS = {
    "dtype": {"dtype": "uint8"},
    "chunk": {"chunk": (1, 32, 32)},
    "nodata": {"nodata": None},
    "codecs": {"codecs": '[{"name": "bytes"}]'},
    "samples": {"samples": 3, "chunk": (3, 64, 64)},
    "width": {"grid": replace(GRID, width=101)},
    "height": {"grid": replace(GRID, height=81)},
    "epsg": {"grid": replace(GRID, epsg=32611)},
    "place": {"grid": replace(GRID, transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0))},
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_differs_does_not_fit_and_has_its_own_variant(name: str) -> None:
    cube, other = {"r10m/red": spec()}, {"r10m/red": spec(**OTHERS[name])}
    assert fits(cube, cube)
    assert not fits(other, cube)
    assert variant_root(other) != variant_root(cube)
    assert variant_root(other) == variant_root(dict(other))


def test_another_band_fits_on_the_same_grid_only() -> None:
    cube = {"r10m/red": spec()}
    assert fits({"r10m/blue": spec(band="blue", dtype="uint8")}, cube)
    assert fits({"r20m/red": spec(group="r20m", grid=replace(GRID, width=50))}, cube)
    assert not fits({"r10m/blue": spec(band="blue", grid=replace(GRID, width=50))}, cube)
    assert fits({}, cube)
    assert fits(cube, {})


def test_variants_have_names_of_their_own() -> None:
    names = {variant_root({"r10m/red": spec(**changes)}) for changes in OTHERS.values()}
    assert len(names) == len(OTHERS)
    assert all(name.startswith("variant-") and len(name) == 16 for name in names)


# Digest


@given(
    st.dictionaries(
        st.sampled_from(["r10m/red", "r10m/blue", "r20m/red", "r20m/visual"]),
        st.lists(
            st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=6
        ),
        min_size=1,
    )
)
def test_the_digest_is_what_its_documentation_says(
    found: dict[str, list[tuple[int, int]]],
) -> None:
    """Made anew here from the words of ``refs_digest`` alone."""
    text = b""
    for path in sorted(found):
        if any(length for _, length in found[path]):
            text += f"{path} vcc://a/é.tif 1x{len(found[path])}\n".encode()
            text += b"".join(struct.pack("<Q", o if n else 0) for o, n in found[path])
            text += b"".join(struct.pack("<Q", n) for _, n in found[path])
    arrays = [
        (
            path,
            "vcc://a/é.tif",
            np.array([[o for o, _ in pairs]], np.uint64),
            np.array([[n for _, n in pairs]], np.uint64),
        )
        for path, pairs in found.items()
    ]
    assert refs_digest(arrays) == hashlib.sha256(text).hexdigest()
