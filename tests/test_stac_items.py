"""Scenes as STAC items, collections and tables: valid, whole, and enough to open the pixels."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import geopandas
import icechunk
import numpy as np
import odc.stac
import pyarrow.parquet
import pystac
import pytest
import rustac
import shapely
import stac_geoparquet.arrow
import xarray as xr
import zarr
from conftest import make_scene
from extension_schemas import VALIDATOR, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from stacks import BANDS as BANDS_OF_C1
from stacks import C1, SCENES, Stack

import catalog
from catalog import item_rows, search_result
from catalog.bands import BANDS
from catalog.database import read_transaction
from catalog.errors import ConfigError
from catalog.footprint import footprint, footprint_geojson, within_180
from catalog.ground import lies_on_tile
from catalog.item import scene_from_item
from catalog.item_file import read_items
from catalog.item_table import item_schema, write_items
from catalog.names import name_fault
from catalog.recorded import (
    STATUSES,
    AssetRecord,
    CollectionExtent,
    DescribedScene,
    Raster,
    SceneRecord,
)
from catalog.settings import BUILT_IN_SOURCES, Source
from catalog.stac_items import ICECHUNK_ASSET, ItemMaker, collection_document, enclosing_bbox

pytest_plugins = ["stacks"]

Item = dict[str, Any]
Statements = Callable[[Engine], AbstractContextManager[list[str]]]
S3_OPTIONS = {"region": "eu-central-1"}
MAKER = ItemMaker(BUILT_IN_SOURCES, S3_OPTIONS)
BUCKET = BUILT_IN_SOURCES[0].match


@pytest.fixture
def cat(crawled: Stack) -> Iterator[catalog.Catalog]:
    with crawled.connect() as opened:
        yield opened


def make_record(**changes: Any) -> SceneRecord:
    """An indexed scene that is like a real one but for ``changes``."""
    names = set(SceneRecord.__dataclass_fields__)
    scene = make_scene(**{name: changes.pop(name) for name in list(changes) if name in _SCENE})
    values: dict[str, Any] = {
        name: getattr(scene, name) for name in type(scene).__dataclass_fields__ if name in names
    } | {
        "pk": 1,
        "status": "indexed",
        "repository": "s3://my-bucket/s2",
        "branch": f"{scene.collection}/{scene.tile}",
        "root": "",
        "time_index": 3,
        "snapshot_id": "1CECHNKREP0F1RSTCMT0",
        "refs_sha256": "bb" * 32,
        "revision": 1,
        "recorded_at": datetime(2024, 1, 1, tzinfo=UTC),
        "attempts": 0,
        "last_error": None,
        "next_attempt_at": None,
    }
    return SceneRecord(**values | changes)


_SCENE = frozenset(type(make_scene()).__dataclass_fields__) | {"footprint"}


RASTER = Raster(10980, 10970, (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0), "uint16", 0)


def make_files(*bands: str, **changes: Any) -> dict[str, AssetRecord]:
    values: dict[str, Any] = {
        "size": 1234,
        "etag": None,
        "last_modified": None,
        "checksum": "1220" + "cc" * 32,
        "header_sha256": "dd" * 32,
        "header_length": 4208,
        "raster": RASTER,
    } | changes
    return {band: AssetRecord(band, f"{BUCKET}a/{band}.tif", **values) for band in bands}


def make_item(record: SceneRecord, *bands: str, maker: ItemMaker = MAKER, **changes: Any) -> Item:
    held: dict[str, Any] = {"stac_url": "https://stac.example.org/v1", "superseded": False}
    files = make_files(*bands) if bands else {}
    return maker.item(DescribedScene(record, files, **held | changes))


# Random records

TIMES = st.integers(0, 3 * 10**14).map(
    lambda number: datetime(2015, 6, 1, tzinfo=UTC) + timedelta(microseconds=number)
)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda text: name_fault(text) is None
)


@st.composite
def footprints(draw: st.DrawFn) -> Any:
    """Parts of a tile anywhere on Earth, poles and antimeridian included, as stored."""
    west = draw(st.floats(-180, 179.99) | st.sampled_from([-180.0, 179.0, 168.5, 174.0]))
    width = draw(st.floats(0.01, 12))
    south = draw(st.floats(-89, 88.9) | st.sampled_from([-89.9, 83.0]))
    height = draw(st.floats(0.01, min(2.0, 89.99 - south)))
    box = np.array([(0, 0), (1, 0), (1, 1), (0.3, 1), (0, 0.4)]) * (width, height) + (west, south)
    ring = [*box.tolist(), box[0].tolist()]
    if draw(st.booleans()):
        ring = ring[::-1]
    return footprint({"type": "Polygon", "coordinates": [ring]})


@st.composite
def scenes(draw: st.DrawFn) -> DescribedScene:
    """Scenes as SQL may hold them."""
    wkb, bbox = draw(footprints())
    status = draw(st.sampled_from(STATUSES))
    located = status in ("indexed", "withdrawn")
    zone, north = draw(st.integers(1, 60)), draw(st.booleans())
    bands = draw(st.lists(st.sampled_from([band.name for band in BANDS]), unique=True))
    files = {
        band.name: AssetRecord(
            band.name,
            draw(st.sampled_from([BUCKET, "https://elsewhere.example.org/x/", "s3://other/"]))
            + f"{band.name}.tif",
            draw(st.none() | st.integers(1, 2**40)),
            draw(st.none() | st.just('"etag"')),
            draw(st.none() | TIMES),
            draw(st.none() | DIGESTS.map(lambda digest: "1220" + digest)),
            "dd" * 32,
            4208,
            draw(st.none() | st.just(RASTER)),
        )
        for band in BANDS
        if located and (band.name in bands or band.name == "red")
    }
    record = make_record(
        id=draw(TEXTS),
        collection=draw(st.sampled_from([C1, "sentinel-2-l2a", "données"])),
        tile=f"{zone:02}{'T' if north else 'C'}{'SAJ'[zone % 3]}M",
        epsg=(32600 if north else 32700) + zone,
        datetime=draw(TIMES),
        platform=draw(st.none() | st.sampled_from(["sentinel-2a", "sentinel-2c"])),
        cloud_cover=draw(st.none() | st.floats(0, 100)),
        baseline=draw(st.none() | st.sampled_from(["02.14", "04.00", "05.10"])),
        acquisition=draw(st.none() | TEXTS),
        status=status,
        created=draw(st.none() | TIMES),
        updated=draw(st.none() | TIMES),
        boa_offset=draw(st.sampled_from([0, -1000])),
        warnings=tuple(draw(st.lists(TEXTS, max_size=2))),
        item_sha256=draw(DIGESTS),
        repository=draw(st.sampled_from(["s3://my-bucket/s2", "/data/cogcat repo"])),
        last_error=None if located else draw(st.none() | TEXTS),
        root=draw(st.sampled_from(["", "variant-0123abcd"])) if located else None,
        revision=draw(st.integers(1, 9)) if located else 0,
        recorded_at=draw(TIMES),
        **(
            {}
            if located
            else {"branch": None, "time_index": None, "snapshot_id": None, "refs_sha256": None}
        ),
    )
    record = replace(record, footprint=wkb, bbox=bbox)
    url = draw(st.none() | st.just("https://stac.example.org/v1"))
    return DescribedScene(record, files, url, draw(st.booleans()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes())
def test_every_scene_is_a_valid_item(scene: DescribedScene) -> None:
    record = scene.record
    item = MAKER.item(scene)
    check(item)
    assert json.loads(json.dumps(item, allow_nan=False)) == item, "plain JSON values"
    # Nothing is null, nothing that is known is left out.
    assert "None" not in repr(item) or "None" in record.id + str(record.warnings)
    assert (ICECHUNK_ASSET in item["assets"]) == (record.status in ("indexed", "withdrawn"))
    gone = record.status == "withdrawn" or scene.superseded
    assert item["properties"].get("deprecated", False) == gone
    for asset in item["assets"].values():
        for name in asset.get("storage:refs", ()):
            assert name in item["properties"]["storage:schemes"]
    if not scene.files:
        return
    # What was crawled could be crawled from the item again.
    again = scene_from_item(item)
    for name in ("id", "collection", "tile", "epsg", "datetime", "platform", "cloud_cover",
                 "baseline", "created", "updated", "boa_offset"):  # fmt: skip
        assert getattr(again, name) == getattr(record, name), name
    assert [(a.band, a.href, a.size, a.checksum) for a in again.assets] == [
        (f.band, f.href, f.size, f.checksum) for f in scene.files.values()
    ]
    assert [(a.shape, a.transform) for a in again.assets] == [
        ((f.raster.height, f.raster.width), f.raster.transform) if f.raster else (None, None)
        for f in scene.files.values()
    ]
    before, after = shapely.from_wkb(record.footprint), shapely.from_wkb(again.footprint)
    if not lies_on_tile(before, record.tile):
        assert any("does not lie on its tile" in note for note in again.warnings)
        return
    # Cut at 180 and brought to -180, a corner is where it was but for its last digits.
    assert shapely.symmetric_difference(before, after).area < 1e-9
    assert again.bbox == pytest.approx(record.bbox, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(footprints())
def test_footprints_are_cut_as_rfc_7946_wants(made: tuple[bytes, Any]) -> None:
    wkb, (minx, _, maxx, _) = made
    geometry, (west, south, east, north) = footprint_geojson(wkb)
    shape = shapely.geometry.shape(geometry)
    assert shape.is_valid
    (bare,) = within_180([wkb])
    assert shapely.equals(bare, shape)
    crossing = maxx > 180
    assert -180 <= shape.bounds[0] <= shape.bounds[2] <= 180
    assert shape.bounds[1::2] == (south, north)
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    parts = list(shapely.get_parts(shape))
    assert all(part.exterior.is_ccw for part in parts)
    assert shape.area == pytest.approx(shapely.from_wkb(wkb).area, rel=1e-6, abs=1e-9)
    if not crossing:
        assert (geometry["type"], [west, east]) == ("Polygon", [minx, maxx])
    elif maxx > 180 + 1e-9:
        assert geometry["type"] == "MultiPolygon"
        assert (west, east) == (minx, pytest.approx(maxx - 360))
        assert west > east
        assert {part.bounds[0] == -180 for part in parts} == {True, False}


# What an item says


def test_an_item() -> None:
    record = make_record()
    item = make_item(record, "red", "visual", "scl")
    check(item)
    assert item["properties"] == {
        "datetime": "2023-12-23T19:13:38.451000Z",
        "created": "2023-12-24T01:02:03Z",
        "updated": "2023-12-24T01:02:03Z",
        "platform": "sentinel-2b",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": 12.5,
        "grid:code": "MGRS-10TFR",
        "mgrs:utm_zone": 10,
        "mgrs:latitude_band": "T",
        "mgrs:grid_square": "FR",
        "proj:code": "EPSG:32610",
        "processing:level": "L2A",
        "processing:version": "05.10",
        "s2:processing_baseline": "05.10",
        "s2:mgrs_tile": "10TFR",
        "cogcat:status": "indexed",
        "cogcat:revision": 1,
        "cogcat:recorded_at": "2024-01-01T00:00:00Z",
        "cogcat:boa_offset": -1000,
        "cogcat:boa_evidence": "raster:offset=-0.1",
        "cogcat:item_sha256": "aa" * 32,
        "storage:schemes": {
            "earth-search-c1": {
                "type": "aws-s3",
                "platform": "https://{bucket}.s3.{region}.amazonaws.com",
                "bucket": "e84-earth-search-sentinel-data",
                "region": "us-west-2",
                "anonymous": True,
            },
            "repository": {
                "type": "aws-s3",
                "platform": "https://{bucket}.s3.{region}.amazonaws.com",
                "bucket": "my-bucket",
                "region": "eu-central-1",
                "anonymous": False,
            },
        },
    }
    assert item["assets"]["red"] == {
        "href": f"{BUCKET}a/red.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": "Red, 665 nm",
        "roles": ["data", "reflectance"],
        "bands": [{"name": "B04", "eo:common_name": "red", "eo:center_wavelength": 0.665}],
        "proj:shape": [10970, 10980],
        "proj:transform": [10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0],
        "data_type": "uint16",
        "nodata": 0,
        "gsd": 10.0,
        "raster:scale": 0.0001,
        "raster:offset": -0.1,
        "file:size": 1234,
        "file:checksum": "1220" + "cc" * 32,
        "storage:refs": ["earth-search-c1"],
    }
    assert item["assets"]["scl"]["roles"] == ["data"]
    assert "raster:scale" not in item["assets"]["scl"]
    assert item["assets"]["visual"]["roles"] == ["visual"]
    assert [band["name"] for band in item["assets"]["visual"]["bands"]] == ["B04", "B03", "B02"]
    assert item["assets"]["icechunk"] == {
        "href": "s3://my-bucket/s2",
        "type": "application/vnd.zarr+icechunk",
        "title": "All bands and resolutions, virtual Zarr in an Icechunk repository",
        "roles": ["data", "references", "virtual"],
        "version": "1CECHNKREP0F1RSTCMT0",
        "zarr:zarr_format": 3,
        "zarr:node_type": "group",
        "zarr:consolidated": False,
        "cogcat:branch": f"{C1}/10TFR",
        "cogcat:group": "/",
        "cogcat:time_index": 3,
        "bands": [{"name": "red"}, {"name": "visual"}, {"name": "scl"}],
        "vrt:hrefs": [
            {"key": band, "href": f"#/assets/{band}"} for band in ("red", "visual", "scl")
        ],
        "file:checksum": "1220" + "bb" * 32,
        "storage:refs": ["repository"],
    }
    api = f"https://stac.example.org/v1/collections/{C1}"
    assert [(link["rel"], link["href"]) for link in item["links"]] == [
        ("collection", api),
        ("derived_from", f"{api}/items/{record.id}"),
        ("store", "s3://my-bucket/s2"),
    ]


def test_a_withdrawn_scene_and_one_processed_again_are_deprecated() -> None:
    for item in (
        make_item(make_record(status="withdrawn"), "red"),
        make_item(make_record(), "red", superseded=True),
    ):
        check(item)
        assert item["properties"]["deprecated"] is True
        assert item["assets"]["icechunk"]["deprecated"] is True
        assert "deprecated" not in item["assets"]["red"]
    assert "deprecated" not in repr(make_item(make_record(), "red"))


def test_no_secret_is_in_an_item() -> None:
    """A source has none to begin with; records of before may."""
    match, endpoint = f"https://{urlsplit(BUCKET).netloc}/", "https://s3.example.org/"
    for secret in ({"match": match.replace("://", "://user:SECRET@")},
                   {"endpoint": f"{endpoint}?token=SECRET"}):  # fmt: skip
        with pytest.raises(ConfigError):
            Source(
                **{"name": "a", "match": match, "url": "s3://e84/", "endpoint": endpoint} | secret
            )
    sources = [Source("a", match, "s3://e84/", None, endpoint), *BUILT_IN_SOURCES]
    maker = ItemMaker(sources, {"endpoint": "https://key:SECRET@s3.example.org?token=SECRET"})
    record = make_record(repository="s3://key:SECRET@my-bucket/s2?X-Amz-Signature=SECRET")
    files = make_files("red")
    files["nir"] = replace(files["red"], band="nir", href="https://user:SECRET@host.org/a.tif?v=1")
    url = "https://user:SECRET@stac.example.org/v1/?key=SECRET"
    item = maker.item(DescribedScene(record, files, url, False))
    check(item)
    assert "SECRET" not in repr(item)
    assert item["assets"]["nir"]["href"] == "https://host.org/a.tif?v=1"
    assert item["assets"]["icechunk"]["href"] == "s3://my-bucket/s2"
    document = collection_document(CollectionExtent(C1, url, (), None, None))
    check(document)
    assert "SECRET" not in repr(document)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source("a", "https://b1.example.org/", "https://b1.example.org/"), None),
        (Source("a", "file:///data/", "file:///data/"), None),
        # Read from a mirror: what is said of its bucket does not hold for the href.
        (Source("a", "https://tiles.example.org/", "s3://mirror/", "eu-central-1"), None),
        (
            Source("a", "s3://bbb/", "s3://bbb/", None, "http://minio:9000"),
            {"type": "custom-s3", "platform": "http://minio:9000", "bucket": "bbb",
             "anonymous": True},
        ),
        (
            Source("a", "https://s3.amazonaws.com/bbb/", "s3://bbb/", requester_pays=True),
            {"type": "custom-s3", "platform": "https://s3.amazonaws.com", "bucket": "bbb",
             "requester_pays": True, "anonymous": False},
        ),
    ],
)  # fmt: skip
def test_how_files_are_reached(source: Source, expected: Item | None) -> None:
    file = replace(make_files("red")["red"], href=f"{source.match}red.tif")
    record = make_record(repository="/data/repo")
    item = ItemMaker([source], {}).item(DescribedScene(record, {"red": file}, None, False))
    check(item)
    assert item["properties"].get("storage:schemes") == (expected and {"a": expected})
    assert item["assets"]["red"].get("storage:refs") == (expected and ["a"])
    assert item["assets"]["icechunk"]["href"] == "file:///data/repo"
    assert "storage:refs" not in item["assets"]["icechunk"]


def test_a_source_may_have_the_name_of_the_repository() -> None:
    source = replace(BUILT_IN_SOURCES[0], name="repository")
    item = make_item(make_record(), "red", maker=ItemMaker([source], S3_OPTIONS))
    check(item)
    schemes = item["properties"]["storage:schemes"]
    (own,) = item["assets"]["icechunk"]["storage:refs"]
    (red,) = item["assets"]["red"]["storage:refs"]
    assert (schemes[own]["bucket"], schemes[red]["bucket"]) == (
        "my-bucket",
        "e84-earth-search-sentinel-data",
    )


# From the catalog


def test_to_items(crawled: Stack, cat: catalog.Catalog, statements: Statements) -> None:
    with statements(cat._engine) as seen:
        items = cat.search().to_items()
    assert len(seen) == 3
    with statements(cat._engine) as seen:
        assert cat.search(tile="31UFU").to_items() == []
    assert len(seen) == 1
    assert [item.id for item in items] == cat.search().ids()
    for item in items:
        assert isinstance(item, pystac.Item)
        item.validate(VALIDATOR)
        source = next(i for i in crawled.items if i["id"] == item.id)
        assert item.datetime == datetime.fromisoformat(source["properties"]["datetime"])
        for band, asset in item.assets.items():
            if band == ICECHUNK_ASSET:
                continue
            was = source["assets"][band]
            assert asset.href == crawled.href(source, band)
            assert asset.extra_fields["file:size"] == was["file:size"]
            assert asset.extra_fields["file:checksum"] == was["file:checksum"]
        assert item.assets.keys() - {ICECHUNK_ASSET} == cat.scene(item.id).assets.keys()
        assert (
            item.get_single_link("collection").href == f"{crawled.server.stac_url}/collections/{C1}"
        )


def test_odc_stac_needs_nothing_but_the_items(crawled: Stack, cat: catalog.Catalog) -> None:
    """Grid, types and nodata stand in the items. (odc-stac 0.5 looks for other names of a band in
    ``eo:bands`` only, which STAC 1.1 has no more.)"""
    found = cat.search(tile="10TFR", sort="datetime")
    bands = ["red", "nir", "scl"]
    files = {
        crawled.href(item, band): str(crawled.path(item, band))
        for item in crawled.items
        for band in item["assets"]
    }
    loaded = odc.stac.load(found.to_items(), bands=bands, groupby="id", patch_url=files.get)
    cube = cat.cube("10TFR", bands=["red", "nir"], resolution=10)
    assert loaded.odc.geobox == cube.odc.geobox
    assert loaded.nir.attrs["nodata"] == 0
    assert [loaded[band].dtype for band in bands] == ["uint16", "uint16", "uint8"]
    for band in ("red", "nir"):
        np.testing.assert_array_equal(cube[band].values, loaded[band].values)


def test_the_icechunk_asset_is_enough_to_open_the_scene(
    crawled: Stack, cat: catalog.Catalog
) -> None:
    scene = cat.search(tile="10TFR", sort="-datetime").to_items()[0]
    asset = scene.assets[ICECHUNK_ASSET]
    parts = urlsplit(asset.href)
    if parts.scheme == "file":
        storage = icechunk.local_filesystem_storage(url2pathname(parts.path))
    else:
        (name,) = asset.extra_fields["storage:refs"]
        scheme = scene.properties["storage:schemes"][name]
        assert scheme["type"] == "custom-s3"
        storage = icechunk.s3_storage(
            bucket=scheme["bucket"], prefix=parts.path.strip("/"), region=scheme["region"],
            endpoint_url=scheme["platform"], allow_http=True, force_path_style=True,
            from_env=not scheme["anonymous"],
        )  # fmt: skip
    config = icechunk.Repository.fetch_config(storage)
    assert config is not None
    assert config.virtual_chunk_containers is not None
    access = {
        container.url_prefix: icechunk.credentials.HttpAccess
        for container in config.virtual_chunk_containers.values()
        if container.url_prefix.startswith("http")
    }
    opened = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
    session = opened.readonly_session(snapshot_id=asset.extra_fields["version"])
    root = zarr.open_group(session.store, path=asset.extra_fields["cogcat:group"], mode="r")
    assert "r20m" in root
    pixels = xr.open_zarr(
        session.store, group="r20m", consolidated=False, mask_and_scale=False, chunks=None
    ).isel(time=asset.extra_fields["cogcat:time_index"])
    assert pixels["scene"].item() == scene.id
    ours = cat.scene(scene.id).open(resolution=20, bands=["scl"])["scl"]
    np.testing.assert_array_equal(pixels["scl"], ours)
    assert asset.extra_fields["cogcat:branch"] in opened.list_branches()


def test_items_come_in_batches(
    cat: catalog.Catalog, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_result, "ITEMS", 4)
    whole = [item.to_dict(include_self_link=False) for item in cat.search().to_items()]
    for question in ({}, {"bbox": (-130, 40, -110, 50)}, {"sort": "cloud_cover"}, {"limit": 5}):
        scenes = cat.search(**question)  # type: ignore[arg-type]
        with statements(cat._engine) as seen:
            found = list(scenes.items_as_dicts())
        assert [item["id"] for item in found] == scenes.ids()
        assert {item["id"]: item for item in found}.items() <= {i["id"]: i for i in whole}.items()
        # Two pages of three; a place asks first, and once more for each page, for its tiles.
        assert len(seen) == (9 if "bbox" in question else 6)
    with statements(cat._engine) as seen:
        next(cat.search().items_as_dicts())
    assert len(seen) == 3, "no batch is asked for before it is wanted"


def test_scenes_that_are_not_indexed(stack: Stack) -> None:
    bad, gone, *_ = sorted(stack.items, key=lambda item: item["id"])
    url = stack.href(bad, "scl")
    stack.server.misbehave(url, status=404)
    stack.crawl(bands=["scl"])
    stack.items.remove(gone)
    stack.crawl(bands=["scl"], sync=True)
    with stack.connect() as cat:
        items = {item.id: item for item in cat.search(status="any").to_items()}
    for item in items.values():
        item.validate(VALIDATOR)
    failed, withdrawn = items[bad["id"]], items[gone["id"]]
    assert failed.properties["cogcat:status"] == "failed"
    assert "file is missing" in failed.properties["cogcat:last_error"]
    assert failed.assets == {}
    assert withdrawn.properties["deprecated"] is True
    assert withdrawn.assets[ICECHUNK_ASSET].extra_fields["deprecated"] is True
    assert sum("deprecated" in item.properties for item in items.values()) == 1


def test_of_one_acquisition_processed_twice_the_older_is_deprecated(stack: Stack) -> None:
    twin = json.loads(json.dumps(stack.items[0]))
    twin["id"] = twin["id"].replace("_L2A", "_1_L2A")
    twin["properties"]["s2:processing_baseline"] = "09.99"
    stack.items.append(twin)
    stack.crawl(tiles=[twin["properties"]["grid:code"][-5:]], bands=["scl"])
    with stack.connect() as cat:
        items = {item.id: item for item in cat.search().to_items()}
        assert [id for id, item in items.items() if "deprecated" in item.properties] == [
            stack.items[0]["id"]
        ]
        assert not any("deprecated" in i.properties for i in cat.search(newest=True).to_items())


def test_an_earlier_state_is_deprecated_and_has_its_own_files(stack: Stack) -> None:
    item = stack.items[0]
    stack.crawl(ids=[item["id"]], bands=["scl", "red"])
    with stack.connect() as cat:
        (before,) = cat.search().records()
    item["properties"]["updated"] = "2030-01-01T00:00:00Z"
    for name in ("href", "file:size", "file:checksum"):
        item["assets"]["red"][name] = item["assets"]["nir"][name]
    stack.crawl(ids=[item["id"]], bands=["scl", "red"])
    with stack.connect() as cat:
        (after,) = cat.search().records()
        assert after.revision == before.revision + 1
        with read_transaction(cat._engine) as connection:
            past, now = item_rows.described_scenes(connection, [before, after])
    assert (past.superseded, now.superseded) == (True, False)
    assert past.files["red"].href != now.files["red"].href
    assert past.files["red"].last_modified is not None
    assert list(past.files) == list(now.files) == ["red", "scl"]


# Collections


def test_collections(crawled: Stack, cat: catalog.Catalog, statements: Statements) -> None:
    with statements(cat._engine) as seen:
        (document,) = cat.collections()
    assert len(seen) == 1
    check(document)
    collection = pystac.Collection.from_dict(document)
    assert collection.id == C1
    (bbox,) = collection.extent.spatial.bboxes
    boxes = [item["bbox"] for item in crawled.items]
    assert bbox == pytest.approx(
        [min(b[0] for b in boxes), min(b[1] for b in boxes),
         max(b[2] for b in boxes), max(b[3] for b in boxes)]
    )  # fmt: skip
    ((first, last),) = collection.extent.temporal.intervals
    times = sorted(scene.datetime for scene in cat.search())
    assert (first, last) == (times[0], times[-1])


@given(
    st.lists(st.tuples(st.integers(-36, 35), st.integers(1, 6)), min_size=1, max_size=6),
)
def test_the_narrowest_box_on_a_round_earth(spans: list[tuple[int, int]]) -> None:
    """Against trying every multiple of 5° as the western side."""
    boxes = [(5.0 * west, -10.0, 5.0 * (west + width), 20.0) for west, width in spans]
    west, south, east, north = enclosing_bbox(boxes)
    assert (south, north) == (-10, 20)
    assert -180 <= west <= 180
    assert -180 <= east <= 180

    def width_from(start: float) -> float:
        return max((a - start) % 360 + (c - a) for a, _, c, _ in boxes)

    best = min(width_from(start) for start in range(-180, 180, 5))
    if best >= 360:
        assert (west, east) == (-180, 180)
    else:
        assert (east - west) % 360 == best
        assert width_from(west) == best


def test_the_box_of_tiles_on_both_sides_of_the_antimeridian() -> None:
    assert enclosing_bbox([(179.0, 60, 181.5, 61), (-178.0, 60, -177, 62)]) == [179, 60, -177, 62]
    assert enclosing_bbox([(174.0, 60, 180.0, 61)]) == [174, 60, 180, 61]
    assert enclosing_bbox([]) == [-180, -90, 180, 90]


# Tables


def test_to_geopandas(cat: catalog.Catalog, statements: Statements) -> None:
    scenes = cat.search(tile="10TFR")
    with statements(cat._engine) as seen:
        frame = scenes.to_geopandas()
    assert len(seen) == 1
    assert isinstance(frame, geopandas.GeoDataFrame)
    assert frame.crs == "EPSG:4326"
    assert frame.geometry.name == "geometry"
    plain = scenes.to_pandas()
    assert list(frame.columns) == [*plain.columns, "geometry"]
    assert frame.drop(columns="geometry").equals(plain)
    for record in scenes.records():
        assert shapely.equals(frame.geometry[record.id], shapely.from_wkb(record.footprint))
    empty = cat.search(tile="31UFU").to_geopandas()
    assert (len(empty), list(empty.columns)) == (0, list(frame.columns))


def test_extras_that_are_not_installed(
    cat: catalog.Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "geopandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'cogcat\[geo\]'"):
        cat.search().to_geopandas()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'cogcat\[parquet\]'"):
        cat.search().to_geoparquet(tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())


def without_null(value: Any) -> Any:
    """As a reader of Parquet has to: a column is null where an item has it not."""
    if isinstance(value, Mapping):
        return {key: without_null(v) for key, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_null(member) for member in value]
    return value


def alike(item: Mapping[str, Any]) -> Item:
    """An item as any reader gives it: times as instants, no nulls, plain lists."""
    found: Item = without_null(json.loads(json.dumps(item)))
    properties = found["properties"]
    for name in ("datetime", "created", "updated"):
        if name in properties:
            properties[name] = datetime.fromisoformat(properties[name])
    schemes = {name: s for name, s in properties.get("storage:schemes", {}).items() if s}
    properties.pop("storage:schemes", None)
    if schemes:
        properties["storage:schemes"] = schemes
    found["assets"] = {key: asset for key, asset in found.get("assets", {}).items() if asset}
    return found


def read_stac_geoparquet(path: Path) -> list[Item]:
    table = pyarrow.parquet.read_table(path)
    return list(stac_geoparquet.arrow.stac_table_to_items(table))


def read_rustac(path: Path) -> list[Item]:
    return list(rustac.read_sync(str(path))["features"])


READERS = [read_stac_geoparquet, read_rustac]


@settings(
    max_examples=15, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.lists(scenes(), min_size=1, max_size=4))
def test_a_round_trip_loses_nothing(tmp_path: Path, held: list[DescribedScene]) -> None:
    path = tmp_path / "items.parquet"
    items = [MAKER.item(scene) for scene in held]
    assert write_items(path, [items], schemes=MAKER.scheme_names) == len(items)
    expected = [alike(item) for item in items]
    for read in READERS:
        assert [alike(item) for item in read(path)] == expected, read.__name__
    frame = geopandas.read_parquet(path)
    assert frame.crs == "OGC:CRS84"
    assert list(frame["id"]) == [item["id"] for item in items]
    for shape, item in zip(frame.geometry, items, strict=True):
        assert shapely.equals(shape, shapely.geometry.shape(item["geometry"]))


def test_the_schema_has_every_field_of_an_item() -> None:
    """Arrow leaves out what a schema has not, without a word."""
    schema = item_schema(MAKER.scheme_names)

    def check_fields(value: Any, kind: Any, where: str) -> None:
        if isinstance(value, Mapping):
            names = {kind.field(i).name for i in range(kind.num_fields)}
            assert value.keys() <= names, f"{where}: {value.keys() - names}"
            for key, member in value.items():
                check_fields(member, kind.field(key).type, f"{where}/{key}")
        elif isinstance(value, list):
            for member in value:
                check_fields(member, kind.value_type, where)

    for record in (make_record(status="withdrawn"), make_record()):
        item = make_item(record, *(band.name for band in BANDS), superseded=True)
        row = {**item, **item["properties"]}
        for name in ("properties", "geometry", "bbox"):
            row.pop(name)
        for name, value in row.items():
            assert name in schema.names, name
            check_fields(value, schema.field(name).type, name)


def test_to_geoparquet(
    crawled: Stack, cat: catalog.Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_result, "ITEMS", 2)
    monkeypatch.setattr("catalog.item_table.ROWS", 4)
    path = tmp_path / "items.parquet"
    assert cat.search().to_geoparquet(path) == SCENES
    expected = [alike(item) for item in cat.search().items_as_dicts()]
    for read in READERS:
        assert [alike(item) for item in read(path)] == expected
    for found, record in zip(read_items(path), cat.search().records(), strict=True):
        scene = scene_from_item(found)
        assert (scene.id, scene.boa_offset) == (record.id, record.boa_offset)
        assert len(scene.assets) == BANDS_OF_C1
    metadata = pyarrow.parquet.read_metadata(path)
    assert metadata.num_row_groups == 2
    kept = json.loads(metadata.metadata[b"stac-geoparquet"])
    assert kept == {"version": "1.0.0", "collections": {C1: cat.collections()[0]}}
    geo = json.loads(metadata.metadata[b"geo"])
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert cat.search(tile="31UFU").to_geoparquet(path) == 0
    assert pyarrow.parquet.read_table(path).num_rows == 0


def test_an_export_that_dies_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(b"before")

    def dying() -> Iterator[list[Item]]:
        yield [make_item(make_record(), "red")]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_items(path, dying())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match=r"nowhere.*No such file or directory"):
        write_items(tmp_path / "nowhere" / "a.parquet", [])


# The command


def test_search_formats_and_export(crawled: Stack, cat: catalog.Catalog, tmp_path: Path) -> None:
    expected = list(cat.search(tile="10TFR").items_as_dicts())
    done = crawled.cli("search", "--tile", "10TFR", "--format", "geojson")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"type": "FeatureCollection", "features": expected}
    file = tmp_path / "a.geojson"
    done = crawled.cli("search", "--tile", "10TFR", "--format", "geojson", "-o", file)
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads(file.read_text("utf-8"))["features"] == expected
    done = crawled.cli("search", "--tile", "10TFR", "--format", "geoparquet")
    assert done.exit_code == 0, done.output
    file = tmp_path / "a.parquet"
    file.write_bytes(done.stdout_bytes)
    assert [alike(item) for item in read_rustac(file)] == [alike(item) for item in expected]
    for words in (
        ("search", "--tile", "10TFR", "--format", "geoparquet", "-o", tmp_path / "b.parquet"),
        ("export", tmp_path / "b.parquet", "--tile", "10TFR"),
    ):
        (tmp_path / "b.parquet").unlink(missing_ok=True)
        done = crawled.cli(*words)
        assert (done.exit_code, done.stdout) == (0, ""), done.output
        found = read_stac_geoparquet(tmp_path / "b.parquet")
        assert [alike(item) for item in found] == [alike(item) for item in expected]
    done = crawled.cli("export", tmp_path / "c.parquet", "--datetime", "2023-05", "--json")
    assert json.loads(done.stdout) == {
        "file": str(tmp_path / "c.parquet"),
        "items": 2,
        "bytes": (tmp_path / "c.parquet").stat().st_size,
    }
    done = crawled.cli("search", "--format", "ids", "-o", tmp_path / "d")
    assert done.exit_code == 2
    assert "-o is for --format geojson or geoparquet" in done.stderr
    done = crawled.cli("search", "--format", "geojson", "--tile", "31UFU")
    assert json.loads(done.stdout)["features"] == []
