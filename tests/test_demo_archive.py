"""The look-alike archive: is it laid out, described and served like the real ones?"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac_client
import pytest
import rasterio
from rasterio.enums import Interleaving
from rasterio.warp import transform as warp
from shapely import Point
from shapely.geometry import shape

from catalog.bands import BY_NAME
from catalog.demo.archive import Archive, build_archive, load_archive, tile_origin
from catalog.demo.cogs import overview_levels, write_cog
from catalog.demo.faults import Fault
from catalog.demo.http_connection import Request
from catalog.demo.landscape import SwathEdge
from catalog.demo.server import ArchiveServer

C1, V1, PC = "earth-search-c1", "earth-search-v1", "planetary-computer"
SHARED_ITEMS = Path(__file__).parents[2] / "shared" / "data" / "items"
TRANSFORM = (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Two tiles on three dates in all dialects, the first date before offsets came."""
    return build_archive(
        tmp_path_factory.mktemp("archive"),
        tiles=("10TFR", "11TLL"),
        dates=("2021-06-16", "2023-08-10", "2023-12-23"),
        dialects=(C1, V1, PC),
        width=546,
        block=128,
    )


@pytest.fixture(scope="module")
def running(archive: Archive) -> Iterator[ArchiveServer]:
    with ArchiveServer(archive) as server:
        yield server


@pytest.fixture
def server(running: ArchiveServer) -> Iterator[ArchiveServer]:
    running.requests.reset()
    yield running
    running.faults.reset()


def levels(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """((rows, columns), (block rows, block columns)) of every level, full resolution first."""
    with rasterio.open(path) as dataset:
        found = [(dataset.shape, dataset.block_shapes[0])]
        count = len(dataset.overviews(1))
    for level in range(count):
        with rasterio.open(path, overview_level=level) as dataset:
            found.append((dataset.shape, dataset.block_shapes[0]))
    return found


def tile_table(path: Path) -> list[tuple[int, int]]:
    """(offset, length) of every tile of full resolution, (0, 0) where there is none."""
    with rasterio.open(path) as dataset:
        rows, columns = (
            -(-n // b) for n, b in zip(dataset.shape, dataset.block_shapes[0], strict=True)
        )
        tags = [
            [
                dataset.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1)
                for what in ("OFFSET", "SIZE")
            ]
            for y in range(rows)
            for x in range(columns)
        ]
    return [(int(offset or 0), int(size or 0)) for offset, size in tags]


def sample(kind: type = np.uint16, size: int = 600) -> np.ndarray:
    rng = np.random.default_rng(1)
    ramp = np.add.outer(np.arange(size), np.arange(size)) // 10 + 1
    return (ramp + rng.integers(0, 5, (size, size))).clip(1, 250).astype(kind)


# COGs


def test_overview_sizes_round_up_and_stop_near_128() -> None:
    assert overview_levels(1098) == (2, 4, 8)
    assert overview_levels(10980) == (2, 4, 8, 16, 32, 64)
    assert overview_levels(183) == (2,)


def test_tile_sizes_differ_between_full_resolution_and_overviews(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    array = sample(size=1098)
    write_cog(path, array, transform=TRANSFORM, epsg=32610, scale=0.0001, offset=-0.1)
    assert levels(path) == [
        ((1098, 1098), (256, 256)),
        ((549, 549), (128, 128)),
        ((275, 275), (128, 128)),
        ((138, 138), (128, 128)),
    ]
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), array)
        assert tuple(dataset.transform)[:6] == TRANSFORM
        assert dataset.crs.to_epsg() == 32610
        assert dataset.nodata == 0
        assert dataset.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    header = path.read_bytes()[:4096]
    assert header[:4] == b"II*\0"
    assert header[8:29] == b"GDAL_STRUCTURAL_METAD"
    assert b'<Item name="OFFSET" sample="0" role="offset">-0.1' in header
    assert b'<Item name="STATISTICS_MEAN" sample="0">' in header
    assert list(tmp_path.iterdir()) == [path]


def test_three_samples_are_pixel_interleaved(tmp_path: Path) -> None:
    path = tmp_path / "visual.tif"
    array = np.stack([sample(np.uint8) + n for n in range(3)])
    write_cog(path, array, transform=TRANSFORM, epsg=32610)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(), array)
        assert dataset.interleaving is Interleaving.pixel


def test_sparse_tiles_have_no_bytes(tmp_path: Path) -> None:
    array = sample()
    array[:300, :300] = 0
    write_cog(tmp_path / "s.tif", array, transform=TRANSFORM, epsg=32610, sparse_ok=True)
    write_cog(tmp_path / "f.tif", array, transform=TRANSFORM, epsg=32610)
    assert tile_table(tmp_path / "s.tif")[0] == (0, 0)
    assert all(tile_table(tmp_path / "s.tif")[1:])
    assert tile_table(tmp_path / "f.tif")[0] != (0, 0)
    with rasterio.open(tmp_path / "s.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), array)


def test_odd_layouts(tmp_path: Path) -> None:
    array = sample()

    def make(name: str, **options: Any) -> Path:
        write_cog(tmp_path / name, array, transform=TRANSFORM, epsg=32610, **options)
        with rasterio.open(tmp_path / name) as dataset:
            np.testing.assert_array_equal(dataset.read(1), array)
        return tmp_path / name

    assert make("big", bigtiff=True).read_bytes()[:4] == b"II+\0"
    assert levels(make("strips", tiled=False, overviews=()))[0][1][1] == 600
    with rasterio.open(make("raw", compress=None)) as dataset:
        assert dataset.compression is None
    assert levels(make("small", block=64, overview_block=64))[0][1] == (64, 64)
    # The table of 38² tiles, 4 + 2 bytes each, comes before the first of them.
    assert min(offset for offset, _ in tile_table(make("long", block=16))) > 8_192
    described = make("talkative", metadata={"REMARK": "x" * 40_000})
    assert min(offset for offset, _ in tile_table(described)) > 40_000


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> dict[str, str]:
        root = tmp_path / name
        build_archive(
            root, tiles=["10TFR"], dates=["2023-08-10"], width=300, block=64, seed=seed, workers=2
        )
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    first = digests("a", 0)
    assert digests("b", 0) == first
    assert set(digests("c", 1)) == set(first)
    assert digests("d", 1) != first


# Items


@pytest.mark.parametrize(
    ("tile", "origin"),
    [
        ("10TFR", (32610, 600000, 5100000)),
        ("13TDE", (32613, 399960, 4500000)),
        ("13SDC", (32613, 399960, 4300020)),
        ("32TPS", (32632, 600000, 5200020)),
        ("59VLE", (32659, 300000, 6500040)),
        ("35MNM", (32735, 499980, 9200020)),
    ],
)
def test_tile_origins_are_the_real_ones(tile: str, origin: tuple[int, int, int]) -> None:
    assert tile_origin(tile) == origin


def test_files_are_as_their_items_say(archive: Archive) -> None:
    for items in archive.items.values():
        for item in items:
            for key, asset in item["assets"].items():
                if key.endswith("-jp2"):
                    continue
                path = archive.path(asset["href"])
                if "file:size" in asset:
                    content = path.read_bytes()
                    assert asset["file:size"] == len(content)
                    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
                if "proj:shape" in asset:
                    with rasterio.open(path) as dataset:
                        assert list(dataset.shape) == asset["proj:shape"]
                        assert list(dataset.transform)[:6] == asset["proj:transform"]
                        assert dataset.crs.to_epsg() == item["properties"]["proj:epsg"]


def test_untrue_shapes_of_earth_search_v1(tmp_path: Path) -> None:
    archive = build_archive(
        tmp_path,
        tiles=["10TFR"],
        dates=["2023-08-10"],
        dialects=[V1],
        width=300,
        bands=["aot", "wvp"],
        true_shapes=False,
    )
    assets = archive.items[V1][0]["assets"]
    sizes = {}
    for band in ("aot", "wvp"):
        assert assets[band]["proj:shape"] == [150, 150]
        with rasterio.open(archive.path(assets[band]["href"])) as dataset:
            sizes[band] = dataset.width
    assert sizes == {"aot": 50, "wvp": 300}
    assert "red" not in assets


def test_overviews_lie_on_the_grid_of_20_m_bands(archive: Archive) -> None:
    assets = archive.items[C1][0]["assets"]
    fine = levels(archive.path(assets["red"]["href"]))
    coarse = levels(archive.path(assets["swir16"]["href"]))
    assert [shape for shape, _ in fine[1:]] == [shape for shape, _ in coarse]
    assert fine == [((546, 546), (128, 128)), ((273, 273), (64, 64)), ((137, 137), (64, 64))]


def test_tile_sizes_of_each_archive(archive: Archive) -> None:
    def blocks(dialect: str, key: str) -> list[int]:
        path = archive.path(archive.items[dialect][0]["assets"][key]["href"])
        return [block[0] for _, block in levels(path)][:2]

    assert blocks(C1, "swir16") == blocks(C1, "coastal") == [128, 64]
    assert blocks(V1, "red") == blocks(V1, "wvp") == [128, 64]
    assert blocks(V1, "swir16") == [64, 64]
    assert blocks(V1, "aot") == [32, 64]
    assert blocks(PC, "B04") == blocks(PC, "B11") == [64, 64]


def test_pixels_carry_the_offset_their_item_declares(archive: Archive) -> None:
    """The same ground on the same day, whatever the catalog did to it."""

    def red(dialect: str, index: int) -> np.ndarray:
        key = "B04" if dialect == PC else "red"
        with rasterio.open(archive.path(archive.items[dialect][index]["assets"][key]["href"])) as d:
            return d.read(1).astype(int)

    # Dates come first, then tiles: 0 is in 2021, 4 in December 2023.
    for index, offset_pc in ((0, 0), (4, 1000)):
        plain = red(V1, index)
        valid = plain > 1
        np.testing.assert_array_equal(red(C1, index)[valid] - 1000, plain[valid])
        np.testing.assert_array_equal(red(PC, index)[valid] - offset_pc, plain[valid])
    for item in archive.items[C1]:
        assert item["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
    old, new = archive.items[V1][0], archive.items[V1][4]
    assert old["properties"]["earthsearch:boa_offset_applied"] is False
    assert new["properties"]["earthsearch:boa_offset_applied"] is True
    assert old["assets"]["red"]["raster:bands"][0]["offset"] == 0
    assert new["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
    assert "earthsearch:boa_offset_applied" not in archive.items[C1][0]["properties"]
    assert archive.items[PC][0]["properties"]["s2:processing_baseline"] == "03.01"


def test_clouds_and_season(archive: Archive) -> None:
    covers = []
    for item in archive.items[C1]:
        with rasterio.open(archive.path(item["assets"]["scl"]["href"])) as dataset:
            scl = dataset.read(1)
        percent = 100 * np.isin(scl, (8, 9, 10)).sum() / (scl > 0).sum()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(percent, abs=1e-5)
        covers.append(percent)
    assert max(covers) > 30
    assert min(covers) < 10

    def ndvi(index: int) -> float:
        bands = []
        for key in ("red", "nir"):
            with rasterio.open(archive.path(archive.items[C1][index]["assets"][key]["href"])) as d:
                bands.append(d.read(1).astype(float) - 1000)
        red, nir = bands
        clear = red > -1000
        return float(np.median((nir - red)[clear] / (nir + red)[clear]))

    assert ndvi(0) > ndvi(4) + 0.1


def test_nodata_lies_outside_the_footprint(archive: Archive) -> None:
    partial = [
        item for item in archive.items[C1] if item["properties"]["s2:nodata_pixel_percentage"] > 0
    ]
    assert partial
    for item in partial:
        footprint = shape(item["geometry"])
        with rasterio.open(archive.path(item["assets"]["red"]["href"])) as dataset:
            array = dataset.read(1)
            rng = np.random.default_rng(0)
            for row, column in rng.integers(0, dataset.width, (200, 2)):
                x, y = dataset.xy(row, column)
                (lon,), (lat,) = warp(dataset.crs, "EPSG:4326", [x], [y])
                place = Point(lon, lat)
                if footprint.exterior.distance(place) > 0.0005:
                    assert footprint.contains(place) == (array[row, column] > 0)


def test_outline_of_a_swath_edge() -> None:
    assert SwathEdge(1.0, 0.0, 0.5).outline() == [(0, 0), (0, 1), (0.5, 1), (0.5, 0)]


# pystac wants to find the bucket in an href of AWS; the look-alike's are not there.
@pytest.mark.filterwarnings("ignore:Could not parse bucket:UserWarning")
@pytest.mark.parametrize("dialect", [C1, V1, PC])
def test_items_are_valid_for_pystac(archive: Archive, dialect: str) -> None:
    collection = pystac.Collection.from_dict(archive.collections[dialect])
    for document in archive.items[dialect]:
        item = pystac.Item.from_dict(document)
        again = item.to_dict(include_self_link=False, transform_hrefs=False)
        assert again["id"] == document["id"]
        assert again["collection"] == collection.id
        assert list(again["assets"]) == list(document["assets"])
        assert item.datetime is not None


@pytest.mark.parametrize(
    ("dialect", "real"),
    [
        (C1, "earth-search-c1/S2B_T13TDE_20240407T174209_L2A.json"),
        (V1, "earth-search-l2a/S2A_13TDE_20231008_0_L2A.json"),
        (
            PC,
            "planetary-computer/S2A_MSIL2A_20240721T173901_R098_T13SDC_20240722T014230.json",
        ),
    ],
)
def test_items_have_the_keys_of_real_ones(archive: Archive, dialect: str, real: str) -> None:
    path = SHARED_ITEMS / real
    if not path.exists():
        pytest.skip(f"no real item at {path}")
    document = json.loads(path.read_text())
    item = archive.items[dialect][-1]
    # Services of the real catalogs, which the look-alike does not run.
    served = {"tilejson", "rendered_preview"}
    assert set(item) == set(document)
    assert set(item["properties"]) == set(document["properties"])
    assert set(item["assets"]) == set(document["assets"]) - served
    for key, asset in item["assets"].items():
        expected = document["assets"][key]
        assert set(asset) == set(expected), key
        assert asset["roles"] == expected["roles"], key
        assert asset["type"] == expected["type"], key
        if "raster:bands" in expected and not key.startswith(("aot", "wvp")):
            assert asset["raster:bands"] == expected["raster:bands"], key


def test_saved_and_rebased(archive: Archive) -> None:
    loaded = load_archive(archive.directory)
    assert loaded == archive
    moved = archive.rebased("http://a.example", files_url="http://b.example/")
    item = moved.items[C1][0]
    assert item["links"][0]["href"].startswith("http://a.example/stac/v1/collections/")
    assert item["assets"]["red"]["href"].startswith("http://b.example/e84-earth-search-")


# Files over HTTP


Ask = Callable[..., tuple[int, http.client.HTTPMessage, bytes]]


@pytest.fixture
def ask(server: ArchiveServer) -> Iterator[Ask]:
    """Request on one kept-alive connection: (method, path, **headers) → status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def request(
        method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=named)
        response = connection.getresponse()
        return response.status, response.headers, response.read()

    yield request
    connection.close()


@pytest.fixture
def red(server: ArchiveServer) -> tuple[str, bytes]:
    """Path on the server and content of one COG."""
    href = server.archive.items[C1][0]["assets"]["red"]["href"]
    path = server.archive.path(href)
    return href.removeprefix(server.archive.base_url), path.read_bytes()


def test_whole_file(ask: Ask, red: tuple[str, bytes]) -> None:
    path, content = red
    status, headers, body = ask("GET", path)
    assert (status, body) == (200, content)
    assert headers["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Type"] == "image/tiff"
    status, headers, body = ask("HEAD", path)
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(content))
    assert ask("GET", path + "x")[0] == 404
    assert ask("GET", "/files/../archive.json")[0] == 404
    assert ask("GET", "/files/e84-earth-search-sentinel-data")[0] == 404
    assert ask("DELETE", path)[0] == 405


def test_ranges(ask: Ask, red: tuple[str, bytes]) -> None:
    path, content = red
    size = len(content)
    for header, part in {
        "bytes=0-99": slice(0, 100),
        "bytes=100-": slice(100, None),
        "bytes=-50": slice(-50, None),
        f"bytes=10-{size + 5}": slice(10, None),
        f"bytes=-{size + 5}": slice(None),
    }.items():
        status, headers, body = ask("GET", path, Range=header)
        assert (status, body) == (206, content[part]), header
        start, stop, _ = part.indices(size)
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert "ETag" in headers
        assert "Last-Modified" in headers
    for header in (f"bytes={size}-", "bytes=-0"):
        status, headers, _ = ask("GET", path, Range=header)
        assert status == 416
        assert headers["Content-Range"] == f"bytes */{size}"
    for header in ("bytes=5-1", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        assert ask("GET", path, Range=header)[0] == 200, header


def test_conditions(ask: Ask, red: tuple[str, bytes]) -> None:
    path, content = red
    _, headers, _ = ask("HEAD", path)
    etag, modified = headers["ETag"], headers["Last-Modified"]
    earlier = formatdate(datetime(2020, 1, 1).timestamp(), usegmt=True)  # noqa: DTZ001
    later = formatdate(datetime(2040, 1, 1).timestamp(), usegmt=True)  # noqa: DTZ001
    for expected, conditions in [
        (206, {"If-Match": etag}),
        (206, {"If-Match": f'"other", {etag}'}),
        (206, {"If-Match": "*"}),
        (412, {"If-Match": etag.strip('"')}),
        (412, {"If-Match": f"W/{etag}"}),
        (412, {"If-Match": '"other"'}),
        (206, {"If-Unmodified-Since": modified}),
        (206, {"If-Unmodified-Since": later}),
        (412, {"If-Unmodified-Since": earlier}),
        (206, {"If-Unmodified-Since": "never"}),
        (206, {"If-Match": etag, "If-Unmodified-Since": earlier}),
        (304, {"If-None-Match": etag}),
        (304, {"If-None-Match": f"W/{etag}"}),
        (206, {"If-None-Match": '"other"'}),
        (304, {"If-Modified-Since": modified}),
        (206, {"If-Modified-Since": earlier}),
        (206, {"If-Range": etag}),
        (206, {"If-Range": modified}),
        (200, {"If-Range": '"other"'}),
    ]:
        status, _, body = ask("GET", path, Range="bytes=0-9", **conditions)
        assert status == expected, conditions
        assert len(body) == {206: 10, 200: len(content)}.get(status, 0)


def test_a_rewritten_file_has_another_etag(tmp_path: Path) -> None:
    archive = Archive(tmp_path, "http://x.invalid", {}, {})
    archive.files.mkdir()
    with ArchiveServer(archive) as server:
        etags = []
        for content in (b"one", b"two", b"one"):
            (archive.files / "a").write_bytes(content)
            with urllib.request.urlopen(f"{server.files_url}a") as response:
                assert response.read() == content
                etags.append(response.headers["ETag"])
    assert etags[0] == etags[2] != etags[1]


def test_requests_are_counted(server: ArchiveServer, ask: Ask, red: tuple[str, bytes]) -> None:
    path, _ = red
    ask("GET", path, Range="bytes=0-9")
    ask("HEAD", path)
    ask("GET", "/stac/v1")
    served = list(server.requests)
    assert [(s.method, s.range, s.status, s.sent) for s in served[:2]] == [
        ("GET", "bytes=0-9", 206, 10),
        ("HEAD", None, 200, 0),
    ]
    assert [s.path for s in server.requests.below("/files/")] == [path, path]
    server.requests.reset()
    assert len(server.requests) == 0


def test_faults_of_one_file(server: ArchiveServer, ask: Ask, red: tuple[str, bytes]) -> None:
    path, content = red
    server.misbehave(server.url + path, status=503, times=2)
    assert [ask("GET", path)[0] for _ in range(3)] == [503, 503, 200]
    server.misbehave(path, body=b"not a TIFF")
    status, headers, body = ask("GET", path, Range="bytes=4-")
    assert (status, body) == (206, b"a TIFF")
    assert headers["ETag"] != f'"{hashlib.md5(content).hexdigest()}"'
    server.misbehave(path, truncate=5)
    with pytest.raises(http.client.IncompleteRead) as error:
        ask("GET", path, Range="bytes=0-99")
    assert error.value.partial == content[:5]
    server.faults.reset()

    def broken(request: Request) -> Fault | None:
        return Fault(status=500) if request.path == path else None

    server.faults.callback = broken
    assert ask("GET", path)[0] == 500
    assert ask("GET", "/stac/v1")[0] == 200


def test_malformed_requests_are_refused(server: ArchiveServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", "/stac/v1/search")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


# STAC


@pytest.fixture
def client(server: ArchiveServer) -> pystac_client.Client:
    return pystac_client.Client.open(server.stac_url)


def found(client: pystac_client.Client, **query: Any) -> list[str]:
    query = {"collections": ["sentinel-2-c1-l2a"], **query}
    return [item["id"] for item in client.search(**query).items_as_dicts()]


def test_landing_says_what_earth_search_says(client: pystac_client.Client) -> None:
    assert client.conforms_to("ITEM_SEARCH")
    assert client.conforms_to("QUERY")
    assert client.conforms_to("SORT")
    assert not client.conforms_to("FILTER")
    assert [c.id for c in client.get_collections()] == ["sentinel-2-c1-l2a", "sentinel-2-l2a"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pages_newest_first(client: pystac_client.Client, method: str) -> None:
    ids = found(client, method=method, limit=4)
    assert len(ids) == len(set(ids)) == 6
    search = client.search(collections=["sentinel-2-c1-l2a"], method=method, limit=4)
    dates = [i["properties"]["datetime"] for i in search.items_as_dicts()]
    assert dates == sorted(dates, reverse=True)
    assert search.matched() == 6
    assert [len(page["features"]) for page in search.pages_as_dicts()] == [4, 2]


def test_items_name_this_server(
    client: pystac_client.Client, server: ArchiveServer, archive: Archive
) -> None:
    item = next(client.search(collections=["sentinel-2-c1-l2a"]).items_as_dicts())
    href = item["assets"]["red"]["href"]
    assert href.startswith(server.files_url)
    with urllib.request.urlopen(href) as response:
        assert len(response.read()) == item["assets"]["red"]["file:size"]
    assert archive.base_url not in json.dumps(item)
    with urllib.request.urlopen(item["links"][0]["href"]) as response:
        assert json.load(response) == item


@pytest.mark.parametrize(
    ("datetime", "count"),
    [
        ("2023-08-10", 2),
        ("2023", 4),
        ("2023-12-23T19:11:53.327Z", 2),
        ("2023-08-11/2023-12-23", 2),
        ("../2023-01-01", 2),
        ("2023-01-01/..", 4),
        ("2021-06-16T00:00:00Z/2021-06-16T19:00:00Z", 0),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_datetime(client: pystac_client.Client, method: str, datetime: str, count: int) -> None:
    assert len(found(client, datetime=datetime, method=method)) == count


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_filters(client: pystac_client.Client, method: str) -> None:
    everything = found(client)
    west = [name for name in everything if "10TFR" in name]
    assert found(client, bbox=[-121.68, 46.01, -121.67, 46.02], method=method) == west
    assert found(client, bbox=[170, -90, -150, 90], method=method) == []
    point = {"type": "Point", "coordinates": [-121.68, 46.02]}
    assert found(client, intersects=point, method=method) == west
    assert found(client, ids=west[:1], method=method) == west[:1]
    for query, count in [
        ({"grid:code": {"eq": "MGRS-10TFR"}}, 3),
        ({"grid:code": {"in": ["MGRS-10TFR", "MGRS-11TLL"]}}, 6),
        ({"grid:code": {"startsWith": "MGRS-11"}}, 3),
        ({"grid:code": {"neq": "MGRS-10TFR"}}, 3),
        ({"grid:code": {"contains": "TLL"}}, 3),
        ({"eo:cloud_cover": {"lt": 101, "gte": 0}}, 6),
        ({"eo:cloud_cover": {"gt": 100}}, 0),
        ({"updated": {"gte": "2023-12-01T00:00:00Z"}}, 2),
        ({"updated": {"lt": "2023-12-01T01:00:00+01:00"}}, 4),
        ({"no:such": {"eq": 1}}, 0),
    ]:
        assert len(found(client, query=query, method=method)) == count, query


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_sort(client: pystac_client.Client, method: str) -> None:
    oldest = found(client, sortby="+properties.datetime", method=method, limit=4)
    assert oldest[0].startswith("S2")
    assert "20210616" in oldest[0]
    clear = client.search(
        collections=["sentinel-2-c1-l2a"],
        sortby=[{"field": "properties.eo:cloud_cover", "direction": "asc"}],
        limit=1,
        method=method,
    )
    covers = [item["properties"]["eo:cloud_cover"] for item in clear.items_as_dicts()]
    assert covers == sorted(covers)
    assert len(covers) == 6


def test_unknown_collections(client: pystac_client.Client, ask: Ask) -> None:
    assert found(client, collections=["sentinel-9"]) == []
    assert client.get_collection("sentinel-9") is None
    assert ask("GET", "/stac/v1/collections/sentinel-9/items")[0] == 404
    assert ask("GET", "/stac/v1/collections/sentinel-2-l2a/items/none")[0] == 404
    assert ask("GET", "/nothing")[0] == 404


def test_filter_is_ignored_without_a_word(ask: Ask) -> None:
    cql2 = {"op": "=", "args": [{"property": "grid:code"}, "MGRS-10TFR"]}
    body = {"filter": cql2, "filter-lang": "cql2-json", "limit": 100}
    status, _, answer = ask("POST", "/stac/v1/search", json.dumps(body).encode())
    assert status == 200
    assert json.loads(answer)["numberMatched"] == 12


@pytest.mark.parametrize(
    "query",
    [
        "datetime=2023-13-01T00:00:00Z",
        "datetime=2023-12",
        "datetime=../..",
        "datetime=2024-01-01T00:00:00Z/2023-01-01T00:00:00Z",
        "bbox=1,2,3",
        "bbox=a,b,c,d",
        "bbox=0,2,1,1",
        "limit=0",
        "limit=many",
        "query=[]",
        "query=%7B%22a%22:%7B%22like%22:1%7D%7D",
        "next=nonsense",
        "intersects=%7B%22type%22:%22Point%22%7D",
    ],
)
def test_malformed_searches(ask: Ask, query: str) -> None:
    status, _, body = ask("GET", f"/stac/v1/search?{query}")
    assert status == 400
    assert json.loads(body)["code"] == "BadRequest"


def test_items_of_a_collection(server: ArchiveServer, ask: Ask) -> None:
    path = "/stac/v1/collections/sentinel-2-l2a/items?limit=4"
    ids = []
    while path:
        page = json.loads(ask("GET", path)[2])
        ids += [item["id"] for item in page["features"]]
        following = [link["href"] for link in page["links"] if link["rel"] == "next"]
        path = following[0].removeprefix(server.url) if following else ""
    assert len(ids) == len(set(ids)) == 6
    assert "S2B_10TFR_20231223_0_L2A" in ids


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paging_faults(server: ArchiveServer, client: pystac_client.Client, method: str) -> None:
    proper = found(client, limit=2, method=method)
    server.faults.repeat_last_item = server.faults.no_number_matched = True
    ids = found(client, limit=2, method=method)
    assert list(dict.fromkeys(ids)) == proper
    assert len(ids) == len(proper) + 2
    page = next(client.search(collections=["sentinel-2-c1-l2a"]).pages_as_dicts())
    assert "numberMatched" not in page


def test_faults_of_the_api(server: ArchiveServer) -> None:
    server.misbehave("/stac/v1", body=b"<html>hello", content_type="text/html")
    with urllib.request.urlopen(server.stac_url) as response:
        assert response.headers["Content-Type"] == "text/html"
        assert response.read() == b"<html>hello"
    server.misbehave("/stac/v1", status=502)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(server.stac_url)
    assert error.value.code == 502
    error.value.close()


def test_changed_items_show_at_once(archive: Archive) -> None:
    copy = archive.rebased("http://elsewhere.invalid")
    with ArchiveServer(copy) as server:
        client = pystac_client.Client.open(server.stac_url)
        gone = copy.items[C1].pop()
        copy.items[C1][0]["properties"]["eo:cloud_cover"] = 77.5
        assert gone["id"] not in found(client)
        assert len(found(client, query={"eo:cloud_cover": {"eq": 77.5}})) == 1


def test_planetary_computer(server: ArchiveServer) -> None:
    client = pystac_client.Client.open(server.pc_stac_url)
    assert client.conforms_to("FILTER")
    search = client.search(
        collections=["sentinel-2-l2a"], query={"s2:mgrs_tile": {"eq": "11TLL"}}, limit=2
    )
    items = list(search.items_as_dicts())
    assert len(items) == 3
    for item in items:
        assert "updated" not in item["properties"]
        assert set(item["assets"]) >= {BY_NAME["red"].number, "visual", "SCL"}
        with urllib.request.urlopen(item["assets"]["B04"]["href"]) as response:
            assert response.read(4) == b"II*\0"
